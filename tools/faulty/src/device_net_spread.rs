//! On which pair a frame is received (VIRTIO 1.3, 5.1.6.4.3.4), by the ports of UDP over IPv4 and by nothing else.

use outboard_virtio_defs::net::HASH_TYPE_UDPV4;

use crate::device_net::PAIRS;
use crate::faults::{Fault, Faults};

/// The longest key and table.
const KEY: usize = 40;
const TABLE: usize = 128;

pub(crate) struct Spread {
    types: u32,
    table: Vec<u16>,
    unclassified: u16,
    pub(crate) key: Vec<u8>,
}

impl Spread {
    /// What a driver says; `None` if that cannot be.
    pub(crate) fn read(data: &[u8], faults: Faults) -> Option<Self> {
        let (types, rest) = data.split_first_chunk()?;
        let (mask, rest) = rest.split_first_chunk()?;
        let (unclassified, rest) = rest.split_first_chunk()?;
        let len = usize::from(u16::from_le_bytes(*mask)) + 1;
        let unchecked = faults.has(Fault::NetSpreadUnchecked);
        let Some((table, rest)) = rest.split_at_checked(2 * len) else {
            return unchecked.then(|| Self { types: 0, table: vec![0], unclassified: 0, key: Vec::new() });
        };
        let table: Vec<u16> = table.as_chunks().0.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        let (_, rest) = rest.split_first_chunk::<2>()?;
        let (key_len, key) = rest.split_first()?;
        let unclassified = u16::from_le_bytes(*unclassified);
        let pairs_are_there = table.iter().chain([&unclassified]).all(|pair| *pair < PAIRS);
        let fits =
            len.is_power_of_two() && len <= TABLE && key.len() == usize::from(*key_len) && key.len() <= KEY;
        let types = u32::from_le_bytes(*types);
        (unchecked || pairs_are_there && fits).then(|| Self { types, table, unclassified, key: key.to_vec() })
    }

    /// The pair for a frame.
    pub(crate) fn pair(&self, frame: &[u8], faults: Faults) -> usize {
        let is_udp = frame.get(12..15) == Some(&[8, 0, 0x45]) && frame.get(23) == Some(&17);
        let input = frame.get(26..38).filter(|_| is_udp && self.types & HASH_TYPE_UDPV4 != 0);
        let Some(input) = input else {
            return if faults.has(Fault::NetUnclassifiedFirst) { 0 } else { self.unclassified.into() };
        };
        let hash = self.hash(input);
        let len = self.table.len() as u32;
        let at = if faults.has(Fault::NetTableByHighBits) { (hash >> 16) % len } else { hash % len };
        self.table.get(at as usize).copied().unwrap_or(0).into()
    }

    /// The hash of Toeplitz: for each bit that is set, the 32 bits of the key that begin there.
    fn hash(&self, input: &[u8]) -> u32 {
        let mut key = self.key.iter().copied().chain(std::iter::repeat(0));
        let mut window = key.by_ref().take(8).fold(0_u64, |window, byte| window << 8 | u64::from(byte));
        let mut hash = 0;
        for byte in input {
            for bit in (0..8).rev() {
                if byte & 1 << bit != 0 {
                    hash ^= (window >> (25 + bit)) as u32;
                }
            }
            window = window << 8 | u64::from(key.next().unwrap_or(0));
        }
        hash
    }
}
