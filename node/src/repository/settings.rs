//! What a Triton model configuration (`config.pbtxt`, or the `config` of a load) says of how a model
//! is served. What this version does not honour is refused by name: nobody should believe that it is.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_runtime::batch::Batching;
use hansa_runtime::labels::Labels;
use hansa_runtime::limits::{
    BATCH_PREFERRED_MAX, BATCH_ROWS_MAX, BATCH_WAIT_US_MAX, PRIORITIES_MAX, QUEUE_MAX,
    QUEUE_TIMEOUT_US_MAX,
};
use hansa_runtime::line::{Queueing, WhenLate};
use serde::de::{Deserializer, Error, IgnoredAny};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::config::{INSTANCES_MAX, Serving};

/// How a model of the repository is served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Which of its versions.
    pub versions: Versions,
    /// How each of them.
    pub serving: Serving,
    /// The ONNX file in a version's folder; none: `model.onnx`.
    pub file: Option<String>,
    /// Files of labels beside the versions, by what they are called in a bundle.
    pub labels: BTreeMap<String, String>,
}

/// Which versions of a model are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Versions {
    /// So many, the highest.
    Latest(usize),
    /// All that are there.
    All,
    /// These, as far as they are there.
    Specific(Vec<u64>),
}

impl Default for Versions {
    fn default() -> Self {
        Self::Latest(1)
    }
}

impl Versions {
    /// Those that are served of those that are there.
    pub fn of(&self, there: &[u64]) -> Vec<u64> {
        let mut versions = there.to_vec();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        match self {
            Self::Latest(most) => versions.truncate(*most),
            Self::All => {}
            Self::Specific(named) => versions.retain(|version| named.contains(version)),
        }
        versions
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    name: Option<String>,
    platform: Option<String>,
    backend: Option<String>,
    default_model_filename: Option<String>,
    max_batch_size: Option<Whole>,
    #[serde(default, deserialize_with = "many")]
    #[expect(dead_code, reason = "the model's own graph says it")]
    input: Vec<Tensor>,
    #[serde(default, deserialize_with = "many")]
    output: Vec<Output>,
    version_policy: Option<VersionPolicy>,
    dynamic_batching: Option<DynamicBatching>,
    response_cache: Option<ResponseCache>,
    #[serde(default, deserialize_with = "many")]
    instance_group: Vec<InstanceGroup>,
    #[expect(dead_code, reason = "every model is warmed up")]
    model_warmup: Option<IgnoredAny>,
}

/// What a graph says itself of an input, or what changes no answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "read only to refuse other fields")]
struct Tensor {
    name: Option<IgnoredAny>,
    data_type: Option<IgnoredAny>,
    dims: Option<IgnoredAny>,
    format: Option<IgnoredAny>,
}

/// The same of an output, and the file that names its classes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    name: Option<String>,
    #[expect(dead_code, reason = "the model's own graph says it")]
    data_type: Option<IgnoredAny>,
    #[expect(dead_code, reason = "the model's own graph says it")]
    dims: Option<IgnoredAny>,
    label_filename: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum VersionPolicy {
    Latest {
        num_versions: Option<Whole>,
    },
    All {},
    Specific {
        #[serde(default, deserialize_with = "many")]
        versions: Vec<Whole>,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct DynamicBatching {
    #[serde(deserialize_with = "many")]
    preferred_batch_size: Vec<Whole>,
    max_queue_delay_microseconds: Whole,
    preserve_ordering: bool,
    priority_levels: Whole,
    default_priority_level: Whole,
    default_queue_policy: QueuePolicy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct QueuePolicy {
    timeout_action: Action,
    default_timeout_microseconds: Whole,
    /// A request's own timeout is its deadline, and holds in any case.
    #[serde(rename = "allow_timeout_override")]
    _allow_timeout_override: bool,
    max_queue_size: Whole,
}

#[derive(Clone, Copy, Default, Deserialize)]
enum Action {
    #[default]
    #[serde(rename = "REJECT")]
    Reject,
    #[serde(rename = "DELAY")]
    Delay,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResponseCache {
    #[serde(default)]
    enable: bool,
}

/// Which devices compute, `[runtime] devices` says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstanceGroup {
    count: Option<Whole>,
    #[expect(dead_code, reason = "a name changes nothing")]
    name: Option<IgnoredAny>,
    kind: Option<String>,
}

/// A whole number; JSON of protobuf writes large ones as texts.
#[derive(Clone, Copy, Default)]
struct Whole(u64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        number.map(Self).ok_or_else(|| D::Error::custom(format!("{value} is not a whole number")))
    }
}

/// A repeated field, which may be there once.
fn many<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    let values = match Value::deserialize(from)? {
        Value::Array(values) => values,
        one => vec![one],
    };
    let values = values.into_iter().map(serde_json::from_value);
    values.collect::<Result<_, _>>().map_err(D::Error::custom)
}

impl Settings {
    /// Reads the configuration of the model `name`.
    ///
    /// # Errors
    /// What is not understood or not honoured, for people.
    pub fn read(name: &str, config: Value) -> Result<Self, String> {
        let config: Config = serde_json::from_value(config).map_err(|error| {
            format!("{error}; what is not known here is not honoured: remove it")
        })?;
        if let Some(other) = config.name.filter(|own| !own.is_empty() && own != name) {
            return Err(format!("name is `{other}`, and the folder's is `{name}`"));
        }
        for (key, value, known) in [
            ("platform", config.platform, "onnxruntime_onnx"),
            ("backend", config.backend, "onnxruntime"),
        ] {
            if let Some(other) = value.filter(|own| !own.is_empty() && own != known) {
                return Err(format!("{key} is `{other}`; only ONNX models are served: {known}"));
            }
        }
        let file = config.default_model_filename.filter(|file| !file.is_empty());
        if file.as_ref().is_some_and(|file| !is_plain(file)) {
            return Err("default_model_filename is not a plain name of a file".into());
        }
        let labels = config.output.into_iter().filter_map(labels).collect::<Result<_, _>>()?;
        let max_rows = config.max_batch_size.map(|Whole(rows)| rows.max(1));
        let (batching, queue) = batching(max_rows, config.dynamic_batching.unwrap_or_default())?;
        let versions = match config.version_policy {
            None | Some(VersionPolicy::Latest { num_versions: None }) => Versions::default(),
            Some(VersionPolicy::All {}) => Versions::All,
            Some(VersionPolicy::Latest { num_versions: Some(Whole(most)) }) => {
                Versions::Latest(usize::try_from(most.max(1)).unwrap_or(usize::MAX))
            }
            Some(VersionPolicy::Specific { versions }) => {
                Versions::Specific(versions.into_iter().map(|Whole(version)| version).collect())
            }
        };
        let instances = instances(&config.instance_group)?;
        let cache = config.response_cache.is_some_and(|cache| cache.enable);
        let serving = Serving { instances, batching, queue, cache };
        Ok(Self { versions, serving, file, labels })
    }
}

fn is_plain(file: &str) -> bool {
    !file.contains(['/', '\\']) && !file.starts_with('.')
}

/// What the file of an output's labels is called in a bundle, and in the model's folder.
fn labels(output: Output) -> Option<Result<(String, String), String>> {
    let file = output.label_filename.filter(|file| !file.is_empty())?;
    let name = output.name.unwrap_or_default();
    let inside = Labels::file(&name).filter(|_| !name.is_empty());
    Some(match inside {
        None => Err(format!("label_filename: no file can be named after the output `{name}`")),
        Some(_) if !is_plain(&file) => {
            Err(format!("label_filename of `{name}` is not a plain name of a file"))
        }
        Some(inside) => Ok((inside, file)),
    })
}

fn instances(groups: &[InstanceGroup]) -> Result<usize, String> {
    let [group] = groups else {
        return match groups {
            [] => Ok(Serving::default().instances),
            _ => Err("several instance_groups; a model's instances are all alike here".into()),
        };
    };
    if let Some(kind) = group.kind.as_deref()
        && !matches!(kind, "KIND_AUTO" | "KIND_CPU" | "KIND_GPU")
    {
        return Err(format!("instance_group: kind {kind} is not honoured"));
    }
    let instances = group.count.map_or(1, |Whole(count)| count.max(1));
    Ok(usize::try_from(within("instance_group: count", instances, INSTANCES_MAX)?)
        .expect("a small number"))
}

fn batching(max_rows: Option<u64>, told: DynamicBatching) -> Result<(Batching, Queueing), String> {
    let max_rows =
        max_rows.map(|rows| within("max_batch_size", rows, BATCH_ROWS_MAX)).transpose()?;
    let mut preferred = [0; BATCH_PREFERRED_MAX];
    if told.preferred_batch_size.len() > preferred.len() {
        return Err(format!("preferred_batch_size: at most {BATCH_PREFERRED_MAX} are honoured"));
    }
    for (own, Whole(rows)) in preferred.iter_mut().zip(told.preferred_batch_size) {
        *own = within("preferred_batch_size", rows, max_rows.unwrap_or(BATCH_ROWS_MAX))?;
    }
    let Whole(wait_us) = told.max_queue_delay_microseconds;
    let wait_us = within("max_queue_delay_microseconds", wait_us, BATCH_WAIT_US_MAX)?;
    let Whole(levels) = told.priority_levels;
    let priorities = within("priority_levels", levels.max(1), PRIORITIES_MAX)?;
    let default = match told.default_priority_level {
        Whole(0) => priorities,
        Whole(level) => within("default_priority_level", level, priorities)?,
    };
    if told.preserve_ordering && priorities > 1 {
        return Err("preserve_ordering and priority_levels exclude each other".into());
    }
    let batching = Batching {
        max_rows,
        max_wait: Duration::from_micros(wait_us.into()),
        preferred,
        priorities,
        priority_default: default,
        preserve_order: told.preserve_ordering,
    };
    let policy = told.default_queue_policy;
    let most = u32::try_from(QUEUE_MAX).expect("some thousands");
    let (Whole(max), Whole(timeout)) = (policy.max_queue_size, policy.default_timeout_microseconds);
    let max = usize::try_from(within("max_queue_size", max, most)?).expect("some thousands");
    let timeout = within("default_timeout_microseconds", timeout, QUEUE_TIMEOUT_US_MAX)?;
    let queue = Queueing {
        // 0 is no limit there; here there always is one.
        max: if max == 0 { Serving::default().queue.max } else { max },
        timeout: (timeout > 0).then(|| Duration::from_micros(timeout.into())),
        when_late: match policy.timeout_action {
            Action::Reject => WhenLate::Reject,
            Action::Delay => WhenLate::Delay,
        },
    };
    Ok((batching, queue))
}

fn within(key: &str, number: u64, most: u32) -> Result<u32, String> {
    let fits = u32::try_from(number).ok().filter(|number| *number <= most);
    fits.ok_or_else(|| format!("{key} is {number}; at most {most} is honoured"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: Value) -> Result<Settings, String> {
        Settings::read("m", config)
    }

    #[test]
    fn what_says_nothing_leaves_all_to_the_node() {
        assert_eq!(read(json!({})).unwrap(), Settings::default());
        let told = json!({
            "name": "m", "platform": "onnxruntime_onnx", "backend": "onnxruntime",
            "input": { "name": "x", "data_type": "TYPE_FP32", "dims": [3] },
            "output": [{ "name": "y", "dims": 1 }],
            "model_warmup": [{ "name": "w" }],
        });
        assert_eq!(read(told).unwrap(), Settings::default());
    }

    #[test]
    fn labels_are_those_of_the_output_that_names_them() {
        let told = json!({ "output": [
            { "name": "y", "label_filename": "classes.txt" }, { "name": "z", "label_filename": "" },
        ] });
        let labels = [("labels/y.txt".to_owned(), "classes.txt".to_owned())].into();
        assert_eq!(read(told).unwrap(), Settings { labels, ..Settings::default() });
    }

    #[test]
    fn batches_instances_and_versions_are_as_it_says() {
        let told = json!({
            "max_batch_size": 8,
            "response_cache": { "enable": true },
            "instance_group": [{ "count": 3, "kind": "KIND_CPU" }],
            "version_policy": { "specific": { "versions": [1, "3"] } },
            "dynamic_batching": {
                "preferred_batch_size": 4,
                "max_queue_delay_microseconds": "100",
                "priority_levels": 2,
                "default_queue_policy": {
                    "timeout_action": "DELAY", "default_timeout_microseconds": 500,
                    "max_queue_size": 16, "allow_timeout_override": true,
                },
            },
        });
        let Settings { versions, serving, .. } = read(told).unwrap();
        assert_eq!(versions, Versions::Specific(vec![1, 3]));
        assert_eq!((serving.instances, serving.batching.max_rows), (3, Some(8)));
        assert!(serving.cache);
        assert_eq!(serving.batching.preferred[..2], [4, 0]);
        assert_eq!(serving.batching.max_wait, Duration::from_micros(100));
        assert_eq!((serving.batching.priorities, serving.batching.priority_default), (2, 2));
        let timeout = Some(Duration::from_micros(500));
        assert_eq!(serving.queue, Queueing { max: 16, timeout, when_late: WhenLate::Delay });
        assert_eq!(
            read(json!({ "max_batch_size": 0 })).unwrap().serving.batching.max_rows,
            Some(1)
        );
    }

    #[test]
    fn the_highest_versions_are_served_or_those_that_are_named() {
        let there = [1, 10, 9, 2];
        assert_eq!(Versions::default().of(&there), [10]);
        assert_eq!(Versions::Latest(2).of(&there), [10, 9]);
        assert_eq!(Versions::All.of(&there), [10, 9, 2, 1]);
        assert_eq!(Versions::Specific(vec![2, 7]).of(&there), [2]);
    }

    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        for (told, fault) in [
            (json!({ "optimization": {} }), "unknown field `optimization`"),
            (json!({ "output": [{ "label_filename": "x" }] }), "after the output ``"),
            (json!({ "output": { "name": "y", "label_filename": "../x" } }), "not a plain name"),
            (json!({ "output": { "name": "y", "reshape": {} } }), "unknown field `reshape`"),
            (json!({ "sequence_batching": {} }), "unknown field `sequence_batching`"),
            (json!({ "input": { "name": "x", "reshape": {} } }), "unknown field `reshape`"),
            (json!({ "name": "other" }), "the folder's is `m`"),
            (json!({ "backend": "python" }), "only ONNX models"),
            (json!({ "max_batch_size": -1 }), "-1 is not a whole number"),
            (json!({ "max_batch_size": 1 << 20 }), "at most 4096"),
            (json!({ "instance_group": [{}, {}] }), "several instance_groups"),
            (json!({ "instance_group": { "count": 1, "gpus": [0] } }), "unknown field `gpus`"),
            (json!({ "instance_group": { "kind": "KIND_MODEL" } }), "KIND_MODEL is not honoured"),
            (json!({ "default_model_filename": "../x.onnx" }), "not a plain name"),
            (json!({ "version_policy": { "newest": {} } }), "unknown variant `newest`"),
            (
                json!({ "max_batch_size": 2, "dynamic_batching": { "preferred_batch_size": [4] } }),
                "preferred_batch_size is 4; at most 2",
            ),
            (
                json!({ "dynamic_batching": { "priority_levels": 2, "preserve_ordering": true } }),
                "exclude each other",
            ),
        ] {
            let error = read(told.clone()).unwrap_err();
            assert!(error.contains(fault), "{told}: {error}");
        }
    }
}
