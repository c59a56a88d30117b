// The table of ws-table.mjs on raw sockets, and the same listener with the npm client `ws`.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import WebSocket from 'ws';

import { ARTEFACTS, PATIENCE, USERS, start } from './fixture.mjs';
import { authorize, chooseChallenge, parseChallenges } from '../../examples/browser-chat/digest.js';
import { parse, serialize } from '../../examples/browser-chat/message.js';
import { BINARY, CLOSE, FRAMES, HANDSHAKES, PING, PONG, TEXT, auth, closing, cuts, frame, handshake, send } from './ws-table.mjs';

/** The largest WebSocket message that a browser should get: 64 KiB of body, and a head of 16 KiB. */
const MOST = 80 * 1024;

let fixture;

before(async () => {
  mkdirSync(ARTEFACTS, { recursive: true });
  fixture = await start();
});

after(() => fixture?.stop());

/** A socket from which one reads what one waits for. */
class Raw {
  #buffer = Buffer.alloc(0);
  #ended = false;
  #wake = () => {};

  static async open(port) {
    const raw = new Raw();
    raw.socket = connect(port, '127.0.0.1');
    raw.socket.setNoDelay(true);
    const wake = () => raw.#wake();
    raw.socket.on('data', (data) => { raw.#buffer = Buffer.concat([raw.#buffer, data]); wake(); });
    raw.socket.on('end', () => { raw.#ended = true; wake(); });
    raw.socket.on('error', () => { raw.#ended = true; wake(); });
    await once(raw.socket, 'connect');
    return raw;
  }

  write(data) {
    this.socket.write(data);
  }

  /** What `take(buffer)` gives as `[value, length]`; null at the end of the connection. */
  async read(take) {
    for (;;) {
      const found = take(this.#buffer);
      if (found) {
        this.#buffer = this.#buffer.subarray(found[1]);
        return found[0];
      }
      if (this.#ended) return null;
      await new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`nothing comes; so far ${this.#buffer.length} bytes`)), PATIENCE);
        this.#wake = () => { clearTimeout(timer); resolve(); };
      });
    }
  }

  /** The answer to a handshake: `{ status, headers }`, with names in lower case. */
  async answer() {
    const head = await this.read((buffer) => {
      const end = buffer.indexOf('\r\n\r\n');
      return end < 0 ? null : [buffer.subarray(0, end).toString('latin1'), end + 4];
    });
    if (head === null) return { status: null, headers: new Map() };
    const [line, ...lines] = head.split('\r\n');
    const headers = new Map(lines.map((each) => [each.split(':', 1)[0].toLowerCase(), each.slice(each.indexOf(':') + 1).trim()]));
    return { status: Number(/^HTTP\/1\.1 (\d{3})/.exec(line)?.[1]), headers };
  }

  /** The next frame: `{ opcode, fin, payload }`, or null. Servers do not mask (RFC 6455 §5.1). */
  frame() {
    return this.read((buffer) => {
      if (buffer.length < 2) return null;
      assert.equal(buffer[1] & 0x80, 0, 'a masked frame from the server');
      assert.equal(buffer[0] & 0x70, 0, 'a reserved bit from the server');
      const short = buffer[1] & 0x7f;
      const start = { 126: 4, 127: 10 }[short] ?? 2;
      if (buffer.length < start) return null;
      const length = { 126: () => buffer.readUInt16BE(2), 127: () => Number(buffer.readBigUInt64BE(2)) }[short]?.() ?? short;
      if (buffer.length < start + length) return null;
      const payload = Buffer.from(buffer.subarray(start, start + length));
      return [{ opcode: buffer[0] & 15, fin: Boolean(buffer[0] & 0x80), payload }, start + length];
    });
  }

  /** The next frame that is no ping of the server's. */
  async frameForUs() {
    for (;;) {
      const found = await this.frame();
      if (found?.opcode !== PING) return found;
      this.write(frame(PONG, found.payload));
    }
  }

  end() {
    this.socket.destroy();
  }
}

async function opened(port = fixture.ports.ws) {
  const raw = await Raw.open(port);
  raw.write(handshake());
  assert.equal((await raw.answer()).status, 101);
  return raw;
}

/** A connection that is alive answers AUTH. */
async function alive(raw) {
  raw.write(frame(TEXT, auth(fixture.ports.ws, 'alive123')));
  const answer = await raw.frameForUs();
  assert.ok(answer, 'the connection was closed');
  const { id, code } = parse(new Uint8Array(answer.payload));
  assert.deepEqual([id, code], ['alive123', 401]);
}

/** The code with which the server closes, null for none; then the connection has to end. */
async function closedWith(raw) {
  for (;;) {
    const found = await raw.frameForUs();
    assert.ok(found, 'closed without a close frame');
    if (found.opcode !== CLOSE) continue;
    const code = found.payload.length >= 2 ? found.payload.readUInt16BE(0) : null;
    if (code !== null) raw.write(frame(CLOSE, closing(code)));
    raw.socket.end();
    assert.equal(await raw.frame(), null, 'a frame after the close frame');
    return code;
  }
}

const isOneOf = (found, expected, what) => assert.ok([expected].flat().includes(found), `${what}: ${found}, not ${[expected].flat().join(' or ')}`);

describe('handshakes', { concurrency: 4 }, () => {
  for (const [name, request, status, { guarded = false, has = {}, pieces = false, bytes } = {}] of HANDSHAKES) {
    test(`${name}: ${[status].flat().join(' or ')}`, async () => {
      const raw = await Raw.open(guarded ? fixture.ports.guarded : fixture.ports.ws);
      try {
        const data = bytes ?? handshake(request);
        if (pieces) for (const byte of data) raw.write(byte);
        else raw.write(data);
        const answer = await raw.answer();
        isOneOf(answer.status, status, 'status');
        for (const [header, expected] of Object.entries(has)) {
          const value = answer.headers.get(header) ?? null;
          if (expected instanceof RegExp) assert.match(value ?? '', expected, header);
          else assert.equal(value, expected, header);
        }
        if (answer.status === 101 && !guarded) await alive(raw);
      } finally {
        raw.end();
      }
    });
  }
});

describe('frames', { concurrency: 4 }, () => {
  for (const [name, bytes, { close, pong, msrp = [] }] of FRAMES) {
    test(`${name}: ${close !== undefined ? `closed with ${[close].flat().join(' or ')}` : [pong === undefined ? [] : 'pong', ...msrp].flat().join(', ')}`, async () => {
      const raw = await opened();
      try {
        raw.write(bytes(fixture.ports.ws));
        if (close !== undefined) {
          isOneOf(await closedWith(raw), close, 'close code');
          return;
        }
        let pongs = pong === undefined ? 0 : 1;
        const codes = [...msrp];
        while (pongs > 0 || codes.length > 0) {
          const found = await raw.frameForUs();
          assert.ok(found && found.opcode !== CLOSE, `closed: ${found?.payload.subarray(2)}`);
          if (found.opcode === PONG) {
            assert.equal(`${found.payload}`, pong);
            pongs--;
          } else {
            isOneOf(parse(new Uint8Array(found.payload)).code, codes.shift(), 'response');
          }
        }
        await alive(raw);
      } finally {
        raw.end();
      }
    });
  }

  test('AUTH cut in two frames at each byte', async () => {
    const raw = await opened();
    for (const [at, bytes] of cuts(fixture.ports.ws).entries()) {
      raw.write(bytes);
      const found = await raw.frameForUs();
      assert.ok(found && found.opcode !== CLOSE, `closed when cut at ${at}`);
      assert.equal(parse(new Uint8Array(found.payload)).code, 401, `cut at ${at}`);
    }
    raw.end();
  });

  test('a frame that comes byte by byte', async () => {
    const raw = await opened();
    for (const byte of frame(BINARY, auth(fixture.ports.ws))) raw.write(Buffer.of(byte));
    assert.equal(parse(new Uint8Array((await raw.frameForUs()).payload)).code, 401);
    raw.end();
  });

  test('frames right behind the handshake', async () => {
    const raw = await Raw.open(fixture.ports.ws);
    raw.write(Buffer.concat([Buffer.from(handshake()), frame(TEXT, auth(fixture.ports.ws))]));
    assert.equal((await raw.answer()).status, 101);
    assert.equal(parse(new Uint8Array((await raw.frameForUs()).payload)).code, 401);
    raw.end();
  });

  test('fragments that grow without end: closed with 1009', async () => {
    const raw = await opened();
    let stop = false;
    raw.socket.on('error', () => {});
    raw.socket.on('close', () => { stop = true; });
    const closed = closedWith(raw).finally(() => { stop = true; });
    const [head] = send(fixture.ports.ws, '').split('\r\n\r\n');
    raw.write(frame(BINARY, `${head}\r\n\r\n`, { fin: false }));
    const part = frame(0, 'x'.repeat(65536), { fin: false });
    for (let sent = 0; sent < 256 * 1024 * 1024 && !stop; sent += 65536) {
      if (!raw.socket.write(part) && !stop) await Promise.race([once(raw.socket, 'drain'), closed]).catch(() => {});
      await new Promise(setImmediate);
    }
    assert.equal(await closed, 1009);
  });
});

describe('the npm client `ws`', () => {
  /** A client that takes one MSRP message from one WebSocket message. */
  async function client(scheme, { user, protocols = ['msrp'], ...options } = {}) {
    const ca = readFileSync(fixture.ca);
    const port = fixture.ports[scheme];
    const socket = new WebSocket(`${scheme}://localhost:${port}/msrp`, protocols, { ca, handshakeTimeout: PATIENCE, ...options });
    const waiting = [];
    const arrived = [];
    socket.on('message', (data, isBinary) => {
      const message = { ...parse(new Uint8Array(data)), isBinary, size: data.length };
      if (waiting.length > 0) waiting.shift()(message);
      else arrived.push(message);
    });
    await once(socket, 'open');
    const own = `${scheme === 'wss' ? 'msrps' : 'msrp'}://${user ?? 'x'}.invalid:2855/session0123456789;ws`;
    const relay = `${scheme === 'wss' ? 'msrps' : 'msrp'}://localhost:${port};ws`;
    const closed = once(socket, 'close').then(([code]) => { throw new Error(`closed with ${code}`); });
    closed.catch(() => {});
    const arrival = () => new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('no message comes')), PATIENCE);
      waiting.push((message) => { clearTimeout(timer); resolve(message); });
    });
    const next = () => Promise.race([closed, arrived.length > 0 ? arrived.shift() : arrival()]);
    const request = (message) => socket.send(serialize({ fromPath: [own], ...message }));
    let usePath;
    if (user) {
      request({ id: 'auth0001', method: 'AUTH', toPath: [relay] });
      const challenge = chooseChallenge(parseChallenges((await next()).headers.get('www-authenticate')));
      const answer = authorize(challenge, { user, password: USERS[user], method: 'AUTH', uri: relay, cnonce: 'c0ffee' });
      request({ id: 'auth0002', method: 'AUTH', toPath: [relay], headers: [['Authorization', answer]] });
      const granted = await next();
      assert.equal(granted.code, 200);
      usePath = granted.headers.get('use-path').split(' ');
    }
    return { socket, own, relay, request, next, path: usePath && [...usePath].reverse().concat(own), usePath };
  }

  for (const scheme of ['ws', 'wss']) {
    test(`logs in over ${scheme}, and gets one URI that others can reach`, async () => {
      const { socket, usePath } = await client(scheme, { user: 'alice' });
      assert.equal(socket.protocol, 'msrp');
      assert.equal(socket.extensions, '', 'no compression');
      assert.equal(usePath.length, 1);
      assert.match(usePath[0], scheme === 'wss' ? /^msrps:\/\/localhost:\d+\/.+;/ : /^msrps?:\/\/localhost:\d+\/.+;/);
      socket.close(1000);
      const [code] = await once(socket, 'close');
      assert.equal(code, 1000);
    });
  }

  test('is refused without the sub-protocol', async () => {
    await assert.rejects(client('ws', { protocols: [] }), /400/);
  });

  test('compression is not agreed on', async () => {
    const { socket } = await client('ws', { perMessageDeflate: true });
    assert.equal(socket.extensions, '');
    socket.terminate();
  });

  test('pings are answered with their payload', async () => {
    const { socket } = await client('ws');
    socket.ping('payload');
    const [data] = await once(socket, 'pong');
    assert.equal(`${data}`, 'payload');
    socket.terminate();
  });

  test('a message of 1 MiB comes in chunks, each whole in a message of its own', async () => {
    const [alice, bob] = [await client('wss', { user: 'alice' }), await client('ws', { user: 'bob' })];
    const body = Buffer.alloc(1024 * 1024, 'abcdefghijklmnopqrstuvwxyz');
    const size = 60 * 1024;
    const toPath = alice.usePath.concat(bob.path);
    for (let at = 0, count = 0; at < body.length; at += size, count++) {
      const part = body.subarray(at, at + size);
      const range = `${at + 1}-${at + part.length}/${body.length}`;
      const headers = [['Message-ID', 'large001'], ['Byte-Range', range], ['Content-Type', 'application/octet-stream']];
      alice.request({ id: `chunk${count}abc`, method: 'SEND', toPath, headers, body: part, flag: at + size < body.length ? '+' : '$' });
    }
    const received = Buffer.alloc(body.length);
    for (let got = 0; got < body.length;) {
      const message = await bob.next();
      assert.equal(message.method, 'SEND');
      assert.ok(message.isBinary, 'a body in a text frame');
      const start = Number(/^\d+/.exec(message.headers.get('byte-range'))[0]);
      received.set(message.body, start - 1);
      got += message.body.length;
      bob.request({ id: message.id, code: 200, comment: 'OK', toPath: [message.fromPath[0]] });
    }
    assert.ok(received.equals(body));
    for (const { socket } of [alice, bob]) socket.terminate();
  });

  test('what comes over TLS in one chunk of 1 MB is split (RFC 7977 §5.1)', async () => {
    const { socket, request, next, path, own } = await client('wss', { user: 'alice' });
    const file = join(fixture.folder, 'one-chunk.bin');
    const body = randomBytes(1_000_000);
    writeFileSync(file, body);
    const sender = fixture.example('send-file', 'bob', file, '--to', path.join(' '));
    const received = Buffer.alloc(body.length);
    for (let got = 0; got < body.length;) {
      const message = await next();
      assert.equal(message.method, 'SEND');
      assert.ok(message.size <= MOST, `a WebSocket message of ${message.size} bytes`);
      request({ id: message.id, code: 200, comment: 'OK', toPath: [message.fromPath[0]] });
      // The first one only says that the sender is there.
      if (message.body === null) continue;
      received.set(message.body, Number(/^\d+/.exec(message.headers.get('byte-range'))[0]) - 1);
      got += message.body.length;
      if (got < body.length) continue;
      const range = `1-${body.length}/${body.length}`;
      const headers = [['Message-ID', message.headers.get('message-id')], ['Byte-Range', range], ['Status', '000 200 OK']];
      request({ id: 'report01', method: 'REPORT', toPath: message.fromPath, fromPath: [own], headers });
    }
    assert.ok(received.equals(body));
    assert.equal(await sender.exited, 0, sender.stderr);
    socket.terminate();
  });

  test('a session ends with its connection', async () => {
    const [alice, bob] = [await client('ws', { user: 'alice' }), await client('ws', { user: 'bob' })];
    bob.socket.close(1000);
    await once(bob.socket, 'close');
    const headers = [['Message-ID', 'mess0001'], ['Byte-Range', '1-2/2'], ['Content-Type', 'text/plain']];
    alice.request({ id: 'late0001', method: 'SEND', toPath: alice.usePath.concat(bob.path), headers, body: Buffer.from('hi') });
    // At once, or with a REPORT after 200, as the relay learns it.
    let answer = await alice.next();
    if (answer.code === 200) answer = await alice.next();
    const failed = answer.code ?? Number(answer.headers.get('status')?.split(' ')[1]);
    assert.ok(failed >= 400, `${failed}`);
    alice.socket.terminate();
  });
});
