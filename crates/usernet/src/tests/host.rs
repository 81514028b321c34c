//! Sockets that a test holds.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use crate::{Ending, SocketId, Sockets};

/// The other end of a socket.
#[derive(Default)]
pub(super) struct End {
    pub(super) to: Option<SocketAddr>,
    /// What became of the connection, once that is known.
    pub(super) outcome: Option<Result<(), ErrorKind>>,
    /// What is there to be read: a stream, or datagrams.
    pub(super) inbox: VecDeque<u8>,
    pub(super) datagrams_in: VecDeque<Vec<u8>>,
    pub(super) eof: bool,
    pub(super) broken: Option<ErrorKind>,
    /// What was written.
    pub(super) outbox: Vec<u8>,
    pub(super) datagrams_out: Vec<Vec<u8>>,
    /// How much more may be written.
    pub(super) room: usize,
    pub(super) shut: bool,
    pub(super) closed: Option<Ending>,
}

#[derive(Default)]
pub(super) struct Fake {
    pub(super) ends: HashMap<u32, End>,
    /// Connections to forwarded ports that nobody has taken yet.
    pub(super) arrived: VecDeque<SocketAddr>,
    pub(super) datagrams_arrived: VecDeque<(Vec<u8>, SocketAddr)>,
    pub(super) answered: Vec<(Vec<u8>, SocketAddr)>,
    pub(super) refuses: Option<ErrorKind>,
    pub(super) no_resolver: bool,
}

fn wait() -> io::Error {
    ErrorKind::WouldBlock.into()
}

impl Fake {
    fn open(&mut self, end: End) -> io::Result<SocketId> {
        if let Some(kind) = self.refuses {
            return Err(kind.into());
        }
        let id = self.ends.len() as u32;
        self.ends.insert(id, End { room: usize::MAX, ..end });
        Ok(SocketId(id))
    }

    pub(super) fn end(&mut self, socket: SocketId) -> &mut End {
        self.ends.get_mut(&socket.0).unwrap()
    }

    /// The one socket that is not closed.
    pub(super) fn only(&self) -> SocketId {
        let open: Vec<_> = self.ends.iter().filter(|(_, end)| end.closed.is_none()).collect();
        assert_eq!(open.len(), 1);
        SocketId(*open[0].0)
    }
}

impl Sockets for Fake {
    fn connect(&mut self, to: SocketAddr) -> io::Result<SocketId> {
        self.open(End { to: Some(to), ..End::default() })
    }

    fn outcome(&mut self, socket: SocketId) -> io::Result<()> {
        self.end(socket).outcome.ok_or_else(wait)?.map_err(Into::into)
    }

    fn accept(&mut self, _: usize) -> io::Result<(SocketId, SocketAddr)> {
        let from = self.arrived.pop_front().ok_or_else(wait)?;
        Ok((self.open(End::default())?, from))
    }

    fn udp(&mut self, to: SocketAddr) -> io::Result<SocketId> {
        self.open(End { to: Some(to), ..End::default() })
    }

    fn ping(&mut self, to: IpAddr) -> io::Result<SocketId> {
        self.open(End { to: Some((to, 0).into()), ..End::default() })
    }

    fn read(&mut self, socket: SocketId, into: &mut [u8]) -> io::Result<usize> {
        let end = self.end(socket);
        assert!(end.closed.is_none());
        if let Some(kind) = end.broken {
            return Err(kind.into());
        }
        if let Some(datagram) = end.datagrams_in.pop_front() {
            let len = datagram.len().min(into.len());
            into[..len].copy_from_slice(&datagram[..len]);
            return Ok(len);
        }
        if end.inbox.is_empty() && !end.eof {
            return Err(wait());
        }
        let len = end.inbox.len().min(into.len());
        into.iter_mut().zip(end.inbox.drain(..len)).for_each(|(to, from)| *to = from);
        Ok(len)
    }

    fn write(&mut self, socket: SocketId, data: &[u8]) -> io::Result<usize> {
        let end = self.end(socket);
        assert!(end.closed.is_none() && !end.shut);
        if let Some(kind) = end.broken {
            return Err(kind.into());
        }
        let len = data.len().min(end.room);
        if len == 0 && !data.is_empty() {
            return Err(wait());
        }
        end.room -= len;
        end.outbox.extend_from_slice(&data[..len]);
        end.datagrams_out.push(data.to_vec());
        Ok(len)
    }

    fn read_from(&mut self, _: usize, into: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (datagram, from) = self.datagrams_arrived.pop_front().ok_or_else(wait)?;
        into[..datagram.len()].copy_from_slice(&datagram);
        Ok((datagram.len(), from))
    }

    fn write_to(&mut self, _: usize, data: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.answered.push((data.to_vec(), to));
        Ok(data.len())
    }

    fn shutdown(&mut self, socket: SocketId) {
        self.end(socket).shut = true;
    }

    fn close(&mut self, socket: SocketId, ending: Ending) {
        let closed = &mut self.end(socket).closed;
        assert_eq!(*closed, None, "closed once");
        *closed = Some(ending);
    }

    fn resolver(&mut self) -> Option<SocketAddr> {
        (!self.no_resolver).then(|| ([198, 51, 100, 53], 53).into())
    }
}
