//! The demo's two tasks on real inputs: naming the type of a file's bytes (magika) and hearing
//! speech in a sound (silero-vad).

use bytes::Bytes;
use hansa_runtime::tensor::{DType, Tensor};

/// What magika's configuration says of its inputs (`standard_v3_3`).
const BLOCK: usize = 4096;
const ENDS: usize = 1024;
const PADDING: i32 = 256;

/// Something to ask a model about.
pub struct Sample {
    /// What it is, for people.
    pub what: String,
    /// The model to ask.
    pub model: &'static str,
    /// Its inputs.
    pub inputs: Vec<Tensor>,
}

/// Names of magika's labels, in the order of its output.
pub struct Labels(Vec<String>);

impl Labels {
    /// Reads them from the model's own configuration.
    pub fn read(config: &[u8]) -> anyhow::Result<Self> {
        #[derive(serde::Deserialize)]
        struct Config {
            target_labels_space: Vec<String>,
        }
        Ok(Self(serde_json::from_slice::<Config>(config)?.target_labels_space))
    }

    /// What the model's outputs say.
    pub fn top(&self, outputs: &[Tensor]) -> String {
        let Some(output) = outputs.first() else { return "nothing".into() };
        let scores = floats(&output.data);
        // Of a batch, the first row speaks for all: they are the same bytes.
        let row = scores.iter().take(self.0.len());
        match row.enumerate().max_by(|a, b| a.1.total_cmp(b.1)) {
            Some((index, score)) => format!("{} {:.0} %", self.0[index], score * 100.0),
            None => "nothing".into(),
        }
    }
}

/// Real files' bytes: this program itself, its sources, its manual, and what the models came with.
pub fn file_samples(extra: &[(&str, Vec<u8>)]) -> Vec<Sample> {
    let program = std::env::current_exe().and_then(std::fs::read).unwrap_or_default();
    let carried: [(&str, &[u8]); 4] = [
        ("src/demo/tasks.rs", include_bytes!("tasks.rs")),
        ("README.md", include_bytes!("../../../README.md")),
        ("Cargo.toml", include_bytes!("../../../Cargo.toml")),
        ("the hansa program", &program),
    ];
    let extra = extra.iter().map(|(name, bytes)| (*name, bytes.as_slice()));
    carried
        .into_iter()
        .chain(extra)
        .map(|(name, bytes)| Sample {
            what: name.to_owned(),
            model: "magika",
            inputs: vec![magika_input(bytes, 1)],
        })
        .collect()
}

/// magika's features of `bytes`, `rows` times: the first and the last kilobyte without the white
/// space around, padded inwards.
pub fn magika_input(bytes: &[u8], rows: usize) -> Tensor {
    let head = &bytes[..bytes.len().min(BLOCK)];
    let head = head.trim_ascii_start();
    let tail = &bytes[bytes.len().saturating_sub(BLOCK)..];
    let tail = tail.trim_ascii_end();
    let mut features = [PADDING; 2 * ENDS];
    for (feature, byte) in features[..ENDS].iter_mut().zip(head) {
        *feature = i32::from(*byte);
    }
    for (feature, byte) in features[ENDS..].iter_mut().rev().zip(tail.iter().rev()) {
        *feature = i32::from(*byte);
    }
    let row: Vec<u8> = features.iter().flat_map(|feature| feature.to_le_bytes()).collect();
    Tensor {
        name: "bytes".into(),
        dtype: DType::Int32,
        shape: vec![rows as u64, features.len() as u64],
        data: row.repeat(rows).into(),
    }
}

/// A window of 512 samples at 16 kHz for silero-vad: silence, or a vowel-like sound (a glottal
/// pulse train through two resonances).
pub fn sound_sample(voiced: bool) -> Sample {
    const SAMPLES: usize = 512;
    const RATE: f32 = 16_000.0;
    let mut window = [0f32; 64 + SAMPLES];
    if voiced {
        let mut memory = [[0f32; 2]; 2];
        for (index, sample) in window.iter_mut().enumerate() {
            let mut value = if index % 128 == 0 { 1.0 } else { 0.0 }; // a pitch of 125 Hz
            for ((formant, bandwidth), past) in
                [(730.0, 90.0), (1_090.0, 110.0)].into_iter().zip(&mut memory)
            {
                let radius = (-std::f32::consts::PI * bandwidth / RATE).exp();
                let turn = (2.0 * std::f32::consts::PI * formant / RATE).cos();
                let out = value + 2.0 * radius * turn * past[0] - radius * radius * past[1];
                *past = [out, past[0]];
                value = out;
            }
            *sample = value * 0.05;
        }
    }
    let tensor = |name: &str, dtype, shape: &[u64], data: Vec<u8>| Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        data: Bytes::from(data),
    };
    let bytes = window.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    Sample {
        what: if voiced { "a vowel" } else { "silence" }.to_owned(),
        model: "silero-vad",
        inputs: vec![
            tensor("input", DType::Fp32, &[1, window.len() as u64], bytes),
            tensor("state", DType::Fp32, &[2, 1, 128], vec![0; 2 * 128 * 4]),
            tensor("sr", DType::Int64, &[], 16_000i64.to_le_bytes().to_vec()),
        ],
    }
}

/// What silero-vad's outputs say.
pub fn speech(outputs: &[Tensor]) -> String {
    let output = outputs.iter().find(|output| output.name == "output");
    match output.and_then(|output| floats(&output.data).first().copied()) {
        Some(share) => format!("speech {:.0} %", share * 100.0),
        None => "nothing".into(),
    }
}

/// The elements of a float tensor.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    let word = |chunk: &[u8]| f32::from_le_bytes(chunk.try_into().expect("four bytes"));
    bytes.chunks_exact(4).map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_both_ends_padded_inwards() {
        let input = magika_input(b"  ab\n", 1);
        let features: Vec<i32> =
            input.data.chunks_exact(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
        assert_eq!(features.len(), 2048);
        assert_eq!(features[..4], [97, 98, 10, 256]);
        assert_eq!(features[2044..], [32, 32, 97, 98]);
    }
}
