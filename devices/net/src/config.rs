//! What the device offers, and its configuration space (VIRTIO 1.3, 5.1.3 and 5.1.4). Pure.

use outboard_device::Features;
use outboard_device::defs::net::{
    Config, F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO, F_GUEST_USO4,
    F_GUEST_USO6, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO, F_MAC, F_MQ, F_MRG_RXBUF,
    F_MTU, F_STATUS, S_LINK_UP,
};
use outboard_frames::MAX_LEN;

use crate::options::{NetOptions, Offloads};

/// What a frame has beside what `--mtu` limits: the Ethernet header, with a VLAN tag.
const OVERHEAD: u32 = 18;

/// What the device offers, before a host that keeps the offloads of this mask.
pub(crate) fn features(options: &NetOptions, host: u64) -> Features {
    let checksums = F_CSUM | F_GUEST_CSUM;
    let segments = F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_UFO | F_HOST_USO;
    let guest_segments =
        F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6;
    let offloads = match options.offload {
        Offloads::None => 0,
        Offloads::Csum => checksums,
        Offloads::All => checksums | segments | guest_segments,
    };
    let mac = if options.mac.is_some() { F_MAC } else { 0 };
    let mtu = if options.mtu.is_some() { F_MTU } else { 0 };
    let pairs = if options.pairs > 1 { F_MQ } else { 0 };
    Features(F_MRG_RXBUF | F_STATUS | (offloads & host) | mac | mtu | pairs)
}

/// The configuration space to begin with: there is a link.
pub(crate) fn config(options: &NetOptions) -> Config {
    Config {
        mac: options.mac.map_or([0; 6], |mac| mac.0),
        status: S_LINK_UP.into(),
        max_virtqueue_pairs: options.pairs.into(),
        mtu: options.mtu.unwrap_or(0).into(),
        ..Config::default()
    }
}

/// The longest frame that is not to be segmented, in bytes.
pub(crate) fn longest(mtu: Option<u16>) -> u32 {
    mtu.map_or(MAX_LEN, |mtu| u32::from(mtu) + OVERHEAD)
}
