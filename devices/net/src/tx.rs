//! What the guest sends: judged before anybody sees it. The guest may change its memory at any time, so what is judged
//! is a copy, and that copy is what is passed on.

use outboard_device::Chain;
use outboard_device::defs::net::{HDR_F_NEEDS_CSUM, Header};
use outboard_frames::{Limits, MAX_HEADERS, Offload, Refused, check};

/// A packet that the guest sends, behind its header.
pub(crate) struct Outgoing<'a> {
    /// What is left to do for it.
    pub(crate) offload: Offload,
    /// Its front, if it was looked at.
    pub(crate) head: &'a [u8],
    /// The rest of it, still to be read.
    pub(crate) rest: &'a mut Chain,
}

impl Outgoing<'_> {
    /// The length of the packet in bytes.
    pub(crate) fn len(&self) -> usize {
        self.head.len() + self.rest.readable_len()
    }
}

/// The transmitting half of a pair.
pub(crate) struct Tx {
    limits: Limits,
    head: [u8; MAX_HEADERS],
}

impl Tx {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, head: [0; MAX_HEADERS] }
    }

    /// Takes header and front of a packet off its chain. Buffers to write to have no business there and are left alone.
    ///
    /// # Errors
    /// The packet is to be dropped.
    pub(crate) fn judge<'a>(&'a mut self, chain: &'a mut Chain) -> Result<Outgoing<'a>, Refused> {
        let header: Header = chain.read_obj().map_err(|_| Refused::TooShort)?;
        let len = u32::try_from(chain.readable_len()).unwrap_or(u32::MAX);
        // Of a packet that asks for nothing, the length alone counts.
        let looked_at = if header.flags & HDR_F_NEEDS_CSUM == 0 { 0 } else { MAX_HEADERS };
        let head = self.head.get_mut(..looked_at.min(chain.readable_len())).unwrap_or_default();
        chain.read_exact(head).map_err(|_| Refused::TooShort)?;
        let offload = check(&header, len, head, &self.limits)?;
        Ok(Outgoing { offload, head, rest: chain })
    }
}
