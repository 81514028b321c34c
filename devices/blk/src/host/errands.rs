//! What the host does only by calls that block, for as long as they please: a thread of its own makes them, one after
//! the other, so that no queue stands still. Started only for hosts that have something of the kind.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use outboard_device::{DeviceError, Errands, Ticket};

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

/// Where errands are handed in, each with the ticket of its request.
pub(crate) type DiskErrands = Errands<(Errand, Ticket)>;

/// What the thread works with.
struct Runner {
    device: OwnedFd,
    wear: Option<Wear>,
    zones: Option<Arc<Zones>>,
}

/// Starts the thread.
///
/// # Errors
/// The process may have no more threads.
pub(crate) fn start(
    device: OwnedFd,
    wear: Option<Wear>,
    zones: Option<Arc<Zones>>,
) -> Result<DiskErrands, DeviceError> {
    let runner = Runner { device, wear, zones };
    Errands::start("blk-errands", move |(errand, mut ticket): (Errand, Ticket)| {
        let result = runner.execute(errand, &mut ticket);
        ticket.finish(result.map(|()| 0));
    })
}

impl Runner {
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
