//! Packets on their way into the guest's buffers (VIRTIO 1.3, 5.1.6.4). The guest decides where they are and how large,
//! and may have none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use outboard_device::defs::net::{
    F_HASH_REPORT, F_MRG_RXBUF, F_MTU, HASH_HEADER_LEN, HEADER_LEN, HashReport, Header, HeaderWords,
};
use outboard_device::{Chain, Cx, Features, QueueId};
use outboard_frames::{MAX_HEADERS, MAX_LEN, Offload, Takes, plain};

use crate::counters::PairCounters;
use crate::limits::{Gate, Way};
use crate::pair::receiveq;
use crate::shared::{Settings, Shared};
use crate::steer::Crossing;
use crate::tx::Outgoing;

/// The most buffers of a packet, and the most pieces of them: a guest that needs more has made them small to hurt.
const MAX_BUFFERS: usize = 128;
const MAX_PIECES: usize = 1024;
/// The most buffers in a pass that are of no use: reading them takes time, which may be others'.
const MOST_USELESS: u32 = 8;

/// Why a packet does not get to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// The guest has no buffers, or too few.
    NoBuffer,
    /// The guest's buffers are of no use.
    BadBuffer,
    /// It is longer than the MTU allows, or than the buffers that it would have to fit into.
    TooLong,
    /// There is no link.
    LinkDown,
    /// The driver does not receive on this pair.
    Off,
    /// The driver does not want it.
    Filtered,
    /// It is for another pair, which is far behind.
    ToFull,
    /// More than may pass.
    Rate,
    /// The host has a header for it that it does not fit.
    Header,
}

impl Dropped {
    /// All of them, by their names.
    pub(crate) const ALL: [(Self, &'static str); 9] = [
        (Self::NoBuffer, "no_buffer"),
        (Self::BadBuffer, "bad_buffer"),
        (Self::TooLong, "too_long"),
        (Self::LinkDown, "link_down"),
        (Self::Off, "off"),
        (Self::Filtered, "filtered"),
        (Self::ToFull, "to_full"),
        (Self::Rate, "rate"),
        (Self::Header, "header"),
    ];
}

/// The receiving half of a pair.
pub(crate) struct Rx {
    pair: u16,
    queue: QueueId,
    /// The header has a hash at its end.
    has_hash: bool,
    /// A packet may lie in several buffers.
    mergeable: bool,
    /// The driver knows of the MTU.
    has_mtu: bool,
    is_on: bool,
    gate: Gate,
    /// What the guest does with a packet by itself.
    takes: Takes,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    counters: Arc<PairCounters>,
    /// The buffers of the packet that is being delivered. Empty between packets.
    chains: Vec<Chain>,
    /// Buffers of no use in this pass.
    useless: u32,
    /// A packet that is worked on before.
    scratch: Vec<u8>,
    /// Packets for other pairs, until the end of the pass.
    crossing: BTreeMap<u16, Vec<Crossing>>,
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

    /// Takes its first bytes, as many as `into` has.
    fn read(&mut self, into: &mut [u8]) {
        let (now, later) = self.head.split_at(self.head.len().min(into.len()));
        self.head = later;
        if let Some((front, back)) = into.split_at_mut_checked(now.len()) {
            front.copy_from_slice(now);
            if let Some(rest) = &mut self.rest {
                // As many as there are.
                let _ = rest.read_exact(back);
            }
        }
    }

    /// Moves as much as there is room for.
    #[inline]
    fn fill(&mut self, chain: &mut Chain) {
        if !self.head.is_empty() {
            let (now, later) = self.head.split_at(self.head.len().min(chain.writable_len()));
            self.head = later;
            // There is room for it.
            let _ = chain.write_all(now);
        }
        if let Some(rest) = &mut self.rest
            && self.head.is_empty()
        {
            rest.copy_to(chain, usize::MAX);
        }
    }
}

impl Rx {
    /// It is off.
    pub(crate) fn new(pair: u16, agreed: Features, shared: &Arc<Shared>) -> Self {
        Self {
            pair,
            queue: receiveq(pair),
            has_hash: agreed.has(F_HASH_REPORT),
            mergeable: agreed.has(F_MRG_RXBUF),
            has_mtu: agreed.has(F_MTU),
            is_on: false,
            gate: Gate::new(Way::Rx),
            takes: Takes::default(),
            settings: Arc::default(),
            shared: Arc::clone(shared),
            counters: shared.counters(pair),
            chains: Vec::with_capacity(MAX_BUFFERS),
            useless: 0,
            scratch: Vec::with_capacity(MAX_LEN as usize),
            crossing: BTreeMap::new(),
        }
    }

    /// Takes over what was set, and the work on packets that the guest takes over, as feature bits.
    pub(crate) fn renew(&mut self, takes: Features, settings: Arc<Settings>) {
        self.takes = Takes::by_driver(takes.0);
        self.gate.renew(&settings.limits);
        self.settings = settings;
    }

    /// Whether the driver receives here: else packets are dropped.
    pub(crate) fn turn(&mut self, on: bool) {
        self.is_on = on;
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Gives the guest a packet that it, or another one, has sent. Work that it does not take over is done here; each
    /// packet that comes of it is delivered or dropped on its own, and counted.
    pub(crate) fn forward(&mut self, packet: &mut Outgoing<'_>, cx: &mut Cx<'_, ()>) {
        self.pass(&packet.offload, packet.head, Some(&mut packet.rest), cx);
    }

    /// [`Self::forward`] of a packet whose front is `head`.
    pub(crate) fn pass(
        &mut self,
        offload: &Offload,
        head: &[u8],
        rest: Option<&mut Chain>,
        cx: &mut Cx<'_, ()>,
    ) {
        // By reference from here on: moved on in wide words right after it was written in narrow ones, it would be waited for.
        let mut bytes = Bytes { head, rest };
        match self.settings.hashing {
            Some(_) => self.pass_hashed(offload, &mut bytes, cx),
            None => self.pass_here(offload, &mut bytes, cx),
        }
    }

    /// Of a packet that is hashed, all headers are looked at, and it may be for another pair.
    fn pass_hashed(&mut self, offload: &Offload, bytes: &mut Bytes<'_>, cx: &mut Cx<'_, ()>) {
        let mut front = [0; MAX_HEADERS];
        let len = bytes.len().min(MAX_HEADERS);
        let head = match front.get_mut(..len) {
            Some(front) if bytes.head.len() < len => {
                bytes.read(front);
                &*front
            }
            _ => bytes.head,
        };
        let mut bytes = Bytes { head, rest: bytes.rest.as_deref_mut() };
        let Some(pair) = self.destination(head) else { return self.pass_here(offload, &mut bytes, cx) };
        let mut packet = vec![0; bytes.len()];
        bytes.read(&mut packet);
        self.send_to(pair, Crossing::new(*offload, packet));
    }

    #[inline]
    fn pass_here(&mut self, offload: &Offload, bytes: &mut Bytes<'_>, cx: &mut Cx<'_, ()>) {
        if self.takes.has(offload) {
            let open = self.is_open(cx);
            let answer = self.put(offload, bytes, open, cx);
            return self.count(answer);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(bytes.len(), 0);
        bytes.read(&mut scratch);
        self.put_plain(offload, &mut scratch, cx);
        self.scratch = scratch;
    }

    /// Gives the guest a packet, as [`Rx::forward`] does. Not having a buffer for it is the caller's to count: the packet
    /// may wait. One that had to be worked on does not wait.
    ///
    /// # Errors
    /// It was not delivered.
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        offload: &Offload,
        packet: &[u8],
        cx: &mut Cx<'_, ()>,
    ) -> Result<(), Dropped> {
        if let Some(pair) = self.destination(packet) {
            self.send_to(pair, Crossing::new(*offload, packet.to_vec()));
            return Ok(());
        }
        self.deliver_here(offload, packet, cx)
    }

    /// Gives the guest a packet on this pair, and no other.
    ///
    /// # Errors
    /// As of [`Rx::deliver`].
    #[inline]
    pub(crate) fn deliver_here(
        &mut self,
        offload: &Offload,
        packet: &[u8],
        cx: &mut Cx<'_, ()>,
    ) -> Result<(), Dropped> {
        if !self.takes.has(offload) {
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.clear();
            scratch.extend_from_slice(packet);
            self.put_plain(offload, &mut scratch, cx);
            self.scratch = scratch;
            return Ok(());
        }
        let open = self.is_open(cx);
        let answer = self.put(offload, &mut Bytes { head: packet, rest: None }, open, cx);
        match answer {
            Err(Dropped::NoBuffer) => {}
            answer => self.count(answer),
        }
        answer.map(|_| ())
    }

    /// The pass is over: packets for other pairs go there.
    pub(crate) fn flush(&mut self) {
        self.useless = 0;
        for (pair, packets) in &mut self.crossing {
            if packets.is_empty() {
                continue;
            }
            let why = self.shared.crossings.send(*pair, packets);
            packets.drain(..).for_each(|_| self.counters.dropped(why));
        }
    }

    /// Which other pair a packet is for, if it is, that begins with `head`.
    fn destination(&self, head: &[u8]) -> Option<u16> {
        let spread = self.settings.spread.as_ref()?;
        let hash = self.hash(head).map(|(hash, _)| hash);
        Some(spread.pair(hash)).filter(|pair| *pair != self.pair)
    }

    fn hash(&self, head: &[u8]) -> Option<(u32, u16)> {
        self.settings.hashing.as_ref()?.of(head)
    }

    fn send_to(&mut self, pair: u16, packet: Crossing) {
        self.crossing.entry(pair).or_default().push(packet);
    }

    /// Does what is left to do for a packet, and gives the guest what comes of it. When there is no buffer for one, there is
    /// none for those behind it: a guest does not have us look for buffers a thousand times. Limits let all of it pass, or
    /// nothing.
    #[inline(never)]
    fn put_plain(&mut self, offload: &Offload, packet: &mut [u8], cx: &mut Cx<'_, ()>) {
        let open = self.is_open(cx);
        let mut over = None;
        plain(offload, packet, |frame| {
            let answer = match over {
                Some(why) => Err(why),
                None => self.put(&Offload::None, &mut Bytes { head: frame, rest: None }, open, cx),
            };
            over = answer.err();
            self.count(answer);
        });
    }

    /// How long nothing more is to pass: who can lets packets wait, and has them dropped else.
    pub(crate) fn closed(&self, cx: &Cx<'_, ()>) -> Option<Duration> {
        self.gate.closed(|| cx.now())
    }

    fn is_open(&self, cx: &Cx<'_, ()>) -> bool {
        self.closed(cx).is_none()
    }

    /// Counts a packet that did, or did not, get to the guest.
    pub(crate) fn count(&self, answer: Result<usize, Dropped>) {
        match answer {
            Ok(len) => self.counters.received(len as u64),
            Err(why) => self.counters.dropped(why),
        }
    }

    /// Writes header and packet into as few buffers as hold it, which the guest sees all at once, or into none. Returns
    /// the length of the packet. Limits that are not `open` have it dropped.
    #[inline]
    fn put(
        &mut self,
        offload: &Offload,
        bytes: &mut Bytes<'_>,
        open: bool,
        cx: &mut Cx<'_, ()>,
    ) -> Result<usize, Dropped> {
        let len = bytes.len();
        self.admit(offload, bytes.head, len)?;
        if !open {
            return Err(Dropped::Rate);
        }
        if bytes.rest.is_none() && !self.has_hash {
            let header = Header { num_buffers: 1.into(), ..offload.header() };
            // As nearly always.
            if cx.put(self.queue, &HeaderWords::from(header), bytes.head) {
                self.gate.pass(len, || cx.now());
                return Ok(len);
            }
        }
        let hash = if self.has_hash { self.hash(bytes.head).unwrap_or_default() } else { (0, 0) };
        match self.buffer(cx)? {
            // As nearly always.
            Some(mut chain)
                if chain.readable_len() == 0 && chain.writable_len() >= self.header_len() + len =>
            {
                self.begin(&mut chain, offload, 1, hash, bytes);
                let _ = cx.done(chain);
            }
            first => self.put_in_parts(first, offload, hash, bytes, cx)?,
        }
        self.gate.pass(len, || cx.now());
        Ok(len)
    }

    /// [`Rx::put`] into several buffers, of which `first` was popped.
    #[inline(never)]
    fn put_in_parts(
        &mut self,
        first: Option<Chain>,
        offload: &Offload,
        hash: (u32, u16),
        bytes: &mut Bytes<'_>,
        cx: &mut Cx<'_, ()>,
    ) -> Result<(), Dropped> {
        if let Err(why) = self.gather(first, self.header_len() + bytes.len(), cx) {
            // Last in, first out: they are popped again in the old order.
            while let Some(chain) = self.chains.pop() {
                cx.put_back(chain);
            }
            return Err(why);
        }
        let mut chains = std::mem::take(&mut self.chains);
        // At most MAX_BUFFERS.
        let count = chains.len() as u16;
        let mut all = chains.iter_mut();
        if let Some(first) = all.next() {
            self.begin(first, offload, count, hash, bytes);
        }
        all.for_each(|chain| bytes.fill(chain));
        cx.done_together(chains.drain(..));
        self.chains = chains;
        Ok(())
    }

    /// Writes the header and as much of the packet as there is room for into the first of `count` buffers, which holds the
    /// header at least.
    #[inline]
    fn begin(
        &self,
        chain: &mut Chain,
        offload: &Offload,
        count: u16,
        hash: (u32, u16),
        bytes: &mut Bytes<'_>,
    ) {
        let header = Header { num_buffers: count.into(), ..offload.header() };
        if self.has_hash {
            let (value, report) = (hash.0.into(), hash.1.into());
            // There is room for it.
            let _ = chain.write_obj(&header);
            let _ = chain.write_obj(&HashReport { value, report, padding: 0.into() });
        } else {
            let room = chain.writable_len() - HEADER_LEN.min(chain.writable_len());
            let (now, later) = bytes.head.split_at(bytes.head.len().min(room));
            bytes.head = later;
            let _ = chain.write_obj_with(&HeaderWords::from(header), now);
        }
        bytes.fill(chain);
    }

    const fn header_len(&self) -> usize {
        if self.has_hash { HASH_HEADER_LEN } else { HEADER_LEN }
    }

    /// Whether the driver is to have a packet that begins with `head`.
    fn admit(&self, offload: &Offload, head: &[u8], len: usize) -> Result<(), Dropped> {
        if !self.is_on {
            return Err(Dropped::Off);
        }
        if !self.shared.has_link() {
            return Err(Dropped::LinkDown);
        }
        let Settings { filter, mac, mtu, .. } = &*self.settings;
        if filter.as_ref().is_some_and(|filter| !filter.passes(head, *mac)) {
            return Err(Dropped::Filtered);
        }
        // VIRTIO 1.3, 5.1.4.1.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        match mtu {
            Some(mtu) if self.has_mtu && !offload.fits((*mtu).into(), len, head) => Err(Dropped::TooLong),
            _ => Ok(()),
        }
    }

    /// Takes buffers for so many bytes, `first` and others. Those taken before it fails stay in `chains`.
    fn gather(&mut self, first: Option<Chain>, len: usize, cx: &mut Cx<'_, ()>) -> Result<(), Dropped> {
        let (mut room, mut pieces, mut next) = (0, 0, first);
        loop {
            let Some(chain) = next else {
                // Buffers that the guest has in a ring that they fill do not become more.
                let never = cx.is_exhausted(self.queue);
                return Err(if never { Dropped::TooLong } else { Dropped::NoBuffer });
            };
            let writable = chain.writable_len();
            if chain.readable_len() > 0 || writable == 0 || (room == 0 && writable < self.header_len()) {
                // Of no use for any packet.
                let _ = cx.done(chain);
                self.useless += 1;
            } else {
                room += writable;
                pieces += chain.writable().len();
                self.chains.push(chain);
                if room >= len {
                    return Ok(());
                }
                if !self.mergeable || self.chains.len() == MAX_BUFFERS || pieces > MAX_PIECES {
                    return Err(Dropped::TooLong);
                }
            }
            next = self.buffer(cx)?;
        }
    }

    /// The next of the guest's buffers, if it has one.
    #[inline]
    fn buffer(&self, cx: &mut Cx<'_, ()>) -> Result<Option<Chain>, Dropped> {
        if self.useless == MOST_USELESS {
            return Err(Dropped::BadBuffer);
        }
        Ok(cx.pop(self.queue))
    }
}
