// One message on its way out or in: what is known of it, without the connection.

import { Parts, Ranges } from './ranges.js';

/** How much of a file is read ahead, in bytes. */
const READ_AHEAD = 1024 * 1024;

/**
 * A message that we send.
 *
 * `state` goes from `sending` to `sent` (every chunk was answered with 200) to `delivered` (a success
 * report came), or ends as `failed` or `cancelled`; `reason` says why. `onchange` is called after each step.
 */
export class Outgoing {
  state = 'sending';
  reason = '';
  /** Bytes given to the WebSocket, and bytes that were answered with 200. */
  sent = 0;
  acknowledged = 0;
  onchange = () => {};
  #reported = new Ranges();
  #unanswered = 0;
  #buffer = new Uint8Array(0);
  #bufferStart = 0;
  #allSent = false;

  /** `source` is a Blob, or a Uint8Array for what is short. `headers` are those beside Content-Type. */
  constructor({ id, source, contentType, headers = [], kind }) {
    Object.assign(this, { id, source, contentType, headers, kind });
    this.size = source.size ?? source.length;
    if (source instanceof Uint8Array) this.#buffer = source;
  }

  /** Whether nothing will happen any more, apart from a report. */
  get over() {
    return this.state !== 'sending';
  }

  /** Whether there are bytes, or the one empty chunk, to be sent. */
  get hasMore() {
    return this.state === 'sending' && !this.#allSent;
  }

  /** Whether `length` more bytes are at hand without waiting. */
  ready(length) {
    const at = this.sent - this.#bufferStart;
    return at >= 0 && at + Math.min(length, this.size - this.sent) <= this.#buffer.length;
  }

  /** Reads what `ready` asks for. Rejects when the file has changed or gone. */
  async read() {
    const start = this.sent;
    const slice = this.source.slice(start, start + READ_AHEAD);
    this.#buffer = new Uint8Array(await slice.arrayBuffer());
    this.#bufferStart = start;
  }

  /** Takes the next chunk: `{ start, body, last }`, with `start` from 1. */
  take(length) {
    const at = this.sent - this.#bufferStart;
    const start = this.sent + 1;
    const body = this.#buffer.subarray(at, at + Math.min(length, this.size - this.sent));
    this.sent += body.length;
    this.#allSent = this.sent === this.size;
    this.#unanswered++;
    return { start, body, last: this.#allSent };
  }

  /** A chunk of `length` bytes was answered with 200. */
  answered(length) {
    this.#unanswered--;
    this.acknowledged += length;
    if (this.state === 'sending' && this.#allSent && this.#unanswered === 0) this.state = 'sent';
    this.onchange(this);
  }

  /** A success report for these bytes. */
  reported({ start, end, total }) {
    if (this.state !== 'sending' && this.state !== 'sent') return;
    this.#reported.add(start, Math.min(end ?? total ?? this.size, this.size));
    if (this.#allSent && this.#reported.covers(this.size)) this.end('delivered');
  }

  /** It is over. Later news do not change that. */
  end(state, reason = '') {
    if (this.state !== 'sending' && this.state !== 'sent') return;
    this.state = state;
    this.reason = reason;
    this.#buffer = new Uint8Array(0);
    this.onchange(this);
  }
}

/**
 * A message that we receive.
 *
 * `state` goes from `receiving` to `checking` (a hash was given, and is compared) to `received`, or ends as
 * `failed` or `cancelled`. `blob` is there when it is received. `onchange` is called after each step.
 */
export class Incoming {
  state = 'receiving';
  reason = '';
  blob = null;
  /** Whether the sender's SHA-256 was found right; null if there was none. */
  verified = null;
  onchange = () => {};
  parts = new Parts();
  total = null;

  constructor({ id, contentType, disposition }) {
    Object.assign(this, { id, contentType, disposition });
    this.total = disposition.size ?? null;
  }

  get received() {
    return this.parts.size;
  }

  get over() {
    return this.state !== 'receiving' && this.state !== 'checking';
  }

  /** Adds a chunk; gives whether that was the last byte missing. */
  add(range, body, flag) {
    if (range.total !== null) this.total = range.total;
    this.parts.add(range.start, body);
    // Without a total, `$` tells it.
    if (flag === '$') this.total = Math.max(range.total ?? 0, range.start + body.length - 1);
    const complete = this.total !== null && (flag === '$' || this.ended) && this.parts.covers(this.total);
    this.ended ||= flag === '$';
    return complete;
  }

  /** It is over. */
  end(state, reason = '') {
    if (this.over) return;
    this.state = state;
    this.reason = reason;
    this.parts = new Parts();
    this.onchange(this);
  }
}
