//! What a disk says of its zones.

use outboard_virtio_defs::blk::{
    F_SEG_MAX, F_SIZE_MAX, S_OK, ZS_CLOSED, ZS_EMPTY, ZS_EOPEN, ZS_FULL, ZS_IOPEN, ZS_NOT_WP, ZS_OFFLINE,
    ZS_RDONLY, ZT_CONV, ZT_SWP,
};

use super::{REPORT, ZONE, each_zoned, is_conventional};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.zone-config",
        title: "the characteristics of zones are consistent",
        spec: "VIRTIO 1.3, 5.2.5.2",
        run: config,
    },
    Check {
        id: "blk.zone-report",
        title: "a report has the zones from the one that is asked for on, without gaps, in states that there are",
        spec: "VIRTIO 1.3, 5.2.6 (zone report)",
        run: report,
    },
    Check {
        id: "blk.zone-report-room",
        title: "a report counts the zones that there was room for",
        spec: "VIRTIO 1.3, 5.2.6 (nr_zones)",
        run: report_room,
    },
];

fn config(cx: &mut Cx) -> Checked {
    each_zoned(cx, |cx, zoned| {
        let told = zoned.zoned;
        ensure!(told.zone_sectors.get() != 0, "zones of no sector");
        let granularity = told.write_granularity.get();
        ensure!(granularity >= 512 && granularity.is_multiple_of(512), "writes of {granularity} bytes");
        ensure!(told.unused == [0; 3], "the padding is not zero");
        let (open, active) = (told.max_open_zones.get(), told.max_active_zones.get());
        if active != 0 && (open == 0 || open > active) {
            cx.note(format!("{open} zones may be open, {active} active"));
        }
        let append = u64::from(told.max_append_sectors.get());
        let config = zoned.disk.config;
        if zoned.disk.offers(F_SEG_MAX) && zoned.disk.offers(F_SIZE_MAX) {
            let most = u64::from(config.seg_max.get()) * u64::from(config.size_max.get());
            ensure!(append * 512 <= most, "appends of {append} sectors, requests of {most} bytes");
        }
        ensure!(
            append <= u64::from(told.zone_sectors.get()),
            "appends of {append} sectors, more than a zone"
        );
        Ok(())
    })
}

fn report(cx: &mut Cx) -> Checked {
    const STATES: [u8; 8] =
        [ZS_NOT_WP, ZS_EMPTY, ZS_IOPEN, ZS_EOPEN, ZS_CLOSED, ZS_RDONLY, ZS_FULL, ZS_OFFLINE];
    each_zoned(cx, |_, zoned| {
        let (all, sectors) = (zoned.all()?, zoned.zone_sectors());
        ensure!(all.len() as u64 == zoned.count(), "{} zones, not {}", all.len(), zoned.count());
        for (nth, zone) in (0..).zip(&all) {
            let (start, capacity, kind, state) =
                (zone.start.get(), zone.capacity.get(), zone.kind, zone.state);
            ensure!(start == nth * sectors, "zone {nth} begins at sector {start}");
            ensure!(capacity != 0 && capacity <= sectors, "zone {nth} has a capacity of {capacity}");
            ensure!((ZT_CONV..=ZT_SWP).contains(&kind), "zone {nth} has type {kind}");
            ensure!(STATES.contains(&state), "zone {nth} is in state {state}");
            let matches = is_conventional(zone) == (state == ZS_NOT_WP);
            ensure!(matches, "zone {nth} of type {kind} is in state {state}");
            let pointer = zone.write_pointer.get();
            ensure!(state != ZS_EMPTY || pointer == start, "zone {nth} is empty, its pointer at {pointer}");
            ensure!(zone.reserved == [0; 38], "what is reserved of zone {nth} is not zero");
        }
        // From the middle of a zone.
        for nth in [0, 1, zoned.count() / 2, zoned.count() - 1] {
            let zones = zoned.report(nth * sectors + sectors / 2, 2)?;
            let first = zones.first().map(|zone| zone.start.get());
            ensure!(first == Some(nth * sectors), "a report from zone {nth} begins at {first:?}");
        }
        let behind = zoned.report_in(zoned.disk.capacity(), REPORT + ZONE)?;
        ensure!(behind.status != S_OK, "a report from behind the last zone succeeds");
        Ok(())
    })
}

fn report_room(cx: &mut Cx) -> Checked {
    each_zoned(cx, |_, zoned| {
        for (room, fit) in [(0, 0), (1, 0), (ZONE - 1, 0), (ZONE, 1), (3 * ZONE + 10, 3), (5 * ZONE - 1, 4)] {
            let came = zoned.report_in(0, REPORT + room)?;
            ensure!(came.status == S_OK, "with room for {room} bytes of zones: status {}", came.status);
            let count = came.data.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            let wanted = zoned.count().min(fit);
            ensure!(count == wanted, "with room for {room} bytes of zones it has {count}, not {wanted}");
            let least = u32::try_from(REPORT)? + u32::try_from(wanted)? * u32::try_from(ZONE)?;
            ensure!(came.len > least, "a report of {wanted} zones has length {}", came.len);
        }
        // Too short for its header: answered.
        zoned.report_in(0, REPORT - 1)?;
        zoned.disk.ask(outboard_virtio_defs::blk::T_ZONE_REPORT, 0, &[], &[])?;
        zoned.report(0, 1).map(drop)
    })
}
