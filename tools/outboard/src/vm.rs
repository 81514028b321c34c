//! `outboard vm`: back ends, each a process of its own, and an installed QEMU whose guest has them as devices.
//!
//! Theory of operation: [`plan`] turns the options into a [`Plan`], which is data: where the sockets are, how each
//! back end is started, how QEMU is started. `--print` writes it as shell commands, `--print-libvirt` the parts of it
//! that libvirt has to know, and otherwise [`processes`] carries it out.
//!
//! Trusted: the command line, and QEMU. A guest talks to the back ends, never to this program.

mod device;
mod libvirt;
mod machine;
mod processes;
mod qemu;
mod shell;

use std::ffi::OsString;
use std::fs::{DirBuilder, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use device::Spec;
use machine::{Accelerator, Machine, Memory, Transport};
use qemu::Qemu;

/// Start back ends and a QEMU whose guest has them as devices
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A device, with options of its back end; may be repeated [default: rng, blk, a RAM disk, and net, a network
    /// that needs no rights]
    #[arg(long = "device", value_name = "NAME[=FILE][,OPTION[=VALUE]]...", value_parser = Spec::parse)]
    devices: Vec<Spec>,

    /// The QEMU to run [default: the one for the machine, found in the PATH]
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,

    /// Kind of machine [default: what QEMU emulates: q35 on x86_64, else virt]
    #[arg(long)]
    machine: Option<Machine>,

    /// How the guest finds the devices [default: mmio on microvm, else pci]
    #[arg(long)]
    transport: Option<Transport>,

    /// What runs the guest's code [default: kvm where that is possible, else tcg]
    #[arg(long)]
    accel: Option<Accelerator>,

    /// Memory of the guest (suffixes K, M, G, T; MiB without one)
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    memory: Memory,

    /// Virtual CPUs; a disk has a queue for each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    smp: u16,

    /// Boot this kernel, not from a disk
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,

    /// The kernel's initial file system
    #[arg(long, value_name = "FILE", requires = "kernel")]
    initrd: Option<PathBuf>,

    /// The kernel's command line [default: the console on the terminal]
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    append: Option<OsString>,

    /// Where the sockets are; made if need be, and kept [default: a private directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,

    /// Print shell commands that do the same, and run nothing
    #[arg(long)]
    print: bool,

    /// Print the parts of a libvirt domain that connect it to the back ends, and run nothing
    #[arg(long, conflicts_with_all = ["print", "qemu", "machine", "transport", "accel", "kernel", "extra"])]
    print_libvirt: bool,

    /// More arguments for QEMU, after all others
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    extra: Vec<OsString>,
}

const EXAMPLES: &str = "\
Examples:
  outboard vm --device blk=disk.img --device rng
  outboard vm --device blk=disk.img,read-only --device blk=ram=1G,serial=scratch --smp 4
  outboard vm --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0 root=/dev/vda'
  outboard vm --device blk=disk.img --device net
  outboard vm --device blk=disk.img --device net=tap=tap0,pairs=4 --smp 4

OPTION is any of `outboard run NAME --help`. A comma in a value is written twice.
The guest's console is on the terminal: Ctrl-A X ends QEMU, Ctrl-A H shows more.";

/// Where a libvirt domain's sockets are if nothing is said.
const LIBVIRT_DIRECTORY: &str = "/run/outboard";

/// What is to be started.
#[derive(Debug)]
pub(crate) struct Plan {
    back_ends: Vec<BackEnd>,
    /// QEMU's command line, the program first.
    qemu: Vec<OsString>,
}

/// A back end that is to be started, and the device that the guest sees.
#[derive(Debug)]
pub(crate) struct BackEnd {
    /// The device's name in messages and in QEMU: `blk0`.
    name: String,
    device: crate::run::Device,
    /// Where it listens; UTF-8, as QEMU's options are.
    socket: String,
    /// Its command line, without the program.
    args: Vec<String>,
    /// Queues that the guest shall have, if that can be chosen; of a network pairs of them, if there are several.
    queues: Option<u16>,
}

/// Runs the machine, or prints how. The status is QEMU's, or 1 if it never ran.
pub(crate) fn run(args: &Args) -> ExitCode {
    match dispatch(args) {
        Ok(status) => status,
        Err(error) => {
            warn(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells the user something, on standard error.
fn warn(what: std::fmt::Arguments<'_>) {
    // Nobody can be told that nobody can be told.
    let _ = writeln!(std::io::stderr(), "outboard vm: {what}");
}

fn dispatch(args: &Args) -> Result<ExitCode> {
    if args.print_libvirt {
        let directory = args.directory.clone().unwrap_or_else(|| LIBVIRT_DIRECTORY.into());
        let back_ends = back_ends(args, &directory)?;
        print(libvirt::domain(&back_ends).as_bytes())?;
        let program = std::env::current_exe()?;
        warn(format_args!("start these before the domain:"));
        std::io::stderr().write_all(&shell::back_ends(&program, &back_ends))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.print {
        let (directory, kept) = match &args.directory {
            Some(directory) => (directory.clone(), true),
            None => (std::env::temp_dir().join(format!("outboard-{}", std::process::id())), false),
        };
        let machine = machine::choose(args.machine, args.qemu.as_deref());
        let qemu = qemu::find(args.qemu.as_deref(), machine).unwrap_or_else(|error| {
            warn(format_args!("{error:#}"));
            Qemu::recent(args.qemu.as_deref(), machine)
        });
        let plan = plan(args, &directory, machine, &qemu)?;
        let directory = shell::Directory { path: &directory, kept };
        print(&shell::script(&std::env::current_exe()?, &directory, &plan))?;
        return Ok(ExitCode::SUCCESS);
    }
    let machine = machine::choose(args.machine, args.qemu.as_deref());
    let qemu = qemu::find(args.qemu.as_deref(), machine)?;
    // Removed when dropped, which is after the processes have ended.
    let private;
    let directory = match &args.directory {
        Some(directory) => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
            made.with_context(|| format!("cannot make {}", directory.display()))?;
            directory
        }
        None => {
            let made = tempfile::Builder::new()
                .prefix("outboard-")
                .permissions(Permissions::from_mode(0o700))
                .tempdir();
            private = made.context("cannot make a directory for the sockets")?;
            private.path()
        }
    };
    processes::run(&plan(args, directory, machine, &qemu)?)
}

/// All that is to be started for these options.
fn plan(args: &Args, directory: &Path, machine: Machine, qemu: &Qemu) -> Result<Plan> {
    let back_ends = back_ends(args, directory)?;
    let transport = args.transport.unwrap_or_else(|| machine.transport());
    if !machine.has(transport) {
        bail!("{machine} has no {transport}");
    }
    let wiring = qemu::Wiring {
        machine,
        transport,
        accelerator: args.accel.unwrap_or_else(|| machine::accelerator(machine)),
        memory: args.memory,
        processors: args.smp,
        kernel: args.kernel.as_deref(),
        initrd: args.initrd.as_deref(),
        append: args.append.as_deref(),
        extra: &args.extra,
    };
    let qemu = qemu.command_line(&wiring, &back_ends);
    Ok(Plan { back_ends, qemu })
}

fn back_ends(args: &Args, directory: &Path) -> Result<Vec<BackEnd>> {
    let Some(directory) = directory.to_str() else {
        bail!("{} is not UTF-8, which QEMU's options have to be", directory.display());
    };
    let default = [crate::run::Device::Rng, crate::run::Device::Blk, crate::run::Device::Net].map(Spec::of);
    let specs = if args.devices.is_empty() { default.as_slice() } else { &args.devices };
    let mut back_ends = Vec::<BackEnd>::new();
    for spec in specs {
        let number = back_ends.iter().filter(|other| other.device == spec.device()).count();
        let name = format!("{}{number}", spec.device().name());
        back_ends.push(spec.back_end(name, directory, args.smp)?);
    }
    Ok(back_ends)
}

fn print(text: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).context("cannot write to standard output")
}
