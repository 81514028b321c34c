//! What images are opened, and which are refused, with which reason.

use std::os::unix::fs::symlink;

use super::*;
use crate::host::Host;

fn options(path: &Path, follow: Follow) -> BlkOptions {
    BlkOptions {
        blk_file: Some(path.into()),
        format: ImageFormat::Qcow2,
        follow,
        read_only: true,
        ..BlkOptions::default()
    }
}

fn refusal(options: &BlkOptions) -> String {
    Host::open(options).map(|_| ()).unwrap_err().to_string()
}

/// A directory with a raw file, and a qcow2 image over what `backing` says.
fn image_over(backing: &Backing<'_>) -> (TempDir, std::path::PathBuf) {
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("images")).unwrap();
    std::fs::write(directory.path().join("secret"), pattern(0, SIZE)).unwrap();
    std::fs::write(directory.path().join("images/raw"), pattern(0, SIZE)).unwrap();
    let path = directory.path().join("images/disk");
    create(&path, 4096, Some(backing));
    (directory, path)
}

/// Sets bytes of a file.
fn patch(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn backing_file_is_followed_only_where_the_user_allows_it() {
    let (_directory, path) = image_over(&Backing { name: "raw", format: "raw" });
    assert!(refusal(&options(&path, Follow::No)).contains("names the file raw: --follow allows it"));
    for follow in [Follow::Beside, Follow::Any] {
        assert_eq!(Host::open(&options(&path, follow)).unwrap().size(512).unwrap(), SIZE as u64);
    }
    let (_directory, path) = image_over(&Backing { name: "../secret", format: "raw" });
    assert!(refusal(&options(&path, Follow::Beside)).contains("--follow any"));
    assert!(Host::open(&options(&path, Follow::Any)).is_ok());
    let (directory, path) = image_over(&Backing { name: "link", format: "raw" });
    symlink(directory.path().join("secret"), path.with_file_name("link")).unwrap();
    assert!(refusal(&options(&path, Follow::Beside)).contains("--follow any"));
    let (_directory, path) = image_over(&Backing { name: "/etc/hostname", format: "raw" });
    assert!(refusal(&options(&path, Follow::Beside)).contains("--follow any"));
}

#[test]
fn backing_file_that_cannot_be_is_an_error_that_says_why() {
    let cases = [
        (Backing { name: "missing", format: "raw" }, "No such file"),
        (Backing { name: ".", format: "raw" }, "is a directory"),
        (Backing { name: "raw", format: "qcow2" }, "no qcow2 image"),
        (Backing { name: "raw", format: "vvfat" }, "vvfat"),
        (Backing { name: "json:{}", format: "raw" }, "No such file"),
        (Backing { name: "disk", format: "qcow2" }, "stands behind itself"),
        (Backing { name: "disk", format: "raw" }, "stands behind itself"),
    ];
    for (backing, reason) in cases {
        let (_directory, path) = image_over(&backing);
        let error = refusal(&options(&path, Follow::Any));
        assert!(error.contains(reason), "{}: {error}", backing.name);
    }
}

#[test]
fn backing_files_behind_one_another_are_read_up_to_a_depth() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("0"), pattern(0, SIZE)).unwrap();
    for layer in 1..18 {
        let (name, format) = ((layer - 1).to_string(), if layer == 1 { "raw" } else { "qcow2" });
        create(&directory.path().join(layer.to_string()), 4096, Some(&Backing { name: &name, format }));
    }
    let mut disk =
        Disk::open(&options(&directory.path().join("15"), Follow::Beside), None, Format::Split, AGREED);
    assert_eq!(disk.read(0, SIZE), pattern(0, SIZE));
    assert!(refusal(&options(&directory.path().join("17"), Follow::Beside)).contains("more than 16"));
}

#[test]
fn image_that_is_broken_or_hostile_is_refused_or_fails_requests() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let huge = u32::MAX.to_be_bytes();
    let cases: &[(u64, &[u8], &str)] = &[
        (0, b"QFI\0", "no qcow2"),
        (4, &[0, 0, 0, 9], "v9"),
        (20, &[0, 0, 0, 3], "cluster size"),
        (20, &huge, "luster size"),
        (24, &[0; 8], "no size"),
        (24, &[0xff; 8], "larger than any"),
        (32, &[0, 0, 0, 1], "encrypted"),
        (36, &huge, "truncated"),
        (40, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], "truncated"),
        (48, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], "truncated"),
        (56, &huge, "truncated"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 1], "qemu-img check"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 2], "qemu-img check"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 4], "in another file"),
        (72, &[0x80, 0, 0, 0, 0, 0, 0, 0], "incompatible"),
        (96, &huge, "efcount width"),
        (100, &huge, "header"),
        (104, &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], "xtension"),
    ];
    for (at, bytes, reason) in cases {
        let _ = std::fs::remove_file(&path);
        create(&path, 4096, None);
        patch(&path, *at, bytes);
        let error = Host::open(&options(&path, Follow::Any)).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains(reason)), "{at}: {error:?}");
    }
    std::fs::write(&path, b"QFI\xfb").unwrap();
    assert!(refusal(&options(&path, Follow::Any)).contains("4 bytes"));
    // A table that points to itself, behind the end, or nowhere that can be.
    for entry in [0x8000_0000_0000_3000_u64, 0x8000_7fff_ffff_f000, 0x8000_0000_0000_0200] {
        let _ = std::fs::remove_file(&path);
        create(&path, 4096, None);
        let mut header = [0; 48];
        File::open(&path).unwrap().read_exact_at(&mut header, 0).unwrap();
        patch(&path, u64::from_be_bytes(header[40..].try_into().unwrap()), &entry.to_be_bytes());
        let writable = BlkOptions { read_only: false, ..options(&path, Follow::No) };
        let Ok(mut device) = Blk::open(&writable) else { continue };
        let handler = device.handler(Group(0), AGREED).unwrap();
        let mut bench = Bench::with(handler, &Setup::new(Format::Split));
        for kind in [1, 0, 13, 4] {
            let data =
                if kind == 13 { ranges(&[(0, 8, 0)]) } else { vec![1; if kind == 1 { 512 } else { 0 }] };
            let (outputs, _) =
                bench.request(&[&header_of(kind), &data], &[if kind == 0 { 512 } else { 0 }, 1]);
            assert!(outputs.last().unwrap()[0] <= 2, "the request ended");
        }
    }
}

fn header_of(kind: u32) -> Vec<u8> {
    header(kind, 0)
}

#[test]
fn image_cut_short_is_refused_or_fails_requests() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    let whole = {
        let mut disk = Disk::qcow2(Format::Split, 4096);
        assert_eq!(disk.request(4, 0, &[], 0).1, 0);
        std::fs::read(disk.directory.as_ref().unwrap().path().join("disk.qcow2")).unwrap()
    };
    for len in (0..whole.len()).step_by(2048) {
        std::fs::write(&path, &whole[..len]).unwrap();
        let Ok(mut device) = Blk::open(&options(&path, Follow::No)) else { continue };
        let handler = device.handler(Group(0), AGREED).unwrap();
        let mut bench = Bench::with(handler, &Setup::new(Format::Split));
        let mut lost = 0;
        for sector in (0..SIZE / 512).step_by(8) {
            let (outputs, _) = bench.request(&[&header(0, sector as u64)], &[4096, 1]);
            match outputs[1][0] {
                0 => {
                    let cut = outputs[0]
                        .iter()
                        .zip(pattern(sector * 512, 4096))
                        .all(|(&read, byte)| read == byte || read == 0);
                    assert!(cut, "{len} {sector}");
                }
                _ => lost += 1,
            }
        }
        assert!(lost > 0 || len + 4096 > whole.len(), "{len}: what is gone is missed");
    }
}

#[test]
fn format_is_never_guessed() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    create(&path, 4096, None);
    let raw = BlkOptions { blk_file: Some(path.clone()), ..BlkOptions::default() };
    let mut disk = Disk::open(&raw, None, Format::Split, AGREED);
    assert_eq!(disk.read(0, 512)[..4], *b"QFI\xfb");
    let file = File::open(&path).unwrap();
    assert_eq!(crate::host::image::looks_like(&file), Some("qcow2"));
    std::fs::write(&path, [0; 4096]).unwrap();
    assert_eq!(crate::host::image::looks_like(&File::open(&path).unwrap()), None);
}

#[test]
fn vmdk_with_a_flat_extent_is_read_and_never_written() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("flat"), pattern(0, SIZE)).unwrap();
    let path = directory.path().join("disk.vmdk");
    let text = format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW {} FLAT \"flat\" 0\nddb.geometry.cylinders = \"1\"\nddb.geometry.heads = \"16\"\n\
         ddb.geometry.sectors = \"63\"\n",
        SIZE / 512
    );
    std::fs::write(&path, text).unwrap();
    let vmdk = BlkOptions { format: ImageFormat::Vmdk, ..options(&path, Follow::Beside) };
    let mut disk = Disk::open(&vmdk, None, Format::Split, AGREED);
    assert_eq!(disk.read(0, SIZE), pattern(0, SIZE));
    assert!(refusal(&BlkOptions { read_only: false, ..vmdk.clone() }).contains("only read"));
    assert!(refusal(&BlkOptions { follow: Follow::No, ..vmdk }).contains("--follow"));
}

#[test]
fn image_in_use_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("disk");
    create(&path, 4096, None);
    let writable = BlkOptions { read_only: false, locking: Locking::On, ..options(&path, Follow::No) };
    let host = Host::open(&writable).unwrap();
    assert!(refusal(&writable).contains("lock"));
    drop(host);
    assert!(Host::open(&writable).is_ok());
}
