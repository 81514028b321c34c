//! The driver of a file system device (VIRTIO 1.3, 5.11): its queues, a FUSE session, and calls that wait. What the
//! device answers is data: nodes and handles are its own to choose, lengths are checked.

use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_virtio_defs::fs::{
    Attr, DEFAULT_MAX_PAGES, EntryOut, FIRST_REQUEST_QUEUE, HIPRIO_QUEUE, INIT_ASYNC_READ, INIT_BIG_WRITES,
    INIT_MAX_PAGES, InitIn, InitOut, MINOR_OF_INIT_OUT, MINOR_VERSION, PAGE_SIZE, VERSION,
};

use super::{Answer, FsFailure, FsQueue};
use crate::{Error, Frontend, Waiting, Wishes};

/// Through which the calls that wait copy.
const BOUNCE: usize = 64 << 10;
/// Entries of the ring of urgent requests.
const HIPRIO_SIZE: u16 = 16;
const OTHER_ANSWER: Error = Error::Fs(FsFailure::Answer("is to another request"));

/// How to drive a file system.
#[derive(Clone, Copy, Debug)]
pub struct FsOptions {
    /// What is wished for of features and rings.
    pub wishes: Wishes,
    /// Request queues to start, at least 1.
    pub queues: u16,
    /// Entries of each of their rings.
    pub queue_size: u16,
}

impl Default for FsOptions {
    fn default() -> Self {
        Self { wishes: Wishes::default(), queues: 1, queue_size: 128 }
    }
}

/// A file system. Its request queues can be driven at any depth, each in a thread of its own; the calls that wait use
/// the first one.
#[derive(Debug)]
pub struct Fs {
    frontend: Frontend,
    hiprio: FsQueue,
    queues: Vec<FsQueue>,
    session: InitOut,
    bounce: Segment,
    waiting: Waiting,
    timeout: Duration,
}

impl Fs {
    /// Agrees with the device as wished, starts its queues, and begins a session.
    ///
    /// # Errors
    /// The device has fewer queues, or speaks another FUSE than version 7 from 7.23 on; as [`Frontend::agree`] and
    /// [`Frontend::start`].
    pub fn open(mut frontend: Frontend, options: &FsOptions) -> Result<Self, Error> {
        let FsOptions { wishes, queues, queue_size } = *options;
        let timeout = frontend.timeout();
        frontend.agree(&wishes)?;
        let mut start = |index, size| {
            let queue = frontend.start(index, size)?;
            FsQueue::new(&mut frontend, queue)
        };
        let hiprio = start(HIPRIO_QUEUE, HIPRIO_SIZE)?;
        let last = FIRST_REQUEST_QUEUE.saturating_add(queues);
        let queues = (FIRST_REQUEST_QUEUE..last).map(|index| start(index, queue_size));
        let queues = queues.collect::<Result<_, _>>()?;
        frontend.driver_ok()?;
        let bounce = frontend.allocate(BOUNCE)?;
        let session = InitOut::default();
        let waiting = Waiting::Interrupt;
        let mut this = Self { frontend, hiprio, queues, session, bounce, waiting, timeout };
        this.begin()?;
        Ok(this)
    }

    /// Begins the session.
    fn begin(&mut self) -> Result<(), Error> {
        let request = InitIn {
            major: VERSION.into(),
            minor: MINOR_VERSION.into(),
            max_readahead: 0.into(),
            flags: (INIT_ASYNC_READ | INIT_BIG_WRITES | INIT_MAX_PAGES).into(),
        };
        let Answer::Init(session) = self.run(|queue| queue.init(request, 0))? else {
            return Err(OTHER_ANSWER);
        };
        if session.major.get() != VERSION || session.minor.get() < MINOR_OF_INIT_OUT {
            return Err(Error::Invalid("the device speaks another version of FUSE"));
        }
        self.session = session;
        Ok(())
    }

    /// What the device said of itself when the session began.
    pub fn session(&self) -> &InitOut {
        &self.session
    }

    /// The longest read in bytes.
    pub fn read_max(&self) -> u32 {
        let agreed = self.session.flags.get() & INIT_MAX_PAGES != 0;
        let pages = if agreed { self.session.max_pages.get().max(1) } else { DEFAULT_MAX_PAGES };
        u32::from(pages) * PAGE_SIZE
    }

    /// The longest write in bytes.
    pub fn write_max(&self) -> u32 {
        self.session.max_write.get().max(PAGE_SIZE).min(self.read_max())
    }

    /// How the calls that wait do it; by interrupt at first.
    pub fn set_waiting(&mut self, waiting: Waiting) {
        self.waiting = waiting;
    }

    /// Finds a name in a directory; the device counts that until it is [forgotten](Self::forget).
    ///
    /// # Errors
    /// [`Error::Fs`] if there is no such name, or the device fails the request otherwise; requests are out on the
    /// first queue; as [`FsQueue::lookup`] and [`FsQueue::wait`].
    pub fn lookup(&mut self, parent: u64, name: &str) -> Result<EntryOut, Error> {
        match self.run(|queue| queue.lookup(parent, name, 0))? {
            Answer::Entry(entry) if entry.nodeid.get() == 0 => {
                Err(Error::Fs(FsFailure::Errno(rustix::io::Errno::NOENT.raw_os_error())))
            }
            Answer::Entry(entry) => Ok(entry),
            _ => Err(OTHER_ANSWER),
        }
    }

    /// Gives back `lookups` of a node, over the queue of urgent requests. The device does not answer whether that is
    /// right.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn forget(&mut self, node: u64, lookups: u64) -> Result<(), Error> {
        self.hiprio.forget(node, lookups, 0)?;
        finish(&mut self.hiprio, self.waiting, self.timeout).map(drop)
    }

    /// A node's attributes.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn getattr(&mut self, node: u64) -> Result<Attr, Error> {
        match self.run(|queue| queue.getattr(node, 0))? {
            Answer::Attr(answer) => Ok(answer.attr),
            _ => Err(OTHER_ANSWER),
        }
    }

    /// Opens a node, with flags as for open(2); what names it from then on.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn open_file(&mut self, node: u64, flags: u32) -> Result<u64, Error> {
        match self.run(|queue| queue.open(node, flags, 0))? {
            Answer::Opened(answer) => Ok(answer.fh.get()),
            _ => Err(OTHER_ANSWER),
        }
    }

    /// Reads from an open file until `out` is full or the file ends; how many bytes came.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn read_at(&mut self, node: u64, fh: u64, offset: u64, out: &mut [u8]) -> Result<usize, Error> {
        let most = BOUNCE.min(self.read_max() as usize);
        let mut filled = 0;
        for piece in out.chunks_mut(most) {
            let data = self.bounce.slice(0, piece.len()).ok_or(Error::OutOfMemory { len: piece.len() })?;
            let at = offset.saturating_add(filled as u64);
            let Answer::Read(len) =
                self.run(|queue| queue.read(node, fh, at, std::slice::from_ref(&data), 0))?
            else {
                return Err(OTHER_ANSWER);
            };
            let came = piece.get_mut(..len as usize).ok_or(OTHER_ANSWER)?;
            data.read_into(0, came)?;
            filled += came.len();
            if came.len() < most {
                break;
            }
        }
        Ok(filled)
    }

    /// Closes an open file.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub fn release(&mut self, node: u64, fh: u64) -> Result<(), Error> {
        self.run(|queue| queue.release(node, fh, 0)).map(drop)
    }

    /// The request queues.
    pub fn queues(&mut self) -> &mut [FsQueue] {
        &mut self.queues
    }

    /// The front end.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// Stages one request on the first queue and waits for it.
    fn run(&mut self, stage: impl FnOnce(&mut FsQueue) -> Result<(), Error>) -> Result<Answer, Error> {
        let queue = self.queues.first_mut().ok_or(Error::Invalid("no queue"))?;
        if queue.outstanding() != 0 {
            return Err(Error::Invalid("requests are out on the first queue"));
        }
        stage(queue)?;
        finish(queue, self.waiting, self.timeout)
    }

    /// Stops the queues, resets the device, and gives the front end back; its memory is free again.
    ///
    /// # Errors
    /// As [`Frontend::reset`].
    pub fn close(self) -> Result<Frontend, Error> {
        let Self { mut frontend, hiprio, queues, bounce, .. } = self;
        let all = std::iter::once(hiprio).chain(queues);
        let (queues, slots): (Vec<_>, Vec<_>) = all.map(FsQueue::into_parts).unzip();
        frontend.reset(queues)?;
        for segment in slots.into_iter().chain([bounce]) {
            frontend.memory().free(segment);
        }
        Ok(frontend)
    }
}

/// Shows the only request that is staged to the device, and waits for it.
fn finish(queue: &mut FsQueue, waiting: Waiting, after: Duration) -> Result<Answer, Error> {
    queue.publish()?;
    loop {
        if let Some(completion) = queue.poll()? {
            return completion.result.map_err(Error::Fs);
        }
        if !queue.wait(waiting, after)? {
            return Err(Error::Timeout { what: "return a request".to_owned(), after });
        }
    }
}
