//! What ran where, as metrics: the figures that [`super::totals`] makes of receipts, as they come.
//!
//! `hansa_usage_jobs_total`, `…_rows_total`, `…_device_microseconds_total` and `…_price_micros_total`
//! have the labels country, control, operator and model. A peer that ran a job and the entry that
//! sent it there both count it, each in its own metrics, as both keep a receipt of it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use hansa_core::id::Digest;
use hansa_core::price::Currency;
use hansa_core::receipt::{Party, Receipt};
use metrics::{Counter, Label, counter};

use crate::limits::USAGE_LABELS_MAX;

/// Counters at hand: to look a counter up by its labels costs more than to keep a receipt.
#[derive(Default)]
pub struct Usage(Mutex<BTreeMap<(Digest, Option<Digest>), Counters>>);

struct Counters {
    labels: Vec<Label>,
    jobs: Counter,
    rows: Counter,
    device: Counter,
    /// What it cost, by currency.
    price: BTreeMap<Currency, Counter>,
}

impl Usage {
    /// Counts a receipt.
    pub fn count(&self, receipt: &Receipt) {
        let mut held = self.0.lock().expect("no holder panics");
        for (party, used) in receipt.ran() {
            if held.len() >= USAGE_LABELS_MAX {
                held.clear();
            }
            let key = (party.charter, receipt.bundle);
            let counters = held.entry(key).or_insert_with(|| Counters::of(party, &receipt.model));
            counters.jobs.increment(1);
            counters.rows.increment(used.rows);
            counters.device.increment(used.device_us);
            if let Some(price) = used.price {
                let Counters { labels, price: prices, .. } = counters;
                let counter = prices.entry(price.currency).or_insert_with(|| {
                    let currency = Label::new("currency", price.currency.to_string());
                    let labels: Vec<Label> = labels.iter().cloned().chain([currency]).collect();
                    counter!("hansa_usage_price_micros_total", labels)
                });
                counter.increment(price.micros);
            }
        }
    }
}

impl Counters {
    fn of(party: &Party, model: &str) -> Self {
        let labels = vec![
            Label::new("country", party.location.country().to_owned()),
            Label::new("control", party.control.country().to_owned()),
            Label::new("operator", party.operator.clone()),
            Label::new("model", model.to_owned()),
        ];
        Self {
            jobs: counter!("hansa_usage_jobs_total", labels.clone()),
            rows: counter!("hansa_usage_rows_total", labels.clone()),
            device: counter!("hansa_usage_device_microseconds_total", labels.clone()),
            price: BTreeMap::new(),
            labels,
        }
    }
}
