//! What a file means, and what is said of one that means nothing.

use super::*;
use crate::wal::SyncMode;

const TARGET: &str = "[[target]]\nname = \"a\"\nurl = \"http://127.0.0.1:9090/api/v1/write\"\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("config.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn one_target_is_enough() {
    let config = parse(TARGET).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:9201".parse().unwrap()]);
    assert_eq!(config.wal_dir, Path::new("data"));
    assert_eq!(config.wal.sync, SyncMode::Always);
    assert_eq!((config.wal.max_bytes, config.wal.segment_bytes), (10 << 30, 128 << 20));
    assert_eq!((config.receive.body_bytes_max, config.receive.decoded_bytes_max), (32 << 20, 32 << 20));
    assert_eq!(config.dead_letter_bytes, 64 << 20);
    assert_eq!((config.receive.series_max, config.receive.symbols_max), (None, None));
    assert!(!config.receive.label_limits.are_set());
    assert_eq!(config.targets[0].remote_timeout, Duration::from_secs(30));
}

#[test]
fn limits_on_what_is_received_are_taken_as_they_are_written() {
    let lines = "max_series = 1\nmax_symbols = 2\nmax_labels = 3\nmax_label_name_bytes = \"1KiB\"\nmax_label_value_bytes = \"4KiB\"";
    let receive = parse(&format!("[server]\n{lines}\n{TARGET}")).unwrap().receive;
    assert_eq!((receive.series_max, receive.symbols_max), (Some(1), Some(2)));
    let limits = receive.label_limits;
    assert_eq!((limits.labels, limits.name_bytes, limits.value_bytes), (Some(3), Some(1024), Some(4096)));
}

#[test]
fn small_logs_have_small_segments_and_bodies_that_fit() {
    let config = parse(&format!("[wal]\nmax_size = \"16MiB\"\n{TARGET}")).unwrap();
    assert_eq!(config.wal.segment_bytes, 2 << 20);
    assert!(config.receive.body_bytes_max < 2 << 20);
    let error = parse(&format!("[server]\nmax_body = \"2MiB\"\n[wal]\nmax_size = \"16MiB\"\n{TARGET}")).unwrap_err();
    assert!(error.contains("config.toml: server.max_body = \"2MiB\": must fit into a segment"), "{error}");
}

#[test]
fn what_was_refused_gets_a_sixteenth_of_the_log_at_most_and_nothing_if_so_asked() {
    let bytes = |lines: &str| parse(&format!("[wal]\n{lines}\n{TARGET}")).unwrap().dead_letter_bytes;
    assert_eq!(bytes("max_size = \"8MiB\""), 512 << 10);
    assert_eq!(bytes("dead_letter_size = \"0B\""), 0);
    assert_eq!(bytes("dead_letter_size = \"128MiB\""), 128 << 20);
}

#[test]
fn a_wrong_value_is_named_with_file_key_value_and_reason() {
    for (text, expected) in [
        ("[wal]\nsync = \"sometimes\"\n", "config.toml: wal.sync = \"sometimes\": must be \"always\", \"never\" or"),
        ("[wal]\nmax_size = \"1MiB\"\n", "config.toml: wal.max_size = \"1MiB\": must be at least \"8MiB\""),
        ("[wal]\nsegment_size = \"2GiB\"\n", "wal.segment_size = \"2GiB\": must be at most an eighth"),
        (
            "[wal]\nmax_size = \"8MiB\"\ndead_letter_size = \"1MiB\"\n",
            "wal.dead_letter_size = \"1MiB\": must be at most a sixteenth of wal.max_size, \"512KiB\"",
        ),
        (
            "[wal]\ndead_letter_size = \"1KiB\"\n",
            "wal.dead_letter_size = \"1KiB\": must be at least \"64KiB\", or \"0B\"",
        ),
        ("[server]\nlisten = \"nowhere\"\n", "config.toml: server.listen = \"nowhere\": must be an address and a port"),
        ("[server]\nmax_connections = 0\n", "server.max_connections = 0: must be at least 1"),
        ("[server]\nmax_series = 0\n", "server.max_series = 0: must be at least 1; without the key there is no limit"),
        ("[server]\nmax_labels = 10001\n", "server.max_labels = 10001: must be at most 10000: more are never taken"),
        ("[server]\nmax_symbols = 2000000\n", "server.max_symbols = 2000000: must be at most 1048576"),
        ("[server]\nmax_label_name_bytes = \"7B\"\n", "server.max_label_name_bytes = \"7B\": must be at least \"8B\""),
        ("[server]\nmax_label_value_bytes = \"0B\"\n", "must be at least \"1B\""),
        ("[server]\nread_timeout = \"1ms\"\n", "server.read_timeout = \"1ms\": must be between 1s and a year"),
        ("[server]\nmax_in_flight_bytes = \"1MiB\"\n", "server.max_in_flight_bytes = \"1MiB\": must be at least"),
        ("[server]\nforward_headers = [\"Host\"]\n", "server.forward_headers[0] = \"host\": is a header that cannot"),
        ("[server]\nforward_headers = [\"a b\"]\n", "server.forward_headers[0] = \"a b\": is not the name"),
    ] {
        let error = parse(&format!("{text}{TARGET}")).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn no_error_shows_a_password() {
    for lines in
        ["url = \"http://u:hunter2@a/${NO_SUCH_VARIABLE}\"", "url = \"u:hunter2@a\"", "url = \"http://u:hunter2@a\" x"]
    {
        let error = parse(&format!("[[target]]\nname = \"a\"\n{lines}\n")).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn a_wrong_target_is_named() {
    for (lines, expected) in [
        ("name = \"../a\"\nurl = \"http://a\"", "target[0].name = \"../a\": must be 1 to 100 letters"),
        ("name = \"\"\nurl = \"http://a\"", "target[0].name = \"\": must be"),
        ("name = \"a\"\nurl = \"ftp://a\"", "target \"a\".url = ...: must begin with http:// or https://"),
        ("name = \"a\"\nurl = \"a\"", "target \"a\".url = ...: must begin with http:// or https://"),
        ("name = \"a\"\nurl = \"http://a\"\nmax_backoff = \"1ms\"", "max_backoff must not be less than min_backoff"),
        ("name = \"a\"\nurl = \"http://a\"\nmax_in_flight = 0", "max_in_flight = 0: must be between 1 and 30"),
        ("name = \"a\"\nurl = \"http://a\"\nmax_samples_per_send = 0", "must be at least 1"),
        ("name = \"a\"\nurl = \"http://a\"\nbacklog_share = 0.2", "needs order = \"fresh_first\""),
        (
            "name = \"a\"\nurl = \"http://a\"\norder = \"fresh_first\"\nbacklog_share = 1.5",
            "backlog_share = 1.5: must be between 0 and 1",
        ),
        // V1-10, V2-10.
        ("name = \"a\"\nurl = \"http://a\"\nheaders = { content-type = \"x\" }", "is a header that cannot be set here"),
    ] {
        let error = parse(&format!("[[target]]\n{lines}\n")).unwrap_err();
        assert!(error.contains(expected), "{lines}: {error}");
    }
    for (lines, expected) in [
        (
            "write_relabel_configs = [{ regex = \"a\" }]",
            "target \"a\".write_relabel_configs[0].target_label: is missing, empty or 0: the action replace needs it",
        ),
        (
            "[[target.write_relabel_configs]]\nregex = \"a**\"\naction = \"labeldrop\"",
            "target \"a\".write_relabel_configs[0].regex = \"a**\": `**` repeats",
        ),
        (
            "write_relabel_configs = [{ action = \"labeldrop\", source_labels = [\"a\"] }]",
            "target \"a\".write_relabel_configs[0].source_labels = [\"a\"]: the action labeldrop has no use for it",
        ),
        ("write_relabel_configs = [{ regx = \"a\" }]", "target[0].write_relabel_configs[0].regx: unknown field"),
        (
            "write_relabel_configs = [{ action = \"kep\" }]",
            "target[0].write_relabel_configs[0].action: unknown action \"kep\"",
        ),
        (
            "external_labels = { \"\" = \"x\" }",
            "target \"a\".external_labels.\"\" = \"x\": a label's name is not empty",
        ),
        (
            "[target.write_relabel_configs]\nregex = \"a\"",
            "target[0].write_relabel_configs: each rule begins with [[target.write_relabel_configs]], in two pairs of brackets",
        ),
    ] {
        let error = parse(&format!("{TARGET}{lines}\n")).unwrap_err();
        assert!(error.contains(expected), "{lines}: {error}");
    }
    let error = parse(&format!("{TARGET}{TARGET}")).unwrap_err();
    assert!(error.contains("target[1].name = \"a\": another target has this name"), "{error}");
    assert!(parse("").unwrap_err().contains("config.toml: there is no [[target]]"));
}

#[test]
fn unknown_keys_and_wrong_kinds_are_shown_at_their_place() {
    for (text, expected) in [
        ("[wal]\nsyncs = \"always\"\n", "config.toml:2:1: wal.syncs: unknown field `syncs`"),
        (
            "[server]\nmax_connections = \"many\"\n",
            "server.max_connections: invalid type: string \"many\", expected a whole",
        ),
        ("[server]\nmax_connections = -1\n", "server.max_connections: must be a whole number, not below 0"),
        ("[wal]\nmax_size = 5\n", "a size such as \"64MiB\""),
        ("[wal]\nmax_size = \"much\"\n", "\"much\" is not a size"),
        ("[server]\nread_timeout = \"5\"\n", "is not a duration such as \"30s\""),
        ("[serve]\n", "unknown field `serve`"),
    ] {
        let error = parse(&format!("{text}{TARGET}")).unwrap_err();
        assert!(error.contains(expected) && error.starts_with("config.toml:"), "{text}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = parse("[target]\nname = \"a\"\n").unwrap_err();
    assert_eq!(error, "config.toml:1:1: target: each target begins with [[target]], in two pairs of brackets");
}
