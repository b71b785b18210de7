//! The audit log on a real disk: what is acknowledged stays, what is damaged is found, what is full
//! says so, and an auditor's commands tell the truth from files alone.

#![allow(clippy::print_stdout)] // Seeds come first, and children speak to their parents so.

mod commands;
mod disk;
mod kept;
mod killed;
mod world;
