//! Guests on a switch, each behind a real socket and driven by the front end's driver, on both ring formats and both
//! engines.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use outboard_backend::{Crew, EngineChoice, Options as BackendOptions, Placement, Polling};
use outboard_device::defs::features::VIRTIO_F_IN_ORDER;
use outboard_device::defs::net::{F_MRG_RXBUF, Header};
use outboard_frontend::drivers::{Net, NetOptions as DriverOptions};
use outboard_frontend::{Format, Waiting};
use outboard_net::Switches;
use rig::{LONG, connect, driver, serve};

const ALL: [u8; 6] = [0xff; 6];

#[derive(Clone, Copy, Debug)]
struct Way {
    engine: EngineChoice,
    polling: Polling,
    driver: DriverOptions,
    /// All ports are served by one thread.
    crew: bool,
}

impl Way {
    fn crew(self) -> Option<Crew> {
        let polling = self.polling;
        let crew = || Crew::new("net", NonZeroU16::MIN, polling, &Placement::default()).unwrap();
        self.crew.then(crew)
    }
}

fn ways() -> impl Iterator<Item = Way> {
    let hosts = [
        (EngineChoice::Epoll, Polling::Off, false),
        (EngineChoice::IoUring, Polling::Off, false),
        (EngineChoice::Auto, Polling::default(), false),
        (EngineChoice::Epoll, Polling::Off, true),
        (EngineChoice::IoUring, Polling::default(), true),
    ];
    hosts.into_iter().flat_map(|(engine, polling, crew)| {
        [Format::Split, Format::Packed].into_iter().flat_map(move |format| {
            [F_MRG_RXBUF, F_MRG_RXBUF | VIRTIO_F_IN_ORDER].map(|features| {
                let driver = driver(format, DriverOptions::FEATURES & !F_MRG_RXBUF | features);
                Way { engine, polling, driver, crew }
            })
        })
    })
}

/// A guest, and the back end that serves it.
struct Guest {
    net: Net,
    number: u8,
    back_end: JoinHandle<()>,
}

impl Guest {
    fn new(switches: &Switches, number: u8, way: Way, crew: Option<&Crew>) -> Self {
        let Way { engine, polling, driver, .. } = way;
        let device = rig::open(switches, &["--backend=switch", "--queue-size=256"]).unwrap();
        let options = BackendOptions { engine, polling, crew: crew.cloned(), ..BackendOptions::default() };
        let (frontend, back_end) = serve(device, options);
        Self { net: Net::open(frontend, &driver).unwrap(), number, back_end }
    }

    fn mac(&self) -> [u8; 6] {
        mac(self.number)
    }

    /// Lets the others know where it is.
    fn announce(&mut self) {
        self.net.send(&packet(ALL, self.mac(), 0, 60)).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 10_000];
        let len = self.net.receive(&mut bytes, LONG).unwrap().expect("a packet arrives");
        bytes.truncate(len);
        bytes
    }

    /// Closes the connection, as it should be.
    fn end(self) {
        drop(self.net.close().unwrap());
        self.back_end.join().unwrap();
    }
}

fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, number]
}

/// Packet `number` of one guest for another.
fn packet(to: [u8; 6], from: [u8; 6], number: usize, len: usize) -> Vec<u8> {
    let mut packet = [&to[..], &from, &[0x88, 0xb5]].concat();
    packet.extend((packet.len()..len).map(|at| (number * 31 + at * 7 + at / 251) as u8));
    packet
}

#[test]
fn guests_receive_what_others_send_them() {
    for way in ways() {
        let (switches, crew) = (Switches::default(), way.crew());
        let [mut a, mut b, mut c] = [1, 2, 3].map(|number| Guest::new(&switches, number, way, crew.as_ref()));
        a.net.set_waiting(Waiting::Interrupt);
        a.announce();
        assert_eq!(b.receive(), packet(ALL, mac(1), 0, 60), "{way:?}");
        assert_eq!(c.receive(), packet(ALL, mac(1), 0, 60));
        for (number, len) in [14, 60, 64, 65, 1514, 2036, 2037, 9018].into_iter().enumerate() {
            let sent = packet(mac(1), mac(2), number, len);
            b.net.send(&sent).unwrap();
            assert_eq!(a.receive(), sent, "{way:?}");
            let sent = packet(mac(2), mac(1), number, len);
            a.net.send(&sent).unwrap();
            assert_eq!(b.receive(), sent, "{way:?}");
        }
        // Nothing of that was for c: what it receives next is this.
        a.net.send(&packet(mac(3), mac(1), 7, 60)).unwrap();
        assert_eq!(c.receive(), packet(mac(3), mac(1), 7, 60));
        [a, b, c].into_iter().for_each(Guest::end);
    }
}

/// More packets than the rings hold, both ways at once, as deep as there are buffers: in order and whole.
#[test]
fn guests_under_load_lose_nothing_that_there_is_room_for() {
    const COUNT: usize = 3000;
    const DEPTH: usize = 64;
    for way in ways() {
        let (switches, crew) = (Switches::default(), way.crew());
        let [mut a, mut b] = [1, 2].map(|number| Guest::new(&switches, number, way, crew.as_ref()));
        a.announce();
        b.receive();
        b.announce();
        a.receive();
        let received: Arc<[AtomicUsize; 2]> = Arc::default();
        let len = |number: usize| 60 + number * 37 % 1454;
        let threads = [(a, 0), (b, 1)].map(|(mut guest, me)| {
            let received = Arc::clone(&received);
            thread::spawn(move || {
                let (own, other) = (guest.mac(), mac(2 - me as u8));
                let (frontend, pairs) = guest.net.parts();
                let area = frontend.allocate(DEPTH * 2048).unwrap();
                let (rx, tx) = pairs[0].halves();
                let (mut sent, mut returned) = (0, 0);
                let start = Instant::now();
                while returned < COUNT || received[me].load(Ordering::SeqCst) < COUNT {
                    let arrived = received[1 - me].load(Ordering::SeqCst);
                    while sent < COUNT && sent - arrived.min(returned) < DEPTH {
                        let room = area.slice(sent % DEPTH * 2048, len(sent)).unwrap();
                        room.write_from(0, &packet(other, own, sent, len(sent))).unwrap();
                        tx.transmit(&Header::default(), &[room], sent as u64).unwrap();
                        sent += 1;
                    }
                    tx.publish().unwrap();
                    while let Some(token) = tx.poll().unwrap() {
                        assert_eq!(token, returned as u64);
                        returned += 1;
                    }
                    while let Some(next) = rx.poll().unwrap() {
                        let number = received[me].load(Ordering::SeqCst);
                        let mut bytes = vec![0; 2048];
                        let copied = rx.copy(&next, &mut bytes);
                        assert_eq!(bytes[..copied], packet(own, other, number, len(number)), "{way:?}");
                        rx.recycle(next).unwrap();
                        // Only then may the next one come.
                        rx.publish().unwrap();
                        received[me].store(number + 1, Ordering::SeqCst);
                    }
                    assert!(start.elapsed() < LONG, "{sent} sent, {returned} back, {received:?}, {way:?}");
                    thread::yield_now();
                }
                guest
            })
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap().end());
    }
}

/// Guests come and go, some without a word, while others send to them: the others get all of their packets back.
#[test]
fn guest_that_vanishes_costs_others_nothing_but_packets() {
    for way in ways() {
        let (switches, crew) = (Switches::default(), way.crew());
        let [mut a, mut b] = [1, 2].map(|number| Guest::new(&switches, number, way, crew.as_ref()));
        a.announce();
        b.receive();
        b.announce();
        a.receive();
        for round in 0..6 {
            let mut c = Guest::new(&switches, 3, way, crew.as_ref());
            c.announce();
            assert_eq!(a.receive()[6..12], mac(3));
            assert_eq!(b.receive()[6..12], mac(3));
            let (sender, stop) = (thread::spawn(move || flood(a)), Instant::now());
            while stop.elapsed() < Duration::from_millis(5) {
                c.net.send(&packet(mac(1), mac(3), 0, 60)).unwrap();
            }
            if round % 2 == 0 {
                c.end();
            } else {
                let Guest { net, back_end, .. } = c;
                drop(net);
                back_end.join().unwrap();
            }
            a = sender.join().unwrap();
            // Some of what c has sent may still be there.
            b.net.send(&packet(mac(1), mac(2), 99, 600)).unwrap();
            while a.receive() != packet(mac(1), mac(2), 99, 600) {}
            a.net.send(&packet(mac(2), mac(1), 98, 600)).unwrap();
            while b.receive() != packet(mac(2), mac(1), 98, 600) {}
        }
        [a, b].into_iter().for_each(Guest::end);
    }
}

/// Sends to guest 3 for a while, by and by, and has everything back.
fn flood(mut guest: Guest) -> Guest {
    let (frontend, pairs) = guest.net.parts();
    let room = frontend.allocate(1024).unwrap();
    room.write_from(0, &packet(mac(3), mac(1), 0, 1024)).unwrap();
    let (rx, tx) = pairs[0].halves();
    let (start, mut out) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_millis(30) || out > 0 {
        assert!(start.elapsed() < LONG, "{out} packets have not come back");
        if start.elapsed() < Duration::from_millis(20) && out < 128 {
            tx.transmit(&Header::default(), std::slice::from_ref(&room), 0).unwrap();
            tx.publish().unwrap();
            out += 1;
        }
        while tx.poll().unwrap().is_some() {
            out -= 1;
        }
        while let Some(next) = rx.poll().unwrap() {
            rx.recycle(next).unwrap();
        }
        rx.publish().unwrap();
    }
    guest
}

/// The program with two ports. Killed when dropped.
struct Program {
    child: std::process::Child,
    directory: tempfile::TempDir,
}

impl Program {
    fn start(options: [&str; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vhost-user-net"));
        command.args(["--log-level=warn", "--flood-pps=50", "--control", &path("control")]);
        for (name, options) in ["a", "b"].into_iter().zip(options) {
            command.arg(format!("--device=name={name},backend=switch,socket-path={},{options}", path(name)));
        }
        Self { child: command.spawn().unwrap(), directory }
    }

    fn connect<T>(&self, name: &str, by: impl Fn(UnixStream) -> T) -> T {
        let start = Instant::now();
        loop {
            match UnixStream::connect(self.directory.path().join(name)) {
                Ok(stream) => return by(stream),
                Err(error) => assert!(start.elapsed() < LONG, "{name}: {error}"),
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn guest(&self, name: &str) -> Net {
        Net::open(self.connect(name, connect), &DriverOptions::default()).unwrap()
    }

    fn ask(&self, request: &str) -> String {
        use std::io::{BufRead, BufReader, Write};
        self.connect("control", |mut stream| {
            writeln!(stream, "{request}").unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            line
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn program_joins_its_devices_and_those_that_come_later() {
    let program = Program::start(["vlan=7", "trunk=5-6,,7,,native=9,pairs=2"]);
    let (mut a, mut b) = (program.guest("a"), program.guest("b"));
    let mut bytes = vec![0; 2048];
    a.send(&packet(ALL, mac(1), 0, 60)).unwrap();
    let len = b.receive(&mut bytes, LONG).unwrap().unwrap();
    let sent = packet(ALL, mac(1), 0, 60);
    assert_eq!(bytes[..len], [&sent[..12], &[0x81, 0, 0, 7], &sent[12..]].concat());

    let path = program.directory.path().join("c");
    let added = program.ask(&format!(
        "{{\"command\": \"add\", \"arguments\": {{\"name\": \"c\", \"backend\": \"switch\", \"vlan\": 7, \
         \"socket-path\": {path:?}}}}}"
    ));
    assert!(added.contains("return"), "{added}");
    let mut c = program.guest("c");
    c.send(&packet(mac(1), mac(3), 1, 600)).unwrap();
    let len = a.receive(&mut bytes, LONG).unwrap().unwrap();
    assert_eq!(bytes[..len], packet(mac(1), mac(3), 1, 600));
    let fdb = program.ask("{\"command\": \"fdb\", \"device\": \"b\"}");
    assert!(fdb.contains("02:00:00:00:00:03") && fdb.contains("\"port\":\"c\""), "{fdb}");

    // What is lent to a port that is removed comes back.
    let removed = program.ask("{\"command\": \"remove\", \"device\": \"a\"}");
    assert!(removed.contains("return"), "{removed}");
    for number in 0..300 {
        c.send(&packet(mac(1), mac(3), number, 600)).unwrap();
    }
    let status = program.ask("{\"command\": \"status\", \"device\": \"c\"}");
    assert!(!status.contains("\"flood_limit\":0"), "{status}");
    drop(c.close().unwrap());
}
