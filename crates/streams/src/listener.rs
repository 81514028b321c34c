//! Where connections come in.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use outboard_daemon::SocketFile;
use outboard_device::DeviceError;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, sockopt};

use crate::stream::new_socket;
use crate::vm_address::VmAddress;
use crate::{Address, Form, Stream};

/// How many may wait to be accepted.
const BACKLOG: i32 = 128;

/// Who may connect to a UNIX address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Those whom the umask leaves.
    Umask,
    /// The program's own user.
    Private,
}

/// An address at which connections come in. It does not block. Dropped, a UNIX socket leaves no file.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    form: Form,
    address: Address,
}

#[derive(Debug)]
enum Socket {
    File(SocketFile),
    Other(OwnedFd),
}

impl Listener {
    /// Listens at `address`. Of AF_VSOCK, `form` is what goes over its connections; the others say it themselves.
    ///
    /// # Errors
    /// Somebody else listens there, or the host refuses.
    pub fn open(address: &Address, form: Form, access: Access) -> Result<Self, DeviceError> {
        let failed = |error: io::Error| DeviceError::host(format!("cannot listen at {address}"), error);
        let file = |listened: Result<SocketFile, _>| -> Result<Socket, DeviceError> {
            let file = listened.map_err(|error| DeviceError::Invalid(chain(&error)))?;
            file.listener().set_nonblocking(true).map_err(failed)?;
            Ok(Socket::File(file))
        };
        let (socket, form) = match address {
            Address::Unix(path) => {
                let listened = match access {
                    Access::Umask => SocketFile::listen(path),
                    Access::Private => SocketFile::listen_private(path),
                };
                (file(listened)?, Form::Bytes)
            }
            Address::UnixMessages(path) => (file(SocketFile::listen_messages(path))?, Form::Messages),
            Address::Tcp(address) => {
                let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let listen = || {
                    let socket = new_socket(family, Form::Bytes)?;
                    sockopt::set_socket_reuseaddr(&socket, true)?;
                    rustix::net::bind(&socket, address)?;
                    rustix::net::listen(&socket, BACKLOG)?;
                    Ok(socket)
                };
                (Socket::Other(listen().map_err(|error: Errno| failed(error.into()))?), Form::Bytes)
            }
            Address::Vsock { cid, port } => {
                let listen = || {
                    let socket = new_socket(AddressFamily::VSOCK, form)?;
                    rustix::net::bind(&socket, &VmAddress { cid: *cid, port: *port })?;
                    rustix::net::listen(&socket, BACKLOG)?;
                    Ok(socket)
                };
                (Socket::Other(listen().map_err(|error: Errno| failed(error.into()))?), form)
            }
        };
        Ok(Self { socket, form, address: address.clone() })
    }

    /// The next connection, if one has come in.
    ///
    /// # Errors
    /// Too many descriptors, or whatever else the host has against it. Those who wait stay.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        loop {
            match rustix::net::accept_with(self, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Ok(Some(Stream::of(socket, self.form, &self.address))),
                // Gone before it was accepted: perhaps not the next.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What goes over its connections.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// The TCP port that it has, also where the host chose it; `None` of another family.
    #[must_use]
    pub fn tcp_port(&self) -> Option<u16> {
        let address = rustix::net::getsockname(self).ok()?;
        std::net::SocketAddr::try_from(address).ok().map(|address| address.port())
    }
}

/// An error with its cause.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::File(file) => file.listener().as_fd(),
            Socket::Other(socket) => socket.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dial;

    fn meet(listener: &Listener, address: &Address) -> (Stream, Stream) {
        let (Dial::Open(one) | Dial::Coming(one)) = Stream::dial(address, listener.form()).unwrap();
        (one, listener.accept().unwrap().unwrap())
    }

    #[test]
    fn connections_of_both_forms_are_accepted_and_leave_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for (address, form) in [
            (Address::Unix(path.clone()), Form::Bytes),
            (Address::UnixMessages(path.clone()), Form::Messages),
        ] {
            let listener = Listener::open(&address, form, Access::Umask).unwrap();
            assert!(listener.accept().unwrap().is_none());
            let (one, other) = meet(&listener, &address);
            one.send(b"hi").unwrap();
            assert_eq!((other.form(), other.receive(&mut [0; 9], false).unwrap()), (form, 2));
            let taken = Listener::open(&address, form, Access::Umask).unwrap_err().to_string();
            assert!(taken.contains("already in use"), "{taken}");
            drop(listener);
            assert!(!path.exists());
        }
    }

    #[test]
    fn tcp_port_that_the_host_chose_is_known() {
        let any = "tcp:127.0.0.1:0".parse().unwrap();
        let listener = Listener::open(&any, Form::Bytes, Access::Umask).unwrap();
        let port = listener.tcp_port().unwrap();
        let address = format!("tcp:127.0.0.1:{port}").parse().unwrap();
        let (one, other) = meet(&listener, &address);
        one.outcome().unwrap();
        other.cut();
        let error = loop {
            match one.receive(&mut [0; 1], false) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                result => break result.unwrap_err(),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
