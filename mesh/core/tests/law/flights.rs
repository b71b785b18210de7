//! Jobs over random meshes that fail at random, flown to their end by a model host: peers pass the
//! job on through the real headers, each with its own view and law.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hansa_core::advert::Record;
use hansa_core::explain::{Choice, explain};
use hansa_core::flight::{Event, Flight, RetryBudget, Step};
use hansa_core::gate::Rule;
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::limits::{ATTEMPTS_MAX, HOPS_DEFAULT};
use hansa_core::loads::Loads;
use hansa_core::plan::{Job, Plan, Refusal, plan};
use hansa_core::policy::{Bounds, Policy};
use hansa_core::survey::Preference;
use hansa_core::time::Now;
use hansa_core::view::{Entry, Liveness, View};
use hansa_core::wire::{Ask, JobHeader, TraceContext, WIRE_VERSION};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::oracle::may_see;
use crate::random::check;
use crate::world::{BUNDLES, Peer, dice, id, later, mesh, policy, start};

/// What happened over all cases: laws that nothing tried to break were not tested.
#[derive(Default)]
struct Seen(RefCell<BTreeMap<&'static str, u32>>);

impl Seen {
    fn count(&self, what: &'static str) {
        *self.0.borrow_mut().entry(what).or_default() += 1;
    }
}

/// A mesh while one job flies.
struct Host<'a> {
    peers: &'a [Peer],
    views: Vec<View>,
    loads: Vec<Loads>,
    budgets: Vec<RetryBudget>,
    dice: &'a [Index],
    thrown: Cell<usize>,
    policy: &'a Policy,
    bundle: Digest,
    deadline: Now,
    seen: &'a Seen,
}

impl Host<'_> {
    fn throw(&self, sides: usize) -> usize {
        let turn = self.thrown.replace(self.thrown.get() + 1);
        // The same die shows another side the next time round.
        (self.dice[turn % self.dice.len()].index(sides) + turn / self.dice.len()) % sides
    }

    fn index(&self, peer: PeerId) -> usize {
        (0..self.peers.len()).find(|index| id(*index) == peer).expect("a peer of the mesh")
    }

    fn runs(&self, index: usize) -> bool {
        let (peer, needs) = (&self.peers[index], &self.policy.device);
        let fits = |(provider, mib): &(&str, u32)| {
            needs.provider.as_deref().is_none_or(|wanted| wanted == *provider)
                && needs.memory_mib_min.is_none_or(|least| *mib >= least)
        };
        let holds = BUNDLES.iter().zip(peer.holds).any(|(one, held)| held && *one == self.bundle);
        let bundles = &self.policy.bundles;
        let listed = bundles.allow.as_ref().is_none_or(|allow| allow.contains(&self.bundle));
        holds && listed && !bundles.deny.contains(&self.bundle) && peer.devices.iter().any(fits)
    }

    /// `path` ends with the peer that sends. Its law and that of all before it hold for `to`.
    fn assert_may_be_sent(&self, to: PeerId, path: &[PeerId], now: Now) {
        let index = self.index(to);
        let truth = &self.peers[index].truth;
        let laws = path.iter().map(|peer| &self.peers[self.index(*peer)].send);
        for law in laws.chain([&self.policy.bounds]) {
            assert!(may_see(law, truth, now.utc.0), "peer {index} may not see it under {law:?}");
        }
        assert!(self.runs(index), "peer {index} cannot run it");
        assert!(!path.contains(&to), "the job has passed peer {index}");
        assert!(now.mono < self.deadline.mono, "sent after the deadline");
        let most = self.policy.hops_max.unwrap_or(HOPS_DEFAULT);
        assert!(path.len() <= usize::from(most), "hop {} of at most {most}", path.len());
    }

    fn assert_may_run(&self, me: usize, path: &[PeerId], now: Now) {
        let constrained = self.policy.bounds != Bounds::default();
        let laws = path.iter().map(|peer| &self.peers[self.index(*peer)].send);
        if constrained || !path.is_empty() {
            for law in laws.chain([&self.policy.bounds]) {
                assert!(may_see(law, &self.peers[me].truth, now.utc.0), "may not run at {me}");
            }
        }
        assert!(self.runs(me), "cannot run at {me}");
        assert!(now.mono < self.deadline.mono, "run after the deadline");
    }

    fn assert_explained(&self, me: usize, job: &Job, now: Now) {
        let planned = plan(now, &self.views[me], &self.loads[me], job, &[]);
        let told = explain(now, &self.views[me], &self.loads[me], job);
        let ranked = |peer: PeerId| {
            let told = told.peers.iter().find(|told| told.peer_id == peer).expect("it is told of");
            assert_eq!(told.rank.is_some(), told.gated_out.is_none());
            told.rank.is_some()
        };
        match (&planned, &told.plan) {
            (Plan::Local { .. }, Choice::Local) => assert!(ranked(id(me))),
            (Plan::Forward { to, .. }, Choice::Forward { peer_id, .. }) => {
                assert_eq!(to, peer_id);
                assert!(ranked(*to));
            }
            (Plan::Refuse(refusal), Choice::Refuse { refusal: told }) => {
                assert_eq!(refusal.to_string(), *told);
            }
            (planned, told) => panic!("planned {planned:?}, told {told:?}"),
        }
        // A job is refused for its law only when nobody is ranked.
        if matches!(planned, Plan::Refuse(Refusal::PolicyUnsatisfiable { .. })) {
            assert!(told.peers.iter().all(|told| told.rank.is_none()));
        }
        assert_eq!(told.peers.len(), self.views[me].entries().len());
        for told in told.peers.iter().filter(|told| told.gated_out.is_some()) {
            self.seen.count(match told.gated_out.as_ref().expect("it is").rule {
                Rule::CharterExpired => "gated out by time",
                Rule::CharterInvalid => "gated out by an invalid charter",
                Rule::Location | Rule::Control => "gated out by place",
                Rule::Signatures | Rule::Authority => "gated out by authorities",
                Rule::Visited => "gated out as visited",
                _ => "gated out otherwise",
            });
        }
    }

    /// Flies `job` at the peer `me` from `now`, to its answer and the time of it.
    fn fly(&mut self, me: usize, job: Job, mut now: Now) -> (Result<(), Refusal>, Now) {
        self.assert_explained(me, &job, now);
        let mut got = Vec::new();
        let mut flight = Flight::begin(job.clone());
        if self.throw(2) == 0 {
            // The worst advice: everybody, whoever may see the job, in any order.
            let mut order: Vec<PeerId> = (0..self.peers.len()).map(id).collect();
            let turn = self.throw(order.len());
            order.rotate_left(turn);
            let expected = Duration::ZERO;
            flight.prefer(order.into_iter().map(|peer| Preference { peer, expected }).collect());
            self.seen.count("preferred");
        }
        // What will have come of the attempts under way.
        let mut air = Vec::new();
        let mut event = Event::Begin;
        loop {
            let is_late = matches!(event, Event::Late);
            let (view, loads) = (&self.views[me], &self.loads[me]);
            let step = flight.handle(now, event, view, loads, &mut self.budgets[me]);
            let to = match step {
                Step::Answer(outcome) => return (outcome, now),
                Step::Pass { .. } => unreachable!("nobody has stages"),
                Step::Wait => None,
                Step::RunLocal => Some(id(me)),
                Step::Send { to } => Some(to),
            };
            if let Some(to) = to {
                assert!(!got.contains(&to), "one peer got the job twice");
                if is_late {
                    assert!(job.path.is_empty(), "only entries hedge");
                    self.seen.count("hedged");
                } else if !got.is_empty() {
                    self.seen.count("retried");
                }
                got.push(to);
                assert!(got.len() <= usize::from(ATTEMPTS_MAX), "attempt {}", got.len());
                let came;
                (came, now) = self.attempt(me, to, &job, now);
                air.push(came);
            }
            assert!((1..=2).contains(&air.len()), "{} attempts at once", air.len());
            event = if flight.late_at().is_some() && self.throw(4) == 0 {
                now = later(now, self.throw(80) as u64);
                Event::Late
            } else {
                let first = self.throw(air.len());
                air.swap_remove(first)
            };
        }
    }

    /// What comes of an attempt of `job` at `to`, which may be `me`.
    fn attempt(&mut self, me: usize, to: PeerId, job: &Job, now: Now) -> (Event, Now) {
        if to != id(me) {
            let path = [job.path.as_slice(), &[id(me)]].concat();
            self.assert_may_be_sent(to, &path, now);
            self.seen.count(if path.len() > 1 { "sent on" } else { "sent" });
            return self.send(to, job, path, now);
        }
        self.assert_may_run(me, &job.path, now);
        self.seen.count("ran");
        let event = match self.throw(7) {
            0 | 3 | 5 => Event::Refused(Refusal::Busy { retry_after_ms: 1 }),
            1 => Event::Refused(Refusal::Draining),
            2 => Event::Refused(Refusal::Execution { reason: "of its own".into() }),
            _ => Event::Answered,
        };
        (event, later(now, self.throw(5) as u64))
    }

    /// What comes of sending `job` to a peer: it may be lost, or refused at once, or fly there.
    fn send(&mut self, to: PeerId, job: &Job, path: Vec<PeerId>, now: Now) -> (Event, Now) {
        let now = later(now, 1 + self.throw(6) as u64);
        let me = self.index(*path.last().expect("the sender"));
        let refused = Event::Refused;
        let event = match self.throw(9) {
            0 => {
                self.loads[me].failed(to, now.mono);
                self.seen.count("lost");
                Event::Lost("connection lost".into())
            }
            1 => refused(Refusal::Busy { retry_after_ms: 5 }),
            2 => refused(Refusal::Draining),
            3 => refused(Refusal::NotServed { rule: Rule::Location }),
            _ => {
                let received = receive(&header(job, path, now), &self.peers[self.index(to)], now);
                let (outcome, now) = self.fly(self.index(to), received, now);
                let event = outcome.map_or_else(refused, |()| Event::Answered);
                return (event, later(now, 1));
            }
        };
        (event, now)
    }
}

fn header(job: &Job, path: Vec<PeerId>, now: Now) -> Vec<u8> {
    let remaining = job.deadline.since(now.mono).as_micros();
    let header = JobHeader {
        version: WIRE_VERSION,
        job: job.id,
        path,
        hops_left: job.hops_left - 1,
        remaining_us: remaining.try_into().expect("a short deadline"),
        policy: Policy::clone(&job.onward),
        policy_hash: job.onward.hash(),
        trace: TraceContext::default(),
        ask: Ask::Infer { bundle: job.bundle, inputs: Vec::new(), outputs: Vec::new() },
        extensions: Vec::new(),
    };
    header.encode()
}

fn receive(header: &[u8], by: &Peer, now: Now) -> Job {
    let header = JobHeader::decode(header).expect("what a peer sends can be read");
    let Ask::Infer { bundle, .. } = header.ask else { panic!("a job") };
    let deadline = now.mono + header.remaining();
    let job = Job::new(header.job, bundle, header.policy, &by.send, deadline);
    Job { hops_left: header.hops_left, path: header.path, ..job }
}

/// Each peer's own view: itself, and who it knows of the others.
fn views(peers: &[Peer]) -> Vec<View> {
    let records: Vec<_> = (0..).zip(peers).map(|(index, peer)| peer.record(index)).collect();
    let view = |me: usize| {
        let entry = |(index, record): (usize, &Arc<Record>)| {
            let known = if index == me { Some(Liveness::Alive) } else { peers[index].liveness(me) };
            known.map(|liveness| Entry { record: record.clone(), liveness, since: start().mono })
        };
        View::new(id(me), records.iter().enumerate().filter_map(entry).collect())
    };
    (0..peers.len()).map(view).collect()
}

#[test]
fn a_job_never_leaves_its_jurisdiction_whatever_fails() {
    let seen = Seen::default();
    let job = (policy(), 0..BUNDLES.len(), any::<[u8; 16]>(), 0u64..120, 0u32..100);
    check("never outside its law", 1_000, &(mesh(), job, dice()), |(peers, job, dice)| {
        let (policy, bundle, job_id, deadline_ms, rows) = job;
        let deadline = later(start(), deadline_ms);
        let mut host = Host {
            peers: &peers,
            views: views(&peers),
            loads: vec![Loads::new(); peers.len()],
            budgets: vec![RetryBudget::default(); peers.len()],
            dice: &dice,
            thrown: Cell::new(0),
            policy: &policy,
            bundle: BUNDLES[bundle],
            deadline,
            seen: &seen,
        };
        for me in 0..peers.len() {
            for other in (0..peers.len()).filter(|other| *other != me) {
                let rtt = Duration::from_millis(host.throw(40) as u64);
                host.loads[me].measured_rtt(id(other), rtt);
            }
        }
        let entry = host.throw(peers.len());
        let send = &peers[entry].send;
        let job = Job::new(JobId(job_id), BUNDLES[bundle], policy.clone(), send, deadline.mono);
        let (outcome, _) = host.fly(entry, Job { rows, ..job }, start());
        seen.count(match outcome {
            Ok(()) => "answered",
            Err(Refusal::PolicyUnsatisfiable { .. }) => "policy_unsatisfiable",
            Err(Refusal::Deadline) => "deadline",
            Err(Refusal::HopLimit) => "hop_limit",
            Err(Refusal::Unavailable { .. }) => "unavailable",
            Err(_) => "refused otherwise",
        });
        Ok(())
    });
    let seen = seen.0.into_inner();
    eprintln!("{seen:?}");
    let wanted = [
        "sent",
        "sent on",
        "ran",
        "retried",
        "hedged",
        "lost",
        "answered",
        "policy_unsatisfiable",
        "deadline",
        "hop_limit",
        "unavailable",
        "gated out by time",
        "gated out by place",
        "gated out by an invalid charter",
        "gated out by authorities",
        "gated out as visited",
    ];
    let missing: Vec<_> = wanted.iter().filter(|what| !seen.contains_key(*what)).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}
