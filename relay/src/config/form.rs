//! The forms of values, for the schema: what a value is, in words and as JSON Schema.
//!
//! Most types of the configuration read themselves from text, which a derived schema cannot know. So a field names the
//! form of its value here, with `#[schemars(with = "form::…")]`; a test reads every example and choice that a form
//! gives by the real reader.

use std::borrow::Cow;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// What a value is called that is a secret. The reference and the tests know it by that: it takes `{ file: PATH }` too.
pub(super) const SECRET: &str = "secret";

/// The title of durations, by which their defaults are found.
pub(super) const DURATION: &str = "duration";

/// The title of sizes, by which their defaults are found.
pub(super) const SIZE: &str = "size";

/// The title of names of tables and columns.
pub(super) const IDENTIFIER: &str = "name of letters, digits and `_`";

/// The schema of one of these texts.
pub(super) fn choices(of: &[&str]) -> Value {
    json!({ "enum": of })
}

/// Forms that are text: what it is, an example, and a pattern that tells wrong ones.
macro_rules! texts {
    ($($name:ident: $title:expr, $examples:expr, $pattern:expr;)*) => { $(
        #[derive(Debug)]
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string", "title": $title, "examples": $examples, "pattern": $pattern,
                })
            }
        }
    )* };
}

texts! {
    Duration: DURATION, ["30s"], "^0*[1-9][0-9]*\\s*(ms|s|m|h|d)$";
    DurationOrZero: DURATION, ["30s", "0s"], "^[0-9]+\\s*(ms|s|m|h|d)$";
    Size: SIZE, ["64KiB"], "^0*[1-9][0-9]*\\s*(B|KiB|MiB|GiB)$";
    SizeOrZero: SIZE, ["64KiB", "0B"], "^[0-9]+\\s*(B|KiB|MiB|GiB)$";
    HostName: "host", ["relay.example.com", "192.0.2.1", "[2001:db8::1]"], HOST;
    HostPort: "host, with or without port", ["relay.example.com:2855"], format!("{HOST_OPEN}(:[0-9]+)?$");
    ListenUri: "URI to listen on", ["msrps://0.0.0.0:2855", "wss://[::]:443/msrp"],
        "^(?i:msrps?|sips?|wss?|hep_udp|hep_tcp|hep_tls)://\\S+$|^\\*$";
    UpstreamUri: "URI of an upstream", ["sip://10.0.0.1:5060", "wss://proxy.example.com/ws"], "^(?i:sips?|wss?)://\\S+$";
    HepUri: "URI of a collector", ["hep_tls://homer.example.com:9061"], "^(?i:hep_udp|hep_tcp|hep_tls)://\\S+$";
    AdminAddress: "address", ["http://127.0.0.1:8088", "unix:/run/msrp-relay/admin.sock"], "^(http://|unix:).+$";
    SyslogAddress: "address", ["unix:/dev/log", "udp://192.0.2.1:514"], "^(udp://|unix:).+$";
    IpAddress: "IP address", ["192.0.2.1", "2001:db8::1"], "^[0-9A-Fa-f.:]+$";
    IpNetwork: "address or network", ["10.0.0.0/8", "::1"], "^[0-9A-Fa-f.:]+(/[0-9]+)?$";
    Network: "network, with or without ports", ["10.0.0.0/8", "10.0.0.0/8:2855-2900", "[2001:db8::]/32:2855"],
        "^\\[?[0-9A-Fa-f.:]+\\]?(/[0-9]+)?(:[0-9]+(-[0-9]+)?)?$";
    AddressPattern: "address, with or without port", ["192.0.2.1", "192.0.2.1:2855"], "^\\S+$";
    HostPattern: "host pattern", ["*.example.com", "relay.example.com"], "^\\S+$";
    PortRange: "port or range", ["2855", "8000-8999"], "^[0-9]+(-[0-9]+)?$";
    Path: "path", ["relay.crt"], "^.+$";
    Name: "name", ["all", "homer"], "^.+$";
    Identifier: IDENTIFIER, ["subscriber"], "^[A-Za-z_][A-Za-z0-9_]*(\\.[A-Za-z_][A-Za-z0-9_]*)*$";
    Origin: "origin", ["https://chat.example.com", "null"], "^(null|[A-Za-z0-9-]+://\\S+)$";
    TlsVersions: "version or range", ["TLSv1_2-TLSv1_3", "TLSv1_3"], "^\\S+$";
    CipherSuite: "cipher suite", ["TLS_AES_128_GCM_SHA256", "ECDHE-RSA-AES128-GCM-SHA256"], "^\\S+$";
    Curve: "group", ["X25519", "P-256"], "^\\S+$";
    Mode: "permissions, in quotes", ["0660"], "^0*[0-7]{3}$";
    LogTarget: "place", ["stderr", "file:/var/log/msrp-relay/relay.log", "syslog", "syslog:udp://192.0.2.1:514", "journald"],
        "^(stderr|file:.+|syslog(:(unix:|udp://|tcp://).+)?|journald(:/.+)?)$";
    LogLevel: "level, or levels by part", ["info", "info,relay=debug"], "^\\S+$";
}

const HOST: &str = "^([A-Za-z0-9_.-]+|\\[[0-9A-Fa-f:.]+\\])$";
const HOST_OPEN: &str = "^([A-Za-z0-9_.-]+|\\[[0-9A-Fa-f:.]+\\])";

/// Forms that are one of some texts.
macro_rules! words {
    ($($name:ident: $($word:literal)*;)*) => { $(
        #[derive(Debug)]
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "enum": [$($word),*] })
            }
        }
    )* };
}

words! {
    DigestAlgorithm: "MD5" "SHA-256" "SHA-512-256";
    HmacAlgorithm: "sha1" "sha256";
    DialScheme: "msrp" "msrps";
    Protocol: "msrp" "msrps" "ws" "wss" "sip" "sips" "hep";
    HepTransport: "udp" "tcp" "tls";
    Direction: "in" "out";
    ByteOrder: "little" "big";
    EventPayload: "json" "text";
    LogFormat: "text" "json";
    CertificateName: "common_name" "email" "dns_name";
    ClosedEvent: "all" "none" "marked" 0 1 2;
    Facility: "kern" "user" "mail" "daemon" "auth" "syslog" "lpr" "news" "uucp" "cron" "authpriv" "ftp" "ntp" "audit"
        "alert" "clock" "local0" "local1" "local2" "local3" "local4" "local5" "local6" "local7";
}

/// A number of 1 or more.
#[derive(Debug)]
pub(super) struct Count;

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "title": "number", "minimum": 1 })
    }
}

/// Text that is not shown: itself, or the name of the file that holds it.
#[derive(Debug)]
pub(super) struct Secret;

/// A secret that is the URL of a database.
#[derive(Debug)]
pub(super) struct DatabaseUrl;

fn secret(examples: &Value) -> Schema {
    json_schema!({
        "title": SECRET,
        "examples": examples,
        "anyOf": [
            { "type": "string", "minLength": 1 },
            {
                "type": "object",
                "properties": { "file": { "type": "string", "description": "The file that holds it." } },
                "required": ["file"],
                "additionalProperties": false,
            },
        ],
    })
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        secret(&json!([{ "file": "secret.txt" }]))
    }
}

impl JsonSchema for DatabaseUrl {
    fn schema_name() -> Cow<'static, str> {
        "DatabaseUrl".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        secret(
            &json!(["sqlite:users.db", "postgres://USER:PASSWORD@HOST/DATABASE", { "file": "database.url" }]),
        )
    }
}

/// A list; or one text, which may itself list several with commas.
#[derive(Debug)]
pub(super) struct OneOrMany<T>(PhantomData<T>);

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        let several = json!({ "type": "string", "pattern": "," });
        json_schema!({ "anyOf": [item, several, { "type": "array", "items": item }] })
    }
}

/// Numbers, some with names: one, or a list.
macro_rules! numbers {
    ($($name:ident: $title:literal, $most:expr, [$($word:literal),*];)*) => { $(
        #[derive(Debug)]
        pub(super) struct $name;

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                let words: &[&str] = &[$($word),*];
                let number = json!({ "type": "integer", "minimum": 0, "maximum": $most });
                let one = match words {
                    [] => vec![number],
                    _ => vec![json!({ "enum": words }), number],
                };
                let many = json!({ "type": "array", "items": { "title": $title, "anyOf": one } });
                json_schema!({ "anyOf": one.into_iter().chain([many]).collect::<Vec<_>>() })
            }
        }
    )* };
}

numbers! {
    ProtocolNumbers: "IP protocol", u8::MAX, ["tcp", "udp", "sctp"];
    PayloadNumbers: "payload type", u8::MAX, ["sip", "xmpp", "sdp", "rtp", "rtcp", "rest", "event", "log"];
    CaptureNumbers: "number", u32::MAX, [];
}

/// What no value is good for: a key that is known, and refused with the reason.
#[derive(Debug)]
pub(super) struct Refused;

impl JsonSchema for Refused {
    fn schema_name() -> Cow<'static, str> {
        "Refused".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "not": {} })
    }
}
