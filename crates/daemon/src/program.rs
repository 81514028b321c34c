//! A program from its arguments to its exit status.

use std::error::Error;
use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use outboard_backend::{Backend, Served, Stop};
use outboard_device::{Device, DeviceError};

use crate::accept::accept_each;
use crate::inherited::{self, Inherited};
use crate::listen::SocketFile;
use crate::options::SharedOptions;
use crate::{announce, logging, signals};

/// A back-end program: a device with its name and its options.
pub trait Program {
    /// The program's name, as installed: `vhost-user-rng`.
    const NAME: &'static str;
    /// The device type for management software, one of [`crate::SCHEMA_TYPES`] where the schema knows it: `block`.
    const TYPE: &'static str;
    /// The capabilities that the schema defines for this type, as the options of the same name: `read-only`.
    const FEATURES: &'static [&'static str];
    /// One line for the help text and the discovery file, without a full stop at the end.
    const DESCRIPTION: &'static str;
    /// The program's own options.
    type Args: Args;
    /// The device.
    type Device: Device;

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

/// The command line of a program, for its help text and its man page.
#[must_use]
pub fn command<P: Program>() -> Command {
    let command = Command::new(P::NAME).next_help_heading("Device");
    // Last, what the argument structs would set from their documentation.
    SharedOptions::augment_args(P::Args::augment_args(command))
        .version(env!("CARGO_PKG_VERSION"))
        .about(P::DESCRIPTION)
        .long_about(None)
        .after_help(format!("Example:\n{}", P::example()))
}

/// Runs the program on the process's arguments: the whole `main` of a back end.
#[must_use]
pub fn run<P: Program>() -> ExitCode {
    run_with::<P>(std::env::args_os())
}

/// Runs the program on `args`, of which the first is its name. Signal handlers, log and descriptor limit are the
/// process's: this is to be called once.
///
/// The status is 0 after SIGTERM, SIGINT, the end of a connection given with `--fd`, `--help`, `--version` and
/// `--print-capabilities`; 1 after a failure; 2 after a wrong command line.
#[must_use]
pub fn run_with<P: Program>(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if announce::wanted(&args) {
        return print(&announce::capabilities_json::<P>().to_string());
    }
    let (shared, own) = match parse::<P>(args) {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    logging::init(shared.log_level, shared.log_format);
    match start::<P>(&shared, own) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::failure(P::NAME, shared.log_format, error.as_ref());
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

fn parse<P: Program>(args: Vec<OsString>) -> Result<(SharedOptions, P::Args), clap::Error> {
    let mut command = command::<P>();
    let matches: ArgMatches = command.try_get_matches_from_mut(args)?;
    let shared = SharedOptions::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    if let Some(conflict) = shared.conflict(&matches) {
        return Err(command.error(ErrorKind::ArgumentConflict, conflict));
    }
    let own = P::Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    Ok((shared, own))
}

/// From the parsed options to the end of the program. The socket is adopted before anything else is opened (see
/// [`inherited::adopt`]), signals are caught before the socket's path exists, which is to be removed after them.
fn start<P: Program>(shared: &SharedOptions, own: P::Args) -> Result<(), Box<dyn Error>> {
    inherited::raise_descriptor_limit();
    let inherited = shared.fd.map(inherited::adopt).transpose()?;
    let device = P::open(own)?;
    let stop = Stop::new()?;
    let mut backend = Backend::new(device, shared.backend())?;
    signals::install(&stop, backend.refresh_notice())?;
    match (inherited, &shared.socket_path) {
        (Some(Inherited::Connected(stream)), _) => Ok(serve(&mut backend, stream, &stop)?),
        (Some(Inherited::Listening(listener)), _) => {
            tracing::info!("waiting for a front end on an inherited socket");
            Ok(accept_each(&listener, &stop, |stream| serve_and_go_on(&mut backend, stream, &stop))?)
        }
        (None, Some(path)) => {
            let socket = SocketFile::listen(path)?;
            tracing::info!("waiting for a front end at {}", path.display());
            Ok(accept_each(socket.listener(), &stop, |stream| serve_and_go_on(&mut backend, stream, &stop))?)
        }
        // The argument group requires one of the two.
        (None, None) => Err("neither --socket-path nor --fd".into()),
    }
}

fn serve<D: Device>(backend: &mut Backend<D>, stream: UnixStream, stop: &Stop) -> Result<(), Box<dyn Error>> {
    // An inherited socket may be in either mode; an accepted one blocks.
    stream.set_nonblocking(false)?;
    tracing::info!("front end connected");
    match backend.serve(stream, stop)? {
        Served::Closed => tracing::info!("front end disconnected"),
        Served::Stopped => tracing::info!("stopped"),
    }
    Ok(())
}

/// The connection's failure is its own.
fn serve_and_go_on<D: Device>(backend: &mut Backend<D>, stream: UnixStream, stop: &Stop) {
    if let Err(error) = serve(backend, stream, stop) {
        tracing::error!("connection ended: {}", logging::one_line(error.as_ref()));
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
        blk_file: Option<String>,
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
