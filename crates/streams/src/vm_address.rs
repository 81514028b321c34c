//! Addresses of the AF_VSOCK family, which the system-call crate knows by name only.
#![allow(unsafe_code, reason = "a socket address is passed to the kernel by pointer and length")]

use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

/// A context id and a port.
pub(crate) struct VmAddress {
    pub(crate) cid: u32,
    pub(crate) port: u32,
}

// SAFETY: `f` gets a pointer to a `sockaddr_vm`, all of it initialised, that lives during the call, and its length.
unsafe impl SocketAddrArg for VmAddress {
    unsafe fn with_sockaddr<R>(&self, f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R) -> R {
        // SAFETY: all zeroes are a valid `sockaddr_vm`.
        let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_cid = self.cid;
        address.svm_port = self.port;
        f((&raw const address).cast(), size_of::<libc::sockaddr_vm>() as SocketAddrLen)
    }
}
