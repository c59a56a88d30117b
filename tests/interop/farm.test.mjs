// examples/farm as it stands: three members behind Debian's HAProxy.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as tlsConnect } from 'node:tls';
import { after, before, test } from 'node:test';

import { BINARIES, Program, ROOT, freePorts, until } from './fixture.mjs';

const MEMBERS = ['127.0.0.11', '127.0.0.12', '127.0.0.13'];
const RELAY = join(BINARIES, 'msrp-relay');
const folder = mkdtempSync(join(tmpdir(), 'msrp-farm-'));
const programs = [];
let farm;
let port;
let admin;

before(async () => {
  let proxy;
  [port, proxy, admin] = await freePorts(3);
  farm = new Program(join(ROOT, 'examples/farm/run'), [folder], {
    env: { ...process.env, MSRP_RELAY: RELAY, PORT: String(port), PROXY_PORT: String(proxy), ADMIN_PORT: String(admin) },
  });
  await farm.printed(/The farm is ready/);
});

after(async () => {
  await Promise.all(programs.map((program) => program.stop()));
  await farm.stop();
  rmSync(folder, { recursive: true, force: true });
});

const pid = (member) => Number(readFileSync(join(folder, `${member}.pid`), 'utf8'));
const log = (member) => readFileSync(join(folder, `${member}.log`), 'utf8');

/** A client, the member that has its session, and its path. */
async function client(user, place, ...args) {
  const chat = new Program('chat', [
    '--relay', `msrps://farm.example.com:${port}`, '--connect', `${place}:${port}`, '--ca', join(folder, 'ca.pem'),
    '--user', user, '--password', `${user}pw`, ...args,
  ]);
  programs.push(chat);
  const [line, host, at] = await chat.printed(/^a=path:msrps:\/\/([\d.]+):(\d+)\/.*$/m);
  assert.equal(Number(at), port, 'whoever comes by the load balancer has a URI of the member itself');
  assert.ok(MEMBERS.includes(host), host);
  return { chat, member: host, path: line };
}

/** By the load balancer. */
const balanced = (user, ...args) => client(user, '127.0.0.1', ...args);

/** The same, tried again as clients do, until the load balancer has seen that a member is gone. */
const led = (user, ...args) => until(() => balanced(user, ...args).catch(() => undefined), `${user} to be led to a member that serves`);

async function say(from, to, text) {
  from.chat.child.stdin.write(`${text}\n`);
  await to.chat.printed(new RegExp(text));
  await from.chat.printed(new RegExp(`-- delivered: ${text}`));
}

/** One client at each member, by the load balancer. */
async function oneAtEach(user) {
  const found = new Map();
  await until(async () => {
    const next = await balanced(user);
    if (found.has(next.member)) await next.chat.stop();
    else found.set(next.member, next);
    return found.size === MEMBERS.length;
  }, () => `clients at all members, there are some at ${[...found.keys()]}`);
  return found;
}

test('the configurations of the members differ in their address alone', () => {
  const [first, ...others] = MEMBERS.map((member) => readFileSync(join(folder, `${member}.yaml`), 'utf8').replaceAll(member, 'MEMBER'));
  for (const other of others) assert.equal(other, first);
});

test('the load balancer leads to all members, and clients of different ones chat', async () => {
  const clients = await oneAtEach('bob');
  const [one, other] = clients.values();
  const alice = await client('alice', one.member, '--peer', other.path);
  assert.equal(alice.member, one.member, 'an SRV record leads to one member');
  await say(alice, other, 'over-two-members');
  await say(other, alice, 'and-back');
  await Promise.all([alice, ...clients.values()].map(({ chat }) => chat.stop()));
});

test('members know the addresses of clients that come by the load balancer', async () => {
  const socket = tlsConnect({
    host: '127.0.0.1', port, localAddress: '127.0.0.77', servername: 'farm.example.com', ca: readFileSync(join(folder, 'ca.pem')),
  });
  await new Promise((done, failed) => { socket.once('secureConnect', done); socket.once('error', failed); });
  const found = MEMBERS.map((member) => spawnSync(RELAY, ['ctl', '--address', `http://${member}:${admin}`, '--json', 'connections'], { encoding: 'utf8' }).stdout);
  assert.equal(found.filter((connections) => connections.includes('127.0.0.77:')).length, 1, found.join('\n'));
  socket.destroy();
});

test('a member that drains gets no new clients, and the farm serves on', async () => {
  const [drained] = MEMBERS;
  process.kill(pid(drained), 'SIGTERM');
  await until(() => /stopping/.test(log(drained)), 'the member to stop');
  const bob = await led('bob');
  const alice = await led('alice', '--peer', bob.path);
  assert.notEqual(bob.member, drained);
  assert.notEqual(alice.member, drained);
  await say(alice, bob, 'without-the-first');
});

test('clients of a member that is killed log in again at the others, and chat goes on', async () => {
  const [, killed, left] = MEMBERS;
  const bob = await client('bob', killed);
  const alice = await client('alice', left, '--peer', bob.path);
  await say(alice, bob, 'before');
  process.kill(pid(killed), 'SIGKILL');
  // HAProxy tries another member where the first one does not answer. Who got through in the moment of its death is cut
  // off, and tries again.
  const again = await led('bob');
  assert.equal(again.member, left);
  const back = await client('alice', left, '--peer', again.path);
  await say(back, again, 'after');
});
