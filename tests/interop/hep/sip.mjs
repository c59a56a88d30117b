// Both sides of the SIP edge, with a record: a phone over any transport, and the upstream, which answers everything.

import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { connect as connectTls } from 'node:tls';
import WebSocket from 'ws';

import { pieces } from './messages.mjs';

const ident = () => randomBytes(8).toString('hex');
export const values = (text, name) => [...text.matchAll(new RegExp(`^${name}:[ \\t]*(.*)\\r$`, 'gim'))].map((found) => found[1]);
export const statusOf = (text) => Number(/^SIP\/2.0 (\d+)/.exec(text)?.[1]);

/** How long the message, or the keep-alive, is with which the buffer begins. */
function messageLength(buffer) {
  if (buffer[0] === 13) return buffer.length < 2 ? 0 : 2;
  const end = buffer.indexOf('\r\n\r\n');
  return end < 0 ? 0 : end + 4 + Number(/^Content-Length:\s*(\d+)/im.exec(buffer.toString('latin1', 0, end + 2))[1]);
}

function answer(request, headers = []) {
  const copied = ['Via', 'Record-Route', 'From', 'Call-ID', 'CSeq', 'Path'].flatMap((name) => values(request, name).map((value) => `${name}: ${value}`));
  const [to] = values(request, 'To');
  return ['SIP/2.0 200 OK', ...copied, `To: ${to}${to.includes('tag=') ? '' : `;tag=${ident()}`}`, ...headers, 'Content-Length: 0', '', ''].join('\r\n');
}

/** What a phone and an upstream share: a connection, and requests that wait for their response. */
class End {
  requests = [];
  #waiting = new Map();

  constructor(record) {
    this.record = record;
  }

  attach(socket, write) {
    this.socket = socket;
    this.write = (text) => {
      this.record.add(socket, true, text);
      write(text);
    };
  }

  request(lines, content = '') {
    const text = [...lines, `Content-Length: ${Buffer.byteLength(content)}`, '', content].join('\r\n');
    const [callId] = values(text, 'Call-ID');
    const answered = new Promise((resolve) => { this.#waiting.set(callId, resolve); });
    this.write(text);
    return answered;
  }

  take(text) {
    if (text === '\r\n') return;
    this.record.add(this.socket, false, text);
    if (statusOf(text)) {
      this.#waiting.get(values(text, 'Call-ID')[0])?.(text);
      return;
    }
    this.requests.push(text);
    if (!text.startsWith('ACK')) this.write(answer(text, text.startsWith('INVITE') ? ['Contact: <sip:upstream@127.0.0.1:9>'] : []));
  }
}

/** Where a phone is behind, by its connection: of what goes over WebSocket there is no port in a URI. */
export class Phone extends End {
  static async connect({ scheme, port, ca, user, record }) {
    const phone = new Phone(record);
    phone.user = user;
    phone.transport = { sip: 'TCP', sips: 'TLS', ws: 'WS', wss: 'WSS' }[scheme];
    if (scheme.startsWith('ws')) {
      const websocket = new WebSocket(`${scheme}://localhost:${port}/msrp`, 'sip', { ca });
      websocket.on('message', (data) => phone.take(data.toString()));
      websocket.on('error', () => {});
      await once(websocket, 'open');
      phone.attach(websocket._socket, (text) => websocket.send(text));
      phone.close = () => websocket.close(1000);
      return phone;
    }
    const options = { port, host: '127.0.0.1', servername: 'localhost', ca };
    const socket = scheme === 'sips' ? connectTls(options) : connect(options);
    socket.on('error', () => {});
    await once(socket, scheme === 'sips' ? 'secureConnect' : 'connect');
    phone.attach(socket, (text) => socket.write(text));
    pieces(socket, messageLength, (data) => phone.take(data.toString()));
    phone.close = () => socket.end();
    return phone;
  }

  #lines(method, uri, { callId = `${ident()}@${this.user}.invalid`, to = `<${uri}>`, tag = ident(), cseq = 1 } = {}) {
    return [
      `${method} ${uri} SIP/2.0`, `Via: SIP/2.0/${this.transport} phone.invalid;branch=z9hG4bK${ident()};rport`, 'Max-Forwards: 70',
      `From: <sip:${this.user}@localhost>;tag=${tag}`, `To: ${to}`, `Call-ID: ${callId}`, `CSeq: ${cseq} ${method}`,
    ];
  }

  register() {
    return this.request([
      ...this.#lines('REGISTER', 'sip:localhost', { to: `<sip:${this.user}@localhost>` }),
      `Contact: <sip:${this.user}@phone.invalid;ob>;reg-id=1;+sip.instance="<urn:uuid:00000000-0000-1000-8000-000a95a0e128>"`,
      'Supported: path, outbound',
      // Nobody checks it; nobody may read the response in a trace either.
      `Authorization: Digest username="${this.user}", realm="localhost", nonce="n", uri="sip:localhost", response="${ident()}${ident()}"`,
    ]);
  }

  message(text) {
    return this.request([...this.#lines('MESSAGE', 'sip:carol@localhost'), 'Content-Type: text/plain'], text);
  }

  /** INVITE, ACK and BYE. */
  async call() {
    const dialog = { callId: `${ident()}@${this.user}.invalid`, tag: ident() };
    const contact = `Contact: <sip:${this.user}@phone.invalid;ob>`;
    const ok = await this.request([...this.#lines('INVITE', 'sip:carol@localhost', dialog), contact, 'Content-Type: application/sdp'], 'v=0\r\n');
    const route = values(ok, 'Record-Route').reverse().map((value) => `Route: ${value}`);
    const within = { ...dialog, to: values(ok, 'To')[0] };
    this.write([...this.#lines('ACK', 'sip:upstream@127.0.0.1:9', within), ...route, 'Content-Length: 0', '', ''].join('\r\n'));
    return this.request([...this.#lines('BYE', 'sip:upstream@127.0.0.1:9', { ...within, cseq: 2 }), ...route]);
  }
}

/** Behind the edge. It answers the edge's probes too. */
export class Upstream extends End {
  static async listen(record) {
    const upstream = new Upstream(record);
    upstream.server = createServer((socket) => {
      socket.on('error', () => {});
      upstream.attach(socket, (text) => socket.write(text));
      pieces(socket, messageLength, (data) => upstream.take(data.toString()));
    });
    upstream.server.listen(0, '127.0.0.1');
    await once(upstream.server, 'listening');
    upstream.port = upstream.server.address().port;
    return upstream;
  }

  /** A MESSAGE to a phone, along the Path of its REGISTER. */
  message(user, text) {
    const registered = this.requests.find((request) => request.startsWith('REGISTER') && request.includes(`<sip:${user}@localhost>`));
    return this.request([
      `MESSAGE sip:${user}@phone.invalid;ob SIP/2.0`, `Via: SIP/2.0/TCP 127.0.0.1:${this.port};branch=z9hG4bK${ident()}`, 'Max-Forwards: 70',
      ...values(registered, 'Path').map((value) => `Route: ${value}`),
      `From: <sip:carol@localhost>;tag=${ident()}`, `To: <sip:${user}@localhost>`, `Call-ID: ${ident()}@upstream.invalid`, 'CSeq: 1 MESSAGE',
      'Content-Type: text/plain',
    ], text);
  }

  close() {
    this.socket?.destroy();
    this.server.close();
  }
}
