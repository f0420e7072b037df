//! Rules with any expression and any templates, on any labels.
//!
//! Nothing panics; what is read as an expression of Go the engine takes too; labels come out sorted, each name once, none of them empty;
//! what is remembered, in however little memory, and what is explained is what the rules say.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use promrelay::relabel::pattern::{Pattern, PatternError};
use promrelay::relabel::{Action, Label, Outcome, RelabelConfig, Relabeler, Rules, Verdict};
use promrelay_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let [action, bytes, modulus] = input.take();
    let text = String::from_utf8_lossy(input.rest());
    // Expression, replacement, target, separator, then labels. A line feed may be in a value, so it separates nothing.
    let mut fields = text.split('\u{1}');
    let mut field = || fields.next().unwrap_or_default().to_owned();
    let (regex, replacement, target_label, separator) = (field(), field(), field(), field());
    let mut labels: BTreeMap<&str, &str> = fields.filter_map(|label| label.split_once('=')).collect();
    labels.retain(|name, value| !name.is_empty() && !value.is_empty());

    if let Err(PatternError::Engine(error)) = Pattern::new(&regex) {
        panic!("{regex:?} was read, and then: {error}");
    }
    let action = Action::ALL[usize::from(action) % Action::ALL.len()];
    let config = |action| RelabelConfig {
        source_labels: Some(labels.keys().take(3).map(|name| (*name).to_owned()).collect()),
        separator: Some(separator.clone()),
        regex: Some(regex.clone()),
        modulus: Some(u64::from(modulus)),
        target_label: Some(target_label.clone()),
        replacement: Some(replacement.clone()),
        action,
    };
    // Each action as it is given, and with what it has no use for left out.
    let bare = |action| RelabelConfig {
        regex: (action == Action::LabelDrop || action == Action::LabelKeep).then(|| regex.clone()),
        target_label: (action != Action::LabelDrop && action != Action::LabelKeep).then(|| target_label.clone()),
        action,
        ..RelabelConfig::default()
    };
    let configs = [config(Action::Replace), config(action), bare(action), config(Action::LabelMap)];
    let external_labels = BTreeMap::from([("external".to_owned(), separator.clone())]);
    let is_usable = |config: &RelabelConfig| Rules::new(&BTreeMap::new(), std::slice::from_ref(config)).is_ok();
    let configs: Vec<RelabelConfig> = configs.into_iter().filter(is_usable).collect();
    let Ok(rules) = Rules::new(&external_labels, &configs) else { panic!("each can be used alone: {configs:?}") };

    let series: Vec<Label<'_>> = labels.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let outcome = rules.apply(&series);
    let mut merged = Vec::new();
    match &outcome {
        Outcome::Dropped => {}
        Outcome::Unchanged => merged.extend_from_slice(&series),
        Outcome::Changed(change) => change.merge_into(&series, &mut merged),
    }
    assert!(merged.is_sorted_by(|one, next| one.0 < next.0));
    assert!(merged.iter().all(|(name, value)| !name.is_empty() && !value.is_empty()));
    assert!(merged.iter().all(|(name, value)| std::str::from_utf8(name).is_ok() && std::str::from_utf8(value).is_ok()));
    assert_eq!(outcome == Outcome::Dropped, !merged.iter().any(|(name, _)| name == b"__name__"));

    let pairs: Vec<(&str, &str)> = labels.into_iter().collect();
    let explained = rules.explain(&pairs).labels.unwrap_or_default();
    assert!(explained.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).eq(merged.iter().copied()));

    let bytes = usize::from(bytes) * 64;
    let mut relabeler = Relabeler::new(rules.clone(), bytes);
    // All labels, all but the last, and so on: different series, and each again.
    for len in (0..=series.len()).rev().chain(0..=series.len()) {
        let series = &series[..len];
        let key = relabeler.key_of(series);
        match (relabeler.relabel(key, || series), rules.apply(series)) {
            (Verdict::Dropped, Outcome::Dropped) | (Verdict::Unchanged, Outcome::Unchanged) => {}
            (Verdict::Changed(remembered), Outcome::Changed(change)) => assert_eq!(*remembered, change),
            (remembered, outcome) => panic!("{remembered:?} instead of {outcome:?}"),
        }
        assert!(relabeler.cache_bytes() <= bytes);
    }
});
