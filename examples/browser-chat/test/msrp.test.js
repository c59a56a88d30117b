import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { test } from 'node:test';

import { parse, parseByteRange, serialize } from '../message.js';
import { CHUNK_SIZE, Endpoint, WINDOW } from '../msrp.js';
import { Clock, Relay, settle } from './relay.js';

const OPTIONS = { url: 'wss://relay.test:8443/msrp', user: 'alice', password: 'secret' };

/** An Endpoint, with all its events in `events`. */
function client(relay, clock, options = {}) {
  const endpoint = new Endpoint({ ...OPTIONS, connect: relay.connect, clock, ...options });
  endpoint.events = [];
  for (const type of ['open', 'peer', 'text', 'file', 'closed']) {
    endpoint.addEventListener(type, ({ detail }) => endpoint.events.push([type, detail]));
  }
  endpoint.of = (wanted) => endpoint.events.filter(([type]) => type === wanted).map(([, detail]) => detail);
  endpoint.connect();
  return endpoint;
}

async function pair(change = {}) {
  const relay = Object.assign(new Relay(), change);
  const clock = new Clock();
  relay.clock = clock;
  const [alice, bob] = [client(relay, clock), client(relay, clock)];
  await settle();
  alice.setPeer(bob.path);
  return { relay, clock, alice, bob };
}

const sends = (relay) => relay.seen.filter(({ method }) => method === 'SEND');
const pass = async (clock, until) => {
  for (let i = 0; i < 2000 && !until(); i++) await clock.pass(50);
  assert.ok(until(), 'it did not happen');
};

test('AUTH is answered, and the path is for the other side', async () => {
  const relay = new Relay();
  const alice = client(relay, new Clock());
  await settle();
  const [first, second] = relay.seen;
  assert.equal(relay.sockets[0].protocol, 'msrp');
  assert.deepEqual(first.toPath, ['msrps://relay.test:8443;ws']);
  assert.match(first.fromPath[0], /^msrps:\/\/[a-z0-9]{12}\.invalid:2855\/[a-z0-9]{20};ws$/);
  assert.equal(first.headers.has('authorization'), false);
  assert.match(second.headers.get('authorization'), /^Digest username="alice", realm="test", .*qop=auth, nc=00000001/);
  assert.deepEqual(alice.of('open'), [{ path: ['msrps://relay.test:2855/s1;tcp', first.fromPath[0]] }]);
});

test('the URI of the relay', async () => {
  const rows = [
    ['wss://relay.test/msrp', '', 'msrps://relay.test:443;ws'],
    ['ws://127.0.0.1:80/', '', 'msrp://127.0.0.1:80;ws'],
    ['wss://[::1]:5/', '', 'msrps://[::1]:5;ws'],
    ['wss://gate.test/', 'relay.test', 'msrps://relay.test:443;ws'],
  ];
  for (const [url, domain, expected] of rows) {
    const relay = new Relay();
    client(relay, new Clock(), { url, domain });
    await settle();
    assert.deepEqual(relay.seen[0].toPath, [expected]);
  }
  assert.throws(() => new Endpoint({ ...OPTIONS, url: 'https://relay.test/' }), TypeError);
});

test('a second 401 is final, unless the nonce was stale', async () => {
  const relay = new Relay();
  relay.answer = () => 401;
  const alice = client(relay, new Clock());
  await settle();
  assert.deepEqual(alice.of('closed'), [{ reason: 'the name or the password is wrong', wasOpen: false, final: true }]);
  assert.equal(relay.seen.length, 2);

  const later = new Relay();
  let first = true;
  later.answer = () => {
    const code = first ? 401 : 200;
    first = false;
    later.challenge = 'Digest realm="test", nonce="new", qop="auth", stale=true';
    return code;
  };
  const bob = client(later, new Clock());
  await settle();
  assert.equal(bob.isOpen, true);
  assert.match(later.seen[2].headers.get('authorization'), /nonce="new"/);
});

test('a relay that does not answer AUTH is left after 30 s', async () => {
  const relay = new Relay();
  relay.receive = () => {};
  const clock = new Clock();
  const alice = client(relay, clock);
  await settle();
  await clock.pass(29_000);
  assert.equal(alice.of('closed').length, 0);
  await clock.pass(2_000);
  assert.deepEqual(alice.of('closed'), [{ reason: 'the relay does not answer', wasOpen: false, final: false }]);
});

test('text goes there, is delivered, and the way back is learnt from it', async () => {
  const { alice, bob } = await pair();
  const sent = alice.sendText('Hello, wörld');
  await settle();
  assert.deepEqual(bob.of('text'), [{ text: 'Hello, wörld' }]);
  assert.equal(sent.state, 'delivered');
  assert.deepEqual(bob.peer, alice.path);
  const answer = bob.sendText('Hi');
  await settle();
  assert.deepEqual([answer.state, alice.of('text')], ['delivered', [{ text: 'Hi' }]]);
});

test('an empty text arrives, and many in order', async () => {
  const { alice, bob } = await pair();
  alice.sendText('');
  for (let i = 0; i < 40; i++) alice.sendText(`${i}`);
  await settle();
  await settle();
  assert.deepEqual(bob.of('text').map(({ text }) => text), ['', ...Array.from({ length: 40 }, (_, i) => `${i}`)]);
});

test('a WebSocket message holds one chunk, of at most 64 KiB, binary when it has content', async () => {
  const { relay, clock, alice, bob } = await pair();
  const body = randomBytes(CHUNK_SIZE * 3 + 1);
  const sent = alice.sendFile(new File([body], 'x'.repeat(200), { type: 'a/b' }));
  await pass(clock, () => sent.state === 'delivered');
  const ranges = sends(relay).map(({ headers, flag }) => [parseByteRange(headers.get('byte-range')), flag]);
  assert.deepEqual(ranges.map(([{ start, end }]) => [start, end]), [
    [1, CHUNK_SIZE], [CHUNK_SIZE + 1, CHUNK_SIZE * 2], [CHUNK_SIZE * 2 + 1, CHUNK_SIZE * 3], [body.length, body.length],
  ]);
  assert.deepEqual(ranges.map(([, flag]) => flag), ['+', '+', '+', '$']);
  for (const data of relay.sockets[0].sent) {
    assert.equal(typeof data === 'string', !parse(data).body);
    assert.ok(data.length <= 65536);
  }
  for (const { headers } of sends(relay)) assert.match(headers.get('content-disposition'), /^attachment; filename="x+"; size=184321; hash="sha-256:/);
  const [{ transfer }] = bob.of('file');
  await pass(clock, () => transfer.state === 'received');
  assert.equal(transfer.verified, true);
  assert.deepEqual(Buffer.from(await transfer.blob.arrayBuffer()), body);
});

test('10 MB arrive, never more than the window under way', async () => {
  let under = 0;
  let most = 0;
  const { clock, alice, bob } = await pair();
  const body = randomBytes(10_000_000);
  const sent = alice.sendFile(new File([body], 'big.bin'));
  sent.onchange = ({ sent: out, acknowledged }) => {
    under = out - acknowledged;
    most = Math.max(most, under);
  };
  await pass(clock, () => bob.of('file')[0]?.transfer.state === 'received');
  assert.equal(sent.state, 'delivered');
  assert.ok(most <= WINDOW * CHUNK_SIZE, `${most}`);
  const { blob } = bob.of('file')[0].transfer;
  assert.equal(createHash('sha256').update(Buffer.from(await blob.arrayBuffer())).digest('hex'), createHash('sha256').update(body).digest('hex'));
});

test('without responses the window is sent, and no more; after 30 s it has failed', async () => {
  const { relay, clock, alice } = await pair({ answer: (message) => (message.method === 'SEND' ? null : 200) });
  const sent = alice.sendFile(new File([randomBytes(CHUNK_SIZE * WINDOW * 2)], 'a'));
  await pass(clock, () => sends(relay).length >= WINDOW);
  await clock.pass(20_000);
  assert.equal(sends(relay).length, WINDOW);
  assert.equal(sent.state, 'sending');
  await clock.pass(12_000);
  assert.deepEqual([sent.state, sent.reason], ['failed', 'no answer']);
  assert.equal(sends(relay).at(-1).flag, '#');
});

test('a slow network is no silent relay', async () => {
  const { relay, clock, alice } = await pair({ answer: (message) => (message.method === 'SEND' ? null : 200) });
  const [socket] = relay.sockets;
  const sent = alice.sendText('x');
  for (socket.bufferedAmount = 100; socket.bufferedAmount > 0; socket.bufferedAmount--) await clock.pass(1_000);
  assert.equal(sent.state, 'sending');
  await clock.pass(40_000);
  assert.equal(sent.state, 'failed');
});

test('nothing is sent while the browser holds much', async () => {
  const { relay, clock, alice } = await pair();
  relay.sockets[0].bufferedAmount = 600_000;
  const sent = alice.sendText('x');
  await clock.pass(1_000);
  assert.equal(sends(relay).length, 0);
  relay.sockets[0].bufferedAmount = 0;
  await pass(clock, () => sent.state === 'delivered');
});

test('a text does not wait for a file', async () => {
  const { relay, clock, alice, bob } = await pair();
  relay.latency = 100;
  alice.sendFile(new File([randomBytes(CHUNK_SIZE * 100)], 'big'));
  await pass(clock, () => sends(relay).length > 0);
  const text = alice.sendText('now');
  await pass(clock, () => text.state === 'delivered');
  assert.equal(bob.of('text').length, 1);
  const index = sends(relay).findIndex(({ headers }) => headers.get('message-id') === text.id);
  assert.ok(index >= 0 && index < 99, `${index}`);
});

test('cancelling ends with #, on the other side too', async () => {
  const { relay, clock, alice, bob } = await pair();
  relay.latency = 100;
  const sent = alice.sendFile(new File([randomBytes(CHUNK_SIZE * 50)], 'big'));
  await pass(clock, () => sends(relay).length > 3);
  alice.cancel(sent);
  assert.equal(sent.state, 'cancelled');
  await clock.pass(1_000);
  assert.equal(sends(relay).at(-1).flag, '#');
  assert.equal(bob.of('file')[0].transfer.state, 'cancelled');
  const text = alice.sendText('still here');
  await clock.pass(1_000);
  assert.equal(text.state, 'delivered');
});

test('who receives may cancel: 413, and the sender stops', async () => {
  // The relay has answered each chunk; the refusal comes as a REPORT (RFC 4976 §6.4.3).
  const { relay, clock, alice, bob } = await pair();
  relay.latency = 100;
  const refused = new Map();
  const receive = relay.receive.bind(relay);
  relay.receive = (socket, data) => {
    const message = parse(data);
    if (message.code === 413 && !refused.size) {
      refused.set(message.id, true);
      const { headers } = sends(relay).at(-1);
      relay.sockets[0].deliver(serialize({
        id: 'report1', method: 'REPORT', toPath: [alice.path.at(-1)], fromPath: ['msrps://relay.test:2855/s2;tcp'],
        headers: [['Message-ID', headers.get('message-id')], ['Byte-Range', headers.get('byte-range')], ['Status', '000 413 Stop']],
      }));
    }
    receive(socket, data);
  };
  const sent = alice.sendFile(new File([randomBytes(CHUNK_SIZE * 200)], 'big'));
  await pass(clock, () => bob.of('file').length > 0);
  bob.cancel(bob.of('file')[0].transfer);
  await pass(clock, () => sent.state === 'failed');
  assert.equal(sent.reason, '413 Stop');
  assert.ok(sends(relay).length < 200);
});

test('a failure is shown: by the response, by a report', async () => {
  const { relay, alice } = await pair({ answer: (message) => (message.method === 'SEND' ? 481 : 200) });
  const one = alice.sendText('x');
  await settle();
  assert.deepEqual([one.state, one.reason], ['failed', '481 x']);
  relay.answer = () => 200;
  relay.forward = () => {};
  const two = alice.sendText('y');
  await settle();
  assert.equal(two.state, 'sent');
  relay.sockets[0].deliver(serialize({
    id: 'report1', method: 'REPORT', toPath: [alice.path.at(-1)], fromPath: ['msrps://relay.test:2855/s2;tcp'],
    headers: [['Message-ID', two.id], ['Byte-Range', '1-1/1'], ['Status', '000 408 Too late']],
  }));
  assert.deepEqual([two.state, two.reason], ['failed', '408 Too late']);
});

test('delivered is what reports cover entirely, in any order', async () => {
  const { relay, clock, alice } = await pair({ forward: () => {} });
  const sent = alice.sendFile(new File([randomBytes(100)], 'x'));
  await pass(clock, () => sent.state === 'sent');
  const report = (range) => relay.sockets[0].deliver(serialize({
    id: 'report1', method: 'REPORT', toPath: [alice.path.at(-1)], fromPath: ['msrps://relay.test:2855/s2;tcp'],
    headers: [['Message-ID', sent.id], ['Byte-Range', range], ['Status', '000 200 OK']],
  }));
  report('51-100/100');
  report('nonsense');
  assert.equal(sent.state, 'sent');
  report('1-50/100');
  assert.equal(sent.state, 'delivered');
});

/** Hands a SEND to bob as if it had come from alice. */
function inject({ relay, alice, bob }, { id, range, body = 'x', flag = '$', headers = [], type = 'text/plain', from }) {
  relay.sockets[1].deliver(serialize({
    id: `t${Math.random().toString(36).slice(2, 10)}0000`.slice(0, 10), method: 'SEND', toPath: [bob.path.at(-1)],
    fromPath: from ?? [bob.path[0], ...alice.path], flag,
    headers: [['Message-ID', id], ...(range ? [['Byte-Range', range]] : []), ...headers, ['Content-Type', type]],
    body: new TextEncoder().encode(body),
  }));
}
const answers = (relay, code) => relay.seen.filter((message) => message.code === code).length;

test('chunks in any order, overlapping, of several messages', async () => {
  const all = await pair();
  const { relay, bob } = all;
  inject(all, { id: 'aaaa', range: '7-11/11', body: 'world', flag: '$' });
  inject(all, { id: 'bbbb', range: '1-2/4', body: 'AB', flag: '+' });
  inject(all, { id: 'aaaa', range: '4-8/11', body: 'lo wo', flag: '+' });
  inject(all, { id: 'bbbb', range: '3-*/4', body: 'CD', flag: '$' });
  inject(all, { id: 'aaaa', range: '1-*/11', body: 'Hello', flag: '+' });
  await settle();
  assert.deepEqual(bob.of('text'), [{ text: 'ABCD' }, { text: 'Hello world' }]);
  assert.equal(answers(relay, 200), 5);
});

test('without Byte-Range, and with an unknown total', async () => {
  const all = await pair();
  inject(all, { id: 'aaaa', body: 'all of it' });
  inject(all, { id: 'bbbb', range: '1-*/*', body: 'one', flag: '+' });
  inject(all, { id: 'bbbb', range: '4-6/*', body: 'two', flag: '$' });
  await settle();
  assert.deepEqual(all.bob.of('text').map(({ text }) => text), ['all of it', 'onetwo']);
});

test('a message that comes again is answered and not shown again', async () => {
  const all = await pair();
  for (let i = 0; i < 3; i++) inject(all, { id: 'aaaa', range: '1-1/1' });
  await settle();
  assert.equal(all.bob.of('text').length, 1);
  assert.equal(answers(all.relay, 200), 3);
});

test('what is refused, with which code', async () => {
  const rows = [
    [400, { id: 'aaaa', range: 'nonsense' }],
    [415, { id: 'aaaa', type: 'message/cpim' }],
    [413, { id: 'aaaa', range: '1-1/5000000000000', flag: '+' }],
    [413, { id: 'aaaa', range: '5000000000000-5000000000000/*', flag: '+' }],
  ];
  for (const [code, chunk] of rows) {
    const all = await pair();
    inject(all, chunk);
    await settle();
    assert.equal(answers(all.relay, code), 1, JSON.stringify(chunk));
    assert.equal(all.bob.of('text').length, 0);
  }
});

test('a stranger has no part in a conversation', async () => {
  const all = await pair();
  inject(all, { id: 'aaaa' });
  inject(all, { id: 'bbbb', from: [all.bob.path[0], 'msrps://relay.test:2855/s9;tcp', 'msrps://eve.invalid:2855/e;ws'] });
  await settle();
  assert.equal(all.bob.of('text').length, 1);
  assert.equal(answers(all.relay, 481), 1);
});

test('Failure-Report says what is answered', async () => {
  const all = await pair();
  inject(all, { id: 'aaaa', headers: [['Failure-Report', 'no']] });
  inject(all, { id: 'bbbb', headers: [['Failure-Report', 'partial']] });
  await settle();
  assert.equal(answers(all.relay, 200), 0);
  inject(all, { id: 'cccc', headers: [['Failure-Report', 'partial']], type: 'multipart/mixed' });
  inject(all, { id: 'dddd', headers: [['Failure-Report', 'no']], type: 'multipart/mixed' });
  await settle();
  assert.equal(answers(all.relay, 415), 1);
});

test('a request without content is answered; other methods are not known', async () => {
  const all = await pair();
  const request = { toPath: [all.bob.path.at(-1)], fromPath: [all.bob.path[0], ...all.alice.path] };
  all.relay.sockets[1].deliver(serialize({ ...request, id: 'aaaa', method: 'SEND', headers: [['Message-ID', 'mmmm']] }));
  all.relay.sockets[1].deliver(serialize({ ...request, id: 'bbbb', method: 'DANCE' }));
  all.relay.sockets[1].deliver('garbage');
  await settle();
  assert.deepEqual([answers(all.relay, 200), answers(all.relay, 501)], [1, 1]);
  assert.deepEqual(all.bob.peer, all.alice.path);
});

test('a file of which the hash is wrong is not given', async () => {
  const all = await pair();
  const hash = Array(32).fill('00').join(':');
  inject(all, { id: 'aaaa', type: 'a/b', headers: [['Content-Disposition', `attachment; filename="a"; size=1; hash="sha-256:${hash}"`]] });
  await settle();
  const [{ transfer }] = all.bob.of('file');
  assert.deepEqual([transfer.state, transfer.verified, transfer.blob], ['failed', false, null]);
});

test('a long text is a file', async () => {
  const all = await pair();
  inject(all, { id: 'aaaa', body: 'x'.repeat(65536) });
  inject(all, { id: 'bbbb', body: 'x'.repeat(65537) });
  await settle();
  assert.deepEqual([all.bob.of('text').length, all.bob.of('file').length], [1, 1]);
});

test('a message that does not go on is given up after 120 s', async () => {
  const all = await pair();
  inject(all, { id: 'aaaa', type: 'a/b', range: '1-1/2', flag: '+' });
  await all.clock.pass(119_000);
  const [{ transfer }] = all.bob.of('file');
  assert.equal(transfer.state, 'receiving');
  await all.clock.pass(2_000);
  assert.equal(transfer.state, 'failed');
  inject(all, { id: 'aaaa', type: 'a/b', range: '2-2/2' });
  await settle();
  assert.equal(answers(all.relay, 413), 1);
});

test('AUTH again 30 s before the end; the other side follows', async () => {
  const { relay, clock, alice, bob } = await pair({ expires: 600 });
  alice.sendText('x');
  await settle();
  const before = alice.path;
  await clock.pass(569_000);
  assert.deepEqual(alice.path, before);
  await clock.pass(2_000);
  assert.notDeepEqual(alice.path, before);
  assert.equal(alice.path.at(-1), before.at(-1));
  assert.equal(alice.of('open').length, 2);
  relay.sessions.delete(before[0]);
  const answer = bob.sendText('still there?');
  await settle();
  assert.equal(answer.state, 'delivered');
  assert.equal(alice.of('text').length, 1);
});

test('when the connection is lost, what is under way has failed; one may connect again', async () => {
  const { relay, clock, alice, bob } = await pair({ forward: () => {} });
  const [text, file] = [alice.sendText('x'), alice.sendFile(new File([randomBytes(10_000_000)], 'x'))];
  await settle();
  relay.sockets[0].close(1006);
  assert.deepEqual([text.state, file.state], ['failed', 'failed']);
  assert.equal(alice.of('closed')[0].wasOpen, true);
  assert.throws(() => alice.sendText('y'));
  delete relay.forward;
  relay.forward = (message, deliver) => deliver(message);
  alice.connect();
  await settle();
  const again = alice.sendText('z');
  await pass(clock, () => again.state === 'delivered');
  assert.deepEqual(bob.of('text').map((each) => each.text), ['z']);
});

test('a file that cannot be read fails, and the rest goes on', async () => {
  const { alice } = await pair();
  const broken = Object.assign(new File([randomBytes(10)], 'x'), { slice: () => ({ arrayBuffer: () => Promise.reject(new Error()) }) });
  const [file, text] = [alice.sendFile(broken), alice.sendText('x')];
  await settle();
  assert.deepEqual([file.state, text.state], ['failed', 'delivered']);
});

test('one cannot talk to oneself', async () => {
  const { alice } = await pair();
  assert.throws(() => alice.setPeer(alice.path.join(' ')), /your own path/);
  assert.throws(() => alice.setPeer('hello'), /no MSRP URI/);
});
