//! An answer to a request to embed, as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

/// What is answered.
#[derive(Serialize)]
pub(super) struct Embedded {
    object: &'static str,
    data: Vec<Item>,
    /// The model, as the app named it.
    model: String,
    usage: Usage,
    /// Ids of the receipts that the request's jobs left, or their proofs where the app asked for
    /// these; not there where the header says all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    receipts: Vec<String>,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Form,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

enum Form {
    Floats(Vec<f32>),
    Base64(Vec<f32>),
}

impl Serialize for Form {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // The shortest text that reads back to the same float.
            Self::Floats(values) => values.serialize(serializer),
            Self::Base64(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                serializer.serialize_str(&STANDARD.encode(bytes))
            }
        }
    }
}

impl Embedded {
    /// Embeddings in the order of their texts, which have so many tokens together.
    pub(super) fn new(
        model: String,
        embeddings: Vec<Vec<f32>>,
        is_base64: bool,
        tokens: usize,
        receipts: Vec<String>,
    ) -> Self {
        let form = if is_base64 { Form::Base64 } else { Form::Floats };
        let item = |(index, values)| Item { object: "embedding", index, embedding: form(values) };
        Self {
            object: "list",
            data: embeddings.into_iter().enumerate().map(item).collect(),
            model,
            usage: Usage { prompt_tokens: tokens, total_tokens: tokens },
            receipts,
        }
    }

    /// Its bytes.
    pub(super) fn render(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and text are JSON")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rendered(is_base64: bool, receipts: Vec<String>) -> Value {
        let embeddings = vec![vec![0.1, -2.0], vec![f32::MIN_POSITIVE, 1.0]];
        let embedded = Embedded::new("m".into(), embeddings, is_base64, 7, receipts);
        serde_json::from_slice(&embedded.render()).unwrap()
    }

    #[test]
    fn an_answer_is_what_openais_clients_read() {
        let floats = rendered(false, vec![]);
        assert_eq!(floats["object"], "list");
        assert_eq!(floats["usage"], json!({"prompt_tokens": 7, "total_tokens": 7}));
        assert_eq!(floats["data"][1]["index"], 1);
        assert_eq!(floats["data"][0]["embedding"], json!([0.1, -2.0]));
        assert_eq!(floats.get("receipts"), None);
        assert_eq!(rendered(false, vec!["r".into()])["receipts"], json!(["r"]));
    }

    #[test]
    fn base64_is_of_the_same_floats_to_the_bit() {
        let base64 = rendered(true, vec![]);
        let bytes = STANDARD.decode(base64["data"][1]["embedding"].as_str().unwrap()).unwrap();
        let values = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
        assert_eq!(values.collect::<Vec<_>>(), [f32::MIN_POSITIVE, 1.0]);
    }
}
