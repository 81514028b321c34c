//! A program from its arguments to its exit status.

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Command};
use outboard_device::{Device, DeviceError};

use crate::house::{House, Nothing};
use crate::{announce, logging, plan, process};

/// A back-end program: a device with its name and its options.
pub trait Program: 'static {
    /// The program's name, as installed: `vhost-user-rng`.
    const NAME: &'static str;
    /// The device type for management software, one of [`crate::SCHEMA_TYPES`] where the schema knows it: `block`.
    const TYPE: &'static str;
    /// The capabilities that the schema defines for this type, as the options of the same name: `read-only`.
    const FEATURES: &'static [&'static str];
    /// One line for the help text and the discovery file, without a full stop at the end.
    const DESCRIPTION: &'static str;
    /// The program's own options.
    type Args: Args + Send + 'static;
    /// The device.
    type Device: Device + 'static;

    /// Opens the device: all that can fail on the host's side fails here, before a front end can connect.
    ///
    /// # Errors
    /// What the user has to know, in one line: `cannot open disk.img: No such file or directory`.
    fn open(args: Self::Args) -> Result<Self::Device, DeviceError>;

    /// How QEMU is started with the program listening at `/tmp/outboard.sock`, for the help text.
    #[must_use]
    fn example() -> String {
        format!(
            "{name} --socket-path /tmp/outboard.sock &\n\
             qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=mem,size=1G,share=on \\\n    \
             -machine memory-backend=mem -chardev socket,id=dev,path=/tmp/outboard.sock \\\n    \
             -device {name}-pci,chardev=dev ...",
            name = Self::NAME
        )
    }
}

/// A program whose devices have something in common: the ports of a switch.
pub trait Housed: Program {
    /// The options of what they have in common. They are the process's, and not a device's.
    type HouseArgs: Args;
    /// What they have in common.
    type Common: Send + Sync + 'static;

    /// Makes what the devices have in common, before the first of them is opened.
    ///
    /// # Errors
    /// As of [`Program::open`].
    fn furnish(args: Self::HouseArgs) -> Result<Self::Common, DeviceError>;

    /// Opens a device beside the others. No two have the same name at a time.
    ///
    /// # Errors
    /// As of [`Program::open`].
    fn open_in(args: Self::Args, name: &str, common: &Arc<Self::Common>)
    -> Result<Self::Device, DeviceError>;
}

/// The command line of a program, for its help text and its man page.
#[must_use]
pub fn command<P: Program>() -> Command {
    plan::command::<P, Nothing>()
}

/// [`command`] of a program whose devices have something in common.
#[must_use]
pub fn command_housed<P: Housed>() -> Command {
    plan::command::<P, P::HouseArgs>()
}

/// Runs the program on the process's arguments: the whole `main` of a back end.
#[must_use]
pub fn run<P: Program>() -> ExitCode {
    run_with::<P>(std::env::args_os())
}

/// [`run`] for a program whose devices have something in common.
#[must_use]
pub fn run_housed<P: Housed>() -> ExitCode {
    run_housed_with::<P>(std::env::args_os())
}

/// Runs the program on `args`, of which the first is its name. Signal handlers, log and descriptor limit are the
/// process's: this is to be called once.
///
/// The status is 0 after SIGTERM, SIGINT, the end of a connection given with `--fd`, `--help`, `--version` and
/// `--print-capabilities`; 1 after a failure; 2 after a wrong command line.
#[must_use]
pub fn run_with<P: Program>(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_in::<P, _, _>(args, &House { furnish: |Nothing {}| Ok(()), open: |args, _, ()| P::open(args) })
}

/// [`run_with`] for a program whose devices have something in common.
#[must_use]
pub fn run_housed_with<P: Housed>(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_in::<P, _, _>(args, &House { furnish: |args| P::furnish(args).map(Arc::new), open: P::open_in })
}

fn run_in<P: Program, A: Args, C: Send + Sync + 'static>(
    args: impl IntoIterator<Item = OsString>,
    house: &House<P, A, C>,
) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if announce::wanted(&args) {
        return print(&announce::capabilities_json::<P>().to_string());
    }
    let plan = match plan::parse::<P, A>(args) {
        Ok(plan) => plan,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let format = plan.process.log_format;
    logging::init(plan.process.log_level, format);
    match process::start(plan, house) {
        Ok(code) => code,
        Err(error) => {
            logging::failure(P::NAME, format, error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn print(line: &str) -> ExitCode {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use outboard_device::defs::DeviceId;
    use outboard_device::{Chain, Cx, Features, Flow, Group, Handler, Profile};

    /// A device that is never served.
    pub(crate) struct Idle(Profile);

    impl Device for Idle {
        type Handler = IdleHandler;

        fn profile(&self) -> &Profile {
            &self.0
        }

        fn handler(&mut self, _: Group, _: Features) -> Result<IdleHandler, DeviceError> {
            Ok(IdleHandler)
        }
    }

    pub(crate) struct IdleHandler;

    impl Handler for IdleHandler {
        type Op = ();

        fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
            cx.done(chain)
        }
    }

    #[derive(Debug, Args)]
    pub(crate) struct KnownArgs {
        /// The disk
        #[arg(long, value_name = "PATH")]
        pub(crate) blk_file: Option<String>,
        /// Refuse writes
        #[arg(long)]
        pub(crate) read_only: bool,
    }

    pub(crate) struct Known;

    impl Program for Known {
        const NAME: &'static str = "vhost-user-blk";
        const TYPE: &'static str = "block";
        const FEATURES: &'static [&'static str] = &["read-only", "blk-file"];
        const DESCRIPTION: &'static str = "A disk";
        type Args = KnownArgs;
        type Device = Idle;

        fn open(args: KnownArgs) -> Result<Idle, DeviceError> {
            match args.blk_file {
                None => Ok(Idle(Profile::new(DeviceId(2), "blk"))),
                Some(path) => Err(DeviceError::Invalid(path)),
            }
        }
    }

    pub(crate) struct Unknown;

    impl Program for Unknown {
        const NAME: &'static str = "vhost-user-i2c";
        const TYPE: &'static str = "i2c";
        const FEATURES: &'static [&'static str] = &[];
        const DESCRIPTION: &'static str = "Buses";
        type Args = KnownArgs;
        type Device = Idle;

        fn open(_: KnownArgs) -> Result<Idle, DeviceError> {
            Ok(Idle(Profile::new(DeviceId(34), "i2c")))
        }
    }

    #[test]
    fn command_of_every_program_is_consistent() {
        command::<Known>().debug_assert();
        command::<Unknown>().debug_assert();
    }

    #[test]
    fn help_names_every_option_under_a_heading_and_shows_how_to_start_qemu() {
        let help = command::<Known>().render_long_help().to_string();
        for part in [
            "A disk\n",
            "Device:",
            "--blk-file <PATH>",
            "Connection:",
            "--fd <N>",
            "[default: 50]",
            "vhost-user-blk-pci,",
        ] {
            assert!(help.contains(part), "{part} is not in\n{help}");
        }
    }
}
