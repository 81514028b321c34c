//! The control queue of the network interface (VIRTIO 1.3, 5.1.6.5).

use outboard_virtio_defs::net::F_GUEST_ANNOUNCE;
use outboard_virtio_defs::net_control::{Command, ERR, OK};

use crate::chain::Chain;
use crate::device_net::{Net, PAIRS};
use crate::faults::{Fault, die};

/// The most bytes of a command: those of tables of addresses.
const LONGEST: u64 = 64 << 10;
/// VLANs that there can be.
const VLANS: u16 = 4096;

impl Net {
    /// Carries a command out. Returns how many bytes were written.
    pub(crate) fn command(&mut self, chain: &mut Chain) -> u32 {
        let mut bytes = vec![0; chain.readable_len().min(LONGEST) as usize];
        chain.read(0, &mut bytes);
        if self.faults.has(Fault::NetControlOfFirstBuffer) {
            bytes.truncate(chain.lengths().next().unwrap_or(0));
        }
        let done = match bytes.as_slice() {
            [class, number, data @ ..] => self.carry_out(Command::new(*class, *number), data),
            _ if self.faults.has(Fault::NetControlShortCrashes) => die(),
            _ => None,
        };
        if chain.writable_len() == 0 || self.faults.has(Fault::NetControlUnacknowledged) {
            return 0;
        }
        let ok = done.is_some() || self.faults.has(Fault::NetControlAlwaysOk);
        chain.write(0, &[if ok { OK } else { ERR }]);
        1
    }

    /// `None` if it cannot be, and nothing has changed.
    fn carry_out(&mut self, command: Command, data: &[u8]) -> Option<()> {
        match command {
            Command::RX_PROMISC
            | Command::RX_ALLMULTI
            | Command::RX_ALLUNI
            | Command::RX_NOMULTI
            | Command::RX_NOUNI
            | Command::RX_NOBCAST => {
                let [0 | 1] = data else { return None };
            }
            Command::MAC_TABLE_SET => {
                let rest = table(table(data)?)?;
                if !rest.is_empty() {
                    return None;
                }
            }
            Command::MAC_ADDR_SET => {
                self.config.mac = data.try_into().ok()?;
            }
            Command::VLAN_ADD | Command::VLAN_DEL => {
                number(data).filter(|id| *id < VLANS)?;
            }
            Command::ANNOUNCE_ACK => {
                if !data.is_empty() || self.agreed & F_GUEST_ANNOUNCE == 0 {
                    return None;
                }
            }
            Command::MQ_VQ_PAIRS_SET => {
                let pairs = number(data)?;
                let known = (1..=PAIRS).contains(&pairs) || self.faults.has(Fault::NetPairsUnchecked);
                if !known {
                    return None;
                }
                if !self.faults.has(Fault::NetPairsIgnored) {
                    self.pairs = pairs;
                }
            }
            Command::GUEST_OFFLOADS_SET => {
                let offloads = u64::from_le_bytes(data.try_into().ok()?);
                let unknown = offloads & !self.agreed != 0 && !self.faults.has(Fault::NetOffloadsUnchecked);
                if unknown {
                    return None;
                }
                if !self.faults.has(Fault::NetOffloadsKept) {
                    self.takes = offloads;
                }
            }
            _ if self.faults.has(Fault::NetControlUnknownCrashes) => die(),
            _ => return None,
        }
        Some(())
    }
}

fn number(data: &[u8]) -> Option<u16> {
    Some(u16::from_le_bytes(data.try_into().ok()?))
}

/// What follows a table of addresses.
fn table(data: &[u8]) -> Option<&[u8]> {
    let (count, rest) = data.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?;
    rest.get(len..)
}
