// The Dockerfile and the manifests for Kubernetes, as far as they can be checked without an engine: a linter, the schemas,
// and what they say run on its own.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, test } from 'node:test';

import { BINARIES, ROOT } from './fixture.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const VENV = resolve(process.env.INTEROP_VENV ?? join(HERE, '.venv'), 'bin');
const MANIFESTS = ['farm.yaml', 'public.yaml'].map((name) => join(ROOT, 'examples/kubernetes', name));
const folder = mkdtempSync(join(tmpdir(), 'msrp-containers-'));
after(() => { rmSync(folder, { recursive: true, force: true }); });

function must(command, args, options = {}) {
  const done = spawnSync(command, args, { encoding: 'utf8', ...options });
  assert.ifError(done.error);
  assert.equal(done.status, 0, `${command} ${args.join(' ')}: ${done.stdout}${done.stderr}`);
  return done.stdout;
}

const text = must(join(VENV, 'python'), ['-c', `
import json, sys, yaml
print(json.dumps([document for name in sys.argv[1:] for document in yaml.safe_load_all(open(name))]))`, ...MANIFESTS]);
const resources = JSON.parse(text);
const find = (kind, name = 'msrp-relay') => resources.find((resource) => resource.kind === kind && resource.metadata.name === name);

test('the manifests keep to the schemas of Kubernetes', () => {
  must(join(VENV, 'kubernetes-validate'), ['--strict', ...MANIFESTS]);
});

test('what the manifests name is there', () => {
  const { spec } = find('StatefulSet');
  const labels = spec.template.metadata.labels;
  assert.ok(find('Service', spec.serviceName));
  for (const service of ['msrp-relay', 'msrp-relay-members']) assert.deepEqual(find('Service', service).spec.selector, labels);
  assert.deepEqual(find('PodDisruptionBudget').spec.selector.matchLabels, labels);
  assert.equal(find('Service').spec.ports[0].name, 'msrps', 'it makes the SRV records of RFC 4976 §8');
  assert.ok(!find('Service').spec.publishNotReadyAddresses, 'clients are not led to a member that drains');
  for (let member = 0; member < spec.replicas; member += 1) {
    const service = find('Service', `msrp-relay-${member}`).spec;
    assert.equal(service.selector['statefulset.kubernetes.io/pod-name'], `msrp-relay-${member}`);
    assert.ok(service.publishNotReadyAddresses, 'sessions that are there are still reached');
  }
  const seconds = /drain_timeout: (\d+)m/.exec(find('ConfigMap').data['relay.yaml'])[1] * 60;
  assert.ok(spec.template.spec.terminationGracePeriodSeconds > seconds, 'a member has the time to drain');
});

test('the configuration is one that the relay takes, under the name of the pod', () => {
  const secrets = join(folder, 'secrets');
  const paths = { config: join(folder, 'config'), etc: join(folder, 'etc'), secrets };
  for (const path of [paths.config, paths.etc, join(secrets, 'tls'), join(secrets, 'farm')]) mkdirSync(path, { recursive: true });
  must('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=farm',
    '-addext', 'subjectAltName=DNS:msrp.example.com,DNS:*.msrp.example.com', '-keyout', join(secrets, 'tls/tls.key'), '-out', join(secrets, 'tls/tls.crt')]);
  for (const [name, value] of Object.entries(find('Secret').stringData)) writeFileSync(join(secrets, 'farm', name), value);
  writeFileSync(join(paths.config, 'relay.yaml'), find('ConfigMap').data['relay.yaml'].replaceAll('/run/secrets', secrets));
  const [shell, flag, script] = find('StatefulSet').spec.template.spec.initContainers[0].command;
  const here = script.replaceAll(' /config/', ` ${paths.config}/`).replaceAll('/etc/msrp-relay/', `${paths.etc}/`).replaceAll('/usr/bin/', `${BINARIES}/`);
  const options = { encoding: 'utf8', env: { MEMBER: 'msrp-relay-1', PATH: process.env.PATH } };
  for (const name of ['nonce-secret', 'admin-token']) {
    assert.notEqual(spawnSync(shell, [flag, here], options).status, 0, `${name} as it is in the example`);
    writeFileSync(join(secrets, 'farm', name), '0123456789abcdef0123456789abcdef');
  }
  assert.match(must(shell, [flag, here], options), /relay\.yaml: ok/);
  assert.match(readFileSync(join(paths.etc, 'relay.yaml'), 'utf8'), /advertise: "msrp-relay-1\.msrp\.example\.com:2855"/);
});

test('hadolint finds nothing in the Dockerfile, and it does not end as root', () => {
  must(join(VENV, 'hadolint'), [join(ROOT, 'Dockerfile')]);
  const users = readFileSync(join(ROOT, 'Dockerfile'), 'utf8').match(/^USER .*$/gm);
  const { runAsUser, runAsNonRoot } = find('StatefulSet').spec.template.spec.securityContext;
  assert.equal(users.at(-1), `USER ${runAsUser}:${runAsUser}`);
  assert.ok(runAsNonRoot);
});

test('what .dockerignore leaves is enough to build from', () => {
  const context = join(folder, 'context');
  const lines = readFileSync(join(ROOT, '.dockerignore'), 'utf8').split('\n');
  for (const line of lines.filter((line) => line.startsWith('!'))) {
    const path = line.slice(1);
    assert.ok(existsSync(join(ROOT, path)), path);
    cpSync(join(ROOT, path), join(context, path), { recursive: true, filter: (from) => !/node_modules|\/target$|\/data$/.test(from) });
  }
  const { packages } = JSON.parse(must('cargo', ['metadata', '--locked', '--no-deps', '--format-version', '1'], { cwd: context }));
  const targets = packages.flatMap((package_) => package_.targets);
  for (const target of targets.filter(({ kind }) => kind.includes('bin') || kind.includes('lib'))) assert.ok(existsSync(target.src_path), target.src_path);
  // Files that the program contains, from outside of its own folder.
  assert.ok(existsSync(join(context, 'examples/browser-chat/index.html')));
});
