//! How a connection begins, for the first time and again.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use outboard_vhost_user::back_channel::Terms;
use outboard_vhost_user::transport::{UnixOptions, UnixTransport};
use outboard_vhost_user::{ProtocolFeatures, Reply, Request};
use outboard_virtio_defs::features::{VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_ACCESS_PLATFORM};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

use crate::channel::Channel;
use crate::options::deadline;
use crate::shared_memory::SharedMemory;
use crate::{Error, Options};

/// The waits between attempts grow up to this.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// What the back end is, as far as negotiation tells. Constant for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The virtio features on offer, those of vhost-user included.
    pub features: u64,
    /// The protocol features on offer.
    pub protocol: ProtocolFeatures,
    /// How many queues there are; `None` when the back end does not tell.
    pub queues: Option<u64>,
    /// How many memory regions it takes; `None` when it does not tell.
    pub memory_slots: Option<u64>,
}

/// Connects to `path`; as long as nobody listens there yet, tries again until the time is over.
pub(crate) fn connect(path: &Path, timeout: Duration) -> Result<UnixStream, Error> {
    let deadline = deadline(timeout);
    let mut pause = Duration::from_millis(1);
    loop {
        let source = match dial(path) {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        // No socket yet, one of a dead process, or a backlog that is full.
        let passing = matches!(
            source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
        );
        if !passing || Instant::now() + pause > deadline {
            return Err(Error::Connect { path: path.to_path_buf(), source });
        }
        sleep(pause);
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

/// Connects to `path`, at once or not at all: a plain connect waits for ever where the backlog is full, as that of a
/// back end that serves another front end may be.
///
/// # Errors
/// Nobody listens there; [`WouldBlock`](io::ErrorKind::WouldBlock): the backlog is full.
pub fn dial(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// A channel over a socket, with the limits of `options`.
pub(crate) fn channel(stream: UnixStream, options: &Options) -> Result<Channel, Error> {
    let limits = UnixOptions { frame_timeout: Some(options.timeout), ..UnixOptions::default() };
    Channel::new(Box::new(UnixTransport::with_options(stream, limits)), options.timeout)
}

/// Says hello: from SET_OWNER to the back channel, in the order that every back end accepts.
pub(crate) fn negotiate(channel: &mut Channel, options: &Options) -> Result<Offer, Error> {
    channel.session.ask_for_acks(options.acks);
    channel.ask(Request::SetOwner)?;
    let features = channel.ask_u64(Request::GetFeatures)?;
    let mut offer = Offer { features, protocol: ProtocolFeatures::EMPTY, queues: None, memory_slots: None };
    if features & VHOST_USER_F_PROTOCOL_FEATURES == 0 {
        return Ok(offer);
    }
    offer.protocol = ProtocolFeatures(channel.ask_u64(Request::GetProtocolFeatures)?);
    let agreed = (offer.protocol & options.protocol).effective();
    channel.ask(Request::SetProtocolFeatures(agreed.0))?;
    if agreed.contains(ProtocolFeatures::MQ) {
        offer.queues = Some(channel.ask_u64(Request::GetQueueNum)?);
    }
    if agreed.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
        offer.memory_slots = Some(channel.ask_u64(Request::GetMaxMemSlots)?);
    }
    if agreed.contains(ProtocolFeatures::BACKEND_REQ) {
        let terms = Terms {
            protocol: agreed,
            access_platform: features & VIRTIO_F_ACCESS_PLATFORM != 0,
            queues: offer.queues.and_then(|queues| u32::try_from(queues).ok()).unwrap_or(u32::MAX),
        };
        let theirs = channel.open_back_channel(terms)?;
        channel.ask(Request::SetBackendReqFd(theirs))?;
    }
    if agreed.contains(ProtocolFeatures::SHMEM) {
        channel.shared = match channel.ask(Request::GetShmemConfig)? {
            Reply::Shmem(config) => SharedMemory::new(&config),
            _ => return Err(Error::WrongReply("GET_SHMEM_CONFIG")),
        };
    }
    Ok(offer)
}
