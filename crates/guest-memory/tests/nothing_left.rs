//! Maps and descriptors return to the system. Alone in its process, and one test, so that the counts are its own.
#![allow(clippy::unwrap_used)] // what fails, fails the test

use std::fs;
use std::os::fd::OwnedFd;

use outboard_guest_memory::{DirtyLog, MAX_SLOTS, MemoryMap, Region, SharedRegion, memfd};

const NAME: &str = "nothing-left";

fn mappings() -> usize {
    fs::read_to_string("/proc/self/maps").unwrap().lines().filter(|line| line.contains(NAME)).count()
}

fn descriptors() -> usize {
    let links =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.to_string_lossy().contains(NAME)).count()
}

fn file() -> OwnedFd {
    memfd(NAME, 0x10_0000).unwrap()
}

fn region(index: u64) -> Region {
    // Two pages each at the same offset: no two mappings continue each other, so the kernel merges none.
    Region { gpa: index << 20, size: 0x2000, user_addr: 1 << 40 | index << 20, mmap_offset: 0x1000 }
}

#[test]
fn mappings_and_descriptors_end_with_their_last_user() {
    let table: Vec<_> = (0..MAX_SLOTS as u64).map(|index| (region(index), file())).collect();
    let map = MemoryMap::from_table(table).unwrap();
    assert_eq!((mappings(), descriptors()), (509, 0), "a mapping needs no descriptor");

    let less = map.without_region(&region(3)).unwrap();
    assert_eq!(mappings(), 509, "the old snapshot still has it");
    let held = map.clone();
    drop(map);
    assert_eq!(mappings(), 509, "so does its clone");
    drop(held);
    assert_eq!(mappings(), 508);
    let more = less.with_region(region(3), file()).unwrap();
    assert_eq!((mappings(), descriptors()), (509, 0));
    drop(less);
    assert_eq!(mappings(), 509);

    let overlap = more.without_region(&region(0)).unwrap().with_region(region(1), file());
    assert!(overlap.is_err());
    let mut short = region(0);
    short.mmap_offset = 0xf_f000;
    let table = vec![(region(1), file()), (region(2), file()), (short, file())];
    assert!(MemoryMap::from_table(table).is_err());
    assert_eq!((mappings(), descriptors()), (509, 0), "a refusal leaves nothing");
    drop(more);
    assert_eq!(mappings(), 0);

    let log = DirtyLog::map(file(), 100, 50).unwrap();
    let shared = SharedRegion::map(file(), 100, 50).unwrap();
    assert!(DirtyLog::map(file(), 0x10_0000, 1).is_err());
    assert!(SharedRegion::map(file(), 0, 0).is_err());
    let logged = MemoryMap::empty().with_log(Some(log.clone()));
    assert_eq!((mappings(), descriptors()), (2, 0));
    drop((log, shared));
    assert_eq!(mappings(), 1);
    drop(logged);
    assert_eq!(mappings(), 0);
}
