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
//! lei 529900HANSADEMONOD88
//! control DE
//! data-classes health,finance
//! not-before 2026-01-01T00:00:00Z
//! not-after 2026-02-01T00:00:00Z
//! ```
//!
//! The line `lei`, the operator's legal entity identifier, is absent where it has none or names none.
//! Whether a charter is valid *now* is asked by the gate, at the moment of use.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::id::PeerId;
use crate::lei::Lei;
use crate::limits::{CHARTER_BYTES_MAX, NAME_BYTES_MAX};
use crate::note::{self, NoteFault, SignerKey, VerifierKey};
use crate::place::Place;
use crate::time::Utc;

const HEAD: &str = "hansa/charter/v1";
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
    /// Its legal entity identifier, if the charter names it.
    pub lei: Option<Lei>,
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
    /// One of its authorities took it back.
    #[error("authority `{authority}` revoked the charter {serial}")]
    Revoked {
        /// Who.
        authority: String,
        /// Its serial.
        serial: String,
    },
    /// This node demands word of what is revoked, and has none of late.
    #[error("no list of what `{authority}` revoked is new enough here")]
    Unchecked {
        /// Whose.
        authority: String,
    },
}

impl Charter {
    /// The text that authorities sign.
    pub fn text(&self) -> String {
        let classes: Vec<&str> = self.data_classes.iter().map(String::as_str).collect();
        let lei = self.lei.map_or(String::new(), |lei| format!("lei {lei}\n"));
        format!(
            "{HEAD}\nserial {}\nsubject {}\nlocation {}\noperator {}\n{lei}control {}\n\
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
    /// says what was meant.
    pub fn sign(&self, signer: &SignerKey) -> Result<String, CharterFault> {
        let text = self.text();
        if parse(&text)?.data_classes != self.data_classes {
            let reason = "a data class is not empty and has no comma".into();
            let line = 7 + usize::from(self.lei.is_some());
            return Err(CharterFault::Line { line, reason });
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

    /// Keys of the authorities.
    pub fn keys(&self) -> &[VerifierKey] {
        &self.keys
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
        // One that oversteps is not made up for by one that may: it errs, or its key is another's.
        for authority in self.authorities.iter().filter(|a| signers.contains(&a.key.name)) {
            let name = authority.key.name.clone();
            if let Some(what) = authority.oversteps(&charter) {
                return Err(CharterFault::OverAsserting { authority: name, what });
            }
            charter.authorities.insert(name);
        }
        Ok(charter)
    }
}

/// Reads the text, strictly: each line where it belongs, nothing more.
fn parse(text: &str) -> Result<Charter, CharterFault> {
    // Not `str::lines`, which would pass over a carriage return.
    let mut lines = Lines { rest: text.strip_suffix('\n').unwrap_or(text).split('\n'), at: 0 };
    match lines.next() {
        Some(HEAD) => {}
        other => {
            let found = other.unwrap_or("nothing");
            return Err(lines.fault(format!("expected `{HEAD}`, found `{found}`")));
        }
    }
    let charter = Charter {
        serial: lines.value("serial")?.to_owned(),
        subject: lines.read("subject")?,
        location: lines.read("location")?,
        operator: lines.value("operator")?.to_owned(),
        lei: lines.read_if_there("lei")?,
        control: lines.read("control")?,
        data_classes: {
            let classes = classes(lines.value("data-classes")?);
            if classes.contains("") {
                return Err(lines.fault("an empty data class; none at all is `-`".into()));
            }
            classes
        },
        not_before: lines.moment("not-before")?,
        not_after: lines.moment("not-after")?,
        authorities: BTreeSet::new(),
    };
    if charter.not_after <= charter.not_before {
        return Err(lines.fault("it ends before it begins".into()));
    }
    if lines.next().is_some() {
        return Err(lines.fault("more lines than a charter has".into()));
    }
    // One text per meaning: otherwise two notes could say the same and hash differently.
    let canonical = charter.text();
    if canonical != text {
        let differs = |(ours, its): (&str, &str)| ours != its;
        let line = canonical.split('\n').zip(text.split('\n')).position(differs).unwrap_or(0) + 1;
        let expected = canonical.split('\n').nth(line - 1).unwrap_or_default();
        let reason = format!("not in canonical form: expected `{expected}`");
        return Err(CharterFault::Line { line, reason });
    }
    Ok(charter)
}

/// The lines that are left, and the number of the one that was read last.
struct Lines<'a> {
    rest: std::str::Split<'a, char>,
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        self.at += 1;
        self.rest.next()
    }

    fn fault(&self, reason: String) -> CharterFault {
        CharterFault::Line { line: self.at, reason }
    }

    /// What follows `key` on the next line.
    fn value(&mut self, key: &str) -> Result<&'a str, CharterFault> {
        let text = self.next().ok_or_else(|| self.fault(format!("`{key}` is missing")))?;
        let value = text.strip_prefix(key).and_then(|rest| rest.strip_prefix(' '));
        let value = value.filter(|value| !value.is_empty() && value.len() <= NAME_BYTES_MAX);
        value.ok_or_else(|| self.fault(format!("expected `{key} …`")))
    }

    fn read<T: FromStr<Err: Display>>(&mut self, key: &str) -> Result<T, CharterFault> {
        let value = self.value(key)?;
        value.parse().map_err(|error: T::Err| self.fault(error.to_string()))
    }

    /// The same of a line that may be absent.
    fn read_if_there<T: FromStr<Err: Display>>(
        &mut self,
        key: &str,
    ) -> Result<Option<T>, CharterFault> {
        let is_it = |line: &str| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(' '));
        match self.rest.clone().next() {
            Some(line) if is_it(line) => self.read(key).map(Some),
            _ => Ok(None),
        }
    }

    fn moment(&mut self, key: &str) -> Result<Utc, CharterFault> {
        let value = self.value(key)?;
        read_date(value).map_err(|reason| self.fault(reason))
    }
}

fn classes(text: &str) -> BTreeSet<String> {
    if text == "-" { BTreeSet::new() } else { text.split(',').map(str::to_owned).collect() }
}

/// A moment as charters write it, to the second.
pub(crate) fn date(utc: Utc) -> String {
    let seconds = i64::try_from(utc.0 / 1_000).unwrap_or(i64::MAX);
    let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    date.format(&Rfc3339).unwrap_or_default()
}

/// The moment that `text` names; what is wrong with it, if it names none.
pub(crate) fn read_date(text: &str) -> Result<Utc, String> {
    let fault = || format!("`{text}` is not a date like 2026-01-31T00:00:00Z");
    let date = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| fault())?;
    let seconds = u64::try_from(date.unix_timestamp()).map_err(|_| fault())?;
    Ok(Utc(seconds * 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([5; 32]);

    fn charter() -> Charter {
        Charter {
            serial: "7".into(),
            subject: PEER,
            location: "DE-BE".parse().unwrap(),
            operator: "Nordlicht GmbH".into(),
            lei: None,
            control: "US".parse().unwrap(),
            data_classes: ["finance", "health"].map(String::from).into(),
            not_before: Utc(1_767_225_600_000),
            not_after: Utc(1_769_904_000_000),
            authorities: BTreeSet::new(),
        }
    }

    fn signer(name: &str, seed: u8) -> SignerKey {
        SignerKey::new(name, [seed; 32]).unwrap()
    }

    fn authority(signer: &SignerKey, countries: &[&str], operators: &[&str]) -> Authority {
        let set = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
        Authority { key: signer.verifier(), countries: set(countries), operators: set(operators) }
    }

    #[test]
    fn a_charter_says_what_was_signed() {
        let (signer, charter) = (signer("harbour", 1), charter());
        let text = format!(
            "hansa/charter/v1\nserial 7\nsubject {PEER}\nlocation DE-BE\n\
             operator Nordlicht GmbH\ncontrol US\ndata-classes finance,health\n\
             not-before 2026-01-01T00:00:00Z\nnot-after 2026-02-01T00:00:00Z\n"
        );
        assert_eq!(charter.text(), text);
        let trust = Trust::new(vec![authority(&signer, &["DE", "US"], &["*"])]);
        let verified = trust.verify(&charter.sign(&signer).unwrap(), PEER).unwrap();
        let authorities = BTreeSet::from(["harbour".to_owned()]);
        assert_eq!(verified, Charter { authorities, ..charter });
    }

    #[test]
    fn a_legal_entity_identifier_follows_the_legal_name() {
        let signer = signer("harbour", 1);
        let trust = Trust::new(vec![authority(&signer, &["*"], &["*"])]);
        let named = Charter { lei: "506700GE1G29325QX363".parse().ok(), ..charter() };
        let text = named.text();
        let lines = "operator Nordlicht GmbH\nlei 506700GE1G29325QX363\ncontrol US\n";
        assert!(text.contains(lines), "{text}");
        let verified = trust.verify(&named.sign(&signer).unwrap(), PEER).unwrap();
        assert_eq!(verified.lei, named.lei);
        for (from, to, at) in [
            ("QX363", "QX364", 6),
            ("QX363", "QX36", 6),
            ("lei ", "lei  ", 6),
            ("control US\n", "control US\nlei 506700GE1G29325QX363\n", 8),
            ("lei ", "lei 506700GE1G29325QX363\nlei ", 7),
            ("finance,health", ",health", 8),
            ("2026-02-01T", "2025-02-01T", 10),
        ] {
            let fault = trust.verify(&signer.sign(&text.replace(from, to)).unwrap(), PEER);
            assert!(
                matches!(fault, Err(CharterFault::Line { line, .. }) if line == at),
                "{to}: {fault:?}"
            );
        }
        let class = Charter { data_classes: ["a,b".to_owned()].into(), ..named };
        assert!(matches!(class.sign(&signer), Err(CharterFault::Line { line: 8, .. })));
    }

    #[test]
    fn each_fault_has_its_reason() {
        let (own, other) = (signer("harbour", 1), signer("other", 2));
        let all = Trust::new(vec![authority(&own, &["*"], &["*"])]);
        let note = charter().sign(&own).unwrap();
        let fault = |trust: &Trust, note: &str, peer| trust.verify(note, peer).unwrap_err();

        let foreign = PeerId([6; 32]);
        assert_eq!(fault(&all, &note, foreign), CharterFault::ForeignKey(PEER));
        let strange = charter().sign(&other).unwrap();
        assert_eq!(fault(&all, &strange, PEER), CharterFault::UnknownAuthority("other".into()));
        let forged = note.replace("location DE-BE", "location FR");
        let expected = CharterFault::Note(NoteFault::Forged("harbour".into()));
        assert_eq!(fault(&all, &forged, PEER), expected);
        let large = note.clone() + &"— x AAAAAAAA\n".repeat(200);
        assert_eq!(fault(&all, &large, PEER), CharterFault::TooLarge(large.len()));
        for (countries, operators, what) in [
            (["FR", "US"], "*", "location DE-BE"),
            (["DE", "FR"], "*", "control US"),
            (["DE", "US"], "Somebody", "operator Nordlicht GmbH"),
        ] {
            let trust = Trust::new(vec![authority(&own, &countries, &[operators])]);
            let (authority, what) = ("harbour".into(), what.into());
            assert_eq!(fault(&trust, &note, PEER), CharterFault::OverAsserting { authority, what });
        }
    }

    #[test]
    fn a_line_that_does_not_belong_is_named() {
        let own = signer("harbour", 1);
        let trust = Trust::new(vec![authority(&own, &["*"], &["*"])]);
        for (from, to, at) in [
            ("charter/v1", "charter/v2", 1),
            ("serial 7\n", "", 2),
            ("serial 7\n", "serial \n", 2),
            ("serial 7\n", "serial 7\r\n", 2),
            ("location DE-BE", "location UK", 4),
            ("location DE-BE", "location  DE-BE", 4),
            ("control US\n", "control us\n", 6),
            ("finance,health", "health,finance", 7),
            ("finance,health", ",health", 7),
            ("2026-01-01T00:00:00Z", "2026-01-01", 8),
            ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00+01:00", 8),
            ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", 9),
            ("not-after 2026-02-01T00:00:00Z\n", "", 9),
            ("not-after 2026-02-01T00:00:00Z\n", "not-after 2026-02-01T00:00:00Z\nmore x\n", 10),
        ] {
            let text = charter().text().replace(from, to);
            match trust.verify(&own.sign(&text).unwrap_or_default(), PEER) {
                Err(CharterFault::Line { line, .. }) => assert_eq!(line, at, "{to:?}"),
                // A carriage return is a fault of the note already.
                Err(CharterFault::Note(_)) => assert!(to.contains('\r'), "{to:?}"),
                other => panic!("{to:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_would_read_back_otherwise_is_not_signed() {
        let own = signer("harbour", 1);
        for class in ["", "-", "a,b"] {
            let charter = Charter { data_classes: [class.to_owned()].into(), ..charter() };
            assert!(charter.sign(&own).is_err(), "{class:?}");
        }
        let operator = "Nordlicht GmbH\ncontrol DE".to_owned();
        assert!(Charter { operator, ..charter() }.sign(&own).is_err());
    }
}
