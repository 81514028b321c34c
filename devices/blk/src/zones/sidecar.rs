//! Where the write pointers of an image are kept: the file `IMAGE.zones` beside it.
//!
//! A head of a page says what the zones are like; then each zone has 8 bytes with its pointer, its state, and a check
//! sum. A zone's record is written with one `pwrite` before the guest hears of a write: a program that is killed has
//! left all of it or nothing in the page cache. What a host that crashed left is another matter: the guest's flush
//! syncs the image first and this file second, so nothing stable is behind its pointer; a record whose check sum is
//! wrong makes the zone full, which loses nothing. A head that is wrong is refused.
//!
//! The file is the user's. It is trusted as much as the image is, which is: for nothing but sizes within bounds.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use outboard_device::DeviceError;

use super::layout::Layout;
use super::zone::{State, Zone, fresh};

const MAGIC: u64 = u64::from_le_bytes(*b"OBZONES1");
/// Where the records begin, in bytes.
const RECORDS: u64 = 4096;
/// Bytes of a record.
const RECORD: u64 = 8;

/// The file, open.
pub(crate) struct Sidecar {
    file: File,
    read_only: bool,
}

/// What the head says. Lengths in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    zone: u32,
    capacity: u32,
    conventional: u32,
    granularity: u32,
    count: u32,
}

impl Head {
    fn bytes(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        let numbers = [self.zone, self.capacity, self.conventional, self.granularity, self.count];
        let words = MAGIC.to_le_bytes().into_iter().chain(numbers.into_iter().flat_map(u32::to_le_bytes));
        bytes.iter_mut().zip(words).for_each(|(place, byte)| *place = byte);
        let check = digest(bytes.iter().take(32).copied()).to_le_bytes();
        bytes.iter_mut().skip(32).zip(check).for_each(|(place, byte)| *place = byte);
        bytes
    }

    fn parse(bytes: &[u8; 40]) -> Option<Self> {
        let number = |at: usize| {
            let word = bytes.get(8 + 4 * at..12 + 4 * at)?;
            Some(u32::from_le_bytes(word.try_into().ok()?))
        };
        let head = Self {
            zone: number(0)?,
            capacity: number(1)?,
            conventional: number(2)?,
            granularity: number(3)?,
            count: number(4)?,
        };
        (head.bytes() == *bytes).then_some(head)
    }

    /// Its zones before anything was written.
    fn fresh(&self) -> impl Iterator<Item = Zone> + use<> {
        fresh(self.zone, self.capacity, self.conventional, self.count)
    }
}

/// FNV-1a.
fn digest(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes
        .into_iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn check(at: usize, low: u64) -> u64 {
    digest((at as u64).to_le_bytes().into_iter().chain(low.to_le_bytes())) << 48
}

fn record(at: usize, zone: &Zone) -> u64 {
    let low = u64::from(zone.done) | u64::from(zone.state as u8) << 32;
    low | check(at, low)
}

/// What a record says: state and pointer.
fn read_record(at: usize, record: u64) -> Option<(State, u32)> {
    let low = record & 0xffff_ffff_ffff;
    let state = State::of((low >> 32) as u8).filter(|_| low >> 40 == 0)?;
    (record == low | check(at, low)).then_some((state, low as u32))
}

impl Sidecar {
    /// Where it is for an image.
    pub(crate) fn path(image: &Path) -> PathBuf {
        let mut name = image.as_os_str().to_owned();
        name.push(".zones");
        name.into()
    }

    /// Opens the file of an image, or makes one, and gives the zones as they were left. `vacant` answers for the image:
    /// nothing is in it from that zone on. Only then are zones new.
    ///
    /// # Errors
    /// The file cannot be used, or was made for other zones; or those of `vacant`, and nothing has changed.
    pub(crate) fn open(
        image: &Path,
        layout: &Layout,
        capacity: u32,
        conventional: u32,
        read_only: bool,
        vacant: impl Fn(u32) -> Result<(), DeviceError>,
    ) -> Result<(Self, Vec<Zone>), DeviceError> {
        let path = Self::path(image);
        let failed = |error| DeviceError::host(format!("cannot open {}", path.display()), error);
        let head = Head {
            zone: layout.zone,
            capacity,
            conventional,
            granularity: layout.granularity,
            count: layout.count,
        };
        let file = match OpenOptions::new().read(true).write(!read_only).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !read_only => {
                vacant(conventional)?;
                let zones: Vec<Zone> = head.fresh().collect();
                let file = create(&path, &head, &zones)
                    .map_err(|error| DeviceError::host(format!("cannot make {}", path.display()), error))?;
                return Ok((Self { file, read_only }, zones));
            }
            file => file.map_err(failed)?,
        };
        let mut bytes = [0; 40];
        let found = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| Head::parse(&bytes));
        let Some(found) = found else {
            return Err(DeviceError::Invalid(format!("{} is no table of zones", path.display())));
        };
        if (Head { count: head.count, ..found }) != head || found.count > head.count {
            let Head { zone, capacity, conventional, granularity, count } = found;
            return Err(DeviceError::Invalid(format!(
                "{} is for {count} zones of {zone} sectors, capacity {capacity}, {conventional} conventional, blocks \
                 of {granularity}: the disk would have {} of {}, {}, {}, {}",
                path.display(),
                head.count,
                head.zone,
                head.capacity,
                head.conventional,
                head.granularity,
            )));
        }
        let sidecar = Self { file, read_only };
        let mut zones = sidecar.read(&found).map_err(failed)?;
        if found.count < head.count {
            // The disk has grown. The head comes last: until then the new zones do not exist.
            vacant(found.count)?;
            zones.extend(head.fresh().skip(zones.len()));
            if !read_only {
                sidecar.put_all(&zones).and_then(|()| sidecar.file.sync_all()).map_err(failed)?;
                sidecar.file.write_all_at(&head.bytes(), 0).map_err(failed)?;
            }
        }
        Ok((sidecar, zones))
    }

    fn read(&self, head: &Head) -> io::Result<Vec<Zone>> {
        let mut zones: Vec<Zone> = head.fresh().collect();
        let mut bytes = vec![0; zones.len() * RECORD as usize];
        self.file.read_exact_at(&mut bytes, RECORDS)?;
        let mut torn = 0;
        let (words, _) = bytes.as_chunks::<8>();
        for (at, (zone, &word)) in zones.iter_mut().zip(words).enumerate().skip(head.conventional as usize) {
            let (state, pointer) = read_record(at, u64::from_le_bytes(word)).unwrap_or_else(|| {
                torn += 1;
                (State::Full, head.capacity)
            });
            *zone = Zone::sequential(head.capacity, state, pointer);
        }
        if torn > 0 {
            tracing::warn!(
                "the write pointers of {torn} zones are lost: the zones are full until they are reset"
            );
        }
        Ok(zones)
    }

    /// Remembers a zone.
    ///
    /// # Errors
    /// Those of `pwrite(2)`.
    pub(crate) fn put(&self, at: usize, zone: &Zone) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file.write_all_at(&record(at, zone).to_le_bytes(), RECORDS + at as u64 * RECORD)
    }

    /// Remembers all zones.
    ///
    /// # Errors
    /// Those of `pwrite(2)`.
    pub(crate) fn put_all(&self, zones: &[Zone]) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file.write_all_at(&records(zones), RECORDS)
    }

    /// Makes it stable.
    ///
    /// # Errors
    /// Those of `fdatasync(2)`.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Another descriptor of it.
    ///
    /// # Errors
    /// Those of `dup(2)`.
    pub(crate) fn share(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}

fn records(zones: &[Zone]) -> Vec<u8> {
    zones.iter().enumerate().flat_map(|(at, zone)| record(at, zone).to_le_bytes()).collect()
}

/// Makes the file whole or not at all.
fn create(path: &Path, head: &Head, zones: &[Zone]) -> io::Result<File> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&draft)?;
    file.write_all_at(&head.bytes(), 0)?;
    file.write_all_at(&records(zones), RECORDS)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(directory)?.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::layout::Wanted;
    use super::*;

    fn layout(disk: u64, zone: u64) -> Layout {
        let wanted =
            Wanted { zone, capacity: None, conventional: 1, max_open: 0, max_active: 0, block: 512, disk };
        Layout::emulated(&wanted).unwrap().0
    }

    fn open(image: &Path, disk: u64, zone: u64) -> Result<(Sidecar, Vec<Zone>), DeviceError> {
        open_over(image, disk, zone, |_| Ok(()))
    }

    fn open_over(
        image: &Path,
        disk: u64,
        zone: u64,
        vacant: impl Fn(u32) -> Result<(), DeviceError>,
    ) -> Result<(Sidecar, Vec<Zone>), DeviceError> {
        Sidecar::open(image, &layout(disk, zone), (zone / 512) as u32, 1, false, vacant)
    }

    #[test]
    fn sidecar_is_made_only_when_the_image_was_found_empty() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        let full = |expected: (u32, usize)| {
            let directory = directory.path();
            move |zone: u32| -> Result<(), DeviceError> {
                let beside = std::fs::read_dir(directory).unwrap().count();
                assert_eq!((zone, beside), expected, "it is looked at first");
                Err(DeviceError::Invalid("not empty".to_owned()))
            }
        };
        assert!(open_over(&image, 1 << 20, 1 << 18, full((1, 0))).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "no file, whatever happens now");
        open(&image, 1 << 20, 1 << 18).unwrap();
        let before = std::fs::read(Sidecar::path(&image)).unwrap();
        assert!(open_over(&image, 2 << 20, 1 << 18, full((4, 1))).is_err(), "what has grown, too");
        assert_eq!(std::fs::read(Sidecar::path(&image)).unwrap(), before);
    }

    #[test]
    fn sidecar_gives_back_what_was_put() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        let (sidecar, zones) = open(&image, 1 << 20, 1 << 18).unwrap();
        assert_eq!(zones.len(), 4);
        assert!(zones[1..].iter().all(|zone| zone.state == State::Empty), "new");
        let written = Zone::sequential(512, State::Closed, 77);
        sidecar.put(2, &written).unwrap();
        sidecar.put(3, &Zone::sequential(512, State::ExplicitlyOpen, 0)).unwrap();
        drop(sidecar);
        let zones = open(&image, 1 << 20, 1 << 18).unwrap().1;
        assert_eq!(zones.len(), 4);
        assert_eq!(zones[0], Zone::conventional(512));
        assert_eq!((zones[1].state, zones[1].pointer), (State::Empty, 0));
        assert_eq!(zones[2], written);
        assert_eq!(zones[3].state, State::ExplicitlyOpen);
    }

    #[test]
    fn sidecar_of_a_disk_that_grew_has_the_new_zones_empty() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        let (sidecar, _) = open(&image, 1 << 20, 1 << 18).unwrap();
        sidecar.put(3, &Zone::sequential(512, State::Closed, 5)).unwrap();
        for _ in 0..2 {
            let zones = open(&image, 2 << 20, 1 << 18).unwrap().1;
            assert_eq!((zones.len(), zones[3].pointer, zones[7].state), (8, 5, State::Empty));
        }
        let shrunk = open(&image, 1 << 20, 1 << 18).err().unwrap().to_string();
        assert!(shrunk.contains("is for 8 zones of 512 sectors"), "{shrunk}");
    }

    #[test]
    fn record_that_is_torn_makes_its_zone_full_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        let (sidecar, _) = open(&image, 1 << 20, 1 << 18).unwrap();
        sidecar.put(1, &Zone::sequential(512, State::Closed, 9)).unwrap();
        for byte in 0..8 {
            sidecar.put(2, &Zone::sequential(512, State::Closed, 9)).unwrap();
            let at = RECORDS + 2 * RECORD + byte;
            let mut old = [0];
            sidecar.file.read_exact_at(&mut old, at).unwrap();
            sidecar.file.write_all_at(&[old[0] ^ 0x10], at).unwrap();
            let zones = open(&image, 1 << 20, 1 << 18).unwrap().1;
            assert_eq!((zones[1].state, zones[1].pointer), (State::Closed, 9));
            assert_eq!((zones[2].state, zones[2].pointer), (State::Full, 512), "byte {byte}");
        }
    }

    #[test]
    fn sidecar_that_is_none_or_is_for_another_disk_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        let (sidecar, _) = open(&image, 1 << 20, 1 << 18).unwrap();
        let other = open(&image, 1 << 20, 1 << 17).err().unwrap().to_string();
        assert!(other.contains("is for 4 zones"), "{other}");
        for byte in 0..40 {
            let mut old = [0];
            sidecar.file.read_exact_at(&mut old, byte).unwrap();
            sidecar.file.write_all_at(&[old[0] ^ 1], byte).unwrap();
            let error = open(&image, 1 << 20, 1 << 18).err().unwrap().to_string();
            assert!(error.contains("no table of zones"), "{error}");
            sidecar.file.write_all_at(&old, byte).unwrap();
        }
        sidecar.file.set_len(RECORDS + 3 * RECORD).unwrap();
        assert!(open(&image, 1 << 20, 1 << 18).is_err(), "records are missing");
        sidecar.file.set_len(10).unwrap();
        assert!(open(&image, 1 << 20, 1 << 18).is_err());
    }
}
