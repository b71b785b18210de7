//! System shared memory: the extension of the Open Inference Protocol by which an app of this machine
//! leaves inputs in a file of `/dev/shm` and finds outputs there, named in requests by a region that
//! it registered. CUDA's shared memory is not there; asking what is registered of it answers nothing.
//!
//! A region is read and written as a file, never mapped: a client that cuts it short gets an error and
//! not the node's death. Only an [`Operator`] registers one, since it names a file of the machine.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path as FilePath;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use bytes::Bytes;
use hansa_core::limits::NAME_BYTES_MAX;
use hansa_runtime::limits::TENSOR_BYTES_MAX;
use hansa_runtime::tensor::DType;
use serde::Deserialize;
use serde_json::{Value, json};

use super::models::Operator;
use super::v2::ApiError;
use crate::limits::{REGIONS_MAX, SHARED_TEXT_BYTES_MAX};
use crate::node::Node;

/// Where the system keeps shared memory, as POSIX's `shm_open` names it.
const FOLDER: &str = "/dev/shm";

/// What is registered, by name.
#[derive(Debug, Default)]
pub struct Regions(Mutex<BTreeMap<String, Region>>);

/// A stretch of a file that an app shares.
#[derive(Clone, Debug)]
pub struct Region {
    /// The file's name, as `shm_open` takes it.
    pub key: String,
    /// Where the region begins in it, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub byte_size: u64,
    file: Arc<File>,
}

/// Where in a region a tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the region.
    pub region: String,
    /// From its beginning, in bytes.
    pub offset: u64,
    /// Bytes of an input; room for an output.
    pub byte_size: u64,
}

impl Place {
    /// Takes out of a tensor's parameters where it lies, if it lies in a region.
    ///
    /// # Errors
    /// They are not of that form.
    pub fn take(parameters: &mut BTreeMap<String, Value>) -> Result<Option<Self>, String> {
        let Some(region) = parameters.remove("shared_memory_region") else { return Ok(None) };
        let Value::String(region) = region else {
            return Err(format!("shared_memory_region is {region}, not a name"));
        };
        let mut number = |key: &str| match parameters.remove(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(format!("{key} is {value}, not a number of bytes")),
            },
        };
        let byte_size = number("shared_memory_byte_size")?;
        let offset = number("shared_memory_offset")?.unwrap_or(0);
        let byte_size = byte_size.ok_or("shared_memory_region needs shared_memory_byte_size")?;
        Ok(Some(Self { region, offset, byte_size }))
    }

    /// Whether so many elements of an input can lie here: before anything is read.
    ///
    /// # Errors
    /// They take other room, or, as texts, more than a node reads.
    pub fn check(&self, dtype: DType, count: usize) -> Result<(), String> {
        let given = self.byte_size;
        match dtype.size().map(|size| (count as u64).saturating_mul(size as u64)) {
            Some(expected) if expected == given => Ok(()),
            Some(expected) => Err(format!("{given} bytes, but its shape makes {expected}")),
            None if given <= SHARED_TEXT_BYTES_MAX => Ok(()),
            None => {
                Err(format!("{given} bytes of BYTES; at most {SHARED_TEXT_BYTES_MAX} are read"))
            }
        }
    }
}

impl Regions {
    /// Registers a region. The name must be free, as with Triton.
    ///
    /// # Errors
    /// The name is taken, or the file is not there, not shared memory or too short.
    pub fn register(
        &self,
        name: String,
        key: String,
        offset: u64,
        byte_size: u64,
    ) -> Result<(), ApiError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let message = format!("a region's name has 1 to {NAME_BYTES_MAX} bytes");
            return Err(ApiError::malformed(message));
        }
        let fault = |reason: &str| ApiError::malformed(format!("shared memory `{key}`: {reason}"));
        let file = open(&key).map_err(|reason| fault(&reason))?;
        let length = file.metadata().map_err(|error| fault(&error.to_string()))?.len();
        if offset.checked_add(byte_size).is_none_or(|end| end > length) {
            let reason =
                format!("it has {length} bytes, the region would be {byte_size} from {offset} on");
            return Err(fault(&reason));
        }
        let mut regions = self.lock();
        if regions.contains_key(&name) {
            let message =
                format!("shared memory region `{name}` already in manager; unregister it first");
            return Err(ApiError::malformed(message));
        }
        if regions.len() >= REGIONS_MAX {
            let message = format!("{REGIONS_MAX} regions are registered, the most; unregister one");
            return Err(ApiError::new(StatusCode::CONFLICT, "too_many", message));
        }
        regions.insert(name, Region { key, offset, byte_size, file: file.into() });
        Ok(())
    }

    /// Forgets a region, or all. One that is not there is forgotten already.
    pub fn unregister(&self, name: Option<&str>) {
        let mut regions = self.lock();
        match name {
            Some(name) => drop(regions.remove(name)),
            None => regions.clear(),
        }
    }

    /// What is registered: one, which must be there, or all.
    ///
    /// # Errors
    /// It is not there.
    pub fn status(&self, name: Option<&str>) -> Result<Vec<(String, Region)>, ApiError> {
        let regions = self.lock();
        let Some(name) = name else {
            return Ok(regions
                .iter()
                .map(|(name, region)| (name.clone(), region.clone()))
                .collect());
        };
        let region = regions.get(name).cloned().ok_or_else(|| unknown(name))?;
        Ok(vec![(name.to_owned(), region)])
    }

    /// A tensor's bytes.
    ///
    /// # Errors
    /// There is no such region, or the tensor is not all in it.
    pub fn read(&self, place: &Place) -> Result<Bytes, ApiError> {
        let (region, from) = self.find(place)?;
        let size = usize::try_from(place.byte_size.min(TENSOR_BYTES_MAX + 1)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; size];
        region.file.read_exact_at(&mut bytes, from).map_err(|error| cut(place, &error))?;
        Ok(bytes.into())
    }

    /// Leaves an output where the app wants it.
    ///
    /// # Errors
    /// There is no such region, or the output needs more room than the app gave it.
    pub fn write(&self, place: &Place, data: &[u8]) -> Result<(), ApiError> {
        let (region, at) = self.find(place)?;
        if data.len() as u64 > place.byte_size {
            return Err(ApiError::malformed(format!(
                "the output has {} bytes, shared_memory_byte_size gives it {} of region `{}`",
                data.len(),
                place.byte_size,
                place.region
            )));
        }
        region.file.write_all_at(data, at).map_err(|error| cut(place, &error))
    }

    /// Whether there is such a place.
    ///
    /// # Errors
    /// There is no such region, or the place is not all in it.
    pub fn check(&self, place: &Place) -> Result<(), ApiError> {
        self.find(place).map(drop)
    }

    /// The region, and where in its file the place begins.
    fn find(&self, place: &Place) -> Result<(Region, u64), ApiError> {
        let region = self.lock().get(&place.region).cloned();
        let region = region.ok_or_else(|| unknown(&place.region))?;
        let end = place.offset.checked_add(place.byte_size);
        if end.is_none_or(|end| end > region.byte_size) {
            return Err(ApiError::malformed(format!(
                "region `{}` has {} bytes, the tensor would be {} from {} on",
                place.region, region.byte_size, place.byte_size, place.offset
            )));
        }
        let from = region.offset + place.offset;
        Ok((region, from))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Region>> {
        self.0.lock().expect("no holder panics")
    }
}

fn unknown(name: &str) -> ApiError {
    ApiError::malformed(format!("Unable to find shared memory region: '{name}'; register it first"))
}

fn cut(place: &Place, error: &std::io::Error) -> ApiError {
    ApiError::malformed(format!("shared memory region `{}`: {error}", place.region))
}

/// Opens a file of shared memory, and no other: no link, nothing outside the folder.
fn open(key: &str) -> Result<File, String> {
    let name = key.strip_prefix('/').unwrap_or(key);
    if name.is_empty() || name.contains('/') || name.starts_with('.') || name.contains('\0') {
        return Err("a key is a name as shm_open takes it, like /name".into());
    }
    let path = FilePath::new(FOLDER).join(name);
    let said = |error: std::io::Error| error.to_string();
    let found = path.symlink_metadata().map_err(said)?;
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(said)?;
    let opened = file.metadata().map_err(said)?;
    let is_same = (found.dev(), found.ino()) == (opened.dev(), opened.ino());
    if found.is_file() && is_same { Ok(file) } else { Err("it is not a file".into()) }
}

/// Whether nobody but this machine's apps could name a region: shared memory is theirs.
///
/// # Errors
/// A listener of the API can be reached from elsewhere.
pub(super) fn check_local(node: &Node) -> Result<(), ApiError> {
    let addrs = [Some(node.http_address()), node.grpc_address()];
    if addrs.into_iter().flatten().all(|addr| addr.ip().is_loopback()) {
        return Ok(());
    }
    let message = "shared memory is registered only where all of [api], http and grpc, listens on \
                   loopback";
    Err(ApiError::new(StatusCode::FORBIDDEN, "admin_only", message))
}

/// What is to be registered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

/// `POST /v2/systemsharedmemory/region/NAME/register`
pub async fn register(
    _: Operator,
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let wish: Wish = serde_json::from_slice(&body).map_err(|error| {
        ApiError::malformed(format!(
            "the body is not {{\"key\": \"/name\", \"offset\": 0, \"byte_size\": 64}}: {error}"
        ))
    })?;
    check_local(&node)?;
    node.regions.register(name, wish.key, wish.offset, wish.byte_size)?;
    Ok(StatusCode::OK)
}

/// `POST /v2/systemsharedmemory[/region/NAME]/unregister`
pub async fn unregister(
    _: Operator,
    State(node): State<Arc<Node>>,
    name: Option<Path<String>>,
) -> StatusCode {
    node.regions.unregister(name.as_deref().map(String::as_str));
    StatusCode::OK
}

/// `GET /v2/systemsharedmemory[/region/NAME]/status`
pub async fn status(
    State(node): State<Arc<Node>>,
    name: Option<Path<String>>,
) -> Result<Json<Value>, ApiError> {
    let regions = node.regions.status(name.as_deref().map(String::as_str))?;
    let row = |(name, region): &(String, Region)| {
        let Region { key, offset, byte_size, .. } = region;
        json!({ "name": name, "key": key, "offset": offset, "byte_size": byte_size })
    };
    Ok(Json(regions.iter().map(row).collect()))
}

/// `GET /v2/cudasharedmemory[/region/NAME]/status`: nothing is registered.
pub async fn no_cuda() -> Json<Value> {
    Json(json!([]))
}

/// `POST /v2/cudasharedmemory[/region/NAME]/unregister`: nothing was.
pub async fn forget_cuda() -> StatusCode {
    StatusCode::OK
}

/// `POST /v2/cudasharedmemory/region/NAME/register`
pub async fn refuse_cuda() -> ApiError {
    cuda()
}

/// What is said of CUDA's shared memory.
pub(super) fn cuda() -> ApiError {
    ApiError::unsupported(
        "CUDA shared memory is not supported; send the tensor, or register system shared memory",
    )
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A file of shared memory that goes with the test.
    struct Shared(String);

    impl Shared {
        fn of(name: &str, bytes: &[u8]) -> Self {
            let name = format!("hansa-test-{}-{name}", std::process::id());
            std::fs::write(FilePath::new(FOLDER).join(&name), bytes).unwrap();
            Self(name)
        }

        fn bytes(&self) -> Vec<u8> {
            std::fs::read(FilePath::new(FOLDER).join(&self.0)).unwrap()
        }
    }

    impl Drop for Shared {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(FilePath::new(FOLDER).join(&self.0));
        }
    }

    fn place(region: &str, offset: u64, byte_size: u64) -> Place {
        Place { region: region.into(), offset, byte_size }
    }

    #[test]
    fn tensors_are_read_and_written_where_the_region_lies() {
        let shared = Shared::of("rw", b"0123456789");
        let regions = Regions::default();
        regions.register("r".into(), format!("/{}", shared.0), 2, 6).unwrap();
        assert_eq!(&regions.read(&place("r", 1, 3)).unwrap()[..], b"345");
        regions.write(&place("r", 4, 2), b"ab").unwrap();
        assert_eq!(shared.bytes(), b"012345ab89");
        let (name, region) = regions.status(Some("r")).unwrap().remove(0);
        assert_eq!((&*name, region.offset, region.byte_size), ("r", 2, 6));
        regions.unregister(None);
        assert!(regions.status(None).unwrap().is_empty());
    }

    #[test]
    fn what_is_not_in_a_region_is_refused_with_the_reason() {
        let shared = Shared::of("bounds", &[0; 8]);
        let regions = Regions::default();
        let said = |outcome: Result<(), ApiError>| outcome.unwrap_err().to_string();
        let register =
            |key: &str, offset, size| said(regions.register("x".into(), key.into(), offset, size));
        for key in ["", "/", "../etc/passwd", "/a/b", "/.x", "/not-there"] {
            register(key, 0, 1);
        }
        assert!(register(&shared.0, 4, 5).contains("it has 8 bytes"));
        assert!(register(&shared.0, u64::MAX, 5).contains("it has 8 bytes"));
        regions.register("r".into(), shared.0.clone(), 0, 8).unwrap();
        let again = said(regions.register("r".into(), shared.0.clone(), 0, 8));
        assert!(again.contains("unregister it first"), "{again}");
        assert!(said(regions.read(&place("q", 0, 1)).map(drop)).contains("register it first"));
        assert!(said(regions.read(&place("r", 7, 2)).map(drop)).contains("has 8 bytes"));
        assert!(said(regions.read(&place("r", u64::MAX, 2)).map(drop)).contains("has 8 bytes"));
        assert!(said(regions.write(&place("r", 0, 1), &[0; 2])).contains("gives it 1"));
        // The client cuts it short afterwards.
        std::fs::write(FilePath::new(FOLDER).join(&shared.0), b"").unwrap();
        assert_eq!(regions.read(&place("r", 0, 8)).unwrap_err().status(), 400);
    }

    #[test]
    fn a_link_is_no_shared_memory() {
        let name = format!("hansa-test-{}-link", std::process::id());
        let path = FilePath::new(FOLDER).join(&name);
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        let refused = Regions::default().register("r".into(), name, 0, 1);
        std::fs::remove_file(path).unwrap();
        assert!(refused.unwrap_err().to_string().contains("not a file"));
    }

    #[test]
    fn parameters_name_a_place_or_are_refused() {
        let take =
            |parameters: Value| Place::take(&mut serde_json::from_value(parameters).unwrap());
        assert_eq!(take(json!({ "binary_data": true })).unwrap(), None);
        let whole = json!({ "shared_memory_region": "r", "shared_memory_byte_size": 8 });
        assert_eq!(take(whole).unwrap(), Some(place("r", 0, 8)));
        assert!(take(json!({ "shared_memory_region": "r" })).is_err());
        assert!(take(json!({ "shared_memory_region": 1, "shared_memory_byte_size": 8 })).is_err());
    }
}
