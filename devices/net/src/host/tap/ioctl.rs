//! What `/dev/net/tun` is asked (Documentation/networking/tuntap.rst), and the interface behind it (netdevice(7)). The kernel
//! is trusted; names and numbers are the user's.
#![allow(unsafe_code, reason = "ioctl(2) with arguments of the sizes that the kernel's headers give")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use outboard_device::defs::net::HEADER_LEN;
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// The longest name of an interface, in bytes.
pub(super) const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// `SIOCETHTOOL`: whether there is a link (linux/ethtool.h).
const ETHTOOL_GLINK: u32 = 0x0a;

/// What `SIOCETHTOOL` is asked, and its answer (linux/ethtool.h: `ethtool_value`).
#[repr(C)]
struct EthtoolValue {
    command: u32,
    value: u32,
}

/// Opens the tap interface `name`, or makes it, with virtio headers before its frames; as one of several queues of it, or as
/// its only one.
///
/// # Errors
/// `EPERM` without the right to it, `EBUSY` if somebody has it, `EINVAL` if the interface is no tap, or one of another
/// number of queues.
pub(super) fn open_tap(name: &str, has_queues: bool) -> io::Result<OwnedFd> {
    let tun = open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    let queues = if has_queues { libc::IFF_MULTI_QUEUE } else { 0 };
    let mut request = request(name);
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
    let mut request = request("");
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
    let mut request = request("");
    request.ifr_ifru.ifru_flags = short(if on { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE });
    // SAFETY: the call takes the address of a request, which is borrowed for it.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETQUEUE, &raw mut request) })
}

/// Whether the interface is up, and has a carrier.
///
/// # Errors
/// The interface is gone, or in a namespace of its own.
pub(super) fn has_link(tap: &OwnedFd) -> io::Result<bool> {
    let mut value = EthtoolValue { command: ETHTOOL_GLINK, value: 0 };
    let mut request = request_of(tap)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request has the address of a value of the command's size; both are borrowed for the call.
    check(unsafe { libc::ioctl(any_socket()?.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) })?;
    Ok(value.value != 0)
}

/// The longest packet, without its Ethernet header, in bytes.
///
/// # Errors
/// The interface is gone, or in a namespace of its own.
pub(super) fn mtu(tap: &OwnedFd) -> io::Result<u16> {
    let mut request = request_of(tap)?;
    // SAFETY: the call takes the address of a request, which is borrowed for it and filled in.
    check(unsafe { libc::ioctl(any_socket()?.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) })?;
    // SAFETY: the kernel has filled in the number.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// What interfaces are asked through.
fn any_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn request_of(tap: &OwnedFd) -> io::Result<libc::ifreq> {
    Ok(request(&name_of(tap)?.unwrap_or_default()))
}

/// A request about the interface `name`.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid request: it has numbers and pointers, of which none is looked at.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.get_mut(..MAX_NAME).unwrap_or_default();
    for (place, byte) in room.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed() as libc::c_char;
    }
    request
}

const fn short(flags: libc::c_int) -> libc::c_short {
    // They are all among the lower 16.
    flags as libc::c_short
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
