//! Discards and write-zeroes. What may change the disk is done only where the back end is ours.

use outboard_virtio_defs::blk::{
    F_DISCARD, F_SECURE_ERASE, F_WRITE_ZEROES, RANGE_UNMAP, RangeSegment, S_IOERR, S_OK, S_UNSUPP, T_DISCARD,
    T_SECURE_ERASE, T_WRITE_ZEROES,
};
use zerocopy::IntoBytes;

use super::{Disk, cut, each, header, is_blk, pattern};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.discard",
        title: "a discard succeeds, and touches no neighbours",
        spec: "VIRTIO 1.3, 5.2.6",
        run: discard,
    },
    Check {
        id: "blk.write-zeroes",
        title: "after write-zeroes, with unmap or without, the range reads as zeroes, its neighbours as before",
        spec: "VIRTIO 1.3, 5.2.6.2",
        run: write_zeroes,
    },
    Check {
        id: "blk.range-flags",
        title: "flags that do not exist, and unmap with a discard, have status UNSUPP",
        spec: "VIRTIO 1.3, 5.2.6.2",
        run: range_flags,
    },
    Check {
        id: "blk.range-beyond-capacity",
        title: "a range beyond the end, or across it, fails as an I/O error",
        spec: "VIRTIO 1.3, 5.2.6.1",
        run: beyond_capacity,
    },
    Check {
        id: "blk.range-length",
        title: "a list of ranges of a length that cannot be is answered, and not with success",
        spec: "VIRTIO 1.3, 5.2.6.1 (a driver must not; a guest can)",
        run: range_length,
    },
    Check {
        id: "blk.range-count",
        title: "more ranges than the device takes are answered",
        spec: "VIRTIO 1.3, 5.2.6.1 (a driver must not; a guest can)",
        run: range_count,
    },
    Check {
        id: "blk.range-buffers",
        title: "ranges may come in buffers of any length, and share one with the header",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: range_buffers,
    },
    Check {
        id: "blk.range-several",
        title: "a request of several ranges does them all, and touches nothing between them",
        spec: "VIRTIO 1.3, 5.2.6",
        run: range_several,
    },
    Check {
        id: "blk.range-flags-later",
        title: "a flag that does not exist in a later range has status UNSUPP, too",
        spec: "VIRTIO 1.3, 5.2.6.2 (if any unknown flag is set)",
        run: range_flags_later,
    },
    Check {
        id: "blk.range-empty",
        title: "a range of no sector is answered, and changes nothing",
        spec: "VIRTIO 1.3, 5.2.6",
        run: range_empty,
    },
    Check {
        id: "blk.range-longest",
        title: "write-zeroes does a range that is as long as the device takes, or of 2 MiB, to its end",
        spec: "VIRTIO 1.3, 5.2.4 and 5.2.6.2",
        run: range_longest,
    },
    Check {
        id: "blk.secure-erase",
        title: "a secure erase succeeds, leaves nothing of what was there, and touches no neighbours",
        spec: "VIRTIO 1.3, 5.2.6",
        run: secure_erase,
    },
];

/// The longest range that is tried, in sectors.
const LONGEST: u32 = 4096;
/// What on_middle writes.
const SEED: u64 = 99;

fn segment(sector: u64, sectors: u64, flags: u32) -> Vec<u8> {
    let num_sectors = u32::try_from(sectors).unwrap_or(u32::MAX);
    let segment =
        RangeSegment { sector: sector.into(), num_sectors: num_sectors.into(), flags: flags.into() };
    segment.as_bytes().to_vec()
}

/// The kinds of requests with ranges that are on offer.
fn kinds(cx: &Cx) -> Checked<Vec<u32>> {
    is_blk(cx)?;
    let offered = |feature| cx.offer.features & feature != 0;
    let all = [(T_DISCARD, F_DISCARD), (T_WRITE_ZEROES, F_WRITE_ZEROES), (T_SECURE_ERASE, F_SECURE_ERASE)];
    let kinds: Vec<u32> =
        all.iter().filter(|(_, feature)| offered(*feature)).map(|(kind, _)| *kind).collect();
    if kinds.is_empty() { Err(Stop::lacks("DISCARD, WRITE_ZEROES or SECURE_ERASE")) } else { Ok(kinds) }
}

/// The most ranges that such a request may have.
fn most(disk: &Disk, kind: u32) -> u32 {
    match kind {
        T_DISCARD => disk.config.max_discard_seg.get(),
        T_WRITE_ZEROES => disk.config.max_write_zeroes_seg.get(),
        _ => disk.config.max_secure_erase_seg.get(),
    }
}

/// What the range reads as after such a request, where that is certain.
fn fill(kind: u32) -> Option<u8> {
    (kind == T_WRITE_ZEROES).then_some(0)
}

/// Blocks to work on: eight from the sixteenth on, written with a pattern, of which the middle four are the range.
/// The old contents come back.
fn on_middle(disk: &mut Disk, body: impl FnOnce(&mut Disk, u64, u64) -> Checked<Option<u8>>) -> Checked {
    let (block, sectors) = (disk.block(), disk.block_sectors());
    let at = 16 * sectors;
    let before = disk.read(at, 8 * block)?;
    let work = || {
        let written = pattern(SEED, 8 * block);
        disk.write(at, &written)?;
        let filled = body(disk, at + 2 * sectors, 4 * sectors)?;
        let now = disk.read(at, 8 * block)?;
        for (nth, (is, was)) in now.chunks(block).zip(written.chunks(block)).enumerate() {
            match (filled, (2..6).contains(&nth)) {
                (None, true) => {}
                (Some(fill), true) => {
                    ensure!(
                        is.iter().all(|&byte| byte == fill),
                        "block {nth} of the range does not read as {fill}"
                    );
                }
                (_, false) => ensure!(is == was, "block {nth}, which is not of the range, has changed"),
            }
        }
        Ok(())
    };
    let came = work();
    let back = disk.write(at, &before);
    came.and(back)
}

fn discard(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_DISCARD, "DISCARD")?;
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        on_middle(disk, |disk, sector, sectors| {
            let came = disk.ask(T_DISCARD, 0, &segment(sector, sectors, 0), &[])?;
            ensure!(came.status == S_OK, "status {}", came.status);
            // What a discarded sector reads as is nobody's concern.
            Ok(None)
        })
    })
}

fn write_zeroes(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_WRITE_ZEROES, "WRITE_ZEROES")?;
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        for flags in [0, RANGE_UNMAP] {
            on_middle(disk, |disk, sector, sectors| {
                let came = disk.ask(T_WRITE_ZEROES, 0, &segment(sector, sectors, flags), &[])?;
                ensure!(came.status == S_OK, "flags {flags:#x}: status {}", came.status);
                Ok(Some(0))
            })?;
        }
        Ok(())
    })
}

/// Makes requests that must not succeed, on a disk of ours: were they carried out, something would be lost.
fn refused(cx: &mut Cx, body: impl Fn(&mut Cx, &mut Disk, u32) -> Checked) -> Checked {
    let kinds = kinds(cx)?;
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        for &kind in &kinds {
            body(cx, disk, kind).map_err(|stop| stop.when(format_args!("request {kind}")))?;
        }
        disk.session.request().map(drop)
    })
}

fn range_flags(cx: &mut Cx) -> Checked {
    refused(cx, |_, disk, kind| {
        let wrong: &[u32] = match kind {
            T_DISCARD => &[RANGE_UNMAP, 2, 1 << 31],
            T_WRITE_ZEROES => &[2, 3, 1 << 31],
            // That unmap is unknown there is not said.
            _ => &[2, 1 << 31],
        };
        for &flags in wrong {
            let came = disk.ask(kind, 0, &segment(0, disk.block_sectors(), flags), &[])?;
            ensure!(came.status == S_UNSUPP, "flags {flags:#x} have status {}, not {S_UNSUPP}", came.status);
        }
        Ok(())
    })
}

fn beyond_capacity(cx: &mut Cx) -> Checked {
    refused(cx, |_, disk, kind| {
        let (capacity, sectors) = (disk.capacity(), disk.block_sectors());
        let ranges =
            [(capacity, sectors), (capacity - sectors, 2 * sectors), (u64::MAX, 1), (1 << 55, sectors)];
        for (sector, count) in ranges {
            let came = disk.ask(kind, 0, &segment(sector, count, 0), &[])?;
            ensure!(
                came.status == S_IOERR,
                "{count} sectors from {sector} of {capacity} have status {}",
                came.status
            );
        }
        Ok(())
    })
}

fn range_length(cx: &mut Cx) -> Checked {
    refused(cx, |cx, disk, kind| {
        let good = segment(0, disk.block_sectors(), 0);
        for len in [1, 8, 15] {
            let data = good.get(..len).unwrap_or_default();
            let came = disk.ask(kind, 0, data, &[])?;
            ensure!(came.status != S_OK, "{len} bytes of ranges succeed");
        }
        let came = disk.ask(kind, 0, &[], &[])?;
        if came.status == S_OK {
            cx.note(format!("request {kind} of no range succeeds"));
        }
        Ok(())
    })
}

fn range_count(cx: &mut Cx) -> Checked {
    refused(cx, |cx, disk, kind| {
        let most = most(disk, kind);
        // Of nothing at all: whether it is carried out changes nothing.
        let count = usize::try_from(most.min(4096))? + 1;
        let came = disk.ask(kind, 0, &segment(0, 0, 0).repeat(count), &[])?;
        if came.status == S_OK {
            cx.note(format!("request {kind} of {count} ranges succeeds, of {most} at most"));
        }
        Ok(())
    })
}

/// Makes requests on a disk of ours, for each kind that takes at least so many ranges.
fn done(cx: &mut Cx, at_least: u32, body: impl Fn(&mut Disk, u32) -> Checked) -> Checked {
    let kinds = kinds(cx)?;
    let mut tried = false;
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        for &kind in &kinds {
            if most(disk, kind) >= at_least {
                tried = true;
                body(disk, kind).map_err(|stop| stop.when(format_args!("request {kind}")))?;
            }
        }
        Ok(())
    })?;
    if tried { Ok(()) } else { Err(Stop::NotApplicable(format!("no request takes {at_least} ranges"))) }
}

fn range_buffers(cx: &mut Cx) -> Checked {
    done(cx, 1, |disk, kind| {
        for cuts in [&[][..], &[5], &[16, 17], &[9, 24], &[16, 24, 28], &[15, 31]] {
            on_middle(disk, |disk, sector, sectors| {
                let request = [header(kind, 0), segment(sector, sectors, 0)].concat();
                let came = disk.ask_in(cut(request, cuts), vec![1])?;
                ensure!(came.status == S_OK, "cut at {cuts:?}: status {}", came.status);
                Ok(fill(kind))
            })?;
        }
        Ok(())
    })
}

fn range_several(cx: &mut Cx) -> Checked {
    done(cx, 2, |disk, kind| {
        let count = u64::from(most(disk, kind).min(8));
        let (block, sectors) = (disk.block(), disk.block_sectors());
        let blocks = 2 * usize::try_from(count)? + 1;
        disk.with_blocks(16 * sectors, blocks, |disk| {
            let written = pattern(SEED, blocks * block);
            disk.write(16 * sectors, &written)?;
            let nth = |nth: u64| segment((17 + 2 * nth) * sectors, sectors, 0);
            let ranges: Vec<u8> = (0..count).flat_map(nth).collect();
            let came = disk.ask(kind, 0, &ranges, &[])?;
            ensure!(came.status == S_OK, "{count} ranges: status {}", came.status);
            let now = disk.read(16 * sectors, blocks * block)?;
            for (at, (is, was)) in now.chunks(block).zip(written.chunks(block)).enumerate() {
                match fill(kind).filter(|_| at % 2 == 1) {
                    Some(fill) => ensure!(
                        is.iter().all(|&byte| byte == fill),
                        "range {} of {count} does not read as {fill}",
                        at / 2 + 1
                    ),
                    None => ensure!(at % 2 == 1 || is == was, "a block between the ranges has changed"),
                }
            }
            Ok(())
        })
    })
}

fn range_flags_later(cx: &mut Cx) -> Checked {
    done(cx, 2, |disk, kind| {
        on_middle(disk, |disk, sector, sectors| {
            let ranges = [segment(sector, sectors, 0), segment(sector, sectors, 1 << 31)].concat();
            let came = disk.ask(kind, 0, &ranges, &[])?;
            ensure!(came.status == S_UNSUPP, "status {}, not {S_UNSUPP}", came.status);
            Ok(None)
        })
    })
}

fn range_empty(cx: &mut Cx) -> Checked {
    done(cx, 1, |disk, kind| {
        on_middle(disk, |disk, sector, sectors| {
            disk.ask(kind, 0, &segment(sector, 0, 0), &[])?;
            let bytes = usize::try_from(sectors)? * super::SECTOR;
            let (block, now) = (disk.block(), disk.read(sector, bytes)?);
            let same = pattern(SEED, 8 * block).get(2 * block..2 * block + bytes) == Some(&now);
            ensure!(same, "what is at its place has changed");
            Ok(None)
        })
    })
}

fn range_longest(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_WRITE_ZEROES, "WRITE_ZEROES")?;
    cx.each_format(|cx, format| {
        let mut disk = Disk::open(cx, format)?;
        disk.may_write(cx)?;
        let (block, sectors) = (disk.block(), disk.block_sectors());
        let most = u64::from(disk.config.max_write_zeroes_sectors.get().min(LONGEST));
        let blocks = usize::try_from(most.min(disk.capacity()) / sectors)?;
        disk.with_blocks(0, blocks, |disk| {
            disk.write(0, &pattern(SEED, blocks * block))?;
            let came = disk.ask(T_WRITE_ZEROES, 0, &segment(0, blocks as u64 * sectors, 0), &[])?;
            ensure!(came.status == S_OK, "{blocks} blocks: status {}", came.status);
            let left = disk.read(0, blocks * block)?.iter().position(|&byte| byte != 0);
            ensure!(left.is_none(), "byte {} of {} is not zero", left.unwrap_or(0), blocks * block);
            Ok(())
        })
    })
}

fn secure_erase(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_SECURE_ERASE, "SECURE_ERASE")?;
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        let alignment = u64::from(disk.config.secure_erase_sector_alignment.get());
        if alignment > 2 * disk.block_sectors() {
            return Err(Stop::Skip(format!("erases are multiples of {alignment} sectors")));
        }
        on_middle(disk, |disk, sector, sectors| {
            let came = disk.ask(T_SECURE_ERASE, 0, &segment(sector, sectors, 0), &[])?;
            ensure!(came.status == S_OK, "status {}", came.status);
            let block = disk.block();
            let now = disk.read(sector, 4 * block)?;
            let was = pattern(SEED, 8 * block);
            let left = now.chunks(block).zip(was.chunks(block).skip(2)).any(|(is, was)| is == was);
            ensure!(!left, "what was erased can be read");
            Ok(None)
        })
    })
}
