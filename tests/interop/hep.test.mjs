// What the daemon traces, at collectors of others: hep-js (npm), sngrep and Kamailio's sipcapture (Debian).
//
// One run of everything the relay carries, told to all of them at once. Our clients keep a record of what they have
// sent and got; the trace has to be the same, message by message.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { ARTEFACTS, ROOT, freePorts, start, until } from './fixture.mjs';
import { Collector, Tool, hepJs, pcap, sqlite } from './hep/collector.mjs';
import { Record } from './hep/messages.mjs';
import { MsrpClient } from './hep/msrp.mjs';
import { Phone, Upstream, statusOf, values } from './hep/sip.mjs';

const HERE = join(ROOT, 'tests/interop');
const EVENT = 89;
const SIP = 1;
const MSRP = 100;

let fixture;
let record;
let upstream;
let collectors;
let sngreps;
let kamailio;
let tools = [];
let databases;
let began;
let ended;
let log;
const KINDS = ['msrp', 'msrps', 'ws', 'wss'];
const SIP_KINDS = ['sip', 'sips', 'ws', 'wss'];
const TABLES = { udp3: 'version 3', udp2: 'version 2' };

/** What a packet says of a message or an event, without who captured it. */
const facts = ({ rcinfo, payload }) => ({
  source: `${rcinfo.srcIp}:${rcinfo.srcPort}`,
  destination: `${rcinfo.dstIp}:${rcinfo.dstPort}`,
  time: rcinfo.timeSeconds + rcinfo.timeUseconds / 1e6,
  type: rcinfo.payloadType,
  correlation: rcinfo.correlation_id,
  link: rcinfo.link,
  text: payload,
});
const isSip = (text) => /^(SIP\/2\.0 \d|[A-Z]+ sips?:)/.test(text);
const isClosed = ({ rcinfo, payload }) => rcinfo.payloadType === EVENT && payload.includes('"CLOSED"');
/** Our connections to the relay; the one to the upstream ends with the relay. */
const opened = () => new Set(record.messages.filter(({ source, destination }) => ![source, destination].includes(`127.0.0.1:${upstream.port}`)).map(({ source, destination }) => [source, destination].sort().join(' '))).size;
/** By connection and direction. */
function groups(list) {
  const found = {};
  for (const message of list) (found[`${message.source} ${message.destination}`] ??= []).push(message);
  return found;
}
const sortKey = ({ source, destination, text }) => `${text} ${source} ${destination}`;
const byKey = (a, b) => (sortKey(a) < sortKey(b) ? -1 : 1);
const seen = ({ source, destination, text }) => ({ source, destination, text });

function startSngrep(folder, port, version) {
  const file = join(ARTEFACTS, `sngrep-v${version}.pcap`);
  const config = join(folder, `sngreprc-v${version}`);
  writeFileSync(config, `set eep.listen.version ${version}\n`);
  const tool = new Tool('sngrep', ['-N', '-q', '-L', `udp:127.0.0.1:${port}`, '-O', file, '-f', config], { env: { ...process.env, TERM: 'dumb' } });
  tools.push(tool);
  return { tool, file, port };
}

function startKamailio(folder, ports) {
  databases = Object.fromEntries(Object.keys(TABLES).map((name) => [name, join(folder, `${name}.db`)]));
  for (const file of Object.values(databases)) sqlite(file, readFileSync(join(HERE, 'hep/sipcapture.sql'), 'utf8'));
  let config = readFileSync(join(HERE, 'hep/kamailio.cfg'), 'utf8').replaceAll('FOLDER', folder);
  for (const [table, port] of Object.entries(ports)) config = config.replaceAll(table.toUpperCase(), port);
  const file = join(folder, 'capture.cfg');
  writeFileSync(file, config);
  const run = join(folder, 'kamailio');
  mkdirSync(run);
  kamailio = new Tool('kamailio', ['-DD', '-E', '-f', file, '-Y', run, '-P', join(run, 'pid'), '-m', '64', '-M', '8']);
  tools.push(kamailio);
}

/** Everything the relay carries, once. */
async function traffic(ports) {
  const ca = readFileSync(fixture.ca);
  const clients = [];
  const login = async (scheme, user) => {
    const client = await MsrpClient.login({ scheme, port: ports[scheme], ca, user, record });
    clients.push(client);
    return client;
  };
  for (const [i, scheme] of KINDS.entries()) {
    const other = KINDS[(i + 1) % KINDS.length];
    const [alice, bob] = [await login(scheme, 'alice'), await login(other, 'bob')];
    await alice.say(bob, `from ${scheme} to ${other}`);
    await bob.say(alice, `back to ${scheme}`);
  }
  const phones = [];
  for (const scheme of SIP_KINDS) {
    const phone = await Phone.connect({ scheme, port: ports[scheme], ca, user: `${scheme}phone`, record });
    phones.push(phone);
    for (const response of [await phone.register(), await phone.message(`hello from ${scheme}`), await phone.call(), await upstream.message(phone.user, `hello to ${scheme}`)]) {
      assert.equal(statusOf(response), 200, response);
    }
  }
  for (const end of [...clients, ...phones]) end.close();
}

before(async () => {
  mkdirSync(ARTEFACTS, { recursive: true });
  began = Date.now() / 1000;
  record = new Record();
  upstream = await Upstream.listen(record);
  const [sip, sips, sngrep3, sngrep2, udp3, udp2, tls] = await freePorts(7);
  const udp = await Collector.listen('udp');
  const tcp = await Collector.listen('tcp');
  const trace = {
    udp: `uri: 'hep_udp://127.0.0.1:${udp.port}', hep_capture_id: 2001, capture_name: relay1`,
    tcp: `uri: 'hep_tcp://127.0.0.1:${tcp.port}', hep_capture_id: 2002, capture_name: relay2, auth_key: k3y`,
    tls: `uri: 'hep_tls://localhost:${tls}', hep_capture_id: 70000`,
    sngrep3: `uri: 'hep_udp://127.0.0.1:${sngrep3}'`,
    sngrep2: `uri: 'hep_udp://127.0.0.1:${sngrep2}', version: 2`,
    kamailio_udp3: `uri: 'hep_udp://127.0.0.1:${udp3}', hep_capture_id: 3`,
    kamailio_udp2: `uri: 'hep_udp://127.0.0.1:${udp2}', hep_capture_id: 2, version: 2`,
  };
  fixture = await start({
    listeners: `  - { uri: 'sip://127.0.0.1:${sip};transport=tcp' }\n  - { uri: 'sips://127.0.0.1:${sips}', tls_domain: local }\n`,
    extra: `sip:
  sip_upstream: [ { uri: 'sip://127.0.0.1:${upstream.port}', advertise: '127.0.0.1:${sip}' } ]
  probe_interval: 1h
trace:
  destinations:
${Object.entries(trace).map(([name, settings]) => `    ${name}: { ${settings} }`).join('\n')}
  protocols:
${[...new Set([...KINDS, ...SIP_KINDS])].map((kind) => `    ${kind}: { messages: true }`).join('\n')}
  trace_filter:
    - { trace: false, protocol: hep }
`,
    before: async (folder) => {
      sngreps = { 3: startSngrep(folder, sngrep3, 3), 2: startSngrep(folder, sngrep2, 2) };
      startKamailio(folder, { udp3, udp2 });
      const [certificate, key] = ['fallback.crt', 'fallback.key'].map((name) => readFileSync(join(folder, name)));
      collectors = { udp, tcp, tls: await Collector.listen('tls', { port: tls, certificate, key }) };
    },
  });
  await until(() => /SIP upstream connected/.test(fixture.relay.stderr + fixture.relay.stdout), 'the connection to the upstream');
  await traffic({ ...fixture.ports, sip, sips });
});

after(async () => {
  for (const tool of tools) await tool.end();
  writeFileSync(join(ARTEFACTS, 'kamailio-hep.log'), kamailio?.output ?? '');
  upstream?.close();
  for (const collector of Object.values(collectors ?? {})) await collector.die();
  await fixture?.stop();
});

/** All that the relay told, which is the same everywhere. */
let told;

/** The relay has ended, so everybody has been told everything. */
async function end() {
  if (told) return told;
  // Nobody is left, or "closed" would be told of some only because the relay ends.
  await until(() => collectors.udp.packets.filter(isClosed).length >= opened(), 'the end of every connection');
  await fixture.relay.stop();
  ended = Date.now() / 1000;
  log = fixture.relay.stderr + fixture.relay.stdout;
  const wanted = Number(/destination="udp" sent=(\d+)/.exec(log)[1]);
  for (const [name, { packets }] of Object.entries(collectors)) await until(() => packets.length >= wanted, `the packets of ${name}`);
  told = collectors.udp.packets.map(facts);
  assert.equal(told.length, wanted);
  return told;
}

test('hep-js is no trivial decoder: it reads what it writes', () => {
  const rcinfo = { protocolFamily: 2, protocol: 6, srcIp: '192.0.2.1', dstIp: '192.0.2.2', srcPort: 1, dstPort: 65535, timeSeconds: 4294967295, timeUseconds: 999999, payloadType: 89, captureId: 70000, hepNodeName: 'n', correlation_id: 'c' };
  const wire = hepJs.encapsulate('payload', rcinfo);
  assert.deepEqual(hepJs.decapsulate(wire), { rcinfo, payload: 'payload' });
  assert.equal(hepJs.decapsulate(Buffer.from('HEP2')), false);
});

test('hep-js decodes every packet over UDP, TCP and TLS; all three are told the same', async () => {
  const all = await end();
  const who = { udp: [2001, 'relay1', undefined], tcp: [2002, 'relay2', 'k3y'], tls: [70000, undefined, undefined] };
  for (const [name, { packets }] of Object.entries(collectors)) {
    assert.deepEqual(packets.map(facts), all, name);
    for (const { rcinfo } of packets) {
      assert.deepEqual([rcinfo.captureId, rcinfo.hepNodeName, rcinfo.capturePass], who[name]);
      assert.deepEqual([rcinfo.protocolFamily, rcinfo.protocol], [2, 6]);
    }
  }
  for (const packet of all) {
    assert.ok(packet.time >= began - 0.001 && packet.time <= ended + 0.001, `${packet.time} is not within the run, ${began} to ${ended}`);
    assert.ok([EVENT, SIP, MSRP].includes(packet.type) && packet.correlation, JSON.stringify(packet));
  }
});

test('every message is told once, with its true ends, and without what proves a password', async () => {
  const all = await end();
  const messages = all.filter(({ type }) => type !== EVENT);
  assert.deepEqual(messages.map(seen).sort(byKey), record.messages.map(seen).sort(byKey));
  assert.ok(messages.length > 150, `${messages.length}`);
  // Those of one connection and direction in the order of the wire.
  const lines = (list) => Object.entries(groups(list)).map(([key, group]) => [key, group.map(({ text }) => text)]).sort();
  assert.deepEqual(lines(messages), lines(record.messages));
  for (const { text, type } of messages) {
    assert.equal(type, text.startsWith('MSRP ') ? MSRP : SIP);
    for (const [, response] of text.matchAll(/[ ,](?:response|rspauth)="([^"]*)"/g)) assert.match(response, /^x+$/);
  }
  assert.ok(messages.some(({ text }) => text.includes('REGISTER') && text.includes('response="xxxx')));
  assert.ok(messages.some(({ text }) => text.includes('AUTH') && text.includes('response="xxxx')));
});

test('messages and events belong together: by session, by Call-ID, by connection', async () => {
  const all = await end();
  // The connection's number, by its ends: what its first event says.
  const numbers = new Map();
  for (const { source, destination, type, correlation } of all) {
    if (type === EVENT) numbers.set([source, destination].sort().join(' '), correlation);
  }
  for (const { source, destination, type, correlation, link, text } of all) {
    if (type === EVENT) continue;
    const connection = numbers.get([source, destination].sort().join(' '));
    assert.deepEqual(JSON.parse(link), { net: connection }, text);
    if (type === SIP) {
      assert.equal(correlation, values(text, 'Call-ID')[0]);
      continue;
    }
    const { sessions } = record.messages.find((message) => message.text === text && message.source === source);
    assert.equal(correlation, sessions ? [...sessions].sort()[0] : connection, text);
  }
});

test('connection events: begin and end of each, with TLS, bytes and messages', async () => {
  const all = await end();
  const events = all.filter(({ type }) => type === EVENT).map((event) => ({ ...event, ...JSON.parse(event.text) }));
  const known = new Set(record.messages.map(({ source, destination }) => [source, destination].sort().join(' ')));
  const upstreamEnd = `127.0.0.1:${upstream.port}`;
  let checked = 0;
  for (const ends of known) {
    const own = events.filter(({ source, destination }) => [source, destination].sort().join(' ') === ends);
    const first = own[0];
    const dialled = ends.split(' ').includes(upstreamEnd);
    assert.deepEqual(own.map(({ Event, Status }) => `${Event} ${Status}`), [dialled ? 'CONNECTED SUCCESS' : 'ACCEPTED SUCCESS', 'CLOSED SUCCESS'], ends);
    assert.equal(new Set(own.map(({ correlation }) => correlation)).size, 1);
    const closed = own[1];
    // From whoever opened it, to the end.
    assert.deepEqual([closed.source, closed.destination], [first.source, first.destination]);
    assert.equal(dialled ? first.destination : first.source, dialled ? upstreamEnd : ends.split(' ').find((end) => end === first.source));
    const secure = ['MSRPS', 'WSS', 'SIPS'].includes(first.Protocol);
    assert.equal(first.TlsVersion, secure ? 'TLSv1.3' : undefined);
    const count = (sent) => record.messages.filter(({ source, destination }) => (sent ? source : destination) === first.source && (sent ? destination : source) === first.destination).length;
    const [here, there] = dialled ? ['MessagesOut', 'MessagesIn'] : ['MessagesIn', 'MessagesOut'];
    assert.deepEqual([closed[here], closed[there]], [count(true), count(false)], `${first.Protocol} ${ends}`);
    assert.ok(closed.BytesIn > 0 && closed.BytesOut > 0 && closed.Duration > 0);
    checked += 1;
  }
  // Eight for MSRP, four for SIP, and the upstream.
  assert.equal(checked, 13);
  assert.deepEqual(new Set(events.map(({ Protocol }) => Protocol)), new Set(['MSRP', 'MSRPS', 'WS', 'WSS', 'SIP', 'SIPS']));
  // Of whoever only knocked: what was wrong.
  const failed = events.filter(({ Status }) => Status === 'FAILURE');
  assert.ok(failed.length > 0 && failed.every(({ Event, Kind, Message }) => Event === 'ACCEPTED' && Kind === 'tcp:failed' && Message.includes('handshake')));
});

for (const version of [3, 2]) {
  test(`sngrep gets all SIP by HEP version ${version}, with its true ends`, async () => {
    const all = await end();
    const sip = all.filter(({ type }) => type === SIP);
    const { tool, file } = sngreps[version];
    // It writes what it has when it ends; until then nothing says that it has read everything but the file.
    await until(() => existsSync(file) && pcap(file).filter(({ text }) => isSip(text)).length >= sip.length, `sngrep: ${sip.length} messages\n${tool.output}`);
    await tool.end('SIGINT');
    const found = pcap(file).filter(({ text }) => isSip(text));
    assert.deepEqual(found.map(seen).sort(byKey), sip.map(seen).sort(byKey));
    const methods = new Set(found.map(({ text }) => text.split(' ')[0]));
    for (const method of ['REGISTER', 'MESSAGE', 'INVITE', 'ACK', 'BYE', 'SIP/2.0']) assert.ok(methods.has(method), method);
    const times = new Map(sip.map((message) => [sortKey(message), message.time]));
    for (const packet of found) assert.ok(Math.abs(packet.time - times.get(sortKey(packet))) < 2e-6, `${packet.time}`);
  });
}

for (const [table, name] of Object.entries(TABLES)) {
  test(`Kamailio's sipcapture stores all SIP, ${name}`, async () => {
    const all = await end();
    const sip = all.filter(({ type }) => type === SIP);
    const read = () => sqlite(databases[table], 'SELECT * FROM sip_capture');
    await until(() => read().length >= sip.length, `${sip.length} rows; ${read().length}\n${kamailio.output.slice(-2000)}`);
    const stored = read().map((row) => ({
      // As it writes SQL for MySQL, line breaks are escaped.
      text: row.msg.replaceAll('\\r', '\r').replaceAll('\\n', '\n').replaceAll('\\"', '"'),
      source: `${row.source_ip}:${row.source_port}`,
      destination: `${row.destination_ip}:${row.destination_port}`,
      time: Math.round(row.micro_ts),
      method: row.method,
      ruri: row.ruri,
      callid: row.callid,
      // Version 2 has none; it takes the Call-ID.
      correlation: row.correlation_id,
      node: row.node,
      // 1 is a request, 2 a response; and TCP is 2.
      type: row.type,
      proto: row.proto,
    })).sort(byKey);
    const wanted = sip.map((message) => {
      const [first, second] = message.text.split(' ');
      const response = first === 'SIP/2.0';
      const [callid] = values(message.text, 'Call-ID');
      return {
        ...seen(message),
        time: Math.round(message.time * 1e6),
        method: response ? second : first,
        ruri: response ? '' : second,
        callid,
        correlation: message.correlation,
        node: `kamailio:${table === 'udp2' ? 2 : 3}`,
        type: response ? 2 : 1,
        proto: 2,
      };
    }).sort(byKey);
    assert.deepEqual(stored, wanted);
  });
}

test('what the log says at the end adds up, for every collector', async () => {
  const all = await end();
  for (const name of ['udp', 'tcp', 'tls', 'sngrep3', 'sngrep2', 'kamailio_udp3', 'kamailio_udp2']) {
    assert.match(log, new RegExp(`tracing ended destination="${name}" sent=${all.length}\\n`));
  }
});

test('collectors that die, stall and come back cost packets, all of which are counted, and traffic nothing', async (t) => {
  // `steady` gets everything: what it has got is what was meant for each of the others.
  const steady = await Collector.listen('tcp');
  const first = { dying: await Collector.listen('tcp') };
  const second = {};
  const stalled = await Collector.listen('tcp', { stalls: true });
  const [tlsPort, refused] = await freePorts(2);
  let certificates;
  const quick = 'hep_send_timeout: 1s, max_retries: 100, retry_cooldown: 1s, hep_async_max_postponed_chunks: 100';
  const daemon = await start({
    extra: `trace:
  destinations:
    steady: { uri: '${steady.uri}', hep_async_max_postponed_chunks: 100000 }
    dying: { uri: '${first.dying.uri}', ${quick} }
    dying_tls: { uri: 'hep_tls://localhost:${tlsPort}', ${quick} }
    stalled: { uri: '${stalled.uri}', ${quick} }
    refused: { uri: 'hep_tcp://127.0.0.1:${refused}', ${quick} }
  protocols: { msrp: { messages: true } }
  trace_filter: [ { trace: false, protocol: hep } ]
  msrp_body: 64000B
`,
    before: async (folder) => {
      certificates = { certificate: readFileSync(join(folder, 'fallback.crt')), key: readFileSync(join(folder, 'fallback.key')) };
      first.dying_tls = await Collector.listen('tls', { port: tlsPort, ...certificates });
    },
  });
  t.after(async () => {
    await daemon.stop();
    for (const collector of [steady, stalled, ...Object.values(second)]) await collector.die();
  });
  const lost = new Record();
  const login = (user) => MsrpClient.login({ scheme: 'msrp', port: daemon.ports.msrp, user, record: lost });
  const [alice, bob] = [await login('alice'), await login('bob')];
  const talk = async (from, count) => {
    for (let i = 0; i < count; i += 1) await alice.say(bob, `${from + i} ${'m'.repeat(50_000)}`);
  };
  const all = (collectors, check, what) => until(() => Object.values(collectors).every(check), what);

  await talk(0, 20);
  await all(first, ({ packets }) => packets.length > 0, 'both are told');
  await Promise.all(Object.values(first).map((collector) => collector.die()));
  // More than their queues take, and than the kernel takes for the one that does not read.
  await talk(1000, 300);
  second.dying = await Collector.listen('tcp', { port: first.dying.port });
  second.dying_tls = await Collector.listen('tls', { port: tlsPort, ...certificates });
  await until(async () => {
    await talk(2000 + lost.messages.length, 1);
    return Object.values(second).every(({ packets }) => packets.length > 0);
  }, 'those that have come back are told again');
  alice.close();
  bob.close();
  await until(() => steady.packets.filter(isClosed).filter(({ payload }) => payload.includes('"MessagesIn":') && !payload.includes('"MessagesIn":0')).length === 2, 'the end of both');
  await daemon.relay.stop();
  const text = daemon.relay.stderr + daemon.relay.stdout;
  const counted = (name) => {
    const found = new RegExp(`destination="${name}" sent=(\\d+)(?: dropped=(\\d+) possibly_lost_bytes=(\\d+))?`).exec(text);
    const [sent, dropped, bytes] = found.slice(1).map((figure) => Number(figure ?? 0));
    return { sent, dropped, bytes };
  };
  const offered = counted('steady');
  assert.equal(offered.dropped, 0, text);
  await until(() => steady.packets.length === offered.sent, 'what was sent');
  for (const name of ['dying', 'dying_tls', 'stalled', 'refused']) {
    const { sent, dropped } = counted(name);
    assert.equal(sent + dropped, offered.sent, `${name}: ${sent} + ${dropped}`);
    assert.ok(dropped > 0, name);
  }
  assert.equal(counted('refused').sent, 0);
  // Once they have read what was sent, no more of it is missing than may have got lost.
  await all({ steady, ...second }, ({ connections }) => connections.size === 0, 'the end of the connections');
  const got = (name) => [first, second].reduce((sum, each) => sum + (each[name]?.packets.length ?? 0), 0);
  for (const name of ['dying', 'dying_tls', 'stalled']) {
    const { sent, bytes } = counted(name);
    const missing = sent - got(name);
    t.diagnostic(`${name}: ${offered.sent} meant for it, ${sent} sent, ${got(name)} there, ${bytes} bytes may be lost`);
    assert.ok(missing >= 0 && missing * Math.min(...steady.lengths) <= bytes, `${name}: ${missing} of ${sent}, ${bytes} bytes`);
  }
  // What was sent to the one that reads nothing are the first ones, and none has arrived.
  const gone = steady.lengths.slice(0, counted('stalled').sent).reduce((sum, length) => sum + length, 0);
  assert.ok(gone <= counted('stalled').bytes, `${gone} bytes are lost, ${counted('stalled').bytes} are counted`);
});
