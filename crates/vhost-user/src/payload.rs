//! The fixed layouts of payloads (vhost-user: Payload). Native byte order, no implicit padding.
//!
//! Every field is the peer's word: ranges and indexes are checked where they are used.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Adds the derives that every layout needs.
macro_rules! layouts {
    ($($(#[$meta:meta])* struct $name:ident $fields:tt)*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
            #[repr(C)]
            pub struct $name $fields
        )*
    };
}

layouts! {
    /// A ring and a number (vhost-user: A vring state description).
    #[derive(Default)]
    struct VringState {
        /// The ring.
        pub index: u32,
        /// What it means, the message says.
        pub num: u32,
    }

    /// Where a ring lies (vhost-user: A vring address description). The spec's order: descriptors, used, available.
    ///
    /// The three addresses are the front end's virtual ones; IOVAs with `VIRTIO_F_ACCESS_PLATFORM`; guest-physical
    /// with `GPA_ADDRESSES`. Packed rings put the descriptor ring into `descriptor`, the driver's event area into
    /// `available` and the device's into `used`.
    #[derive(Default)]
    struct VringAddr {
        /// The ring.
        pub index: u32,
        /// See [`VringAddr::LOG`].
        pub flags: u32,
        /// The descriptor table, or the packed descriptor ring.
        pub descriptor: u64,
        /// The used ring, or the packed device event area.
        pub used: u64,
        /// The available ring, or the packed driver event area.
        pub available: u64,
        /// The used ring's guest-physical address, for the dirty log.
        pub log: u64,
    }

    /// A piece of guest memory (vhost-user: Memory region description).
    #[derive(Default)]
    struct MemRegion {
        /// Guest-physical address, in bytes.
        pub guest_addr: u64,
        /// Length, in bytes.
        pub size: u64,
        /// The front end's virtual address, in bytes.
        pub user_addr: u64,
        /// Where the region starts within its file, in bytes.
        pub mmap_offset: u64,
    }

    /// What precedes the regions of SET_MEM_TABLE (vhost-user: Multiple memory regions description).
    struct MemTableHeader {
        /// How many regions follow.
        pub count: u32,
        /// Nothing.
        pub padding: u32,
    }

    /// The payload of ADD_MEM_REG and REM_MEM_REG (vhost-user: Single memory region description).
    struct SingleMemRegion {
        /// Nothing.
        pub padding: u64,
        /// The region.
        pub region: MemRegion,
    }

    /// Which part of a file is the dirty log (vhost-user: Log description).
    #[derive(Default)]
    struct Log {
        /// Length, in bytes.
        pub size: u64,
        /// Where the log starts within its file, in bytes.
        pub offset: u64,
    }

    /// An IOTLB message (vhost-user: An IOTLB message). The wire has 32 bytes.
    #[derive(Default)]
    struct Iotlb {
        /// The I/O virtual address, in bytes.
        pub iova: u64,
        /// Length, in bytes.
        pub size: u64,
        /// The front end's virtual address, in bytes.
        pub user_addr: u64,
        /// 0 none, 1 read, 2 write, 3 both.
        pub permission: u8,
        /// See the constants.
        pub kind: u8,
        /// Nothing.
        pub padding: [u8; 6],
    }

    /// What precedes configuration bytes (vhost-user: Virtio device config space).
    struct ConfigHeader {
        /// Where in configuration space, in bytes.
        pub offset: u32,
        /// How many bytes.
        pub size: u32,
        /// 0: the guest writes; 1: migration restores. Some front ends always set 1, so it never overrides a check.
        pub flags: u32,
    }

    /// The doorbell area of a ring (vhost-user: Vring area description).
    #[derive(Default)]
    struct VringArea {
        /// Ring and flag, as in [`crate::message::vring_fd`].
        pub index: u64,
        /// Length, in bytes.
        pub size: u64,
        /// Where the area starts within its file, in bytes.
        pub offset: u64,
    }

    /// The buffer that records requests in flight (vhost-user: Inflight description).
    ///
    /// The fields sum up to 20 bytes, C compilers send 24; both are read, 24 are written.
    #[derive(Default)]
    struct Inflight {
        /// Length of the buffer, in bytes; 0 when there is none.
        pub mmap_size: u64,
        /// Where the buffer starts within its file, in bytes.
        pub mmap_offset: u64,
        /// For how many rings.
        pub num_queues: u16,
        /// The longest of these rings.
        pub queue_size: u16,
        /// Nothing.
        pub padding: [u8; 4],
    }

    /// How the device's state is to travel (vhost-user: Device state transfer parameters).
    #[derive(Default)]
    struct TransferState {
        /// 0: save, from the back end; 1: load, into the back end.
        pub direction: u32,
        /// 0: all rings are stopped.
        pub phase: u32,
    }

    /// A mapping within a shared memory region (vhost-user: VIRTIO shared memory mapping).
    #[derive(Default)]
    struct ShmemMapping {
        /// The shared memory region.
        pub shmid: u8,
        /// Nothing.
        pub padding: [u8; 7],
        /// Where the mapping starts within its file, in bytes.
        pub fd_offset: u64,
        /// Where the mapping starts within the shared memory region, in bytes.
        pub shm_offset: u64,
        /// Length, in bytes.
        pub len: u64,
        /// Bit 0: writable.
        pub flags: u64,
    }

    /// The device's shared memory regions (vhost-user: VIRTIO shared memory configuration).
    struct ShmemConfig {
        /// How many sizes are not zero.
        pub count: u32,
        /// Nothing.
        pub padding: u32,
        /// The size of each region by its id, in bytes; 0 where there is none.
        pub sizes: [u64; 256],
    }
}

impl VringAddr {
    /// Flag bit 0: writes to the used ring go into the dirty log.
    pub const LOG: u32 = 1;
}

impl Iotlb {
    /// `kind`: the back end has no translation.
    pub const MISS: u8 = 1;
    /// `kind`: here is a translation.
    pub const UPDATE: u8 = 2;
    /// `kind`: forget a range.
    pub const INVALIDATE: u8 = 3;
    /// `kind`: an access was not permitted.
    pub const ACCESS_FAIL: u8 = 4;
}

impl ConfigHeader {
    /// The length of the header, in bytes.
    pub const LEN: usize = size_of::<Self>();
}

impl Inflight {
    /// The description without the trailing padding, as packed structs send it.
    pub const SHORT_LEN: usize = 20;

    /// A description; sizes and offsets in bytes.
    pub fn new(mmap_size: u64, mmap_offset: u64, num_queues: u16, queue_size: u16) -> Self {
        Self { mmap_size, mmap_offset, num_queues, queue_size, padding: [0; 4] }
    }
}

impl ShmemMapping {
    /// Flag bit 0: the driver may write.
    pub const WRITABLE: u64 = 1;
}

impl ShmemConfig {
    /// The configuration for regions given as (id, size in bytes); a later entry replaces an earlier one.
    pub fn new(regions: impl IntoIterator<Item = (u8, u64)>) -> Self {
        let mut sizes = [0; 256];
        for (id, size) in regions {
            if let Some(slot) = sizes.get_mut(usize::from(id)) {
                *slot = size;
            }
        }
        let count = sizes.iter().fold(0, |count, &size| count + u32::from(size != 0));
        Self { count, padding: 0, sizes }
    }
}

/// Values of a device-state answer (vhost-user: SET_DEVICE_STATE_FD).
pub mod device_state {
    /// Bit 8: no descriptor comes back, the front end's own is used.
    pub const NO_FD: u64 = 0x100;
    /// The answer that refuses a transfer.
    pub const REFUSED: u64 = 0x101;
    /// Bits 0 to 7: the error.
    pub const ERROR_MASK: u64 = 0xff;
    /// `direction`: from the back end to the front end.
    pub const SAVE: u32 = 0;
    /// `direction`: from the front end to the back end.
    pub const LOAD: u32 = 1;
    /// `phase`: all rings are stopped.
    pub const STOPPED: u32 = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_the_sizes_of_the_wire() {
        assert_eq!(size_of::<VringState>(), 8);
        assert_eq!(size_of::<VringAddr>(), 40);
        assert_eq!(size_of::<MemRegion>(), 32);
        assert_eq!(size_of::<MemTableHeader>(), 8);
        assert_eq!(size_of::<SingleMemRegion>(), 40);
        assert_eq!(size_of::<Log>(), 16);
        assert_eq!(size_of::<Iotlb>(), 32);
        assert_eq!(size_of::<ConfigHeader>(), 12);
        assert_eq!(size_of::<VringArea>(), 24);
        assert_eq!(size_of::<Inflight>(), 24);
        assert_eq!(size_of::<TransferState>(), 8);
        assert_eq!(size_of::<ShmemMapping>(), 40);
        assert_eq!(size_of::<ShmemConfig>(), 2056);
    }

    #[test]
    fn vring_addr_puts_used_before_available() {
        let addr = VringAddr { index: 1, flags: 1, descriptor: 2, used: 3, available: 4, log: 5 };
        let bytes = addr.as_bytes();
        assert_eq!(bytes[16], u8::from(cfg!(target_endian = "little")) * 3);
        assert_eq!(u64::read_from_bytes(&bytes[16..24]), Ok(3));
        assert_eq!(u64::read_from_bytes(&bytes[24..32]), Ok(4));
    }

    #[test]
    fn shmem_config_counts_regions_that_are_not_empty() {
        let config = ShmemConfig::new([(0, 4096), (255, 8192), (7, 0)]);
        assert_eq!(config.count, 2);
        assert_eq!(config.sizes[255], 8192);
    }
}
