//! A model's configuration in the form that Triton's clients read, told from its signature. No more
//! than a signature says: nothing is claimed of instances or queues, which are each holder's own.
//! Unless its holder limits the rows of a run, `max_batch_size` is 0 and every dimension is written
//! out; where it does, that is the limit, and the dimension of the rows is left out.

use hansa_runtime::labels::Labels;
use hansa_runtime::tensor::{DType, Signature, TensorSpec};
use serde_json::{Value, json};

/// What `GET /v2/models/NAME/config` answers: the app's own name for the model, its inputs and
/// outputs with all their dimensions (-1 is any).
pub fn model_config(name: &str, signature: &Signature) -> Value {
    let tell = |specs: &[TensorSpec]| -> Vec<Value> {
        let one = |spec: &TensorSpec| {
            let mut told = json!({
                "name": spec.name,
                "data_type": data_type(spec.datatype),
                "dims": dims(signature, spec),
            });
            if signature.labels.contains(&spec.name) {
                told["label_filename"] = Labels::file(&spec.name).into();
            }
            told
        };
        specs.iter().map(one).collect()
    };
    let shown = signature.for_apps();
    let mut config = json!({
        "name": name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": signature.rows_max.unwrap_or(0),
        "input": tell(&shown.inputs),
        "output": tell(&shown.outputs),
    });
    if signature.sequence.is_some() {
        // By this clients know that they must name one.
        config["sequence_batching"] = json!({});
    }
    if let Some(looped) = &signature.looped {
        // By this, that a request may have several answers.
        config["model_transaction_policy"] = json!({ "decoupled": true });
        let inputs = config["input"].as_array_mut().into_iter().flatten();
        for (told, _) in inputs.zip(&shown.inputs).filter(|(_, spec)| looped.begins(&spec.name)) {
            told["optional"] = true.into();
        }
    }
    config
}

/// The dimensions of an input or output as a configuration has them.
pub fn dims<'a>(signature: &Signature, spec: &'a TensorSpec) -> &'a [i64] {
    spec.shape.get(usize::from(signature.rows_max.is_some())..).unwrap_or_default()
}

/// An element type's name in configurations, which is not the one of the protocol's tensors.
fn data_type(dtype: DType) -> String {
    match dtype {
        DType::Bytes => "TYPE_STRING".into(),
        other => format!("TYPE_{other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_what_the_signature_says_in_its_own_words() {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.into(),
        };
        let signature = Signature {
            inputs: vec![spec("text", DType::Bytes, &[-1]), spec("ids", DType::Int64, &[-1, 128])],
            outputs: vec![spec("scores", DType::Fp32, &[-1, 3])],
            labels: ["scores".to_owned()].into(),
            ..Signature::default()
        };
        let config = model_config("reader", &signature);
        assert_eq!(config["name"], "reader");
        assert_eq!(config["max_batch_size"], 0);
        let limited = model_config("reader", &Signature { rows_max: Some(8), ..signature.clone() });
        assert_eq!(
            (&limited["max_batch_size"], &limited["input"][1]["dims"]),
            (&json!(8), &json!([128]))
        );
        assert_eq!(
            config["input"],
            json!([
                { "name": "text", "data_type": "TYPE_STRING", "dims": [-1] },
                { "name": "ids", "data_type": "TYPE_INT64", "dims": [-1, 128] },
            ])
        );
        let looped = json!({ "states": { "scores": "ids" }, "while": "more", "steps_max": 9 });
        let looped = serde_json::from_value(looped).unwrap();
        let decoupled = model_config("reader", &Signature { looped: Some(looped), ..signature });
        assert_eq!(decoupled["model_transaction_policy"], json!({ "decoupled": true }));
        assert_eq!(decoupled["input"][1]["optional"], true, "a state begins by itself");
        assert_eq!(
            (&decoupled["input"][0]["optional"], &decoupled["output"]),
            (&json!(null), &json!([]))
        );
        let output = json!([{ "name": "scores", "data_type": "TYPE_FP32", "dims": [-1, 3],
            "label_filename": "labels/scores.txt" }]);
        assert_eq!(config["output"], output);
    }
}
