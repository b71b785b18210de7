//! The law of the core, tested from outside: who may see a job's data, whatever fails; what a
//! charter must be; what a model's name means; which bytes travel.
//!
//! The random tests run from one seed, printed first. To run one again:
//! `HANSA_LAW_SEED=<seed> HANSA_LAW_CASES=<n> cargo test -p hansa-core --test law`.

mod charters;
mod flights;
mod names;
mod narrowing;
mod oracle;
mod random;
mod refusals;
mod revoking;
mod wire;
mod world;
