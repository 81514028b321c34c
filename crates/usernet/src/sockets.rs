//! The seam to the host: sockets that never block, and whose readiness is told when it changes.

use std::io;
use std::net::{IpAddr, SocketAddr};

/// A socket, as the host's side numbers it. A number is used again after [`Sockets::close`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId(pub u32);

/// What a socket may be ready for again, after it was not ([`io::ErrorKind::WouldBlock`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// [`Sockets::read`] would do something: give bytes, an end, or an error.
    pub read: bool,
    /// [`Sockets::write`] would; or the outcome of [`Sockets::connect`] is there.
    pub write: bool,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both sides have said all that they had to say.
    Orderly,
    /// The peer is to hear that it was cut off.
    Reset,
}

/// Sockets of the host, or of a test. None of them blocks. The host's side tells [`UserNet::ready`](crate::UserNet::ready)
/// when one may go on, and need not tell it again before the socket has answered [`io::ErrorKind::WouldBlock`].
pub trait Sockets {
    /// Begins a TCP connection. When it is there, or has failed, the socket is ready to be written to.
    ///
    /// # Errors
    /// It cannot even begin.
    fn connect(&mut self, to: SocketAddr) -> io::Result<SocketId>;

    /// What came of [`Self::connect`].
    ///
    /// # Errors
    /// The connection failed; [`io::ErrorKind::WouldBlock`]: it is not decided yet.
    fn outcome(&mut self, socket: SocketId) -> io::Result<()>;

    /// Takes a connection that somebody made to a forwarded port, with where it comes from.
    ///
    /// # Errors
    /// There is none ([`io::ErrorKind::WouldBlock`]), or it cannot be taken.
    fn accept(&mut self, forward: usize) -> io::Result<(SocketId, SocketAddr)>;

    /// A UDP socket to one peer.
    ///
    /// # Errors
    /// The host refuses it.
    fn udp(&mut self, to: SocketAddr) -> io::Result<SocketId>;

    /// A socket for ICMP echo with one peer. What is written and read are whole messages; the host puts an identifier of
    /// its own into them.
    ///
    /// # Errors
    /// The host refuses it.
    fn ping(&mut self, to: IpAddr) -> io::Result<SocketId>;

    /// Reads bytes of a stream, or a datagram of which the rest is lost. 0 bytes: the stream has ended.
    ///
    /// # Errors
    /// There is nothing ([`io::ErrorKind::WouldBlock`]); the connection is broken.
    fn read(&mut self, socket: SocketId, into: &mut [u8]) -> io::Result<usize>;

    /// Writes bytes of a stream, or a datagram.
    ///
    /// # Errors
    /// There is no room ([`io::ErrorKind::WouldBlock`]); the connection is broken.
    fn write(&mut self, socket: SocketId, data: &[u8]) -> io::Result<usize>;

    /// Reads a datagram that somebody sent to a forwarded port.
    ///
    /// # Errors
    /// There is none ([`io::ErrorKind::WouldBlock`]).
    fn read_from(&mut self, forward: usize, into: &mut [u8]) -> io::Result<(usize, SocketAddr)>;

    /// Answers from a forwarded port.
    ///
    /// # Errors
    /// The host does not take it.
    fn write_to(&mut self, forward: usize, data: &[u8], to: SocketAddr) -> io::Result<usize>;

    /// The guest will write no more to this stream.
    fn shutdown(&mut self, socket: SocketId);

    /// The socket is not used any more.
    fn close(&mut self, socket: SocketId, ending: Ending);

    /// Who answers questions about names.
    fn resolver(&mut self) -> Option<SocketAddr>;
}
