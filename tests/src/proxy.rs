//! A TCP proxy whose connections can be cut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

/// Listens on a free port of 127.0.0.1, and has `carry` pass on what comes, for each connection with one to where `target`
/// says at that moment; `begun` is told of each. They end with the task, or when `begun` has had them ended.
pub(crate) async fn between<F: Future<Output = ()> + Send + 'static>(
    target: impl Fn() -> Option<SocketAddr> + Send + 'static,
    carry: impl Fn(TcpStream, TcpStream) -> F + Clone + Send + 'static,
    begun: impl Fn(AbortHandle) + Send + 'static,
) -> (u16, JoinHandle<()>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = socket.local_addr().expect("local address").port();
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((near, _)) = socket.accept().await {
            let (target, carry) = (target(), carry.clone());
            begun(connections.spawn(async move {
                let Some(target) = target else { return };
                let Ok(far) = TcpStream::connect(target).await else { return };
                let _ = near.set_nodelay(true).and(far.set_nodelay(true));
                carry(near, far).await;
            }));
        }
    });
    (port, task)
}

/// Stands between two relays: a port that is known before the relay behind it is started.
pub struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    target: Option<SocketAddr>,
    open: Vec<AbortHandle>,
    accepted: usize,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1; connections are closed until there is a [target](Self::lead_to).
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn new() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (known, shared) = (Arc::clone(&state), Arc::clone(&state));
        let target = move || known.lock().expect("proxy").target;
        let carry = |mut near, mut far| async move {
            let _ = copy_bidirectional(&mut near, &mut far).await;
        };
        let begun = move |connection| {
            let mut state = shared.lock().expect("proxy");
            state.accepted += 1;
            state.open.push(connection);
        };
        let (port, task) = between(target, carry, begun).await;
        Self { port, state, task }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where connections lead from now on.
    ///
    /// # Panics
    /// When another test has panicked with it.
    pub fn lead_to(&self, target: SocketAddr) {
        self.state.lock().expect("proxy").target = Some(target);
    }

    /// Ends every connection, and says how many were open.
    ///
    /// # Panics
    /// When another test has panicked with it.
    pub fn cut(&self) -> usize {
        let open = std::mem::take(&mut self.state.lock().expect("proxy").open);
        let still = open.iter().filter(|task| !task.is_finished()).count();
        for task in open {
            task.abort();
        }
        still
    }

    /// How many connections there have been.
    ///
    /// # Panics
    /// When another test has panicked with it.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.state.lock().expect("proxy").accepted
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}
