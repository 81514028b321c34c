//! A queue of a file system device (VIRTIO 1.3, 5.11.6): FUSE requests. The device is not trusted: an answer counts
//! only if it is one to the request, of a length that the request has.

use std::io;
use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_virtio_defs::fs::{
    AttrOut, EntryOut, FORGET, ForgetIn, GETATTR, GetattrIn, INIT, InHeader, InitIn, InitOut, IoIn, LOOKUP,
    OPEN, OpenIn, OpenOut, OutHeader, READ, RELEASE, ReleaseIn, WRITE, WriteOut,
};
use outboard_virtqueue::driver::Buffer;
use zerocopy::{FromBytes, IntoBytes};

use super::slots::Slots;
use crate::{Error, Frontend, Notifications, Queue, Waiting};

/// Each request has so many bytes for what is not data.
const SLOT: usize = 512;
/// Within, at the start: the header, and behind it the request's own part.
const HEADER: usize = size_of::<InHeader>();
/// The longest name in bytes, and the NUL behind it.
const NAME: usize = 256;
/// Within: the answer.
const ANSWER: usize = 320;
const _: () = assert!(HEADER + NAME <= ANSWER && ANSWER + ANSWER_MAX <= SLOT);
/// What an answer begins with.
const ANSWER_HEADER: usize = size_of::<OutHeader>();
/// The longest answer, data apart.
const ANSWER_MAX: usize = ANSWER_HEADER + size_of::<EntryOut>();

/// Why the device did not do a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FsFailure {
    /// It says so: an error number of Linux.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Errno(i32),
    /// It returned something that is no answer.
    #[error("the answer {0}")]
    Answer(&'static str),
}

/// What the device answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// To INIT.
    Init(InitOut),
    /// To LOOKUP.
    Entry(EntryOut),
    /// To GETATTR.
    Attr(AttrOut),
    /// To OPEN.
    Opened(OpenOut),
    /// To READ: so many bytes came, at most as many as were asked for.
    Read(u32),
    /// To WRITE: so many bytes were taken, at most as many as were sent.
    Written(u32),
    /// To RELEASE and FORGET.
    Done,
}

/// A request that the device returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsCompletion {
    /// What the caller named it.
    pub token: u64,
    /// How it went.
    pub result: Result<Answer, FsFailure>,
}

/// A queue of a file system. Requests are staged one by one and shown to the device by [`publish`](Self::publish).
/// They are those of user 0.
#[derive(Debug)]
pub struct FsQueue {
    queue: Queue,
    slots: Slots<Sent, SLOT>,
    /// Of the last request. No two of a session are alike.
    unique: u64,
    readable: Vec<Buffer>,
    writable: Vec<Buffer>,
}

/// A request that is out.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    token: u64,
    unique: u64,
    opcode: u32,
    /// Bytes of its data.
    data: u32,
}

/// A request to be sent.
struct Request<'a> {
    opcode: u32,
    node: u64,
    /// Its own part, behind the header.
    body: &'a [u8],
    /// What the device reads behind that.
    from: &'a [Segment],
    /// What it writes behind the header of its answer.
    into: &'a [Segment],
}

impl FsQueue {
    /// A driver over a started queue.
    ///
    /// # Errors
    /// Memory is used up.
    pub(crate) fn new(frontend: &mut Frontend, queue: Queue) -> Result<Self, Error> {
        Ok(Self {
            slots: Slots::new(frontend, queue.size())?,
            unique: u64::from(queue.index()) << 48,
            readable: Vec::new(),
            writable: Vec::new(),
            queue,
        })
    }

    /// Stages the beginning of a session.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    pub(crate) fn init(&mut self, body: InitIn, token: u64) -> Result<(), Error> {
        self.stage_plain(INIT, 0, body.as_bytes(), token)
    }

    /// Stages finding `name` in the directory `parent`. The device counts that until it is
    /// [forgotten](super::Fs::forget).
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full; the name is empty, longer than 255 bytes, or has a NUL or slash.
    #[inline]
    pub fn lookup(&mut self, parent: u64, name: &str, token: u64) -> Result<(), Error> {
        let mut ended = [0; NAME];
        let room = ended.get_mut(..name.len()).filter(|room| !room.is_empty() && room.len() < NAME);
        room.ok_or(Error::Invalid("a name of 0 or of more than 255 bytes"))?.copy_from_slice(name.as_bytes());
        if name.contains(['\0', '/']) {
            return Err(Error::Invalid("a name with a NUL or a slash"));
        }
        self.stage_plain(LOOKUP, parent, ended.get(..=name.len()).unwrap_or_default(), token)
    }

    /// Stages giving back `lookups` of a node. For the queue of urgent requests.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    pub(crate) fn forget(&mut self, node: u64, lookups: u64, token: u64) -> Result<(), Error> {
        let body = ForgetIn { nlookup: lookups.into() };
        self.stage_plain(FORGET, node, body.as_bytes(), token)
    }

    /// Stages reading a node's attributes.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    #[inline]
    pub fn getattr(&mut self, node: u64, token: u64) -> Result<(), Error> {
        self.stage_plain(GETATTR, node, GetattrIn::default().as_bytes(), token)
    }

    /// Stages opening a node, with flags as for open(2).
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    pub fn open(&mut self, node: u64, flags: u32, token: u64) -> Result<(), Error> {
        let body = OpenIn { flags: flags.into(), open_flags: 0.into() };
        self.stage_plain(OPEN, node, body.as_bytes(), token)
    }

    /// Stages closing the open file `fh` of a node.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full.
    pub fn release(&mut self, node: u64, fh: u64, token: u64) -> Result<(), Error> {
        let body = ReleaseIn { fh: fh.into(), ..ReleaseIn::default() };
        self.stage_plain(RELEASE, node, body.as_bytes(), token)
    }

    /// Stages a read of the open file `fh` of a node, from `offset` on, into `data`, in order.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full; the data are 4 GiB.
    #[inline]
    pub fn read(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        data: &[Segment],
        token: u64,
    ) -> Result<(), Error> {
        let body = transfer(fh, offset, data)?;
        let body = body.as_bytes();
        self.stage(&Request { opcode: READ, node, body, from: &[], into: data }, token)
    }

    /// Stages a write of `data`, in order, to the open file `fh` of a node, from `offset` on.
    ///
    /// # Errors
    /// [`Error::Add`] when the ring is full; the data are 4 GiB.
    #[inline]
    pub fn write(
        &mut self,
        node: u64,
        fh: u64,
        offset: u64,
        data: &[Segment],
        token: u64,
    ) -> Result<(), Error> {
        let body = transfer(fh, offset, data)?;
        let body = body.as_bytes();
        self.stage(&Request { opcode: WRITE, node, body, from: data, into: &[] }, token)
    }

    fn stage_plain(&mut self, opcode: u32, node: u64, body: &[u8], token: u64) -> Result<(), Error> {
        self.stage(&Request { opcode, node, body, from: &[], into: &[] }, token)
    }

    #[inline]
    fn stage(&mut self, request: &Request<'_>, token: u64) -> Result<(), Error> {
        let Request { opcode, node, body, from, into } = *request;
        let number = self.slots.vacant()?;
        // The lowest bit has a meaning of its own.
        self.unique = self.unique.wrapping_add(2);
        let header = InHeader {
            len: length(HEADER + body.len(), from)?.into(),
            opcode: opcode.into(),
            unique: self.unique.into(),
            nodeid: node.into(),
            ..InHeader::default()
        };
        self.slots.write(number, 0, header.as_bytes())?;
        self.slots.write(number, HEADER, body)?;
        self.readable.clear();
        self.readable.push(self.slots.part(number, 0, HEADER + body.len())?);
        self.readable.extend(from.iter().map(Buffer::from));
        self.writable.clear();
        if opcode != FORGET {
            let len = ANSWER_HEADER + body_of_answer(opcode);
            self.writable.push(self.slots.part(number, ANSWER, len)?);
        }
        self.writable.extend(into.iter().map(Buffer::from));
        let data = length(0, if opcode == READ { into } else { from })?;
        self.queue.add(&self.readable, &self.writable, number.into())?;
        self.slots.take(Sent { token, unique: self.unique, opcode, data });
        Ok(())
    }

    /// Shows what was staged to the device, and kicks it if it wants that.
    ///
    /// # Errors
    /// The kick could not be written.
    #[inline]
    pub fn publish(&mut self) -> Result<(), Error> {
        self.queue.publish()
    }

    /// The next request that the device returned.
    ///
    /// # Errors
    /// The device returned nonsense on the ring.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<FsCompletion>, Error> {
        let Some((number, len)) = self.queue.poll()? else { return Ok(None) };
        let mut answer = [0; ANSWER_MAX];
        self.slots.read(number, ANSWER, &mut answer)?;
        let sent = self.slots.give_back(number);
        Ok(Some(FsCompletion { token: sent.token, result: judge(sent, &answer, len) }))
    }

    /// Waits until the device has returned something. False when the time is over first.
    ///
    /// # Errors
    /// As [`Queue::wait`].
    pub fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        self.queue.wait(how, timeout)
    }

    /// Requests staged or with the device.
    pub fn outstanding(&self) -> u32 {
        self.queue.outstanding()
    }

    /// Notifications so far.
    pub fn notifications(&self) -> Notifications {
        self.queue.notifications()
    }

    pub(crate) fn into_parts(self) -> (Queue, Segment) {
        (self.queue, self.slots.into_memory())
    }
}

/// What there is behind the header of an answer, data apart, in bytes.
fn body_of_answer(opcode: u32) -> usize {
    match opcode {
        INIT => size_of::<InitOut>(),
        LOOKUP => size_of::<EntryOut>(),
        GETATTR => size_of::<AttrOut>(),
        OPEN => size_of::<OpenOut>(),
        WRITE => size_of::<WriteOut>(),
        _ => 0,
    }
}

/// The request's own part of a read or a write.
fn transfer(fh: u64, offset: u64, data: &[Segment]) -> Result<IoIn, Error> {
    let size = length(0, data)?.into();
    Ok(IoIn { fh: fh.into(), offset: offset.into(), size, ..IoIn::default() })
}

/// Bytes of data with `more` before them.
fn length(more: usize, data: &[Segment]) -> Result<u32, Error> {
    let len = data.iter().map(Segment::len).fold(more, usize::saturating_add);
    u32::try_from(len).map_err(|_| Error::Invalid("a request of 4 GiB"))
}

/// What an answer says, of which the device says that it has written `written` bytes.
fn judge(sent: Sent, answer: &[u8; ANSWER_MAX], written: u32) -> Result<Answer, FsFailure> {
    let bad = FsFailure::Answer;
    if sent.opcode == FORGET {
        return Ok(Answer::Done);
    }
    let header = OutHeader::read_from_prefix(answer);
    let (header, body) = header.map_err(|_| bad("is shorter than its header"))?;
    let len = header.len.get();
    if written < ANSWER_HEADER as u32 || len < ANSWER_HEADER as u32 {
        return Err(bad("is shorter than its header"));
    }
    if len > written {
        return Err(bad("says to be longer than what was written"));
    }
    if header.unique.get() != sent.unique {
        return Err(bad("is to another request"));
    }
    match header.error.get() {
        0 => {}
        // Linux takes no others.
        error @ -511..=-1 => return Err(FsFailure::Errno(-error)),
        _ => return Err(bad("has an error that does not exist")),
    }
    let len = len - ANSWER_HEADER as u32;
    if sent.opcode == READ {
        return if len <= sent.data { Ok(Answer::Read(len)) } else { Err(bad("is longer than was asked")) };
    }
    if len as usize != body_of_answer(sent.opcode) {
        return Err(bad("has another length than the request has"));
    }
    let done = match sent.opcode {
        INIT => InitOut::read_from_prefix(body).map(|(it, _)| Answer::Init(it)).ok(),
        LOOKUP => EntryOut::read_from_prefix(body).map(|(it, _)| Answer::Entry(it)).ok(),
        GETATTR => AttrOut::read_from_prefix(body).map(|(it, _)| Answer::Attr(it)).ok(),
        OPEN => OpenOut::read_from_prefix(body).map(|(it, _)| Answer::Opened(it)).ok(),
        WRITE => {
            let size = WriteOut::read_from_prefix(body).map(|(it, _)| it.size.get()).ok();
            size.filter(|&size| size <= sent.data).map(Answer::Written)
        }
        _ => Some(Answer::Done),
    };
    done.ok_or(bad("says that more was written than was sent"))
}
