//! `promrelay check`.

use std::path::Path;
use std::process::ExitCode;

use crate::config::Config;
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
    }
    ExitCode::SUCCESS
}
