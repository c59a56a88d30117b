// Debian's Kamailio as an upstream of the edge.

import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { ARTEFACTS, ROOT, until } from '../fixture.mjs';

/** How the edge reaches it: what kamailio.cfg defines for it. */
const DEFINES = { sip: [], sips: ['WITH_TLS'], ws: ['WITH_WS'], wss: ['WITH_TLS', 'WITH_WS'] };

export class Kamailio {
  log = '';

  /** `scheme` is that of the edge's `sip_upstream`, `name` what it calls itself in Server; certificates are in `folder`. */
  constructor({ folder, name, scheme, port }) {
    Object.assign(this, { name, scheme, port });
    this.uri = `${scheme}://127.0.0.1:${port}${scheme.startsWith('ws') ? '/sip' : ''}`;
    this.folder = join(folder, `kamailio-${name}`);
    mkdirSync(this.folder);
    this.config = join(this.folder, 'kamailio.cfg');
    const given = { PORT: port, NAME: name, FOLDER: folder };
    const text = readFileSync(join(ROOT, 'tests/interop/sip/kamailio.cfg'), 'utf8');
    writeFileSync(this.config, text.replaceAll(/\b(PORT|NAME|FOLDER)\b/g, (word) => given[word]));
  }

  start() {
    const defines = DEFINES[this.scheme].flatMap((define) => ['-A', define]);
    // In the foreground, so that it ends with us, and a group of its own: it is several processes.
    const child = spawn('kamailio', [
      '-DD', '-E', '-f', this.config, '-Y', this.folder, '-P', join(this.folder, 'pid'), '-m', '64', '-M', '8', ...defines,
    ], { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => { this.log += data; });
    this.child = child;
    child.on('exit', () => { this.ended = child; });
    process.once('exit', () => this.signal('SIGKILL'));
  }

  get running() { return this.child !== undefined && this.ended !== this.child; }

  signal(name) {
    if (this.running) process.kill(-this.child.pid, name);
  }

  /** All of its processes at once, without a word to anybody. */
  async kill() {
    this.signal('SIGKILL');
    await until(() => !this.running, `${this.name} to be gone`);
  }

  async stop() {
    this.signal('SIGCONT');
    this.signal('SIGTERM');
    await until(() => !this.running, `${this.name} to end`);
    writeFileSync(join(ARTEFACTS, 'kamailio.log'), this.log, { flag: 'a' });
  }
}
