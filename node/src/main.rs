//! The binary `hansa`. Everything is in the library, where tests reach it.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A request is a few dozen small allocations, freed on other threads as often as not.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    hansa_node::cli::main(std::env::args_os())
}
