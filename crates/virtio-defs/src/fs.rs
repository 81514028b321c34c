//! The file system device (VIRTIO 1.3, 5.11): configuration space, queues, and as much of FUSE, which its requests
//! are, as it takes to find, read and write files.
//!
//! Layouts only: what a peer put into them is for the other side to check. A FUSE session has the byte order of its
//! driver (VIRTIO 1.3, 5.11.6.1): here little-endian, always.

use zerocopy::little_endian::{I32, U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The queue of requests that must not wait behind others, [`FORGET`] among them (VIRTIO 1.3, 5.11.2).
pub const HIPRIO_QUEUE: u16 = 0;
/// The first request queue of a driver that does not accept VIRTIO_FS_F_NOTIFICATION (VIRTIO 1.3, 5.11.2).
pub const FIRST_REQUEST_QUEUE: u16 = 1;

/// The version of FUSE in [`InitIn`] and [`InitOut`]: sides of different ones do not understand each other.
pub const VERSION: u32 = 7;
/// The minor version whose layouts these are. Of two sides the lower one counts.
pub const MINOR_VERSION: u32 = 31;
/// The first minor version whose answer to [`INIT`] is as long as [`InitOut`].
pub const MINOR_OF_INIT_OUT: u32 = 23;
/// The node that all others are found from.
pub const ROOT: u64 = 1;

/// Finds a name in a directory: the name, ended by NUL, against [`EntryOut`].
pub const LOOKUP: u32 = 1;
/// Gives back what [`LOOKUP`] counted: [`ForgetIn`], without an answer.
pub const FORGET: u32 = 2;
/// Reads attributes: [`GetattrIn`] against [`AttrOut`].
pub const GETATTR: u32 = 3;
/// Opens a file: [`OpenIn`] against [`OpenOut`].
pub const OPEN: u32 = 14;
/// Reads: [`IoIn`] against data.
pub const READ: u32 = 15;
/// Writes: [`IoIn`] and data against [`WriteOut`].
pub const WRITE: u32 = 16;
/// Closes a file: [`ReleaseIn`] against nothing.
pub const RELEASE: u32 = 18;
/// Begins a session: [`InitIn`] against [`InitOut`].
pub const INIT: u32 = 26;

/// In `flags` of [`InitIn`] and [`InitOut`]: reads of one file may be out at once.
pub const INIT_ASYNC_READ: u32 = 1 << 0;
/// In `flags` of [`InitIn`] and [`InitOut`]: writes may be longer than a page.
pub const INIT_BIG_WRITES: u32 = 1 << 5;
/// In `flags` of [`InitIn`] and [`InitOut`]: [`InitOut::max_pages`] is filled in.
pub const INIT_MAX_PAGES: u32 = 1 << 22;

/// The pages of a request where [`INIT_MAX_PAGES`] is not agreed on.
pub const DEFAULT_MAX_PAGES: u16 = 32;
/// Bytes of each of them.
pub const PAGE_SIZE: u32 = 4096;

/// The configuration space (VIRTIO 1.3, 5.11.4), without what comes with VIRTIO_FS_F_NOTIFICATION.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Config {
    /// The name by which guests mount it: UTF-8, filled up with NUL, not ended by it.
    pub tag: [u8; 36],
    /// Queues from [`FIRST_REQUEST_QUEUE`] on.
    pub num_request_queues: U32,
}

/// What every request begins with (VIRTIO 1.3, 5.11.6; `fuse_in_header`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct InHeader {
    /// Bytes of the request, this header included.
    pub len: U32,
    /// What is asked.
    pub opcode: U32,
    /// Comes back in the answer. Not 0, and not odd: those have a meaning of their own.
    pub unique: U64,
    /// Of which node.
    pub nodeid: U64,
    /// Who asks: user,
    pub uid: U32,
    /// group,
    pub gid: U32,
    /// and process.
    pub pid: U32,
    /// Extensions behind the request, in 8 bytes.
    pub total_extlen: U16,
    /// Always 0.
    pub padding: U16,
}

/// What every answer begins with (VIRTIO 1.3, 5.11.6; `fuse_out_header`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct OutHeader {
    /// Bytes of the answer, this header included.
    pub len: U32,
    /// 0, or an error number of Linux, negated.
    pub error: I32,
    /// Of which request.
    pub unique: U64,
}

/// Of [`INIT`], up to minor version 35 (`fuse_init_in`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct InitIn {
    /// [`VERSION`].
    pub major: U32,
    /// [`MINOR_VERSION`].
    pub minor: U32,
    /// How far a driver reads ahead, in bytes.
    pub max_readahead: U32,
    /// What the driver can do.
    pub flags: U32,
}

/// The answer to [`INIT`] from minor version 23 on (`fuse_init_out`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct InitOut {
    /// [`VERSION`].
    pub major: U32,
    /// The device's own minor version.
    pub minor: U32,
    /// How far a driver may read ahead, in bytes.
    pub max_readahead: U32,
    /// What both can do.
    pub flags: U32,
    /// Requests in the background at once.
    pub max_background: U16,
    /// So many of them are a congestion.
    pub congestion_threshold: U16,
    /// The longest write in bytes.
    pub max_write: U32,
    /// What times are multiples of, in nanoseconds.
    pub time_gran: U32,
    /// The longest request in pages of [`PAGE_SIZE`], with [`INIT_MAX_PAGES`].
    pub max_pages: U16,
    /// What later versions fill in.
    pub unused: [U16; 17],
}

/// Of [`FORGET`] (`fuse_forget_in`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ForgetIn {
    /// Of how many lookups.
    pub nlookup: U64,
}

/// Of [`GETATTR`] (`fuse_getattr_in`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct GetattrIn {
    /// 1 if `fh` counts.
    pub flags: U32,
    /// Always 0.
    pub dummy: U32,
    /// The open file to ask.
    pub fh: U64,
}

/// Of [`OPEN`] (`fuse_open_in`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct OpenIn {
    /// As for open(2) of Linux.
    pub flags: U32,
    /// FUSE's own.
    pub open_flags: U32,
}

/// Of [`READ`] and [`WRITE`] (`fuse_read_in`, `fuse_write_in`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct IoIn {
    /// The open file.
    pub fh: U64,
    /// Where, in bytes.
    pub offset: U64,
    /// How much, in bytes.
    pub size: U32,
    /// FUSE's own flags.
    pub io_flags: U32,
    /// Whose lock counts, with a flag.
    pub lock_owner: U64,
    /// As the file was opened.
    pub flags: U32,
    /// Always 0.
    pub padding: U32,
}

/// Of [`RELEASE`] (`fuse_release_in`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct ReleaseIn {
    /// The open file.
    pub fh: U64,
    /// As it was opened.
    pub flags: U32,
    /// FUSE's own flags.
    pub release_flags: U32,
    /// Whose lock ends, with a flag.
    pub lock_owner: U64,
}

/// Attributes of a node (`fuse_attr`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Attr {
    /// The inode's number, as stat(2) tells it.
    pub ino: U64,
    /// In bytes.
    pub size: U64,
    /// In 512 bytes.
    pub blocks: U64,
    /// Accessed, in seconds.
    pub atime: U64,
    /// Modified, in seconds.
    pub mtime: U64,
    /// Changed, in seconds.
    pub ctime: U64,
    /// The nanoseconds of `atime`.
    pub atimensec: U32,
    /// The nanoseconds of `mtime`.
    pub mtimensec: U32,
    /// The nanoseconds of `ctime`.
    pub ctimensec: U32,
    /// Type and permissions, as of Linux.
    pub mode: U32,
    /// Names.
    pub nlink: U32,
    /// Owner.
    pub uid: U32,
    /// Group.
    pub gid: U32,
    /// The device that a device file is.
    pub rdev: U32,
    /// The best transfer in bytes.
    pub blksize: U32,
    /// FUSE's own flags.
    pub flags: U32,
}

/// The answer to [`LOOKUP`] (`fuse_entry_out`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct EntryOut {
    /// The node; 0 if there is none, and that may be remembered.
    pub nodeid: U64,
    /// Tells nodes of one number apart.
    pub generation: U64,
    /// How long the name may be remembered, in seconds.
    pub entry_valid: U64,
    /// How long the attributes may be remembered, in seconds.
    pub attr_valid: U64,
    /// The nanoseconds of `entry_valid`.
    pub entry_valid_nsec: U32,
    /// The nanoseconds of `attr_valid`.
    pub attr_valid_nsec: U32,
    /// The node's attributes.
    pub attr: Attr,
}

/// The answer to [`GETATTR`] (`fuse_attr_out`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct AttrOut {
    /// How long the attributes may be remembered, in seconds.
    pub attr_valid: U64,
    /// The nanoseconds of `attr_valid`.
    pub attr_valid_nsec: U32,
    /// Always 0.
    pub dummy: U32,
    /// The attributes.
    pub attr: Attr,
}

/// The answer to [`OPEN`] (`fuse_open_out`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct OpenOut {
    /// The open file.
    pub fh: U64,
    /// FUSE's own flags.
    pub open_flags: U32,
    /// Always 0.
    pub padding: U32,
}

/// The answer to [`WRITE`] (`fuse_write_out`).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct WriteOut {
    /// How much was written, in bytes.
    pub size: U32,
    /// Always 0.
    pub padding: U32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// Sizes and places as a C compiler gives them for `linux/fuse.h`; no bindings of it are at hand.
    #[test]
    fn layouts_are_those_of_the_kernels_header() {
        let sizes = [
            (size_of::<InHeader>(), 40),
            (size_of::<OutHeader>(), 16),
            (size_of::<InitIn>(), 16),
            (size_of::<InitOut>(), 64),
            (size_of::<ForgetIn>(), 8),
            (size_of::<GetattrIn>(), 16),
            (size_of::<OpenIn>(), 8),
            (size_of::<OpenOut>(), 16),
            (size_of::<IoIn>(), 40),
            (size_of::<WriteOut>(), 8),
            (size_of::<ReleaseIn>(), 24),
            (size_of::<Attr>(), 88),
            (size_of::<EntryOut>(), 128),
            (size_of::<AttrOut>(), 104),
            (size_of::<Config>(), 40),
        ];
        for (ours, theirs) in sizes {
            assert_eq!(ours, theirs);
        }
        let places = [
            (offset_of!(InHeader, unique), 8),
            (offset_of!(InHeader, pid), 32),
            (offset_of!(OutHeader, unique), 8),
            (offset_of!(InitOut, max_write), 20),
            (offset_of!(InitOut, max_pages), 28),
            (offset_of!(IoIn, size), 16),
            (offset_of!(IoIn, lock_owner), 24),
            (offset_of!(Attr, size), 8),
            (offset_of!(Attr, mode), 60),
            (offset_of!(EntryOut, attr), 40),
            (offset_of!(AttrOut, attr), 16),
        ];
        for (ours, theirs) in places {
            assert_eq!(ours, theirs);
        }
    }
}
