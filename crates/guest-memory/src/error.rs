//! What can be wrong with memory that somebody else describes. All of it is the peer's or the host's fault, none
//! is a reason to stop the process.

use std::io;

/// Why memory could not be mapped, found or accessed. Sizes and addresses are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// More regions than [`MAX_SLOTS`](crate::MAX_SLOTS).
    #[error("{count} memory regions exceed the limit of {limit}")]
    TooManyRegions {
        /// Regions that the table would have had.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A region, log or shared buffer of size 0.
    #[error("memory of size 0")]
    Empty,
    /// An address or a file offset plus its length passes the end of the 64-bit space, or of what this process can
    /// address.
    #[error("{start:#x} + {len:#x} overflows")]
    Overflow {
        /// The address or offset.
        start: u64,
        /// The length.
        len: u64,
    },
    /// Two regions share guest-physical addresses (vhost-user: regions must not overlap).
    #[error("guest addresses {gpa:#x} + {size:#x} overlap another region")]
    GuestOverlap {
        /// Start of the refused region.
        gpa: u64,
        /// Its size.
        size: u64,
    },
    /// Two regions share front-end addresses.
    #[error("front-end addresses {user_addr:#x} + {size:#x} overlap another region")]
    UserOverlap {
        /// Start of the refused region in the front end's address space.
        user_addr: u64,
        /// Its size.
        size: u64,
    },
    /// The file ends before the range that is to be mapped: access would raise SIGBUS.
    #[error("file of {actual:#x} bytes, but {offset:#x} + {size:#x} is needed")]
    ShortFile {
        /// Offset of the range.
        offset: u64,
        /// Length of the range.
        size: u64,
        /// Length of the file.
        actual: u64,
    },
    /// The descriptor was not opened for reading and writing, or the file is sealed against writing. Rings need both.
    #[error("the file descriptor of the memory is not readable and writable")]
    ReadOnly,
    /// A region to be removed is not in the table.
    #[error("no region at guest address {gpa:#x} and front-end address {user_addr:#x} of size {size:#x}")]
    UnknownRegion {
        /// Guest-physical address asked for.
        gpa: u64,
        /// Front-end address asked for.
        user_addr: u64,
        /// Size asked for.
        size: u64,
    },
    /// A guest-physical range is outside of the table, or runs out of it.
    #[error("guest addresses {gpa:#x} + {len:#x} are not mapped")]
    Unmapped {
        /// Start of the range.
        gpa: u64,
        /// Its length.
        len: u64,
    },
    /// A range of front-end addresses is not within one region.
    #[error("front-end addresses {addr:#x} + {len:#x} are not mapped")]
    UserUnmapped {
        /// Start of the range.
        addr: u64,
        /// Its length.
        len: u64,
    },
    /// A guest-physical range is mapped, but in pieces, and one piece was asked for.
    #[error("guest addresses {gpa:#x} + {len:#x} are not contiguous in this process")]
    NotContiguous {
        /// Start of the range.
        gpa: u64,
        /// Its length.
        len: u64,
    },
    /// An access past the end of a segment.
    #[error("{offset:#x} + {len:#x} is outside a segment of {segment:#x} bytes")]
    OutsideSegment {
        /// Offset of the access in the segment.
        offset: usize,
        /// Length of the access.
        len: usize,
        /// Length of the segment.
        segment: usize,
    },
    /// The host refused.
    #[error("{call}: {}", io::Error::from_raw_os_error(*errno))]
    Host {
        /// The system call.
        call: &'static str,
        /// Its error number.
        errno: i32,
    },
}

impl MemoryError {
    pub(crate) fn host(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Host { call, errno: errno.raw_os_error() }
    }
}
