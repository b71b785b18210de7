//! What the protocol tells of servers, models and settings, as gRPC's messages; and the settings that
//! it is told. Pure functions.

use std::collections::{BTreeMap, HashMap};

use hansa_runtime::labels::Labels;
use hansa_runtime::tensor::{DType, Signature, TensorSpec};
use serde_json::Value;

use super::inference::model_metadata_response::TensorMetadata;
use super::inference::repository_index_response::ModelIndex;
use super::inference::*;
use crate::api::regions::Region;
use crate::api::statistics::{Row, Sum};
use crate::api::v2;

/// What the server says of itself, from what it says over HTTP.
pub fn server_metadata(told: &Value) -> ServerMetadataResponse {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    ServerMetadataResponse {
        name: text(&told["name"]),
        version: text(&told["version"]),
        extensions: told["extensions"].as_array().into_iter().flatten().map(text).collect(),
    }
}

/// What a model takes and gives.
pub fn metadata(name: String, version: String, signature: &Signature) -> ModelMetadataResponse {
    let tell = |specs: &[TensorSpec]| {
        let one = |spec: &TensorSpec| TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.datatype.to_string(),
            shape: spec.shape.clone(),
        };
        specs.iter().map(one).collect()
    };
    ModelMetadataResponse {
        name,
        versions: vec![version],
        platform: "onnxruntime_onnx".into(),
        inputs: tell(&signature.inputs),
        outputs: tell(&signature.outputs),
    }
}

/// The same as a configuration.
pub fn config(name: String, signature: &Signature) -> ModelConfig {
    let input = |spec: &TensorSpec| ModelInput {
        name: spec.name.clone(),
        data_type: data_type(spec.datatype).into(),
        dims: v2::dims(signature, spec).to_vec(),
        optional: signature.looped.as_ref().is_some_and(|looped| looped.begins(&spec.name)),
    };
    let labels = |name: &str| signature.labels.contains(name).then(|| Labels::file(name)).flatten();
    let output = |spec: &TensorSpec| ModelOutput {
        name: spec.name.clone(),
        data_type: data_type(spec.datatype).into(),
        dims: v2::dims(signature, spec).to_vec(),
        label_filename: labels(&spec.name).unwrap_or_default(),
    };
    let sequence_batching = signature.sequence.as_ref().map(|_| ModelSequenceBatching {});
    let decoupled = ModelTransactionPolicy { decoupled: true };
    let shown = signature.for_apps();
    ModelConfig {
        name,
        platform: "onnxruntime_onnx".into(),
        max_batch_size: signature.rows_max.map_or(0, u32::cast_signed),
        input: shown.inputs.iter().map(input).collect(),
        output: shown.outputs.iter().map(output).collect(),
        sequence_batching,
        backend: "onnxruntime".into(),
        model_transaction_policy: signature.looped.as_ref().map(|_| decoupled),
    }
}

fn data_type(dtype: DType) -> DataType {
    match dtype {
        DType::Bool => DataType::TypeBool,
        DType::Int8 => DataType::TypeInt8,
        DType::Int16 => DataType::TypeInt16,
        DType::Int32 => DataType::TypeInt32,
        DType::Int64 => DataType::TypeInt64,
        DType::Uint8 => DataType::TypeUint8,
        DType::Uint16 => DataType::TypeUint16,
        DType::Uint32 => DataType::TypeUint32,
        DType::Uint64 => DataType::TypeUint64,
        DType::Fp16 => DataType::TypeFp16,
        DType::Bf16 => DataType::TypeBf16,
        DType::Fp32 => DataType::TypeFp32,
        DType::Fp64 => DataType::TypeFp64,
        DType::Bytes => DataType::TypeString,
    }
}

/// Counters of a model.
pub fn statistics(row: Row) -> ModelStatistics {
    let sum = |sum: Sum| Some(StatisticDuration { count: sum.count, ns: sum.ns() });
    let within = sum(row.within());
    ModelStatistics {
        last_inference: row.last_inference_ms(),
        inference_count: row.tally.rows,
        execution_count: row.executions,
        inference_stats: Some(InferStatistics {
            success: sum(row.tally.success),
            fail: sum(row.tally.fail),
            queue: sum(row.tally.queue),
            compute_input: within,
            compute_infer: sum(row.tally.infer),
            compute_output: within,
            cache_hit: sum(row.tally.hits),
            cache_miss: sum(row.tally.misses),
        }),
        name: row.name,
        version: row.version,
    }
}

/// A model of the repository, from what HTTP shows of it.
pub fn index(row: &Value) -> ModelIndex {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    ModelIndex {
        name: text("name"),
        version: text("version"),
        state: text("state"),
        reason: text("reason"),
    }
}

/// Parameters of a load or unload. Bytes are files, which are known by their keys.
pub fn repository_parameters(
    parameters: HashMap<String, ModelRepositoryParameter>,
) -> BTreeMap<String, Value> {
    use model_repository_parameter::ParameterChoice as Choice;
    let value = |(key, parameter): (String, ModelRepositoryParameter)| {
        let value = match parameter.parameter_choice {
            Some(Choice::BoolParam(value)) => value.into(),
            Some(Choice::Int64Param(value)) => value.into(),
            Some(Choice::StringParam(value)) => value.into(),
            Some(Choice::BytesParam(_)) | None => Value::Null,
        };
        (key, value)
    };
    parameters.into_iter().map(value).collect()
}

/// A region of shared memory.
pub fn region(
    (name, region): (String, Region),
) -> (String, system_shared_memory_status_response::RegionStatus) {
    let Region { key, offset, byte_size, .. } = region;
    let told = system_shared_memory_status_response::RegionStatus {
        name: name.clone(),
        key,
        offset,
        byte_size,
    };
    (name, told)
}

/// A setting of traces that is to be changed.
pub fn trace_change(
    (key, setting): (String, trace_setting_request::SettingValue),
) -> (String, Option<Vec<String>>) {
    (key, Some(setting.value).filter(|values| !values.is_empty()))
}

/// A setting of traces, as it is.
pub fn trace_setting(
    (key, value): (String, Vec<String>),
) -> (String, trace_setting_response::SettingValue) {
    (key, trace_setting_response::SettingValue { value })
}

/// A setting of the log that is to be changed.
pub fn log_change((key, setting): (String, log_settings_request::SettingValue)) -> (String, Value) {
    use log_settings_request::setting_value::ParameterChoice as Choice;
    let value = match setting.parameter_choice {
        Some(Choice::BoolParam(value)) => value.into(),
        Some(Choice::Uint32Param(value)) => value.into(),
        Some(Choice::StringParam(value)) => value.into(),
        None => Value::Null,
    };
    (key, value)
}

/// Settings of the log, as HTTP shows them.
pub fn log_settings(told: &Value) -> HashMap<String, log_settings_response::SettingValue> {
    use log_settings_response::setting_value::ParameterChoice as Choice;
    let setting = |(key, value): (&String, &Value)| {
        let choice = match value {
            Value::Bool(value) => Choice::BoolParam(*value),
            Value::Number(number) => {
                let number = number.as_u64().and_then(|number| u32::try_from(number).ok());
                Choice::Uint32Param(number.unwrap_or(u32::MAX))
            }
            other => Choice::StringParam(other.as_str().unwrap_or_default().to_owned()),
        };
        let parameter_choice = Some(choice);
        (key.clone(), log_settings_response::SettingValue { parameter_choice })
    };
    told.as_object().into_iter().flatten().map(setting).collect()
}
