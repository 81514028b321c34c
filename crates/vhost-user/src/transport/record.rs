//! Keeps every frame that goes by, without its descriptors.
//!
//! One record: a byte for the direction (0 received, 1 sent), a byte with the number of descriptors, then header and
//! payload as on the wire.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use super::{Direction, Transport};
use crate::message::{Frame, Header, MAX_BODY};

/// Writes each frame to `sink`. Recording is beside the point of the connection: when the sink fails, it stops.
#[derive(Debug)]
pub struct Record<T, W> {
    inner: T,
    sink: Option<W>,
}

/// A frame as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Which way it went.
    pub direction: Direction,
    /// How many descriptors it carried.
    pub fds: u8,
    /// Its header.
    pub header: Header,
    /// Its payload.
    pub body: Vec<u8>,
}

impl<T: Transport, W: Write + Send> Record<T, W> {
    /// Around `inner`.
    pub fn new(inner: T, sink: W) -> Self {
        Self { inner, sink: Some(sink) }
    }

    fn keep(&mut self, direction: Direction, frame: &Frame) {
        let fds = u8::try_from(frame.fds.len()).unwrap_or(u8::MAX);
        let mut record = vec![u8::from(direction == Direction::Sent), fds];
        record.extend_from_slice(&frame.to_bytes());
        if self.sink.as_mut().is_some_and(|sink| sink.write_all(&record).is_err()) {
            self.sink = None;
        }
    }
}

impl<T: Transport, W: Write + Send> Transport for Record<T, W> {
    fn receive(&mut self) -> io::Result<Option<Frame>> {
        let frame = self.inner.receive()?;
        if let Some(frame) = &frame {
            self.keep(Direction::Received, frame);
        }
        Ok(frame)
    }

    fn send(&mut self, frame: Frame) -> io::Result<()> {
        self.keep(Direction::Sent, &frame);
        self.inner.send(frame)
    }

    fn send_split(&mut self, frame: Frame, piece: usize) -> io::Result<()> {
        self.keep(Direction::Sent, &frame);
        self.inner.send_split(frame, piece)
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}

/// Reads the next record; `None` at the end of the recording.
pub fn read_record(source: &mut impl Read) -> io::Result<Option<Recorded>> {
    let mut start = [0; 2];
    match source.read(&mut start)? {
        0 => return Ok(None),
        1 => source.read_exact(start.get_mut(1..).unwrap_or_default())?,
        _ => {}
    }
    let [direction, fds] = start;
    let mut header = [0; Header::LEN];
    source.read_exact(&mut header)?;
    let header: Header = zerocopy::transmute!(header);
    if header.size > MAX_BODY {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a record above the limit"));
    }
    let mut body = vec![0; usize::try_from(header.size).map_err(io::Error::other)?];
    source.read_exact(&mut body)?;
    let direction = if direction == 0 { Direction::Received } else { Direction::Sent };
    Ok(Some(Recorded { direction, fds, header, body }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::pair;

    #[test]
    fn record_both_ways_reads_back() {
        let (front, mut back) = pair();
        let mut kept = Vec::new();
        let mut front = Record::new(front, &mut kept);
        front.send(Frame { request: 1, flags: 1, ..Frame::default() }).unwrap();
        back.receive().unwrap().unwrap();
        back.send(Frame { request: 1, flags: 5, body: vec![9; 8], fds: Vec::new() }).unwrap();
        front.receive().unwrap().unwrap();
        drop(front);

        let mut source = kept.as_slice();
        let sent = read_record(&mut source).unwrap().unwrap();
        assert_eq!((sent.direction, sent.header.request, sent.body.len()), (Direction::Sent, 1, 0));
        let received = read_record(&mut source).unwrap().unwrap();
        assert_eq!((received.direction, received.header.flags), (Direction::Received, 5));
        assert_eq!(received.body, [9; 8]);
        assert_eq!(read_record(&mut source).unwrap(), None);
    }
}
