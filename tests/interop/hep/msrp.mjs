// An MSRP client over TCP, TLS or WebSocket that keeps a record: logs in, sends, answers what comes.

import { once } from 'node:events';
import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import WebSocket from 'ws';

import { authorize, chooseChallenge, parseChallenges } from '../../../examples/browser-chat/digest.js';
import { parse, parseUri, randomIdent, serialize } from '../../../examples/browser-chat/message.js';
import { USERS, until } from '../fixture.mjs';
import { pieces } from './messages.mjs';

/** A message without body and end-line, as it stands in a trace. */
const head = (text) => {
  const empty = text.indexOf('\r\n\r\n');
  return empty < 0 ? text.slice(0, text.lastIndexOf('-------')) : text.slice(0, empty + 2);
};

/** How long the message is with which the buffer begins. */
function messageLength(buffer) {
  const id = /^MSRP (\S+) /.exec(buffer.toString('latin1', 0, 64))?.[1];
  const at = id === undefined ? -1 : buffer.indexOf(`-------${id}`);
  return at < 0 ? 0 : at + 7 + id.length + 3;
}

export class MsrpClient {
  received = [];
  #waiting = new Map();

  /** Connects by `scheme` (msrp, msrps, ws, wss) and logs in. */
  static async login({ scheme, port, ca, user, record }) {
    const client = new MsrpClient();
    client.record = record;
    await client.#connect(scheme, port, ca);
    const secure = scheme === 'msrps' || scheme === 'wss' ? 'msrps' : 'msrp';
    const transport = scheme.startsWith('ws') ? 'ws' : 'tcp';
    client.relay = `${secure}://localhost:${port};${transport}`;
    client.own = `${secure}://${randomIdent(12)}.invalid:2855/${randomIdent()};${transport}`;
    const challenge = await client.#auth([]);
    const chosen = chooseChallenge(parseChallenges(challenge.headers.get('www-authenticate')));
    const granted = await client.#auth([['Authorization', authorize(chosen, {
      user, password: USERS[user], method: 'AUTH', uri: client.relay, cnonce: randomIdent(),
    })]]);
    if (granted.code !== 200) throw new Error(`AUTH: ${granted.code}`);
    client.usePath = granted.headers.get('use-path').split(' ');
    return client;
  }

  /** The session that the relay has given us. */
  get session() {
    return parseUri(this.usePath[0]).session;
  }

  #auth(headers) {
    return this.#request({ method: 'AUTH', toPath: [this.relay], fromPath: [this.own], headers });
  }

  async #connect(scheme, port, ca) {
    if (scheme.startsWith('ws')) {
      this.websocket = new WebSocket(`${scheme}://localhost:${port}/msrp`, 'msrp', { ca });
      this.websocket.on('message', (data) => this.#take(data));
      this.websocket.on('error', () => {});
      await once(this.websocket, 'open');
      this.socket = this.websocket._socket;
      return;
    }
    const options = { port, host: '127.0.0.1', servername: 'localhost', ca };
    this.socket = scheme === 'msrps' ? connectTls(options) : connect(options);
    this.socket.on('error', () => {});
    pieces(this.socket, messageLength, (data) => this.#take(data));
    await once(this.socket, scheme === 'msrps' ? 'secureConnect' : 'connect');
  }

  #write(message, sessions) {
    const data = Buffer.from(serialize(message));
    this.record.add(this.socket, true, head(data.toString()), { sessions });
    (this.websocket ? (bytes) => this.websocket.send(bytes) : (bytes) => this.socket.write(bytes))(data);
  }

  #request(message) {
    const id = randomIdent();
    const answered = new Promise((resolve) => { this.#waiting.set(id, { resolve, sessions: message.sessions }); });
    this.#write({ ...message, id }, message.sessions);
    return answered;
  }

  #take(data) {
    const message = parse(new Uint8Array(data));
    const waiting = this.#waiting.get(message.id);
    const path = [...message.toPath, ...message.fromPath];
    // Sessions of the relay that the path names.
    const sessions = waiting ? waiting.sessions : path.filter((uri) => !uri.includes('.invalid')).map((uri) => parseUri(uri).session);
    this.record.add(this.socket, false, head(Buffer.from(data).toString()), { sessions });
    if (waiting) {
      waiting.resolve(message);
    } else if (message.method === 'SEND') {
      this.received.push(Buffer.from(message.body ?? []).toString());
      this.#write({ id: message.id, code: 200, comment: 'OK', toPath: [message.fromPath[0]], fromPath: [message.toPath[0]] }, sessions);
    }
  }

  /** Sends text to another one, and waits until it is there; both responses are on record then. */
  async say(to, text) {
    const size = Buffer.byteLength(text);
    const answer = await this.#request({
      method: 'SEND',
      // Towards us the nearest relay is the first one of the path; towards the other side, the last.
      toPath: [...this.usePath, ...[...to.usePath].reverse(), to.own],
      fromPath: [this.own],
      headers: [['Message-ID', randomIdent()], ['Byte-Range', `1-${size}/${size}`], ['Failure-Report', 'yes'], ['Content-Type', 'text/plain']],
      body: new TextEncoder().encode(text),
      sessions: [this.session, to.session],
    });
    if (answer.code !== 200) throw new Error(`SEND: ${answer.code}`);
    await until(() => to.received.includes(text), text);
  }

  close() {
    if (this.websocket) this.websocket.close(1000);
    else this.socket.end();
  }
}
