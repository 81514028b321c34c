//! The driver's commands to a device that is served: they come into force on other threads than the one that obeys, awake
//! or asleep.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::time::Duration;

use outboard_backend::{EngineChoice, Polling};
use outboard_device::defs::net::{
    F_CTRL_VQ, F_HASH_REPORT, F_MQ, F_RSS, HASH_REPORT_UDPV4, HASH_TYPE_UDPV4, Header,
};
use outboard_device::defs::net_control::Command;
use outboard_frontend::drivers::{Net, NetOptions, Rss};
use outboard_frontend::{Error, Format, Waiting};
use rig::{LONG, before, driver};

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// With so many pairs, and the control queue.
fn each(args: &[&str], pairs: u16, features: u64, test: impl Fn(&mut Net)) {
    for (engine, polling) in [
        (EngineChoice::Epoll, Polling::Off),
        (EngineChoice::IoUring, Polling::Off),
        (EngineChoice::Epoll, Polling::Always),
    ] {
        for format in [Format::Split, Format::Packed] {
            let (frontend, back_end) = before(args, engine, polling);
            let device_features = NetOptions::FEATURES | NetOptions::CONTROLLED | features;
            let options = NetOptions { pairs, control: true, ..driver(format, device_features) };
            let mut net = Net::open(frontend, &options).unwrap();
            test(&mut net);
            drop(net.close().unwrap());
            back_end.join().unwrap();
        }
    }
}

/// A datagram to the device's own address, of one flow or another.
fn datagram(flow: u8) -> Vec<u8> {
    let mut packet = [&MAC[..], &[2, 0, 0, 0, 0, 9, 8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
    packet.extend([192, 0, 2, 1, 192, 0, 2, 2, 0x30, flow, 0, 53, 0, 12, 0, 0, 1, 2, 3, 4]);
    packet
}

/// Sends a packet on a pair. The pair that it arrives on, if it does within `wait`.
fn arrives(net: &mut Net, from: usize, packet: &[u8], wait: Duration) -> Option<usize> {
    let area = net.frontend().allocate(2048).unwrap();
    let piece = area.slice(0, packet.len()).unwrap();
    piece.write_from(0, packet).unwrap();
    let tx = net.pairs()[from].tx();
    tx.transmit(&Header::default(), &[piece], 0).unwrap();
    tx.publish().unwrap();
    while tx.poll().unwrap().is_none() {
        assert!(tx.wait(Waiting::Interrupt, LONG).unwrap());
    }
    let start = std::time::Instant::now();
    loop {
        for (at, pair) in net.pairs().iter_mut().enumerate() {
            let rx = pair.rx();
            if let Some(received) = rx.poll().unwrap() {
                let mut bytes = vec![0; received.len()];
                rx.copy(&received, &mut bytes);
                assert_eq!(bytes, packet);
                if let Some(hash) = received.hash() {
                    assert_eq!(hash.report.get(), HASH_REPORT_UDPV4);
                }
                rx.recycle(received).unwrap();
                rx.publish().unwrap();
                return Some(at);
            }
        }
        if start.elapsed() >= wait {
            return None;
        }
        std::thread::yield_now();
    }
}

#[test]
fn commands_are_in_force_when_they_are_answered() {
    each(&["--backend=loop", "--pairs=3"], 3, F_MQ, |net| {
        // Their own, if the packet is there when its chain is back; it is returned in the same pass.
        let own =
            |net: &mut Net| [0, 1, 2].map(|pair| arrives(net, pair, &datagram(1), Duration::ZERO).is_some());
        for round in 0..20 {
            let pairs = round % 3 + 1;
            net.control().unwrap().set_pairs(pairs).unwrap();
            assert_eq!(own(net), [0, 1, 2].map(|pair| pair < pairs));
        }
        net.control().unwrap().set_pairs(3).unwrap();
        net.control().unwrap().switch(Command::RX_PROMISC, false).unwrap();
        assert_eq!(own(net), [true; 3]);
        net.control().unwrap().set_mac([2, 0, 0, 0, 0, 1]).unwrap();
        assert_eq!(own(net), [false; 3]);
        let refused = net.control().unwrap().set_pairs(4);
        assert!(matches!(refused, Err(Error::CommandRefused { .. })), "{refused:?}");
    });
}

#[test]
fn packets_go_where_the_driver_wants_them_by_their_hash() {
    let features = F_MQ | F_RSS | F_HASH_REPORT;
    each(&["--backend=loop", "--pairs=3", "--rss"], 3, features, |net| {
        for (to, unclassified) in [(2, 1), (0, 2), (1, 0)] {
            let (table, key) = ([to; 128], [0x6d; 40]);
            let (hash_types, transmit_queues) = (HASH_TYPE_UDPV4, 3);
            let rss = Rss { hash_types, table: &table, unclassified, transmit_queues, key: &key };
            net.control().unwrap().set_rss(&rss).unwrap();
            for from in 0..3 {
                assert_eq!(arrives(net, from, &datagram(from as u8), LONG), Some(to.into()));
            }
        }
        net.control().unwrap().set_pairs(3).unwrap();
        assert_eq!(arrives(net, 1, &datagram(1), LONG), Some(1), "each flow to its own again");
    });
}

/// Without commands, which pairs receive is the front end's to say.
#[test]
fn pairs_of_a_front_end_that_keeps_the_control_queue_all_receive() {
    for format in [Format::Split, Format::Packed] {
        let (frontend, back_end) =
            before(&["--backend=loop", "--pairs=2"], EngineChoice::Epoll, Polling::Off);
        let features = NetOptions::FEATURES | F_MQ | F_CTRL_VQ;
        let mut net = Net::open(frontend, &NetOptions { pairs: 2, ..driver(format, features) }).unwrap();
        for pair in 0..2 {
            assert_eq!(arrives(&mut net, pair, &datagram(1), LONG), Some(pair));
        }
        drop(net.close().unwrap());
        back_end.join().unwrap();
    }
}
