//! Discards and write-zeroes. What may change the disk is done only where the back end is ours.

use outboard_virtio_defs::blk::{
    F_DISCARD, F_WRITE_ZEROES, RANGE_UNMAP, RangeSegment, S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_WRITE_ZEROES,
};
use zerocopy::IntoBytes;

use super::{Disk, each, is_blk, pattern};
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
];

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
    let all = [(T_DISCARD, F_DISCARD), (T_WRITE_ZEROES, F_WRITE_ZEROES)];
    let kinds: Vec<u32> =
        all.iter().filter(|(_, feature)| offered(*feature)).map(|(kind, _)| *kind).collect();
    if kinds.is_empty() { Err(Stop::lacks("DISCARD or WRITE_ZEROES")) } else { Ok(kinds) }
}

/// Blocks to work on: eight from the sixteenth on, written with a pattern, of which the middle four are the range.
/// The old contents come back.
fn on_middle(disk: &mut Disk, body: impl FnOnce(&mut Disk, u64, u64) -> Checked<Option<u8>>) -> Checked {
    let (block, sectors) = (disk.block(), disk.block_sectors());
    let at = 16 * sectors;
    let before = disk.read(at, 8 * block)?;
    let work = || {
        let written = pattern(99, 8 * block);
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
        let wrong: &[u32] = if kind == T_DISCARD { &[RANGE_UNMAP, 2, 1 << 31] } else { &[2, 3, 1 << 31] };
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
        let most = match kind {
            T_DISCARD => disk.config.max_discard_seg.get(),
            _ => disk.config.max_write_zeroes_seg.get(),
        };
        // Of nothing at all: whether it is carried out changes nothing.
        let count = usize::try_from(most.min(4096))? + 1;
        let came = disk.ask(kind, 0, &segment(0, 0, 0).repeat(count), &[])?;
        if came.status == S_OK {
            cx.note(format!("request {kind} of {count} ranges succeeds, of {most} at most"));
        }
        Ok(())
    })
}
