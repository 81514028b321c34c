//! The dirty log against reality: every page of guest memory that changed is marked, whoever changed it in whatever
//! ring format; and pages that nobody wrote are not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::collections::BTreeSet;
use std::slice;

use outboard_frontend::drivers::{Blk, Rng};
use outboard_frontend::{Format, Frontend, Layout, Options, RegionSpec, Waiting, Wishes};
use outboard_guest_memory::Segment;
use rig::{Daemon, FORMATS, LONG, blk_options, patient, wishes};

const PAGE: u64 = 4096;
const SIZE: u64 = 4 << 20;
const GPA: u64 = 0x20_0000;

fn options() -> Options {
    Options { memory: Layout { regions: vec![RegionSpec::new(GPA, SIZE)] }, ..patient() }
}

/// A copy of all guest memory.
fn snapshot(frontend: &mut Frontend) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    frontend.memory().map().read_into(GPA, &mut bytes).unwrap();
    bytes
}

/// Guest addresses of the pages that differ.
fn changed(before: &[u8], after: &[u8]) -> BTreeSet<u64> {
    let pages = before.chunks(PAGE as usize).zip(after.chunks(PAGE as usize)).enumerate();
    pages.filter(|(_, (old, new))| old != new).map(|(nth, _)| GPA + nth as u64 * PAGE).collect()
}

fn taken(frontend: &Frontend) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    frontend.take_dirty(|gpa| pages.extend([gpa]));
    pages
}

/// The pages of ring memory that only the driver writes are not to be marked; those that both write may be.
fn driver_pages(rng: &mut Rng) -> BTreeSet<u64> {
    let (_, queue) = rng.parts();
    let size = u64::from(queue.size());
    let at = queue.addresses();
    let first = at.descriptors / PAGE * PAGE;
    (first..at.device + size * 8 + PAGE).step_by(PAGE as usize).collect()
}

#[test]
fn every_page_that_a_request_writes_is_marked_and_no_other() {
    let daemon = Daemon::spawn("rng", &[]);
    for format in FORMATS {
        for wishes in [wishes(format), Wishes { event_idx: false, indirect: false, ..wishes(format) }] {
            let mut rng = Rng::open(daemon.connect(options()), &wishes).unwrap();
            rng.frontend().start_logging().unwrap();
            for len in [1, 4096, 5000, 60_000] {
                let before = snapshot(rng.frontend());
                rng.fill(&mut vec![0; len]).unwrap();
                let after = snapshot(rng.frontend());
                let marked = taken(rng.frontend());
                let ring = driver_pages(&mut rng);
                let changed = changed(&before, &after);
                let data: BTreeSet<_> = changed.difference(&ring).copied().collect();
                assert!(data.is_subset(&marked), "{wishes:?} {len}: {data:?} not in {marked:?}");
                let extra: BTreeSet<_> = marked.difference(&changed).copied().collect();
                assert!(extra.is_subset(&ring), "{wishes:?} {len}: {extra:?} marked for nothing");
                assert!(marked.intersection(&ring).next().is_some(), "{wishes:?} {len}: no used element");
            }
        }
    }
}

#[test]
fn used_ring_page_is_marked_by_a_request_without_data() {
    let daemon = Daemon::spawn("rng", &[]);
    for format in FORMATS {
        // A ring so large that its parts are in pages of their own.
        let mut frontend = daemon.connect(options());
        frontend.agree(&wishes(format)).unwrap();
        let mut queue = frontend.start(0, 1024).unwrap();
        let buffer = frontend.allocate(1).unwrap();
        frontend.start_logging().unwrap();
        taken(&frontend);
        queue.add::<(u64, u32), _>(&[], &[&buffer], 0).unwrap();
        queue.publish().unwrap();
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
        queue.poll().unwrap();
        frontend.stop(&mut queue).unwrap();
        let marked = taken(&frontend);
        let at = queue.addresses();
        // Split: element 0 and the index; packed: descriptor 0.
        let used = if format == Format::Split { at.device } else { at.descriptors };
        assert!(marked.contains(&(used / PAGE * PAGE)), "{format:?}: {marked:?} lacks {used:#x}");
        assert!(marked.contains(&(buffer.gpa() / PAGE * PAGE)));
        if format == Format::Split {
            assert!(!marked.contains(&(at.driver / PAGE * PAGE)) || at.driver / PAGE == at.device / PAGE);
        }
    }
}

#[test]
fn log_switched_on_and_off_under_load_misses_nothing_that_came_after_the_switch() {
    let dir = tempfile::tempdir().unwrap();
    let path = rig::file_of(dir.path().join("disk"), 1 << 20);
    for args in [vec!["--ram=1M".to_owned()], vec![format!("--blk-file={}", path.display())]] {
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let daemon = Daemon::spawn("blk", &args);
        for format in FORMATS {
            let frontend = daemon.connect(options());
            let mut blk = Blk::open(frontend, &blk_options(format, 1, 64)).unwrap();
            blk.write_at(0, &rig::pattern(3, 64 << 10)).unwrap();
            let buffers: Vec<_> = (0..16).map(|_| blk.frontend().allocate(8192).unwrap()).collect();
            for round in 0..20 {
                read_all(&mut blk, &buffers, round);
                assert!(taken(blk.frontend()).is_empty(), "marked while it was off");
                blk.frontend().start_logging().unwrap();
                read_all(&mut blk, &buffers, round);
                let marked = taken(blk.frontend());
                for buffer in &buffers {
                    for page in [buffer.gpa(), buffer.gpa() + PAGE] {
                        assert!(marked.contains(&page), "{format:?}: {page:#x} not in {marked:x?}");
                    }
                }
                blk.frontend().stop_logging().unwrap();
                taken(blk.frontend());
            }
        }
    }
}

fn read_all(blk: &mut Blk, buffers: &[Segment], round: u64) {
    let queue = &mut blk.queues()[0];
    for (token, buffer) in (0..).zip(buffers) {
        queue.read((round + token) % 64, slice::from_ref(buffer), token).unwrap();
    }
    queue.publish().unwrap();
    while queue.outstanding() > 0 {
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
        while let Some(completion) = queue.poll().unwrap() {
            assert_eq!(completion.result, Ok(()));
        }
    }
}

#[test]
fn log_replaced_again_and_again_under_load_loses_no_mark() {
    // As Cloud Hypervisor does: a new log on every pass. A mark must be in one of them.
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    for format in FORMATS {
        let mut blk = Blk::open(daemon.connect(options()), &blk_options(format, 1, 64)).unwrap();
        let buffers: Vec<_> = (0..16).map(|_| blk.frontend().allocate(8192).unwrap()).collect();
        for _ in 0..50 {
            let mut marked = BTreeSet::new();
            blk.frontend().start_logging().unwrap();
            let queue = &mut blk.queues()[0];
            for (token, buffer) in (0..).zip(&buffers) {
                queue.read(token, slice::from_ref(buffer), token).unwrap();
            }
            queue.publish().unwrap();
            for _ in 0..4 {
                // After the answer to the new log nothing goes to the old one.
                let old = blk.frontend().replace_log().unwrap();
                old.take(|gpa| marked.extend([gpa]));
            }
            let queue = &mut blk.queues()[0];
            while queue.outstanding() > 0 {
                assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
                while queue.poll().unwrap().is_some() {}
            }
            marked.extend(taken(blk.frontend()));
            for buffer in &buffers {
                for page in [buffer.gpa(), buffer.gpa() + PAGE] {
                    assert!(marked.contains(&page), "{format:?}: {page:#x} not in {marked:x?}");
                }
            }
        }
    }
}

#[test]
fn log_goes_on_with_the_next_back_end() {
    for format in FORMATS {
        let mut daemon = Daemon::spawn("rng", &[]);
        let mut rng = Rng::open(daemon.connect(options()), &wishes(format)).unwrap();
        rng.frontend().start_logging().unwrap();
        rng.fill(&mut [0; 5000]).unwrap();
        daemon.kill();
        daemon.restart();
        let (frontend, queue) = rng.parts();
        frontend.reconnect([queue]).unwrap();
        let marked_before_the_kill = taken(frontend);
        assert!(!marked_before_the_kill.is_empty());
        let before = snapshot(rng.frontend());
        rng.fill(&mut [0; 60_000]).unwrap();
        let after = snapshot(rng.frontend());
        let marked = taken(rng.frontend());
        let ring = driver_pages(&mut rng);
        let changed = changed(&before, &after);
        let data: BTreeSet<_> = changed.difference(&ring).copied().collect();
        assert!(!data.is_empty() && data.is_subset(&marked), "{format:?}: {data:?} not in {marked:?}");
    }
}
