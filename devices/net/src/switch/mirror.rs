//! What a port's guest sends and receives, written to a capture file. The file is the administrator's.
//!
//! A thread of its own writes: the port never waits for it, and what it is too slow for is missing in the file, and
//! counted.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::SystemTime;

use outboard_device::DeviceError;
use outboard_device::serde_json::{Value, json};
use outboard_frames::pcap::{file_header, frame_header};

use super::delivery::Frame;

/// The most frames that wait to be written.
const ROOM: usize = 256;

/// A frame, and when it was seen.
type Seen = (SystemTime, Arc<Frame>);

/// The way to the file. The file is whole when this is dropped.
#[derive(Debug)]
pub(super) struct Mirror {
    /// `None`: it is being dropped.
    frames: Option<SyncSender<Seen>>,
    lost: AtomicU64,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Makes the file, or begins it anew.
    ///
    /// # Errors
    /// It cannot be written to.
    pub(super) fn open(path: &Path) -> Result<Self, DeviceError> {
        let failed = |error| DeviceError::host(format!("cannot write to {}", path.display()), error);
        let mut file = File::create(path).map_err(failed)?;
        file.write_all(&file_header()).map_err(failed)?;
        let (frames, seen) = sync_channel(ROOM);
        let written = Arc::new(AtomicU64::new(0));
        let (count, shown) = (Arc::clone(&written), path.display().to_string());
        let write = move || {
            if let Err(error) = write(&seen, &mut BufWriter::new(file), &count) {
                tracing::error!("the mirror {shown} ends here: {error}");
            }
        };
        let thread = thread::Builder::new().name("mirror".to_owned()).spawn(write).map_err(failed)?;
        Ok(Self { frames: Some(frames), lost: AtomicU64::new(0), written, thread: Some(thread) })
    }

    /// Has a frame written.
    pub(super) fn show(&self, frame: &Arc<Frame>) {
        let seen = (SystemTime::now(), Arc::clone(frame));
        if self.frames.as_ref().is_none_or(|frames| frames.try_send(seen).is_err()) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What it has done.
    pub(super) fn status(&self) -> Value {
        let [written, lost] = [&*self.written, &self.lost].map(|count| count.load(Ordering::Relaxed));
        json!({ "written": written, "lost": lost })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        drop(self.frames.take());
        if let Some(thread) = self.thread.take() {
            // What it may have panicked of was logged.
            let _ = thread.join();
        }
    }
}

/// Writes what comes. What there is is in the file before more is waited for.
fn write(seen: &Receiver<Seen>, file: &mut impl Write, written: &AtomicU64) -> io::Result<()> {
    loop {
        let (at, frame) = match seen.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Disconnected) => return file.flush(),
            Err(TryRecvError::Empty) => {
                file.flush()?;
                match seen.recv() {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                }
            }
        };
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // No frame is longer than 64 KiB and its headers.
        let len = frame.bytes.len() as u32;
        file.write_all(&frame_header(since, len, len))?;
        file.write_all(&frame.bytes)?;
        written.fetch_add(1, Ordering::Relaxed);
    }
}
