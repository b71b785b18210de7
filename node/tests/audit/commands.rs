//! `hansa receipt` and `hansa audit` in an auditor's hands: files, no node, no network.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use hansa_core::gate::Rule;
use hansa_core::receipt::{Outcome, Receipt, Verdict};
use hansa_node::audit::{Entry, authorities};
use serde_json::Value;

use crate::world::*;

fn hansa(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hansa"));
    command.args(arguments).env_clear().output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Of who runs the peer in France.
const LEI: &str = "506700GE1G29325QX363";

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    /// A log of 12 jobs run here, 3 in France by another, 2 in Ireland under US law, one refused,
    /// and one that was split with both parts' receipts.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (keeper, _) = node();
        let mut log = filled(&folder.path().join("audit"), 12);
        let seal = |receipt: &Receipt| Entry::seal(receipt, salt(1)).unwrap();
        let paris = other(2, "FR-IDF", "FR", "Marée SA");
        let dublin = other(3, "IE", "US", "Acme, Inc.");
        let to_paris = |number| Receipt {
            leis: [(paris.charter, LEI.parse().unwrap())].into(),
            ..forwarded(&keeper, &paris, number)
        };
        let mut entries: Vec<_> = (12..15).map(|number| seal(&to_paris(number))).collect();
        entries.extend((15..17).map(|n| seal(&forwarded(&keeper, &dublin, n))));
        let refused = Receipt {
            verdict: Verdict::Refused,
            rejected: [(Rule::Location, 4)].into(),
            outcome: Outcome::Refused,
            work: None,
            output: None,
            ..local(&keeper, 17)
        };
        entries.push(seal(&refused));
        let own = Receipt { parent: Some(job(19)), ..local(&keeper, 18) };
        let own = seal(&own);
        let mut split = to_paris(19);
        let mut own_part = split.parts[0].clone();
        (own_part.party, own_part.receipt) = (keeper.clone(), Some(own.leaf));
        (own_part.used, own_part.job) = (local(&keeper, 18).work.unwrap().used, job(18));
        split.parts.push(own_part);
        entries.extend([own, seal(&split)]);
        log.append(entries).unwrap();
        log.checkpoint().unwrap();
        let files = Self { folder };
        std::fs::write(files.path("proof"), log.proof_of(job(13)).unwrap().to_string()).unwrap();
        std::fs::write(files.path("authorities"), authorities::text(&authorities())).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, words: &str) -> Output {
        let root = self.folder.path().to_str().unwrap();
        let words: Vec<_> = words.split(' ').map(|word| word.replace('%', root)).collect();
        hansa(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

fn replace(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn a_receipt_verifies_from_two_files_alone() {
    let files = Files::new();
    let verify = "receipt verify %/proof --authorities %/authorities";
    let ran = files.run(verify);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let said = text(&ran);
    for expected in [
        "entry 13 of 20",
        "Nordlicht GmbH, DE",
        "harbour.example",
        "Marée SA, LEI 506700GE1G29325QX363, in FR-IDF",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    let found = json(&files.run(&format!("{verify} --json")));
    assert_eq!((&found["ok"], &found["proven"]["index"]), (&Value::Bool(true), &13.into()));
    assert_eq!(found["proven"]["receipt"]["path"][0]["location"], "DE");

    std::fs::copy(files.path("proof"), files.path("changed")).unwrap();
    replace(&files.path("changed"), "\nindex 13\n", "\nindex 12\n");
    let ran = files.run("receipt verify %/changed --authorities %/authorities --json");
    assert_eq!(ran.status.code(), Some(1));
    let found = json(&ran);
    assert!(found["defects"][0].as_str().unwrap().contains("not entry 12"), "{found}");
}

#[test]
fn whom_the_auditor_does_not_believe_has_proven_nothing() {
    let files = Files::new();
    let verify = "receipt verify %/proof --authorities %/authorities";
    replace(&files.path("authorities"), "countries = [\"*\"]", "countries = [\"FR\"]");
    let ran = files.run(verify);
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran).contains("may not assert location DE"), "{ran:?}");
    let ran = files.run("audit verify %/audit --authorities %/authorities");
    assert_eq!(ran.status.code(), Some(1));
    assert!(text(&ran).contains("may not assert location DE"), "{ran:?}");
    // Without authorities the log is consistent, and says that nobody vouches for it.
    let ran = files.run("audit verify %/audit");
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    assert!(text(&ran).contains("not verified"), "{ran:?}");

    std::fs::write(files.path("authorities"), "harbour.example\n").unwrap();
    let ran = files.run(verify);
    assert_eq!(ran.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("authorities:1: "), "{ran:?}");
    assert_eq!(
        files.run("receipt verify %/none --authorities %/authorities").status.code(),
        Some(78)
    );
    assert_eq!(files.run("receipt verify %/proof").status.code(), Some(64));
}

#[test]
fn files_that_are_not_there_have_an_exit_code_of_their_own() {
    let files = Files::new();
    for words in [
        "receipt verify %/none --authorities %/authorities",
        "audit verify %/none",
        "audit show %/none",
        "audit export %/none --format csv",
    ] {
        let ran = files.run(words);
        assert_eq!(ran.status.code(), Some(69), "{words}: {ran:?}");
    }
}

#[test]
fn a_folder_verifies_until_anything_in_it_changes() {
    let files = Files::new();
    let verify = "audit verify %/audit --authorities %/authorities --json";
    let ran = files.run(verify);
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let found = json(&ran);
    assert_eq!(
        (&found["size"], &found["receipts"], &found["charters"]),
        (&20.into(), &20.into(), &1.into())
    );
    assert_eq!(found["authorities"][0], "harbour.example");
    assert_eq!(found["from"], "2027-01-15T08:00:00Z");
    let bundle = files.path("audit/tile/entries/000.p/20");
    let mut bytes = std::fs::read(&bundle).unwrap();
    bytes[700] ^= 4;
    std::fs::write(&bundle, bytes).unwrap();
    let ran = files.run(verify);
    assert_eq!(ran.status.code(), Some(1));
    assert!(json(&ran)["defects"][0].as_str().unwrap().contains("tile/0/000.p/20"), "{ran:?}");
}

#[test]
fn totals_say_what_ran_where_under_whose_control() {
    let files = Files::new();
    let show = |filter: &str| json(&files.run(&format!("audit show %/audit --json{filter}")));
    let all = show("");
    // 12 here, 3 in France, 2 in Ireland, one refused, one split; its own part is not another job.
    assert_eq!((&all["receipts"], &all["jobs"]), (&20.into(), &19.into()));
    assert_eq!(all["outcomes"], serde_json::json!({"answered": 19, "refused": 1}));
    let sum = |jobs: u64, rows: u64, device_us: u64, micros: u64| {
        serde_json::json!({"jobs": jobs, "rows": rows, "device_us": device_us,
            "price_micros": {"EUR": micros}})
    };
    assert_eq!(all["countries"]["DE"], sum(13, 26, 19_500, 130));
    assert_eq!(all["countries"]["FR"], sum(4, 20, 36_000, 1_200));
    assert_eq!(all["control"]["US"], sum(2, 10, 18_000, 600));
    assert_eq!(all["operators"]["Acme, Inc."], sum(2, 10, 18_000, 600));
    assert_eq!(all["models"]["magika:1"]["rows"], 56);
    assert_eq!(all["all"]["price_micros"]["EUR"], 1_930);

    assert_eq!(show(" --country IE")["all"], sum(2, 10, 18_000, 600));
    assert_eq!(show(" --country FR")["jobs"], 4);
    assert_eq!(show(" --control US")["countries"].as_object().unwrap().len(), 1);
    assert_eq!(show(" --outcome refused")["jobs"], 1);
    assert_eq!(show(" --model magika")["jobs"], 19);
    assert_eq!(show(" --model other")["jobs"], 0);
    assert_eq!(show(" --since 2027-01-15T08:00:10Z --until 2027-01-15T08:00:12Z")["jobs"], 2);
    assert_eq!(show(" --since 2027-01-16")["jobs"], 0);
    let table = text(&files.run("audit show %/audit"));
    assert!(table.starts_with("19 jobs: 19 answered, 1 refused"), "{table}");
    assert!(table.contains("0.0012 EUR"), "{table}");
    assert_eq!(files.run("audit show %/audit --since yesterday").status.code(), Some(64));
}

#[test]
fn exports_are_read_by_other_programs() {
    let files = Files::new();
    let lines = text(&files.run("audit export %/audit --format jsonl"));
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 20);
    assert_eq!(lines[17]["receipt"]["rejected"]["location"], 4);
    let csv = text(&files.run("audit export %/audit --format csv"));
    let rows: Vec<_> = csv.lines().collect();
    assert!(rows[0].starts_with(
        "provider,provider_lei,provider_control,rank,service,model,bundle,country_of_provision,"
    ));
    assert_eq!(rows.len(), 4, "{csv}");
    assert!(
        rows[1].starts_with("\"Acme, Inc.\",,US,2,model inference,magika:1,sha256:03"),
        "{csv}"
    );
    assert!(rows[2].starts_with(&format!("Marée SA,{LEI},FR,2,")), "{csv}");
    assert!(rows[2].contains(",FR-IDF,no,,FR-IDF,1,2027-01-15T08:00:12Z,"), "{csv}");
    assert!(
        rows[3].contains(",DE,no,,DE,1,") && rows[3].ends_with(",13,26,0.019500,0.00013 EUR"),
        "{csv}"
    );
    let csv = text(&files.run("audit export %/audit --format csv --control US"));
    assert_eq!(csv.lines().count(), 2);
}

#[test]
fn a_proof_is_taken_from_a_folder_and_verifies() {
    let files = Files::new();
    let id = job(5).to_string();
    let ran = files.run(&format!("audit proof %/audit {id} --out %/taken"));
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let ran = files.run("receipt verify %/taken --authorities %/authorities");
    assert!(text(&ran).contains("entry 5 of 20"), "{ran:?}");
    let printed = text(&files.run(&format!("audit proof %/audit {id}")));
    assert_eq!(printed, std::fs::read_to_string(files.path("taken")).unwrap());
    let none = files.run(&format!("audit proof %/audit {}", job(99)));
    assert_eq!(none.status.code(), Some(1));
}
