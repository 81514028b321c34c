//! The options that every program has. The command line is trusted; it is checked so that mistakes are told early.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgGroup, ArgMatches, Args, ValueEnum};
use outboard_backend::{EngineChoice, Options, Polling};

use crate::logging::{LogFormat, LogLevel};

/// What `--poll-us` and `--poll-budget` are without being given, for the help text too.
const POLL_US: u32 = 50;
const POLL_BUDGET: u8 = 90;

/// The options that every program has.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("socket").required(true).args(["socket_path", "fd"])))]
pub(crate) struct SharedOptions {
    /// Create this UNIX socket and wait there for a front end, then for the next
    ///
    /// A socket that a dead program left at PATH is replaced; a socket in use, or anything that is not a socket,
    /// is an error. At most 107 bytes.
    #[arg(long, value_name = "PATH", help_heading = "Connection")]
    pub(crate) socket_path: Option<PathBuf>,

    /// Use inherited descriptor N, a UNIX stream socket, connected or listening
    ///
    /// Connected: serve this front end, and exit with status 0 when it closes. Listening: as --socket-path.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(RawFd).range(3..), help_heading = "Connection")]
    pub(crate) fd: Option<RawFd>,

    /// Print what the program can do as a JSON object and exit; other options are ignored
    #[arg(long, help_heading = "Other")]
    pub(crate) print_capabilities: bool,

    /// Log this much to standard error
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Info, help_heading = "Logging")]
    pub(crate) log_level: LogLevel,

    /// Log in this format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Logging")]
    pub(crate) log_format: LogFormat,

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

    /// io_uring: register guest memory with the kernel, which pins it
    #[arg(long, help_heading = "Performance")]
    io_uring_register_memory: bool,
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

impl SharedOptions {
    /// Options that are well-formed one by one and make no sense together.
    pub(crate) fn conflict(&self, matches: &ArgMatches) -> Option<&'static str> {
        let given = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        if self.poll != Poll::Adaptive && (given("poll_us") || given("poll_budget")) {
            return Some("--poll-us and --poll-budget are for --poll adaptive");
        }
        if self.engine == Engine::Epoll && (self.io_uring_sqpoll || self.io_uring_register_memory) {
            return Some("--io-uring-sqpoll and --io-uring-register-memory are not for --engine epoll");
        }
        None
    }

    /// How the back end is to serve the device.
    pub(crate) fn backend(&self) -> Options {
        Options {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use crate::program::tests::Known;
    use clap::FromArgMatches;

    fn parse(args: &[&str]) -> Result<(SharedOptions, Option<&'static str>), clap::error::ErrorKind> {
        let args = ["vhost-user-blk"].iter().chain(args);
        let matches = command::<Known>().try_get_matches_from(args).map_err(|error| error.kind())?;
        let shared = SharedOptions::from_arg_matches(&matches).map_err(|error| error.kind())?;
        let conflict = shared.conflict(&matches);
        Ok((shared, conflict))
    }

    #[test]
    fn options_without_performance_options_are_those_of_the_back_end() {
        let (shared, conflict) = parse(&["--fd=3"]).unwrap();
        assert_eq!(format!("{:?}", shared.backend()), format!("{:?}", Options::default()));
        assert_eq!((conflict, shared.log_level, shared.log_format), (None, LogLevel::Info, LogFormat::Text));
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
        ] {
            assert!(parse(args).unwrap().1.is_some(), "{args:?}");
        }
    }

    #[test]
    fn options_for_io_uring_reach_the_back_end() {
        let args = ["--fd=3", "--engine=io_uring", "--io-uring-sqpoll", "--io-uring-register-memory"];
        let options = parse(&args).unwrap().0.backend();
        assert_eq!(options.engine, EngineChoice::IoUring);
        assert!(options.sqpoll && options.register_memory);
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
        assert_eq!(parse(&["--socket-path="]).unwrap_err(), InvalidValue);
    }
}
