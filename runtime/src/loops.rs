//! Models that answer one request step by step, with one answer a step: what Triton calls decoupled.
//!
//! The bundle says so in a file `loop.json` beside its ONNX file, so that every holder means the same
//! by it:
//!
//! ```json
//! { "states": { "next_token": "token", "kv_out": "kv" }, "emits": ["next_token"],
//!   "while": "more", "steps_max": 512 }
//! ```
//!
//! The model is run again and again. After each step `states` maps outputs to the inputs that they
//! become in the next one; all other inputs are given again as the app gave them. It ends when the
//! output `while`, one element that is a BOOL or a number, is false or 0 in a step, or after
//! `steps_max` steps; an app may ask for fewer. An input that is a state begins as the app gives it (a
//! prompt); where the app leaves it out, as zeros or empty texts. Its first dimension that may be any
//! is then the request's rows; others that may be any are 0, since what they count has not begun.
//!
//! Each step answers all outputs but the states and `while`; a state that is an answer as well, as a
//! token is, stands under `emits`. Whoever takes in requests runs the steps (see the node's
//! `api::loops`); for an executor each is a job like any.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::{LOOP_BEGINS_BYTES_MAX, LOOP_STEPS_MAX};
use crate::states::{self, States, find};
use crate::tensor::{DType, Signature, Tensor, TensorSpec};

/// The file's name.
pub(crate) const FILE: &str = "loop.json";

/// How a model answers step by step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loop {
    /// Outputs, and the inputs that they become in the next step.
    pub states: States,
    /// States that are answered as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub emits: Vec<String>,
    /// Output that says whether there is a next step.
    #[serde(rename = "while")]
    pub more: String,
    /// Most steps of a request.
    pub steps_max: u32,
}

/// What a step gave.
#[derive(Debug)]
pub struct Given {
    /// For the app.
    pub answers: Vec<Tensor>,
    /// For the next step, by their names there.
    pub states: Vec<Tensor>,
    /// Whether there is one.
    pub is_more: bool,
}

impl Loop {
    /// Whether it fits a model with these inputs and outputs.
    pub(crate) fn check(
        &self,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<(), String> {
        if self.states.is_empty() {
            return Err("it names no state, so every step would be the same".into());
        }
        if !(1..=LOOP_STEPS_MAX).contains(&self.steps_max) {
            let given = self.steps_max;
            return Err(format!("steps_max is {given}, not a number from 1 to {LOOP_STEPS_MAX}"));
        }
        states::check(&self.states, inputs, outputs)?;
        states::check_once(self.states.values())?;
        if let Some(name) = self.emits.iter().find(|name| !self.states.contains_key(*name)) {
            return Err(format!("`{name}` is under `emits` and is no state: leave it out there"));
        }
        if self.emits.contains(&self.more) {
            let name = &self.more;
            return Err(format!("`{name}` is under `emits` and `while`, which is no answer"));
        }
        let more = find(outputs, &self.more, "output")?;
        let (name, shape) = (&more.name, &more.shape);
        if more.datatype == DType::Bytes {
            return Err(format!("`{name}` is {}, which says neither yes nor no", more.datatype));
        }
        if shape.iter().any(|dim| *dim >= 0 && *dim != 1) {
            return Err(format!("`{name}` of {shape:?} is not one element"));
        }
        if !outputs.iter().any(|spec| self.answers(&spec.name)) {
            let reason = "no output is left that a step could answer: name a state under `emits`";
            return Err(reason.into());
        }
        Ok(())
    }

    /// Whether apps get this output.
    pub fn answers(&self, output: &str) -> bool {
        let is_state = self.states.contains_key(output);
        output != self.more && (!is_state || self.emits.iter().any(|name| name == output))
    }

    /// Whether apps may leave out this input.
    pub fn begins(&self, input: &str) -> bool {
        self.states.values().any(|name| name == input)
    }

    /// The outputs that a step must give for one whose app wants these (none: all).
    pub fn needed(&self, wanted: &[String]) -> Vec<String> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let more = Some(&self.more).filter(|more| !self.states.contains_key(*more));
        let own = self.states.keys().chain(more);
        let own = own.filter(|name| !wanted.contains(name)).cloned();
        wanted.iter().cloned().chain(own).collect()
    }

    /// Takes a step's outputs apart. The last that is permitted leaves nothing for another.
    ///
    /// # Errors
    /// The model does not say whether there is a next step.
    pub fn take(
        &self,
        outputs: Vec<Tensor>,
        wanted: &[String],
        is_last: bool,
    ) -> Result<Given, String> {
        let (mut answers, mut states) = (Vec::new(), Vec::new());
        let mut is_more = is_last.then_some(false);
        for output in outputs {
            if output.name == self.more && !is_last {
                is_more = Some(is_set(&output)?);
            }
            if let Some(input) = self.states.get(&output.name).filter(|_| !is_last) {
                // Of a run of many requests, it may be a slice of all that came of it.
                let data = Bytes::copy_from_slice(&output.data);
                states.push(Tensor { name: input.clone(), data, ..output.clone() });
            }
            let is_wanted = wanted.is_empty() || wanted.contains(&output.name);
            if is_wanted && self.answers(&output.name) {
                answers.push(output);
            }
        }
        let is_more = is_more.ok_or_else(|| format!("the model gave no `{}`", self.more))?;
        if !is_more {
            states.clear();
        }
        Ok(Given { answers, states, is_more })
    }
}

impl Signature {
    /// What a request to a model that answers step by step may leave out: its states that are not
    /// among these inputs, as they are before the first step of so many rows.
    ///
    /// # Errors
    /// One would be too large.
    pub fn begun(&self, given: &[Tensor], rows: u64) -> Result<Vec<Tensor>, String> {
        let Some(own) = &self.looped else { return Ok(Vec::new()) };
        let is_given = |name: &String| given.iter().any(|input| input.name == *name);
        let (mut begun, mut bytes) = (Vec::new(), 0u64);
        for name in own.states.values().filter(|name| !is_given(name)) {
            let spec = find(&self.inputs, name, "input")?;
            // Before it is made: its size is the app's to choose, by shapes without a byte.
            bytes = bytes.saturating_add(states::first_bytes(spec, rows, 0));
            if bytes > LOOP_BEGINS_BYTES_MAX {
                return Err(format!(
                    "what the app leaves out would begin with more than {LOOP_BEGINS_BYTES_MAX} bytes \
                     for {rows} rows: give `{name}` itself"
                ));
            }
            begun.push(states::first(spec, rows, 0)?);
        }
        Ok(begun)
    }
}

/// Whether the one element of a tensor is not 0.
fn is_set(tensor: &Tensor) -> Result<bool, String> {
    let Tensor { name, dtype, shape, data } = tensor;
    let count = shape.iter().fold(1, |count: u64, dim| count.saturating_mul(*dim));
    let (Some((last, others)), 1) = (data.split_last(), count) else {
        return Err(format!(
            "the model's `{name}` has {count} elements, and not one that says whether it goes on; \
             ask for one row at a time"
        ));
    };
    let is_float = matches!(dtype, DType::Fp16 | DType::Bf16 | DType::Fp32 | DType::Fp64);
    // -0 is 0.
    let last = if is_float { last & 0x7f } else { *last };
    Ok(last != 0 || others.iter().any(|byte| *byte != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: DType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.into() }
    }

    const DECLARED: &str = r#"{ "states": { "next": "token", "kv_out": "kv" }, "emits": ["next"],
        "while": "more", "steps_max": 5 }"#;

    fn signature() -> Signature {
        Signature {
            inputs: vec![
                spec("token", DType::Int64, &[-1, 1]),
                spec("kv", DType::Fp32, &[-1, 2, -1, 4]),
                spec("heat", DType::Fp32, &[1]),
            ],
            outputs: vec![
                spec("next", DType::Int64, &[-1, 1]),
                spec("kv_out", DType::Fp32, &[-1, 2, -1, 4]),
                spec("score", DType::Fp32, &[1]),
                spec("more", DType::Bool, &[-1]),
            ],
            looped: Some(serde_json::from_str(DECLARED).unwrap()),
            ..Signature::default()
        }
    }

    fn tensor(name: &str, dtype: DType, shape: &[u64], data: &[u8]) -> Tensor {
        Tensor { name: name.into(), dtype, shape: shape.into(), data: data.to_vec().into() }
    }

    #[test]
    fn what_does_not_fit_the_model_is_refused_with_the_reason() {
        let signature = signature();
        let check = |text: &str| {
            let own: Loop = serde_json::from_str(text).unwrap();
            own.check(&signature.inputs, &signature.outputs)
        };
        check(DECLARED).unwrap();
        for (text, word) in [
            (r#"{"states":{},"while":"more","steps_max":5}"#, "no state"),
            (r#"{"states":{"next":"token"},"while":"more","steps_max":0}"#, "from 1 to"),
            (r#"{"states":{"next":"token"},"while":"more","steps_max":4000000}"#, "from 1 to"),
            (r#"{"states":{"token":"next"},"while":"more","steps_max":5}"#, "no output `token`"),
            (r#"{"states":{"next":"tokens"},"while":"more","steps_max":5}"#, "no input `tokens`"),
            (r#"{"states":{"next":"heat"},"while":"more","steps_max":5}"#, "different types"),
            (r#"{"states":{"kv_out":"heat"},"while":"more","steps_max":5}"#, "never becomes"),
            (
                r#"{"states":{"score":"heat","kv_out":"heat"},"while":"more","steps_max":5}"#,
                "never becomes",
            ),
            (
                r#"{"states":{"next":"token"},"emits":["score"],"while":"more","steps_max":5}"#,
                "`score` is under `emits`",
            ),
            (r#"{"states":{"next":"token"},"while":"done","steps_max":5}"#, "no output `done`"),
            (r#"{"states":{"next":"token"},"while":"kv_out","steps_max":5}"#, "not one element"),
        ] {
            assert!(check(text).unwrap_err().contains(word), "{text}: {:?}", check(text));
        }
        for text in [
            r#"{"states":{"next":"token"},"while":"more"}"#,
            r#"{"states":{"next":"token"},"steps_max":5}"#,
            r#"{"while":"more","steps_max":5}"#,
            r#"{"states":{"next":"token"},"while":"more","steps_max":5,"until":1}"#,
        ] {
            assert!(serde_json::from_str::<Loop>(text).is_err(), "{text}");
        }
        let twice = r#"{"states":{"a":"x","b":"x"},"while":"m","steps_max":5}"#;
        let twice: Loop = serde_json::from_str(twice).unwrap();
        let text = |name| spec(name, DType::Bytes, &[1]);
        let more = spec("m", DType::Bool, &[]);
        let refused = twice.check(&[text("x")], &[text("a"), text("b"), more]).unwrap_err();
        assert!(refused.contains("twice"), "{refused}");
        let silent = r#"{"states":{"a":"x"},"while":"m","steps_max":5}"#;
        let silent: Loop = serde_json::from_str(silent).unwrap();
        let refused = silent.check(&[text("x")], &[text("a"), text("m")]).unwrap_err();
        assert!(refused.contains("neither yes nor no"), "{refused}");
        let more = spec("m", DType::Bool, &[]);
        let refused = silent.check(&[text("x")], &[text("a"), more]).unwrap_err();
        assert!(refused.contains("under `emits`"), "{refused}");
    }

    #[test]
    fn apps_get_what_is_neither_carried_nor_says_whether_it_goes_on_and_what_is_emitted() {
        let shown = signature().for_apps();
        let names: Vec<&str> = shown.outputs.iter().map(|spec| &*spec.name).collect();
        assert_eq!(names, ["next", "score"]);
        assert_eq!(shown.inputs, signature().inputs, "a prompt is an input");
        let own = signature().looped.unwrap();
        assert_eq!(own.needed(&[]), Vec::<String>::new());
        assert_eq!(own.needed(&["score".into()]), ["score", "kv_out", "next", "more"]);
        assert_eq!(own.needed(&["next".into()]), ["next", "kv_out", "more"]);
    }

    #[test]
    fn what_the_app_leaves_out_begins_as_nothing() {
        let given = [tensor("token", DType::Int64, &[1, 1], &[7; 8])];
        let begun = signature().begun(&given, 1).unwrap();
        let [kv] = &begun[..] else { panic!("{begun:?}") };
        assert_eq!((&*kv.name, &kv.shape[..], kv.data.len()), ("kv", &[1, 2, 0, 4][..], 0));
        let both = signature().begun(&[], 2).unwrap();
        let token = both.iter().find(|state| state.name == "token").unwrap();
        assert_eq!((&token.shape[..], &token.data[..]), (&[2, 1][..], &[0; 16][..]));
        for rows in [LOOP_BEGINS_BYTES_MAX / 8 + 1, u64::MAX] {
            let refused = signature().begun(&[], rows).unwrap_err();
            assert!(refused.contains("give `token` itself"), "{refused}");
        }
    }

    #[test]
    fn a_step_gives_answers_states_and_whether_there_is_another() {
        let own = signature().looped.unwrap();
        let step = |more: Tensor, wanted: &[String]| {
            let outputs = vec![
                tensor("next", DType::Int64, &[1, 1], &[3; 8]),
                tensor("kv_out", DType::Fp32, &[1, 2, 0, 4], &[]),
                tensor("score", DType::Fp32, &[1], &[0; 4]),
                more,
            ];
            own.take(outputs, wanted, false)
        };
        let names = |tensors: &[Tensor]| {
            tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>()
        };
        let given = step(tensor("more", DType::Bool, &[1], &[1]), &[]).unwrap();
        assert_eq!(names(&given.answers), ["next", "score"]);
        assert_eq!(names(&given.states), ["token", "kv"]);
        assert!(given.is_more);
        let given = step(tensor("more", DType::Bool, &[], &[0]), &["score".into()]).unwrap();
        assert_eq!((names(&given.answers), given.is_more), (vec!["score".into()], false));
        for (bytes, dtype, is_more) in [
            (&[0, 0, 0, 0x80][..], DType::Fp32, false),
            (&[0, 0, 0x80, 0x3f], DType::Fp32, true),
            (&[0, 0x80], DType::Fp16, false),
            (&[0, 0, 0, 0x80], DType::Int32, true),
            (&[0, 1, 0, 0], DType::Uint32, true),
        ] {
            assert_eq!(step(tensor("more", dtype, &[1], bytes), &[]).unwrap().is_more, is_more);
        }
        let many = step(tensor("more", DType::Bool, &[2], &[1, 0]), &[]).unwrap_err();
        assert!(many.contains("one row at a time"), "{many}");
        assert!(own.take(Vec::new(), &[], false).unwrap_err().contains("gave no `more`"));
    }

    #[test]
    fn a_state_may_say_whether_it_goes_on_and_is_asked_for_once() {
        let text = r#"{ "states": { "next": "token", "more": "flag" }, "emits": ["next"],
            "while": "more", "steps_max": 5 }"#;
        let own: Loop = serde_json::from_str(text).unwrap();
        let mut inputs = signature().inputs;
        inputs.push(spec("flag", DType::Bool, &[-1]));
        own.check(&inputs, &signature().outputs).unwrap();
        let mut needed = own.needed(&["next".to_owned()]);
        needed.sort();
        assert_eq!(needed, ["more", "next"]);
        let emitted = Loop { emits: vec!["next".into(), "more".into()], ..own };
        let refused = emitted.check(&inputs, &signature().outputs).unwrap_err();
        assert!(refused.contains("is no answer"), "{refused}");
    }

    #[test]
    fn the_last_step_that_is_permitted_need_not_say_that_it_is() {
        let own = signature().looped.unwrap();
        let next = tensor("next", DType::Int64, &[1, 1], &[7; 8]);
        let more = tensor("more", DType::Bool, &[2], &[1, 1]);
        let given = own.take(vec![next.clone(), more.clone()], &[], true).unwrap();
        assert!(!given.is_more && given.states.is_empty());
        assert_eq!(given.answers, std::slice::from_ref(&next));
        assert!(own.take(vec![next, more], &[], false).unwrap_err().contains("one row at a time"));
    }
}
