//! Shows the zones of a disk, and tries it out. What was on the disk is lost by that. Try it:
//! `vhost-user-blk --socket-path /tmp/disk.sock --ram 64M --zoned 1M &
//! cargo run -p outboard-frontend --example zones /tmp/disk.sock exercise`
#![allow(clippy::print_stdout, reason = "what it shows")]

use std::{path::Path, slice, time::Duration};

use outboard_frontend::drivers::{Blk, BlkOptions, Failure, RangeCommand, ZoneCommand};
use outboard_frontend::{Error, Frontend, Options, Waiting};
use outboard_virtio_defs::blk::{
    F_SECURE_ERASE, F_ZONED, SECTOR_SIZE, ZS_CLOSED, ZS_EMPTY, ZS_EOPEN, ZS_FULL, ZS_IOPEN, ZT_SWR,
    ZoneDescriptor,
};

/// How long the disk may take for anything.
const PATIENCE: Duration = Duration::from_secs(10);
const USAGE: Error = Error::Invalid("usage: zones SOCKET [exercise | erase | pages]");

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args_os().skip(1);
    let socket = arguments.next().ok_or(USAGE)?;
    let frontend = Frontend::connect(Path::new(&socket), Options::default())?;
    let mut disk = Blk::open(frontend, &BlkOptions::default())?;
    match arguments.next().as_ref().and_then(|word| word.to_str()) {
        None => show(&mut disk),
        Some("exercise") => exercise(&mut disk),
        Some("erase") => erase(&mut disk),
        Some("pages") => pages(&mut disk),
        Some(_) => Err(USAGE),
    }
}

fn show(disk: &mut Blk) -> Result<(), Error> {
    let mut sector = 0;
    while sector < disk.capacity() {
        let zones = disk.zones(sector, 64)?;
        for zone in &zones {
            let ZoneDescriptor { start, capacity, write_pointer, kind, state, .. } = *zone;
            println!(
                "zone at {start}: type {kind}, state {state}, {write_pointer} next, capacity {capacity}"
            );
        }
        let last = zones.last().ok_or(Error::Invalid("no zones in the report"))?;
        sector = last.start.get() + u64::from(disk.config().zoned.zone_sectors.get());
    }
    Ok(())
}

/// What must be so.
fn check(well: bool, what: &'static str) -> Result<(), Error> {
    if well { Ok(()) } else { Err(Error::Invalid(what)) }
}

/// Goes through the life of a zone, and looks at it after each step.
fn exercise(disk: &mut Blk) -> Result<(), Error> {
    check(disk.has(F_ZONED), "the disk has no zones")?;
    disk.reset_all_zones()?;
    let zones = disk.zones(0, 64)?;
    let zone = zones.iter().find(|zone| zone.kind == ZT_SWR).ok_or(Error::Invalid("no zone in sequence"))?;
    let start = zone.start.get();
    let expect = |disk: &mut Blk, state: u8, written: u64| {
        let zones = disk.zones(start + 1, 1)?;
        let zone = zones.first().ok_or(Error::Invalid("no zone in the report"))?;
        let pointer = state == ZS_FULL || zone.write_pointer.get() == start + written;
        check(zone.state == state && pointer, "a zone's state or write pointer is another one")
    };
    expect(disk, ZS_EMPTY, 0)?;
    check(disk.zone_append(start, &[1; 4096])? == start, "the first append is not at the start")?;
    check(disk.zone_append(start, &[2; 8192])? == start + 8, "the second append does not follow")?;
    expect(disk, ZS_IOPEN, 24)?;
    let misplaced = disk.write_at(start, &[9; 4096]);
    check(
        matches!(misplaced, Err(Error::Device(Failure::ZoneUnaligned))),
        "a write out of place is not refused",
    )?;
    disk.write_at(start + 24, &[3; 4096])?;
    expect(disk, ZS_IOPEN, 32)?;
    let mut data = [0; 20480];
    disk.read_at(start, &mut data)?;
    let (front, rest) = data.split_at(4096);
    let (middle, rest) = rest.split_at(8192);
    let (last, behind) = rest.split_at(4096);
    let all = |part: &[u8], value: u8| part.iter().all(|&byte| byte == value);
    check(all(front, 1) && all(middle, 2) && all(last, 3), "what was written is not read")?;
    // A pattern of the device's own (VIRTIO 1.3, 5.2.6.2): ours zeroes, Linux' null_blk has 0xff.
    let pattern = behind.first().copied().unwrap_or(0);
    check(all(behind, pattern) && ![1, 2, 3].contains(&pattern), "there is data behind the write pointer")?;
    disk.zone(ZoneCommand::Close, start)?;
    expect(disk, ZS_CLOSED, 32)?;
    disk.zone(ZoneCommand::Open, start)?;
    expect(disk, ZS_EOPEN, 32)?;
    disk.flush()?;
    disk.zone(ZoneCommand::Finish, start)?;
    expect(disk, ZS_FULL, 0)?;
    let full = disk.zone_append(start, &[4; 4096]);
    check(matches!(full, Err(Error::Device(Failure::ZoneInvalid))), "a full zone takes an append")?;
    disk.zone(ZoneCommand::Reset, start)?;
    expect(disk, ZS_EMPTY, 0)?;
    disk.read_at(start, &mut data)?;
    check(all(&data, pattern), "an emptied zone still has its data")?;
    println!("the zone at {start} does all that zones do");
    Ok(())
}

/// Erases part of what it has written, and looks at all of it.
fn erase(disk: &mut Blk) -> Result<(), Error> {
    check(disk.has(F_SECURE_ERASE), "the disk does not erase")?;
    let piece = u64::from(disk.config().secure_erase_sector_alignment.get()).max(8);
    let bytes = usize::try_from(piece * SECTOR_SIZE).map_err(|_| USAGE)?;
    let mut data = vec![0x5a; 4 * bytes];
    disk.write_at(0, &data)?;
    disk.flush()?;
    let count = u32::try_from(piece).map_err(|_| USAGE)?;
    disk.ranges(RangeCommand::SecureErase, &[(piece, count), (3 * piece, count)])?;
    disk.read_at(0, &mut data)?;
    for (number, part) in data.chunks(bytes).enumerate() {
        let expected = if number % 2 == 0 { 0x5a } else { 0 };
        check(part.iter().all(|&byte| byte == expected), "what is erased is not what was to be")?;
    }
    println!("{} bytes are erased, their neighbours are not", 2 * bytes);
    Ok(())
}

/// Writes and reads whole pages of memory, 32 at once, in 20 rounds of which each has other data: what goes past the
/// host's page cache.
fn pages(disk: &mut Blk) -> Result<(), Error> {
    let memory = disk.frontend().memory().allocate(32 * 4096, 4096)?;
    let pages: Option<Vec<_>> = (0..32).map(|nth| memory.slice(nth * 4096, 4096)).collect();
    let pages = pages.ok_or(Error::Invalid("pages beyond their memory"))?;
    let [queue, ..] = disk.queues() else { return Err(Error::Invalid("no queue")) };
    for round in 0..20_u8 {
        for (page, value) in pages.iter().zip(round..) {
            page.fill(value);
        }
        for (page, nth) in pages.iter().zip(0..) {
            queue.write(nth * 8, slice::from_ref(page), nth)?;
        }
        queue.finish(Waiting::Interrupt, PATIENCE)?;
        memory.fill(0xff);
        for (page, nth) in pages.iter().zip(0..) {
            queue.read(nth * 8, slice::from_ref(page), nth)?;
        }
        queue.finish(Waiting::Interrupt, PATIENCE)?;
        for (page, value) in pages.iter().zip(round..) {
            let mut data = [0; 4096];
            page.read_into(0, &mut data)?;
            check(data == [value; 4096], "what was written is not read")?;
        }
    }
    println!("640 pages are what they were written as");
    Ok(())
}
