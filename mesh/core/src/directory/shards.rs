//! A mesh too large for one directory is divided into shards, one for each jurisdiction or whatever
//! else keeps work together. A peer subscribes to the shards where it may send work or be sent
//! some, keeps a directory of each, and knows nothing of the others.
//!
//! The directories know nothing of each other; here is only who gets which message, and one view of
//! all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::{Directory, Input, Output, Params};
use crate::advert::{Advert, AdvertFault, Record, Version};
use crate::charter::Trust;
use crate::codec::{Decode, Encode};
use crate::id::{Digest, PeerId};
use crate::keys::SigningKey;
use crate::limits::SHARDS_MAX;
use crate::physics::Echoes;
use crate::rng::mix;
use crate::time::{Mono, Now};
use crate::view::{Entry, View};

/// A shard on the wire: the first bytes of the hash of its name, zero for the one without a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Shard(u32);

impl Shard {
    /// The shard of that name.
    pub fn named(name: &str) -> Self {
        if name.is_empty() {
            return Self::default();
        }
        let Digest(hash) = Digest::of(format!("hansa/shard/1\0{name}").as_bytes());
        Self(u32::from_le_bytes(hash[..4].try_into().expect("four of 32 bytes")))
    }
}

/// The directories of one peer, one for each shard that it subscribes to. It is fed and read as one
/// [`Directory`] is.
pub struct Shards {
    all: Vec<Directory>,
    wakes: Vec<Option<Mono>>,
    wake: Option<Mono>,
    view: OnceLock<Arc<View>>,
}

impl Shards {
    /// The directories of the peer that holds `key` in `shards`; see [`Directory::new`]. Without
    /// any name it is the one shard that has none.
    ///
    /// # Errors
    /// When `own` does not fit an advert.
    pub fn new(
        shards: &[String],
        key: &Arc<SigningKey>,
        own: &Advert,
        trust: &Arc<Trust>,
        seed: u64,
        now: Now,
        params: &Params,
    ) -> Result<Self, AdvertFault> {
        assert!(shards.len() <= SHARDS_MAX, "{} shards", shards.len());
        let mut names: Vec<Shard> = shards.iter().map(|name| Shard::named(name)).collect();
        if names.is_empty() {
            names.push(Shard::default());
        }
        names.sort_unstable();
        names.dedup();
        let directory = |shard: &Shard| {
            let seed = if shard.0 == 0 { seed } else { mix(seed ^ u64::from(shard.0)) };
            let (key, trust) = (Arc::clone(key), Arc::clone(trust));
            let directory = Directory::new(key, own.clone(), trust, seed, now, params.clone())?;
            Ok(directory.within(*shard))
        };
        let all = names.iter().map(directory).collect::<Result<Vec<_>, AdvertFault>>()?;
        let wakes = vec![None; all.len()];
        Ok(Self { all, wakes, wake: None, view: OnceLock::new() })
    }

    /// Takes one input and appends what is to be done. A message goes to the directory of its
    /// shard, and nowhere if this peer does not subscribe to that; all else concerns all.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Message { from, message } => {
                let Ok(index) = self.all.binary_search_by_key(&message.shard, Directory::shard)
                else {
                    return;
                };
                let lists = message.aside.as_ref().map(|aside| aside.lists.clone());
                self.feed(index, now, Input::Message { from, message }, out);
                // What one shard hears of revocations holds in all.
                let others = lists.filter(|_| self.all.len() > 1).unwrap_or_default();
                for list in &others {
                    self.feed_all(now, out, || Input::Revocations(Arc::clone(list)));
                }
            }
            Input::Tick if self.all.len() == 1 => self.feed(0, now, Input::Tick, out),
            Input::Tick => {
                for index in 0..self.all.len() {
                    // One that was not fed yet has no wake; every one must be, once.
                    if self.wakes[index].is_none_or(|wake| wake <= now.mono) {
                        self.feed(index, now, Input::Tick, out);
                    }
                }
            }
            Input::Connected { peer } => self.feed_all(now, out, || Input::Connected { peer }),
            Input::Disconnected { peer } => {
                self.feed_all(now, out, || Input::Disconnected { peer });
            }
            Input::Unreachable { peer } => self.feed_all(now, out, || Input::Unreachable { peer }),
            Input::Publish(advert) => self.feed_all(now, out, || Input::Publish(advert.clone())),
            Input::Revocations(list) => {
                self.feed_all(now, out, || Input::Revocations(Arc::clone(&list)));
            }
            Input::Echo { peer, rtt } => self.feed_all(now, out, || Input::Echo { peer, rtt }),
            Input::Unrelayed { peer } => self.feed_all(now, out, || Input::Unrelayed { peer }),
            Input::Leave => self.feed_all(now, out, || Input::Leave),
        }
    }

    fn feed_all(&mut self, now: Now, out: &mut Vec<Output>, input: impl Fn() -> Input) {
        (0..self.all.len()).for_each(|index| self.feed(index, now, input(), out));
    }

    fn feed(&mut self, index: usize, now: Now, input: Input, out: &mut Vec<Output>) {
        let begin = out.len();
        self.all[index].handle(now, input, out);
        let mut changed = false;
        let mut woken = None;
        for output in &out[begin..] {
            match output {
                Output::WakeAt(at) => woken = Some(*at),
                Output::ViewChanged => changed = true,
                _ => {}
            }
        }
        if changed {
            self.view = OnceLock::new();
        }
        let Some(woken) = woken else { return };
        self.wakes[index] = Some(woken);
        if self.all.len() == 1 {
            return;
        }
        let next = self.wakes.iter().flatten().min().copied();
        let own = |output: &Output| !matches!(output, Output::WakeAt(_));
        let mut kept = out.split_off(begin);
        kept.retain(own);
        out.append(&mut kept);
        if next != self.wake {
            self.wake = next;
            out.extend(next.map(Output::WakeAt));
        }
    }

    /// A snapshot of all directories: of a peer that is in several, its newest record.
    pub fn view(&self) -> Arc<View> {
        if let [only] = &self.all[..] {
            return only.view();
        }
        let view = self.view.get_or_init(|| {
            let mut entries = BTreeMap::<PeerId, Entry>::new();
            for entry in self.all.iter().flat_map(|d| d.view().entries().to_vec()) {
                let known = entries.get(&entry.record.advert.peer);
                let newer = known.is_none_or(|known| {
                    let rank = |e: &Entry| (e.record.advert.version, std::cmp::Reverse(e.liveness));
                    rank(&entry) > rank(known)
                });
                if newer {
                    entries.insert(entry.record.advert.peer, entry);
                }
            }
            Arc::new(View::new(self.all[0].me(), entries.into_values().collect()))
        });
        Arc::clone(view)
    }

    /// The record of a peer, from whichever shard.
    pub fn record(&self, peer: PeerId) -> Option<&Arc<Record>> {
        self.all.iter().find_map(|directory| directory.record(peer))
    }

    /// The fastest echoes of a peer.
    pub fn echoes(&self, peer: PeerId) -> Option<Echoes> {
        self.all.iter().find_map(|directory| directory.echoes(peer))
    }

    /// Whether no directory needs to see the advert of `peer` with this version.
    pub fn holds(&self, peer: PeerId, version: Version) -> bool {
        self.all.iter().all(|directory| directory.holds(peer, version))
    }

    /// Each directory.
    pub fn each(&self) -> &[Directory] {
        &self.all
    }

    /// Each directory, to [`Directory::acquaint`] it.
    pub fn each_mut(&mut self) -> &mut [Directory] {
        &mut self.all
    }
}
