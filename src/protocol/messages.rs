//! The messages of remote write as prost makes them from `proto/`: one `struct` per message, owned strings, no surprises.
//!
//! They are for what is read by people or made by hand: tests, examples, tools. Nothing that serves a request goes through
//! them: one label with invalid UTF-8 fails a whole request in prost, and every string would be copied.

#![allow(clippy::doc_markdown, clippy::pedantic, reason = "generated code")]

/// Remote write 1.0: package `prometheus`.
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/prometheus.rs"));
}

/// Remote write 2.0: package `io.prometheus.write.v2`.
pub mod v2 {
    include!(concat!(env!("OUT_DIR"), "/io.prometheus.write.v2.rs"));
}
