//! `hansa authority revoke`: the next list of an authority's revocations, made offline of the last
//! one. Nodes take it from a file and tell each other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::note::signer_names;
use hansa_core::revocation::{Revocation, RevocationList};
use hansa_core::time::Utc;
use serde_json::json;

use super::out;
use crate::clock::Clock;
use crate::keyfile;

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// `hansa authority revoke`
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The authority's private key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The last list of this authority
    #[arg(long, value_name = "FILE", required_unless_present = "first")]
    pub previous: Option<PathBuf>,
    /// There is no earlier list
    #[arg(long, conflicts_with = "previous")]
    pub first: bool,
    /// Serials to revoke; none renews the list
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub serial: Vec<String>,
    /// Charters to revoke, by their files
    #[arg(long, value_name = "FILE")]
    pub charter: Vec<PathBuf>,
    /// Serials to leave out from now on: of charters that have expired
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub forget: Vec<String>,
    /// The next list is signed within so many days
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=366))]
    pub days: u32,
    /// Where the list goes; standard output by default
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(args: &RevokeArgs) -> anyhow::Result<()> {
    let signer = keyfile::read_signer(&args.key)?;
    let key = signer.verifier();
    let (authority, utc) = (key.name.clone(), Clock::start().now().utc);
    let any = || BTreeSet::from(["*".to_owned()]);
    let trust = Trust::new(vec![Authority { key, countries: any(), operators: any() }]);
    let mut list = Revocation {
        authority: authority.clone(),
        epoch: 0,
        issued: Utc(0),
        next_update: Utc(0),
        serials: BTreeSet::new(),
    };
    if let Some(file) = &args.previous {
        let at = || file.display().to_string();
        let note = std::fs::read_to_string(file).with_context(at)?;
        // Only its own list goes on: another's would become this authority's word.
        list = RevocationList::verify(&note, &trust, utc).with_context(at)?.says.clone();
    }
    for file in &args.charter {
        let at = || file.display().to_string();
        let note = std::fs::read_to_string(file).with_context(at)?;
        let charter = Charter::read_unverified(&note).with_context(at)?;
        let charter = trust.verify(&note, charter.subject).with_context(at)?;
        list.serials.insert(charter.serial);
    }
    for serial in &args.serial {
        if !list.serials.insert(serial.clone()) {
            bail!("--serial {serial}: it is revoked already");
        }
    }
    for serial in &args.forget {
        if !list.serials.remove(serial) {
            bail!("--forget {serial}: the list does not name it");
        }
    }
    list.epoch += 1;
    list.issued = Utc(utc.0 / 1_000 * 1_000);
    list.next_update = list.issued + DAY * args.days;
    let note = list.sign(&signer)?;
    if let Some(file) = &args.out {
        // Whole or not at all: a node may be looking.
        let draft = file.with_extension("draft");
        let written = std::fs::write(&draft, &note).and_then(|()| std::fs::rename(&draft, file));
        written.with_context(|| file.display().to_string())?;
    }
    if args.json {
        out::json_line(&json!({
            "authority": authority, "epoch": list.epoch, "serials": list.serials,
            "next_update": list.next_update, "file": args.out, "list": note,
        }));
    } else if let Some(file) = &args.out {
        let (file, serials) = (file.display(), list.serials.len());
        out::line(&format!("{file}: list {} of {authority}, {serials} serials", list.epoch));
    } else {
        out::line(&note);
    }
    Ok(())
}

/// Shows a list, verified under `trust` if that is given.
pub(super) fn inspect(note: &str, trust: Option<&Trust>, as_json: bool) -> anyhow::Result<()> {
    let utc = Clock::start().now().utc;
    let says = match trust {
        Some(trust) => RevocationList::verify(note, trust, utc)?.says.clone(),
        None => Revocation::read_unverified(note)?,
    };
    let (signers, is_due) = (signer_names(note), says.next_update <= utc);
    if as_json {
        let verified = trust.map(|_| &says.authority);
        out::json_line(&json!({
            "revocations": says, "signers": signers, "verified": verified, "update_due": is_due,
        }));
        return Ok(());
    }
    let verified = match trust {
        Some(_) => format!("verified: {}", says.authority),
        None => "by nobody: give --authority KEY to verify".to_owned(),
    };
    let state = if is_due { "a newer list is due" } else { "no newer list is due yet" };
    let (text, signers) = (says.text(), signers.join(", "));
    out::line(&format!("{}\nsigned by {signers}; {verified}\n{state}", text.trim_end()));
    Ok(())
}
