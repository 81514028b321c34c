//! Two transports joined in memory, for tests that have no use for a socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::event::{EventfdFlags, eventfd};

use super::Transport;
use crate::message::Frame;

/// One end of a pair. Frames pass with their descriptors; dropping an end closes it for the other.
#[derive(Debug)]
pub struct PairTransport {
    incoming: Receiver<Frame>,
    outgoing: Option<Sender<Frame>>,
    /// Counts the frames in `incoming`, and one for the end.
    ready: Arc<OwnedFd>,
    peer_ready: Arc<OwnedFd>,
}

/// Two ends.
///
/// # Panics
/// If the kernel gives no eventfd.
#[allow(clippy::expect_used, reason = "for tests: without descriptors they cannot go on")]
pub fn pair() -> (PairTransport, PairTransport) {
    let ready = || Arc::new(eventfd(0, EventfdFlags::SEMAPHORE | EventfdFlags::CLOEXEC).expect("an eventfd"));
    let (left_ready, right_ready) = (ready(), ready());
    let (to_right, from_left) = channel();
    let (to_left, from_right) = channel();
    let end = |incoming, outgoing, ready: &Arc<_>, peer_ready: &Arc<_>| PairTransport {
        incoming,
        outgoing: Some(outgoing),
        ready: Arc::clone(ready),
        peer_ready: Arc::clone(peer_ready),
    };
    (end(from_right, to_right, &left_ready, &right_ready), end(from_left, to_left, &right_ready, &left_ready))
}

fn announce(ready: &OwnedFd) -> io::Result<()> {
    rustix::io::write(ready, &1u64.to_ne_bytes())?;
    Ok(())
}

impl Transport for PairTransport {
    fn receive(&mut self) -> io::Result<Option<Frame>> {
        rustix::io::read(&*self.ready, &mut [0; 8])?;
        if let Ok(frame) = self.incoming.try_recv() {
            return Ok(Some(frame));
        }
        // The end, which stays the end.
        announce(&self.ready)?;
        Ok(None)
    }

    fn send(&mut self, frame: Frame) -> io::Result<()> {
        let sent = self.outgoing.as_ref().is_some_and(|outgoing| outgoing.send(frame).is_ok());
        if sent { announce(&self.peer_ready) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Drop for PairTransport {
    fn drop(&mut self) {
        self.outgoing = None;
        // If it fails the peer is gone as well: nobody is left to be told.
        let _ = announce(&self.peer_ready);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_dropped_end_is_the_end_for_the_other() {
        let (mut left, mut right) = pair();
        left.send(Frame { request: 7, ..Frame::default() }).unwrap();
        drop(left);
        assert_eq!(right.receive().unwrap().unwrap().request, 7);
        assert!(right.receive().unwrap().is_none());
        assert!(right.receive().unwrap().is_none());
        assert_eq!(right.send(Frame::default()).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
