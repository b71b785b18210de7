//! A CSV file for each series, distribution, curve and flow, over all seeds.

use std::collections::BTreeMap;

use crate::recording::Recording;

/// The files by name, without their ending.
pub(super) fn files(runs: &[Recording]) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    let mut add = |name: String, header: &str, line: String| {
        files.entry(slug(&name)).or_insert_with(|| format!("{header}\n")).push_str(&(line + "\n"));
    };
    for run in runs {
        let seed = run.seed;
        for series in &run.series {
            let header = format!("seed,at_s,value ({})", series.unit);
            for (at, value) in &series.points {
                add(series.name.clone(), &header, format!("{seed},{at},{value}"));
            }
        }
        for (name, spread) in &run.distributions {
            let last = spread.kept.len().max(2) - 1;
            for (index, value) in spread.kept.iter().enumerate() {
                let part = ratio(index, last);
                add(
                    format!("{name} distribution"),
                    "seed,share,value",
                    format!("{seed},{part},{value}"),
                );
            }
        }
        for curve in &run.gossip_curves {
            for (at, share) in &curve.points {
                add(curve.name.clone(), "seed,after_ms,share", format!("{seed},{at},{share}"));
            }
        }
        for region in &run.regions {
            for (at, load) in &region.load {
                let name = quoted(&region.name);
                add(
                    "load by region".into(),
                    "seed,region,at_s,load",
                    format!("{seed},{name},{at},{load}"),
                );
            }
        }
        for flow in &run.flows {
            let name = |index: usize| {
                run.regions.get(index).map_or(String::new(), |region| quoted(&region.name))
            };
            let line = format!("{seed},{},{},{}", name(flow.from), name(flow.to), flow.jobs);
            add("flows".into(), "seed,from,to,jobs", line);
        }
        for cost in &run.costs {
            let line =
                format!("{seed},{},{},{}", quoted(&cost.name), cost.amount, quoted(&cost.unit));
            add("cost".into(), "seed,name,amount,unit", line);
        }
    }
    files
}

fn ratio(part: usize, of: usize) -> f64 {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    number(part) / number(of)
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn slug(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}
