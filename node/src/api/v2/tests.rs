//! Requests and answers as clients send and read them, and random ones.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use bytes::Bytes;
use hansa_core::id::Digest;
use hansa_runtime::tensor::{DType, Tensor, TensorSpec};
use proptest::prelude::*;

use super::*;
use crate::api::regions::Regions;
use crate::api::wanted::Wanted;

const HEAD: Head<'_> = Head { model: "m", version: "1", id: None, receipt: None };

const DTYPES: [DType; 14] = [
    DType::Bool,
    DType::Int8,
    DType::Int16,
    DType::Int32,
    DType::Int64,
    DType::Uint8,
    DType::Uint16,
    DType::Uint32,
    DType::Uint64,
    DType::Fp16,
    DType::Bf16,
    DType::Fp32,
    DType::Fp64,
    DType::Bytes,
];

fn parse_bytes(json_length: Option<usize>, body: Bytes) -> Result<InferRequest, ApiError> {
    parse_infer(json_length, body, &Regions::default())
}

fn parse(json: &str) -> Result<InferRequest, ApiError> {
    parse_bytes(None, Bytes::copy_from_slice(json.as_bytes()))
}

/// A request with one JSON input.
fn one(datatype: &str, shape: &str, data: &str) -> Result<Tensor, ApiError> {
    let json = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},"data":{data}}}]}}"#
    );
    parse(&json).map(|mut request| request.inputs.remove(0))
}

/// A request with one binary input.
fn binary(datatype: &str, shape: &str, size: &str, data: &[u8]) -> Result<Tensor, ApiError> {
    let json = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":{shape},
        "parameters":{{"binary_data_size":{size}}}}}]}}"#
    );
    let body = [json.as_bytes(), data].concat();
    parse_bytes(Some(json.len()), body.into()).map(|mut request| request.inputs.remove(0))
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, ApiError>, word: &str) {
    let error = outcome.expect_err("must be refused");
    assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{error}");
    assert!(error.to_string().contains(word), "{error}");
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    let chunks = tensor.data.chunks_exact(4);
    chunks.map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap())).collect()
}

#[test]
fn json_data_is_taken_flat_or_nested_as_its_shape() {
    for data in ["[1,2,3,4,5,6]", "[[1,2,3],[4,5,6]]", " [ [1, 2.0,3e0] ,\n[4,5,6.0] ] "] {
        let tensor = one("FP32", "[2,3]", data).unwrap();
        assert_eq!(floats(&tensor), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{data}");
        assert_eq!(tensor.shape, [2, 3]);
    }
    assert_eq!(one("FP32", "[]", "[7]").unwrap().data.len(), 4);
    assert_eq!(one("FP32", "[2,0]", "[]").unwrap().data.len(), 0);
    assert_eq!(one("FP32", "[2,0]", "[[],[]]").unwrap().data.len(), 0);
    assert_eq!(one("FP32", "[1,1,2]", "[[[1,2]]]").unwrap().data.len(), 8);
}

#[test]
fn data_that_is_not_what_the_shape_makes_is_refused() {
    for data in ["[1]", "[]", "[1,2,3,4,5]", "[[1,2],[3,4,5,6]]"] {
        assert!(one("INT32", "[2,3]", data).is_err(), "{data}");
    }
    for data in ["[[1,2],[3,4],[5,6]]", "[[1,2,3,4,5,6]]", "[[[1,2,3]],[[4,5,6]]]"] {
        refused(one("INT32", "[2,3]", data), "nested");
    }
    for data in ["[1,2,3,[4,5,6]]", "[[1,2,3],4,5,6]", "[[1,2,3],[[4,5,6]]]"] {
        refused(one("INT32", "[2,3]", data), "nested");
    }
    refused(one("INT32", "[1]", "5"), "array");
    refused(one("INT32", "[1]", "\"[1]\""), "array");
    refused(one("INT32", "[1]", "[{\"a\":1}]"), "objects");
    refused(one("INT32", "[1]", "[null]"), "null");
    assert!(one("INT32", "[1,1]", &format!("{}1{}", "[".repeat(99), "]".repeat(99))).is_err());
}

#[test]
fn integers_are_whole_and_in_range() {
    let whole = one("INT8", "[4]", "[-128, 127.0, 1e2, -0.0]").unwrap();
    assert_eq!(&whole.data[..], [0x80, 127, 100, 0]);
    let most = one("UINT64", "[1]", "[18446744073709551615]").unwrap();
    assert_eq!(&most.data[..], u64::MAX.to_le_bytes());
    let least = one("INT64", "[1]", "[-9223372036854775808]").unwrap();
    assert_eq!(&least.data[..], i64::MIN.to_le_bytes());
    for (datatype, data) in [
        ("INT8", "[128]"),
        ("INT8", "[-129]"),
        ("UINT8", "[-1]"),
        ("UINT8", "[-1.0]"),
        ("INT32", "[3e9]"),
        ("INT64", "[9223372036854775808]"),
        ("INT64", "[1e18]"),
        ("UINT64", "[18446744073709551616]"),
        ("FP32", "[1e39]"),
        ("FP64", "[1e400]"),
    ] {
        refused(one(datatype, "[1]", data), "range");
    }
    refused(one("INT32", "[2]", "[1,1.5]"), "element 1");
    refused(one("INT32", "[1]", "[1.5]"), "whole");
    refused(one("INT32", "[1]", "[true]"), "not a number");
    refused(one("FP32", "[1]", "[\"1\"]"), "not a number");
    refused(one("BOOL", "[1]", "[1]"), "true or false");
    assert_eq!(&one("BOOL", "[2]", "[true,false]").unwrap().data[..], [1, 0]);
}

#[test]
fn strings_are_bytes_with_their_length() {
    let tensor = one("BYTES", "[3]", r#"["hi","","a\"],\u00e9"]"#).unwrap();
    assert_eq!(&tensor.data[..], b"\x02\0\0\0hi\0\0\0\0\x06\0\0\0a\"],\xc3\xa9");
    refused(one("BYTES", "[1]", "[1]"), "not a string");
    refused(one("BYTES", "[1]", r#"["\ud800"]"#), "not a string");
}

#[test]
fn not_a_number_in_json_is_refused_with_the_way_out() {
    for data in ["[NaN]", "[1.0,NaN]", "[Infinity]", "[1, -Infinity ]", "\n[\n\nNaN]"] {
        refused(one("FP32", "[1]", data), "binary tensor extension");
    }
    let misspelt = one("FP32", "[1]", "[nothing]").unwrap_err();
    assert!(!misspelt.to_string().contains("NaN"), "{misspelt}");
}

#[test]
fn half_floats_in_json_are_refused() {
    refused(one("FP16", "[1]", "[1]"), "binary tensor extension");
    refused(one("BF16", "[1]", "[1]"), "binary tensor extension");
    assert_eq!(binary("FP16", "[1]", "2", &[0, 60]).unwrap().dtype, DType::Fp16);
}

#[test]
fn binary_inputs_are_slices_of_the_body_in_order() {
    let json = r#"{"inputs":[
        {"name":"a","datatype":"INT16","shape":[2],"parameters":{"binary_data_size":4}},
        {"name":"j","datatype":"UINT8","shape":[1],"data":[9]},
        {"name":"b","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":10}}]}"#;
    let body = Bytes::from([json.as_bytes(), b"\x01\0\x02\0", b"\x02\0\0\0hi\0\0\0\0"].concat());
    let request = parse_bytes(Some(json.len()), body.clone()).unwrap();
    let data: Vec<&[u8]> = request.inputs.iter().map(|input| &input.data[..]).collect();
    assert_eq!(data, [&b"\x01\0\x02\0"[..], &[9], b"\x02\0\0\0hi\0\0\0\0"]);
    assert_eq!(request.inputs[0].data.as_ptr(), body[json.len()..].as_ptr(), "nothing is copied");
}

#[test]
fn binary_sizes_must_match_exactly() {
    refused(binary("FP32", "[2]", "4", &[0; 4]), "makes 8");
    refused(binary("FP32", "[1]", "8", &[0; 4]), "4 bytes left");
    refused(binary("FP32", "[1]", "4", &[0; 5]), "1 bytes follow");
    refused(binary("FP32", "[1]", "-4", &[0; 4]), "not a number of bytes");
    refused(binary("FP32", "[1]", "\"4\"", &[0; 4]), "not a number of bytes");
    refused(binary("FP32", "[1]", "18446744073709551615", &[0; 4]), "left");
    refused(binary("BYTES", "[2]", "6", b"\x02\0\0\0hi"), "1 elements");
    refused(binary("BYTES", "[1]", "6", b"\x03\0\0\0hi"), "cut off");
    refused(binary("BYTES", "[1]", "6", b"\xff\xff\xff\xffhi"), "cut off");
    let json = r#"{"inputs":[{"name":"x","datatype":"UINT8","shape":[1],"#;
    let both = format!(r#"{json}"data":[1],"parameters":{{"binary_data_size":1}}}}]}}"#);
    refused(
        parse_bytes(Some(both.len()), [both.as_bytes(), b"1"].concat().into()),
        "more than one of",
    );
    refused(parse(&format!(r#"{json}"parameters":{{}}}}]}}"#)), "neither");
    let missing = format!(r#"{json}"parameters":{{"binary_data_size":0}}}}]}}"#);
    refused(parse(&missing), "Inference-Header-Content-Length");
    refused(parse_bytes(Some(99), Bytes::from_static(b"{}")), "is 99");
}

#[test]
fn a_gibibyte_declared_with_ten_bytes_sent_is_refused_at_once() {
    let start = Instant::now();
    for shape in ["[268435456]", "[1073741824,1073741824,1073741824]", "[18446744073709551615]"] {
        for datatype in ["FP32", "FP64", "UINT8", "BYTES"] {
            refused(one(datatype, shape, "[1]"), "x");
            refused(binary(datatype, shape, "10", &[0; 10]), "x");
            refused(binary(datatype, shape, "1073741824", &[0; 10]), "x");
        }
    }
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
}

#[test]
fn what_the_request_says_of_outputs_and_itself_is_kept() {
    let request = parse(
        r#"{"id":"7","model_name":"m","inputs":[],
        "outputs":[{"name":"y","parameters":{"binary_data":false}},{"name":"z"}],
        "parameters":{"binary_data_output":true,"locations":"EU"}}"#,
    )
    .unwrap();
    assert_eq!((request.id.as_deref(), request.model.as_deref()), (Some("7"), Some("m")));
    assert!(request.binary_default);
    assert_eq!(request.outputs[0], wanted("y", Some(false)));
    assert_eq!(request.outputs[1].binary, None);
    assert_eq!(request.parameters.keys().collect::<Vec<_>>(), ["locations"]);
}

#[test]
fn a_body_without_json_is_the_models_one_input() {
    let of = |shape: &[i64], datatype| Signature {
        inputs: vec![TensorSpec { name: "x".into(), datatype, shape: shape.into() }],
        ..Signature::default()
    };
    let shape = |spec: &[i64], bytes: usize| {
        raw_input(&of(spec, DType::Fp32), vec![0; bytes].into()).map(|tensor| tensor.shape)
    };
    assert_eq!(shape(&[-1, 4], 32).unwrap(), [2, 4]);
    assert_eq!(shape(&[-1, -1], 12).unwrap(), [1, 3]);
    assert_eq!(shape(&[2, 2], 16).unwrap(), [2, 2]);
    refused(shape(&[-1, 4], 20), "20 bytes");
    refused(shape(&[2, 2], 20), "makes 16");
    let text = raw_input(&of(&[-1], DType::Bytes), Bytes::from_static(b"ab")).unwrap();
    assert_eq!((&text.shape[..], &text.data[..]), (&[1][..], &b"\x02\0\0\0ab"[..]));
    refused(raw_input(&Signature::default(), Bytes::new()), "takes 0 inputs");
    let request = parse_bytes(Some(0), Bytes::from_static(b"raw")).unwrap();
    assert_eq!((request.raw.as_deref(), request.binary_default), (Some(&b"raw"[..]), true));
}

#[test]
fn nothing_in_a_request_is_ignored() {
    for (json, word) in [
        ("", "EOF"),
        ("[]", "not an inference request"),
        ("{}", "inputs"),
        (r#"{"inputs":[],"inputz":1}"#, "inputz"),
        (r#"{"inputs":[],"id":7}"#, "string"),
        (r#"{"inputs":[],"parameters":7}"#, "parameters"),
        (r#"{"inputs":[],"parameters":{"binary_data_output":"yes"}}"#, "true or false"),
        (r#"{"inputs":[{"name":"x"}]}"#, "shape"),
        (r#"{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32","data":[]}]}"#, "-1"),
        (r#"{"inputs":[{"name":"x","shape":[1.5],"datatype":"FP32","data":[]}]}"#, "1.5"),
        (r#"{"inputs":[{"name":"x","shape":[0],"datatype":"FP8","data":[]}]}"#, "FP8"),
        (
            r#"{"inputs":[{"name":"x","shape":[0],"datatype":"FP32","data":[],
            "parameters":{"shared_memory_region":"r"}}]}"#,
            "shared_memory_byte_size",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[0],"datatype":"FP32","data":[],
            "parameters":{"shared_memory_region":"r","shared_memory_byte_size":0}}]}"#,
            "more than one of",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32",
            "parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}}]}"#,
            "register it first",
        ),
        (
            r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":-3}}]}"#,
            "classification",
        ),
    ] {
        refused(parse(json), word);
    }
    let deep = format!("[{}]", vec!["1"; 17].join(","));
    refused(one("FP32", &deep, "[1]"), "at most 16");
    let input = r#"{"name":"x","shape":[0],"datatype":"FP32","data":[]}"#;
    let many = format!(r#"{{"inputs":[{}]}}"#, vec![input; 257].join(","));
    refused(parse(&many), "at most 256");
    let bulky = format!(r#"{{"inputs":[],"parameters":{{"a":"{}"}}}}"#, "b".repeat(17_000));
    refused(parse(&bulky), "16384");
    let long = input.replace('x', &"n".repeat(257));
    let named = format!(r#"{{"inputs":[{long}]}}"#);
    refused(parse(&named), "256 bytes");
}

fn tensor(name: &str, dtype: DType, shape: &[u64], data: &[u8]) -> Tensor {
    let data = Bytes::copy_from_slice(data);
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), data }
}

fn wanted(name: &str, binary: Option<bool>) -> Wanted {
    Wanted { name: name.to_owned(), binary, ..Wanted::default() }
}

#[test]
fn an_answer_is_the_bytes_that_clients_read() {
    let y = tensor("y", DType::Fp32, &[1, 2], &[0, 0, 0x80, 0x3f, 0, 0, 0, 0xbf]);
    let s = tensor("s", DType::Bytes, &[1], b"\x03\0\0\0a\"b");
    let outputs = vec![y, s];
    let json = render_infer(Head { id: Some("7"), ..HEAD }, outputs.clone(), &[], false).unwrap();
    assert_eq!(json.json_length, None);
    assert_eq!(
        serde_json::from_slice::<Value>(&json.parts[0]).unwrap(),
        json!({"model_name": "m", "model_version": "1", "id": "7", "outputs": [
            {"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, -0.5]},
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a\"b"]},
        ]})
    );
    let asked = [wanted("s", Some(false)), wanted("y", None)];
    let mixed = render_infer(HEAD, outputs.clone(), &asked, true).unwrap();
    assert_eq!(mixed.json_length, Some(mixed.parts[0].len()));
    assert_eq!(
        serde_json::from_slice::<Value>(&mixed.parts[0]).unwrap(),
        json!({"model_name": "m", "model_version": "1", "outputs": [
            {"name": "s", "datatype": "BYTES", "shape": [1], "data": ["a\"b"]},
            {"name": "y", "datatype": "FP32", "shape": [1, 2],
                "parameters": {"binary_data_size": 8}},
        ]})
    );
    assert_eq!(mixed.parts[1..], [outputs[0].data.clone()]);
}

#[test]
fn what_json_cannot_say_is_refused_with_the_way_out() {
    let render = |output: Tensor| render_infer(HEAD, vec![output], &[], false);
    for output in [
        tensor("y", DType::Fp32, &[1], &f32::NAN.to_le_bytes()),
        tensor("y", DType::Fp64, &[1], &f64::NEG_INFINITY.to_le_bytes()),
        tensor("y", DType::Fp16, &[1], &[0, 60]),
        tensor("y", DType::Bf16, &[1], &[0, 60]),
        tensor("y", DType::Bytes, &[1], b"\x01\0\0\0\xff"),
    ] {
        refused(render(output.clone()), "binary_data_output");
        let asked = [wanted("y", Some(true))];
        let rendered = render_infer(HEAD, vec![output.clone()], &asked, false);
        assert_eq!(rendered.unwrap().parts[1], output.data);
    }
}

#[test]
fn half_floats_wanted_as_json_are_refused_before_anything_runs() {
    let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![-1] };
    let outputs = vec![spec("y", DType::Fp32), spec("h", DType::Fp16)];
    let signature = Signature { outputs, ..Signature::default() };
    refused(check_wanted(&signature, &[], false), "`h` is FP16");
    refused(check_wanted(&signature, &[wanted("h", Some(false))], true), "FP16");
    assert_eq!(check_wanted(&signature, &[], true), Ok(()));
    assert_eq!(check_wanted(&signature, &[wanted("y", None)], false), Ok(()));
    assert_eq!(check_wanted(&signature, &[wanted("h", Some(true))], false), Ok(()));
}

#[test]
fn an_answer_that_another_peer_bungled_is_its_fault() {
    let short = tensor("y", DType::Fp32, &[2], &[0; 4]);
    for (output, asked) in [(short.clone(), "y"), (short, "z")] {
        let asked = [wanted(asked, None)];
        let error = render_infer(HEAD, vec![output], &asked, true).unwrap_err();
        assert_eq!((error.status(), error.code()), (StatusCode::BAD_GATEWAY, "bad_answer"));
    }
}

#[test]
fn tensors_are_shown_whatever_they_hold() {
    let values = [0.1f32, f32::NAN, f32::NEG_INFINITY, 3.0];
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let shown = tensor_json(&tensor("y", DType::Fp32, &[2, 2], &bytes), 3);
    assert_eq!(
        shown,
        json!({"name": "y", "datatype": "FP32", "shape": [2, 2], "data": [0.1, "NaN", "-inf"]})
    );
    let half: Vec<u8> = [0x3c00u16, 0xc000, 0x0001, 0x7bff].map(u16::to_le_bytes).concat();
    let shown = tensor_json(&tensor("y", DType::Fp16, &[4], &half), usize::MAX);
    assert_eq!(shown["data"], json!([1.0, -2.0, 5.9604645e-8, 65504.0]));
    let shown = tensor_json(&tensor("y", DType::Bytes, &[1], b"\x02\0\0\0h\xff"), 9);
    assert_eq!(shown["data"], json!(["h\u{fffd}"]));
}

#[test]
fn metadata_names_the_bundle_behind_the_name() {
    let bundle = Digest::of(b"bundle");
    let resolved = Resolved { name: "m".into(), version: "2".into(), bundle };
    let x = TensorSpec { name: "x".into(), datatype: DType::Fp32, shape: vec![-1, 4] };
    let signature = Signature { inputs: vec![x], ..Signature::default() };
    let metadata = model_metadata("m", &resolved, &signature);
    assert_eq!(metadata["inputs"], json!([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]));
    assert_eq!(metadata["versions"], json!(["2"]));
    assert_eq!(metadata["parameters"]["bundle"], bundle.to_string());
    let extensions = server_metadata()["extensions"].clone();
    assert_eq!(extensions[0], "binary_tensor_data");
}

/// Tensors of every type, whose bytes are what type and shape make.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    let dtype = proptest::sample::select(&DTYPES[..]);
    let shape = proptest::collection::vec(0..4u64, 0..4);
    (dtype, shape).prop_flat_map(|(dtype, shape)| {
        let count = usize::try_from(shape.iter().product::<u64>()).unwrap();
        let data = match dtype.size() {
            Some(size) => {
                let most = if dtype == DType::Bool { 1 } else { u8::MAX };
                proptest::collection::vec(0..=most, count * size).boxed()
            }
            None => proptest::collection::vec(any::<String>(), count)
                .prop_map(|texts| {
                    let length = |text: &str| u32::try_from(text.len()).unwrap().to_le_bytes();
                    let texts = texts.iter();
                    texts.flat_map(|text| [&length(text), text.as_bytes()].concat()).collect()
                })
                .boxed(),
        };
        data.prop_map(move |data| tensor("x", dtype, &shape, &data))
    })
}

/// An answer's body read back as the request that sends the same tensors on.
fn read_back(rendered: &Rendered) -> Result<InferRequest, ApiError> {
    // Through text, not through a value: a value's floats are not exact.
    let text = std::str::from_utf8(&rendered.parts[0]).unwrap();
    let text = text.replacen("\"outputs\":", "\"inputs\":", 1);
    let text = text.replacen("\"model_version\":\"1\",", "", 1);
    let length = rendered.json_length.map(|_| text.len());
    let rest = rendered.parts[1..].concat();
    parse_bytes(length, [text.as_bytes(), &rest].concat().into())
}

proptest! {
    #[test]
    fn tensors_survive_binary_bit_for_bit(tensors in proptest::collection::vec(any_tensor(), 0..4)) {
        let rendered = render_infer(HEAD, tensors.clone(), &[], true).unwrap();
        prop_assert_eq!(read_back(&rendered).unwrap().inputs, tensors);
    }

    #[test]
    fn tensors_survive_json_bit_for_bit_where_json_can_say_them(tensor in any_tensor()) {
        match render_infer(HEAD, vec![tensor.clone()], &[], false) {
            Ok(rendered) => {
                prop_assert_eq!(read_back(&rendered).unwrap().inputs, vec![tensor]);
            }
            Err(error) => {
                prop_assert_eq!(error.code(), "not_json");
                let floats = [DType::Fp16, DType::Bf16, DType::Fp32, DType::Fp64];
                prop_assert!(floats.contains(&tensor.dtype));
            }
        }
    }

    #[test]
    fn random_bytes_are_no_request_and_never_panic(
        body in proptest::collection::vec(any::<u8>(), 0..256),
        // Without any JSON it is a raw body, whatever it is.
        length in proptest::option::of(1..300usize),
    ) {
        prop_assert!(parse_bytes(length, body.into()).is_err());
    }

    #[test]
    fn mutated_requests_never_panic_and_never_yield_tensors_that_do_not_add_up(
        tensors in proptest::collection::vec(any_tensor(), 1..3),
        binary: bool,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        length_off in -2..=2isize,
    ) {
        let rendered = render_infer(HEAD, tensors, &[], binary);
        let Ok(rendered) = rendered else { return Ok(()) };
        let mut body = rendered.parts.concat();
        let json = String::from_utf8_lossy(&body[..rendered.parts[0].len()]).into_owned();
        let json = json.replacen("\"outputs\":", "\"inputs\":", 1);
        let json = json.replacen("\"model_version\":\"1\",", "", 1);
        body.splice(..rendered.parts[0].len(), json.bytes());
        for (at, byte) in edits {
            let at = at.index(body.len());
            // Half of the edits keep the text's alphabet, so that they reach beyond the JSON.
            body[at] = if byte % 2 == 0 { b"0123456789[]{},:\"-.e"[usize::from(byte) % 20] } else { byte };
        }
        let length = rendered.json_length.map(|_| json.len().saturating_add_signed(length_off));
        if let Ok(request) = parse_bytes(length, body.into()) {
            for input in request.inputs {
                let sound = check_bytes(input.dtype, &input.shape, &input.data);
                prop_assert_eq!(sound, Ok(()));
            }
        }
    }
}
