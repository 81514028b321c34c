//! Survival of a truncated memory file.
//!
//! The owner of the file behind guest memory can truncate it after we mapped it. Access to a page without file
//! behind it raises SIGBUS, which ends the process, and with it every other device that it serves. Here such a page
//! is replaced by anonymous memory, and the access continues: the guest's data is lost, by its front end's doing.
//!
//! # Theory of operation
//! Each mapping of this crate enters its address range into a fixed table. The handler looks the faulting address
//! up; when it lies in a range, it maps one anonymous page (the mapping's own page size) over the faulting one and
//! returns, so that the access is repeated. After 32 such pages (`PATCHES`) of one mapping, or when mapping one fails,
//! the whole mapping is replaced: a front end must not be able to use up the process's limit on mappings, nor to
//! make every page cost a signal. Every other SIGBUS, including a hardware memory error inside a range, goes to the
//! handler that was there before, or ends the process as it would have.
//!
//! The table is lock-free, because the handler may interrupt anything: each slot carries a state with a generation,
//! and a reader discards what it read if the state changed meanwhile. The slot that matters cannot change: the
//! faulting thread is using the mapping, hence holds it. When the table is full, a mapping works but is
//! [unguarded].
//!
//! Kernel access to such a page (`readv`, io_uring) raises nothing, it fails with EFAULT.
//!
//! The handler makes the system calls mmap, rt_sigaction and tgkill (a sandbox must let them pass).
#![allow(unsafe_code)] // signal handler, mmap over existing mappings

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

/// Mappings that can be guarded at a time: several full memory tables, old and new in force together.
const SLOTS: usize = 4096;

/// Pages of a mapping that are replaced one by one, before it is replaced as a whole. Each can split a mapping in
/// three, and a process may have 65530 (vm.max_map_count): this many for each region of a full table stays below.
const PATCHES: usize = 32;

const FREE: usize = 0;
const BUSY: usize = 1;
const LIVE: usize = 2;
const STATE: usize = 3;
const GENERATION: usize = 4;

static TABLE: [Slot; SLOTS] = [const { Slot::new() }; SLOTS];
static SURVIVED: AtomicU64 = AtomicU64::new(0);
static UNGUARDED: AtomicU64 = AtomicU64::new(0);
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// Installs the handler, once per process; later calls do nothing. The first mapping does it too, so this is only
/// for programs that want to decide when: before a sandbox that forbids `rt_sigaction`, or after another handler,
/// which then becomes the one that other faults go to.
pub fn install() {
    PREVIOUS.get_or_init(|| {
        // SAFETY: all-zero is a valid value of this C struct.
        let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut ours: libc::sigaction = unsafe { std::mem::zeroed() };
        ours.sa_sigaction = on_sigbus as *const () as usize;
        // On the alternate stack, if there is one: the previous handler may expect it (Rust's own does).
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: both structs live through the call; the handler has the signature that SA_SIGINFO asks for, and
        // does only what a signal handler may. The call cannot fail with a valid signal number.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, &raw mut previous) };
        previous
    });
}

/// How many faults in mappings of this crate were survived since the process started. Any increase means that some
/// guest memory was lost; [`MemoryMap::patches`](crate::MemoryMap::patches) says whether in a given snapshot.
pub fn survived() -> u64 {
    SURVIVED.load(Ordering::Relaxed)
}

/// How many mappings were made since the process started that found the table full, and so work but would not
/// survive a truncation.
pub fn unguarded() -> u64 {
    UNGUARDED.load(Ordering::Relaxed)
}

/// A range of addresses whose faults are survived, until this is dropped.
#[derive(Debug)]
pub(crate) struct Guard {
    slot: &'static Slot,
}

impl Guard {
    /// Faults survived in this range.
    pub(crate) fn patches(&self) -> u64 {
        self.slot.patches.load(Ordering::Relaxed) as u64
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slot.release();
    }
}

/// Guards the mapping of `length` bytes at `start`; `None` when the table is full.
///
/// # Safety
/// The range is a mapping of the caller's own, of whole pages of `page` bytes (a power of two), whose content may be
/// replaced by anonymous memory at any time. It stays mapped until the guard is dropped.
pub(crate) unsafe fn guard(start: NonNull<u8>, length: usize, page: usize) -> Option<Guard> {
    install();
    let slot = TABLE.iter().find(|slot| slot.claim(start.as_ptr() as usize, length, page));
    if slot.is_none() {
        UNGUARDED.fetch_add(1, Ordering::Relaxed);
    }
    slot.map(|slot| Guard { slot })
}

#[derive(Debug)]
struct Slot {
    /// FREE, BUSY (its owner is changing it) or LIVE, plus GENERATION per use.
    state: AtomicUsize,
    start: AtomicUsize,
    length: AtomicUsize,
    page: AtomicUsize,
    patches: AtomicUsize,
}

impl Slot {
    const fn new() -> Self {
        Self {
            state: AtomicUsize::new(FREE),
            start: AtomicUsize::new(0),
            length: AtomicUsize::new(0),
            page: AtomicUsize::new(0),
            patches: AtomicUsize::new(0),
        }
    }

    fn claim(&self, start: usize, length: usize, page: usize) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state & STATE != FREE {
            return false;
        }
        let next = state.wrapping_add(GENERATION);
        if self.state.compare_exchange(state, next | BUSY, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        // A reader that sees one of the values below also sees that the state has changed.
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
        self.page.store(page, Ordering::Relaxed);
        self.patches.store(0, Ordering::Relaxed);
        self.state.store(next | LIVE, Ordering::Release);
        true
    }

    fn release(&self) {
        let state = self.state.load(Ordering::Relaxed);
        self.state.store((state & !STATE) | FREE, Ordering::Release);
    }

    /// Start, length and page size, if `address` is within.
    fn covers(&self, address: usize) -> Option<(usize, usize, usize)> {
        let state = self.state.load(Ordering::Acquire);
        if state & STATE != LIVE {
            return None;
        }
        let start = self.start.load(Ordering::Relaxed);
        let length = self.length.load(Ordering::Relaxed);
        let page = self.page.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let stable = self.state.load(Ordering::Relaxed) == state;
        (stable && address.wrapping_sub(start) < length).then_some((start, length, page))
    }
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid structure, which for a fault carries an address; for other
    // codes the address is not used.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    // SAFETY: the location of this thread's errno is always valid.
    let errno = unsafe { *libc::__errno_location() };
    // A hardware memory error has another code: zeroes in place of poisoned data would be a lie.
    if !(code == libc::BUS_ADRERR && rescue(address)) {
        pass_on(signal, code, info, context);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// Puts memory at `address`, if it is in a guarded range. Async-signal-safe.
fn rescue(address: usize) -> bool {
    for slot in &TABLE {
        let Some((start, length, page)) = slot.covers(address) else { continue };
        let patches = slot.patches.fetch_add(1, Ordering::Relaxed);
        let at = address & !(page - 1);
        let done = (patches < PATCHES && replace(at, page)) || replace(start, length);
        if done {
            SURVIVED.fetch_add(1, Ordering::Relaxed);
        }
        return done;
    }
    false
}

/// Maps anonymous memory over a part of a guarded range.
fn replace(start: usize, length: usize) -> bool {
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range is within a live slot: by the contract of `guard` it belongs to a mapping of this crate, may
    // be replaced, and stays mapped while the faulting access, which holds the mapping, goes on. `mmap` is a bare
    // system call.
    let mapped = unsafe {
        libc::mmap(start as *mut libc::c_void, length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    };
    mapped != libc::MAP_FAILED
}

/// Does what would have happened without this handler.
fn pass_on(signal: libc::c_int, code: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let sent = code <= 0; // by kill() and the like: it is not repeated on return
    let previous = PREVIOUS.get();
    match previous.map_or(libc::SIG_DFL, |previous| previous.sa_sigaction) {
        libc::SIG_IGN if sent => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: all-zero is the default action with no flags and an empty mask. The fault is repeated on
            // return and ends the process; a sent signal is sent again, and is pending until then.
            unsafe {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &raw const default, std::ptr::null_mut());
                if sent {
                    libc::raise(signal);
                }
            }
        }
        handler => {
            let with_info = previous.is_some_and(|previous| previous.sa_flags & libc::SA_SIGINFO != 0);
            if with_info {
                // SAFETY: whoever installed the handler with SA_SIGINFO gave a function of this type; the arguments
                // are the kernel's own.
                unsafe {
                    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                        std::mem::transmute(handler);
                    handler(signal, info, context);
                }
            } else {
                // SAFETY: without SA_SIGINFO it is a function of the signal number.
                unsafe {
                    let handler: extern "C" fn(libc::c_int) = std::mem::transmute(handler);
                    handler(signal);
                }
            }
        }
    }
}
