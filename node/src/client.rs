//! The client side of the API, as the CLI and the demo use it: blocking HTTP with the Open
//! Inference Protocol's binary tensors. Apps use clients of their own.

use std::time::Duration;

use bytes::Bytes;
use hansa_runtime::tensor::{DType, Tensor};
use serde_json::{Value, json};
use ureq::http::HeaderMap;

/// A connection pool to one node.
#[derive(Clone)]
pub struct Client {
    agent: ureq::Agent,
    url: String,
}

/// Why a request has no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answered.
    #[error("{url} does not answer: {reason}; is a node running there? (--via URL names another)")]
    Unreachable {
        /// The node.
        url: String,
        /// Why.
        reason: String,
    },
    /// The node refused; its own words.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The whole body, if it was JSON.
        body: Value,
        /// Its `error`.
        message: String,
        /// The job whose receipt says so, if the node keeps one.
        receipt: Option<String>,
    },
    /// The answer is not what the protocol says.
    #[error("{url} answered something that is not the protocol: {reason}")]
    Protocol {
        /// The node.
        url: String,
        /// What is wrong.
        reason: String,
    },
}

/// What a job gave.
#[derive(Debug)]
pub struct Inferred {
    /// The model's outputs.
    pub outputs: Vec<Tensor>,
    /// Name of the node that ran it.
    pub executed_by: String,
    /// Where that node stands; empty without a charter.
    pub executed_in: String,
    /// What it cost, as `0.000120 EUR`; none if it was free.
    pub price: Option<String>,
    /// The node's own breakdown of the time.
    pub server_timing: String,
    /// The job, by which its receipt is asked for; none if the node keeps none, `none` if it was lost.
    pub receipt: Option<String>,
}

/// What texts gave.
#[derive(Debug)]
pub struct Embedded {
    /// In the order of the texts.
    pub embeddings: Vec<Vec<f32>>,
    /// Tokens of all texts together.
    pub tokens: u64,
    /// What the answer says beside: who ran it, where, for how much. It has no outputs.
    pub done: Inferred,
}

/// Longest that a request may take when nothing else says.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 30;
const JSON_LENGTH: &str = "inference-header-content-length";

impl Client {
    /// A client of the node at `url`.
    pub fn new(url: &str) -> Self {
        let url = url.trim_end_matches('/');
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_idle_connections_per_host(256)
            .build();
        Self { agent: config.into(), url }
    }

    /// Asks for JSON.
    pub fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.json(self.agent.get(format!("{}{path}", self.url)).call())
    }

    fn json(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, ClientError> {
        let (status, headers, body) = self.read(answer)?;
        let body = self.parse(&body)?;
        if status < 400 { Ok(body) } else { Err(refused(status, &headers, body)) }
    }

    /// Asks for text.
    pub fn text(&self, path: &str) -> Result<String, ClientError> {
        let answer = self.agent.get(format!("{}{path}", self.url)).call();
        let (status, headers, body) = self.read(answer)?;
        if status >= 400 {
            return Err(refused(status, &headers, self.parse(&body)?));
        }
        String::from_utf8(body.into()).map_err(|error| ClientError::Protocol {
            url: self.url.clone(),
            reason: error.to_string(),
        })
    }

    /// Sends JSON, which may take as long as it takes.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        let request = self.agent.post(format!("{}{path}", self.url));
        let request = request.config().timeout_global(None).build();
        let request = request.header("content-type", "application/json");
        self.json(request.send(body.to_string()))
    }

    /// Deletes what `path` names.
    pub fn delete(&self, path: &str) -> Result<Value, ClientError> {
        self.json(self.agent.delete(format!("{}{path}", self.url)).call())
    }

    /// Runs a model over `inputs`, with the constraints in `headers`.
    pub fn infer(
        &self,
        model: &str,
        inputs: &[Tensor],
        headers: &[(String, String)],
    ) -> Result<Inferred, ClientError> {
        let described: Vec<Value> = inputs.iter().map(describe).collect();
        let json = json!({"inputs": described, "parameters": {"binary_data_output": true}});
        let mut body = json.to_string().into_bytes();
        let json_length = body.len().to_string();
        inputs.iter().for_each(|input| body.extend_from_slice(&input.data));
        let url = format!("{}/v2/models/{}/infer", self.url, model.replace('@', "%40"));
        let mut request = self.agent.post(url).header(JSON_LENGTH, json_length);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let (status, header, body) = self.read(request.send(&body[..]))?;
        if status >= 400 {
            return Err(refused(status, &header, self.parse(&body)?));
        }
        let outputs = outputs(&body, text(&header, JSON_LENGTH).parse().ok())
            .map_err(|reason| self.protocol(reason))?;
        Ok(inferred(outputs, &header))
    }

    /// Embeds texts, with the constraints in `headers`.
    pub fn embed(
        &self,
        model: &str,
        texts: &[String],
        headers: &[(String, String)],
    ) -> Result<Embedded, ClientError> {
        let body = json!({"model": model, "input": texts});
        let mut request = self.agent.post(format!("{}/v1/embeddings", self.url));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request.header("content-type", "application/json");
        let (status, header, body) = self.read(request.send(body.to_string()))?;
        let answer = self.parse(&body)?;
        if status >= 400 {
            return Err(refused(status, &header, answer));
        }
        let broken = |what: &str| self.protocol(format!("it has no {what}"));
        let data = answer["data"].as_array().ok_or_else(|| broken("data"))?;
        let embedding = |item: &Value| serde_json::from_value(item["embedding"].clone()).ok();
        let embeddings: Option<Vec<Vec<f32>>> = data.iter().map(embedding).collect();
        Ok(Embedded {
            embeddings: embeddings.ok_or_else(|| broken("embeddings"))?,
            tokens: answer["usage"]["total_tokens"].as_u64().ok_or_else(|| broken("usage"))?,
            done: inferred(Vec::new(), &header),
        })
    }

    fn protocol(&self, reason: String) -> ClientError {
        ClientError::Protocol { url: self.url.clone(), reason }
    }

    fn read(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<(u16, HeaderMap, Bytes), ClientError> {
        let unreachable = |error: ureq::Error| ClientError::Unreachable {
            url: self.url.clone(),
            reason: error.to_string(),
        };
        let mut answer = answer.map_err(unreachable)?;
        let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        let body = body.map_err(unreachable)?;
        Ok((answer.status().as_u16(), answer.headers().clone(), body.into()))
    }

    fn parse(&self, body: &[u8]) -> Result<Value, ClientError> {
        serde_json::from_slice(body).map_err(|error| ClientError::Protocol {
            url: self.url.clone(),
            reason: error.to_string(),
        })
    }
}

/// What an answer's headers say of who ran it.
fn inferred(outputs: Vec<Tensor>, header: &HeaderMap) -> Inferred {
    Inferred {
        outputs,
        executed_by: text(header, "hansa-executed-by"),
        executed_in: text(header, "hansa-executed-in"),
        price: Some(text(header, "hansa-price")).filter(|price| !price.is_empty()),
        server_timing: text(header, "server-timing"),
        receipt: receipt(header),
    }
}

/// A header, empty if it is not there.
fn text(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn receipt(headers: &HeaderMap) -> Option<String> {
    Some(headers.get("hansa-receipt")?.to_str().ok()?.to_owned())
}

fn refused(status: u16, headers: &HeaderMap, body: Value) -> ClientError {
    // OpenAI's API has its own shape of errors.
    let error = if body["error"].is_object() { &body["error"] } else { &body };
    let said = error["error"].as_str().or(error["message"].as_str());
    let mut message = said.map_or_else(|| format!("HTTP {status}"), str::to_owned);
    if let Some(failed) = error["failed"].as_object() {
        let counts: Vec<String> =
            failed.iter().map(|(rule, peers)| format!("{rule}: {peers}")).collect();
        message += &format!(" (peers that failed a rule: {})", counts.join(", "));
    }
    ClientError::Refused { status, body, message, receipt: receipt(headers) }
}

fn describe(input: &Tensor) -> Value {
    json!({
        "name": input.name,
        "shape": input.shape,
        "datatype": input.dtype,
        "parameters": {"binary_data_size": input.data.len()},
    })
}

/// The tensors of an answer whose JSON part has `json_length` bytes.
fn outputs(body: &Bytes, json_length: Option<usize>) -> Result<Vec<Tensor>, String> {
    let length = json_length.unwrap_or(body.len());
    let head = body.get(..length).ok_or("its JSON part is cut short")?;
    let json: Value = serde_json::from_slice(head).map_err(|error| error.to_string())?;
    let mut rest = body.slice(length..);
    let described = json["outputs"].as_array().ok_or("it has no outputs")?;
    let mut tensors = Vec::with_capacity(described.len());
    for output in described {
        let name = output["name"].as_str().ok_or("an output has no name")?.to_owned();
        let dtype: DType = output["datatype"]
            .as_str()
            .and_then(|name| name.parse().ok())
            .ok_or("an output has no datatype")?;
        let shape = output["shape"].as_array().ok_or("an output has no shape")?;
        let shape = shape.iter().filter_map(Value::as_u64).collect();
        let size = output["parameters"]["binary_data_size"].as_u64();
        let size = size.and_then(|size| usize::try_from(size).ok());
        let size = size.filter(|size| *size <= rest.len()).ok_or("an output is cut short")?;
        tensors.push(Tensor { name, dtype, shape, data: rest.split_to(size) });
    }
    Ok(tensors)
}
