//! The control queue of the network interface (VIRTIO 1.3, 5.1.6.5).

use outboard_virtio_defs::net::F_GUEST_ANNOUNCE;
use outboard_virtio_defs::net_control::{Command, ERR, OK};

use crate::chain::Chain;
use crate::device_net::{Net, PAIRS};
use crate::device_net_spread::Spread;
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
        if let [6, 3, queue @ ..] = bytes.as_slice()
            && let Some(queue) = queue.first_chunk::<4>()
            && chain.writable_len() >= 9
        {
            let anywhere = self.faults.has(Fault::NetCoalescingAnywhere);
            let told = self.calls_of(*queue).copied().or(anywhere.then_some([0; 8]));
            if let Some(told) = told {
                let told = if self.faults.has(Fault::NetCoalescingUntold) { [0; 8] } else { told };
                chain.write(0, &[&[OK], &told[..]].concat());
                return 9;
            }
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

    /// Of a queue that packets go through. Of others than the first pair nobody knows whether they run.
    fn calls_of(&mut self, [low, high, ..]: [u8; 4]) -> Option<&mut [u8; 8]> {
        let queue = usize::from(u16::from_le_bytes([low, high]));
        self.calls.get_mut(queue).filter(|_| queue < 2)
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
                let &[on @ (0 | 1)] = data else { return None };
                self.filter.switch(command, on == 1, self.faults);
            }
            Command::MAC_TABLE_SET => {
                let (unicasts, rest) = table(data)?;
                let (multicasts, rest) = table(rest)?;
                if !rest.is_empty() {
                    return None;
                }
                if !self.faults.has(Fault::NetMacTableIgnored) {
                    self.filter.table = [unicasts, multicasts].concat();
                }
            }
            Command::MAC_ADDR_SET => {
                self.config.mac = data.try_into().ok()?;
                if !self.faults.has(Fault::NetAddressSetIgnored) {
                    self.filter.own = self.config.mac;
                }
            }
            Command::VLAN_ADD | Command::VLAN_DEL => {
                let id = number(data).filter(|id| *id < VLANS)?;
                self.filter.vlans.retain(|known| *known != id);
                if command == Command::VLAN_ADD && !self.faults.has(Fault::NetVlanAddIgnored) {
                    self.filter.vlans.push(id);
                }
            }
            Command::MQ_RSS_CONFIG => {
                let mut spread = Spread::read(data, self.faults)?;
                if let Some(old) = self.spread.take().filter(|_| self.faults.has(Fault::NetKeyKept)) {
                    spread.key = old.key;
                }
                self.spread = Some(spread);
            }
            Command::NOTF_COAL_TX_SET | Command::NOTF_COAL_RX_SET => {
                let calls = data.try_into().ok()?;
                let first = usize::from(command == Command::NOTF_COAL_TX_SET);
                self.calls.iter_mut().skip(first).step_by(2).for_each(|of| *of = calls);
            }
            Command::NOTF_COAL_VQ_SET => {
                let (queue, calls) = data.split_first_chunk::<4>()?;
                let calls = calls.try_into().ok()?;
                let anywhere = self.faults.has(Fault::NetCoalescingAnywhere);
                match self.calls_of(*queue) {
                    Some(place) => *place = calls,
                    None if anywhere => {}
                    None => return None,
                }
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
                self.spread = None;
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

/// A table of addresses, and what follows it.
fn table(data: &[u8]) -> Option<(&[[u8; 6]], &[u8])> {
    let (count, rest) = data.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(6)?;
    let (addresses, rest) = rest.split_at_checked(len)?;
    Some((addresses.as_chunks().0, rest))
}
