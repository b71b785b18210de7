//! What waits to be kept: a bounded queue. Whoever puts something may take all that waits and do it
//! itself, or call the thread that does what takes longer.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// A queue with many ends that put, and a thread that takes.
pub(super) struct Waiting<T> {
    state: Mutex<State<T>>,
    work: Condvar,
    most: usize,
}

struct State<T> {
    items: VecDeque<T>,
    is_closed: bool,
    is_called: bool,
}

/// Why something was not put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

/// What the thread gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken<T> {
    /// All that waits, now that it was called or its time has come. Nothing, where only that was to
    /// be told, or somebody else took it.
    Items(VecDeque<T>),
    /// Nothing waits and nothing will come.
    Closed,
}

impl<T> Waiting<T> {
    pub(super) fn new(most: usize) -> Self {
        let state = State { items: VecDeque::new(), is_closed: false, is_called: false };
        Self { state: Mutex::new(state), work: Condvar::new(), most }
    }

    /// Puts an item; somebody has to take it, or to call the thread.
    pub(super) fn put(&self, item: T) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(Refused::Closed);
        }
        if state.items.len() >= self.most {
            return Err(Refused::Full);
        }
        state.items.push_back(item);
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().items.is_empty()
    }

    /// Takes those that wait and have a cost, in their order, until they cost `most` together; the
    /// others stay.
    pub(super) fn take_some(&self, most: usize, cost: impl Fn(&T) -> Option<usize>) -> Vec<T> {
        let mut state = self.lock();
        let (mut taken, mut left) = (Vec::new(), most);
        for item in std::mem::take(&mut state.items) {
            match cost(&item) {
                Some(cost) if left > 0 => {
                    left = left.saturating_sub(cost);
                    taken.push(item);
                }
                _ => state.items.push_back(item),
            }
        }
        taken
    }

    /// Has the thread look.
    pub(super) fn call(&self) {
        self.lock().is_called = true;
        self.work.notify_one();
    }

    /// Takes nothing more; what waits is still taken out.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.work.notify_one();
    }

    /// The thread's: all that waits, once it is called, or by then.
    pub(super) fn take(&self, until: Option<Instant>) -> Taken<T> {
        let mut state = self.lock();
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let is_late = left.is_some_and(|left| left.is_zero());
            if state.is_closed && state.items.is_empty() {
                return Taken::Closed;
            }
            if std::mem::take(&mut state.is_called) || state.is_closed || is_late {
                return Taken::Items(std::mem::take(&mut state.items));
            }
            state = match left {
                None => self.work.wait(state).expect("no holder panics"),
                Some(left) => self.work.wait_timeout(state, left).expect("no holder panics").0,
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn all_that_waits_is_taken_at_once_and_what_is_too_much_is_refused() {
        let waiting = Waiting::new(2);
        assert_eq!((waiting.put(1), waiting.put(2)), (Ok(()), Ok(())));
        assert_eq!(waiting.put(3), Err(Refused::Full));
        let cost = |item: &i32| (*item != 2).then_some(1);
        assert_eq!((waiting.take_some(0, cost), waiting.take_some(9, cost)), (vec![], vec![1]));
        assert_eq!(waiting.take_some(9, |_| Some(1)), [2]);
        assert!(waiting.is_empty());
        assert_eq!(waiting.take(Some(Instant::now())), Taken::Items([].into()));
        waiting.put(4).unwrap();
        waiting.close();
        assert_eq!(waiting.put(5), Err(Refused::Closed));
        assert_eq!(waiting.take(None), Taken::Items([4].into()));
        assert_eq!(waiting.take(None), Taken::Closed);
    }

    #[test]
    fn a_sleeping_thread_comes_when_it_is_called_and_when_the_queue_closes() {
        let waiting = Arc::new(Waiting::new(10));
        let thread = std::thread::spawn({
            let waiting = waiting.clone();
            move || {
                let mut sum = 0;
                while let Taken::Items(items) = waiting.take(None) {
                    sum += items.into_iter().sum::<u32>();
                }
                sum
            }
        });
        for number in 1..=3 {
            waiting.put(number).unwrap();
            waiting.call();
            std::thread::sleep(Duration::from_millis(5));
        }
        waiting.close();
        assert_eq!(thread.join().unwrap(), 6);
    }
}
