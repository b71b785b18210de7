//! `hansa models`: what a node holds, and how it comes to hold more or less. All but
//! `cut` is asked of a running node; a path is one of the node's machine.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{VIA, cut, out};
use crate::client::Client;

/// `hansa models …`
#[derive(Debug, Subcommand)]
pub enum ModelsCommand {
    /// Lists what a node holds and what is on its way
    Ls(LsArgs),
    /// Fetches a model from the peers that hold it, and serves it
    Pull(PullArgs),
    /// Copies a model of the node's machine into its store, and serves it
    Add(AddArgs),
    /// Serves a model no more and deletes its files
    Rm(RmArgs),
    /// Cuts a model that no single peer can hold into stages
    Cut(cut::CutArgs),
}

/// Whom to ask, and how to print.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// The node to ask
    #[arg(long, value_name = "URL", env = "HANSA_VIA", default_value = VIA)]
    pub via: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `hansa models ls`
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Whom to ask
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `hansa models pull`
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The model: NAME, NAME@sha256:… or a digest
    pub model: String,
    /// Which version of that name
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Whom to ask
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `hansa models add`
#[derive(Debug, Args)]
pub struct AddArgs {
    /// An .onnx file or a folder with model.onnx, on the node's machine
    pub path: PathBuf,
    /// What apps are to call it
    #[arg(long)]
    pub name: String,
    /// Its version
    #[arg(long, value_name = "VERSION", default_value = "1")]
    pub version: String,
    /// Whom to ask
    #[command(flatten)]
    pub ask: AskArgs,
}

/// `hansa models rm`
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Name of the model, or its digest
    pub model: String,
    /// Only this version of that name
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
    /// Whom to ask
    #[command(flatten)]
    pub ask: AskArgs,
}

/// How often a pull is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Marks of a full progress bar.
const BAR: usize = 30;

/// Runs one of the commands.
pub fn run(command: &ModelsCommand) -> anyhow::Result<()> {
    match command {
        ModelsCommand::Ls(args) => ls(args),
        ModelsCommand::Pull(args) => pull(args),
        ModelsCommand::Add(args) => add(args),
        ModelsCommand::Rm(args) => rm(args),
        ModelsCommand::Cut(args) => cut::run(args),
    }
}

fn ls(args: &LsArgs) -> anyhow::Result<()> {
    let held = Client::new(&args.ask.via).get("/mesh/v1/models")?;
    if args.ask.json {
        out::json_line(&held);
    } else {
        out::line(&table(&held));
    }
    Ok(())
}

/// Begins the pull, then looks until it has come to an end.
fn pull(args: &PullArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.ask.via);
    let wish = json!({ "model": args.model, "version": args.version });
    let mut model = client.post("/mesh/v1/models/pull", &wish)?;
    let digest = model["bundle"].clone();
    let shows = !args.ask.json && std::io::stderr().is_terminal();
    while model["state"] != "serving" {
        if model["state"] == "failed" {
            anyhow::bail!("{}", text(&model["error"]));
        }
        show(shows, &format!("\r{}", progress(&model)));
        std::thread::sleep(LOOK_EVERY);
        let held = client.get("/mesh/v1/models")?;
        let models = held["models"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = models.iter().find(|held| held["bundle"] == digest);
        let Some(found) = found else { anyhow::bail!("somebody removed the model meanwhile") };
        model = found.clone();
    }
    show(shows, "\r\x1b[K");
    if args.ask.json {
        out::json_line(&model);
    } else {
        out::line(&format!("{} is served ({})", title(&model), size(&model["bytes"])));
    }
    Ok(())
}

fn add(args: &AddArgs) -> anyhow::Result<()> {
    // The node stands in another folder than this command.
    let path = std::path::absolute(&args.path)?;
    let gift = json!({ "path": path, "name": args.name, "version": args.version });
    let model = Client::new(&args.ask.via).post("/mesh/v1/models/add", &gift)?;
    if args.ask.json {
        out::json_line(&model);
    } else {
        out::line(&format!("{} is served ({})", title(&model), size(&model["bytes"])));
    }
    Ok(())
}

fn rm(args: &RmArgs) -> anyhow::Result<()> {
    let version = args
        .version
        .as_ref()
        .map_or(String::new(), |version| format!("?version={}", escape(version)));
    let path = format!("/mesh/v1/models/{}{version}", escape(&args.model));
    let removed = Client::new(&args.ask.via).delete(&path)?;
    if args.ask.json {
        out::json_line(&removed);
    } else {
        let models = removed["removed"].as_array().map(Vec::as_slice).unwrap_or_default();
        models.iter().for_each(|model| out::line(&format!("{} is removed", title(model))));
    }
    Ok(())
}

/// Progress is for people at a terminal; programs read the answer.
fn show(shows: bool, text: &str) {
    if shows {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

/// One line: how far, how much, how fast, how long still.
fn progress(model: &Value) -> String {
    let number = |key: &str| model[key].as_u64().unwrap_or(0);
    let (total, done, rate) = (number("bytes"), number("bytes_done"), number("bytes_per_second"));
    if total == 0 {
        return "asking for the manifest".into();
    }
    let share = |of: u64| u64::try_from(u128::from(done) * u128::from(of) / u128::from(total));
    let marks = usize::try_from(share(BAR as u64).unwrap_or(0)).unwrap_or(0).min(BAR);
    let left = match (total.saturating_sub(done), rate) {
        (0, _) => "loading".to_owned(),
        (_, 0) => "–".to_owned(),
        (left, rate) => format!("{} s left", left.div_ceil(rate)),
    };
    format!(
        "[{}{}] {:3} %  {} of {}  {}/s  {left}   ",
        "#".repeat(marks),
        " ".repeat(BAR - marks),
        share(100).unwrap_or(100),
        size(&json!(done)),
        size(&json!(total)),
        size(&json!(rate)),
    )
}

fn table(held: &Value) -> String {
    let models = held["models"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |model: &Value| {
        let state = match model["state"].as_str() {
            Some("pulling") => format!("pulling {}", size(&model["bytes_done"])),
            Some(state @ ("waiting" | "failed")) => format!("{state}: {}", text(&model["error"])),
            _ => text(&model["state"]),
        };
        let [name, version, bundle] = ["name", "version", "bundle"].map(|key| text(&model[key]));
        vec![name, version, size(&model["bytes"]), state, bundle]
    };
    out::table(&["name", "version", "size", "state", "bundle"], models.iter().map(row))
}

fn title(model: &Value) -> String {
    let [name, version, bundle] = ["name", "version", "bundle"].map(|key| text(&model[key]));
    format!("{name} {version} ({bundle})")
}

fn size(bytes: &Value) -> String {
    let Some(bytes) = bytes.as_f64() else { return "–".into() };
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| bytes >= (1u64 << shift) as f64);
    match unit {
        Some((unit, shift)) => format!("{:.1} {unit}", bytes / (1u64 << shift) as f64),
        None => format!("{bytes} B"),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("–").to_owned()
}

/// A name as part of a URL.
fn escape(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().fold(String::new(), |mut url, byte| {
        match plain(&byte) {
            true => url.push(char::from(byte)),
            false => url += &format!("%{byte:02X}"),
        }
        url
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_is_one_line_that_says_how_far_and_how_long() {
        let model = |done| json!({"bytes": 300u64 << 20, "bytes_done": done, "bytes_per_second": 10u64 << 20});
        let line = progress(&model(150u64 << 20));
        assert!(line.contains("###############     ") && line.contains(" 50 %"), "{line}");
        assert!(line.contains("150.0 MiB of 300.0 MiB  10.0 MiB/s  15 s left"), "{line}");
        assert!(progress(&model(300u64 << 20)).contains("100 %") && !line.contains('\n'));
        assert!(progress(&json!({"bytes": 0})).contains("manifest"));
    }

    #[test]
    fn the_table_says_what_is_served_and_what_failed_and_why() {
        let shown = table(&json!({"models": [
            {"name": "a", "version": "1", "bytes": 2048, "state": "serving", "bundle": "sha256:ab"},
            {"name": "b", "version": "1", "bytes": 0, "state": "failed", "error": "nobody holds it"},
            {"bytes": 7, "state": "held", "bundle": "sha256:cd"},
        ]}));
        for part in ["serving", "2.0 KiB", "failed: nobody holds it", "held", "7 B", "sha256:cd"] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
    }

    #[test]
    fn names_are_escaped_in_a_url() {
        assert_eq!(escape("a b/ä@1"), "a%20b%2F%C3%A4%401");
    }
}
