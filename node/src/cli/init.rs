//! `hansa init`: an identity and an annotated config that passes `hansa check` as it is.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;

use super::out;
use crate::keyfile;

/// `hansa init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The node's folder; made if it is not there
    pub dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command. Nothing that exists is overwritten.
pub fn run(args: &InitArgs) -> anyhow::Result<()> {
    let dir = &args.dir;
    let (key_file, config) = (dir.join("identity.key"), dir.join("hansa.toml"));
    for path in [&key_file, &config] {
        if path.exists() {
            bail!("{} exists already and is left as it is; choose another folder", path.display());
        }
    }
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let key = keyfile::create_identity(&key_file)?;
    write_new(&config, &config_text(dir)).with_context(|| config.display().to_string())?;
    let peer = key.peer_id();
    // What its operator sends to an authority, to be completed there.
    let request = format!(
        "hansa authority issue --key AUTHORITY.key --subject {peer} --location COUNTRY \
         --control COUNTRY --operator NAME --out charter.txt"
    );
    if args.json {
        out::json_line(&json!({
            "peer_id": peer, "key_file": key_file, "config": config, "charter_request": request,
        }));
    } else {
        out::line(&format!(
            "{peer}\n\n\
             {key}  the private key: back it up, show it to nobody\n\
             {config}  the config\n\n\
             Next:\n  hansa check --config {config}\n  hansa run --config {config}\n\n\
             To join others, have an authority that they trust issue a charter:\n  {request}",
            key = key_file.display(),
            config = config.display(),
        ));
    }
    Ok(())
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

fn config_text(dir: &Path) -> String {
    let name = dir.canonicalize().ok();
    let name = name.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    let name = toml::Value::from(name.unwrap_or("node")).to_string();
    include_str!("init.toml").replace("\"NAME\"", &name)
}
