//! How jobs of one model share a run: their rows become those of one batch, padded where their
//! lengths differ and the model declares how, and each gets its own part of the outputs. Who runs
//! with whom is decided elsewhere.

use crate::cost::Size;
use crate::ragged::Ragged;
use crate::rows::{RowAxes, join, split};
use crate::tensor::Tensor;

/// How jobs of a model share a run.
#[derive(Clone, Debug)]
pub(crate) struct Sharing {
    /// Where their rows lie.
    pub(crate) rows: RowAxes,
    /// What is padded, if anything may be.
    pub(crate) ragged: Option<Ragged>,
}

impl Sharing {
    /// The length of a job that may be padded.
    pub(crate) fn length(&self, inputs: &[Tensor]) -> Option<u64> {
        self.ragged.as_ref()?.length(inputs)
    }

    /// How large a job is, of that length if it may be padded.
    pub(crate) fn size(&self, inputs: &[Tensor], length: Option<u64>) -> Size {
        match self.ragged.as_ref().zip(length) {
            Some((ragged, length)) => ragged.size(inputs, length),
            None => size(inputs),
        }
    }

    /// Whether two jobs' rows can be rows of one batch: the same tensors in the same order, of shapes
    /// that differ in rows only, or in length where both may be padded; and what all rows share is
    /// the same.
    pub(crate) fn can_join(&self, a: &[Tensor], b: &[Tensor], are_ragged: bool) -> bool {
        let ragged = self.ragged.as_ref().filter(|_| are_ragged);
        let alike = |a: &Tensor, b: &Tensor| {
            if (&a.name, a.dtype, a.shape.len()) != (&b.name, b.dtype, b.shape.len()) {
                return false;
            }
            let Some(rows) = self.rows.inputs.get(&a.name) else {
                return a.shape == b.shape && a.data == b.data;
            };
            let differ = |at: usize| {
                at == *rows || ragged.and_then(|ragged| ragged.axis(&a.name)) == Some(at)
            };
            let mut dims = a.shape.iter().zip(&b.shape).enumerate();
            dims.all(|(at, (a, b))| a == b || differ(at))
        };
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b))
    }

    /// Has jobs of so many rows each run as one, by `run`. None where that fails, or its outputs
    /// cannot be told apart.
    pub(crate) fn run(
        &self,
        jobs: &[Vec<Tensor>],
        counts: &[u32],
        run: impl FnOnce(Vec<Tensor>) -> Option<Vec<Tensor>>,
    ) -> Option<Vec<Vec<Tensor>>> {
        let Some((ragged, lengths)) = self.lengths(jobs) else {
            let outputs = run(join(jobs, &self.rows.inputs, counts).ok()?)?;
            return split(&outputs, &self.rows.outputs, counts).ok();
        };
        let longest = lengths.iter().copied().max()?;
        let padded = jobs.iter().map(|inputs| ragged.pad(inputs, longest));
        let padded: Vec<_> = padded.collect::<Result<_, _>>().ok()?;
        let outputs = run(join(&padded, &self.rows.inputs, counts).ok()?)?;
        let parts = split(&outputs, &self.rows.outputs, counts).ok()?.into_iter().zip(lengths);
        let cut = parts.map(|(part, own)| ragged.cut(&part, longest, own));
        cut.collect::<Result<_, _>>().ok()
    }

    /// Each job's length, where they differ.
    fn lengths(&self, jobs: &[Vec<Tensor>]) -> Option<(&Ragged, Vec<u64>)> {
        let ragged = self.ragged.as_ref()?;
        let lengths: Vec<u64> =
            jobs.iter().map(|inputs| ragged.length(inputs)).collect::<Option<_>>()?;
        let do_differ = lengths.windows(2).any(|pair| pair[0] != pair[1]);
        do_differ.then_some((ragged, lengths))
    }
}

/// How large a job is that is not padded.
pub(crate) fn size(inputs: &[Tensor]) -> Size {
    Size::new(inputs.iter().map(|input| input.data.len() as u64).sum(), 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn tensor(name: &str, shape: &[u64]) -> Tensor {
        let bytes = usize::try_from(shape.iter().product::<u64>()).unwrap() * 4;
        let (name, data) = (name.to_owned(), vec![0; bytes].into());
        Tensor { name, dtype: DType::Fp32, shape: shape.to_vec(), data }
    }

    #[test]
    fn jobs_can_be_joined_where_nothing_but_the_number_of_rows_differs() {
        let inputs = [("x".to_owned(), 1)].into();
        let rows = RowAxes { inputs, outputs: [].into() };
        let sharing = Sharing { rows, ragged: None };
        let (x, shared) = (|shape: &[u64]| tensor("x", shape), |size| tensor("shared", &[size]));
        let batch = [x(&[2, 3]), shared(4)];
        assert!(sharing.can_join(&batch, &[x(&[2, 7]), shared(4)], true));
        for other in [
            vec![x(&[3, 3]), shared(4)],
            vec![x(&[2, 3]), shared(5)],
            vec![shared(4), x(&[2, 3])],
            vec![x(&[2, 3])],
            vec![x(&[2, 3, 1]), shared(4)],
            vec![Tensor { dtype: DType::Int32, ..x(&[2, 3]) }, shared(4)],
        ] {
            assert!(!sharing.can_join(&batch, &other, true), "{other:?}");
        }
        let other_data = Tensor { data: vec![9; 16].into(), ..shared(4) };
        assert!(!sharing.can_join(&batch, &[x(&[2, 3]), other_data], true));
    }
}
