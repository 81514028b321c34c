//! What can go wrong at a front end. All of it is a value: nothing here panics, and nothing waits for ever.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use outboard_guest_memory::MemoryError;
use outboard_vhost_user::{ProtocolFeatures, Refusal};
use outboard_virtqueue::RingError;
use outboard_virtqueue::driver::{AddError, DeviceFault};

use crate::drivers::{Failure, FsFailure};

/// Why a front end could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the path, and the time for trying is over.
    #[error("cannot connect to {}: {source}", path.display())]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// What the last attempt said.
        source: io::Error,
    },
    /// There is no path to connect to again: the front end was made from a stream.
    #[error("a front end made from a stream cannot connect again")]
    NoPath,
    /// The back end closed the connection, or died.
    #[error("the back end closed the connection")]
    Disconnected,
    /// The back end did not do something in time.
    #[error("the back end did not {what} within {after:?}")]
    Timeout {
        /// What was waited for: `answer GET_FEATURES`.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The connection failed in another way; it is of no use any more.
    #[error("the connection failed: {0}")]
    Transport(#[source] io::Error),
    /// A message was refused: by the back end ([`Refusal::Nack`]), by our own session because it may not be sent
    /// now, or the answer to it was wrong.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The back end answered in a form that does not belong to the message.
    #[error("the answer to {0} has another form")]
    WrongReply(&'static str),
    /// The back end refuses to read this part of its configuration space.
    #[error("the configuration space cannot be read at {offset:#x} + {len:#x}")]
    ConfigRefused {
        /// Offset in bytes.
        offset: u32,
        /// Length in bytes.
        len: usize,
    },
    /// The back end does not offer virtio features that were required, or no longer does.
    #[error("the back end does not offer feature bits {0:#x}")]
    FeaturesMissing(u64),
    /// The back end does not offer protocol features that were required, or no longer does.
    #[error("the back end does not offer the protocol features {0}")]
    ProtocolMissing(ProtocolFeatures),
    /// The device left FEATURES_OK clear (VIRTIO 1.3, 3.1.1): it does not accept the features together.
    #[error("the device does not accept feature bits {0:#x}")]
    FeaturesRefused(u64),
    /// The device has no such queue.
    #[error("queue {index}, the device has {queues}")]
    NoSuchQueue {
        /// The queue asked for.
        index: u16,
        /// How many there are.
        queues: u16,
    },
    /// The queue runs already, or does not run.
    #[error("queue {index} {state}")]
    QueueState {
        /// The queue.
        index: u16,
        /// What is wrong: `runs already`.
        state: &'static str,
    },
    /// The back end signalled that a ring is faulty (vhost-user: SET_VRING_ERR); it serves it no more.
    #[error("the back end reports a fault of queue {0}")]
    RingFault(u16),
    /// The device returned nonsense on a ring.
    #[error("queue {queue}: {fault}")]
    DeviceFault {
        /// The queue.
        queue: u16,
        /// What the device did.
        fault: DeviceFault,
    },
    /// The device failed a request.
    #[error("the device failed a request: {0}")]
    Device(Failure),
    /// A file system failed a request, or answered in a way that is none.
    #[error("the device failed a request: {0}")]
    Fs(FsFailure),
    /// The back end refuses to transfer its state, with this error (vhost-user: SET_DEVICE_STATE_FD).
    #[error("the back end refuses to transfer its state (error {0})")]
    StateRefused(u8),
    /// The back end took so many bytes of a state, and no more, but was content.
    #[error("the back end took {0} bytes of the state, which has more")]
    StateCut(u64),
    /// The device returned a receive buffer with a length or a count that cannot be.
    #[error("queue {queue}: a packet {what}")]
    BadPacket {
        /// The queue.
        queue: u16,
        /// What is wrong: `is shorter than its header`.
        what: &'static str,
    },
    /// The device did not acknowledge a command on its control queue.
    #[error("the device refuses command {number} of class {class}")]
    CommandRefused {
        /// The command's class.
        class: u8,
        /// The command within its class.
        number: u8,
    },
    /// A request cannot be queued.
    #[error(transparent)]
    Add(#[from] AddError),
    /// The shared memory is used up.
    #[error("no {len} bytes of shared memory are left")]
    OutOfMemory {
        /// How much was asked for.
        len: usize,
    },
    /// A region cannot be removed: something in it is in use, or there is none.
    #[error("no unused region at guest address {0:#x}")]
    RegionInUse(u64),
    /// The file of a region cannot be opened, made or lengthened.
    #[error("memory file {}: {source}", path.display())]
    MemoryFile {
        /// Its path.
        path: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// There are no free huge pages, or not enough.
    #[error("{count} huge pages of {} MiB are not to be had: {source}", page_size >> 20)]
    HugePages {
        /// How many are needed.
        count: u64,
        /// Bytes of each.
        page_size: u64,
        /// What the host said.
        source: io::Error,
    },
    /// The memory cannot be made, mapped or translated.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A ring cannot be made.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The host refused.
    #[error(transparent)]
    Host(#[from] io::Error),
    /// A request does not fit what the device, or this driver, can do.
    #[error("{0}")]
    Invalid(&'static str),
}

impl Error {
    /// Is the connection lost? Then [`Frontend::reconnect`](crate::Frontend::reconnect) may help.
    pub fn is_disconnect(&self) -> bool {
        matches!(self, Self::Disconnected | Self::Transport(_))
    }

    /// Did the back end answer that it did not do it? The connection is then as good as before.
    pub fn is_nack(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Nack { .. }))
    }

    /// An I/O error of the connection, told from its end.
    pub(crate) fn of_connection(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::NotConnected => Self::Disconnected,
            _ => Self::Transport(error),
        }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Host(errno.into())
    }
}
