//! Terms: what a peer promises of its own accord, beside what its charter says: what it uses data
//! for, and whether it leaves receipts. Its word alone stands behind them, under its own signature.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::advert::{Advert, AdvertFault};
use crate::codec::{Decode, Encode, decode, encode};
use crate::limits::{NAME_BYTES_MAX, PURPOSES_MAX};
use crate::wire::Extension;

/// What a peer promises.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Terms {
    /// Purposes to which it keeps the data of jobs that name one of them. It takes no job that names
    /// another.
    pub purposes: BTreeSet<String>,
    /// Whether each of its jobs leaves a receipt.
    pub keeps_receipts: bool,
}

/// The extension of an advert that holds them.
const TERMS: u16 = 4;

impl Advert {
    /// Says what the peer promises. A peer of an earlier version skips it.
    pub fn promise(&mut self, terms: &Terms) {
        self.extensions.retain(|extension| extension.tag != TERMS);
        if *terms != Terms::default() {
            let bytes = encode(terms);
            self.extensions.push(Extension { tag: TERMS, critical: false, bytes });
        }
    }

    /// What the peer promises.
    pub(crate) fn promised(&self) -> Result<Terms, AdvertFault> {
        let Some(held) = self.extensions.iter().find(|extension| extension.tag == TERMS) else {
            return Ok(Terms::default());
        };
        let terms: Terms = decode(&held.bytes)?;
        let is_within = terms.purposes.len() <= PURPOSES_MAX
            && terms.purposes.iter().all(|purpose| purpose.len() <= NAME_BYTES_MAX);
        if is_within { Ok(terms) } else { Err(AdvertFault::OverLimit("purposes")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advert::tests::record;

    #[test]
    fn what_a_peer_promises_is_told_in_these_bytes() {
        let mut advert = record(1).advert.clone();
        assert_eq!(advert.promised(), Ok(Terms::default()));
        let terms = Terms { purposes: ["care".to_owned()].into(), keeps_receipts: true };
        advert.promise(&terms);
        assert_eq!(advert.promised(), Ok(terms));
        assert_eq!(advert.extensions[0].bytes, [1, 4, b'c', b'a', b'r', b'e', 1]);
        advert.promise(&Terms::default());
        assert_eq!(advert.extensions, []);
        let purposes = (0..=PURPOSES_MAX).map(|number| number.to_string()).collect();
        advert.promise(&Terms { purposes, keeps_receipts: false });
        assert_eq!(advert.promised(), Err(AdvertFault::OverLimit("purposes")));
    }
}
