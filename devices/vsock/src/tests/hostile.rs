//! What no guest should do hurts nobody but itself.

use super::*;

fn check_alive(guest: &mut Guest) {
    let request = Header { src_port: 4242.into(), ..packet(7, OP_REQUEST) };
    guest.send(request, b"");
    while guest.next_op() != OP_RESPONSE {}
    guest.send(Header { src_port: 4242.into(), ..data_packet(7, 5) }, b"alive");
    assert_eq!(guest.data().0, b"alive");
    guest.send(Header { src_port: 4242.into(), ..packet(7, OP_RST) }, b"");
    guest.run();
}

#[test]
fn header_that_makes_no_sense_is_refused_and_the_device_lives() {
    each(&["--service=7=echo"], |guest| {
        guest.bench.send(QueueId(TX_QUEUE), &[&[0; 43]], &[]);
        guest.run();
        let source = Header { src_cid: 6.into(), ..packet(7, OP_REQUEST) };
        guest.send(source, b"");
        assert!(guest.next().is_none());
        let cases = [
            Header { kind: 9.into(), ..packet(7, OP_REQUEST) },
            Header { dst_cid: u64::MAX.into(), ..packet(7, OP_REQUEST) },
            packet(u32::MAX, OP_REQUEST),
            packet(7, 0),
            packet(7, 8),
            packet(7, OP_RESPONSE),
            packet(7, OP_CREDIT_UPDATE),
            data_packet(7, 100),
            shutdown(7, 3),
        ];
        for header in cases {
            guest.send(header, b"");
            assert_eq!(guest.next_op(), OP_RST, "{header:?}");
            guest.send(Header { op: OP_RST.into(), ..header }, b"");
            assert!(guest.next().is_none(), "no RST for an RST");
        }
        check_alive(guest);
    });
}

#[test]
fn connection_whose_rules_are_broken_ends() {
    let cases: [(Header, usize, &str); 5] = [
        (packet(7, OP_REQUEST), 0, "state"),
        (data_packet(7, 11), 10, "length"),
        (Header { fwd_cnt: 1.into(), ..packet(7, OP_CREDIT_UPDATE) }, 0, "credit"),
        (packet(7, 77), 0, "operation"),
        (data_packet(7, (256 << 10) + 1), (256 << 10) + 1, "credit"),
    ];
    for (header, len, why) in cases {
        each(&["--service=7=echo"], |guest| {
            guest.connect(7);
            guest.send(header, &vec![1; len]);
            assert_eq!(guest.next_op(), OP_RST, "{why}");
            assert_eq!(guest.refused(why), 1, "{why}");
            assert!(guest.next().is_none());
            check_alive(guest);
        });
    }
}

#[test]
fn data_after_the_announced_end_are_refused() {
    each_with_path(&["--service=7=echo"], |guest, path| {
        let _stream = meet(guest, path, 52);
        guest.send(shutdown(52, SHUTDOWN_SEND), b"");
        guest.send(data_packet(52, 1), b"x");
        guest.run();
        let ops: Vec<u16> =
            std::iter::from_fn(|| guest.next()).map(|packet| packet.header.op.get()).collect();
        assert!(ops.contains(&OP_RST), "{ops:?}");
        check_alive(guest);
    });
}

#[test]
fn flood_of_packets_that_are_refused_takes_bounded_room() {
    each(&["--service=7=echo", "--queue-size=64"], |guest| {
        guest.buffers.0 = 0;
        for round in 0..200_u32 {
            for port in 0..20 {
                guest.send(Header { src_port: (round * 20 + port).into(), ..packet(9, OP_REQUEST) }, b"");
            }
            guest.run();
            assert_eq!(guest.bench.outstanding(QueueId(TX_QUEUE)), 0);
        }
        let unanswered = guest.device.status()["unanswered"].as_u64().unwrap();
        assert!(unanswered >= 4000 - 64 - 16, "{unanswered}");
        guest.post(16, 4096);
        while guest.next_op() == OP_RST {}
        check_alive(guest);
    });
}

#[test]
fn receive_buffers_of_no_use_are_given_back() {
    each(&["--service=7=echo"], |guest| {
        guest.buffers.0 = 0;
        guest.run();
        for len in [1, 43, 44] {
            guest.bench.send(QueueId(RX_QUEUE), &[], &[len]);
        }
        guest.post(40, 300);
        check_alive(guest);
    });
}

#[test]
fn messages_without_bytes_take_bounded_room() {
    each(&["--service=7=echo"], |guest| {
        let of_messages = |header: Header| Header { kind: TYPE_SEQPACKET.into(), ..header };
        guest.send(of_messages(packet(7, OP_REQUEST)), b"");
        assert_eq!(guest.next_op(), OP_RESPONSE);
        // No others than those that are there: most of what is given back has no place.
        guest.post(0, 0);
        let mut sent = 0;
        while guest.refused("credit") == 0 {
            assert!(sent < 4096 + 64, "they need no credit, and are kept without end");
            guest.send(Header { flags: SEQ_EOM.into(), ..of_messages(packet(7, OP_RW)) }, b"");
            guest.run();
            sent += 1;
        }
        assert!(sent > 4096, "as many as may wait");
    });
}
