//! The plan carried out: back ends first, QEMU when all of them listen, and the back ends' end when QEMU has ended.
//!
//! Theory of operation. One thread waits, for signals to this program and for the ends of its children, both told by
//! bytes in a socket that signal handlers write. The back ends are in process groups of their own: Ctrl-C at the
//! terminal is for the guest, or for QEMU and this program, and they end when we say so, by process id. If this
//! program is killed, the kernel ends the children ([`crate::lifeline`]).

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::device::stub;
use super::{BackEnd, Plan, shell, warn};
use crate::back_end::listens;
use crate::lifeline;

/// How long a back end may take until it listens.
const START: Duration = Duration::from_secs(10);
/// How long a process may take to end when asked to; a back end gives up by itself after 5 seconds.
const END: Duration = Duration::from_secs(7);
/// How often to look whether a back end listens.
const LOOK: Duration = Duration::from_millis(5);

/// Starts everything, waits for QEMU to end, and ends the rest. The status is QEMU's.
pub(super) fn run(plan: &Plan) -> Result<ExitCode> {
    let signals = Signals::catch().context("cannot catch signals")?;
    let mut running = Running(Vec::new());
    for back_end in &plan.back_ends {
        running.start(back_end)?;
        if !running.wait_until_it_listens(&signals)? {
            return Ok(ExitCode::from(128 + 15));
        }
    }
    let mut qemu = Process { name: "QEMU", child: qemu(plan)?, ended: None };
    while qemu.status()?.is_none() {
        let stop = signals.wait(None)?;
        running.report();
        if stop {
            qemu.signal(Signal::TERM);
            if !qemu.ends_within(END)? {
                warn(format_args!("QEMU does not end when asked to, and is killed"));
                qemu.signal(Signal::KILL);
                qemu.ends_within(END)?;
            }
        }
    }
    let status = qemu.ended.unwrap_or_default();
    running.stop()?;
    Ok(code(status))
}

/// The status of this program for that of QEMU, in the way of shells.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn qemu(plan: &Plan) -> Result<Child> {
    let Some((program, args)) = plan.qemu.split_first() else { bail!("no QEMU in the plan") };
    let mut command = Command::new(program);
    lifeline::tie(command.args(args), Signal::TERM);
    command.spawn().with_context(|| format!("cannot start {}", Path::new(program).display()))
}

/// A child, which is ended with force when dropped.
#[derive(Debug)]
struct Process<N: AsRef<str>> {
    name: N,
    child: Child,
    ended: Option<ExitStatus>,
}

impl<N: AsRef<str>> Process<N> {
    /// How it ended, if it has.
    fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended =
                self.child.try_wait().with_context(|| format!("waiting for {}", self.name.as_ref()))?;
        }
        Ok(self.ended)
    }

    /// Sends a signal, unless it has ended: then its process id is not its own any more.
    fn signal(&self, signal: Signal) {
        if self.ended.is_none() {
            // It is our child and not waited for: the signal is allowed and arrives, at a zombie if need be.
            let _ = kill_process(Pid::from_child(&self.child), signal);
        }
    }

    fn ends_within(&mut self, patience: Duration) -> Result<bool> {
        let deadline = Instant::now() + patience;
        while self.status()?.is_none() {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(LOOK);
        }
        Ok(true)
    }
}

impl<N: AsRef<str>> Drop for Process<N> {
    fn drop(&mut self) {
        if self.ended.is_none() {
            // Fails if it has ended, which is what is wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The back ends that were started.
#[derive(Debug)]
struct Running<'a>(Vec<(&'a BackEnd, Process<&'a str>)>);

impl<'a> Running<'a> {
    fn start(&mut self, back_end: &'a BackEnd) -> Result<()> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("outboard").args(&back_end.args).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = lifeline::tie(&mut command, Signal::TERM).spawn();
        let child = child.with_context(|| format!("cannot start the back end {}", back_end.name))?;
        self.0.push((back_end, Process { name: &back_end.name, child, ended: None }));
        Ok(())
    }

    /// Waits for the last one; false when this program was told to stop meanwhile.
    fn wait_until_it_listens(&mut self, signals: &Signals) -> Result<bool> {
        let deadline = Instant::now() + START;
        let Some((back_end, process)) = self.0.last_mut() else { return Ok(true) };
        while !listens(Path::new(&back_end.socket)) {
            if let Some(status) = process.status()? {
                // It has said why, on standard error.
                bail!("the back end {} did not start: {status}", back_end.name);
            }
            if Instant::now() > deadline {
                bail!("the back end {} does not listen after {} s", back_end.name, START.as_secs());
            }
            if signals.wait(Some(LOOK))? {
                self.stop()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Tells of each that has ended since the last time.
    fn report(&mut self) {
        for (back_end, process) in &mut self.0 {
            let pid = process.child.id();
            if process.ended.is_some() {
                continue;
            }
            if let Ok(Some(status)) = process.status() {
                warn(format_args!("the back end {} (process {pid}) has ended: {status}", back_end.name));
                if stub(back_end.device).reconnects {
                    let again = shell::command(Path::new("outboard"), back_end);
                    let again = String::from_utf8_lossy(&again).into_owned();
                    warn(format_args!("the guest waits for it; to start it again: {again}"));
                }
            }
        }
    }

    /// Asks all to end, and sees to it that they do.
    fn stop(&mut self) -> Result<()> {
        for (_, process) in &mut self.0 {
            process.status()?;
            process.signal(Signal::TERM);
        }
        let deadline = Instant::now() + END;
        for (back_end, process) in &mut self.0 {
            let gone = process.ended.is_some();
            if !process.ends_within(deadline.saturating_duration_since(Instant::now()))? {
                warn(format_args!(
                    "the back end {} does not end when asked to, and is killed",
                    back_end.name
                ));
            } else if let Some(status) = process.ended.filter(|status| !gone && !status.success()) {
                warn(format_args!("the back end {} has ended with {status}", back_end.name));
            }
        }
        // Whoever is left is killed.
        self.0.clear();
        Ok(())
    }
}

/// Signals that arrive as bytes.
#[derive(Debug)]
struct Signals {
    stop: UnixStream,
    child: UnixStream,
}

impl Signals {
    /// Catches SIGTERM, SIGINT and SIGHUP, which ask this program to end, and SIGCHLD.
    fn catch() -> io::Result<Self> {
        let (stop, write) = UnixStream::pair()?;
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            pipe::register(signal, write.try_clone()?)?;
        }
        let (child, write) = UnixStream::pair()?;
        pipe::register(SIGCHLD, write)?;
        stop.set_nonblocking(true)?;
        child.set_nonblocking(true)?;
        Ok(Self { stop, child })
    }

    /// Waits for any of them, no longer than `patience`; whether this program shall end.
    fn wait(&self, patience: Option<Duration>) -> Result<bool> {
        let patience = patience.map(Timespec::try_from).transpose()?;
        let mut fds = [PollFd::new(&self.stop, PollFlags::IN), PollFd::new(&self.child, PollFlags::IN)];
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the machine"),
        }
        drain(&self.child);
        Ok(drain(&self.stop))
    }
}

/// Takes what is there; whether there was anything.
fn drain(mut stream: &UnixStream) -> bool {
    let mut bytes = [0; 64];
    let mut any = false;
    while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
        any = true;
    }
    any
}
