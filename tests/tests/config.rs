//! The commands `check` and `run` and what they say of configurations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tests::{Settings, Site};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

/// The configuration as operators are told to shape it, with the ha1 written out.
const ISSUE: &str = r#"domain: relay.test
listeners:
  - { uri: "msrps://127.0.0.1:2855", advertise: "relay.test:2855", tls_domain: relay }
  - { uri: "msrp://127.0.0.1:2856",  advertise: "relay.test:2856" }
tls:
  server_domains:
    relay: { certificate: relay.crt, private_key: relay.key, ca_list: ca.pem, verify_cert: true, require_cert: false }
  client_domains:
    default: { ca_list: ca.pem, verify_cert: true, certificate: relay.crt, private_key: relay.key }
auth:
  realm: relay.test
  allow_auth_without_tls: false
  nonce_expire: 30s
  expires: { default: 30m, min: 60s, max: 1h }
  users:
    alice: { password: alicepw }
    bob:   { ha1: "0123456789abcdef0123456789abcdef" }
  htdigest: users.htdigest
log: { level: info, format: text }
"#;

fn site() -> Site {
    let site = Site::new();
    site.write("users.htdigest", "dave:relay.test:0123456789abcdef0123456789abcdef\n");
    site
}

fn relay(command: &str, config: &Path) -> Output {
    // From elsewhere: the files are relative to the configuration.
    Command::new(RELAY).args([command, "--config"]).arg(config).current_dir("/").output().unwrap()
}

/// Runs `check` on a configuration that must be refused, and gives what it says.
fn refused(site: &Site, yaml: &str) -> String {
    let output = relay("check", &site.write("relay.yaml", yaml));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn the_configuration_of_the_issue_is_accepted() {
    let site = site();
    let output = relay("check", &site.write("relay.yaml", ISSUE));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("ok"));
}

#[test]
fn the_harness_writes_configurations_without_warnings() {
    let site = site();
    let output = relay("check", &site.write("relay.yaml", &Settings::default().to_yaml()));
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!String::from_utf8_lossy(&output.stdout).contains("warning"));
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest_key() {
    let site = site();
    let said = refused(&site, &ISSUE.replace("nonce_expire", "nonce_expires"));
    assert!(said.contains("relay.yaml:13:3"), "{said}");
    assert!(said.contains("nonce_expires") && said.contains("`nonce_expire`"), "{said}");
}

#[test]
fn a_missing_key_file_is_refused_with_its_line() {
    let site = site();
    let said = refused(&site, &ISSUE.replacen("relay.key", "none.key", 1));
    assert!(said.contains("relay.yaml:7:") && said.contains("none.key"), "{said}");
}

#[test]
fn a_missing_htdigest_file_is_refused_with_its_line() {
    let site = site();
    let said = refused(&site, &ISSUE.replace("users.htdigest", "none.htdigest"));
    assert!(said.contains("relay.yaml:18:") && said.contains("none.htdigest"), "{said}");
}

#[test]
fn a_key_that_does_not_match_its_certificate_is_refused() {
    let site = site();
    let said = refused(&site, &ISSUE.replacen("relay.key", "relay-b.key", 1));
    assert!(said.contains("relay.yaml:7:") && said.contains("does not match"), "{said}");
}

#[test]
fn a_file_that_is_no_certificate_is_refused() {
    let site = site();
    site.write("relay.crt", "this is not PEM\n");
    let said = refused(&site, ISSUE);
    assert!(said.contains("relay.yaml:7:") && said.contains("relay.crt"), "{said}");
}

#[test]
fn broken_yaml_is_refused_with_its_place() {
    let site = site();
    let said = refused(&site, "domain: relay.test\nlisteners: [\n");
    assert!(said.contains("relay.yaml:"), "{said}");
    let said = refused(&site, "");
    assert!(said.contains("relay.yaml"), "{said}");
}

#[test]
fn no_secret_is_quoted() {
    let site = site();
    let said = refused(&site, &ISSUE.replace("{ password: alicepw }", "{ password: [alicepw] }"));
    assert!(!said.contains("alicepw"), "{said}");
    let said = refused(&site, &ISSUE.replace("0123456789abcdef0123456789abcdef", "0123456789abcdef"));
    assert!(!said.contains("0123456789abcdef"), "{said}");
}

#[test]
fn a_missing_configuration_is_an_error() {
    let site = site();
    for command in ["check", "run"] {
        let output = relay(command, &site.path("none.yaml"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("none.yaml"), "{said}");
    }
}

#[test]
fn a_port_in_use_is_an_error_at_start() {
    let site = site();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let settings = Settings { plain: Some(address.clone()), ..Settings::default() };
    let output = relay("run", &site.write("relay.yaml", &settings.to_yaml()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {address}")), "{said}");
    assert!(said.to_lowercase().contains("in use"), "{said}");
    assert!(!said.contains("listening="), "{said}");
    assert_eq!(said.matches("os error").count(), 1, "it says so once: {said}");
}

#[test]
fn run_refuses_what_check_refuses() {
    let site = site();
    let yaml = Settings::default()
        .to_yaml()
        .replacen("relay.key", "relay-b.key", 1)
        .replace("domain: r", "domian: r");
    let output = relay("run", &site.write("relay.yaml", &yaml));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("relay.yaml:1:1") && said.contains("`domain`"), "{said}");
}
