//! The block device: every block of a RAM disk written and read back over several queues, the other requests, and
//! the rate of random reads.

use std::{
    path::Path,
    slice,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use outboard_frontend::{
    Format, Frontend, Options, Waiting, Wishes,
    drivers::{Blk, BlkOptions, BlkQueue},
};
use outboard_guest_memory::Segment;
use outboard_virtio_defs::blk::SECTOR_SIZE;

use super::report::Report;
use crate::{back_end::BackEnd, run::Device};

const QUEUES: u16 = 4;
const DEPTH: usize = 32;
/// A request of the comparison, in bytes.
const PIECE: usize = 64 << 10;
/// A request of the measurement, in bytes.
const BLOCK: usize = 4096;
const SERIAL: &str = "outboard-demo";
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn drive(report: &mut Report, socket: &Path, format: Format, seconds: Duration) -> Result<()> {
    let back_end = BackEnd::spawn(Device::Blk, socket, &["--serial", SERIAL])?;
    let frontend = Frontend::connect(back_end.socket(), Options::default())?;
    let defaults = BlkOptions::default();
    let options = BlkOptions { wishes: Wishes { format, ..defaults.wishes }, queues: QUEUES, ..defaults };
    let mut disk = Blk::open(frontend, &options)?;

    write_and_compare(report, &mut disk)?;
    other_requests(report, &mut disk)?;
    random_reads(report, &mut disk, "read 4 KiB at random, depth 1, interrupts", 1, seconds)?;
    random_reads(report, &mut disk, "read 4 KiB at random, depth 32, interrupts", DEPTH, seconds)?;
    drop(disk);
    back_end.terminate()?;
    report.verified("the back end ends when asked to");
    Ok(())
}

/// What sector `number` is to hold: its number in every eighth byte, mixed.
fn sector(number: u64) -> [u8; SECTOR_SIZE as usize] {
    let mut bytes = [0; SECTOR_SIZE as usize];
    for (word, at) in bytes.chunks_exact_mut(8).zip(0..) {
        let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(at) ^ u64::from(at);
        word.copy_from_slice(&mixed.to_le_bytes());
    }
    bytes
}

/// Writes the whole disk, flushes, and reads all of it back, [`DEPTH`] requests at a time on each queue.
fn write_and_compare(report: &mut Report, disk: &mut Blk) -> Result<()> {
    let pieces = disk.capacity() * SECTOR_SIZE / PIECE as u64;
    let buffers: Vec<Vec<Segment>> = (0..QUEUES)
        .map(|_| (0..DEPTH).map(|_| disk.frontend().allocate(PIECE)).collect::<Result<_, _>>())
        .collect::<Result<_, _>>()?;
    for write in [true, false] {
        let (_, queues) = disk.parts();
        for (queue, (buffers, first)) in queues.iter_mut().zip(buffers.iter().zip(0..)) {
            let mut mine = (first..pieces).step_by(usize::from(QUEUES));
            let mut piece_of = [0; DEPTH];
            let mut slots: Vec<usize> = (0..DEPTH).collect();
            loop {
                while let Some(slot) = slots.pop() {
                    let Some(piece) = mine.next() else { break };
                    let (Some(buffer), Some(place)) = (buffers.get(slot), piece_of.get_mut(slot)) else {
                        break;
                    };
                    *place = piece;
                    fill(buffer, piece, write)?;
                    let (start, data) = (piece * (PIECE as u64 / SECTOR_SIZE), slice::from_ref(buffer));
                    if write {
                        queue.write(start, data, slot as u64)
                    } else {
                        queue.read(start, data, slot as u64)
                    }?;
                }
                queue.publish()?;
                if queue.outstanding() == 0 {
                    break;
                }
                let slot = next(queue)?;
                if !write {
                    let (buffer, piece) =
                        (buffers.get(slot).context("a slot")?, piece_of.get(slot).context("a slot")?);
                    compare(buffer, *piece)?;
                }
                slots.push(slot);
            }
        }
        disk.flush()?;
    }
    for buffer in buffers.into_iter().flatten() {
        disk.frontend().memory().free(buffer);
    }
    let mebibytes = (disk.capacity() * SECTOR_SIZE) >> 20;
    report.verified(format!(
        "{mebibytes} MiB written, flushed and read back: {QUEUES} queues, depth {DEPTH}, every byte compared"
    ));
    Ok(())
}

/// Puts the contents of a piece into a buffer that is to be written; wipes one that is to be read into.
fn fill(buffer: &Segment, piece: u64, write: bool) -> Result<()> {
    if !write {
        buffer.fill(0);
        return Ok(());
    }
    let sectors = PIECE as u64 / SECTOR_SIZE;
    for at in 0..sectors {
        buffer.write_from((at * SECTOR_SIZE) as usize, &sector(piece * sectors + at))?;
    }
    Ok(())
}

fn compare(buffer: &Segment, piece: u64) -> Result<()> {
    let sectors = PIECE as u64 / SECTOR_SIZE;
    for at in 0..sectors {
        let mut found = [0; SECTOR_SIZE as usize];
        buffer.read_into((at * SECTOR_SIZE) as usize, &mut found)?;
        let number = piece * sectors + at;
        ensure!(found == sector(number), "sector {number} is not what was written");
    }
    Ok(())
}

/// Waits for the next completion; its token.
fn next(queue: &mut BlkQueue) -> Result<usize> {
    loop {
        if let Some(completion) = queue.poll()? {
            completion.result.map_err(|failure| anyhow::anyhow!("a request failed: {failure}"))?;
            return Ok(completion.token as usize);
        }
        if !queue.wait(Waiting::Interrupt, PATIENCE)? {
            bail!("a request takes longer than {PATIENCE:?}");
        }
    }
}

fn other_requests(report: &mut Report, disk: &mut Blk) -> Result<()> {
    ensure!(disk.serial()? == SERIAL, "another serial");
    let mut found = [0xff; BLOCK];
    disk.write_zeroes(64, 8, true)?;
    disk.read_at(64, &mut found)?;
    ensure!(found == [0; BLOCK], "write-zeroes left something behind");
    disk.discard(128, 8)?;
    disk.read_at(128, &mut found)?;
    ensure!(found == [0; BLOCK], "a discarded range of memory is not zero");
    disk.read_at(136, &mut found)?;
    for (bytes, number) in found.chunks(SECTOR_SIZE as usize).zip(136..) {
        ensure!(bytes == sector(number), "discard went beyond its range");
    }
    report.verified("serial; write-zeroes and discard read as zeroes, their neighbours as before");
    Ok(())
}

fn random_reads(
    report: &mut Report,
    disk: &mut Blk,
    what: &'static str,
    depth: usize,
    seconds: Duration,
) -> Result<()> {
    let blocks = disk.capacity() * SECTOR_SIZE / BLOCK as u64;
    let buffers: Vec<Segment> =
        (0..depth).map(|_| disk.frontend().allocate(BLOCK)).collect::<Result<_, _>>()?;
    let (_, queues) = disk.parts();
    let queue = queues.first_mut().context("a queue")?;
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut start_read = |queue: &mut BlkQueue, slot: usize| -> Result<()> {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let buffer = slice::from_ref(buffers.get(slot).context("a slot")?);
        Ok(queue.read(random % blocks * (BLOCK as u64 / SECTOR_SIZE), buffer, slot as u64)?)
    };
    for slot in 0..depth {
        start_read(queue, slot)?;
    }
    queue.publish()?;
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < seconds {
        let mut slot = Some(next(queue)?);
        // Everything that is there, before the ring is told of new requests.
        while let Some(free) = slot {
            done += 1;
            start_read(queue, free)?;
            slot = queue.poll()?.map(|completion| completion.token as usize);
        }
        queue.publish()?;
    }
    let elapsed = start.elapsed().as_secs_f64();
    while queue.outstanding() > 0 {
        next(queue)?;
    }
    report.measured(what, done, BLOCK, elapsed);
    for buffer in buffers {
        disk.frontend().memory().free(buffer);
    }
    Ok(())
}
