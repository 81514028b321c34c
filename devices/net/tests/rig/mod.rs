//! The device behind a real socket, on a thread of its own.

use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::{Args, FromArgMatches};
use outboard_backend::{Backend, EngineChoice, Options as BackendOptions, Polling, Stop};
use outboard_frontend::{Frontend, Options};
use outboard_net::{NetOptions, Switches};

/// Longer than anything takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A front end before a device with these options. The thread ends with the connection.
pub(crate) fn before(args: &[&str], engine: EngineChoice, polling: Polling) -> (Frontend, JoinHandle<()>) {
    before_on(&Switches::default(), args, engine, polling)
}

/// [`before`], for a device that may be a port of one of these switches.
pub(crate) fn before_on(
    switches: &Switches,
    args: &[&str],
    engine: EngineChoice,
    polling: Polling,
) -> (Frontend, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let command = NetOptions::augment_args(clap::Command::new("net").no_binary_name(true));
    let fixed = ["--mac=52:54:00:12:34:56", "--mtu=9000", "--queue-size=256"];
    let options = NetOptions::from_arg_matches(&command.get_matches_from(fixed.iter().chain(args))).unwrap();
    let device = outboard_net::Net::open_in(&options, "net", switches).unwrap();
    let thread = thread::spawn(move || {
        let options = BackendOptions { engine, polling, ..BackendOptions::default() };
        Backend::new(device, options).unwrap().serve(theirs, &Stop::new().unwrap()).unwrap();
    });
    let options = Options { timeout: LONG, ..Options::default() };
    (Frontend::from_stream(ours, options).unwrap(), thread)
}
