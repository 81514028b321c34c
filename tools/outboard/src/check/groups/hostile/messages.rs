//! Messages of nonsense on a connection that was in good order.

use std::time::{Duration, Instant};

use outboard_vhost_user::message::flags;
use outboard_vhost_user::payload::VringState;
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::Format;
use zerocopy::IntoBytes;

use super::rings::Dice;
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop};
use crate::check::wire::Heard;

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "hostile.messages",
        title: "each message with payloads of garbage, of all sizes up to 64, is answered, refused or passed over",
        spec: "vhost-user: Message Specification",
        run: garbage,
    },
    Check {
        id: "hostile.messages-on-running-rings",
        title: "messages of garbage while rings run do not take the process along",
        spec: "vhost-user: Message Specification",
        run: on_running_rings,
    },
    Check {
        id: "hostile.ring-index",
        title: "a message for a ring that there cannot be is refused, and touches no other ring",
        spec: "vhost-user: A vring state description (the index is a number of 32 bits)",
        run: ring_index,
    },
];

/// How long all of it may take at most.
const LONG: Duration = Duration::from_secs(40);
/// The highest code of a message.
const LAST: u32 = 45;

/// Waits until the back end answers a question that was asked last, whatever it says before; false when it closed
/// the connection.
fn in_step(session: &mut Session) -> Checked<bool> {
    if session.wire.send(Code::GET_FEATURES, &[], &[]).is_err() {
        return Ok(false);
    }
    // There are no more answers than questions.
    for _ in 0..3 {
        match session.wire.hear()? {
            Heard::Closed => return Ok(false),
            Heard::Silence => return Err(Stop::fail("the back end does not answer any more")),
            Heard::Frame(frame) if frame.request == Code::GET_FEATURES.0 => return Ok(true),
            Heard::Frame(_) => {}
        }
    }
    Err(Stop::fail("the back end is out of step"))
}

fn garbage(cx: &mut Cx) -> Checked {
    let deadline = Instant::now() + LONG;
    let mut dice = Dice::new(1);
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    for size in 0..=64 {
        for code in (1..=LAST).map(Code).filter(|&code| code != Code::GET_FEATURES) {
            let mut payload = dice.bytes(size);
            // Ring numbers and the like, now and then, that there are.
            if dice.roll().is_multiple_of(2) {
                payload.iter_mut().take(4).for_each(|byte| *byte = 0);
            }
            let sent = session.wire.send_flags(code, flags::VERSION | flags::NEED_REPLY, &payload, &[]);
            let open = sent.is_ok()
                && in_step(&mut session)
                    .map_err(|stop| stop.when(format_args!("{code} with {size} bytes of garbage")))?;
            if !open {
                session = Session::open(cx, &Setup::new(Format::Split))
                    .map_err(|stop| stop.when(format_args!("after {code} with {size} bytes of garbage")))?;
            }
        }
        if Instant::now() >= deadline {
            cx.note(format!("given up after payloads of {size} bytes: too slow"));
            break;
        }
    }
    drop(session);
    works(cx)
}

/// A new front end is served.
fn works(cx: &mut Cx) -> Checked {
    if cx.sample().is_err() {
        return Session::open(cx, &Setup::new(Format::Split)).map(drop);
    }
    Session::ready(cx, &Setup::new(Format::Split))?.request().map(drop)
}

fn on_running_rings(cx: &mut Cx) -> Checked {
    cx.sample()?;
    cx.each_format(|cx, format| {
        for seed in 0..30 {
            let mut dice = Dice::new(seed + 100);
            let mut session = Session::ready(cx, &Setup::new(format))?;
            for _ in 0..20 {
                // Those that change rings and memory.
                let code = Code(5 + u32::try_from(dice.roll() % 14)?);
                let size = if dice.roll().is_multiple_of(4) { 40 } else { 8 };
                let mut payload = dice.bytes(size);
                payload.iter_mut().take(8).for_each(|byte| *byte %= 3);
                payload.iter_mut().take(4).for_each(|byte| *byte = 0);
                let sent = session.wire.send_flags(code, flags::VERSION | flags::NEED_REPLY, &payload, &[]);
                if sent.is_err() || !in_step(&mut session).map_err(|stop| stop.when(code))? {
                    break;
                }
            }
        }
        works(cx)
    })
}

/// Beyond the 32768 rings that a device can have; those that are cut to 8 or 16 bits name ring 0.
const NO_RINGS: [u32; 3] = [0x1_0000, 0xffff_ff00, 0x8001];

fn ring_index(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    for index in NO_RINGS {
        for (code, num) in [(Code::SET_VRING_NUM, 16), (Code::SET_VRING_BASE, 0), (Code::SET_VRING_ENABLE, 1)]
        {
            let mut session = Session::open(cx, &Setup::new(Format::Split))?;
            let state = VringState { index, num };
            session
                .wire
                .refused(code, state.as_bytes(), &[])
                .map_err(|stop| stop.when(format_args!("of ring {index:#x}")))?;
        }
    }
    Ok(())
}
