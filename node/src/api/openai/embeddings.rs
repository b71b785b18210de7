//! `POST /v1/embeddings`: texts to tokens, tokens to jobs of about equal rows, jobs to embeddings in
//! the order of the texts.
//!
//! Each batch of rows is a job as any other: under the request's policy, with its part of what the
//! request may cost, with a receipt of its own. It may be scattered, forwarded, hedged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt, stream};
use hansa_core::limits::DEADLINE_DEFAULT;
use hansa_core::price::{Amount, Bill};
use hansa_runtime::tensor::Tensor;
use hansa_runtime::text::{Embedder, Text, TextError, cut};

use super::OpenAiError;
use super::request::{Inputs, Wish};
use super::response::Embedded;
use crate::api::call::{Call, Called, Found, Named, demand};
use crate::api::infer::{read, tell};
use crate::api::trace;
use crate::api::v2::ApiError;
use crate::jobs::Answer;
use crate::limits::*;
use crate::node::Node;

/// `POST /v1/embeddings`
pub async fn embeddings(State(node): State<Arc<Node>>, request: Request) -> Response {
    let arrived = Instant::now();
    let outcome = run(&node, request).await;
    node.meters.count(arrived, outcome.as_ref().err().map(OpenAiError::code));
    outcome.unwrap_or_else(IntoResponse::into_response)
}

/// A request to its answer.
async fn run(node: &Arc<Node>, request: Request) -> Result<Response, OpenAiError> {
    let (arrived, started) = (node.clock.now().mono, Instant::now());
    let (head, body) = request.into_parts();
    let body = read(&head, body, EMBED_BODY_BYTES_MAX).await?;
    let wish = node.aside.run(body.len(), move || Wish::parse(&body)).await?;
    let demand = demand(node, &head.headers, &Default::default())?;
    let (is_inline, trace) = (demand.with_receipt, trace::of(&head.headers, node));
    let named = Named { model: wish.model.clone(), version: None };
    let found = Call { named, demand, trace, arrived }.find(node).await?;
    let once = found.check_once("/v1/embeddings");
    once.map_err(|error| OpenAiError::of("model", error))?;
    let text = found.text(node).await.map_err(|error| OpenAiError::of("model", error))?;
    let embedder = Embedder::new(text.clone(), &found.signature);
    let embedder = Arc::new(embedder.map_err(|error| OpenAiError::of("model", error))?);
    // Before anything runs that has a price.
    embedder.width().map_or(Ok(()), |width| check_cut(&text, wish.dimensions, width))?;
    let texts = tokenize(node, &text, &embedder, wish.inputs).await?;
    let tokens = texts.iter().map(Vec::len).sum();
    let ran = Batches { node, found: &found, embedder, texts: Arc::new(texts), tokens };
    let (mut embeddings, sum) = ran.run().await?;
    check_cut(&text, wish.dimensions, embeddings.first().map_or(0, Vec::len))?;
    let Sum { answer, receipts, proofs } = sum;
    let header = told(&receipts);
    let listed = match is_inline {
        true => proofs,
        false if receipts.len() > 1 => receipts,
        false => Vec::new(),
    };
    let numbers = embeddings.iter().map(Vec::len).sum::<usize>();
    let render = move || {
        if let Some(size) = wish.dimensions {
            embeddings.iter_mut().filter(|own| own.len() > size).for_each(|own| cut(own, size));
        }
        Embedded::new(wish.model, embeddings, wish.is_base64, tokens, listed).render()
    };
    let bytes = node.aside.run(numbers.saturating_mul(size_of::<f32>()), render).await;
    let mut response = ([(CONTENT_TYPE, "application/json")], bytes).into_response();
    tell(node, &answer, header, started.elapsed(), response.headers_mut());
    Ok(response)
}

/// The texts as tokens, each within the model's limits and all within the request's.
async fn tokenize(
    node: &Node,
    text: &Arc<Text>,
    embedder: &Arc<Embedder>,
    inputs: Inputs,
) -> Result<Vec<Vec<u32>>, OpenAiError> {
    let bytes = inputs.bytes().saturating_mul(TOKENIZING_FACTOR);
    let (text, limit) = (text.clone(), embedder.tokens_max());
    let tokenize = move || {
        let mut total = 0usize;
        let mut take = |(index, tokens): (usize, Result<Vec<u32>, TextError>)| {
            let long = |tokens: &Vec<u32>| TextError::TooLong { tokens: tokens.len(), limit };
            let tokens = tokens.and_then(|tokens| match tokens.len() > limit {
                true => Err(long(&tokens)),
                false => Ok(tokens),
            });
            let tokens = tokens.map_err(|error| at_fault(index, error))?;
            total += tokens.len();
            match total > EMBED_TOKENS_MAX {
                true => Err(OpenAiError::malformed("input", too_many())),
                false => Ok(tokens),
            }
        };
        match inputs {
            Inputs::Texts(texts) => {
                let texts = texts.iter().map(|own| text.tokens(own));
                texts.enumerate().map(&mut take).collect()
            }
            Inputs::Tokens(lists) => {
                let lists = lists.into_iter().map(|own| text.framed(own));
                lists.enumerate().map(&mut take).collect()
            }
        }
    };
    node.aside.run(bytes, tokenize).await
}

fn too_many() -> String {
    format!("all of `input` together has more than {EMBED_TOKENS_MAX} tokens; send it in parts")
}

fn at_fault(index: usize, error: TextError) -> OpenAiError {
    let error = ApiError::from(error);
    let message = format!("input[{index}]: {error}");
    OpenAiError::of("input", ApiError::new(error.status(), error.code(), message))
}

/// Whether embeddings of `own` numbers may be cut to the size that is wanted, if any is.
fn check_cut(text: &Text, wanted: Option<usize>, own: usize) -> Result<(), OpenAiError> {
    let Some(wanted) = wanted.filter(|wanted| *wanted != own) else { return Ok(()) };
    let refuse = |why: String| {
        let message = format!("`dimensions` is {wanted}, the model's embeddings have {own}; {why}");
        Err(OpenAiError::malformed("dimensions", message))
    };
    match text.cuts() {
        None => refuse(
            "its config.json names no `matryoshka_dimensions`, so cutting them would break them; \
             leave `dimensions` out"
                .to_owned(),
        ),
        Some(_) if wanted > own => refuse("leave `dimensions` out".to_owned()),
        Some(sizes) if sizes.is_empty() || sizes.contains(&wanted) => Ok(()),
        Some(sizes) => refuse(format!("they may be cut to {sizes:?}")),
    }
}

/// The header that names receipts: all, or as many as fit one, and that there are more.
fn told(receipts: &[String]) -> Option<String> {
    let more = (receipts.len() > RECEIPTS_TOLD_MAX).then_some("more");
    let named = receipts.iter().take(RECEIPTS_TOLD_MAX).map(String::as_str);
    let words: Vec<&str> = named.chain(more).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// The batches of one request.
struct Batches<'a> {
    node: &'a Arc<Node>,
    found: &'a Found,
    embedder: Arc<Embedder>,
    texts: Arc<Vec<Vec<u32>>>,
    /// Tokens of all texts together.
    tokens: usize,
}

/// What all jobs of a request come to.
struct Sum {
    answer: Answer,
    receipts: Vec<String>,
    proofs: Vec<String>,
}

impl Batches<'_> {
    /// The embeddings in the order of the texts. The first job that is refused ends all.
    async fn run(&self) -> Result<(Vec<Vec<f32>>, Sum), OpenAiError> {
        let lengths: Vec<usize> = self.texts.iter().map(Vec::len).collect();
        let batches = self.embedder.batches(&lengths);
        let run = stream::iter(batches).map(|batch| self.run_one(batch)).buffered(EMBED_JOBS_MAX);
        let mut run = std::pin::pin!(run);
        let mut embeddings = vec![Vec::new(); lengths.len()];
        let mut sum = Sum { answer: nothing(), receipts: Vec::new(), proofs: Vec::new() };
        while let Some((batch, own, called)) = run.try_next().await? {
            batch.into_iter().zip(own).for_each(|(index, own)| embeddings[index] = own);
            sum.add(called);
        }
        Ok((embeddings, sum))
    }

    /// One job: the texts of these numbers.
    async fn run_one(
        &self,
        batch: Vec<usize>,
    ) -> Result<(Vec<usize>, Vec<Vec<f32>>, Called), OpenAiError> {
        let Self { node, found, embedder, texts, .. } = self;
        let lengths: Vec<usize> = batch.iter().map(|index| texts[*index].len()).collect();
        let (own, model, all) = (batch.clone(), embedder.clone(), texts.clone());
        let inputs = move || {
            let texts: Vec<&[u32]> = own.iter().map(|index| &*all[*index]).collect();
            model.inputs(&texts)
        };
        let inputs = node.aside.run(size_of::<u64>() * lengths.iter().sum::<usize>(), inputs).await;
        let inputs = inputs.map_err(ApiError::from)?;
        let mut order = found.order(node, inputs, vec![embedder.output().to_owned()])?;
        if !order.job.is_timed {
            // Nobody named a time for the whole: each part has what a job has, and may wait for those
            // that are in the air with it.
            let waits = u32::try_from(EMBED_JOBS_MAX).expect("a few");
            order.job.deadline = node.clock.now().mono + DEADLINE_DEFAULT.saturating_mul(waits);
        }
        if let Some(limit) = order.job.limit() {
            let part = part(limit, lengths.iter().sum(), self.tokens);
            order.job = order.job.limited(Some(part));
        }
        let mut called = found.run(node, order).await?;
        let outputs = std::mem::take(&mut called.answer.outputs);
        let bytes = outputs.iter().map(|output: &Tensor| output.data.len()).sum();
        let model = embedder.clone();
        let read = move || model.embeddings(&lengths, &outputs);
        let embeddings = node.aside.run(bytes, read).await.map_err(ApiError::from)?;
        Ok((batch, embeddings, called))
    }
}

/// What `tokens` of all may cost.
fn part(limit: Amount, tokens: usize, all: usize) -> Amount {
    let part = u128::from(limit.micros) * tokens as u128 / all.max(1) as u128;
    Amount { micros: u64::try_from(part).expect("not more than the whole"), ..limit }
}

fn nothing() -> Answer {
    Answer {
        executed_by: Vec::new(),
        outputs: Vec::new(),
        queue: Duration::ZERO,
        service: Duration::ZERO,
        in_flight: 0,
        price: Bill::default(),
        receipt: None,
        is_kept: None,
    }
}

impl Sum {
    /// Adds what one more job came to: devices were busy one after the other, waits are not added.
    fn add(&mut self, called: Called) {
        let Called { answer, receipt, proof } = called;
        self.answer.executed_by.extend(answer.executed_by);
        self.answer.queue = self.answer.queue.max(answer.queue);
        self.answer.service += answer.service;
        self.answer.price = self.answer.price.amounts().chain(answer.price.amounts()).collect();
        self.receipts.extend(receipt);
        self.proofs.extend(proof);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_the_receipts_that_fit_it_and_says_that_there_are_more() {
        let ids = |count: usize| (0..count).map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(told(&[]), None);
        assert_eq!(told(&ids(1)).unwrap(), "0");
        assert_eq!(told(&ids(3)).unwrap(), "0, 1, 2");
        let many = told(&ids(RECEIPTS_TOLD_MAX + 9)).unwrap();
        assert_eq!(many.split(", ").count(), RECEIPTS_TOLD_MAX + 1);
        assert!(many.ends_with(", more"));
    }

    #[test]
    fn the_parts_of_a_limit_of_price_are_never_more_than_the_limit() {
        let limit: Amount = "0.000010 EUR".parse().unwrap();
        let parts = [3, 3, 1].map(|tokens| part(limit, tokens, 7).micros);
        assert_eq!(parts, [4, 4, 1]);
        assert!(parts.iter().sum::<u64>() <= limit.micros);
    }
}
