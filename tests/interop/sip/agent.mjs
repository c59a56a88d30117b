// A phone over TLS, as small as it can be: registers, sends and takes MESSAGE and calls, in either role.

import { randomBytes } from 'node:crypto';
import { connect } from 'node:tls';

import { until } from '../fixture.mjs';

const ident = () => randomBytes(8).toString('hex');

/** The values of a field, in order; one for each line. */
export const fields = (message, name) => [...message.head.matchAll(new RegExp(`^${name}:[ \\t]*(.*)\\r$`, 'gim'))].map((found) => found[1]);

/** The entries of a list of addresses, in order, however they are spread over lines. */
const entries = (message, name) => fields(message, name).flatMap((line) => line.split(/,(?=\s*<)/)).map((entry) => entry.trim());
const branch = (message) => /branch=([^;,\s]+)/.exec(fields(message, 'Via')[0])[1];
const uriOf = (value) => /<([^>]*)>/.exec(value)?.[1] ?? value;
const tagOf = (value) => /;tag=([^;\s]+)/.exec(value)?.[1];

/** A session with this path. */
export const sdp = (path = 'msrp://127.0.0.1:2855/phone;tcp') => [
  'v=0', `o=- ${BigInt(`0x${ident()}`)} 1 IN IP4 127.0.0.1`, 's=-', 'c=IN IP4 127.0.0.1', 't=0 0',
  `m=message 2855 ${path.startsWith('msrps') ? 'TCP/TLS/MSRP' : 'TCP/MSRP'} *`, 'a=accept-types:text/plain', `a=path:${path}`,
  'a=setup:passive', '',
].join('\r\n');

export class Agent {
  requests = [];
  /** Calls by Call-ID. */
  calls = new Map();
  #waiting = new Map();
  #buffer = Buffer.alloc(0);

  /** `answer(request)` gives the SDP of the answer to an INVITE; null: it rings until it is cancelled. */
  constructor({ port, ca, user, answer = () => '' }) {
    this.user = user;
    this.answer = answer;
    this.contact = `<sip:${user}@phone.invalid;transport=tls;ob>`;
    this.socket = connect({ port, host: '127.0.0.1', servername: 'localhost', ca });
    this.socket.on('data', (data) => this.#read(data));
    this.socket.on('error', () => {});
  }

  /** Requests of this method that came, in all calls or in this one. */
  taken(method, call) {
    return this.requests.filter((request) => request.method === method && (!call || fields(request, 'Call-ID')[0] === call.id));
  }

  /** Waits until so many of this method have come; gives the last of these. */
  async got(method, count = 1, call = undefined) {
    const all = () => this.taken(method, call);
    await until(() => all().length >= count, `${count} ${method} at ${this.user}, who has ${this.requests.map((request) => request.method)}`);
    return all()[count - 1];
  }

  /** Sends a request outside of a dialog; gives its final response. */
  request(method, uri, { headers = [], body = '', to = uri, callId = ident() } = {}) {
    return this.#send(method, uri, [
      `From: <sip:${this.user}@localhost>;tag=${ident()}`, `To: <${to}>`, `Call-ID: ${callId}`, `CSeq: 1 ${method}`, ...headers,
    ], body).final;
  }

  register() {
    const instance = '+sip.instance="<urn:uuid:00000000-0000-1000-8000-000a95a0e128>"';
    return this.request('REGISTER', 'sip:localhost', {
      to: `sip:${this.user}@localhost`,
      headers: [`Contact: ${this.contact};reg-id=1;${instance}`, 'Supported: path, outbound', 'Expires: 600'],
    });
  }

  /** Calls; gives the call when it is answered. */
  async call(uri, sdp) {
    const call = {
      id: ident(), local: `<sip:${this.user}@localhost>;tag=${ident()}`, remote: `<${uri}>`, target: uri, routes: [], number: 0,
    };
    this.calls.set(call.id, call);
    const response = await this.within(call, 'INVITE', sdp);
    if (response.status !== 200) throw new Error(`${uri} was called in vain: ${response.head}`);
    return call;
  }

  /** Calls somebody who does not answer: the response to come, and how to give up. */
  ring(uri, body) {
    const call = { id: ident(), local: `<sip:${this.user}@localhost>;tag=${ident()}`, remote: `<${uri}>`, routes: [], number: 1 };
    const contact = [`Contact: ${this.contact}`, 'Content-Type: application/sdp'];
    const { own, final } = this.#send('INVITE', uri, [...this.#dialog(call, 'INVITE'), ...contact], body);
    return {
      final: final.then((response) => {
        // The ACK for what is no 2xx belongs to the transaction (RFC 3261 §17.1.1.3).
        this.#send('ACK', uri, this.#dialog({ ...call, remote: fields(response, 'To')[0] }, 'ACK'), '', own);
        return response;
      }),
      cancel: () => this.#send('CANCEL', uri, this.#dialog(call, 'CANCEL'), '', own).final,
    };
  }

  /** Sends a request within a call, an INVITE with the ACK for its 200; gives its final response. */
  async within(call, method, sdp = '') {
    call.number += 1;
    const sdpFields = method === 'INVITE' ? [`Contact: ${this.contact}`, 'Content-Type: application/sdp'] : [];
    const response = await this.#send(method, call.target, [...this.#dialog(call, method), ...sdpFields], sdp).final;
    if (method === 'INVITE' && response.status === 200) {
      call.remote = fields(response, 'To')[0];
      call.target = uriOf(fields(response, 'Contact')[0]);
      // The route set is that of the first INVITE (RFC 3261 §12.2).
      if (call.number === 1) call.routes = entries(response, 'Record-Route').reverse();
      this.#send('ACK', call.target, this.#dialog(call, 'ACK'), '');
    }
    return response;
  }

  #dialog(call, method) {
    return [
      ...call.routes.map((route) => `Route: ${route}`), `From: ${call.local}`, `To: ${call.remote}`, `Call-ID: ${call.id}`,
      `CSeq: ${call.number} ${method}`,
    ];
  }

  #send(method, uri, head, body, own = `z9hG4bK${ident()}`) {
    const final = new Promise((resolve) => { this.#waiting.set(`${own} ${method}`, resolve); });
    this.socket.write([
      `${method} ${uri} SIP/2.0`, `Via: SIP/2.0/TLS phone.invalid;branch=${own};rport`, 'Max-Forwards: 70', ...head,
      `Content-Length: ${Buffer.byteLength(body)}`, '', body,
    ].join('\r\n'));
    return { own, final };
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
      if (status >= 200) this.#waiting.get(`${branch(message)} ${fields(message, 'CSeq')[0].split(' ')[1]}`)?.({ ...message, status: Number(status) });
      return;
    }
    const method = message.head.split(' ')[0];
    this.requests.push({ ...message, method });
    if (method === 'ACK') return;
    if (method === 'CANCEL') {
      this.#respond(message, '200 OK');
      const ringing = this.requests.find((request) => request.method === 'INVITE' && branch(request) === branch(message));
      if (ringing) this.#respond(ringing, '487 Request Terminated');
      return;
    }
    if (method !== 'INVITE') {
      this.#respond(message, '200 OK');
      return;
    }
    const sdp = this.answer(message);
    if (sdp === null) this.#respond(message, '180 Ringing', [`Contact: ${this.contact}`]);
    else this.#respond(message, '200 OK', [`Contact: ${this.contact}`, 'Content-Type: application/sdp'], sdp);
  }

  /** The call that a request belongs to, which begins with it if need be. */
  #callOf(message) {
    const [id, from, to] = ['Call-ID', 'From', 'To'].map((name) => fields(message, name)[0]);
    let call = this.calls.get(id);
    if (!call) {
      call = { id, local: tagOf(to) ? to : `${to};tag=${ident()}`, remote: from, routes: entries(message, 'Record-Route'), number: 0 };
      this.calls.set(id, call);
    }
    const [contact] = fields(message, 'Contact');
    if (contact) call.target = uriOf(contact);
    return call;
  }

  #respond(message, status, more = [], body = '') {
    const copied = ['Via', 'Record-Route', 'From', 'Call-ID', 'CSeq'].flatMap((name) => fields(message, name).map((value) => `${name}: ${value}`));
    this.socket.write([
      `SIP/2.0 ${status}`, ...copied, `To: ${this.#callOf(message).local}`, ...more, `Content-Length: ${Buffer.byteLength(body)}`, '', body,
    ].join('\r\n'));
  }
}
