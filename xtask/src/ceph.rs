//! `cargo xtask ceph`: a Ceph cluster of one node (monitor, manager, one OSD on a file), from Debian's packages, to try
//! disks in it. Nothing is installed and no privilege is needed: the packages are unpacked into the cache, and the
//! daemons run in there, each in a user and mount namespace with that directory as its root. No part of the tests: the
//! packages are 136 MB.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::setup::apt::{Apt, Suite};
use crate::setup::prefix::Prefix;
use crate::setup::{self, Arch, cached};
use crate::storage::words;
use crate::workspace::{Workspace, on_path, output, run};

const PACKAGES: [&str; 5] = ["ceph-mon", "ceph-osd", "ceph-mgr", "ceph-common", "librbd-dev"];
/// Where the monitor listens.
const PORT: u16 = 36789;
/// The image that is made.
const IMAGE: &str = "rbd/disk";
/// Size of the OSD's file, which is sparse.
const BYTES: u64 = 4 << 30;
const PATIENCE: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub(crate) enum Action {
    /// Start a new cluster with a pool and an image, and say how to use it
    Start,
    /// Take the OSD away
    OsdDown,
    /// Bring the OSD back
    OsdUp,
    /// Stop the cluster
    Stop,
    /// Start it, run the tests of disks in it, and stop it
    Test,
}

/// Carries out an action.
pub(crate) fn ceph(workspace: &Workspace, action: Action) -> Result<()> {
    let cluster = Cluster { root: workspace.cache.join("ceph") };
    match action {
        Action::Start => cluster.start(workspace),
        Action::OsdDown => cluster.stop("ceph-osd"),
        Action::OsdUp => cluster.daemon("ceph-osd", "0").and_then(|()| cluster.await_osd()),
        Action::Stop => cluster.stop_all(),
        Action::Test => {
            cluster.start(workspace)?;
            let result = cluster.test(workspace);
            cluster.stop_all()?;
            result
        }
    }
}

struct Cluster {
    /// The unpacked packages; the root of the daemons.
    root: PathBuf,
}

impl Cluster {
    fn start(&self, workspace: &Workspace) -> Result<()> {
        if !on_path("unshare") || !on_path("chroot") {
            bail!("`unshare` and `chroot` are needed");
        }
        std::fs::create_dir_all(&workspace.cache)?;
        let key = format!("{} {}", Suite::Trixie.name(), PACKAGES.join(" "));
        setup::announced("Ceph", || {
            cached(&self.root, &key, false, |root| {
                Apt::open(&workspace.cache, Suite::Trixie, Arch::X86)?.unpack_closure(&PACKAGES, root)?;
                for directory in ["lib", "lib64", "bin", "sbin"] {
                    if !root.join(directory).exists() {
                        symlink(format!("usr/{directory}"), root.join(directory))?;
                    }
                }
                Ok(())
            })
        })?;
        self.stop_all()?;
        self.lay_out()?;
        let began = Instant::now();
        self.tool("monmaptool")
            .args(["--create", "--clobber", "--addv", "a", &format!("[v2:127.0.0.1:{PORT}]"), "/tmp/monmap"])
            .args(["--fsid", FSID])
            .quiet()?;
        self.tool("ceph-mon").args(["--mkfs", "-i", "a", "--monmap", "/tmp/monmap"]).quiet()?;
        self.daemon("ceph-mon", "a")?;
        self.ceph(&["osd", "new", OSD]).quiet()?;
        self.tool("ceph-osd").args(["--mkfs", "-i", "0", "--osd-uuid", OSD]).quiet()?;
        self.daemon("ceph-osd", "0")?;
        self.daemon("ceph-mgr", "x")?;
        self.await_osd()?;
        self.ceph(&["osd", "pool", "create", "rbd", "8"]).quiet()?;
        self.tool("rbd").args(["pool", "init", "rbd"]).quiet()?;
        self.tool("rbd").args(["create", IMAGE, "--size", "1G"]).quiet()?;
        println!(
            "  the cluster is up after {:.1} s; with librbd of the same packages:",
            began.elapsed().as_secs_f64()
        );
        println!("  --rbd {IMAGE} --rbd-conf {}", self.root.join("etc/ceph/ceph.conf").display());
        Ok(())
    }

    /// Empty directories, and the configuration.
    fn lay_out(&self) -> Result<()> {
        for directory in ["var/lib/ceph", "var/log/ceph", "var/run/ceph"] {
            let directory = self.root.join(directory);
            if directory.exists() {
                std::fs::remove_dir_all(&directory)?;
            }
        }
        for directory in [
            "dev",
            "proc",
            "tmp",
            "etc/ceph",
            "var/run/ceph",
            "var/log/ceph",
            "var/lib/ceph/mon/ceph-a",
            "var/lib/ceph/osd/ceph-0",
            "var/lib/ceph/mgr/ceph-x",
        ] {
            std::fs::create_dir_all(self.root.join(directory))?;
        }
        // One copy, no authentication: it listens on the loopback only.
        let text = format!(
            "[global]\nfsid = {FSID}\nmon host = [v2:127.0.0.1:{PORT}]\npublic addr = 127.0.0.1\n\
             ms bind msgr1 = false\n\
             auth cluster required = none\nauth service required = none\nauth client required = none\n\
             osd pool default size = 1\nosd pool default min size = 1\nosd pool default pg num = 8\n\
             mon allow pool size one = true\nosd crush chooseleaf type = 0\nmon data avail crit = 1\n\
             osd objectstore = bluestore\nbluestore block size = {BYTES}\nosd memory target = 939524096\n\
             log file = /var/log/ceph/$name.log\n"
        );
        std::fs::write(self.root.join("etc/ceph/ceph.conf"), text)?;
        Ok(())
    }

    /// A program of the packages, with them as its root.
    fn tool(&self, name: &str) -> Command {
        let inside =
            "mount --rbind /dev \"$0/dev\" && mount --rbind /proc \"$0/proc\" && exec chroot \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", inside]);
        command.arg(&self.root).arg(format!("/usr/bin/{name}"));
        command
    }

    fn ceph(&self, arguments: &[&str]) -> Command {
        let mut command = self.tool("python3");
        command.args(["/usr/bin/ceph", "--connect-timeout", "30"]).args(arguments);
        command
    }

    /// Starts a daemon that outlives this program; its number is kept in a file.
    fn daemon(&self, name: &str, id: &str) -> Result<()> {
        let log = std::fs::File::create(self.root.join(format!("var/log/ceph/{name}.out")))?;
        let child = self
            .tool(name)
            .args(["-f", "-i", id])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        std::fs::write(self.pid_file(name), child.id().to_string())?;
        Ok(())
    }

    fn pid_file(&self, name: &str) -> PathBuf {
        self.root.join(format!("var/{name}.pid"))
    }

    fn stop_all(&self) -> Result<()> {
        ["ceph-mgr", "ceph-osd", "ceph-mon"].into_iter().try_for_each(|name| self.stop(name))
    }

    fn stop(&self, name: &str) -> Result<()> {
        let file = self.pid_file(name);
        let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
        // The number may be somebody else's by now.
        let said = std::fs::read_to_string(format!("/proc/{text}/cmdline")).unwrap_or_default();
        if let Some(pid) = text.parse().ok().and_then(Pid::from_raw)
            && said.contains(name)
        {
            kill_process(pid, Signal::KILL)?;
            let start = Instant::now();
            while test_kill_process(pid).is_ok() && start.elapsed() < PATIENCE && !is_zombie(&text) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        std::fs::remove_file(file)?;
        Ok(())
    }

    fn await_osd(&self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let said = output(&mut self.ceph(&["osd", "stat"]))?;
            if String::from_utf8_lossy(&said).contains("1 up") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
        bail!("the OSD is not up after {PATIENCE:?}: see {}", self.root.join("var/log/ceph").display())
    }

    /// Builds the disk's tests with librbd, and runs those that want a cluster with the loader and libraries of the
    /// packages: librbd may want newer ones than this machine has.
    fn test(&self, workspace: &Workspace) -> Result<()> {
        let libraries = self.root.join("usr/lib").join(Arch::X86.multiarch());
        let built = output(
            workspace
                .cargo()
                .args(["rustc", "-p", "outboard-blk", "--lib", "--profile", "test", "--features", "rbd"])
                .args(["--message-format=json", "--"])
                .arg(format!("-Lnative={}", libraries.display()))
                .arg("-Clink-arg=-Wl,--allow-shlib-undefined"),
        )?;
        let program = String::from_utf8_lossy(&built)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter_map(|line| line.get("executable")?.as_str().map(str::to_owned))
            .next_back()
            .context("cargo built no tests")?;
        // It is where only Ceph's own programs look.
        let own = libraries.join("ceph/libceph-common.so.2");
        let mut command = Prefix::at(&self.root).command_for(&program, &[own])?;
        run(command
            .args(["--ignored", "ceph", "--test-threads=1"])
            .env("OUTBOARD_RBD", words(&self.tool("rbd")))
            .env("OUTBOARD_IMAGE", IMAGE)
            .env("OUTBOARD_CEPH_CONF", self.root.join("etc/ceph/ceph.conf")))
    }
}

/// Names of this cluster and its OSD.
const FSID: &str = "6f757462-6f61-4264-8000-000000000001";
const OSD: &str = "6f757462-6f61-4264-8000-000000000002";

fn is_zombie(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// Runs a command, of which only failures are worth showing.
trait Quiet {
    fn quiet(&mut self) -> Result<()>;
}

impl Quiet for Command {
    fn quiet(&mut self) -> Result<()> {
        output(self).map(|_| ())
    }
}
