//! Generates Rust from the .proto files at build time; no `protoc` is needed.

use std::path::PathBuf;

const FILES: &[&str] = &["sluice/events/v1/events.proto", "sluice/store/v1/store.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    for file in FILES {
        println!("cargo:rerun-if-changed={}", root.join(file).display());
    }
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_source_info(false).include_imports(true).open_files(FILES)?;
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
