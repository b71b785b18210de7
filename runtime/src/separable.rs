//! Whether a model's rows can be run apart, found by experiment: three rows at once must give what
//! each gives alone. No model says this of itself; one that mixes its rows, or that scales them
//! together, as dynamically quantized ones do, shows it here. So does one whose bundle declares that
//! they may be padded, and that does not overlook the padding.
//!
//! Runs nothing itself: it is told how.

use std::collections::{BTreeMap, BTreeSet};

use crate::likeness::nearly_equal;
use crate::limits::ROWS_PROBE_ELEMENTS_MAX;
use crate::rows::{RowAxes, join, split};
use crate::sharing::Sharing;
use crate::tensor::{DType, Signature, Tensor, TensorSpec};

/// Rows of the experiment's batch: no model's own dimension is likely to be so.
const ROWS: usize = 3;
/// What other dimensions of any size are tried as, since some models need room: a few words, a line
/// of a picture, a frame of sound.
const SIZES: [u64; 3] = [8, 48, 256];
/// Whole numbers are below these. Indices may find nothing beyond 1; and a model that normalizes
/// what hardly varies makes much of rounding.
const NUMBERS: [u64; 2] = [2, 128];

/// Axes of the inputs along which the rows may lie, by name.
type Candidate = BTreeMap<String, usize>;

/// The axes of a model's rows, if it has such. `symbols` are the names of the inputs' dimensions
/// (empty: no name), `run` runs the model and gives nothing where it fails.
pub(crate) fn row_axes(
    signature: &Signature,
    symbols: &[Vec<String>],
    mut run: impl FnMut(Vec<Tensor>) -> Option<Vec<Tensor>>,
) -> Option<RowAxes> {
    for inputs in candidates(&signature.inputs, symbols) {
        'sizes: for size in SIZES {
            let mut is_mixed = false;
            for below in NUMBERS {
                let mut source = Source { size, below, random: Random(1) };
                match experiment(signature, &inputs, &mut source, &mut run) {
                    Found::Failed => {}
                    Found::Unlike => break 'sizes,
                    Found::Mixed => is_mixed = true,
                    Found::Apart(outputs) => return Some(RowAxes { inputs, outputs }),
                }
            }
            if is_mixed {
                break;
            }
        }
    }
    None
}

/// Whether rows of different lengths, padded to the longest and run as one, give what each gives
/// alone; false for a model that does not run on such inputs.
pub(crate) fn is_padded_alike(
    signature: &Signature,
    sharing: &Sharing,
    mut run: impl FnMut(Vec<Tensor>) -> Option<Vec<Tensor>>,
) -> bool {
    let mut trial = |size: u64, below: u64| -> Option<bool> {
        let mut source = Source { size, below, random: Random(1) };
        let lengths = [size, size / 2, size - 1];
        let rows = rows(signature, &sharing.rows.inputs, &mut source, |spec, row| {
            Some((sharing.ragged.as_ref()?.axis(&spec.name)?, lengths[row]))
        });
        let rows = rows?;
        let together = sharing.run(&rows, &[1; ROWS], &mut run)?;
        let alone: Vec<Vec<Tensor>> = rows.into_iter().map(&mut run).collect::<Option<_>>()?;
        Some(alone.iter().zip(&together).all(|(one, part)| same(part, one)))
    };
    for size in SIZES {
        let found = NUMBERS.map(|below| trial(size, below));
        // Of a row whose numbers happen to mask all of it, nothing follows, so a size that shows no
        // likeness says nothing; one that shows both says that likeness was chance.
        if found.contains(&Some(true)) {
            return !found.contains(&Some(false));
        }
    }
    false
}

/// Where the rows may lie: along each dimension that has a name, the first one first; else along the
/// first dimension of any size that each input has.
fn candidates(inputs: &[TensorSpec], symbols: &[Vec<String>]) -> Vec<Candidate> {
    let mut found = Vec::<Candidate>::new();
    let mut seen = BTreeSet::new();
    let names = symbols.iter().flatten().filter(|name| !name.is_empty());
    for name in names.filter(|name| seen.insert(name.as_str())) {
        let axes = |(spec, own): (&TensorSpec, &Vec<String>)| {
            let axes = (0..own.len()).filter(|axis| &own[*axis] == name && spec.shape[*axis] < 0);
            axes.map(|axis| (spec.name.clone(), axis)).collect::<Vec<_>>()
        };
        let axes: Vec<(String, usize)> = inputs.iter().zip(symbols).flat_map(axes).collect();
        let candidate: Candidate = axes.iter().cloned().collect();
        // A name twice in one input says that these are no rows.
        if !candidate.is_empty() && candidate.len() == axes.len() {
            found.push(candidate);
        }
    }
    let any = |spec: &TensorSpec| spec.shape.iter().position(|dim| *dim < 0);
    let firsts = inputs.iter().filter_map(|spec| Some((spec.name.clone(), any(spec)?)));
    let firsts: Candidate = firsts.collect();
    if !firsts.is_empty() && !found.contains(&firsts) {
        found.push(firsts);
    }
    found
}

enum Found {
    /// The model does not run on such inputs.
    Failed,
    /// Its outputs do not follow the rows.
    Unlike,
    /// They do, and a row gives something else among others than alone.
    Mixed,
    /// They are, along these axes of the outputs.
    Apart(BTreeMap<String, usize>),
}

fn experiment(
    signature: &Signature,
    candidate: &Candidate,
    source: &mut Source,
    run: &mut impl FnMut(Vec<Tensor>) -> Option<Vec<Tensor>>,
) -> Found {
    let Some(rows) = rows(signature, candidate, source, |_, _| None) else { return Found::Failed };
    let batch = join(&rows, candidate, &[1; ROWS]).expect("rows of one shape");
    let Some(together) = run(batch) else { return Found::Failed };
    let alone: Option<Vec<Vec<Tensor>>> = rows.into_iter().map(run).collect();
    let Some(alone) = alone else { return Found::Failed };
    let Some(outputs) = follow(&together, &alone[0]) else { return Found::Unlike };
    match split(&together, &outputs, &[1; ROWS]) {
        Ok(parts) if parts.iter().zip(&alone).all(|(part, one)| same(part, one)) => {
            Found::Apart(outputs)
        }
        _ => Found::Mixed,
    }
}

/// Inputs of each of [`ROWS`] rows. `length` tells an axis of an input that is so long in that row.
fn rows(
    signature: &Signature,
    candidate: &Candidate,
    source: &mut Source,
    length: impl Fn(&TensorSpec, usize) -> Option<(usize, u64)>,
) -> Option<Vec<Vec<Tensor>>> {
    let shared: Vec<Tensor> =
        signature.inputs.iter().map(|spec| source.sample(spec, [])).collect::<Option<_>>()?;
    let mut row = |row| -> Option<Vec<Tensor>> {
        let own = |(spec, shared): (&TensorSpec, &Tensor)| match candidate.get(&spec.name) {
            None => Some(shared.clone()),
            Some(axis) => source.sample(spec, [Some((*axis, 1)), length(spec, row)]),
        };
        signature.inputs.iter().zip(&shared).map(own).collect()
    };
    (0..ROWS).map(&mut row).collect()
}

/// Of each output the one axis whose size follows the rows; none if an output has none.
fn follow(together: &[Tensor], alone: &[Tensor]) -> Option<BTreeMap<String, usize>> {
    let axis = |(batch, one): (&Tensor, &Tensor)| {
        let differ = batch.shape.iter().zip(&one.shape).position(|(many, one)| many != one)?;
        let follows = (batch.shape[differ], one.shape[differ]) == (ROWS as u64, 1);
        // That it is the only one shows when the parts are compared.
        (follows && batch.name == one.name).then(|| (batch.name.clone(), differ))
    };
    if together.len() != alone.len() {
        return None;
    }
    together.iter().zip(alone).map(axis).collect()
}

fn same(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| nearly_equal(a, b))
}

/// What inputs are made of.
struct Source {
    /// Of a dimension of any size that is not the rows'.
    size: u64,
    /// Whole numbers are below.
    below: u64,
    random: Random,
}

impl Source {
    /// An input whose axes of any size are so large as `sizes` tells of some.
    fn sample<const N: usize>(
        &mut self,
        spec: &TensorSpec,
        sizes: [Option<(usize, u64)>; N],
    ) -> Option<Tensor> {
        let dim = |(axis, dim): (usize, &i64)| {
            let own = sizes.iter().flatten().find(|(known, _)| *known == axis);
            u64::try_from(*dim).unwrap_or(own.map_or(self.size, |(_, size)| *size))
        };
        let shape: Vec<u64> = spec.shape.iter().enumerate().map(dim).collect();
        let count = shape.iter().try_fold(1u64, |count, dim| count.checked_mul(*dim))?;
        if count > ROWS_PROBE_ELEMENTS_MAX {
            return None;
        }
        let mut data = Vec::new();
        (0..count).for_each(|_| self.element(spec.datatype, &mut data));
        Some(Tensor { name: spec.name.clone(), dtype: spec.datatype, shape, data: data.into() })
    }

    fn element(&mut self, dtype: DType, data: &mut Vec<u8>) {
        let random = &mut self.random;
        match dtype {
            DType::Fp32 => data.extend_from_slice(&random.float().to_le_bytes()),
            DType::Fp64 => data.extend_from_slice(&f64::from(random.float()).to_le_bytes()),
            // The upper half of a float is one.
            DType::Bf16 => data.extend_from_slice(&random.float().to_le_bytes()[2..]),
            DType::Fp16 => data.extend_from_slice(&random.half().to_le_bytes()),
            DType::Bytes => {
                data.extend_from_slice(&1u32.to_le_bytes());
                data.push(if random.next() >> 63 == 1 { b'a' } else { b'b' });
            }
            DType::Bool => data.push(u8::from(random.next() >> 63 == 1)),
            number => {
                let number = number.size().expect("a number has a size");
                let value = (random.next() >> 32) % self.below;
                data.extend_from_slice(&value.to_le_bytes()[..number]);
            }
        }
    }
}

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From -1 to 1.
    fn float(&mut self) -> f32 {
        let bits = u16::try_from(self.next() >> 48).expect("16 bits");
        f32::from(bits) / 32_768.0 - 1.0
    }

    /// The bits of a half from -1 to 1: a sign, an exponent of 2⁻⁴ to 2⁻¹, a fraction.
    fn half(&mut self) -> u16 {
        let bits = u16::try_from(self.next() >> 48).expect("16 bits");
        let exponent = 11 + (bits >> 10 & 3);
        (bits & 0x8000) | exponent << 10 | (bits & 0x3ff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: DType::Fp32, shape: shape.to_vec() }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn named_dimensions_are_tried_in_their_order_and_then_the_first_of_any_size() {
        let inputs = [spec("ids", &[-1, -1]), spec("past", &[2, -1, -1]), spec("sr", &[])];
        let symbols = [names(&["b", "s"]), names(&["", "b", "p"]), vec![]];
        let axes = |pairs: &[(&str, usize)]| -> Candidate {
            pairs.iter().map(|(name, axis)| ((*name).to_owned(), *axis)).collect()
        };
        let expected =
            [axes(&[("ids", 0), ("past", 1)]), axes(&[("ids", 1)]), axes(&[("past", 2)])];
        assert_eq!(candidates(&inputs, &symbols), expected);
        let unnamed = [names(&["", ""]), names(&["", "", ""]), vec![]];
        assert_eq!(candidates(&inputs, &unnamed), expected[..1]);
        let square = [names(&["n", "n"]), names(&["", "", ""]), vec![]];
        assert_eq!(candidates(&inputs, &square), expected[..1]);
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.data.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
    }

    /// Runs a made-up model with the input x[any, any] and the output y of the same shape.
    fn found(model: impl Fn(&[f32], usize) -> Vec<f32>) -> Option<RowAxes> {
        let signature = Signature {
            inputs: vec![spec("x", &[-1, -1])],
            outputs: vec![spec("y", &[-1, -1])],
            ..Signature::default()
        };
        row_axes(&signature, &[names(&["b", "s"])], |inputs| {
            let x = &inputs[0];
            let y = model(&values(x), usize::try_from(x.shape[1]).unwrap());
            let data: Vec<u8> = y.iter().flat_map(|value| value.to_le_bytes()).collect();
            Some(vec![Tensor { name: "y".into(), data: data.into(), ..x.clone() }])
        })
    }

    #[test]
    fn rows_that_know_nothing_of_each_other_are_apart() {
        let softmax_like = |x: &[f32], width: usize| -> Vec<f32> {
            let row = |row: &[f32]| {
                let sum: f32 = row.iter().sum();
                row.iter().map(|value| value * sum).collect::<Vec<f32>>()
            };
            x.chunks(width).flat_map(row).collect()
        };
        let axes = found(softmax_like).unwrap();
        assert_eq!((axes.inputs["x"], axes.outputs["y"]), (0, 0));
    }

    #[test]
    fn rows_that_share_a_scale_or_a_mean_are_not_apart() {
        let rounded = |x: &[f32], _: usize| -> Vec<f32> {
            let scale = x.iter().fold(0f32, |most, value| most.max(value.abs())) / 127.0;
            x.iter().map(|value| (value / scale).round() * scale).collect()
        };
        assert_eq!(found(rounded), None);
        let centred = |x: &[f32], _: usize| -> Vec<f32> {
            let mean = x.iter().sum::<f32>() / x.len() as f32;
            x.iter().map(|value| value - mean).collect()
        };
        assert_eq!(found(centred), None);
    }

    #[test]
    fn a_model_that_needs_room_gets_it_and_one_that_never_runs_is_not_apart() {
        let signature = Signature {
            inputs: vec![spec("x", &[-1, -1])],
            outputs: vec![spec("y", &[-1, -1])],
            ..Signature::default()
        };
        let mut widths = Vec::new();
        let axes = row_axes(&signature, &[names(&["", ""])], |mut inputs| {
            widths.push(inputs[0].shape[1]);
            inputs[0].name = "y".into();
            (inputs[0].shape[1] >= 48).then_some(inputs)
        });
        assert_eq!(axes.unwrap().inputs["x"], 0);
        assert_eq!(widths, [8, 8, 48, 48, 48, 48]);
        assert_eq!(row_axes(&signature, &[names(&["", ""])], |_| None), None);
    }
}
