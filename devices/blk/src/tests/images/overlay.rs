//! Disks over disks that are only read.

use std::path::PathBuf;

use super::*;
use crate::host::Host;

struct Files {
    directory: TempDir,
    options: BlkOptions,
}

impl Files {
    /// A raw file, and where an overlay over it is to be.
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let raw = directory.path().join("raw");
        std::fs::write(&raw, pattern(0, SIZE)).unwrap();
        let overlay = Some(directory.path().join("overlay"));
        let options =
            BlkOptions { blk_file: Some(raw), overlay, locking: Locking::On, ..BlkOptions::default() };
        Self { directory, options }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn open(&self) -> Disk {
        Disk::open(&self.options, None, Format::Split, AGREED)
    }

    fn refusal(&self) -> String {
        Host::open(&self.options).map(|_| ()).unwrap_err().to_string()
    }
}

#[test]
fn overlay_keeps_what_was_written_and_leaves_the_source_alone() {
    let files = Files::new();
    let mut expected = pattern(0, SIZE);
    for round in 0..3_usize {
        let mut disk = files.open();
        assert_eq!(disk.read(0, SIZE), expected);
        assert_eq!(disk.write(10 * round as u64, &[round as u8 + 1; 1024]), 0);
        expected[10 * round * 512..][..1024].fill(round as u8 + 1);
        assert_eq!(disk.request(11, 0, &ranges(&[(64 + round as u64 * 8, 8, 0)]), 0).1, 0);
        expected[(64 + round * 8) * 512..][..4096].fill(0);
    }
    assert_eq!(files.open().read(0, SIZE), expected);
    assert_eq!(std::fs::read(files.path("raw")).unwrap(), pattern(0, SIZE));
    assert_eq!(std::fs::read_dir(files.directory.path()).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn overlays_over_one_source_at_the_same_time_see_their_own_writes() {
    let files = Files::new();
    let mut first = files.open();
    let other = BlkOptions { overlay: Some(files.path("other")), ..files.options.clone() };
    let mut second = Disk::open(&other, None, Format::Split, AGREED);
    assert_eq!(first.write(0, &[1; 512]), 0);
    assert_eq!(second.read(0, SIZE), pattern(0, SIZE));
    let writable = BlkOptions { overlay: None, ..files.options.clone() };
    let error = Host::open(&writable).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("lock"), "the source is not written meanwhile: {error}");
}

#[test]
fn overlay_of_another_size_or_source_or_format_is_refused() {
    let files = Files::new();
    drop(files.open());
    std::fs::write(files.path("longer"), pattern(0, SIZE + 512)).unwrap();
    let longer = BlkOptions { blk_file: Some(files.path("longer")), ..files.options.clone() };
    let error = Host::open(&longer).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("it was made over") && error.contains("longer"), "{error}");

    File::options().write(true).open(files.path("raw")).unwrap().set_len(SIZE as u64 + 4096).unwrap();
    assert!(files.refusal().contains("bytes, what it is to lie over"), "{}", files.refusal());

    let files = Files::new();
    create(&files.path("overlay"), 4096, None);
    assert!(files.refusal().contains("not made over another disk"));
    std::fs::write(files.path("overlay"), [7; 4096]).unwrap();
    assert!(files.refusal().contains("no qcow2"));
    assert_eq!(std::fs::read(files.path("overlay")).unwrap(), [7; 4096], "what is there is not overwritten");

    let mut files = Files::new();
    create(&files.path("qcow2"), 4096, None);
    create(&files.path("overlay"), 4096, Some(&Backing { name: "qcow2", format: "raw" }));
    files.options.blk_file = Some(files.path("qcow2"));
    files.options.format = ImageFormat::Qcow2;
    assert!(files.refusal().contains("format raw, not qcow2"));
}

#[test]
fn overlay_that_cannot_be_made_is_not_left_in_part() {
    let mut files = Files::new();
    files.options.overlay = Some(files.path("no/such/place"));
    assert!(files.refusal().contains("No such file"));
    files.options.overlay = Some(files.path("raw"));
    assert!(files.refusal().contains("lock"), "{}", files.refusal());
    assert_eq!(std::fs::read_dir(files.directory.path()).unwrap().count(), 1);
}

#[test]
fn overlay_lies_over_an_image_with_what_stands_behind_it() {
    let mut files = Files::new();
    create(&files.path("middle"), 4096, Some(&Backing { name: "raw", format: "raw" }));
    files.options.blk_file = Some(files.path("middle"));
    files.options.format = ImageFormat::Qcow2;
    assert!(files.refusal().contains("--follow"), "what the image names is not what the user named");
    files.options.follow = Follow::Beside;
    let before = std::fs::read(files.path("middle")).unwrap();
    let mut disk = files.open();
    assert_eq!(disk.write(3, &[9; 512]), 0);
    let mut expected = pattern(0, SIZE);
    expected[3 * 512..4 * 512].fill(9);
    assert_eq!(disk.read(0, SIZE), expected);
    drop(disk);
    assert_eq!(files.open().read(0, SIZE), expected);
    assert_eq!(std::fs::read(files.path("middle")).unwrap(), before);
}

#[test]
fn snapshot_is_gone_with_the_program() {
    let mut files = Files::new();
    files.options.overlay = None;
    files.options.snapshot = true;
    for _ in 0..2 {
        let mut disk = files.open();
        assert_eq!(disk.read(0, SIZE), pattern(0, SIZE));
        assert_eq!(disk.write(0, &[1; SIZE]), 0);
        assert_eq!(disk.request(4, 0, &[], 0).1, 0);
        assert_eq!(disk.read(0, SIZE), [1; SIZE]);
    }
    assert_eq!(std::fs::read(files.path("raw")).unwrap(), pattern(0, SIZE));
    assert_eq!(std::fs::read_dir(files.directory.path()).unwrap().count(), 1);
}

#[test]
fn image_grows_by_command_and_what_is_new_is_zero() {
    let files = Files::new();
    let mut disk = files.open();
    assert_eq!(disk.write(0, &[1; 512]), 0);
    let size = SIZE as u64 + (1 << 20);
    let grown = disk.device.control("resize", &outboard_device::serde_json::json!({ "size": size })).unwrap();
    assert_eq!(grown["size"], size);
    let end = SIZE as u64 / 512;
    assert_eq!(disk.read(end, 1 << 20), vec![0; 1 << 20]);
    assert_eq!(disk.write(end + 8, &[5; 512]), 0);
    let error = disk
        .device
        .control("resize", &outboard_device::serde_json::json!({ "size": SIZE, "shrink": true }))
        .unwrap_err()
        .to_string();
    assert!(error.contains("only grow"), "{error}");
    assert_eq!(disk.read(end + 8, 512), [5; 512], "and stays as it was");
}
