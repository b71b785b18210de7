//! What other peers get wrong, or do on purpose: charters that do not count, frames and headers
//! that are none, other versions. Each has its typed answer or its count, and leaves a node that
//! answers the next job.
//!
//! The peers here are the real transports with a test in the place of a node.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hansa_core::advert::{Advert, Device, Model, Version};
use hansa_core::charter::{Charter, Trust};
use hansa_core::directory::{Message, News, Rumour, Talk};
use hansa_core::id::{Digest, JobId, PeerId};
use hansa_core::keys::SigningKey;
use hansa_core::note::SignerKey;
use hansa_core::plan::Refusal;
use hansa_core::policy::Policy;
use hansa_core::time::{Mono, Now, Utc};
use hansa_core::wire::{
    AnswerHeader, Ask, Done, JobHeader, TensorMeta, TraceContext, WIRE_VERSION,
};
use hansa_net::{
    Call, ControlConfig, ControlEvent, ControlHandle, ControlPlane, DataLimits, DataPlane,
};
use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Node, Spec, launch, request};
use serde_json::{Value, json};
use tokio::sync::mpsc;

const INT32: u8 = 6;
const PATIENCE: Duration = Duration::from_secs(10);

fn now() -> Now {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let utc = Utc(u64::try_from(since.as_millis()).expect("some centuries"));
    Now { mono: Mono(utc.0 * 1_000_000), utc }
}

/// A node that trusts `narrow.example` as well, for DE only, and that authority's key.
fn mesh() -> (Mesh, SignerKey, SignerKey) {
    let magika = models::magika(Progress::Stderr).expect("magika can be fetched");
    let mut mesh = Mesh::new();
    let spec = Spec::new("berlin", "DE", "DE").with("magika", magika.join("model.onnx"));
    let config = mesh.prepare(&spec);
    let narrow = SignerKey::new("narrow.example", [8; 32]).expect("a name");
    let text = std::fs::read_to_string(&config).expect("a config");
    let authority = format!(
        "[[authority]]\nname = \"narrow.example\"\nkey = \"{}\"\n\
         may_assert = {{ countries = [\"DE\"], operators = [\"*\"] }}\n",
        narrow.verifier()
    );
    std::fs::write(&config, text + &authority).expect("it can be written");
    mesh.nodes.push(launch("berlin", &config));
    let key = std::fs::read_to_string(mesh.folder().join("test.key")).expect("a key");
    let wide = SignerKey::from_secret_text(&key).expect("the authority's key");
    (mesh, wide, narrow)
}

fn good() -> Value {
    json!({"inputs": [{
        "name": "bytes", "datatype": "INT32", "shape": [1, 2048], "data": vec![7; 2048],
    }]})
}

fn still_works(node: &Node, after: &str) {
    let answer = node.infer("magika", &good(), &[("Hansa-Operators", "berlin")]);
    assert_eq!(answer.0, 200, "after {after}: {}", String::from_utf8_lossy(&answer.2));
}

/// A number that the node counts.
fn count(node: &Node, metric: &str) -> u64 {
    let answer = request("GET", &format!("{}/metrics", node.url()), &[], b"");
    let text = String::from_utf8(answer.2).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(metric));
    line.map_or(0, |count| count.trim().parse().expect("a number"))
}

/// Waits until `holds`.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < patience, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A peer that a test speaks for. It lives as the directory wants it: it answers pings.
struct Raw {
    key: SigningKey,
    control: ControlHandle,
    data: DataPlane,
    calls: mpsc::Receiver<Call>,
    node: PeerId,
    node_data: SocketAddr,
}

impl Raw {
    async fn connect(node: &Node, seed: u8) -> Self {
        let listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
        let config = ControlConfig { listen, ..ControlConfig::default() };
        let plane = ControlPlane::start(&[seed; 32], config).await;
        let (control, mut events) = plane.expect("a free port");
        let addr = "127.0.0.1:0".parse().expect("an address");
        let (data, calls) =
            DataPlane::bind(&[seed; 32], addr, DataLimits::default()).expect("a free port");
        let peer: PeerId = node.peer_id().parse().expect("an id");
        let there = node.addresses["control"][0].as_str().expect("an address");
        let there = there.split("/p2p/").next().expect("an address").to_owned();
        control.dial(peer, vec![there]).expect("room");
        let met =
            async { while !matches!(events.recv().await, Some(ControlEvent::Connected { .. })) {} };
        tokio::time::timeout(PATIENCE, met).await.expect("connected");
        let pongs = control.clone();
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let ControlEvent::Frame { from, bytes } = event else { continue };
                let heard = Message::open(&bytes, &Trust::default(), now(), |_, _| true);
                if let Ok(Message { talk: Talk::Ping { nonce }, .. }) = heard {
                    let pong = Message::of(Talk::Pong { nonce, at: Default::default() }).encode();
                    let _ = pongs.send(from, pong.into());
                }
            }
        });
        let node_data = node.addresses["data"][0].as_str().expect("an address");
        let node_data = node_data.parse().expect("an address");
        let key = SigningKey::from_seed(&[seed; 32]);
        Self { key, control, data, calls, node: peer, node_data }
    }

    /// Says what it is: its name, its charter, and that it holds `bundle` as magika.
    fn advertise(&self, name: &str, charter: Option<String>, bundle: Digest) -> Bytes {
        let now = now();
        let device = Device {
            provider: "cpu".into(),
            name: "CPU".into(),
            id: 0,
            memory_total_mib: 1_024,
            memory_free_mib: 1_024,
            utilisation_percent: None,
        };
        let model = Model {
            name: "magika".into(),
            version: "1".into(),
            bundle,
            slots: 1,
            service_us: 1_000,
        };
        let advert = Advert {
            peer: self.key.peer_id(),
            version: Version { epoch: now.utc.0, sequence: 0 },
            issued: now.utc,
            name: name.into(),
            control_addrs: self.control.addrs(),
            data_addrs: vec![self.data.local_addr()],
            relays: Vec::new(),
            coordinate: Default::default(),
            charter,
            devices: vec![device],
            models: vec![model],
            price: None,
            extensions: Vec::new(),
        };
        let record = advert.sign(&self.key).verify(&Trust::default(), now).expect("an advert");
        let records = vec![Rumour { hops: 0, said: record }];
        let news = News { records, ..News::default() };
        Message { news, ..Message::of(Talk::News) }.encode().into()
    }

    fn tell(&self, frame: impl Into<Bytes>) {
        self.control.send(self.node, frame.into()).expect("room");
    }

    /// Calls the node with a header and a body of any kind.
    async fn call(&self, header: impl Into<Bytes>, body: &[u8]) -> Result<Done, Refusal> {
        let body = vec![Bytes::copy_from_slice(body)];
        let addrs = [self.node_data];
        let call = self.data.call(self.node, &addrs, header.into(), body);
        let answer = tokio::time::timeout(PATIENCE, call).await.expect("in time");
        AnswerHeader::decode(&answer.expect("answered").header).expect("an answer").outcome
    }

    /// A job that is right in every way; its tensor follows.
    fn job(&self, bundle: Digest) -> JobHeader {
        let policy = Policy::default();
        let bytes =
            TensorMeta { name: "bytes".into(), dtype: INT32, shape: vec![1, 2048], bytes: 8192 };
        JobHeader {
            version: WIRE_VERSION,
            job: JobId([3; 16]),
            path: vec![self.key.peer_id()],
            hops_left: 1,
            remaining_us: 10_000_000,
            policy_hash: policy.hash(),
            policy,
            trace: TraceContext::default(),
            ask: Ask::Infer { bundle, inputs: vec![bytes], outputs: Vec::new() },
            extensions: Vec::new(),
        }
    }
}

fn charter(subject: PeerId, operator: &str, place: &str, hours: (i64, i64)) -> Charter {
    let hour = |hours: i64| Utc((now().utc.0 / 1_000).saturating_add_signed(hours * 3_600) * 1_000);
    Charter {
        serial: "1".into(),
        subject,
        location: place.parse().expect("a place"),
        operator: operator.into(),
        lei: None,
        control: place.parse().expect("a place"),
        data_classes: BTreeSet::new(),
        not_before: hour(hours.0),
        not_after: hour(hours.1),
        authorities: BTreeSet::new(),
    }
}

fn bundle(node: &Node) -> Digest {
    let metadata = node.get("/v2/models/magika");
    let digest = metadata["parameters"]["bundle"].as_str().expect("a digest");
    digest.parse().expect("a digest")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_charter_does_not_count_is_gated_out_with_its_own_reason() {
    let (mesh, wide, narrow) = mesh();
    let node = mesh.node("berlin");
    let bundle = bundle(node);
    let unknown = SignerKey::new("unknown.example", [9; 32]).expect("a name");
    let valid = (-1, 1);
    let cases = [
        ("expired", &wide, "DE", (-48, -24), "charter_expired", "not valid now"),
        ("early", &wide, "DE", (24, 48), "charter_expired", "not valid now"),
        ("foreign", &wide, "DE", valid, "charter_invalid", "charter of another peer"),
        ("unknown", &unknown, "DE", valid, "charter_invalid", "signed by unknown.example"),
        (
            "over",
            &narrow,
            "FR",
            valid,
            "charter_invalid",
            "`narrow.example` may not assert location FR",
        ),
        ("forged", &wide, "DE", valid, "charter_invalid", "does not verify"),
        ("none", &wide, "DE", valid, "no_charter", "no charter"),
        ("honest", &narrow, "DE", valid, "", ""),
    ];
    let mut peers = Vec::new();
    for (seed, (name, signer, place, hours, ..)) in (20..).zip(cases) {
        let peer = Raw::connect(node, seed).await;
        let subject = if name == "foreign" { PeerId([5; 32]) } else { peer.key.peer_id() };
        let note = charter(subject, name, place, hours).sign(signer).expect("it can be signed");
        let note = match name {
            "forged" => Some(note.replace("location DE", "location FR")),
            "none" => None,
            _ => Some(note),
        };
        peer.tell(peer.advertise(name, note, bundle));
        peers.push(peer);
    }
    eventually("all are seen", || node.alive().len() == cases.len() + 1).await;
    let seen = node.get("/mesh/v1/peers");
    let plan = node.get("/mesh/v1/plan?model=magika");
    let of = |list: &Value, name: &str| {
        let list = list["peers"].as_array().expect("peers").clone();
        list.into_iter().find(|peer| peer["name"] == name).expect("every peer is named")
    };
    for (peer, (name, _, _, _, rule, words)) in peers.iter().zip(cases) {
        let (standing, planned) = (&of(&seen, name)["charter"], of(&plan, name));
        eprintln!("{name}: {standing} {}", planned["gated_out"]);
        let answer = peer.call(peer.job(bundle).encode(), &[0; 8192]).await;
        if rule.is_empty() {
            assert_eq!(standing["valid"], true, "{name}: {standing}");
            assert!(planned["gated_out"].is_null() && planned["rank"].is_u64(), "{planned}");
            assert!(answer.is_ok(), "{answer:?}");
            continue;
        }
        assert_eq!(planned["gated_out"]["rule"], rule, "{name}: {planned}");
        let detail = planned["gated_out"]["detail"].as_str().expect("words");
        assert!(detail.contains(words), "{name}: {detail}");
        match standing["fault"].as_str() {
            Some(fault) => assert!(fault.contains(words), "{name}: {fault}"),
            None => assert_eq!(standing["valid"], false, "{name}: {standing}"),
        }
        // Nothing is sent to it, and nothing taken from it.
        let to_it = node.infer("magika", &good(), &[("Hansa-Operators", name)]);
        assert_eq!(to_it.0, 403, "{name}: {}", String::from_utf8_lossy(&to_it.2));
        match answer {
            Err(Refusal::NotServed { rule: of }) => assert_eq!(json!(of), rule, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
        still_works(node, name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_and_frames_that_are_none_or_of_another_version_are_refused() {
    let (mesh, wide, _) = mesh();
    let node = mesh.node("berlin");
    let bundle = bundle(node);
    let mut peer = Raw::connect(node, 40).await;
    let note = charter(peer.key.peer_id(), "paris", "FR", (-1, 1)).sign(&wide).expect("signed");
    let advert = peer.advertise("paris", Some(note), bundle);
    peer.tell(advert.clone());
    eventually("it is seen", || node.alive().contains(&"paris".to_owned())).await;
    let tensor = [0; 8192];
    peer.call(peer.job(bundle).encode(), &tensor).await.expect("a good job is answered");

    // The data plane.
    let whole = peer.job(bundle).encode();
    let noise: Vec<u8> =
        (0..500u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let version = JobHeader { version: 2, ..peer.job(bundle) }.encode();
    let other_law = JobHeader { policy_hash: Digest([1; 32]), ..peer.job(bundle) }.encode();
    let path = JobHeader { path: vec![PeerId([5; 32])], ..peer.job(bundle) }.encode();
    let price = Policy { price_micros_max: Some(1), ..Policy::default() };
    let priced =
        JobHeader { policy_hash: price.hash(), policy: price, ..peer.job(bundle) }.encode();
    let missing = peer.job(Digest([9; 32])).encode();
    let with = |change: fn(&mut TensorMeta)| {
        let mut header = peer.job(bundle);
        let Ask::Infer { inputs, .. } = &mut header.ask else { panic!("an inference") };
        change(&mut inputs[0]);
        header.encode()
    };
    let gib = |meta: &mut TensorMeta| (meta.shape, meta.bytes) = (vec![131_072, 2048], 1 << 30);
    let before = peak_kib(node);
    let cases: [(&str, Vec<u8>, &[u8], &str); 16] = [
        ("no header", Vec::new(), &[], "malformed"),
        ("a random header", noise.clone(), &[], "peer speaks wire version"),
        ("half a header", whole[..whole.len() / 2].to_vec(), &tensor, "malformed"),
        ("a header and more", [&whole[..], &[0]].concat(), &tensor, "1 bytes follow"),
        ("version 2", version, &tensor, "the peer speaks wire version 2, this one speaks 1"),
        ("a policy read otherwise", other_law, &tensor, "the policy does not hash"),
        ("another's path", path, &tensor, "not the last of its path"),
        ("a price in no currency", priced, &tensor, "the policy is over its limit"),
        ("an unknown bundle", missing, &tensor, "no peer offers the model"),
        ("another name", with(|meta| meta.name = "byte".into()), &tensor, "`byte`"),
        ("another type", with(|meta| meta.dtype = 1), &tensor, "FP32"),
        ("an unknown type", with(|meta| meta.dtype = 99), &tensor, "99"),
        ("another shape", with(|meta| meta.shape = vec![2, 1024]), &tensor, "[2, 1024]"),
        ("other bytes", with(|meta| meta.bytes = 8188), &tensor, "8188"),
        ("1 GiB declared", with(gib), &[0; 10], "ended after 10 of 1073741824 bytes"),
        ("half a tensor", whole, &tensor[..4096], "ended after 4096 of 8192 bytes"),
    ];
    for (what, header, body, words) in cases {
        let refusal = peer.call(header, body).await.expect_err(what);
        eprintln!("data plane, {what}: {refusal:?}");
        assert!(refusal.to_string().contains(words), "{what}: {refusal}");
        peer.call(peer.job(bundle).encode(), &tensor).await.expect("a good job is answered");
        still_works(node, what);
    }
    let grown = peak_kib(node) - before;
    assert!(grown < 128 * 1024, "the node grew by {grown} KiB");

    // The control plane.
    let refused = "hansa_gossip_refused_total";
    let mut version = Message::of(Talk::Ping { nonce: 1 }).encode();
    version[0] = 3;
    let frames = [
        ("noise", noise, "gossip frame refused"),
        ("an empty frame", Vec::new(), "gossip frame: malformed"),
        ("half a frame", advert[..advert.len() / 2].to_vec(), "gossip frame: malformed"),
        ("version 3", version, "the peer speaks gossip version 3, this one speaks 2"),
        (
            "a forged advert",
            {
                // A newer one: what is known already is not read again.
                let mut forged = peer.advertise("paris", None, bundle).to_vec();
                let end = forged.len() - 20;
                forged[end] ^= 1;
                forged
            },
            "forged advert",
        ),
    ];
    for (what, frame, words) in frames {
        let before = count(node, refused);
        peer.tell(frame);
        eventually(what, || count(node, refused) > before).await;
        let log = std::fs::read_to_string(&node.log).expect("a log");
        assert!(log.contains(words), "{what}: the log does not say `{words}`:\n{log}");
        still_works(node, what);
    }

    // Whatever comes as a packet.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let control = node.addresses["control"][0].as_str().expect("an address");
    let control = control.split('/').nth(4).expect("a port");
    for target in [peer.node_data.to_string(), format!("127.0.0.1:{control}")] {
        for length in 0..1_200usize {
            let start = u32::try_from(length).expect("small").wrapping_mul(7_919);
            let packet: Vec<u8> = (start..)
                .take(length)
                .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
                .collect();
            // A full queue of the system is none of the node's faults.
            let _ = socket.send_to(&packet, &target);
        }
        still_works(node, "noise by UDP");
    }
    peer.call(peer.job(bundle).encode(), &tensor).await.expect("a good job is answered");
    assert!(node.alive().contains(&"paris".to_owned()), "it is still a member");

    // An executor that answers nonsense costs its own jobs only.
    let Raw { calls, .. } = &mut peer;
    let mut calls = std::mem::replace(calls, mpsc::channel(1).1);
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            let _ = call.reply.send(Bytes::from_static(&[77; 40]), []).await;
        }
    });
    let url = format!("{}/v2/models/magika/infer", node.url());
    let body = good().to_string();
    let answer = tokio::task::block_in_place(|| {
        request("POST", &url, &[("Hansa-Operators", "paris")], body.as_bytes())
    });
    let said: Value = serde_json::from_slice(&answer.2).expect("JSON");
    eprintln!("an executor's nonsense: {} {said}", answer.0);
    assert_eq!((answer.0, &said["code"]), (503, &json!("unavailable")), "{said}");
    assert_eq!(said["failed"], json!({ "operator": 1, "unreachable": 1 }));
    still_works(node, "an executor's nonsense");
}

/// The most memory that the node ever had, in KiB.
fn peak_kib(node: &Node) -> u64 {
    let path = format!("/proc/{}/status", node.process.id());
    let status = std::fs::read_to_string(path).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmHWM")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}
