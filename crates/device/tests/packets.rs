//! A handler between a driver's two queues and a socket that keeps packets apart, on the bench.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use outboard_device::testing::{Bench, Format, Setup, UNTOUCHED};
use outboard_device::{Chain, Cx, DeviceError, Flow, Handler, QueueId, SourceId, host_io};

const RX: QueueId = QueueId(0);
const TX: QueueId = QueueId(1);
const SOCKET: SourceId = SourceId(1);
/// What stands before a packet that is sent.
const HEAD: &[u8] = b"head:";

struct Wire {
    socket: UnixDatagram,
    readable: bool,
    /// Bytes that packets had beyond their chains.
    beyond: Vec<u8>,
    refused: u32,
    works: u32,
    events: u32,
}

impl Wire {
    fn bench(setup: Setup) -> (Bench<Self>, UnixDatagram) {
        let (socket, other) = UnixDatagram::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        other.set_nonblocking(true).unwrap();
        let wire = Self { socket, readable: false, beyond: Vec::new(), refused: 0, works: 0, events: 0 };
        (Bench::with(wire, &Setup { queues: 2, ..setup }), other)
    }
}

impl Handler for Wire {
    type Op = ();

    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        cx.watch_once(self.socket.as_fd(), SOCKET).map_err(|error| DeviceError::host("watch", error))
    }

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        if on && queue == RX {
            cx.keep(queue);
        }
    }

    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        assert_eq!(chain.queue(), TX);
        match host_io::send_behind(HEAD, &chain, self.socket.as_fd()) {
            Ok(count) => assert_eq!(count, HEAD.len() + chain.readable_len()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                self.refused += 1;
            }
        }
        cx.done(chain)
    }

    fn event(&mut self, source: SourceId, _: &mut Cx<'_, ()>) {
        assert_eq!(source, SOCKET);
        self.readable = true;
        self.events += 1;
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.works += 1;
        let mut delivered = false;
        while self.readable
            && let Some(mut chain) = cx.pop(RX)
        {
            let mut tail = [0; 100];
            match host_io::receive_before(&chain, &mut tail, self.socket.as_fd()) {
                Ok(count) => {
                    let room = chain.writable_len();
                    chain.advance_writable(count);
                    self.beyond.extend_from_slice(&tail[..count.saturating_sub(room)]);
                    let _ = cx.done(chain);
                    delivered = true;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    cx.put_back(chain);
                    self.readable = false;
                    cx.rearm(SOCKET);
                }
            }
        }
        delivered
    }
}

fn setups() -> impl Iterator<Item = Setup> {
    [Format::Split, Format::Packed].into_iter().map(Setup::new)
}

/// The packets that have come to the other side.
fn arrived(other: &UnixDatagram) -> Vec<Vec<u8>> {
    let mut bytes = vec![0; 1 << 17];
    std::iter::from_fn(|| other.recv(&mut bytes).ok().map(|count| bytes[..count].to_vec())).collect()
}

#[test]
fn packet_waits_for_a_chain_and_a_chain_for_a_packet() {
    for setup in setups() {
        let (mut bench, other) = Wire::bench(setup);
        bench.run();
        let works = bench.handler().works;
        bench.send(RX, &[], &[8]);
        bench.run();
        assert_eq!(bench.handler().works, works, "nobody wants the chain yet");
        other.send(b"one").unwrap();
        other.send(b"two").unwrap();
        bench.run();
        assert_eq!(&bench.receive(RX).unwrap().outputs[0][..4], &[b'o', b'n', b'e', UNTOUCHED]);
        assert_eq!(bench.receive(RX), None);
        // The socket stays readable, which is reported no more.
        let events = bench.handler().events;
        bench.run();
        assert_eq!(bench.handler().events, events);
        bench.send(RX, &[], &[1, 2, 5]);
        bench.run();
        let answer = bench.receive(RX).unwrap();
        assert_eq!((answer.len, answer.outputs[..2].concat()), (3, b"two".to_vec()));
    }
}

#[test]
fn queue_that_is_off_is_not_popped_and_goes_on_by_itself() {
    for setup in setups() {
        let (mut bench, other) = Wire::bench(setup);
        bench.send(RX, &[], &[8]);
        bench.enable(RX, false);
        other.send(b"late").unwrap();
        bench.run();
        assert_eq!(bench.receive(RX), None);
        bench.enable(RX, true);
        bench.run();
        assert_eq!(bench.receive(RX).unwrap().len, 4);
    }
}

#[test]
fn packet_longer_than_its_chain_goes_on_behind_it() {
    for setup in setups() {
        let (mut bench, other) = Wire::bench(setup);
        bench.send(RX, &[], &[2, 3]);
        other.send(b"0123456789").unwrap();
        bench.run();
        assert_eq!(bench.receive(RX).unwrap().outputs.concat(), b"01234");
        assert_eq!(bench.handler().beyond, b"56789");
    }
}

#[test]
fn packet_in_any_number_of_pieces_is_sent_as_one() {
    for setup in setups() {
        let (mut bench, other) = Wire::bench(Setup { size: 2048, ..setup });
        for pieces in [1, 22, 23, 24, 25, 1023] {
            let bytes: Vec<[u8; 2]> = (0..pieces as u16).map(u16::to_le_bytes).collect();
            let cut: Vec<&[u8]> = bytes.iter().map(<[u8; 2]>::as_slice).collect();
            bench.send(TX, &cut, &[]);
            bench.run();
            assert_eq!(bench.receive(TX).unwrap().len, 0);
            assert_eq!(arrived(&other), [[HEAD, &bytes.concat()].concat()], "{pieces} pieces");
        }
        bench.send(TX, &vec![b"x".as_slice(); 1024], &[]);
        bench.run();
        assert_eq!(bench.handler().refused, 1);
        assert!(arrived(&other).is_empty());
    }
}
