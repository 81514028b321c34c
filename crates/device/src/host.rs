//! Host operations: what a handler asks the engine to do with a chain's buffers.

/// A file that a handler gave to its engine ([`crate::Cx::adopt`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(pub u16);

/// When written data must be on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At the next [`HostOp::Sync`].
    Cached,
    /// Before the write completes (`RWF_DSYNC`).
    Synchronous,
}

/// An operation on a host file. The result is what the system call of that name returns, in bytes.
///
/// The engine may transfer less than asked, as `preadv(2)` does: never more than 1024 segments or 2 GiB at a time.
#[derive(Clone, Copy, Debug)]
pub enum HostOp {
    /// Reads at `offset` bytes into what is left of the chain's device-writable part.
    ReadAt {
        /// The file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
    },
    /// Writes what is left of the chain's device-readable part at `offset` bytes.
    WriteAt {
        /// The file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// When the data must be stable.
        durability: Durability,
    },
    /// `fdatasync(2)`.
    Sync {
        /// The file.
        file: FileId,
    },
    /// `fallocate(2)`.
    Allocate {
        /// The file.
        file: FileId,
        /// `FALLOC_FL_*` bits.
        mode: i32,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
    },
    /// Writes zeroes at `offset` bytes, where the host has no better way to make a range read as zeroes.
    WriteZeroes {
        /// The file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// How much, in bytes.
        len: u64,
        /// When the zeroes must be stable.
        durability: Durability,
    },
}

impl HostOp {
    /// The file that the operation is about.
    #[must_use]
    pub const fn file(&self) -> FileId {
        match *self {
            Self::ReadAt { file, .. }
            | Self::WriteAt { file, .. }
            | Self::Sync { file }
            | Self::Allocate { file, .. }
            | Self::WriteZeroes { file, .. } => file,
        }
    }
}
