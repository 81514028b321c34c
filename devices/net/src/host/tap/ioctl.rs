//! What `/dev/net/tun` is asked (Documentation/networking/tuntap.rst). The kernel is trusted; names are the user's.
#![allow(unsafe_code, reason = "ioctl(2) with arguments of the sizes that the kernel's header gives")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use outboard_device::defs::net::HEADER_LEN;
use rustix::fs::{Mode, OFlags, open};

/// The longest name of an interface, in bytes.
pub(super) const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// Opens the tap interface `name`, or makes it, with virtio headers before its frames.
///
/// # Errors
/// `EPERM` without the right to it, `EBUSY` if somebody has it, `EINVAL` if the interface is no tap.
pub(super) fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let tun = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: all zeroes is a valid request: it has numbers and pointers, of which none is looked at.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.get_mut(..MAX_NAME).unwrap_or_default();
    for (place, byte) in room.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the call takes the address of a request, which is borrowed for it.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    let len = HEADER_LEN as libc::c_int;
    // SAFETY: the call takes the address of a number.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })?;
    Ok(tun)
}

/// Sets what the kernel need not do for frames that it gives, a mask of `TUN_F_*`. `EINVAL` if it does not know some.
pub(super) fn set_offload(tap: impl AsFd, mask: u32) -> io::Result<()> {
    // SAFETY: the call takes a number.
    check(unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
