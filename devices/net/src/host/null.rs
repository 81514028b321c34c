//! Nothing: what the guest sends is discarded. What it receives, if anything, is made up.

use std::time::Duration;

use outboard_device::{Cx, DeviceError, SourceId};
use outboard_frames::{MAX_LEN, Offload};

use super::{Backing, Glance, SHORT, Sent, Side, Terms};
use crate::rx::{Dropped, Rx};
use crate::tx::Outgoing;

/// So many packets at a time: the guest's own have their turn.
const AT_ONCE: usize = 64;
/// How long a guest is left alone that takes none for other reasons than having no buffers.
const PAUSE: Duration = Duration::from_millis(100);
/// An EtherType for experiments (IEEE 802, 9.2.4).
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

/// What `--backend null` takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct NullOptions {
    /// Make packets of so many bytes for the guest, as fast as it takes them (--backend null)
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(14..=9018))]
    pub generate: Option<u16>,

    /// Read the packets that the guest sends, as others do that take them somewhere (--backend null)
    #[arg(long)]
    pub touch: bool,
}

impl NullOptions {
    /// One of these options, if any was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        self.generate.map(|_| "--generate").or_else(|| self.touch.then_some("--touch"))
    }
}

/// Nothing.
pub(super) struct Nothing {
    /// Frames of this length are made up for the guest.
    generate: Option<u16>,
    /// Packets are read before they are discarded.
    touch: bool,
}

impl Nothing {
    pub(super) fn open(options: &NullOptions) -> Self {
        Self { generate: options.generate, touch: options.touch }
    }
}

impl Backing for Nothing {
    fn name(&self) -> &'static str {
        "null"
    }

    fn side(&mut self, _: u16, _: &Terms) -> Result<Box<dyn Side>, DeviceError> {
        Ok(match self.generate {
            None => Box::new(Null(Reader::new(self.touch))),
            Some(len) => Box::new(Generator::new(len, Reader::new(self.touch))),
        })
    }
}

/// Reads packets, or leaves them unread.
struct Reader(Option<Vec<u8>>);

impl Reader {
    fn new(touch: bool) -> Self {
        Self(touch.then(|| vec![0; MAX_LEN as usize]))
    }

    /// All of a short packet, or nothing.
    fn glanced_at(&self) -> Option<usize> {
        Some(if self.0.is_some() { SHORT } else { 0 })
    }

    /// Whether it is done with a packet of which this is to be seen.
    fn is_done_with(&self, packet: &Glance<'_>) -> bool {
        self.0.is_none() || packet.is_whole()
    }

    /// Done with a packet.
    fn take(&mut self, packet: Outgoing<'_>) -> Sent {
        let mut rest = packet.rest;
        if let Some(into) = &mut self.0 {
            let len = rest.readable_len().min(into.len());
            // As many as there are.
            let _ = rest.read_exact(into.get_mut(..len).unwrap_or_default());
        }
        Sent::Done(rest)
    }
}

struct Null(Reader);

impl Side for Null {
    fn glanced_at(&self) -> Option<usize> {
        self.0.glanced_at()
    }

    fn glance(&mut self, packet: &Glance<'_>, _: &mut Rx, _: &mut Cx<'_, ()>) -> bool {
        self.0.is_done_with(packet)
    }

    fn send(&mut self, packet: Outgoing<'_>, _: &mut Rx, _: &mut Cx<'_, ()>) -> Sent {
        self.0.take(packet)
    }
}

/// Gives the guest the same frame as long as it has buffers for it.
struct Generator {
    frame: Vec<u8>,
    reader: Reader,
    receives: bool,
    /// There is no use in trying before something happens.
    waiting: bool,
}

impl Generator {
    /// Frames of so many bytes, to all, from a locally administered address.
    fn new(len: u16, reader: Reader) -> Self {
        let front = [[0xff; 6], [2, 0, 0, 0, 0, 1]];
        let bytes = front.as_flattened().iter().copied().chain(ETHER_TYPE).chain((0..=u8::MAX).cycle());
        Self { frame: bytes.take(len.into()).collect(), reader, receives: false, waiting: false }
    }
}

impl Side for Generator {
    fn turned(&mut self, receives: bool, _: &mut Cx<'_, ()>) {
        self.receives = receives;
    }

    fn glanced_at(&self) -> Option<usize> {
        self.reader.glanced_at()
    }

    fn glance(&mut self, packet: &Glance<'_>, _: &mut Rx, _: &mut Cx<'_, ()>) -> bool {
        self.reader.is_done_with(packet)
    }

    fn send(&mut self, packet: Outgoing<'_>, _: &mut Rx, _: &mut Cx<'_, ()>) -> Sent {
        self.reader.take(packet)
    }

    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        if !self.receives {
            return false;
        }
        self.waiting = false;
        for done in 0..AT_ONCE {
            if let Some(left) = rx.closed(cx) {
                self.waiting = true;
                cx.after(left, SourceId(0));
                return done > 0;
            }
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
        self.receives && !self.waiting
    }
}
