//! Rings that start, stop, rest and go on.

use std::time::Duration;

use outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;
use outboard_virtqueue::{Base, Format};

use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::out::Out;
use crate::check::ring::{Ring, signal, take};
use crate::check::sample::Kind;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "ring.requests-before-start",
        title: "requests made available before the ring started are served with its first kick",
        spec: "vhost-user: Ring states",
        run: requests_before_start,
    },
    Check {
        id: "ring.disabled-keeps-requests",
        title: "requests made while a ring is disabled are served at the latest when it is enabled",
        spec: "vhost-user: Ring states; in use: DPDK, Cloud Hypervisor",
        run: disabled_keeps_requests,
    },
    Check {
        id: "ring.stop-drains",
        title: "what was taken is returned before a stop is answered, and nothing is lost or done twice",
        spec: "vhost-user: GET_VRING_BASE",
        run: stop_drains,
    },
    Check {
        id: "ring.stop-base",
        title: "a stop tells where the ring stands",
        spec: "vhost-user: GET_VRING_BASE, A vring state description",
        run: stop_base,
    },
    Check {
        id: "ring.stop-never-started",
        title: "the base of a ring that never started is what was set",
        spec: "vhost-user: GET_VRING_BASE",
        run: stop_never_started,
    },
    Check {
        id: "ring.stopped-untouched",
        title: "a ring that is stopped is neither served, nor written to, nor called for",
        spec: "vhost-user: Ring states",
        run: stopped_untouched,
    },
    Check {
        id: "ring.restart",
        title: "a ring that was stopped goes on at its base, many times",
        spec: "vhost-user: Ring states",
        run: restart,
    },
    Check {
        id: "ring.restart-other",
        title: "a ring that was stopped starts afresh elsewhere, with another size",
        spec: "vhost-user: Ring states; in use: guests that reset the device",
        run: restart_other,
    },
    Check {
        id: "ring.base-midway",
        title: "a ring starts at any base, and goes on over the wrap",
        spec: "vhost-user: SET_VRING_BASE",
        run: base_midway,
    },
    Check {
        id: "ring.used-index-kept",
        title: "the used index in memory is gone on with, whatever the base",
        spec: "vhost-user: SET_VRING_BASE (available index); in use: QEMU, Cloud Hypervisor after a crash",
        run: used_index_kept,
    },
];

/// Makes requests until the ring is full, or there are so many.
fn fill(cx: &Cx, session: &mut Session, count: usize) -> Checked<Out> {
    let mut out = Out::new(cx)?;
    out.add(session, count)?;
    Ok(out)
}

fn requests_before_start(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::prepared(cx, &Setup::new(format))?;
        let at = session.last();
        let mut out = fill(cx, &mut session, 3)?;
        session.ring(at)?.queue.publish();
        session.num(at)?;
        session.base(at)?;
        session.addr(at)?;
        session.call(at)?;
        session.kick(at)?;
        session.enable(at, true)?;
        std::thread::sleep(LULL);
        out.collect(&mut session)?;
        if out.left() > 0 {
            cx.note(format!("{format:?}: the ring is not looked at before its first kick"));
        }
        signal(&session.ring(at)?.kick)?;
        out.finish(cx, &mut session)
    })
}

fn disabled_keeps_requests(cx: &mut Cx) -> Checked {
    cx.needs_feature(VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES")?;
    if cx.kind == Kind::Net {
        return Err(Stop::NotApplicable(
            "a network card may drop what it is to send while disabled".to_owned(),
        ));
    }
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        session.request()?;
        let at = session.last();
        for kicked in [true, false] {
            session.enable(at, false)?;
            let mut out = fill(cx, &mut session, 3)?;
            session.ring(at)?.queue.publish();
            if kicked {
                signal(&session.ring(at)?.kick)?;
            }
            session.wire.barrier()?;
            std::thread::sleep(LULL);
            out.collect(&mut session)?;
            if out.left() < 3 {
                // What has no side effects may be done (vhost-user: Ring states).
                cx.note(format!("{format:?}: requests are served while the ring is disabled"));
            }
            session.enable(at, true)?;
            if kicked {
                out.finish(cx, &mut session).map_err(|stop| stop.when("kicked while it was disabled"))?;
                continue;
            }
            std::thread::sleep(LULL);
            out.collect(&mut session)?;
            if out.left() == 3 {
                cx.note(format!("{format:?}: a ring that is enabled is not looked at without a kick"));
            }
            signal(&session.ring(at)?.kick)?;
            out.finish(cx, &mut session)?;
        }
        Ok(())
    })
}

/// How many requests of the sample's shape lie before the base, on a ring that began at its start and has not gone
/// round.
fn taken(ring: &Ring, base: Base, descriptors: usize) -> Checked<usize> {
    Ok(match ring.format {
        Format::Split => base.avail_index().into(),
        Format::Packed => {
            let (index, wrap) = base.packed_avail();
            let lap = if wrap { 0 } else { usize::from(ring.queue.size()) };
            (lap + usize::from(index)) / descriptors.max(1)
        }
    })
}

fn stop_drains(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        for nth in 0..12 {
            let mut session = Session::ready(cx, &Setup { size: 64, ..Setup::new(format) })?;
            let at = session.last();
            let mut out = fill(cx, &mut session, usize::MAX)?;
            let descriptors = out.sample().readable.len() + out.sample().writable.len();
            session.ring(at)?.publish()?;
            // At another moment each time.
            std::thread::sleep(Duration::from_micros(nth * nth * 10));
            let base = session.stop(at)?;
            let taken = taken(session.ring(at)?, base, descriptors)?;
            out.collect(&mut session)?;
            let returned = out.made() - out.left();
            ensure!(
                returned == taken,
                "stopped at {base:?}, where {taken} requests were taken, {returned} returned"
            );
            let base = whole(format, base);
            session.start_at(at, base)?;
            out.finish(cx, &mut session).map_err(|stop| stop.when("after the restart"))?;
        }
        Ok(())
    })
}

/// The base to restart with, when the back end tells only its low half.
pub(in crate::check::groups) fn whole(format: Format, base: Base) -> Base {
    match format {
        Format::Packed if base.0 >> 16 == 0 => Base(base.0 | base.0 << 16),
        _ => base,
    }
}

fn stop_base(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    let descriptors = u32::try_from(sample.readable.len() + sample.writable.len())?;
    cx.each_format(|cx, format| {
        // Eleven requests: a packed ring of 16 is in a later lap.
        let mut session = Session::ready(cx, &Setup::new(format))?;
        session.rounds(&sample, 11, 2)?;
        let base = session.stop(session.last())?;
        match format {
            Format::Split => ensure!(base == Base::split(11), "11 requests on, the base is {:#x}", base.0),
            Format::Packed => {
                let on = 11 * descriptors;
                let (index, wrap) = (u16::try_from(on % 16)?, (on / 16).is_multiple_of(2));
                let expected = Base::packed(index, wrap, index, wrap);
                ensure!(
                    base == expected || base.0 == expected.0 & 0xffff,
                    "11 requests on, the base is {:#x}, not {:#x}",
                    base.0,
                    expected.0
                );
                if base != expected {
                    cx.note("Packed: only the low half of the base is told");
                }
            }
        }
        Ok(())
    })
}

fn stop_never_started(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::prepared(cx, &Setup::new(format))?;
        let at = session.last();
        let first = session.stop(at)?;
        cx.note(format!("{format:?}: the base of a fresh ring is {:#x}", first.0));
        let set = if format == Format::Split { Base::split(5) } else { Base::packed(5, true, 5, true) };
        session.base_of(at, set)?;
        let told = session.stop(at)?;
        ensure!(
            told == set || (format == Format::Packed && told.0 == set.0 & 0xffff),
            "base {:#x} was set, {:#x} is told",
            set.0,
            told.0
        );
        // It starts as if nothing had been.
        session.start(at)?;
        session.request().map(drop)
    })
}

/// What the device writes of a ring.
fn device_side(ring: &Ring) -> Checked<Vec<u8>> {
    let layout = ring.queue.layout();
    let mut bytes = vec![0; usize::try_from(layout.tables - layout.device)?];
    ring.memory.read_into(usize::try_from(layout.device)?, &mut bytes)?;
    Ok(bytes)
}

fn stopped_untouched(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let at = session.last();
        session.request()?;
        session.stop(at)?;
        take(&session.ring(at)?.call)?;
        let before = device_side(session.ring(at)?)?;
        let mut out = fill(cx, &mut session, 2)?;
        session.ring(at)?.publish()?;
        // A ring that is stopped stays so, enabled or not.
        session.enable(at, true)?;
        session.wire.barrier()?;
        std::thread::sleep(LULL);
        out.collect(&mut session)?;
        ensure!(out.left() == 2, "{} requests were served after the stop", 2 - out.left());
        let ring = session.ring(at)?;
        ensure!(device_side(ring)? == before, "the ring was written to after the stop");
        let calls = take(&ring.call)?;
        ensure!(calls == 0, "{calls} calls came after the stop");
        Ok(())
    })
}

fn restart(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let at = session.last();
        for _ in 0..12 {
            session.rounds(&sample, 7, 2)?;
            let base = whole(format, session.stop(at)?);
            session.start_at(at, base)?;
        }
        session.rounds(&sample, 7, 2)
    })
}

fn restart_other(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let index = session.ring(session.last())?.index;
        for size in [64, 8, 32, 16] {
            session.rounds(&sample, 13, 2)?;
            session.stop(session.last())?;
            session.setup.size = size;
            let at = session.add_ring(index)?;
            session.start(at)?;
        }
        session.rounds(&sample, 13, 2)
    })
}

fn base_midway(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let bases = match format {
            Format::Split => [Base::split(65_535), Base::split(65_520), Base::split(32_767)],
            Format::Packed => [
                Base::packed(15, false, 15, false),
                Base::packed(15, true, 15, true),
                Base::packed(1, false, 1, false),
            ],
        };
        for base in bases {
            let mut session = Session::prepared(cx, &Setup::new(format))?;
            let at = session.last();
            session.ring(at)?.queue.begin_at(base, base.avail_index());
            session.start_at(at, base)?;
            session.rounds(&sample, 60, 3).map_err(|stop| stop.when(format_args!("from {base:?}")))?;
        }
        Ok(())
    })
}

/// Three requests were taken by a predecessor and never returned: of its used index only the ring knows.
fn used_index_kept(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    let mut session = Session::prepared(cx, &Setup::new(Format::Split))?;
    let at = session.last();
    session.ring(at)?.queue.begin_at(Base::split(10), 7);
    // Without in-flight records, those three are nobody's.
    session.start_at(at, Base::split(10))?;
    session.rounds(&sample, 4, 1)?;
    let used = session.ring(at)?.used_index()?;
    ensure!(used == 11, "4 requests on from used index 7, it is {used}");
    Ok(())
}
