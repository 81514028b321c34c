//! A back end: a device, and how it is served. One connection at a time.

use std::{
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use outboard_device::{Device, Profile};
use outboard_vhost_user::{
    ProtocolFeatures,
    transport::{Transport, UnixOptions, UnixTransport},
};
use outboard_virtio_defs::features as bits;

use crate::{
    EngineChoice, Notice, Options, Remote, Stop, connection::Connection, counters::Counters, engines,
    remote::Asks,
};

/// What the back ends offer of the protocol, whatever the device: only what is implemented here.
pub const PROTOCOL_FEATURES: ProtocolFeatures = ProtocolFeatures::DEFAULT_OFFER;

/// What they offer besides, if the device is part of a network.
const NETWORK_FEATURES: ProtocolFeatures =
    ProtocolFeatures(ProtocolFeatures::MTU.0 | ProtocolFeatures::RARP.0);

/// How long a message may take from its first byte to its last, and an answer to be read. Nobody looks at [`Stop`]
/// meanwhile: shorter than what a program has to stop.
const FRAME_PATIENCE: Duration = Duration::from_secs(3);

/// For how long no front end is served after one that has held up a thread of others: it would do so again.
const PENANCE: Duration = Duration::from_secs(60);

/// What the rings can do, whatever the device (VIRTIO 1.3, 6).
const RING_FEATURES: u64 = bits::VIRTIO_F_VERSION_1
    | bits::VIRTIO_F_INDIRECT_DESC
    | bits::VIRTIO_F_EVENT_IDX
    | bits::VIRTIO_F_RING_PACKED
    | bits::VIRTIO_F_RING_RESET
    | bits::VHOST_F_LOG_ALL
    | bits::VHOST_USER_F_PROTOCOL_FEATURES;

/// Why a back end cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot make an event descriptor: {0}")]
pub struct BackendError(#[from] std::io::Error);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket failed, or the front end broke the framing.
    #[error("the connection failed: {0}")]
    Transport(#[from] std::io::Error),
    /// The front end broke the protocol in a way that cannot be answered.
    #[error("the front end broke the protocol: {0}")]
    Protocol(String),
    /// A worker thread panicked: a bug in the device. Its queues cannot be served any more.
    #[error("the device failed: a worker thread panicked")]
    Worker,
    /// The front end has kept a thread waiting that has to do with others, too. None is served for a minute.
    #[error("the front end has held up a thread by a call that it did not take: not served for a minute")]
    HeldUp,
}

/// How a connection ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The front end closed it.
    Closed,
    /// The program is to stop.
    Stopped,
}

/// A device with the means to serve it.
pub struct Backend<D> {
    pub(crate) device: D,
    pub(crate) options: Options,
    pub(crate) features: u64,
    pub(crate) refresh: Notice,
    remote: Remote,
    pub(crate) asks: Asks,
    /// When a front end was last found to hold up a thread of others.
    held_up: Option<Instant>,
    /// Of each queue.
    pub(crate) counters: Vec<Arc<Counters>>,
    /// When the device looked at the host.
    pub(crate) looked: Instant,
}

impl<D: Device> Backend<D> {
    /// A back end for `device`. Where io_uring is refused, epoll is chosen, with a line in the log.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(device: D, mut options: Options) -> Result<Self, BackendError> {
        if options.engine != EngineChoice::Epoll
            && let Err(error) = engines::probe_uring()
        {
            tracing::warn!("io_uring cannot be used here, epoll serves instead: {error}");
            options.engine = EngineChoice::Epoll;
        }
        if options.register_memory && options.engine != EngineChoice::Epoll {
            tracing::warn!(
                "guest memory will be registered, and so pinned: not for guests with a balloon, free page reporting or \
                 virtio-mem, or whose memory is taken away in any other way while they run, which would corrupt data"
            );
        }
        let profile = device.profile();
        let in_order = if profile.in_order { bits::VIRTIO_F_IN_ORDER } else { 0 };
        let left_out = if options.no_packed { bits::VIRTIO_F_RING_PACKED } else { 0 };
        let features = (profile.features.0 | RING_FEATURES | in_order) & !left_out;
        let counters = profile.queues.iter().map(|_| Arc::default()).collect();
        let (remote, asks) = Remote::new()?;
        Ok(Self {
            device,
            options,
            features,
            refresh: Notice::new()?,
            remote,
            asks,
            held_up: None,
            counters,
            looked: Instant::now(),
        })
    }

    /// What the device is.
    pub fn profile(&self) -> &Profile {
        self.device.profile()
    }

    /// The VirtIO feature bits on offer, those of the rings and of vhost-user included.
    pub fn features(&self) -> u64 {
        self.features
    }

    /// What is offered of the protocol.
    pub(crate) fn protocol_features(&self) -> ProtocolFeatures {
        if self.profile().network { PROTOCOL_FEATURES | NETWORK_FEATURES } else { PROTOCOL_FEATURES }
    }

    /// A notice that makes the device look at its host side again ([`Device::refresh`]).
    pub fn refresh_notice(&self) -> Notice {
        self.refresh.clone()
    }

    /// How other threads ask the device, while it is served and while it is [waiting](Backend::wait).
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Serves one connection over a UNIX socket, until the front end closes it or `stop` is triggered.
    ///
    /// # Errors
    /// See [`ServeError`]. Whatever happened, no queue runs and no guest memory is mapped any more, and the next
    /// connection can be served.
    pub fn serve(&mut self, stream: UnixStream, stop: &Stop) -> Result<Served, ServeError> {
        let options = UnixOptions { frame_timeout: Some(FRAME_PATIENCE), ..UnixOptions::default() };
        self.serve_transport(UnixTransport::with_options(stream, options), stop)
    }

    /// Serves one connection over any transport. See [`Backend::serve`].
    ///
    /// # Errors
    /// See [`Backend::serve`].
    pub fn serve_transport(&mut self, transport: impl Transport, stop: &Stop) -> Result<Served, ServeError> {
        if self.held_up.is_some_and(|then| then.elapsed() < PENANCE) {
            return Err(ServeError::HeldUp);
        }
        let served = Connection::new(self, transport, stop)?.run();
        if matches!(served, Err(ServeError::HeldUp)) {
            self.held_up = Some(Instant::now());
        }
        served
    }
}
