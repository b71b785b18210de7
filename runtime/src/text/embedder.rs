//! Between tokens and a model's tensors: which rows run together, what they are as inputs, which
//! output is the embedding.

use std::cmp::Reverse;
use std::iter::repeat;
use std::sync::Arc;

use bytes::Bytes;

use super::pool::normalize;
use super::{Text, TextError};
use crate::limits::{EMBED_BATCH_ROWS_MAX, EMBED_BATCH_TOKENS, FIXED_TOKENS_MAX};
use crate::tensor::{DType, Signature, Tensor, TensorSpec};

/// How texts go through one model.
#[derive(Clone, Debug)]
pub struct Embedder {
    text: Arc<Text>,
    inputs: Vec<(String, DType, Fill)>,
    output: String,
    /// Numbers of an embedding, where the signature says so.
    width: Option<usize>,
    /// Whether the output has a vector for each token.
    pools: bool,
    /// Tokens of a row, where the model takes no other number.
    row: Option<usize>,
    /// Rows of a batch, where the model takes no other number.
    rows: Option<usize>,
    /// Whether texts may run together: each gets what it alone would get.
    is_separable: bool,
    /// Whether short rows may be padded: the model is told what to overlook.
    has_mask: bool,
}

/// What an input holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    Ids,
    Mask,
    Types,
    Positions,
}

const FILLS: [(&str, Fill); 4] = [
    ("input_ids", Fill::Ids),
    ("attention_mask", Fill::Mask),
    ("token_type_ids", Fill::Types),
    ("position_ids", Fill::Positions),
];

impl Embedder {
    /// How texts go through the model of this signature, whose bundle says `text`.
    ///
    /// # Errors
    /// It takes something else than text, or gives no embedding.
    pub fn new(text: Arc<Text>, signature: &Signature) -> Result<Self, TextError> {
        let (mut rows, mut row) = (None, None);
        let mut inputs = Vec::new();
        for spec in &signature.inputs {
            let fault = |problem| TextError::Input { name: spec.name.clone(), problem };
            let known = FILLS.iter().find(|(name, _)| *name == spec.name);
            let (_, fill) = known.ok_or_else(|| fault("is none that text gives"))?;
            if !matches!(spec.datatype, DType::Int64 | DType::Int32) {
                return Err(fault("is no whole number of 32 or 64 bits"));
            }
            let [batch, tokens] = spec.shape[..] else { return Err(fault("has another rank")) };
            rows = rows.or(usize::try_from(batch).ok());
            row = row.or(usize::try_from(tokens).ok());
            inputs.push((spec.name.clone(), spec.datatype, *fill));
        }
        if inputs.iter().all(|(.., fill)| *fill != Fill::Ids) {
            return Err(TextError::Input { name: "input_ids".into(), problem: "is missing" });
        }
        // A signature may be another peer's word, and rooms are made by its dimensions.
        if rows.unwrap_or(1).saturating_mul(row.unwrap_or(1)) > FIXED_TOKENS_MAX {
            let problem = "has fixed dimensions that are too large";
            return Err(TextError::Input { name: "input_ids".into(), problem });
        }
        let (output, pools) = embedding_of(&text, signature)?;
        let spec = signature.outputs.iter().find(|spec| spec.name == output);
        let width = spec.and_then(|spec| usize::try_from(*spec.shape.last()?).ok());
        Ok(Self {
            has_mask: inputs.iter().any(|(.., fill)| *fill == Fill::Mask),
            is_separable: signature.row_axes().is_some(),
            text,
            inputs,
            output,
            width,
            pools,
            row,
            rows,
        })
    }

    /// The output that a job is to ask for.
    pub fn output(&self) -> &str {
        &self.output
    }

    /// Numbers of an embedding, where that is known before one was made.
    pub fn width(&self) -> Option<usize> {
        self.width
    }

    /// Most tokens of a text.
    pub fn tokens_max(&self) -> usize {
        self.row.map_or(self.text.tokens_max(), |row| row.min(self.text.tokens_max()))
    }

    /// Which of the texts with so many tokens run together: of about equal length, so that little is
    /// padding, the longest first; together [`EMBED_BATCH_TOKENS`] at most, unless one alone has
    /// more.
    pub fn batches(&self, tokens: &[usize]) -> Vec<Vec<usize>> {
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.sort_by_key(|index| Reverse(tokens[*index]));
        let most = if self.is_separable { EMBED_BATCH_ROWS_MAX } else { 1 };
        let most = self.rows.unwrap_or(most).min(most).max(1);
        let mut batches = Vec::<Vec<usize>>::new();
        for index in order {
            let joins = batches.last().is_some_and(|batch| {
                let row = self.row.unwrap_or(tokens[batch[0]]);
                batch.len() < most
                    && (batch.len() + 1).saturating_mul(row) <= EMBED_BATCH_TOKENS
                    && (self.has_mask || tokens[batch[0]] == tokens[index])
            });
            match batches.last_mut().filter(|_| joins) {
                Some(batch) => batch.push(index),
                None => batches.push(vec![index]),
            }
        }
        batches
    }

    /// A batch of texts as the model's inputs.
    ///
    /// # Errors
    /// A text is too long for the model, or would have to be padded where that cannot be told.
    pub fn inputs(&self, texts: &[&[u32]]) -> Result<Vec<Tensor>, TextError> {
        let longest = texts.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        let row = self.row.unwrap_or(longest);
        if longest > row {
            return Err(TextError::TooLong { tokens: longest, limit: row });
        }
        if !self.has_mask && texts.iter().any(|tokens| tokens.len() != row) {
            let problem = "is missing, so a text cannot be padded to the model's length";
            return Err(TextError::Input { name: "attention_mask".into(), problem });
        }
        let rows = self.rows.unwrap_or(texts.len());
        // Rows that the model wants and nobody asked for are the last one again.
        let last = texts.last().copied().unwrap_or_default();
        let all = || texts.iter().copied().chain(repeat(last)).take(rows);
        let tensor = |(name, dtype, fill): &(String, DType, Fill)| {
            let numbers =
                all().flat_map(|tokens| (0..row).map(|at| self.number(*fill, tokens, at)));
            Tensor {
                name: name.clone(),
                dtype: *dtype,
                shape: vec![rows as u64, row as u64],
                data: write(numbers, *dtype),
            }
        };
        Ok(self.inputs.iter().map(tensor).collect())
    }

    fn number(&self, fill: Fill, tokens: &[u32], at: usize) -> u32 {
        let at_u32 = || u32::try_from(at).unwrap_or(u32::MAX);
        match fill {
            Fill::Ids => tokens.get(at).copied().unwrap_or(self.text.pad),
            Fill::Mask => u32::from(at < tokens.len()),
            Fill::Types => 0,
            Fill::Positions => at_u32(),
        }
    }

    /// The embeddings of a batch of texts with so many tokens each, in their order.
    ///
    /// # Errors
    /// The output is not what the signature promised.
    pub fn embeddings(
        &self,
        tokens: &[usize],
        outputs: &[Tensor],
    ) -> Result<Vec<Vec<f32>>, TextError> {
        let fault = |problem| TextError::Output { name: self.output.clone(), problem };
        let found = outputs.iter().find(|output| output.name == self.output);
        let output = found.ok_or_else(|| fault("is missing from its answer"))?;
        let longest = tokens.iter().copied().max().unwrap_or(0);
        let row = if self.pools { self.row.unwrap_or(longest) } else { 1 };
        let rows = self.rows.unwrap_or(tokens.len());
        let size = output.shape.last().and_then(|size| usize::try_from(*size).ok()).unwrap_or(0);
        let shape = match self.pools {
            true => vec![rows as u64, row as u64, size as u64],
            false => vec![rows as u64, size as u64],
        };
        if output.shape != shape || size == 0 {
            return Err(fault("has another shape than the texts"));
        }
        let values = output.floats().ok_or_else(|| fault("has another size than its shape"))?;
        let expected = rows.checked_mul(row).and_then(|vectors| vectors.checked_mul(size));
        if expected != Some(values.len()) {
            return Err(fault("has another size than its shape"));
        }
        if values.iter().any(|value| !value.is_finite()) {
            return Err(fault("holds NaN or infinity"));
        }
        let texts = values.chunks_exact(row * size).zip(tokens);
        let embedding = |(vectors, tokens): (&[f32], &usize)| {
            let mut embedding = match self.pools {
                true => self.pool(&vectors[..tokens * size], size),
                false => vectors.to_vec(),
            };
            if self.text.config.normalizes {
                normalize(&mut embedding);
            }
            embedding
        };
        Ok(texts.map(embedding).collect())
    }

    fn pool(&self, vectors: &[f32], size: usize) -> Vec<f32> {
        let pools = &self.text.config.pools;
        let mut embedding = Vec::with_capacity(pools.len() * size);
        pools.iter().for_each(|pool| pool.pool(vectors, size, &mut embedding));
        embedding
    }
}

/// The output that is the embedding, and whether it is yet to be pooled.
fn embedding_of(text: &Text, signature: &Signature) -> Result<(String, bool), TextError> {
    let is = |spec: &TensorSpec, name: &str, rank: usize| {
        let floats = [DType::Fp32, DType::Fp16, DType::Bf16, DType::Fp64];
        spec.name == name && spec.shape.len() == rank && floats.contains(&spec.datatype)
    };
    let has = |name, rank| signature.outputs.iter().any(|spec| is(spec, name, rank));
    if has("sentence_embedding", 2) {
        return Ok(("sentence_embedding".to_owned(), false));
    }
    let mut tokens = ["last_hidden_state", "token_embeddings"].into_iter();
    let Some(name) = tokens.find(|name| has(name, 3)) else {
        let show = |spec: &TensorSpec| format!("{} {}{:?}", spec.name, spec.datatype, spec.shape);
        let outputs: Vec<String> = signature.outputs.iter().map(show).collect();
        return Err(TextError::NoEmbedding { outputs: outputs.join(", ") });
    };
    match &text.config.other {
        Some(module) => Err(TextError::Module(module.clone())),
        None => Ok((name.to_owned(), true)),
    }
}

/// Cuts an embedding to its first `size` numbers and makes it one long again.
pub fn cut(embedding: &mut Vec<f32>, size: usize) {
    embedding.truncate(size);
    normalize(embedding);
}

fn write(numbers: impl Iterator<Item = u32>, dtype: DType) -> Bytes {
    match dtype {
        DType::Int32 => numbers.flat_map(u32::to_le_bytes).collect(),
        _ => numbers.flat_map(|number| u64::from(number).to_le_bytes()).collect(),
    }
}
