//! The part of the schema that says what is served: `[[model]]`.

use std::path::Path;

use hansa_core::id::IdError;

use super::reader::Section;
use super::schema::{bounded, name, path};
use super::{ModelConfig, ModelSource};

/// Most instances of one model.
const INSTANCES_MAX: u32 = 64;

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
        let instances = bounded(section, "instances", 1..=INSTANCES_MAX).unwrap_or(1);
        section.table("batch", |section| {
            section.unsupported("max_rows");
            section.unsupported("max_wait_us");
        });
        let model = ModelConfig { name: model_name?, version, source: source?, instances };
        let key = (model.name.clone(), model.version.clone());
        if seen.contains(&key) {
            let reason = format!("`{}` version `{}` is listed twice", model.name, model.version);
            section.refuse("name", reason);
        }
        seen.push(key);
        Some(model)
    })
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
