//! `outboard bench null`: a back end that does nothing with its requests, to see what everything else costs.

use std::ffi::OsString;
use std::process::ExitCode;

use outboard_device::defs::DeviceId;
use outboard_device::{Chain, Cx, DeviceError, Flow, Handler, Profile, Uniform};

/// Be a back end that returns every request at once, with length 0
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(super) struct Args {
    /// The options of any back end; --help shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

/// Becomes the back end.
pub(super) fn run(args: Args) -> ExitCode {
    outboard_daemon::run_with::<Null>(std::iter::once("outboard bench null".into()).chain(args.options))
}

/// The program.
struct Null;

/// The device's own options.
#[derive(clap::Args)]
struct NullOptions {
    /// How many queues to have
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    num_queues: u16,
}

/// Returns requests.
#[derive(Clone)]
struct Return;

impl Handler for Return {
    type Op = ();

    fn request(&mut self, chain: Chain, cx: &mut Cx<'_, ()>) -> Flow {
        cx.done(chain)
    }
}

impl outboard_daemon::Program for Null {
    const NAME: &'static str = "outboard bench null";
    const TYPE: &'static str = "null";
    const FEATURES: &'static [&'static str] = &[];
    const DESCRIPTION: &'static str = "Returns every request at once, with length 0";
    type Args = NullOptions;
    type Device = Uniform<Return>;

    fn open(options: NullOptions) -> Result<Uniform<Return>, DeviceError> {
        // No device type: no front end asks for one, and no driver would know what to do with it.
        let profile = Profile::new(DeviceId(0), "null").in_order();
        Ok(Uniform::new(profile.parallel_queues("queue", 1024, options.num_queues), Return))
    }

    fn example() -> String {
        "outboard bench baseline".to_owned()
    }
}
