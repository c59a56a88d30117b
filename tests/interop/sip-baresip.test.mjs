// A SIP stack of others on both ends, over TLS: baresip registers with outbound, sends messages, calls, holds and hangs up.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';

import { Baresip } from './sip/baresip.mjs';
import { stage } from './sip/stage.mjs';

let edge;
let alice;
let bob;

before(async () => {
  // baresip resolves no names here: neither that of its outbound proxy nor those in Record-Route.
  edge = await stage([{ name: 'only', scheme: 'sip' }], { host: '127.0.0.1' });
  const phone = (user, peer) => new Baresip({ user, peer, port: edge.sips, folder: edge.fixture.folder, ca: edge.fixture.ca });
  alice = phone('alice', 'bob');
  bob = phone('bob', 'alice');
  await alice.start();
  await bob.start();
});

after(async () => {
  await alice?.stop();
  await bob?.stop();
  await edge?.stop();
});

/** What it has seen of its own SIP since. */
const since = (phone) => {
  const from = phone.log.length;
  return (pattern) => phone.printed(pattern, from);
};

test('baresip over TLS registers with outbound', () => {
  for (const phone of [alice, bob]) assert.match(phone.log, /REGISTER sip:localhost;transport=tls SIP\/2\.0[^]*?;reg-id=1/);
});

test('baresip over TLS sends messages both ways', async () => {
  for (const [from, to] of [[alice, bob], [bob, alice]]) {
    const [sent, taken] = [since(from), since(to)];
    await from.command('message', `hello ${to.user}`);
    await taken(new RegExp(`MESSAGE sip:${to.user}[^]*?\\r\\n\\r\\nhello ${to.user}`));
    await sent(/SIP\/2\.0 200 OK[^]*?CSeq: \d+ MESSAGE/);
  }
});

test('baresip over TLS calls; either side holds and resumes, and ends the call', async () => {
  let calls = 0;
  for (const [caller, callee] of [[alice, bob], [bob, alice]]) {
    for (const ends of [caller, callee]) {
      calls += 1;
      const counts = [alice, bob].map((phone) => phone.events.filter(({ type }) => type === 'CALL_CLOSED').length);
      const incoming = callee.events.filter(({ type }) => type === 'CALL_INCOMING').length;
      await caller.command('dial', `sip:${callee.user}@localhost`);
      await callee.event('CALL_INCOMING', incoming + 1);
      await callee.command('accept');
      await caller.event('CALL_ESTABLISHED', calls);
      await callee.event('CALL_ESTABLISHED', calls);
      for (const phone of [callee, caller]) {
        const other = phone === caller ? callee : caller;
        for (const [command, direction] of [['hold', 'sendonly'], ['resume', 'sendrecv']]) {
          const [own, theirs] = [since(phone), since(other)];
          await phone.command(command);
          await theirs(new RegExp(`INVITE sip:[^]*?a=${direction}`));
          await own(/SIP\/2\.0 200 OK[^]*?CSeq: \d+ INVITE/);
          await theirs(/ACK sip:/);
        }
      }
      await ends.command('hangup');
      const other = ends === alice ? bob : alice;
      await other.event('CALL_CLOSED', counts[other === alice ? 0 : 1] + 1);
    }
  }
});

test('baresip over TLS gives a call up that rings', async () => {
  const [own, theirs] = [since(alice), since(bob)];
  await alice.command('dial', 'sip:bob@localhost');
  await own(/SIP\/2\.0 180 Ringing/);
  await alice.command('hangup');
  await own(/SIP\/2\.0 487 /);
  await theirs(/CANCEL sip:[^]*?SIP\/2\.0 487 [^]*?ACK sip:/);
});
