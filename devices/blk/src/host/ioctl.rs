//! Calls on block devices that no crate wraps. Trusted: the kernel.
#![allow(unsafe_code, reason = "ioctl(2) with buffers of the sizes that the kernel's header gives")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BLKSECDISCARD`: `_IO(0x12, 125)`, with two numbers for offset and length in bytes.
const BLKSECDISCARD: libc::Ioctl = 0x127d;

/// `BLKREPORTZONE`: `_IOWR(0x12, 130, struct blk_zone_report)`.
const BLKREPORTZONE: libc::Ioctl = 0xc010_1282_u32 as libc::Ioctl;
/// In the flags of a report: zones say their capacity (`BLK_ZONE_REP_CAPACITY`).
const HAS_CAPACITY: u32 = 1;
/// Zones in a report.
const BATCH: usize = 64;

/// What is asked of zones: `_IOW(0x12, 131 and 134 to 136, struct blk_zone_range)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZoneCall {
    /// `BLKRESETZONE`.
    Reset = 0x4010_1283,
    /// `BLKOPENZONE`.
    Open = 0x4010_1286,
    /// `BLKCLOSEZONE`.
    Close = 0x4010_1287,
    /// `BLKFINISHZONE`.
    Finish = 0x4010_1288,
}

/// A zone as the kernel describes it (`struct blk_zone`), in sectors. Types and conditions are numbered as in the
/// specification of VIRTIO.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct HostZone {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) pointer: u64,
    pub(crate) kind: u8,
    pub(crate) condition: u8,
    unused: [u8; 6],
    pub(crate) capacity: u64,
    reserved: [u8; 24],
}

/// `struct blk_zone_report`, with room.
#[repr(C)]
struct Report {
    sector: u64,
    count: u32,
    flags: u32,
    zones: [HostZone; BATCH],
}

/// The next zones of a device, from the one that `sector` is in.
///
/// # Errors
/// Those of the device.
pub(crate) fn report_zones(device: BorrowedFd<'_>, sector: u64) -> io::Result<Vec<HostZone>> {
    let mut report = Report { sector, count: BATCH as u32, flags: 0, zones: [HostZone::default(); BATCH] };
    // SAFETY: the kernel reads the head of the report and writes it and as many zones as `count` says, which there is
    // room for; zones are plain numbers.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKREPORTZONE, &raw mut report) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut zones: Vec<HostZone> = report.zones.into_iter().take(report.count as usize).collect();
    if report.flags & HAS_CAPACITY == 0 {
        zones.iter_mut().for_each(|zone| zone.capacity = zone.len);
    }
    Ok(zones)
}

/// Does something to the zones of a range, in sectors. Blocks.
///
/// # Errors
/// Those of the device.
pub(crate) fn zone_call(device: BorrowedFd<'_>, call: ZoneCall, sector: u64, count: u64) -> io::Result<()> {
    let range = [sector, count];
    // SAFETY: the kernel reads two numbers, which outlive the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), call as libc::Ioctl, range.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

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
