// A browser that signals with SIP.js and chats with examples/browser-chat, over one port of the relay.

import {
  Inviter, Messager, Registerer, RegistererState, SessionState, UserAgent,
} from '/sip.js/lib/index.js';
import { Endpoint } from '/chat/msrp.js';

const seen = { messages: [], texts: [], state: '', acks: 0 };
let agent;
let endpoint;

/** Describes the MSRP session instead of media: an offer with our path, and the path in the answer. */
class MsrpDescription {
  getDescription() {
    const body = [
      'v=0', 'o=- 1 1 IN IP4 127.0.0.1', 's=-', 'c=IN IP4 127.0.0.1', 't=0 0', 'm=message 9 TCP/TLS/MSRP *',
      'a=accept-types:text/plain', `a=path:${endpoint.path.join(' ')}`, 'a=setup:active', '',
    ].join('\r\n');
    return Promise.resolve({ body, contentType: 'application/sdp' });
  }

  setDescription(sdp) {
    endpoint.setPeer(/^a=path:(.*?)\r?$/m.exec(sdp)[1]);
    return Promise.resolve();
  }

  hasDescription(contentType) { return contentType === 'application/sdp'; }
  holdModifier(description) { return Promise.resolve(description); }
  rollbackDescription() { return Promise.resolve(); }
  sendDtmf() { return false; }
  close() {}
}

const until = (target, state, wanted) => new Promise((done) => {
  if (target[state] === wanted) done();
  target.stateChange.addListener((now) => { if (now === wanted) done(); });
});

/** Makes this the session that the page speaks of. */
async function take(session) {
  window.session = session;
  session.delegate = { onBye: (bye) => bye.accept(), onAck: () => { seen.acks += 1; } };
}

window.sip = {
  seen,
  async start({ url, user, password }) {
    endpoint = new Endpoint({ url, user, password, domain: 'localhost' });
    endpoint.addEventListener('text', ({ detail }) => seen.texts.push(detail.text));
    const open = new Promise((done) => { endpoint.addEventListener('open', done, { once: true }); });
    endpoint.connect();
    await open;
    agent = new UserAgent({
      uri: UserAgent.makeURI(`sip:${user}@localhost`),
      transportOptions: { server: url },
      instanceId: '8f1fa16a-1165-4a96-8341-785b1ef24f12',
      instanceIdAlwaysAdded: true,
      sessionDescriptionHandlerFactory: () => new MsrpDescription(),
      delegate: {
        onMessage(message) {
          seen.messages.push(message.request.body);
          message.accept();
        },
        onInvite(invitation) { take(invitation).then(() => invitation.accept()); },
      },
      logLevel: 'warn',
    });
    await agent.start();
    const registerer = new Registerer(agent, { regId: 1, expires: 600 });
    const registered = until(registerer, 'state', RegistererState.Registered);
    await registerer.register();
    await registered;
    return agent.contact.uri.toString();
  },
  message: (to, text) => new Messager(agent, UserAgent.makeURI(to), text).message({
    requestDelegate: {
      onAccept: () => { seen.state = 'accepted'; },
      onReject: ({ message }) => { seen.state = `rejected ${message.statusCode}`; },
    },
  }),
  async invite(to) {
    await take(new Inviter(agent, UserAgent.makeURI(to)));
    const established = until(window.session, 'state', SessionState.Established);
    await window.session.invite();
    await established;
  },
  /** Calls somebody who does not answer, and gives up when it rings. */
  async giveUp(to) {
    await take(new Inviter(agent, UserAgent.makeURI(to)));
    const ended = until(window.session, 'state', SessionState.Terminated);
    const rings = new Promise((done, fail) => {
      const onReject = ({ message }) => { seen.state = `${message.statusCode}`; };
      window.session.invite({ requestDelegate: { onProgress: done, onReject } }).catch(fail);
    });
    await rings;
    await window.session.cancel();
    await ended;
  },
  is: (state) => until(window.session, 'state', SessionState[state]),
  /** An INVITE within the call; gives the status of its final response. */
  change: () => new Promise((done, fail) => {
    const answer = ({ message }) => done(message.statusCode);
    window.session.invite({ requestDelegate: { onAccept: answer, onReject: answer } }).catch(fail);
  }),
  say: (text) => { endpoint.sendText(text); },
  async bye() {
    const ended = until(window.session, 'state', SessionState.Terminated);
    await window.session.bye();
    await ended;
  },
};
document.title = 'ready';
