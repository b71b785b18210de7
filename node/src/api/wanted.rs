//! In which form an app wants an output, whatever its protocol: as the model gives it, as its best
//! classes, or in shared memory.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use hansa_runtime::labels::Labels;
use hansa_runtime::tensor::{DType, Signature, Tensor};
use serde_json::Value;

use super::regions::{Place, Regions};
use super::v2::ApiError;
use crate::limits::CLASSES_BYTES_MAX;

/// An output that the app wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Whether as bytes; absent for the request's default. Over gRPC all are.
    pub binary: Option<bool>,
    /// Only so many of its largest values, as `VALUE:INDEX` or, where these have names,
    /// `VALUE:INDEX:LABEL` (the classification extension).
    pub classes: Option<usize>,
    /// Where the app finds it, instead of in the answer.
    pub place: Option<Place>,
}

impl Wanted {
    /// An output with these parameters.
    ///
    /// # Errors
    /// They are not understood.
    pub fn read(name: String, mut parameters: BTreeMap<String, Value>) -> Result<Self, ApiError> {
        let fault = |reason: String| ApiError::malformed(format!("output `{name}`: {reason}"));
        let binary = match parameters.remove("binary_data") {
            None => None,
            Some(Value::Bool(binary)) => Some(binary),
            Some(other) => {
                return Err(fault(format!("binary_data is {other}, not true or false")));
            }
        };
        let classes = match parameters.remove("classification") {
            None => None,
            Some(value) => match value.as_u64().and_then(|count| usize::try_from(count).ok()) {
                Some(0) => None, // Clients say so where they want none.
                Some(count) => Some(count),
                None => {
                    return Err(fault(format!(
                        "classification is {value}, not a number of classes"
                    )));
                }
            },
        };
        let place = Place::take(&mut parameters).map_err(fault)?;
        if classes.is_some() && place.is_some() {
            return Err(fault("classes go into the answer, not into shared memory".into()));
        }
        if let Some(unknown) = parameters.keys().next() {
            return Err(ApiError::unsupported(format!(
                "output `{name}`: parameter `{unknown}` is not supported; binary_data, \
                 classification and shared_memory_region, _offset and _byte_size are"
            )));
        }
        Ok(Self { name, binary, classes, place })
    }

    /// Whether the output is named once and can have the form that is wanted: before anything runs.
    ///
    /// # Errors
    /// It cannot.
    pub fn check(
        wanted: &[Self],
        signature: &Signature,
        regions: &Regions,
    ) -> Result<(), ApiError> {
        for (index, output) in wanted.iter().enumerate() {
            let name = &output.name;
            if wanted[..index].iter().any(|earlier| earlier.name == *name) {
                return Err(ApiError::malformed(format!("output `{name}` is wanted twice")));
            }
            if let Some(place) = &output.place {
                regions.check(place)?;
            }
            let spec = signature.outputs.iter().find(|spec| spec.name == *name);
            if output.classes.is_some() && spec.is_some_and(|spec| !has_order(spec.datatype)) {
                let message = format!("output `{name}` has no values that could be the largest");
                return Err(ApiError::unsupported(message));
            }
        }
        Ok(())
    }

    /// Whether each of several answers can have the form that is wanted.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_each(wanted: &[Self]) -> Result<(), ApiError> {
        match wanted.iter().find(|output| output.place.is_some()) {
            None => Ok(()),
            Some(Self { name, .. }) => Err(ApiError::unsupported(format!(
                "output `{name}`: the model answers step by step, and each step would write over the \
                 one before in shared memory; take the output in the answers"
            ))),
        }
    }

    /// How many bytes [`Self::form`] reads or moves.
    pub fn bytes(wanted: &[Self], outputs: &[Tensor]) -> usize {
        let is_formed = |output: &&Tensor| {
            let wanted = wanted.iter().find(|wanted| wanted.name == output.name);
            wanted.is_some_and(|wanted| wanted.place.is_some() || wanted.classes.is_some())
        };
        outputs.iter().filter(is_formed).map(|output| output.data.len()).sum()
    }

    /// Gives each output the form that is wanted of it; one that is in shared memory then has no
    /// bytes of its own.
    ///
    /// # Errors
    /// It does not go there, or its classes come to too much.
    pub fn form(
        wanted: &[Self],
        outputs: Vec<Tensor>,
        signature: &Signature,
        labels: &Labels,
        regions: &Regions,
    ) -> Result<Vec<Tensor>, ApiError> {
        let form = |output: Tensor| {
            let Some(wanted) = wanted.iter().find(|wanted| wanted.name == output.name) else {
                return Ok(output);
            };
            match (&wanted.place, wanted.classes) {
                (Some(place), _) => {
                    regions.write(place, &output.data)?;
                    Ok(output)
                }
                (None, Some(count)) => {
                    let axes = signature.rows.as_ref().map(|rows| &rows.outputs);
                    let by_rows = axes.and_then(|axes| axes.get(&output.name)) == Some(&0);
                    classes(&output, count, by_rows, labels)
                }
                (None, None) => Ok(output),
            }
        };
        outputs.into_iter().map(form).collect()
    }
}

fn has_order(dtype: DType) -> bool {
    !matches!(dtype, DType::Bytes | DType::Bool | DType::Fp16 | DType::Bf16)
}

/// The `count` largest values of a tensor, or of each of its rows, largest first, each as text
/// `VALUE:INDEX`, with its label behind it if it has one: a tensor of BYTES with the shape `[count]`
/// or `[rows, count]`.
fn classes(
    tensor: &Tensor,
    count: usize,
    by_rows: bool,
    labels: &Labels,
) -> Result<Tensor, ApiError> {
    let values = values(tensor);
    let rows = if by_rows { tensor.shape.first().copied().unwrap_or(1) } else { 1 };
    let length = values.len() / usize::try_from(rows).unwrap_or(usize::MAX).max(1);
    let count = count.min(length);
    let mut data = BytesMut::new();
    for row in values.chunks_exact(length.max(1)) {
        let mut order: Vec<usize> = (0..row.len()).collect();
        // Of equal ones the first, as everywhere.
        order.sort_by(|a, b| row[*b].total_cmp(&row[*a]).then(a.cmp(b)));
        for index in order.into_iter().take(count) {
            let mut text = format!("{:.6}:{index}", row[index]);
            if let Some(label) = labels.label(&tensor.name, index) {
                text.extend([":", label]);
            }
            data.put_u32_le(u32::try_from(text.len()).expect("labels are bounded"));
            data.put_slice(text.as_bytes());
            if data.len() > CLASSES_BYTES_MAX {
                return Err(ApiError::unsupported(format!(
                    "the classes of `{}` come to more than {CLASSES_BYTES_MAX} bytes; ask for fewer, or \
                     for the output as it is",
                    tensor.name
                )));
            }
        }
    }
    let shape = if by_rows { vec![rows, count as u64] } else { vec![count as u64] };
    Ok(Tensor { name: tensor.name.clone(), dtype: DType::Bytes, shape, data: data.freeze() })
}

/// Elements as numbers that can be compared.
fn values(tensor: &Tensor) -> Vec<f64> {
    fn read<const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> f64) -> Vec<f64> {
        data.as_chunks::<N>().0.iter().map(|chunk| number(*chunk)).collect()
    }
    let data = &tensor.data[..];
    match tensor.dtype {
        DType::Int8 => read(data, |b| i8::from_le_bytes(b).into()),
        DType::Int16 => read(data, |b| i16::from_le_bytes(b).into()),
        DType::Int32 => read(data, |b| i32::from_le_bytes(b).into()),
        DType::Int64 => read(data, |b| i64::from_le_bytes(b) as f64),
        DType::Uint8 => read(data, |b| u8::from_le_bytes(b).into()),
        DType::Uint16 => read(data, |b| u16::from_le_bytes(b).into()),
        DType::Uint32 => read(data, |b| u32::from_le_bytes(b).into()),
        DType::Uint64 => read(data, |b| u64::from_le_bytes(b) as f64),
        DType::Fp32 => read(data, |b| f32::from_le_bytes(b).into()),
        DType::Fp64 => read(data, f64::from_le_bytes),
        DType::Bool | DType::Bytes | DType::Fp16 | DType::Bf16 => Vec::new(), // Refused before.
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hansa_runtime::tensor::TensorSpec;
    use serde_json::json;

    use super::*;

    fn tensor(shape: &[u64], values: &[f32]) -> Tensor {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Bytes>();
        Tensor { name: "y".into(), dtype: DType::Fp32, shape: shape.into(), data }
    }

    fn texts(tensor: &Tensor) -> Vec<String> {
        let (mut rest, mut texts) = (&tensor.data[..], Vec::new());
        while let Some((length, tail)) = rest.split_first_chunk() {
            let (text, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
            texts.push(String::from_utf8(text.to_vec()).unwrap());
            rest = tail;
        }
        texts
    }

    #[test]
    fn the_largest_of_each_row_come_first_and_the_earlier_of_equals() {
        let given = tensor(&[2, 3], &[0.5, 2.0, 0.5, -1.0, -3.0, f32::NEG_INFINITY]);
        let none = Labels::default();
        let best = classes(&given, 2, true, &none).unwrap();
        assert_eq!((best.dtype, &best.shape[..]), (DType::Bytes, &[2, 2][..]));
        assert_eq!(texts(&best), ["2.000000:1", "0.500000:0", "-1.000000:0", "-3.000000:1"]);
        let whole = classes(&given, 9, false, &none).unwrap();
        assert_eq!(whole.shape, [6]);
        assert_eq!(texts(&whole)[5], "-inf:5");
        assert_eq!(classes(&tensor(&[0, 3], &[]), 2, true, &none).unwrap().shape, [0, 0]);
    }

    #[test]
    fn a_class_that_has_a_name_is_called_by_it() {
        let given = tensor(&[2, 3], &[0.5, 2.0, 0.25, -1.0, -3.0, 4.0]);
        let labels = |file: &str| {
            Labels::read(&[(file.to_owned(), b"cat\ndog: small\n".to_vec())].into()).unwrap()
        };
        let named = classes(&given, 2, true, &labels("labels/y.txt")).unwrap();
        let expected = ["2.000000:1:dog: small", "0.500000:0:cat", "4.000000:2", "-1.000000:0:cat"];
        assert_eq!(texts(&named), expected);
        let other = classes(&given, 1, false, &labels("labels/z.txt")).unwrap();
        assert_eq!(texts(&other), ["4.000000:5"]);
        // Many rows with long names.
        let long = [("labels/y.txt".to_owned(), vec![b'x'; 256])].into();
        let rows = CLASSES_BYTES_MAX / 256;
        let many = tensor(&[rows as u64, 1], &vec![1.0; rows]);
        let refused = classes(&many, 1, true, &Labels::read(&long).unwrap()).unwrap_err();
        assert!(refused.to_string().contains("ask for fewer"), "{refused}");
    }

    #[test]
    fn parameters_are_understood_or_refused() {
        let read = |parameters: Value| {
            Wanted::read("y".into(), serde_json::from_value(parameters).unwrap())
        };
        let plain = Wanted { name: "y".into(), ..Wanted::default() };
        assert_eq!(read(json!({})).unwrap(), plain);
        assert_eq!(read(json!({ "classification": 0 })).unwrap(), plain);
        assert_eq!(read(json!({ "classification": 3 })).unwrap().classes, Some(3));
        let placed = json!({ "shared_memory_region": "r", "shared_memory_byte_size": 4 });
        assert_eq!(read(placed).unwrap().place.unwrap().byte_size, 4);
        for bad in [
            json!({ "classification": "3" }),
            json!({ "classification": -1 }),
            json!({ "binary_data": 1 }),
            json!({ "labels": true }),
            json!({ "shared_memory_region": "r" }),
            json!({ "classification": 1, "shared_memory_region": "r", "shared_memory_byte_size": 4 }),
        ] {
            assert_eq!(read(bad.clone()).unwrap_err().status(), 400, "{bad}");
        }
    }

    #[test]
    fn classes_are_refused_of_what_has_no_order() {
        let of = |datatype| Signature {
            outputs: vec![TensorSpec { name: "y".into(), datatype, shape: vec![-1] }],
            ..Signature::default()
        };
        let wanted = [Wanted { name: "y".into(), classes: Some(1), ..Wanted::default() }];
        let regions = Regions::default();
        let check = |wanted: &[Wanted], dtype| Wanted::check(wanted, &of(dtype), &regions);
        check(&wanted, DType::Fp32).unwrap();
        check(&wanted, DType::Bytes).unwrap_err();
        let twice = [wanted[0].clone(), wanted[0].clone()];
        assert!(check(&twice, DType::Fp32).unwrap_err().to_string().contains("twice"));
        let place = Some(Place { region: "r".into(), offset: 0, byte_size: 4 });
        let placed = [Wanted { name: "y".into(), place, ..Wanted::default() }];
        assert!(check(&placed, DType::Fp32).unwrap_err().to_string().contains("register it first"));
    }
}
