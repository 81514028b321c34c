//! The orders in which real front ends set a device up: each ends in requests that work and in a clean stop.
//!
//! The orders are those of the front ends' sources, message by message. Where a front end does without
//! acknowledgements, so does the check: the next thing that has a reply shows whether all went well.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use outboard_vhost_user::message::vring_fd;
use outboard_vhost_user::payload::{Inflight, VringState};
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::IntoBytes;

use crate::check::catalogue::Check;
use crate::check::session::{Session, borrowed};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::parse;

mod library;
mod order;
mod qemu;
mod vmm;

/// The checks of this group, part by part.
pub(super) const QEMU: &[Check] = qemu::CHECKS;
/// As [`QEMU`].
pub(super) const VMM: &[Check] = vmm::CHECKS;
/// As [`QEMU`].
pub(super) const LIBRARY: &[Check] = library::CHECKS;
/// As [`QEMU`].
pub(super) const ORDER: &[Check] = order::CHECKS;

/// Every protocol feature that a front end would agree on blindly, but for those that change what messages mean.
const ALL_BUT_STRANGE: ProtocolFeatures = ProtocolFeatures(
    0x00ff_ffff
        & !(ProtocolFeatures::INBAND_NOTIFICATIONS.0
            | ProtocolFeatures::XEN_MMAP.0
            | ProtocolFeatures::GPA_ADDRESSES.0),
);

impl Session {
    /// SET_VRING_ENABLE of a ring that need not be ours.
    fn enable_index(&mut self, index: u64, on: bool) -> Checked {
        if self.features & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        let state = VringState { index: u32::try_from(index)?, num: on.into() };
        self.wire.set(Code::SET_VRING_ENABLE, state.as_bytes(), &[])
    }

    /// SET_VRING_ENABLE of all rings.
    fn enable_all(&mut self, on: bool) -> Checked {
        (0..self.rings.len()).try_for_each(|at| self.enable(at, on))
    }

    /// SET_VRING_KICK, _CALL or _ERR with a descriptor that need not be the ring's.
    fn give(&mut self, code: Code, index: u64, fd: &OwnedFd) -> Checked {
        self.wire.set(code, (index & vring_fd::INDEX_MASK).as_bytes(), &[fd.as_fd()])
    }

    /// SET_MEM_TABLE, whatever else is agreed on.
    fn share_table(&mut self) -> Checked {
        let (body, fds) = self.table()?;
        self.wire.set(Code::SET_MEM_TABLE, &body, &borrowed(&fds))
    }

    /// GET_ and SET_INFLIGHT_FD, where there is such a thing.
    fn exchange_inflight(&mut self) -> Checked {
        if !self.protocol.contains(ProtocolFeatures::INFLIGHT_SHMFD) {
            return Ok(());
        }
        let wanted = Inflight::new(0, 0, u16::try_from(self.rings.len())?, self.setup.size);
        let frame = self.wire.ask(Code::GET_INFLIGHT_FD, wanted.as_bytes(), &[])?;
        let given: Inflight = parse(Code::GET_INFLIGHT_FD, &frame)?;
        if given.mmap_size == 0 {
            return Ok(());
        }
        ensure!(frame.fds.len() == 1, "GET_INFLIGHT_FD came with {} descriptors", frame.fds.len());
        self.wire.set(Code::SET_INFLIGHT_FD, given.as_bytes(), &borrowed(&frame.fds))
    }

    /// SET_BACKEND_REQ_FD, where there is such a thing. Our end of the channel stays open as long as it is held.
    fn open_channel(&mut self) -> Checked<Option<UnixStream>> {
        if !self.protocol.contains(ProtocolFeatures::BACKEND_REQ) {
            return Ok(None);
        }
        let (ours, theirs) = UnixStream::pair()?;
        self.wire.ensure_set(Code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
        Ok(Some(ours))
    }

    /// SET_STATUS, where there is such a thing.
    fn status(&mut self, status: u64) -> Checked {
        if !self.protocol.contains(ProtocolFeatures::STATUS) {
            return Ok(());
        }
        self.wire.set(Code::SET_STATUS, status.as_bytes(), &[])
    }

    /// As [`status`](Self::status), acknowledged where that can be.
    fn status_asking(&mut self, status: u64) -> Checked {
        if !self.protocol.contains(ProtocolFeatures::STATUS) {
            return Ok(());
        }
        self.wire.ensure_set(Code::SET_STATUS, status.as_bytes(), &[])
    }

    /// How many rings the device has, as far as it tells, at least those that the sample needs.
    fn ring_count(&self) -> u64 {
        self.offered_queues().unwrap_or(0).max(self.rings.len() as u64)
    }

    /// Fresh rings of another size and with other features, in fresh memory, as another driver makes them.
    fn renew_rings(&mut self, size: u16) -> Checked {
        self.setup.size = size;
        self.rings.clear();
        self.add_rings()
    }

    /// Two requests, one after the other.
    fn requests(&mut self) -> Checked {
        self.request()?;
        self.request().map(drop)
    }
}

/// SET_PROTOCOL_FEATURES with what both sides have; acknowledgements count from here on.
fn agree(session: &mut Session, wanted: ProtocolFeatures) -> Checked {
    session.setup.protocol = wanted;
    session.set_protocol()
}

fn notifier() -> Checked<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// A notifier that blocks, as some libraries use.
fn blocking_notifier() -> Checked<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC)?)
}

fn no_rings() -> Stop {
    Stop::Skip("our own side: no rings".to_owned())
}
