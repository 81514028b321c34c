//! The states of zones, and the requests that change them.

use outboard_virtio_defs::blk::{
    S_OK, S_ZONE_INVALID_CMD, T_OUT, T_ZONE_CLOSE, T_ZONE_FINISH, T_ZONE_OPEN, T_ZONE_RESET,
    T_ZONE_RESET_ALL, ZS_CLOSED, ZS_EMPTY, ZS_EOPEN, ZS_FULL, ZS_IOPEN, ZT_SWR,
};

use super::{ZonedDisk, each_ours};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.zone-states",
        title: "to open, close, finish and reset a zone leads from each state to the one that is written",
        spec: "VIRTIO 1.3, 5.2.6 (the states of zones)",
        run: states,
    },
    Check {
        id: "blk.zone-addresses",
        title: "a request for a zone at a sector that is not its first, or not on the disk, does nothing",
        spec: "VIRTIO 1.3, 5.2.6 (the zone sector address; all other errors are INVALID_CMD)",
        run: addresses,
    },
    Check {
        id: "blk.zone-reset-all",
        title: "to reset all zones empties all that are written in sequence",
        spec: "VIRTIO 1.3, 5.2.6.2",
        run: reset_all,
    },
];

fn states(cx: &mut Cx) -> Checked {
    each_ours(cx, |_, zoned| zoned.with_empty(1, |zoned, starts| one(zoned, starts.first().copied())))
}

fn one(zoned: &mut ZonedDisk, start: Option<u64>) -> Checked {
    let start = start.unwrap_or(0);
    let invalid = |zoned: &mut ZonedDisk, kind: u32, state: u8| {
        let status = zoned.command(kind, start)?;
        ensure!(status == S_ZONE_INVALID_CMD, "request {kind} in state {state} has status {status}");
        let now = zoned.zone(start)?.state;
        ensure!(now == state, "request {kind} in state {state} fails, and leads to {now}");
        Ok(())
    };
    // From empty.
    zoned.becomes(T_ZONE_RESET, start, ZS_EMPTY)?;
    invalid(zoned, T_ZONE_CLOSE, ZS_EMPTY)?;
    zoned.becomes(T_ZONE_OPEN, start, ZS_EOPEN)?;
    zoned.becomes(T_ZONE_OPEN, start, ZS_EOPEN)?;
    // Nothing was written.
    zoned.becomes(T_ZONE_CLOSE, start, ZS_EMPTY)?;
    zoned.begin(start)?;
    let state = zoned.zone(start)?.state;
    ensure!(state == ZS_IOPEN, "a write leads to state {state}");
    zoned.becomes(T_ZONE_CLOSE, start, ZS_CLOSED)?;
    zoned.becomes(T_ZONE_CLOSE, start, ZS_CLOSED)?;
    zoned.becomes(T_ZONE_OPEN, start, ZS_EOPEN)?;
    zoned.becomes(T_ZONE_CLOSE, start, ZS_CLOSED)?;
    zoned.becomes(T_ZONE_OPEN, start, ZS_EOPEN)?;
    zoned.becomes(T_ZONE_FINISH, start, ZS_FULL)?;
    zoned.becomes(T_ZONE_FINISH, start, ZS_FULL)?;
    invalid(zoned, T_ZONE_OPEN, ZS_FULL)?;
    invalid(zoned, T_ZONE_CLOSE, ZS_FULL)?;
    let (unit, sectors) = zoned.unit();
    let status = zoned.disk.ask(T_OUT, start + sectors, &vec![0x77; unit], &[])?.status;
    ensure!(status != S_OK, "a zone that was finished is written");
    zoned.becomes(T_ZONE_RESET, start, ZS_EMPTY)?;
    zoned.begin(start)?;
    zoned.becomes(T_ZONE_RESET, start, ZS_EMPTY)?;
    let pointer = zoned.zone(start)?.write_pointer.get();
    ensure!(pointer == start, "after a reset the pointer is at {pointer}");
    Ok(())
}

fn addresses(cx: &mut Cx) -> Checked {
    each_ours(cx, |_, zoned| {
        zoned.with_empty(1, |zoned, starts| {
            let start = starts.first().copied().unwrap_or(0);
            zoned.begin(start)?;
            let before = zoned.zone(start)?;
            let behind = zoned.count() * zoned.zone_sectors();
            for sector in [start + 1, start + zoned.zone_sectors() - 1, behind, u64::MAX, 1 << 55] {
                for kind in [T_ZONE_OPEN, T_ZONE_CLOSE, T_ZONE_FINISH, T_ZONE_RESET] {
                    let status = zoned.command(kind, sector)?;
                    ensure!(status != S_OK, "request {kind} at sector {sector} succeeds");
                }
            }
            ensure!(zoned.zone(start)? == before, "the zone is another one");
            Ok(())
        })
    })
}

fn reset_all(cx: &mut Cx) -> Checked {
    each_ours(cx, |_, zoned| {
        let written = |zone: &&_| is_written(zone);
        if zoned.all()?.iter().any(|zone| written(&zone)) {
            return Err(Stop::Skip("there is something in its zones".to_owned()));
        }
        zoned.with_empty(3, |zoned, starts| {
            for (&start, kind) in starts.iter().zip([T_ZONE_OPEN, T_ZONE_CLOSE, T_ZONE_FINISH]) {
                zoned.begin(start)?;
                let status = zoned.command(kind, start)?;
                ensure!(status == S_OK, "request {kind} has status {status}");
            }
            let status = zoned.command(T_ZONE_RESET_ALL, 0)?;
            ensure!(status == S_OK, "status {status}");
            let left = zoned.all()?.iter().filter(written).count();
            ensure!(left == 0, "{left} zones are not empty");
            Ok(())
        })
    })
}

fn is_written(zone: &outboard_virtio_defs::blk::ZoneDescriptor) -> bool {
    zone.kind == ZT_SWR && zone.state != ZS_EMPTY
}
