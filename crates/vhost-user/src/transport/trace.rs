//! Shows every frame that goes by.

use std::io;
use std::os::fd::BorrowedFd;

use super::Transport;
use crate::message::Frame;

/// Which way a frame goes, seen from the transport's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    Received,
    /// It goes out.
    Sent,
}

/// Calls a function with each frame: after it came in, before it goes out.
#[derive(Debug)]
pub struct Trace<T, F> {
    inner: T,
    show: F,
}

impl<T: Transport, F: FnMut(Direction, &Frame) + Send> Trace<T, F> {
    /// Around `inner`.
    pub fn new(inner: T, show: F) -> Self {
        Self { inner, show }
    }
}

impl<T: Transport, F: FnMut(Direction, &Frame) + Send> Transport for Trace<T, F> {
    fn receive(&mut self) -> io::Result<Option<Frame>> {
        let frame = self.inner.receive()?;
        if let Some(frame) = &frame {
            (self.show)(Direction::Received, frame);
        }
        Ok(frame)
    }

    fn send(&mut self, frame: Frame) -> io::Result<()> {
        (self.show)(Direction::Sent, &frame);
        self.inner.send(frame)
    }

    fn send_split(&mut self, frame: Frame, piece: usize) -> io::Result<()> {
        (self.show)(Direction::Sent, &frame);
        self.inner.send_split(frame, piece)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::pair;

    #[test]
    fn trace_shows_frames_of_both_directions() {
        let (front, mut back) = pair();
        let mut shown = Vec::new();
        let mut front = Trace::new(front, |direction, frame: &Frame| shown.push((direction, frame.request)));
        front.send(Frame { request: 1, ..Frame::default() }).unwrap();
        back.send(Frame { request: 2, ..Frame::default() }).unwrap();
        front.receive().unwrap().unwrap();
        drop((front, back));
        assert_eq!(shown, [(Direction::Sent, 1), (Direction::Received, 2)]);
    }
}
