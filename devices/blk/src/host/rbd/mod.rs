//! A disk in a Ceph cluster, by librbd.
//!
//! Requests are given to the library as they come, and finished on its own threads. It moves data between guest memory
//! and its sockets: a chain is kept, and with it the memory, until the library has called back. What is lost on the way
//! to the cluster it asks again by itself, until `rados_osd_op_timeout` is over.
//!
//! The cluster is trusted with the disk's content, and librbd with this process.
#![allow(unsafe_code)] // calls into a C library

mod ffi;

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use outboard_device::defs::blk::SECTOR_SIZE;
use outboard_device::{DeviceError, Durability};

use super::Shape;
use super::image::remote::Remote;
use super::store::{Job, Store, Task};
use crate::options::BlkOptions;

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
    // In the order in which they are closed.
    image: Image,
    _pool: Pool,
    _cluster: Cluster,
    shape: Shape,
    /// How long a request may wait.
    timeout: Duration,
    /// Nobody waits for reads any more.
    closed: AtomicBool,
}

struct Image(ffi::Image);
struct Pool(ffi::Pool);
struct Cluster(ffi::Rados);

// SAFETY: librbd and librados lock for themselves: an image may be used by any number of threads (librbd.h).
unsafe impl Send for Rbd {}
// SAFETY: as above.
unsafe impl Sync for Rbd {}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: open since it was made; nothing is under way: each request holds its disk.
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
        Ok(Self { image, _pool: pool, _cluster: cluster, shape, timeout, closed })
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
        let room = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let owner = Owner::Read { data: vec![0; len], room, sender };
        begin(self.image.0, Request { owner, task: Task::Read { offset }, flushing: false });
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
        self.image.size()
    }

    fn knows_its_size(&self) -> bool {
        true
    }

    fn sync(&self) -> io::Result<()> {
        let (sender, receiver) = sync_channel(1);
        begin(self.image.0, Request { owner: Owner::Call(sender), task: Task::Sync, flushing: false });
        receiver.recv().unwrap_or_else(|_| Err(io::ErrorKind::NotConnected.into()))
    }

    fn submit(&self, job: Job) {
        let task = job.task;
        begin(
            self.image.0,
            Request { owner: Owner::Job { job, image: self.image.0 }, task, flushing: false },
        );
    }
}

/// What the library holds of a request.
struct Request {
    owner: Owner,
    task: Task,
    /// A write is done and is being made stable.
    flushing: bool,
}

enum Owner {
    /// The image is open as long as a handler waits for its job.
    Job {
        job: Job,
        image: ffi::Image,
    },
    Call(SyncSender<io::Result<()>>),
    /// Who reads waits, so the image is open.
    Read {
        data: Vec<u8>,
        /// Where that is: [`begin`] fills it in.
        room: libc::iovec,
        sender: SyncSender<io::Result<Vec<u8>>>,
    },
}

impl Request {
    fn finish(self, result: io::Result<()>) {
        match self.owner {
            Owner::Job { mut job, .. } => {
                if let (Ok(()), Some(chain)) = (&result, job.chain()) {
                    match self.task {
                        Task::Read { .. } => chain.advance_writable(chain.writable_len()),
                        Task::Write { .. } => chain.advance_readable(chain.readable_len()),
                        _ => {}
                    }
                }
                job.finish(result);
            }
            // Who called waits for it.
            Owner::Call(sender) => drop(sender.send(result)),
            Owner::Read { data, sender, .. } => drop(sender.send(result.map(|()| data))),
        }
    }

    fn image(&self) -> Option<ffi::Image> {
        match &self.owner {
            Owner::Job { image, .. } => Some(*image),
            Owner::Call(_) | Owner::Read { .. } => None,
        }
    }
}

/// Gives a request to the library, which calls [`ended`] for it.
fn begin(image: ffi::Image, request: Request) {
    let (task, flushing) = (request.task, request.flushing);
    let mut pieces: (*const libc::iovec, usize) = (ptr::null(), 0);
    let mut request = Box::new(request);
    match &mut request.owner {
        Owner::Job { job, .. } => {
            if let Some(chain) = job.request() {
                let slice =
                    if matches!(task, Task::Read { .. }) { chain.writable() } else { chain.readable() };
                pieces = (slice.as_ptr(), slice.len());
            }
        }
        Owner::Read { data, room, .. } => {
            *room = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: data.len() };
            pieces = (&raw const *room, 1);
        }
        Owner::Call(_) => {}
    }
    let count = c_int::try_from(pieces.1).unwrap_or(c_int::MAX);
    let request = Box::into_raw(request).cast::<c_void>();
    let mut completion = ptr::null_mut();
    // SAFETY: `ended` takes the request back, once; `completion` has room for the result.
    let made = unsafe { ffi::rbd_aio_create_completion(request, ended, &raw mut completion) };
    // SAFETY: the image is open as long as requests are under way. The pieces are those of the chain in the request,
    // which moves neither them nor the slice while it is in its box, or the one in the box itself; readable ones are
    // only read, writable ones lie in guest memory, to which no Rust reference exists, or in the request's own buffer,
    // which nobody touches meanwhile. The library keeps no pointer after it has called back.
    let taken = unsafe {
        match task {
            _ if made < 0 => made,
            _ if flushing => ffi::rbd_aio_flush(image, completion),
            Task::Read { offset } => ffi::rbd_aio_readv(image, pieces.0, count, offset, completion),
            Task::Write { offset, .. } => ffi::rbd_aio_writev(image, pieces.0, count, offset, completion),
            Task::WriteZeroes { offset, len } | Task::Zero { offset, len, .. } => {
                let thick = !matches!(task, Task::Zero { unmap: true, .. });
                let flags = if thick { ffi::THICK } else { 0 };
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                ffi::rbd_aio_write_zeroes(image, offset, len, completion, flags, 0)
            }
            Task::Discard { offset, len } => ffi::rbd_aio_discard(image, offset, len, completion),
            Task::Sync => ffi::rbd_aio_flush(image, completion),
        }
    };
    if taken < 0 {
        // SAFETY: the library did not take it, so it will not call back: the box is ours again, and the completion, if
        // there is one, is not in use.
        let request = unsafe {
            if made >= 0 {
                ffi::rbd_aio_release(completion);
            }
            Box::from_raw(request.cast::<Request>())
        };
        request.finish(Err(errno(taken)));
    }
}

/// A request is over: called by the library, on a thread of its own.
unsafe extern "C" fn ended(completion: ffi::Completion, request: *mut c_void) {
    // SAFETY: the completion is over; it is released once, here. The request is the box that `begin` gave away, and
    // this is called once for it.
    let (result, mut request) = unsafe {
        let result = ffi::rbd_aio_get_return_value(completion);
        ffi::rbd_aio_release(completion);
        (result, Box::from_raw(request.cast::<Request>()))
    };
    let result = c_int::try_from(result).unwrap_or(0);
    let stable = matches!(request.task, Task::Write { durability: Durability::Synchronous, .. });
    match request.image() {
        Some(image) if result >= 0 && stable && !request.flushing => {
            request.flushing = true;
            begin(image, *request);
        }
        _ => request.finish(check(result)),
    }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(errno(result)) } else { Ok(()) }
}

fn errno(result: c_int) -> io::Error {
    io::Error::from_raw_os_error(result.saturating_neg())
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
