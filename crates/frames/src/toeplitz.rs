//! The hash that spreads flows over queues (VIRTIO 1.3, 5.1.6.4.3). Extension headers of IPv6 are skipped: the hash types
//! that look into them are not known here.

use outboard_virtio_defs::net::{
    HASH_REPORT_IPV4, HASH_REPORT_IPV6, HASH_REPORT_TCPV4, HASH_REPORT_TCPV6, HASH_REPORT_UDPV4,
    HASH_REPORT_UDPV6, HASH_TYPE_IPV4, HASH_TYPE_IPV6, HASH_TYPE_TCPV4, HASH_TYPE_TCPV6, HASH_TYPE_UDPV4,
    HASH_TYPE_UDPV6,
};
use zerocopy::FromBytes;

use crate::wire::{Ipv4, Ipv6};
use crate::{L3, L4, Layers};

/// Bytes of a key: enough for the addresses and ports of IPv6.
pub const KEY_LEN: usize = 40;

/// The hash of the frame that begins with `head`, where the headers are at `layers`, by the most specific of the hash
/// `types` (a mask) that fits it; and what to report about it (`HASH_REPORT_*`). `None` if no type fits.
#[must_use]
pub fn hash(key: &[u8; KEY_LEN], head: &[u8], layers: &Layers, types: u32) -> Option<(u32, u16)> {
    let ip = head.get(usize::from(layers.l3_at)..)?;
    let addresses: &[u8] = match layers.l3 {
        L3::Ipv4 => &Ipv4::ref_from_prefix(ip).ok()?.0.addresses,
        L3::Ipv6 => &Ipv6::ref_from_prefix(ip).ok()?.0.addresses,
        L3::Other => return None,
    };
    let (with_ports, without) = match (layers.l3, layers.l4) {
        (L3::Ipv4, L4::Tcp) => {
            (Some((HASH_TYPE_TCPV4, HASH_REPORT_TCPV4)), (HASH_TYPE_IPV4, HASH_REPORT_IPV4))
        }
        (L3::Ipv4, L4::Udp) => {
            (Some((HASH_TYPE_UDPV4, HASH_REPORT_UDPV4)), (HASH_TYPE_IPV4, HASH_REPORT_IPV4))
        }
        (L3::Ipv4, L4::Other) => (None, (HASH_TYPE_IPV4, HASH_REPORT_IPV4)),
        (_, L4::Tcp) => (Some((HASH_TYPE_TCPV6, HASH_REPORT_TCPV6)), (HASH_TYPE_IPV6, HASH_REPORT_IPV6)),
        (_, L4::Udp) => (Some((HASH_TYPE_UDPV6, HASH_REPORT_UDPV6)), (HASH_TYPE_IPV6, HASH_REPORT_IPV6)),
        (_, L4::Other) => (None, (HASH_TYPE_IPV6, HASH_REPORT_IPV6)),
    };
    if let Some((kind, report)) = with_ports
        && types & kind != 0
    {
        // Both begin with their ports.
        let (ports, _) = head.get(usize::from(layers.l4_at)..)?.split_first_chunk::<4>()?;
        return Some((toeplitz(key, addresses.iter().chain(ports)), report));
    }
    let (kind, report) = without;
    (types & kind != 0).then(|| (toeplitz(key, addresses.iter()), report))
}

/// For each bit that is set in the input, the 32 bits of the key that begin at its place, all of them added without carry.
fn toeplitz<'a>(key: &[u8; KEY_LEN], input: impl Iterator<Item = &'a u8>) -> u32 {
    let (front, rest) =
        key.split_first_chunk::<4>().map_or((0, &[][..]), |(front, rest)| (u32::from_be_bytes(*front), rest));
    let mut window = u64::from(front) << 32;
    let mut hash = 0;
    for (byte, next) in input.zip(rest.iter().chain(std::iter::repeat(&0))) {
        window |= u64::from(*next) << 24;
        for bit in (0..8).rev() {
            if byte >> bit & 1 != 0 {
                hash ^= (window >> 32) as u32;
            }
            window <<= 1;
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::tests::{Frame, Net};

    /// The key and the vectors are Microsoft's ("Verifying the RSS Hash Calculation"), to which VIRTIO 1.3, 5.1.6.4.3
    /// refers by its definition.
    const KEY: [u8; KEY_LEN] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, //
        0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2,
        0x0c, //
        0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];
    const ALL: u32 = HASH_TYPE_IPV4
        | HASH_TYPE_TCPV4
        | HASH_TYPE_UDPV4
        | HASH_TYPE_IPV6
        | HASH_TYPE_TCPV6
        | HASH_TYPE_UDPV6;

    fn of(bytes: &[u8], types: u32) -> Option<(u32, u16)> {
        hash(&KEY, bytes, &Layers::parse(bytes).unwrap(), types)
    }

    /// A frame with these addresses and ports, of TCP and of UDP.
    fn frames(net: Net, addresses: &[u8], ports: [u16; 2]) -> [Vec<u8>; 2] {
        [Frame::tcp(net), Frame::udp(net)].map(|frame| {
            let mut bytes = frame.bytes(b"payload");
            let (at, ports_at) = match net {
                Net::V4 => (26, 34),
                Net::V6 => (22, 54),
            };
            bytes[at..at + addresses.len()].copy_from_slice(addresses);
            bytes[ports_at..ports_at + 2].copy_from_slice(&ports[0].to_be_bytes());
            bytes[ports_at + 2..ports_at + 4].copy_from_slice(&ports[1].to_be_bytes());
            bytes
        })
    }

    #[test]
    fn hash_of_ipv4_equals_microsofts() {
        for (source, destination, ports, with_ports, without) in [
            ("66.9.149.187", "161.142.100.80", [2794, 1766], 0x51cc_c178, 0x323e_8fc2),
            ("199.92.111.2", "65.69.140.83", [14230, 4739], 0xc626_b0ea, 0xd718_262a),
            ("24.19.198.95", "12.22.207.184", [12898, 38024], 0x5c2b_394a, 0xd2d0_a5de),
            ("38.27.205.30", "209.142.163.6", [48228, 2217], 0xafc7_327f, 0x8298_9176),
            ("153.39.163.191", "202.188.127.2", [44251, 1303], 0x10e8_28a2, 0x5d18_09c5),
        ] {
            let addresses = [source, destination].map(|text| text.parse::<Ipv4Addr>().unwrap().octets());
            let [tcp, udp] = frames(Net::V4, addresses.as_flattened(), ports);
            assert_eq!(of(&tcp, ALL), Some((with_ports, HASH_REPORT_TCPV4)));
            assert_eq!(of(&udp, ALL), Some((with_ports, HASH_REPORT_UDPV4)));
            assert_eq!(of(&udp, ALL & !HASH_TYPE_UDPV4), Some((without, HASH_REPORT_IPV4)));
            assert_eq!(of(&tcp, HASH_TYPE_IPV4), Some((without, HASH_REPORT_IPV4)));
        }
    }

    #[test]
    fn hash_of_ipv6_equals_microsofts() {
        for (source, destination, ports, with_ports, without) in [
            ("3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1", [2794, 1766], 0x4020_7d3d, 0x2cc1_8cd5),
            ("3ffe:501:8::260:97ff:fe40:efab", "ff02::1", [14230, 4739], 0xdde5_1bbf, 0x0f0c_461c),
            (
                "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
                "fe80::200:f8ff:fe21:67cf",
                [44251, 38024],
                0x02d1_feef,
                0x4b61_e985,
            ),
        ] {
            let addresses = [source, destination].map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
            let [tcp, udp] = frames(Net::V6, addresses.as_flattened(), ports);
            assert_eq!(of(&tcp, ALL), Some((with_ports, HASH_REPORT_TCPV6)));
            assert_eq!(of(&udp, ALL), Some((with_ports, HASH_REPORT_UDPV6)));
            assert_eq!(of(&udp, HASH_TYPE_IPV6), Some((without, HASH_REPORT_IPV6)));
        }
    }

    #[test]
    fn hash_without_a_type_that_fits_is_none() {
        let [tcp, _] = frames(Net::V4, &[1; 8], [1, 2]);
        assert_eq!(of(&tcp, 0), None);
        assert_eq!(of(&tcp, HASH_TYPE_UDPV4 | HASH_TYPE_IPV6), None);
        assert_eq!(of(&[0; 60], ALL), None, "no IP");
    }

    #[test]
    fn hash_of_a_fragment_is_without_ports() {
        let [mut tcp, _] = frames(Net::V4, &[1; 8], [1, 2]);
        tcp[20] |= 0x20;
        assert_eq!(of(&tcp, ALL).unwrap().1, HASH_REPORT_IPV4);
        assert_eq!(of(&tcp, HASH_TYPE_TCPV4), None);
    }
}
