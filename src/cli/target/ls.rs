//! `promrelay target ls`.

use serde::Serialize;
use serde_json::Value;

use super::TargetError;
use crate::cli::out;
use crate::web::page::duration;

/// A target as it is listed.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub name: String,
    pub state: String,
    /// As the status says it: null is never. A log that nobody uses does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub catches_up_in_seconds: Option<Value>,
    pub settled: u64,
    pub pending_records: u64,
    pub pending_samples: u64,
    pub delivered: u64,
    pub refused: u64,
    pub filtered: u64,
    pub expired: u64,
    pub dropped: u64,
    pub lost: u64,
}

impl Row {
    /// Of a name whose savepoint says nothing.
    pub(super) fn damaged(name: &str) -> Row {
        Row {
            name: name.to_owned(),
            state: "damaged".to_owned(),
            catches_up_in_seconds: None,
            settled: 0,
            pending_records: 0,
            pending_samples: 0,
            delivered: 0,
            refused: 0,
            filtered: 0,
            expired: 0,
            dropped: 0,
            lost: 0,
        }
    }
}

const HEADS: [&str; 12] = [
    "TARGET",
    "STATE",
    "CATCHES UP IN",
    "SETTLED",
    "PENDING REQUESTS",
    "PENDING SAMPLES",
    "DELIVERED",
    "REFUSED",
    "FILTERED",
    "EXPIRED",
    "DROPPED",
    "LOST",
];

/// For people; `-` where there is nothing to say: nothing is behind, or nobody knows.
fn catches_up(seconds: Option<&Value>) -> String {
    match seconds.map(Value::as_u64) {
        None | Some(Some(0)) => "-".to_owned(),
        Some(Some(seconds)) => duration(seconds),
        Some(None) => "never".to_owned(),
    }
}

/// Prints them.
#[allow(clippy::unnecessary_wraps, reason = "as the other commands")]
pub(super) fn print(rows: &[Row], json: bool) -> Result<(), TargetError> {
    if json {
        out(&serde_json::to_string_pretty(rows).expect("rows are JSON"));
        return Ok(());
    }
    let cells = rows.iter().map(|row| {
        let Row {
            name,
            state,
            catches_up_in_seconds,
            settled,
            pending_records,
            pending_samples,
            delivered,
            refused,
            filtered,
            expired,
            dropped,
            lost,
        } = row;
        let numbers = [settled, pending_records, pending_samples, delivered, refused, filtered, expired, dropped, lost];
        let until = catches_up(catches_up_in_seconds.as_ref());
        [name.clone(), state.clone(), until].into_iter().chain(numbers.map(u64::to_string)).collect::<Vec<_>>()
    });
    let table: Vec<Vec<String>> = [HEADS.map(str::to_owned).to_vec()].into_iter().chain(cells).collect();
    let width = |column: usize| table.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
    for row in &table {
        let line: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, width))| {
                    if column < 3 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        out(line.join("  ").trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_and_nothing_behind_and_unknown_are_told_apart_where_they_differ() {
        let said = [None, Some(Value::Null), Some(0.into()), Some(740.into())].map(|said| catches_up(said.as_ref()));
        assert_eq!(said, ["-", "never", "-", "12 min"]);
    }
}
