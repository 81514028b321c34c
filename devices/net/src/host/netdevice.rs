//! Interfaces of the host, by their names (netdevice(7)). The kernel is trusted; names are the user's.
#![allow(unsafe_code, reason = "ioctl(2) with arguments of the sizes that the kernel's headers give")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

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

/// The name of an interface, on a command line.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let fits = (1..=MAX_NAME).contains(&text.len());
    if fits && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'%') {
        return Ok(text.to_owned());
    }
    Err(format!("the name of an interface has 1 to {MAX_NAME} letters, digits and signs"))
}

/// Whether the interface is up, and has a carrier.
///
/// # Errors
/// The interface is gone, or in a namespace of its own.
pub(super) fn has_link(name: &str) -> io::Result<bool> {
    let mut value = EthtoolValue { command: ETHTOOL_GLINK, value: 0 };
    let mut request = request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request has the address of a value of the command's size; both are borrowed for the call.
    check(unsafe { libc::ioctl(any_socket()?.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) })?;
    Ok(value.value != 0)
}

/// The longest packet, without its Ethernet header, in bytes.
///
/// # Errors
/// The interface is gone, or in a namespace of its own.
pub(super) fn mtu(name: &str) -> io::Result<u16> {
    let mut request = request(name)?;
    // SAFETY: the call takes the address of a request, which is borrowed for it and filled in.
    check(unsafe { libc::ioctl(any_socket()?.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) })?;
    // SAFETY: the kernel has filled in the number.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

/// What interfaces are asked through.
pub(super) fn any_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// A request about the interface `name`.
///
/// # Errors
/// `EINVAL`: no interface has a name that long.
pub(super) fn request(name: &str) -> io::Result<libc::ifreq> {
    if name.len() > MAX_NAME {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: all zeroes is a valid request: it has numbers and pointers, of which none is looked at.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte.cast_signed() as libc::c_char;
    }
    Ok(request)
}

/// What a call has answered.
pub(super) fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_about_a_name_that_is_too_long_is_refused() {
        assert_eq!(request("abcdefghijklmnop").err().unwrap().raw_os_error(), Some(libc::EINVAL));
        let bytes = request("abcdefghijklmno").unwrap().ifr_name.map(libc::c_char::cast_unsigned);
        assert_eq!(&bytes, b"abcdefghijklmno\0");
    }
}
