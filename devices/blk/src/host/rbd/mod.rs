//! A disk in a Ceph cluster, by librbd.
//!
//! Requests are given to the library as they come, and finished on its own threads. It moves data between guest memory
//! and its sockets: a chain is kept, and with it the memory, until the library has called back. What is lost on the way
//! to the cluster it asks again by itself, until `rados_osd_op_timeout` is over.
//!
//! The cluster is trusted with the disk's content, and librbd with this process.
#![allow(unsafe_code)] // calls into a C library

mod ffi;
mod request;

use std::ffi::{CString, c_int};
use std::io;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use outboard_device::defs::blk::SECTOR_SIZE;
use outboard_device::{DeviceError, Patience};

use super::Shape;
use super::image::remote::Remote;
use super::store::{Job, Store, Task};
use crate::options::BlkOptions;
use request::{Owner, Request, begin};

/// What librbd gives up at least, in bytes: less is left as it is (`rbd_discard_granularity_bytes`).
const GRANULARITY: u32 = 64 << 10;
/// How long the first contact with the cluster may take, in seconds.
const OPEN_SECONDS: &str = "10";

/// An image of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    pool: CString,
    namespace: Option<CString>,
    image: CString,
}

/// The disk.
pub(crate) struct Rbd {
    open: Arc<Open>,
    shape: Shape,
    /// How long a request may wait.
    timeout: Duration,
    /// Nobody waits for reads any more.
    closed: AtomicBool,
}

/// In the order in which they are closed.
struct Open {
    image: Image,
    _pool: Pool,
    _cluster: Cluster,
}

struct Image(ffi::Image);
struct Pool(ffi::Pool);
struct Cluster(ffi::Rados);

// SAFETY: librbd and librados lock for themselves: an image may be used by any number of threads (librbd.h).
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: open since it was made; nothing is under way: who waits for a request holds its disk.
        let failure = unsafe { ffi::rbd_close(self.0) };
        if failure < 0 {
            tracing::error!("cannot close the RBD image: {}", errno(failure));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: made by rados_ioctx_create, and the image in it is closed.
        unsafe { ffi::rados_ioctx_destroy(self.0) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // SAFETY: made by rados_create, and its pool is gone.
        unsafe { ffi::rados_shutdown(self.0) }
    }
}

impl Rbd {
    /// Opens `POOL[/NAMESPACE]/IMAGE`.
    ///
    /// # Errors
    /// There is no such cluster, pool or image, or it cannot be reached.
    pub(crate) fn open(name: &str, options: &BlkOptions) -> Result<Self, DeviceError> {
        let cannot = |what: &str| DeviceError::Invalid(format!("cannot open {name}: {what}"));
        let parsed =
            Name::parse(name).ok_or_else(|| cannot("POOL/IMAGE or POOL/NAMESPACE/IMAGE is expected"))?;
        let cluster = connect(options).map_err(|(what, error)| cannot(&format!("{what}: {error}")))?;
        let mut pool = ptr::null_mut();
        // SAFETY: the cluster is connected, the name is a C string, and `pool` has room for the result.
        check(unsafe { ffi::rados_ioctx_create(cluster.0, parsed.pool.as_ptr(), &raw mut pool) })
            .map_err(|error| cannot(&format!("the pool: {error}")))?;
        let pool = Pool(pool);
        if let Some(namespace) = &parsed.namespace {
            // SAFETY: the pool is open, and the name a C string.
            unsafe { ffi::rados_ioctx_set_namespace(pool.0, namespace.as_ptr()) };
        }
        let open = if options.read_only { ffi::rbd_open_read_only } else { ffi::rbd_open };
        let mut image = ptr::null_mut();
        // SAFETY: as for the pool; no snapshot is named.
        check(unsafe { open(pool.0, parsed.image.as_ptr(), &raw mut image, ptr::null()) })
            .map_err(|error| cannot(&format!("the image: {error}")))?;
        let image = Image(image);
        let (mut unit, bytes) = (0, image.size().map_err(|error| cannot(&error.to_string()))?);
        // SAFETY: the image is open, and `unit` has room for the result.
        check(unsafe { ffi::rbd_get_stripe_unit(image.0, &raw mut unit) })
            .map_err(|error| cannot(&error.to_string()))?;
        let shape = Shape {
            bytes,
            logical_block: 512,
            physical_block: 4096,
            optimal_io: u32::try_from(unit).unwrap_or(0),
            discard: (!options.read_only).then_some(GRANULARITY),
        };
        let timeout = Duration::from_secs(options.rbd_timeout.into());
        let closed = AtomicBool::new(false);
        let open = Arc::new(Open { image, _pool: pool, _cluster: cluster });
        Ok(Self { open, shape, timeout, closed })
    }
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/').map(|part| CString::new(part).ok().filter(|part| !part.is_empty()));
        let (pool, second, third) = (parts.next()??, parts.next()??, parts.next());
        if parts.next().is_some() {
            return None;
        }
        Some(match third {
            None => Self { pool, namespace: None, image: second },
            Some(image) => Self { pool, namespace: Some(second), image: image? },
        })
    }
}

/// Connects to the cluster of the configuration file: the given one, or where Ceph looks for it.
fn connect(options: &BlkOptions) -> Result<Cluster, (&'static str, io::Error)> {
    let no_name = |_| ("a name", io::ErrorKind::InvalidInput.into());
    let text = |text: &str| CString::new(text).map_err(no_name);
    let user = options.rbd_user.as_deref().map(text).transpose()?;
    let path = options
        .rbd_conf
        .as_ref()
        .map(|path| CString::new(path.as_os_str().as_encoded_bytes()).map_err(no_name))
        .transpose()?;
    let null = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    let mut cluster = ptr::null_mut();
    // SAFETY: `cluster` has room for the result; the id is a C string, or null for the usual one.
    check(unsafe { ffi::rados_create(&raw mut cluster, null(&user)) })
        .map_err(|error| ("librados", error))?;
    let cluster = Cluster(cluster);
    // SAFETY: the cluster was made; the path is a C string, or null for the usual ones.
    check(unsafe { ffi::rados_conf_read_file(cluster.0, null(&path)) })
        .map_err(|error| ("the configuration (--rbd-conf)", error))?;
    let timeout = options.rbd_timeout.to_string();
    for (option, value) in [
        ("client_mount_timeout", OPEN_SECONDS),
        ("rados_mon_op_timeout", timeout.as_str()),
        ("rados_osd_op_timeout", &timeout),
    ] {
        let (option, value) = (text(option)?, text(value)?);
        // SAFETY: the cluster was made; both are C strings.
        check(unsafe { ffi::rados_conf_set(cluster.0, option.as_ptr(), value.as_ptr()) })
            .map_err(|error| ("a time limit", error))?;
    }
    // SAFETY: the cluster was made and configured.
    check(unsafe { ffi::rados_connect(cluster.0) }).map_err(|error| ("the cluster", error))?;
    Ok(cluster)
}

impl Image {
    fn size(&self) -> io::Result<u64> {
        let mut size = 0;
        // SAFETY: the image is open, and `size` has room for the result.
        check(unsafe { ffi::rbd_get_size(self.0, &raw mut size) })?;
        Ok(size)
    }
}

impl Rbd {
    fn image(&self) -> ffi::Image {
        self.open.image.0
    }

    /// The image's name as QEMU writes it, with what has a meaning to it escaped.
    pub(super) fn recorded(name: &str) -> String {
        let mut recorded = "rbd:".to_owned();
        for character in name.chars() {
            if matches!(character, '\\' | ':' | '@' | '=') {
                recorded.push('\\');
            }
            recorded.push(character);
        }
        recorded
    }
}

impl Remote for Rbd {
    fn size(&self) -> u64 {
        self.shape.bytes - self.shape.bytes % SECTOR_SIZE
    }

    /// The library takes any length.
    fn block(&self) -> usize {
        1
    }

    /// The library may write to the room until it has called back, and that is what is waited for: it knows the time
    /// that the user allows (`rados_osd_op_timeout`).
    fn read(&self, offset: u64, len: usize, since: Instant) -> io::Result<Vec<u8>> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotConnected.into());
        }
        if since.elapsed() >= self.timeout {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let (sender, receiver) = sync_channel(1);
        begin(self.image(), Request::new(Owner::read(len, sender), Task::Read { offset }));
        receiver.recv().unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }

    /// What is under way ends with its time limit: the library cannot be told to leave it.
    fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

impl Store for Rbd {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The library is told by the cluster when it changes.
    fn size(&self) -> io::Result<u64> {
        self.open.image.size()
    }

    fn knows_its_size(&self) -> bool {
        true
    }

    /// If the program ends meanwhile, the image is left open: to close it is to wait for what is under way.
    fn sync(&self, patience: &Patience<'_>) -> io::Result<()> {
        let (sender, receiver) = sync_channel(1);
        begin(self.image(), Request::new(Owner::Call(sender), Task::Sync));
        patience.wait(&receiver).unwrap_or_else(|error| {
            std::mem::forget(Arc::clone(&self.open));
            Err(error)
        })
    }

    fn submit(&self, job: Job) {
        let (task, image) = (job.task, self.image());
        begin(image, Request::new(Owner::Job { job, image }, task));
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(errno(result)) } else { Ok(()) }
}

/// The library's errors. A time-out is its own and not the kernel's: see [`is_unanswered`](super::store::is_unanswered).
fn errno(result: c_int) -> io::Error {
    match result.saturating_neg() {
        libc::ETIMEDOUT => io::ErrorKind::TimedOut.into(),
        errno => io::Error::from_raw_os_error(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_that_is_recorded_is_escaped() {
        assert_eq!(Rbd::recorded("pool/space/disk"), "rbd:pool/space/disk");
        assert_eq!(Rbd::recorded(r"p:1/i@2=\"), r"rbd:p\:1/i\@2\=\\");
    }

    #[test]
    fn name_is_a_pool_perhaps_a_namespace_and_an_image() {
        let text = |text: &str| CString::new(text).unwrap();
        let plain = Name { pool: text("p"), namespace: None, image: text("i") };
        assert_eq!(Name::parse("p/i"), Some(plain.clone()));
        assert_eq!(Name::parse("p/n/i"), Some(Name { namespace: Some(text("n")), ..plain }));
        for wrong in ["", "p", "p/", "/i", "p//i", "p/n/", "p/n/i/x", "p\0/i"] {
            assert_eq!(Name::parse(wrong), None, "{wrong}");
        }
    }
}
