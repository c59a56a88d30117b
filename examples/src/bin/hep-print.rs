//! A HEP collector for the terminal. See [`examples::hep_print`].
#![expect(clippy::print_stderr, reason = "it speaks to its user")]

use std::io::{IsTerminal as _, Write as _, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use clap::Parser as _;
use examples::hep_print::{self, Color, HepPrintOptions, QUEUE};
use tcp_transport::hep::Received;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let options = HepPrintOptions::parse();
    let (packets, received) = sync_channel(QUEUE);
    let dropped = Arc::new(AtomicU64::new(0));
    let (counted, shown) = (dropped.clone(), options.clone());
    let (done, printed) = tokio::sync::oneshot::channel();
    // A terminal may be slow, and receiving must not wait for it.
    std::thread::spawn(move || {
        print(&shown, &received, &counted);
        let _ = done.send(());
    });
    let ready = |what: &str, address| eprintln!("hep-print: listening on {what}://{address}");
    tokio::select! {
        result = hep_print::run(&options, packets, dropped, ready) => match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hep-print: {error:#}");
                ExitCode::FAILURE
            }
        },
        _ = printed => ExitCode::SUCCESS,
    }
}

/// Until `--count`, or until nobody reads what is printed.
fn print(options: &HepPrintOptions, received: &Receiver<Received>, dropped: &AtomicU64) {
    let color = match options.color {
        Color::Auto => stdout().is_terminal(),
        Color::Always => true,
        Color::Never => false,
    };
    for _ in 0..options.count.unwrap_or(u64::MAX) {
        let Ok(packet) = received.recv() else { return };
        let shown =
            if options.json { hep_print::json_line(&packet) } else { hep_print::text(&packet, color) };
        let mut out = stdout().lock();
        if writeln!(out, "{shown}").and_then(|()| out.flush()).is_err() {
            return;
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            eprintln!("hep-print: {lost} packets passed over, the output is too slow");
        }
    }
}
