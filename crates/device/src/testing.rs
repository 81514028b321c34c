//! A rig for tests of devices: guest memory, the driver's half of every queue, and a host whose operations are
//! executed on the spot, can be made to fail, and live by a clock of their own. Not for programs.
//!
//! The rig is trusted and the handler under test is not believed: what it returns passes through a real ring of
//! either format, and what it breaks in the rig is a panic, as befits a test.
//!
//! ```
//! use outboard_device::testing::{Bench, Format};
//! use outboard_device::{Chain, Cx, Flow, Handler};
//!
//! /// Answers with what it was sent.
//! struct Echo;
//!
//! impl Handler for Echo {
//!     type Op = ();
//!
//!     fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
//!         let mut text = vec![0; chain.readable_len().min(chain.writable_len())];
//!         if chain.read_exact(&mut text).and_then(|()| chain.write_all(&text)).is_err() {
//!             cx.warn("echo", "there is less than there was");
//!         }
//!         cx.done(chain)
//!     }
//! }
//!
//! for format in [Format::Split, Format::Packed] {
//!     let mut bench = Bench::new(Echo, format);
//!     let (outputs, len) = bench.request(&[b"he", b"llo"], &[4, 4]);
//!     assert_eq!((outputs[0].as_slice(), &outputs[1][..1], len), (&b"hell"[..], &b"o"[..], 5));
//! }
//! ```
#![allow(clippy::expect_used, clippy::panic, reason = "a rig that does not work fails the test")]

mod allocations;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use outboard_guest_memory::{MemoryMap, Region, memfd};
use outboard_virtqueue::driver::{Buffer, DriverConfig, DriverQueue, Layout};
use outboard_virtqueue::{Base, Chain, QueueConfig, QueueId, RingError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    Cx, Deferred, FileId, Handler, HostOp, Lent, MOST_GLANCED, Next, Parcel, Port, Queues, Slot, SourceId,
    Ticket, Waker, WarnLimit, Watching, host_io,
};

pub use allocations::Counting;
pub use outboard_virtqueue::{Descriptor, Format};

/// What device-writable buffers hold before the device gets them, so that bytes it left alone can be told.
pub const UNTOUCHED: u8 = 0xa5;

/// Where guest memory begins, for the guest. It is mapped in pieces, and not where the guest has it.
const GUEST_START: u64 = 0x4000_0000;
/// Where guest memory begins, for the front end.
const USER_START: u64 = 0x7000_0000_0000;
/// Entries of the indirect tables.
const TABLE: u16 = 16;
/// How long a test waits for another thread, at most.
const PATIENCE: Duration = Duration::from_secs(60);

mod restart;

use restart::Hands;

/// How a bench is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Split or packed rings.
    pub format: Format,
    /// Queues, all served by the one handler.
    pub queues: u16,
    /// Entries of each ring: 1 to 32768, a power of two if split.
    pub size: u16,
    /// Requests of several buffers go into indirect tables.
    pub indirect: bool,
    /// Notifications are suppressed by index.
    pub event_idx: bool,
    /// Requests return in order.
    pub in_order: bool,
    /// Guest memory for buffers, in bytes.
    pub memory: u64,
}

impl Setup {
    /// One queue of 256 entries, 8 MiB for buffers, no further features.
    #[must_use]
    pub const fn new(format: Format) -> Self {
        Self {
            format,
            queues: 1,
            size: 256,
            indirect: false,
            event_idx: false,
            in_order: false,
            memory: 8 << 20,
        }
    }
}

/// What becomes of a host operation.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// It fails with this errno, and does nothing.
    Errno(i32),
    /// It transfers at most so many bytes.
    Short(u32),
}

/// A request that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What [`Bench::send`] returned.
    pub token: u64,
    /// The device-writable buffers, whole; see [`UNTOUCHED`].
    pub outputs: Vec<Vec<u8>>,
    /// How many bytes the device says it wrote.
    pub len: u32,
}

/// A handler with a driver before it and a host behind it.
pub struct Bench<H: Handler> {
    handler: Hands<H>,
    queues: Queues,
    rings: Vec<Ring>,
    rig: Rig<H::Op>,
    warnings: WarnLimit,
    memory: MemoryMap,
    buffers: Room,
    next_token: u64,
    /// Something woke the worker that nobody sees again.
    woken: bool,
}

struct Ring {
    driver: DriverQueue,
    config: DriverConfig,
    /// Where the device's half goes on when it starts.
    base: Base,
    /// The device-writable buffers of the requests that are out.
    writable: BTreeMap<u64, Vec<Buffer>>,
    /// How often the driver was called.
    calls: u64,
}

/// Guest memory for buffers, handed out from the front, and anew when nothing is out.
struct Room {
    start: u64,
    end: u64,
    next: u64,
    align: u64,
}

impl<H: Handler> Bench<H> {
    /// A bench with one queue, for a handler that is started at once.
    pub fn new(handler: H, format: Format) -> Self {
        Self::with(handler, &Setup::new(format))
    }

    /// A bench as described.
    pub fn with(handler: H, setup: &Setup) -> Self {
        let table_entries = if setup.indirect { TABLE } else { 0 };
        let ring_len = Layout::new(setup.format, setup.size, table_entries).len.next_multiple_of(4096);
        let rings_len = ring_len * u64::from(setup.queues);
        let memory = memory(rings_len, setup.memory);
        let mut bench = Self {
            handler: Hands(Some(handler)),
            queues: Queues::default(),
            rings: Vec::new(),
            rig: Rig::new(),
            warnings: WarnLimit::new(1),
            memory,
            buffers: Room {
                start: GUEST_START + rings_len,
                end: GUEST_START + rings_len + setup.memory,
                next: GUEST_START + rings_len,
                align: 1,
            },
            next_token: 0,
            woken: false,
        };
        for index in 0..setup.queues {
            bench.add_queue(setup, table_entries, GUEST_START + ring_len * u64::from(index));
        }
        bench.begin_serving();
        bench
    }

    /// Enables or disables a queue, as a front end may at any time. All are enabled at first.
    ///
    /// # Panics
    /// If the bench has no such queue.
    pub fn enable(&mut self, queue: QueueId, on: bool) {
        let slot = self.queues.slot(queue).expect("the bench has that queue");
        if std::mem::replace(&mut slot.paused, !on) == on {
            self.turned(queue, on);
        }
    }

    fn turned(&mut self, queue: QueueId, on: bool) {
        let mut cx = Cx::new(&mut self.queues, &mut self.rig, &mut self.warnings);
        self.handler.turned(queue, on, &mut cx);
        self.woken = true;
    }

    fn add_queue(&mut self, setup: &Setup, table_entries: u16, at: u64) {
        let &Setup { format, size, event_idx, in_order, .. } = setup;
        let config = DriverConfig { format, size, event_idx, in_order, table_entries, at };
        let driver = DriverQueue::new(&config, &self.memory).expect("the ring is in memory");
        let base = driver.fresh_base();
        self.rings.push(Ring { driver, config, base, writable: BTreeMap::new(), calls: 0 });
        self.activate(self.rings.len() - 1);
    }

    /// Gives a ring to the device's half.
    fn activate(&mut self, index: usize) {
        let Some(Ring { driver, config, base, .. }) = self.rings.get(index) else { return };
        let (layout, user) = (driver.layout(), config.at - GUEST_START + USER_START);
        let queue = QueueConfig {
            id: QueueId(index as u16),
            format: config.format,
            size: config.size.into(),
            mem: self.memory.clone(),
            desc: user + layout.desc,
            avail: user + layout.driver,
            used: user + layout.device,
            log_used: None,
            log_data: false,
            event_idx: config.event_idx,
            indirect: config.table_entries > 0,
            in_order: config.in_order,
            base: *base,
            inflight: None,
        };
        let queue = queue.activate().expect("the ring is as the driver made it");
        self.queues.insert(Slot::new(queue));
    }

    /// Sends a request on queue 0, and lets everything run until it is answered. Returns the device-writable buffers,
    /// whole, and the length that the device says it wrote.
    ///
    /// # Panics
    /// If the device does not answer.
    pub fn request(&mut self, readable: &[&[u8]], writable: &[usize]) -> (Vec<Vec<u8>>, u32) {
        let token = self.send(QueueId(0), readable, writable);
        self.run();
        match self.receive(QueueId(0)) {
            Some(answer) if answer.token == token => (answer.outputs, answer.len),
            Some(answer) => panic!("request {} was answered, not {token}", answer.token),
            None => panic!("no answer; ring fault: {:?}", self.fault(QueueId(0))),
        }
    }

    /// Makes a request available on a queue. Nothing runs before [`Bench::run`].
    ///
    /// # Panics
    /// If ring or memory have no room, or the request has no buffer.
    pub fn send(&mut self, queue: QueueId, readable: &[&[u8]], writable: &[usize]) -> u64 {
        if self.rings.iter().all(|ring| ring.driver.outstanding() == 0) {
            self.buffers.next = self.buffers.start;
        }
        let inputs: Vec<Buffer> = readable.iter().map(|bytes| self.place(bytes)).collect();
        let outputs: Vec<Buffer> = writable.iter().map(|&len| self.place(&vec![UNTOUCHED; len])).collect();
        let token = self.next_token;
        self.next_token += 1;
        let ring = self.ring(queue);
        ring.driver.add(&inputs, &outputs, token).expect("the request fits the ring");
        ring.driver.publish();
        ring.writable.insert(token, outputs);
        token
    }

    /// Puts descriptors on a queue's ring as they are, for requests that no driver makes; see
    /// [`DriverQueue::add_raw`].
    ///
    /// # Panics
    /// If the ring has no room.
    pub fn send_raw(&mut self, queue: QueueId, descriptors: &[Descriptor]) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let ring = self.ring(queue);
        ring.driver.add_raw(descriptors, token).expect("the descriptors fit the ring");
        ring.driver.publish();
        ring.writable.insert(token, Vec::new());
        token
    }

    /// Copies bytes into guest memory, and says where they are, for [`Bench::send_raw`].
    ///
    /// # Panics
    /// If memory has no room.
    pub fn place(&mut self, bytes: &[u8]) -> Buffer {
        let len = u32::try_from(bytes.len()).expect("a buffer of less than 4 GiB");
        let gpa = self.buffers.next.next_multiple_of(self.buffers.align);
        self.buffers.next = gpa + u64::from(len);
        assert!(self.buffers.next <= self.buffers.end, "guest memory is used up");
        self.memory.write_from(gpa, bytes).expect("room is in memory");
        Buffer { gpa, len }
    }

    /// Buffers begin at multiples of `bytes` from now on, a power of two up to 4096; without this, one behind the other.
    pub fn align(&mut self, bytes: u64) {
        self.buffers.align = bytes;
    }

    /// Lets handler and host run until both have nothing left to do. Requests that wait stay; deferred ones are
    /// waited for, and those that were lent are not.
    ///
    /// [`Handler::work`] is called only where a worker that sleeps would have been woken: by a request, a chain that a
    /// pop missed, an event, a queue that was enabled, or if the handler says that it [is ready](Handler::is_ready).
    ///
    /// # Panics
    /// If the ticket of a deferred request does not come back within a minute.
    pub fn run(&mut self) {
        loop {
            let mut busy = self.take_requests();
            busy |= self.finish_operations();
            busy |= self.raise_events();
            busy |= self.work(busy);
            self.publish();
            if !busy && !self.rig.await_ticket() && self.rests() {
                return;
            }
        }
    }

    fn work(&mut self, busy: bool) -> bool {
        let mut due = std::mem::take(&mut self.woken);
        for slot in self.queues.iter_mut() {
            due |= slot.take_refill();
        }
        if !(busy || due || self.handler.is_ready()) {
            return false;
        }
        let mut cx = Cx::new(&mut self.queues, &mut self.rig, &mut self.warnings);
        self.handler.work(&mut cx) | due
    }

    fn rests(&mut self) -> bool {
        let mut cx = Cx::new(&mut self.queues, &mut self.rig, &mut self.warnings);
        let rests = self.handler.rest(&mut cx);
        self.publish();
        self.woken = !rests;
        // What it asked for may be there already.
        rests && !self.queues.iter().any(Slot::has_work) && !self.rig.is_due()
    }

    fn publish(&mut self) {
        for slot in self.queues.iter_mut() {
            slot.queue.publish();
            if slot.is_call_due(|| self.rig.now)
                && slot.queue.call_needed()
                && let Some(ring) = self.rings.get_mut(usize::from(slot.queue.id().0))
            {
                ring.calls += 1;
            }
        }
    }

    /// Runs, until all that was lent has come home.
    ///
    /// # Panics
    /// If something does not come home within a minute.
    pub fn run_until_home(&mut self) {
        self.run();
        while self.rig.await_parcel() {
            self.run();
        }
    }

    /// Hands what is available to the handler, and no more: host operations have not finished yet.
    pub fn begin(&mut self) {
        self.take_requests();
    }

    /// Moves the clock on, and runs.
    pub fn pass(&mut self, time: Duration) {
        self.rig.now += time;
        self.run();
    }

    /// The next request that a queue's device answered.
    ///
    /// # Panics
    /// If the device returned something that it did not have.
    pub fn receive(&mut self, queue: QueueId) -> Option<Answer> {
        let ring = self.ring(queue);
        let (token, len) = ring.driver.poll_used().expect("the device keeps to the ring's rules")?;
        let buffers = ring.writable.remove(&token).unwrap_or_default();
        let outputs = buffers.into_iter().map(|buffer| {
            let mut bytes = vec![0; buffer.len as usize];
            self.memory.read_into(buffer.gpa, &mut bytes).expect("the buffer was in memory");
            bytes
        });
        Some(Answer { token, outputs: outputs.collect(), len })
    }

    /// Requests of a queue that were sent and not received.
    pub fn outstanding(&mut self, queue: QueueId) -> u32 {
        self.ring(queue).driver.outstanding()
    }

    /// How often a queue's driver was called, as it wanted to be.
    pub fn calls(&mut self, queue: QueueId) -> u64 {
        self.ring(queue).calls
    }

    /// What stopped a queue.
    #[must_use]
    pub fn fault(&self, queue: QueueId) -> Option<&RingError> {
        self.queues.iter().find(|slot| slot.queue.id() == queue)?.queue.fault()
    }

    /// The `nth` host operation from now, counted from 0, comes to grief.
    pub fn inject(&mut self, nth: usize, fault: Fault) {
        self.rig.faults.insert(self.rig.operations.len() + nth, fault);
    }

    /// Host operations finish last come, first served, from now on; or in order again.
    pub fn reverse(&mut self, on: bool) {
        self.rig.reversed = on;
    }

    /// The host operations so far.
    #[must_use]
    pub fn operations(&self) -> &[HostOp] {
        &self.rig.operations
    }

    /// How often the driver was told that the configuration space changed.
    #[must_use]
    pub fn config_changes(&self) -> u32 {
        self.rig.config_changes
    }

    /// The handler.
    pub fn handler(&mut self) -> &mut H {
        &mut self.handler
    }

    fn ring(&mut self, queue: QueueId) -> &mut Ring {
        self.rings.get_mut(usize::from(queue.0)).expect("the bench has that queue")
    }

    fn take_requests(&mut self) -> bool {
        let mut busy = false;
        for index in 0..self.rings.len() {
            let id = QueueId(index as u16);
            let mut front = [0; MOST_GLANCED];
            loop {
                let mut cx = Cx::new(&mut self.queues, &mut self.rig, &mut self.warnings);
                match cx.next(&mut *self.handler, id, &mut front) {
                    Next::Nothing => break,
                    Next::Served => busy = true,
                    Next::Chain(chain) => {
                        busy = true;
                        if self.handler.request(chain, &mut cx) == crate::Flow::Wait {
                            break;
                        }
                    }
                }
            }
        }
        busy
    }

    fn finish_operations(&mut self) -> bool {
        let mut busy = false;
        while let Some((chain, op, result)) = self.rig.finished() {
            busy = true;
            let mut cx = Cx::new(&mut self.queues, &mut self.rig, &mut self.warnings);
            let _ = self.handler.finished(chain, op, result, &mut cx);
        }
        while let Some(returned) = self.rig.lent.returned() {
            busy = true;
            let mut cx = Cx::new(&mut self.queues, &mut self.rig, &mut self.warnings);
            let chains = cx.welcome(&mut *self.handler, returned);
            self.rig.lent.reuse(chains);
        }
        busy
    }

    fn raise_events(&mut self) -> bool {
        let sources = self.rig.take_due();
        for &source in &sources {
            let mut cx = Cx::new(&mut self.queues, &mut self.rig, &mut self.warnings);
            self.handler.event(source, &mut cx);
        }
        if sources.is_empty() {
            return false;
        }
        for slot in self.queues.iter_mut() {
            slot.waiting = false;
        }
        true
    }
}

impl<H: Handler> Drop for Bench<H> {
    fn drop(&mut self) {
        for (chain, ..) in self.rig.done.drain(..) {
            chain.abandon();
        }
    }
}

/// The host.
struct Rig<Op> {
    files: Vec<OwnedFd>,
    done: VecDeque<(Chain, Op, io::Result<u32>)>,
    operations: Vec<HostOp>,
    faults: BTreeMap<usize, Fault>,
    reversed: bool,
    deferred: Deferred<Op>,
    lent: Lent,
    waker: Waker,
    /// Hears of each ticket and parcel that comes back.
    tickets: Receiver<()>,
    watched: Vec<Watched>,
    timers: Vec<(Instant, SourceId)>,
    now: Instant,
    config_changes: u32,
}

/// A descriptor that is reported when it is readable.
struct Watched {
    source: SourceId,
    fd: OwnedFd,
    watching: Watching,
    armed: bool,
}

impl Watched {
    fn is_due(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.armed
            && poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready == 1)
    }
}

impl<Op> Rig<Op> {
    fn new() -> Self {
        let (returned, tickets) = mpsc::channel();
        // Nobody listens any more when the bench is gone.
        let waker = Waker::new(move || {
            let _ = returned.send(());
        });
        waker.sleep();
        Self {
            files: Vec::new(),
            done: VecDeque::new(),
            operations: Vec::new(),
            faults: BTreeMap::new(),
            reversed: false,
            deferred: Deferred::new(waker.clone()),
            lent: Lent::new(waker.clone()),
            waker,
            tickets,
            watched: Vec::new(),
            timers: Vec::new(),
            now: Instant::now(),
            config_changes: 0,
        }
    }

    /// What the handler has asked for is void: another one comes.
    fn forget_handler(&mut self) {
        self.files.clear();
        self.watched.clear();
        self.timers.clear();
    }

    fn finished(&mut self) -> Option<(Chain, Op, io::Result<u32>)> {
        let done = if self.reversed { self.done.pop_back() } else { self.done.pop_front() };
        done.or_else(|| self.deferred.finished())
    }

    /// Waits for a ticket, if one is out.
    fn await_ticket(&mut self) -> bool {
        if self.deferred.pending() == 0 {
            return false;
        }
        if !self.deferred.is_ready() {
            self.tickets.recv_timeout(PATIENCE).expect("the ticket of a deferred request comes back");
        }
        true
    }

    /// Waits for a parcel, if one is out.
    fn await_parcel(&mut self) -> bool {
        let is_out = self.lent.pending() > 0;
        while is_out && !self.lent.is_ready() {
            self.tickets.recv_timeout(PATIENCE).expect("what was lent comes home");
        }
        is_out
    }

    /// Whether there is an event.
    fn is_due(&self) -> bool {
        self.watched.iter().any(Watched::is_due) || self.timers.iter().any(|(at, _)| *at <= self.now)
    }

    /// Watched descriptors that are readable, and timers that ran out.
    fn take_due(&mut self) -> Vec<SourceId> {
        let mut due = Vec::new();
        for watched in self.watched.iter_mut().filter(|watched| watched.is_due()) {
            watched.armed = watched.watching == Watching::Always;
            due.push(watched.source);
        }
        self.timers.retain(|(at, source)| {
            let over = *at <= self.now;
            if over {
                due.push(*source);
            }
            !over
        });
        due
    }
}

impl<Op> Port<Op> for Rig<Op> {
    fn submit(&mut self, host: HostOp, chain: Chain, op: Op) {
        let fault = self.faults.remove(&self.operations.len());
        self.operations.push(host);
        let result = match (self.files.get(usize::from(host.file().0)), fault) {
            (None, _) => Err(io::ErrorKind::NotFound.into()),
            (Some(_), Some(Fault::Errno(errno))) => Err(io::Error::from_raw_os_error(errno)),
            (Some(file), Some(Fault::Short(limit))) => {
                host_io::execute_in_part(&host, file.as_fd(), &chain, limit)
            }
            (Some(file), None) => host_io::execute(&host, file.as_fd(), &chain),
        };
        self.done.push_back((chain, op, result));
    }

    fn defer(&mut self, chain: Chain, op: Op) -> Ticket {
        self.deferred.defer(chain, op)
    }

    fn lend(&mut self, chains: &mut Vec<Chain>) -> Parcel {
        self.lent.lend(chains)
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn adopt(&mut self, file: OwnedFd) -> io::Result<FileId> {
        let id = FileId(u16::try_from(self.files.len()).map_err(io::Error::other)?);
        self.files.push(file);
        Ok(id)
    }

    fn watch(&mut self, fd: BorrowedFd<'_>, source: SourceId, watching: Watching) -> io::Result<()> {
        let fd = fd.try_clone_to_owned()?;
        self.unwatch(source);
        self.watched.push(Watched { source, fd, watching, armed: true });
        Ok(())
    }

    fn rearm(&mut self, source: SourceId) {
        self.watched
            .iter_mut()
            .filter(|watched| watched.source == source)
            .for_each(|watched| watched.armed = true);
    }

    fn unwatch(&mut self, source: SourceId) {
        self.watched.retain(|watched| watched.source != source);
    }

    fn after(&mut self, delay: Duration, source: SourceId) {
        self.timers.retain(|(_, other)| *other != source);
        self.timers.push((self.now + delay, source));
    }

    fn config_changed(&mut self) {
        self.config_changes += 1;
    }

    fn now(&self) -> Instant {
        self.now
    }
}

/// Guest memory without gaps for the guest, in two pieces for us: the second begins a page behind the rings, so that
/// longer requests lie across the border.
fn memory(rings: u64, buffers: u64) -> MemoryMap {
    let border = rings + 4096.min(buffers);
    let pieces = [(0, border), (border, rings + buffers - border)];
    let table = pieces.into_iter().filter(|(_, size)| *size > 0).map(|(start, size)| {
        let region = Region { gpa: GUEST_START + start, size, user_addr: USER_START + start, mmap_offset: 0 };
        (region, memfd("bench", size).expect("memory for the guest"))
    });
    MemoryMap::from_table(table.collect()).expect("the table is sound")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeviceError, Durability, Flow};

    const FORMATS: [Format; 2] = [Format::Split, Format::Packed];

    /// The first byte says what to do; the second is the place in the file.
    struct Remote {
        file: Option<OwnedFd>,
        id: FileId,
        seen: Vec<SourceId>,
    }

    impl Handler for Remote {
        type Op = ();

        fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
            let file = self.file.take().unwrap();
            cx.watch(
                rustix::event::eventfd(1, rustix::event::EventfdFlags::empty()).unwrap().as_fd(),
                SourceId(9),
            )
            .unwrap();
            self.id = cx.adopt(file).map_err(|error| DeviceError::host("adopt", error))?;
            Ok(())
        }

        fn request(&mut self, mut chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
            let [what, place]: [u8; 2] = chain.read_obj().unwrap();
            let (file, offset) = (self.id, u64::from(place));
            match what {
                b'r' => cx.submit(chain, HostOp::ReadAt { file, offset }, ()),
                b'w' => cx.submit(
                    chain,
                    HostOp::WriteAt { file, offset, durability: Durability::Synchronous },
                    (),
                ),
                b'z' => cx.submit(
                    chain,
                    HostOp::WriteZeroes { file, offset, len: 100, durability: Durability::Cached },
                    (),
                ),
                b's' => cx.submit(chain, HostOp::Sync { file }, ()),
                b'x' => cx.submit(chain, HostOp::Sync { file: FileId(77) }, ()),
                b'd' if self.seen.is_empty() => cx.wait_for(chain, Duration::from_secs(3600)),
                _ => cx.done(chain),
            }
        }

        fn finished(
            &mut self,
            mut chain: Chain,
            (): (),
            result: io::Result<u32>,
            cx: &mut Cx<'_, ()>,
        ) -> Flow {
            match result {
                Ok(count) => chain.advance_writable(count as usize),
                Err(error) => {
                    chain.write_all(&error.raw_os_error().unwrap_or(0).to_le_bytes()).unwrap();
                }
            }
            cx.done(chain)
        }

        fn event(&mut self, source: SourceId, cx: &mut Cx<'_, ()>) {
            self.seen.push(source);
            cx.unwatch(source);
            cx.config_changed();
        }
    }

    fn remote(text: &[u8], setup: &Setup) -> (Bench<Remote>, OwnedFd) {
        let file = memfd("file", 0).unwrap();
        rustix::io::pwrite(&file, text, 0).unwrap();
        let handler = Remote { file: Some(file.try_clone().unwrap()), id: FileId(0), seen: Vec::new() };
        (Bench::with(handler, setup), file)
    }

    #[test]
    fn operations_reach_the_file_and_the_guest() {
        for format in FORMATS {
            let (mut bench, file) = remote(b"0123456789", &Setup::new(format));
            assert_eq!(
                bench.request(&[b"r", b"\x02"], &[3, 4]),
                (vec![b"234".to_vec(), b"5678".to_vec()], 7)
            );
            assert_eq!(bench.request(&[b"w\x04ab", b"cd"], &[1]), (vec![vec![UNTOUCHED]], 1));
            assert_eq!(bench.request(&[b"s\0"], &[1]).1, 0);
            assert_eq!(bench.request(&[b"z\x08"], &[100]).1, 100);
            let mut text = [0xff; 12];
            rustix::io::pread(&file, &mut text, 0).unwrap();
            assert_eq!(&text, b"0123abcd\0\0\0\0");
            assert_eq!(bench.operations().len(), 4);
        }
    }

    #[test]
    fn faults_injected_hit_the_operation_they_are_meant_for() {
        for format in FORMATS {
            let (mut bench, _file) = remote(b"0123456789", &Setup::new(format));
            bench.inject(1, Fault::Errno(libc::EIO));
            bench.inject(2, Fault::Short(2));
            assert_eq!(bench.request(&[b"r\0"], &[4]).1, 4);
            assert_eq!(bench.request(&[b"r\0"], &[4]).0, [libc::EIO.to_le_bytes()]);
            assert_eq!(bench.request(&[b"r\0"], &[1, 9]).1, 2);
            assert_eq!(bench.request(&[b"x\0"], &[4]).0, [[0; 4]], "a file that was not adopted");
        }
    }

    #[test]
    fn clock_moves_only_when_told() {
        for format in FORMATS {
            let (mut bench, _file) = remote(b"", &Setup::new(format));
            bench.handler().seen.clear();
            bench.run();
            assert_eq!(bench.handler().seen, [SourceId(9)], "watched, and readable at once");
            bench.handler().seen.clear();
            bench.send(QueueId(0), &[b"d\0"], &[]);
            bench.run();
            bench.pass(Duration::from_secs(3599));
            assert_eq!(bench.receive(QueueId(0)), None);
            bench.pass(Duration::from_secs(1));
            assert_eq!(bench.receive(QueueId(0)).unwrap().len, 0);
            assert_eq!(bench.config_changes(), 2);
        }
    }

    #[test]
    fn queues_are_independent_and_operations_may_finish_in_reverse() {
        for format in FORMATS {
            let setup = Setup { queues: 3, indirect: true, event_idx: true, ..Setup::new(format) };
            let (mut bench, _file) = remote(b"0123456789", &setup);
            bench.reverse(true);
            let first = bench.send(QueueId(2), &[b"r\0"], &[1]);
            let second = bench.send(QueueId(2), &[b"r", b"\x01"], &[1, 1]);
            bench.run();
            assert_eq!(bench.outstanding(QueueId(2)), 2);
            let answers = [bench.receive(QueueId(2)).unwrap(), bench.receive(QueueId(2)).unwrap()];
            assert_eq!(answers.map(|answer| answer.token), [second, first]);
            assert_eq!(bench.receive(QueueId(0)), None);
        }
    }

    #[test]
    fn chain_that_is_none_stops_its_queue() {
        for format in FORMATS {
            let (mut bench, _file) = remote(b"", &Setup::new(format));
            bench.send_raw(QueueId(0), &[Descriptor { addr: 0, len: 16, flags: 0, link: 0 }]);
            bench.run();
            assert!(bench.fault(QueueId(0)).is_some());
            assert_eq!(bench.receive(QueueId(0)), None);
        }
    }

    #[test]
    fn buffers_across_the_border_of_two_mappings_are_whole() {
        for format in FORMATS {
            let text: Vec<u8> = (0..9000_u32).map(|i| (i % 251) as u8).collect();
            let (mut bench, _file) = remote(&text, &Setup::new(format));
            assert_eq!(bench.request(&[b"r\0"], &[9000]), (vec![text], 9000));
        }
    }

    #[test]
    fn handler_that_follows_another_goes_on_where_that_was_or_begins_anew() {
        for format in FORMATS {
            let (mut bench, file) = remote(b"0123456789", &Setup::new(format));
            let file = file.as_fd().try_clone_to_owned().unwrap();
            let next = || Remote { file: Some(file.try_clone().unwrap()), id: FileId(0), seen: Vec::new() };
            bench.send(QueueId(0), &[b"d\0"], &[]);
            bench.run();
            bench.send(QueueId(0), &[b"r\0"], &[2]);
            bench.handler().seen.push(SourceId(1));
            bench.restart(false, next);
            bench.handler().seen.push(SourceId(1));
            bench.run();
            let answers = [bench.receive(QueueId(0)).unwrap(), bench.receive(QueueId(0)).unwrap()];
            assert_eq!(answers.map(|answer| answer.len), [0, 2]);
            bench.send(QueueId(0), &[b"r\0"], &[2]);
            bench.restart(true, next);
            assert_eq!((bench.outstanding(QueueId(0)), bench.receive(QueueId(0))), (0, None));
            assert_eq!(bench.request(&[b"r\x03"], &[2]).0, [b"34"]);
        }
    }
}
