//! Asking a process that runs, over its HTTP interface.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::config::Config;

/// How long an answer may take that is not said to take longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Live {
    url: String,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

/// Why there is no answer to go on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum LiveError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("cannot reach the promrelay that uses the log, at {url}")]
    Unreachable {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("promrelay at {url} says: {said}")]
    Refused { url: String, said: String },
}

impl Live {
    pub(super) fn new(config: &Config) -> Result<Live, LiveError> {
        super::install_crypto();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let url = format!("http://{}", reachable(config.listen[0]));
        let client = Client::builder().no_proxy().timeout(ANSWER_WITHIN).build();
        let client = client.map_err(|source| LiveError::Unreachable { url: url.clone(), source })?;
        Ok(Live { url, client, runtime })
    }

    /// `GET`, with query parameters.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, LiveError> {
        let mut url = Url::parse(&format!("{}{path}", self.url)).expect("an address and a path are a URL");
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.ask(self.client.get(url))
    }

    /// `POST` with a body of JSON.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, LiveError> {
        self.post_patiently(path, body, ANSWER_WITHIN)
    }

    /// The same, where the answer may take longer.
    pub(super) fn post_patiently<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        within: Duration,
    ) -> Result<T, LiveError> {
        let request = self.client.post(format!("{}{path}", self.url)).timeout(within);
        self.ask(request.header("content-type", "application/json").body(body.to_string()))
    }

    fn ask<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, LiveError> {
        let unreachable = |source| LiveError::Unreachable { url: self.url.clone(), source };
        let (status, text) = self.runtime.block_on(async {
            let answer = request.send().await.map_err(unreachable)?;
            let status = answer.status();
            Ok::<_, LiveError>((status, answer.text().await.map_err(unreachable)?))
        })?;
        let refused = |said| LiveError::Refused { url: self.url.clone(), said };
        if status.is_success() {
            return serde_json::from_str(&text).map_err(|error| refused(error.to_string()));
        }
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        Err(refused(json["error"].as_str().map_or_else(|| format!("{status}: {}", text.trim()), str::to_owned)))
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
