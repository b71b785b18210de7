//! Asking the peers of a few chains how soon they could, before a long job goes through one.
//!
//! What a peer guesses of another's load is old; for a job that runs long, one round trip is cheap
//! beside a bad choice (as in [`crate::survey`], for jobs that stay whole). Asked are the peers of
//! the cheapest chain and of those that do without its busiest peers. Each keeps a place until it
//! hears that the job goes elsewhere. The choice is the cheapest chain of those that answered, which
//! may be put together of several; it is made as soon as no answer under way could better it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Chain, Link, Work, best, work};
use crate::advert::Stage;
use crate::id::{Digest, PeerId};
use crate::limits::QUOTES_ASKED_MAX;
use crate::loads::Loads;
use crate::plan::{Job, Plan, plan};
use crate::quote::Quote;
use crate::rank::{Cost, RTT_ASSUMED};
use crate::survey::{PATIENCE_MAX, SERVICE_ASKED_MIN};
use crate::time::{Mono, Now};
use crate::view::{Entry, View};

/// Chains whose peers are asked.
const CHAINS_ASKED: usize = 3;

/// A stage at a peer, and what it said.
#[derive(Clone, Copy, Debug)]
struct Asked {
    rtt: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Quoted(Duration),
    Silent,
}

/// One job's questions to the peers of chains, and the answers so far.
#[derive(Clone, Debug)]
pub struct Survey {
    asked: BTreeMap<(PeerId, Digest), Asked>,
    until: Mono,
}

impl Survey {
    /// Chooses whom to ask. None if the job would not go through a chain, is too short to be worth
    /// it, or has one chain only. `own` gives this peer's quote for a stage of its own, which needs
    /// no question.
    pub fn begin(
        now: Now,
        view: &View,
        loads: &Loads,
        job: &Job,
        own: impl Fn(Digest) -> Option<Quote>,
    ) -> Option<Self> {
        view.stages(job.bundle).next()?; // Most jobs' models have none.
        let Plan::Stages { chain } = plan(now, view, loads, job, &[]) else { return None };
        let works = |link: &Link| {
            let entry = view.get(link.peer).expect("a link is of the view");
            let stage = entry.record.stages.iter().find(|stage| stage.bundle == link.bundle);
            work(now, loads, job, entry, stage.expect("a link is of a stage")).total()
        };
        if chain.links.iter().map(works).sum::<Duration>() < SERVICE_ASKED_MIN {
            return None;
        }
        let mut busiest: Vec<&Link> = chain.links.iter().collect();
        busiest.sort_by_key(|link| (std::cmp::Reverse(works(link)), link.from));
        let without = |link: &&Link| super::chain(now, view, loads, job, 0, &[link.peer]);
        let rivals: Vec<Chain> =
            busiest.iter().filter_map(without).take(CHAINS_ASKED - 1).collect();
        if rivals.is_empty() {
            return None;
        }
        let mut asked = BTreeMap::new();
        let mut others = 0;
        for link in std::iter::once(&chain).chain(&rivals).flat_map(|chain| &chain.links) {
            let (peer, at) = (link.peer, (link.peer, link.bundle));
            if asked.contains_key(&at) {
                continue;
            }
            let state = if peer == view.me() {
                own(link.bundle).map_or(State::Silent, |quote| State::Quoted(quote.total()))
            } else if others < QUOTES_ASKED_MAX {
                others += 1;
                State::Open
            } else {
                continue;
            };
            let rtt = if peer == view.me() { Some(Duration::ZERO) } else { loads.rtt(peer) };
            asked.insert(at, Asked { rtt: rtt.unwrap_or(RTT_ASSUMED), state });
        }
        let slowest = asked.values().map(|asked| asked.rtt).max().unwrap_or_default();
        // An eighth more than the round trip: what jitter adds on most paths.
        let patience = (slowest + slowest / 8 + Duration::from_millis(5)).min(PATIENCE_MAX);
        Some(Self { asked, until: (now.mono + patience).min(job.deadline) })
    }

    /// Whom to ask about which stage, and the round trip to tell them.
    pub fn questions(&self) -> impl Iterator<Item = (PeerId, Digest, Duration)> {
        let open = self.asked.iter().filter(|(_, asked)| asked.state == State::Open);
        open.map(|((peer, bundle), asked)| (*peer, *bundle, asked.rtt))
    }

    /// A peer answered. Answers that were not asked for are ignored, and second ones too.
    pub fn quoted(&mut self, peer: PeerId, bundle: Digest, quote: Quote) {
        self.put(peer, bundle, State::Quoted(quote.total()));
    }

    /// A peer refused to answer, or was lost.
    pub fn silent(&mut self, peer: PeerId, bundle: Digest) {
        self.put(peer, bundle, State::Silent);
    }

    fn put(&mut self, peer: PeerId, bundle: Digest, state: State) {
        let asked = self.asked.get_mut(&(peer, bundle));
        if let Some(open) = asked.filter(|asked| asked.state == State::Open) {
            open.state = state;
        }
    }

    /// When it decides at the latest.
    pub fn until(&self) -> Mono {
        self.until
    }

    /// The cheapest chain of those that answered, once no open answer could better it or time is
    /// up; else none. `Some(None)`: they make no chain, and `plan` decides.
    pub fn decide(&self, now: Now, view: &View, loads: &Loads, job: &Job) -> Option<Option<Chain>> {
        // What it takes is what was told, or hoped; what it asks is as before.
        let takes = |entry: &Entry, stage: &Stage, service: Duration| Cost {
            service,
            price: work(now, loads, job, entry, stage).price,
            ..Cost::default()
        };
        let answered = |entry: &Entry, stage: &Stage| match self.state(entry, stage)? {
            State::Quoted(total) => Some(takes(entry, stage, total)),
            State::Open | State::Silent => None,
        };
        // One that has not answered may turn out to be free.
        let hoped = |entry: &Entry, stage: &Stage| match self.state(entry, stage)? {
            State::Quoted(total) => Some(takes(entry, stage, total)),
            State::Open => {
                Some(takes(entry, stage, Duration::from_micros(stage.service_us.into())))
            }
            State::Silent => None,
        };
        let best = |work: &Work<'_>| best(now, view, loads, job, 0, &[], work);
        let known = best(&answered);
        let is_open = || match (&known, best(&hoped)) {
            // Sooner, or cheaper where there is time.
            (Some(known), Some(hoped)) => hoped.cost < known.cost || hoped.price() != known.price(),
            (known, hoped) => known.is_none() && hoped.is_some(),
        };
        let waits = now.mono < self.until && is_open();
        (!waits).then_some(known)
    }

    fn state(&self, entry: &Entry, stage: &Stage) -> Option<State> {
        let asked = self.asked.get(&(entry.record.advert.peer, stage.bundle))?;
        Some(asked.state)
    }
}
