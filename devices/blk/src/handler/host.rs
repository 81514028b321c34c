//! Who does the work of a request, and in which words it is asked: a file by the engine, or a store.

use outboard_device::{Chain, Cx, Durability, Flow, HostOp};

use super::{BlkHandler, Next, Op, PIECE, Way, Work};
use crate::host::{Flight, Job, Task};
use crate::request::{Ranges, Span};
use crate::zones::ZoneQueue;

impl BlkHandler {
    pub(super) fn give_to_store(&self, chain: Chain, op: Op, cx: &mut Cx<'_, Op>) -> Flow {
        let task = op.work.task();
        let ticket = cx.defer(chain, op);
        // Without a store, the ticket comes back by itself, with an error.
        if let Some(store) = self.medium.store() {
            store.submit(Job::new(task, ticket));
        }
        Flow::Next
    }

    /// What the engine can do of a store's work. What has to be stable at once is more than its data: tables are, too.
    pub(super) fn past_the_store(&self, work: Work, chain: &Chain) -> Option<(HostOp, Flight)> {
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

    /// Works on a file: now, as far as the engine does that, and then later.
    pub(super) fn on_file(&mut self, mut chain: Chain, mut op: Op, cx: &mut Cx<'_, Op>) -> Flow {
        loop {
            let host = self.operation(op.work, &chain);
            let Some(result) = cx.at_once(&chain, &host) else { return cx.submit(chain, host, op) };
            match self.after(&mut chain, &op, result, cx) {
                Next::Host(work) => (op.work, op.syncing) = (work, self.syncing(work)),
                next => {
                    let Op { status, claim, syncing, .. } = op;
                    drop(syncing);
                    return self.go_on(chain, status, claim, next, cx);
                }
            }
        }
    }

    /// What a file is asked to do.
    pub(super) fn operation(&self, work: Work, chain: &Chain) -> HostOp {
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
            // The others are never given to the host.
            Work::Sync | Work::Answer | Work::Failed { .. } | Work::Agree => HostOp::Sync { file },
            Work::SyncZones => {
                HostOp::Sync { file: self.zones.as_ref().and_then(ZoneQueue::table).unwrap_or(file) }
            }
        }
    }
}

impl Work {
    /// What a store is asked to do.
    pub(super) const fn task(self) -> Task {
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
            Self::Sync | Self::SyncZones | Self::Answer | Self::Failed { .. } | Self::Agree => Task::Sync,
        }
    }
}
