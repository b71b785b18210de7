//! Bad input gets a clear typed answer, and the node goes on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Node, Spec, request};
use hansa_tests::run;
use serde_json::{Value, json};

fn magika() -> std::path::PathBuf {
    models::magika(Progress::Stderr).expect("magika can be fetched").join("model.onnx")
}

fn question() -> Value {
    input(&json!({"shape": [1, 2048], "data": vec![7; 2048]}))
}

/// A question whose input has these fields beside name and datatype, or instead of them.
fn input(fields: &Value) -> Value {
    let mut given = json!({"name": "bytes", "datatype": "INT32"});
    let fields = fields.as_object().expect("fields").clone();
    given.as_object_mut().expect("an object").extend(fields);
    json!({"inputs": [given]})
}

fn still_works(node: &Node) {
    assert_eq!(node.infer("magika", &question(), &[]).0, 200, "the node goes on");
}

#[test]
fn a_request_that_does_not_fit_is_told_why() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("austin", "US", "US"),
    ]);
    let flat = vec![7; 2048];
    let text = |value: Value| value.to_string().into_bytes();
    let nan = text(input(&json!({"shape": [1, 2048], "data": [1]}))).to_vec();
    let nan = String::from_utf8(nan).expect("text").replace("[1]", "[NaN]").into_bytes();
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("nothing", vec![], 400, "malformed"),
        ("no JSON", b"{\"inputs\": [".to_vec(), 400, "malformed"),
        ("no inputs", text(json!({"inputs": []})), 400, "bytes"),
        (
            "wrong name",
            text(input(&json!({"name": "byte", "shape": [1, 2048], "data": flat}))),
            400,
            "`byte`",
        ),
        (
            "wrong type",
            text(input(&json!({"datatype": "FP32", "shape": [1, 2048], "data": flat}))),
            400,
            "FP32",
        ),
        (
            "no type",
            text(input(&json!({"datatype": "INT33", "shape": [1, 2048], "data": flat}))),
            400,
            "INT33",
        ),
        ("wrong shape", text(input(&json!({"shape": [2048], "data": flat}))), 400, "2048"),
        ("wrong count", text(input(&json!({"shape": [2, 2048], "data": flat}))), 400, "4096"),
        ("negative shape", text(input(&json!({"shape": [-1, 2048], "data": flat}))), 400, "-1"),
        (
            "huge shape",
            text(input(&json!({"shape": [1u64 << 40, 1u64 << 40], "data": flat}))),
            400,
            "shape",
        ),
        (
            "fraction",
            text(input(&json!({"shape": [1, 2048], "data": vec![0.5; 2048]}))),
            400,
            "0.5",
        ),
        ("NaN", nan, 400, "NaN"),
        (
            "1 GiB declared",
            text(input(&json!({
                "shape": [131_072, 2048], "parameters": {"binary_data_size": 1_073_741_824u64},
            }))),
            400,
            "",
        ),
        (
            "unknown output",
            text(json!({
                "inputs": question()["inputs"], "outputs": [{"name": "label"}],
            })),
            400,
            "label",
        ),
    ];
    // Both where the model is and where it is not: each checks for itself.
    for node in &mesh.nodes {
        for (what, body, status, says) in &cases {
            let started = Instant::now();
            let url = format!("{}/v2/models/magika/infer", node.url());
            let answer = request("POST", &url, &[], body);
            let said: Value = serde_json::from_slice(&answer.2).expect("typed");
            assert_eq!(answer.0, *status, "{what} at {}: {said}", node.name);
            let error = said["error"].as_str().unwrap_or_default();
            let code = said["code"].as_str().unwrap_or_default();
            assert!(error.contains(says) || code.contains(says), "{what}: {said}");
            assert!(started.elapsed() < Duration::from_secs(5), "{what} takes long");
        }
        for (headers, status, code) in [
            (("Hansa-Locations", ""), 400, ""),
            (("Hansa-Locations", "Atlantis"), 400, ""),
            (("Hansa-Location", "DE"), 400, ""),
            (("Hansa-Deadline-Ms", "soon"), 400, ""),
            (("Hansa-Split", "rows"), 400, "unsupported_constraint"),
            (("Hansa-Max-Price", "0.02 EUR"), 400, "unsupported_constraint"),
            (("Content-Encoding", "gzip"), 400, ""),
        ] {
            let answer = node.infer("magika", &question(), &[headers]);
            let said = String::from_utf8_lossy(&answer.2).into_owned();
            assert_eq!(answer.0, status, "{headers:?}: {said}");
            assert!(said.contains(code) && said.contains("error"), "{headers:?}: {said}");
        }
        let unknown = node.infer("magic", &question(), &[]);
        assert_eq!(unknown.0, 404);
        assert_eq!(node.get("/v2/models/magika@sha256:12")["code"], "bad_input");
        still_works(node);
    }
}

#[test]
fn a_client_that_declares_much_and_sends_little_costs_nothing() {
    let mesh = Mesh::with(&[Spec::new("berlin", "DE", "DE").with("magika", magika())]);
    let node = mesh.node("berlin");
    let address = node.url().trim_start_matches("http://").to_owned();
    let before = resident_kib(node);
    let mut streams = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        let head = "POST /v2/models/magika/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n0123456789";
        stream.write_all(head.as_bytes()).expect("it reads");
        streams.push(stream);
    }
    std::thread::sleep(Duration::from_millis(500));
    let grown = resident_kib(node).saturating_sub(before);
    assert!(grown < 64 * 1024, "grew by {grown} KiB for bytes that never came");
    drop(streams);
    // Nonsense instead of HTTP ends that connection alone.
    let mut stream = TcpStream::connect(&address).expect("it listens");
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").expect("it reads");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    still_works(node);
}

fn resident_kib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.process.id()));
    let status = status.expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[test]
fn random_datagrams_on_both_planes_change_nothing() {
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", magika()),
        Spec::new("austin", "US", "US"),
    ]);
    let node = mesh.node("berlin");
    let data = node.addresses["data"][0].as_str().expect("an address").to_owned();
    let control = node.addresses["control"][0].as_str().expect("an address");
    let port = control.split('/').nth(4).expect("/ip4/A/udp/PORT");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let seed = 20_261_122u64;
    eprintln!("seed {seed}");
    let mut state = seed;
    for round in 0..2_000u64 {
        let mut bytes = vec![0; usize::try_from(round % 1_400).expect("small") + 1];
        for byte in &mut bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = state.to_be_bytes()[0];
        }
        let to = if round % 2 == 0 { data.clone() } else { format!("127.0.0.1:{port}") };
        let _ = socket.send_to(&bytes, to);
    }
    still_works(node);
    still_works(mesh.node("austin"));
}

/// Runs a node that must not start; returns its exit code and what it says.
fn refused(mesh: &Mesh, spec: &Spec, change: impl Fn(String) -> String) -> (i32, String) {
    let config = mesh.prepare(spec);
    let text = std::fs::read_to_string(&config).expect("a config");
    std::fs::write(&config, change(text)).expect("a config");
    let output = run(mesh.folder(), &["run", "--config", &config.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap_or(-1), said)
}

#[test]
fn a_node_that_cannot_start_says_which_key_and_why() {
    let mesh = Mesh::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = mesh.folder().join(name);
        std::fs::write(&path, bytes).expect("a file");
        path
    };
    let whole = std::fs::read(magika()).expect("magika");
    let corrupt = write("corrupt.onnx", &[0xa5; 4096]);
    let cut = write("cut.onnx", &whole[..whole.len() / 2]);
    let escaping = write("escaping.onnx", &external("../secret.bin"));
    let missing = mesh.folder().join("missing.onnx");
    let same = |text: String| text;
    for (name, path, says) in [
        ("a", missing, "missing.onnx: No such file"),
        ("b", corrupt, "corrupt.onnx"),
        ("c", cut, "cut.onnx"),
        ("d", escaping, "../secret.bin"),
    ] {
        let (code, said) = refused(&mesh, &Spec::new(name, "DE", "DE").with("m", path), same);
        assert_eq!(code, 78, "{said}");
        assert!(said.contains(says), "{says}: {said}");
    }

    let (code, said) =
        refused(&mesh, &Spec::new("e", "DE", "DE"), |text| text.replace("bootstrap", "bootstap"));
    assert_eq!(code, 78);
    assert!(said.contains("did you mean bootstrap") && said.contains("hansa.toml:"), "{said}");

    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (tcp, port) = (
        tcp.local_addr().map(|addr| (addr, tcp)).expect("an address"),
        udp.local_addr().expect("an address").port(),
    );
    for (name, from, to, key) in [
        ("f", "http = \"127.0.0.1:0\"".to_owned(), format!("http = \"{}\"", tcp.0), "[api] http"),
        ("g", "udp/0/quic".into(), format!("udp/{port}/quic"), "[mesh] listen"),
        (
            "h",
            "data_listen = \"127.0.0.1:0\"".into(),
            format!("data_listen = \"127.0.0.1:{port}\""),
            "data_listen",
        ),
    ] {
        let (code, said) =
            refused(&mesh, &Spec::new(name, "DE", "DE"), |text| text.replace(&from, &to));
        assert_eq!(code, 69, "{said}");
        assert!(said.contains(key), "{key}: {said}");
    }
}

#[test]
fn a_charter_that_does_not_count_is_refused_with_its_own_reason() {
    let mesh = Mesh::new();
    // For another key.
    mesh.prepare(&Spec::new("other", "DE", "DE"));
    let foreign = |text: String| text.replace("\"charter.txt\"", "\"../other/charter.txt\"");
    let (code, said) = refused(&mesh, &Spec::new("i", "DE", "DE"), foreign);
    assert!(code == 78 && said.contains("another peer"), "{code} {said}");
    // By an unknown authority.
    let made =
        run(mesh.folder(), &["authority", "new", "else.key", "--name", "test.example", "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    let unknown = |text: String| {
        let key = text.lines().find(|line| line.starts_with("key = ")).expect("a key").to_owned();
        text.replace(&key, &format!("key = {}", made["key"]))
    };
    let (code, said) = refused(&mesh, &Spec::new("j", "DE", "DE"), unknown);
    assert!(code == 78 && said.contains("no trusted authority"), "{code} {said}");
    // Over-asserting.
    let narrow = |text: String| text.replace("countries = [\"*\"]", "countries = [\"FR\"]");
    let (code, said) = refused(&mesh, &Spec::new("k", "DE", "DE"), narrow);
    assert!(code == 78 && said.contains("may not assert location DE"), "{code} {said}");
    // Changed after it was signed.
    let config = mesh.prepare(&Spec::new("l", "DE", "DE"));
    let note = config.with_file_name("charter.txt");
    let text = std::fs::read_to_string(&note).expect("a charter");
    std::fs::write(&note, text.replace("location DE", "location FR")).expect("a charter");
    let output = run(mesh.folder(), &["run", "--config", &config.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(78) && said.contains("does not verify"), "{said}");
}

#[test]
fn a_peer_whose_charter_others_do_not_trust_is_gated_out_by_them() {
    let mut mesh = Mesh::new();
    mesh.start(&Spec::new("berlin", "DE", "DE"));
    // It trusts its authority for everything; berlin only for Germany.
    let narrow = mesh.folder().join("berlin").join("hansa.toml");
    let text = std::fs::read_to_string(&narrow).expect("a config");
    std::fs::write(&narrow, text.replace("countries = [\"*\"]", "countries = [\"DE\"]"))
        .expect("a config");
    mesh.nodes.clear();
    std::fs::remove_file(narrow.with_file_name("data").join("addresses.json")).expect("addresses");
    mesh.nodes.push(hansa_tests::mesh::launch("berlin", &narrow));
    mesh.start(&Spec::new("paris", "FR", "FR").with("magika", magika()));
    mesh.await_all(Duration::from_secs(10));
    let berlin = mesh.node("berlin");
    let refused = berlin.infer("magika", &question(), &[]);
    let said: Value = serde_json::from_slice(&refused.2).expect("JSON");
    assert_eq!((refused.0, &said["failed"]["charter_invalid"]), (403, &json!(1)), "{said}");
    let peers = berlin.get("/mesh/v1/peers");
    let peers = peers["peers"].as_array().expect("peers");
    let paris = peers.iter().find(|peer| peer["name"] == "paris").expect("paris");
    let fault = paris["charter"]["fault"].as_str().expect("a fault");
    assert!(fault.contains("may not assert location FR"), "{fault}");
    still_works(mesh.node("paris"));
}

/// A model of one Identity whose initializer lies in the file `location`, in protobuf by hand.
fn external(location: &str) -> Vec<u8> {
    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("a small field")];
        out.extend_from_slice(bytes);
        out
    }
    fn varint(number: u8, value: u8) -> Vec<u8> {
        vec![number << 3, value]
    }
    let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
    let tensor = [varint(1, 4), varint(2, 1), field(8, b"w"), field(13, &entry), varint(14, 1)];
    let node = [field(1, b"w"), field(2, b"y"), field(4, b"Identity")].concat();
    let shape = field(2, &field(1, &varint(1, 4)));
    let output_type = field(2, &field(1, &[varint(1, 1), shape].concat()));
    let output = [field(1, b"y"), output_type].concat();
    let graph =
        [field(1, &node), field(2, b"g"), field(5, &tensor.concat()), field(12, &output)].concat();
    [varint(1, 8), field(8, &varint(2, 17)), field(7, &graph)].concat()
}
