//! A network that fails as it is told to: a TCP proxy on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::proxy::between;
use crate::stream::set_reset;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// From who connects to the proxy to where it leads.
    Target,
    /// Back.
    Source,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Each piece that is read, either way, is passed on so much later. It begins at once, wherever it is planned.
    Latency(Duration),
    /// This way is not read from any more: the sender's window fills up.
    Stall,
    /// This way is read from, and nothing arrives: a peer that has gone without a word.
    Silence,
    /// Both ways end in order, as when a proxy in between ends: what was read before is delivered.
    Truncate,
    /// Both ways end with RST.
    Reset,
}

/// A fault that begins when so many bytes have gone one way, to the byte.
#[derive(Clone, Copy, Debug)]
struct Plan {
    toward: Toward,
    after: u64,
    fault: Fault,
}

/// Passes on what comes to it, either way, with the faults it is told to make.
pub struct FaultProxy {
    port: u16,
    plan: Arc<watch::Sender<Option<Plan>>>,
    carried: Arc<Mutex<(u64, u64)>>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and passes on what comes to `target`, at first without a fault.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn to(target: SocketAddr) -> Self {
        let plan = Arc::new(watch::Sender::new(None));
        let carried = Arc::new(Mutex::new((0, 0)));
        let (shared, count) = (Arc::clone(&plan), Arc::clone(&carried));
        let carry = move |near, far| {
            let (plan, count) = (shared.subscribe(), Arc::clone(&count));
            async move { carry(near, far, plan, &count).await }
        };
        let (port, task) = between(move || Some(target), carry, |_| {}).await;
        Self { port, plan, carried, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// Has `fault` begin when so many bytes have gone `toward` on a connection; on one on which more have, at once.
    pub fn plan(&self, toward: Toward, after: u64, fault: Fault) {
        self.plan.send_replace(Some(Plan { toward, after, fault }));
    }

    /// How many bytes all connections have carried toward the target, and back.
    ///
    /// # Panics
    /// When another test has panicked with it.
    #[must_use]
    pub fn carried(&self) -> (u64, u64) {
        *self.carried.lock().expect("carried")
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a connection ends, or one way of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its sender has ended it, and that was passed on.
    OneWay,
    InOrder,
    Reset,
}

async fn carry(
    mut near: TcpStream,
    mut far: TcpStream,
    plan: watch::Receiver<Option<Plan>>,
    count: &Mutex<(u64, u64)>,
) {
    let end = {
        let (near_read, near_write) = near.split();
        let (far_read, far_write) = far.split();
        let there = Pump { toward: Toward::Target, plan: plan.clone(), count, gone: 0 };
        let back = Pump { toward: Toward::Source, plan, count, gone: 0 };
        let (there, back) = (there.run(near_read, far_write), back.run(far_read, near_write));
        tokio::pin!(there, back);
        // Where one way ends in order, the other goes on.
        tokio::select! {
            end = &mut there => if end == End::OneWay { back.await } else { end },
            end = &mut back => if end == End::OneWay { there.await } else { end },
        }
    };
    match end {
        End::OneWay => {}
        End::Reset => {
            set_reset(&near);
            set_reset(&far);
        }
        End::InOrder => {
            // What was read of one is not lost with an RST of the other: both are read empty.
            for socket in [&mut near, &mut far] {
                let _ = socket.shutdown().await;
            }
            let mut rest = [0; 4096];
            for socket in [&near, &far] {
                while matches!(socket.try_read(&mut rest), Ok(1..)) {}
            }
        }
    }
}

/// One way of one connection.
struct Pump<'a> {
    toward: Toward,
    plan: watch::Receiver<Option<Plan>>,
    count: &'a Mutex<(u64, u64)>,
    gone: u64,
}

impl Pump<'_> {
    /// Its own fault, and how many bytes may go before it.
    fn fault(&mut self) -> Option<(u64, Fault)> {
        let plan = (*self.plan.borrow_and_update())?;
        match plan.fault {
            latency @ Fault::Latency(_) => Some((u64::MAX, latency)),
            fault => (plan.toward == self.toward).then(|| (plan.after.saturating_sub(self.gone), fault)),
        }
    }

    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> End {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let mut room = buffer.len();
            let mut silent = false;
            let mut late = None;
            match self.fault() {
                None => {}
                Some((left @ 1.., fault)) => {
                    room = room.min(usize::try_from(left).unwrap_or(room));
                    if let Fault::Latency(latency) = fault {
                        late = Some(latency);
                    }
                }
                Some((0, Fault::Latency(_))) => {}
                Some((0, Fault::Silence)) => silent = true,
                Some((0, Fault::Truncate)) => return End::InOrder,
                Some((0, Fault::Reset)) => return End::Reset,
                Some((0, Fault::Stall)) => {
                    if self.plan.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                    continue;
                }
            }
            let read = tokio::select! {
                changed = self.plan.changed() => {
                    if changed.is_err() {
                        return End::InOrder;
                    }
                    continue;
                }
                read = from.read(&mut buffer[..room]) => read,
            };
            let len = match read {
                Err(_) => return End::Reset,
                Ok(0) => {
                    return if to.shutdown().await.is_err() { End::Reset } else { End::OneWay };
                }
                Ok(len) => len,
            };
            if silent {
                continue;
            }
            if let Some(late) = late {
                tokio::time::sleep(late).await;
            }
            if to.write_all(&buffer[..len]).await.is_err() {
                return End::Reset;
            }
            self.gone += len as u64;
            let mut count = self.count.lock().expect("carried");
            match self.toward {
                Toward::Target => count.0 += len as u64,
                Toward::Source => count.1 += len as u64,
            }
        }
    }
}
