//! The borders of messages that are whole, on their way from the guest. Pure.
//!
//! Messages with bytes are no more than the bytes that the guest may send; those without are bounded here, as credit does
//! not bound them.

use std::collections::VecDeque;

/// Messages without bytes that may wait, at most.
pub(crate) const MOST_EMPTY: usize = 4096;
/// Borders that there is memory for when there are none, at most.
const KEPT: usize = 1024;

/// A message, or what has come of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Border {
    pub(crate) len: usize,
    pub(crate) ends_record: bool,
}

/// The messages, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Borders {
    /// The length of each, and in the lowest bit whether it ends a record.
    all: VecDeque<u32>,
    /// How many of them are without bytes.
    empty: usize,
}

impl Borders {
    /// Adds a message of less than 2 GiB, as all are for which there is room.
    pub(crate) fn push(&mut self, border: Border) {
        self.empty += usize::from(border.len == 0);
        self.all.push_back((border.len as u32) << 1 | u32::from(border.ends_record));
    }

    /// The oldest.
    pub(crate) fn front(&self) -> Option<Border> {
        let border = *self.all.front()?;
        Some(Border { len: (border >> 1) as usize, ends_record: border & 1 != 0 })
    }

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<Border> {
        let border = self.front()?;
        self.all.pop_front();
        self.empty -= usize::from(border.len == 0);
        if self.all.is_empty() && self.all.capacity() > KEPT {
            self.all = VecDeque::new();
        }
        Some(border)
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether no more messages without bytes may come.
    pub(crate) fn is_full_of_empty(&self) -> bool {
        self.empty >= MOST_EMPTY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_come_back_as_they_went_in_and_leave_no_memory_behind() {
        let mut borders = Borders::default();
        let all: Vec<Border> = (0..10_000)
            .map(|at| Border { len: at % 3 * ((1 << 30) - 1), ends_record: at % 2 == 0 })
            .collect();
        all.iter().for_each(|border| borders.push(*border));
        assert_eq!(borders.empty, 3334);
        assert!(borders.all.capacity() * size_of::<u32>() <= 64 << 10, "four bytes each, rounded up");
        assert_eq!(borders.front(), Some(all[0]));
        let back: Vec<Border> = std::iter::from_fn(|| borders.pop()).collect();
        assert_eq!(back, all);
        assert_eq!((borders.empty, borders.all.capacity()), (0, 0));
    }

    #[test]
    fn messages_without_bytes_are_counted_for_themselves() {
        let mut borders = Borders::default();
        let mut push = |len| borders.push(Border { len, ends_record: true });
        (0..MOST_EMPTY).for_each(|_| push(1));
        (1..MOST_EMPTY).for_each(|_| push(0));
        assert!(!borders.is_full_of_empty());
        borders.push(Border { len: 0, ends_record: false });
        assert!(borders.is_full_of_empty());
        while borders.front().is_some_and(|border| border.len > 0) {
            borders.pop();
        }
        assert!(borders.is_full_of_empty());
        borders.pop();
        assert!(!borders.is_full_of_empty());
        borders.clear();
        assert!(borders.is_empty() && borders.front().is_none());
    }
}
