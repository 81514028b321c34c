//! Reset domain management protocol (4.8).

use super::{Message, Protocol, RESET, SHORT_NAME, extended, flags, long_name, message, need, subscription};
use crate::{RESET_ASSERT, RESET_CYCLE, RESET_DEASSERT, Right, Status, What, call::Call};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: RESET,
    version: 0x3_0000,
    messages: &MESSAGES,
    run,
    is_there: |view| !view.resets.is_empty(),
};

const DOMAIN_ATTRIBUTES: u8 = 3;
const DOMAIN_RESET: u8 = 4;
const NOTIFY: u8 = 5;
const DOMAIN_NAME_GET: u8 = 6;

const MESSAGES: [Message; 4] = [
    message(DOMAIN_ATTRIBUTES, 1),
    message(DOMAIN_RESET, 3),
    subscription(NOTIFY, 2),
    message(DOMAIN_NAME_GET, 1),
];

/// Flags of a reset: the platform does all of it; otherwise, the line comes; the answer is to come later.
const AUTONOMOUS: u32 = 1 << 0;
const ASSERT: u32 = 1 << 1;
const LATE: u32 = 1 << 2;

/// The architecture's cold reset, and what Linux (as of 7.3) takes for it.
const COLD: [u32; 2] = [0, 1 << 31 | 1];

fn run(call: &mut Call<'_>, message: u8) -> Result<(), Status> {
    let domains = &call.view.resets;
    if message < DOMAIN_ATTRIBUTES {
        return call.reply.word(domains.len() as u32);
    }
    let id = call.id(domains)?;
    let domain = domains.get(id).ok_or(Status::NotFound)?;
    match message {
        DOMAIN_ATTRIBUTES => {
            // Tells of resets.
            let latency = domain.latency.unwrap_or(u32::MAX);
            call.reply.words(&[1 << 30 | extended(&domain.name, 29), latency])?;
            call.reply.name(&domain.name, SHORT_NAME)
        }
        DOMAIN_RESET => {
            let how = flags(call.params.word()?, AUTONOMOUS | ASSERT, LATE)?;
            if !COLD.contains(&call.params.word()?) {
                return Err(Status::InvalidParameters);
            }
            need(domain.rights.has(Right::Reset))?;
            let action = match how {
                _ if how & AUTONOMOUS != 0 => RESET_CYCLE,
                ASSERT => RESET_ASSERT,
                _ => RESET_DEASSERT,
            };
            call.set(What::Reset, id, action)
        }
        NOTIFY => call.subscribe(RESET, 0, id),
        _ => long_name(&domain.name, &mut call.reply),
    }
}
