//! `hansa plan`: what a node would do with a job, and why: what each form of running it would cost,
//! every peer ranked with its cost terms and price, or gated out with the reason.

use serde_json::Value;

use super::{PlanArgs, out};
use crate::client::Client;

/// Terms of a cost, as the API names them, in the order in which a job meets them.
const TERMS: [&str; 5] = ["rtt", "transfer", "wait", "service", "total"];

/// Runs the command.
pub fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let rows = args.rows.map_or(String::new(), |rows| format!("&rows={rows}"));
    let model = args.model.replace('@', "%40");
    let path = format!("/mesh/v1/plan?model={model}{}{rows}", args.policy.query());
    let plan = Client::new(&args.via).get(&path)?;
    if args.json {
        out::json_line(&plan);
    } else {
        out::line(&table(&plan));
    }
    Ok(())
}

/// The plan for people: the decision, the forms, the ranked peers, those that hold a stage, the others
/// with their reasons.
pub fn table(plan: &Value) -> String {
    let list = |key: &str| plan[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let (forms, peers) = (list("forms"), list("peers"));
    let mut ranked: Vec<&Value> = peers.iter().filter(|peer| peer["rank"].is_u64()).collect();
    ranked.sort_by_key(|peer| peer["rank"].as_u64());
    let out: Vec<&Value> = peers.iter().filter(|peer| peer["gated_out"].is_object()).collect();
    let is_part = |peer: &&Value| peer["stages"].is_array() && peer["cost_us"].is_object();
    let staged: Vec<&Value> = peers.iter().filter(is_part).collect();
    let mut parts = vec![decision(plan)];
    let terms = TERMS.map(|term| format!("{term} ms"));
    let titled = |first: &[&'static str], last: &[&'static str]| {
        let terms = terms.iter().map(String::as_str);
        first.iter().copied().chain(terms).chain(last.iter().copied()).collect::<Vec<&str>>()
    };
    if !forms.is_empty() {
        let titles = titled(&["form", "chosen"], &["price", "by, or why not"]);
        parts.push(out::table(&titles, forms.iter().map(form_row)));
    }
    if !ranked.is_empty() {
        let titles = titled(&["rank", "peer", "location", "control"], &["price"]);
        parts.push(out::table(&titles, ranked.into_iter().map(ranked_row)));
    }
    if !staged.is_empty() {
        let titles = titled(&["holds nodes", "peer", "location", "control"], &["price"]);
        parts.push(out::table(&titles, staged.into_iter().map(staged_row)));
    }
    if !out.is_empty() {
        let titles = ["gated out", "location", "control", "rule", "why"];
        parts.push(out::table(&titles, out.into_iter().map(gated_row)));
    }
    parts.join("\n\n")
}

fn decision(plan: &Value) -> String {
    let (model, bundle, chosen) = (text(&plan["model"]), text(&plan["bundle"]), &plan["plan"]);
    let what = match chosen["kind"].as_str() {
        Some("local") => "runs here".to_owned(),
        Some("forward") => format!("goes to {}", text(&chosen["to"])),
        Some("stages") => {
            let stages = chosen["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
            let part = |stage: &Value| {
                format!("{} (nodes {}–{})", text(&stage["peer"]), stage["from"], stage["to"])
            };
            let chain: Vec<String> = stages.iter().map(part).collect();
            let ms = chosen["cost_us"].as_f64().unwrap_or_default() / 1_000.0;
            format!("goes through {}; expected {ms:.1} ms", chain.join(", then "))
        }
        Some("rows") => {
            let shares = chosen["shares"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ms = |us: &Value| us.as_f64().unwrap_or_default() / 1_000.0;
            let part = |share: &Value| {
                let expected = ms(&share["cost_us"]["total"]);
                format!("{} {} rows ({expected:.1} ms)", text(&share["peer"]), share["rows"])
            };
            let parts: Vec<String> = shares.iter().map(part).collect();
            let (all, alone) = (ms(&chosen["cost_us"]), ms(&chosen["alone_us"]));
            let parts = parts.join(", ");
            format!("is spread by rows: {parts}; expected {all:.1} ms, one peer {alone:.1} ms")
        }
        Some("refuse") => format!("is refused: {}", text(&chosen["refusal"])),
        _ => chosen.to_string(),
    };
    format!("{model} ({bundle}) {what}")
}

fn form_row(form: &Value) -> Vec<String> {
    let names = form["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let by = names.iter().map(text).collect::<Vec<_>>().join(", ");
    let note = match form["why_not"].as_str() {
        Some(why) if by.is_empty() => why.to_owned(),
        Some(why) => format!("{by} ({why})"),
        None => by,
    };
    let chosen = if form["chosen"] == true { "yes" } else { "no" };
    let mut row = vec![text(&form["form"]), chosen.to_owned()];
    row.extend(costs(form));
    row.push(note);
    row
}

fn ranked_row(peer: &Value) -> Vec<String> {
    let mut row = vec![peer["rank"].to_string()];
    row.extend(["name", "location", "control"].map(|key| text(&peer[key])));
    row.extend(costs(peer));
    row
}

fn staged_row(peer: &Value) -> Vec<String> {
    let stages = peer["stages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let held = |stage: &Value| format!("{}–{} of {}", stage["from"], stage["to"], stage["of"]);
    let mut row = vec![stages.iter().map(held).collect::<Vec<_>>().join("\n")];
    row.extend(["name", "location", "control"].map(|key| text(&peer[key])));
    row.extend(costs(peer));
    row
}

/// The terms of a cost, and the price.
fn costs(of: &Value) -> Vec<String> {
    let cost = |term: &&str| match of["cost_us"][*term].as_f64() {
        Some(us) => format!("{:.2}", us / 1_000.0),
        None => "–".into(),
    };
    let price = |(currency, micros): (&String, &Value)| {
        format!("{:.6} {currency}", micros.as_f64().unwrap_or_default() / 1e6)
    };
    let prices = of["price_micros"].as_object().into_iter().flatten().map(price);
    let prices: Vec<String> = prices.collect();
    let is_free = prices.is_empty() && of["cost_us"].is_object();
    let free = if is_free { "free" } else { "–" };
    let price = if prices.is_empty() { free.to_owned() } else { prices.join(", ") };
    TERMS.iter().map(cost).chain([price]).collect()
}

fn gated_row(peer: &Value) -> Vec<String> {
    let gated = &peer["gated_out"];
    let mut row = ["name", "location", "control"].map(|key| text(&peer[key])).to_vec();
    row.extend(["rule", "detail"].map(|key| text(&gated[key])));
    row
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shares_are_told_with_what_they_and_one_peer_would_take() {
        let share =
            |peer, rows, total| json!({"peer": peer, "rows": rows, "cost_us": {"total": total}});
        let shares = [share("berlin", 300, 31_000), share("paris", 212, 30_500)];
        let chosen =
            json!({"kind": "rows", "shares": shares, "cost_us": 31_000, "alone_us": 52_000});
        let shown = table(&json!({"model": "m", "bundle": "sha256:ab", "plan": chosen}));
        let expected = "m (sha256:ab) is spread by rows: berlin 300 rows (31.0 ms), \
                        paris 212 rows (30.5 ms); expected 31.0 ms, one peer 52.0 ms";
        assert_eq!(shown, expected);
    }

    #[test]
    fn ranked_peers_come_first_and_the_others_say_why_not() {
        let cost = json!({"rtt": 900, "transfer": 40, "wait": 0, "service": 2500, "total": 3440});
        let stage = json!([{"from": 0, "to": 9, "of": 12}]);
        let shown = table(&json!({
            "model": "magika", "bundle": "sha256:ab", "plan": {"kind": "forward", "to": "berlin"},
            "forms": [
                {"form": "local", "chosen": false, "price_micros": {}, "peers": [],
                 "why_not": "it does not hold the bundle"},
                {"form": "forward", "chosen": true, "peers": ["berlin"], "cost_us": cost,
                 "price_micros": {"EUR": 120}},
            ],
            "peers": [
                {"name": "oslo", "location": "NO", "control": "NO", "cost_us": cost,
                 "stages": stage, "price_micros": {}},
                {"name": "virginia", "location": "US", "control": "US",
                 "gated_out": {"rule": "location", "detail": "US is not allowed"}},
                {"name": "paris", "location": "FR", "control": "FR", "rank": 2, "cost_us": cost},
                {"name": "berlin", "location": "DE", "control": "DE", "rank": 1, "cost_us": cost},
            ],
        }));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], "magika (sha256:ab) goes to berlin");
        let line = |word: &str| lines.iter().position(|line| line.contains(word)).unwrap();
        assert!(line("rank") < line("berlin  "), "{shown}");
        assert!(line("berlin  ") < line("paris") && line("paris") < line("virginia"), "{shown}");
        assert!(lines[line("berlin  ")].contains("3.44"), "{shown}");
        assert!(lines[line("virginia")].contains("US is not allowed"), "{shown}");
        assert!(lines[line("forward")].contains("0.000120 EUR  berlin"), "{shown}");
        assert!(lines[line("local")].contains("does not hold"), "{shown}");
        assert!(lines[line("oslo")].contains("0–9 of 12"), "{shown}");
        assert!(lines[line("oslo")].contains("free"), "{shown}");
    }
}
