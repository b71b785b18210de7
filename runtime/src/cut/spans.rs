//! Where to cut: pure arithmetic over what each stretch of nodes costs, weighs and hands over.
//!
//! Two passes of dynamic programming over the places where a cut is possible. The first finds how
//! long the slowest stage must take at least, each stage within its memory. The second, of all cuts
//! whose slowest stage takes little longer than that and whose quickest is worth a peer, the one
//! that hands over least.

/// The slowest stage may take this part longer than in the best balanced cut, for narrower cuts.
const SLACK: u64 = 10;
/// A stage should take at least so many tenths of the mean, the first of these that is possible.
const WORTHWHILE_TENTHS: [u64; 3] = [5, 2, 0];
/// Places that are compared; of more, the narrowest of each stretch.
pub(super) const PLACES_MAX: usize = 512;

/// A place between two nodes where the graph can be cut.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    /// Before the node of this index.
    pub(super) at: usize,
    /// Bytes that are handed over there.
    pub(super) width: u64,
}

/// What stretches between places cost and weigh. Both ends of the graph count as places.
pub(super) struct Stretches {
    /// Arithmetic up to each place.
    pub(super) cost_before: Vec<u64>,
    /// Bytes from one place to another: `bytes[from][to - from]`.
    pub(super) bytes: Vec<Vec<u64>>,
    /// Bytes handed over at each place.
    pub(super) width: Vec<u64>,
}

/// Why there is no such cut.
#[derive(Debug, PartialEq)]
pub(super) enum NoCut {
    /// More stages than there are pieces.
    Pieces(usize),
    /// A piece that cannot be cut further is larger than any budget.
    Piece(u64),
    /// The budgets together, or in this order, do not suffice.
    Budgets,
}

impl Stretches {
    fn places(&self) -> usize {
        self.width.len()
    }

    pub(super) fn cost(&self, from: usize, to: usize) -> u64 {
        self.cost_before[to] - self.cost_before[from]
    }

    /// Cuts into as many stages as there are budgets (bytes, in order): the places between them.
    pub(super) fn cut(&self, budgets: &[u64]) -> Result<Vec<usize>, NoCut> {
        let pieces = self.places() - 1;
        if budgets.len() > pieces {
            return Err(NoCut::Pieces(pieces));
        }
        let largest = (0..pieces).map(|from| self.bytes[from][1]).max().unwrap_or(0);
        if budgets.iter().all(|budget| *budget < largest) {
            return Err(NoCut::Piece(largest));
        }
        let slowest = self.best(budgets, |before, from, to| Some(before.max(self.cost(from, to))));
        let (slowest, _) = slowest.ok_or(NoCut::Budgets)?;
        let bound = slowest.saturating_add(slowest / SLACK);
        let mean = self.cost(0, pieces) / budgets.len() as u64;
        let narrowest = |least: u64| {
            self.best(budgets, |before, from, to| {
                let cost = self.cost(from, to);
                (cost <= bound && cost >= least).then_some(before.saturating_add(self.width[from]))
            })
        };
        let cut = WORTHWHILE_TENTHS.iter().find_map(|part| narrowest(mean / 10 * part));
        Ok(cut.expect("the first pass found one").1)
    }

    /// The cut of least value, stage by stage: `value` of a stage from what came before it.
    fn best(
        &self,
        budgets: &[u64],
        value: impl Fn(u64, usize, usize) -> Option<u64>,
    ) -> Option<(u64, Vec<usize>)> {
        let places = self.places();
        let mut reached: Vec<Option<u64>> = vec![None; places];
        reached[0] = Some(0);
        let mut froms = Vec::with_capacity(budgets.len());
        for budget in budgets {
            let mut next: Vec<Option<u64>> = vec![None; places];
            let mut from_of = vec![0; places];
            for (from, before) in reached.iter().enumerate() {
                let Some(before) = *before else { continue };
                for to in from + 1..places {
                    // A longer stretch never weighs less.
                    if self.bytes[from][to - from] > *budget {
                        break;
                    }
                    let Some(value) = value(before, from, to) else { continue };
                    if next[to].is_none_or(|known| value < known) {
                        next[to] = Some(value);
                        from_of[to] = from;
                    }
                }
            }
            reached = next;
            froms.push(from_of);
        }
        let value = reached[places - 1]?;
        let mut cuts = Vec::with_capacity(budgets.len());
        let mut place = places - 1;
        for from_of in froms.iter().rev() {
            place = from_of[place];
            cuts.push(place);
        }
        cuts.pop(); // The start of the graph.
        cuts.reverse();
        Some((value, cuts))
    }
}

/// At most [`PLACES_MAX`] of the places, in order: the narrowest of each of as many stretches.
pub(super) fn thin(places: &[Place]) -> Vec<Place> {
    let stretch = places.len().div_ceil(PLACES_MAX).max(1);
    let narrowest = |places: &[Place]| *places.iter().min_by_key(|p| p.width).expect("not empty");
    places.chunks(stretch).map(narrowest).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stretches(costs: &[u64], weights: &[u64], width: &[u64]) -> Stretches {
        let mut cost_before = vec![0];
        for cost in costs {
            cost_before.push(cost_before[cost_before.len() - 1] + cost);
        }
        let sum = |from: usize, to: usize| weights[from..to].iter().sum();
        let row = |from: usize| (from..=weights.len()).map(|to| sum(from, to)).collect();
        let bytes = (0..=weights.len()).map(row).collect();
        let width = [&[0], width, &[0]].concat();
        Stretches { cost_before, bytes, width }
    }

    const ANY: u64 = u64::MAX;

    #[test]
    fn even_costs_are_cut_evenly() {
        let even = stretches(&[10; 6], &[1; 6], &[5; 5]);
        assert_eq!(even.cut(&[ANY; 3]), Ok(vec![2, 4]));
        assert_eq!(even.cut(&[ANY]), Ok(vec![]));
    }

    #[test]
    fn a_narrow_place_wins_over_perfect_balance() {
        let costs = [10; 20];
        let mut width = [100; 19];
        width[8] = 1;
        assert_eq!(stretches(&costs, &[1; 20], &width).cut(&[ANY; 2]), Ok(vec![9]));
        // But not over a balance that is much better.
        width[8] = 100;
        width[3] = 1;
        let cut = stretches(&costs, &[1; 20], &width).cut(&[ANY; 2]).unwrap();
        assert!(cut[0] > 4, "{cut:?}");
    }

    #[test]
    fn each_stage_keeps_its_budget_in_order() {
        let even = stretches(&[10; 6], &[10; 6], &[5; 5]);
        assert_eq!(even.cut(&[10, 50]), Ok(vec![1]));
        assert_eq!(even.cut(&[50, 10]), Ok(vec![5]));
        assert_eq!(even.cut(&[20, 30]), Err(NoCut::Budgets));
        assert_eq!(even.cut(&[9, 9]), Err(NoCut::Piece(10)));
        assert_eq!(even.cut(&[ANY; 7]), Err(NoCut::Pieces(6)));
    }

    proptest! {
        #[test]
        fn no_cut_is_better_balanced_by_more_than_the_slack(
            costs in proptest::collection::vec(1_u64..100, 3..9),
            stages in 2_usize..4,
        ) {
            let width = vec![1; costs.len() - 1];
            let stretches = stretches(&costs, &vec![1; costs.len()], &width);
            let cut = stretches.cut(&vec![ANY; stages]).unwrap();
            let slowest = |cut: &[usize]| {
                let ends: Vec<usize> = [&[0], cut, &[costs.len()]].concat();
                ends.windows(2).map(|ends| stretches.cost(ends[0], ends[1])).max()
            };
            prop_assert_eq!(cut.len(), stages - 1);
            for a in 1..costs.len() {
                let others = if stages == 2 { vec![vec![a]] } else {
                    (a + 1..costs.len()).map(|b| vec![a, b]).collect()
                };
                for other in others {
                    prop_assert!(slowest(&cut) <= slowest(&other).map(|cost| cost + cost / SLACK));
                }
            }
        }
    }
}
