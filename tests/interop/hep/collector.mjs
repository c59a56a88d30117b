// Collectors: hep-js, which others wrote, decodes what comes; and the programs of Debian.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { createServer as createTlsServer } from 'node:tls';
import hepJs from 'hep-js';

import { pieces } from './messages.mjs';

// It knows no chunk 0x65, but how it is told of one.
hepJs.addVendorExtensions({ 0: { 101: { keyName: 'link' } } });
export { hepJs };

/** Packets of HEPv3, over any of the three. */
export class Collector {
  packets = [];
  lengths = [];
  connections = new Set();

  /** `kind`: udp, tcp or tls; the latter with `certificate` and `key`. One that stalls accepts, and reads nothing. */
  static async listen(kind, { port = 0, certificate, key, stalls = false } = {}) {
    const collector = new Collector();
    if (kind === 'udp') {
      collector.server = createSocket({ type: 'udp4', recvBufferSize: 4 << 20 });
      collector.server.on('message', (data) => collector.#take(data));
      collector.server.bind(port, '127.0.0.1');
    } else {
      const accept = (socket) => {
        collector.connections.add(socket);
        socket.on('error', () => {});
        socket.on('close', () => collector.connections.delete(socket));
        if (stalls) return;
        // The length of all is at the fifth byte.
        pieces(socket, (buffer) => (buffer.length < 6 ? 0 : buffer.readUInt16BE(4)), (data) => collector.#take(data));
      };
      collector.server = kind === 'tls' ? createTlsServer({ cert: certificate, key }, accept) : createServer({ pauseOnConnect: stalls }, accept);
      collector.server.listen(port, '127.0.0.1');
    }
    await once(collector.server, 'listening');
    collector.port = collector.server.address().port;
    collector.uri = `hep_${kind}://${kind === 'tls' ? 'localhost' : '127.0.0.1'}:${collector.port}`;
    return collector;
  }

  #take(data) {
    // What hep-js does not look at: that all lengths are right.
    assert.deepEqual([data.toString('latin1', 0, 4), data.readUInt16BE(4)], ['HEP3', data.length]);
    let at = 6;
    while (at < data.length) at += data.readUInt16BE(at + 4);
    assert.equal(at, data.length);
    const packet = hepJs.decapsulate(Buffer.from(data));
    assert.ok(packet, `hep-js does not take ${data.toString('hex')}`);
    this.lengths.push(data.length);
    this.packets.push(packet);
  }

  /** Dies: what it has not read is lost. */
  async die() {
    for (const socket of this.connections) socket.destroy();
    await new Promise((done) => { this.server.close(done); });
  }
}

/** A program in the foreground, with what it says. */
export class Tool {
  output = '';

  constructor(name, args, options = {}) {
    this.child = spawn(name, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options });
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on('data', (data) => { this.output += data; });
    this.exited = once(this.child, 'exit');
  }

  async end(signal = 'SIGTERM') {
    if (this.child.exitCode === null) this.child.kill(signal);
    await this.exited;
  }
}

/** The packets of a pcap file that has Ethernet, IPv4 and UDP around each: `{ time, source, destination, text }`. */
export function pcap(file) {
  const data = readFileSync(file);
  const packets = [];
  // It may be just being written.
  if (data.length < 24) return packets;
  assert.deepEqual([data.readUInt32LE(0), data.readUInt32LE(20)], [0xa1b2c3d4, 1], 'a pcap file of Ethernet frames');
  for (let at = 24; at + 16 <= data.length;) {
    const length = data.readUInt32LE(at + 8);
    const frame = data.subarray(at + 16, at + 16 + length);
    if (frame.length < length) break;
    const ip = frame.subarray(14);
    assert.deepEqual([frame.readUInt16BE(12), ip[0] >> 4, ip[9]], [0x0800, 4, 17], 'IPv4 and UDP');
    const udp = ip.subarray((ip[0] & 15) * 4);
    const end = (address, port) => `${[...ip.subarray(address, address + 4)].join('.')}:${udp.readUInt16BE(port)}`;
    packets.push({
      time: data.readUInt32LE(at) + data.readUInt32LE(at + 4) / 1e6, source: end(12, 0), destination: end(16, 2), // Of version 2 sngrep writes its whole buffer.
      text: udp.toString('utf8', 8).replace(/\0+$/, ''),
    });
    at += 16 + length;
  }
  return packets;
}

/** Runs statements on a SQLite file; gives the rows. */
export function sqlite(file, sql) {
  const run = spawnSync('sqlite3', ['-json', '-cmd', '.timeout 10000', file], { input: sql, encoding: 'utf8', maxBuffer: 1 << 26 });
  assert.equal(run.status, 0, run.stderr);
  return run.stdout ? JSON.parse(run.stdout) : [];
}
