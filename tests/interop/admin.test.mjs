// The admin interface against what operators have: a browser, Prometheus, opensips-cli.

import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import puppeteer from 'puppeteer-core';

import { ARTEFACTS, PATIENCE, ROOT, freePorts, start, until } from './fixture.mjs';

const CHROMIUM = process.env.CHROMIUM ?? ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
const VENV = process.env.INTEROP_VENV ?? join(ROOT, 'tests/interop/.venv');
const TOKEN = '0123456789abcdef';
const DESKTOP = { width: 1280, height: 900 };
const PHONE = { width: 360, height: 740, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
const FILE_SIZE = 3_000_000;
const REBOUND = 'evil.example';

let fixture;
let guarded;
let browser;
let address;
let receiver;
let collector;
/** What the collector was sent. */
const packets = [];

before(async () => {
  mkdirSync(ARTEFACTS, { recursive: true });
  const [port, other] = await freePorts(2);
  address = `http://127.0.0.1:${port}`;
  collector = createSocket('udp4');
  collector.on('message', (packet) => packets.push(packet));
  await new Promise((done) => { collector.bind(0, '127.0.0.1', done); });
  const trace = `trace: { destinations: { homer: { uri: 'hep_udp://127.0.0.1:${collector.address().port}' } } }\n`;
  fixture = await start({ extra: `admin: { listen: '${address}' }\n${trace}` });
  guarded = { address: `http://127.0.0.1:${other}`, ...await start({ extra: `admin: { listen: 'http://127.0.0.1:${other}', token: ${TOKEN} }\n` }) };
  // A name that somebody else has made to lead here.
  const args = ['--disable-dev-shm-usage', '--disable-gpu', `--host-resolver-rules=MAP ${REBOUND} 127.0.0.1`];
  if (process.getuid() === 0) args.push('--no-sandbox');
  browser = await puppeteer.launch({ executablePath: CHROMIUM, headless: true, userDataDir: join(fixture.folder, 'chromium'), args });
  // Bob stays, waiting; a file goes from alice to another bob.
  const inbox = mkdtempSync(join(fixture.folder, 'inbox-'));
  receiver = fixture.example('chat', 'bob');
  await receiver.printed(/^a=path:(.+)$/m);
  const taker = fixture.example('receive-file', 'bob', inbox);
  const [, path] = await taker.printed(/^a=path:(.+)$/m);
  const file = join(fixture.folder, 'file.bin');
  writeFileSync(file, Buffer.alloc(FILE_SIZE, 7));
  const sender = fixture.example('send-file', 'alice', file, '--to', path, '--chunk-size', '65536');
  assert.equal(await sender.exited, 0, sender.stderr);
  assert.equal(await taker.exited, 0, taker.stderr);
});

after(async () => {
  await browser?.close();
  collector?.close();
  await fixture?.stop();
  await guarded?.stop();
});

const get = async (path, init) => fetch(`${address}${path}`, init);
const mi = async (method, params = []) => {
  const body = JSON.stringify({ jsonrpc: '2.0', method, params, id: 1 });
  const answer = await get('/mi', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
  return (await answer.json()).result;
};

/** That a screenshot is a picture of this width, with something on it: an even one takes next to nothing as PNG. */
function isPicture(png, { width, deviceScaleFactor = 1 }) {
  assert.equal(Buffer.from(png.subarray(0, 8)).toString('latin1'), '\x89PNG\r\n\x1a\n');
  const view = new DataView(png.buffer, png.byteOffset, png.byteLength);
  assert.equal(view.getUint32(16), width * deviceScaleFactor);
  assert.ok(view.getUint32(20) >= 600 && png.byteLength > 20_000, `${png.byteLength} bytes, ${view.getUint32(20)} high`);
}

/** A program of the system or the virtual environment, to its end. */
function run(name, args, options = {}) {
  const done = spawnSync(name, args, { encoding: 'utf8', timeout: PATIENCE, ...options });
  assert.ifError(done.error);
  return done;
}

/** Opens the page; `change` may change the status that it shows. */
async function open({ viewport = DESKTOP, dark = false, at = address, authenticate, change } = {}) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const problems = [];
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', (error) => problems.push(`${error}`));
  page.on('console', (message) => { if (message.type() === 'error') problems.push(message.text()); });
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(`${at}/`) && !url.startsWith('data:')) problems.push(`asks for ${url}`);
  });
  await page.setViewport(viewport);
  await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }]);
  if (authenticate) await page.authenticate(authenticate);
  if (change) {
    await page.setRequestInterception(true);
    page.on('request', async (request) => {
      if (!request.url().endsWith('/status.json')) {
        await request.continue();
        return;
      }
      const status = change(await (await get('/status.json')).json());
      await request.respond({ contentType: 'application/json', body: JSON.stringify(status) });
    });
  }
  const answer = await page.goto(`${at}/`);
  return { page, problems, answer, close: () => context.close() };
}

test('the status page shows what is there, on a desktop, in the dark and on a phone', async () => {
  for (const [name, viewport, dark] of [['desktop', DESKTOP, false], ['dark', DESKTOP, true], ['phone', PHONE, false]]) {
    const { page, problems, close } = await open({ viewport, dark });
    // Two samples at least make a line.
    await page.waitForFunction(() => document.querySelectorAll('#charts path').length === 8);
    const text = await page.$eval('body', (body) => body.innerText);
    for (const wanted of ['running', 'Sessions', `msrps://127.0.0.1:${fixture.ports.msrps}`, 'local (server)', 'Listeners', 'Messages per second', 'Bytes per second', 'Sessions and connections', 'Errors', 'days left']) {
      assert.ok(text.includes(wanted), `${name}: ${wanted} in ${text}`);
    }
    const version = (await mi('version')).Server.split(/[( ]+/)[1];
    assert.ok(text.includes(`version ${version}`), text);
    const tile = await page.$$eval('#tiles .card', (cards) => Object.fromEntries(cards.map((card) => [...card.children].map((child) => child.textContent))));
    assert.equal(tile.Sessions, '1');
    assert.equal(tile.Connections, '1');
    assert.ok(await page.$eval('td.good', (cell) => Number(cell.textContent) > 30), 'days left');
    // Whoever does not see the charts is told them.
    const labels = await page.$$eval('svg', (charts) => charts.map((chart) => [chart.getAttribute('role'), chart.getAttribute('aria-label')]));
    assert.equal(labels.length, 4);
    for (const [role, label] of labels) assert.ok(role === 'img' && /: .+ \d/.test(label), label);
    assert.ok(await page.$$eval('table', (tables) => tables.every((table) => table.querySelector('th[scope=col]') && table.querySelector('th[scope=row]'))));
    assert.equal(await page.$eval('html', (html) => html.lang), 'en');
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), `${name} is too wide`);
    await page.$$eval('details', (all) => all.forEach((details) => { details.open = true; }));
    isPicture(await page.screenshot({ path: join(ARTEFACTS, `status-${name}.png`), fullPage: true }), viewport);
    assert.deepEqual(problems, []);
    await close();
  }
});

/** A busy relay after a quarter of an hour, with parts that the page knows nothing of. */
function busy(status) {
  const { history } = status;
  const each = (of) => Array.from({ length: history.length }, (_, index) => of(index));
  const wave = (index, most) => Math.round(most * (1.2 + Math.sin(index / 15) + Math.sin(index / 4) / 4) ** 2);
  Object.assign(history, {
    time: each((index) => status.time - (history.length - index) * 5),
    seconds: each(() => 5),
    messages: each((index) => wave(index, 900)),
    bytes_in: each((index) => wave(index, 4e6)),
    bytes_out: each((index) => wave(index + 5, 3e6)),
    refused: each((index) => (index % 40 === 7 ? 12 : 0)),
    failed: each((index) => (index > 120 && index < 140 ? index % 7 : 0)),
    broken: each((index) => (index % 25 === 3 ? 5 : 1)),
    sessions: each((index) => 4000 + wave(index, 500)),
    connections: each((index) => 5200 + wave(index, 700)),
  });
  const ends = status.statistics.find(({ group, name }) => group === 'tls' && name === 'expiry_timestamp');
  for (const [domain, days] of [['soon', 20], ['very-soon', 3.5], ['over', -1.5]]) {
    ends.samples.push({ labels: { domain, file: `${domain}.crt`, kind: 'certificate', name: `CN=<b>${domain}</b>`, role: 'server' }, value: status.time + days * 86400 });
  }
  const upstream = (name, unit, values) => ({ group: 'novelty', name, metric: `msrp_relay_novelty_${name}`, help: 'Of each.', unit, kind: 'gauge',
    samples: values.map(([uri, value]) => ({ labels: { upstream: uri }, value })) });
  status.statistics.push(upstream('up', null, [['sip://10.0.0.1', 1], ['sip://10.0.0.2', 0]]), upstream('received', 'bytes', [['sip://10.0.0.1', 123456]]));
  return status;
}

test('it shows a quarter of an hour, ends that come near, and what it does not know', async () => {
  for (const [name, viewport, dark] of [['busy', DESKTOP, false], ['busy-dark', DESKTOP, true], ['busy-phone', PHONE, false]]) {
    const { page, problems, close } = await open({ viewport, dark, change: busy });
    await page.waitForSelector('td.bad');
    const ends = await page.$$eval('td.good, td.warn, td.bad', (cells) => cells.map((cell) => [cell.className.replace('number ', ''), cell.textContent]));
    assert.deepEqual(ends.slice(0, 3), [['bad', 'ended'], ['bad', '3 — renew'], ['warn', '20 — renew']]);
    const text = await page.$eval('body', (body) => body.innerText);
    assert.ok(text.includes('novelty') && text.includes('sip://10.0.0.2') && text.includes('121 KiB') && text.includes('<b>soon</b>'), text);
    const points = await page.$$eval('#charts path', (lines) => lines.map((line) => line.getAttribute('d').split('L').length));
    assert.deepEqual(points, Array(8).fill(180));
    const outside = await page.$$eval('#charts path', (lines) => lines.filter((line) => {
      const [box, chart] = [line.getBoundingClientRect(), line.ownerSVGElement.getBoundingClientRect()];
      return box.left < chart.left - 1 || box.right > chart.right + 1 || box.top < chart.top - 1 || box.bottom > chart.bottom + 1;
    }).length);
    assert.equal(outside, 0);
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), `${name} is too wide`);
    isPicture(await page.screenshot({ path: join(ARTEFACTS, `status-${name}.png`), fullPage: viewport === PHONE }), viewport);
    assert.deepEqual(problems, []);
    await close();
  }
});

test('text has enough contrast, light and dark', async () => {
  for (const dark of [false, true]) {
    const { page, close } = await open({ dark });
    await page.waitForSelector('td.good');
    const low = await page.evaluate(() => {
      const channels = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map((value) => Number(value) / 255);
      const luminance = (colour) => {
        const [red, green, blue] = channels(colour).map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
      };
      const background = (element) => {
        for (let one = element; one; one = one.parentElement) {
          const { backgroundColor } = getComputedStyle(one);
          if (!backgroundColor.endsWith(', 0)')) return backgroundColor;
        }
        return 'rgb(255, 255, 255)';
      };
      const found = [];
      for (const element of document.querySelectorAll('body *')) {
        if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()) || !element.checkVisibility()) continue;
        if (element.closest('script, style, noscript')) continue;
        const [one, other] = [luminance(getComputedStyle(element).color), luminance(background(element))].sort((a, b) => b - a);
        // WCAG 2 AA.
        if ((one + 0.05) / (other + 0.05) < 4.5) found.push(`${element.tagName} ${element.textContent.slice(0, 30)}`);
      }
      return found;
    });
    assert.deepEqual(low, [], dark ? 'dark' : 'light');
    await close();
  }
});

test('the page runs nothing but its own script, and says when the relay is away', async () => {
  const { page, answer, close } = await open();
  const policy = answer.headers()['content-security-policy'];
  assert.match(policy, /^default-src 'none'; style-src 'sha256-[\w+/]{43}='; script-src 'sha256-[\w+/]{43}='; connect-src 'self'/);
  const ran = await page.evaluate(() => {
    const script = document.createElement('script');
    script.textContent = 'window.ran = true;';
    document.body.append(script);
    return window.ran ?? false;
  });
  assert.equal(ran, false);
  await page.waitForSelector('#state.good');
  await page.setOfflineMode(true);
  await page.waitForSelector('#state.bad');
  assert.match(await page.$eval('#state', (state) => state.textContent), /no answer/);
  await page.setOfflineMode(false);
  await page.waitForSelector('#state.good');
  await close();
});

test('a page of somebody else, or under another name, does nothing and reads nothing', async () => {
  const { deepEqual, equal, ok, match } = assert;
  const foreign = createServer((_, response) => response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html><title>x</title>'));
  await new Promise((done) => { foreign.listen(0, '127.0.0.1', done); });
  const at = `127.0.0.1:${foreign.address().port}`;
  const context = await browser.createBrowserContext();
  try {
    // Another site, and another port of this machine, which browsers call the same site.
    for (const origin of [`http://localhost:${foreign.address().port}`, `http://${at}`]) {
      const page = await context.newPage();
      page.setDefaultTimeout(PATIENCE);
      await page.goto(origin);
      const came = await page.evaluate(async (admin) => {
        const body = JSON.stringify({ jsonrpc: '2.0', method: 'log_level', params: ['debug'], id: 1 });
        const json = { 'Content-Type': 'application/json' };
        const tried = async (path, init) => fetch(`${admin}${path}`, init).then((answer) => `${answer.type} ${answer.status}`, () => 'refused');
        const found = {
          asJson: await tried('/mi', { method: 'POST', headers: json, body }),
          asText: await tried('/mi', { method: 'POST', mode: 'no-cors', body }),
          metrics: await tried('/metrics', {}),
          events: await new Promise((done) => {
            const events = new EventSource(`${admin}/events`);
            events.onopen = () => done('open');
            events.onerror = () => { events.close(); done('refused'); };
          }),
          image: await new Promise((done) => {
            const image = new Image();
            image.onload = () => done('shown');
            image.onerror = () => done('refused');
            image.src = `${admin}/events`;
          }),
        };
        // A form can send what looks like JSON, as text.
        const frame = document.createElement('iframe');
        frame.name = 'answer';
        const form = document.createElement('form');
        Object.assign(form, { method: 'post', enctype: 'text/plain', action: `${admin}/mi`, target: 'answer' });
        const input = document.createElement('input');
        input.name = `${body.slice(0, -1)},"x":"`;
        input.value = '"}';
        form.append(input);
        document.body.append(frame, form);
        const loaded = new Promise((done) => { frame.onload = done; });
        form.submit();
        await loaded;
        return found;
      }, address);
      deepEqual(came, { asJson: 'refused', asText: 'opaque 0', metrics: 'refused', events: 'refused', image: 'refused' }, origin);
      await page.close();
    }
    // DNS rebinding: the page's own origin leads to us.
    const page = await context.newPage();
    const answer = await page.goto(`${address.replace('127.0.0.1', REBOUND)}/`);
    equal(answer.status(), 421);
    const rebound = await page.evaluate(async () => {
      const body = JSON.stringify({ jsonrpc: '2.0', method: 'log_level', params: ['debug'], id: 1 });
      return (await fetch('/mi', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body })).status;
    });
    equal(rebound, 421);
    // A link that somebody follows is no harm.
    await page.goto(`http://localhost:${foreign.address().port}`);
    await page.evaluate((to) => {
      const link = document.createElement('a');
      link.href = to;
      document.body.append(link);
      link.click();
    }, `${address}/`);
    await page.waitForFunction(() => document.title.startsWith('msrp-relay'), { timeout: PATIENCE });
    equal((await mi('log_level'))['Log level'], 'info');
    match(fixture.relay.stderr, /it comes from a page of another origin/);
    match(fixture.relay.stderr, /it calls us by a name that is not in/);
    ok(!fixture.relay.stderr.includes('the log level was changed'));
  } finally {
    await context.close();
    foreign.close();
  }
});

test('with a token the browser asks for it', async () => {
  const at = guarded.address;
  const refused = await fetch(`${at}/`);
  assert.equal(refused.status, 401);
  assert.match(refused.headers.get('www-authenticate'), /Basic realm=/);
  const { page, answer, problems, close } = await open({ at, authenticate: { username: 'admin', password: TOKEN } });
  assert.equal(answer.status(), 200);
  await page.waitForSelector('#state.good');
  assert.deepEqual(problems.filter((problem) => !problem.includes('401')), []);
  await close();
});

test('the metrics are OpenMetrics, and count what happened', async () => {
  const answer = await get('/metrics');
  assert.match(answer.headers.get('content-type'), /^application\/openmetrics-text; version=1\.0\.0/);
  const text = await answer.text();
  writeFileSync(join(ARTEFACTS, 'metrics.txt'), text);
  const parsed = run(join(VENV, 'bin/python'), ['admin/openmetrics.py'], { input: text, cwd: join(ROOT, 'tests/interop') });
  assert.equal(parsed.status, 0, parsed.stderr);
  const samples = JSON.parse(parsed.stdout);
  const value = (name, labels = {}) => samples.find(([own, ownLabels]) => own === name
    && Object.entries(labels).every(([key, wanted]) => ownLabels[key] === wanted))?.[2];
  assert.equal(value('msrp_relay_msrp_sessions'), 1);
  assert.equal(value('msrp_relay_msrp_auths_total', { result: 'granted' }), 3);
  assert.equal(value('msrp_relay_msrp_body_received_bytes_total'), FILE_SIZE);
  assert.equal(value('msrp_relay_msrp_body_forwarded_bytes_total'), FILE_SIZE);
  // The file, and the empty SEND by which its receiver binds its connection.
  assert.equal(value('msrp_relay_msrp_messages_forwarded_total'), 2);
  assert.equal(value('msrp_relay_msrp_chunks_forwarded_total'), 1 + Math.ceil(FILE_SIZE / 65536));
  assert.equal(value('msrp_relay_connections_opened_total', { protocol: 'msrps', direction: 'in' }), 3);
});

test('promtool takes the rules, and Prometheus what they and the dashboard ask', async () => {
  const rules = join(ROOT, 'examples/prometheus-rules.yaml');
  const checked = run('promtool', ['check', 'rules', rules]);
  assert.equal(checked.status, 0, checked.stderr);
  const folder = mkdtempSync(join(fixture.folder, 'prometheus-'));
  const config = join(folder, 'prometheus.yml');
  const token = join(folder, 'token');
  writeFileSync(token, TOKEN);
  const job = (name, at, more = '') => `  - job_name: ${name}\n    static_configs: [{ targets: ['${at.replace('http://', '')}'] }]\n${more}`;
  writeFileSync(config, `global: { scrape_interval: 1s, evaluation_interval: 1s }\nrule_files: ['${rules}']\nscrape_configs:\n${
    job('msrp-relay', address)}${job('guarded', guarded.address, `    authorization: { credentials_file: '${token}' }\n`)}`);
  const config_checked = run('promtool', ['check', 'config', config]);
  assert.equal(config_checked.status, 0, config_checked.stderr);

  const [port] = await freePorts(1);
  const at = `http://127.0.0.1:${port}`;
  const prometheus = spawn('prometheus', [`--config.file=${config}`, `--storage.tsdb.path=${join(folder, 'data')}`, `--web.listen-address=127.0.0.1:${port}`], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  prometheus.stderr.on('data', (data) => { log += data; });
  const query = async (text) => {
    const answer = await fetch(`${at}/api/v1/query?query=${encodeURIComponent(text)}`).catch(() => undefined);
    // Until it has read its own files, it says 503 in words.
    return answer?.ok ? answer.json() : undefined;
  };
  try {
    for (const name of ['msrp-relay', 'guarded']) {
      await until(async () => {
        assert.equal(prometheus.exitCode, null, log);
        const answer = await query(`up{job="${name}"}`);
        return answer?.data?.result?.[0]?.value[1] === '1';
      }, `Prometheus to reach ${name}\n${log}`);
    }
    // Rates want two scrapes.
    await until(async () => (await query('count_over_time(msrp_relay_msrp_sessions{job="msrp-relay"}[1m]) > 2'))?.data?.result?.length > 0, 'three scrapes');
    assert.equal((await query('msrp_relay_msrp_body_received_bytes_total{job="msrp-relay"}')).data.result[0].value[1], String(FILE_SIZE));

    const dashboard = JSON.parse(readFileSync(join(ROOT, 'examples/grafana-dashboard.json'), 'utf8'));
    const expressions = dashboard.panels.flatMap((panel) => (panel.targets ?? []).map(({ expr }) => [panel.title, expr]));
    assert.ok(expressions.length > 25);
    for (const [title, expression] of expressions) {
      const filled = expression.replaceAll('$__rate_interval', '1m').replaceAll('$instance', '.*').replaceAll('$job', '.*');
      assert.ok(!filled.includes('$'), filled);
      const answer = await query(filled);
      assert.equal(answer.status, 'success', `${title}: ${answer.error}`);
      // What is not configured here has no figures; tests/tests/documented.rs knows those names by a relay that has it all.
      const elsewhere = /msrp_relay_(auth_(lookups|database|cached)|sip|trace|hep|records)_/.test(filled);
      assert.ok(elsewhere || answer.data.result.length > 0, `${title} shows nothing: ${filled}`);
    }
    const groups = (await (await fetch(`${at}/api/v1/rules`)).json()).data.groups;
    const alerts = groups.flatMap((group) => group.rules);
    assert.ok(alerts.length >= 8);
    await until(async () => {
      const now = (await (await fetch(`${at}/api/v1/rules`)).json()).data.groups.flatMap((group) => group.rules);
      return now.every((rule) => rule.health === 'ok');
    }, 'the rules to be evaluated');
    const firing = (await (await fetch(`${at}/api/v1/alerts`)).json()).data.alerts;
    assert.deepEqual(firing.map((alert) => alert.labels.alertname), [], 'nothing is wrong with this relay');
  } finally {
    prometheus.kill();
    if (prometheus.exitCode === null) await once(prometheus, 'exit');
  }
});

test('opensips-cli manages the relay', async () => {
  // It takes its own failures for success now and then: what it prints counts.
  const cli = (...args) => {
    const done = run(join(VENV, 'bin/opensips-cli'), ['-o', 'communication_type=http', '-o', `url=${address}/mi`, '-o', 'output_type=pretty-print', '-x', 'mi', ...args]);
    assert.ok(!/ERROR|Traceback/.test(done.stdout + done.stderr), `${args}: ${done.stdout}${done.stderr}`);
    return JSON.parse(done.stdout);
  };
  const refused = (why, ...args) => {
    const done = run(join(VENV, 'bin/opensips-cli'), ['-o', 'communication_type=http', '-o', `url=${address}/mi`, '-x', 'mi', ...args]);
    assert.match(done.stdout + done.stderr, why, `${args}`);
  };
  const commands = cli('which');
  for (const name of ['list_tcp_conns', 'get_statistics', 'tls_reload', 'ps', 'uptime', 'version']) assert.ok(commands.includes(name), name);
  assert.deepEqual(cli('which', 'tcp:close'), [['id']]);
  assert.deepEqual(cli('which', 'command=get_statistics'), [[], ['statistics']]);
  assert.match(cli('help', 'tls_reload').Help, /certificates/);
  assert.match(cli('version').Server, /^msrp-relay \(/);
  assert.match(cli('uptime')['Up time'], /^\d+ \[sec\]$/);
  assert.match(cli('uptime')['Up since'], /^\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4}$/);
  assert.deepEqual(cli('ps').Processes.map(({ PID }) => PID), [fixture.relay.child.pid]);

  assert.deepEqual(cli('get_statistics', 'msrp:sessions', 'msrp:auths_granted'), { 'msrp:auths_granted': 3, 'msrp:sessions': 1 });
  assert.deepEqual(cli('get_statistics', 'statistics=sessions msrp:auths_failed'), { 'msrp:auths_failed': 0, 'msrp:sessions': 1 });
  assert.ok(Object.keys(cli('get_statistics', 'all')).length > 40);
  assert.ok(Object.keys(cli('list_statistics')).length > 40);
  assert.deepEqual(Object.keys(cli('list_statistics', 'msrp:sessions')), ['msrp:sessions']);
  refused(/404: Statistics Not Found/, 'get_statistics', 'nothing');

  for (const name of ['tcp:list', 'list_tcp_conns']) {
    const { Connections } = cli(name);
    assert.deepEqual(Connections.map(({ Type, State }) => [Type, State]), [['msrps', 'CONN_OK']]);
  }
  for (const name of ['tls_list', 'tls_mgm:list']) assert.ok(cli(name).Domains.some(({ ID, TYPE }) => ID === 'local' && TYPE === 'TLS_DOMAIN_SRV'));
  for (const name of ['tls_reload', 'tls_mgm:reload']) assert.ok('Reloaded' in cli(name));
  assert.equal(cli('log_level', 'debug')['Log level'], 'debug');
  assert.equal(cli('log_level', 'level=reset')['Log level'], 'info');

  // Tracing, as proto_msrp has it: shown, off, on; and it does what it says.
  for (const name of ['msrp_trace', 'msrp:trace']) assert.ok(commands.includes(name), name);
  const traced = async () => {
    const socket = connect(fixture.ports.msrp, '127.0.0.1');
    await once(socket, 'connect');
    const { localPort } = socket;
    socket.destroy();
    // Until the relay has done with it, and the collector has what was sent before.
    await until(async () => !(await mi('connection:list')).Connections.some(({ remote }) => remote.endsWith(`:${localPort}`)), 'the connection to end');
    await mi('trace:show');
    return localPort;
  };
  // Source and destination ports are chunks 7 and 8 of HEP 3: vendor, type, length, value.
  const tells = (localPort) => packets.some((packet) => [7, 8].some((type) => packet.includes(Buffer.from([0, 0, 0, type, 0, 8, localPort >> 8, localPort & 255]))));
  assert.deepEqual(cli('msrp_trace'), { 'MSRP tracing': 'on' });
  cli('msrp_trace', 'off');
  assert.deepEqual(cli('msrp_trace'), { 'MSRP tracing': 'off' });
  const unseen = await traced();
  cli('msrp_trace', 'trace_mode=on');
  assert.deepEqual(cli('msrp:trace'), { 'MSRP tracing': 'on' });
  const seen = await traced();
  await until(() => tells(seen), 'the connection to be traced');
  assert.ok(!tells(unseen), 'nothing is told while it is off');
  refused(/is on or off, not perhaps/, 'msrp_trace', 'perhaps');

  const [{ ID }] = cli('tcp:list').Connections;
  assert.equal(cli('connection:keepalive', `id=${ID}`, 'mode=on', 'idle=30'), 'OK');
  refused(/404: there is no connection 999/, 'tcp:close', '999');
  refused(/lacks the parameter `id`/, 'tcp:close');
  const [{ user, id }] = cli('session:list', 'user=bob').Sessions;
  assert.equal(user, 'bob');
  assert.equal(cli('session:end', id), 'OK');
  assert.deepEqual(cli('session:list'), { Count: 0, Sessions: [] });
  assert.equal(cli('tcp:close', String(ID)), 'OK');
  await until(() => receiver.code !== undefined, 'the client to learn that its connection is closed');
});
