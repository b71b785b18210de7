//! What a bundle's files say of text, at any node: read here where the bundle is, else fetched from a
//! peer that holds it and that the job's policy permits, held against the digest, and kept.
//!
//! So an app's text is made tokens at its entry, and what travels are the inputs of its job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use hansa_core::id::Digest;
use hansa_core::plan::Refusal;
use hansa_core::policy::Policy;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::text::{Text, TextError};
use tokio::sync::{OnceCell, Semaphore};

use super::PullError;
use super::pull::Puller;
use super::serve::held;
use crate::limits::{TEXT_FETCHES_MAX, TEXTS_BYTES_MAX, TEXTS_MAX};
use crate::node::Node;

/// What was found out of one bundle. That it has no tokenizer, or a broken one, stays so.
type Known = Arc<OnceCell<Result<Arc<Text>, TextError>>>;

/// What is known of bundles' text, the latest used last.
#[derive(Debug)]
pub struct Texts {
    known: Mutex<Vec<(Digest, Known)>>,
    /// Places for those that are being read.
    reading: Semaphore,
}

/// Why it is not known how a model takes text.
#[derive(Debug, thiserror::Error)]
pub enum TextFault {
    /// It takes none.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Its files did not come.
    #[error("what makes tokens of text cannot be fetched: {0}")]
    Pull(#[from] PullError),
    /// Only stages of it can be asked for, and these have no tokenizer.
    #[error(
        "the model runs in stages that have no tokenizer.json, so it takes no text; cut it from a \
         folder that has one, or send tensors to /v2"
    )]
    InStages,
    /// Its files cannot be read here.
    #[error("what makes tokens of text cannot be read here: {0}")]
    Disk(String),
}

impl Default for Texts {
    fn default() -> Self {
        Self { known: Mutex::default(), reading: Semaphore::new(TEXT_FETCHES_MAX) }
    }
}

impl Texts {
    /// The place of a bundle, which makes room by the one that was not used for longest.
    fn place(&self, bundle: Digest) -> Known {
        let mut known = self.known.lock().expect("no holder panics");
        let at = known.iter().position(|(digest, _)| *digest == bundle);
        let place = at.map_or_else(|| (bundle, Known::default()), |at| known.remove(at));
        known.push(place.clone());
        let bytes = |(_, known): &(Digest, Known)| match known.get() {
            Some(Ok(text)) => text.bytes(),
            _ => 0,
        };
        while known.len() > TEXTS_MAX
            || (known.len() > 1 && known.iter().map(bytes).sum::<u64>() > TEXTS_BYTES_MAX)
        {
            known.remove(0);
        }
        place.1
    }
}

impl Node {
    /// How a bundle takes text; where nobody may be asked for it, what a stage of it says.
    ///
    /// Only peers are asked that `policy` lets see the job: the question tells of it.
    ///
    /// # Errors
    /// It takes none, or nobody that may be asked gives the files that say how.
    pub async fn text(
        self: &Arc<Self>,
        bundle: Digest,
        policy: &Policy,
    ) -> Result<Arc<Text>, TextFault> {
        let mut fault = match self.text_of(bundle, policy).await {
            Err(fault @ TextFault::Pull(PullError::Refused(_))) => fault,
            known => return known,
        };
        let stages: BTreeSet<Digest> =
            self.view().stages(bundle).map(|(_, stage)| stage.bundle).collect();
        for stage in stages {
            fault = match self.text_of(stage, policy).await {
                Ok(text) => return Ok(text),
                Err(TextFault::Text(TextError::NoTokenizer)) => TextFault::InStages,
                Err(fault) => fault,
            };
        }
        Err(fault)
    }

    async fn text_of(
        self: &Arc<Self>,
        bundle: Digest,
        policy: &Policy,
    ) -> Result<Arc<Text>, TextFault> {
        let place = self.texts.place(bundle);
        let found = place.get_or_try_init(|| self.read_text(bundle, policy)).await?;
        Ok(found.clone()?)
    }

    async fn read_text(
        self: &Arc<Self>,
        bundle: Digest,
        policy: &Policy,
    ) -> Result<Result<Arc<Text>, TextError>, TextFault> {
        let _turn = self.texts.reading.acquire().await.expect("it is never closed");
        let files = match held(self, bundle).await {
            Ok(held) => self.aside.run(usize::MAX, move || files_of(&held)).await,
            Err(Refusal::UnknownModel { .. }) => self.fetch_files(bundle, policy).await,
            Err(refusal) => Err(TextFault::Disk(refusal.to_string())),
        };
        let files = match files {
            Ok(files) => files,
            Err(TextFault::Text(error)) => return Ok(Err(error)),
            Err(fault) => return Err(fault),
        };
        let read = move || Text::read(&files).map(Arc::new);
        Ok(self.aside.run(usize::MAX, read).await)
    }

    async fn fetch_files(
        self: &Arc<Self>,
        bundle: Digest,
        policy: &Policy,
    ) -> Result<BTreeMap<String, Vec<u8>>, TextFault> {
        let mut puller = Puller::under(self, bundle, policy.clone());
        let manifest = puller.manifest().await?;
        let mut files = BTreeMap::new();
        for (name, _) in Text::files(&manifest)? {
            let bytes = puller.file(&manifest, &name).await?;
            files.insert(name, bytes);
        }
        Ok(files)
    }
}

fn files_of(bundle: &Bundle) -> Result<BTreeMap<String, Vec<u8>>, TextFault> {
    let names = Text::files(&bundle.manifest)?.into_iter().map(|(name, _)| name);
    let read = |name: String| {
        let bytes = bundle.read_file(&name);
        bytes.map(|bytes| (name, bytes)).map_err(|error| TextFault::Disk(error.to_string()))
    };
    names.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_used_for_longest_gives_way() {
        let texts = Texts::default();
        let digest = |number: usize| Digest::of(&number.to_le_bytes());
        let first = texts.place(digest(0));
        let second = texts.place(digest(1));
        (2..TEXTS_MAX).for_each(|number| drop(texts.place(digest(number))));
        assert!(Arc::ptr_eq(&first, &texts.place(digest(0))), "it is used again");
        texts.place(digest(TEXTS_MAX));
        assert!(Arc::ptr_eq(&first, &texts.place(digest(0))));
        assert!(!Arc::ptr_eq(&second, &texts.place(digest(1))), "it is gone");
        assert_eq!(texts.known.lock().unwrap().len(), TEXTS_MAX);
    }
}
