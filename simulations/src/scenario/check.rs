//! What cannot be: each check names the key, what is wrong with it and what to do.

use super::demand::{ArrivalKind, STRATEGIES};
use super::error::{Fault, nearest};
use super::faults::{FaultKind, FaultSpec};
use super::{ArrivalSpec, Scenario};

/// Peers that one machine can hold.
const PEERS_MAX: usize = 100_000;

type Checked = Result<(), Fault>;

fn require(possible: bool, key: &str, problem: &str, fix: &str) -> Checked {
    if possible { Ok(()) } else { Err(fault(key, problem, fix)) }
}

fn fault(key: &str, problem: &str, fix: &str) -> Fault {
    Fault { key: key.to_owned(), problem: problem.to_owned(), fix: fix.to_owned() }
}

impl Scenario {
    pub(super) fn check(&self) -> Checked {
        self.check_size()?;
        self.check_links()?;
        self.check_regions()?;
        self.check_fleet()?;
        for (index, arrivals) in self.arrivals.iter().enumerate() {
            self.check_arrivals(index, arrivals)?;
        }
        self.check_gossip()?;
        self.check_routing()?;
        self.check_sharing()?;
        self.fault.iter().enumerate().try_for_each(|(index, fault)| self.check_fault(index, fault))
    }

    fn check_size(&self) -> Checked {
        let joined = self.join_within_ms <= self.seconds * 1_000;
        require(self.peers >= 2, "peers", "a mesh has at least two", "set `peers` to 2 or more")?;
        require(
            self.peers <= PEERS_MAX,
            "peers",
            "more than one machine can hold",
            "set it to at most 100000",
        )?;
        require(self.seconds > 0, "seconds", "must not be zero", "say how long it lasts")?;
        require(
            self.warmup_s < self.seconds,
            "warmup_s",
            "nothing is left to measure after it",
            "make it shorter than `seconds`",
        )?;
        require(
            joined,
            "join_within_ms",
            "is over the end",
            "make it shorter, or `seconds` longer (one is in ms)",
        )?;
        require(
            !(self.settled && self.join_within_ms > 0),
            "join_within_ms",
            "nobody joins when all are settled",
            "remove it or `settled`",
        )?;
        for (key, every) in
            [("publish_every_ms", self.publish_every_ms), ("republish_s", self.republish_s)]
        {
            require(
                every != Some(0),
                key,
                "must not be zero",
                "remove it if nothing is published",
            )?;
        }
        Ok(())
    }

    fn check_links(&self) -> Checked {
        let [shortest, longest] = self.links.latency_ms;
        require(
            shortest <= longest,
            "links.latency_ms",
            "the shortest comes first",
            "swap the two",
        )?;
        for (key, share) in [("links.loss", self.links.loss), ("links.reorder", self.links.reorder)]
        {
            let possible = (0.0..1.0).contains(&share);
            require(possible, key, "is a share below 1", "write 2 % as 0.02")?;
        }
        require(
            self.links.bandwidth_mbit != Some(0),
            "links.bandwidth_mbit",
            "nothing passes at 0",
            "remove it for links without limit, or use a fault of kind `partition`",
        )?;
        let placed = self.links.model == super::LinkModel::Uniform || !self.region.is_empty();
        require(placed, "links.model", "there are no regions", "add [[region]] with `at`")?;
        let mapped = self.links.matrix.is_none() || !self.region.is_empty();
        require(mapped, "links.matrix", "there are no regions", "add [[region]] with its names")
    }

    fn check_regions(&self) -> Checked {
        let given: usize = self.region.iter().map(|region| region.peers).sum();
        require(
            given <= self.peers,
            "peers",
            &format!("the regions have {given} together"),
            "remove it, or give the regions fewer",
        )?;
        for (index, region) in self.region.iter().enumerate() {
            let at = |key: &str| format!("region.{index}.{key}");
            let [latitude, longitude] = region.at;
            let earthly = latitude.abs() <= 90.0 && longitude.abs() <= 180.0;
            require(earthly, &at("at"), "is not on Earth", "write [latitude, longitude]")?;
            require(
                region.weight >= 0.0,
                &at("weight"),
                "is negative",
                "0 is a region without users",
            )?;
            let twice = self.region[..index].iter().any(|other| other.name == region.name);
            require(!twice, &at("name"), "there is one of this name", "rename one of them")?;
            let here = if region.peers > 0 { region.peers } else { self.peers };
            let fits = region.entries <= here;
            require(fits, &at("entries"), "are more than its peers", "they are some of `peers`")?;
        }
        Ok(())
    }

    fn check_fleet(&self) -> Checked {
        for (index, device) in self.device.iter().enumerate() {
            let at = |key: &str| format!("device.{index}.{key}");
            require(device.slots > 0, &at("slots"), "nothing runs on none", "set it to 1 or more")?;
            require(device.speed > 0.0, &at("speed"), "is not above 0", "1 is the plain device")?;
            require(device.share >= 0.0, &at("share"), "is negative", "0 leaves the class out")?;
            let loads = device.load_mib_per_s > 0;
            require(
                loads,
                &at("load_mib_per_s"),
                "must not be zero",
                "1000 is a model a few seconds",
            )?;
            let times = [device.prefill_ms, device.service_ms.mean, device.service_ms.sigma];
            let possible = times.iter().all(|time| time.is_finite() && *time >= 0.0);
            require(possible, &at("service_ms"), "has a negative time", "times are in ms")?;
        }
        for (index, model) in self.model.iter().enumerate() {
            let possible = (0.0..=1.0).contains(&model.held_by);
            let key = format!("model.{index}.held_by");
            require(possible, &key, "is a share from 0 to 1", "1 is on all peers")?;
            let largest = self.device.iter().map(|device| device.memory_mib.unwrap_or(u32::MAX));
            let fits = model.size_mib <= largest.max().unwrap_or(u32::MAX);
            let key = format!("model.{index}.size_mib");
            require(fits, &key, "is more than any device has", "raise a device's `memory_mib`")?;
        }
        for (index, charter) in self.charter.iter().enumerate() {
            self.check_names(&format!("charter.{index}.regions"), &charter.regions)?;
        }
        for (index, policy) in self.policy.iter().enumerate() {
            self.check_names(&format!("policy.{index}.regions"), &policy.regions)?;
        }
        Ok(())
    }

    fn check_names(&self, key: &str, names: &[String]) -> Checked {
        let known = || self.region.iter().map(|region| region.name.as_str());
        match names.iter().find(|name| !known().any(|known| known == name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let problem = format!("there is no region `{name}`");
                let fix = match nearest(name, known()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "name one of the [[region]]s".to_owned(),
                };
                Err(fault(key, &problem, &fix))
            }
        }
    }

    fn check_arrivals(&self, index: usize, arrivals: &ArrivalSpec) -> Checked {
        let at = |key: &str| format!("arrivals.{index}.{key}");
        self.check_names(&at("regions"), &arrivals.regions)?;
        let paced = arrivals.load.is_some() != arrivals.rate.is_some();
        if arrivals.kind == ArrivalKind::Trace {
            let fix = "add `file = \"….csv\"`, relative to the scenario";
            require(arrivals.file.is_some(), &at("file"), "a trace has a file", fix)?;
        } else {
            let fix = "give one of `load` (0.85) and `rate` (jobs a second)";
            require(paced, &at("load"), "how many jobs is not clear", fix)?;
        }
        if let Some(name) = &arrivals.model {
            let names = || self.model.iter().map(|model| model.name.as_str());
            let fix = match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name one of the [[model]]s".to_owned(),
            };
            let known = names().any(|known| known == name);
            require(known, &at("model"), &format!("there is no model `{name}`"), &fix)?;
        }
        let positive = [arrivals.load, arrivals.rate, Some(arrivals.speedup)];
        let possible = positive.iter().flatten().all(|x| *x > 0.0 && x.is_finite());
        require(possible, &at("kind"), "its load, rate or speed-up is not above 0", "raise it")?;
        let peak = (1.0..=2.0).contains(&arrivals.peak);
        require(peak, &at("peak"), "is not from 1 to 2", "it is the peak against the mean")?;
        require(arrivals.day_s > 0, &at("day_s"), "must not be zero", "86400 is a real day")?;
        let until = arrivals.until_s.unwrap_or(self.seconds);
        let fix = "it ends after it begins and within `seconds`";
        require(
            arrivals.from_s < until && until <= self.seconds,
            &at("until_s"),
            "is out of the scenario",
            fix,
        )
    }

    fn check_gossip(&self) -> Checked {
        let Some(shards) = self.gossip.shards else { return Ok(()) };
        let key = "gossip.shards";
        let problem = "leaves somebody alone in its shard";
        let fix = "set it to 1 to half of `peers`";
        require((1..=self.peers / 2).contains(&shards), key, problem, fix)?;
        let is_open = self.fault.iter().all(|fault| fault.kind != FaultKind::Nat);
        let problem = "leaves peers behind NAT without a relay, which may be in another shard";
        require(is_open, key, problem, "leave out the fault `nat`, or `shards`")
    }

    fn check_routing(&self) -> Checked {
        for name in self.routing.strategies() {
            if !STRATEGIES.contains(&name.as_str()) {
                let fix = match nearest(&name, STRATEGIES) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are {}", STRATEGIES.join(", ")),
                };
                let problem = format!("there is no strategy `{name}`");
                return Err(fault("routing.strategy", &problem, &fix));
            }
        }
        let above = self.routing.probe_above_ms.unwrap_or(0.0);
        let possible = (0.0..1e9).contains(&above);
        let fix = "write 0 to ask about every job";
        require(possible, "routing.probe_above_ms", "is not a time", fix)?;
        let budget = self.routing.retry_budget.unwrap_or(0.0);
        let possible = (0.0..=1.0).contains(&budget);
        require(possible, "routing.retry_budget", "is a share from 0 to 1", "write 10 % as 0.1")
    }

    fn check_sharing(&self) -> Checked {
        let Some(sharing) = &self.sharing else { return Ok(()) };
        let key = "sharing.goal_ttft_ms";
        require(sharing.goal_ttft_ms > 0.0, key, "is not above 0", "write 1000 for a second")?;
        let possible = sharing.stay.iter().all(|share| (0.0..=1.0).contains(share));
        require(possible, "sharing.stay", "are shares from 0 to 1", "write 25 % as 0.25")?;
        let apart = self.region.iter().all(|region| (1..region.peers).contains(&region.entries));
        let fix = "give each [[region]] `entries`, fewer than its `peers`";
        require(apart, "sharing.stay", "needs entries and servers in each region", fix)
    }

    fn check_fault(&self, index: usize, spec: &FaultSpec) -> Checked {
        let at = |key: &str| format!("fault.{index}.{key}");
        let nat = spec.kind == FaultKind::Nat;
        let within = spec.at_s < self.seconds || nat;
        require(within, &at("at_s"), "is over the end", "make it less than `seconds`")?;
        if let Some(until) = spec.until_s {
            let within = spec.at_s < until && until <= self.seconds;
            let fix = "it is after `at_s` and at most `seconds`";
            require(within, &at("until_s"), "ends before it begins, or after all", fix)?;
        }
        if let Some(share) = spec.share {
            let possible = (0.0..=1.0).contains(&share);
            require(possible, &at("share"), "is not from 0 to 1", "write 5 % as 0.05")?;
        }
        let both = spec.share.is_some() && spec.count.is_some();
        require(!both, &at("count"), "`share` says it too", "remove one of them")?;
        if let Some(region) = &spec.region {
            self.check_names(&at("region"), std::slice::from_ref(region))?;
        }
        let links = matches!(spec.kind, FaultKind::Loss | FaultKind::Reorder);
        let whom = spec.share.is_some() || spec.count.is_some() || spec.region.is_some();
        require(
            whom || links,
            &at("kind"),
            "whom it befalls is not clear",
            "add `share`, `count` or `region`",
        )?;
        match spec.kind {
            FaultKind::Restart => {
                let fix = "add `until_s`, or use `crash` for those that stay away";
                require(spec.until_s.is_some(), &at("kind"), "when they come back?", fix)
            }
            FaultKind::RegionLost => {
                let fix = "add `region`";
                require(spec.region.is_some(), &at("kind"), "which region is lost?", fix)
            }
            FaultKind::Loss | FaultKind::Reorder => {
                let possible = spec.by.is_some_and(|by| (0.0..1.0).contains(&by));
                require(possible, &at("by"), "is a share below 1", "write 10 % as 0.1")
            }
            FaultKind::Gray => {
                let possible = spec.by.is_some_and(|by| by >= 1.0);
                require(possible, &at("by"), "is how many times slower", "add `by = 10`")
            }
            FaultKind::ClockJump => {
                let fix = "add `jump_ms`";
                require(spec.jump_ms.is_some(), &at("kind"), "by how much?", fix)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(toml: &str) -> String {
        Scenario::parse(&format!("name = 'x'\nseconds = 9\n{toml}")).unwrap_err().to_string()
    }

    #[test]
    fn a_misspelt_key_is_refused_with_its_line_and_the_one_that_was_meant() {
        let error = refused("pears = 5");
        assert!(error.starts_with("scenario:3: unknown field `pears`"), "{error}");
        assert!(error.ends_with("did you mean `peers`?"), "{error}");
        let error = refused("peers = 5\n[links]\nlatency = [1, 2]");
        assert!(error.starts_with("scenario:5: "), "{error}");
        assert!(error.ends_with("did you mean `latency_ms`?"), "{error}");
        let error = refused("peers = 5\n[[fault]]\nkind = 'partitoin'\nat_s = 1");
        assert!(error.ends_with("did you mean `partition`?"), "{error}");
    }

    #[test]
    fn a_key_that_is_missing_is_named() {
        let error = Scenario::parse("name = 'x'\npeers = 5").unwrap_err().to_string();
        assert!(error.contains("missing field `seconds`; add `seconds = …`"), "{error}");
    }

    #[test]
    fn impossible_worlds_name_line_key_and_fix() {
        let table = [
            ("peers = 1", "scenario:3: peers: a mesh has at least two; set"),
            ("peers = 9\njoin_within_ms = 9001", "scenario:4: join_within_ms: is over the end"),
            ("peers = 9\n[gossip]\nshards = 5", "scenario:5: gossip.shards: leaves somebody alone"),
            (
                "peers = 9\n[gossip]\nshards = 2\n[[fault]]\nkind = 'nat'\nat_s = 0\ncount = 1",
                "scenario:5: gossip.shards: leaves peers behind NAT without a relay",
            ),
            ("peers = 9\n[links]\nlatency_ms = [9, 1]", "scenario:5: links.latency_ms: the short"),
            ("peers = 9\n[links]\nloss = 2.0", "scenario:5: links.loss: is a share below 1; write"),
            ("peers = 9\n[links]\nmodel = 'geography'", "scenario:5: links.model: there are no"),
            ("[[region]]\nname = 'a'\nat = [4.8, 999]\npeers = 3", "scenario:5: region.0.at: is n"),
            (
                "peers = 9\n[[fault]]\nkind = 'crash'\nat_s = 9\nshare = 0.1",
                "scenario:6: fault.0.at",
            ),
            ("peers = 9\n[[fault]]\nkind = 'crash'\nat_s = 1", "scenario:5: fault.0.kind: whom"),
            ("peers = 9\n[[fault]]\nkind = 'gray'\nat_s = 1\ncount = 1", "scenario:4: fault.0.by"),
            ("peers = 9\n[[arrivals]]\nkind = 'poisson'", "scenario:4: arrivals.0.load: how many"),
            ("peers = 9\n[[arrivals]]\nkind = 'trace'", "scenario:4: arrivals.0.file: a trace has"),
            (
                "peers = 9\n[routing]\nstrategy = 'hanza'",
                "scenario:5: routing.strategy: there is no",
            ),
        ];
        for (toml, expected) in table {
            let error = refused(toml);
            assert!(error.starts_with(expected), "{toml}\n{error}");
        }
    }

    #[test]
    fn a_region_that_is_not_there_is_named_with_the_nearest() {
        let region = "[[region]]\nname = 'Frankfurt'\nat = [50.1, 8.7]\npeers = 4\n";
        let fault = "[[fault]]\nkind = 'region-lost'\nat_s = 2\nregion = 'Frankfort'";
        let error = refused(&format!("{region}{fault}"));
        assert!(error.ends_with("no region `Frankfort`; did you mean `Frankfurt`?"), "{error}");
    }

    #[test]
    fn the_regions_sum_is_the_number_of_peers() {
        let toml = "name = 'x'\nseconds = 9\n[[region]]\nname = 'a'\nat = [0, 0]\npeers = 3\n\
                    [[region]]\nname = 'b'\nat = [0, 9]\npeers = 2";
        let scenario = Scenario::parse(toml).unwrap();
        assert_eq!(scenario.peers, 5);
        assert_eq!(scenario.region_of_peers(), [0, 0, 0, 1, 1]);
    }
}
