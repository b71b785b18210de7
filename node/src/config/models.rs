//! The part of the schema that says what is served: `[[model]]` and `[repository]`.

use std::path::Path;
use std::time::Duration;

use hansa_core::id::IdError;
use hansa_runtime::batch::Batching;
use hansa_runtime::limits::{
    BATCH_PREFERRED_MAX, BATCH_ROWS_MAX, BATCH_WAIT_US_MAX, PRIORITIES_MAX, QUEUE_MAX,
    QUEUE_TIMEOUT_US_MAX,
};
use hansa_runtime::line::{Queueing, WhenLate};

use super::reader::Section;
use super::schema::{bounded, name, path};
use super::{Control, ModelConfig, ModelSource, RepositoryConfig, Serving};
use crate::limits::ENGINE_QUEUE;

/// Most instances of one model.
pub(crate) const INSTANCES_MAX: u32 = 64;
/// How often a repository is looked at unless the config says otherwise, in seconds.
const POLL_S: usize = 15;
/// Longest that it may be told to wait between, in seconds: a day.
const POLL_S_MAX: u32 = 86_400;

/// Every `[[model]]`.
pub(super) fn read(root: &mut Section<'_, '_>, folder: &Path) -> Vec<ModelConfig> {
    let mut seen = Vec::new();
    root.tables("model", |section| {
        let model_name: Option<String> = section.require("name");
        if let Some(Err(reason)) = model_name.as_deref().map(name) {
            section.refuse("name", reason);
        }
        let version = section.parse("version", name).unwrap_or_else(|| "1".into());
        let source = source(section, folder);
        let serving = serving(section);
        let model = ModelConfig { name: model_name?, version, source: source?, serving };
        let key = (model.name.clone(), model.version.clone());
        if seen.contains(&key) {
            let reason = format!("`{}` version `{}` is listed twice", model.name, model.version);
            section.refuse("name", reason);
        }
        seen.push(key);
        Some(model)
    })
}

/// `[repository]`
pub(super) fn repository(section: &mut Section<'_, '_>, folder: &Path) -> RepositoryConfig {
    let dir = path(section, "dir", folder);
    let control = section.parse("control", |text| match text {
        "none" => Ok(Control::None),
        "poll" => Ok(Control::Poll),
        "explicit" => Ok(Control::Explicit),
        _ => Err(format!("`{text}` is not \"none\", \"poll\" or \"explicit\"")),
    });
    let poll_s = bounded(section, "poll_s", 1..=POLL_S_MAX).unwrap_or(POLL_S);
    if control.is_some_and(|control| control != Control::None) && !section.has("dir") {
        section.refuse("control", "of which folder? add dir".into());
    }
    let poll = Duration::from_secs(poll_s as u64);
    RepositoryConfig { dir, control: control.unwrap_or_default(), poll }
}

/// How a model is served.
fn serving(section: &mut Section<'_, '_>) -> Serving {
    Serving {
        instances: bounded(section, "instances", 1..=INSTANCES_MAX).unwrap_or(1),
        batching: section.table("batch", batching),
        queue: section.table("queue", queueing),
        cache: section.get("cache").unwrap_or(false),
    }
}

/// How jobs of a model are put together.
fn batching(section: &mut Section<'_, '_>) -> Batching {
    let mut number = |key, range| {
        bounded(section, key, range).map(|number| u32::try_from(number).expect("it was one"))
    };
    let max_rows = number("max_rows", 1..=BATCH_ROWS_MAX);
    let max_wait_us = number("max_wait_us", 0..=BATCH_WAIT_US_MAX).unwrap_or(0);
    let priorities = number("priorities", 1..=PRIORITIES_MAX).unwrap_or(1);
    // Who names none is not urgent.
    let priority_default = number("default_priority", 1..=priorities).unwrap_or(priorities);
    let preserve_order = section.get("preserve_order").unwrap_or(false);
    if preserve_order && priorities > 1 {
        let reason =
            "there are priorities, so that jobs do not run in the order in which they come";
        section.refuse("preserve_order", reason.into());
    }
    Batching {
        max_rows,
        max_wait: Duration::from_micros(max_wait_us.into()),
        preferred: preferred(section, max_rows),
        priorities,
        priority_default,
        preserve_order,
    }
}

/// Numbers of rows that a model runs best.
fn preferred(section: &mut Section<'_, '_>, max_rows: Option<u32>) -> [u32; BATCH_PREFERRED_MAX] {
    let mut sizes = [0; BATCH_PREFERRED_MAX];
    let named: Vec<u32> = section.get("preferred").unwrap_or_default();
    let most = max_rows.unwrap_or(BATCH_ROWS_MAX);
    if named.len() > sizes.len() {
        section.refuse("preferred", format!("{} numbers; at most {}", named.len(), sizes.len()));
    } else if let Some(odd) = named.iter().find(|rows| !(1..=most).contains(*rows)) {
        section.refuse("preferred", format!("{odd} is not from 1 to {most}"));
    } else {
        sizes[..named.len()].copy_from_slice(&named);
    }
    sizes
}

/// How many jobs of a model wait, and how long.
fn queueing(section: &mut Section<'_, '_>) -> Queueing {
    let most = u32::try_from(QUEUE_MAX).expect("some thousands");
    let max = bounded(section, "max", 0..=most).unwrap_or(ENGINE_QUEUE);
    let timeout_us = bounded(section, "timeout_us", 0..=QUEUE_TIMEOUT_US_MAX).unwrap_or(0) as u64;
    let when_late = section.parse("when_late", |text| match text {
        "reject" => Ok(WhenLate::Reject),
        "delay" => Ok(WhenLate::Delay),
        _ => Err(format!("`{text}` is neither \"reject\" nor \"delay\"")),
    });
    Queueing {
        max,
        timeout: (timeout_us > 0).then(|| Duration::from_micros(timeout_us)),
        when_late: when_late.unwrap_or_default(),
    }
}

/// Exactly one of the two places that a model's files can come from.
fn source(section: &mut Section<'_, '_>, folder: &Path) -> Option<ModelSource> {
    let path = path(section, "path", folder);
    let bundle =
        section.parse("bundle", |text| text.parse().map_err(|error: IdError| error.to_string()));
    match (section.has("path"), section.has("bundle")) {
        (true, true) => {
            let reason = "is given beside path: name the files or the digest, not both";
            section.refuse("bundle", reason.into());
            None
        }
        (false, false) => {
            let reason = "is missing: an .onnx file, or a folder with model.onnx; or give bundle, \
                          the digest of a model that peers hold";
            section.refuse("path", reason.into());
            None
        }
        _ => path.map(ModelSource::Path).or(bundle.map(ModelSource::Bundle)),
    }
}
