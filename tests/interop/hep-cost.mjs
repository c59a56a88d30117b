// What tracing costs the relay, against the same relay without: CPU per message and latency; CPU per connection that
// comes and goes. The variants take turns within each round, so that what else the machine does meets all of them.
//
//   INTEROP_BIN=target/release node tests/interop/hep-cost.mjs [MESSAGES [ROUNDS]]
//
// HEP_COST_ONLY   a regular expression: of the variants besides `off`; HEP_COST_TABLES: some of chat,even,login,connect
// Exit code 1: a bar is missed (HEP_COST_STRICT=1; else that is only printed).

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';

import { ROOT, freePorts, until } from './fixture.mjs';

/** Tables to be made: chat, even, login, connect. */
const TABLES = (process.env.HEP_COST_TABLES ?? 'chat,even,login,connect').split(',');
const MESSAGES = Number(process.argv[2] ?? 100_000);
const ROUNDS = Number(process.argv[3] ?? 7);
const CONNECTIONS = Math.ceil(MESSAGES / 10);
/** Messages a second where latency is compared: far from what two cores can do, or all wait for the processor. */
const RATE = 5000;
const TICKS = 100;
const BIN = resolve(process.env.INTEROP_BIN ?? join(ROOT, 'target/release'));
const folder = mkdtempSync(join(tmpdir(), 'hep-cost-'));
const cleanup = [() => rmSync(folder, { recursive: true, force: true })];

/** A collector that reads and forgets. */
const sink = createServer((socket) => socket.on('data', () => {}).on('error', () => {}));
sink.listen(0, '127.0.0.1');
await once(sink, 'listening');
const collector = `127.0.0.1:${sink.address().port}`;

/** Where nobody answers: a listener that has stopped, and whose backlog is full. */
async function blackHole() {
  const code = "const s = require('net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, () => console.log(s.address().port))";
  const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  const [port] = await once(createInterface({ input: child.stdout }), 'line');
  child.kill('SIGSTOP');
  cleanup.push(() => child.kill('SIGKILL'));
  const open = () => new Promise((done) => {
    const socket = connect(Number(port), '127.0.0.1', () => done(true)).on('error', () => {});
    cleanup.push(() => socket.destroy());
    setTimeout(() => done(false), 500);
  });
  await until(async () => !(await open()), 'a backlog that is full');
  return `127.0.0.1:${port}`;
}

const hole = await blackHole();
const [nobody] = await freePorts(1);
// A bar is a ratio to `off`: of CPU per message with as many as go through, and of the median latency.
const HEADS = 'protocols: { msrp: { messages: true } }';
const variants = [
  { name: 'off' },
  { name: 'off, again', bars: {} },
  { name: 'events', uri: `hep_tcp://${collector}`, bars: { cpu: 1.05 } },
  { name: 'events, collector refuses', uri: `hep_tcp://127.0.0.1:${nobody}`, bars: { cpu: 1.05 } },
  { name: 'events, collector is a black hole', uri: `hep_tcp://${hole}`, bars: { cpu: 1.05 } },
  { name: 'every head', uri: `hep_tcp://${collector}`, more: HEADS, bars: { p50: 1.2 } },
  { name: 'every head, collector refuses', uri: `hep_tcp://127.0.0.1:${nobody}`, more: HEADS, bars: {} },
];

const only = new RegExp(process.env.HEP_COST_ONLY ?? '');
variants.splice(0, variants.length, ...variants.filter(({ name }, i) => i === 0 || only.test(name)));

const ports = await freePorts(variants.length);
for (const [i, variant] of variants.entries()) {
  const file = join(folder, `${i}.yaml`);
  variant.port = ports[i];
  writeFileSync(file, `domain: localhost
listeners: [ { uri: 'msrp://127.0.0.1:${variant.port}' } ]
auth: { allow_auth_without_tls: true, users: { a: { password: a } } }
log: { level: warn }
${variant.uri ? `trace: { destinations: { c: { uri: '${variant.uri}', retry_cooldown: 1s } }, ${variant.more ?? ''} }` : ''}
`);
  variant.relay = spawn(join(BIN, 'msrp-relay'), ['run', '--config', file], { stdio: ['ignore', 'pipe', 'pipe'] });
  variant.log = '';
  for (const stream of [variant.relay.stdout, variant.relay.stderr]) stream.on('data', (data) => { variant.log += data; });
  cleanup.push(() => variant.relay.kill('SIGKILL'));
  await until(() => new Promise((done) => {
    const socket = connect(variant.port, '127.0.0.1', () => { socket.destroy(); done(true); }).on('error', () => done(false));
  }), `${variant.name}\n${variant.log}`);
  variant.figures = {};
}

/** Seconds of CPU that a process has used, user and system. */
const cpu = (pid) => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
};

async function measure(variant, { load, rate }, count) {
  const work = load === 'chat'
    ? ['send', '--window', '8', '--size', '300', '--messages', count, ...(rate ? ['--rate', rate] : [])]
    : [load, '--count', count];
  const child = spawn(join(BIN, 'msrp-load'), [
    ...work, '--sessions', '20', '--hold', '--relay', `msrp://localhost:${variant.port}`, '--connect', `127.0.0.1:${variant.port}`,
  ].map(String), { stdio: ['pipe', 'pipe', 'inherit'] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const line = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${variant.name}: the load has ended\n${variant.log}`);
    return value;
  };
  await line();
  const before = cpu(variant.relay.pid);
  child.stdin.write('\n');
  const result = JSON.parse(await line());
  // Whoever connects is done before the relay has seen all of them.
  let used = -1;
  await until(async () => {
    await new Promise((wake) => { setTimeout(wake, 200); });
    const last = used;
    used = cpu(variant.relay.pid) - before;
    return used === last;
  }, `${variant.name}: the end of its work`);
  child.stdin.end();
  await once(child, 'exit');
  return { cpu: used / result.count * 1e6, rate: result.count / result.seconds, p50: result.latency_p50_us, p99: result.latency_p99_us };
}

const sorted = (list) => [...list].sort((a, b) => a - b);
const middle = (list) => sorted(list)[Math.floor(list.length / 2)];
const show = (list, digits) => {
  const [low, mid, high] = [sorted(list)[0], middle(list), sorted(list).at(-1)].map((figure) => figure.toFixed(digits));
  return `${mid} (${low} to ${high})`;
};

let missed = 0;
async function table(load, count, unit, columns) {
  console.log(`\n| ${unit} | ${columns.map(({ title }) => title).join(' | ')} |\n|---|${'---|'.repeat(columns.length)}`);
  const measured = variants.map(() => []);
  // The first round is for the caches.
  for (let round = -1; round < ROUNDS; round += 1) {
    // Each begins once.
    for (let i = 0; i < variants.length; i += 1) {
      const at = (i + round + variants.length) % variants.length;
      const figures = await measure(variants[at], load, round < 0 ? Math.ceil(count / 10) : count);
      if (round >= 0) measured[at].push(figures);
    }
  }
  for (const [i, { name, bars = {} }] of variants.entries()) {
    const cells = columns.map(({ key, ratio, digits, bar: named }) => {
      const list = measured[i].map((figures, round) => (ratio ? figures[key] / measured[0][round][key] : figures[key]));
      const bar = bars[named];
      if (bar === undefined) return show(list, digits);
      if (middle(list) > bar) missed += 1;
      return `${show(list, digits)}; ${middle(list) <= bar ? 'within' : 'NOT within'} ${bar}`;
    });
    console.log(`| ${name} | ${cells.join(' | ')} |`);
  }
}

try {
  console.log(`20 pairs over TCP, messages of 300 bytes; ${ROUNDS} rounds: the middle one, and the range.`);
  const latency = (bar) => [
    { title: 'latency, median, µs', key: 'p50', digits: 0 }, { title: 'to off', key: 'p50', ratio: true, digits: 3, bar },
    { title: '99th percentile, µs', key: 'p99', digits: 0 },
  ];
  const costs = (bar) => [{ title: 'µs CPU each', key: 'cpu', digits: 2 }, { title: 'to off', key: 'cpu', ratio: true, digits: 3, bar }];
  const rate = { title: 'a second', key: 'rate', digits: 0 };
  if (TABLES.includes('chat')) await table({ load: 'chat' }, MESSAGES, `${MESSAGES} messages, 8 of each pair under way`, [...costs('cpu'), rate, ...latency('p50')]);
  if (TABLES.includes('even')) await table({ load: 'chat', rate: RATE }, RATE * 3, `${RATE} messages a second`, [...costs(), ...latency('p50')]);
  if (TABLES.includes('login')) await table({ load: 'login' }, CONNECTIONS, `${CONNECTIONS} connections that log in`, [...costs(), rate]);
  if (TABLES.includes('connect')) await table({ load: 'connect' }, CONNECTIONS, `${CONNECTIONS} connections that do nothing`, [...costs(), rate]);
  console.log('\nWhat the logs say at the end:\n');
  for (const { name, relay, uri } of variants) {
    if (!uri) continue;
    relay.kill('SIGTERM');
    await once(relay, 'exit');
  }
  for (const { name, log, uri } of variants) {
    if (!uri) continue;
    const [, sent, dropped] = /sent=(\d+) dropped=(\d+)/.exec(log) ?? [];
    const lost = /lost=(\d+)/.exec(log)?.[1] ?? 0;
    console.log(sent === undefined ? `* ${name}: nothing was dropped` : `* ${name}: ${sent} packets sent, ${dropped} dropped (${(dropped / (Number(sent) + Number(dropped)) * 100).toFixed(1)} %); ${lost} events lost before`);
  }
} finally {
  for (const end of cleanup.reverse()) end();
}
process.exit(missed > 0 && process.env.HEP_COST_STRICT === '1' ? 1 : 0);
