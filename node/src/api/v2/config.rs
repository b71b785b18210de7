//! A model's configuration in the form that Triton's clients read, told from its signature. No more
//! than a signature says: every dimension is written out, so `max_batch_size` is 0, and nothing is
//! claimed of instances or batching, which are each holder's own.

use hansa_runtime::tensor::{DType, Signature, TensorSpec};
use serde_json::{Value, json};

/// What `GET /v2/models/NAME/config` answers: the app's own name for the model, its inputs and
/// outputs with all their dimensions (-1 is any).
pub fn model_config(name: &str, signature: &Signature) -> Value {
    let tell = |specs: &[TensorSpec]| -> Vec<Value> {
        let one = |spec: &TensorSpec| {
            json!({
                "name": spec.name,
                "data_type": data_type(spec.datatype),
                "dims": spec.shape,
            })
        };
        specs.iter().map(one).collect()
    };
    json!({
        "name": name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,
        "input": tell(&signature.inputs),
        "output": tell(&signature.outputs),
    })
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
            rows: None,
        };
        let config = model_config("reader", &signature);
        assert_eq!(config["name"], "reader");
        assert_eq!(config["max_batch_size"], 0);
        assert_eq!(
            config["input"],
            json!([
                { "name": "text", "data_type": "TYPE_STRING", "dims": [-1] },
                { "name": "ids", "data_type": "TYPE_INT64", "dims": [-1, 128] },
            ])
        );
        let output = json!([{ "name": "scores", "data_type": "TYPE_FP32", "dims": [-1, 3] }]);
        assert_eq!(config["output"], output);
    }
}
