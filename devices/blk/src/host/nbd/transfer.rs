//! Vectored system calls on a socket, with pieces of guest memory among what they move. The guest may change its bytes
//! while they are sent: what goes over the wire is then what it was at one moment or another, as with any disk.
#![allow(unsafe_code)] // sendmsg and readv on guest memory, which is no Rust slice

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use libc::iovec;
use outboard_device::{host_io, pieces};

use super::pending::{Payload, Room};

/// The most pieces that one call moves.
const PIECES: usize = 256;

/// What one system call sends.
pub(super) struct Outgoing<'a> {
    pieces: [MaybeUninit<iovec>; PIECES],
    count: usize,
    life: PhantomData<&'a [u8]>,
}

impl<'a> Outgoing<'a> {
    pub(super) const fn new() -> Self {
        Self { pieces: [MaybeUninit::uninit(); PIECES], count: 0, life: PhantomData }
    }

    /// Adds bytes; false: there is no room for more, here or hereafter.
    pub(super) fn push(&mut self, bytes: &'a [u8]) -> bool {
        bytes.is_empty()
            || self.add(iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() })
    }

    /// Adds the first `len` bytes of data. As above.
    pub(super) fn push_payload(&mut self, payload: Payload<'a>, len: usize) -> bool {
        match payload {
            Payload::Bytes(bytes) => self.push(bytes.get(..len).unwrap_or(bytes)),
            Payload::Chain(chain, at) => pieces(chain.readable(), at, len).all(|piece| self.add(piece)),
            Payload::Zeroes => {
                let mut left = len;
                while left > 0 {
                    let zeroes = host_io::zeroes(left as u64);
                    if !self.push(zeroes) {
                        return false;
                    }
                    left -= zeroes.len();
                }
                true
            }
        }
    }

    /// The piece is part of what lives for `'a`.
    fn add(&mut self, piece: iovec) -> bool {
        let Some(place) = self.pieces.get_mut(self.count) else { return false };
        place.write(piece);
        self.count += 1;
        true
    }

    /// Sends as much as the socket takes, without waiting. Returns how much that was.
    pub(super) fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: all zeroes is a message without anything.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.pieces.as_ptr().cast_mut().cast();
        message.msg_iovlen = self.count as _;
        retry(|| {
            // SAFETY: the first `count` pieces are initialised and lie in slices, or in chains that keep guest memory
            // mapped, both borrowed for `'a`; the kernel only reads them.
            unsafe {
                libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
            }
        })
    }
}

/// Receives up to `len` bytes into `room`, and what follows them into `behind`, without waiting (the socket does not
/// block). Returns how much that was in all.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    room: Room<'_>,
    len: usize,
    behind: &mut [u8],
) -> io::Result<usize> {
    let mut vecs = [iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES];
    let (mut count, mut listed) = (0, 0);
    let mut add = |piece: iovec| {
        // The last place is for what follows.
        if count < PIECES - 1
            && let Some(place) = vecs.get_mut(count)
        {
            *place = piece;
            count += 1;
            listed += piece.iov_len;
        }
    };
    match room {
        Room::Chain(chain, at) => pieces(chain.writable(), at, len).for_each(&mut add),
        Room::Bytes(bytes) => {
            let bytes = bytes.get_mut(..len).unwrap_or_default();
            add(iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        }
    }
    if listed == len
        && let Some(place) = vecs.get_mut(count)
    {
        *place = iovec { iov_base: behind.as_mut_ptr().cast(), iov_len: behind.len() };
        count += 1;
    }
    // SAFETY: the first `count` are pieces of the chain or of the slices, which the caller lends mutably until this
    // returns, and nobody else touches; there are no more than the kernel takes.
    retry(|| unsafe { libc::readv(socket.as_raw_fd(), vecs.as_ptr(), count as libc::c_int) })
}

fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(count);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
