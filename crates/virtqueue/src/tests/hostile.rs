//! Rings and chains that no honest driver makes: each stops its own ring, with a word on why, and no more.

use proptest::prelude::*;

use super::{Dice, Rig, START, Setup, both, raw, serve};
use crate::driver::Buffer;
use crate::{Base, Descriptor, Format, RingError};

const NEXT: u16 = Descriptor::NEXT;
const WRITE: u16 = Descriptor::WRITE;
const INDIRECT: u16 = Descriptor::INDIRECT;

both! { fault_latches_and_completions_still_publish unmapped_buffer_is_a_fault buffer_at_the_end_of_addresses_is_a_fault
four_gibibytes_in_a_chain_are_a_fault readable_behind_writable_is_a_fault loop_is_a_fault
indirect_without_negotiation_is_a_fault indirect_with_next_is_a_fault indirect_length_must_be_whole_entries
nested_indirect_is_a_fault unmapped_table_is_a_fault table_larger_than_the_ring_is_served
table_of_any_alignment_is_served table_across_regions_is_served buffer_across_regions_is_served
chain_that_ends_in_a_table_is_served zero_length_buffers_are_tolerated sizes_are_checked
misaligned_and_unmapped_rings_are_refused random_rings_never_panic chains_of_another_ring_are_abandoned }

/// Offers one raw chain to a ring of 8, and gives back what is wrong with it.
fn fault_of(setup: Setup, descriptors: impl FnOnce(&Rig) -> Vec<Descriptor>) -> RingError {
    let mut rig = Rig::new(setup);
    let descriptors = descriptors(&rig);
    rig.add_raw(&descriptors);
    let mut queue = rig.start();
    let error = queue.pop().expect_err("a fault");
    assert_eq!(queue.fault(), Some(&error));
    assert!(queue.pop().unwrap().is_none(), "a faulty ring pops nothing");
    assert!(queue.arm_kicks(), "and lets its worker sleep");
    error
}

/// Offers one raw chain, and gives back how many bytes it has to read and to write.
fn lengths_of(setup: Setup, descriptors: impl FnOnce(&Rig) -> Vec<Descriptor>) -> (usize, usize) {
    let mut rig = Rig::new(setup);
    let descriptors = descriptors(&rig);
    rig.add_raw(&descriptors);
    let mut queue = rig.start();
    let chain = queue.pop().unwrap().expect("a chain");
    let lengths = (chain.readable_len(), chain.writable_len());
    queue.complete(chain);
    queue.publish();
    assert!(rig.driver.poll_used().unwrap().is_some());
    lengths
}

fn with_tables(format: Format) -> Setup {
    Setup { table_entries: 4, ..Setup::new(format, 8) }
}

/// Writes a table at an offset of the data, and gives the descriptor for it.
fn table(rig: &Rig, offset: u64, entries: &[Descriptor]) -> Descriptor {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend(entry.addr.to_le_bytes());
        let rest = match rig.setup.format {
            Format::Split => entry.split_rest(),
            Format::Packed => entry.packed_rest(),
        };
        bytes.extend(rest.to_le_bytes());
    }
    let buffer = rig.buffer(offset, bytes.len() as u32);
    rig.write(buffer, &bytes);
    raw(buffer, INDIRECT, 0)
}

fn fault_latches_and_completions_still_publish(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    rig.add_simple(1);
    rig.add_raw(&[raw(Buffer { gpa: 8, len: 8 }, 0, 0)]);
    let mut queue = rig.start();
    let mut chain = queue.pop().unwrap().unwrap();
    let error = queue.pop().unwrap_err();
    assert!(error.to_string().contains("0x8 of 0x8 bytes"), "{error}");
    serve(&mut chain);
    queue.complete(chain);
    assert!(queue.publish());
    assert!(queue.call_needed());
    assert_eq!(rig.driver.poll_used().unwrap(), Some((1, 8)));
}

fn unmapped_buffer_is_a_fault(format: Format) {
    let error = fault_of(Setup::new(format, 8), |_| vec![raw(Buffer { gpa: START - 1, len: 2 }, 0, 0)]);
    assert!(matches!(error, RingError::BufferUnmapped { len: 2, .. }), "{error}");
}

fn buffer_at_the_end_of_addresses_is_a_fault(format: Format) {
    let error = fault_of(Setup::new(format, 8), |_| vec![raw(Buffer { gpa: u64::MAX, len: 2 }, WRITE, 0)]);
    assert!(matches!(error, RingError::BufferUnmapped { addr: u64::MAX, .. }), "{error}");
}

fn four_gibibytes_in_a_chain_are_a_fault(format: Format) {
    let error = fault_of(Setup::new(format, 8), |rig| {
        vec![raw(rig.buffer(0, 1), NEXT, 1), raw(rig.buffer(0, u32::MAX), WRITE, 0)]
    });
    assert_eq!(error, RingError::TooLong { bytes: 1 << 32 });
}

fn readable_behind_writable_is_a_fault(format: Format) {
    let error = fault_of(Setup::new(format, 8), |rig| {
        vec![raw(rig.buffer(0, 1), NEXT | WRITE, 1), raw(rig.buffer(8, 1), 0, 0)]
    });
    assert!(matches!(error, RingError::Order { .. }), "{error}");
}

fn loop_is_a_fault(format: Format) {
    let error = fault_of(Setup::new(format, 8), |rig| vec![raw(rig.buffer(0, 1), NEXT, 0); 8]);
    match format {
        Format::Split => assert_eq!(error, RingError::Loop { limit: 8 }),
        Format::Packed => assert_eq!(error, RingError::Overrun { size: 8 }),
    }
}

fn indirect_without_negotiation_is_a_fault(format: Format) {
    let setup = Setup::new(format, 8);
    let error = fault_of(setup, |rig| vec![table(rig, 0, &[raw(rig.buffer(64, 1), 0, 0)])]);
    assert_eq!(error, RingError::IndirectNotNegotiated);
}

fn indirect_with_next_is_a_fault(format: Format) {
    let error = fault_of(with_tables(format), |rig| {
        let mut first = table(rig, 0, &[raw(rig.buffer(64, 1), 0, 0)]);
        first.flags |= NEXT;
        vec![first, raw(rig.buffer(64, 1), 0, 0)]
    });
    assert_eq!(error, RingError::IndirectNext);
}

fn indirect_length_must_be_whole_entries(format: Format) {
    for len in [0, 8, 17] {
        let error = fault_of(with_tables(format), |rig| vec![raw(rig.buffer(0, len), INDIRECT, 0)]);
        assert_eq!(error, RingError::IndirectLength { len });
    }
}

fn nested_indirect_is_a_fault(format: Format) {
    let error = fault_of(with_tables(format), |rig| {
        let inner = table(rig, 0, &[raw(rig.buffer(64, 1), 0, 0)]);
        vec![table(rig, 128, &[inner])]
    });
    assert_eq!(error, RingError::IndirectNested);
}

fn unmapped_table_is_a_fault(format: Format) {
    for addr in [8, u64::MAX - 15, u64::MAX - 7] {
        let error = fault_of(with_tables(format), |_| vec![raw(Buffer { gpa: addr, len: 32 }, INDIRECT, 0)]);
        assert!(matches!(error, RingError::IndirectUnmapped { .. }), "{error}");
    }
}

fn chained(rig: &Rig, count: u16) -> Vec<Descriptor> {
    let entry = |index| {
        let next = if index + 1 < count { NEXT } else { 0 };
        raw(rig.buffer(0x8000 + 16 * u64::from(index), 3), next | WRITE, index + 1)
    };
    (0..count).map(entry).collect()
}

fn table_larger_than_the_ring_is_served(format: Format) {
    let lengths = lengths_of(with_tables(format), |rig| vec![table(rig, 0, &chained(rig, 1500))]);
    assert_eq!(lengths, (0, 4500));
}

fn table_of_any_alignment_is_served(format: Format) {
    for offset in 1..16 {
        let lengths = lengths_of(with_tables(format), |rig| vec![table(rig, offset, &chained(rig, 3))]);
        assert_eq!(lengths, (0, 9));
    }
}

fn table_across_regions_is_served(format: Format) {
    for before in [1, 8, 16, 20] {
        let lengths =
            lengths_of(with_tables(format), |rig| vec![table(rig, rig.border() - before, &chained(rig, 3))]);
        assert_eq!(lengths, (0, 9));
    }
}

fn buffer_across_regions_is_served(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    let buffer = rig.buffer(rig.border() - 3, 8);
    rig.write(buffer, b"straddle");
    rig.add_raw(&[raw(buffer, 0, 0)]);
    let mut queue = rig.start();
    let mut chain = queue.pop().unwrap().unwrap();
    assert_eq!(chain.readable().len(), 2);
    let mut bytes = [0; 8];
    chain.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"straddle");
    queue.complete(chain);
}

fn chain_that_ends_in_a_table_is_served(format: Format) {
    let lengths = lengths_of(with_tables(format), |rig| {
        vec![raw(rig.buffer(0, 5), NEXT, 1), table(rig, 64, &chained(rig, 2))]
    });
    assert_eq!(lengths, (5, 6));
}

fn zero_length_buffers_are_tolerated(format: Format) {
    let lengths = lengths_of(Setup::new(format, 8), |rig| {
        vec![
            raw(Buffer { gpa: 0, len: 0 }, NEXT, 1),
            raw(rig.buffer(0, 5), NEXT, 2),
            raw(rig.buffer(8, 2), NEXT | WRITE, 3),
            raw(Buffer { gpa: u64::MAX, len: 0 }, WRITE, 0),
        ]
    });
    assert_eq!(lengths, (5, 2));
}

fn sizes_are_checked(format: Format) {
    let rig = Rig::new(Setup::new(format, 8));
    for size in [0, 3, 32769, 65536, u32::MAX] {
        let mut config = rig.config(rig.driver.fresh_base());
        config.size = size;
        let started = config.activate();
        if format == Format::Packed && size == 3 {
            assert!(started.is_ok());
        } else {
            assert_eq!(started.unwrap_err(), RingError::Size { size });
        }
    }
    if format == Format::Packed {
        let error = rig.config(Base::packed(8, true, 0, true)).activate().unwrap_err();
        assert_eq!(error, RingError::Base { index: 8, size: 8 });
    }
}

fn misaligned_and_unmapped_rings_are_refused(format: Format) {
    let rig = Rig::new(Setup::new(format, 8));
    for part in 0..3 {
        for (offset, mapped) in [(1, true), (1 << 40, false), (u64::MAX / 2, false)] {
            let mut config = rig.config(rig.driver.fresh_base());
            let addr = [&mut config.desc, &mut config.avail, &mut config.used].into_iter().nth(part).unwrap();
            *addr += offset;
            match config.activate().unwrap_err() {
                RingError::RingMisaligned { .. } => assert!(mapped),
                RingError::RingUnmapped { .. } => assert!(!mapped),
                error => panic!("{error}"),
            }
        }
    }
}

fn random_rings_never_panic(format: Format) {
    let mut dice = Dice::new(11);
    for round in 0..2000 {
        let mut rig = Rig::tracked(Setup { event_idx: round % 2 == 0, ..with_tables(format) });
        let mut queue = rig.start();
        let mut held = Vec::new();
        for _ in 0..40 {
            let addr =
                [rig.buffer(dice.roll(64) as u64, 0).gpa, 0, u64::MAX - 20][dice.roll(8).saturating_sub(5)];
            let len = [16, 48, 4, 0, u32::MAX][dice.roll(5)];
            let mut flags = [0, NEXT, WRITE, INDIRECT, NEXT | WRITE][dice.roll(5)];
            flags |= [0, Descriptor::AVAIL, Descriptor::USED][dice.roll(3)];
            let descriptor = Descriptor { addr, len, flags, link: dice.roll(9) as u16 };
            rig.driver.write_descriptor(dice.roll(8) as u16, descriptor);
            rig.driver.write_avail(dice.roll(8) as u16, dice.roll(9) as u16);
            rig.driver.write_avail_index(dice.roll(12) as u16);
            if let Ok(Some(chain)) = queue.pop() {
                held.push(chain);
            }
            if dice.roll(2) == 0 && !held.is_empty() {
                queue.complete(held.swap_remove(dice.roll(held.len())));
            }
            if dice.roll(4) == 0 {
                queue.publish();
                queue.call_needed();
                queue.arm_kicks();
            }
            let _ = rig.driver.poll_used();
        }
        held.into_iter().for_each(|chain| queue.complete(chain));
        queue.stop();
    }
}

fn chains_of_another_ring_are_abandoned(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 8));
    rig.add_simple(0);
    rig.driver.publish();
    let mut queue = rig.start();
    let (first, second) = (queue.pop().unwrap().unwrap(), rig.start().pop().unwrap().unwrap());
    let base = queue.stop();
    let mut queue = rig.config(base).activate().unwrap();
    let before = crate::abandoned_chains();
    queue.complete(first);
    queue.put_back(second);
    assert!(crate::abandoned_chains() >= before + 2);
    assert!(!queue.publish());
    assert!(queue.pop().unwrap().is_none());
}

#[test]
fn split_indexes_out_of_range_are_faults() {
    let start = || Rig::new(Setup::new(Format::Split, 8));
    let mut rig = start();
    rig.driver.write_avail_index(9);
    let error = rig.start().pop().unwrap_err();
    assert_eq!(error, RingError::AvailIndex { avail: 9, next: 0, size: 8 });

    let mut rig = start();
    rig.driver.write_avail(0, 8);
    rig.driver.write_avail_index(1);
    assert_eq!(rig.start().pop().unwrap_err(), RingError::Head { head: 8, size: 8 });

    let mut rig = start();
    let buffer = rig.buffer(0, 1);
    rig.driver.write_descriptor(0, raw(buffer, NEXT, 8));
    rig.driver.write_avail_index(1);
    assert_eq!(rig.start().pop().unwrap_err(), RingError::Link { index: 8, size: 8 });
}

#[test]
fn split_head_available_twice_is_a_fault() {
    let mut rig = Rig::new(Setup::new(Format::Split, 8));
    rig.add_simple(0);
    rig.driver.publish();
    rig.driver.write_avail(1, 0);
    rig.driver.write_avail_index(2);
    let mut queue = rig.start();
    let chain = queue.pop().unwrap().unwrap();
    queue.complete(chain);
    assert_eq!(queue.pop().unwrap_err(), RingError::HeadTwice { head: 0 });
}

#[test]
fn split_table_link_out_of_the_table_is_a_fault() {
    let error = fault_of(with_tables(Format::Split), |rig| {
        vec![table(rig, 0, &[raw(rig.buffer(64, 1), NEXT, 2), raw(rig.buffer(64, 1), 0, 0)])]
    });
    assert_eq!(error, RingError::Link { index: 2, size: 2 });
    let error = fault_of(with_tables(Format::Split), |rig| {
        vec![table(rig, 0, &[raw(rig.buffer(64, 1), NEXT, 1), raw(rig.buffer(64, 1), NEXT, 0)])]
    });
    assert_eq!(error, RingError::Loop { limit: 2 });
}

#[test]
fn broken_device_is_found_out_by_the_driver() {
    use crate::driver::DeviceFault;
    for format in [Format::Split, Format::Packed] {
        let mut rig = Rig::new(Setup::new(format, 8));
        rig.add_simple(5);
        rig.driver.publish();
        let at = START + rig.driver.layout().device;
        if format == Format::Split {
            rig.mem.write_from(at + 2, &[2, 0]).unwrap();
            let fault = DeviceFault::UsedIndex { index: 2, seen: 0, outstanding: 1 };
            assert_eq!(rig.driver.poll_used(), Err(fault));
            rig.mem.write_from(at + 2, &[1, 0]).unwrap();
            assert_eq!(rig.driver.poll_used(), Err(fault), "for good");
        } else {
            rig.driver.write_descriptor(0, Descriptor { flags: 0x8080, link: 9, ..Descriptor::default() });
            assert_eq!(rig.driver.poll_used(), Err(DeviceFault::UsedId(9)));
        }
    }
}

#[test]
fn length_of_a_packed_used_descriptor_without_write_is_nothing() {
    for (flags, expected) in [(0x8080, 0), (0x8082, 12)] {
        let mut rig = Rig::new(Setup::new(Format::Packed, 8));
        rig.add_simple(5);
        rig.driver.publish();
        let id = rig.read(Buffer { gpa: START + 12, len: 2 });
        let link = u16::from_le_bytes([id[0], id[1]]);
        rig.driver.write_descriptor(0, Descriptor { flags, link, len: 12, ..Descriptor::default() });
        assert_eq!(rig.driver.poll_used(), Ok(Some((5, expected))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_bytes_as_ring_memory_never_panic(bytes in proptest::collection::vec(any::<u8>(), 256), packed: bool) {
        let format = if packed { Format::Packed } else { Format::Split };
        let rig = Rig::tracked(Setup { event_idx: true, ..with_tables(format) });
        rig.mem.write_from(START, &bytes).unwrap();
        let mut queue = rig.start();
        for _ in 0..20 {
            if let Ok(Some(chain)) = queue.pop() {
                queue.complete(chain);
            }
            queue.publish();
            queue.call_needed();
            queue.arm_kicks();
        }
    }
}
