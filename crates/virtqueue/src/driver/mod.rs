//! The driver's half of both formats, for front ends that run devices themselves, and for tests of back ends.
//!
//! The device may be broken or hostile: what it returns is checked against what is outstanding, and a ring on which
//! it returned nonsense stays faulty. Lengths are handed on as the device gave them.
//!
//! A request may be added while others are out, in any number that fits; [`DriverQueue::publish`] shows all that were
//! added to the device at once. Ring and requests outlive the device's process: when a back end was replaced,
//! outstanding requests need not be added again.

use outboard_guest_memory::{MemoryMap, Piece, Segment};

use crate::MAX_SIZE;
use crate::area::Area;
use crate::base::Base;
use crate::error::RingError;
use crate::ring::{Descriptor, Format};

mod layout;
mod packed;
mod split;
mod tables;

pub use layout::Layout;
use packed::Packed;
use split::Split;
use tables::Tables;

/// How a ring is set up.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// VIRTIO_F_RING_PACKED.
    pub format: Format,
    /// Entries: 1 to 32768; a power of two if split.
    pub size: u16,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// Entries of each indirect table; 0 without VIRTIO_F_INDIRECT_DESC. A request of more buffers than one, and
    /// no more than this, goes into a table.
    pub table_entries: u16,
    /// Guest-physical address of [`Layout::len`] bytes for the ring, contiguous and aligned to 16; better to 64.
    pub at: u64,
}

/// A buffer as descriptors have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Guest-physical address.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u32,
}

/// Why a request could not be added. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// There is no room until others are returned.
    #[error("the ring is full")]
    Full,
    /// It needs more descriptors than the ring has, or has none.
    #[error("a request of {0} buffers")]
    Shape(usize),
}

/// What a device did that it must not. The ring is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceFault {
    /// It returned more than it had (split).
    #[error("used index {index} is more than {outstanding} requests ahead of {seen}")]
    UsedIndex {
        /// The index.
        index: u16,
        /// Where we are.
        seen: u16,
        /// What it could return.
        outstanding: u32,
    },
    /// It returned something that is not outstanding.
    #[error("used id {0} is not outstanding")]
    UsedId(u32),
    /// It returned something before its turn (VIRTIO_F_IN_ORDER).
    #[error("used id {0} is out of order")]
    Order(u32),
}

/// A ring, the driver's half. Requests are known by a token of the caller's choice.
#[derive(Debug)]
pub struct DriverQueue {
    ring: Ring,
    layout: Layout,
    at: u64,
    fault: Option<DeviceFault>,
}

#[derive(Debug)]
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

impl DriverQueue {
    /// Sets up an empty ring, for a device that starts with [`DriverQueue::fresh_base`].
    ///
    /// # Errors
    /// A size that cannot be, memory that is not there.
    pub fn new(config: &DriverConfig, mem: &MemoryMap) -> Result<Self, RingError> {
        let layout = Layout::new(config.format, config.size, config.table_entries);
        Self::with_layout(config, layout, mem)
    }

    /// As [`new`](Self::new), with its parts where `layout` has them.
    ///
    /// # Errors
    /// As [`new`](Self::new); parts that are not aligned.
    pub fn with_layout(config: &DriverConfig, layout: Layout, mem: &MemoryMap) -> Result<Self, RingError> {
        let &DriverConfig { format, size, at, table_entries, .. } = config;
        let split = format == Format::Split;
        if size == 0 || u32::from(size) > MAX_SIZE || (split && !size.is_power_of_two()) {
            return Err(RingError::Size { size: size.into() });
        }
        let segment = mem.segment(at, layout.len);
        let segment = segment.map_err(|cause| RingError::RingUnmapped {
            what: "ring",
            addr: at,
            len: layout.len,
            cause,
        })?;
        segment.fill(0);
        let part =
            |what, offset, end: u64, align| Area::of_guest(mem, what, at + offset, end - offset, align);
        let for_driver = if split { 2 } else { 4 };
        let parts = Parts {
            desc: part("descriptors", layout.desc, layout.driver, 16)?,
            driver: part("driver area", layout.driver, layout.device, for_driver)?,
            device: part("device area", layout.device, layout.tables, 4)?,
        };
        let tables = match table_entries {
            0 => None,
            _ => {
                let tables = part("indirect tables", layout.tables, layout.len, 16)?;
                Some(Tables::new(tables, table_entries))
            }
        };
        let ring = match format {
            Format::Split => Ring::Split(Split::new(config, parts, tables)),
            Format::Packed => Ring::Packed(Packed::new(config, parts, tables)),
        };
        Ok(Self { ring, layout, at, fault: None })
    }

    /// The base that a device starts a fresh ring with.
    pub fn fresh_base(&self) -> Base {
        match self.ring {
            Ring::Split(_) => Base::split(0),
            Ring::Packed(_) => Base::FRESH_PACKED,
        }
    }

    /// Goes on where a ring left off that is not known any more: nothing is out, the next request goes to the
    /// available position of `base`, and the device returns the next one at its used position. Split: at `used`,
    /// which is where the device finds it in the ring.
    pub fn begin_at(&mut self, base: Base, used: u16) {
        match &mut self.ring {
            Ring::Split(ring) => ring.begin_at(base.avail_index(), used),
            Ring::Packed(ring) => ring.begin_at(base),
        }
    }

    /// Where the parts are, from [`DriverQueue::at`].
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Guest-physical address of the ring's memory.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        each!(&self.ring, ring => ring.size())
    }

    /// Adds a request; the device does not see it yet.
    ///
    /// # Errors
    /// No room, or none at all for such a request.
    #[inline]
    pub fn add<R: Copy + Into<Buffer>, W: Copy + Into<Buffer>>(
        &mut self,
        readable: &[R],
        writable: &[W],
        token: u64,
    ) -> Result<(), AddError> {
        let readable = readable.iter().map(|&buffer| (buffer.into(), 0));
        let writable = writable.iter().map(|&buffer| (buffer.into(), Descriptor::WRITE));
        each!(&mut self.ring, ring => ring.add(readable, writable, token))
    }

    /// Adds descriptors as they are, for tests of devices. Split: a link below the number given counts within
    /// them, others stay as they are. Packed: the wrap flags are set to available, the last link to a free id.
    ///
    /// # Errors
    /// No room.
    pub fn add_raw(&mut self, descriptors: &[Descriptor], token: u64) -> Result<(), AddError> {
        each!(&mut self.ring, ring => ring.add_raw(descriptors, token))
    }

    /// Shows what was added to the device; `true` if it wants a kick for it. Always so the first time.
    #[inline]
    pub fn publish(&mut self) -> bool {
        each!(&mut self.ring, ring => ring.publish())
    }

    /// The next request that the device returned: token, and length as the device said. With IN_ORDER a device may
    /// return several by their last one: the others have length 0.
    ///
    /// # Errors
    /// What the device did wrong, from then on always.
    #[inline]
    pub fn poll_used(&mut self) -> Result<Option<(u64, u32)>, DeviceFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        each!(&mut self.ring, ring => ring.poll_used()).inspect_err(|&fault| self.fault = Some(fault))
    }

    /// Whether the device returned something: cheap, for polling.
    #[inline]
    pub fn has_used(&self) -> bool {
        each!(&self.ring, ring => ring.has_used())
    }

    /// Tells the device that calls are not needed for now. One more may come.
    #[inline]
    pub fn suppress_calls(&mut self) {
        each!(&mut self.ring, ring => ring.suppress_calls());
    }

    /// Asks for a call for the next returned request, and looks once more: `true` if there is none yet, so that
    /// one may sleep.
    #[inline]
    pub fn arm_calls(&mut self) -> bool {
        each!(&mut self.ring, ring => ring.arm_calls())
    }

    /// Descriptors that are free.
    pub fn free(&self) -> u32 {
        each!(&self.ring, ring => ring.free())
    }

    /// Requests added and not returned.
    pub fn outstanding(&self) -> u32 {
        each!(&self.ring, ring => ring.slots().outstanding)
    }

    /// Tokens of the requests added and not returned, in no order.
    pub fn tokens(&self) -> impl Iterator<Item = u64> {
        let slots = each!(&self.ring, ring => ring.slots());
        slots.slots.iter().filter(|slot| slot.count > 0).map(|slot| slot.token)
    }

    /// The device's process was replaced: what it had asked for is forgotten, the next publish asks for a kick.
    pub fn restarted(&mut self) {
        each!(&mut self.ring, ring => ring.restarted());
    }

    /// The base for a device that replaces one which died: behind what was returned. In-flight records, where the
    /// device has them, override it; without them, requests that had been returned out of order are lost to it.
    pub fn base_for_restart(&self) -> Base {
        each!(&self.ring, ring => ring.base_for_restart())
    }

    /// Overwrites a descriptor in the ring's memory, for tests of devices. Index modulo the size.
    pub fn write_descriptor(&mut self, index: u16, descriptor: Descriptor) {
        each!(&mut self.ring, ring => ring.write_descriptor(index, descriptor));
    }

    /// Overwrites an entry of the available ring (split), for tests of devices. Slot modulo the size.
    pub fn write_avail(&mut self, slot: u16, head: u16) {
        if let Ring::Split(ring) = &mut self.ring {
            ring.write_avail(slot, head);
        }
    }

    /// Overwrites the available index (split), for tests of devices.
    pub fn write_avail_index(&mut self, index: u16) {
        if let Ring::Split(ring) = &mut self.ring {
            ring.write_avail_index(index);
        }
    }
}

impl From<Piece> for Buffer {
    fn from(piece: Piece) -> Self {
        Self { gpa: piece.gpa(), len: u32::try_from(piece.len()).unwrap_or(u32::MAX) }
    }
}

impl From<&Segment> for Buffer {
    fn from(segment: &Segment) -> Self {
        segment.piece().into()
    }
}

impl From<(u64, u32)> for Buffer {
    fn from((gpa, len): (u64, u32)) -> Self {
        Self { gpa, len }
    }
}

/// The parts of a ring in memory.
#[derive(Debug)]
struct Parts {
    desc: Area,
    driver: Area,
    device: Area,
}

/// The requests that are out, by head (split) or buffer id (packed).
#[derive(Debug)]
struct Slots {
    slots: Vec<Slot>,
    outstanding: u32,
    /// With IN_ORDER.
    order: Option<OrderOut>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    token: u64,
    /// Order of adding.
    sequence: u64,
    /// Descriptors; 0 if it is not outstanding.
    count: u16,
    /// Its last descriptor (split).
    last: u16,
}

/// The order in which requests were added, and thus return.
#[derive(Debug)]
struct OrderOut {
    /// Ids by sequence, modulo the length, a power of two.
    ids: Vec<u16>,
    added: u64,
    returned: u64,
    /// The last one of a batch that was returned as one, and its length.
    batch: Option<(u16, u32)>,
}

impl Slots {
    fn new(size: u16, in_order: bool) -> Self {
        let order = in_order.then(|| OrderOut {
            ids: vec![0; usize::from(size).next_power_of_two()],
            added: 0,
            returned: 0,
            batch: None,
        });
        Self { slots: vec![Slot::default(); size.into()], outstanding: 0, order }
    }

    #[inline]
    fn insert(&mut self, id: u16, token: u64, count: u16, last: u16) {
        let mut sequence = 0;
        if let Some(order) = &mut self.order {
            sequence = order.added;
            let mask = order.ids.len().wrapping_sub(1);
            if let Some(place) = order.ids.get_mut(sequence as usize & mask) {
                *place = id;
            }
            order.added += 1;
        }
        if let Some(slot) = self.slots.get_mut(usize::from(id)) {
            *slot = Slot { token, sequence, count, last };
            self.outstanding += 1;
        }
    }

    #[inline]
    fn remove(&mut self, id: u32) -> Option<Slot> {
        let slot = self.slots.get_mut(id as usize)?;
        if slot.count == 0 {
            return None;
        }
        let found = *slot;
        slot.count = 0;
        self.outstanding -= 1;
        Some(found)
    }

    /// Takes the request out that `id`, with `len`, stands for: itself, or with IN_ORDER the oldest of those up to
    /// it. Gives its id, itself, and its length.
    #[inline]
    fn take(&mut self, id: u32, len: u32) -> Result<(u16, Slot, u32), DeviceFault> {
        let Some(order) = &mut self.order else {
            let slot = self.remove(id).ok_or(DeviceFault::UsedId(id))?;
            return Ok((id as u16, slot, len));
        };
        let slot = self.slots.get(id as usize).filter(|slot| slot.count > 0);
        let slot = slot.ok_or(DeviceFault::UsedId(id))?;
        if slot.sequence < order.returned {
            return Err(DeviceFault::Order(id));
        }
        let place = order.returned as usize & order.ids.len().wrapping_sub(1);
        let oldest = order.ids.get(place).copied().unwrap_or(0);
        let is_last = u32::from(oldest) == id;
        order.batch = (!is_last).then_some((id as u16, len));
        order.returned += 1;
        let slot = self.remove(oldest.into()).ok_or(DeviceFault::Order(id))?;
        Ok((oldest, slot, if is_last { len } else { 0 }))
    }

    /// The rest of a batch that was returned as one.
    #[inline]
    fn batch(&self) -> Option<(u16, u32)> {
        self.order.as_ref().and_then(|order| order.batch)
    }
}
