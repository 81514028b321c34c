//! How a device is served. Trusted: it comes from the command line.

use std::time::Duration;

use crate::{Crew, Placement};

/// What waits for kicks and executes host operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// io_uring where the kernel allows it, else epoll.
    #[default]
    Auto,
    /// io_uring, or epoll with a line in the log where the kernel refuses it.
    IoUring,
    /// epoll; host operations are executed at once.
    Epoll,
}

/// Whether a worker looks at its rings for a while before it sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// Sleep at once.
    Off,
    /// Spin for up to `longest` after the last request, while at most `budget` percent of one CPU goes into it.
    Adaptive {
        /// The longest spin.
        longest: Duration,
        /// The share of one CPU that spinning may take, in percent, 1 to 100.
        budget: u8,
    },
    /// Never sleep while a ring runs.
    Always,
}

impl Default for Polling {
    /// 50 microseconds, 90 % of a CPU at most: a spin that finds nothing is halved the next time.
    fn default() -> Self {
        Self::Adaptive { longest: Duration::from_micros(50), budget: 90 }
    }
}

/// How a device is served.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What the device is called in the names of threads; `None`: as its profile calls it.
    pub name: Option<String>,
    /// Packed rings (VIRTIO_F_RING_PACKED) are not offered: for front ends that hand the feature on whatever they were told.
    pub no_packed: bool,
    /// The engine of every worker.
    pub engine: EngineChoice,
    /// Adaptive polling of every worker.
    pub polling: Polling,
    /// io_uring: a kernel thread polls the submission ring (`IORING_SETUP_SQPOLL`).
    pub sqpoll: bool,
    /// io_uring: guest memory is registered, and so pinned (`IORING_REGISTER_BUFFERS`). Wrong for guests whose memory is
    /// taken away while they run (a balloon, free page reporting, virtio-mem): their data would be corrupted.
    pub register_memory: bool,
    /// io_uring: transfers past the page cache are polled for where the disk has queues for that
    /// (`IORING_SETUP_IOPOLL`). The worker does not sleep while they are under way.
    pub iopoll: bool,
    /// Where the workers run.
    pub placement: Placement,
    /// Threads that serve the workers of many devices; `None`: each has a thread of its own. Polling and placement are
    /// the crew's then.
    pub crew: Option<Crew>,
}
