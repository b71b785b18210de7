//! Placement with no coordinator: each peer decides for itself to hold one more bundle where demand
//! is unmet, and to drop one that is cold where room is needed.
//!
//! ```text
//! entry: jobs refused or late ─► want ──── gossip ───► a peer that could hold the bundle
//!                                                        draws lots, says pledge, loads it
//!        jobs are met again  ◄── its advert ◄── gossip ──┘
//! ```
//!
//! What keeps many peers from doing the same at once: those nearest to the demand draw lots first,
//! about twice as many as are needed, and whoever takes it says so before it loads, which the others
//! count. Each round in which nobody answered doubles the circle. One bundle at a time, a pause after
//! each, so many moves and bytes a minute and no more.
//!
//! What keeps a bundle from being lost: it is dropped only for one that is wanted more, when it is
//! cold, has been held for a while, nobody wants it, and under every law that asked for it here
//! others hold it, one of whom comes before this peer in the bundle's order. Whoever relies on
//! another relies on one before it, so the first of all never drops it, however old their views are.
//!
//! A stage is a bundle like any other. Left out: where bytes come from and how (the host fetches and
//! loads), and what a bundle is worth beyond jobs that could run.

mod need;
pub mod notice;
mod tally;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::gate;
use crate::id::{Digest, PeerId};
use crate::limits::{HELD_BYTES_A_MINUTE_MAX, MOVES_A_MINUTE_MAX, PLEDGES_MAX, WANTS_MAX};
use crate::plan::Job;
use crate::policy::{Bounds, Policy};
use crate::rng::mix;
use crate::time::{Mono, Now};
use crate::view::{Liveness, View};
use need::{Need, is_wanted, lot, needs};
pub use notice::{Notice, Pledge, Want};
use tally::{Tallies, Turn};

/// Lots are drawn once in this time: long enough for a pledge to be known everywhere.
const ROUND: Duration = Duration::from_secs(2);
/// A peer that could bring less than this part of what it can, in thousandths, is too busy.
const SPARE_MIN: u64 = 125;
/// Less than this part of what a peer could bring is a trickle …
const TRICKLE_PART: u64 = 8;
/// … for which nobody moves before it has been heard for so many rounds.
const TRICKLE_ROUNDS: u64 = 8;
/// A pledge stands for so long after the bundle is there: until those who wanted it have noticed.
const SETTLE: Duration = Duration::from_secs(12);
/// A bundle is held for at least so long.
pub const HELD_MIN: Duration = Duration::from_secs(60);
/// What is dropped was used at most this part as much as what comes will be.
const COLD_PART: u64 = 4;
/// So many others hold what is dropped.
const HOLDERS_LEFT: usize = 2;
/// A bundle that could not be had is not tried again for so long.
const FAILED_PAUSE: Duration = Duration::from_secs(30);
/// What a peer tells of demand changes at most once in this time.
const NOTICE_INTERVAL: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// Stop offering the bundle, and forget it.
    Drop {
        /// Which.
        bundle: Digest,
    },
    /// Fetch the bundle from a peer that may give it, load it, and offer it.
    Hold {
        /// Which.
        bundle: Digest,
    },
}

/// Whether a bundle is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not.
    Absent,
    /// It is on its way.
    Loading,
    /// It is served.
    Held {
        /// Since when.
        since: Mono,
    },
    /// It is served because the operator says so.
    Pinned,
}

/// A bundle that this peer knows of.
#[derive(Clone, Debug)]
pub struct Stock {
    /// Which.
    pub bundle: Digest,
    /// What it takes of memory.
    pub bytes: u64,
    /// Who may have it: its weights are data.
    pub law: Policy,
    /// Jobs a minute of it that this peer could run if it ran nothing else.
    pub per_minute: u32,
    /// Whether it is here.
    pub state: State,
}

impl Stock {
    fn is_absent(&self) -> bool {
        self.state == State::Absent
    }
}

/// What this peer has, and could have, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Shelf<'a> {
    /// Memory for bundles, in bytes.
    pub bytes_max: u64,
    /// Jobs that run at once.
    pub slots: u16,
    /// All bundles that it knows of, each once.
    pub stock: &'a [Stock],
}

impl Shelf<'_> {
    fn used(&self) -> u64 {
        let here = self.stock.iter().filter(|stock| !stock.is_absent());
        here.fold(0, |sum, stock| sum.saturating_add(stock.bytes))
    }
}

/// What one peer knows of demand, and what it has decided.
#[derive(Debug)]
pub struct Placement {
    /// Whom this peer serves.
    serve: Bounds,
    tallies: Tallies,
    told: Notice,
    told_at: Option<Mono>,
    /// By bundle: the round in which its demand was first heard, or a pledge of it last, and what
    /// was pledged then.
    heard: BTreeMap<Digest, (u64, u64)>,
    /// What this peer brings: jobs a minute, and when all will have noticed.
    pledges: BTreeMap<Digest, (u32, Option<Mono>)>,
    /// Bundles that could not be had, and until when they are not tried.
    failed: BTreeMap<Digest, Mono>,
    /// When, and how many bytes.
    moves: VecDeque<(Mono, u64)>,
    round: Option<u64>,
}

impl Placement {
    /// Of a peer that serves only those within `serve`.
    pub fn new(serve: Bounds) -> Self {
        Self {
            serve,
            tallies: Tallies::default(),
            told: Notice::default(),
            told_at: None,
            heard: BTreeMap::new(),
            pledges: BTreeMap::new(),
            failed: BTreeMap::new(),
            moves: VecDeque::new(),
            round: None,
        }
    }

    /// A job entered here.
    pub fn asked(&mut self, now: Mono, job: &Job) {
        self.tallies.count(now, job, Turn::Asked);
    }

    /// A job that entered here has its answer.
    pub fn answered(&mut self, now: Mono, job: &Job) {
        self.tallies.count(now, job, Turn::Answered);
    }

    /// A job that entered here was refused for want of a peer, or waits longer than it should.
    pub fn missed(&mut self, now: Mono, job: &Job) {
        self.tallies.count(now, job, Turn::Missed);
    }

    /// This peer ran a job, and a slot was busy with it for so long.
    pub fn ran(&mut self, now: Mono, job: &Job, took: Duration) {
        self.tallies.ran(now, job, took);
    }

    /// A bundle that was to be held could not be fetched or loaded.
    pub fn failed(&mut self, now: Mono, bundle: Digest) {
        self.pledges.remove(&bundle);
        self.failed.retain(|_, until| *until > now);
        self.failed.insert(bundle, now + FAILED_PAUSE);
    }

    /// What this peer's advert is to tell of demand, if that is something new.
    pub fn notice(&mut self, now: Mono) -> Option<Notice> {
        if self.told_at.is_some_and(|at| now < at + NOTICE_INTERVAL) {
            return None;
        }
        let notice = self.current(now);
        if notice == self.told {
            return None;
        }
        self.told_at = Some(now);
        self.told = notice.clone();
        Some(notice)
    }

    /// What [`Placement::notice`] said last.
    pub fn told(&self) -> &Notice {
        &self.told
    }

    fn current(&mut self, now: Mono) -> Notice {
        self.pledges.retain(|_, (_, until)| until.is_none_or(|until| until > now));
        let pledge = |(bundle, (per_minute, _)): (&Digest, &(u32, _))| Pledge {
            bundle: *bundle,
            per_minute: *per_minute,
        };
        let pledges = self.pledges.iter().take(PLEDGES_MAX).map(pledge).collect();
        let mut wants = self.tallies.wants(now);
        wants.truncate(WANTS_MAX);
        Notice { wants, pledges }
    }

    /// What to do now, in order. To be asked about once a second; what it says is to be done.
    pub fn decide(&mut self, now: Now, view: &View, shelf: &Shelf<'_>) -> Vec<Move> {
        self.watch(now.mono, shelf);
        let round = now.mono.0 / u64::try_from(ROUND.as_nanos()).expect("seconds");
        if self.round == Some(round) {
            return Vec::new();
        }
        self.round = Some(round);
        let own = self.current(now.mono).wants;
        let mut needs = needs(now, view, &self.serve, &own, shelf);
        self.hear(round, &needs);
        let is_loading = shelf.stock.iter().any(|stock| stock.state == State::Loading);
        if is_loading || !self.pledges.is_empty() {
            return Vec::new();
        }
        needs.retain(|need| self.failed.get(&need.stock.bundle).is_none_or(|at| *at <= now.mono));
        needs.sort_by_key(|need| (std::cmp::Reverse(need.missing()), need.stock.bundle));
        for need in needs {
            if let Some(moves) = self.take(now, round, view, shelf, &own, &need) {
                return moves;
            }
        }
        Vec::new()
    }

    /// Notices what became of this peer's pledges.
    fn watch(&mut self, now: Mono, shelf: &Shelf<'_>) {
        let state = |bundle: &Digest| {
            shelf.stock.iter().find(|stock| stock.bundle == *bundle).map(|stock| stock.state)
        };
        for (bundle, (_, until)) in &mut self.pledges {
            if let (None, Some(State::Held { .. } | State::Pinned)) = (&until, state(bundle)) {
                *until = Some(now + SETTLE);
            }
        }
        let gone = |bundle: &Digest| matches!(state(bundle), None | Some(State::Absent));
        self.pledges.retain(|bundle, _| !gone(bundle));
    }

    /// Remembers since when demand waits in vain.
    fn hear(&mut self, round: u64, needs: &[Need<'_>]) {
        let known = std::mem::take(&mut self.heard);
        for need in needs {
            let bundle = need.stock.bundle;
            let before = known.get(&bundle).copied();
            let since = match before {
                Some((since, pledged)) if pledged >= need.pledged => since,
                // Somebody answered: the circle need not grow.
                Some(_) => round - 1,
                None => round,
            };
            self.heard.insert(bundle, (since, need.pledged));
        }
    }

    /// Draws this peer's lot for a bundle, and makes room for it.
    fn take(
        &mut self,
        now: Now,
        round: u64,
        view: &View,
        shelf: &Shelf<'_>,
        own: &[Want],
        need: &Need<'_>,
    ) -> Option<Vec<Move>> {
        let Stock { bundle, bytes, per_minute, .. } = *need.stock;
        let missing = need.missing();
        let waited = round.saturating_sub(self.heard.get(&bundle)?.0);
        let idle = 1_000_u64.saturating_sub(self.tallies.busy(now.mono, shelf.slots, None));
        let spare = u64::from(per_minute) * idle / 1_000;
        // What is little against what a peer brings may be a jam that passes.
        let patience =
            if missing.saturating_mul(TRICKLE_PART) < spare { TRICKLE_ROUNDS } else { 1 };
        if missing == 0 || waited < patience || idle < SPARE_MIN || spare == 0 {
            return None;
        }
        let needed = usize::try_from(missing.div_ceil(spare)).unwrap_or(usize::MAX);
        let circle = needed.saturating_mul(1 << waited.min(16));
        let (rivals, nearer) = need.rivals(now, view);
        let draws = mix(lot(view.me(), bundle) ^ mix(round));
        let is_drawn = rivals < needed || draws.is_multiple_of(2);
        if nearer >= circle || !is_drawn || !self.may_move(now.mono, bytes) {
            return None;
        }
        let used = shelf.used();
        let mut moves = Vec::new();
        let too_much = used.saturating_add(bytes).saturating_sub(shelf.bytes_max);
        if too_much > 0 {
            let gain = missing.min(spare) * 1_000 / u64::from(per_minute.max(1));
            moves = self.make_room(now, view, shelf, own, too_much, gain)?;
        }
        moves.push(Move::Hold { bundle });
        self.moves.push_back((now.mono, bytes));
        let brought = u32::try_from(spare.min(missing)).unwrap_or(u32::MAX);
        self.pledges.insert(bundle, (brought, None));
        Some(moves)
    }

    /// Whether one more move of so many bytes is within bounds.
    fn may_move(&mut self, now: Mono, bytes: u64) -> bool {
        let minute = Duration::from_secs(60);
        self.moves.retain(|(at, _)| *at + minute > now);
        let moved = self.moves.iter().fold(bytes, |sum, (_, bytes)| sum.saturating_add(*bytes));
        // One that is larger alone may come, and then nothing more for a minute.
        self.moves.len() < MOVES_A_MINUTE_MAX
            && (moved <= HELD_BYTES_A_MINUTE_MAX || self.moves.is_empty())
    }

    /// What to drop so that `bytes` become free; nothing if what is cold and can be spared does not
    /// suffice. `gain` is what the room will be used for, in thousandths of this peer's time.
    fn make_room(
        &self,
        now: Now,
        view: &View,
        shelf: &Shelf<'_>,
        own: &[Want],
        bytes: u64,
        gain: u64,
    ) -> Option<Vec<Move>> {
        let busy = |stock: &Stock| self.tallies.busy(now.mono, shelf.slots, Some(stock.bundle));
        let mut spared: Vec<(u64, &Stock)> = shelf
            .stock
            .iter()
            .filter(|stock| self.may_drop(now, view, own, stock))
            .map(|stock| (busy(stock), stock))
            .collect();
        spared.sort_by_key(|(busy, stock)| (*busy, std::cmp::Reverse(stock.bytes), stock.bundle));
        let (mut freed, mut lost, mut moves) = (0_u64, 0, Vec::new());
        for (busy, stock) in spared {
            if freed >= bytes {
                break;
            }
            freed = freed.saturating_add(stock.bytes);
            lost += busy;
            moves.push(Move::Drop { bundle: stock.bundle });
        }
        (freed >= bytes && lost * COLD_PART <= gain).then_some(moves)
    }

    /// Whether a bundle can be spared here: the rule that no bundle is lost by.
    fn may_drop(&self, now: Now, view: &View, own: &[Want], stock: &Stock) -> bool {
        let State::Held { since } = stock.state else { return false };
        if since + HELD_MIN > now.mono || is_wanted(view, own, stock.bundle) {
            return false;
        }
        let Some(laws) = self.tallies.laws(now.mono, stock.bundle) else { return false };
        let order = |peer: PeerId| (lot(peer, stock.bundle), peer);
        let (me, mine) = (view.me(), order(view.me()));
        let is_kept = |bounds: &Bounds| {
            let alive = view.holders(stock.bundle).filter(|entry| {
                entry.liveness == Liveness::Alive
                    && entry.record.advert.peer != me
                    && gate::within(bounds, &entry.record.charter, now.utc).is_ok()
            });
            let peers: Vec<PeerId> = alive.map(|entry| entry.record.advert.peer).collect();
            peers.len() >= HOLDERS_LEFT && peers.iter().any(|peer| order(*peer) < mine)
        };
        is_kept(&stock.law.bounds) && laws.into_iter().all(is_kept)
    }
}
