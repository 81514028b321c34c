//! A ring as messages configure it, and as it runs (vhost-user: Ring states).
//!
//! *Started* by SET_VRING_KICK, stopped by GET_VRING_BASE; *enabled* by SET_VRING_ENABLE, or by SET_FEATURES without
//! bit 30; *configured* once size and addresses are known and the memory is there. A ring runs when it is all three,
//! in whatever order that came about, and is then looked at without a kick. One that is disabled keeps its requests.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use outboard_guest_memory::DirtyLog;
use outboard_vhost_user::payload::VringAddr;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::chain::{Chain, Walk};
use crate::faults::{Fault, Faults, die};
use crate::inflight::Buffer;
use crate::memory::{Bad, Guest};
use crate::packed::{self, Packed};
use crate::split::{self, Split};

/// Where kicks come from.
pub(crate) enum Kick {
    Event(OwnedFd),
    /// Nowhere: the ring is polled.
    Polled,
    /// From a descriptor whose other end is closed: none will come.
    Gone,
}

/// A ring.
#[derive(Default)]
pub(crate) struct Vring {
    pub(crate) size: u32,
    pub(crate) addr: Option<VringAddr>,
    /// Where to go on; `None`: at the start.
    pub(crate) base: Option<u32>,
    /// Where a reset has found it: QEMU before 8.1 asks for that.
    pub(crate) left: Option<u32>,
    /// Present while the ring is started.
    pub(crate) kick: Option<Kick>,
    pub(crate) call: Option<OwnedFd>,
    pub(crate) error: Option<OwnedFd>,
    pub(crate) enabled: bool,
    /// A fault was found: nothing is done until the ring is set up anew.
    pub(crate) latched: bool,
    pub(crate) running: Option<Running>,
    /// Kicks in a row for which there was nothing to do.
    pub(crate) idle_kicks: u32,
}

impl Vring {
    /// Started, enabled, and told its size and addresses.
    pub(crate) fn is_ready(&self, faults: Faults) -> bool {
        let enabled = self.enabled || faults.has(Fault::DisabledServed);
        !self.latched && enabled && self.kick.is_some() && self.size != 0 && self.addr.is_some()
    }

    /// Tells the front end of a fault, and stands still.
    pub(crate) fn latch(&mut self, faults: Faults) {
        self.latched = true;
        if let (Some(error), false) = (&self.error, faults.has(Fault::ErrorSilent)) {
            signal(error);
        }
    }

    pub(crate) fn fresh_base(packed: bool) -> u32 {
        if packed { 0x8000_8000 } else { 0 }
    }
}

/// Adds one to an event counter, if that does not block.
pub(crate) fn signal(fd: &OwnedFd) {
    let mut polled = [PollFd::new(fd, PollFlags::OUT)];
    if matches!(poll(&mut polled, Some(&Timespec::default())), Ok(1..)) {
        let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
    }
}

/// Calls the driver.
pub(crate) fn call_through(fd: &OwnedFd, faults: Faults) {
    if !faults.has(Fault::CallsUnchecked) {
        return signal(fd);
    }
    if rustix::io::write(fd, &1_u64.to_ne_bytes()).is_err() {
        die();
    }
}

/// What rings run by: agreed features, logging, faults.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) faults: Faults,
    pub(crate) packed: bool,
    pub(crate) event_idx: bool,
    pub(crate) indirect: bool,
    pub(crate) log: Option<DirtyLog>,
    /// Written buffers are logged.
    pub(crate) log_data: bool,
    /// Where the used ring lies in the log, if it is logged.
    pub(crate) log_used: Option<u64>,
}

impl Terms {
    /// Marks `len` bytes at `offset` of the used ring, or of the device's event area.
    pub(crate) fn log_used(&self, offset: u64, len: u64) {
        if let Some(start) = self.log_used {
            self.mark(start.wrapping_add(offset), len);
        }
    }

    /// Marks ring memory at a guest address.
    pub(crate) fn log_ring(&self, gpa: u64, len: u64) {
        if self.log_used.is_some() {
            self.mark(gpa, len);
        }
    }

    fn log_written(&self, dirty: &[(u64, u64)]) {
        if !self.log_data || self.faults.has(Fault::LogDataMissing) {
            return;
        }
        let skipped = usize::from(self.faults.has(Fault::LogFirstBufferOnly)) * dirty.len().saturating_sub(1);
        for &(gpa, len) in dirty.iter().take(dirty.len() - skipped) {
            self.mark(gpa, if self.faults.has(Fault::LogFirstPageOnly) { 1 } else { len });
        }
    }

    fn mark(&self, gpa: u64, len: u64) {
        if let Some(log) = &self.log {
            if gpa / 4096 / 8 >= log.len() as u64 && self.faults.has(Fault::LogShortCrashes) {
                die();
            }
            log.mark(if self.faults.has(Fault::LogShifted) { gpa + 4096 } else { gpa }, len);
        }
    }
}

/// A request that is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Done {
    pub(crate) id: u16,
    pub(crate) count: u16,
    pub(crate) slot: u16,
    /// Bytes written.
    pub(crate) len: u32,
}

enum Format {
    Split(Split),
    Packed(Packed),
}

/// A ring that runs.
pub(crate) struct Running {
    format: Format,
    size: u16,
    /// Taken, and to be done at some time.
    pending: VecDeque<(Instant, Chain)>,
    /// They are done when there is something for the driver.
    fills: bool,
}

impl Running {
    /// Starts a ring; `None` if its memory is not shared (yet).
    pub(crate) fn start(
        vring: &Vring,
        index: u16,
        mem: &Guest,
        inflight: Option<&Buffer>,
        terms: &Terms,
        fills: bool,
    ) -> Result<Option<Self>, Bad> {
        let size = u16::try_from(vring.size).map_err(|_| format!("a ring of {}", vring.size))?;
        let Some(parts) = Self::resolve(vring, mem, terms)? else { return Ok(None) };
        let [desc, avail, used] = &parts;
        if [desc, avail].iter().any(|part| part.gpa() == used.gpa())
            && terms.faults.has(Fault::RingOverlapCrashes)
        {
            die();
        }
        let base = match vring.base {
            Some(_) if terms.faults.has(Fault::BaseIgnored) => Vring::fresh_base(terms.packed),
            Some(base) => base,
            None => Vring::fresh_base(terms.packed),
        };
        let format = if terms.packed {
            let records = inflight.and_then(|buffer| buffer.packed(index, size));
            Format::Packed(Packed::start(parts, size, base, records)?)
        } else {
            let records = inflight.and_then(|buffer| buffer.split(index, size));
            Format::Split(Split::start(parts, size, base, records, terms)?)
        };
        Ok(Some(Self { format, size, pending: VecDeque::new(), fills }))
    }

    fn resolve(
        vring: &Vring,
        mem: &Guest,
        terms: &Terms,
    ) -> Result<Option<[outboard_guest_memory::Segment; 3]>, Bad> {
        let (Some(addr), Ok(size)) = (&vring.addr, u16::try_from(vring.size)) else { return Ok(None) };
        let parts = [addr.descriptor, addr.available, addr.used];
        if terms.faults.has(Fault::RingInOneRegion) && !mem.in_one_region(parts) {
            return Ok(None);
        }
        if terms.packed {
            return packed::resolve(mem, addr, size, terms.faults);
        }
        if !size.is_power_of_two() {
            return Err(format!("a split ring of {size}"));
        }
        split::resolve(mem, addr, size, terms)
    }

    /// Looks its memory up again; false if it is gone.
    pub(crate) fn remap(&mut self, vring: &Vring, mem: &Guest, terms: &Terms) -> bool {
        let Ok(Some(parts)) = Self::resolve(vring, mem, terms) else { return false };
        match &mut self.format {
            Format::Split(split) => split.remap(parts),
            Format::Packed(packed) => packed.remap(parts),
        }
        true
    }

    /// Takes what is available; each request is to be done at `due`.
    pub(crate) fn take(&mut self, mem: &Guest, due: Instant, terms: &Terms) -> Result<(), Bad> {
        let Terms { faults, packed, indirect, .. } = *terms;
        let walk = Walk { mem, faults, indirect, packed, size: self.size };
        loop {
            let chain = match &mut self.format {
                Format::Split(split) => split.pop(walk)?,
                Format::Packed(packed) => packed.pop(walk)?,
            };
            match chain {
                Some(chain) => self.pending.push_back((due, chain)),
                None => return Ok(()),
            }
            if faults.has(Fault::OneRequestPerKick) {
                return Ok(());
            }
        }
    }

    /// Whether there is something to take.
    pub(crate) fn has_available(&self) -> bool {
        match &self.format {
            Format::Split(split) => split.has_available(),
            Format::Packed(packed) => packed.has_available(),
        }
    }

    /// Drops what was taken, for a fault that does.
    pub(crate) fn forget(&mut self) {
        self.pending.clear();
    }

    /// Whether its requests wait for something to be there for the driver.
    pub(crate) fn fills(&self) -> bool {
        self.fills
    }

    /// Has `fill` write to requests that wait, and shows those to the driver. `None` if there was nothing for it; true if
    /// the driver wants to be called.
    pub(crate) fn fill(
        &mut self,
        terms: &Terms,
        fill: impl FnOnce(&mut [&mut Chain]) -> Option<Vec<(usize, u32)>>,
    ) -> Option<bool> {
        let mut waiting: Vec<&mut Chain> = self.pending.iter_mut().map(|(_, chain)| chain).collect();
        let filled = fill(&mut waiting)?;
        let mut pending: Vec<_> = self.pending.drain(..).map(Some).collect();
        let mut batch = Vec::new();
        for (at, len) in filled {
            let Some((_, chain)) = pending.get_mut(at).and_then(Option::take) else { continue };
            terms.log_written(&chain.dirty);
            let done = Done { id: chain.id, count: chain.count, slot: chain.slot, len };
            batch.push(spoil(done, &chain, terms));
        }
        self.pending.extend(pending.into_iter().flatten());
        Some(self.show(&batch, terms))
    }

    /// Does what is due by `now` and shows it to the driver, who is called if it wants that: then true.
    pub(crate) fn complete(
        &mut self,
        now: Instant,
        terms: &Terms,
        mut serve: impl FnMut(&mut Chain) -> u32,
    ) -> bool {
        let mut batch = Vec::new();
        let mut late = Vec::new();
        while self.pending.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, mut chain)) = self.pending.pop_front() else { break };
            let len = serve(&mut chain);
            if terms.faults.has(Fault::LogAfterPublishing) {
                late.append(&mut chain.dirty);
            } else {
                terms.log_written(&chain.dirty);
            }
            batch.push(spoil(
                Done { id: chain.id, count: chain.count, slot: chain.slot, len },
                &chain,
                terms,
            ));
        }
        if terms.faults.has(Fault::UsedInReverse) {
            batch.reverse();
        }
        let wanted = self.show(&batch, terms);
        if !late.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(50));
            terms.log_written(&late);
        }
        wanted
    }

    /// Shows what is done to the driver; true if it wants to be called.
    fn show(&mut self, batch: &[Done], terms: &Terms) -> bool {
        let wanted = match &mut self.format {
            Format::Split(split) => {
                split.publish(batch, terms);
                !batch.is_empty() && split.call_wanted(terms)
            }
            Format::Packed(packed) => {
                packed.publish(batch, terms);
                !batch.is_empty() && packed.call_wanted(terms)
            }
        };
        wanted && !terms.faults.has(Fault::NeverCalls)
    }

    /// Asks for a kick; false if there is something to do already.
    pub(crate) fn arm(&mut self, terms: &Terms) -> bool {
        match &mut self.format {
            Format::Split(split) => {
                split.arm(terms);
                !split.has_available()
            }
            Format::Packed(packed) => {
                packed.arm(terms);
                !packed.has_available()
            }
        }
    }

    /// When the next request is to be done.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pending.front().filter(|_| !self.fills).map(|(due, _)| *due)
    }

    /// Where the ring goes on when it stops now.
    pub(crate) fn base(&mut self) -> u32 {
        if self.pending.is_empty() {
            match &mut self.format {
                Format::Split(split) => split.retire(),
                Format::Packed(packed) => packed.retire(),
            }
        }
        match &self.format {
            // What waits stays the driver's.
            Format::Split(split) if self.fills => split.base_before(self.pending.len()),
            Format::Packed(packed) if self.fills => packed.base_before(),
            Format::Split(split) => split.base(),
            Format::Packed(packed) => packed.base(),
        }
    }
}

/// What faults make of a completion.
fn spoil(mut done: Done, chain: &Chain, terms: &Terms) -> Done {
    let faults = terms.faults;
    if faults.has(Fault::UsedIdWrong) {
        done.id ^= 1;
    }
    if faults.has(Fault::UsedLenZero) {
        done.len = 0;
    }
    if faults.has(Fault::UsedLenTooLong) {
        done.len = chain.writable_len() as u32 + 64;
    }
    if faults.has(Fault::UsedLenCountsReadable) {
        done.len += chain.readable_len() as u32;
    }
    done
}
