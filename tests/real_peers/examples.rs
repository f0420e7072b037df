//! The configurations that we hand to others, loaded by the server that they are for.

use std::path::Path;

use crate::prometheus::loads;
use crate::rig::directory;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_loads_every_prometheus_yml_of_the_examples() {
    let directory = directory();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut loaded = 0;
    for entry in std::fs::read_dir(examples).expect("there are examples") {
        let entry = entry.expect("the directory can be read");
        let config = entry.path().join("prometheus.yml");
        if config.exists() {
            loads(&entry.file_name().to_string_lossy(), directory.path(), &config).await;
            loaded += 1;
        }
    }
    assert!(loaded >= 3, "only {loaded} pairs were found");
}
