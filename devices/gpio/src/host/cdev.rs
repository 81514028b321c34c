//! A chip of the host, by its character device. A line is taken while the guest uses it, and only then: others may have it
//! before and afterwards.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use outboard_device::DeviceError;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use zerocopy::FromBytes as _;

use super::{Chip, Direction, Edges, Found};
use crate::host::uapi::{self, Config, LineEvent, RISING, flag};

/// Bytes of an edge as the kernel tells it.
const EVENT: usize = size_of::<LineEvent>();
/// Edges that are read at a time: as many as the kernel keeps of a line.
const EVENTS: usize = 16;
/// Lines that are looked at in a pass.
const READY: usize = 32;
const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// A chip that was found.
pub(super) struct Source {
    device: OwnedFd,
    name: String,
    count: u32,
    debounce_us: u32,
}

impl Source {
    /// Opens the chip of this path, or with this label.
    pub(super) fn open(chip: &str, debounce_us: Option<u32>) -> Result<Self, DeviceError> {
        let (path, device) = find(chip)?;
        let failed = |error| DeviceError::host(format!("{} is no chip", path.display()), error);
        let count = uapi::chip_info(&device).map_err(failed)?.lines;
        let name = path.display().to_string();
        Ok(Self { device, name, count, debounce_us: debounce_us.unwrap_or(0) })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The lines.
    pub(super) fn lines(&self) -> Result<Vec<Found>, DeviceError> {
        let mut lines = Vec::new();
        for offset in 0..self.count {
            let info = uapi::line_info(&self.device, offset);
            let info =
                info.map_err(|error| DeviceError::host(format!("line {offset} of {}", self.name), error))?;
            let is_used = info.flags & flag::USED != 0;
            lines.push(Found { number: offset, name: text(&info.name), is_used });
        }
        Ok(lines)
    }

    /// The chip, for somebody who uses these lines.
    pub(super) fn chip(&self, offsets: &[u32]) -> Result<Cdev, DeviceError> {
        if let Some(beyond) = offsets.iter().find(|offset| **offset >= self.count) {
            return Err(DeviceError::Invalid(format!("{} has no line {beyond}", self.name)));
        }
        let failed = |error: Errno| DeviceError::host(self.name.clone(), error);
        let device = rustix::io::fcntl_dupfd_cloexec(&self.device, 0).map_err(failed)?;
        let poller = epoll::create(CreateFlags::CLOEXEC).map_err(failed)?;
        let lines = offsets.iter().map(|offset| Line { offset: *offset, ..Line::default() }).collect();
        Ok(Cdev { device, poller, lines, debounce_us: self.debounce_us })
    }
}

/// The text of a field that ends at its first zero.
fn text(field: &[u8]) -> String {
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn find(chip: &str) -> Result<(PathBuf, OwnedFd), DeviceError> {
    let opened = |path: &Path| open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    if chip.starts_with('/') {
        let device = opened(Path::new(chip));
        let device =
            device.map_err(|error| DeviceError::host(format!("cannot open the chip {chip}"), error))?;
        return Ok((chip.into(), device));
    }
    let failed = |error| DeviceError::host(format!("cannot look for the chip {chip:?}"), error);
    let mut found = Vec::new();
    for entry in fs::read_dir("/dev").map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b"gpiochip") {
            continue;
        }
        let Ok(device) = opened(&entry.path()) else { continue };
        if uapi::chip_info(&device).is_ok_and(|info| text(&info.label) == chip) {
            found.push((entry.path(), device));
        }
    }
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(DeviceError::Invalid(format!("no chip is labelled {chip:?}"))),
        (Some(_), false) => {
            Err(DeviceError::Invalid(format!("several chips are labelled {chip:?}: use a path")))
        }
    }
}

/// A line, and its descriptor while it is taken.
#[derive(Default)]
struct Line {
    offset: u32,
    taken: Option<OwnedFd>,
    direction: Direction,
    level: bool,
    edges: Edges,
}

impl Line {
    fn config(&self, debounce_us: u32) -> Config {
        let edge = |on: bool, flag: u64| if on { flag } else { 0 };
        let flags = match self.direction {
            Direction::Out => flag::OUTPUT,
            Direction::None | Direction::In => {
                let rising = edge(self.edges.rising, flag::EDGE_RISING);
                flag::INPUT | rising | edge(self.edges.falling, flag::EDGE_FALLING)
            }
        };
        Config { flags, level: self.level, debounce_us }
    }

    /// Takes what the kernel has for the line: edges that are wanted are told. False: the line has gone, with its chip.
    fn read(&self, number: u16, mut into: Option<&mut Vec<(u16, bool)>>) -> bool {
        let Some(taken) = &self.taken else { return true };
        let mut bytes = [0; EVENTS * EVENT];
        let count = match rustix::io::read(taken, &mut bytes) {
            Ok(count) => count,
            Err(error) => return matches!(error, Errno::AGAIN | Errno::INTR),
        };
        if let Some(into) = into.as_mut().filter(|_| self.edges != Edges::default()) {
            let told = bytes.get(..count).unwrap_or_default().chunks_exact(EVENT);
            let events = told.filter_map(|bytes| LineEvent::read_from_bytes(bytes).ok());
            into.extend(events.map(|event| (number, event.id == RISING)));
        }
        count > 0
    }
}

/// See the module.
pub(super) struct Cdev {
    device: OwnedFd,
    /// Those of the lines that are taken.
    poller: OwnedFd,
    lines: Vec<Line>,
    debounce_us: u32,
}

impl Cdev {
    fn line(&mut self, line: u16) -> io::Result<&mut Line> {
        self.lines.get_mut(usize::from(line)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn taken(&mut self, line: u16) -> io::Result<&OwnedFd> {
        self.line(line)?.taken.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Chip for Cdev {
    fn direction(&mut self, line: u16) -> io::Result<Direction> {
        Ok(self.line(line)?.direction)
    }

    /// Closing the descriptor lets go of a line. One that is taken is changed in place, so that nobody else gets it.
    fn set_direction(&mut self, number: u16, to: Direction, level: bool) -> io::Result<()> {
        let debounce_us = self.debounce_us;
        let line = self.line(number)?;
        if to == Direction::None {
            *line = Line { offset: line.offset, ..Line::default() };
            return Ok(());
        }
        let edges = if to == Direction::In { line.edges } else { Edges::default() };
        let wanted = Line { offset: line.offset, taken: None, direction: to, level, edges };
        let config = wanted.config(debounce_us);
        let offset = line.offset;
        let taken = match line.taken.take() {
            Some(taken) => {
                let changed = uapi::set_config(&taken, config);
                if let Err(error) = changed {
                    line.taken = Some(taken);
                    return Err(error);
                }
                taken
            }
            None => {
                let taken = uapi::get_line(&self.device, offset, config)?;
                epoll::add(&self.poller, &taken, EventData::new_u64(number.into()), EventFlags::IN)?;
                taken
            }
        };
        *self.line(number)? = Line { taken: Some(taken), ..wanted };
        Ok(())
    }

    fn value(&mut self, line: u16) -> io::Result<bool> {
        uapi::value(self.taken(line)?)
    }

    fn set_value(&mut self, line: u16, high: bool) -> io::Result<()> {
        uapi::set_value(self.taken(line)?, high)?;
        self.line(line)?.level = high;
        Ok(())
    }

    /// A driver sets a trigger when the line is an input already; one that is not taken is taken as such.
    fn sense(&mut self, number: u16, edges: Edges) -> io::Result<()> {
        let debounce_us = self.debounce_us;
        let line = self.line(number)?;
        let before = std::mem::replace(&mut line.edges, edges);
        let done = match &line.taken {
            // Edges that the kernel has by now were those of another trigger.
            Some(taken) => uapi::set_config(taken, line.config(debounce_us)).map(|()| {
                line.read(number, None);
            }),
            None if edges == Edges::default() => Ok(()),
            None => self.set_direction(number, Direction::In, false),
        };
        if done.is_err() {
            self.line(number)?.edges = before;
        }
        done
    }

    fn events(&self) -> BorrowedFd<'_> {
        self.poller.as_fd()
    }

    /// The poller says which lines have something, and not what they were asked for: the kernel keeps an edge that came
    /// before the trigger was taken away, and a line whose chip is gone is ready for ever.
    fn edges(&mut self, into: &mut Vec<(u16, bool)>) {
        let mut ready = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; READY];
        let count = epoll::wait(&self.poller, &mut ready, Some(&NOW)).unwrap_or(0);
        for event in ready.iter().take(count) {
            let (number, flags) = (event.data.u64() as u16, event.flags);
            let Some(line) = self.lines.get(usize::from(number)) else { continue };
            let is_there = line.read(number, Some(into));
            if let Some(taken) = &line.taken
                && (!is_there || flags.intersects(EventFlags::HUP | EventFlags::ERR))
            {
                tracing::warn!("line {} has gone, with its chip", line.offset);
                if let Err(error) = epoll::delete(&self.poller, taken) {
                    tracing::debug!("line {}: {error}", line.offset);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::pipe::{PipeFlags, pipe_with};
    use zerocopy::{FromZeros as _, IntoBytes as _};

    use super::*;

    #[test]
    fn what_is_no_chip_is_refused_at_the_start() {
        for chip in ["/dev/null", "/nowhere", "no such label"] {
            assert!(Source::open(chip, None).is_err(), "{chip}");
        }
    }

    /// A chip of which line 0 is taken, and what the kernel says there.
    fn taken(edges: Edges) -> (Cdev, OwnedFd) {
        let (line, kernel) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let poller = epoll::create(CreateFlags::CLOEXEC).unwrap();
        epoll::add(&poller, &line, EventData::new_u64(0), EventFlags::IN).unwrap();
        let line = Line { taken: Some(line), direction: Direction::In, edges, ..Line::default() };
        let device = open("/dev/null", OFlags::RDWR, Mode::empty()).unwrap();
        (Cdev { device, poller, lines: vec![line], debounce_us: 0 }, kernel)
    }

    fn tell(kernel: &OwnedFd, id: u32) {
        let mut event = LineEvent::new_zeroed();
        event.id = id;
        assert_eq!(rustix::io::write(kernel, event.as_bytes()), Ok(EVENT));
    }

    fn edges(chip: &mut Cdev) -> Vec<(u16, bool)> {
        let mut edges = Vec::new();
        chip.edges(&mut edges);
        edges
    }

    fn is_quiet(chip: &Cdev) -> bool {
        poll(&mut [PollFd::new(&chip.events(), PollFlags::IN)], Some(&NOW)).unwrap() == 0
    }

    #[test]
    fn edges_are_told_as_the_kernel_has_them() {
        let (mut chip, kernel) = taken(Edges { rising: true, falling: true });
        for id in [RISING, 2, RISING] {
            tell(&kernel, id);
        }
        assert_eq!(edges(&mut chip), [(0, true), (0, false), (0, true)]);
        assert!(is_quiet(&chip) && edges(&mut chip).is_empty());
    }

    #[test]
    fn edge_that_nobody_wants_any_more_is_taken_and_not_told() {
        let (mut chip, kernel) = taken(Edges::default());
        tell(&kernel, RISING);
        assert!(edges(&mut chip).is_empty());
        assert!(is_quiet(&chip), "it would be an event in each pass");
        tell(&kernel, RISING);
        assert!(chip.lines[0].read(0, None) && is_quiet(&chip), "what another trigger begins with");
    }

    #[test]
    fn line_whose_chip_has_gone_is_watched_no_longer() {
        for edge in [true, false] {
            let (mut chip, kernel) = taken(Edges { rising: edge, falling: false });
            drop(kernel);
            assert!(!is_quiet(&chip) && edges(&mut chip).is_empty());
            assert!(is_quiet(&chip), "it would be an event in each pass");
            chip.set_direction(0, Direction::None, false).unwrap();
            assert_eq!(chip.direction(0).unwrap(), Direction::None);
        }
    }

    #[test]
    fn configuration_of_a_line_says_what_is_asked_of_it() {
        let edges = Edges { rising: true, falling: false };
        let input = Line { direction: Direction::In, edges, ..Line::default() };
        let flags = flag::INPUT | flag::EDGE_RISING;
        assert_eq!(input.config(5), Config { flags, level: false, debounce_us: 5 });
        let output = Line { direction: Direction::Out, level: true, ..Line::default() };
        assert_eq!(output.config(0), Config { flags: flag::OUTPUT, level: true, debounce_us: 0 });
        assert_eq!(text(b"LED 1\0\0x"), "LED 1");
    }
}
