//! Asking before sending: a [`Survey`] asks a few permitted peers how soon they could run a job and
//! puts them in order. For jobs that run so long that a round trip is cheap beside a bad choice.
//!
//! It decides as soon as no answer still under way could beat the best so far, or when time is up. The
//! best is the soonest, or, where the deadline leaves time to spare, the cheapest (`rank`).
//! Only sizes travel with a question, no byte of the job. The order is advice:
//! [`Flight`](crate::flight::Flight) asks the gate again before each send and falls back to `plan`.

use std::time::Duration;

use crate::holders::{NEAR_MAX, Offer, Permitted};
use crate::id::PeerId;
use crate::limits::QUOTES_ASKED_MAX;
use crate::loads::Loads;
use crate::plan::{Job, admit_here, admit_there};
use crate::policy::Split;
use crate::quote::Quote;
use crate::rank::{SUSPECT_PENALTY, Thrift, price, round_trip, transfer};
use crate::rng::{Rng, mix};
use crate::time::{Mono, Now};
use crate::view::View;

/// A job expected to run shorter than this is not worth a question.
pub const SERVICE_ASKED_MIN: Duration = Duration::from_millis(100);
/// No answer is waited for longer.
pub const PATIENCE_MAX: Duration = Duration::from_millis(300);
/// How many peers a node asks about one job: more cost more and hardly find better.
pub const QUESTIONS: usize = 4;

/// Whom a node asks, and about which jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking {
    /// At most so many peers about one job.
    pub most: usize,
    /// Only about jobs that are expected to run so long.
    pub above: Duration,
}

impl Default for Asking {
    fn default() -> Self {
        Self { most: QUESTIONS, above: SERVICE_ASKED_MIN }
    }
}

/// A peer that a job is better sent to before others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference {
    /// Which.
    pub peer: PeerId,
    /// Within what time its answer is expected to begin.
    pub expected: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    peer: PeerId,
    rtt: Duration,
    /// To move the inputs there, and a penalty if it is suspect.
    beside: Duration,
    is_suspect: bool,
    thrift: Thrift,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Asked,
    Quoted(Duration),
    Silent,
}

/// One job's questions and the answers so far.
#[derive(Clone, Debug)]
pub struct Survey {
    began: Mono,
    until: Mono,
    /// Within what time from the start an answer meets the named deadline with a margin.
    ease: Option<Duration>,
    asked: Vec<Candidate>,
}

/// By what answers are ordered, as [`Order`](crate::rank::Order) is: whether it may be late, what is
/// spared, expected time.
type Place = (bool, Thrift, Duration);

impl Survey {
    /// Chooses whom to ask about `job`: peers drawn by advertised capacity, half of them near. None
    /// if the job is too short to be worth it, or there are not two to choose from. `own` gives this peer's quote for its own executor, which needs no question.
    pub fn begin(
        now: Now,
        view: &View,
        loads: &Loads,
        job: &Job,
        own: impl FnOnce() -> Option<Quote>,
        asking: Asking,
    ) -> Option<Self> {
        // Whoever is asked would run all of it.
        let is_split = matches!(job.policy.split, Split::Rows | Split::Stages);
        if is_split || job.hops_left == 0 || job.deadline <= now.mono {
            return None;
        }
        if !job.may_stay_whole() {
            return None; // A preference is for one peer.
        }
        let permitted = view.permitted(&job.onward, job.bundle);
        let is_long = |row: Duration| row.saturating_mul(job.rows.max(1)) >= asking.above;
        if !is_long(permitted.slowest()) {
            return None;
        }
        let mut drawn = draw(now.mono, &permitted, loads, job, asking.most.min(QUOTES_ASKED_MAX));
        drawn.retain(|offer| {
            let entry = &view.entries()[offer.entry as usize];
            admit_there(now, entry, loads, job, &[]).is_ok()
        });
        let slowest = drawn.iter().map(|offer| offer.service_us).max()?;
        if !is_long(Duration::from_micros(slowest.into())) {
            return None;
        }
        let candidate = |offer: &&Offer| {
            let load = loads.read(offer.peer, job.bundle, now.mono);
            let penalty = if offer.suspect { SUSPECT_PENALTY } else { Duration::ZERO };
            Candidate {
                peer: offer.peer,
                rtt: round_trip(offer, &load),
                beside: transfer(job, &load).saturating_add(penalty),
                is_suspect: offer.suspect,
                thrift: (price(job, offer, &load), offer.accelerator_mib),
                state: State::Asked,
            }
        };
        let mut asked: Vec<Candidate> = drawn.iter().map(candidate).collect();
        let here = view.get(view.me());
        let here = here.and_then(|entry| admit_here(now, entry, loads, job, &[]).ok());
        if asked.len() + usize::from(here.is_some()) < 2 {
            return None;
        }
        if let Some((offer, quote)) = here.and_then(|offer| Some((offer, own()?))) {
            let load = loads.read(offer.peer, job.bundle, now.mono);
            asked.push(Candidate {
                peer: offer.peer,
                rtt: Duration::ZERO,
                beside: Duration::ZERO,
                is_suspect: false,
                thrift: (price(job, &offer, &load), offer.accelerator_mib),
                state: State::Quoted(quote.total()),
            });
        }
        let slowest = asked.iter().map(|candidate| candidate.rtt).max().unwrap_or_default();
        // An eighth more than the round trip: what jitter adds on most paths.
        let patience = (slowest + slowest / 8 + Duration::from_millis(5)).min(PATIENCE_MAX);
        let until = (now.mono + patience).min(job.deadline);
        Some(Self { began: now.mono, until, ease: job.ease(now), asked })
    }

    /// Whom to ask, and the round trip to tell them. Each keeps a place until the host tells it
    /// that another was chosen.
    pub fn questions(&self) -> impl Iterator<Item = (PeerId, Duration)> {
        let open = self.asked.iter().filter(|candidate| matches!(candidate.state, State::Asked));
        open.map(|candidate| (candidate.peer, candidate.rtt))
    }

    /// A peer answered. Answers of peers that were not asked are ignored, and second answers too.
    pub fn quoted(&mut self, by: PeerId, quote: Quote) {
        self.put(by, State::Quoted(quote.total()));
    }

    /// A peer refused to answer, or was lost.
    pub fn silent(&mut self, peer: PeerId) {
        self.put(peer, State::Silent);
    }

    fn put(&mut self, peer: PeerId, state: State) {
        let open =
            |known: &&mut Candidate| known.peer == peer && matches!(known.state, State::Asked);
        if let Some(candidate) = self.asked.iter_mut().find(open) {
            candidate.state = state;
        }
    }

    /// When it decides at the latest.
    pub fn until(&self) -> Mono {
        self.until
    }

    /// Where an answer that takes so long puts its peer.
    fn place(&self, known: &Candidate, expected: Duration) -> Place {
        let Some(ease) = self.ease else { return (false, Thrift::default(), expected) };
        let is_at_ease = !known.is_suspect && expected <= ease;
        (!is_at_ease, if is_at_ease { known.thrift } else { Thrift::default() }, expected)
    }

    /// Who quoted, best first, once nobody could still be better or time is up; else none. Empty if
    /// nobody answered: then `plan` decides.
    pub fn decide(&self, now: Mono) -> Option<Vec<Preference>> {
        let mut quoted: Vec<(Place, Duration, PeerId)> = self
            .asked
            .iter()
            .filter_map(|known| match known.state {
                State::Quoted(total) => {
                    let all = total.saturating_add(known.rtt).saturating_add(known.beside);
                    Some((self.place(known, all), known.rtt, known.peer))
                }
                State::Asked | State::Silent => None,
            })
            .collect();
        quoted.sort_unstable();
        let best = quoted.first().map(|(place, _, _)| *place);
        // One that has not answered costs at least the rest of its answer's way and one round trip.
        let could_beat = |known: &Candidate| {
            let rest = (self.began + known.rtt).since(now);
            let least = rest.saturating_add(known.rtt).saturating_add(known.beside);
            let could = best.is_none_or(|best| self.place(known, least) < best);
            matches!(known.state, State::Asked) && could
        };
        let waits = now < self.until && self.asked.iter().any(could_beat);
        let preference = |((_, _, expected), _, peer)| Preference { peer, expected };
        (!waits).then(|| quoted.into_iter().map(preference).collect())
    }
}

/// At most `most` holders: all of a few, else half from all and half from the near. Fewer near ones
/// shorten the median and, where a region has too much to do, lengthen the tail (measured).
fn draw<'a>(
    now: Mono,
    permitted: &'a Permitted,
    loads: &Loads,
    job: &Job,
    most: usize,
) -> Vec<&'a Offer> {
    if permitted.len() <= most {
        return permitted.all().collect();
    }
    let seed = u64::from_le_bytes(job.id.0[..8].try_into().expect("eight of sixteen bytes"));
    let mut rng = Rng::new(mix(seed ^ 0x5eed));
    let mut drawn = permitted.draw(most - most / 2, &mut rng);
    let near = near(now, permitted, loads, job);
    let total: u64 = near.iter().map(|offer| offer.capacity()).sum();
    for _ in 0..if total == 0 { 0 } else { most / 2 } {
        let wide = u128::from(rng.next_u64()) * u128::from(total);
        let mut point = u64::try_from(wide >> 64).expect("below the total");
        let hit = near.iter().copied().find(|offer| {
            let here = point < offer.capacity();
            point = point.saturating_sub(offer.capacity());
            here
        });
        drawn.extend(hit.filter(|hit| drawn.iter().all(|known| known.peer != hit.peer)));
    }
    drawn
}

/// The nearest of the permitted: by what was measured, else by what coordinates suggest.
fn near<'a>(now: Mono, permitted: &'a Permitted, loads: &Loads, job: &Job) -> Vec<&'a Offer> {
    let measured = loads.nearest().take(NEAR_MAX).filter_map(|peer| permitted.of_peer(peer));
    let far = |offer: &Offer| round_trip(offer, &loads.read(offer.peer, job.bundle, now));
    let all = measured.chain(permitted.near());
    let mut near: Vec<(Duration, u32, &Offer)> =
        all.map(|offer| (far(offer), offer.entry, offer)).collect();
    near.sort_unstable_by_key(|(far, entry, _)| (*far, *entry));
    near.dedup_by_key(|(_, entry, _)| *entry);
    near.truncate(NEAR_MAX);
    near.into_iter().map(|(_, _, offer)| offer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(rtts_ms: &[u64]) -> Survey {
        let ms = Duration::from_millis;
        let asked = (1..).zip(rtts_ms).map(|(n, rtt)| Candidate {
            peer: PeerId([n; 32]),
            rtt: ms(*rtt),
            beside: Duration::ZERO,
            is_suspect: false,
            thrift: Thrift::default(),
            state: State::Asked,
        });
        Survey { began: Mono(0), until: Mono(0) + ms(300), ease: None, asked: asked.collect() }
    }

    fn peers(survey: &Survey, now: Mono) -> Option<Vec<PeerId>> {
        let order = survey.decide(now)?;
        Some(order.into_iter().map(|preference| preference.peer).collect())
    }

    fn quote(wait_ms: u32) -> Quote {
        Quote { wait_us: wait_ms * 1_000, ..Quote::default() }
    }

    #[test]
    fn it_decides_at_once_when_no_answer_under_way_could_be_sooner() {
        let at = |ms| Mono(0) + Duration::from_millis(ms);
        let mut survey = survey(&[8, 100]);
        assert_eq!(survey.decide(at(0)), None);
        survey.quoted(PeerId([1; 32]), quote(0));
        assert_eq!(peers(&survey, at(8)), Some(vec![PeerId([1; 32])]));
    }

    #[test]
    fn it_waits_for_a_far_peer_that_could_be_sooner_but_not_for_ever() {
        let at = |ms| Mono(0) + Duration::from_millis(ms);
        let mut survey = survey(&[8, 100]);
        survey.quoted(PeerId([1; 32]), quote(900));
        assert_eq!(survey.decide(at(8)), None);
        assert_eq!(peers(&survey, at(300)), Some(vec![PeerId([1; 32])]));
        survey.quoted(PeerId([2; 32]), quote(100));
        assert_eq!(peers(&survey, at(100)), Some(vec![PeerId([2; 32]), PeerId([1; 32])]));
    }

    #[test]
    fn with_time_to_spare_the_cheapest_is_waited_for_and_taken() {
        let at = |ms| Mono(0) + Duration::from_millis(ms);
        let mut survey = survey(&[8, 100, 120]);
        for (candidate, price) in survey.asked.iter_mut().zip(["3 EUR", "1 EUR", "2 EUR"]) {
            candidate.thrift.0 = Some(price.parse().unwrap());
        }
        survey.quoted(PeerId([1; 32]), quote(0));
        assert_eq!(peers(&survey, at(8)), Some(vec![PeerId([1; 32])]));
        survey.ease = Some(Duration::from_millis(500));
        assert_eq!(survey.decide(at(8)), None);
        survey.quoted(PeerId([2; 32]), quote(300));
        // The third asks more than the second, so it is not waited for.
        assert_eq!(peers(&survey, at(100)), Some(vec![PeerId([2; 32]), PeerId([1; 32])]));
        survey.quoted(PeerId([3; 32]), quote(600));
        let order = [2, 1, 3].map(|n| PeerId([n; 32])).to_vec();
        assert_eq!(peers(&survey, at(120)), Some(order));
    }

    #[test]
    fn when_nobody_answers_the_order_is_empty() {
        let mut survey = survey(&[8]);
        survey.silent(PeerId([1; 32]));
        survey.quoted(PeerId([1; 32]), quote(0));
        assert_eq!(survey.decide(Mono(0)), Some(vec![]));
    }
}
