//! One end of a connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, Shutdown,
    SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, sockopt,
};

use crate::Address;
use crate::vm_address::VmAddress;

/// The longest message that is taken where the host does not say how long it is, in bytes.
const UNTOLD: usize = 1 << 20;
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// What goes over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Bytes without borders.
    Bytes,
    /// Messages, each as it was sent.
    Messages,
}

impl Form {
    const fn socket_type(self) -> SocketType {
        match self {
            Self::Bytes => SocketType::STREAM,
            Self::Messages => SocketType::SEQPACKET,
        }
    }
}

/// Which way is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the other end to here.
    In,
    /// From here to the other end.
    Out,
}

/// An end of a connection. It does not block.
#[derive(Debug)]
pub struct Stream {
    socket: OwnedFd,
    form: Form,
    is_tcp: bool,
    is_unix: bool,
}

/// A connection that is being made.
#[derive(Debug)]
pub enum Dial {
    /// It is there.
    Open(Stream),
    /// It is there, or has failed ([`Stream::outcome`]), when it has room to write.
    Coming(Stream),
}

impl Stream {
    /// Begins a connection to `address`. A UNIX address of messages takes messages alone.
    ///
    /// # Errors
    /// Nobody listens there, or not for this form; [`io::ErrorKind::WouldBlock`] of a UNIX address where too many wait
    /// already.
    pub fn dial(address: &Address, form: Form) -> io::Result<Dial> {
        let (socket, connected) = match address {
            Address::UnixMessages(_) if form == Form::Bytes => return Err(Errno::PROTOTYPE.into()),
            Address::Unix(path) | Address::UnixMessages(path) => {
                let socket = new_socket(AddressFamily::UNIX, form)?;
                let connected = connect_unix(&socket, path);
                (socket, connected)
            }
            Address::Tcp(_) if form == Form::Messages => return Err(Errno::PROTOTYPE.into()),
            Address::Tcp(address) => {
                let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let socket = new_socket(family, form)?;
                let connected = rustix::net::connect(&socket, address);
                (socket, connected)
            }
            Address::Vsock { cid, port } => {
                let socket = new_socket(AddressFamily::VSOCK, form)?;
                let connected = rustix::net::connect(&socket, &VmAddress { cid: *cid, port: *port });
                (socket, connected)
            }
        };
        let stream = Self::of(socket, form, address);
        match connected {
            Ok(()) => Ok(Dial::Open(stream)),
            Err(Errno::INPROGRESS) => Ok(Dial::Coming(stream)),
            Err(error) => Err(error.into()),
        }
    }

    /// A socket that has to do with `address`.
    pub(crate) fn of(socket: OwnedFd, form: Form, address: &Address) -> Self {
        let is_tcp = matches!(address, Address::Tcp(_));
        if is_tcp {
            // Small answers go out at once. Without it they come later: no more.
            let _ = sockopt::set_tcp_nodelay(&socket, true);
        }
        Self { socket, form, is_tcp, is_unix: matches!(address, Address::Unix(_) | Address::UnixMessages(_)) }
    }

    /// What goes over it.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// What became of a connection that was coming.
    ///
    /// # Errors
    /// It was refused, or could not be made.
    pub fn outcome(&self) -> io::Result<()> {
        Ok(sockopt::socket_error(&self.socket)??)
    }

    /// Lets `bytes` wait in the host on their way out, as far as the host permits.
    pub fn send_room(&self, bytes: usize) {
        // The kernel takes the number for half of what it sets.
        let _ = sockopt::set_socket_send_buffer_size(&self.socket, bytes);
    }

    /// Sends `bytes`, as one message if it is messages that go over it. Returns how many the host took: all of a message.
    ///
    /// # Errors
    /// As of `send(2)`, never EINTR; [`io::ErrorKind::WouldBlock`] if there is no room.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::net::send(&self.socket, bytes, SendFlags::NOSIGNAL))?)
    }

    /// Takes what is there, at most as much as `into` has room for; of a message, what is beyond that is lost. With
    /// `peek` it stays there. Returns its length: of a message, the whole of it. 0 of bytes is their end.
    ///
    /// # Errors
    /// As of `recv(2)`, never EINTR; [`io::ErrorKind::WouldBlock`] if there is nothing.
    pub fn receive(&self, into: &mut [u8], peek: bool) -> io::Result<usize> {
        let mut flags = if peek { RecvFlags::PEEK } else { RecvFlags::empty() };
        if self.form == Form::Messages {
            flags |= RecvFlags::TRUNC;
        }
        let (_, len) = rustix::io::retry_on_intr(|| rustix::net::recv(&self.socket, &mut *into, flags))?;
        Ok(len)
    }

    /// Sends `pieces` as one message, whole or not at all.
    ///
    /// # Errors
    /// As of `sendmsg(2)`, never EINTR; [`io::ErrorKind::WouldBlock`] if there is no room, and
    /// [`io::ErrorKind::InvalidInput`] if there will never be as much, or if AF_VSOCK has sent a part of it, as it does where
    /// its receiver has room for a part: it does not say how much that was, so nothing right can follow.
    pub fn send_message(&self, pieces: &[IoSlice<'_>], ends_record: bool) -> io::Result<()> {
        let mut flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if ends_record && !self.is_unix {
            flags |= SendFlags::EOR;
        }
        let is_vsock = !self.is_unix && !self.is_tcp;
        if is_vsock && self.events(PollFlags::OUT)?.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let send = || sendmsg(&self.socket, pieces, &mut SendAncillaryBuffer::default(), flags);
        match rustix::io::retry_on_intr(send) {
            Ok(_) => Ok(()),
            // There was room for something.
            Err(Errno::WOULDBLOCK) if is_vsock => Err(io::ErrorKind::InvalidInput.into()),
            Err(Errno::MSGSIZE) => Err(io::ErrorKind::InvalidInput.into()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the next message, whole, in place of what `into` had. Returns whether it ends a record, as far as the family
    /// tells. What `into` has then is nothing for a message of nothing, and at the end of all.
    ///
    /// # Errors
    /// As of [`Stream::receive`]; [`io::ErrorKind::InvalidInput`], and it stays there, if it is longer than `most` bytes.
    /// Before Linux 6.6, AF_VSOCK takes no message of more than 1 MiB, and one that is longer is lost.
    pub fn receive_message(&self, into: &mut Vec<u8>, most: usize) -> io::Result<bool> {
        // AF_VSOCK says nothing to whoever has no room at all.
        let room = room_of(self.receive(&mut [0], true), most)?;
        into.clear();
        into.resize(room, 0);
        let receive = || {
            let mut pieces = [IoSliceMut::new(into)];
            recvmsg(&self.socket, &mut pieces, &mut RecvAncillaryBuffer::default(), RecvFlags::DONTWAIT)
        };
        let mut receive = receive;
        let received = rustix::io::retry_on_intr(&mut receive)?;
        let (len, flags) = (received.bytes, received.flags);
        if flags.contains(ReturnFlags::TRUNC) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        into.truncate(len);
        if len < room {
            into.shrink_to_fit();
        }
        Ok(flags.contains(ReturnFlags::EOR))
    }

    /// Whether nothing goes either way any more: the other end is closed, though what it sent may still be here.
    pub fn is_gone(&self) -> bool {
        self.events(PollFlags::empty()).is_ok_and(|events| events.intersects(PollFlags::HUP | PollFlags::ERR))
    }

    /// Whether nothing comes any more: neither what the other end has sent is still here, but for messages of nothing, nor
    /// does it send anything.
    pub fn is_ended(&self) -> bool {
        let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let sends_no_more = self.events(PollFlags::RDHUP).is_ok_and(|events| events.intersects(ends));
        // AF_VSOCK tells only of the next message.
        let is_here = || rustix::io::ioctl_fionread(&self.socket).is_ok_and(|left| left > 0);
        sends_no_more && !is_here() && !matches!(self.receive(&mut [0], true), Ok(1..))
    }

    /// What of `wanted` there is at the moment, and whether it is over.
    fn events(&self, wanted: PollFlags) -> io::Result<PollFlags> {
        let mut watched = [PollFd::new(&self.socket, wanted)];
        let now = Timespec::default();
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut watched, Some(&now)))?;
        let [watched] = watched;
        Ok(watched.revents())
    }

    /// Closes one way.
    pub fn close(&self, direction: Direction) {
        let how = match direction {
            Direction::In => Shutdown::Read,
            Direction::Out => Shutdown::Write,
        };
        // It is closed already.
        let _ = rustix::net::shutdown(&self.socket, how);
    }

    /// Closes it so that the other end sees that it was cut off, where the family can say so.
    pub fn cut(self) {
        if self.is_tcp {
            let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Both ends of a new connection within the process.
///
/// # Errors
/// Too many descriptors.
pub fn pair(form: Form) -> io::Result<(Stream, Stream)> {
    let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, form.socket_type(), FLAGS, None)?;
    let of = |socket| Stream { socket, form, is_tcp: false, is_unix: true };
    Ok((of(one), of(other)))
}

/// How much room a message needs that was `peeked` at, of which there are `most` bytes, at most.
fn room_of(peeked: io::Result<usize>, most: usize) -> io::Result<usize> {
    match peeked {
        // Before Linux 6.6, AF_VSOCK says nothing of what stays there: it has no memory for it, or cannot do it, depending on
        // what is below.
        Err(error) if [Errno::NOMEM, Errno::OPNOTSUPP].into_iter().any(|code| is(&error, code)) => {
            Ok(most.clamp(1, UNTOLD))
        }
        Ok(len) if len > most => Err(io::ErrorKind::InvalidInput.into()),
        len => Ok(len?.max(1)),
    }
}

fn is(error: &io::Error, code: Errno) -> bool {
    error.raw_os_error() == Some(code.raw_os_error())
}

pub(crate) fn new_socket(family: AddressFamily, form: Form) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(family, form.socket_type(), FLAGS, None)
}

fn connect_unix(socket: &OwnedFd, path: &Path) -> Result<(), Errno> {
    rustix::net::connect(socket, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_borders_and_tell_their_whole_length() {
        let (one, other) = pair(Form::Messages).unwrap();
        one.send(b"hello").unwrap();
        one.send(b"").unwrap();
        let mut room = [0; 3];
        assert_eq!(other.receive(&mut room, true).unwrap(), 5, "peeked");
        assert_eq!(other.receive(&mut room, false).unwrap(), 5);
        assert_eq!(&room, b"hel");
        assert_eq!(other.receive(&mut room, false).unwrap(), 0);
        let error = other.receive(&mut room, false).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn message_of_which_the_host_says_nothing_gets_no_more_room_than_we_have_for_it() {
        for code in [Errno::NOMEM, Errno::OPNOTSUPP] {
            let room = |most| room_of(Err(code.into()), most).unwrap();
            assert_eq!([room(0), room(500), room(u32::MAX as usize)], [1, 500, UNTOLD]);
        }
        assert_eq!(
            room_of(Err(Errno::CONNRESET.into()), 9).unwrap_err().kind(),
            io::ErrorKind::ConnectionReset
        );
        assert_eq!(room_of(Ok(10), 9).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!([room_of(Ok(0), 9).unwrap(), room_of(Ok(9), 9).unwrap()], [1, 9]);
    }

    #[test]
    fn messages_have_ended_when_the_last_with_bytes_is_taken_and_not_before() {
        let (one, other) = pair(Form::Messages).unwrap();
        for bytes in [&b""[..], b"", b"three", b""] {
            one.send(bytes).unwrap();
        }
        let take = |expected: &[u8], ended| {
            let mut bytes = Vec::new();
            other.receive_message(&mut bytes, 100).unwrap();
            assert_eq!((bytes.as_slice(), other.is_ended()), (expected, ended));
        };
        take(b"", false);
        drop(one);
        take(b"", false);
        take(b"three", true);
        take(b"", true);
        take(b"", true);
    }

    #[test]
    fn way_that_is_closed_ends_and_the_other_goes_on() {
        let (one, other) = pair(Form::Bytes).unwrap();
        one.close(Direction::Out);
        assert_eq!(other.receive(&mut [0; 3], false).unwrap(), 0);
        other.send(b"yes").unwrap();
        assert_eq!(one.receive(&mut [0; 8], false).unwrap(), 3);
    }

    #[test]
    fn address_where_nobody_listens_refuses_and_a_wrong_form_too() {
        let dir = tempfile::tempdir().unwrap();
        let nobody = Address::Unix(dir.path().join("x"));
        assert_eq!(Stream::dial(&nobody, Form::Bytes).unwrap_err().kind(), io::ErrorKind::NotFound);
        for (address, form) in [("seq:x", Form::Bytes), ("tcp:127.0.0.1:1", Form::Messages)] {
            let error = Stream::dial(&address.parse().unwrap(), form).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EPROTOTYPE), "{address}");
        }
        let long = Address::Unix("x".repeat(200).into());
        assert_eq!(Stream::dial(&long, Form::Bytes).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    }
}
