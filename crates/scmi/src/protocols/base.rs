//! Base protocol (4.2): who is who, and which protocols there are.

use super::{BASE, Message, Protocol, SHORT_NAME, message, present};
use crate::agent::{AGENT, PLATFORM};
use crate::{Status, call::Call};

const VENDOR: &str = "Outboard";
const SUB_VENDOR: &str = "vhost-user-scmi";
/// What VENDOR calls its version.
const IMPLEMENTATION: u32 = 1;

pub(super) const PROTOCOL: Protocol =
    Protocol { id: BASE, version: 0x2_0000, messages: &MESSAGES, run, is_there: |_| true };

const DISCOVER_VENDOR: u8 = 3;
const DISCOVER_SUB_VENDOR: u8 = 4;
const DISCOVER_IMPLEMENTATION_VERSION: u8 = 5;
const DISCOVER_LIST_PROTOCOLS: u8 = 6;
const DISCOVER_AGENT: u8 = 7;

const MESSAGES: [Message; 5] = [
    message(DISCOVER_VENDOR, 0),
    message(DISCOVER_SUB_VENDOR, 0),
    message(DISCOVER_IMPLEMENTATION_VERSION, 0),
    message(DISCOVER_LIST_PROTOCOLS, 1),
    message(DISCOVER_AGENT, 1),
];

/// Asks for the agent that asks.
const MYSELF: u32 = u32::MAX;

fn run(call: &mut Call<'_>, message: u8) -> Result<(), Status> {
    match message {
        DISCOVER_VENDOR => call.reply.name(VENDOR, SHORT_NAME),
        DISCOVER_SUB_VENDOR => call.reply.name(SUB_VENDOR, SHORT_NAME),
        DISCOVER_IMPLEMENTATION_VERSION => call.reply.word(IMPLEMENTATION),
        DISCOVER_LIST_PROTOCOLS => list(call),
        DISCOVER_AGENT => {
            let (number, name) = match call.params.word()? {
                PLATFORM => (PLATFORM, "platform"),
                AGENT | MYSELF => (AGENT, call.view.agent.as_str()),
                _ => return Err(Status::NotFound),
            };
            call.reply.word(number)?;
            call.reply.name(name, SHORT_NAME)
        }
        // How many protocols in 7:0, how many agents in 15:8.
        _ => call.reply.word(present(call.view).count() as u32 | 1 << 8),
    }
}

/// The protocols' numbers, in whole words.
fn list(call: &mut Call<'_>) -> Result<(), Status> {
    let numbers: Vec<u8> = present(call.view).map(|protocol| protocol.id).collect();
    let skip = call.params.word()? as usize;
    let left = numbers.get(skip..).ok_or(Status::InvalidParameters)?;
    let fitting = (0..=left.len()).rev().find(|count| call.reply.fits(4 + count.next_multiple_of(4)));
    let (shown, _) = left.split_at_checked(fitting.ok_or(Status::ProtocolError)?).unwrap_or_default();
    call.reply.word(shown.len() as u32)?;
    call.reply.raw(shown)?;
    (shown.len()..shown.len().next_multiple_of(4)).try_for_each(|_| call.reply.raw(&[0]))
}
