//! An EEPROM as of the 24C family: a place, of one byte up to 256 bytes and of two beyond, then data. Writes wrap around
//! within a page, reads within the whole. It is never busy.

use std::os::fd::OwnedFd;
use std::path::Path;

use outboard_device::DeviceError;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::{pread, pwrite};

use super::{Part, byte_of};

/// See the module.
pub(super) struct Eeprom {
    bytes: Vec<u8>,
    page: usize,
    place: usize,
    /// Bytes of the place that are still to come.
    expected: u8,
    /// Something was written since it was last saved.
    changed: bool,
    file: Option<OwnedFd>,
}

impl Eeprom {
    /// One of `size` bytes, which are in `file`, if there is one, and begin as 0xff.
    pub(super) fn open(size: usize, page: usize, file: Option<&Path>) -> Result<Self, DeviceError> {
        let mut bytes = vec![0xff; size];
        let file = file.map(|path| load(path, &mut bytes)).transpose()?;
        Ok(Self { bytes, page, place: 0, expected: 0, changed: false, file })
    }

    fn next(&mut self) {
        self.place = (self.place + 1) % self.bytes.len();
    }
}

/// What is in the file goes over the first of `bytes`.
fn load(path: &Path, bytes: &mut [u8]) -> Result<OwnedFd, DeviceError> {
    let failed = |error| DeviceError::host(format!("the EEPROM's {}", path.display()), error);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match pread(&file, rest, filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(file)
}

impl Part for Eeprom {
    fn name(&self) -> &'static str {
        "eeprom"
    }

    fn start(&mut self, read: bool) {
        self.expected = if read { 0 } else { 1 + u8::from(self.bytes.len() > 256) };
    }

    fn write(&mut self, byte: u8) -> bool {
        if self.expected > 0 {
            let long = self.bytes.len() > 256;
            let high = if long && self.expected == 1 { self.place << 8 } else { 0 };
            self.place = (high | usize::from(byte)) % if self.expected == 2 { 256 } else { self.bytes.len() };
            self.expected -= 1;
            return true;
        }
        if let Some(cell) = self.bytes.get_mut(self.place) {
            *cell = byte;
        }
        self.changed = true;
        let page = self.place - self.place % self.page;
        self.place = page + (self.place + 1) % self.page;
        true
    }

    fn read(&mut self) -> u8 {
        let byte = self.bytes.get(self.place).copied().unwrap_or(0xff);
        self.next();
        byte
    }

    fn stop(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let Some(file) = &self.file else { return };
        let mut saved = 0;
        while let Some(rest) = self.bytes.get(saved..).filter(|rest| !rest.is_empty()) {
            match pwrite(file, rest, saved as u64) {
                Ok(count) if count > 0 => saved += count,
                Err(rustix::io::Errno::INTR) => {}
                other => {
                    tracing::warn!("the EEPROM's file cannot be written: {other:?}");
                    return;
                }
            }
        }
    }

    fn set(&mut self, register: u64, value: u64) -> Result<(), String> {
        let value = byte_of(value)?;
        let cell = usize::try_from(register).ok().and_then(|at| self.bytes.get_mut(at));
        *cell.ok_or_else(|| format!("there is no register {register}"))? = value;
        self.changed = true;
        self.stop();
        Ok(())
    }

    fn dump(&self) -> Vec<u16> {
        self.bytes.iter().copied().map(u16::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(part: &mut Eeprom, bytes: &[u8]) {
        part.start(false);
        assert!(bytes.iter().all(|&byte| part.write(byte)));
        part.stop();
    }

    fn read<const N: usize>(part: &mut Eeprom) -> [u8; N] {
        part.start(true);
        std::array::from_fn(|_| part.read())
    }

    #[test]
    fn small_one_takes_a_byte_for_the_place_and_wraps_within_a_page() {
        let mut part = Eeprom::open(256, 8, None).unwrap();
        write(&mut part, &[0x0e, 1, 2, 3]);
        write(&mut part, &[0x08]);
        assert_eq!(read(&mut part), [3, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 0xff]);
        write(&mut part, &[0xff, 9]);
        write(&mut part, &[0xff]);
        assert_eq!(read(&mut part), [9, 0xff]);
        write(&mut part, &[0]);
        assert_eq!(read(&mut part), [0xff], "what was read from the end on began anew");
    }

    #[test]
    fn large_one_takes_two_bytes_for_the_place() {
        let mut part = Eeprom::open(4096, 32, None).unwrap();
        write(&mut part, &[0x0f, 0xfe, 1, 2]);
        write(&mut part, &[0x0f, 0xfe]);
        assert_eq!(read(&mut part), [1, 2, 0xff]);
        write(&mut part, &[0xff, 0xff]);
        assert_eq!(read(&mut part), [2], "places beyond wrap around");
        write(&mut part, &[0x01]);
        assert_eq!(part.place, 1, "half of a place is one");
    }

    #[test]
    fn file_keeps_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("eeprom");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        let mut part = Eeprom::open(128, 8, Some(&path)).unwrap();
        assert_eq!(read(&mut part), [1, 2, 3, 0xff]);
        write(&mut part, &[1, 7]);
        part.set(127, 5).unwrap();
        let saved = std::fs::read(&path).unwrap();
        assert_eq!((saved.len(), &saved[..4], saved[127]), (128, &[1, 7, 3, 0xff][..], 5));
        assert!(part.set(128, 0).is_err() && part.set(0, 256).is_err());
        assert!(Eeprom::open(128, 8, Some(directory.path())).is_err());
    }
}
