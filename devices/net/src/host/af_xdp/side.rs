//! A queue of the interface, in the hands of the thread that serves a pair.
//!
//! Packets are copied once: from the frame that the kernel has filled to the guest's buffers, and from the guest's memory
//! to the frame that the kernel sends. What the guest leaves to the device is done on the way.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use outboard_device::{Cx, DeviceError, SourceId};
use outboard_frames::{MAX_LEN, Offload, plain, rarp};

use super::berth::{Berth, Kept};
use super::socket::{Receiver, Sender};
use crate::host::{Sent, Side};
use crate::rx::{Dropped, Rx};
use crate::tx::Outgoing;

/// So many packets at a time: the guest's own have their turn.
const AT_ONCE: usize = 64;
/// What the socket is watched as.
const SOCKET: SourceId = SourceId(0);
/// What the time is watched as.
const AGAIN: SourceId = SourceId(1);
/// After how long the kernel is told again of packets that it did not send.
const PAUSE: Duration = Duration::from_millis(1);

/// The queue.
pub(super) struct Xdp {
    berth: Arc<Berth>,
    /// None while the interface is gone.
    socket: Option<(Receiver, Sender)>,
    receives: bool,
    /// A limit is reached; the time when it is not is watched.
    waits: bool,
    /// The guest takes no packets before it has given buffers.
    has_no_buffers: bool,
    /// The kernel did not send all that there is; the time is watched.
    is_behind: bool,
    /// What the guest has sent, and is to be cut.
    scratch: Vec<u8>,
}

impl Xdp {
    pub(super) fn new(berth: Arc<Berth>) -> Self {
        Self {
            berth,
            socket: None,
            receives: false,
            waits: false,
            has_no_buffers: false,
            is_behind: false,
            scratch: vec![0; MAX_LEN as usize],
        }
    }

    /// Takes what the control half has left.
    fn hear(&mut self, cx: &mut Cx<'_, ()>) -> io::Result<()> {
        let Kept { socket, announce, .. } = self.berth.take();
        if let Some((mut receiver, sender)) = socket {
            if self.socket.take().is_some() {
                cx.unwatch(SOCKET);
            }
            cx.watch_once(receiver.as_fd(), SOCKET)?;
            // Of a time when nobody received.
            receiver.clear();
            self.socket = Some((receiver, sender));
        }
        if let (Some(mac), Some((_, sender))) = (announce, &mut self.socket) {
            let frame = rarp(mac);
            sender.send(frame.len(), |room| copy(&frame, room))?;
        }
        Ok(())
    }

    /// Has the kernel send what the guest has sent.
    fn flush(&mut self, cx: &mut Cx<'_, ()>) {
        let Some((_, sender)) = &mut self.socket else { return };
        match sender.flush() {
            Ok(true) => {}
            Ok(false) if self.is_behind => {}
            Ok(false) => {
                self.is_behind = true;
                cx.after(PAUSE, AGAIN);
            }
            // They are sent when the interface is up again.
            Err(error) => cx.warn("the host does not send", error),
        }
    }

    fn has_packet(&self) -> bool {
        let can = self.receives && !self.waits && !self.has_no_buffers;
        can && self.socket.as_ref().is_some_and(|(receiver, _)| receiver.has_packet())
    }

    /// Sends what is to be cut into segments, or what comes of it.
    fn send_cut(&mut self, packet: &mut Outgoing<'_>) -> io::Result<()> {
        let Some((_, sender)) = &mut self.socket else { return Err(rustix::io::Errno::NODEV.into()) };
        let Some(frame) = self.scratch.get_mut(..packet.len()) else {
            return Err(rustix::io::Errno::MSGSIZE.into());
        };
        read(packet, frame);
        let mut sent = Ok(());
        plain(&packet.offload, frame, |segment| {
            // When one is refused, those behind it would be of no use.
            if sent.is_ok() {
                sent = sender.send(segment.len(), |room| copy(segment, room));
            }
        });
        sent
    }

    fn send_whole(&mut self, packet: &mut Outgoing<'_>) -> io::Result<()> {
        let Some((_, sender)) = &mut self.socket else { return Err(rustix::io::Errno::NODEV.into()) };
        let offload = packet.offload;
        sender.send(packet.len(), |room| {
            read(packet, room);
            let mut is_done = false;
            plain(&offload, room, |_| is_done = true);
            is_done
        })
    }
}

/// Takes all of a packet.
fn read(packet: &mut Outgoing<'_>, into: &mut [u8]) {
    if let Some((front, rest)) = into.split_at_mut_checked(packet.head.len()) {
        front.copy_from_slice(packet.head);
        // As many as are left.
        let _ = packet.rest.read_exact(rest);
    }
}

fn copy(from: &[u8], room: &mut [u8]) -> bool {
    room.copy_from_slice(from);
    true
}

impl Drop for Xdp {
    fn drop(&mut self) {
        self.berth.go(self.socket.take());
    }
}

impl Side for Xdp {
    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        self.berth.sit(cx.waker());
        self.hear(cx).map_err(|error| DeviceError::host("cannot watch an AF_XDP socket", error))
    }

    /// What has come meanwhile is of a time when the guest was not there.
    fn turned(&mut self, receives: bool, _: &mut Cx<'_, ()>) {
        self.receives = receives;
        self.has_no_buffers = false;
        if let Some((receiver, _)) = self.socket.as_mut().filter(|_| receives) {
            receiver.clear();
        }
    }

    fn send(&mut self, mut packet: Outgoing<'_>, _: &mut Rx, cx: &mut Cx<'_, ()>) -> Sent {
        let sent = match packet.offload {
            Offload::Segments(_) => self.send_cut(&mut packet),
            _ => self.send_whole(&mut packet),
        };
        if self.socket.as_ref().is_some_and(|(_, sender)| sender.hidden() as usize >= AT_ONCE) {
            self.flush(cx);
        }
        match sent {
            Ok(()) => Sent::Done(packet.rest),
            Err(error) => Sent::Refused(packet.rest, error),
        }
    }

    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        if self.berth.has_news()
            && let Err(error) = self.hear(cx)
        {
            cx.warn("the AF_XDP socket", error);
        }
        self.flush(cx);
        (self.waits, self.has_no_buffers) = (false, false);
        let Some((receiver, _)) = self.socket.as_mut().filter(|_| self.receives) else { return false };
        let mut done = 0;
        while done < AT_ONCE {
            if let Some(left) = rx.closed(cx) {
                self.waits = true;
                cx.after(left, AGAIN);
                break;
            }
            let Some(packet) = receiver.packet() else { break };
            if rx.deliver(&Offload::None, packet, cx) == Err(Dropped::NoBuffer) {
                self.has_no_buffers = true;
                break;
            }
            receiver.done();
            done += 1;
        }
        receiver.refill();
        done > 0
    }

    fn is_ready(&self) -> bool {
        self.berth.has_news() || self.has_packet()
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        if self.is_ready() {
            return false;
        }
        if self.receives && !self.waits && !self.has_no_buffers && self.socket.is_some() {
            cx.rearm(SOCKET);
        }
        true
    }

    fn event(&mut self, source: SourceId, _: &mut Cx<'_, ()>) {
        if source == AGAIN {
            (self.waits, self.is_behind) = (false, false);
        }
    }
}
