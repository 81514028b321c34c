//! How many zones may be open and active.

use outboard_virtio_defs::blk::{
    S_OK, S_ZONE_ACTIVE_RESOURCE, S_ZONE_OPEN_RESOURCE, T_OUT, T_ZONE_CLOSE, T_ZONE_OPEN, T_ZONE_RESET,
    ZS_EOPEN,
};

use super::{ZonedDisk, each_ours, pattern};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[Check {
    id: "blk.zone-limits",
    title: "as many zones as the device takes can be open and active, and no more",
    spec: "VIRTIO 1.3, 5.2.6 (OPEN_RESOURCE, ACTIVE_RESOURCE)",
    run: limits,
}];

/// The most zones that are opened.
const MOST: u32 = 128;

fn limits(cx: &mut Cx) -> Checked {
    each_ours(cx, |_, zoned| {
        let (open, active) = (zoned.zoned.max_open_zones.get(), zoned.zoned.max_active_zones.get());
        if open == 0 && active == 0 {
            return Err(Stop::NotApplicable("there is no limit".to_owned()));
        }
        if open.max(active) > MOST {
            return Err(Stop::Skip(format!("{open} zones may be open, {active} active")));
        }
        if open != 0 {
            let refusal =
                if active != 0 && active <= open { S_ZONE_ACTIVE_RESOURCE } else { S_ZONE_OPEN_RESOURCE };
            let count = usize::try_from(open)?;
            zoned.with_empty(count + 1, |zoned, starts| opened(zoned, starts, refusal))?;
        }
        if active != 0 {
            let count = usize::try_from(active)?;
            zoned.with_empty(count + 1, activated)?;
        }
        Ok(())
    })
}

/// Opens all but the last.
fn opened(zoned: &mut ZonedDisk, starts: &[u64], refusal: u8) -> Checked {
    let Some((&last, others)) = starts.split_last() else { return Ok(()) };
    for &start in others {
        zoned.becomes(T_ZONE_OPEN, start, ZS_EOPEN)?;
    }
    one_too_many(zoned, last, refusal).map_err(|stop| stop.when(format_args!("{} open", others.len())))?;
    // With a place free, it can be opened.
    let first = others.first().copied().unwrap_or(0);
    let status = zoned.command(T_ZONE_RESET, first)?;
    ensure!(status == S_OK, "the reset of an open zone has status {status}");
    zoned.becomes(T_ZONE_OPEN, last, ZS_EOPEN)
}

/// Makes all but the last active, closed.
fn activated(zoned: &mut ZonedDisk, starts: &[u64]) -> Checked {
    let Some((&last, others)) = starts.split_last() else { return Ok(()) };
    for &start in others {
        zoned.begin(start)?;
        let status = zoned.command(T_ZONE_CLOSE, start)?;
        ensure!(status == S_OK, "to close a zone has status {status}");
    }
    one_too_many(zoned, last, S_ZONE_ACTIVE_RESOURCE)
        .map_err(|stop| stop.when(format_args!("{} active", others.len())))
}

/// Neither an open nor a write is possible.
fn one_too_many(zoned: &mut ZonedDisk, start: u64, refusal: u8) -> Checked {
    let before = zoned.zone(start)?;
    let status = zoned.command(T_ZONE_OPEN, start)?;
    ensure!(status == refusal, "to open one more has status {status}, not {refusal}");
    let (unit, _) = zoned.unit();
    let status = zoned.disk.ask(T_OUT, start, &pattern(1, unit), &[])?.status;
    ensure!(status == refusal, "to write to one more has status {status}, not {refusal}");
    ensure!(zoned.zone(start)? == before, "the zone that was refused is another one");
    Ok(())
}
