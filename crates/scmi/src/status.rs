//! How a command ended (DEN0056, 4.1.4).

/// What an answer says when it is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// The command or the feature is not there.
    NotSupported = -1,
    /// A parameter makes no sense.
    InvalidParameters = -2,
    /// The agent may not do that.
    Denied = -3,
    /// There is no such thing.
    NotFound = -4,
    /// A value is outside of what is possible.
    OutOfRange = -5,
    /// The platform has too much to do.
    Busy = -6,
    /// The platform's hardware failed.
    HardwareError = -9,
    /// The message is not of the form that the specification gives it.
    ProtocolError = -10,
}

impl Status {
    /// As it goes over the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }
}
