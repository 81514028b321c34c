//! Who watches: takes what went by, keeps it, shows it. On a thread of its own, behind a queue, so that a reader who
//! is slow or gone holds nothing up.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use anyhow::Result;
use outboard_vhost_user::observe::{Observer, Seen, Side};
use outboard_vhost_user::recording::Recorder;
use outboard_virtio_defs::DeviceId;

use super::json;
use super::text::{Paint, Text};

/// How many messages wait to be shown before some are left out.
const QUEUE: usize = 1 << 16;
/// How many bytes of messages do.
const MOST_HELD: usize = 64 << 20;
/// How long what is still to be shown may take at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    Opened {
        connection: u32,
        time: Duration,
        front: String,
        back: String,
    },
    Message {
        seen: Seen,
        lost: bool,
    },
    Note {
        connection: u32,
        text: String,
    },
    /// Its main channel ended.
    Closed {
        connection: u32,
        time: Duration,
        by: Side,
    },
    /// Its last channel ended: nothing more will be said on it.
    Gone {
        connection: u32,
    },
}

/// The near end of the queue.
pub(super) struct Witness {
    queue: SyncSender<Event>,
    /// Bytes of what waits.
    held: Arc<AtomicUsize>,
    left_out: u64,
}

/// How things are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) json: bool,
    pub(super) device: Option<DeviceId>,
}

/// The far end, working.
pub(super) struct Report(Receiver<()>);

impl Event {
    /// What it takes to hold it, in bytes.
    fn size(&self) -> usize {
        let more = match self {
            Self::Message { seen, .. } => {
                let fds = seen.fds.iter().map(|fd| size_of_val(fd) + fd.name.len());
                seen.bytes.len() + fds.sum::<usize>()
            }
            Self::Note { text, .. } => text.len(),
            _ => 0,
        };
        size_of::<Self>() + more
    }
}

impl Witness {
    /// Starts the thread.
    pub(super) fn start(style: Style, recorder: Option<Recorder<File>>) -> Result<(Self, Report)> {
        let (queue, events) = sync_channel(QUEUE);
        let (done, finished) = sync_channel(1);
        let held = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&held);
        std::thread::Builder::new().name("witness".to_owned()).spawn(move || {
            Teller::new(style, recorder).work(&events, &waiting);
            // Fails if nobody waits, which is as well.
            let _ = done.send(());
        })?;
        Ok((Self { queue, held, left_out: 0 }, Report(finished)))
    }

    /// Never waits: where there is no room, the event is counted and left out.
    pub(super) fn tell(&mut self, event: Event) {
        if self.left_out > 0 {
            let text = format!("{} messages came too fast and are neither shown nor recorded", self.left_out);
            if self.put(Event::Note { connection: 0, text }) {
                self.left_out = 0;
            }
        }
        if !self.put(event) {
            self.left_out += 1;
        }
    }

    /// False: there is no room.
    fn put(&mut self, event: Event) -> bool {
        let size = event.size();
        if self.held.fetch_add(size, Ordering::Relaxed) + size <= MOST_HELD
            && !matches!(self.queue.try_send(event), Err(TrySendError::Full(_)))
        {
            return true;
        }
        self.held.fetch_sub(size, Ordering::Relaxed);
        false
    }
}

impl Report {
    /// Waits until everything is shown, but not for ever: whoever reads may have stopped to.
    pub(super) fn finish(self) {
        let _ = self.0.recv_timeout(PATIENCE);
    }
}

/// Follows every connection and tells of it.
pub(super) struct Teller {
    style: Style,
    text: Text,
    /// `None` once it is closed.
    out: Option<BufWriter<io::Stdout>>,
    recorder: Option<Recorder<File>>,
    observers: BTreeMap<u32, Observer>,
}

impl Teller {
    pub(super) fn new(style: Style, recorder: Option<Recorder<File>>) -> Self {
        let stdout = io::stdout();
        let paint = if stdout.is_terminal() { Paint::Colour } else { Paint::Plain };
        let text = Text::new(paint);
        Self { style, text, out: Some(BufWriter::new(stdout)), recorder, observers: BTreeMap::new() }
    }

    fn work(&mut self, events: &Receiver<Event>, held: &AtomicUsize) {
        loop {
            let event = match events.try_recv() {
                Ok(event) => event,
                Err(_) => {
                    self.flush();
                    let Ok(event) = events.recv() else { break };
                    event
                }
            };
            self.tell(&event);
            held.fetch_sub(event.size(), Ordering::Relaxed);
        }
        self.flush();
    }

    /// Keeps and shows one event.
    pub(super) fn tell(&mut self, event: &Event) {
        if let (Event::Message { seen, .. }, Some(recorder)) = (event, &mut self.recorder)
            && let Err(error) = recorder.add(seen)
        {
            self.recorder = None;
            complain(format_args!("the recording ends here: {error}"));
        }
        let lines = match event {
            Event::Message { seen, lost } => {
                let device = self.style.device;
                let observer = self.observers.entry(seen.connection).or_insert_with(|| Observer::new(device));
                let mut observed = observer.see(seen);
                if *lost {
                    observed.warnings.push("lost: the receiver was gone".to_owned());
                }
                if self.style.json {
                    json::message(seen, &observed)
                } else {
                    self.text.message(seen, &observed)
                }
            }
            Event::Closed { connection, .. } => {
                let observer = self.observers.get(connection);
                let unanswered: Vec<_> = observer.into_iter().flat_map(Observer::unanswered).collect();
                if self.style.json {
                    json::closed(event, &unanswered)
                } else {
                    self.text.closed(event, &unanswered)
                }
            }
            Event::Gone { connection } => {
                self.observers.remove(connection);
                return;
            }
            event if self.style.json => json::event(event),
            event => self.text.event(event),
        };
        self.print(&lines);
    }

    fn print(&mut self, lines: &str) {
        if self.out.as_mut().is_some_and(|out| out.write_all(lines.as_bytes()).is_err()) {
            self.silence();
        }
    }

    pub(super) fn flush(&mut self) {
        if self.out.as_mut().is_some_and(|out| out.flush().is_err()) {
            self.silence();
        }
    }

    /// Nobody reads any more. What was not written is dropped, not tried again.
    fn silence(&mut self) {
        if let Some(out) = self.out.take() {
            drop(out.into_parts());
        }
    }
}

/// Says something on standard error; nobody may be there to read it.
pub(super) fn complain(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "outboard trace: {what}");
}
