//! The most that can flow from a source to a sink: Dinic's algorithm, exact over whole numbers.

use std::collections::VecDeque;

/// A network of nodes and edges with capacities.
#[derive(Clone, Debug)]
pub struct Network {
    /// Edges out of each node, as indices in `edges`; an edge and its reverse follow each other.
    out: Vec<Vec<usize>>,
    /// Where each edge goes, and what is left of it.
    edges: Vec<(usize, u64)>,
}

impl Network {
    /// So many nodes, and no edges yet.
    pub fn new(nodes: usize) -> Self {
        Self { out: vec![Vec::new(); nodes], edges: Vec::new() }
    }

    /// An edge.
    pub fn connect(&mut self, from: usize, to: usize, capacity: u64) {
        self.out[from].push(self.edges.len());
        self.edges.push((to, capacity));
        self.out[to].push(self.edges.len());
        self.edges.push((from, 0));
    }

    /// The most that flows from one node to another.
    pub fn most(mut self, source: usize, sink: usize) -> u64 {
        let mut flow = 0;
        while let Some(levels) = self.levels(source, sink) {
            let mut next = vec![0; self.out.len()];
            while let Some(more) = self.push(source, sink, u64::MAX, &levels, &mut next) {
                flow += more;
            }
        }
        flow
    }

    /// How many edges each node is from the source, if the sink can be reached.
    fn levels(&self, source: usize, sink: usize) -> Option<Vec<usize>> {
        let mut levels = vec![usize::MAX; self.out.len()];
        levels[source] = 0;
        let mut queue = VecDeque::from([source]);
        while let Some(node) = queue.pop_front() {
            for (to, left) in self.out[node].iter().map(|edge| self.edges[*edge]) {
                if left > 0 && levels[to] == usize::MAX {
                    levels[to] = levels[node] + 1;
                    queue.push_back(to);
                }
            }
        }
        (levels[sink] < usize::MAX).then_some(levels)
    }

    /// One more path of shortest length. Of each node the first `next` edges lead nowhere.
    fn push(
        &mut self,
        node: usize,
        sink: usize,
        most: u64,
        levels: &[usize],
        next: &mut [usize],
    ) -> Option<u64> {
        if node == sink {
            return Some(most);
        }
        while let Some(edge) = self.out[node].get(next[node]).copied() {
            let (to, left) = self.edges[edge];
            let leads_on = left > 0 && levels[to] == levels[node] + 1;
            let push = || self.push(to, sink, most.min(left), levels, next);
            let flow = leads_on.then(push).flatten();
            if let Some(flow) = flow {
                self.edges[edge].1 -= flow;
                self.edges[edge ^ 1].1 += flow;
                return Some(flow);
            }
            next[node] += 1;
        }
        None
    }
}

#[cfg(test)]
#[allow(clippy::print_stdout)] // Seeds come first, so that a failure can be repeated.
mod tests {
    use super::*;
    use hansa_core::rng::Rng;

    #[test]
    fn the_most_that_flows_is_the_least_that_cuts() {
        println!("seed 5");
        let mut rng = Rng::new(5);
        for _ in 0..200 {
            let nodes = 2 + rng.below(7);
            let edges: Vec<(usize, usize, u64)> = (0..rng.below(25))
                .map(|_| (rng.below(nodes), rng.below(nodes), rng.below(10) as u64))
                .collect();
            let mut network = Network::new(nodes);
            edges.iter().for_each(|(from, to, capacity)| network.connect(*from, *to, *capacity));
            // Each set of nodes with the source (0) and without the sink (1) is a cut.
            let cut = |side: usize| {
                let is_in = |node: usize| side >> node & 1 == 1;
                let across = edges.iter().filter(|(from, to, _)| is_in(*from) && !is_in(*to));
                across.map(|(_, _, capacity)| capacity).sum::<u64>()
            };
            let cuts = (0..1_usize << nodes).filter(|side| side & 0b11 == 0b01);
            assert_eq!(network.most(0, 1), cuts.map(cut).min().unwrap(), "{nodes}: {edges:?}");
        }
    }
}
