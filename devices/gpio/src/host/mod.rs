//! What lines belong to: a chip of the host, or a simulated one.

mod cdev;
mod names;
mod simulated;
mod uapi;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use outboard_daemon::Teller;
use outboard_device::DeviceError;

pub(crate) use simulated::Simulated;

use self::names::Wanted;
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

/// A line of a chip.
#[derive(Debug)]
pub(crate) struct Found {
    number: u32,
    /// What the chip calls it.
    name: String,
    /// Somebody has it.
    is_used: bool,
}

impl Found {
    fn nameless(number: u32) -> Self {
        Self { number, name: String::new(), is_used: false }
    }
}

impl<'a> From<&'a Found> for Wanted<'a> {
    fn from(Found { number, name, .. }: &'a Found) -> Self {
        Self { number: *number, given: None, own: name }
    }
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
            None => (0..options.simulate.unwrap_or(8)).map(|line| Found::nameless(line.into())).collect(),
        };
        let lines = match &options.lines {
            None => all.iter().filter(|line| !line.is_used).map(Wanted::from).collect(),
            Some(list) => chosen(&all, list.iter())?,
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
        let names = names::settle(&lines);
        let lines = lines.iter().map(|line| line.number).zip(names).collect();
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

/// The lines of a list, of all that there are: also those that somebody uses now.
fn chosen<'a>(
    all: &'a [Found],
    list: impl Iterator<Item = (u32, Option<&'a str>)>,
) -> Result<Vec<Wanted<'a>>, DeviceError> {
    list.map(|(number, given)| {
        let found = all.iter().find(|line| line.number == number);
        let found = found.ok_or_else(|| DeviceError::Invalid(format!("there is no line {number}")))?;
        Ok(Wanted { given, ..found.into() })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_list_have_their_names_whether_in_use_or_not() {
        let found = |number, name: &str, is_used| Found { number, name: name.to_owned(), is_used };
        let all = [found(0, "a", false), found(1, "b", true)];
        let of = |list: &str| {
            let list: outboard_daemon::Renamed = list.parse().unwrap();
            let lines = chosen(&all, list.iter()).ok()?;
            Some(
                lines
                    .iter()
                    .map(|line| (line.number, line.given.map(str::to_owned), line.own.to_owned()))
                    .collect::<Vec<_>>(),
            )
        };
        let given = Some("door".to_owned());
        assert_eq!(of("1,0=door"), Some(vec![(1, None, "b".to_owned()), (0, given, "a".to_owned())]));
        assert_eq!(of("2"), None);
    }
}
