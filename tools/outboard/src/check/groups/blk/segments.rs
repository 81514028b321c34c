//! Requests at the limits that the configuration tells.

use outboard_virtio_defs::blk::{F_SEG_MAX, F_SIZE_MAX, S_OK, T_IN, T_OUT};

use super::{Disk, header, is_blk, setup};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::Setup;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.seg-max",
        title: "a request of as many segments as the device takes works, in the ring and in an indirect table",
        spec: "VIRTIO 1.3, 5.2.3 and 5.2.4",
        run: seg_max,
    },
    Check {
        id: "blk.size-max",
        title: "a request of a segment as long as the device takes works",
        spec: "VIRTIO 1.3, 5.2.3 and 5.2.4",
        run: size_max,
    },
];

/// The most segments that are tried: header and status are to fit into a ring of 1024.
const MOST: u32 = 1022;
/// The longest segment that is tried, in bytes.
const LONGEST: u32 = 4 << 20;

fn seg_max(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_SEG_MAX, "SEG_MAX")?;
    cx.each_format(|cx, format| {
        let told = Disk::open(cx, format)?.config.seg_max.get();
        let count = u16::try_from(told.clamp(1, MOST))?;
        let size = (count + 2).next_power_of_two().max(64);
        for indirect in [false, true] {
            let setup = Setup { size, indirect, table_entries: count + 2, ..setup(format) };
            let mut disk = Disk::with(cx, &setup)?;
            with_segments(cx, &mut disk, count.into())
                .map_err(|stop| stop.when(format_args!("{count} segments, indirect: {indirect}")))?;
        }
        Ok(())
    })
}

/// Segments of a block each.
fn with_segments(cx: &Cx, disk: &mut Disk, count: usize) -> Checked {
    let block = disk.block();
    if disk.capacity() < count as u64 * disk.block_sectors() || disk.longest() < u32::try_from(block)? {
        return Err(Stop::Skip(format!("the disk has no {count} blocks")));
    }
    let expected = disk.read(0, count * block)?;
    let mut writable = vec![u32::try_from(block)?; count];
    writable.push(1);
    let came = disk.ask_in(vec![header(T_IN, 0)], writable)?;
    ensure!(came.status == S_OK, "a read has status {}", came.status);
    ensure!(came.data == expected, "a read gives other data");
    if disk.may_write(cx).is_ok() {
        let pieces = expected.chunks(block).map(<[u8]>::to_vec);
        let came = disk.ask_in(std::iter::once(header(T_OUT, 0)).chain(pieces).collect(), vec![1])?;
        ensure!(came.status == S_OK, "a write has status {}", came.status);
        ensure!(disk.read(0, count * block)? == expected, "a write is of other data");
    }
    Ok(())
}

fn size_max(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_SIZE_MAX, "SIZE_MAX")?;
    cx.each_format(|cx, format| {
        let mut disk = Disk::open(cx, format)?;
        if disk.longest() == u32::MAX {
            return Err(Stop::NotApplicable("it is said to be 0: see blk.config".to_owned()));
        }
        let whole = u64::from(disk.longest().min(LONGEST)).min(disk.capacity() * 512);
        let block = disk.block();
        let bytes = usize::try_from(whole)? / block * block;
        ensure!(bytes > 0, "no segment may have a block");
        let came = disk.ask(T_IN, 0, &[], &[u32::try_from(bytes)?])?;
        ensure!(came.status == S_OK, "a read of {bytes} bytes has status {}", came.status);
        for nth in [0, bytes / block / 2, bytes / block - 1] {
            let one = disk.read(nth as u64 * disk.block_sectors(), block)?;
            let same = came.data.get(nth * block..(nth + 1) * block) == Some(&one);
            ensure!(same, "block {nth} is another one when it is read alone");
        }
        Ok(())
    })
}
