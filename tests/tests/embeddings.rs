//! Text for models on other peers: OpenAI's own client, and the CLI, at a node that holds none.

use std::thread;

use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Spec, header, request};
use hansa_tests::{python, run, run_json};
use serde_json::{Value, json};

#[test]
fn openais_client_works_against_a_node_that_does_not_hold_the_model() {
    let magika = models::magika(Progress::Stderr).expect("magika can be fetched");
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE")
            .with("minilm", python::minilm())
            .with("minilm-tokens", python::minilm_tokens())
            .with("magika", magika.join("model.onnx")),
        Spec::new("austin", "US", "US"),
    ]);
    let reference = python::minilm_reference().display().to_string();
    let url = mesh.node("austin").url();
    let said = python::openai_script("openai_embeddings.py", &[&url, &reference, "berlin"]);
    eprintln!("{said}");
    // Nothing of the models themselves came here, and each tokenizer once.
    let sent = mesh.node("berlin").metric("hansa_bundle_bytes_sent_total");
    let files = std::fs::metadata(python::minilm().join("tokenizer.json")).expect("a file").len();
    assert!(sent > 2 * files && sent < 2 * files + 10_000, "{sent} bytes of bundles were sent");
}

#[test]
fn a_holder_that_the_policy_keeps_out_is_not_even_asked_for_the_tokenizer() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("minilm", python::minilm()),
        Spec::new("austin", "US", "US"),
    ]);
    let ask = |headers: &[(&str, &str)]| {
        let body = json!({"model": "minilm", "input": "hello", "encoding_format": "float"});
        let url = format!("{}/v1/embeddings", mesh.node("austin").url());
        let (status, _, body) = request("POST", &url, headers, body.to_string().as_bytes());
        (status, serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    let sent = || mesh.node("berlin").metric("hansa_bundle_bytes_sent_total");
    let (status, refused) = ask(&[("Hansa-Locations", "US")]);
    assert_eq!((status, &refused["error"]["code"]), (403, &json!("policy_unsatisfiable")));
    assert_eq!(sent(), 0, "{refused}");
    let (status, answer) = ask(&[("Hansa-Locations", "DE")]);
    assert_eq!(status, 200, "{answer}");
    let once = sent();
    assert!(once > 0);
    // It is here now, and the policy holds for the text all the same.
    assert_eq!(ask(&[("Hansa-Locations", "US")]).0, 403);
    assert_eq!(ask(&[]).0, 200);
    assert_eq!(sent(), once);
}

#[test]
fn all_jobs_of_a_request_together_stay_within_its_price() {
    let mut berlin = Spec::new("berlin", "DE", "DE").with("minilm", python::minilm());
    berlin.extra = "[price]\ncurrency = \"EUR\"\nper_device_second = 0.01\n";
    let mesh = Mesh::with(&[berlin, Spec::new("austin", "US", "US")]);
    let ask = |limit: &str| {
        // More texts than one job takes.
        let body = json!({"model": "minilm", "input": vec!["a"; 300]}).to_string();
        let url = format!("{}/v1/embeddings", mesh.node("austin").url());
        request("POST", &url, &[("Hansa-Max-Price", limit)], body.as_bytes())
    };
    let answer = ask("2 EUR");
    assert_eq!(answer.0, 200, "{}", String::from_utf8_lossy(&answer.2));
    assert_eq!(header(&answer, "hansa-receipt").split(", ").count(), 2);
    let (paid, currency) = header(&answer, "hansa-price").split_once(' ').expect("a price");
    let paid: f64 = paid.parse().expect("an amount");
    assert!(paid > 0.0 && paid <= 2.0 && currency == "EUR", "{paid} {currency}");
    for limit in ["0.000001 EUR", "2 USD"] {
        let answer = ask(limit);
        let said: Value = serde_json::from_slice(&answer.2).expect("JSON");
        assert_eq!((answer.0, &said["error"]["failed"]), (403, &json!({"price": 1})), "{said}");
    }
}

#[test]
fn a_model_in_stages_takes_text_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let (whole, out) = (python::minilm().display().to_string(), folder.path().join("stages"));
    let dir = out.display().to_string();
    run_json(folder.path(), &["models", "cut", &whole, "--stages", "2", "--out", &dir, "--json"]);
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("minilm", out.join("stage-0")),
        Spec::new("paris", "FR", "FR").with("minilm", out.join("stage-1")),
        Spec::new("oslo", "NO", "NO").with("minilm", python::minilm()),
        Spec::new("austin", "US", "US"),
    ]);
    let ask = |places: &str| {
        let body = json!({"model": "minilm", "input": ["hello", "a longer text"],
            "encoding_format": "float"});
        let url = format!("{}/v1/embeddings", mesh.node("austin").url());
        let headers = [("Hansa-Locations", places)];
        let answer = request("POST", &url, &headers, body.to_string().as_bytes());
        let said: Value = serde_json::from_slice(&answer.2).expect("JSON");
        assert_eq!(answer.0, 200, "{said}");
        let floats = |item: &Value| -> Vec<f64> {
            let values = item["embedding"].as_array().expect("floats");
            values.iter().map(|value| value.as_f64().expect("a number")).collect()
        };
        let embeddings: Vec<f64> =
            said["data"].as_array().expect("data").iter().flat_map(floats).collect();
        (embeddings, header(&answer, "hansa-executed-by").to_owned())
    };
    // The whole may not be asked here, not even for its tokenizer.
    let (in_stages, by) = ask("DE,FR");
    assert_eq!(by, "berlin, paris");
    assert_eq!(mesh.node("oslo").metric("hansa_bundle_bytes_sent_total"), 0);
    let (alone, by) = ask("NO");
    assert_eq!(by, "oslo");
    let apart = in_stages.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(in_stages.len() == 2 * 384 && apart < 1e-5, "{apart}");
}

#[test]
fn the_command_line_embeds_text_by_the_same_way() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("minilm", python::minilm()),
        Spec::new("austin", "US", "US"),
    ]);
    let via = mesh.node("austin").url();
    let asked = ["infer", "minilm", "--via", &via, "--text", "one thing", "--text", "another"];
    let arguments = [&asked[..], &["--in", "DE", "--output", "out", "--json"]].concat();
    let told = run_json(mesh.folder(), &arguments);
    assert_eq!(told["executed_by"], "berlin");
    assert_eq!(told["tokens"], 7);
    assert_eq!(told["outputs"][0]["shape"], json!([2, 384]));
    let written = std::fs::read(mesh.folder().join("out").join("sentence_embedding.npy"));
    assert!(written.expect("a file").len() > 2 * 384 * 4);
    let long = "word ".repeat(600);
    let refused = run(mesh.folder(), &["infer", "minilm", "--via", &via, "--text", &long]);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("602 tokens"), "{error}");
}

#[test]
fn texts_of_different_lengths_share_runs_where_their_model_says_how_they_are_padded() {
    let mesh = Mesh::with(&[Spec::new("berlin", "DE", "DE")
        .with("minilm", python::minilm())
        .with("ragged", python::minilm_ragged())]);
    let node = mesh.node("berlin");
    let ask = |model: &str, words: usize| -> Vec<f64> {
        let text: Vec<String> = (0..words).map(|word| (word * words).to_string()).collect();
        let body = json!({"model": model, "input": text.join(" "), "encoding_format": "float"});
        let url = format!("{}/v1/embeddings", node.url());
        let (status, _, body) = request("POST", &url, &[], body.to_string().as_bytes());
        let said: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(status, 200, "{said}");
        let values = said["data"][0]["embedding"].as_array().expect("floats");
        values.iter().map(|value| value.as_f64().expect("a number")).collect()
    };
    let lengths: Vec<usize> =
        (0..16).flat_map(|caller| [caller + 8, caller + 24, 7 * caller + 1]).collect();
    let together: Vec<Vec<f64>> = thread::scope(|scope| {
        let callers = lengths.chunks(3).map(|own| {
            scope.spawn(move || own.iter().map(|words| ask("ragged", *words)).collect::<Vec<_>>())
        });
        let callers: Vec<_> = callers.collect();
        callers.into_iter().flat_map(|caller| caller.join().expect("an answer")).collect()
    });
    for (words, together) in lengths.iter().zip(together) {
        let alone = ask("minilm", *words);
        let apart = together.iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(together.len() == 384 && apart < 1e-5, "{words} words: {apart}");
    }
    let runs = |model: &str| {
        let stats = node.get(&format!("/v2/models/{model}/stats"));
        stats["model_stats"][0]["execution_count"].as_u64().expect("a count")
    };
    let (shared, alone) = (runs("ragged"), runs("minilm"));
    eprintln!("{} texts of different lengths took {shared} runs", lengths.len());
    assert!(alone == lengths.len() as u64 && shared < alone, "{shared} of {alone}");
}
