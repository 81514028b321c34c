//! A ring as the front end configures it. The numbers in it are the front end's: nothing is used unchecked.
//!
//! vhost-user: Ring states. A ring is *started* by SET_VRING_KICK and stopped by GET_VRING_BASE; it is *enabled* by
//! SET_VRING_ENABLE, or by SET_FEATURES without VHOST_USER_F_PROTOCOL_FEATURES. It is *configured* once its size
//! and addresses are known. It runs when it is all three, in whatever order that came about.

use std::os::fd::OwnedFd;

use outboard_vhost_user::payload::VringAddr;

/// How the driver's kicks arrive.
pub(crate) enum Kick {
    /// Through a descriptor.
    Event(OwnedFd),
    /// Not at all: the ring is polled.
    Polled,
}

/// One ring's configuration and state.
#[derive(Default)]
pub(crate) struct Vring {
    /// In descriptors; 0 until the front end has said.
    pub(crate) size: u32,
    pub(crate) addr: Option<VringAddr>,
    /// Where to go on, in the protocol's encoding; `None`: at the start.
    pub(crate) base: Option<u32>,
    /// Where a reset has found it.
    left: Option<u32>,
    /// Whether the front end has said where to go on, since the ring stopped last.
    pub(crate) told: bool,
    /// Present while the ring is started.
    pub(crate) kick: Option<Kick>,
    pub(crate) call: Option<OwnedFd>,
    pub(crate) error: Option<OwnedFd>,
    pub(crate) enabled: bool,
    /// The ring is with its worker.
    pub(crate) running: bool,
}

impl Vring {
    /// Size and addresses, if the ring could run with them.
    pub(crate) fn runnable(&self) -> Option<(u32, VringAddr)> {
        let ready = !self.running && self.enabled && self.kick.is_some() && self.size != 0;
        self.addr.filter(|_| ready).map(|addr| (self.size, addr))
    }

    /// Stopped, disabled and at its start, as after a device reset. Notification descriptors stay.
    pub(crate) fn reset(&mut self) {
        self.kick = None;
        self.left = self.base.take().or(self.left);
        self.told = false;
        self.enabled = false;
    }

    /// Where it stands, or stood before a reset: QEMU before 8.1 sets the status to 0 whenever it stops a device (for a
    /// machine that pauses, for a link that is down), asks for this afterwards, and goes on from there.
    pub(crate) fn stood(&self) -> Option<u32> {
        self.base.or(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::Vring;

    #[test]
    fn ring_after_reset_starts_afresh_and_tells_where_it_stood() {
        let mut vring = Vring { base: Some(7), ..Vring::default() };
        vring.reset();
        vring.reset();
        assert_eq!((vring.base, vring.stood()), (None, Some(7)));
        vring.base = Some(0);
        assert_eq!(vring.stood(), Some(0));
    }
}
