//! Host operations as plain system calls, for engines that execute them on the spot.
//!
//! The file is the device's; what it returns is judged by the handler. The chain's buffers belong to the guest,
//! which may change them at any moment: only the kernel touches them here.
#![allow(unsafe_code)] // preadv2 and pwritev2 on guest memory, which is no Rust slice

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use outboard_virtqueue::Chain;
use rustix::fs::FallocateFlags;
use rustix::io::{ReadWriteFlags, retry_on_intr};

use crate::{Durability, HostOp};

/// The kernel takes at most so many segments at a time (`UIO_MAXIOV`).
pub const MAX_SEGMENTS: usize = 1024;

static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Executes a host operation on `fd`, with the buffers that `chain` has left. Returns the bytes that were
/// transferred, which may be fewer than asked; 0 for operations that transfer nothing.
///
/// # Errors
/// Those of `preadv2(2)`, `pwritev2(2)`, `fdatasync(2)` and `fallocate(2)`; never `EINTR`.
pub fn execute(op: &HostOp, fd: BorrowedFd<'_>, chain: &Chain) -> io::Result<u32> {
    match *op {
        HostOp::ReadAt { offset, .. } => {
            let vecs = chain.writable();
            let (count, offset) = (count(vecs), position(offset)?);
            // SAFETY: the iovecs are the chain's device-writable buffers, which its memory snapshot keeps mapped and
            // no Rust reference points into; `count` is no more than there are.
            retry(|| unsafe { libc::preadv2(fd.as_raw_fd(), vecs.as_ptr(), count, offset, 0) })
        }
        HostOp::WriteAt { offset, durability, .. } => {
            let vecs = chain.readable();
            let (count, offset, flags) = (count(vecs), position(offset)?, write_flags(durability));
            // SAFETY: as above, for the device-readable buffers; the kernel only reads them.
            retry(|| unsafe { libc::pwritev2(fd.as_raw_fd(), vecs.as_ptr(), count, offset, flags) })
        }
        HostOp::WriteZeroes { offset, len, durability, .. } => {
            let vecs = [io::IoSlice::new(zeroes(len))];
            let flags = match durability {
                Durability::Cached => ReadWriteFlags::empty(),
                Durability::Synchronous => ReadWriteFlags::DSYNC,
            };
            let written = retry_on_intr(|| rustix::io::pwritev2(fd, &vecs, offset, flags))?;
            Ok(u32::try_from(written).unwrap_or(u32::MAX))
        }
        HostOp::Sync { .. } => Ok(retry_on_intr(|| rustix::fs::fdatasync(fd)).map(|()| 0)?),
        HostOp::Allocate { mode, offset, len, .. } => {
            let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
            Ok(retry_on_intr(|| rustix::fs::fallocate(fd, mode, offset, len)).map(|()| 0)?)
        }
    }
}

/// The zeroes of a [`HostOp::WriteZeroes`]: as many as can be written at a time, and no more than `len`.
#[must_use]
pub fn zeroes(len: u64) -> &'static [u8] {
    let len = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROES.len());
    ZEROES.get(..len).unwrap_or(&ZEROES)
}

/// The flags of `pwritev2(2)` for a durability.
#[must_use]
pub const fn write_flags(durability: Durability) -> i32 {
    match durability {
        Durability::Cached => 0,
        Durability::Synchronous => libc::RWF_DSYNC,
    }
}

fn count(vecs: &[libc::iovec]) -> libc::c_int {
    // At most 1024, so it fits.
    vecs.len().min(MAX_SEGMENTS) as libc::c_int
}

/// A position as the kernel takes it. A negative one would have a meaning of its own.
fn position(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<u32> {
    loop {
        // The kernel transfers no more than 2 GiB at a time: only -1 is no u32.
        if let Ok(done) = u32::try_from(call()) {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
