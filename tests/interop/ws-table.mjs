// What a WebSocket listener must answer to whom: handshakes (RFC 6455 §4.2, RFC 7977 §4.1), frames (RFC 6455 §5)
// and MSRP in them (RFC 7977 §5.1). Rows only; ws.test.mjs sends them.

/** The key of RFC 6455 §1.3, and what has to be answered to it. */
export const KEY = 'dGhlIHNhbXBsZSBub25jZQ==';
export const ACCEPT = 's3pPLMBiTxaQ9kYGzzhZRbK+xOo=';

const HEADERS = {
  Host: 'localhost',
  Upgrade: 'websocket',
  Connection: 'Upgrade',
  'Sec-WebSocket-Key': KEY,
  'Sec-WebSocket-Version': '13',
  'Sec-WebSocket-Protocol': 'msrp',
};

/** A handshake that differs from a good one: a header of null is left out, of an array comes several times. */
export function handshake({ line = 'GET /msrp HTTP/1.1', headers = {}, raw = '' } = {}) {
  const fields = Object.entries({ ...HEADERS, ...headers })
    .filter(([, value]) => value !== null)
    .flatMap(([name, value]) => [value].flat().map((each) => `${name}: ${each}\r\n`));
  return `${line}\r\n${fields.join('')}${raw}\r\n`;
}

/**
 * `[name, handshake, status, options]`. Options: `guarded` takes the listener that checks Origin; `has` are headers
 * of the answer, null for one that must not be there; `pieces` sends it byte by byte; `bytes` replaces it. A status of
 * null is the end of the connection: the relay does not answer by HTTP what is not HTTP/1.
 */
export const HANDSHAKES = [
  ['as in RFC 7977 §4.1', {}, 101, { has: { upgrade: /^websocket$/i, connection: /upgrade/i, 'sec-websocket-accept': ACCEPT, 'sec-websocket-protocol': 'msrp' } }],
  ['byte by byte', {}, 101, { pieces: true }],
  ['header names in small letters', { headers: { Upgrade: null, upgrade: 'websocket', Host: null, host: 'localhost' } }, 101],
  ['Upgrade: WebSocket', { headers: { Upgrade: 'WebSocket' } }, 101],
  ['Upgrade with others', { headers: { Upgrade: 'h2c, websocket' } }, 101],
  ['Connection: keep-alive, Upgrade', { headers: { Connection: 'keep-alive, Upgrade' } }, 101],
  ['Connection: upgrade', { headers: { Connection: 'upgrade' } }, 101],
  ['Connection in two lines', { headers: { Connection: ['keep-alive', 'Upgrade'] } }, 101],
  ['spaces around values', { headers: { 'Sec-WebSocket-Version': '  13\t', Upgrade: '  websocket ' } }, 101],
  ['no space after the colon', { headers: { Connection: null }, raw: 'Connection:Upgrade\r\n' }, 101],
  ['a query after the path', { line: 'GET /msrp?user=alice HTTP/1.1' }, 101],
  ['a port in Host', { headers: { Host: 'localhost:8443' } }, 101],
  ['unknown headers', { headers: { 'User-Agent': 'x', Cookie: 'a=b', 'X-Y': 'ä' } }, 101],
  ['extensions offered, none taken', { headers: { 'Sec-WebSocket-Extensions': 'permessage-deflate; client_max_window_bits' } }, 101, { has: { 'sec-websocket-extensions': null } }],
  ['Origin, and anybody may', { headers: { Origin: 'https://a.example' } }, 101, { has: { 'access-control-allow-origin': /^(https:\/\/a\.example|\*)$/ } }],
  ['no Origin: no header about it', {}, 101, { has: { 'access-control-allow-origin': null } }],

  ['msrp among others', { headers: { 'Sec-WebSocket-Protocol': 'sip, msrp' } }, 101, { has: { 'sec-websocket-protocol': 'msrp' } }],
  ['msrp in a second line', { headers: { 'Sec-WebSocket-Protocol': ['sip', 'msrp'] } }, 101, { has: { 'sec-websocket-protocol': 'msrp' } }],
  ['no sub-protocol', { headers: { 'Sec-WebSocket-Protocol': null } }, 400],
  ['another sub-protocol', { headers: { 'Sec-WebSocket-Protocol': 'sip' } }, 400],
  ['a sub-protocol that begins so', { headers: { 'Sec-WebSocket-Protocol': 'msrpx' } }, 400],
  ['an empty sub-protocol', { headers: { 'Sec-WebSocket-Protocol': '' } }, 400],

  ['another path', { line: 'GET /other HTTP/1.1' }, 404],
  ['the root', { line: 'GET / HTTP/1.1' }, 404],
  ['below the path', { line: 'GET /msrp/x HTTP/1.1' }, 404],
  ['the path in capitals', { line: 'GET /MSRP HTTP/1.1' }, 404],

  ['an Origin that is allowed', { headers: { Origin: 'https://chat.example.com' } }, 101, { guarded: true, has: { 'access-control-allow-origin': 'https://chat.example.com' } }],
  ['an Origin that is not', { headers: { Origin: 'https://evil.example' } }, 403, { guarded: true }],
  ['an Origin with another scheme', { headers: { Origin: 'http://chat.example.com' } }, 403, { guarded: true }],
  ['an Origin that begins so', { headers: { Origin: 'https://chat.example.com.evil.example' } }, 403, { guarded: true }],
  ['Origin: null', { headers: { Origin: 'null' } }, 403, { guarded: true }],

  ['no Upgrade', { headers: { Upgrade: null, Connection: null } }, 426, { has: { upgrade: /websocket/i } }],
  ['Upgrade to something else', { headers: { Upgrade: 'h2c' } }, 426],
  ['Connection without upgrade', { headers: { Connection: 'keep-alive' } }, [400, 426]],
  ['version 8', { headers: { 'Sec-WebSocket-Version': '8' } }, 426, { has: { 'sec-websocket-version': /\b13\b/ } }],
  ['no version', { headers: { 'Sec-WebSocket-Version': null } }, [400, 426]],
  ['version x', { headers: { 'Sec-WebSocket-Version': 'x' } }, [400, 426]],
  ['no key', { headers: { 'Sec-WebSocket-Key': null } }, 400],
  ['a key of 15 bytes', { headers: { 'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAA' } }, 400],
  ['a key of 17 bytes', { headers: { 'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAAAAAA=' } }, 400],
  ['a key that is not base64', { headers: { 'Sec-WebSocket-Key': '!!!!!!!!!!!!!!!!!!!!!!==' } }, 400],
  ['two keys', { headers: { 'Sec-WebSocket-Key': [KEY, KEY] } }, 400],
  ['no Host', { headers: { Host: null } }, 400],
  ['two Hosts', { headers: { Host: ['localhost', 'other'] } }, 400],
  ['POST', { line: 'POST /msrp HTTP/1.1' }, 405, { has: { allow: /GET/ } }],
  ['HTTP/1.0', { line: 'GET /msrp HTTP/1.0' }, 400],
  ['HTTP/2.0', { line: 'GET /msrp HTTP/2.0' }, [400, 505, null]],
  ['no version of HTTP', { line: 'GET /msrp' }, [400, null]],
  ['a header without colon', { raw: 'Hello\r\n' }, 400],
  ['a space before the colon', { raw: 'X : y\r\n' }, 400],
  ['a folded header', { raw: 'X: a\r\n b\r\n' }, 400],
  ['NUL in a header', { raw: 'X: a\u0000b\r\n' }, 400],
  ['a head of 64 KiB', { headers: { Cookie: 'x'.repeat(65536) } }, 431],
  ['1000 headers', { raw: 'X: y\r\n'.repeat(1000) }, 431],
  ['a line without end', {}, 431, { bytes: `GET /${'x'.repeat(65536)}` }],
  ['MSRP instead of HTTP', {}, [400, null], { bytes: 'MSRP abcd AUTH\r\nTo-Path: msrp://localhost;ws\r\n\r\n' }],
];

const encoder = new TextEncoder();
const bytesOf = (data) => (typeof data === 'string' ? encoder.encode(data) : data);

/** One frame. `length` is what it claims, `size` how that is written (7, 16 or 64 bits). */
export function frame(opcode, data = '', { fin = true, rsv = 0, masked = true, length, size } = {}) {
  const payload = bytesOf(data);
  const claimed = length ?? payload.length;
  const bits = size ?? (claimed < 126 ? 7 : claimed < 65536 ? 16 : 64);
  const head = Buffer.alloc({ 7: 2, 16: 4, 64: 10 }[bits]);
  head[0] = (fin ? 0x80 : 0) | (rsv << 4) | opcode;
  head[1] = (masked ? 0x80 : 0) | ({ 16: 126, 64: 127 }[bits] ?? claimed);
  if (bits === 16) head.writeUInt16BE(claimed, 2);
  if (bits === 64) head.writeBigUInt64BE(BigInt(claimed), 2);
  if (!masked) return Buffer.concat([head, payload]);
  const mask = Buffer.from([0x37, 0xfa, 0x21, 0x3d]);
  return Buffer.concat([head, mask, payload.map((byte, i) => byte ^ mask[i % 4])]);
}

export const [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] = [0, 1, 2, 8, 9, 10];

/** The payload of a close frame. */
export function closing(code, reason = '') {
  const payload = Buffer.alloc(2);
  payload.writeUInt16BE(code);
  return Buffer.concat([payload, bytesOf(reason)]);
}

const IDENTITY = 'From-Path: msrp://client.invalid:2855/abcdefgh;ws\r\n';

/** An AUTH without credentials, which is answered with 401. */
export const auth = (port, id = 'abcd1234') => `MSRP ${id} AUTH\r\nTo-Path: msrp://localhost:${port};ws\r\n${IDENTITY}-------${id}$\r\n`;

/** A SEND to nowhere with a body. */
export function send(port, body, id = 'send1234') {
  const to = `To-Path: msrp://localhost:${port}/nosuchsession;ws msrp://peer.invalid:2855/x;ws\r\n`;
  return `MSRP ${id} SEND\r\n${to}${IDENTITY}Message-ID: mmmm\r\nContent-Type: text/plain\r\n\r\n${body}\r\n-------${id}$\r\n`;
}

/** In two frames, cut at `at`. */
const cut = (data, at, opcode = TEXT) => {
  const bytes = bytesOf(data);
  return Buffer.concat([frame(opcode, bytes.subarray(0, at), { fin: false }), frame(CONTINUATION, bytes.subarray(at))]);
};
const each = (data, opcode) => Buffer.concat([...bytesOf(data)].map((byte, i, all) => (
  frame(i === 0 ? opcode : CONTINUATION, Buffer.of(byte), { fin: i === all.length - 1 }))));

/**
 * `[name, bytes, expected]` on an open connection. `bytes(port)` are what is sent. `expected`: `{ close }` a code, or
 * several; `{ pong }` a payload; `{ msrp }` the codes of the responses, in order. What is not closed has to be alive
 * afterwards.
 */
export const FRAMES = [
  ['AUTH in a text frame', (port) => frame(TEXT, auth(port)), { msrp: [401] }],
  ['AUTH in a binary frame', (port) => frame(BINARY, auth(port)), { msrp: [401] }],
  ['AUTH in a frame for each byte', (port) => each(auth(port), TEXT), { msrp: [401] }],
  ['AUTH in frames, the first and the last one empty', (port) => Buffer.concat([frame(BINARY, '', { fin: false }), frame(CONTINUATION, auth(port), { fin: false }), frame(CONTINUATION, '')]), { msrp: [401] }],
  ['a length in 16 bits that 7 would hold', (port) => frame(TEXT, auth(port).slice(0, 100), { size: 16 }), { close: 1002 }],
  ['a length in 64 bits that 16 would hold', (port) => frame(TEXT, auth(port), { size: 64 }), { close: 1002 }],
  ['two messages in two frames', (port) => Buffer.concat([frame(TEXT, auth(port, 'aaaa1111')), frame(BINARY, auth(port, 'bbbb2222'))]), { msrp: [401, 401] }],
  ['text that is not UTF-8 is only bytes (RFC 7977 §4.2)', (port) => frame(TEXT, Buffer.from(send(port, '\u00ff\u00fe'), 'latin1')), { msrp: [[403, 481]] }],

  ['ping, and its payload', () => frame(PING, 'hello'), { pong: 'hello' }],
  ['an empty ping', () => frame(PING), { pong: '' }],
  ['a ping of 125 bytes', () => frame(PING, 'x'.repeat(125)), { pong: 'x'.repeat(125) }],
  ['a ping between the frames of a message', (port) => Buffer.concat([frame(TEXT, auth(port).slice(0, 20), { fin: false }), frame(PING, 'x'), frame(CONTINUATION, auth(port).slice(20))]), { pong: 'x', msrp: [401] }],
  ['a pong that nobody asked for', (port) => Buffer.concat([frame(PONG, 'x'), frame(TEXT, auth(port))]), { msrp: [401] }],
  ['a ping of 126 bytes', () => frame(PING, 'x'.repeat(126)), { close: 1002 }],
  ['a ping in two frames', () => frame(PING, 'x', { fin: false }), { close: 1002 }],
  ['a close frame of 126 bytes', () => frame(CLOSE, closing(1000, 'x'.repeat(124))), { close: 1002 }],

  ['not masked', (port) => frame(TEXT, auth(port), { masked: false }), { close: 1002 }],
  ['a ping that is not masked', () => frame(PING, 'x', { masked: false }), { close: 1002 }],
  ['RSV1', (port) => frame(TEXT, auth(port), { rsv: 4 }), { close: 1002 }],
  ['RSV2', (port) => frame(TEXT, auth(port), { rsv: 2 }), { close: 1002 }],
  ['RSV3', (port) => frame(TEXT, auth(port), { rsv: 1 }), { close: 1002 }],
  ...[3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map((opcode) => [`opcode ${opcode}`, () => frame(opcode, 'x'), { close: 1002 }]),
  ['a continuation of nothing', () => frame(CONTINUATION, 'x'), { close: 1002 }],
  ['a message within a message', () => Buffer.concat([frame(TEXT, 'x', { fin: false }), frame(TEXT, 'x')]), { close: 1002 }],
  ['a length with its highest bit', () => { const bad = frame(BINARY, '', { size: 64, length: 1 }); bad[2] = 0x80; return bad; }, { close: [1002, 1009] }],
  ['a frame of 1 TiB', () => frame(BINARY, '', { length: 2 ** 40 }), { close: 1009 }],

  ['close 1000', () => frame(CLOSE, closing(1000, 'bye')), { close: 1000 }],
  ['close 1001', () => frame(CLOSE, closing(1001)), { close: 1001 }],
  ['close 3000', () => frame(CLOSE, closing(3000)), { close: 3000 }],
  ['close 4999', () => frame(CLOSE, closing(4999)), { close: 4999 }],
  ['close without code', () => frame(CLOSE), { close: [1000, null] }],
  ['close with one byte', () => frame(CLOSE, 'x'), { close: 1002 }],
  ...[0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535].map((code) => (
    [`close with ${code}`, () => frame(CLOSE, closing(code)), { close: 1002 }])),
  ['close with a reason that is not UTF-8', () => frame(CLOSE, Buffer.concat([closing(1000), Buffer.of(0xff)])), { close: [1002, 1007] }],
  ['a message after close', (port) => Buffer.concat([frame(CLOSE, closing(1000)), frame(TEXT, auth(port))]), { close: 1000 }],

  ['two chunks in a message (RFC 7977 §5.1)', (port) => frame(TEXT, auth(port, 'aaaa1111') + auth(port, 'bbbb2222')), { close: 1002 }],
  ['half a chunk', (port) => frame(TEXT, auth(port).slice(0, -20)), { close: 1002 }],
  ['a chunk without its last byte', (port) => frame(TEXT, auth(port).slice(0, -1)), { close: 1002 }],
  ['a chunk and one byte more', (port) => frame(TEXT, `${auth(port)}x`), { close: 1002 }],
  ['a chunk with a body that is cut off', (port) => frame(BINARY, send(port, 'x'.repeat(1000)).slice(0, 800)), { close: 1002 }],
  ['no MSRP', () => frame(TEXT, 'Hello'), { close: 1002 }],
  ['an empty message', () => frame(TEXT, ''), { close: 1002 }],
  ['HTTP', () => frame(TEXT, 'GET / HTTP/1.1\r\n\r\n'), { close: 1002 }],
];

/** Where a whole AUTH can be cut in two frames: everywhere. */
export const cuts = (port) => Array.from({ length: auth(port).length + 1 }, (_, at) => cut(auth(port), at));
