//! Tests of the device's half against the driver's half, every one for both formats.

mod chains;
mod crash;
mod hostile;
mod logging;
mod memory;
mod model;
mod positions;
mod wakeups;

use std::os::fd::OwnedFd;

use outboard_guest_memory::{MemoryMap, Region, memfd};

use crate::driver::{Buffer, DriverConfig, DriverQueue};
use crate::inflight::InflightRegion;
use crate::{Base, Chain, Descriptor, Format, QueueConfig, QueueId, Virtqueue};

/// Runs a test body, a function of the format, for each.
macro_rules! both {
    ($($name:ident)*) => {$(
        mod $name {
            use crate::Format;

            #[test]
            fn split() {
                super::$name(Format::Split);
            }

            #[test]
            fn packed() {
                super::$name(Format::Packed);
            }
        }
    )*};
}
pub(super) use both;

/// Guest memory begins here.
pub(super) const START: u64 = 0x10_0000;
/// Distance of the front end's addresses from the guest's.
const USER: u64 = 0x7f00_0000_0000;
/// Memory for buffers, which begins with a border between regions in its middle.
pub(super) const DATA_LEN: u64 = 0x10_0000;

/// A ring in memory of its own: both halves, and what is needed to start either anew.
pub(super) struct Rig {
    pub(super) setup: Setup,
    fd: OwnedFd,
    data: u64,
    len: u64,
    pub(super) mem: MemoryMap,
    pub(super) driver: DriverQueue,
    pub(super) inflight: Option<InflightRegion>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) format: Format,
    pub(super) size: u16,
    pub(super) event_idx: bool,
    pub(super) in_order: bool,
    pub(super) table_entries: u16,
}

impl Setup {
    pub(super) fn new(format: Format, size: u16) -> Self {
        Self { format, size, event_idx: false, in_order: false, table_entries: 0 }
    }
}

impl Rig {
    pub(super) fn new(setup: Setup) -> Self {
        let Setup { format, size, event_idx, in_order, table_entries } = setup;
        let config = DriverConfig { format, size, event_idx, in_order, table_entries, at: START };
        let ring_len = crate::driver::Layout::new(format, size, table_entries).len.next_multiple_of(0x1_0000);
        let len = ring_len + DATA_LEN;
        let fd = memfd("rig", len).unwrap();
        let data = START + ring_len;
        let mem = map(&fd, data + DATA_LEN / 2, len);
        let driver = DriverQueue::new(&config, &mem).unwrap();
        Self { setup, fd, data, len, mem, driver, inflight: None }
    }

    /// With in-flight records.
    pub(super) fn tracked(setup: Setup) -> Self {
        let inflight = InflightRegion::create(setup.format, 1, setup.size).unwrap().0;
        Self { inflight: Some(inflight), ..Self::new(setup) }
    }

    /// The same memory, mapped again.
    pub(super) fn remap(&self) -> MemoryMap {
        map(&self.fd, self.data + DATA_LEN / 2, self.len)
    }

    pub(super) fn config(&self, base: Base) -> QueueConfig {
        let layout = self.driver.layout();
        QueueConfig {
            id: QueueId(3),
            format: self.setup.format,
            size: self.setup.size.into(),
            mem: self.mem.clone(),
            desc: START + USER + layout.desc,
            avail: START + USER + layout.driver,
            used: START + USER + layout.device,
            log_used: None,
            log_data: false,
            event_idx: self.setup.event_idx,
            indirect: self.setup.table_entries > 0,
            in_order: self.setup.in_order,
            base,
            inflight: self.inflight.as_ref().and_then(|region| region.queue(0).unwrap()),
        }
    }

    pub(super) fn start(&self) -> Virtqueue {
        self.config(self.driver.fresh_base()).activate().unwrap()
    }

    /// A buffer at this offset of the data.
    pub(super) fn buffer(&self, offset: u64, len: u32) -> Buffer {
        Buffer { gpa: self.data + offset, len }
    }

    /// Where the region border is, as an offset of the data.
    pub(super) fn border(&self) -> u64 {
        DATA_LEN / 2
    }

    pub(super) fn write(&self, buffer: Buffer, bytes: &[u8]) {
        self.mem.write_from(buffer.gpa, bytes).unwrap();
    }

    pub(super) fn read(&self, buffer: Buffer) -> Vec<u8> {
        let mut bytes = vec![0; buffer.len as usize];
        self.mem.read_into(buffer.gpa, &mut bytes).unwrap();
        bytes
    }

    /// Adds one request of 8 readable and 8 writable bytes, the token being what is to be read.
    pub(super) fn add_simple(&mut self, token: u64) {
        let at = token % 512 * 64;
        let (readable, writable) = (self.buffer(at, 8), self.buffer(at + 16, 8));
        self.write(readable, &token.to_le_bytes());
        self.driver.add(&[readable], &[writable], token).unwrap();
    }

    /// Makes raw descriptors available, without a token's return being expected.
    pub(super) fn add_raw(&mut self, descriptors: &[Descriptor]) {
        self.driver.add_raw(descriptors, 0).unwrap();
        self.driver.publish();
    }
}

fn map(fd: &OwnedFd, border: u64, len: u64) -> MemoryMap {
    let region = |gpa: u64, end: u64| {
        let region = Region { gpa, size: end - gpa, user_addr: gpa + USER, mmap_offset: gpa - START };
        (region, fd.try_clone().unwrap())
    };
    MemoryMap::from_table(vec![region(START, border), region(border, START + len)]).unwrap()
}

/// Reads the token of a simple request, and answers with its complement.
pub(super) fn serve(chain: &mut Chain) -> u64 {
    let mut bytes = [0; 8];
    chain.read_exact(&mut bytes).unwrap();
    let token = u64::from_le_bytes(bytes);
    chain.write_all(&(!token).to_le_bytes()).unwrap();
    token
}

/// A descriptor, for raw ones.
pub(super) fn raw(buffer: Buffer, flags: u16, link: u16) -> Descriptor {
    Descriptor { addr: buffer.gpa, len: buffer.len, flags, link }
}

/// Numbers without rhyme, the same each time.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Below `sides`, which is not 0.
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % sides
    }
}
