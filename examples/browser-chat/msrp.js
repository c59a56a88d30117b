// An MSRP client over WebSocket (RFC 4975, RFC 4976, RFC 7977), for one conversation. No DOM.

import { authorize, chooseChallenge, parseChallenges, sha256OfBlob, hex } from './digest.js';
import {
  disposition, parse, parseByteRange, parseDisposition, parsePath, parseStatus, randomIdent, sameUri, serialize,
} from './message.js';
import { Incoming, Outgoing } from './transfer.js';

/** A WebSocket message is at most 64 KiB; this is left for the head. */
const MESSAGE_SIZE = 64 * 1024;
const HEAD_ROOM = 4 * 1024;
export const CHUNK_SIZE = MESSAGE_SIZE - HEAD_ROOM;
/** Chunks that wait for their response. */
export const WINDOW = 16;
/** Bytes the browser may hold that the network has not taken; and how long until we look again. */
const BUFFERED = 512 * 1024;
const BUFFERED_RETRY = 20;
/** A response comes within 30 s (RFC 4975 §7.1.1) of when the network took the chunk. */
const RESPONSE_TIMEOUT = 30_000;
/** A message that begins to come and does not go on for so long is given up. */
const STALL_TIMEOUT = 120_000;
const TICK = 1_000;
/** AUTH again so long before the end, or after half of a time shorter than twice of it. */
const RENEW_BEFORE = 30_000;
/** The longest text shown as a message; the rest are files. */
export const MAX_TEXT = 64 * 1024;
/** The largest file that is taken. */
const MAX_INCOMING = 4 * 1024 ** 3;
/** Messages that come at the same time, separate runs of bytes in one, and messages remembered as over. */
const MAX_CONCURRENT = 16;
const MAX_RUNS = 1000;
const MAX_REMEMBERED = 256;
/** Files up to this size are hashed before they are sent, for the receiver to check. */
const HASH_LIMIT = 64 * 1024 * 1024;
const MAX_AUTH_ROUNDS = 4;
/** “I am not typing” (RFC 3994): nobody sees it, and the other side learns our new path by it. */
const COMPOSING = 'application/im-iscomposing+xml';
const IDLE = '<isComposing xmlns="urn:ietf:params:xml:ns:im-iscomposing"><state>idle</state></isComposing>';

const REASONS = {
  200: 'OK', 400: 'Bad Request', 403: 'Forbidden', 413: 'Stop Sending', 415: 'Unsupported Media Type',
  481: 'Session Does Not Exist', 501: 'Not Implemented',
};

const realClock = {
  now: () => performance.now(),
  setTimeout: (call, delay) => setTimeout(call, delay),
  clearTimeout: (timer) => clearTimeout(timer),
};

/**
 * A connection to a relay, and the conversation over it. Events, with `detail`:
 *
 * - `open` `{ path }`: logged in; `path` is for the other side. Again after each renewal: it is another one.
 * - `peer` `{ path }`: the other side is known, or has moved.
 * - `text` `{ text }`; `file` `{ transfer }`: an `Incoming` that begins.
 * - `closed` `{ reason, wasOpen, final }`: `final` when trying again makes no sense (wrong password).
 */
export class Endpoint extends EventTarget {
  #options;
  #socket = null;
  #clock;
  #own;
  #relay;
  #usePath = [];
  #ourUris = [];
  #peer = null;
  #transactions = new Map();
  #queue = [];
  #outgoing = new Map();
  #incoming = new Map();
  #finished = new Map();
  #timers = {};
  #lastBuffered = 0;
  #lastDrain = 0;
  #reading = false;
  #texts = Promise.resolve();
  #isOpen = false;

  /**
   * `url` is the relay's WebSocket (`wss://…`), `domain` what the relay calls itself, if that is not the host
   * of the URL. For tests: `connect(url, protocol)` gives a WebSocket, `clock` is the time.
   */
  constructor({ url, user, password, domain = '', expires = null, connect, clock = realClock }) {
    super();
    const place = new URL(url);
    if (!['ws:', 'wss:'].includes(place.protocol)) throw new TypeError('the address begins with wss:// or ws://');
    const secure = place.protocol === 'wss:';
    const scheme = secure ? 'msrps' : 'msrp';
    const port = place.port || (secure ? 443 : 80);
    this.#relay = `${scheme}://${domain || place.hostname}:${port};ws`;
    this.#own = `${scheme}://${randomIdent(12)}.invalid:2855/${randomIdent()};ws`;
    this.#clock = clock;
    this.#options = { url, user, password, expires, connect: connect ?? ((to, protocol) => new WebSocket(to, protocol)) };
  }

  /** Our path, for the other side: the relay's URIs, the outermost first, and our own. */
  get path() {
    return [...this.#usePath].reverse().concat(this.#own);
  }

  /** The other side's path, or null. */
  get peer() {
    return this.#peer;
  }

  get isOpen() {
    return this.#isOpen;
  }

  /** Connects and logs in; also again, when it was closed. */
  connect() {
    if (this.#socket) return;
    const socket = this.#options.connect(this.#options.url, 'msrp');
    this.#socket = socket;
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => this.#authenticate();
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => {
      const words = reason || (code === 1006 ? 'the relay cannot be reached, or the connection was lost' : `closed with code ${code}`);
      this.#closed(words);
    };
  }

  /** Ends the connection. What is under way fails. */
  close(reason = 'closed', final = true) {
    const socket = this.#socket;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(1000);
    this.#closed(reason, final);
  }

  /** Talks to this path (text, or an array of URIs) from now on; null waits for whoever comes. Throws. */
  setPeer(path) {
    this.#peer = path === null ? null : parsePath(Array.isArray(path) ? path.join(' ') : path);
    if (this.#peer) {
      if (sameUri(this.#peer.at(-1), this.#own)) {
        this.#peer = null;
        throw new TypeError('this is your own path; the other side has another one');
      }
      this.#emit('peer', { path: this.#peer });
    }
  }

  /** Sends text; gives the `Outgoing`. */
  sendText(text) {
    const source = new TextEncoder().encode(text);
    return this.#send({ source, contentType: 'text/plain;charset=UTF-8', kind: 'text' });
  }

  /** Sends a File or Blob; gives the `Outgoing`. It may be cancelled at once, with `cancel`. */
  sendFile(file) {
    const name = file.name || 'file';
    const contentType = /^[\w.+-]+\/[\w.+-]+$/.test(file.type) ? file.type : 'application/octet-stream';
    const describe = (hash) => [['Content-Disposition', disposition({ filename: name, size: file.size, hash })]];
    const message = { source: file, contentType, headers: describe(), kind: 'file' };
    if (file.size > HASH_LIMIT) return this.#send(message);
    const transfer = this.#send(message, { later: true });
    sha256OfBlob(file).then(
      (hash) => {
        transfer.headers = describe(hex(hash));
        this.#enqueue(transfer);
      },
      () => this.#fail(transfer, 'the file cannot be read'),
    );
    return transfer;
  }

  /** Stops a message that is being sent or received. */
  cancel(transfer) {
    if (transfer instanceof Outgoing) this.#abort(transfer, 'cancelled', '');
    // The sender hears of it with its next chunk: 413 (RFC 4975 §10.5).
    else transfer.end('cancelled');
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #closed(reason, final = false) {
    const wasOpen = this.#isOpen;
    this.#socket = null;
    this.#isOpen = false;
    Object.values(this.#timers).forEach((timer) => this.#clock.clearTimeout(timer));
    this.#timers = {};
    this.#transactions.clear();
    this.#queue = [];
    for (const transfer of [...this.#outgoing.values(), ...this.#incoming.values()]) transfer.end('failed', reason);
    this.#outgoing.clear();
    this.#incoming.clear();
    this.#usePath = [];
    this.#emit('closed', { reason, wasOpen, final });
  }

  #timer(name, delay, call) {
    if (this.#timers[name] !== undefined) return;
    this.#timers[name] = this.#clock.setTimeout(() => {
      delete this.#timers[name];
      call();
    }, delay);
  }

  // ---- requests and responses

  /** Sends a request with a new transaction id; `answered` gets the response, or null when none came. */
  #request(request, answered) {
    let id;
    let data;
    do {
      id = randomIdent();
      try {
        data = serialize({ ...request, id });
      } catch {
        data = null; // The end-line is in the body: another id.
      }
    } while (data === null);
    if (answered) {
      this.#transactions.set(id, { answered, at: this.#clock.now() });
      this.#timer('tick', TICK, () => this.#tick());
    }
    this.#write(data);
  }

  #write(data) {
    if (this.#socket?.readyState === 1) this.#socket.send(data);
  }

  #respond(request, code) {
    this.#write(serialize({
      id: request.id, code, comment: REASONS[code], toPath: [request.fromPath[0]], fromPath: [request.toPath[0]],
    }));
  }

  /** What time brings: responses that do not come, messages that do not go on. */
  #tick() {
    const now = this.#clock.now();
    const buffered = this.#socket?.bufferedAmount ?? 0;
    // A slow network is no silent relay: as long as bytes leave, chunks are still on their way there.
    if (buffered < this.#lastBuffered) this.#lastDrain = now;
    this.#lastBuffered = buffered;
    for (const [id, { answered, at }] of this.#transactions) {
      if (now - Math.max(at, this.#lastDrain) < RESPONSE_TIMEOUT) break;
      this.#transactions.delete(id);
      answered(null);
    }
    for (const transfer of this.#incoming.values()) {
      if (now - transfer.lastAt >= STALL_TIMEOUT) {
        transfer.end('failed', 'it does not go on');
        this.#forget(transfer, 413);
      }
    }
    if (this.#transactions.size > 0 || this.#incoming.size > 0) this.#timer('tick', TICK, () => this.#tick());
    this.#pump();
  }

  #receive(data) {
    let message;
    try {
      message = parse(typeof data === 'string' ? data : new Uint8Array(data));
    } catch {
      // Nothing can be said to it, for where from is not known; its sender hears no response.
      return;
    }
    if (message.code) {
      const transaction = this.#transactions.get(message.id);
      this.#transactions.delete(message.id);
      transaction?.answered(message);
    } else if (message.method === 'SEND') {
      this.#receiveSend(message);
    } else if (message.method === 'REPORT') {
      this.#receiveReport(message);
    } else {
      this.#respond(message, 501);
    }
  }

  // ---- AUTH (RFC 4976 §5.1)

  #authenticate(round = 1, challenge = null, expires = this.#options.expires) {
    const { user, password } = this.#options;
    const headers = expires === null ? [] : [['Expires', expires]];
    if (challenge) {
      const cnonce = randomIdent();
      headers.push(['Authorization', authorize(challenge, { user, password, method: 'AUTH', uri: this.#relay, cnonce })]);
    }
    this.#request({ method: 'AUTH', toPath: [this.#relay], fromPath: [this.#own], headers }, (response) => {
      const refuse = (reason, final = true) => this.close(reason, final);
      if (!response) return refuse('the relay does not answer', false);
      const value = (name) => response.headers.get(name) ?? '';
      const again = round < MAX_AUTH_ROUNDS;
      if (response.code === 200) return this.#loggedIn(value('use-path'), Number(value('expires')) || 0);
      if (response.code === 401) {
        const next = chooseChallenge(parseChallenges(value('www-authenticate')));
        if (!next) return refuse('the relay asks for a login that this page does not know');
        const stale = next.stale?.toLowerCase() === 'true';
        if (!again || (challenge && !stale)) return refuse('the name or the password is wrong');
        return this.#authenticate(round + 1, next, expires);
      }
      const bound = Number(value('max-expires') || value('min-expires'));
      if (response.code === 423 && again && bound > 0) return this.#authenticate(round + 1, challenge, bound);
      return refuse(`the relay says: ${response.code} ${response.comment}`);
    });
  }

  #loggedIn(usePath, expires) {
    try {
      this.#usePath = parsePath(usePath);
    } catch {
      this.close('the relay gives no path');
      return;
    }
    const moved = this.#ourUris.length > 0;
    this.#ourUris = this.#usePath.concat(this.#ourUris).slice(0, 64);
    this.#isOpen = true;
    if (expires > 0) {
      const lifetime = expires * 1000;
      const renew = lifetime > 2 * RENEW_BEFORE ? lifetime - RENEW_BEFORE : lifetime / 2;
      // A timer holds 31 bits of milliseconds.
      this.#timer('renew', Math.min(renew, 2 ** 31 - 1), () => this.#authenticate());
    }
    this.#emit('open', { path: this.path });
    if (moved && this.#peer) {
      this.#send({ source: new TextEncoder().encode(IDLE), contentType: COMPOSING, kind: 'idle' });
    }
  }

  // ---- sending (RFC 4975 §7.1)

  #send(message, { later = false } = {}) {
    if (!this.#isOpen) throw new Error('not connected');
    if (!this.#peer) throw new Error('nobody to send to');
    const transfer = new Outgoing({ id: randomIdent(), ...message });
    // The path of a message does not change under way, as that of the session may.
    transfer.toPath = this.#usePath.concat(this.#peer);
    this.#outgoing.set(transfer.id, transfer);
    for (const [id, { over }] of this.#outgoing) {
      if (this.#outgoing.size <= MAX_REMEMBERED) break;
      if (over) this.#outgoing.delete(id);
    }
    if (!later) this.#enqueue(transfer);
    return transfer;
  }

  #enqueue(transfer) {
    if (transfer.over) return;
    this.#queue.push(transfer);
    this.#pump();
  }

  /** Sends chunks, of each message one in turn, as long as responses come and the network takes them. */
  #pump() {
    while (this.#socket && !this.#reading && this.#queue.length > 0 && this.#transactions.size < WINDOW) {
      if (this.#socket.bufferedAmount > BUFFERED) {
        this.#timer('buffered', BUFFERED_RETRY, () => this.#pump());
        return;
      }
      const transfer = this.#queue[0];
      if (!transfer.hasMore) {
        this.#queue.shift();
      } else if (transfer.ready(CHUNK_SIZE)) {
        this.#queue.push(this.#queue.shift());
        this.#sendChunk(transfer);
      } else {
        this.#read(transfer);
      }
    }
  }

  async #read(transfer) {
    this.#reading = true;
    try {
      await transfer.read();
    } catch {
      this.#abort(transfer, 'failed', 'the file cannot be read');
    }
    this.#reading = false;
    this.#pump();
  }

  #sendChunk(transfer) {
    const { start, body, last } = transfer.take(CHUNK_SIZE);
    const { length } = body;
    const range = `${start}-${start + length - 1}/${transfer.size}`;
    this.#request(this.#sendRequest(transfer, range, body, last ? '$' : '+'), (response) => {
      if (response?.code === 200) {
        transfer.answered(length);
      } else if (response) {
        this.#fail(transfer, response.code === 413 ? 'the other side does not want it' : `${response.code} ${response.comment}`);
      } else {
        this.#fail(transfer, 'no answer');
      }
      this.#pump();
    });
  }

  #sendRequest(transfer, range, body, flag) {
    const headers = [['Message-ID', transfer.id], ['Byte-Range', range]];
    headers.push(['Success-Report', transfer.kind === 'idle' ? 'no' : 'yes']);
    headers.push(...transfer.headers, ['Content-Type', transfer.contentType]);
    return { method: 'SEND', toPath: transfer.toPath, fromPath: [this.#own], headers, body, flag };
  }

  #fail(transfer, reason) {
    this.#abort(transfer, 'failed', reason);
  }

  /** Ends a message; if the other side has a part of it, with `#` (RFC 4975 §7.1.2). */
  #abort(transfer, state, reason) {
    const begun = transfer.hasMore && transfer.sent > 0;
    transfer.end(state, reason);
    if (begun) {
      const at = transfer.sent + 1;
      const empty = new Uint8Array(0);
      this.#request(this.#sendRequest(transfer, `${at}-*/${transfer.size}`, empty, '#'), () => this.#pump());
    }
  }

  #receiveReport({ headers, toPath }) {
    if (!sameUri(toPath.at(-1), this.#own)) return;
    const transfer = this.#outgoing.get(headers.get('message-id'));
    if (!transfer) return;
    try {
      const { code, comment } = parseStatus(headers.get('status') ?? '');
      if (code !== 200) return this.#fail(transfer, `${code} ${comment}`.trim());
      return transfer.reported(parseByteRange(headers.get('byte-range') ?? '1-*/*'));
    } catch {
      return undefined; // REPORT is never answered (RFC 4975 §7.1.2).
    }
  }

  // ---- receiving (RFC 4975 §7.3)

  #receiveSend(request) {
    const failureReport = (request.headers.get('failure-report') ?? 'yes').toLowerCase();
    const code = this.#take(request);
    if (failureReport === 'yes' || (failureReport === 'partial' && code !== 200)) this.#respond(request, code);
    if (code === 200) this.#completed(request);
  }

  /** Takes a chunk; gives the response's code. */
  #take(request) {
    const { headers, body, flag, toPath, fromPath } = request;
    if (toPath.length !== 1 || !sameUri(toPath[0], this.#own)) return 481;
    const sender = fromPath.slice(fromPath.findIndex((uri) => !this.#ourUris.some((our) => sameUri(our, uri))));
    if (this.#peer && !sameUri(this.#peer.at(-1), sender.at(-1))) return 481;
    if (this.#peer?.join(' ') !== sender.join(' ')) {
      this.#peer = sender;
      this.#emit('peer', { path: sender });
    }
    // Without content it only says that the sender is there (RFC 4975 §7.1).
    if (body === null) return 200;
    const id = headers.get('message-id');
    const contentType = headers.get('content-type');
    if (!id || !contentType) return 400;
    if (this.#finished.has(id)) return this.#finished.get(id);
    let range;
    try {
      range = parseByteRange(headers.get('byte-range') ?? '1-*/*');
    } catch {
      return 400;
    }
    if (/^(message|multipart)\//i.test(contentType)) return 415;
    let transfer = this.#incoming.get(id);
    if (!transfer && flag === '#') return 200;
    if (!transfer) {
      if (this.#incoming.size >= MAX_CONCURRENT) return 413;
      transfer = new Incoming({ id, contentType, disposition: parseDisposition(headers.get('content-disposition') ?? '') });
      this.#incoming.set(id, transfer);
      this.#timer('tick', TICK, () => this.#tick());
    }
    transfer.lastAt = this.#clock.now();
    const most = Math.max(range.total ?? 0, range.start + body.length - 1, transfer.total ?? 0);
    if (transfer.over || most > MAX_INCOMING || transfer.parts.count > MAX_RUNS) {
      transfer.end('failed', 'it is too large');
      this.#show(transfer);
      this.#forget(transfer, 413);
      return 413;
    }
    if (flag === '#') {
      transfer.end('cancelled', 'by the other side');
      this.#forget(transfer, 200);
      return 200;
    }
    transfer.complete = transfer.add(range, body, flag);
    this.#show(transfer);
    return 200;
  }

  /** What is no short text is shown as a file, from its first chunk on. */
  #show(transfer) {
    const { contentType, disposition: { type, filename } } = transfer;
    if (contentType.toLowerCase().startsWith(COMPOSING)) return;
    const isText = /^text\/plain\b/i.test(contentType) && type !== 'attachment' && filename === undefined;
    if (isText && Math.max(transfer.total ?? 0, transfer.received) <= MAX_TEXT) return;
    if (!transfer.shown) {
      transfer.shown = true;
      this.#emit('file', { transfer });
    }
    transfer.onchange(transfer);
  }

  #forget(transfer, code) {
    this.#incoming.delete(transfer.id);
    this.#finished.set(transfer.id, code);
    if (this.#finished.size > MAX_REMEMBERED) this.#finished.delete(this.#finished.keys().next().value);
  }

  /** If the message is complete: reports it and shows it. */
  #completed({ headers, fromPath }) {
    const transfer = this.#incoming.get(headers.get('message-id'));
    if (!transfer?.complete) return;
    this.#forget(transfer, 200);
    if ((headers.get('success-report') ?? '').toLowerCase() === 'yes') {
      const { total } = transfer;
      this.#request({
        method: 'REPORT',
        toPath: fromPath,
        fromPath: [this.#own],
        headers: [['Message-ID', transfer.id], ['Byte-Range', `1-${total}/${total}`], ['Status', '000 200 OK']],
      });
    }
    // Never as what it says it is: a page from the other side must not run in ours.
    const blob = transfer.parts.blob(transfer.shown ? 'application/octet-stream' : 'text/plain');
    if (transfer.shown) {
      this.#check(transfer, blob);
    } else if (!transfer.contentType.toLowerCase().startsWith(COMPOSING)) {
      // One after the other, as they came.
      this.#texts = this.#texts.then(() => blob.text()).then((text) => this.#emit('text', { text }));
    }
  }

  async #check(transfer, blob) {
    const { hash } = transfer.disposition;
    if (hash !== undefined) {
      transfer.state = 'checking';
      transfer.onchange(transfer);
      transfer.verified = hex(await sha256OfBlob(blob)) === hash;
    }
    if (transfer.verified === false) {
      transfer.end('failed', 'it is not what was sent: its SHA-256 is another one');
      return;
    }
    transfer.blob = blob;
    transfer.end('received');
  }
}
