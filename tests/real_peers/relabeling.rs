//! The rules of the table, given to a real Prometheus: what it sends for each series is what ours make of it; and what ours refuse, it refuses.
//!
//! ```text
//!  the test --remote write--> Prometheus --one remote_write for each case--> the test
//!                                          its rules, and before them two that choose its series
//! ```
//!
//! Prometheus counts for each `remote_write` what it sent and what its rules dropped: when all samples are counted, nothing more comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use promrelay::protocol::messages::v1;
use promrelay::relabel::{Action, Label, Outcome, RelabelConfig, Rules};
use prost::Message;

use crate::process::{PATIENCE, eventually, free_port, http, peer};
use crate::prometheus::Receiver;
use crate::relabeling_table::{
    CASES, Case, EXPRESSIONS, GROUPS, REFUSED, REFUSED_EXPRESSIONS, SUPERFLUOUS, config, labels,
};
use crate::request::{Protocol, Request};
use crate::rig::directory;

type Labels = Vec<(String, String)>;

/// Says for which case a series is. Rules of the test's own look at it and take it away, before those of the case.
const MARK: &str = "mark_of_the_case";

/// Rules, and the series that they get.
struct Question {
    name: String,
    configs: Vec<RelabelConfig>,
    series: Vec<Labels>,
}

impl Question {
    fn of_case(case: &Case) -> Question {
        let series = case.series.iter().map(|(before, _)| labels(before)).collect();
        Question { name: case.name.to_owned(), configs: case.configs(), series }
    }

    /// Every expression on every text: one rule for each, which writes a label of its own.
    fn of_expressions() -> Question {
        let expressions = EXPRESSIONS.iter().map(|(expression, ..)| *expression);
        let expressions = expressions.chain(GROUPS.iter().map(|(expression, ..)| *expression));
        let configs = expressions.enumerate().map(|(number, expression)| RelabelConfig {
            source_labels: Some(vec!["text".into()]),
            regex: Some(expression.into()),
            target_label: Some(format!("m_{number}")),
            replacement: Some("<$0,$1,$2>".into()),
            ..RelabelConfig::default()
        });
        let texts = EXPRESSIONS.iter().flat_map(|(_, matching, others)| matching.iter().chain(*others));
        let mut texts: Vec<&str> = texts.chain(GROUPS.iter().map(|(_, text, _)| text)).copied().collect();
        texts.sort_unstable();
        texts.dedup();
        let series = texts.into_iter().map(|text| {
            // Not cut at bars, as in the table.
            let text = (!text.is_empty()).then(|| ("text".to_owned(), text.to_owned()));
            [("__name__".to_owned(), "up".to_owned())].into_iter().chain(text).collect()
        });
        Question { name: "expressions".into(), configs: configs.collect(), series: series.collect() }
    }

    fn of_superfluous() -> Question {
        let configs = SUPERFLUOUS.iter().map(|text| config(text).expect("it is a rule"));
        Question { name: "superfluous".into(), configs: configs.collect(), series: vec![labels("up|a=b|b=c")] }
    }

    /// As an entry of `remote_write`. JSON is YAML.
    fn remote_write(&self, number: usize, port: u16) -> serde_json::Value {
        let choose = RelabelConfig {
            source_labels: Some(vec![MARK.into()]),
            regex: Some(number.to_string()),
            action: Action::Keep,
            ..RelabelConfig::default()
        };
        let forget = RelabelConfig { regex: Some(MARK.into()), action: Action::LabelDrop, ..RelabelConfig::default() };
        let configs: Vec<_> = [choose, forget].iter().chain(&self.configs).cloned().collect();
        serde_json::json!({
            "url": format!("http://127.0.0.1:{port}/{number}"),
            "name": format!("case-{number}"),
            "queue_config": {"batch_send_deadline": "200ms", "capacity": 1000, "max_shards": 1},
            "write_relabel_configs": configs,
        })
    }
}

/// What arrived: by case and value of the sample, which says which series it was.
type Arrived = Arc<Mutex<BTreeMap<(usize, usize), Labels>>>;

async fn receive(State(arrived): State<Arrived>, Path(case): Path<usize>, body: Bytes) -> StatusCode {
    let body = snap::raw::Decoder::new().decompress_vec(&body).expect("Prometheus sends snappy");
    let request = v1::WriteRequest::decode(&*body).expect("Prometheus sends a message");
    let mut arrived = arrived.lock().expect("no test panics with it");
    for series in request.timeseries {
        let labels: Labels = series.labels.into_iter().map(|label| (label.name, label.value)).collect();
        for sample in series.samples {
            arrived.insert((case, sample.value as usize), labels.clone());
        }
    }
    StatusCode::NO_CONTENT
}

/// Asks a Prometheus of its own.
async fn judge(external_labels: &BTreeMap<String, String>, questions: &[Question]) {
    let arrived = Arrived::default();
    let port = free_port();
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
    let app = Router::new().route("/{case}", post(receive)).with_state(arrived.clone());
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let directory = directory();
    let remote_write: Vec<_> =
        questions.iter().enumerate().map(|(number, question)| question.remote_write(number, port)).collect();
    let configuration =
        serde_json::json!({"global": {"external_labels": external_labels}, "remote_write": remote_write});
    let prometheus = Receiver::start_configured("prometheus", directory.path(), &configuration.to_string()).await;

    // A minute ahead: Prometheus sends nothing that is older than the moment at which it began to read for this `remote_write`, and on
    // a busy machine that may be later than now.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is after 1970").as_millis() as i64;
    let soon = now + 60_000;
    let mut request = Request::new();
    let mut sent = 0;
    for (case, question) in questions.iter().enumerate() {
        for (number, series) in question.series.iter().enumerate() {
            let mark = case.to_string();
            let mut labels: Vec<(&str, &str)> = series.iter().map(|(name, value)| (&**name, &**value)).collect();
            labels.push((MARK, &mark));
            request = request.series(&labels, &[(soon, number as f64)]);
            sent += 1;
        }
    }
    let answer = request.post(Protocol::V1).send(http(), &prometheus.write_url()).await.expect("Prometheus answers");
    assert_eq!(answer.status(), StatusCode::NO_CONTENT, "{:?}", answer.text().await);
    eventually("Prometheus has sent or dropped every sample for every case", || async {
        let metrics = prometheus.metrics().await?;
        let sum = |wanted: &dyn Fn(&str) -> bool| -> f64 {
            let lines = metrics.lines().filter(|line| wanted(line));
            lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        let dropped = "prometheus_remote_storage_samples_dropped_total{";
        let done = sum(&|line| line.starts_with("prometheus_remote_storage_samples_total{"))
            + sum(&|line| line.starts_with(dropped) && line.contains("reason=\"dropped_series\""));
        let pending = sum(&|line| line.starts_with("prometheus_remote_storage_samples_pending{"));
        let all = (sent * questions.len()) as f64;
        if done == all && pending == 0.0 { Ok(()) } else { Err(format!("{done} of {all} and {pending} pending")) }
    })
    .await;

    let arrived = arrived.lock().expect("nobody panicked with it").clone();
    let mut differences = Vec::new();
    for (case, question) in questions.iter().enumerate() {
        let rules = Rules::new(external_labels, &question.configs).unwrap_or_else(|error| panic!("{error}"));
        for (number, series) in question.series.iter().enumerate() {
            let theirs = arrived.get(&(case, number)).cloned().map(sendable).unwrap_or_default();
            let ours = applied(&rules, series);
            if ours != theirs {
                differences.push(format!("{}: {series:?}\n  ours   {ours:?}\n  theirs {theirs:?}", question.name));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    server.abort();
    eprintln!("{} series, each with the rules of one of {} cases", sent, questions.len());
}

/// What we decided otherwise, see the module: a label without a name is not written, and a series without `__name__` is dropped.
fn sendable(mut labels: Labels) -> Labels {
    labels.retain(|(name, _)| !name.is_empty());
    if !labels.iter().any(|(name, _)| name == "__name__") {
        labels.clear();
    }
    labels
}

fn applied(rules: &Rules, series: &Labels) -> Labels {
    let series: Vec<Label<'_>> = series.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let mut merged = Vec::new();
    let outcome = rules.apply(&series);
    match &outcome {
        Outcome::Dropped => {}
        Outcome::Unchanged => merged.clone_from(&series),
        Outcome::Changed(change) => change.merge_into(&series, &mut merged),
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    merged.into_iter().map(|(name, value)| (text(name), text(value))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_makes_of_each_series_what_our_rules_make_of_it() {
    let cases = CASES.iter().filter(|case| case.external_labels.is_empty()).map(Question::of_case);
    let questions: Vec<_> = cases.chain([Question::of_expressions(), Question::of_superfluous()]).collect();
    judge(&BTreeMap::new(), &questions).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_adds_external_labels_as_we_do() {
    let cases: Vec<_> = CASES.iter().filter(|case| !case.external_labels.is_empty()).collect();
    let external_labels = cases[0].external_labels();
    assert!(cases.iter().all(|case| case.external_labels() == external_labels), "they are of all remote_write");
    judge(&external_labels, &cases.into_iter().map(Question::of_case).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_our_rules_refuse_prometheus_refuses() {
    let expressions = REFUSED_EXPRESSIONS.iter().map(|expression| RelabelConfig {
        regex: Some(expression.to_string()),
        target_label: Some("a".into()),
        ..RelabelConfig::default()
    });
    let refused = REFUSED.iter().map(|(_, text)| config(text).expect("it is a rule"));
    let directory = directory();
    for config in expressions.chain(refused) {
        assert!(Rules::new(&BTreeMap::new(), std::slice::from_ref(&config)).is_err(), "we take {config:?}");
        let remote_write = serde_json::json!([{"url": "http://127.0.0.1:1/", "write_relabel_configs": [config]}]);
        let path = directory.path().join("refused.yml");
        std::fs::write(&path, serde_json::json!({"remote_write": remote_write}).to_string())
            .expect("the directory can be written");
        // It reads its configuration before it does anything else, and would run on if there were nothing wrong with it.
        let mut prometheus = tokio::process::Command::new(peer("PEER_PROMETHEUS"));
        let prometheus = prometheus
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("refused").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{}", free_port()))
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, prometheus.output()).await;
        let output = output.unwrap_or_else(|_| panic!("Prometheus takes {config:?}")).expect("Prometheus starts");
        let says = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{config:?}: {says}");
        assert!(says.contains("Error loading config"), "{config:?}: {says}");
    }
}
