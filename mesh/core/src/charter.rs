//! Charters: an authority's signed statement of who a peer is.
//!
//! A charter is a C2SP signed note ([`crate::note`]) with one `key value` line each, in this
//! order:
//!
//! ```text
//! hansa/charter/v1
//! serial 7f3a…
//! subject 12D3KooW…
//! location DE-BE
//! operator Nordlicht GmbH
//! control DE
//! data-classes health,finance
//! not-before 2026-01-01T00:00:00Z
//! not-after 2026-02-01T00:00:00Z
//! ```
//!
//! Whether it is valid *now* is asked by the gate, at the moment of use.

use std::collections::BTreeSet;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::id::PeerId;
use crate::limits::{CHARTER_BYTES_MAX, NAME_BYTES_MAX};
use crate::note::{self, NoteFault, SignerKey, VerifierKey};
use crate::place::Place;
use crate::time::Utc;

const HEAD: &str = "hansa/charter/v1";
/// Where the data classes stand.
const CLASSES_LINE: usize = 7;

/// What a charter says, and who says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Charter {
    /// Unique with its authority.
    pub serial: String,
    /// Whose charter this is. The TLS key of the data plane is the same key.
    pub subject: PeerId,
    /// Where the peer stands.
    pub location: Place,
    /// The legal name of who runs it.
    pub operator: String,
    /// The country whose law reaches the operator's ultimate parent.
    pub control: Place,
    /// Classes of data that it may see.
    pub data_classes: BTreeSet<String>,
    /// Valid from.
    pub not_before: Utc,
    /// Valid until.
    pub not_after: Utc,
    /// Names of the trusted authorities whose signatures verified and who may assert all of the
    /// above.
    pub authorities: BTreeSet<String>,
}

/// Why a charter does not count here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum CharterFault {
    /// There is none.
    #[error("no charter")]
    Absent,
    /// Longer than a charter may be.
    #[error("charter of {0} bytes, the limit is {CHARTER_BYTES_MAX}")]
    TooLarge(usize),
    /// Not a signed note, or its signature does not hold.
    #[error("charter: {0}")]
    Note(NoteFault),
    /// A line is not what the form wants there.
    #[error("charter line {line}: {reason}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// It is another peer's.
    #[error("charter of another peer, {0}")]
    ForeignKey(PeerId),
    /// None of its signers is trusted here.
    #[error("no trusted authority signed the charter; it is signed by {0}")]
    UnknownAuthority(String),
    /// A trusted authority asserts what it may not.
    #[error("authority `{authority}` may not assert {what}")]
    OverAsserting {
        /// Who.
        authority: String,
        /// What.
        what: String,
    },
}

impl Charter {
    /// The text that authorities sign.
    pub fn text(&self) -> String {
        let classes: Vec<&str> = self.data_classes.iter().map(String::as_str).collect();
        format!(
            "{HEAD}\nserial {}\nsubject {}\nlocation {}\noperator {}\ncontrol {}\n\
             data-classes {}\nnot-before {}\nnot-after {}\n",
            self.serial,
            self.subject,
            self.location,
            self.operator,
            self.control,
            if classes.is_empty() { "-".to_owned() } else { classes.join(",") },
            date(self.not_before),
            date(self.not_after),
        )
    }

    /// Signs the charter. The text is read back first, so that what is signed can be read and
    /// means what was said: a class `a,b` would come back as two.
    pub fn sign(&self, signer: &SignerKey) -> Result<String, CharterFault> {
        let text = self.text();
        if parse(&text)?.data_classes != self.data_classes {
            let reason = "a data class has no comma and is not `-`".into();
            return Err(CharterFault::Line { line: CLASSES_LINE, reason });
        }
        signer.sign(&text).map_err(CharterFault::Note)
    }

    /// Reads what a note says without asking who signed it: for showing, never for deciding.
    pub fn read_unverified(note: &str) -> Result<Self, CharterFault> {
        let (text, _) = note::open(note, &[]).map_err(CharterFault::Note)?;
        parse(text)
    }

    /// Whether the charter is valid at `utc`.
    pub fn valid_at(&self, utc: Utc) -> bool {
        self.not_before <= utc && utc < self.not_after
    }
}

/// An authority that a node trusts, and what it may assert. `*` is anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its public key; the name is the key's.
    pub key: VerifierKey,
    /// Countries (as locations and as control).
    pub countries: BTreeSet<String>,
    /// Operators.
    pub operators: BTreeSet<String>,
}

impl Authority {
    /// What of `charter` this authority may not assert.
    fn oversteps(&self, charter: &Charter) -> Option<String> {
        let may = |set: &BTreeSet<String>, value: &str| set.contains("*") || set.contains(value);
        if !may(&self.countries, charter.location.country()) {
            Some(format!("location {}", charter.location))
        } else if !may(&self.countries, charter.control.country()) {
            Some(format!("control {}", charter.control))
        } else if !may(&self.operators, &charter.operator) {
            Some(format!("operator {}", charter.operator))
        } else {
            None
        }
    }
}

/// The authorities that a node trusts.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    authorities: Vec<Authority>,
    keys: Vec<VerifierKey>,
}

impl Trust {
    /// Trusts `authorities`, each for what it may assert.
    pub fn new(authorities: Vec<Authority>) -> Self {
        let keys = authorities.iter().map(|authority| authority.key.clone()).collect();
        Self { authorities, keys }
    }

    /// Reads `note` as the charter of `subject`: every fault has its own reason.
    pub fn verify(&self, note: &str, subject: PeerId) -> Result<Charter, CharterFault> {
        if note.len() > CHARTER_BYTES_MAX {
            return Err(CharterFault::TooLarge(note.len()));
        }
        let (text, signers) = note::open(note, &self.keys).map_err(CharterFault::Note)?;
        let mut charter = parse(text)?;
        if charter.subject != subject {
            return Err(CharterFault::ForeignKey(charter.subject));
        }
        if signers.is_empty() {
            return Err(CharterFault::UnknownAuthority(note::signer_names(note).join(", ")));
        }
        for authority in self.authorities.iter().filter(|a| signers.contains(&a.key.name)) {
            if let Some(what) = authority.oversteps(&charter) {
                return Err(CharterFault::OverAsserting {
                    authority: authority.key.name.clone(),
                    what,
                });
            }
            charter.authorities.insert(authority.key.name.clone());
        }
        Ok(charter)
    }
}

/// Reads the text, strictly: each line where it belongs, nothing more.
fn parse(text: &str) -> Result<Charter, CharterFault> {
    let mut lines = (1..).zip(text.lines());
    let fault = |line, reason: String| CharterFault::Line { line, reason };
    match lines.next() {
        Some((_, HEAD)) => {}
        other => {
            let found = other.map_or("nothing", |(_, line)| line);
            return Err(fault(1, format!("expected `{HEAD}`, found `{found}`")));
        }
    }
    let mut value = |key: &'static str| {
        let (line, text) = lines.next().ok_or_else(|| fault(0, format!("`{key}` is missing")))?;
        let value = text.strip_prefix(key).and_then(|rest| rest.strip_prefix(' '));
        let value = value.filter(|value| !value.is_empty() && value.len() <= NAME_BYTES_MAX);
        let value = value.ok_or_else(|| fault(line, format!("expected `{key} …`")))?;
        Ok::<_, CharterFault>((line, value))
    };
    fn read<T: std::str::FromStr<Err: std::fmt::Display>>(
        (line, text): (usize, &str),
    ) -> Result<T, CharterFault> {
        text.parse().map_err(|error: T::Err| CharterFault::Line { line, reason: error.to_string() })
    }
    let charter = Charter {
        serial: value("serial")?.1.to_owned(),
        subject: read(value("subject")?)?,
        location: read(value("location")?)?,
        operator: value("operator")?.1.to_owned(),
        control: read(value("control")?)?,
        data_classes: classes(value("data-classes")?.1),
        not_before: read_date(value("not-before")?)?,
        not_after: read_date(value("not-after")?)?,
        authorities: BTreeSet::new(),
    };
    if let Some((line, _)) = lines.next() {
        return Err(fault(line, "more lines than a charter has".into()));
    }
    if charter.data_classes.contains("") {
        return Err(fault(CLASSES_LINE, "a data class is empty".into()));
    }
    if charter.not_after <= charter.not_before {
        return Err(fault(9, "it ends before it begins".into()));
    }
    // One text per meaning: otherwise two notes could say the same and hash differently.
    if charter.text() != text {
        return Err(fault(0, "it is not in canonical form".into()));
    }
    Ok(charter)
}

fn classes(text: &str) -> BTreeSet<String> {
    if text == "-" { BTreeSet::new() } else { text.split(',').map(str::to_owned).collect() }
}

fn date(utc: Utc) -> String {
    let seconds = i64::try_from(utc.0 / 1_000).unwrap_or(i64::MAX);
    let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    date.format(&Rfc3339).unwrap_or_default()
}

fn read_date((line, text): (usize, &str)) -> Result<Utc, CharterFault> {
    let fault = || CharterFault::Line {
        line,
        reason: format!("`{text}` is not a date like 2026-01-31T00:00:00Z"),
    };
    let date = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| fault())?;
    let seconds = u64::try_from(date.unix_timestamp()).map_err(|_| fault())?;
    Ok(Utc(seconds * 1_000))
}
