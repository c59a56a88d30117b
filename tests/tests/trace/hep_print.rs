//! `examples/hep-tracing.yaml` with the collector that it names.

use std::fs;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};

use clap::Parser as _;
use examples::hep_print;
use tcp_transport::hep::Received;
use tests::{Daemon, Site, within};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::RELAY;

/// What `hep-print` prints, packet by packet.
struct Printed(mpsc::Receiver<Received>);

impl Printed {
    /// Runs it on a free port: it, and where it is.
    async fn start() -> (Self, String) {
        let options = ["hep-print", "--udp", "127.0.0.1:0"];
        let options = hep_print::HepPrintOptions::try_parse_from(options).unwrap();
        let (sender, packets) = mpsc::sync_channel(hep_print::QUEUE);
        let (found, address) = oneshot::channel();
        let found = Mutex::new(Some(found));
        tokio::spawn(async move {
            let ready = |scheme: &str, address| {
                found.lock().unwrap().take().unwrap().send(format!("{scheme}://{address}")).unwrap();
            };
            hep_print::run(&options, sender, Arc::default(), ready).await.unwrap();
        });
        (Self(packets), within("hep-print to be ready", address).await.unwrap())
    }

    /// The next one that holds all of these.
    async fn until(&self, wanted: &[&str]) -> String {
        let found = async {
            loop {
                match self.0.try_recv() {
                    Ok(received) => {
                        let text = hep_print::text(&received, false);
                        if wanted.iter().all(|word| text.contains(word)) {
                            return text;
                        }
                    }
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        within(format_args!("{wanted:?} to be printed"), found).await
    }
}

#[tokio::test]
async fn hep_print_shows_what_the_example_tells() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hep-tracing.yaml");
    let site = Site::new();
    let (printed, uri) = Printed::start().await;
    let text = fs::read_to_string(example).unwrap();
    assert!(text.contains("hep-print -- --udp 127.0.0.1:9060") && text.contains("hep_udp://127.0.0.1:9060"));
    let text = text.replace("hep_udp://127.0.0.1:9060", &uri).replace("127.0.0.1:2855", "127.0.0.1:0");
    let mut daemon = Daemon::spawn(Command::new(RELAY), &site.write("hep-tracing.yaml", &text));
    let ready = daemon.log().wait_for(&["ready", "msrp://"]).await;
    let address = ready.split("msrp://").nth(1).unwrap().trim_end_matches('"').to_owned();
    let mut client = within("a connection", TcpStream::connect(&address)).await.unwrap();
    let (from, to) = (client.local_addr().unwrap().to_string(), address.as_str());
    let line = format!("connection event {from} -> {to}");
    let accepted = printed.until(&[&line, r#""Event":"ACCEPTED""#]).await;
    assert!(accepted.contains("agent=2001") && accepted.contains(r#""Status":"SUCCESS""#), "{accepted}");
    let port = address.rsplit(':').next().unwrap();
    let auth = format!(
        "MSRP a786hjs2 AUTH\r\nTo-Path: msrp://localhost:{port};tcp\r\n\
         From-Path: msrp://client.invalid:2855/abc;tcp\r\n-------a786hjs2$\r\n"
    );
    client.write_all(auth.as_bytes()).await.unwrap();
    printed.until(&[&format!("MSRP AUTH {from} -> {to}"), "    MSRP a786hjs2 AUTH"]).await;
    printed.until(&["MSRP 401 ", &format!("{to} -> {from}"), "WWW-Authenticate"]).await;
    // One that leaves something unread is reset, not closed.
    assert!(within("the answer", client.read(&mut [0; 4096])).await.unwrap() > 0);
    drop(client);
    printed.until(&[&line, r#""Event":"CLOSED""#, "closed by the peer"]).await;
    daemon.assert_well();
}
