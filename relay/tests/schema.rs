//! The JSON Schema of the configuration, as an independent validator understands it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(&relay::config::json_schema()).unwrap();
    assert!(jsonschema::meta::is_valid(&schema));
    jsonschema::validator_for(&schema).unwrap()
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn every_example_is_valid() {
    let validator = validator();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut valid = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap_or_default();
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml");
        // Prometheus' rules are something else.
        if !is_yaml || !text.lines().any(|line| line.starts_with("domain:")) {
            continue;
        }
        let errors: Vec<_> = validator.iter_errors(&yaml(&text)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        valid += 1;
    }
    assert!(valid >= 5, "{valid}");
}

#[test]
fn wrong_ones_are_refused() {
    let validator = validator();
    let good = "domain: relay.test\nlisteners: [{ uri: 'msrp://127.0.0.1:2855' }]\n";
    assert!(validator.is_valid(&yaml(good)));
    for section in ["tls:", "auth:", "log:", "limits:\n  user:"] {
        assert!(validator.is_valid(&yaml(&format!("{good}{section}\n"))), "{section}");
    }
    for bad in [
        "listeners: [{ uri: 'msrp://127.0.0.1:2855' }]",
        "domain: relay.test",
        "domain: relay.test\nlisteners: []",
        "domain: relay.test\nlisteners: [{ uri: 'http://127.0.0.1:2855' }]",
        "domain: relay.test\nlisteners: [{ advertise: relay.test }]",
        "domain: 'two words'\nlisteners: [{ uri: 'msrp://127.0.0.1:2855' }]",
    ] {
        assert!(!validator.is_valid(&yaml(bad)), "{bad}");
    }
    for bad in [
        "listner: []",
        "timeouts: { head_timeout: 30 }",
        "timeouts: { head_timeout: 30 seconds }",
        "timeouts: { head_timeout: 0s }",
        "timeouts: { head_timeout: }",
        "limits: { head_size: 64KB }",
        "limits: { headers: 0 }",
        "limits: { headers: many }",
        "limits: { haeders: 64 }",
        "auth: { users: { alice: { pasword: x } } }",
        "auth: { users: { alice: { password: 1234 } } }",
        "auth: { users: { alice: { password: { path: x } } } }",
        "auth: { algorithms: [SHA1] }",
        "auth: { ephemeral: {} }",
        "auth: { allow_auth_without_tls: 'yes please' }",
        "tls: { server_domains: { relay: { certificate: relay.crt } } }",
        "tls: { client_domains: { relay: { dh_params: dh.pem } } }",
        "tcp: { dscp: 64 }",
        "outbound: { deny: [everything] }",
        "outbound: { source_port: 65536 }",
        "sip: {}",
        "sip: { sip_upstream: [{ uri: 'msrp://127.0.0.1' }] }",
        "trace: { protocols: { http: {} } }",
        "trace: { destinations: { homer: { uri: 'hep_tcp://127.0.0.1', version: 4 } } }",
        "records: { sinks: { one: { syslog: { facility: local8 } } } }",
        "admin: { listen: 'https://127.0.0.1:8088' }",
        "admin: { listen: 'unix:admin.sock', socket_mode: rw }",
        "hep: { filter: [{ forward: all, payload_type: 256 }] }",
        "log: { format: xml }",
    ] {
        assert!(!validator.is_valid(&yaml(&format!("{good}{bad}\n"))), "{bad}");
    }
}
