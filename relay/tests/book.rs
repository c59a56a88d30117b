//! The documentation holds together: chapters, links, configurations that are read, commands and log lines that there are.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use relay::cli::Cli;
use relay::config::Config;
use serde_json::Value;

/// What stands before a path of this repository where a page of the book leads out of it.
const REPOSITORY: &str = "https://github.com/msrp-relay/msrp-relay/";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn markdown_in(folder: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(root().join(folder)).unwrap().map(|file| file.unwrap().path());
    let mut pages: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.sort();
    pages
}

/// All pages that people read.
fn pages() -> Vec<PathBuf> {
    ["", "docs", "examples", "examples/browser-chat"].into_iter().flat_map(markdown_in).collect()
}

/// The lines of a page that are text, with what is quoted as code blanked out.
fn text_lines(page: &str) -> Vec<String> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            let parts = line.split('`').enumerate();
            lines.push(parts.map(|(at, part)| if at % 2 == 0 { part } else { "`" }).collect());
        }
    }
    lines
}

/// The blocks of a page that are marked as this language, with the line where each begins.
fn blocks(page: &str, language: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut block: Option<(usize, String, bool)> = None;
    for (at, line) in page.lines().enumerate() {
        match &mut block {
            None => {
                if let Some(mark) = line.strip_prefix("```") {
                    block = Some((at + 2, String::new(), mark == language));
                }
            }
            Some((first, text, wanted)) => {
                if line == "```" {
                    if *wanted {
                        found.push((*first, std::mem::take(text)));
                    }
                    block = None;
                } else {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
    }
    found
}

/// The anchors of a page, as GitHub and mdBook make them of titles.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut in_code = false;
    let mut found = BTreeSet::new();
    for line in page.lines() {
        in_code ^= line.starts_with("```");
        let title = line.trim_start_matches('#');
        if in_code || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect();
        // The second of the same name gets a number.
        let mut unique = anchor.clone();
        for number in 1.. {
            if found.insert(unique.clone()) {
                break;
            }
            unique = format!("{anchor}-{number}");
        }
    }
    found
}

/// Without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn every_chapter_is_there_and_every_page_is_a_chapter() {
    let summary = read(&root().join("docs/SUMMARY.md"));
    let mut chapters = BTreeSet::new();
    for line in summary.lines() {
        if let Some((_, rest)) = line.split_once("](") {
            let name = rest.split(')').next().unwrap();
            assert!(
                root().join("docs").join(name).is_file(),
                "docs/SUMMARY.md names {name}, which is not there"
            );
            assert!(chapters.insert(name.to_owned()), "docs/SUMMARY.md names {name} twice");
        }
    }
    let pages: BTreeSet<_> = markdown_in("docs")
        .into_iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "SUMMARY.md")
        .collect();
    assert_eq!(chapters, pages, "left: docs/SUMMARY.md; right: docs/");
    let book = read(&root().join("book.toml"));
    assert!(book.contains("src = \"docs\""));
}

#[test]
fn links_lead_somewhere() {
    let root = plain(&root().canonicalize().unwrap());
    let mut followed = 0;
    let mut broken = Vec::new();
    for page in pages() {
        let page = plain(&page.canonicalize().unwrap());
        let shown = page.strip_prefix(&root).unwrap().display().to_string();
        let text = read(&page);
        for line in text_lines(&text) {
            for link in line.split("](").skip(1) {
                let link = link.split(')').next().unwrap();
                let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = match target.strip_prefix(REPOSITORY) {
                    Some(rest) => {
                        let rest =
                            rest.strip_prefix("blob/main/").or_else(|| rest.strip_prefix("tree/main/"));
                        rest.map(|rest| root.join(rest))
                    }
                    None if link.contains("://") || link.starts_with("mailto:") => continue,
                    None if target.is_empty() => Some(page.clone()),
                    None => Some(plain(&page.parent().unwrap().join(target))),
                };
                // Other parts of the repository's site.
                let Some(target) = target else { continue };
                followed += 1;
                if !target.exists() {
                    broken.push(format!("{shown}: {link}: there is no such file"));
                } else if shown.starts_with("docs/")
                    && !target.starts_with(root.join("docs"))
                    && !link.contains("://")
                {
                    // On the book's own site that would lead nowhere.
                    broken.push(format!(
                        "{shown}: {link}: leads out of the book: write {REPOSITORY}blob/main/…"
                    ));
                } else if !anchor.is_empty()
                    && target.extension().is_some_and(|extension| extension == "md")
                    && !anchors(&read(&target)).contains(anchor)
                {
                    broken.push(format!("{shown}: {link}: there is no such title"));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(followed > 80, "{followed}");
}

#[test]
fn the_modules_that_the_architecture_names_are_there() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let mut named = 0;
    for part in text.split('`').skip(1).step_by(2) {
        let mut names = part.split("::");
        let folder = match names.next() {
            Some("msrp_proto") => "msrp-proto/src",
            Some("tcp_transport") => "tcp-transport/src",
            Some("relay") if part.contains("::") => "relay/src",
            _ => continue,
        };
        // A path ends where a type begins, or with a function.
        let modules: Vec<_> =
            names.take_while(|name| name.starts_with(|c: char| c.is_ascii_lowercase())).collect();
        let mut at = root().join(folder);
        for (depth, module) in modules.iter().enumerate() {
            let inner = at.join(module);
            let is_there = inner.is_dir() || inner.with_extension("rs").is_file();
            assert!(is_there || depth + 1 == modules.len() && depth > 0, "ARCHITECTURE.md: `{part}`");
            at = inner;
        }
        named += 1;
    }
    assert!(named > 20, "{named}");
}

/// What a part of a configuration is completed by.
const BASE: [(&str, &str); 3] = [
    ("domain", "domain: relay.example.com\n"),
    (
        "listeners",
        "listeners: [{ uri: 'msrp://127.0.0.1:2855' }, { uri: 'msrps://0.0.0.0:2855', tls_domain: relay }]\n",
    ),
    ("tls", "tls: { server_domains: { relay: { certificate: relay.crt, private_key: relay.key } } }\n"),
];

/// Reads a configuration in a folder where whatever file it names is there.
fn parse(text: &str) -> Result<Config, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut before = String::new();
    loop {
        let error = match Config::parse(text, folder.path(), "block.yaml") {
            Ok(config) => return Ok(config),
            Err(errors) => errors.to_string(),
        };
        let missing = error.split("cannot read ").nth(1).and_then(|rest| rest.split(": ").next());
        match missing {
            Some(path) if error != before && Path::new(path).starts_with(folder.path()) => {
                let content =
                    if path.ends_with(".url") { "sqlite:x.db" } else { "0123456789abcdef0123456789abcdef" };
                fs::write(path, content).unwrap();
            }
            _ => return Err(error),
        }
        before = error;
    }
}

#[test]
fn every_configuration_in_the_documentation_is_read_by_the_relay() {
    let schema: Value = serde_json::from_str(&relay::config::json_schema()).unwrap();
    let sections = schema["properties"].as_object().unwrap();
    let mut read_blocks = 0;
    let mut wrong = Vec::new();
    for page in pages() {
        for (line, block) in blocks(&read(&page), "yaml") {
            let keys: BTreeSet<_> = block
                .lines()
                .filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()))
                .filter_map(|line| line.split_once(':'))
                .map(|(key, _)| key)
                .collect();
            // Another program's file.
            if !keys.iter().any(|key| sections.contains_key(*key)) {
                continue;
            }
            let mut text = block.replace("/var/lib/msrp-relay/", "").replace("/etc/msrp-relay/", "");
            for (key, line) in BASE {
                if !keys.contains(key) {
                    text.push_str(line);
                }
            }
            read_blocks += 1;
            if let Err(error) = parse(&text) {
                wrong.push(format!("{}:{line}: {error}\n{block}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(read_blocks > 12, "{read_blocks}");
}

/// The commands of ours in a page: in its blocks for shells, and quoted within text, there as well without our name.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let blocks = blocks(page, "sh").into_iter().chain(blocks(page, "console"));
    for (_, block) in blocks {
        let lines = block.replace("\\\n", " ");
        for line in lines.lines() {
            for (at, _) in line.match_indices("msrp-relay ") {
                // What is before it: nothing, a prompt, another command, a folder.
                let before = &line[..at];
                let is_command = before.is_empty()
                    || ["$ ", "sudo ", "-u msrp-relay ", "&& ", "-- ", "target/release/"]
                        .iter()
                        .any(|end| before.ends_with(end));
                let ends = [" #", " >", " |", " <", " &&", ";", ")"];
                let end = ends.iter().filter_map(|end| line[at..].find(end)).min().unwrap_or(line.len() - at);
                if is_command {
                    found.push(line[at..at + end].to_owned());
                }
            }
        }
    }
    let mut in_code = false;
    for line in page.lines() {
        in_code ^= line.trim_start().starts_with("```");
        if !in_code {
            let quoted = line.split('`').skip(1).step_by(2);
            found.extend(quoted.clone().filter(|text| text.starts_with("msrp-relay ")).map(str::to_owned));
            found.extend(
                quoted.filter(|text| text.starts_with("ctl ")).map(|text| format!("msrp-relay {text}")),
            );
        }
    }
    found
}

#[test]
fn every_command_in_the_documentation_is_one_there_is() {
    let mut tried = 0;
    let mut wrong = Vec::new();
    for page in pages().iter().filter(|page| !page.ends_with("CHANGELOG.md")) {
        for command in commands(&read(page)) {
            // Where `…` or a bar stands for what one likes.
            let command = command.split(['…', '|', '[']).next().unwrap();
            let words = command.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
            tried += 1;
            // A word that one chooses is often left out in text.
            let left_out = [
                ErrorKind::MissingRequiredArgument,
                ErrorKind::MissingSubcommand,
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                ErrorKind::DisplayHelp,
                ErrorKind::DisplayVersion,
            ];
            if let Err(error) = Cli::command().try_get_matches_from(words)
                && !left_out.contains(&error.kind())
            {
                wrong.push(format!("{}: `{command}`: {error}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(tried > 40, "{tried}");
    let readme = read(&root().join("README.md"));
    for command in ["cargo run --release -p relay -- demo ", "cargo test --workspace "] {
        assert!(readme.lines().any(|line| line.starts_with(command)), "README.md has lost `{command}`");
    }
}

/// All of the program's text, white space as one space.
fn sources() -> String {
    fn collect(folder: &Path, text: &mut String) {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "tests" {
                collect(&path, text);
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let source = read(&path);
                let program = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
                // A string that goes on in the next line.
                text.push_str(&program.replace("\\\n", " "));
            }
        }
    }
    let mut text = String::new();
    for folder in ["relay/src", "tcp-transport/src", "msrp-proto/src"] {
        collect(&root().join(folder), &mut text);
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The level by which a line of the log is written that begins with this literal: the macro before it.
fn level(sources: &str, literal: &str) -> BTreeSet<&'static str> {
    let mut levels = BTreeSet::new();
    for (at, _) in sources.match_indices(literal) {
        let before = &sources[..at];
        let nearest = [("INFO", "info!("), ("WARN", "warn!("), ("ERROR", "error!(")]
            .into_iter()
            .filter_map(|(level, call)| before.rfind(call).map(|at| (at, level)))
            .max();
        if let Some((call, level)) = nearest
            && !before[call..].contains(';')
        {
            levels.insert(level);
        }
    }
    levels
}

/// The texts of all warnings and errors, as they are written: with `{…}`.
fn warnings(sources: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for call in ["warn!(", "error!("] {
        for (at, _) in sources.match_indices(call) {
            let (mut depth, mut text, mut literals) = (1, String::new(), Vec::new());
            let mut quoted = false;
            for c in sources[at + call.len()..].chars() {
                match c {
                    '"' if quoted => literals.push(std::mem::take(&mut text)),
                    '(' if !quoted => depth += 1,
                    ')' if !quoted => depth -= 1,
                    c if quoted => text.push(c),
                    _ => {}
                }
                quoted ^= c == '"';
                if depth == 0 {
                    break;
                }
            }
            // What stands last is the text; what is nothing but a value has its row elsewhere.
            found.extend(literals.pop().filter(|text| !text.starts_with('{')));
        }
    }
    found
}

#[test]
fn every_warning_and_error_is_explained() {
    let page = read(&root().join("docs/troubleshooting.md")).replace("\\`", "`");
    let warnings = warnings(&sources());
    assert!(warnings.len() > 50, "{warnings:?}");
    let missing: Vec<_> = warnings
        .iter()
        .filter(|text| {
            let start = text.split('{').next().unwrap();
            !page.contains(&format!("`{start}"))
        })
        .collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md does not say what these mean: {missing:#?}");
}

#[test]
fn every_log_line_of_the_troubleshooting_tables_is_one_the_relay_writes() {
    const COMMANDS: [&str; 9] =
        ["msrp-relay", "ss ", "sudo ", "systemctl", "openssl ", "ctl ", "journalctl", "FILE:", "uri: "];
    let sources = sources();
    let page = read(&root().join("docs/troubleshooting.md"));
    let (mut lines, mut phrases) = (0, 0);
    let mut wrong = Vec::new();
    for row in page.lines().filter(|row| row.starts_with("| ")) {
        let row = row.replace("\\`", "\u{1}");
        let mut before = "";
        for (at, part) in row.split('`').enumerate() {
            if at % 2 == 0 {
                before = part;
                continue;
            }
            let quoted = part.replace('\u{1}', "`");
            let wanted =
                ["INFO", "WARN", "ERROR"].into_iter().find(|level| before.trim_end().ends_with(level));
            if let Some(wanted) = wanted {
                lines += 1;
                let literal = match quoted.split_once('…') {
                    Some((start, _)) => format!("\"{start}{{"),
                    None => format!("\"{quoted}\""),
                };
                let levels = level(&sources, &literal);
                if !levels.contains(wanted) {
                    wrong.push(format!("{wanted} `{quoted}`: found as {levels:?}"));
                }
            } else if quoted.contains(' ') && !COMMANDS.iter().any(|command| quoted.starts_with(command)) {
                phrases += 1;
                let mut parts = quoted.split('…').map(str::trim).filter(|part| part.len() > 2);
                if !parts.all(|part| sources.contains(part)) {
                    wrong.push(format!("`{quoted}` stands in no source"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(lines > 50 && phrases > 20, "{lines} {phrases}");
}
