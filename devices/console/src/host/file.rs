//! A file that is written to its end, and followed by another when it is full.
//!
//! Its disk may be slow, and then the ports of this device are; what it does not take is lost, and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use outboard_device::DeviceError;

use super::{Far, Rotation};

pub(super) struct Log {
    path: PathBuf,
    file: File,
    len: u64,
    rotation: Option<Rotation>,
    /// The last write failed, and that was said.
    fails: bool,
}

impl Log {
    pub(super) fn open(path: &Path, rotation: Option<Rotation>) -> Result<Self, DeviceError> {
        let failed = |error| DeviceError::host(format!("cannot open {}", path.display()), error);
        let file = append(path).map_err(failed)?;
        let len = file.metadata().map_err(failed)?.len();
        Ok(Self { path: path.to_path_buf(), file, len, rotation, fails: false })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = match self.rotation {
            Some(Rotation { max, keep }) => {
                if self.len >= max {
                    self.rotate(keep)?;
                }
                usize::try_from(max - self.len).unwrap_or(usize::MAX)
            }
            None => usize::MAX,
        };
        let len = self.file.write(bytes.get(..room).unwrap_or(bytes))?;
        self.len += len as u64;
        Ok(len)
    }

    /// Moves each file one further, and begins a new one.
    fn rotate(&mut self, keep: u16) -> io::Result<()> {
        for number in (1..=keep).rev() {
            let from = if number == 1 { self.path.clone() } else { self.numbered(number - 1) };
            match std::fs::rename(from, self.numbered(number)) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if keep == 0 {
            std::fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.len = self.file.metadata()?.len();
        Ok(())
    }

    fn numbered(&self, number: u16) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!(".{number}"));
        path.into()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

impl Far for Log {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.put(bytes);
        match &result {
            Err(error) if !std::mem::replace(&mut self.fails, true) => {
                tracing::warn!("{}: {error}: what the guest sends is lost", self.path.display());
            }
            Ok(_) => self.fails = false,
            Err(_) => {}
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_is_full_is_followed_by_another_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old ").unwrap();
        let mut log = Log::open(&path, Some(Rotation { max: 8, keep: 2 })).unwrap();
        let mut text = &b"0123456789abcdefghij"[..];
        while !text.is_empty() {
            let len = log.write(text).unwrap();
            text = &text[len..];
        }
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!([read("log"), read("log.1"), read("log.2")], ["cdefghij", "456789ab", "old 0123"]);
        assert_eq!(log.write(b"k").unwrap(), 1);
        assert_eq!([read("log"), read("log.1"), read("log.2")], ["k", "cdefghij", "456789ab"]);
        assert!(!dir.path().join("log.3").exists());
    }

    #[test]
    fn file_that_cannot_be_written_loses_what_is_sent_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("place");
        std::fs::create_dir(&place).unwrap();
        let mut log = Log::open(&place.join("log"), Some(Rotation { max: 4, keep: 1 })).unwrap();
        assert_eq!(log.write(b"01234").unwrap(), 4);
        std::fs::rename(&place, dir.path().join("away")).unwrap();
        assert!(log.write(b"4").is_err() && log.write(b"4").is_err());
        std::fs::rename(dir.path().join("away"), &place).unwrap();
        assert_eq!(log.write(b"5").unwrap(), 1);
    }
}
