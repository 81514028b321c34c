//! Voltage domain management protocol (4.9).

use super::{Message, Protocol, SHORT_NAME, VOLTAGE, counted, extended, flags, long_name, message, need};
use crate::{Right, Status, What, call::Call};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: VOLTAGE,
    version: 0x2_0000,
    messages: &MESSAGES,
    run,
    is_there: |view| !view.voltages.is_empty(),
};

const DOMAIN_ATTRIBUTES: u8 = 3;
const DESCRIBE_LEVELS: u8 = 4;
const CONFIG_SET: u8 = 5;
const CONFIG_GET: u8 = 6;
const LEVEL_SET: u8 = 7;
const LEVEL_GET: u8 = 8;
const DOMAIN_NAME_GET: u8 = 9;

const MESSAGES: [Message; 7] = [
    message(DOMAIN_ATTRIBUTES, 1),
    message(DESCRIBE_LEVELS, 2),
    message(CONFIG_SET, 2),
    message(CONFIG_GET, 1),
    message(LEVEL_SET, 3),
    message(LEVEL_GET, 1),
    message(DOMAIN_NAME_GET, 1),
];

/// The modes that every domain has: off, and on.
const MODES: [u32; 2] = [0, 7];

fn run(call: &mut Call<'_>, message: u8) -> Result<(), Status> {
    let domains = &call.view.voltages;
    if message < DOMAIN_ATTRIBUTES {
        return call.reply.word(domains.len() as u32);
    }
    let id = call.id(domains)?;
    let domain = domains.get(id).ok_or(Status::NotFound)?;
    match message {
        DOMAIN_ATTRIBUTES => {
            call.reply.word(extended(&domain.name, 30))?;
            call.reply.name(&domain.name, SHORT_NAME)
        }
        DESCRIBE_LEVELS => {
            let first = call.params.word()?;
            let format = counted(domain.levels.format());
            call.reply.parts(
                (domain.levels.numbers(), first, 0xfff),
                |_| 4,
                format,
                |reply, _, &level| reply.word(level as u32),
            )
        }
        CONFIG_SET => {
            let mode = call.params.word()?;
            if !MODES.contains(&mode) {
                return Err(Status::InvalidParameters);
            }
            need(domain.rights.has(Right::Enable))?;
            call.set(What::Mode, id, i64::from(mode))
        }
        CONFIG_GET => {
            let mode = call.read(What::Mode, id)?;
            call.reply.word(mode as u32)
        }
        LEVEL_SET => {
            // Bit 0 asks for an answer that comes later.
            flags(call.params.word()?, 0, 1)?;
            let level = i64::from(call.params.word()?.cast_signed());
            need(domain.rights.has(Right::Level))?;
            if !domain.levels.has(level) {
                return Err(Status::OutOfRange);
            }
            call.set(What::Microvolts, id, level)
        }
        LEVEL_GET => {
            let level = call.read(What::Microvolts, id)?;
            call.reply.word(level as u32)
        }
        _ => long_name(&domain.name, &mut call.reply),
    }
}
