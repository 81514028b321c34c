//! What lines belong to: a chip of the host, or a simulated one.

mod cdev;
mod simulated;
mod uapi;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use outboard_daemon::Teller;
use outboard_device::DeviceError;

pub(crate) use simulated::Simulated;

use crate::options::GpioOptions;

/// Which way a line goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Direction {
    /// It is not in use.
    #[default]
    None,
    /// It is driven.
    Out,
    /// It is read.
    In,
}

/// Which edges of a line are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edges {
    pub(crate) rising: bool,
    pub(crate) falling: bool,
}

/// A chip, with lines by the guest's numbers. Lines beyond them are errors.
pub(crate) trait Chip: Send {
    /// Which way a line goes.
    fn direction(&mut self, line: u16) -> io::Result<Direction>;
    /// Sets it; `level` is what an output begins with. `None` lets go of the line.
    fn set_direction(&mut self, line: u16, to: Direction, level: bool) -> io::Result<()>;
    /// The level of a line.
    fn value(&mut self, line: u16) -> io::Result<bool>;
    /// Drives an output.
    fn set_value(&mut self, line: u16, high: bool) -> io::Result<()>;
    /// Which edges of an input are told.
    fn sense(&mut self, line: u16, edges: Edges) -> io::Result<()>;
    /// Readable if there were edges.
    fn events(&self) -> BorrowedFd<'_>;
    /// Takes the edges that there were: line, and whether it rose.
    fn edges(&mut self, into: &mut Vec<(u16, bool)>);
}

/// What the guest gets, before anybody uses it.
pub(crate) struct Host {
    /// The number of each line on its chip, and its name.
    pub(crate) lines: Vec<(u32, String)>,
    /// The chip, for what drives it.
    pub(crate) simulated: Option<Arc<Simulated>>,
    /// The chip's name.
    pub(crate) name: String,
    real: Option<cdev::Source>,
}

impl Host {
    /// Looks for all that the options name.
    ///
    /// # Errors
    /// A chip that cannot be opened; lines that it has not.
    pub(crate) fn open(options: &GpioOptions, teller: &Teller) -> Result<Self, DeviceError> {
        let source = options.chip.as_deref().map(|chip| cdev::Source::open(chip, options.debounce_us));
        let source = source.transpose()?;
        let all = match &source {
            Some(source) => source.lines()?,
            None => (0..options.simulate.unwrap_or(8)).map(|line| (u32::from(line), String::new())).collect(),
        };
        let lines = match &options.lines {
            None => all,
            Some(list) => chosen(&all, list.iter(), source.is_some())?,
        };
        if lines.is_empty() || lines.len() > usize::from(u16::MAX) {
            return Err(DeviceError::Invalid("the guest gets no line, or more than 65535".to_owned()));
        }
        let name = source.as_ref().map_or_else(|| "simulated".to_owned(), |source| source.name().to_owned());
        let simulated = match &source {
            Some(_) => None,
            None => {
                let count = options.simulate.unwrap_or(8);
                Some(Arc::new(Simulated::new(count, &options.wire, teller.clone())?))
            }
        };
        Ok(Self { lines, simulated, name, real: source })
    }

    /// The lines, for somebody who uses them.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(crate) fn chip(&self) -> Result<Box<dyn Chip>, DeviceError> {
        let numbers: Vec<u32> = self.lines.iter().map(|(number, _)| *number).collect();
        Ok(match (&self.real, &self.simulated) {
            (Some(source), _) => Box::new(source.chip(&numbers)?),
            (None, Some(simulated)) => Box::new(simulated::Lines::new(Arc::clone(simulated), &numbers)),
            (None, None) => return Err(DeviceError::Invalid("there is no chip".to_owned())),
        })
    }
}

/// The lines of a list, of all that there are. Of a chip of the host, lines may be named that somebody uses now.
fn chosen<'a>(
    all: &[(u32, String)],
    list: impl Iterator<Item = (u32, Option<&'a str>)>,
    is_real: bool,
) -> Result<Vec<(u32, String)>, DeviceError> {
    list.map(|(number, name)| {
        let own = all.iter().find(|(line, _)| *line == number).map(|(_, name)| name.as_str());
        if own.is_none() && !is_real {
            return Err(DeviceError::Invalid(format!("there is no line {number}")));
        }
        Ok((number, name.or(own).unwrap_or_default().to_owned()))
    })
    .collect()
}
