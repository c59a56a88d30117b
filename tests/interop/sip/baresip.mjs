// Debian's baresip as a phone over TLS: another SIP stack (libre), with outbound (RFC 5626), driven by its module ctrl_tcp.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

import { ARTEFACTS, freePorts, until } from '../fixture.mjs';

/** Where its modules are: Debian has moved them into the folder of the architecture. */
const MODULES = ['.', ...readdirSync('/usr/lib')].map((folder) => join('/usr/lib', folder, 'baresip/modules')).find(existsSync);

export class Baresip {
  events = [];
  log = '';
  #answers = [];
  #buffer = Buffer.alloc(0);

  /** `peer` is whom its messages go to. */
  constructor({ user, peer, port, folder, ca }) {
    Object.assign(this, { user, peer, port, ca, folder: join(folder, `baresip-${user}`) });
  }

  async start() {
    const [control] = await freePorts(1);
    mkdirSync(this.folder);
    writeFileSync(join(this.folder, 'config'), [
      'sip_listen 127.0.0.1:0', `sip_cafile ${this.ca}`, 'net_interface 127.0.0.1', 'audio_player aubridge,nil',
      'audio_source aubridge,nil', 'audio_alert aubridge,nil', `ctrl_tcp_listen 127.0.0.1:${control}`,
      `module_path ${MODULES}`,
      ...['g711', 'aubridge', 'uuid', 'account', 'contact', 'menu', 'ctrl_tcp'].map((name) => `module ${name}.so`), '',
    ].join('\n'));
    writeFileSync(join(this.folder, 'contacts'), `"${this.peer}" <sip:${this.peer}@localhost>\n`);
    writeFileSync(join(this.folder, 'accounts'), `<sip:${this.user}@localhost;transport=tls>;auth_pass=none;outbound="sip:127.0.0.1:${this.port};transport=tls";sipnat=outbound;regint=600;answermode=manual\n`);
    this.child = spawn('baresip', ['-f', this.folder, '-v', '-s'], { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout, this.child.stderr]) stream.on('data', (data) => { this.log += data; });
    this.child.on('error', (error) => { this.log += error; });
    process.once('exit', () => this.child.kill('SIGKILL'));
    await until(async () => {
      if (this.child.exitCode !== null) throw new Error(`baresip has ended: ${this.log}`);
      this.socket = connect(control, '127.0.0.1');
      return once(this.socket, 'connect').then(() => true, () => false);
    }, () => `baresip's control port: ${this.log}`);
    this.socket.on('data', (data) => this.#read(data));
    this.socket.on('error', () => {});
    await this.printed(/200 OK .*\[\d+ binding/);
  }

  /** A command; gives what it says. */
  async command(command, params = '') {
    const text = JSON.stringify({ command, params });
    const answer = new Promise((done) => { this.#answers.push(done); });
    this.socket.write(`${Buffer.byteLength(text)}:${text},`);
    return answer;
  }

  /** Waits until there have been so many events of this kind; gives the last of these. */
  async event(type, count = 1) {
    const all = () => this.events.filter((event) => event.type === type);
    await until(() => all().length >= count, () => `${count} ${type} of ${this.user}, who has ${this.events.map((event) => event.type)}\n${this.log.slice(-6000)}`);
    return all()[count - 1];
  }

  /** Waits for a text in what it prints, its SIP included, after the first `from` characters. */
  printed(pattern, from = 0) {
    return until(() => pattern.exec(this.log.slice(from)), () => `${pattern} of ${this.user}:\n${this.log.slice(from).slice(-6000)}`);
  }

  async stop() {
    this.socket?.destroy();
    this.child?.kill('SIGKILL');
    await until(() => this.child === undefined || this.child.exitCode !== null || this.child.signalCode !== null, 'baresip to end');
    writeFileSync(join(ARTEFACTS, 'baresip.log'), this.log, { flag: 'a' });
  }

  /** Netstrings with JSON. */
  #read(data) {
    this.#buffer = Buffer.concat([this.#buffer, data]);
    for (;;) {
      const colon = this.#buffer.indexOf(':');
      if (colon < 0) return;
      const end = colon + 1 + Number(this.#buffer.subarray(0, colon));
      if (this.#buffer.length < end + 1) return;
      const message = JSON.parse(`${this.#buffer.subarray(colon + 1, end)}`);
      this.#buffer = this.#buffer.subarray(end + 1);
      if (message.event) this.events.push(message);
      else this.#answers.shift()?.(message);
    }
  }
}
