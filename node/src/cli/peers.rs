//! `hansa peers`: the mesh as a peer sees it.

use serde_json::Value;

use super::{PeersArgs, out};
use crate::client::Client;

/// Runs the command.
pub fn run(args: &PeersArgs) -> anyhow::Result<()> {
    let seen = Client::new(&args.via).get("/mesh/v1/peers")?;
    if args.json {
        out::json_line(&seen);
    } else {
        out::line(&table(&seen));
    }
    Ok(())
}

fn table(seen: &Value) -> String {
    let peers = seen["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let titles = [
        "name", "state", "location", "control", "operator", "rtt", "devices", "price", "models",
        "peer",
    ];
    let called = |id: &Value| {
        let peer = peers.iter().find(|peer| peer["peer_id"] == *id);
        peer.and_then(|peer| peer["name"].as_str()).unwrap_or("a peer unknown here")
    };
    out::table(&titles, peers.iter().map(|peer| row(peer, called)))
}

fn row<'a>(peer: &Value, called: impl Fn(&Value) -> &'a str) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("–").to_owned();
    let charter = &peer["charter"];
    let location = match charter["fault"].as_str() {
        Some(fault) => fault.to_owned(),
        None if charter["valid"] == false => format!("{} (expired)", text(&charter["location"])),
        None => text(&charter["location"]),
    };
    let location = match peer["rtt_evidence"].as_str() {
        Some("contradicted") => format!("{location} (contradicted by its round trips)"),
        _ => location,
    };
    let state = if peer["me"] == true { "this peer".into() } else { text(&peer["liveness"]) };
    let relays: Vec<&str> = peer["relays"].as_array().into_iter().flatten().map(called).collect();
    let state = match relays.as_slice() {
        [] => state,
        relays => format!("{state}, through {}", relays.join(" or ")),
    };
    let rtt = peer["rtt_ms"].as_f64().map_or("–".into(), |ms| format!("{ms:.1} ms"));
    let id = text(&peer["peer_id"]);
    vec![
        text(&peer["name"]),
        state,
        location,
        text(&charter["control"]),
        text(&charter["operator"]),
        rtt,
        list(&peer["devices"], device),
        price(&peer["price"]),
        models(peer),
        format!("…{}", &id[id.len().saturating_sub(6)..]),
    ]
}

/// Models, and stages with their stretch.
fn models(peer: &Value) -> String {
    let called = |model: &Value| {
        let [name, version] = ["name", "version"].map(|key| model[key].as_str().unwrap_or("–"));
        format!("{name}:{version}")
    };
    let stage = |stage: &Value| {
        format!("{} {}–{} of {}", called(stage), stage["from"], stage["to"], stage["of"])
    };
    match (list(&peer["models"], called), list(&peer["stages"], stage)) {
        (models, stages) if stages == "–" => models,
        (models, stages) if models == "–" => stages,
        (models, stages) => format!("{models}\n{stages}"),
    }
}

/// What it asks, in whole units of its currency.
fn price(price: &Value) -> String {
    let Some(currency) = price["currency"].as_str() else { return "–".into() };
    let rate = |key: &str, per: &str| {
        let micros = price[key].as_f64().filter(|micros| *micros > 0.0)?;
        Some(format!("{} {currency}/{per}", micros / 1e6))
    };
    let rates = [rate("per_device_second_micros", "s"), rate("per_gb_micros", "GB")];
    rates.into_iter().flatten().collect::<Vec<String>>().join("\n")
}

fn device(device: &Value) -> String {
    let gib = |key: &str| device[key].as_f64().unwrap_or_default() / 1024.0;
    let busy = device["utilisation_percent"].as_u64();
    format!(
        "{} {:.0}/{:.0} GiB free{}",
        device["provider"].as_str().unwrap_or_default(),
        gib("memory_free_mib"),
        gib("memory_total_mib"),
        busy.map_or(String::new(), |percent| format!(", {percent} % busy")),
    )
}

fn list(values: &Value, show: impl Fn(&Value) -> String) -> String {
    let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
    let shown: Vec<String> = values.iter().map(show).collect();
    if shown.is_empty() { "–".into() } else { shown.join("\n") }
}
