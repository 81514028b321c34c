//! What a driver asks for, and the answer. Nothing of it is believed.

use std::io;

use outboard_device::Chain;
use outboard_device::defs::gpio::{
    DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, GET_DIRECTION, GET_LINE_NAMES, GET_VALUE, Request,
    SET_DIRECTION, SET_IRQ_TYPE, SET_VALUE, STATUS_ERR, STATUS_OK,
};

use crate::host::Direction;
use crate::lines::Lines;

/// What holds for all requests of a driver.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// The block of names; empty if no line has one.
    pub(crate) names: Vec<u8>,
    /// Lines that may not be driven.
    pub(crate) read_only: Vec<bool>,
    /// Interrupts were agreed on.
    pub(crate) interrupts: bool,
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing that concerns interrupts.
    Answered,
    /// The trigger of this line was set anew, or it was let go: the buffer that is held for it goes back.
    Masked(u16),
}

/// Carries a request out, and writes its answer.
pub(crate) fn serve(chain: &mut Chain, lines: &mut Lines, terms: &Terms) -> Outcome {
    let Ok(request) = chain.read_obj::<Request>() else {
        refuse(chain);
        return Outcome::Answered;
    };
    let (kind, line, value) = (request.kind.get(), request.gpio.get(), request.value.get());
    if kind == GET_LINE_NAMES {
        let fits = !terms.names.is_empty() && chain.writable_len() > terms.names.len();
        if !fits || chain.write_all(&[STATUS_OK]).and_then(|()| chain.write_all(&terms.names)).is_err() {
            refuse(chain);
        }
        return Outcome::Answered;
    }
    // Without room for an answer nothing is done.
    if chain.writable_len() < 2 {
        refuse(chain);
        return Outcome::Answered;
    }
    match execute(kind, line, value, lines, terms) {
        Ok(value) => {
            answer(chain, &[STATUS_OK, value]);
            let is_released = kind == SET_DIRECTION && request.value.get() == u32::from(DIRECTION_NONE);
            let masks = kind == SET_IRQ_TYPE || is_released;
            if masks { Outcome::Masked(line) } else { Outcome::Answered }
        }
        Err(error) => {
            tracing::debug!("request {kind} of line {line}, {value}: {error}");
            answer(chain, &[STATUS_ERR, 0]);
            Outcome::Answered
        }
    }
}

fn execute(kind: u16, line: u16, value: u32, lines: &mut Lines, terms: &Terms) -> io::Result<u8> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
    let byte = || u8::try_from(value).map_err(|_| wrong());
    match kind {
        GET_DIRECTION => lines.direction(line).map(|direction| match direction {
            Direction::None => DIRECTION_NONE,
            Direction::Out => DIRECTION_OUT,
            Direction::In => DIRECTION_IN,
        }),
        SET_DIRECTION => {
            let direction = match byte()? {
                DIRECTION_NONE => Direction::None,
                DIRECTION_OUT => Direction::Out,
                DIRECTION_IN => Direction::In,
                _ => return Err(wrong()),
            };
            if direction == Direction::Out && terms.read_only.get(usize::from(line)) == Some(&true) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            lines.set_direction(line, direction).map(|()| 0)
        }
        GET_VALUE => lines.value(line).map(u8::from),
        SET_VALUE => match byte()? {
            level @ 0..=1 => lines.set_value(line, level == 1).map(|()| 0),
            _ => Err(wrong()),
        },
        SET_IRQ_TYPE if terms.interrupts => lines.set_trigger(line, byte()?).map(|()| 0),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Says that nothing was done, as far as there is room to.
fn refuse(chain: &mut Chain) {
    answer(chain, &[STATUS_ERR, 0]);
}

fn answer(chain: &mut Chain, answer: &[u8; 2]) {
    let room = chain.writable_len().min(answer.len());
    // It fits.
    let _ = chain.write_all(answer.get(..room).unwrap_or_default());
}
