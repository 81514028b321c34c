//! What the guest sends: judged before anybody sees it. The guest may change its memory at any time, so what is judged
//! is a copy, and that copy is what is passed on.

use outboard_device::Chain;
use outboard_device::defs::net::{HDR_F_NEEDS_CSUM, Header};
use outboard_frames::{Limits, MAX_HEADERS, Offload, Refused, check};

/// A packet that the guest sends, behind its header.
pub(crate) struct Outgoing<'a> {
    /// What is left to do for it.
    pub(crate) offload: Offload,
    /// Its front, as far as it was looked at.
    pub(crate) head: &'a [u8],
    /// The rest of it, still to be read.
    pub(crate) rest: Chain,
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
    /// So many bytes are looked at, of whatever packet.
    front: usize,
    head: [u8; MAX_HEADERS],
}

impl Tx {
    pub(crate) fn new(limits: Limits, front: usize) -> Self {
        Self { limits, front: front.min(MAX_HEADERS), head: [0; MAX_HEADERS] }
    }

    /// Takes header and front of a packet off its chain. Buffers to write to have no business there and are left alone.
    ///
    /// # Errors
    /// The packet is to be dropped, and its chain to be completed.
    pub(crate) fn judge(&mut self, mut chain: Chain) -> Result<Outgoing<'_>, (Chain, Refused)> {
        let Ok(header) = chain.read_obj::<Header>() else { return Err((chain, Refused::TooShort)) };
        let len = chain.readable_len();
        // Of a packet that asks for nothing, the length alone counts.
        let looked_at = if header.flags & HDR_F_NEEDS_CSUM == 0 { self.front } else { MAX_HEADERS };
        let head = self.head.get_mut(..looked_at.min(len)).unwrap_or_default();
        if chain.read_exact(head).is_err() {
            return Err((chain, Refused::TooShort));
        }
        match check(&header, u32::try_from(len).unwrap_or(u32::MAX), head, &self.limits) {
            Ok(offload) => Ok(Outgoing { offload, head, rest: chain }),
            Err(why) => Err((chain, why)),
        }
    }
}
