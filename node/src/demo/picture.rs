//! The demo's third task: reading the words of a picture. A picture of words is drawn here, and the
//! text recognizer's answer put into letters.

use bytes::Bytes;
use hansa_runtime::tensor::{DType, Tensor};

use super::tasks::{Sample, floats};

/// The model that reads, in the demo's mesh.
pub const READER: &str = "reader";
/// Its picture is so many pixels high…
const HEIGHT: usize = 48;
/// …and a letter's dot so many wide and high.
const DOT: usize = 5;
const LETTER: (usize, usize) = (5, 7);
/// Dots from one letter to the next.
const PITCH: usize = LETTER.0 + 1;
/// Empty dots at both ends.
const MARGIN: usize = 2;
/// What light and dark are to the model.
const LIGHT: f32 = 1.0;
const DARK: f32 = -1.0;

/// Rows of the letters that the demo writes, a bit a dot.
fn rows(letter: char) -> [u8; LETTER.1] {
    match letter {
        'O' => [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
        'P' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000],
        'E' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111],
        'N' => [0b10001, 0b11001, 0b10101, 0b10011, 0b10001, 0b10001, 0b10001],
        'R' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001],
        'T' => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100],
        'S' => [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110],
        _ => [0; LETTER.1],
    }
}

/// A picture of `words`.
pub fn picture(words: &str) -> Sample {
    let width = (words.chars().count() * PITCH - 1 + 2 * MARGIN) * DOT;
    let mut pixels = vec![LIGHT; HEIGHT * width];
    let top = (HEIGHT - LETTER.1 * DOT) / 2;
    for (place, letter) in words.chars().enumerate() {
        for (row, bits) in rows(letter).into_iter().enumerate() {
            let dark = (0..LETTER.0).filter(|column| bits >> (LETTER.0 - 1 - column) & 1 == 1);
            for column in dark {
                let left = (MARGIN + place * PITCH + column) * DOT;
                for y in top + row * DOT..top + (row + 1) * DOT {
                    pixels[y * width + left..][..DOT].fill(DARK);
                }
            }
        }
    }
    let plane: Vec<u8> = pixels.iter().flat_map(|pixel| pixel.to_le_bytes()).collect();
    let shape = vec![1, 3, HEIGHT as u64, width as u64];
    let data = Bytes::from(plane.repeat(3));
    Sample {
        what: "a picture".to_owned(),
        model: READER,
        inputs: vec![Tensor { name: "x".into(), dtype: DType::Fp32, shape, data }],
    }
}

/// The letters that the reader knows, in the order of its output after the blank.
pub struct Letters(Vec<String>);

impl Letters {
    /// As the model's own metadata lists them; the space comes last.
    pub fn read(listed: &str) -> Self {
        Self(listed.lines().chain([" "]).map(str::to_owned).collect())
    }

    /// What the reader read: of each step the likeliest letter, repetitions and blanks left out
    /// (connectionist temporal classification, read greedily).
    pub fn text(&self, outputs: &[Tensor]) -> String {
        let Some(output) = outputs.first() else { return "nothing".into() };
        let scores = floats(&output.data);
        let mut text = String::new();
        let mut last = 0;
        for step in scores.chunks(self.0.len() + 1) {
            let likeliest = step.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
            let index = likeliest.map_or(0, |(index, _)| index);
            if index != last && index > 0 {
                text += &self.0[index - 1];
            }
            last = index;
        }
        format!("“{text}”")
    }
}
