// What went over the wire, as our ends of it saw it: the truth that a trace is compared to.

const address = (ip, port) => `${ip.replace(/^::ffff:/, '')}:${port}`;

/** The digests of Digest are masked in a trace, octet by octet, and nothing else is. */
export const masked = (text) => text.replace(/\b((?:response|rspauth)=")([^"]*)(")/gi, (_, before, value, after) => before + 'x'.repeat(value.length) + after);

/** Messages, in the order in which our ends sent them or got them. */
export class Record {
  messages = [];

  /** `socket` is our end; `sent`, if we have sent it. `extra` is kept with it. */
  add(socket, sent, text, extra = {}) {
    // Asked for while the connection is there: afterwards it knows neither.
    socket.ends ??= [address(socket.localAddress, socket.localPort), address(socket.remoteAddress, socket.remotePort)];
    const [source, destination] = sent ? socket.ends : [...socket.ends].reverse();
    this.messages.push({ source, destination, text: masked(text), ...extra });
  }
}

/** A stream in pieces, each as long as `length(buffer)` says; 0 if that is not known yet. */
export function pieces(socket, length, take) {
  let buffer = Buffer.alloc(0);
  socket.on('data', (data) => {
    buffer = Buffer.concat([buffer, data]);
    for (;;) {
      const end = buffer.length === 0 ? 0 : length(buffer);
      if (end === 0 || end > buffer.length) return;
      take(buffer.subarray(0, end));
      buffer = buffer.subarray(end);
    }
  });
}
