//! The binary `hansa`. Everything is in the library, where tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    hansa_node::cli::main(std::env::args_os())
}
