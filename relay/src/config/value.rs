//! The kinds of values: durations, sizes, hosts, secrets. Each reads itself from YAML or says why it cannot.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// The longest duration taken. Far beyond any use, and far from overflowing a deadline.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// The largest file a secret is read from. A larger one is the wrong file.
const MAX_SECRET_FILE: u64 = 64 * 1024;

/// Reads text through [`FromStr`]; `expecting` says what the text is, with an example.
pub(super) fn from_text<'de, D, T>(deserializer: D, expecting: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct Text<T>(&'static str, PhantomData<T>);

    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(expecting, PhantomData))
}

/// A value written as text.
#[derive(Debug, Default)]
pub(super) struct Parsed<T>(pub(super) T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Parsed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "text").map(Self)
    }
}

const DURATION: &str = "a duration with its unit, such as `30s`";
const SIZE: &str = "a size with its unit, such as `64KiB` or `2048B`";

/// `250ms`, `30s`, `5m`, `1h`, `7d`; for `#[serde(deserialize_with)]`. Zero is refused.
pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match duration_or_zero(deserializer)? {
        Duration::ZERO => Err(de::Error::custom("must be longer than zero")),
        duration => Ok(duration),
    }
}

/// What [`duration`] reads, of a text that was read before.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    text.parse().ok().map(|HumanDuration(duration)| duration)
}

/// As [`duration`], where zero means "at once".
pub(super) fn duration_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    from_text(deserializer, DURATION).map(|HumanDuration(duration)| duration)
}

/// `2048B`, `64KiB`, `16MiB`, `1GiB`; for `#[serde(deserialize_with)]`. Zero is refused.
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match size_or_zero(deserializer)? {
        0 => Err(de::Error::custom("must be larger than zero")),
        size => Ok(size),
    }
}

/// As [`size`], where zero (`0B`) means "nothing".
pub(super) fn size_or_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    from_text(deserializer, SIZE).map(|ByteSize(size)| size)
}

/// A count of at least one; for `#[serde(deserialize_with)]`.
pub(super) fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    struct Count;

    impl Visitor<'_> for Count {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a count of at least 1")
        }

        fn visit_u64<E: de::Error>(self, count: u64) -> Result<usize, E> {
            match usize::try_from(count) {
                Ok(count @ 1..) => Ok(count),
                _ => Err(de::Error::invalid_value(de::Unexpected::Unsigned(count), &self)),
            }
        }
    }

    deserializer.deserialize_u64(Count)
}

/// As [`count`], for a limit that is off when its key is left out.
pub(super) fn optional_count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    count(deserializer).map(Some)
}

#[derive(Debug, PartialEq)]
struct HumanDuration(Duration);

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text).ok_or_else(|| format!("`{text}` is not {DURATION}"))?;
        let milliseconds = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60 * 1000,
            "h" => 60 * 60 * 1000,
            "d" => 24 * 60 * 60 * 1000,
            "" => return Err(format!("`{text}` lacks a unit: ms, s, m, h or d, such as `{text}s`")),
            _ => return Err(format!("`{unit}` is not a unit of time, those are ms, s, m, h and d")),
        };
        let duration = number.checked_mul(milliseconds).map(Duration::from_millis);
        match duration {
            Some(duration) if duration <= MAX_DURATION => Ok(Self(duration)),
            _ => Err(format!("`{text}` is longer than the longest duration taken, `366d`")),
        }
    }
}

/// A size in bytes, written with its unit: `2048B`, `64KiB`, `16MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(usize);

impl ByteSize {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0 as u64
    }
}

/// In the largest unit of which it is a multiple.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
        let fits = units.into_iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        let (unit, factor) = fits.unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = number_and_unit(text).ok_or_else(|| format!("`{text}` is not {SIZE}"))?;
        let factor = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "" => return Err(format!("`{text}` lacks a unit: B, KiB, MiB or GiB, such as `{text}B`")),
            _ => return Err(format!("`{unit}` is not a unit of size, those are B, KiB, MiB and GiB")),
        };
        number
            .checked_mul(factor)
            .and_then(|size| usize::try_from(size).ok())
            .map(Self)
            .ok_or_else(|| format!("`{text}` is more than this machine can count"))
    }
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    Some((number.parse().ok()?, unit.trim_start()))
}

/// An IP address or a name, as it stands in an MSRP URI.
///
/// Shown as in a URI: an IPv6 address in brackets, a name as it was written (clients compare it literally).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address.
    Ip(IpAddr),
    /// A name for the system's resolver.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
            let ip: Ipv6Addr = inner.parse().map_err(|_| format!("`{inner}` is not an IPv6 address"))?;
            return Ok(Self::Ip(ip.into()));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("an IPv6 address goes in brackets: `[{text}]`"));
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(ip.into()));
        }
        if is_name(text) {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(format!("`{text}` is not a host name"))
        }
    }
}

/// Letters, digits, `-` and `_` between dots; the last label is no number, so that no mistyped address passes.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    text.len() <= 253
        && text.split('.').all(label)
        && text.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a host name, such as `relay.example.com`")
    }
}

/// A host, with or without a port: `relay.example.com:2855`, `192.0.2.1`, `[2001:db8::1]:2855`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port, where one is given.
    pub port: Option<u16>,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.fmt(f)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The colon after a bracket is the port's; without brackets, more than one is an address without them.
        let colon = match text.rfind(']') {
            Some(bracket) => text[bracket..].find(':').map(|at| bracket + at),
            None => text.find(':').filter(|at| !text[at + 1..].contains(':')),
        };
        let (host, port) = match colon {
            Some(colon) => (&text[..colon], Some(&text[colon + 1..])),
            None => (text, None),
        };
        let port = port.map(port_number).transpose()?;
        Ok(Self { host: host.parse()?, port })
    }
}

pub(super) fn port_number(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let port = if digits { text.parse().ok() } else { None };
    port.ok_or_else(|| format!("`{text}` is not a port, those are 0 to 65535"))
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer, "a host with or without a port, such as `relay.example.com:2855`")
    }
}

/// Text that neither logs nor error messages show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret as the file gives it: itself, or `{ file: PATH }`.
#[derive(Debug, Clone)]
pub(super) enum FileSecret {
    Here(Secret),
    InFile(PathBuf),
}

impl FileSecret {
    /// Whether it is in a file of its own.
    pub(super) fn is_in_file(&self) -> bool {
        matches!(self, Self::InFile(_))
    }

    /// The secret. Read from a file: its content without the line break at the end.
    pub(super) fn load(self, base_dir: &Path) -> Result<Secret, String> {
        let path = match self {
            Self::Here(secret) if secret.0.is_empty() => return Err("is empty".to_owned()),
            Self::Here(secret) => return Ok(secret),
            Self::InFile(path) => base_dir.join(path),
        };
        let text = read_text(&path, MAX_SECRET_FILE)?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(format!("{} is empty", path.display())),
            text => Ok(Secret::new(text)),
        }
    }
}

/// A text file's content; the error names the file.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, String> {
    let cannot_read = |why: &dyn fmt::Display| format!("cannot read {}: {why}", path.display());
    let file = File::open(path).map_err(|err| cannot_read(&err))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|err| cannot_read(&err))?;
    if bytes.len() as u64 > limit {
        return Err(format!("{} is larger than {} KiB", path.display(), limit / 1024));
    }
    String::from_utf8(bytes).map_err(|err| {
        let before = &err.as_bytes()[..err.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{} is not UTF-8 text, see its line {line}", path.display())
    })
}

impl<'de> Deserialize<'de> for FileSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecretVisitor;

        impl<'de> Visitor<'de> for SecretVisitor {
            type Value = FileSecret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text (a number goes in quotes) or `{ file: PATH }`")
            }

            fn visit_str<E>(self, text: &str) -> Result<FileSecret, E> {
                Ok(FileSecret::Here(Secret::new(text)))
            }

            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<FileSecret, A::Error> {
                #[derive(serde::Deserialize)]
                #[serde(deny_unknown_fields)]
                struct InFile {
                    file: PathBuf,
                }

                let InFile { file } = InFile::deserialize(MapAccessDeserializer::new(entries))?;
                Ok(FileSecret::InFile(file))
            }
        }

        deserializer.deserialize_any(SecretVisitor)
    }
}

/// A list; or one text, which may itself list several with commas, as OpenSIPS writes them. For
/// `#[serde(deserialize_with)]`.
pub(super) fn one_or_many<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    struct OneOrMany<T>(PhantomData<T>);
    struct Item<T>(T);

    impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Item<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            from_text(deserializer, "text").map(Self)
        }
    }

    impl<'de, T: FromStr<Err: fmt::Display>> Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text or a list of texts")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            text.split(',').map(|item| item.trim().parse().map_err(E::custom)).collect()
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(Item(item)) = items.next_element()? {
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_any(OneOrMany(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_units() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("366d", 31_622_400_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(HumanDuration(Duration::from_millis(milliseconds))), "{text}");
        }
        for text in [
            "",
            "s",
            "30",
            "30 sec",
            "-1s",
            "+1s",
            "1.5s",
            "1h30m",
            "30S",
            "367d",
            "99999999999999999999s",
            "1e3s",
        ] {
            assert!(text.parse::<HumanDuration>().is_err(), "{text}");
        }
        assert!("30".parse::<HumanDuration>().unwrap_err().contains("`30s`"));
    }

    #[test]
    fn sizes_carry_units() {
        for (text, size) in
            [("2048B", 2048), ("64KiB", 65_536), ("16MiB", 16_777_216), ("1GiB", 1 << 30), ("0B", 0)]
        {
            assert_eq!(text.parse(), Ok(ByteSize(size)), "{text}");
        }
        for text in ["", "KiB", "2048", "64KB", "64kib", "64K", "-1B", "1.5MiB", "99999999999999GiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
        assert!("2048".parse::<ByteSize>().unwrap_err().contains("`2048B`"));
    }

    #[test]
    fn hosts_are_names_or_addresses_and_read_back_as_shown() {
        for text in ["relay.test", "localhost", "192.0.2.1:0", "[::1]", "[2001:db8::1]:2855", "a-b_c.x:65535"]
        {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        let bad = "|:1|a:|a:x|a:65536|a:+1|::1|[::1|[::1]x|[relay.test]|1.2.3|300.1.1.1|a..b|.a|a b|a/b|u@h|a:1:2|[::1]:";
        for text in bad.split('|') {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
        assert!("::1".parse::<HostPort>().unwrap_err().contains("`[::1]`"));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("alicepw");
        assert_eq!(
            format!("{secret} {secret:?} {:?}", FileSecret::Here(secret.clone())).find("alicepw"),
            None
        );
    }
}
