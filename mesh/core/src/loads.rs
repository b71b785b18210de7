//! What this peer has measured of the others: round trips, speed, work in flight, failures. Fresh
//! from pings and answers; never gossiped, since old load misleads (`plan` reads it).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::{Digest, PeerId};
use crate::limits::{BUNDLES_MEASURED_MAX, PEERS_MAX};
use crate::time::Mono;

/// After a failure a peer gets no job for this long, doubled with each further failure…
pub const AVOID_FIRST: Duration = Duration::from_secs(10);
/// …up to this.
pub const AVOID_MAX: Duration = Duration::from_secs(60);
/// Work in flight that an answer reported is believed for this long.
pub const REPORT_LIFETIME: Duration = Duration::from_secs(1);
/// Inputs below this, in bytes, say nothing of bandwidth.
const BANDWIDTH_SAMPLE_MIN: u64 = 256 * 1024;
/// Rows of one answer that count as measurements: each is one, but they ran together.
const ROWS_COUNTED_MAX: u32 = 8;
/// No link is believed to be faster, in bytes per second.
const BANDWIDTH_MAX: u64 = 100_000_000_000;

/// What an answer says of its executor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// From sending the job to its answer.
    pub took: Duration,
    /// Time that it waited there.
    pub queue: Duration,
    /// Time that it ran there.
    pub service: Duration,
    /// Rows that it ran.
    pub rows: u32,
    /// Bytes of the inputs that it was sent.
    pub bytes: u64,
    /// Jobs in flight there, this one not counted.
    pub in_flight: u32,
}

#[derive(Clone, Debug, Default)]
struct PeerLoad {
    rtt: Option<Duration>,
    rtt_min: Option<Duration>,
    bytes_per_second: Option<u64>,
    failures: u32,
    avoid_until: Mono,
    bundles: BTreeMap<Digest, BundleLoad>,
}

#[derive(Clone, Copy, Debug, Default)]
struct BundleLoad {
    outstanding: u32,
    reported: u32,
    reported_at: Mono,
    service_per_row: Option<Duration>,
}

/// Measurements by peer. Bounded: a peer more than [`PEERS_MAX`] is not measured.
#[derive(Clone, Debug, Default)]
pub struct Loads {
    peers: BTreeMap<PeerId, PeerLoad>,
    /// The measured, nearest first.
    near: BTreeSet<(Duration, PeerId)>,
}

/// What the planner reads of one peer and bundle.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Smoothed round trip, if measured.
    pub rtt: Option<Duration>,
    /// Smoothed bandwidth to it, if measured.
    pub bytes_per_second: Option<u64>,
    /// Jobs believed in flight.
    pub in_flight: u32,
    /// Measured service time of a row.
    pub service_per_row: Option<Duration>,
    /// No job goes there before this.
    pub avoid_until: Mono,
}

impl Loads {
    /// Nothing measured yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn peer(&mut self, peer: PeerId) -> Option<&mut PeerLoad> {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            return None;
        }
        Some(self.peers.entry(peer).or_default())
    }

    fn bundle(&mut self, peer: PeerId, bundle: Digest) -> Option<&mut BundleLoad> {
        let bundles = &mut self.peer(peer)?.bundles;
        if bundles.len() >= BUNDLES_MEASURED_MAX && !bundles.contains_key(&bundle) {
            // The measurements that cost least to lose: those of nothing in flight.
            bundles.retain(|_, load| load.outstanding > 0);
            if bundles.len() >= BUNDLES_MEASURED_MAX {
                return None;
            }
        }
        Some(bundles.entry(bundle).or_default())
    }

    /// A round trip was measured: the peer lives, so it is forgiven.
    pub fn measured_rtt(&mut self, peer: PeerId, rtt: Duration) {
        if let Some(load) = self.peer(peer) {
            let before = load.rtt;
            // Jacobson's weight: one eighth for the newest.
            let smoothed = before.map_or(rtt, |old| (old * 7 + rtt) / 8);
            load.rtt = Some(smoothed);
            load.rtt_min = Some(load.rtt_min.map_or(rtt, |old| old.min(rtt)));
            if let Some(before) = before {
                self.near.remove(&(before, peer));
            }
            self.near.insert((smoothed, peer));
        }
        self.heard(peer);
    }

    /// The peer answered something, or runs anew: it is not avoided any more.
    pub fn heard(&mut self, peer: PeerId) {
        if let Some(load) = self.peers.get_mut(&peer) {
            load.failures = 0;
            load.avoid_until = Mono::default();
        }
    }

    /// The peer could not be reached, or lost a job: it is avoided at once.
    pub fn failed(&mut self, peer: PeerId, now: Mono) {
        if let Some(load) = self.peer(peer) {
            // All jobs in flight at a peer that dies fail together: that is one failure.
            if load.avoid_until > now {
                return;
            }
            let doubled = AVOID_FIRST * 2u32.saturating_pow(load.failures.min(8));
            load.failures = load.failures.saturating_add(1);
            load.avoid_until = now + doubled.min(AVOID_MAX);
        }
    }

    /// A job goes to the peer.
    pub fn began(&mut self, peer: PeerId, bundle: Digest) {
        if let Some(load) = self.bundle(peer, bundle) {
            load.outstanding += 1;
        }
    }

    /// The job that went there is over, with or without an answer.
    pub fn ended(&mut self, peer: PeerId, bundle: Digest) {
        if let Some(load) = self.bundle(peer, bundle) {
            load.outstanding = load.outstanding.saturating_sub(1);
        }
    }

    /// An answer came and told of the peer's load.
    pub fn answered(&mut self, peer: PeerId, bundle: Digest, report: Report, now: Mono) {
        // A peer may claim anything, but nothing there took longer than all of it did here.
        let queue = report.queue.min(report.took);
        let service = report.service.min(report.took);
        let report = Report { queue, service, ..report };
        if !service.is_zero() {
            self.ran(peer, bundle, service, report.rows); // Else it was kept, and nothing ran.
        }
        if let Some(load) = self.bundle(peer, bundle) {
            load.reported = report.in_flight;
            load.reported_at = now;
        }
        self.measured_transfer(peer, &report);
        self.heard(peer);
    }

    /// A job of so many rows ran this long at `peer`, which may be this one.
    pub fn ran(&mut self, peer: PeerId, bundle: Digest, service: Duration, rows: u32) {
        let per_row = service / rows.max(1);
        let smooth = |old: Duration| {
            let samples = 0..rows.clamp(1, ROWS_COUNTED_MAX);
            samples.fold(old, |old, _| (old * 7 + per_row) / 8)
        };
        if let Some(load) = self.bundle(peer, bundle) {
            load.service_per_row = Some(load.service_per_row.map_or(per_row, smooth));
        }
    }

    /// What an answer took beyond round trip, wait and service went into moving bytes. Small inputs
    /// say nothing of bandwidth.
    fn measured_transfer(&mut self, peer: PeerId, report: &Report) {
        let Some(load) = self.peers.get_mut(&peer) else { return };
        let still = report.queue + report.service + load.rtt.unwrap_or_default();
        let moving = report.took.saturating_sub(still);
        if report.bytes < BANDWIDTH_SAMPLE_MIN || moving.is_zero() {
            return;
        }
        let measured = u128::from(report.bytes) * 1_000_000_000 / moving.as_nanos();
        let measured = u64::try_from(measured).unwrap_or(u64::MAX).clamp(1, BANDWIDTH_MAX);
        let smoothed = load.bytes_per_second.map_or(measured, |old| (old * 7 + measured) / 8);
        load.bytes_per_second = Some(smoothed.max(1));
    }

    /// Whether no job goes to the peer now, since it failed a moment ago.
    pub fn avoided(&self, peer: PeerId, now: Mono) -> bool {
        self.peers.get(&peer).is_some_and(|load| load.avoid_until > now)
    }

    /// The smoothed round trip to a peer.
    pub fn rtt(&self, peer: PeerId) -> Option<Duration> {
        self.peers.get(&peer)?.rtt
    }

    /// The shortest round trip to a peer that was measured: evidence of where it can be.
    pub fn rtt_min(&self, peer: PeerId) -> Option<Duration> {
        self.peers.get(&peer)?.rtt_min
    }

    /// The round trip that half of the measured peers do not exceed.
    pub fn rtt_median(&self) -> Option<Duration> {
        self.near.iter().nth(self.near.len() / 2).map(|(rtt, _)| *rtt)
    }

    /// Peers by measured round trip, nearest first.
    pub fn nearest(&self) -> impl Iterator<Item = PeerId> {
        self.near.iter().map(|(_, peer)| *peer)
    }

    /// All that the planner wants of a peer and bundle.
    pub fn read(&self, peer: PeerId, bundle: Digest, now: Mono) -> Load {
        let Some(load) = self.peers.get(&peer) else { return Load::default() };
        let jobs = load.bundles.get(&bundle).copied().unwrap_or_default();
        let fresh = now.since(jobs.reported_at) < REPORT_LIFETIME;
        let reported = if fresh { jobs.reported } else { 0 };
        Load {
            rtt: load.rtt,
            bytes_per_second: load.bytes_per_second,
            in_flight: jobs.outstanding.max(reported),
            service_per_row: jobs.service_per_row,
            avoid_until: load.avoid_until,
        }
    }

    /// Forgets peers that `known` does not know any more.
    pub fn keep(&mut self, known: impl Fn(PeerId) -> bool) {
        self.peers.retain(|peer, _| known(*peer));
        self.near.retain(|(_, peer)| known(*peer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId([1; 32]);
    const BUNDLE: Digest = Digest([2; 32]);

    #[test]
    fn a_peer_that_fails_is_avoided_at_once_and_forgiven_when_it_answers() {
        let mut loads = Loads::new();
        let now = Mono(1_000);
        loads.failed(PEER, now);
        assert!(loads.read(PEER, BUNDLE, now).avoid_until > now + Duration::from_secs(1));
        loads.measured_rtt(PEER, Duration::from_millis(3));
        assert!(loads.read(PEER, BUNDLE, now).avoid_until <= now);
    }

    #[test]
    fn avoidance_doubles_and_has_an_end() {
        let mut loads = Loads::new();
        let mut now = Mono(0);
        let mut before = Duration::ZERO;
        for _ in 0..40 {
            loads.failed(PEER, now);
            let avoided = loads.read(PEER, BUNDLE, now).avoid_until.since(now);
            assert!(avoided > before || avoided == AVOID_MAX);
            before = avoided;
            now = now + avoided;
        }
        assert_eq!(before, AVOID_MAX);
    }

    #[test]
    fn jobs_that_fail_together_are_one_failure() {
        let mut loads = Loads::new();
        (0..200).for_each(|_| loads.failed(PEER, Mono(0)));
        assert_eq!(loads.read(PEER, BUNDLE, Mono(0)).avoid_until, Mono(0) + AVOID_FIRST);
    }

    #[test]
    fn no_claim_exceeds_what_was_seen() {
        let mut loads = Loads::new();
        let took = Duration::from_millis(9);
        let report =
            Report { took, service: Duration::MAX, queue: Duration::MAX, ..Report::default() };
        loads.answered(PEER, BUNDLE, report, Mono(0));
        assert_eq!(loads.read(PEER, BUNDLE, Mono(0)).service_per_row, Some(took));
    }

    #[test]
    fn a_large_batch_says_more_of_speed_than_a_single_row() {
        let answer = |ms: u64, rows: u32| {
            let took = Duration::from_millis(ms) * rows;
            Report { took, service: took, rows, ..Report::default() }
        };
        let after = |rows: u32| {
            let mut loads = Loads::default();
            loads.answered(PEER, BUNDLE, answer(10, 1), Mono(0));
            loads.answered(PEER, BUNDLE, answer(20, rows), Mono(0));
            loads.read(PEER, BUNDLE, Mono(0)).service_per_row.expect("measured")
        };
        assert_eq!(after(1), Duration::from_micros(11_250));
        assert!(after(64) > Duration::from_millis(16) && after(64) == after(8));
    }

    #[test]
    fn bandwidth_is_what_large_inputs_took_beyond_all_else() {
        let mut loads = Loads::new();
        let ms = Duration::from_millis;
        loads.measured_rtt(PEER, ms(20));
        let (queue, service) = (ms(5), ms(75));
        let report =
            Report { took: ms(200), queue, service, bytes: 1_000_000, ..Report::default() };
        let small = Report { bytes: 1_000, ..report };
        loads.answered(PEER, BUNDLE, small, Mono(0));
        assert_eq!(loads.read(PEER, BUNDLE, Mono(0)).bytes_per_second, None);
        loads.answered(PEER, BUNDLE, report, Mono(0));
        assert_eq!(loads.read(PEER, BUNDLE, Mono(0)).bytes_per_second, Some(10_000_000));
    }

    #[test]
    fn the_nearest_come_first_and_the_forgotten_are_not_among_them() {
        let mut loads = Loads::new();
        let other = PeerId([9; 32]);
        loads.measured_rtt(PEER, Duration::from_millis(30));
        loads.measured_rtt(other, Duration::from_millis(20));
        assert_eq!(loads.nearest().collect::<Vec<_>>(), [other, PEER]);
        assert_eq!(loads.rtt_median(), Some(Duration::from_millis(30)));
        (0..40).for_each(|_| loads.measured_rtt(PEER, Duration::from_millis(1)));
        assert_eq!(loads.nearest().collect::<Vec<_>>(), [PEER, other]);
        assert_eq!(loads.rtt_min(PEER), Some(Duration::from_millis(1)));
        loads.keep(|peer| peer == other);
        assert_eq!(loads.nearest().collect::<Vec<_>>(), [other]);
    }

    #[test]
    fn what_is_measured_is_bounded() {
        let mut loads = Loads::new();
        for n in 0..=BUNDLES_MEASURED_MAX {
            loads.began(PEER, Digest::of(&n.to_le_bytes()));
        }
        assert_eq!(loads.peers[&PEER].bundles.len(), BUNDLES_MEASURED_MAX);
    }

    #[test]
    fn reported_load_grows_old() {
        let mut loads = Loads::new();
        let report = Report { in_flight: 9, ..Report::default() };
        loads.answered(PEER, BUNDLE, report, Mono(0));
        assert_eq!(loads.read(PEER, BUNDLE, Mono(1)).in_flight, 9);
        assert_eq!(loads.read(PEER, BUNDLE, Mono(0) + REPORT_LIFETIME).in_flight, 0);
        loads.began(PEER, BUNDLE);
        assert_eq!(loads.read(PEER, BUNDLE, Mono(0) + REPORT_LIFETIME).in_flight, 1);
    }
}
