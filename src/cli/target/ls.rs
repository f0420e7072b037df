//! `promrelay target ls`.

use serde::Serialize;

use super::{TargetError, out};

/// A target as it is listed.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub name: String,
    pub state: String,
    pub settled: u64,
    pub pending_records: u64,
    pub pending_samples: u64,
    pub delivered: u64,
    pub refused: u64,
    pub dropped: u64,
    pub lost: u64,
}

impl Row {
    /// Of a name whose savepoint says nothing.
    pub(super) fn damaged(name: &str) -> Row {
        Row {
            name: name.to_owned(),
            state: "damaged".to_owned(),
            settled: 0,
            pending_records: 0,
            pending_samples: 0,
            delivered: 0,
            refused: 0,
            dropped: 0,
            lost: 0,
        }
    }
}

const HEADS: [&str; 9] =
    ["TARGET", "STATE", "SETTLED", "PENDING REQUESTS", "PENDING SAMPLES", "DELIVERED", "REFUSED", "DROPPED", "LOST"];

/// Prints them.
#[allow(clippy::unnecessary_wraps, reason = "as the other commands")]
pub(super) fn print(rows: &[Row], json: bool) -> Result<(), TargetError> {
    if json {
        out(&serde_json::to_string_pretty(rows).expect("rows are JSON"));
        return Ok(());
    }
    let cells = rows.iter().map(|row| {
        let Row { name, state, settled, pending_records, pending_samples, delivered, refused, dropped, lost } = row;
        let numbers = [settled, pending_records, pending_samples, delivered, refused, dropped, lost];
        [name.clone(), state.clone()].into_iter().chain(numbers.map(u64::to_string)).collect::<Vec<_>>()
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
                    if column < 2 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        out(line.join("  ").trim_end());
    }
    Ok(())
}
