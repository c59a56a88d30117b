//! A TCP proxy whose connections can be cut.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinHandle};

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
    /// Listens on a free port of 127.0.0.1; connections wait until there is a [target](Self::lead_to).
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn new() -> Self {
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = socket.local_addr().expect("local address").port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = socket.accept().await {
                let target = shared.lock().expect("proxy").target;
                let carry = tokio::spawn(async move {
                    let Some(target) = target else { return };
                    let Ok(mut far) = TcpStream::connect(target).await else { return };
                    let _ = near.set_nodelay(true).and(far.set_nodelay(true));
                    let _ = copy_bidirectional(&mut near, &mut far).await;
                });
                let mut state = shared.lock().expect("proxy");
                state.accepted += 1;
                state.open.push(carry.abort_handle());
            }
        });
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
