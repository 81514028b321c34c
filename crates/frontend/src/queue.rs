//! A started queue: the driver's half of its ring, and its notifiers. May live in a thread of its own. What the back
//! end writes into the ring is not trusted; [`DriverQueue`] checks it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outboard_guest_memory::Segment;
use outboard_virtio_defs::features as bits;
use outboard_virtqueue::driver::{AddError, Buffer, DriverConfig, DriverQueue, Layout};
use outboard_virtqueue::{Base, Descriptor, Format};
use rustix::event::{PollFd, PollFlags};

use crate::Error;
use crate::channel::poll_until;
use crate::memory::Memory;
use crate::options::deadline;
use crate::ring::{Notifiers, signal, take};

/// Buffers that fit in an indirect table. Requests of more go into the ring itself.
const TABLE_ENTRIES: u16 = 16;

/// What a driver does while it waits for its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Asks for a call and sleeps.
    Interrupt,
    /// Looks at the ring again and again.
    Polling,
}

/// Notifications so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notifications {
    /// How often the driver kicked.
    pub kicks: u64,
    /// How many calls came. Several may be taken at once.
    pub calls: u64,
}

/// A queue's ring as the features have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Features {
    pub(crate) format: Format,
    pub(crate) bits: u64,
}

impl Features {
    fn has(self, mask: u64) -> bool {
        self.bits & mask != 0
    }
}

/// Guest addresses of a ring's parts, as SET_VRING_ADDR wants them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptor table, or packed descriptor ring.
    pub descriptors: u64,
    /// Available ring, or driver event area.
    pub driver: u64,
    /// Used ring, or device event area.
    pub device: u64,
}

/// A started queue.
#[derive(Debug)]
pub struct Queue {
    index: u16,
    driver: DriverQueue,
    notifiers: Notifiers,
    notifications: Notifications,
    /// Hangs up when the connection ends.
    link: Arc<OwnedFd>,
    memory: Segment,
}

impl Queue {
    pub(crate) fn new(
        index: u16,
        size: u16,
        features: Features,
        memory: &mut Memory,
        link: Arc<OwnedFd>,
    ) -> Result<Self, Error> {
        let indirect = features.has(bits::VIRTIO_F_INDIRECT_DESC);
        let table_entries = if indirect { TABLE_ENTRIES } else { 0 };
        let layout = Layout::new(features.format, size, table_entries);
        let len = usize::try_from(layout.len).map_err(|_| Error::Invalid("a ring of this size"))?;
        let notifiers = Notifiers::new()?;
        let segment = memory.allocate(len, 4096)?;
        let config = DriverConfig {
            format: features.format,
            size,
            event_idx: features.has(bits::VIRTIO_F_EVENT_IDX),
            in_order: features.has(bits::VIRTIO_F_IN_ORDER),
            table_entries,
            at: segment.gpa(),
        };
        let driver = match DriverQueue::new(&config, memory.map()) {
            Ok(driver) => driver,
            Err(error) => {
                memory.free(segment);
                return Err(error.into());
            }
        };
        let notifications = Notifications::default();
        Ok(Self { index, driver, notifiers, notifications, link, memory: segment })
    }

    /// Which queue of its device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Entries of the ring.
    pub fn size(&self) -> u16 {
        self.driver.size()
    }

    /// Where the ring lies in guest memory.
    pub fn addresses(&self) -> RingAddresses {
        let (at, layout) = (self.driver.at(), self.driver.layout());
        RingAddresses {
            descriptors: at + layout.desc,
            driver: at + layout.driver,
            device: at + layout.device,
        }
    }

    /// Notifications so far.
    pub fn notifications(&self) -> Notifications {
        self.notifications
    }

    /// Requests added and not returned.
    pub fn outstanding(&self) -> u32 {
        self.driver.outstanding()
    }

    /// Descriptors that are free. A request takes one per buffer, or one in all where it goes into a table.
    pub fn free(&self) -> u32 {
        self.driver.free()
    }

    /// The ring itself, for tests that do to it what no driver does.
    pub fn ring(&mut self) -> &mut DriverQueue {
        &mut self.driver
    }

    /// Readable when the back end has called.
    pub fn call_fd(&self) -> BorrowedFd<'_> {
        self.notifiers.call.as_fd()
    }

    /// Adds a request: the device reads from `readable`, in order, and writes to `writable`. It sees the request
    /// with the next [`publish`](Self::publish). `token` comes back with it. Whoever owns the buffers keeps them
    /// until then.
    ///
    /// # Errors
    /// The ring is full, or the request is empty or longer than the ring.
    #[inline]
    pub fn add<R: Copy + Into<Buffer>, W: Copy + Into<Buffer>>(
        &mut self,
        readable: &[R],
        writable: &[W],
        token: u64,
    ) -> Result<(), AddError> {
        self.driver.add(readable, writable, token)
    }

    /// Adds descriptors as they are, for tests of devices. See [`DriverQueue::add_raw`].
    ///
    /// # Errors
    /// The ring is full.
    pub fn add_raw(&mut self, descriptors: &[Descriptor], token: u64) -> Result<(), AddError> {
        self.driver.add_raw(descriptors, token)
    }

    /// Shows what was added to the device, and kicks it if it wants that.
    ///
    /// # Errors
    /// The kick could not be written.
    #[inline]
    pub fn publish(&mut self) -> Result<(), Error> {
        if self.driver.publish() { self.kick() } else { Ok(()) }
    }

    /// Kicks the device, whether it wants it or not.
    ///
    /// # Errors
    /// The kick could not be written.
    pub fn kick(&mut self) -> Result<(), Error> {
        self.notifications.kicks += 1;
        signal(&*self.notifiers.kick)
    }

    /// The next request that the device returned: its token, and how many bytes the device says it wrote.
    ///
    /// # Errors
    /// The device returned nonsense; the ring is of no use any more.
    #[inline]
    pub fn poll(&mut self) -> Result<Option<(u64, u32)>, Error> {
        self.driver.poll_used().map_err(|fault| Error::DeviceFault { queue: self.index, fault })
    }

    /// Whether a request was returned: cheap.
    #[inline]
    pub fn has_used(&self) -> bool {
        self.driver.has_used()
    }

    /// Waits until the device has returned something. False when the time is over first.
    ///
    /// # Errors
    /// The back end reports a fault of the ring, or the connection ends. What was returned before that is still to
    /// be polled.
    pub fn wait(&mut self, how: Waiting, timeout: Duration) -> Result<bool, Error> {
        if self.driver.has_used() {
            return Ok(true);
        }
        let deadline = deadline(timeout);
        match how {
            Waiting::Interrupt => self.wait_for_call(deadline),
            Waiting::Polling => self.spin(deadline),
        }
    }

    /// For event loops: forgets the calls so far, asks for one when the next request is returned, and looks once more.
    /// True if there is nothing yet, so that one may sleep until [`call_fd`](Self::call_fd) is readable, as
    /// [`Frontend::wait`](crate::Frontend::wait) does.
    ///
    /// # Errors
    /// The host refuses to read.
    pub fn arm(&mut self) -> Result<bool, Error> {
        self.notifications.calls += take(&*self.notifiers.call)?;
        Ok(self.driver.arm_calls())
    }

    fn wait_for_call(&mut self, deadline: Instant) -> Result<bool, Error> {
        let index = self.index;
        let used = loop {
            if !self.driver.arm_calls() {
                break true;
            }
            let Notifiers { call, err, .. } = &self.notifiers;
            // The link is not asked for input: only its end is of interest, which poll always tells.
            let mut fds = [
                PollFd::new(&**call, PollFlags::IN),
                PollFd::new(&**err, PollFlags::IN),
                PollFd::new(&*self.link, PollFlags::RDHUP),
            ];
            if poll_until(&mut fds, deadline)? == 0 {
                break false;
            }
            let [called, failed, ended] = fds.map(|fd| !fd.revents().is_empty());
            if called {
                self.notifications.calls += take(&**call)?;
            } else if failed {
                take(&**err)?;
                return Err(Error::RingFault(index));
            } else if ended {
                return Err(Error::Disconnected);
            }
            // Calls for nothing may come without end.
            if Instant::now() >= deadline {
                break self.driver.has_used();
            }
        };
        self.driver.suppress_calls();
        Ok(used)
    }

    fn spin(&mut self, deadline: Instant) -> Result<bool, Error> {
        // The clock and the notifiers are looked at rarely.
        const SPINS: u32 = 2048;
        self.driver.suppress_calls();
        loop {
            for _ in 0..SPINS {
                if self.driver.has_used() {
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            let now = Instant::now();
            let mut fds = [
                PollFd::new(&*self.notifiers.err, PollFlags::IN),
                PollFd::new(&*self.link, PollFlags::RDHUP),
            ];
            poll_until(&mut fds, now)?;
            let [failed, ended] = fds.map(|fd| !fd.revents().is_empty());
            if failed {
                take(&*self.notifiers.err)?;
                return Err(Error::RingFault(self.index));
            }
            if ended && !self.driver.has_used() {
                return Err(Error::Disconnected);
            }
            if now >= deadline {
                return Ok(self.driver.has_used());
            }
        }
    }

    /// Whether the back end has reported a fault of the ring since the last look.
    ///
    /// # Errors
    /// The host refuses to read.
    pub fn take_fault(&mut self) -> Result<bool, Error> {
        Ok(take(&*self.notifiers.err)? != 0)
    }

    pub(crate) fn notifiers(&self) -> &Notifiers {
        &self.notifiers
    }

    /// A new back end is to serve the ring: where it is to begin.
    pub(crate) fn restart(&mut self, link: Arc<OwnedFd>) -> Base {
        self.link = link;
        self.driver.restarted();
        self.driver.base_for_restart()
    }

    pub(crate) fn fresh_base(&self) -> Base {
        self.driver.fresh_base()
    }

    pub(crate) fn free_memory(self, memory: &mut Memory) {
        memory.free(self.memory);
    }
}
