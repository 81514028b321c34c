//! The protocols and their messages.

mod base;
mod clock;
mod performance;
mod power;
mod reset;
mod sensor;
mod system;
mod voltage;

use crate::call::Call;
use crate::wire::Reply;
use crate::{Right, Status, View};

/// Base protocol (4.2).
pub const BASE: u8 = 0x10;
/// Power domain management protocol (4.3).
pub const POWER: u8 = 0x11;
/// System power management protocol (4.4).
pub const SYSTEM: u8 = 0x12;
/// Performance domain management protocol (4.5).
pub const PERFORMANCE: u8 = 0x13;
/// Clock management protocol (4.6).
pub const CLOCK: u8 = 0x14;
/// Sensor management protocol (4.7).
pub const SENSOR: u8 = 0x15;
/// Reset domain management protocol (4.8).
pub const RESET: u8 = 0x16;
/// Voltage domain management protocol (4.9).
pub const VOLTAGE: u8 = 0x17;

/// A field of 16 bytes has room for a name of so many; longer ones have a message of their own.
const SHORT_NAME: usize = 16;
const LONG_NAME: usize = 64;

/// A protocol.
pub(crate) struct Protocol {
    pub(crate) id: u8,
    /// Its version: major in 31:16, minor in 15:0.
    pub(crate) version: u32,
    /// Its messages, those aside that every protocol has.
    pub(crate) messages: &'static [Message],
    /// Carries out one of them, or PROTOCOL_ATTRIBUTES.
    pub(crate) run: fn(&mut Call<'_>, u8) -> Result<(), Status>,
    /// Whether the view has anything of it.
    is_there: fn(&View) -> bool,
}

/// A message of a protocol.
pub(crate) struct Message {
    pub(crate) id: u8,
    /// How many words its parameters are.
    pub(crate) words: u8,
    /// Whether it asks for notifications.
    pub(crate) subscribes: bool,
}

const fn message(id: u8, words: u8) -> Message {
    Message { id, words, subscribes: false }
}

const fn subscription(id: u8, words: u8) -> Message {
    Message { id, words, subscribes: true }
}

const PROTOCOLS: [&Protocol; 8] = [
    &base::PROTOCOL,
    &power::PROTOCOL,
    &system::PROTOCOL,
    &performance::PROTOCOL,
    &clock::PROTOCOL,
    &sensor::PROTOCOL,
    &reset::PROTOCOL,
    &voltage::PROTOCOL,
];

/// The protocols that `view` has something of, base aside, in order.
pub(crate) fn present(view: &View) -> impl Iterator<Item = &'static Protocol> + '_ {
    PROTOCOLS.into_iter().filter(|protocol| protocol.id != BASE && (protocol.is_there)(view))
}

/// The protocol of this number, if `view` has something of it.
pub(crate) fn find(view: &View, id: u8) -> Option<&'static Protocol> {
    PROTOCOLS.into_iter().find(|protocol| protocol.id == id && (protocol.is_there)(view))
}

/// What there is to say of a message beyond its being there: whether the system's state can be set to warm reset and to
/// suspend (4.4.2.3). Nothing has a fast channel.
pub(crate) fn message_attributes(view: &View, protocol: u8, message: u8) -> u32 {
    let Some(system) = view.system.filter(|_| (protocol, message) == (SYSTEM, system::STATE_SET)) else {
        return 0;
    };
    u32::from(system.rights.has(Right::Reboot)) << 31 | u32::from(system.rights.has(Right::Suspend)) << 30
}

/// The bit that says that a name has a message of its own.
fn extended(name: &str, bit: u32) -> u32 {
    u32::from(name.len() >= SHORT_NAME) << bit
}

/// The answer to a question for the whole of a name: flags, which are reserved, and the name.
fn long_name(name: &str, reply: &mut Reply<'_>) -> Result<(), Status> {
    reply.word(0)?;
    reply.name(name, LONG_NAME)
}

/// The flags of a command have bits that are not reserved, and no others: those of `known`. Bits of `late` ask for an answer
/// that comes later, which nothing here gives.
fn flags(word: u32, known: u32, late: u32) -> Result<u32, Status> {
    match word {
        _ if word & late != 0 => Err(Status::NotSupported),
        _ if word & !known != 0 => Err(Status::InvalidParameters),
        _ => Ok(word),
    }
}

/// A right that the agent needs.
fn need(granted: bool) -> Result<(), Status> {
    if granted { Ok(()) } else { Err(Status::Denied) }
}

/// A thing of which there are notifications.
fn tells(does: bool) -> Result<(), Status> {
    if does { Ok(()) } else { Err(Status::NotSupported) }
}

/// The word before values in parts: how many there are in 11:0, how many remain in 31:16, and bits of `format`.
fn counted(format: u32) -> impl Fn(u32, u32) -> u32 {
    move |returned, remaining| returned | format | remaining.min(0xffff) << 16
}
