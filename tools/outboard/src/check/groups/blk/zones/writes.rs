//! Writes to zones: where they go, and where they must not.

use outboard_virtio_defs::blk::{
    S_OK, S_UNSUPP, S_ZONE_INVALID_CMD, S_ZONE_UNALIGNED_WP, T_IN, T_OUT, T_ZONE_CLOSE, T_ZONE_FINISH,
    T_ZONE_OPEN, T_ZONE_RESET, ZS_FULL, ZS_IOPEN, ZT_SWR,
};

use super::{each_ours, each_zoned, is_conventional, pattern};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.zone-write-pointer",
        title: "a zone is written at its write pointer, which follows, and nowhere else",
        spec: "VIRTIO 1.3, 5.2.6 and 5.2.6.2 (UNALIGNED_WP)",
        run: write_pointer,
    },
    Check {
        id: "blk.zone-append",
        title: "an append goes to the write pointer, and says where that was",
        spec: "VIRTIO 1.3, 5.2.6.2 (append_sector)",
        run: append,
    },
    Check {
        id: "blk.zone-full",
        title: "a zone that is written to its capacity is full, and takes no more",
        spec: "VIRTIO 1.3, 5.2.6 and 5.2.6.2",
        run: full,
    },
    Check {
        id: "blk.zone-borders",
        title: "reads and writes across the border of a zone that is written in sequence are invalid",
        spec: "VIRTIO 1.3, 5.2.6.2 (sectors in more than one zone)",
        run: borders,
    },
    Check {
        id: "blk.zone-conventional",
        title: "conventional zones are written anywhere, and nothing else is done to them",
        spec: "VIRTIO 1.3, 5.2.6.2 (INVALID_CMD)",
        run: conventional,
    },
];

/// The largest zone that is filled, in sectors.
const FILLED: u64 = 16384;

fn write_pointer(cx: &mut Cx) -> Checked {
    each_ours(cx, |_, zoned| {
        let (unit, sectors) = zoned.unit();
        zoned.with_empty(1, |zoned, starts| {
            let start = starts.first().copied().unwrap_or(0);
            for nth in 0..3 {
                let at = start + nth * sectors;
                for wrong in [at + sectors, start + zoned.zone_sectors() / 2] {
                    let came = zoned.disk.ask(T_OUT, wrong, &vec![0x77; unit], &[])?;
                    let status = came.status;
                    let right = status == S_ZONE_UNALIGNED_WP;
                    ensure!(right, "a write to {wrong}, the pointer at {at}, has status {status}");
                }
                zoned.disk.write(at, &pattern(nth + 1, unit))?;
                let zone = zoned.zone(start)?;
                let pointer = zone.write_pointer.get();
                ensure!(pointer == at + sectors, "after a write to {at} the pointer is at {pointer}");
                ensure!(zone.state == ZS_IOPEN, "after a write the zone is in state {}", zone.state);
            }
            let again = zoned.disk.ask(T_OUT, start, &vec![0x77; unit], &[])?.status;
            ensure!(again == S_ZONE_UNALIGNED_WP, "a write to what is written has status {again}");
            for nth in 0..3 {
                let read = zoned.disk.read(start + nth * sectors, unit)?;
                ensure!(read == pattern(nth + 1, unit), "what write {nth} wrote is not read");
            }
            Ok(())
        })
    })
}

fn append(cx: &mut Cx) -> Checked {
    each_ours(cx, |_, zoned| {
        let (unit, sectors) = zoned.unit();
        let most = u64::from(zoned.zoned.max_append_sectors.get());
        zoned.with_empty(1, |zoned, starts| {
            let start = starts.first().copied().unwrap_or(0);
            if most == 0 {
                let (status, _) = zoned.append(start, &pattern(1, unit))?;
                ensure!(status == S_UNSUPP, "appends are not offered, one has status {status}");
                return Ok(());
            }
            for nth in 0..3 {
                let (status, at) = zoned.append(start, &pattern(nth + 1, unit))?;
                ensure!(status == S_OK, "an append has status {status}");
                let wanted = start + nth * sectors;
                ensure!(at == wanted, "append {nth} says that it is at {at}, not {wanted}");
                ensure!(zoned.disk.read(at, unit)? == pattern(nth + 1, unit), "append {nth}: other data");
            }
            let (status, _) = zoned.append(start + sectors, &pattern(9, unit))?;
            ensure!(status == S_ZONE_INVALID_CMD, "an append to a sector within a zone has status {status}");
            let long = usize::try_from(most * 512)? + unit;
            if long <= 4 << 20 {
                let (status, _) = zoned.append(start, &vec![0; long])?;
                ensure!(status == S_ZONE_INVALID_CMD, "an append of {long} bytes has status {status}");
            }
            let pointer = zoned.zone(start)?.write_pointer.get();
            ensure!(pointer == start + 3 * sectors, "after three appends the pointer is at {pointer}");
            Ok(())
        })
    })
}

fn full(cx: &mut Cx) -> Checked {
    each_ours(cx, |_, zoned| {
        let (unit, sectors) = zoned.unit();
        zoned.with_empty(1, |zoned, starts| {
            let start = starts.first().copied().unwrap_or(0);
            let capacity = zoned.zone(start)?.capacity.get();
            if capacity > FILLED {
                return Err(Stop::Skip(format!("a zone takes {capacity} sectors")));
            }
            let mut at = start;
            // All but the last unit.
            while at + sectors < start + capacity {
                let count = (start + capacity - sectors - at).min(128 / sectors.min(128) * sectors);
                zoned.disk.write(at, &pattern(at, usize::try_from(count)? * 512))?;
                at += count;
            }
            let came = zoned.disk.ask(T_OUT, at, &vec![0x77; 2 * unit], &[])?;
            let status = came.status;
            ensure!(status == S_ZONE_INVALID_CMD, "a write beyond the capacity has status {status}");
            zoned.disk.write(at, &pattern(at, unit))?;
            let state = zoned.zone(start)?.state;
            ensure!(state == ZS_FULL, "a zone that is written to its capacity is in state {state}");
            let status = zoned.disk.ask(T_OUT, at, &vec![0x77; unit], &[])?.status;
            ensure!(status != S_OK, "a write to a zone that is full succeeds");
            ensure!(zoned.disk.read(at, unit)? == pattern(at, unit), "the last block is another one");
            Ok(())
        })
    })
}

fn borders(cx: &mut Cx) -> Checked {
    each_zoned(cx, |cx, zoned| {
        let all = zoned.all()?;
        let (unit, sectors) = zoned.unit();
        let pairs = all.iter().zip(all.iter().skip(1));
        let pair = pairs.clone().find(|(first, second)| first.kind == ZT_SWR && second.kind == ZT_SWR);
        let Some((_, second)) = pair else {
            return Err(Stop::Skip("two zones that are written in sequence are needed".to_owned()));
        };
        let at = second.start.get() - sectors;
        let status = zoned.disk.ask(T_IN, at, &[], &[u32::try_from(2 * unit)?])?.status;
        ensure!(status == S_ZONE_INVALID_CMD, "a read across a border has status {status}");
        if zoned.disk.may_write(cx).is_ok() {
            let status = zoned.disk.ask(T_OUT, at, &vec![0x77; 2 * unit], &[])?.status;
            ensure!(status != S_OK, "a write across a border succeeds");
        }
        Ok(())
    })
}

fn conventional(cx: &mut Cx) -> Checked {
    each_ours(cx, |_, zoned| {
        let all = zoned.all()?;
        let Some(zone) = all.iter().find(|zone| is_conventional(zone)) else {
            return Err(Stop::Skip("no zone is conventional".to_owned()));
        };
        let (start, (unit, sectors)) = (zone.start.get(), zoned.unit());
        let blocks = 4 * usize::try_from(sectors / zoned.disk.block_sectors())?;
        zoned.disk.with_blocks(start, blocks, |disk| {
            for at in [start + 2 * sectors, start, start + 3 * sectors] {
                disk.write(at, &pattern(at, unit))?;
                ensure!(disk.read(at, unit)? == pattern(at, unit), "sector {at} is another one");
            }
            Ok(())
        })?;
        for kind in [T_ZONE_OPEN, T_ZONE_CLOSE, T_ZONE_FINISH, T_ZONE_RESET] {
            let status = zoned.command(kind, start)?;
            ensure!(status == S_ZONE_INVALID_CMD, "request {kind} has status {status}");
        }
        if zoned.zoned.max_append_sectors.get() != 0 {
            let before = zoned.disk.read(start, unit)?;
            let (status, _) = zoned.append(start, &before)?;
            ensure!(status == S_ZONE_INVALID_CMD, "an append has status {status}");
        }
        Ok(())
    })
}
