//! Answers that this node computed and keeps for a while, for models whose config says so: who asks
//! the very same of the very same bundle gets them without a run. Off by default.
//!
//! Only the peer that ran a job keeps its answer, and a job finds it only when it has come to this
//! peer to be run: so the gate was asked, of this job and this peer, as for any run. What a job's
//! policy says of keeping, `hansa_core::gate::may_reuse` reads. With another charter of this node all
//! begins anew.

use std::sync::Arc;

use bytes::Bytes;
use hansa_core::id::Digest;
use hansa_runtime::tensor::Tensor;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use ring::digest::{Context, SHA256};

/// What an answer takes beside its bytes, about.
const OVERHEAD_BYTES: usize = 256;

/// Kept answers, those asked for least recently going first.
pub struct Answers(Cache<Question, Arc<[Tensor]>>);

/// What was asked: bundle, charter, inputs, outputs wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Question([u8; 32]);

impl Question {
    /// The order of the inputs does not matter, that of the outputs does.
    pub fn new(
        bundle: Digest,
        charter: Option<&str>,
        inputs: &[Tensor],
        outputs: &[String],
    ) -> Self {
        let mut digest = Context::new(&SHA256);
        // Each with its length, so that no two questions are one text.
        let mut put = |bytes: &[u8]| {
            digest.update(&(bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        put(&bundle.0);
        put(charter.unwrap_or_default().as_bytes());
        put(&(outputs.len() as u64).to_le_bytes());
        outputs.iter().for_each(|output| put(output.as_bytes()));
        let mut inputs: Vec<&Tensor> = inputs.iter().collect();
        inputs.sort_by(|a, b| a.name.cmp(&b.name));
        for Tensor { name, dtype, shape, data } in inputs {
            put(name.as_bytes());
            put(&[dtype.onnx_code()]);
            put(&shape.iter().flat_map(|dim| dim.to_le_bytes()).collect::<Vec<u8>>());
            put(data);
        }
        Self(digest.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl Answers {
    /// Keeps up to so many bytes.
    pub fn new(bytes_max: u64) -> Self {
        let weigh = |_: &Question, outputs: &Arc<[Tensor]>| {
            let bytes = outputs.iter().map(|output| output.data.len() + OVERHEAD_BYTES);
            u32::try_from(bytes.sum::<usize>()).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder().max_capacity(bytes_max).weigher(weigh);
        Self(kept.eviction_policy(EvictionPolicy::lru()).build())
    }

    /// The answer to a question, if it is kept.
    pub fn find(&self, question: &Question) -> Option<Vec<Tensor>> {
        self.0.get(question).map(|outputs| outputs.to_vec())
    }

    /// Keeps an answer.
    pub fn keep(&self, question: Question, outputs: &[Tensor]) {
        // Copied: what a run gives is often a part of something larger.
        let copy = |output: &Tensor| Tensor {
            data: Bytes::copy_from_slice(&output.data),
            ..output.clone()
        };
        self.0.insert(question, outputs.iter().map(copy).collect());
    }
}

#[cfg(test)]
mod tests {
    use hansa_runtime::tensor::DType;

    use super::*;

    fn tensor(name: &str, bytes: usize) -> Tensor {
        let data = vec![7; bytes].into();
        Tensor { name: name.into(), dtype: DType::Uint8, shape: vec![bytes as u64], data }
    }

    #[test]
    fn a_question_is_the_same_whatever_the_order_of_its_inputs_and_otherwise_another() {
        let bundle = Digest([1; 32]);
        let of = |inputs: &[Tensor], outputs: &[&str]| {
            let outputs: Vec<String> = outputs.iter().map(|output| (*output).into()).collect();
            Question::new(bundle, Some("charter"), inputs, &outputs)
        };
        let (a, b) = (tensor("a", 3), tensor("b", 3));
        let asked = of(&[a.clone(), b.clone()], &["y"]);
        assert_eq!(of(&[b.clone(), a.clone()], &["y"]), asked);
        let reshaped = Tensor { shape: vec![3, 1], ..b.clone() };
        let retyped = Tensor { dtype: DType::Int8, ..b.clone() };
        let others = [
            of(std::slice::from_ref(&a), &["y"]),
            of(&[a.clone(), tensor("b", 4)], &["y"]),
            of(&[a.clone(), reshaped], &["y"]),
            of(&[a.clone(), retyped], &["y"]),
            of(&[a.clone(), b.clone()], &[]),
            of(&[a.clone(), b.clone()], &["y", "z"]),
            Question::new(Digest([2; 32]), Some("charter"), &[a.clone(), b.clone()], &["y".into()]),
            Question::new(bundle, None, &[a, b], &["y".into()]),
        ];
        assert!(others.iter().all(|other| *other != asked));
        let distinct: std::collections::HashSet<_> = others.iter().collect();
        assert_eq!(distinct.len(), others.len());
    }

    #[test]
    fn what_is_kept_has_a_bound_and_the_least_recent_goes_first() {
        let answers = Answers::new(10_000);
        let question = |n: u8| Question([n; 32]);
        for n in 0..50 {
            answers.keep(question(n), &[tensor("y", 1_000)]);
            answers.find(&question(0));
            answers.0.run_pending_tasks();
        }
        let kept: Vec<u8> = (0..50).filter(|n| answers.find(&question(*n)).is_some()).collect();
        assert!(
            kept.len() <= 10_000 / 1_000 && kept.contains(&0) && kept.contains(&49),
            "{kept:?}"
        );
        // One that is larger than all is not kept.
        answers.keep(question(99), &[tensor("y", 20_000)]);
        answers.0.run_pending_tasks();
        assert_eq!(answers.find(&question(99)), None);
    }
}
