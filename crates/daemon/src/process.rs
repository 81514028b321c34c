//! A process with its devices, from the parsed options to the end.
//!
//! Trusted: the options. What one device does (it ends, fails, panics, hangs) is no concern of another: they share the
//! signals, the log and the control socket.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use outboard_backend::{Backend, Stop};

use crate::Program;
use crate::control::{self, Listed};
use crate::house::House;
use crate::inherited::{self, Inherited};
use crate::listen::SocketFile;
use crate::logging::{self, LogFormat};
use crate::plan::Plan;
use crate::signals;
use crate::station::{Door, Station};

/// From the parsed options to the end of the program. Sockets are adopted before anything else is opened (see
/// [`inherited::adopt`]), everything is open before anything listens, and signals are caught before the path of a
/// socket exists, which is to be removed after them.
pub(crate) fn start<P: Program, A, C>(
    plan: Plan<P, A>,
    house: &House<P, A, C>,
) -> Result<ExitCode, Box<dyn Error>> {
    let Plan { process, house: args, devices } = plan;
    inherited::raise_descriptor_limit();
    let mut adopted = Vec::with_capacity(devices.len());
    for planned in devices {
        let label = Label { name: planned.name.clone(), shown: planned.shown };
        let inherited =
            planned.options.fd.map(inherited::adopt).transpose().map_err(|error| label.failed(error))?;
        adopted.push((label, planned, inherited));
    }
    let common = (house.furnish)(args)?;
    let mut ready = Vec::with_capacity(adopted.len());
    for (label, planned, inherited) in adopted {
        let _named = label.span().entered();
        let device = (house.open)(planned.own, &label.name, &common).map_err(|error| label.failed(error))?;
        let mut options = planned.options.backend();
        options.placement = planned.options.placement().map_err(|error| label.failed(error))?;
        options.name = label.shown.then(|| label.name.clone());
        let backend = Backend::new(device, options).map_err(|error| label.failed(error))?;
        ready.push(Ready { label, backend, inherited, socket_path: planned.options.socket_path });
    }
    let stop = Stop::new()?;
    signals::install(&stop, ready.iter().map(|device| device.backend.refresh_notice()).collect())?;
    let mut stations = Vec::with_capacity(ready.len());
    for Ready { label, backend, inherited, socket_path } in ready {
        let door = match (inherited, socket_path) {
            (Some(inherited), _) => Door::Inherited(inherited),
            (None, Some(path)) => Door::Path(SocketFile::listen(&path).map_err(|error| label.failed(error))?),
            // The argument group requires one of the two.
            (None, None) => return Err(label.failed("neither --socket-path nor --fd")),
        };
        stations.push((label, Station { backend, door, stop: stop.clone() }));
    }
    let control = process.control.as_deref().map(SocketFile::listen_private).transpose()?;
    serve::<P>(stations, control, &stop, process.log_format)
}

/// Serves all devices, each on its thread, until they have ended. Whatever keeps one from going on is its own: it is
/// told at once, and by the exit status at the end.
fn serve<P: Program>(
    stations: Vec<(Label, Station<P::Device>)>,
    control: Option<SocketFile>,
    stop: &Stop,
    format: LogFormat,
) -> Result<ExitCode, Box<dyn Error>> {
    let listed: Vec<Listed> =
        stations.iter().map(|(label, station)| Listed::new::<P>(&label.name, station)).collect();
    let (left, over) = (Arc::new(AtomicUsize::new(stations.len())), Stop::new()?);
    let mut threads = Vec::with_capacity(stations.len());
    let mut refused = None;
    for (label, station) in stations {
        let end = End { left: Arc::clone(&left), over: over.clone() };
        let thread = thread::Builder::new().name(label.name.clone()).spawn(move || {
            let _end = end;
            let _named = label.span().entered();
            let outcome = station.run().map_err(|error| label.failed(error));
            if let Err(error) = &outcome {
                logging::failure(P::NAME, format, error.as_ref());
            }
            outcome.is_ok()
        });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                stop.trigger();
                refused = Some(error);
            }
        }
    }
    if let Some(socket) = control {
        control::serve(socket.listener(), &listed, [stop, &over]);
    }
    let ends: Vec<bool> = threads.into_iter().map(|thread| thread.join().unwrap_or(false)).collect();
    match refused {
        Some(error) => Err(format!("cannot start a thread: {error}").into()),
        None if ends.contains(&false) => Ok(ExitCode::FAILURE),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// A device that is open and not yet served.
struct Ready<D> {
    label: Label,
    backend: Backend<D>,
    inherited: Option<Inherited>,
    socket_path: Option<PathBuf>,
}

/// What a device is called, where it has to be told from others.
#[derive(Clone, Debug)]
struct Label {
    name: String,
    shown: bool,
}

impl Label {
    /// An error that names the device.
    fn failed(&self, error: impl Into<Box<dyn Error>>) -> Box<dyn Error> {
        let error = error.into();
        if self.shown { Box::new(Failed(self.name.clone(), error)) } else { error }
    }

    fn span(&self) -> tracing::Span {
        if self.shown { tracing::error_span!("device", name = self.name) } else { tracing::Span::none() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String, #[source] Box<dyn Error>);

/// Dropped at the end of a device: the last one's end is that of the control socket.
struct End {
    left: Arc<AtomicUsize>,
    over: Stop,
}

impl Drop for End {
    fn drop(&mut self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.over.trigger();
        }
    }
}
