//! What is behind the interface.

mod loopback;
mod null;

use outboard_device::{Cx, DeviceError};

use crate::options::{BackendKind, NetOptions};
use crate::rx::Rx;
use crate::tx::Outgoing;
use loopback::Loop;
use null::{Generator, Null};

/// What is behind a pair of queues, in the hands of the thread that serves it.
pub(crate) trait Side: Send {
    /// The guest sent this, and it was judged.
    fn send(&mut self, packet: &mut Outgoing<'_>, rx: &mut Rx, cx: &mut Cx<'_, ()>);

    /// Gives the guest what there is for it, some dozens of packets at most. True if there was something.
    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        let _ = (rx, cx);
        false
    }

    /// Whether [`Side::pump`] would give something, as far as can be seen at once.
    fn is_ready(&self) -> bool {
        false
    }
}

/// What is behind the interface, in the hands of the control half.
pub(crate) enum Host {
    /// Nothing; frames of a length may be made up for the guest.
    Null(Option<u16>),
    /// The guest itself.
    Loop,
}

impl Host {
    /// Opens it.
    ///
    /// # Errors
    /// Options that do not go together.
    pub(crate) fn open(options: &NetOptions) -> Result<Self, DeviceError> {
        match (options.backend, options.generate) {
            (BackendKind::Null, generate) => Ok(Self::Null(generate)),
            (_, Some(_)) => Err(DeviceError::Invalid("--generate goes with --backend null".to_owned())),
            (BackendKind::Loop, None) => Ok(Self::Loop),
        }
    }

    /// How its kind is called.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Null(_) => "null",
            Self::Loop => "loop",
        }
    }

    /// What a pair gets.
    pub(crate) fn side(&self) -> Box<dyn Side> {
        match self {
            Self::Null(None) => Box::new(Null),
            Self::Null(Some(len)) => Box::new(Generator::new(*len)),
            Self::Loop => Box::new(Loop),
        }
    }
}
