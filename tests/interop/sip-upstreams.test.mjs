// The ways to an upstream, and several of them: Kamailio over TCP, TLS and WebSocket; one of two that dies.

import assert from 'node:assert/strict';
import { after, test } from 'node:test';

import { until } from './fixture.mjs';
import { fields, sdp } from './sip/agent.mjs';
import { stage } from './sip/stage.mjs';

const stages = [];
async function staged(upstreams) {
  const edge = await stage(upstreams);
  stages.push(edge);
  return edge;
}
after(() => Promise.all(stages.map((edge) => edge.stop())));

/** All that two phones do: messages, a call that both change, one that the callee ends, one that is given up. */
async function conversation(edge) {
  const alice = await edge.phone('alice');
  const bob = await edge.phone('bob', () => sdp());
  for (const [from, to] of [[alice, bob], [bob, alice]]) {
    const sent = await from.request('MESSAGE', `sip:${to.user}@localhost`, { headers: ['Content-Type: text/plain'], body: `to ${to.user}` });
    assert.equal(sent.status, 200, sent.head);
    assert.equal((await to.got('MESSAGE')).body, `to ${to.user}`);
  }

  for (const ends of [alice, bob]) {
    alice.requests = [];
    bob.requests = [];
    alice.answer = () => sdp();
    const call = await alice.call('sip:bob@localhost', sdp());
    await bob.got('ACK', 1, call);
    const theirs = bob.calls.get(call.id);
    const [other, own] = ends === alice ? [bob, call] : [alice, theirs];
    assert.equal((await bob.within(theirs, 'INVITE', sdp())).status, 200);
    await alice.got('ACK', 1, call);
    assert.equal((await alice.within(call, 'INVITE', sdp())).status, 200);
    await bob.got('ACK', 2, call);
    assert.equal((await ends.within(own, 'BYE')).status, 200);
    await other.got('BYE', 1, call);
  }

  bob.requests = [];
  bob.answer = () => null;
  const ringing = alice.ring('sip:bob@localhost', sdp());
  await bob.got('INVITE');
  assert.equal((await ringing.cancel()).status, 200);
  assert.equal((await ringing.final).status, 487);
  await bob.got('ACK');
  assert.equal(bob.taken('CANCEL').length, 1);
}

for (const scheme of ['sip', 'sips', 'ws', 'wss']) {
  test(`Kamailio is reached by ${scheme}`, async () => {
    const edge = await staged([{ name: scheme, scheme }]);
    await conversation(edge);
    await edge.stop();
    stages.pop();
  });
}

/** Who answers: Kamailio says its name in its 404. */
async function server(phone) {
  const answer = await phone.request('MESSAGE', 'sip:nobody@localhost', { body: 'where to?' });
  return answer.status === 404 ? fields(answer, 'Server')[0] : `${answer.status}`;
}

test('requests are shared by two of equal priority, and all of a Call-ID goes to one', async () => {
  const edge = await staged([{ name: 'one', scheme: 'sip' }, { name: 'two', scheme: 'sips' }]);
  const alice = await edge.phone('alice');
  const counted = { one: 0, two: 0 };
  for (let number = 0; number < 40; number += 1) {
    const request = { callId: `share-${number}`, body: 'where to?' };
    const names = [];
    for (let again = 0; again < 2; again += 1) {
      names.push(fields(await alice.request('MESSAGE', 'sip:nobody@localhost', request), 'Server')[0]);
    }
    assert.equal(names[0], names[1]);
    counted[names[0]] += 1;
  }
  assert.ok(counted.one >= 5 && counted.two >= 5, JSON.stringify(counted));
});

test('one of two dies, or says nothing any more: the other takes over until it is back', async () => {
  const edge = await staged([{ name: 'first', scheme: 'sip' }, { name: 'second', scheme: 'sip', priority: 1 }]);
  const [first, second] = edge.kamailios;
  const alice = await edge.phone('alice');
  const bob = await edge.phone('bob', () => sdp());
  const talk = async (count) => {
    // Each Kamailio has locations of its own.
    for (const phone of [alice, bob]) assert.equal((await phone.register()).status, 200);
    assert.equal((await alice.request('MESSAGE', 'sip:bob@localhost', { body: `${count}` })).status, 200);
    assert.equal((await bob.got('MESSAGE', count)).body, `${count}`);
  };
  assert.equal(await server(alice), 'first');
  await talk(1);
  // While Kamailio starts, it is told once that it cannot be reached, and may be called down.
  const told = (kamailio) => ['up', 'down'].map((state) => edge.said(`SIP upstream is ${state}`, kamailio));
  const [[up, down], other] = [first, second].map(told);

  // Its processes are gone, and so is the connection: at once the other one is asked. It is called down after the
  // third failure, and what was down is up with the first answer.
  await first.kill();
  await until(async () => await server(alice) === 'second', 'the second to take over');
  await talk(2);
  await edge.heard('SIP upstream is down', first, down + 1);
  first.start();
  await edge.heard('SIP upstream is up', first, up + 1);
  assert.equal(await server(alice), 'first');
  await talk(3);

  // It stands still with its connection open: only OPTIONS show it.
  first.signal('SIGSTOP');
  await edge.heard('SIP upstream is down', first, down + 2);
  assert.equal(await server(alice), 'second');
  await talk(4);
  // In the middle of a call the one that has it stays, as its Record-Route names it.
  const call = await alice.call('sip:bob@localhost', sdp());
  await bob.got('ACK', 1, call);
  first.signal('SIGCONT');
  await edge.heard('SIP upstream is up', first, up + 2);
  assert.equal(await server(alice), 'first');
  assert.equal((await bob.within(bob.calls.get(call.id), 'INVITE', sdp())).status, 200);
  await alice.got('ACK', 1, call);
  assert.equal((await alice.within(call, 'BYE')).status, 200);
  for (const request of [await alice.got('INVITE', 1, call), await bob.got('BYE', 1, call)]) {
    const way = fields(request, 'Via').join();
    assert.ok(way.includes(`:${second.port};`) && !way.includes(`:${first.port};`), way);
  }
  await talk(5);
  assert.deepEqual(told(second), other, 'nothing is said of the one that was there all the time');

  // Neither: 503 with Retry-After.
  await Promise.all([first.kill(), second.kill()]);
  await until(async () => await server(alice) === '503', 'a 503');
  const refused = await alice.request('MESSAGE', 'sip:bob@localhost', { body: 'nobody there' });
  assert.match(fields(refused, 'Retry-After')[0] ?? '', /^\d+/);
  const connections = edge.said('SIP upstream connected', second);
  second.start();
  await edge.heard('SIP upstream connected', second, connections + 1);
  assert.equal(await server(alice), 'second');
  await talk(6);
});
