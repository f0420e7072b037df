//! Somebody who scrapes all the time: in every scrape every ledger adds up, and from one to the next no sum shrinks, whatever is done to
//! the relay meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::client;
use super::ledger::{self, Ledger};
use super::relay::Relay;

#[derive(Default)]
struct Seen {
    ledgers: BTreeMap<String, Ledger>,
    /// Grows when a target is forgotten: a scrape that began before says nothing then.
    forgotten: u64,
    scrapes: u64,
    is_over: bool,
}

/// A watch that goes on.
pub struct Watch {
    task: JoinHandle<()>,
    seen: Arc<Mutex<Seen>>,
}

impl Watch {
    pub fn start(relay: &Relay) -> Watch {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let task = tokio::spawn(watch([relay.url("/metrics"), relay.url("/api/v1/status")], seen.clone()));
        Watch { task, seen }
    }

    /// From now on a target of this name is another one. To be called while it is not there.
    pub fn forget(&self, name: &str) {
        let mut seen = self.seen.lock().unwrap();
        seen.ledgers.remove(name);
        seen.forgotten += 1;
    }

    /// Panics if something did not add up.
    pub async fn end(self) {
        self.seen.lock().unwrap().is_over = true;
        self.task.await.unwrap();
        let scrapes = self.seen.lock().unwrap().scrapes;
        assert!(scrapes > 0, "nothing was scraped");
    }
}

async fn watch(urls: [String; 2], seen: Arc<Mutex<Seen>>) {
    let http = client();
    loop {
        for url in &urls {
            let forgotten = seen.lock().unwrap().forgotten;
            // The relay may be down.
            let text = async { http.get(url).send().await.ok()?.text().await.ok() };
            if let Some(text) = text.await {
                let ledgers = match url.ends_with("/metrics") {
                    true => ledger::of_metrics(&text),
                    false => ledger::of_status(&serde_json::from_str(&text).unwrap()),
                };
                seen.lock().unwrap().compare(ledgers, forgotten);
            }
        }
        if seen.lock().unwrap().is_over {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Seen {
    fn compare(&mut self, ledgers: BTreeMap<String, Ledger>, forgotten: u64) {
        if forgotten != self.forgotten {
            return;
        }
        for (target, ledger) in ledgers {
            if let Some(before) = self.ledgers.get(&target) {
                ledger.assert_grown_from(before, &target);
            }
            self.ledgers.insert(target, ledger);
        }
        self.scrapes += 1;
    }
}
