//! The options that every program has. The command line is trusted; it is checked so that mistakes are told early.

use std::ffi::OsString;
use std::num::NonZeroU16;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgGroup, ArgMatches, Args, ValueEnum};
use outboard_backend::{EngineChoice, Options, Placement, Polling};

use crate::affinity::{self, AffinityError, CpuList};
use crate::logging::{LogFormat, LogLevel};

/// What `--poll-us` and `--poll-budget` are without being given, for the help text too.
const POLL_US: u32 = 50;
const POLL_BUDGET: u8 = 90;
/// The longest name of a device, in bytes.
const NAME_MAX: usize = 64;

/// The options that every program has for the process as a whole.
#[derive(Debug, Args)]
pub(crate) struct ProcessOptions {
    /// Serve this device, with options of its own; may be repeated
    ///
    /// KEY is any of the options above without the dashes, or name. An option without value is given as KEY or
    /// KEY=true. A comma in a value is doubled. Options of a device that stand beside --device are an error.
    #[arg(long, value_name = "KEY=VALUE,...", help_heading = "Several devices")]
    pub(crate) device: Vec<OsString>,

    /// Serve the devices in this TOML file, each a table [[device]] whose keys are the options above
    ///
    /// Keys outside of a table are log-level, log-format and control; the command line goes before them.
    #[arg(long, value_name = "FILE", help_heading = "Several devices")]
    pub(crate) config: Option<PathBuf>,

    /// Serve a device for each file NAME.toml in this directory, of the keys of --device, as files come and go
    ///
    /// A device is named after its file, and has its socket beside it, as NAME.sock, unless the file says otherwise.
    #[arg(long, value_name = "DIR", help_heading = "Several devices")]
    pub(crate) device_dir: Option<PathBuf>,

    /// Serve the queues of all devices by N threads, which wait and run as the options of the first device say
    #[arg(long, value_name = "N", help_heading = "Performance")]
    pub(crate) shared_threads: Option<NonZeroU16>,

    /// Create this UNIX socket for commands, of mode 0600: `outboard control PATH` is its client
    #[arg(long, value_name = "PATH", help_heading = "Connection")]
    pub(crate) control: Option<PathBuf>,

    /// Print what the program can do as a JSON object and exit; other options are ignored
    #[arg(long, help_heading = "Other")]
    pub(crate) print_capabilities: bool,

    /// Log this much to standard error
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Info, help_heading = "Logging")]
    pub(crate) log_level: LogLevel,

    /// Log in this format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Logging")]
    pub(crate) log_format: LogFormat,
}

/// The options that every device has.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("socket").required(true).args(["socket_path", "fd"])))]
pub(crate) struct DeviceOptions {
    /// Create this UNIX socket and wait there for a front end, then for the next
    ///
    /// A socket that a dead program left at PATH is replaced; a socket in use, or anything that is not a socket,
    /// is an error. At most 107 bytes.
    #[arg(long, value_name = "PATH", help_heading = "Connection")]
    pub(crate) socket_path: Option<PathBuf>,

    /// Connect to the socket of --socket-path, where a front end listens, and again after each end
    #[arg(long, requires = "socket_path", conflicts_with = "fd", help_heading = "Connection")]
    pub(crate) client: bool,

    /// Use inherited descriptor N, a UNIX stream socket, connected or listening
    ///
    /// Connected: serve this front end, and exit with status 0 when it closes. Listening: as --socket-path.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..), help_heading = "Connection")]
    pub(crate) fd: Option<RawFd>,

    /// What the device is called in the log, in the names of threads, and on the control socket
    #[arg(long, value_name = "NAME", value_parser = parse_name, help_heading = "Connection")]
    pub(crate) name: Option<String>,

    /// Do not offer packed rings to the driver
    ///
    /// For front ends that hand the feature on to the guest whatever they are told.
    #[arg(long, help_heading = "Connection")]
    no_packed: bool,

    /// Wait for requests, and do I/O on the host, in this way
    #[arg(long, value_name = "ENGINE", value_enum, default_value_t = Engine::Auto, help_heading = "Performance")]
    engine: Engine,

    /// Poll the queues for new requests before waiting for a kick
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Poll::Adaptive, help_heading = "Performance")]
    poll: Poll,

    /// Adaptive polling: look for at most N microseconds, 1 to 100000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000),
          default_value_t = POLL_US, help_heading = "Performance")]
    poll_us: u32,

    /// Adaptive polling: spend at most this share of one CPU per queue thread, in percent, 1 to 100
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100),
          default_value_t = POLL_BUDGET, help_heading = "Performance")]
    poll_budget: u8,

    /// io_uring: let a kernel thread look for submissions (IORING_SETUP_SQPOLL)
    #[arg(long, help_heading = "Performance")]
    io_uring_sqpoll: bool,

    /// io_uring: register guest memory with the kernel, which pins it. Not for guests with a balloon
    ///
    /// The kernel goes on using the pages that it has pinned. If the front end takes pages away from the running guest
    /// (a balloon, free page reporting, virtio-mem), the guest gets others in their place, and DATA IS CORRUPTED.
    /// Nothing tells this program of it. Use it only for guests whose memory stays: without any of these.
    #[arg(long, help_heading = "Performance")]
    io_uring_register_memory: bool,

    /// io_uring: poll the disk for what goes past the page cache (IORING_SETUP_IOPOLL), if its driver has queues for it
    ///
    /// The queue thread does not sleep while requests are under way. For disks with /sys/block/*/queue/io_poll 1, such
    /// as NVMe disks after nvme.poll_queues=N; others are served as without, with a warning.
    #[arg(long, help_heading = "Performance")]
    io_uring_iopoll: bool,

    /// Run each queue thread on one of these CPUs, in turn: numbers and ranges, such as 0-3,8
    #[arg(long, value_name = "LIST", value_parser = affinity::parse, help_heading = "Performance")]
    cpus: Option<CpuList>,

    /// Prefer the memory of this NUMA node for the queue threads, and run them on its CPUs (unless --cpus)
    #[arg(long, value_name = "N", help_heading = "Performance")]
    numa_node: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Engine {
    /// io_uring where the kernel allows it, else epoll
    Auto,
    /// io_uring; epoll, with a line in the log, where the kernel refuses it
    #[value(name = "io_uring", alias = "io-uring")]
    IoUring,
    /// epoll and plain system calls
    Epoll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Poll {
    /// For as long as it pays, within --poll-us and --poll-budget
    Adaptive,
    /// All the time: the lowest latency, for a whole CPU per queue thread
    Always,
    /// Never
    Off,
}

impl DeviceOptions {
    /// Options that are well-formed one by one and make no sense together.
    pub(crate) fn conflict(&self, matches: &ArgMatches) -> Option<&'static str> {
        let given = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        if self.poll != Poll::Adaptive && (given("poll_us") || given("poll_budget")) {
            return Some("--poll-us and --poll-budget are for --poll adaptive");
        }
        let io_uring = self.io_uring_sqpoll || self.io_uring_register_memory || self.io_uring_iopoll;
        if self.engine == Engine::Epoll && io_uring {
            return Some("--io-uring-... options are not for --engine epoll");
        }
        None
    }

    /// How the back end is to serve the device.
    pub(crate) fn backend(&self) -> Options {
        Options {
            name: self.name.clone(),
            no_packed: self.no_packed,
            engine: match self.engine {
                Engine::Auto => EngineChoice::Auto,
                Engine::IoUring => EngineChoice::IoUring,
                Engine::Epoll => EngineChoice::Epoll,
            },
            polling: match self.poll {
                Poll::Adaptive => Polling::Adaptive {
                    longest: Duration::from_micros(self.poll_us.into()),
                    budget: self.poll_budget,
                },
                Poll::Always => Polling::Always,
                Poll::Off => Polling::Off,
            },
            sqpoll: self.io_uring_sqpoll,
            register_memory: self.io_uring_register_memory,
            iopoll: self.io_uring_iopoll,
            placement: Placement::default(),
            crew: None,
        }
    }

    /// Where the threads that serve the device's queues go.
    pub(crate) fn placement(&self) -> Result<Placement, AffinityError> {
        if self.cpus.is_none() && self.numa_node.is_none() {
            return Ok(Placement::default());
        }
        affinity::placement(self.cpus.as_ref(), self.numa_node)
    }
}

fn parse_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    match text.chars().next() {
        Some(first) if first.is_ascii_alphanumeric() && text.chars().all(fits) && text.len() <= NAME_MAX => {
            Ok(text.to_owned())
        }
        _ => Err(format!("1 to {NAME_MAX} of a-z, A-Z, 0-9, '.', '_' and '-', a letter or digit first")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use crate::program::tests::Known;
    use clap::FromArgMatches;

    fn parse(args: &[&str]) -> Result<(DeviceOptions, Option<&'static str>), clap::error::ErrorKind> {
        let args = ["vhost-user-blk"].iter().chain(args);
        let matches = command::<Known>().try_get_matches_from(args).map_err(|error| error.kind())?;
        let options = DeviceOptions::from_arg_matches(&matches).map_err(|error| error.kind())?;
        let conflict = options.conflict(&matches);
        Ok((options, conflict))
    }

    #[test]
    fn options_without_performance_options_are_those_of_the_back_end() {
        let (options, conflict) = parse(&["--fd=3"]).unwrap();
        assert_eq!(format!("{:?}", options.backend()), format!("{:?}", Options::default()));
        assert_eq!(conflict, None);
    }

    #[test]
    fn options_given_with_and_without_equals_sign_are_the_same() {
        for args in [
            ["--poll=adaptive", "--poll-us=7", "--fd=3"].as_slice(),
            &["--poll", "adaptive", "--poll-us", "7", "--fd", "3"],
        ] {
            let options = parse(args).unwrap().0.backend();
            let longest = Duration::from_micros(7);
            assert_eq!(options.polling, Polling::Adaptive { longest, budget: POLL_BUDGET });
        }
    }

    #[test]
    fn options_that_contradict_each_other_are_a_conflict() {
        for args in [
            ["--fd=3", "--poll=off", "--poll-us=7"].as_slice(),
            &["--fd=3", "--poll=always", "--poll-budget=50"],
            &["--fd=3", "--engine=epoll", "--io-uring-sqpoll"],
            &["--fd=3", "--engine=epoll", "--io-uring-register-memory"],
            &["--fd=3", "--engine=epoll", "--io-uring-iopoll"],
        ] {
            assert!(parse(args).unwrap().1.is_some(), "{args:?}");
        }
    }

    #[test]
    fn options_for_io_uring_reach_the_back_end() {
        let io_uring = |option: &str| parse(&["--fd=3", "--engine=io_uring", option]).unwrap().0.backend();
        for (option, expected) in [
            ("--io-uring-sqpoll", [true, false, false]),
            ("--io-uring-register-memory", [false, true, false]),
            ("--io-uring-iopoll", [false, false, true]),
        ] {
            let options = io_uring(option);
            assert_eq!(options.engine, EngineChoice::IoUring);
            assert_eq!([options.sqpoll, options.register_memory, options.iopoll], expected, "{option}");
        }
    }

    #[test]
    fn packed_rings_can_be_left_out() {
        assert!(!parse(&["--fd=3"]).unwrap().0.backend().no_packed);
        assert!(parse(&["--fd=3", "--no-packed"]).unwrap().0.backend().no_packed);
    }

    #[test]
    fn name_of_other_characters_is_refused() {
        let longest = "d".repeat(NAME_MAX);
        for name in ["a", "Disk-0_1.x", "0", &longest] {
            assert_eq!(parse(&["--fd=3", "--name", name]).unwrap().0.backend().name.as_deref(), Some(name));
        }
        for name in ["", ".", "-a", "a b", "a/b", "é", &format!("{longest}d")] {
            let error = parse(&["--fd=3", &format!("--name={name}")]).unwrap_err();
            assert_eq!(error, clap::error::ErrorKind::ValueValidation, "{name}");
        }
    }

    #[test]
    fn socket_given_not_at_all_or_twice_is_refused() {
        use clap::error::ErrorKind::{
            ArgumentConflict, InvalidValue, MissingRequiredArgument, ValueValidation,
        };
        assert_eq!(parse(&[]).unwrap_err(), MissingRequiredArgument);
        assert_eq!(parse(&["--fd=3", "--socket-path=/x"]).unwrap_err(), ArgumentConflict);
        assert_eq!(parse(&["--fd=3", "--fd=4"]).unwrap_err(), ArgumentConflict);
        assert_eq!(parse(&["--fd=2"]).unwrap_err(), ValueValidation);
        assert!(parse(&["--fd=3", "--client"]).is_err() && parse(&["--socket-path=/x", "--client"]).is_ok());
        assert_eq!(parse(&["--socket-path="]).unwrap_err(), InvalidValue);
    }
}
