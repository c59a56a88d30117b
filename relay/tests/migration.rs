//! `docs/migration.md` is complete, and each test it names exists.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// What the reference texts have, by section.
const THEIRS: [(&str, &[&str]); 11] = [
    (
        "auth_db",
        &[
            "db_url",
            "user_column",
            "domain_column",
            "password_column",
            "password_column_2",
            "hash_column_sha256",
            "hash_column_sha512",
            "calculate_ha1",
            "use_domain",
            "load_credentials",
            "skip_version_check",
            "version_table",
            "force_generate_avps",
        ],
    ),
    ("acc", &["do_accounting", "cdr_enable", "log_facility", "db_url", "db_table_acc", "cdrs_table"]),
    (
        "Management interface",
        &[
            "mi_http",
            "which",
            "version",
            "uptime",
            "ps",
            "get_statistics",
            "list_tcp_conns",
            "tcp:list",
            "tcp:close",
            "log_level",
            "prometheus",
            "opensips-cli",
        ],
    ),
    ("proto_ws, for SIP", &["ws_port", "ws_send_timeout", "ws_max_msg_chunks"]),
    (
        "proto_tcp",
        &[
            "tcp_port",
            "tcp_send_timeout",
            "tcp_max_msg_chunks",
            "tcp_crlf_pingpong",
            "tcp_crlf_drop",
            "tcp_async",
            "tcp_async_max_postponed_chunks",
            "tcp_async_local_connect_timeout",
            "tcp_async_local_write_timeout",
        ],
    ),
    (
        "proto_msrp",
        &[
            "send_timeout",
            "max_msg_chunks",
            "tls_handshake_timeout",
            "cert_check_on_conn_reusage",
            "trace_destination",
            "trace_on",
            "trace_filter_route",
            "msrp_trace",
        ],
    ),
    (
        "msrp_relay",
        &[
            "hash_size",
            "cleanup_interval",
            "auth_route",
            "username_var",
            "realm_var",
            "password_var",
            "calculate_ha1",
            "socket_route",
            "dst_schema_var",
            "dst_host_var",
            "auth_realm",
            "auth_expires",
            "auth_min_expires",
            "auth_max_expires",
            "nonce_expire",
            "my_uri",
        ],
    ),
    (
        "proto_hep",
        &[
            "hep_port",
            "hep_send_timeout",
            "hep_max_msg_chunks",
            "hep_async",
            "hep_async_max_postponed_chunks",
            "hep_capture_id",
            "hep_async_local_connect_timeout",
            "hep_async_local_write_timeout",
            "pack function",
            "callback registration",
        ],
    ),
    (
        "proto_ws",
        &[
            "ws_port",
            "ws_send_timeout",
            "ws_max_msg_chunks",
            "text and binary",
            "close",
            "ping",
            "pong",
            "server role",
            "client role",
            "fragmentation",
        ],
    ),
    (
        "tcpops",
        &[
            "closed_event",
            "event_callback",
            "tcp:closed",
            "tcp:timeout",
            "tcp:reset",
            "tcp_conid_alive",
            "tcp_conid_state` 1",
            "tcp_conid_state` 2",
            "tcp_conid_state` 3",
            "tcp_conid_state` -1",
            "tcp_conid_state` -2",
            "tcp_conid_state` -3",
            "tcp_conid_state` -4",
            "tcp_keepalive_enable",
            "tcp_keepalive_disable",
            "tcp_set_connection_lifetime",
            "tcp_enable_closed_event",
            "tcp_get_conid",
            "tcp_set_otcpid",
            "tcp_set_otcpid_flag",
            "tcp_close_connection",
        ],
    ),
    (
        "tls_mgm",
        &[
            "tls_handshake_timeout",
            "tls_send_timeout",
            "find_server_domain",
            "find_client_domain",
            "get_handshake_timeout",
            "get_send_timeout",
            "tls_library",
            "server_domain",
            "client_domain",
            "match_ip_address",
            "match_sip_domain",
            "client_sip_domain_avp",
            "client_tls_domain_avp",
            "tls_method",
            "certificate",
            "private_key",
            "ca_list",
            "ca_dir",
            "crl_dir",
            "crl_check_all",
            "ciphers_list",
            "dh_params",
            "ec_curve",
            "verify_cert",
            "require_cert",
            "db_url",
            "db_table",
            "domain_col",
            "match_ip_address_col",
            "match_sip_domain_col",
            "tls_method_col",
            "verify_cert_col",
            "require_cert_col",
            "certificate_col",
            "private_key_col",
            "crl_check_all_col",
            "crl_dir_col",
            "ca_list_col",
            "ca_dir_col",
            "cipher_list_col",
            "dh_params_col",
            "ec_curve_col",
            "is_peer_verified",
            "tls_mgm:list",
            "tls_list",
            "tls_mgm:reload",
            "tls_reload",
            "$tls_version",
            "$tls_description",
            "$tls_cipher_info",
            "$tls_cipher_bits",
            "$tls_[peer/my]_version",
            "$tls_[peer/my]_serial",
            "$tls_[peer/my]_[subject/issuer]",
            "_cn",
            "_locality",
            "_country",
            "_state",
            "_organization",
            "_unit",
            "_san_email",
            "_san_hostname",
            "_san_uri",
            "_san_ip",
            "$tls_peer_verified",
            "$tls_peer_revoked",
            "$tls_peer_expired",
            "$tls_peer_selfsigned",
            "$tls_peer_notBefore",
            "$tls_peer_notAfter",
        ],
    ),
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The rows of a section's tables, as their cells.
fn rows(section: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(workspace().join("docs/migration.md")).unwrap();
    let start = text.find(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("no section {section}")) + 1;
    let rest = &text[start..];
    let section = &rest[..rest[1..].find("\n## ").map_or(rest.len(), |end| end + 1)];
    let table = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| theirs"));
    table.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn everything_of_theirs_has_a_row() {
    for (section, names) in THEIRS {
        let rows = rows(section);
        for name in names {
            let found = rows.iter().any(|row| {
                row[0].match_indices(name).any(|(at, _)| {
                    !row[0][at + name.len()..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                })
            });
            assert!(found, "docs/migration.md, {section}: no row for {name}");
        }
    }
}

#[test]
fn each_row_has_a_test_that_exists() {
    let mut code = String::new();
    for member in ["msrp-proto", "tcp-transport", "relay", "tests", "examples"] {
        sources(&workspace().join(member), &mut code);
    }
    for (section, _) in THEIRS {
        for row in rows(section) {
            assert_eq!(row.len(), 4, "{row:?}");
            // What comes later, or stands elsewhere, says so.
            if row[3].starts_with("comes with ") || row[3].starts_with("section ") {
                continue;
            }
            let tests: Vec<_> = row[3].split('`').skip(1).step_by(2).collect();
            assert!(!tests.is_empty(), "{section}: no test for {}", row[0]);
            for test in tests {
                assert!(
                    code.contains(&format!("fn {test}(")),
                    "{section}, {}: there is no test {test}",
                    row[0]
                );
            }
        }
    }
}
