//! The reading side of a WebSocket: frames off the wire, payload to whoever reads messages.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};

use super::Role;
use super::control::{Control, SmallFrame};
use super::frame::{self, CloseCode, Header, Opcode, Violation};
use crate::connection::{CloseReason, Flow};

/// The longest frame that is taken: 16 MiB. It costs no memory, as nothing is collected; it bounds
/// what a peer can send that nobody can interrupt.
pub const DEFAULT_MAX_FRAME: u64 = 16 * 1024 * 1024;

/// The longest message that is taken, all its frames together: 16 MiB.
pub const DEFAULT_MAX_MESSAGE: u64 = 16 * 1024 * 1024;

/// How long nothing may come before a ping asks whether the peer is there: 30 s, half of what common
/// proxies give an idle WebSocket.
pub const DEFAULT_PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long the answer to that ping may take: 10 s.
pub const DEFAULT_PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// What may be set about the reading side.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of one frame's payload at most, else 1009; [`DEFAULT_MAX_FRAME`].
    pub max_frame: u64,
    /// Bytes of one message's payload at most, else 1009; [`DEFAULT_MAX_MESSAGE`].
    pub max_message: u64,
    /// Reads in which one message may arrive, else 1008. A protection against those who send slowly;
    /// `None`, the default, where the protocol above has its own.
    pub max_msg_chunks: Option<NonZeroU32>,
    /// A ping is sent when nothing came for so long; `None`: never. [`DEFAULT_PING_INTERVAL`].
    pub ping_interval: Option<Duration>,
    /// The connection ends when nothing came for so long after a ping; [`DEFAULT_PONG_TIMEOUT`].
    pub pong_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_frame: DEFAULT_MAX_FRAME,
            max_message: DEFAULT_MAX_MESSAGE,
            max_msg_chunks: None,
            ping_interval: Some(DEFAULT_PING_INTERVAL),
            pong_timeout: DEFAULT_PONG_TIMEOUT,
        }
    }
}

/// Payload of the current message, for its consumer.
#[derive(Debug)]
pub struct Payload<'a> {
    /// The message's bytes that were not consumed yet, unmasked and in one piece. The consumer takes
    /// what it can off the front (`split_to`, `advance`) and leaves the rest.
    pub buf: &'a mut BytesMut,
    /// The message is complete with what is in `buf`. What the consumer leaves there when it answers
    /// [`Flow::Read`] is thrown away.
    pub end: bool,
    /// It came as text. Its content is handed over as bytes all the same, and nobody has looked
    /// whether it is UTF-8 (RFC 7977 §4.2).
    pub text: bool,
}

/// The reading side of one WebSocket. It stands between [`Protocol::received`] and a consumer of
/// payload bytes, holds no bytes itself, and keeps the control frames that are to be sent.
///
/// | what the peer does | Close code |
/// |---|---|
/// | breaks RFC 6455 §5 or sends a bad Close | 1002 |
/// | a Close whose reason is not UTF-8 | 1007 |
/// | more reads for a message than [`Settings::max_msg_chunks`] | 1008 |
/// | more than [`Settings::max_frame`] or [`Settings::max_message`], by the header alone | 1009 |
///
/// [`Protocol::received`]: crate::Protocol::received
#[derive(Debug)]
pub struct Incoming {
    role: Role,
    settings: Settings,
    message: Option<Message>,
    frame: Option<Frame>,
    /// Bytes at the buffer's front that are payload already: unmasked and not consumed.
    kept: usize,
    /// Bytes after those that are headers done with; none between two calls.
    gap: usize,
    /// The consumer paused, and is to be asked again, with this `end`.
    offered: Option<bool>,
    control: Control,
    alive: Alive,
    /// The peer has closed, or broke a rule: nothing it sends counts any more.
    over: bool,
    /// Bytes of payload of data frames, of all messages.
    payload: u64,
}

#[derive(Debug)]
struct Message {
    /// Bytes of payload that its frames announced so far.
    announced: u64,
    reads: u32,
    text: bool,
}

/// A data frame whose payload is arriving.
#[derive(Debug)]
struct Frame {
    left: u64,
    /// For the next byte on; zero where there is none.
    mask: [u8; 4],
    fin: bool,
}

#[derive(Debug, Clone, Copy)]
enum Alive {
    /// The last time something came.
    Heard(Instant),
    /// A ping was queued then, and nothing came since.
    Asked(Instant),
}

impl Incoming {
    /// For a WebSocket whose opening handshake was complete at `now`.
    #[must_use]
    pub fn new(role: Role, settings: Settings, now: Instant) -> Self {
        Self {
            role,
            settings,
            message: None,
            frame: None,
            kept: 0,
            gap: 0,
            offered: None,
            control: Control::new(),
            alive: Alive::Heard(now),
            over: false,
            payload: 0,
        }
    }

    /// Bytes of payload that data frames have brought so far: what of the bytes that came belongs to messages,
    /// and not to the framing or to control frames.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        self.payload
    }

    /// Bytes of payload at the buffer's front that the consumer has left there.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// Takes the frames that are in `buf`, one at a time, and hands their payload to `consume`, each
    /// time there is more of it and at the end of each message, an empty one included. Control frames
    /// are dealt with on the way.
    ///
    /// What `consume` leaves is offered again together with what comes next. To that end the smaller of
    /// the two, the remainder or the next payload, is moved over the header between them, within the
    /// buffer; a body that is consumed as it comes is never copied, and a message in tiny frames costs no
    /// more for what waits before them.
    ///
    /// When `consume` answers [`Flow::Pause`] nothing more is handed over until the next call, which the
    /// driver makes after a wake: then the same payload is offered again, also if none of it is left.
    pub fn received(
        &mut self,
        buf: &mut BytesMut,
        now: Instant,
        mut consume: impl FnMut(Payload<'_>) -> Flow,
    ) -> Flow {
        if self.over {
            buf.clear();
            return Flow::Close(CloseReason::PeerClosed);
        }
        self.alive = Alive::Heard(now);
        self.kept = self.kept.min(buf.len());
        if let Some(end) = self.offered.take() {
            match self.offer(buf, end, &mut consume) {
                Flow::Read => {}
                other => return other,
            }
        } else if let Err(violation) = self.count_read() {
            return self.refuse(violation, buf);
        }
        let flow = loop {
            let step = match self.frame {
                Some(_) => self.payload(buf, &mut consume),
                None => match self.next_frame(buf) {
                    Ok(step) => step,
                    Err(violation) => return self.refuse(violation, buf),
                },
            };
            match step {
                Step::On => {}
                Step::Return(flow) => break flow,
            }
        };
        self.settle(buf);
        flow
    }

    /// The next control frame to be sent. It belongs on the wire as soon as that stands between two
    /// frames of ours; data frames must not follow a Close.
    pub fn take_output(&mut self) -> Option<SmallFrame> {
        self.control.take(self.role)
    }

    /// Whether [`take_output`](Self::take_output) has something.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.control.has_output()
    }

    /// The connection is being closed for `reason`: queues our Close, unless there was one. No data may
    /// be sent from here on.
    ///
    /// | reason | code |
    /// |---|---|
    /// | [`Local`](CloseReason::Local), [`IdleTimeout`](CloseReason::IdleTimeout) | 1001 |
    /// | [`Protocol`](CloseReason::Protocol) | 1002 |
    /// | [`TooSlow`](CloseReason::TooSlow), [`HandshakeTimeout`](CloseReason::HandshakeTimeout) | 1008 |
    /// | [`Internal`](CloseReason::Internal) | 1011 |
    /// | all others: nobody is there to read it | none |
    pub fn closing(&mut self, reason: &CloseReason) {
        let code = match reason {
            CloseReason::Local(_) | CloseReason::IdleTimeout => CloseCode::GOING_AWAY,
            CloseReason::Protocol(_) => CloseCode::PROTOCOL,
            CloseReason::TooSlow(_) | CloseReason::HandshakeTimeout => CloseCode::POLICY,
            CloseReason::Internal => CloseCode::INTERNAL,
            CloseReason::PeerClosed
            | CloseReason::Reset
            | CloseReason::Io { .. }
            | CloseReason::Tls(_)
            | CloseReason::SendTimeout
            | CloseReason::Aborted => return,
        };
        self.control.close(code, &reason.to_string());
    }

    /// Whether our Close is queued or sent: no data may be sent any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.control.is_closing()
    }

    /// When [`expired`](Self::expired) wants to be called. None while the consumer pauses: what the
    /// peer may have answered is not read then.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.offered.is_some() || self.over || self.is_closing() {
            return None;
        }
        let interval = self.settings.ping_interval?;
        match self.alive {
            Alive::Heard(at) => at.checked_add(interval),
            Alive::Asked(at) => at.checked_add(self.settings.pong_timeout),
        }
    }

    /// The deadline may have passed: queues a ping, or, if that was done and nothing came since, ends
    /// the connection with [`CloseReason::IdleTimeout`].
    pub fn expired(&mut self, now: Instant) -> Flow {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return if self.offered.is_some() { Flow::Pause } else { Flow::Read };
        }
        match self.alive {
            Alive::Heard(_) => {
                self.alive = Alive::Asked(now);
                self.control.ping();
                Flow::Read
            }
            Alive::Asked(_) => Flow::Close(CloseReason::IdleTimeout),
        }
    }

    /// The peer has shown that it is there by something else than bytes of its own: it takes what is
    /// sent to it, for example. A ping can be late because much data goes before it.
    pub fn seen_alive(&mut self, now: Instant) {
        self.alive = Alive::Heard(now);
    }

    /// Payload of the current frame.
    fn payload(&mut self, buf: &mut BytesMut, consume: &mut impl FnMut(Payload<'_>) -> Flow) -> Step {
        let Some(frame) = &mut self.frame else { return Step::On };
        let start = self.kept + self.gap;
        let fresh = &mut buf[start..];
        let len = usize::try_from(frame.left).unwrap_or(usize::MAX).min(fresh.len());
        if frame.mask != [0; 4] {
            frame::apply_mask(&mut fresh[..len], frame.mask, 0);
            frame.mask.rotate_left(len % 4);
        }
        frame.left -= len as u64;
        self.payload += len as u64;
        let whole = frame.left == 0;
        let end = whole && frame.fin;
        if whole {
            self.frame = None;
        }
        if self.kept > len {
            buf.copy_within(start..start + len, self.kept);
        } else {
            self.close_gap(buf);
        }
        self.kept += len;
        if len > 0 || end {
            match self.offer(buf, end, consume) {
                Flow::Read => {}
                other => return Step::Return(other),
            }
        }
        if whole { Step::On } else { Step::Return(Flow::Read) }
    }

    /// Shows the consumer the payload at the buffer's front.
    fn offer(
        &mut self,
        buf: &mut BytesMut,
        end: bool,
        consume: &mut impl FnMut(Payload<'_>) -> Flow,
    ) -> Flow {
        let text = self.message.as_ref().is_some_and(|message| message.text);
        let later = (buf.len() > self.kept).then(|| buf.split_off(self.kept));
        let flow = consume(Payload { buf, end, text });
        if end && flow == Flow::Read {
            buf.clear();
            self.message = None;
        }
        self.kept = buf.len();
        if let Some(later) = later {
            // Both are of one allocation and lie side by side: nothing is copied.
            buf.unsplit(later);
        }
        if flow == Flow::Pause {
            self.offered = Some(end);
        }
        flow
    }

    /// The header after the payload that is kept; a control frame as a whole.
    fn next_frame(&mut self, buf: &mut BytesMut) -> Result<Step, Violation> {
        let start = self.kept + self.gap;
        let fresh = &buf[start..];
        let Some(header) = Header::parse(fresh, self.role.is_server())? else {
            return Ok(Step::Return(Flow::Read));
        };
        if !header.opcode.is_control() {
            self.begin(&header)?;
            self.gap += header.size;
            return Ok(Step::On);
        }
        // At most 125 bytes, as the header was found good.
        let whole = header.size + header.len as usize;
        if fresh.len() < whole {
            return Ok(Step::Return(Flow::Read));
        }
        let payload = &mut buf[start + header.size..start + whole];
        if let Some(mask) = header.mask {
            frame::apply_mask(payload, mask, 0);
        }
        match header.opcode {
            Opcode::Ping => self.control.answer(payload),
            Opcode::Close => {
                let code = close_code(payload)?;
                self.control.close(code.unwrap_or(CloseCode::NORMAL), "");
                self.finish(buf);
                return Ok(Step::Return(Flow::Close(CloseReason::PeerClosed)));
            }
            // A pong says that the peer is there, which its arrival has said already.
            _ => {}
        }
        self.gap += whole;
        Ok(Step::On)
    }

    /// A data frame begins.
    fn begin(&mut self, header: &Header) -> Result<(), Violation> {
        let announced = match (&self.message, header.opcode) {
            (None, Opcode::Continuation) => {
                return Err(Violation::protocol("continuation of no message"));
            }
            (Some(message), Opcode::Continuation) => message.announced,
            (Some(_), _) => return Err(Violation::protocol("a new message within another")),
            (None, _) => 0,
        };
        let too_big = |text| Err(Violation { code: CloseCode::TOO_BIG, text });
        if header.len > self.settings.max_frame {
            return too_big("frame too big");
        }
        let announced = announced.saturating_add(header.len);
        if announced > self.settings.max_message {
            return too_big("message too big");
        }
        let text = header.opcode == Opcode::Text;
        self.message.get_or_insert(Message { announced: 0, reads: 1, text }).announced = announced;
        let mask = header.mask.unwrap_or_default();
        self.frame = Some(Frame { left: header.len, mask, fin: header.fin });
        Ok(())
    }

    /// Takes out the gap by moving what is kept over it.
    fn close_gap(&mut self, buf: &mut BytesMut) {
        buf.copy_within(..self.kept, self.gap);
        buf.advance(self.gap);
        self.gap = 0;
    }

    /// Takes out the gap at the end of a call, by moving the smaller of what is on its sides.
    fn settle(&mut self, buf: &mut BytesMut) {
        let start = self.kept + self.gap;
        if buf.len() - start < self.kept {
            buf.copy_within(start.., self.kept);
            buf.truncate(buf.len() - self.gap);
            self.gap = 0;
        } else {
            self.close_gap(buf);
        }
    }

    /// One more read for the message that is under way.
    fn count_read(&mut self) -> Result<(), Violation> {
        if let (Some(message), Some(limit)) = (&mut self.message, self.settings.max_msg_chunks) {
            if message.reads >= limit.get() {
                return Err(Violation { code: CloseCode::POLICY, text: "message in too many pieces" });
            }
            message.reads += 1;
        }
        Ok(())
    }

    /// Nothing the peer sends counts any more.
    fn finish(&mut self, buf: &mut BytesMut) {
        self.over = true;
        (self.kept, self.gap) = (0, 0);
        buf.clear();
    }

    fn refuse(&mut self, violation: Violation, buf: &mut BytesMut) -> Flow {
        self.finish(buf);
        self.control.close(violation.code, violation.text);
        Flow::Close(if violation.code == CloseCode::POLICY {
            CloseReason::TooSlow(violation.text.into())
        } else {
            CloseReason::Protocol(violation.to_string().into())
        })
    }
}

/// What [`Incoming::received`] does next.
enum Step {
    On,
    Return(Flow),
}

/// The code in a Close frame, if it has one (RFC 6455 §5.5.1).
fn close_code(payload: &[u8]) -> Result<Option<CloseCode>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::protocol("half a close code")) };
    };
    let code = CloseCode::new(u16::from_be_bytes(*code)).ok_or(Violation::protocol("invalid close code"))?;
    if std::str::from_utf8(reason).is_err() {
        return Err(Violation { code: CloseCode::INVALID_DATA, text: "close reason is not UTF-8" });
    }
    Ok(Some(code))
}

#[cfg(test)]
mod tests;
