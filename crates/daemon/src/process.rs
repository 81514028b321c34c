//! A process with its devices, from the parsed options to the end.
//!
//! Trusted: the options. The main thread serves nobody: it hears of signals, of devices that have gone, and of files
//! that come and go.

use std::error::Error;
use std::num::NonZeroU16;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use outboard_backend::{Crew, Notice, Placement, Polling, Stop};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::Program;
use crate::control;
use crate::directory::Directory;
use crate::house::House;
use crate::household::{Household, Label, door};
use crate::inherited;
use crate::listen::SocketFile;
use crate::options::DeviceOptions;
use crate::plan::Plan;
use crate::signals;
use crate::station::Station;

/// From the parsed options to the end of the program. Sockets are adopted before anything else is opened (see
/// [`inherited::adopt`]), everything is open before anything listens, and signals are caught before the path of a
/// socket exists, which is to be removed after them.
pub(crate) fn start<P: Program, A, C: Send + Sync + 'static>(
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
    let first = adopted.first().map(|(_, planned, _)| &planned.options);
    let crew = process.shared_threads.map(|threads| crew(P::NAME, threads, first)).transpose()?;
    let household = Household::<P, C>::new(house.open, common, crew, process.log_format)?;
    let mut ready = Vec::with_capacity(adopted.len());
    for (label, planned, inherited) in adopted {
        let named = label.span().entered();
        let backend = household.open(&label, &planned.options, planned.own)?;
        drop(named);
        ready.push((label, backend, planned.options, inherited));
    }
    let directory = process.device_dir.map(Directory::open).transpose()?;
    let (stop, refresh) = (Stop::new()?, Notice::new()?);
    signals::install(&stop, vec![refresh.clone()])?;
    let mut stations = Vec::with_capacity(ready.len());
    for (label, backend, options, inherited) in ready {
        let door = door(&label, &options, inherited)?;
        stations.push((label, Station { backend, door, stop: Stop::new()? }));
    }
    let control = process.control.as_deref().map(SocketFile::listen_private).transpose()?;
    let mut refused = None;
    for (label, station) in stations {
        refused = household.settle(label, station).err().or(refused);
    }
    let over = Stop::new()?;
    let server = control.map(|socket| {
        let (devices, over) = (Arc::clone(&household), over.clone());
        let serve = move || control::serve(socket.listener(), &devices, &over);
        thread::Builder::new().name("control".to_owned()).spawn(serve)
    });
    let server = server.transpose().map_err(|error| refused = Some(error)).ok().flatten();
    if refused.is_some() {
        stop.trigger();
    }
    Keeper { household: &household, stop: &stop, is_closed: false, refresh: &refresh, directory }.run();
    over.trigger();
    // It ends at once; what it may have panicked of is in the log.
    let served = server.is_none_or(|server| server.join().is_ok());
    match refused {
        Some(error) => Err(format!("cannot start a thread: {error}").into()),
        None if household.has_failed() || !served => Ok(ExitCode::FAILURE),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Threads for the queues of all devices, which wait and run as those of the first would.
fn crew(program: &str, threads: NonZeroU16, first: Option<&DeviceOptions>) -> Result<Crew, Box<dyn Error>> {
    let (polling, placement) = match first {
        Some(options) => (options.backend().polling, options.placement()?),
        None => (Polling::default(), Placement::default()),
    };
    let name = program.strip_prefix("vhost-user-").unwrap_or(program);
    let crew = Crew::new(name, threads, polling, &placement);
    crew.map_err(|error| format!("cannot start {threads} threads: {error}").into())
}

/// The main thread.
struct Keeper<'a, P: Program, C> {
    household: &'a Arc<Household<P, C>>,
    stop: &'a Stop,
    /// All were told to stop.
    is_closed: bool,
    /// SIGHUP.
    refresh: &'a Notice,
    directory: Option<Directory>,
}

impl<P: Program, C: Send + Sync + 'static> Keeper<'_, P, C> {
    /// Until all have gone, and nobody is awaited.
    fn run(mut self) {
        while !self.is_over() {
            self.wait();
            if self.stop.is_set() && !self.is_closed {
                self.is_closed = true;
                self.directory = None;
                self.household.close();
            }
            if self.refresh.take_rung() {
                self.household.refresh();
                self.directory.iter_mut().for_each(Directory::look_again);
            }
            let changed = self.household.changed().take_rung();
            if let Some(directory) = &mut self.directory {
                directory.keep(self.household, changed);
            }
        }
    }

    fn is_over(&self) -> bool {
        match self.directory {
            // Files may come.
            Some(_) => false,
            None if self.is_closed => self.household.is_empty(),
            None => self.household.is_over(),
        }
    }

    fn wait(&self) {
        let mut polled = vec![
            PollFd::new(self.refresh, PollFlags::IN),
            PollFd::new(self.household.changed(), PollFlags::IN),
        ];
        if !self.is_closed {
            // It stays readable.
            polled.push(PollFd::new(self.stop, PollFlags::IN));
        }
        polled.extend(self.directory.iter().map(|directory| PollFd::new(directory, PollFlags::IN)));
        let due = self.directory.as_ref().and_then(Directory::due);
        let longest = due.map(|due| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let longest = longest.and_then(|longest| Timespec::try_from(longest).ok());
        match poll(&mut polled, longest.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::debug!("cannot sleep: {error}");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
