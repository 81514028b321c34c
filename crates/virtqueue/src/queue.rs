//! A running ring of either format: the one type that back ends deal with. What the formats share is here: the
//! fault that latches, chains put back, order of completions, recycling, dirty pages.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use outboard_guest_memory::{MemoryMap, Piece};

use crate::MAX_SIZE;
use crate::base::Base;
use crate::chain::{Body, Chain};
use crate::error::RingError;
use crate::inflight::InflightQueue;
use crate::packed::Packed;
use crate::reach::Reach;
use crate::ring::{Descriptor, Done, Format, Log, QueueId};
use crate::single::Single;
use crate::split::Split;

/// Everything that a ring needs to start, as the messages gave it.
#[derive(Debug)]
pub struct QueueConfig {
    /// Which queue of its device.
    pub id: QueueId,
    /// VIRTIO_F_RING_PACKED.
    pub format: Format,
    /// Entries: 1 to 32768; a power of two if split.
    pub size: u32,
    /// The memory table, and the dirty log with it.
    pub mem: MemoryMap,
    /// Descriptor table (split) or ring (packed), in the front end's address space.
    pub desc: u64,
    /// Available ring, or driver event area.
    pub avail: u64,
    /// Used ring, or device event area.
    pub used: u64,
    /// Writes to the ring are logged; the used ring (device event area) has this guest-physical address.
    pub log_used: Option<u64>,
    /// Writes to buffers are logged (VHOST_F_LOG_ALL).
    pub log_data: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// Where the ring goes on. In-flight records that are in use override it.
    pub base: Base,
    /// The records of requests in flight.
    pub inflight: Option<InflightQueue>,
}

/// A running ring, the device's half.
///
/// It belongs to one thread at a time. Chains out of it keep their memory mapped by themselves and may outlive it.
pub struct Virtqueue {
    ring: Ring,
    id: QueueId,
    owner: u64,
    reach: Reach,
    addresses: Addresses,
    log: Log,
    fault: Option<RingError>,
    /// The ring is not in the memory table at the moment: nothing is popped.
    resting: bool,
    /// Chains given out, and neither completed nor put back.
    out: u32,
    /// Descriptors of the ring that they take.
    held: u32,
    sequence: u64,
    /// Chains put back, oldest first.
    returned: VecDeque<Box<Body>>,
    order: Option<Order>,
    #[expect(clippy::vec_box, reason = "bodies move into chains and back as they are")]
    pool: Vec<Box<Body>>,
}

enum Ring {
    Split(Split),
    Packed(Packed),
}

macro_rules! each {
    ($ring:expr, $it:ident => $what:expr) => {
        match $ring {
            Ring::Split($it) => $what,
            Ring::Packed($it) => $what,
        }
    };
}

/// The parts of a ring, in the front end's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// Features that the formats themselves look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
}

/// Each activation has a number of its own, so that a chain cannot be completed on another ring than its own.
static OWNERS: AtomicU64 = AtomicU64::new(0);

impl QueueConfig {
    /// Starts the ring: resolves its addresses, and takes over what a previous process had in flight.
    ///
    /// # Errors
    /// Size, alignment, addresses, base; in-flight records that contradict themselves.
    pub fn activate(self) -> Result<Virtqueue, RingError> {
        let size = u16::try_from(self.size).unwrap_or(u16::MAX);
        if size == 0 || self.size > MAX_SIZE {
            return Err(RingError::Size { size: self.size });
        }
        let addresses = Addresses { desc: self.desc, avail: self.avail, used: self.used };
        let agreed = Agreed { event_idx: self.event_idx, indirect: self.indirect };
        let ring = match self.format {
            Format::Split => {
                Ring::Split(Split::start(&self.mem, addresses, size, agreed, self.base, self.inflight)?)
            }
            Format::Packed => {
                Ring::Packed(Packed::start(&self.mem, addresses, size, agreed, self.base, self.inflight)?)
            }
        };
        let log = Log { dirty: self.mem.log().cloned(), data: self.log_data, used: self.log_used };
        Ok(Virtqueue {
            ring,
            id: self.id,
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
            reach: Reach::new(self.mem),
            addresses,
            log,
            fault: None,
            resting: false,
            out: 0,
            held: 0,
            sequence: 0,
            returned: VecDeque::new(),
            order: self.in_order.then(|| Order::new(size)),
            pool: Vec::new(),
        })
    }
}

impl Virtqueue {
    /// Which queue of its device.
    pub fn id(&self) -> QueueId {
        self.id
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        each!(&self.ring, ring => ring.size())
    }

    /// The next request, or `None`: chains that were put back first, then what was in flight when a previous
    /// process died, in its order, then what the driver makes available.
    ///
    /// # Errors
    /// What is wrong with the ring or the chain, once: it latches, and from then on there is none.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Chain>, RingError> {
        let was_faulty = self.fault.is_some();
        match (self.take(), &self.fault) {
            (None, Some(fault)) if !was_faulty => Err(fault.clone()),
            (chain, _) => Ok(chain),
        }
    }

    /// [`pop`](Virtqueue::pop) for those who take many and look at the [fault](Virtqueue::fault) when there are none.
    #[inline]
    pub fn take(&mut self) -> Option<Chain> {
        if self.is_idle() {
            return None;
        }
        if let Some(body) = self.returned.pop_front() {
            return Some(self.hand_out(body));
        }
        let mut body = self.body();
        match each!(&mut self.ring, ring => ring.pop(&mut body, &self.reach)) {
            Ok(true) => {
                body.sequence = self.next_sequence();
                Some(self.hand_out(body))
            }
            Ok(false) => {
                self.pool.push(body);
                None
            }
            Err(error) => {
                self.fault = Some(*error);
                None
            }
        }
    }

    /// Takes the next request, if nothing comes before it, and it is as [`Split::take_single`] says.
    #[inline]
    pub(crate) fn take_single(&mut self, flags: u16, least: usize) -> Option<Single> {
        if self.is_idle() || !self.returned.is_empty() {
            return None;
        }
        each!(&mut self.ring, ring => ring.take_single(&self.reach, flags, least))
    }

    /// An empty body, for a chain.
    #[inline]
    pub(crate) fn body(&mut self) -> Box<Body> {
        self.pool.pop().unwrap_or_else(|| Body::new(self.id, self.owner, self.reach.mem().clone()))
    }

    /// For the request that was just taken.
    #[inline]
    pub(crate) fn next_sequence(&mut self) -> u64 {
        let sequence = self.sequence;
        self.sequence += 1;
        sequence
    }

    #[inline]
    pub(crate) const fn owner(&self) -> u64 {
        self.owner
    }

    #[inline]
    pub(crate) const fn reach(&self) -> &Reach {
        &self.reach
    }

    #[inline]
    fn hand_out(&mut self, body: Box<Body>) -> Chain {
        self.give_out(body.count);
        Chain::new(body)
    }

    /// A request of so many descriptors is given out.
    #[inline]
    pub(crate) fn give_out(&mut self, count: u16) {
        self.out += 1;
        self.held += u32::from(count);
    }

    /// It is no longer.
    #[inline]
    pub(crate) fn get_back(&mut self, count: u16) {
        self.out = self.out.saturating_sub(1);
        self.held = self.held.saturating_sub(count.into());
    }

    /// A chain is no longer given out.
    #[inline]
    fn take_in(&mut self, body: &Body) {
        self.get_back(body.count);
        self.log_written(body);
    }

    /// Takes a request back as done; the driver will be told [`Chain::written`] as its length, when the batch is
    /// [published](Virtqueue::publish). A chain that is not of this activation is abandoned.
    #[inline]
    pub fn complete(&mut self, chain: Chain) {
        self.take_back(chain, false);
    }

    /// [`complete`](Virtqueue::complete) for chains that the driver must see all at once, in the order in which they
    /// were popped (VIRTIO 1.3, 5.1.6.4.2: merged buffers). No kill falls between them, either.
    pub fn complete_together(&mut self, chains: impl IntoIterator<Item = Chain>) {
        let mut chains = chains.into_iter().peekable();
        while let Some(chain) = chains.next() {
            self.take_back(chain, chains.peek().is_some());
        }
    }

    #[inline]
    fn take_back(&mut self, chain: Chain, joined: bool) {
        let mut body = chain.into_body();
        if body.owner != self.owner {
            return body.abandon();
        }
        self.take_in(&body);
        let done = Done { id: body.id, count: body.count, slot: body.slot, len: body.written, joined };
        self.settle(body.sequence, done);
        body.recycle(self.reach.mem());
        self.pool.push(body);
    }

    /// A request is done: it goes to the driver when the batch is published, or when those before it are done, too.
    // Always in its caller: `done` handed over in memory is read in wider words than it was written in, and waited for.
    #[inline(always)]
    pub(crate) fn settle(&mut self, sequence: u64, done: Done) {
        match &mut self.order {
            None => each!(&mut self.ring, ring => ring.stage(done)),
            Some(order) => {
                if order.passes(sequence) {
                    each!(&mut self.ring, ring => ring.stage(done));
                } else {
                    order.put(sequence, done);
                }
                while let Some(done) = order.take() {
                    each!(&mut self.ring, ring => ring.stage(done));
                }
            }
        }
    }

    /// Takes a request back as not begun: a later [`pop`](Virtqueue::pop) gives it out again, whole, before
    /// anything younger. Until then it counts as available. A chain that is not of this activation is abandoned.
    pub fn put_back(&mut self, chain: Chain) {
        let mut body = chain.into_body();
        if body.owner != self.owner {
            return body.abandon();
        }
        self.take_in(&body);
        body.buffers.rewind();
        body.written = 0;
        let place = self.returned.partition_point(|other| other.sequence < body.sequence);
        self.returned.insert(place, body);
    }

    /// Shows the completions since the last time to the driver, at once; `false` if there were none.
    #[inline]
    pub fn publish(&mut self) -> bool {
        let Self { ring, log, .. } = self;
        each!(ring, ring => ring.publish(log))
    }

    /// Whether the driver is to be called for what was published since this was last asked: always the first time
    /// after the start, then as the driver wishes (VIRTIO 1.3, 2.7.7, 2.8.14).
    #[inline]
    pub fn call_needed(&mut self) -> bool {
        each!(&mut self.ring, ring => ring.call_needed())
    }

    /// Tells the driver that kicks are not needed for now.
    #[inline]
    pub fn suppress_kicks(&mut self) {
        let Self { ring, log, .. } = self;
        each!(ring, ring => ring.suppress_kicks(log));
    }

    /// Asks the driver for a kick, and looks once more: `true` if nothing is available, so that one may sleep.
    #[inline]
    pub fn arm_kicks(&mut self) -> bool {
        self.arm_kicks_for_more() && (self.returned.is_empty() || self.is_idle())
    }

    /// [`arm_kicks`](Virtqueue::arm_kicks) for those who know of the chains that were put back: `true` if there is
    /// nothing beyond them.
    #[inline]
    pub fn arm_kicks_for_more(&mut self) -> bool {
        if self.is_idle() {
            return true;
        }
        let Self { ring, log, .. } = self;
        each!(ring, ring => ring.arm_kicks(log))
    }

    /// Whether [`pop`](Virtqueue::pop) would find something: cheap, for polling.
    #[inline]
    pub fn has_available(&self) -> bool {
        !self.is_idle() && (!self.returned.is_empty() || each!(&self.ring, ring => ring.has_available()))
    }

    /// Whether there is something beyond the chains that were put back.
    #[inline]
    pub fn has_more(&self) -> bool {
        !self.is_idle() && each!(&self.ring, ring => ring.has_available())
    }

    /// Chains given out, and neither completed nor put back. A ring is drained when there are none.
    pub fn in_flight(&self) -> u32 {
        self.out
    }

    /// Chains that were completed since the ring started, and will be in the driver's hands when they are published.
    pub fn completed(&self) -> u64 {
        let early = self.order.as_ref().map_or(0, |order| order.waiting);
        self.sequence - u64::from(self.out) - (self.returned.len() + early) as u64
    }

    /// Entries of the ring that the chains take that are given out.
    #[inline]
    pub fn held(&self) -> u32 {
        self.held
    }

    /// Whether the chains that are given out take up the whole ring: the driver can add none before some of them are
    /// completed and published.
    #[inline]
    pub fn is_exhausted(&self) -> bool {
        self.held >= self.size().into()
    }

    /// Requests that a previous process left in flight and that [`pop`](Virtqueue::pop) has yet to give out.
    pub fn recovering(&self) -> usize {
        each!(&self.ring, ring => ring.recovering())
    }

    /// What made the ring stop working, if something did.
    pub fn fault(&self) -> Option<&RingError> {
        self.fault.as_ref()
    }

    /// Goes on with another memory table or dirty log. Chains in flight keep the memory they began with.
    ///
    /// # Errors
    /// The ring, or a chain that was put back, is not in it. It rests until a later update brings it back: front ends remove and add regions one
    /// by one, also those that a running ring lies in. Completions meanwhile still go where it was.
    ///
    /// A fault that was no more than a buffer outside of the old table is forgotten for the same reason: its chain
    /// was not taken, and is looked at again.
    pub fn update(&mut self, mem: MemoryMap) -> Result<(), RingError> {
        self.log.dirty = mem.log().cloned();
        let resolved = each!(&mut self.ring, ring => ring.resolve(&mem, self.addresses));
        self.resting = resolved.is_err();
        resolved?;
        // What was put back will be used as if it were popped then: not in memory that is given up.
        for body in &mut self.returned {
            if body.buffers.remap(&mem).is_err() {
                self.resting = true;
                return Err(RingError::ReturnedUnmapped { head: body.id });
            }
        }
        self.reach = Reach::new(mem);
        if self.fault.as_ref().is_some_and(RingError::is_about_memory) {
            self.fault = None;
        }
        for body in &mut self.pool {
            body.recycle(self.reach.mem());
        }
        Ok(())
    }

    /// Whether writes to buffers and to the ring are logged, as in [`QueueConfig`].
    pub fn set_logging(&mut self, log_data: bool, log_used: Option<u64>) {
        self.log.data = log_data;
        self.log.used = log_used;
    }

    /// Where the ring goes on. Requests that were popped count as taken, also those put back.
    pub fn base(&self) -> Base {
        each!(&self.ring, ring => ring.base())
    }

    /// Stops the ring and says where to go on (vhost-user: GET_VRING_BASE). Completions are published first.
    ///
    /// Chains that were put back return to the ring, provided that none popped after them was completed. With
    /// chains still in flight (GET_VRING_BASE_SKIP_DRAIN) the base counts them as taken; in-flight records keep
    /// them for the next start, which is why only a ring with such records should be stopped so. The chains are to
    /// be [abandoned](Chain::abandon).
    pub fn stop(mut self) -> Base {
        self.publish();
        while let Some(body) = self.returned.pop_back() {
            if body.recovered || body.sequence + 1 != self.sequence {
                self.returned.push_back(body);
                break;
            }
            self.sequence -= 1;
            each!(&mut self.ring, ring => ring.unpop(&body));
        }
        let held = self.order.as_ref().is_some_and(|order| order.next != self.sequence);
        if self.out == 0 && self.returned.is_empty() && !held && self.recovering() == 0 {
            each!(&mut self.ring, ring => ring.retire());
        }
        self.base()
    }

    /// Whether nothing may be taken from the ring.
    #[inline]
    fn is_idle(&self) -> bool {
        self.resting || self.fault.is_some()
    }

    #[inline]
    fn log_written(&self, body: &Body) {
        if self.log.data
            && let Some(dirty) = &self.log.dirty
        {
            body.buffers.written(|gpa, len| dirty.mark(gpa, len));
        }
    }

    /// The first bytes of a buffer were written.
    #[inline]
    pub(crate) fn log_piece(&self, piece: Piece, len: usize) {
        if self.log.data
            && let Some(dirty) = &self.log.dirty
        {
            dirty.mark(piece.gpa(), len as u64);
        }
    }
}

impl fmt::Debug for Virtqueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Virtqueue")
            .field("id", &self.id)
            .field("size", &self.size())
            .field("base", &self.base())
            .field("in_flight", &self.out)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

/// Completions in the order of the requests (VIRTIO 1.3, 2.7.9, 2.8.9): those that come early wait for the others.
struct Order {
    /// By sequence, modulo the length: a power of two, not below the ring's size, which bounds how many are out.
    early: Vec<Option<Done>>,
    /// How many those are.
    waiting: usize,
    next: u64,
}

impl Order {
    fn new(size: u16) -> Self {
        Self { early: vec![None; usize::from(size).next_power_of_two()], waiting: 0, next: 0 }
    }

    /// Whether this one, which is done, is the one that the others wait for: it goes past them.
    #[inline]
    fn passes(&mut self, sequence: u64) -> bool {
        let is_next = sequence == self.next;
        self.next += u64::from(is_next);
        is_next
    }

    #[inline]
    fn place(&mut self, sequence: u64) -> Option<&mut Option<Done>> {
        let mask = self.early.len().wrapping_sub(1);
        self.early.get_mut(sequence as usize & mask)
    }

    #[inline]
    fn put(&mut self, sequence: u64, done: Done) {
        self.waiting += 1;
        if let Some(place) = self.place(sequence) {
            *place = Some(done);
        }
    }

    #[inline]
    fn take(&mut self) -> Option<Done> {
        if self.waiting == 0 {
            return None;
        }
        let done = self.place(self.next)?.take()?;
        self.waiting -= 1;
        self.next += 1;
        Some(done)
    }
}

impl Agreed {
    /// Whether this indirect descriptor may be there (VIRTIO 1.3, 2.7.5.3.1, 2.8.7).
    pub(crate) fn check_indirect(self, descriptor: Descriptor) -> Result<(), RingError> {
        if !self.indirect {
            return Err(RingError::IndirectNotNegotiated);
        }
        if descriptor.has(Descriptor::NEXT) {
            return Err(RingError::IndirectNext);
        }
        if descriptor.len == 0 || !(descriptor.len as usize).is_multiple_of(Descriptor::SIZE) {
            return Err(RingError::IndirectLength { len: descriptor.len });
        }
        Ok(())
    }
}
