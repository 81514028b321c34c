//! The program is killed at any write, or the host has no space for it: what completed is there, and the image is sound.
//!
//! A kill is played by a file that takes so many changes and no more; a lack of space by one that refuses some.

use std::io;
use std::sync::Arc;

use imago::qcow2::Qcow2;

use super::check::check;
use super::*;
use crate::host::image::chain::{Opened, Stored};
use crate::host::image::ledger::Ledger;
use crate::host::image::{Durable, Image};
use crate::host::store::{Blocking, Pool};
use crate::host::{Access, Host};

const CLUSTER: usize = 4096;

#[derive(Clone, Copy, Debug)]
enum Step {
    Write { sector: usize, sectors: usize, byte: u8 },
    Zero { sector: usize, sectors: usize, unmap: bool },
    Discard { sector: usize, sectors: usize },
    Sync,
}

impl Step {
    fn range(self) -> std::ops::Range<usize> {
        match self {
            Self::Write { sector, sectors, .. }
            | Self::Zero { sector, sectors, .. }
            | Self::Discard { sector, sectors } => sector * 512..(sector + sectors) * 512,
            Self::Sync => 0..0,
        }
    }

    fn run(self, image: &Image) -> io::Result<()> {
        let (offset, len) = (self.range().start as u64, self.range().len() as u64);
        match self {
            Self::Write { byte, .. } => image.write(offset, &vec![byte; len as usize]),
            Self::Zero { unmap, .. } => image.zero(offset, len, unmap),
            Self::Discard { .. } => image.discard(offset, len),
            Self::Sync => image.sync(),
        }
    }

    fn play(self, model: &mut [u8]) {
        match self {
            Self::Write { byte, .. } => model[self.range()].fill(byte),
            _ => model[self.range()].fill(0),
        }
    }
}

fn step(random: u64) -> Step {
    let pick = |shift: u32, most: u64| (random >> shift) as usize % most as usize;
    let sector = pick(8, (SIZE / 512) as u64);
    let sectors = (1 + pick(24, 24)).min(SIZE / 512 - sector);
    // What can be given up is whole clusters.
    let (start, end) = (sector / 8 * 8, (sector + sectors).next_multiple_of(8));
    match random % 8 {
        0 => Step::Discard { sector: start, sectors: end - start },
        1 => Step::Zero { sector, sectors, unmap: true },
        2 => Step::Zero { sector, sectors, unmap: false },
        3 => Step::Sync,
        _ => Step::Write { sector, sectors, byte: pick(40, 255) as u8 | 1 },
    }
}

/// Opens the image at `path` over a raw file.
fn open_over(path: &Path, raw: Option<&Path>, access: Access, changes: i64) -> (Image, Option<Arc<Ledger>>) {
    let open = |path: &Path, access| DiskFile::open(path, access, false, Locking::Off).unwrap();
    let mut files = Vec::new();
    let (file, ledger) = match access {
        Access::Read => (ImageFile::new(open(path, access)), None),
        Access::Write => {
            let (file, ledger) = ImageFile::kept(open(path, access)).unwrap();
            ledger.faults().burn_after(changes);
            (file.listed(&mut files), Some(ledger))
        }
    };
    let mut image = Qcow2::open_image(Box::new(file) as Stored, access == Access::Write).unwrap();
    image.set_backing(raw.map(|raw| {
        let file: Stored = Box::new(ImageFile::new(open(raw, Access::Read)));
        FormatAccess::new(imago::raw::Raw::open_image(file, false).unwrap())
    }));
    let format = FormatAccess::new(image);
    let opened = Opened { access: format, ledger: ledger.clone(), files, remote: None };
    (Image::new(opened, access == Access::Read, Durable::Yes), ledger)
}

/// Runs `steps` on the image at `path` until `changes` are made; returns how many steps ended well, and what is left of
/// the changes.
fn run(path: &Path, steps: &[Step], changes: i64, backing: Option<&Path>) -> (usize, i64) {
    let (image, ledger) = open_over(path, backing, Access::Write, changes);
    let done = steps.iter().take_while(|step| step.run(&image).is_ok()).count();
    (done, ledger.unwrap().faults().left())
}

fn steps(seed: u64) -> Vec<Step> {
    let mut random = seed;
    (0..24)
        .map(|_| {
            // Knuth's MMIX generator.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            step(random >> 8)
        })
        .collect()
}

fn kill_at_each_change(seed: u64, backed: bool) {
    let directory = TempDir::new().unwrap();
    let (fresh, path) = (directory.path().join("fresh"), directory.path().join("disk"));
    let raw = directory.path().join("raw");
    std::fs::write(&raw, pattern(0, SIZE)).unwrap();
    create(&fresh, CLUSTER, None);
    let steps = steps(seed);
    let backing = backed.then_some(raw.as_path());
    let begin = if backed { pattern(0, SIZE) } else { vec![0; SIZE] };
    let mut changes = 0;
    loop {
        std::fs::copy(&fresh, &path).unwrap();
        let (done, left) = run(&path, &steps, changes, backing);
        check(&path);
        let mut model = begin.clone();
        steps[..done].iter().for_each(|step| step.play(&mut model));
        let mut data = vec![0; SIZE];
        open_over(&path, backing, Access::Read, 0).0.read(0, &mut data).unwrap();
        // Of the step that was cut off, anything may have happened.
        let open = steps.get(done).map_or(0..0, |step| step.range());
        for sector in (0..SIZE).step_by(512).filter(|sector| !open.contains(sector)) {
            assert!(
                data[sector..sector + 512] == model[sector..sector + 512],
                "sector {} after {changes} changes and {:?}, cut off in {:?}",
                sector / 512,
                &steps[..done],
                steps.get(done)
            );
        }
        if left > 0 {
            assert_eq!(done, steps.len());
            assert!(changes > 24, "there was something to cut off");
            return;
        }
        changes += 1;
    }
}

#[test]
fn image_whose_program_is_killed_at_any_change_is_sound_and_has_all_that_completed() {
    for seed in 1..6 {
        kill_at_each_change(seed, false);
    }
}

#[test]
fn overlay_whose_program_is_killed_at_any_change_is_sound_and_has_all_that_completed() {
    for seed in 6..11 {
        kill_at_each_change(seed, true);
    }
}

/// Runs everything with a file that refuses `fail` changes at any moment, and kills the program at the end.
fn refuse_at_each_change(seed: u64, fail: i64) {
    let directory = TempDir::new().unwrap();
    let (fresh, path) = (directory.path().join("fresh"), directory.path().join("disk"));
    create(&fresh, CLUSTER, None);
    let steps = steps(seed);
    for changes in 0.. {
        std::fs::copy(&fresh, &path).unwrap();
        let (image, ledger) = open_over(&path, None, Access::Write, 0);
        let ledger = ledger.unwrap();
        ledger.faults().after(changes, fail);
        let mut model = vec![Some(0); SIZE];
        for step in &steps {
            let result = step.run(&image);
            match *step {
                // Of what failed, anything may have happened.
                _ if result.is_err() => model[step.range()].fill(None),
                Step::Write { byte, .. } => model[step.range()].fill(Some(byte)),
                _ => model[step.range()].fill(Some(0)),
            }
        }
        let left = ledger.faults().left();
        ledger.faults().burn_after(0);
        drop(image);
        check(&path);
        let mut data = vec![0; SIZE];
        open_over(&path, None, Access::Read, 0).0.read(0, &mut data).unwrap();
        for (at, (read, expected)) in data.iter().zip(&model).enumerate() {
            assert!(
                expected.is_none_or(|byte| byte == *read),
                "byte {at} after {changes} changes of {steps:?}"
            );
        }
        if left > 0 {
            assert!(changes > 24, "there was something to refuse");
            return;
        }
    }
}

#[test]
fn image_whose_file_refuses_some_changes_has_all_that_completed() {
    for seed in 1..6 {
        for fail in [1, 3] {
            refuse_at_each_change(seed, fail);
        }
    }
}

#[test]
fn write_after_one_whose_tables_were_not_stored_is_there_after_a_kill() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let (mut refused, mut changes) = (0, 0);
    loop {
        let _ = std::fs::remove_file(&path);
        create(&path, CLUSTER, None);
        let (image, ledger) = open_over(&path, None, Access::Write, 0);
        let faults = ledger.as_ref().unwrap().faults();
        faults.after(changes, 1);
        let first = image.write(0, &[1; 512]);
        if let Some(spot) = image.locate(0, 512, true) {
            // What a queue does by itself.
            File::options().write(true).open(&path).unwrap().write_all_at(&[2; 512], spot.offset).unwrap();
        } else {
            image.write(0, &[2; 512]).unwrap();
        }
        faults.burn_after(0);
        drop(image);
        check(&path);
        let mut data = [0; 512];
        open_over(&path, None, Access::Read, 0).0.read(0, &mut data).unwrap();
        assert_eq!(data, [2; 512], "after {changes} changes");
        if first.is_ok() {
            break;
        }
        (refused, changes) = (refused + 1, changes + 1);
    }
    assert!(refused > 3, "data, and tables");
}

/// A disk over an image, whose file can be made to fail.
fn disk_over(path: &Path) -> (Disk, Arc<Ledger>) {
    let (image, ledger) = open_over(path, None, Access::Write, i64::MAX);
    let host = Host::Store(Arc::new(Pool::start(image, 1, "image").unwrap()));
    let device = Blk::over(host, None, &BlkOptions::default()).unwrap();
    (Disk::of(device, None, Format::Split, AGREED), ledger.unwrap())
}

#[test]
fn flush_that_found_no_space_for_tables_loses_nothing_and_works_when_there_is_some() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let mut failed = 0;
    for changes in 0..8 {
        for writeback in [1, 0] {
            let _ = std::fs::remove_file(&path);
            create(&path, CLUSTER, None);
            let (mut disk, ledger) = disk_over(&path);
            disk.switch_cache(writeback).unwrap();
            ledger.faults().burn_after(changes);
            let written = disk.write(0, &[1; 512]);
            let flushed = disk.request(4, 0, &[], 0).1;
            failed += usize::from(flushed);
            assert!(flushed == 0 || written == 1, "what was not stored was not answered");
            let _ = disk.switch_cache(0);
            ledger.faults().burn_after(i64::MAX);
            assert_eq!(disk.device.status()["lost"], false);
            assert_eq!(disk.request(4, 0, &[], 0).1, 0);
            assert_eq!(disk.write(0, &[2; 512]), 0);
            assert_eq!(disk.request(4, 0, &[], 0).1, 0);
            assert_eq!(disk.read(0, 512), [2; 512]);
        }
    }
    assert!(failed > 1);
}

#[test]
fn sync_that_fails_when_the_image_grows_loses_what_was_written() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    create(&path, CLUSTER, None);
    let (mut disk, ledger) = disk_over(&path);
    assert_eq!(disk.write(0, &[1; 512]), 0);
    ledger.faults().fail_syncs();
    let size = 2 * SIZE as u64;
    let grow = outboard_device::serde_json::json!({ "size": size });
    assert!(disk.device.control("resize", &grow).is_err());
    assert_eq!(disk.device.status()["lost"], true);
    assert_eq!(disk.request(4, 0, &[], 0).1, 1, "a flush that succeeded now would lie");
}

#[test]
fn image_that_needs_new_counts_is_sound_after_any_refusal() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    // A block of counts is for 128 KiB.
    let size = 256 << 10;
    let mut changes = 0;
    loop {
        let _ = std::fs::remove_file(&path);
        let file = ImageFile::new(DiskFile::create(&path).unwrap());
        drop(FormatAccess::new(create_qcow2(file, size, 512, None).unwrap()));
        let (image, ledger) = open_over(&path, None, Access::Write, i64::MAX);
        let faults = ledger.as_ref().unwrap().faults();
        image.write(0, &[1; 96 << 10]).unwrap();
        faults.after(changes, 1);
        let pieces = (96..160).step_by(8).map(|at| (at << 10, vec![at as u8; 8 << 10]));
        let pieces: Vec<(u64, Vec<u8>)> = pieces.collect();
        let written: Vec<bool> = pieces.iter().map(|(at, data)| image.write(*at, data).is_ok()).collect();
        let left = faults.left();
        faults.burn_after(0);
        drop(image);
        check(&path);
        let (image, _) = open_over(&path, None, Access::Read, 0);
        for ((at, data), _) in pieces.iter().zip(written).filter(|(_, written)| *written) {
            let mut read = vec![0; data.len()];
            image.read(*at, &mut read).unwrap();
            assert!(read == *data, "{at} after {changes} changes");
        }
        if left > 0 {
            break;
        }
        changes += 1;
    }
    assert!(changes > 8);
}

#[test]
fn image_that_cannot_grow_is_sound_or_left_alone_with_a_mark() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let mut changes = 0;
    loop {
        let _ = std::fs::remove_file(&path);
        let file = ImageFile::new(DiskFile::create(&path).unwrap());
        drop(FormatAccess::new(create_qcow2(file, 64 << 10, 512, None).unwrap()));
        let (image, ledger) = open_over(&path, None, Access::Write, i64::MAX);
        let faults = ledger.as_ref().unwrap().faults();
        image.write(0, &[1; 512]).unwrap();
        faults.after(changes, 1);
        // A table of a cluster is for 2 MiB.
        let _ = image.set_size(4 << 20);
        // Where there is a table already, and where there is none; then the header is written once more.
        let places = [512, 40 << 10].map(|at| (at, image.write(at, &[2; 512]).is_ok()));
        let again = image.set_size(128 << 10).is_ok();
        let left = faults.left();
        faults.burn_after(0);
        drop(image);
        if Host::open(&options(&path)).is_ok() {
            check(&path);
            let (image, _) = open_over(&path, None, Access::Read, 0);
            let mut read = [0; 512];
            image.read(0, &mut read).unwrap();
            assert_eq!(read, [1; 512]);
            for (at, _) in places.iter().filter(|(_, written)| *written) {
                image.read(*at, &mut read).unwrap();
                assert_eq!(read, [2; 512], "at {at} after {changes} changes");
            }
        } else {
            // The mark is what could not be changed, or what is left of that.
            assert!(!again, "after {changes} changes");
        }
        if left > 0 {
            break;
        }
        changes += 1;
    }
    assert!(changes > 3);
}

fn options(path: &Path) -> BlkOptions {
    BlkOptions { blk_file: Some(path.into()), format: ImageFormat::Qcow2, ..BlkOptions::default() }
}
