//! What is on offer, and what is not.

use outboard_virtio_defs::blk::{
    F_DISCARD, F_LIFETIME, F_RO, F_SECURE_ERASE, F_WRITE_ZEROES, F_ZONED, RangeSegment, S_IOERR, S_OK,
    S_UNSUPP, T_DISCARD, T_GET_LIFETIME, T_SECURE_ERASE, T_WRITE_ZEROES, T_ZONE_APPEND, T_ZONE_CLOSE,
    T_ZONE_FINISH, T_ZONE_OPEN, T_ZONE_REPORT, T_ZONE_RESET, T_ZONE_RESET_ALL,
};
use zerocopy::IntoBytes;

use super::{each, is_blk};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.unoffered",
        title: "a request whose feature is not on offer does not succeed: it has status UNSUPP",
        spec: "VIRTIO 1.3, 5.2.6 (a request unsupported by device)",
        run: unoffered,
    },
    Check {
        id: "blk.zoned-unagreed",
        title: "without ZONED every request for zones has status UNSUPP",
        spec: "VIRTIO 1.3, 5.2.6.2",
        run: zoned_unagreed,
    },
    Check {
        id: "blk.lifetime",
        title: "the lifetime of the medium has no reserved values",
        spec: "VIRTIO 1.3, 5.2.6 and 5.2.6.2",
        run: lifetime,
    },
];

fn unoffered(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    let offered = cx.offer.features;
    // Of no sector: should it be carried out after all.
    let range = RangeSegment::default();
    let all = [
        (T_DISCARD, F_DISCARD, range.as_bytes(), 0),
        (T_WRITE_ZEROES, F_WRITE_ZEROES, range.as_bytes(), 0),
        (T_SECURE_ERASE, F_SECURE_ERASE, range.as_bytes(), 0),
        (T_GET_LIFETIME, F_LIFETIME, &[], 6),
    ];
    let missing: Vec<_> = all.iter().filter(|(_, feature, ..)| offered & feature == 0).collect();
    if missing.is_empty() {
        return Err(Stop::NotApplicable("all of them are on offer".to_owned()));
    }
    // What would change a disk that is read-only fails for that, too.
    let refusals: &[u8] = if offered & F_RO == 0 { &[S_UNSUPP] } else { &[S_UNSUPP, S_IOERR] };
    each(cx, |_, disk| {
        for (kind, _, data, room) in &missing {
            let writable: Vec<u32> = [*room].into_iter().filter(|room| *room > 0).collect();
            let came = disk.ask(*kind, 0, data, &writable)?;
            ensure!(
                refusals.contains(&came.status),
                "request {kind} is not on offer, and has status {}, not {S_UNSUPP}",
                came.status
            );
        }
        disk.session.request().map(drop)
    })
}

fn zoned_unagreed(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    if cx.offer.features & F_ZONED != 0 {
        return Err(Stop::NotApplicable("a disk with zones may insist on the agreement".to_owned()));
    }
    each(cx, |cx, disk| {
        let mut kinds = vec![(T_ZONE_REPORT, &[][..], 512)];
        // Were one of these carried out, something would be lost.
        if disk.may_write(cx).is_ok() {
            let all = [T_ZONE_OPEN, T_ZONE_CLOSE, T_ZONE_FINISH, T_ZONE_RESET, T_ZONE_RESET_ALL];
            kinds.extend(all.map(|kind| (kind, &[][..], 0)));
            kinds.push((T_ZONE_APPEND, &[0; 512][..], 8));
        }
        for (kind, data, room) in kinds {
            let writable: Vec<u32> = [room].into_iter().filter(|room| *room > 0).collect();
            let came = disk.ask(kind, 0, data, &writable)?;
            ensure!(came.status == S_UNSUPP, "request {kind} has status {}, not {S_UNSUPP}", came.status);
        }
        disk.session.request().map(drop)
    })
}

fn lifetime(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_LIFETIME, "LIFETIME")?;
    each(cx, |_, disk| {
        let came = disk.ask(T_GET_LIFETIME, 0, &[], &[6])?;
        ensure!(came.status == S_OK, "status {}", came.status);
        ensure!(came.len == 7, "length {}, not 7", came.len);
        let number = |at: usize| -> Checked<u16> {
            let bytes = came.data.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u16::from_le_bytes).ok_or_else(|| Stop::fail("a lifetime that is cut short"))
        };
        let (reserve, first, second) = (number(0)?, number(2)?, number(4)?);
        ensure!(reserve <= 3, "pre_eol_info is {reserve}");
        ensure!(first <= 11 && second <= 11, "the estimates are {first} and {second}");
        Ok(())
    })
}
