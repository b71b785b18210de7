//! What of the law changes while the node runs: its charter, what authorities revoked, what was
//! measured of peers. Files are looked at now and then (`files`), peers are asked for echoes
//! (`echoes`); what follows from either is the core's to decide.

mod echoes;
mod files;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use hansa_core::charter::{Charter, CharterFault, Trust};
use hansa_core::directory::Params;
use hansa_core::gate::Standing;
use hansa_core::physics::Evidence;
use hansa_core::revocation::{RevocationList, Revocations};
use hansa_core::terms::Terms;
use hansa_core::time::Utc;
use hansa_core::view::View;

use crate::config::Config;
use crate::node::Node;

/// The node's own standing, and the lists that it knows.
pub struct Law {
    charter: ArcSwap<Result<Charter, CharterFault>>,
    note: ArcSwapOption<String>,
    terms: Terms,
    lists: Mutex<Revocations>,
    /// Where lists that came from peers are kept.
    folder: PathBuf,
    wants_evidence: AtomicBool,
}

/// The node's own standing at one moment.
pub struct Own {
    charter: Arc<Result<Charter, CharterFault>>,
    terms: Terms,
}

impl Own {
    /// As the gate wants it.
    pub fn standing(&self) -> Standing<'_> {
        // What others measure of this node, they go by.
        let evidence = Evidence::Plausible;
        Standing { charter: &self.charter, terms: Some(&self.terms), evidence }
    }
}

impl Law {
    /// The law of a node that starts with this charter. Lists that it knew when it last ran count
    /// from the beginning: a restart forgets no revocation.
    pub fn new(
        config: &Config,
        trust: &Trust,
        note: Option<String>,
        charter: Result<Charter, CharterFault>,
        keeps_receipts: bool,
        utc: Utc,
    ) -> Self {
        let purposes = config.policy.purposes.clone();
        let folder = config.node.data_dir.join("revocations");
        let lists = files::kept(&folder, trust, utc);
        Self {
            charter: ArcSwap::from_pointee(charter),
            note: ArcSwapOption::from_pointee(note),
            terms: Terms { purposes, keeps_receipts },
            lists: Mutex::new(lists),
            folder,
            wants_evidence: AtomicBool::new(false),
        }
    }

    /// Its charter, or why that does not count.
    pub fn charter(&self) -> Arc<Result<Charter, CharterFault>> {
        self.charter.load_full()
    }

    /// The note of its charter.
    pub fn note(&self) -> Option<Arc<String>> {
        self.note.load_full()
    }

    /// What it promises.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// How it stands at its own gate.
    pub fn own(&self) -> Own {
        Own { charter: self.charter(), terms: self.terms.clone() }
    }

    /// What the directory makes of its charter: what is revoked, counts no more here either.
    pub fn learn(&self, view: &View) {
        let Some(own) = view.get(view.me()) else { return };
        if own.record.charter != **self.charter.load() {
            self.charter.store(Arc::new(own.record.charter.clone()));
        }
    }

    /// The lists that it knows.
    pub fn lists(&self) -> Vec<Arc<RevocationList>> {
        self.lists.lock().expect("no holder panics").lists().cloned().collect()
    }

    /// A job demands evidence of where peers are: those that are not connected are measured, too.
    pub fn want_evidence(&self) {
        self.wants_evidence.store(true, Ordering::Relaxed);
    }
}

impl Node {
    /// Watches the files of the law and measures peers, until the node drains.
    pub fn keep_law(self: &Arc<Self>) {
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let mut draining = node.draining.subscribe();
            tokio::select! {
                () = node.watch_files() => {}
                () = node.measure_peers() => {}
                _ = draining.wait_for(|draining| *draining) => {}
            }
        });
    }

    /// How its directories are run.
    pub fn params(&self) -> Params {
        let revocations_age_max = self.config.policy.revocations_age_max;
        Params { revocations_age_max, ..Params::default() }
    }
}
