//! A disk on an NBD server.
//!
//! Theory of operation. A [`Link`](link::Link) is one connection with its thread, for one queue if the server says
//! that connections see each other's writes, else for all. A queue's worker writes its request to the socket itself if
//! nothing else is under way; otherwise the link's thread sends what has come together, with one system call. That
//! thread receives all replies. Data goes between the socket and guest memory without a copy where that saves more than
//! the system calls cost, and there is no TLS.
//!
//! When the connection ends, for whatever reason, another thread dials, and all that was not answered is asked again,
//! in its order: a request is one for reading, writing or zeroing a place of the disk, and can be repeated. What waits
//! longer than the user allows fails.
//!
//! The server is trusted with the disk's content and nothing else: what it says is checked by `outboard_nbd`, and what
//! is wrong ends the connection.

mod dial;
mod link;
mod patient;
mod pending;
mod receive;
mod state;
mod transfer;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use outboard_device::{DeviceError, Patience};
use outboard_nbd::{Export, Uri};

use super::Shape;
use super::image::remote::Remote;
use super::store::{Job, Store, Task};
use crate::options::BlkOptions;
use dial::Dialer;
use link::Link;
use pending::{Answer, Call, Owner};

/// Larger blocks cannot be shown to guests.
const MAX_BLOCK: u32 = 4096;
/// How long the first connection may take, in all.
const OPEN: Duration = Duration::from_secs(10);

/// The disk.
pub(crate) struct Nbd {
    shape: Shape,
    facts: Arc<Facts>,
    first: Link,
    /// Those of the queues from the second on, if the server lets them have their own.
    others: Vec<OnceLock<Option<Link>>>,
}

/// What all links of a disk go by.
pub(super) struct Facts {
    dialer: Dialer,
    /// As it was at first.
    export: Export,
    /// As far as the server told last, in bytes.
    size: AtomicU64,
    /// What the guest was told.
    block: u32,
    /// The guest writes.
    writable: bool,
    /// Queues have connections of their own.
    shares: bool,
    /// How long a request may wait.
    timeout: Duration,
}

impl Facts {
    /// For messages.
    fn uri(&self) -> &Uri {
        self.dialer.uri()
    }

    /// Whether an export can take the place of the one that the disk began with. It may have grown.
    fn accept(&self, export: &Export) -> Result<(), String> {
        let size = self.size.load(Ordering::Relaxed);
        if export.size < size {
            return Err(format!("the export has {} bytes, it had {size}", export.size));
        }
        if export.minimum_block > self.block {
            return Err(format!("the export has blocks of {} bytes now", export.minimum_block));
        }
        if self.writable && export.is_read_only() {
            return Err("the export is read-only now".to_owned());
        }
        if self.writable {
            let fua = self.export.can_fua() && !export.can_fua();
            if !export.can_flush() && (self.export.can_flush() || fua) {
                return Err("the server could make writes stable, and cannot flush now".to_owned());
            }
            // A flush on one would say nothing of what was written on another.
            if self.shares && !export.can_share() {
                return Err("the server's connections do not see each other's writes now".to_owned());
            }
        }
        if export.size > size {
            self.size.store(export.size, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl Nbd {
    /// Connects to the export.
    ///
    /// # Errors
    /// There is no such server or export, or it is not as the options want it.
    pub(crate) fn open(uri: &Uri, options: &BlkOptions) -> Result<Self, DeviceError> {
        let timeout = Duration::from_secs(options.nbd_timeout.into());
        let cannot = |what: String| DeviceError::Invalid(format!("cannot open {uri}: {what}"));
        let dialer = Dialer::new(uri.clone()).map_err(cannot)?;
        let first = dialer.dial(OPEN.min(timeout)).map_err(cannot)?;
        let shape = shape(&first.export, options).map_err(cannot)?;
        let block = options.block_size.unwrap_or(shape.logical_block);
        if !first.export.can_flush() && !options.read_only {
            tracing::warn!("{uri}: the server cannot flush: nothing is known of what is on stable storage");
        }
        let links = if first.export.can_share() { usize::from(options.num_queues) } else { 1 };
        let facts = Arc::new(Facts {
            dialer,
            export: first.export,
            size: AtomicU64::new(first.export.size),
            block,
            writable: !options.read_only,
            shares: links > 1,
            timeout,
        });
        let link = Link::start(Arc::clone(&facts), Some(first.stream))
            .map_err(|error| DeviceError::host("cannot start a thread for the connection", error))?;
        let others = std::iter::repeat_with(OnceLock::new).take(links - 1).collect();
        Ok(Self { shape, facts, first: link, others })
    }

    /// The connection for a queue. The first is there always, the others are made when they are needed.
    fn link(&self, queue: usize) -> &Link {
        let Some(place) = queue.checked_sub(1).and_then(|at| self.others.get(at)) else { return &self.first };
        let link = place.get_or_init(|| {
            Link::start(Arc::clone(&self.facts), None)
                .inspect_err(|error| tracing::warn!("no connection more to {}: {error}", self.facts.uri()))
                .ok()
        });
        link.as_ref().unwrap_or(&self.first)
    }

    /// Begins to do something on the first connection. A link answers always, in the time that the user allows: that it
    /// does not would be the end of its thread.
    fn call(&self, task: Task, data: Vec<u8>) -> Receiver<Answer> {
        let (answer, wait) = mpsc::sync_channel(1);
        self.first.submit(Owner::Call(Call { data, answer }), task);
        wait
    }
}

/// By a request of its own on the first connection.
impl Remote for Nbd {
    fn size(&self) -> u64 {
        self.shape.bytes - self.shape.bytes % u64::from(self.shape.logical_block)
    }

    fn block(&self) -> usize {
        self.shape.logical_block as usize
    }

    /// Who asks waits no longer than the user allows, and does not care what becomes of the request then.
    fn read(&self, offset: u64, len: usize, since: Instant) -> io::Result<Vec<u8>> {
        let left = (since + self.facts.timeout).saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let wait = self.call(Task::Read { offset }, vec![0; len]);
        let (result, data) = wait.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::ErrorKind::TimedOut,
            RecvTimeoutError::Disconnected => io::ErrorKind::NotConnected,
        })?;
        result.map(|()| data)
    }

    fn close(&self) {
        self.first.close();
    }
}

impl Store for Nbd {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.facts.size.load(Ordering::Relaxed))
    }

    fn knows_its_size(&self) -> bool {
        true
    }

    fn sync(&self, patience: &Patience<'_>) -> io::Result<()> {
        patience.wait(&self.call(Task::Sync, Vec::new()))?.0
    }

    fn submit(&self, mut job: Job) {
        let queue = job.chain().map_or(0, |chain| chain.queue().0.into());
        let task = job.task;
        self.link(queue).submit(Owner::Job(job), task);
    }
}

impl Drop for Nbd {
    fn drop(&mut self) {
        for link in self.others.iter().filter_map(|place| place.get()?.as_ref()).chain([&self.first]) {
            link.close();
        }
    }
}

/// How an export is shown to the guest.
fn shape(export: &Export, options: &BlkOptions) -> Result<Shape, String> {
    let block = export.minimum_block;
    if block > MAX_BLOCK {
        return Err(format!("the export has blocks of {block} bytes, guests know {MAX_BLOCK} at most"));
    }
    let logical_block = block.max(512);
    if let Some(wanted) = options.block_size
        && wanted < logical_block
    {
        return Err(format!("the export has blocks of {block} bytes (--block-size {wanted})"));
    }
    if export.is_read_only() && !options.read_only {
        return Err("the export is read-only (--read-only serves it, or --overlay or --snapshot)".to_owned());
    }
    if export.size < u64::from(logical_block) {
        return Err(format!(
            "the export has {} bytes: a disk has at least one block of {logical_block}",
            export.size
        ));
    }
    let preferred = export.preferred_block.max(logical_block);
    Ok(Shape {
        bytes: export.size,
        logical_block,
        physical_block: preferred.min(MAX_BLOCK),
        optimal_io: if preferred > MAX_BLOCK { preferred } else { 0 },
        discard: (export.can_trim() && !options.read_only).then_some(logical_block),
    })
}
