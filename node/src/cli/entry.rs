//! Before `hansa infer` sends its inputs: whether the node that is asked may see them. That node runs
//! the gate for everybody after it, and nobody but the caller can run it for that node itself.
//!
//! What is checked: the charter that the node shows is signed by an authority of the caller's own file,
//! which may assert all of it, is valid now, and passes the job's constraints. What is not: that
//! whoever answers at the URL has the key that the charter names (use TLS to know whom you talk to),
//! and whether the authority revoked it (peers check that among themselves).

use anyhow::{Context, bail};
use hansa_core::gate;
use hansa_core::id::PeerId;
use hansa_core::policy::Demand;

use super::{InferArgs, out};
use crate::audit::authorities;
use crate::client::Client;
use crate::clock::Clock;
use crate::config::Config;

/// Refuses if the node may not see the job's inputs, as far as the caller can tell.
pub(super) fn check(client: &Client, args: &InferArgs) -> anyhow::Result<()> {
    let Some(file) = &args.authorities else {
        let policy = &args.policy;
        let bounds = [&policy.locations, &policy.control, &policy.operators, &policy.data_class];
        let bounds = bounds.into_iter().chain([&policy.signed_by]);
        if bounds.into_iter().any(Option::is_some) || policy.signatures_min.is_some() {
            out::note(&format!(
                "note: whether the node at {} may see the inputs itself is not checked; \
                 --authorities FILE has its charter checked first",
                args.via
            ));
        }
        return Ok(());
    };
    let groups = Config::default().groups;
    let mut demand = Demand::default();
    for (name, value) in args.policy.pairs() {
        demand.set(&name.to_lowercase().replace('-', "_"), &value, &groups)?;
    }
    let bounds = &demand.policy.bounds;
    let trust = authorities::load(file)?;
    let seen = client.get("/mesh/v1/peers")?;
    let peers = seen["peers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let me =
        peers.iter().find(|peer| peer["me"] == true).context("the node names no peer as itself")?;
    let id: PeerId = me["peer_id"].as_str().unwrap_or_default().parse()?;
    let Some(note) = me["charter_note"].as_str() else {
        bail!("nothing was sent: the node at {} shows no charter", args.via);
    };
    let charter = trust.verify(note, id);
    let verdict = gate::may_enter(bounds, &charter, Clock::start().now().utc);
    match (verdict, &charter) {
        (Ok(()), _) => Ok(()),
        (Err(rule), Err(fault)) => {
            bail!("nothing was sent: of the node at {}, {rule}: {fault}", args.via)
        }
        (Err(rule), Ok(charter)) => bail!(
            "nothing was sent: of the node at {}, {rule} (location {}, control {}, operator {}); \
             ask a node that the constraints permit",
            args.via,
            charter.location,
            charter.control,
            charter.operator
        ),
    }
}
