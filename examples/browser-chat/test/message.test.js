import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  GrammarError, disposition, parse, parseByteRange, parseDisposition, parsePath, parseStatus, parseUri, safeFileName,
  sameUri, serialize,
} from '../message.js';

const TO = 'To-Path: msrps://a.test:2855/s;tcp msrps://b.invalid:2855/t;ws\r\n';
const FROM = 'From-Path: msrps://c.invalid:2855/u;ws\r\n';
const bytes = (text) => new TextEncoder().encode(text);
const text = (body) => new TextDecoder().decode(body);

test('a request with content', () => {
  const content = 'Message-ID: 12339sdqwer\r\nByte-Range: 1-16/16\r\nContent-Type: text/plain\r\n\r\nHi, I\'m Alice!\r\n';
  const message = parse(bytes(`MSRP a786hjs2 SEND\r\n${TO}${FROM}${content}\r\n-------a786hjs2$\r\n`));
  assert.equal(message.id, 'a786hjs2');
  assert.equal(message.method, 'SEND');
  assert.deepEqual(message.toPath, ['msrps://a.test:2855/s;tcp', 'msrps://b.invalid:2855/t;ws']);
  assert.equal(message.headers.get('byte-range'), '1-16/16');
  assert.equal(text(message.body), 'Hi, I\'m Alice!\r\n');
  assert.equal(message.flag, '$');
});

test('responses', () => {
  for (const [line, code, comment] of [['200 OK', 200, 'OK'], ['481', 481, ''], ['403 Not you', 403, 'Not you']]) {
    const message = parse(`MSRP a786hjs2 ${line}\r\n${TO}${FROM}-------a786hjs2$\r\n`);
    assert.deepEqual([message.code, message.comment, message.body], [code, comment, null]);
  }
});

test('bodies: none, empty, with line ends and what looks like the end', () => {
  const request = (content) => bytes(`MSRP abcd SEND\r\n${TO}${FROM}${content}-------abcd+\r\n`);
  assert.equal(parse(request('')).body, null);
  for (const body of ['', '\r\n', '\r\n\r\n', 'x\r\n-------abce$\r\n', '-------', '\u0000\u{1f600}']) {
    assert.equal(text(parse(request(`Content-Type: a/b\r\n\r\n${body}\r\n`)).body), body, JSON.stringify(body));
  }
});

test('what is no MSRP is refused', () => {
  const good = `MSRP abcd SEND\r\n${TO}${FROM}-------abcd$\r\n`;
  assert.ok(parse(good));
  const rows = {
    nothing: '',
    'no start line': 'GET / HTTP/1.1\r\n\r\n',
    'only a start line': 'MSRP abcd SEND\r\n',
    'version in small letters': good.replace('MSRP', 'msrp'),
    'id too short': good.replaceAll('abcd', 'abc'),
    'id too long': good.replaceAll('abcd', 'a'.repeat(33)),
    'id begins with a dot': good.replaceAll('abcd', '.bcd'),
    'method in small letters': good.replace('SEND', 'send'),
    'no To-Path': good.replace(TO, ''),
    'no From-Path': good.replace(FROM, ''),
    'From-Path first': `MSRP abcd SEND\r\n${FROM}${TO}-------abcd$\r\n`,
    'empty To-Path': good.replace(TO, 'To-Path: \r\n'),
    'no URI': good.replace(TO, 'To-Path: hello\r\n'),
    'LF alone': good.replaceAll('\r\n', '\n'),
    'another id in the end-line': good.replace('-------abcd', '-------abce'),
    'no flag': good.replace('$', ''),
    'unknown flag': good.replace('$', '!'),
    'six dashes': good.replace('-------', '------'),
    'bytes after the end': `${good}\r\n`,
    'cut off': good.slice(0, -1),
    'no colon': good.replace(FROM, `${FROM}Hello\r\n`),
    'folded line': good.replace(FROM, `${FROM} folded\r\n`),
    'content in a response': `MSRP abcd 200 OK\r\n${TO}${FROM}Content-Type: a/b\r\n\r\nx\r\n-------abcd$\r\n`,
    'no line end after the body': `MSRP abcd SEND\r\n${TO}${FROM}Content-Type: a/b\r\n\r\nx-------abcd$\r\n`,
  };
  for (const [name, input] of Object.entries(rows)) assert.throws(() => parse(input), GrammarError, name);
  assert.equal(good.includes('$'), true);
});

test('two chunks in one WebSocket message are not taken for one without content', () => {
  const one = `MSRP abcd SEND\r\n${TO}${FROM}-------abcd$\r\n`;
  assert.throws(() => parse(one + one), GrammarError);
});

test('what is written can be read', () => {
  const request = {
    id: 'abcd', method: 'SEND', toPath: ['msrp://a:1/s;tcp'], fromPath: ['msrp://b:2/t;ws'],
    headers: [['Message-ID', 'wxyz'], ['Content-Type', 'a/b']], body: Uint8Array.of(0, 255, 13, 10, 45), flag: '+',
  };
  const read = parse(serialize(request));
  assert.deepEqual([...read.body], [...request.body]);
  assert.deepEqual([read.flag, read.headers.get('message-id')], ['+', 'wxyz']);
  assert.equal(typeof serialize({ ...request, body: null, headers: [] }), 'string');
});

test('header values bring no lines of their own, and a body no end', () => {
  const request = { id: 'abcd', method: 'SEND', toPath: ['msrp://a:1/s;tcp'], fromPath: ['msrp://b:2/t;ws'] };
  const read = parse(serialize({ ...request, headers: [['X', 'a\r\nStatus: 000 200']] }));
  assert.equal(read.headers.has('status'), false);
  const headers = [['Content-Type', 'a/b']];
  assert.throws(() => serialize({ ...request, headers, body: bytes('x-------abcdx') }), GrammarError);
  assert.ok(serialize({ ...request, headers, body: bytes('-------abc') }));
});

test('URIs', () => {
  const good = {
    'msrp://a.test:2855/s;tcp': ['msrp', 'a.test', 2855, 's', 'tcp'],
    'msrps://alice@a.test:443;ws': ['msrps', 'a.test', 443, undefined, 'ws'],
    'msrp://[::1]:1/a+/=b;tcp;x=y': ['msrp', '[::1]', 1, 'a+/=b', 'tcp'],
    'msrps://a.test;ws': ['msrps', 'a.test', undefined, undefined, 'ws'],
  };
  for (const [uri, expected] of Object.entries(good)) {
    const { scheme, host, port, session, transport } = parseUri(uri);
    assert.deepEqual([scheme, host, port, session, transport], expected, uri);
  }
  for (const uri of ['', 'http://a;tcp', 'msrp://a', 'msrp://;tcp', 'msrp://a:70000;tcp', 'msrp://a/;tcp', 'msrp://a/s;tcp x']) {
    assert.throws(() => parseUri(uri), GrammarError, uri);
  }
});

test('comparison of URIs (RFC 4975 §6.1)', () => {
  const rows = [
    ['msrp://a:1/s;tcp', 'msrp://A:1/s;TCP', true],
    ['msrp://a:1/s;tcp', 'msrp://u@a:1/s;tcp;x=y', true],
    ['msrp://a:1/s;tcp', 'msrp://a:1/S;tcp', false],
    ['msrp://a:1/s;tcp', 'msrps://a:1/s;tcp', false],
    ['msrp://a:1/s;tcp', 'msrp://a:1/s;ws', false],
    ['msrp://a:1/s;tcp', 'msrp://a/s;tcp', false],
    ['msrp://a:1/s;tcp', 'nothing', false],
  ];
  for (const [one, other, same] of rows) assert.equal(sameUri(one, other), same, `${one} ${other}`);
});

test('paths, as in SDP or alone', () => {
  const uris = ['msrp://a:1/s;tcp', 'msrp://b:2/t;ws'];
  for (const line of [uris.join(' '), `a=path:${uris.join(' ')}\r\n`, ` path:${uris.join('\n')} `]) {
    assert.deepEqual(parsePath(line), uris, line);
  }
  for (const line of ['', ' ', 'a=path:', 'hello']) assert.throws(() => parsePath(line), GrammarError, line);
});

test('Byte-Range and Status', () => {
  assert.deepEqual(parseByteRange('1-*/*'), { start: 1, end: null, total: null });
  assert.deepEqual(parseByteRange('5-9/10'), { start: 5, end: 9, total: 10 });
  assert.deepEqual(parseByteRange('1-0/0'), { start: 1, end: 0, total: 0 });
  for (const range of ['', '0-1/2', '5-3/9', '1-5/4', '1-2', 'a-b/c', '*-1/1', '1-2/-3', '1234567890123456-*/*']) {
    assert.throws(() => parseByteRange(range), GrammarError, range);
  }
  assert.deepEqual(parseStatus('000 408 Too late'), { namespace: '000', code: 408, comment: 'Too late' });
  assert.throws(() => parseStatus('200 OK'), GrammarError);
});

test('Content-Disposition', () => {
  const hash = 'ab'.repeat(32);
  const written = disposition({ filename: 'a "b"\\\r\n;é.txt', size: 5, hash });
  assert.deepEqual(parseDisposition(written), { type: 'attachment', filename: 'a "b"\\__;é.txt', size: 5, hash });
  const rows = [
    ['inline', { type: 'inline' }],
    ['ATTACHMENT; filename=a.txt ; size=x', { type: 'attachment', filename: 'a.txt' }],
    ['attachment; filename="x"; filename*=UTF-8\'en\'a%20b', { type: 'attachment', filename: 'a b' }],
    ['attachment; filename="x"; filename*=UTF-8\'\'%zz', { type: 'attachment', filename: 'x' }],
    ['attachment; hash="md5:00"', { type: 'attachment' }],
  ];
  for (const [value, expected] of rows) assert.deepEqual(parseDisposition(value), expected, value);
});

test('names of files are safe', () => {
  const rows = {
    'a.txt': 'a.txt',
    '../../etc/passwd': 'passwd',
    'C:\\x\\y.doc': 'y.doc',
    '..': 'file',
    '': 'file',
    '.bashrc': 'bashrc',
    'a\u202egpj.exe': 'a_gpj.exe',
    'a\u0000b': 'a_b',
  };
  for (const [name, expected] of Object.entries(rows)) assert.equal(safeFileName(name), expected, name);
  assert.equal(safeFileName(undefined), 'file');
  assert.equal(safeFileName(`${'x'.repeat(300)}.tar`).length, 120);
  assert.ok(safeFileName(`${'x'.repeat(300)}.tar`).endsWith('.tar'));
});
