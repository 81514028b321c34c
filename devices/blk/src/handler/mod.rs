//! One queue's requests, from header to status.
//!
//! The guest is hostile: the chain's bytes may lie and may change. Each value is read once and checked in
//! [`crate::request`]; data is only moved. The host may fail, transfer less than asked, or have lost what the disk
//! still had a moment ago.
//!
//! A request is begun, and then goes on with each operation of the host that ends, until it has an [`Outcome`]:
//! [`Next`] says which. What it needs until then is in its chain, whose cursors stand at what is left to do, and in
//! [`Work`]; nothing is allocated, nothing is looked up. The path of a request is `begin`, then `host`, then `advance`, and
//! those two again for as long as there is something left.

mod advance;
mod begin;
mod host;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use outboard_device::defs::blk::{ID_BYTES, RequestHeader};
use outboard_device::{Chain, Cx, DeviceError, Durability, Flow, Handler, QueueId, Status};

use crate::counters::QueueCounters;
use crate::device::Shared;
use crate::host::{DiskErrands, Errand, Flight, Medium, is_loss};
use crate::limits::Gate;
use crate::request::{Outcome, Ranges, Span};
use crate::syncs::Syncing;
use crate::zones::{Claim, Emptied, ZoneQueue};

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
    pub(crate) errands: Option<DiskErrands>,
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
    /// It is one of the syncs that others wait for.
    syncing: Option<Syncing>,
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
    /// Makes a hole of zones, or has the device do something to them. The request ends so if that goes well.
    Empty {
        zone: Emptied,
        span: Span,
        outcome: Outcome,
    },
    Sync,
    SyncZones,
    /// Nothing: others are syncing.
    Agree,
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
    /// When the syncs that are under way have ended.
    Agree,
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
        let Op { status, claim, syncing, .. } = op;
        // It does not wait for itself.
        drop(syncing);
        self.go_on(chain, status, claim, next, cx)
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
            Next::Agree => {
                if let Some(wait) = self.shared.syncs.wait() {
                    wait.keep(cx.defer(chain, self.op(status, Work::Agree, claim)));
                    return Flow::Next;
                }
                self.go_on(chain, status, claim, self.agreed(), cx)
            }
            Next::Errand(errand, work) => {
                let ticket = cx.defer(chain, self.op(status, work, claim));
                // Without anybody to run it, the ticket comes back by itself, with an error.
                if let Some(errands) = &self.errands {
                    errands.run((errand, ticket));
                }
                Flow::Next
            }
            Next::Host(work) => match self.medium.store() {
                None => self.on_file(chain, self.op(status, work, claim), cx),
                Some(_) => match self.past_the_store(work, &chain) {
                    Some((host, flight)) => {
                        cx.submit(chain, host, Op { flight: Some(flight), ..self.op(status, work, claim) })
                    }
                    None => self.give_to_store(chain, self.op(status, work, claim), cx),
                },
            },
            Next::Store(work) => self.give_to_store(chain, self.op(status, work, claim), cx),
        }
    }

    fn op(&self, status: Status, work: Work, claim: Option<Claim>) -> Op {
        Op { status, work, claim, flight: None, syncing: self.syncing(work) }
    }

    fn syncing(&self, work: Work) -> Option<Syncing> {
        matches!(work, Work::Sync | Work::SyncZones).then(|| self.shared.syncs.begin())
    }

    /// All syncs have ended that a flush overlapped with, and it went well itself.
    fn agreed(&self) -> Next {
        if self.shared.has_lost() { self.lost() } else { Next::End(Outcome::Done) }
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

    /// What is done of a range at a time.
    fn piece(&self, ranges: Ranges, span: Span) -> Span {
        let most = match ranges {
            Ranges::Discard | Ranges::Zero => PIECE,
            Ranges::Erase { .. } if self.medium.is_volatile() => ON_THE_SPOT,
            Ranges::Erase { .. } => ERASE_PIECE,
        };
        Span { len: span.len.min(most), ..span }
    }

    /// What was written through the cache is synced at its end, if it must be stable then.
    fn durability(&self) -> Durability {
        let by_itself = self.is_synchronous() && !self.shared.is_unsettled();
        if by_itself { Durability::Synchronous } else { Durability::Cached }
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

impl Work {
    /// Whether written data may be gone that the host will not mention again.
    fn loses(&self, error: &io::Error) -> bool {
        match self {
            Self::Sync | Self::SyncZones => is_loss(error),
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
            Self::Sync | Self::SyncZones | Self::Agree => "flush failed",
        }
    }
}
