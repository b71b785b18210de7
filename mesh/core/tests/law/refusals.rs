//! A job that cannot run says why: what the plan answers instead of a peer.

use std::collections::BTreeMap;

use hansa_core::flight::{Event, Flight, RetryBudget, Step};
use hansa_core::gate::{Rule, may_reuse};
use hansa_core::id::{Digest, JobId};
use hansa_core::limits::ATTEMPTS_MAX;
use hansa_core::loads::Loads;
use hansa_core::plan::{Job, Plan, Refusal, plan};
use hansa_core::policy::{Bounds, Policy, Split};
use hansa_core::view::View;

use crate::names::{Offers, only, view};
use crate::world::{id, later, start};

const M: Offers = &[("m", "1", 1)];

fn job(policy: Policy) -> Job {
    let deadline = later(start(), 1_000).mono;
    Job::new(JobId([3; 16]), Digest([1; 32]), policy, &Bounds::default(), deadline)
}

fn planned(view: &View, job: &Job) -> Plan {
    plan(start(), view, &Loads::new(), job, &[])
}

#[test]
fn each_clause_refuses_by_its_own_rule() {
    let view = view(&[("DE", M), ("FR", M)]);
    type Set = fn(&mut Policy);
    let clauses: [(Rule, Set); 4] = [
        (Rule::Purpose, |policy| policy.purpose = Some("research".into())),
        (Rule::NoRttEvidence, |policy| policy.rtt_evidence = true),
        (Rule::Receipt, |policy| policy.receipt_required = true),
        (Rule::Receipt, |policy| policy.audit_fail_closed = true),
    ];
    for (rule, set) in clauses {
        // The entry is of DE, and nobody else may run the job.
        let mut policy = only("FR");
        set(&mut policy);
        let failed = BTreeMap::from([(Rule::Location, 1), (rule, 1)]);
        // Evidence may come yet.
        let refusal = match rule.is_of_the_moment() {
            true => Refusal::Unavailable { failed },
            false => Refusal::PolicyUnsatisfiable { failed },
        };
        assert_eq!(planned(&view, &job(policy)), Plan::Refuse(refusal));
    }
    let policy = Policy { split: Split::Rows, ..Policy::default() };
    let refusal = Refusal::Unsupported { clause: "split".into() };
    assert_eq!(planned(&view, &job(policy)), Plan::Refuse(refusal));
    for split in [Split::Auto, Split::Never] {
        let policy = Policy { split, retain_nothing: true, ..Policy::default() };
        assert!(!matches!(planned(&view, &job(policy)), Plan::Refuse(_)));
    }
}

#[test]
fn an_answer_is_not_kept_where_nothing_may_be_or_its_data_has_a_purpose() {
    assert!(may_reuse(&Policy::default()) && may_reuse(&only("DE")));
    assert!(!may_reuse(&Policy { retain_nothing: true, ..Policy::default() }));
    assert!(!may_reuse(&Policy { purpose: Some("care".into()), ..Policy::default() }));
}

#[test]
fn a_job_without_hops_that_cannot_run_here_says_so() {
    let view = view(&[("DE", &[]), ("FR", M)]);
    let none = Policy { hops_max: Some(0), ..Policy::default() };
    assert_eq!(planned(&view, &job(none.clone())), Plan::Refuse(Refusal::HopLimit));
    let one = Policy { hops_max: Some(1), ..Policy::default() };
    assert!(matches!(planned(&view, &job(one)), Plan::Forward { to, .. } if to == id(1)));
    // Were it permitted to travel, the law would still keep it.
    let law = Policy { hops_max: Some(0), ..only("SG") };
    let failed = BTreeMap::from([(Rule::Location, 1)]);
    assert_eq!(planned(&view, &job(law)), Plan::Refuse(Refusal::PolicyUnsatisfiable { failed }));
}

#[test]
fn an_unsatisfiable_law_counts_whom_each_rule_keeps_out() {
    let view = view(&[("DE", M), ("FR", M), ("FR-75C", M), ("US", M), ("SG", &[("x", "1", 2)])]);
    let mut policy = only("US");
    policy.bounds.locations.allow.as_mut().unwrap().insert("FR-75C".parse().unwrap());
    policy.bounds.control.allow = Some(["US".parse().unwrap()].into());
    policy.bounds.data_classes = ["health".to_owned()].into();
    let failed = BTreeMap::from([(Rule::Location, 2), (Rule::Control, 1), (Rule::DataClass, 1)]);
    assert_eq!(planned(&view, &job(policy)), Plan::Refuse(Refusal::PolicyUnsatisfiable { failed }));
    let nobody = Job { bundle: Digest([9; 32]), ..job(Policy::default()) };
    assert!(matches!(planned(&view, &nobody), Plan::Refuse(Refusal::UnknownModel { .. })));
}

#[test]
fn permitted_peers_that_cannot_be_reached_are_unavailable_not_forbidden() {
    let view = view(&[("DE", &[]), ("FR", M), ("US", M)]);
    let mut loads = Loads::new();
    loads.failed(id(1), start().mono);
    let plan = plan(start(), &view, &loads, &job(only("FR")), &[]);
    let failed = BTreeMap::from([(Rule::Unreachable, 1), (Rule::Location, 1)]);
    assert_eq!(plan, Plan::Refuse(Refusal::Unavailable { failed }));
}

#[test]
fn a_job_after_its_deadline_goes_nowhere() {
    let late = Job { deadline: start().mono, ..job(Policy::default()) };
    assert_eq!(planned(&view(&[("DE", M)]), &late), Plan::Refuse(Refusal::Deadline));
}

#[test]
fn a_job_that_comes_back_to_a_peer_does_not_run_there() {
    let view = view(&[("DE", M), ("FR", &[])]);
    let back = Job { path: vec![id(0), id(1)], ..job(Policy::default()) };
    let failed = BTreeMap::from([(Rule::Visited, 1)]);
    assert_eq!(planned(&view, &back), Plan::Refuse(Refusal::Unavailable { failed }));
}

fn busy() -> Event {
    Event::Refused(Refusal::Busy { retry_after_ms: 7 })
}

/// What the last peer said tells more than that nobody else is left.
#[test]
fn the_app_hears_what_the_last_peer_said() {
    let (loads, mut budget) = (Loads::new(), RetryBudget::default());
    for hops_max in [Some(0), None] {
        let view = view(&[("DE", M), ("SG", M)]);
        let policy = Policy { hops_max, ..Policy::default() };
        let mut flight = Flight::begin(job(policy));
        let (mut event, mut steps) = (Event::Begin, 0);
        let answer = loop {
            match flight.handle(start(), event, &view, &loads, &mut budget) {
                Step::RunLocal | Step::Send { .. } => steps += 1,
                Step::Answer(answer) => break answer,
                Step::Pass { .. } => unreachable!("nobody has stages"),
                Step::Wait => unreachable!("nothing is under way"),
            }
            event = busy();
        };
        assert_eq!(steps, if hops_max == Some(0) { 1 } else { 2 });
        assert_eq!(answer, Err(Refusal::Busy { retry_after_ms: 7 }));
    }
}

/// A mesh in which everything is busy: attempts are bounded, and all jobs together by the budget.
#[test]
fn retries_are_bounded_by_job_and_by_budget() {
    let peers: Vec<(&str, Offers)> = vec![("DE", M); 20];
    let (view, loads, mut budget) = (view(&peers), Loads::new(), RetryBudget::default());
    let jobs = 1_000u32;
    let mut attempts = 0u32;
    for number in 0..jobs {
        let id_of_job = JobId(u128::from(number).to_le_bytes());
        let mut flight = Flight::begin(Job { id: id_of_job, ..job(Policy::default()) });
        let (mut event, mut of_job) = (Event::Begin, 0);
        loop {
            let now = later(start(), 1);
            match flight.handle(now, event, &view, &loads, &mut budget) {
                Step::Answer(answer) => break assert!(answer.is_err()),
                Step::RunLocal | Step::Send { .. } => of_job += 1,
                Step::Pass { .. } => unreachable!("nobody has stages"),
                Step::Wait => unreachable!("nothing is under way"),
            }
            event = busy();
        }
        assert!(of_job <= u32::from(ATTEMPTS_MAX));
        attempts += of_job;
    }
    let retries = attempts - jobs;
    assert!((200..=301).contains(&retries), "{retries} retries of {jobs} jobs: 20 % and 100 saved");
}

/// A late job is hedged once, as long as the budget lasts, and the first answer is the answer.
#[test]
fn a_late_job_goes_to_one_more_peer_and_no_further() {
    let view = view(&[("DE", &[]), ("SG", M), ("FR", M), ("NL", M)]);
    let (loads, mut budget) = (Loads::new(), RetryBudget::default());
    let mut hedges = 0;
    for number in 0..1_000u32 {
        let id_of_job = JobId(u128::from(number).to_le_bytes());
        let mut flight = Flight::begin(Job { id: id_of_job, ..job(Policy::default()) });
        let mut handle = |event, flight: &mut Flight| {
            let is_late = matches!(event, Event::Late);
            let now = later(start(), if is_late { 500 } else { 1 });
            flight.handle(now, event, &view, &loads, &mut budget)
        };
        let Step::Send { to: first } = handle(Event::Begin, &mut flight) else { panic!("sent") };
        assert!(flight.late_at().is_some_and(|at| at > start().mono));
        match handle(Event::Late, &mut flight) {
            Step::Send { to } => {
                hedges += 1;
                assert_ne!(to, first);
                // One of the two fails: the other is waited for, and nobody else is asked.
                assert_eq!(handle(busy(), &mut flight), Step::Wait);
            }
            step => assert_eq!(step, Step::Wait),
        }
        assert_eq!(flight.late_at(), None);
        assert_eq!(handle(Event::Answered, &mut flight), Step::Answer(Ok(())));
    }
    assert!((200..=301).contains(&hedges), "{hedges} hedges of 1,000 jobs: 20 % and 100 saved");
}

/// A peer that got a job from another leaves hedging to the entry.
#[test]
fn only_the_entry_hedges() {
    let view = view(&[("DE", &[]), ("SG", M), ("FR", M)]);
    let (loads, mut budget) = (Loads::new(), RetryBudget::default());
    let mut flight = Flight::begin(Job { path: vec![id(9)], ..job(Policy::default()) });
    let step = flight.handle(start(), Event::Begin, &view, &loads, &mut budget);
    assert!(matches!(step, Step::Send { .. }));
    assert_eq!(flight.late_at(), None);
}
