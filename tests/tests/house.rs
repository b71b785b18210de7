//! The mechanical invariants of README's code map.

use std::path::{Path, PathBuf};

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    collect(&hansa_tests::root().join(folder), &mut found);
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

fn collect(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(folder).expect("a folder of the house") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            found.push((path, text));
        }
    }
}

/// Lines of code that hold `word`; comments may say what they like.
fn lines_with(sources: &[(PathBuf, String)], word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources {
        for (number, line) in (1..).zip(text.lines()) {
            if !line.trim_start().starts_with("//") && has_word(line, word) {
                found.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    found
}

/// Whether `word` begins a word of `line`.
fn has_word(line: &str, word: &str) -> bool {
    let is_inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(is_inside))
}

fn forbid(folder: &str, words: &[&str]) {
    let sources = sources(folder);
    for word in words {
        let found = lines_with(&sources, word);
        assert!(found.is_empty(), "{folder} must not hold `{word}`:\n{}", found.join("\n"));
    }
}

#[test]
fn the_core_does_no_io_and_reads_no_clock() {
    forbid(
        "mesh/core/src",
        &[
            "tokio",
            "ractor",
            "libp2p",
            "quinn",
            "ort::",
            "std::net",
            "std::fs",
            "std::thread",
            "Instant::now",
            "SystemTime",
            "HashMap",
            "HashSet",
            "std::process",
            "std::env",
        ],
    );
}

#[test]
fn the_runtime_knows_no_peer() {
    forbid("runtime/src", &["hansa_core", "hansa_net", "libp2p", "quinn", "ractor"]);
}

#[test]
fn the_simulator_knows_neither_node_nor_tokio() {
    forbid("simulations/src", &["hansa_node", "hansa_net", "tokio", "ractor"]);
}

#[test]
fn no_order_of_a_hash_table_reaches_the_simulator() {
    let found: Vec<_> = ["HashMap", "HashSet"]
        .into_iter()
        .flat_map(|word| lines_with(&sources("simulations/src"), word))
        .filter(|line| !line.contains("simulations/src/table.rs"))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_network_decides_nothing() {
    forbid("mesh/net/src", &["policy", "Policy", "charter", "gate::", "ractor"]);
}

#[test]
fn bincode_is_named_in_one_file() {
    let all: Vec<_> = ["mesh", "runtime/src", "node/src", "simulations/src"]
        .into_iter()
        .flat_map(sources)
        .collect();
    let found = lines_with(&all, "bincode");
    assert!(found.iter().all(|line| line.contains("mesh/core/src/codec.rs")), "{found:#?}");
    assert!(!found.is_empty());
}

#[test]
fn ort_is_named_only_in_the_runtime_and_ractor_only_where_actors_are() {
    let all: Vec<_> =
        ["mesh", "node/src", "simulations/src"].into_iter().flat_map(sources).collect();
    assert_eq!(lines_with(&all, "ort::"), Vec::<String>::new());
    let actors = ["node/src/actors/", "node/src/run.rs", "node/src/node.rs"];
    let elsewhere = |line: &String| !actors.iter().any(|place| line.contains(place));
    let found: Vec<_> = lines_with(&all, "ractor").into_iter().filter(elsewhere).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_gate_is_asked_in_the_core_and_nowhere_else() {
    let outside: Vec<_> =
        ["mesh/net/src", "node/src", "runtime/src"].into_iter().flat_map(sources).collect();
    for word in ["gate::admit", "gate::within", "permits_"] {
        let found = lines_with(&outside, word);
        assert!(found.is_empty(), "{found:#?}");
    }
}
