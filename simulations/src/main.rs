//! `hansa-sim`: runs scenarios and says what came of them.

mod cli;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes as `sysexits.h` names them, and 1 for a check that failed.
const CHECK_FAILED: u8 = 1;
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command.run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(CHECK_FAILED),
        // Whoever reads along has read enough.
        Err(cli::Fault::Print(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(fault) => {
            eprintln!("hansa-sim: {fault}");
            ExitCode::from(fault.exit_code())
        }
    }
}
