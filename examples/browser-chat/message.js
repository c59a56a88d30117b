// The MSRP grammar (RFC 4975 §9, RFC 4976 §7): one chunk or response, which is one WebSocket message
// (RFC 7977 §5.1), and the values of header fields. No state.

const encoder = new TextEncoder();
const decoder = new TextDecoder();
const END_LINE = '-------';
const IDENT = '[A-Za-z0-9][A-Za-z0-9.+%=-]{3,31}';
const START = new RegExp(`^MSRP (${IDENT}) (?:([A-Z]+)|(\\d{3})(?: (.*))?)$`);
const HEADER = /^([A-Za-z][!#-'*+\-.0-9A-Z^_`a-z{|}~]*): ?(.*)$/;
const URI = /^(msrps?):\/\/(?:([^@/;\s]*)@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%-]+)(?::(\d{1,5}))?(?:\/([A-Za-z0-9._~+=/-]+))?;([A-Za-z0-9]+)((?:;[^\s;]+)*)$/;

/** What is not MSRP. */
export class GrammarError extends Error {}

/** A random ident of `length` characters (RFC 4975 §7.1: 64 bits or more; 20 characters have 100). */
export function randomIdent(length = 20) {
  const alphabet = 'abcdefghijklmnopqrstuvwxyz234567';
  return Array.from(crypto.getRandomValues(new Uint8Array(length)), (byte) => alphabet[byte % 32]).join('');
}

/** The parts of an MSRP URI: `{ scheme, user, host, port, session, transport, parameters }`. Throws. */
export function parseUri(text) {
  const found = URI.exec(text);
  if (!found) throw new GrammarError(`“${text}” is no MSRP URI`);
  const [, scheme, user, host, port, session, transport, parameters] = found;
  if (port && Number(port) > 65535) throw new GrammarError(`“${text}” has no good port`);
  return { scheme, user, host, port: port && Number(port), session, transport, parameters };
}

/** Whether two URIs are the same one (RFC 4975 §6.1): host and scheme without regard to case. */
export function sameUri(one, other) {
  if (one === other) return true;
  try {
    const [a, b] = [parseUri(one), parseUri(other)];
    return a.scheme === b.scheme && a.host.toLowerCase() === b.host.toLowerCase() && a.port === b.port
      && a.session === b.session && a.transport.toLowerCase() === b.transport.toLowerCase();
  } catch {
    return false;
  }
}

/**
 * The URIs of a path, as it stands in SDP (`a=path:…`), in To-Path, or alone. Throws.
 */
export function parsePath(text) {
  const uris = text.trim().replace(/^a=/, '').replace(/^path:/, '').trim().split(/\s+/).filter(Boolean);
  if (uris.length === 0) throw new GrammarError('the path is empty');
  uris.forEach(parseUri);
  return uris;
}

/** Byte-Range: `{ start, end, total }`, where `end` and `total` are null for `*`. Throws. */
export function parseByteRange(text) {
  const found = /^(\d{1,15})-(\d{1,15}|\*)\/(\d{1,15}|\*)$/.exec(text);
  if (!found) throw new GrammarError(`“${text}” is no Byte-Range`);
  const [start, end, total] = found.slice(1).map((part) => (part === '*' ? null : Number(part)));
  // An empty message or chunk ends before it begins.
  const wrong = start < 1 || (end !== null && end < start - 1) || (total !== null && end !== null && end > total);
  if (wrong) throw new GrammarError(`“${text}” is no Byte-Range`);
  return { start, end, total };
}

/** Status of a REPORT: `{ namespace, code, comment }`. Throws. */
export function parseStatus(text) {
  const found = /^(\d{3}) (\d{3})(?: (.*))?$/.exec(text);
  if (!found) throw new GrammarError(`“${text}” is no Status`);
  return { namespace: found[1], code: Number(found[2]), comment: found[3] ?? '' };
}

/** Where CRLF CRLF begins, or -1. */
function emptyLine(bytes) {
  for (let at = bytes.indexOf(13); at >= 0 && at + 3 < bytes.length; at = bytes.indexOf(13, at + 1)) {
    if (bytes[at + 1] === 10 && bytes[at + 2] === 13 && bytes[at + 3] === 10) return at;
  }
  return -1;
}

const startsWith = (bytes, at, text) => {
  for (let i = 0; i < text.length; i++) {
    if (bytes[at + i] !== text.charCodeAt(i)) return false;
  }
  return true;
};

/**
 * Reads one WebSocket message (a string or a Uint8Array), which is exactly one chunk or response.
 *
 * Gives `{ id, method | (code, comment), headers, toPath, fromPath, body, flag }`. `headers` is a Map from
 * lower-case names to first values. `body` is a view into the input, and null without content; a body may
 * be empty. Throws a GrammarError, with `id` in it when the start line can be read.
 */
export function parse(input) {
  const bytes = typeof input === 'string' ? encoder.encode(input) : input;
  const lineEnd = bytes.indexOf(10);
  const start = START.exec(decoder.decode(bytes.subarray(0, Math.max(lineEnd - 1, 0))));
  if (!start || bytes[lineEnd - 1] !== 13) throw new GrammarError('no start line');
  const [, id, method, code, comment = ''] = start;
  const fail = (reason) => Object.assign(new GrammarError(reason), { id });

  const tail = END_LINE.length + id.length + 3;
  const endLine = bytes.length - tail;
  const ended = endLine > lineEnd && startsWith(bytes, endLine, END_LINE + id)
    && bytes[bytes.length - 2] === 13 && bytes[bytes.length - 1] === 10;
  const flag = String.fromCharCode(bytes[bytes.length - 3]);
  if (!ended || !'$+#'.includes(flag)) throw fail('no end-line');

  const empty = emptyLine(bytes.subarray(0, endLine));
  const headEnd = empty < 0 ? endLine : empty + 2;
  let body = null;
  if (empty >= 0) {
    if (code) throw fail('a response with content');
    // The CRLF before the end-line is not of the body.
    if (endLine - 2 < headEnd + 2 || !startsWith(bytes, endLine - 2, '\r\n')) throw fail('no line break after the body');
    body = bytes.subarray(headEnd + 2, endLine - 2);
  }
  const lines = decoder.decode(bytes.subarray(lineEnd + 1, headEnd)).split('\r\n');
  if (lines.pop() !== '') throw fail('a header line without end');
  const headers = new Map();
  for (const [index, line] of lines.entries()) {
    const found = HEADER.exec(line);
    if (!found) throw fail(`no header field: “${line}”`);
    const name = found[1].toLowerCase();
    const expected = ['to-path', 'from-path'][index];
    if (expected && name !== expected) throw fail(`${expected} is missing`);
    if (!headers.has(name)) headers.set(name, found[2]);
  }
  if (lines.length < 2) throw fail('To-Path or From-Path is missing');
  const path = (name) => {
    try {
      return parsePath(headers.get(name));
    } catch (error) {
      throw fail(error.message);
    }
  };
  return {
    id,
    method,
    code: code && Number(code),
    comment,
    headers,
    toPath: path('to-path'),
    fromPath: path('from-path'),
    body,
    flag,
  };
}

/** Whether an end-line of `id` could be seen in `body`. */
function holdsEndLine(body, id) {
  const line = END_LINE + id;
  for (let at = body.indexOf(45); at >= 0; at = body.indexOf(45, at + 1)) {
    if (startsWith(body, at, line)) return true;
  }
  return false;
}

/**
 * Writes a chunk or response: a string without content, a Uint8Array with it.
 *
 * `message` is `{ id, method | (code, comment), toPath, fromPath, headers, body, flag }`. `headers` is an
 * array of names and values, in the order of the wire; Content-Type has to be the last one (RFC 4975 §9).
 * Header values must not have line breaks; they are taken out. Throws when the body holds the end-line:
 * take another id.
 */
export function serialize({ id, method, code, comment, toPath, fromPath, headers = [], body = null, flag = '$' }) {
  const clean = (text) => String(text).replace(/[\u0000-\u0008\n-\u001f\u007f]/g, ' ');
  const lines = [
    `MSRP ${id} ${method ?? [code, comment].filter(Boolean).map(clean).join(' ')}`,
    `To-Path: ${toPath.join(' ')}`,
    `From-Path: ${fromPath.join(' ')}`,
    ...headers.map(([name, value]) => `${name}: ${clean(value)}`),
  ];
  const head = `${lines.join('\r\n')}\r\n`;
  const endLine = `${END_LINE}${id}${flag}\r\n`;
  if (body === null) return head + endLine;
  if (holdsEndLine(body, id)) throw new GrammarError('the body holds the end-line');
  const before = encoder.encode(`${head}\r\n`);
  const after = encoder.encode(`\r\n${endLine}`);
  const bytes = new Uint8Array(before.length + body.length + after.length);
  bytes.set(before);
  bytes.set(body, before.length);
  bytes.set(after, before.length + body.length);
  return bytes;
}

/** Reads Content-Disposition (RFC 2183): `{ type, filename, size, hash }`. Never throws. */
export function parseDisposition(value) {
  const [type] = value.split(';', 1);
  const found = { type: type.trim().toLowerCase() };
  let extended;
  const parameter = /;\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^;]*))/g;
  for (const [, name, quoted, token] of value.slice(type.length).matchAll(parameter)) {
    const text = quoted?.replace(/\\(.)/g, '$1') ?? token.trim();
    switch (name.toLowerCase()) {
      case 'filename': found.filename = text; break;
      case 'filename*': extended = decodeExtended(text); break;
      case 'size': if (/^\d{1,15}$/.test(text)) found.size = Number(text); break;
      // Not of RFC 2183: the selector of RFC 5547 §6, which would have come in SDP.
      case 'hash': if (/^sha-256:([0-9a-f]{2}:){31}[0-9a-f]{2}$/i.test(text)) found.hash = text.slice(8).replaceAll(':', '').toLowerCase(); break;
      default:
    }
  }
  // RFC 6266 §4.3: the extended one is preferred.
  if (extended !== undefined) found.filename = extended;
  return found;
}

/** `UTF-8''a%20b` (RFC 8187), or undefined. */
function decodeExtended(text) {
  const found = /^utf-8'[^']*'(.*)$/i.exec(text);
  try {
    return found ? decodeURIComponent(found[1]) : undefined;
  } catch {
    return undefined;
  }
}

/** Content-Disposition of a file; `hash` is SHA-256 in hexadecimal digits, or nothing. */
export function disposition({ filename, size, hash }) {
  const name = filename.replace(/[\u0000-\u001f\u007f]/g, '_').replace(/["\\]/g, '\\$&');
  const selector = hash ? `; hash="sha-256:${hash.toUpperCase().match(/../g).join(':')}"` : '';
  return `attachment; filename="${name}"; size=${size}${selector}`;
}

/** A name from the other side, fit to be shown and saved: its last part, nothing hidden, not too long. */
export function safeFileName(name) {
  const last = (name ?? '').split(/[/\\]/).pop();
  const clean = last.replace(/[\p{C}"<>:|?*]/gu, '_').replace(/^[.\s]+|[.\s]+$/g, '');
  if (clean.length <= 120) return clean || 'file';
  const dot = clean.lastIndexOf('.');
  const suffix = dot > clean.length - 12 && dot > 0 ? clean.slice(dot) : '';
  return clean.slice(0, 120 - suffix.length) + suffix;
}
