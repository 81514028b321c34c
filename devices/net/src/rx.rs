//! Packets on their way into the guest's buffers (VIRTIO 1.3, 5.1.6.4). The guest decides where they are and how large,
//! and may have none.

use std::sync::Arc;

use outboard_device::defs::net::{HEADER_LEN, Header};
use outboard_device::{Chain, Cx, QueueId};
use outboard_frames::{MAX_LEN, Offload, Takes, plain};

use crate::counters::PairCounters;
use crate::device::Shared;
use crate::pair::receiveq;
use crate::tx::Outgoing;

/// The most buffers of a packet: a guest that needs more has made them small to hurt.
const MAX_BUFFERS: usize = 128;

/// Why a packet does not get to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// The guest has no buffers, or too few.
    NoBuffer,
    /// It is longer than the buffer that it would have to fit into.
    TooLong,
    /// There is no link.
    LinkDown,
    /// The host has a header for it that it does not fit.
    Header,
}

impl Dropped {
    /// All of them, by their names.
    pub(crate) const ALL: [(Self, &'static str); 4] = [
        (Self::NoBuffer, "no_buffer"),
        (Self::TooLong, "too_long"),
        (Self::LinkDown, "link_down"),
        (Self::Header, "header"),
    ];
}

/// The receiving half of a pair.
pub(crate) struct Rx {
    queue: QueueId,
    /// A packet may lie in several buffers.
    mergeable: bool,
    /// What the guest does with a packet by itself.
    takes: Takes,
    shared: Arc<Shared>,
    counters: Arc<PairCounters>,
    /// The buffers of the packet that is being delivered. Empty between packets.
    chains: Vec<Chain>,
    /// A packet that is worked on before.
    scratch: Vec<u8>,
}

/// The bytes of a packet: those at hand, then those of a chain.
struct Bytes<'a> {
    head: &'a [u8],
    rest: Option<&'a mut Chain>,
}

impl Bytes<'_> {
    fn len(&self) -> usize {
        self.head.len() + self.rest.as_ref().map_or(0, |rest| rest.readable_len())
    }

    /// Moves as much as there is room for.
    fn fill(&mut self, chain: &mut Chain) {
        let (now, later) = self.head.split_at(self.head.len().min(chain.writable_len()));
        self.head = later;
        // There is room for it.
        let _ = chain.write_all(now);
        if let Some(rest) = &mut self.rest
            && self.head.is_empty()
        {
            rest.copy_to(chain, usize::MAX);
        }
    }
}

impl Rx {
    pub(crate) fn new(pair: u16, mergeable: bool, takes: Takes, shared: &Arc<Shared>) -> Self {
        Self {
            queue: receiveq(pair),
            mergeable,
            takes,
            shared: Arc::clone(shared),
            counters: shared.counters(pair),
            chains: Vec::with_capacity(MAX_BUFFERS),
            scratch: Vec::with_capacity(MAX_LEN as usize),
        }
    }

    /// Gives the guest a packet that it, or another one, has sent. Work that it does not take over is done here; each
    /// packet that comes of it is delivered or dropped on its own, and counted.
    pub(crate) fn forward(&mut self, packet: &mut Outgoing<'_>, cx: &mut Cx<'_, ()>) {
        if self.takes.has(&packet.offload) {
            let bytes = Bytes { head: packet.head, rest: Some(&mut packet.rest) };
            let answer = self.put(&packet.offload, bytes, cx);
            return self.count(answer);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.extend_from_slice(packet.head);
        scratch.resize(packet.len(), 0);
        let rest = scratch.get_mut(packet.head.len()..).unwrap_or_default();
        // As many as are left.
        let _ = packet.rest.read_exact(rest);
        plain(&packet.offload, &mut scratch, |frame| {
            let answer = self.put(&Offload::None, Bytes { head: frame, rest: None }, cx);
            self.count(answer);
        });
        self.scratch = scratch;
    }

    /// Gives the guest a packet with no more work to do than it takes over. Not having a buffer for it is the caller's to
    /// count: the packet may wait.
    ///
    /// # Errors
    /// It was not delivered.
    pub(crate) fn deliver(
        &mut self,
        offload: &Offload,
        packet: &[u8],
        cx: &mut Cx<'_, ()>,
    ) -> Result<(), Dropped> {
        let answer = self.put(offload, Bytes { head: packet, rest: None }, cx);
        match answer {
            Err(Dropped::NoBuffer) => {}
            answer => self.count(answer),
        }
        answer.map(|_| ())
    }

    /// Counts a packet that did, or did not, get to the guest.
    pub(crate) fn count(&self, answer: Result<usize, Dropped>) {
        match answer {
            Ok(len) => self.counters.received(len as u64),
            Err(why) => self.counters.dropped(why),
        }
    }

    /// Writes header and packet into as few buffers as hold it, which the guest sees all at once, or into none. Returns
    /// the length of the packet.
    fn put(
        &mut self,
        offload: &Offload,
        mut bytes: Bytes<'_>,
        cx: &mut Cx<'_, ()>,
    ) -> Result<usize, Dropped> {
        if !self.shared.has_link() {
            return Err(Dropped::LinkDown);
        }
        let len = bytes.len();
        if let Err(why) = self.gather(HEADER_LEN + len, cx) {
            // Last in, first out: they are popped again in the old order.
            while let Some(chain) = self.chains.pop() {
                cx.put_back(chain);
            }
            return Err(why);
        }
        // At most MAX_BUFFERS.
        let header = Header { num_buffers: (self.chains.len() as u16).into(), ..offload.header() };
        let mut chains = self.chains.iter_mut();
        if let Some(first) = chains.next() {
            // There is room for it.
            let _ = first.write_obj(&header);
            bytes.fill(first);
        }
        chains.for_each(|chain| bytes.fill(chain));
        cx.done_together(self.chains.drain(..));
        Ok(len)
    }

    /// Takes buffers for so many bytes. Those taken before it fails stay in `chains`.
    fn gather(&mut self, len: usize, cx: &mut Cx<'_, ()>) -> Result<(), Dropped> {
        let mut room = 0;
        while room < len {
            let chain = cx.pop(self.queue).ok_or(Dropped::NoBuffer)?;
            if room == 0 && chain.writable_len() < HEADER_LEN {
                // Of no use for any packet.
                let _ = cx.done(chain);
                continue;
            }
            room += chain.writable_len();
            self.chains.push(chain);
            if room < len && !self.mergeable {
                return Err(Dropped::TooLong);
            }
            if room < len && self.chains.len() == MAX_BUFFERS {
                return Err(Dropped::NoBuffer);
            }
        }
        Ok(())
    }
}
