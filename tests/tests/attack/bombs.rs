//! What is small as it comes and large when it is opened.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use rustix::process::Signal;
use tcp_transport::hep::{Encoding, Packet, PayloadType, TimeOrder};
use tests::{Admin, Client, Daemon, Resources, Scheme, Settings, Site, within};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;

use super::{MIB, RELAY, Scene};

/// Of a capture agent, compressed.
fn compressed(text: Vec<u8>) -> Bytes {
    let (from, to) = ("192.0.2.1:5060".parse().unwrap(), "192.0.2.2:5060".parse().unwrap());
    let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut packet = Packet::new(from, to, time, PayloadType::SIP, text.into());
    packet.compress().unwrap();
    assert!(packet.payload.is_none(), "it is shorter then");
    packet.encode(Encoding::default()).unwrap()
}

/// A collector of version 1 knows no compressed payloads, so the relay has to inflate what it passes on there.
#[tokio::test]
async fn hep_payloads_that_inflate() {
    const AGENTS: usize = 20;
    const PACKETS: usize = 50;
    let collector = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("hep_udp://{}", collector.local_addr().unwrap());
    let protocols =
        ["msrp", "msrps", "ws", "wss", "hep"].map(|protocol| format!("{protocol}: {{ events: false }}"));
    let settings = Settings {
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        hep: Some(String::new()),
        hep_tcp: Some("127.0.0.1:0".into()),
        hep_udp: Some("127.0.0.1:0".into()),
        trace: format!(
            "destinations: {{ old: {{ uri: '{uri}', version: 1 }} }}, protocols: {{ {} }}",
            protocols.join(", ")
        ),
        ..Settings::default()
    };
    let mut scene = Scene::new(&settings).await;
    let admin = Admin::of(&scene.daemon).await.remove(0);
    let bomb = compressed(vec![b' '; 8_000_000]);
    assert!(bomb.len() < 65_536, "{}: more is no packet", bomb.len());
    let forwarded = async || admin.metric("msrp_relay_hep_received_total{result=\"forwarded\"}").await;
    let attack = async |_: &Site, daemon: &Daemon| {
        let (tcp, udp) = (daemon.address(Scheme::HepTcp), daemon.address(Scheme::HepUdp));
        let mut attackers = JoinSet::new();
        for _ in 0..AGENTS {
            let bomb = bomb.clone();
            attackers.spawn(async move {
                let mut socket = TcpStream::connect(tcp).await.unwrap();
                for _ in 0..PACKETS {
                    socket.write_all(&bomb).await.unwrap();
                }
                socket
            });
        }
        // They stay open until all has been read.
        let _sockets = within("all of it to be sent", attackers.join_all()).await;
        let read = async {
            while forwarded().await < (AGENTS * PACKETS) as f64 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("all of it to be read", read).await;
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..10 {
            socket.send_to(&bomb, udp).await.unwrap();
        }
    };
    let what = format!("{} HEP packets of 8 MB each in {} bytes", AGENTS * PACKETS, bomb.len());
    scene.under(&what, 24 * MIB, attack).await;
    // One that is what it seems arrives as it is, and nothing of the others has.
    let mut agent = TcpStream::connect(scene.daemon.address(Scheme::HepTcp)).await.unwrap();
    agent.write_all(&compressed(vec![b'x'; 2000])).await.unwrap();
    let mut buffer = vec![0; 65_536];
    loop {
        let len = within("a packet", collector.recv(&mut buffer)).await.unwrap();
        assert!(len < 4096, "{len}");
        let (_, packet) = Packet::decode(&Bytes::copy_from_slice(&buffer[..len]), TimeOrder::Little).unwrap();
        let payload = packet.payload.unwrap_or_default();
        assert!(payload.iter().all(|byte| *byte == b'x'), "{payload:?}");
        if payload.len() == 2000 {
            break;
        }
    }
}

/// Configurations built to explode: what they are, their text, and words of what is said about them.
fn configurations() -> Vec<(&'static str, String, &'static str)> {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..=9 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(200_000), "*a,".repeat(150_000));
    let deep_block = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    vec![
        ("billion laughs", laughs, "repetition limit exceeded"),
        ("a long list, often", wide, "expand to too many values"),
        ("a list in a list, 100 000 deep", "[".repeat(100_000), ""),
        ("a map in a map, 1000 deep", deep_block, ""),
        ("a list of itself", "a: &a [*a]\n".into(), ""),
        ("2 MB", "# x\n".repeat(500_000), "is larger than 1024 KiB"),
    ]
}

/// What a child had at its peak, as far as that can be seen from outside until it ends.
fn peak(child: &mut std::process::Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(Resources::peak_of(child.id()).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(1));
    }
    peak
}

/// The kernel holds `check` to its bounds: one that takes more memory is aborted, one that takes more of the processor is
/// killed, and neither says anything of the file.
#[test]
fn configurations_built_to_explode_are_refused_by_check() {
    const KIB: u64 = 256 * 1024;
    // Of a debug build.
    const SECONDS: u64 = 60;
    let site = Site::new();
    let write = |(what, text, words): (&'static str, String, &'static str)| {
        (what, site.write(&format!("{what}.yaml"), &text), words)
    };
    let files: Vec<_> = configurations().into_iter().map(write).collect();
    let endless = [("a file without end", PathBuf::from("/dev/zero"), "")];
    for (what, file, words) in files.into_iter().chain(endless) {
        let limited = format!("ulimit -d {KIB} && ulimit -t {SECONDS} && exec \"$0\" check --config \"$1\"");
        let output = site.path("output");
        let begin = Instant::now();
        let mut child = Command::new("sh")
            .args(["-c", &limited, RELAY])
            .arg(&file)
            .stderr(std::fs::File::create(&output).unwrap())
            .spawn()
            .unwrap();
        let peak = peak(&mut child);
        let status = child.wait().unwrap();
        let said = std::fs::read_to_string(&output).unwrap();
        println!(
            "check, {what}: {:.1} MiB at the peak, {:.2?}: {said}",
            peak as f64 / MIB as f64,
            begin.elapsed()
        );
        assert_eq!(status.code(), Some(1), "{what}: {status} {said}");
        assert!(said.contains(words) && said.len() < 10_000, "{what}: {said}");
    }
}

#[tokio::test]
async fn configurations_built_to_explode_leave_a_running_relay_as_it_was() {
    let mut scene = Scene::new(&Settings::default()).await;
    let bombs = configurations();
    let count = bombs.len();
    let attack = async |site: &Site, daemon: &Daemon| {
        for (round, (_, text, words)) in bombs.into_iter().enumerate() {
            site.write("relay.yaml", &text);
            daemon.signal(Signal::HUP);
            let refused = ["ERROR", "not reloaded, everything stays as it was"];
            let lines = daemon.log().wait_for_lines(&refused, round + 1).await;
            assert!(lines[round].contains(words), "{lines:?}");
        }
    };
    scene.telling_errors("reloads of configurations built to explode", 192 * MIB, attack).await;
    assert_eq!(scene.daemon.log().with(&[" ERROR "]).len(), count);
    assert_eq!(scene.daemon.log().with(&["panicked"]), [""; 0]);
    // It serves as before, and takes a good one.
    Client::with_session(&scene.daemon, &scene.site, Scheme::Msrps, "alice").await.0.close().await;
    scene.site.write("relay.yaml", &Settings::default().to_yaml());
    scene.daemon.signal(Signal::HUP);
    scene.daemon.log().wait_for(&["configuration reloaded"]).await;
}
