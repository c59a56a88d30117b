//! What `packaging/` gives to those who install the relay. The package itself is tested by `tests/interop/package`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relay::config::Config;
use tests::Site;

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// `msrp-relay check`: whether the relay would start, and what it says.
fn check(config: &Path) -> (bool, String) {
    let output = Command::new(RELAY).args(["check", "--config"]).arg(config).output().unwrap();
    (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn the_packages_configuration_wants_a_certificate_and_nothing_else() {
    let site = Site::new();
    // A folder of its own: the site has certificates.
    let folder = site.path("installed");
    fs::create_dir(&folder).unwrap();
    let config = folder.join("relay.yaml");
    fs::write(&config, read("packaging/debian/relay.yaml")).unwrap();
    let (starts, said) = check(&config);
    assert!(!starts && said.contains("relay.crt"), "{said}");
    for name in ["relay.crt", "relay.key"] {
        fs::copy(site.path(name), folder.join(name)).unwrap();
    }
    let (starts, said) = check(&config);
    assert!(starts, "{said}");
}

#[test]
fn the_packages_configuration_is_safe() {
    let site = Site::new();
    let text = read("packaging/debian/relay.yaml");
    let config = Config::parse(&text, site.directory(), "relay.yaml").unwrap();
    assert!(!config.auth.allow_auth_without_tls);
    assert!(config.listeners.iter().all(relay::config::Listener::is_secure), "TLS alone");
    let rules = |path: &str| -> Vec<String> {
        let text = read(path);
        let rules = text.lines().filter_map(|line| line.trim().strip_prefix("- \""));
        rules.filter_map(|line| Some(line.split_once('"')?.0.to_owned())).collect()
    };
    let public = rules("examples/outbound-public.yaml");
    assert!(public.len() > 15);
    assert_eq!(rules("packaging/debian/relay.yaml"), public, "the rules for the public network");
}

#[test]
fn the_example_of_a_farm_is_taken() {
    let site = Site::new();
    site.issue("127.0.0.11", &["farm.example.com", "127.0.0.11"]);
    site.write("nonce.secret", "0123456789abcdef");
    let (starts, said) = check(&site.write("member.yaml", &read("examples/farm/member.yaml")));
    assert!(starts, "{said}");
}

#[test]
fn the_packages_changelog_begins_with_this_version() {
    let first = format!("msrp-relay ({}-1) ", env!("CARGO_PKG_VERSION"));
    assert!(read("packaging/debian/changelog").starts_with(&first), "{first}");
}
