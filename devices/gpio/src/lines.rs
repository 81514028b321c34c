//! What a driver has made of each line, and what follows for its requests: pure but for the chip, which is a trait.
//!
//! Theory of operation of interrupts (VIRTIO 1.3, 5.18.6.7 and 5.18.6.8). A line whose trigger is set is unmasked by a
//! buffer on the event queue, and masked when that goes back. An edge that comes while it is masked is remembered, once. A
//! level is not: it is looked at when the line is unmasked, and at each edge. Who holds the buffers is the handler's affair.

use std::io;

use outboard_device::defs::gpio::{
    IRQ_EDGE_BOTH, IRQ_EDGE_FALLING, IRQ_EDGE_RISING, IRQ_LEVEL_HIGH, IRQ_LEVEL_LOW, IRQ_NONE,
};

use crate::host::{Chip, Direction, Edges};

/// What a driver has set on a line.
#[derive(Clone, Copy, Debug, Default)]
struct Line {
    /// The level for when it becomes an output.
    wanted: bool,
    /// `IRQ_*`.
    trigger: u8,
    unmasked: bool,
    /// An edge came while it was masked.
    latched: bool,
}

/// What becomes of the buffer that unmasks a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmasked {
    /// It is held until there is an interrupt.
    Held,
    /// There is one already.
    Valid,
    /// The line is masked still.
    Invalid,
}

/// The lines and the chip that they are of.
pub(crate) struct Lines {
    chip: Box<dyn Chip>,
    lines: Vec<Line>,
}

impl Lines {
    pub(crate) fn new(chip: Box<dyn Chip>, count: u16) -> Self {
        Self { chip, lines: vec![Line::default(); count.into()] }
    }

    /// The chip.
    pub(crate) fn chip(&mut self) -> &mut dyn Chip {
        &mut *self.chip
    }

    /// Forgets what a driver has set, and lets go of the lines.
    pub(crate) fn forget(&mut self) {
        for line in 0..self.lines.len() as u16 {
            self.release(line);
        }
    }

    fn release(&mut self, line: u16) {
        if let Some(state) = self.line(line) {
            *state = Line::default();
        }
        if let Err(error) = self.chip.set_direction(line, Direction::None, false) {
            tracing::debug!("line {line}: {error}");
        }
    }

    fn line(&mut self, line: u16) -> Option<&mut Line> {
        self.lines.get_mut(usize::from(line))
    }

    fn state(&mut self, line: u16) -> io::Result<&mut Line> {
        self.line(line).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Which way a line goes.
    pub(crate) fn direction(&mut self, line: u16) -> io::Result<Direction> {
        self.state(line)?;
        self.chip.direction(line)
    }

    /// Sets it. A line that goes nowhere has no state.
    pub(crate) fn set_direction(&mut self, line: u16, to: Direction) -> io::Result<()> {
        let state = *self.state(line)?;
        match to {
            Direction::None => {
                self.release(line);
                return Ok(());
            }
            // VIRTIO 1.3, 5.18.6.7: interrupts are of inputs.
            Direction::Out if state.trigger != IRQ_NONE => return Err(io::ErrorKind::ResourceBusy.into()),
            Direction::Out | Direction::In => {}
        }
        self.chip.set_direction(line, to, state.wanted)
    }

    /// A line's level.
    pub(crate) fn value(&mut self, line: u16) -> io::Result<bool> {
        self.state(line)?;
        self.chip.value(line)
    }

    /// Sets it, now or when the line becomes an output.
    pub(crate) fn set_value(&mut self, line: u16, high: bool) -> io::Result<()> {
        self.state(line)?.wanted = high;
        match self.chip.direction(line)? {
            Direction::Out => self.chip.set_value(line, high),
            Direction::None | Direction::In => Ok(()),
        }
    }

    /// Sets what a line's interrupts are for. Without an error, a buffer that is held goes back, unless nothing changes.
    pub(crate) fn set_trigger(&mut self, line: u16, trigger: u8) -> io::Result<()> {
        self.state(line)?;
        let edges = match trigger {
            IRQ_NONE => Edges::default(),
            IRQ_EDGE_RISING => Edges { rising: true, falling: false },
            IRQ_EDGE_FALLING => Edges { rising: false, falling: true },
            IRQ_EDGE_BOTH | IRQ_LEVEL_HIGH | IRQ_LEVEL_LOW => Edges { rising: true, falling: true },
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        };
        if trigger != IRQ_NONE && self.chip.direction(line)? == Direction::Out {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.chip.sense(line, edges)?;
        let state = self.state(line)?;
        *state = Line { trigger, unmasked: false, latched: false, ..*state };
        Ok(())
    }

    /// A driver wants to hear of the next interrupt of a line.
    pub(crate) fn unmask(&mut self, line: u16) -> Unmasked {
        let Some(state) = self.line(line).filter(|state| state.trigger != IRQ_NONE && !state.unmasked) else {
            return Unmasked::Invalid;
        };
        let latched = std::mem::take(&mut state.latched);
        state.unmasked = true;
        if latched || self.is_active(line) {
            self.mask(line);
            return Unmasked::Valid;
        }
        Unmasked::Held
    }

    /// The buffer of a line went back.
    pub(crate) fn mask(&mut self, line: u16) {
        if let Some(state) = self.line(line) {
            state.unmasked = false;
        }
    }

    /// There was an edge. True: an interrupt, for which the buffer that is held goes back.
    pub(crate) fn edge(&mut self, line: u16, rising: bool) -> bool {
        let Some(state) = self.line(line) else { return false };
        let is_its = match state.trigger {
            IRQ_EDGE_BOTH => true,
            IRQ_EDGE_RISING => rising,
            IRQ_EDGE_FALLING => !rising,
            IRQ_LEVEL_HIGH | IRQ_LEVEL_LOW => state.unmasked && self.is_active(line),
            _ => false,
        };
        let Some(state) = self.line(line).filter(|_| is_its) else { return false };
        if !std::mem::take(&mut state.unmasked) {
            state.latched = true;
            return false;
        }
        true
    }

    /// Whether the line has the level that its trigger is.
    fn is_active(&mut self, line: u16) -> bool {
        let active = match self.line(line).map(|state| state.trigger) {
            Some(IRQ_LEVEL_HIGH) => true,
            Some(IRQ_LEVEL_LOW) => false,
            _ => return false,
        };
        self.chip.value(line).is_ok_and(|level| level == active)
    }
}
