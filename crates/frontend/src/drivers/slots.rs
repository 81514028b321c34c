//! The requests of one queue that are out: for each a slot of shared memory, for what is not the caller's data, and a
//! note of ours. A slot's number is what the ring knows the request by; the ring gives back only what is out.

use outboard_guest_memory::Segment;
use outboard_virtqueue::driver::{AddError, Buffer};

use crate::{Error, Frontend};

/// Slots of `LEN` bytes, with a note for each.
#[derive(Debug)]
pub(super) struct Slots<T, const LEN: usize> {
    memory: Segment,
    notes: Vec<T>,
    free: Vec<u16>,
}

impl<T: Copy + Default, const LEN: usize> Slots<T, LEN> {
    /// As many as there are entries in the ring.
    ///
    /// # Errors
    /// Memory is used up.
    pub(super) fn new(frontend: &mut Frontend, depth: u16) -> Result<Self, Error> {
        let memory = frontend.allocate(usize::from(depth) * LEN)?;
        Ok(Self { memory, notes: vec![T::default(); depth.into()], free: (0..depth).rev().collect() })
    }

    /// A slot that nothing uses. It is free until it is [taken](Self::take).
    ///
    /// # Errors
    /// [`Error::Add`]: there is none.
    #[inline]
    pub(super) fn vacant(&self) -> Result<u16, Error> {
        Ok(*self.free.last().ok_or(AddError::Full)?)
    }

    /// Takes the slot that was vacant last, which is now on the ring.
    #[inline]
    pub(super) fn take(&mut self, note: T) {
        if let Some(place) = self.free.pop().and_then(|number| self.notes.get_mut(usize::from(number))) {
            *place = note;
        }
    }

    /// Makes the slot free that the ring gave back, and returns its note.
    #[inline]
    pub(super) fn give_back(&mut self, number: u64) -> T {
        // The ring names what was put on it.
        self.free.push(number as u16);
        usize::try_from(number).ok().and_then(|at| self.notes.get(at).copied()).unwrap_or_default()
    }

    /// A part of a slot, for the ring.
    ///
    /// # Errors
    /// [`Error::Add`]: it is not within the slot.
    #[inline]
    pub(super) fn part(&self, number: u16, offset: usize, len: usize) -> Result<Buffer, Error> {
        let slot = self.memory.piece().slice(usize::from(number) * LEN, LEN);
        let part = slot.and_then(|slot| slot.slice(offset, len)).ok_or(AddError::Full)?;
        Ok(part.into())
    }

    /// Writes to a slot, from `offset` on.
    ///
    /// # Errors
    /// It is beyond the slots.
    #[inline]
    pub(super) fn write(&self, number: u16, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.memory.write_from(usize::from(number) * LEN + offset, bytes)?)
    }

    /// Reads from a slot that the ring gave back, from `offset` on.
    ///
    /// # Errors
    /// It is beyond the slots.
    #[inline]
    pub(super) fn read(&self, number: u64, offset: usize, bytes: &mut [u8]) -> Result<(), Error> {
        let slot = usize::try_from(number).unwrap_or(usize::MAX).saturating_mul(LEN);
        Ok(self.memory.read_into(slot.saturating_add(offset), bytes)?)
    }

    /// The memory, to be given back.
    pub(super) fn into_memory(self) -> Segment {
        self.memory
    }
}
