//! Connections come to be, or are refused.

use super::*;

#[test]
fn guest_gets_to_a_program_that_listens_and_hears_at_once_where_none_does() {
    each_with_path(&[], |guest, path| {
        let mut stream = meet(guest, path, 52);
        guest.send(data_packet(52, 5), b"hello");
        guest.run();
        assert_eq!(drain(&mut stream), b"hello");
        say(&mut stream, b"welcome");
        let got = guest.next().unwrap();
        assert_eq!((got.header.op.get(), got.data.as_slice()), (OP_RW, &b"welcome"[..]));
        assert_eq!((got.header.src_port.get(), got.header.dst_port.get()), (52, 1000));
        assert_eq!(guest.request(53), OP_RST);
        drop(listen(path, 54));
        assert_eq!(guest.request(54), OP_RST, "its socket is still there");
        assert_eq!(guest.refused("nobody_listens"), 2);
    });
}

#[test]
fn program_that_says_connect_gets_to_the_guest_and_hears_ok_with_its_port() {
    each_with_path(&[], |guest, path| {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.set_nonblocking(true).unwrap();
        say(&mut stream, b"CONN");
        assert!(guest.next().is_none());
        say(&mut stream, b"ECT 1000\nearly");
        let request = guest.next().unwrap().header;
        assert_eq!((request.op.get(), request.dst_port.get()), (OP_REQUEST, 1000));
        assert_eq!((request.src_cid.get(), request.kind.get()), (CID_HOST, TYPE_STREAM));
        assert!(request.buf_alloc.get() > 0);
        let port = request.src_port.get();
        assert!(port >= 1 << 30);
        assert_eq!(drain(&mut stream), b"", "not before the guest has accepted");
        guest.send(packet(port, OP_RESPONSE), b"");
        guest.run();
        assert_eq!(drain(&mut stream), format!("OK {port}\n").as_bytes());
        assert_eq!(guest.data().0, b"early");
        guest.send(data_packet(port, 2), b"hi");
        guest.run();
        assert_eq!(drain(&mut stream), b"hi");
    });
}

#[test]
fn program_whose_line_is_none_or_does_not_end_is_let_go() {
    each_with_path(&[], |guest, path| {
        let mut wrong = UnixStream::connect(path).unwrap();
        say(&mut wrong, b"HELLO 1000\n");
        let mut endless = UnixStream::connect(path).unwrap();
        say(&mut endless, &[b'1'; 40]);
        let mut silent = UnixStream::connect(path).unwrap();
        guest.run();
        for stream in [&mut wrong, &mut endless] {
            stream.set_nonblocking(true).unwrap();
            assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_) if true));
            assert_ne!(
                stream.read(&mut [0; 1]).map_err(|error| error.kind()),
                Err(std::io::ErrorKind::WouldBlock)
            );
        }
        silent.set_nonblocking(true).unwrap();
        guest.pass(Duration::from_millis(4900));
        assert_eq!(silent.read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        guest.pass(Duration::from_millis(200));
        assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0);
        assert!(guest.next().is_none());
    });
}

#[test]
fn program_that_the_guest_refuses_or_never_answers_is_closed_without_ok() {
    each_with_path(&[], |guest, path| {
        for refuses in [true, false] {
            let mut stream = UnixStream::connect(path).unwrap();
            say(&mut stream, b"connect 1000\n");
            let request = guest.next().unwrap().header;
            if refuses {
                guest.send(packet(request.src_port.get(), OP_RST), b"");
                guest.run();
            } else {
                guest.pass(Duration::from_millis(2100));
                assert_eq!(guest.next_op(), OP_RST);
            }
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!(all, b"");
        }
        assert_eq!(guest.device.status()["connections"], 0);
    });
}

#[test]
fn rules_refuse_both_ways() {
    each_with_path(&["--service=7=echo", "--deny=7", "--allow-in=22"], |guest, path| {
        assert_eq!(guest.request(7), OP_RST);
        for (line, op) in [(&b"CONNECT 1000\n"[..], 0), (b"CONNECT 22\n", OP_REQUEST)] {
            let mut stream = UnixStream::connect(path).unwrap();
            say(&mut stream, line);
            assert_eq!(guest.next_op(), op);
        }
        assert_eq!(guest.refused("rules"), 2);
        let allowed = outboard_device::serde_json::json!({ "ports": "7" });
        guest.device.control("allow", &allowed).unwrap();
        guest.connect(7);
    });
}

#[test]
fn tcp_of_the_host_is_reached_and_reaches_the_guest_with_its_token() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("--forward=80=tcp:{}", listener.local_addr().unwrap());
    each(&[&forward], |guest| {
        let mut stream = guest.connect_to(80, &listener);
        guest.send(data_packet(80, 4), b"ping");
        guest.run();
        let mut got = [0; 4];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"ping");
        stream.write_all(b"pong").unwrap();
        let mut all = Vec::new();
        while all.len() < 4 {
            all.extend(guest.data().0);
        }
        assert_eq!(all, b"pong");
    });
}

#[test]
fn connections_are_no_more_than_may_be_and_their_places_are_used_again() {
    each(&["--service=7=echo", "--max-connections=3"], |guest| {
        for round in 0..50_u32 {
            let request = |port: u32| Header { src_port: (1000 + port).into(), ..packet(7, OP_REQUEST) };
            for port in 0..5 {
                guest.send(request(port), b"");
            }
            let ops: Vec<u16> = (0..5).map(|_| guest.next_op()).collect();
            assert_eq!(ops.iter().filter(|op| **op == OP_RESPONSE).count(), 3, "{ops:?}");
            assert_eq!(ops.iter().filter(|op| **op == OP_RST).count(), 2);
            assert_eq!(guest.refused("no_room"), u64::from(2 * (round + 1)));
            for port in 0..5 {
                guest.send(Header { op: OP_RST.into(), ..request(port) }, b"");
            }
            assert!(guest.next().is_none());
        }
        assert_eq!(guest.device.status()["announced"], 0);
    });
}

#[test]
fn siblings_with_a_group_in_common_talk_and_others_do_not() {
    for format in [Format::Split, Format::Packed] {
        let registry = Arc::default();
        let open = |cid: u32, group: &str| {
            let mut options = options(&[]);
            options.guest_cid = cid;
            options.group = vec![group.to_owned()];
            Vsock::open(&options, &registry).unwrap()
        };
        let mut one = Guest::of(open(CID, "a"), format);
        let mut two_options = options(&[]);
        two_options.group = vec!["a".to_owned()];
        assert!(Vsock::open(&two_options, &registry).is_err(), "the context id is taken");
        let far = open(7, "b");
        assert!(registry.sibling(CID, 7).is_none() && registry.sibling(CID, CID).is_none());
        let to = |cid: u64| Header { dst_cid: cid.into(), ..packet(22, OP_REQUEST) };
        for cid in [7, 8, 0, 1, 5] {
            one.send(to(cid), b"");
            assert_eq!(one.next_op(), OP_RST, "{cid}");
        }
        drop(far);
    }
}

#[test]
fn commands_are_carried_out_with_and_without_queues() {
    each_with_path(&["--service=7=echo"], |guest, path| {
        use outboard_device::serde_json::json;
        let at = format!("unix:{}.in", path.display());
        for (command, arguments) in [
            ("frobnicate", json!({})),
            ("connections", json!({ "all": true })),
            ("close", json!({})),
            ("forward", json!({ "port": 1, "to": "x" })),
            ("unforward", json!({ "port": 9 })),
            ("allow", json!({ "ports": "9-1" })),
            ("listen", json!({ "at": at })),
        ] {
            assert!(guest.device.control(command, &arguments).is_err(), "{command}");
        }
        guest.connect(7);
        let all = guest.command("connections", &json!({})).unwrap();
        assert_eq!((&all[0]["port"], &all[0]["state"]), (&json!(7), &json!("open")));
        guest.command("listen", &json!({ "at": at, "port": 99 })).unwrap();
        let stream = UnixStream::connect(format!("{}.in", path.display())).unwrap();
        let request = guest.next().unwrap().header;
        assert_eq!((request.op.get(), request.dst_port.get()), (OP_REQUEST, 99));
        drop(stream);
        guest.command("unlisten", &json!({ "at": at })).unwrap();
        assert!(guest.command("unlisten", &json!({ "at": at })).is_err());
        guest.command("close", &json!({ "id": all[0]["id"] })).unwrap();
        assert_eq!(guest.next_op(), OP_RST);
        guest.command("reset", &json!({})).unwrap();
        guest.bench.send(EVENTS, &[], &[4]);
        guest.run();
        let event = guest.bench.receive(EVENTS).unwrap();
        assert_eq!((event.len, event.outputs.concat()), (4, vec![0; 4]));
    });
}

#[test]
fn silent_callers_hold_up_nobody_at_another_entrance_and_make_room_where_they_are_when_they_go() {
    use outboard_streams::{Address, Dial, Form, Stream};
    each_with_path(&[], |guest, path| {
        let connect = |_| UnixStream::connect(path).unwrap();
        let mut silent: Vec<UnixStream> = (0..64).map(connect).collect();
        let mut late = connect(0);
        say(&mut late, b"CONNECT 1001\n");
        assert!(guest.next().is_none());
        let address: Address = format!("seq:{}.seqpacket", path.display()).parse().unwrap();
        let Dial::Open(other) = Stream::dial(&address, Form::Messages).unwrap() else {
            panic!("it is not there")
        };
        other.send(b"CONNECT 1002").unwrap();
        let asked = |guest: &mut Guest| guest.next().map(|packet| packet.header.dst_port.get());
        assert_eq!(asked(guest), Some(1002));
        assert_eq!(asked(guest), None);
        silent.pop();
        assert_eq!(asked(guest), Some(1001), "at once");
        silent.push(connect(0));
        let mut later = connect(0);
        say(&mut later, b"CONNECT 1003\n");
        assert_eq!(asked(guest), None);
        // More who come do not put it off.
        for _ in 0..5 {
            silent.push(connect(0));
            guest.pass(Duration::from_millis(1020));
        }
        let ports: Vec<_> = std::iter::from_fn(|| asked(guest)).collect();
        assert!(ports.contains(&1003), "{ports:?}");
    });
}
