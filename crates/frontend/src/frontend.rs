//! The control half of a front end: one connection to one device, and what survives it.

use std::array::from_fn;
use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use outboard_guest_memory::Segment;
use outboard_vhost_user::transport::Transport;
use outboard_vhost_user::{Frame, ProtocolFeatures, Reply, Request};
use outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;
use rustix::event::{PollFd, PollFlags};
use zerocopy::{FromBytes, IntoBytes};

use crate::channel::{Channel, Heard, poll_until};
use crate::connect::{self, Offer};
use crate::inflight::InflightBuffer;
use crate::log::Log;
use crate::memory::Memory;
use crate::options::deadline;
use crate::ring::Ring;
use crate::{Error, Options, Queue, Wishes};

/// The two channels, and a call for each ring that a message can name (vhost-user: Vring descriptor index).
const MOST_FDS: usize = 2 + 256;

/// The device status (VIRTIO 1.3, 2.1).
pub mod status {
    /// The driver has noticed the device.
    pub const ACKNOWLEDGE: u64 = 1;
    /// The driver knows how to drive the device.
    pub const DRIVER: u64 = 2;
    /// The driver is ready.
    pub const DRIVER_OK: u64 = 4;
    /// The driver has chosen its features; clear when read back if the device does not accept them.
    pub const FEATURES_OK: u64 = 8;
    /// The device has met an error that it cannot recover from.
    pub const NEEDS_RESET: u64 = 64;
    /// The driver has given up.
    pub const FAILED: u64 = 128;
}

/// A front end: a connection to a back end, guest memory, and what the back end has been told of it.
///
/// In order: [`connect`](Self::connect), [`agree`](Self::agree) on features, [`start`](Self::start) queues, drive
/// them, [`stop`](Self::stop) or [`reset`](Self::reset). A started [`Queue`] is a value of its own, which may be
/// driven in another thread; the front end keeps what it needs to tell a new back end about it.
pub struct Frontend {
    pub(crate) path: Option<PathBuf>,
    pub(crate) options: Options,
    pub(crate) channel: Channel,
    pub(crate) offer: Offer,
    pub(crate) memory: Memory,
    /// The back end knows the memory.
    pub(crate) shared: bool,
    pub(crate) wishes: Wishes,
    /// The features set, without LOG_ALL; 0 before [`Frontend::agree`].
    pub(crate) features: u64,
    pub(crate) inflight: Option<InflightBuffer>,
    pub(crate) log: Option<Log>,
    pub(crate) rings: BTreeMap<u16, Ring>,
    pub(crate) status: u64,
    /// How many rings GET_QUEUE_NUM may mean by one.
    pub(crate) rings_counted_as_one: u16,
}

impl Frontend {
    /// Connects to the back end that listens, or will soon listen, at `path`, and says hello.
    ///
    /// # Errors
    /// Nobody listens in time, the back end does not answer as it must, or guest memory cannot be made.
    pub fn connect(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let path = path.as_ref().to_path_buf();
        let stream = connect::connect(&path, options.connect_timeout)?;
        let channel = connect::channel(stream, &options)?;
        Self::begin(channel, Some(path), options)
    }

    /// Says hello on a connected stream. Such a front end cannot [`reconnect`](Self::reconnect) by itself.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn from_stream(stream: UnixStream, options: Options) -> Result<Self, Error> {
        let channel = connect::channel(stream, &options)?;
        Self::begin(channel, None, options)
    }

    /// Says hello over any transport: one that traces, records or spoils what goes by.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn from_transport(transport: impl Transport + 'static, options: Options) -> Result<Self, Error> {
        let channel = Channel::new(Box::new(transport), options.timeout)?;
        Self::begin(channel, None, options)
    }

    fn begin(mut channel: Channel, path: Option<PathBuf>, options: Options) -> Result<Self, Error> {
        let memory = Memory::new(&options.memory)?;
        let offer = connect::negotiate(&mut channel, &options)?;
        Ok(Self {
            path,
            options,
            channel,
            offer,
            memory,
            shared: false,
            wishes: Wishes::default(),
            features: 0,
            inflight: None,
            log: None,
            rings: BTreeMap::new(),
            status: 0,
            rings_counted_as_one: 1,
        })
    }

    /// How long the back end may take for anything.
    pub fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// What the back end is, as far as negotiation tells.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The virtio features agreed on, those of vhost-user included; 0 before [`agree`](Self::agree).
    pub fn features(&self) -> u64 {
        self.channel.session.features()
    }

    /// The protocol features agreed on.
    pub fn protocol(&self) -> ProtocolFeatures {
        self.channel.session.protocol()
    }

    /// What came on the back channel so far. Messages are taken in while waiting for answers, in
    /// [`wait`](Self::wait), and in [`listen`](Self::listen).
    pub fn heard(&self) -> Heard {
        self.channel.heard
    }

    /// Takes in what has come on the back channel, without waiting.
    ///
    /// # Errors
    /// The host refuses to poll.
    pub fn listen(&mut self) -> Result<Heard, Error> {
        self.channel.serve_back_channel()?;
        Ok(self.channel.heard)
    }

    /// Sets features and, where it is agreed to pass it on, the status up to FEATURES_OK; sets up the record of
    /// requests in flight; shares the memory. Returns the features set. No queue may run.
    ///
    /// # Errors
    /// Something required is not on offer ([`Error::FeaturesMissing`]), the device refuses, or the connection fails.
    pub fn agree(&mut self, wishes: &Wishes) -> Result<u64, Error> {
        if let Some(&index) = self.rings.keys().next() {
            return Err(Error::QueueState { index, state: "runs: the features are in use" });
        }
        let features = wishes.features(self.offer.features);
        let missing = wishes.required() & !features;
        if missing != 0 {
            return Err(Error::FeaturesMissing(missing));
        }
        self.wishes = *wishes;
        self.features = features | self.offer.features & VHOST_USER_F_PROTOCOL_FEATURES;
        // The record's layout depends on the ring format: a new agreement means a new record.
        self.inflight = None;
        self.set_features()?;
        if let Some((queues, size)) = wishes.inflight {
            self.make_inflight(queues, size)?;
        }
        self.share()?;
        Ok(features)
    }

    /// Tells the back end the features, and the status where it is passed on.
    pub(crate) fn set_features(&mut self) -> Result<(), Error> {
        self.status = 0;
        self.set_status(status::ACKNOWLEDGE | status::DRIVER)?;
        self.send_features()?;
        self.set_status(self.status | status::FEATURES_OK)?;
        if self.has(ProtocolFeatures::STATUS) && self.device_status()? & status::FEATURES_OK == 0 {
            return Err(Error::FeaturesRefused(self.features));
        }
        Ok(())
    }

    /// Says that the driver is ready. For back ends that are passed the status; others do not mind.
    ///
    /// # Errors
    /// The connection fails.
    pub fn driver_ok(&mut self) -> Result<(), Error> {
        self.set_status(self.status | status::DRIVER_OK)
    }

    /// The device's status, from the back end where it keeps it, else as set last.
    ///
    /// # Errors
    /// The connection fails.
    pub fn device_status(&mut self) -> Result<u64, Error> {
        if !self.has(ProtocolFeatures::STATUS) {
            return Ok(self.status);
        }
        self.channel.ask_u64(Request::GetStatus)
    }

    pub(crate) fn set_status(&mut self, status: u64) -> Result<(), Error> {
        self.status = status;
        if self.has(ProtocolFeatures::STATUS) {
            self.channel.ask(Request::SetStatus(status))?;
        }
        Ok(())
    }

    /// Reads `into.len()` bytes of the configuration space. Bytes that the device does not have are zero.
    ///
    /// # Errors
    /// The back end has no configuration space, or none there; or the connection fails.
    pub fn read_config(&mut self, offset: u32, into: &mut [u8]) -> Result<(), Error> {
        let len = into.len();
        let refused = Error::ConfigRefused { offset, len };
        let size = u32::try_from(len).map_err(|_| Error::Invalid("so much configuration"))?;
        match self.channel.ask(Request::GetConfig { offset, size, flags: 0 })? {
            Reply::Config { data, .. } if data.len() == len => {
                into.copy_from_slice(&data);
                Ok(())
            }
            Reply::ConfigRefused => Err(refused),
            _ => Err(Error::WrongReply("GET_CONFIG")),
        }
    }

    /// Reads the start of the configuration space as a layout.
    ///
    /// # Errors
    /// As [`read_config`](Self::read_config).
    pub fn config<T: FromBytes + IntoBytes>(&mut self) -> Result<T, Error> {
        let mut config = T::new_zeroed();
        self.read_config(0, config.as_mut_bytes())?;
        Ok(config)
    }

    /// Writes a part of the configuration space, as the driver does.
    ///
    /// # Errors
    /// The device refuses, if it is asked for acknowledgements; or the connection fails.
    pub fn write_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Error> {
        self.ask(Request::SetConfig { offset, flags: 0, data: data.to_vec() }).map(drop)
    }

    /// Guest memory, to allocate from.
    pub fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    /// Allocates a piece of guest memory that begins a page.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn allocate(&mut self, len: usize) -> Result<Segment, Error> {
        self.memory.allocate(len, 4096)
    }

    /// Sends any request that the protocol allows now, and takes its answer; [`Reply::Ack`] where none is due. What
    /// the front end itself keeps track of (features, memory, rings) does not follow.
    ///
    /// # Errors
    /// The request is refused, by the session or the back end; the answer is wrong, or late; the connection fails.
    pub fn ask(&mut self, request: Request) -> Result<Reply, Error> {
        self.channel.ask(request)
    }

    /// Sends a frame as it is, past the session and its rules: for tests of back ends. After that the session may
    /// be out of step; [`receive_frame`](Self::receive_frame) takes the answer, if one is due.
    ///
    /// # Errors
    /// The connection fails.
    pub fn send_frame(&mut self, frame: Frame) -> Result<(), Error> {
        self.channel.send(frame)
    }

    /// Waits for a frame, past the session; `None` when the time is over. Serves the back channel meanwhile.
    ///
    /// # Errors
    /// The connection ends or fails.
    pub fn receive_frame(&mut self, timeout: Duration) -> Result<Option<Frame>, Error> {
        self.channel.receive(timeout)
    }

    /// Waits until a queue is called, or something comes on the back channel; false when the time is over.
    ///
    /// For one thread that drives everything, and has [armed](Queue::arm) the queues that it waits for;
    /// [`Queue::wait`] is for a queue that has a thread of its own.
    ///
    /// # Errors
    /// The connection ends; the host refuses to poll.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, Error> {
        let deadline = deadline(timeout);
        let main = self.channel.main_fd();
        // On the stack: this is waited for often.
        let mut fds: [_; MOST_FDS] = from_fn(|_| PollFd::from_borrowed_fd(main, PollFlags::IN));
        let back = self.channel.back_fd();
        let calls = self.rings.values().map(|ring| ring.notifiers.call.as_fd());
        let mut len = 1;
        for (place, fd) in fds.iter_mut().skip(1).zip(back.into_iter().chain(calls)) {
            *place = PollFd::from_borrowed_fd(fd, PollFlags::IN);
            len += 1;
        }
        let count = poll_until(fds.get_mut(..len).unwrap_or_default(), deadline)?;
        let [main, ..] = &fds;
        if !main.revents().is_empty() {
            // No answer is due: only the end of the connection can be readable.
            return Err(Error::Disconnected);
        }
        self.channel.serve_back_channel()?;
        Ok(count != 0)
    }

    pub(crate) fn has(&self, feature: ProtocolFeatures) -> bool {
        self.protocol().contains(feature)
    }

    /// SET_FEATURES, with LOG_ALL while the log is on.
    pub(crate) fn send_features(&mut self) -> Result<(), Error> {
        let log = self.log.as_ref().map_or(0, Log::features);
        self.ask(Request::SetFeatures(self.features | log)).map(drop)
    }

    /// Stops all rings and resets the device: by status or RESET_DEVICE where that is agreed, else by RESET_OWNER,
    /// after which the memory is told again, for some back ends forget it. The queues' memory comes back; requests
    /// that they still had are gone. Features are to be agreed on anew.
    ///
    /// # Errors
    /// The back end refuses; the connection fails.
    pub fn reset(&mut self, queues: impl IntoIterator<Item = Queue>) -> Result<(), Error> {
        for mut queue in queues {
            self.stop(&mut queue)?;
            self.release(queue);
        }
        if self.has(ProtocolFeatures::STATUS) {
            self.set_status(0)?;
        } else if self.has(ProtocolFeatures::RESET_DEVICE) {
            self.ask(Request::ResetDevice)?;
        } else {
            self.ask(Request::ResetOwner)?;
            self.ask(Request::SetOwner)?;
            if self.shared {
                self.share_table()?;
            }
        }
        self.channel.shared.unmap_all();
        self.features = 0;
        self.inflight = None;
        self.status = 0;
        Ok(())
    }
}

impl std::fmt::Debug for Frontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frontend")
            .field("path", &self.path)
            .field("offer", &self.offer)
            .field("rings", &self.rings)
            .finish_non_exhaustive()
    }
}
