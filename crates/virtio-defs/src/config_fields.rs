//! The fields of every device type's configuration space, by name: for showing what somebody's device says. A device
//! or driver that works with one uses the layout in the file of its type.
//!
//! A table is data: what a field means, and nothing of what is plausible.

use crate::DeviceId;

/// How the bytes of a field are to be read. Numbers are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number of so many bytes: 1, 2, 4 or 8.
    Number(usize),
    /// A number of so many bytes whose bits count.
    Bits(usize),
    /// A MAC address.
    Mac,
    /// So many bytes of text, ended by NUL if shorter.
    Text(usize),
    /// So many bytes without a form of their own.
    Bytes(usize),
}

impl Kind {
    /// The length in bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        match self {
            Self::Number(len) | Self::Bits(len) | Self::Text(len) | Self::Bytes(len) => len,
            Self::Mac => 6,
        }
    }

    /// Is there nothing to read? No field of a table is so.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// A field of a configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The specification's name; a part of a structure follows it after a dot.
    pub name: &'static str,
    /// Where it begins, in bytes.
    pub offset: usize,
    /// How to read it.
    pub kind: Kind,
    /// What it counts; empty where it is no quantity.
    pub unit: &'static str,
    /// The feature bit number without which it does not count.
    pub feature: Option<u32>,
}

/// A configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Its fields, in order.
    pub fields: &'static [Field],
    /// The lengths in bytes that versions of the specification, and the programs that were written to them, gave it;
    /// ascending.
    pub lengths: &'static [usize],
}

const fn field(name: &'static str, offset: usize, kind: Kind) -> Field {
    Field { name, offset, kind, unit: "", feature: None }
}

impl Field {
    const fn of(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    const fn with(self, bit: u32) -> Self {
        Self { feature: Some(bit), ..self }
    }
}

const U8: Kind = Kind::Number(1);
const U16: Kind = Kind::Number(2);
const U32: Kind = Kind::Number(4);
const U64: Kind = Kind::Number(8);
const BITS: Kind = Kind::Bits(4);

/// VIRTIO 1.3, 5.1.4.
const NET: Space = Space {
    fields: &[
        field("mac", 0, Kind::Mac).with(5),
        field("status", 6, Kind::Bits(2)).with(16),
        field("max_virtqueue_pairs", 8, U16).with(22),
        field("mtu", 10, U16).of("bytes").with(3),
        field("speed", 12, U32).of("Mbit/s").with(63),
        field("duplex", 16, U8).with(63),
        field("rss_max_key_size", 17, U8).of("bytes").with(60),
        field("rss_max_indirection_table_length", 18, U16).with(60),
        field("supported_hash_types", 20, BITS).with(57),
        field("supported_tunnel_types", 24, BITS).with(51),
    ],
    lengths: &[6, 8, 10, 12, 17, 20, 24, 28],
};

/// VIRTIO 1.3, 5.2.4.
const BLK: Space = Space {
    fields: &[
        field("capacity", 0, U64).of("sectors"),
        field("size_max", 8, U32).of("bytes").with(1),
        field("seg_max", 12, U32).of("segments").with(2),
        field("geometry.cylinders", 16, U16).with(4),
        field("geometry.heads", 18, U8).with(4),
        field("geometry.sectors", 19, U8).with(4),
        field("blk_size", 20, U32).of("bytes").with(6),
        field("topology.physical_block_exp", 24, U8).of("log2 blocks").with(10),
        field("topology.alignment_offset", 25, U8).of("blocks").with(10),
        field("topology.min_io_size", 26, U16).of("blocks").with(10),
        field("topology.opt_io_size", 28, U32).of("blocks").with(10),
        field("writeback", 32, U8).with(11),
        field("num_queues", 34, U16).with(12),
        field("max_discard_sectors", 36, U32).of("sectors").with(13),
        field("max_discard_seg", 40, U32).of("segments").with(13),
        field("discard_sector_alignment", 44, U32).of("sectors").with(13),
        field("max_write_zeroes_sectors", 48, U32).of("sectors").with(14),
        field("max_write_zeroes_seg", 52, U32).of("segments").with(14),
        field("write_zeroes_may_unmap", 56, U8).with(14),
        field("max_secure_erase_sectors", 60, U32).of("sectors").with(16),
        field("max_secure_erase_seg", 64, U32).of("segments").with(16),
        field("secure_erase_sector_alignment", 68, U32).of("sectors").with(16),
        field("zoned.zone_sectors", 72, U32).of("sectors").with(17),
        field("zoned.max_open_zones", 76, U32).with(17),
        field("zoned.max_active_zones", 80, U32).with(17),
        field("zoned.max_append_sectors", 84, U32).of("sectors").with(17),
        field("zoned.write_granularity", 88, U32).of("bytes").with(17),
        field("zoned.model", 92, U8).with(17),
    ],
    lengths: &[8, 36, 48, 57, 60, 72, 96],
};

/// VIRTIO 1.3, 5.3.4.
const CONSOLE: Space = Space {
    fields: &[
        field("cols", 0, U16).of("characters").with(0),
        field("rows", 2, U16).of("characters").with(0),
        field("max_nr_ports", 4, U32).with(1),
        field("emerg_wr", 8, U32).with(2),
    ],
    lengths: &[4, 8, 12],
};

/// VIRTIO 1.3, 5.5.6.
const BALLOON: Space = Space {
    fields: &[
        field("num_pages", 0, U32).of("pages of 4 KiB"),
        field("actual", 4, U32).of("pages of 4 KiB"),
        field("free_page_hint_cmd_id", 8, U32).with(3),
        field("poison_val", 12, BITS).with(4),
    ],
    lengths: &[8, 12, 16],
};

/// VIRTIO 1.3, 5.6.4.
const SCSI: Space = Space {
    fields: &[
        field("num_queues", 0, U32),
        field("seg_max", 4, U32).of("segments"),
        field("max_sectors", 8, U32).of("sectors"),
        field("cmd_per_lun", 12, U32),
        field("event_info_size", 16, U32).of("bytes"),
        field("sense_size", 20, U32).of("bytes"),
        field("cdb_size", 24, U32).of("bytes"),
        field("max_channel", 28, U16),
        field("max_target", 30, U16),
        field("max_lun", 32, U32),
    ],
    lengths: &[36],
};

/// As Linux drives it.
const P9: Space = Space {
    fields: &[field("tag_len", 0, U16).of("bytes").with(0), field("tag", 2, Kind::Text(128)).with(0)],
    lengths: &[],
};

/// VIRTIO 1.3, 5.7.4.
const GPU: Space = Space {
    fields: &[
        field("events_read", 0, BITS),
        field("events_clear", 4, BITS),
        field("num_scanouts", 8, U32),
        field("num_capsets", 12, U32),
    ],
    lengths: &[16, 20],
};

/// VIRTIO 1.3, 5.8.4.
const INPUT: Space = Space {
    fields: &[
        field("select", 0, U8),
        field("subsel", 1, U8),
        field("size", 2, U8).of("bytes"),
        field("u", 8, Kind::Text(128)),
    ],
    lengths: &[136],
};

/// VIRTIO 1.3, 5.10.4.
const VSOCK: Space = Space { fields: &[field("guest_cid", 0, U64)], lengths: &[8] };

/// VIRTIO 1.3, 5.9.4.
const CRYPTO: Space = Space {
    fields: &[
        field("status", 0, BITS),
        field("max_dataqueues", 4, U32),
        field("crypto_services", 8, BITS),
        field("cipher_algo_l", 12, BITS),
        field("cipher_algo_h", 16, BITS),
        field("hash_algo", 20, BITS),
        field("mac_algo_l", 24, BITS),
        field("mac_algo_h", 28, BITS),
        field("aead_algo", 32, BITS),
        field("max_cipher_key_len", 36, U32).of("bytes"),
        field("max_auth_key_len", 40, U32).of("bytes"),
        field("akcipher_algo", 44, BITS),
        field("max_size", 48, U64).of("bytes"),
    ],
    lengths: &[56],
};

/// VIRTIO 1.3, 5.13.4.
const IOMMU: Space = Space {
    fields: &[
        field("page_size_mask", 0, Kind::Bits(8)),
        field("input_range.start", 8, Kind::Bits(8)).with(0),
        field("input_range.end", 16, Kind::Bits(8)).with(0),
        field("domain_range.start", 24, U32).with(1),
        field("domain_range.end", 28, U32).with(1),
        field("probe_size", 32, U32).of("bytes").with(4),
        field("bypass", 36, U8).with(6),
    ],
    lengths: &[36, 40],
};

/// VIRTIO 1.3, 5.15.4.
const MEM: Space = Space {
    fields: &[
        field("block_size", 0, U64).of("bytes"),
        field("node_id", 8, U16).with(0),
        field("addr", 16, Kind::Bits(8)),
        field("region_size", 24, U64).of("bytes"),
        field("usable_region_size", 32, U64).of("bytes"),
        field("plugged_size", 40, U64).of("bytes"),
        field("requested_size", 48, U64).of("bytes"),
    ],
    lengths: &[56],
};

/// VIRTIO 1.3, 5.14.4.
const SOUND: Space = Space {
    fields: &[
        field("jacks", 0, U32),
        field("streams", 4, U32),
        field("chmaps", 8, U32),
        field("controls", 12, U32).with(0),
    ],
    lengths: &[12, 16],
};

/// VIRTIO 1.3, 5.11.4.
const FS: Space = Space {
    fields: &[
        field("tag", 0, Kind::Text(36)),
        field("num_request_queues", 36, U32),
        field("notify_buf_size", 40, U32).of("bytes").with(0),
    ],
    lengths: &[40, 44],
};

/// VIRTIO 1.3, 5.19.4.
const PMEM: Space =
    Space { fields: &[field("start", 0, Kind::Bits(8)), field("size", 8, U64).of("bytes")], lengths: &[16] };

/// VIRTIO 1.3, 5.12.4.
const RPMB: Space = Space {
    fields: &[
        field("capacity", 0, U8).of("x 128 KiB"),
        field("max_wr_cnt", 1, U8).of("blocks"),
        field("max_rd_cnt", 2, U8).of("blocks"),
    ],
    lengths: &[3],
};

/// VIRTIO 1.3, 5.18.4.
const GPIO: Space = Space {
    fields: &[field("ngpio", 0, U16).of("lines"), field("gpio_names_size", 4, U32).of("bytes")],
    lengths: &[8],
};

/// VIRTIO 1.4, CAN device.
const CAN: Space = Space { fields: &[field("status", 0, Kind::Bits(2))], lengths: &[2] };

/// As Linux drives it: the second version of its layout comes with bit 3.
const BT: Space = Space {
    fields: &[
        field("type", 0, U8),
        field("alignment", 1, U8).with(3),
        field("vendor", 2, Kind::Bits(2)).with(3),
        field("msft_opcode", 4, Kind::Bits(2)).with(3),
    ],
    lengths: &[5, 6],
};

/// VIRTIO 1.4, SPI controller.
const SPI: Space = Space {
    fields: &[
        field("cs_max_number", 0, U8),
        field("cs_change_supported", 1, U8),
        field("tx_nbits_supported", 2, Kind::Bits(1)),
        field("rx_nbits_supported", 3, Kind::Bits(1)),
        field("bits_per_word_mask", 4, BITS),
        field("mode_func_supported", 8, BITS),
        field("max_freq_hz", 12, U32).of("Hz"),
        field("max_word_delay_ns", 16, U32).of("ns"),
        field("max_cs_setup_ns", 20, U32).of("ns"),
        field("max_cs_hold_ns", 24, U32).of("ns"),
        field("max_cs_inactive_ns", 28, U32).of("ns"),
    ],
    lengths: &[32],
};

/// VIRTIO 1.4, media device.
const MEDIA: Space = Space {
    fields: &[field("device_caps", 0, BITS), field("device_type", 4, U32), field("card", 8, Kind::Text(32))],
    lengths: &[40],
};

/// Drafts of the video devices.
const VIDEO: Space = Space {
    fields: &[
        field("version", 0, U32),
        field("max_caps_length", 4, U32).of("bytes"),
        field("max_resp_length", 8, U32).of("bytes"),
    ],
    lengths: &[12],
};

const NONE: Space = Space { fields: &[], lengths: &[0] };

/// The configuration space of a device type: one without fields for a type that has none; `None` for a type of which
/// nothing is known here.
#[must_use]
pub fn config_space(device: DeviceId) -> Option<&'static Space> {
    Some(match device {
        DeviceId::NET => &NET,
        DeviceId::BLK => &BLK,
        DeviceId::CONSOLE => &CONSOLE,
        DeviceId::RNG | DeviceId::I2C | DeviceId::SCMI | DeviceId::RTC => &NONE,
        DeviceId::BALLOON => &BALLOON,
        DeviceId::SCSI => &SCSI,
        DeviceId::P9 => &P9,
        DeviceId::GPU => &GPU,
        DeviceId::INPUT => &INPUT,
        DeviceId::VSOCK => &VSOCK,
        DeviceId::CRYPTO => &CRYPTO,
        DeviceId::IOMMU => &IOMMU,
        DeviceId::MEM => &MEM,
        DeviceId::SOUND => &SOUND,
        DeviceId::FS => &FS,
        DeviceId::PMEM => &PMEM,
        DeviceId::RPMB => &RPMB,
        DeviceId::GPIO => &GPIO,
        DeviceId::CAN => &CAN,
        DeviceId::BT => &BT,
        DeviceId::SPI => &SPI,
        DeviceId::MEDIA => &MEDIA,
        DeviceId::VIDEO_ENCODER | DeviceId::VIDEO_DECODER => &VIDEO,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::features::feature_name;
    use crate::{blk, net};

    #[test]
    fn fields_follow_each_other_within_the_longest_length() {
        for &id in DeviceId::ALL {
            let Some(space) = config_space(id) else { continue };
            assert!(space.lengths.is_sorted(), "{id}");
            let mut end = 0;
            for field in space.fields {
                assert!(field.offset >= end, "{id}: {}", field.name);
                assert!(!field.kind.is_empty(), "{id}: {}", field.name);
                end = field.offset + field.kind.len();
            }
            assert!(space.lengths.last().is_none_or(|&last| end <= last), "{id}");
        }
    }

    #[test]
    fn features_of_fields_are_named_features_of_the_device() {
        for &id in DeviceId::ALL {
            for field in config_space(id).map_or(&[][..], |space| space.fields) {
                assert!(
                    field.feature.is_none_or(|bit| feature_name(id, bit).is_some()),
                    "{id}: {}",
                    field.name
                );
            }
        }
    }

    #[test]
    fn fields_of_net_are_where_its_layout_has_them() {
        let offset = |name| NET.fields.iter().find(|field| field.name == name).unwrap().offset;
        assert_eq!(offset("mtu"), offset_of!(net::Config, mtu));
        assert_eq!(offset("speed"), offset_of!(net::Config, speed));
        assert_eq!(offset("supported_tunnel_types"), offset_of!(net::Config, supported_tunnel_types));
        assert_eq!(NET.lengths.last(), Some(&size_of::<net::Config>()));
    }

    #[test]
    fn fields_of_blk_are_where_its_layout_has_them() {
        let offset = |name| BLK.fields.iter().find(|field| field.name == name).unwrap().offset;
        assert_eq!(offset("blk_size"), offset_of!(blk::Config, blk_size));
        assert_eq!(offset("num_queues"), offset_of!(blk::Config, num_queues));
        assert_eq!(offset("max_write_zeroes_seg"), offset_of!(blk::Config, max_write_zeroes_seg));
        assert_eq!(offset("zoned.zone_sectors"), offset_of!(blk::Config, zoned));
        assert_eq!(BLK.lengths.last(), Some(&size_of::<blk::Config>()));
    }
}
