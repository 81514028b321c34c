//! Guest memory, as the process of a device sees it.
//!
//! A front end describes the guest's memory as a table of regions, each a piece of a file with a guest-physical
//! address and an address in the front end's own space (vhost-user: Memory region description). This crate maps
//! them, translates addresses of either kind, and copies. Nothing here knows of messages or rings.
//!
//! # Who is trusted
//! Nobody outside the process. Every number of a table comes from the front end, every address from the guest:
//! arithmetic on them is checked, and a bad one is a [`MemoryError`]. The *contents* of guest memory may change at
//! any moment under our hands, so no Rust reference into it ever exists, only copies ([`Segment::read_into`],
//! [`copy_from_guest`]). The *file* behind it may be truncated at any moment; [`sigbus`] keeps the process alive.
//!
//! # Who keeps the memory mapped
//! A [`MemoryMap`] is an immutable snapshot of the table. A new table makes a new snapshot; the old one, and with
//! it every mapping that the new one does not share, stays until its last clone is dropped. A [`Segment`] keeps
//! its mapping and can be accessed safely. A [`Piece`] is a plain address that keeps nothing, with which nothing safe
//! can be done: **whoever keeps a piece keeps a clone of its snapshot beside it**, until the last host operation on it
//! is over. The buffers of a request are pieces, since counting references for each would cost more than the rest.
//!
//! # Path
//! [`MemoryMap`] validates and translates, over mappings (private), out of which come [`Segment`]s; [`DirtyLog`] and
//! [`SharedRegion`] are further users of the same mappings; [`sigbus`] guards all of them.

mod copy;
mod dirty_log;
mod error;
mod mapping;
mod memory_map;
mod segment;
mod shared_region;
pub mod sigbus;

pub use copy::{
    copy_from_guest, copy_shared, copy_to_guest, fill_guest, prefetch, prefetch_for_write, read_from_guest,
    write_to_guest,
};
pub use dirty_log::{DirtyLog, LOG_PAGE_SIZE};
pub use error::MemoryError;
pub use memory_map::{MAX_SLOTS, MemoryMap, Region};
pub use segment::{Piece, Segment};
pub use shared_region::{HugePage, SharedRegion, memfd, memfd_huge};
