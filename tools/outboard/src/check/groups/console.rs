//! The console device (VIRTIO 1.3, 5.3). What becomes of bytes is seen where port 0 gives back what it gets: of ours, with
//! `--console echo`.

use std::time::Duration;

use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::console::{
    CONSOLE_PORT, Config, Control, DEVICE_ADD, DEVICE_READY, F_EMERG_WRITE, F_MULTIPORT, PORT_NAME,
    PORT_OPEN, PORT_READY, RESIZE,
};
use outboard_virtqueue::Format;
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::check::catalogue::Check;
use crate::check::config::config_body;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::Placed;
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

const SPACE: &str = "VIRTIO 1.3, 5.3.4";
const MESSAGES: &str = "VIRTIO 1.3, 5.3.6.2";
const WRONG: &str = "VIRTIO 1.3, 5.3.6.2 (a driver must not; a guest can)";

/// The checks of this group.
pub(super) const CHECKS: &[Check] = checks! {
    "console.config-ports", "there is a port at least, and queues for all that there may be", SPACE, config_ports;
    "console.emergency", "a character may be written by the configuration before anything is set up", "VIRTIO 1.3, 5.3.5", emergency;
    "console.output", "output of any length comes back with length 0", "VIRTIO 1.3, 5.3.6", output;
    "console.echo", "bytes come back in order, also for a driver that knows one port only", "VIRTIO 1.3, 5.3.6", echo;
    "console.echo-split", "output may lie in buffers of any length", "VIRTIO 1.3, 2.7.4.1 and 5.3.6", echo_split;
    "console.silent-at-first", "nothing is said of ports before the driver is ready", MESSAGES, silent;
    "console.ready-adds-ports", "a driver that is ready is told of each port once, within their number", MESSAGES, adds;
    "console.failed-adds-none", "a driver that has failed is told of none", MESSAGES, failed;
    "console.port-ready", "what is said when a port is ready is about that port", MESSAGES, port_ready;
    "console.name", "a name is told without an end", MESSAGES, name;
    "console.message-room", "a message is not cut: a buffer that is too short is left out", MESSAGES, room;
    "console.control-short", "a message of the driver that is too short does no harm", WRONG, short;
    "console.control-unknown", "messages of other kinds, and of ports that there are not, are not answered", WRONG, unknown;
};

/// Where the rings are in a session: port 0 both ways, messages both ways.
const IN: usize = 0;
const OUT: usize = 1;
const HEARD: usize = 2;
const SAID: usize = 3;

/// Port, event, value, and what is behind them.
type Heard = (u32, u16, u16, Vec<u8>);

/// A driver, and buffers that the device has.
struct Driver {
    session: Session,
    out: Vec<(usize, u64, Sample, Placed)>,
    next: u64,
}

fn is_console(cx: &Cx) -> Checked {
    match cx.kind {
        Kind::Console => Ok(()),
        kind => Err(Stop::NotApplicable(format!("a device of type {}", kind.name()))),
    }
}

impl Driver {
    fn open(cx: &mut Cx, format: Format, features: u64) -> Checked<Self> {
        let setup = Setup { device_features: features, size: 64, ..Setup::new(format) };
        let mut session = Session::ready(cx, &setup)?;
        if features & F_MULTIPORT != 0 {
            for index in [2, 3] {
                let at = session.add_ring(index)?;
                session.start(at)?;
            }
        }
        Ok(Self { session, out: Vec::new(), next: 0 })
    }

    fn place(&mut self, at: usize, readable: Vec<Vec<u8>>, writable: Vec<u32>) -> Checked {
        let sample = Sample { queue: 0, readable, writable, verify: |_, _| Ok(()) };
        let Session { memory, rings, .. } = &mut self.session;
        let ring = rings.get_mut(at).ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = ring.place(memory, &sample, self.next)?;
        ring.publish()?;
        self.out.push((at, self.next, sample, placed));
        self.next += 1;
        Ok(())
    }

    /// What was written to the next buffer that comes back, with the length that the device gives.
    fn taken(&mut self, at: usize, patience: Duration) -> Checked<Option<Vec<u8>>> {
        let Session { memory, rings, .. } = &mut self.session;
        let ring = rings.get_mut(at).ok_or_else(|| Stop::lacks("a ring"))?;
        let Some((token, len)) = ring.returned_within(patience)? else { return Ok(None) };
        let place = self.out.iter().position(|(of, known, ..)| (*of, *known) == (at, token));
        let place = place.ok_or_else(|| Stop::fail("a buffer came back that was not out"))?;
        let (_, _, sample, placed) = self.out.swap_remove(place);
        let mut bytes = ring.verify(memory, &sample, placed, len)?;
        let len = usize::try_from(len)?;
        ensure!(len <= bytes.len(), "length {len} for {} bytes of room", bytes.len());
        bytes.truncate(len);
        Ok(Some(bytes))
    }

    /// Sends, and waits until that is taken.
    fn send(&mut self, at: usize, pieces: Vec<Vec<u8>>) -> Checked {
        self.place(at, pieces, Vec::new())?;
        let patience = self.session.patience;
        // What the device says of its length is looked at by `ring.verify`, and by `output`.
        self.taken(at, patience)?.map(drop).ok_or_else(|| Stop::fail("what was sent was not taken"))
    }

    fn say(&mut self, id: u32, event: u16, value: u16) -> Checked {
        let message = Control { id: id.into(), event: event.into(), value: value.into() };
        self.send(SAID, vec![message.as_bytes().to_vec()])
    }

    /// Gives the device buffers for messages.
    fn listen(&mut self, count: usize, room: u32) -> Checked {
        (0..count).try_for_each(|_| self.place(HEARD, Vec::new(), vec![room]))
    }

    /// All that the device says until it has said nothing for a while.
    fn heard(&mut self) -> Checked<Vec<Heard>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.taken(HEARD, LULL)? {
            let (message, rest) = Control::read_from_prefix(&bytes)
                .map_err(|_| Stop::fail(format!("a message of {} bytes", bytes.len())))?;
            all.push((message.id.get(), message.event.get(), message.value.get(), rest.to_vec()));
        }
        Ok(all)
    }

    /// The ports that a driver is told of that is ready.
    fn ports(&mut self) -> Checked<Vec<u32>> {
        self.say(0, DEVICE_READY, 1)?;
        let heard = self.heard()?;
        ensure!(!heard.is_empty(), "a driver that is ready is told of no port");
        heard
            .into_iter()
            .map(|(id, event, ..)| match event {
                DEVICE_ADD => Ok(id),
                _ => Err(Stop::fail(format!("event {event} for a port that is not ready"))),
            })
            .collect()
    }

    /// Sends bytes by port 0, and compares what comes back.
    fn echo(&mut self, pieces: Vec<Vec<u8>>) -> Checked {
        let sent = pieces.concat();
        for _ in 0..8 {
            self.place(IN, Vec::new(), vec![256])?;
        }
        self.send(OUT, pieces)?;
        let mut back = Vec::new();
        while back.len() < sent.len()
            && let Some(bytes) = self.taken(IN, if back.is_empty() { LULL } else { self.session.patience })?
        {
            back.extend(bytes);
        }
        if back.is_empty() {
            return Err(Stop::NotApplicable("port 0 does not give back what it gets".to_owned()));
        }
        ensure!(back == sent, "of {} bytes sent, others came back", sent.len());
        Ok(())
    }
}

fn each(cx: &mut Cx, features: u64, mut body: impl FnMut(&mut Driver) -> Checked) -> Checked {
    is_console(cx)?;
    if features & F_MULTIPORT != 0 {
        cx.needs_feature(F_MULTIPORT, "MULTIPORT")?;
    }
    cx.each_format(|cx, format| body(&mut Driver::open(cx, format, features)?))
}

fn config_ports(cx: &mut Cx) -> Checked {
    is_console(cx)?;
    cx.needs(ProtocolFeatures::CONFIG)?;
    cx.needs_feature(F_MULTIPORT, "MULTIPORT")?;
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    let bytes = session.wire.config(0, 12, 0)?;
    let config = Config::read_from_bytes(&bytes).map_err(|_| Stop::fail("no configuration"))?;
    let most = u64::from(config.max_nr_ports.get());
    ensure!(most > 0, "there may be no port at all");
    if let Some(queues) = session.offered_queues() {
        ensure!(queues >= 2 * most + 2, "{most} ports take {} queues; there are {queues}", 2 * most + 2);
    }
    Ok(())
}

fn emergency(cx: &mut Cx) -> Checked {
    is_console(cx)?;
    cx.needs(ProtocolFeatures::CONFIG | ProtocolFeatures::REPLY_ACK)?;
    cx.needs_feature(F_EMERG_WRITE, "EMERG_WRITE")?;
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    session.wire.ensure_set(Code::SET_CONFIG, &config_body(8, 0, &u32::from(b'!').to_le_bytes()), &[])
}

fn output(cx: &mut Cx) -> Checked {
    each(cx, 0, |driver| {
        for len in [1, 2, 15, 4095, 4096, 65536] {
            driver.place(OUT, vec![vec![b'x'; len]], Vec::new())?;
        }
        let patience = driver.session.patience;
        for _ in 0..6 {
            driver.taken(OUT, patience)?.ok_or_else(|| Stop::fail("output was not taken"))?;
        }
        Ok(())
    })
}

fn echo(cx: &mut Cx) -> Checked {
    each(cx, 0, |driver| driver.echo(vec![(0..1000_u32).map(|at| (at % 251) as u8).collect()]))
}

fn echo_split(cx: &mut Cx) -> Checked {
    each(cx, 0, |driver| {
        driver.echo(vec![vec![b'a'], vec![b'b'; 2], vec![b'c'; 300], vec![b'd'], vec![b'e'; 7]])
    })
}

fn silent(cx: &mut Cx) -> Checked {
    each(cx, F_MULTIPORT, |driver| {
        driver.listen(8, 64)?;
        let heard = driver.heard()?;
        ensure!(heard.is_empty(), "a driver that has said nothing hears {heard:?}");
        Ok(())
    })
}

fn adds(cx: &mut Cx) -> Checked {
    each(cx, F_MULTIPORT, |driver| {
        driver.listen(40, 64)?;
        let most = driver.session.wire.config(4, 4, 0)?;
        let most = most.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        let mut ports = driver.ports()?;
        let count = ports.len();
        ports.sort_unstable();
        ports.dedup();
        ensure!(ports.len() == count, "a port was told of twice");
        ensure!(ports.iter().all(|id| *id < most), "ports {ports:?}, of {most} at most");
        Ok(())
    })
}

fn failed(cx: &mut Cx) -> Checked {
    each(cx, F_MULTIPORT, |driver| {
        driver.listen(8, 64)?;
        driver.say(0, DEVICE_READY, 0)?;
        let heard = driver.heard()?;
        ensure!(heard.is_empty(), "a driver that has failed hears {heard:?}");
        Ok(())
    })
}

fn port_ready(cx: &mut Cx) -> Checked {
    each(cx, F_MULTIPORT, |driver| {
        driver.listen(40, 128)?;
        for port in driver.ports()? {
            driver.say(port, PORT_READY, 1)?;
            for (id, event, ..) in driver.heard()? {
                ensure!(id == port, "port {port} is ready, and event {event} is about port {id}");
                let known = [CONSOLE_PORT, RESIZE, PORT_OPEN, PORT_NAME].contains(&event);
                ensure!(known, "event {event} for a port that is ready");
            }
        }
        Ok(())
    })
}

fn name(cx: &mut Cx) -> Checked {
    let mut names = 0;
    each(cx, F_MULTIPORT, |driver| {
        driver.listen(40, 128)?;
        for port in driver.ports()? {
            driver.say(port, PORT_READY, 1)?;
            for (_, _, _, name) in driver.heard()?.iter().filter(|(_, event, ..)| *event == PORT_NAME) {
                names += 1;
                ensure!(!name.contains(&0), "the name of port {port} has a zero in it: {name:?}");
                ensure!(std::str::from_utf8(name).is_ok(), "the name of port {port} is no text: {name:?}");
            }
        }
        Ok(())
    })?;
    if names == 0 { Err(Stop::NotApplicable("no port has a name".to_owned())) } else { Ok(()) }
}

fn room(cx: &mut Cx) -> Checked {
    each(cx, F_MULTIPORT, |driver| {
        driver.listen(1, 7)?;
        driver.listen(40, 64)?;
        driver.say(0, DEVICE_READY, 1)?;
        let patience = driver.session.patience;
        let first = driver.taken(HEARD, patience)?;
        let first = first.ok_or_else(|| Stop::fail("a buffer of 7 bytes was kept"))?;
        ensure!(first.is_empty(), "{} bytes of a message of 8", first.len());
        let heard = driver.heard()?;
        ensure!(
            heard.iter().any(|(id, event, ..)| (*id, *event) == (0, DEVICE_ADD)),
            "port 0 was not told of"
        );
        Ok(())
    })
}

fn short(cx: &mut Cx) -> Checked {
    each(cx, F_MULTIPORT, |driver| {
        driver.listen(40, 64)?;
        for len in [1, 4, 7] {
            driver.send(SAID, vec![vec![0xff; len]])?;
        }
        driver.place(SAID, Vec::new(), vec![16])?;
        let patience = driver.session.patience;
        driver.taken(SAID, patience)?.ok_or_else(|| Stop::fail("a buffer to write to was kept"))?;
        driver.send(SAID, vec![vec![0xff; 5000]])?;
        driver.ports().map(drop)
    })
}

fn unknown(cx: &mut Cx) -> Checked {
    each(cx, F_MULTIPORT, |driver| {
        driver.listen(40, 64)?;
        for (id, event) in [(0, 8), (0, u16::MAX), (u32::MAX, PORT_READY), (1000, PORT_OPEN), (0, DEVICE_ADD)]
        {
            driver.say(id, event, 1)?;
        }
        let heard = driver.heard()?;
        ensure!(heard.is_empty(), "the answer to what makes no sense is {heard:?}");
        driver.ports().map(drop)
    })
}
