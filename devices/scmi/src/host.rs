//! What stands behind a guest's view: values of our own, attributes of sysfs, channels of IIO.

mod asked;
mod attribute;
mod origin;
mod quantity;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outboard_device::DeviceError;
use outboard_scmi_protocols::{Point, Status, What};

#[cfg(test)]
pub(crate) use asked::Real;
pub(crate) use asked::{Asked, Distant, Seen};
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
    /// The path is an attribute, not a directory that has it.
    pub(crate) alone: bool,
}

impl Wanted<'_> {
    pub(crate) fn new(what: What, value: i64, writable: bool) -> Self {
        Self { what, value, writable, axis: None, scale: 0, alone: false }
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
    Distant(Arc<Distant>),
}

/// What is known of a point without waiting.
pub(crate) enum Known<'a> {
    /// What it is.
    Value(i64),
    /// Whom to ask.
    Distant(&'a Arc<Distant>),
}

/// The host's side of one guest.
pub(crate) struct Host {
    opener: Opener,
    sources: BTreeMap<Point, Source>,
    /// Points that somebody wants to see fail.
    failing: BTreeSet<Point>,
    begun: Instant,
}

impl Host {
    pub(crate) fn new(opener: Opener) -> Self {
        let (sources, failing) = (BTreeMap::new(), BTreeSet::new());
        Self { opener, sources, failing, begun: Instant::now() }
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
                Origin::Sysfs(path) => Attribute::sysfs(&self.opener.root, path, wanted)?.into(),
                Origin::Iio(path) => Attribute::iio(&self.opener.root, path, wanted)?.into(),
            };
            self.sources.insert(Point { what: wanted.what, id }, source);
        }
        Ok(())
    }

    /// Whether anything is the host's, and can take its time.
    pub(crate) fn is_real(&self) -> bool {
        self.sources.values().any(|source| matches!(source, Source::Distant(_)))
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

    /// What is known of `point` without waiting.
    ///
    /// # Errors
    /// There is no such point, or somebody wants to see it fail.
    pub(crate) fn look(&self, point: Point) -> Result<Known<'_>, Status> {
        if self.failing.contains(&point) {
            return Err(Status::HardwareError);
        }
        match self.sources.get(&point).ok_or(Status::NotFound)? {
            Source::Simulated(value) => self.within(point, *value).map(Known::Value),
            Source::Distant(distant) => Ok(Known::Distant(distant)),
        }
    }

    /// A simulated domain keeps within its limits by itself.
    fn within(&self, Point { what, id }: Point, value: i64) -> Result<i64, Status> {
        let limit = |what| match self.look(Point { what, id })? {
            Known::Value(value) => Ok(value),
            Known::Distant(_) => Err(Status::HardwareError),
        };
        match what {
            What::Level => Ok(value.max(limit(What::MinLevel)?).min(limit(What::MaxLevel)?)),
            _ => Ok(value),
        }
    }

    /// What `point` is, or was when the host was asked last.
    pub(crate) fn last(&self, point: Point) -> Option<i64> {
        match self.look(point).ok()? {
            Known::Value(value) => Some(value),
            Known::Distant(distant) => distant.last(),
        }
    }

    /// Whom to ask what `point` is, if one has to.
    pub(crate) fn distant(&self, point: Point) -> Option<Arc<Distant>> {
        match self.look(point).ok()? {
            Known::Value(_) => None,
            Known::Distant(distant) => Some(Arc::clone(distant)),
        }
    }

    /// A clock that never goes back.
    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Puts something else behind a point.
    #[cfg(test)]
    pub(crate) fn replace(&mut self, point: Point, real: impl Real + 'static) {
        self.sources.insert(point, Source::Distant(Distant::new(real)));
    }
}

impl From<Attribute> for Source {
    fn from(attribute: Attribute) -> Self {
        Self::Distant(Distant::new(attribute))
    }
}
