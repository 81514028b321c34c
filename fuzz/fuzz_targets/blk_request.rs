//! Requests of a hostile guest against the block device: a RAM disk and a file, on both ring formats, that must agree
//! on every byte.
//!
//! Input: requests, each two bytes with the numbers of buffers to read and to write, for each buffer a byte with its
//! length (see [`length`]), and then the bytes of the buffers to read.
#![no_main]

use std::cell::RefCell;
use std::os::fd::AsRawFd;

use libfuzzer_sys::fuzz_target;
use outboard_blk::{Blk, BlkHandler, BlkOptions};
use outboard_device::defs::blk::{F_FLUSH, S_OK, S_UNSUPP};
use outboard_device::testing::{Bench, Format, Setup};
use outboard_device::{Device, Features, Group};

/// Size of the disks, in bytes.
const SIZE: usize = 64 << 10;
/// The most requests of one input.
const MOST: usize = 16;
/// The header of a write to the whole disk.
const WRITE_AT_0: [u8; 16] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

type Disk = (Blk, Bench<BlkHandler>);

fn disk(options: &BlkOptions, format: Format) -> Disk {
    let mut device = Blk::open(options).expect("the disk opens");
    let handler = device.handler(Group(0), Features(F_FLUSH)).expect("the disk has a handler");
    (device, Bench::with(handler, &Setup { indirect: true, ..Setup::new(format) }))
}

/// Every kind of host with every format of ring, each disk its own.
fn disks() -> Vec<Disk> {
    [Format::Split, Format::Packed].into_iter().flat_map(|format| [ram(format), file(format)]).collect()
}

fn ram(format: Format) -> Disk {
    disk(&BlkOptions { ram: Some(SIZE as u64), ..BlkOptions::default() }, format)
}

fn file(format: Format) -> Disk {
    let file = outboard_guest_memory::memfd("disk", SIZE as u64).expect("a file in memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    disk(&BlkOptions { blk_file: Some(path.into()), ..BlkOptions::default() }, format)
}

/// Mostly what requests are made of, and everything near it.
fn length(code: u8) -> usize {
    let around = [0, 1, 16, 20, 512, 1024, 4096, 8192];
    (around[usize::from(code >> 5)] + usize::from(code & 0x1f)).saturating_sub(usize::from(code & 0x10) << 1)
}

fn take<'a>(data: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = data.split_at(len.min(data.len()));
    *data = rest;
    taken
}

/// Sends a request, and checks what holds for every answer.
fn send(bench: &mut Bench<BlkHandler>, readable: &[&[u8]], writable: &[usize]) -> (Vec<u8>, u32) {
    let (outputs, len) = bench.request(readable, writable);
    let outputs = outputs.concat();
    assert!(len as usize <= outputs.len());
    match outputs.last() {
        Some(&status) => assert!(status <= S_UNSUPP && len >= 1),
        None => assert_eq!(len, 0),
    }
    (outputs, len)
}

fn run(mut data: &[u8], disks: &mut [Disk]) {
    // What an earlier input left must not show.
    let text: Vec<u8> = (0..SIZE).map(|at| (at / 512 + at % 255) as u8).collect();
    for (_, bench) in disks.iter_mut() {
        assert_eq!(send(bench, &[&WRITE_AT_0, &text], &[1]).0, [S_OK]);
    }
    for _ in 0..MOST {
        let &[inputs, outputs, ref rest @ ..] = data else { break };
        data = rest;
        let lengths: Vec<usize> =
            take(&mut data, usize::from(inputs % 5)).iter().map(|&code| length(code)).collect();
        let writable: Vec<usize> =
            take(&mut data, usize::from(outputs % 5)).iter().map(|&code| length(code)).collect();
        let readable: Vec<&[u8]> = lengths.into_iter().map(|len| take(&mut data, len)).collect();
        if readable.is_empty() && writable.is_empty() {
            continue;
        }
        let mut answers = disks.iter_mut().map(|(_, bench)| send(bench, &readable, &writable));
        let first = answers.next();
        answers.for_each(|answer| assert!(Some(&answer) == first.as_ref(), "the hosts differ"));
    }
}

thread_local! {
    static DISKS: RefCell<Vec<Disk>> = RefCell::new(disks());
}

fuzz_target!(|data: &[u8]| DISKS.with_borrow_mut(|disks| run(data, disks)));
