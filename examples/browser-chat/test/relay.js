// A relay and a clock for tests, in memory: no network, no time.

import { parse, serialize } from '../message.js';

/** Time that goes on when told to. */
export class Clock {
  #now = 0;
  #timers = new Map();
  #next = 1;

  now = () => this.#now;
  setTimeout = (call, delay) => {
    this.#timers.set(this.#next, { at: this.#now + delay, call });
    return this.#next++;
  };
  clearTimeout = (timer) => this.#timers.delete(timer);

  /** Lets time pass, with all that happens in it. */
  async pass(duration) {
    const until = this.#now + duration;
    for (;;) {
      const due = [...this.#timers].filter(([, { at }]) => at <= until).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.#now = due[1].at;
      due[1].call();
      await settle();
    }
    this.#now = until;
    await settle();
  }
}

/** Until all that can happen without time has happened; reading a Blob takes some turns of the event loop. */
export const settle = () => new Promise((resolve) => {
  let turns = 40;
  const turn = () => (turns-- > 0 ? setImmediate(turn) : resolve());
  turn();
});

/** The browser's side of a WebSocket. */
class Socket {
  readyState = 0;
  bufferedAmount = 0;
  sent = [];

  constructor(relay, protocol) {
    Object.assign(this, { relay, protocol });
    queueMicrotask(() => {
      this.readyState = 1;
      this.onopen?.();
    });
  }

  send(data) {
    // As a browser does, which copies at once.
    const copy = typeof data === 'string' ? data : data.slice();
    this.sent.push(copy);
    const { latency, clock } = this.relay;
    const arrive = () => this.relay.receive(this, copy);
    if (latency > 0) clock.setTimeout(arrive, latency);
    else queueMicrotask(arrive);
  }

  deliver(data) {
    this.onmessage?.({ data: typeof data === 'string' ? data : data.slice().buffer });
  }

  close(code = 1000, reason = '') {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

/**
 * Challenges AUTH, grants it, answers SEND with 200 and hands it on. A test changes what it wants changed:
 * `answer(message)` may give a code instead of 200, or null for no answer; `forward(message, deliver)` may
 * deliver later, in another order, or not at all.
 */
export class Relay {
  sessions = new Map();
  sockets = [];
  seen = [];
  expires = 1800;
  /** How long what a client sends is under way, by `clock`. */
  latency = 0;
  clock = null;
  challenge = 'Digest realm="test", nonce="abc", opaque="o", qop="auth", algorithm=MD5';
  answer = () => 200;
  forward = (message, deliver) => deliver(message);
  #count = 0;

  connect = (url, protocol) => {
    const socket = new Socket(this, protocol);
    this.sockets.push(socket);
    return socket;
  };

  receive(socket, data) {
    const message = parse(data);
    this.seen.push(message);
    if (message.method === 'AUTH') return this.#auth(socket, message);
    if (message.code) return undefined;
    if (message.method === 'SEND') {
      const code = this.answer(message);
      if (code !== null) this.#respond(socket, message, code);
      if (code !== 200) return undefined;
    }
    return this.forward(message, (each) => this.#hop(each));
  }

  #respond(socket, { id, toPath, fromPath }, code, headers = []) {
    socket.deliver(serialize({ id, code, comment: 'x', toPath: [fromPath[0]], fromPath: [toPath[0]], headers }));
  }

  #auth(socket, message) {
    if (!message.headers.has('authorization')) {
      return this.#respond(socket, message, 401, [['WWW-Authenticate', this.challenge]]);
    }
    const code = this.answer(message);
    if (code !== 200) return this.#respond(socket, message, code, [['WWW-Authenticate', this.challenge]]);
    const uri = `msrps://relay.test:2855/s${++this.#count};tcp`;
    this.sessions.set(uri, socket);
    return this.#respond(socket, message, 200, [['Use-Path', uri], ['Expires', this.expires]]);
  }

  /** Every hop is ours: the first is taken off and put before From-Path, until there is only the client. */
  #hop(message) {
    let { toPath, fromPath } = message;
    let socket;
    while (toPath.length > 1) {
      socket = this.sessions.get(toPath[0]) ?? socket;
      fromPath = [toPath[0], ...fromPath];
      toPath = toPath.slice(1);
    }
    const names = { 'to-path': 1, 'from-path': 1 };
    const headers = [...message.headers].filter(([name]) => !names[name]);
    socket?.deliver(serialize({ ...message, toPath, fromPath, headers }));
  }
}
