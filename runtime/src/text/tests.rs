//! A small tokenizer like BERT's, with the padding and truncation to 4 that tools leave there.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::manifest::Entry;
use crate::rows::RowAxes;
use crate::tensor::{DType, Signature, Tensor, TensorSpec};

fn tokenizer() -> Value {
    json!({
        "version": "1.0",
        "truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 4}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 7, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [],
        "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}}},
        "decoder": null,
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": {
            "[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "one": 3, "two": 4, "three": 5, "a": 6, "[PAD]": 7}}
    })
}

fn text(files: &[(&str, Value)]) -> Arc<Text> {
    let files = files.iter().map(|(path, value)| ((*path).to_owned(), value.to_string().into()));
    let own = (TOKENIZER.to_owned(), tokenizer().to_string().into_bytes());
    Arc::new(Text::read(&files.chain([own]).collect()).unwrap())
}

fn spec(name: &str, datatype: DType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), datatype, shape: shape.to_vec() }
}

/// A model like BERT, whose rows can be run apart.
fn bert(outputs: &[TensorSpec]) -> Signature {
    let names = ["input_ids", "attention_mask", "token_type_ids"];
    let axes = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 0)).collect();
    let named: Vec<&str> = outputs.iter().map(|output| &*output.name).collect();
    Signature {
        inputs: names.map(|name| spec(name, DType::Int64, &[-1, -1])).into(),
        outputs: outputs.to_vec(),
        rows: Some(RowAxes { inputs: axes(&names), outputs: axes(&named) }),
        ..Signature::default()
    }
}

fn hidden() -> TensorSpec {
    spec("last_hidden_state", DType::Fp32, &[-1, -1, 2])
}

fn floats(name: &str, shape: &[u64], values: &[f32]) -> Tensor {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: name.into(), dtype: DType::Fp32, shape: shape.to_vec(), data }
}

#[test]
fn text_is_neither_padded_nor_cut_whatever_the_tokenizer_file_says() {
    let text = text(&[]);
    assert_eq!(text.tokens("one").unwrap(), [1, 3, 2]);
    assert_eq!(text.tokens("one two three one").unwrap(), [1, 3, 4, 5, 3, 2]);
    assert_eq!(text.tokens("nothing").unwrap(), [1, 0, 2]);
    assert_eq!(text.pad, 7);
}

#[test]
fn too_long_a_text_is_refused_with_its_tokens_and_the_limit() {
    let text = text(&[("config.json", json!({"max_position_embeddings": 5}))]);
    assert_eq!(text.tokens("one two three").unwrap().len(), 5);
    let long = text.tokens("one two three one").unwrap_err();
    assert_eq!(long, TextError::TooLong { tokens: 6, limit: 5 });
    assert_eq!(text.tokens("").unwrap_err(), TextError::Empty);
    let huge = text.tokens(&"a ".repeat(TEXT_BYTES_MAX)).unwrap_err();
    assert_eq!(huge, TextError::TooLarge { bytes: 2 * TEXT_BYTES_MAX });
}

#[test]
fn a_text_may_come_as_the_models_own_tokens_framed_or_not() {
    let text = text(&[("config.json", json!({"max_position_embeddings": 5}))]);
    assert_eq!(text.framed(vec![3, 4]).unwrap(), text.tokens("one two").unwrap());
    assert_eq!(text.framed(vec![1, 3, 4, 2]).unwrap(), text.tokens("one two").unwrap());
    assert_eq!(text.framed(vec![]).unwrap_err(), TextError::Empty);
    assert_eq!(text.framed(vec![3, 99]).unwrap_err(), TextError::UnknownToken(99));
    let long = text.framed(vec![3; 4]).unwrap_err();
    assert_eq!(long, TextError::TooLong { tokens: 6, limit: 5 });
}

#[test]
fn small_letters_are_made_where_the_bundle_wants_them() {
    assert_eq!(text(&[]).tokens("ONE").unwrap(), [1, 0, 2]);
    let lower = text(&[("sentence_bert_config.json", json!({"do_lower_case": true}))]);
    assert_eq!(lower.tokens("ONE").unwrap(), [1, 3, 2]);
}

#[test]
fn a_tokenizer_that_is_none_or_breaks_down_is_an_error_that_names_the_file() {
    let read = |json: &[u8]| Text::read(&[(TOKENIZER.to_owned(), json.to_vec())].into());
    for json in [&b"{}"[..], b"", b"[1]", b"\xff"] {
        let fault = read(json).unwrap_err().to_string();
        assert!(fault.contains(TOKENIZER), "{fault}");
    }
    assert_eq!(Text::read(&BTreeMap::new()).unwrap_err(), TextError::NoTokenizer);
    let broken = guarded::<()>(|| panic!("a stranger's table has no such entry")).unwrap_err();
    assert!(broken.contains("broke down"), "{broken}");
}

#[test]
fn only_files_about_text_are_taken_of_a_bundle_and_none_that_is_too_large() {
    let manifest = |files: &[(&str, u64)]| {
        let entry = |bytes| Entry { bytes, chunks: vec![] };
        let files = files.iter().map(|(path, bytes)| ((*path).to_owned(), entry(*bytes)));
        Manifest { files: files.collect() }
    };
    let all = [
        ("1_Pooling/config.json", 9),
        ("a/b/config.json", 9),
        ("config.json", 9),
        ("model.onnx", 1 << 40),
        ("modules.json", 9),
        (TOKENIZER, 9),
        ("tokenizer_config.json", 9),
        ("vocab.txt", 1 << 40),
    ];
    let found = Text::files(&manifest(&all)).unwrap();
    let names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
    let expected = [
        "1_Pooling/config.json",
        "config.json",
        "modules.json",
        TOKENIZER,
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(Text::files(&manifest(&[("model.onnx", 9)])), Err(TextError::NoTokenizer));
    for large in [(TOKENIZER, TOKENIZER_BYTES_MAX + 1), ("config.json", TEXT_CONFIG_BYTES_MAX + 1)]
    {
        let fault = Text::files(&manifest(&[(TOKENIZER, 1), large])).unwrap_err().to_string();
        assert!(fault.contains(large.0) && fault.contains("limit"), "{fault}");
    }
}

#[test]
fn a_batch_is_padded_to_its_longest_text_and_masked() {
    let embedder = Embedder::new(text(&[]), &bert(&[hidden()])).unwrap();
    let inputs = embedder.inputs(&[&[1, 3, 2], &[1, 3, 4, 2]]).unwrap();
    let numbers = |tensor: &Tensor| -> Vec<i64> {
        tensor.data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
    };
    assert!(inputs.iter().all(|input| input.shape == [2, 4] && input.dtype == DType::Int64));
    assert_eq!(numbers(&inputs[0]), [1, 3, 2, 7, 1, 3, 4, 2]);
    assert_eq!(numbers(&inputs[1]), [1, 1, 1, 0, 1, 1, 1, 1]);
    assert_eq!(numbers(&inputs[2]), [0; 8]);
}

#[test]
fn texts_of_about_equal_length_run_together_each_once_and_within_the_limit() {
    let embedder = Embedder::new(text(&[]), &bert(&[hidden()])).unwrap();
    let lengths: Vec<usize> = (0..2_048).map(|text| 3 + text * 7919 % 300).collect();
    let batches = embedder.batches(&lengths);
    let mut all: Vec<usize> = batches.concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..2_048));
    let mut padded = 0;
    for batch in &batches {
        let longest = batch.iter().map(|text| lengths[*text]).max().unwrap();
        assert!(batch.len() <= EMBED_BATCH_ROWS_MAX && batch.len() * longest <= EMBED_BATCH_TOKENS);
        padded += batch.len() * longest;
    }
    let tokens: usize = lengths.iter().sum();
    assert!(padded < tokens * 105 / 100, "{padded} for {tokens}");
    assert_eq!(embedder.batches(&[EMBED_BATCH_TOKENS * 2]), [[0]]);
    assert!(embedder.batches(&[]).is_empty());
}

#[test]
fn where_texts_would_change_each_others_embedding_each_runs_alone() {
    let mixed = Signature { rows: None, ..bert(&[hidden()]) };
    let embedder = Embedder::new(text(&[]), &mixed).unwrap();
    assert_eq!(embedder.batches(&[3, 3, 4]), [[2], [0], [1]]);
    // Without a mask nothing can be padded.
    let mut blind = bert(&[hidden()]);
    blind.inputs.truncate(1);
    let embedder = Embedder::new(text(&[]), &blind).unwrap();
    assert_eq!(embedder.batches(&[3, 4, 3]), [vec![1], vec![0, 2]]);
}

#[test]
fn a_model_of_fixed_sizes_gets_just_these() {
    let mut fixed = bert(&[hidden()]);
    fixed.inputs.iter_mut().for_each(|input| input.shape = vec![2, 4]);
    fixed.inputs[1].datatype = DType::Int32;
    let embedder = Embedder::new(text(&[]), &fixed).unwrap();
    assert_eq!(embedder.tokens_max(), 4);
    assert_eq!(embedder.batches(&[3; 5]), [vec![0, 1], vec![2, 3], vec![4]]);
    let inputs = embedder.inputs(&[&[1, 3, 2]]).unwrap();
    assert!(inputs.iter().all(|input| input.shape == [2, 4]));
    assert_eq!(inputs[1].data.len(), 8 * 4);
    let output = floats("last_hidden_state", &[2, 4, 2], &[1.0; 16]);
    assert_eq!(embedder.embeddings(&[3], &[output]).unwrap(), [[1.0, 1.0]]);
    let long = embedder.inputs(&[&[1, 3, 4, 5, 2]]).unwrap_err();
    assert_eq!(long, TextError::TooLong { tokens: 5, limit: 4 });
}

#[test]
fn what_is_padded_has_no_part_in_an_embedding() {
    let embedder = Embedder::new(text(&[]), &bert(&[hidden()])).unwrap();
    assert_eq!(embedder.output(), "last_hidden_state");
    let values = [1.0, 2.0, 3.0, 4.0, 99.0, 99.0, 1.0, 1.0, 1.0, 1.0, 4.0, 7.0];
    let output = floats("last_hidden_state", &[2, 3, 2], &values);
    let embeddings = embedder.embeddings(&[2, 3], &[output]).unwrap();
    assert_eq!(embeddings, [[2.0, 3.0], [2.0, 3.0]]);
}

#[test]
fn an_output_that_is_the_embedding_comes_before_one_that_is_pooled() {
    let modules = json!([{"path": "", "type": "a.Dense"}, {"path": "", "type": "a.Normalize"}]);
    let dense = text(&[("modules.json", modules)]);
    let pooled = Embedder::new(dense.clone(), &bert(&[hidden()])).unwrap_err();
    assert_eq!(pooled, TextError::Module("Dense".into()));
    let whole = spec("sentence_embedding", DType::Fp32, &[-1, 2]);
    let embedder = Embedder::new(dense, &bert(&[hidden(), whole])).unwrap();
    assert_eq!(embedder.output(), "sentence_embedding");
    let output = floats("sentence_embedding", &[1, 2], &[3.0, 4.0]);
    assert_eq!(embedder.embeddings(&[5], &[output]).unwrap(), [[0.6, 0.8]]);
}

#[test]
fn a_model_that_takes_or_gives_something_else_is_refused_with_what_is_missing() {
    let refused =
        |signature: &Signature| Embedder::new(text(&[]), signature).unwrap_err().to_string();
    let label = spec("target_label", DType::Fp32, &[-1, 214]);
    let fault = refused(&bert(&[label]));
    assert!(fault.contains("sentence_embedding") && fault.contains("target_label"), "{fault}");
    let mut odd = bert(&[hidden()]);
    odd.inputs.push(spec("bytes", DType::Int32, &[-1, 2048]));
    assert!(refused(&odd).contains("`bytes`"));
    odd.inputs = vec![spec("attention_mask", DType::Int64, &[-1, -1])];
    assert!(refused(&odd).contains("`input_ids` is missing"));
    odd.inputs = vec![spec("input_ids", DType::Fp32, &[-1, -1])];
    assert!(refused(&odd).contains("whole number"));
    odd.inputs = vec![spec("input_ids", DType::Int64, &[-1])];
    assert!(refused(&odd).contains("rank"));
}

#[test]
fn an_answer_that_does_not_fit_the_texts_is_its_senders_fault() {
    let embedder = Embedder::new(text(&[]), &bert(&[hidden()])).unwrap();
    let read = |output: Tensor| embedder.embeddings(&[2], &[output]).unwrap_err().to_string();
    assert!(read(floats("other", &[1, 2, 2], &[0.0; 4])).contains("missing"));
    assert!(read(floats("last_hidden_state", &[1, 3, 2], &[0.0; 6])).contains("shape"));
    assert!(read(floats("last_hidden_state", &[2, 2, 2], &[0.0; 8])).contains("shape"));
    assert!(read(floats("last_hidden_state", &[1, 2, 2], &[0.0; 3])).contains("size"));
    assert!(read(floats("last_hidden_state", &[1, 2, 0], &[])).contains("shape"));
    let endless = floats("last_hidden_state", &[1, 2, 2], &[0.0, f32::NAN, 0.0, 0.0]);
    assert!(read(endless).contains("NaN"));
}

#[test]
fn an_embedding_that_is_cut_is_one_long_again() {
    let mut embedding = vec![3.0, 4.0, 12.0];
    cut(&mut embedding, 2);
    assert_eq!(embedding, [0.6, 0.8]);
}

#[test]
fn dimensions_that_nobody_could_fill_are_refused_before_room_is_made() {
    for shape in [[1, 1 << 50], [1 << 30, 1 << 30]] {
        let mut huge = bert(&[hidden()]);
        huge.inputs.iter_mut().for_each(|input| input.shape = shape.into());
        let refused = Embedder::new(text(&[]), &huge).unwrap_err();
        assert!(refused.to_string().contains("too large"), "{refused}");
    }
}
