//! What the scan lets through and what it refuses, on files written byte by byte.

mod common;

use std::collections::BTreeMap;

use common::*;
use hansa_runtime::limits::{NODES_MAX, SUBGRAPH_DEPTH_MAX};
use hansa_runtime::models;
use hansa_runtime::scan::{ScanError, scan};
use hansa_runtime::wheel::Progress;
use proptest::prelude::*;

fn refusal(model: &Message) -> ScanError {
    scan(&model.0, &BTreeMap::from([("w.bin", 16)])).expect_err("refused")
}

#[test]
fn real_models_pass() {
    for dir in [models::magika(Progress::Stderr), models::silero_vad(Progress::Stderr)] {
        let bytes = std::fs::read(dir.unwrap().join("model.onnx")).unwrap();
        let seen = scan(&bytes, &BTreeMap::new()).unwrap();
        assert!(seen.nodes > 10 && seen.external.is_empty(), "{seen:?}");
    }
}

#[test]
fn external_data_beside_the_model_passes() {
    for entries in [
        &[("location", "w.bin")][..],
        &[("location", "w.bin"), ("offset", "0"), ("length", "16")],
        &[("checksum", "ab"), ("location", "w.bin")],
    ] {
        let seen = scan(&adder(entries).0, &BTreeMap::from([("w.bin", 16)])).unwrap();
        assert!(seen.external.contains("w.bin"));
    }
}

#[test]
fn external_data_outside_the_folder_is_refused() {
    for location in [
        "../secret",
        "/etc/passwd",
        "a/../../b",
        "sub/w.bin",
        "..",
        ".",
        "",
        "c:w",
        "a\\b",
        "./w.bin",
    ] {
        let refused = refusal(&adder(&[("location", location)]));
        assert_eq!(refused, ScanError::Path { location: location.to_owned() });
    }
}

#[test]
fn memory_addresses_are_refused() {
    let location = "*/_ORT_MEM_ADDR_/*";
    let refused = refusal(&adder(&[("location", location), ("offset", "4096")]));
    assert_eq!(refused, ScanError::MemoryAddress { location: location.to_owned() });
}

#[test]
fn external_data_must_be_there_and_long_enough() {
    let missing = refusal(&adder(&[("location", "v.bin")]));
    assert_eq!(missing, ScanError::NotInBundle { location: "v.bin".to_owned() });
    for (offset, length) in [("0", "17"), ("1", "16"), ("17", "0"), ("18446744073709551615", "2")] {
        let entries = [("location", "w.bin"), ("offset", offset), ("length", length)];
        assert!(matches!(refusal(&adder(&entries)), ScanError::Range { bytes: 16, .. }));
    }
    // Without a length the weight's own size counts.
    let refused = refusal(&adder(&[("location", "w.bin"), ("offset", "4")]));
    assert!(matches!(refused, ScanError::Range { length: 16, .. }));
}

#[test]
fn external_data_entries_must_be_whole() {
    for entries in [
        &[("offset", "0")][..],
        &[],
        &[("location", "w.bin"), ("location", "w.bin")],
        &[("location", "w.bin"), ("offset", "-1")],
        &[("location", "w.bin"), ("length", "+1")],
    ] {
        assert!(matches!(refusal(&adder(entries)), ScanError::External { .. }), "{entries:?}");
    }
    // A decoder merges a message that comes in parts: here the second part says that the data is
    // external, and the first, which says nothing of it, where.
    let first =
        Message::default().bytes(13, Message::default().bytes(1, "location").bytes(2, "../secret"));
    let constant = node("Constant", &[], &["y"]);
    let attribute = Message::default()
        .bytes(1, "value")
        .bytes(5, first)
        .bytes(5, Message::default().int(1, 4).int(2, 1).int(14, 1));
    let split = model(&graph(&[constant.bytes(5, attribute)], &[], &[]));
    assert!(matches!(refusal(&split), ScanError::Path { .. }));
}

#[test]
fn external_data_is_found_wherever_a_weight_can_be() {
    let weight = || external("w", &[4], &[("location", "../secret")]);
    let bare = || graph(&[], &[], &[]);
    let sparse = || Message::default().bytes(1, weight());
    let attribute = |field, message: Message| {
        let attribute = Message::default().bytes(1, "a").bytes(field, message);
        model(&graph(&[node("Constant", &[], &["y"]).bytes(5, attribute)], &[], &[]))
    };
    let function = Message::default()
        .bytes(1, "f")
        .bytes(10, "mine")
        .bytes(7, node("Constant", &[], &["y"]).bytes(5, Message::default().bytes(5, weight())));
    for hidden in [
        model(&bare().bytes(15, sparse())),
        attribute(5, weight()),
        attribute(10, weight()),
        attribute(22, sparse()),
        attribute(23, sparse()),
        attribute(6, bare().bytes(5, weight())),
        attribute(11, bare().bytes(5, weight())),
        model(&bare()).bytes(25, function),
        model(&bare()).bytes(20, Message::default().bytes(1, bare().bytes(5, weight()))),
        model(&bare()).bytes(7, bare().bytes(5, weight())),
    ] {
        assert!(matches!(refusal(&hidden), ScanError::Path { .. }));
    }
}

#[test]
fn only_operators_that_ship_with_onnx_runtime_pass() {
    let of = |domain: &str, operator: &str| {
        model(&graph(&[node(operator, &["x"], &["y"]).bytes(7, domain)], &[], &[]))
    };
    for (domain, operator) in
        [("", "Add"), ("ai.onnx", "Add"), ("ai.onnx.ml", "Scaler"), ("com.microsoft", "Gelu")]
    {
        scan(&of(domain, operator).0, &BTreeMap::new()).unwrap();
    }
    for (domain, operator) in [
        ("evil", "Add"),
        ("ai.onnx.contrib", "PyOp"),
        ("com.microsoft", "EPContext"),
        ("com.microsoft", "PythonOp"),
    ] {
        let refused = refusal(&of(domain, operator));
        let (operator, domain) = (operator.to_owned(), domain.to_owned());
        assert_eq!(refused, ScanError::Operator { operator, domain });
    }
    // A function that the model brings is a name for operators that were looked at.
    let function = Message::default().bytes(1, "Twice").bytes(10, "mine");
    let body = node("Add", &["x", "x"], &["y"]);
    let bringing = of("mine", "Twice").bytes(25, function.clone().bytes(7, body));
    scan(&bringing.0, &BTreeMap::new()).unwrap();
    let bad = function.bytes(7, node("Run", &["x"], &["y"]).bytes(7, "evil"));
    assert!(matches!(refusal(&of("mine", "Twice").bytes(25, bad)), ScanError::Operator { .. }));
    let hiding = Message::default().bytes(1, "EPContext").bytes(10, "com.microsoft");
    let hiding = of("com.microsoft", "EPContext").bytes(25, hiding);
    assert!(matches!(refusal(&hiding), ScanError::Operator { .. }));
}

#[test]
fn nesting_and_numbers_are_capped() {
    let nested = |depth: usize| {
        let inner = graph(&[node("Identity", &["x"], &["y"])], &[], &[]);
        (0..depth).fold(inner, |inner, _| {
            graph(&[with_graph(node("If", &["c"], &["y"]), "then_branch", inner)], &[], &[])
        })
    };
    scan(&model(&nested(SUBGRAPH_DEPTH_MAX)).0, &BTreeMap::new()).unwrap();
    for depth in [SUBGRAPH_DEPTH_MAX + 1, 2_000] {
        let refused = refusal(&model(&nested(depth)));
        assert!(matches!(refused, ScanError::TooMuch { what: "depth of subgraphs", .. }));
    }
    // Two bytes a node, so the file is small and the graph is not.
    let many = model(&Message([0x0a, 0x00].repeat(NODES_MAX + 1)));
    assert!(matches!(refusal(&many), ScanError::TooMuch { what: "nodes", .. }));
    let weight = |dims: &[i64]| model(&graph(&[], &[], &[]).bytes(5, external("w", dims, &[])));
    let huge = refusal(&weight(&[1 << 40, 1 << 40]));
    assert!(matches!(huge, ScanError::TooMuch { what: "bytes of a weight", .. }));
    assert_eq!(refusal(&weight(&[-3])), ScanError::Dimension { dim: -3 });
}

#[test]
fn what_is_no_model_is_said_so() {
    assert_eq!(refusal(&Message::default()), ScanError::NoGraph);
    assert!(matches!(refusal(&Message(b"<html>".to_vec())), ScanError::Wire { .. }));
    let whole = adder(&[("location", "w.bin")]).0;
    let cut = (1..whole.len())
        .filter(|length| scan(&whole[..*length], &BTreeMap::from([("w.bin", 16)])).is_ok());
    assert_eq!(cut.count(), 0, "a truncated model passed");
}

#[test]
fn a_file_that_onnx_runtime_would_read_in_its_own_format_is_refused() {
    // A producer's name of 256 bytes, which begins where that format's mark is.
    let mut polyglot = Message(vec![0x12, 0x82, 0x02, 0, b'O', b'R', b'T', b'M']);
    polyglot.0.resize(3 + 258, b' ');
    polyglot.0.extend(counter().0);
    assert_eq!(refusal(&polyglot), ScanError::OrtFormat);
    polyglot.0[7] = b'X';
    scan(&polyglot.0, &BTreeMap::new()).unwrap();
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = scan(&bytes, &BTreeMap::new());
    }

    #[test]
    fn mutated_models_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = counter().0;
        for (index, byte) in edits {
            *index.get_mut(&mut bytes) = byte;
        }
        let _ = scan(&bytes, &BTreeMap::new());
        let _ = scan(&bytes[..cut.index(bytes.len())], &BTreeMap::new());
    }
}
