// The page: what the user sees and does. The protocol is in msrp.js.

import { Endpoint } from './msrp.js';
import { parseUri, safeFileName } from './message.js';

/** From one try to connect again to the next: doubled each time, up to the second one. */
const RETRY_FIRST = 1_000;
const RETRY_MOST = 30_000;
/** Pictures that are shown, by their first bytes; SVG is none of them. */
const PICTURES = [
  ['image/png', '89504e47'], ['image/jpeg', 'ffd8ff'], ['image/gif', '47494638'], ['image/webp', '52494646'],
];
const PICTURE_LIMIT = 16 * 1024 * 1024;

const $ = (id) => document.getElementById(id);
const log = $('log');
let endpoint = null;
let retry = RETRY_FIRST;
let retryTimer = null;
/** A relay mostly is where the page is; a link may name another one. */
const here = location.protocol.startsWith('http')
  ? `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/msrp`
  : '';

function element(name, { text, ...properties } = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  if (text !== undefined) node.textContent = text;
  node.append(...children);
  return node;
}

/** Who is at the end of a path; a browser's name is drawn at random (RFC 7977 §5.3), and says nothing. */
function talking(path) {
  const { host } = parseUri(path.at(-1));
  return host.endsWith('.invalid') ? 'In conversation' : `With ${host}`;
}
const time = () => new Date().toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });

function bytes(count) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  const power = Math.min(Math.floor(Math.log2(Math.max(count, 1)) / 10), 3);
  return `${(count / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${units[power]}`;
}

function status(state, text) {
  $('status').dataset.state = state;
  $('status').textContent = text;
}

function problem(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}

// ---- the log

/** Whether the newest message is in sight: then it stays there. */
const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;
const toEnd = () => { log.scrollTop = log.scrollHeight; };

function add(node) {
  const follow = isAtEnd() || node.classList.contains('mine');
  log.append(node);
  if (follow) toEnd();
  return node;
}

const note = (text) => add(element('li', { className: 'note', text }));

const STATES = {
  sending: 'Sending…',
  sent: 'Sent',
  delivered: 'Delivered ✓',
  receiving: 'Receiving…',
  checking: 'Checking…',
  received: 'Received ✓',
  failed: 'Failed',
  cancelled: 'Cancelled',
};

const describe = ({ state, reason }) => STATES[state] + (reason ? `: ${reason}` : '');

function showText(text, transfer) {
  const meta = element('span', { className: 'meta', text: time() });
  const item = add(element('li', { className: `bubble ${transfer ? 'mine' : 'theirs'}`, text }, meta));
  if (!transfer) return;
  const from = time();
  transfer.onchange = () => {
    meta.textContent = `${from} · ${describe(transfer)}`;
    item.classList.toggle('failed', transfer.state === 'failed');
    item.dataset.state = transfer.state;
  };
  transfer.onchange();
}

async function pictureType(blob) {
  const start = new Uint8Array(await blob.slice(0, 4).arrayBuffer());
  const digits = Array.from(start, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return PICTURES.find(([, magic]) => digits.startsWith(magic))?.[0];
}

function showFile(transfer, name, mine) {
  const bar = element('progress', { max: 1, value: 0, ariaLabel: `Progress of ${name}` });
  const meta = element('span', { className: 'meta' });
  const cancel = element('button', { type: 'button', text: 'Cancel', ariaLabel: `Cancel ${name}` });
  cancel.onclick = () => endpoint.cancel(transfer);
  const item = element('li', { className: `bubble file ${mine ? 'mine' : 'theirs'}` },
    element('strong', { text: name }), bar, meta, cancel);
  // The browser is not asked to paint, nor a screen reader to speak, more often than it can.
  meta.ariaLive = 'off';
  let planned = false;
  const draw = async () => {
    planned = false;
    const follow = isAtEnd();
    const size = mine ? transfer.size : transfer.total;
    const done = mine ? transfer.acknowledged : transfer.received;
    const under = ['sending', 'receiving', 'checking'].includes(transfer.state);
    if (size === null) bar.removeAttribute('value');
    else bar.value = size === 0 ? 1 : done / size;
    const amount = under && size !== null ? `${bytes(done)} of ${bytes(size)}` : bytes(size ?? done);
    meta.textContent = `${amount} · ${describe(transfer)}`;
    bar.hidden = !under;
    cancel.hidden = !under;
    item.dataset.state = transfer.state;
    item.classList.toggle('failed', transfer.state === 'failed');
    if (transfer.state === 'received' && !item.querySelector('a')) {
      if (transfer.verified) meta.textContent += ' · SHA-256 is right';
      const href = URL.createObjectURL(transfer.blob);
      item.append(element('a', { href, download: name, text: 'Save', ariaLabel: `Save ${name}` }));
      const type = transfer.blob.size <= PICTURE_LIMIT ? await pictureType(transfer.blob) : undefined;
      if (type) {
        const src = URL.createObjectURL(transfer.blob.slice(0, transfer.blob.size, type));
        item.append(element('img', { src, alt: name, onload: () => follow && toEnd() }));
      }
    }
  };
  transfer.onchange = () => {
    if (planned) return;
    planned = true;
    // Not requestAnimationFrame: that stops in a tab that is not seen.
    setTimeout(draw, transfer.state === 'sending' || transfer.state === 'receiving' ? 50 : 0);
  };
  add(item);
  draw();
}

// ---- sending

const withPeer = (send) => {
  if (!endpoint?.isOpen) return note('Not connected.');
  if (!endpoint.peer) {
    $('paths').open = true;
    $('peer-path').focus();
    return note('First, whom to: enter the other side’s path, or wait until they write.');
  }
  return send();
};

const sendFiles = (files) => withPeer(() => {
  for (const file of files) showFile(endpoint.sendFile(file), safeFileName(file.name), true);
});

$('composer').onsubmit = (event) => {
  event.preventDefault();
  const field = $('text');
  const text = field.value;
  if (!text.trim()) return;
  withPeer(() => {
    showText(text, endpoint.sendText(text));
    field.value = '';
    grow();
  });
};

function grow() {
  const field = $('text');
  field.style.height = 'auto';
  field.style.height = `${Math.min(field.scrollHeight + 2, 144)}px`;
}

$('text').oninput = grow;
$('text').onkeydown = (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $('composer').requestSubmit();
};
$('text').onpaste = (event) => {
  const { files } = event.clipboardData;
  if (files.length === 0) return;
  event.preventDefault();
  sendFiles(files);
};
$('file').onchange = ({ target }) => {
  sendFiles(target.files);
  target.value = '';
};

const hasFiles = (event) => endpoint && event.dataTransfer?.types.includes('Files');
document.ondragover = (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  $('drop').hidden = false;
};
document.ondragleave = (event) => {
  if (event.relatedTarget === null) $('drop').hidden = true;
};
document.ondrop = (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  $('drop').hidden = true;
  sendFiles(event.dataTransfer.files);
};

// ---- who is who

const fragment = () => new URLSearchParams(location.hash.slice(1));
/** What opens this page for the other side; with the relay's address, if the page would not find it by itself. */
function link() {
  const told = new URLSearchParams({ to: endpoint.path.join(' ') });
  for (const [id, usual] of [['relay', here], ['domain', '']]) {
    const value = $(id).value.trim();
    if (value !== usual) told.set(id, value);
  }
  return `${location.href.split('#')[0]}#${told}`;
}

async function copy(text, field) {
  try {
    await navigator.clipboard.writeText(text);
    $('copied').textContent = 'Copied';
  } catch {
    // On plain http there is no clipboard: then by hand.
    field.focus();
    field.select();
    $('copied').textContent = document.execCommand?.('copy') ? 'Copied the path' : 'Selected: copy it now';
  }
  setTimeout(() => { $('copied').textContent = ''; }, 3000);
}

$('copy-path').onclick = () => copy($('own-path').value, $('own-path'));
$('copy-link').onclick = () => copy(link(), $('own-path'));
$('peer-form').onsubmit = (event) => {
  event.preventDefault();
  usePeer($('peer-path').value);
};

function usePeer(text) {
  try {
    endpoint.setPeer(text.trim() || null);
    problem('peer-error', '');
    if (endpoint.peer) $('paths').open = false;
    else status('open', 'Waiting');
  } catch (error) {
    $('paths').open = true;
    problem('peer-error', `${error.message}.`);
  }
}

// ---- logging in and out

function prefill() {
  const given = fragment();
  $('relay').value = given.get('relay') ?? here;
  $('user').value = given.get('user') ?? '';
  $('domain').value = given.get('domain') ?? '';
}

/** The password lives in the Endpoint alone, and goes with it. */
function begin(options) {
  endpoint = new Endpoint(options);
  const events = {
    open({ path }) {
      retry = RETRY_FIRST;
      const isNew = $('chat').hidden;
      problem('login-error', '');
      $('login').hidden = true;
      $('paths').hidden = $('chat').hidden = $('leave').hidden = false;
      $('own-path').value = path.join(' ');
      $('password').value = '';
      status('open', endpoint.peer ? 'Connected' : 'Waiting');
      if (!isNew) {
        note('You have a new path.');
        return;
      }
      const to = fragment().get('to');
      if (to) {
        $('peer-path').value = to;
        usePeer(to);
      }
      $(endpoint.peer ? 'text' : 'copy-link').focus();
    },
    peer({ path }) {
      $('peer-path').value = path.join(' ');
      $('paths').open = false;
      $('paths-summary').textContent = 'Paths';
      status('open', talking(path));
    },
    text: ({ text }) => showText(text),
    file: ({ transfer }) => showFile(transfer, safeFileName(transfer.disposition.filename), false),
    closed({ reason, wasOpen, final }) {
      $('login').querySelector('[type=submit]').disabled = false;
      if (final || $('chat').hidden) {
        status('closed', 'Not connected');
        problem('login-error', `Not connected: ${reason}.`);
        $('login').hidden = false;
        $('paths').hidden = $('chat').hidden = $('leave').hidden = true;
        return;
      }
      if (wasOpen) note(`Connection lost: ${reason}.`);
      status('busy', 'Connecting again…');
      retryTimer = setTimeout(() => endpoint.connect(), retry);
      retry = Math.min(retry * 2, RETRY_MOST);
    },
  };
  for (const [type, handle] of Object.entries(events)) {
    endpoint.addEventListener(type, ({ detail }) => handle(detail));
  }
  endpoint.connect();
}

$('login').onsubmit = (event) => {
  event.preventDefault();
  problem('login-error', '');
  const field = (id) => $(id).value.trim();
  try {
    begin({ url: field('relay'), user: field('user'), password: $('password').value, domain: field('domain') });
    $('login').querySelector('[type=submit]').disabled = true;
    status('busy', 'Connecting…');
  } catch (error) {
    problem('login-error', `${error.message}.`);
  }
};

$('leave').onclick = () => {
  clearTimeout(retryTimer);
  endpoint.close('logged out');
  status('closed', 'Logged out');
  problem('login-error', '');
  $('login').hidden = false;
  $('paths').hidden = $('chat').hidden = $('leave').hidden = true;
  // What was received is forgotten with the conversation.
  for (const { href, src } of log.querySelectorAll('a, img')) URL.revokeObjectURL(href ?? src);
  log.replaceChildren();
  $('user').focus();
};

addEventListener('hashchange', () => {
  if (!$('login').hidden && !endpoint) return prefill();
  const to = fragment().get('to');
  if (!to || !endpoint?.isOpen) return;
  $('peer-path').value = to;
  usePeer(to);
});
addEventListener('beforeunload', (event) => {
  if (endpoint?.isOpen && log.querySelector('[data-state=sending], [data-state=receiving]')) event.preventDefault();
});

prefill();
