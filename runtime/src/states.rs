//! What one run of a model leaves for another: outputs that become inputs. Of requests in sequences
//! ([`crate::sequence`]) and of runs of one request ([`crate::loops`]).

use std::collections::BTreeMap;

use crate::tensor::{Tensor, TensorSpec};
use crate::values::zeros;

/// Outputs, and the inputs that they become.
pub type States = BTreeMap<String, String>;

/// Whether each is an output of the model that the input can become.
pub(crate) fn check(
    states: &States,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
) -> Result<(), String> {
    for (output, input) in states {
        let (given, taken) = (find(outputs, output, "output")?, find(inputs, input, "input")?);
        if given.datatype != taken.datatype {
            return Err(format!("`{output}` and `{input}` are of different types"));
        }
        // Of an output without dimensions these may just be unknown.
        let fits = given.shape.is_empty()
            || given.shape.len() == taken.shape.len()
                && given.shape.iter().zip(&taken.shape).all(|(a, b)| a == b || *a < 0 || *b < 0);
        if !fits {
            let (given, taken) = (&given.shape, &taken.shape);
            return Err(format!("`{output}` of {given:?} never becomes `{input}` of {taken:?}"));
        }
    }
    Ok(())
}

/// Whether no input is named twice.
pub(crate) fn check_once<'a>(names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut names: Vec<&String> = names.collect();
    let count = names.len();
    names.sort();
    names.dedup();
    if names.len() < count { Err("it names an input twice".into()) } else { Ok(()) }
}

/// The model's input or output of that name.
pub(crate) fn find<'a>(
    specs: &'a [TensorSpec],
    name: &str,
    what: &str,
) -> Result<&'a TensorSpec, String> {
    let found = specs.iter().find(|spec| spec.name == name);
    found.ok_or_else(|| format!("the model has no {what} `{name}`"))
}

/// What an input is before any run: zeros, or empty texts, for so many rows.
pub(crate) fn first(spec: &TensorSpec, rows: u64, others: i64) -> Result<Tensor, String> {
    let name = &spec.name;
    let first = zeros(name, spec.datatype, &sized(spec, rows, others));
    first.ok_or_else(|| format!("the first `{name}` would be too large"))
}

/// How many bytes that has.
pub(crate) fn first_bytes(spec: &TensorSpec, rows: u64, others: i64) -> u64 {
    let dims = sized(spec, rows, others).into_iter().map(|dim| u64::try_from(dim).unwrap_or(1));
    let elements = dims.fold(1, u64::saturating_mul);
    // An empty text is its length.
    elements.saturating_mul(spec.datatype.size().unwrap_or(4) as u64)
}

/// The dimensions of an input for so many rows: the first one that may be any is theirs, the others
/// that may be are `others`.
pub(crate) fn sized(spec: &TensorSpec, rows: u64, others: i64) -> Vec<i64> {
    let mut rows = Some(i64::try_from(rows).unwrap_or(i64::MAX));
    let size = |dim: &i64| if *dim < 0 { rows.take().unwrap_or(others) } else { *dim };
    spec.shape.iter().map(size).collect()
}
