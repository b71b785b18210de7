//! What must never happen, watched at every event. The law is read here once more, simply, from
//! what the world truly is: the gate is not asked, since it is what is watched, and adverts are not
//! believed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hansa_core::advert::Device;
use hansa_core::limits::ATTEMPTS_MAX;
use hansa_core::physics::{KM_PER_MS, apart_km};
use hansa_core::place::Place;
use hansa_core::policy::{Bounds, Clause, Policy, Split};
use hansa_core::time::Mono;

use crate::jobs::setup::{AUTHORITY, Host, Setup, Terms};
use crate::recording::Violation;

/// An entry may have saved up what so many jobs earn.
const JOBS_SAVED: u64 = 500;

/// What went wrong first, and how often anything did.
#[derive(Clone, Debug, Default)]
pub struct Checkers {
    /// Faults found.
    pub faults: u64,
    /// The first.
    pub first: Option<Violation>,
    /// Clauses of a job's law against which its bytes went to a host.
    pub broken: BTreeSet<&'static str>,
    event: u64,
    now: Mono,
    jobs: BTreeMap<usize, Seen>,
    entries: BTreeMap<usize, Budget>,
}

/// What was seen of a job.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    sends: u8,
    was_lost: bool,
    next_is_free: bool,
    answered: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Budget {
    jobs: u64,
    retries: u64,
}

impl Checkers {
    /// Another event happens.
    pub fn event(&mut self, now: Mono) {
        self.event += 1;
        self.now = now;
    }

    fn fault(&mut self, check: &str, what: String) {
        self.faults += 1;
        let at_ms = self.now.since(Mono(0)).as_millis();
        let at_ms = u64::try_from(at_ms).unwrap_or(u64::MAX);
        let (event, check) = (self.event, check.to_owned());
        self.first.get_or_insert(Violation { event, at_ms, check, what });
    }

    fn hold_to_law(&mut self, setup: &Setup, job: usize, to: usize) {
        if let Some(clause) = forbidden(setup, job, to, Some(self.now)) {
            self.broken.insert(clause);
            self.fault("policy", format!("job {job} went to host {to} against its {clause}"));
        }
    }

    /// A job comes to its entry.
    pub fn came(&mut self, entry: usize) {
        self.entries.entry(entry).or_default().jobs += 1;
    }

    /// The job's bytes leave for a host, or are run where they are.
    pub fn sent(&mut self, setup: &Setup, job: usize, to: usize) {
        self.hold_to_law(setup, job, to);
        if setup.laws[setup.arrivals[job].law].policy.split == Split::Stages {
            self.fault("policy", format!("job {job} went to host {to} whole, against its split"));
        }
        let entry = setup.arrivals[job].entry;
        let seen = self.jobs.entry(job).or_default();
        seen.sends = seen.sends.saturating_add(1);
        let (sends, free) = (seen.sends, std::mem::take(&mut seen.next_is_free));
        if sends > ATTEMPTS_MAX {
            self.fault("attempts", format!("job {job} was sent more than {ATTEMPTS_MAX} times"));
        }
        let budget = self.entries.entry(entry).or_default();
        budget.retries += u64::from(sends > 1 && !free);
        if budget.retries * 100 > (JOBS_SAVED + budget.jobs) * u64::from(setup.retry_percent) {
            self.fault("retry budget", format!("entry {entry} retried too often"));
        }
    }

    /// A server takes the job's bytes in.
    pub fn taken(&mut self, setup: &Setup, job: usize, host: usize) {
        let entry = setup.arrivals[job].entry;
        let (serve, sender) = (&setup.hosts[host].serve, &setup.hosts[entry]);
        let is_out = outside(serve, sender).or(lapsed(setup, sender, self.now)).is_some();
        if host != entry && is_out {
            self.fault("serve", format!("host {host} served entry {entry}, whom it refuses"));
        }
    }

    /// The peer that had the job was lost, or has no such model: the first such retry is free.
    pub fn lost(&mut self, job: usize) {
        let seen = self.jobs.entry(job).or_default();
        seen.next_is_free = !std::mem::replace(&mut seen.was_lost, true);
    }

    /// The core takes the job over: what a strategy sent before is no retry of the core's.
    pub fn begins(&mut self, job: usize) {
        let seen = self.jobs.entry(job).or_default();
        *seen = Seen { next_is_free: true, ..Seen::default() };
    }

    /// The app has its answer.
    pub fn answered(&mut self, job: usize, took: Duration, deadline: Duration) {
        let seen = self.jobs.entry(job).or_default();
        if std::mem::replace(&mut seen.answered, true) {
            self.fault("answers", format!("job {job} was answered twice"));
        }
        if took > deadline {
            self.fault("deadline", format!("job {job} was answered {took:?} after it came"));
        }
    }

    /// The job went with its entry: nobody is left to answer.
    pub fn orphaned(&mut self, job: usize) {
        let seen = self.jobs.entry(job).or_default();
        if std::mem::replace(&mut seen.answered, true) {
            self.fault("answers", format!("job {job} was answered and orphaned"));
        }
    }

    /// What comes of a stage, or the job's input, leaves one host for the next.
    pub fn passed(&mut self, setup: &Setup, job: usize, from: usize, to: usize) {
        self.hold_to_law(setup, job, to);
        let sends = &setup.hosts[from].send;
        if let Some(clause) = outside(sends, &setup.hosts[to]).filter(|_| from != to) {
            let what = format!("host {from} passed job {job} to {to} against its own {clause}");
            self.fault("policy", what);
        }
    }

    /// A host takes in what another has passed to it.
    pub fn received(&mut self, setup: &Setup, job: usize, from: usize, host: usize) {
        let serve = &setup.hosts[host].serve;
        let whom = [from, setup.arrivals[job].entry];
        for whom in whom.into_iter().filter(|whom| *whom != host && from != host) {
            let whom_host = &setup.hosts[whom];
            if outside(serve, whom_host).or(lapsed(setup, whom_host, self.now)).is_some() {
                self.fault("serve", format!("host {host} ran a stage for {whom}, whom it refuses"));
            }
        }
    }

    /// A host begins to fetch a model; `held` is all that it then has.
    pub fn held(&mut self, setup: &Setup, host: usize, model: usize, held: &BTreeSet<usize>) {
        if let Some(clause) = outside(&setup.models[model].law.bounds, &setup.hosts[host]) {
            self.fault("placement", format!("host {host} took model {model} against its {clause}"));
        }
        let memory = setup.hosts[host].server.as_ref().map_or(0, |server| setup.memory(server));
        if setup.size(held) > memory {
            self.fault("memory", format!("host {host} holds more than it has memory for"));
        }
    }

    /// A host has dropped a model; `left` others that are up and may have it serve it still.
    pub fn dropped(&mut self, host: usize, model: usize, left: usize) {
        if left == 0 {
            self.fault("placement", format!("host {host} was the last to hold model {model}"));
        }
    }

    /// An entry forgot all that it had saved up and spent.
    pub fn restarted(&mut self, entry: usize) {
        self.entries.remove(&entry);
    }

    /// All is over: each of `jobs` must have its answer.
    pub fn end(&mut self, jobs: usize) {
        let open = (0..jobs).filter(|job| !self.jobs.get(job).is_some_and(|seen| seen.answered));
        let open = open.count();
        if open > 0 {
            self.fault("answers", format!("{open} jobs were never answered"));
        }
    }
}

/// The clause of the job's law that keeps its bytes from `to`, if one does.
fn forbidden(setup: &Setup, job: usize, to: usize, now: Option<Mono>) -> Option<&'static str> {
    let arrival = &setup.arrivals[job];
    let policy = &setup.laws[arrival.law].policy;
    let (host, bundle) = (&setup.hosts[to], setup.models[arrival.model].bundle);
    let is_here = to == arrival.entry;
    let unbound = is_here && policy.bounds == Bounds::default();
    if let Some(clause) = outside(&policy.bounds, host).filter(|_| !unbound) {
        return Some(clause);
    }
    let lapsed = now.and_then(|now| lapsed(setup, host, now));
    if let Some(clause) = lapsed.filter(|_| !unbound) {
        return Some(clause);
    }
    if let Some(clause) = unproven(setup, arrival.entry, to).filter(|_| policy.rtt_evidence) {
        return Some(clause);
    }
    let sends = outside(&setup.hosts[arrival.entry].send, host);
    let promised = &host.promises;
    let of_purpose = policy.purpose.as_ref().is_none_or(|one| promised.purposes.contains(one));
    let wants_receipt = policy.receipt_required || policy.audit_fail_closed;
    let rules = [
        (is_here || sends.is_none(), "entry's own bounds"),
        (passes(&policy.bundles, |listed| *listed == bundle), "bundles"),
        (is_here || policy.hops_max != Some(0), "hops"),
        (suits(policy, &host.devices), "device"),
        (affords(policy, host), "price"),
        (of_purpose, "purpose"),
        (promised.keeps_receipts || !wants_receipt, "receipts"),
        (is_possible(policy), "clause that nobody can keep"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map(|(_, clause)| clause)
}

/// Whether a host could run the job if it held the model: the law of both lets it, and the model
/// fits.
pub(super) fn may_run(setup: &Setup, job: usize, host: usize) -> bool {
    let arrival = &setup.arrivals[job];
    let (model, sender) = (&setup.models[arrival.model], &setup.hosts[arrival.entry]);
    let Some(server) = &setup.hosts[host].server else { return false };
    let is_here = host == arrival.entry;
    model.size <= setup.memory(server)
        && outside(&model.law.bounds, &setup.hosts[host]).is_none()
        && forbidden(setup, job, host, None).is_none()
        && (is_here || outside(&setup.hosts[host].serve, sender).is_none())
}

/// Why the charter of `host` does not count at this moment: it ended or was revoked, and no other has
/// come; or nobody has heard of late what its authority revokes, in a world where that matters.
fn lapsed(setup: &Setup, host: &Host, now: Mono) -> Option<&'static str> {
    let now = now.since(Mono(0));
    let past = |moment: Option<Duration>| moment.is_some_and(|moment| moment <= now);
    if !past(host.term.renewed) && (past(host.term.ends) || past(host.term.revoked)) {
        return Some("charter's term");
    }
    let age_max = setup.lists_age_max?;
    // A list comes with each charter that is revoked, dated at the second.
    let mut lists = setup.hosts.iter().filter_map(|host| host.term.revoked);
    let is_fresh = |at: Duration| at <= now && now < Duration::from_secs(at.as_secs()) + age_max;
    if lists.any(is_fresh) { None } else { Some("authority's silence") }
}

/// What keeps a host out whose place is to be measured: it echoes nothing, or sooner than it could.
fn unproven(setup: &Setup, from: usize, to: usize) -> Option<&'static str> {
    let place = |host: &Host| {
        let terms = host.terms.as_ref().filter(|_| !host.forged)?;
        terms.location.parse::<Place>().ok()
    };
    let (own, its) = (&setup.hosts[from], &setup.hosts[to]);
    let round_trip = setup.rtt[own.region][its.region].as_secs_f64() * 1e3;
    let apart = place(own).zip(place(its)).and_then(|(own, its)| apart_km(&own, &its));
    match apart.filter(|_| !its.deaf) {
        _ if from == to => None,
        None => Some("echoes"),
        Some(apart) => (apart > round_trip * KM_PER_MS).then_some("place"),
    }
}

/// Limits are nothing, or more than any job comes to, so that only the currency matters.
fn affords(policy: &Policy, host: &Host) -> bool {
    let (Some(limit), Some(asks)) = (policy.price_micros_max, &host.price) else { return true };
    limit > 0 && policy.price_currency.as_ref() == Some(&asks.currency)
}

/// The clause that `host` does not meet.
pub(super) fn outside(bounds: &Bounds, host: &Host) -> Option<&'static str> {
    let Some(terms) = host.terms.as_ref().filter(|_| !host.forged) else { return Some("charter") };
    let Terms { location, operator, control, data_classes } = terms;
    let signed = passes(&bounds.authorities, |listed| listed == AUTHORITY);
    let lies = |clause: &Clause<Place>, place: &str| {
        let within = |listed: &Place| {
            place == listed.as_str() || place.split('-').next() == Some(listed.as_str())
        };
        // Of one known by its country alone nobody knows that it is not in the part denied.
        let may_lie = |listed: &Place| listed.as_str().split('-').next() == Some(place);
        passes(clause, within) && !clause.deny.iter().any(may_lie)
    };
    let rules = [
        (lies(&bounds.locations, location), "locations"),
        (lies(&bounds.control, control), "control"),
        (passes(&bounds.operators, |listed| listed == operator), "operators"),
        (signed && bounds.signatures_min <= 1, "authorities"),
        (bounds.data_classes.iter().all(|class| data_classes.contains(class)), "data classes"),
    ];
    rules.into_iter().find(|(holds, _)| !holds).map(|(_, clause)| clause)
}

fn passes<T: Ord>(clause: &Clause<T>, is: impl Fn(&T) -> bool) -> bool {
    let is_in = |set: &BTreeSet<T>| set.iter().any(&is);
    clause.allow.as_ref().is_none_or(is_in) && !is_in(&clause.deny)
}

fn suits(policy: &Policy, devices: &[Device]) -> bool {
    let (provider, memory) = (&policy.device.provider, policy.device.memory_mib_min);
    let suits = |device: &Device| {
        provider.as_ref().is_none_or(|name| *name == device.provider)
            && memory.is_none_or(|mib| mib <= device.memory_total_mib)
    };
    (provider.is_none() && memory.is_none()) || devices.iter().any(suits)
}

/// Nobody scatters rows in a world, so a demand for that is not kept.
fn is_possible(policy: &Policy) -> bool {
    policy.split != Split::Rows
        && policy.price_micros_max.is_some() == policy.price_currency.is_some()
}
