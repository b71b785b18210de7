//! The rows of a batch: along which axis of each tensor they lie, taking them apart and putting
//! them together again. Which axes a model's are is found by `separable`; who runs which rows is
//! decided elsewhere.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::check::elements;
use crate::tensor::{Signature, Tensor, TensorSpec};

/// Where the rows lie in a model's tensors, by name. A model that has this gives each row the
/// answer that the row alone would get.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowAxes {
    /// Of the inputs; one that is not named is shared by all rows.
    pub inputs: BTreeMap<String, usize>,
    /// Of the outputs, every one of them.
    pub outputs: BTreeMap<String, usize>,
}

/// Why tensors cannot be taken apart or put together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// Its bytes are not what its shape makes, or it has no such axis.
    #[error("tensor `{0}` is not what its shape says, or has no axis of rows")]
    Shape(String),
    /// It has another number of rows than it should.
    #[error("tensor `{name}` has {given} rows; {expected} are expected")]
    Count {
        /// Which.
        name: String,
        /// What it has.
        given: u64,
        /// What it should have.
        expected: u64,
    },
    /// The parts differ in more than rows.
    #[error("the parts have different tensors where they should have `{0}`")]
    Differ(String),
}

impl RowAxes {
    /// Rows of a batch with inputs of these names and shapes; none if they do not agree.
    pub fn count<'a>(&self, inputs: impl IntoIterator<Item = (&'a str, &'a [u64])>) -> Option<u32> {
        let mut rows = None;
        for (name, shape) in inputs {
            if let Some(axis) = self.inputs.get(name) {
                let here = *shape.get(*axis)?;
                if *rows.get_or_insert(here) != here {
                    return None;
                }
            }
        }
        rows.and_then(|rows| u32::try_from(rows).ok())
    }
}

impl Signature {
    /// Whether the first axis of every tensor is that of the rows.
    pub fn has_rows_first(&self) -> bool {
        let Some(rows) = &self.rows else { return false };
        let is_first = |axes: &BTreeMap<String, usize>, specs: &[TensorSpec]| {
            specs.iter().all(|spec| axes.get(&spec.name) == Some(&0))
        };
        is_first(&rows.inputs, &self.inputs) && is_first(&rows.outputs, &self.outputs)
    }

    /// Where the rows lie, if they can be run apart and every output has them: a description may
    /// come from a peer that says anything.
    pub fn row_axes(&self) -> Option<&RowAxes> {
        let has = |axes: &&RowAxes| {
            self.outputs.iter().all(|output| axes.outputs.contains_key(&output.name))
        };
        self.rows.as_ref().filter(has)
    }

    /// Rows of a batch with inputs of these names and shapes: along the model's rows where they are
    /// known, else the first dimension of the first input; at least one.
    pub fn rows_of<'a>(&self, inputs: impl IntoIterator<Item = (&'a str, &'a [u64])>) -> u32 {
        let mut inputs = inputs.into_iter().peekable();
        let first = inputs.peek().and_then(|(_, shape)| shape.first()).copied().unwrap_or(1);
        let known = self.row_axes().and_then(|axes| axes.count(inputs));
        known.unwrap_or_else(|| u32::try_from(first).unwrap_or(u32::MAX)).max(1)
    }
}

/// Takes a batch apart into parts of so many rows each. A tensor without an axis goes into every
/// part. Nothing is copied where the rows are the outermost axis.
pub fn split(
    tensors: &[Tensor],
    axes: &BTreeMap<String, usize>,
    counts: &[u32],
) -> Result<Vec<Vec<Tensor>>, RowsError> {
    let expected = counts.iter().map(|count| u64::from(*count)).sum();
    let mut parts: Vec<Vec<Tensor>> = counts.iter().map(|_| Vec::new()).collect();
    for tensor in tensors {
        let Some(axis) = axes.get(&tensor.name) else {
            parts.iter_mut().for_each(|part| part.push(tensor.clone()));
            continue;
        };
        let layout = Layout::of(tensor, *axis)?;
        layout.expect_rows(&tensor.name, expected)?;
        let mut from = 0;
        for (part, count) in parts.iter_mut().zip(counts) {
            let to = from + *count as usize;
            let data = layout.cut(tensor, from, to);
            let mut shape = tensor.shape.clone();
            shape[*axis] = u64::from(*count);
            part.push(Tensor { name: tensor.name.clone(), dtype: tensor.dtype, shape, data });
            from = to;
        }
    }
    Ok(parts)
}

/// Puts parts of so many rows each together again, in their order: the inverse of [`split`]. A
/// tensor without an axis is taken from the first part. A part with other rows than it should have
/// is an error: behind it, every row would be another's.
pub fn join(
    parts: &[Vec<Tensor>],
    axes: &BTreeMap<String, usize>,
    counts: &[u32],
) -> Result<Vec<Tensor>, RowsError> {
    assert_eq!(parts.len(), counts.len(), "each part has its count");
    let Some(first) = parts.first() else { return Ok(Vec::new()) };
    let together = first.iter().enumerate().map(|(index, tensor)| {
        let Some(axis) = axes.get(&tensor.name).copied() else { return Ok(tensor.clone()) };
        let differ = || RowsError::Differ(tensor.name.clone());
        let mut pieces = Vec::with_capacity(parts.len());
        for (part, count) in parts.iter().zip(counts) {
            let piece = part.get(index).ok_or_else(differ)?;
            let layout = Layout::of(piece, axis)?;
            let alike = |(at, (a, b)): (usize, (&u64, &u64))| at == axis || a == b;
            if (&piece.name, piece.dtype) != (&tensor.name, tensor.dtype)
                || piece.shape.len() != tensor.shape.len()
                || !piece.shape.iter().zip(&tensor.shape).enumerate().all(alike)
            {
                return Err(differ());
            }
            layout.expect_rows(&piece.name, u64::from(*count))?;
            pieces.push((piece, layout));
        }
        let mut shape = tensor.shape.clone();
        shape[axis] = pieces.iter().map(|(_, layout)| layout.rows as u64).sum();
        let outer = 0..pieces[0].1.outer;
        let chunks: Vec<Bytes> = outer
            .flat_map(|outer| {
                let chunk = move |(piece, layout): &(&Tensor, Layout)| {
                    layout.rows_of(piece, outer, 0, layout.rows)
                };
                pieces.iter().map(chunk).collect::<Vec<Bytes>>()
            })
            .collect();
        let data = concatenated(&chunks);
        Ok(Tensor { name: tensor.name.clone(), dtype: tensor.dtype, shape, data })
    });
    together.collect()
}

/// A tensor made so long on an axis, with copies of `element`, which has its type's size.
pub(crate) fn pad(
    tensor: &Tensor,
    axis: usize,
    to: u64,
    element: &[u8],
) -> Result<Tensor, RowsError> {
    let layout = Layout::of(tensor, axis)?;
    let wrong = || RowsError::Shape(tensor.name.clone());
    let more = usize::try_from(to).ok().and_then(|to| to.checked_sub(layout.rows));
    let more = more.and_then(|more| more.checked_mul(layout.inner)).ok_or_else(wrong)?;
    let fill = Bytes::from(element.repeat(more));
    let chunks = (0..layout.outer)
        .flat_map(|outer| [layout.rows_of(tensor, outer, 0, layout.rows), fill.clone()]);
    let data = concatenated(&chunks.collect::<Vec<Bytes>>());
    let mut shape = tensor.shape.clone();
    shape[axis] = to;
    Ok(Tensor { name: tensor.name.clone(), dtype: tensor.dtype, shape, data })
}

/// The first `to` of a tensor's `from` on an axis. Not copied where that is the outermost.
pub(crate) fn narrow(
    tensor: &Tensor,
    axis: usize,
    from: u64,
    to: u64,
) -> Result<Tensor, RowsError> {
    let layout = Layout::of(tensor, axis)?;
    layout.expect_rows(&tensor.name, from)?;
    let wrong = || RowsError::Shape(tensor.name.clone());
    let end = usize::try_from(to).ok().filter(|end| *end <= layout.rows).ok_or_else(wrong)?;
    let data = layout.cut(tensor, 0, end);
    let mut shape = tensor.shape.clone();
    shape[axis] = to;
    Ok(Tensor { name: tensor.name.clone(), dtype: tensor.dtype, shape, data })
}

fn concatenated(chunks: &[Bytes]) -> Bytes {
    let mut all = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks.iter().for_each(|chunk| all.extend_from_slice(chunk));
    all.freeze()
}

/// How a tensor lies in its bytes: `outer` blocks of `rows` rows of `inner` elements.
struct Layout {
    outer: usize,
    rows: usize,
    inner: usize,
    starts: Starts,
}

/// Where an element begins.
enum Starts {
    Every(usize),
    /// BYTES: of each element, and the end of the last.
    At(Vec<usize>),
}

impl Layout {
    fn of(tensor: &Tensor, axis: usize) -> Result<Self, RowsError> {
        let layout = || {
            let product = |dims: &[u64]| {
                let dims = dims.iter().map(|dim| usize::try_from(*dim).ok());
                dims.into_iter().try_fold(1usize, |product, dim| product.checked_mul(dim?))
            };
            let (before, rest) = tensor.shape.split_at_checked(axis)?;
            let (rows, after) = rest.split_first()?;
            let [outer, rows, inner] = [product(before)?, product(&[*rows])?, product(after)?];
            let count = outer.checked_mul(rows)?.checked_mul(inner)?;
            let starts = match tensor.dtype.size() {
                Some(size) => {
                    let fits = count.checked_mul(size) == Some(tensor.data.len());
                    fits.then_some(Starts::Every(size))?
                }
                None => {
                    let mut starts = vec![0];
                    for element in elements(&tensor.data) {
                        starts.push(starts.last()? + 4 + element?.len());
                    }
                    (starts.len() == count.checked_add(1)?).then_some(Starts::At(starts))?
                }
            };
            Some(Self { outer, rows, inner, starts })
        };
        layout().ok_or_else(|| RowsError::Shape(tensor.name.clone()))
    }

    fn expect_rows(&self, name: &str, expected: u64) -> Result<(), RowsError> {
        let given = self.rows as u64;
        let wrong = || RowsError::Count { name: name.to_owned(), given, expected };
        if given == expected { Ok(()) } else { Err(wrong()) }
    }

    /// The bytes of some rows.
    fn cut(&self, tensor: &Tensor, from: usize, to: usize) -> Bytes {
        if self.outer == 1 {
            return self.rows_of(tensor, 0, from, to);
        }
        let chunks = (0..self.outer).map(|outer| self.rows_of(tensor, outer, from, to));
        concatenated(&chunks.collect::<Vec<Bytes>>())
    }

    /// The bytes of some rows of one outer block.
    fn rows_of(&self, tensor: &Tensor, outer: usize, from: usize, to: usize) -> Bytes {
        let at = |row: usize| {
            let element = (outer * self.rows + row) * self.inner;
            match &self.starts {
                Starts::Every(size) => element * size,
                Starts::At(starts) => starts[element],
            }
        };
        tensor.data.slice(at(from)..at(to))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tensor::{DType, TensorSpec};

    const DTYPES: [DType; 5] = [DType::Fp32, DType::Int64, DType::Uint8, DType::Fp16, DType::Bytes];

    /// A tensor of that shape with elements that all differ, those of BYTES also in length.
    fn tensor(name: &str, dtype: DType, shape: &[u64]) -> Tensor {
        let count = shape.iter().product::<u64>();
        let mut data = Vec::new();
        for element in 0..count {
            match dtype.size() {
                Some(size) => data.extend_from_slice(&element.to_le_bytes()[..size.min(8)]),
                None => {
                    let text =
                        "x".repeat(usize::try_from(element % 5).unwrap()) + &element.to_string();
                    data.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
                    data.extend_from_slice(text.as_bytes());
                }
            }
        }
        Tensor { name: name.into(), dtype, shape: shape.to_vec(), data: data.into() }
    }

    proptest! {
        #[test]
        fn what_is_taken_apart_and_put_together_is_what_it_was(
            counts in proptest::collection::vec(0u32..4, 1..5),
            mut shapes in proptest::collection::vec(proptest::collection::vec(0u64..4, 1..4), 1..4),
            axis in 0usize..4, dtype in 0usize..DTYPES.len(),
        ) {
            let rows: u32 = counts.iter().sum();
            let mut axes = BTreeMap::new();
            let mut tensors = vec![tensor("shared", DType::Int64, &[])];
            for (index, shape) in shapes.iter_mut().enumerate() {
                let (name, axis) = (format!("t{index}"), axis % shape.len());
                shape[axis] = u64::from(rows);
                tensors.push(tensor(&name, DTYPES[(dtype + index) % DTYPES.len()], shape));
                axes.insert(name, axis);
            }
            let parts = split(&tensors, &axes, &counts).unwrap();
            prop_assert_eq!(parts.len(), counts.len());
            for (part, count) in parts.iter().zip(&counts) {
                for tensor in &part[1..] {
                    prop_assert_eq!(tensor.shape[axes[&tensor.name]], u64::from(*count));
                }
            }
            prop_assert_eq!(join(&parts, &axes, &counts).unwrap(), tensors);
        }
    }

    #[test]
    fn a_row_is_found_on_any_axis() {
        let axes = BTreeMap::from([("state".to_owned(), 1)]);
        let parts = split(&[tensor("state", DType::Uint8, &[2, 3, 2])], &axes, &[1, 2]).unwrap();
        assert_eq!(
            (&parts[0][0].shape[..], &parts[0][0].data[..]),
            (&[2, 1, 2][..], &[0, 1, 6, 7][..])
        );
        assert_eq!(&parts[1][0].data[..], [2, 3, 4, 5, 8, 9, 10, 11]);
    }

    #[test]
    fn what_is_padded_and_narrowed_is_what_it_was() {
        for shape in [&[2, 3, 2][..], &[1, 3], &[3, 0, 2], &[4]] {
            let axis = shape.len().min(2) - 1;
            let whole = tensor("x", DType::Fp16, shape);
            let long = pad(&whole, axis, 5, &[7, 9]).unwrap();
            assert_eq!(long.shape[axis], 5);
            assert_eq!(long.data.len() as u64, 2 * long.shape.iter().product::<u64>());
            assert_eq!(narrow(&long, axis, 5, shape[axis]).unwrap(), whole);
            assert!(pad(&long, axis, 4, &[7, 9]).is_err() && narrow(&long, axis, 5, 6).is_err());
            assert!(narrow(&long, axis, 4, 3).is_err() && narrow(&long, 9, 5, 3).is_err());
        }
        let padded = pad(&tensor("x", DType::Uint8, &[2, 2]), 1, 3, &[9]).unwrap();
        assert_eq!(&padded.data[..], [0, 1, 9, 2, 3, 9]);
    }

    #[test]
    fn outermost_rows_are_not_copied() {
        let axes = BTreeMap::from([("x".to_owned(), 0)]);
        let whole = tensor("x", DType::Bytes, &[6, 2]);
        let parts = split(std::slice::from_ref(&whole), &axes, &[2, 4]).unwrap();
        let within = whole.data.as_ptr_range();
        assert!(parts.iter().all(|part| within.contains(&part[0].data.as_ptr())));
    }

    #[test]
    fn tensors_that_lie_are_refused_and_do_not_panic() {
        let axes = BTreeMap::from([("x".to_owned(), 1)]);
        let good = tensor("x", DType::Fp32, &[2, 3]);
        let short = Tensor { data: good.data.slice(4..), ..good.clone() };
        let huge = Tensor { shape: vec![u64::MAX, 3], ..good.clone() };
        let flat = Tensor { shape: vec![6], ..good.clone() };
        let torn = Tensor { dtype: DType::Bytes, ..good.clone() };
        for bad in [short, huge, flat, torn] {
            let bad = [bad];
            assert_eq!(split(&bad, &axes, &[1, 2]), Err(RowsError::Shape("x".into())));
            assert!(join(&[bad.to_vec(), bad.to_vec()], &axes, &[3, 3]).is_err());
        }
        let wide = tensor("x", DType::Fp32, &[4, 3]);
        let together =
            |other: Vec<Tensor>, rows| join(&[vec![good.clone()], other], &axes, &[3, rows]);
        assert_eq!(together(vec![wide], 3), Err(RowsError::Differ("x".into())));
        assert_eq!(together(vec![], 3), Err(RowsError::Differ("x".into())));
        let fewer = RowsError::Count { name: "x".into(), given: 3, expected: 4 };
        assert_eq!(together(vec![good.clone()], 4), Err(fewer));
        let count = split(&[good], &axes, &[1, 1]).unwrap_err();
        assert_eq!(count, RowsError::Count { name: "x".into(), given: 3, expected: 2 });
    }

    #[test]
    fn rows_are_counted_along_the_axes_that_are_known() {
        let inputs = BTreeMap::from([("input".to_owned(), 0), ("state".to_owned(), 1)]);
        let axes = RowAxes { inputs, outputs: BTreeMap::new() };
        let known = Signature { rows: Some(axes), ..Signature::default() };
        let unknown = Signature::default();
        let [input, state, other] = [&[5u64, 576][..], &[2, 5, 128], &[2, 4, 128]];
        let batch = [("state", state), ("sr", &[][..]), ("input", input)];
        assert_eq!((known.rows_of(batch), unknown.rows_of(batch)), (5, 2));
        assert_eq!(known.rows_of([("state", other), ("input", input)]), 2);
        assert_eq!(known.rows_of([("sr", &[][..])]), 1);
        // One that leaves out an output is not believed.
        let output = TensorSpec { name: "y".into(), datatype: DType::Fp32, shape: vec![-1] };
        let partial = Signature { outputs: vec![output], ..known };
        assert_eq!(partial.row_axes(), None);
    }
}
