//! Clock management protocol (4.6).

use super::{
    CLOCK, Message, Protocol, SHORT_NAME, counted, extended, flags, long_name, message, need, subscription,
    tells,
};
use crate::{Right, Status, Steps, What, call::Call};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: CLOCK,
    version: 0x2_0000,
    messages: &MESSAGES,
    run,
    is_there: |view| !view.clocks.is_empty(),
};

const CLOCK_ATTRIBUTES: u8 = 3;
const DESCRIBE_RATES: u8 = 4;
const RATE_SET: u8 = 5;
const RATE_GET: u8 = 6;
const CONFIG_SET: u8 = 7;
const NAME_GET: u8 = 8;
const RATE_NOTIFY: u8 = 9;

const MESSAGES: [Message; 7] = [
    message(CLOCK_ATTRIBUTES, 1),
    message(DESCRIBE_RATES, 2),
    message(RATE_SET, 4),
    message(RATE_GET, 1),
    message(CONFIG_SET, 2),
    message(NAME_GET, 1),
    subscription(RATE_NOTIFY, 2),
];

/// Of RATE_SET: the answer is to come later; that late answer does not matter; round up; round to what is nearest.
const LATE: u32 = 1 << 0;
const IGNORE_LATE: u32 = 1 << 1;
const ROUND_UP: u32 = 1 << 2;
const ROUND_AUTO: u32 = 1 << 3;

fn run(call: &mut Call<'_>, message: u8) -> Result<(), Status> {
    let clocks = &call.view.clocks;
    match message {
        RATE_SET => return set_rate(call),
        // How many, and none can be set later than at once.
        message if message < CLOCK_ATTRIBUTES => return call.reply.word(clocks.len() as u32),
        _ => {}
    }
    let id = call.id(clocks)?;
    let clock = clocks.get(id).ok_or(Status::NotFound)?;
    match message {
        CLOCK_ATTRIBUTES => {
            let runs = u32::from(call.read(What::Running, id)? != 0);
            // Tells of changes of its rate, perhaps.
            call.reply.word(u32::from(clock.tells) << 31 | extended(&clock.name, 29) | runs)?;
            call.reply.name(&clock.name, SHORT_NAME)?;
            call.reply.word(clock.latency)
        }
        DESCRIBE_RATES => {
            let first = call.params.word()?;
            let format = counted(clock.rates.format());
            call.reply.parts(
                (clock.rates.numbers(), first, 0xfff),
                |_| 8,
                format,
                |reply, _, &rate| reply.long(rate as u64),
            )
        }
        RATE_GET => {
            let rate = call.read(What::Rate, id)?;
            call.reply.long(rate as u64)
        }
        CONFIG_SET => {
            let runs = flags(call.params.word()?, 1, 0)?;
            need(clock.rights.has(Right::Enable))?;
            call.set(What::Running, id, i64::from(runs))
        }
        NAME_GET => long_name(&clock.name, &mut call.reply),
        _ => {
            tells(clock.tells)?;
            call.subscribe(CLOCK, 0, id)
        }
    }
}

fn set_rate(call: &mut Call<'_>) -> Result<(), Status> {
    let how = call.params.word()?;
    let id = call.id(&call.view.clocks)?;
    let rate = i64::try_from(call.params.long()?).map_err(|_| Status::InvalidParameters)?;
    let clock = call.view.clocks.get(id).ok_or(Status::NotFound)?;
    flags(how, IGNORE_LATE | ROUND_UP | ROUND_AUTO, LATE)?;
    need(clock.rights.has(Right::Rate))?;
    let rate = nearest(&clock.rates, rate, how).ok_or(Status::InvalidParameters)?;
    call.set(What::Rate, id, rate)
}

/// The rate that the clock can have and that `how` chooses.
fn nearest(rates: &Steps, rate: i64, how: u32) -> Option<i64> {
    rates.near(rate, |below, above| {
        let up = if how & ROUND_AUTO == 0 { how & ROUND_UP != 0 } else { above - rate < rate - below };
        if up { above } else { below }
    })
}
