//! Nothing: what the guest sends is discarded. What it receives, if anything, is made up.

use std::io;
use std::time::Duration;

use outboard_device::{Cx, SourceId};
use outboard_frames::Offload;

use super::Side;
use crate::rx::{Dropped, Rx};
use crate::tx::Outgoing;

/// So many packets at a time: the guest's own have their turn.
const AT_ONCE: usize = 64;
/// How long a guest is left alone that takes none for other reasons than having no buffers.
const PAUSE: Duration = Duration::from_millis(100);
/// An EtherType for experiments (IEEE 802, 9.2.4).
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

pub(super) struct Null;

impl Side for Null {
    fn send(&mut self, _: &mut Outgoing<'_>, _: &mut Rx, _: &mut Cx<'_, ()>) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the guest the same frame as long as it has buffers for it.
pub(super) struct Generator {
    frame: Vec<u8>,
    /// There is no use in trying before something happens.
    waiting: bool,
}

impl Generator {
    /// Frames of so many bytes, to all, from a locally administered address.
    pub(super) fn new(len: u16) -> Self {
        let front = [[0xff; 6], [2, 0, 0, 0, 0, 1]];
        let bytes = front.as_flattened().iter().copied().chain(ETHER_TYPE).chain((0..=u8::MAX).cycle());
        Self { frame: bytes.take(len.into()).collect(), waiting: false }
    }
}

impl Side for Generator {
    fn send(&mut self, _: &mut Outgoing<'_>, _: &mut Rx, _: &mut Cx<'_, ()>) -> io::Result<()> {
        Ok(())
    }

    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        self.waiting = false;
        for done in 0..AT_ONCE {
            match rx.deliver(&Offload::None, &self.frame, cx) {
                Ok(()) => {}
                Err(Dropped::NoBuffer) => {
                    self.waiting = true;
                    return done > 0;
                }
                Err(_) => {
                    self.waiting = true;
                    cx.after(PAUSE, SourceId(0));
                    return done > 0;
                }
            }
        }
        true
    }

    fn is_ready(&self) -> bool {
        !self.waiting
    }
}
