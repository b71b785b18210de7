//! Numbers of floating tensors, whatever their width.

use crate::tensor::{DType, Tensor};

impl Tensor {
    /// Its elements, if it is of floats and its bytes are whole ones; those of 64 bits rounded.
    pub fn floats(&self) -> Option<Vec<f32>> {
        let bytes = &*self.data;
        let (size, read): (usize, fn(&[u8]) -> f32) = match self.dtype {
            DType::Fp32 => (4, |bytes| f32::from_le_bytes(whole(bytes))),
            DType::Fp16 => (2, |bytes| half(u16::from_le_bytes(whole(bytes)))),
            DType::Bf16 => (2, |bytes| brain(u16::from_le_bytes(whole(bytes)))),
            #[expect(clippy::cast_possible_truncation, reason = "rounding is what is asked for")]
            DType::Fp64 => (8, |bytes| f64::from_le_bytes(whole(bytes)) as f32),
            _ => return None,
        };
        bytes.len().is_multiple_of(size).then(|| bytes.chunks_exact(size).map(read).collect())
    }
}

fn whole<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a chunk of this size")
}

/// An IEEE 754 half, exactly.
pub fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f32::from(bits & 0x3ff));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

/// A bfloat16, exactly: the upper half of a float.
pub fn brain(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats(dtype: DType, bytes: Vec<u8>) -> Option<Vec<f32>> {
        Tensor { name: "y".into(), dtype, shape: vec![], data: bytes.into() }.floats()
    }

    #[test]
    fn floats_of_every_width_are_read_exactly() {
        let halves = [0x3c00u16, 0xc000, 0x0001, 0x7bff].map(u16::to_le_bytes).concat();
        assert_eq!(floats(DType::Fp16, halves).unwrap(), [1.0, -2.0, 5.9604645e-8, 65504.0]);
        let brains = [0x3f80u16, 0xc000].map(u16::to_le_bytes).concat();
        assert_eq!(floats(DType::Bf16, brains).unwrap(), [1.0, -2.0]);
        assert_eq!(floats(DType::Fp32, 0.1f32.to_le_bytes().to_vec()).unwrap(), [0.1]);
        assert_eq!(floats(DType::Fp64, 0.1f64.to_le_bytes().to_vec()).unwrap(), [0.1]);
        assert_eq!(floats(DType::Int32, vec![0; 4]), None);
        assert_eq!(floats(DType::Fp32, vec![0; 5]), None);
    }
}
