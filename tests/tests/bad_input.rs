//! What apps get wrong, or do on purpose: each request has its typed answer, costs no memory that
//! was not sent, and leaves a node that answers the next job.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Answer, Mesh, Node, Spec, request};
use serde_json::{Value, json};

const INFER: &str = "/v2/models/magika/infer";
const JSON_LENGTH: &str = "Inference-Header-Content-Length";
/// A node that takes in what is only declared, or unpacks a bomb, grows by more than this.
const GROWTH_MAX_KIB: u64 = 128 * 1024;

fn mesh() -> Mesh {
    let magika = models::magika(Progress::Stderr).expect("magika can be fetched");
    Mesh::with(&[Spec::new("berlin", "DE", "DE").with("magika", magika.join("model.onnx"))])
}

/// An input of magika's, changed by `change`.
fn input(change: impl FnOnce(&mut Value)) -> Value {
    let mut input = json!({
        "name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": vec![7; 2048],
    });
    change(&mut input);
    json!({ "inputs": [input] })
}

fn good() -> Value {
    input(|_| ())
}

fn still_works(node: &Node, after: &str) {
    let answer = node.infer("magika", &good(), &[]);
    assert_eq!(answer.0, 200, "after {after}: {}", String::from_utf8_lossy(&answer.2));
}

fn post(node: &Node, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    request("POST", &format!("{}{path}", node.url()), headers, body)
}

/// The answer has this status, this code and these words, and the node goes on.
fn refused(node: &Node, what: &str, answer: &Answer, status: u16, code: &str, words: &[&str]) {
    let body: Value = serde_json::from_slice(&answer.2).unwrap_or_else(|error| {
        panic!("{what}: {} {error}: {}", answer.0, String::from_utf8_lossy(&answer.2))
    });
    assert_eq!((answer.0, body["code"].as_str()), (status, Some(code)), "{what}: {body}");
    let said = body["error"].as_str().expect("words");
    for word in words {
        assert!(said.contains(word), "{what}: `{word}` is not said: {said}");
    }
    eprintln!("{what}: {status} {code}: {said}");
    still_works(node, what);
}

/// The most memory that the node ever had, in KiB.
fn peak_kib(node: &Node) -> u64 {
    let path = format!("/proc/{}/status", node.process.id());
    let status = std::fs::read_to_string(path).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
fn a_tensor_that_does_not_fit_is_refused_with_what_was_expected() {
    let mesh = mesh();
    let node = mesh.node("berlin");
    let set = |key: &'static str, value: Value| input(move |input| input[key] = value);
    let json_cases = [
        ("another name", set("name", json!("byte")), "bad_input", vec!["byte", "bytes"]),
        ("an unknown type", set("datatype", json!("INT31")), "bad_input", vec!["INT31"]),
        (
            "another type",
            input(|input| {
                input["datatype"] = json!("FP32");
                input["data"] = json!(vec![0.5; 2048]);
            }),
            "bad_input",
            vec!["FP32", "INT32"],
        ),
        (
            "another shape",
            input(|input| {
                input["shape"] = json!([2, 1024]);
            }),
            "bad_input",
            vec!["[2, 1024]", "2048"],
        ),
        ("another rank", set("shape", json!([2048])), "bad_input", vec!["[2048]"]),
        ("a negative shape", set("shape", json!([-1, 2048])), "malformed", vec!["-1"]),
        (
            "a shape beyond all numbers",
            set("shape", json!([1u64 << 40, 1u64 << 40])),
            "malformed",
            vec!["bytes"],
        ),
        ("too few elements", set("data", json!([1, 2, 3])), "malformed", vec!["2048", "fewer"]),
        ("text for a number", set("data", json!(vec!["7"; 2048])), "malformed", vec!["bytes"]),
        ("a number too large", set("data", json!(vec![1u64 << 40; 2048])), "malformed", vec![]),
        ("null", set("data", Value::Null), "malformed", vec!["neither data nor"]),
        ("a member too many", set("dtype", json!("INT32")), "malformed", vec!["dtype"]),
        ("no input", json!({"inputs": []}), "bad_input", vec!["bytes"]),
        (
            "an unknown output",
            {
                let mut body = good();
                body["outputs"] = json!([{"name": "verdict"}]);
                body
            },
            "bad_input",
            vec!["verdict"],
        ),
        (
            "an unknown parameter",
            {
                let mut body = good();
                body["parameters"] = json!({"location": "DE"});
                body
            },
            "unsupported",
            vec!["location", "locations"],
        ),
    ];
    for (what, body, code, words) in json_cases {
        let answer = node.infer("magika", &body, &[]);
        refused(node, what, &answer, 400, code, &words);
    }
    let nan = good().to_string().replacen("[7,", "[NaN,", 1);
    let answer = post(node, INFER, &[], nan.as_bytes());
    refused(node, "NaN", &answer, 400, "malformed", &["NaN", "binary tensor extension"]);
    let deep = "[".repeat(100_000);
    for (what, body) in [("no JSON", "{]"), ("nothing", ""), ("a deep list", deep.as_str())] {
        let answer = post(node, INFER, &[], body.as_bytes());
        refused(node, what, &answer, 400, "malformed", &["not an inference request"]);
    }
}

/// A request whose only input has `size` bytes as its head says, and `bytes` that follow.
fn binary(size: u64, bytes: &[u8], change: impl FnOnce(&mut Value)) -> (String, Vec<u8>) {
    let head = input(|input| {
        input.as_object_mut().expect("an object").remove("data");
        input["parameters"] = json!({"binary_data_size": size});
        change(input);
    });
    let head = head.to_string().into_bytes();
    (head.len().to_string(), [&head, bytes].concat())
}

#[test]
fn a_binary_tensor_that_does_not_fit_is_refused_and_none_is_allocated_unseen() {
    let mesh = mesh();
    let node = mesh.node("berlin");
    let tensor = vec![0; 8192];
    let before = peak_kib(node);
    let as_is = |_: &mut Value| ();
    let (length, body) = binary(8192, &tensor, as_is);
    assert_eq!(post(node, INFER, &[(JSON_LENGTH, &length)], &body).0, 200);
    let gib = 1 << 30;
    let cases = [
        ("1 GiB declared", binary(gib, &[0; 10], as_is), "malformed", ["1073741824", "10 bytes"]),
        (
            "1 GiB declared in the shape as well",
            binary(gib, &[0; 10], |input| input["shape"] = json!([131_072, 2048])),
            "malformed",
            ["1073741824", "10 bytes"],
        ),
        ("too few bytes", binary(8188, &tensor[4..], as_is), "malformed", ["8188", "8192"]),
        (
            "bytes left over",
            binary(8192, &[0; 8200], as_is),
            "malformed",
            ["8 bytes follow", "add up"],
        ),
        (
            "another name",
            binary(8192, &tensor, |input| input["name"] = json!("byte")),
            "bad_input",
            ["byte", "bytes"],
        ),
        (
            "another type",
            binary(8192, &tensor, |input| input["datatype"] = json!("FP32")),
            "bad_input",
            ["FP32", "INT32"],
        ),
        (
            "another shape",
            binary(8192, &tensor, |input| input["shape"] = json!([2048, 1])),
            "bad_input",
            ["[2048, 1]", "2048"],
        ),
    ];
    for (what, (length, body), code, words) in cases {
        let answer = post(node, INFER, &[(JSON_LENGTH, &length)], &body);
        refused(node, &format!("binary: {what}"), &answer, 400, code, &words);
    }
    for (what, length) in [("a head beyond the body", "999999"), ("no number", "many")] {
        let answer = post(node, INFER, &[(JSON_LENGTH, length)], &body);
        refused(node, what, &answer, 400, "malformed", &[JSON_LENGTH]);
    }
    let answer = post(node, INFER, &[], &binary(8192, &tensor, as_is).1);
    refused(node, "a binary body without its header", &answer, 400, "malformed", &[]);
    let grown = peak_kib(node) - before;
    assert!(grown < GROWTH_MAX_KIB, "the node grew by {grown} KiB");
}

#[test]
fn a_demand_or_a_model_that_is_not_understood_is_refused() {
    let mesh = mesh();
    let node = mesh.node("berlin");
    for (header, value, code, words) in [
        ("Hansa-Locations", "", "bad_constraint", ["Hansa-Locations", "empty"]),
        ("Hansa-Locations", " , ", "bad_constraint", ["Hansa-Locations", ""]),
        ("Hansa-Location", "DE", "bad_constraint", ["Hansa-Location", "Hansa-Locations"]),
        ("Hansa-Locations", "Germany", "bad_constraint", ["Germany", ""]),
        ("Hansa-Locations", "UK", "bad_constraint", ["UK", "GB"]),
        ("Hansa-Deadline-Ms", "soon", "bad_constraint", ["soon", "ms"]),
        ("Hansa-Deadline-Ms", "0", "bad_constraint", ["from 1", ""]),
        ("Hansa-Split", "rows", "unsplittable", ["one row", "split"]),
        ("Hansa-Split", "halves", "bad_constraint", ["halves", "rows"]),
        ("Hansa-Max-Price", "0.02 EUX", "bad_constraint", ["EUX", "currency"]),
        ("Hansa-Max-Price", "cheap", "bad_constraint", ["cheap", "EUR"]),
        ("Hansa-Data-Class", "!health", "bad_constraint", ["denied", ""]),
        ("traceparent", "nonsense", "", ["", ""]),
    ] {
        let answer = node.infer("magika", &good(), &[(header, value)]);
        if code.is_empty() {
            assert_eq!(answer.0, 200, "{header} has no say in whether a job runs");
            continue;
        }
        refused(node, &format!("{header}: {value}"), &answer, 400, code, &words);
    }
    for (model, words) in [
        ("magica", vec!["`magica`", "did you mean `magika`?"]),
        ("magik", vec!["did you mean `magika`?"]),
        ("zebra", vec!["no peer offers the model `zebra`"]),
        ("magika/versions/7", vec!["versions are 1"]),
    ] {
        let answer =
            post(node, &format!("/v2/models/{model}/infer"), &[], good().to_string().as_bytes());
        refused(node, model, &answer, 404, "unknown_model", &words);
    }
    let answer = node.infer("magika@sha256:12", &good(), &[]);
    refused(node, "a digest that is none", &answer, 400, "bad_input", &["sha256"]);
    let answer = post(node, "/v2/model/magika/infer", &[], b"{}");
    refused(node, "a path that is none", &answer, 404, "not_found", &["/v2"]);
}

/// Sends the head of a request with a body of 1 GiB, and ten bytes of it.
fn promise_a_gibibyte(node: &Node) -> TcpStream {
    let address = node.url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("it listens");
    let head = format!(
        "POST {INFER} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{{\"inputs\":",
        1 << 30
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    stream
}

#[test]
fn a_body_of_a_gibibyte_that_does_not_come_costs_no_memory_and_ends_in_time() {
    let mesh = mesh();
    let node = mesh.node("berlin");
    still_works(node, "the start");
    let before = peak_kib(node);
    let started = Instant::now();
    let mut silent: Vec<TcpStream> = (0..20).map(|_| promise_a_gibibyte(node)).collect();
    // One that says it has no more: nothing to wait for.
    let mut ended = promise_a_gibibyte(node);
    ended.shutdown(Shutdown::Write).expect("it is open");
    ended.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut said = Vec::new();
    let outcome = ended.read_to_end(&mut said);
    assert!(outcome.is_ok(), "a half-closed connection is held: {outcome:?}");
    let said = String::from_utf8_lossy(&said);
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("\"malformed\""), "{said}");
    still_works(node, "a body cut off");

    // One byte more than any body may have is refused at once.
    let address = node.url().replace("http://", "");
    let mut large = TcpStream::connect(&address).expect("it listens");
    let length = (1u64 << 30) + 1;
    let head = format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    large.write_all(head.as_bytes()).expect("it reads");
    assert!(first_line(&mut large).contains("413"));
    still_works(node, "a body over the limit");

    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(40))).expect("a timeout");
        let line = first_line(stream);
        assert!(line.contains("408"), "{line}");
    }
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    still_works(node, "bodies that stood still");
    // Twenty bodies: what is set aside for each is no more than its bytes, give or take.
    let grown = peak_kib(node) - before;
    assert!(grown < GROWTH_MAX_KIB, "the node grew by {grown} KiB");
}

fn first_line(stream: &mut TcpStream) -> String {
    let mut said = [0; 64];
    let read = stream.read(&mut said).expect("an answer");
    String::from_utf8_lossy(&said[..read]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_gzip_bomb_is_refused_before_it_has_unfolded() {
    let mesh = mesh();
    let node = mesh.node("berlin");
    still_works(node, "the start");
    let gzip = |bytes: &[u8], times: usize| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        (0..times).for_each(|_| encoder.write_all(bytes).expect("into memory"));
        encoder.finish().expect("into memory")
    };
    let gzipped = [("Content-Encoding", "gzip")];
    // An honest one is taken.
    let honest = gzip(good().to_string().as_bytes(), 1);
    assert_eq!(post(node, INFER, &gzipped, &honest).0, 200);
    let before = peak_kib(node);
    let bomb = gzip(&vec![b' '; 1 << 20], 1_100);
    eprintln!("a bomb of {} bytes", bomb.len());
    let started = Instant::now();
    // The answer comes before the bomb is sent; most clients only see that nobody takes the rest.
    let address = node.url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).expect("it listens");
    let length = bomb.len();
    let head = format!(
        "POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    let _ = stream.write_all(&[head.as_bytes(), &bomb].concat());
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    let said = String::from_utf8_lossy(&said);
    eprintln!("a gzip bomb: {said}");
    assert!(said.starts_with("HTTP/1.1 413") && said.contains("send it uncompressed"), "{said}");
    still_works(node, "a gzip bomb");
    eprintln!("answered after {:?}", started.elapsed());
    let grown = peak_kib(node) - before;
    assert!(grown < GROWTH_MAX_KIB, "the node grew by {grown} KiB");
    let cut = &honest[..honest.len() / 2];
    let answer = post(node, INFER, &gzipped, cut);
    refused(node, "half a gzip", &answer, 400, "malformed", &["cannot be read"]);
    let answer = post(node, INFER, &gzipped, b"no gzip at all");
    refused(node, "no gzip", &answer, 400, "malformed", &["cannot be read"]);
}
