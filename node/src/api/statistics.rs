//! What became of the requests that came in here, by model: the Open Inference Protocol's
//! statistics extension. It counts what this entry answered, whoever ran it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::call::Named;
use super::v2::ApiError;
use crate::limits::STATISTICS_MAX;
use crate::node::Node;

/// Counters of every model that was asked for, by name and version.
#[derive(Debug, Default)]
pub struct Statistics(Mutex<BTreeMap<(String, String), Tally>>);

/// Counters of one model.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// When the last request was answered.
    pub last: Option<SystemTime>,
    /// Rows that were answered.
    pub rows: u64,
    /// Jobs that they took.
    pub runs: u64,
    /// Requests that were answered, and all their time.
    pub success: Sum,
    /// Requests that were refused or failed, and all their time.
    pub fail: Sum,
    /// Time until a job ran: the way to the executor and the wait there.
    pub queue: Sum,
    /// Time that jobs ran.
    pub infer: Sum,
    /// Jobs whose answer was kept here, and all their time.
    pub hits: Sum,
    /// Jobs whose answer could have been, and all their time.
    pub misses: Sum,
}

/// How often, and how long together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// How often.
    pub count: u64,
    /// How long together.
    pub time: Duration,
}

impl Sum {
    fn add(&mut self, time: Duration) {
        self.count += 1;
        self.time += time;
    }

    /// The time, in ns.
    pub fn ns(self) -> u64 {
        u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX)
    }

    fn json(self) -> Value {
        json!({ "count": self.count, "ns": self.ns() })
    }
}

/// How a request was answered.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Its rows.
    pub rows: u32,
    /// Time that its jobs ran.
    pub service: Duration,
    /// Whether its answer was kept; none where nobody looked.
    pub is_kept: Option<bool>,
    /// Its jobs: several if it was answered step by step.
    pub runs: u32,
}

impl Statistics {
    /// Counts a request to a model that took `total`; of one that failed nothing else is known.
    pub fn count(&self, name: &str, version: &str, total: Duration, served: Option<Served>) {
        let mut models = self.lock();
        let key = (name.to_owned(), version.to_owned());
        if models.len() >= STATISTICS_MAX && !models.contains_key(&key) {
            return;
        }
        let tally = models.entry(key).or_default();
        let Some(Served { rows, service, is_kept, runs }) = served else {
            return tally.fail.add(total);
        };
        tally.last = Some(SystemTime::now());
        tally.rows += u64::from(rows);
        tally.runs += u64::from(runs);
        tally.success.add(total);
        tally.infer.add(service);
        tally.queue.add(total.saturating_sub(service));
        match is_kept {
            Some(true) => tally.hits.add(total),
            Some(false) => tally.misses.add(total),
            None => {}
        }
    }

    /// Counters of the models of that name (all, if none is named) and that version (any).
    pub fn of(&self, name: Option<&str>, version: Option<&str>) -> Vec<((String, String), Tally)> {
        let models = self.lock();
        let is_meant = |key: &(String, String)| {
            name.is_none_or(|name| key.0 == name) && version.is_none_or(|own| key.1 == own)
        };
        let meant = models.iter().filter(|(key, _)| is_meant(key));
        meant.map(|(key, tally)| (key.clone(), tally.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, String), Tally>> {
        self.0.lock().expect("no holder panics")
    }
}

/// What is told of a model.
pub struct Row {
    /// As it was asked for.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its counters.
    pub tally: Tally,
    /// Runs of it, jobs that ran together counted once where that is known.
    pub executions: u64,
}

impl Row {
    fn of(node: &Node, name: &str, version: &str, tally: Tally) -> Self {
        let executions = executions(node, name, version).unwrap_or(tally.runs);
        Self { name: name.to_owned(), version: version.to_owned(), tally, executions }
    }

    /// What moving inputs and outputs took: it is counted within the run, as often as that.
    pub fn within(&self) -> Sum {
        Sum { count: self.tally.infer.count, time: Duration::ZERO }
    }

    /// When the last request was answered, in ms since 1970; 0 if none was.
    pub fn last_inference_ms(&self) -> u64 {
        let last = self.tally.last.and_then(|last| last.duration_since(UNIX_EPOCH).ok());
        last.map_or(0, |last| u64::try_from(last.as_millis()).unwrap_or(0))
    }

    fn json(&self) -> Value {
        let within = self.within().json();
        json!({
            "name": self.name,
            "version": self.version,
            "last_inference": self.last_inference_ms(),
            "inference_count": self.tally.rows,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.tally.success.json(),
                "fail": self.tally.fail.json(),
                "queue": self.tally.queue.json(),
                "compute_input": within,
                "compute_infer": self.tally.infer.json(),
                "compute_output": within,
                "cache_hit": self.tally.hits.json(),
                "cache_miss": self.tally.misses.json(),
            },
            "response_stats": {},
            "batch_stats": [],
            "memory_usage": [],
        })
    }
}

/// Every model that was asked for here.
pub fn of_all(node: &Node) -> Vec<Row> {
    rows(node, None, None)
}

/// One model, in one version or in all.
///
/// # Errors
/// Nobody has it.
pub fn of_model(node: &Node, named: &Named) -> Result<Vec<Row>, ApiError> {
    let resolved = named.resolve(node, &Default::default())?;
    let rows = rows(node, Some(&named.model), named.version.as_deref());
    // It is here and nobody asked yet.
    let unasked = || vec![Row::of(node, &named.model, &resolved.version, Tally::default())];
    Ok(if rows.is_empty() { unasked() } else { rows })
}

fn rows(node: &Node, name: Option<&str>, version: Option<&str>) -> Vec<Row> {
    let stats = node.statistics.of(name, version).into_iter();
    stats.map(|((name, version), tally)| Row::of(node, &name, &version, tally)).collect()
}

/// `GET /v2/models/stats`: every model that was asked for here.
pub async fn all(State(node): State<Arc<Node>>) -> Json<Value> {
    told(&of_all(&node))
}

/// `GET /v2/models/NAME[/versions/V]/stats`
pub async fn one(
    State(node): State<Arc<Node>>,
    Path(named): Path<Named>,
) -> Result<Json<Value>, ApiError> {
    Ok(told(&of_model(&node, &named)?))
}

fn told(rows: &[Row]) -> Json<Value> {
    Json(json!({ "model_stats": rows.iter().map(Row::json).collect::<Vec<_>>() }))
}

/// Runs of the model here, jobs that ran together counted once; none if it is not here.
fn executions(node: &Node, name: &str, version: &str) -> Option<u64> {
    let engines = node.engines();
    let mut own = engines.values();
    let own = own.find(|hosted| (&*hosted.name, &*hosted.version) == (name, version))?;
    Some(own.engine.load().runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_model_and_the_failed_apart() {
        let (statistics, ms) = (Statistics::default(), Duration::from_millis(1));
        let served = Some(Served { rows: 4, service: 2 * ms, is_kept: None, runs: 3 });
        statistics.count("a", "1", 5 * ms, served);
        let kept = |is_kept| served.map(|served| Served { is_kept: Some(is_kept), ..served });
        statistics.count("a", "1", 2 * ms, kept(false));
        statistics.count("a", "1", ms, kept(true));
        statistics.count("a", "1", 9 * ms, None);
        statistics.count("a", "2", ms, served);
        statistics.count("b", "1", ms, None);
        let of = statistics.of(Some("a"), Some("1"));
        let [(_, tally)] = &of[..] else { panic!("one") };
        assert_eq!((tally.rows, tally.success.count, tally.fail.count), (12, 3, 1));
        assert_eq!(tally.runs, 9);
        assert_eq!((tally.success.time, tally.infer.time), (8 * ms, 6 * ms));
        assert_eq!((tally.queue.time, tally.hits.time, tally.misses.time), (3 * ms, ms, 2 * ms));
        assert_eq!(statistics.of(Some("a"), None).len(), 2);
        assert_eq!(statistics.of(None, None).len(), 3);
    }

    #[test]
    fn a_full_table_takes_no_more_models() {
        let statistics = Statistics::default();
        for number in 0..2 * STATISTICS_MAX {
            statistics.count(&number.to_string(), "1", Duration::ZERO, None);
        }
        assert_eq!(statistics.of(None, None).len(), STATISTICS_MAX);
    }
}
