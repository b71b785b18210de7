//! Makes Rust of the gRPC services' definitions. Needs no `protoc`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let definitions = protox::compile(["inference.proto", "health.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .build_transport(false)
        // Tensors stay slices of the message that brought them.
        .bytes(".")
        .compile_fds(definitions)?;
    Ok(())
}
