//! A program whose disk is in another process. Try it:
//! `vhost-user-blk --socket-path /tmp/disk.sock & cargo run -p outboard-frontend --example disk /tmp/disk.sock`
#![allow(clippy::print_stdout, reason = "what it shows")]

use std::{path::Path, time::Duration};

use outboard_frontend::drivers::{Blk, BlkOptions};
use outboard_frontend::{Error, Frontend, Options, Waiting};

fn main() -> Result<(), Error> {
    let socket = std::env::args_os().nth(1).ok_or(Error::Invalid("usage: disk SOCKET"))?;
    println!("the bytes add up to {}", write_and_read(Path::new(&socket))?);
    Ok(())
}

/// Writes 128 KiB with calls that wait, and reads them with 32 requests at once.
pub(crate) fn write_and_read(socket: &Path) -> Result<u64, Error> {
    let frontend = Frontend::connect(socket, Options::default())?;
    let mut disk = Blk::open(frontend, &BlkOptions::default())?;
    println!("a disk of {} sectors, serial {:?}", disk.capacity(), disk.serial()?);
    disk.write_at(0, &[7; 32 * 4096])?;
    disk.flush()?;

    // Nothing is copied: the device reads into memory that both processes share.
    let data = disk.frontend().allocate(32 * 4096)?;
    let [queue, ..] = disk.queues() else { return Err(Error::Invalid("no queue")) };
    for number in 0..32 {
        let piece = data.slice(number * 4096, 4096);
        queue.read(number as u64 * 8, piece.as_slice(), number as u64)?;
    }
    queue.finish(Waiting::Interrupt, Duration::from_secs(10))?;
    let mut bytes = vec![0; data.len()];
    data.read_into(0, &mut bytes)?;
    Ok(bytes.into_iter().map(u64::from).sum())
}
