//! The input devices of the host, by their event interface (evdev). The kernel is trusted; devices come and go.

mod ioctl;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use outboard_device::defs::input::Devids;
use outboard_device::{Cx, DeviceError, SourceId};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::config::{Abilities, Bits, TEXT_MAX};
use crate::frame::{
    ABS_MT_FIRST, ABS_MT_LAST, ABS_MT_SLOT, ABS_MT_TRACKING_ID, Change, EV_ABS, EV_KEY, EV_LED, EV_MSC,
    EV_REL, EV_REP, EV_SND, EV_SW, EV_SYN, Frame, Gathering, SYN_DROPPED, SYN_REPORT,
};
use crate::state::{Picture, SLOTS};

/// Events that are read at a time, and how often before others have their turn.
const BATCH: usize = 64;
const TURNS: usize = 16;

/// The value of a key that stays down.
const REPEATED: i32 = 2;

/// The event of a 64-bit kernel (`struct input_event`).
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct KernelEvent {
    time: [u64; 2],
    kind: u16,
    code: u16,
    value: i32,
}

/// An input device of the host.
pub(crate) struct Source {
    path: PathBuf,
    /// `None`: it is gone.
    device: Option<OwnedFd>,
    abilities: Abilities,
    /// Whether others on the host are not to hear of it, and whether they do not.
    grab: bool,
    grabbed: bool,
    readable: bool,
    armed: bool,
    gathering: Gathering,
    /// The kernel has dropped events: what comes until the end of the frame is void.
    dropping: bool,
    /// What is pressed has to be asked for.
    unknown: bool,
    is: Picture,
}

/// What a look brought.
pub(crate) struct Read {
    pub(crate) frames: Vec<Frame>,
    pub(crate) lost: bool,
}

impl Source {
    /// # Errors
    /// There is no such device, or it is none for input.
    pub(crate) fn open(path: &Path, grab: bool) -> Result<Self, DeviceError> {
        let failed = |what: &str, error| DeviceError::host(format!("{}{what}", path.display()), error);
        let device = open(path).map_err(|error| failed("", error.into()))?;
        let abilities =
            abilities(&device).map_err(|error| failed(" is no input device with events", error))?;
        Ok(Self::over(path, device, abilities, grab))
    }

    fn over(path: &Path, device: OwnedFd, abilities: Abilities, grab: bool) -> Self {
        Self {
            path: path.to_owned(),
            device: Some(device),
            abilities,
            grab,
            grabbed: false,
            readable: false,
            armed: false,
            gathering: Gathering::default(),
            dropping: false,
            unknown: true,
            is: Picture::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn abilities(&self) -> &Abilities {
        &self.abilities
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.device.is_none()
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.readable
    }

    pub(crate) fn found_readable(&mut self) {
        self.readable = true;
        self.armed = false;
    }

    /// A handler begins with it, or it may be back. False: it is gone.
    ///
    /// # Errors
    /// Another program has it for itself, or it cannot be watched: it is gone until the next time.
    pub(crate) fn begin<Op>(&mut self, cx: &mut Cx<'_, Op>, id: SourceId) -> Result<bool, DeviceError> {
        if self.device.is_none() {
            let is_it = |device: &OwnedFd| abilities(device).is_ok_and(|found| found == self.abilities);
            self.device = open(&self.path).ok().filter(is_it);
        }
        let used = self.make_use(cx, id);
        if used.is_err() {
            (self.device, self.grabbed) = (None, false);
        }
        used
    }

    fn make_use<Op>(&mut self, cx: &mut Cx<'_, Op>, id: SourceId) -> Result<bool, DeviceError> {
        let Some(device) = &self.device else { return Ok(false) };
        let failed = |what: &str, error| DeviceError::host(format!("{what} {}", self.path.display()), error);
        if self.grab && !self.grabbed {
            match ioctl::grab(device.as_fd(), true) {
                Ok(()) => self.grabbed = true,
                // It went while nobody looked: who reads it hears so.
                Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => {}
                Err(error) => return Err(failed("cannot have alone", error)),
            }
        }
        cx.watch_once(device.as_fd(), id).map_err(|error| failed("cannot watch", error))?;
        (self.readable, self.armed, self.unknown) = (true, true, true);
        Ok(true)
    }

    /// The guest is gone: the host has it again.
    pub(crate) fn release(&mut self) {
        if let Some(device) = self.device.as_ref().filter(|_| self.grabbed) {
            // The device is gone at worst, and the grab with it.
            let _ = ioctl::grab(device.as_fd(), false);
        }
        self.grabbed = false;
    }

    /// Before the worker sleeps: asks for what comes next.
    pub(crate) fn rest<Op>(&mut self, cx: &mut Cx<'_, Op>, id: SourceId) {
        if self.device.is_some() && !self.readable && !self.armed {
            self.armed = true;
            cx.rearm(id);
        }
    }

    /// Reads what is there, or the first of it. If the guest makes `repeats` of keys that stay down by itself, it is told none.
    pub(crate) fn read(&mut self, repeats: bool) -> Read {
        let mut frames = Vec::new();
        let mut events = [KernelEvent::new_zeroed(); BATCH];
        for _ in 0..TURNS {
            let Some(device) = &self.device else { break };
            if std::mem::take(&mut self.unknown) {
                frames.extend(self.look());
                continue;
            }
            match rustix::io::read(device, events.as_mut_bytes()) {
                Ok(count) if count > 0 => {
                    for event in events.iter().take(count / size_of::<KernelEvent>()) {
                        self.take(*event, repeats, &mut frames);
                    }
                }
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    break;
                }
                Err(Errno::INTR) => {}
                ended => {
                    frames.push(self.lose());
                    let reason = ended.err().unwrap_or(Errno::NODEV);
                    tracing::warn!("{} is gone: {reason}", self.path.display());
                    return Read { frames, lost: true };
                }
            }
        }
        Read { frames, lost: false }
    }

    fn take(&mut self, event: KernelEvent, repeats: bool, frames: &mut Vec<Frame>) {
        let change = Change::new(event.kind, event.code, event.value);
        match (change.kind, change.code) {
            (EV_SYN, SYN_DROPPED) => {
                self.gathering.clear();
                self.dropping = true;
            }
            (EV_SYN, SYN_REPORT) if std::mem::take(&mut self.dropping) => self.unknown = true,
            _ if self.dropping => {}
            // What the guest, or somebody else, has switched: whoever has opened a device hears it, also who did it.
            (EV_LED | EV_SND | EV_REP, _) => {}
            (EV_KEY, _) if repeats && change.value == REPEATED => {}
            _ => {
                let frame = self.gathering.add(change);
                frame.iter().flat_map(|frame| &frame.changes).for_each(|change| self.is.apply(*change));
                frames.extend(frame);
            }
        }
    }

    /// What is pressed, and where axes are, by asking.
    fn look(&mut self) -> Option<Frame> {
        let device = self.device.as_ref()?.as_fd();
        let mut changes = Vec::new();
        for (kind, number) in [(EV_KEY, ioctl::KEYS), (EV_SW, ioctl::SWITCHES)] {
            let Some(codes) = self.abilities.codes.get(&kind) else { continue };
            let mut bits = Bits::default();
            ioctl::read(device, number, bits.room()).ok()?;
            changes.extend(codes.iter().map(|code| Change::new(kind, code, bits.has(code).into())));
        }
        let is_contact = |code: &u16| (ABS_MT_FIRST..=ABS_MT_LAST).contains(code) || *code == ABS_MT_SLOT;
        let (contacts, axes): (Vec<u16>, Vec<u16>) =
            self.abilities.axes.keys().partition(|code| is_contact(code));
        for code in axes {
            changes.push(Change::new(EV_ABS, code, ioctl::axis(device, code).ok()?.0));
        }
        if let Some(slots) = self.abilities.axes.get(&ABS_MT_SLOT) {
            let slots = slots.max.get().cast_signed().saturating_add(1).clamp(0, SLOTS);
            for code in contacts.into_iter().filter(|code| *code != ABS_MT_SLOT) {
                let values = ioctl::contacts(device, code, slots).ok()?;
                for (slot, value) in (0..).zip(values) {
                    changes.push(Change::new(EV_ABS, ABS_MT_SLOT, slot));
                    changes.push(Change::new(EV_ABS, code, value));
                }
            }
            changes.push(Change::new(EV_ABS, ABS_MT_SLOT, ioctl::axis(device, ABS_MT_SLOT).ok()?.0));
        }
        changes.iter().for_each(|change| self.is.apply(*change));
        Some(Frame { changes, as_state: true })
    }

    /// It is gone: nothing of it is pressed any more.
    fn lose(&mut self) -> Frame {
        (self.device, self.grabbed, self.readable, self.dropping) = (None, false, false, false);
        self.gathering.clear();
        let is = std::mem::take(&mut self.is);
        let keys = self.abilities.codes.get(&EV_KEY).into_iter().flat_map(Bits::iter);
        let pressed = keys.filter(|code| is.is_pressed(*code));
        let mut changes: Vec<_> = pressed.map(|code| Change::new(EV_KEY, code, 0)).collect();
        for slot in is.contacts() {
            changes.push(Change::new(EV_ABS, ABS_MT_SLOT, slot));
            changes.push(Change::new(EV_ABS, ABS_MT_TRACKING_ID, -1));
        }
        Frame { changes, as_state: false }
    }

    /// The guest has switched something on or off.
    pub(crate) fn feedback(&mut self, change: Change) {
        let knows = self.abilities.has(change.kind, change.code);
        let Some(device) = self.device.as_ref().filter(|_| knows) else { return };
        let events = [change, Change::SYN].map(|Change { kind, code, value }| KernelEvent {
            time: [0; 2],
            kind,
            code,
            value,
        });
        // A device that is gone is noticed when it is read.
        let _ = rustix::io::write(device, events.as_bytes());
    }
}

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    match rustix::fs::open(path, flags | OFlags::RDWR, Mode::empty()) {
        // Its lights cannot be switched then.
        Err(Errno::ACCESS | Errno::ROFS) => rustix::fs::open(path, flags | OFlags::RDONLY, Mode::empty()),
        result => result,
    }
}

/// What the kernel knows of a device.
fn abilities(device: &OwnedFd) -> std::io::Result<Abilities> {
    let device = device.as_fd();
    let mut id = [[0; 2]; 4];
    ioctl::read(device, ioctl::ID, id.as_mut_bytes())?;
    let [bustype, vendor, product, version] = id.map(|half| u16::from_ne_bytes(half).into());
    // A serial number is not always there.
    let text = |number| ioctl::text(device, number, TEXT_MAX).unwrap_or_default();
    let mut abilities = Abilities {
        name: text(ioctl::NAME),
        serial: text(ioctl::UNIQUE),
        ids: Devids { bustype, vendor, product, version },
        ..Abilities::default()
    };
    ioctl::read(device, ioctl::PROPERTIES, abilities.props.room())?;
    let bits = |kind: u16| {
        let mut bits = Bits::default();
        ioctl::read(device, ioctl::BITS + kind as u8, bits.room()).map(|_| bits)
    };
    for kind in [EV_KEY, EV_REL, EV_ABS, EV_MSC, EV_SW, EV_LED, EV_SND] {
        let codes = bits(kind)?;
        if codes.iter().next().is_some() {
            abilities.codes.insert(kind, codes);
        }
    }
    if bits(EV_SYN)?.has(EV_REP) {
        abilities = abilities.with(EV_REP, [0, 1]);
    }
    let axes: Vec<u16> = abilities.codes.get(&EV_ABS).into_iter().flat_map(Bits::iter).collect();
    for code in axes {
        abilities.axes.insert(code, ioctl::axis(device, code)?.1);
    }
    Ok(abilities)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::net::UnixStream;

    use outboard_device::testing::{Bench, Format};
    use outboard_device::{Chain, Flow, Handler};

    use super::*;

    const SYN: (u16, u16, i32) = (EV_SYN, SYN_REPORT, 0);

    /// A device of the host, and who uses it: a socket has no ioctl, so it has to be shared, and nothing is known when it begins.
    pub(crate) fn fake(abilities: &Abilities, grab: bool) -> (Source, UnixStream) {
        let (device, user) = UnixStream::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        user.set_nonblocking(true).unwrap();
        (Source::over(Path::new("/dev/fake"), device.into(), abilities.clone(), grab), user)
    }

    /// Has events happen, or the lights of a keyboard switched.
    pub(crate) fn happen(mut user: &UnixStream, events: &[(u16, u16, i32)]) {
        let event = |&(kind, code, value): &_| KernelEvent { time: [7; 2], kind, code, value };
        let events: Vec<KernelEvent> = events.iter().map(event).collect();
        std::io::Write::write_all(&mut user, events.as_bytes()).unwrap();
    }

    fn keyboard() -> Abilities {
        Abilities::default().with(EV_KEY, 1..=58).with(EV_LED, 0..=2).with(EV_SND, 0..=2).with(EV_REP, 0..=1)
    }

    fn read(source: &mut Source, repeats: bool) -> Vec<(u16, u16, i32)> {
        let read = source.read(repeats);
        assert!(!read.lost);
        let changes = read.frames.into_iter().flat_map(|frame| frame.changes);
        changes.map(|change| (change.kind, change.code, change.value)).collect()
    }

    #[test]
    fn what_the_guest_switches_does_not_come_back_as_something_that_happened() {
        let (mut source, user) = fake(&keyboard(), false);
        happen(&user, &[(EV_LED, 1, 1), SYN, (EV_SND, 2, 440), (EV_KEY, 30, 1), (EV_REP, 0, 250), SYN]);
        assert_eq!(read(&mut source, true), [(EV_KEY, 30, 1)]);
    }

    #[test]
    fn repeats_are_left_to_a_guest_that_makes_its_own() {
        for (repeats, frames) in [(true, 2), (false, 3)] {
            let (mut source, user) = fake(&keyboard(), false);
            happen(&user, &[(EV_KEY, 30, 1), SYN, (EV_KEY, 30, 2), SYN, (EV_KEY, 30, 0), SYN]);
            assert_eq!(read(&mut source, repeats).len(), frames);
        }
    }

    /// Begins with a source, as often as it is kicked.
    struct Beginner(Source, Vec<bool>);

    impl Handler for Beginner {
        type Op = ();

        fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
            self.1.push(self.0.begin(cx, SourceId(0)).is_ok());
            cx.done(chain)
        }
    }

    #[test]
    fn device_that_somebody_else_has_alone_is_gone_and_looked_for_again() {
        // A socket cannot be had alone.
        let (source, _user) = fake(&keyboard(), true);
        let mut bench = Bench::new(Beginner(source, Vec::new()), Format::Split);
        bench.request(&[b"x"], &[]);
        let Beginner(source, begun) = bench.handler();
        assert_eq!(*begun, [false]);
        assert!(source.is_lost() && !source.is_readable() && !source.grabbed);
    }
}
