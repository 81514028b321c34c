//! How a request goes on when the host, a store or an errand has done something for it, or has failed.

use std::io;

use outboard_device::{Chain, Cx, Durability};

use super::{BlkHandler, Next, Op, PIECE, Way, Work};
use crate::request::{Outcome, Ranges, Span};

impl BlkHandler {
    /// What follows an operation of the host.
    pub(super) fn after(
        &mut self,
        chain: &mut Chain,
        op: &Op,
        result: io::Result<u32>,
        cx: &mut Cx<'_, Op>,
    ) -> Next {
        match result {
            Ok(count) => self.advance(chain, op, count, cx),
            Err(error) => self.fall_back(op.work, &error).unwrap_or_else(|outcome| {
                if op.work.loses(&error) {
                    self.shared.lose();
                }
                self.counters.failed(&error);
                cx.warn(op.work.what(), error);
                Next::End(outcome)
            }),
        }
    }

    /// The host did `count` bytes of `work`, or all of it where there is nothing to count.
    pub(super) fn advance(&mut self, chain: &mut Chain, op: &Op, count: u32, cx: &mut Cx<'_, Op>) -> Next {
        let work = op.work;
        // A store has done all of it, and moved the cursors itself.
        let whole = self.medium.store().is_some() && op.flight.is_none();
        if let Some(rest) = rest_of_flight(chain, op, count) {
            return Next::Store(rest);
        }
        match work {
            Work::Read { .. } | Work::Write { .. } | Work::Range { way: Way::Write, .. }
                if count == 0 && !whole =>
            {
                self.counters.failed(&io::ErrorKind::UnexpectedEof.into());
                cx.warn(work.what(), "the disk is shorter than it was");
                Next::End(Outcome::Failed)
            }
            Work::Read { offset } => {
                chain.advance_writable(count as usize);
                match chain.writable_len() {
                    0 => Next::End(Outcome::Done),
                    _ => {
                        self.counters.continued.add(1);
                        Next::Host(Work::Read { offset: offset.saturating_add(count.into()) })
                    }
                }
            }
            Work::Write { offset, durability } => {
                chain.advance_readable(count as usize);
                match chain.readable_len() {
                    // The driver switched the cache off, meanwhile or while the storage was out of reach.
                    0 if durability == Durability::Cached && self.is_synchronous() => self.sync(),
                    // Another one was told what has become of this one's data.
                    0 if durability == Durability::Synchronous && self.shared.has_lost() => self.lost(),
                    0 => Next::End(Outcome::Done),
                    // As it began: what was written through the cache is synced at the end.
                    _ => {
                        self.counters.continued.add(1);
                        self.write(offset.saturating_add(count.into()), durability)
                    }
                }
            }
            Work::Range { ranges, span, way } => {
                let in_part = way == Way::Write && !whole;
                let piece = self.piece(ranges, span).len;
                let done = if in_part { span.len.min(count.into()) } else { piece };
                let left = Span { offset: span.offset.saturating_add(done), len: span.len - done, ..span };
                match left.len {
                    0 => self.next_range(chain, ranges, cx).unwrap_or_else(|outcome| self.refuse(outcome)),
                    _ if ranges.is_erase() => self.erase(ranges, left),
                    _ => Next::Host(Work::Range { ranges, span: left, way }),
                }
            }
            Work::Empty { zone, span, outcome } => {
                let done = span.len.min(PIECE);
                let left = Span { offset: span.offset.saturating_add(done), len: span.len - done, ..span };
                self.emptied(zone, left, outcome)
            }
            Work::Failed { zone } => {
                self.release(zone, true);
                Next::End(Outcome::Failed)
            }
            // A write's own zone is synced when it is settled.
            Work::Sync if op.claim.is_none() => self.sync_zones(),
            Work::Sync | Work::SyncZones => Next::Agree,
            Work::Agree => self.agreed(),
            Work::Answer => Next::End(Outcome::Done),
        }
    }

    /// The host failed: there may be another way.
    pub(super) fn fall_back(&mut self, work: Work, error: &io::Error) -> Result<Next, Outcome> {
        let unknown = error.kind() == io::ErrorKind::Unsupported;
        // What a block device says to ranges that are not whole blocks.
        let misaligned = error.kind() == io::ErrorKind::InvalidInput;
        match work {
            Work::Range { ranges: Ranges::Zero, span, way: Way::Punch } if unknown || misaligned => {
                self.counters.fallbacks.add(1);
                self.missing.punch |= unknown;
                Ok(Next::Host(Work::Range { ranges: Ranges::Zero, span, way: Way::ZeroRange }))
            }
            Work::Range { ranges: Ranges::Zero, span, way: Way::ZeroRange } if unknown || misaligned => {
                self.counters.fallbacks.add(1);
                self.missing.zero_range |= unknown;
                Ok(Next::Host(Work::Range { ranges: Ranges::Zero, span, way: Way::Write }))
            }
            Work::Range { ranges: Ranges::Discard | Ranges::Erase { .. }, .. } if unknown => {
                Err(Outcome::Unsupported)
            }
            Work::Empty { zone, .. } | Work::Failed { zone } => {
                self.release(zone, false);
                Err(Outcome::Failed)
            }
            _ => Err(Outcome::Failed),
        }
    }
}

/// What is left of a transfer past the store that was cut short: the last cluster of an image may end early, which the
/// store knows how to read.
fn rest_of_flight(chain: &mut Chain, op: &Op, count: u32) -> Option<Work> {
    op.flight.as_ref()?;
    match op.work {
        Work::Read { offset } if (count as usize) < chain.writable_len() => {
            chain.advance_writable(count as usize);
            Some(Work::Read { offset: offset.saturating_add(count.into()) })
        }
        Work::Write { offset, durability } if (count as usize) < chain.readable_len() => {
            chain.advance_readable(count as usize);
            Some(Work::Write { offset: offset.saturating_add(count.into()), durability })
        }
        _ => None,
    }
}
