//! The configuration space that a disk shows (VIRTIO 1.3, 5.2.4). Pure.

use outboard_device::defs::blk::{
    Config, F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_LIFETIME, F_MQ, F_RO, F_SECURE_ERASE, F_SEG_MAX,
    F_TOPOLOGY, F_WRITE_ZEROES, F_ZONED, SECTOR_SIZE, Topology, Zoned,
};
use outboard_device::{DeviceError, Features};

use crate::host::Shape;
use crate::options::BlkOptions;
use crate::request::{
    MAX_DISCARD_RANGES, MAX_DISCARD_SECTORS, MAX_ERASE_RANGES, MAX_ERASE_SECTORS, MAX_ZEROES_RANGES,
    MAX_ZEROES_SECTORS,
};

/// The most data segments announced. Two descriptors of a request are for header and status, and the ring of
/// least size in wide use has 128.
const MAX_SEGMENTS: u16 = 126;

/// What few disks are or can.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extras {
    /// What its zones are like.
    pub(crate) zoned: Option<Zoned>,
    /// What secure erases come in, in bytes; `None` if there are none.
    pub(crate) erase: Option<u32>,
    /// It says how worn it is.
    pub(crate) lifetime: bool,
    /// Where its first aligned block is, in bytes.
    pub(crate) aligned_from: u32,
}

/// The logical block to show, in bytes.
///
/// # Errors
/// One smaller than the disk's own: blocks would be written in part.
pub(crate) fn logical_block(shape: &Shape, wanted: Option<u32>) -> Result<u32, DeviceError> {
    match wanted {
        Some(block) if block < shape.logical_block => Err(DeviceError::Invalid(format!(
            "the disk has blocks of {}: --block-size {block} is too small for it",
            shape.logical_block
        ))),
        wanted => Ok(wanted.unwrap_or(shape.logical_block)),
    }
}

/// What the disk offers: only what works on this host. Nothing that writes out of sequence goes with zones
/// (VIRTIO 1.3, 5.2.5: no discard).
pub(crate) fn features(shape: &Shape, extras: &Extras, read_only: bool) -> Features {
    let always = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_CONFIG_WCE | F_MQ;
    let zoned = if extras.zoned.is_some() { F_ZONED } else { 0 };
    let writing = match (read_only, shape.discard) {
        (true, _) => F_RO,
        (false, _) if extras.zoned.is_some() => 0,
        (false, None) => F_WRITE_ZEROES,
        (false, Some(_)) => F_WRITE_ZEROES | F_DISCARD,
    };
    // With zones it would have to be a reset (VIRTIO 1.3, 5.2.6.2), and those there are.
    let can_erase = extras.erase.is_some() && !read_only && extras.zoned.is_none();
    let erase = if can_erase { F_SECURE_ERASE } else { 0 };
    let lifetime = if extras.lifetime { F_LIFETIME } else { 0 };
    Features(always | zoned | writing | erase | lifetime)
}

/// The configuration space to begin with.
pub(crate) fn config(shape: &Shape, extras: &Extras, options: &BlkOptions) -> Config {
    let block = options.block_size.unwrap_or(shape.logical_block);
    let mut config = Config {
        capacity: capacity(shape.bytes, block).into(),
        seg_max: u32::from(options.queue_size.saturating_sub(2).clamp(1, MAX_SEGMENTS)).into(),
        blk_size: block.into(),
        topology: topology(shape, extras, block),
        writeback: options.writeback.into(),
        num_queues: options.num_queues.into(),
        ..Config::default()
    };
    let offered = features(shape, extras, options.read_only);
    if offered.has(F_DISCARD) {
        let granularity = shape.discard.unwrap_or(block).max(block);
        config.max_discard_sectors = MAX_DISCARD_SECTORS.into();
        config.max_discard_seg = (MAX_DISCARD_RANGES as u32).into();
        config.discard_sector_alignment = (granularity / SECTOR_SIZE as u32).into();
    }
    if offered.has(F_WRITE_ZEROES) {
        config.max_write_zeroes_sectors = MAX_ZEROES_SECTORS.into();
        config.max_write_zeroes_seg = (MAX_ZEROES_RANGES as u32).into();
        config.write_zeroes_may_unmap = offered.has(F_DISCARD).into();
    }
    if offered.has(F_SECURE_ERASE) {
        let granularity = extras.erase.unwrap_or(block).max(block);
        config.max_secure_erase_sectors = MAX_ERASE_SECTORS.into();
        config.max_secure_erase_seg = (MAX_ERASE_RANGES as u32).into();
        config.secure_erase_sector_alignment = (granularity / SECTOR_SIZE as u32).into();
    }
    config.zoned = extras.zoned.unwrap_or_default();
    config
}

/// A size in bytes as sectors, in whole blocks.
pub(crate) const fn capacity(bytes: u64, block: u32) -> u64 {
    (bytes - bytes % block as u64) / SECTOR_SIZE
}

fn topology(shape: &Shape, extras: &Extras, block: u32) -> Topology {
    let physical = shape.physical_block.max(block);
    Topology {
        physical_block_exp: (physical / block).ilog2() as u8,
        alignment_offset: u8::try_from(extras.aligned_from / block).unwrap_or(0),
        min_io_size: u16::try_from(physical / block).unwrap_or(u16::MAX).into(),
        opt_io_size: (shape.optimal_io / block).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        bytes: 10 << 20,
        logical_block: 512,
        physical_block: 4096,
        optimal_io: 65536,
        discard: Some(4096),
    };

    #[test]
    fn config_of_a_writable_disk_has_no_limit_of_zero() {
        let config = config(&SHAPE, &Extras::default(), &BlkOptions::default());
        assert_eq!(config.capacity.get(), 20480);
        assert_eq!((config.seg_max.get(), config.num_queues.get(), config.writeback), (126, 16, 1));
        assert_eq!((config.max_discard_sectors.get(), config.max_discard_seg.get()), (1 << 21, 16));
        assert_eq!(config.discard_sector_alignment.get(), 8);
        assert_eq!((config.max_write_zeroes_sectors.get(), config.max_write_zeroes_seg.get()), (1 << 17, 16));
        assert_eq!(config.write_zeroes_may_unmap, 1);
        assert_eq!(config.topology.physical_block_exp, 3);
        assert_eq!((config.topology.min_io_size.get(), config.topology.opt_io_size.get()), (8, 128));
    }

    #[test]
    fn config_of_a_read_only_disk_announces_no_way_to_change_it() {
        let config =
            config(&SHAPE, &Extras::default(), &BlkOptions { read_only: true, ..BlkOptions::default() });
        assert_eq!(config.max_discard_sectors.get(), 0);
        assert_eq!(config.max_write_zeroes_sectors.get(), 0);
        let features = features(&SHAPE, &Extras::default(), true);
        assert!(features.has(F_RO) && !features.has(F_DISCARD) && !features.has(F_WRITE_ZEROES));
    }

    #[test]
    fn features_without_host_discards_offer_zeroes_only() {
        let features = features(&Shape { discard: None, ..SHAPE }, &Extras::default(), false);
        assert!(features.has(F_WRITE_ZEROES) && !features.has(F_DISCARD) && !features.has(F_RO));
    }

    #[test]
    fn config_of_a_disk_that_erases_has_no_limit_of_zero() {
        let extras = Extras { erase: Some(512), lifetime: true, ..Extras::default() };
        let options = BlkOptions { block_size: Some(4096), ..BlkOptions::default() };
        let config = config(&SHAPE, &extras, &options);
        assert_eq!((config.max_secure_erase_sectors.get(), config.max_secure_erase_seg.get()), (1 << 17, 16));
        assert_eq!(config.secure_erase_sector_alignment.get(), 8, "in whole blocks");
        assert!(features(&SHAPE, &extras, false).has(F_SECURE_ERASE | F_LIFETIME));
        assert!(!features(&SHAPE, &extras, true).has(F_SECURE_ERASE), "not on a read-only disk");
        let zoned = Extras { zoned: Some(Zoned::default()), ..extras };
        assert!(!features(&SHAPE, &zoned, false).has(F_SECURE_ERASE), "nor on a zoned one");
    }

    #[test]
    fn config_with_larger_blocks_counts_in_them() {
        let shape = Shape { bytes: (10 << 20) + 4095, ..SHAPE };
        let config = config(
            &shape,
            &Extras::default(),
            &BlkOptions { block_size: Some(4096), ..BlkOptions::default() },
        );
        assert_eq!((config.capacity.get(), config.blk_size.get()), (20480, 4096));
        assert_eq!((config.topology.physical_block_exp, config.topology.min_io_size.get()), (0, 1));
        assert_eq!(config.topology.opt_io_size.get(), 16);
    }

    #[test]
    fn config_of_a_partition_says_where_its_first_aligned_block_is() {
        let config = |aligned_from| {
            let extras = Extras { aligned_from, ..Extras::default() };
            config(&SHAPE, &extras, &BlkOptions::default()).topology.alignment_offset
        };
        assert_eq!((config(0), config(3584), config(1 << 20)), (0, 7, 0), "in blocks, if it fits");
    }

    #[test]
    fn block_smaller_than_the_disks_own_is_refused() {
        let native = Shape { logical_block: 4096, ..SHAPE };
        let error = logical_block(&native, Some(512)).unwrap_err().to_string();
        assert!(error.contains("blocks of 4096"), "{error}");
        assert_eq!(logical_block(&native, None).unwrap(), 4096);
        assert_eq!(logical_block(&native, Some(4096)).unwrap(), 4096);
        assert_eq!(logical_block(&SHAPE, Some(4096)).unwrap(), 4096);
    }

    #[test]
    fn config_for_a_small_ring_leaves_room_for_header_and_status() {
        let config =
            config(&SHAPE, &Extras::default(), &BlkOptions { queue_size: 4, ..BlkOptions::default() });
        assert_eq!(config.seg_max.get(), 2);
    }
}
