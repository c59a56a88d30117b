// A phone over TLS, as small as it can be: registers, answers MESSAGE, INVITE and BYE, and sends a MESSAGE.

import { randomBytes } from 'node:crypto';
import { connect } from 'node:tls';

const ident = () => randomBytes(8).toString('hex');

/** The values of a field, in order. */
export const fields = (message, name) => [...message.head.matchAll(new RegExp(`^${name}:[ \\t]*(.*)\\r$`, 'gim'))].map((found) => found[1]);

export class Agent {
  requests = [];
  #waiting = new Map();
  #buffer = Buffer.alloc(0);

  /** `answer(request)` gives the SDP of the answer to an INVITE. */
  constructor({ port, ca, user, answer }) {
    this.user = user;
    this.answer = answer;
    this.socket = connect({ port, host: '127.0.0.1', servername: 'localhost', ca });
    this.socket.on('data', (data) => this.#read(data));
    this.socket.on('error', () => {});
  }

  /** Sends a request; gives its final response. */
  request(method, uri, { headers = [], body = '', to = uri } = {}) {
    const callId = ident();
    const text = [
      `${method} ${uri} SIP/2.0`, `Via: SIP/2.0/TLS phone.invalid;branch=z9hG4bK${ident()};rport`, 'Max-Forwards: 70',
      `From: <sip:${this.user}@localhost>;tag=${ident()}`, `To: <${to}>`, `Call-ID: ${callId}`, `CSeq: 1 ${method}`,
      ...headers, `Content-Length: ${Buffer.byteLength(body)}`, '', body,
    ].join('\r\n');
    return new Promise((resolve) => {
      this.#waiting.set(callId, resolve);
      this.socket.write(text);
    });
  }

  register() {
    const instance = '+sip.instance="<urn:uuid:00000000-0000-1000-8000-000a95a0e128>"';
    return this.request('REGISTER', 'sip:localhost', {
      to: `sip:${this.user}@localhost`,
      headers: [`Contact: <sip:${this.user}@phone.invalid;transport=tls;ob>;reg-id=1;${instance}`, 'Supported: path, outbound', 'Expires: 600'],
    });
  }

  #read(data) {
    this.#buffer = Buffer.concat([this.#buffer, data]);
    for (;;) {
      const end = this.#buffer.indexOf('\r\n\r\n');
      if (end < 0) return;
      const head = `${this.#buffer.subarray(0, end)}\r\n`;
      const length = Number(/^Content-Length:\s*(\d+)/im.exec(head)[1]);
      if (this.#buffer.length < end + 4 + length) return;
      const body = `${this.#buffer.subarray(end + 4, end + 4 + length)}`;
      this.#buffer = this.#buffer.subarray(end + 4 + length);
      this.#take({ head, body });
    }
  }

  #take(message) {
    const status = /^SIP\/2.0 (\d+)/.exec(message.head)?.[1];
    if (status) {
      if (status >= 200) this.#waiting.get(fields(message, 'Call-ID')[0])?.({ ...message, status: Number(status) });
      return;
    }
    const method = message.head.split(' ')[0];
    this.requests.push({ ...message, method });
    if (method === 'ACK') return;
    const sdp = method === 'INVITE' ? this.answer?.(message) ?? '' : '';
    const copied = ['Via', 'Record-Route', 'From', 'Call-ID', 'CSeq'].flatMap((name) => fields(message, name).map((value) => `${name}: ${value}`));
    const [to] = fields(message, 'To');
    const more = method === 'INVITE' ? [`Contact: <sip:${this.user}@phone.invalid;transport=tls;ob>`, 'Content-Type: application/sdp'] : [];
    this.socket.write([
      'SIP/2.0 200 OK', ...copied, `To: ${to}${to.includes('tag=') ? '' : `;tag=${ident()}`}`, ...more,
      `Content-Length: ${Buffer.byteLength(sdp)}`, '', sdp,
    ].join('\r\n'));
  }
}
