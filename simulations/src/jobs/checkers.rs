//! What must never happen, watched at every event. The law is read here once more, simply, from
//! charter and policy; the gate is not asked, since it is what is watched.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_core::charter::Charter;
use hansa_core::limits::ATTEMPTS_MAX;
use hansa_core::policy::Policy;

/// What went wrong first, and how often anything did.
#[derive(Clone, Debug, Default)]
pub struct Checkers {
    /// Faults found.
    pub faults: u64,
    /// The first.
    pub first: Option<String>,
    sends: BTreeMap<u64, u8>,
    answers: BTreeMap<u64, Duration>,
}

/// Whether `policy` lets a peer with this charter see a job: locations, control, operators.
pub fn may_see(policy: &Policy, charter: &Charter) -> bool {
    let bounds = &policy.bounds;
    let clause = |names: &dyn Fn(&str) -> bool, allow: Option<Vec<&str>>, deny: Vec<&str>| {
        allow.is_none_or(|allow| allow.iter().any(|name| names(name)))
            && !deny.iter().any(|name| names(name))
    };
    let location = charter.location.as_str();
    let control = charter.control.as_str();
    let stands = |name: &str| location == name || location.split('-').next() == Some(name);
    let obeys = |name: &str| control == name || control.split('-').next() == Some(name);
    let is_run_by = |name: &str| charter.operator == name;
    let places = |set: &std::collections::BTreeSet<hansa_core::place::Place>| {
        set.iter().map(|place| place.as_str().to_owned()).collect::<Vec<String>>()
    };
    let check = |names: &dyn Fn(&str) -> bool, allow: Option<Vec<String>>, deny: Vec<String>| {
        let allow = allow.as_ref().map(|names| names.iter().map(String::as_str).collect());
        clause(names, allow, deny.iter().map(String::as_str).collect())
    };
    check(&stands, bounds.locations.allow.as_ref().map(places), places(&bounds.locations.deny))
        && check(&obeys, bounds.control.allow.as_ref().map(places), places(&bounds.control.deny))
        && check(
            &is_run_by,
            bounds.operators.allow.as_ref().map(|set| set.iter().cloned().collect()),
            bounds.operators.deny.iter().cloned().collect(),
        )
}

impl Checkers {
    fn fault(&mut self, what: String) {
        self.faults += 1;
        self.first.get_or_insert(what);
    }

    /// The job's bytes leave for a peer with this charter.
    pub fn sent(&mut self, job: u64, policy: &Policy, charter: &Charter) {
        if !may_see(policy, charter) {
            self.fault(format!("job {job} went to {}, which its policy forbids", charter.location));
        }
        let sends = self.sends.entry(job).or_default();
        *sends = sends.saturating_add(1);
        if *sends > ATTEMPTS_MAX {
            self.fault(format!("job {job} was sent more than {ATTEMPTS_MAX} times"));
        }
    }

    /// The app has its answer.
    pub fn answered(&mut self, job: u64, took: Duration, deadline: Duration) {
        if self.answers.insert(job, took).is_some() {
            self.fault(format!("job {job} was answered twice"));
        }
        if took > deadline {
            self.fault(format!("job {job} was answered {took:?} after it came"));
        }
    }

    /// All is over: each of `jobs` must have its answer.
    pub fn end(&mut self, jobs: u64) {
        let open = (0..jobs).filter(|job| !self.answers.contains_key(job)).count();
        if open > 0 {
            self.fault(format!("{open} jobs were never answered"));
        }
    }
}
