//! What `/dev/net/tun` is asked (Documentation/networking/tuntap.rst). The kernel is trusted; names and numbers are the
//! user's.
#![allow(unsafe_code, reason = "ioctl(2) with arguments of the sizes that the kernel's headers give")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use outboard_device::defs::net::HEADER_LEN;
use rustix::fs::{Mode, OFlags, open};

use crate::host::netdevice::{check, request};

/// Opens the tap interface `name`, or makes it, with virtio headers before its frames; as one of several queues of it, or as
/// its only one.
///
/// # Errors
/// `EPERM` without the right to it, `EBUSY` if somebody has it, `EINVAL` if the interface is no tap, or one of another
/// number of queues.
pub(super) fn open_tap(name: &str, has_queues: bool) -> io::Result<OwnedFd> {
    let tun = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let queues = if has_queues { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = short(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | queues);
    // SAFETY: the call takes the address of a request, which is borrowed for it.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    set_header_len(&tun)?;
    Ok(tun)
}

/// A descriptor of our own for what the number of an inherited one is open on. That one stays as it is.
///
/// # Errors
/// `EBADF` if it is not open.
pub(super) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the call looks a number up; any number is allowed.
    let own = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    check(own)?;
    // SAFETY: the kernel has just made it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(own) })
}

/// Makes an interface that somebody else has opened what [`open_tap`] makes of it.
pub(super) fn set_up(tap: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(tap)?;
    rustix::fs::fcntl_setfl(tap, flags | OFlags::NONBLOCK)?;
    set_header_len(tap)
}

fn set_header_len(tap: &OwnedFd) -> io::Result<()> {
    let len = HEADER_LEN as libc::c_int;
    // SAFETY: the call takes the address of a number.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

/// What the interface is called now; `None` if it is no tap, or has no virtio headers before its frames.
///
/// # Errors
/// `ENOTTY` if the descriptor is no such interface's; `EBADFD` if it has none, or has it no more.
pub(super) fn name_of(tap: &OwnedFd) -> io::Result<Option<String>> {
    let mut request = request("")?;
    // SAFETY: the call takes the address of a request, which is borrowed for it and filled in.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: the kernel has filled in the flags.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    let wanted = libc::IFF_TAP | libc::IFF_VNET_HDR;
    let name = request.ifr_name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0);
    let name = String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned();
    Ok((flags & wanted == wanted).then_some(name))
}

/// Sets what the kernel need not do for frames that it gives, a mask of `TUN_F_*`. `EINVAL` if it does not know some.
pub(super) fn set_offload(tap: impl AsFd, mask: u32) -> io::Result<()> {
    // SAFETY: the call takes a number.
    check(unsafe { libc::ioctl(tap.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) })
}

/// Has the kernel use a queue, or not. It must have been the other way before, or it is `EINVAL`.
pub(super) fn attach(tap: &OwnedFd, on: bool) -> io::Result<()> {
    let mut request = request("")?;
    request.ifr_ifru.ifru_flags = short(if on { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE });
    // SAFETY: the call takes the address of a request, which is borrowed for it.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETQUEUE, &raw mut request) })
}

const fn short(flags: libc::c_int) -> libc::c_short {
    // They are all among the lower 16.
    flags as libc::c_short
}
