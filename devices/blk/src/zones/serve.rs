//! How a queue serves the requests of a zoned disk.
//!
//! A write to a sequential zone is admitted by the table, goes to the host as any other, and is settled when it ends,
//! well or not. To empty a zone is to make a hole of it; one is made, too, of what a write that failed has left behind
//! the pointer. What cannot be done at the moment, since something is under way in the zone, goes back to the queue for a
//! millisecond: drivers that know zones do not ask for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use outboard_device::defs::blk::SECTOR_SIZE;
use outboard_device::{Chain, Cx, DeviceError, FileId, Flow, QueueId, SourceId};

use super::table::Reservation;
use super::{Command, Refusal, ZoneErrand, Zones};
use crate::handler::{BlkHandler, Next, Op, Work};
use crate::host::{Adopted, Errand};
use crate::request::{Outcome, Request, Span};

/// How long a request waits for others in its zone before it is looked at again.
const MOMENT: Duration = Duration::from_millis(1);

/// What a queue has of the zones.
pub(crate) struct ZoneQueue {
    zones: Arc<Zones>,
    /// What is synced with the image.
    table: Option<Adopted>,
    /// The driver knows zones.
    agreed: bool,
    /// A request waits for its zone.
    wanted: bool,
}

impl ZoneQueue {
    /// # Errors
    /// The file with the write pointers cannot be shared.
    pub(crate) fn new(zones: &Arc<Zones>, agreed: bool) -> Result<Self, DeviceError> {
        if !agreed {
            tracing::warn!("the driver does not know zoned disks (VIRTIO_BLK_F_ZONED): its requests fail");
        }
        let table = zones.share()?.map(Adopted::new);
        Ok(Self { zones: Arc::clone(zones), table, agreed, wanted: false })
    }

    pub(crate) fn start(&mut self, cx: &mut Cx<'_, Op>) -> io::Result<()> {
        self.table.as_mut().map_or(Ok(()), |table| table.adopt(cx))
    }

    /// The file that is synced with the image.
    pub(crate) fn table(&self) -> Option<FileId> {
        self.table.as_ref().map(Adopted::id)
    }

    /// Whether the driver knows zones.
    pub(crate) fn agreed(&self) -> bool {
        self.agreed
    }
}

/// A write that has been admitted to a zone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    write: Reservation,
    append: bool,
}

/// Zones that are being emptied: one, or all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Emptied(Option<usize>);

impl BlkHandler {
    /// Begins a request about zones.
    pub(crate) fn begin_zoned(&mut self, chain: &mut Chain, request: Request) -> Result<Next, Outcome> {
        let Some(ZoneQueue { zones, .. }) = &self.zones else { return Err(Outcome::Unsupported) };
        if zones.passed {
            return self.begin_passed(chain, request);
        }
        match request {
            Request::ZoneReport { sector } => {
                zones.report(chain, sector)?;
                Ok(Next::End(Outcome::Done))
            }
            Request::Zone { command: Command::Reset, sector } => self.empty(Some(sector)),
            Request::ZoneResetAll => self.empty(None),
            Request::Zone { command, sector } => match zones.command(command, sector, chain.is_recovered()) {
                Ok(Ok(())) => Ok(self.zones_changed(Outcome::Done)),
                Ok(Err(error)) => {
                    tracing::warn!("a zone's state cannot be remembered: {error}");
                    Err(Outcome::Failed)
                }
                Err(refusal) => refused(refusal),
            },
            _ => Err(Outcome::Unsupported),
        }
    }

    /// The same where the device itself is zoned.
    fn begin_passed(&self, chain: &Chain, request: Request) -> Result<Next, Outcome> {
        let Some(ZoneQueue { zones, .. }) = &self.zones else { return Err(Outcome::Unsupported) };
        let span = Span { offset: 0, len: 0, unmap: true };
        let begun = match request {
            Request::ZoneReport { sector } => {
                zones.check_report(sector, chain)?;
                return Ok(Next::Errand(Errand::Zones(ZoneErrand::Report(sector)), Work::Answer));
            }
            Request::Zone { command, sector } => zones
                .begin_command(command, sector, chain.is_recovered())
                .map(|at| (ZoneErrand::Command(command, at), Some(at))),
            _ => zones.table().reset_all().map(|()| (ZoneErrand::ResetAll, None)),
        };
        match begun {
            Ok((errand, zone)) => {
                let (zone, outcome) = (Emptied(zone), Outcome::Done);
                Ok(Next::Errand(Errand::Zones(errand), Work::Empty { zone, span, outcome }))
            }
            Err(refusal) => refused(refusal),
        }
    }

    /// A read of `chain`'s room from `offset` on is as zones want it.
    pub(crate) fn check_zoned_read(&self, chain: &Chain, offset: u64) -> Result<(), Outcome> {
        match &self.zones {
            Some(queue) if !queue.agreed => Err(Outcome::Failed),
            Some(queue) => queue.zones.check_read(offset / SECTOR_SIZE, sectors(chain.writable_len())),
            None => Ok(()),
        }
    }

    /// Claims a zone for the write of `chain`'s data at `offset`; `None` where anything may be written. What a process
    /// that died has had written is left out, where it cannot be written again: the offset is that of the rest.
    pub(crate) fn claim_write(
        &self,
        chain: &mut Chain,
        offset: u64,
    ) -> Result<(Option<Claim>, u64), Refusal> {
        let Some(ZoneQueue { zones, agreed, .. }) = &self.zones else { return Ok((None, offset)) };
        if !agreed {
            // VIRTIO 1.3, 5.2.5: such a driver must not get as far.
            return Err(Outcome::Failed.into());
        }
        let (mut sector, count) = (offset / SECTOR_SIZE, sectors(chain.readable_len()));
        if !zones.is_sequential(sector, count) {
            return Ok((None, offset));
        }
        let mut count = u32::try_from(count).map_err(|_| Outcome::ZoneInvalid)?;
        let mut again = chain.is_recovered();
        if zones.passed && again {
            let done = zones.done_of(sector, count);
            chain.skip_readable(done as usize * SECTOR_SIZE as usize);
            (sector, count, again) = (sector + u64::from(done), count - done, false);
            if count == 0 {
                return Err(Outcome::Done.into());
            }
        }
        let offset = sector * SECTOR_SIZE;
        self.check_passed_write(zones, chain, offset)?;
        let write = zones.table().write(sector, count, again)?;
        Ok((Some(Claim { write, append: false }), offset))
    }

    /// A zoned device takes no write by way of the page cache, which keeps no order.
    fn check_passed_write(&self, zones: &Zones, chain: &Chain, offset: u64) -> Result<(), Outcome> {
        if zones.passed && !self.medium.is_direct(offset, chain.readable()) {
            tracing::debug!("a write to a zone has buffers that are not aligned as the device wants them");
            return Err(Outcome::Failed);
        }
        Ok(())
    }

    /// Claims the next part of a zone for `chain`'s data; where that is, in bytes.
    pub(crate) fn claim_append(&self, chain: &Chain, sector: u64) -> Result<(Claim, u64), Refusal> {
        let Some(ZoneQueue { zones, .. }) = &self.zones else { return Err(Outcome::Unsupported.into()) };
        let count = u32::try_from(sectors(chain.readable_len())).map_err(|_| Outcome::ZoneInvalid)?;
        self.check_passed_write(zones, chain, sector.saturating_mul(SECTOR_SIZE))?;
        let write = zones.table().append(sector, count)?;
        Ok((Claim { write, append: true }, zones.position(write) * SECTOR_SIZE))
    }

    /// A write to a zone has ended with `outcome`. What is left to do before the guest hears of it, if anything.
    pub(crate) fn settle(
        &self,
        chain: &mut Chain,
        claim: Claim,
        outcome: Outcome,
        cx: &mut Cx<'_, Op>,
    ) -> Next {
        let Some(ZoneQueue { zones, .. }) = &self.zones else { return Next::End(outcome) };
        let (behind, remembered) = zones.settle(claim.write, outcome == Outcome::Done);
        let mut outcome = outcome;
        if let Err(error) = remembered {
            cx.warn("write failed: its zone's pointer cannot be remembered", error);
            outcome = Outcome::Failed;
        }
        if outcome == Outcome::Done
            && claim.append
            && chain.write_obj(&zones.position(claim.write).to_le_bytes()).is_err()
        {
            outcome = Outcome::Failed;
        }
        let at = claim.write.zone as usize;
        let zone = Emptied(Some(at));
        match behind {
            Some(_) if zones.passed => {
                Next::Errand(Errand::Zones(ZoneErrand::Look(at)), Work::Failed { zone })
            }
            Some((offset, len)) => self.emptied(zone, Span { offset, len, unmap: true }, outcome),
            None => self.zones_changed(outcome),
        }
    }

    /// The end of a request that has changed a zone: without a write cache, once that is stable.
    fn zones_changed(&self, outcome: Outcome) -> Next {
        if outcome == Outcome::Done && self.is_synchronous() { self.sync_zones() } else { Next::End(outcome) }
    }

    /// The image is stable: now the write pointers, which must not be behind it.
    pub(crate) fn sync_zones(&self) -> Next {
        if self.zones.as_ref().and_then(ZoneQueue::table).is_none() {
            return Next::Agree;
        }
        if self.shared.has_lost() {
            return Next::End(Outcome::Failed);
        }
        Next::Host(Work::SyncZones)
    }

    fn empty(&mut self, sector: Option<u64>) -> Result<Next, Outcome> {
        let Some(ZoneQueue { zones, .. }) = &self.zones else { return Err(Outcome::Unsupported) };
        match zones.reset(sector) {
            Ok((zone, offset, len)) => {
                Ok(self.emptied(Emptied(zone), Span { offset, len, unmap: true }, Outcome::Done))
            }
            Err(refusal) => refused(refusal),
        }
    }

    /// Zones were emptied up to `left`; `outcome` is that of the request when they are empty.
    pub(crate) fn emptied(&self, zone: Emptied, left: Span, outcome: Outcome) -> Next {
        if left.len > 0 {
            return Next::Host(Work::Empty { zone, span: left, outcome });
        }
        self.release(zone, true);
        self.zones_changed(outcome)
    }

    /// Zones are not being emptied, or looked at, any more.
    pub(crate) fn release(&self, zone: Emptied, well: bool) {
        if let Some(queue) = &self.zones {
            queue.zones.release(zone.0, well);
        }
    }

    /// Puts a request back that its zone has no time for.
    pub(crate) fn wait_for_zone(&mut self, chain: Chain, cx: &mut Cx<'_, Op>) -> Flow {
        if let Some(queue) = &mut self.zones {
            queue.wanted = true;
        }
        cx.wait_for(chain, MOMENT)
    }

    /// A request of this queue has ended: what waits for a zone is looked at again.
    pub(crate) fn wake_waiting(&mut self, queue: QueueId, cx: &mut Cx<'_, Op>) {
        if self.zones.as_mut().is_some_and(|zones| std::mem::take(&mut zones.wanted)) {
            cx.after(Duration::ZERO, SourceId::delay(queue));
        }
    }
}

impl Zones {
    /// Where a write begins, in sectors.
    fn position(&self, write: Reservation) -> u64 {
        self.layout.start(write.zone as usize) + u64::from(write.start)
    }
}

fn refused(refusal: Refusal) -> Result<Next, Outcome> {
    match refusal {
        Refusal::End(outcome) => Err(outcome),
        Refusal::Busy => Ok(Next::Wait),
    }
}

fn sectors(bytes: usize) -> u64 {
    bytes as u64 / SECTOR_SIZE
}
