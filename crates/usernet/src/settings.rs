//! What the network looks like. Trusted: it comes from whoever starts the program.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use outboard_frames::Takes;

/// The shortest and the longest MTU, in bytes: an IPv6 link has no less (RFC 8200, 5), and smaller ones of IPv4 are of no
/// use.
pub const MTUS: std::ops::RangeInclusive<u16> = 1280..=65521;

/// What the network looks like.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its addresses.
    pub net: Net4,
    /// Those of IPv6; without them there is none.
    pub net6: Option<Net6>,
    /// The longest packet, in bytes, without its Ethernet header: one of [`MTUS`].
    pub mtu: u16,
    /// What the guest takes over of the work on packets.
    pub takes: Takes,
    /// The gateway's address leads to the host's own loopback interface.
    pub host_loopback: bool,
    /// Ports of the host that lead to the guest.
    pub forwards: Vec<Forward>,
    /// What the guest may make the host use.
    pub limits: Limits,
    /// Nobody else knows it, and it is another each time: connections are numbered from it.
    pub seed: u64,
}

/// The settings make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

impl Settings {
    /// Whether they make sense.
    ///
    /// # Errors
    /// They do not.
    pub fn check(&self) -> Result<(), Invalid> {
        if !MTUS.contains(&self.mtu) {
            return Err(Invalid(format!("user-mode networking needs an MTU of {MTUS:?}, not {}", self.mtu)));
        }
        for guest in self.forwards.iter().filter_map(|forward| forward.guest) {
            let is_there = match guest {
                IpAddr::V4(guest) => guest == self.net.guest(),
                IpAddr::V6(guest) => self.net6.is_some_and(|net| net.is_of_guest(guest)),
            };
            if !is_there {
                return Err(Invalid(format!("a port is forwarded to {guest}, which is not the guest's")));
            }
        }
        Ok(())
    }
}

/// What the guest may make the host use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most connections and other flows at a time.
    pub flows: usize,
    /// Bytes of memory for what is under way in connections.
    pub memory: usize,
    /// The most of those for one direction of one connection: its window.
    pub window: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 4096, memory: 256 << 20, window: 512 << 10 }
    }
}

/// An IPv4 network: its gateway is number 2, which answers questions about names is 3, and the guest is 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net4 {
    network: Ipv4Addr,
    prefix: u8,
}

/// An IPv6 network: its gateway is number 2, and who answers questions about names is 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net6 {
    network: Ipv6Addr,
}

/// Where in a network the parties are.
const GATEWAY: u8 = 2;
const RESOLVER: u8 = 3;
const GUEST: u8 = 15;
/// Of a network in which the guest's number is an address, and of one that interfaces find addresses in by themselves (RFC 4862).
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=27;
const PREFIX6: u8 = 64;

impl Default for Net4 {
    fn default() -> Self {
        Self { network: Ipv4Addr::new(10, 0, 2, 0), prefix: 24 }
    }
}

impl Default for Net6 {
    fn default() -> Self {
        Self { network: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0) }
    }
}

impl Net4 {
    fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network.to_bits() | u32::from(number))
    }

    /// Who forwards packets, and the host.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        self.host(GATEWAY)
    }

    /// Who answers questions about names.
    #[must_use]
    pub fn resolver(self) -> Ipv4Addr {
        self.host(RESOLVER)
    }

    /// The guest.
    #[must_use]
    pub fn guest(self) -> Ipv4Addr {
        self.host(GUEST)
    }

    /// How many bits of its addresses are the network's.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    pub(crate) fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(u32::MAX << (32 - self.prefix))
    }

    pub(crate) fn has(self, address: Ipv4Addr) -> bool {
        address & self.mask() == self.network
    }

    pub(crate) fn broadcast(self) -> Ipv4Addr {
        self.network | !self.mask()
    }
}

impl FromStr for Net4 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("an IPv4 network is like 10.0.2.0/24, with a prefix of {PREFIXES:?}");
        let (network, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network: Ipv4Addr = network.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().ok().filter(|prefix| PREFIXES.contains(prefix)).ok_or_else(wrong)?;
        let net = Self { network, prefix };
        if network & net.mask() != network {
            return Err(format!("{network} is no network of prefix {prefix}"));
        }
        if network.is_loopback() || network.is_multicast() || network.is_unspecified() {
            return Err(format!("{network} cannot be a guest's network"));
        }
        Ok(net)
    }
}

impl Net6 {
    fn host(self, number: u8) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.network.to_bits() | u128::from(number))
    }

    /// Who forwards packets, and the host.
    #[must_use]
    pub fn gateway(self) -> Ipv6Addr {
        self.host(GATEWAY)
    }

    /// The gateway, where it needs no network: its address on the link.
    #[must_use]
    pub fn link_gateway(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, GATEWAY.into())
    }

    /// Who answers questions about names.
    #[must_use]
    pub fn resolver(self) -> Ipv6Addr {
        self.host(RESOLVER)
    }

    pub(crate) fn network(self) -> Ipv6Addr {
        self.network
    }

    pub(crate) fn has(self, address: Ipv6Addr) -> bool {
        address.to_bits() >> (128 - PREFIX6) == self.network.to_bits() >> (128 - PREFIX6)
    }

    /// Whether it is one that the guest may have given itself.
    pub(crate) fn is_of_guest(self, address: Ipv6Addr) -> bool {
        let ours = [self.gateway(), self.link_gateway(), self.resolver(), self.network];
        (self.has(address) || address.is_unicast_link_local()) && !ours.contains(&address)
    }
}

impl FromStr for Net6 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "an IPv6 network is like fd00::/64, with a prefix of 64".to_owned();
        let (network, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let network: Ipv6Addr = network.parse().map_err(|_| wrong())?;
        if prefix.parse() != Ok(PREFIX6) || network.to_bits() as u64 != 0 {
            return Err(wrong());
        }
        let [first, ..] = network.segments();
        // Link-local, multicast, or with the loopback address in it.
        if first >= 0xfe80 || first == 0 {
            return Err(format!("{network} cannot be a guest's network"));
        }
        Ok(Self { network })
    }
}

/// What a forwarded port carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to the guest: `tcp:127.0.0.1:2222-:22`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// What it carries.
    pub protocol: Protocol,
    /// Where the host listens. Port 0: it chooses one.
    pub host: SocketAddr,
    /// The guest's address; `None`: the one that it gets by DHCP.
    pub guest: Option<IpAddr>,
    /// The guest's port.
    pub port: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: a forwarded port is like tcp:127.0.0.1:2222-:22");
        let (protocol, rest) = text.split_once(':').ok_or_else(wrong)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        let (host, guest) = rest.rsplit_once('-').ok_or_else(wrong)?;
        let host = host.parse().map_err(|_| wrong())?;
        let (guest, port) = match guest.strip_prefix(':') {
            Some(port) => (None, port.parse().map_err(|_| wrong())?),
            None => {
                let guest: SocketAddr = guest.parse().map_err(|_| wrong())?;
                (Some(guest.ip()), guest.port())
            }
        };
        if port == 0 { Err(wrong()) } else { Ok(Self { protocol, host, guest, port }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_their_parties() {
        let net: Net4 = "192.168.16.0/20".parse().unwrap();
        assert_eq!(net.gateway(), Ipv4Addr::new(192, 168, 16, 2));
        assert_eq!(net.guest(), Ipv4Addr::new(192, 168, 16, 15));
        assert_eq!(net.mask(), Ipv4Addr::new(255, 255, 240, 0));
        assert_eq!(net.broadcast(), Ipv4Addr::new(192, 168, 31, 255));
        let small: Net4 = "10.0.2.32/27".parse().unwrap();
        assert_ne!(small.guest(), small.broadcast());
        assert!(net.has(Ipv4Addr::new(192, 168, 31, 1)) && !net.has(Ipv4Addr::new(192, 168, 32, 1)));
        let net: Net6 = "fd12:3456::/64".parse().unwrap();
        assert_eq!(net.gateway(), "fd12:3456::2".parse::<Ipv6Addr>().unwrap());
        assert!(net.is_of_guest("fd12:3456::abcd".parse().unwrap()));
        assert!(net.is_of_guest("fe80::abcd".parse().unwrap()));
        for other in ["fd12:3456::2", "fd12:3456::3", "fe80::2", "fd12:3456:0:1::1", "2001:db8::1", "::1"] {
            assert!(!net.is_of_guest(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn networks_wrong_are_refused() {
        for text in [
            "10.0.2.0",
            "10.0.2.0/28",
            "10.0.2.0/29",
            "10.0.2.0/7",
            "10.0.2.1/24",
            "127.0.0.0/8",
            "0.0.0.0/8",
            "fd00::/64",
        ] {
            text.parse::<Net4>().unwrap_err();
        }
        for text in ["fd00::", "fd00::/48", "fd00::1/64", "fe80::/64", "::/64", "ff02::/64", "10.0.2.0/24"] {
            text.parse::<Net6>().unwrap_err();
        }
    }

    #[test]
    fn forwards_are_read_as_written() {
        let forward: Forward = "tcp:127.0.0.1:2222-:22".parse().unwrap();
        assert_eq!((forward.protocol, forward.guest, forward.port), (Protocol::Tcp, None, 22));
        assert_eq!(forward.host, "127.0.0.1:2222".parse().unwrap());
        let forward: Forward = "udp:[::1]:0-[fd00::15]:53".parse().unwrap();
        assert_eq!((forward.protocol, forward.port), (Protocol::Udp, 53));
        assert_eq!(forward.guest, Some("fd00::15".parse().unwrap()));
        for text in ["tcp", "sctp:127.0.0.1:1-:1", "tcp:2222-:22", "tcp:127.0.0.1:2222", "tcp:127.0.0.1:1-:0"]
        {
            assert!(text.parse::<Forward>().unwrap_err().contains("2222-:22"), "{text}");
        }
    }
}
