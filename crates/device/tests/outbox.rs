//! Messages that wait for the driver's buffers, and bytes that many chains share.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use outboard_device::testing::{Answer, Bench, Format, Setup};
use outboard_device::{Chain, Cx, Flow, Handler, Outbox, QueueId, host_io};
use rustix::net::SendFlags;

const FORMATS: [Format; 2] = [Format::Split, Format::Packed];
const OUT: QueueId = QueueId(1);

/// Gives the driver messages in the second queue.
struct Postman(Outbox);

impl Handler for Postman {
    type Op = ();

    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        cx.done(chain)
    }

    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, ()>) {
        self.0.turned(queue, on, cx);
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.0.work(cx)
    }

    fn is_ready(&self) -> bool {
        self.0.is_ready()
    }

    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, ()>) {
        self.0.turned(queue, false, cx);
    }
}

fn bench(format: Format, most: usize) -> Bench<Postman> {
    Bench::with(Postman(Outbox::new(OUT, most)), &Setup { queues: 2, ..Setup::new(format) })
}

fn received(bench: &mut Bench<Postman>) -> Vec<Vec<u8>> {
    let message = |answer: Answer| answer.outputs.concat()[..answer.len as usize].to_vec();
    std::iter::from_fn(|| bench.receive(OUT).map(message)).collect()
}

#[test]
fn messages_wait_for_chains_and_chains_for_messages() {
    for format in FORMATS {
        let mut bench = bench(format, 100);
        bench.run();
        assert!(bench.handler().0.put(&[b"one".as_slice(), b"", b"three"]));
        bench.run();
        assert!(!bench.handler().is_ready(), "without chains there is nothing to do");
        for _ in 0..2 {
            bench.send(OUT, &[], &[2, 6]);
        }
        bench.run();
        assert_eq!(received(&mut bench), [b"one".as_slice(), b""]);
        for _ in 0..2 {
            bench.send(OUT, &[], &[8]);
        }
        bench.run();
        assert_eq!(received(&mut bench), [b"three"]);
        assert!(bench.handler().0.put(&[b"four"]) && bench.handler().is_ready());
        bench.run();
        assert_eq!(received(&mut bench), [b"four"]);
        assert!(bench.handler().0.is_empty());
    }
}

#[test]
fn messages_that_belong_together_are_taken_all_or_not_at_all() {
    for format in FORMATS {
        let mut bench = bench(format, 3);
        let outbox = &mut bench.handler().0;
        assert!(outbox.put(&[b"1", b"2"]));
        assert!(!outbox.put(&[b"3", b"4"]) && outbox.put(&[b"5"]) && !outbox.put(&[b"6"]));
        assert_eq!((outbox.len(), outbox.has_room(0), outbox.has_room(1)), (3, true, false));
        for _ in 0..4 {
            bench.send(OUT, &[], &[1]);
        }
        bench.run();
        assert_eq!(received(&mut bench), [b"1", b"2", b"5"]);
        bench.handler().0.put(&[b"7"]);
        bench.handler().0.clear();
        bench.run();
        assert!(received(&mut bench).is_empty());
    }
}

#[test]
fn chain_too_short_for_its_message_comes_back_empty_and_the_message_in_the_next() {
    for format in FORMATS {
        let mut bench = bench(format, 3);
        bench.send(OUT, &[b"not for the device"], &[]);
        bench.send(OUT, &[], &[3]);
        bench.send(OUT, &[], &[4]);
        bench.handler().0.put(&[b"four"]);
        bench.run();
        assert_eq!(received(&mut bench), [b"".as_slice(), b"", b"four"]);
        assert_eq!(bench.handler().0.too_small(), 2);
    }
}

#[test]
fn queue_that_does_not_run_takes_no_message_and_gives_those_it_has_later() {
    for format in FORMATS {
        let mut bench = bench(format, 300);
        bench.send(OUT, &[], &[4]);
        bench.handler().0.put(&[b"mine"]);
        bench.enable(OUT, false);
        assert!(!bench.handler().0.put(&[b"lost"]) && !bench.handler().is_ready());
        assert!(!bench.handler().0.has_room(0));
        bench.run();
        assert!(received(&mut bench).is_empty());
        bench.enable(OUT, true);
        bench.run();
        assert_eq!(received(&mut bench), [b"mine"]);
        // More than one pass takes.
        let many: Vec<[u8; 2]> = (0..200_u16).map(u16::to_le_bytes).collect();
        for message in &many {
            bench.send(OUT, &[], &[2]);
            assert!(bench.handler().0.put(&[message]));
        }
        bench.run();
        assert_eq!(received(&mut bench), many);
    }
}

/// Two chains to send, and two to fill, each in pieces of a byte or more.
struct Wire {
    socket: UnixStream,
    sends: Vec<Chain>,
    fills: Vec<Chain>,
    limit: usize,
    moved: usize,
}

impl Handler for Wire {
    type Op = ();

    fn request(&mut self, chain: Chain, _: &mut Cx<'_, ()>) -> Flow {
        if chain.queue() == OUT {
            self.fills.push(chain);
        } else {
            self.sends.push(chain);
        }
        Flow::Next
    }

    fn work(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        if !self.sends.is_empty() {
            self.moved = host_io::send_all(&self.sends, SendFlags::empty(), self.socket.as_fd()).unwrap();
            cx.done_all(&mut self.sends);
            return true;
        }
        if self.fills.is_empty() {
            return false;
        }
        match host_io::receive_all(&self.fills, self.limit, self.socket.as_fd()) {
            Ok(count) => self.moved = count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let mut left = self.moved;
        for chain in &mut self.fills {
            let count = left.min(chain.writable_len());
            chain.advance_writable(count);
            left -= count;
        }
        cx.done_all(&mut self.fills);
        true
    }
}

fn wire(format: Format) -> (Bench<Wire>, UnixStream) {
    let (socket, other) = UnixStream::pair().unwrap();
    let wire = Wire { socket, sends: Vec::new(), fills: Vec::new(), limit: usize::MAX, moved: 0 };
    let setup = Setup { queues: 2, size: 4096, ..Setup::new(format) };
    (Bench::with(wire, &setup), other)
}

#[test]
fn bytes_of_many_chains_go_out_by_one_call() {
    for format in FORMATS {
        let (mut bench, mut other) = wire(format);
        bench.send(QueueId(0), &[b"he", b"", b"llo"], &[]);
        bench.send(QueueId(0), &[b", world"], &[]);
        bench.run();
        let mut text = [0; 12];
        other.read_exact(&mut text).unwrap();
        assert_eq!((&text, bench.handler().moved), (b"hello, world", 12));

        // No more pieces than one call takes.
        let pieces = vec![b"x".as_slice(); 600];
        bench.send(QueueId(0), &pieces, &[]);
        bench.send(QueueId(0), &pieces, &[]);
        bench.run();
        assert_eq!(bench.handler().moved, host_io::MAX_SEGMENTS);
    }
}

#[test]
fn bytes_that_come_fill_chain_after_chain_up_to_the_limit() {
    for format in FORMATS {
        for limit in 0..=12 {
            let (mut bench, mut other) = wire(format);
            other.write_all(b"hello, world").unwrap();
            bench.handler().limit = limit;
            bench.send(OUT, &[], &[1, 4]);
            bench.send(OUT, &[], &[3, 100]);
            bench.run();
            let answers = [bench.receive(OUT).unwrap(), bench.receive(OUT).unwrap()];
            let text: Vec<u8> = answers
                .iter()
                .flat_map(|answer| answer.outputs.concat()[..answer.len as usize].to_vec())
                .collect();
            assert_eq!(text, b"hello, world"[..limit]);
            assert_eq!(answers[0].len as usize, limit.min(5));
        }
        let (mut bench, other) = wire(format);
        bench.send(OUT, &[], &[1]);
        bench.run();
        assert_eq!(bench.receive(OUT).unwrap().len, 0, "nothing is there");
        drop(other);
    }
}
