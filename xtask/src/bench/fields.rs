//! What the kernel tells of a process in text.

use std::fs;
use std::path::PathBuf;

/// CPU time of all threads of a process, those that ended included, in seconds; in steps of the kernel's clock.
pub(crate) fn cpu_seconds(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    #[expect(clippy::cast_precision_loss, reason = "a hundred, as a rule")]
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Some(cpu_ticks(&text)? / per_second)
}

/// User and system time in the kernel's line about a process, whose name may hold anything.
fn cpu_ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11).map(|field| field.parse::<f64>().ok());
    Some(fields.next()?? + fields.next()??)
}

/// What a process takes of the memory, in KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Resident.
    pub(super) resident: u64,
    /// The same with what others use, too, shared out.
    pub(super) proportional: u64,
    /// What nobody else uses.
    pub(super) private: u64,
}

impl Memory {
    /// Of a process; `None` when it is gone.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        Some(Self {
            resident: field(&text, "Rss")?,
            proportional: field(&text, "Pss")?,
            private: field(&text, "Private_Dirty")? + field(&text, "Private_Clean")?,
        })
    }
}

/// Threads of a process.
pub(super) fn threads(pid: u32) -> Option<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "Threads")
}

/// Free pages of the usual huge size; none if there is no file system to get them from.
pub(super) fn free_huge_pages() -> u64 {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.lines().any(|line| line.split_whitespace().nth(2) == Some("hugetlbfs")) {
        return 0;
    }
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "HugePages_Free").unwrap_or(0)
}

/// The processor's name.
pub(super) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    name.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.to_owned())
}

/// The load averages.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// A program on the PATH.
pub(super) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// The number in the line that starts with `name` and a colon.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn cpu_ticks_of_a_name_with_brackets_are_found() {
        let line = "77 (a) b (c)) S 1 77 77 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 3 0 100 0 0";
        assert_eq!(cpu_ticks(line), Some(42.0));
        assert_eq!(cpu_ticks("77 (a) S 1"), None);
    }

    #[test]
    fn field_of_a_longer_name_is_passed_over() {
        let text = "Pss_Dirty:   7 kB\nPss:   9 kB\n";
        assert_eq!(field(text, "Pss"), Some(9));
        assert_eq!(field(text, "Rss"), None);
    }
}
