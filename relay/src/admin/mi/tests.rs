use std::path::Path;

use super::*;
use crate::config::Config;
use crate::server::Server;

async fn server() -> Server {
    let text = "domain: relay.test\nlisteners: [ { uri: 'msrp://127.0.0.1:0' } ]\nauth: { users: { alice: { password: hunter2 } } }\n";
    let config = Config::parse(text, Path::new(""), "relay.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    Server::start(config).await.unwrap()
}

async fn ask(server: &Server, body: &str) -> Option<Value> {
    answer(server.control(), body.as_bytes()).await
}

#[tokio::test]
async fn calls_follow_json_rpc() {
    let server = server().await;
    let code = |answer: Option<Value>| answer.unwrap()["error"]["code"].as_i64().unwrap();
    for (body, expected) in [
        ("", -32700),
        ("{", -32700),
        ("[]", -32600),
        ("7", -32600),
        ("{}", -32600),
        (r#"{"jsonrpc":"1.0","method":"version","id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","method":7,"id":1}"#, -32600),
        (r#"{"jsonrpc":"2.0","method":"version","id":{}}"#, -32600),
        (r#"{"jsonrpc":"2.0","method":"nothing","id":1}"#, -32601),
        (r#"{"jsonrpc":"2.0","method":"version","params":7,"id":1}"#, -32602),
        (r#"{"jsonrpc":"2.0","method":"version","params":[1],"id":1}"#, -32602),
        (r#"{"jsonrpc":"2.0","method":"version","params":{"a":1},"id":1}"#, -32602),
        (r#"{"jsonrpc":"2.0","method":"session:show","id":1}"#, -32602),
        (r#"{"jsonrpc":"2.0","method":"session:show","params":{"id":null},"id":1}"#, -32602),
        (r#"{"jsonrpc":"2.0","method":"session:show","params":{"id":[]},"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"session:show","params":["xyz"],"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"session:show","params":["0000000"],"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"session:show","params":["00000000"],"id":1}"#, 404),
        (
            r#"{"jsonrpc":"2.0","method":"session:show","params":["00000000000000000000000000000000"],"id":1}"#,
            404,
        ),
        (
            r#"{"jsonrpc":"2.0","method":"session:show","params":["000000000000000000000000000000000"],"id":1}"#,
            400,
        ),
        (r#"{"jsonrpc":"2.0","method":"session:show","params":["+0000000"],"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"tcp:close","params":["x"],"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"tcp:close","params":[99],"id":1}"#, 404),
        (r#"{"jsonrpc":"2.0","method":"user:end","params":["nobody"],"id":1}"#, 404),
        (r#"{"jsonrpc":"2.0","method":"get_statistics","params":["no_such"],"id":1}"#, 404),
        (r#"{"jsonrpc":"2.0","method":"get_statistics","params":[7],"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"log_level","params":["loud"],"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"connection:keepalive","params":[1,"perhaps"],"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"connection:keepalive","params":[1,"on",0],"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"connection:lifetime","params":[1,99999999],"id":1}"#, 400),
        (r#"{"jsonrpc":"2.0","method":"tls_reload","id":1}"#, 500),
    ] {
        assert_eq!(code(ask(&server, body).await), expected, "{body}");
    }
    let good = ask(&server, r#"{"jsonrpc":"2.0","method":"version","id":"x"}"#).await.unwrap();
    assert_eq!((&good["jsonrpc"], &good["id"]), (&json!("2.0"), &json!("x")));
    assert!(good["result"]["Server"].as_str().unwrap().starts_with("msrp-relay ("));
    assert_eq!(ask(&server, r#"{"jsonrpc":"2.0","method":"version"}"#).await, None);
    let batch = r#"[{"jsonrpc":"2.0","method":"uptime","id":1},{"jsonrpc":"2.0","method":"ps"},{"jsonrpc":"2.0","method":"no","id":2}]"#;
    let batch = ask(&server, batch).await.unwrap();
    assert_eq!(
        (batch.as_array().unwrap().len(), &batch[0]["id"], &batch[1]["error"]["code"]),
        (2, &json!(1), &json!(-32601))
    );
    let call = r#"{"jsonrpc":"2.0","method":"ps","id":1}"#;
    let many = |calls: usize| format!("[{}]", vec![call; calls].join(","));
    assert_eq!(ask(&server, &many(MAX_BATCH)).await.unwrap().as_array().unwrap().len(), MAX_BATCH);
    assert_eq!(code(ask(&server, &many(MAX_BATCH + 1)).await), -32600);
    server.stop(std::future::ready(())).await;
}

#[tokio::test]
async fn every_command_is_listed_once_and_described() {
    let server = server().await;
    let names = run(server.control(), "which", None).await.unwrap();
    let names: Vec<_> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let mut unique = names.clone();
    unique.dedup();
    assert_eq!(names, unique);
    for wanted in [
        "tcp:list",
        "list_tcp_conns",
        "tcp:close",
        "tls_reload",
        "tls_mgm:reload",
        "tls_list",
        "tls_mgm:list",
        "get_statistics",
        "ps",
        "uptime",
        "version",
        "which",
    ] {
        assert!(names.contains(&wanted), "{wanted}");
    }
    for name in names {
        let told = run(server.control(), "help", Some(json!([name]))).await.unwrap();
        assert!(!told["Help"].as_str().unwrap().is_empty(), "{name}");
        let ways = run(server.control(), "which", Some(json!([name]))).await.unwrap();
        assert!(ways.as_array().unwrap().iter().all(Value::is_array), "{name}: {ways}");
    }
    let which = async |name: &str| run(server.control(), "which", Some(json!({ "command": name }))).await;
    assert_eq!(which("tcp:close").await, Ok(json!([["id"]])));
    assert_eq!(which("get_statistics").await, Ok(json!([[], ["statistics"]])));
    assert_eq!(which("tcp_keepalive").await.unwrap()[0], json!(["id", "mode"]));
    assert_eq!(which("nothing").await.unwrap_err().code, 404);
    server.stop(std::future::ready(())).await;
}

#[tokio::test]
async fn the_time_is_shown_as_opensips_does() {
    let server = server().await;
    let shown = run(server.control(), "uptime", None).await.unwrap();
    let words: Vec<_> = shown["Up since"].as_str().unwrap().split_whitespace().collect();
    assert!(words.len() == 5 && words[0].len() == 3 && words[1].len() == 3 && words[3].len() == 8, "{shown}");
    let seconds = shown["Up time"].as_str().unwrap().strip_suffix(" [sec]").unwrap();
    assert!(seconds.parse::<u64>().is_ok());
    server.stop(std::future::ready(())).await;
}

#[tokio::test]
async fn statistics_are_found_by_name_group_and_all() {
    let server = server().await;
    let get = async |wanted: Value| {
        run(server.control(), "get_statistics", Some(json!({ "statistics": wanted }))).await.unwrap()
    };
    assert_eq!(get(json!("msrp:sessions")).await, json!({ "msrp:sessions": 0 }));
    assert_eq!(get(json!(["sessions", "msrp:auths_granted"])).await.as_object().unwrap().len(), 2);
    let group = get(json!("msrp:")).await;
    assert!(group.as_object().unwrap().keys().all(|name| name.starts_with("msrp:")));
    let all = get(json!("all")).await;
    assert!(all.as_object().unwrap().len() > group.as_object().unwrap().len());
    let names = run(server.control(), "list_statistics", None).await.unwrap();
    assert_eq!(names.as_object().unwrap().len(), all.as_object().unwrap().len());
    assert_eq!(names["msrp:auths_granted"], "incremental");
    let names = run(server.control(), "list_statistics", Some(json!([["sessions", "tls:"]]))).await.unwrap();
    assert_eq!(names, json!({ "msrp:sessions": "non-incremental" }));
    for (wrong, hint) in [
        ("msrp:sesions", "did you mean `msrp:sessions`?"),
        ("sesions", "did you mean `msrp:sessions`?"),
        ("mrsp:", "did you mean `msrp:`?"),
        ("msrp:auth_granted", "did you mean `msrp:auths_granted`?"),
        ("nothing like it", "`list_statistics` (`ctl stats`) has their names"),
    ] {
        for method in ["get_statistics", "list_statistics"] {
            let error = run(server.control(), method, Some(json!([[wrong]]))).await.unwrap_err();
            assert_eq!((error.code, error.message), (404, format!("Statistics Not Found; {hint}")));
        }
    }
    server.stop(std::future::ready(())).await;
}

#[tokio::test]
async fn the_configuration_is_shown_without_its_secrets() {
    let server = server().await;
    let shown = run(server.control(), "config:show", None).await.unwrap();
    assert_eq!(shown["Configuration"]["auth"]["users"]["alice"]["password"], "***");
    assert_eq!(shown["Configuration"]["domain"], "relay.test");
    assert!(!shown.to_string().contains("hunter2"));
    server.stop(std::future::ready(())).await;
}
