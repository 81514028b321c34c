//! Dirty pages: those that were written, after they were, and none besides.

use std::collections::BTreeSet;

use outboard_guest_memory::DirtyLog;

use super::{Rig, START, Setup, both, serve};
use crate::driver::Buffer;
use crate::{Format, Virtqueue};

both! { completion_marks_written_bytes_and_the_used_ring arming_marks_the_event_field
toggled_while_in_flight_marks_at_completion nothing_is_marked_without_being_asked
consumed_pieces_and_status_are_marked put_marks_what_was_written put_back_marks_what_was_written }

const PAGE: u64 = 4096;

/// Size such that each part of the ring has pages of its own.
fn setup(format: Format) -> Setup {
    Setup { event_idx: true, ..Setup::new(format, 1024) }
}

fn logged(rig: &mut Rig) -> DirtyLog {
    let (log, _fd) = DirtyLog::create(0x1000).unwrap();
    rig.mem = rig.mem.with_log(Some(log.clone()));
    log
}

fn start(rig: &Rig, log_data: bool, log_used: bool) -> Virtqueue {
    let mut config = rig.config(rig.driver.fresh_base());
    config.log_data = log_data;
    config.log_used = log_used.then_some(device_area(rig));
    config.activate().unwrap()
}

fn device_area(rig: &Rig) -> u64 {
    START + rig.driver.layout().device
}

/// Guest-physical address of page starts that are marked, cleared by this.
fn marked(log: &DirtyLog) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    log.take(|page| {
        pages.insert(page);
    });
    pages
}

fn page(addr: u64) -> u64 {
    addr / PAGE * PAGE
}

fn page_of(buffer: Buffer) -> u64 {
    page(buffer.gpa)
}

/// The page with the ring's next used entry, at the start of the ring.
fn used_page(rig: &Rig) -> u64 {
    match rig.setup.format {
        Format::Split => page(device_area(rig)),
        Format::Packed => page(START),
    }
}

/// Adds a request with a writable buffer of two pages.
fn add(rig: &mut Rig, at: u64) -> [u64; 2] {
    let (readable, writable) = (rig.buffer(at, 8), rig.buffer(at + PAGE, 2 * PAGE as u32));
    rig.driver.add(&[readable], &[writable], 0).unwrap();
    rig.driver.publish();
    [page_of(writable), page_of(writable) + PAGE]
}

fn completion_marks_written_bytes_and_the_used_ring(format: Format) {
    let mut rig = Rig::new(setup(format));
    let log = logged(&mut rig);
    let [first, _] = add(&mut rig, 0);
    let mut queue = start(&rig, true, true);
    let mut chain = queue.pop().unwrap().unwrap();
    serve(&mut chain);
    assert!(marked(&log).is_empty());
    queue.complete(chain);
    assert_eq!(marked(&log), BTreeSet::from([first]));
    queue.publish();
    assert_eq!(marked(&log), BTreeSet::from([used_page(&rig)]));
}

fn arming_marks_the_event_field(format: Format) {
    let mut rig = Rig::new(setup(format));
    let log = logged(&mut rig);
    let mut queue = start(&rig, true, true);
    queue.arm_kicks();
    let field = match format {
        Format::Split => device_area(&rig) + 4 + 8 * 1024,
        Format::Packed => device_area(&rig),
    };
    assert_eq!(marked(&log), BTreeSet::from([page(field)]));
}

fn toggled_while_in_flight_marks_at_completion(format: Format) {
    let mut rig = Rig::new(setup(format));
    let [first, second] = add(&mut rig, 0);
    let mut queue = start(&rig, false, false);
    let mut chain = queue.pop().unwrap().unwrap();
    chain.write_zeroes(PAGE as usize + 1);
    let log = logged(&mut rig);
    queue.update(rig.mem.clone()).unwrap();
    queue.set_logging(true, Some(device_area(&rig)));
    queue.complete(chain);
    assert_eq!(marked(&log), BTreeSet::from([first, second]));
    queue.publish();
    assert_eq!(marked(&log), BTreeSet::from([used_page(&rig)]));
    // And off again.
    queue.set_logging(false, None);
    add(&mut rig, 0x8000);
    let mut chain = queue.pop().unwrap().unwrap();
    serve(&mut chain);
    queue.complete(chain);
    queue.publish();
    assert!(marked(&log).is_empty());
}

fn nothing_is_marked_without_being_asked(format: Format) {
    for (data, used) in [(true, false), (false, true)] {
        let mut rig = Rig::new(setup(format));
        let log = logged(&mut rig);
        let [first, _] = add(&mut rig, 0);
        let mut queue = start(&rig, data, used);
        let mut chain = queue.pop().unwrap().unwrap();
        serve(&mut chain);
        queue.complete(chain);
        queue.publish();
        let expected = if data { first } else { used_page(&rig) };
        assert_eq!(marked(&log), BTreeSet::from([expected]));
    }
}

fn consumed_pieces_and_status_are_marked(format: Format) {
    let mut rig = Rig::new(setup(format));
    let log = logged(&mut rig);
    let buffers: Vec<Buffer> = (0..5).map(|index| rig.buffer(index * 2 * PAGE, 100)).collect();
    rig.driver.add::<Buffer, _>(&[], &buffers, 0).unwrap();
    rig.driver.publish();
    let mut queue = start(&rig, true, false);
    let mut chain = queue.pop().unwrap().unwrap();
    let status = chain.split_status().unwrap();
    chain.write_zeroes(30);
    chain.advance_writable(150);
    chain.set_status(status, 0);
    queue.complete(chain);
    let expected = [0, 1, 4].map(|index: usize| page_of(buffers[index]));
    assert_eq!(marked(&log), BTreeSet::from(expected));
}

fn put_back_marks_what_was_written(format: Format) {
    let mut rig = Rig::new(setup(format));
    let log = logged(&mut rig);
    let [first, _] = add(&mut rig, 0);
    let mut queue = start(&rig, true, true);
    let mut chain = queue.pop().unwrap().unwrap();
    serve(&mut chain);
    queue.put_back(chain);
    assert_eq!(marked(&log), BTreeSet::from([first]));
}

fn put_marks_what_was_written(format: Format) {
    let mut rig = Rig::new(setup(format));
    let log = logged(&mut rig);
    let mut queue = start(&rig, true, false);
    for at in [PAGE, 3 * PAGE] {
        let buffer = rig.buffer(at, 2 * PAGE as u32);
        rig.driver.add::<Buffer, _>(&[], &[buffer], 0).unwrap();
    }
    rig.driver.publish();
    let chain = queue.take().unwrap();
    queue.complete(chain);
    assert_eq!(marked(&log), [].into());
    assert!(queue.put(&1_u8, &[2; 9]));
    assert_eq!(marked(&log), [page_of(rig.buffer(3 * PAGE, 1))].into());
    queue.set_logging(false, None);
    let buffer = rig.buffer(PAGE, 20);
    rig.driver.add::<Buffer, _>(&[], &[buffer], 0).unwrap();
    rig.driver.publish();
    assert!(queue.put(&1_u8, &[2; 9]));
    assert_eq!(marked(&log), [].into());
}
