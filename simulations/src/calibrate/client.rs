//! Asks a node: which models it holds, what they take, and jobs by the clock.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// No job of a calibration takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Stands for dimensions of any length, but for that of the rows.
const ANY: i64 = 16;

/// Why a node cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Nobody answers there.
    #[error("{url}: {reason}; give the address of a node's API, such as http://127.0.0.1:8000")]
    Address {
        /// As it was given.
        url: String,
        /// Why.
        reason: String,
    },
    /// Something answers that is no node.
    #[error("{url} is no hansa node: {reason}; give the address under [api] http of its config")]
    NoNode {
        /// As it was given.
        url: String,
        /// What is missing.
        reason: String,
    },
    /// It does not hold the model; another may.
    #[error("{node} holds {held}, not {wanted}; ask a node that holds it, or name another --model")]
    Model {
        /// The node's name.
        node: String,
        /// Its models.
        held: String,
        /// Which one was asked for.
        wanted: String,
    },
    /// Its input cannot be made up.
    #[error("{model} takes {datatype}, which cannot be made up; calibrate with another --model")]
    Input {
        /// The model.
        model: String,
        /// Its input's type.
        datatype: String,
    },
    /// It refuses the job.
    #[error("{node} refuses the job ({status}): {reason}; try it with `hansa infer` first")]
    Refused {
        /// The node's name.
        node: String,
        /// HTTP's status.
        status: u16,
        /// In its words.
        reason: String,
    },
}

/// A node and one model that it holds.
pub(super) struct Client {
    url: String,
    agent: ureq::Agent,
    /// The node's name.
    pub(super) node: String,
    /// The model's name.
    pub(super) model: String,
    inputs: Vec<Input>,
    /// Its operator: jobs may go to nobody else, or a busy node would share them.
    operator: Option<String>,
}

struct Input {
    name: String,
    datatype: String,
    shape: Vec<i64>,
}

impl Client {
    /// Finds out what the node at `url` holds.
    pub(super) fn open(url: &str, wanted: Option<&str>) -> Result<Self, Fault> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build();
        let url = url.trim_end_matches('/').to_owned();
        let mut client = Self {
            agent: config.into(),
            node: url.clone(),
            model: String::new(),
            inputs: Vec::new(),
            operator: None,
            url,
        };
        let seen = client.get("/mesh/v1/peers")?;
        let own =
            seen["peers"].as_array().and_then(|all| all.iter().find(|peer| peer["me"] == true));
        let Some(own) = own else { return Err(client.no_node("it lists no peers")) };
        own["name"].as_str().unwrap_or("it").clone_into(&mut client.node);
        let plain = |name: &&str| name.is_ascii() && !name.contains(',');
        client.operator = own["charter"]["operator"].as_str().filter(plain).map(str::to_owned);
        let models = own["models"].as_array().into_iter().flatten();
        let held: Vec<&str> = models.filter_map(|model| model["name"].as_str()).collect();
        let known = held.iter().find(|name| wanted.is_none_or(|wanted| wanted == **name));
        let Some(model) = known else {
            let wanted =
                wanted.map_or("any that could be measured".into(), |name| format!("`{name}`"));
            let held = if held.is_empty() { "no model".to_owned() } else { held.join(", ") };
            return Err(Fault::Model { node: client.node, held, wanted });
        };
        (*model).clone_into(&mut client.model);
        let metadata = client.get(&format!("/v2/models/{model}"))?;
        let Some(inputs) = metadata["inputs"].as_array() else {
            return Err(client.no_node("the model has no inputs"));
        };
        client.inputs = inputs.iter().map(Input::read).collect();
        client.body(1)?;
        Ok(client)
    }

    /// Whether a job may have several rows.
    pub(super) fn takes_rows(&self) -> bool {
        self.inputs.iter().all(|input| input.shape.first() == Some(&-1))
    }

    /// Times of `count` jobs, one after the other, in ms.
    pub(super) fn repeat(&self, count: usize, rows: usize) -> Result<Vec<f64>, Fault> {
        let body = self.body(rows)?;
        (0..count).map(|_| self.infer(&body)).collect()
    }

    /// Times of jobs of which `at_once` run, each asked for `each` times.
    pub(super) fn together(&self, at_once: usize, each: usize) -> Result<Vec<f64>, Fault> {
        let ended = thread::scope(|scope| {
            let start = |_| scope.spawn(|| self.repeat(each, 1));
            let threads: Vec<_> = (0..at_once).map(start).collect();
            threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
        });
        let mut times = Vec::new();
        for ended in ended {
            times.extend(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(times)
    }

    fn infer(&self, body: &str) -> Result<f64, Fault> {
        let url = format!("{}/v2/models/{}/infer", self.url, self.model);
        let asked = Instant::now();
        let request = self.agent.post(url).content_type("application/json");
        // One node is measured, so it runs every job whole.
        let mut request = request.header("Hansa-Split", "never");
        if let Some(operator) = &self.operator {
            request = request.header("Hansa-Operators", operator);
        }
        let answer = request.send(body);
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        let text = answer.body_mut().read_to_string().map_err(|error| self.unreachable(&error))?;
        let took = asked.elapsed().as_secs_f64() * 1e3;
        self.accept(answer.status().as_u16(), &text).map(|()| took)
    }

    fn get(&self, path: &str) -> Result<Value, Fault> {
        let answer = self.agent.get(format!("{}{path}", self.url)).call();
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        let text = answer.body_mut().read_to_string().map_err(|error| self.unreachable(&error))?;
        let Ok(value) = serde_json::from_str(&text) else {
            return Err(self.no_node(&format!("it answers {path} with no JSON")));
        };
        self.accept(answer.status().as_u16(), &text).map(|()| value)
    }

    fn accept(&self, status: u16, text: &str) -> Result<(), Fault> {
        if status < 400 {
            return Ok(());
        }
        let said = serde_json::from_str::<Value>(text).ok();
        let said = said.and_then(|said| Some(said["error"].as_str()?.to_owned()));
        let reason = said.unwrap_or_else(|| "it does not say why".into());
        Err(Fault::Refused { node: self.node.clone(), status, reason })
    }

    fn unreachable(&self, error: &ureq::Error) -> Fault {
        Fault::Address { url: self.url.clone(), reason: error.to_string() }
    }

    fn no_node(&self, reason: &str) -> Fault {
        Fault::NoNode { url: self.url.clone(), reason: reason.into() }
    }

    /// A job of so many rows, of nothing but zeros.
    fn body(&self, rows: usize) -> Result<String, Fault> {
        let inputs: Option<Vec<Value>> =
            self.inputs.iter().map(|input| input.zeros(rows)).collect();
        inputs.map(|inputs| json!({ "inputs": inputs }).to_string()).ok_or_else(|| {
            let types: Vec<&str> =
                self.inputs.iter().map(|input| input.datatype.as_str()).collect();
            Fault::Input { model: self.model.clone(), datatype: types.join(", ") }
        })
    }
}

impl Input {
    fn read(input: &Value) -> Self {
        let text = |key: &str| input[key].as_str().unwrap_or_default().to_owned();
        let shape = input["shape"].as_array().into_iter().flatten();
        let shape = shape.filter_map(Value::as_i64).collect();
        Self { name: text("name"), datatype: text("datatype"), shape }
    }

    fn zeros(&self, rows: usize) -> Option<Value> {
        let rows = i64::try_from(rows).ok()?;
        let length = |(index, length): (usize, &i64)| match (index, *length) {
            (0, -1) => rows,
            (_, -1) => ANY,
            (_, length) => length,
        };
        let shape: Vec<i64> = self.shape.iter().enumerate().map(length).collect();
        let zero = match self.datatype.as_str() {
            "BOOL" => json!(false),
            "BYTES" => json!(""),
            text if text.starts_with("FP") => json!(0.0),
            text if text.starts_with("INT") || text.starts_with("UINT") => json!(0),
            _ => return None,
        };
        let count = usize::try_from(shape.iter().product::<i64>()).ok()?;
        let data = vec![zero; count];
        Some(json!({
            "name": self.name, "datatype": self.datatype, "shape": shape, "data": data,
        }))
    }
}
