//! One vector of a text's many, by the rules of sentence-transformers. Rows are padded at their end,
//! so a text's own tokens are the first of its row.

/// A way to make one vector of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// The first token's.
    Cls,
    /// The largest of each number.
    Max,
    /// The mean.
    Mean,
    /// The sum over the root of the number of tokens.
    MeanSqrt,
    /// The mean, where later tokens weigh more.
    Weighted,
    /// The last token's.
    Last,
}

impl Pool {
    /// Each with its name and the name that it had before; in the order in which several of the old
    /// names are put together.
    pub(super) const ALL: [(Self, &str, &str); 6] = [
        (Self::Cls, "cls", "pooling_mode_cls_token"),
        (Self::Max, "max", "pooling_mode_max_tokens"),
        (Self::Mean, "mean", "pooling_mode_mean_tokens"),
        (Self::MeanSqrt, "mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
        (Self::Weighted, "weightedmean", "pooling_mode_weightedmean_tokens"),
        (Self::Last, "lasttoken", "pooling_mode_lasttoken"),
    ];

    /// Puts one vector of `size` numbers behind `out`, made of a text's own vectors, one or more.
    pub(super) fn pool(self, vectors: &[f32], size: usize, out: &mut Vec<f32>) {
        let tokens = vectors.chunks_exact(size);
        let count = tokens.len();
        match self {
            Self::Cls => out.extend_from_slice(&vectors[..size]),
            Self::Last => out.extend_from_slice(&vectors[(count - 1) * size..]),
            Self::Max => {
                let mut most = vec![f32::NEG_INFINITY; size];
                for token in tokens {
                    most.iter_mut().zip(token).for_each(|(most, value)| *most = most.max(*value));
                }
                out.extend(most);
            }
            Self::Mean | Self::MeanSqrt | Self::Weighted => {
                let mut sum = vec![0f32; size];
                let mut weights = 0f32;
                for (index, token) in tokens.enumerate() {
                    let weight = if self == Self::Weighted { (index + 1) as f32 } else { 1.0 };
                    weights += weight;
                    sum.iter_mut().zip(token).for_each(|(sum, value)| *sum += value * weight);
                }
                let divisor = if self == Self::MeanSqrt { weights.sqrt() } else { weights };
                out.extend(sum.iter().map(|sum| sum / divisor));
            }
        }
    }
}

/// Makes a vector one long; one without a length stays as it is.
pub(super) fn normalize(vector: &mut [f32]) {
    let square: f32 = vector.iter().map(|value| value * value).sum();
    let length = square.sqrt().max(1e-12);
    vector.iter_mut().for_each(|value| *value /= length);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(pool: Pool) -> Vec<f32> {
        let mut out = Vec::new();
        pool.pool(&[1.0, -2.0, 3.0, 4.0, 5.0, -6.0, 7.0, 0.0], 2, &mut out);
        out
    }

    #[test]
    fn every_way_to_pool_gives_what_sentence_transformers_gives() {
        assert_eq!(pool(Pool::Cls), [1.0, -2.0]);
        assert_eq!(pool(Pool::Last), [7.0, 0.0]);
        assert_eq!(pool(Pool::Max), [7.0, 4.0]);
        assert_eq!(pool(Pool::Mean), [4.0, -1.0]);
        assert_eq!(pool(Pool::MeanSqrt), [8.0, -2.0]);
        assert_eq!(pool(Pool::Weighted), [5.0, -1.2]);
    }

    #[test]
    fn a_vector_becomes_one_long_and_an_empty_one_stays() {
        let mut vector = [3.0, 4.0];
        normalize(&mut vector);
        assert_eq!(vector, [0.6, 0.8]);
        let mut nothing = [0.0, 0.0];
        normalize(&mut nothing);
        assert_eq!(nothing, [0.0, 0.0]);
    }
}
