//! The one cost law by which permitted candidates are ranked:
//! round trip + transfer + expected wait + service.

use std::time::Duration;

use serde::Serialize;

use crate::holders::Offer;
use crate::id::PeerId;
use crate::loads::Load;
use crate::plan::Job;
use crate::rng::mix;

/// Round trip that is assumed of a peer that was never measured and whose place is not known.
pub(crate) const RTT_ASSUMED: Duration = Duration::from_millis(20);
/// Bandwidth that is assumed of a link that was never measured, in bytes per second.
const BANDWIDTH_ASSUMED: u64 = 100_000_000;
/// Service time of a row that is assumed where nobody measured one.
const SERVICE_ASSUMED: Duration = Duration::from_millis(1);
/// What a peer that misses probes is charged: it gets jobs only when no other can.
pub(crate) const SUSPECT_PENALTY: Duration = Duration::from_secs(1);

/// What a candidate is expected to cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// Round trip to the peer.
    pub rtt: Duration,
    /// The inputs over its measured bandwidth.
    pub transfer: Duration,
    /// Expected wait for a slot.
    pub wait: Duration,
    /// Expected service time.
    pub service: Duration,
}

impl Cost {
    /// What candidates are ranked by.
    pub fn total(&self) -> Duration {
        let terms = [self.rtt, self.transfer, self.wait, self.service];
        terms.into_iter().fold(Duration::ZERO, Duration::saturating_add)
    }
}

/// The cost of running `job` on this node.
pub(crate) fn cost_here(job: &Job, offer: &Offer, load: &Load) -> Cost {
    let advertised = Duration::from_micros(offer.service_us.into());
    let advertised = Some(advertised).filter(|service| !service.is_zero());
    let per_row = load.service_per_row.or(advertised).unwrap_or(SERVICE_ASSUMED);
    let service = per_row.saturating_mul(job.rows.max(1));
    let slots = u32::from(offer.slots);
    let ahead = load.in_flight.saturating_add(1).saturating_sub(slots);
    let wait = service.saturating_mul(ahead) / slots;
    Cost { wait, service, ..Cost::default() }
}

/// The cost of running `job` on the peer that offers.
pub(crate) fn cost_there(job: &Job, offer: &Offer, load: &Load) -> Cost {
    let mut cost = cost_here(job, offer, load);
    cost.rtt = round_trip(offer, load);
    cost.transfer = transfer(job, load);
    if offer.suspect {
        cost.wait = cost.wait.saturating_add(SUSPECT_PENALTY);
    }
    cost
}

/// The round trip to the peer: measured, or guessed from coordinates, or assumed.
pub(crate) fn round_trip(offer: &Offer, load: &Load) -> Duration {
    load.rtt.or(offer.rtt).unwrap_or(RTT_ASSUMED)
}

/// What moving the inputs to the peer takes.
pub(crate) fn transfer(job: &Job, load: &Load) -> Duration {
    let bytes_per_second = load.bytes_per_second.unwrap_or(BANDWIDTH_ASSUMED);
    Duration::from_micros(job.bytes.saturating_mul(1_000_000) / bytes_per_second)
}

/// By what candidates are ordered: cost, then the one that needs no hop, then, among equals, by lot
/// for each job, so that entries that know the same do not all choose the same.
pub(crate) type Order = (Duration, bool, u64, PeerId);

/// The place of a candidate among those for `job`.
pub(crate) fn order(job: &Job, peer: PeerId, is_hop: bool, cost: &Cost) -> Order {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    (cost.total(), is_hop, mix(word(&job.id.0) ^ word(&peer.0)), peer)
}
