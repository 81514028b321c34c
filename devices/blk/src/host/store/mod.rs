//! Disks that are no file of the host: image formats, storage in the network, overlays.
//!
//! A [`Store`] is shared by all queues of its disk and answers from threads of its own: a handler gives it the request
//! itself, in a [`Job`], and goes on with the next. What stands behind a store is trusted with the data and nothing
//! else: it may be slow, fail, lie about lengths, or be gone.

mod flights;
mod pool;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use outboard_device::{Chain, Durability, Patience, Ticket};

use super::Shape;
use super::file::Alignment;

pub(crate) use flights::{Flight, Flights};
pub(crate) use pool::{Blocking, Pool, since};

/// A disk that answers from another thread.
pub(crate) trait Store: Send + Sync {
    /// What it is like.
    fn shape(&self) -> &Shape;

    /// What it measures now, in bytes. Called on the control thread: answers within moments.
    ///
    /// # Errors
    /// It cannot be told.
    fn size(&self) -> io::Result<u64>;

    /// Whether it learns by itself of another size, and tells it without asking anybody.
    fn knows_its_size(&self) -> bool {
        false
    }

    /// Makes what was written stable. Called on the control thread, while a front end waits.
    ///
    /// # Errors
    /// What was written may be lost: see [`is_loss`].
    fn sync(&self, patience: &Patience<'_>) -> io::Result<()>;

    /// Makes it so many bytes long, which the next sync makes stable. What is new reads as zeroes.
    ///
    /// # Errors
    /// It keeps its size, or cannot have that one.
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        let _ = bytes;
        let what = "its size is set where it is kept; resize without a size looks at it again";
        Err(io::Error::new(io::ErrorKind::Unsupported, what))
    }

    /// The files that [`Store::locate`] speaks of, for one queue.
    ///
    /// # Errors
    /// The process may have no more descriptors.
    fn files(&self) -> io::Result<Vec<Handles>> {
        Ok(Vec::new())
    }

    /// Where `len` bytes are that a queue may read or write itself, in one piece. Answers at once.
    fn locate(&self, offset: u64, len: u64, write: bool) -> Option<Spot> {
        let _ = (offset, len, write);
        None
    }

    /// Takes a request, and returns at once. It is finished in bounded time, whatever happens to the store.
    fn submit(&self, job: Job);
}

/// An error after which everything that was written is still there to be made stable.
#[derive(Debug)]
struct Kept(io::Error);

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Kept {}

/// Marks an error of a sync, or of a write that is made stable at once: nothing is lost by it, and it may be tried again.
pub(crate) fn kept(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), Kept(error))
}

/// Whether a sync that failed so may have lost data that the host will not mention again: it reports a failed
/// write-back once, and then counts those pages as clean.
pub(crate) fn is_loss(error: &io::Error) -> bool {
    let kept = error.get_ref().and_then(|inner| inner.downcast_ref::<Kept>()).is_some();
    !kept && !is_unanswered(error)
}

/// Whether nothing was heard in time of a disk elsewhere, or nobody waited any longer: no data is lost by that. What the
/// kernel calls a time-out is a write that failed on a device or a mount, which it tells of once.
pub(crate) fn is_unanswered(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
        && matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// A file, and the same past the page cache.
pub(crate) struct Handles {
    pub(crate) file: OwnedFd,
    pub(crate) direct: Option<(OwnedFd, Alignment)>,
}

/// Where data of a store is, and stays while the flight is under way.
pub(crate) struct Spot {
    /// Which of the store's files.
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) flight: Flight,
}

/// What a store is asked to do. Positions and lengths are in bytes, and within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Fill what is left of the chain's writable part.
    Read { offset: u64 },
    /// Take what is left of the chain's readable part.
    Write { offset: u64, durability: Durability },
    /// Write zeroes from the program's own memory.
    WriteZeroes { offset: u64, len: u64 },
    /// Make a range read as zeroes without writing them; `unmap` gives its storage up.
    Zero { offset: u64, len: u64, unmap: bool },
    /// Give the storage of a range up; it may read as anything afterwards.
    Discard { offset: u64, len: u64 },
    /// Make everything stable that was finished before.
    Sync,
}

/// A request in the hands of a store.
pub(crate) struct Job {
    pub(crate) task: Task,
    ticket: Ticket,
}

impl Job {
    pub(crate) const fn new(task: Task, ticket: Ticket) -> Self {
        Self { task, ticket }
    }

    /// Where the data of [`Task::Read`] and [`Task::Write`] goes and comes from. Its cursors say how much was moved,
    /// also when the job ends with an error.
    pub(crate) fn chain(&mut self) -> Option<&mut Chain> {
        self.ticket.chain()
    }

    /// The request, to look at.
    pub(crate) fn request(&self) -> Option<&Chain> {
        self.ticket.request()
    }

    /// Gives the request back. It ends well only if all of it was done. For [`io::ErrorKind::Unsupported`] the handler
    /// knows another way to zero.
    pub(crate) fn finish(mut self, result: io::Result<()>) {
        let left = self.ticket.chain().map_or(0, |chain| match self.task {
            Task::Read { .. } => chain.writable_len(),
            Task::Write { .. } => chain.readable_len(),
            _ => 0,
        });
        let whole = if left == 0 { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        self.ticket.finish(result.and(whole));
    }
}
