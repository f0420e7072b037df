//! How entries are shown. Whatever a target said and a label holds, nothing of it reaches the terminal but what is to be seen.

use std::io::{self, Write};

use serde::Serialize;

use super::DeadLetterError;
use super::live::Live;
use crate::cli::out;
use crate::cli::wal::text::{Table, count, json, plain, size};
use crate::dead_letter::{Listing, Shown, Summary};
use crate::protocol::text::visible;

/// In a table, of what a target said.
const TEXT_SHOWN_MAX: usize = 60;

fn print_json(value: &impl Serialize) {
    // If nobody reads it, that is no error.
    let mut stdout = io::stdout().lock();
    let _ = json(&mut stdout, value).and_then(|()| writeln!(stdout));
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return visible(text);
    }
    let cut: String = text.chars().take(most).collect();
    format!("{}...", visible(&cut))
}

fn status(summary: &Summary) -> String {
    summary.status.map_or_else(|| "-".to_owned(), |status| status.to_string())
}

/// As a table, or as JSON.
pub(super) fn list(listing: &Listing, target: Option<&str>, as_json: bool) {
    if as_json {
        return print_json(listing);
    }
    if listing.entries.is_empty() {
        let who = target.map_or_else(|| "a target".to_owned(), |name| format!("target {name:?}"));
        return out(&format!("nothing that {who} refused is kept"));
    }
    let mut table = Table::new(
        &["ID", "TIME", "TARGET", "REASON", "STATUS", "SAMPLES", "BYTES", "SERIES", "THE TARGET SAID"],
        &[true, false, false, false, true, true, true, false, false],
    );
    for entry in &listing.entries {
        let bytes = if entry.has_body { size(entry.body_bytes) } else { format!("({})", size(entry.body_bytes)) };
        table.row(vec![
            entry.id.to_string(),
            plain(&entry.time),
            plain(&entry.target),
            plain(&entry.reason),
            status(entry),
            entry.samples.to_string(),
            bytes,
            cut(&entry.series, TEXT_SHOWN_MAX),
            cut(&entry.text, TEXT_SHOWN_MAX),
        ]);
    }
    out(table.to_string().trim_end());
    if listing.entries.iter().any(|entry| !entry.has_body) {
        out("(bytes in brackets: too large for the ring, not kept)");
    }
    if listing.older > 0 {
        out(&format!("and {} older", listing.older));
    }
}

/// One entry.
pub(super) fn show(shown: &Shown, as_json: bool) {
    if as_json {
        return print_json(shown);
    }
    let Shown { summary, forwarded, series_count, sample_count, lines, error, .. } = shown;
    let positions = if summary.first == summary.last {
        summary.first.to_string()
    } else {
        format!("{} to {}", summary.first, summary.last)
    };
    let kept = if summary.is_partial { "; the target kept the others of the request" } else { "" };
    out(&format!("entry {}, {}", summary.id, plain(&summary.time)));
    out(&format!("  target    {}", plain(&summary.target)));
    out(&format!("  answer    {} ({}): {}", status(summary), plain(&summary.reason), plain(&summary.text)));
    out(&format!("  refused   {}{kept}", count(summary.samples, "sample")));
    out(&format!("  positions {positions}"));
    out(&format!("  request   remote write {}, {}", plain(&summary.protocol), size(summary.body_bytes)));
    for (name, value) in forwarded {
        out(&format!("  header    {}: {}", plain(name), plain(value)));
    }
    match error {
        Some(error) => {
            out(&format!("  series    {}", plain(&summary.series)));
            out(&format!("  {}", plain(error)));
        }
        None => out(&format!("  content   {} of {series_count} series", count(*sample_count, "sample"))),
    }
    for line in lines {
        out(&format!("    {line}"));
    }
    if *sample_count > lines.len() as u64 && error.is_none() {
        out(&format!("    and {} more", sample_count - lines.len() as u64));
    }
}

/// Sends entries again, one after the other; how many were kept. When a target gives no answer, that is the end.
pub(super) fn resent(live: &Live, ids: &[u64], as_json: bool) -> Result<usize, DeadLetterError> {
    let mut kept = 0;
    for (number, id) in ids.iter().enumerate() {
        for answer in live.resend(*id)? {
            if as_json {
                print_json(&answer);
            } else {
                let text = answer.text.as_deref().map(|text| format!(": {}", plain(text))).unwrap_or_default();
                out(&format!("{} of {}: {}{text}", answer.id, plain(&answer.target), plain(&answer.outcome)));
            }
            match &*answer.outcome {
                "delivered" => {}
                "refused" => kept += 1,
                _ => return Ok(kept + ids.len() - number),
            }
        }
    }
    Ok(kept)
}
