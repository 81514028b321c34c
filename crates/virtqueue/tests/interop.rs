//! Split rings against rust-vmm's virtio-queue: its device under our driver, its driver under our device.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::fs::File;
use std::os::fd::OwnedFd;

use outboard_guest_memory::{MemoryMap, Region, memfd};
use outboard_virtqueue::driver::{Buffer, DriverConfig, DriverQueue, Layout};
use outboard_virtqueue::{Base, Format, QueueConfig, QueueId};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

const LEN: u64 = 0x20_0000;
const DATA: u64 = 0x10_0000;
const USER: u64 = 0x5000_0000;

/// The same memory for both sides.
fn memory() -> (MemoryMap, GuestMemoryMmap) {
    let fd: OwnedFd = memfd("memory", LEN).unwrap();
    let theirs = FileOffset::new(File::from(fd.try_clone().unwrap()), 0);
    let theirs =
        GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), LEN as usize, Some(theirs))]).unwrap();
    let region = Region { gpa: 0, size: LEN, user_addr: USER, mmap_offset: 0 };
    (MemoryMap::from_table(vec![(region, fd)]).unwrap(), theirs)
}

fn buffer(at: u64, len: u32) -> Buffer {
    Buffer { gpa: DATA + at, len }
}

fn their_device(layout: Layout, size: u16, event_idx: bool) -> Queue {
    let mut queue = Queue::new(size).unwrap();
    queue.set_size(size);
    queue.try_set_desc_table_address(GuestAddress(layout.desc)).unwrap();
    queue.try_set_avail_ring_address(GuestAddress(layout.driver)).unwrap();
    queue.try_set_used_ring_address(GuestAddress(layout.device)).unwrap();
    queue.set_event_idx(event_idx);
    queue.set_ready(true);
    queue
}

/// As a careful device of theirs: suppression, one used element per chain, calls where wanted.
fn serve(queue: &mut Queue, mem: &GuestMemoryMmap) -> bool {
    let mut call = false;
    queue.disable_notification(mem).unwrap();
    loop {
        while let Some(chain) = queue.pop_descriptor_chain(mem) {
            let head = chain.head_index();
            let mut len = 0;
            for descriptor in chain.writable() {
                let bytes = vec![0xab; descriptor.len() as usize];
                mem.write_slice(&bytes, descriptor.addr()).unwrap();
                len += descriptor.len();
            }
            queue.add_used(mem, head, len).unwrap();
        }
        call |= queue.needs_notification(mem).unwrap();
        if !queue.enable_notification(mem).unwrap() {
            return call;
        }
    }
}

#[test]
fn our_driver_with_their_device_passes_seventy_thousand_requests() {
    for (event_idx, table_entries) in [(false, 0), (true, 0), (true, 8)] {
        let (ours, theirs) = memory();
        let config = DriverConfig {
            format: Format::Split,
            size: 32,
            event_idx,
            in_order: false,
            table_entries,
            at: 0,
        };
        let mut driver = DriverQueue::new(&config, &ours).unwrap();
        let mut device = their_device(driver.layout(), 32, event_idx);
        let (mut added, mut returned) = (0_u64, 0_u64);
        while returned < 70_000 {
            while driver.free() >= 5 && added < 70_000 + returned % 7 {
                let cuts: Vec<Buffer> =
                    (0..1 + added % 3).map(|cut| buffer(cut * 64, 1 + cut as u32)).collect();
                driver.add(&[buffer(4096, 16)], &cuts, added).unwrap();
                added += 1;
            }
            assert!(driver.arm_calls());
            assert!(driver.publish(), "their device sleeps");
            assert!(serve(&mut device, &theirs), "our driver sleeps");
            while let Some((token, len)) = driver.poll_used().unwrap() {
                assert_eq!(token, returned);
                let cuts = 1 + token as u32 % 3;
                assert_eq!(len, cuts * (cuts + 1) / 2);
                returned += 1;
            }
        }
    }
}

#[test]
fn their_driver_with_our_device_gets_every_chain_back() {
    let (ours, theirs) = memory();
    let mock = MockSplitQueue::new(&theirs, 16);
    let descriptor =
        |at: u64, len, flags, next| RawDescriptor::from(Descriptor::new(DATA + at, len, flags, next));
    mock.add_desc_chains(
        &[
            descriptor(0, 4, 1, 1),
            descriptor(64, 6, 2, 0),
            descriptor(128, 8, 0, 0),
            descriptor(192, 3, 2, 0),
        ],
        0,
    )
    .unwrap();
    theirs.write_slice(b"ping", GuestAddress(DATA)).unwrap();
    let config = QueueConfig {
        id: QueueId(0),
        format: Format::Split,
        size: 16,
        mem: ours,
        desc: USER + mock.desc_table_addr().0,
        avail: USER + mock.avail_addr().0,
        used: USER + mock.used_addr().0,
        log_used: None,
        log_data: false,
        event_idx: false,
        indirect: false,
        in_order: false,
        base: Base::split(0),
        inflight: None,
    };
    let mut queue = config.activate().unwrap();
    let mut heads = Vec::new();
    while let Some(mut chain) = queue.pop().unwrap() {
        heads.push((chain.head(), chain.writable_len() as u32));
        let mut bytes = [0; 4];
        if chain.read_exact(&mut bytes).is_ok() && chain.writable_len() == 6 {
            assert_eq!(&bytes, b"ping");
        }
        let room = chain.writable_len();
        chain.write_all(&b"answer"[..room]).unwrap();
        queue.complete(chain);
    }
    assert_eq!(heads, [(0, 6), (2, 0), (3, 3)]);
    queue.publish();
    assert!(queue.call_needed());
    assert_eq!(mock.used().idx().load(), 3);
    for (index, (head, len)) in heads.into_iter().enumerate() {
        let element = mock.used().ring().ref_at(index).unwrap().load();
        assert_eq!((element.id(), element.len()), (u32::from(head), len));
    }
    let mut bytes = [0; 6];
    theirs.read_slice(&mut bytes, GuestAddress(DATA + 64)).unwrap();
    assert_eq!(&bytes, b"answer");
}
