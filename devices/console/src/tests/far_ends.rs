//! Who is at the far end, and comes, goes, and does not read.

use super::*;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[test]
fn client_of_a_unix_socket_comes_talks_and_goes() {
    for format in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let spec = format!("name=x,to=unix:{}", path.display());
        let mut rig = rig(&["--port", &spec], format, true);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        rig.greet();
        assert_eq!(rig.send(OUT_1, b"nobody hears it"), 1);
        let mut client = connect(&path);
        assert_eq!(rig.received(MESSAGES), [control(1, PORT_OPEN, 1)]);
        client.write_all(b"hello").unwrap();
        rig.refill(IN_1, 2, 8);
        assert_eq!(rig.received(IN_1), [b"hello"]);
        rig.send(OUT_1, b"hi");
        assert_eq!(read(&mut client), b"hi");
        // Another one waits for his turn.
        let mut next = connect(&path);
        next.write_all(b"next").unwrap();
        assert!(rig.received(IN_1).is_empty());
        drop(client);
        assert_eq!(rig.received(MESSAGES), [control(1, PORT_OPEN, 0), control(1, PORT_OPEN, 1)]);
        assert_eq!(rig.received(IN_1), [b"next"]);
        rig.command("hangup", &json!({ "port": 1 })).unwrap();
        assert_eq!(rig.received(MESSAGES), [control(1, PORT_OPEN, 0)]);
        assert_eq!(read(&mut next), b"");
        assert_eq!(rig.show(1)["dropped"], 15);
        drop(rig);
        assert!(!path.exists());
    }
}

#[test]
fn client_that_has_said_all_still_gets_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut rig = rig(&["--console", &format!("unix:{}", path.display())], Format::Split, false);
    let mut client = connect(&path);
    client.write_all(b"ls\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    rig.refill(IN, 3, 8);
    assert_eq!(rig.received(IN), [b"ls\n"]);
    rig.send(OUT, b"file\n");
    assert_eq!(read(&mut client), b"file\n");
    drop(client);
    rig.bench.run();
    assert_eq!(rig.show(0)["host_open"], false);
    let mut next = connect(&path);
    rig.bench.run();
    rig.send(OUT, b"again");
    assert_eq!(read(&mut next), b"again");
}

#[test]
fn client_of_the_console_that_does_not_read_holds_up_the_guest_for_a_moment_only() {
    for format in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut rig = rig(&["--console", &format!("unix:{}", path.display())], format, false);
        let mut client = connect(&path);
        rig.bench.run();
        let piece = [b'x'; 10_000];
        let mut sent = 0;
        while rig.send(OUT, &piece) == 1 {
            sent += piece.len();
        }
        // The one that waits is lost when the time is over, and those behind it are at once.
        rig.bench.pass(Duration::from_millis(249));
        assert!(rig.received(OUT).is_empty());
        rig.bench.pass(Duration::from_millis(2));
        assert_eq!(rig.received(OUT).len(), 1);
        assert_eq!(rig.send(OUT, &piece), 1);
        assert_eq!(rig.show(0)["dropped"], 20_000);
        // What had come before is all there, and the client that reads gets what follows.
        let mut got = 0;
        while rig.show(0)["waiting"] != 0 {
            got += read(&mut client).len();
            rig.bench.run();
        }
        assert_eq!(rig.send(OUT, b"news"), 1);
        got += read(&mut client).len();
        assert_eq!(got, sent + 4);
        assert_eq!(rig.show(0)["dropped"], 20_000);
    }
}

#[test]
fn client_of_the_console_that_is_slow_loses_nothing_whenever_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut rig = rig(&["--console", &format!("unix:{}", path.display())], Format::Split, false);
    let mut client = connect(&path);
    rig.bench.run();
    let text: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 253) as u8).collect();
    let mut pieces = text.chunks(10_000);
    let mut got = Vec::new();
    let mut room = [0; 40_000];
    while got.len() < text.len() {
        while rig.bench.outstanding(OUT) == 0
            && let Some(piece) = pieces.next()
        {
            rig.send(OUT, piece);
        }
        let len = client.read(&mut room).unwrap();
        got.extend_from_slice(&room[..len]);
        rig.bench.pass(Duration::from_millis(100));
        rig.received(OUT);
    }
    assert!(got == text);
    assert_eq!(rig.show(0)["dropped"], 0);
    // What it has read while nobody ran counts.
    while rig.send(OUT, &text[..10_000]) == 1 {}
    read(&mut client);
    rig.bench.pass(Duration::from_secs(5));
    assert_eq!((rig.received(OUT).len(), &rig.show(0)["dropped"]), (1, &json!(0)));
}

#[test]
fn client_that_does_not_read_has_the_guest_wait_and_nothing_is_lost() {
    for format in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let spec = format!("name=x,to=unix:{}", path.display());
        let mut rig = rig(&["--port", &spec], format, true);
        rig.greet();
        let mut client = connect(&path);
        rig.bench.run();
        let text: Vec<u8> = (0..2_000_000_u32).map(|at| (at % 253) as u8).collect();
        let mut pieces = text.chunks(50_000);
        let mut got = Vec::<u8>::new();
        for piece in pieces.by_ref().take(20) {
            rig.bench.send(OUT_1, &[piece], &[]);
        }
        let mut back = rig.received(OUT_1).len();
        assert!(back < 20, "the guest waits");
        // The console does not care.
        assert_eq!(rig.send(OUT, b"x"), 1);
        // Neither does a pause.
        rig.restart(false);
        let mut turn = 0;
        while got.len() < text.len() {
            turn += 1;
            assert!(turn < 10_000, "no progress at {}", got.len());
            got.extend(read(&mut client));
            back += rig.received(OUT_1).len();
            if rig.bench.outstanding(OUT_1) < 4
                && let Some(piece) = pieces.next()
            {
                rig.bench.send(OUT_1, &[piece], &[]);
            }
            rig.bench.pass(Duration::from_millis(1));
        }
        assert!(got == text && back + rig.received(OUT_1).len() == 40);
        // One that goes meanwhile lets the guest go on.
        for piece in text.chunks(50_000).take(20) {
            rig.bench.send(OUT_1, &[piece], &[]);
        }
        let back = rig.received(OUT_1).len();
        assert!(back < 20, "the guest waits");
        drop(client);
        rig.bench.run();
        rig.bench.pass(Duration::from_millis(1));
        assert_eq!(back + rig.received(OUT_1).len(), 20);
    }
}

#[test]
fn socket_that_is_connected_to_is_tried_until_somebody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let mut rig = rig(&["--console", &format!("unix-connect:{}", path.display())], Format::Split, false);
    rig.bench.run();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        for _ in 0..4 {
            rig.bench.pass(Duration::from_millis(300));
        }
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        rig.send(OUT, b"here I am");
        assert_eq!(read(&mut stream), b"here I am");
        // Gone, and come again.
    }
}

#[test]
fn tcp_takes_who_knows_the_token_and_nobody_keeps_him_out() {
    const TOKEN: &str = "0123456789abcdef";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    std::fs::write(&path, TOKEN).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let mut rig =
        rig(&["--console", &format!("tcp:127.0.0.1:0,token-file={}", path.display())], Format::Split, false);
    let address = rig.show(0)["to"].as_str().unwrap().strip_prefix("tcp:").unwrap().to_owned();
    let dial = |text: &str| {
        let mut stream = TcpStream::connect(&*address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    };
    let wrong = dial("0123456789abcdeX\n");
    let silent = dial("");
    let mut right = dial(&format!("{TOKEN}\nhello"));
    rig.refill(IN, 2, 16);
    let mut heard = Vec::new();
    for _ in 0..1000 {
        heard.extend(rig.received(IN).concat());
        std::thread::sleep(Duration::from_millis(u64::from(heard.is_empty())));
    }
    assert_eq!(heard, b"hello");
    rig.send(OUT, b"hi");
    let mut answer = [0; 2];
    right.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"hi");
    for (mut stream, is_sent_away) in [(wrong, true), (silent, false)] {
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let ended = matches!(stream.read(&mut [0]), Ok(0))
            || stream.take_error().unwrap().is_some_and(|error| error.kind() == ErrorKind::ConnectionReset);
        assert_eq!(ended, is_sent_away);
    }
}

#[test]
fn pseudo_terminal_has_a_link_while_it_lasts_and_its_size_is_the_guests() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("tty");
    let mut rig = rig(&["--console", &format!("pty:{}", link.display())], Format::Split, false);
    rig.bench.run();
    assert_eq!(rig.show(0)["host_open"], false);
    assert_eq!(rig.send(OUT, b"nobody"), 1);
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::NONBLOCK;
    let user = rustix::fs::open(&link, flags, rustix::fs::Mode::empty()).unwrap();
    let size = rustix::termios::Winsize { ws_col: 99, ws_row: 11, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&user, size).unwrap();
    rig.bench.pass(Duration::from_millis(300));
    assert_eq!(rig.show(0)["host_open"], true);
    assert_eq!(rig.show(0)["size"], "99x11");
    rig.device.settle();
    assert_eq!(rig.device.config()[..4], [99, 0, 11, 0]);
    rig.send(OUT, b"a\nb");
    let mut terminal = std::fs::File::from(user);
    assert_eq!(read(&mut terminal), b"a\nb", "it is raw");
    terminal.write_all(b"\x03x").unwrap();
    rig.refill(IN, 1, 8);
    assert_eq!(rig.received(IN), [b"\x03x"]);
    drop(terminal);
    rig.bench.pass(Duration::from_millis(300));
    assert_eq!(rig.show(0)["host_open"], false);
    drop(rig);
    assert!(std::fs::symlink_metadata(&link).is_err());
}

#[test]
fn file_gets_what_the_guest_sends_and_a_recording_too() {
    let dir = tempfile::tempdir().unwrap();
    let [log, cast] = ["log", "cast"].map(|name| dir.path().join(name));
    let spec = format!("file:{},record={}", log.display(), cast.display());
    let mut rig = rig(&["--console", &spec, "--size", "90x20"], Format::Packed, false);
    rig.send(OUT, b"one\n");
    rig.send(OUT, b"two\n");
    rig.command("resize", &json!({ "cols": 91, "rows": 21 })).unwrap();
    assert_eq!(std::fs::read(&log).unwrap(), b"one\ntwo\n");
    let cast = std::fs::read_to_string(&cast).unwrap();
    let lines: Vec<&str> = cast.lines().collect();
    assert!(lines[0].contains("\"width\":90") && lines.len() == 4, "{cast}");
    assert!(lines[1].ends_with(r#","o","one\n"]"#) && lines[3].ends_with(r#","r","91x21"]"#), "{cast}");
}
