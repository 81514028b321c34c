//! The device behind a real socket, driven by the front end's driver, on both ring formats and both engines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::time::Duration;

use outboard_backend::{EngineChoice, Polling};
use outboard_device::defs::features::VIRTIO_F_IN_ORDER;
use outboard_device::defs::net::{F_MRG_RXBUF, HEADER_LEN, Header};
use outboard_frontend::drivers::{Net, NetOptions as DriverOptions};
use outboard_frontend::{Format, Waiting};
use rig::{LONG, before, driver};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// What the driver agrees to, and how it waits.
fn ways() -> impl Iterator<Item = (EngineChoice, Polling, Waiting, DriverOptions)> {
    let hosts = [
        (EngineChoice::Epoll, Polling::Off, Waiting::Interrupt),
        (EngineChoice::IoUring, Polling::Off, Waiting::Interrupt),
        (EngineChoice::Epoll, Polling::Always, Waiting::Polling),
    ];
    hosts.into_iter().flat_map(|(engine, polling, waiting)| {
        [Format::Split, Format::Packed].into_iter().flat_map(move |format| {
            [0, F_MRG_RXBUF, F_MRG_RXBUF | VIRTIO_F_IN_ORDER].map(|features| {
                let device_features = DriverOptions::FEATURES & !F_MRG_RXBUF | features;
                let buffer_len = if features & F_MRG_RXBUF == 0 { 16 << 10 } else { 2048 };
                (engine, polling, waiting, DriverOptions { buffer_len, ..driver(format, device_features) })
            })
        })
    })
}

/// The bytes of packet `number`.
fn packet(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 31 + at * 7 + at / 251) as u8).collect()
}

#[test]
fn loop_returns_each_packet_whole() {
    for (engine, polling, waiting, options) in ways() {
        let (frontend, back_end) = before(&["--backend=loop"], engine, polling);
        let mut net = Net::open(frontend, &options).unwrap();
        assert_eq!(net.mac(), Some(MAC));
        net.set_waiting(waiting);
        let mut received = vec![0; 10_000];
        for (number, len) in [14, 60, 1514, 2036, 2037, 4084, 4085, 9014].into_iter().enumerate() {
            let sent = packet(number, len);
            net.send(&sent).unwrap();
            assert_eq!(net.receive(&mut received, LONG).unwrap(), Some(len), "{engine:?} {options:?}");
            assert_eq!(received[..len], sent);
        }
        drop(net.close().unwrap());
        back_end.join().unwrap();
    }
}

/// More packets than the rings hold, as deep as they allow: in order and whole, as long as there are buffers.
#[test]
fn loop_under_load_loses_nothing_that_there_is_room_for() {
    const COUNT: usize = 2000;
    const DEPTH: usize = 64;
    for (engine, polling, waiting, options) in ways() {
        let (frontend, back_end) = before(&["--backend=loop"], engine, polling);
        let mut net = Net::open(frontend, &options).unwrap();
        let (frontend, pairs) = net.parts();
        let area = frontend.allocate(DEPTH * 2048).unwrap();
        let (rx, tx) = pairs[0].halves();
        let len = |number: usize| 60 + number * 37 % 1454;
        let (mut sent, mut returned, mut received) = (0, 0, 0);
        while received < COUNT || returned < COUNT {
            // Never more under way than there are buffers for.
            while sent < COUNT && sent - received.min(returned) < DEPTH {
                let room = area.slice(sent % DEPTH * 2048, len(sent)).unwrap();
                room.write_from(0, &packet(sent, len(sent))).unwrap();
                tx.transmit(&Header::default(), &[room], sent as u64).unwrap();
                sent += 1;
            }
            tx.publish().unwrap();
            while let Some(token) = tx.poll().unwrap() {
                assert_eq!(token, returned as u64);
                returned += 1;
            }
            let mut nothing = true;
            while let Some(next) = rx.poll().unwrap() {
                nothing = false;
                let mut bytes = vec![0; 2048];
                let copied = rx.copy(&next, &mut bytes);
                assert_eq!(copied, len(received));
                assert_eq!(bytes[..copied], packet(received, copied), "{engine:?} {options:?}");
                rx.recycle(next).unwrap();
                received += 1;
            }
            rx.publish().unwrap();
            // What is back may be seen before what brought it is.
            if nothing && received < sent {
                assert!(
                    rx.wait(waiting, LONG).unwrap(),
                    "{received} of {sent} came back, {engine:?} {options:?}"
                );
            } else if nothing && returned < sent {
                assert!(tx.wait(waiting, LONG).unwrap());
            }
        }
        drop(net.close().unwrap());
        back_end.join().unwrap();
    }
}

/// A guest that has used up its buffers and refills them is heard, however the back end sleeps.
#[test]
fn generator_goes_on_whenever_buffers_are_refilled() {
    for (engine, polling, waiting, options) in ways() {
        let (frontend, back_end) = before(&["--backend=null", "--generate=1000"], engine, polling);
        let mut net = Net::open(frontend, &options).unwrap();
        let rx = net.pairs()[0].rx();
        let mut count = 0;
        while count < 2000 {
            assert!(rx.wait(waiting, LONG).unwrap(), "{count} came, {engine:?} {options:?}");
            // All that are there, and only then new ones: the back end runs dry in between.
            let mut packets = Vec::new();
            while let Some(next) = rx.poll().unwrap() {
                assert_eq!(next.len(), 1000);
                packets.push(next);
            }
            count += packets.len();
            packets.into_iter().for_each(|next| rx.recycle(next).unwrap());
            rx.publish().unwrap();
        }
        drop(net.close().unwrap());
        back_end.join().unwrap();
    }
}

#[test]
fn null_takes_what_it_is_sent() {
    for (engine, polling, waiting, options) in ways() {
        let (frontend, back_end) = before(&["--backend=null"], engine, polling);
        let mut net = Net::open(frontend, &options).unwrap();
        net.set_waiting(waiting);
        for number in 0..300 {
            net.send(&packet(number, 60 + number)).unwrap();
        }
        assert_eq!(net.receive(&mut [0; HEADER_LEN], Duration::from_millis(1)).unwrap(), None);
        drop(net.close().unwrap());
        back_end.join().unwrap();
    }
}
