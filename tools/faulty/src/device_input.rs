//! The input device (VIRTIO 1.3, 5.8): a key, an axis and a light. Who connects to the socket that drives it presses the key, once
//! with each line.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use outboard_virtio_defs::input::{
    AbsInfo, CFG_ABS_INFO, CFG_EV_BITS, CFG_ID_DEVIDS, CFG_ID_NAME, CFG_ID_SERIAL, CFG_PROP_BITS, Config,
    Devids, Event,
};
use zerocopy::IntoBytes;

use crate::chain::Chain;
use crate::device::Device;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

const EVENTS: u16 = 0;
const EVENT_LEN: usize = size_of::<Event>();
/// Types of events, and the code of each that there is.
const KEY: (u8, u16) = (1, 30);
const ABS: (u8, u16) = (3, 0);
const LED: (u8, u16) = (0x11, 1);

pub(crate) struct Input {
    faults: Faults,
    select: u8,
    subsel: u8,
    /// What is shown of that.
    shown: Vec<u8>,
    /// Bytes of the configuration that the driver has overwritten.
    overwritten: BTreeMap<usize, u8>,
    /// What comes in, and who may press the key.
    events: VecDeque<Event>,
    door: Option<UnixListener>,
    clients: Vec<UnixStream>,
}

/// The bit of a code, behind zeroes.
fn bit(code: u16) -> Vec<u8> {
    let mut bits = vec![0; usize::from(code / 8)];
    bits.push(1 << (code % 8));
    bits
}

impl Input {
    pub(crate) fn open(drive: Option<&Path>, faults: Faults) -> Result<Self, Bad> {
        let door = drive.map(|path| {
            // One that was killed has left it.
            let _ = std::fs::remove_file(path);
            let door = UnixListener::bind(path).and_then(|door| door.set_nonblocking(true).map(|()| door));
            door.map_err(|error| format!("{}: {error}", path.display()))
        });
        let (overwritten, events) = (BTreeMap::new(), VecDeque::new());
        let (shown, clients) = (Vec::new(), Vec::new());
        let door = door.transpose()?;
        Ok(Self { faults, select: 0, subsel: 0, shown, overwritten, events, door, clients })
    }

    /// What there is to say of what is selected.
    fn answer(&self) -> Vec<u8> {
        let has = |fault| self.faults.has(fault);
        let bits = |(_, code): (u8, u16)| bit(code);
        match (self.select, self.subsel) {
            (CFG_ID_NAME, 0) if has(Fault::InputNameNul) => b"faulty\0".to_vec(),
            (CFG_ID_NAME, 0) => b"faulty".to_vec(),
            (CFG_ID_SERIAL, 0) => b"1".to_vec(),
            (CFG_ID_DEVIDS, 0) if has(Fault::InputIdsShort) => vec![6, 0],
            (CFG_ID_DEVIDS, 0) => Devids { bustype: 6.into(), ..Devids::default() }.as_bytes().to_vec(),
            (CFG_EV_BITS, kind) if kind == KEY.0 && has(Fault::InputBitsEmpty) => vec![0; 4],
            (CFG_EV_BITS, kind) => match [KEY, ABS, LED].into_iter().find(|known| known.0 == kind) {
                Some(known) => bits(known),
                None => Vec::new(),
            },
            (CFG_ABS_INFO, 0) if has(Fault::InputAbsMissing) => Vec::new(),
            (CFG_ABS_INFO, 0) => AbsInfo { max: 100.into(), ..AbsInfo::default() }.as_bytes().to_vec(),
            (CFG_ID_NAME..=CFG_ID_DEVIDS | CFG_PROP_BITS | CFG_ABS_INFO, _) => Vec::new(),
            _ if has(Fault::InputUnknownGarbage) => vec![0xaa; 4],
            _ => Vec::new(),
        }
    }

    /// Takes what the clients say.
    fn listen(&mut self) {
        let Some(door) = &self.door else { return };
        while let Ok((client, _)) = door.accept() {
            if client.set_nonblocking(true).is_ok() {
                self.clients.push(client);
            }
        }
        let (events, faults) = (&mut self.events, self.faults);
        self.clients.retain_mut(|client| {
            let mut bytes = [0; 256];
            loop {
                match client.read(&mut bytes) {
                    Ok(0) => return false,
                    Ok(len) => {
                        let lines = bytes.iter().take(len).filter(|byte| **byte == b'\n').count();
                        (0..lines).for_each(|_| press(events, faults));
                    }
                    Err(error) => return error.kind() == ErrorKind::WouldBlock,
                }
            }
        });
    }
}

/// The key goes down and up.
fn press(events: &mut VecDeque<Event>, faults: Faults) {
    let (kind, code) = KEY;
    for value in [1, 0_u32] {
        events.push_back(Event { kind: u16::from(kind).into(), code: code.into(), value: value.into() });
        if !faults.has(Fault::InputFramesCut) {
            events.push_back(Event::default());
        }
    }
}

impl Device for Input {
    fn features(&self) -> u64 {
        0
    }

    fn queues(&self) -> u16 {
        2
    }

    fn config(&self) -> Vec<u8> {
        let mut config = vec![self.select, self.subsel, self.shown.len() as u8, 0, 0, 0, 0, 0];
        config.extend_from_slice(&self.shown);
        config.resize(size_of::<Config>(), 0);
        for (at, byte) in &self.overwritten {
            if let Some(place) = config.get_mut(*at) {
                *place = *byte;
            }
        }
        config
    }

    fn set_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Bad> {
        let is_whole = offset == 0 && data.len() == size_of::<Config>();
        if is_whole && self.faults.has(Fault::InputWholeRefused) {
            return Err("too much at once".to_owned());
        }
        let selects = offset < 2;
        if !selects && !self.faults.has(Fault::InputConfigWritable) {
            return Err(format!("the configuration at {offset} is read-only"));
        }
        for (at, byte) in (offset as usize..).zip(data) {
            match at {
                0 => self.select = *byte,
                1 if offset == 1 && self.faults.has(Fault::InputSubselAloneIgnored) => {}
                1 => self.subsel = *byte,
                _ if !selects || self.faults.has(Fault::InputFieldsOverwrite) => {
                    self.overwritten.insert(at, *byte);
                }
                _ => {}
            }
        }
        let answer = self.answer();
        if !answer.is_empty() || !self.faults.has(Fault::InputSizeStays) {
            self.shown = answer;
        }
        Ok(())
    }

    fn serve(&mut self, _: u16, chain: &mut Chain) -> u32 {
        let len = chain.readable_len();
        if len < EVENT_LEN as u64 && self.faults.has(Fault::InputStatusShortDies)
            || len > EVENT_LEN as u64 && self.faults.has(Fault::InputStatusManyDies)
        {
            die();
        }
        if self.faults.has(Fault::InputStatusLength) { len as u32 } else { 0 }
    }

    fn fills(&self, queue: u16) -> bool {
        queue == EVENTS
    }

    fn fill(&mut self, _: u16, waiting: &mut [&mut Chain]) -> Option<Vec<(usize, u32)>> {
        self.listen();
        let mut filled = Vec::new();
        for (at, chain) in waiting.iter_mut().enumerate() {
            let Some(event) = self.events.front() else { break };
            let fits = chain.writable_len() >= EVENT_LEN as u64;
            if fits {
                chain.write(0, event.as_bytes());
                self.events.pop_front();
            } else if self.faults.has(Fault::InputBufferShortDies) {
                die();
            }
            filled.push((at, if fits { EVENT_LEN as u32 } else { 0 }));
        }
        (!filled.is_empty()).then_some(filled)
    }

    fn pushes(&self) -> bool {
        self.door.is_some()
    }

    fn agree(&mut self, _: u64) {}

    fn reset(&mut self) {
        (self.select, self.subsel) = (0, 0);
        self.shown.clear();
        self.overwritten.clear();
        self.events.clear();
    }

    fn refresh(&mut self) -> bool {
        false
    }

    fn save(&self) -> Vec<u8> {
        vec![self.select, self.subsel]
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        let &[select, subsel] = state else { return Err("not the state of an input device".to_owned()) };
        (self.select, self.subsel) = (select, subsel);
        self.shown = self.answer();
        Ok(())
    }
}
