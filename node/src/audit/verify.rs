//! Holds a log's folder against its checkpoint, and its receipts against charters and authorities:
//! everything that an auditor can find out from files alone.

use std::collections::BTreeMap;

use hansa_core::charter::{Charter, Trust};
use hansa_core::id::{Digest, PeerId};
use hansa_core::log::check::{LogFault, check};
use hansa_core::log::checkpoint::Checkpoint;
use hansa_core::log::cosign::{Cosignature, cosignatures};
use hansa_core::log::tile::{Kind, Tile, WIDTH};
use hansa_core::receipt::{Party, Receipt, date, leaf};
use hansa_core::time::Utc;
use serde::Serialize;

use super::error::LogError;
use super::reader::Reader;
use crate::limits::{AUDIT_DEFECTS_MAX, AUDIT_VERIFY_TRIES_MAX};

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether there is no defect.
    pub ok: bool,
    /// Whose log it is.
    pub keeper: Option<PeerId>,
    /// Entries under the checkpoint, deleted ones too.
    pub size: u64,
    /// Receipts that were read.
    pub receipts: u64,
    /// Receipts that the keeper deleted, and are known by their hashes only.
    pub deleted: u64,
    /// Receipts in the journal, which no checkpoint covers yet.
    pub unsigned: u64,
    /// Charters that receipts name.
    pub charters: u64,
    /// Names of the authorities that signed them, if any were given to verify with.
    pub authorities: Vec<String>,
    /// Who cosigned the log, and of what size it was then.
    pub cosigned: Vec<Cosignature>,
    /// That size.
    pub cosigned_size: u64,
    /// The first receipt's start.
    pub from: Option<String>,
    /// The last receipt's end.
    pub until: Option<String>,
    /// What is wrong, the first hundred.
    pub defects: Vec<String>,
}

/// Verifies the log; with `trust`, also who attested its keeper. What is wrong is in the report. It is
/// looked at until the same is found twice: a node that writes it meanwhile looks like one that is torn.
pub fn verify(reader: &Reader, trust: Option<&Trust>) -> Report {
    let mut seen = None;
    for _ in 0..AUDIT_VERIFY_TRIES_MAX {
        let before = reader.checkpoint().ok();
        let report = verify_once(reader, trust);
        if report.ok || (before == reader.checkpoint().ok() && seen.as_ref() == Some(&report)) {
            return report;
        }
        seen = Some(report);
    }
    let mut report = verify_once(reader, trust);
    if report.ok {
        return report;
    }
    let hint = "a node writes the log while it is read: verify a copy, or stop the node";
    report.defects.insert(0, hint.to_owned());
    report
}

fn verify_once(reader: &Reader, trust: Option<&Trust>) -> Report {
    let mut report = Report::default();
    let mut receipts = Receipts { reader, trust, keeper: None, charters: BTreeMap::new() };
    let mut span: Option<(Utc, Utc)> = None;
    let checked = tiles(
        reader,
        |index, entry, report| {
            match receipts.check(entry) {
                Ok(receipt) => {
                    let (from, until) = span.unwrap_or((receipt.started, receipt.ended));
                    span = Some((from.min(receipt.started), until.max(receipt.ended)));
                }
                Err(defect) => report.defect(format!("receipt {index}: {defect}")),
            }
            report.receipts += 1;
        },
        &mut report,
    );
    if let Err(error) = checked {
        report.defect(error.to_string());
    }
    report.from = span.map(|(from, _)| date(from));
    report.until = span.map(|(_, until)| date(until));
    report.charters = receipts.charters.len() as u64;
    let attested = receipts.charters.values().filter_map(|found| found.as_ref().ok());
    let mut names: Vec<_> = attested.flat_map(|(_, charter)| charter.authorities.clone()).collect();
    names.sort();
    names.dedup();
    report.authorities = names;
    report.ok = report.defects.is_empty();
    report
}

impl Report {
    fn defect(&mut self, defect: String) {
        if self.defects.len() < AUDIT_DEFECTS_MAX {
            self.defects.push(defect);
        }
    }
}

/// A fault of the files, or that they cannot be read.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Log(#[from] LogFault),
    #[error(transparent)]
    Read(#[from] LogError),
}

fn tiles(
    reader: &Reader,
    mut each: impl FnMut(u64, &[u8], &mut Report),
    report: &mut Report,
) -> Result<(), Fault> {
    let note = reader.checkpoint()?;
    let note = note.ok_or_else(|| LogError::Absent("there is no checkpoint".into()))?;
    let origin = Checkpoint::open(&note).map_err(LogFault::from)?.0.origin;
    let minimum = reader.minimum(&origin)?;
    let checked = check(
        &note,
        minimum,
        |tile| Ok::<_, Fault>(reader.read(tile)?),
        |index, entry| {
            each(index, entry, report);
            Ok(())
        },
    )?;
    report.keeper = Some(checked.keeper);
    report.size = checked.checkpoint.size;
    report.deleted = checked.pruned;
    cosigned(reader, &checked.checkpoint, report)?;
    journals(reader, checked.checkpoint.size, each, report)
}

fn cosigned(reader: &Reader, newest: &Checkpoint, report: &mut Report) -> Result<(), Fault> {
    // The checkpoint itself may carry cosignatures; none is the rule.
    let note = reader.checkpoint()?.unwrap_or_default();
    if let Err(fault) = cosignatures(&note) {
        report.defect(format!("checkpoint: {fault}"));
    }
    let Some(note) = reader.cosigned()? else { return Ok(()) };
    let then = Checkpoint::open(&note).map_err(LogFault::from)?.0;
    match cosignatures(&note) {
        Err(fault) => report.defect(format!("cosigned: {fault}")),
        Ok(_) if then.origin != newest.origin || then.size > newest.size => {
            report.defect("cosigned: of another log, or of a later state of this one".into());
        }
        Ok(_) if reader.frontier(then.size)?.root() != then.root => {
            report.defect("cosigned: peers saw another log under this log's name".into());
        }
        Ok(found) => (report.cosigned, report.cosigned_size) = (found, then.size),
    }
    Ok(())
}

/// What is in the journals: entries that the checkpoint covers must be the same, others are new.
fn journals(
    reader: &Reader,
    size: u64,
    mut each: impl FnMut(u64, &[u8], &mut Report),
    report: &mut Report,
) -> Result<(), Fault> {
    let journals = reader.journals()?;
    for (scan, length) in &journals {
        if scan.damaged {
            report.defect("journal: it has changed since it was written".into());
        } else if scan.len as u64 != *length {
            report.defect(
                "journal: it ends in the middle of a batch, which was acknowledged to nobody; the \
                 node cuts it off when it starts"
                    .into(),
            );
        }
    }
    let mut next = size;
    for batch in journals.into_iter().flat_map(|(scan, _)| scan.batches) {
        for (index, _, entry) in batch.into_entries() {
            if index < size {
                let tile = Tile {
                    kind: Kind::Hashes(0),
                    index: index / WIDTH,
                    width: WIDTH.min(size - index / WIDTH * WIDTH),
                };
                let hashes = reader.expect(tile)?;
                let at = usize::try_from(index % WIDTH).expect("below 256") * 32;
                if hashes.get(at..at + 32) != Some(&leaf(&entry).0) {
                    report.defect(format!("journal: receipt {index} is another in the tiles"));
                }
            } else if index == next {
                each(index, &entry, report);
                report.unsigned += 1;
                next += 1;
            } else {
                report.defect(format!("journal: receipts before {index} are missing"));
                next = index + 1;
            }
        }
    }
    Ok(())
}

/// Receipts against charters. A log names few charters and many receipts, so each charter is
/// verified once.
struct Receipts<'a> {
    reader: &'a Reader,
    trust: Option<&'a Trust>,
    keeper: Option<PeerId>,
    charters: BTreeMap<Digest, Result<(Party, Charter), String>>,
}

impl Receipts<'_> {
    fn check(&mut self, entry: &[u8]) -> Result<Receipt, String> {
        let receipt = Receipt::open(entry).map_err(|fault| fault.to_string())?;
        let keeper = receipt.keeper();
        if *self.keeper.get_or_insert_with(|| self.reader.keeper().unwrap_or(keeper.peer))
            != keeper.peer
        {
            return Err(format!("it is kept by {}, whose log this is not", keeper.peer));
        }
        let (digest, peer) = (keeper.charter, keeper.peer);
        let (reader, trust) = (self.reader, self.trust);
        let found =
            self.charters.entry(digest).or_insert_with(|| charter(reader, trust, &digest, peer));
        let (party, charter) = found.as_ref().map_err(Clone::clone)?;
        let stated = Party { contradicted: keeper.contradicted, ..party.clone() };
        if stated != *keeper {
            return Err("it differs from its keeper's charter".into());
        }
        if !charter.valid_at(receipt.started) {
            return Err("its keeper's charter was not valid when the job started".into());
        }
        Ok(receipt)
    }
}

fn charter(
    reader: &Reader,
    trust: Option<&Trust>,
    digest: &Digest,
    peer: PeerId,
) -> Result<(Party, Charter), String> {
    let note = reader.charter(digest).map_err(|error| error.to_string())?;
    let note = note.ok_or_else(|| format!("its keeper's charter {digest} is missing"))?;
    if Digest::of(note.as_bytes()) != *digest {
        return Err(format!("the charter {digest} has changed"));
    }
    let charter = match trust {
        Some(trust) => trust.verify(&note, peer),
        None => Charter::read_unverified(&note),
    };
    let charter = charter.map_err(|fault| format!("charter {digest}: {fault}"))?;
    Ok((Party::of(&charter, &note, false), charter))
}
