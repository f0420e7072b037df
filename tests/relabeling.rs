//! Rules against a table of what they must make of series, and against themselves: remembered, merged, explained.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

#[path = "support/relabeling.rs"]
mod table;

use std::collections::{BTreeMap, HashSet};

use promrelay::relabel::explain::{By, Effect, Why};
use promrelay::relabel::{Action, Label, Outcome, RelabelConfig, Relabeler, Rules, Verdict};
use proptest::prelude::*;
use table::{CASES, EXPRESSIONS, GROUPS, REFUSED, REFUSED_EXPRESSIONS, SUPERFLUOUS, config, labels};

type Labels = Vec<(String, String)>;

fn borrowed(labels: &Labels) -> Vec<Label<'_>> {
    labels.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
}

fn owned(labels: &[Label<'_>]) -> Labels {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    labels.iter().map(|(name, value)| (text(name), text(value))).collect()
}

/// What becomes of a series; no labels if it is dropped.
fn applied(rules: &Rules, series: &Labels) -> Labels {
    let series = borrowed(series);
    match rules.apply(&series) {
        Outcome::Dropped => Vec::new(),
        Outcome::Unchanged => owned(&series),
        Outcome::Changed(change) => {
            let mut merged = Vec::new();
            change.merge_into(&series, &mut merged);
            owned(&merged)
        }
    }
}

/// The same, through a cache.
fn relabeled(relabeler: &mut Relabeler, series: &Labels) -> Labels {
    let series = borrowed(series);
    let key = relabeler.key_of(&series);
    match relabeler.relabel(key, || &series) {
        Verdict::Dropped => Vec::new(),
        Verdict::Unchanged => owned(&series),
        Verdict::Changed(change) => {
            let mut merged = Vec::new();
            change.merge_into(&series, &mut merged);
            owned(&merged)
        }
    }
}

fn rules(configs: &[&str]) -> Rules {
    let configs: Vec<_> = configs.iter().map(|text| config(text).unwrap()).collect();
    Rules::new(&BTreeMap::new(), &configs).unwrap()
}

#[test]
fn every_action_does_what_prometheus_does() {
    // But for series that are left without a name: V1-20, V2-73.
    for case in CASES {
        let rules = Rules::new(&case.external_labels(), &case.configs()).unwrap();
        let mut relabeler = Relabeler::new(rules.clone(), 1 << 16);
        for (before, after) in case.series {
            let (before, after) = (labels(before), labels(after));
            assert_eq!(applied(&rules, &before), after, "{}: {before:?}", case.name);
            for _ in 0..2 {
                assert_eq!(relabeled(&mut relabeler, &before), after, "{}: {before:?}, remembered", case.name);
            }
            let pairs: Vec<_> = before.iter().rev().map(|(name, value)| (&**name, &**value)).collect();
            let explained = rules.explain(&pairs).labels.unwrap_or_default();
            assert_eq!(explained, after, "{}: {before:?}, explained", case.name);
        }
    }
}

#[test]
fn every_action_is_in_the_table() {
    let configs: Vec<RelabelConfig> = CASES.iter().flat_map(|case| case.configs()).collect();
    for action in Action::ALL {
        assert!(configs.iter().any(|config| config.action == action), "{action}");
    }
}

#[test]
fn expressions_match_what_they_match_in_go() {
    for (expression, matching, others) in EXPRESSIONS {
        let config = RelabelConfig {
            source_labels: Some(vec!["text".into()]),
            regex: Some(expression.to_string()),
            action: Action::Keep,
            ..RelabelConfig::default()
        };
        let rules = Rules::new(&BTreeMap::new(), &[config]).unwrap_or_else(|error| panic!("{error}"));
        let is_kept = |text: &str| {
            let labels: [Label<'_>; 2] = [(b"__name__", b"up"), (b"text", text.as_bytes())];
            rules.apply(&labels[..if text.is_empty() { 1 } else { 2 }]) == Outcome::Unchanged
        };
        for text in *matching {
            assert!(is_kept(text), "{expression} does not match {text:?}");
        }
        for text in *others {
            assert!(!is_kept(text), "{expression} matches {text:?}");
        }
    }
}

#[test]
fn groups_are_those_of_go() {
    for (expression, text, expected) in GROUPS {
        let config = RelabelConfig {
            source_labels: Some(vec!["text".into()]),
            regex: Some(expression.to_string()),
            target_label: Some("groups".into()),
            replacement: Some("$1,$2".into()),
            ..RelabelConfig::default()
        };
        let rules = Rules::new(&BTreeMap::new(), &[config]).unwrap();
        let series = labels(&format!("up|text={text}"));
        assert_eq!(applied(&rules, &series), labels(&format!("up|text={text}|groups={expected}")), "{expression}");
    }
}

#[test]
fn an_expression_that_go_refuses_is_refused_with_a_reason() {
    let mut messages = HashSet::new();
    for expression in REFUSED_EXPRESSIONS {
        let config =
            RelabelConfig { regex: Some(expression.to_string()), action: Action::LabelDrop, ..Default::default() };
        let error = Rules::new(&BTreeMap::new(), &[config]).err().unwrap_or_else(|| panic!("{expression} was taken"));
        let message = error.to_string();
        assert!(message.starts_with("write_relabel_configs[0].regex = "), "{message}");
        assert!(!message.contains("engine"), "refused by the wrong one: {message}");
        messages.insert(message);
    }
    assert!(messages.len() > 50);
}

#[test]
fn an_expression_that_is_too_large_or_too_deep_is_refused() {
    let refused = |expression: String| {
        let config = RelabelConfig { regex: Some(expression), action: Action::LabelDrop, ..Default::default() };
        Rules::new(&BTreeMap::new(), &[config]).err().map(|error| error.problem.to_string())
    };
    assert_eq!(refused(r"\pL{1000}".into()), Some("compiled it is larger than 10485760 bytes".into()));
    let nested = |depth| "(".repeat(depth) + "a" + &")".repeat(depth);
    assert_eq!(refused(nested(190)), None);
    assert_eq!(refused(nested(250)), Some("groups and repetitions are nested deeper than 200".into()));
    assert_eq!(refused(nested(1_000_000)), Some("groups and repetitions are nested deeper than 200".into()));
    let repeated = |depth| "(?:".repeat(depth) + "a" + &")*".repeat(depth);
    assert_eq!(refused(repeated(95)), None);
    assert!(refused(repeated(250)).is_some());
}

#[test]
fn a_rule_that_prometheus_refuses_is_refused_by_place_key_and_reason() {
    for (key, text) in REFUSED {
        let configs = [config("target_label = 'fine'").unwrap(), config(text).unwrap()];
        let error = Rules::new(&BTreeMap::new(), &configs).err().unwrap_or_else(|| panic!("{text} was taken"));
        let message = error.to_string();
        assert!(message.starts_with(&format!("write_relabel_configs[1].{key}")), "{text}: {message}");
    }
    for text in SUPERFLUOUS {
        Rules::new(&BTreeMap::new(), &[config(text).unwrap()]).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    let message = |text| Rules::new(&BTreeMap::new(), &[config(text).unwrap()]).unwrap_err().to_string();
    assert_eq!(
        message("regex = 'a**', action = 'labeldrop'"),
        r#"write_relabel_configs[0].regex = "a**": `**` repeats a repetition"#
    );
    assert_eq!(
        message("regex = 'a', separator = ',', action = 'labelkeep'"),
        r#"write_relabel_configs[0].separator = ",": the action labelkeep has no use for it"#
    );
    let nameless = BTreeMap::from([(String::new(), "a".to_owned())]);
    let error = Rules::new(&nameless, &[]).unwrap_err();
    assert_eq!(error.to_string(), r#"external_labels."" = "a": a label's name is not empty"#);
}

#[test]
fn an_unknown_key_or_action_is_an_error() {
    let message = |text| config(text).unwrap_err().message().to_owned();
    assert!(message("regexp = 'a'").contains("unknown field `regexp`"));
    assert!(message("action = 'labelmop'").contains("unknown action \"labelmop\", expected one of replace, keep, "));
    assert!(message("modulus = -1").contains("invalid value"));
    assert_eq!(config("action = 'LabelMap'").unwrap().action, Action::LabelMap);
}

#[test]
fn without_rules_there_is_nothing_to_do() {
    assert!(Rules::default().is_empty());
    assert!(!rules(&["action = 'keep'"]).is_empty());
    let external_labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    assert!(!Rules::new(&external_labels, &[]).unwrap().is_empty());
}

#[test]
fn labels_that_grow_without_end_drop_their_series() {
    let double = "source_labels = ['a', 'a'], separator = '', target_label = 'a', action = 'lowercase'";
    let rules = rules(&[double; 64]);
    assert_eq!(rules.apply(&borrowed(&labels("up|a=1"))), Outcome::Dropped);
    let explanation = rules.explain(&[("__name__", "up"), ("a", "1")]);
    assert_eq!(explanation.steps.last().unwrap().effect, Effect::Dropped(Why::TooLarge));
    assert_eq!(applied(&rules, &labels("up|b=1")), labels("up|b=1"));
}

#[test]
fn an_explanation_says_what_each_rule_did() {
    let configs = [
        "source_labels = ['job'], target_label = 'job', regex = '(.*)-old'",
        "regex = 'tmp', action = 'labeldrop'",
        "source_labels = ['job'], regex = 'api', action = 'keep'",
        "regex = '__name__', action = 'labeldrop'",
    ]
    .map(|text| config(text).unwrap());
    let rules = Rules::new(&BTreeMap::from([("cluster".to_owned(), "eu".to_owned())]), &configs).unwrap();
    let lines = |series: &str| {
        let series = labels(series);
        let pairs: Vec<_> = series.iter().map(|(name, value)| (&**name, &**value)).collect();
        let explanation = rules.explain(&pairs);
        assert_eq!(explanation.labels, None);
        (explanation.steps.last().unwrap().by, explanation.steps.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let (by, kept) = lines("up|job=api-old|tmp=1");
    assert_eq!(by, By::End);
    assert_eq!(
        kept,
        [
            r#"external_labels: cluster: written, "eu""#,
            r#"write_relabel_configs[0] (replace): job: "api-old" -> "api""#,
            r#"write_relabel_configs[1] (labeldrop): tmp: removed, was "1""#,
            "write_relabel_configs[2] (keep): unchanged",
            r#"write_relabel_configs[3] (labeldrop): __name__: removed, was "up""#,
            "end: dropped: no __name__ is left",
        ]
    );
    let (by, dropped) = lines("up|job=web|cluster=us");
    assert_eq!(by, By::Config { index: 2, action: Action::Keep });
    assert_eq!(dropped[0], "external_labels: unchanged");
    assert_eq!(dropped.last().unwrap(), "write_relabel_configs[2] (keep): dropped");
}

fn series(number: usize) -> Labels {
    labels(&format!("metric_{}|instance=host-{}:9100|job=node", number % 100, number / 100))
}

/// Runs series through a cache, several times; how often the rules were run in the last one.
fn misses_of_the_last_round(relabeler: &mut Relabeler, count: usize, rounds: usize) -> u64 {
    let mut before = 0;
    for _ in 0..rounds {
        before = relabeler.misses();
        for number in 0..count {
            let series = series(number);
            let series = borrowed(&series);
            let key = relabeler.key_of(&series);
            let _ = relabeler.relabel(key, || &series);
        }
    }
    relabeler.misses() - before
}

#[test]
fn steady_traffic_that_fits_runs_no_expression_twice() {
    let external_labels = BTreeMap::from([("cluster".to_owned(), "eu-1".to_owned())]);
    let bytes = 8 << 20;
    let mut relabeler = Relabeler::new(Rules::new(&external_labels, &[]).unwrap(), bytes);
    assert_eq!(misses_of_the_last_round(&mut relabeler, 100_000, 2), 0);
    assert!(relabeler.cache_bytes() <= bytes);
    // All with one and the same change.
    let each = relabeler.cache_bytes() as f64 / 100_000.0;
    assert!(each < 48.0, "{each} bytes for each series");
    // Others come, and those from before come back.
    assert_eq!(misses_of_the_last_round(&mut relabeler, 110_000, 3), 0);
}

#[test]
fn the_memory_is_bounded_by_what_series_and_changes_take() {
    let own_change = "source_labels = ['instance', '__name__'], target_label = 'copy'";
    for (configs, bytes) in [
        (vec![own_change], 1 << 18),
        (vec!["source_labels = ['__name__'], regex = 'metric_1.*', target_label = 'x', replacement = 'y'"], 1 << 17),
        (vec!["source_labels = ['__name__'], regex = 'metric_1.*', target_label = 'x', replacement = '$0'"], 30_000),
        (vec![own_change], 1 << 14),
        (vec![own_change], 4000),
        (vec![own_change], 0),
    ] {
        let rules = rules(&configs);
        let mut relabeler = Relabeler::new(rules.clone(), bytes);
        for number in (0..3_000).chain(0..3_000) {
            let series = series(number * 7 % 3_000);
            assert_eq!(relabeled(&mut relabeler, &series), applied(&rules, &series));
            assert!(relabeler.cache_bytes() <= bytes, "{} of {bytes}", relabeler.cache_bytes());
        }
    }
}

#[test]
fn a_change_comes_into_a_memory_full_of_series_that_stay_as_they_are() {
    let rules = rules(&["source_labels = ['change'], regex = 'yes', target_label = 'x', replacement = 'y'"]);
    let mut relabeler = Relabeler::new(rules, 1 << 18);
    misses_of_the_last_round(&mut relabeler, 20_000, 2);
    let changed = labels("up|change=yes");
    let before = relabeler.misses();
    for _ in 0..10 {
        assert_eq!(relabeled(&mut relabeler, &changed), labels("up|change=yes|x=y"));
    }
    assert_eq!(relabeler.misses() - before, 1);
}

#[test]
fn a_key_of_the_caller_is_as_good_and_labels_are_asked_for_once() {
    let mut relabeler = Relabeler::new(rules(&["target_label = 'x', replacement = 'y'"]), 1 << 16);
    let series = labels("up|a=1");
    let key = relabeler.key_of_encoded(b"as it was encoded");
    assert_eq!(key, relabeler.key_of_encoded(b"as it was encoded"));
    assert_ne!(key, relabeler.key_of_encoded(b"as it was encoded."));
    assert!(matches!(relabeler.relabel(key, || borrowed(&series)), Verdict::Changed(_)));
    let verdict = relabeler.relabel(key, || -> Vec<Label<'_>> { panic!("they are known") });
    assert!(matches!(verdict, Verdict::Changed(_)));
}

#[test]
fn keys_keep_names_and_values_apart() {
    let mut relabeler = Relabeler::new(Rules::default(), 0);
    let keys = ["a|b=c", "ab|c=", "a|bc=", "a|b=c|d=", "a", "b"].map(|series| {
        let series = labels(series);
        relabeler.key_of(&borrowed(&series))
    });
    for (number, key) in keys.iter().enumerate() {
        assert!(!keys[number + 1..].contains(key));
    }
}

#[test]
fn bytes_that_are_no_text_do_not_pass_rules_that_cannot_read_them() {
    let rules = rules(&["source_labels = ['__name__'], regex = 'secret', action = 'drop'"]);
    assert_eq!(rules.apply(&[(b"__name__", b"up")]), Outcome::Unchanged);
    assert_eq!(rules.apply(&[(b"__name__", b"\xff")]), Outcome::Dropped);
}

fn some_labels() -> impl Strategy<Value = Labels> {
    let value = prop_oneof!["[ab;]{1,3}", "[a-cA-C0-2é\u{212a}_-]{1,8}", any::<String>()];
    let name = prop_oneof!["[ab]", "[a-c_]{1,3}", any::<String>()];
    (proptest::collection::btree_map(name, value, 0..6), "[a-c]{0,2}").prop_map(|(mut labels, metric)| {
        labels.insert("__name__".into(), metric);
        labels.into_iter().filter(|(name, value)| !name.is_empty() && !value.is_empty()).collect()
    })
}

fn some_config() -> impl Strategy<Value = RelabelConfig> {
    let names = || prop_oneof!["[abc]", Just("__name__".to_owned()), any::<String>()];
    let expressions = prop_oneof![
        Just("(.*)".to_owned()),
        Just("(a*)(b|c)?(.*)".to_owned()),
        Just("a)|(b".to_owned()),
        "[abc.*+?()|]{0,8}",
        "[\\PC]{0,6}"
    ];
    let templates = prop_oneof!["[a-c$12{}]{0,6}", any::<String>()];
    (
        proptest::option::of(proptest::collection::vec(names(), 0..3)),
        proptest::option::of("[;,]{0,2}"),
        proptest::option::of(expressions),
        proptest::option::of(0..4u64),
        proptest::option::of(prop_oneof![names(), "[a-c$12{}]{1,4}"]),
        proptest::option::of(templates),
        proptest::sample::select(Action::ALL.to_vec()),
    )
        .prop_map(|(source_labels, separator, regex, modulus, target_label, replacement, action)| RelabelConfig {
            source_labels,
            separator,
            regex,
            modulus,
            target_label,
            replacement,
            action,
        })
}

/// Rules that can be used; those of the given that cannot are left out.
fn usable(external_labels: &BTreeMap<String, String>, configs: Vec<RelabelConfig>) -> Rules {
    let is_usable = |config: &RelabelConfig| Rules::new(&BTreeMap::new(), std::slice::from_ref(config)).is_ok();
    let configs: Vec<_> = configs.into_iter().filter(is_usable).collect();
    Rules::new(external_labels, &configs).unwrap()
}

proptest! {
    #[test]
    fn what_is_remembered_merged_and_explained_is_what_the_rules_say(
        configs in proptest::collection::vec(some_config(), 0..6),
        external_labels in proptest::collection::btree_map("[a-c]", "[ab]{0,2}", 0..2),
        series in proptest::collection::vec(some_labels(), 1..8),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 0..60),
        bytes in prop_oneof![0..10_000usize, Just(1 << 20)],
    ) {
        let rules = usable(&external_labels, configs);
        let mut relabeler = Relabeler::new(rules.clone(), bytes);
        for number in order {
            let series = number.get(&series);
            let result = applied(&rules, series);
            prop_assert!(result.is_sorted_by(|one, next| one.0 < next.0), "sorted, each name once: {result:?}");
            prop_assert!(result.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()));
            prop_assert!(result.is_empty() || result.iter().any(|(name, _)| name == "__name__"));
            prop_assert_eq!(&relabeled(&mut relabeler, series), &result);
            prop_assert!(relabeler.cache_bytes() <= bytes);
            let pairs: Vec<_> = series.iter().map(|(name, value)| (&**name, &**value)).collect();
            prop_assert_eq!(rules.explain(&pairs).labels.unwrap_or_default(), result);
        }
    }
}
