//! The program is killed over and over while zones are written: each request is answered well in the end, and no
//! write pointer is ever behind what was answered. Whenever the kill comes, this must hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outboard_frontend::drivers::{Blk, BlkOptions};
use outboard_frontend::{Frontend, Options, Waiting};

const KILLS: u64 = 24;
/// Writes under way together, and appends.
const WRITES: u64 = 8;
const APPENDS: u64 = 2;
/// Sectors of each, and of a zone.
const SECTORS: u64 = 8;
const ZONE: u64 = 512;
const ZONES: u64 = 16;
/// The zone of the first append; others have the next ones.
const APPENDED: u64 = 8 * ZONE;
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, killed when it is dropped.
struct Program {
    child: Child,
    directory: PathBuf,
}

impl Program {
    fn start(directory: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"))
            .arg("--socket-path")
            .arg(directory.join("socket"))
            .arg("--blk-file")
            .arg(directory.join("disk.img"))
            .args(["--num-queues", "1", "--zoned", "256K"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, directory: directory.to_owned() }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        *self = Self::start(&self.directory.clone());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries until it works.
fn eventually<T, E: std::fmt::Debug>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn content(number: u64) -> Vec<u8> {
    (0..SECTORS * 512).map(|at| (number * 31 + at % 251) as u8).collect()
}

#[test]
fn zones_written_through_kills_lose_no_answered_write() {
    let directory = tempfile::tempdir().unwrap();
    File::create(directory.path().join("disk.img")).unwrap().set_len(ZONES * ZONE * 512).unwrap();
    let mut program = Program::start(directory.path());
    let socket = directory.path().join("socket");
    let frontend = eventually(|| Frontend::connect(&socket, Options::default()));
    let mut disk = Blk::open(frontend, &BlkOptions::default()).unwrap();
    let count = (WRITES + APPENDS) as usize;
    let data = disk.frontend().allocate(count * 4096).unwrap();
    let places = disk.frontend().allocate(count * 8).unwrap();
    let mut appended = Vec::new();
    for kill in 0..KILLS {
        let first = kill * WRITES;
        let queue = &mut disk.queues()[0];
        for number in 0..WRITES + APPENDS {
            let at = number as usize;
            let piece = data.slice(at * 4096, 4096).unwrap();
            if number < WRITES {
                piece.write_from(0, &content(first + number)).unwrap();
                queue.write((first + number) * SECTORS, &[piece], number).unwrap();
            } else {
                piece.write_from(0, &content(kill * 7 + number)).unwrap();
                let place = places.slice(at * 8, 8).unwrap();
                let zone = APPENDED + (number - WRITES) * ZONE;
                queue.zone_append(zone, &[piece], &place, number).unwrap();
            }
        }
        queue.publish().unwrap();
        // Somewhere on the way: before, during, after.
        std::thread::sleep(Duration::from_micros(kill * kill * 7 % 900));
        program.kill();
        program.restart();
        eventually(|| disk.reconnect());
        let queue = &mut disk.queues()[0];
        while queue.outstanding() > 0 {
            match queue.poll().unwrap() {
                Some(completion) => {
                    assert_eq!(completion.result, Ok(()), "request {} of kill {kill}", completion.token);
                    if completion.token >= WRITES {
                        let mut place = [0; 8];
                        places.read_into(completion.token as usize * 8, &mut place).unwrap();
                        appended.push((u64::from_le_bytes(place), kill * 7 + completion.token));
                    }
                }
                None => assert!(queue.wait(Waiting::Interrupt, PATIENCE).unwrap(), "a request is lost"),
            }
        }
    }
    program.kill();
    program.restart();
    eventually(|| disk.reconnect());
    let mut bytes = vec![0; SECTORS as usize * 512];
    for number in 0..KILLS * WRITES {
        disk.read_at(number * SECTORS, &mut bytes).unwrap();
        assert!(bytes == content(number), "write {number}");
    }
    appended.sort_unstable();
    assert_eq!(appended.len() as u64, KILLS * APPENDS);
    for pair in appended.windows(2) {
        assert!(pair[0].0 + SECTORS <= pair[1].0, "two appends in one place");
    }
    for (place, number) in appended {
        disk.read_at(place, &mut bytes).unwrap();
        assert!(bytes == content(number), "append at {place}");
    }
    let written = KILLS * WRITES * SECTORS;
    let zone = disk.zones(written, 1).unwrap()[0];
    assert_eq!(zone.write_pointer.get(), written, "neither behind what was answered nor before it");
}
