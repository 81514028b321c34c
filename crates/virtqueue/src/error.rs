//! What can be wrong with a ring. All of it is the driver's or the front end's fault; none of it stops more than
//! the ring.

use outboard_guest_memory::MemoryError;

/// Why a ring cannot be started, or stopped working. Addresses and lengths in bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A size of 0, above 32768, or (split) no power of two (VIRTIO 1.3, 2.7, 2.8.10.1).
    #[error("a ring of {size} entries is not possible")]
    Size {
        /// The size asked for.
        size: u32,
    },
    /// A base that points behind the ring's end (packed).
    #[error("position {index} in a ring of {size}")]
    Base {
        /// The index.
        index: u16,
        /// The ring's size.
        size: u16,
    },
    /// A part of the ring is not in memory that the front end shared.
    #[error("the {what} at {addr:#x}, {len:#x} bytes, is not in shared memory: {cause}")]
    RingUnmapped {
        /// Which part.
        what: &'static str,
        /// Its address, as the messages gave it.
        addr: u64,
        /// Its length.
        len: u64,
        /// What the look-up said.
        cause: MemoryError,
    },
    /// A part of the ring is not aligned (VIRTIO 1.3, 2.7, 2.8).
    #[error("the {what} at {addr:#x} is not aligned to {align} bytes")]
    RingMisaligned {
        /// Which part.
        what: &'static str,
        /// Its address, as the messages gave it.
        addr: u64,
        /// What it should be aligned to.
        align: usize,
    },
    /// More entries available than the ring has (split).
    #[error("available index {avail} is more than {size} ahead of {next}")]
    AvailIndex {
        /// The driver's index.
        avail: u16,
        /// The next index that we would read.
        next: u16,
        /// The ring's size.
        size: u16,
    },
    /// An entry of the available ring is not in the descriptor table.
    #[error("head {head} in a ring of {size}")]
    Head {
        /// The entry.
        head: u16,
        /// The ring's size.
        size: u16,
    },
    /// A head made available again before it was used.
    #[error("head {head} is available twice")]
    HeadTwice {
        /// The head.
        head: u16,
    },
    /// The descriptors in the device's hands exceed the ring (packed).
    #[error("more descriptors available than the {size} of the ring")]
    Overrun {
        /// The ring's size.
        size: u16,
    },
    /// A link leads out of its table.
    #[error("descriptor {index} in a table of {size}")]
    Link {
        /// The link.
        index: u16,
        /// The table's size.
        size: u32,
    },
    /// A chain is longer than its table, thus a loop (VIRTIO 1.3, 2.7.5.2).
    #[error("a chain of more than {limit} descriptors")]
    Loop {
        /// How many there could be.
        limit: u32,
    },
    /// A device-readable descriptor behind a device-writable one (VIRTIO 1.3, 2.7.4.2).
    #[error("a readable buffer at {addr:#x} behind a writable one")]
    Order {
        /// Address of the readable buffer.
        addr: u64,
    },
    /// An indirect descriptor although the feature was not negotiated.
    #[error("an indirect descriptor without VIRTIO_F_INDIRECT_DESC")]
    IndirectNotNegotiated,
    /// An indirect descriptor inside an indirect table (VIRTIO 1.3, 2.7.5.3.1).
    #[error("an indirect descriptor within an indirect table")]
    IndirectNested,
    /// INDIRECT and NEXT in one descriptor (VIRTIO 1.3, 2.7.5.3.1).
    #[error("an indirect descriptor with a next one")]
    IndirectNext,
    /// A table whose length is 0 or no multiple of 16.
    #[error("an indirect table of {len} bytes")]
    IndirectLength {
        /// The length.
        len: u32,
    },
    /// A chain that was put back, and is not in guest memory any more.
    #[error("the buffers of the chain at {head}, which was put back, are not in guest memory")]
    ReturnedUnmapped {
        /// Its first descriptor, or its id.
        head: u16,
    },
    /// An indirect table that is not in guest memory.
    #[error("the indirect table at {addr:#x} is not in guest memory: {cause}")]
    IndirectUnmapped {
        /// Its guest-physical address.
        addr: u64,
        /// What the look-up said.
        cause: MemoryError,
    },
    /// A buffer that is not in guest memory.
    #[error("a buffer at {addr:#x} of {len:#x} bytes is not in guest memory: {cause}")]
    BufferUnmapped {
        /// Guest-physical address.
        addr: u64,
        /// Length.
        len: u32,
        /// What the look-up said.
        cause: MemoryError,
    },
    /// A chain of 2^32 bytes or more (VIRTIO 1.3, 2.7.5).
    #[error("a chain of {bytes:#x} bytes")]
    TooLong {
        /// Bytes so far.
        bytes: u64,
    },
    /// A chain that falls into an absurd number of pieces.
    #[error("a chain of more than {limit} pieces of memory")]
    TooManyPieces {
        /// How many are accepted.
        limit: usize,
    },
    /// The record of requests in flight cannot be used.
    #[error(transparent)]
    Inflight(#[from] InflightError),
}

impl RingError {
    /// Whether another memory table may be all that is needed.
    pub(crate) fn is_about_memory(&self) -> bool {
        matches!(self, Self::BufferUnmapped { .. } | Self::IndirectUnmapped { .. })
    }
}

/// What is wrong with a buffer of in-flight records (vhost-user: Inflight I/O tracking). The front end keeps it
/// between two back ends, and may have written anything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InflightError {
    /// It cannot be mapped or made.
    #[error("in-flight buffer: {0}")]
    Memory(#[from] MemoryError),
    /// It is too small for its queues.
    #[error("in-flight buffer of {given:#x} bytes, but {queues} queues of {queue_size} need {needed:#x}")]
    TooSmall {
        /// Its size.
        given: u64,
        /// The size that the queues need.
        needed: u64,
        /// Queues.
        queues: u16,
        /// Entries of each.
        queue_size: u16,
    },
    /// No queues, or queues without entries or with more than 32768.
    #[error("in-flight buffer for {queues} queues of {queue_size}")]
    Shape {
        /// Queues.
        queues: u16,
        /// Entries of each.
        queue_size: u16,
    },
    /// Its records are not aligned to 8 bytes.
    #[error("in-flight buffer at a misaligned offset")]
    Misaligned,
    /// It was made for the other ring format.
    #[error("in-flight records are of the other ring format")]
    Format,
    /// The ring has more entries than there are records.
    #[error("{records} in-flight records for a ring of {size}")]
    RingTooLarge {
        /// Records.
        records: u16,
        /// The ring's size.
        size: u16,
    },
    /// A version that is not known.
    #[error("in-flight records of version {0}")]
    Version(u16),
    /// Requests in flight are those of a ring with another size.
    #[error("in-flight records of a ring of {recorded}, but it has {size}")]
    OtherSize {
        /// As recorded.
        recorded: u16,
        /// The ring's size.
        size: u16,
    },
    /// An index out of range, a loop, or a list that does not fit the others.
    #[error("in-flight records contradict each other at entry {0}")]
    Corrupt(u16),
}
