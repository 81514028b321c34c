//! The devices of a process: who is there, who comes, and who goes.
//!
//! Trusted: the options of devices, those included that come later from the control socket or a directory. What one
//! device does (it ends, fails, panics, hangs) is no concern of another.
//!
//! Theory of operation. A device has a thread of its own and a place in the list. One that comes later is opened on that
//! thread, so that nobody waits for it, and has its place from the beginning: no other gets its name. The place is left
//! when the thread ends, for whatever reason, and only then has the device gone: its socket is free by then. Whoever
//! asked for a coming or going holds a [`Promise`].

use std::error::Error;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use outboard_backend::{Backend, Crew, Notice, Stop};
use serde_json::{Map, Value, json};

use crate::Program;
use crate::control::{Devices, Listed};
use crate::house::Open;
use crate::inherited::Inherited;
use crate::listen::SocketFile;
use crate::logging::{self, LogFormat};
use crate::options::DeviceOptions;
use crate::plan::{self, Pairs, Planned};
use crate::station::{Door, Station};

/// The devices, and how others are opened.
pub(crate) struct Household<P: Program, C> {
    open: Open<P, C>,
    common: C,
    /// Who serves the queues of all, if not each its own.
    crew: Option<Crew>,
    format: LogFormat,
    places: Mutex<Places>,
    /// Somebody has gone, or has come.
    changed: Notice,
}

#[derive(Default)]
struct Places {
    taken: Vec<Place>,
    /// Nobody comes any more.
    closed: bool,
    /// A device could not go on.
    failed: bool,
    /// The one that went last was sent away.
    sent_away: bool,
}

/// A device.
struct Place {
    name: String,
    /// `None`: it is being opened.
    listed: Option<Arc<Listed>>,
    refresh: Option<Notice>,
    stop: Stop,
    /// What its file says, if it came from a directory.
    text: Option<String>,
    sent_away: bool,
    /// Who waits for its end.
    waiting: Vec<Answer>,
}

impl<P: Program, C: Send + Sync + 'static> Household<P, C> {
    /// Nobody is there yet.
    pub(crate) fn new(
        open: Open<P, C>,
        common: C,
        crew: Option<Crew>,
        format: LogFormat,
    ) -> io::Result<Arc<Self>> {
        let (places, changed) = (Mutex::default(), Notice::new()?);
        Ok(Arc::new(Self { open, common, crew, format, places, changed }))
    }

    /// Given when somebody has gone or come.
    pub(crate) fn changed(&self) -> &Notice {
        &self.changed
    }

    /// Opens a device.
    pub(crate) fn open(
        &self,
        label: &Label,
        options: &DeviceOptions,
        own: P::Args,
    ) -> Result<Backend<P::Device>, Box<dyn Error>> {
        let device = (self.open)(own, &label.name, &self.common).map_err(|error| label.failed(error))?;
        let mut serving = options.backend();
        serving.placement = options.placement().map_err(|error| label.failed(error))?;
        serving.crew = self.crew.clone();
        serving.name = label.shown.then(|| label.name.clone());
        Backend::new(device, serving).map_err(|error| label.failed(error))
    }

    /// Has a device served on a thread of its own.
    ///
    /// # Errors
    /// There is no thread for it.
    pub(crate) fn settle(self: &Arc<Self>, label: Label, station: Station<P::Device>) -> io::Result<()> {
        let place = Place::new(&label.name, station.stop.clone(), None);
        self.lock().taken.push(place);
        let stay = Stay { household: Arc::clone(self), name: label.name.clone(), failed: true };
        stay.move_in(&station);
        thread::Builder::new().name(label.name.clone()).spawn(move || stay.serve(&label, station)).map(drop)
    }

    /// Begins to open a device as `pairs` say. What its file says is kept, if it comes from one.
    ///
    /// # Errors
    /// What is wrong with it, as far as that is seen at once.
    pub(crate) fn invite(
        self: &Arc<Self>,
        pairs: &Pairs,
        text: Option<String>,
        answered: Notice,
    ) -> Result<Promise, String> {
        if pairs.has("fd") {
            return Err("fd: a program that runs inherits nothing".to_owned());
        }
        let stop = Stop::new().map_err(|error| error.to_string())?;
        let mut places = self.lock();
        if places.closed {
            return Err("the program is about to end".to_owned());
        }
        let has = |name: &str| places.taken.iter().any(|place| place.name == name);
        let mut planned = plan::planned::<P>(pairs, places.taken.len())?;
        let mut at = 0;
        while planned.options.name.is_none() && has(&planned.name) {
            planned = plan::planned::<P>(pairs, at)?;
            at += 1;
        }
        if has(&planned.name) {
            return Err(format!("there is a device {:?} already", planned.name));
        }
        let name = planned.name.clone();
        places.taken.push(Place::new(&name, stop.clone(), text));
        drop(places);
        let (answer, promise) = promise(answered);
        let stay = Stay { household: Arc::clone(self), name: name.clone(), failed: false };
        let thread = thread::Builder::new().name(name).spawn(move || stay.come(planned, stop, answer));
        thread.map(|_| promise).map_err(|error| format!("cannot start a thread: {error}"))
    }

    /// Sends a device away.
    ///
    /// # Errors
    /// There is none of that name.
    pub(crate) fn send_away(&self, name: &str, answered: Notice) -> Result<Promise, String> {
        let mut places = self.lock();
        let Some(place) = places.taken.iter_mut().find(|place| place.name == name) else {
            let names: Vec<&str> = places.taken.iter().map(|place| place.name.as_str()).collect();
            return Err(format!("there is no device {name:?}; there is {}", names.join(", ")));
        };
        let (answer, promise) = promise(answered);
        place.sent_away = true;
        place.waiting.push(answer);
        place.stop.trigger();
        Ok(promise)
    }

    /// The devices that came from a directory, with what their files say.
    pub(crate) fn filed(&self) -> Vec<(String, String)> {
        let places = self.lock();
        places.taken.iter().filter_map(|place| Some((place.name.clone(), place.text.clone()?))).collect()
    }

    /// Has every device look at the host again.
    pub(crate) fn refresh(&self) {
        self.lock().taken.iter().filter_map(|place| place.refresh.as_ref()).for_each(Notice::give);
    }

    /// Sends everybody away; nobody comes any more.
    pub(crate) fn close(&self) {
        let mut places = self.lock();
        places.closed = true;
        places.taken.iter().for_each(|place| place.stop.trigger());
    }

    /// Whether all have ended, and others are not awaited: those that were sent away leave a program that goes on.
    pub(crate) fn is_over(&self) -> bool {
        let places = self.lock();
        places.taken.is_empty() && (places.closed || !places.sent_away)
    }

    /// Whether there is nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().taken.is_empty()
    }

    /// Whether a device could not go on.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().failed
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Program, C: Send + Sync + 'static> Devices for Arc<Household<P, C>> {
    fn listed(&self) -> Vec<Arc<Listed>> {
        self.lock().taken.iter().filter_map(|place| place.listed.clone()).collect()
    }

    fn add(&self, keys: &Map<String, Value>, answered: Notice) -> Result<Promise, String> {
        self.invite(&Pairs::of(keys)?, None, answered)
    }

    fn remove(&self, name: &str, answered: Notice) -> Result<Promise, String> {
        self.send_away(name, answered)
    }
}

impl Place {
    fn new(name: &str, stop: Stop, text: Option<String>) -> Self {
        let name = name.to_owned();
        Self { name, listed: None, refresh: None, stop, text, sent_away: false, waiting: Vec::new() }
    }
}

/// A device's time in its place, on its own thread. It ends when this is dropped.
struct Stay<P: Program, C> {
    household: Arc<Household<P, C>>,
    name: String,
    /// It ends before it should.
    failed: bool,
}

impl<P: Program, C: Send + Sync + 'static> Stay<P, C> {
    /// From now on it can be asked.
    fn move_in(&self, station: &Station<P::Device>) {
        let mut places = self.household.lock();
        if let Some(place) = places.taken.iter_mut().find(|place| place.name == self.name) {
            place.listed = Some(Arc::new(Listed::new::<P>(&self.name, station)));
            place.refresh = Some(station.backend.refresh_notice());
        }
    }

    fn serve(mut self, label: &Label, station: Station<P::Device>) {
        let _named = label.span().entered();
        self.failed = true;
        match station.run() {
            Ok(()) => self.failed = false,
            Err(error) => {
                logging::failure(P::NAME, self.household.format, label.failed(error).as_ref());
            }
        }
    }

    /// Opens a device that comes later, and serves it.
    fn come(self, planned: Planned<P>, stop: Stop, answer: Answer) {
        let Planned { name, options, own, .. } = planned;
        let label = Label { name, shown: true };
        let named = label.span().entered();
        let opened = self.household.open(&label, &options, own).and_then(|backend| {
            let door = door(&label, &options, None)?;
            Ok(Station { backend, door, stop })
        });
        match opened {
            Ok(station) => {
                self.move_in(&station);
                answer.give(Ok(json!({ "name": label.name, "socket": station.door.to_string() })));
                self.household.changed.give();
                drop(named);
                self.serve(&label, station);
            }
            Err(error) => {
                let reason = logging::one_line(error.as_ref());
                tracing::warn!("not added: {reason}");
                // First of all the name is free again.
                drop(self);
                answer.give(Err(reason));
            }
        }
    }
}

impl<P: Program, C> Drop for Stay<P, C> {
    fn drop(&mut self) {
        let mut places = self.household.places.lock().unwrap_or_else(PoisonError::into_inner);
        let at = places.taken.iter().position(|place| place.name == self.name);
        let gone = at.map(|at| places.taken.remove(at));
        places.failed |= self.failed;
        // One that never came is as good as one that was sent away.
        places.sent_away = gone.as_ref().is_some_and(|gone| gone.sent_away || gone.listed.is_none());
        drop(places);
        for answer in gone.into_iter().flat_map(|gone| gone.waiting) {
            answer.give(Ok(json!({ "name": self.name })));
        }
        self.household.changed.give();
    }
}

/// Where a device's front ends come from.
pub(crate) fn door(
    label: &Label,
    options: &DeviceOptions,
    inherited: Option<Inherited>,
) -> Result<Door, Box<dyn Error>> {
    match (inherited, &options.socket_path) {
        (Some(inherited), _) => Ok(Door::Inherited(inherited)),
        (None, Some(path)) if options.client => Ok(Door::Client(path.clone())),
        (None, Some(path)) => Ok(Door::Path(SocketFile::listen(path).map_err(|error| label.failed(error))?)),
        // The argument group requires one of the two.
        (None, None) => Err(label.failed("neither --socket-path nor --fd")),
    }
}

/// What a device is called, where it has to be told from others.
#[derive(Clone, Debug)]
pub(crate) struct Label {
    pub(crate) name: String,
    pub(crate) shown: bool,
}

impl Label {
    /// An error that names the device.
    pub(crate) fn failed(&self, error: impl Into<Box<dyn Error>>) -> Box<dyn Error> {
        let error = error.into();
        if self.shown { Box::new(Failed(self.name.clone(), error)) } else { error }
    }

    pub(crate) fn span(&self) -> tracing::Span {
        if self.shown { tracing::error_span!("device", name = self.name) } else { tracing::Span::none() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String, #[source] Box<dyn Error>);

/// What will become of a coming or a going.
pub(crate) struct Promise(Receiver<Result<Value, String>>);

/// The end of a [`Promise`] that keeps it. Dropped, it says so.
struct Answer(Sender<Result<Value, String>>, Given);

/// Gives the notice when it is dropped.
struct Given(Notice);

impl Drop for Given {
    fn drop(&mut self) {
        self.0.give();
    }
}

fn promise(answered: Notice) -> (Answer, Promise) {
    let (answer, promise) = mpsc::channel();
    (Answer(answer, Given(answered)), Promise(promise))
}

impl Answer {
    fn give(self, answer: Result<Value, String>) {
        let Self(sender, _given) = self;
        // Nobody may wait for it any more.
        let _ = sender.send(answer);
    }
}

impl Promise {
    /// What came of it, if that is known.
    pub(crate) fn poll(&self) -> Option<Result<Value, String>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                Some(Err("the device failed at it; the log says how".to_owned()))
            }
        }
    }
}
