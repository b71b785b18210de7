//! Why a log does not do what it should, and whether it takes receipts.

use std::io;
use std::path::PathBuf;

use hansa_core::receipt::ReceiptFault;
use serde::Serialize;

/// Whether receipts can be kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state", content = "reason")]
pub enum State {
    /// They can.
    Writable,
    /// The disk has no room. It is tried again.
    Full(String),
    /// The disk does not take them, for another reason. It is tried again.
    Unwritable(String),
    /// Nobody knows what is on the disk: the log has to be opened anew.
    Broken(String),
}

/// Why the log does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process writes it.
    #[error("{} is written by another process; a log has one writer", .0.display())]
    Locked(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was acknowledged or signed is not there any more, or not as it was.
    #[error("the log in {path} is damaged: {reason}. It is left as it is: restore the folder from a backup, or move it away to begin another log, and tell those who rely on the old one", path = path.display())]
    Damaged {
        /// The log's folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Receipts are not kept at present.
    #[error("receipts cannot be kept: {0}")]
    Refused(State),
    /// A receipt names a charter that the log does not have, so nobody could verify it.
    #[error("the receipt names a charter that the log was not given")]
    Charter,
    /// No receipt.
    #[error(transparent)]
    Receipt(#[from] ReceiptFault),
    /// There is no such file, or no log in that folder.
    #[error("{} is not there, or is no log's folder: that has a file `checkpoint`", .0.display())]
    NotThere(PathBuf),
    /// It is not kept here, not any more, or not under a checkpoint yet.
    #[error("no receipt that the newest checkpoint covers: {0}")]
    Absent(String),
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Writable => f.write_str("the audit log is written"),
            Self::Full(reason) => write!(f, "the audit log's disk is full ({reason})"),
            Self::Unwritable(reason) => write!(f, "the audit log cannot be written ({reason})"),
            Self::Broken(reason) => {
                write!(f, "the audit log is in doubt and must be opened anew ({reason})")
            }
        }
    }
}
