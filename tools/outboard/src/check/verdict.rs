//! How a check ends.

use std::fmt;

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What must hold holds.
    Pass,
    /// It does not; how it showed.
    Fail(String),
    /// It could not be tried here; why.
    Skip(String),
    /// The back end does not claim to do this; what it lacks.
    NotApplicable(String),
}

impl Verdict {
    /// Its name in reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "fail",
            Self::Skip(_) => "skip",
            Self::NotApplicable(_) => "n/a",
        }
    }

    /// Why, where there is something to say.
    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Pass => None,
            Self::Fail(reason) | Self::Skip(reason) | Self::NotApplicable(reason) => Some(reason),
        }
    }
}

/// Why a check stops before its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The back end is wrong.
    Fail(String),
    /// It cannot be tried here.
    Skip(String),
    /// The back end does not claim to do this.
    NotApplicable(String),
}

/// What a check gives: nothing, or why it stopped.
pub(crate) type Checked<T = ()> = Result<T, Stop>;

impl Stop {
    /// The back end is wrong, in this way.
    pub(crate) fn fail(what: impl Into<String>) -> Self {
        Self::Fail(what.into())
    }

    /// The back end lacks this.
    pub(crate) fn lacks(what: impl fmt::Display) -> Self {
        Self::NotApplicable(format!("{what} is not offered"))
    }

    /// The same, with the circumstances before it.
    #[must_use]
    pub(crate) fn when(self, circumstances: impl fmt::Display) -> Self {
        match self {
            Self::Fail(what) => Self::Fail(format!("{circumstances}: {what}")),
            other => other,
        }
    }
}

impl From<Stop> for Verdict {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Fail(what) => Self::Fail(what),
            Stop::Skip(why) => Self::Skip(why),
            Stop::NotApplicable(what) => Self::NotApplicable(what),
        }
    }
}

/// What our own side cannot do says nothing about the back end.
macro_rules! ours {
    ($($error:ty),*) => {
        $(impl From<$error> for Stop {
            fn from(error: $error) -> Self {
                Self::Skip(format!("our own side: {error}"))
            }
        })*
    };
}

ours!(
    std::io::Error,
    rustix::io::Errno,
    anyhow::Error,
    outboard_frontend::Error,
    outboard_guest_memory::MemoryError,
    outboard_virtqueue::RingError,
    outboard_virtqueue::driver::AddError,
    std::num::TryFromIntError
);

impl From<outboard_virtqueue::driver::DeviceFault> for Stop {
    fn from(fault: outboard_virtqueue::driver::DeviceFault) -> Self {
        Self::Fail(format!("the used ring: {fault}"))
    }
}

/// Fails unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($what:tt)+) => {
        if !$condition {
            return Err($crate::check::verdict::Stop::fail(format!($($what)+)));
        }
    };
}
pub(crate) use ensure;
