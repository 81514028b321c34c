//! A tap interface of the host. Frames go through with a virtio header in front, so that offloads stay offloads.
//!
//! Of the network come frames; the kernel has made their headers, which are judged all the same. A frame is read when the
//! one before it is with the guest: what the guest has no buffers for stays in the interface's own queue.

mod interface;
mod ioctl;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use outboard_device::defs::net::{
    F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_USO4, F_GUEST_USO6, HEADER_LEN, Header,
};
use outboard_device::{Chain, Cx, DeviceError, Features, SourceId, host_io};
use outboard_frames::{Limits, MAX_HEADERS, MAX_LEN, Offload, Takes, check};
use zerocopy::{FromBytes, IntoBytes};

use super::{Inbound, Outbound, Sent, Side, Ways};
use crate::config::NO_MTU;
use crate::rx::{Dropped, Rx};
use crate::tx::Outgoing;
pub(super) use interface::Interface;
pub use interface::TapOptions;

/// What the kernel may ask for: what the guest does not take is done on the way, and how long packets may be is looked at
/// there, too.
const FROM_KERNEL: Limits = Limits { takes: Takes::ALL, mtu: NO_MTU };
/// So many frames at a time: the guest's own have their turn.
const AT_ONCE: usize = 64;
/// What the interface is watched as.
const TAP: SourceId = SourceId(0);

/// What the time is watched as.
const AGAIN: SourceId = SourceId(1);
/// How long an interface that is gone is left alone: it would be reported without end.
const PAUSE: Duration = Duration::from_secs(1);

/// Of both kinds of IP, or none: the kernel takes it so.
const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// What the kernel need not do for a guest that agreed on these features. It wants to hear of no segments without
/// checksums, and of no congestion without TCP; nor may a driver agree on them (VIRTIO 1.3, 5.1.3.1).
fn left_to_guest(agreed: Features) -> u32 {
    let flag = |features, flag| if agreed.has(features) { flag } else { 0 };
    let tcp = flag(F_GUEST_TSO4, libc::TUN_F_TSO4) | flag(F_GUEST_TSO6, libc::TUN_F_TSO6);
    let ecn = if tcp == 0 { 0 } else { flag(F_GUEST_ECN, libc::TUN_F_TSO_ECN) };
    let udp = flag(F_GUEST_USO4 | F_GUEST_USO6, USO);
    flag(F_GUEST_CSUM, libc::TUN_F_CSUM | tcp | ecn | udp)
}

/// Opens an interface as the way out of a switch: all offloads are left to us, and the kernel takes over what it can.
///
/// # Errors
/// As of [`ioctl::open_tap`].
pub(crate) fn open_uplink(name: &str) -> io::Result<Ways> {
    let tap = Arc::new(ioctl::open_tap(name, false)?);
    let most = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN;
    let all = most | F_GUEST_USO4 | F_GUEST_USO6;
    let takes = if ioctl::set_offload(&tap, left_to_guest(Features(all))).is_ok() { all } else { most };
    ioctl::set_offload(&tap, left_to_guest(Features(takes)))?;
    let out = Out { tap: Arc::clone(&tap), takes: Takes::by_driver(takes) };
    Ok(Ways { out: Box::new(out), back: Box::new(In { tap, frame: vec![0; HEADER_LEN + MAX_LEN as usize] }) })
}

#[derive(Debug)]
struct Out {
    tap: Arc<OwnedFd>,
    takes: Takes,
}

impl Outbound for Out {
    fn takes(&self) -> Takes {
        self.takes
    }

    fn send(&self, offload: &Offload, frame: &[u8]) -> io::Result<()> {
        let header = offload.header();
        let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(frame)];
        Ok(rustix::io::writev(&self.tap, &parts).map(|_| ())?)
    }

    fn send_behind(&self, offload: &Offload, front: &mut Vec<u8>, rest: &mut Chain) -> io::Result<()> {
        front.splice(..0, offload.header().as_bytes().iter().copied());
        host_io::send_behind(front, rest, self.tap.as_fd()).map(|_| ())
    }
}

#[derive(Debug)]
struct In {
    tap: Arc<OwnedFd>,
    /// What was read last, with its header.
    frame: Vec<u8>,
}

impl Inbound for In {
    fn fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    fn next(&mut self) -> io::Result<Option<(Offload, &[u8])>> {
        let len = rustix::io::read(&self.tap, self.frame.as_mut_slice())?;
        Ok(parse(self.frame.get(..len).unwrap_or_default()))
    }
}

/// What a frame of an interface, with its header, has still to be done for, and how long it is without.
fn parse(frame: &[u8]) -> Option<(Offload, &[u8])> {
    let (header, frame) = Header::ref_from_prefix(frame).ok()?;
    let head = frame.get(..MAX_HEADERS).unwrap_or(frame);
    let offload = check(header, u32::try_from(frame.len()).ok()?, head, &FROM_KERNEL).ok()?;
    Some((offload, frame))
}

/// A queue of the interface, in the hands of the thread that serves a pair.
struct Tap {
    tap: Arc<OwnedFd>,
    /// It is one of several, which the kernel is to use only while somebody takes what there is.
    is_optional: bool,
    /// What the kernel need not do.
    left: u32,
    /// Somebody takes what there is.
    receives: bool,
    /// A limit is reached; the time when it is not is watched.
    waits: bool,
    /// What was read last, with its header.
    frame: Vec<u8>,
    next: Next,
}

/// What is known of the next frame for the guest.
enum Next {
    /// There is none; whether one comes is watched.
    None,
    /// It could not be read; there is another try later.
    Broken,
    /// There may be one.
    Perhaps,
    /// It was read, of so many bytes, and waits for buffers.
    Read(Offload, usize),
}

impl Tap {
    /// Reads a frame, and asks for word of the next if there is none. One that is refused is over with.
    fn read(&mut self, rx: &Rx, cx: &mut Cx<'_, ()>) -> Next {
        let len = match rustix::io::retry_on_intr(|| rustix::io::read(&self.tap, self.frame.as_mut_slice())) {
            Ok(len) => len,
            Err(rustix::io::Errno::WOULDBLOCK) => {
                cx.rearm(TAP);
                return Next::None;
            }
            Err(error) => {
                cx.warn("the tap interface", io::Error::from(error));
                cx.after(PAUSE, AGAIN);
                return Next::Broken;
            }
        };
        let frame = self.frame.get(..len).unwrap_or_default();
        let Ok((header, frame)) = Header::ref_from_prefix(frame) else { return Next::Perhaps };
        let head = frame.get(..MAX_HEADERS).unwrap_or(frame);
        match check(header, frame.len() as u32, head, &FROM_KERNEL) {
            Ok(offload) => Next::Read(offload, frame.len()),
            Err(why) => {
                rx.count(Err(Dropped::Header));
                cx.warn("a packet of the tap interface was dropped", why);
                Next::Perhaps
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if self.is_optional && self.receives {
            // It was attached; the kernel detaches it.
            let _ = ioctl::attach(&self.tap, false);
        }
    }
}

impl Side for Tap {
    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        let watched = cx.watch_once(self.tap.as_fd(), TAP);
        watched.map_err(|error| DeviceError::host("cannot watch the tap interface", error))
    }

    /// What comes meanwhile waits in the interface, or comes by other queues.
    fn turned(&mut self, receives: bool, cx: &mut Cx<'_, ()>) {
        self.receives = receives;
        if self.is_optional
            && let Err(error) = ioctl::attach(&self.tap, receives)
        {
            cx.warn("cannot switch a queue of the tap interface", error);
        }
    }

    fn takes(&mut self, features: Features, cx: &mut Cx<'_, ()>) {
        let left = left_to_guest(features);
        if left == self.left {
            return;
        }
        match ioctl::set_offload(&self.tap, left) {
            Ok(()) => self.left = left,
            // They are done on the way to the guest.
            Err(error) => cx.warn("cannot set the offloads of the tap interface", error),
        }
    }

    fn send(&mut self, packet: Outgoing<'_>, _: &mut Rx, _: &mut Cx<'_, ()>) -> Sent {
        let mut front = [0; HEADER_LEN + MAX_HEADERS];
        let front = front.get_mut(..HEADER_LEN + packet.head.len()).unwrap_or_default();
        if let Some((header, head)) = front.split_at_mut_checked(HEADER_LEN) {
            header.copy_from_slice(packet.offload.header().as_bytes());
            head.copy_from_slice(packet.head);
        }
        match host_io::send_behind(front, &packet.rest, self.tap.as_fd()) {
            Ok(_) => Sent::Done(packet.rest),
            Err(error) => Sent::Refused(packet.rest, error),
        }
    }

    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        if !self.receives {
            return false;
        }
        self.waits = false;
        for done in 0..AT_ONCE {
            if let Some(left) = rx.closed(cx) {
                self.waits = true;
                cx.after(left, AGAIN);
                return done > 0;
            }
            if let Next::Perhaps = self.next {
                self.next = self.read(rx, cx);
            }
            let (offload, len) = match self.next {
                Next::Read(offload, len) => (offload, len),
                Next::Perhaps => continue,
                Next::None | Next::Broken => return done > 0,
            };
            let frame = self.frame.get(HEADER_LEN..HEADER_LEN + len).unwrap_or_default();
            if rx.deliver(&offload, frame, cx) == Err(Dropped::NoBuffer) {
                return done > 0;
            }
            self.next = Next::Perhaps;
        }
        true
    }

    fn is_ready(&self) -> bool {
        self.receives && !self.waits && matches!(self.next, Next::Perhaps)
    }

    fn event(&mut self, _: SourceId, _: &mut Cx<'_, ()>) {
        if let Next::None | Next::Broken = self.next {
            self.next = Next::Perhaps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_is_told_of_nothing_that_it_would_refuse() {
        let all = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_USO4 | F_GUEST_USO6;
        let (csum, tso4) = (libc::TUN_F_CSUM, libc::TUN_F_TSO4);
        for (agreed, told) in [
            (0, 0),
            (all & !F_GUEST_CSUM, 0),
            (F_GUEST_CSUM, csum),
            (F_GUEST_CSUM | F_GUEST_ECN, csum),
            (F_GUEST_CSUM | F_GUEST_USO4, csum),
            (F_GUEST_CSUM | F_GUEST_TSO4, csum | tso4),
            (F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_ECN, csum | tso4 | libc::TUN_F_TSO_ECN),
            (all, csum | tso4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN | USO),
        ] {
            assert_eq!(left_to_guest(Features(agreed)), told, "{agreed:x}");
        }
    }
}
