//! Connections end.

use std::net::{Shutdown, TcpListener};

use outboard_device::serde_json::json;

use super::*;

#[test]
fn guest_that_closes_gets_its_rst_and_what_it_sent_arrives() {
    each_with_path(&[], |guest, path| {
        let mut stream = meet(guest, path, 52);
        let sent = text(200_000);
        for part in sent.chunks(50_000) {
            guest.send(data_packet(52, part.len()), part);
        }
        guest.send(shutdown(52, 3), b"");
        assert_eq!(guest.next_op(), OP_RST, "at once");
        let mut got = Vec::new();
        stream.set_nonblocking(true).unwrap();
        while got.len() < sent.len() {
            got.extend(drain(&mut stream));
            guest.run();
        }
        assert_eq!(got, sent);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "and then its end");
        assert_eq!(guest.device.status()["announced"], 0);
        assert!(guest.next().is_none());
    });
}

#[test]
fn each_half_is_closed_for_itself() {
    each_with_path(&[], |guest, path| {
        let mut stream = meet(guest, path, 52);
        guest.send(data_packet(52, 4), b"last");
        guest.send(shutdown(52, SHUTDOWN_SEND), b"");
        guest.run();
        let mut all = Vec::new();
        stream.set_nonblocking(false).unwrap();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"last");
        say(&mut stream, b"answer");
        assert_eq!(guest.data().0, b"answer");
        stream.shutdown(Shutdown::Write).unwrap();
        let end = guest.next().unwrap().header;
        assert_eq!(end.op.get(), OP_SHUTDOWN);
        guest.send(shutdown(52, 3), b"");
        assert_eq!(guest.next_op(), OP_RST);
        assert_eq!(guest.device.status()["connections"], 0);
    });
}

#[test]
fn end_of_one_half_is_answered_though_the_last_data_took_the_last_buffers() {
    each(&["--service=7=echo"], |guest| {
        guest.post(2, 4096);
        guest.send(Header { buf_alloc: 10.into(), ..packet(7, OP_REQUEST) }, b"");
        assert_eq!(guest.next_op(), OP_RESPONSE);
        guest.send(Header { buf_alloc: 10.into(), ..data_packet(7, 100) }, &text(100));
        guest.send(Header { buf_alloc: 10.into(), ..shutdown(7, SHUTDOWN_SEND) }, b"");
        assert_eq!(guest.next().unwrap().data, text(100)[..10]);
        assert_eq!(guest.next_op(), OP_CREDIT_REQUEST);
        guest.send(packet(7, OP_CREDIT_UPDATE), b"");
        assert_eq!(guest.next().unwrap().data, text(100)[10..]);
        let end = guest.next().unwrap().header;
        assert_eq!((end.op.get(), end.flags.get()), (OP_SHUTDOWN, SHUTDOWN_SEND));
    });
}

#[test]
fn host_that_shuts_one_way_hears_the_guest_still() {
    each_with_path(&[], |guest, path| {
        let mut stream = meet(guest, path, 52);
        say(&mut stream, b"question");
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(guest.next().unwrap().data, b"question");
        let end = guest.next().unwrap().header;
        assert_eq!((end.op.get(), end.flags.get()), (OP_SHUTDOWN, SHUTDOWN_SEND));
        guest.send(data_packet(52, 6), b"answer");
        guest.run();
        assert_eq!(drain(&mut stream), b"answer");
    });
}

#[test]
fn host_that_closes_is_told_of_as_both_ways_and_a_guest_that_is_silent_loses_the_connection() {
    each_with_path(&[], |guest, path| {
        for answers in [true, false] {
            let mut stream = meet(guest, path, 52 + u32::from(answers));
            let port = 52 + u32::from(answers);
            say(&mut stream, b"bye");
            drop(stream);
            assert_eq!(guest.next().unwrap().data, b"bye");
            let end = guest.next().unwrap().header;
            assert_eq!((end.op.get(), end.flags.get()), (OP_SHUTDOWN, 3));
            if answers {
                guest.send(packet(port, OP_RST), b"");
                guest.run();
            } else {
                guest.send(data_packet(port, 3), b"too");
                guest.pass(Duration::from_secs(7));
                assert!(guest.next().is_none());
                guest.pass(Duration::from_secs(2));
                assert_eq!(guest.next_op(), OP_RST);
            }
            assert_eq!(guest.device.status()["connections"], 0);
        }
    });
}

#[test]
fn host_that_takes_no_more_does_not_hold_up_the_guest() {
    each_with_path(&[], |guest, path| {
        let stream = meet(guest, path, 52);
        stream.shutdown(Shutdown::Read).unwrap();
        for _ in 0..20 {
            guest.send(data_packet(52, 50_000), &text(50_000));
            guest.run();
        }
        let ops: Vec<u16> =
            std::iter::from_fn(|| guest.next()).map(|packet| packet.header.op.get()).collect();
        assert!(ops.contains(&OP_SHUTDOWN), "{ops:?}");
        assert!(!ops.contains(&OP_RST), "{ops:?}");
    });
}

#[test]
fn rst_of_the_guest_closes_the_host_at_once() {
    each_with_path(&[], |guest, path| {
        let mut stream = meet(guest, path, 52);
        guest.send(packet(52, OP_RST), b"");
        assert!(guest.next().is_none(), "no RST for an RST");
        stream.set_nonblocking(false).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        let _again = guest.request(52);
        assert_eq!(guest.device.status()["resets"]["received"], 1);
    });
}

#[test]
fn connections_live_through_a_pause_and_not_through_a_new_start() {
    for format in [Format::Split, Format::Packed] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm");
        let option = format!("--uds-path={}", path.display());
        let mut guest = Guest::new(&[&option], format);
        let mut stream = meet(&mut guest, &path, 52);
        say(&mut stream, b"before");
        assert_eq!(guest.data().0, b"before");
        // Another handler goes on.
        let Guest { bench, mut device, .. } = guest;
        drop(bench);
        say(&mut stream, b"meanwhile");
        assert_eq!(device.status()["connections"], 1);
        let handler = device.handler(Group(0), Features(F_STREAM)).unwrap();
        let setup = Setup { queues: 3, ..Setup::new(format) };
        let mut guest =
            Guest { bench: Bench::with(handler, &setup), device, buffers: (0, 0), came: VecDeque::new() };
        guest.post(16, 4096);
        assert_eq!(guest.data().0, b"meanwhile");
        guest.send(data_packet(52, 5), b"after");
        guest.run();
        assert_eq!(drain(&mut stream), b"after");
        let Guest { bench, mut device, .. } = guest;
        drop(bench);
        device.forget(Group(0));
        stream.set_nonblocking(false).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn driver_whose_connections_are_not_here_is_told_by_an_event() {
    for format in [Format::Split, Format::Packed] {
        for begins in [true, false] {
            let mut device = Vsock::open(&options(&[]), &Arc::default()).unwrap();
            if begins {
                device.forget(Group(0));
            }
            let handler = device.handler(Group(0), Features(F_STREAM)).unwrap();
            let setup = Setup { queues: 3, ..Setup::new(format) };
            let mut bench = Bench::with(handler, &setup);
            bench.send(EVENTS, &[], &[4]);
            bench.run();
            assert_eq!(bench.receive(EVENTS).is_some(), !begins);
        }
    }
}

#[test]
fn guest_that_ends_both_ways_leaves_nothing_behind_of_what_a_service_has() {
    each(&["--service=7=echo"], |guest| {
        let without_room = |header: Header| Header { buf_alloc: 0.into(), ..header };
        guest.send(without_room(packet(7, OP_REQUEST)), b"");
        assert_eq!(guest.next_op(), OP_RESPONSE);
        guest.send(without_room(data_packet(7, 100)), &text(100));
        assert_eq!(guest.next_op(), OP_CREDIT_REQUEST);
        guest.send(without_room(shutdown(7, 3)), b"");
        assert_eq!(guest.next_op(), OP_RST);
        let status = guest.device.status();
        assert_eq!((status["connections"].as_u64(), status["announced"].as_u64()), (Some(0), Some(0)));
    });
}

/// Two guests that may talk to each other, of the context ids 5 and 6, and a connection from port 1000 to port 22.
fn connected_siblings(format: Format, kind: u16) -> (Guest, Guest) {
    let registry = Arc::default();
    let open = |cid: u32| {
        let mut options = options(&["--group=a"]);
        options.guest_cid = cid;
        Guest::of(Vsock::open(&options, &registry).unwrap(), format)
    };
    let (mut one, mut two) = (open(CID), open(6));
    // It sits where it can be asked.
    two.run();
    one.send(of_one(OP_REQUEST, kind), b"");
    one.run();
    assert_eq!(two.next_op(), OP_REQUEST);
    two.send(of_two(OP_RESPONSE, kind), b"");
    two.run();
    assert_eq!(one.next_op(), OP_RESPONSE);
    (one, two)
}

fn of_one(op: u16, kind: u16) -> Header {
    Header { dst_cid: 6.into(), kind: kind.into(), ..packet(22, op) }
}

fn of_two(op: u16, kind: u16) -> Header {
    let (src_cid, dst_cid) = (6.into(), u64::from(CID).into());
    Header { src_cid, dst_cid, src_port: 22.into(), kind: kind.into(), ..packet(1000, op) }
}

#[test]
fn sibling_that_takes_no_more_is_heard_of_before_anything_is_sent_to_it() {
    for (format, kind) in [(Format::Split, TYPE_STREAM), (Format::Packed, TYPE_SEQPACKET)] {
        let (mut one, mut two) = connected_siblings(format, kind);
        let deaf = Header { flags: SHUTDOWN_RECEIVE.into(), ..of_two(OP_SHUTDOWN, kind) };
        two.send(deaf, b"");
        two.run();
        let end = one.next().unwrap().header;
        assert_eq!((end.op.get(), end.flags.get()), (OP_SHUTDOWN, SHUTDOWN_RECEIVE));
        // It is told once, and what it says itself arrives still.
        two.send(deaf, b"");
        let len = 4.into();
        two.send(Header { len, flags: SEQ_EOM.into(), ..of_two(OP_RW, kind) }, b"last");
        two.run();
        assert_eq!(one.next().unwrap().data, b"last");
        two.send(Header { flags: SHUTDOWN_SEND.into(), ..of_two(OP_SHUTDOWN, kind) }, b"");
        assert_eq!(two.next_op(), OP_RST);
        let end = one.next().unwrap().header;
        assert_eq!((end.op.get(), end.flags.get()), (OP_SHUTDOWN, 3));
    }
}

#[test]
fn sibling_that_closes_ends_both_ways_at_once() {
    for (format, kind) in [(Format::Split, TYPE_STREAM), (Format::Packed, TYPE_SEQPACKET)] {
        let (mut one, mut two) = connected_siblings(format, kind);
        let len = 4.into();
        two.send(Header { len, flags: SEQ_EOM.into(), ..of_two(OP_RW, kind) }, b"last");
        two.send(Header { flags: 3.into(), ..of_two(OP_SHUTDOWN, kind) }, b"");
        assert_eq!(two.next_op(), OP_RST);
        assert_eq!(one.next().unwrap().data, b"last");
        let end = one.next().unwrap().header;
        assert_eq!((end.op.get(), end.flags.get()), (OP_SHUTDOWN, 3));
    }
}

#[test]
fn end_that_is_closed_after_its_news_were_looked_at_is_gone_all_the_same() {
    use crate::credit::Ours;
    use crate::flow::{End, Flow, State};
    use crate::packet::Key;
    use outboard_streams::{Form, pair};
    for form in [Form::Bytes, Form::Messages] {
        let (stream, other) = pair(form).unwrap();
        let key = Key { form, cid: 6, port: 22, guest_port: 1000 };
        let end = End::Stream { stream, flagged: false };
        let mut flow = Flow::new(key, State::Open, end, Ours::new(1000, 1000));
        drop(other);
        flow.source_ended();
        assert_eq!((flow.state, flow.said), (State::Closing, 3));
    }
}

#[test]
fn what_the_guest_sent_reaches_a_slow_reader_by_tcp_though_both_ways_are_shut() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Most of it has to wait at the sender's.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 8192).unwrap();
    let forward = format!("--forward=80=tcp:{}", listener.local_addr().unwrap());
    each(&[&forward], |guest| {
        let mut stream = guest.connect_to(80, &listener);
        let sent = text(100_000);
        for part in sent.chunks(50_000) {
            guest.send(data_packet(80, part.len()), part);
        }
        guest.send(shutdown(80, SHUTDOWN_SEND), b"");
        guest.run();
        stream.shutdown(Shutdown::Write).unwrap();
        let end = std::iter::repeat_with(|| guest.next()).flatten();
        let end = end.map(|packet| packet.header).find(|header| header.op.get() == OP_SHUTDOWN).unwrap();
        assert_eq!(end.flags.get(), 3);
        guest.send(packet(80, OP_RST), b"");
        guest.run();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).unwrap();
        assert!(got == sent, "{} bytes came", got.len());
    });
}

#[test]
fn messages_end_with_the_last_that_was_sent_though_the_end_was_not_heard_of() {
    use crate::credit::Ours;
    use crate::flow::{End, Flow, State};
    use crate::packet::Key;
    use outboard_streams::{Form, pair};
    let (stream, other) = pair(Form::Messages).unwrap();
    let key = Key { form: Form::Messages, cid: 2, port: 52, guest_port: 1000 };
    let end = End::Stream { stream, flagged: false };
    let mut flow = Flow::new(key, State::Open, end, Ours::new(1000, 1000));
    assert!(flow.theirs.update(1000, 0));
    for bytes in [&b""[..], b"reply"] {
        other.send(bytes).unwrap();
    }
    drop(other);
    for bytes in [&b""[..], b"reply"] {
        assert!(flow.take_message().unwrap());
        assert_eq!(flow.held.take().unwrap().bytes, bytes);
    }
    assert!(!flow.take_message().unwrap(), "nobody sent anything more");
    assert!(flow.held.is_none());
}

/// A connection that is over for the guest, and whose program takes nothing of what it sent.
fn undrained(guest: &mut Guest, path: &std::path::Path) -> UnixStream {
    const PART: u32 = 50_000;
    let stream = meet(guest, path, 52);
    let part = text(PART as usize);
    let (mut out, mut forwarded, mut room) = (0, 0, 256 << 10);
    while out - forwarded + PART <= room {
        guest.send(data_packet(52, part.len()), &part);
        out += PART;
        guest.send(packet(52, OP_CREDIT_REQUEST), b"");
        while let Some(Received { header, .. }) = guest.next() {
            (room, forwarded) = (header.buf_alloc.get(), header.fwd_cnt.get());
        }
    }
    guest.send(shutdown(52, 3), b"");
    assert_eq!(guest.next_op(), OP_RST);
    assert!(guest.next().is_none());
    stream
}

#[test]
fn connection_whose_program_takes_nothing_is_closed_by_command_and_leaves_nothing_behind() {
    each_with_path(&[], |guest, path| {
        let _stream = undrained(guest, path);
        let all = guest.command("connections", &json!({})).unwrap();
        assert_eq!(all[0]["state"], "draining");
        guest.command("close", &json!({ "id": all[0]["id"] })).unwrap();
        let status = guest.device.status();
        assert_eq!((status["connections"].as_u64(), status["announced"].as_u64()), (Some(0), Some(0)));
        assert!(guest.next().is_none(), "it was over for the guest");
    });
}

#[test]
fn connection_whose_program_takes_nothing_for_long_gives_its_place_to_another_and_not_before() {
    each_with_path(&["--max-connections=1"], |guest, path| {
        let mut stream = undrained(guest, path);
        let _other = listen(path, 53);
        assert_eq!(guest.request(53), OP_RST);
        guest.pass(Duration::from_millis(29_900));
        assert_eq!(guest.request(53), OP_RST);
        guest.pass(Duration::from_millis(200));
        assert_eq!(guest.device.status()["connections"], 1, "nobody wants its place");
        assert_eq!(guest.request(53), OP_RESPONSE);
        stream.set_nonblocking(false).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
    });
}

#[test]
fn reset_is_told_by_rst_where_no_events_go_through() {
    each(&["--service=7=echo"], |guest| {
        for events in [false, true] {
            guest.bench.enable(EVENTS, events);
            guest.bench.send(EVENTS, &[], &[4]);
            guest.connect(7);
            assert_eq!(guest.command("reset", &json!({})).unwrap(), json!({ "ended": 1 }));
            assert_eq!(guest.next_op(), if events { 0 } else { OP_RST });
            assert_eq!(guest.bench.receive(EVENTS).is_some(), events);
            assert_eq!(guest.device.status()["connections"], 0);
        }
    });
}
