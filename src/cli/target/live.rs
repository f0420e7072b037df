//! Targets of a process that runs: it is asked.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, RequestBuilder};
use serde_json::Value;

use super::TargetError;
use super::ls::Row;
use crate::config::Config;
use crate::web::admin::Plan;

/// See the module.
pub(super) struct Live {
    url: String,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl Live {
    pub(super) fn new(config: &Config) -> Result<Live, TargetError> {
        super::super::install_crypto();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let url = format!("http://{}", reachable(config.listen[0]));
        let client = Client::builder().no_proxy().timeout(Duration::from_secs(60)).build();
        let client = client.map_err(|source| TargetError::Unreachable { url: url.clone(), source })?;
        Ok(Live { url, client, runtime })
    }

    fn ask(&self, request: RequestBuilder) -> Result<Value, TargetError> {
        let unreachable = |source| TargetError::Unreachable { url: self.url.clone(), source };
        let (status, text) = self.runtime.block_on(async {
            let answer = request.send().await.map_err(unreachable)?;
            let status = answer.status();
            Ok::<_, TargetError>((status, answer.text().await.map_err(unreachable)?))
        })?;
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        if status.is_success() {
            return Ok(json);
        }
        let said = json["error"].as_str().map_or_else(|| format!("{status}: {}", text.trim()), str::to_owned);
        Err(TargetError::Refused { url: self.url.clone(), said })
    }

    fn plan_of(&self, json: Value) -> Result<Plan, TargetError> {
        serde_json::from_value(json)
            .map_err(|error| TargetError::Refused { url: self.url.clone(), said: error.to_string() })
    }

    fn of(&self, name: &str, what: &str) -> String {
        // A name of a target is fit for a path: it was checked.
        format!("{}/api/v1/targets/{name}/{what}", self.url)
    }

    fn post(&self, url: String, body: &Value) -> RequestBuilder {
        self.client.post(url).header("content-type", "application/json").body(body.to_string())
    }

    pub(super) fn rows(&self) -> Result<Vec<Row>, TargetError> {
        let status = self.ask(self.client.get(format!("{}/api/v1/status", self.url)))?;
        let targets = status["targets"].as_array().cloned().unwrap_or_default();
        let row = |target: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let number = |value: &Value| value.as_u64().unwrap_or_default();
            let samples = &target["samples"];
            Row {
                name: text(&target["name"]),
                state: text(&target["state"]),
                settled: number(&target["settled"]),
                pending_records: number(&target["pending"]["records"]),
                pending_samples: number(&target["pending"]["samples"]),
                delivered: number(&samples["delivered"]),
                refused: number(&samples["refused"]),
                dropped: number(&samples["dropped"]),
                lost: number(&samples["lost"]),
            }
        };
        Ok(targets.iter().map(row).collect())
    }

    pub(super) fn plan(&self, name: &str, to: &str) -> Result<Plan, TargetError> {
        let mut url = reqwest::Url::parse(&self.of(name, "seek")).expect("an address and a path are a URL");
        url.query_pairs_mut().append_pair("to", to);
        let json = self.ask(self.client.get(url))?;
        self.plan_of(json)
    }

    pub(super) fn seek(&self, name: &str, to: &str) -> Result<Plan, TargetError> {
        let json = self.ask(self.post(self.of(name, "seek"), &serde_json::json!({ "to": to })))?;
        self.plan_of(json)
    }

    pub(super) fn forget(&self, name: &str) -> Result<Plan, TargetError> {
        let json = self.ask(self.post(self.of(name, "forget"), &serde_json::json!({})))?;
        self.plan_of(json)
    }
}

/// Where somebody on this machine reaches who listens there.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_reached_on_loopback() {
        for (listens, reached) in
            [("0.0.0.0:9201", "127.0.0.1:9201"), ("[::]:9201", "[::1]:9201"), ("10.0.0.7:9201", "10.0.0.7:9201")]
        {
            assert_eq!(reachable(listens.parse().unwrap()).to_string(), reached);
        }
    }
}
