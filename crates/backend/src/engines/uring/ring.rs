#![allow(unsafe_code)] // `push` and `enter` of the io-uring crate are unsafe: this file is their only caller
//! A ring: how it is made, entered and taken from, and the guest memory that is registered with it.
//!
//! Its descriptor is registered with the thread that made it, which saves the kernel the look-up in a table that
//! other threads share, at each call. So a ring stays with its thread.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    ptr::NonNull,
};

use io_uring::{IoUring, Submitter, squeue, types};
use outboard_guest_memory::MemoryMap;

use super::entry::Registered;
use crate::engines::Sleep;

const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 2048;
/// How many files can be registered.
pub(super) const FILES: u32 = 64;
/// How long the kernel's submission thread stays awake without work, in milliseconds.
const SQPOLL_IDLE: u32 = 50;
/// `IORING_ENTER_GETEVENTS`.
const GETEVENTS: u32 = 1;

/// Who submits, and who finds out what has completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The thread submits; interrupts complete, when the thread enters the ring.
    Plain,
    /// As such, but whenever the thread is in the kernel: one that sleeps elsewhere is woken for it, and the ring's
    /// descriptor becomes readable.
    Crewed,
    /// A thread of the kernel submits.
    SubmissionThread,
    /// The thread submits, and completes by looking: reads and writes past the page cache only.
    Polled,
}

pub(super) struct Ring {
    /// Made by `Box`, and only shared until it is given back.
    ring: NonNull<IoUring>,
    /// Of `ring`.
    submitter: Submitter<'static>,
    pub(super) registered: Registered,
}

impl Ring {
    /// Must be called on the thread that will use the ring.
    ///
    /// # Errors
    /// The kernel refuses, or has no such rings.
    pub(super) fn new(kind: Kind) -> io::Result<Self> {
        let ring = NonNull::from(Box::leak(Box::new(build(kind)?)));
        // SAFETY: it lives until `drop`, which is the last to use the reference, and nothing changes it before.
        let mut submitter = unsafe { ring.as_ref() }.submitter();
        if let Err(error) = submitter.register_ring_fd() {
            tracing::debug!("io_uring: the ring's descriptor is not registered: {error}");
        }
        let ring = Self { ring, submitter, registered: Registered::default() };
        ring.submitter.register_files_sparse(FILES)?;
        Ok(ring)
    }

    fn ring(&self) -> &IoUring {
        // SAFETY: it lives until `drop`, and there is no other kind of reference.
        unsafe { self.ring.as_ref() }
    }

    fn submission(&self) -> squeue::SubmissionQueue<'_> {
        // SAFETY: private to this file, where none is kept.
        unsafe { self.ring().submission_shared() }
    }

    /// Queues entries that belong together. False if there is no room.
    ///
    /// # Safety
    /// What the entries point to must stay valid and unmoved until their completions have arrived.
    pub(super) unsafe fn push(&mut self, entries: &[squeue::Entry]) -> bool {
        // SAFETY: the caller answers for what the entries point to.
        unsafe { self.submission().push_multiple(entries) }.is_ok()
    }

    /// Whether entries wait to be taken by the kernel.
    pub(super) fn has_queued(&self) -> bool {
        !self.submission().is_empty()
    }

    /// Whether entering the kernel would bring anything on its way.
    pub(super) fn needs_entering(&self) -> bool {
        let submission = self.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// Whether something has completed, or would by entering the kernel.
    pub(super) fn has_completed(&mut self) -> bool {
        // SAFETY: exclusive for this call.
        !unsafe { self.ring().completion_shared() }.is_empty() || self.submission().taskrun()
    }

    /// The next completion: user data and result.
    pub(super) fn completion(&mut self) -> Option<(u64, i32)> {
        // SAFETY: exclusive for this call.
        let entry = unsafe { self.ring().completion_shared() }.next()?;
        Some((entry.user_data(), entry.result()))
    }

    /// One `io_uring_enter`: submits, runs deferred work, looks once where completions have to be looked for, and
    /// sleeps as told.
    pub(super) fn enter(&self, sleep: Sleep) -> io::Result<()> {
        let submitter = &self.submitter;
        let entered = match sleep {
            Sleep::No if self.ring().params().is_setup_sqpoll() => submitter.submit(),
            // SAFETY: no argument is passed. GETEVENTS makes the kernel run deferred completions.
            Sleep::No => unsafe {
                let queued = u32::try_from(self.submission().len()).unwrap_or(u32::MAX);
                submitter.enter::<()>(queued, 0, GETEVENTS, None)
            },
            Sleep::Forever => submitter.submit_and_wait(1),
            Sleep::For(longest) => {
                let timeout = types::Timespec::from(longest);
                submitter.submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Registers a file under a number below [`FILES`].
    pub(super) fn register_file(&self, at: u32, file: RawFd) -> io::Result<()> {
        self.submitter.register_files_update(at, &[file]).map(drop)
    }

    /// Registers all of guest memory instead of what was registered before. Nothing may be queued that names it.
    pub(super) fn register_memory(&mut self, memory: &MemoryMap) {
        if let Err(error) = self.registered.replace(&self.submitter, memory) {
            tracing::warn!("io_uring: guest memory is not registered: {error}");
        }
    }
}

impl AsFd for Ring {
    /// Readable as long as something has completed and was not taken.
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the ring, which is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring().as_raw_fd()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // In vain if it was not registered.
        let _ = self.submitter.unregister_ring_fd();
        // SAFETY: `new` took it from a `Box`; the submitter is not used again.
        drop(unsafe { Box::from_raw(self.ring.as_ptr()) });
    }
}

/// Makes a ring with the best flags that the kernel has.
fn build(kind: Kind) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_cqsize(COMPLETIONS).setup_clamp().setup_submit_all();
    match kind {
        Kind::Plain | Kind::Crewed => {}
        Kind::SubmissionThread => {
            builder.setup_sqpoll(SQPOLL_IDLE);
            return builder.build(SUBMISSIONS);
        }
        Kind::Polled => {
            builder.setup_iopoll();
        }
    }
    let plain = builder.clone();
    builder.setup_single_issuer().setup_taskrun_flag();
    if kind == Kind::Crewed {
        builder.setup_coop_taskrun();
    } else {
        builder.setup_defer_taskrun();
    }
    let direct = builder.clone().setup_no_sqarray().build(SUBMISSIONS);
    direct.or_else(|_| builder.build(SUBMISSIONS)).or_else(|_| plain.build(SUBMISSIONS))
}

/// Whether the kernel lets this process use io_uring in the way that the engine does.
///
/// # Errors
/// Why not: forbidden (a container's filter), missing, or too old.
pub(crate) fn probe() -> io::Result<()> {
    use io_uring::opcode;
    let ring = build(Kind::Plain)?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Readv::CODE,
        opcode::Writev::CODE,
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
        opcode::PollAdd::CODE,
        opcode::AsyncCancel::CODE,
    ];
    let usable = needed.iter().all(|code| probe.is_supported(*code)) && ring.params().is_feature_ext_arg();
    if usable {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's io_uring is too old"))
    }
}
