//! The schema: every key, its type, its default and what it must be. A key that this version cannot
//! honour is here too, and refused by name. Add a key here, in the types, and in
//! `configs/reference.toml`; a test compares them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hansa_core::limits::{
    HEADS_MAX, NAME_BYTES_MAX, PURPOSES_MAX, SHARDS_MAX, SIGNATURES_ASKED_MAX,
};
use hansa_core::note::VerifierKey;
use hansa_core::place::{Groups, Place};
use hansa_core::policy::{Bounds, Clause, Demand};
use hansa_core::price::Currency;
use hansa_runtime::devices::{DeviceSpec, Provider, Wanted};
use tracing_subscriber::EnvFilter;

use super::reader::Section;
use super::*;
use crate::keyfile::Secret;

/// Most that kept answers may be told to take, in MiB.
const CACHE_MIB_MAX: u32 = 1 << 20;

/// Most threads of one instance.
const THREADS_MAX: u32 = 1_024;

/// Most that a second of a device or a gigabyte may be said to cost, in whole units.
const RATE_MAX: f64 = 1e6;

/// What the store of bundles may take unless the config says otherwise, in GiB.
const BUNDLES_GIB: u32 = 100;
/// Most that it may be told to take, in GiB.
const BUNDLES_GIB_MAX: u32 = 1 << 20;

/// How long receipts are kept unless the config says otherwise: a little longer than the six months
/// that the AI Act of the EU asks of deployers (article 26(6)).
const RETENTION_DAYS: u32 = 190;
/// Longest that they may be told to be kept, short of for ever: a hundred years.
const RETENTION_DAYS_MAX: u32 = 36_525;

/// Oldest that a list of revocations may be said to be, in hours: a year.
const REVOCATIONS_AGE_H_MAX: u32 = 8_784;

/// Groups that are built in.
const GROUPS: &str = include_str!("../../../configs/groups.toml");

/// Reads the whole config; paths are relative to `folder`.
pub(super) fn read(root: &mut Section<'_, '_>, folder: &Path) -> Config {
    let groups = root.table("groups", groups);
    let node = root.table("node", |section| node(section, folder));
    let identity = root.table("identity", |section| identity(section, folder));
    let has_charter = identity.charter_file.is_some();
    let audit = root.table("audit", |section| audit(section, folder, &node.data_dir, has_charter));
    Config {
        node,
        identity,
        authorities: root.tables("authority", authority),
        mesh: root.table("mesh", mesh),
        api: root.table("api", |section| api(section, folder)),
        runtime: root.table("runtime", |section| runtime(section, folder)),
        models: models::read(root, folder),
        repository: root.table("repository", |section| models::repository(section, folder)),
        price: root.table("price", price),
        policy: root.table("policy", |section| policy(section, folder, &groups)),
        audit,
        telemetry: telemetry(root),
        groups,
        source: Source::default(),
    }
}

fn groups(section: &mut Section<'_, '_>) -> Groups {
    #[derive(serde::Deserialize)]
    struct File {
        groups: BTreeMap<String, Vec<String>>,
    }
    let mut members = toml::from_str::<File>(GROUPS).expect("configs/groups.toml is ours").groups;
    for (name, places) in section.entries::<Vec<String>>() {
        let unknown = places.iter().find_map(|place| place.parse::<Place>().err());
        match unknown {
            // A policy could not tell which of the two is meant.
            _ if name.parse::<Place>().is_ok() => {
                section.refuse(&name, "a country has this name; choose another".into());
            }
            Some(error) => section.refuse(&name, error.to_string()),
            None => drop(members.insert(name, places)),
        }
    }
    Groups::new(members).expect("each place was parsed")
}

fn node(section: &mut Section<'_, '_>, folder: &Path) -> NodeConfig {
    NodeConfig {
        name: section.parse("name", name).unwrap_or_else(|| "node".into()),
        data_dir: path(section, "data_dir", folder).unwrap_or_else(|| folder.join("data")),
        bundles_gib_max: bounded(section, "bundles_gib_max", 0..=BUNDLES_GIB_MAX)
            .map_or(BUNDLES_GIB, |gib| u32::try_from(gib).expect("it was one")),
    }
}

fn identity(section: &mut Section<'_, '_>, folder: &Path) -> IdentityConfig {
    let key_file = secret(section, "key_file", folder);
    IdentityConfig {
        key_file: key_file.unwrap_or_else(|| Secret::File(folder.join("identity.key"))),
        charter_file: path(section, "charter_file", folder),
    }
}

fn authority(section: &mut Section<'_, '_>) -> Option<AuthorityConfig> {
    let name: Option<String> = section.require("name");
    let text: Option<String> = section.require("key");
    let key = text.and_then(|text| match text.parse::<VerifierKey>() {
        Ok(key) => Some(key),
        Err(error) => {
            section.refuse("key", error.to_string());
            None
        }
    });
    let may_assert = section.table("may_assert", |section| {
        let countries: Vec<String> = section.get("countries").unwrap_or_default();
        let operators: Vec<String> = section.get("operators").unwrap_or_default();
        for country in countries.iter().filter(|country| *country != "*") {
            if let Err(error) = country.parse::<Place>() {
                section.refuse("countries", error.to_string());
            } else if country.len() != 2 {
                section.refuse("countries", format!("`{country}` is a part; name its country"));
            }
        }
        let (countries, operators) = (countries.into_iter(), operators.into_iter());
        MayAssert { countries: countries.collect(), operators: operators.collect() }
    });
    let (name, key) = (name?, key?);
    if name != key.name {
        let reason = format!("`{name}` is not the name in the key, `{}`", key.name);
        section.refuse("name", reason);
    }
    Some(AuthorityConfig { name, key, may_assert })
}

fn mesh(section: &mut Section<'_, '_>) -> MeshConfig {
    let default = MeshConfig::default();
    let listen = section.parse("listen", |text| addr::check_listen(text).map(|()| text.to_owned()));
    let mut dialled = |key| {
        let addrs: Vec<String> = section.get(key).unwrap_or_default();
        for reason in addrs.iter().filter_map(|addr| addr::check_dial(addr).err()) {
            section.refuse(key, reason);
        }
        addrs
    };
    let (bootstrap, external) = (dialled("bootstrap"), dialled("external"));
    let data_external: Vec<SocketAddr> = section.get("data_external").unwrap_or_default();
    let behind_nat = section.get("behind_nat");
    if behind_nat == Some(true) && !(external.is_empty() && data_external.is_empty()) {
        let reason = "others reach this node either at its external addresses (then leave this \
                      out) or through relays (then leave out external and data_external)";
        section.refuse("behind_nat", reason.into());
    }
    let shards: Vec<String> = section.get("shards").unwrap_or_default();
    if shards.len() > SHARDS_MAX {
        section.refuse("shards", format!("{} shards; at most {SHARDS_MAX}", shards.len()));
    }
    if shards.iter().any(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
        section.refuse("shards", format!("a shard's name has 1 to {NAME_BYTES_MAX} bytes"));
    }
    MeshConfig {
        listen: listen.unwrap_or(default.listen),
        data_listen: section.get("data_listen").unwrap_or(default.data_listen),
        bootstrap,
        mdns: section.get("mdns").unwrap_or(default.mdns),
        external,
        data_external,
        behind_nat,
        shards,
    }
}

fn api(section: &mut Section<'_, '_>, folder: &Path) -> ApiConfig {
    let default = ApiConfig::default();
    let http: SocketAddr = section.get("http").unwrap_or(default.http);
    let grpc: Option<SocketAddr> = section.get("grpc");
    let wants_tls = section.has("tls");
    let tls = section.table("tls", |section| {
        let cert = path(section, "cert", folder);
        let key = secret(section, "key", folder);
        if wants_tls && !(section.has("cert") && section.has("key")) {
            section.refuse("cert", "TLS needs both cert and key, paths of PEM files".into());
        }
        Some(TlsConfig { cert: cert?, key: key? })
    });
    let plaintext = section.get("plaintext").unwrap_or(default.plaintext);
    for (key, addr) in [("http", Some(http)), ("grpc", grpc)] {
        let Some(addr) = addr.filter(|addr| !addr.ip().is_loopback()) else { continue };
        if !wants_tls && !plaintext {
            let reason = format!(
                "{addr} can be reached from other machines and the API would not be encrypted: \
                 give tls = {{ cert, key }}, listen on 127.0.0.1, or say plaintext = true"
            );
            section.refuse(key, reason);
        }
    }
    if grpc == Some(http) && http.port() != 0 {
        section.refuse("grpc", format!("{http} is the address of http; give another port"));
    }
    for key in ["keys_file", "admin"] {
        section.unsupported(key);
    }
    ApiConfig { http, grpc, tls, plaintext }
}

fn runtime(section: &mut Section<'_, '_>, folder: &Path) -> RuntimeConfig {
    let default = RuntimeConfig::default();
    let library = section.parse("library", |text| match text {
        "" => Err("is empty; `auto` finds what `hansa onnxruntime install` fetched".into()),
        "auto" => Ok(text.to_owned()),
        path => Ok(folder.join(path).display().to_string()),
    });
    let is_text = section.is_text("devices");
    let devices = if is_text {
        section.parse("devices", |text| match text {
            "auto" => Ok(DeviceSpec::Auto),
            _ => Err(format!(
                "`{text}` is neither \"auto\" nor a list like [{{ provider = \"cuda\", id = 0 }}]"
            )),
        })
    } else {
        let listed = section.has("devices");
        let devices = section.tables("devices", device);
        if listed && devices.is_empty() {
            section
                .refuse("devices", "names no device that can be used; leave it out for all".into());
        }
        listed.then_some(DeviceSpec::List(devices))
    };
    let threads = bounded(section, "threads", 0..=THREADS_MAX);
    let hold = section.parse("hold", |text| match text {
        "configured" => Ok(Hold::Configured),
        "demanded" => Ok(Hold::Demanded),
        _ => Err(format!("`{text}` is neither \"configured\" nor \"demanded\"")),
    });
    let cache_mib = bounded(section, "cache_mib", 0..=CACHE_MIB_MAX);
    RuntimeConfig {
        library: library.unwrap_or(default.library),
        devices: devices.unwrap_or(default.devices),
        threads: threads.unwrap_or(default.threads),
        hold: hold.unwrap_or_default(),
        cache_mib: cache_mib
            .map_or(default.cache_mib, |mib| u32::try_from(mib).expect("it was one")),
    }
}

fn device(section: &mut Section<'_, '_>) -> Option<Wanted> {
    let provider: Option<String> = section.require("provider");
    let provider = provider.and_then(|text| match text.as_str() {
        "cpu" => Some(Provider::Cpu),
        "cuda" => Some(Provider::Cuda),
        _ => {
            section.refuse("provider", format!("`{text}` is neither cpu nor cuda"));
            None
        }
    });
    let id = section.get("id").unwrap_or(0);
    let memory_mib = section.get("memory_mib");
    Some(Wanted { provider: provider?, id, memory_mib })
}

/// Rates are in whole units of the currency, as people say them.
fn price(section: &mut Section<'_, '_>) -> Option<Price> {
    let currency = section
        .parse("currency", |text| text.parse::<Currency>().map_err(|error| error.to_string()));
    let rates = ["per_device_second", "per_gb"];
    let [per_device_second_micros, per_gb_micros] = rates.map(|key| rate(section, key));
    if let Some(key) = rates.into_iter().find(|key| section.has(key))
        && !section.has("currency")
    {
        section.refuse(key, "in which currency? add currency = \"EUR\"".into());
    }
    let currency = currency?.to_string();
    Some(Price { currency, per_device_second_micros, per_gb_micros })
        .filter(|price| price.per_device_second_micros > 0 || price.per_gb_micros > 0)
}

/// A rate in millionths; 0 where it is absent or wrong.
fn rate(section: &mut Section<'_, '_>, key: &'static str) -> u64 {
    let Some(rate) = section.get::<f64>(key) else { return 0 };
    let micros = rate * 1e6;
    let whole = format!("{:.0}", micros.round()).parse();
    let reason = if !(0.0..=RATE_MAX).contains(&rate) {
        // Not a number is in no range.
        format!("{rate} is not a number from 0 to {RATE_MAX}; leave it out to ask nothing")
    } else if (micros - micros.round()).abs() > 1e-3 {
        format!("{rate} has more than six decimal places, the finest that is counted")
    } else {
        return whole.expect("a whole number within the range");
    };
    section.refuse(key, reason);
    0
}

fn policy(section: &mut Section<'_, '_>, folder: &Path, groups: &Groups) -> PolicyConfig {
    let purposes: Vec<String> = section.get("purposes").unwrap_or_default();
    if purposes.len() > PURPOSES_MAX {
        section.refuse("purposes", format!("{} purposes; at most {PURPOSES_MAX}", purposes.len()));
    }
    if let Some(reason) = purposes.iter().find_map(|purpose| name(purpose).err()) {
        section.refuse("purposes", reason);
    }
    let files: Vec<String> = section.get("revocations").unwrap_or_default();
    if files.len() > HEADS_MAX || files.iter().any(String::is_empty) {
        section.refuse("revocations", format!("at most {HEADS_MAX} paths, none of them empty"));
    }
    let hours = bounded(section, "revocations_max_age_h", 0..=REVOCATIONS_AGE_H_MAX).unwrap_or(0);
    let hours = u64::try_from(hours).expect("a few thousand");
    PolicyConfig {
        purposes: purposes.into_iter().collect(),
        revocations: files.iter().map(|file| folder.join(file)).collect(),
        revocations_age_max: (hours > 0).then(|| Duration::from_secs(hours * 3_600)),
        max_price: section
            .parse("max_price", |text| text.parse::<Amount>().map_err(|error| error.to_string())),
        serve: section.table("serve", |section| bounds(section, groups)),
        send: section.table("send", |section| bounds(section, groups)),
    }
}

/// The same words, read by the same parser, as the constraints of a request.
fn bounds(section: &mut Section<'_, '_>, groups: &Groups) -> Bounds {
    let mut set = |key: &'static str, constraint: &str| {
        let read = |text: &str| {
            let mut demand = Demand::default();
            let set = demand.set(constraint, text, groups);
            set.map(|()| demand.policy.bounds).map_err(|error| error.to_string())
        };
        section.parse(key, read).unwrap_or_default()
    };
    let locations = set("locations", "locations").locations;
    let control = set("control", "control").control;
    let operators = set("operators", "operators").operators;
    let authorities: Clause<String> = set("authorities", "operators").operators;
    let data_classes = set("data_classes", "data_class").data_classes;
    let signatures_min =
        bounded(section, "signatures_min", 0..=SIGNATURES_ASKED_MAX.into()).unwrap_or(0);
    Bounds {
        locations,
        control,
        operators,
        authorities,
        signatures_min: u8::try_from(signatures_min).expect("16 at most"),
        data_classes,
    }
}

/// A receipt says who the node is by its charter: without one there are none.
fn audit(
    section: &mut Section<'_, '_>,
    folder: &Path,
    data_dir: &Path,
    has_charter: bool,
) -> AuditConfig {
    let receipts = section.parse("receipts", |text| match text {
        "off" => Ok(Receipts::Off),
        "batched" | "each" if !has_charter => Err(format!(
            "`{text}` needs a charter, which says whose receipts they are: set [identity] \
             charter_file, or leave this out"
        )),
        "batched" => Ok(Receipts::Batched),
        "each" => Ok(Receipts::Each),
        _ => Err(format!("`{text}` is not \"off\", \"batched\" or \"each\"")),
    });
    let default = if has_charter { Receipts::Batched } else { Receipts::Off };
    let receipts = receipts.unwrap_or(default);
    let dir = path(section, "dir", folder).unwrap_or_else(|| data_dir.join("audit"));
    let days = bounded(section, "retention_days", 0..=RETENTION_DAYS_MAX);
    let days = days.map_or(RETENTION_DAYS, |days| u32::try_from(days).expect("it is bounded"));
    let fail_closed = section.get("fail_closed").unwrap_or(false);
    if fail_closed && receipts == Receipts::Off {
        section.refuse("fail_closed", "receipts are off, so no job would ever run".into());
    }
    AuditConfig { receipts, dir, retention_days: days, fail_closed }
}

fn telemetry(root: &mut Section<'_, '_>) -> TelemetryConfig {
    root.table("telemetry", |section| {
        let default = TelemetryConfig::default();
        let log = section.parse("log", |text| match text.parse::<EnvFilter>() {
            Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
            Ok(_) => Err("is empty; `off` logs nothing".into()),
            Err(error) => {
                Err(format!("`{text}` is not a filter like `info,hansa_net=debug`: {error}"))
            }
        });
        let format = section.parse("format", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(format!("`{text}` is neither text nor json")),
        });
        section.unsupported("otlp");
        section.only("metrics", &true);
        TelemetryConfig {
            log: log.unwrap_or(default.log),
            format: format.unwrap_or(default.format),
        }
    })
}

/// Whether a text can be the name of a node, model or version.
pub(crate) fn name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.contains(char::is_control) {
        return Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes and no control characters"));
    }
    Ok(text.to_owned())
}

pub(super) fn path(
    section: &mut Section<'_, '_>,
    key: &'static str,
    folder: &Path,
) -> Option<PathBuf> {
    section.parse(key, |text| match text {
        "" => Err("is empty; a path is expected".into()),
        _ => Ok(folder.join(text)),
    })
}

fn secret(section: &mut Section<'_, '_>, key: &'static str, folder: &Path) -> Option<Secret> {
    section.parse(key, |text| match text.strip_prefix("env:") {
        Some("") => Err("names no environment variable after env:".into()),
        Some(variable) => Ok(Secret::Env(variable.to_owned())),
        None if text.is_empty() => Err("is empty; a path or env:NAME is expected".into()),
        None => Ok(Secret::File(folder.join(text))),
    })
}

pub(super) fn bounded(
    section: &mut Section<'_, '_>,
    key: &'static str,
    range: std::ops::RangeInclusive<u32>,
) -> Option<usize> {
    let number: u32 = section.get(key)?;
    if !range.contains(&number) {
        let reason = format!("{number} is not from {} to {}", range.start(), range.end());
        section.refuse(key, reason);
        return None;
    }
    Some(number as usize)
}
