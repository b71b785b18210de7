//! The sans-io peer of the Hansa mesh: gossip, view, policy, plan, flight.
//!
//! This crate decides; it never does. It opens no socket, reads no clock, starts no thread and
//! knows no async runtime: the time comes in with every call, the actions go out as values, and
//! the same inputs give the same outputs on every machine. Its two hosts are the node's actors
//! (`hansa-node`) and the simulator's world (`hansa-sim`).
//!
//! A reader finds a job's path here: [`view::View`] is what the peer knows, [`plan::plan`] decides
//! where a job goes (over a [`chain`] of peers where none holds the whole model), [`gate`] says who may see it, [`flight::Flight`] keeps it in the air until it
//! has exactly one answer.

pub mod advert;
pub mod chain;
pub mod charter;
mod class;
pub mod codec;
pub mod coordinate;
pub mod directory;
pub mod explain;
pub mod flight;
pub mod gate;
mod holders;
pub mod holding;
pub mod id;
pub mod keys;
pub mod lei;
pub mod limits;
pub mod loads;
pub mod log;
pub mod note;
pub mod physics;
pub mod place;
pub mod placement;
pub mod plan;
pub mod policy;
pub mod price;
pub mod quote;
mod rank;
pub mod receipt;
mod resolve;
pub mod revocation;
pub mod rng;
pub mod scatter;
pub mod survey;
pub mod terms;
pub mod time;
pub mod view;
pub mod wire;
