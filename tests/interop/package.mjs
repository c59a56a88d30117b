// The Debian package on this machine. Called by `package`, with a folder of packages in PACKAGES: `first/*.deb`, `second/*.deb` made of
// the same, and `next.deb` of a higher version. There is no systemd here: the daemon is started as the unit says.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';

import { Program, ROOT, until } from './fixture.mjs';

const folder = process.env.PACKAGES;
const CONFIG = '/etc/msrp-relay/relay.yaml';
const UNIT = '/usr/lib/systemd/system/msrp-relay.service';
const package_ = (name) => join(folder, name, readdirSync(join(folder, name)).find((file) => file.endsWith('.deb')));

/** Runs a command to its end. */
function run(command, args = [], options = {}) {
  const done = spawnSync(command, args, { encoding: 'utf8', env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }, ...options });
  if (done.error) throw done.error;
  return { code: done.status, said: done.stdout + done.stderr };
}

/** Runs a command that must succeed, and gives what it says. */
function must(command, args, options) {
  const { code, said } = run(command, args, options);
  assert.equal(code, 0, `${command} ${args?.join(' ')}: ${said}`);
  return said;
}

const hadUser = run('getent', ['passwd', 'msrp-relay']).code === 0;
const asRelay = (...args) => ['-u', 'msrp-relay', '--', ...args];
const programs = [];
let daemon;
let told;

after(async () => {
  await Promise.all([...programs, daemon, told].map((program) => program?.stop()));
  if (successor && !ended(successor)) process.kill(successor, 'SIGKILL');
  run('dpkg', ['--purge', 'msrp-relay']);
  rmSync('/etc/msrp-relay', { recursive: true, force: true });
  rmSync('/run/msrp-relay', { recursive: true, force: true });
  if (!hadUser) run('deluser', ['--quiet', '--system', 'msrp-relay']);
});

const setting = (name) => {
  const found = readFileSync(UNIT, 'utf8').split('\n').filter((line) => line.startsWith(`${name}=`));
  return found.at(-1)?.slice(name.length + 1);
};

/** Starts the daemon as the unit does, as far as that goes without systemd. */
async function start() {
  const run_ = '/run/msrp-relay';
  mkdirSync(run_, { recursive: true });
  must('chown', ['msrp-relay:msrp-relay', run_]);
  const notify = join(folder, 'notify');
  rmSync(notify, { force: true });
  told = new Program('/usr/bin/python3', ['-uc', `import os, socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(${JSON.stringify(notify)})
os.chmod(${JSON.stringify(notify)}, 0o666)
print("listening")
while True: print(s.recv(4096).decode())`]);
  await told.printed(/listening/);
  daemon = new Program('/usr/bin/setpriv', [
    '--reuid', setting('User'), '--regid', setting('Group'), '--init-groups', '--no-new-privs',
    '--bounding-set', '-all,+net_bind_service', '--inh-caps', '-all,+net_bind_service', '--ambient-caps', '-all,+net_bind_service',
    ...setting('ExecStart').split(' '),
  ], { cwd: setting('WorkingDirectory'), env: { NOTIFY_SOCKET: notify, WATCHDOG_USEC: '30000000', PATH: '/usr/bin:/bin' } });
  await until(() => {
    if (daemon.code !== undefined) throw new Error(`the daemon has ended (${daemon.code}):\n${daemon.stderr}`);
    return / ready /.test(daemon.stderr);
  }, () => `the daemon to be ready:\n${daemon.stderr}`);
}

/** A client that has logged in, and its path. */
async function client(user, ...args) {
  const chat = new Program('chat', [
    '--relay', 'msrps://relay.example.com:2855', '--connect', '127.0.0.1:2855', '--ca', join(folder, 'ca.pem'),
    '--user', user, '--password', `${user}pw`, ...args,
  ]);
  programs.push(chat);
  return { chat, path: (await chat.printed(/^a=path:.*$/m))[0] };
}

async function say(from, to, text) {
  from.chat.child.stdin.write(`${text}\n`);
  await to.chat.printed(new RegExp(`${text}`));
  await from.chat.printed(new RegExp(`-- delivered: ${text}`));
}

test('the same sources make the same package', () => {
  const [first, second] = ['first', 'second'].map((name) => createHash('sha256').update(readFileSync(package_(name))).digest('hex'));
  assert.equal(first, second);
});

test('lintian finds nothing wrong', () => {
  must('lintian', ['--allow-root', '--fail-on', 'error,warning', package_('first')]);
});

test('it installs by apt, and nothing is started or enabled', () => {
  must('apt-get', ['install', '-q', '-y', '--no-install-recommends', package_('first')]);
  const user = must('getent', ['passwd', 'msrp-relay']).trim().split(':');
  assert.match(user[6], /nologin$/);
  const mode = (path) => (statSync(path).mode & 0o7777).toString(8);
  assert.deepEqual(['/etc/msrp-relay', CONFIG, '/var/lib/msrp-relay', '/var/log/msrp-relay'].map(mode), ['750', '644', '750', '750']);
  assert.equal(must('stat', ['-c', '%U:%G', '/etc/msrp-relay', '/var/lib/msrp-relay']), 'root:msrp-relay\nmsrp-relay:msrp-relay\n');
  assert.equal(run('systemctl', ['is-enabled', 'msrp-relay']).said.trim(), 'disabled');
  assert.equal(run('pgrep', ['-u', 'msrp-relay']).code, 1, 'nothing runs');
});

test('every command has its manual page, and the shells what completes them', () => {
  must('bash', ['-c', '. /usr/share/bash-completion/completions/msrp-relay && complete -p msrp-relay']);
  const pages = readdirSync('/usr/share/man/man1').filter((name) => name.startsWith('msrp-relay'));
  assert.ok(pages.length > 30, `${pages.length} pages`);
  const lines = must('man', ['--warnings', '--encoding=utf8', '--local-file', '/usr/share/man/man1/msrp-relay-run.1.gz']);
  assert.match(lines, /--config/);
  for (const file of ['zsh/vendor-completions/_msrp-relay', 'fish/vendor_completions.d/msrp-relay.fish']) {
    assert.match(readFileSync(`/usr/share/${file}`, 'utf8'), /msrp-relay/);
  }
});

test('what it contains is written down, with the licences', () => {
  const bill = JSON.parse(readFileSync('/usr/share/doc/msrp-relay/msrp-relay.cdx.json', 'utf8'));
  const names = bill.components.map((component) => component.name);
  for (const name of ['rustls', 'tokio', 'libsqlite3-sys', 'msrp-proto']) assert.ok(names.includes(name), name);
  assert.ok(!names.includes('tokio-tungstenite'), 'what only tests need is not in it');
  assert.match(must('zcat', ['/usr/share/doc/msrp-relay/third-party-licences.gz']), /Permission is hereby granted/);
});

test('systemd takes the unit, and it is closed in', () => {
  assert.equal(must('systemd-analyze', ['verify', '--man=no', UNIT]), '');
  // 10 is the worst; in tenths here.
  must('systemd-analyze', ['security', '--offline=yes', '--threshold=20', UNIT]);
  const seconds = (text) => Number(/(\d+)s/.exec(text)[1]);
  const settings = readFileSync(join(ROOT, 'examples/relay.yaml'), 'utf8');
  const needed = seconds(/drain_timeout: \d+s/.exec(settings)[0]) + seconds(/flush_timeout: \d+s/.exec(settings)[0]);
  assert.ok(seconds(setting('TimeoutStopSec')) > needed, 'the relay has the time to stop in order');
});

test('as installed it does not start, and says what it lacks', () => {
  const { code, said } = run('runuser', asRelay('msrp-relay', 'check', '--config', CONFIG));
  assert.equal(code, 1);
  assert.match(said, /relay\.crt/);
});

/** The second block of commands in docs/packages.md: what to do after the installation. */
const steps = readFileSync(join(ROOT, 'docs/packages.md'), 'utf8').match(/```sh\n[^`]*```/g)[1]
  .split('\n').slice(1, -1).map((line) => line.replace(/^sudo /, ''));

test('its configuration and docs/packages.md have the same steps', () => {
  const text = readFileSync(CONFIG, 'utf8');
  for (const step of steps.slice(1)) assert.ok(text.includes(`${step}\n`), step);
});

test('with these steps it starts as the unit says', async () => {
  const openssl = (...args) => must('openssl', args);
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  const [ca, caKey] = [join(folder, 'ca.pem'), join(folder, 'ca.key')];
  openssl('req', '-x509', ...key, '-subj', '/CN=Test CA', '-addext', 'keyUsage=critical,keyCertSign,cRLSign', '-keyout', caKey, '-out', ca);
  openssl('req', '-x509', ...key, '-subj', '/CN=relay.example.com', '-addext', 'subjectAltName=DNS:relay.example.com',
    '-addext', 'basicConstraints=critical,CA:FALSE', '-CA', ca, '-CAkey', caKey, '-keyout', join(folder, 'privkey.pem'), '-out', join(folder, 'fullchain.pem'));
  for (const step of steps) {
    if (step.startsWith('systemctl ')) continue;
    // Only who asks for a password reads one.
    must('sh', ['-c', step], { cwd: folder, ...(step.includes('user add') && { input: 'alicepw\n' }) });
  }
  must('runuser', asRelay('msrp-relay', 'user', 'add', 'bob', '--config', CONFIG), { input: 'bobpw\n' });
  // What the file has as a comment: records, to see them rotated.
  const text = readFileSync(CONFIG, 'utf8');
  const commented = /^# (records:)\n# ( {2}sinks:)\n# ( {4}file: .*)$/m;
  assert.match(text, commented);
  writeFileSync(CONFIG, text.replace(commented, '$1\n$2\n$3'));
  assert.match(must('runuser', asRelay('msrp-relay', 'check', '--config', CONFIG)), /relay\.yaml: ok/);

  await start();
  const status = readFileSync(`/proc/${daemon.child.pid}/status`, 'utf8');
  assert.match(status, /^CapBnd:\s+0000000000000400$/m, 'CAP_NET_BIND_SERVICE alone');
  // `ctl` finds it without being told where.
  assert.match(must('msrp-relay', ['ctl', 'status']), /msrps:\/\/0\.0\.0\.0:2855/);
});

test('it tells systemd that it is ready, and that it is alive', async () => {
  assert.equal(setting('Type'), 'notify');
  await told.printed(/READY=1/);
  await told.printed(/WATCHDOG=1/);
});

let alice;
let bob;

test('two users chat through it over TLS', async () => {
  bob = await client('bob');
  alice = await client('alice', '--peer', bob.path);
  await say(alice, bob, 'hello');
  await say(bob, alice, 'good-evening');
});

test('AUTH is taken over TLS alone', () => {
  const config = must('msrp-relay', ['ctl', 'config']);
  assert.match(config, /\bmsrps:\/\//);
  assert.doesNotMatch(config, /\b(msrp|ws):\/\/|allow_auth_without_tls|behind_tls/);
});

test('logrotate rotates what it writes, and it writes on', async () => {
  const carol = await client('alice');
  await carol.chat.stop();
  const file = '/var/log/msrp-relay/sessions.jsonl';
  const lines = (path) => (existsSync(path) ? readFileSync(path, 'utf8').trim().split('\n').filter(Boolean).length : 0);
  await until(() => lines(file) === 1, 'a record');
  must('logrotate', ['--force', '--state', join(folder, 'logrotate.state'), '/etc/logrotate.d/msrp-relay']);
  assert.equal(lines(`${file}.1`), 1);
  const dave = await client('bob');
  await dave.chat.stop();
  await until(() => lines(file) === 1, 'a record in the new file');
  assert.equal(lines(`${file}.1`), 1);
});

const ended = (pid) => !existsSync(`/proc/${pid}`);
let successor;

test('an upgrade keeps the configuration, and the relay that runs', async () => {
  const before = readFileSync(CONFIG, 'utf8');
  must('dpkg', ['--force-confdef', '--force-confold', '-i', join(folder, 'next.deb')]);
  assert.equal(readFileSync(CONFIG, 'utf8'), before, 'what the administrator has changed stays');
  assert.match(must('dpkg-query', ['-W', 'msrp-relay']), /\+next$/m);
  assert.equal(daemon.code, undefined);
  await say(alice, bob, 'still-here');
});

test('the new program takes over, and sessions of the old one go on', async () => {
  const waiting = await client('bob');
  // What postinst does where systemd runs.
  const postinst = readFileSync('/var/lib/dpkg/info/msrp-relay.postinst', 'utf8');
  assert.match(postinst, /msrp-relay ctl --config \/etc\/msrp-relay\/relay.yaml upgrade/);
  must('msrp-relay', ['ctl', '--config', CONFIG, 'upgrade']);
  const pids = () => [...told.stdout.matchAll(/^MAINPID=(\d+)$/gm)].map((found) => Number(found[1]));
  await until(() => pids().at(-1) !== daemon.child.pid, 'systemd to be told of the new process');
  successor = pids().at(-1);
  assert.equal(must('readlink', [`/proc/${successor}/exe`]).trim(), '/usr/bin/msrp-relay', 'the program as installed now');
  assert.match(must('readlink', [`/proc/${daemon.child.pid}/exe`]), /deleted/);
  await say(alice, bob, 'over-the-old-one');
  // One of the new process talks to one of the old.
  const later = await client('alice', '--peer', waiting.path);
  await say(later, waiting, 'from-the-new-one');
  await Promise.all([later, waiting].map(({ chat }) => chat.stop()));
});

test('it stops in order, the old program when its sessions have ended', async () => {
  await Promise.all([alice, bob].map(({ chat }) => chat.stop()));
  await daemon.exited;
  assert.equal(daemon.code, 0, daemon.stderr);
  process.kill(successor, 'SIGTERM');
  await told.printed(/STOPPING=1/);
  await until(() => ended(successor), 'the relay to end');
});

test('removed, it leaves what is configured; purged, only what others have put there', () => {
  must('dpkg', ['--remove', 'msrp-relay']);
  assert.ok(!existsSync('/usr/bin/msrp-relay') && !existsSync(UNIT));
  assert.ok(existsSync(CONFIG) && existsSync('/var/lib/msrp-relay/users.db'));
  must('dpkg', ['--purge', 'msrp-relay']);
  assert.deepEqual(readdirSync('/etc/msrp-relay').sort(), ['relay.crt', 'relay.key']);
  for (const path of ['/var/lib/msrp-relay', '/var/log/msrp-relay', '/etc/logrotate.d/msrp-relay', '/etc/fail2ban/filter.d/msrp-relay.conf']) {
    assert.ok(!existsSync(path), path);
  }
});
