//! What the files beside a tokenizer say, as transformers and sentence-transformers write them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::TextError;
use super::pool::Pool;
use crate::limits::TEXT_TOKENS_MAX;

const MODEL: &str = "config.json";
const TOKENIZER: &str = "tokenizer_config.json";
const MODULES: &str = "modules.json";
/// Models whose positions begin behind that of the padding.
const OFFSET: [&str; 5] = ["roberta", "xlm-roberta", "camembert", "mpnet", "longformer"];

/// What they say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    /// Most tokens of a text.
    pub(super) tokens_max: usize,
    /// Whether texts are written in small letters first.
    pub(super) lower_case: bool,
    /// The token that fills short rows.
    pub(super) pad_token: Option<String>,
    /// Its number.
    pub(super) pad_id: Option<u32>,
    /// What makes one vector of a text's many, in order.
    pub(super) pools: Vec<Pool>,
    /// Whether the vector is made one long.
    pub(super) normalizes: bool,
    /// A module that is more than these.
    pub(super) other: Option<String>,
    /// Sizes that an embedding may be cut to: none, any (an empty list), or these.
    pub(super) cuts: Option<Vec<usize>>,
}

impl Config {
    /// Whether it reads a file of this path.
    pub(super) fn reads(path: &str) -> bool {
        matches!(path, MODEL | TOKENIZER | MODULES) || is_sentences(path) || is_modules(path)
    }

    /// What the files say, by their paths; those that are not there say nothing.
    pub(super) fn read(files: &BTreeMap<String, Vec<u8>>) -> Result<Self, TextError> {
        let parsed = files.iter().filter(|(path, _)| Self::reads(path)).map(|(path, bytes)| {
            let value = serde_json::from_slice::<Value>(bytes);
            value.map(|value| (path.as_str(), value)).map_err(|error| TextError::file(path, error))
        });
        let parsed: BTreeMap<&str, Value> = parsed.collect::<Result<_, _>>()?;
        let none = Value::Null;
        let file = |path: &str| parsed.get(path).unwrap_or(&none);
        let (model, tokenizer) = (file(MODEL), file(TOKENIZER));
        let sentences = parsed.iter().find(|(path, _)| is_sentences(path));
        let sentences = sentences.map_or(&none, |(_, value)| value);
        let pad_token = &tokenizer["pad_token"];
        let (pools, normalizes, other) = modules(&parsed)?;
        Ok(Self {
            tokens_max: tokens_max(model, tokenizer, sentences),
            lower_case: sentences["do_lower_case"] == true,
            pad_token: pad_token.as_str().or(pad_token["content"].as_str()).map(str::to_owned),
            pad_id: model["pad_token_id"].as_u64().and_then(|id| u32::try_from(id).ok()),
            pools,
            normalizes,
            other,
            cuts: cuts(model),
        })
    }
}

/// `sentence_bert_config.json`, and as it is called for other kinds of models.
fn is_sentences(path: &str) -> bool {
    path.starts_with("sentence_") && path.ends_with("_config.json")
}

/// The config of a module, in a folder of its own: `1_Pooling/config.json`.
fn is_modules(path: &str) -> bool {
    path.strip_suffix("/config.json").is_some_and(|folder| !folder.contains('/'))
}

/// The least that one of the files names: positions that the model has, what its tokenizer or its
/// sentence-transformers config cut to.
fn tokens_max(model: &Value, tokenizer: &Value, sentences: &Value) -> usize {
    // A tokenizer without a limit says 1e30.
    let number = |value: &Value| {
        value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0)
    };
    let positions = number(&model["max_position_embeddings"]).map(|positions| {
        let is_behind = OFFSET.iter().any(|kind| model["model_type"] == *kind);
        let first = if is_behind { model["pad_token_id"].as_u64().unwrap_or(1) + 1 } else { 0 };
        positions.saturating_sub(usize::try_from(first).unwrap_or(usize::MAX)).max(1)
    });
    let own = [number(&tokenizer["model_max_length"]), number(&sentences["max_seq_length"])];
    own.into_iter().chain([positions]).flatten().fold(TEXT_TOKENS_MAX, usize::min)
}

/// Sizes that embeddings may be cut to, by the words that model cards use.
fn cuts(model: &Value) -> Option<Vec<usize>> {
    let sizes = model["matryoshka_dimensions"].as_array().map(|sizes| {
        let sizes = sizes.iter().filter_map(|size| usize::try_from(size.as_u64()?).ok());
        sizes.filter(|size| *size > 0).collect::<Vec<usize>>()
    });
    match sizes.filter(|sizes| !sizes.is_empty()) {
        Some(sizes) => Some(sizes),
        None => (model["is_matryoshka"] == true).then(Vec::new),
    }
}

/// How one vector is made of many, whether that is made one long, and a module that does more.
fn modules(parsed: &BTreeMap<&str, Value>) -> Result<(Vec<Pool>, bool, Option<String>), TextError> {
    let (mut pools, mut normalizes, mut other) = (vec![Pool::Mean], false, None);
    let Some(modules) = parsed.get(MODULES) else { return Ok((pools, normalizes, other)) };
    let not_modules = || TextError::file(MODULES, "it is not a list of modules");
    for module in modules.as_array().ok_or_else(not_modules)? {
        let kind = module["type"].as_str().ok_or_else(not_modules)?;
        match kind.rsplit('.').next().unwrap_or(kind) {
            "Transformer" => {}
            "Pooling" => {
                let path = module["path"].as_str().ok_or_else(not_modules)?;
                let path = format!("{path}/config.json");
                let missing =
                    || TextError::file(MODULES, format!("it names {path}, which is missing"));
                let config = parsed.get(path.as_str()).ok_or_else(missing)?;
                pools = pooling(config).map_err(|reason| TextError::file(&path, reason))?;
            }
            "Normalize" => normalizes = true,
            kind => other = other.or(Some(kind.to_owned())),
        }
    }
    Ok((pools, normalizes, other))
}

/// What a pooling module does, in its new words (`pooling_mode`) or its old ones.
fn pooling(config: &Value) -> Result<Vec<Pool>, String> {
    let names: Vec<&str> = match &config["pooling_mode"] {
        Value::String(name) => vec![name],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => {
            let old = Pool::ALL.iter().filter(|(_, _, old)| config[*old] == true);
            old.map(|(_, name, _)| *name).collect()
        }
    };
    let named = |name: &str| {
        let found = Pool::ALL.iter().find(|(_, known, _)| *known == name);
        found.map(|(pool, ..)| *pool).ok_or_else(|| format!("unknown pooling mode `{name}`"))
    };
    match names[..] {
        [] => Ok(vec![Pool::Mean]),
        _ => names.into_iter().map(named).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(files: &[(&str, Value)]) -> Result<Config, TextError> {
        let files =
            files.iter().map(|(path, value)| ((*path).to_owned(), value.to_string().into()));
        Config::read(&files.collect())
    }

    #[test]
    fn the_least_of_all_limits_counts() {
        let limit = |files: &[(&str, Value)]| read(files).unwrap().tokens_max;
        assert_eq!(limit(&[]), TEXT_TOKENS_MAX);
        let endless = json!({"model_max_length": 1e30});
        assert_eq!(limit(&[(TOKENIZER, endless.clone())]), TEXT_TOKENS_MAX);
        let bert = json!({"max_position_embeddings": 512, "model_type": "bert", "pad_token_id": 0});
        assert_eq!(limit(&[(MODEL, bert.clone()), (TOKENIZER, endless)]), 512);
        let sentences = ("sentence_bert_config.json", json!({"max_seq_length": 256}));
        assert_eq!(limit(&[(MODEL, bert), sentences]), 256);
        // Two positions of RoBERTa's 514 are not for tokens.
        let roberta =
            json!({"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1});
        assert_eq!(limit(&[(MODEL, roberta)]), 512);
    }

    #[test]
    fn pooling_is_read_in_its_old_words_and_its_new_ones() {
        let modules = json!([
            {"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
        ]);
        let with =
            |config: Value| read(&[(MODULES, modules.clone()), ("1_Pooling/config.json", config)]);
        let old = json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": true});
        let config = with(old).unwrap();
        assert_eq!((config.pools, config.normalizes), (vec![Pool::Cls, Pool::Mean], true));
        let new = with(json!({"pooling_mode": ["lasttoken", "max"]})).unwrap();
        assert_eq!(new.pools, [Pool::Last, Pool::Max]);
        assert_eq!(with(json!({"pooling_mode": "cls"})).unwrap().pools, [Pool::Cls]);
        assert_eq!(with(json!({})).unwrap().pools, [Pool::Mean]);
        let odd = with(json!({"pooling_mode": "median"})).unwrap_err().to_string();
        assert!(odd.contains("1_Pooling/config.json") && odd.contains("median"), "{odd}");
        let missing = read(&[(MODULES, modules.clone())]).unwrap_err().to_string();
        assert!(missing.contains("1_Pooling/config.json, which is missing"), "{missing}");
        assert_eq!(read(&[]).unwrap().pools, [Pool::Mean]);
        assert!(!read(&[]).unwrap().normalizes);
        let dense = read(&[(MODULES, json!([{"path": "3", "type": "a.b.Dense"}]))]).unwrap();
        assert_eq!(dense.other.as_deref(), Some("Dense"));
    }

    #[test]
    fn a_file_that_is_no_json_is_named() {
        let files = [(MODEL.to_owned(), b"{".to_vec())].into();
        let fault = Config::read(&files).unwrap_err().to_string();
        assert!(fault.contains("config.json"), "{fault}");
    }

    #[test]
    fn an_embedding_is_cut_only_where_the_model_says_so() {
        let cuts = |model: Value| read(&[(MODEL, model)]).unwrap().cuts;
        assert_eq!(cuts(json!({})), None);
        assert_eq!(cuts(json!({"is_matryoshka": true})), Some(vec![]));
        assert_eq!(cuts(json!({"matryoshka_dimensions": [128, 64]})), Some(vec![128, 64]));
    }
}
