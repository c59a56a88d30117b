//! Names become addresses, and a name server that does not answer takes no thread that others need.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};

use tokio::sync::Semaphore;

/// How a host becomes addresses.
pub trait Resolver: Send + Sync {
    /// All addresses of `host`, in the order they are to be tried.
    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
}

/// Names that connectors, traces and whoever else uses [`SystemResolver`] resolve at the same time, all of the process
/// together: 64. Each takes a thread for as long as the system asks, and none can be called back: a name server that does
/// not answer must not take all threads there are for what blocks, as others need some of them.
pub const MAX_LOOKUPS: usize = 64;

pub(crate) static LOOKUPS: Semaphore = Semaphore::const_new(MAX_LOOKUPS);

/// Names resolve as everywhere on this machine (`getaddrinfo`: `/etc/hosts`, DNS, …), in the
/// system's order (RFC 6724), [`MAX_LOOKUPS`] at the same time; more wait for their turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let host = host.to_owned();
        in_turn(move || Ok((host.as_str(), port).to_socket_addrs()?.collect())).await
    }
}

/// Asks where it may block, when it has its turn.
async fn in_turn<T: Send + 'static>(ask: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let turn = LOOKUPS.acquire().await.map_err(io::Error::other)?;
    let ask = move || {
        let _turn = turn;
        ask()
    };
    tokio::task::spawn_blocking(ask).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_name_more_than_64_waits_for_its_turn() {
        let (started, starts) = std::sync::mpsc::channel();
        let ask = |number: usize| {
            let (answer, answered) = std::sync::mpsc::channel::<()>();
            let started = started.clone();
            let hanging = move || {
                started.send(number).unwrap();
                let _ = answered.recv();
                Ok(number)
            };
            (answer, tokio::spawn(in_turn(hanging)))
        };
        let mut hanging: Vec<_> = (0..MAX_LOOKUPS).map(ask).collect();
        for _ in 0..MAX_LOOKUPS {
            // The runtime of this test has one thread, which is also theirs until each has its own.
            while starts.try_recv().is_err() {
                tokio::task::yield_now().await;
            }
        }
        let (answer, mut waiting) = ask(MAX_LOOKUPS);
        drop(answer);
        assert_eq!(LOOKUPS.available_permits(), 0);
        let early = async {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { biased; _ = &mut waiting => panic!("it has not waited"), () = early => {} }
        assert_eq!(
            SystemResolver.resolve("::1", 5).await.unwrap(),
            ["[::1]:5".parse().unwrap()],
            "not a name"
        );
        let (answer, asked) = hanging.pop().unwrap();
        drop(answer);
        assert_eq!(asked.await.unwrap().unwrap(), MAX_LOOKUPS - 1);
        assert_eq!(waiting.await.unwrap().unwrap(), MAX_LOOKUPS);
        assert_eq!(starts.try_iter().collect::<Vec<_>>(), [MAX_LOOKUPS]);
    }
}
