//! A connection with memory and rings, step by step: each method sends one message, so that a check can say them in
//! any order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use outboard_frontend::{Layout, Memory};
use outboard_vhost_user::message::vring_fd;
use outboard_vhost_user::payload::{MemRegion, MemTableHeader, SingleMemRegion, VringState};
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::features::{
    VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_EVENT_IDX, VIRTIO_F_IN_ORDER,
    VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1,
};
use outboard_virtqueue::{Base, Format};
use zerocopy::IntoBytes;

use super::cx::{Cx, Offer};
use super::ring::{Ring, TABLE_ENTRIES, signal};
use super::sample::{Kind, Sample};
use super::verdict::{Checked, Stop};
use super::wire::Wire;

/// How a session is set up. All as far as it is on offer.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) format: Format,
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
    pub(crate) in_order: bool,
    /// Bits of the device type.
    pub(crate) device_features: u64,
    /// Entries of each ring.
    pub(crate) size: u16,
    /// Entries of each indirect table.
    pub(crate) table_entries: u16,
    /// The protocol features to agree on.
    pub(crate) protocol: ProtocolFeatures,
    /// Share memory region by region.
    pub(crate) slots: bool,
    pub(crate) layout: Layout,
}

impl Setup {
    /// The usual, with rings of this format.
    pub(crate) fn new(format: Format) -> Self {
        let protocol =
            ProtocolFeatures::DEFAULT_OFFER - ProtocolFeatures::BACKEND_REQ - ProtocolFeatures::STATUS;
        Self {
            format,
            event_idx: false,
            indirect: false,
            in_order: false,
            device_features: 0,
            size: 16,
            table_entries: TABLE_ENTRIES,
            protocol: protocol - ProtocolFeatures::BACKEND_SEND_FD,
            slots: false,
            layout: Layout::default(),
        }
    }

    /// The virtio features to set when these are on offer.
    pub(crate) fn features(&self, offered: u64) -> u64 {
        let wanted = [
            (VIRTIO_F_RING_PACKED, self.format == Format::Packed),
            (VIRTIO_F_EVENT_IDX, self.event_idx),
            (VIRTIO_F_INDIRECT_DESC, self.indirect),
            (VIRTIO_F_IN_ORDER, self.in_order),
            (VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES | self.device_features, true),
        ];
        wanted.iter().filter(|(_, wanted)| *wanted).fold(0, |mask, (bit, _)| mask | bit) & offered
    }
}

/// A connection with memory and rings.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) wire: Wire,
    pub(crate) memory: Memory,
    pub(crate) rings: Vec<Ring>,
    /// The virtio features as set.
    pub(crate) features: u64,
    /// The protocol features as set.
    pub(crate) protocol: ProtocolFeatures,
    pub(crate) setup: Setup,
    /// Our end of the back channel, where it was opened.
    pub(crate) channel: Option<UnixStream>,
    offer: Offer,
    kind: Kind,
    pub(crate) patience: std::time::Duration,
}

impl Session {
    /// Connected; nothing was said yet, and memory is made but not shared.
    pub(crate) fn silent(cx: &mut Cx, setup: &Setup) -> Checked<Self> {
        let wire = cx.wire()?;
        let memory = Memory::new(&setup.layout)?;
        Ok(Self {
            wire,
            memory,
            rings: Vec::new(),
            features: 0,
            protocol: ProtocolFeatures::EMPTY,
            setup: setup.clone(),
            channel: None,
            offer: cx.offer,
            kind: cx.kind,
            patience: cx.patience,
        })
    }

    /// Features are agreed on and memory is shared, without rings yet.
    pub(crate) fn open(cx: &mut Cx, setup: &Setup) -> Checked<Self> {
        let mut this = Self::silent(cx, setup)?;
        this.negotiate()?;
        this.share()?;
        Ok(this)
    }

    /// All of the sample's device is set up: the sample's queue and those before it run.
    pub(crate) fn ready(cx: &mut Cx, setup: &Setup) -> Checked<Self> {
        let mut this = Self::prepared(cx, setup)?;
        this.start(this.last())?;
        Ok(this)
    }

    /// As [`ready`](Self::ready), but the sample's queue is not set up yet: its ring is only made.
    pub(crate) fn prepared(cx: &mut Cx, setup: &Setup) -> Checked<Self> {
        let last = cx.sample()?.queue;
        let mut this = Self::open(cx, setup)?;
        for index in 0..last {
            let at = this.add_ring(index)?;
            this.start(at)?;
        }
        this.add_ring(last)?;
        Ok(this)
    }

    /// The place of the last ring, which takes the samples.
    pub(crate) fn last(&self) -> usize {
        self.rings.len().saturating_sub(1)
    }

    /// A new connection takes the place of the old one; memory and rings stay. Negotiated anew, memory shared.
    pub(crate) fn reconnect(&mut self, cx: &mut Cx) -> Checked {
        self.wire = cx.wire()?;
        self.negotiate()?;
        self.share()
    }

    /// SET_OWNER, protocol features, features: in the order that every back end accepts.
    pub(crate) fn negotiate(&mut self) -> Checked {
        self.owner()?;
        self.wire.ask_u64(Code::GET_FEATURES)?;
        self.set_protocol()?;
        self.set_features()
    }

    /// SET_OWNER.
    pub(crate) fn owner(&mut self) -> Checked {
        self.wire.set(Code::SET_OWNER, &[], &[])
    }

    /// GET_ and SET_PROTOCOL_FEATURES, if there are any.
    pub(crate) fn set_protocol(&mut self) -> Checked {
        if self.offer.features & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        let offered = ProtocolFeatures(self.wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?);
        let agreed = (offered & self.setup.protocol).effective();
        self.wire.set(Code::SET_PROTOCOL_FEATURES, agreed.0.as_bytes(), &[])?;
        self.protocol = agreed;
        self.wire.acks = agreed.contains(ProtocolFeatures::REPLY_ACK);
        Ok(())
    }

    /// SET_FEATURES as the set-up has them.
    pub(crate) fn set_features(&mut self) -> Checked {
        self.features = self.setup.features(self.offer.features) | self.kind.needed(self.offer.features);
        self.wire.set(Code::SET_FEATURES, self.features.as_bytes(), &[])
    }

    /// SET_FEATURES again, with LOG_ALL or without.
    pub(crate) fn set_log_all(&mut self, on: bool) -> Checked {
        let log = if on { VHOST_F_LOG_ALL } else { 0 };
        self.wire.set(Code::SET_FEATURES, (self.features | log).as_bytes(), &[])
    }

    /// Shares all memory, region by region or as a table.
    pub(crate) fn share(&mut self) -> Checked {
        if self.setup.slots && self.protocol.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
            for (region, fd) in self.memory.table()? {
                self.add_region(region, &fd)?;
            }
            return Ok(());
        }
        let (body, fds) = self.table()?;
        self.wire.set(Code::SET_MEM_TABLE, &body, &borrowed(&fds))
    }

    /// The payload of SET_MEM_TABLE, and its descriptors.
    pub(crate) fn table(&self) -> Checked<(Vec<u8>, Vec<OwnedFd>)> {
        let (regions, fds): (Vec<MemRegion>, Vec<OwnedFd>) = self.memory.table()?.into_iter().unzip();
        Ok((table_body(&regions), fds))
    }

    /// ADD_MEM_REG.
    pub(crate) fn add_region(&mut self, region: MemRegion, fd: &OwnedFd) -> Checked {
        let body = SingleMemRegion { padding: 0, region };
        self.wire.set(Code::ADD_MEM_REG, body.as_bytes(), &[fd.as_fd()])
    }

    /// Makes a ring; the back end does not know of it yet. Returns its place in `rings`.
    pub(crate) fn add_ring(&mut self, index: u16) -> Checked<usize> {
        let Setup { size, table_entries, .. } = self.setup;
        let ring = Ring::new(&mut self.memory, index, size, self.features, table_entries)?;
        self.rings.push(ring);
        Ok(self.last())
    }

    /// The ring at this place.
    pub(crate) fn ring(&mut self, at: usize) -> Checked<&mut Ring> {
        self.rings.get_mut(at).ok_or_else(|| Stop::Skip("our own side: no such ring".to_owned()))
    }

    /// The ring that takes the samples: the last one of [`ready`](Self::ready).
    pub(crate) fn sample_ring(&mut self) -> Checked<&mut Ring> {
        self.rings.last_mut().ok_or_else(|| Stop::Skip("our own side: no ring".to_owned()))
    }

    fn index(&mut self, at: usize) -> Checked<u32> {
        Ok(self.ring(at)?.index.into())
    }

    /// SET_VRING_NUM.
    pub(crate) fn num(&mut self, at: usize) -> Checked {
        let ring = self.ring(at)?;
        let state = VringState { index: ring.index.into(), num: ring.queue.size().into() };
        self.wire.set(Code::SET_VRING_NUM, state.as_bytes(), &[])
    }

    /// SET_VRING_BASE of a fresh ring.
    pub(crate) fn base(&mut self, at: usize) -> Checked {
        let base = self.ring(at)?.queue.fresh_base();
        self.base_of(at, base)
    }

    /// SET_VRING_BASE.
    pub(crate) fn base_of(&mut self, at: usize, base: Base) -> Checked {
        let state = VringState { index: self.index(at)?, num: base.0 };
        self.wire.set(Code::SET_VRING_BASE, state.as_bytes(), &[])
    }

    /// SET_VRING_ADDR.
    pub(crate) fn addr(&mut self, at: usize) -> Checked {
        self.addr_flags(at, 0)
    }

    /// SET_VRING_ADDR with these flags.
    pub(crate) fn addr_flags(&mut self, at: usize, flags: u32) -> Checked {
        let ring = self.rings.get(at).ok_or_else(|| Stop::Skip("our own side: no such ring".to_owned()))?;
        let addr = ring.addr(&self.memory, flags)?;
        self.wire.set(Code::SET_VRING_ADDR, addr.as_bytes(), &[])
    }

    /// SET_VRING_KICK, _CALL or _ERR with the ring's own descriptor.
    fn vring_fd(&mut self, code: Code, at: usize) -> Checked {
        let ring = self.rings.get(at).ok_or_else(|| Stop::Skip("our own side: no such ring".to_owned()))?;
        let fd = match code {
            Code::SET_VRING_KICK => &ring.kick,
            Code::SET_VRING_CALL => &ring.call,
            _ => &ring.err,
        };
        self.wire.set(code, u64::from(ring.index).as_bytes(), &[fd.as_fd()])
    }

    /// SET_VRING_KICK.
    pub(crate) fn kick(&mut self, at: usize) -> Checked {
        self.vring_fd(Code::SET_VRING_KICK, at)
    }

    /// SET_VRING_CALL.
    pub(crate) fn call(&mut self, at: usize) -> Checked {
        self.vring_fd(Code::SET_VRING_CALL, at)
    }

    /// SET_VRING_ERR.
    pub(crate) fn err(&mut self, at: usize) -> Checked {
        self.vring_fd(Code::SET_VRING_ERR, at)
    }

    /// SET_VRING_KICK, _CALL or _ERR without a descriptor.
    pub(crate) fn without_fd(&mut self, code: Code, at: usize) -> Checked {
        let word = u64::from(self.index(at)?) | vring_fd::NO_FD;
        self.wire.set(code, word.as_bytes(), &[])
    }

    /// SET_VRING_ENABLE, where there is such a thing.
    pub(crate) fn enable(&mut self, at: usize, on: bool) -> Checked {
        if self.features & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
            return Ok(());
        }
        let state = VringState { index: self.index(at)?, num: on.into() };
        self.wire.set(Code::SET_VRING_ENABLE, state.as_bytes(), &[])
    }

    /// GET_VRING_BASE.
    pub(crate) fn stop(&mut self, at: usize) -> Checked<Base> {
        let state = VringState { index: self.index(at)?, num: 0 };
        let answer: VringState = self.wire.ask_for(Code::GET_VRING_BASE, state.as_bytes())?;
        if answer.index == state.index {
            return Ok(Base(answer.num));
        }
        Err(Stop::fail(format!(
            "GET_VRING_BASE of ring {} was answered for ring {}",
            state.index, answer.index
        )))
    }

    /// All of a fresh ring, in the usual order, and a kick.
    pub(crate) fn start(&mut self, at: usize) -> Checked {
        let base = self.ring(at)?.queue.fresh_base();
        self.start_at(at, base)
    }

    /// All of a ring that goes on at `base`.
    pub(crate) fn start_at(&mut self, at: usize, base: Base) -> Checked {
        self.num(at)?;
        self.base_of(at, base)?;
        self.addr(at)?;
        self.err(at)?;
        self.call(at)?;
        self.kick(at)?;
        self.enable(at, true)?;
        let ring = self.ring(at)?;
        signal(&ring.kick)
    }

    /// Makes the sample request on the last ring, and holds its answer against what it must be.
    pub(crate) fn request(&mut self) -> Checked<Vec<u8>> {
        let sample = self.sample()?;
        self.request_of(&sample)
    }

    /// Makes any request on the last ring, and holds its answer against what it must be.
    pub(crate) fn request_of(&mut self, sample: &Sample) -> Checked<Vec<u8>> {
        let Self { memory, rings, patience, .. } = self;
        let ring = rings.last_mut().ok_or_else(|| Stop::Skip("our own side: no ring".to_owned()))?;
        let placed = ring.place(memory, sample, 1)?;
        ring.publish()?;
        let (token, len) = ring.returned(*patience)?;
        if token != 1 {
            return Err(Stop::fail(format!("a request that was not made was returned ({token})")));
        }
        ring.verify(memory, sample, placed, len)
    }

    /// The virtio features on offer.
    pub(crate) fn offered_features(&self) -> u64 {
        self.offer.features
    }

    /// How many queues the device says it has, where it does.
    pub(crate) fn offered_queues(&self) -> Option<u64> {
        self.offer.queues
    }

    /// How long an answer may take.
    pub(crate) fn patience(&self) -> std::time::Duration {
        self.patience
    }

    /// The sample request.
    pub(crate) fn sample(&self) -> Checked<Sample> {
        let kind = self.kind;
        kind.sample()
            .ok_or_else(|| Stop::Skip(format!("no request is known for a device of type {}", kind.name())))
    }
}

/// The payload of SET_MEM_TABLE.
pub(crate) fn table_body(regions: &[MemRegion]) -> Vec<u8> {
    let header = MemTableHeader { count: u32::try_from(regions.len()).unwrap_or(u32::MAX), padding: 0 };
    [header.as_bytes(), regions.as_bytes()].concat()
}

/// Descriptors to send.
pub(crate) fn borrowed(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
