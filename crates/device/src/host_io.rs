//! Host operations as plain system calls, for engines that execute them on the spot.
//!
//! The file is the device's; what it returns is judged by the handler. The chain's buffers belong to the guest,
//! which may change them at any moment: only the kernel touches them here.
#![allow(unsafe_code)] // calls on guest memory, which is no Rust slice

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use outboard_virtqueue::Chain;
use rustix::fs::FallocateFlags;
use rustix::io::{ReadWriteFlags, retry_on_intr};
use rustix::net::SendFlags;

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
    // SAFETY: the iovecs are the chain's buffers, which its memory snapshot keeps mapped and no Rust reference points
    // into; the chain is borrowed for the call.
    unsafe { execute_with(op, fd, chain.readable(), chain.writable()) }
}

/// As [`execute`], but transfers at most `limit` bytes: for engines that rehearse a host that does less than asked.
///
/// # Errors
/// Likewise.
pub fn execute_in_part(op: &HostOp, fd: BorrowedFd<'_>, chain: &Chain, limit: u32) -> io::Result<u32> {
    let front = |vecs: &[libc::iovec]| within(vecs.iter(), limit as usize).collect::<Vec<_>>();
    let (readable, writable) = (front(chain.readable()), front(chain.writable()));
    let op = match *op {
        HostOp::WriteZeroes { file, offset, len, durability } => {
            HostOp::WriteZeroes { file, offset, len: len.min(limit.into()), durability }
        }
        op => op,
    };
    // SAFETY: as in `execute`; each iovec is the front of one of the chain's.
    unsafe { execute_with(&op, fd, &readable, &writable) }
}

/// # Safety
/// The iovecs describe memory that stays mapped during the call and is not borrowed by Rust code; `writable` may be
/// written to.
unsafe fn execute_with(
    op: &HostOp,
    fd: BorrowedFd<'_>,
    readable: &[libc::iovec],
    writable: &[libc::iovec],
) -> io::Result<u32> {
    match *op {
        HostOp::ReadAt { offset, .. } => {
            let offset = position(offset)?;
            // SAFETY: the caller's promise.
            retry(|| unsafe { read_at(fd.as_raw_fd(), writable, offset) })
        }
        HostOp::WriteAt { offset, durability, .. } => {
            let (offset, flags) = (position(offset)?, write_flags(durability));
            // SAFETY: as above; the kernel only reads them.
            retry(|| unsafe { write_at(fd.as_raw_fd(), readable, offset, flags) })
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

/// `preadv2(2)`. One buffer goes by a plain `pread(2)`: no table to be copied, and the C library's is a point where a thread
/// may be cancelled, which it marks before and after by an atomic operation. That waits for all that was copied.
///
/// # Safety
/// As of [`execute_with`].
unsafe fn read_at(fd: RawFd, vecs: &[libc::iovec], offset: i64) -> i64 {
    // SAFETY: the caller's promise; the count is no more than there are.
    unsafe {
        match vecs {
            [one] => libc::syscall(libc::SYS_pread64, fd, one.iov_base, one.iov_len, offset),
            _ => libc::preadv2(fd, vecs.as_ptr(), count(vecs), offset, 0) as i64,
        }
    }
}

/// `pwritev2(2)`, as [`read_at`] reads.
///
/// # Safety
/// As of [`execute_with`]; the buffers are only read.
unsafe fn write_at(fd: RawFd, vecs: &[libc::iovec], offset: i64, flags: i32) -> i64 {
    // SAFETY: as in `read_at`.
    unsafe {
        match vecs {
            [one] if flags == 0 => libc::syscall(libc::SYS_pwrite64, fd, one.iov_base, one.iov_len, offset),
            _ => libc::pwritev2(fd, vecs.as_ptr(), count(vecs), offset, flags) as i64,
        }
    }
}

/// Writes `head`, and behind it what is left to read of `chain`, in one call: a packet and what the host is to know of it.
/// Returns the bytes written. Nothing is consumed.
///
/// # Errors
/// Those of `writev(2)`, never `EINTR`; [`io::ErrorKind::InvalidInput`] for a chain in more pieces than one call takes.
pub fn send_behind(head: &[u8], chain: &Chain, fd: BorrowedFd<'_>) -> io::Result<usize> {
    let head = libc::iovec { iov_base: head.as_ptr().cast_mut().cast(), iov_len: head.len() };
    gather([head].into_iter().chain(chain.readable().iter().copied()), |vecs, count| {
        // SAFETY: `head` and, as in `execute`, the chain's buffers, which the kernel only reads.
        unsafe { libc::writev(fd.as_raw_fd(), vecs, count) }
    })
}

/// Reads into what is left to write of `chain`, and into `tail` what it has no room for, in one call: a packet of unknown
/// length. Returns the bytes read. Nothing is consumed.
///
/// # Errors
/// As of [`send_behind`], and `readv(2)`; [`io::ErrorKind::WouldBlock`] if there is nothing, and `fd` does not wait.
pub fn receive_before(chain: &Chain, tail: &mut [u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    let tail = libc::iovec { iov_base: tail.as_mut_ptr().cast(), iov_len: tail.len() };
    gather(chain.writable().iter().copied().chain([tail]), |vecs, count| {
        // SAFETY: as in `execute`, the chain's buffers; and `tail`, which is borrowed for the call.
        unsafe { libc::readv(fd.as_raw_fd(), vecs, count) }
    })
}

/// Sends what is left to read of all of `chains`, in their order, by one call to `sendmsg(2)` that does not wait and raises no
/// signal. Returns the bytes sent, which may be fewer: at most the first [`MAX_SEGMENTS`] pieces, and what there is room for.
/// Nothing is consumed.
///
/// # Errors
/// Those of `sendmsg(2)`, never `EINTR`; [`io::ErrorKind::WouldBlock`] if there is no room at all.
pub fn send_all(chains: &[Chain], flags: SendFlags, socket: BorrowedFd<'_>) -> io::Result<usize> {
    let flags = flags | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let pieces = chains.iter().flat_map(Chain::readable).copied();
    gather(pieces.take(MAX_SEGMENTS), |vecs, count| {
        // SAFETY: all zeroes is a message without address, buffers, control data and flags.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vecs.cast_mut();
        message.msg_iovlen = count as _;
        // SAFETY: as in `execute`, the chains' buffers, which the kernel only reads.
        unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags.bits().cast_signed()) }
    })
}

/// Receives at most `limit` bytes into what is left to write of all of `chains`, in their order, by one call to `recvmsg(2)`
/// that does not wait. Returns the bytes received, 0 at the end of the stream: at most what the first [`MAX_SEGMENTS`] pieces
/// hold. Nothing is advanced.
///
/// # Errors
/// Those of `recvmsg(2)`, never `EINTR`; [`io::ErrorKind::WouldBlock`] if there is nothing.
pub fn receive_all(chains: &[Chain], limit: usize, socket: BorrowedFd<'_>) -> io::Result<usize> {
    let pieces = within(chains.iter().flat_map(Chain::writable), limit);
    gather(pieces.take(MAX_SEGMENTS), |vecs, count| {
        // SAFETY: as in `send_all`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vecs.cast_mut();
        message.msg_iovlen = count as _;
        // SAFETY: as in `execute`, the chains' buffers, or the fronts of them.
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) }
    })
}

/// The first `limit` bytes of some buffers.
fn within<'a>(
    vecs: impl Iterator<Item = &'a libc::iovec>,
    limit: usize,
) -> impl Iterator<Item = libc::iovec> {
    vecs.scan(limit, |left, vec| {
        let len = vec.iov_len.min(*left);
        *left -= len;
        (len > 0 || vec.iov_len == 0).then_some(libc::iovec { iov_len: len, ..*vec })
    })
}

/// Makes a vectored call with all of `pieces`, if they are few enough.
fn gather(
    mut pieces: impl Iterator<Item = libc::iovec>,
    call: impl Fn(*const libc::iovec, libc::c_int) -> isize,
) -> io::Result<usize> {
    // Filled as far as it is needed, and nothing is allocated.
    let mut vecs = [const { MaybeUninit::<libc::iovec>::uninit() }; MAX_SEGMENTS];
    let mut filled = 0;
    for (place, piece) in vecs.iter_mut().zip(&mut pieces) {
        place.write(piece);
        filled += 1;
    }
    if pieces.next().is_some() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    retry(|| call(vecs.as_ptr().cast(), filled) as i64).map(|done| done as usize)
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

fn retry(mut call: impl FnMut() -> i64) -> io::Result<u32> {
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
