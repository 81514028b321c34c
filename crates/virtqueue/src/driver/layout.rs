//! Where the parts of a ring go in a piece of memory that the driver sets aside for it. Nobody's figures but ours.

use crate::packed::EVENT_AREA;
use crate::ring::{Descriptor, Format};
use crate::split::{AT_RING, USED_ENTRY};

/// Apart from each other, the parts that different sides write.
const CACHE_LINE: u64 = 64;

/// Offsets of a ring's parts, in bytes, from a start that is aligned to 16 at least.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Descriptor table, or descriptor ring.
    pub desc: u64,
    /// What the driver writes: available ring, or driver event area.
    pub driver: u64,
    /// What the device writes: used ring, or device event area.
    pub device: u64,
    /// Indirect tables, one per entry of the ring.
    pub tables: u64,
    /// The whole.
    pub len: u64,
}

impl Layout {
    /// For a ring of `size` entries, with indirect tables of `table_entries` (0 for none).
    pub fn new(format: Format, size: u16, table_entries: u16) -> Self {
        Self::aligned(format, size, table_entries, CACHE_LINE, CACHE_LINE)
    }

    /// As [`new`](Self::new), with no part aligned better, or further from its neighbour, than it has to be
    /// (VIRTIO 1.3, 2.7 and 2.8): what drivers may do, and back ends have to take.
    pub fn tight(format: Format, size: u16, table_entries: u16) -> Self {
        let driver = if format == Format::Split { 2 } else { 4 };
        Self::aligned(format, size, table_entries, driver, 4)
    }

    fn aligned(format: Format, size: u16, table_entries: u16, for_driver: u64, for_device: u64) -> Self {
        let n = u64::from(size);
        let descriptor = Descriptor::SIZE as u64;
        let (driver_len, device_len) = match format {
            Format::Split => (AT_RING as u64 + 2 * n + 2, AT_RING as u64 + USED_ENTRY as u64 * n + 2),
            Format::Packed => (EVENT_AREA, EVENT_AREA),
        };
        let driver = (descriptor * n).next_multiple_of(for_driver);
        let device = (driver + driver_len).next_multiple_of(for_device);
        let tables = (device + device_len).next_multiple_of(for_device.max(descriptor));
        let len = (tables + n * u64::from(table_entries) * descriptor).next_multiple_of(CACHE_LINE);
        Self { desc: 0, driver, device, tables, len }
    }
}
