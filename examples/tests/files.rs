//! send-file and receive-file without a relay.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;

use common::{Certificates, RECEIVE_FILE, Running, SEND_FILE, content, names, run, text};
use tempfile::TempDir;

/// Two folders, and certificates.
struct Folders {
    _root: TempDir,
    from: PathBuf,
    to: PathBuf,
    certificates: Certificates,
}

impl Folders {
    fn make() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        let certificates = Certificates::make(root.path());
        Self { _root: root, from, to, certificates }
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.from.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn receive(&self, more: &[&str]) -> Running {
        Running::start(RECEIVE_FILE, &[&[text(&self.to), "--listen", "127.0.0.1:0"], more].concat())
    }

    fn receive_tls(&self, listen: &str, more: &[&str]) -> Running {
        let Certificates { certificate, key, .. } = &self.certificates;
        let tls = ["--certificate", text(certificate), "--private-key", text(key), "--listen", listen];
        Running::start(RECEIVE_FILE, &[&[text(&self.to)], &tls[..], more].concat())
    }

    /// Sends it there and back again.
    fn transfer(&self, size: usize, tls: bool, more: &[&str]) {
        let sent = content(size);
        let name = format!("{size}-{tls}.bin");
        let file = self.file(&name, &sent);
        let mut receiver = if tls { self.receive_tls("127.0.0.1:0", &[]) } else { self.receive(&[]) };
        let path = receiver.path();
        assert_eq!(path.starts_with("msrps://"), tls);
        let ca = ["--ca", text(&self.certificates.ca)];
        let sender = run(SEND_FILE, &[&[text(&file), "--to", &path], &ca[..], more].concat());
        let told = String::from_utf8(sender.stdout).unwrap();
        assert!(sender.status.success(), "{size} {tls}: {}", String::from_utf8_lossy(&sender.stderr));
        let hash = receiver.line("SHA-256 ");
        let (hash, verified) = hash.split_once(' ').unwrap();
        assert_eq!(verified, "(as the sender says)");
        assert!(told.contains(hash), "{told} {hash}");
        let (status, errors) = receiver.end();
        assert!(status.success(), "{errors}");
        assert!(fs::read(self.to.join(name)).unwrap() == sent, "{size} {tls}");
    }
}

#[test]
fn files_of_every_size_arrive_as_they_were_sent() {
    let folders = Folders::make();
    for size in [0, 1, 2047, 2048, 2049, (1 << 20) + 1] {
        folders.transfer(size, false, &[]);
        folders.transfer(size, true, &[]);
    }
}

#[test]
fn a_large_file_arrives_over_tcp_and_tls() {
    let folders = Folders::make();
    folders.transfer(20_000_000, false, &[]);
    folders.transfer(20_000_000, true, &[]);
}

#[test]
fn the_chunk_size_does_not_matter() {
    let folders = Folders::make();
    folders.transfer(300_001, false, &["--chunk-size", "1000"]);
    folders.transfer(300_000, false, &["--chunk-size", "2KiB"]);
    folders.transfer(1_000_000, true, &["--chunk-size", "64KiB"]);
}

#[test]
fn a_file_of_the_same_name_gets_a_number() {
    let folders = Folders::make();
    fs::write(folders.to.join("a.txt"), "old").unwrap();
    for content in ["first", "second"] {
        let file = folders.file("a.txt", content.as_bytes());
        let mut receiver = folders.receive(&[]);
        let path = receiver.path();
        assert!(run(SEND_FILE, &[text(&file), "--to", &path]).status.success());
        assert!(receiver.end().0.success());
    }
    assert_eq!(names(&folders.to), ["a (1).txt", "a (2).txt", "a.txt"]);
    let read = |name| fs::read_to_string(folders.to.join(name)).unwrap();
    assert_eq!([read("a.txt"), read("a (1).txt"), read("a (2).txt")], ["old", "first", "second"]);
}

#[test]
fn tls_verifies_the_host_of_the_uri_also_where_another_place_is_dialled() {
    let folders = Folders::make();
    let file = folders.file("a.txt", b"content");
    // The path says receiver.test:1, which nobody resolves; the place is told by --connect alone.
    let place = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut receiver = folders.receive_tls(&place, &["--advertise", "receiver.test:1"]);
    let path = receiver.path();
    assert!(path.starts_with("msrps://receiver.test:1/"));
    let ca = text(&folders.certificates.ca);
    let bad = path.replace("receiver.test", "other.test");
    let refused = run(SEND_FILE, &[text(&file), "--to", &bad, "--ca", ca, "--connect", &place]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("certificate"), "{refused:?}");
    let sent = run(SEND_FILE, &[text(&file), "--to", &path, "--ca", ca, "--connect", &place]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    assert!(receiver.end().0.success());
}

#[test]
fn a_receiver_that_is_unknown_or_gone_fails_the_sender() {
    let folders = Folders::make();
    let file = folders.file("a.txt", b"content");
    let mut receiver = folders.receive(&[]);
    let path = receiver.path();
    let (address, _) = path.trim_start_matches("msrp://").split_once('/').unwrap();
    let stranger = format!("msrp://{address}/nobody;tcp");
    let failed = run(SEND_FILE, &[text(&file), "--to", &stranger]);
    assert!(!failed.status.success());
    // Strangers do no harm.
    TcpStream::connect(address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let _silent = TcpStream::connect(address).unwrap();
    assert!(run(SEND_FILE, &[text(&file), "--to", &path]).status.success());
    assert!(receiver.end().0.success());
    let failed = run(SEND_FILE, &[text(&file), "--to", &path]);
    assert!(
        !failed.status.success() && String::from_utf8_lossy(&failed.stderr).contains("cannot be reached")
    );
}

#[test]
fn what_is_too_large_is_refused_and_leaves_nothing() {
    let folders = Folders::make();
    let file = folders.file("large", &content(100_001));
    let mut receiver = folders.receive(&["--max-size", "100000"]);
    let path = receiver.path();
    let failed = run(SEND_FILE, &[text(&file), "--to", &path]);
    assert!(!failed.status.success());
    assert!(String::from_utf8_lossy(&failed.stderr).contains("413"), "{failed:?}");
    let (status, _) = receiver.end();
    assert!(!status.success());
    assert!(names(&folders.to).is_empty());
}

/// A sender by hand: what no send-file would do.
fn by_hand(receiver: &mut Running, requests: impl Fn(&str) -> String) -> String {
    let path = receiver.path();
    let (address, _) = path.trim_start_matches("msrp://").split_once('/').unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let head = format!("To-Path: {path}\r\nFrom-Path: msrp://127.0.0.1:9/me;tcp\r\n");
    connection.write_all(requests(&head).as_bytes()).unwrap();
    let mut answers = String::new();
    let _ = connection.read_to_string(&mut answers);
    answers
}

#[test]
fn chunks_out_of_order_and_overlapping_are_put_together() {
    let folders = Folders::make();
    let mut receiver = folders.receive(&[]);
    let answers = by_hand(&mut receiver, |paths| {
        let chunk = |id: &str, range: &str, body: &str, flag: char| {
            format!(
                "MSRP {id} SEND\r\n{paths}Message-ID: m1\r\nByte-Range: {range}\r\nSuccess-Report: yes\r\n\
                 Content-Disposition: attachment; filename=\"../../.x/e\\\\vil.txt\"\r\n\
                 Content-Type: text/plain\r\n\r\n{body}\r\n-------{id}{flag}\r\n"
            )
        };
        chunk("aaaa", "7-9/9", "ghi", '$')
            + &chunk("bbbb", "1-4/9", "abXX", '+')
            + &chunk("cccc", "3-6/9", "cdef", '+')
    });
    assert_eq!(answers.matches(" 200 ").count(), 4, "three responses and a report: {answers}");
    assert!(receiver.line("SHA-256 ").ends_with("(the sender gave none)"));
    assert!(receiver.end().0.success());
    assert_eq!(names(&folders.to), ["vil.txt"]);
    assert_eq!(fs::read(folders.to.join("vil.txt")).unwrap(), b"abcdefghi");
}

#[test]
fn a_wrong_hash_a_wrong_size_and_an_abandoned_file_are_failures() {
    let zeros = vec!["00"; 32].join(":");
    for (fields, range, flag, reason) in [
        (format!("hash=\"sha-256:{zeros}\""), "1-3/3", '$', "SHA-256"),
        ("x=y".to_owned(), "1-3/5", '$', "announced 5"),
        ("size=4".to_owned(), "1-3/*", '$', "announced 4"),
        ("x=y".to_owned(), "1-3/5", '#', "given up"),
        ("x=y".to_owned(), "1-3/5", '+', "lost"),
    ] {
        let folders = Folders::make();
        let mut receiver = folders.receive(&[]);
        let path = receiver.path();
        let (address, _) = path.trim_start_matches("msrp://").split_once('/').unwrap();
        let mut connection = TcpStream::connect(address).unwrap();
        let request = format!(
            "MSRP aaaa SEND\r\nTo-Path: {path}\r\nFrom-Path: msrp://127.0.0.1:9/me;tcp\r\nMessage-ID: m1\r\n\
             Byte-Range: {range}\r\nContent-Disposition: attachment; filename=a; {fields}\r\n\
             Content-Type: text/plain\r\n\r\nabc\r\n-------aaaa{flag}\r\n"
        );
        connection.write_all(request.as_bytes()).unwrap();
        connection.shutdown(std::net::Shutdown::Write).unwrap();
        let (status, errors) = receiver.end();
        assert!(!status.success() && errors.contains(reason), "{reason}: {errors}");
        assert!(names(&folders.to).is_empty(), "{reason}");
    }
}

#[test]
fn an_interrupted_sender_tells_the_receiver() {
    let folders = Folders::make();
    let file = folders.file("huge", &content(8_000_000));
    let mut receiver = folders.receive(&[]);
    let path = receiver.path();
    let mut sender = Running::start(SEND_FILE, &[text(&file), "--to", &path, "--chunk-size", "1"]);
    let until = std::time::Instant::now() + common::PATIENCE;
    while names(&folders.to).is_empty() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    sender.interrupt();
    let (status, errors) = sender.end();
    assert!(status.code() == Some(1) && errors.contains("interrupted"), "{status}: {errors}");
    let (status, errors) = receiver.end();
    assert!(status.code() == Some(1) && errors.contains("given up"), "{status}: {errors}");
    assert!(names(&folders.to).is_empty());
}

#[test]
fn a_sender_that_is_killed_leaves_nothing_behind() {
    let folders = Folders::make();
    let file = folders.file("huge", &content(8_000_000));
    let mut receiver = folders.receive(&[]);
    let path = receiver.path();
    // Slow enough to be caught.
    let mut sender = Running::start(SEND_FILE, &[text(&file), "--to", &path, "--chunk-size", "1"]);
    let until = std::time::Instant::now() + common::PATIENCE;
    while names(&folders.to).is_empty() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(names(&folders.to), ["huge.part"]);
    sender.kill();
    let (status, errors) = receiver.end();
    assert!(!status.success() && errors.contains("lost"), "{errors}");
    assert!(names(&folders.to).is_empty());
}

#[test]
fn what_cannot_be_read_or_written_is_told() {
    let folders = Folders::make();
    let path = "msrp://127.0.0.1:1/x;tcp";
    for (program, arguments, reason) in [
        (SEND_FILE, vec![text(&folders.from), "--to", path], "regular file"),
        (SEND_FILE, vec!["/does/not/exist", "--to", path], "cannot read"),
        (RECEIVE_FILE, vec!["/does/not/exist", "--listen", "127.0.0.1:0"], "no folder"),
        (RECEIVE_FILE, vec![text(&folders.to)], "--relay and --listen is needed\n"),
        (RECEIVE_FILE, vec![text(&folders.to), "--listen", "0.0.0.0:0"], "--advertise"),
        (RECEIVE_FILE, vec![text(&folders.to), "--relay", "msrps://a@127.0.0.1:1"], "--password"),
    ] {
        let output = run(program, &arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(reason), "{reason}: {errors}");
    }
}

#[test]
fn an_interrupted_receiver_leaves_nothing_behind() {
    let folders = Folders::make();
    // While it waits, and while a file arrives.
    let mut receiver = folders.receive(&[]);
    receiver.path();
    receiver.interrupt();
    let (status, errors) = receiver.end();
    assert!(status.code() == Some(1) && errors.contains("interrupted"), "{status}: {errors}");
    let file = folders.file("huge", &content(8_000_000));
    let mut receiver = folders.receive(&[]);
    let path = receiver.path();
    let mut sender = Running::start(SEND_FILE, &[text(&file), "--to", &path, "--chunk-size", "1"]);
    let until = std::time::Instant::now() + common::PATIENCE;
    while names(&folders.to).is_empty() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    receiver.interrupt();
    let (status, errors) = receiver.end();
    assert!(status.code() == Some(1) && errors.contains("interrupted"), "{status}: {errors}");
    let (status, errors) = sender.end();
    assert!(status.code() == Some(1) && errors.contains("413"), "{status}: {errors}");
    assert!(names(&folders.to).is_empty());
}

#[test]
fn a_port_in_use_is_told_and_nothing_else() {
    let folders = Folders::make();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = taken.local_addr().unwrap().to_string();
    let output = run(RECEIVE_FILE, &[text(&folders.to), "--listen", &place]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert_eq!(errors.matches("in use").count(), 1, "{errors}");
    assert!(errors.contains(&place) && !errors.contains("--"), "{errors}");
}

#[test]
fn a_relay_that_closes_without_an_answer_may_have_another_name() {
    let folders = Folders::make();
    let relay = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = relay.local_addr().unwrap().to_string();
    let closing = std::thread::spawn(move || {
        let (mut connection, _) = relay.accept().unwrap();
        let _ = connection.read(&mut [0; 4096]);
    });
    let login =
        ["--relay", "msrp://relay.test:2855", "--user", "bob", "--password", "p", "--connect", &place];
    let output = run(RECEIVE_FILE, &[&[text(&folders.to)], &login[..]].concat());
    closing.join().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    let hint = "is \"relay.test\" the name it calls itself (its `domain`), and msrp the right scheme?";
    assert!(errors.contains(hint), "{errors}");
}
