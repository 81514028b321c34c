//! Disks that are read-only.

use outboard_virtio_defs::blk::{
    F_RO, RangeSegment, S_IOERR, S_OK, T_DISCARD, T_OUT, T_SECURE_ERASE, T_WRITE_ZEROES,
};
use zerocopy::IntoBytes;

use super::{Disk, each, is_blk, pattern};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.read-only",
        title: "a write to a disk that is read-only fails as an I/O error",
        spec: "VIRTIO 1.3, 5.2.6.2",
        run: read_only,
    },
    Check {
        id: "blk.read-only-kept",
        title: "a write to a disk that is read-only, of whatever length, changes nothing",
        spec: "VIRTIO 1.3, 5.2.6.2",
        run: kept,
    },
    Check {
        id: "blk.read-only-ranges",
        title: "discards, write-zeroes and secure erases of a disk that is read-only do not succeed, and change nothing",
        spec: "VIRTIO 1.3, 5.2.5 (any write requests will fail) and 5.2.6.2",
        run: ranges,
    },
];

fn each_read_only(cx: &mut Cx, body: impl FnMut(&mut Cx, &mut Disk) -> Checked) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_RO, "RO")?;
    each(cx, body)
}

fn read_only(cx: &mut Cx) -> Checked {
    each_read_only(cx, |_, disk| {
        let before = disk.read(0, disk.block())?;
        // Its own contents, should they be written after all.
        let came = disk.ask(T_OUT, 0, &before, &[])?;
        ensure!(came.status == S_IOERR, "a write to a read-only disk has status {}", came.status);
        Ok(())
    })
}

fn kept(cx: &mut Cx) -> Checked {
    each_read_only(cx, |cx, disk| {
        cx.needs_command()?;
        let bytes = 2 * disk.block();
        let before = disk.read(0, bytes)?;
        for length in [disk.block(), bytes, 1, 0] {
            disk.ask(T_OUT, 0, pattern(7, bytes).get(..length).unwrap_or_default(), &[])?;
            ensure!(disk.read(0, bytes)? == before, "a write of {length} bytes was done");
        }
        Ok(())
    })
}

fn ranges(cx: &mut Cx) -> Checked {
    each_read_only(cx, |cx, disk| {
        cx.needs_command()?;
        let before = disk.read(0, disk.block())?;
        let num_sectors = u32::try_from(disk.block_sectors())?;
        let range = RangeSegment { sector: 0.into(), num_sectors: num_sectors.into(), flags: 0.into() };
        for kind in [T_DISCARD, T_WRITE_ZEROES, T_SECURE_ERASE] {
            let came = disk.ask(kind, 0, range.as_bytes(), &[])?;
            ensure!(came.status != S_OK, "request {kind} succeeds");
            ensure!(disk.read(0, disk.block())? == before, "request {kind} was done");
        }
        Ok(())
    })
}
