//! Power domain management protocol (4.3).

use super::{
    Message, POWER, Protocol, SHORT_NAME, extended, flags, long_name, message, need, subscription, tells,
};
use crate::{Right, Status, What, call::Call};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: POWER,
    version: 0x3_0000,
    messages: &MESSAGES,
    run,
    is_there: |view| !view.power.is_empty(),
};

const DOMAIN_ATTRIBUTES: u8 = 3;
const STATE_SET: u8 = 4;
const STATE_GET: u8 = 5;
const STATE_NOTIFY: u8 = 6;
const DOMAIN_NAME_GET: u8 = 8;

const MESSAGES: [Message; 5] = [
    message(DOMAIN_ATTRIBUTES, 1),
    message(STATE_SET, 3),
    message(STATE_GET, 1),
    subscription(STATE_NOTIFY, 2),
    message(DOMAIN_NAME_GET, 1),
];

/// The states that every domain has: with its context, and without.
const ON: u32 = 0;
const OFF: u32 = 1 << 30;

fn run(call: &mut Call<'_>, message: u8) -> Result<(), Status> {
    let domains = &call.view.power;
    match message {
        DOMAIN_ATTRIBUTES => {
            let id = call.id(domains)?;
            let domain = domains.get(id).ok_or(Status::NotFound)?;
            // Tells of changes, perhaps, and is set at once.
            call.reply.word(u32::from(domain.tells) << 31 | 1 << 29 | extended(&domain.name, 27))?;
            call.reply.name(&domain.name, SHORT_NAME)
        }
        STATE_SET => {
            let asked = call.params.word()?;
            let id = call.id(domains)?;
            let state = call.params.word()?;
            flags(asked, 0, 1)?;
            need(domains.get(id).is_some_and(|domain| domain.rights.has(Right::State)))?;
            if state != ON && state != OFF {
                return Err(Status::InvalidParameters);
            }
            call.set(What::Power, id, i64::from(state))
        }
        STATE_GET => {
            let id = call.id(domains)?;
            let state = call.read(What::Power, id)?;
            call.reply.word(state as u32)
        }
        STATE_NOTIFY => {
            let id = call.id(domains)?;
            tells(domains.get(id).is_some_and(|domain| domain.tells))?;
            call.subscribe(POWER, 0, id)
        }
        DOMAIN_NAME_GET => {
            let id = call.id(domains)?;
            long_name(domains.get(id).map_or("", |domain| &domain.name), &mut call.reply)
        }
        // How many, and no region of statistics.
        _ => call.reply.words(&[domains.len() as u32, 0, 0, 0]),
    }
}
