//! The directory of `--device-dir`: a device for each file in it.
//!
//! Who can write there is trusted as who wrote the command line, and makes mistakes: a file that is wrong is told of once
//! and changes nothing. A file that is being written is read when it has been left alone for a moment.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::Program;
use crate::household::{Household, Promise};
use crate::plan::{Pairs, read_device};

/// How long files are left alone after a change.
const SETTLED: Duration = Duration::from_millis(100);
/// How long at most, if there is no end of changes.
const LONGEST: Duration = Duration::from_secs(1);
/// The longest file that is read, in bytes.
const FILE_MAX: u64 = 64 << 10;
const EXTENSION: &str = "toml";

/// The directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch {0}")]
pub(crate) struct WatchError(String, #[source] io::Error);

/// The directory, and what came of its files.
pub(crate) struct Directory {
    path: PathBuf,
    changes: OwnedFd,
    /// When it is to be read, and when at the latest.
    due: Option<(Instant, Instant)>,
    /// Those that are being opened.
    coming: BTreeMap<String, (Promise, File)>,
    /// Those whose devices are there.
    there: BTreeMap<String, File>,
    /// Those that are left alone until they are written anew: they were wrong, or their devices ended by themselves.
    wrong: BTreeMap<String, File>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    text: Result<String, String>,
    /// One that is written anew is tried anew.
    written: Option<SystemTime>,
}

impl Directory {
    /// Begins to watch. Files that are there already are read first.
    ///
    /// # Errors
    /// There is no such directory, or it cannot be read.
    pub(crate) fn open(path: PathBuf) -> Result<Self, WatchError> {
        let failed = |error: io::Error| WatchError(path.display().to_string(), error);
        let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::CREATE;
        inotify::add_watch(&changes, &path, flags | WatchFlags::ONLYDIR)
            .map_err(|error| failed(error.into()))?;
        fs::read_dir(&path).map_err(failed)?;
        let now = Instant::now();
        let (there, wrong) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { path, changes, due: Some((now, now)), coming: BTreeMap::new(), there, wrong })
    }

    /// When there is something to do without a change.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due.map(|(due, latest)| due.min(latest))
    }

    /// Has the directory read soon.
    pub(crate) fn look_again(&mut self) {
        let now = Instant::now();
        let latest = self.due.map_or(now + LONGEST, |(_, latest)| latest);
        self.due = Some((now + SETTLED, latest));
    }

    /// Follows the files. `changed`: a device has gone, or has come.
    pub(crate) fn keep<P: Program, C: Send + Sync + 'static>(
        &mut self,
        household: &Arc<Household<P, C>>,
        changed: bool,
    ) {
        let mut events = [0; 4096];
        let mut is_new = false;
        while rustix::io::read(&self.changes, &mut events).is_ok_and(|count| count > 0) {
            is_new = true;
        }
        if is_new {
            self.look_again();
        }
        self.settle();
        if changed || self.due().is_some_and(|due| due <= Instant::now()) {
            if !changed {
                self.due = None;
            }
            match read(&self.path) {
                Ok(files) => self.compare(&files, household),
                Err(error) => {
                    tracing::warn!("cannot read {}, nothing changes: {error}", self.path.display());
                }
            }
        }
    }

    /// Sees what has come of those that were to be opened.
    fn settle(&mut self) {
        let (there, wrong) = (&mut self.there, &mut self.wrong);
        self.coming.retain(|name, (promise, file)| {
            let Some(answer) = promise.poll() else { return true };
            let came = if answer.is_ok() { &mut *there } else { &mut *wrong };
            came.insert(name.clone(), file.clone());
            false
        });
    }

    /// Has devices come and go until they are those of the files.
    fn compare<P: Program, C: Send + Sync + 'static>(
        &mut self,
        files: &BTreeMap<String, File>,
        household: &Arc<Household<P, C>>,
    ) {
        self.wrong.retain(|name, _| files.contains_key(name));
        let there = household.filed();
        for (name, text) in &there {
            let file = files.get(name);
            // A file that cannot be read, or is wrong, leaves the device as it was.
            let stays = file.is_some_and(|file| match &file.text {
                Ok(new) => new == text || self.has_mistake::<P>(name, file),
                Err(_) => true,
            });
            if !stays {
                self.there.remove(name);
                // It may be on its way already.
                let _ = household.send_away(name, household.changed().clone());
            }
        }
        for (name, file) in files {
            let is_there = there.iter().any(|(known, _)| known == name);
            if is_there || self.coming.contains_key(name) {
                continue;
            }
            if let Some(ended) = self.there.remove(name) {
                self.wrong.insert(name.clone(), ended);
            }
            if self.wrong.get(name) == Some(file) {
                continue;
            }
            let promise = self
                .pairs(name, file)
                .and_then(|(pairs, text)| household.invite(&pairs, Some(text), household.changed().clone()));
            match promise {
                Ok(promise) => {
                    self.coming.insert(name.clone(), (promise, file.clone()));
                }
                Err(reason) => self.refuse(name, file, &reason),
            }
        }
    }

    /// Whether a file is wrong by what it says alone. It is told once.
    fn has_mistake<P: Program>(&mut self, name: &str, file: &File) -> bool {
        if self.wrong.get(name) == Some(file) {
            return true;
        }
        let checked = self.pairs(name, file).and_then(|(pairs, _)| crate::plan::planned::<P>(&pairs, 0));
        match checked {
            Ok(_) => false,
            Err(reason) => {
                self.refuse(name, file, &reason);
                true
            }
        }
    }

    fn refuse(&mut self, name: &str, file: &File, reason: &str) {
        tracing::error!("{}: {reason}", self.path.join(name).with_extension(EXTENSION).display());
        self.wrong.insert(name.to_owned(), file.clone());
    }

    /// The keys of a device, and what the file says.
    fn pairs(&self, name: &str, file: &File) -> Result<(Pairs, String), String> {
        let text = file.text.clone()?;
        let mut pairs = read_device(&text)?;
        if pairs.has("name") {
            return Err("name: the device is called as its file".to_owned());
        }
        if !pairs.has("socket-path") {
            pairs.push("socket-path", self.path.join(format!("{name}.sock")));
        }
        pairs.push("name", name);
        Ok((pairs, text))
    }
}

impl AsFd for Directory {
    /// Readable when something has changed.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

/// The files of a directory by their names, without the extension.
fn read(path: &Path) -> io::Result<BTreeMap<String, File>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(OsStr::to_str).filter(|name| !name.starts_with('.'));
        if let Some(name) = name
            && path.extension() == Some(OsStr::new(EXTENSION))
        {
            files.insert(name.to_owned(), read_file(&path));
        }
    }
    Ok(files)
}

fn read_file(path: &Path) -> File {
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|file| {
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.len() > FILE_MAX {
            return Err(io::Error::other(format!("no file of at most {FILE_MAX} bytes")));
        }
        file.take(FILE_MAX).read_to_string(&mut text)?;
        metadata.modified()
    });
    match read {
        Ok(written) => File { text: Ok(text), written: Some(written) },
        Err(error) => File { text: Err(crate::logging::one_line(&error)), written: None },
    }
}
