//! `hansa infer`: submits a job to a node and shows the answer.

use anyhow::{Context, bail};
use hansa_runtime::tensor::{DType, Tensor};
use serde_json::{Value, json};

use super::{InferArgs, PolicyArgs, npy, out};
use crate::client::{Client, Embedded, Inferred};

impl PolicyArgs {
    /// The constraints as headers of a request.
    pub fn headers(&self) -> Vec<(String, String)> {
        self.pairs().map(|(name, value)| (format!("Hansa-{name}"), value)).collect()
    }

    /// The constraints as parameters of a query.
    pub fn query(&self) -> String {
        let encode = |text: &str| -> String {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,".contains(&byte);
            text.bytes()
                .map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02X}") })
                .collect()
        };
        let pair = |(name, value): (&str, String)| {
            format!("&{}={}", name.to_lowercase().replace('-', "_"), encode(&value))
        };
        self.pairs().map(pair).collect()
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = (&'static str, String)> {
        fn number<T: ToString>(number: Option<T>) -> Option<String> {
            number.map(|number| number.to_string())
        }
        let pairs = [
            ("Locations", self.locations.clone()),
            ("Control", self.control.clone()),
            ("Operators", self.operators.clone()),
            ("Data-Class", self.data_class.clone()),
            ("Authorities", self.signed_by.clone()),
            ("Signatures-Min", number(self.signatures_min)),
            ("Bundles", self.bundles.clone()),
            ("Device", self.device.clone()),
            ("Device-Memory-Mib", number(self.device_memory_mib)),
            ("Hops-Max", number(self.hops_max)),
            ("Stages-Max", number(self.stages_max)),
            ("Retention", self.retention.clone()),
            ("Audit", self.audit.clone()),
            ("Purpose", self.purpose.clone()),
            ("Rtt-Evidence", self.rtt_evidence.clone()),
            ("Receipt", self.receipt.clone()),
            ("Deadline-Ms", number(self.deadline_ms)),
            ("Max-Price", self.max_price.clone()),
            ("Split", self.split.clone()),
        ];
        pairs.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// Runs the command.
pub fn run(args: &InferArgs) -> anyhow::Result<()> {
    let client = Client::new(&args.via);
    if args.explain {
        let path = format!("/mesh/v1/plan?model={}{}", args.model, args.policy.query());
        let plan = client.get(&path)?;
        if args.json {
            out::json_line(&plan);
        } else {
            out::line(&super::plan::table(&plan));
        }
        return Ok(());
    }
    let (done, tokens) = match args.texts.is_empty() {
        true => (tensors(&client, args)?, None),
        false => embed(&client, args)?,
    };
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder)?;
        for output in &done.outputs {
            let file = folder.join(format!("{}.npy", output.name.replace('/', "_")));
            std::fs::write(&file, npy::write(output).map_err(anyhow::Error::msg)?)
                .with_context(|| file.display().to_string())?;
        }
    }
    if args.json {
        let outputs: Vec<Value> =
            done.outputs.iter().map(|output| show(output, usize::MAX)).collect();
        out::json_line(&json!({
            "model": args.model,
            "executed_by": done.executed_by,
            "executed_in": done.executed_in,
            "price": done.price,
            "server_timing": done.server_timing,
            "receipt": done.receipt,
            "tokens": tokens,
            "outputs": outputs,
        }));
    } else {
        for output in &done.outputs {
            let shown = show(output, 8);
            out::line(&format!(
                "{} {} {:?}: {}",
                output.name, output.dtype, output.shape, shown["data"]
            ));
        }
        let place = if done.executed_in.is_empty() { "no charter" } else { &done.executed_in };
        let price = done.price.as_ref().map(|price| format!(" for {price}")).unwrap_or_default();
        let receipt = done.receipt.map(|id| format!("; receipt {id}")).unwrap_or_default();
        let tokens = tokens.map(|tokens| format!("{tokens} tokens, ")).unwrap_or_default();
        out::line(&format!(
            "{tokens}executed by {} ({place}){price}; {}{receipt}",
            done.executed_by, done.server_timing
        ));
    }
    Ok(())
}

/// A job over the tensors of `--input`.
fn tensors(client: &Client, args: &InferArgs) -> anyhow::Result<Inferred> {
    let wanted = client.get(&format!("/v2/models/{}", args.model.replace('@', "%40")))?;
    let inputs = args.inputs.iter().map(|input| parse_input(input, &wanted));
    let inputs = inputs.collect::<anyhow::Result<Vec<Tensor>>>()?;
    if inputs.is_empty() {
        let names: Vec<String> =
            specs(&wanted).map(|(name, spec)| format!("{name} {spec}")).collect();
        bail!(
            "give the inputs with --input NAME=@FILE.npy or NAME=JSON, or a text with --text; the \
             model takes: {}",
            names.join("; ")
        );
    }
    super::entry::check(client, args)?;
    Ok(client.infer(&args.model, &inputs, &args.policy.headers())?)
}

/// The embeddings of `--text`, as one tensor, and how many tokens the texts have.
fn embed(client: &Client, args: &InferArgs) -> anyhow::Result<(Inferred, Option<u64>)> {
    super::entry::check(client, args)?;
    let Embedded { embeddings, tokens, mut done } =
        client.embed(&args.model, &args.texts, &args.policy.headers())?;
    let size = embeddings.first().map_or(0, Vec::len);
    done.outputs.push(Tensor {
        name: "sentence_embedding".into(),
        dtype: DType::Fp32,
        shape: vec![embeddings.len() as u64, size as u64],
        data: embeddings.into_iter().flatten().flat_map(f32::to_le_bytes).collect(),
    });
    Ok((done, Some(tokens)))
}

/// The model's inputs as its metadata names them.
fn specs(metadata: &Value) -> impl Iterator<Item = (&str, String)> {
    let inputs = metadata["inputs"].as_array().map(Vec::as_slice).unwrap_or_default();
    inputs.iter().map(|input| {
        let text = |key: &str| input[key].as_str().unwrap_or_default();
        (text("name"), format!("{} {}", text("datatype"), input["shape"]))
    })
}

/// `NAME=@FILE.npy` or `NAME=JSON`; JSON takes the type that the model wants.
fn parse_input(text: &str, metadata: &Value) -> anyhow::Result<Tensor> {
    let (name, value) =
        text.split_once('=').context("--input takes NAME=@FILE.npy or NAME=JSON")?;
    if let Some(file) = value.strip_prefix('@') {
        let bytes = std::fs::read(file).with_context(|| format!("--input {name}=@{file}"))?;
        return npy::read(name, &bytes)
            .map_err(|reason| anyhow::anyhow!("--input {name}=@{file}: {reason}"));
    }
    let inputs = metadata["inputs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let spec = inputs.iter().find(|input| input["name"] == name).with_context(|| {
        let names: Vec<&str> = specs(metadata).map(|(name, _)| name).collect();
        format!("the model has no input `{name}`; its inputs are {}", names.join(", "))
    })?;
    let dtype: DType = spec["datatype"].as_str().unwrap_or_default().parse()?;
    let value: Value = serde_json::from_str(value)
        .with_context(|| format!("--input {name}=…: neither @FILE.npy nor JSON"))?;
    let mut shape = Vec::new();
    let mut level = &value;
    while let Value::Array(items) = level {
        shape.push(items.len() as u64);
        level = items.first().unwrap_or(&Value::Null);
    }
    let body = json!({"inputs": [{
        "name": name, "shape": shape, "datatype": dtype,
        "data": if value.is_array() { value } else { json!([value]) },
    }]});
    let request = crate::api::v2::parse_infer(None, body.to_string().into(), &Default::default())?;
    Ok(request.inputs.into_iter().next().expect("one input was given"))
}

/// A tensor for people and programs: its first `most` elements as JSON.
fn show(tensor: &Tensor, most: usize) -> Value {
    crate::api::v2::tensor_json(tensor, most)
}
