//! Who holds a lock, for the message that says so: the kernel tells of such locks only in `/proc/PID/fdinfo`, and there
//! only to those who may look. What is found is a hint, and may be over already.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Says who has locked `byte` of `file`, which itself has a lock on it. `writes`: by that lock, somebody says that he
/// writes; else, that nobody else may.
pub(super) fn told(file: &File, byte: u8, writes: bool) -> String {
    let what = if writes { "writes it" } else { "uses it and lets nobody else write" };
    match find(file, byte) {
        Some((pid, name)) => format!("{name} (process {pid}) {what}"),
        None => format!("another program {what}"),
    }
}

fn find(file: &File, byte: u8) -> Option<(u32, String)> {
    let ours = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok()?;
    let (image, ..) = ours.lines().find_map(ofd_lock)?;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fdinfo")) else { continue };
        for descriptor in descriptors.flatten() {
            if pid == std::process::id() && *descriptor.file_name() == *file.as_raw_fd().to_string() {
                continue;
            }
            let Ok(text) = std::fs::read_to_string(descriptor.path()) else { continue };
            let holds = |lock: (&str, u64, u64)| lock.0 == image && (lock.1..=lock.2).contains(&byte.into());
            if text.lines().filter_map(ofd_lock).any(holds) {
                let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some((pid, name.trim_end().to_owned()));
            }
        }
    }
    None
}

/// The inode, and the first and last byte, of a line like `lock: 1: OFDLCK  ADVISORY  READ -1 08:01:1234 100 100`.
fn ofd_lock(line: &str) -> Option<(&str, u64, u64)> {
    let mut words = line.split_whitespace();
    if words.next()? != "lock:" || words.nth(1)? != "OFDLCK" {
        return None;
    }
    let inode = words.nth(3)?;
    let (first, last) = (words.next()?.parse().ok()?, words.next()?);
    Some((inode, first, last.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ofd_lock_reads_the_kernel_s_lines() {
        let line = "lock:\t1: OFDLCK  ADVISORY  READ -1 08:01:1234 100 101";
        assert_eq!(ofd_lock(line), Some(("08:01:1234", 100, 101)));
        let line = "lock:\t2: OFDLCK  ADVISORY  WRITE -1 00:2f:9 0 EOF";
        assert_eq!(ofd_lock(line), Some(("00:2f:9", 0, u64::MAX)));
        for other in
            ["", "pos:\t0", "lock:\t1: POSIX  ADVISORY  READ 77 08:01:1234 100 100", "lock:\t1: OFDLCK"]
        {
            assert_eq!(ofd_lock(other), None);
        }
    }
}
