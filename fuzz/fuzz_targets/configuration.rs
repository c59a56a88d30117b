//! The configuration file, from text to settings: whatever stands in it, it is taken or refused with a place in the
//! text, and neither takes long. Memory is bounded by libFuzzer's own limit, time by `-timeout`.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use relay::config::Config;

fuzz_target!(|text: &str| {
    // No file is there that it could name, but for absolute paths.
    match Config::parse(text, Path::new("/nonexistent"), "relay.yaml") {
        // Settings are shown to operators, and compared at a reload.
        Ok(config) => {
            let again =
                Config::parse(text, Path::new("/nonexistent"), "relay.yaml").expect("it was taken before");
            assert!(config.source.changes(&again.source).is_empty());
        }
        Err(errors) => {
            assert!(!errors.errors().is_empty());
            // What ends a line in YAML, in version 1.1 too; the end of the text stands on a line after the last.
            let breaks = text
                .chars()
                .filter(|c| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}'))
                .count();
            for error in errors.errors() {
                let shown = error.to_string();
                assert!(shown.starts_with("relay.yaml"), "{shown}");
                if let Some(position) = error.position {
                    assert!((1..=breaks + 2).contains(&position.line), "{shown}");
                }
            }
        }
    }
});
