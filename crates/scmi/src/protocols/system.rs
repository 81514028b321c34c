//! System power management protocol (4.4).

use super::{Message, Protocol, SYSTEM, flags, message, need, subscription};
use crate::{FORCED, Right, Status, What, call::Call};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: SYSTEM,
    version: 0x2_0000,
    messages: &MESSAGES,
    run,
    is_there: |view| view.system.is_some(),
};

pub(super) const STATE_SET: u8 = 3;
const STATE_GET: u8 = 4;
const STATE_NOTIFY: u8 = 5;

const MESSAGES: [Message; 3] = [message(STATE_SET, 2), message(STATE_GET, 0), subscription(STATE_NOTIFY, 1)];

fn run(call: &mut Call<'_>, message: u8) -> Result<(), Status> {
    let rights = call.view.system.unwrap_or_default().rights;
    match message {
        STATE_SET => {
            // Bit 0: the platform may take its time, and ask first.
            let graceful = flags(call.params.word()?, 1, 0)? == 1;
            let state = call.params.word()?;
            let right = match state {
                0 => Right::Shutdown,
                1 | 2 => Right::Reboot,
                4 => Right::Suspend,
                3 => return Err(Status::NotSupported),
                _ => return Err(Status::InvalidParameters),
            };
            need(rights.has(right))?;
            let forced = if graceful { 0 } else { FORCED };
            call.set(What::System, 0, i64::from(state) | forced)
        }
        STATE_GET => {
            let state = call.read(What::System, 0)?;
            call.reply.word(state as u32)
        }
        STATE_NOTIFY => call.subscribe(SYSTEM, 0, 0),
        _ => call.reply.word(0),
    }
}
