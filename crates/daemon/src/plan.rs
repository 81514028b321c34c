//! What the program is to do, from its command line and the file of `--config`: a process with one or more devices.
//!
//! A device is always parsed by the same command, be it from the command line itself, from a `--device` or from a table
//! of the file: the latter two are turned into a command line first. So they know the same options, and say the same
//! of wrong ones. All of it is trusted, and checked so that mistakes are told early and with their place.

mod file;
mod keys;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgGroup, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::Program;
use crate::options::{DeviceOptions, ProcessOptions};
use file::ConfigFile;
pub(crate) use file::read_device;
pub use keys::{Given, Pairs};

/// A process and its devices.
pub(crate) struct Plan<P: Program, A> {
    pub(crate) process: ProcessOptions,
    /// For what the devices have in common.
    pub(crate) house: A,
    pub(crate) devices: Vec<Planned<P>>,
}

/// A device that is to be.
pub(crate) struct Planned<P: Program> {
    pub(crate) name: String,
    /// The name was given, or tells the device from others: it belongs into the log.
    pub(crate) shown: bool,
    pub(crate) options: DeviceOptions,
    pub(crate) own: P::Args,
}

/// The whole command line of a program, for its help text and its man page, and to parse one device.
pub(crate) fn command<P: Program, A: Args>() -> Command {
    process_options::<A>(device_command::<P>())
        .about(P::DESCRIPTION)
        .long_about(None)
        .after_help(format!("Example:\n{}", P::example()))
}

/// With the options of the process.
fn process_options<A: Args>(command: Command) -> Command {
    let command = A::augment_args(command.next_help_heading("Process"));
    ProcessOptions::augment_args(command).version(env!("CARGO_PKG_VERSION"))
}

/// The options of a device.
fn device_command<P: Program>() -> Command {
    let command = Command::new(P::NAME).next_help_heading("Device");
    DeviceOptions::augment_args(P::Args::augment_args(command))
}

/// The options of a process whose devices are given by `--device`, `--config` or `--device-dir`.
fn process_command<P: Program, A: Args>() -> Command {
    let devices = ArgGroup::new("devices").args(["device", "config", "device_dir"]);
    process_options::<A>(Command::new(P::NAME)).group(devices.required(true).multiple(true))
}

/// Parses a command line, of which the first argument is the program's name.
pub(crate) fn parse<P: Program, A: Args>(args: Vec<OsString>) -> Result<Plan<P, A>, Error> {
    let plan = if has_several(&args) { parse_several(&args)? } else { parse_one(args)? };
    check(&plan)?;
    Ok(plan)
}

/// Whether devices are given by `--device`, `--config` or `--device-dir`.
fn has_several(args: &[OsString]) -> bool {
    args.iter().skip(1).take_while(|arg| *arg != "--").filter_map(|arg| arg.to_str()).any(|arg| {
        let name = arg.split_once('=').map_or(arg, |(name, _)| name);
        matches!(name, "--device" | "--config" | "--device-dir")
    })
}

fn parse_one<P: Program, A: Args>(args: Vec<OsString>) -> Result<Plan<P, A>, Error> {
    let mut command = command::<P, A>();
    let matches = command.try_get_matches_from_mut(args)?;
    let (process, house) = settings(&matches).map_err(|error| error.format(&mut command))?;
    let device = device(&matches, &mut command, 0)?;
    Ok(Plan { process, house, devices: vec![device] })
}

fn settings<A: Args>(matches: &ArgMatches) -> Result<(ProcessOptions, A), Error> {
    Ok((ProcessOptions::from_arg_matches(matches)?, A::from_arg_matches(matches)?))
}

fn parse_several<P: Program, A: Args>(args: &[OsString]) -> Result<Plan<P, A>, Error> {
    let mut command = process_command::<P, A>();
    let matches = match command.try_get_matches_from_mut(args.iter().cloned()) {
        Ok(matches) => matches,
        Err(error) => return Err(better::<P, A>(error, &mut command)),
    };
    read_devices(&matches, args).map_err(|reason| command.error(ErrorKind::ValueValidation, reason))
}

/// The devices of the file, then those of the command line.
fn read_devices<P: Program, A: Args>(matches: &ArgMatches, args: &[OsString]) -> Result<Plan<P, A>, String> {
    let mut devices = Vec::new();
    let (process, house) = match matches.get_one::<PathBuf>("config") {
        Some(path) => {
            let known = process_command::<P, A>();
            let file = ConfigFile::read(path, &known)?;
            for (at, table) in file.devices.into_iter().enumerate() {
                let device = table.and_then(|table| planned::<P>(&table, devices.len()));
                let place = format_args!("{}: device {}", path.display(), at + 1);
                devices.push(device.map_err(|reason| format!("{place}: {reason}"))?);
            }
            with_settings(path, known, &file.settings, matches, args)?
        }
        None => settings(matches).map_err(|error| reason(&error))?,
    };
    for (at, text) in process.device.iter().enumerate() {
        let device = Pairs::split(text).and_then(|pairs| planned::<P>(&pairs, devices.len()));
        devices.push(device.map_err(|reason| format!("--device {}: {reason}", at + 1))?);
    }
    Ok(Plan { process, house, devices })
}

/// Parses again, with the settings of the file in front of those that the command line leaves open.
fn with_settings<A: Args>(
    path: &Path,
    command: Command,
    given: &Pairs,
    matches: &ArgMatches,
    args: &[OsString],
) -> Result<(ProcessOptions, A), String> {
    let failed = |reason: String| format!("{}: {reason}", path.display());
    let open = given.without(|key| {
        let id = key.replace('-', "_");
        matches.try_contains_id(&id).is_ok()
            && matches.value_source(&id) == Some(clap::parser::ValueSource::CommandLine)
    });
    let mut all: Vec<OsString> = args.iter().take(1).cloned().collect();
    all.extend(open.to_args(&command).map_err(failed)?);
    all.extend(args.iter().skip(1).cloned());
    let matches = command.try_get_matches_from(all).map_err(|error| failed(reason(&error)))?;
    settings(&matches).map_err(|error| failed(reason(&error)))
}

/// The device number `at` from its keys and values.
pub(crate) fn planned<P: Program>(pairs: &Pairs, at: usize) -> Result<Planned<P>, String> {
    let mut command = device_command::<P>().disable_help_flag(true).no_binary_name(true);
    let args = pairs.to_args(&command)?;
    let matches = command.try_get_matches_from_mut(args).map_err(|error| reason(&error))?;
    let device = device(&matches, &mut command, at).map_err(|error| reason(&error))?;
    Ok(Planned { shown: true, ..device })
}

fn device<P: Program>(matches: &ArgMatches, command: &mut Command, at: usize) -> Result<Planned<P>, Error> {
    let options = DeviceOptions::from_arg_matches(matches).map_err(|error| error.format(command))?;
    if let Some(conflict) = options.conflict(matches) {
        return Err(command.error(ErrorKind::ArgumentConflict, conflict));
    }
    let own = P::Args::from_arg_matches(matches).map_err(|error| error.format(command))?;
    let shown = options.name.is_some();
    let kind = P::NAME.strip_prefix("vhost-user-").unwrap_or(P::NAME);
    let name = options.name.clone().unwrap_or_else(|| format!("{kind}{at}"));
    Ok(Planned { name, shown, options, own })
}

/// What no two devices may share.
fn check<P: Program, A: Args>(plan: &Plan<P, A>) -> Result<(), Error> {
    let mut taken = HashMap::new();
    if let Some(path) = &plan.process.control {
        taken.insert(format!("socket {}", path.display()), "--control");
    }
    for device in &plan.devices {
        let socket = device.options.socket_path.as_ref().map(|path| format!("socket {}", path.display()));
        let fd = device.options.fd.map(|fd| format!("descriptor {fd}"));
        for claim in [Some(format!("name {}", device.name)), socket, fd].into_iter().flatten() {
            if let Some(other) = taken.insert(claim.clone(), device.name.as_str()) {
                let reason = format!("{other} and {} have the same {claim}", device.name);
                return Err(process_command::<P, A>().error(ErrorKind::ArgumentConflict, reason));
            }
        }
    }
    Ok(())
}

/// What a device's own parser says, without usage and advice: these are about another command line.
fn reason(error: &Error) -> String {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|end| text.find(end)).min();
    text.get(..end.unwrap_or(text.len())).unwrap_or(text).trim_end().to_owned()
}

/// A device's option beside `--device`, or a call for help, is not answered well by the command of the process alone.
fn better<P: Program, A: Args>(error: Error, command: &mut Command) -> Error {
    let mut whole = self::command::<P, A>();
    if error.kind() == ErrorKind::DisplayHelp {
        let help = whole.try_get_matches_from_mut([P::NAME, "--help"]).err();
        return help.unwrap_or(error);
    }
    let unknown = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) if error.kind() == ErrorKind::UnknownArgument => arg.clone(),
        _ => return error,
    };
    let name = unknown.trim_start_matches('-');
    if whole.get_arguments().any(|arg| arg.get_long() == Some(name)) {
        let reason =
            format!("{unknown} is for one device: with --device or --config, give it there as {name}");
        return command.error(ErrorKind::ArgumentConflict, reason);
    }
    error
}

#[cfg(test)]
mod tests;
