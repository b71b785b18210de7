//! Metrics of what happens with every request, looked up once: a lookup by name and labels costs as
//! much as parsing a small request.

use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, counter, histogram};

/// Of the requests that came in here.
pub struct Meters {
    /// Those that were answered.
    answered: Counter,
    /// Time of each, in seconds.
    request: Histogram,
}

impl Meters {
    /// Counts a request that came in at `arrived`: answered, or failed with this code.
    pub fn count(&self, arrived: Instant, failed: Option<&'static str>) {
        match failed {
            None => self.answered.increment(1),
            Some(code) => counter!("hansa_requests_total", "outcome" => code).increment(1),
        }
        self.request.record(arrived.elapsed());
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            answered: counter!("hansa_requests_total", "outcome" => "ok"),
            request: histogram!("hansa_request_seconds"),
        }
    }
}

/// Of a model that runs here.
pub struct ModelMeters {
    executed: Counter,
    service: Histogram,
}

impl ModelMeters {
    /// Those of the model of that name.
    pub fn of(model: &str) -> Self {
        let model = model.to_owned();
        Self {
            executed: counter!("hansa_executed_total", "model" => model.clone()),
            service: histogram!("hansa_service_seconds", "model" => model),
        }
    }

    /// Counts a job that ran.
    pub fn count(&self, service: Duration) {
        self.executed.increment(1);
        self.service.record(service);
    }
}
