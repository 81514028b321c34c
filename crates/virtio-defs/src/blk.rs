//! The block device (VIRTIO 1.3, 5.2): feature bits (as masks), configuration space, request layout.
//!
//! Layouts only: what a peer put into them is for the device to check. Sectors are 512 bytes everywhere, whatever
//! the block size.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes in a sector, the unit of every position and length (VIRTIO 1.3, 5.2.4).
pub const SECTOR_SIZE: u64 = 512;

/// Bytes in the answer to [`T_GET_ID`]; shorter serials are filled up with NUL (VIRTIO 1.3, 5.2.6).
pub const ID_BYTES: usize = 20;

/// Segments are at most `size_max` bytes (VIRTIO 1.3, 5.2.3).
pub const F_SIZE_MAX: u64 = 1 << 1;
/// Requests have at most `seg_max` data segments (VIRTIO 1.3, 5.2.3).
pub const F_SEG_MAX: u64 = 1 << 2;
/// `geometry` is filled in (VIRTIO 1.3, 5.2.3).
pub const F_GEOMETRY: u64 = 1 << 4;
/// The device is read-only (VIRTIO 1.3, 5.2.3).
pub const F_RO: u64 = 1 << 5;
/// `blk_size` is filled in (VIRTIO 1.3, 5.2.3).
pub const F_BLK_SIZE: u64 = 1 << 6;
/// [`T_FLUSH`] is served (VIRTIO 1.3, 5.2.3).
pub const F_FLUSH: u64 = 1 << 9;
/// `topology` is filled in (VIRTIO 1.3, 5.2.3).
pub const F_TOPOLOGY: u64 = 1 << 10;
/// The driver may switch the write cache through `writeback` (VIRTIO 1.3, 5.2.3).
pub const F_CONFIG_WCE: u64 = 1 << 11;
/// `num_queues` is filled in (VIRTIO 1.3, 5.2.3).
pub const F_MQ: u64 = 1 << 12;
/// [`T_DISCARD`] is served (VIRTIO 1.3, 5.2.3).
pub const F_DISCARD: u64 = 1 << 13;
/// [`T_WRITE_ZEROES`] is served (VIRTIO 1.3, 5.2.3).
pub const F_WRITE_ZEROES: u64 = 1 << 14;
/// [`T_GET_LIFETIME`] is served (VIRTIO 1.3, 5.2.3).
pub const F_LIFETIME: u64 = 1 << 15;
/// [`T_SECURE_ERASE`] is served (VIRTIO 1.3, 5.2.3).
pub const F_SECURE_ERASE: u64 = 1 << 16;
/// The device is zoned (VIRTIO 1.3, 5.2.3).
pub const F_ZONED: u64 = 1 << 17;

/// Reads data (VIRTIO 1.3, 5.2.6).
pub const T_IN: u32 = 0;
/// Writes data (VIRTIO 1.3, 5.2.6).
pub const T_OUT: u32 = 1;
/// Makes completed writes stable (VIRTIO 1.3, 5.2.6).
pub const T_FLUSH: u32 = 4;
/// Reads the serial, [`ID_BYTES`] long (VIRTIO 1.3, 5.2.6).
pub const T_GET_ID: u32 = 8;
/// Reads how worn the medium is (VIRTIO 1.3, 5.2.6).
pub const T_GET_LIFETIME: u32 = 10;
/// Gives up the contents of ranges (VIRTIO 1.3, 5.2.6).
pub const T_DISCARD: u32 = 11;
/// Makes ranges read as zeroes (VIRTIO 1.3, 5.2.6).
pub const T_WRITE_ZEROES: u32 = 13;
/// Erases ranges so that nothing of them is left (VIRTIO 1.3, 5.2.6).
pub const T_SECURE_ERASE: u32 = 14;
/// Writes at a zone's write pointer (VIRTIO 1.3, 5.2.6).
pub const T_ZONE_APPEND: u32 = 15;
/// Reads the state of zones (VIRTIO 1.3, 5.2.6).
pub const T_ZONE_REPORT: u32 = 16;
/// Opens a zone (VIRTIO 1.3, 5.2.6).
pub const T_ZONE_OPEN: u32 = 18;
/// Closes a zone (VIRTIO 1.3, 5.2.6).
pub const T_ZONE_CLOSE: u32 = 20;
/// Finishes a zone (VIRTIO 1.3, 5.2.6).
pub const T_ZONE_FINISH: u32 = 22;
/// Resets a zone (VIRTIO 1.3, 5.2.6).
pub const T_ZONE_RESET: u32 = 24;
/// Resets all zones (VIRTIO 1.3, 5.2.6).
pub const T_ZONE_RESET_ALL: u32 = 26;

/// The request was carried out (VIRTIO 1.3, 5.2.6).
pub const S_OK: u8 = 0;
/// The request failed: the medium, the range, or its form (VIRTIO 1.3, 5.2.6).
pub const S_IOERR: u8 = 1;
/// The device does not serve such requests (VIRTIO 1.3, 5.2.6).
pub const S_UNSUPP: u8 = 2;

/// The zone is not of a kind or in a state that allows the request, or the range leaves it (VIRTIO 1.3, 5.2.6).
pub const S_ZONE_INVALID_CMD: u8 = 3;
/// The write does not begin at the zone's write pointer, or is not in whole units (VIRTIO 1.3, 5.2.6).
pub const S_ZONE_UNALIGNED_WP: u8 = 4;
/// More zones would be open than can be (VIRTIO 1.3, 5.2.6).
pub const S_ZONE_OPEN_RESOURCE: u8 = 5;
/// More zones would be active than can be (VIRTIO 1.3, 5.2.6).
pub const S_ZONE_ACTIVE_RESOURCE: u8 = 6;

/// In [`Zoned::model`]: not zoned, or drive-managed (VIRTIO 1.3, 5.2.4).
pub const Z_NONE: u8 = 0;
/// In [`Zoned::model`]: host-managed, zones must be written in sequence (VIRTIO 1.3, 5.2.4).
pub const Z_HM: u8 = 1;
/// In [`Zoned::model`]: host-aware, zones should be written in sequence (VIRTIO 1.3, 5.2.4).
pub const Z_HA: u8 = 2;

/// In [`ZoneDescriptor::kind`]: conventional, written anywhere (VIRTIO 1.3, 5.2.6).
pub const ZT_CONV: u8 = 1;
/// In [`ZoneDescriptor::kind`]: must be written in sequence (VIRTIO 1.3, 5.2.6).
pub const ZT_SWR: u8 = 2;
/// In [`ZoneDescriptor::kind`]: should be written in sequence (VIRTIO 1.3, 5.2.6).
pub const ZT_SWP: u8 = 3;

/// In [`ZoneDescriptor::state`]: has no write pointer (VIRTIO 1.3, 5.2.6).
pub const ZS_NOT_WP: u8 = 0;
/// In [`ZoneDescriptor::state`]: empty (VIRTIO 1.3, 5.2.6).
pub const ZS_EMPTY: u8 = 1;
/// In [`ZoneDescriptor::state`]: opened by a write (VIRTIO 1.3, 5.2.6).
pub const ZS_IOPEN: u8 = 2;
/// In [`ZoneDescriptor::state`]: opened by [`T_ZONE_OPEN`] (VIRTIO 1.3, 5.2.6).
pub const ZS_EOPEN: u8 = 3;
/// In [`ZoneDescriptor::state`]: written in part, not open (VIRTIO 1.3, 5.2.6).
pub const ZS_CLOSED: u8 = 4;
/// In [`ZoneDescriptor::state`]: broken, can be read (VIRTIO 1.3, 5.2.6).
pub const ZS_RDONLY: u8 = 13;
/// In [`ZoneDescriptor::state`]: full (VIRTIO 1.3, 5.2.6).
pub const ZS_FULL: u8 = 14;
/// In [`ZoneDescriptor::state`]: broken (VIRTIO 1.3, 5.2.6).
pub const ZS_OFFLINE: u8 = 15;

/// In [`RangeSegment::flags`]: the device may deallocate what it zeroes (VIRTIO 1.3, 5.2.6). For
/// [`T_WRITE_ZEROES`] only.
pub const RANGE_UNMAP: u32 = 1;

/// Where [`Config::writeback`], the one field that a driver may write, is in the configuration space, in bytes
/// (VIRTIO 1.3, 5.2.4).
pub const WRITEBACK_OFFSET: u32 = 32;

/// The configuration space (VIRTIO 1.3, 5.2.4). A field counts only if its feature bit was offered.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Config {
    /// Size in sectors.
    pub capacity: U64,
    /// The longest segment in bytes ([`F_SIZE_MAX`]).
    pub size_max: U32,
    /// The most data segments in a request ([`F_SEG_MAX`]).
    pub seg_max: U32,
    /// Cylinders, heads, sectors ([`F_GEOMETRY`]).
    pub geometry: Geometry,
    /// The logical block size in bytes ([`F_BLK_SIZE`]).
    pub blk_size: U32,
    /// What suits the medium ([`F_TOPOLOGY`]).
    pub topology: Topology,
    /// 1: write-back, 0: write-through. Writable if [`F_CONFIG_WCE`] was negotiated.
    pub writeback: u8,
    /// Always 0.
    pub unused0: u8,
    /// Request queues ([`F_MQ`]).
    pub num_queues: U16,
    /// The longest discard segment in sectors ([`F_DISCARD`]).
    pub max_discard_sectors: U32,
    /// The most segments in a discard ([`F_DISCARD`]).
    pub max_discard_seg: U32,
    /// What discards should be aligned to, in sectors ([`F_DISCARD`]).
    pub discard_sector_alignment: U32,
    /// The longest write-zeroes segment in sectors ([`F_WRITE_ZEROES`]).
    pub max_write_zeroes_sectors: U32,
    /// The most segments in a write-zeroes request ([`F_WRITE_ZEROES`]).
    pub max_write_zeroes_seg: U32,
    /// 1 if write-zeroes with [`RANGE_UNMAP`] may deallocate ([`F_WRITE_ZEROES`]).
    pub write_zeroes_may_unmap: u8,
    /// Always 0.
    pub unused1: [u8; 3],
    /// The longest secure-erase segment in sectors ([`F_SECURE_ERASE`]).
    pub max_secure_erase_sectors: U32,
    /// The most segments in a secure erase ([`F_SECURE_ERASE`]).
    pub max_secure_erase_seg: U32,
    /// What secure erases should be aligned to, in sectors ([`F_SECURE_ERASE`]).
    pub secure_erase_sector_alignment: U32,
    /// What a zoned device is like ([`F_ZONED`]).
    pub zoned: Zoned,
}

/// Part of [`Config`]: the geometry that old firmware asks for (VIRTIO 1.3, 5.2.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Geometry {
    /// Cylinders.
    pub cylinders: U16,
    /// Heads.
    pub heads: u8,
    /// Sectors of a track.
    pub sectors: u8,
}

/// Part of [`Config`]: what suits the medium (VIRTIO 1.3, 5.2.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Topology {
    /// Logical blocks in a physical block, as a power of two.
    pub physical_block_exp: u8,
    /// Logical blocks before the first aligned one.
    pub alignment_offset: u8,
    /// The smallest efficient transfer in logical blocks.
    pub min_io_size: U16,
    /// The best transfer in logical blocks, 0 if unknown.
    pub opt_io_size: U32,
}

/// Part of [`Config`]: what a zoned device is like (VIRTIO 1.3, 5.2.4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Zoned {
    /// Size of a zone in sectors.
    pub zone_sectors: U32,
    /// The most open zones, 0 for any number.
    pub max_open_zones: U32,
    /// The most active zones, 0 for any number.
    pub max_active_zones: U32,
    /// The longest zone append in sectors.
    pub max_append_sectors: U32,
    /// What writes are aligned to, in bytes.
    pub write_granularity: U32,
    /// 0: not zoned, 1: host-managed, 2: host-aware.
    pub model: u8,
    /// Always 0.
    pub unused: [u8; 3],
}

/// What every request begins with (VIRTIO 1.3, 5.2.6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RequestHeader {
    /// What is asked: one of the `T_` values.
    pub kind: U32,
    /// Reserved; older drivers put a priority here. Ignored.
    pub reserved: U32,
    /// Where, in sectors; 0 for requests without a place.
    pub sector: U64,
}

/// A range in the data of [`T_DISCARD`], [`T_WRITE_ZEROES`] and [`T_SECURE_ERASE`] (VIRTIO 1.3, 5.2.6).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct RangeSegment {
    /// Where, in sectors.
    pub sector: U64,
    /// How much, in sectors.
    pub num_sectors: U32,
    /// [`RANGE_UNMAP`]; the other bits are reserved and must be 0.
    pub flags: U32,
}

/// The answer to [`T_GET_LIFETIME`] (VIRTIO 1.3, 5.2.6). 0 stands for unknown everywhere.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Lifetime {
    /// Reserved blocks used: 1: less than 80 %, 2: 80 %, 3: 90 %.
    pub pre_eol_info: U16,
    /// Wear of SLC cells in steps of 10 %: 1 for up to 10 %, 11 for exceeded.
    pub estimate_a: U16,
    /// Wear of MLC cells, likewise.
    pub estimate_b: U16,
}

/// What the answer to [`T_ZONE_REPORT`] begins with (VIRTIO 1.3, 5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ZoneReport {
    /// How many [`ZoneDescriptor`]s follow.
    pub zones: U64,
    /// Always 0.
    pub reserved: [u8; 56],
}

/// A zone in the answer to [`T_ZONE_REPORT`] (VIRTIO 1.3, 5.2.6). Positions and lengths in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ZoneDescriptor {
    /// How much can be written to it when it is empty.
    pub capacity: U64,
    /// Where it begins.
    pub start: U64,
    /// Where the next write goes; undefined for zones that cannot be written in sequence.
    pub write_pointer: U64,
    /// One of the `ZT_` values.
    pub kind: u8,
    /// One of the `ZS_` values.
    pub state: u8,
    /// Always 0.
    pub reserved: [u8; 38],
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};
    use virtio_bindings::virtio_blk as oracle;

    #[test]
    fn feature_bits_equal_the_kernels() {
        let pairs = [
            (F_SIZE_MAX, 1_u64 << oracle::VIRTIO_BLK_F_SIZE_MAX),
            (F_SEG_MAX, 1_u64 << oracle::VIRTIO_BLK_F_SEG_MAX),
            (F_GEOMETRY, 1_u64 << oracle::VIRTIO_BLK_F_GEOMETRY),
            (F_RO, 1_u64 << oracle::VIRTIO_BLK_F_RO),
            (F_BLK_SIZE, 1_u64 << oracle::VIRTIO_BLK_F_BLK_SIZE),
            (F_FLUSH, 1_u64 << oracle::VIRTIO_BLK_F_FLUSH),
            (F_TOPOLOGY, 1_u64 << oracle::VIRTIO_BLK_F_TOPOLOGY),
            (F_CONFIG_WCE, 1_u64 << oracle::VIRTIO_BLK_F_CONFIG_WCE),
            (F_MQ, 1_u64 << oracle::VIRTIO_BLK_F_MQ),
            (F_DISCARD, 1_u64 << oracle::VIRTIO_BLK_F_DISCARD),
            (F_WRITE_ZEROES, 1_u64 << oracle::VIRTIO_BLK_F_WRITE_ZEROES),
            (F_SECURE_ERASE, 1_u64 << oracle::VIRTIO_BLK_F_SECURE_ERASE),
            (F_ZONED, 1_u64 << oracle::VIRTIO_BLK_F_ZONED),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn request_codes_equal_the_kernels() {
        let pairs = [
            (T_IN, oracle::VIRTIO_BLK_T_IN),
            (T_OUT, oracle::VIRTIO_BLK_T_OUT),
            (T_FLUSH, oracle::VIRTIO_BLK_T_FLUSH),
            (T_GET_ID, oracle::VIRTIO_BLK_T_GET_ID),
            (T_DISCARD, oracle::VIRTIO_BLK_T_DISCARD),
            (T_WRITE_ZEROES, oracle::VIRTIO_BLK_T_WRITE_ZEROES),
            (T_SECURE_ERASE, oracle::VIRTIO_BLK_T_SECURE_ERASE),
            (T_ZONE_APPEND, oracle::VIRTIO_BLK_T_ZONE_APPEND),
            (T_ZONE_REPORT, oracle::VIRTIO_BLK_T_ZONE_REPORT),
            (T_ZONE_OPEN, oracle::VIRTIO_BLK_T_ZONE_OPEN),
            (T_ZONE_CLOSE, oracle::VIRTIO_BLK_T_ZONE_CLOSE),
            (T_ZONE_FINISH, oracle::VIRTIO_BLK_T_ZONE_FINISH),
            (T_ZONE_RESET, oracle::VIRTIO_BLK_T_ZONE_RESET),
            (T_ZONE_RESET_ALL, oracle::VIRTIO_BLK_T_ZONE_RESET_ALL),
            (u32::from(S_OK), oracle::VIRTIO_BLK_S_OK),
            (u32::from(S_IOERR), oracle::VIRTIO_BLK_S_IOERR),
            (u32::from(S_UNSUPP), oracle::VIRTIO_BLK_S_UNSUPP),
            (u32::from(S_ZONE_INVALID_CMD), oracle::VIRTIO_BLK_S_ZONE_INVALID_CMD),
            (u32::from(S_ZONE_UNALIGNED_WP), oracle::VIRTIO_BLK_S_ZONE_UNALIGNED_WP),
            (u32::from(S_ZONE_OPEN_RESOURCE), oracle::VIRTIO_BLK_S_ZONE_OPEN_RESOURCE),
            (u32::from(S_ZONE_ACTIVE_RESOURCE), oracle::VIRTIO_BLK_S_ZONE_ACTIVE_RESOURCE),
            (u32::from(Z_NONE), oracle::VIRTIO_BLK_Z_NONE),
            (u32::from(Z_HM), oracle::VIRTIO_BLK_Z_HM),
            (u32::from(Z_HA), oracle::VIRTIO_BLK_Z_HA),
            (u32::from(ZT_CONV), oracle::VIRTIO_BLK_ZT_CONV),
            (u32::from(ZT_SWR), oracle::VIRTIO_BLK_ZT_SWR),
            (u32::from(ZT_SWP), oracle::VIRTIO_BLK_ZT_SWP),
            (u32::from(ZS_NOT_WP), oracle::VIRTIO_BLK_ZS_NOT_WP),
            (u32::from(ZS_EMPTY), oracle::VIRTIO_BLK_ZS_EMPTY),
            (u32::from(ZS_IOPEN), oracle::VIRTIO_BLK_ZS_IOPEN),
            (u32::from(ZS_EOPEN), oracle::VIRTIO_BLK_ZS_EOPEN),
            (u32::from(ZS_CLOSED), oracle::VIRTIO_BLK_ZS_CLOSED),
            (u32::from(ZS_RDONLY), oracle::VIRTIO_BLK_ZS_RDONLY),
            (u32::from(ZS_FULL), oracle::VIRTIO_BLK_ZS_FULL),
            (u32::from(ZS_OFFLINE), oracle::VIRTIO_BLK_ZS_OFFLINE),
            (RANGE_UNMAP, oracle::VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
        ];
        for (ours, theirs) in pairs {
            assert_eq!(ours, theirs);
        }
        assert_eq!(ID_BYTES, oracle::VIRTIO_BLK_ID_BYTES as usize);
    }

    macro_rules! same_offsets {
        ($ours:ty, $theirs:ty, $($our_field:ident = $their_field:ident),+ $(,)?) => {
            assert_eq!(size_of::<$ours>(), size_of::<$theirs>());
            $(assert_eq!(offset_of!($ours, $our_field), offset_of!($theirs, $their_field), stringify!($our_field));)+
        };
    }

    #[test]
    fn config_fields_are_where_the_kernel_has_them() {
        same_offsets!(
            Config,
            oracle::virtio_blk_config,
            capacity = capacity,
            size_max = size_max,
            seg_max = seg_max,
            geometry = geometry,
            blk_size = blk_size,
            topology = physical_block_exp,
            writeback = wce,
            num_queues = num_queues,
            max_discard_sectors = max_discard_sectors,
            max_discard_seg = max_discard_seg,
            discard_sector_alignment = discard_sector_alignment,
            max_write_zeroes_sectors = max_write_zeroes_sectors,
            max_write_zeroes_seg = max_write_zeroes_seg,
            write_zeroes_may_unmap = write_zeroes_may_unmap,
            max_secure_erase_sectors = max_secure_erase_sectors,
            max_secure_erase_seg = max_secure_erase_seg,
            secure_erase_sector_alignment = secure_erase_sector_alignment,
            zoned = zoned,
        );
        assert_eq!(size_of::<Config>(), 96);
        assert_eq!(offset_of!(Config, writeback), WRITEBACK_OFFSET as usize);
        let topology = offset_of!(Config, topology);
        assert_eq!(
            topology + offset_of!(Topology, alignment_offset),
            offset_of!(oracle::virtio_blk_config, alignment_offset)
        );
        assert_eq!(
            topology + offset_of!(Topology, min_io_size),
            offset_of!(oracle::virtio_blk_config, min_io_size)
        );
        assert_eq!(
            topology + offset_of!(Topology, opt_io_size),
            offset_of!(oracle::virtio_blk_config, opt_io_size)
        );
        same_offsets!(
            Geometry,
            oracle::virtio_blk_config_virtio_blk_geometry,
            cylinders = cylinders,
            heads = heads,
            sectors = sectors,
        );
        same_offsets!(
            Zoned,
            oracle::virtio_blk_config_virtio_blk_zoned_characteristics,
            zone_sectors = zone_sectors,
            max_open_zones = max_open_zones,
            max_active_zones = max_active_zones,
            max_append_sectors = max_append_sectors,
            write_granularity = write_granularity,
            model = model,
        );
    }

    #[test]
    fn request_fields_are_where_the_kernel_has_them() {
        same_offsets!(
            RequestHeader,
            oracle::virtio_blk_outhdr,
            kind = type_,
            reserved = ioprio,
            sector = sector
        );
        same_offsets!(
            RangeSegment,
            oracle::virtio_blk_discard_write_zeroes,
            sector = sector,
            num_sectors = num_sectors,
            flags = flags,
        );
        same_offsets!(
            ZoneDescriptor,
            oracle::virtio_blk_zone_descriptor,
            capacity = z_cap,
            start = z_start,
            write_pointer = z_wp,
            kind = z_type,
            state = z_state,
        );
        same_offsets!(ZoneReport, oracle::virtio_blk_zone_report, zones = nr_zones);
        assert_eq!(size_of::<Lifetime>(), 6);
    }
}
