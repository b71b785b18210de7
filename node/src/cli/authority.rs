//! `hansa authority`: the offline side of charters and of their revocation (`revoke`). It needs no node and no network; an authority's
//! key belongs on a machine that has neither.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use hansa_core::charter::{Authority, Charter, Trust};
use hansa_core::id::PeerId;
use hansa_core::lei::Lei;
use hansa_core::limits::{CHARTER_BYTES_MAX, CLOCK_SKEW_MAX};
use hansa_core::note::{SignerKey, VerifierKey, signer_names};
use hansa_core::place::Place;
use hansa_core::revocation::Revocation;
use hansa_core::time::Utc;
use serde_json::json;

use super::out;
use super::revoke::RevokeArgs;
use crate::clock::Clock;
use crate::keyfile;

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// `hansa authority …`
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Makes an authority's key and prints its public half
    New(NewArgs),
    /// Signs a charter
    Issue(IssueArgs),
    /// Signs a list of charters that count no more: the last one with more serials
    Revoke(RevokeArgs),
    /// Shows what a charter or a list of revocations says and who signed it, or a key's public half
    Inspect(InspectArgs),
}

/// `hansa authority new`
#[derive(Debug, Args)]
pub struct NewArgs {
    /// Where the private key goes; nothing is overwritten
    #[arg(value_name = "KEYFILE")]
    pub file: PathBuf,
    /// Name of the authority, such as a domain of yours
    #[arg(long)]
    pub name: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `hansa authority issue`
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// The authority's private key
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The peer, as `hansa init` printed it
    #[arg(long, value_name = "PEERID", required_unless_present = "cosign")]
    pub subject: Option<PeerId>,
    /// Where the peer stands: DE, DE-BE
    #[arg(long, value_name = "PLACE", required_unless_present = "cosign")]
    pub location: Option<Place>,
    /// The country whose law reaches the operator's ultimate parent
    #[arg(long, value_name = "COUNTRY", required_unless_present = "cosign")]
    pub control: Option<Place>,
    /// The operator's legal name
    #[arg(long, value_name = "NAME", required_unless_present = "cosign")]
    pub operator: Option<String>,
    /// The operator's legal entity identifier (ISO 17442), if it has one
    #[arg(long, value_name = "LEI")]
    pub lei: Option<Lei>,
    /// Classes of data that the peer may see
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub data_class: Vec<String>,
    /// How long the charter is valid: a short time, since nodes take the next one while they run
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub days: u32,
    /// Serial number, unique with the authority; drawn at random by default
    #[arg(long)]
    pub serial: Option<String>,
    /// Add a signature to this charter instead of making one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["subject", "location", "control", "operator", "lei", "data_class", "serial"])]
    pub cosign: Option<PathBuf>,
    /// Where the charter goes; standard output by default
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `hansa authority inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The charter or the list
    pub file: PathBuf,
    /// A public key to verify with; once for each
    #[arg(long = "authority", value_name = "KEY")]
    pub authorities: Vec<VerifierKey>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(command: &AuthorityCommand) -> anyhow::Result<()> {
    match command {
        AuthorityCommand::New(args) => new(args),
        AuthorityCommand::Issue(args) => issue(args),
        AuthorityCommand::Revoke(args) => super::revoke::run(args),
        AuthorityCommand::Inspect(args) => inspect(args),
    }
}

fn new(args: &NewArgs) -> anyhow::Result<()> {
    let signer = SignerKey::new(&args.name, keyfile::draw_seed()).context("--name")?;
    keyfile::write_signer(&args.file, &signer)?;
    tell_key(&signer, &args.file, args.json);
    Ok(())
}

/// The public half of an authority's key, and where it goes.
fn tell_key(signer: &SignerKey, file: &Path, json: bool) {
    let VerifierKey { name, .. } = signer.verifier();
    let key = signer.verifier().to_string();
    if json {
        out::json_line(&json!({"name": name, "key": key, "file": file}));
    } else {
        out::line(&format!(
            "{key}\n\n{file}  the private key: keep it offline\n\n\
             Nodes that trust it say, in their config:\n\n[[authority]]\nname = {name:?}\n\
             key = {key:?}\nmay_assert = {{ countries = [\"DE\"], operators = [\"*\"] }}",
            file = file.display(),
        ));
    }
}

fn issue(args: &IssueArgs) -> anyhow::Result<()> {
    let signer = keyfile::read_signer(&args.key)?;
    let note = match &args.cosign {
        Some(file) => cosign(&signer, file)?,
        None => charter(args)?.sign(&signer)?,
    };
    if note.len() > CHARTER_BYTES_MAX {
        bail!("the charter would have {} bytes, peers take {CHARTER_BYTES_MAX}", note.len());
    }
    let charter = Charter::read_unverified(&note)?;
    if let Some(file) = &args.out {
        std::fs::write(file, &note).with_context(|| file.display().to_string())?;
    }
    if args.json {
        out::json_line(&json!({
            "serial": charter.serial, "subject": charter.subject, "file": args.out,
            "signers": signer_names(&note), "charter": note,
        }));
    } else if let Some(file) = &args.out {
        out::line(&format!(
            "{}: charter {} of {}",
            file.display(),
            charter.serial,
            charter.subject
        ));
    } else {
        out::line(&note);
    }
    Ok(())
}

/// The charter that the arguments describe, valid from now.
fn charter(args: &IssueArgs) -> anyhow::Result<Charter> {
    let missing = "clap demands it without --cosign";
    // A little before now: a peer whose clock is slow is to take it at once.
    let now = Clock::start().now().utc;
    let skew = u64::try_from(CLOCK_SKEW_MAX.as_millis()).expect("a minute");
    let whole_seconds = |utc: Utc| Utc(utc.0 / 1_000 * 1_000);
    let serial = args.serial.clone().unwrap_or_else(|| {
        keyfile::draw_seed()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    });
    Ok(Charter {
        serial,
        subject: args.subject.expect(missing),
        location: args.location.clone().expect(missing),
        operator: args.operator.clone().expect(missing),
        lei: args.lei,
        control: args.control.clone().expect(missing),
        data_classes: args.data_class.iter().cloned().collect(),
        not_before: whole_seconds(Utc(now.0.saturating_sub(skew))),
        not_after: whole_seconds(now + DAY * args.days),
        authorities: BTreeSet::new(),
    })
}

/// The charter in `file` with one signature more.
fn cosign(signer: &SignerKey, file: &Path) -> anyhow::Result<String> {
    let at = || file.display().to_string();
    let note = std::fs::read_to_string(file).with_context(at)?;
    // Only a charter is signed: the key would make any text look like the authority's word.
    Charter::read_unverified(&note).with_context(at)?;
    let name = signer.verifier().name;
    if signer_names(&note).contains(&name) {
        bail!("{} is signed by {name} already", at());
    }
    Ok(signer.sign(&note)?)
}

fn inspect(args: &InspectArgs) -> anyhow::Result<()> {
    let at = || args.file.display().to_string();
    let note = std::fs::read_to_string(&args.file).with_context(at)?;
    if Revocation::is_one(&note) {
        let anything = trust_in(&args.authorities);
        let trust = (!args.authorities.is_empty()).then_some(&anything);
        return super::revoke::inspect(&note, trust, args.json).with_context(at);
    }
    if let Ok(signer) = SignerKey::from_secret_text(note.trim()) {
        tell_key(&signer, &args.file, args.json);
        return Ok(());
    }
    let mut charter = Charter::read_unverified(&note).with_context(at)?;
    if !args.authorities.is_empty() {
        let trust = trust_in(&args.authorities);
        charter = trust.verify(&note, charter.subject).with_context(at)?;
    }
    let valid = charter.valid_at(Clock::start().now().utc);
    let signers = signer_names(&note);
    if args.json {
        out::json_line(&json!({
            "charter": charter, "signers": signers, "verified": charter.authorities,
            "valid_now": valid,
        }));
        return Ok(());
    }
    let verified: Vec<&str> = charter.authorities.iter().map(String::as_str).collect();
    let verified = match verified.as_slice() {
        [] => "by nobody: give --authority KEY to verify".to_owned(),
        names => format!("verified: {}", names.join(", ")),
    };
    out::line(&format!(
        "{}\nsigned by {}; {verified}\n{}",
        charter.text().trim_end(),
        signers.join(", "),
        if valid { "valid now" } else { "not valid now" },
    ));
    Ok(())
}

/// What each may assert is the trusting node's to say; here only the signatures count.
fn trust_in(keys: &[VerifierKey]) -> Trust {
    let anything = || BTreeSet::from(["*".to_owned()]);
    let authority = |key: &VerifierKey| Authority {
        key: key.clone(),
        countries: anything(),
        operators: anything(),
    };
    Trust::new(keys.iter().map(authority).collect())
}
