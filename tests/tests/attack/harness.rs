//! A relay, two neighbours who chat on, and what an attack takes.

use tests::{Daemon, Neighbours, Resources, Scheme, Settings, Site};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::{MIB, RELAY};

pub(crate) struct Scene {
    pub(crate) site: Site,
    pub(crate) daemon: Daemon,
    neighbours: Option<Neighbours>,
}

impl Scene {
    pub(crate) async fn new(settings: &Settings) -> Self {
        let site = Site::new();
        let daemon = Daemon::start(RELAY, &site, settings).await;
        let mut neighbours = Neighbours::join(&daemon, &site).await;
        neighbours.chat().await;
        Self { site, daemon, neighbours: Some(neighbours) }
    }

    /// Runs `attack` while the neighbours chat without a pause: every message of theirs arrives. The attack may take so
    /// much memory.
    pub(crate) async fn under(&mut self, what: &str, memory: u64, attack: impl AsyncFnOnce(&Site, &Daemon)) {
        self.telling_errors(what, memory, attack).await;
        self.daemon.assert_well();
    }

    /// As [`under`](Self::under), where the log has errors.
    pub(crate) async fn telling_errors(
        &mut self,
        what: &str,
        memory: u64,
        attack: impl AsyncFnOnce(&Site, &Daemon),
    ) {
        let before = self.daemon.resources();
        let mut neighbours = self.neighbours.take().unwrap();
        let (end, mut ended) = oneshot::channel::<()>();
        let chat = tokio::spawn(async move {
            let mut rounds = 0;
            while ended.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty) {
                neighbours.chat().await;
                rounds += 1;
            }
            neighbours.chat().await;
            (neighbours, 2 * (rounds + 1))
        });
        attack(&self.site, &self.daemon).await;
        drop(end);
        let (neighbours, messages) = chat.await.expect("the neighbours' chat");
        self.neighbours = Some(neighbours);
        let after = self.daemon.resources();
        print(what, messages, before, after);
        let taken = after.peak_memory.saturating_sub(before.peak_memory);
        assert!(taken <= memory, "{what} took {taken} bytes where {memory} are enough");
    }

    /// A connection that says nothing yet.
    pub(crate) async fn socket(daemon: &Daemon, scheme: Scheme) -> TcpStream {
        let socket = TcpStream::connect(daemon.address(scheme)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        socket
    }
}

fn print(what: &str, messages: u32, before: Resources, after: Resources) {
    let memory = after.peak_memory.saturating_sub(before.peak_memory) as f64 / MIB as f64;
    let cpu = after.cpu - before.cpu;
    println!(
        "{what}: {memory:.1} MiB more at the peak, {cpu:.2?} of processor, neighbours' messages: {messages} of {messages}"
    );
}
