//! Why what an operator wants of models is not done, in words that say what to do.

use std::path::PathBuf;

use hansa_runtime::store::StoreError;

use super::PullError;
use crate::limits::PULLS_MAX;

/// Why a model is not pulled, added or removed.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// Another bundle has the name here.
    #[error(
        "`{name}` version `{version}` is another bundle here; remove that one first (`hansa models rm`)"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The version.
        version: String,
    },
    /// The bundle has another name here.
    #[error(
        "this node has the same bundle as `{name}` version `{version}`; serve it under one name"
    )]
    BundleTaken {
        /// The name.
        name: String,
        /// The version.
        version: String,
    },
    /// An advert names no more.
    #[error("this node serves as many models as an advert can name; remove one first")]
    TooMany,
    /// Enough pulls are under way.
    #[error("{PULLS_MAX} bundles are being pulled already; wait for one of them")]
    Busy,
    /// Nothing here has that name.
    #[error("this node has no model `{0}`; `hansa models ls` lists them")]
    Unknown(String),
    /// The operator does not want it served now.
    #[error("`{0}` was unloaded here; load it again first")]
    Unloaded(String),
    /// Not this command's to remove.
    #[error(
        "`{name}` is named by the config: take its [[model]] out of {file} and start the node again"
    )]
    Configured {
        /// The name.
        name: String,
        /// The config.
        file: PathBuf,
    },
    /// The folder says what is served.
    #[error(
        "`{0}` lies in the repository, which is polled: change the folder, or set [repository] \
         control = \"explicit\""
    )]
    Polled(String),
    /// It did not come.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It came and cannot run here.
    #[error("the model does not load: {0}")]
    Load(String),
    /// `models.json` cannot be written.
    #[error("models.json in the node's data folder cannot be written: {0}")]
    Listing(std::io::Error),
}

impl KeepError {
    /// Whether it may be otherwise later without anybody doing anything here.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Pull(PullError::Refused(_) | PullError::NoHolder { .. }))
    }
}
