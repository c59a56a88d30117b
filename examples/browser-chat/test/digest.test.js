import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { test } from 'node:test';

import {
  Sha256, authorize, chooseChallenge, hex, md5, parseChallenges, sha256, sha256OfBlob,
} from '../digest.js';

test('hashes of RFC 1321 and FIPS 180', () => {
  assert.equal(md5(''), 'd41d8cd98f00b204e9800998ecf8427e');
  assert.equal(md5('abc'), '900150983cd24fb0d6963f7d28e17f72');
  assert.equal(md5('message digest'), 'f96b697d7cb7938d525a2f31aaf161d0');
  assert.equal(sha256('abc'), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
});

test('every length around the blocks is as node has it', () => {
  for (let length = 0; length < 200; length++) {
    const bytes = randomBytes(length);
    assert.equal(md5(bytes), createHash('md5').update(bytes).digest('hex'), `MD5 of ${length}`);
    assert.equal(sha256(bytes), createHash('sha256').update(bytes).digest('hex'), `SHA-256 of ${length}`);
  }
});

test('a hash may be fed in pieces', () => {
  const bytes = randomBytes(1000);
  const hash = new Sha256();
  for (let at = 0; at < 1000; at += 37) hash.update(bytes.subarray(at, at + 37));
  assert.equal(hex(hash.digest()), sha256(bytes));
});

test('a Blob is hashed slice by slice', async () => {
  const bytes = randomBytes(3 * 1024 * 1024 + 5);
  assert.equal(hex(await sha256OfBlob(new Blob([bytes]))), createHash('sha256').update(bytes).digest('hex'));
});

const answered = (header, answer) => /response="(\w+)"/.exec(authorize(chooseChallenge(parseChallenges(header)), answer))[1];

test('RFC 2617 §3.5', () => {
  const header = 'Digest realm="testrealm@host.com", qop="auth,auth-int", nonce="dcd98b7102dd2f0e8b11d0f600bfb0c093", opaque="5ccc069c403ebaf9f0171e9517f40e41"';
  const answer = { user: 'Mufasa', password: 'Circle Of Life', method: 'GET', uri: '/dir/index.html', cnonce: '0a4f113b' };
  assert.equal(answered(header, answer), '6629fae49393a05397450978507c4ef1');
});

test('RFC 7616 §3.9.1', () => {
  const challenge = (algorithm) => `Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm=${algorithm}, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"`;
  const answer = {
    user: 'Mufasa',
    password: 'Circle of Life',
    method: 'GET',
    uri: '/dir/index.html',
    cnonce: 'f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ',
  };
  assert.equal(answered(challenge('MD5'), answer), '8ca523f5e9506fed4657c9700eebdbec');
  const sha = '753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1';
  assert.equal(answered(challenge('SHA-256'), answer), sha);
  assert.equal(answered(`${challenge('MD5')}, ${challenge('SHA-256')}`, answer), sha, 'the better one is taken');
});

test('without qop, as RFC 2069', () => {
  const header = 'Digest realm="r", nonce="n"';
  const expected = md5(`${md5('u:r:p')}:n:${md5('AUTH:x')}`);
  const answer = { user: 'u', password: 'p', method: 'AUTH', uri: 'x', cnonce: 'c' };
  assert.equal(answered(header, answer), expected);
  assert.doesNotMatch(authorize({ realm: 'r', nonce: 'n' }, answer), /qop|cnonce|nc=|uri=|algorithm/);
});

test('the header field has what was given, quoted', () => {
  const challenge = { realm: 'a "b"', nonce: 'n', opaque: 'o', qop: 'auth', algorithm: 'md5' };
  const value = authorize(challenge, { user: 'x\\y', password: 'p', method: 'AUTH', uri: 'u', cnonce: 'c', nc: 10, sendUri: true });
  assert.match(value, /^Digest username="x\\\\y", realm="a \\"b\\"", nonce="n", uri="u", response="[0-9a-f]{32}", algorithm=md5, qop=auth, nc=0000000a, cnonce="c", opaque="o"$/);
});

test('challenges', () => {
  const rows = [
    ['Digest realm="r", nonce="n,=\\"x"', [{ realm: 'r', nonce: 'n,="x' }]],
    ['digest Realm = "r" , NONCE=n', [{ realm: 'r', nonce: 'n' }]],
    ['Basic realm="r", Digest realm="d", nonce="n", qop="auth"', [{ realm: 'd', nonce: 'n', qop: 'auth' }]],
    ['Basic realm="r"', []],
    ['', []],
    ['Digest', []],
  ];
  for (const [text, expected] of rows) assert.deepEqual(parseChallenges(text), expected, text);
});

test('what we cannot answer is not chosen', () => {
  const rows = ['algorithm=SHA-512-256', 'qop="auth-int"'];
  for (const row of rows) assert.equal(chooseChallenge(parseChallenges(`Digest realm="r", nonce="n", ${row}`)), undefined, row);
  assert.equal(chooseChallenge(parseChallenges('Digest realm="r"')), undefined);
});
