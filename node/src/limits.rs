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
/// A TLS handshake that takes longer is given up.
pub const TLS_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Signatures of other peers' bundles that are kept.
pub const SIGNATURES_MAX: usize = 1_024;
/// Largest encoded signature of a bundle, in bytes.
pub const SIGNATURE_BYTES_MAX: usize = 1 << 20;
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
/// Jobs that wait or run on one model of this node; one more is refused as busy.
pub const ENGINE_QUEUE_MAX: usize = 1_024;
/// A client that finds a model busy is told to come back after this, in ms.
pub const BUSY_RETRY_MS: u32 = 1_000;
