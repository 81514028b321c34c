//! The program is killed at any write: what completed before is there, and the image is sound.
//!
//! A kill is played by a file that takes so many changes and no more.

use std::io;
use std::sync::Arc;

use imago::qcow2::Qcow2;

use super::check::check;
use super::*;
use crate::host::Access;
use crate::host::image::chain::{Opened, Stored};
use crate::host::image::ledger::Ledger;
use crate::host::image::{Durable, Image};
use crate::host::store::Blocking;

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
    let (file, ledger) = match access {
        Access::Read => (ImageFile::new(open(path, access)), None),
        Access::Write => {
            let (file, ledger) = ImageFile::kept(open(path, access)).unwrap();
            ledger.burn_after(changes);
            (file, Some(ledger))
        }
    };
    let mut image = Qcow2::open_image(Box::new(file) as Stored, access == Access::Write).unwrap();
    image.set_backing(raw.map(|raw| {
        let file: Stored = Box::new(ImageFile::new(open(raw, Access::Read)));
        FormatAccess::new(imago::raw::Raw::open_image(file, false).unwrap())
    }));
    let format = FormatAccess::new(image);
    let opened = Opened { access: format, ledger: ledger.clone(), files: Vec::new(), remote: None };
    (Image::new(opened, access == Access::Read, Durable::Yes), ledger)
}

/// Runs `steps` on the image at `path` until `changes` are made; returns how many steps ended well, and what is left of
/// the changes.
fn run(path: &Path, steps: &[Step], changes: i64, backing: Option<&Path>) -> (usize, i64) {
    let (image, ledger) = open_over(path, backing, Access::Write, changes);
    let done = steps.iter().take_while(|step| step.run(&image).is_ok()).count();
    (done, ledger.unwrap().left())
}

fn kill_at_each_change(seed: u64, backed: bool) {
    let directory = TempDir::new().unwrap();
    let (fresh, path) = (directory.path().join("fresh"), directory.path().join("disk"));
    let raw = directory.path().join("raw");
    std::fs::write(&raw, pattern(0, SIZE)).unwrap();
    create(&fresh, CLUSTER, None);
    let mut random = seed;
    let steps: Vec<Step> = (0..24)
        .map(|_| {
            // Knuth's MMIX generator.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            step(random >> 8)
        })
        .collect();
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
