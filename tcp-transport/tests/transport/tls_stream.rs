//! TLS as a stream: records, what comes with the handshake, what comes between, and its ends.

use std::io::{IoSlice, Write as _};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tcp_transport::stream::{MAX_PENDING_CIPHERTEXT, TLS_RECORD};
use tcp_transport::{CloseReason, DriverSettings, Stream, connection, tls};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::common::{
    Echo, Event, Pki, Probe, Seen, client_domain, patiently, pattern, plain_pair, read_up_to, server_domains,
    server_settings, tcp_pair, tls_pair,
};

const LIMIT: Duration = Duration::from_secs(30);

/// A TLS connection with a tap on what the server sends.
async fn tapped() -> (Stream, Stream, Arc<Mutex<Vec<u8>>>) {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["relay.test"]);
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    let (server, tap_inner) = tcp_pair().await;
    let (tap_outer, client) = tcp_pair().await;
    let log = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn({
        let log = log.clone();
        async move {
            let (mut from_server, mut to_server) = tap_inner.into_split();
            let (mut from_client, mut to_client) = tap_outer.into_split();
            let upwards = tokio::io::copy(&mut from_client, &mut to_server);
            let downwards = async {
                let mut buf = vec![0; 65536];
                while let Ok(n @ 1..) = from_server.read(&mut buf).await {
                    log.lock().extend_from_slice(&buf[..n]);
                    to_client.write_all(&buf[..n]).await?;
                }
                Ok::<_, std::io::Error>(())
            };
            let _ = tokio::join!(upwards, downwards);
        }
    });
    let (server_peer, client_peer) = (server.peer_addr().unwrap(), client.peer_addr().unwrap());
    let domain = client_domain(&ca, None);
    let (server, client) = tokio::join!(
        tls::accept(server, server_peer, &domains, None, LIMIT),
        tls::connect(client, client_peer, &domain, "relay.test", LIMIT)
    );
    (server.unwrap(), client.unwrap(), log)
}

/// The lengths of the records in a TLS conversation.
fn records(mut bytes: &[u8]) -> Vec<usize> {
    let mut lengths = Vec::new();
    while let [_type, _, _, high, low, rest @ ..] = bytes {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        lengths.push(len);
        bytes = &rest[len..];
    }
    lengths
}

#[tokio::test]
async fn one_write_is_one_record() {
    let (server, client, log) = tapped().await;
    assert_eq!(server.tls().unwrap().version(), "TLSv1.3");
    assert_eq!(server.write_unit(), TLS_RECORD);
    let data = pattern(TLS_RECORD + 1);
    let mut sent = Vec::new();
    let mut total = 0;
    // Whole, in three slices, in more slices than fit on the stack, with empty ones between.
    for len in [1, 100, 4096, TLS_RECORD - 1, TLS_RECORD] {
        for pieces in [1, 3, 100] {
            let mut slices: Vec<IoSlice<'_>> =
                data[..len].chunks(len.div_ceil(pieces)).map(IoSlice::new).collect();
            slices.insert(0, IoSlice::new(&[]));
            assert_eq!(server.try_write(&slices).unwrap(), len);
            server.flush().unwrap();
            total += len;
            assert_eq!(patiently("record", read_up_to(&client, len)).await, data[..len], "{len} in {pieces}");
            sent.push(len + 17); // content type 1, tag 16
        }
    }
    // One byte more than a record is left to the caller.
    for pieces in [1, 3, 100] {
        let slices: Vec<_> = data.chunks(data.len().div_ceil(pieces)).map(IoSlice::new).collect();
        assert_eq!(server.try_write(&slices).unwrap(), TLS_RECORD);
        sent.push(TLS_RECORD + 17);
        total += TLS_RECORD;
    }
    server.flush().unwrap();
    assert_eq!(patiently("rest", read_up_to(&client, 3 * TLS_RECORD)).await.len(), 3 * TLS_RECORD);
    assert!(total > 0 && !server.wants_flush());
    let seen = records(&log.lock());
    assert_eq!(&seen[seen.len() - sent.len()..], sent);
}

#[tokio::test]
async fn pending_ciphertext_is_bounded_and_nothing_of_it_is_lost() {
    let (server, client) = tls_pair().await;
    let data = pattern(TLS_RECORD);
    let mut taken = 0;
    loop {
        match server.try_write(&[IoSlice::new(&data[taken % TLS_RECORD..])]) {
            Ok(n) => taken += n,
            Err(e) => {
                assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(taken < 1 << 30, "the kernel takes no gigabyte");
    }
    assert!(server.wants_flush());
    assert!(taken > MAX_PENDING_CIPHERTEXT);
    let reader = tokio::spawn(async move { (read_up_to(&client, taken).await, client) });
    patiently("flush", server.write_all(&[])).await.unwrap();
    assert!(!server.wants_flush());
    let (got, _client) = reader.await.unwrap();
    assert!(got.chunks(TLS_RECORD).all(|chunk| chunk == &data[..chunk.len()]));
    assert_eq!(got.len(), taken);
}

#[tokio::test]
async fn plain_streams_write_all_slices_at_once() {
    let (server, client) = plain_pair().await;
    assert_eq!(server.write_unit(), usize::MAX);
    let n = server.try_write(&[IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")]).unwrap();
    assert_eq!(n, 7);
    assert_eq!(patiently("slices", read_up_to(&client, 7)).await, b"one two");
    let mut buf = BytesMut::with_capacity(64);
    let error = client.try_read(&mut buf, 64).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn a_plain_read_keeps_to_the_spare_capacity_and_the_limit() {
    let (server, client) = plain_pair().await;
    server.write_all(&pattern(10_000)).await.unwrap();
    patiently("readiness", std::future::poll_fn(|cx| client.poll_read_ready(cx))).await.unwrap();
    let mut buf = BytesMut::with_capacity(100);
    assert_eq!(client.try_read(&mut buf, 30).unwrap(), 30);
    assert_eq!(client.try_read(&mut buf, 1000).unwrap(), buf.capacity() - 30);
    assert!(client.try_read(&mut buf, 1000).unwrap() <= 1000);
    assert_eq!(buf[..], pattern(10_000)[..buf.len()]);
}

/// A client of rustls' own, with everything under the test's control.
async fn raw_client(before: &[u8]) -> (Stream, tokio_rustls::client::TlsStream<TcpStream>) {
    let pki = Pki::new();
    let ca = pki.ca("ca");
    let identity = pki.identity(&ca, "relay", &["relay.test"]);
    let domains = server_domains(&server_settings("relay", &identity, &ca));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&ca.file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (accepted, connected) = tcp_pair().await;
    let peer = accepted.peer_addr().unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let connect = connector.connect_with("relay.test".try_into().unwrap(), connected, |session| {
        session.writer().write_all(before).unwrap();
    });
    let (server, client) = tokio::join!(tls::accept(accepted, peer, &domains, None, LIMIT), connect);
    (server.unwrap(), client.unwrap())
}

#[tokio::test]
async fn what_comes_with_the_handshake_is_delivered() {
    for len in [1, 60_000] {
        let early = pattern(len);
        let (server, _client) = raw_client(&early).await;
        assert_eq!(patiently("early data by hand", read_up_to(&server, len)).await, early);

        let (server, mut client) = raw_client(&early).await;
        let (_handle, driver) = connection::open(server, DriverSettings::default());
        tokio::spawn(driver.run(Echo::default()));
        let mut back = vec![0; len];
        patiently("early data by the driver", client.read_exact(&mut back)).await.unwrap();
        assert_eq!(back, early);
    }
}

#[tokio::test]
async fn key_updates_pass_unnoticed() {
    let (server, mut client) = raw_client(b"").await;
    let (_handle, driver) = connection::open(server, DriverSettings::default());
    tokio::spawn(driver.run(Echo::default()));
    for round in 0..5 {
        let data = pattern(40_000 + round);
        client.write_all(&data).await.unwrap();
        client.get_mut().1.refresh_traffic_keys().unwrap();
        client.flush().await.unwrap();
        let mut back = vec![0; data.len()];
        patiently("echo", client.read_exact(&mut back)).await.unwrap();
        assert!(back == data);
    }
}

#[tokio::test]
async fn broken_tls_ends_the_connection_with_an_alert_after_what_was_good() {
    let (server, mut client) = raw_client(b"").await;
    let (_handle, driver) = connection::open(server, DriverSettings::default());
    let (probe, seen, mut events) = Probe::new(Seen::default());
    let task = tokio::spawn(driver.run(probe));
    // A good record and a bad one in the same write.
    client.get_mut().1.writer().write_all(b"good").unwrap();
    let (tcp, session) = client.get_mut();
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).unwrap();
    bytes.extend_from_slice(&[23, 3, 3, 0, 32]);
    bytes.extend_from_slice(&[0; 32]);
    tcp.write_all(&bytes).await.unwrap();
    let alert = patiently("alert", client.read(&mut [0; 10])).await.unwrap_err().to_string();
    assert!(alert.contains("BadRecordMac"), "{alert}");
    drop(client);
    let reason = patiently("end", task).await.unwrap();
    assert!(matches!(&reason, CloseReason::Tls(text) if text.contains("decrypt")), "{reason:?}");
    assert_eq!(seen.lock().received, b"good");
    assert_eq!(events.recv().await, Some(Event::Received(4)));
    assert_eq!(events.recv().await, Some(Event::Closed(reason)));
}

#[tokio::test]
async fn close_notify_is_the_end_though_tcp_stays_open() {
    let (server, client) = tls_pair().await;
    let (_handle, driver) = connection::open(server, DriverSettings::default());
    let (probe, seen, _events) = Probe::new(Seen::default());
    let task = tokio::spawn(driver.run(probe));
    client.try_write(&[IoSlice::new(b"bye")]).unwrap();
    client.close_notify().unwrap();
    assert_eq!(client.try_write(&[IoSlice::new(b"x")]).unwrap_err().kind(), std::io::ErrorKind::BrokenPipe);
    // The server answers with its own close_notify, and FIN.
    let mut buf = BytesMut::new();
    assert_eq!(patiently("answer", client.read(&mut buf, 100)).await.unwrap(), 0);
    drop(client);
    assert_eq!(patiently("end", task).await.unwrap(), CloseReason::PeerClosed);
    assert_eq!(seen.lock().received, b"bye");
}

#[tokio::test]
async fn an_end_without_close_notify_is_told_apart() {
    let (server, client) = tls_pair().await;
    client.shutdown_write().unwrap();
    let mut buf = BytesMut::new();
    let error = patiently("end", server.read(&mut buf, 100)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    let error = patiently("the same again", server.read(&mut buf, 100)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}

/// Both send at once, more than the sockets hold: neither can wait for the other to listen first.
#[tokio::test]
async fn exchange_reads_while_it_writes() {
    const LEN: usize = 8 << 20;
    for (a, b) in [plain_pair().await, tls_pair().await] {
        let content = pattern(LEN);
        let run = |stream: Stream| {
            let content = content.clone();
            async move {
                let (mut input, mut output) = (BytesMut::new(), BytesMut::from(&content[..]));
                while input.len() < LEN || !output.is_empty() || stream.wants_flush() {
                    stream.exchange(&mut input, &mut output, usize::MAX).await.unwrap();
                }
                assert!(input[..] == content[..]);
                stream
            }
        };
        patiently("both have sent", async { tokio::join!(run(a), run(b)) }).await;
    }
}

#[tokio::test]
async fn exchange_reads_nothing_beyond_its_limit_and_loses_nothing() {
    let (a, b) = plain_pair().await;
    a.write_all(b"0123456789").await.unwrap();
    let (mut input, mut output) = (BytesMut::from("held"), BytesMut::new());
    assert_eq!(patiently("exchange", b.exchange(&mut input, &mut output, 4)).await.unwrap(), 0);
    assert_eq!(input, "held");
    assert_eq!(patiently("exchange", b.exchange(&mut input, &mut output, 5)).await.unwrap(), 10);
    assert_eq!(input, "held0123456789");
    drop(a);
    let end = patiently("exchange", b.exchange(&mut input, &mut output, 99)).await.unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof);
}
