//! The queue before an engine's instances: bounded, a caller who leaves takes his job along. In which
//! order jobs wait is [`crate::line`]'s, who runs with whom, [`crate::batch`] says. Also counts what
//! went through. Knows nothing of sessions.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::batch::{Batching, Choice, Member};
use crate::cost::Cost;
use crate::limits::SERVICE_WINDOW;
use crate::line::{Line, Queueing, Ticket, WhenLate};

/// How an engine is doing, for adverts and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Jobs that wait.
    pub queued: usize,
    /// Jobs that run.
    pub running: usize,
    /// Jobs that can run at once.
    pub instances: usize,
    /// Jobs that may wait.
    pub capacity: usize,
    /// Median time of a row over the last runs, the first one (of zeros, at load) included.
    pub service: Option<Duration>,
    /// Jobs answered with outputs.
    pub served: u64,
    /// Jobs that ran and failed.
    pub failed: u64,
    /// Jobs whose caller left, or whose time to wait or deadline passed, before they ran.
    pub dropped: u64,
    /// Runs of the model.
    pub runs: u64,
}

pub(crate) struct Queue<J> {
    state: Mutex<State<J>>,
    work: Condvar,
    queueing: Queueing,
    instances: usize,
    batching: Batching,
}

struct State<J> {
    line: Line<J>,
    closed: bool,
    running: usize,
    /// Instances that wait for a job, and how many of them were called.
    asleep: usize,
    called: usize,
    /// A ring of the last service times.
    service: VecDeque<Duration>,
    served: u64,
    failed: u64,
    dropped: u64,
    runs: u64,
    cost: Cost,
}

/// How a job that an instance took came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// And each row took so long.
    Served(Duration),
    Failed,
    /// Its caller left before it ran.
    Dropped,
    /// Its caller left after each row had taken so long.
    Stopped(Duration),
}

/// Why a job was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full { queued: usize },
    Closed,
}

/// A run that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// Bytes of its inputs, padding included.
    pub(crate) bytes: u64,
    pub(crate) took: Duration,
}

impl<J: Member> Queue<J> {
    pub(crate) fn new(queueing: Queueing, instances: usize, batching: Batching) -> Self {
        let state = State {
            line: Line::default(),
            closed: false,
            running: 0,
            asleep: 0,
            called: 0,
            service: VecDeque::with_capacity(SERVICE_WINDOW),
            served: 0,
            failed: 0,
            dropped: 0,
            runs: 0,
            cost: Cost::default(),
        };
        Self { state: Mutex::new(state), work: Condvar::new(), queueing, instances, batching }
    }

    /// Queues a job of that priority and names it; it waits until an instance is called. Idle
    /// instances make room beyond the capacity: a queue of 0 means that a job runs at once or is
    /// refused.
    pub(crate) fn push(&self, priority: u32, job: J) -> Result<Ticket, Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let queued = state.line.len();
        if queued >= self.queueing.max + self.instances.saturating_sub(state.running) {
            return Err(Refused::Full { queued });
        }
        Ok(state.line.push(self.batching.level(priority), job))
    }

    /// Wakes an instance for what was pushed, unless all of them are at work or called already.
    pub(crate) fn call(&self) {
        let mut state = self.lock();
        if state.line.len() == 0 {
            return;
        }
        if !self.batching.max_wait.is_zero() {
            // The one that hears of it may be waiting for others.
            self.work.notify_all();
        } else if state.asleep > state.called {
            state.called += 1;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Notes how the jobs of [`Queue::next`] came out, and the run if there was one. Before they are
    /// answered: who has the answer and asks how the engine is doing finds his job done.
    pub(crate) fn finish(&self, outcomes: &[Outcome], run: Option<Run>) {
        let mut state = self.lock();
        state.running -= outcomes.len();
        outcomes.iter().for_each(|outcome| state.report(*outcome));
        if let Some(Run { bytes, took }) = run {
            state.runs += 1;
            state.cost.learn(bytes, took);
        }
    }

    /// Waits for the next jobs, which run together; `None` once the queue is closed.
    pub(crate) fn next(&self) -> Option<Vec<(Ticket, J)>> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            if let Queueing { timeout: Some(timeout), when_late: WhenLate::Delay, .. } =
                self.queueing
            {
                state.line.delay(|job| job.since() + timeout <= now);
            }
            state = match self.batching.choose(state.line.jobs(), &state.cost, now) {
                Choice::Run(places) => {
                    state.running += places.len();
                    return Some(state.line.take(&places));
                }
                Choice::Rest => {
                    state.asleep += 1;
                    let mut state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.asleep -= 1;
                    state.called = state.called.saturating_sub(1);
                    state
                }
                Choice::Wait(until) => {
                    let left = until.saturating_duration_since(now);
                    let waited = self.work.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Takes a job out again; `None` if it is running or done.
    pub(crate) fn remove(&self, ticket: Ticket) -> Option<J> {
        let mut state = self.lock();
        let job = state.line.remove(ticket)?;
        state.dropped += 1;
        Some(job)
    }

    /// Takes no more jobs and gives back those that wait.
    pub(crate) fn close(&self) -> Vec<(Ticket, J)> {
        let mut state = self.lock();
        state.closed = true;
        let jobs = state.line.clear();
        drop(state);
        self.work.notify_all();
        jobs
    }

    /// Notes the time of a run of one row that was no job.
    pub(crate) fn seed(&self, Run { bytes, took }: Run) {
        let mut state = self.lock();
        state.sample(took);
        state.cost.anchor(bytes, took);
    }

    /// The same of a run of several rows.
    pub(crate) fn seed_rows(&self, Run { bytes, took }: Run) {
        self.lock().cost.anchor(bytes, took);
    }

    pub(crate) fn load(&self) -> Load {
        let state = self.lock();
        let service = state.median();
        Load {
            queued: state.line.len(),
            running: state.running,
            instances: self.instances,
            capacity: self.queueing.max,
            service,
            served: state.served,
            failed: state.failed,
            dropped: state.dropped,
            runs: state.runs,
        }
    }

    /// A panic while the lock was held left counters at worst, so the lock is taken anyway.
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> State<J> {
    fn report(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Failed => self.failed += 1,
            Outcome::Dropped => self.dropped += 1,
            Outcome::Stopped(so_far) => {
                self.dropped += 1;
                // It would have taken longer still. Left out, a device whose callers give up on it
                // would seem as fast as ever.
                if self.median().is_none_or(|median| so_far > median) {
                    self.sample(so_far);
                }
            }
            Outcome::Served(service) => {
                self.served += 1;
                self.sample(service);
            }
        }
    }

    fn sample(&mut self, service: Duration) {
        if self.service.len() == SERVICE_WINDOW {
            self.service.pop_front();
        }
        self.service.push_back(service);
    }

    fn median(&self) -> Option<Duration> {
        let mut times: Vec<Duration> = self.service.iter().copied().collect();
        let middle = times.len() / 2;
        (!times.is_empty()).then(|| *times.select_nth_unstable(middle).1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::Size;

    impl Member for char {
        fn rows(&self) -> Option<u32> {
            self.is_lowercase().then_some(1)
        }
        fn size(&self) -> Size {
            Size::new(1, 0, 0)
        }
        fn since(&self) -> Instant {
            Instant::now() - Duration::from_secs(1)
        }
        fn joins(&self, other: &Self) -> bool {
            self == other
        }
    }

    fn queue(capacity: usize, instances: usize) -> Queue<char> {
        let batching = Batching { max_rows: Some(3), ..Batching::default() };
        Queue::new(Queueing::bounded(capacity), instances, batching)
    }

    fn next(queue: &Queue<char>) -> String {
        queue.next().unwrap().into_iter().map(|job| job.1).collect()
    }

    #[test]
    fn jobs_of_a_kind_are_taken_together_and_the_others_keep_their_places() {
        let queue = queue(9, 0);
        let tickets: Vec<Ticket> =
            "abaXabaa".chars().map(|job| queue.push(0, job).unwrap()).collect();
        assert_eq!(next(&queue), "aaa");
        assert_eq!(queue.load().running, 3);
        assert_eq!(queue.remove(tickets[5]), Some('b'));
        assert_eq!(next(&queue), "b");
        assert_eq!(next(&queue), "X");
        assert_eq!(next(&queue), "aa");
    }

    #[test]
    fn a_full_queue_refuses_and_a_leaver_makes_room() {
        let queue = queue(2, 0);
        let first = queue.push(0, 'a').unwrap();
        queue.push(0, 'b').unwrap();
        assert_eq!(queue.push(0, 'c'), Err(Refused::Full { queued: 2 }));
        assert_eq!(queue.remove(first), Some('a'));
        assert_eq!(queue.remove(first), None);
        queue.push(0, 'd').unwrap();
        assert_eq!(next(&queue), "b");
        assert!(queue.close().into_iter().map(|(_, job)| job).eq(['d']));
        assert_eq!(queue.push(0, 'e'), Err(Refused::Closed));
        queue.finish(&[Outcome::Failed], None);
        assert!(queue.next().is_none());
        let load = queue.load();
        assert_eq!((load.running, load.failed, load.dropped), (0, 1, 1));
    }

    #[test]
    fn the_urgent_overtake() {
        let batching = Batching {
            max_rows: Some(3),
            priorities: 2,
            priority_default: 2,
            ..Batching::default()
        };
        let urgent = Queue::new(Queueing::bounded(9), 0, batching);
        for (priority, job) in [(0, 'a'), (2, 'b'), (1, 'X'), (0, 'a'), (9, 'b')] {
            urgent.push(priority, job).unwrap();
        }
        assert_eq!(["X", "aa", "bb"], [(); 3].map(|()| next(&urgent)));
    }

    /// A job that must run alone, and since when it waits.
    impl Member for (char, Instant) {
        fn rows(&self) -> Option<u32> {
            None
        }
        fn size(&self) -> Size {
            Size::new(1, 0, 0)
        }
        fn since(&self) -> Instant {
            self.1
        }
        fn joins(&self, _: &Self) -> bool {
            false
        }
    }

    #[test]
    fn what_waited_too_long_lets_others_pass_where_it_is_not_refused() {
        let (now, timeout) = (Instant::now(), Some(Duration::from_secs(60)));
        for (when_late, expected) in [(WhenLate::Delay, ['b', 'a']), (WhenLate::Reject, ['a', 'b'])]
        {
            let queueing = Queueing { max: 9, timeout, when_late };
            let queue = Queue::new(queueing, 0, Batching::default());
            queue.push(0, ('a', now - Duration::from_secs(90))).unwrap();
            queue.push(0, ('b', now)).unwrap();
            assert_eq!([(); 2].map(|()| queue.next().unwrap()[0].1.0), expected);
        }
    }

    #[test]
    fn without_a_queue_a_job_runs_at_once_or_is_refused() {
        let queue = queue(0, 1);
        queue.push(0, 'a').unwrap();
        assert_eq!(queue.push(0, 'b'), Err(Refused::Full { queued: 1 }));
        queue.next().unwrap();
        assert_eq!(queue.push(0, 'b'), Err(Refused::Full { queued: 0 }));
    }

    #[test]
    fn the_median_follows_the_last_runs() {
        let queue = queue(1, 1);
        assert_eq!(queue.load().service, None);
        queue.seed(Run { bytes: 1, took: Duration::from_secs(9) });
        let ms = |count: u64| Duration::from_millis(count);
        for round in 0..SERVICE_WINDOW as u64 * 2 {
            let time = if round < SERVICE_WINDOW as u64 { ms(5) } else { ms(7) };
            queue.lock().report(Outcome::Served(time));
        }
        assert_eq!(queue.load().service, Some(ms(7)));
        assert_eq!(queue.load().served, SERVICE_WINDOW as u64 * 2);
    }

    #[test]
    fn an_engine_whose_callers_give_up_seems_as_slow_as_it_is() {
        let queue = queue(1, 1);
        queue.seed(Run { bytes: 1, took: Duration::from_millis(5) });
        for _ in 0..SERVICE_WINDOW {
            queue.lock().report(Outcome::Stopped(Duration::from_millis(40)));
            queue.lock().report(Outcome::Stopped(Duration::from_millis(1)));
        }
        assert_eq!(queue.load().service, Some(Duration::from_millis(40)));
    }
}
