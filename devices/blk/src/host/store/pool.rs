//! Threads that wait for what cannot be waited for on a queue's worker.
//!
//! Jobs are taken in the order in which they came and finish in any order, as on every disk. A thread holds one piece
//! of data at a time, so memory is bounded by the number of threads, whatever guests ask for.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use outboard_device::{Chain, DeviceError, Durability, Patience};

use super::{Handles, Job, Spot, Store, Task, kept};
use crate::host::Shape;

/// The most that is moved at a time, in bytes.
const PIECE: usize = 1 << 20;

thread_local! {
    static SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// When the request came that this thread works on, for time limits on what is done for it. On threads of no pool that
/// is now.
pub(crate) fn since() -> Instant {
    SINCE.get().unwrap_or_else(Instant::now)
}

/// A disk whose calls return when they are done. All of them may be made from several threads at a time.
pub(crate) trait Blocking: Send + Sync + 'static {
    /// What it is like.
    fn shape(&self) -> &Shape;
    /// What it measures now, in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Fills `data` from `offset` bytes on.
    fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()>;
    /// Writes all of `data` at `offset` bytes.
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Makes `len` bytes read as zeroes, and gives their storage up if `unmap`.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`]: zeroes have to be written.
    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()>;
    /// Gives storage up.
    fn discard(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Makes everything stable that returned before.
    fn sync(&self) -> io::Result<()>;
    /// Makes it so many bytes long.
    fn set_size(&self, bytes: u64) -> io::Result<()>;
    /// Nobody waits for anything any more: what cannot be done at once fails, under way or yet to come.
    fn close(&self) {}
    /// See [`Store::files`].
    fn files(&self) -> io::Result<Vec<Handles>> {
        Ok(Vec::new())
    }
    /// See [`Store::locate`].
    fn locate(&self, offset: u64, len: u64, write: bool) -> Option<Spot> {
        let _ = (offset, len, write);
        None
    }
}

/// A store of threads that share a [`Blocking`] disk.
pub(crate) struct Pool<B: Blocking> {
    disk: Arc<B>,
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    more: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// With the time when they came.
    jobs: VecDeque<(Instant, Job)>,
    closed: bool,
}

impl<B: Blocking> Pool<B> {
    /// Starts `threads` threads, named `name`.
    ///
    /// # Errors
    /// The process may have no more threads.
    pub(crate) fn start(disk: B, threads: usize, name: &str) -> Result<Self, DeviceError> {
        let mut pool = Self { disk: Arc::new(disk), queue: Arc::default(), threads: Vec::new() };
        for _ in 0..threads {
            let (disk, queue) = (Arc::clone(&pool.disk), Arc::clone(&pool.queue));
            let thread = thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || work(&*disk, &queue))
                .map_err(|error| DeviceError::host("cannot start a thread for the disk", error))?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }
}

impl<B: Blocking> Store for Pool<B> {
    fn shape(&self) -> &Shape {
        self.disk.shape()
    }

    fn size(&self) -> io::Result<u64> {
        self.disk.size()
    }

    /// On a thread of its own, since it may have to wait for a request that waits for a disk elsewhere. That is given up
    /// with the program; the disk's own files are not.
    fn sync(&self, patience: &Patience<'_>) -> io::Result<()> {
        let (sender, answer) = sync_channel(1);
        let disk = &*self.disk;
        let sync = move || {
            let result = catch_unwind(AssertUnwindSafe(|| disk.sync()));
            // Who waits no longer does not want it.
            let _ = sender.send(result.unwrap_or_else(|_| Err(failed())));
        };
        thread::scope(|scope| {
            if thread::Builder::new().name("blk-sync".to_owned()).spawn_scoped(scope, sync).is_err() {
                return disk.sync();
            }
            patience.wait(&answer).unwrap_or_else(|error| {
                disk.close();
                Err(error)
            })
        })
    }

    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.disk.set_size(bytes)
    }

    fn files(&self) -> io::Result<Vec<Handles>> {
        self.disk.files()
    }

    fn locate(&self, offset: u64, len: u64, write: bool) -> Option<Spot> {
        self.disk.locate(offset, len, write)
    }

    fn submit(&self, job: Job) {
        self.queue.waiting().jobs.push_back((Instant::now(), job));
        self.queue.more.notify_one();
    }
}

impl<B: Blocking> Drop for Pool<B> {
    /// Everything that was asked for is done or has failed, and the disk is closed, when this returns.
    fn drop(&mut self) {
        self.disk.close();
        self.queue.waiting().closed = true;
        self.queue.more.notify_all();
        for thread in self.threads.drain(..) {
            // It caught its panics itself.
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; `None` when there will be none.
    fn next(&self) -> Option<(Instant, Job)> {
        let mut waiting = self.waiting();
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.closed {
                return None;
            }
            waiting = self.more.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn work(disk: &impl Blocking, queue: &Queue) {
    let mut buffer = Vec::new();
    while let Some((came, mut job)) = queue.next() {
        SINCE.set(Some(came));
        // Formats are parsed by libraries that may panic on a hostile image: that request fails, and no other.
        let result = catch_unwind(AssertUnwindSafe(|| execute(disk, &mut job, &mut buffer)));
        job.finish(result.unwrap_or_else(|_| Err(failed())));
    }
}

fn failed() -> io::Error {
    io::Error::other("the disk's driver has failed")
}

fn execute(disk: &impl Blocking, job: &mut Job, buffer: &mut Vec<u8>) -> io::Result<()> {
    let task = job.task;
    match task {
        Task::Read { offset } => job.chain().map_or(Ok(()), |chain| read(disk, offset, chain, buffer)),
        Task::Write { offset, durability } => {
            let written = job.chain().map_or(Ok(()), |chain| write(disk, offset, chain, buffer));
            match durability {
                // That this one failed says nothing of those before.
                Durability::Synchronous => written.map_err(kept).and_then(|()| disk.sync()),
                Durability::Cached => written,
            }
        }
        Task::WriteZeroes { offset, len } => write_zeroes(disk, offset, len, buffer),
        Task::Zero { offset, len, unmap } => disk.zero(offset, len, unmap),
        Task::Discard { offset, len } => disk.discard(offset, len),
        Task::Sync => disk.sync(),
    }
}

fn read(disk: &impl Blocking, mut offset: u64, chain: &mut Chain, buffer: &mut Vec<u8>) -> io::Result<()> {
    while chain.writable_len() > 0 {
        let piece = room(buffer, chain.writable_len());
        disk.read(offset, piece)?;
        offset += piece.len() as u64;
        chain.write_all(piece).map_err(io::Error::other)?;
    }
    Ok(())
}

fn write(disk: &impl Blocking, mut offset: u64, chain: &mut Chain, buffer: &mut Vec<u8>) -> io::Result<()> {
    while chain.readable_len() > 0 {
        let piece = room(buffer, chain.readable_len());
        chain.read_exact(piece).map_err(io::Error::other)?;
        disk.write(offset, piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

fn write_zeroes(disk: &impl Blocking, mut offset: u64, len: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    let end = offset.saturating_add(len);
    while offset < end {
        let piece = room(buffer, usize::try_from(end - offset).unwrap_or(usize::MAX));
        piece.fill(0);
        disk.write(offset, piece)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

/// Room for the next piece of `left` bytes.
fn room(buffer: &mut Vec<u8>, left: usize) -> &mut [u8] {
    let len = left.min(PIECE);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    buffer.get_mut(..len).unwrap_or_default()
}
