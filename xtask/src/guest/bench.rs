//! One scenario's bench: a directory, the back ends, the machine they are
//! plugged into. Everything started here ends with it.

mod net;
mod scmi;
mod vsock;

pub(super) use self::net::Nic;
pub(super) use self::vsock::Stub;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Peers;
use super::process::BackEnd;
use super::scenario::Scenario;
use super::vm::{Plan, Vm};
use crate::bench::process::Running;
use crate::digest::{BLOCK, mix};
use crate::namespace::Namespace;
use crate::setup::Arch;
use crate::setup::kernel::Kernel;
use crate::setup::prefix::{Prefix, Qemu};
use crate::setup::userland::Userland;
use crate::workspace::{Workspace, on_path, output};

/// The disk of the scenarios, in bytes.
pub(super) const DISK: u64 = 32 << 20;

/// A zone of the zoned one, in bytes.
const ZONE: u64 = 1 << 20;

/// The serial that our disks are given.
const SERIAL: &str = "outboard-0001";

/// Writers in the guest: more than queues, so that each has several requests.
const WRITERS: u32 = 8;

/// What the back ends write.
pub(super) const BACK_END_LOG: &str = "back-end.log";

/// What `outboard trace` writes.
pub(super) const TRACE_LOG: &str = "trace.log";

/// A disk as a scenario wants it.
#[derive(Debug, Clone)]
pub(super) struct Blk {
    pub(super) queues: u32,
    pub(super) read_only: bool,
    /// QEMU connects again when the back end went away.
    pub(super) reconnect: bool,
    /// `outboard trace` sits between QEMU and the back end.
    pub(super) traced: bool,
    /// The image is a qcow2 image that QEMU made, over a raw one.
    pub(super) qcow2: bool,
    /// It takes commands on a socket.
    pub(super) controlled: bool,
}

impl Default for Blk {
    fn default() -> Self {
        Self { queues: 1, read_only: false, reconnect: false, traced: false, qcow2: false, controlled: false }
    }
}

/// What all scenarios of a run share.
pub(super) struct Shared {
    pub(super) workspace: Workspace,
    pub(super) peers: Peers,
    pub(super) accel: &'static str,
    /// Kernel and initial file system of each architecture.
    pub(super) boot: Vec<(Arch, Kernel, PathBuf)>,
    /// The same for X86, with modules that those may lack.
    pub(super) more_modules: (Kernel, PathBuf),
}

impl Shared {
    /// For a machine of its own, with our back ends, and nothing but what `initramfs` has.
    pub(super) fn alone(workspace: &Workspace, kernel: Kernel, initramfs: PathBuf) -> Self {
        Self {
            workspace: workspace.clone(),
            peers: Peers::Ours,
            accel: "tcg",
            boot: vec![(Arch::X86, kernel.clone(), initramfs.clone())],
            more_modules: (kernel, initramfs),
        }
    }
}

/// See the module.
pub(super) struct Bench<'a> {
    shared: &'a Shared,
    scenario: &'a Scenario,
    directory: PathBuf,
    deadline: Instant,
    back_ends: Vec<BackEnd>,
    devices: Vec<String>,
    processors: u32,
    may_reboot: bool,
    more_modules: bool,
    /// Programs beside the back ends, which end as they may.
    servers: Vec<Running>,
}

impl<'a> Bench<'a> {
    /// An empty bench in `directory`.
    pub(super) fn new(shared: &'a Shared, scenario: &'a Scenario, directory: &Path) -> Self {
        Self {
            shared,
            scenario,
            directory: directory.to_path_buf(),
            deadline: Instant::now() + Duration::from_secs(scenario.limit),
            back_ends: Vec::new(),
            devices: Vec::new(),
            processors: 1,
            may_reboot: false,
            more_modules: false,
            servers: Vec::new(),
        }
    }

    /// Where this scenario's files are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where a disk that is [`Blk::controlled`] takes commands.
    pub(super) fn control(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// The scenario's QEMU, with its tools.
    pub(super) fn prefix(&self) -> Prefix {
        Prefix::qemu(&self.shared.workspace, self.scenario.qemu)
    }

    /// Where one of our programs is.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.shared.workspace.release_binary(name)
    }

    /// Whether the rings are packed.
    pub(super) fn packed(&self) -> bool {
        self.scenario.packed
    }

    /// The machines get a kernel that has all modules which scenarios load.
    pub(super) fn more_modules(&mut self) {
        self.more_modules = true;
    }

    /// The machines have so many processors.
    pub(super) fn processors(&mut self, count: u32) {
        self.processors = count;
    }

    /// Plugs in devices that are QEMU's own.
    pub(super) fn qemu_devices(&mut self, words: &[&str]) {
        self.devices.extend(words.iter().map(|&word| word.to_owned()));
    }

    /// The next machine waits for another one's state on a socket, and does not run before it is told to.
    pub(super) fn incoming(&mut self, socket: &Path) {
        self.devices.extend(["-S".to_owned(), "-incoming".to_owned(), format!("unix:{}", socket.display())]);
    }

    /// The guest may start again.
    pub(super) fn may_reboot(&mut self) {
        self.may_reboot = true;
    }

    /// Plugs in an entropy device, fed by the system or by a file.
    pub(super) fn rng(&mut self, source: Option<PathBuf>) -> Result<()> {
        // The other program takes the name as a stem for several sockets.
        let stem = self.directory.join("rng.sock");
        let socket = match self.shared.peers {
            Peers::Ours => stem.clone(),
            Peers::Others => self.directory.join("rng.sock0"),
        };
        let program = match self.shared.peers {
            Peers::Ours => self.shared.workspace.release_binary("vhost-user-rng"),
            Peers::Others => PathBuf::from("vhost-device-rng"),
        };
        let peers = self.shared.peers;
        self.start(&socket, move || {
            let mut command = Command::new(&program);
            command.arg("--socket-path").arg(&stem);
            match (peers, &source) {
                (Peers::Ours, Some(source)) => {
                    command.arg("--source").arg(source);
                }
                (Peers::Others, Some(source)) => {
                    command.arg("--rng-source").arg(source);
                }
                (_, None) => {}
            }
            Ok(command)
        })?;
        self.devices.extend(["-chardev".to_owned(), format!("socket,id=rng0,path={}", socket.display())]);
        let device = self.device_name("vhost-user-rng");
        self.devices.extend(["-device".to_owned(), format!("{device},chardev=rng0")]);
        Ok(())
    }

    /// Plugs in one of our devices whose stub needs nothing but a socket, in the scenario's ring format. It runs among the
    /// scenario's files, and takes commands.
    pub(super) fn plug(&mut self, name: &'static str, options: &[String]) -> Result<()> {
        let device = match self.scenario.arch {
            Arch::X86 => format!("vhost-user-{name}-pci"),
            Arch::Arm => format!("vhost-user-{name}-device"),
        };
        self.plug_as(name, options, &device)
    }

    /// The same by QEMU's device for testing: VirtIO's number for the device, its queues, and the bytes of its configuration
    /// space.
    pub(super) fn plug_generic(
        &mut self,
        name: &'static str,
        options: &[String],
        id: u16,
        queues: u16,
        config: u16,
    ) -> Result<()> {
        let device = format!(
            "vhost-user-test-device-pci,virtio-id={id},num_vqs={queues},vq_size=256,config_size={config}"
        );
        self.plug_as(name, options, &device)
    }

    fn plug_as(&mut self, name: &'static str, options: &[String], device: &str) -> Result<()> {
        let socket = self.directory.join(format!("{name}.sock"));
        let program = self.program(&format!("vhost-user-{name}"));
        let (listen, control, directory) = (socket.clone(), self.control(), self.directory.clone());
        let mut options = options.to_vec();
        // QEMU hands all that the back end offers to the guest, packed rings included.
        options.extend((!self.scenario.packed).then(|| "--no-packed".to_owned()));
        self.start(&socket, move || {
            let mut command = Command::new(&program);
            command.arg("--socket-path").arg(&listen).arg("--control").arg(&control);
            command.args(&options).current_dir(&directory);
            Ok(command)
        })?;
        self.devices.extend(["-chardev".to_owned(), format!("socket,id={name}0,path={}", socket.display())]);
        self.devices.extend(["-device".to_owned(), format!("{device},chardev={name}0")]);
        Ok(())
    }

    /// Plugs in a disk with an image of its own; the image's path.
    pub(super) fn blk(&mut self, blk: &Blk) -> Result<PathBuf> {
        let image = self.directory.join("disk.img");
        let file = std::fs::File::create(&image)?;
        file.set_len(DISK)?;
        if blk.read_only {
            // Something to read.
            let content: Vec<u8> = (0..DISK / 8).flat_map(|word| mix(word).to_le_bytes()).collect();
            std::fs::write(&image, content)?;
        }
        if blk.qcow2 {
            std::fs::rename(&image, self.directory.join("raw.img"))?;
            self.qemu_img(&["create", "-f", "qcow2", "-b", "raw.img", "-F", "raw", "disk.img"])?;
        }
        let socket = self.directory.join("blk.sock");
        let start = self.blk_command(blk, &image, &socket)?;
        self.start(&socket, start)?;
        let socket = if blk.traced { self.trace(&socket)? } else { socket };

        let mut chardev = format!("socket,id=blk0,path={}", socket.display());
        if blk.reconnect {
            chardev.push(',');
            chardev.push_str(self.scenario.qemu.reconnect());
        }
        let device = format!(
            "{},chardev=blk0,num-queues={},packed={}",
            self.device_name("vhost-user-blk"),
            blk.queues,
            if self.scenario.packed { "on" } else { "off" },
        );
        self.devices.extend(["-chardev".to_owned(), chardev, "-device".to_owned(), device]);
        self.processors = blk.queues;
        Ok(image)
    }

    /// Runs qemu-img among the scenario's files.
    pub(super) fn qemu_img(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Prefix::qemu(&self.shared.workspace, self.scenario.qemu).command("bin/qemu-img")?;
        output(command.args(arguments).current_dir(&self.directory)).context("qemu-img")?;
        Ok(())
    }

    /// Plugs in a zoned disk by QEMU's device for testing, which hides no feature; the image's path.
    pub(super) fn blk_zoned(&mut self) -> Result<PathBuf> {
        let image = self.directory.join("disk.img");
        std::fs::File::create(&image)?.set_len(DISK)?;
        let socket = self.directory.join("blk.sock");
        let program = self.shared.workspace.release_binary("vhost-user-blk");
        let (path, listen) = (image.clone(), socket.clone());
        self.start(&socket, move || {
            let mut command = Command::new(&program);
            command.arg("--socket-path").arg(&listen).arg("--blk-file").arg(&path);
            command.args(["--num-queues", "1", "--zoned", &ZONE.to_string(), "--zone-conventional", "2"]);
            command.args(["--zone-max-open", "3", "--zone-max-active", "4"]);
            Ok(command)
        })?;
        self.plug_bare_blk(&socket);
        Ok(image)
    }

    /// Plugs in a RAM disk by the same device: one that erases.
    pub(super) fn blk_ram(&mut self) -> Result<()> {
        let socket = self.directory.join("blk.sock");
        let program = self.shared.workspace.release_binary("vhost-user-blk");
        let listen = socket.clone();
        self.start(&socket, move || {
            let mut command = Command::new(&program);
            command.arg("--socket-path").arg(&listen).args(["--num-queues", "1", "--ram", "32M"]);
            Ok(command)
        })?;
        self.plug_bare_blk(&socket);
        Ok(())
    }

    /// A block device with all features of its back end.
    fn plug_bare_blk(&mut self, socket: &Path) {
        let chardev = format!("socket,id=blk0,path={}", socket.display());
        let device =
            "vhost-user-test-device-pci,chardev=blk0,virtio-id=2,num_vqs=1,vq_size=256,config_size=96";
        self.devices.extend(["-chardev".to_owned(), chardev, "-device".to_owned(), device.to_owned()]);
    }

    /// What the guest's script has to know about a zoned disk.
    pub(super) fn zoned_settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("OUTBOARD_ZONE_SECTORS", (ZONE / 512).to_string()),
            ("OUTBOARD_ZONES", (DISK / ZONE).to_string()),
        ]
    }

    /// Puts `outboard trace` before a back end; where it listens.
    fn trace(&mut self, back_end: &Path) -> Result<PathBuf> {
        let socket = back_end.with_extension("trace");
        let program = self.shared.workspace.release_binary("outboard");
        let (listen, connect) = (socket.clone(), back_end.to_path_buf());
        let command = move || {
            let mut command = Command::new(&program);
            command.arg("trace").arg(&listen).arg(&connect).args(["--json", "--device", "blk"]);
            Ok(command)
        };
        self.back_ends.push(BackEnd::start(command, &socket, &self.directory.join(TRACE_LOG))?);
        Ok(socket)
    }

    /// What `outboard trace` has written, line by line.
    pub(super) fn traced(&self) -> Result<Vec<serde_json::Value>> {
        let log = std::fs::read_to_string(self.directory.join(TRACE_LOG))?;
        log.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    fn blk_command(
        &self,
        blk: &Blk,
        image: &Path,
        socket: &Path,
    ) -> Result<impl Fn() -> Result<Command> + Send + 'static> {
        let blk = blk.clone();
        let (image, socket) = (image.to_path_buf(), socket.to_path_buf());
        let ours = self.shared.workspace.release_binary("vhost-user-blk");
        let others = Prefix::qemu(&self.shared.workspace, Qemu::V10);
        let peers = self.shared.peers;
        let control = self.control();
        Ok(move || {
            let queues = blk.queues.to_string();
            let mut command;
            match peers {
                Peers::Ours => {
                    command = Command::new(&ours);
                    command.arg("--socket-path").arg(&socket).arg("--blk-file").arg(&image);
                    command.args(["--num-queues", &queues, "--serial", SERIAL]);
                    if blk.read_only {
                        command.arg("--read-only");
                    }
                    if blk.qcow2 {
                        command.args(["--format", "qcow2", "--follow", "beside"]);
                    }
                    if blk.controlled {
                        command.arg("--control").arg(&control);
                    }
                }
                Peers::Others => {
                    let writable = if blk.read_only { "off" } else { "on" };
                    command = others.command("bin/qemu-storage-daemon")?;
                    let file =
                        format!("driver=file,node-name=file,discard=unmap,filename={}", image.display());
                    command.args(["--blockdev", &file]);
                    command.args(["--blockdev", "driver=raw,node-name=disk,file=file,discard=unmap"]);
                    command.arg("--export").arg(format!(
                        "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={},\
                         writable={writable},num-queues={queues}",
                        socket.display()
                    ));
                }
            }
            Ok(command)
        })
    }

    /// What the guest's scripts have to know about a disk.
    pub(super) fn blk_settings(&self, blk: &Blk) -> Vec<(&'static str, String)> {
        let serial = match self.shared.peers {
            Peers::Ours => SERIAL,
            Peers::Others => "vhost_user_blk",
        };
        vec![
            ("OUTBOARD_SECTORS", (DISK / 512).to_string()),
            ("OUTBOARD_READ_ONLY", u8::from(blk.read_only).to_string()),
            ("OUTBOARD_SERIAL", serial.to_owned()),
            ("OUTBOARD_PACKED", u8::from(self.scenario.packed).to_string()),
            ("OUTBOARD_QUEUES", blk.queues.to_string()),
            ("OUTBOARD_DISCARD", "1".to_owned()),
        ]
    }

    /// Starts the machine with all that is plugged in.
    pub(super) fn boot(&self, script: &str, settings: Vec<(&'static str, String)>) -> Result<Vm> {
        self.boot_at(&self.directory, script, settings)
    }

    /// Starts one of several machines, with all that was plugged in since the one before it. Its files are in a directory
    /// of its name.
    pub(super) fn boot_as(
        &mut self,
        name: &str,
        script: &str,
        settings: Vec<(&'static str, String)>,
    ) -> Result<Vm> {
        let directory = self.directory.join(name);
        std::fs::create_dir(&directory)?;
        let vm = self.boot_at(&directory, script, settings)?;
        self.devices.clear();
        Ok(vm)
    }

    fn boot_at(
        &self,
        directory: &Path,
        script: &str,
        mut settings: Vec<(&'static str, String)>,
    ) -> Result<Vm> {
        let arch = self.scenario.arch;
        let mut boot = self.shared.boot.iter();
        let (kernel, initramfs) = if self.more_modules {
            (&self.shared.more_modules.0, &self.shared.more_modules.1)
        } else {
            let found = boot.find(|(of, _, _)| *of == arch);
            let (_, kernel, initramfs) = found.context("no kernel for the scenario's architecture")?;
            (kernel, initramfs)
        };
        settings.push(("OUTBOARD_SCENARIO", script.to_owned()));
        let plan = Plan {
            arch,
            qemu: self.scenario.qemu,
            accel: self.shared.accel,
            processors: self.processors,
            may_reboot: self.may_reboot,
            kernel: kernel.image.clone(),
            initramfs: initramfs.clone(),
            settings,
            devices: self.devices.clone(),
        };
        let prefix = Prefix::qemu(&self.shared.workspace, plan.qemu);
        Vm::boot(&prefix, &plan, directory, self.deadline)
    }

    /// Starts the machine with the writer at work on the disk.
    pub(super) fn boot_writer(&self, blk: &Blk) -> Result<Vm> {
        let mut settings = self.blk_settings(blk);
        // Others forget what was in flight when they die: a request at a time is
        // all that survives that.
        let alone = blk.reconnect && self.shared.peers == Peers::Others;
        settings.push(("OUTBOARD_THREADS", if alone { 1 } else { WRITERS }.to_string()));
        settings.push(("OUTBOARD_BLOCKS", (DISK / BLOCK as u64).to_string()));
        self.boot("blk-write", settings)
    }

    /// The back end that was started first.
    pub(super) fn back_end(&mut self) -> Result<&mut BackEnd> {
        self.back_ends.first_mut().context("no back end runs")
    }

    /// How often our back ends have said `what`, by their log; `None` for
    /// others, which do not tell.
    pub(super) fn said(&self, what: &str) -> Result<Option<usize>> {
        if self.shared.peers == Peers::Others {
            return Ok(None);
        }
        let log = std::fs::read_to_string(self.directory.join(BACK_END_LOG))?;
        Ok(Some(log.matches(what).count()))
    }

    /// Ends the back ends, which must still run and must end well.
    pub(super) fn stop_back_ends(&mut self) -> Result<()> {
        for back_end in self.back_ends.drain(..) {
            back_end.stop(self.shared.peers)?;
        }
        Ok(())
    }

    /// The SHA-256 of a file.
    pub(super) fn digest_of(&self, path: &Path) -> Result<String> {
        let said = output(Command::new("sha256sum").arg(path))?;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok(said.split_whitespace().next().unwrap_or_default().to_owned())
    }

    /// The SHA-256 of a file in the root directory of an ext4 image.
    pub(super) fn digest_of_file_in(&self, image: &Path, name: &str) -> Result<String> {
        let to = self.directory.join(format!("dump-{name}"));
        let mut debugfs = Userland::open(&self.shared.workspace, Arch::X86).host_command("sbin/debugfs")?;
        output(debugfs.arg("-R").arg(format!("dump /{name} {}", to.display())).arg(image))?;
        ensure!(to.exists(), "the image has no file {name}");
        self.digest_of(&to)
    }

    /// An ext4 image has no fault.
    pub(super) fn check_file_system(&self, image: &Path) -> Result<()> {
        let mut e2fsck = Userland::open(&self.shared.workspace, Arch::X86).host_command("sbin/e2fsck")?;
        output(e2fsck.arg("-fn").arg(image)).context("the image's file system")?;
        Ok(())
    }

    fn start(&mut self, socket: &Path, command: impl Fn() -> Result<Command> + Send + 'static) -> Result<()> {
        let log = self.directory.join(BACK_END_LOG);
        self.back_ends.push(BackEnd::start(command, socket, &log)?);
        Ok(())
    }

    /// The device's name on the bus of the scenario's machine.
    fn device_name(&self, name: &str) -> String {
        match self.scenario.arch {
            Arch::X86 => format!("{name}-pci"),
            Arch::Arm => name.to_owned(),
        }
    }
}

/// Why a scenario cannot run with these back ends, if so.
pub(super) fn obstacle(shared: &Shared, scenario: &Scenario) -> Option<&'static str> {
    let peers = shared.peers;
    let kernel = shared.boot.iter().find(|(arch, ..)| *arch == scenario.arch).map(|(_, kernel, _)| kernel);
    for (device, option) in [
        ("i2c", "I2C_VIRTIO"),
        ("gpio", "GPIO_VIRTIO"),
        ("scmi-host", "I2C_VIRTIO"),
        ("scmi-host", "SENSORS_LM75"),
    ] {
        if scenario.name.starts_with(device) && !kernel.is_some_and(|kernel| kernel.has(option)) {
            return Some("the kernel has no driver for it (Debian's have none for I2C and GPIO)");
        }
    }
    if scenario.arch == Arch::Arm
        && scenario.name.starts_with("scmi")
        && !kernel.is_some_and(|kernel| kernel.has("ARM_SCMI_TRANSPORT_VIRTIO"))
    {
        return Some("the kernel has no SCMI over virtio (Debian's have none)");
    }
    let in_namespace = ["net-tap", "net-user"];
    if in_namespace.iter().any(|start| scenario.name.starts_with(start)) && !Namespace::is_possible() {
        return Some("no tap interface can be made in a namespace here (unshare, /dev/net/tun)");
    }
    let loops = |kernel: &Kernel| kernel.has("VSOCKETS_LOOPBACK") || kernel.has_module("vsock_loopback");
    if scenario.name.starts_with("vsock-host") && !kernel.is_some_and(loops) {
        return Some("the kernel's AF_VSOCK does not lead to itself (vsock_loopback)");
    }
    if scenario.name.starts_with("vsock-test") && !kernel.is_some_and(|kernel| kernel.has("VSOCKETS")) {
        return Some("the kernel is older than its tests of sockets (Debian 12's fails some of them)");
    }
    if scenario.name.starts_with("vsock-test") && !on_path("cc") {
        return Some("there is no C compiler for the kernel's tests");
    }
    if peers == Peers::Ours {
        return None;
    }
    if scenario.name.starts_with("blk-zoned") || scenario.name.starts_with("blk-host") {
        return Some("no other back end has zones, or erases");
    }
    if scenario.name.starts_with("blk-qcow2") {
        return Some("other back ends forget requests that were not flushed");
    }
    if scenario.name.starts_with("blk-locks") {
        return Some("it is our locks that are tried");
    }
    if scenario.name.starts_with("i2c") || scenario.name.starts_with("gpio") {
        return Some("other back ends have no simulated chips");
    }
    if scenario.name.starts_with("scmi") {
        return Some("no other back end has all protocols");
    }
    if scenario.name.starts_with("console") {
        return Some("no other back end has ports with names");
    }
    if scenario.name.starts_with("net") {
        return Some("no other back end has a tap interface and a switch");
    }
    if scenario.name.starts_with("vsock") {
        return Some("no other back end has services and messages");
    }
    if scenario.packed {
        return Some("no other back end has packed rings");
    }
    if scenario.name.starts_with("rng") && !on_path("vhost-device-rng") {
        return Some("vhost-device-rng is not on the PATH");
    }
    None
}

/// Our programs must have been built.
pub(super) fn require_programs(workspace: &Workspace) -> Result<()> {
    let all = [
        "vhost-user-rng",
        "vhost-user-scmi",
        "vhost-user-blk",
        "vhost-user-net",
        "vhost-user-gpio",
        "vhost-user-i2c",
        "vhost-user-input",
        "vhost-user-console",
        "vhost-user-vsock",
        "outboard",
    ];
    for name in all {
        if !workspace.release_binary(name).is_file() {
            bail!("{name} is not built: `cargo build --release`");
        }
    }
    Ok(())
}
