//! Revocations: an authority's signed list of the serials of charters that count no more.
//!
//! A list is a C2SP signed note with a growing epoch. The newest of each authority counts, whoever
//! brought it: [`Revocations`] keeps them and judges charters by them. Two lists of one epoch that
//! differ are the authority's fault: it is told of, and what either revokes is revoked. How lists
//! travel is the directory's; where they are kept is the host's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::charter::{Charter, CharterFault, Trust, date, read_date};
use crate::codec::{Decode, Encode};
use crate::id::Digest;
use crate::limits::{
    CLOCK_SKEW_MAX, DISPUTED_MAX, NAME_BYTES_MAX, REVOCATION_BYTES_MAX, REVOKED_MAX,
};
use crate::note::{self, NoteFault, SignerKey};
use crate::time::Utc;

const HEAD: &str = "hansa/revocations/v1";

/// What a list says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// Whose charters it speaks of: the name of the authority's key.
    pub authority: String,
    /// Grows with each list of the authority; from 1.
    pub epoch: u64,
    /// When it was signed.
    pub issued: Utc,
    /// The authority means to sign a newer one by then; strict nodes do not believe its charters
    /// after that.
    pub next_update: Utc,
    /// Serials of the charters that count no more.
    pub serials: BTreeSet<String>,
}

/// Why a list does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum RevocationFault {
    /// Longer than a list may be.
    #[error("list of {0} bytes, the limit is {REVOCATION_BYTES_MAX}")]
    TooLarge(usize),
    /// More serials than a list may have.
    #[error(
        "list of {0} serials, the limit is {REVOKED_MAX}: leave out those of charters that expired"
    )]
    TooMany(usize),
    /// Not a signed note, or its signature does not hold.
    #[error("list of revocations: {0}")]
    Note(NoteFault),
    /// A line is not what the form wants there.
    #[error("list of revocations, line {line}: {reason}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The authority that it names did not sign it, or is not trusted here.
    #[error("`{0}` did not sign its list, or is not trusted here")]
    UnknownAuthority(String),
    /// Signed too far ahead of our clock.
    #[error("list signed {0} ms in the future")]
    FromTheFuture(u64),
}

impl Revocation {
    /// The text that the authority signs.
    pub fn text(&self) -> String {
        let Self { authority, epoch, issued, next_update, serials } = self;
        let (issued, next) = (date(*issued), date(*next_update));
        let head = format!(
            "{HEAD}\nauthority {authority}\nepoch {epoch}\nissued {issued}\nnext-update {next}\n"
        );
        serials.iter().fold(head, |text, serial| text + &format!("serial {serial}\n"))
    }

    /// Signs the list. The text is read back first, so that what is signed can be read and says
    /// what was meant.
    ///
    /// # Errors
    /// When it is no list, or another's than the signer's.
    pub fn sign(&self, signer: &SignerKey) -> Result<String, RevocationFault> {
        let name = signer.verifier().name;
        if name != self.authority {
            return Err(RevocationFault::UnknownAuthority(self.authority.clone()));
        }
        let text = self.text();
        if parse(&text)?.serials != self.serials {
            return Err(line(6, "a serial cannot be written so".into()));
        }
        let note = signer.sign(&text).map_err(RevocationFault::Note)?;
        match note.len() {
            0..=REVOCATION_BYTES_MAX => Ok(note),
            bytes => Err(RevocationFault::TooLarge(bytes)),
        }
    }

    /// Reads what a note says without asking who signed it: for showing, never for deciding.
    ///
    /// # Errors
    /// When it is no list.
    pub fn read_unverified(note: &str) -> Result<Self, RevocationFault> {
        let (text, _) = note::open(note, &[]).map_err(RevocationFault::Note)?;
        parse(text)
    }

    /// Whether a note is a list of revocations by its first line, rather than a charter.
    pub fn is_one(note: &str) -> bool {
        note.lines().next() == Some(HEAD)
    }
}

/// A list whose signature holds. Only [`RevocationList::verify`] makes one.
#[derive(Debug, PartialEq, Eq)]
pub struct RevocationList {
    /// What it says.
    pub says: Revocation,
    note: String,
    digest: Digest,
}

impl RevocationList {
    /// Reads `note` as a list by an authority of `trust`.
    ///
    /// # Errors
    /// Each fault with its own reason.
    pub fn verify(note: &str, trust: &Trust, utc: Utc) -> Result<Arc<Self>, RevocationFault> {
        if note.len() > REVOCATION_BYTES_MAX {
            return Err(RevocationFault::TooLarge(note.len()));
        }
        let (text, signers) = note::open(note, trust.keys()).map_err(RevocationFault::Note)?;
        let says = parse(text)?;
        if !signers.contains(&says.authority) {
            return Err(RevocationFault::UnknownAuthority(says.authority));
        }
        if says.issued > utc + CLOCK_SKEW_MAX {
            return Err(RevocationFault::FromTheFuture(says.issued.0 - utc.0));
        }
        // Of the text: more signatures make no other list.
        let digest = Digest::of(text.as_bytes());
        Ok(Arc::new(Self { says, note: note.to_owned(), digest }))
    }

    /// The note as it travels.
    pub fn note(&self) -> &str {
        &self.note
    }

    fn head(&self) -> Head {
        let Digest(bytes) = self.digest;
        let print = u64::from_le_bytes(bytes[..8].try_into().expect("eight of 32 bytes"));
        Head { authority: self.says.authority.clone(), epoch: self.says.epoch, print }
    }
}

/// Which list of an authority somebody has.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Head {
    /// Whose.
    pub authority: String,
    /// Which.
    pub epoch: u64,
    /// The first bytes of its digest.
    pub print: u64,
}

/// What became of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is the newest of its authority.
    New,
    /// It was known.
    Known,
    /// A newer one is known.
    Older,
    /// Another of this epoch is known. What both revoke is revoked.
    Disputed,
}

/// The lists that a node knows: of each authority the newest, and what disputes it.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    by_authority: BTreeMap<String, Vec<Arc<RevocationList>>>,
}

impl Revocations {
    /// Takes a list if it says anything new.
    pub fn take(&mut self, list: &Arc<RevocationList>) -> Taken {
        let held = self.by_authority.entry(list.says.authority.clone()).or_default();
        match held.first().map(|first| list.says.epoch.cmp(&first.says.epoch)) {
            None | Some(std::cmp::Ordering::Greater) => {
                *held = vec![Arc::clone(list)];
                Taken::New
            }
            Some(std::cmp::Ordering::Less) => Taken::Older,
            Some(std::cmp::Ordering::Equal) => {
                let is_known = held.iter().any(|known| known.digest == list.digest);
                if is_known || held.len() >= DISPUTED_MAX {
                    return Taken::Known;
                }
                held.push(Arc::clone(list));
                Taken::Disputed
            }
        }
    }

    /// Whether `charter` counts at `utc`. Each of its authorities can revoke it; with `age_max` each
    /// must have said lately that it does not.
    ///
    /// # Errors
    /// Which authority revoked it, or was silent for too long.
    pub fn judge(
        &self,
        charter: &Charter,
        utc: Utc,
        age_max: Option<Duration>,
    ) -> Result<(), CharterFault> {
        for authority in &charter.authorities {
            let lists = self.by_authority.get(authority).map_or(&[][..], Vec::as_slice);
            if lists.iter().any(|list| list.says.serials.contains(&charter.serial)) {
                let (authority, serial) = (authority.clone(), charter.serial.clone());
                return Err(CharterFault::Revoked { authority, serial });
            }
            let Some(age_max) = age_max else { continue };
            let is_fresh = lists.first().is_some_and(|list| {
                utc < list.says.next_update && utc < list.says.issued + age_max
            });
            if !is_fresh {
                return Err(CharterFault::Unchecked { authority: authority.clone() });
            }
        }
        Ok(())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_authority.is_empty()
    }

    /// The newest list of each authority, and what disputes it.
    pub fn lists(&self) -> impl Iterator<Item = &Arc<RevocationList>> {
        self.by_authority.values().flatten()
    }

    /// Which lists there are.
    pub fn heads(&self) -> Vec<Head> {
        self.lists().map(|list| list.head()).collect()
    }

    /// What one who has `theirs` lacks of these.
    pub fn lacked_by(&self, theirs: &[Head]) -> Vec<Arc<RevocationList>> {
        let lacks = |list: &&Arc<RevocationList>| {
            let head = list.head();
            let of_it = || theirs.iter().filter(|theirs| theirs.authority == head.authority);
            of_it().all(|theirs| theirs.epoch <= head.epoch) && !of_it().any(|known| *known == head)
        };
        self.lists().filter(lacks).cloned().collect()
    }

    /// Whether one who has `theirs` knows better, as far as `trust` lets it.
    pub fn lacks(&self, theirs: &[Head], trust: &Trust) -> bool {
        theirs.iter().any(|head| {
            let held = self.by_authority.get(&head.authority).map_or(&[][..], Vec::as_slice);
            let is_trusted = trust.keys().iter().any(|key| key.name == head.authority);
            let is_newer = held.first().is_none_or(|first| first.says.epoch < head.epoch);
            let disputes = held.first().is_some_and(|first| first.says.epoch == head.epoch)
                && held.len() < DISPUTED_MAX
                && held.iter().all(|list| list.head() != *head);
            is_trusted && (is_newer || disputes)
        })
    }
}

fn line(line: usize, reason: String) -> RevocationFault {
    RevocationFault::Line { line, reason }
}

/// Reads the text, strictly: each line where it belongs, nothing more.
fn parse(text: &str) -> Result<Revocation, RevocationFault> {
    let lines: Vec<&str> = text.strip_suffix('\n').unwrap_or(text).split('\n').collect();
    if lines[0] != HEAD {
        return Err(line(1, format!("expected `{HEAD}`, found `{}`", lines[0])));
    }
    let value = |at: usize, key: &str| {
        let value = lines.get(at - 1).and_then(|text| text.strip_prefix(key)?.strip_prefix(' '));
        let value = value.filter(|value| (1..=NAME_BYTES_MAX).contains(&value.len()));
        value.map(str::to_owned).ok_or_else(|| line(at, format!("expected `{key} …`")))
    };
    let read =
        |at: usize, key: &str| read_date(&value(at, key)?).map_err(|reason| line(at, reason));
    let authority = value(2, "authority")?;
    let epoch = value(3, "epoch")?.parse().ok().filter(|epoch| *epoch > 0);
    let epoch = epoch.ok_or_else(|| line(3, "an epoch is a number from 1".into()))?;
    let (issued, next_update) = (read(4, "issued")?, read(5, "next-update")?);
    if next_update <= issued {
        return Err(line(5, "the next list is due before this one was issued".into()));
    }
    let count = lines.len().saturating_sub(5);
    if count > REVOKED_MAX {
        return Err(RevocationFault::TooMany(count));
    }
    let serials = (6..=lines.len()).map(|at| value(at, "serial")).collect::<Result<_, _>>()?;
    let says = Revocation { authority, epoch, issued, next_update, serials };
    // One text per meaning: otherwise two notes could say the same and hash differently.
    let canonical = says.text();
    if canonical != text {
        let at = canonical.split('\n').zip(&lines).position(|(ours, its)| ours != *its);
        let reason = "not in canonical form: serials are in order, each once".to_owned();
        return Err(line(at.unwrap_or(0) + 1, reason));
    }
    Ok(says)
}
