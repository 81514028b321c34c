//! A disk in memory, shared by all handlers. Several guests' processors may write it at the same time: bytes are
//! copied between it and guest memory, and never looked at.

use outboard_device::{Chain, DeviceError, Segment, SharedRegion};
use std::os::fd::{AsFd, OwnedFd};

use super::{Adopted, Medium, Shape};

/// A zeroed memory file, mapped. Pages that were never written, or were discarded, take no memory.
pub(crate) struct RamDisk {
    memory: Segment,
    file: OwnedFd,
    shape: Shape,
}

impl RamDisk {
    pub(crate) fn create(bytes: u64) -> Result<Self, DeviceError> {
        let (memory, file) = SharedRegion::create("outboard-blk", bytes).map_err(|error| {
            DeviceError::Invalid(format!("cannot make a RAM disk of {bytes} bytes: {error}"))
        })?;
        let shape =
            Shape { bytes, logical_block: 512, physical_block: 4096, optimal_io: 0, discard: Some(4096) };
        Ok(Self { memory: memory.segment(), file, shape })
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn medium(&self) -> Result<Medium, DeviceError> {
        let file = self
            .file
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| DeviceError::host("cannot share the RAM disk", error))?;
        Ok(Medium::Memory { memory: self.memory.clone(), file: Adopted::new(file) })
    }
}

/// Where the `len` bytes from `offset` on are; `None` unless all of them exist.
fn place(memory: &Segment, offset: u64, len: usize) -> Option<usize> {
    let at = usize::try_from(offset).ok()?;
    (len <= memory.len().checked_sub(at)?).then_some(at)
}

pub(super) fn read(memory: &Segment, chain: &mut Chain, offset: u64) -> bool {
    let wanted = chain.writable_len();
    place(memory, offset, wanted).is_some_and(|at| chain.write_segment(memory, at) == wanted)
}

pub(super) fn write(memory: &Segment, chain: &mut Chain, offset: u64) -> bool {
    let wanted = chain.readable_len();
    place(memory, offset, wanted).is_some_and(|at| chain.read_segment(memory, at) == wanted)
}

pub(super) fn zero(memory: &Segment, offset: u64, len: u64) -> bool {
    let (Ok(offset), Ok(len)) = (usize::try_from(offset), usize::try_from(len)) else { return false };
    memory.slice(offset, len).map(|piece| piece.fill(0)).is_some()
}
