//! Numbers for people.

use std::time::Duration;

use time::OffsetDateTime;

/// `512 B`, `1.5 KiB`, `230 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be rounded up to 1024 is one of the next unit.
    while value >= 1023.95 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" || value >= 99.95 { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

/// The two largest parts: `4d 3h`, `2m 5s`, `0s`.
pub(super) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let parts = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];
    let first = parts.iter().position(|(_, size)| seconds >= *size).unwrap_or(parts.len() - 1);
    let mut left = seconds;
    let mut shown = Vec::new();
    for (unit, size) in &parts[first..(first + 2).min(parts.len())] {
        let number = left / size;
        left %= size;
        if number > 0 || shown.is_empty() {
            shown.push(format!("{number}{unit}"));
        }
    }
    shown.join(" ")
}

/// `2026-11-21 19:30:42Z`, or as many seconds since the epoch if that is out of all bounds.
pub(super) fn time(unix_seconds: f64) -> String {
    match OffsetDateTime::from_unix_timestamp(unix_seconds.floor() as i64) {
        Ok(at) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second()
        ),
        Err(_) => format!("{unix_seconds}"),
    }
}

/// A rate: `0`, `0.25`, `3.4`, `120`.
pub(super) fn rate(value: f64) -> String {
    match value {
        value if value == 0.0 || value >= 99.95 => format!("{value:.0}"),
        value if value >= 0.995 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// A duration as `10m` or `30s`, or as seconds; `0` and `forever` mean no end. For command-line arguments.
pub(super) fn lifetime(text: &str) -> Result<u64, String> {
    const MOST: Duration = Duration::from_secs(366 * 24 * 3600);
    if text == "forever" {
        return Ok(0);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(format!("`{unit}` is not a unit of time, those are s, m, h and d")),
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    match seconds {
        None => Err("a duration is needed, such as `10m`, or `forever`".to_owned()),
        Some(seconds) if seconds > MOST.as_secs() => Err("the longest duration is `366d`".to_owned()),
        Some(seconds) => Ok(seconds),
    }
}

/// Text of others, made safe for a terminal: it can neither move the cursor nor begin a line.
pub(super) fn safe(text: &str) -> String {
    // Marks that turn the direction of writing could show another name than there is.
    let turns =
        |c: char| matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_348, "99.9 KiB"),
            (102_400, "100 KiB"),
            (1_048_575, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(bytes(value), expected);
        }
        for (value, expected) in [
            (-3.0, "0s"),
            (0.4, "0s"),
            (59.9, "59s"),
            (60.0, "1m"),
            (125.0, "2m 5s"),
            (3600.0, "1h"),
            (3661.0, "1h 1m"),
            (356_400.0, "4d 3h"),
            (86_401.0, "1d"),
        ] {
            assert_eq!(duration(value), expected);
        }
        for (value, expected) in [(0.0, "0"), (0.25, "0.25"), (0.999, "1.0"), (3.44, "3.4"), (120.4, "120")] {
            assert_eq!(rate(value), expected);
        }
        assert_eq!(time(1_700_000_000.9), "2023-11-14 22:13:20Z");
        assert_eq!(time(-1.0), "1969-12-31 23:59:59Z");
        assert_eq!(time(1e300), format!("{}", 1e300));
    }

    #[test]
    fn durations_are_read() {
        for (text, expected) in [
            ("0", 0),
            ("forever", 0),
            ("77", 77),
            ("30s", 30),
            ("10m", 600),
            ("2h", 7200),
            ("366d", 31_622_400),
        ] {
            assert_eq!(lifetime(text), Ok(expected), "{text}");
        }
        for text in ["", "m", "-1", "1w", "367d", "99999999999999999999", "1.5h", "31622401"] {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_cannot_write_on_the_terminal() {
        assert_eq!(safe("alice"), "alice");
        assert_eq!(safe("a\x1b[2Jb\nc\u{202e}d\u{9b}é"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}é");
    }
}
