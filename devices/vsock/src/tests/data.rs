//! Data arrive: all of them, in order, and no more than may.

use super::*;

#[test]
fn bytes_of_both_ways_arrive_whatever_the_buffers_are() {
    for (count, len) in [(1, 45), (3, 100), (16, 4096), (4, 65536 + 44), (64, 1000)] {
        each(&["--service=7=echo"], |guest| {
            guest.post(count, len);
            guest.connect(7);
            let sent = text(20_000);
            for part in sent.chunks(3001) {
                guest.send(data_packet(7, part.len()), part);
            }
            assert_eq!(guest.data().0, sent);
        });
    }
}

#[test]
fn host_that_reads_late_gets_everything_and_the_ring_never_stands_still() {
    each_with_path(&[], |guest, path| {
        let mut stream = meet(guest, path, 52);
        let sent = text(3_000_000);
        let (mut at, mut room, mut forwarded, mut out) = (0, 256 << 10, 0_u32, 0_u32);
        let mut got = Vec::new();
        while got.len() < sent.len() {
            while at < sent.len() && out.wrapping_sub(forwarded) < room {
                let len = (room - out.wrapping_sub(forwarded)).min(40_000).min((sent.len() - at) as u32);
                guest.send(data_packet(52, len as usize), &sent[at..at + len as usize]);
                at += len as usize;
                out += len;
                guest.run();
                assert_eq!(guest.bench.outstanding(TX), 0);
            }
            got.extend(drain(&mut stream));
            guest.run();
            while let Some(Received { header, .. }) = guest.next() {
                assert_eq!(header.op.get(), OP_CREDIT_UPDATE);
                (room, forwarded) = (header.buf_alloc.get(), header.fwd_cnt.get());
            }
        }
        assert_eq!(got, sent);
        assert_eq!(room, 1 << 20, "what is used grows");
    });
}

#[test]
fn guest_that_lets_no_more_be_on_its_way_than_it_has_room_for_itself_never_stands_still() {
    // As Linux does: of a room of 1 MiB it would use a quarter, and it asks for nothing.
    const OWN: u32 = 256 << 10;
    each_with_path(&[], |guest, path| {
        let listener = listen(path, 52);
        let own = |header: Header| Header { buf_alloc: OWN.into(), ..header };
        guest.send(own(packet(52, OP_REQUEST)), b"");
        let answer = guest.next().unwrap().header;
        let (mut room, mut forwarded, mut out) = (answer.buf_alloc.get(), 0, 0_u32);
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let sent = text(3 << 20);
        let mut got = Vec::new();
        for part in sent.chunks(32 << 10) {
            assert!(out.wrapping_sub(forwarded) + part.len() as u32 <= room.min(OWN), "after {out} bytes");
            guest.send(own(data_packet(52, part.len())), part);
            out += part.len() as u32;
            guest.run();
            got.extend(drain(&mut stream));
            guest.run();
            while let Some(Received { header, .. }) = guest.next() {
                (room, forwarded) = (header.buf_alloc.get(), header.fwd_cnt.get());
            }
        }
        guest.send(own(shutdown(52, SHUTDOWN_SEND)), b"");
        guest.run();
        got.extend(drain(&mut stream));
        assert!(got == sent);
        assert_eq!(room, 1 << 20, "what is used grows");
    });
}

#[test]
fn guest_gets_no_more_than_it_has_room_for_and_is_asked_once() {
    each_with_path(&[], |guest, path| {
        let listener = listen(path, 52);
        guest.send(Header { buf_alloc: 100.into(), ..packet(52, OP_REQUEST) }, b"");
        assert_eq!(guest.next_op(), OP_RESPONSE);
        let (mut stream, _) = listener.accept().unwrap();
        let sent = text(1000);
        say(&mut stream, &sent);
        let first = guest.next().unwrap();
        assert_eq!(first.data, sent[..100]);
        assert_eq!(guest.next_op(), OP_CREDIT_REQUEST);
        assert!(guest.next().is_none());
        let credit = |alloc: u32, forwarded: u32| Header {
            buf_alloc: alloc.into(),
            fwd_cnt: forwarded.into(),
            ..packet(52, OP_CREDIT_UPDATE)
        };
        guest.send(credit(100, 100), b"");
        assert_eq!(guest.next().unwrap().data, sent[100..200]);
        assert_eq!(guest.next_op(), OP_CREDIT_REQUEST);
        guest.send(credit(10_000, 200), b"");
        assert_eq!(guest.data().0, sent[200..]);
        guest.send(packet(52, OP_CREDIT_REQUEST), b"");
        let update = guest.next().unwrap().header;
        assert_eq!((update.op.get(), update.fwd_cnt.get()), (OP_CREDIT_UPDATE, 0));
    });
}

#[test]
fn guest_without_buffers_still_sends() {
    each_with_path(&[], |guest, path| {
        let mut stream = meet(guest, path, 52);
        // Use up the buffers that are there.
        guest.buffers.0 = 0;
        say(&mut stream, &text(500_000 / 4));
        guest.run();
        guest.send(data_packet(52, 5), b"hello");
        guest.run();
        assert_eq!(drain(&mut stream), b"hello");
        assert_eq!(guest.bench.outstanding(TX), 0);
        guest.post(16, 4096);
        assert_eq!(guest.data().0.len(), 125_000);
    });
}

#[test]
fn room_of_a_service_grows_with_bytes_and_not_with_messages() {
    for (kind, expected) in [(TYPE_STREAM, 1 << 20), (TYPE_SEQPACKET, 256 << 10)] {
        each(&["--service=9=discard"], |guest| {
            let of_kind = |header: Header| Header { kind: kind.into(), ..header };
            guest.send(of_kind(packet(9, OP_REQUEST)), b"");
            assert_eq!(guest.next_op(), OP_RESPONSE);
            for part in text(2 << 20).chunks(50_000) {
                guest.send(of_kind(message(9, part.len(), SEQ_EOM)), part);
                guest.run();
            }
            guest.send(of_kind(packet(9, OP_CREDIT_REQUEST)), b"");
            let mut room = 0;
            while let Some(Received { header, .. }) = guest.next() {
                assert_eq!(header.op.get(), OP_CREDIT_UPDATE);
                room = header.buf_alloc.get();
            }
            assert_eq!(room, expected);
        });
    }
}

fn message(port: u32, len: usize, flags: u32) -> Header {
    let kind = TYPE_SEQPACKET.into();
    Header { kind, flags: flags.into(), ..data_packet(port, len) }
}

#[test]
fn messages_keep_their_borders_wherever_they_are_cut() {
    each(&["--service=7=echo"], |guest| {
        guest.post(7, 144);
        guest.send(Header { kind: TYPE_SEQPACKET.into(), ..packet(7, OP_REQUEST) }, b"");
        assert_eq!(guest.next_op(), OP_RESPONSE);
        let lens = [1, 99, 100, 101, 0, 350, 2];
        for (at, len) in lens.into_iter().enumerate() {
            let bytes = text(len);
            let end = SEQ_EOM | if at % 2 == 0 { SEQ_EOR } else { 0 };
            for cut in [0, len / 3] {
                if cut > 0 {
                    guest.send(message(7, cut, 0), &bytes[..cut]);
                }
                guest.send(message(7, len - cut, end), &bytes[cut..]);
            }
        }
        let mut messages = vec![(Vec::new(), 0)];
        while let Some(Received { header, data }) = guest.next() {
            if header.op.get() == OP_RW {
                let last = messages.last_mut().unwrap();
                last.0.extend(data);
                last.1 = header.flags.get();
                if last.1 & SEQ_EOM != 0 {
                    messages.push((Vec::new(), 0));
                }
            }
        }
        messages.pop();
        let expected = lens.into_iter().enumerate().flat_map(|(at, len)| {
            let end = SEQ_EOM | if at % 2 == 0 { SEQ_EOR } else { 0 };
            [(text(len), end), (text(len), end)]
        });
        assert_eq!(messages, expected.collect::<Vec<_>>());
    });
}

/// A packet of a guest that has room for so much.
fn of_messages(header: Header, alloc: u32, forwarded: u32) -> Header {
    let (kind, buf_alloc) = (TYPE_SEQPACKET.into(), alloc.into());
    Header { kind, buf_alloc, fwd_cnt: forwarded.into(), ..header }
}

#[test]
fn message_that_a_service_gives_in_parts_goes_on_when_there_is_room_for_the_rest() {
    // Longer than a turn; longer than the buffers that there are; longer than the guest has room for.
    for (buffers, alloc) in [(64, 1 << 20), (0, 1 << 20), (64, 30_000)] {
        each(&["--service=7=echo"], |guest| {
            guest.send(of_messages(packet(7, OP_REQUEST), alloc, 0), b"");
            assert_eq!(guest.next_op(), OP_RESPONSE);
            guest.post(buffers, 4096);
            let sent = text(100_000);
            guest.send(of_messages(message(7, sent.len(), SEQ_EOM), alloc, 0), &sent);
            // Its last: nothing more may come than this, and it is over only then.
            guest.send(of_messages(shutdown(7, SHUTDOWN_SEND), alloc, 0), b"");
            guest.run();
            guest.post(64, 4096);
            let (mut got, mut ends) = (Vec::new(), 0);
            while let Some(Received { header, data }) = guest.next() {
                got.extend(data);
                ends += u32::from(header.flags.get() & SEQ_EOM != 0 && header.op.get() == OP_RW);
                if header.op.get() == OP_CREDIT_REQUEST {
                    let update = packet(7, OP_CREDIT_UPDATE);
                    guest.send(of_messages(update, alloc, got.len() as u32), b"");
                }
                assert!(header.op.get() != OP_SHUTDOWN || got.len() == sent.len(), "it is over too early");
            }
            assert!(got == sent, "{} bytes came back", got.len());
            assert_eq!(ends, 1);
        });
    }
}

#[test]
fn messages_of_a_program_keep_their_borders_and_one_too_long_ends_the_connection() {
    use outboard_streams::{Access, Address, Form, Listener, Stream};
    each_with_path(&[], |guest, path| {
        let address: Address = format!("seq:{}_52", path.display()).parse().unwrap();
        let listener = Listener::open(&address, Form::Messages, Access::Umask).unwrap();
        let request =
            Header { kind: TYPE_SEQPACKET.into(), buf_alloc: 1000.into(), ..packet(52, OP_REQUEST) };
        guest.send(request, b"");
        assert_eq!(guest.next_op(), OP_RESPONSE);
        let stream: Stream = listener.accept().unwrap().unwrap();
        stream.send(b"one").unwrap();
        stream.send(b"").unwrap();
        stream.send(b"three").unwrap();
        for expected in [&b"one"[..], b"", b"three"] {
            let got = guest.next().unwrap();
            assert_eq!((got.data.as_slice(), got.header.flags.get()), (expected, SEQ_EOM));
        }
        guest.send(message(52, 3, 0), b"abc");
        guest.send(message(52, 2, SEQ_EOM), b"de");
        guest.send(message(52, 0, SEQ_EOM), b"");
        guest.run();
        let mut room = [0; 10];
        assert_eq!(stream.receive(&mut room, false).unwrap(), 5);
        assert_eq!(stream.receive(&mut room, false).unwrap(), 0);
        let credit =
            Header { kind: TYPE_SEQPACKET.into(), fwd_cnt: 8.into(), ..packet(52, OP_CREDIT_UPDATE) };
        guest.send(Header { buf_alloc: 1000.into(), ..credit }, b"");
        guest.run();
        stream.send(&[7; 1001]).unwrap();
        assert_eq!(guest.next_op(), OP_RST);
        assert_eq!(guest.refused("message_too_long"), 1);
    });
}

#[test]
fn endless_text_comes_as_far_as_there_is_room() {
    each(&["--service=19=chargen", "--service=9=discard"], |guest| {
        guest.send(Header { buf_alloc: 10_000.into(), ..packet(19, OP_REQUEST) }, b"");
        let (got, _) = guest.data();
        assert_eq!(got.len(), 10_000);
        assert!(got.starts_with(b"ABC") && got[64..].starts_with(b"ABC"));
        guest.send(Header { op: OP_REQUEST.into(), src_port: 1001.into(), ..packet(9, 1) }, b"");
        for _ in 0..100 {
            guest.send(Header { src_port: 1001.into(), ..data_packet(9, 60_000) }, &text(60_000));
            guest.run();
        }
        assert_eq!(guest.refused("credit"), 0);
        assert!(guest.device.status()["guest_to_host"]["bytes"].as_u64().unwrap() >= 6_000_000);
    });
}

#[test]
fn messages_without_bytes_that_the_host_has_no_room_for_arrive_later() {
    use outboard_streams::{Access, Address, Form, Listener};
    each_with_path(&[], |guest, path| {
        let address: Address = format!("seq:{}_52", path.display()).parse().unwrap();
        let listener = Listener::open(&address, Form::Messages, Access::Umask).unwrap();
        guest.send(of_messages(packet(52, OP_REQUEST), 1000, 0), b"");
        assert_eq!(guest.next_op(), OP_RESPONSE);
        let stream = listener.accept().unwrap().unwrap();
        // A socket has room for fewer, since it counts what each takes.
        const COUNT: usize = 4000;
        for _ in 0..COUNT {
            guest.send(of_messages(message(52, 0, SEQ_EOM), 1000, 0), b"");
            guest.run();
        }
        let mut came = 0;
        while came < COUNT {
            let before = came;
            while came < COUNT && stream.receive(&mut [0; 1], false).is_ok() {
                came += 1;
            }
            guest.run();
            assert!(came > before, "{came} came, and no more");
        }
    });
}

#[test]
fn credit_that_finds_no_buffer_is_told_when_there_is_one() {
    each_with_path(&["--buffer=256", "--buffer-max=256"], |guest, path| {
        let mut stream = meet(guest, path, 52);
        guest.buffers.0 = 0;
        // All of the buffers that are there, and whether there is more is not known.
        say(&mut stream, &text(16 * 4052));
        guest.run();
        // All that it may send.
        for len in [100_000, 100_000, 62_144] {
            guest.send(data_packet(52, len), &text(len));
            guest.run();
            assert_eq!(drain(&mut stream).len(), len);
            guest.run();
        }
        guest.post(16, 4096);
        let mut last = None;
        while let Some(Received { header, .. }) = guest.next() {
            last = Some((header.op.get(), header.buf_alloc.get(), header.fwd_cnt.get()));
        }
        assert_eq!(last, Some((OP_CREDIT_UPDATE, 256 << 10, 256 << 10)));
    });
}

#[test]
fn connection_with_much_to_give_leaves_buffers_to_the_others() {
    each_with_path(&["--service=19=chargen"], |guest, path| {
        let mut stream = meet(guest, path, 52);
        // The 16 that are there, and then one at a time.
        guest.post(1, 4096);
        guest.send(Header { buf_alloc: (1 << 20).into(), ..packet(19, OP_REQUEST) }, b"");
        say(&mut stream, b"hello");
        let all: Vec<Received> = std::iter::from_fn(|| guest.next()).collect();
        let at = all.iter().position(|packet| packet.data == b"hello").unwrap();
        assert!(all.len() > 200 && at < 40, "the {at}th of {}", all.len());
    });
}
