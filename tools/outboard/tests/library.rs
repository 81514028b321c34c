//! The front end as a library: its example, against `vhost-user-blk` as a process.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod rig;

#[path = "../../../crates/frontend/examples/disk.rs"]
#[allow(dead_code, reason = "its `main` is for the shell")]
mod disk;

use rig::{Daemon, file_of};

#[test]
fn example_writes_and_reads_its_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = file_of(dir.path().join("disk"), 1 << 20);
    let daemon = Daemon::spawn("blk", &[&format!("--blk-file={}", path.display())]);
    assert_eq!(disk::write_and_read(&daemon.socket()).unwrap(), 7 * (128 << 10));
    let written = std::fs::read(&path).unwrap();
    assert!(written[..128 << 10].iter().all(|&byte| byte == 7));
    assert!(written[128 << 10..].iter().all(|&byte| byte == 0));
}
