//! `promrelay check`.

use std::path::Path;
use std::process::ExitCode;

use super::wal::text::count;
use crate::config::Config;
use crate::protocol::translate::CustomBuckets;
use crate::target::{ProtocolRule, Settings};
use crate::wal::SyncMode;

/// Says what a configuration means. It is valid, or we would not be here.
pub fn check(path: &Path, config: &Config) -> ExitCode {
    let sync = match config.wal.sync {
        SyncMode::Always => "acknowledged after a sync".to_owned(),
        SyncMode::Interval(interval) => {
            format!("acknowledged before the sync, which follows within {}", humantime::format_duration(interval))
        }
        SyncMode::Never => "acknowledged before any sync".to_owned(),
    };
    println!("{} is valid", path.display());
    println!("  listens on {}", config.listen_text);
    println!(
        "  log in {}, at most {}, requests are {sync}",
        config.wal_dir.display(),
        bytesize::ByteSize(config.wal.max_bytes).display().iec()
    );
    for target in &config.targets {
        println!("  target {}: {}", target.name, target.shown_url());
        println!("    {}", what_is_sent(target));
    }
    ExitCode::SUCCESS
}

/// `protocol "auto", 1 external label, 2 relabeling rules`
fn what_is_sent(target: &Settings) -> String {
    let protocol = match target.protocol {
        ProtocolRule::Auto => "auto",
        ProtocolRule::Always(protocol) => protocol.as_str(),
    };
    let mut words = vec![format!("protocol \"{protocol}\"")];
    if target.custom_buckets == CustomBuckets::AsClassic {
        words.push("custom_buckets \"classic\"".to_owned());
    }
    let (labels, rules) = (target.relabeling.external_labels().len(), target.relabeling.actions().len());
    for (n, one) in [(labels, "external label"), (rules, "relabeling rule")] {
        words.extend((n > 0).then(|| count(n as u64, one)));
    }
    if target.relabeling.is_empty() {
        words.push("series as they are".to_owned());
    }
    words.join(", ")
}
