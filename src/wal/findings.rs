//! What was found wrong with the log: at the start, and later by whoever reads. Counted once, however many readers come upon it.

use std::path::PathBuf;

use super::position::{Position, SegmentId};

/// What kind of thing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes of acknowledged records are not what they were.
    Damage,
    /// A segment between two others is not there.
    Missing,
    /// A file that has the name of a segment and is none of this log's, or beyond help.
    Unusable,
    /// A file that cannot be read now, or not by this version. It is left where it is.
    Unreadable,
    /// A header or seal was damaged; nothing is lost by it.
    Repaired,
}

impl Kind {
    /// As in status and notes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Damage => "damage",
            Kind::Missing => "missing",
            Kind::Unusable => "unusable",
            Kind::Unreadable => "unreadable",
            Kind::Repaired => "repaired",
        }
    }
}

/// Something that was found wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub kind: Kind,
    /// The segment that it is in, or by its name would be.
    pub segment: SegmentId,
    /// The file.
    pub path: PathBuf,
    /// Where it begins in the file.
    pub offset: u64,
    /// How long it is; for a file that cannot be used, its length.
    pub bytes: u64,
    /// The positions that are gone, first and last; `None`: none, or nobody can tell which.
    pub positions: Option<(Position, Position)>,
    /// Samples of these records.
    pub samples: u64,
    /// For people.
    pub reason: String,
    /// When it was found, ms since 1970.
    pub found_ms: i64,
    /// Where a copy of the bytes, or the file, is kept.
    pub kept: Option<PathBuf>,
}

impl Finding {
    /// Records that are gone.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.positions.map_or(0, |(first, last)| last.0 + 1 - first.0)
    }

    fn covers(&self, other: &Finding) -> bool {
        self.kind == other.kind
            && self.segment == other.segment
            && self.offset <= other.offset
            && other.offset + other.bytes <= self.offset + self.bytes
    }

    /// The note that is put beside what is kept.
    pub(super) fn to_json(&self) -> String {
        let note = serde_json::json!({
            "kind": self.kind.as_str(),
            "reason": self.reason,
            "file": self.path.display().to_string(),
            "offset": self.offset,
            "bytes": self.bytes,
            "first_position": self.positions.map(|(first, _)| first.0),
            "last_position": self.positions.map(|(_, last)| last.0),
            "records": self.records(),
            "samples": self.samples,
            "found_ms": self.found_ms,
        });
        format!("{note:#}\n")
    }
}

/// All that was found, in sums; the first of it in full.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// In the order in which they were found, at most [`Findings::LISTED_MAX`].
    pub list: Vec<Finding>,
    /// How many there are in all.
    pub count: u64,
    /// Records that are gone.
    pub records: u64,
    /// Samples that are gone.
    pub samples: u64,
    /// Bytes that are not what they were.
    pub bytes: u64,
}

impl Findings {
    /// More are counted and not listed.
    pub const LISTED_MAX: usize = 100;

    /// Whether it is there already.
    #[must_use]
    pub fn knows(&self, finding: &Finding) -> bool {
        self.list.iter().any(|known| known.covers(finding))
    }

    /// Takes one in. Beyond the list's length the same thing may be counted once for each reader.
    pub fn add(&mut self, finding: Finding) {
        self.count += 1;
        self.records += finding.records();
        self.samples += finding.samples;
        self.bytes += finding.bytes;
        if self.list.len() < Findings::LISTED_MAX {
            self.list.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(offset: u64, bytes: u64) -> Finding {
        Finding {
            kind: Kind::Damage,
            segment: SegmentId(3),
            path: "a\"b".into(),
            offset,
            bytes,
            positions: Some((Position(7), Position(9))),
            samples: 30,
            reason: "a line\nand another".into(),
            found_ms: 5,
            kept: None,
        }
    }

    #[test]
    fn what_lies_within_something_known_is_known() {
        let mut findings = Findings::default();
        findings.add(finding(100, 50));
        assert!(findings.knows(&finding(100, 50)) && findings.knows(&finding(120, 30)));
        assert!(!findings.knows(&finding(120, 31)) && !findings.knows(&finding(99, 1)));
        assert_eq!((findings.count, findings.records, findings.samples, findings.bytes), (1, 3, 30, 50));
    }

    #[test]
    fn the_list_is_bounded_and_the_sums_are_not() {
        let mut findings = Findings::default();
        for number in 0..150 {
            findings.add(finding(number * 100, 50));
        }
        assert_eq!((findings.list.len(), findings.count, findings.records), (Findings::LISTED_MAX, 150, 450));
    }

    #[test]
    fn a_note_is_json_whatever_the_path_is() {
        let json: serde_json::Value = serde_json::from_str(&finding(1, 2).to_json()).unwrap();
        assert_eq!((&json["file"], &json["reason"]), (&"a\"b".into(), &"a line\nand another".into()));
        assert_eq!((&json["records"], &json["first_position"]), (&3.into(), &7.into()));
    }
}
