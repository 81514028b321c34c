//! What stands behind a guest's view: values of our own, attributes of sysfs, channels of IIO.

mod attribute;
mod origin;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use outboard_device::DeviceError;
use outboard_scmi_protocols::{FORCED, Platform, Point, Status, What};

use attribute::Attribute;
pub(crate) use origin::Origin;

/// What a thing is to be served with.
pub(crate) struct Wanted<'a> {
    pub(crate) what: What,
    /// What it is at first, if it is simulated.
    pub(crate) value: i64,
    /// Whether the guest may set it.
    pub(crate) writable: bool,
    /// The axis of a sensor that it is, if it has any.
    pub(crate) axis: Option<&'a str>,
    /// The power of ten that readings are in.
    pub(crate) scale: i8,
}

impl Wanted<'_> {
    pub(crate) fn new(what: What, value: i64, writable: bool) -> Self {
        Self { what, value, writable, axis: None, scale: 0 }
    }
}

/// Where attributes lie.
pub(crate) struct Opener {
    root: PathBuf,
}

impl Opener {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

/// What a point is.
enum Source {
    /// A number.
    Simulated(i64),
    /// The host's.
    Attribute(Attribute),
}

/// The host's side of one guest.
pub(crate) struct Host {
    opener: Opener,
    sources: BTreeMap<Point, Source>,
    /// Points that somebody wants to see fail.
    failing: BTreeSet<Point>,
    begun: Instant,
    /// What the guest has set, since somebody asked last.
    set: Vec<(Point, i64)>,
}

impl Host {
    pub(crate) fn new(opener: Opener) -> Self {
        let (sources, failing) = (BTreeMap::new(), BTreeSet::new());
        Self { opener, sources, failing, begun: Instant::now(), set: Vec::new() }
    }

    /// Serves what is wanted of the thing `id` from `origin`.
    pub(crate) fn add(
        &mut self,
        origin: &Origin,
        id: usize,
        wanted: &[Wanted<'_>],
    ) -> Result<(), DeviceError> {
        for wanted in wanted {
            let source = match origin {
                Origin::Simulated => Source::Simulated(wanted.value),
                Origin::Sysfs(path) => Source::Attribute(Attribute::sysfs(&self.opener.root, path, wanted)?),
                Origin::Iio(path) => Source::Attribute(Attribute::iio(&self.opener.root, path, wanted)?),
            };
            self.sources.insert(Point { what: wanted.what, id }, source);
        }
        Ok(())
    }

    /// Whether anything is the host's, and can take its time.
    pub(crate) fn is_real(&self) -> bool {
        self.sources.values().any(|source| matches!(source, Source::Attribute(_)))
    }

    /// Sets what is simulated. False if it is not.
    pub(crate) fn simulate(&mut self, point: Point, value: i64) -> bool {
        match self.sources.get_mut(&point) {
            Some(Source::Simulated(place)) => *place = value,
            _ => return false,
        }
        true
    }

    /// Lets a point fail from now on, or not any more.
    pub(crate) fn fail(&mut self, point: Point, on: bool) {
        if on {
            self.failing.insert(point);
        } else {
            self.failing.remove(&point);
        }
    }

    /// What the guest has set since this was asked last.
    pub(crate) fn take_set(&mut self) -> Vec<(Point, i64)> {
        std::mem::take(&mut self.set)
    }

    fn source(&mut self, point: Point) -> Result<&mut Source, Status> {
        if self.failing.contains(&point) {
            return Err(Status::HardwareError);
        }
        self.sources.get_mut(&point).ok_or(Status::NotFound)
    }
}

impl Platform for Host {
    fn read(&mut self, point: Point) -> Result<i64, Status> {
        let value = match self.source(point)? {
            Source::Simulated(value) => *value,
            Source::Attribute(attribute) => return attribute.read().map_err(|_| Status::HardwareError),
        };
        // A simulated domain keeps within its limits by itself.
        let id = point.id;
        Ok(match point.what {
            What::Level => {
                let (min, max) = (What::MinLevel, What::MaxLevel);
                value.max(self.read(Point { what: min, id })?).min(self.read(Point { what: max, id })?)
            }
            _ => value,
        })
    }

    fn write(&mut self, point: Point, value: i64) -> Result<(), Status> {
        match self.source(point)? {
            Source::Simulated(place) => *place = value & !FORCED,
            Source::Attribute(attribute) => attribute.write(value).map_err(|_| Status::HardwareError)?,
        }
        self.set.push((point, value));
        Ok(())
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}
