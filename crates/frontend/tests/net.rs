//! The network driver against a device that echoes, and against one that lies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::thread;
use std::time::Duration;

use outboard_backend::EngineChoice;
use outboard_device::defs::features::VIRTIO_F_IN_ORDER;
use outboard_device::defs::net::{
    F_HASH_REPORT, F_MRG_RXBUF, HASH_REPORT_TCPV4, HEADER_LEN, HashReport, Header, SMALL_BUFFER_LEN,
};
use outboard_frontend::drivers::{Net, NetOptions, NetQueue};
use outboard_frontend::{Error, Format, Frontend, Waiting, Wishes};
use outboard_virtqueue::driver::AddError;
use zerocopy::IntoBytes;

mod rig;

use rig::echo::{EchoServer, MAC, echo, patient_with_memory};
use rig::{FEATURES, LONG, Says, before, before_one_that, good, patient};

fn options(format: Format, features: u64) -> NetOptions {
    let wishes = Wishes { format, device_features: features, ..NetOptions::default().wishes };
    NetOptions { wishes, ..NetOptions::default() }
}

/// The bytes of packet `number`.
fn packet(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 31 + at * 7 + at / 251) as u8).collect()
}

#[test]
fn packets_that_are_sent_come_back_whole() {
    for format in [Format::Split, Format::Packed] {
        for (engine, waiting) in
            [(EngineChoice::Epoll, Waiting::Polling), (EngineChoice::IoUring, Waiting::Interrupt)]
        {
            let (frontend, back_end) = echo(1, engine);
            let mut net = Net::open(frontend, &options(format, NetOptions::FEATURES)).unwrap();
            assert_eq!(net.mac(), Some(MAC));
            assert!(net.has(F_MRG_RXBUF));
            net.set_waiting(waiting);
            // Within a buffer, exactly one, exactly two, a jumbo frame.
            for (number, len) in [0, 1, 60, 1514, 2036, 2037, 4084, 4085, 9014].into_iter().enumerate() {
                let sent = packet(number, len);
                net.send(&sent).unwrap();
                let mut received = vec![0; 10_000];
                assert_eq!(net.receive(&mut received, LONG).unwrap(), Some(len), "{format:?}");
                assert_eq!(received[..len], sent);
            }
            net.close().unwrap().remove_region(0x4000_0000).unwrap();
            back_end.join().unwrap();
        }
    }
}

/// Sends `count` packets on a pair as deep as the ring allows, and checks what comes back.
fn flood(pair: &mut NetQueue, buffers: &[outboard_guest_memory::Segment], framed: bool, count: usize) {
    let len = |number: usize| 60 + number * 37 % 1454;
    let (rx, tx) = pair.halves();
    let (mut free, mut sent, mut received) = ((0..buffers.len()).collect::<Vec<_>>(), 0, 0);
    while received < count {
        while sent < count
            && let Some(&buffer) = free.last()
        {
            let room = &buffers[buffer];
            let start = if framed { HEADER_LEN } else { 0 };
            room.write_from(0, Header::default().as_bytes()).unwrap();
            room.write_from(start, &packet(sent, len(sent))).unwrap();
            let piece = room.slice(0, start + len(sent)).unwrap();
            let staged = if framed {
                tx.transmit_framed(&[piece], buffer as u64)
            } else {
                tx.transmit(&Header::default(), &[piece], buffer as u64)
            };
            match staged {
                Ok(()) => free.pop(),
                Err(Error::Add(AddError::Full)) => break,
                Err(error) => panic!("{error}"),
            };
            sent += 1;
        }
        tx.publish().unwrap();
        if received < sent {
            assert!(rx.wait(Waiting::Interrupt, LONG).unwrap(), "nothing comes back");
        } else {
            assert!(tx.wait(Waiting::Interrupt, LONG).unwrap(), "nothing is taken");
        }
        while let Some(token) = tx.poll().unwrap() {
            free.push(token as usize);
        }
        while let Some(arrived) = rx.poll().unwrap() {
            let mut bytes = vec![0; arrived.len()];
            assert_eq!(rx.copy(&arrived, &mut bytes), bytes.len());
            assert_eq!(bytes, packet(received, len(received)));
            rx.recycle(arrived).unwrap();
            received += 1;
        }
        rx.publish().unwrap();
    }
    while tx.outstanding() > 0 {
        assert!(tx.poll().unwrap().is_some() || tx.wait(Waiting::Interrupt, LONG).unwrap());
    }
}

#[test]
fn packets_at_any_depth_come_back_in_order() {
    for (format, features) in [
        (Format::Split, NetOptions::FEATURES),
        (Format::Packed, NetOptions::FEATURES),
        (Format::Split, 0),
        (Format::Packed, 0),
    ] {
        for framed in [false, true] {
            let (frontend, back_end) = echo(1, EngineChoice::Epoll);
            let mut net = Net::open(frontend, &options(format, features)).unwrap();
            assert_eq!(net.has(F_MRG_RXBUF), features != 0);
            let buffers: Vec<_> = (0..64).map(|_| net.frontend().allocate(2048).unwrap()).collect();
            flood(&mut net.pairs()[0], &buffers, framed, 3000);
            drop(net);
            back_end.join().unwrap();
        }
    }
}

/// As many buffers as the ring has entries, all of them used, and more packets in the device.
#[test]
fn packets_that_found_no_buffer_come_when_there_is_one() {
    const PACKETS: usize = 40;
    for (format, features) in [
        (Format::Split, NetOptions::FEATURES),
        (Format::Packed, NetOptions::FEATURES),
        (Format::Split, 0),
        (Format::Packed, 0),
    ] {
        for engine in [EngineChoice::Epoll, EngineChoice::IoUring] {
            let (frontend, back_end) = echo(1, engine);
            let options = NetOptions { queue_size: 8, buffer_len: 2048, ..options(format, features) };
            let mut net = Net::open(frontend, &options).unwrap();
            // Two buffers for some of them, if they may be merged.
            let len =
                |number: usize| if features != 0 && number.is_multiple_of(3) { 3000 } else { 100 + number };
            for number in 0..PACKETS {
                net.send(&packet(number, len(number))).unwrap();
            }
            let rx = net.pairs()[0].rx();
            for number in 0..PACKETS {
                assert!(rx.wait(Waiting::Interrupt, LONG).unwrap(), "packet {number} does not come");
                let Some(arrived) = rx.poll().unwrap() else { panic!("a part of packet {number}") };
                let mut bytes = vec![0; arrived.len()];
                rx.copy(&arrived, &mut bytes);
                assert_eq!(bytes, packet(number, len(number)));
                rx.recycle(arrived).unwrap();
                // Every other one finds the worker asleep, most likely.
                if number.is_multiple_of(2) {
                    thread::sleep(Duration::from_millis(1));
                }
                rx.publish().unwrap();
            }
            drop(net);
            back_end.join().unwrap();
        }
    }
}

#[test]
fn pairs_are_driven_by_threads_of_their_own() {
    const PAIRS: u16 = 3;
    let (frontend, back_end) = echo(PAIRS, EngineChoice::Epoll);
    let options = NetOptions { pairs: PAIRS, ..options(Format::Packed, NetOptions::FEATURES) };
    let mut net = Net::open(frontend, &options).unwrap();
    let (frontend, pairs) = net.parts();
    thread::scope(|scope| {
        for pair in pairs {
            let buffers: Vec<_> = (0..16).map(|_| frontend.allocate(2048).unwrap()).collect();
            scope.spawn(move || flood(pair, &buffers, true, 1000));
        }
    });
    net.close().unwrap();
    back_end.join().unwrap();
}

#[test]
fn pairs_go_on_with_the_next_back_end() {
    for format in [Format::Split, Format::Packed] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = EchoServer::listen(&path, 2);
        let frontend = Frontend::connect(&path, patient_with_memory()).unwrap();
        let options = NetOptions { pairs: 2, ..options(format, NetOptions::FEATURES) };
        let mut net = Net::open(frontend, &options).unwrap();
        let buffers: Vec<_> = (0..16).map(|_| net.frontend().allocate(2048).unwrap()).collect();
        for round in 0..4 {
            // An uneven number: receive buffers are in another place each time.
            flood(&mut net.pairs()[1], &buffers, true, 777 + round);
            net.send(&packet(1, 500)).unwrap();
            assert_eq!(net.receive(&mut [0; 500], LONG).unwrap(), Some(500));
            server.drop_connection();
            let error = net.receive(&mut [0; 500], LONG).unwrap_err();
            assert!(error.is_disconnect(), "{error}");
            net.reconnect().unwrap();
        }
        drop(net);
        server.end();
    }
}

#[test]
fn pairs_that_the_device_does_not_have_are_refused() {
    let (frontend, _back_end) = echo(1, EngineChoice::Epoll);
    let options = NetOptions { pairs: 4, ..NetOptions::default() };
    assert!(matches!(Net::open(frontend, &options), Err(Error::Refused(_) | Error::NoSuchQueue { .. })));
}

#[test]
fn packet_longer_than_the_bounce_buffer_is_refused() {
    let (frontend, _back_end) = echo(1, EngineChoice::Epoll);
    let mut net = Net::open(frontend, &NetOptions::default()).unwrap();
    assert!(matches!(net.send(&vec![0; 65_590]), Err(Error::Invalid(_))));
}

/// A device played by the test: it writes to the used ring (split) and to the buffers what it likes.
struct Liar {
    memory: outboard_guest_memory::MemoryMap,
    used: u64,
    buffers: u64,
    returned: u16,
}

impl Liar {
    const SIZE: u16 = 8;
    const BUFFER: usize = 2048;

    fn open(features: u64) -> (Net, Self) {
        Self::open_with(options(Format::Split, features))
    }

    fn open_with(options: NetOptions) -> (Net, Self) {
        let offered = FEATURES | F_MRG_RXBUF | F_HASH_REPORT | VIRTIO_F_IN_ORDER;
        let (frontend, _back_end) = before(patient(), offered, good());
        let options = NetOptions { queue_size: Self::SIZE, buffer_len: Self::BUFFER, ..options };
        let mut net = Net::open(frontend.unwrap(), &options).unwrap();
        let memory = net.frontend().memory().map().clone();
        let addresses = net.pairs()[0].rx().queue().addresses();
        // Where the first descriptor points to is where the buffers begin.
        let mut buffers = [0; 8];
        memory.read_into(addresses.descriptors, &mut buffers).unwrap();
        let liar = Self { memory, used: addresses.device, buffers: u64::from_le_bytes(buffers), returned: 0 };
        (net, liar)
    }

    /// Returns descriptor `id` as one of `len` bytes, with a header that tells of `num_buffers`.
    fn give(&mut self, id: u32, num_buffers: u16, len: u32) {
        self.give_batch(id, num_buffers, len, 1);
    }

    /// The same, as the last one of `count` (with IN_ORDER).
    fn give_batch(&mut self, id: u32, num_buffers: u16, len: u32, count: u16) {
        let header = Header { num_buffers: num_buffers.into(), ..Header::default() };
        let buffer = self.buffers + u64::from(id) * Self::BUFFER as u64;
        self.memory.write_from(buffer, header.as_bytes()).unwrap();
        let slot = self.used + 4 + u64::from(self.returned % Self::SIZE) * 8;
        self.memory.write_from(slot, &id.to_le_bytes()).unwrap();
        self.memory.write_from(slot + 4, &len.to_le_bytes()).unwrap();
        self.returned += count;
        self.memory.write_from(self.used + 2, &self.returned.to_le_bytes()).unwrap();
    }
}

#[test]
fn packet_with_an_impossible_length_or_count_is_an_error_and_its_buffer_is_posted_again() {
    for (features, num_buffers, len) in [
        (0, 1, 11),
        (0, 1, 0),
        (0, 1, 2049),
        (0, 1, u32::MAX),
        (F_MRG_RXBUF, 0, 100),
        (F_MRG_RXBUF, 9, 100),
        (F_MRG_RXBUF, 0xffff, 100),
    ] {
        let (mut net, mut liar) = Liar::open(features);
        let rx = net.pairs()[0].rx();
        liar.give(3, num_buffers, len);
        let result = rx.poll();
        assert!(matches!(result, Err(Error::BadPacket { queue: 0, .. })), "{num_buffers} {len}: {result:?}");
        assert_eq!(rx.queue().outstanding(), u32::from(Liar::SIZE));
        // It goes on.
        liar.give(4, 1, 112);
        let packet = rx.poll().unwrap().unwrap();
        assert_eq!((packet.len(), packet.buffers()), (100, 1));
        rx.recycle(packet).unwrap();
    }
}

#[test]
fn packet_with_a_hash_has_a_longer_header() {
    for features in [F_HASH_REPORT, F_HASH_REPORT | F_MRG_RXBUF] {
        let (mut net, mut liar) = Liar::open(features);
        let hash =
            HashReport { value: 0x1234_5678.into(), report: HASH_REPORT_TCPV4.into(), padding: 0.into() };
        let buffer = liar.buffers + 3 * Liar::BUFFER as u64;
        liar.memory.write_from(buffer + HEADER_LEN as u64, hash.as_bytes()).unwrap();
        liar.memory.write_from(buffer + 20, b"packet").unwrap();
        liar.give(3, 1, 26);
        let (rx, tx) = net.pairs()[0].halves();
        let packet = rx.poll().unwrap().unwrap();
        let mut bytes = [0; 6];
        assert_eq!((packet.hash(), packet.len(), rx.copy(&packet, &mut bytes)), (Some(&hash), 6, 6));
        assert_eq!((&bytes, tx.header_len()), (b"packet", 20));
        rx.recycle(packet).unwrap();
        liar.give(4, 1, 19);
        assert!(matches!(rx.poll(), Err(Error::BadPacket { .. })));
    }
}

#[test]
fn packet_in_parts_is_complete_only_with_its_last_part() {
    let (mut net, mut liar) = Liar::open(F_MRG_RXBUF);
    let rx = net.pairs()[0].rx();
    liar.give(5, 3, 2048);
    liar.give(1, 0, 2048);
    assert!(rx.poll().unwrap().is_none());
    liar.give(2, 0, 8);
    let packet = rx.poll().unwrap().unwrap();
    assert_eq!((packet.len(), packet.buffers()), (2036 + 2048 + 8, 3));
    let lens: Vec<_> = rx.pieces(&packet).map(|piece| piece.len()).collect();
    assert_eq!(lens, [2036, 2048, 8]);
    assert_eq!(rx.copy(&packet, &mut [0; 2040]), 2040);
    rx.recycle(packet).unwrap();
    assert_eq!(rx.queue().outstanding(), u32::from(Liar::SIZE));
}

#[test]
fn packet_that_breaks_off_gives_all_its_buffers_back() {
    let (mut net, mut liar) = Liar::open(F_MRG_RXBUF);
    let rx = net.pairs()[0].rx();
    liar.give(0, 3, 2048);
    liar.give(1, 0, 2048);
    liar.give(2, 0, 4000);
    assert!(matches!(rx.poll(), Err(Error::BadPacket { .. })));
    assert_eq!(rx.queue().outstanding(), u32::from(Liar::SIZE));
}

#[test]
fn packets_that_are_skipped_over_in_order_fill_their_buffers() {
    let options = options(Format::Split, 0);
    let wishes = Wishes { in_order: true, ..options.wishes };
    let (mut net, mut liar) = Liar::open_with(NetOptions { wishes, ..options });
    assert!(net.has(VIRTIO_F_IN_ORDER));
    let rx = net.pairs()[0].rx();
    liar.give_batch(2, 1, 112, 3);
    let lens: Vec<_> = std::iter::from_fn(|| rx.poll().unwrap()).map(|packet| packet.len()).collect();
    assert_eq!(lens, [2036, 2036, 100]);
}

#[test]
fn packet_count_of_zero_without_mergeable_buffers_is_tolerated() {
    let (mut net, mut liar) = Liar::open(0);
    let rx = net.pairs()[0].rx();
    liar.give(0, 0, SMALL_BUFFER_LEN as u32);
    let packet = rx.poll().unwrap().unwrap();
    assert_eq!((packet.len(), packet.buffers()), (1514, 1));
    let other = net.pairs()[0].rx().recycle(packet);
    assert!(other.is_ok());
}

#[test]
fn buffer_that_was_not_posted_is_a_fault_of_the_device() {
    let (mut net, mut liar) = Liar::open(0);
    let rx = net.pairs()[0].rx();
    liar.give(4, 1, 100);
    let packet = rx.poll().unwrap().unwrap();
    liar.give(4, 1, 100);
    assert!(matches!(rx.poll(), Err(Error::DeviceFault { queue: 0, .. })));
    drop(packet);
}

#[test]
fn rings_of_a_back_end_that_counts_pairs_can_be_started() {
    let says = Says { rings: 4, queues: 2, ..Says::new(FEATURES) };
    let (frontend, _back_end) = before_one_that(patient(), says, good());
    let mut frontend = frontend.unwrap();
    frontend.agree(&Wishes::default()).unwrap();
    assert!(matches!(frontend.start(2, 8), Err(Error::NoSuchQueue { index: 2, queues: 2 })));
    drop(frontend);
    let (frontend, _back_end) = before_one_that(patient(), says, good());
    let options = NetOptions { pairs: 2, queue_size: 16, ..NetOptions::default() };
    let mut net = Net::open(frontend.unwrap(), &options).unwrap();
    assert_eq!(net.pairs().len(), 2);
}
