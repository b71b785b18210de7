//! Answers in the order in which their jobs came, for models that are configured so: one that is
//! there before its turn is held until those before it are answered or have left.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Holds answers back until it is their turn.
pub(crate) struct Turns<A>(Mutex<State<A>>);

struct State<A> {
    /// The job whose turn it is: all before it are done.
    next: u64,
    /// What is done before its turn; nothing of a job that needs no answer.
    held: BTreeMap<u64, Option<A>>,
}

impl<A> Turns<A> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(State { next: 0, held: BTreeMap::new() }))
    }

    /// Jobs are done, with what they are answered, by their numbers, which count from 0; each is
    /// named once. Gives the answers whose turn it is now, in order.
    pub(crate) fn done(&self, jobs: impl IntoIterator<Item = (u64, Option<A>)>) -> Vec<A> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.held.extend(jobs);
        let mut answers = Vec::new();
        while let Some(entry) = state.held.first_entry()
            && *entry.key() == state.next
        {
            answers.extend(state.held.pop_first().and_then(|(_, answer)| answer));
            state.next += 1;
        }
        answers
    }

    /// Jobs that are done before their turn.
    pub(crate) fn held(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_waits_for_those_before_it_and_not_for_those_that_left() {
        let turns = Turns::new();
        assert_eq!(turns.done([(2, Some('c')), (3, Some('d'))]), []);
        assert_eq!((turns.held(), turns.done([(0, Some('a'))])), (2, vec!['a']));
        assert_eq!(turns.done([(1, None)]), ['c', 'd']);
        assert_eq!((turns.held(), turns.done([(4, Some('e'))])), (0, vec!['e']));
    }
}
