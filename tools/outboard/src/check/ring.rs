//! A ring as the checks have it: the driver's half, its memory and its notifiers, and nothing that does a step by
//! itself.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use outboard_frontend::Memory;
use outboard_guest_memory::Segment;
use outboard_vhost_user::payload::VringAddr;
use outboard_virtio_defs::features as bits;
use outboard_virtqueue::driver::{Buffer, DriverConfig, DriverQueue, Layout};
use outboard_virtqueue::{Descriptor, Format};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::sample::Sample;
use super::verdict::{Checked, Stop, ensure};

/// What writable buffers are filled with.
pub(crate) const FILL: u8 = 0xee;

/// Entries of an indirect table, where nothing else is said.
pub(crate) const TABLE_ENTRIES: u16 = 8;

/// A ring and its notifiers.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) index: u16,
    pub(crate) format: Format,
    pub(crate) queue: DriverQueue,
    pub(crate) kick: OwnedFd,
    pub(crate) call: OwnedFd,
    pub(crate) err: OwnedFd,
    /// The ring's own memory, for checks that write into it what no driver writes.
    pub(crate) memory: Segment,
    /// Requests of so many buffers, if more than one, go into an indirect table.
    table_entries: u16,
}

/// A request that is out.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) readable: Vec<Segment>,
    pub(crate) writable: Vec<Segment>,
}

impl Placed {
    /// The buffers of a request, in memory, but in no ring.
    pub(crate) fn new(memory: &mut Memory, sample: &Sample) -> Checked<Self> {
        let mut placed = Self { readable: Vec::new(), writable: Vec::new() };
        for bytes in &sample.readable {
            placed.readable.push(memory.allocate(bytes.len(), 16)?);
        }
        for &len in &sample.writable {
            placed.writable.push(memory.allocate(usize::try_from(len)?, 16)?);
        }
        placed.write(sample)?;
        Ok(placed)
    }

    /// Writes what the device is to read, and what it is to overwrite.
    fn write(&self, sample: &Sample) -> Checked {
        for (segment, bytes) in self.readable.iter().zip(&sample.readable) {
            segment.write_from(0, bytes)?;
        }
        self.writable.iter().for_each(|segment| segment.fill(FILL));
        Ok(())
    }

    /// As a chain of descriptors, each linked to the next by its place in the chain.
    pub(crate) fn descriptors(&self) -> Vec<Descriptor> {
        let readable = self.readable.iter().map(|segment| (segment, 0));
        let writable = self.writable.iter().map(|segment| (segment, Descriptor::WRITE));
        let mut chain: Vec<_> = (1..)
            .zip(readable.chain(writable))
            .map(|(link, (segment, flags))| {
                let Buffer { gpa, len } = segment.into();
                Descriptor { addr: gpa, len, flags: flags | Descriptor::NEXT, link }
            })
            .collect();
        if let Some(last) = chain.last_mut() {
            last.flags &= !Descriptor::NEXT;
            last.link = 0;
        }
        chain
    }
}

impl Ring {
    /// A ring of `size` entries in memory of its own, as the virtio `features` have it; requests of up to
    /// `table_entries` buffers go into an indirect table, where there are such.
    pub(crate) fn new(
        memory: &mut Memory,
        index: u16,
        size: u16,
        features: u64,
        table_entries: u16,
    ) -> Checked<Self> {
        let has = |mask| features & mask != 0;
        let format = if has(bits::VIRTIO_F_RING_PACKED) { Format::Packed } else { Format::Split };
        let table_entries = if has(bits::VIRTIO_F_INDIRECT_DESC) { table_entries } else { 0 };
        let layout = Layout::new(format, size, table_entries);
        let segment = memory.allocate(usize::try_from(layout.len)?, 4096)?;
        Self::with_layout(memory, segment, layout, index, size, features, table_entries)
    }

    /// As [`new`](Self::new), in this memory, its parts where `layout` has them.
    pub(crate) fn with_layout(
        memory: &Memory,
        segment: Segment,
        layout: Layout,
        index: u16,
        size: u16,
        features: u64,
        table_entries: u16,
    ) -> Checked<Self> {
        let has = |mask| features & mask != 0;
        let format = if has(bits::VIRTIO_F_RING_PACKED) { Format::Packed } else { Format::Split };
        let config = DriverConfig {
            format,
            size,
            event_idx: has(bits::VIRTIO_F_EVENT_IDX),
            in_order: has(bits::VIRTIO_F_IN_ORDER),
            table_entries,
            at: segment.gpa(),
        };
        let queue = DriverQueue::with_layout(&config, layout, memory.map())?;
        let fd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (kick, call, err) = (fd()?, fd()?, fd()?);
        Ok(Self { index, format, queue, kick, call, err, memory: segment, table_entries })
    }

    /// Whether there is room for one more such request.
    pub(crate) fn has_room(&self, sample: &Sample) -> bool {
        let count = sample.readable.len() + sample.writable.len();
        let in_table = count > 1 && count <= self.table_entries.into();
        self.queue.free() as usize >= if in_table { 1 } else { count }
    }

    /// Where it lies, as SET_VRING_ADDR tells it.
    pub(crate) fn addr(&self, memory: &Memory, flags: u32) -> Checked<VringAddr> {
        let (at, layout) = (self.queue.at(), self.queue.layout());
        Ok(VringAddr {
            index: self.index.into(),
            flags,
            descriptor: memory.user_addr(at + layout.desc)?,
            available: memory.user_addr(at + layout.driver)?,
            used: memory.user_addr(at + layout.device)?,
            log: at + layout.device,
        })
    }

    /// The used index in memory (split only).
    pub(crate) fn used_index(&self) -> Checked<u16> {
        let mut index = [0; 2];
        let at = usize::try_from(self.queue.layout().device)? + 2;
        self.memory.read_into(at, &mut index)?;
        Ok(u16::from_le_bytes(index))
    }

    /// Puts a request into the ring; the device does not see it before [`publish`](Self::publish).
    pub(crate) fn place(&mut self, memory: &mut Memory, sample: &Sample, token: u64) -> Checked<Placed> {
        let placed = Placed::new(memory, sample)?;
        self.place_in(sample, placed, token)
    }

    /// As [`place`](Self::place), with buffers that were chosen before, as long as the sample's.
    pub(crate) fn place_in(&mut self, sample: &Sample, placed: Placed, token: u64) -> Checked<Placed> {
        placed.write(sample)?;
        let buffers = |segments: &[Segment]| segments.iter().map(Buffer::from).collect::<Vec<_>>();
        self.queue.add(&buffers(&placed.readable), &buffers(&placed.writable), token)?;
        Ok(placed)
    }

    /// Shows what was placed to the device, and kicks it whether it asked for that or not.
    pub(crate) fn publish(&mut self) -> Checked {
        self.queue.publish();
        signal(&self.kick)
    }

    /// The next request that was returned: token and length. Waits for it, by looking at the ring; a call only
    /// makes it faster.
    pub(crate) fn returned(&mut self, patience: Duration) -> Checked<(u64, u32)> {
        self.returned_within(patience)?.ok_or_else(|| {
            let index = self.index;
            Stop::fail(format!("the request on queue {index} was not returned within {patience:?}"))
        })
    }

    /// As [`returned`](Self::returned); `None` when nothing is returned in that time.
    pub(crate) fn returned_within(&mut self, patience: Duration) -> Checked<Option<(u64, u32)>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = self.queue.poll_used()? {
                return Ok(Some(found));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            let armed = self.queue.arm_calls();
            if armed {
                wait(&self.call, Duration::from_millis(5))?;
                take(&self.call)?;
            }
        }
    }

    /// As [`returned`](Self::returned), without a look at the call descriptor, and without taking a call from it.
    pub(crate) fn returned_uncalled(&mut self, patience: Duration) -> Checked<(u64, u32)> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(found) = self.queue.poll_used()? {
                return Ok(found);
            }
            if Instant::now() >= deadline {
                let index = self.index;
                return Err(Stop::fail(format!(
                    "the request on queue {index} was not returned within {patience:?}"
                )));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    /// Holds an answer against what it must be, and gives the memory back.
    pub(crate) fn verify(
        &self,
        memory: &mut Memory,
        sample: &Sample,
        placed: Placed,
        len: u32,
    ) -> Checked<Vec<u8>> {
        let mut written = Vec::new();
        for segment in &placed.writable {
            let mut bytes = vec![0; segment.len()];
            segment.read_into(0, &mut bytes)?;
            written.extend_from_slice(&bytes);
        }
        for (segment, was) in placed.readable.iter().zip(&sample.readable) {
            let mut bytes = vec![0; segment.len()];
            segment.read_into(0, &mut bytes)?;
            ensure!(bytes == *was, "the device wrote into a buffer that it may only read");
        }
        for segment in placed.readable.into_iter().chain(placed.writable) {
            memory.free(segment);
        }
        (sample.verify)(len, &written).map_err(Stop::Fail)?;
        Ok(written)
    }
}

/// Counts an event.
pub(crate) fn signal(fd: impl AsFd) -> Checked {
    match rustix::io::write(fd, &1u64.to_ne_bytes()) {
        Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Takes the events counted so far; 0 when there was none.
pub(crate) fn take(fd: impl AsFd) -> Checked<u64> {
    let mut count = [0; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(_) => Ok(u64::from_ne_bytes(count)),
        Err(rustix::io::Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Waits until a descriptor is readable; false when the time is over first.
pub(crate) fn wait(fd: impl AsFd, patience: Duration) -> Checked<bool> {
    let deadline = Instant::now() + patience;
    let fd: BorrowedFd<'_> = fd.as_fd();
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count != 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until the other ends of a pipe or socket are closed; false when the time is over first.
pub(crate) fn wait_closed(fd: impl AsFd, patience: Duration) -> Checked<bool> {
    let deadline = Instant::now() + patience;
    let fd: BorrowedFd<'_> = fd.as_fd();
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        let mut watched = [PollFd::new(&fd, PollFlags::empty())];
        match poll(&mut watched, Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until one of these is readable, and takes what all of them have; false when the time is over first.
pub(crate) fn any_called(fds: &[&OwnedFd], patience: Duration) -> Checked<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        let mut watched: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)).collect();
        match poll(&mut watched, Some(&left)) {
            Ok(count) => {
                fds.iter().try_for_each(|fd| take(*fd).map(drop))?;
                return Ok(count != 0);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
