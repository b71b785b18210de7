//! Prequal: probes ahead of need, and the hot-cold lexicographic rule. After Wydrowski, Kleinberg,
//! Rumble and Archer, "Load is not what you should balance: Introducing Prequal" (NSDI 2024), with
//! its defaults: three probes a job, a pool of 16, a second's age at most, hot above the 0.84
//! quantile of jobs in flight.
//!
//! It is told the load at the moment of the question and hears it a round trip later. Jobs on their
//! way count in that load, which no server knows: the figures flatter it a little.

use std::collections::BTreeMap;
use std::time::Duration;

use hansa_core::quote::Load;
use hansa_core::time::Mono;

use super::strategy::{Ask, Strategy, expected};

/// Probes sent for each job.
const PROBES: usize = 3;
/// Answers that an entry keeps.
const POOL_MAX: usize = 16;
/// An answer is used no later than this.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Above this share of the pool's jobs in flight a host is hot.
const HOT_ABOVE: f64 = 0.84;

/// Its pools, one for each entry.
#[derive(Debug, Default)]
pub struct Prequal(BTreeMap<usize, Vec<Answer>>);

#[derive(Clone, Copy, Debug)]
struct Answer {
    host: usize,
    load: Load,
    heard: Mono,
}

impl Strategy for Prequal {
    fn choose(&mut self, ask: &mut Ask<'_>) -> Option<usize> {
        let pool = self.0.entry(ask.entry).or_default();
        let now = ask.now;
        pool.retain(|answer| answer.heard + AGE_MAX > now);
        let usable = |answer: &Answer| answer.heard <= now && ask.permitted.contains(&answer.host);
        let mut heard: Vec<usize> = (0..pool.len()).filter(|at| usable(&pool[*at])).collect();
        // With fewer than two answers, as in the paper, chance chooses.
        let chosen = if heard.len() < 2 {
            random(ask)?
        } else {
            heard.sort_by_key(|at| pool[*at].load.in_flight);
            let hot = pool[heard[quantile(heard.len())]].load.in_flight;
            let cold = heard.iter().filter(|at| pool[**at].load.in_flight <= hot);
            let wait = |at: &&usize| expected(&pool[**at].load, ask.rtt[pool[**at].host]);
            let best = *cold.min_by_key(wait).unwrap_or(&heard[0]);
            pool.remove(best).host
        };
        // Each job takes one answer out; beyond the pool's size the oldest go.
        for _ in 0..PROBES {
            let host = random(ask)?;
            let heard = now + ask.rtt[host];
            pool.push(Answer { host, load: ask.truth[host], heard });
        }
        let over = pool.len().saturating_sub(POOL_MAX);
        pool.drain(..over);
        Some(chosen)
    }
}

fn random(ask: &mut Ask<'_>) -> Option<usize> {
    let permitted = ask.permitted;
    (!permitted.is_empty()).then(|| permitted[ask.rng.below(permitted.len())])
}

/// The place of the hot limit among so many answers in order.
fn quantile(answers: usize) -> usize {
    (0..answers).rfind(|at| (*at as f64) <= HOT_ABOVE * (answers - 1) as f64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use hansa_core::rng::Rng;

    use super::*;

    fn load(in_flight: u32) -> Load {
        Load {
            in_flight,
            slots: 4,
            hold: Duration::from_secs(1),
            first: Duration::from_millis(100),
        }
    }

    #[test]
    fn a_hot_host_is_passed_over_even_when_it_is_near() {
        eprintln!("seed 1");
        let truth: Vec<Load> = [9, 1, 1, 1, 1, 1, 1].into_iter().map(load).collect();
        let rtt: Vec<Duration> = [1, 50, 50, 50, 50, 50, 50].map(Duration::from_millis).to_vec();
        let (mut prequal, mut rng) = (Prequal::default(), Rng::new(1));
        let mut chosen = [0; 7];
        for ms in 0..2_000 {
            let mut ask = Ask {
                permitted: &[0, 1, 2, 3, 4, 5, 6],
                entry: 0,
                weight: &[1; 7],
                stale: &truth,
                truth: &truth,
                rtt: &rtt,
                now: Mono(0) + Duration::from_millis(20 * ms),
                rng: &mut rng,
            };
            chosen[prequal.choose(&mut ask).expect("all are permitted")] += 1;
        }
        assert!(chosen[0] < 40, "{chosen:?}");
    }
}
