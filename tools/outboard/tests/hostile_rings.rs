//! Malformed requests: each stops its ring, which says so on its error descriptor; the other ring, the connection
//! and the process go on, and the ring itself can be started anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::sync::atomic::{AtomicBool, Ordering};

use outboard_frontend::drivers::{Blk, BlkQueue};
use outboard_frontend::{Error, Format, Frontend, Queue, Waiting};
use outboard_guest_memory::Segment;
use outboard_virtqueue::Descriptor;
use rig::{Daemon, FORMATS, LONG};
use zerocopy::IntoBytes;

const SIZE: u16 = 64;
const NEXT: u16 = Descriptor::NEXT;
const WRITE: u16 = Descriptor::WRITE;
const INDIRECT: u16 = Descriptor::INDIRECT;

/// A descriptor of an indirect table, as it stands in memory.
fn entry(format: Format, descriptor: Descriptor) -> Vec<u8> {
    let Descriptor { addr, len, flags, link } = descriptor;
    let rest = if format == Format::Split { [flags, link] } else { [link, flags] };
    [addr.to_le_bytes().as_slice(), &len.to_le_bytes(), rest.as_bytes()].concat()
}

/// What a hostile driver does to a ring; `at` is memory that it may use.
type Attack = fn(&mut Queue, Format, &Segment);

fn raw(queue: &mut Queue, descriptors: &[Descriptor]) {
    queue.add_raw(descriptors, 0).unwrap();
    queue.publish().unwrap();
}

/// A good descriptor, made available under another number.
fn head(queue: &mut Queue, at: &Segment, head: u16) {
    queue.add_raw(&[descriptor(at.gpa(), 16, 0, 0)], 0).unwrap();
    (0..SIZE).for_each(|slot| queue.ring().write_avail(slot, head));
    queue.publish().unwrap();
}

fn descriptor(addr: u64, len: u32, flags: u16, link: u16) -> Descriptor {
    Descriptor { addr, len, flags, link }
}

/// An indirect table with this content, of `len` bytes as the descriptor says.
fn table(queue: &mut Queue, at: &Segment, len: u32, flags: u16, content: &[u8]) {
    at.write_from(0, content).unwrap();
    raw(queue, &[descriptor(at.gpa(), len, INDIRECT | flags, 1)]);
}

/// Attacks on any ring.
const ATTACKS: &[(&str, Attack)] = &[
    ("unmapped buffer", |queue, _, _| raw(queue, &[descriptor(1 << 60, 16, 0, 0)])),
    ("buffer that ends behind memory", |queue, _, at| raw(queue, &[descriptor(at.gpa(), 1 << 31, WRITE, 0)])),
    ("address that overflows", |queue, _, _| raw(queue, &[descriptor(u64::MAX - 7, 16, 0, 0)])),
    ("length of 4 GiB", |queue, _, at| raw(queue, &[descriptor(at.gpa(), u32::MAX, WRITE, 0)])),
    ("writable before readable", |queue, _, at| {
        raw(queue, &[descriptor(at.gpa(), 16, WRITE | NEXT, 1), descriptor(at.gpa(), 16, 0, 0)]);
    }),
    ("empty indirect table", |queue, _, at| table(queue, at, 0, 0, &[])),
    ("indirect table of 17 bytes", |queue, _, at| table(queue, at, 17, 0, &[])),
    ("indirect table outside of memory", |queue, _, _| {
        raw(queue, &[descriptor(1 << 60, 32, INDIRECT, 0)]);
    }),
    ("indirect table in an indirect table", |queue, format, at| {
        let inner = entry(format, descriptor(at.gpa() + 64, 16, INDIRECT, 0));
        table(queue, at, 16, 0, &inner);
    }),
    ("unmapped buffer in an indirect table", |queue, format, at| {
        let inner = entry(format, descriptor(1 << 60, 16, 0, 0));
        table(queue, at, 16, 0, &inner);
    }),
];

/// Attacks that only split rings know.
const SPLIT_ATTACKS: &[(&str, Attack)] = &[
    ("descriptor that links to itself", |queue, _, at| raw(queue, &[descriptor(at.gpa(), 16, NEXT, 0)])),
    ("two descriptors in a circle", |queue, _, at| {
        raw(queue, &[descriptor(at.gpa(), 16, NEXT, 1), descriptor(at.gpa(), 16, NEXT, 0)]);
    }),
    ("link behind the table", |queue, _, at| raw(queue, &[descriptor(at.gpa(), 16, NEXT, SIZE)])),
    ("indirect table with a successor", |queue, format, at| {
        let inner = entry(format, descriptor(at.gpa() + 64, 16, 0, 0));
        at.write_from(0, &inner).unwrap();
        let last = descriptor(at.gpa() + 64, 16, WRITE, 0);
        raw(queue, &[descriptor(at.gpa(), 16, INDIRECT | NEXT, 1), last]);
    }),
    ("circle in an indirect table", |queue, format, at| {
        let inner = entry(format, descriptor(at.gpa() + 64, 16, NEXT, 0));
        table(queue, at, 16, 0, &inner);
    }),
    ("link behind an indirect table", |queue, format, at| {
        let inner = entry(format, descriptor(at.gpa() + 64, 16, NEXT, 9));
        table(queue, at, 16, 0, &inner);
    }),
    ("head behind the table", |queue, _, at| head(queue, at, SIZE)),
    ("head of 65535", |queue, _, at| head(queue, at, u16::MAX)),
    ("available index a ring and more ahead", |queue, _, _| queue.ring().write_avail_index(SIZE + 1)),
    ("available index far behind", |queue, _, _| queue.ring().write_avail_index(40_000)),
];

/// Attacks that only packed rings know.
const PACKED_ATTACKS: &[(&str, Attack)] = &[
    ("chain without an end", |queue, _, at| {
        let endless = vec![descriptor(at.gpa(), 16, NEXT, 0); SIZE.into()];
        raw(queue, &endless);
    }),
    // In a split ring it ends with its first entry that has no successor.
    ("indirect table of nearly 4 GiB", |queue, _, at| table(queue, at, 0xffff_fff0, 0, &[])),
];

fn attacks(format: Format) -> impl Iterator<Item = (&'static str, Attack)> {
    let own = if format == Format::Split { SPLIT_ATTACKS } else { PACKED_ATTACKS };
    ATTACKS.iter().chain(own).copied()
}

fn write_and_read(queue: &mut BlkQueue, buffer: &Segment, value: u8) {
    buffer.fill(value);
    let data = std::slice::from_ref(buffer);
    for write in [true, false] {
        if write { queue.write(0, data, 1) } else { queue.read(0, data, 1) }.unwrap();
        queue.publish().unwrap();
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap(), "the good ring stands still");
        assert_eq!(queue.poll().unwrap().unwrap().result, Ok(()));
        if write {
            buffer.fill(0);
        }
    }
    let mut back = [0; 512];
    buffer.read_into(0, &mut back).unwrap();
    assert_eq!(back, [value; 512]);
}

/// A ring is attacked, says so, is stopped, and started anew.
fn attack(frontend: &mut Frontend, format: Format, name: &str, attack: Attack, at: &Segment) {
    let mut queue = frontend.start(1, SIZE).unwrap();
    attack(&mut queue, format, at);
    queue.kick().unwrap();
    match queue.wait(Waiting::Interrupt, LONG) {
        Err(Error::RingFault(1)) => {}
        other => panic!("{format:?}, {name}: {other:?}"),
    }
    // It serves nothing any more.
    assert!(queue.poll().unwrap().is_none(), "{name}");
    frontend.stop(&mut queue).unwrap();
    frontend.release(queue);
}

#[test]
fn malformed_request_stops_its_ring_alone() {
    let mut daemon = Daemon::spawn("blk", &["--ram=1M"]);
    for format in FORMATS {
        let mut blk: Blk = daemon.blk(format, 1, 16);
        let buffer = blk.frontend().allocate(512).unwrap();
        let at = blk.frontend().allocate(4096).unwrap();
        for (nth, (name, ring_attack)) in attacks(format).enumerate() {
            let (frontend, queues) = blk.parts();
            attack(frontend, format, name, ring_attack, &at);
            write_and_read(&mut queues[0], &buffer, nth as u8 + 1);
        }
        // The ring that was attacked works again.
        let mut queue = blk.frontend().start(1, SIZE).unwrap();
        queue.add::<(u64, u32), _>(&[], &[&at.slice(0, 1).unwrap()], 5).unwrap();
        queue.publish().unwrap();
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
    }
    assert!(daemon.is_alive());
}

/// Stops the other thread also when this one fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn malformed_request_while_another_ring_is_busy_delays_nothing() {
    let mut daemon = Daemon::spawn("blk", &["--ram=1M"]);
    for format in FORMATS {
        let mut blk = daemon.blk(format, 1, 64);
        let buffer = blk.frontend().allocate(512).unwrap();
        let at = blk.frontend().allocate(4096).unwrap();
        let (frontend, queues) = blk.parts();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for value in (0..=u8::MAX).cycle() {
                    write_and_read(&mut queues[0], &buffer, value);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let _stop = StopOnDrop(&stop);
            for (name, ring_attack) in attacks(format) {
                attack(frontend, format, name, ring_attack, &at);
            }
        });
    }
    assert!(daemon.is_alive());
}
