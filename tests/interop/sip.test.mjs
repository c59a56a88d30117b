// The SIP edge between programs of others: Kamailio behind it; SIPp over TCP and TLS and SIP.js in Chromium before it.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createServer as createTcpServer } from 'node:net';
import { extname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { connect as connectTls } from 'node:tls';
import puppeteer from 'puppeteer-core';

import { PATIENCE, ROOT, USERS, until } from './fixture.mjs';
import { fields, sdp } from './sip/agent.mjs';
import { stage } from './sip/stage.mjs';

const HERE = join(ROOT, 'tests/interop');
const CHROMIUM = process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);

let edge;
let fixture;
let browser;
let site;

/** Serves the page, SIP.js as it is in its package, and the modules of examples/browser-chat. */
async function serve() {
  const folders = { '/sip.js/': join(HERE, 'node_modules/sip.js'), '/chat/': join(ROOT, 'examples/browser-chat'), '/': join(HERE, 'sip') };
  const types = { '.js': 'text/javascript', '.html': 'text/html' };
  const server = createServer((request, response) => {
    const path = new URL(request.url, 'http://localhost').pathname;
    const prefix = Object.keys(folders).find((name) => path.startsWith(name));
    const file = join(folders[prefix], path.slice(prefix.length));
    if (path.includes('..') || !existsSync(file) || !types[extname(file)]) {
      response.writeHead(path === '/favicon.ico' ? 204 : 404).end();
      return;
    }
    response.writeHead(200, { 'Content-Type': types[extname(file)] });
    response.end(readFileSync(file));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

before(async () => {
  edge = await stage([{ name: 'only', scheme: 'sip' }]);
  fixture = edge.fixture;
  site = await serve();
  const args = [`--ignore-certificate-errors-spki-list=${fixture.spki}`, '--disable-dev-shm-usage', '--disable-gpu'];
  if (process.getuid() === 0) args.push('--no-sandbox');
  browser = await puppeteer.launch({ executablePath: CHROMIUM, headless: true, protocolTimeout: PATIENCE, userDataDir: join(fixture.folder, 'chromium'), args });
});

after(async () => {
  await browser?.close();
  site?.closeAllConnections();
  site?.close();
  await edge?.stop();
});

/** Debian's SIPp is built without TLS: a port that puts TLS under what it sends. */
async function tunnel() {
  const ca = readFileSync(fixture.ca);
  const server = createTcpServer((plain) => {
    const secure = connectTls({ port: edge.sips, host: '127.0.0.1', servername: 'localhost', ca });
    plain.pipe(secure).pipe(plain);
    plain.on('error', () => secure.destroy());
    secure.on('error', () => plain.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

/** Runs a scenario to its end, against this port. */
function sipp(name, port, count) {
  const args = [
    `127.0.0.1:${port}`, '-sf', join(HERE, `sip/${name}.xml`), '-t', 't1', '-i', '127.0.0.1', '-m', count, '-r', 50, '-l', 20,
    '-timeout', '40s', '-timeout_error', '-trace_err', '-error_file', join(fixture.folder, `${name}.err`), '-nostdin',
  ].map(String);
  return new Promise((done) => {
    const child = spawn('sipp', args, { cwd: fixture.folder, env: { ...process.env, TERM: 'dumb' } });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { output += data; });
    child.on('exit', (code) => {
      const errors = join(fixture.folder, `${name}.err`);
      assert.equal(code, 0, `sipp ${name}: ${output.slice(-2000)} ${existsSync(errors) ? readFileSync(errors, 'utf8').slice(-2000) : ''}`);
      done();
    });
  });
}

for (const name of ['TCP', 'TLS']) {
  test(`SIPp over ${name} registers, sends messages and makes calls`, async () => {
    const bob = await edge.phone('bob');
    const secured = name === 'TLS' ? await tunnel() : null;
    const port = secured?.address().port ?? edge.sip;
    await sipp('register', port, 20);
    await sipp('message', port, 50);
    assert.equal(bob.taken('MESSAGE').filter(({ body }) => body.startsWith('message ')).length, 50);

    await sipp('invite', port, 20);
    await bob.got('ACK', 20);
    assert.deepEqual([bob.taken('INVITE').length, bob.taken('BYE').length], [20, 20]);

    // Calls that are given up while they ring.
    bob.answer = () => null;
    bob.requests = [];
    await sipp('cancel', port, 20);
    await bob.got('ACK', 20);
    assert.deepEqual([bob.taken('INVITE').length, bob.taken('CANCEL').length], [20, 20]);

    // Calls that the callee changes and ends.
    bob.answer = () => sdp();
    bob.requests = [];
    bob.calls.clear();
    const running = sipp('callee', port, 20);
    await bob.got('INVITE', 20);
    assert.equal(bob.calls.size, 20);
    await Promise.all([...bob.calls.values()].map(async (call) => {
      await bob.got('ACK', 1, call);
      assert.equal((await bob.within(call, 'INVITE', sdp())).status, 200);
      await bob.got('ACK', 2, call);
      assert.equal((await bob.within(call, 'BYE')).status, 200);
    }));
    await running;
    bob.socket.destroy();
    secured?.close();
  });
}

/** The page, signed in as alice. */
async function open() {
  const page = await browser.newPage();
  const problems = [];
  page.on('pageerror', (error) => problems.push(`${error}`));
  page.setDefaultTimeout(PATIENCE);
  await page.goto(`http://localhost:${site.address().port}/page.html`);
  await page.waitForFunction(() => document.title === 'ready');
  const options = { url: `wss://localhost:${fixture.ports.wss}/msrp`, user: 'alice', password: USERS.alice };
  const contact = await page.evaluate((given) => window.sip.start(given), options);
  assert.match(contact, /\.invalid/);
  return { page, problems };
}

test('SIP.js in Chromium registers, sends and gets messages, and talks MSRP with a TLS client', async () => {
  const chat = fixture.example('chat', 'bob');
  const [, path] = await chat.printed(/(msrps:\/\/\S+(?: msrps:\/\/\S+)*)/);
  let offer;
  const bob = await edge.phone('bob', (invite) => {
    offer = invite.body;
    return sdp(path);
  });

  const { page, problems } = await open();
  await page.evaluate(() => window.sip.message('sip:bob@localhost', 'from the page'));
  await page.waitForFunction(() => window.sip.seen.state !== '');
  assert.equal(await page.evaluate(() => window.sip.seen.state), 'accepted');
  assert.equal(bob.requests.at(-1).body, 'from the page');

  const back = await bob.request('MESSAGE', 'sip:alice@localhost', { headers: ['Content-Type: text/plain'], body: 'to the page' });
  assert.equal(back.status, 200, back.head);
  assert.deepEqual(await page.evaluate(() => window.sip.seen.messages), ['to the page']);

  await page.evaluate(() => window.sip.invite('sip:bob@localhost'));
  assert.match(offer, new RegExp(`^a=path:msrps://localhost:${fixture.ports.msrps}/\\S+;tcp msrps://\\S+\\.invalid`, 'm'), 'the relay is in the path of the offer');
  const record = fields(bob.requests.find(({ method }) => method === 'INVITE'), 'Record-Route');
  assert.ok(record.some((route) => route.includes(`@127.0.0.1:${edge.sip}`)), record.join('\n'));
  await page.evaluate(() => window.sip.say('hello over MSRP'));
  await chat.printed(/hello over MSRP/);
  chat.child.stdin.write('hello back\n');
  await page.waitForFunction(() => window.sip.seen.texts.includes('hello back'));
  await page.evaluate(() => window.sip.bye());
  await until(() => bob.requests.at(-1).method === 'BYE', 'the BYE');
  assert.deepEqual(problems, []);
  bob.socket.destroy();
});

test('SIP.js in Chromium calls and is called; either side changes the call, ends it, and gives up', async () => {
  const bob = await edge.phone('bob', () => sdp());
  const { page, problems } = await open();
  // SIP.js takes no offer of its own for one before the ACK is there.
  const acknowledged = (count) => page.waitForFunction((wanted) => window.sip.seen.acks === wanted, {}, count);
  const ended = () => page.evaluate(() => window.sip.is('Terminated'));
  for (const first of ['page', 'phone']) {
    for (const last of ['page', 'phone']) {
      bob.requests = [];
      bob.calls.clear();
      await page.evaluate(() => { window.sip.seen.acks = 0; });
      if (first === 'page') {
        await page.evaluate(() => window.sip.invite('sip:bob@localhost'));
        await bob.got('ACK');
      } else {
        await bob.call('sip:alice@localhost', sdp());
        await acknowledged(1);
      }
      const [call] = bob.calls.values();
      const acks = bob.taken('ACK').length;
      assert.equal(await page.evaluate(() => window.sip.change()), 200);
      await bob.got('ACK', acks + 1);
      assert.equal((await bob.within(call, 'INVITE', sdp())).status, 200);
      await acknowledged(first === 'page' ? 1 : 2);
      if (last === 'page') await page.evaluate(() => window.sip.bye());
      else assert.equal((await bob.within(call, 'BYE')).status, 200);
      await ended();
      if (last === 'page') await bob.got('BYE');
      else assert.equal(bob.taken('BYE').length, 0);
    }
  }

  bob.answer = () => null;
  bob.requests = [];
  await page.evaluate(() => window.sip.giveUp('sip:bob@localhost'));
  await bob.got('ACK');
  assert.equal(bob.taken('CANCEL').length, 1);
  assert.equal(await page.evaluate(() => window.sip.seen.state), '487');
  assert.deepEqual(problems, []);
  await page.close();
  bob.socket.destroy();
});

test('Kamailio is told of a flow that is gone', async () => {
  const carol = await edge.phone('carol');
  const dave = await edge.phone('dave', () => sdp());
  const call = await carol.call('sip:dave@localhost', sdp());
  await dave.got('ACK');
  carol.socket.destroy();
  // The daemon may learn of it a moment later.
  await until(async () => (await dave.request('MESSAGE', 'sip:carol@localhost', { body: 'gone' })).status === 430, 'a 430');
  assert.equal((await dave.within(dave.calls.get(call.id), 'BYE')).status, 430);
  dave.socket.destroy();
});
