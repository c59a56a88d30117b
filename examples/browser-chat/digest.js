// HTTP Digest authentication (RFC 7616, RFC 2617) with our own MD5 and SHA-256.
//
// `crypto.subtle` is no help: it has no MD5, it cannot hash a stream, and on a page that came over plain
// http it is missing.

const encoder = new TextEncoder();

/** Lower-case hexadecimal digits of bytes. */
export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

const rotateLeft = (x, n) => (x << n) | (x >>> (32 - n));
const rotateRight = (x, n) => (x >>> n) | (x << (32 - n));

/** What MD5 and SHA-256 share: blocks of 64 bytes, and the padding with the length at the end. */
class Hash {
  #block = new Uint8Array(64);
  #view = new DataView(this.#block.buffer);
  #used = 0;
  #length = 0;

  /** Takes more bytes (a Uint8Array, or a string as UTF-8). */
  update(input) {
    const bytes = typeof input === 'string' ? encoder.encode(input) : input;
    this.#length += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const part = bytes.subarray(at, at + 64 - this.#used);
      this.#block.set(part, this.#used);
      this.#used += part.length;
      at += part.length;
      if (this.#used === 64) {
        this.compress(this.#view);
        this.#used = 0;
      }
    }
    return this;
  }

  /** The hash. Nothing may be added afterwards. */
  digest() {
    const length = this.#length;
    const padding = new Uint8Array((this.#used < 56 ? 56 : 120) - this.#used);
    padding[0] = 0x80;
    this.update(padding);
    const bits = new DataView(new ArrayBuffer(8));
    const [high, low] = [Math.floor(length / 0x20000000), (length << 3) >>> 0];
    bits.setUint32(0, this.littleEndian ? low : high, this.littleEndian);
    bits.setUint32(4, this.littleEndian ? high : low, this.littleEndian);
    this.update(new Uint8Array(bits.buffer));
    const out = new DataView(new ArrayBuffer(this.state.length * 4));
    this.state.forEach((word, i) => out.setUint32(i * 4, word, this.littleEndian));
    return new Uint8Array(out.buffer);
  }
}

const MD5_SHIFTS = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
const MD5_SINES = Int32Array.from({ length: 64 }, (_, i) => Math.floor(Math.abs(Math.sin(i + 1)) * 2 ** 32));

/** MD5 (RFC 1321). */
export class Md5 extends Hash {
  littleEndian = true;
  state = Int32Array.of(0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476);

  compress(view) {
    let [a, b, c, d] = this.state;
    for (let i = 0; i < 64; i++) {
      let mix;
      let word;
      if (i < 16) {
        [mix, word] = [(b & c) | (~b & d), i];
      } else if (i < 32) {
        [mix, word] = [(d & b) | (~d & c), (5 * i + 1) % 16];
      } else if (i < 48) {
        [mix, word] = [b ^ c ^ d, (3 * i + 5) % 16];
      } else {
        [mix, word] = [c ^ (b | ~d), (7 * i) % 16];
      }
      const sum = (a + mix + MD5_SINES[i] + view.getInt32(word * 4, true)) | 0;
      a = d;
      d = c;
      c = b;
      b = (b + rotateLeft(sum, MD5_SHIFTS[i >> 4][i % 4])) | 0;
    }
    [a, b, c, d].forEach((word, i) => { this.state[i] += word; });
  }
}

/**
 * The first 32 bits of the fractional parts of square or cube roots of the first primes (FIPS 180-4 §4.2.2,
 * §5.3.3). In integers: how exact Math.cbrt is, each browser decides for itself.
 */
function fractions(count, degree) {
  const primes = [];
  for (let n = 2; primes.length < count; n++) {
    if (primes.every((prime) => n % prime !== 0)) primes.push(n);
  }
  return Int32Array.from(primes, (prime) => {
    const power = BigInt(prime) << (32n * degree);
    // All of these roots are below 2^3.
    let root = 0n;
    for (let bit = 1n << 34n; bit > 0n; bit >>= 1n) {
      if ((root | bit) ** degree <= power) root |= bit;
    }
    return Number(BigInt.asIntN(32, root));
  });
}

const SHA256_START = fractions(8, 2n);
const SHA256_ROUNDS = fractions(64, 3n);

/** SHA-256 (FIPS 180-4). */
export class Sha256 extends Hash {
  littleEndian = false;
  state = SHA256_START.slice();
  #words = new Int32Array(64);

  compress(view) {
    const words = this.#words;
    for (let i = 0; i < 16; i++) words[i] = view.getInt32(i * 4);
    for (let i = 16; i < 64; i++) {
      const [x, y] = [words[i - 15], words[i - 2]];
      const small0 = rotateRight(x, 7) ^ rotateRight(x, 18) ^ (x >>> 3);
      const small1 = rotateRight(y, 17) ^ rotateRight(y, 19) ^ (y >>> 10);
      words[i] = words[i - 16] + small0 + words[i - 7] + small1;
    }
    let [a, b, c, d, e, f, g, h] = this.state;
    for (let i = 0; i < 64; i++) {
      const big1 = rotateRight(e, 6) ^ rotateRight(e, 11) ^ rotateRight(e, 25);
      const first = (h + big1 + ((e & f) ^ (~e & g)) + SHA256_ROUNDS[i] + words[i]) | 0;
      const big0 = rotateRight(a, 2) ^ rotateRight(a, 13) ^ rotateRight(a, 22);
      const second = (big0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + first) | 0;
      d = c;
      c = b;
      b = a;
      a = (first + second) | 0;
    }
    const state = this.state;
    state[0] += a; state[1] += b; state[2] += c; state[3] += d;
    state[4] += e; state[5] += f; state[6] += g; state[7] += h;
  }
}

export const md5 = (input) => hex(new Md5().update(input).digest());
export const sha256 = (input) => hex(new Sha256().update(input).digest());

/** How much of a Blob is in memory while it is hashed. */
const HASH_SLICE = 1024 * 1024;

/** SHA-256 of a Blob, read slice by slice. */
export async function sha256OfBlob(blob) {
  const hash = new Sha256();
  for (let at = 0; at < blob.size; at += HASH_SLICE) {
    hash.update(new Uint8Array(await blob.slice(at, at + HASH_SLICE).arrayBuffer()));
  }
  return hash.digest();
}

/** Algorithms that we answer, the better one first. */
const ALGORITHMS = [['SHA-256', sha256], ['MD5', md5]];

/**
 * Reads the value of WWW-Authenticate: one challenge, or several separated by commas (RFC 7235 §4.1).
 * Those of another scheme than Digest are left out. Parameter names are in lower case.
 */
export function parseChallenges(value) {
  const challenges = [];
  let current = null;
  const item = /\s*(?:([A-Za-z][\w-]*)\s+(?=[\w-]+\s*=))?([\w*-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))\s*(?:,|$)/gy;
  for (let found = item.exec(value); found; found = item.exec(value)) {
    const [, scheme, name, quoted, token] = found;
    if (scheme) {
      current = scheme.toLowerCase() === 'digest' ? {} : null;
      if (current) challenges.push(current);
    }
    if (current) current[name.toLowerCase()] = quoted?.replace(/\\(.)/g, '$1') ?? token;
  }
  return challenges;
}

/** The challenge that is answered: the best algorithm, with qop=auth or without qop. Or undefined. */
export function chooseChallenge(challenges) {
  const usable = challenges.filter(({ nonce, realm, qop }) => nonce !== undefined && realm !== undefined
    && (qop === undefined || qop.split(',').some((each) => each.trim().toLowerCase() === 'auth')));
  for (const [name] of ALGORITHMS) {
    const found = usable.find(({ algorithm }) => (algorithm ?? 'MD5').toUpperCase() === name);
    if (found) return found;
  }
  return undefined;
}

const quote = (text) => `"${text.replace(/["\\]/g, '\\$&')}"`;

/**
 * The value of Authorization.
 *
 * @param challenge  one of `chooseChallenge`
 * @param answer     `{ user, password, method, uri, cnonce, nc, sendUri }`: `nc` counts the uses of this
 *   nonce from 1. `uri` is the rightmost URI of To-Path, as sent (RFC 4976 §9.1); it is written out only
 *   with `sendUri`, for there are relays that do not answer to it.
 */
export function authorize(challenge, { user, password, method, uri, cnonce, nc = 1, sendUri = false }) {
  const { realm, nonce, opaque, qop, algorithm = 'MD5' } = challenge;
  const hash = ALGORITHMS.find(([name]) => name === algorithm.toUpperCase())[1];
  const ha1 = hash(`${user}:${realm}:${password}`);
  const ha2 = hash(`${method}:${uri}`);
  const count = nc.toString(16).padStart(8, '0');
  const response = qop === undefined
    ? hash(`${ha1}:${nonce}:${ha2}`)
    : hash(`${ha1}:${nonce}:${count}:${cnonce}:auth:${ha2}`);
  const parts = [`username=${quote(user)}`, `realm=${quote(realm)}`, `nonce=${quote(nonce)}`];
  if (sendUri) parts.push(`uri=${quote(uri)}`);
  parts.push(`response="${response}"`);
  if (challenge.algorithm !== undefined) parts.push(`algorithm=${algorithm}`);
  if (qop !== undefined) parts.push('qop=auth', `nc=${count}`, `cnonce=${quote(cnonce)}`);
  if (opaque !== undefined) parts.push(`opaque=${quote(opaque)}`);
  return `Digest ${parts.join(', ')}`;
}
