//! What waits for the log's thread: a bounded queue of which the thread takes all at once, and which
//! does not wake it before it is told to. Who hands over one of many receipts lets the others come
//! first, so that the thread wakes once for all of them.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// A queue with many ends that put and one that takes.
pub(super) struct Waiting<T> {
    state: Mutex<State<T>>,
    work: Condvar,
    most: usize,
}

struct State<T> {
    items: VecDeque<T>,
    is_closed: bool,
    /// The thread waits, and nobody has called it yet.
    is_asleep: bool,
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
    /// All that waits.
    Items(VecDeque<T>),
    /// Nothing came by then.
    Late,
    /// Nothing waits and nothing will come.
    Closed,
}

impl<T> Waiting<T> {
    pub(super) fn new(most: usize) -> Self {
        let state = State { items: VecDeque::new(), is_closed: false, is_asleep: false };
        Self { state: Mutex::new(state), work: Condvar::new(), most }
    }

    /// Puts an item; the thread sees it when it is called or comes anyway.
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

    /// Wakes the thread if it sleeps and something waits.
    pub(super) fn call(&self) {
        let mut state = self.lock();
        if state.is_asleep && !state.items.is_empty() {
            state.is_asleep = false;
            drop(state);
            self.work.notify_one();
        }
    }

    /// Takes nothing more; what waits is still taken out.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.work.notify_one();
    }

    /// Takes all that waits, or waits until something does.
    pub(super) fn take(&self, until: Option<Instant>) -> Taken<T> {
        let mut state = self.lock();
        loop {
            if !state.items.is_empty() {
                return Taken::Items(std::mem::take(&mut state.items));
            }
            if state.is_closed {
                return Taken::Closed;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Taken::Late;
            }
            state.is_asleep = true;
            state = match left {
                None => self.work.wait(state).expect("no holder panics"),
                Some(left) => self.work.wait_timeout(state, left).expect("no holder panics").0,
            };
            state.is_asleep = false;
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
        assert_eq!(waiting.take(None), Taken::Items([1, 2].into()));
        assert_eq!(waiting.take(Some(Instant::now())), Taken::Late);
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
