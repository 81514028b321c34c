//! Spoils frames by script, for tests of what a peer's faults do to us and ours to it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;

use super::Transport;
use crate::message::Frame;

/// What happens to a frame that is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is lost.
    Drop,
    /// Only so many bytes of its payload remain; the header agrees.
    Truncate(usize),
    /// It goes out in pieces of so many bytes.
    Split(usize),
    /// It goes out late.
    Delay(Duration),
    /// It goes out twice; the second time without descriptors.
    Duplicate,
}

/// Does to the n-th frame sent, counted from 0, what its script says.
#[derive(Debug)]
pub struct Fault<T> {
    inner: T,
    script: BTreeMap<usize, Action>,
    sent: usize,
}

impl<T: Transport> Fault<T> {
    /// Around `inner`.
    pub fn new(inner: T, script: impl IntoIterator<Item = (usize, Action)>) -> Self {
        Self { inner, script: script.into_iter().collect(), sent: 0 }
    }
}

impl<T: Transport> Transport for Fault<T> {
    fn receive(&mut self) -> io::Result<Option<Frame>> {
        self.inner.receive()
    }

    fn send(&mut self, mut frame: Frame) -> io::Result<()> {
        let action = self.script.get(&self.sent).copied();
        self.sent += 1;
        match action {
            None => self.inner.send(frame),
            Some(Action::Drop) => Ok(()),
            Some(Action::Truncate(len)) => {
                frame.body.truncate(len);
                self.inner.send(frame)
            }
            Some(Action::Split(piece)) => self.inner.send_split(frame, piece),
            Some(Action::Delay(time)) => {
                thread::sleep(time);
                self.inner.send(frame)
            }
            Some(Action::Duplicate) => {
                let Frame { request, flags, ref body, .. } = frame;
                let again = Frame { request, flags, body: body.clone(), fds: Vec::new() };
                self.inner.send(frame)?;
                self.inner.send(again)
            }
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::pair;

    fn frame(request: u32) -> Frame {
        Frame { request, flags: 1, body: vec![0; 8], fds: Vec::new() }
    }

    #[test]
    fn fault_script_spoils_the_frames_it_names() {
        let (front, mut back) = pair();
        let script = [(0, Action::Drop), (1, Action::Truncate(3)), (2, Action::Duplicate)];
        let mut front = Fault::new(front, script);
        for request in 0..4 {
            front.send(frame(request)).unwrap();
        }
        drop(front);
        let mut arrived = Vec::new();
        while let Some(frame) = back.receive().unwrap() {
            arrived.push((frame.request, frame.body.len()));
        }
        assert_eq!(arrived, [(1, 3), (2, 8), (2, 8), (3, 8)]);
    }
}
