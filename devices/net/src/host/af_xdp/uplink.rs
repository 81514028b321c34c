//! A queue of an interface as the way out of a switch: what guests send comes from their own threads, so the half of the
//! socket that sends has a lock.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use outboard_device::{Chain, DeviceError};
use outboard_frames::{Offload, Takes};

use super::interface::Interface;
use super::options::XdpOptions;
use super::socket::{Receiver, Sender};
use crate::host::{Inbound, Outbound, Ways};

/// So many frames may wait to be filled again.
const AT_ONCE: u32 = 64;

/// Opens one queue of an interface.
///
/// # Errors
/// As of [`Interface::open`].
pub(super) fn open(name: &str, queue: u16) -> Result<Ways, DeviceError> {
    let options =
        XdpOptions { interface: Some(name.to_owned()), queue: Some(queue), ..XdpOptions::default() };
    let (interface, receiver, sender) = Interface::open_one(&options)?;
    Ok(Ways {
        out: Box::new(Out { sender: Mutex::new(sender), _interface: interface }),
        back: Box::new(In { receiver }),
    })
}

#[derive(Debug)]
struct Out {
    sender: Mutex<Sender>,
    /// Its program ends with it.
    _interface: Interface,
}

impl Outbound for Out {
    /// None of the work on packets.
    fn takes(&self) -> Takes {
        Takes::default()
    }

    fn send(&self, _: &Offload, frame: &[u8]) -> io::Result<()> {
        self.write(frame.len(), |room| {
            room.copy_from_slice(frame);
            true
        })
    }

    fn send_behind(&self, _: &Offload, front: &mut Vec<u8>, rest: &mut Chain) -> io::Result<()> {
        self.write(front.len() + rest.readable_len(), |room| {
            let Some((head, tail)) = room.split_at_mut_checked(front.len()) else { return false };
            head.copy_from_slice(front);
            rest.read_exact(tail).is_ok()
        })
    }
}

impl Out {
    fn write(&self, len: usize, write: impl FnOnce(&mut [u8]) -> bool) -> io::Result<()> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.send(len, write)?;
        // What is not sent now is sent with the next, or when the reader looks for packets.
        sender.flush().map(|_| ())
    }
}

#[derive(Debug)]
struct In {
    receiver: Receiver,
}

impl Inbound for In {
    fn fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }

    fn next(&mut self) -> io::Result<Option<(Offload, &[u8])>> {
        self.receiver.done();
        if self.receiver.hidden() >= AT_ONCE || !self.receiver.has_packet() {
            self.receiver.refill();
        }
        let packet = self.receiver.packet().ok_or(io::ErrorKind::WouldBlock)?;
        Ok(Some((Offload::None, packet)))
    }
}
