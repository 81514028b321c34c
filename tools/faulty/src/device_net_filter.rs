//! What the driver of the network interface receives (VIRTIO 1.3, 5.1.6.5.1 to 5.1.6.5.3): everything, until it says
//! otherwise.

use outboard_virtio_defs::net::F_CTRL_VLAN;
use outboard_virtio_defs::net_control::Command;

use crate::faults::{Fault, Faults};

pub(crate) struct Filter {
    pub(crate) own: [u8; 6],
    /// Addresses of one and of many.
    pub(crate) table: Vec<[u8; 6]>,
    pub(crate) vlans: Vec<u16>,
    /// Modes that are on.
    modes: Vec<u8>,
}

impl Filter {
    pub(crate) fn new(own: [u8; 6]) -> Self {
        let modes = vec![Command::RX_PROMISC.number];
        Self { own, table: Vec::new(), vlans: Vec::new(), modes }
    }

    fn is_on(&self, mode: Command) -> bool {
        self.modes.contains(&mode.number)
    }

    pub(crate) fn switch(&mut self, mode: Command, on: bool, faults: Faults) {
        let keeps_out = [Command::RX_NOUNI, Command::RX_NOMULTI, Command::RX_NOBCAST].contains(&mode);
        let ignored = on && mode == Command::RX_ALLMULTI && faults.has(Fault::NetAllMulticastIgnored)
            || on && mode == Command::RX_PROMISC && faults.has(Fault::NetPromiscuousOnce)
            || !on && keeps_out && faults.has(Fault::NetExtraModesStay);
        if ignored {
            return;
        }
        self.modes.retain(|known| *known != mode.number);
        self.modes.extend(on.then_some(mode.number));
    }

    /// Whether a frame is received.
    pub(crate) fn passes(&self, frame: &[u8], agreed: u64, faults: Faults) -> bool {
        if self.is_on(Command::RX_PROMISC) {
            return true;
        }
        if let Some(&[0x81, 0, high, low]) = frame.get(12..16)
            && agreed & F_CTRL_VLAN != 0
        {
            let id = u16::from_be_bytes([high & 0x0f, low]);
            if id != 0 && !self.vlans.contains(&id) {
                return false;
            }
        }
        let Some(&to) = frame.first_chunk() else { return true };
        let listed = self.table.contains(&to);
        if to == [0xff; 6] {
            !self.is_on(Command::RX_NOBCAST) && !faults.has(Fault::NetBroadcastsFiltered)
        } else if frame.first().is_some_and(|first| first & 1 != 0) {
            !self.is_on(Command::RX_NOMULTI) && (listed || self.is_on(Command::RX_ALLMULTI))
        } else {
            !self.is_on(Command::RX_NOUNI) && (listed || to == self.own || self.is_on(Command::RX_ALLUNI))
        }
    }
}
