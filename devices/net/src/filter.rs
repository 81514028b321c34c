//! What a driver wants to receive: its receive mode, addresses and VLANs (VIRTIO 1.3, 5.1.6.5.1 to 5.1.6.5.3). Pure.
//!
//! The packets are the network's, and what is asked for is the guest's: both are bounded, neither is believed.

use std::sync::Arc;

/// Addresses that a table holds; of a longer one everything passes.
const MAX_ADDRESSES: usize = 128;
/// How many VLANs there are.
pub(crate) const VLANS: u16 = 4096;
/// The address of all.
const BROADCAST: [u8; 6] = [0xff; 6];
/// So many bytes of a packet are looked at.
pub(crate) const LOOKED_AT: usize = 18;

/// One of the receive modes that are on or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Promiscuous,
    AllMulticasts,
    AllUnicasts,
    NoMulticasts,
    NoUnicasts,
    NoBroadcasts,
}

/// What passes to the driver.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    promiscuous: bool,
    all_multicasts: bool,
    all_unicasts: bool,
    no_multicasts: bool,
    no_unicasts: bool,
    no_broadcasts: bool,
    unicasts: Table,
    multicasts: Table,
    /// A bit for each VLAN that passes; `None`: all pass.
    vlans: Option<Arc<[u64; VLANS as usize / 64]>>,
}

/// Addresses of packets that pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// Too many to look for.
    All,
    /// These, in order.
    Only(Arc<[[u8; 6]]>),
}

impl Table {
    pub(crate) fn new(addresses: &[[u8; 6]]) -> Self {
        if addresses.len() > MAX_ADDRESSES {
            return Self::All;
        }
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        Self::Only(addresses.into())
    }

    fn has(&self, address: [u8; 6]) -> bool {
        match self {
            Self::All => true,
            Self::Only(addresses) => addresses.binary_search(&address).is_ok(),
        }
    }
}

impl Filter {
    /// As of a driver that has asked for nothing yet: everything passes. If it `has_vlans` to ask for, none of them does
    /// once the driver has left [`Mode::Promiscuous`].
    pub(crate) fn new(has_vlans: bool) -> Self {
        Self {
            promiscuous: true,
            all_multicasts: false,
            all_unicasts: false,
            no_multicasts: false,
            no_unicasts: false,
            no_broadcasts: false,
            unicasts: Table::new(&[]),
            multicasts: Table::new(&[]),
            vlans: has_vlans.then(|| Arc::new([0; VLANS as usize / 64])),
        }
    }

    pub(crate) fn set(&mut self, mode: Mode, on: bool) {
        *match mode {
            Mode::Promiscuous => &mut self.promiscuous,
            Mode::AllMulticasts => &mut self.all_multicasts,
            Mode::AllUnicasts => &mut self.all_unicasts,
            Mode::NoMulticasts => &mut self.no_multicasts,
            Mode::NoUnicasts => &mut self.no_unicasts,
            Mode::NoBroadcasts => &mut self.no_broadcasts,
        } = on;
    }

    pub(crate) fn set_tables(&mut self, unicasts: Table, multicasts: Table) {
        (self.unicasts, self.multicasts) = (unicasts, multicasts);
    }

    /// Lets a VLAN pass, or not.
    pub(crate) fn set_vlan(&mut self, id: u16, passes: bool) {
        let word = self.vlans.as_mut().and_then(|vlans| Arc::make_mut(vlans).get_mut(usize::from(id / 64)));
        if let Some(word) = word {
            let bit = 1 << (id % 64);
            *word = if passes { *word | bit } else { *word & !bit };
        }
    }

    /// Whether the packet that begins with `head` ([`LOOKED_AT`] bytes, or all of it) passes to the interface with the
    /// address `own`, if that is known.
    pub(crate) fn passes(&self, head: &[u8], own: Option<[u8; 6]>) -> bool {
        if self.promiscuous {
            return true;
        }
        let Some((&to, _)) = head.split_first_chunk::<6>() else { return false };
        if !self.passes_vlan(head) {
            return false;
        }
        if to == BROADCAST {
            return !self.no_broadcasts;
        }
        let is_multicast = to.first().is_some_and(|first| first & 1 != 0);
        if is_multicast {
            return !self.no_multicasts && (self.all_multicasts || self.multicasts.has(to));
        }
        // Whose address is not known could be meant by any.
        let is_own = own.is_none_or(|own| own == to);
        !self.no_unicasts && (self.all_unicasts || is_own || self.unicasts.has(to))
    }

    fn passes_vlan(&self, head: &[u8]) -> bool {
        let (Some(vlans), Some(&[0x81, 0x00, high, low])) = (&self.vlans, head.get(12..16)) else {
            return true;
        };
        let id = u16::from_be_bytes([high & 0xf, low]);
        // 0: a priority, and no VLAN.
        id == 0 || vlans.get(usize::from(id / 64)).is_some_and(|word| word >> (id % 64) & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const MANY: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];

    fn to(address: [u8; 6]) -> Vec<u8> {
        [&address[..], &OTHER, &[8, 0], &[0; 40]].concat()
    }

    fn tagged(id: u16) -> Vec<u8> {
        let [high, low] = (0x2000 | id).to_be_bytes();
        [&OWN[..], &OTHER, &[0x81, 0, high, low, 8, 0], &[0; 40]].concat()
    }

    fn quiet(has_vlans: bool) -> Filter {
        let mut filter = Filter::new(has_vlans);
        filter.set(Mode::Promiscuous, false);
        filter
    }

    /// Which of own, other, multicast, broadcast pass.
    fn passing(filter: &Filter) -> [bool; 4] {
        [OWN, OTHER, MANY, BROADCAST].map(|address| filter.passes(&to(address), Some(OWN)))
    }

    #[test]
    fn modes_let_pass_what_they_say() {
        assert_eq!(passing(&Filter::new(true)), [true; 4], "nothing was asked for yet");
        let base = [true, false, false, true];
        assert_eq!(passing(&quiet(false)), base);
        for (mode, expected) in [
            (Mode::Promiscuous, [true; 4]),
            (Mode::AllMulticasts, [true, false, true, true]),
            (Mode::AllUnicasts, [true, true, false, true]),
            (Mode::NoMulticasts, base),
            (Mode::NoUnicasts, [false, false, false, true]),
            (Mode::NoBroadcasts, [true, false, false, false]),
        ] {
            let mut filter = quiet(false);
            filter.set(mode, true);
            assert_eq!(passing(&filter), expected, "{mode:?}");
            filter.set(mode, false);
            assert_eq!(passing(&filter), base, "{mode:?} off again");
        }
    }

    #[test]
    fn tables_let_pass_their_addresses_and_too_long_ones_all() {
        let mut filter = quiet(false);
        filter.set_tables(Table::new(&[[4; 6], OTHER]), Table::new(&[MANY]));
        assert_eq!(passing(&filter), [true; 4]);
        filter.set_tables(Table::new(&[MANY]), Table::new(&[OTHER]));
        assert_eq!(passing(&filter), [true, false, false, true], "each table is for its kind");
        filter.set_tables(Table::new(&[[4; 6]; 129]), Table::new(&[]));
        assert_eq!(passing(&filter), [true, true, false, true]);
    }

    #[test]
    fn vlans_pass_that_were_asked_for() {
        let mut filter = quiet(true);
        let passing = |filter: &Filter| [1, 63, 64, 4095].map(|id| filter.passes(&tagged(id), Some(OWN)));
        assert_eq!(passing(&filter), [false; 4]);
        assert!(filter.passes(&tagged(0), Some(OWN)), "a priority is no VLAN");
        assert!(filter.passes(&to(OWN), Some(OWN)), "without a tag");
        [1, 64, 4095].into_iter().for_each(|id| filter.set_vlan(id, true));
        assert_eq!(passing(&filter), [true, false, true, true]);
        filter.set_vlan(64, false);
        filter.set_vlan(u16::MAX, true);
        assert_eq!(passing(&filter), [true, false, false, true]);
        assert_eq!(passing(&quiet(false)), [true; 4], "no filter was agreed");
    }

    #[test]
    fn interface_without_a_known_address_receives_all_unicasts() {
        assert!(quiet(false).passes(&to(OTHER), None));
    }

    #[test]
    fn packet_without_an_address_does_not_pass() {
        for len in 0..6 {
            assert!(!quiet(true).passes(&OWN[..len], None));
        }
        for len in 6..18 {
            let _ = quiet(true).passes(&tagged(7)[..len], None);
        }
    }
}
