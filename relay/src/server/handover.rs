//! Another process takes over from the one that runs, without a gap: a new version, a new configuration.
//!
//! # Words
//!
//! The *old* process runs, the *new* one takes over. What an old process still has after that is a *generation*; there
//! may be several. `upgrade.socket` is where the new one finds the old one.
//!
//! # States
//!
//! ```text
//!  old: serving ──Hello──▶ offering ──Ready──▶ paused ──Serving──▶ draining ──▶ ended
//!           ▲                  │                  │
//!           └──────────────────┴──────────────────┘  the new one ends, or is late
//!
//!  new: asking ──Offer──▶ starting ──▶ ready ──Paused──▶ serving
//!           │                 │           │
//!           └─────────────────┴───────────┘  ends with an error
//! ```
//!
//! * *offering*: it serves as before. The new one has descriptors of the listening sockets, those of the admin interface,
//!   `upgrade.socket` itself, and the channels to older generations; so nothing is bound twice, and no path changes hands.
//! * *paused*: neither accepts. Who connects waits in the sockets' backlog, which both share: nobody is refused.
//! * *draining*: see `server::stop`. Its copies of the sockets are closed. It lives until its last session has ended, or
//!   for `upgrade.drain_timeout`.
//!
//! From *paused* on the old one waits for one of two things, that the new one serves or that it ends; so there is no
//! moment at which both accept, or none.
//!
//! # Who owns what
//!
//! | | old, until the new one serves | then |
//! |---|---|---|
//! | listening sockets, admin interface, `upgrade.socket` | old | new |
//! | connections that are there, with their sessions, records, traces, counters | old | old |
//! | a connection that is accepted | old | new, or handed to the generation whose session its first request is for |
//! | what the service manager hears | old | new |
//!
//! # Connections for sessions of the process before
//!
//! A session-id names its process (`msrp::tag`). While there are generations, the first bytes of each new connection of
//! MSRP are looked at, until the first URI of To-Path is there (`pass`). A request for a session of a generation takes the
//! connection there: the descriptor and what was read. Of a TLS connection this process keeps the TLS, and relays its bytes
//! over a pair of sockets (`pump`); what the certificate has proved goes along, and is believed, as only a process of the
//! same user or of root is talked to.
//!
//! A session of one process talks to one of another, too: a URI of ours with another process' tag is another relay to the
//! routing (`Relay::kin_of`), and the connection to it is a pair of sockets (`kin`). An old process knows the new one
//! alone, which takes what is for a third one there.
//!
//! A relay in front of this one has one connection for sessions of both processes. What comes over it for a session of
//! the other process is passed on, over a pair of sockets that stands for that connection there (`msrp::kin`); and while
//! it drains, the old process goes on granting sessions to verified relays over the connections that they have, until
//! its drain ends. Not covered is another one's connection with sessions of both processes: the first request decides, and
//! the others are answered with 481.
//!
//! # Whose child
//!
//! The new process is to be the service manager's child, whoever has started it: `cli::run::program`.
//!
//! # When something fails
//!
//! | what | what follows |
//! |---|---|
//! | the new one cannot start, or takes longer than `upgrade.start_timeout` | the old one goes on as if nothing had been |
//! | the old one is told to stop before it is *paused* | the new one is refused, and ends; the old one ends |
//! | the old one is told to stop while it is *paused* | it waits for the new one, and drains as after any upgrade |
//! | the new one, *paused*, does not serve within 5 s | it is refused, and ends; the old one goes on |
//! | the old one dies before the new one serves | the new one serves; sessions of the old one are gone |
//! | the old one dies while it drains | its connections close, relayed ones too, in order; clients ask for new sessions |
//! | the new one dies | the old one goes on draining; nobody new gets to its sessions, and relayed connections are lost |
//! | the new one is told to stop | it waits for the old ones as for sessions of its own, and then ends what it relays, in order |
//! | a generation does not take a connection within 5 s | it stays here: 481 |
//! | a generation has too many connections (`limits`) | the one handed over is closed |
//! | no To-Path within 10 s or 16 KiB | the connection is served here, as any other |
//! | the configurations differ | each process goes by its own; listeners that the new one has not are closed |

mod channel;
mod door;
mod generations;
mod kin;
mod message;
mod pass;
mod predecessor;
mod pump;
mod receive;
mod successor;

pub(super) use self::channel::Endpoint;
pub(super) use self::door::{Door, Moves, remove};
pub(super) use self::generations::Generations;
pub use self::generations::OlderProcess;
pub(super) use self::kin::connect;
pub(super) use self::pass::{Arrival, sort};
pub use self::predecessor::HandOver;
pub(super) use self::predecessor::serve as offer;
pub(super) use self::receive::serve as receive;
pub use self::successor::{Takeover, TakeoverError};
