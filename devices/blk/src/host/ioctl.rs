//! Calls on block devices that no crate wraps. Trusted: the kernel.
#![allow(unsafe_code, reason = "ioctl(2) with buffers of the sizes that the kernel's header gives")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BLKSECDISCARD`: `_IO(0x12, 125)`, with two numbers for offset and length in bytes.
const BLKSECDISCARD: libc::Ioctl = 0x127d;

/// Erases a part of a device so that nothing is left of it. Blocks for as long as that takes.
///
/// # Errors
/// `EOPNOTSUPP`: the device cannot. `EINVAL`: not whole sectors, or not within the device.
pub(super) fn secure_discard(device: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<()> {
    let range = [offset, len];
    // SAFETY: the kernel reads two numbers, which outlive the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKSECDISCARD, range.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether [`secure_discard`] is for a device. It is asked to erase a byte that is no sector: a device that can says
/// that this makes no sense, and no device does anything.
pub(super) fn can_secure_discard(device: BorrowedFd<'_>) -> bool {
    let refusal = secure_discard(device, 1, 1).err();
    refusal.is_some_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}
