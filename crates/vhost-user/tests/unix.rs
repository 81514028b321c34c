//! The UNIX transport over real sockets: fragments, descriptors, limits, stalls.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use outboard_vhost_user::Frame;
use outboard_vhost_user::message::MAX_BODY;
use outboard_vhost_user::transport::{Action, Fault, Transport, TransportError, UnixOptions, UnixTransport};
use support::{fd, fds};

fn frame(request: u32, len: usize, fd_count: usize) -> Frame {
    let body = (0..len).map(|n| u8::try_from(n % 251).unwrap()).collect();
    Frame { request, flags: 1, body, fds: fds(fd_count) }
}

fn joined() -> (UnixTransport, UnixTransport) {
    let (left, right) = UnixStream::pair().unwrap();
    (UnixTransport::new(left), UnixTransport::new(right))
}

/// A transport and the bare socket at its other end.
fn half(options: UnixOptions) -> (UnixTransport, UnixStream) {
    let (left, right) = UnixStream::pair().unwrap();
    (UnixTransport::with_options(left, options), right)
}

fn quick() -> UnixOptions {
    UnixOptions { frame_timeout: Some(Duration::from_millis(50)), ..UnixOptions::default() }
}

fn cause(error: &io::Error) -> Option<TransportError> {
    error.get_ref()?.downcast_ref().copied()
}

/// sendmsg with an SCM_RIGHTS control message of `fds`, even of none.
fn send_with_rights(socket: &UnixStream, bytes: &[u8], fds: &[OwnedFd]) {
    let raw: Vec<libc::c_int> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let payload = size_of_val(raw.as_slice());
    let payload_len = u32::try_from(payload).unwrap();
    let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    #[allow(unsafe_code, reason = "the transport never sends an empty control message; its peers do")]
    // SAFETY: the iovec covers `bytes`; the control buffer is zeroed, aligned as u64, large enough for its header and
    // `payload` bytes, and outlives the call; the copy stays within it.
    let sent = unsafe {
        let space = libc::CMSG_SPACE(payload_len) as usize;
        let mut control = vec![0u64; space.div_ceil(8)];
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = space as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(payload_len) as _;
        std::ptr::copy_nonoverlapping(raw.as_ptr().cast::<u8>(), libc::CMSG_DATA(header), payload);
        libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    };
    assert_eq!(usize::try_from(sent), Ok(bytes.len()));
}

/// A pipe: its read end tells when the last copy of the write end is closed.
fn witness() -> (OwnedFd, OwnedFd) {
    let (read, write) = io::pipe().unwrap();
    (read.into(), write.into())
}

/// Has every copy of the write end been closed?
fn is_closed(read: &OwnedFd) -> bool {
    let mut polled = [rustix::event::PollFd::new(read, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).unwrap();
    polled[0].revents().contains(rustix::event::PollFlags::HUP)
}

#[test]
fn frame_with_253_descriptors_arrives() {
    let (mut left, mut right) = joined();
    left.send(frame(5, 8104, 253)).unwrap();
    let received = right.receive().unwrap().unwrap();
    assert_eq!((received.request, received.flags), (5, 1));
    assert_eq!(received.body, frame(5, 8104, 0).body);
    assert_eq!(received.fds.len(), 253);
    for fd in &received.fds {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    }
}

#[test]
fn frame_with_254_descriptors_is_not_sent() {
    let (mut left, _right) = joined();
    assert!(left.send(frame(5, 8, 254)).is_err());
}

#[test]
fn frames_byte_by_byte_arrive_whole() {
    let (mut left, mut right) = joined();
    let sender = thread::spawn(move || {
        for n in 0..3 {
            left.send_split(frame(n, 40, 2), 1).unwrap();
        }
    });
    for n in 0..3 {
        let received = right.receive().unwrap().unwrap();
        assert_eq!((received.request, received.body.len(), received.fds.len()), (n, 40, 2));
    }
    sender.join().unwrap();
    assert!(right.receive().unwrap().is_none());
}

#[test]
fn frames_coalesced_arrive_apart_each_with_its_descriptors() {
    let (mut left, mut right) = joined();
    for n in 0..20usize {
        left.send(frame(u32::try_from(n).unwrap(), n * 8, n % 3)).unwrap();
    }
    drop(left);
    for n in 0..20usize {
        let received = right.receive().unwrap().unwrap();
        assert_eq!((received.request as usize, received.body.len(), received.fds.len()), (n, n * 8, n % 3));
    }
    assert!(right.receive().unwrap().is_none());
}

#[test]
fn descriptors_on_the_payload_are_collected() {
    let (mut transport, peer) = half(UnixOptions::default());
    let bytes = frame(12, 8, 0).to_bytes();
    send_with_rights(&peer, &bytes[..12], &[fd()]);
    send_with_rights(&peer, &bytes[12..15], &[fd()]);
    send_with_rights(&peer, &bytes[15..], &[fd(), fd()]);
    assert_eq!(transport.receive().unwrap().unwrap().fds.len(), 4);
}

#[test]
fn control_message_without_descriptors_is_fine() {
    let (mut transport, peer) = half(UnixOptions::default());
    send_with_rights(&peer, &frame(3, 0, 0).to_bytes(), &[]);
    let received = transport.receive().unwrap().unwrap();
    assert_eq!((received.request, received.fds.len()), (3, 0));
}

#[test]
fn control_truncated_closes_what_arrived_and_ends_the_stream() {
    let (mut transport, peer) = half(UnixOptions { max_fds: 2, ..UnixOptions::default() });
    let (read, write) = witness();
    let copies: Vec<OwnedFd> = (0..9).map(|_| write.try_clone().unwrap()).collect();
    send_with_rights(&peer, &frame(3, 0, 0).to_bytes(), &copies);
    drop((write, copies));
    let error = transport.receive().unwrap_err();
    assert_eq!(cause(&error), Some(TransportError::ControlTruncated));
    assert!(is_closed(&read));
    assert_eq!(cause(&transport.receive().unwrap_err()), Some(TransportError::Broken));
    assert_eq!(cause(&transport.send(frame(1, 0, 0)).unwrap_err()), Some(TransportError::Broken));
}

#[test]
fn too_many_descriptors_in_pieces_end_the_stream() {
    let (mut transport, peer) = half(UnixOptions { max_fds: 4, ..UnixOptions::default() });
    let bytes = frame(3, 8, 0).to_bytes();
    let (read, write) = witness();
    for piece in bytes.chunks(4) {
        send_with_rights(&peer, piece, &[write.try_clone().unwrap()]);
    }
    drop(write);
    let error = transport.receive().unwrap_err();
    assert_eq!(cause(&error), Some(TransportError::TooManyFds { max: 4 }));
    assert!(is_closed(&read));
}

#[test]
fn payload_above_the_limit_is_refused_unread() {
    let (mut transport, mut peer) = half(UnixOptions::default());
    let mut header = frame(1, 0, 0).to_bytes();
    header[8..].copy_from_slice(&(MAX_BODY + 1).to_ne_bytes());
    peer.write_all(&header).unwrap();
    let error = transport.receive().unwrap_err();
    assert_eq!(cause(&error), Some(TransportError::Oversized { size: MAX_BODY + 1, max: MAX_BODY }));
    header[8..].copy_from_slice(&u32::MAX.to_ne_bytes());
    let (mut transport, mut peer) = half(UnixOptions::default());
    peer.write_all(&header).unwrap();
    assert!(transport.receive().is_err());
}

#[test]
fn peer_closing_between_frames_is_the_end_and_within_one_an_error() {
    let (mut transport, peer) = half(UnixOptions::default());
    drop(peer);
    assert!(transport.receive().unwrap().is_none());
    assert!(transport.receive().unwrap().is_none());
    for cut in [1, 11, 12, 19] {
        let (mut transport, mut peer) = half(UnixOptions::default());
        peer.write_all(&frame(1, 8, 0).to_bytes()[..cut]).unwrap();
        drop(peer);
        let error = transport.receive().unwrap_err();
        assert_eq!(cause(&error), Some(TransportError::ClosedWithin), "cut at {cut}");
    }
}

#[test]
fn peer_stalling_within_a_frame_is_given_up() {
    for cut in [1, 12, 19] {
        let (mut transport, mut peer) = half(quick());
        peer.write_all(&frame(1, 8, 0).to_bytes()[..cut]).unwrap();
        let start = Instant::now();
        let error = transport.receive().unwrap_err();
        assert_eq!(cause(&error), Some(TransportError::Stalled));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[test]
fn peer_dribbling_past_the_limit_is_given_up() {
    let (mut transport, mut peer) = half(quick());
    let dribble = thread::spawn(move || {
        for byte in frame(1, 4000, 0).to_bytes() {
            if peer.write_all(&[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(cause(&transport.receive().unwrap_err()), Some(TransportError::Stalled));
    drop(transport);
    dribble.join().unwrap();
}

#[test]
fn peer_not_reading_is_given_up() {
    let (mut transport, _peer) = half(quick());
    let error =
        (0..10_000).find_map(|_| transport.send(frame(1, 4000, 0)).err()).expect("the socket is full");
    assert_eq!(cause(&error), Some(TransportError::Stalled));
}

#[test]
fn peer_silent_between_frames_times_out_without_harm() {
    let (mut left, mut right) = joined();
    right.set_idle_timeout(Some(Duration::from_millis(20)));
    let error = right.receive().unwrap_err();
    assert_eq!((error.kind(), cause(&error)), (io::ErrorKind::TimedOut, None));
    left.send(frame(9, 3, 1)).unwrap();
    assert_eq!(right.receive().unwrap().unwrap().request, 9);
}

#[test]
fn peer_gone_is_an_error_and_no_signal() {
    let (mut left, right) = joined();
    drop(right);
    assert_eq!(left.send(frame(1, 8, 1)).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn socket_that_does_not_block_is_waited_for() {
    let (left, right) = UnixStream::pair().unwrap();
    left.set_nonblocking(true).unwrap();
    right.set_nonblocking(true).unwrap();
    let (mut left, mut right) = (UnixTransport::new(left), UnixTransport::new(right));
    let receiver = thread::spawn(move || {
        let mut bytes = 0;
        while let Some(frame) = right.receive().unwrap() {
            bytes += frame.body.len();
        }
        bytes
    });
    thread::sleep(Duration::from_millis(20));
    // More than the socket's buffer holds.
    for _ in 0..500 {
        left.send(frame(1, 4000, 0)).unwrap();
    }
    drop(left);
    assert_eq!(receiver.join().unwrap(), 500 * 4000);
}

#[test]
fn frame_goes_out_in_one_piece() {
    let (mut transport, mut peer) = half(UnixOptions::default());
    transport.send(frame(24, 268, 0)).unwrap();
    let mut buffer = [0; 1024];
    // One read takes it all, as some front ends do.
    assert_eq!(peer.read(&mut buffer).unwrap(), 280);
}

#[test]
fn descriptors_sent_are_closed_here() {
    let (mut transport, peer) = half(UnixOptions::default());
    let (read, write) = witness();
    transport.send(Frame { fds: vec![write], ..frame(1, 0, 0) }).unwrap();
    assert!(!is_closed(&read), "the copy under way lives");
    drop(peer);
    assert!(is_closed(&read));
}

#[test]
fn fault_split_over_a_socket_arrives_whole() {
    let (left, mut right) = joined();
    let mut left = Fault::new(left, [(0, Action::Split(5)), (1, Action::Delay(Duration::from_millis(5)))]);
    left.send(frame(1, 33, 1)).unwrap();
    left.send(frame(2, 1, 0)).unwrap();
    let received = right.receive().unwrap().unwrap();
    assert_eq!((received.body.len(), received.fds.len()), (33, 1));
    assert_eq!(right.receive().unwrap().unwrap().request, 2);
}

#[test]
fn as_fd_is_readable_when_there_is_something() {
    let (mut left, right) = joined();
    let readable = || {
        let fd = right.as_fd();
        let mut polled = [rustix::event::PollFd::from_borrowed_fd(fd.as_fd(), rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut polled, Some(&now)).unwrap() == 1
    };
    assert!(!readable());
    left.send(frame(1, 0, 0)).unwrap();
    assert!(readable());
}
