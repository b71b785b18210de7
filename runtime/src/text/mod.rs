//! Text for models that embed it: how a bundle's own files make tokens of text, inputs of tokens, and
//! embeddings of outputs. Pure functions over files that somebody read; which run goes where is
//! decided elsewhere.
//!
//! `config` is what the files beside the tokenizer say, `embedder` what a model's signature makes of
//! that, `pool` the arithmetic. Results are those of sentence-transformers for the same files.

mod config;
mod embedder;
mod pool;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::Tokenizer;

use crate::limits::*;
use crate::manifest::Manifest;
use config::Config;
pub use embedder::{Embedder, cut};

/// The file that makes tokens of text.
const TOKENIZER: &str = "tokenizer.json";
/// What text is probed with, to see what a tokenizer puts around it.
const PROBE: &str = "a";

/// What a bundle says of text.
#[derive(Debug)]
pub struct Text {
    tokenizer: Tokenizer,
    config: Config,
    /// Tokens that stand before and behind those of every text.
    frame: (Vec<u32>, Vec<u32>),
    /// What fills short rows; the attention mask hides it.
    pad: u32,
    /// What it takes in memory, as far as its files tell: their size.
    bytes: u64,
}

/// Why text cannot be embedded. Each says what is missing or what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// A model without a tokenizer.
    #[error(
        "the model's bundle has no {TOKENIZER}, so it takes no text; put one beside model.onnx, or \
         send tensors to /v2"
    )]
    NoTokenizer,
    /// A file that is not what its name says.
    #[error("the bundle's {name} cannot be used: {reason}")]
    File {
        /// Its path in the bundle.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// The model wants an input that text does not give.
    #[error(
        "the model's input `{name}` {problem}; text gives input_ids, attention_mask, token_type_ids and position_ids, INT64 or INT32 of [batch, sequence]"
    )]
    Input {
        /// The input.
        name: String,
        /// What about it.
        problem: &'static str,
    },
    /// No output is an embedding.
    #[error(
        "the model has no embedding: it needs an output `sentence_embedding` of [batch, size], or `last_hidden_state` (or `token_embeddings`) of [batch, sequence, size], in floats; its outputs are {outputs}"
    )]
    NoEmbedding {
        /// What it has.
        outputs: String,
    },
    /// `modules.json` wants more than pooling.
    #[error(
        "the bundle's modules.json wants a module `{0}`, which only a model with the output `sentence_embedding` can have in it"
    )]
    Module(String),
    /// Nothing to embed.
    #[error("it is empty")]
    Empty,
    /// Longer than a text may be.
    #[error("it has {bytes} bytes, the limit is {TEXT_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// More tokens than the model takes. Nothing is cut silently.
    #[error(
        "it has {tokens} tokens, this model's maximum context length is {limit} tokens; send a shorter text, or parts of it"
    )]
    TooLong {
        /// Its tokens, those that the tokenizer adds included.
        tokens: usize,
        /// The model's limit.
        limit: usize,
    },
    /// A token that the model does not have.
    #[error(
        "its token {0} is not in the model's vocabulary; token ids are those of the bundle's {TOKENIZER}"
    )]
    UnknownToken(u32),
    /// The tokenizer gave up.
    #[error("the bundle's {TOKENIZER} cannot be applied to it: {0}")]
    Tokenizer(String),
    /// What the model gave is no embedding.
    #[error("the model's output `{name}` {problem}")]
    Output {
        /// The output.
        name: String,
        /// What about it.
        problem: &'static str,
    },
}

impl TextError {
    fn file(name: impl Into<String>, reason: impl ToString) -> Self {
        Self::File { name: name.into(), reason: reason.to_string() }
    }
}

impl Text {
    /// The files of a bundle that are about text, by their paths, with their sizes.
    ///
    /// # Errors
    /// It has no tokenizer, or a file is larger than such a file may be.
    pub fn files(manifest: &Manifest) -> Result<Vec<(String, u64)>, TextError> {
        if !manifest.files.contains_key(TOKENIZER) {
            return Err(TextError::NoTokenizer);
        }
        let mut found = Vec::new();
        for (name, entry) in &manifest.files {
            let limit = match name == TOKENIZER {
                true => TOKENIZER_BYTES_MAX,
                false if Config::reads(name) => TEXT_CONFIG_BYTES_MAX,
                false => continue,
            };
            if entry.bytes > limit {
                let reason = format!("it has {} bytes, the limit is {limit}", entry.bytes);
                return Err(TextError::file(name, reason));
            }
            found.push((name.clone(), entry.bytes));
        }
        if found.len() > TEXT_FILES_MAX {
            let reason =
                format!("it is one of {} such files, the limit is {TEXT_FILES_MAX}", found.len());
            return Err(TextError::file(&found[TEXT_FILES_MAX].0, reason));
        }
        Ok(found)
    }

    /// What the files say, by their paths.
    ///
    /// # Errors
    /// A file is not what its name says.
    pub fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, TextError> {
        let json = files.get(TOKENIZER).ok_or(TextError::NoTokenizer)?;
        let unusable = |reason: String| TextError::file(TOKENIZER, reason);
        let mut tokenizer = guarded(|| Tokenizer::from_bytes(json)).map_err(unusable)?;
        let pad = tokenizer.get_padding().map(|padding| padding.pad_id);
        // What a tool left there: rows are padded to the longest of their batch, and none is cut.
        tokenizer.with_padding(None);
        guarded(|| tokenizer.with_truncation(None).map(drop)).map_err(unusable)?;
        let config = Config::read(files)?;
        let named = || config.pad_token.as_deref().and_then(|token| tokenizer.token_to_id(token));
        let pad = pad.or_else(named).or(config.pad_id).unwrap_or(0);
        let bytes = files.values().map(|file| file.len() as u64).sum();
        let mut text = Self { tokenizer, config, frame: Default::default(), pad, bytes };
        text.frame = text.probe()?;
        Ok(text)
    }

    /// The tokens of a text, with those that the tokenizer puts around them.
    ///
    /// # Errors
    /// It is empty, too long, or the tokenizer gives up.
    pub fn tokens(&self, text: &str) -> Result<Vec<u32>, TextError> {
        if text.is_empty() {
            return Err(TextError::Empty);
        }
        if text.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooLarge { bytes: text.len() });
        }
        let tokens = match self.config.lower_case {
            true => self.encode(&text.to_lowercase(), true),
            false => self.encode(text, true),
        };
        self.bounded(tokens?.0)
    }

    /// The same for a text that came as the model's own tokens, with or without those that stand
    /// around every text.
    ///
    /// # Errors
    /// There are none, too many, or one is not the model's.
    pub fn framed(&self, tokens: Vec<u32>) -> Result<Vec<u32>, TextError> {
        if tokens.is_empty() {
            return Err(TextError::Empty);
        }
        let is_unknown = |token: &&u32| self.tokenizer.id_to_token(**token).is_none();
        if tokens.len() <= self.tokens_max()
            && let Some(unknown) = tokens.iter().find(is_unknown)
        {
            return Err(TextError::UnknownToken(*unknown));
        }
        let (before, behind) = &self.frame;
        if tokens.starts_with(before) && tokens.ends_with(behind) {
            return self.bounded(tokens);
        }
        self.bounded([&before[..], &tokens, behind].concat())
    }

    /// Most tokens of a text that the model takes.
    pub fn tokens_max(&self) -> usize {
        self.config.tokens_max
    }

    /// Size of the files that it was read from, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sizes that an embedding may be cut to: none, all (an empty list) or these.
    pub fn cuts(&self) -> Option<&[usize]> {
        self.config.cuts.as_deref()
    }

    fn bounded(&self, tokens: Vec<u32>) -> Result<Vec<u32>, TextError> {
        let limit = self.tokens_max();
        if tokens.is_empty() {
            return Err(TextError::Empty);
        }
        match tokens.len() {
            tokens if tokens > limit => Err(TextError::TooLong { tokens, limit }),
            _ => Ok(tokens),
        }
    }

    /// Tokens and the kinds that they are of.
    fn encode(&self, text: &str, add_frame: bool) -> Result<(Vec<u32>, Vec<u32>), TextError> {
        let encoded = guarded(|| self.tokenizer.encode_fast(text, add_frame));
        let encoded = encoded.map_err(TextError::Tokenizer)?;
        Ok((encoded.get_ids().to_vec(), encoded.get_type_ids().to_vec()))
    }

    /// What stands before and behind the tokens of a text.
    fn probe(&self) -> Result<(Vec<u32>, Vec<u32>), TextError> {
        let (bare, _) = self.encode(PROBE, false)?;
        let (framed, kinds) = self.encode(PROBE, true)?;
        if kinds.iter().any(|kind| *kind != 0) {
            let reason = "it gives the tokens of one text a type other than 0";
            return Err(TextError::file(TOKENIZER, reason));
        }
        let at = framed.windows(bare.len().max(1)).position(|window| window == bare);
        let Some(at) = at else { return Ok(Default::default()) };
        Ok((framed[..at].to_vec(), framed[at + bare.len()..].to_vec()))
    }
}

/// Runs the tokenizer's code over what strangers wrote: where it panics, that is an error like any
/// other of the file.
fn guarded<T>(run: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer broke down over it".to_owned()),
    }
}

#[cfg(test)]
mod tests;
