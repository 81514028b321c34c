//! A console device (VIRTIO 1.3, 5.3) with two ports that give back what they get: the console, and one with a name.

use std::collections::VecDeque;

use crate::chain::Chain;
use crate::device::Device;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

const MULTIPORT: u64 = 1 << 1;
const FEATURES: u64 = 1 | MULTIPORT | 1 << 2;
const PORTS: u32 = 2;
const DEVICE_READY: u16 = 0;
const DEVICE_ADD: u16 = 1;
const PORT_READY: u16 = 3;
const CONSOLE_PORT: u16 = 4;
const PORT_OPEN: u16 = 6;
const PORT_NAME: u16 = 7;
/// Where a character may be written.
const EMERGENCY: u32 = 8;
/// Bytes that wait for the driver, at most.
const ROOM: usize = 1 << 20;

pub(crate) struct Console {
    faults: Faults,
    agreed: u64,
    /// What goes back, by port.
    echoes: [VecDeque<u8>; PORTS as usize],
    messages: VecDeque<Vec<u8>>,
}

impl Console {
    pub(crate) fn new(faults: Faults) -> Self {
        let mut console = Self { faults, agreed: 0, echoes: Default::default(), messages: VecDeque::new() };
        console.reset();
        console
    }

    fn say(&mut self, id: u32, event: u16, value: u16, more: &[u8]) {
        let head = [id.to_le_bytes().as_slice(), &event.to_le_bytes(), &value.to_le_bytes()].concat();
        if self.messages.len() < 64 {
            self.messages.push_back([&head, more].concat());
        }
    }

    /// Carries out what the driver says.
    fn hear(&mut self, message: [u8; 8]) {
        let [a, b, c, d, e, f, g, h] = message;
        let (id, event, value) =
            (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f]), u16::from_le_bytes([g, h]));
        match event {
            DEVICE_READY if self.faults.has(Fault::ConsoleReadyIgnored) => {}
            DEVICE_READY if value == 0 && !self.faults.has(Fault::ConsoleFailedAdded) => {}
            DEVICE_READY => {
                let beyond = self.faults.has(Fault::ConsolePortBeyond);
                (0..PORTS + u32::from(beyond)).for_each(|id| self.say(id, DEVICE_ADD, 1, b""));
            }
            PORT_READY if id < PORTS && value == 1 => {
                let told = if self.faults.has(Fault::ConsolePortsMixed) { PORTS - 1 - id } else { id };
                let name: &[u8] = if self.faults.has(Fault::ConsoleNameEnds) { b"echo\0" } else { b"echo" };
                match id {
                    0 => self.say(told, CONSOLE_PORT, 1, b""),
                    _ => self.say(told, PORT_NAME, 1, name),
                }
                self.say(told, PORT_OPEN, 1, b"");
            }
            PORT_READY | PORT_OPEN if id < PORTS => {}
            _ if self.faults.has(Fault::ConsoleUnknownAnswered) => self.say(id, event, 0, b""),
            _ => {}
        }
    }
}

impl Device for Console {
    fn features(&self) -> u64 {
        FEATURES
    }

    fn queues(&self) -> u16 {
        2 * PORTS as u16 + 2
    }

    fn config(&self) -> Vec<u8> {
        let most = if self.faults.has(Fault::ConsolePortsNone) { 0 } else { PORTS };
        [[80, 0, 24, 0], most.to_le_bytes(), [0; 4]].concat()
    }

    fn set_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Bad> {
        let at = EMERGENCY.checked_sub(offset).and_then(|at| data.get(at as usize));
        match at {
            Some(_) if offset as usize + data.len() > 12 => Err("beyond the end".to_owned()),
            Some(character) if !self.faults.has(Fault::ConsoleEmergencyRefused) => {
                let [console, _] = &mut self.echoes;
                console.push_back(*character);
                Ok(())
            }
            _ => Err(format!("nothing to be written at {offset}")),
        }
    }

    fn serve(&mut self, queue: u16, chain: &mut Chain) -> u32 {
        let len = chain.readable_len();
        let of_first = self.faults.has(Fault::ConsoleOutputOfFirstBuffer);
        let taken = if of_first { chain.lengths().next().unwrap_or(0) as u64 } else { len };
        let mut bytes = vec![0; taken.min(ROOM as u64) as usize];
        chain.read(0, &mut bytes);
        let [console, named] = &mut self.echoes;
        match queue {
            1 if self.faults.has(Fault::ConsoleNeedsPorts) && self.agreed & MULTIPORT == 0 => {
                console.extend(bytes.iter().map(|_| b'?'));
            }
            1 if self.faults.has(Fault::ConsoleEchoSwaps) => console.extend(bytes.iter().rev()),
            1 => console.extend(bytes),
            5 => named.extend(bytes),
            3 => match bytes.first_chunk() {
                Some(message) => self.hear(*message),
                None if self.faults.has(Fault::ConsoleShortCrashes) => die(),
                None => {}
            },
            _ => {}
        }
        self.echoes.iter_mut().for_each(|echo| echo.truncate(ROOM));
        // What a driver has sent has no part that is written.
        if self.faults.has(Fault::ConsoleOutputCounted) { len as u32 } else { 0 }
    }

    fn fills(&self, queue: u16) -> bool {
        queue.is_multiple_of(2)
    }

    fn fill(&mut self, queue: u16, waiting: &mut [&mut Chain]) -> Option<Vec<(usize, u32)>> {
        let first = waiting.first_mut()?;
        let room = first.writable_len() as usize;
        let [console, named] = &mut self.echoes;
        let bytes: Vec<u8> = match queue {
            0 => console.drain(..room.min(console.len())).collect(),
            4 => named.drain(..room.min(named.len())).collect(),
            _ => {
                let cut = self.faults.has(Fault::ConsoleMessageCut);
                match self.messages.front() {
                    Some(message) if message.len() > room && !cut => return Some(vec![(0, 0)]),
                    _ => {}
                }
                let mut message = self.messages.pop_front()?;
                message.truncate(room);
                message
            }
        };
        if bytes.is_empty() {
            return None;
        }
        first.write(0, &bytes);
        Some(vec![(0, bytes.len() as u32)])
    }

    fn agree(&mut self, features: u64) {
        self.agreed = features;
    }

    fn reset(&mut self) {
        self.echoes.iter_mut().for_each(VecDeque::clear);
        self.messages.clear();
        if self.faults.has(Fault::ConsoleTalksFirst) {
            self.say(0, DEVICE_ADD, 1, b"");
        }
    }

    fn refresh(&mut self) -> bool {
        false
    }

    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        if state.is_empty() { Ok(()) } else { Err("not the state of a console".to_owned()) }
    }
}
