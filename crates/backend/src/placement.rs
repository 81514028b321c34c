//! Where the threads that serve queues run, and where their memory comes from. Trusted: it comes from the command line.
#![allow(unsafe_code)] // set_mempolicy is in no safe wrapper

use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// `MPOL_PREFERRED` of `set_mempolicy(2)`: from this node as long as it has any.
const PREFERRED: libc::c_long = 1;
/// Nodes that the kernel can have (`MAX_NUMNODES`, at most).
const MAX_NODES: u32 = 1024;

/// The processors of the threads that serve queues.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cpus {
    /// Those of the process.
    #[default]
    Any,
    /// Each thread on one of these: the first on the first, and round again when they are used up.
    Each(Vec<usize>),
    /// Every thread on any of these.
    Among(Vec<usize>),
}

/// Where the threads that serve queues run, and where their memory comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The processors.
    pub cpus: Cpus,
    /// The NUMA node whose memory they prefer.
    pub node: Option<u32>,
}

impl Placement {
    /// As [`Placement::apply`]; what goes wrong is in the log.
    pub(crate) fn settle(&self, nth: usize) {
        if let Err(error) = self.apply(nth) {
            tracing::warn!("the thread runs where it can, not where the options want it: {error}");
        }
    }

    /// Puts the calling thread, the `nth` of its device, in its place.
    ///
    /// # Errors
    /// A processor or node that does not exist, or that the process may not use.
    ///
    /// System calls: sched_setaffinity, set_mempolicy.
    pub fn apply(&self, nth: usize) -> io::Result<()> {
        let mut set = CpuSet::new();
        match &self.cpus {
            Cpus::Any => {}
            Cpus::Each(cpus) => {
                if let Some(&cpu) = nth.checked_rem(cpus.len()).and_then(|turn| cpus.get(turn)) {
                    add(&mut set, cpu);
                }
            }
            Cpus::Among(cpus) => cpus.iter().for_each(|&cpu| add(&mut set, cpu)),
        }
        if self.cpus != Cpus::Any {
            sched_setaffinity(None, &set)?;
        }
        self.node.map_or(Ok(()), prefer_memory_of)
    }
}

/// Adds a processor, if it can be one: a set without any is refused by the kernel.
fn add(set: &mut CpuSet, cpu: usize) {
    if cpu < CpuSet::MAX_CPU {
        set.set(cpu);
    }
}

fn prefer_memory_of(node: u32) -> io::Result<()> {
    if node >= MAX_NODES {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut mask = [0_u64; MAX_NODES as usize / 64];
    if let Some(word) = mask.get_mut(node as usize / 64) {
        *word = 1 << (node % 64);
    }
    // SAFETY: the kernel reads as many bits of `mask`, which lives here, as it is told; one more than there are, since
    // it takes one off.
    let done = unsafe {
        libc::syscall(libc::SYS_set_mempolicy, PREFERRED, mask.as_ptr(), libc::c_ulong::from(MAX_NODES + 1))
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use rustix::thread::sched_getaffinity;

    use super::*;

    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(None).unwrap();
        (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect()
    }

    /// What a thread may use that was put in its place.
    fn placed(cpus: Cpus, nth: usize) -> io::Result<Vec<usize>> {
        std::thread::spawn(move || Placement { cpus, node: None }.apply(nth).map(|()| allowed()))
            .join()
            .unwrap()
    }

    #[test]
    fn threads_go_round_the_processors() {
        let all = allowed();
        for nth in 0..2 * all.len() + 1 {
            assert_eq!(placed(Cpus::Each(all.clone()), nth).unwrap(), [all[nth % all.len()]]);
            assert_eq!(placed(Cpus::Among(all[..1].to_vec()), nth).unwrap(), all[..1]);
            assert_eq!(placed(Cpus::Any, nth).unwrap(), all);
        }
    }

    #[test]
    fn processors_that_do_not_exist_are_an_error() {
        for cpus in [vec![], vec![CpuSet::MAX_CPU - 1], vec![usize::MAX]] {
            assert!(placed(Cpus::Each(cpus.clone()), 0).is_err());
            assert!(placed(Cpus::Among(cpus), 1).is_err());
        }
    }

    #[test]
    fn node_that_does_not_exist_is_an_error() {
        for node in [MAX_NODES - 1, MAX_NODES, u32::MAX] {
            let placement = Placement { node: Some(node), ..Placement::default() };
            assert!(std::thread::spawn(move || placement.apply(0)).join().unwrap().is_err());
        }
    }
}
