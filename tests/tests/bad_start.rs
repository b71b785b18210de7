//! What keeps a node from starting: a config, a model, a charter, a port that is not right. Each
//! ends the process with its exit code (78: the config or a file that it names, 69: something that
//! is needed is not there) and words that name what to change.

use std::collections::BTreeSet;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use hansa_core::charter::Charter;
use hansa_core::id::PeerId;
use hansa_core::note::SignerKey;
use hansa_core::time::Utc;
use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::hansa;
use hansa_tests::mesh::{Mesh, Spec};

const CONFIG: i32 = 78;
const UNAVAILABLE: i32 = 69;

/// Runs `hansa COMMAND --config CONFIG`, which must end by itself, and returns its exit code and
/// all that it said.
fn ended(command: &str, config: &Path) -> (i32, String) {
    let log = config.with_extension("said");
    let file = std::fs::File::create(&log).expect("a log can be written");
    let mut process = Command::new(hansa())
        .args([command, "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a file"))
        .stderr(file)
        .spawn()
        .expect("hansa starts");
    let patience = Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = process.try_wait().expect("it can be waited for") {
            break status;
        }
        if Instant::now() > patience {
            process.kill().expect("it runs");
            process.wait().expect("it ends");
            panic!("hansa {command} runs on: {}", std::fs::read_to_string(&log).unwrap());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    (status.code().expect("it was not killed"), std::fs::read_to_string(&log).expect("a log"))
}

/// The process ends with `code` and says all of `words`.
fn refused(command: &str, config: &Path, code: i32, words: &[&str]) {
    let (ended, said) = ended(command, config);
    assert_eq!(ended, code, "hansa {command}: {said}");
    for word in words {
        assert!(said.contains(word), "hansa {command} does not say `{word}`: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// Replaces text of a config, which must be there.
fn edit(config: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(config).expect("a config");
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(config, text.replace(from, to)).expect("it can be written");
}

fn magika() -> PathBuf {
    models::magika(Progress::Stderr).expect("magika can be fetched").join("model.onnx")
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_the_key_that_was_meant() {
    let mesh = Mesh::new();
    let config = mesh.prepare(&Spec::new("berlin", "DE", "DE"));
    edit(&config, "threads = 1", "treads = 1");
    for command in ["check", "run"] {
        refused(command, &config, CONFIG, &["hansa.toml:", "treads", "threads", "[runtime]"]);
    }
}

#[test]
fn a_model_file_that_is_missing_corrupt_or_reaches_out_of_its_folder_is_refused() {
    let mesh = Mesh::new();
    let file = mesh.folder().join("models").join("m.onnx");
    std::fs::create_dir(file.parent().expect("a folder")).expect("a folder");
    let config = mesh.prepare(&Spec::new("berlin", "DE", "DE").with("m", &file));

    for command in ["check", "run"] {
        refused(command, &config, CONFIG, &["[[model]]", "m.onnx", "No such file"]);
    }
    let whole = std::fs::read(magika()).expect("magika");
    let noise: Vec<u8> =
        (0..4_096u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    for (bytes, words) in [
        (&[][..], ["[[model]] `m`", "m.onnx"]),
        (&noise, ["[[model]] `m`", "m.onnx"]),
        (&whole[..whole.len() / 2], ["[[model]] `m`", "m.onnx"]),
        (&whole[..100], ["[[model]] `m`", "m.onnx"]),
    ] {
        std::fs::write(&file, bytes).expect("it can be written");
        refused("run", &config, CONFIG, &words);
    }
    std::fs::write(mesh.folder().join("secret.bin"), [0; 16]).expect("it can be written");
    let absolute = mesh.folder().join("secret.bin").display().to_string();
    for location in ["../secret.bin", &absolute, "sub/../../secret.bin"] {
        std::fs::write(&file, adder(location)).expect("it can be written");
        refused("run", &config, CONFIG, &["[[model]] `m`", location, "folder"]);
    }
    // A link out of the folder is no way around.
    std::os::unix::fs::symlink("../secret.bin", file.with_file_name("w.bin")).expect("a link");
    std::fs::write(&file, adder("w.bin")).expect("it can be written");
    refused("run", &config, CONFIG, &["[[model]] `m`", "w.bin"]);
    // And the same model with its weights where they belong runs.
    std::fs::remove_file(file.with_file_name("w.bin")).expect("the link");
    std::fs::write(file.with_file_name("w.bin"), [0; 16]).expect("it can be written");
    hansa_tests::mesh::launch("berlin", &config);
}

/// An ONNX model, y = x + w, with w of four floats at `location`.
fn adder(location: &str) -> Vec<u8> {
    // Field and bytes of protobuf; nothing here is longer than two bytes of length.
    fn bytes(field: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len() & 0x7f).expect("seven bits");
        let more = u8::try_from(content.len() >> 7).expect("a short text");
        [&[field << 3 | 2, length | 0x80, more], content].concat()
    }
    let text = |field, content: &str| bytes(field, content.as_bytes());
    let value = |name| {
        let shape = bytes(2, &bytes(1, &[1 << 3, 4]));
        let tensor = [vec![1 << 3, 1], shape].concat();
        [text(1, name), bytes(2, &bytes(1, &tensor))].concat()
    };
    let node = [text(1, "x"), text(1, "w"), text(2, "y"), text(4, "Add")].concat();
    let entry = [text(1, "location"), text(2, location)].concat();
    let weight = [
        vec![1 << 3, 4, 2 << 3, 1],
        text(8, "w"),
        bytes(13, &entry),
        vec![14 << 3, 1], // Its data is external.
    ];
    let graph = [
        bytes(1, &node),
        text(2, "g"),
        bytes(5, &weight.concat()),
        bytes(11, &value("x")),
        bytes(12, &value("y")),
    ];
    let opset = [text(1, ""), vec![2 << 3, 17]].concat();
    [vec![1 << 3, 8], bytes(7, &graph.concat()), bytes(8, &opset)].concat()
}

/// A charter for `subject` that begins and ends so many hours from now.
fn charter(subject: PeerId, from_hours: i64, to_hours: i64) -> Charter {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let hour = |hours: i64| Utc(now.as_secs().saturating_add_signed(hours * 3_600) * 1_000);
    Charter {
        serial: "1".into(),
        subject,
        location: "DE".parse().expect("a place"),
        operator: "berlin".into(),
        lei: None,
        control: "DE".parse().expect("a place"),
        data_classes: BTreeSet::new(),
        not_before: hour(from_hours),
        not_after: hour(to_hours),
        authorities: BTreeSet::new(),
    }
}

#[test]
fn a_charter_that_does_not_count_is_refused_with_its_own_reason() {
    let mesh = Mesh::new();
    let config = mesh.prepare(&Spec::new("berlin", "DE", "DE"));
    let file = config.with_file_name("charter.txt");
    let note = std::fs::read_to_string(&file).expect("a charter");
    let me = Charter::read_unverified(&note).expect("a charter").subject;
    let key = std::fs::read_to_string(mesh.folder().join("test.key")).expect("a key");
    let signer = SignerKey::from_secret_text(&key).expect("the authority's key");
    let stranger = SignerKey::new("stranger.example", [9; 32]).expect("a name");
    let other = PeerId([5; 32]);
    let sign = |charter: Charter, signer| charter.sign(signer).expect("it can be signed");

    let cases = [
        (sign(charter(me, -48, -24), &signer), vec!["expired", "new one"]),
        (sign(charter(me, 24, 48), &signer), vec!["not valid yet", "clock"]),
        (sign(charter(other, -1, 1), &signer), vec!["charter of another peer", "this node is"]),
        (sign(charter(me, -1, 1), &stranger), vec!["no trusted authority", "stranger.example"]),
        (note.replace("location DE", "location FR"), vec!["does not verify", "test.example"]),
        ("hello\n".into(), vec!["not a signed note"]),
        (note.repeat(40), vec!["the limit is"]),
    ];
    for (text, words) in cases {
        std::fs::write(&file, text).expect("it can be written");
        for command in ["check", "run"] {
            refused(command, &config, CONFIG, &[&["charter_file"], &words[..]].concat());
        }
    }
    std::fs::write(&file, sign(charter(me, -1, 1), &signer)).expect("it can be written");
    let anything = std::fs::read_to_string(&config).expect("a config");
    edit(&config, "countries = [\"*\"]", "countries = [\"FR\"]");
    for command in ["check", "run"] {
        let words = ["charter_file", "`test.example` may not assert location DE"];
        refused(command, &config, CONFIG, &words);
    }
    std::fs::write(&config, anything).expect("it can be written");
    hansa_tests::mesh::launch("berlin", &config);
}

#[test]
fn a_port_that_another_process_has_is_named_with_its_key_and_its_holder_goes_on() {
    let mut mesh = Mesh::new();
    mesh.start(&Spec::new("berlin", "DE", "DE").with("magika", magika()));
    let berlin = mesh.node("berlin");
    let http = berlin.url().replace("http://", "");
    let control = berlin.addresses["control"][0].as_str().expect("an address");
    let control = control.split("/p2p/").next().expect("an address");
    let data = berlin.addresses["data"][0].as_str().expect("an address");

    let second = mesh.prepare(&Spec::new("second", "DE", "DE"));
    let text = std::fs::read_to_string(&second).expect("a config");
    for (free, taken, key) in [
        ("http = \"127.0.0.1:0\"", format!("http = {http:?}"), "[api] http"),
        (
            "listen = \"/ip4/127.0.0.1/udp/0/quic-v1\"",
            format!("listen = {control:?}"),
            "[mesh] listen",
        ),
        ("data_listen = \"127.0.0.1:0\"", format!("data_listen = {data:?}"), "[mesh] data_listen"),
    ] {
        std::fs::write(&second, &text).expect("it can be written");
        edit(&second, free, &taken);
        refused("run", &second, UNAVAILABLE, &[key, "in use"]);
    }
    // Nor does it matter whose the other process is.
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
    let (tcp, udp) = (tcp.expect("a free port"), udp.expect("a free port"));
    for (free, taken, key) in [
        (
            "http = \"127.0.0.1:0\"",
            format!("http = \"{}\"", tcp.local_addr().unwrap()),
            "[api] http",
        ),
        (
            "data_listen = \"127.0.0.1:0\"",
            format!("data_listen = \"{}\"", udp.local_addr().unwrap()),
            "[mesh] data_listen",
        ),
    ] {
        std::fs::write(&second, &text).expect("it can be written");
        edit(&second, free, &taken);
        refused("run", &second, UNAVAILABLE, &[key, "in use"]);
    }
    let question = serde_json::json!({"inputs": [{
        "name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": vec![0; 2048],
    }]});
    assert_eq!(berlin.infer("magika", &question, &[]).0, 200);
}
