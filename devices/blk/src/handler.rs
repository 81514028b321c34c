//! One queue's requests, from header to status.
//!
//! The guest is hostile: the chain's bytes may lie and may change. Each value is read once and checked in
//! [`crate::request`]; data is only moved. The host may fail, transfer less than asked, or have lost what the disk
//! still had a moment ago.
//!
//! A request is begun, and then goes on with each operation of the host that ends, until it has an [`Outcome`]:
//! [`Next`] says which. What it needs until then is in its chain, whose cursors stand at what is left to do, and in
//! [`Work`]; nothing is allocated, nothing is looked up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use outboard_device::defs::blk::{ID_BYTES, RequestHeader};
use outboard_device::{Chain, Cx, DeviceError, Durability, Flow, Handler, HostOp, QueueId, Status};

use crate::counters::QueueCounters;
use crate::device::Shared;
use crate::host::{Errand, Errands, Flight, Job, Medium, Task};
use crate::limits::{Gate, Price};
use crate::request::{Limits, Outcome, Ranges, Request, Span};
use crate::zones::{Claim, Emptied, Refusal, ZoneQueue};

/// The data half of the block device: serves one queue.
pub struct BlkHandler {
    pub(crate) medium: Medium,
    pub(crate) shared: Arc<Shared>,
    pub(crate) gate: Gate,
    pub(crate) counters: Arc<QueueCounters>,
    pub(crate) serial: [u8; ID_BYTES],
    pub(crate) read_only: bool,
    pub(crate) discard: bool,
    pub(crate) erase: bool,
    pub(crate) lifetime: bool,
    /// The driver can flush. One that cannot gets every write made stable (VIRTIO 1.3, 5.2.6.2).
    pub(crate) flush: bool,
    /// What the host was found not to know.
    pub(crate) missing: Missing,
    /// Who makes the calls that block, where there are any.
    pub(crate) errands: Option<Errands>,
    /// Of a zoned disk.
    pub(crate) zones: Option<ZoneQueue>,
}

/// Ways to zero that the host was found not to know, so that they are not tried again.
#[derive(Clone, Copy, Default)]
pub(crate) struct Missing {
    punch: bool,
    zero_range: bool,
}

/// A request that the host is working on.
pub struct Op {
    status: Status,
    work: Work,
    /// What it writes of a zone.
    claim: Option<Claim>,
    /// It is on its way past the store.
    flight: Option<Flight>,
}

/// What the host is doing for a request.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    Read {
        offset: u64,
    },
    Write {
        offset: u64,
        durability: Durability,
    },
    Range {
        ranges: Ranges,
        span: Span,
        way: Way,
    },
    /// An errand writes the answer.
    Answer,
    /// Looks at a zone where a write has failed.
    Failed {
        zone: Emptied,
    },
    /// Makes a hole of zones, or has the device do something to them.
    Empty {
        zone: Emptied,
        span: Span,
    },
    Sync,
    SyncZones,
}

/// The longest range that the host is asked to give up or zero at a time, in bytes: others get their turn in between.
const PIECE: u64 = 64 << 20;
/// The longest range that a device is asked to erase at a time, in bytes: it may take long over it.
const ERASE_PIECE: u64 = 16 << 20;
/// The most that is zeroed in memory on the spot, in bytes.
const ON_THE_SPOT: u64 = 256 << 10;

/// How a range is given up or zeroed, from the best way to the one that always works.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Punch,
    ZeroRange,
    Write,
}

/// How a request goes on.
#[derive(Clone, Copy)]
pub(crate) enum Next {
    End(Outcome),
    Host(Work),
    /// By the store itself.
    Store(Work),
    Errand(Errand, Work),
    /// Later, from the beginning: its zone is busy.
    Wait,
    /// Later, from the beginning: a limit wants it.
    After(Duration),
}

impl Handler for BlkHandler {
    type Op = Op;

    fn start(&mut self, cx: &mut Cx<'_, Op>) -> Result<(), DeviceError> {
        let zones = self.zones.as_mut().map_or(Ok(()), |zones| zones.start(cx));
        let started = zones.and_then(|()| self.medium.start(cx));
        started.map_err(|error| DeviceError::host("cannot hand the disk to the engine", error))
    }

    fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, Op>) -> Flow {
        let Some(status) = chain.split_status() else {
            cx.warn("request not answered", "it has no room for a status");
            return cx.done(chain);
        };
        if let Some(whole) = self.transfer(&mut chain) {
            chain.set_status(status, if whole { Outcome::Done } else { Outcome::Failed } as u8);
            return cx.done(chain);
        }
        let mut claim = None;
        let next = self.begin(&mut chain, &mut claim, cx).unwrap_or_else(|outcome| self.refuse(outcome));
        self.go_on(chain, status, claim, next, cx)
    }

    fn foresee(&self, chain: &Chain) {
        if let Some(header) = chain.peek_obj::<RequestHeader>() {
            self.medium.prefetch(header.sector.get());
        }
    }

    fn finished(&mut self, mut chain: Chain, op: Op, result: io::Result<u32>, cx: &mut Cx<'_, Op>) -> Flow {
        let next = self.after(&mut chain, &op, result, cx);
        self.go_on(chain, op.status, op.claim, next, cx)
    }

    fn stop(&mut self, _: QueueId, _: &mut Cx<'_, Op>) {
        self.gate.leave();
    }
}

impl BlkHandler {
    fn go_on(
        &mut self,
        mut chain: Chain,
        status: Status,
        claim: Option<Claim>,
        next: Next,
        cx: &mut Cx<'_, Op>,
    ) -> Flow {
        let (next, claim) = match (next, claim) {
            (Next::End(outcome), Some(claim)) => (self.settle(&mut chain, claim, outcome, cx), None),
            other => other,
        };
        match next {
            Next::Wait => self.wait_for_zone(chain, cx),
            Next::After(delay) => cx.wait_for(chain, delay),
            Next::End(outcome) => {
                self.wake_waiting(chain.queue(), cx);
                chain.set_status(status, outcome as u8);
                cx.done(chain)
            }
            Next::Errand(errand, work) => {
                let ticket = cx.defer(chain, Op { status, work, claim, flight: None });
                // Without anybody to run it, the ticket comes back by itself, with an error.
                if let Some(errands) = &self.errands {
                    errands.run(errand, ticket);
                }
                Flow::Next
            }
            Next::Host(work) => match self.medium.store() {
                None => self.on_file(chain, Op { status, work, claim, flight: None }, cx),
                Some(_) => match self.past_the_store(work, &chain) {
                    Some((host, flight)) => {
                        cx.submit(chain, host, Op { status, work, claim, flight: Some(flight) })
                    }
                    None => self.give_to_store(chain, Op { status, work, claim, flight: None }, cx),
                },
            },
            Next::Store(work) => self.give_to_store(chain, Op { status, work, claim, flight: None }, cx),
        }
    }

    fn give_to_store(&self, chain: Chain, op: Op, cx: &mut Cx<'_, Op>) -> Flow {
        let task = op.work.task();
        let ticket = cx.defer(chain, op);
        // Without a store, the ticket comes back by itself, with an error.
        if let Some(store) = self.medium.store() {
            store.submit(Job::new(task, ticket));
        }
        Flow::Next
    }

    /// What the engine can do of a store's work. What has to be stable at once is more than its data: tables are, too.
    fn past_the_store(&self, work: Work, chain: &Chain) -> Option<(HostOp, Flight)> {
        match work {
            Work::Read { offset } => {
                let (file, offset, flight) =
                    self.medium.locate(offset, chain.writable(), chain.writable_len(), false)?;
                Some((HostOp::ReadAt { file, offset }, flight))
            }
            Work::Write { offset, durability: durability @ Durability::Cached } => {
                let (file, offset, flight) =
                    self.medium.locate(offset, chain.readable(), chain.readable_len(), true)?;
                Some((HostOp::WriteAt { file, offset, durability }, flight))
            }
            _ => None,
        }
    }

    /// What follows an operation of the host.
    fn after(&mut self, chain: &mut Chain, op: &Op, result: io::Result<u32>, cx: &mut Cx<'_, Op>) -> Next {
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

    /// Works on a file: now, as far as the engine does that, and then later.
    fn on_file(&mut self, mut chain: Chain, mut op: Op, cx: &mut Cx<'_, Op>) -> Flow {
        loop {
            let host = self.operation(op.work, &chain);
            let Some(result) = cx.at_once(&chain, &host) else { return cx.submit(chain, host, op) };
            match self.after(&mut chain, &op, result, cx) {
                Next::Host(work) => op.work = work,
                next => return self.go_on(chain, op.status, op.claim, next, cx),
            }
        }
    }

    /// What a file is asked to do.
    fn operation(&self, work: Work, chain: &Chain) -> HostOp {
        let file = self.medium.file();
        let allocate = |span: Span, mode: i32| HostOp::Allocate {
            file,
            mode: mode | libc::FALLOC_FL_KEEP_SIZE,
            offset: span.offset,
            len: span.len,
        };
        match work {
            Work::Read { offset } => {
                HostOp::ReadAt { file: self.medium.file_for(offset, chain.writable()), offset }
            }
            Work::Write { offset, durability } => {
                let file = self.medium.file_for(offset, chain.readable());
                HostOp::WriteAt { file, offset, durability }
            }
            Work::Range { ranges, span, way: Way::Punch } => {
                allocate(self.piece(ranges, span), libc::FALLOC_FL_PUNCH_HOLE)
            }
            Work::Range { ranges, span, way: Way::ZeroRange } => {
                allocate(self.piece(ranges, span), libc::FALLOC_FL_ZERO_RANGE)
            }
            // What has to be stable is synced once at the end.
            Work::Range { span: Span { offset, len, .. }, way: Way::Write, .. } => {
                HostOp::WriteZeroes { file, offset, len, durability: Durability::Cached }
            }
            Work::Empty { span, .. } => {
                allocate(Span { len: span.len.min(PIECE), ..span }, libc::FALLOC_FL_PUNCH_HOLE)
            }
            // The last two are errands, always.
            Work::Sync | Work::Answer | Work::Failed { .. } => HostOp::Sync { file },
            Work::SyncZones => {
                HostOp::Sync { file: self.zones.as_ref().and_then(ZoneQueue::table).unwrap_or(file) }
            }
        }
    }

    /// A read or write of a disk in memory, from its header to its last byte; true if all of it was there. `None` for
    /// everything else: nothing has happened yet, and it goes the general way.
    ///
    /// Nothing of such a request waits for anybody, so it needs neither [`Next`] nor [`Work`], and to move those about
    /// takes longer than all the rest.
    #[inline]
    fn transfer(&self, chain: &mut Chain) -> Option<bool> {
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

    fn begin(
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

    fn begin_write(&self, chain: &mut Chain, offset: u64) -> Next {
        match self.medium.write_memory(chain, offset) {
            Some(whole) => Next::end(whole),
            None => self.write(offset, self.durability()),
        }
    }

    /// The host did `count` bytes of `work`, or all of it where there is nothing to count.
    fn advance(&mut self, chain: &mut Chain, op: &Op, count: u32, cx: &mut Cx<'_, Op>) -> Next {
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
                    // The driver switched the cache off meanwhile.
                    0 if durability == Durability::Cached && self.is_synchronous() => self.sync(),
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
            Work::Empty { zone, span } => {
                let done = span.len.min(PIECE);
                let left = Span { offset: span.offset.saturating_add(done), len: span.len - done, ..span };
                self.emptied(zone, left)
            }
            Work::Failed { zone } => {
                self.release(zone);
                Next::End(Outcome::Failed)
            }
            // A write's own zone is synced when it is settled.
            Work::Sync if op.claim.is_none() => self.sync_zones(),
            Work::Sync | Work::SyncZones | Work::Answer => Next::End(Outcome::Done),
        }
    }

    /// The host failed: there may be another way.
    fn fall_back(&mut self, work: Work, error: &io::Error) -> Result<Next, Outcome> {
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
                self.release(zone);
                Err(Outcome::Failed)
            }
            _ => Err(Outcome::Failed),
        }
    }

    fn write(&self, offset: u64, durability: Durability) -> Next {
        if durability == Durability::Synchronous && self.shared.has_lost() {
            return self.lost();
        }
        Next::Host(Work::Write { offset, durability })
    }

    fn sync(&self) -> Next {
        if self.medium.is_volatile() {
            return Next::End(Outcome::Done);
        }
        if self.shared.has_lost() {
            return self.lost();
        }
        Next::Host(Work::Sync)
    }

    /// The end of what the guest should not have asked for.
    fn refuse(&self, outcome: Outcome) -> Next {
        self.counters.refused();
        Next::End(outcome)
    }

    /// The end of what cannot be made stable any more.
    fn lost(&self) -> Next {
        self.counters.failed(&io::ErrorKind::Other.into());
        Next::End(Outcome::Failed)
    }

    /// Reads the next segment of a discard or write-zeroes request and sets to work on it. Zeroes that replace
    /// data are as durable as writes; a discard promises nothing.
    fn next_range(&mut self, chain: &mut Chain, ranges: Ranges, cx: &Cx<'_, Op>) -> Result<Next, Outcome> {
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
    fn erase(&self, ranges: Ranges, span: Span) -> Next {
        let Span { offset, len, .. } = self.piece(ranges, span);
        let work = Work::Range { ranges, span, way: Way::Punch };
        match self.medium.zero_memory(offset, len) {
            Some(true) => Next::Host(work),
            Some(false) => Next::End(Outcome::Failed),
            None => Next::Errand(Errand::Erase { offset, len }, work),
        }
    }

    /// What is done of a range at a time.
    fn piece(&self, ranges: Ranges, span: Span) -> Span {
        let most = match ranges {
            Ranges::Discard | Ranges::Zero => PIECE,
            Ranges::Erase { .. } if self.medium.is_volatile() => ON_THE_SPOT,
            Ranges::Erase { .. } => ERASE_PIECE,
        };
        Span { len: span.len.min(most), ..span }
    }

    fn limits(&self) -> Limits {
        Limits {
            sectors: self.shared.sectors(),
            read_only: self.read_only,
            discard: self.discard,
            erase: self.erase,
            lifetime: self.lifetime,
            zoned: self.zones.as_ref().map(ZoneQueue::agreed),
        }
    }

    fn durability(&self) -> Durability {
        if self.is_synchronous() { Durability::Synchronous } else { Durability::Cached }
    }

    /// Whether a completed write must be stable (VIRTIO 1.3, 5.2.5 and 5.2.6.2).
    pub(crate) fn is_synchronous(&self) -> bool {
        !self.flush || !self.shared.writeback()
    }
}

impl Next {
    fn end(well: bool) -> Self {
        Self::End(if well { Outcome::Done } else { Outcome::Failed })
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

impl Work {
    /// What a store is asked to do.
    const fn task(self) -> Task {
        match self {
            Self::Read { offset } => Task::Read { offset },
            Self::Write { offset, durability } => Task::Write { offset, durability },
            Self::Range { ranges, span: Span { offset, len, .. }, way } => {
                let len = if len < PIECE { len } else { PIECE };
                match (ranges, way) {
                    // Secure erase is never offered for a store.
                    (Ranges::Discard | Ranges::Erase { .. }, _) => Task::Discard { offset, len },
                    (Ranges::Zero, Way::Punch) => Task::Zero { offset, len, unmap: true },
                    (Ranges::Zero, Way::ZeroRange) => Task::Zero { offset, len, unmap: false },
                    (Ranges::Zero, Way::Write) => Task::WriteZeroes { offset, len },
                }
            }
            // Zones are never in a store.
            Self::Empty { span: Span { offset, len, .. }, .. } => Task::Zero { offset, len, unmap: true },
            Self::Sync | Self::SyncZones | Self::Answer | Self::Failed { .. } => Task::Sync,
        }
    }

    /// Whether written data may be gone that the host will not mention again: it reports a failed write-back once,
    /// and then counts those pages as clean.
    fn loses(&self, error: &io::Error) -> bool {
        match self {
            Self::Sync | Self::SyncZones => true,
            Self::Write { durability: Durability::Synchronous, .. } => {
                error.raw_os_error() == Some(libc::EIO)
            }
            _ => false,
        }
    }

    /// For warnings.
    fn what(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read failed",
            Self::Write { .. } => "write failed",
            Self::Range { ranges: Ranges::Discard, .. } => "discard failed",
            Self::Range { ranges: Ranges::Zero, .. } => "zeroing failed",
            Self::Range { ranges: Ranges::Erase { .. }, .. } => "secure erase failed",
            Self::Answer | Self::Failed { .. } => "asking the device failed",
            Self::Empty { .. } => "emptying a zone failed",
            Self::Sync | Self::SyncZones => "flush failed",
        }
    }
}
