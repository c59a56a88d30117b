// What forwarding a SIP message costs: the edge, and HAProxy in TCP mode, which only copies bytes. Both in turn, in
// several rounds, so that both meet the same machine. Prints a table, and is no test: it fails only if messages get lost.
//
//   INTEROP_BIN=target/release node tests/interop/sip-bench.mjs [MESSAGES A ROUND] [ROUNDS]

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { ROOT, freePorts, until } from './fixture.mjs';

const CONNECTIONS = 20;
const BATCH = 10;
/** A whole number of batches for each connection. */
const MESSAGES = Math.ceil(Number(process.argv[2] ?? 100_000) / (CONNECTIONS * BATCH)) * CONNECTIONS * BATCH;
const ROUNDS = Number(process.argv[3] ?? 5);
const BIN = resolve(process.env.INTEROP_BIN ?? join(ROOT, 'target/release'));

const folder = mkdtempSync(join(tmpdir(), 'sip-bench-'));
const [edge, msrp, haproxy] = await freePorts(3);

// Counts what arrives: messages end with this body.
const MARK = 'end of it\n';
let arrived = 0;
let awaited = Infinity;
let wake = () => {};
const sink = createServer((socket) => {
  let rest = Buffer.alloc(0);
  socket.on('error', () => {});
  socket.on('data', (data) => {
    const all = rest.length ? Buffer.concat([rest, data]) : data;
    let from = 0;
    for (;;) {
      const at = all.indexOf(MARK, from);
      if (at < 0) break;
      arrived += 1;
      from = at + MARK.length;
    }
    if (arrived >= awaited) wake();
    rest = all.subarray(Math.max(from, all.length - MARK.length));
  });
});
sink.listen(0, '127.0.0.1');
await once(sink, 'listening');
const upstream = sink.address().port;

writeFileSync(join(folder, 'relay.yaml'), `domain: localhost
listeners: [ { uri: 'msrp://127.0.0.1:${msrp}' }, { uri: 'sip://127.0.0.1:${edge}' } ]
sip: { sip_upstream: [ { uri: 'sip://127.0.0.1:${upstream}' } ], probe_interval: 1h, max_msg_chunks: 100 }
limits: { session_buffer: 16MiB, async_max_postponed_chunks: 1000000 }
auth: { allow_auth_without_tls: true, users: { a: { password: a } } }
`);
writeFileSync(join(folder, 'haproxy.cfg'), `global
  nbthread 2
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen sip
  bind 127.0.0.1:${haproxy}
  server sink 127.0.0.1:${upstream}
`);

/** Seconds of CPU that a process has used: to the nanosecond where the kernel says so of each thread, else in ticks. */
const cpu = (pid) => {
  try {
    const threads = readdirSync(`/proc/${pid}/task`);
    return threads.reduce((sum, thread) => sum + Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]), 0) / 1e9;
  } catch {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
    return (Number(fields[11]) + Number(fields[12])) / 100;
  }
};

const accepts = (port) => until(() => new Promise((done) => {
  const socket = connect(port, '127.0.0.1', () => { socket.destroy(); done(true); });
  socket.on('error', () => done(false));
}), `port ${port}`);

const message = (connection, number) => `MESSAGE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bK${connection}x${number};rport\r\nMax-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=a${connection}\r\nTo: <sip:bob@example.com>\r\nCall-ID: ${connection}-${number}@192.0.2.1\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: ${MARK.length}\r\n\r\n${MARK}`;

/** Waits until so many have arrived in all. */
async function arrive(count) {
  if (arrived >= count) return;
  awaited = count;
  await new Promise((done) => { wake = done; });
  awaited = Infinity;
}

/** As fast as it goes: each connection writes bursts, up to so many on the way. */
async function bursts(sockets) {
  await Promise.all(sockets.map(async (socket, connection) => {
    for (let number = 0; number < MESSAGES / CONNECTIONS; number += BATCH) {
      let batch = '';
      for (let i = 0; i < BATCH; i += 1) batch += message(connection, number + i);
      if (!socket.write(batch)) await once(socket, 'drain');
      // What may be on the way at once, for both the same.
      if (number - arrived / CONNECTIONS > 200) await until(() => number - arrived / CONNECTIONS < 100, `messages, ${arrived}`);
    }
  }));
  await arrive(MESSAGES);
  return MESSAGES;
}

/** Each connection has one message on the way, as phones have: all of them write one, and wait until all have arrived. */
async function singles(sockets) {
  const count = MESSAGES / 5;
  for (let sent = 0; sent < count; sent += CONNECTIONS) {
    sockets.forEach((socket, connection) => socket.write(message(connection, sent)));
    await arrive(sent + CONNECTIONS);
  }
  return count;
}

async function measure(how, pid, port) {
  arrived = 0;
  const sockets = await Promise.all(Array.from({ length: CONNECTIONS }, async () => {
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    socket.setNoDelay(true);
    socket.resume();
    return socket;
  }));
  const before = cpu(pid);
  const start = performance.now();
  const count = await how(sockets);
  const seconds = (performance.now() - start) / 1000;
  const used = cpu(pid) - before;
  sockets.forEach((socket) => socket.destroy());
  return { rate: count / seconds, cost: used / count * 1e6 };
}

/** The middle one, and between which all are. */
const spread = (values, digits) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted[Math.floor((sorted.length - 1) / 2)];
  return `${middle.toFixed(digits).padStart(9)} (${sorted[0].toFixed(digits)} to ${sorted.at(-1).toFixed(digits)})`;
};

const programs = [
  ['msrp-relay, SIP edge', spawn(join(BIN, 'msrp-relay'), ['run', '--config', join(folder, 'relay.yaml')], { stdio: 'ignore' }), edge],
  ['HAProxy, TCP mode', spawn('haproxy', ['-db', '-f', join(folder, 'haproxy.cfg')], { stdio: 'ignore' }), haproxy],
];
try {
  for (const [, , port] of programs) await accepts(port);
  console.log(`${ROUNDS} rounds each of requests of ${message(0, 0).length} bytes over ${CONNECTIONS} connections, one way: the middle round (and the range)`);
  for (const [title, how] of [[`bursts of ${BATCH}`, bursts], ['one at a time', singles]]) {
    // One round that does not count: buffers, caches.
    for (const [, child, port] of programs) await measure(how, child.pid, port);
    const results = programs.map(() => []);
    for (let round = 0; round < ROUNDS; round += 1) {
      const order = [...programs.keys()];
      if (round % 2) order.reverse();
      for (const index of order) results[index].push(await measure(how, programs[index][1].pid, programs[index][2]));
    }
    console.log(title);
    for (const [index, [name]] of programs.entries()) {
      const [rates, costs] = ['rate', 'cost'].map((key) => results[index].map((result) => result[key]));
      console.log(`  ${name.padEnd(20)} ${spread(rates, 0)} messages/s ${spread(costs, 2)} µs CPU per message`);
    }
    const [own, other] = results;
    console.log(`  CPU per message, edge / HAProxy, by rounds: ${spread(own.map(({ cost }, round) => cost / other[round].cost), 2)}`);
  }
} finally {
  programs.forEach(([, child]) => child.kill());
  sink.close();
  rmSync(folder, { recursive: true, force: true });
}
process.exit(0);
