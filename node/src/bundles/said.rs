//! What a bundle's files say, at any node: read here where the bundle is, else fetched from a peer
//! that holds it and that the job's policy permits, held against the digest, and kept.
//!
//! So an app's text is made tokens at its entry, where the classes of its answer get their names,
//! too; and what travels are the tensors of its job.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::{Arc, Mutex};

use hansa_core::id::Digest;
use hansa_core::plan::Refusal;
use hansa_core::policy::Policy;
use hansa_runtime::bundle::{Bundle, Manifest};
use hansa_runtime::labels::{Labels, LabelsError};
use hansa_runtime::text::{Text, TextError};
use tokio::sync::{OnceCell, Semaphore};

use super::PullError;
use super::pull::Puller;
use super::serve::held;
use crate::limits::{SAID_BYTES_MAX, SAID_FETCHES_MAX, SAID_MAX};
use crate::node::Node;

/// Something that some of a bundle's files say together.
pub trait Said: Sized + Send + Sync + 'static {
    /// Why they do not.
    type Fault: Error + Clone + Send + Sync + 'static;
    /// What is told, to programs and to people, where only stages of the model can be asked for, and
    /// these lack the files.
    const IN_STAGES: (&str, &str);
    /// Which files, with their sizes.
    ///
    /// # Errors
    /// There are none such, or they are larger than they may be.
    fn files(manifest: &Manifest) -> Result<Vec<(String, u64)>, Self::Fault>;
    /// What they say, by their paths.
    ///
    /// # Errors
    /// They are not what their names say.
    fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, Self::Fault>;
    /// What it takes in memory.
    fn bytes(&self) -> u64;
    /// Whether a bundle has no such files.
    fn is_missing(fault: &Self::Fault) -> bool;
}

impl Said for Text {
    type Fault = TextError;
    const IN_STAGES: (&str, &str) = (
        "no_tokenizer",
        "the model runs in stages that have no tokenizer.json, so it takes no text; cut it from a \
         folder that has one, or send tensors to /v2",
    );

    fn files(manifest: &Manifest) -> Result<Vec<(String, u64)>, TextError> {
        Self::files(manifest)
    }
    fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, TextError> {
        Self::read(files)
    }
    fn bytes(&self) -> u64 {
        self.bytes()
    }
    fn is_missing(fault: &TextError) -> bool {
        *fault == TextError::NoTokenizer
    }
}

impl Said for Labels {
    type Fault = LabelsError;
    const IN_STAGES: (&str, &str) = (
        "no_labels",
        "the model runs in stages that have no labels; cut it from a folder that has them, or ask \
         for the outputs as they are",
    );

    fn files(manifest: &Manifest) -> Result<Vec<(String, u64)>, LabelsError> {
        Self::files(manifest)
    }
    fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, LabelsError> {
        Self::read(files)
    }
    fn bytes(&self) -> u64 {
        self.bytes()
    }
    fn is_missing(fault: &LabelsError) -> bool {
        *fault == LabelsError::None
    }
}

/// What was found out of one bundle. That it has no such files, or broken ones, stays so.
type Known<T> = Arc<OnceCell<Result<Arc<T>, <T as Said>::Fault>>>;

/// What is known of bundles, the latest used last.
#[derive(Debug)]
pub struct Kept<T: Said> {
    known: Mutex<Vec<(Digest, Known<T>)>>,
    /// Places for those that are being read.
    reading: Semaphore,
}

/// Why it is not known what a model's files say.
#[derive(Debug, thiserror::Error)]
pub enum SaidFault<E: Error> {
    /// They do not say it.
    #[error("{0}")]
    Said(E),
    /// They did not come.
    #[error("the files that say how the model is used cannot be fetched: {0}")]
    Pull(#[from] PullError),
    /// Only stages of it can be asked for, and these lack the files.
    #[error("{1}")]
    InStages(&'static str, &'static str),
    /// They cannot be read here.
    #[error("the files that say how the model is used cannot be read here: {0}")]
    Disk(String),
}

type Found<T> = Result<Arc<T>, SaidFault<<T as Said>::Fault>>;
type Files<T> = Result<BTreeMap<String, Vec<u8>>, SaidFault<<T as Said>::Fault>>;

impl<T: Said> Default for Kept<T> {
    fn default() -> Self {
        Self { known: Mutex::default(), reading: Semaphore::new(SAID_FETCHES_MAX) }
    }
}

impl<T: Said> Kept<T> {
    /// The place of a bundle, which makes room by the one that was not used for longest.
    fn place(&self, bundle: Digest) -> Known<T> {
        let mut known = self.known.lock().expect("no holder panics");
        let at = known.iter().position(|(digest, _)| *digest == bundle);
        let place = at.map_or_else(|| (bundle, Known::<T>::default()), |at| known.remove(at));
        known.push(place.clone());
        let bytes = |(_, known): &(Digest, Known<T>)| match known.get() {
            Some(Ok(said)) => said.bytes(),
            _ => 0,
        };
        while known.len() > SAID_MAX
            || (known.len() > 1 && known.iter().map(bytes).sum::<u64>() > SAID_BYTES_MAX)
        {
            known.remove(0);
        }
        place.1
    }

    /// What a bundle says; where nobody may be asked for it, what a stage of it says.
    async fn said(&self, node: &Arc<Node>, bundle: Digest, policy: &Policy) -> Found<T> {
        let mut fault = match self.said_by(node, bundle, policy).await {
            Err(fault @ SaidFault::Pull(PullError::Refused(_))) => fault,
            known => return known,
        };
        let stages: BTreeSet<Digest> =
            node.view().stages(bundle).map(|(_, stage)| stage.bundle).collect();
        for stage in stages {
            fault = match self.said_by(node, stage, policy).await {
                Ok(said) => return Ok(said),
                Err(SaidFault::Said(fault)) if T::is_missing(&fault) => {
                    SaidFault::InStages(T::IN_STAGES.0, T::IN_STAGES.1)
                }
                Err(fault) => fault,
            };
        }
        Err(fault)
    }

    async fn said_by(&self, node: &Arc<Node>, bundle: Digest, policy: &Policy) -> Found<T> {
        let place = self.place(bundle);
        let found = place.get_or_try_init(|| self.read(node, bundle, policy)).await?;
        found.clone().map_err(SaidFault::Said)
    }

    async fn read(
        &self,
        node: &Arc<Node>,
        bundle: Digest,
        policy: &Policy,
    ) -> Result<Result<Arc<T>, T::Fault>, SaidFault<T::Fault>> {
        let _turn = self.reading.acquire().await.expect("it is never closed");
        let files = match held(node, bundle).await {
            Ok(held) => node.aside.run(usize::MAX, move || files_of::<T>(&held)).await,
            Err(Refusal::UnknownModel { .. }) => fetch::<T>(node, bundle, policy).await,
            Err(refusal) => Err(SaidFault::Disk(refusal.to_string())),
        };
        let files = match files {
            Ok(files) => files,
            Err(SaidFault::Said(fault)) => return Ok(Err(fault)),
            Err(fault) => return Err(fault),
        };
        Ok(node.aside.run(usize::MAX, move || T::read(&files).map(Arc::new)).await)
    }
}

impl Node {
    /// How a bundle takes text.
    ///
    /// Only peers are asked that `policy` lets see the job: the question tells of it.
    ///
    /// # Errors
    /// It takes none, or nobody that may be asked gives the files that say how.
    pub async fn text(self: &Arc<Self>, bundle: Digest, policy: &Policy) -> Found<Text> {
        self.texts.said(self, bundle, policy).await
    }

    /// What the elements of a bundle's outputs are called; asked for in the same way.
    ///
    /// # Errors
    /// They have no names, or nobody that may be asked gives the files that say them.
    pub async fn labels(self: &Arc<Self>, bundle: Digest, policy: &Policy) -> Found<Labels> {
        self.labels.said(self, bundle, policy).await
    }
}

async fn fetch<T: Said>(node: &Arc<Node>, bundle: Digest, policy: &Policy) -> Files<T> {
    let mut puller = Puller::under(node, bundle, policy.clone());
    let manifest = puller.manifest().await?;
    let mut files = BTreeMap::new();
    for (name, _) in T::files(&manifest).map_err(SaidFault::Said)? {
        let bytes = puller.file(&manifest, &name).await?;
        files.insert(name, bytes);
    }
    Ok(files)
}

fn files_of<T: Said>(bundle: &Bundle) -> Files<T> {
    let names = T::files(&bundle.manifest).map_err(SaidFault::Said)?;
    let read = |(name, _): (String, u64)| {
        let bytes = bundle.read_file(&name);
        bytes.map(|bytes| (name, bytes)).map_err(|error| SaidFault::Disk(error.to_string()))
    };
    names.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_gives_way() {
        let texts = Kept::<Text>::default();
        let digest = |number: usize| Digest::of(&number.to_le_bytes());
        let first = texts.place(digest(0));
        let second = texts.place(digest(1));
        (2..SAID_MAX).for_each(|number| drop(texts.place(digest(number))));
        assert!(Arc::ptr_eq(&first, &texts.place(digest(0))), "it is used again");
        texts.place(digest(SAID_MAX));
        assert!(Arc::ptr_eq(&first, &texts.place(digest(0))));
        assert!(!Arc::ptr_eq(&second, &texts.place(digest(1))), "it is gone");
        assert_eq!(texts.known.lock().unwrap().len(), SAID_MAX);
    }
}
