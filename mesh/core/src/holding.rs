//! What a peer tells of the files that it has: how large the bundles are that it serves, and which
//! bundles lie there only to be fetched. It rides in the advert, so that others can decide to hold
//! them, and a job for a model that nobody serves yet finds out that it exists.

use serde::Serialize;

use crate::advert::{Advert, AdvertFault, Record, Stage};
use crate::codec::{Decode, Encode, decode, encode, encoded_len};
use crate::id::Digest;
use crate::limits::{HOLDINGS_MAX, NAME_BYTES_MAX};
use crate::wire::Extension;

/// What a peer has of files, and room for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Supply {
    /// MiB that it has for models beyond those that its operator names; 0 if it takes up none.
    pub room_mib: u32,
    /// The files that it has.
    pub holdings: Vec<Holding>,
}

/// A bundle whose files a peer has whole.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Holding {
    /// Which.
    pub bundle: Digest,
    /// What its files take, in MiB, rounded up.
    pub mib: u32,
    /// What it is, where the peer does not serve it.
    pub kept: Option<Kept>,
}

/// A bundle that a peer has and does not serve.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Kept {
    /// What apps call the model.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Which stretch of the model it is; none for the whole.
    pub part: Option<Part>,
}

/// A stretch of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Part {
    /// Digest of the whole's bundle.
    pub whole: Digest,
    /// First node of the whole that it has.
    pub from: u32,
    /// First node that it has no more.
    pub to: u32,
    /// Nodes of the whole.
    pub of: u32,
}

impl From<&Stage> for Part {
    fn from(stage: &Stage) -> Self {
        let Stage { whole, from, to, of, .. } = *stage;
        Self { whole, from, to, of }
    }
}

/// The extension of an advert that holds it.
const SUPPLY: u16 = 3;

impl Advert {
    /// Says what files the peer has, and room for. The last for which the advert has no place are
    /// left out. A peer of an earlier version skips all of it.
    pub fn supply(&mut self, supply: &Supply) {
        self.extensions.retain(|extension| extension.tag != SUPPLY);
        let (mut supply, place) = (supply.clone(), self.bytes_left());
        while encoded_len(&supply) > place && supply.holdings.pop().is_some() {}
        if supply != Supply::default() && encoded_len(&supply) <= place {
            let bytes = encode(&supply);
            self.extensions.push(Extension { tag: SUPPLY, critical: false, bytes });
        }
    }

    /// What the peer has of files, and room for.
    pub(crate) fn supplied(&self) -> Result<Supply, AdvertFault> {
        let Some(held) = self.extensions.iter().find(|extension| extension.tag == SUPPLY) else {
            return Ok(Supply::default());
        };
        let supply: Supply = decode(&held.bytes)?;
        let holdings = &supply.holdings;
        let is_within = |holding: &Holding| {
            holding.kept.as_ref().is_none_or(|Kept { name, version, part }| {
                let is_stretch = |part: &Part| part.from < part.to && part.to <= part.of;
                name.len().max(version.len()) <= NAME_BYTES_MAX
                    && part.as_ref().is_none_or(is_stretch)
            })
        };
        if holdings.len() <= HOLDINGS_MAX && holdings.iter().all(is_within) {
            Ok(supply)
        } else {
            Err(AdvertFault::OverLimit("holdings"))
        }
    }
}

impl Record {
    /// What the peer has of a bundle's files, if it has them.
    pub fn holding(&self, bundle: Digest) -> Option<&Holding> {
        self.supply.holdings.iter().find(|holding| holding.bundle == bundle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advert::tests::record;

    fn kept(from: u32, to: u32) -> Holding {
        let part = Some(Part { whole: Digest([2; 32]), from, to, of: 9 });
        let kept = Some(Kept { name: "deep".into(), version: "1".into(), part });
        Holding { bundle: Digest([1; 32]), mib: 300, kept }
    }

    #[test]
    fn what_a_peer_has_is_told_in_these_bytes() {
        let mut advert = record(1).advert.clone();
        assert_eq!(advert.supplied(), Ok(Supply::default()));
        let supply = Supply { room_mib: 192, holdings: vec![kept(3, 9)] };
        advert.supply(&supply);
        assert_eq!(advert.supplied(), Ok(supply));
        let bytes = &advert.extensions[0].bytes;
        let golden = [
            &[192, 1][..],                            // Room, one holding.
            &[1; 32],                                 // Its bundle,
            &[251, 44, 1],                            // 300 MiB,
            &[1, 4, b'd', b'e', b'e', b'p', 1, b'1'], // kept under a name and version,
            &[1],                                     // a part
            &[2; 32],                                 // of this,
            &[3, 9, 9],                               // from, to, of.
        ];
        assert_eq!(*bytes, golden.concat());
        advert.supply(&Supply::default());
        assert_eq!(advert.extensions, []);
    }

    #[test]
    fn more_files_or_odd_stretches_are_not_believed() {
        let refused = |holdings: Vec<Holding>| {
            let mut advert = record(1).advert.clone();
            advert.supply(&Supply { room_mib: 0, holdings });
            advert.supplied().is_err()
        };
        assert!(!refused(vec![kept(0, 9); HOLDINGS_MAX]));
        assert!(refused(vec![kept(0, 9); HOLDINGS_MAX + 1]));
        assert!(refused(vec![kept(9, 9)]) && refused(vec![kept(8, 10)]));
    }
}
