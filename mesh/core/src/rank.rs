//! The one cost law by which permitted candidates are ranked:
//! round trip + transfer + expected wait + service.
//!
//! Where the app named the deadline, sooner than needed is worth nothing: of the candidates that are
//! expected to answer with a margin, the cheapest is taken, and of the equally cheap the one with the
//! smallest accelerator, so that a small job does not occupy a big one.

use std::time::Duration;

use serde::Serialize;

use crate::holders::Offer;
use crate::id::PeerId;
use crate::loads::Load;
use crate::plan::Job;
use crate::price::Amount;
use crate::rng::mix;
use crate::time::Now;

/// Round trip that is assumed of a peer that was never measured and whose place is not known.
pub(crate) const RTT_ASSUMED: Duration = Duration::from_millis(20);
/// Bandwidth that is assumed of a link that was never measured, in bytes per second.
const BANDWIDTH_ASSUMED: u64 = 100_000_000;
/// Service time of a row that is assumed where nobody measured one.
const SERVICE_ASSUMED: Duration = Duration::from_millis(1);
/// What a peer that misses probes is charged: it gets jobs only when no other can.
pub(crate) const SUSPECT_PENALTY: Duration = Duration::from_secs(1);

/// A named deadline is met with a margin within so much of the time that is left, in percent: what is
/// expected is not exact, and a retry takes as long again.
const EASE_PERCENT: u32 = 50;

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
    /// What it asks for that and the inputs; none if it asks nothing.
    pub price: Option<Amount>,
}

impl Cost {
    /// Expected time: what candidates are ranked by.
    pub fn total(&self) -> Duration {
        let terms = [self.rtt, self.transfer, self.wait, self.service];
        terms.into_iter().fold(Duration::ZERO, Duration::saturating_add)
    }
}

/// The cost of running `job` on this node.
pub(crate) fn cost_here(job: &Job, offer: &Offer, load: &Load) -> Cost {
    let service = service(job, offer, load);
    let slots = u32::from(offer.slots);
    let ahead = load.in_flight.saturating_add(1).saturating_sub(slots);
    let wait = service.saturating_mul(ahead) / slots;
    Cost { wait, service, price: price(job, offer, load), ..Cost::default() }
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

/// What the peer asks for `job`, as far as is known before: its outputs are not.
pub(crate) fn price(job: &Job, offer: &Offer, load: &Load) -> Option<Amount> {
    offer.rates.map(|rates| rates.amount(service(job, offer, load), job.bytes))
}

/// How long `job` is expected to run there.
fn service(job: &Job, offer: &Offer, load: &Load) -> Duration {
    let advertised = Duration::from_micros(offer.service_us.into());
    let advertised = Some(advertised).filter(|service| !service.is_zero());
    let per_row = load.service_per_row.or(advertised).unwrap_or(SERVICE_ASSUMED);
    per_row.saturating_mul(job.rows.max(1))
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

/// What is spared where time is not short: money, then accelerators.
pub(crate) type Thrift = (Option<Amount>, u32);

/// By what candidates are ordered, field after field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    /// Whether it may miss a deadline that the app named.
    pub(crate) may_be_late: bool,
    /// What it takes, where there is time to spare.
    spared: Thrift,
    /// Expected time.
    pub(crate) total: Duration,
    /// What it takes: it decides among equals in time.
    pub(crate) thrift: Thrift,
    is_hop: bool,
    /// Drawn for each job, so that entries that know the same do not all choose the same.
    lot: u64,
    /// Who.
    pub(crate) peer: PeerId,
}

/// The place of a candidate among those for `job`.
pub(crate) fn order(now: Now, job: &Job, offer: &Offer, is_hop: bool, cost: &Cost) -> Order {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let (total, thrift) = (cost.total(), (cost.price, offer.accelerator_mib));
    // One that missed a probe is not one to rely on, however long the deadline.
    let is_at_ease = !offer.suspect && job.ease(now).is_some_and(|ease| total <= ease);
    Order {
        may_be_late: job.is_timed && !is_at_ease,
        spared: if is_at_ease { thrift } else { Thrift::default() },
        total,
        thrift,
        is_hop,
        lot: mix(word(&job.id.0) ^ word(&offer.peer.0)),
        peer: offer.peer,
    }
}

impl Job {
    /// Within what time from `now` an answer meets the deadline with a margin, if the app named it.
    pub(crate) fn ease(&self, now: Now) -> Option<Duration> {
        let left = self.deadline.since(now.mono);
        self.is_timed.then(|| left.saturating_mul(EASE_PERCENT) / 100)
    }
}
