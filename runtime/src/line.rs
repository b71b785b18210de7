//! The order in which jobs wait. Pure: what is late, it is told.
//!
//! The most urgent first; of one level, those that are in time before those that waited too long; of
//! these, first come, first served. That is strict: while more urgent jobs come as fast as they run,
//! no other runs, and how long one waits is bounded by its deadline alone.

use std::collections::VecDeque;
use std::time::Duration;

use crate::limits::QUEUE_DEFAULT;

/// How many jobs may wait for an engine, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queueing {
    /// Jobs that wait, beyond those that run.
    pub max: usize,
    /// How long a job may wait before it runs; none: until its own deadline.
    pub timeout: Option<Duration>,
    /// What becomes of one that has waited longer.
    pub when_late: WhenLate,
}

/// What becomes of a job that has waited longer than its model's queue allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenLate {
    /// It is refused.
    #[default]
    Reject,
    /// It lets all others of its level go first.
    Delay,
}

impl Queueing {
    /// So many may wait, each until its deadline.
    pub const fn bounded(max: usize) -> Self {
        Self { max, timeout: None, when_late: WhenLate::Reject }
    }
}

impl Default for Queueing {
    fn default() -> Self {
        Self::bounded(QUEUE_DEFAULT)
    }
}

/// A job's place in the line. They sort as the jobs wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    level: u32,
    is_late: bool,
    number: u64,
}

impl Ticket {
    /// Counts the jobs of a line from 0, in the order in which they came.
    pub(crate) fn number(self) -> u64 {
        self.number
    }
}

/// Jobs that wait.
pub(crate) struct Line<J> {
    jobs: VecDeque<(Ticket, J)>,
    next: u64,
}

impl<J> Default for Line<J> {
    fn default() -> Self {
        Self { jobs: VecDeque::new(), next: 0 }
    }
}

impl<J> Line<J> {
    /// A job joins those of its level; 1 is the most urgent.
    pub(crate) fn push(&mut self, level: u32, job: J) -> Ticket {
        let ticket = Ticket { level, is_late: false, number: self.next };
        self.next += 1;
        let is_last = self.jobs.back().is_none_or(|(last, _)| *last < ticket);
        let place =
            if is_last { self.jobs.len() } else { self.place(ticket).unwrap_or_else(|p| p) };
        self.jobs.insert(place, (ticket, job));
        ticket
    }

    /// Those that wait, the next first.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = &J> {
        self.jobs.iter().map(|(_, job)| job)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Takes out the jobs at these places, which grow.
    pub(crate) fn take(&mut self, places: &[usize]) -> Vec<(Ticket, J)> {
        if places.iter().enumerate().all(|(index, place)| index == *place) {
            return self.jobs.drain(..places.len()).collect();
        }
        let mut taken: Vec<_> =
            places.iter().rev().filter_map(|place| self.jobs.remove(*place)).collect();
        taken.reverse();
        taken
    }

    /// A job leaves; none if it does not wait any more.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<J> {
        let late = Ticket { is_late: true, ..ticket };
        let place = self.place(ticket).or_else(|_| self.place(late)).ok()?;
        self.jobs.remove(place).map(|(_, job)| job)
    }

    /// All leave.
    pub(crate) fn clear(&mut self) -> Vec<(Ticket, J)> {
        std::mem::take(&mut self.jobs).into()
    }

    /// Those that `is_late` names let the others of their level go first.
    pub(crate) fn delay(&mut self, is_late: impl Fn(&J) -> bool) {
        let mut is_changed = false;
        for (ticket, job) in &mut self.jobs {
            if !ticket.is_late && is_late(job) {
                (ticket.is_late, is_changed) = (true, true);
            }
        }
        if is_changed {
            self.jobs.make_contiguous().sort_by_key(|(ticket, _)| *ticket);
        }
    }

    fn place(&self, ticket: Ticket) -> Result<usize, usize> {
        self.jobs.binary_search_by_key(&ticket, |(ticket, _)| *ticket)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(line: &Line<(u32, u32)>) -> Vec<(u32, u32)> {
        line.jobs().copied().collect()
    }

    #[test]
    fn the_urgent_go_first_and_the_late_let_others_of_their_level_pass() {
        let mut line = Line::default();
        for (level, job) in [(2, 0), (2, 1), (1, 2), (3, 3), (1, 4)] {
            line.push(level, (level, job));
        }
        assert_eq!(waiting(&line), [(1, 2), (1, 4), (2, 0), (2, 1), (3, 3)]);
        line.delay(|(_, job)| *job == 0);
        let late = line.push(2, (2, 5));
        assert_eq!(waiting(&line), [(1, 2), (1, 4), (2, 1), (2, 5), (2, 0), (3, 3)]);
        line.delay(|(_, job)| *job == 5);
        assert_eq!(waiting(&line), [(1, 2), (1, 4), (2, 1), (2, 0), (2, 5), (3, 3)]);
        assert_eq!((line.remove(late), line.remove(late)), (Some((2, 5)), None));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u32),
        Take(Vec<bool>),
        Leave(usize),
        /// Those that came before this one are late.
        Delay(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1u32..4).prop_map(Step::Push),
            2 => proptest::collection::vec(any::<bool>(), 0..4).prop_map(Step::Take),
            1 => (0usize..20).prop_map(Step::Leave),
            1 => (0u32..40).prop_map(Step::Delay),
        ]
    }

    proptest! {
        /// Against a list that is sorted anew after every step.
        #[test]
        fn a_line_is_always_in_order_and_loses_nobody(
            steps in proptest::collection::vec(step(), 0..60)
        ) {
            let (mut line, mut tickets) = (Line::default(), Vec::new());
            let mut expected: Vec<(u32, bool, u32)> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(level) => {
                        let number = u32::try_from(tickets.len()).unwrap();
                        tickets.push(line.push(level, (level, number)));
                        expected.push((level, false, number));
                    }
                    Step::Take(which) => {
                        let places: Vec<usize> = (0..line.len().min(which.len()))
                            .filter(|place| which[*place]).collect();
                        let taken = line.take(&places);
                        let wanted: Vec<_> = places.iter().map(|place| expected[*place]).collect();
                        let numbers = taken.iter().map(|(ticket, job)| {
                            assert_eq!(ticket.number(), u64::from(job.1));
                            job.1
                        });
                        prop_assert!(numbers.eq(wanted.iter().map(|job| job.2)));
                        expected.retain(|job| !wanted.contains(job));
                    }
                    Step::Leave(number) => {
                        let Some(ticket) = tickets.get(number) else { continue };
                        let number = u32::try_from(number).unwrap();
                        let waits = expected.iter().any(|job| job.2 == number);
                        prop_assert_eq!(line.remove(*ticket).is_some(), waits);
                        expected.retain(|job| job.2 != number);
                    }
                    Step::Delay(before) => {
                        line.delay(|(_, number)| *number < before);
                        expected.iter_mut().for_each(|job| job.1 |= job.2 < before);
                    }
                }
                expected.sort_unstable();
                let expected: Vec<(u32, u32)> =
                    expected.iter().map(|(level, _, number)| (*level, *number)).collect();
                prop_assert_eq!(waiting(&line), expected);
            }
        }
    }
}
