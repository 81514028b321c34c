//! The data path allocates nothing per packet, from the worker's loop down to the rings, whichever way packets go.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use outboard_backend::{EngineChoice, Polling};
use outboard_device::Segment;
use outboard_device::defs::features::VIRTIO_F_IN_ORDER;
use outboard_device::defs::net::{F_MRG_RXBUF, Header};
use outboard_device::testing::Counting;
use outboard_frontend::drivers::{Net, NetOptions as DriverOptions, NetRx, NetTx};
use outboard_frontend::{Format, Waiting};
use outboard_net::Switches;
use rig::{LONG, before, before_on, driver};

/// Packets before the count begins: tables and pools grow to what the depth needs.
const WARM_UP: u64 = 5000;
/// Packets that are counted.
const COUNTED: u64 = 20_000;
const DEPTH: usize = 32;
/// Of each frame.
const LEN: usize = 60;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Sends so many packets; the rings have room for all that are under way.
fn send(tx: &mut NetTx, frames: &[Segment], count: u64) {
    let (mut sent, mut returned) = (0, 0);
    while returned < count {
        while sent < count && sent - returned < frames.len() as u64 {
            let frame = &frames[sent as usize % frames.len()];
            tx.transmit(&Header::default(), std::slice::from_ref(frame), sent).unwrap();
            sent += 1;
        }
        tx.publish().unwrap();
        match tx.poll().unwrap() {
            Some(_) => returned += 1,
            None => assert!(tx.wait(Waiting::Interrupt, LONG).unwrap()),
        }
    }
}

/// Receives so many packets.
fn receive(rx: &mut NetRx, count: u64) {
    let mut received = 0;
    while received < count {
        match rx.poll().unwrap() {
            Some(next) => {
                rx.recycle(next).unwrap();
                received += 1;
            }
            None => {
                rx.publish().unwrap();
                assert!(rx.wait(Waiting::Interrupt, LONG).unwrap());
            }
        }
    }
    rx.publish().unwrap();
}

/// Allocations of the back end while packets go `way`.
fn allocations(
    args: &[&str],
    (engine, polling, format, features): (EngineChoice, Polling, Format, u64),
    mut way: impl FnMut(&mut NetRx, &mut NetTx, &[Segment], u64),
) -> u64 {
    Counting::spare_this_thread();
    let (frontend, back_end) = before(args, engine, polling);
    let device_features = DriverOptions::FEATURES & !F_MRG_RXBUF | features;
    let options = DriverOptions { buffer_len: 2048, ..driver(format, device_features) };
    let mut net = Net::open(frontend, &options).unwrap();
    let (frontend, pairs) = net.parts();
    let frames: Vec<_> = (0..DEPTH).map(|_| frontend.allocate(LEN).unwrap()).collect();
    let (rx, tx) = pairs[0].halves();
    way(rx, tx, &frames, WARM_UP);
    let before = Counting::allocations();
    way(rx, tx, &frames, COUNTED);
    let after = Counting::allocations();
    drop(net.close().unwrap());
    back_end.join().unwrap();
    after - before
}

fn each(mut test: impl FnMut((EngineChoice, Polling, Format, u64))) {
    for (engine, polling) in [
        (EngineChoice::Epoll, Polling::default()),
        (EngineChoice::IoUring, Polling::Off),
        (EngineChoice::IoUring, Polling::default()),
    ] {
        for format in [Format::Split, Format::Packed] {
            for features in [F_MRG_RXBUF, F_MRG_RXBUF | VIRTIO_F_IN_ORDER] {
                test((engine, polling, format, features));
            }
        }
    }
}

/// Pools and vectors grow to what is under way at once, which is the threads' affair and may happen late: as much as can be
/// under way, and nothing per packet.
fn none_each(count: u64, setup: &dyn std::fmt::Debug) {
    assert!(count <= 8 * DEPTH as u64, "{count}, {setup:?}");
}

#[test]
fn packets_sent_allocate_nothing_each() {
    each(|setup| {
        let count = allocations(&["--backend=null"], setup, |_, tx, frames, count| send(tx, frames, count));
        none_each(count, &setup);
    });
}

#[test]
fn packets_received_allocate_nothing_each() {
    each(|setup| {
        let args = ["--backend=null", "--generate=60"];
        let count = allocations(&args, setup, |rx, _, _, count| receive(rx, count));
        none_each(count, &setup);
    });
}

#[test]
fn packets_looped_allocate_nothing_each() {
    each(|setup| {
        let count = allocations(&["--backend=loop"], setup, |rx, tx, frames, count| {
            let mut left = count;
            while left > 0 {
                let now = left.min(DEPTH as u64);
                send(tx, frames, now);
                receive(rx, now);
                left -= now;
            }
        });
        none_each(count, &setup);
    });
}

#[test]
fn packets_switched_allocate_nothing_each() {
    each(|(engine, polling, format, features)| {
        Counting::spare_this_thread();
        let switches = Switches::default();
        let device_features = DriverOptions::FEATURES & !F_MRG_RXBUF | features;
        let options = DriverOptions { buffer_len: 2048, ..driver(format, device_features) };
        let [(mut a, a_end), (mut b, b_end)] = [(), ()].map(|()| {
            let (frontend, back_end) = before_on(&switches, &["--backend=switch"], engine, polling);
            (Net::open(frontend, &options).unwrap(), back_end)
        });
        let mac = |last| [2, 0, 0, 0, 0, last];
        let frame = |to: u8, from: u8| [&mac(to)[..], &mac(from), &[0x88, 0xb5], &[0; LEN - 14]].concat();
        b.send(&frame(1, 2)).unwrap();
        let mut bytes = [0; 100];
        assert_eq!(a.receive(&mut bytes, LONG).unwrap(), Some(LEN));
        let (frontend, pairs) = a.parts();
        let frames: Vec<_> = (0..DEPTH).map(|_| frontend.allocate(LEN).unwrap()).collect();
        frames.iter().for_each(|room| room.write_from(0, &frame(2, 1)).unwrap());
        let tx = pairs[0].tx();
        let rx = b.pairs()[0].rx();
        let mut pass = |count: u64| {
            for _ in 0..count / DEPTH as u64 {
                send(tx, &frames, DEPTH as u64);
                receive(rx, DEPTH as u64);
            }
        };
        pass(WARM_UP);
        let before = Counting::allocations();
        pass(COUNTED);
        let count = Counting::allocations() - before;
        none_each(count, &(engine, polling, format, features));
        drop((a.close().unwrap(), b.close().unwrap()));
        a_end.join().unwrap();
        b_end.join().unwrap();
    });
}
