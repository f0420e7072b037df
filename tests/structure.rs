//! The rules of the house, read off the source: imports go one way, and `unsafe` lives in one module.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// What each module must not import of the crate. The order is that of `src/lib.rs`, from the top to the bottom.
const MODULES: [&str; 13] = [
    "cli",
    "relay",
    "config",
    "web",
    "receive",
    "target",
    "dead_letter",
    "savepoint",
    "metrics",
    "relabel",
    "protocol",
    "wal",
    "clock",
];

/// The modules that import nothing of the crate.
const GROUND: [&str; 5] = ["metrics", "relabel", "protocol", "wal", "clock"];

fn sources(module: &str) -> Vec<(PathBuf, String)> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = vec![source.join(format!("{module}.rs"))];
    let mut directories = vec![source.join(module)];
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    files.retain(|file| file.is_file());
    assert!(!files.is_empty(), "module {module} has no file");
    files.into_iter().map(|file| (file.clone(), fs::read_to_string(file).unwrap())).collect()
}

/// The modules of the crate that a file names, tests left out.
fn imports(text: &str) -> Vec<&'static str> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let grouped = text.split("use crate::{").skip(1).filter_map(|rest| rest.split('}').next());
    let in_groups = |module: &&str| grouped.clone().any(|group| group.split(',').any(|part| part.trim() == *module));
    MODULES.into_iter().filter(|module| text.contains(&format!("crate::{module}")) || in_groups(module)).collect()
}

#[test]
fn imports_go_from_the_top_to_the_bottom() {
    for (place, module) in MODULES.iter().enumerate() {
        for (file, text) in sources(module) {
            for imported in imports(&text).into_iter().filter(|imported| imported != module) {
                let below = MODULES.iter().position(|other| *other == imported).unwrap() > place;
                assert!(below, "{} imports {imported}", file.display());
                assert!(!GROUND.contains(module), "{} imports {imported}, and should import nothing", file.display());
            }
        }
    }
}

#[test]
fn receive_and_target_meet_in_the_log_only() {
    for (module, other) in [("receive", "target"), ("target", "receive")] {
        for (file, text) in sources(module) {
            assert!(!imports(&text).contains(&other), "{} imports {other}", file.display());
        }
    }
}

#[test]
fn unsafe_code_is_in_the_segment_only_and_each_piece_of_it_is_explained() {
    for module in MODULES {
        for (file, text) in sources(module) {
            let blocks = text.matches("unsafe {").count();
            let is_segment = file.ends_with("wal/segment.rs");
            assert!(is_segment || blocks == 0, "{} has unsafe code", file.display());
            assert_eq!(text.matches("// SAFETY:").count(), blocks, "{}", file.display());
        }
    }
}

/// The tests that a document names: `` `file: name_of_the_test` ``.
fn named_tests(document: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join(document)).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let named = quoted.filter_map(|quoted| quoted.split_once(": ")).filter(|(_, name)| name.matches('_').count() > 2);
    named.map(|(file, name)| (file.to_owned(), name.to_owned())).collect()
}

#[test]
fn every_line_of_the_table_of_crashes_has_a_test_that_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = named_tests("docs/log-format.md");
    assert!(named.len() > 15, "{named:?}");
    for (file, name) in named {
        let places = [format!("tests/{file}.rs"), format!("tests/{file}/main.rs"), format!("src/{file}.rs")];
        let text = places.iter().find_map(|place| fs::read_to_string(root.join(place)).ok());
        let text = text.unwrap_or_else(|| panic!("no file for {file}: {name}"));
        assert!(text.contains(&format!("fn {name}()")), "{file} has no test {name}");
    }
    let table = fs::read_to_string(root.join("docs/log-format.md")).unwrap();
    let table = table.split("| what happens | `sync` |").nth(1).unwrap();
    for line in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        assert!(line.contains(": "), "a line without a test: {line}");
    }
}
