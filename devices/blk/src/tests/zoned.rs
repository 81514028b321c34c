//! A zoned disk, emulated, from the driver's half of both ring formats to the files behind it.

use std::path::Path;

use outboard_device::defs::blk::{
    Config, F_DISCARD, F_WRITE_ZEROES, F_ZONED, S_IOERR, S_OK, S_UNSUPP, S_ZONE_ACTIVE_RESOURCE,
    S_ZONE_INVALID_CMD, S_ZONE_OPEN_RESOURCE, S_ZONE_UNALIGNED_WP, T_DISCARD, T_FLUSH, T_IN, T_OUT,
    T_WRITE_ZEROES, T_ZONE_APPEND, T_ZONE_CLOSE, T_ZONE_FINISH, T_ZONE_OPEN, T_ZONE_REPORT, T_ZONE_RESET,
    T_ZONE_RESET_ALL, ZS_CLOSED, ZS_EMPTY, ZS_EOPEN, ZS_FULL, ZS_IOPEN, ZS_NOT_WP, ZT_CONV, ZT_SWR,
    ZoneDescriptor, ZoneReport,
};
use outboard_device::testing::{Fault, UNTOUCHED};
use outboard_device::{DeviceError, Durability, HostOp, QueueId};
use tempfile::TempDir;
use zerocopy::FromBytes;

use super::*;

/// Sectors of a zone; what can be written of it.
const ZONE: u64 = 64;
const CAPACITY: u64 = 48;
const ZONES: u64 = 8;
const KNOWS: Features = Features(AGREED.0 | F_ZONED);

struct Zoned {
    disk: Disk,
    directory: Option<TempDir>,
}

fn options() -> BlkOptions {
    BlkOptions {
        zoned: Some(ZONE * 512),
        zone_capacity: Some(CAPACITY * 512),
        zone_conventional: 2,
        zone_max_open: 2,
        zone_max_active: 3,
        ..BlkOptions::default()
    }
}

impl Zoned {
    fn each(mut test: impl FnMut(&mut Self)) {
        for format in FORMATS {
            let ram = BlkOptions { ram: Some(ZONES * ZONE * 512), ..options() };
            test(&mut Self { disk: Disk::open(&ram, None, format, KNOWS), directory: None });
            test(&mut Self::file(format));
        }
    }

    fn file(format: Format) -> Self {
        let directory = tempfile::tempdir().unwrap();
        File::create(image(&directory)).unwrap().set_len(ZONES * ZONE * 512).unwrap();
        let options = BlkOptions { blk_file: Some(image(&directory)), ..options() };
        Self { disk: Disk::open(&options, None, format, KNOWS), directory: Some(directory) }
    }

    /// What a program finds that is started after this one was killed.
    fn killed(self, format: Format) -> Self {
        let Self { disk, directory } = self;
        drop(disk);
        let options = BlkOptions { blk_file: directory.as_ref().map(image), ..options() };
        Self { disk: Disk::open(&options, None, format, KNOWS), directory }
    }

    fn write(&mut self, sector: u64, sectors: usize) -> u8 {
        self.disk.write(sector, &pattern(sector as usize * 512, sectors * 512))
    }

    fn append(&mut self, sector: u64, sectors: usize) -> (u8, u64) {
        let data = vec![0x77; sectors * 512];
        let (place, status, len) = self.disk.request(T_ZONE_APPEND, sector, &data, 8);
        assert_eq!(len, if status == S_OK { 9 } else { 1 });
        (status, u64::from_le_bytes(place.try_into().unwrap()))
    }

    fn ask(&mut self, kind: u32, sector: u64) -> u8 {
        let (_, status, len) = self.disk.request(kind, sector, &[], 0);
        assert_eq!(len, 1);
        status
    }

    fn report(&mut self, sector: u64, room: usize) -> Vec<ZoneDescriptor> {
        let (data, status, len) = self.disk.request(T_ZONE_REPORT, sector, &[], room);
        assert_eq!(status, S_OK);
        let (report, rest) = ZoneReport::read_from_prefix(&data).unwrap();
        let count = report.zones.get() as usize;
        assert_eq!(len as usize, 64 + 64 * count + 1);
        assert!(rest[64 * count..].iter().all(|&byte| byte == UNTOUCHED));
        rest.chunks_exact(64).take(count).map(|zone| ZoneDescriptor::read_from_bytes(zone).unwrap()).collect()
    }

    /// State and write pointer, relative to its start.
    fn zone(&mut self, number: u64) -> (u8, u64) {
        let zone = self.report(number * ZONE, 128)[0];
        (zone.state, zone.write_pointer.get() - zone.start.get())
    }
}

fn image(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("disk.img")
}

fn open(path: &Path) -> Result<Blk, DeviceError> {
    Blk::open(&BlkOptions { blk_file: Some(path.into()), ..options() })
}

#[test]
fn device_offers_zones_and_nothing_that_writes_out_of_sequence() {
    Zoned::each(|zoned| {
        let device = &zoned.disk.device;
        let features = device.profile().features;
        assert!(features.has(F_ZONED) && !features.has(F_DISCARD) && !features.has(F_WRITE_ZEROES));
        let config = Config::read_from_bytes(device.config()).unwrap();
        assert_eq!(config.capacity.get(), ZONES * ZONE);
        let limits = config.zoned;
        assert_eq!((limits.zone_sectors.get(), limits.model, limits.write_granularity.get()), (64, 1, 512));
        assert_eq!((limits.max_open_zones.get(), limits.max_active_zones.get()), (2, 3));
        assert_eq!(limits.max_append_sectors.get(), 48);
        assert_eq!(config.max_discard_sectors.get() + config.max_write_zeroes_sectors.get(), 0);
        for kind in [T_DISCARD, T_WRITE_ZEROES] {
            assert_eq!(zoned.disk.request(kind, 0, &ranges(&[(0, 1, 0)]), 0).1, S_UNSUPP);
        }
    });
}

#[test]
fn report_has_as_many_zones_as_there_is_room_for() {
    Zoned::each(|zoned| {
        let all = zoned.report(0, 64 + 64 * 100);
        assert_eq!(all.len(), 8);
        for (number, zone) in (0..).zip(&all) {
            assert_eq!(zone.start.get(), number * ZONE);
            let conventional = number < 2;
            assert_eq!(
                (zone.kind, zone.state),
                if conventional { (ZT_CONV, ZS_NOT_WP) } else { (ZT_SWR, ZS_EMPTY) }
            );
            assert_eq!(zone.capacity.get(), if conventional { ZONE } else { CAPACITY });
        }
        assert_eq!(
            zoned.report(3 * ZONE + 17, 64 + 64 * 2 + 63),
            all[3..5],
            "from within a zone, whole ones"
        );
        assert_eq!(zoned.report(7 * ZONE + ZONE - 1, 64 + 64 * 9), all[7..]);
        assert_eq!(zoned.report(0, 64), []);
        for (sector, room) in [(ZONES * ZONE, 128), (u64::MAX, 128), (0, 63), (0, 0)] {
            assert_eq!(zoned.disk.request(T_ZONE_REPORT, sector, &[], room).1, S_ZONE_INVALID_CMD);
        }
    });
}

#[test]
fn writes_go_where_the_pointer_is_and_nowhere_else() {
    Zoned::each(|zoned| {
        let start = 3 * ZONE;
        assert_eq!(zoned.write(start + 1, 1), S_ZONE_UNALIGNED_WP);
        assert_eq!(zoned.zone(3), (ZS_EMPTY, 0));
        assert_eq!(zoned.write(start, 8), S_OK);
        assert_eq!(zoned.zone(3), (ZS_IOPEN, 8));
        assert_eq!(zoned.write(start, 8), S_ZONE_UNALIGNED_WP, "once more");
        assert_eq!(zoned.write(start + 16, 8), S_ZONE_UNALIGNED_WP);
        assert_eq!(zoned.write(start + 8, 41), S_ZONE_INVALID_CMD, "beyond the capacity");
        assert_eq!(zoned.write(start + 8, 57), S_ZONE_INVALID_CMD, "into the next zone");
        assert_eq!(zoned.write(start + 8, 40), S_OK);
        assert_eq!(zoned.zone(3).0, ZS_FULL);
        assert_eq!(zoned.write(start + 48, 1), S_ZONE_INVALID_CMD);
        assert_eq!(zoned.write(8 * ZONE, 1), S_IOERR, "behind the disk");
        let data = zoned.disk.read(start, ZONE as usize * 512);
        assert!(data[..48 * 512] == pattern(start as usize * 512, 48 * 512));
        assert!(data[48 * 512..].iter().all(|&byte| byte == 0));
    });
}

#[test]
fn conventional_zones_are_written_anywhere_but_not_across_their_end() {
    Zoned::each(|zoned| {
        assert_eq!(zoned.write(5, 3), S_OK);
        assert_eq!(zoned.write(ZONE - 4, 8), S_OK, "both conventional");
        assert_eq!(zoned.write(0, 8), S_OK);
        assert_eq!(zoned.write(2 * ZONE - 4, 8), S_ZONE_INVALID_CMD);
        for kind in [T_ZONE_OPEN, T_ZONE_CLOSE, T_ZONE_FINISH, T_ZONE_RESET] {
            assert_eq!(zoned.ask(kind, ZONE), S_ZONE_INVALID_CMD);
        }
        assert_eq!(zoned.append(ZONE, 1).0, S_ZONE_INVALID_CMD);
        assert_eq!(zoned.zone(1).0, ZS_NOT_WP);
    });
}

#[test]
fn reads_behind_the_pointer_are_zeroes_and_stay_within_a_zone() {
    Zoned::each(|zoned| {
        assert_eq!(zoned.write(2 * ZONE, 4), S_OK);
        let data = zoned.disk.read(2 * ZONE + 2, 8 * 512);
        assert!(data[..1024] == pattern((2 * ZONE as usize + 2) * 512, 1024));
        assert!(data[1024..].iter().all(|&byte| byte == 0));
        assert_eq!(zoned.disk.request(T_IN, 3 * ZONE - 1, &[], 1024).1, S_ZONE_INVALID_CMD);
        assert_eq!(zoned.disk.request(T_IN, 2 * ZONE - 1, &[], 1024).1, S_ZONE_INVALID_CMD);
        assert_eq!(zoned.disk.request(T_IN, ZONE - 1, &[], 1024).1, S_OK, "both conventional");
    });
}

#[test]
fn appends_follow_one_another_and_say_where() {
    Zoned::each(|zoned| {
        let start = 4 * ZONE;
        assert_eq!(zoned.append(start, 3), (S_OK, start));
        assert_eq!(zoned.append(start, 5), (S_OK, start + 3));
        assert_eq!(zoned.write(start + 8, 2), S_OK);
        assert_eq!(zoned.append(start, 38), (S_OK, start + 10));
        assert_eq!(zoned.zone(4).0, ZS_FULL);
        assert_eq!(zoned.append(start, 1).0, S_ZONE_INVALID_CMD);
        assert_eq!(zoned.append(5 * ZONE + 1, 1).0, S_ZONE_INVALID_CMD);
        assert_eq!(zoned.append(5 * ZONE, 49).0, S_ZONE_INVALID_CMD);
        assert_eq!(zoned.append(9 * ZONE, 1).0, S_ZONE_INVALID_CMD);
        assert_eq!(zoned.disk.read(start, 8 * 512), [0x77; 8 * 512]);
    });
}

#[test]
fn appends_in_flight_together_get_places_of_their_own() {
    for format in FORMATS {
        let mut zoned = Zoned::file(format);
        zoned.disk.bench.reverse(true);
        let start = 4 * ZONE;
        for number in 0..6 {
            let data = [number; 1024];
            zoned.disk.bench.send(QueueId(0), &[&header(T_ZONE_APPEND, start), &data], &[8, 1]);
        }
        zoned.disk.bench.run();
        let mut seen = Vec::new();
        let answers: Vec<_> = std::iter::from_fn(|| zoned.disk.bench.receive(QueueId(0))).collect();
        for answer in answers {
            assert_eq!(answer.outputs[1], [S_OK]);
            let place = u64::from_le_bytes(answer.outputs[0].clone().try_into().unwrap());
            assert_eq!(zoned.disk.read(place, 1024), [answer.token as u8; 1024]);
            seen.push(place - start);
        }
        seen.sort_unstable();
        assert_eq!(seen, [0, 2, 4, 6, 8, 10]);
        assert_eq!(zoned.zone(4), (ZS_IOPEN, 12));
    }
}

#[test]
fn zones_change_state_as_they_are_told() {
    Zoned::each(|zoned| {
        let start = 5 * ZONE;
        assert_eq!(zoned.ask(T_ZONE_CLOSE, start), S_ZONE_INVALID_CMD, "empty");
        assert_eq!(zoned.ask(T_ZONE_OPEN, start), S_OK);
        assert_eq!(zoned.zone(5), (ZS_EOPEN, 0));
        assert_eq!(zoned.ask(T_ZONE_OPEN, start), S_OK);
        assert_eq!(zoned.ask(T_ZONE_CLOSE, start), S_OK);
        assert_eq!(zoned.zone(5), (ZS_EMPTY, 0));
        assert_eq!(zoned.write(start, 2), S_OK);
        assert_eq!(zoned.ask(T_ZONE_CLOSE, start), S_OK);
        assert_eq!(zoned.zone(5), (ZS_CLOSED, 2));
        assert_eq!(zoned.ask(T_ZONE_CLOSE, start), S_OK);
        assert_eq!(zoned.write(start + 2, 2), S_OK);
        assert_eq!(zoned.zone(5), (ZS_IOPEN, 4));
        assert_eq!(zoned.ask(T_ZONE_FINISH, start), S_OK);
        assert_eq!(zoned.zone(5).0, ZS_FULL);
        assert_eq!(zoned.ask(T_ZONE_FINISH, start), S_OK);
        assert_eq!(zoned.ask(T_ZONE_OPEN, start), S_ZONE_INVALID_CMD);
        assert_eq!(zoned.ask(T_ZONE_RESET, start + 1), S_ZONE_INVALID_CMD);
        assert_eq!(zoned.ask(T_ZONE_RESET, start), S_OK);
        assert_eq!(zoned.zone(5), (ZS_EMPTY, 0));
        assert_eq!(zoned.disk.read(start, 2048), [0; 2048], "nothing is left");
        assert_eq!(zoned.ask(T_ZONE_RESET, 8 * ZONE), S_ZONE_INVALID_CMD);
    });
}

#[test]
fn resources_that_are_used_up_are_named() {
    Zoned::each(|zoned| {
        for number in [2, 3] {
            assert_eq!(zoned.ask(T_ZONE_OPEN, number * ZONE), S_OK);
        }
        assert_eq!(zoned.ask(T_ZONE_OPEN, 4 * ZONE), S_ZONE_OPEN_RESOURCE);
        assert_eq!(zoned.write(4 * ZONE, 1), S_ZONE_OPEN_RESOURCE, "what was opened explicitly stays so");
        assert_eq!(zoned.append(4 * ZONE, 1).0, S_ZONE_OPEN_RESOURCE);
        assert_eq!(zoned.write(2 * ZONE, 1), S_OK);
        assert_eq!(zoned.ask(T_ZONE_CLOSE, 2 * ZONE), S_OK);
        assert_eq!(zoned.write(4 * ZONE, 1), S_OK);
        assert_eq!(zoned.write(5 * ZONE, 1), S_ZONE_ACTIVE_RESOURCE, "2 closed, 3 and 4 open");
        assert_eq!(zoned.ask(T_ZONE_FINISH, 2 * ZONE), S_OK);
        assert_eq!(zoned.write(5 * ZONE, 1), S_OK, "4 makes room");
        assert_eq!((zoned.zone(4), zoned.zone(5)), ((ZS_CLOSED, 1), (ZS_IOPEN, 1)));
        assert_eq!(zoned.ask(T_ZONE_RESET_ALL, 0), S_OK);
        for number in 2..8 {
            assert_eq!(zoned.zone(number), (ZS_EMPTY, 0));
            assert_eq!(zoned.disk.read(number * ZONE, 512), [0; 512]);
        }
    });
}

#[test]
fn driver_that_does_not_know_zones_gets_errors_and_changes_nothing() {
    for format in FORMATS {
        let ram = BlkOptions { ram: Some(ZONES * ZONE * 512), ..options() };
        let mut disk = Disk::open(&ram, None, format, AGREED);
        assert_eq!(disk.write(0, &[1; 512]), S_IOERR, "even where anything may be written");
        assert_eq!(disk.write(2 * ZONE, &[1; 512]), S_IOERR);
        assert_eq!(disk.request(T_IN, 0, &[], 512).1, S_IOERR);
        for kind in [T_ZONE_REPORT, T_ZONE_APPEND, T_ZONE_OPEN, T_ZONE_RESET_ALL] {
            assert_eq!(disk.request(kind, 0, &[1; 512], 512).1, S_UNSUPP);
        }
    }
}

#[test]
fn write_pointers_outlive_a_kill_at_any_moment() {
    for format in FORMATS {
        let mut zoned = Zoned::file(format);
        assert_eq!(zoned.write(2 * ZONE, 8), S_OK);
        assert_eq!(zoned.ask(T_ZONE_OPEN, 3 * ZONE), S_OK);
        assert_eq!(zoned.write(4 * ZONE, 48), S_OK);
        // One that the host has done, but nobody was told.
        zoned.disk.bench.send(QueueId(0), &[&header(T_OUT, 2 * ZONE + 8), &[9; 1024]], &[1]);
        zoned.disk.bench.begin();
        let mut zoned = zoned.killed(format);
        assert_eq!((zoned.zone(2), zoned.zone(3)), ((ZS_IOPEN, 8), (ZS_EOPEN, 0)));
        assert_eq!(zoned.zone(4).0, ZS_FULL);
        assert!(zoned.disk.read(2 * ZONE, 4096) == pattern(2 * ZONE as usize * 512, 4096));
        assert_eq!(zoned.disk.read(2 * ZONE + 8, 1024), [0; 1024], "what nobody was told is gone");
        assert_eq!(zoned.write(2 * ZONE + 8, 8), S_OK, "and can be done again");
        // A zone that was being emptied.
        zoned.disk.bench.send(QueueId(0), &[&header(T_ZONE_RESET, 2 * ZONE)], &[1]);
        zoned.disk.bench.inject(0, Fault::Errno(libc::EIO));
        zoned.disk.bench.begin();
        let mut zoned = zoned.killed(format);
        assert_eq!(zoned.zone(2), (ZS_EMPTY, 0));
        assert_eq!(zoned.disk.read(2 * ZONE, 8192), [0; 8192], "it is empty, whatever the hole came to");
    }
}

#[test]
fn write_that_fails_leaves_the_pointer_where_it_was() {
    for format in FORMATS {
        let mut zoned = Zoned::file(format);
        assert_eq!(zoned.write(2 * ZONE, 8), S_OK);
        zoned.disk.bench.inject(0, Fault::Errno(libc::ENOSPC));
        assert_eq!(zoned.write(2 * ZONE + 8, 8), S_IOERR);
        zoned.disk.bench.inject(0, Fault::Short(512));
        zoned.disk.bench.inject(1, Fault::Errno(libc::EIO));
        assert_eq!(zoned.append(2 * ZONE, 8).0, S_IOERR);
        assert_eq!(zoned.zone(2), (ZS_IOPEN, 8));
        assert_eq!(zoned.disk.read(2 * ZONE + 8, 4096), [0; 4096], "nothing is behind it");
        assert_eq!(zoned.append(2 * ZONE, 8), (S_OK, 2 * ZONE + 8));
        zoned.disk.bench.inject(0, Fault::Errno(libc::EIO));
        assert_eq!(zoned.write(3 * ZONE, 8), S_IOERR);
        assert_eq!(zoned.zone(3), (ZS_EMPTY, 0));
        assert_eq!(zoned.zone(2), (ZS_IOPEN, 16));
        let mut zoned = zoned.killed(format);
        assert_eq!((zoned.zone(2), zoned.zone(3)), ((ZS_IOPEN, 16), (ZS_EMPTY, 0)));
    }
}

#[test]
fn reset_waits_for_the_writes_under_way_in_its_zone() {
    for format in FORMATS {
        let mut zoned = Zoned::file(format);
        let queue = QueueId(0);
        zoned.disk.bench.send(queue, &[&header(T_OUT, 2 * ZONE), &[5; 1024]], &[1]);
        zoned.disk.bench.send(queue, &[&header(T_ZONE_RESET, 2 * ZONE)], &[1]);
        zoned.disk.bench.send(queue, &[&header(T_OUT, 2 * ZONE), &[6; 512]], &[1]);
        zoned.disk.bench.run();
        for _ in 0..3 {
            assert_eq!(zoned.disk.bench.receive(queue).unwrap().outputs, [[S_OK]]);
        }
        assert_eq!(zoned.zone(2), (ZS_IOPEN, 1));
        assert_eq!(zoned.disk.read(2 * ZONE, 1024), [[6; 512], [0; 512]].concat());
    }
}

#[test]
fn reset_that_the_host_fails_is_an_error_and_the_zone_goes_on() {
    for format in FORMATS {
        let mut zoned = Zoned::file(format);
        assert_eq!(zoned.write(2 * ZONE, 8), S_OK);
        zoned.disk.bench.inject(0, Fault::Errno(libc::EIO));
        assert_eq!(zoned.ask(T_ZONE_RESET, 2 * ZONE), S_IOERR);
        assert_eq!(zoned.zone(2).0, ZS_FULL, "what is left is in front of its pointer");
        assert_eq!(zoned.ask(T_ZONE_RESET, 2 * ZONE), S_OK);
        assert_eq!(zoned.write(2 * ZONE, 8), S_OK);
        zoned.disk.bench.inject(0, Fault::Errno(libc::EIO));
        assert_eq!(zoned.ask(T_ZONE_RESET_ALL, 0), S_IOERR);
        let mut zoned = zoned.killed(format);
        assert_eq!((zoned.zone(2).0, zoned.zone(3).0), (ZS_FULL, ZS_EMPTY));
        assert_eq!(zoned.write(3 * ZONE, 8), S_OK);
    }
}

#[test]
fn write_that_fails_behind_another_leaves_nothing_behind_the_pointer() {
    for format in FORMATS {
        for hole in [true, false] {
            let mut zoned = Zoned::file(format);
            let queue = QueueId(0);
            // Of the second, a part is written.
            zoned.disk.bench.inject(1, Fault::Short(512));
            zoned.disk.bench.inject(2, Fault::Errno(libc::EIO));
            if !hole {
                zoned.disk.bench.inject(3, Fault::Errno(libc::EIO));
            }
            for (sector, byte) in [(0, 5), (2, 6)] {
                let header = header(T_OUT, 2 * ZONE + sector);
                zoned.disk.bench.send(queue, &[&header, &[byte; 1024]], &[1]);
            }
            zoned.disk.bench.run();
            let mut status = || zoned.disk.bench.receive(queue).unwrap().outputs[0][0];
            assert_eq!([status(), status()], [S_OK, S_IOERR]);
            let third = zoned.disk.write(2 * ZONE + 2, &[7; 1024]);
            if hole {
                assert_eq!(third, S_OK);
                assert_eq!(zoned.zone(2), (ZS_IOPEN, 4));
                let expected = [[5; 1024], [7; 1024], [0; 1024]].concat();
                assert_eq!(zoned.disk.read(2 * ZONE, 3072), expected);
            } else {
                assert_eq!(third, S_ZONE_INVALID_CMD);
                assert_eq!(zoned.zone(2).0, ZS_FULL);
            }
        }
    }
}

#[test]
fn image_with_data_is_refused_before_anything_is_made_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory);
    let file = File::create(&path).unwrap();
    file.set_len(ZONES * ZONE * 512).unwrap();
    file.write_all_at(&[1; 512], 3 * ZONE * 512).unwrap();
    // Whoever tries to make the table finds this in the way.
    std::fs::create_dir(directory.path().join("disk.img.zones.new")).unwrap();
    for _ in 0..2 {
        let error = open(&path).err().unwrap().to_string();
        assert!(error.contains("take an empty image"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap()[3 * ZONE as usize * 512], 1);
    }
    assert!(!path.with_extension("img.zones").exists());
}

#[test]
fn image_that_grew_by_data_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory);
    let file = File::create(&path).unwrap();
    file.set_len(ZONES * ZONE * 512).unwrap();
    drop(open(&path).unwrap());
    file.write_all_at(&[1; 512], (ZONES + 1) * ZONE * 512 - 512).unwrap();
    let error = open(&path).err().unwrap().to_string();
    assert!(error.contains("take an empty image"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap().last(), Some(&1));
}

#[test]
fn queues_share_the_zones() {
    for format in FORMATS {
        let mut zoned = Zoned::file(format);
        let second = zoned.disk.device.handler(Group(1), KNOWS).unwrap();
        let mut second = Bench::new(second, format);
        assert_eq!(zoned.write(2 * ZONE, 8), S_OK);
        let sector = header(T_OUT, 2 * ZONE + 8);
        assert_eq!(second.request(&[&sector, &[1; 512]], &[1]), (vec![vec![S_OK]], 1));
        assert_eq!(zoned.zone(2), (ZS_IOPEN, 9));
        // A reset on one waits for a write on the other.
        second.send(QueueId(0), &[&header(T_OUT, 2 * ZONE + 9), &[1; 512]], &[1]);
        second.begin();
        zoned.disk.bench.send(QueueId(0), &[&header(T_ZONE_RESET, 2 * ZONE)], &[1]);
        zoned.disk.bench.run();
        assert_eq!(zoned.disk.bench.receive(QueueId(0)), None);
        second.run();
        zoned.disk.bench.pass(std::time::Duration::from_millis(1));
        assert_eq!(zoned.disk.bench.receive(QueueId(0)).unwrap().outputs, [[S_OK]]);
        assert_eq!(zoned.zone(2), (ZS_EMPTY, 0));
    }
}

#[test]
fn flush_makes_data_stable_and_then_the_pointers() {
    for format in FORMATS {
        let mut zoned = Zoned::file(format);
        assert_eq!(zoned.write(2 * ZONE, 1), S_OK);
        assert_eq!(zoned.ask(T_FLUSH, 0), S_OK);
        let [
            HostOp::WriteAt { file, durability: Durability::Cached, .. },
            HostOp::Sync { file: first },
            HostOp::Sync { file: second },
        ] = *zoned.disk.bench.operations()
        else {
            panic!("{:?}", zoned.disk.bench.operations())
        };
        assert!(file == first && first != second);
        zoned.disk.switch_cache(0).unwrap();
        let before = zoned.disk.bench.operations().len();
        assert_eq!(zoned.append(2 * ZONE, 1).0, S_OK);
        assert_eq!(zoned.ask(T_ZONE_FINISH, 2 * ZONE), S_OK);
        assert_eq!(zoned.ask(T_ZONE_RESET, 2 * ZONE), S_OK);
        let [
            HostOp::WriteAt { durability: Durability::Synchronous, .. },
            HostOp::Sync { file: write },
            HostOp::Sync { file: finish },
            HostOp::Allocate { .. },
            HostOp::Sync { file: reset },
        ] = zoned.disk.bench.operations()[before..]
        else {
            panic!("{:?}", &zoned.disk.bench.operations()[before..])
        };
        assert!([write, finish, reset].iter().all(|file| *file == second), "without a cache, at once");
        // Pointers that cannot be made stable are as bad as data.
        zoned.disk.bench.inject(1, Fault::Errno(libc::EIO));
        assert_eq!(zoned.ask(T_FLUSH, 0), S_IOERR);
        assert_eq!(zoned.ask(T_FLUSH, 0), S_IOERR);
    }
}

#[test]
fn open_of_what_does_not_fit_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let path = image(&directory);
    let file = File::create(&path).unwrap();
    file.set_len(ZONES * ZONE * 512).unwrap();
    file.write_all_at(&[1; 512], 3 * ZONE * 512).unwrap();
    let error = open(&path).err().unwrap().to_string();
    assert!(error.contains("take an empty image"), "{error}");
    assert!(!path.with_extension("img.zones").exists(), "nothing is left of the attempt");
    file.set_len(0).unwrap();
    file.set_len(ZONES * ZONE * 512 + 1024).unwrap();
    file.write_all_at(&[1; 512], ZONE * 512).unwrap();
    assert_eq!(open(&path).unwrap().config()[0], 0, "data in conventional zones, and a part of a zone");
    let other = BlkOptions { blk_file: Some(path.clone()), zone_conventional: 1, ..options() };
    let error = Blk::open(&other).err().unwrap().to_string();
    assert!(error.contains("disk.img.zones is for 8 zones of 64 sectors"), "{error}");
    let read_only = BlkOptions { blk_file: Some(path), read_only: true, ..options() };
    let mut disk = Disk::open(&read_only, None, Format::Split, KNOWS);
    assert_eq!(disk.write(2 * ZONE, &[1; 512]), S_IOERR);
    assert_eq!(disk.request(T_ZONE_OPEN, 2 * ZONE, &[], 0).1, S_IOERR);
    assert_eq!(disk.request(T_ZONE_REPORT, 0, &[], 128).1, S_OK);
    let odd = BlkOptions { zoned: Some(3 << 20), ..BlkOptions::default() };
    assert!(Blk::open(&odd).err().unwrap().to_string().contains("power of two"));
}
