//! Receipts for other programs: JSON Lines, one receipt each, and CSV for a register of information
//! on ICT third-party arrangements (DORA, Regulation (EU) 2022/2554, article 28): who provides the
//! service, under whose control, and the countries of provision, storage and processing.
//!
//! The CSV adds up, one line for each provider, place and model. It says what the log proves and
//! nothing of contracts: references, functions and reliance are the register's own.

use std::collections::{BTreeMap, BTreeSet};

use hansa_core::id::PeerId;
use hansa_core::lei::Lei;
use hansa_core::receipt::{Receipt, date};
use hansa_core::time::Utc;

use super::totals::{Filter, Sum};

/// The columns of the CSV.
pub const COLUMNS: [&str; 18] = [
    "provider",
    "provider_lei",
    "provider_control",
    "rank",
    "service",
    "model",
    "bundle",
    "country_of_provision",
    "data_stored",
    "country_of_storage",
    "country_of_processing",
    "peers",
    "first_use",
    "last_use",
    "jobs",
    "rows",
    "device_seconds",
    "price",
];

/// One line of the register, as it adds up.
#[derive(Default)]
pub struct Register(BTreeMap<Key, Line>);

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    operator: String,
    lei: Option<Lei>,
    control: String,
    location: String,
    model: String,
    bundle: String,
    rank: u8,
}

#[derive(Default)]
struct Line {
    sum: Sum,
    peers: BTreeSet<PeerId>,
    span: Option<(Utc, Utc)>,
}

impl Register {
    /// Counts a receipt, if the filter means it.
    pub fn count(&mut self, filter: &Filter, receipt: &Receipt) {
        let Some(ran) = filter.ran(receipt) else { return };
        let mut seen = BTreeSet::new();
        for (party, used) in ran {
            // Whoever took the request is asked first; any other operator provides to that one.
            let rank = if party.operator == receipt.entry().operator { 1 } else { 2 };
            let key = || Key {
                operator: party.operator.clone(),
                lei: receipt.lei(party),
                control: party.control.to_string(),
                location: party.location.to_string(),
                model: receipt.model.clone(),
                bundle: receipt.bundle.map(|bundle| bundle.to_string()).unwrap_or_default(),
                rank,
            };
            let line = self.0.entry(key()).or_default();
            line.sum.add(used, seen.insert(key()));
            line.peers.insert(party.peer);
            let (from, until) = line.span.unwrap_or((receipt.started, receipt.ended));
            line.span = Some((from.min(receipt.started), until.max(receipt.ended)));
        }
    }

    /// The CSV, its columns named in the first line (RFC 4180).
    pub fn csv(&self) -> String {
        let mut text = COLUMNS.join(",") + "\r\n";
        for (key, Line { sum, peers, span }) in &self.0 {
            let (from, until) = span.expect("a line has a receipt");
            let fields = [
                key.operator.clone(),
                key.lei.map(|lei| lei.to_string()).unwrap_or_default(),
                key.control.clone(),
                key.rank.to_string(),
                "model inference".into(),
                key.model.clone(),
                key.bundle.clone(),
                key.location.clone(),
                // Nodes keep no payload after the answer; the receipts are no data of the client's.
                "no".into(),
                String::new(),
                key.location.clone(),
                peers.len().to_string(),
                date(from),
                date(until),
                sum.jobs.to_string(),
                sum.rows.to_string(),
                format!("{}.{:06}", sum.device_us / 1_000_000, sum.device_us % 1_000_000),
                sum.price(),
            ];
            text += &fields.map(|field| quoted(&field)).join(",");
            text += "\r\n";
        }
        text
    }
}

/// A field as CSV has it. One that a spreadsheet would take for a formula is led by an apostrophe.
fn quoted(field: &str) -> String {
    let safe = match field.chars().next() {
        Some('=' | '+' | '-' | '@' | '\t') => format!("'{field}"),
        _ => field.to_owned(),
    };
    if safe.contains([',', '"', '\r', '\n']) {
        format!("\"{}\"", safe.replace('"', "\"\""))
    } else {
        safe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_cannot_leave_its_place() {
        assert_eq!(quoted("Nordlicht GmbH"), "Nordlicht GmbH");
        assert_eq!(quoted("Acme, Inc."), "\"Acme, Inc.\"");
        assert_eq!(quoted("Say \"Yes\""), "\"Say \"\"Yes\"\"\"");
        assert_eq!(quoted("=1+1"), "'=1+1");
    }
}
