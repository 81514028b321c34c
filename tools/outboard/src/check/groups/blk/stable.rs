//! What has to outlive the program, however that ends. Only where the back end is ours, and what is written is still
//! there after an orderly end: a disk in memory is not.

use outboard_vhost_user::FrontendRequest as Code;
use outboard_virtio_defs::blk::{F_CONFIG_WCE, F_FLUSH, WRITEBACK_OFFSET};
use outboard_virtqueue::Format;

use super::{Disk, FEATURES, is_blk, pattern, setup};
use crate::check::catalogue::Check;
use crate::check::config::config_body;
use crate::check::cx::Cx;
use crate::check::session::Setup;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.flush-survives-kill",
        title: "what was written on any queue before a flush is there after SIGKILL",
        spec: "VIRTIO 1.3, 5.2.6.2 (a write becomes stable, case 3)",
        run: flush_survives,
    },
    Check {
        id: "blk.write-through-survives-kill",
        title: "what was written with the write cache switched off is there after SIGKILL",
        spec: "VIRTIO 1.3, 5.2.6.2 (a write becomes stable, case 2)",
        run: write_through_survives,
    },
    Check {
        id: "blk.unflushed-survives-kill",
        title: "what was written by a driver that agreed on neither FLUSH nor CONFIG_WCE is there after SIGKILL",
        spec: "VIRTIO 1.3, 5.2.6.2 (a write becomes stable, case 1)",
        run: unflushed_survives,
    },
];

/// Where blocks are written, in blocks, for each queue.
const STRIDE: u64 = 8;

fn flush_survives(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_FLUSH, "FLUSH")?;
    survives(cx, FEATURES, |disk| disk.start_queues(4).map(drop), Disk::flush)
}

fn write_through_survives(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_CONFIG_WCE, "CONFIG_WCE")?;
    let switch_off = |disk: &mut Disk| {
        disk.session.wire.set(Code::SET_CONFIG, &config_body(WRITEBACK_OFFSET, 0, &[0]), &[])
    };
    survives(cx, FEATURES, switch_off, |_| Ok(()))
}

fn unflushed_survives(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_FLUSH, "FLUSH")?;
    survives(cx, FEATURES & !(F_FLUSH | F_CONFIG_WCE), |_| Ok(()), |_| Ok(()))
}

/// Writes a block on each queue that `prepare` left, and ends the program with SIGKILL.
fn survives(
    cx: &mut Cx,
    features: u64,
    prepare: impl Fn(&mut Disk) -> Checked,
    finish: impl Fn(&mut Disk) -> Checked,
) -> Checked {
    keeps(cx)?;
    cx.each_format(|cx, format| {
        let mut disk = Disk::with(cx, &Setup { device_features: features, ..setup(format) })?;
        let (block, stride) = (disk.block(), STRIDE * disk.block_sectors());
        prepare(&mut disk)?;
        let queues = disk.session.rings.len();
        let mut before = Vec::new();
        for queue in 0..queues {
            before.push(disk.read(queue as u64 * stride, block)?);
        }
        for queue in 0..queues {
            disk.write_on(queue, queue as u64 * stride, &pattern(31 + queue as u64, block))?;
        }
        finish(&mut disk)?;
        let Some(back_end) = cx.target.take_back_end() else {
            return Err(Stop::Skip("there is no process".to_owned()));
        };
        back_end.kill()?;
        drop(disk);
        let mut disk = Disk::open(cx, format)?;
        let mut came = Ok(());
        for (queue, before) in before.iter().enumerate() {
            let at = queue as u64 * stride;
            let is_there = disk.read(at, block)? == pattern(31 + queue as u64, block);
            disk.write(at, before)?;
            if !is_there && came.is_ok() {
                came = Err(Stop::Fail(format!("what queue {queue} wrote is gone")));
            }
        }
        came
    })
}

/// Not applicable unless what is written is there when the program was ended in order, and started again.
fn keeps(cx: &mut Cx) -> Checked {
    if cx.keeps.is_none() {
        cx.keeps = Some(find_keeps(cx)?);
    }
    match cx.keeps {
        Some(true) => Ok(()),
        _ => Err(Stop::NotApplicable("nothing of the disk outlives the program".to_owned())),
    }
}

fn find_keeps(cx: &mut Cx) -> Checked<bool> {
    let mut disk = Disk::open(cx, Format::Split)?;
    disk.may_write(cx)?;
    let before = disk.read(0, disk.block())?;
    let data = pattern(47, disk.block());
    disk.write(0, &data)?;
    if disk.offers(F_FLUSH) {
        disk.flush()?;
    }
    let Some(back_end) = cx.target.take_back_end() else {
        return Err(Stop::Skip("there is no process".to_owned()));
    };
    // How it ends is for other checks.
    let _ = back_end.terminate();
    drop(disk);
    let mut disk = Disk::open(cx, Format::Split)?;
    let is_there = disk.read(0, disk.block())? == data;
    ensure!(disk.write(0, &before).is_ok(), "the first block cannot be written any more");
    Ok(is_there)
}
