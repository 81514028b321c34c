//! What the guest sends: judged before anybody sees it. The guest may change its memory at any time, so what is judged
//! is a copy, and that copy is what is passed on.

use outboard_device::defs::net::{F_HASH_REPORT, HEADER_LEN, HashReport, Header};
use outboard_device::{Chain, Features};
use outboard_frames::{Limits, MAX_HEADERS, Offload, Refused, Takes, check};
use zerocopy::FromBytes;

use crate::config::NO_MTU;
use crate::shared::Settings;

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
    /// The header has a hash at its end, which the guest need not fill in.
    has_hash: bool,
    /// So many bytes are looked at, of whatever packet.
    front: usize,
    head: [u8; MAX_HEADERS],
}

impl Tx {
    /// At least `front` bytes of each packet are looked at.
    pub(crate) fn new(agreed: Features, front: usize) -> Self {
        let limits = Limits { takes: Takes::by_device(agreed.0), mtu: NO_MTU };
        let has_hash = agreed.has(F_HASH_REPORT);
        Self { limits, has_hash, front: front.min(MAX_HEADERS), head: [0; MAX_HEADERS] }
    }

    /// What the front end has set now.
    pub(crate) fn renew(&mut self, settings: &Settings) {
        self.limits.mtu = settings.mtu.map_or(NO_MTU, u32::from);
    }

    /// How long the header is; `None` if there may be more of it.
    pub(crate) const fn header_len(&self) -> Option<usize> {
        if self.has_hash { None } else { Some(HEADER_LEN) }
    }

    /// Judges a packet of `len` bytes, its header included, by its `front`. What is left to do for it, and the front behind the
    /// header. `None` if it takes more of it to say, or is to be refused: for [`Tx::judge`] to find.
    #[inline]
    pub(crate) fn judge_at_a_glance<'a>(&self, front: &'a [u8], len: usize) -> Option<(Offload, &'a [u8])> {
        let (header, front) = Header::read_from_prefix(front).ok()?;
        let len = len.checked_sub(HEADER_LEN)?;
        let wide = u32::try_from(len).ok()?;
        let looked_at = self.limits.looked_at(&header, wide).max(self.front);
        if front.len() < looked_at.min(len) {
            return None;
        }
        Some((check(&header, wide, front, &self.limits).ok()?, front))
    }

    /// Takes header and front of a packet off its chain. Buffers to write to have no business there and are left alone.
    ///
    /// # Errors
    /// The packet is to be dropped, and its chain to be completed.
    pub(crate) fn judge(&mut self, mut chain: Chain) -> Result<Outgoing<'_>, (Chain, Refused)> {
        let Ok(header) = chain.read_obj::<Header>() else { return Err((chain, Refused::TooShort)) };
        if self.has_hash && chain.read_obj::<HashReport>().is_err() {
            return Err((chain, Refused::TooShort));
        }
        let len = chain.readable_len();
        let wide = u32::try_from(len).unwrap_or(u32::MAX);
        // Of a packet that asks for nothing, the length alone counts.
        let looked_at = self.limits.looked_at(&header, wide).max(self.front);
        let head = self.head.get_mut(..looked_at.min(len)).unwrap_or_default();
        if chain.read_exact(head).is_err() {
            return Err((chain, Refused::TooShort));
        }
        match check(&header, wide, head, &self.limits) {
            Ok(offload) => Ok(Outgoing { offload, head, rest: chain }),
            Err(why) => Err((chain, why)),
        }
    }
}
