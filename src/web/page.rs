//! `GET /`: the status for people. One page without scripts, from the same snapshot as the JSON, to be understood by somebody who sees it
//! for the first time. Whatever comes from outside is escaped.

use std::fmt::Write;

use axum::response::Html;

use super::status::{Status, Target};

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="5"><title>promrelay</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 90em; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .35em .8em .35em 0; border-bottom: 1px solid #ddd; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } .bad { color: #b00020; font-weight: 600 } .good { color: #1b6e2c } .mid { color: #8a5a00; font-weight: 600 }
small { color: #666 } small.bad { color: #b00020 } td small { overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } th, td { border-color: #444 } .bad, small.bad { color: #ff7a85 } .good { color: #7fce8f } .mid { color: #e5b567 } small { color: #999 } }
</style></head><body>
"#;

/// The states, for somebody who has never read of them.
const LEGEND: &str = "<p><small><b>caught up</b>: it has everything. <b>sending</b>: at work. \
    <b>backing off</b>: it does not take data now; tried again, nothing to do but watch the disk. \
    <b>held</b>: its answer asks for somebody's attention; the data is kept and tried slowly. \
    <b>suspect</b>: it refuses everything; asked slowly, or tried request by request. \
    <b>paused</b>: somebody has stopped it. <b>orphan</b>: not in the configuration any more; its data is kept until the log is full.<br>\
    Counts are samples. <i>refused</i>: the target will never take them. <i>filtered</i>: taken out by its rules. <i>expired</i>: older than <code>sample_age_limit</code>. \
    <i>dropped</i>: given up, by a full disk or somebody. <i>lost</i>: acknowledged, then damaged on disk. \
    <a href=\"/api/v1/status\">JSON</a>, <a href=\"/metrics\">metrics</a></small></p>\n";

/// The page.
pub fn render(status: &Status) -> Html<String> {
    let mut page = String::from(HEAD);
    let ready = if status.ready { "<span class=good>ready</span>" } else { "<span class=bad>not ready</span>" };
    let wal = &status.wal;
    let _ = write!(
        page,
        "<h1>promrelay <small>{} &middot; {ready}</small></h1>\n<p>The log is at position {} and takes {} of at most {}.</p>\n",
        status.version,
        wal.durable,
        bytes(wal.bytes),
        bytes(wal.max_bytes),
    );
    if let Some(seconds) = wal.full_in_seconds {
        let _ = writeln!(page, "<p>As it grows now it is full in <b>{}</b>.</p>", duration(seconds));
    }
    if wal.damage.count > 0 {
        let _ = writeln!(
            page,
            "<p class=bad>{} thing(s) are wrong with it: {} records with {} samples are gone (<code>promrelay wal verify</code> shows what).</p>",
            wal.damage.count, wal.damage.records, wal.damage.samples
        );
    }
    page.push_str(
        "<table><tr><th>target<th>state<th class=n>behind<th class=n>samples/s<th class=n>requests in flight<th class=n>delivered\
         <th class=n>refused<th class=n>filtered<th class=n>expired<th class=n>dropped<th class=n>lost</tr>\n",
    );
    for target in &status.targets {
        row(&mut page, target);
    }
    page.push_str("</table>\n");
    page.push_str(LEGEND);
    page.push_str("</body></html>\n");
    Html(page)
}

fn row(page: &mut String, target: &Target) {
    let class = match target.state {
        "caught_up" | "sending" => "good",
        "paused" | "orphan" => "mid",
        _ => "bad",
    };
    let _ = write!(
        page,
        "<tr><td>{}<br><small>{}</small><td><span class={class}>{}</span> <small>since {}</small>",
        escape(&target.name),
        escape(&target.url),
        escape(&target.state.replace('_', " ")),
        escape(&target.since),
    );
    if let Some(reason) = &target.reason {
        let _ = write!(page, "<br><small>{}</small>", escape(reason));
    }
    for (protocol, _) in target.takes.iter().filter(|(_, taken)| **taken == Some(false)) {
        let _ = write!(page, "<br><small>it does not take remote write {protocol}</small>");
    }
    behind(page, target);
    let _ = write!(
        page,
        "<td class=n>{} taken<br><small>{} arriving</small>",
        rate(target.drain_samples_per_second),
        rate(target.arrival_samples_per_second)
    );
    let _ = write!(page, "<td class=n>{} of {}", target.in_flight, target.max_in_flight_now);
    if target.failures > 0 {
        let _ = write!(page, "<br><small>{} failed in a row</small>", target.failures);
    }
    if target.isolated_requests > 0 {
        let _ = write!(page, "<br><small class=bad>{} fail while others pass</small>", target.isolated_requests);
    }
    if let Some(limit) = target.rate_limit_samples_per_second {
        let _ = write!(page, "<br><small>it takes {} samples/s</small>", rate(limit));
    }
    ledger(page, target);
    page.push_str("</tr>\n");
}

/// How far, how much, until when.
fn behind(page: &mut String, target: &Target) {
    let pending = &target.pending;
    if pending.records == 0 {
        page.push_str("<td class=n>nothing");
        return;
    }
    let _ = write!(
        page,
        "<td class=n>{}<br><small>{} samples in {} requests, {}</small><br>",
        duration(target.lag_seconds.max(0.0) as u64),
        count(pending.samples),
        count(pending.records),
        bytes(pending.bytes),
    );
    let _ = match target.catches_up_in_seconds {
        Some(seconds) => write!(page, "<small>caught up in {}</small>", duration(seconds)),
        None => write!(page, "<small class=bad>never at this rate</small>"),
    };
}

fn ledger(page: &mut String, target: &Target) {
    let samples = &target.samples;
    let reasons = target.refused_by.iter().filter(|(_, samples)| **samples > 0);
    let reasons: Vec<String> =
        reasons.map(|(reason, samples)| format!("{} {}", escape(reason), count(*samples))).collect();
    for (samples, is_bad, small) in [
        (samples.delivered, false, String::new()),
        (samples.refused, true, reasons.join(", ")),
        (samples.filtered, false, String::new()),
        (samples.expired, false, String::new()),
        (samples.dropped, true, String::new()),
        (samples.lost, true, String::new()),
    ] {
        let class = if is_bad && samples > 0 { "n bad" } else { "n" };
        let _ = write!(page, "<td class=\"{class}\">{}", count(samples));
        if !small.is_empty() {
            let _ = write!(page, "<br><small>{small}</small>");
        }
    }
}

/// A time as people say it: two units at most.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    let two = |large: u64, unit: &str, small: u64, smaller: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {smaller}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min"),
        3600..86_400 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

fn bytes(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().iec().to_string()
}

/// With a comma between thousands.
fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (number, digit) in digits.chars().enumerate() {
        if number > 0 && (digits.len() - number).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Per second.
fn rate(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { count(rate.round().max(0.0) as u64) }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::super::status::{Damage, Pending, Recovery, Samples, Wal};
    use super::*;

    /// Of which everything that comes from outside would be markup.
    fn target(catches_up_in_seconds: Option<u64>) -> Target {
        Target {
            name: "<b>central</b>".into(),
            url: "http://a/?<i>".into(),
            required: true,
            state: "backing_off",
            reason: Some("503: <script>alert(1)</script>".into()),
            since: "2026-01-31T10:00:00Z".into(),
            last_status: Some(503),
            settled: 7,
            lag_seconds: 125.5,
            pending: Pending { records: 11, samples: 22_000, bytes: 700_000 },
            arrival_samples_per_second: 1000.4,
            drain_samples_per_second: 1.3,
            catches_up_in_seconds,
            in_flight: 3,
            max_in_flight_now: 8,
            failures: 4,
            rate_limit_samples_per_second: Some(5000.0),
            isolated_requests: 2,
            takes: [("1.0", Some(true)), ("2.0", Some(false))].into(),
            samples: Samples {
                accepted: 1_022_009,
                delivered: 1_000_000,
                refused: 9,
                filtered: 0,
                expired: 0,
                dropped: 0,
                lost: 0,
                pending: 22_000,
            },
            refused_by: [("status", 2), ("partial", 0), ("poison", 7)].into(),
        }
    }

    fn page(target: Target) -> String {
        let wal = Wal {
            oldest: 1,
            durable: 18,
            bytes: 1 << 20,
            max_bytes: 1 << 30,
            full_in_seconds: Some(7200),
            segments: Vec::new(),
            recovery: Recovery { seconds: 0.0, scanned_segments: 0, torn_bytes: 0 },
            damage: Damage { count: 0, records: 0, samples: 0, bytes: 0, findings: Vec::new() },
        };
        render(&Status { version: "1", ready: true, wal, targets: vec![target] }).0
    }

    #[test]
    fn a_stranger_sees_how_a_target_is_and_what_becomes_of_it() {
        let page = page(target(Some(740)));
        for text in [
            "backing off</span> <small>since 2026-01-31T10:00:00Z",
            "2 min<br><small>22,000 samples in 11 requests, 683.6 KiB",
            "caught up in 12 min",
            "1.3 taken<br><small>1,000 arriving",
            "3 of 8<br><small>4 failed in a row",
            "2 fail while others pass",
            "it takes 5,000 samples/s",
            "it does not take remote write 2.0<",
            "1,000,000",
            "9<br><small>poison 7, status 2</small>",
            "full in <b>2 h</b>",
        ] {
            assert!(page.contains(text), "no {text:?} in\n{page}");
        }
    }

    #[test]
    fn what_never_catches_up_and_what_is_not_behind_are_told_apart() {
        assert!(page(target(None)).contains("never at this rate"));
        let mut target = target(Some(0));
        target.pending = Pending { records: 0, samples: 0, bytes: 0 };
        let page = page(target);
        assert!(page.contains("nothing<td") && !page.contains("caught up in") && !page.contains("never at"), "{page}");
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let page = page(target(None));
        assert!(!page.contains("<script") && !page.contains("<b>central") && !page.contains("?<i>"), "{page}");
        assert!(page.contains("&lt;script&gt;"));
    }

    #[test]
    fn times_and_numbers_are_as_people_write_them() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (740, "12 min"),
            (3600, "1 h"),
            (11_100, "3 h 5 min"),
            (86_400, "1 d"),
            (187_200, "2 d 4 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!([count(0), count(999), count(1000), count(12_345_678)], ["0", "999", "1,000", "12,345,678"]);
        assert_eq!([rate(0.0), rate(0.25), rate(1999.6)], ["0", "0.2", "2,000"]);
    }

    #[test]
    fn what_a_target_answers_cannot_become_markup() {
        assert_eq!(escape(r#"<script>alert("&'")"#), "&lt;script&gt;alert(&quot;&amp;&#39;&quot;)");
    }
}
