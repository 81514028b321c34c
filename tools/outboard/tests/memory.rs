//! Guest memory changes under running rings: tables replaced, regions added and removed, while requests are served
//! in a region that stays.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use outboard_frontend::drivers::{Blk, BlkQueue};
use outboard_frontend::{Backing, Error, Frontend, HugePage, Layout, Options, RegionSpec, Sharing, Waiting};
use outboard_guest_memory::Segment;
use rig::{Daemon, FORMATS, LONG, blk_options, patient, pattern};

const MIB: u64 = 1 << 20;

/// Rings and headers in one region, data in another, unaligned in its file, and far away from it.
fn layout() -> Layout {
    let data = RegionSpec { user_addr: 0x1000, offset: 0x3000, ..RegionSpec::new(1 << 40, 2 * MIB) };
    Layout { regions: vec![RegionSpec::new(0x10_0000, MIB), data] }
}

/// Writes and reads blocks with verification until told to stop.
fn run(queue: &mut BlkQueue, buffer: &Segment, stop: &AtomicBool, done: &AtomicU64) {
    let mut seed = 0;
    while !stop.load(Ordering::Relaxed) {
        let data = pattern(seed, 4096);
        buffer.write_from(0, &data).unwrap();
        one(queue, |queue| queue.write(seed % 100 * 8, slice::from_ref(buffer), seed).unwrap());
        buffer.fill(0);
        one(queue, |queue| queue.read(seed % 100 * 8, slice::from_ref(buffer), seed).unwrap());
        let mut back = vec![0; 4096];
        buffer.read_into(0, &mut back).unwrap();
        assert!(back == data);
        seed += 1;
        done.fetch_add(2, Ordering::Relaxed);
    }
}

/// Stops the other thread also when this one fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn one(queue: &mut BlkQueue, stage: impl FnOnce(&mut BlkQueue)) {
    stage(queue);
    queue.publish().unwrap();
    assert!(queue.wait(Waiting::Interrupt, LONG).unwrap(), "a request was lost");
    assert_eq!(queue.poll().unwrap().unwrap().result, Ok(()));
}

/// Changes the memory `change` times while requests run, each time after at least one more of them.
fn under_load(sharing: Sharing, change: impl FnMut(u64, &mut Frontend)) {
    under_load_of(&["--ram=1M"], sharing, change);
}

/// The same with a disk of these options.
fn under_load_of(disk: &[&str], sharing: Sharing, mut change: impl FnMut(u64, &mut Frontend)) {
    for format in FORMATS {
        let daemon = Daemon::spawn("blk", disk);
        let options = Options { sharing, memory: layout(), ..patient() };
        let mut blk = Blk::open(daemon.connect(options), &blk_options(format, 1, 32)).unwrap();
        // The first region has no room for so much: the data goes to the second.
        let buffer = blk.frontend().memory().allocate(2 * MIB as usize, 1).unwrap();
        assert_eq!(buffer.gpa(), 1 << 40);
        let (frontend, queues) = blk.parts();
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| run(&mut queues[0], &buffer.slice(0, 4096).unwrap(), &stop, &done));
            let _stop = StopOnDrop(&stop);
            for round in 0..200 {
                change(round, frontend);
                let seen = done.load(Ordering::Relaxed);
                rig::eventually("requests go on", || {
                    worker.is_finished() || done.load(Ordering::Relaxed) > seen
                });
            }
        });
    }
}

#[test]
fn table_replaced_under_load_disturbs_no_request() {
    under_load(Sharing::Table, |_, frontend| frontend.share_table().unwrap());
}

#[test]
fn table_replaced_under_load_although_slots_are_agreed_disturbs_no_request() {
    under_load(Sharing::Slots, |_, frontend| frontend.share_table().unwrap());
}

#[test]
fn regions_added_and_removed_under_load_disturb_no_request() {
    under_load(Sharing::Slots, |round, frontend| {
        let at = |nth: u64| RegionSpec::new((1 << 33) + nth % 20 * MIB, MIB);
        frontend.add_region(&at(round)).unwrap();
        if round >= 10 {
            frontend.remove_region(at(round - 10).gpa).unwrap();
        }
    });
}

#[test]
fn memory_changed_under_load_while_it_is_registered_with_the_kernel_disturbs_no_request() {
    let image = tempfile::NamedTempFile::new().unwrap();
    image.as_file().set_len(1 << 20).unwrap();
    let file = format!("--blk-file={}", image.path().display());
    let disk = [file.as_str(), "--io-uring-register-memory"];
    under_load_of(&disk, Sharing::Table, |_, frontend| frontend.share_table().unwrap());
    under_load_of(&disk, Sharing::Slots, |round, frontend| {
        let at = |nth: u64| RegionSpec::new((1 << 33) + nth % 3 * MIB, MIB);
        frontend.add_region(&at(round)).unwrap();
        if round > 0 {
            frontend.remove_region(at(round - 1).gpa).unwrap();
        }
    });
}

#[test]
fn regions_added_and_removed_as_tables_under_load_disturb_no_request() {
    under_load(Sharing::Table, |round, frontend| {
        let spec = RegionSpec::new((1 << 33) + round % 3 * MIB, MIB);
        frontend.add_region(&spec).unwrap();
        frontend.remove_region(spec.gpa).unwrap();
    });
}

#[test]
fn region_that_overlaps_is_refused_and_the_old_table_stays() {
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let mut blk = daemon.blk(outboard_frontend::Format::Split, 1, 32);
    // Our own memory would refuse it too: told past it.
    let region = outboard_vhost_user::payload::MemRegion {
        guest_addr: 0x4000_0000 + 4096,
        size: 4096,
        user_addr: 0,
        mmap_offset: 0,
    };
    let fd = outboard_guest_memory::memfd("overlap", 4096).unwrap();
    let error = blk.frontend().ask(outboard_vhost_user::Request::AddMemReg(region, fd)).unwrap_err();
    assert!(error.is_nack(), "{error}");
    blk.write_at(0, &[1; 512]).unwrap();
}

#[test]
fn regions_up_to_the_limit_are_taken_and_one_more_is_not() {
    let daemon = Daemon::spawn("rng", &[]);
    let mut frontend = daemon.frontend();
    let slots = frontend.offer().memory_slots.unwrap();
    assert!(slots >= 509);
    frontend.agree(&rig::wishes(outboard_frontend::Format::Split)).unwrap();
    let spec = |nth: u64| RegionSpec::new((1 << 33) + nth * 8192, 4096);
    for nth in 1..slots {
        frontend.add_region(&spec(nth)).unwrap();
    }
    let fd = outboard_guest_memory::memfd("one-more", 4096).unwrap();
    let region = outboard_vhost_user::payload::MemRegion {
        guest_addr: 1 << 34,
        size: 4096,
        user_addr: 1 << 34,
        mmap_offset: 0,
    };
    let error = frontend.ask(outboard_vhost_user::Request::AddMemReg(region, fd)).unwrap_err();
    assert!(error.is_nack(), "{error}");
    for nth in 1..slots {
        frontend.remove_region(spec(nth).gpa).unwrap();
    }
    assert!(matches!(frontend.remove_region(spec(1).gpa), Err(Error::RegionInUse(_))));
    frontend.start(0, 8).unwrap();
}

#[test]
fn memory_of_every_kind_reaches_the_back_end() {
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let name = format!("outboard-memory-test-{}", std::process::id());
    let kinds = [
        Backing::Memfd,
        Backing::File(daemon.dir().join("memory")),
        Backing::Shm(name.clone()),
        Backing::Huge(HugePage::MiB2),
    ];
    for (round, backing) in (0..).zip(kinds) {
        let spec = RegionSpec { backing: backing.clone(), ..RegionSpec::new(0x4000_0000, 4 * MIB) };
        let options = Options { memory: Layout { regions: vec![spec] }, ..patient() };
        let connected = Frontend::connect(daemon.socket(), options);
        let frontend = match connected {
            // The machine may have none to spare.
            Err(Error::HugePages { .. }) if matches!(backing, Backing::Huge(_)) => continue,
            connected => connected.unwrap(),
        };
        let mut blk = Blk::open(frontend, &blk_options(FORMATS[0], 1, 32)).unwrap();
        let data = pattern(round, 256 << 10);
        blk.write_at(0, &data).unwrap();
        let mut back = vec![0; data.len()];
        blk.read_at(0, &mut back).unwrap();
        assert!(back == data, "{backing:?}");
    }
    std::fs::remove_file(format!("/dev/shm/{name}")).unwrap();
}
