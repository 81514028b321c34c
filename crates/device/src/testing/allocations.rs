//! Counts what the device's half of a test allocates.
//!
//! ```
//! use outboard_device::testing::Counting;
//!
//! #[global_allocator]
//! static ALLOCATOR: Counting = Counting;
//!
//! Counting::spare_this_thread();
//! let before = Counting::allocations();
//! drop(vec![0; 100]);
//! assert_eq!(Counting::allocations(), before);
//! std::thread::spawn(|| drop(vec![0; 100])).join().unwrap();
//! assert!(Counting::allocations() > before);
//! ```
#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// The system's allocator, which counts: for `#[global_allocator]` of a test program.
#[derive(Clone, Copy, Debug)]
pub struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static SPARED: Cell<bool> = const { Cell::new(false) };
}

impl Counting {
    /// What this thread allocates is not counted: it plays the driver.
    pub fn spare_this_thread() {
        SPARED.set(true);
    }

    /// Allocations so far, by all threads that are not spared.
    #[must_use]
    pub fn allocations() -> u64 {
        ALLOCATIONS.load(Ordering::Relaxed)
    }

    fn count() {
        if !SPARED.get() {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: everything is left to the system's allocator; counting does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: as our caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as our caller promises.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as our caller promises.
        unsafe { System.realloc(place, layout, size) }
    }
}
