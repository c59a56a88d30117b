//! `docs/admin.md` and the examples for monitoring say what the relay has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use tests::{Admin, Client, Daemon, Scheme, Settings, Site};

const RELAY: &str = env!("CARGO_BIN_EXE_msrp-relay-under-test");

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The rows of the table in `docs/admin.md` whose first title is this, as they stand there.
fn rows(title: &str) -> BTreeSet<String> {
    let text = file("docs/admin.md");
    let lines = text.lines().skip_while(|line| !line.starts_with(title)).skip(2);
    lines.take_while(|line| line.starts_with('|')).map(str::to_owned).collect()
}

fn quoted(names: &Value, between: &str) -> String {
    let names: Vec<_> =
        names.as_array().unwrap().iter().map(|name| format!("`{}`", name.as_str().unwrap())).collect();
    if names.is_empty() { "—".to_owned() } else { names.join(between) }
}

/// A relay that has all there is to speak of.
async fn start(site: &Site) -> (Daemon, Admin) {
    let any_port = || Some("127.0.0.1:0".to_owned());
    let settings = Settings {
        sip_tcp: any_port(),
        sip: Some("sip_upstream: [{ uri: 'sip://127.0.0.1:9', advertise: 'edge.test:5060' }]".into()),
        hep_udp: any_port(),
        trace: "destinations: { homer: { uri: 'hep_udp://127.0.0.1:9' } }".into(),
        records: "sinks: { billing: { file: { path: records.jsonl } } }".into(),
        auth: "allow_auth_without_tls: true, database: { url: 'sqlite:users.db' }".into(),
        admin: Some("listen: 'http://127.0.0.1:0'".into()),
        ..Settings::default()
    };
    site.write("users.db", "");
    let daemon = Daemon::start(RELAY, site, &settings).await;
    let admin = Admin::of(&daemon).await.remove(0);
    (daemon, admin)
}

/// What there is to say while there is a connection.
async fn families(admin: &Admin) -> Vec<Value> {
    let status = admin.get("/status.json").await;
    let status: Value = serde_json::from_str(&status.body).unwrap();
    status["statistics"].as_array().unwrap().clone()
}

#[tokio::test]
async fn the_commands_are_those_there_are() {
    let site = Site::new();
    let (_daemon, admin) = start(&site).await;
    let mut told = BTreeSet::new();
    for name in admin.mi("which", Value::Null).await.as_array().unwrap() {
        let help = admin.mi("help", json!([name])).await;
        let (names, params) = (quoted(&help["Names"], ", "), quoted(&help["Params"], " "));
        told.insert(format!("| {names} | {params} | {} |", help["Help"].as_str().unwrap()));
    }
    assert_eq!(rows("| command | parameters |"), told);
}

#[tokio::test]
async fn the_metrics_are_those_there_are() {
    let site = Site::new();
    let (daemon, admin) = start(&site).await;
    let _client = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let mut told = BTreeSet::new();
    for family in families(&admin).await {
        let labels: BTreeSet<_> = family["samples"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|sample| sample["labels"].as_object().unwrap().keys().cloned())
            .collect();
        let text = |name: &str| family[name].as_str().unwrap();
        let labels = quoted(&json!(labels), ", ");
        told.insert(format!("| `{}` | {} | {labels} | {} |", text("metric"), text("kind"), text("help")));
    }
    assert_eq!(rows("| metric | type |"), told);
    // And what `/metrics` says is the same.
    let metrics = admin.get("/metrics").await.body;
    for row in told {
        let name = row.split('`').nth(1).unwrap();
        assert!(
            metrics
                .lines()
                .any(|line| line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{"))),
            "{name}"
        );
    }
}

/// What the text in front of the table of metrics says of families and sections.
#[tokio::test]
async fn a_metric_is_there_only_if_its_section_is_configured() {
    let site = Site::new();
    let settings = Settings { admin: Some("listen: 'http://127.0.0.1:0'".into()), ..Settings::default() };
    let daemon = Daemon::start(RELAY, &site, &settings).await;
    let bare = Admin::of(&daemon).await.remove(0).get("/metrics").await.body;
    let all_sections = Site::new();
    let (_daemon, admin) = start(&all_sections).await;
    let full = admin.get("/metrics").await.body;
    let text = file("docs/admin.md").replace('\n', " ");
    let sections = ["auth", "sip", "trace", "hep", "records"].map(|section| format!("msrp_relay_{section}_"));
    for prefix in sections {
        assert!(text.contains(&format!("`{prefix}…` with ")), "{prefix}");
        assert!(full.contains(&prefix) && !bare.contains(&prefix), "{prefix}");
    }
}

#[tokio::test]
async fn what_the_dashboard_and_the_rules_ask_for_is_there() {
    let site = Site::new();
    let (daemon, admin) = start(&site).await;
    let _client = Client::connect(&daemon, &site, Scheme::Msrps).await;
    let labels: BTreeMap<String, BTreeSet<String>> = families(&admin)
        .await
        .iter()
        .map(|family| {
            let samples = family["samples"].as_array().unwrap();
            let labels =
                samples.iter().flat_map(|sample| sample["labels"].as_object().unwrap().keys().cloned());
            (family["metric"].as_str().unwrap().to_owned(), labels.collect())
        })
        .collect();
    let mut asked = BTreeSet::new();
    for name in ["examples/grafana-dashboard.json", "examples/prometheus-rules.yaml"] {
        let text = file(name).replace("\\\"", "\"");
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let metrics: BTreeSet<_> = words
            .filter(|word| word.starts_with("msrp_relay_") || word.starts_with("process_"))
            .map(str::to_owned)
            .collect();
        assert!(metrics.len() > 5, "{name}");
        for metric in &metrics {
            let known = labels.get(metric).unwrap_or_else(|| panic!("{name}: there is no metric {metric}"));
            // `metric{label="…", other=~"…"}`
            for (at, _) in text.match_indices(&format!("{metric}{{")) {
                let selector = text[at..].split(['{', '}']).nth(1).unwrap();
                for pair in selector.split(',').filter(|pair| pair.contains('=')) {
                    let label = pair.split(['=', '!']).next().unwrap().trim();
                    let is_targets = label == "instance" || label == "job";
                    assert!(is_targets || known.contains(label), "{name}: {metric} has no label {label}");
                }
            }
        }
        asked.extend(metrics);
    }
    // Nothing that is measured is left out of both, but for what says little.
    let unused: Vec<_> = labels.keys().filter(|metric| !asked.contains(*metric)).collect();
    assert_eq!(unused, ["process_threads", "process_virtual_memory_bytes"]);
    let dashboard: Value = serde_json::from_str(&file("examples/grafana-dashboard.json")).unwrap();
    assert_eq!(dashboard["uid"], "msrp-relay");
}

#[test]
fn every_configuration_among_the_examples_is_listed_and_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let listed = file("examples/README.md");
    let mut configurations = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if !name.ends_with(".yaml") {
            continue;
        }
        assert!(listed.contains(&format!("]({name})")), "examples/README.md does not list {name}");
        // Prometheus' own, and what needs certificates first, as its row says.
        if name == "prometheus-rules.yaml" || name == "tls-domains.yaml" {
            continue;
        }
        let checked =
            std::process::Command::new(RELAY).args(["check", "--config"]).arg(&path).output().unwrap();
        assert!(checked.status.success(), "{name}: {checked:?}");
        configurations += 1;
    }
    assert!(configurations >= 5);
    let row = listed.lines().find(|line| line.contains("(tls-domains.yaml)")).unwrap();
    assert!(row.contains("sh examples/tls-domains.sh") && folder.join("tls-domains.sh").exists());
}

#[test]
fn the_files_that_the_examples_for_monitoring_name_are_there() {
    let rules = file("examples/prometheus-rules.yaml");
    let first = rules.lines().next().unwrap();
    let named: Vec<_> = first.split_whitespace().filter(|word| word.starts_with("tests/")).collect();
    assert!(!named.is_empty());
    for name in named {
        let name = name.trim_end_matches(['.', ',', ';']);
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).exists(), "{name}");
    }
}
