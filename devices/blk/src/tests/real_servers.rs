//! Servers of others: nbdkit, qemu-nbd and a Ceph cluster. `cargo xtask storage` and `cargo xtask ceph` start these
//! tests, and say in the environment what there is.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outboard_device::QueueId;
use outboard_device::defs::blk::{S_IOERR, S_OK, T_DISCARD, T_FLUSH, T_IN, T_OUT, T_WRITE_ZEROES};
use outboard_nbd::Uri;
use tempfile::TempDir;

use super::*;

/// Size of the disks, in bytes.
const BYTES: u64 = 64 << 20;

/// A server, ended with its value.
struct Server {
    child: Child,
    words: Vec<String>,
    directory: TempDir,
    tls: bool,
}

impl Server {
    /// Starts the words of a variable, and these.
    fn start(variable: &str, more: &[&str], tls: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("nbd").display().to_string();
        let words = std::env::var(variable).unwrap();
        let words = words.lines().map(str::to_owned).chain(more.iter().map(|&word| word.to_owned()));
        let words: Vec<String> = words
            .map(|word| word.replace("{socket}", &socket))
            .map(|word| module(&word, "{plugin}", "plugins", "plugin"))
            .map(|word| module(&word, "{filter}", "filters", "filter"))
            .collect();
        let child = Self::spawn(&words);
        let server = Self { child, words, directory, tls };
        server.await_socket();
        server
    }

    fn spawn(words: &[String]) -> Child {
        Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).spawn().unwrap()
    }

    fn await_socket(&self) {
        let (path, start) = (self.directory.path().join("nbd"), Instant::now());
        while std::os::unix::net::UnixStream::connect(&path).is_err() {
            assert!(start.elapsed() < Duration::from_secs(30), "{:?} does not listen", self.words);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(self.directory.path().join("nbd"));
    }

    fn restart(&mut self) {
        self.child = Self::spawn(&self.words);
    }

    fn uri(&self, tls: bool) -> Uri {
        let socket = self.directory.path().join("nbd").display().to_string();
        let uri = match tls {
            false => format!("nbd+unix:///?socket={socket}"),
            true => {
                let certificates = std::env::var("OUTBOARD_PKI").unwrap();
                format!("nbds+unix:///?socket={socket}&tls-certificates={certificates}")
            }
        };
        Uri::parse(&uri).unwrap()
    }

    fn options(&self) -> BlkOptions {
        BlkOptions { nbd: Some(self.uri(self.tls)), ..BlkOptions::default() }
    }

    fn disk(&self) -> Disk {
        Disk::open(&self.options(), None, Format::Split, AGREED)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Of nbdkit, the path of a plugin or filter: it would look for them where they are not installed.
fn module(word: &str, mark: &str, directory: &str, kind: &str) -> String {
    match word.split_once(mark) {
        None => word.to_owned(),
        Some((before, name)) => {
            let modules = std::env::var("OUTBOARD_NBDKIT_MODULES").unwrap();
            format!("{before}{modules}/{directory}/nbdkit-{name}-{kind}.so")
        }
    }
}

fn nbdkit(more: &[&str]) -> Server {
    Server::start("OUTBOARD_NBDKIT", more, false)
}

/// Sends requests in the dozen, and expects that all go well.
fn batch(disk: &mut Disk, requests: &[(u32, u64, Vec<u8>, usize)]) -> Vec<Vec<u8>> {
    let queue = QueueId(0);
    let tokens: Vec<u64> = requests
        .iter()
        .map(|(kind, sector, data, room)| {
            disk.bench.send(queue, &[&header(*kind, *sector), data], &[*room, 1])
        })
        .collect();
    disk.bench.run();
    let mut answers: Vec<_> = tokens.iter().map(|_| disk.bench.receive(queue).unwrap()).collect();
    answers.sort_by_key(|answer| answer.token);
    answers
        .into_iter()
        .map(|mut answer| {
            assert_eq!(answer.outputs.pop().unwrap(), [S_OK]);
            answer.outputs.pop().unwrap_or_default()
        })
        .collect()
}

/// Writes the disk in pieces of many sizes, several at a time, and reads it back in others.
fn write_and_read(disk: &mut Disk, bytes: u64) {
    let write = |at: u64, len: usize| (T_OUT, at / 512, pattern(at as usize, len), 0);
    let mut at = 0;
    let sizes = [512, 4096, 65536, 1024, 1 << 20, 131_072, 512, 8192];
    while at < bytes {
        let mut requests = Vec::new();
        for &size in &sizes {
            let len = size.min((bytes - at) as usize);
            if len > 0 {
                requests.push(write(at, len));
                at += len as u64;
            }
        }
        batch(disk, &requests);
    }
    assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_OK);
    for start in (0..bytes).step_by(1 << 20) {
        let reads: Vec<_> = (0..4).map(|nth| (T_IN, (start >> 9) + nth * 512, Vec::new(), 1 << 18)).collect();
        for (nth, data) in batch(disk, &reads).into_iter().enumerate() {
            assert!(data == pattern(start as usize + (nth << 18), 1 << 18), "at {start}");
        }
    }
    assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(8, 256, 0)]), 0).1, S_OK);
    assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(1024, 256, 1)]), 0).1, S_OK);
    assert_eq!(disk.request(T_DISCARD, 0, &ranges(&[(8192, 8192, 0)]), 0).1, S_OK);
    assert_eq!(disk.read(0, 4096), pattern(0, 4096));
    assert_eq!(disk.read(8, 256 * 512), vec![0; 256 * 512]);
    assert_eq!(disk.read(1024, 256 * 512), vec![0; 256 * 512]);
    assert_eq!(disk.read(1280, 4096), pattern(1280 * 512, 4096));
    assert_eq!(disk.read(16384, 4096), pattern(16384 * 512, 4096));
}

#[test]
#[ignore = "cargo xtask storage"]
fn nbdkit_memory_is_written_and_read() {
    let server = nbdkit(&["{plugin}memory", "64M"]);
    write_and_read(&mut server.disk(), BYTES);
}

#[test]
#[ignore = "cargo xtask storage"]
fn nbdkit_file_is_written_and_read() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(BYTES).unwrap();
    let server = nbdkit(&["{plugin}file", &file.path().display().to_string()]);
    write_and_read(&mut server.disk(), BYTES);
    let mut stored = vec![0; 4096];
    file.as_file().read_exact_at(&mut stored, 1280 * 512).unwrap();
    assert_eq!(stored, pattern(1280 * 512, 4096));
}

#[test]
#[ignore = "cargo xtask storage"]
fn nbdkit_with_tls_is_written_and_read() {
    let certificates = format!("--tls-certificates={}", std::env::var("OUTBOARD_PKI").unwrap());
    let server =
        Server::start("OUTBOARD_NBDKIT", &["--tls=require", &certificates, "{plugin}memory", "64M"], true);
    write_and_read(&mut server.disk(), BYTES);
    let plain = BlkOptions { nbd: Some(server.uri(false)), ..BlkOptions::default() };
    let error = Blk::open(&plain).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("nbds://"), "{error}");
}

#[test]
#[ignore = "cargo xtask storage"]
fn nbdkit_that_is_slow_or_fails_is_borne() {
    let server = nbdkit(&["--filter={filter}delay", "{plugin}memory", "64M", "rdelay=30ms", "wdelay=30ms"]);
    let mut disk = server.disk();
    let reads: Vec<_> = (0..16).map(|nth| (T_IN, nth * 8, Vec::new(), 4096)).collect();
    batch(&mut disk, &reads);
    let server = nbdkit(&[
        "--filter={filter}error",
        "{plugin}memory",
        "64M",
        "error=ENOSPC",
        "error-pwrite-rate=100%",
    ]);
    let mut disk = server.disk();
    assert_eq!(disk.request(T_OUT, 0, &[1; 512], 0).1, S_IOERR);
    assert_eq!(disk.read(0, 512), [0; 512]);
}

#[test]
#[ignore = "cargo xtask storage"]
fn nbdkit_that_is_killed_and_started_again_loses_no_request() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(BYTES).unwrap();
    let mut server = nbdkit(&[
        "--filter={filter}delay",
        "{plugin}file",
        &file.path().display().to_string(),
        "delay-write=20ms",
    ]);
    let mut disk = server.disk();
    for round in 0..4_u8 {
        let queue = QueueId(0);
        for sector in 0..32 {
            disk.bench.send(queue, &[&header(T_OUT, sector * 8), &[round + 1; 4096]], &[1]);
        }
        disk.bench.begin();
        server.kill();
        server.restart();
        disk.bench.run();
        for _ in 0..32 {
            assert_eq!(disk.bench.receive(queue).unwrap().outputs, [[S_OK]]);
        }
        assert_eq!(disk.read(0, 32 * 4096), vec![round + 1; 32 * 4096]);
    }
}

#[test]
#[ignore = "cargo xtask storage"]
fn qemu_nbd_is_written_and_read_and_grows() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().set_len(BYTES).unwrap();
    let image = file.path().display().to_string();
    let mut server = Server::start(
        "OUTBOARD_QEMU_NBD",
        &["--persistent", "--shared=16", "--discard=unmap", "--format=raw", "--socket={socket}", &image],
        false,
    );
    let mut disk = server.disk();
    write_and_read(&mut disk, BYTES);
    server.kill();
    file.as_file().set_len(BYTES * 2).unwrap();
    server.restart();
    assert_eq!(disk.read(0, 4096), pattern(0, 4096));
    assert!(disk.device.refresh().unwrap());
    assert_eq!(disk.read(BYTES / 512, 4096), [0; 4096]);
}

/// An overlay over a server's disk: it is used, its server is killed and started again, and it is used again.
fn overlay_over(server: &mut Server) {
    let expected = |written: bool| {
        let mut bytes = pattern(0, 1 << 20);
        if written {
            bytes[9 * 512..12 * 512].fill(7);
            bytes[(1 << 20) - 512..].fill(8);
        }
        bytes
    };
    let options = BlkOptions { overlay: Some(server.directory.path().join("overlay")), ..server.options() };
    let mut disk = Disk::open(&options, None, Format::Split, AGREED);
    assert_eq!(disk.read(0, 1 << 20), expected(false));
    assert_eq!(disk.write(9, &[7; 3 * 512]), S_OK);
    server.kill();
    disk.bench.send(QueueId(0), &[&header(T_OUT, 2047), &[8; 512]], &[1]);
    disk.bench.begin();
    server.restart();
    disk.bench.run();
    assert_eq!(disk.bench.receive(QueueId(0)).unwrap().outputs, [[S_OK]]);
    assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_OK);
    assert_eq!(disk.read(0, 1 << 20), expected(true));
    drop(disk);
    let mut disk = Disk::open(&options, None, Format::Packed, AGREED);
    assert_eq!(disk.read(0, 1 << 20), expected(true));
    drop(disk);
    // What it records is what QEMU finds it by.
    let flat = server.directory.path().join("flat");
    let words = std::env::var("OUTBOARD_QEMU_IMG").unwrap();
    let mut words = words.lines();
    let status = Command::new(words.next().unwrap())
        .args(words)
        .args(["convert", "-f", "qcow2", "-O", "raw"])
        .args([options.overlay.unwrap(), flat.clone()])
        .status()
        .unwrap();
    assert!(status.success());
    assert!(std::fs::read(flat).unwrap()[..1 << 20] == expected(true));
    let plain = BlkOptions { read_only: true, ..server.options() };
    let mut disk = Disk::open(&plain, None, Format::Split, AGREED);
    assert_eq!(disk.read(0, 1 << 20), expected(false), "the server's has not changed");
}

#[test]
#[ignore = "cargo xtask storage"]
fn nbdkit_that_is_only_read_has_an_overlay() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&pattern(0, 1 << 20), 0).unwrap();
    file.as_file().set_len((1 << 20) + 700).unwrap();
    overlay_over(&mut nbdkit(&["--readonly", "{plugin}file", &file.path().display().to_string()]));
}

#[test]
#[ignore = "cargo xtask storage"]
fn qemu_nbd_that_is_only_read_has_an_overlay() {
    let file = NamedTempFile::new().unwrap();
    file.as_file().write_all_at(&pattern(0, 1 << 20), 0).unwrap();
    let image = file.path().display().to_string();
    let words = ["--persistent", "--shared=16", "--read-only", "--format=raw", "--socket={socket}", &image];
    overlay_over(&mut Server::start("OUTBOARD_QEMU_NBD", &words, false));
}

#[cfg(feature = "rbd")]
mod ceph {
    use super::*;

    fn rbd(arguments: &[&str]) {
        let words = std::env::var("OUTBOARD_RBD").unwrap();
        let mut words = words.lines();
        let status = Command::new(words.next().unwrap()).args(words).args(arguments).status().unwrap();
        assert!(status.success(), "rbd {arguments:?}");
    }

    fn options() -> BlkOptions {
        let name = std::env::var("OUTBOARD_IMAGE").unwrap();
        let conf = std::env::var("OUTBOARD_CEPH_CONF").unwrap();
        BlkOptions { rbd: Some(name), rbd_conf: Some(conf.into()), ..BlkOptions::default() }
    }

    #[test]
    #[ignore = "cargo xtask ceph"]
    fn ceph_image_is_written_and_read_and_resized() {
        let name = std::env::var("OUTBOARD_IMAGE").unwrap();
        rbd(&["resize", &name, "--size", "64M", "--allow-shrink", "--no-progress"]);
        let mut disk = Disk::open(&options(), None, Format::Split, AGREED);
        write_and_read(&mut disk, BYTES);
        disk.switch_cache(0).unwrap();
        assert_eq!(disk.write(9, &[7; 512]), S_OK);
        rbd(&["resize", &name, "--size", "96M", "--no-progress"]);
        let start = Instant::now();
        while !disk.device.refresh().unwrap() {
            assert!(start.elapsed() < Duration::from_secs(30));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(disk.read(BYTES / 512, 4096), [0; 4096]);
        drop(disk);
        let mut disk = Disk::open(&BlkOptions { read_only: true, ..options() }, None, Format::Packed, AGREED);
        assert_eq!(disk.read(9, 512), [7; 512]);
        assert_eq!(disk.write(9, &[8; 512]), S_IOERR);
    }

    #[test]
    #[ignore = "cargo xtask ceph"]
    fn ceph_image_that_is_only_read_has_an_overlay() {
        let name = std::env::var("OUTBOARD_IMAGE").unwrap();
        rbd(&["resize", &name, "--size", "64M", "--allow-shrink", "--no-progress"]);
        let mut disk = Disk::open(&options(), None, Format::Split, AGREED);
        assert_eq!(disk.write(0, &pattern(0, SIZE)), S_OK);
        drop(disk);
        let directory = tempfile::tempdir().unwrap();
        let overlaid = BlkOptions { overlay: Some(directory.path().join("overlay")), ..options() };
        let mut expected = pattern(0, SIZE);
        for byte in [7, 8] {
            let mut disk = Disk::open(&overlaid, None, Format::Split, AGREED);
            assert_eq!(disk.read(0, SIZE), expected);
            assert_eq!(disk.write(byte.into(), &[byte; 512]), S_OK);
            expected[usize::from(byte) * 512..][..512].fill(byte);
            assert_eq!(disk.read(0, SIZE), expected);
            assert_eq!(disk.read(BYTES / 512 - 8, 4096).len(), 4096);
        }
        let mut disk = Disk::open(&BlkOptions { read_only: true, ..options() }, None, Format::Split, AGREED);
        assert_eq!(disk.read(0, SIZE), pattern(0, SIZE), "the cluster's has not changed");
    }

    #[test]
    #[ignore = "cargo xtask ceph"]
    fn ceph_that_is_not_there_says_what_is_missing() {
        let name = |name: &str| BlkOptions { rbd: Some(name.to_owned()), ..options() };
        for (options, reason) in [
            (name("rbd/nobody"), "the image"),
            (name("nobody/disk"), "the pool"),
            (name("disk"), "POOL/IMAGE"),
            (BlkOptions { rbd_conf: Some("/nowhere".into()), ..options() }, "--rbd-conf"),
        ] {
            let error = Blk::open(&options).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
