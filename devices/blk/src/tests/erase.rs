//! Secure erase and lifetime: only where the host can.

use outboard_device::defs::blk::{
    Config, F_LIFETIME, F_SECURE_ERASE, S_IOERR, S_OK, S_UNSUPP, T_GET_LIFETIME, T_SECURE_ERASE,
};
use outboard_device::testing::Descriptor;
use outboard_device::{HostOp, QueueId};
use tempfile::TempDir;
use zerocopy::FromBytes;

use super::*;
use crate::host::{Host, Wear};

#[test]
fn ram_disk_overwrites_what_it_gives_back() {
    for format in FORMATS {
        let options = BlkOptions { ram: Some(4 << 20), ..BlkOptions::default() };
        let mut disk = Disk::open(&options, None, format, AGREED);
        assert!(disk.device.profile().features.has(F_SECURE_ERASE));
        let config = Config::read_from_bytes(disk.device.config()).unwrap();
        assert_eq!((config.max_secure_erase_sectors.get(), config.max_secure_erase_seg.get()), (1 << 17, 16));
        assert_eq!(config.secure_erase_sector_alignment.get(), 8);
        for sector in (0..8192).step_by(1024) {
            assert_eq!(disk.write(sector, &[0xee; 512 << 10]), S_OK);
        }
        let data = ranges(&[(8, 1200, 0), (2000, 0, 0), (8191, 1, 0)]);
        assert_eq!(disk.request(T_SECURE_ERASE, 0, &data, 0), (vec![], S_OK, 1));
        let pieces: Vec<_> = disk
            .bench
            .operations()
            .iter()
            .map(|op| match *op {
                HostOp::Allocate { offset, len, .. } => (offset / 512, len / 512),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pieces, [(8, 512), (520, 512), (1032, 176), (8191, 1)], "in bounded pieces");
        let mut expected = vec![0xee; 4 << 20];
        expected[8 * 512..1208 * 512].fill(0);
        expected[8191 * 512..].fill(0);
        assert!(disk.read(0, 4 << 20) == expected);
        for (data, status) in [
            (ranges(&[(0, 1, 1)]), S_UNSUPP),
            (ranges(&[(8192, 1, 0)]), S_IOERR),
            (ranges(&[(0, 1, 0); 17]), S_IOERR),
            (vec![], S_IOERR),
        ] {
            assert_eq!(disk.request(T_SECURE_ERASE, 0, &data, 0).1, status);
        }
    }
}

/// As Linux has them: where the device is to write.
#[test]
fn ranges_that_the_driver_misplaces_are_found() {
    for format in FORMATS {
        let options = BlkOptions { ram: Some(SIZE as u64), ..BlkOptions::default() };
        let mut disk = Disk::open(&options, None, format, AGREED);
        assert_eq!(disk.write(0, &[0xee; 8192]), S_OK);
        let head = disk.bench.place(&header(T_SECURE_ERASE, 0));
        let data = disk.bench.place(&ranges(&[(2, 3, 0), (9, 1, 0)]));
        let status = disk.bench.place(&[0xff]);
        let chain = [(head, 1, 1), (data, 1 | 2, 2), (status, 2, 0)];
        let chain = chain.map(|(at, flags, link)| Descriptor { addr: at.gpa, len: at.len, flags, link });
        disk.bench.send_raw(QueueId(0), &chain);
        disk.bench.run();
        assert_eq!(disk.bench.receive(QueueId(0)).unwrap().len, 1, "nothing but the status is written");
        let mut expected = vec![0xee; 8192];
        expected[2 * 512..5 * 512].fill(0);
        expected[9 * 512..10 * 512].fill(0);
        assert_eq!(disk.read(0, 8192), expected);
    }
}

#[test]
fn file_is_never_said_to_be_erased() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        assert!(!disk.device.profile().features.has(F_SECURE_ERASE));
        assert_eq!(disk.request(T_SECURE_ERASE, 0, &ranges(&[(0, 1, 0)]), 0).1, S_UNSUPP);
        assert_eq!(disk.read(0, 512), pattern(0, 512));
    }
    let options = BlkOptions { ram: Some(SIZE as u64), read_only: true, ..BlkOptions::default() };
    assert!(!Blk::open(&options).unwrap().profile().features.has(F_SECURE_ERASE));
}

#[test]
fn erase_that_the_device_refuses_fails_and_the_queue_goes_on() {
    for format in FORMATS {
        // With somebody to run errands, and a file that knows no such call.
        let (mut disk, _sysfs) = worn(format, &[]);
        disk.bench.handler().erase = true;
        assert_eq!(disk.request(T_SECURE_ERASE, 0, &ranges(&[(0, 8, 0)]), 0), (vec![], S_IOERR, 1));
        assert_eq!(disk.read(0, 512), pattern(0, 512));
    }
}

#[test]
fn lifetime_is_what_the_device_says_of_itself() {
    for format in FORMATS {
        let (mut disk, _sysfs) = worn(format, &[("pre_eol_info", "0x02"), ("life_time", "0x03 0x0b")]);
        assert!(disk.device.profile().features.has(F_LIFETIME));
        assert_eq!(disk.request(T_GET_LIFETIME, 0, &[], 6), (vec![2, 0, 3, 0, 11, 0], S_OK, 7));
        assert_eq!(disk.request(T_GET_LIFETIME, 0, &[], 8).1, S_OK);
        assert_eq!(disk.request(T_GET_LIFETIME, 0, &[], 5).1, S_IOERR);
        assert_eq!(disk.read(0, 512), pattern(0, 512));
    }
}

/// A disk with a sysfs directory that says how worn it is.
fn worn(format: Format, files: &[(&str, &str)]) -> (Disk, TempDir) {
    let sysfs = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(sysfs.path().join(name), text).unwrap();
    }
    let image = NamedTempFile::new().unwrap();
    image.as_file().write_all_at(&pattern(0, SIZE), 0).unwrap();
    let options = BlkOptions { blk_file: Some(image.path().into()), ..BlkOptions::default() };
    let device =
        Blk::over(Host::open(&options).unwrap(), Some(Wear::Emmc(sysfs.path().into())), &options).unwrap();
    (Disk::of(device, Some(image), format, AGREED), sysfs)
}
