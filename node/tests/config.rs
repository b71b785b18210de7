//! Configs as operators write them, and the commands that make and check them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use hansa_node::config::{Config, ConfigErrors, ModelSource};
use hansa_runtime::line::{Queueing, WhenLate};
use serde_json::Value;
use tempfile::TempDir;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("configs")
}

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new("x/hansa.toml"))
}

/// What is wrong with `text`, one line per problem.
fn wrong(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

/// Runs `hansa`; gives exit code, standard output and standard error.
fn hansa(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_hansa"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("HANSA_VIA")
        .output();
    let Output { status, stdout, stderr } = done.expect("hansa runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code().expect("no signal"), text(stdout), text(stderr))
}

/// Runs `hansa`, which must succeed, and reads the JSON that it prints.
fn json(folder: &Path, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = hansa(folder, arguments);
    assert_eq!(code, 0, "hansa {arguments:?}: {stderr}");
    serde_json::from_str(&stdout).expect("one JSON object")
}

#[test]
fn a_misspelt_key_is_named_with_its_line_and_its_neighbour() {
    let text = "[node]\nname = \"a\"\n\n[mesh]\nbootstap = []\nmdsn = true\n[apis]\n";
    let lines = wrong(text);
    let expected = "x/hansa.toml:5: [mesh] bootstap: unknown key; did you mean bootstrap?\n\
                    x/hansa.toml:6: [mesh] mdsn: unknown key; did you mean mdns?\n\
                    x/hansa.toml:7: apis: unknown key; did you mean api?";
    assert_eq!(lines, expected);
}

#[test]
fn every_problem_is_told_at_once() {
    let text = "[mesh]\nlisten = 4101\nmdns = \"yes\"\n[runtime]\nthreads = -1\n\
                [[model]]\nname = \"m\"\nversion = 1\n[telemetry]\nlog = \"a=b=c\"\n";
    let lines = wrong(text);
    for expected in [
        ":2: [mesh] listen: expected a text in quotes, found a whole number",
        ":3: [mesh] mdns: expected true or false, found a text",
        ":5: [runtime] threads: -1 is not",
        ":7: [[model]] path: is missing",
        ":8: [[model]] version: expected a text in quotes",
        ":10: [telemetry] log: `a=b=c` is not a filter",
    ] {
        assert!(lines.contains(expected), "{expected} in\n{lines}");
    }
    assert_eq!(lines.lines().count(), 6, "{lines}");
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for (text, reason) in [
        ("[mesh\n", "not TOML"),
        ("[mesh]\nlisten = \"0.0.0.0:1\"", "is not"),
        ("[mesh]\nbootstrap = [\"/ip4/1.2.3.4/tcp/1\"]", "QUIC"),
        ("[mesh]\nbootstrap = [1]", "in the list"),
        ("[mesh]\ndata_listen = \"localhost\"", "address and a port"),
        ("[runtime]\ndevices = \"gpu\"", "auto"),
        ("[runtime]\ndevices = [{ provider = \"tpu\" }]", "neither cpu nor cuda"),
        ("[runtime]\ndevices = []", "names no device"),
        ("[[authority]]\nname = \"a\"\nkey = \"b\"", "NAME+HASH+BASE64"),
        ("[[model]]\nname = \"a\"\npath = \"a.onnx\"\ninstances = 0", "0 is not from 1"),
        ("[[model]]\nname = \"\"\npath = \"a.onnx\"", "1 to 256 bytes"),
        ("[policy.serve]\nlocations = \"Europe\"", "not a place"),
        ("[policy.serve]\nlocations = \"\"", "is empty"),
        ("[policy.send]\ncontrol = \"EU,!UK\"", "GB"),
        ("[policy.send]\ndata_classes = \"!health\"", "cannot be denied"),
        ("[groups]\nDE = [\"FR\"]", "a country has this name"),
        ("[groups]\nX = [\"XX\"]", "not an assigned"),
        ("[api.tls]\ncert = \"a\"", "both cert and key"),
        ("[audit]\nreceipts = \"each\"", "needs a charter"),
        ("[audit]\nreceipts = \"all\"", "is not \"off\", \"batched\" or \"each\""),
        ("[audit]\nfail_closed = true", "receipts are off"),
        ("[audit]\nretention_days = 40000", "40000 is not from 0"),
        ("[telemetry]\nformat = \"xml\"", "neither text nor json"),
        ("[identity]\nkey_file = \"env:\"", "no environment variable"),
        ("api = 8000", "expected a table"),
    ] {
        let lines = wrong(text);
        assert!(lines.contains(reason), "{text}: {lines}");
    }
}

#[test]
fn a_model_is_listed_once() {
    let model = "[[model]]\nname = \"m\"\npath = \"m.onnx\"\n";
    assert!(wrong(&model.repeat(2)).contains("listed twice"));
    assert_eq!(parse(&format!("{model}{model}version = \"2\"")).unwrap().models.len(), 2);
}

#[test]
fn how_a_models_jobs_wait_and_run_is_the_operators() {
    let model = "[[model]]\nname = \"m\"\npath = \"m.onnx\"\n";
    let serving = |text: &str| parse(&format!("{model}{text}")).unwrap().models[0].serving;
    let plain = serving("");
    assert_eq!((plain.queue.max, plain.queue.timeout, plain.batching.priorities), (1024, None, 1));
    let told = serving(
        "batch = { max_rows = 8, preferred = [4, 8], priorities = 3 }\n\
         queue = { max = 5, timeout_us = 2000, when_late = \"delay\" }",
    );
    assert_eq!(told.batching.preferred[..3], [4, 8, 0]);
    assert_eq!((told.batching.priorities, told.batching.priority_default), (3, 3));
    let queue =
        Queueing { max: 5, timeout: Some(Duration::from_millis(2)), when_late: WhenLate::Delay };
    assert_eq!(told.queue, queue);
    for (line, reason) in [
        ("batch = { max_rows = 4, preferred = [8] }", "preferred: 8 is not from 1 to 4"),
        ("batch = { preferred = [0] }", "preferred: 0 is not from 1"),
        ("batch = { preferred = [1,2,3,4,5,6,7,8,9] }", "9 numbers; at most 8"),
        ("batch = { priorities = 2, default_priority = 3 }", "3 is not from 1 to 2"),
        ("batch = { priorities = 2, preserve_order = true }", "there are priorities"),
        ("queue = { when_late = \"drop\" }", "neither \"reject\" nor \"delay\""),
        ("queue = { max = 100000 }", "100000 is not from 0 to 65536"),
        ("[repository]\ncontrol = \"poll\"", "control: of which folder? add dir"),
        ("[repository]\ncontrol = \"always\"", "is not \"none\", \"poll\" or \"explicit\""),
    ] {
        let lines = wrong(&format!("{model}{line}"));
        assert!(lines.contains(reason), "{line}: {lines}");
    }
}

#[test]
fn a_public_api_needs_tls_or_the_word_plaintext() {
    for addr in ["0.0.0.0:8000", "[::]:8000", "203.0.113.7:80"] {
        let http = format!("[api]\nhttp = \"{addr}\"\n");
        let lines = wrong(&http);
        assert!(
            lines.starts_with("x/hansa.toml:2: [api] http:") && lines.contains("tls"),
            "{lines}"
        );
        assert!(wrong(&format!("{http}plaintext = false")).contains("not be encrypted"));
        assert!(parse(&format!("{http}plaintext = true")).unwrap().api.plaintext);
        let tls = parse(&format!("{http}tls = {{ cert = \"c.pem\", key = \"env:TLS_KEY\" }}"));
        assert_eq!(tls.unwrap().api.tls.unwrap().cert, Path::new("x/c.pem"));
    }
    parse("[api]\nhttp = \"[::1]:8000\"").unwrap();
    assert!(wrong("[api]\ngrpc = \"0.0.0.0:8001\"").starts_with("x/hansa.toml:2: [api] grpc:"));
    let both = parse("[api]\ngrpc = \"127.0.0.1:8001\"").unwrap();
    assert_eq!(both.api.grpc, Some("127.0.0.1:8001".parse().unwrap()));
    assert!(wrong("[api]\ngrpc = \"127.0.0.1:8000\"").contains("give another port"));
}

#[test]
fn a_key_of_a_later_version_is_refused_by_name_and_never_ignored() {
    for (section, line) in [
        ("api", "keys_file = \"keys\""),
        ("api", "admin = \"127.0.0.1:1\""),
        ("telemetry", "otlp = \"http://127.0.0.1:4317\""),
        ("telemetry", "metrics = false"),
    ] {
        let text = match section.split_once('.') {
            Some((list, rest)) => {
                format!("[[{list}]]\nname = \"m\"\npath = \"m.onnx\"\n[{list}.{rest}]\n{line}")
            }
            None => format!("[{section}]\n{line}"),
        };
        let lines = wrong(&text);
        let key = line.split(' ').next().unwrap();
        let named = format!("[{section}] {key}: ");
        assert!(
            lines.contains(&named) && lines.contains("not supported by this version"),
            "{lines}"
        );
    }
}

#[test]
fn a_price_is_in_a_currency_that_there_is_and_no_less_than_nothing() {
    let text = "[price]\ncurrency = \"EUR\"\nper_device_second = 0.001\nper_gb = 2\n\
                [policy]\nmax_price = \"0.02 CHF\"";
    let config = parse(text).unwrap();
    let price = config.price.unwrap();
    assert_eq!(price.currency, "EUR");
    assert_eq!((price.per_device_second_micros, price.per_gb_micros), (1_000, 2_000_000));
    assert_eq!(config.policy.max_price.unwrap().to_string(), "0.020000 CHF");
    assert_eq!(parse("[price]\ncurrency = \"EUR\"\nper_gb = 0").unwrap().price, None);
    for (line, reason) in [
        ("currency = \"eur\"", "currency: `eur` is not a currency"),
        ("currency = \"EUX\"", "currency: `EUX` is not the code of a currency"),
        ("per_gb = 0.01", "per_gb: in which currency?"),
        ("currency = \"EUR\"\nper_gb = -0.01", "per_gb: -0.01 is not a number from 0 to"),
        ("currency = \"EUR\"\nper_gb = nan", "per_gb: NaN is not a number"),
        ("currency = \"EUR\"\nper_gb = inf", "per_gb: inf is not a number"),
        ("currency = \"EUR\"\nper_gb = \"1\"", "per_gb: expected a number, found a text"),
        ("currency = \"EUR\"\nper_device_second = 1e-7", "more than six decimal places"),
    ] {
        let lines = wrong(&format!("[price]\n{line}"));
        let at = 1 + line.lines().count();
        assert!(lines.contains(&format!(":{at}: [price] ")), "{lines}");
        assert!(lines.contains(reason), "{lines}");
    }
    assert!(wrong("[policy]\nmax_price = \"1\"").contains("amount and a currency"));
}

#[test]
fn policies_use_the_words_of_requests() {
    let text = "[policy.serve]\nlocations = \"EU,!IE\"\noperators = \"A, B\"\n\
                authorities = \"eu.example\"\ndata_classes = \"health\"\nsignatures_min = 2\n\
                [policy.send]\ncontrol = \"HOME\"\n[groups]\nHOME = [\"CH\", \"LI\"]\n";
    let policy = parse(text).unwrap().policy;
    let allow = policy.serve.locations.allow.as_ref().unwrap();
    assert_eq!(allow.len(), 27);
    assert!(!policy.serve.locations.permits_place(&"IE".parse().unwrap()));
    assert!(policy.serve.locations.permits_place(&"DE-BE".parse().unwrap()));
    assert!(policy.serve.operators.permits_value(&"B".to_owned()));
    assert!(!policy.serve.authorities.permits_value(&"us.example".to_owned()));
    assert_eq!(policy.serve.signatures_min, 2);
    assert!(policy.serve.data_classes.contains("health"));
    assert!(policy.send.control.permits_place(&"LI".parse().unwrap()));
    assert!(!policy.send.control.permits_place(&"DE".parse().unwrap()));
    assert!(parse("").unwrap().policy.serve.is_unconstrained());
}

#[test]
fn the_built_in_groups_have_as_many_members_as_the_treaties() {
    let groups = Config::default().groups;
    let (eu, eea) = (groups.expand("EU").unwrap(), groups.expand("EEA").unwrap());
    assert_eq!((eu.len(), eea.len()), (27, 30));
    assert!(eu.is_subset(&eea));
    // Decisions on adequacy are on third countries, and here those that hold for any recipient.
    let adequate = groups.expand("ADEQUACY").unwrap();
    assert!(adequate.len() == 14 && adequate.is_disjoint(&eea));
    assert!(!adequate.contains("US") && !adequate.contains("CA"));
}

#[test]
fn paths_are_relative_to_the_config() {
    let text = "[node]\ndata_dir = \"d\"\n[[model]]\nname = \"m\"\npath = \"/abs/m.onnx\"\n\
                [[model]]\nname = \"n\"\npath = \"n.onnx\"";
    let config = parse(text).unwrap();
    assert_eq!(config.node.data_dir, Path::new("x/d"));
    let path = |path: &str| ModelSource::Path(path.into());
    assert_eq!(config.models[0].source, path("/abs/m.onnx"));
    assert_eq!(config.models[1].source, path("x/n.onnx"));
}

#[test]
fn a_model_comes_from_a_path_or_is_meant_by_its_digest() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let config = parse(&format!("[[model]]\nname = \"m\"\nbundle = \"{digest}\"")).unwrap();
    assert_eq!(config.models[0].source, ModelSource::Bundle(digest.parse().unwrap()));
    let both = format!("[[model]]\nname = \"m\"\npath = \"m.onnx\"\nbundle = \"{digest}\"");
    assert!(wrong(&both).contains("bundle: is given beside path"), "{}", wrong(&both));
    let none = wrong("[[model]]\nname = \"m\"\nbundle = \"sha256:12\"");
    assert!(none.contains("bundle: not a digest"), "{none}");
    assert!(wrong("[[model]]\nname = \"m\"").contains("path: is missing"));
}

#[test]
fn the_reference_shows_every_key_and_every_default() {
    let file = configs().join("reference.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    // Same folder, so that the relative paths agree.
    let shown = Config::parse(&text, &file).unwrap();
    assert_eq!(
        shown,
        Config::parse("", &file).unwrap(),
        "a default that is shown is not the code's"
    );

    let mut keys = BTreeSet::new();
    let mut section = String::new();
    for line in text.lines() {
        let line = line.strip_prefix("# ").unwrap_or(line);
        let is_key =
            |key: &str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'.');
        let header = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some(header) = header.map(|header| header.trim_matches(['[', ']'])) {
            assert!(is_key(header), "{line}");
            section = header.to_owned();
            keys.insert(section.clone());
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| is_key(key)) {
            assert!(keys.insert(format!("{section}.{key}")) || key == "devices", "{line}: twice");
        }
    }
    // A default that is no default (`None`, no table) is shown in a comment; nothing else is.
    let known: BTreeSet<String> = Config::keys().into_iter().collect();
    let missing: Vec<_> = known.difference(&keys).collect();
    let unknown: Vec<_> = keys.difference(&known).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, unknown {unknown:?}");
}

#[test]
fn every_default_that_exists_is_shown_uncommented() {
    let text = std::fs::read_to_string(configs().join("reference.toml")).unwrap();
    let shown: toml::Table = text.parse().unwrap();
    for (section, keys) in [
        ("node", &["name", "data_dir", "bundles_gib_max"][..]),
        ("identity", &["key_file"]),
        (
            "mesh",
            &["listen", "data_listen", "bootstrap", "mdns", "external", "data_external", "shards"],
        ),
        ("api", &["http", "plaintext"]),
        ("runtime", &["library", "devices", "threads", "hold", "cache_mib"]),
        ("repository", &["control", "poll_s"]),
        ("audit", &["receipts", "retention_days", "fail_closed"]),
        ("telemetry", &["log", "format", "metrics"]),
    ] {
        let present: BTreeSet<&str> =
            shown[section].as_table().unwrap().keys().map(String::as_str).collect();
        assert_eq!(present, keys.iter().copied().collect(), "[{section}]");
    }
}

#[test]
fn every_example_is_a_config() {
    let mut seen = 0;
    for entry in std::fs::read_dir(configs()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "groups" {
            continue;
        }
        let config = Config::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(config.api.http.ip().is_loopback(), "{name}");
        assert_eq!(
            config.identity.charter_file.is_some(),
            !config.authorities.is_empty(),
            "{name}"
        );
        seen += 1;
    }
    assert_eq!(seen, 5, "solo, three-regions, gpu, behind-nat and the reference");
}

#[test]
fn a_fresh_node_passes_its_check_and_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let made = json(folder.path(), &["init", "mynode", "--json"]);
    let peer = made["peer_id"].as_str().unwrap();
    assert!(peer.starts_with("12D3KooW"), "{made}");
    let checked = json(folder.path(), &["check", "--config", "mynode/hansa.toml", "--json"]);
    assert_eq!((&checked["ok"], &checked["peer_id"]), (&Value::Bool(true), &made["peer_id"]));
    let config = Config::load(&folder.path().join("mynode/hansa.toml")).unwrap();
    assert_eq!(config.node.name, "mynode");
    let defaults = Config::parse("", config.file()).unwrap();
    assert_eq!((config.mesh, config.api), (defaults.mesh, defaults.api));
    let (code, _, stderr) = hansa(folder.path(), &["init", "mynode"]);
    assert!(code == 1 && stderr.contains("exists already"), "{code} {stderr}");
    let (_, text, _) = hansa(folder.path(), &["check", "--config", "mynode/hansa.toml"]);
    assert!(text.contains(peer) && text.contains("without a charter"), "{text}");
}

#[test]
fn a_wrong_command_line_and_a_wrong_config_have_their_own_exit_codes() {
    let folder = tempfile::tempdir().unwrap();
    let code = |arguments: &[&str]| hansa(folder.path(), arguments).0;
    assert_eq!(code(&["--help"]), 0);
    assert_eq!(code(&["--version"]), 0);
    assert_eq!(code(&[]), 64);
    assert_eq!(code(&["check"]), 64);
    assert_eq!(code(&["run", "--config", "nowhere.toml"]), 78);
    std::fs::write(folder.path().join("x.toml"), "[mesh]\nbootstap = []\n").unwrap();
    let (code, _, stderr) = hansa(folder.path(), &["check", "--config", "x.toml"]);
    assert_eq!(code, 78);
    assert_eq!(stderr, "x.toml:2: [mesh] bootstap: unknown key; did you mean bootstrap?\n");
    let (code, stdout, _) = hansa(folder.path(), &["check", "--config", "x.toml", "--json"]);
    let found: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &found["problems"][0]["line"]), (78, &Value::from(2)));
    // The port of nobody.
    let (code, _, stderr) = hansa(folder.path(), &["peers", "--via", "http://127.0.0.1:1"]);
    assert!(code == 69 && stderr.contains("does not answer"), "{code} {stderr}");
}

/// A folder with a node `n` and authorities `eu.key` and `us.key`.
struct Office {
    folder: TempDir,
    peer: String,
    keys: [String; 2],
}

impl Office {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let peer = text(&json(folder.path(), &["init", "n", "--json"])["peer_id"]);
        let keys = ["eu", "us"].map(|name| {
            let (file, name) = (format!("{name}.key"), format!("{name}.example"));
            text(&json(folder.path(), &["authority", "new", &file, "--name", &name, "--json"])["key"])
        });
        Self { folder, peer, keys }
    }

    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        hansa(self.folder.path(), arguments)
    }

    fn issue(&self, more: &[&str]) -> Value {
        let mut arguments = vec!["authority", "issue", "--json", "--key", "eu.key"];
        arguments.extend(more);
        json(self.folder.path(), &arguments)
    }

    /// Issues `n` its charter for Berlin.
    fn issue_berlin(&self, subject: &str) {
        self.issue(&[
            "--subject",
            subject,
            "--location",
            "DE-BE",
            "--control",
            "DE",
            "--operator",
            "Nordlicht GmbH",
            "--data-class",
            "health,finance",
            "--out",
            "n/charter.txt",
        ]);
    }

    /// What `check` says when `n` has its charter and trusts the authority of `key` for
    /// `countries`.
    fn check(&self, name: &str, key: &str, countries: &str) -> (i32, String) {
        let text = format!(
            "[identity]\nkey_file = \"identity.key\"\ncharter_file = \"charter.txt\"\n\
             [[authority]]\nname = \"{name}.example\"\nkey = \"{key}\"\n\
             may_assert = {{ countries = {countries}, operators = [\"Nordlicht GmbH\"] }}\n"
        );
        std::fs::write(self.folder.path().join("n/hansa.toml"), text).unwrap();
        let (code, stdout, stderr) = self.run(&["check", "--config", "n/hansa.toml"]);
        (code, stdout + &stderr)
    }
}

#[test]
fn a_charter_that_is_issued_is_read_verified_and_counts() {
    let office = Office::open();
    office.issue_berlin(&office.peer);
    let [eu, us] = &office.keys;
    let read = json(
        office.folder.path(),
        &["authority", "inspect", "n/charter.txt", "--authority", eu, "--json"],
    );
    assert_eq!(read["charter"]["location"], "DE-BE");
    assert_eq!(read["charter"]["subject"], *office.peer);
    assert_eq!(read["verified"], serde_json::json!(["eu.example"]));
    assert_eq!(read["valid_now"], true);
    let (code, said) = office.check("eu", eu, "[\"DE\"]");
    assert!(code == 0 && said.contains("in DE-BE, under the control of DE"), "{said}");

    let (code, _, stderr) =
        office.run(&["authority", "inspect", "n/charter.txt", "--authority", us]);
    assert!(code == 1 && stderr.contains("no trusted authority"), "{stderr}");
}

#[test]
fn a_charter_that_does_not_count_is_refused_with_the_reason() {
    let office = Office::open();
    office.issue_berlin(&office.peer);
    let [eu, us] = &office.keys;
    let refused = |(code, said): (i32, String), reason: &str| {
        let at = "n/hansa.toml:3: [identity] charter_file:";
        assert!(code == 78 && said.starts_with(at) && said.contains(reason), "{reason}: {said}");
    };
    refused(office.check("us", us, "[\"*\"]"), "no trusted authority signed");
    refused(office.check("eu", eu, "[\"FR\"]"), "may not assert location DE-BE");
    refused(office.check("eu", eu, "[]"), "may not assert");

    let path = office.folder.path().join("n/charter.txt");
    let note = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, note.replace("DE-BE", "DE-BY")).unwrap();
    refused(office.check("eu", eu, "[\"*\"]"), "does not verify");

    let other = json(office.folder.path(), &["init", "other", "--json"]);
    office.issue_berlin(other["peer_id"].as_str().unwrap());
    refused(office.check("eu", eu, "[\"*\"]"), "another peer");
}

#[test]
fn a_charter_is_refused_when_it_has_ended_and_warned_of_before() {
    use hansa_core::time::Utc;
    let office = Office::open();
    office.issue_berlin(&office.peer);
    let (code, _) = office.check("eu", &office.keys[0], "[\"DE\"]");
    assert_eq!(code, 0);
    let config = Config::load(&office.folder.path().join("n/hansa.toml")).unwrap();
    let charter = |days: u64| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let ms = u64::try_from(now.as_millis()).unwrap();
        config.check(Utc(ms + days * 24 * 3_600_000))
    };
    assert!(charter(0).unwrap().warnings.is_empty());
    let warned = charter(85).unwrap().warnings;
    assert!(warned[0].message.contains("expires in 4 days"), "{warned:?}");
    assert!(charter(91).unwrap_err().to_string().contains("has expired"));
    assert!(config.check(Utc(1)).unwrap_err().to_string().contains("not valid yet"));
}

#[test]
fn several_authorities_sign_one_charter() {
    let office = Office::open();
    office.issue_berlin(&office.peer);
    let cosign = ["authority", "issue", "--key", "us.key", "--cosign", "n/charter.txt", "--out"];
    let arguments = [&cosign[..], &["n/charter.txt"]].concat();
    let (code, _, stderr) = office.run(&arguments);
    assert_eq!(code, 0, "{stderr}");
    let [eu, us] = &office.keys;
    let read = json(
        office.folder.path(),
        &["authority", "inspect", "n/charter.txt", "--authority", eu, "--authority", us, "--json"],
    );
    assert_eq!(read["verified"], serde_json::json!(["eu.example", "us.example"]));
    let (code, _, stderr) = office.run(&arguments);
    assert!(code == 1 && stderr.contains("signed by us.example already"), "{stderr}");
    std::fs::write(office.folder.path().join("letter.txt"), "Dear all\n").unwrap();
    let cosign = ["authority", "issue", "--key", "us.key", "--cosign", "letter.txt"];
    assert_eq!(office.run(&cosign).0, 1, "only charters are signed");
}

#[test]
fn a_charter_with_something_wrong_is_not_issued() {
    let office = Office::open();
    let issue = |location: &str, operator: &str, days: &str| {
        office.run(&[
            "authority",
            "issue",
            "--key",
            "eu.key",
            "--subject",
            &office.peer,
            "--location",
            location,
            "--control",
            "DE",
            "--operator",
            operator,
            "--days",
            days,
        ])
    };
    assert_eq!(issue("DE", "Nordlicht GmbH", "1").0, 0);
    assert_eq!(issue("UK", "Nordlicht GmbH", "1").0, 64);
    assert_eq!(issue("DE", "Nordlicht GmbH", "0").0, 64);
    assert_eq!(issue("DE", "two\nlines", "1").0, 1);
    assert_eq!(issue("DE", "", "1").0, 1);
    assert_eq!(office.run(&["authority", "issue", "--key", "eu.key"]).0, 64);
    let again = office.run(&["authority", "new", "eu.key", "--name", "eu.example"]);
    assert!(again.0 == 1 && again.2.contains("exists already"), "{again:?}");
}
