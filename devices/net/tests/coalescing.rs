//! Calls that wait for each other, counted where they arrive: by a thread that sleeps, or spins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::fs::File;
use std::io::Read as _;
use std::time::{Duration, Instant};

use outboard_backend::{EngineChoice, Polling};
use outboard_device::defs::net::Header;
use outboard_device::defs::net_control::Coalescing;
use outboard_frontend::drivers::{Net, NetOptions};
use outboard_frontend::{Error, Format, Waiting, Wishes};
use rig::{LONG, before};

/// Long enough that no test waits for it.
const NEVER: Duration = Duration::from_secs(3600);
/// The queue of the first pair that sends.
const TX: u16 = 1;

fn each(args: &[&str], test: impl Fn(Net)) {
    for (engine, polling) in [
        (EngineChoice::Epoll, Polling::Off),
        (EngineChoice::IoUring, Polling::Off),
        (EngineChoice::Epoll, Polling::Always),
    ] {
        for (format, event_idx) in [(Format::Split, true), (Format::Packed, true), (Format::Split, false)] {
            let (frontend, back_end) = before(args, engine, polling);
            let device_features = NetOptions::FEATURES | NetOptions::CONTROLLED;
            let wishes = Wishes { format, event_idx, device_features, ..NetOptions::default().wishes };
            let options = NetOptions { wishes, control: true, ..NetOptions::default() };
            test(Net::open(frontend, &options).unwrap());
            back_end.join().unwrap();
        }
    }
}

fn calls(max_packets: u32, delay: Duration) -> Coalescing {
    Coalescing { max_packets: max_packets.into(), max_usecs: (delay.as_micros() as u32).into() }
}

/// Sends a packet, which is returned before the driver looks for a call.
fn send(net: &mut Net) {
    let area = net.frontend().allocate(64).unwrap();
    area.fill(2);
    let tx = net.pairs()[0].tx();
    // A call is wanted for it.
    assert!(tx.queue().arm().unwrap());
    tx.transmit(&Header::default(), &[area], 0).unwrap();
    tx.publish().unwrap();
    let start = Instant::now();
    while tx.poll().unwrap().is_none() {
        assert!(start.elapsed() < LONG);
        std::thread::yield_now();
    }
}

/// How many calls came so far, after a command, which is answered when what was before it is over.
fn called(net: &mut Net) -> u64 {
    net.control().unwrap().coalescing_of(TX).unwrap();
    let queue = net.pairs()[0].tx().queue();
    queue.arm().unwrap();
    queue.notifications().calls
}

#[test]
fn driver_is_called_once_for_so_many_packets() {
    each(&["--backend=null"], |mut net| {
        net.control().unwrap().coalesce(calls(8, NEVER), calls(0, NEVER)).unwrap();
        assert_eq!(net.control().unwrap().coalescing_of(TX).unwrap(), calls(8, NEVER));
        let before = called(&mut net);
        (0..31).for_each(|_| send(&mut net));
        assert_eq!(called(&mut net) - before, 3);
        // It does not wait any longer than it has to.
        send(&mut net);
        let queue = net.pairs()[0].tx().queue();
        let start = Instant::now();
        while queue.notifications().calls - before < 4 {
            assert!(start.elapsed() < LONG);
            queue.arm().unwrap();
        }
        drop(net.close().unwrap());
    });
}

#[test]
fn driver_is_called_for_the_last_packet_when_the_time_is_over() {
    each(&["--backend=null"], |mut net| {
        let delay = Duration::from_millis(30);
        net.control().unwrap().coalesce_queue(TX, calls(100, delay)).unwrap();
        let before = called(&mut net);
        let start = Instant::now();
        send(&mut net);
        let queue = net.pairs()[0].tx().queue();
        while queue.notifications().calls == before {
            assert!(start.elapsed() < LONG);
            queue.arm().unwrap();
        }
        assert!(start.elapsed() >= delay);
        drop(net.close().unwrap());
    });
}

#[test]
fn call_that_is_held_back_is_made_when_the_ring_stops() {
    each(&["--backend=null"], |mut net| {
        net.control().unwrap().coalesce(calls(100, NEVER), calls(0, NEVER)).unwrap();
        let before = called(&mut net);
        send(&mut net);
        assert_eq!(called(&mut net), before);
        let call = net.pairs()[0].tx().queue().call_fd().try_clone_to_owned().unwrap();
        drop(net.close().unwrap());
        let mut count = [0; 8];
        File::from(call).read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    });
}

#[test]
fn queue_that_there_is_not_has_no_coalescing() {
    each(&["--backend=null"], |mut net| {
        for queue in [2, 77] {
            let refused = net.control().unwrap().coalescing_of(queue);
            assert!(matches!(refused, Err(Error::CommandRefused { .. })), "{refused:?}");
            let refused = net.control().unwrap().coalesce_queue(queue, calls(2, NEVER));
            assert!(matches!(refused, Err(Error::CommandRefused { .. })), "{refused:?}");
        }
        assert!(!net.pairs()[0].tx().wait(Waiting::Interrupt, Duration::ZERO).unwrap());
        drop(net.close().unwrap());
    });
}
