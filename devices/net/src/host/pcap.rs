//! Capture files: what the guest sends is written to one, and another is replayed to it. Both are the administrator's; what
//! is in the one that is read is believed no more than what comes from a network.

mod capture;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use outboard_device::{Cx, DeviceError, SourceId};
use outboard_frames::pcap::{file_header, frame_header};
use outboard_frames::{MAX_LEN, Offload, plain};

use super::{Backing, Sent, Side, Terms};
use crate::rx::{Dropped, Rx};
use crate::tx::Outgoing;
use capture::Capture;

/// So many frames at a time: the guest's own have their turn.
const AT_ONCE: usize = 64;
/// What the time is watched as.
const TIME: SourceId = SourceId(0);
/// So many bytes are gathered before they are written.
const CHUNK: usize = 256 << 10;

/// What `--backend pcap` takes.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct PcapOptions {
    /// The capture file that what the guest sends is written to (--backend pcap); one that is there is replaced
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,

    /// A capture file (pcap, pcapng) whose frames the guest receives (--backend pcap)
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,

    /// How fast it receives them (--replay) [default: real]
    #[arg(long, value_enum, value_name = "SPEED", requires = "replay")]
    pub replay_speed: Option<Speed>,

    /// Begin again at the file's end, for ever (--replay)
    #[arg(long, requires = "replay")]
    pub loop_replay: bool,
}

/// How fast a capture is replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Speed {
    /// As the frames came when they were captured.
    #[default]
    Real,
    /// As the guest takes them.
    Max,
}

impl PcapOptions {
    /// One of these options, if any was given.
    pub(super) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.write.is_some(), "--write"),
            (self.replay.is_some(), "--replay"),
            (self.replay_speed.is_some(), "--replay-speed"),
            (self.loop_replay, "--loop-replay"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }
}

/// The files, in the hands of the control half.
pub(super) struct Files {
    write: Option<Arc<File>>,
    replay: Option<Arc<File>>,
    speed: Speed,
    again: bool,
}

impl Files {
    /// Opens them.
    ///
    /// # Errors
    /// None is named; the host refuses one; what is to be replayed is no capture file.
    pub(super) fn open(options: &PcapOptions) -> Result<Self, DeviceError> {
        if options.write.is_none() && options.replay.is_none() {
            return Err(DeviceError::Invalid("--backend pcap needs --write or --replay, or both".to_owned()));
        }
        let replay = options.replay.as_deref().map(open_capture).transpose()?;
        let write = options.write.as_deref().map(|path| {
            let failed = |error| DeviceError::host(format!("cannot write {}", path.display()), error);
            let mut file = File::create(path).map_err(failed)?;
            file.write_all(&file_header()).map_err(failed)?;
            Ok(Arc::new(file))
        });
        Ok(Self {
            write: write.transpose()?,
            replay,
            speed: options.replay_speed.unwrap_or_default(),
            again: options.loop_replay,
        })
    }
}

/// Opens a capture, which is seen to be one.
fn open_capture(path: &Path) -> Result<Arc<File>, DeviceError> {
    let failed = |error| DeviceError::host(format!("cannot read {}", path.display()), error);
    let file = Arc::new(File::open(path).map_err(failed)?);
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(DeviceError::Invalid(format!("{} is no file to be replayed", path.display())));
    }
    Capture::new(&file).advance().map_err(failed)?;
    Ok(file)
}

impl Backing for Files {
    fn name(&self) -> &'static str {
        "pcap"
    }

    fn side(&mut self, _: u16, _: &Terms) -> Result<Box<dyn Side>, DeviceError> {
        Ok(Box::new(Replay {
            write: self.write.as_ref().map(|file| Recording { file: Arc::clone(file), bytes: Vec::new() }),
            capture: self.replay.as_ref().map(Capture::new),
            speed: self.speed,
            again: self.again,
            next: None,
            waits: false,
            receives: false,
            frame: vec![0; MAX_LEN as usize],
        }))
    }

    fn most_pairs(&self) -> u16 {
        1
    }
}

/// A capture that is written.
struct Recording {
    file: Arc<File>,
    /// What is still to be written.
    bytes: Vec<u8>,
}

impl Recording {
    fn frame(&mut self, frame: &[u8]) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // No frame is longer.
        let len = frame.len() as u32;
        self.bytes.extend(frame_header(at, len, len));
        self.bytes.extend_from_slice(frame);
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = (&*self.file).write_all(&self.bytes);
        self.bytes.clear();
        written
    }
}

/// Both, in the hands of the thread that serves the pair.
struct Replay {
    write: Option<Recording>,
    capture: Option<Capture>,
    speed: Speed,
    again: bool,
    /// The next frame's time to be delivered, if there is one that waits for that, or for buffers.
    next: Option<Instant>,
    /// There is no use in trying before something happens.
    waits: bool,
    receives: bool,
    /// What the guest has sent.
    frame: Vec<u8>,
}

impl Replay {
    /// The next frame becomes the capture's own; when it is to be delivered. `None` if there is none.
    fn advance(&mut self, now: Instant, cx: &mut Cx<'_, ()>) -> Option<Instant> {
        let capture = self.capture.as_mut()?;
        match capture.advance() {
            Ok(Some(after)) if self.speed == Speed::Real => {
                let due = capture.began(now).checked_add(after);
                if due.is_none() {
                    cx.warn(
                        "the replay of the capture file ends",
                        "a frame's time is too far from the first one's",
                    );
                    self.capture = None;
                }
                due
            }
            Ok(Some(_)) => Some(now),
            // One without frames would be read for ever.
            Ok(None) if self.again && capture.has_frames() => {
                capture.rewind();
                None
            }
            Ok(None) => {
                self.capture = None;
                None
            }
            Err(error) => {
                cx.warn("the replay of the capture file ends", error);
                self.capture = None;
                None
            }
        }
    }

    fn flush(&mut self, cx: &mut Cx<'_, ()>) {
        if let Some(write) = &mut self.write
            && let Err(error) = write.flush()
        {
            cx.warn("the capture file is written no more", error);
            self.write = None;
        }
    }
}

impl Side for Replay {
    fn turned(&mut self, receives: bool, _: &mut Cx<'_, ()>) {
        self.receives = receives;
        self.waits = false;
    }

    fn send(&mut self, mut packet: Outgoing<'_>, _: &mut Rx, cx: &mut Cx<'_, ()>) -> Sent {
        let Some(write) = &mut self.write else { return Sent::Done(packet.rest) };
        let (head, len) = (packet.head.len(), packet.len());
        let Some(frame) = self.frame.get_mut(..len) else { return Sent::Done(packet.rest) };
        if let Some((front, rest)) = frame.split_at_mut_checked(head) {
            front.copy_from_slice(packet.head);
            // As many as are left.
            let _ = packet.rest.read_exact(rest);
        }
        plain(&packet.offload, frame, |frame| write.frame(frame));
        if write.bytes.len() >= CHUNK {
            self.flush(cx);
        }
        Sent::Done(packet.rest)
    }

    fn pump(&mut self, rx: &mut Rx, cx: &mut Cx<'_, ()>) -> bool {
        self.waits = !self.receives;
        let now = cx.now();
        for done in 0..AT_ONCE {
            if self.waits || self.capture.is_none() {
                return done > 0;
            }
            if self.next.is_none() {
                self.next = self.advance(now, cx);
            }
            let (Some(at), Some(capture)) = (self.next, &self.capture) else { continue };
            if at > now {
                self.waits = true;
                cx.after(at - now, TIME);
                continue;
            }
            match capture.frame() {
                Some(frame) => {
                    if rx.deliver(&Offload::None, frame, cx) == Err(Dropped::NoBuffer) {
                        self.waits = true;
                        continue;
                    }
                }
                None => rx.count(Err(Dropped::Header)),
            }
            self.next = None;
        }
        true
    }

    fn is_ready(&self) -> bool {
        self.capture.is_some() && !self.waits
    }

    fn rest(&mut self, cx: &mut Cx<'_, ()>) -> bool {
        self.flush(cx);
        !self.is_ready()
    }

    fn event(&mut self, _: SourceId, _: &mut Cx<'_, ()>) {
        self.waits = false;
    }

    fn stop(&mut self, cx: &mut Cx<'_, ()>) {
        self.flush(cx);
    }
}
