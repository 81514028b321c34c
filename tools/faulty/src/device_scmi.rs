//! A platform that speaks SCMI (VIRTIO 1.3, 5.17; Arm DEN0056): the base protocol and five sensors, of which the first tells of
//! itself as soon as it is asked to.

use crate::chain::Chain;
use crate::device::Device;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

const P2A_CHANNELS: u64 = 1;
const BASE: u32 = 0x10;
const SENSOR: u32 = 0x15;
const SENSORS: u32 = 5;

const NOT_SUPPORTED: i32 = -1;
const INVALID_PARAMETERS: i32 = -2;
const NOT_FOUND: i32 = -4;
const PROTOCOL_ERROR: i32 = -10;

/// The messages of each protocol with how many words their parameters are.
const MESSAGES: [(u32, &[(u32, usize)]); 2] = [
    (BASE, &[(0, 0), (1, 0), (2, 1), (3, 0), (4, 0), (5, 0), (6, 1), (7, 1)]),
    (SENSOR, &[(0, 0), (1, 0), (2, 1), (3, 1), (6, 2), (9, 1), (0xa, 2), (0xb, 2)]),
];
const CONTINUOUS_UPDATE_NOTIFY: u32 = 0xb;

pub(crate) struct Scmi {
    faults: Faults,
    agreed: u64,
    /// The first sensor has something to tell.
    due: bool,
    /// Commands so far: what migrates.
    commands: u64,
}

/// A name in a field of 16 bytes.
fn name(text: &str) -> Vec<u8> {
    let mut name = text.as_bytes().to_vec();
    name.resize(16, 0);
    name
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Scmi {
    pub(crate) fn new(faults: Faults) -> Self {
        Self { faults, agreed: 0, due: false, commands: 0 }
    }

    /// What a command is answered, behind its status.
    fn answer(&mut self, header: u32, params: &[u8], room: u64) -> Result<Vec<u8>, i32> {
        let (message, protocol) = (header & 0xff, header >> 10 & 0xff);
        let known = MESSAGES.iter().find(|(known, _)| *known == protocol);
        let Some((_, messages)) = known else {
            return if self.faults.has(Fault::ScmiUnknownProtocolOk) {
                Ok(words(&[0]))
            } else {
                Err(NOT_SUPPORTED)
            };
        };
        let Some((_, count)) = messages.iter().find(|(known, _)| *known == message) else {
            if self.faults.has(Fault::ScmiUnknownMessageCrashes) {
                die();
            }
            return Err(NOT_SUPPORTED);
        };
        if params.len() != count * 4 {
            if self.faults.has(Fault::ScmiShortCrashes) {
                die();
            }
            return Err(PROTOCOL_ERROR);
        }
        let (params, _) = params.as_chunks::<4>();
        let params: Vec<u32> = params.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let first = params.first().copied().unwrap_or_default();
        match (protocol, message) {
            (_, 2) => {
                let found = messages.iter().any(|(known, _)| *known == first);
                let lies = self.faults.has(Fault::ScmiAttributesLie);
                if found || lies { Ok(words(&[0])) } else { Err(NOT_FOUND) }
            }
            (BASE, _) => self.base(message, first),
            _ => self.sensor(message, &params, room),
        }
    }

    fn base(&self, message: u32, first: u32) -> Result<Vec<u8>, i32> {
        Ok(match message {
            0 if self.faults.has(Fault::ScmiVersionZero) => words(&[0]),
            0 => words(&[0x2_0000]),
            1 if self.faults.has(Fault::ScmiCountWrong) => words(&[1 << 8 | 2]),
            1 => words(&[1 << 8 | 1]),
            3 if self.faults.has(Fault::ScmiNameFull) => vec![b'x'; 16],
            3 => name("faulty"),
            4 => name(""),
            5 => words(&[1]),
            6 => match first {
                0 => words(&[1, SENSOR]),
                1 => words(&[0]),
                _ => return Err(INVALID_PARAMETERS),
            },
            _ => match first {
                0 => [words(&[0]), name("platform")].concat(),
                1 | u32::MAX => [words(&[1]), name("guest")].concat(),
                _ => return Err(NOT_FOUND),
            },
        })
    }

    fn sensor(&mut self, message: u32, params: &[u32], room: u64) -> Result<Vec<u8>, i32> {
        let (first, second) =
            (params.first().copied().unwrap_or_default(), params.get(1).copied().unwrap_or_default());
        if message > 3 && first >= SENSORS {
            return if self.faults.has(Fault::ScmiIdsUnchecked) {
                Ok(words(&[7, 0, 0, 0]))
            } else {
                Err(NOT_FOUND)
            };
        }
        Ok(match message {
            0 if self.faults.has(Fault::ScmiVersionRefused) => return Err(NOT_SUPPORTED),
            0 => words(&[0x3_0000]),
            1 => words(&[SENSORS, 0, 0, 0]),
            3 if first > SENSORS => return Err(INVALID_PARAMETERS),
            3 => {
                let fitting = (room.saturating_sub(12) / 28).min(u64::from(SENSORS - first)) as u32;
                let left = SENSORS - first - fitting;
                let left = if self.faults.has(Fault::ScmiPartsLost) { 0 } else { left };
                let mut answer = words(&[fitting | left << 16]);
                for id in first..first + fitting {
                    // The first has updates. Degrees Celsius, in thousandths.
                    answer.extend(words(&[id, u32::from(id == 0) << 30, 2 | 0x1d << 11]));
                    answer.extend(name("sensor"));
                }
                answer
            }
            6 => words(&[20_000 + first, 0, 0, 0]),
            9 => words(&[1]),
            CONTINUOUS_UPDATE_NOTIFY => {
                if self.agreed & P2A_CHANNELS == 0 && !self.faults.has(Fault::ScmiNotifyUnasked) {
                    return Err(NOT_SUPPORTED);
                }
                self.due = second == 1 && first == 0 && !self.faults.has(Fault::ScmiNotifySilent);
                Vec::new()
            }
            _ => Vec::new(),
        })
    }
}

impl Device for Scmi {
    fn features(&self) -> u64 {
        P2A_CHANNELS
    }

    fn queues(&self) -> u16 {
        2
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn set_config(&mut self, offset: u32, _: &[u8]) -> Result<(), Bad> {
        Err(format!("no configuration at {offset}"))
    }

    fn serve(&mut self, queue: u16, chain: &mut Chain) -> u32 {
        if queue != 0 {
            return 0;
        }
        self.commands = self.commands.wrapping_add(1);
        let len = chain.readable_len().min(256);
        let of_first = self.faults.has(Fault::ScmiCommandOfFirstBuffer);
        let len = if of_first { chain.lengths().next().unwrap_or(0) as u64 } else { len };
        let mut command = vec![0; len as usize];
        chain.read(0, &mut command);
        let Some((header, params)) = command.split_first_chunk() else { return 0 };
        let mut header = u32::from_le_bytes(*header);
        let room = chain.writable_len();
        let (status, behind) = match self.answer(header, params, room) {
            Ok(answer) => (0, answer),
            Err(status) if self.faults.has(Fault::ScmiErrorPadded) => (status, vec![0; 4]),
            Err(status) => (status, Vec::new()),
        };
        if self.faults.has(Fault::ScmiTokenLost) {
            header &= 0x3_ffff;
        }
        if self.faults.has(Fault::ScmiTokenOfOthers) {
            header = header & 0x3_ffff | (self.commands as u32 & 0x3ff) << 18;
        }
        let mut answer = [words(&[header, status.cast_unsigned()]), behind].concat();
        if self.faults.has(Fault::ScmiWritesBehind) {
            answer.extend([0; 4]);
            chain.write(0, &answer);
            answer.truncate(answer.len() - 4);
        }
        if answer.len() as u64 > room {
            if self.faults.has(Fault::ScmiRoomCrashes) {
                die();
            }
            answer.truncate(if room < 8 { 0 } else { 8 });
            if let Some(status) = answer.get_mut(4..) {
                status.copy_from_slice(&PROTOCOL_ERROR.to_le_bytes());
            }
        }
        chain.write(0, &answer);
        if self.faults.has(Fault::ScmiLengthZero) { 0 } else { answer.len() as u32 }
    }

    fn fills(&self, queue: u16) -> bool {
        queue == 1
    }

    fn fill(&mut self, queue: u16, waiting: &mut [&mut Chain]) -> Option<Vec<(usize, u32)>> {
        if queue != 1 || !std::mem::take(&mut self.due) {
            return None;
        }
        let event = words(&[1 | 3 << 8 | SENSOR << 10, 0, 0, 20_000, 0, 0, 0]);
        let first = waiting.first_mut()?;
        first.write(0, &event);
        Some(vec![(0, event.len() as u32)])
    }

    fn agree(&mut self, features: u64) {
        self.agreed = features;
    }

    fn reset(&mut self) {
        self.due = false;
    }

    fn refresh(&mut self) -> bool {
        false
    }

    fn save(&self) -> Vec<u8> {
        self.commands.to_le_bytes().to_vec()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        let state = state.try_into().map_err(|_| "not the state of a platform".to_owned())?;
        self.commands = u64::from_le_bytes(state);
        Ok(())
    }
}
