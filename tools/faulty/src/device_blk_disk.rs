//! What the disk's data is kept in: memory, or a file that is mapped.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use outboard_guest_memory::{Segment, SharedRegion, memfd};

use crate::faults::{Fault, Faults};
use crate::memory::Bad;

/// By how much SIGHUP makes a disk in memory grow.
const GROWTH: u64 = 1 << 20;

pub(crate) struct Disk {
    faults: Faults,
    /// Of memory or not.
    file: File,
    is_memory: bool,
    data: Segment,
    /// Where the data goes that a fault keeps in memory meanwhile.
    late: Option<File>,
}

impl Disk {
    /// A disk in memory, of `size` bytes, or in the file at `path`.
    pub(crate) fn open(path: Option<&Path>, size: u64, faults: Faults) -> Result<Self, Bad> {
        let memory = |size| memfd("disk", size).map(File::from).map_err(|error| error.to_string());
        let Some(path) = path else {
            let file = memory(size)?;
            let data = map(&file)?;
            return Ok(Self { faults, file, is_memory: true, data, late: None });
        };
        let open = File::options().read(true).write(true).open(path);
        let file = open.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        let data = map(&file)?;
        let kept = [Fault::BlkFlushIgnored, Fault::BlkWriteThroughIgnored, Fault::BlkUnflushedVolatile];
        if !kept.iter().any(|fault| faults.has(*fault)) {
            return Ok(Self { faults, file, is_memory: false, data, late: None });
        }
        let copy = memory(data.len() as u64)?;
        let kept = map(&copy)?;
        data.copy_to(&kept);
        Ok(Self { faults, file: copy, is_memory: false, data: kept, late: Some(file) })
    }

    /// Its size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.data.len() as u64
    }

    /// A part of it.
    pub(crate) fn slice(&self, offset: u64, len: u64) -> Option<Segment> {
        self.data.slice(usize::try_from(offset).ok()?, usize::try_from(len).ok()?)
    }

    /// Makes stable what was written.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        match (&self.late, self.is_memory) {
            (Some(_), _) if self.faults.has(Fault::BlkFlushIgnored) => Ok(()),
            (Some(_), _) => self.store(),
            (None, true) => Ok(()),
            (None, false) => self.file.sync_data(),
        }
    }

    /// Puts the data where it belongs.
    fn store(&self) -> std::io::Result<()> {
        let Some(file) = &self.late else { return Ok(()) };
        let mut bytes = vec![0; self.data.len()];
        self.data.read_into(0, &mut bytes).map_err(std::io::Error::other)?;
        file.write_all_at(&bytes, 0)
    }

    /// A disk in memory grows; a file may have.
    pub(crate) fn refresh(&mut self) -> bool {
        let old = self.len();
        if self.is_memory && self.file.set_len(old + GROWTH).is_err() {
            return false;
        }
        match map(&self.file) {
            Ok(data) => self.data = data,
            Err(_) => return false,
        }
        self.len() != old
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.store();
    }
}

fn map(file: &File) -> Result<Segment, Bad> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let fd = file.try_clone().map_err(|error| error.to_string())?;
    let shared =
        SharedRegion::map(fd.into(), size, 0).map_err(|error| format!("cannot map the disk: {error}"))?;
    Ok(shared.segment())
}
