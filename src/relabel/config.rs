//! One entry of `write_relabel_configs` as it is written, with Prometheus' keys and defaults. Nothing is checked here but the kind of a
//! value and the name of the action; an unknown key is an error.

use std::fmt;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

/// What stands for a separator that is not given.
pub const SEPARATOR: &str = ";";
/// What stands for a regex that is not given.
pub const REGEX: &str = "(.*)";
/// What stands for a replacement that is not given.
pub const REPLACEMENT: &str = "$1";

/// One rule. A key that is not given stays away: for some actions Prometheus refuses even its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RelabelConfig {
    /// Labels whose values are joined and looked at. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_labels: Option<Vec<String>>,
    /// What stands between the joined values. Default: `";"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// Must match the whole of the joined values, or of a label's name. Default: `"(.*)"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// What the hash is divided by, for `hashmod`. No default. Minimum: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modulus: Option<u64>,
    /// The label that is written or compared; for `replace` with groups of the regex in it. No default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_label: Option<String>,
    /// The new value, for `labelmap` the new name, with groups of the regex in it. Default: `"$1"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
    /// What is done. Default: `"replace"`.
    #[serde(default)]
    pub action: Action,
}

/// What a rule does. In a configuration upper and lower case are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// Writes a label, if the regex matches.
    #[default]
    Replace,
    /// Drops the series, unless the regex matches.
    Keep,
    /// Drops the series, if the regex matches.
    Drop,
    /// Drops the series, unless the target label is equal to the joined values.
    KeepEqual,
    /// Drops the series, if the target label is equal to the joined values.
    DropEqual,
    /// Writes a hash of the joined values, modulo a number.
    HashMod,
    /// Copies labels whose names match to other names.
    LabelMap,
    /// Takes labels away whose names match.
    LabelDrop,
    /// Takes labels away whose names do not match.
    LabelKeep,
    /// Writes the joined values in lower case.
    Lowercase,
    /// Writes the joined values in upper case.
    Uppercase,
}

impl Action {
    /// All of them.
    pub const ALL: [Action; 11] = [
        Action::Replace,
        Action::Keep,
        Action::Drop,
        Action::KeepEqual,
        Action::DropEqual,
        Action::HashMod,
        Action::LabelMap,
        Action::LabelDrop,
        Action::LabelKeep,
        Action::Lowercase,
        Action::Uppercase,
    ];

    /// As in a configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Replace => "replace",
            Action::Keep => "keep",
            Action::Drop => "drop",
            Action::KeepEqual => "keepequal",
            Action::DropEqual => "dropequal",
            Action::HashMod => "hashmod",
            Action::LabelMap => "labelmap",
            Action::LabelDrop => "labeldrop",
            Action::LabelKeep => "labelkeep",
            Action::Lowercase => "lowercase",
            Action::Uppercase => "uppercase",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Action, D::Error> {
        let text = String::deserialize(deserializer)?;
        let lower = text.to_lowercase();
        Action::ALL.into_iter().find(|action| action.as_str() == lower).ok_or_else(|| {
            let known = Action::ALL.map(Action::as_str).join(", ");
            de::Error::custom(format_args!("unknown action {text:?}, expected one of {known}"))
        })
    }
}
