// Chromium with examples/browser-chat, through the daemon: to another page, and to programs over TLS.

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, existsSync, mkdirSync, mkdtempSync, readdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import puppeteer from 'puppeteer-core';

import { ARTEFACTS, PATIENCE, Program, USERS, start, until } from './fixture.mjs';

const TEN_MB = 10_000_000;
const DESKTOP = { width: 1280, height: 800 };
const PHONE = { width: 360, height: 740, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
const CHROMIUM = process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);

let fixture;
let browser;
const problems = [];

before(async () => {
  mkdirSync(ARTEFACTS, { recursive: true });
  fixture = await start();
  const args = [`--ignore-certificate-errors-spki-list=${fixture.spki}`, '--disable-dev-shm-usage', '--disable-gpu'];
  if (process.getuid() === 0) args.push('--no-sandbox');
  const userDataDir = join(fixture.folder, 'chromium');
  browser = await puppeteer.launch({ executablePath: CHROMIUM, headless: true, userDataDir, args });
});

after(async () => {
  await browser?.close();
  await fixture?.stop();
});

async function sha256(file) {
  const hash = createHash('sha256');
  for await (const part of createReadStream(file)) hash.update(part);
  return hash.digest('hex');
}

function randomFile(name, size = TEN_MB) {
  const file = join(fixture.folder, name);
  writeFileSync(file, randomBytes(size));
  return file;
}

/** A page of its own browser profile, so to say another person. */
class Person {
  static async arrive({ viewport = DESKTOP, fragment = '', dark = false, address } = {}) {
    const person = new Person();
    person.context = await browser.createBrowserContext();
    person.page = await person.context.newPage();
    const { page } = person;
    page.setDefaultTimeout(PATIENCE);
    page.on('pageerror', (error) => problems.push(`${error}`));
    page.on('console', (message) => {
      if (message.type() === 'error' && !person.expectsErrors) problems.push(message.text());
    });
    await page.setViewport(viewport);
    await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }]);
    await page.goto(address ?? `${fixture.page}${fragment && `#${fragment}`}`);
    person.downloads = mkdtempSync(join(fixture.folder, 'downloads-'));
    const session = await browser.target().createCDPSession();
    await session.send('Browser.setDownloadBehavior', {
      behavior: 'allow', browserContextId: person.context.id, downloadPath: person.downloads,
    });
    return person;
  }

  async logIn(user, { scheme = 'wss', password = USERS[user], wait = true } = {}) {
    const { page } = this;
    await page.locator('#relay').fill(`${scheme}://localhost:${fixture.ports[scheme]}/msrp`);
    await page.locator('#user').fill(user);
    await page.locator('#password').fill(password);
    await page.locator('#login [type=submit]').click();
    if (wait) await page.waitForSelector('#chat:not([hidden])');
    return this;
  }

  path() {
    return this.page.$eval('#own-path', ({ value }) => value);
  }

  async usePath(path) {
    const { page } = this;
    await page.$eval('#paths', (details) => { details.open = true; });
    await page.locator('#peer-path').fill(path);
    await page.locator('#peer-form button').click();
    await page.waitForSelector('#paths:not([open])');
  }

  async say(text) {
    await this.page.locator('#text').fill(text);
    await this.page.focus('#text');
    await this.page.keyboard.press('Enter');
  }

  /** Waits for a bubble with that text and, if given, in that state. */
  async sees(text, { mine = false, state } = {}) {
    await this.page.waitForFunction((wanted, className, wantedState) => (
      [...document.querySelectorAll(`.bubble.${className}`)].some((bubble) => bubble.textContent.includes(wanted)
        && (!wantedState || bubble.dataset.state === wantedState))
    ), {}, text, mine ? 'mine' : 'theirs', state);
  }

  async sendFile(file) {
    const field = await this.page.$('#file');
    await field.uploadFile(file);
  }

  /** Saves a file that was received; gives its SHA-256. */
  async save(name) {
    await this.sees(name, { state: 'received' });
    const clicked = await this.page.$$eval('.theirs a[download]', (links, wanted) => {
      const link = links.find(({ download }) => download === wanted);
      link?.click();
      return Boolean(link);
    }, name);
    assert.ok(clicked, `a link to save ${name}`);
    const saved = join(this.downloads, name);
    await until(() => existsSync(saved) && !readdirSync(this.downloads).some((file) => file.endsWith('.crdownload')), `${name} to be saved`);
    return sha256(saved);
  }

  async screenshot(name) {
    await this.page.screenshot({ path: join(ARTEFACTS, `${name}.png`) });
  }

  async leave() {
    await this.context.close();
  }
}

async function conversation(options) {
  const alice = await (await Person.arrive()).logIn('alice', options);
  const bob = await (await Person.arrive({ fragment: new URLSearchParams({ to: await alice.path() }) })).logIn('bob', options);
  return [alice, bob];
}

for (const scheme of ['wss', 'ws']) {
  test(`two pages exchange text over ${scheme}`, async () => {
    const [alice, bob] = await conversation({ scheme });
    await bob.say('Hello, wörld 🌍');
    await alice.sees('Hello, wörld 🌍');
    await bob.sees('Hello', { mine: true, state: 'delivered' });
    await alice.say('Hi\u00a0Bob');
    await bob.sees('Hi\u00a0Bob');
    await alice.sees('Hi', { mine: true, state: 'delivered' });
    await Promise.all([alice.leave(), bob.leave()]);
  });
}

test('two pages exchange files of 10 MB at the same time, and text meanwhile', async () => {
  const [alice, bob] = await conversation();
  await bob.say('first');
  await alice.sees('first');
  const [one, other] = [randomFile('one.bin'), randomFile('other.bin')];
  await Promise.all([alice.sendFile(one), bob.sendFile(other)]);
  await alice.say('in between');
  await bob.sees('in between');
  assert.equal(await bob.save('one.bin'), await sha256(one));
  assert.equal(await alice.save('other.bin'), await sha256(other));
  await alice.sees('one.bin', { mine: true, state: 'delivered' });
  await bob.sees('other.bin', { mine: true, state: 'delivered' });
  await Promise.all([alice.leave(), bob.leave()]);
});

test('either side cancels a large file, and the conversation goes on', async () => {
  const [alice, bob] = await conversation();
  await bob.say('first');
  await alice.sees('first');
  const large = randomFile('large.bin', 0);
  truncateSync(large, 1024 ** 3);
  for (const [canceller, selector] of [[bob, '.mine'], [alice, '.theirs']]) {
    await bob.sendFile(large);
    await alice.sees('large.bin', { state: 'receiving' });
    await canceller.page.$$eval(`${selector}.file button:not([hidden])`, (buttons) => buttons.at(-1).click());
    await until(async () => {
      const states = await Promise.all([alice, bob].map(({ page }) => (
        page.$$eval('.file', (files) => files.at(-1).dataset.state))));
      return states.every((state) => state === 'cancelled' || state === 'failed');
    }, 'both to see it cancelled');
  }
  await bob.say('still here');
  await alice.sees('still here');
  await Promise.all([alice.leave(), bob.leave()]);
});

test('a page and `chat`, over TLS, exchange text', async () => {
  const alice = await (await Person.arrive()).logIn('alice');
  const chat = fixture.example('chat', 'bob');
  const [, path] = await chat.printed(/^a=path:(.+)$/m);
  await alice.usePath(path);
  await alice.say('Hello, terminal');
  await chat.printed(/Hello, terminal/);
  await alice.sees('Hello, terminal', { mine: true, state: 'delivered' });
  chat.child.stdin.write('Hello, page\n');
  await alice.sees('Hello, page');
  await chat.printed(/delivered: Hello, page/);
  chat.child.stdin.end();
  assert.equal(await chat.exited, 0, chat.stderr);
  await alice.leave();
});

test('a page sends 10 MB to `receive-file`', async () => {
  const alice = await (await Person.arrive()).logIn('alice');
  const inbox = mkdtempSync(join(fixture.folder, 'inbox-'));
  const receiver = fixture.example('receive-file', 'bob', inbox);
  const [, path] = await receiver.printed(/^a=path:(.+)$/m);
  await alice.usePath(path);
  const file = randomFile('from-page.bin');
  await alice.sendFile(file);
  assert.equal(await receiver.exited, 0, receiver.stderr);
  assert.equal(await sha256(join(inbox, 'from-page.bin')), await sha256(file));
  assert.match(receiver.stdout, /as the sender says/);
  await alice.sees('from-page.bin', { mine: true, state: 'delivered' });
  await alice.leave();
});

for (const [how, ...args] of [['one chunk'], ['chunks of 2 KiB', '--chunk-size', '2KiB']]) {
  test(`\`send-file\` sends 10 MB to a page, in ${how}`, async () => {
    const alice = await (await Person.arrive()).logIn('alice');
    const name = `to-page-${args.length}.bin`;
    const file = randomFile(name);
    const sender = fixture.example('send-file', 'bob', file, '--to', await alice.path(), ...args);
    assert.equal(await alice.save(name), await sha256(file));
    assert.equal(await sender.exited, 0, sender.stderr);
    await alice.leave();
  });
}

test('a wrong password, and a relay that is not there, are told', async () => {
  const person = await Person.arrive();
  await person.logIn('alice', { password: 'wrong', wait: false });
  const told = (pattern) => until(
    () => person.page.$eval('#login-error', (node, source) => new RegExp(source).test(node.textContent), pattern),
    `“${pattern}”`,
  );
  await told('password is wrong');
  person.expectsErrors = true;
  await person.page.locator('#relay').fill('ws://localhost:1/msrp');
  await person.page.locator('#password').fill('x');
  await person.page.locator('#login [type=submit]').click();
  await told('cannot be reached');
  await person.leave();
});

test('it looks right on a desktop and on a phone, and every control has a name', async () => {
  const looks = [['desktop', DESKTOP, false], ['desktop-dark', DESKTOP, true], ['phone', PHONE, false], ['phone-dark', PHONE, true]];
  for (const [name, viewport, dark] of looks) {
    const alice = await Person.arrive({ viewport, dark });
    const fits = async (what) => {
      const width = await alice.page.evaluate(() => Math.max(document.documentElement.scrollWidth, document.body.scrollWidth));
      assert.ok(width <= viewport.width, `${name}, ${what}: ${width} px wide`);
      const tree = await alice.page.accessibility.snapshot();
      const controls = (node) => [node, ...(node.children ?? []).flatMap(controls)]
        .filter(({ role }) => ['button', 'textbox', 'link', 'progressbar'].includes(role));
      for (const control of controls(tree)) assert.ok(control.name, `${name}, ${what}: a ${control.role} without a name`);
      await alice.screenshot(`${name}-${what}`);
    };
    await fits('login');
    await alice.logIn('alice');
    await fits('paths');
    const bob = await (await Person.arrive({ fragment: new URLSearchParams({ to: await alice.path() }) })).logIn('bob');
    await bob.say('Hi Alice! Did the new relay come up?');
    await alice.sees('Did the new relay');
    await alice.say('It did. I am writing from a browser, and you could be on a terminal: https://www.rfc-editor.org/rfc/rfc7977.html');
    await alice.sees('It did', { mine: true, state: 'delivered' });
    await bob.sendFile(join(ARTEFACTS, `${name}-login.png`));
    await alice.sees('login.png', { state: 'received' });
    await alice.page.waitForSelector('.file img');
    await alice.sendFile(randomFile('A rather long name of a file, with which a narrow screen has to cope.bin', 300_000));
    await alice.sees('narrow screen', { mine: true, state: 'delivered' });
    await bob.say('Great, thank you.');
    await alice.sees('Great');
    await fits('chat');
    await Promise.all([alice.leave(), bob.leave()]);
  }
});

test('`msrp-relay demo --browser` prints addresses at which two pages chat', async () => {
  const demo = new Program('msrp-relay', ['demo', '--browser']);
  try {
    await demo.printed(/Ctrl-C/);
    const links = [...demo.stdout.matchAll(/(http:\S+)  password: (\S+)/g)];
    assert.equal(links.length, 2, demo.stdout);
    const [alice, bob] = await Promise.all(links.map(async ([, address, password]) => {
      const person = await Person.arrive({ address });
      await person.page.locator('#password').fill(password);
      await person.page.locator('#login [type=submit]').click();
      await person.page.waitForSelector('#chat:not([hidden])');
      return person;
    }));
    await bob.usePath(await alice.path());
    await bob.say('Hello from the demo');
    await alice.sees('Hello from the demo');
    await alice.say('And back');
    await bob.sees('And back');
    await bob.sees('Hello', { mine: true, state: 'delivered' });
    await bob.screenshot('demo');
    // Whoever follows a link that was copied finds the relay too.
    await alice.page.evaluate(() => {
      navigator.clipboard.writeText = async (text) => { document.documentElement.dataset.copied = text; };
      document.getElementById('paths').open = true;
    });
    await alice.page.locator('#copy-link').click();
    const copied = await alice.page.waitForFunction(() => document.documentElement.dataset.copied);
    const guest = await Person.arrive({ address: await copied.jsonValue() });
    assert.equal(await guest.page.$eval('#relay', ({ value }) => value), await alice.page.$eval('#relay', ({ value }) => value));
    await Promise.all([alice.leave(), bob.leave(), guest.leave()]);
    demo.child.kill('SIGINT');
    assert.equal(await demo.exited, 0, demo.stderr);
  } finally {
    await demo.stop();
  }
});

test('the pages had no errors', () => {
  assert.deepEqual(problems, []);
});
