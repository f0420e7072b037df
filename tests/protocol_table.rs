//! The table in `docs/protocol.md` is true: each statement of the two specifications is there once for each half that it concerns, and where
//! it is said to be obeyed, that code and that test are there and cite it.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What each statement concerns, from V1-01 on: the receiving half, the sending one, or both.
const ONE: &str =
    "RS S R RS RS RS S RS S S RS RS R S RS S R S S RS RS RS RS RS RS R R S R R R S S S S S S S R R R S RS S S S R RS";
/// From V2-01 on.
const TWO: &str = "RS RS RS RS RS RS S R S S RS S R RS S S RS S R R S S S R R S R R R S R RS S S S S S S S R R R S R R S R S R R R S S R R RS R S S \
                   RS RS RS RS RS S R S S RS RS R S RS RS RS RS RS S S R S S S R R S S RS S S S S R";

/// What a statement can be, and whether that has code and a test.
const KINDS: [(&str, bool); 5] =
    [("obeyed", true), ("differs", true), ("not asked for", true), ("not used", false), ("not ours", false)];

fn statements() -> BTreeSet<(String, char)> {
    let of = |version: u32, halves: &'static str| {
        let numbered = halves.split_whitespace().zip(1..);
        numbered
            .flat_map(move |(halves, number)| halves.chars().map(move |half| (format!("V{version}-{number:02}"), half)))
    };
    of(1, ONE).chain(of(2, TWO)).collect()
}

/// Everything under a directory of the package, by its path in the package.
fn sources(directory: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = BTreeMap::new();
    let mut directories: Vec<PathBuf> = vec![root.join(directory)];
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                sources.insert(name, fs::read_to_string(&path).unwrap());
            }
        }
    }
    sources
}

/// The package's own sources, and its tests.
#[derive(Clone)]
struct Package {
    files: BTreeMap<String, String>,
    /// Modules that are there for tests only, as the beginnings of their files' paths.
    test_modules: Vec<String>,
}

impl Package {
    fn read() -> Package {
        let mut files = sources("src");
        let test_modules = test_modules(&files);
        files.extend(sources("tests"));
        Package { files, test_modules }
    }

    /// A file's text without its tests; `None` if it is all test, or not there.
    fn code(&self, file: &str) -> Option<&str> {
        let is_test = self.test_modules.iter().any(|module| file.starts_with(module.as_str()));
        let text = self.files.get(file).filter(|_| !is_test)?;
        text.split("#[cfg(test)]\nmod tests {").next()
    }

    /// A test with what stands above it, up to its last line.
    fn test(&self, file: &str, name: &str) -> Option<&str> {
        let places = [format!("tests/{file}.rs"), format!("tests/{file}/main.rs"), format!("src/{file}.rs")];
        let mut texts = places.iter().filter_map(|place| self.files.get(place));
        texts.find_map(|text| {
            let at = text.find(&format!("fn {name}("))?;
            let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
            let indent = text[line..].len() - text[line..].trim_start().len();
            let start = text[..at].rfind("\n\n").unwrap_or(0);
            let end = at + text[at..].find(&format!("\n{}}}\n", &text[line..line + indent]))?;
            let above = &text[start..at];
            (above.contains("#[test]") || above.contains("#[tokio::test")).then(|| &text[start..end])
        })
    }
}

fn table() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md")).unwrap()
}

/// Modules that are there for tests only, as the beginnings of their files' paths.
fn test_modules(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut modules = Vec::new();
    for (file, text) in files {
        let directory = match file.strip_suffix("/mod.rs").or(file.strip_suffix("/lib.rs")) {
            Some(directory) => directory,
            None => file.strip_suffix(".rs").unwrap(),
        };
        for declared in text.split("#[cfg(test)]\n").skip(1) {
            let line = declared.lines().next().unwrap_or_default().trim_start_matches("pub ").trim();
            if let Some(name) = line.strip_prefix("mod ").and_then(|line| line.strip_suffix(';')) {
                modules.extend([format!("{directory}/{name}.rs"), format!("{directory}/{name}/")]);
            }
        }
    }
    modules
}

/// What is between the ticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// What is wrong with a table.
fn faults(table: &str, package: &Package) -> Vec<String> {
    let mut faults = Vec::new();
    let mut missing = statements();
    for line in table.lines().filter(|line| line.starts_with("| V")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let &[id, half, demand, here, code_cell, test_cell] = &cells[..] else {
            faults.push(format!("not six cells: {line}"));
            continue;
        };
        let mut fault = |what: String| faults.push(format!("{id} {half}: {what}"));
        if !missing.remove(&(id.to_owned(), half.chars().next().unwrap_or(' '))) {
            fault("there already, or no statement of this half".into());
        }
        if demand.is_empty() {
            fault("nothing that it demands".into());
        }
        let (kind, why) = here.split_once(": ").unwrap_or((here, ""));
        let Some((_, is_shown)) = KINDS.into_iter().find(|(known, _)| *known == kind) else {
            fault(format!("{kind:?} is no kind"));
            continue;
        };
        if kind != "obeyed" && why.is_empty() {
            fault("does not say why".into());
        }
        let (files, tests) = (quoted(code_cell), quoted(test_cell));
        if files.is_empty() == is_shown || tests.is_empty() == is_shown {
            fault(format!("{} code and {} tests for what is {kind}", files.len(), tests.len()));
        }
        for file in files {
            match package.code(&format!("src/{file}")) {
                Some(text) if text.contains(id) => {}
                Some(_) => fault(format!("src/{file} does not cite it outside of its tests")),
                None => fault(format!("no code in src/{file}")),
            }
        }
        for named in tests {
            match named.split_once(": ").and_then(|(file, name)| package.test(file, name)) {
                Some(text) if text.contains(id) => {}
                Some(_) => fault(format!("the test does not cite it: {named}")),
                None => fault(format!("no such test: {named}")),
            }
        }
    }
    faults.extend(missing.into_iter().map(|(id, half)| format!("{id} {half}: not in the table")));
    faults
}

#[test]
fn each_statement_of_the_specifications_is_in_the_table_with_code_and_a_test_that_cite_it() {
    let faults = faults(&table(), &Package::read());
    assert!(faults.is_empty(), "docs/protocol.md:\n{}", faults.join("\n"));
}

#[test]
fn nothing_cites_a_statement_that_there_is_not() {
    let known: BTreeSet<String> = statements().into_iter().map(|(id, _)| id).collect();
    for (file, text) in Package::read().files.iter().filter(|(file, _)| *file != "tests/protocol_table.rs") {
        for version in ["V1-", "V2-"] {
            for (at, _) in text.match_indices(version) {
                let number = text[at + version.len()..].chars().take_while(char::is_ascii_digit).collect::<String>();
                assert!(
                    number.is_empty() || known.contains(&format!("{version}{number}")),
                    "{file}: {version}{number}"
                );
            }
        }
    }
}

#[test]
fn a_table_that_is_not_true_is_noticed() {
    let (table, package) = (table(), Package::read());
    let row = table.lines().find(|line| line.starts_with("| V2-53 | S |")).unwrap();
    let faults_with = |other: &str| faults(&table.replace(&format!("{row}\n"), other), &package).join("\n");
    for (other, expected) in [
        (String::new(), "V2-53 S: not in the table"),
        (format!("{row}\n{row}\n"), "V2-53 S: there already"),
        (format!("{row}\n").replace("| S |", "| R |"), "V2-53 R: there already, or no statement of this half"),
        (format!("{row}\n").replace("target/backoff.rs", "target/nowhere.rs"), "no code in src/target/nowhere.rs"),
        (format!("{row}\n").replace("target/backoff.rs", "protocol/tests.rs"), "no code in src/protocol/tests.rs"),
        (format!("{row}\n").replace("target/backoff.rs", "wal/mod.rs"), "src/wal/mod.rs does not cite it"),
        (format!("{row}\n").replace("_as_a_date_", "_as_a_rule_"), "no such test: outcomes: retry_after_as_a_rule_"),
        (
            format!("{row}\n").replace("retry_after_as_a_date_is_obeyed", "any_2xx_delivers"),
            "the test does not cite it",
        ),
        (format!("{row}\n").replace("obeyed: ", "not used: "), "1 code and 2 tests for what is not used"),
        ("| V2-53 | S | more | obeyed |  |  |\n".into(), "0 code and 0 tests for what is obeyed"),
        ("| V2-53 | S | more | not used |  |  |\n".into(), "does not say why"),
        ("| V2-53 | S | more | perhaps |  |  |\n".into(), "\"perhaps\" is no kind"),
    ] {
        let found = faults_with(&other);
        assert!(found.contains(expected), "{expected:?} is not in {found:?}");
    }
    // Where the citation itself is gone.
    let mut without = package.clone();
    let backoff = without.files.get_mut("src/target/backoff.rs").unwrap();
    *backoff = backoff.replace("V2-53", "");
    assert_eq!(faults(&table, &without), ["V2-53 S: src/target/backoff.rs does not cite it outside of its tests"]);
}
