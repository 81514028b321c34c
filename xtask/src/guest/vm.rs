//! One virtual machine: QEMU's command line, the guest's serial line, and what
//! the guest says on it. Trusts QEMU; what the guest prints is text to parse.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::qmp::Qmp;
use crate::setup::Arch;
use crate::setup::prefix::{Prefix, Qemu};

/// How long a switched-off machine may take to be gone.
const END: Duration = Duration::from_secs(30);

/// How long the writers say nothing when they stand still: they tell their
/// progress every 50 ms.
const STANDSTILL: Duration = Duration::from_millis(150);

/// How long a guest's writers may make no progress before they are stuck.
const PAUSE: Duration = Duration::from_secs(40);

/// What a machine is made of.
pub(super) struct Plan {
    pub(super) arch: Arch,
    pub(super) qemu: Qemu,
    pub(super) accel: &'static str,
    pub(super) processors: u32,
    /// Whether the guest may start again; else a reset ends the machine.
    pub(super) may_reboot: bool,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    /// The scenario's name and settings: the first program's environment.
    pub(super) settings: Vec<(&'static str, String)>,
    /// Arguments for the devices.
    pub(super) devices: Vec<String>,
}

impl Plan {
    /// QEMU's command line; its files go into `directory`.
    fn command(&self, prefix: &Prefix, directory: &Path) -> Result<Command> {
        let mut command = prefix.system(self.arch)?;
        let (machine, cpu, terminal) = match self.arch {
            Arch::X86 => ("q35", if self.accel == "kvm" { "host" } else { "qemu64" }, "ttyS0"),
            Arch::Arm => ("virt", "cortex-a57", "ttyAMA0"),
        };
        command.args(["-machine", &format!("{machine},memory-backend=mem0"), "-cpu", cpu]);
        command.args(["-accel", if self.accel == "kvm" { "kvm" } else { "tcg,thread=multi" }]);
        command.args(["-smp", &self.processors.to_string(), "-m", "256"]);
        command.args(["-object", "memory-backend-memfd,id=mem0,size=256M,share=on"]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args(["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]);
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", directory.join("qmp").display())]);
        match self.arch {
            Arch::X86 => {
                let firmware = directory.join("firmware.log");
                command.args(["-chardev", &format!("file,id=firmware,path={}", firmware.display())]);
                command.args(["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]);
            }
            // Transports of VIRTIO 1.x, where the version-1 feature exists.
            Arch::Arm => {
                command.args(["-global", "virtio-mmio.force-legacy=false"]);
            }
        }
        if !self.may_reboot {
            command.arg("-no-reboot");
        }
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initramfs);
        let mut line = format!("console={terminal} quiet loglevel=1 panic=-1");
        if self.arch == Arch::X86 {
            // On a busy machine a translated guest's timer comes too late for what the kernel takes for a fault.
            line.push_str(" no_timer_check");
        }
        for (name, value) in &self.settings {
            line.push_str(&format!(" {name}={value}"));
        }
        command.args(["-append", &line]).args(&self.devices);
        Ok(command)
    }
}

/// What a guest said, told apart by the first word of the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Ok,
    Fail(String),
    Value(String, String),
    Data(String, Vec<u8>),
    Progress(u64),
    End(usize),
}

impl Said {
    fn parse(line: &str) -> Option<Self> {
        // A kernel message may stand before it on the same line.
        let line = line.get(line.find("OUTBOARD-")?..)?.trim_end();
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let pair = || rest.split_once(' ').map(|(name, value)| (name.to_owned(), value.to_owned()));
        match kind {
            "OUTBOARD-OK" => Some(Self::Ok),
            "OUTBOARD-FAIL" => Some(Self::Fail(rest.to_owned())),
            "OUTBOARD-VALUE" => pair().map(|(name, value)| Self::Value(name, value)),
            "OUTBOARD-DATA" => pair().and_then(|(name, hex)| Some(Self::Data(name, unhex(&hex)?))),
            "OUTBOARD-PROGRESS" => rest.parse().ok().map(Self::Progress),
            "OUTBOARD-END" => rest.parse().ok().map(Self::End),
            _ => None,
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok())).collect();
    let digits = digits?;
    let pairs = digits.chunks_exact(2);
    pairs.remainder().is_empty().then_some(())?;
    Some(pairs.map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

/// A running machine.
pub(super) struct Vm {
    child: Child,
    stdin: ChildStdin,
    said: Receiver<Said>,
    deadline: Instant,
    control: PathBuf,
    /// Checks that passed in the guest.
    pub(super) passed: usize,
    /// Checks that failed in the guest, with reasons.
    pub(super) failed: Vec<String>,
    /// The last value of each name.
    pub(super) values: BTreeMap<String, String>,
    /// The bytes sent under each name.
    pub(super) data: BTreeMap<String, Vec<u8>>,
    /// What the slowest writer has done.
    pub(super) progress: u64,
}

impl Vm {
    /// Starts a machine whose files go into `directory`, and which must be done
    /// by `deadline`.
    pub(super) fn boot(prefix: &Prefix, plan: &Plan, directory: &Path, deadline: Instant) -> Result<Self> {
        let mut command = plan.command(prefix, directory)?;
        std::fs::write(directory.join("qemu.command"), format!("{command:?}\n"))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(directory.join("qemu.log"))?)
            .spawn()
            .context("starting QEMU")?;
        let stdin = child.stdin.take().context("QEMU without standard input")?;
        let stdout = child.stdout.take().context("QEMU without standard output")?;
        let mut log = File::create(directory.join("serial.log"))?;
        let (sender, said) = mpsc::channel();
        // Ends with QEMU, whose output it reads.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line);
                if writeln!(log, "{}", line.trim_end()).is_err() {
                    break;
                }
                if let Some(word) = Said::parse(&line)
                    && sender.send(word).is_err()
                {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            stdin,
            said,
            deadline,
            control: directory.join("qmp"),
            passed: 0,
            failed: Vec::new(),
            values: BTreeMap::new(),
            data: BTreeMap::new(),
            progress: 0,
        })
    }

    /// Writes a line to the guest's terminal.
    pub(super) fn type_line(&mut self, line: &str) -> Result<()> {
        self.stdin.write_all(format!("{line}\n").as_bytes()).context("typing to the guest")
    }

    /// Takes in what the guest says until the writer has done `more` operations
    /// after those known when this is called.
    pub(super) fn await_progress(&mut self, more: u64) -> Result<()> {
        while let Ok(word) = self.said.try_recv() {
            self.note(word);
        }
        let goal = self.progress + more;
        let pause = self.deadline.min(Instant::now() + PAUSE);
        while self.progress < goal {
            if let Some(count) = self.next(pause)? {
                bail!("the guest ended after {count} checks, {} operations", self.progress);
            }
        }
        Ok(())
    }

    /// Takes in what the guest says until it has given this value, which is forgotten: it may give it again.
    pub(super) fn await_value(&mut self, name: &str) -> Result<String> {
        loop {
            if let Some(value) = self.values.remove(name) {
                return Ok(value);
            }
            if let Some(count) = self.next(self.deadline).with_context(|| format!("waiting for {name}"))? {
                bail!("the guest ended after {count} checks, without {name}: {}", self.failed.join("; "));
            }
        }
    }

    /// QEMU's control protocol.
    pub(super) fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.control)
    }

    /// The machine's memory.
    pub(super) fn memory(&self) -> Result<File> {
        let fds = format!("/proc/{}/fd", self.child.id());
        for entry in std::fs::read_dir(&fds).context(fds)? {
            let path = entry?.path();
            let to = std::fs::read_link(&path).unwrap_or_default();
            if to.to_string_lossy().starts_with("/memfd:memory-backend-memfd") {
                return File::open(&path).with_context(|| path.display().to_string());
            }
        }
        bail!("QEMU has no memory in a file");
    }

    /// Takes in what the guest says until the writers stand still, as they do
    /// once the back end is dead: what was done before has been told then.
    pub(super) fn await_standstill(&mut self) -> Result<()> {
        loop {
            match self.said.recv_timeout(STANDSTILL) {
                Ok(word) => {
                    if let Some(count) = self.note(word) {
                        bail!("the guest ended after {count} checks, {} operations", self.progress);
                    }
                }
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => bail!("QEMU ended before the guest did"),
            }
        }
    }

    /// Takes in what the guest says until its end, waits for the machine to be
    /// gone, and judges what was said.
    pub(super) fn finish(&mut self) -> Result<()> {
        let count = loop {
            if let Some(count) = self.next(self.deadline)? {
                break count;
            }
        };
        let end = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if end.elapsed() > END {
                bail!("the machine did not switch off");
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if !self.failed.is_empty() {
            bail!("in the guest: {}", self.failed.join("; "));
        }
        if count > self.passed {
            bail!("the guest made {count} checks, but only {} arrived", self.passed);
        }
        if !status.success() {
            bail!("QEMU ended with {status}");
        }
        Ok(())
    }

    /// A value that the guest must have said.
    pub(super) fn value(&self, name: &str) -> Result<&str> {
        self.values.get(name).map(String::as_str).with_context(|| format!("the guest gave no value {name}"))
    }

    /// Waits for the next word; the number of checks if it was the last one.
    fn next(&mut self, deadline: Instant) -> Result<Option<usize>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.said.recv_timeout(left) {
            Ok(word) => Ok(self.note(word)),
            Err(RecvTimeoutError::Timeout) => bail!("time is up; the machine is {}", self.state()),
            Err(RecvTimeoutError::Disconnected) => bail!("QEMU ended before the guest did"),
        }
    }

    fn note(&mut self, word: Said) -> Option<usize> {
        match word {
            Said::Ok => self.passed += 1,
            Said::Fail(reason) => self.failed.push(reason),
            Said::Value(name, value) => {
                self.values.insert(name, value);
            }
            Said::Data(name, bytes) => self.data.entry(name).or_default().extend(bytes),
            Said::Progress(count) => self.progress = count,
            Said::End(count) => return Some(count),
        }
        None
    }

    /// What QEMU says of itself: tells a stuck guest from a stuck QEMU.
    fn state(&self) -> String {
        match Qmp::connect(&self.control).and_then(|mut qmp| qmp.execute("query-status")) {
            Ok(status) => status.get("status").map_or_else(|| "unknown".to_owned(), ToString::to_string),
            Err(error) => format!("not answering ({error})"),
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Already gone after `finish`; either way there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn said_after_kernel_message_is_found() {
        assert_eq!(Said::parse("[  1.0] odd OUTBOARD-END 12\r"), Some(Said::End(12)));
        assert_eq!(Said::parse("OUTBOARD-OK a"), Some(Said::Ok));
        assert_eq!(Said::parse("OUTBOARD-VALUE a b c"), Some(Said::Value("a".into(), "b c".into())));
        assert_eq!(Said::parse("OUTBOARD-DATA a 0aff"), Some(Said::Data("a".into(), vec![10, 255])));
    }

    #[test]
    fn said_that_is_broken_is_passed_over() {
        for line in ["", "OUTBOARD-END x", "OUTBOARD-DATA a 0", "OUTBOARD-DATA a zz", "OUTBOARD-VALUE a"] {
            assert_eq!(Said::parse(line), None, "{line}");
        }
    }
}
