// The relay beside HAProxy, which passes the same bytes on without looking at them, and beside Kamailio's MSRP relay. All
// in one run, round by round, so that whatever else the machine does meets all of them; the figures are medians, and
// ratios of medians. `msrp-load` makes the load and measures.
//
//   cargo build --release -p relay && cargo build --release -p examples --bin msrp-load
//   tests/bench/compare [--rounds 5] [--only REGEX] [--scale 1] [--strict]
//
// --only    rows whose name matches
// --scale   of the load: 0.1 is a tenth
// --strict  exit code 1 where a bar is missed
//
// BENCH_BIN: the folder of the programs; default target/release. What it prints is Markdown; target/bench/compare.json has
// each round.

import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { cpus, tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

const HERE = dirname(fileURLToPath(import.meta.url));
const ROOT = resolve(HERE, '../..');
const BIN = resolve(process.env.BENCH_BIN ?? join(ROOT, 'target/release'));
const { values } = parseArgs({ options: {
  rounds: { type: 'string', default: '5' },
  only: { type: 'string', default: '' },
  scale: { type: 'string', default: '1' },
  strict: { type: 'boolean', default: false },
} });
const ROUNDS = Number(values.rounds);
const SCALE = Number(values.scale);
const execute = promisify(execFile);
const folder = mkdtempSync(join(tmpdir(), 'msrp-bench-'));
const ended = [() => rmSync(folder, { recursive: true, force: true })];
process.on('exit', () => ended.forEach((end) => end()));

const PORT = 23000;
const port = (n) => PORT + n;
const [PLAIN, TLS, WS, WSS, H_PLAIN, H_TLS, SINK_PLAIN, SINK_TLS, K_PLAIN, K_TLS] = Array.from({ length: 10 }, (_, i) => port(i));

/** Certificates by an authority of our own. */
async function certificates() {
  const openssl = (...args) => execute('openssl', args, { cwd: folder });
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  await openssl('req', '-x509', ...key, '-keyout', 'cakey.pem', '-out', 'ca.pem', '-days', '30', '-subj', '/CN=bench');
  await openssl('req', ...key, '-keyout', 'key.pem', '-out', 'request.pem', '-subj', '/CN=localhost');
  writeFileSync(join(folder, 'extensions'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n');
  await openssl('x509', '-req', '-in', 'request.pem', '-CA', 'ca.pem', '-CAkey', 'cakey.pem', '-CAcreateserial',
    '-days', '30', '-extfile', 'extensions', '-out', 'cert.pem');
  const both = readFileSync(join(folder, 'cert.pem'), 'utf8') + readFileSync(join(folder, 'key.pem'), 'utf8');
  writeFileSync(join(folder, 'both.pem'), both);
}

/** Starts a server in the background, and waits until the port answers. */
async function serve(awaited, command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], cwd: folder, detached: true });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { log = (log + data).slice(-4000); });
  const kill = () => { try { process.kill(-child.pid, 'SIGKILL'); } catch { /* it has ended */ } };
  ended.push(kill);
  for (let tries = 0; ; tries += 1) {
    if (child.exitCode !== null || tries > 200) throw new Error(`${command} does not answer:\n${log}`);
    const socket = connect(awaited, '127.0.0.1');
    const up = await new Promise((done) => { socket.on('connect', () => done(true)).on('error', () => done(false)); });
    socket.destroy();
    if (up) {
      const stop = async () => {
        kill();
        if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      };
      return { pid: child.pid, stop };
    }
    await new Promise((done) => setTimeout(done, 50));
  }
}

async function relay(threads) {
  const file = join(folder, 'relay.yaml');
  writeFileSync(file, `domain: localhost
listeners:
  - { uri: 'msrp://127.0.0.1:${PLAIN}', advertise: 'localhost:${PLAIN}' }
  - { uri: 'msrps://127.0.0.1:${TLS}', tls_domain: bench, advertise: 'localhost:${TLS}' }
  - { uri: 'ws://127.0.0.1:${WS}/msrp' }
  - { uri: 'wss://127.0.0.1:${WSS}/msrp', tls_domain: bench }
tls: { server_domains: { bench: { certificate: cert.pem, private_key: key.pem } } }
auth: { allow_auth_without_tls: true, users: { a: { password: a } } }
log: { level: error }
${threads ? `threads: ${threads}\n` : ''}`);
  return serve(PLAIN, join(BIN, 'msrp-relay'), ['run', '--config', file]);
}

async function haproxy() {
  const file = join(folder, 'haproxy.cfg');
  writeFileSync(file, `global
  nbthread 2
  maxconn 9900
  tune.ssl.default-dh-param 2048
defaults
  mode tcp
  timeout connect 5s
  timeout client 10m
  timeout server 10m
listen plain
  bind 127.0.0.1:${H_PLAIN}
  server sink 127.0.0.1:${SINK_PLAIN}
listen tls
  bind 127.0.0.1:${H_TLS} ssl crt ${join(folder, 'both.pem')}
  server sink 127.0.0.1:${SINK_TLS} ssl verify none
`);
  return serve(H_PLAIN, 'haproxy', ['-db', '-f', file]);
}

/** Where Debian has Kamailio's modules; undefined: it is not there. */
function kamailioModules() {
  const lib = '/usr/lib';
  return readdirSync(lib).map((name) => join(lib, name, 'kamailio/modules')).find((path) => existsSync(join(path, 'msrp.so')) && existsSync(join(path, 'tls.so')));
}

async function kamailio() {
  const MODULES = kamailioModules();
  if (!MODULES) return undefined;
  const given = { MODULES, FOLDER: folder, PLAIN: K_PLAIN, TLS: K_TLS };
  const text = readFileSync(join(HERE, 'kamailio.cfg'), 'utf8').replaceAll(/\b(MODULES|FOLDER|PLAIN|TLS)\b/g, (word) => given[word]);
  const file = join(folder, 'kamailio.cfg');
  writeFileSync(file, text);
  const runtime = join(folder, 'kamailio');
  mkdirSync(runtime, { recursive: true });
  return serve(K_PLAIN, 'kamailio', ['-DD', '-E', '-f', file, '-Y', runtime, '-P', join(runtime, 'pid'), '-m', '512', '-M', '32']);
}

/** One run of msrp-load. */
async function load(server, args) {
  const all = [...args, '--ca', join(folder, 'ca.pem'), '--json', '--pid', String(server.pid)];
  const { stdout } = await execute(join(BIN, 'msrp-load'), all, { maxBuffer: 1 << 24 });
  return JSON.parse(stdout);
}

const n = (count) => String(Math.max(20, Math.round(count * SCALE)));
const target = {
  ours: (tls) => ['--relay', tls ? `msrps://localhost:${TLS}` : `msrp://localhost:${PLAIN}`],
  haproxy: (tls) => tls
    ? ['--relay', `msrps://localhost:${H_TLS}`, '--listen', `127.0.0.1:${SINK_TLS}`, '--certificate', join(folder, 'cert.pem'), '--private-key', join(folder, 'key.pem')]
    : ['--relay', `msrp://localhost:${H_PLAIN}`, '--listen', `127.0.0.1:${SINK_PLAIN}`],
  kamailio: (tls) => ['--relay', tls ? `msrps://localhost:${K_TLS}` : `msrp://localhost:${K_PLAIN}`, '--send-uri', '--connect', `127.0.0.1:${tls ? K_TLS : K_PLAIN}`],
};
const one = ['--ends', 'one'];

/** Rows of messages: each with its load, for plain and TLS. `bars`: of CPU, and of the median latency. */
const rows = [];
function row(name, figure, args, { plain, tls, both = false, withKamailio = true, latency } = {}) {
  for (const [kind, bar] of [['plain', plain], ['TLS', tls]]) {
    const isTls = kind === 'TLS';
    const ends = both ? [] : one;
    const variants = {
      ours: ['send', ...target.ours(isTls), ...ends, ...args],
      haproxy: ['send', ...target.haproxy(isTls), ...args],
    };
    if (withKamailio) variants.kamailio = ['send', ...target.kamailio(isTls), ...ends, ...args];
    rows.push({ name: `${name}, ${kind}`, figure, bar, latency, variants });
  }
}
const CHAT = ['--size', '300', '--sessions', '20'];
row('chat, window 8', 'cpu_seconds_per_million', [...CHAT, '--window', '8', '--messages', n(200_000)], { plain: 2.0, tls: 1.7 });
row('chat, window 8, both ends clients', 'cpu_seconds_per_million', [...CHAT, '--window', '8', '--messages', n(200_000)], { plain: 2.5, tls: 2.5, both: true });
row('chat, window 1', 'cpu_seconds_per_million', [...CHAT, '--window', '1', '--messages', n(100_000)], { plain: 1.2, tls: 1.2, latency: 1.3 });
// 20 sessions want both cores, which they share with the load: then this is what a message takes where nobody waits.
row('chat, window 1, one session', 'cpu_seconds_per_million', ['--size', '300', '--sessions', '1', '--window', '1', '--messages', n(60_000)], { plain: undefined, tls: undefined, latency: 1.3 });
row('file, 2 KiB chunks', 'cpu_seconds_per_gigabyte', ['--size', '16MiB', '--chunk-size', '2KiB', '--window', '1', '--sessions', '4', '--messages', n(40)], { plain: 2.0, tls: 1.6 });
row('file, 64 KiB chunks', 'cpu_seconds_per_gigabyte', ['--size', '64MiB', '--chunk-size', '64KiB', '--window', '1', '--sessions', '4', '--messages', n(40)], { plain: 1.3, tls: 1.1, withKamailio: false });
row('file, one chunk of 8 MiB', 'cpu_seconds_per_gigabyte', ['--size', '8MiB', '--window', '1', '--sessions', '4', '--messages', n(320)], { plain: 1.1, tls: 1.0, withKamailio: false });
row('file, one chunk of 1 GiB', 'cpu_seconds_per_gigabyte', ['--size', '1GiB', '--window', '1', '--sessions', '1', '--messages', '2'], { plain: 1.1, tls: 1.0, withKamailio: false });
rows.push({
  name: 'AUTH, each on a new TLS connection', figure: 'cpu_seconds_per_million', bar: 0.7, base: 'kamailio',
  variants: {
    ours: ['login', ...target.ours(true), '--count', n(2000)],
    kamailio: ['login', ...target.kamailio(true), '--count', n(2000)],
  },
});
// Long enough for most of it to be with sessions that have talked before.
const SPREAD = ['--rate', '10000', '--messages', n(300_000)];
rows.push({
  name: 'chat at 10000/s: 9000 sessions against 20', figure: 'cpu_seconds_per_million', bar: 1.3, base: 'few',
  variants: {
    ours: ['send', ...target.ours(false), ...SPREAD, '--sessions', '9000'],
    few: ['send', ...target.ours(false), ...SPREAD, '--sessions', '20'],
    // What as many sockets cost the system, whoever has them.
    haproxy: ['send', ...target.haproxy(false), ...SPREAD, '--sessions', '9000'],
    haproxyFew: ['send', ...target.haproxy(false), ...SPREAD, '--sessions', '20'],
  },
});
rows.push({
  name: 'chat, window 8: two threads against one', figure: 'cpu_seconds_per_million', bar: 1.15, base: 'single',
  variants: {
    ours: ['send', ...target.ours(false), ...one, ...CHAT, '--messages', n(200_000)],
    single: ['send', ...target.ours(false), ...one, ...CHAT, '--messages', n(200_000)],
  },
});

const median = (values) => {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : undefined;
};
const show = (value, digits = 2) => (value === undefined ? '–' : value.toFixed(digits));

await certificates();
const servers = { ours: await relay(), haproxy: await haproxy(), kamailio: await kamailio() };
servers.few = servers.ours;
servers.haproxyFew = servers.haproxy;
if (!servers.kamailio) console.error('kamailio is not installed: left out');
const only = new RegExp(values.only);
let missed = 0;
const record = {};
console.log(`${ROUNDS} rounds on ${cpus().length} × ${cpus()[0].model}; CPU in seconds for a million messages or for a GB (10⁹ bytes).\n`);
console.log('| mode | relay | HAProxy | Kamailio | relay to HAProxy | bar | latency p50 and p99: relay, HAProxy (µs) |');
console.log('|---|---|---|---|---|---|---|');
for (const { name, figure, bar, base = 'haproxy', latency, variants } of rows.filter(({ name }) => only.test(name))) {
  const results = {};
  let single;
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [who, args] of Object.entries(variants)) {
      if (who === 'single') {
        // On the same ports: in turn.
        await servers.ours.stop();
        single = await relay(1);
      }
      const server = who === 'single' ? single : servers[who];
      if (!server) continue;
      // It has failed often enough to be known for it.
      if (results[who]?.filter(({ failed }) => failed).length > 1) continue;
      try {
        (results[who] ??= []).push(await load(server, args));
      } catch (error) {
        if (who !== 'kamailio') throw error;
        // It does fail, and then it is said. Some of its processes may live on, and serve nobody.
        (results[who] ??= []).push({ failed: error.stderr.trim().split('\n').pop() });
        await server.stop();
        servers.kamailio = await kamailio();
      }
      if (who === 'single') {
        await single.stop();
        servers.ours = servers.few = await relay();
      }
    }
  }
  record[name] = results;
  const of = (who, what) => median((results[who] ?? []).map((result) => result[what]));
  const ratio = of('ours', figure) / of(base, figure);
  const slower = of('ours', 'latency_p50_us') / of(base, 'latency_p50_us');
  const isMissed = (bar !== undefined && ratio > bar) || (latency !== undefined && slower > latency);
  missed += isMissed ? 1 : 0;
  const failed = results.kamailio?.find((result) => result.failed);
  const own = of('haproxy', figure) / of('haproxyFew', figure);
  const beside = base === 'haproxy' ? show(of('haproxy', figure)) : base === 'kamailio' ? '–' : `${show(of(base, figure))} (${base})${own ? `; its own ${show(own)}×` : ''}`;
  const figures = [show(of('ours', figure)), beside, failed ? 'fails' : show(of('kamailio', figure))];
  const bars = [bar && `≤ ${bar}`, latency && `latency ≤ ${latency}`].filter(Boolean).join('; ');
  const waited = (what) => `${show(of('ours', what), 0)}, ${show(of(base, what), 0)}`;
  const waits = latency === undefined ? '' : `${waited('latency_p50_us')}: ${show(slower)}×; ${waited('latency_p99_us')}`;
  console.log(`| ${name} | ${figures.join(' | ')} | ${isMissed ? '**' : ''}${show(ratio)}×${isMissed ? '**' : ''} | ${bars} | ${waits} |`);
  if (failed) console.error(`${name}: Kamailio: ${failed.failed}`);
}

const MEMORY = [
  ['plain', 2500, ['--relay', `msrp://localhost:${PLAIN}`]],
  ['TLS', 12_000, ['--relay', `msrps://localhost:${TLS}`]],
  ['WSS', 14_000, ['--relay', `msrps://localhost:${TLS}`, '--websocket', `wss://localhost:${WSS}/msrp`]],
].filter(([name]) => only.test(`idle session, ${name}`));
if (MEMORY.length) {
  console.log('\n| idle session, authenticated | bytes each | bar |\n|---|---|---|');
  for (const [name, bar, args] of MEMORY) {
    await servers.ours.stop();
    servers.ours = servers.few = await relay();
    const result = await load(servers.ours, ['idle', ...args, '--from', n(1000), '--sessions', n(6000)]);
    record[`idle session, ${name}`] = result;
    const isMissed = result.bytes_per_session > bar;
    missed += isMissed ? 1 : 0;
    console.log(`| ${name} | ${isMissed ? '**' : ''}${show(result.bytes_per_session, 0)}${isMissed ? '**' : ''} | ≤ ${bar} |`);
  }
}
const out = join(ROOT, 'target/bench');
mkdirSync(out, { recursive: true });
writeFileSync(join(out, 'compare.json'), JSON.stringify(record, undefined, 1));
console.log(`\n${missed === 0 ? 'all bars are met' : `${missed} bars are missed`}`);
process.exit(values.strict && missed ? 1 : 0);
