//! An image of more files than an engine takes is served all the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fmt::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use outboard_frontend::drivers::{Blk, BlkOptions};
use outboard_frontend::{Frontend, Options};

const EXTENTS: u64 = 80;
/// Sectors of each.
const SECTORS: u64 = 8;
const PATIENCE: Duration = Duration::from_secs(60);

/// The program, killed when it is dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn vmdk_with_more_extents_than_an_engine_has_room_for_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut text = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n\
                    createType=\"twoGbMaxExtentFlat\"\n"
        .to_owned();
    for extent in 0..EXTENTS {
        let content = vec![extent as u8 + 1; SECTORS as usize * 512];
        std::fs::write(directory.path().join(format!("extent{extent}")), content).unwrap();
        writeln!(text, "RW {SECTORS} FLAT \"extent{extent}\" 0").unwrap();
    }
    text.push_str(
        "ddb.geometry.cylinders = \"1\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n",
    );
    std::fs::write(directory.path().join("disk.vmdk"), text).unwrap();
    let socket = directory.path().join("socket");
    let _program = Program(
        Command::new(env!("CARGO_BIN_EXE_vhost-user-blk"))
            .arg("--socket-path")
            .arg(&socket)
            .arg("--blk-file")
            .arg(directory.path().join("disk.vmdk"))
            .args(["--format", "vmdk", "--follow", "beside", "--read-only", "--num-queues", "2"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let start = Instant::now();
    let frontend = loop {
        match Frontend::connect(&socket, Options::default()) {
            Ok(frontend) => break frontend,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error:?}"),
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let mut disk = Blk::open(frontend, &BlkOptions::default()).unwrap();
    let mut bytes = vec![0; SECTORS as usize * 512];
    for extent in 0..EXTENTS {
        disk.read_at(extent * SECTORS, &mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == extent as u8 + 1), "extent {extent}");
    }
}
