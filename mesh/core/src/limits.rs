//! Every bound of the core in one place. Whatever has a size has a limit here, and full means a
//! typed refusal, never growth. Bounds of the transports are in `hansa-net`, of models in
//! `hansa-runtime`.

use std::time::Duration;

/// Largest encoded gossip frame, in bytes. A join sends its directory in chunks below this.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Largest signed advert, in bytes.
pub const ADVERT_BYTES_MAX: usize = 4 * 1024;
/// Largest charter (a signed note), in bytes.
pub const CHARTER_BYTES_MAX: usize = 2 * 1024;
/// Largest encoded job or answer header, in bytes.
pub const HEADER_BYTES_MAX: usize = 64 * 1024;
/// Most peers that a directory holds; an advert of one more is refused.
pub const PEERS_MAX: usize = 65_536;
/// Most addresses of one plane that an advert names.
pub const ADVERT_ADDRS_MAX: usize = 8;
/// Most models that an advert offers.
pub const ADVERT_MODELS_MAX: usize = 64;
/// Most bundles whose files an advert lists.
pub const HOLDINGS_MAX: usize = 32;
/// Most stages that a chain has.
pub const STAGES_MAX: usize = 16;
/// Most devices that an advert names.
pub const ADVERT_DEVICES_MAX: usize = 16;
/// Longest name of a peer, model, operator or tensor, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
/// An advert older than this (by its own signed time) is not taken, and a held one has lapsed.
pub const ADVERT_LIFETIME: Duration = Duration::from_secs(1_800);
/// A peer signs a fresh advert at least this often.
pub const ADVERT_REFRESH: Duration = Duration::from_secs(600);
/// An advert signed further ahead of our clock than this is refused.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);
/// Most distinct values in one clause of a policy.
pub const POLICY_VALUES_MAX: usize = 512;
/// Most distinct values in one clause of a policy that travels: the app's own, narrowed by every
/// node that sent it.
pub const NARROWED_VALUES_MAX: usize = POLICY_VALUES_MAX * (1 + HOPS_MAX as usize);
/// Most authorities that a policy may want to have signed a charter.
pub const SIGNATURES_ASKED_MAX: u8 = 16;
/// Most inputs or outputs of a job.
pub const TENSORS_MAX: usize = 256;
/// Highest rank of a tensor.
pub const RANK_MAX: usize = 16;
/// Most peers that one job visits after its entry.
pub const HOPS_MAX: u8 = 4;
/// Hops that a job is given when its policy names none.
pub const HOPS_DEFAULT: u8 = 2;
/// A job that names no deadline gets this.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(30);
/// The longest deadline that a job may name.
pub const DEADLINE_MAX: Duration = Duration::from_secs(3_600);
/// Most attempts of one job, the first included.
pub const ATTEMPTS_MAX: u8 = 8;
/// Most optional or critical extensions on one frame or header.
pub const EXTENSIONS_MAX: usize = 16;
/// Bundles of one peer whose service times are remembered.
pub const BUNDLES_MEASURED_MAX: usize = 256;
/// Candidates that the planner compares for one job: all that are permitted, or if there are more…
pub const CANDIDATES_MAX: usize = 16;
/// …this many drawn by capacity, and the nearest.
pub const CANDIDATES_DRAWN: usize = 12;
/// Gate verdicts that a snapshot remembers, by policy and bundle.
pub const VERDICTS_MAX: usize = 256;
/// Most adverts, and most accusations, and most leaves, that one gossip frame carries.
pub const FRAME_NEWS_MAX: usize = 512;
/// Most peers that one digest, announcement or pull names: at 17 bytes each at most they fit a
/// frame, the numbers of all buckets beside them.
pub const FRAME_PEERS_MAX: usize = 3_500;
/// Most tombstones that a directory keeps; the oldest gives way.
pub const GRAVES_MAX: usize = PEERS_MAX;
/// Most accusations against one advert that a directory holds; a few convince, more add nothing.
pub const ACCUSATIONS_MAX: usize = 3;
/// Most strangers whose accusations of a directory's own peer wait for their adverts.
pub const DOUBTERS_MAX: usize = 64;
/// Most probes under way at once, own ones and those for others together.
pub const PROBES_MAX: usize = 1_024;
/// Most peers that a directory pulls records of at once; the others come with the next
/// anti-entropy.
pub const PULLS_MAX: usize = PEERS_MAX;
/// Most peers that are announced at once; adverts beyond are left to anti-entropy.
pub const ANNOUNCEMENTS_MAX: usize = 8_192;
/// Where so many are announced already, accusations are not: a few convince, and where a third of the
/// mesh is cut off everybody accuses all of it.
pub const ACCUSED_ANNOUNCEMENTS_MAX: usize = 512;
/// Most shards that a peer subscribes to.
pub const SHARDS_MAX: usize = 16;
/// Most connected peers without an address that a directory counts among its neighbours.
pub const WARDS_MAX: usize = 64;
/// A peer that cannot be dialled names so many that it keeps connections to.
pub const RELAYS: usize = 3;
/// A peer that did not relay is not asked to for so long.
pub const UNFIT_RELAY: Duration = Duration::from_secs(600);
/// Most peers that are told of a leave by the leaver itself.
pub const FAREWELLS_MAX: usize = 64;
/// Most soft reservations that an executor holds; a quote beyond them reserves nothing.
pub const RESERVATIONS_MAX: usize = 4_096;
/// Most peers that one batch is spread over.
pub const SHARDS_PER_BATCH_MAX: usize = 8;
/// Most peers that are asked for a quote for one job.
pub const QUOTES_ASKED_MAX: usize = 8;
/// Most chunks of a bundle, of 1 MiB each, that are asked for at once.
pub const CHUNKS_ASKED_MAX: u32 = 4;
/// Most bundles for which a peer says that demand is unmet.
pub const WANTS_MAX: usize = 8;
/// Most bundles that a peer says it is about to serve.
pub const PLEDGES_MAX: usize = 4;
/// Largest encoding of what an advert tells of demand, in bytes.
pub const NOTICE_BYTES_MAX: usize = 1_024;
/// Most wants for one bundle that a peer looks at: the largest.
pub const WANTS_HEARD_MAX: usize = 64;
/// Most pairs of bundle and law whose demand an entry counts.
pub const DEMANDS_MAX: usize = 256;
/// Most bundles whose use a peer counts.
pub const USES_MAX: usize = 256;
/// Most laws that a holder remembers of the jobs for one bundle.
pub const LAWS_MAX: usize = 32;
/// Most bundles that a peer begins to hold in a minute by its own decision…
pub const MOVES_A_MINUTE_MAX: usize = 4;
/// …and most bytes, unless it is one bundle.
pub const HELD_BYTES_A_MINUTE_MAX: u64 = 64 << 30;
/// Largest receipt, in bytes: below what an entry of a log can be, 64 KiB.
pub const RECEIPT_BYTES_MAX: usize = 32 * 1024;
/// Most parts (shares, stages, retries, hedges) that one receipt lists.
pub const PARTS_MAX: usize = 64;
/// Most charters of cosigners that a proof carries.
pub const COSIGNERS_MAX: usize = 8;
/// Longest proof of a receipt, in bytes.
pub const PROOF_BYTES_MAX: usize = 128 * 1024;
/// Largest list of revocations (a signed note), in bytes: three fit a frame of gossip.
pub const REVOCATION_BYTES_MAX: usize = 16 * 1024;
/// Most serials that one list of revocations names.
pub const REVOKED_MAX: usize = 1_024;
/// Most lists of one authority and epoch that are looked at: there is to be one.
pub const DISPUTED_MAX: usize = 4;
/// Most lists of revocations that one frame of gossip brings.
pub const FRAME_LISTS_MAX: usize = 3;
/// Most lists of which one frame of gossip tells.
pub const HEADS_MAX: usize = 128;
/// Most purposes that a peer or a node names.
pub const PURPOSES_MAX: usize = 32;
/// Fewer echoes than this are no evidence of where a peer is.
pub const ECHOES_MIN: u32 = 10;
/// Most peers of which a directory keeps the fastest echo.
pub const ECHOED_MAX: usize = PEERS_MAX;
