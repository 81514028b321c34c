//! What the host does only by calls that block, for as long as they please: a thread of its own makes them, one after
//! the other, so that no queue stands still. Started only for hosts that have something of the kind.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use outboard_device::{DeviceError, Ticket};

use super::ioctl;
use super::wear::Wear;
use crate::zones::{ZoneErrand, Zones};

/// Something to be done by a call that blocks. Positions and lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Errand {
    /// Erase a part of the device so that nothing is left of it.
    Erase { offset: u64, len: u64 },
    /// Write to the chain how worn the disk is.
    Lifetime,
    /// Have the device do something about its zones.
    Zones(ZoneErrand),
}

/// Where errands are handed in. They end when all of these are gone.
#[derive(Clone)]
pub(crate) struct Errands(Sender<(Errand, Ticket)>);

/// What the thread works with.
struct Runner {
    device: OwnedFd,
    wear: Option<Wear>,
    zones: Option<Arc<Zones>>,
}

impl Errands {
    /// Starts the thread.
    ///
    /// # Errors
    /// The process may have no more threads.
    pub(crate) fn start(
        device: OwnedFd,
        wear: Option<Wear>,
        zones: Option<Arc<Zones>>,
    ) -> Result<Self, DeviceError> {
        let (sender, receiver) = channel();
        let runner = Runner { device, wear, zones };
        thread::Builder::new()
            .name("blk-errands".to_owned())
            .spawn(move || runner.run(&receiver))
            .map_err(|error| DeviceError::host("cannot start a thread for the disk", error))?;
        Ok(Self(sender))
    }

    /// Has an errand done. The ticket comes back with the result.
    pub(crate) fn run(&self, errand: Errand, ticket: Ticket) {
        // Without a thread, the ticket comes back with an error by itself.
        let _ = self.0.send((errand, ticket));
    }
}

impl Runner {
    fn run(&self, errands: &Receiver<(Errand, Ticket)>) {
        for (errand, mut ticket) in errands {
            let result = self.execute(errand, &mut ticket);
            ticket.finish(result.map(|()| 0));
        }
    }

    fn execute(&self, errand: Errand, ticket: &mut Ticket) -> io::Result<()> {
        match errand {
            Errand::Erase { offset, len } => ioctl::secure_discard(self.device.as_fd(), offset, len),
            Errand::Zones(errand) => {
                let zones = self.zones.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                let chain = ticket.chain().ok_or(io::ErrorKind::Unsupported)?;
                zones.run_errand(self.device.as_fd(), errand, chain)
            }
            Errand::Lifetime => {
                let wear = self.wear.as_ref().ok_or(io::ErrorKind::Unsupported)?;
                let lifetime = wear.read();
                let chain = ticket.chain().ok_or(io::ErrorKind::Unsupported)?;
                chain.write_obj(&lifetime).map_err(io::Error::other)
            }
        }
    }
}
