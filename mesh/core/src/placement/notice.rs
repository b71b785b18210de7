//! What a peer tells all others of demand: jobs that it could not place as it should, and capacity
//! that it is about to bring. Slow, coarse and bounded, so that an advert may carry it; load itself
//! is never gossiped (design, section 8).

use serde::Serialize;

use crate::advert::{Advert, AdvertFault};
use crate::codec::{Decode, Encode, decode, encode, encoded_len};
use crate::id::Digest;
use crate::limits::{NOTICE_BYTES_MAX, PLEDGES_MAX, WANTS_MAX};
use crate::policy::{Bounds, DeviceNeeds};
use crate::wire::Extension;

/// Demand for a bundle that a peer has and nobody meets.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Want {
    /// What is to be run.
    pub bundle: Digest,
    /// Jobs a minute that are not met: a power of two, or one and a half times one.
    pub per_minute: u32,
    /// Who may run them.
    pub bounds: Bounds,
    /// On what.
    pub device: DeviceNeeds,
}

/// Capacity for a bundle that a peer brings: it fetches and loads it, or has just done so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Pledge {
    /// What it will run.
    pub bundle: Digest,
    /// Jobs a minute of it that it has room for.
    pub per_minute: u32,
}

/// All that a peer tells of demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode, Serialize)]
pub struct Notice {
    /// The largest first.
    pub wants: Vec<Want>,
    /// By bundle.
    pub pledges: Vec<Pledge>,
}

/// The extension of an advert that holds the notice.
const NOTICE: u16 = 2;

impl Notice {
    /// What an advert with these extensions tells. A peer that tells nothing has an empty notice.
    pub(crate) fn of(extensions: &[Extension]) -> Result<Self, AdvertFault> {
        let Some(held) = extensions.iter().find(|extension| extension.tag == NOTICE) else {
            return Ok(Self::default());
        };
        if held.bytes.len() > NOTICE_BYTES_MAX {
            return Err(AdvertFault::OverLimit("notice"));
        }
        let notice: Self = decode(&held.bytes)?;
        if notice.wants.len() <= WANTS_MAX && notice.pledges.len() <= PLEDGES_MAX {
            Ok(notice)
        } else {
            Err(AdvertFault::OverLimit("notice"))
        }
    }
}

impl Advert {
    /// Tells of demand. Wants for which the advert has no room are left out, the least first: what
    /// a peer serves comes before what it lacks. A peer of an earlier version skips all of it.
    pub fn tell(&mut self, notice: &Notice) {
        let mut notice = notice.clone();
        self.extensions.retain(|extension| extension.tag != NOTICE);
        let room = self.bytes_left().min(NOTICE_BYTES_MAX);
        while encoded_len(&notice) > room && notice.wants.pop().is_some() {}
        if notice != Notice::default() && encoded_len(&notice) <= room {
            let bytes = encode(&notice);
            self.extensions.push(Extension { tag: NOTICE, critical: false, bytes });
        }
    }
}

/// A rate as it is told: rounded to a power of two or one and a half times one, so that it changes
/// seldom.
pub(super) fn coarse(per_minute: u64) -> u32 {
    let most = 1 << 30;
    let rate = u32::try_from(per_minute.min(most)).expect("below 2^30");
    let Some(power) = rate.checked_ilog2().map(|log| 1_u32 << log) else { return 0 };
    // The nearest of power, 1.5 × power and 2 × power.
    match rate - power {
        above if above * 4 < power => power,
        above if above * 4 < power * 3 => power + power / 2,
        _ => power * 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_told_within_a_quarter() {
        let told: Vec<u32> = (0..14).map(coarse).collect();
        assert_eq!(told, [0, 1, 2, 3, 4, 6, 6, 8, 8, 8, 12, 12, 12, 12]);
        for rate in 1..100_000 {
            let told = u64::from(coarse(rate));
            assert!(told.abs_diff(rate) * 4 <= rate, "{rate} is told as {told}");
        }
    }
}
