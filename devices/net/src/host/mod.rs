//! What is behind the interface.

mod loopback;
mod null;
mod tap;

use std::io;

use outboard_device::{Cx, DeviceError, Features, SourceId};

use crate::options::{BackendKind, NetOptions};
use crate::rx::Rx;
use crate::tx::Outgoing;
use loopback::Loop;
use null::{Generator, Null};
use tap::Interface;
pub(crate) use tap::MAX_NAME;

/// What is behind a pair of queues, in the hands of the thread that serves it.
pub(crate) trait Side: Send {
    /// Once, before the first packet.
    ///
    /// # Errors
    /// The pair cannot be served.
    fn start(&mut self, cx: &mut Cx<'_, ()>) -> Result<(), DeviceError> {
        let _ = cx;
        Ok(())
    }

    /// The guest sent this, and it was judged.
    ///
    /// # Errors
    /// The host does not take it: it is dropped.
    fn send(&mut self, packet: &mut Outgoing<'_>, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> io::Result<()>;

    /// Gives the guest what there is for it, some dozens of packets at most. True if there was something.
    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        let _ = (rx, cx);
        false
    }

    /// Whether [`Side::pump`] would give something, as far as can be seen at once. If not, it has asked for what wakes it.
    fn is_ready(&self) -> bool {
        false
    }

    /// What was watched is there, or a timer ran out. [`Side::pump`] follows.
    fn event(&mut self, source: SourceId) {
        let _ = source;
    }
}

/// What is behind the interface, in the hands of the control half.
pub(crate) enum Host {
    /// Nothing; frames of a length may be made up for the guest.
    Null(Option<u16>),
    /// The guest itself.
    Loop,
    /// An interface of the host.
    Tap(Interface),
}

impl Host {
    /// Opens it.
    ///
    /// # Errors
    /// Options that do not go together; the host refuses it.
    pub(crate) fn open(options: &NetOptions) -> Result<Self, DeviceError> {
        let wrong = |what: &str| Err(DeviceError::Invalid(what.to_owned()));
        match (options.backend, &options.tap, options.generate) {
            (BackendKind::Null, None, generate) => Ok(Self::Null(generate)),
            (BackendKind::Loop, None, None) => Ok(Self::Loop),
            (BackendKind::Tap, Some(name), None) => Interface::open(name).map(Self::Tap),
            (BackendKind::Tap, None, None) => wrong("--backend tap needs --tap"),
            (BackendKind::Loop | BackendKind::Tap, _, Some(_)) => {
                wrong("--generate goes with --backend null")
            }
            (BackendKind::Null | BackendKind::Loop, Some(_), _) => wrong("--tap goes with --backend tap"),
        }
    }

    /// How its kind is called.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Null(_) => "null",
            Self::Loop => "loop",
            Self::Tap(_) => "tap",
        }
    }

    /// The feature bits for offloads that it can keep.
    pub(crate) fn offers(&self) -> u64 {
        match self {
            // What the guest does not take is done on the way.
            Self::Null(_) | Self::Loop => u64::MAX,
            Self::Tap(interface) => interface.offers(),
        }
    }

    /// What a pair gets. `longest` is that of frames that are not to be segmented, in bytes.
    ///
    /// # Errors
    /// The host refuses what the driver has agreed to.
    pub(crate) fn side(&self, agreed: Features, longest: u32) -> Result<Box<dyn Side>, DeviceError> {
        Ok(match self {
            Self::Null(None) => Box::new(Null),
            Self::Null(Some(len)) => Box::new(Generator::new(*len)),
            Self::Loop => Box::new(Loop),
            Self::Tap(interface) => Box::new(interface.side(agreed, longest)?),
        })
    }
}
