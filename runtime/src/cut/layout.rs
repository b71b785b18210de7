//! Which node goes where: a graph's nodes in a line that can be cut between any two, and what a
//! stretch of that line takes, gives and needs.
//!
//! Nodes that no output depends on are left out. Nodes that depend on weights alone are not in the line: each stage that needs what they make has
//! them, as it has the weights. All else is made once and handed over under its own name.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::graph::{Graph, bytes};
use super::spans::{Place, Stretches, thin};
use super::types::{Dim, Type, Types};
use crate::limits::TENSORS_MAX;

/// What an unknown first dimension (the batch) counts as where costs are estimated…
const ROWS_ASSUMED: u64 = 1;
/// …the next one (the length of a text)…
const LENGTH_ASSUMED: u64 = 64;
/// …and each after that: where many are unknown, most are small.
const DIM_ASSUMED: u64 = 8;

/// Arithmetic that is assumed of a node inside a subgraph.
const INNER_NODE_ASSUMED: u64 = 4096;

/// A tensor that a node of the line makes.
#[derive(Clone, Copy, Debug)]
struct Made {
    /// Place of its maker.
    at: usize,
    /// Place of the last node that takes it.
    last: usize,
}

/// A graph laid out.
pub(super) struct Layout<'g, 'a> {
    graph: &'g Graph<'a>,
    /// Indices of the nodes in the line.
    line: Vec<usize>,
    /// What the nodes outside the line make, and by which node.
    constants: BTreeMap<&'a str, usize>,
    made: BTreeMap<&'a str, Made>,
}

/// What a stage is made of, by name and index.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    /// Nodes, in order.
    pub(super) nodes: Vec<usize>,
    pub(super) weights: BTreeSet<&'a str>,
    /// Tensors that other stages make.
    pub(super) taken: BTreeSet<&'a str>,
    /// Inputs of the whole.
    pub(super) inputs: Vec<&'a str>,
    /// Tensors that later stages take.
    pub(super) given: BTreeSet<&'a str>,
    /// Outputs of the whole.
    pub(super) outputs: Vec<&'a str>,
}

impl<'g, 'a> Layout<'g, 'a> {
    pub(super) fn new(graph: &'g Graph<'a>) -> Self {
        let is_live = live(graph);
        let mut constants = BTreeMap::new();
        let mut line = Vec::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            let is_constant =
                |input: &&str| graph.weights.contains_key(*input) || constants.contains_key(*input);
            if !is_live[index] {
                continue;
            }
            if !node.is_random() && node.inputs.iter().all(is_constant) {
                constants.extend(node.outputs.iter().map(|output| (*output, index)));
            } else {
                line.push(index);
            }
        }
        let mut made = BTreeMap::new();
        for (at, &index) in line.iter().enumerate() {
            for input in &graph.nodes[index].inputs {
                if let Some(Made { last, .. }) = made.get_mut(input) {
                    *last = at;
                }
            }
            for output in &graph.nodes[index].outputs {
                made.insert(*output, Made { at, last: at });
            }
        }
        Self { graph, line, constants, made }
    }

    /// How many nodes there are to cut between.
    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    /// All that nodes of the line make.
    pub(super) fn made(&self) -> Vec<&'a str> {
        self.made.keys().copied().collect()
    }

    /// What the stretch `range` of the line is made of.
    pub(super) fn parts(&self, range: &Range<usize>) -> Parts<'a> {
        let mut parts = Parts::default();
        let mut nodes = BTreeSet::new();
        let mut wanted: Vec<&'a str> = Vec::new();
        for &index in &self.line[range.clone()] {
            nodes.insert(index);
            wanted.extend(&self.graph.nodes[index].inputs);
            for output in &self.graph.nodes[index].outputs {
                let made = self.made[output];
                if made.last >= range.end {
                    parts.given.insert(*output);
                }
            }
        }
        let is_last = range.end == self.len();
        for (output, _) in &self.graph.outputs {
            let here = match self.made.get(output) {
                Some(made) => range.contains(&made.at),
                // Made of weights alone, or an input: the last stage has it.
                None => is_last,
            };
            if here {
                parts.outputs.push(*output);
                wanted.push(*output);
            }
        }
        let mut inputs = BTreeSet::new();
        let mut seen = BTreeSet::new();
        while let Some(name) = wanted.pop() {
            if !seen.insert(name) {
                continue;
            }
            if self.graph.weights.contains_key(name) {
                parts.weights.insert(name);
            } else if let Some(&index) = self.constants.get(name) {
                nodes.insert(index);
                wanted.extend(&self.graph.nodes[index].inputs);
            } else if let Some(made) = self.made.get(name) {
                if made.at < range.start {
                    parts.taken.insert(name);
                }
            } else {
                inputs.insert(name);
            }
        }
        let named = self.graph.inputs.iter().map(|(name, _)| *name);
        parts.inputs = named.filter(|name| inputs.contains(name)).collect();
        parts.nodes = nodes.into_iter().collect();
        parts
    }

    /// The places where the line can be cut: where all that is handed over can travel.
    pub(super) fn places(&self, types: &Types) -> Vec<Place> {
        let nodes = self.len();
        // What begins and what ends to be handed over at each place.
        let mut width = vec![0_i128; nodes + 1];
        let mut count = vec![0_i64; nodes + 1];
        let mut barred = vec![0_i64; nodes + 1];
        for (name, made) in &self.made {
            if made.last == made.at {
                continue;
            }
            let bytes = types.inner.get(*name).map(assumed_bytes);
            let (from, to) = (made.at + 1, made.last + 1);
            let bytes_there = i128::from(bytes.unwrap_or(0));
            width[from] += bytes_there;
            width[to] -= bytes_there;
            count[from] += 1;
            count[to] -= 1;
            if bytes.is_none() {
                barred[from] += 1;
                barred[to] -= 1;
            }
        }
        let (mut open, mut tensors, mut odd) = (0_i128, 0_i64, 0_i64);
        let tensors_max = i64::try_from(TENSORS_MAX - self.graph.inputs.len().min(TENSORS_MAX));
        let tensors_max = tensors_max.expect("a small number");
        let mut places = Vec::new();
        for at in 1..nodes {
            open += width[at];
            tensors += count[at];
            odd += barred[at];
            if odd == 0 && tensors <= tensors_max {
                places.push(Place { at, width: u64::try_from(open).unwrap_or(u64::MAX) });
            }
        }
        places
    }

    /// What lies between the places, which are thinned out if there are many: where they are, and
    /// what they cost.
    pub(super) fn stretches(&self, types: &Types) -> (Vec<usize>, Stretches) {
        let places = thin(&self.places(types));
        let inner = places.iter().map(|place| place.at);
        let at: Vec<usize> = [0].into_iter().chain(inner).chain([self.len()]).collect();
        let costs: Vec<u64> =
            self.line.iter().map(|index| self.operations(*index, types)).collect();
        let sum = |costs: &[u64]| costs.iter().fold(0_u64, |sum, cost| sum.saturating_add(*cost));
        let cost_before = at.iter().map(|at| sum(&costs[..*at])).collect();
        let mut width: Vec<u64> = places.iter().map(|place| place.width).collect();
        width.insert(0, 0);
        width.push(0);
        let needs: Vec<Vec<Piece<'a>>> = (0..self.len()).map(|at| self.needs(at)).collect();
        let row = |from: usize| {
            let mut seen = BTreeSet::new();
            let mut total: u64 = 0;
            let mut row = vec![0];
            for ends in at[from..].windows(2) {
                for piece in needs[ends[0]..ends[1]].iter().flatten() {
                    if seen.insert(piece.key()) {
                        total = total.saturating_add(self.piece_bytes(piece));
                    }
                }
                row.push(total);
            }
            row
        };
        let bytes = (0..at.len()).map(row).collect();
        (at, Stretches { cost_before, bytes, width })
    }

    /// Weights and constant nodes that the node at a place of the line needs.
    fn needs(&self, at: usize) -> Vec<Piece<'a>> {
        let mut pieces = vec![Piece::Node(self.line[at])];
        let mut seen = BTreeSet::new();
        let mut wanted = self.graph.nodes[self.line[at]].inputs.clone();
        while let Some(name) = wanted.pop() {
            if !seen.insert(name) {
                continue;
            }
            if self.graph.weights.contains_key(name) {
                pieces.push(Piece::Weight(name));
            } else if let Some(&index) = self.constants.get(name) {
                pieces.push(Piece::Node(index));
                wanted.extend(&self.graph.nodes[index].inputs);
            }
        }
        pieces
    }

    fn piece_bytes(&self, piece: &Piece<'a>) -> u64 {
        match piece {
            Piece::Weight(name) => self.graph.weights[name].bytes,
            // Constants and subgraphs hold weights of their own.
            Piece::Node(index) => self.graph.nodes[*index].raw.len() as u64,
        }
    }

    /// Estimated multiply-adds of a node: what it makes, times what each element of that is summed
    /// over. That is exact for matrix products and convolutions, whose sums run over all of a
    /// weight but the dimension that is made.
    fn operations(&self, index: usize, types: &Types) -> u64 {
        let node = &self.graph.nodes[index];
        let types_of = |name: &&str| types.inner.get(*name).map(dims);
        let made: Vec<Vec<u64>> = node.outputs.iter().filter_map(types_of).collect();
        let elements = |dims: &[u64]| dims.iter().fold(1, |all: u64, dim| all.saturating_mul(*dim));
        let out = made.iter().map(|dims| elements(dims)).max().unwrap_or(1);
        let weights = node.inputs.iter().filter_map(|input| self.graph.weights.get(input));
        let weight = weights.map(|weight| elements(&weight.dims)).max();
        let first = made.first().map_or(&[][..], Vec::as_slice);
        let size = |axis: Option<&u64>| axis.map_or(1, |dim| (*dim).max(1));
        let summed = match (node.operator, weight) {
            (operator, Some(weight)) if operator.contains("Conv") => weight / size(first.get(1)),
            (operator, weight) if operator.contains("MatMul") || operator.contains("Gemm") => {
                match weight {
                    Some(weight) => weight / size(first.last()),
                    None => {
                        let taken = node.inputs.first().and_then(types_of);
                        size(taken.as_deref().and_then(<[u64]>::last))
                    }
                }
            }
            ("LSTM" | "GRU" | "RNN", Some(weight)) => weight / size(first.last()),
            // What is looked up is not computed with.
            _ => 1,
        };
        out.saturating_mul(summed.max(1)).saturating_add(node.inner as u64 * INNER_NODE_ASSUMED)
    }
}

/// Which nodes some output depends on.
fn live(graph: &Graph<'_>) -> Vec<bool> {
    let mut wanted: BTreeSet<&str> = graph.outputs.iter().map(|(name, _)| *name).collect();
    let mut is_live = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        if node.outputs.iter().any(|output| wanted.contains(output)) {
            is_live[index] = true;
            wanted.extend(&node.inputs);
        }
    }
    is_live
}

/// Something that weighs.
#[derive(Clone, Copy, Debug)]
enum Piece<'a> {
    Weight(&'a str),
    Node(usize),
}

impl<'a> Piece<'a> {
    fn key(&self) -> (&'a str, usize) {
        match self {
            Self::Weight(name) => (name, 0),
            Self::Node(index) => ("", index + 1),
        }
    }
}

/// Dimensions, with assumptions where they are unknown.
fn dims(found: &Type) -> Vec<u64> {
    let mut assumed = LENGTH_ASSUMED;
    let dim = |(axis, dim): (usize, &Dim)| match dim {
        Dim::Fixed(size) => *size,
        Dim::Any(_) if axis == 0 => ROWS_ASSUMED,
        Dim::Any(_) => std::mem::replace(&mut assumed, DIM_ASSUMED),
    };
    found.dims.iter().enumerate().map(dim).collect()
}

/// What a tensor takes, with assumptions where its dimensions are unknown.
pub(super) fn assumed_bytes(found: &Type) -> u64 {
    bytes(found.dtype.onnx_code().into(), &dims(found))
}
