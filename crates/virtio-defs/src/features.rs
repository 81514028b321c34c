//! Virtio feature bits (VIRTIO 1.3, 6, and vhost-user: Header and Protocol features).
//!
//! Constants are masks, not bit numbers. Bits 0 to 23 and 50 to 127 belong to the device type.

use crate::DeviceId;

/// Bit 24, legacy: call the driver also when the ring runs empty, whatever it suppressed.
pub const VIRTIO_F_NOTIFY_ON_EMPTY: u64 = 1 << 24;
/// Bit 26, vhost only: writes to guest memory go into the dirty log. Never shown to the guest.
pub const VHOST_F_LOG_ALL: u64 = 1 << 26;
/// Bit 27, legacy: no assumption about descriptor boundaries.
pub const VIRTIO_F_ANY_LAYOUT: u64 = 1 << 27;
/// Bit 28: a descriptor may refer to a table of descriptors.
pub const VIRTIO_F_INDIRECT_DESC: u64 = 1 << 28;
/// Bit 29: kicks and calls are suppressed by index.
pub const VIRTIO_F_EVENT_IDX: u64 = 1 << 29;
/// Bit 30, vhost-user only: there are protocol features. Never shown to the guest.
pub const VHOST_USER_F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// Bit 32: a device of VIRTIO 1.0 or later, little-endian.
pub const VIRTIO_F_VERSION_1: u64 = 1 << 32;
/// Bit 33: addresses may have to be translated.
pub const VIRTIO_F_ACCESS_PLATFORM: u64 = 1 << 33;
/// Bit 34: rings are packed.
pub const VIRTIO_F_RING_PACKED: u64 = 1 << 34;
/// Bit 35: buffers are used in the order in which they were made available.
pub const VIRTIO_F_IN_ORDER: u64 = 1 << 35;
/// Bit 36: memory accesses are ordered as the platform orders them.
pub const VIRTIO_F_ORDER_PLATFORM: u64 = 1 << 36;
/// Bit 37: single-root I/O virtualization.
pub const VIRTIO_F_SR_IOV: u64 = 1 << 37;
/// Bit 38: kicks carry data.
pub const VIRTIO_F_NOTIFICATION_DATA: u64 = 1 << 38;
/// Bit 39: kicks carry data that the device chose.
pub const VIRTIO_F_NOTIF_CONFIG_DATA: u64 = 1 << 39;
/// Bit 40: a ring can be reset alone.
pub const VIRTIO_F_RING_RESET: u64 = 1 << 40;
/// Bit 41: there are administration virtqueues.
pub const VIRTIO_F_ADMIN_VQ: u64 = 1 << 41;
/// Bit 43, VIRTIO 1.4: the device can be suspended.
pub const VIRTIO_F_SUSPEND: u64 = 1 << 43;

type Names = &'static [(u32, &'static str)];

/// Bits with the same meaning for every device type.
const GENERIC: Names = &[
    (24, "NOTIFY_ON_EMPTY"),
    (26, "LOG_ALL"),
    (27, "ANY_LAYOUT"),
    (28, "INDIRECT_DESC"),
    (29, "EVENT_IDX"),
    (30, "PROTOCOL_FEATURES"),
    (32, "VERSION_1"),
    (33, "ACCESS_PLATFORM"),
    (34, "RING_PACKED"),
    (35, "IN_ORDER"),
    (36, "ORDER_PLATFORM"),
    (37, "SR_IOV"),
    (38, "NOTIFICATION_DATA"),
    (39, "NOTIF_CONFIG_DATA"),
    (40, "RING_RESET"),
    (41, "ADMIN_VQ"),
    (43, "SUSPEND"),
];

/// VIRTIO 1.3, 5.1.3.
const NET: Names = &[
    (0, "CSUM"),
    (1, "GUEST_CSUM"),
    (2, "CTRL_GUEST_OFFLOADS"),
    (3, "MTU"),
    (5, "MAC"),
    (6, "GSO"),
    (7, "GUEST_TSO4"),
    (8, "GUEST_TSO6"),
    (9, "GUEST_ECN"),
    (10, "GUEST_UFO"),
    (11, "HOST_TSO4"),
    (12, "HOST_TSO6"),
    (13, "HOST_ECN"),
    (14, "HOST_UFO"),
    (15, "MRG_RXBUF"),
    (16, "STATUS"),
    (17, "CTRL_VQ"),
    (18, "CTRL_RX"),
    (19, "CTRL_VLAN"),
    (20, "CTRL_RX_EXTRA"),
    (21, "GUEST_ANNOUNCE"),
    (22, "MQ"),
    (23, "CTRL_MAC_ADDR"),
    (50, "DEVICE_STATS"),
    (51, "HASH_TUNNEL"),
    (52, "VQ_NOTF_COAL"),
    (53, "NOTF_COAL"),
    (54, "GUEST_USO4"),
    (55, "GUEST_USO6"),
    (56, "HOST_USO"),
    (57, "HASH_REPORT"),
    (59, "GUEST_HDRLEN"),
    (60, "RSS"),
    (61, "RSC_EXT"),
    (62, "STANDBY"),
    (63, "SPEED_DUPLEX"),
];

/// VIRTIO 1.3, 5.2.3.
const BLK: Names = &[
    (0, "BARRIER"),
    (1, "SIZE_MAX"),
    (2, "SEG_MAX"),
    (4, "GEOMETRY"),
    (5, "RO"),
    (6, "BLK_SIZE"),
    (7, "SCSI"),
    (9, "FLUSH"),
    (10, "TOPOLOGY"),
    (11, "CONFIG_WCE"),
    (12, "MQ"),
    (13, "DISCARD"),
    (14, "WRITE_ZEROES"),
    (15, "LIFETIME"),
    (16, "SECURE_ERASE"),
    (17, "ZONED"),
];

/// VIRTIO 1.3, 5.3.3.
const CONSOLE: Names = &[(0, "SIZE"), (1, "MULTIPORT"), (2, "EMERG_WRITE")];
/// VIRTIO 1.3, 5.5.3.
const BALLOON: Names = &[
    (0, "MUST_TELL_HOST"),
    (1, "STATS_VQ"),
    (2, "DEFLATE_ON_OOM"),
    (3, "FREE_PAGE_HINT"),
    (4, "PAGE_POISON"),
    (5, "PAGE_REPORTING"),
];
/// VIRTIO 1.3, 5.6.3.
const SCSI: Names = &[(0, "INOUT"), (1, "HOTPLUG"), (2, "CHANGE"), (3, "T10_PI")];
/// VIRTIO 1.3, 5.7.3.
const GPU: Names =
    &[(0, "VIRGL"), (1, "EDID"), (2, "RESOURCE_UUID"), (3, "RESOURCE_BLOB"), (4, "CONTEXT_INIT")];
/// VIRTIO 1.3, 5.9.3.
const CRYPTO: Names = &[
    (0, "REVISION_1"),
    (1, "CIPHER_STATELESS_MODE"),
    (2, "HASH_STATELESS_MODE"),
    (3, "MAC_STATELESS_MODE"),
    (4, "AEAD_STATELESS_MODE"),
    (5, "AKCIPHER_STATELESS_MODE"),
];
/// VIRTIO 1.3, 5.13.3.
const IOMMU: Names = &[
    (0, "INPUT_RANGE"),
    (1, "DOMAIN_RANGE"),
    (2, "MAP_UNMAP"),
    (3, "BYPASS"),
    (4, "PROBE"),
    (5, "MMIO"),
    (6, "BYPASS_CONFIG"),
];
/// VIRTIO 1.3, 5.15.3.
const MEM: Names = &[(0, "ACPI_PXM"), (1, "UNPLUGGED_INACCESSIBLE"), (2, "PERSISTENT_SUSPEND")];
/// VIRTIO 1.3, 5.19.3.
const PMEM: Names = &[(0, "SHMEM_REGION")];
/// VIRTIO 1.4, CAN device. Linux drivers from before it have bits 2 and 3 the other way round.
const CAN: Names = &[(0, "CAN_CLASSIC"), (1, "CAN_FD"), (2, "RTR_FRAMES"), (3, "LATE_TX_ACK")];
/// As Linux drives it; VIRTIO has the id only.
const P9: Names = &[(0, "MOUNT_TAG")];
/// As Linux drives it; VIRTIO has the id only.
const RPMSG: Names = &[(0, "NS")];
/// As Linux drives it; VIRTIO has the id only.
const BT: Names = &[(0, "VND_HCI"), (1, "MSFT_EXT"), (2, "AOSP_EXT"), (3, "CONFIG_V2")];
/// Drafts of the video devices; VIRTIO has the ids only.
const VIDEO: Names =
    &[(0, "RESOURCE_GUEST_PAGES"), (1, "RESOURCE_NON_CONTIG"), (2, "RESOURCE_VIRTIO_OBJECT")];
/// VIRTIO 1.4, 5.23.3.
const RTC: Names = &[(0, "ALARM")];
/// VIRTIO 1.3, 5.10.3.
const VSOCK: Names = &[(0, "STREAM"), (1, "SEQPACKET"), (2, "NO_IMPLIED_STREAM")];
/// VIRTIO 1.3, 5.14.3.
const SOUND: Names = &[(0, "CTLS")];
/// VIRTIO 1.3, 5.11.3.
const FS: Names = &[(0, "NOTIFICATION")];
/// VIRTIO 1.3, 5.17.3.
const SCMI: Names = &[(0, "P2A_CHANNELS"), (1, "SHARED_MEMORY")];
/// VIRTIO 1.3, 5.16.3.
const I2C: Names = &[(0, "ZERO_LENGTH_REQUEST")];
/// VIRTIO 1.3, 5.18.3.
const GPIO: Names = &[(0, "IRQ")];

/// The bits that a device type gives a meaning as a mask; 0 for one that has none, or is not known here.
pub fn device_features(device: DeviceId) -> u64 {
    names_of(device).iter().fold(0, |mask, (bit, _)| mask | 1 << bit)
}

fn names_of(device: DeviceId) -> Names {
    match device {
        DeviceId::NET => NET,
        DeviceId::BLK => BLK,
        DeviceId::CONSOLE => CONSOLE,
        DeviceId::BALLOON => BALLOON,
        DeviceId::SCSI => SCSI,
        DeviceId::GPU => GPU,
        DeviceId::P9 => P9,
        DeviceId::CRYPTO => CRYPTO,
        DeviceId::IOMMU => IOMMU,
        DeviceId::MEM => MEM,
        DeviceId::PMEM => PMEM,
        DeviceId::CAN => CAN,
        DeviceId::RPMSG => RPMSG,
        DeviceId::BT => BT,
        DeviceId::VIDEO_ENCODER | DeviceId::VIDEO_DECODER => VIDEO,
        DeviceId::RTC => RTC,
        DeviceId::VSOCK => VSOCK,
        DeviceId::SOUND => SOUND,
        DeviceId::FS => FS,
        DeviceId::SCMI => SCMI,
        DeviceId::I2C => I2C,
        DeviceId::GPIO => GPIO,
        _ => &[],
    }
}

/// The name of feature bit number `bit` on a device of type `device`, without its prefix.
pub fn feature_name(device: DeviceId, bit: u32) -> Option<&'static str> {
    GENERIC.iter().chain(names_of(device)).find(|(number, _)| *number == bit).map(|(_, name)| *name)
}

/// The set bits of `features`, ascending: number, and name where there is one.
pub fn feature_names(device: DeviceId, features: u64) -> impl Iterator<Item = (u32, Option<&'static str>)> {
    (0..u64::BITS)
        .filter(move |bit| features & (1 << bit) != 0)
        .map(move |bit| (bit, feature_name(device, bit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_name_prefers_no_device_where_the_bit_is_generic() {
        assert_eq!(feature_name(DeviceId::BLK, 32), Some("VERSION_1"));
        assert_eq!(feature_name(DeviceId(0xffff), 30), Some("PROTOCOL_FEATURES"));
    }

    #[test]
    fn feature_name_depends_on_the_device() {
        assert_eq!(feature_name(DeviceId::BLK, 9), Some("FLUSH"));
        assert_eq!(feature_name(DeviceId::NET, 9), Some("GUEST_ECN"));
        assert_eq!(feature_name(DeviceId::RNG, 9), None);
    }

    #[test]
    fn names_of_every_device_ascend_and_none_hides_a_generic_one() {
        for id in 0..64 {
            let names = names_of(DeviceId(id));
            assert!(names.is_sorted_by(|(a, _), (b, _)| a < b), "{id}");
            for (bit, name) in names {
                assert!(!GENERIC.iter().any(|(generic, _)| generic == bit), "{id}: {name}");
            }
        }
    }

    #[test]
    fn feature_names_lists_set_bits_only() {
        let names: Vec<_> = feature_names(DeviceId::FS, VIRTIO_F_VERSION_1 | 0b11).collect();
        assert_eq!(names, [(0, Some("NOTIFICATION")), (1, None), (32, Some("VERSION_1"))]);
    }
}
