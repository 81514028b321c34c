//! The two halves of a device.

use std::{io, time::Duration};

use outboard_virtqueue::{Chain, QueueId};
use serde_json::Value;

use crate::{Cx, Features, Flow, Group, Patience, Profile};

/// The control half: one per device, on the control thread.
///
/// Its methods run inside a front end's request, while the VMM waits: they must not block on slow I/O.
pub trait Device: Send {
    /// The data half.
    type Handler: Handler;

    /// What the device is. Constant.
    fn profile(&self) -> &Profile;

    /// The configuration space, little-endian, as VIRTIO 1.3, 5.x lays it out. Reads beyond its end give zeroes.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// The configuration space is about to be looked at: what handlers have changed is to be in it.
    fn settle(&mut self) {}

    /// The driver writes `data` at `offset` bytes of the configuration space. What has to be waited for is waited for
    /// with `patience`.
    ///
    /// # Errors
    /// [`DeviceError::ReadOnlyConfig`] where nothing is writable (the default), or whatever the device finds wrong.
    /// The front end gets a NACK and the connection goes on.
    fn write_config(&mut self, offset: u32, data: &[u8], patience: &Patience<'_>) -> Result<(), DeviceError> {
        let _ = (offset, data, patience);
        Err(DeviceError::ReadOnlyConfig)
    }

    /// The driver accepted other features than before, ring features included. No queue runs. What follows for the
    /// configuration space is to be there at once.
    fn agreed(&mut self, agreed: Features) {
        let _ = agreed;
    }

    /// The driver starts the queues of `group` from their beginning: what the one before it has set is void. Called before
    /// [`Device::handler`]. A driver that goes on where it was (its VM was paused or moved, or its front end came back) is
    /// not announced by this, although its handler may be another: docs/decisions/008.
    fn forget(&mut self, group: Group) {
        let _ = group;
    }

    /// Makes the data half for a group of queues, when the first of them starts. `agreed` is what the driver
    /// accepted, ring features included.
    ///
    /// # Errors
    /// Whatever keeps the group from being served. The queue does not start; the front end gets a NACK.
    fn handler(&mut self, group: Group, agreed: Features) -> Result<Self::Handler, DeviceError>;

    /// The device is reset (VIRTIO 1.3, 2.4): no queue runs; forget what the driver set, but for what has to survive a
    /// pause of its VM, which looks the same: see [`Device::forget`].
    fn reset(&mut self) {}

    /// The front end is gone. No queue runs.
    fn disconnected(&mut self) {}

    /// Looks at the host side again, after SIGHUP: a disk may have grown. True if the configuration space changed;
    /// the driver is then told.
    ///
    /// # Errors
    /// The host side cannot be read. It is logged; the device stays as it was.
    fn refresh(&mut self) -> Result<bool, DeviceError> {
        Ok(false)
    }

    /// How often [`Device::look`] is to be called; `None`: never. Constant.
    fn look_every(&self) -> Option<Duration> {
        None
    }

    /// A cheap look at the host side, again and again, with or without a front end. True if the configuration space
    /// changed. What goes wrong is the device's to report, once and not at each look.
    fn look(&mut self) -> bool {
        false
    }

    /// The largest packet without its Ethernet header that the driver is to send or receive, in bytes (vhost-user:
    /// NET_SET_MTU). Only devices of a [network](Profile::network) hear of it. If the configuration space is another
    /// afterwards, the driver is told.
    ///
    /// # Errors
    /// What keeps the device from it. The front end gets a NACK and the connection goes on.
    fn set_mtu(&mut self, mtu: u64) -> Result<(), DeviceError> {
        let _ = mtu;
        Err(DeviceError::Invalid("this device has no MTU".to_owned()))
    }

    /// The guest was moved here and cannot tell the network itself: tell it that `mac` is here now (vhost-user:
    /// SEND_RARP). Only devices of a [network](Profile::network) hear of it.
    ///
    /// # Errors
    /// Likewise.
    fn announce(&mut self, mac: [u8; 6]) -> Result<(), DeviceError> {
        let _ = mac;
        Err(DeviceError::Invalid("this device is in no network".to_owned()))
    }

    /// Carries out a command of the control socket, with or without a front end, and answers it. If the
    /// configuration space is another afterwards, the driver is told.
    ///
    /// # Errors
    /// [`DeviceError::UnknownCommand`] for what the device has no command for (the default), or what keeps the
    /// command from being carried out. The text goes to whoever asked.
    fn control(&mut self, command: &str, arguments: &Value) -> Result<Value, DeviceError> {
        let _ = arguments;
        Err(DeviceError::UnknownCommand(command.to_owned()))
    }

    /// What the device itself adds to `status` on the control socket: an object, or null for nothing.
    fn status(&self) -> Value {
        Value::Null
    }
}

/// What a handler named a watched descriptor or a timer. Ids from 0xffff_0000 on are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId(pub u32);

impl SourceId {
    /// The timer of [`Cx::wait_for`] for a queue.
    #[must_use]
    pub const fn delay(queue: QueueId) -> Self {
        Self(0xffff_0000 | queue.0 as u32)
    }
}

/// The most bytes that [`Handler::glance`] is shown: more take longer to copy than a chain takes to be made.
pub const MOST_GLANCED: usize = 128;

/// The data half: one per queue group, owned by the thread that serves it.
///
/// What a driver wants done comes as requests. What comes from the host's side (packets, input) needs chains that the
/// driver has put there before: their queue is [kept](Cx::keep), and the handler fills them in [`Handler::work`].
pub trait Handler: Send + 'static {
    /// What is remembered of a request while the host works on it. The chain is kept beside it.
    type Op: Send + 'static;

    /// Once, before the first request: adopt files, watch descriptors.
    ///
    /// # Errors
    /// What the handler cannot do without. The group is not served; the front end gets a NACK.
    fn start(&mut self, cx: &mut Cx<'_, Self::Op>) -> Result<(), DeviceError> {
        let _ = cx;
        Ok(())
    }

    /// Serves one request. The chain goes to [`Cx::done`], [`Cx::wait`] or [`Cx::submit`], whose result is
    /// returned; a handler may also keep it and complete it later.
    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, Self::Op>) -> Flow;

    /// How many bytes of a request's front [`Handler::glance`] is to be shown; 0: it is not asked. At most [`MOST_GLANCED`].
    /// Constant.
    fn glanced_at(&self) -> usize {
        0
    }

    /// A request that is a single buffer to be read, of `len` bytes, before it is [handed over](Handler::request): `front` is
    /// a copy of its first bytes, or all. True: it is done with, and is completed with nothing written. False, and nothing
    /// has happened: it is handed over as a chain, which is read anew.
    fn glance(&mut self, queue: QueueId, front: &[u8], len: usize, cx: &mut Cx<'_, Self::Op>) -> bool {
        let _ = (queue, front, len, cx);
        false
    }

    /// The chain that is most likely handed over after the next one: the moment to have the processor fetch what it
    /// will need. May be called for a chain several times, or never.
    fn foresee(&self, chain: &Chain) {
        let _ = chain;
    }

    /// A submitted operation, or a deferred request, has ended with `result` bytes, or an error. The chain is
    /// completed, submitted or deferred again.
    fn finished(
        &mut self,
        chain: Chain,
        op: Self::Op,
        result: io::Result<u32>,
        cx: &mut Cx<'_, Self::Op>,
    ) -> Flow {
        let _ = (op, result);
        cx.done(chain)
    }

    /// Chains that were [lent](Cx::lend) are back, one parcel at a time. Those that are left in `chains` are completed.
    fn returned(&mut self, chains: &mut Vec<Chain>, cx: &mut Cx<'_, Self::Op>) {
        let _ = (chains, cx);
    }

    /// A watched descriptor is readable, or a timer ran out. Queues that wait are looked at again afterwards.
    fn event(&mut self, source: SourceId, cx: &mut Cx<'_, Self::Op>) {
        let _ = (source, cx);
    }

    /// A queue of the group starts or goes on (`on`), or is to rest: the front end has enabled or disabled it. The moment
    /// for [`Cx::keep`]. Chains of a queue that rests, which the handler holds, are completed or put back: the front end
    /// may save guest memory next.
    fn turned(&mut self, queue: QueueId, on: bool, cx: &mut Cx<'_, Self::Op>) {
        let _ = (queue, on, cx);
    }

    /// Once a pass, after requests and events: the moment to give the driver what has come from the host's side. True if
    /// there was something. There is a pass after each kick that a [pop](Cx::pop) asked for, each event, and whatever else
    /// wakes the worker; none as long as there is nothing.
    ///
    /// Not all that there is: some dozens of chains at a time let the group's other queues have their turn.
    fn work(&mut self, cx: &mut Cx<'_, Self::Op>) -> bool {
        let _ = cx;
        false
    }

    /// Whether [`Handler::work`] would find something, as far as that can be seen without a system call: it is asked
    /// again and again while the worker polls. False if all that it would find has to wait for the driver.
    fn is_ready(&self) -> bool {
        false
    }

    /// There was nothing to do, and the worker is about to sleep, or to look again if it polls for ever: ask for what is to
    /// wake it ([`Cx::rearm`]), and look for the last time at what other threads have put somewhere. False: there is
    /// something after all, for [`Handler::work`].
    fn rest(&mut self, cx: &mut Cx<'_, Self::Op>) -> bool {
        let _ = cx;
        !self.is_ready()
    }

    /// A queue stops: chains of it that the handler keeps are completed or put back now. Those that the host works
    /// on, or that are deferred, come back by themselves.
    fn stop(&mut self, queue: QueueId, cx: &mut Cx<'_, Self::Op>) {
        let _ = (queue, cx);
    }
}

/// Why a device cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The configuration space has nothing that a driver may write there.
    #[error("the configuration space is read-only there")]
    ReadOnlyConfig,
    /// Something on the host failed.
    #[error("{what}: {source}")]
    Host {
        /// What was tried, with the name of the thing: `cannot open disk.img`.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// An option or a value makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The control socket has no such command for this device.
    #[error("the device has no command {0:?}")]
    UnknownCommand(String),
}

impl DeviceError {
    /// A failed host operation; `what` reads like `cannot open disk.img`.
    pub fn host(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Host { what: what.into(), source: source.into() }
    }
}
