// The daemon as an edge, and Kamailio behind it.

import { mkdirSync, readFileSync } from 'node:fs';

import { ARTEFACTS, freePorts, start, until } from '../fixture.mjs';
import { Agent } from './agent.mjs';
import { Kamailio } from './kamailio.mjs';

/**
 * Starts all of it; `upstreams` have a `name`, a `scheme` and perhaps a `priority`. `host`: how the edge calls itself to
 * phones, and they it in Route.
 */
export async function stage(upstreams, { host = 'localhost' } = {}) {
  mkdirSync(ARTEFACTS, { recursive: true });
  const [sip, sips, ...ports] = await freePorts(2 + upstreams.length);
  const uri = ({ scheme }, port) => `${scheme}://127.0.0.1:${port}${scheme.startsWith('ws') ? '/sip' : ''}`;
  // Where Kamailio finds us is where it looks for the connection that we have opened.
  const listed = upstreams.map((upstream, index) => `    - { uri: '${uri(upstream, ports[index])}', advertise: '127.0.0.1:${
    upstream.scheme.endsWith('s') && upstream.scheme !== 'ws' ? sips : sip}', priority: ${upstream.priority ?? 0} }\n`);
  const fixture = await start({
    listeners: `  - { uri: 'sip://127.0.0.1:${sip};transport=tcp', advertise: '${host}:${sip}' }
  - { uri: 'sips://127.0.0.1:${sips}', advertise: '${host}:${sips}', tls_domain: local }
`,
    extra: `sip:\n  sip_upstream:\n${listed.join('')}  probe_interval: 1s\n  probe_timeout: 1s\n`,
  });
  const kamailios = upstreams.map(({ name, scheme }, index) => new Kamailio({ folder: fixture.folder, name, scheme, port: ports[index] }));
  const agents = [];
  const log = () => fixture.relay.stderr + fixture.relay.stdout;
  const said = (what, { uri: of }) => log().split('\n').filter((line) => line.includes(what) && line.includes(of)).length;
  const own = {
    fixture,
    kamailios,
    sip,
    sips,
    /** How often the relay's log says this of an upstream. */
    said,
    /** Waits until it has said so `times`. */
    heard: (what, kamailio, times = 1) => until(() => said(what, kamailio) >= times, () => `“${what}” of ${kamailio.name} in the relay's log:\n${log()}\n${kamailio.log}`),
    /** A phone over TLS that is registered. */
    async phone(user, answer) {
      const agent = new Agent({ port: sips, ca: readFileSync(fixture.ca), user, answer });
      agents.push(agent);
      const registered = await agent.register();
      if (registered.status !== 200) throw new Error(`${user} is not registered: ${registered.head}`);
      return agent;
    },
    async stop() {
      agents.forEach((agent) => agent.socket.destroy());
      await Promise.all(kamailios.map((kamailio) => kamailio.stop()));
      await fixture.stop();
    },
  };
  try {
    for (const kamailio of kamailios) {
      kamailio.start();
      await until(() => {
        if (!kamailio.running) throw new Error(`Kamailio has ended: ${kamailio.log}`);
        return said('SIP upstream connected', kamailio);
      }, () => `the connection to ${kamailio.uri}:\n${log()}\n${kamailio.log}`);
    }
  } catch (error) {
    await own.stop();
    throw error;
  }
  return own;
}
