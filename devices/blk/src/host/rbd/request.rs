//! A request in the hands of librbd, from its beginning until the library calls back.
//!
//! The library is trusted to call back once, and to leave the memory alone after that.
#![allow(unsafe_code)] // calls into a C library, and out of it

use std::ffi::{c_int, c_void};
use std::io;
use std::ptr;
use std::sync::mpsc::SyncSender;

use outboard_device::Durability;

use super::{errno, ffi};
use crate::host::store::{Job, Task};

/// What the library holds of a request.
pub(super) struct Request {
    owner: Owner,
    task: Task,
    /// A write is done and is being made stable.
    flushing: bool,
}

pub(super) enum Owner {
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

impl Owner {
    /// A read into the program's own memory.
    pub(super) fn read(len: usize, sender: SyncSender<io::Result<Vec<u8>>>) -> Self {
        let room = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        Self::Read { data: vec![0; len], room, sender }
    }
}

impl Request {
    pub(super) const fn new(owner: Owner, task: Task) -> Self {
        Self { owner, task, flushing: false }
    }

    /// `result`: of a read, how many bytes have come, which are fewer where the image has become shorter.
    fn finish(self, result: io::Result<usize>) {
        match self.owner {
            Owner::Job { mut job, .. } => {
                if let (Ok(count), Some(chain)) = (&result, job.chain()) {
                    match self.task {
                        Task::Read { .. } => chain.advance_writable(chain.writable_len().min(*count)),
                        Task::Write { .. } => chain.advance_readable(chain.readable_len()),
                        _ => {}
                    }
                }
                // It looks itself whether that was all.
                job.finish(result.map(|_| ()));
            }
            // Who called has a right not to wait any longer.
            Owner::Call(sender) => drop(sender.send(result.map(|_| ()))),
            Owner::Read { data, sender, .. } => {
                let whole = |count| {
                    if count < data.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
                };
                drop(sender.send(result.and_then(whole).map(|()| data)));
            }
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
pub(super) fn begin(image: ffi::Image, request: Request) {
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
    let result = usize::try_from(result).map_err(|_| errno(c_int::try_from(result).unwrap_or(c_int::MIN)));
    let stable = matches!(request.task, Task::Write { durability: Durability::Synchronous, .. });
    match request.image() {
        Some(image) if result.is_ok() && stable && !request.flushing => {
            request.flushing = true;
            begin(image, *request);
        }
        _ => request.finish(result),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;

    #[test]
    fn read_is_whole_or_fails() {
        for (count, whole) in [(0, false), (511, false), (512, true)] {
            let (sender, answer) = sync_channel(1);
            Request::new(Owner::read(512, sender), Task::Read { offset: 0 }).finish(Ok(count));
            let result = answer.recv().unwrap().map_err(|error| error.kind());
            assert_eq!(result, if whole { Ok(vec![0; 512]) } else { Err(io::ErrorKind::UnexpectedEof) });
        }
    }
}
