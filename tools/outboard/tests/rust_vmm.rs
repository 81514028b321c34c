//! An independent front end: the rust-vmm crates `vhost` (protocol) and `virtio-queue` (the driver's half of a ring)
//! drive our back ends, as a VMM built on them does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::os::fd::AsRawFd;

use rig::Daemon;
use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend, VhostUserProtocolFeatures as Protocol,
        message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight},
    },
};
use virtio_queue::{
    desc::{RawDescriptor, split::Descriptor},
    mock::MockSplitQueue,
};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const MEMORY: usize = 4 << 20;
const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x11_0000;
const STATUS: u64 = 0x12_0000;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const VERSION_1: u64 = 1 << 32;
const PROTOCOL_FEATURES: u64 = 1 << 30;

struct Machine {
    frontend: Frontend,
    memory: GuestMemoryMmap<()>,
    kick: EventFd,
    call: EventFd,
}

fn guest_memory() -> GuestMemoryMmap<()> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(MEMORY as u64).unwrap();
    let range = (GuestAddress(0), MEMORY, Some(FileOffset::new(file, 0)));
    GuestMemoryMmap::from_ranges_with_files([range]).unwrap()
}

fn regions(memory: &GuestMemoryMmap<()>) -> Vec<VhostUserMemoryRegionInfo> {
    memory.iter().map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap()).collect()
}

impl Machine {
    /// Negotiates as Cloud Hypervisor does: owner first, NEED_REPLY on everything once acks are agreed.
    fn connect(daemon: &Daemon, slots: bool) -> Self {
        // The program may still be on its way to its socket.
        let deadline = std::time::Instant::now() + rig::LONG;
        while !daemon.socket().exists() {
            assert!(std::time::Instant::now() < deadline, "nobody listens");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut frontend = Frontend::connect(daemon.socket(), 2).unwrap();
        frontend.set_owner().unwrap();
        let offered = frontend.get_features().unwrap();
        assert_eq!(offered & (VERSION_1 | PROTOCOL_FEATURES), VERSION_1 | PROTOCOL_FEATURES);
        let wanted = Protocol::MQ
            | Protocol::REPLY_ACK
            | Protocol::CONFIG
            | Protocol::INFLIGHT_SHMFD
            | Protocol::CONFIGURE_MEM_SLOTS;
        let protocol = frontend.get_protocol_features().unwrap();
        assert!(protocol.contains(wanted), "{protocol:?}");
        frontend.set_protocol_features(wanted).unwrap();
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        frontend.set_features(VERSION_1 | PROTOCOL_FEATURES).unwrap();
        let memory = guest_memory();
        if slots {
            assert_eq!(frontend.get_max_mem_slots().unwrap(), 509);
            for region in regions(&memory) {
                frontend.add_mem_region(&region).unwrap();
            }
        } else {
            frontend.set_mem_table(&regions(&memory)).unwrap();
        }
        let eventfd = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self { frontend, memory, kick: eventfd(), call: eventfd() }
    }

    /// Where the process has guest address `gpa`, which is what SET_VRING_ADDR takes.
    fn address(&self, gpa: GuestAddress) -> u64 {
        self.memory.get_host_address(gpa).unwrap() as u64
    }

    fn start(&mut self, ring: &MockSplitQueue<'_, GuestMemoryMmap<()>>, size: u16, base: u16) {
        let config = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: self.address(ring.desc_table_addr()),
            used_ring_addr: self.address(ring.used_addr()),
            avail_ring_addr: self.address(ring.avail_addr()),
            log_addr: None,
        };
        self.frontend.set_vring_num(0, size).unwrap();
        self.frontend.set_vring_addr(0, &config).unwrap();
        self.frontend.set_vring_base(0, base).unwrap();
        self.frontend.set_vring_call(0, &self.call).unwrap();
        self.frontend.set_vring_kick(0, &self.kick).unwrap();
        self.frontend.set_vring_enable(0, true).unwrap();
    }

    /// Kicks, and waits until the used index is `index`.
    fn run(&self, ring: &MockSplitQueue<'_, GuestMemoryMmap<()>>, index: u16) {
        self.kick.write(1).unwrap();
        let deadline = std::time::Instant::now() + rig::LONG;
        while ring.used().idx().load() != index {
            assert!(std::time::Instant::now() < deadline, "no answer");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

fn descriptor(gpa: u64, len: u32, flags: u16, next: u16) -> RawDescriptor {
    RawDescriptor::from(Descriptor::new(gpa, len, flags, next))
}

fn add_blk(
    machine: &Machine,
    ring: &MockSplitQueue<'_, GuestMemoryMmap<()>>,
    kind: u32,
    sector: u64,
    at: u16,
) {
    let data_flags = if kind == 1 { NEXT } else { NEXT | WRITE };
    machine.memory.write_obj(kind, GuestAddress(HEADER)).unwrap();
    machine.memory.write_obj(0_u32, GuestAddress(HEADER + 4)).unwrap();
    machine.memory.write_obj(sector, GuestAddress(HEADER + 8)).unwrap();
    machine.memory.write_obj(0xff_u8, GuestAddress(STATUS)).unwrap();
    let chain = [
        descriptor(HEADER, 16, NEXT, at + 1),
        descriptor(DATA, 4096, data_flags, at + 2),
        descriptor(STATUS, 1, WRITE, 0),
    ];
    ring.add_desc_chains(&chain, at).unwrap();
}

#[test]
fn rust_vmm_rng_fills_buffers() {
    let daemon = Daemon::spawn("rng", &[]);
    let mut machine = Machine::connect(&daemon, false);
    let memory = machine.memory.clone();
    let ring = MockSplitQueue::new(&memory, 16);
    machine.start(&ring, 16, 0);
    ring.add_desc_chains(&[descriptor(DATA, 4096, WRITE, 0)], 0).unwrap();
    machine.run(&ring, 1);
    let used = ring.used().ring().ref_at(0).unwrap().load();
    assert_eq!((used.id(), used.len()), (0, 4096));
    let mut bytes = [0; 4096];
    memory.read_slice(&mut bytes, GuestAddress(DATA)).unwrap();
    let distinct = bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert!(distinct > 200, "{distinct} values in 4096 bytes");
    assert_eq!(machine.call.read().unwrap(), 1, "the driver did not suppress calls");
}

#[test]
fn rust_vmm_blk_writes_reads_and_restarts() {
    for slots in [false, true] {
        let daemon = Daemon::spawn("blk", &["--ram=1M", "--serial=rust-vmm"]);
        let mut machine = Machine::connect(&daemon, slots);
        let memory = machine.memory.clone();
        let flags = VhostUserConfigFlags::WRITABLE;
        let (config, bytes) = machine.frontend.get_config(0, 60, flags, &[0; 60]).unwrap();
        assert_eq!(config.size as usize, bytes.len());
        assert_eq!(bytes.get(..8).unwrap(), 2048_u64.to_le_bytes(), "sectors of 1 MiB");
        let inflight = VhostUserInflight { num_queues: 1, queue_size: 16, ..VhostUserInflight::default() };
        let (inflight, file) = machine.frontend.get_inflight_fd(&inflight).unwrap();
        machine.frontend.set_inflight_fd(&inflight, file.as_raw_fd()).unwrap();

        let ring = MockSplitQueue::new(&memory, 16);
        machine.start(&ring, 16, 0);
        let pattern: Vec<u8> = (0..4096_u32).map(|at| (at * 31 % 251) as u8).collect();
        memory.write_slice(&pattern, GuestAddress(DATA)).unwrap();
        add_blk(&machine, &ring, 1, 16, 0);
        machine.run(&ring, 1);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), 0);
        assert_eq!(ring.used().ring().ref_at(0).unwrap().load().len(), 1, "the status byte");

        // Stop, and go on where it stopped, as a VMM does around a pause.
        assert_eq!(machine.frontend.get_vring_base(0).unwrap(), 1);
        machine.start(&ring, 16, 1);
        memory.write_slice(&[0; 4096], GuestAddress(DATA)).unwrap();
        add_blk(&machine, &ring, 0, 16, 3);
        machine.run(&ring, 2);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(STATUS)).unwrap(), 0);
        assert_eq!(ring.used().ring().ref_at(1).unwrap().load().len(), 4097);
        let mut back = vec![0; 4096];
        memory.read_slice(&mut back, GuestAddress(DATA)).unwrap();
        assert_eq!(back, pattern);
        assert_eq!(machine.frontend.get_vring_base(0).unwrap(), 2);
    }
}

#[test]
fn rust_vmm_refused_message_is_an_error_and_the_connection_lives() {
    let daemon = Daemon::spawn("rng", &[]);
    let mut machine = Machine::connect(&daemon, true);
    assert!(machine.frontend.set_vring_num(0, 0).is_err(), "a ring of nothing");
    let missing = VhostUserMemoryRegionInfo { guest_phys_addr: 1 << 40, ..regions(&machine.memory)[0] };
    assert!(machine.frontend.remove_mem_region(&missing).is_err(), "never added");
    assert_eq!(machine.frontend.get_queue_num().unwrap(), 1);
}
