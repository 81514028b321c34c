//! The input device (VIRTIO 1.3, 5.8). What comes of keys is asked of a socket that the user names, which presses them.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use outboard_vhost_user::ProtocolFeatures;
use outboard_virtio_defs::input::{
    AbsInfo, CFG_ABS_INFO, CFG_EV_BITS, CFG_ID_DEVIDS, CFG_ID_NAME, CFG_ID_SERIAL, CFG_PROP_BITS, CFG_UNSET,
    Config, Devids, Event,
};
use outboard_virtqueue::Format;
use zerocopy::{FromBytes, IntoBytes};

use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::Placed;
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::Answer;

/// What a driver asks.
const ASK: &str = "VIRTIO 1.3, 5.8.5.1";
/// What a device answers.
const ANSWER: &str = "VIRTIO 1.3, 5.8.5.2";

/// The checks of this group.
pub(super) const CHECKS: &[Check] = checks! {
    "input.select-unknown-empty", "of what is not known, nothing is told", ANSWER, unknown;
    "input.name", "the device has a name, and no end is told with it", "VIRTIO 1.3, 5.8.4; in use: Linux", name;
    "input.ids", "the ids are whole, if there are any", "VIRTIO 1.3, 5.8.4", ids;
    "input.bits", "there are events, and a type of events has codes", "VIRTIO 1.3, 5.8.4; in use: Linux", bits;
    "input.abs-info-of-bits", "each axis has a range, and what is no axis has none", "VIRTIO 1.3, 5.8.4; in use: Linux", axes;
    "input.size-zero-clears", "nothing is left of what was asked before", ANSWER, size_zero;
    "input.select-in-two-writes", "what is wanted may be written byte by byte, in either order", ASK, two_writes;
    "input.select-whole-struct", "what is wanted may be written with all of the configuration", "in use: QEMU", whole;
    "input.other-fields-ignored", "of such a write, nothing but what is wanted counts", "VIRTIO 1.3, 5.8.4; in use: QEMU", fields;
    "input.read-only-rest", "answers cannot be written", "VIRTIO 1.3, 5.8.4", read_only;
    "input.status-returned", "what the driver says comes back, with length 0", "VIRTIO 1.3, 5.8.6.2 and 2.7.8.2", returned;
    "input.status-short", "less than an event does no harm", "VIRTIO 1.3, 5.8.6 (a driver must not; a guest can)", short;
    "input.status-many", "several events in a buffer do no harm", "VIRTIO 1.3, 5.8.6 (a driver must not; a guest can)", many;
    "input.frames-whole", "what happens at a time has its end, and an event has a buffer", "VIRTIO 1.3, 5.8.6.2; in use: Linux", frames;
    "input.buffer-short", "a buffer that holds no event does no harm, and no event is lost", "VIRTIO 1.3, 5.8.6.1 (a driver must not; a guest can)", buffer_short;
};

/// Types of events, and what there is of them.
const EV_SYN: u16 = 0;
const EV_KEY: u16 = 1;
const EV_ABS: u8 = 3;
const KEY_A: u16 = 30;
const EVENT_LEN: u32 = size_of::<Event>() as u32;
/// What has no meaning to any device.
const UNKNOWN: [(u8, u8); 5] = [(0x04, 0), (0x0f, 1), (0x13, 0), (0x7f, 0x7f), (0xff, 0xff)];
/// A press of the key that is a letter on all keyboards.
const PRESS: &[u8] = b"{\"command\":\"press\",\"arguments\":{\"codes\":[\"KEY_A\"]}}\n";

fn is_input(cx: &Cx) -> Checked {
    if cx.kind == Kind::Input {
        return cx.needs(ProtocolFeatures::CONFIG);
    }
    Err(Stop::NotApplicable(format!("a device of type {}", cx.kind.name())))
}

/// A device that can be asked.
struct Asked(Session);

impl Asked {
    fn open(cx: &mut Cx) -> Checked<Self> {
        is_input(cx)?;
        Ok(Self(Session::open(cx, &Setup::new(Format::Split))?))
    }

    /// Writes to the configuration, which has to be taken.
    fn write(&mut self, offset: u32, data: &[u8]) -> Checked {
        match self.0.wire.try_config(offset, 0, data)? {
            Answer::Ack => Ok(()),
            _ => Err(Stop::fail(format!("{} bytes cannot be written at {offset}", data.len()))),
        }
    }

    fn config(&mut self) -> Checked<Config> {
        let bytes = self.0.wire.config(0, u32::try_from(size_of::<Config>())?, 0)?;
        Config::read_from_bytes(&bytes).map_err(|_| Stop::fail("a configuration of another length"))
    }

    /// What the device tells when it was asked for this.
    fn told(&mut self, select: u8, subsel: u8) -> Checked<Vec<u8>> {
        let config = self.config()?;
        ensure!(
            (config.select, config.subsel) == (select, subsel),
            "{select:#04x}, {subsel:#04x} were written, and are {:#04x}, {:#04x}",
            config.select,
            config.subsel
        );
        let told = config.data.get(..config.size.into());
        told.map(<[u8]>::to_vec)
            .ok_or_else(|| Stop::fail(format!("{} bytes are told, of {}", config.size, config.data.len())))
    }

    fn ask(&mut self, select: u8, subsel: u8) -> Checked<Vec<u8>> {
        self.write(0, &[select, subsel])?;
        self.told(select, subsel)
    }

    /// What every device tells: its name.
    fn name(&mut self) -> Checked<Vec<u8>> {
        let name = self.ask(CFG_ID_NAME, 0)?;
        ensure!(!name.is_empty(), "the device has no name");
        Ok(name)
    }
}

fn unknown(cx: &mut Cx) -> Checked {
    let mut device = Asked::open(cx)?;
    for (select, subsel) in UNKNOWN.into_iter().chain([(CFG_UNSET, 0)]) {
        let told = device.ask(select, subsel)?;
        ensure!(told.is_empty(), "of {select:#04x}, {subsel:#04x}, {told:02x?} is told");
    }
    Ok(())
}

fn name(cx: &mut Cx) -> Checked {
    let mut device = Asked::open(cx)?;
    let (name, serial) = (device.name()?, device.ask(CFG_ID_SERIAL, 0)?);
    for text in [name, serial] {
        ensure!(!text.contains(&0), "the text {text:02x?} has an end within");
    }
    Ok(())
}

fn ids(cx: &mut Cx) -> Checked {
    let told = Asked::open(cx)?.ask(CFG_ID_DEVIDS, 0)?.len();
    ensure!(told == 0 || told == size_of::<Devids>(), "the ids have {told} bytes");
    Ok(())
}

fn bits(cx: &mut Cx) -> Checked {
    let mut device = Asked::open(cx)?;
    let mut types = 0;
    for kind in 0..=0x1f {
        let told = device.ask(CFG_EV_BITS, kind)?;
        ensure!(
            told.is_empty() || told.iter().any(|byte| *byte != 0),
            "events of type {kind} have {} bytes without a code",
            told.len()
        );
        types += usize::from(!told.is_empty());
    }
    ensure!(types > 0, "the device has no events");
    Ok(())
}

fn axes(cx: &mut Cx) -> Checked {
    let mut device = Asked::open(cx)?;
    let bits = device.ask(CFG_EV_BITS, EV_ABS)?;
    let has = |axis: u8| bits.get(usize::from(axis / 8)).is_some_and(|byte| byte & 1 << (axis % 8) != 0);
    for axis in 0..0x40 {
        let told = device.ask(CFG_ABS_INFO, axis)?;
        if !has(axis) {
            ensure!(told.is_empty(), "{axis:#04x} is no axis, and has a range of {} bytes", told.len());
            continue;
        }
        let info = AbsInfo::read_from_bytes(&told)
            .map_err(|_| Stop::fail(format!("the axis {axis:#04x} has a range of {} bytes", told.len())))?;
        let [min, max] = [info.min, info.max].map(|bound| bound.get().cast_signed());
        ensure!(min <= max, "the axis {axis:#04x} goes from {min} to {max}");
    }
    if bits.is_empty() {
        cx.note("there are no axes".to_owned());
    }
    Ok(())
}

fn size_zero(cx: &mut Cx) -> Checked {
    let mut device = Asked::open(cx)?;
    for (select, subsel) in UNKNOWN {
        device.name()?;
        let told = device.ask(select, subsel)?;
        ensure!(told.is_empty(), "behind the name, of {select:#04x} {told:02x?} is told");
    }
    Ok(())
}

fn two_writes(cx: &mut Cx) -> Checked {
    let mut device = Asked::open(cx)?;
    let mut known = None;
    for kind in 1..=0x1f {
        let told = device.ask(CFG_EV_BITS, kind)?;
        known = known.or(Some((kind, told)).filter(|(_, told)| !told.is_empty()));
    }
    let (kind, expected) = known.ok_or_else(|| Stop::fail("the device has no events"))?;
    let bytes = [(0, CFG_EV_BITS), (1, kind)];
    for order in [[0, 1], [1, 0]] {
        device.ask(CFG_UNSET, 0)?;
        for at in order {
            let (offset, byte) = bytes.get(at).copied().unwrap_or_default();
            device.write(offset, &[byte])?;
        }
        let told = device.told(CFG_EV_BITS, kind)?;
        ensure!(told == expected, "written byte by byte, {told:02x?} is told instead of {expected:02x?}");
    }
    Ok(())
}

/// Writes all of the configuration, as it is but for what is wanted, or with other things behind that.
fn write_whole(device: &mut Asked, other: Option<u8>) -> Checked {
    let expected = device.name()?;
    device.ask(CFG_PROP_BITS, 0)?;
    let mut config = device.config()?;
    (config.select, config.subsel) = (CFG_ID_NAME, 0);
    if let Some(byte) = other {
        config.size = byte;
        config.data.fill(byte);
    }
    device.write(0, config.as_bytes())?;
    let told = device.told(CFG_ID_NAME, 0)?;
    ensure!(
        told == expected,
        "with all of the configuration, {told:02x?} is told instead of {expected:02x?}"
    );
    Ok(())
}

fn whole(cx: &mut Cx) -> Checked {
    write_whole(&mut Asked::open(cx)?, None)
}

fn fields(cx: &mut Cx) -> Checked {
    write_whole(&mut Asked::open(cx)?, Some(0x41))
}

fn read_only(cx: &mut Cx) -> Checked {
    let mut device = Asked::open(cx)?;
    let name = device.name()?;
    for offset in [2_u32, 8, 135] {
        // Refused or passed over: that is the device's affair.
        if device.0.wire.try_config(offset, 0, &[0x41])? == Answer::Closed {
            device = Asked::open(cx)?;
            device.name()?;
        }
        let told = device.told(CFG_ID_NAME, 0)?;
        ensure!(told == name, "the name can be written at {offset}: {told:02x?} instead of {name:02x?}");
    }
    Ok(())
}

fn returned(cx: &mut Cx) -> Checked {
    is_input(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        (0..8).try_for_each(|_| session.request().map(drop))
    })
}

/// Says something that no driver says; the device has to go on.
fn said(cx: &mut Cx, readable: &[Vec<u8>]) -> Checked {
    is_input(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let sample = session.sample()?;
        for bytes in readable {
            session.request_of(&Sample { readable: vec![bytes.clone()], ..sample.clone() })?;
        }
        session.request().map(drop)
    })
}

fn short(cx: &mut Cx) -> Checked {
    said(cx, &[vec![0x11], vec![0x11, 0, 1, 0, 0, 0, 0]])
}

fn many(cx: &mut Cx) -> Checked {
    said(cx, &[[0x11, 0, 1, 0, 0, 0, 0, 0].repeat(3), vec![0xff; 4096]])
}

/// A buffer for events of so many bytes.
fn buffer(len: u32) -> Sample {
    Sample { queue: 0, readable: Vec::new(), writable: vec![len], verify: |_, _| Ok(()) }
}

/// A device whose key can be pressed.
struct Pressed {
    session: Session,
    drive: UnixStream,
    /// The buffers that it has, by their numbers.
    out: Vec<Option<(Sample, Placed)>>,
}

impl Pressed {
    fn open(cx: &mut Cx, format: Format) -> Checked<Self> {
        let path = cx.drive.clone();
        let path =
            path.ok_or_else(|| Stop::Skip("no socket to press keys was named: --input-drive".to_owned()))?;
        let session = Session::ready(cx, &Setup { size: 64, ..Setup::new(format) })?;
        let drive =
            UnixStream::connect(&path).map_err(|error| Stop::Skip(format!("{}: {error}", path.display())))?;
        Ok(Self { session, drive, out: Vec::new() })
    }

    fn post(&mut self, len: u32) -> Checked {
        let sample = buffer(len);
        let Session { memory, rings, .. } = &mut self.session;
        let ring = rings.first_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = ring.place(memory, &sample, self.out.len() as u64)?;
        self.out.push(Some((sample, placed)));
        ring.publish()
    }

    fn press(&mut self) -> Checked {
        self.drive.write_all(PRESS).map_err(|error| Stop::Skip(format!("the socket to press keys: {error}")))
    }

    /// What the next buffer has: the length that it says, and its bytes.
    fn next(&mut self) -> Checked<(u32, Vec<u8>)> {
        let patience = self.session.patience;
        let Session { memory, rings, .. } = &mut self.session;
        let ring = rings.first_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let (token, len) = ring.returned(patience)?;
        let placed = self.out.get_mut(usize::try_from(token)?).and_then(Option::take);
        let (sample, placed) = placed.ok_or_else(|| Stop::fail("a buffer was returned twice"))?;
        Ok((len, ring.verify(memory, &sample, placed, len)?))
    }

    /// A key goes down and up, each with its end.
    fn is_pressed(&mut self) -> Checked {
        for wanted in [(EV_KEY, KEY_A, 1), (EV_SYN, 0, 0), (EV_KEY, KEY_A, 0), (EV_SYN, 0, 0)] {
            let (len, bytes) = loop {
                let next = self.next()?;
                // Those that are too short are of no use to the device.
                if next.0 > 0 || next.1.len() >= EVENT_LEN as usize {
                    break next;
                }
            };
            ensure!(len == EVENT_LEN, "an event has length {len}, in a buffer of {} bytes", bytes.len());
            let event = Event::read_from_prefix(&bytes).map(|(event, _)| event);
            let event = event.map_err(|_| Stop::fail("an event without room for it"))?;
            let found = (event.kind.get(), event.code.get(), event.value.get());
            ensure!(found == wanted, "{found:?} came, and not {wanted:?}");
        }
        Ok(())
    }
}

fn frames(cx: &mut Cx) -> Checked {
    is_input(cx)?;
    cx.each_format(|cx, format| {
        let mut device = Pressed::open(cx, format)?;
        (0..24).try_for_each(|_| device.post(EVENT_LEN))?;
        for _ in 0..3 {
            device.press()?;
            device.is_pressed()?;
        }
        Ok(())
    })
}

fn buffer_short(cx: &mut Cx) -> Checked {
    is_input(cx)?;
    cx.each_format(|cx, format| {
        let mut device = Pressed::open(cx, format)?;
        for len in [4, 1, EVENT_LEN, 7, EVENT_LEN, EVENT_LEN, EVENT_LEN] {
            device.post(len)?;
        }
        device.press()?;
        device.is_pressed()
    })
}
