//! Loaded by the kernel's `vsock_test` on this machine (`LD_PRELOAD`), so that it plays its part by our device's UNIX sockets
//! in place of AF_VSOCK: what it binds to a port is at `PATH_PORT`, and what it connects to is said at `PATH` by
//! `CONNECT PORT`. PATH is in `OUTBOARD_VSOCK_PATH`.
//!
//! What UNIX sockets cannot do is not made up here: tests of that are left out (docs/devices/vsock.md). Needs the standard
//! library only: it is built by the compiler alone. Trusts whoever loads it.

#![allow(unsafe_code, reason = "it stands in for functions of the C library")]

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::mem::ManuallyDrop;
use std::os::fd::FromRawFd;

const AF_UNIX: i32 = 1;
const AF_VSOCK: i32 = 40;
const SEQPACKET: i32 = 5;
const SOL_SOCKET: i32 = 1;
const SO_TYPE: i32 = 3;
const SO_DOMAIN: i32 = 39;
/// A context id, or a port, that is any.
const ANY: u32 = u32::MAX;
const EINTR: i32 = 4;
const EINVAL: i32 = 22;
const ECONNRESET: i32 = 104;
/// Numbers of system calls: the functions of these names are the ones below.
const SYS_SOCKET: i64 = 41;
const SYS_CONNECT: i64 = 42;
const SYS_ACCEPT: i64 = 43;
const SYS_BIND: i64 = 49;

/// `struct sockaddr_vm` of the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct VmAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    zero: [u8; 4],
}

/// `struct sockaddr_un` of the kernel.
#[repr(C)]
struct UnixAddress {
    family: u16,
    path: [u8; 108],
}

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
    fn getsockopt(socket: i32, level: i32, name: i32, value: *mut i32, len: *mut u32) -> i32;
    fn __errno_location() -> *mut i32;
}

/// See socket(2).
#[unsafe(no_mangle)]
pub extern "C" fn socket(domain: i32, kind: i32, protocol: i32) -> i32 {
    let domain = if domain == AF_VSOCK { AF_UNIX } else { domain };
    // SAFETY: takes no pointer.
    unsafe { syscall(SYS_SOCKET, domain, kind, protocol) as i32 }
}

/// See bind(2).
///
/// # Safety
/// The address is as long as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind(socket: i32, address: *const VmAddress, len: u32) -> i32 {
    // SAFETY: as the caller has it.
    let Some(VmAddress { port, .. }) = (unsafe { vm_address(address, len) }) else {
        // SAFETY: as the caller has it.
        return unsafe { syscall(SYS_BIND, socket, address, len) as i32 };
    };
    let Some((path, address)) = unix_address(&format!("_{port}")) else { return fail(EINVAL) };
    // The one before it has left it, if there was one.
    let _ = std::fs::remove_file(path);
    // SAFETY: the address lives during the call, and is as long as is said.
    unsafe { syscall(SYS_BIND, socket, &raw const address, size_of::<UnixAddress>()) as i32 }
}

/// See connect(2).
///
/// # Safety
/// The address is as long as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn connect(socket: i32, address: *const VmAddress, len: u32) -> i32 {
    // SAFETY: as the caller has it.
    let Some(VmAddress { port, .. }) = (unsafe { vm_address(address, len) }) else {
        // SAFETY: as the caller has it.
        return unsafe { syscall(SYS_CONNECT, socket, address, len) as i32 };
    };
    let messages = option(socket, SO_TYPE) == SEQPACKET;
    let Some((_, address)) = unix_address(if messages { ".seqpacket" } else { "" }) else {
        return fail(EINVAL);
    };
    // SAFETY: the address lives during the call, and is as long as is said.
    if unsafe { syscall(SYS_CONNECT, socket, &raw const address, size_of::<UnixAddress>()) } < 0 {
        return -1;
    }
    match greet(socket, port, messages) {
        Ok(()) => 0,
        Err(error) if error.kind() == ErrorKind::Interrupted => fail(EINTR),
        // AF_VSOCK says so of a guest in which nobody listens.
        Err(_) => fail(ECONNRESET),
    }
}

/// See accept(2).
///
/// # Safety
/// The address is null, or has room for as much as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn accept(socket: i32, address: *mut VmAddress, len: *mut u32) -> i32 {
    if option(socket, SO_DOMAIN) != AF_UNIX || address.is_null() {
        // SAFETY: as the caller has it.
        return unsafe { syscall(SYS_ACCEPT, socket, address, len) as i32 };
    }
    let nowhere = std::ptr::null_mut::<u32>();
    // SAFETY: no address is asked for.
    let accepted = unsafe { syscall(SYS_ACCEPT, socket, nowhere, nowhere) as i32 };
    // Who it is, is not known.
    let from = VmAddress { family: AF_VSOCK as u16, reserved: 0, port: ANY, cid: ANY, zero: [0; 4] };
    // SAFETY: the caller has room for an address of this family.
    unsafe {
        address.write(from);
        len.write(size_of::<VmAddress>() as u32);
    }
    accepted
}

/// An address of AF_VSOCK, if it is one.
///
/// # Safety
/// It is as long as is said.
unsafe fn vm_address(address: *const VmAddress, len: u32) -> Option<VmAddress> {
    if address.is_null() || (len as usize) < size_of::<VmAddress>() {
        return None;
    }
    // SAFETY: there is as much.
    let address = unsafe { address.read_unaligned() };
    (i32::from(address.family) == AF_VSOCK).then_some(address)
}

/// PATH with something behind it.
fn unix_address(end: &str) -> Option<(String, UnixAddress)> {
    let path = std::env::var("OUTBOARD_VSOCK_PATH").ok()? + end;
    let mut address = UnixAddress { family: AF_UNIX as u16, path: [0; 108] };
    address.path.get_mut(..path.len())?.copy_from_slice(path.as_bytes());
    Some((path, address))
}

/// Says which port of the guest is wanted, and hears whether the guest accepts.
fn greet(socket: i32, port: u32, messages: bool) -> io::Result<()> {
    // SAFETY: it is open, and not closed here.
    let mut socket = ManuallyDrop::new(unsafe { File::from_raw_fd(socket) });
    socket.write_all(format!("CONNECT {port}\n").as_bytes())?;
    // No more of bytes than this line: what is behind it is the caller's.
    let mut room = [0; 32];
    let at_once = if messages { room.len() } else { 1 };
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let part = room.get_mut(..at_once).unwrap_or_default();
        let len = socket.read(part)?;
        line.extend(part.get(..len).unwrap_or_default());
        if len == 0 || line.len() > 32 {
            return Err(ErrorKind::ConnectionReset.into());
        }
    }
    if line.starts_with(b"OK ") { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// An option of a socket that is a number; -1 if it has none.
fn option(socket: i32, name: i32) -> i32 {
    let (mut value, mut len) = (-1, size_of::<i32>() as u32);
    // SAFETY: there is room for a number, and for its length.
    let _ = unsafe { getsockopt(socket, SOL_SOCKET, name, &raw mut value, &raw mut len) };
    value
}

fn fail(code: i32) -> i32 {
    // SAFETY: it is this thread's.
    unsafe { *__errno_location() = code };
    -1
}
