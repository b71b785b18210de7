//! Evidence: the bytes of receipts, the chain from an authority to a receipt, and that no bit of
//! either can change unnoticed.

mod flips;
mod proofs;
mod receipts;
mod world;
