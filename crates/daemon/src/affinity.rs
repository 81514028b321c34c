//! `--cpus` and `--numa-node`: which processors there are, and which of them the program may use. The command line is
//! trusted; mistakes in it are told before the device is served.

use std::path::Path;

use outboard_backend::{Cpus, Placement};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::Ranges;

/// What the kernel says of processors and nodes.
const SYSTEM: &str = "/sys/devices/system";

/// Processors in the kernel's syntax: numbers and ranges between commas, such as `0-3,8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CpuList(Vec<usize>);

/// Understands a list of processors. Order and repetition are kept: threads go round it as it stands.
pub(crate) fn parse(text: &str) -> Result<CpuList, String> {
    let cpus = text.parse().ok().filter(|cpus: &Ranges| cpus.count() <= CpuSet::MAX_CPU as u64);
    let cpus = cpus.map(|cpus| cpus.iter().map(|cpu| cpu as usize).collect::<Vec<_>>());
    cpus.filter(|cpus| cpus.iter().all(|&cpu| cpu < CpuSet::MAX_CPU))
        .map(CpuList)
        .ok_or_else(|| format!("{text:?} is no list of CPUs such as 0-3,8"))
}

/// Why threads cannot be put where the options want them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AffinityError {
    #[error("--cpus: there is no CPU {cpu} (online: {online})")]
    NoCpu { cpu: usize, online: String },
    #[error("--cpus: the program may not use CPU {cpu} (allowed: {allowed})")]
    Forbidden { cpu: usize, allowed: String },
    #[error("--numa-node: there is no node {node} (online: {online})")]
    NoNode { node: u32, online: String },
    #[error("--numa-node: the program may use none of the CPUs of node {node} ({cpus}; allowed: {allowed})")]
    NoCpuOfNode { node: u32, cpus: String, allowed: String },
    #[error("cannot tell the CPUs that the program may use: {0}")]
    Unknown(#[from] rustix::io::Errno),
}

/// Where the threads of a device go.
pub(crate) fn placement(cpus: Option<&CpuList>, node: Option<u32>) -> Result<Placement, AffinityError> {
    let allowed = sched_getaffinity(None)?;
    let allowed: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect();
    resolve(Path::new(SYSTEM), &allowed, cpus, node)
}

fn resolve(
    system: &Path,
    allowed: &[usize],
    cpus: Option<&CpuList>,
    node: Option<u32>,
) -> Result<Placement, AffinityError> {
    let read =
        |name: String| std::fs::read_to_string(system.join(name)).ok().map(|text| text.trim().to_owned());
    let of_node = match node {
        None => None,
        Some(node) => Some(read(format!("node/node{node}/cpulist")).ok_or_else(|| {
            // A kernel without NUMA has no list, and the one node.
            let online = read("node/online".to_owned()).unwrap_or_else(|| "none".to_owned());
            AffinityError::NoNode { node, online }
        })?),
    };
    let cpus = match (cpus, node, of_node) {
        (Some(CpuList(cpus)), ..) => {
            if let Some(&cpu) = cpus.iter().find(|cpu| !allowed.contains(cpu)) {
                let online = read("cpu/online".to_owned()).unwrap_or_default();
                let exists = parse(&online).map_or(true, |CpuList(online)| online.contains(&cpu));
                return Err(match exists {
                    true => AffinityError::Forbidden { cpu, allowed: show(allowed) },
                    false => AffinityError::NoCpu { cpu, online },
                });
            }
            Cpus::Each(cpus.clone())
        }
        (None, Some(node), Some(cpus)) => {
            // A node of memory alone has an empty list.
            let there = parse(&cpus).map_or_else(|_| Vec::new(), |CpuList(cpus)| cpus);
            let usable: Vec<_> = there.into_iter().filter(|cpu| allowed.contains(cpu)).collect();
            if usable.is_empty() {
                return Err(AffinityError::NoCpuOfNode { node, cpus, allowed: show(allowed) });
            }
            Cpus::Among(usable)
        }
        _ => Cpus::Any,
    };
    Ok(Placement { cpus, node })
}

/// A list of ascending processors, as it is parsed.
fn show(cpus: &[usize]) -> String {
    let runs = cpus.chunk_by(|before, cpu| before + 1 == *cpu);
    let runs = runs.filter_map(|run| match (run.first()?, run.last()?) {
        (first, last) if first == last => Some(first.to_string()),
        (first, last) => Some(format!("{first}-{last}")),
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CPUs 0-3 and 6, in nodes of 0-1 and 2-3 and 6, and a node without any.
    fn machine() -> tempfile::TempDir {
        let system = tempfile::tempdir().unwrap();
        let files = [
            ("cpu/online", "0-3,6\n"),
            ("node/online", "0-2\n"),
            ("node/node0/cpulist", "0-1\n"),
            ("node/node1/cpulist", "2-3,6\n"),
            ("node/node2/cpulist", "\n"),
        ];
        for (name, text) in files {
            let path = system.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        system
    }

    fn placed(cpus: Option<&str>, node: Option<u32>) -> Result<Placement, String> {
        let cpus = cpus.map(|cpus| parse(cpus).unwrap());
        resolve(machine().path(), &[0, 1, 2, 6], cpus.as_ref(), node).map_err(|error| error.to_string())
    }

    #[test]
    fn list_that_is_none_is_refused() {
        for text in ["", ",", "1,", "a", "-1", "1-", "3-1", "1024", "1 2", "18446744073709551616", "0-99999"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn list_shown_is_the_list_parsed() {
        for text in ["0", "0-3", "0,2-3,9"] {
            assert_eq!(show(&parse(text).unwrap().0), text);
        }
    }

    #[test]
    fn placement_has_the_cpus_that_were_asked_for() {
        assert_eq!(placed(None, None).unwrap(), Placement::default());
        assert_eq!(placed(Some("2,0"), None).unwrap().cpus, Cpus::Each(vec![2, 0]));
        assert_eq!(
            placed(None, Some(1)).unwrap(),
            Placement { cpus: Cpus::Among(vec![2, 6]), node: Some(1) }
        );
        let both = Placement { cpus: Cpus::Each(vec![0]), node: Some(1) };
        assert_eq!(placed(Some("0"), Some(1)).unwrap(), both);
    }

    #[test]
    fn placement_where_nothing_can_run_says_why() {
        for (cpus, node, reason) in [
            (Some("0,9"), None, "--cpus: there is no CPU 9 (online: 0-3,6)"),
            (Some("3"), None, "--cpus: the program may not use CPU 3 (allowed: 0-2,6)"),
            (None, Some(7), "--numa-node: there is no node 7 (online: 0-2)"),
            (None, Some(2), "--numa-node: the program may use none of the CPUs of node 2 (; allowed: 0-2,6)"),
        ] {
            assert_eq!(placed(cpus, node).unwrap_err(), reason);
        }
    }
}
