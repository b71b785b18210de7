//! The evidence of one node: an append-only Merkle log of its receipts, in C2SP's forms.
//!
//! [`tree`] hashes and proves, [`tile`] says which files a log consists of, [`checkpoint`] is what
//! its keeper signs, [`cosign`] what peers of other operators add, [`check`] holds files against a
//! checkpoint, [`proof`] is the one file that shows a receipt to somebody who has nothing else.
//! Nothing here reads or writes: the node keeps the files.

pub mod check;
pub mod checkpoint;
pub mod cosign;
pub mod proof;
pub mod tile;
pub mod tree;
