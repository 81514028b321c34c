//! Overlays over a disk on an NBD server, which is as it should be, goes away, or lies.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use outboard_device::QueueId;
use outboard_device::defs::blk::{S_IOERR, S_OK, T_FLUSH, T_IN, T_OUT, T_WRITE_ZEROES};

use super::super::nbd_server::{Offer, Server, Trick};
use super::super::*;
use crate::host::Host;

const READ: u16 = 0;

/// A server, and where an overlay over its export is to be.
struct Place {
    server: Server,
    directory: TempDir,
}

impl Place {
    fn new(offer: Offer) -> Self {
        Self { server: Server::start(offer), directory: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("overlay")
    }

    fn options(&self) -> BlkOptions {
        BlkOptions { nbd: Some(self.server.uri()), overlay: Some(self.path()), ..BlkOptions::default() }
    }

    fn open(&self) -> Disk {
        self.open_with(&self.options(), Format::Split)
    }

    fn open_with(&self, options: &BlkOptions, format: Format) -> Disk {
        Disk::open(options, None, format, AGREED)
    }

    fn refusal(&self) -> String {
        Host::open(&self.options()).map(|_| ()).unwrap_err().to_string()
    }

    /// That the server was asked for nothing but data, and still has all of it.
    fn assert_only_read(&self, bytes: &[u8]) {
        let offer = self.server.offer();
        assert!(offer.log.iter().all(|&(command, ..)| command == READ || command == 2), "{:?}", offer.log);
        assert_eq!(offer.bytes, bytes);
    }
}

fn honest() -> Offer {
    Offer::of(pattern(0, SIZE * 4))
}

/// Writes, zeroes and discards, here and in what is expected.
fn change(disk: &mut Disk, expected: &mut [u8], round: usize) {
    let at = 10 + 130 * round;
    assert_eq!(disk.write(at as u64, &[round as u8 + 1; 1024]), S_OK);
    expected[at * 512..][..1024].fill(round as u8 + 1);
    for (nth, kind) in [(1, T_WRITE_ZEROES), (2, 11)] {
        let at = at + nth * 8;
        assert_eq!(disk.request(kind, 0, &ranges(&[(at as u64, 8, 0)]), 0).1, S_OK);
        expected[at * 512..][..4096].fill(0);
    }
    assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_OK);
}

#[test]
fn overlay_over_an_export_keeps_what_was_written_and_only_reads_the_server() {
    for format in FORMATS {
        for structured in [false, true] {
            let place = Place::new(Offer { structured, ..honest() });
            let mut expected = pattern(0, SIZE * 4);
            for round in 0..3 {
                let mut disk = place.open_with(&place.options(), format);
                assert_eq!(disk.read(0, SIZE * 4), expected);
                change(&mut disk, &mut expected, round);
                assert_eq!(disk.read(0, SIZE * 4), expected);
            }
            place.assert_only_read(&pattern(0, SIZE * 4));
            assert_eq!(std::fs::read_dir(place.directory.path()).unwrap().count(), 1);
        }
    }
}

#[test]
fn snapshot_over_an_export_is_gone_with_the_program() {
    let place = Place::new(Offer { flags: 1 | 2, ..honest() });
    let options = BlkOptions { overlay: None, snapshot: true, ..place.options() };
    for _ in 0..2 {
        let mut disk = place.open_with(&options, Format::Split);
        let mut expected = pattern(0, SIZE * 4);
        assert_eq!(disk.read(0, SIZE * 4), expected);
        change(&mut disk, &mut expected, 0);
        assert_eq!(disk.read(0, SIZE * 4), expected);
    }
    place.assert_only_read(&pattern(0, SIZE * 4));
}

#[test]
fn overlay_over_an_export_in_blocks_reads_whole_ones_and_serves_sectors() {
    for (block, size, bytes) in
        [(4096, SIZE, SIZE), (4096, SIZE + 4608, SIZE + 4096), (1, SIZE + 700, SIZE + 512)]
    {
        let place = Place::new(Offer { blocks: Some([block, 4096, 8192]), ..Offer::of(pattern(0, size)) });
        let options = BlkOptions { block_size: Some(512), ..place.options() };
        for byte in [0xaa, 0xbb] {
            let mut disk = place.open_with(&options, Format::Split);
            assert_eq!(disk.device.config()[..8], (bytes as u64 / 512).to_le_bytes());
            assert_eq!(disk.read(3, 512), pattern(3 * 512, 512));
            assert_eq!(disk.write(5, &[byte; 512]), S_OK);
            let last = bytes - 512;
            assert_eq!(disk.write(last as u64 / 512, &[byte; 512]), S_OK);
            let mut expected = pattern(0, bytes);
            expected[5 * 512..][..512].fill(byte);
            expected[last..].fill(byte);
            assert_eq!(disk.read(0, bytes), expected);
            assert_eq!(disk.request(T_IN, bytes as u64 / 512, &[], 512).1, S_IOERR);
        }
        let whole = |number: u64| number.is_multiple_of(block.max(512).into());
        for &(command, _, offset, len) in &place.server.offer().log {
            assert!(
                command == 2 || whole(offset) && whole(len.into()) && offset + u64::from(len) <= bytes as u64
            );
        }
    }
}

#[test]
fn overlay_over_an_export_is_used_again_over_that_export_only() {
    let place = Place::new(honest());
    let mut disk = place.open();
    assert_eq!(disk.write(0, &[1; 512]), S_OK);
    drop(disk);
    let stored = std::fs::read(place.path()).unwrap();
    let name = place.server.uri().name();
    assert!(stored.windows(name.len()).any(|window| window == name.as_bytes()), "{name} is recorded");

    let refused = |options: &BlkOptions, reason: &str| {
        let error = Host::open(options).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("made over"), "{error}");
        assert!(std::fs::read(place.path()).unwrap() == stored, "it is left alone");
    };
    let other = Place::new(honest());
    refused(&BlkOptions { overlay: Some(place.path()), ..other.options() }, &other.server.uri().name());
    let raw = other.directory.path().join("raw");
    std::fs::write(&raw, pattern(0, SIZE * 4)).unwrap();
    let file = BlkOptions { nbd: None, blk_file: Some(raw.clone()), ..place.options() };
    refused(&file, &name);

    let over_file = BlkOptions { overlay: Some(other.path()), ..file };
    drop(Host::open(&over_file).unwrap());
    let error = other.refusal();
    assert!(error.contains("made over") && error.contains("/raw"), "{error}");

    place.server.offer().bytes.extend([7; 512]);
    assert!(place.refusal().contains("bytes, what it is to lie over"), "{}", place.refusal());
    place.server.offer().bytes.truncate(SIZE * 4);
    assert_eq!(place.open().read(0, 512), [1; 512]);
}

#[test]
fn export_is_raw_whatever_it_holds() {
    let place = Place::new(honest());
    let options = BlkOptions { format: ImageFormat::Qcow2, ..place.options() };
    let error = Host::open(&options).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("--format qcow2"), "{error}");
}

#[test]
fn overlay_without_its_server_is_not_made() {
    let place = Place::new(Offer { refusals: usize::MAX, ..honest() });
    assert!(place.refusal().contains("hangs up"), "{}", place.refusal());
    assert!(!place.path().exists());
}

#[test]
fn overlay_over_a_server_that_goes_and_comes_back_loses_no_request() {
    for trick in [Trick::HangUp, Trick::Half, Trick::Errno(108)] {
        let place = Place::new(honest());
        let mut disk = place.open();
        place.server.offer().tricks.extend([Trick::Honest, trick.clone()]);
        place.server.offer().refusals = 2;
        let queue = QueueId(0);
        for nth in 0..8 {
            disk.bench.send(queue, &[&header(T_IN, nth * 8)], &[512, 1]);
            disk.bench.send(queue, &[&header(T_OUT, nth * 64 + 3), &[nth as u8; 512]], &[1]);
        }
        disk.bench.run();
        for _ in 0..16 {
            assert_eq!(disk.bench.receive(queue).unwrap().outputs.last().unwrap(), &[S_OK], "{trick:?}");
        }
        let mut expected = pattern(0, SIZE * 4);
        for nth in 0..8 {
            expected[(nth * 64 + 3) * 512..][..512].fill(nth as u8);
        }
        assert_eq!(disk.read(0, SIZE * 4), expected);
        assert_eq!(place.server.offer().connections, 4, "the first, two refusals, the next");
        place.assert_only_read(&pattern(0, SIZE * 4));
    }
}

#[test]
fn overlay_over_a_server_that_fails_fails_those_requests_alone() {
    let place = Place::new(honest());
    let mut disk = place.open();
    for error in [5, 12, 22, 9999] {
        for (kind, data, room) in [(T_IN, vec![], 512), (T_OUT, vec![1; 512], 0)] {
            place.server.offer().tricks.push_back(Trick::Errno(error));
            assert_eq!(disk.request(kind, 130, &data, room).1, S_IOERR, "{error}");
        }
    }
    let mut expected = pattern(0, SIZE * 4);
    assert_eq!(disk.read(0, SIZE * 4), expected, "a write that failed has changed nothing");
    change(&mut disk, &mut expected, 0);
    drop(disk);
    assert_eq!(place.open().read(0, SIZE * 4), expected);
}

#[test]
fn overlay_over_a_server_that_stays_away_serves_what_it_has_and_fails_the_rest_in_time() {
    for silent in [false, true] {
        let place = Place::new(honest());
        let options = BlkOptions { nbd_timeout: 1, ..place.options() };
        let mut disk = place.open_with(&options, Format::Split);
        assert_eq!(disk.write(0, &[1; SIZE]), S_OK);
        if silent {
            place.server.offer().tricks.extend(std::iter::repeat_n(Trick::Silence, 1000));
        } else {
            place.server.offer().refusals = usize::MAX;
            place.server.offer().tricks.push_back(Trick::HangUp);
        }
        let (queue, start) = (QueueId(0), Instant::now());
        // More than there are threads, and writes have the image alone.
        for nth in 0..40 {
            let sector = 128 + nth * 8;
            if nth % 2 == 0 {
                disk.bench.send(queue, &[&header(T_IN, sector)], &[512, 1]);
            } else {
                disk.bench.send(queue, &[&header(T_OUT, sector), &[9; 512]], &[1]);
            }
        }
        disk.bench.run();
        for _ in 0..40 {
            assert_eq!(disk.bench.receive(queue).unwrap().outputs.last().unwrap(), &[S_IOERR]);
        }
        let waited = start.elapsed();
        assert!(waited >= Duration::from_millis(900), "{waited:?}");
        assert!(waited < Duration::from_secs(20), "they waited together: {waited:?}");
        assert_eq!(disk.read(0, SIZE), [1; SIZE], "of what is in the overlay nobody asks the server");
        place.server.offer().tricks.clear();
        place.server.offer().refusals = 0;
        let back = (0..600).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            disk.request(T_IN, 128, &[], 512).1 == S_OK
        });
        assert!(back, "it comes back by itself");
        let mut expected = pattern(0, SIZE * 4);
        expected[..SIZE].fill(1);
        assert_eq!(disk.read(0, SIZE * 4), expected);
        place.assert_only_read(&pattern(0, SIZE * 4));
    }
}

#[test]
fn overlay_serves_what_it_has_while_others_wait_for_the_server() {
    let place = Place::new(honest());
    let options = BlkOptions { nbd_timeout: 3600, ..place.options() };
    let mut disk = place.open_with(&options, Format::Split);
    assert_eq!(disk.write(0, &[1; SIZE]), S_OK);
    place.server.offer().tricks.extend(std::iter::repeat_n(Trick::Silence, 1000));
    let queue = QueueId(0);
    for nth in 0..5 {
        disk.bench.send(queue, &[&header(T_IN, 128 + nth * 8)], &[512, 1]);
        disk.bench.send(queue, &[&header(T_OUT, 256 + nth * 8), &[9; 512]], &[1]);
    }
    disk.bench.begin();
    while place.server.offer().tricks.len() == 1000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    // Another queue, whose answers can be waited for by themselves.
    let handler = disk.device.handler(Group(1), AGREED).unwrap();
    let mut other = Bench::with(handler, &Setup { queues: 2, ..Setup::new(Format::Split) });
    let queue = QueueId(1);
    other.send(queue, &[&header(T_OUT, 3), &[2; 512]], &[1]);
    other.send(queue, &[&header(T_OUT, 128 * 3), &[3; SIZE]], &[1]);
    other.send(queue, &[&header(T_IN, 0)], &[SIZE, 1]);
    other.run();
    for _ in 0..3 {
        assert!(other.receive(queue).unwrap().outputs.last().unwrap() == &[S_OK]);
    }
}

#[test]
fn overlay_that_is_written_in_parts_of_clusters_at_once_has_all_of_them() {
    let place = Place::new(Offer { blocks: Some([4096, 4096, 1 << 20]), ..honest() });
    let mut disk = place.open();
    let mut expected = pattern(0, SIZE * 4);
    let queue = QueueId(0);
    for round in 1..30_usize {
        for nth in 0..16 {
            let sector = (nth * 37 + round * 5) % 500;
            let byte = (round * 16 + nth) as u8;
            // Those of one round lie apart, and some of them in one cluster.
            if nth % 5 == 4 {
                let data = ranges(&[(sector as u64, 2, u32::from(nth % 2 == 0))]);
                disk.bench.send(queue, &[&header(T_WRITE_ZEROES, 0), &data], &[1]);
                expected[sector * 512..][..1024].fill(0);
            } else {
                disk.bench.send(queue, &[&header(T_OUT, sector as u64), &[byte; 1024]], &[1]);
                expected[sector * 512..][..1024].fill(byte);
            }
        }
        disk.bench.run();
        for _ in 0..16 {
            assert_eq!(disk.bench.receive(queue).unwrap().outputs, [[S_OK]]);
        }
        assert!(disk.read(0, SIZE * 4) == expected, "round {round}");
        if round % 8 == 0 {
            drop(disk);
            std::fs::remove_file(place.path()).unwrap();
            (disk, expected) = (place.open(), pattern(0, SIZE * 4));
        }
    }
    place.assert_only_read(&pattern(0, SIZE * 4));
}

#[test]
fn overlay_that_is_closed_does_not_wait_for_its_server() {
    let place = Place::new(honest());
    let options = BlkOptions { nbd_timeout: 3600, ..place.options() };
    let mut disk = place.open_with(&options, Format::Split);
    place.server.offer().tricks.extend(std::iter::repeat_n(Trick::Silence, 1000));
    for nth in 0..40 {
        disk.bench.send(QueueId(0), &[&header(T_OUT, 128 + nth * 8), &[9; 512]], &[1]);
    }
    disk.bench.begin();
    while place.server.offer().tricks.len() == 1000 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let start = Instant::now();
    drop(disk);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    place.server.offer().tricks.clear();
    assert_eq!(place.open().read(0, SIZE * 4), pattern(0, SIZE * 4));
}

#[test]
fn export_that_changes_its_size_under_an_overlay_does_not_change_the_disk() {
    let place = Place::new(honest());
    let mut disk = place.open_with(&BlkOptions { nbd_timeout: 1, ..place.options() }, Format::Split);
    place.server.offer().bytes.resize(SIZE * 5, 7);
    place.server.offer().tricks.push_back(Trick::HangUp);
    assert_eq!(disk.read(0, 512), pattern(0, 512));
    assert!(!disk.device.refresh().unwrap());
    assert_eq!(disk.request(T_IN, SIZE as u64 * 4 / 512, &[], 512).1, S_IOERR);
    let size = outboard_device::serde_json::json!({ "size": SIZE * 5 });
    assert_eq!(disk.device.control("resize", &size).unwrap()["size"], SIZE * 5);
    assert_eq!(disk.read(SIZE as u64 * 4 / 512, SIZE), [0; SIZE], "what is new is the overlay's own");
    place.server.offer().size = Some(SIZE as u64);
    place.server.offer().tricks.push_back(Trick::HangUp);
    assert_eq!(disk.request(T_IN, 0, &[], 512).1, S_IOERR, "one that shrank is not taken");
}
