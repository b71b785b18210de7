//! Do these tensors fit that model? Answered from names, types, shapes and byte counts alone, with
//! checked arithmetic, before anything is allocated for them; then, once the bytes are there, from
//! the elements that could hurt ONNX Runtime. Says nothing of what the values mean.

use crate::limits::{RANK_MAX, REQUEST_BYTES_MAX, TENSOR_BYTES_MAX, TENSORS_MAX};
use crate::tensor::{DType, InputError, Signature, Tensor, TensorSpec};

/// What is known of an input before its bytes have come.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Name in the model's signature.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Dimensions.
    pub shape: &'a [u64],
    /// How many bytes its elements take.
    pub bytes: u64,
}

impl<'a> From<&'a Tensor> for Head<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        let Tensor { name, dtype, shape, data } = tensor;
        Self { name, dtype: *dtype, shape, bytes: data.len() as u64 }
    }
}

/// How large a request may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLimits {
    /// Of one input.
    pub tensor_bytes_max: u64,
    /// Of all inputs together.
    pub request_bytes_max: u64,
}

impl Default for InputLimits {
    fn default() -> Self {
        Self { tensor_bytes_max: TENSOR_BYTES_MAX, request_bytes_max: REQUEST_BYTES_MAX }
    }
}

impl Signature {
    /// Whether a request with these inputs that wants these outputs (none: all) fits the model.
    /// Needs no byte of the payload, so an entry asks before it receives any.
    pub fn check<'a>(
        &self,
        inputs: impl IntoIterator<Item = Head<'a>>,
        outputs: &[String],
        limits: &InputLimits,
    ) -> Result<(), InputError> {
        self.check_without(inputs, outputs, limits, |_| false)
    }

    /// The same of a request that need not have the inputs of which `may_miss` says so.
    pub fn check_without<'a>(
        &self,
        inputs: impl IntoIterator<Item = Head<'a>>,
        outputs: &[String],
        limits: &InputLimits,
        may_miss: impl Fn(&str) -> bool,
    ) -> Result<(), InputError> {
        let mut given = vec![false; self.inputs.len()];
        let mut total: u64 = 0;
        for head in inputs {
            let index = self.inputs.iter().position(|spec| spec.name == head.name);
            let Some(index) = index else {
                let (name, expected) = (head.name.to_owned(), names(&self.inputs));
                return Err(InputError::UnknownInput { name, expected });
            };
            if std::mem::replace(&mut given[index], true) {
                return Err(InputError::Twice(head.name.to_owned()));
            }
            check_head(&head, &self.inputs[index], limits.tensor_bytes_max)?;
            total = total.saturating_add(head.bytes);
        }
        let mut missing = self.inputs.iter().zip(given).filter(|(_, is_given)| !is_given);
        if let Some((missing, _)) = missing.find(|(spec, _)| !may_miss(&spec.name)) {
            return Err(InputError::Missing(missing.name.clone()));
        }
        if total > limits.request_bytes_max {
            let limit = limits.request_bytes_max;
            return Err(InputError::RequestTooLarge { bytes: total, limit });
        }
        if outputs.len() > TENSORS_MAX {
            return Err(InputError::TooMany { given: outputs.len(), limit: TENSORS_MAX });
        }
        let unknown = |name: &&String| self.outputs.iter().all(|spec| spec.name != **name);
        match outputs.iter().find(unknown) {
            None => Ok(()),
            Some(name) => Err(InputError::UnknownOutput {
                name: name.clone(),
                expected: names(&self.outputs),
            }),
        }
    }
}

fn names(specs: &[TensorSpec]) -> String {
    let quoted: Vec<String> = specs.iter().map(|spec| format!("`{}`", spec.name)).collect();
    quoted.join(", ")
}

fn check_head(head: &Head<'_>, spec: &TensorSpec, limit: u64) -> Result<(), InputError> {
    let name = || head.name.to_owned();
    if head.dtype != spec.datatype {
        let (given, expected) = (head.dtype, spec.datatype);
        return Err(InputError::WrongDType { name: name(), given, expected });
    }
    let fits = head.shape.len() == spec.shape.len()
        && head.shape.len() <= RANK_MAX
        && head.shape.iter().zip(&spec.shape).all(|(&given, &wanted)| {
            // A dimension is an i64 in ONNX; what does not fit one is no dimension.
            i64::try_from(given).is_ok_and(|given| wanted < 0 || given == wanted)
        });
    if !fits {
        let (given, expected) = (head.shape.to_vec(), spec.shape.clone());
        return Err(InputError::WrongShape { name: name(), given, expected });
    }
    // An element of BYTES takes at least its length. Zero dimensions are multiplied last in
    // effect: [0, 2^63] holds nothing, yet 2^63 elements of anything are not to be named.
    let size = head.dtype.size().unwrap_or(4) as u64;
    let spread = head.shape.iter().filter(|dim| **dim > 0);
    let ceiling = spread.fold(size, |bytes, dim| bytes.saturating_mul(*dim));
    if ceiling > limit || head.bytes > limit {
        let bytes = ceiling.max(head.bytes);
        return Err(InputError::TooLarge { name: name(), bytes, limit });
    }
    let expected = if head.shape.contains(&0) { 0 } else { ceiling };
    let right = match head.dtype.size() {
        Some(_) => head.bytes == expected,
        None => head.bytes >= expected && (expected > 0 || head.bytes == 0),
    };
    if !right {
        return Err(InputError::WrongBytes { name: name(), given: head.bytes, expected });
    }
    Ok(())
}

/// Whether the elements are ones that their type has: a BOOL is 0 or 1, BYTES add up and are each
/// whatever they are. So are numbers.
pub fn check_elements(tensor: &Tensor) -> Result<(), InputError> {
    let bad = |element: usize, problem: &'static str| InputError::BadElement {
        name: tensor.name.clone(),
        element: element as u64,
        problem,
    };
    match tensor.dtype {
        DType::Bool => match tensor.data.iter().position(|byte| *byte > 1) {
            Some(element) => Err(bad(element, "a BOOL is 0 or 1")),
            None => Ok(()),
        },
        DType::Bytes => {
            let mut count = 0;
            for (index, element) in elements(&tensor.data).enumerate() {
                element.ok_or_else(|| bad(index, "its length exceeds the input"))?;
                count += 1;
            }
            let wanted = tensor.shape.iter().product::<u64>();
            if count as u64 == wanted {
                Ok(())
            } else {
                Err(bad(count, "the number of elements is not what the shape makes"))
            }
        }
        _ => Ok(()),
    }
}

/// The elements of BYTES; `None` where one is cut off, after which there are no more.
pub(crate) fn elements(data: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = Some(data).filter(|data| !data.is_empty());
    std::iter::from_fn(move || {
        let data = rest.take()?;
        let element = data.split_first_chunk().and_then(|(length, tail)| {
            tail.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)
        });
        let Some((element, tail)) = element else { return Some(None) };
        rest = Some(tail).filter(|tail| !tail.is_empty());
        Some(Some(element))
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn spec(name: &str, datatype: DType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec() }
    }

    fn signature() -> Signature {
        Signature {
            inputs: vec![spec("x", DType::Fp32, &[-1, 4]), spec("t", DType::Bytes, &[-1])],
            outputs: vec![spec("y", DType::Fp32, &[-1])],
            ..Signature::default()
        }
    }

    fn x<'a>(shape: &'a [u64], bytes: u64) -> Head<'a> {
        Head { name: "x", dtype: DType::Fp32, shape, bytes }
    }

    const T: Head<'static> = Head { name: "t", dtype: DType::Bytes, shape: &[1], bytes: 6 };

    fn check(heads: &[Head<'_>], outputs: &[&str]) -> Result<(), InputError> {
        let outputs: Vec<String> = outputs.iter().map(|name| (*name).to_owned()).collect();
        signature().check(heads.iter().copied(), &outputs, &InputLimits::default())
    }

    #[test]
    fn what_fits_is_taken() {
        assert_eq!(check(&[x(&[2, 4], 32), T], &["y"]), Ok(()));
        assert_eq!(check(&[T, x(&[0, 4], 0)], &[]), Ok(()));
    }

    #[test]
    fn names_must_be_the_models() {
        let other = Head { name: "z", ..T };
        assert!(matches!(check(&[other], &[]), Err(InputError::UnknownInput { .. })));
        assert_eq!(check(&[T], &[]), Err(InputError::Missing("x".to_owned())));
        assert_eq!(check(&[T, T], &[]), Err(InputError::Twice("t".to_owned())));
        let unknown = check(&[x(&[1, 4], 16), T], &["q"]).unwrap_err();
        assert_eq!(unknown.to_string(), "the model has no output `q`; its outputs are `y`");
    }

    #[test]
    fn type_shape_and_byte_count_must_be_the_models() {
        let int = Head { dtype: DType::Int32, ..x(&[1, 4], 16) };
        assert!(matches!(check(&[int], &[]), Err(InputError::WrongDType { .. })));
        for shape in [&[1, 5][..], &[4], &[1, 1, 4], &[u64::MAX, 4]] {
            assert!(matches!(check(&[x(shape, 16)], &[]), Err(InputError::WrongShape { .. })));
        }
        for bytes in [0, 15, 17, 32] {
            let wrong = check(&[x(&[1, 4], bytes)], &[]);
            assert!(matches!(wrong, Err(InputError::WrongBytes { expected: 16, .. })));
        }
    }

    #[test]
    fn overflowing_shapes_are_too_large_even_beside_a_zero() {
        let huge = i64::MAX as u64;
        let spec = Signature {
            inputs: vec![spec("x", DType::Fp32, &[-1, -1, -1])],
            ..Signature::default()
        };
        for shape in [[huge, huge, huge], [huge, huge, 0], [1 << 28, 1, 1]] {
            let refused = spec.check([x(&shape, 0)], &[], &InputLimits::default());
            let limit = TENSOR_BYTES_MAX;
            if shape[0] == 1 << 28 {
                assert!(matches!(refused, Err(InputError::WrongBytes { .. })));
            } else {
                assert!(
                    matches!(refused, Err(InputError::TooLarge { limit: l, .. }) if l == limit)
                );
            }
        }
        let limits = InputLimits { tensor_bytes_max: 64, request_bytes_max: 20 };
        let refused = signature().check([x(&[1, 4], 16), T], &[], &limits);
        assert_eq!(refused, Err(InputError::RequestTooLarge { bytes: 22, limit: 20 }));
    }

    fn tensor(dtype: DType, shape: &[u64], data: &[u8]) -> Tensor {
        let data = Bytes::copy_from_slice(data);
        Tensor { name: "t".to_owned(), dtype, shape: shape.to_vec(), data }
    }

    #[test]
    fn bytes_must_add_up() {
        let two = b"\x02\0\0\0hi\0\0\0\0";
        assert_eq!(check_elements(&tensor(DType::Bytes, &[2], two)), Ok(()));
        assert_eq!(check_elements(&tensor(DType::Bytes, &[0], b"")), Ok(()));
        assert_eq!(check_elements(&tensor(DType::Bytes, &[1], b"\x02\0\0\0\xff\0")), Ok(()));
        for (shape, data) in [
            (1, &two[..]),
            (3, two),
            (1, b"\x03\0\0\0hi"),
            (1, b"\x03\0\0"),
            (1, b"\xff\xff\xff\xffhi"),
        ] {
            let refused = check_elements(&tensor(DType::Bytes, &[shape], data));
            assert!(matches!(refused, Err(InputError::BadElement { .. })), "{shape} {data:?}");
        }
    }

    #[test]
    fn a_bool_is_zero_or_one() {
        assert_eq!(check_elements(&tensor(DType::Bool, &[2], &[0, 1])), Ok(()));
        let refused = check_elements(&tensor(DType::Bool, &[2], &[1, 2]));
        assert!(matches!(refused, Err(InputError::BadElement { element: 1, .. })));
    }

    proptest! {
        #[test]
        fn elements_of_random_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = check_elements(&tensor(DType::Bytes, &[1], &data));
        }
    }
}
