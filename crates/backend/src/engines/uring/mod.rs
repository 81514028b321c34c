#![allow(unsafe_code)] // answers for what the entries of the rings point to
//! The io_uring engine: a ring per worker; one `io_uring_enter` submits a batch, collects and sleeps. A second ring
//! serves disks that are polled, see `polled`.
//!
//! Theory of operation. What the kernel is given stays put until its completion arrives. A submitted chain sits in
//! a slot of `ops`, so its boxed iovecs and, through its snapshot, the guest memory under them stay mapped. Kick
//! counters are read into boxed buffers by a poll and a linked read: the poll waits, since a read of a non-blocking
//! eventfd would not; the read empties it in the same submission. A watch that ends is cancelled, and its slot is
//! reused only when its last completion has arrived. Dropping the engine waits for everything in the kernel.
//!
//! The completion's user data is `kind << 32 | slot`. Files are registered, so an operation takes no reference.

mod entry;
mod polled;
mod ring;

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use io_uring::{opcode, squeue, types};
use outboard_device::{Chain, FileId, HostOp, QueueId, SourceId, Watching, host_io};
use outboard_guest_memory::MemoryMap;
use rustix::fs::FileType;

pub(crate) use self::ring::probe;
use self::{
    entry::entry,
    polled::{Polled, is_transfer},
    ring::{FILES, Kind, Ring},
};
use super::{Completion, Engine, Host, Sleep};
use crate::{Notice, counters::Counters};

const OP: u64 = 1;
const WATCH: u64 = 2;
const POLL: u64 = 3;
const IGNORED: u64 = 4;

fn user_data(kind: u64, slot: usize) -> u64 {
    kind << 32 | slot as u64
}

fn slot_of(user_data: u64) -> usize {
    usize::try_from(user_data & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UringOptions {
    pub(crate) sqpoll: bool,
    pub(crate) register_memory: bool,
    pub(crate) iopoll: bool,
    /// The thread sleeps somewhere else, on the [bell](Engine::bell) among others.
    pub(crate) crewed: bool,
    /// Not to say what another thread of the device says already.
    pub(crate) quiet: bool,
}

/// What a watched descriptor stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Wake,
    Kick(QueueId),
    Source(SourceId),
}

enum Arm {
    /// Nothing in the kernel; to be armed at the next turn.
    Due,
    /// In the kernel.
    Armed,
    /// Reported, and not to be watched before somebody asks for it.
    Idle,
    /// The other side is gone: never again.
    Over,
    /// To be forgotten when the completion of what is in the kernel arrives.
    Ending,
}

struct Watch {
    token: Token,
    fd: OwnedFd,
    watching: Watching,
    /// Where the kernel puts the counter of a kick: a heap cell that only the kernel writes and nobody reads.
    count: Box<[u8; 8]>,
    arm: Arm,
    /// Of the ring that is kicked.
    counters: Option<Arc<Counters>>,
}

struct File {
    fd: OwnedFd,
    /// The file is in memory: a system call per request beats the ring, which would use kernel threads.
    in_memory: bool,
    /// Its transfers go to the ring that is polled.
    polled: bool,
}

/// Block devices are elsewhere, though their nodes in `/dev` are in such a file system.
fn is_in_memory(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        && rustix::fs::fstatfs(file).is_ok_and(|fs| fs.f_type == libc::TMPFS_MAGIC)
}

pub(crate) struct UringEngine<Op> {
    ring: Ring,
    polled: Option<Polled>,
    wake: Notice,
    files: Vec<File>,
    ops: Vec<Option<(HostOp, Chain, Op)>>,
    free: Vec<usize>,
    watches: Vec<Option<Watch>>,
    done: VecDeque<Completion<Op>>,
    readable: VecDeque<SourceId>,
    in_kernel: usize,
    due: bool,
    options: UringOptions,
}

impl<Op> UringEngine<Op> {
    /// Must be called on the thread that will use the engine.
    pub(crate) fn new(wake: &Notice, options: UringOptions) -> io::Result<Self> {
        let ring = Ring::new(match options {
            UringOptions { sqpoll: true, .. } => Kind::SubmissionThread,
            UringOptions { crewed: true, .. } => Kind::Crewed,
            _ => Kind::Plain,
        })?;
        let polled = options.iopoll.then(Polled::new).and_then(|polled| {
            polled.inspect_err(|error| tracing::warn!("io_uring: disks cannot be polled: {error}")).ok()
        });
        let mut engine = Self {
            ring,
            polled,
            wake: wake.clone(),
            files: Vec::new(),
            ops: Vec::new(),
            free: Vec::new(),
            watches: Vec::new(),
            done: VecDeque::new(),
            readable: VecDeque::new(),
            in_kernel: 0,
            due: false,
            options,
        };
        engine.add(Token::Wake, wake.as_fd().try_clone_to_owned()?, Watching::Always, None);
        Ok(engine)
    }

    fn add(&mut self, token: Token, fd: OwnedFd, watching: Watching, counters: Option<Arc<Counters>>) {
        let watch = Watch { token, fd, watching, count: Box::new([0; 8]), arm: Arm::Due, counters };
        match self.watches.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(watch),
            None => self.watches.push(Some(watch)),
        }
        self.due = true;
    }

    fn is_polled(&self, host: &HostOp) -> bool {
        is_transfer(host) && self.files.get(usize::from(host.file().0)).is_some_and(|file| file.polled)
    }

    /// The ring that is polled, or the ordinary one.
    fn ring_of(&mut self, polled: bool) -> &mut Ring {
        match &mut self.polled {
            Some(other) if polled => &mut other.ring,
            _ => &mut self.ring,
        }
    }

    /// Ends a watch, and returns when the kernel no longer looks at its descriptor.
    fn remove(&mut self, token: Token) {
        let found = self.watches.iter_mut().enumerate().find_map(|(at, slot)| match slot {
            Some(watch) if watch.token == token && !matches!(watch.arm, Arm::Ending) => Some((at, slot)),
            _ => None,
        });
        let Some((at, slot)) = found else { return };
        match slot {
            Some(watch) if matches!(watch.arm, Arm::Armed) => watch.arm = Arm::Ending,
            _ => {
                *slot = None;
                return;
            }
        }
        // Asked for again until it is done: between the poll and the read behind it there is nothing to cancel, and
        // that read then waits, if `take` has emptied the descriptor first.
        while self.watches.get(at).is_some_and(Option::is_some) {
            for kind in [POLL, WATCH] {
                let cancel = opcode::AsyncCancel::new(user_data(kind, at)).build();
                // SAFETY: a cancellation refers to no memory.
                unsafe { self.push(false, &[cancel.user_data(user_data(IGNORED, 0))]) };
            }
            if let Err(error) = self.ring.enter(Sleep::Forever) {
                tracing::error!("io_uring: cannot cancel a watch: {error}");
                return;
            }
            self.collect();
        }
    }

    /// Queues entries that belong together, in the ring that is polled or the ordinary one, making room first.
    ///
    /// # Safety
    /// What the entries point to must stay valid and unmoved until their completions have arrived.
    unsafe fn push(&mut self, polled: bool, entries: &[squeue::Entry]) {
        loop {
            // SAFETY: the caller answers for what the entries point to.
            if unsafe { self.ring_of(polled).push(entries) } {
                return;
            }
            self.make_room();
        }
    }

    /// Has the kernel take what is queued, or a part of it.
    fn make_room(&mut self) {
        if let Err(error) = self.enter(Sleep::No) {
            // The kernel is short of something. Whoever calls this tries until it goes on.
            tracing::debug!("io_uring_enter: {error}");
            std::thread::yield_now();
        }
        // Some kernels take nothing while completions wait that the completion ring had no room for.
        self.collect();
    }

    /// Enters the kernel for each ring that needs it, and sleeps as told unless something has to be looked for.
    fn enter(&self, sleep: Sleep) -> io::Result<()> {
        let sleep = if self.must_look() { Sleep::No } else { sleep };
        let looked = match &self.polled {
            Some(polled) if polled.out > 0 => polled.ring.enter(Sleep::No),
            _ => Ok(()),
        };
        if sleep != Sleep::No || self.ring.needs_entering() {
            self.ring.enter(sleep)?;
        }
        looked
    }

    fn arm_watches(&mut self) {
        self.due = false;
        for at in 0..self.watches.len() {
            let Some(Some(watch)) = self.watches.get_mut(at) else { continue };
            if !matches!(watch.arm, Arm::Due) {
                continue;
            }
            watch.arm = Arm::Armed;
            let fd = types::Fd(watch.fd.as_raw_fd());
            let poll = opcode::PollAdd::new(fd, libc::POLLIN.cast_unsigned().into()).build();
            // SAFETY: a poll refers to no memory. The descriptor outlives it: a watch in the kernel is forgotten
            // only by `collect`, at its completion.
            match watch.token {
                // SAFETY: as above.
                Token::Source(_) => unsafe { self.push(false, &[poll.user_data(user_data(WATCH, at))]) },
                Token::Wake | Token::Kick(_) => {
                    let read = opcode::Read::new(fd, watch.count.as_mut_ptr(), 8).offset(u64::MAX).build();
                    let poll = poll.flags(squeue::Flags::IO_LINK).user_data(user_data(POLL, at));
                    // SAFETY: as above; the read goes to a boxed cell that the watch owns.
                    unsafe { self.push(false, &[poll, read.user_data(user_data(WATCH, at))]) };
                }
            }
        }
    }

    /// Takes all completions off the rings.
    fn collect(&mut self) {
        while let Some((user_data, result)) = self.ring.completion() {
            match user_data >> 32 {
                OP => self.op_ended(slot_of(user_data), result),
                WATCH => self.watch_ended(slot_of(user_data), result),
                _ => {}
            }
        }
        while let Some((user_data, result)) = self.polled.as_mut().and_then(Polled::completion) {
            let slot = slot_of(user_data);
            if result == -libc::EOPNOTSUPP {
                self.stop_polling(slot);
                self.try_again(slot);
            } else {
                self.op_ended(slot, result);
            }
        }
    }

    /// The kernel does not poll for an operation: all of its file go to the ordinary ring.
    fn stop_polling(&mut self, slot: usize) {
        let Some(Some((host, ..))) = self.ops.get(slot) else { return };
        let Some(file) = self.files.get_mut(usize::from(host.file().0)) else { return };
        if std::mem::take(&mut file.polled) && !self.options.quiet {
            tracing::warn!(
                "io_uring: a disk has queues to be polled, but is not: its interrupts serve instead"
            );
        }
    }

    fn op_ended(&mut self, slot: usize, result: i32) {
        // Not the file's error but the kernel's wish to be asked again, which system calls hide: nothing was done.
        if matches!(-result, libc::EINTR | libc::EAGAIN) {
            return self.try_again(slot);
        }
        let Some((_, chain, op)) = self.leave(slot) else { return };
        let result = u32::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        self.done.push_back(Completion { chain, op, result });
    }

    fn try_again(&mut self, slot: usize) {
        if let Some((host, chain, op)) = self.leave(slot) {
            self.submit(host, chain, op);
        }
    }

    /// What the kernel is done with.
    fn leave(&mut self, slot: usize) -> Option<(HostOp, Chain, Op)> {
        let left = self.ops.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.in_kernel -= 1;
        Some(left)
    }

    /// The last completion of a watch: of the poll for a source, of the read behind the poll otherwise.
    fn watch_ended(&mut self, slot: usize, result: i32) {
        let Some(place) = self.watches.get_mut(slot) else { return };
        let Some(watch) = place else { return };
        if matches!(watch.arm, Arm::Ending) {
            *place = None;
            return;
        }
        if let Token::Source(source) = watch.token {
            self.readable.push_back(source);
        }
        if let Some(counters) = watch.counters.as_ref().filter(|_| result > 0) {
            counters.kicks.add(1);
        }
        // End of file, or an error: nothing more will be said here. Emptied by somebody else: wait again.
        let over = result <= 0 && result != -libc::EAGAIN && result != -libc::EINTR;
        watch.arm = match watch.watching {
            // Whoever asks again may have better luck: the kernel may have had no memory.
            Watching::Once => Arm::Idle,
            Watching::Always if over => Arm::Over,
            Watching::Always => Arm::Due,
        };
        self.due |= matches!(watch.arm, Arm::Due);
    }
}

impl<Op> Host<Op> for UringEngine<Op> {
    fn submit(&mut self, host: HostOp, chain: Chain, op: Op) {
        let known = usize::from(host.file().0) < self.files.len();
        let over =
            if known { self.at_once(&host, &chain) } else { Some(Err(io::ErrorKind::NotFound.into())) };
        if let Some(result) = over {
            return self.done.push_back(Completion { chain, op, result });
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.ops.push(None);
            self.ops.len() - 1
        });
        let polled = self.is_polled(&host);
        let entry = match entry(&host, &chain, &self.ring_of(polled).registered) {
            Ok(entry) => entry.user_data(user_data(OP, slot)),
            Err(error) => {
                self.free.push(slot);
                return self.done.push_back(Completion { chain, op, result: Err(error) });
            }
        };
        // The iovecs are on the chain's heap: moving the chain into its slot moves neither them nor what they name.
        if let Some(place) = self.ops.get_mut(slot) {
            *place = Some((host, chain, op));
        }
        self.in_kernel += 1;
        // SAFETY: the chain, its iovecs and its memory snapshot stay in `ops` until `leave`.
        unsafe { self.push(polled, &[entry]) };
        if let Some(other) = self.polled.as_mut().filter(|_| polled) {
            other.out += 1;
        }
    }

    fn at_once(&self, host: &HostOp, chain: &Chain) -> Option<io::Result<u32>> {
        let file = self.files.get(usize::from(host.file().0)).filter(|file| file.in_memory)?;
        matches!(host, HostOp::ReadAt { .. } | HostOp::WriteAt { .. })
            .then(|| host_io::execute(host, file.fd.as_fd(), chain))
    }

    fn adopt(&mut self, file: OwnedFd) -> io::Result<FileId> {
        let at = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        if at >= FILES {
            return Err(rustix::io::Errno::MFILE.into());
        }
        self.ring.register_file(at, file.as_raw_fd())?;
        let in_memory = is_in_memory(file.as_fd());
        let polled = self.polled.as_ref().is_some_and(|polled| polled.adopt(at, file.as_fd()));
        self.files.push(File { fd: file, in_memory, polled });
        Ok(FileId(u16::try_from(at).unwrap_or(u16::MAX)))
    }

    fn watch(&mut self, fd: OwnedFd, source: SourceId, watching: Watching) -> io::Result<()> {
        self.remove(Token::Source(source));
        self.add(Token::Source(source), fd, watching, None);
        Ok(())
    }

    fn rearm(&mut self, source: SourceId) {
        let token = Token::Source(source);
        let idle = |watch: &&mut Watch| watch.token == token && matches!(watch.arm, Arm::Idle);
        if let Some(watch) = self.watches.iter_mut().flatten().find(idle) {
            watch.arm = Arm::Due;
            self.due = true;
        }
    }

    fn unwatch(&mut self, source: SourceId) {
        self.remove(Token::Source(source));
        self.readable.retain(|other| *other != source);
    }
}

impl<Op> Engine<Op> for UringEngine<Op> {
    fn watch_kick(&mut self, queue: QueueId, fd: OwnedFd, counters: Arc<Counters>) -> io::Result<()> {
        self.remove(Token::Kick(queue));
        self.add(Token::Kick(queue), fd, Watching::Always, Some(counters));
        Ok(())
    }

    fn unwatch_kick(&mut self, queue: QueueId) {
        self.remove(Token::Kick(queue));
    }

    fn unwatch_all(&mut self) {
        let tokens: Vec<_> = self.watches.iter().flatten().map(|watch| watch.token).collect();
        for token in tokens.into_iter().filter(|token| matches!(token, Token::Source(_))) {
            self.remove(token);
        }
        self.readable.clear();
    }

    fn memory(&mut self, memory: &MemoryMap) {
        if !self.options.register_memory {
            return;
        }
        // What is queued names registered buffers by their numbers: the kernel has to look them up before they change.
        // And older kernels wait for what uses them, which never ends if it has to be looked for.
        while self.ring.has_queued() || self.must_look() {
            self.make_room();
        }
        self.ring.register_memory(memory);
        if let Some(polled) = &mut self.polled {
            polled.ring.register_memory(memory);
        }
    }

    fn prepared(&mut self) {
        if self.polled.is_some() && !self.files.iter().any(|file| file.polled) {
            self.polled = None;
            if !self.options.quiet {
                tracing::warn!(
                    "io_uring: no disk is polled: none is opened past the page cache (--direct) that has queues for it \
                     (/sys/block/*/queue/io_poll)"
                );
            }
        }
    }

    fn turn(&mut self, sleep: Sleep) -> io::Result<()> {
        if self.due {
            self.arm_watches();
        }
        let sleep = if self.done.is_empty() && self.readable.is_empty() { sleep } else { Sleep::No };
        self.enter(sleep)?;
        self.collect();
        Ok(())
    }

    fn must_look(&self) -> bool {
        self.polled.as_ref().is_some_and(|polled| polled.out > 0)
    }

    fn completion(&mut self) -> Option<Completion<Op>> {
        self.done.pop_front()
    }

    fn readable(&mut self) -> Option<SourceId> {
        self.readable.pop_front()
    }

    fn ready(&mut self) -> bool {
        // What is due was kicked, or read, and is not watched before the next turn.
        !self.done.is_empty()
            || !self.readable.is_empty()
            || self.due
            || self.wake.is_given()
            || self.ring.has_completed()
    }

    /// What is watched completes.
    fn look(&mut self) -> bool {
        self.ready()
    }

    fn bell(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    fn hear(&mut self) -> io::Result<()> {
        self.turn(Sleep::No)
    }

    fn pending(&self) -> usize {
        self.in_kernel + self.done.len()
    }
}

impl<Op> Drop for UringEngine<Op> {
    /// Waits until the kernel uses nothing of ours any more.
    fn drop(&mut self) {
        let tokens: Vec<_> = self.watches.iter().flatten().map(|watch| watch.token).collect();
        for token in tokens {
            self.remove(token);
        }
        while self.in_kernel > 0 {
            if self.enter(Sleep::Forever).is_err() {
                // What the kernel may still write to must outlive the process's interest in it.
                std::mem::forget(std::mem::take(&mut self.ops));
                return;
            }
            self.collect();
        }
        if let Some(polled) = &self.polled {
            tracing::debug!(operations = polled.ended, "were polled");
        }
        for Completion { chain, .. } in self.done.drain(..) {
            chain.abandon();
        }
    }
}

#[cfg(test)]
mod tests;
