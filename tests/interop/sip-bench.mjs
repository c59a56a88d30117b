// What forwarding a SIP message costs: the edge, and HAProxy in TCP mode, which only copies bytes. Prints a table.
//
//   INTEROP_BIN=target/release node tests/interop/sip-bench.mjs [MESSAGES]

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { ROOT, freePorts, until } from './fixture.mjs';

const MESSAGES = Number(process.argv[2] ?? 200_000);
const CONNECTIONS = 20;
const TICKS = 100;
const BIN = resolve(process.env.INTEROP_BIN ?? join(ROOT, 'target/release'));

const folder = mkdtempSync(join(tmpdir(), 'sip-bench-'));
const [edge, msrp, haproxy] = await freePorts(3);

// Counts what arrives: messages end with this body.
const MARK = 'end of it\n';
let arrived = 0;
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

/** Seconds of CPU that a process has used. */
const cpu = (pid) => {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ');
  return (Number(fields[11]) + Number(fields[12])) / TICKS;
};

const accepts = (port) => until(() => new Promise((done) => {
  const socket = connect(port, '127.0.0.1', () => { socket.destroy(); done(true); });
  socket.on('error', () => done(false));
}), `port ${port}`);

const message = (connection, number) => `MESSAGE sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1:5060;branch=z9hG4bK${connection}x${number};rport\r\nMax-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=a${connection}\r\nTo: <sip:bob@example.com>\r\nCall-ID: ${connection}-${number}@192.0.2.1\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain\r\nContent-Length: ${MARK.length}\r\n\r\n${MARK}`;

async function measure(name, pid, port) {
  arrived = 0;
  const each = MESSAGES / CONNECTIONS;
  const sockets = await Promise.all(Array.from({ length: CONNECTIONS }, async () => {
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    socket.setNoDelay(true);
    socket.resume();
    return socket;
  }));
  const before = cpu(pid);
  const start = performance.now();
  await Promise.all(sockets.map(async (socket, connection) => {
    for (let number = 0; number < each; number += 10) {
      let batch = '';
      for (let i = 0; i < 10; i += 1) batch += message(connection, number + i);
      if (!socket.write(batch)) await once(socket, 'drain');
      // What may be on the way at once, for both the same.
      if (number - arrived / CONNECTIONS > 200) await until(() => number - arrived / CONNECTIONS < 100, `${name}: ${arrived}`);
    }
  }));
  await until(() => arrived >= MESSAGES, `${name}: all messages, ${arrived}`);
  const seconds = (performance.now() - start) / 1000;
  const used = cpu(pid) - before;
  sockets.forEach((socket) => socket.destroy());
  console.log(`${name.padEnd(22)} ${Math.round(MESSAGES / seconds).toString().padStart(9)} messages/s ${(used / MESSAGES * 1e6).toFixed(2).padStart(8)} µs CPU per message`);
}

const programs = [
  ['msrp-relay, SIP edge', spawn(join(BIN, 'msrp-relay'), ['run', '--config', join(folder, 'relay.yaml')], { stdio: 'ignore' }), edge],
  ['HAProxy, TCP mode', spawn('haproxy', ['-db', '-f', join(folder, 'haproxy.cfg')], { stdio: 'ignore' }), haproxy],
];
try {
  console.log(`${MESSAGES} requests of ${message(0, 0).length} bytes over ${CONNECTIONS} connections, one way`);
  for (const [name, child, port] of programs) {
    await accepts(port);
    await measure(name, child.pid, port);
  }
} finally {
  programs.forEach(([, child]) => child.kill());
  sink.close();
  rmSync(folder, { recursive: true, force: true });
}
process.exit(0);
