//! This peer's own advert: when it is signed anew, and how that refutes what others say of it.

use std::sync::Arc;
use std::time::Duration;

use super::held::Stamp;
use super::message::{News, Rumour};
use super::pace::Timer;
use super::{Directory, Event, Output};
use crate::advert::{Advert, Version};
use crate::id::PeerId;
use crate::limits::DOUBTERS_MAX;
use crate::time::{Mono, Now};

/// One accuser is refuted to the whole mesh so often …
const REFUTATION_INTERVAL: Duration = Duration::from_secs(10);
/// … after a burst of so many.
const REFUTATIONS_BURST: u32 = 4;

impl Directory {
    /// Signs a new advert as soon as this peer's own pace permits. It is half of what others take,
    /// so that no honest peer is ever over their limit.
    pub(super) fn want_publication(&mut self, now: Mono) {
        self.publish_wanted = true;
        let at = self.publications.ready_at(self.publish_interval(), self.publish_burst());
        self.timers.set(at.max(now), Timer::Publish);
    }

    pub(super) fn publish(&mut self, now: Now, out: &mut Vec<Output>) {
        if !self.publications.take(now.mono, self.publish_interval(), self.publish_burst()) {
            return self.want_publication(now.mono);
        }
        self.publish_wanted = false;
        let Version { epoch, sequence } = self.own.advert.version;
        let version = if self.outbid > self.own.advert.version {
            Version { epoch: self.outbid.epoch.saturating_add(Stamp::BOOT_STEP_MS), sequence: 0 }
        } else {
            Version { epoch, sequence: sequence + 1 }
        };
        let content = self.content.clone();
        let coordinate = self.position.coordinate();
        let advert = Advert { peer: self.me, version, issued: now.utc, coordinate, ..content };
        match advert.sign(&self.key).verify(&self.trust, now) {
            Ok(own) => {
                self.members.tree_mut().remove(&self.own);
                self.members.tree_mut().add(&own);
                let moved = own.asserted() != self.own.asserted();
                self.own = self.judge(now.utc, own);
                if moved && !self.echoes.is_empty() {
                    self.judge_all(now.utc);
                }
                self.view_stale = true;
                let rumour = Rumour { hops: 0, said: Arc::clone(&self.own) };
                self.hot.push_record(rumour, self.me);
                out.push(Output::Event(Event::Published { version }));
            }
            Err(fault) => {
                self.content = self.own.advert.clone();
                out.push(Output::Event(Event::PublishRefused { fault }));
            }
        }
    }

    fn publish_interval(&self) -> Duration {
        2 * self.params.advert_interval
    }

    fn publish_burst(&self) -> u32 {
        (self.params.advert_burst / 2).max(1)
    }

    /// Answers an accusation of this peer with a newer advert.
    pub(super) fn refute(
        &mut self,
        now: Now,
        accuser: PeerId,
        version: Version,
        out: &mut Vec<Output>,
    ) {
        let own = self.own.advert.version;
        if version > own {
            return self.outbid(now.mono, version, out);
        }
        if version < own {
            if self.members.get(accuser).is_none() {
                return;
            }
            // Refuted already; it has not heard.
            let mut news = News::default();
            let hops = self.params.eager_hops_max;
            news.records.push(Rumour { hops, said: Arc::clone(&self.own) });
            return self.send_news(now.mono, accuser, news, out);
        }
        // Strangers convince nobody, and one liar must not make us flood the mesh with refutations.
        let Some(contact) = self.members.contact(accuser) else {
            // A joiner's word may come before its advert.
            if self.doubters.len() < DOUBTERS_MAX {
                self.doubters.insert(accuser, version);
            }
            return;
        };
        if !self.publish_wanted
            && contact.refutations.take(now.mono, REFUTATION_INTERVAL, REFUTATIONS_BURST)
        {
            out.push(Output::Event(Event::Refuted { accuser }));
            self.want_publication(now.mono);
        }
    }

    /// A stranger that accused this peer is no stranger any more.
    pub(super) fn answer_doubter(&mut self, now: Now, peer: PeerId, out: &mut Vec<Output>) {
        if let Some(version) = self.doubters.remove(&peer) {
            self.refute(now, peer, version, out);
        }
    }

    /// Others hold a version of this peer that it has not reached: its clock went back between two
    /// boots, or another process runs with its key. It goes on above, at its usual pace, so that
    /// two processes with one key are a nuisance and not a flood.
    pub(super) fn outbid(&mut self, now: Mono, version: Version, out: &mut Vec<Output>) {
        if version > self.outbid {
            self.outbid = version;
            out.push(Output::Event(Event::Outbid { version }));
            self.want_publication(now);
        }
    }
}
