//! Requests of a hostile guest against the block device: a RAM disk and a file, a RAM disk that erases, and a zoned one,
//! each on both ring formats. Those of a kind must agree on every byte.
//!
//! Input: requests, each two bytes with the numbers of buffers to read and to write, for each buffer a byte with its
//! length (see [`length`]), and then the bytes of the buffers to read.
#![no_main]

use std::cell::RefCell;
use std::os::fd::AsRawFd;

use libfuzzer_sys::fuzz_target;
use outboard_blk::{Blk, BlkHandler, BlkOptions};
use outboard_device::defs::blk::{
    F_FLUSH, F_ZONED, S_OK, S_UNSUPP, S_ZONE_ACTIVE_RESOURCE, T_SECURE_ERASE, T_ZONE_RESET_ALL,
};
use outboard_device::testing::{Bench, Format, Setup};
use outboard_device::{Device, Features, Group};

/// Size of the disks, in bytes.
const SIZE: usize = 64 << 10;
/// The most requests of one input.
const MOST: usize = 16;
/// The header of a write to the whole disk.
const WRITE_AT_0: [u8; 16] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Size of a zone, in bytes.
const ZONE: u64 = 8 << 10;

type Disk = (Blk, Bench<BlkHandler>);

/// Disks that answer alike.
struct Alike {
    disks: Vec<Disk>,
    /// They erase, or there is nothing of the kind on any of them.
    erase: bool,
    zoned: bool,
}

fn disk(options: &BlkOptions, format: Format) -> Disk {
    let mut device = Blk::open(options).expect("the disk opens");
    let handler = device.handler(Group(0), Features(F_FLUSH | F_ZONED)).expect("the disk has a handler");
    (device, Bench::with(handler, &Setup { indirect: true, ..Setup::new(format) }))
}

fn both(disk: impl Fn(Format) -> Disk) -> Vec<Disk> {
    [Format::Split, Format::Packed].into_iter().map(disk).collect()
}

fn kinds() -> Vec<Alike> {
    let plain = both(ram).into_iter().chain(both(file)).collect();
    vec![
        Alike { disks: plain, erase: false, zoned: false },
        Alike { disks: both(ram), erase: true, zoned: false },
        Alike { disks: both(zoned), erase: true, zoned: true },
    ]
}

/// Eight zones, one of them conventional, and limits that are soon reached.
fn zoned(format: Format) -> Disk {
    let options = BlkOptions {
        ram: Some(SIZE as u64),
        zoned: Some(ZONE),
        zone_capacity: Some(ZONE - 1024),
        zone_conventional: 1,
        zone_max_open: 2,
        zone_max_active: 3,
        ..BlkOptions::default()
    };
    disk(&options, format)
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
fn send(bench: &mut Bench<BlkHandler>, readable: &[&[u8]], writable: &[usize], most: u8) -> (Vec<u8>, u32) {
    let (outputs, len) = bench.request(readable, writable);
    let outputs = outputs.concat();
    assert!(len as usize <= outputs.len());
    match outputs.last() {
        Some(&status) => assert!(status <= most && len >= 1),
        None => assert_eq!(len, 0),
    }
    (outputs, len)
}

/// What an earlier input left must not show.
fn begin(alike: &mut Alike) {
    let text: Vec<u8> = (0..SIZE).map(|at| (at / 512 + at % 255) as u8).collect();
    let text = if alike.zoned { &text[..ZONE as usize] } else { &text };
    for (_, bench) in &mut alike.disks {
        assert_eq!(send(bench, &[&WRITE_AT_0, text], &[1], S_OK).0, [S_OK]);
        if alike.zoned {
            let mut reset = [0; 16];
            reset[..4].copy_from_slice(&T_ZONE_RESET_ALL.to_le_bytes());
            assert_eq!(send(bench, &[&reset], &[1], S_OK).0, [S_OK]);
        }
    }
}

fn run(mut data: &[u8], alike: &mut Alike) {
    begin(alike);
    let most = if alike.zoned { S_ZONE_ACTIVE_RESOURCE } else { S_UNSUPP };
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
        if !alike.erase && readable.concat().starts_with(&T_SECURE_ERASE.to_le_bytes()) {
            continue;
        }
        let mut answers = alike.disks.iter_mut().map(|(_, bench)| send(bench, &readable, &writable, most));
        let first = answers.next();
        answers.for_each(|answer| assert!(Some(&answer) == first.as_ref(), "the hosts differ"));
    }
}

thread_local! {
    static KINDS: RefCell<Vec<Alike>> = RefCell::new(kinds());
}

fuzz_target!(|data: &[u8]| KINDS.with_borrow_mut(|kinds| kinds.iter_mut().for_each(|alike| run(data, alike))));
