//! Models that answer step by step: what their bundles declare is checked when they are loaded.

mod common;

use std::fs;

use common::*;
use hansa_runtime::LoadError;
use hansa_runtime::bundle::Bundle;
use hansa_runtime::engine::EngineConfig;
use hansa_runtime::tensor::DType;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &repeat());
    files.iter().for_each(|(name, text)| fs::write(dir.path().join(name), text).unwrap());
    dir
}

#[test]
fn a_signature_says_how_the_model_goes_on_and_apps_see_neither_states_nor_that() {
    let dir = folder(&[("loop.json", REPEATS)]);
    let one = engine(dir.path(), &EngineConfig::default());
    let looped = one.signature().looped.clone().unwrap();
    assert_eq!((&*looped.more, looped.steps_max), ("MORE", 512));
    let shown = one.signature().for_apps();
    assert_eq!(shown.outputs.iter().map(|spec| &*spec.name).collect::<Vec<_>>(), ["OUT", "IDX"]);
    // As a peer hears it.
    let told = serde_json::to_string(one.signature()).unwrap();
    let heard: hansa_runtime::tensor::Signature = serde_json::from_str(&told).unwrap();
    assert_eq!(heard, *one.signature());
}

#[tokio::test]
async fn a_model_is_run_step_by_step_until_it_says_that_it_is_done() {
    let dir = folder(&[("loop.json", REPEATS)]);
    let one = engine(dir.path(), &EngineConfig::default());
    let looped = one.signature().looped.clone().unwrap();
    let given = vec![
        tensor("IN", DType::Int32, &[3], [4i32, 2, 0].map(i32::to_le_bytes).concat()),
        tensor("DELAY", DType::Uint32, &[3], vec![0; 12]),
        tensor("WAIT", DType::Uint32, &[1], vec![0; 4]),
    ];
    let mut states = one.signature().begun(&given, 1).unwrap();
    let (mut answers, mut is_more) = (Vec::new(), true);
    while is_more {
        let inputs = given.iter().cloned().chain(states).collect();
        let outputs = one.submit(request(inputs)).unwrap().await.unwrap().outputs;
        let step = looped.take(outputs, &[], false).unwrap();
        let number = |at: usize| i32::from_le_bytes(step.answers[at].data[..].try_into().unwrap());
        answers.push((number(0), number(1)));
        (states, is_more) = (step.states, step.is_more);
    }
    assert_eq!(answers, [(4, 0), (2, 1), (0, 2)]);
}

/// One step of what a model of language does: the next token, which is the last one and 1, and all
/// tokens until then, which grow by one; until it is `end`.
fn counting() -> Message {
    let grow = with_int(node("Concat", &["past", "token"], &["all"]), "axis", 1);
    let nodes = [
        grow,
        node("Add", &["token", "one"], &["next"]),
        node("Less", &["next", "end"], &["more"]),
    ];
    let inputs =
        [value("past", 7, &[-1, -1]), value("token", 7, &[-1, 1]), value("end", 7, &[1, 1])];
    let outputs =
        [value("all", 7, &[-1, -1]), value("next", 7, &[-1, 1]), value("more", 9, &[-1, 1])];
    let one = Message::default().int(1, 1).int(2, 7).bytes(8, "one").bytes(9, 1i64.to_le_bytes());
    model(&graph(&nodes, &inputs, &outputs).bytes(5, one))
}

#[tokio::test]
async fn a_state_that_grows_begins_empty_and_a_token_is_a_state_and_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &counting());
    let declared = r#"{ "states": { "all": "past", "next": "token" }, "emits": ["next"],
        "while": "more", "steps_max": 9 }"#;
    fs::write(dir.path().join("loop.json"), declared).unwrap();
    let one = engine(dir.path(), &EngineConfig::default());
    let looped = one.signature().looped.clone().unwrap();
    let number =
        |name, number: i64| tensor(name, DType::Int64, &[1, 1], number.to_le_bytes().to_vec());
    let (end, prompt) = (number("end", 8), number("token", 5));
    let mut states = one.signature().begun(&[end.clone(), prompt.clone()], 1).unwrap();
    assert_eq!((&*states[0].name, &states[0].shape[..]), ("past", &[1, 0][..]));
    states.push(prompt);
    let (mut tokens, mut grown, mut is_more) = (Vec::new(), Vec::new(), true);
    while is_more {
        let past = states.iter().find(|state| state.name == "past").unwrap();
        grown.push((past.shape[1], past.data.len()));
        let inputs = [end.clone()].into_iter().chain(states).collect();
        let outputs = one.submit(request(inputs)).unwrap().await.unwrap().outputs;
        let step = looped.take(outputs, &[], false).unwrap();
        let [next] = &step.answers[..] else { panic!("one answer") };
        tokens.push(i64::from_le_bytes(next.data[..].try_into().unwrap()));
        (states, is_more) = (step.states, step.is_more);
    }
    assert_eq!(tokens, [6, 7, 8]);
    assert_eq!(grown, [(0, 0), (1, 8), (2, 16)]);
    assert!(states.is_empty(), "there is no next step");
}

#[test]
fn a_declaration_that_does_not_fit_keeps_a_model_from_being_served() {
    let wrong = REPEATS.replace("MORE", "DONE");
    let unread = REPEATS.replace("512", "\"many\"");
    for (files, word) in [
        (&[("loop.json", &*wrong)][..], "loop.json: the model has no output `DONE`"),
        (&[("loop.json", &*unread)], "loop.json: invalid type"),
        (
            &[("loop.json", REPEATS), ("sequence.json", r#"{ "states": { "NEXT": "AT" } }"#)],
            "loop.json: the bundle has sequence.json as well",
        ),
    ] {
        let dir = folder(files);
        let bundle = Bundle::open(dir.path()).unwrap();
        let error = runtime().engine(&bundle, &cpu(), &EngineConfig::default()).err().unwrap();
        assert!(matches!(error, LoadError::Declared(_)), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}
