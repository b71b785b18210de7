//! The queue before an engine's instances: bounded, first come first served, a caller who leaves
//! takes his job along. Also counts what went through. Knows nothing of sessions.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::limits::SERVICE_WINDOW;

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
    /// Jobs whose caller left or whose deadline passed before they ran.
    pub dropped: u64,
}

pub(crate) struct Queue<J> {
    state: Mutex<State<J>>,
    work: Condvar,
    capacity: usize,
    instances: usize,
}

struct State<J> {
    jobs: VecDeque<(u64, J)>,
    next: u64,
    closed: bool,
    running: usize,
    /// A ring of the last service times.
    service: VecDeque<Duration>,
    served: u64,
    failed: u64,
    dropped: u64,
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

impl<J> Queue<J> {
    pub(crate) fn new(capacity: usize, instances: usize) -> Self {
        let state = State {
            jobs: VecDeque::new(),
            next: 0,
            closed: false,
            running: 0,
            service: VecDeque::with_capacity(SERVICE_WINDOW),
            served: 0,
            failed: 0,
            dropped: 0,
        };
        Self { state: Mutex::new(state), work: Condvar::new(), capacity, instances }
    }

    /// Queues a job and names it. Idle instances make room beyond the capacity: a queue of 0
    /// means that a job runs at once or is refused.
    pub(crate) fn push(&self, job: J) -> Result<u64, Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let queued = state.jobs.len();
        if queued >= self.capacity + self.instances.saturating_sub(state.running) {
            return Err(Refused::Full { queued });
        }
        let id = state.next;
        state.next += 1;
        state.jobs.push_back((id, job));
        drop(state);
        self.work.notify_one();
        Ok(id)
    }

    /// Notes how a job came out. Before it is answered: who has the answer and asks how the
    /// engine is doing finds his job done.
    pub(crate) fn finish(&self, outcome: Outcome) {
        let mut state = self.lock();
        state.running -= 1;
        state.report(outcome);
    }

    /// Waits for the next job; `None` once the queue is closed.
    pub(crate) fn next(&self) -> Option<(u64, J)> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                state.running += 1;
                return Some(job);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes a job out again; `None` if it is running or done.
    pub(crate) fn remove(&self, id: u64) -> Option<J> {
        let mut state = self.lock();
        // Ids grow along the queue.
        let index = state.jobs.binary_search_by_key(&id, |job| job.0).ok()?;
        state.dropped += 1;
        state.jobs.remove(index).map(|job| job.1)
    }

    /// Takes no more jobs and gives back those that wait.
    pub(crate) fn close(&self) -> Vec<J> {
        let mut state = self.lock();
        state.closed = true;
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.work.notify_all();
        jobs.into_iter().map(|job| job.1).collect()
    }

    /// Notes the time of a run that was no job.
    pub(crate) fn seed(&self, service: Duration) {
        self.lock().sample(service);
    }

    pub(crate) fn load(&self) -> Load {
        let state = self.lock();
        let service = state.median();
        Load {
            queued: state.jobs.len(),
            running: state.running,
            instances: self.instances,
            capacity: self.capacity,
            service,
            served: state.served,
            failed: state.failed,
            dropped: state.dropped,
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

    #[test]
    fn a_full_queue_refuses_and_a_leaver_makes_room() {
        let queue = Queue::new(2, 0);
        let first = queue.push('a').unwrap();
        queue.push('b').unwrap();
        assert_eq!(queue.push('c'), Err(Refused::Full { queued: 2 }));
        assert_eq!(queue.remove(first), Some('a'));
        assert_eq!(queue.remove(first), None);
        queue.push('d').unwrap();
        assert_eq!(queue.next().map(|job| job.1), Some('b'));
        assert_eq!(queue.close(), ['d']);
        assert_eq!(queue.push('e'), Err(Refused::Closed));
        queue.finish(Outcome::Failed);
        assert_eq!(queue.next(), None);
        let load = queue.load();
        assert_eq!((load.running, load.failed, load.dropped), (0, 1, 1));
    }

    #[test]
    fn without_a_queue_a_job_runs_at_once_or_is_refused() {
        let queue = Queue::new(0, 1);
        queue.push('a').unwrap();
        assert_eq!(queue.push('b'), Err(Refused::Full { queued: 1 }));
        queue.next().unwrap();
        assert_eq!(queue.push('b'), Err(Refused::Full { queued: 0 }));
    }

    #[test]
    fn the_median_follows_the_last_runs() {
        let queue = Queue::<()>::new(1, 1);
        assert_eq!(queue.load().service, None);
        queue.seed(Duration::from_secs(9));
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
        let queue = Queue::<()>::new(1, 1);
        queue.seed(Duration::from_millis(5));
        for _ in 0..SERVICE_WINDOW {
            queue.lock().report(Outcome::Stopped(Duration::from_millis(40)));
            queue.lock().report(Outcome::Stopped(Duration::from_millis(1)));
        }
        assert_eq!(queue.load().service, Some(Duration::from_millis(40)));
    }
}
