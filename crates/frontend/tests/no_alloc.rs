//! No allocation per packet or per wait at steady state: an allocator that counts.
#![allow(unsafe_code, reason = "a global allocator")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use outboard_backend::EngineChoice;
use outboard_device::defs::net::Header;
use outboard_frontend::drivers::{Net, NetOptions};
use outboard_frontend::{Format, Waiting, Wishes};

mod rig;

use rig::LONG;
use rig::echo::echo;

struct Counting;

thread_local! {
    /// By thread: the back end runs in another one.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, with a count beside it that allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: likewise.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: likewise.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Sends packets of two buffers each and waits for them in all the ways there are.
fn round(net: &mut Net, packet: &[outboard_guest_memory::Segment], number: usize) {
    let (frontend, pairs) = net.parts();
    let (rx, tx) = pairs[0].halves();
    tx.transmit(&Header::default(), packet, 1).unwrap();
    tx.publish().unwrap();
    let arrived = loop {
        match number % 3 {
            0 => assert!(!rx.queue().arm().unwrap() || frontend.wait(LONG).unwrap()),
            1 => assert!(rx.wait(Waiting::Interrupt, LONG).unwrap()),
            _ => assert!(rx.wait(Waiting::Polling, LONG).unwrap()),
        }
        if let Some(arrived) = rx.poll().unwrap() {
            break arrived;
        }
    };
    assert_eq!(arrived.len(), 3000);
    // In case that none of the waits was one.
    frontend.wait(Duration::ZERO).unwrap();
    rx.wait(Waiting::Interrupt, Duration::ZERO).unwrap();
    rx.copy(&arrived, &mut [0; 64]);
    rx.recycle(arrived).unwrap();
    rx.publish().unwrap();
    while tx.poll().unwrap().is_none() {
        assert!(tx.wait(Waiting::Interrupt, LONG).unwrap());
    }
}

#[test]
fn packet_and_wait_allocate_nothing_at_steady_state() {
    for format in [Format::Split, Format::Packed] {
        let (frontend, back_end) = echo(1, EngineChoice::Epoll);
        let wishes = Wishes { format, ..NetOptions::default().wishes };
        let mut net = Net::open(frontend, &NetOptions { wishes, ..NetOptions::default() }).unwrap();
        let packet = [net.frontend().allocate(1000).unwrap(), net.frontend().allocate(2000).unwrap()];
        (0..30).for_each(|number| round(&mut net, &packet, number));
        let before = ALLOCATIONS.get();
        (0..300).for_each(|number| round(&mut net, &packet, number));
        assert_eq!(ALLOCATIONS.get() - before, 0, "{format:?}");
        drop(net);
        back_end.join().unwrap();
    }
}
