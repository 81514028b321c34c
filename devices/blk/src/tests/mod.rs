//! The whole device, from the driver's half of both ring formats to the file behind it.

mod anything;
mod control;
mod erase;
mod faults;
mod hostile;
mod images;
mod limits;
mod model;
mod nbd;
mod nbd_server;
mod races;
mod real_servers;
mod requests;
mod zoned;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use imago::FormatAccess;
use outboard_device::defs::blk::{F_CONFIG_WCE, F_FLUSH, RangeSegment, RequestHeader};
use outboard_device::testing::{Bench, Format, Setup};
use outboard_device::{Device, DeviceError, Features, Group, Patience};
use tempfile::{NamedTempFile, TempDir};
use zerocopy::IntoBytes;

use crate::host::file::DiskFile;
use crate::host::image::create::{Backing, create_qcow2};
use crate::host::image::layer::ImageFile;
use crate::{Blk, BlkHandler, BlkOptions, Follow, ImageFormat};

const FORMATS: [Format; 2] = [Format::Split, Format::Packed];
/// Size of the disks, in bytes.
const SIZE: usize = 64 << 10;
/// What the driver accepts unless a test says otherwise.
const AGREED: Features = Features(F_FLUSH | F_CONFIG_WCE);

/// A disk and a driver for it.
struct Disk {
    device: Blk,
    bench: Bench<BlkHandler>,
    /// What is behind the disk, if it is a file.
    image: Option<NamedTempFile>,
    /// What is behind it otherwise.
    directory: Option<TempDir>,
}

impl Disk {
    fn ram(format: Format) -> Self {
        Self::open(&BlkOptions { ram: Some(SIZE as u64), ..BlkOptions::default() }, None, format, AGREED)
    }

    fn file(format: Format) -> Self {
        Self::file_with(format, BlkOptions::default())
    }

    /// In a file that reads as [`pattern`].
    fn file_with(format: Format, options: BlkOptions) -> Self {
        Self::file_agreed(format, options, AGREED)
    }

    fn file_agreed(format: Format, options: BlkOptions, agreed: Features) -> Self {
        let image = NamedTempFile::new().unwrap();
        image.as_file().write_all_at(&pattern(0, SIZE), 0).unwrap();
        Self::open(
            &BlkOptions { blk_file: Some(image.path().into()), ..options },
            Some(image),
            format,
            agreed,
        )
    }

    fn open(options: &BlkOptions, image: Option<NamedTempFile>, format: Format, agreed: Features) -> Self {
        Self::of(Blk::open(options).unwrap(), image, format, agreed)
    }

    fn of(mut device: Blk, image: Option<NamedTempFile>, format: Format, agreed: Features) -> Self {
        let handler = device.handler(Group(0), agreed).unwrap();
        let setup = Setup { indirect: true, event_idx: true, ..Setup::new(format) };
        Self { bench: Bench::with(handler, &setup), device, image, directory: None }
    }

    /// Every kind of host with every format of ring; all of them read as [`pattern`].
    fn each(mut test: impl FnMut(&mut Self)) {
        Self::each_plain(&mut test);
        Self::each_image(test);
    }

    /// Those without a format.
    fn each_plain(mut test: impl FnMut(&mut Self)) {
        for format in FORMATS {
            let mut ram = Self::ram(format);
            for sector in (0..SIZE / 512).step_by(16) {
                assert_eq!(ram.write(sector as u64, &pattern(sector * 512, 16 * 512)), 0);
            }
            test(&mut ram);
            test(&mut Self::file(format));
        }
    }

    /// Those with one.
    fn each_image(mut test: impl FnMut(&mut Self)) {
        for format in FORMATS {
            for cluster in [4096, 65536] {
                test(&mut Self::qcow2(format, cluster));
            }
            test(&mut Self::backed(format));
            test(&mut Self::overlay(format, true));
            test(&mut Self::overlay(format, false));
        }
    }

    /// In a qcow2 image with clusters of so many bytes.
    fn qcow2(format: Format, cluster: usize) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("disk.qcow2");
        create(&path, cluster, None);
        let options =
            BlkOptions { format: ImageFormat::Qcow2, blk_file: Some(path), ..BlkOptions::default() };
        let mut disk = Self::open(&options, None, format, AGREED);
        disk.directory = Some(directory);
        assert_eq!(disk.write(0, &pattern(0, SIZE)), 0);
        disk
    }

    /// In a raw file behind a qcow2 image.
    fn backed(format: Format) -> Self {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("raw"), pattern(0, SIZE)).unwrap();
        let path = directory.path().join("disk.qcow2");
        create(&path, 4096, Some(&Backing { name: "raw", format: "raw" }));
        let options = BlkOptions {
            format: ImageFormat::Qcow2,
            follow: Follow::Beside,
            blk_file: Some(path),
            ..BlkOptions::default()
        };
        let mut disk = Self::open(&options, None, format, AGREED);
        disk.directory = Some(directory);
        disk
    }

    /// In an overlay over a raw file, with a name or without.
    fn overlay(format: Format, named: bool) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("raw");
        std::fs::write(&path, pattern(0, SIZE)).unwrap();
        let options = BlkOptions {
            overlay: named.then(|| directory.path().join("overlay")),
            snapshot: !named,
            blk_file: Some(path),
            ..BlkOptions::default()
        };
        let mut disk = Self::open(&options, None, format, AGREED);
        disk.directory = Some(directory);
        disk
    }

    /// Sends a request with `data` and room for `room` bytes; returns those, the status, and the length used.
    fn request(&mut self, kind: u32, sector: u64, data: &[u8], room: usize) -> (Vec<u8>, u8, u32) {
        let (mut outputs, len) = self.bench.request(&[&header(kind, sector), data], &[room, 1]);
        let status = outputs.pop().unwrap();
        (outputs.remove(0), status[0], len)
    }

    fn read(&mut self, sector: u64, bytes: usize) -> Vec<u8> {
        let (data, status, len) = self.request(0, sector, &[], bytes);
        assert_eq!((status, len as usize), (0, bytes + 1));
        data
    }

    fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        let (_, status, len) = self.request(1, sector, data, 0);
        assert_eq!(len, 1);
        status
    }

    /// The driver sets the byte of the write cache.
    fn switch_cache(&mut self, to: u8) -> Result<(), DeviceError> {
        self.device.write_config(32, &[to], &Patience::until(&|| false))
    }

    fn image(&self) -> &File {
        self.image.as_ref().unwrap().as_file()
    }
}

fn create(path: &Path, cluster: usize, backing: Option<&Backing<'_>>) {
    let file = DiskFile::create(path).unwrap();
    drop(FormatAccess::new(create_qcow2(ImageFile::new(file), SIZE as u64, cluster, backing).unwrap()));
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    let header = RequestHeader { kind: kind.into(), reserved: 0x1234.into(), sector: sector.into() };
    header.as_bytes().to_vec()
}

fn ranges(ranges: &[(u64, u32, u32)]) -> Vec<u8> {
    let segment = |&(sector, sectors, flags): &(u64, u32, u32)| RangeSegment {
        sector: sector.into(),
        num_sectors: sectors.into(),
        flags: flags.into(),
    };
    ranges.iter().flat_map(|range| segment(range).as_bytes().to_vec()).collect()
}

/// Bytes that tell where on the disk they belong.
fn pattern(offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|at| (at / 512 * 7 + at % 251) as u8 | 1).collect()
}
