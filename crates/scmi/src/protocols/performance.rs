//! Performance domain management protocol (4.5).

use super::{
    Message, PERFORMANCE, Protocol, SHORT_NAME, counted, extended, long_name, message, need, subscription,
    tells,
};
use crate::{Performance, Right, Status, What, call::Call};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: PERFORMANCE,
    version: 0x3_0000,
    messages: &MESSAGES,
    run,
    is_there: |view| !view.performance.is_empty(),
};

const DOMAIN_ATTRIBUTES: u8 = 3;
const DESCRIBE_LEVELS: u8 = 4;
const LIMITS_SET: u8 = 5;
const LIMITS_GET: u8 = 6;
const LEVEL_SET: u8 = 7;
const LEVEL_GET: u8 = 8;
const NOTIFY_LIMITS: u8 = 9;
const NOTIFY_LEVEL: u8 = 0xa;
const DOMAIN_NAME_GET: u8 = 0xc;

const MESSAGES: [Message; 9] = [
    message(DOMAIN_ATTRIBUTES, 1),
    message(DESCRIBE_LEVELS, 2),
    message(LIMITS_SET, 3),
    message(LIMITS_GET, 1),
    message(LEVEL_SET, 2),
    message(LEVEL_GET, 1),
    subscription(NOTIFY_LIMITS, 2),
    subscription(NOTIFY_LEVEL, 2),
    message(DOMAIN_NAME_GET, 1),
];

/// Powers are in milliwatts.
const MILLIWATTS: u32 = 1 << 16;

fn run(call: &mut Call<'_>, message: u8) -> Result<(), Status> {
    let domains = &call.view.performance;
    if message < DOMAIN_ATTRIBUTES {
        // How many, and no region of statistics.
        return call.reply.words(&[domains.len() as u32 | MILLIWATTS, 0, 0, 0]);
    }
    let id = call.id(domains)?;
    let domain = domains.get(id).ok_or(Status::NotFound)?;
    match message {
        DOMAIN_ATTRIBUTES => attributes(call, domain),
        DESCRIBE_LEVELS => {
            let first = call.params.word()?;
            call.reply.parts(
                (&domain.levels, first, 0xfff),
                |_| 12,
                counted(0),
                |reply, _, level| reply.words(&[level.level, level.power, u32::from(level.latency)]),
            )
        }
        LIMITS_SET => {
            let (max, min) = (i64::from(call.params.word()?), i64::from(call.params.word()?));
            need(domain.rights.has(Right::Limits))?;
            let (lowest, highest) = domain.range();
            if max == 0 && min == 0 {
                return Err(Status::InvalidParameters);
            }
            if min > max || max > highest || min < lowest {
                return Err(Status::OutOfRange);
            }
            // The order in which the lower is never above the higher.
            let before = call.read(What::MinLevel, id)?;
            let order = [(What::MaxLevel, max), (What::MinLevel, min)];
            let [first, second] = if max < before { [order[1], order[0]] } else { order };
            call.platform.write(crate::Point { what: first.0, id }, first.1)?;
            call.set(second.0, id, second.1)
        }
        LIMITS_GET => {
            let (max, min) = (call.read(What::MaxLevel, id)?, call.read(What::MinLevel, id)?);
            call.reply.words(&[max as u32, min as u32])
        }
        LEVEL_SET => {
            let level = call.params.word()?;
            need(domain.rights.has(Right::Level))?;
            let within = call.read(What::MinLevel, id)?..=call.read(What::MaxLevel, id)?;
            if !domain.levels.iter().any(|known| known.level == level) || !within.contains(&i64::from(level))
            {
                return Err(Status::OutOfRange);
            }
            call.set(What::Level, id, i64::from(level))
        }
        LEVEL_GET => {
            let level = call.read(What::Level, id)?;
            call.reply.word(level as u32)
        }
        NOTIFY_LIMITS | NOTIFY_LEVEL => {
            tells(domain.tells)?;
            call.subscribe(PERFORMANCE, message - NOTIFY_LIMITS, id)
        }
        _ => long_name(&domain.name, &mut call.reply),
    }
}

fn attributes(call: &mut Call<'_>, domain: &Performance) -> Result<(), Status> {
    let can = |right, bit: u32| u32::from(domain.rights.has(right)) << bit;
    // Tells of changes of both, perhaps.
    let tells = u32::from(domain.tells) * (1 << 29 | 1 << 28);
    let what = can(Right::Limits, 31) | can(Right::Level, 30) | tells | extended(&domain.name, 26);
    let (frequency, level) = domain.sustained;
    call.reply.words(&[what, 0, frequency, level])?;
    call.reply.name(&domain.name, SHORT_NAME)
}
