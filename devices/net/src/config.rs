//! What the device offers, and its configuration space (VIRTIO 1.3, 5.1.3 and 5.1.4). Pure.

use outboard_device::Features;
use outboard_device::defs::net::{
    Config, F_CSUM, F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN,
    F_CTRL_VQ, F_GUEST_ANNOUNCE, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO,
    F_GUEST_USO4, F_GUEST_USO6, F_HASH_REPORT, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO,
    F_MAC, F_MQ, F_MRG_RXBUF, F_MTU, F_NOTF_COAL, F_RSS, F_SPEED_DUPLEX, F_STATUS, F_VQ_NOTF_COAL,
    S_ANNOUNCE, S_LINK_UP,
};

use outboard_frames::KEY_LEN;

use crate::options::{NetOptions, Offloads};
use crate::shared::Settings;
use crate::steer::{MAX_TABLE, TYPES};

/// In `speed` and `duplex` (VIRTIO 1.3, 5.1.4).
const UNKNOWN_SPEED: u32 = u32::MAX;
const UNKNOWN_DUPLEX: u8 = 0xff;
const FULL_DUPLEX: u8 = 1;
/// The length of packets is not limited.
pub(crate) const NO_MTU: u32 = u32::MAX;

/// The work on packets that a driver may take over.
pub(crate) const GUEST_OFFLOADS: u64 =
    F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6;

/// What a driver that has the control queue can command.
const COMMANDS: u64 = F_CTRL_VQ
    | F_CTRL_RX
    | F_CTRL_RX_EXTRA
    | F_CTRL_VLAN
    | F_CTRL_MAC_ADDR
    | F_CTRL_GUEST_OFFLOADS
    | F_GUEST_ANNOUNCE
    | F_NOTF_COAL
    | F_VQ_NOTF_COAL;

/// What the device offers, before a host that keeps the offloads of this mask.
pub(crate) fn features(options: &NetOptions, host: u64) -> Features {
    let checksums = F_CSUM | F_GUEST_CSUM;
    let segments = F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_UFO | F_HOST_USO;
    let offloads = match options.offload {
        Offloads::None => 0,
        Offloads::Csum => checksums,
        Offloads::All => F_CSUM | segments | GUEST_OFFLOADS,
    };
    let mac = if options.mac.is_some() { F_MAC } else { 0 };
    let mtu = if options.mtu.is_some() { F_MTU } else { 0 };
    let speed = if options.speed.is_some() { F_SPEED_DUPLEX } else { 0 };
    let spread = if options.rss { F_RSS | F_HASH_REPORT } else { 0 };
    let pairs = if options.pairs > 1 { F_MQ } else { 0 };
    Features(F_MRG_RXBUF | F_STATUS | COMMANDS | (offloads & host) | mac | mtu | pairs | spread | speed)
}

/// The configuration space of the interface.
pub(crate) fn config(options: &NetOptions, has_link: bool, settings: &Settings) -> Config {
    let link = if has_link { S_LINK_UP } else { 0 };
    let announce = if settings.announcing { S_ANNOUNCE } else { 0 };
    Config {
        mac: settings.mac.unwrap_or_default(),
        status: (link | announce).into(),
        max_virtqueue_pairs: options.pairs.into(),
        mtu: settings.mtu.unwrap_or(0).into(),
        speed: options.speed.unwrap_or(UNKNOWN_SPEED).into(),
        duplex: options.speed.map_or(UNKNOWN_DUPLEX, |_| FULL_DUPLEX),
        rss_max_key_size: KEY_LEN as u8,
        rss_max_indirection_table_length: MAX_TABLE.into(),
        supported_hash_types: TYPES.into(),
        ..Config::default()
    }
}

/// What a driver takes over now, of the work on packets: feature bits.
pub(crate) fn taken_over(agreed: Features, settings: &Settings) -> Features {
    Features(settings.offloads.unwrap_or(agreed.0 & GUEST_OFFLOADS))
}
