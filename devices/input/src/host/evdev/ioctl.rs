//! The calls of evdev (`linux/input.h`).
#![allow(unsafe_code, reason = "ioctl(2) with buffers whose lengths the calls carry")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use outboard_device::defs::input::AbsInfo;

pub(super) const ID: u8 = 0x02;
pub(super) const NAME: u8 = 0x06;
pub(super) const UNIQUE: u8 = 0x08;
pub(super) const PROPERTIES: u8 = 0x09;
const SLOTS: u8 = 0x0a;
pub(super) const KEYS: u8 = 0x18;
pub(super) const SWITCHES: u8 = 0x1b;
/// And the type of events.
pub(super) const BITS: u8 = 0x20;
/// And the axis.
const AXIS: u8 = 0x40;
/// `EVIOCGRAB`.
const GRAB: u32 = 1 << 30 | 4 << 16 | (b'E' as u32) << 8 | 0x90;

/// Has the kernel fill `buffer`.
pub(super) fn read(device: BorrowedFd<'_>, number: u8, buffer: &mut [u8]) -> io::Result<()> {
    let len = buffer.len().min(0x3fff) as u32;
    // _IOC(_IOC_READ, 'E', number, len), as on all machines that the project is for.
    let call = 2 << 30 | len << 16 | u32::from(b'E') << 8 | u32::from(number);
    // SAFETY: the kernel writes to `buffer`, which is borrowed for the call, no more than the length in the call's number.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), call as libc::Ioctl, buffer.as_mut_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A text of at most `most` bytes.
pub(super) fn text(device: BorrowedFd<'_>, number: u8, most: usize) -> io::Result<Vec<u8>> {
    let mut text = vec![0; most + 1];
    read(device, number, &mut text)?;
    Ok(text.into_iter().take(most).take_while(|byte| *byte != 0).collect())
}

/// Where an axis is, and its range.
pub(super) fn axis(device: BorrowedFd<'_>, code: u16) -> io::Result<(i32, AbsInfo)> {
    let mut info = [[0; 4]; 6];
    read(device, AXIS + (code & 0x3f) as u8, info.as_flattened_mut())?;
    let [value, min, max, fuzz, flat, res] = info.map(u32::from_ne_bytes);
    let [min, max, fuzz, flat, res] = [min, max, fuzz, flat, res].map(Into::into);
    Ok((value.cast_signed(), AbsInfo { min, max, fuzz, flat, res }))
}

/// What each of the first `slots` contacts has for an axis.
pub(super) fn contacts(device: BorrowedFd<'_>, code: u16, slots: i32) -> io::Result<Vec<i32>> {
    let mut words = vec![u32::from(code).to_ne_bytes()];
    words.resize(1 + usize::try_from(slots).unwrap_or(0), [0; 4]);
    read(device, SLOTS, words.as_flattened_mut())?;
    Ok(words.into_iter().skip(1).map(i32::from_ne_bytes).collect())
}

/// Has the device alone, or not any more.
pub(super) fn grab(device: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: the argument is a number.
    match unsafe { libc::ioctl(device.as_raw_fd(), GRAB as libc::Ioctl, libc::c_ulong::from(on)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
