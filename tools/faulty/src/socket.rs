//! The sockets of the command line: `--socket-path`, made here and removed at the end, and `--fd`, inherited.
#![allow(unsafe_code)] // A descriptor number becomes an owned descriptor: nothing safe can do that.

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, sockopt};

use crate::faults::{Fault, Faults};

/// A listening socket; its path goes with it.
pub(crate) struct SocketFile {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    faults: Faults,
}

impl SocketFile {
    /// Listens at `path`. A socket that a dead program left there is replaced, nothing else.
    pub(crate) fn listen(path: &Path, faults: Faults) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("cannot listen on {}: {error}", path.display());
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                let stale = faults.has(Fault::SocketStolen) || is_stale(path);
                if !stale || faults.has(Fault::StaleSocketRefused) {
                    return Err(failed(error));
                }
                fs::remove_file(path).and_then(|()| UnixListener::bind(path))
            }
            bound => bound,
        };
        Ok(Self { listener: listener.map_err(failed)?, path: path.to_path_buf(), faults })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.faults.has(Fault::SocketLeftBehind) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether there is a socket on which nobody listens.
fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket
        && UnixStream::connect(path).is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// What `--fd` named.
pub(crate) enum Inherited {
    Connected(OwnedFd),
    Listening(UnixListener),
}

/// Takes the inherited descriptor `number`. To be called once, before anything else is opened.
pub(crate) fn inherit(number: RawFd) -> Result<Inherited, String> {
    if number <= 2 || fs::metadata(format!("/proc/self/fd/{number}")).is_err() {
        return Err(format!("--fd {number}: no such descriptor is open"));
    }
    // SAFETY: the descriptor is open (just looked up), and nothing in this process owns it yet: standard input, output
    // and error are excluded, and this is called once, before the first file is opened.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    match sockopt::socket_domain(&socket) {
        Ok(AddressFamily::UNIX) => {}
        _ => return Err(format!("--fd {number}: not a UNIX socket")),
    }
    if sockopt::socket_acceptconn(&socket).is_ok_and(|listens| listens) {
        return Ok(Inherited::Listening(socket.into()));
    }
    Ok(Inherited::Connected(socket))
}
