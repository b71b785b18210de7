//! What the node says of itself: log lines on standard error, and metrics in Prometheus' format.

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, reload};

use crate::config::{LogFormat, TelemetryConfig};

/// Why the node cannot say anything.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter; [`crate::config`] refuses such a one with its line.
    #[error("[telemetry] log: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// A process logs and counts in one way only.
    #[error("this process has its telemetry already: {0}")]
    Twice(String),
    /// Its filter cannot be changed.
    #[error("this process does not log")]
    Silent,
    /// The recorder of metrics.
    #[error("[telemetry] metrics: {0}")]
    Metrics(#[from] BuildError),
}

/// Starts logging to standard error.
pub fn log(config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(config.log.parse::<EnvFilter>()?)
        // A line that cannot be written (its disk is full) is lost: to say so would fail, too, and end
        // whatever logged.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let (started, refilter): (_, Refilter) = match config.format {
        LogFormat::Text => {
            let lines = lines.with_ansi(std::io::stderr().is_terminal()).with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.try_init(), Box::new(move |filter| handle.reload(filter)))
        }
        // Flat, so that `jq .peer` works; the span's fields are those of the job that is served.
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            let lines = lines.with_current_span(true).with_span_list(false);
            let lines = lines.with_filter_reloading();
            let handle = lines.reload_handle();
            (lines.try_init(), Box::new(move |filter| handle.reload(filter)))
        }
    };
    started.map_err(|error| TelemetryError::Twice(error.to_string()))?;
    let _ = REFILTER.set(refilter);
    Ok(())
}

type Refilter = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// Gives the log that was started another filter.
static REFILTER: OnceLock<Refilter> = OnceLock::new();

/// What is logged from now on; a filter as in the config.
///
/// # Errors
/// It is no filter, or nothing is logged.
pub fn filter(filter: &str) -> Result<(), TelemetryError> {
    let filter = filter.parse::<EnvFilter>()?;
    let refilter = REFILTER.get().ok_or(TelemetryError::Silent)?;
    refilter(filter).map_err(|error| TelemetryError::Twice(error.to_string()))
}

/// Starts counting. The handle renders what was counted, and is to be asked for `run_upkeep` now
/// and then, or each rendering does it.
pub fn count() -> Result<PrometheusHandle, TelemetryError> {
    let builder = PrometheusBuilder::new();
    Ok(builder.set_buckets(&LATENCY_BUCKETS_S)?.install_recorder()?)
}

/// Upper bounds of every histogram, in seconds: from a hop on one machine to the longest job.
const LATENCY_BUCKETS_S: [f64; 16] = [
    0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_in_buckets() {
        let handle = count().unwrap();
        metrics::counter!("hansa_test_total").increment(3);
        metrics::histogram!("hansa_test_seconds").record(0.003);
        let text = handle.render();
        assert!(text.contains("hansa_test_total 3"), "{text}");
        assert!(text.contains("hansa_test_seconds_bucket{le=\"0.005\"} 1"), "{text}");
        assert!(matches!(count(), Err(TelemetryError::Metrics(_))));
    }
}
