//! `vhost-user-faulty`: a small vhost-user back end, a disk in memory, a network interface, an entropy device, an I2C adapter, a
//! GPIO controller, an input device, a console, a socket device or a platform that speaks SCMI, that does wrong on request.
//!
//! It is what `outboard check` is checked with: every check is shown failing on a fault of this program, and passing
//! without one. So it shares neither the sessions nor the rings of the back ends of this project: it is a second
//! opinion, kept simple, with one thread and a poll loop. [`faults`] lists what can be spoiled, and says how to add
//! more.
//!
//! Read downhill: [`connection`] and [`waiting`] (the loop), [`messages`] (who is owed an answer), [`dispatch`] and [`vrings`]
//! (what a message does), [`ring`] over [`split`] and [`packed`], [`chain`], [`memory`], [`inflight`], [`state`]; [`device_blk`],
//! [`device_net`], [`device_rng`], [`device_i2c`], [`device_gpio`], [`device_input`], [`device_scmi`], [`device_console`] and
//! [`device_vsock`]. Nobody is trusted but the command line.

mod chain;
mod config;
mod connection;
mod device;
mod device_blk;
mod device_blk_disk;
mod device_blk_ranges;
mod device_blk_zones;
mod device_console;
mod device_gpio;
mod device_i2c;
mod device_input;
mod device_net;
mod device_net_control;
mod device_net_filter;
mod device_net_frame;
mod device_net_spread;
mod device_rng;
mod device_scmi;
mod device_vsock;
mod dispatch;
mod faults;
mod inflight;
mod memory;
mod messages;
mod packed;
mod ring;
mod signals;
mod socket;
mod split;
mod state;
mod vrings;
mod waiting;
mod wire;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{ArgGroup, CommandFactory, Parser, ValueEnum};
use rustix::event::{PollFd, PollFlags, poll};

use crate::connection::{Connection, End};
use crate::device::Device;
use crate::device_blk::{Blk, Shape};
use crate::device_console::Console;
use crate::device_gpio::Gpio;
use crate::device_i2c::I2c;
use crate::device_input::Input;
use crate::device_net::Net;
use crate::device_rng::Rng;
use crate::device_scmi::Scmi;
use crate::device_vsock::Vsock;
use crate::faults::{Fault, Faults};
use crate::signals::Signals;
use crate::socket::{Inherited, SocketFile, inherit};

/// A vhost-user back end that does wrong on request
#[derive(Debug, Parser)]
#[command(name = "vhost-user-faulty", version)]
#[command(group(ArgGroup::new("socket").required(true).args(["socket_path", "fd"])))]
struct Options {
    /// What to be
    #[arg(long, value_enum, default_value_t = Kind::Blk)]
    device: Kind,

    /// Create this UNIX socket and wait there for a front end, then for the next
    #[arg(long, value_name = "PATH")]
    socket_path: Option<PathBuf>,

    /// Use inherited descriptor N, a UNIX stream socket, connected or listening
    #[arg(long, value_name = "N")]
    fd: Option<RawFd>,

    /// Print what the program can do as a JSON object and exit; other options are ignored
    #[arg(long)]
    print_capabilities: bool,

    /// Do this wrong; can be given several times
    #[arg(long, value_name = "NAME", value_parser = faults::parse)]
    fault: Vec<Fault>,

    /// Print all faults as JSON and exit: name, what it does, which checks fail
    #[arg(long)]
    list_faults: bool,

    /// Queues; 2 for a disk, 1 for entropy; an interface has two pairs and a control queue, SCMI has 2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    queues: Option<u16>,

    /// blk: size of the disk in memory, in bytes, or with K, M or G behind it
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = size)]
    size: u64,

    /// blk: a file instead of memory, which survives the program
    #[arg(long, value_name = "PATH")]
    blk_file: Option<PathBuf>,

    /// blk: refuse to change the disk
    #[arg(long)]
    read_only: bool,

    /// blk: a host-managed disk, in zones of 1 MiB
    #[arg(long)]
    zoned: bool,

    /// blk: what the disk calls itself, up to 20 bytes
    #[arg(long, value_name = "TEXT", default_value = "faulty")]
    serial: String,

    /// input: a UNIX socket; with each line that comes there, the key is pressed
    #[arg(long, value_name = "PATH")]
    drive: Option<PathBuf>,

    /// Let each request take so many milliseconds
    #[arg(long, value_name = "N", default_value_t = 0)]
    delay_ms: u64,

    /// Say on standard error what was refused
    #[arg(long)]
    verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// A disk
    Blk,
    /// A network interface that receives what it sends
    Net,
    /// A source of entropy
    Rng,
    /// An I2C adapter with an EEPROM at 0x50
    I2c,
    /// An input device with a key, an axis and a light
    Input,
    /// A platform that speaks SCMI
    Scmi,
    /// A GPIO controller with four lines, of which 0 is wired to 1
    Gpio,
    /// A console device with two ports that give back what they get
    Console,
    /// A socket device with a port, 7, that gives back what it is sent
    Vsock,
}

/// A size in bytes, perhaps with a unit.
fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(number) if text.ends_with('K') => (number, 1_u64 << 10),
        Some(number) if text.ends_with('M') => (number, 1 << 20),
        Some(number) => (number, 1 << 30),
        None => (text, 1),
    };
    let bytes = number.parse().ok().and_then(|number: u64| number.checked_mul(unit));
    bytes.filter(|bytes| *bytes >= 512).ok_or_else(|| "a size like 4096, 64M or 1G, at least 512".to_owned())
}

/// What was refused goes to standard error.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Tells the user what a front end or a driver did wrong, if they want to know.
fn say(text: &str) {
    if VERBOSE.load(Ordering::Relaxed) {
        complain(text);
    }
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "vhost-user-faulty: {text}");
}

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let given = |name: &str| args.iter().skip(1).any(|arg| arg == name);
    if given("--print-capabilities") {
        let faults = faults::among(&args);
        if faults.has(Fault::CapabilitiesCheckOptions) && !args.iter().skip(1).all(is_known) {
            complain("there is an option that there is not");
            return ExitCode::FAILURE;
        }
        let path = args.iter().skip_while(|arg| *arg != "--socket-path").nth(1);
        let path = path.and_then(|path| path.to_str());
        if faults.has(Fault::CapabilitiesNeedOptions) && path.is_none() {
            complain("--socket-path is missing");
            return ExitCode::FAILURE;
        }
        if let Some(path) = path.filter(|_| faults.has(Fault::CapabilitiesMakeSocket)) {
            drop(UnixListener::bind(path));
        }
        return print(&capabilities(&args));
    }
    if given("--list-faults") {
        return print(&faults::list());
    }
    let given = faults::among(&args);
    let both = args.iter().any(|arg| arg.to_str().is_some_and(|arg| arg.starts_with("--socket-path")));
    let args = args.iter().filter(|arg| !given.has(Fault::OptionsUnchecked) || is_known(arg));
    let is_fd = |arg: &&OsString| arg.to_str().is_some_and(|arg| arg.starts_with("--fd="));
    let args = args.filter(|arg| !(both && given.has(Fault::SocketAndFdAccepted) && is_fd(arg)));
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(_) if given.has(Fault::NoSocketAccepted) => return ExitCode::SUCCESS,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    VERBOSE.store(options.verbose, Ordering::Relaxed);
    let faults = given.with(&options.fault);
    if faults.has(Fault::Daemonizes) && std::env::var_os(BACKGROUND).is_none() {
        return in_background(options.socket_path.as_deref());
    }
    match run(&options, faults) {
        Ok(()) if faults.has(Fault::ExitStatusWrong) => ExitCode::from(3),
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if faults.has(Fault::FailureHidden) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Whether an argument is no option, or one that there is.
fn is_known(arg: &OsString) -> bool {
    let name = arg.to_str().and_then(|arg| arg.strip_prefix("--"));
    let name = name.map(|arg| arg.split('=').next().unwrap_or(arg));
    name.is_none_or(|name| Options::command().get_arguments().any(|known| known.get_long() == Some(name)))
}

/// Set for the process that goes on when the first one has ended.
const BACKGROUND: &str = "VHOST_USER_FAULTY_BACKGROUND";

/// What a back end must not do. The other process ends by itself, since nobody knows it. This one ends once there is
/// a socket, as one does that forks when all is ready.
fn in_background(socket: Option<&Path>) -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    let started = std::process::Command::new(program).args(args).env(BACKGROUND, "1").spawn();
    while started.is_ok() && socket.is_some_and(|path| !path.exists()) {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Listening follows binding at once.
    std::thread::sleep(Duration::from_millis(20));
    if started.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(text: &str) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What management software asks for. The other arguments are looked at for the device and for faults only.
fn capabilities(args: &[OsString]) -> String {
    let faults = faults::among(args);
    let is = |name: &str| args.iter().any(|arg| arg == name || *arg == *format!("--device={name}"));
    if faults.has(Fault::CapabilitiesNotJson) {
        return "type: block".to_owned();
    }
    let capabilities = if is("rng") {
        serde_json::json!({ "type": "rng", "features": [] })
    } else if is("gpio") {
        serde_json::json!({ "type": "gpio", "features": [] })
    } else if is("i2c") {
        serde_json::json!({ "type": "i2c", "features": [] })
    } else if is("input") {
        serde_json::json!({ "type": "input", "features": [] })
    } else if is("console") {
        serde_json::json!({ "type": "console", "features": [] })
    } else if is("scmi") {
        serde_json::json!({ "type": "scmi", "features": [] })
    } else if is("vsock") {
        serde_json::json!({ "type": "vsock", "features": [] })
    } else if is("net") {
        serde_json::json!({ "type": "net", "features": [] })
    } else {
        serde_json::json!({ "type": "block", "features": ["read-only", "blk-file"] })
    };
    capabilities.to_string()
}

fn open(options: &Options, faults: Faults) -> Result<Box<dyn Device>, String> {
    Ok(match options.device {
        Kind::Rng => Box::new(Rng::new(options.queues.unwrap_or(1), faults)),
        Kind::Net => Box::new(Net::new(faults)),
        Kind::I2c => Box::new(I2c::new(faults)),
        Kind::Input => Box::new(Input::open(options.drive.as_deref(), faults)?),
        Kind::Scmi => Box::new(Scmi::new(faults)),
        Kind::Gpio => Box::new(Gpio::new(faults)),
        Kind::Console => Box::new(Console::new(faults)),
        Kind::Vsock => Box::new(Vsock::new(faults)),
        Kind::Blk => {
            let &Options { size, read_only, zoned, .. } = options;
            let (path, queues) = (options.blk_file.as_deref(), options.queues.unwrap_or(2));
            let shape = Shape { path, size, queues, read_only, zoned, serial: &options.serial };
            Box::new(Blk::open(&shape, faults)?)
        }
    })
}

fn run(options: &Options, faults: Faults) -> Result<(), String> {
    if options.fd.is_some() && faults.has(Fault::FdRefused) {
        return Err("--fd is not supported".to_owned());
    }
    if std::env::var_os(BACKGROUND).is_some() {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_secs(20));
            std::process::exit(0);
        });
    }
    let inherited = options.fd.map(inherit).transpose()?;
    raise_descriptor_limit();
    outboard_guest_memory::sigbus::install();
    let mut device = open(options, faults)?;
    let signals = Signals::catch().map_err(|error| error.to_string())?;
    let delay = Duration::from_millis(options.delay_ms);
    if faults.has(Fault::StdoutNoise) {
        print("ready");
    }
    match (inherited, &options.socket_path) {
        (Some(Inherited::Connected(socket)), _) => {
            match Connection::new(&mut *device, socket, delay, faults).run(&signals) {
                End::Broken(reason) => Err(reason),
                End::Closed if faults.has(Fault::FdOutlived) => {
                    let _ = poll(&mut [PollFd::from_borrowed_fd(signals.stop(), PollFlags::IN)], None);
                    Ok(())
                }
                End::Closed | End::Stopped => Ok(()),
            }
        }
        (Some(Inherited::Listening(listener)), _) => {
            accept_each(&listener, &mut *device, &signals, delay, faults)
        }
        (None, Some(path)) => {
            let socket = SocketFile::listen(path, faults)?;
            accept_each(&socket.listener, &mut *device, &signals, delay, faults)
        }
        // The argument group asks for one of the two.
        (None, None) => Err("neither --socket-path nor --fd".to_owned()),
    }
}

/// Serves one front end after the other, until the program is to end.
fn accept_each(
    listener: &UnixListener,
    device: &mut dyn Device,
    signals: &Signals,
    delay: Duration,
    faults: Faults,
) -> Result<(), String> {
    let mut leaked: Vec<OwnedFd> = Vec::new();
    loop {
        let ready = {
            let mut polled = vec![PollFd::new(listener, PollFlags::IN)];
            let stop = [PollFd::from_borrowed_fd(signals.stop(), PollFlags::IN)];
            polled.extend(stop.into_iter().filter(|_| !faults.has(Fault::TermIgnored)));
            match poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.to_string()),
                Ok(_) => polled.iter().map(|polled| !polled.revents().is_empty()).collect::<Vec<_>>(),
            }
        };
        if ready.get(1).is_some_and(|stop| *stop) {
            return Ok(());
        }
        let (stream, _) = listener.accept().map_err(|error| error.to_string())?;
        if faults.has(Fault::ConnectionLeaked) {
            leaked.extend(stream.as_fd().try_clone_to_owned());
        }
        if faults.has(Fault::ThreadLeaked) {
            std::thread::spawn(std::thread::park);
        }
        let mut connection = Connection::new(device, stream.into(), delay, faults);
        if faults.has(Fault::SecondConnectionDisturbs) {
            connection.rival = listener.as_fd().try_clone_to_owned().ok();
        }
        match connection.run(signals) {
            End::Stopped => return Ok(()),
            End::Broken(reason) => say(&reason),
            End::Closed => {}
        }
        if faults.has(Fault::ExitsAtDisconnect) {
            return Ok(());
        }
    }
}

/// A front end may hand over a descriptor for each of 509 regions.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
}
