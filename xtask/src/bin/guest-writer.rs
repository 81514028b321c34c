//! Runs inside a test guest: writes blocks to a disk with O_DIRECT from several
//! threads, reads them back, and compares every byte, until it is told to stop.
//!
//! With the arguments `copy`, a device, a file, and three numbers of sectors (where in the file, where on the device, how
//! many), it writes a part of the file to the device with O_DIRECT, in order, and that is all.
//!
//! Else the arguments are: the device, the number of threads, the number of blocks. Every
//! thread owns a stretch of the disk and knows each of its blocks' generation,
//! so that a write that was lost, done twice after a newer one, or torn shows as
//! a wrong block. It prints `OUTBOARD-PROGRESS operations` of its slowest thread
//! (one whose request is lost never goes on), and at the end (a line `stop` on
//! standard input) looks at the whole disk and prints `OUTBOARD-VALUE digest hex`. Exit status 0 says that every byte was right.
//! Needs the standard library only: it is built by the compiler alone.

// A program for a terminal: printing is its interface.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

#[path = "../digest.rs"]
mod digest;
use digest::{BLOCK, Digest, mix};

/// Linux's O_DIRECT on x86.
const O_DIRECT: i32 = 0o40000;

/// Bytes in a sector.
const SECTOR: u64 = 512;

/// The largest request of a copy, in bytes.
const COPY: usize = 8192;

/// The largest request, in blocks.
const MOST: usize = 32;

static STOP: AtomicBool = AtomicBool::new(false);

/// Each thread's operations so far; those of no thread stay at the most.
static OPERATIONS: [AtomicU64; 16] = [const { AtomicU64::new(u64::MAX) }; 16];

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("copy") {
        return match copy() {
            Ok(()) => ExitCode::SUCCESS,
            Err(reason) => {
                eprintln!("{reason}");
                ExitCode::FAILURE
            }
        };
    }
    match run() {
        Ok(digest) => {
            println!("OUTBOARD-VALUE digest {digest:016x}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("OUTBOARD-VALUE writer-error {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u64, String> {
    let mut arguments = std::env::args().skip(1);
    let device = arguments.next().ok_or("no device given")?;
    let mut number =
        || arguments.next().and_then(|text| text.parse::<u64>().ok()).filter(|&number| number > 0);
    let (threads, blocks) = number().zip(number()).ok_or("no numbers of threads and blocks given")?;
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_DIRECT)
        .open(&device)
        .map_err(|error| format!("opening {device}: {error}"))?;

    let counts = usize::try_from(threads)
        .ok()
        .and_then(|threads| OPERATIONS.get(..threads))
        .ok_or("too many threads")?;
    for count in counts {
        count.store(0, Ordering::Relaxed);
    }
    std::thread::spawn(stop_on_request);
    std::thread::spawn(tell_progress);
    let each = blocks / threads;
    let generations = std::thread::scope(|scope| {
        let disk = &disk;
        let workers: Vec<_> = (0..)
            .zip(counts)
            .map(|(number, count)| scope.spawn(move || work(disk, number * each, each, count)))
            .collect();
        let mut generations = Vec::new();
        for worker in workers {
            let stretch = worker.join().map_err(|_| "a thread panicked".to_owned())?;
            if stretch.is_err() {
                STOP.store(true, Ordering::Relaxed);
            }
            generations.push(stretch);
        }
        generations.into_iter().collect::<Result<Vec<_>, String>>()
    })?;
    look_at_everything(&disk, &generations.concat())
}

/// Copies sectors of a file to a device.
fn copy() -> Result<(), String> {
    let mut arguments = std::env::args().skip(2);
    let (device, file) = arguments.next().zip(arguments.next()).ok_or("no device and file given")?;
    let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok()).ok_or("no number given");
    let (skip, seek, count) = (number()?, number()?, number()?);
    let file = File::open(&file).map_err(|error| format!("opening {file}: {error}"))?;
    let disk = OpenOptions::new()
        .write(true)
        .custom_flags(O_DIRECT)
        .open(&device)
        .map_err(|error| format!("opening {device}: {error}"))?;
    let mut memory = vec![0; COPY + BLOCK];
    let mut done = 0;
    while done < count {
        let len = usize::try_from((count - done) * SECTOR).unwrap_or(COPY).min(COPY);
        let buffer = aligned(&mut memory, COPY / BLOCK)?.get_mut(..len).ok_or("no room")?;
        file.read_exact_at(buffer, (skip + done) * SECTOR).map_err(|error| format!("reading: {error}"))?;
        let at = (seek + done) * SECTOR;
        disk.write_all_at(buffer, at).map_err(|error| format!("writing at {at}: {error}"))?;
        done += len as u64 / SECTOR;
    }
    Ok(())
}

/// Writes and verifies one stretch until told to stop; its blocks' generations.
fn work(disk: &File, first: u64, blocks: u64, count_done: &AtomicU64) -> Result<Vec<u32>, String> {
    let mut generations = vec![0_u32; usize::try_from(blocks).unwrap_or(0)];
    let mut memory = vec![0; (MOST + 1) * BLOCK];
    let mut expected = vec![0; BLOCK];
    let mut random = mix(first + 1);
    let mut operations = 0_u64;
    while !STOP.load(Ordering::Relaxed) {
        random = mix(random.wrapping_add(1));
        let start = usize::try_from(random % blocks).unwrap_or(0);
        let count = (1 + usize::try_from(random >> 40).unwrap_or(0) % MOST).min(generations.len() - start);
        let buffer = aligned(&mut memory, count)?;
        let offset = (first + start as u64) * BLOCK as u64;
        let touched = generations.get_mut(start..start + count).ok_or("outside the stretch")?;

        for (number, (block, generation)) in
            buffer.chunks_exact_mut(BLOCK).zip(touched.iter_mut()).enumerate()
        {
            *generation += 1;
            fill(block, first + (start + number) as u64, *generation);
        }
        disk.write_all_at(buffer, offset).map_err(|error| format!("writing at {offset}: {error}"))?;
        if operations % 16 == 15 {
            disk.sync_data().map_err(|error| format!("flushing: {error}"))?;
        }
        if operations % 3 == 2 {
            // Somewhere else than what was just written, too.
            let start = usize::try_from((random >> 20) % blocks).unwrap_or(0);
            let count = count.min(generations.len() - start);
            verify(disk, first, start, &generations, aligned(&mut memory, count)?, &mut expected)?;
        }
        let buffer = aligned(&mut memory, count)?;
        verify(disk, first, start, &generations, buffer, &mut expected)?;
        operations += 1;
        count_done.store(operations, Ordering::Relaxed);
    }
    Ok(generations)
}

/// Fills a block with the content that block `index` has in `generation`.
/// Generation 0 is the untouched disk: zeroes.
fn fill(block: &mut [u8], index: u64, generation: u32) {
    if generation == 0 {
        block.fill(0);
        return;
    }
    let mut state = mix(index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(generation));
    for word in block.chunks_exact_mut(8) {
        word.copy_from_slice(&state.to_le_bytes());
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(index | 1);
    }
}

/// Reads as many blocks as the buffer holds and compares them.
fn verify(
    disk: &File,
    first: u64,
    start: usize,
    generations: &[u32],
    buffer: &mut [u8],
    expected: &mut [u8],
) -> Result<(), String> {
    let offset = (first + start as u64) * BLOCK as u64;
    disk.read_exact_at(buffer, offset).map_err(|error| format!("reading at {offset}: {error}"))?;
    for (number, block) in buffer.chunks_exact(BLOCK).enumerate() {
        let generation = *generations.get(start + number).ok_or("outside the stretch")?;
        let index = first + (start + number) as u64;
        fill(expected, index, generation);
        if block != expected {
            return Err(format!("block {index} does not hold generation {generation}"));
        }
    }
    Ok(())
}

/// Reads the whole disk, compares it, and gives its digest.
fn look_at_everything(disk: &File, generations: &[u32]) -> Result<u64, String> {
    disk.sync_all().map_err(|error| format!("flushing at the end: {error}"))?;
    let mut memory = vec![0; (MOST + 1) * BLOCK];
    let mut expected = vec![0; BLOCK];
    let mut digest = Digest::new();
    for start in (0..generations.len()).step_by(MOST) {
        let buffer = aligned(&mut memory, MOST.min(generations.len() - start))?;
        verify(disk, 0, start, generations, buffer, &mut expected)?;
        digest.update(buffer);
    }
    Ok(digest.value())
}

/// The part of `memory` that is aligned to a block and `count` blocks long.
fn aligned(memory: &mut [u8], count: usize) -> Result<&mut [u8], String> {
    let start = memory.as_ptr().align_offset(BLOCK);
    memory.get_mut(start..start + count * BLOCK).ok_or_else(|| "no aligned memory".to_owned())
}

fn stop_on_request() {
    for line in std::io::stdin().lines() {
        if !line.is_ok_and(|line| line.trim() != "stop") {
            break;
        }
    }
    STOP.store(true, Ordering::Relaxed);
}

fn tell_progress() {
    let mut told = 0;
    loop {
        let now = OPERATIONS.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap_or(0);
        if now != told {
            println!("OUTBOARD-PROGRESS {now}");
            told = now;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
