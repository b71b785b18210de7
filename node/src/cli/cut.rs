//! `hansa models cut`: makes stages of a model of this machine. No node is asked.

use std::path::{Path, PathBuf};

use clap::Args;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::cut::{Cut, Wanted, cut};
use hansa_runtime::library::Library;
use hansa_runtime::runtime::Runtime;

use super::out;

/// `hansa models cut`
#[derive(Debug, Args)]
pub struct CutArgs {
    /// An .onnx file, or a folder with model.onnx
    pub model: PathBuf,
    /// So many stages, about equally slow
    #[arg(long, value_name = "N", conflicts_with = "fit", required_unless_present = "fit")]
    pub stages: Option<usize>,
    /// What each stage's weights may take, in order: `192MiB,192MiB,96MiB`
    #[arg(long, value_name = "MEM,MEM,..", value_delimiter = ',', value_parser = memory)]
    pub fit: Option<Vec<u64>>,
    /// A new folder for the stages
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Print one JSON object: what DIR/cut.json holds
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &CutArgs) -> anyhow::Result<()> {
    let runtime = Runtime::load(&Library::find("auto")?)?;
    let bundle = Bundle::open(&args.model)?;
    let wanted = match (&args.stages, &args.fit) {
        (Some(stages), _) => Wanted::Stages(*stages),
        (None, Some(fit)) => Wanted::Fit(fit.clone()),
        (None, None) => unreachable!("clap demands one"),
    };
    let cut = cut(&runtime, &bundle, &wanted, &args.out)?;
    if args.json {
        out::json_line(&cut);
    } else {
        show(&cut, &args.out);
    }
    Ok(())
}

fn show(cut: &Cut, dir: &Path) {
    let all: u64 = cut.stages.iter().map(|stage| stage.cost).sum();
    let rows = cut.stages.iter().enumerate().map(|(number, stage)| {
        vec![
            number.to_string(),
            format!("{}–{} of {}", stage.from, stage.to, stage.of),
            format!("{:.1} MiB", stage.bytes as f64 / 1_048_576.0),
            format!("{:.0} %", stage.cost as f64 * 100.0 / all.max(1) as f64),
            stage.inputs.len().to_string(),
            match stage.hands_over {
                0 => "–".to_owned(),
                bytes => format!("{:.1} KiB", bytes as f64 / 1024.0),
            },
        ]
    });
    let titles = ["stage", "nodes", "weights", "work", "inputs", "hands over (a row)"];
    out::line(&out::table(&titles, rows));
    out::line(&format!(
        "\n{} stages of {} in {}.\nA node serves one with\n\n    [[model]]\n    name = \"NAME\"\n    path = \"{}\"",
        cut.stages.len(),
        cut.whole,
        dir.display(),
        dir.join("stage-0").display(),
    ));
}

/// An amount of memory: bytes, or with KiB, MiB, GiB (or K, M, G, which mean the same).
fn memory(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(format!("`{unit}` is no unit; write B, KiB, MiB or GiB")),
    };
    let no_amount = || format!("`{text}` is no amount of memory, try `192MiB`");
    let number: f64 = number.parse().map_err(|_| no_amount())?;
    let bytes = number * f64::from(1_u32 << shift);
    // Floats below 2^53 are exact, and no machine has more memory.
    if !(1.0..9e15).contains(&bytes) {
        return Err(no_amount());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "looked at above")]
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_with_and_without_units() {
        assert_eq!(memory("192MiB"), Ok(192 << 20));
        assert_eq!(memory("1.5 G"), Ok(3 << 29));
        assert_eq!(memory("4096"), Ok(4096));
        for wrong in ["", "MiB", "12 parsecs", "0", "-1", "1e400"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }
}
