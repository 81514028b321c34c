//! Buffers that are not what they should be. They may be refused, a ring may not start with them; nothing else is
//! harmed.

use outboard_guest_memory::memfd;
use outboard_vhost_user::payload::Inflight;

use super::{Records, SIZE_AT, VERSION_AT, needed, with_records};
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::take;
use crate::check::session::Session;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "inflight.garbage",
        title: "records full of garbage do no harm",
        spec: "vhost-user: Inflight I/O tracking",
        run: garbage,
    },
    Check {
        id: "inflight.other-size",
        title: "records of a ring of another size, or of another version, do no harm",
        spec: "vhost-user: Inflight I/O tracking",
        run: other_size,
    },
    Check {
        id: "inflight.too-small",
        title: "a buffer that is too small for its rings is not taken into use in silence",
        spec: "vhost-user: SET_INFLIGHT_FD",
        run: too_small,
    },
    Check {
        id: "inflight.short-file",
        title: "a buffer that reaches beyond the end of its file does no harm",
        spec: "vhost-user: SET_INFLIGHT_FD",
        run: short_file,
    },
];

/// Starts the ring with these records, makes a request, and says whether it was served; whatever else comes of it,
/// another front end must be served.
fn started_with(cx: &mut Cx, session: Session, records: &Records) -> Checked<bool> {
    let mut session = session;
    let served = if records.try_give(&mut session)? { try_start(&mut session)? } else { false };
    let open = session.wire.is_open()?;
    if open && !served {
        // It stops as any other.
        match session.stop(session.last()) {
            Err(stop) if session.wire.is_open()? => return Err(stop),
            _ => {}
        }
    }
    let format = session.setup.format;
    drop(session);
    let (mut fresh, records) = with_records(cx, format)?;
    records.give(&mut fresh)?;
    fresh.start(fresh.last())?;
    fresh.request().map_err(|stop| stop.when("with records of its own, afterwards"))?;
    Ok(served)
}

fn try_start(session: &mut Session) -> Checked<bool> {
    let at = session.last();
    let sample = session.sample()?;
    if let Err(stop) = session.start(at) {
        // Refused in some step; but whoever hangs is at fault.
        session.wire.is_open().map_err(|_| stop)?;
        return Ok(false);
    }
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    ring.place(memory, &sample, 0)?;
    ring.publish()?;
    let deadline = std::time::Instant::now() + LULL * 3;
    while std::time::Instant::now() < deadline {
        // What is returned may be anything, if the records say so.
        if ring.queue.has_used() {
            return Ok(true);
        }
        if take(&ring.err)? > 0 {
            return Ok(false);
        }
        std::thread::sleep(LULL / 50);
    }
    Ok(false)
}

fn garbage(cx: &mut Cx) -> Checked {
    needed(cx)?;
    cx.each_format(|cx, format| {
        for seed in 0..6_u64 {
            let (session, records) = with_records(cx, format)?;
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let bytes = std::iter::repeat_with(|| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            });
            let bytes: Vec<u8> = bytes.flatten().take(records.area.len()).collect();
            records.area.write_from(0, &bytes)?;
            if seed >= 2 {
                // At first sight, records in use.
                records.write16(VERSION_AT, 1)?;
                records.write16(SIZE_AT, 16)?;
            }
            if seed >= 4 {
                records.area.write_from(12, &[0; 4])?;
            }
            started_with(cx, session, &records).map_err(|stop| stop.when(format_args!("garbage {seed}")))?;
        }
        Ok(())
    })
}

fn other_size(cx: &mut Cx) -> Checked {
    needed(cx)?;
    cx.each_format(|cx, format| {
        for (version, entries) in [(1, 8), (1, 0), (1, u16::MAX), (2, 16), (u16::MAX, 16)] {
            let (session, records) = with_records(cx, format)?;
            records.begin(16)?;
            records.write16(VERSION_AT, version)?;
            records.write16(SIZE_AT, entries)?;
            // Behind the end of the smaller one, too.
            for index in [0, 3, 15] {
                records.area.write_from(records.entry(index), &[1])?;
            }
            started_with(cx, session, &records)
                .map_err(|stop| stop.when(format_args!("version {version}, {entries} entries")))?;
        }
        Ok(())
    })
}

/// A buffer of this many bytes in a file of its own, described as for rings of 16.
fn of_size(records: &mut Records, mmap_size: u64, file: u64) -> Checked {
    records.fd = memfd("inflight", file)?;
    records.told = Inflight { mmap_size, mmap_offset: 0, ..records.told };
    Ok(())
}

fn too_small(cx: &mut Cx) -> Checked {
    needed(cx)?;
    cx.each_format(|cx, format| {
        for size in [8, 64] {
            let (session, mut records) = with_records(cx, format)?;
            of_size(&mut records, size, size)?;
            let served = started_with(cx, session, &records)?;
            ensure!(
                !served,
                "a buffer of {size} bytes for rings of 16 is accepted, and the ring serves requests"
            );
        }
        Ok(())
    })
}

fn short_file(cx: &mut Cx) -> Checked {
    needed(cx)?;
    cx.each_format(|cx, format| {
        for file in [0, 100] {
            let (session, mut records) = with_records(cx, format)?;
            // The size of many pages: a file of a part of one is readable to the end of that.
            let size = records.told.mmap_size.max(1 << 20);
            of_size(&mut records, size, file)?;
            let served = started_with(cx, session, &records)?;
            if served {
                cx.note(format!("{format:?}: a buffer of {size} bytes in a file of {file} is accepted"));
            }
        }
        Ok(())
    })
}
