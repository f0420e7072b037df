//! `GET /`: the status for people. One page without scripts, from the same snapshot as the JSON.

use std::fmt::Write;

use axum::response::Html;

use super::status::{Status, Target};

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="5"><title>promrelay</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; width: 100% } th, td { text-align: left; padding: .35em .8em .35em 0; border-bottom: 1px solid #ddd; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } .bad { color: #b00020; font-weight: 600 } .good { color: #1b6e2c }
small { color: #666 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818 } th, td { border-color: #444 } .bad { color: #ff7a85 } .good { color: #7fce8f } small { color: #999 } }
</style></head><body>
"#;

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
        bytesize::ByteSize(wal.bytes).display().iec(),
        bytesize::ByteSize(wal.max_bytes).display().iec(),
    );
    if let Some(seconds) = wal.full_in_seconds {
        let _ = writeln!(page, "<p>As it grows now it is full in <b>{}</b>.</p>", behind(seconds as f64));
    }
    if wal.damage.count > 0 {
        let _ = writeln!(
            page,
            "<p class=bad>{} thing(s) are wrong with it: {} records with {} samples are gone (<code>promrelay wal verify</code> shows what).</p>",
            wal.damage.count, wal.damage.records, wal.damage.samples
        );
    }
    page.push_str(
        "<table><tr><th>target<th>state<th class=n>pending<th class=n>behind<th class=n>delivered<th class=n>refused\
         <th class=n>filtered<th class=n>expired<th class=n>dropped<th class=n>lost</tr>\n",
    );
    for target in &status.targets {
        row(&mut page, target);
    }
    page.push_str(
        "</table>\n<p><small>Samples. <a href=\"/api/v1/status\">JSON</a>, <a href=\"/metrics\">metrics</a></small></p>\n</body></html>\n",
    );
    Html(page)
}

fn row(page: &mut String, target: &Target) {
    let samples = &target.samples;
    let class = match target.state {
        "caught_up" | "sending" => "good",
        _ => "bad",
    };
    let reason = target.reason.as_deref().map(|reason| format!("<br><small>{}</small>", escape(reason)));
    let _ = write!(
        page,
        "<tr><td>{}<br><small>{}</small><td><span class={class}>{}</span> <small>since {}</small>{}",
        escape(&target.name),
        escape(&target.url),
        target.state.replace('_', " "),
        target.since,
        reason.unwrap_or_default(),
    );
    let _ = write!(page, "<td class=n>{}<td class=n>{}", samples.pending, behind(target.lag_seconds));
    let mut cell = |count: u64, is_bad: bool| {
        let class = if is_bad && count > 0 { "n bad" } else { "n" };
        let _ = write!(page, "<td class=\"{class}\">{count}");
    };
    cell(samples.delivered, false);
    cell(samples.refused, true);
    cell(samples.filtered, false);
    cell(samples.expired, false);
    cell(samples.dropped, true);
    cell(samples.lost, true);
    page.push_str("</tr>\n");
}

fn behind(seconds: f64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds.max(0.0) as u64)).to_string()
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
    use super::*;

    #[test]
    fn what_a_target_answers_cannot_become_markup() {
        assert_eq!(escape(r#"<script>alert("&'")"#), "&lt;script&gt;alert(&quot;&amp;&#39;&quot;)");
    }
}
