//! `hansa onnxruntime install`: fetches the pinned library into the user's cache.

use clap::Subcommand;
use hansa_runtime::library::install;
use hansa_runtime::wheel::Progress;
use serde_json::json;

use super::out;

/// `hansa onnxruntime …`
#[derive(Debug, Subcommand)]
pub enum OnnxruntimeCommand {
    /// Fetches ONNX Runtime into the user's cache
    Install {
        /// The build with CUDA
        #[arg(long)]
        gpu: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
pub fn run(command: &OnnxruntimeCommand) -> anyhow::Result<()> {
    let OnnxruntimeCommand::Install { gpu, json } = *command;
    let library = install(gpu, Progress::Stderr)?;
    if json {
        out::json_line(&json!({ "library": library.path, "gpu": gpu }));
    } else {
        out::line(&format!("ONNX Runtime lies at {}", library.path.display()));
    }
    Ok(())
}
