//! Names of files that others chose.

/// What a file is called that has no usable name.
pub const NAMELESS: &str = "file";

/// The longest name in bytes. File systems take 255; this leaves room for ` (1000).part`.
pub const MAX_NAME: usize = 200;

/// Names that Windows takes for devices, with any extension.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// A name for a new file in a folder, whatever `wanted` says: only what follows the last `/` or `\`,
/// without characters that are control or special somewhere, not hidden, not too long, never empty.
pub fn safe(wanted: &str) -> String {
    let base = wanted.rsplit(['/', '\\']).next().unwrap_or_default();
    let special = |c: char| c.is_control() || r#"<>:"|?*"#.contains(c) || is_invisible(c);
    let name: String = base.chars().map(|c| if special(c) { '_' } else { c }).collect();
    let name = name.trim_start_matches(|c: char| c == '.' || c.is_whitespace());
    let name = shortened(name);
    let name = name.trim_end_matches(|c: char| c == '.' || c.is_whitespace());
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    if name.is_empty() {
        NAMELESS.to_owned()
    } else if DEVICES.contains(&stem.as_str()) || is_port(&stem) {
        format!("_{name}")
    } else {
        name.to_owned()
    }
}

/// `name`, then `name (1)`, `name (2)` and so on, with the number before the extension.
pub fn numbered(name: &str, number: u32) -> String {
    let (stem, extension) = split(name);
    match number {
        0 => name.to_owned(),
        _ => format!("{stem} ({number}){extension}"),
    }
}

/// Characters that make a name look like another: those that turn the direction of the text.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn is_port(stem: &str) -> bool {
    let digit = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    digit.is_some_and(|digit| digit.len() == 1 && digit.bytes().all(|b| b.is_ascii_digit()))
}

/// Keeps the extension, if it is a short one.
fn shortened(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let (stem, extension) = match split(name) {
        (stem, extension) if extension.len() <= 16 => (stem, extension),
        _ => (name, ""),
    };
    let mut end = MAX_NAME - extension.len();
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{extension}", &stem[..end])
}

/// The stem, and the extension with its dot.
fn split(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (name, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_out_of_its_folder() {
        for (wanted, name) in [
            ("report.pdf", "report.pdf"),
            ("Bericht über Öl.pdf", "Bericht über Öl.pdf"),
            ("/etc/passwd", "passwd"),
            ("../../etc/passwd", "passwd"),
            (r"C:\Windows\System32\evil.dll", "evil.dll"),
            (r"..\..\evil", "evil"),
            ("a/b\\c", "c"),
            ("..", NAMELESS),
            (".", NAMELESS),
            ("", NAMELESS),
            ("folder/", NAMELESS),
            ("...", NAMELESS),
            ("   ", NAMELESS),
            (".bashrc", "bashrc"),
            ("..\u{0}..", "_"),
            ("a\u{0}b", "a_b"),
            ("a\nb\u{1b}[2Jc", "a_b_[2Jc"),
            ("file.txt:stream", "file.txt_stream"),
            ("name. . ", "name"),
            ("nul", "_nul"),
            ("CON.txt", "_CON.txt"),
            ("com1.log", "_com1.log"),
            ("common.log", "common.log"),
            ("evil\u{202e}fdp.exe", "evil_fdp.exe"),
        ] {
            assert_eq!(safe(wanted), name, "{wanted:?}");
        }
    }

    #[test]
    fn a_long_name_keeps_its_extension_and_its_characters() {
        let name = safe(&format!("{}.tar", "ä".repeat(5000)));
        assert!(name.len() <= MAX_NAME && name.ends_with("ä.tar"), "{name}");
        let name = safe(&format!("a.{}", "x".repeat(5000)));
        assert_eq!(name.len(), MAX_NAME);
        assert!(safe(&".".repeat(100_000)).len() <= MAX_NAME);
    }

    #[test]
    fn numbers_go_before_the_extension() {
        assert_eq!(numbered("a.tar.gz", 0), "a.tar.gz");
        assert_eq!(numbered("a.txt", 1), "a (1).txt");
        assert_eq!(numbered("a", 12), "a (12)");
    }
}
