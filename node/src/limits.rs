//! Every bound of the node in one place. The core's are in `hansa_core::limits`, the transports'
//! in `hansa_net::limits`, the models' in `hansa_runtime::limits`.

use std::time::Duration;

/// Events from the network that wait in the peer actor's mailbox.
pub const PEER_MAILBOX_MAX: usize = 256;
/// Restarts that the supervisor grants…
pub const RESTARTS_MAX: usize = 5;
/// …within this time.
pub const RESTARTS_WITHIN: Duration = Duration::from_secs(60);
/// A part that does not start again is tried so often…
pub const RESTART_ATTEMPTS_MAX: u32 = 25;
/// …with this pause between.
pub const RESTART_PAUSE: Duration = Duration::from_millis(200);
/// On SIGTERM, jobs in flight get this long to finish.
pub const DRAIN_MAX: Duration = Duration::from_secs(30);
/// How often devices are read anew.
pub const DEVICES_EVERY: Duration = Duration::from_secs(30);
/// An advert tells free memory in so many steps, so that it is signed anew only when it matters…
pub const ADVERT_MEMORY_STEPS: u32 = 10;
/// …and a device's load in steps of so many percent.
pub const ADVERT_LOAD_STEP_PERCENT: u8 = 25;
/// Largest request body after decompression, and largest job on the data plane, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 30;
/// Largest body of a request to generate, whose JSON is held as values, in bytes.
pub const GENERATE_BODY_BYTES_MAX: usize = 16 << 20;
/// What a compressed body may become in any case, in bytes…
pub const UNPACKED_BYTES_FREE: usize = 16 << 20;
/// …and beyond that, how many bytes may come of each that was sent. Text and tensors stay far
/// below; a bomb of zeros has a thousand.
pub const UNPACKING_RATIO_MAX: usize = 100;
/// JSON of more bytes is read and written beside the threads that carry the network.
pub const AT_ONCE_BYTES_MAX: usize = 64 << 10;
/// Open HTTP connections.
pub const HTTP_CONNECTIONS_MAX: usize = 4_096;
/// A client must have sent its request's headers within this time, also between requests.
pub const HTTP_HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// A body that stands still for this long is given up.
pub const HTTP_BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests of one gRPC stream that are worked on at once, of those that are answered once and of those
/// that are answered step by step each. The next of the former waits on the wire, of the latter it is
/// refused.
pub const GRPC_STREAM_IN_FLIGHT_MAX: usize = 64;
/// Requests of one HTTP/2 connection that are worked on at once.
pub const HTTP2_STREAMS_MAX: u32 = 1_024;
/// A TLS handshake that takes longer is given up.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Signatures of other peers' bundles that are kept.
pub const SIGNATURES_MAX: usize = 1_024;
/// Largest encoded signature of a bundle, in bytes.
pub const SIGNATURE_BYTES_MAX: usize = 1 << 20;
/// Bundles whose tokenizers are kept; and whose labels…
pub const SAID_MAX: usize = 16;
/// …as long as their files have no more than these bytes together, unless one alone has more.
pub const SAID_BYTES_MAX: u64 = 256 << 20;
/// Bundles whose tokenizers, or labels, are fetched and read at once; others wait.
pub const SAID_FETCHES_MAX: usize = 4;
/// Largest body of a request to embed, in bytes.
pub const EMBED_BODY_BYTES_MAX: usize = 32 << 20;
/// Most texts of one request to embed, as OpenAI has it…
pub const EMBED_TEXTS_MAX: usize = 2_048;
/// …and most tokens of all of them together.
pub const EMBED_TOKENS_MAX: usize = 1 << 20;
/// Jobs of one request to embed that are in the air at once.
pub const EMBED_JOBS_MAX: usize = 4;
/// Making tokens of a byte of text takes as long as reading so many bytes of JSON.
pub const TOKENIZING_FACTOR: usize = 32;
/// Receipts that the header of one answer names; the body names all.
pub const RECEIPTS_TOLD_MAX: usize = 64;
/// A peer takes its answer within this, or the answer is reset.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Asking a holder for a signature may take this long.
pub const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Deliveries of one job in stages that wait to be taken in.
pub const DELIVERIES_MAX: usize = 16;
/// Largest encoded quote, in bytes.
pub const QUOTE_BYTES_MAX: usize = 64;
/// Telling a peer that its quote is declined may take this long.
pub const DECLINE_TIMEOUT: Duration = Duration::from_secs(2);
/// Asks for chunks of bundles that are read and not yet sent, over all peers, each of 4 MiB at
/// most; one more is refused as busy.
pub const CHUNK_READS_MAX: usize = 64;
/// Bundles that are pulled at once; one more is refused as busy.
pub const PULLS_MAX: usize = 4;
/// Pulls that failed and are shown until somebody tries again; the oldest digest gives way.
pub const PULLS_SHOWN_MAX: usize = 64;
/// Peers that one bundle is pulled from at once, the nearest…
pub const PULL_HOLDERS_MAX: usize = 8;
/// …with so many asks in flight to each: one is on the way while another is on the disk.
pub const PULL_ASKS_MAX: usize = 3;
/// A holder that was lost so often is not asked again for this bundle.
pub const PULL_LOSSES_MAX: u32 = 3;
/// A holder that is busy is asked again at most so often in a row.
pub const PULL_BUSY_MAX: u32 = 60;
/// How often a pull looks for holders that came since.
pub const PULL_LOOK_EVERY: Duration = Duration::from_secs(1);
/// A peer without work asks for what another has not delivered within this time.
pub const PULL_PATIENCE: Duration = Duration::from_secs(2);
/// A holder tells a manifest, or an ask's chunks, within this: 4 MiB at 70 kB/s.
pub const PULL_ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// A bundle that the config names and nobody gives is asked for again after this…
pub const PULL_AGAIN_FIRST: Duration = Duration::from_millis(500);
/// …twice as long each time, and this at most.
pub const PULL_AGAIN_MAX: Duration = Duration::from_secs(60);
/// How often a node looks at what is wanted of it.
pub const PLACED_EVERY: Duration = Duration::from_secs(1);
/// How often a node looks whether what it keeps fits somebody.
pub const KEPT_LOOK_EVERY: Duration = Duration::from_secs(3);
/// Jobs that wait for one model of this node unless its config says otherwise; one more is refused
/// as busy.
pub const ENGINE_QUEUE: usize = 1_024;
/// A client that finds a model busy is told to come back after this, in ms.
pub const BUSY_RETRY_MS: u32 = 1_000;
/// Most who listen to events at once.
pub const LISTENERS_MAX: usize = 64;
/// Changes are looked for this often while somebody listens.
pub const EVENTS_EVERY: Duration = Duration::from_millis(250);
/// Who listens hears something at least this often, so that nobody between closes the connection.
pub const EVENTS_SILENCE_MAX: Duration = Duration::from_secs(10);
/// What waits for the log's thread, such as receipts that must outlive a loss of power; one more is
/// refused.
pub const AUDIT_QUEUE_MAX: usize = 16_384;
/// Most bytes of an input of texts that are read from shared memory.
pub const SHARED_TEXT_BYTES_MAX: u64 = 64 << 20;
/// Regions of shared memory that apps may register.
pub const REGIONS_MAX: usize = 1_024;
/// Sequences of requests that are under way at this entry…
pub const SEQUENCES_MAX: usize = 4_096;
/// …each with a state of so many bytes at most…
pub const SEQUENCE_STATE_BYTES_MAX: usize = 256 << 10;
/// …and forgotten after this without a request.
pub const SEQUENCE_IDLE_MAX: Duration = Duration::from_secs(60);
/// Traces are written until their file has so many bytes.
pub const TRACE_FILE_BYTES_MAX: u64 = 1 << 30;
/// The mesh is told within this of a model that is served from now on, or no more.
pub const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// After that, jobs may still run so long on a model that is served no more: those that were on
/// their way to it, and those of peers that have not heard yet.
pub const RETIRED_FOR: Duration = Duration::from_secs(15);
/// Most models of a repository's folder.
pub const REPOSITORY_MODELS_MAX: usize = 1_024;
/// Most files of a version of one of them.
pub const REPOSITORY_FILES_MAX: usize = 4_096;
/// The largest values of an output as text, with their names, in bytes: a small output may have long
/// names.
pub const CLASSES_BYTES_MAX: usize = 64 << 20;
/// Models that statistics are kept of.
pub const STATISTICS_MAX: usize = 1_024;
/// Receipts go to the disk in batches of this many bytes at most, and one receipt more.
pub const AUDIT_BATCH_BYTES_MAX: usize = 4 << 20;
/// Receipts that are kept and not yet in their tiles, in bytes: when tiles cannot be written, more
/// are refused.
pub const AUDIT_UNSETTLED_BYTES_MAX: usize = 64 << 20;
/// Room that is kept for receipts on their way to their tiles once they are there: a second's worth at
/// twenty thousand a second.
pub const AUDIT_SPARE_BYTES_MAX: usize = 16 << 20;
/// How often a log that changes is verified before that is said.
pub const AUDIT_VERIFY_TRIES_MAX: usize = 5;
/// A checkpoint covers what was kept within this.
pub const AUDIT_CHECKPOINT_EVERY: Duration = Duration::from_secs(1);
/// The newest receipts, which are found by their job at once.
pub const AUDIT_RECENT_MAX: usize = 65_536;
/// Peers are asked to cosign this often, when there is something new.
pub const COSIGN_EVERY: Duration = Duration::from_secs(10);
/// A cosigner is given this long.
pub const COSIGN_TIMEOUT: Duration = Duration::from_secs(3);
/// So many are asked each time.
pub const COSIGNERS_ASKED: usize = 2;
/// Longest answer of a cosigner, in bytes.
pub const COSIGNED_BYTES_MAX: usize = 16 * 1024;
/// Old receipts are looked for this often.
pub const AUDIT_RETAIN_EVERY: Duration = Duration::from_secs(3_600);
/// Counters of usage at hand, by charter and bundle.
pub const USAGE_LABELS_MAX: usize = 4_096;
/// Defects that a verification lists.
pub const AUDIT_DEFECTS_MAX: usize = 100;
/// Largest file of authorities, in bytes.
pub const AUTHORITIES_BYTES_MAX: u64 = 1 << 20;
/// The files of the law are looked at so often.
pub const LAW_LOOK_EVERY: Duration = Duration::from_secs(2);
/// Most files of kept lists of revocations that are read at a start.
pub const LISTS_KEPT_MAX: usize = 1_024;
/// Whether the connections with this node's relays stand is looked at this often.
pub const RELAYS_EVERY: Duration = Duration::from_millis(250);
/// Whether they relay is tried this often…
pub const RELAYS_TRIED_EVERY: Duration = Duration::from_secs(5);
/// …and who has failed so often in a row is replaced: gossip needs a moment to tell it that it is one.
pub const RELAY_FAILURES: u32 = 3;
/// A connected peer of which nothing is known yet is asked for an echo so often.
pub const ECHO_EVERY: Duration = Duration::from_millis(250);
/// Most peers that are dialled at once to be measured…
pub const MEASURED_AT_ONCE: usize = 4;
/// …as long as fewer than this are measured.
pub const MEASURED_MAX: usize = 1_024;
