//! Compiles the messages of remote write for `src/protocol/messages.rs`. protox is a compiler in Rust: no protoc is needed.

use std::error::Error;
use std::path::Path;

const FILES: [&str; 2] = ["remote_write_v1.proto", "remote_write_v2.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    // Named one by one: without any such line, cargo runs this again whenever some file of the package has changed.
    println!("cargo::rerun-if-changed=proto/build.rs");
    for file in FILES {
        println!("cargo::rerun-if-changed=proto/{file}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let descriptors = protox::compile(FILES, [folder])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
