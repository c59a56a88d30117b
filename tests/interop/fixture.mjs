// The real daemon with its four kinds of listeners, certificates, users, and our example programs.

import { spawn, spawnSync } from 'node:child_process';
import { X509Certificate, createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = resolve(fileURLToPath(import.meta.url), '../../..');
/** Where the daemon and our example programs are. */
export const BINARIES = resolve(process.env.INTEROP_BIN ?? join(process.env.CARGO_TARGET_DIR ?? join(ROOT, 'target'), 'release'));
/** Where screenshots and logs go. */
export const ARTEFACTS = resolve(process.env.INTEROP_ARTEFACTS ?? join(ROOT, 'target/interop'));
export const USERS = { alice: 'alicepw', bob: 'bobpw' };
export const ORIGIN = 'https://chat.example.com';
/** How long anything may take that has to happen: far more than it does. */
export const PATIENCE = 60_000;

export async function freePorts(count) {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((done) => { server.close(done); })));
  return ports;
}

/** Waits until `check` gives something; `what`, a text or what gives one, is for the error. */
export async function until(check, what, patience = PATIENCE) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await check();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited in vain for ${typeof what === 'function' ? what() : what}`);
    await new Promise((wake) => { setTimeout(wake, 25); });
  }
}

const answers = (port) => new Promise((resolveWith) => {
  const socket = connect(port, '127.0.0.1');
  socket.on('connect', () => { socket.destroy(); resolveWith(true); });
  socket.on('error', () => resolveWith(false));
});

/** A program with its output collected. */
export class Program {
  stdout = '';
  stderr = '';

  constructor(name, args, options = {}) {
    this.name = name;
    this.child = spawn(resolve(BINARIES, name), args, { stdio: ['pipe', 'pipe', 'pipe'], ...options });
    this.child.stdout.on('data', (data) => { this.stdout += data; });
    this.child.stderr.on('data', (data) => { this.stderr += data; });
    this.exited = once(this.child, 'exit').then(([code, signal]) => {
      this.code = code ?? signal;
      return this.code;
    });
    this.exited.catch(() => { this.code = 'not started'; });
    this.child.on('error', (error) => { this.stderr += error; });
  }

  /** The first match in what it has printed. */
  async printed(pattern) {
    const found = await until(() => pattern.exec(this.stdout) ?? (this.code !== undefined && 'exited'), `${this.name}: ${pattern}\n${this.stderr}`);
    if (found !== 'exited') return found;
    throw new Error(`${this.name} ended (${this.code}) before ${pattern}\n${this.stdout}${this.stderr}`);
  }

  /** Ends it and waits for that. */
  async stop() {
    if (this.code === undefined) this.child.kill();
    await this.exited.catch(() => {});
  }
}

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' };

/** Serves examples/browser-chat, with the policy of its <meta> and what only a header can say. */
async function servePage() {
  const server = createHttpServer((request, response) => {
    const path = new URL(request.url, 'http://localhost').pathname;
    const name = path === '/' ? 'index.html' : path.slice(1);
    try {
      if (!/^[\w-]+\.\w+$/.test(name) || !TYPES[extname(name)]) throw new Error('no such file');
      const body = readFileSync(join(ROOT, 'examples/browser-chat', name));
      response.writeHead(200, {
        'Content-Type': `${TYPES[extname(name)]}; charset=utf-8`,
        'X-Content-Type-Options': 'nosniff',
        'Content-Security-Policy': "frame-ancestors 'none'",
      });
      response.end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

const configuration = ({ msrps, msrp, wss, ws, guarded }, extra, listeners) => `
domain: localhost
listeners:
  - { uri: 'msrps://127.0.0.1:${msrps}', tls_domain: local }
  - { uri: 'msrp://127.0.0.1:${msrp}' }
  - { uri: 'wss://127.0.0.1:${wss}/msrp', tls_domain: local }
  - { uri: 'ws://127.0.0.1:${ws}/msrp' }
  - { uri: 'ws://127.0.0.1:${guarded}/msrp', websocket: { allow_origins: ['${ORIGIN}'] } }
${listeners}tls:
  server_domains:
    local: { certificate: fallback.crt, private_key: fallback.key, verify_cert: false }
  client_domains:
    default: { ca_list: ca.pem }
auth:
  realm: localhost
  allow_auth_without_tls: true
  algorithms: [SHA-256, MD5]
  users:
${Object.entries(USERS).map(([name, password]) => `    ${name}: { password: ${password} }`).join('\n')}
log: { level: info }
${extra}`;

/** Starts all of it; `extra` are sections of the configuration, `listeners` more of those; `before(folder)` runs when the certificates are there. `stop` ends it; the relay's log stays in the artefacts if `failed`. */
export async function start({ extra = '', listeners = '', before = async () => {} } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'msrp-interop-'));
  const made = spawnSync('sh', [join(ROOT, 'examples/tls-domains.sh'), folder], { encoding: 'utf8' });
  if (made.status !== 0) throw new Error(`certificates: ${made.stderr}`);
  const [msrps, msrp, wss, ws, guarded] = await freePorts(5);
  const ports = { msrps, msrp, wss, ws, guarded };
  writeFileSync(join(folder, 'relay.yaml'), configuration(ports, extra, listeners));
  await before(folder);
  const relay = new Program(process.env.INTEROP_RELAY ?? 'msrp-relay', ['run', '--config', join(folder, 'relay.yaml')]);
  for (const [name, port] of Object.entries(ports)) {
    await until(async () => {
      if (relay.code !== undefined) throw new Error(`the relay has ended (${relay.code}):\n${relay.stderr}${relay.stdout}`);
      return answers(port);
    }, `the ${name} listener`);
  }
  const ca = join(folder, 'ca.pem');
  const key = new X509Certificate(readFileSync(join(folder, 'fallback.crt'))).publicKey;
  const site = await servePage();
  const programs = [];
  return {
    ports,
    folder,
    ca,
    relay,
    page: `http://localhost:${site.address().port}/`,
    /** The hash by which Chromium is told to trust our certificate. */
    spki: createHash('sha256').update(key.export({ type: 'spki', format: 'der' })).digest('base64'),
    /** One of our example programs, logged in over TLS. */
    example(name, user, ...args) {
      const program = new Program(name, [
        ...args, '--relay', `msrps://localhost:${msrps}`, '--user', user, '--password', USERS[user], '--ca', ca,
        '--connect', `127.0.0.1:${msrps}`,
      ]);
      programs.push(program);
      return program;
    },
    async stop() {
      await Promise.all(programs.map((program) => program.stop()));
      await relay.stop();
      writeFileSync(join(ARTEFACTS, 'relay.log'), relay.stderr + relay.stdout, { flag: 'a' });
      site.closeAllConnections();
      await new Promise((done) => { site.close(done); });
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
