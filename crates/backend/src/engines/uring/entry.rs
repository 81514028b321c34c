#![allow(unsafe_code)] // registers guest memory by address
//! Host operations as entries of the submission ring. Pointers in them come from a chain: whoever submits an entry
//! keeps its chain until the completion.

use std::io;

use io_uring::{Submitter, opcode, squeue::Entry, types};
use outboard_device::{Chain, FileId, HostOp, host_io};
use outboard_guest_memory::MemoryMap;

/// The largest buffer that can be registered, in bytes.
const MAX_REGISTERED: usize = 1 << 30;
/// The most that one read or write transfers, in bytes (`MAX_RW_COUNT` with pages of 4 KiB).
const MAX_TRANSFER: u32 = 0x7fff_f000;

/// Pieces of guest memory that are registered with a ring.
#[derive(Default)]
pub(super) struct Registered {
    /// Address and length; the index is the buffer's.
    pieces: Vec<(usize, usize)>,
    /// Whether the kernel has some, though it may be others that no entry is to name any more.
    held: bool,
}

impl Registered {
    /// Registers all of `memory` instead of what was registered before.
    ///
    /// # Errors
    /// The kernel refuses: most often the limit on locked memory. Nothing is used as registered then, and all goes on.
    pub(super) fn replace(&mut self, ring: &Submitter<'_>, memory: &MemoryMap) -> io::Result<()> {
        // Whatever happens: another mapping may be at these addresses soon.
        self.pieces.clear();
        if self.held {
            // Older kernels wait for what uses the buffers, and a signal interrupts that.
            while let Err(error) = ring.unregister_buffers() {
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            self.held = false;
        }
        let pieces: Vec<_> = memory.host_ranges().flat_map(|(start, len)| split(start, len)).collect();
        if pieces.is_empty() {
            return Ok(());
        }
        let vec = |&(start, len): &(usize, usize)| libc::iovec {
            iov_base: std::ptr::with_exposed_provenance_mut(start),
            iov_len: len,
        };
        let vecs: Vec<_> = pieces.iter().map(vec).collect();
        // SAFETY: the kernel pins the pages. When they are unmapped here it still holds them, but no entry names
        // them any more: entries come from chains, whose snapshot keeps their memory mapped.
        unsafe { ring.register_buffers(&vecs) }?;
        self.held = true;
        self.pieces = pieces;
        Ok(())
    }

    /// The registered buffer that holds all of `vec`.
    fn holding(&self, vec: &libc::iovec) -> Option<u16> {
        let start = vec.iov_base.addr();
        let inside = |&(base, len): &(usize, usize)| {
            start.checked_sub(base).and_then(|at| len.checked_sub(at)).is_some_and(|rest| vec.iov_len <= rest)
        };
        self.pieces.iter().position(inside).and_then(|at| u16::try_from(at).ok())
    }
}

/// Splits a range into pieces that can be registered.
fn split(start: usize, len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(MAX_REGISTERED).map(move |at| (start + at, MAX_REGISTERED.min(len - at)))
}

/// The entry for `host` with the buffers that `chain` has left.
///
/// # Errors
/// A position beyond what a file can have: the kernel would take it for "where the file stands".
pub(super) fn entry(host: &HostOp, chain: &Chain, registered: &Registered) -> io::Result<Entry> {
    Ok(match *host {
        HostOp::ReadAt { file, offset } => {
            let (fd, offset) = (fixed(file), position(offset)?);
            match limited(chain.writable()) {
                [one] => match registered.holding(one) {
                    Some(buffer) => opcode::ReadFixed::new(fd, one.iov_base.cast(), length(one), buffer)
                        .offset(offset)
                        .build(),
                    None => opcode::Read::new(fd, one.iov_base.cast(), length(one)).offset(offset).build(),
                },
                vecs => opcode::Readv::new(fd, vecs.as_ptr(), count(vecs)).offset(offset).build(),
            }
        }
        HostOp::WriteAt { file, offset, durability } => {
            let (fd, offset, flags) = (fixed(file), position(offset)?, host_io::write_flags(durability));
            match limited(chain.readable()) {
                [one] => match registered.holding(one) {
                    Some(buffer) => opcode::WriteFixed::new(fd, one.iov_base.cast(), length(one), buffer)
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                    None => opcode::Write::new(fd, one.iov_base.cast(), length(one))
                        .offset(offset)
                        .rw_flags(flags)
                        .build(),
                },
                vecs => {
                    opcode::Writev::new(fd, vecs.as_ptr(), count(vecs)).offset(offset).rw_flags(flags).build()
                }
            }
        }
        HostOp::WriteZeroes { file, offset, len, durability } => {
            let zeroes = host_io::zeroes(len);
            opcode::Write::new(fixed(file), zeroes.as_ptr(), u32::try_from(zeroes.len()).unwrap_or(0))
                .offset(position(offset)?)
                .rw_flags(host_io::write_flags(durability))
                .build()
        }
        HostOp::Sync { file } => opcode::Fsync::new(fixed(file)).flags(types::FsyncFlags::DATASYNC).build(),
        HostOp::Allocate { file, mode, offset, len } => {
            opcode::Fallocate::new(fixed(file), len).offset(position(offset)?).mode(mode).build()
        }
    })
}

fn fixed(file: FileId) -> types::Fixed {
    types::Fixed(file.0.into())
}

fn position(offset: u64) -> io::Result<u64> {
    i64::try_from(offset).map(|_| offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn limited(vecs: &[libc::iovec]) -> &[libc::iovec] {
    vecs.get(..host_io::MAX_SEGMENTS).unwrap_or(vecs)
}

fn count(vecs: &[libc::iovec]) -> u32 {
    u32::try_from(vecs.len()).unwrap_or(u32::MAX)
}

fn length(vec: &libc::iovec) -> u32 {
    u32::try_from(vec.iov_len).unwrap_or(u32::MAX).min(MAX_TRANSFER)
}
