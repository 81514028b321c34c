//! A network of its own, with no way out: where interfaces may be made without privileges on the machine. It ends with its
//! value.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::setup::Arch;
use crate::setup::userland::Userland;
use crate::workspace::{Workspace, output};

/// How long it may take to begin.
const PATIENCE: Duration = Duration::from_secs(5);

/// How `unshare` makes a user namespace, in which we are root, and a network namespace, and how `nsenter` enters them.
const OURS: Ways = (&["--user", "--map-root-user", "--net"], &["--preserve-credentials", "--user", "--net"]);

/// The same without a user namespace: what is root there, is so on the machine.
const OF_ROOT: Ways = (&["--net"], &["--net"]);

type Ways = (&'static [&'static str], &'static [&'static str]);

/// A network namespace, and a user namespace unless there is a reason not to.
pub(crate) struct Namespace {
    /// It waits for the end of its input, which is ours to end: it does not outlive us.
    holder: Child,
    ways: Ways,
    busybox: PathBuf,
}

impl Namespace {
    /// Whether this machine allows it, with tap interfaces.
    pub(crate) fn is_possible() -> bool {
        Self::is_possible_by(OURS)
    }

    /// The same for [`Self::of_root`].
    pub(crate) fn is_possible_of_root() -> bool {
        Self::is_possible_by(OF_ROOT)
    }

    fn is_possible_by(ways: Ways) -> bool {
        let allowed = || unshare(ways).args(["test", "-w", "/dev/net/tun"]).output();
        allowed().is_ok_and(|output| output.status.success())
    }

    /// A new one: there is a loopback interface, and it is up.
    pub(crate) fn new(workspace: &Workspace) -> Result<Self> {
        Self::with(workspace, OURS)
    }

    /// One for programs that need privileges on the machine: only root makes it.
    pub(crate) fn of_root(workspace: &Workspace) -> Result<Self> {
        Self::with(workspace, OF_ROOT)
    }

    fn with(workspace: &Workspace, ways: Ways) -> Result<Self> {
        let busybox = Userland::open(workspace, Arch::X86).busybox()?;
        let mut command = unshare(ways);
        let holder = command.arg("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let namespace = Self { holder: holder.context("starting unshare")?, ways, busybox };
        let start = Instant::now();
        // Only once it has become the other program, it is where it shall be.
        while namespace.program()? != "cat" {
            ensure!(start.elapsed() < PATIENCE, "no namespace was made in {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The same program with the same arguments, in there.
    pub(crate) fn command(&self, program: &Command) -> Command {
        let mut command = Command::new("nsenter");
        command.args(self.ways.1).arg("--target");
        command.arg(self.holder.id().to_string()).arg("--");
        command.arg(program.get_program()).args(program.get_args());
        command
    }

    /// A busybox that runs anywhere.
    pub(crate) fn busybox(&self) -> &Path {
        &self.busybox
    }

    /// Runs busybox's `ip` in there.
    pub(crate) fn ip(&self, arguments: &str) -> Result<()> {
        let mut ip = Command::new(&self.busybox);
        ip.arg("ip").args(arguments.split(' '));
        output(&mut self.command(&ip)).map(drop)
    }

    /// What the kernel tells about the network in there: a file of `/proc/net`.
    pub(crate) fn told(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/net/{file}", self.holder.id());
        std::fs::read_to_string(&path).context(path)
    }

    /// Counters of an interface in there.
    pub(crate) fn interface(&self, name: &str) -> Result<Interface> {
        let text = self.told("dev")?;
        Interface::parse(&text, name).with_context(|| format!("no interface {name}"))
    }

    fn program(&self) -> Result<String> {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", self.holder.id()))?;
        Ok(name.trim().to_owned())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Without a listener, there is nothing to be done about a failure.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn unshare(ways: Ways) -> Command {
    let mut command = Command::new("unshare");
    command.args(ways.0);
    command
}

/// What an interface has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) received_bytes: u64,
    pub(crate) received: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) sent: u64,
}

impl Interface {
    /// The line of an interface in `/proc/net/dev`.
    fn parse(text: &str, name: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))?;
        let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
        let field = |at: usize| fields.get(at).copied();
        Some(Self { received_bytes: field(0)?, received: field(1)?, sent_bytes: field(8)?, sent: field(9)? })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn interface_is_that_of_the_name() {
        let text = "Inter-|   Receive  | Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes\n\
            \x20   lo:  1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n  tap: 11 12 0 0 0 0 0 0 13 14 0 0 0 0 0 0\n";
        let expected = Interface { received_bytes: 11, received: 12, sent_bytes: 13, sent: 14 };
        assert_eq!(Interface::parse(text, "tap").unwrap(), expected);
        assert_eq!(Interface::parse(text, "ta"), None);
    }
}
