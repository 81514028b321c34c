//! Where an address that the guest sends to leads, and whether it may.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::settings::Settings;

/// The port of those who answer questions about names.
const NAMES: u16 = 53;

/// Where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To somebody.
    Host(SocketAddr),
    /// To whoever the host asks about names.
    Resolver,
    /// Nowhere.
    Nowhere,
}

/// Where `to` leads.
pub(crate) fn target(settings: &Settings, to: SocketAddr) -> Target {
    if is_resolver(settings, to.ip()) {
        return if to.port() == NAMES { Target::Resolver } else { Target::Nowhere };
    }
    if is_gateway(settings, to.ip()) {
        let host: IpAddr = match to.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        return if settings.host_loopback { Target::Host((host, to.port()).into()) } else { Target::Nowhere };
    }
    let may = match to.ip() {
        IpAddr::V4(address) => !settings.net.has(address) && is_far(address),
        IpAddr::V6(address) => settings.net6.is_some_and(|net| !net.has(address)) && is_far6(address),
    };
    if may { Target::Host(to) } else { Target::Nowhere }
}

/// Whether it is the gateway's.
pub(crate) fn is_gateway(settings: &Settings, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == settings.net.gateway(),
        IpAddr::V6(address) => {
            settings.net6.is_some_and(|net| address == net.gateway() || address == net.link_gateway())
        }
    }
}

/// Whether it is the resolver's.
pub(crate) fn is_resolver(settings: &Settings, address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == settings.net.resolver(),
        IpAddr::V6(address) => settings.net6.is_some_and(|net| address == net.resolver()),
    }
}

/// Whether it leads out of the host. Link-local addresses have what clouds tell their machines, secrets too.
fn is_far(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // "This network", and what is not for one receiver.
    !(first == 0 || first >= 224 || address.is_loopback() || address.is_link_local())
}

/// Likewise. Addresses of IPv4 in disguise would lead around what holds for those.
fn is_far6(address: Ipv6Addr) -> bool {
    let [first, second, third, fourth, fifth, ..] = address.segments();
    let is_ipv4 = [first, second, third, fourth, fifth] == [0; 5];
    // Those that are translated on the way (RFC 6052, 8215).
    let is_translated = first == 0x64 && second == 0xff9b;
    // Amazon's and Google's, beside those of the link.
    let is_metadata = address.octets().starts_with(&[0xfd, 0x00, 0x0e, 0xc2])
        || address == Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254);
    !(is_ipv4
        || is_translated
        || is_metadata
        || address.is_unicast_link_local()
        || address.is_multicast()
        || address.is_unspecified())
}
