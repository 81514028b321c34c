//! The program of the host at the far end of a measured connection, in a thread of this process.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketType};

use super::process::pin_this_thread;
use super::vsock::Direction;

/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// It listens at a UNIX socket, and has one connection at a time. Ended when dropped.
pub(super) struct Program {
    path: PathBuf,
    listener: std::sync::Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Program {
    /// Starts it, on that CPU. It sends `len` bytes at a time, if it is to send.
    ///
    /// # Errors
    /// Something is at that path; the host refuses.
    pub(super) fn start(
        path: &Path,
        direction: Direction,
        messages: bool,
        len: usize,
        cpu: Option<usize>,
    ) -> Result<Self> {
        let kind = if messages { SocketType::SEQPACKET } else { SocketType::STREAM };
        let listen = || -> std::io::Result<OwnedFd> {
            let socket = rustix::net::socket(AddressFamily::UNIX, kind, None)?;
            rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
            rustix::net::listen(&socket, 1)?;
            Ok(socket)
        };
        let socket = listen().with_context(|| format!("cannot listen at {}", path.display()))?;
        let listener = std::sync::Arc::new(socket);
        let socket = std::sync::Arc::clone(&listener);
        let thread = thread::spawn(move || {
            // Where it cannot be kept there it runs anywhere.
            let _ = cpu.map(|cpu| pin_this_thread(&[cpu]));
            while let Ok(connection) = rustix::net::accept(&*socket) {
                // It ends with its connection.
                let _ = talk(connection, direction, len);
            }
        });
        Ok(Self { path: path.to_owned(), listener, thread: Some(thread) })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        // Whoever waits for a connection hears of it.
        let _ = rustix::net::shutdown(&*self.listener, Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Plays the far end until there is no other.
fn talk(connection: OwnedFd, direction: Direction, len: usize) -> std::io::Result<()> {
    let mut stream = std::os::unix::net::UnixStream::from(connection);
    let mut room = vec![0; PIECE];
    loop {
        let count = match direction {
            Direction::Receive => {
                let piece = room.get(..len).unwrap_or(&room);
                stream.write_all(piece)?;
                continue;
            }
            _ => stream.read(&mut room)?,
        };
        if count == 0 {
            return Ok(());
        }
        if direction == Direction::Echo {
            stream.write_all(room.get(..count).unwrap_or_default())?;
        }
    }
}
