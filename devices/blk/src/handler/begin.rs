//! How a request begins: what its header asks for, and the first thing that is done about it.

use outboard_device::defs::blk::{ID_BYTES, RequestHeader};
use outboard_device::{Chain, Cx};

use super::{BlkHandler, Next, ON_THE_SPOT, Op, Way, Work};
use crate::host::Errand;
use crate::limits::Price;
use crate::request::{Limits, Outcome, Ranges, Request, Span};
use crate::zones::{Claim, Refusal, ZoneQueue};

impl BlkHandler {
    /// A read or write of a disk in memory, from its header to its last byte; true if all of it was there. `None` for
    /// everything else: nothing has happened yet, and it goes the general way.
    ///
    /// Nothing of such a request waits for anybody, so it needs neither [`Next`] nor [`Work`], and to move those about
    /// takes longer than all the rest.
    #[inline]
    pub(super) fn transfer(&self, chain: &mut Chain) -> Option<bool> {
        if self.zones.is_some() || self.medium.memory().is_none() || self.gate.is_limited() {
            return None;
        }
        let header: RequestHeader = chain.peek_obj()?;
        let readable = chain.readable_len() - size_of::<RequestHeader>();
        let request = Request::parse(&header, readable, chain.writable_len(), &self.limits()).ok()?;
        match request {
            Request::Read { offset } => {
                self.counters.begun(&request, chain.writable_len() as u64);
                chain.advance_readable(size_of::<RequestHeader>());
                self.medium.read_memory(chain, offset)
            }
            Request::Write { offset } => {
                self.counters.begun(&request, readable as u64);
                chain.advance_readable(size_of::<RequestHeader>());
                self.medium.write_memory(chain, offset)
            }
            _ => None,
        }
    }

    pub(super) fn begin(
        &mut self,
        chain: &mut Chain,
        claim: &mut Option<Claim>,
        cx: &Cx<'_, Op>,
    ) -> Result<Next, Outcome> {
        let header: RequestHeader = chain.read_obj().map_err(|_| Outcome::Failed)?;
        let limits = self.limits();
        let request = Request::parse(&header, chain.readable_len(), chain.writable_len(), &limits)?;
        let price = Price::of(&request, chain.readable_len(), chain.writable_len());
        if let Some(price) = price
            && let Some(delay) = self.gate.admit(chain.queue(), price, || cx.now(), &self.counters)
        {
            return Ok(Next::After(delay));
        }
        let next = match request {
            Request::Read { .. } if chain.writable_len() == 0 => Next::End(Outcome::Done),
            Request::Write { .. } if chain.readable_len() == 0 => Next::End(Outcome::Done),
            Request::Read { offset } => {
                self.check_zoned_read(chain, offset)?;
                match self.medium.read_memory(chain, offset) {
                    Some(whole) => Next::end(whole),
                    None => Next::Host(Work::Read { offset }),
                }
            }
            Request::Write { offset } => match self.claim_write(chain, offset) {
                Ok((claimed, offset)) => {
                    *claim = claimed;
                    self.begin_write(chain, offset)
                }
                Err(Refusal::Busy) => Next::Wait,
                Err(Refusal::End(outcome)) => Next::End(outcome),
            },
            Request::Append { sector } => match self.claim_append(chain, sector) {
                Ok((claimed, offset)) => {
                    *claim = Some(claimed);
                    self.begin_write(chain, offset)
                }
                Err(Refusal::Busy) => Next::Wait,
                Err(Refusal::End(outcome)) => Next::End(outcome),
            },
            Request::Flush => self.sync(),
            Request::Identify => {
                let room = chain.writable_len().min(ID_BYTES);
                Next::end(chain.write_all(self.serial.get(..room).unwrap_or_default()).is_ok())
            }
            Request::Lifetime => Next::Errand(Errand::Lifetime, Work::Answer),
            Request::Ranges(ranges) => self.next_range(chain, ranges, cx)?,
            Request::ZoneReport { .. } | Request::Zone { .. } | Request::ZoneResetAll => {
                self.begin_zoned(chain, request)?
            }
        };
        match (next, price) {
            (Next::Wait, Some(price)) => self.gate.take_back(price),
            // It is counted when its zone has time for it.
            (Next::Wait, None) => {}
            _ => self.counters.begun(&request, price.map_or(0, |price| price.bytes)),
        }
        Ok(next)
    }

    pub(super) fn begin_write(&self, chain: &mut Chain, offset: u64) -> Next {
        match self.medium.write_memory(chain, offset) {
            Some(whole) => Next::end(whole),
            None => self.write(offset, self.durability()),
        }
    }

    /// Reads the next segment of a discard or write-zeroes request and sets to work on it. Zeroes that replace
    /// data are as durable as writes; a discard promises nothing.
    pub(super) fn next_range(
        &mut self,
        chain: &mut Chain,
        ranges: Ranges,
        cx: &Cx<'_, Op>,
    ) -> Result<Next, Outcome> {
        while ranges.left(chain) > 0 {
            let segment = ranges.next(chain).map_err(|_| Outcome::Failed)?;
            let span = Span::parse(ranges, &segment, &self.limits())?;
            if span.len == 0 {
                continue;
            }
            if ranges.is_erase() {
                return Ok(self.erase(ranges, span));
            }
            if ranges == Ranges::Zero {
                self.gate.debit(Price::of_zeroes(span.len), || cx.now());
            }
            if ranges == Ranges::Discard || span.unmap && !self.missing.punch {
                return Ok(Next::Host(Work::Range { ranges, span, way: Way::Punch }));
            }
            if self.medium.is_volatile() {
                if span.len > ON_THE_SPOT {
                    return Ok(Next::Host(Work::Range { ranges, span, way: Way::Write }));
                }
                if self.medium.zero_memory(span.offset, span.len) != Some(true) {
                    return Err(Outcome::Failed);
                }
                continue;
            }
            let way = if self.missing.zero_range { Way::Write } else { Way::ZeroRange };
            return Ok(Next::Host(Work::Range { ranges, span, way }));
        }
        Ok(if ranges != Ranges::Discard && self.is_synchronous() {
            self.sync()
        } else {
            Next::End(Outcome::Done)
        })
    }

    /// Erases the first piece of a range: memory is overwritten, and then given back; a device does it itself.
    pub(super) fn erase(&self, ranges: Ranges, span: Span) -> Next {
        let Span { offset, len, .. } = self.piece(ranges, span);
        let work = Work::Range { ranges, span, way: Way::Punch };
        match self.medium.zero_memory(offset, len) {
            Some(true) => Next::Host(work),
            Some(false) => Next::End(Outcome::Failed),
            None => Next::Errand(Errand::Erase { offset, len }, work),
        }
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            sectors: self.shared.sectors(),
            read_only: self.read_only,
            discard: self.discard,
            erase: self.erase,
            lifetime: self.lifetime,
            zoned: self.zones.as_ref().map(ZoneQueue::agreed),
        }
    }
}
