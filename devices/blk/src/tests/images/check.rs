//! Whether a qcow2 image is sound, by its own reading of the format: every cluster in use is counted, once, and lies in
//! the file. What is counted and not used is lost space, and no more.

use std::collections::HashMap;
use std::path::Path;

/// Panics unless the image at `path` is sound; returns how many clusters are counted and not used.
pub(super) fn check(path: &Path) -> usize {
    let file = std::fs::read(path).unwrap();
    let word = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
    let long = |at: usize| u64::from_be_bytes(file[at..at + 8].try_into().unwrap());
    let cluster = 1_usize << word(20);
    let offset = |entry: u64| (entry & 0x00ff_ffff_ffff_fe00) as usize;
    let mut used: HashMap<usize, usize> = HashMap::new();
    let mut take = |at: usize, what: &str| {
        assert!(at.is_multiple_of(cluster), "{what} at {at:#x} is not aligned");
        *used.entry(at / cluster).or_default() += 1;
    };

    take(0, "header");
    let (l1, l1_entries) = (long(40) as usize, word(36) as usize);
    for at in (l1..l1 + l1_entries * 8).step_by(cluster) {
        take(at / cluster * cluster, "L1 table");
    }
    for entry in 0..l1_entries {
        let l2 = offset(long(l1 + entry * 8));
        if l2 == 0 {
            continue;
        }
        take(l2, "L2 table");
        for entry in 0..cluster / 8 {
            let entry = long(l2 + entry * 8);
            assert_eq!(entry >> 62 & 1, 0, "nothing is compressed here");
            if offset(entry) != 0 {
                assert_eq!(entry >> 63, 1, "all clusters have one user");
                take(offset(entry), "data");
            }
        }
    }
    let (table, table_clusters) = (long(48) as usize, word(56) as usize);
    let mut counts = HashMap::new();
    for at in (table..table + table_clusters * cluster).step_by(cluster) {
        take(at, "refcount table");
    }
    for entry in 0..table_clusters * cluster / 8 {
        let block = long(table + entry * 8) as usize;
        if block == 0 {
            continue;
        }
        take(block, "refcount block");
        for at in 0..cluster / 2 {
            let count = u16::from_be_bytes(file[block + at * 2..block + at * 2 + 2].try_into().unwrap());
            if count > 0 {
                counts.insert(entry * cluster / 2 + at, usize::from(count));
            }
        }
    }
    for (cluster, users) in &used {
        assert_eq!(counts.get(cluster), Some(users), "cluster {cluster}");
    }
    counts.keys().filter(|cluster| !used.contains_key(cluster)).count()
}
