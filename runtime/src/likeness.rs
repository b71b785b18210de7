//! Whether two results of a model are the same but for rounding, whatever their type.

use crate::tensor::{DType, Tensor};

/// Whether two results are the same but for rounding: floats within 1e-4 of each other's size or
/// 1e-5, all else exactly. What is no number shows nothing.
pub(crate) fn nearly_equal(a: &Tensor, b: &Tensor) -> bool {
    let near = |a: f64, b: f64| a == b || (a - b).abs() <= 1e-5 + 1e-4 * b.abs();
    let same = |a: Vec<f64>, b: Vec<f64>| {
        a.len() == b.len() && a.into_iter().zip(b).all(|(a, b)| near(a, b))
    };
    if (&a.name, a.dtype, &a.shape) != (&b.name, b.dtype, &b.shape) {
        return false;
    }
    match floats(a).zip(floats(b)) {
        Some((a, b)) => same(a, b),
        None => a.data == b.data,
    }
}

/// The elements as numbers, if they are floats.
fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    let data = &tensor.data[..];
    Some(match tensor.dtype {
        DType::Fp32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
        DType::Fp64 => data.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
        DType::Bf16 => data
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16).into())
            .collect(),
        DType::Fp16 => data.as_chunks().0.iter().map(|b| half(u16::from_le_bytes(*b))).collect(),
        _ => return None,
    })
}

/// An IEEE 754 half.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1_023));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1_024.0) * 2f64.powi(exponent - 15),
    };
    sign * magnitude
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_read_as_ieee_754_says() {
        let cases =
            [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 2f64.powi(-24)), (0x3555, 0.333_251_953_125)];
        cases.into_iter().for_each(|(bits, value)| assert_eq!(half(bits), value));
        assert!(half(0x7e00).is_nan() && half(0xfc00) == f64::NEG_INFINITY);
    }

    #[test]
    fn rounding_is_forgiven_and_nothing_else() {
        let of = |values: [f32; 2]| {
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            Tensor { name: "y".into(), dtype: DType::Fp32, shape: vec![2], data: data.into() }
        };
        let one = of([1_000.0, 0.0]);
        assert!(nearly_equal(&one, &of([1_000.09, 0.000_009])));
        for other in [of([1_000.2, 0.0]), of([1_000.0, 0.000_02]), of([1_000.0, f32::NAN])] {
            assert!(!nearly_equal(&one, &other) && !nearly_equal(&other, &one));
        }
        let nan = of([f32::NAN, 0.0]);
        assert!(!nearly_equal(&nan, &nan.clone()), "what is no number shows nothing");
        assert!(!nearly_equal(&one, &Tensor { shape: vec![2, 1], ..one.clone() }));
        let number = |tensor: Tensor| Tensor { dtype: DType::Int32, ..tensor };
        let next = Tensor { data: of([1_000.000_06, 0.0]).data, ..one.clone() };
        assert!(nearly_equal(&one, &next) && !nearly_equal(&number(one.clone()), &number(next)));
    }
}
