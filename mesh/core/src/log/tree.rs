//! The Merkle tree of RFC 6962: hashes of leaves and nodes, a root that grows with each leaf, and
//! the two proofs: that a leaf is in a tree, and that a tree is the beginning of a later one.
//!
//! Whoever keeps the hashes says how they are read: proofs ask for [`Node`]s, the roots of complete
//! subtrees, and never for anything else. Where those are kept is [`super::tile`]'s.

use crate::id::Digest;

/// No proof has more hashes: a tree has fewer than 2⁶⁴ leaves, and a proof of consistency one hash
/// more than it has levels.
pub const PROOF_HASHES_MAX: usize = 65;

/// The root of the complete subtree over 2^`level` leaves, the `index`-th of its size from the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// 0 is a leaf.
    pub level: u8,
    /// From the left, among those of its level.
    pub index: u64,
}

/// The hash of an entry as a leaf.
pub fn leaf_hash(entry: &[u8]) -> Digest {
    Digest::of_parts([&[0], entry])
}

/// The hash of a node over two others.
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    Digest::of_parts([&[1], &left.0[..], &right.0])
}

/// The root of the tree without leaves.
pub fn empty_root() -> Digest {
    Digest::of(&[])
}

/// A tree that grows: one hash for each bit of its size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of the complete subtrees that make up the tree, the largest first.
    nodes: Vec<Digest>,
}

impl Frontier {
    /// The tree of `size` leaves whose complete subtrees `read` knows.
    pub fn load<E>(size: u64, mut read: impl FnMut(Node) -> Result<Digest, E>) -> Result<Self, E> {
        let nodes = complete(0, size).into_iter().map(&mut read).collect::<Result<_, _>>()?;
        Ok(Self { size, nodes })
    }

    /// How many leaves it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf, and tells `made` each node that it completes, the leaf itself first.
    pub fn push(&mut self, leaf: Digest, mut made: impl FnMut(Node, Digest)) {
        let (mut level, mut hash) = (0, leaf);
        made(Node { level, index: self.size }, hash);
        while self.size >> level & 1 == 1 {
            let left = self.nodes.pop().expect("a set bit has its subtree");
            hash = node_hash(&left, &hash);
            level += 1;
            made(Node { level, index: self.size >> level }, hash);
        }
        self.nodes.push(hash);
        self.size += 1;
    }

    /// The root.
    pub fn root(&self) -> Digest {
        let mut nodes = self.nodes.iter().rev();
        let Some(last) = nodes.next() else { return empty_root() };
        nodes.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// The complete subtrees that make up the leaves from `start` to `end`, left to right. `start` is
/// where RFC 6962 cuts a tree: a multiple of the largest of them.
fn complete(mut start: u64, end: u64) -> Vec<Node> {
    let mut nodes = Vec::new();
    while start < end {
        let level = (end - start).ilog2();
        let level_byte = u8::try_from(level).expect("63 at most");
        nodes.push(Node { level: level_byte, index: start >> level });
        start += 1 << level;
    }
    nodes
}

/// The root over the leaves from `start` to `end`.
fn range_root<E>(
    start: u64,
    end: u64,
    read: &mut impl FnMut(Node) -> Result<Digest, E>,
) -> Result<Digest, E> {
    let mut root = None;
    for node in complete(start, end).into_iter().rev() {
        let left = read(node)?;
        root = Some(root.map_or(left, |right| node_hash(&left, &right)));
    }
    Ok(root.unwrap_or_else(empty_root))
}

/// The largest power of two below `leaves`, which are two or more.
fn split(leaves: u64) -> u64 {
    1 << (leaves - 1).ilog2()
}

/// The proof that the leaf `index` is in the tree of `size` leaves: siblings from the leaf upwards.
/// `index` is less than `size`.
pub fn prove_inclusion<E>(
    size: u64,
    index: u64,
    mut read: impl FnMut(Node) -> Result<Digest, E>,
) -> Result<Vec<Digest>, E> {
    assert!(index < size, "leaf {index} of a tree of {size}");
    let (mut start, mut end, mut proof) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            proof.push(range_root(middle, end, &mut read)?);
            end = middle;
        } else {
            proof.push(range_root(start, middle, &mut read)?);
            start = middle;
        }
    }
    proof.reverse();
    Ok(proof)
}

/// The proof that the tree of `old` leaves is the beginning of that of `new`. `old` is not more
/// than `new`.
pub fn prove_consistency<E>(
    old: u64,
    new: u64,
    mut read: impl FnMut(Node) -> Result<Digest, E>,
) -> Result<Vec<Digest>, E> {
    assert!(old <= new, "a tree of {old} within one of {new}");
    let (mut start, mut end, mut proof) = (0, new, Vec::new());
    if old == 0 {
        return Ok(proof);
    }
    while old < end {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(range_root(middle, end, &mut read)?);
            end = middle;
        } else {
            proof.push(range_root(start, middle, &mut read)?);
            start = middle;
        }
    }
    // The old tree itself is known to whoever asks; a part of it is not.
    if start > 0 {
        proof.push(range_root(start, end, &mut read)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Whether `proof` shows that `leaf` is the leaf `index` of the tree of `size` leaves under `root`.
pub fn includes(size: u64, root: &Digest, index: u64, leaf: &Digest, proof: &[Digest]) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        hash = climb(&mut at, &mut last, |is_left| match is_left {
            true => node_hash(sibling, &hash),
            false => node_hash(&hash, sibling),
        });
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `old.0` leaves under `old.1` is the beginning of the tree
/// of `new.0` leaves under `new.1`.
pub fn extends(old: (u64, &Digest), new: (u64, &Digest), proof: &[Digest]) -> bool {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size > new_size || (old_size == new_size && old_root != new_root) {
        return false;
    }
    if old_size == 0 || old_size == new_size {
        return proof.is_empty() && (old_size > 0 || *old_root == empty_root());
    }
    let (mut at, mut last) = (old_size - 1, new_size - 1);
    let shift = at.trailing_ones();
    (at, last) = (at >> shift, last >> shift);
    // A complete subtree is the old root, which the proof leaves out.
    let (first, rest) = match proof.split_first() {
        _ if old_size.is_power_of_two() => (old_root, proof),
        Some((first, rest)) => (first, rest),
        None => return false,
    };
    let (mut before, mut after) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        climb(&mut at, &mut last, |is_left| match is_left {
            true => {
                before = node_hash(sibling, &before);
                after = node_hash(sibling, &after);
            }
            false => after = node_hash(&after, sibling),
        });
    }
    last == 0 && before == *old_root && after == *new_root
}

/// One step from a node `at` of a level towards the root, `last` being the level's last: tells
/// `join` whether the sibling lies to the left. Levels where the node has no sibling are passed.
fn climb<T>(at: &mut u64, last: &mut u64, join: impl FnOnce(bool) -> T) -> T {
    let is_left = *at & 1 == 1 || at == last;
    let joined = join(is_left);
    if is_left && *at & 1 == 0 {
        // It is the last of its level and even: it rises alone until it has a sibling.
        let shift = at.trailing_zeros().min(63);
        (*at, *last) = (*at >> shift, *last >> shift);
    }
    (*at, *last) = (*at >> 1, *last >> 1);
    joined
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    /// The reference entries of Certificate Transparency, and the roots of the trees over them.
    const ENTRIES: [&[u8]; 8] = [
        b"",
        &[0],
        &[0x10],
        &[0x20, 0x21],
        &[0x30, 0x31],
        &[0x40, 0x41, 0x42, 0x43],
        &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
        b"`abcdefghijklmno",
    ];
    const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    type Nodes = BTreeMap<Node, Digest>;

    fn digest(hex: &str) -> Digest {
        format!("sha256:{hex}").parse().unwrap()
    }

    fn at(size: u64) -> usize {
        usize::try_from(size).unwrap()
    }

    fn grow(leaves: u64) -> (Nodes, Vec<Digest>) {
        let (mut frontier, mut nodes) = (Frontier::default(), Nodes::new());
        let mut roots = vec![frontier.root()];
        for leaf in 0..leaves {
            frontier.push(leaf_hash(&leaf.to_le_bytes()), |node, hash| {
                assert_eq!(nodes.insert(node, hash), None);
            });
            roots.push(frontier.root());
        }
        (nodes, roots)
    }

    fn reader(nodes: &Nodes) -> impl Fn(Node) -> Result<Digest, Infallible> {
        |node| Ok(nodes[&node])
    }

    /// As RFC 6962 writes it down.
    fn defined_root(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&defined_root(left), &defined_root(right))
            }
        }
    }

    #[test]
    fn hashes_and_roots_are_those_of_certificate_transparency() {
        assert_eq!(
            leaf_hash(b"L123456"),
            digest("395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56")
        );
        assert_eq!(
            Digest::of_parts([&[1], &b"N123"[..], b"N456"]),
            digest("aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb")
        );
        let mut frontier = Frontier::default();
        assert_eq!(frontier.root(), digest(ROOTS[0]));
        for (entry, root) in ENTRIES.iter().zip(&ROOTS[1..]) {
            frontier.push(leaf_hash(entry), |_, _| {});
            assert_eq!(frontier.root(), digest(root));
        }
    }

    #[test]
    fn roots_are_what_the_definition_says_and_survive_a_reload() {
        let (nodes, roots) = grow(300);
        let leaves: Vec<_> = (0..300u64).map(|leaf| leaf_hash(&leaf.to_le_bytes())).collect();
        for (size, root) in roots.iter().enumerate() {
            assert_eq!(*root, defined_root(&leaves[..size]), "{size}");
            let loaded = Frontier::load(size as u64, reader(&nodes)).unwrap();
            assert_eq!(loaded.root(), *root);
        }
    }

    #[test]
    fn every_leaf_of_every_tree_is_proven_and_no_other() {
        let (nodes, roots) = grow(70);
        for size in 1..=70u64 {
            let root = &roots[at(size)];
            for index in 0..size {
                let proof = prove_inclusion(size, index, reader(&nodes)).unwrap();
                let leaf = nodes[&Node { level: 0, index }];
                assert!(includes(size, root, index, &leaf, &proof));
                assert!(!includes(size, root, index, &roots[0], &proof));
                assert!(!includes(size, root, size, &leaf, &proof));
                let longer = [proof.as_slice(), &[leaf]].concat();
                assert!(!includes(size, root, index, &leaf, &longer));
                for other in (0..size).filter(|other| *other != index) {
                    assert!(!includes(size, root, other, &leaf, &proof), "{size} {index} {other}");
                }
                for hash in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[hash].0[31] ^= 1;
                    assert!(!includes(size, root, index, &leaf, &changed));
                    changed.truncate(hash);
                    assert!(!includes(size, root, index, &leaf, &changed));
                }
            }
        }
    }

    #[test]
    fn every_tree_is_proven_to_begin_every_later_one_and_no_other() {
        let (nodes, roots) = grow(70);
        for new in 0..=70u64 {
            for old in 0..=new {
                let proof = prove_consistency(old, new, reader(&nodes)).unwrap();
                let (before, after) = (&roots[at(old)], &roots[at(new)]);
                assert!(extends((old, before), (new, after), &proof), "{old} {new}");
                let other = leaf_hash(b"another");
                assert!(!extends((old, &other), (new, after), &proof));
                if old > 0 {
                    assert!(!extends((old, before), (new, &other), &proof));
                    assert!(old == new || !extends((new, after), (old, before), &proof));
                }
                let longer = [proof.as_slice(), &[other]].concat();
                assert!(!extends((old, before), (new, after), &longer));
                for hash in 0..proof.len() {
                    let mut changed = proof.clone();
                    changed[hash].0[0] ^= 0x80;
                    assert!(!extends((old, before), (new, after), &changed));
                    changed.truncate(hash);
                    assert!(!extends((old, before), (new, after), &changed));
                }
            }
        }
    }

    #[test]
    fn a_proof_of_sizes_at_the_end_of_the_numbers_does_not_overflow() {
        let leaf = leaf_hash(b"x");
        let proof = vec![leaf; PROOF_HASHES_MAX];
        for size in [u64::MAX, 1 << 63, (1 << 63) + 1] {
            for index in [0, size / 2, size - 2, size - 1] {
                assert!(!includes(size, &leaf, index, &leaf, &proof[..63]));
                assert!(!extends((index.max(1), &leaf), (size, &leaf), &proof));
            }
        }
    }
}
