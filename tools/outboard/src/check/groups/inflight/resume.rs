//! A back end goes on where another one stopped: each request is returned once.

use std::time::Duration;

use outboard_virtqueue::{Base, Format};

use super::{Records, needed, with_records};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::out::Out;
use crate::check::session::Session;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "inflight.resubmit",
        title: "what a predecessor had taken and not returned is served once, and what came later too",
        spec: "vhost-user: Inflight I/O tracking, When reconnecting",
        run: resubmit,
    },
    Check {
        id: "inflight.out-of-order",
        title: "what a predecessor had returned before its turn is not served again, and what it passed over is",
        spec: "vhost-user: Inflight I/O tracking, When reconnecting",
        run: out_of_order,
    },
    Check {
        id: "inflight.last-batch",
        title: "what a predecessor had returned just before it died, records uncleared, is not served again",
        spec: "vhost-user: Inflight I/O tracking, When reconnecting",
        run: last_batch,
    },
    Check {
        id: "inflight.unused-records",
        title: "with records of which no ring made use yet, requests that are pending are served once",
        spec: "vhost-user: Inflight I/O tracking (version 0: uninitialised)",
        run: unused_records,
    },
    Check {
        id: "inflight.kill",
        title: "a back end that is killed at work is replaced, and each request is returned once",
        spec: "vhost-user: Inflight I/O tracking; in use: QEMU, SPDK",
        run: kill,
    },
];

/// Records as a predecessor leaves them that had taken the first `count` requests of a fresh ring, all of the same
/// shape and in the order in which they were made, with these counters.
fn took(records: &Records, session: &mut Session, count: u16, counter: impl Fn(u16) -> u64) -> Checked {
    let descriptors = {
        let sample = session.sample()?;
        u16::try_from(sample.readable.len() + sample.writable.len())?
    };
    let ring = session.sample_ring()?;
    records.begin(ring.queue.size())?;
    for nth in 0..count {
        let head = nth * descriptors;
        let at = records.entry(head);
        records.area.write_from(at + 8, &counter(nth).to_le_bytes())?;
        if records.format == Format::Packed {
            records.write16(at + 4, head + descriptors - 1)?;
            records.write16(at + 6, descriptors)?;
            for index in head..head + descriptors {
                // Address, length, id and flags, as they stand in the ring.
                let mut descriptor = [0; 16];
                ring.memory.read_into(16 * usize::from(index), &mut descriptor)?;
                let to = records.entry(index);
                let [addr @ .., _, _, _, _, _, _, _, _] = descriptor;
                let [_, _, _, _, _, _, _, _, len @ .., _, _, _, _] = descriptor;
                let [.., id_low, id_high, flags_low, flags_high] = descriptor;
                records.area.write_from(to + 16, &[id_low, id_high, flags_low, flags_high])?;
                records.area.write_from(to + 20, &len)?;
                records.area.write_from(to + 24, &addr)?;
            }
            records.write16(12, head + descriptors)?;
            records.write16(14, head + descriptors)?;
        }
        set_in_flight(records, head, true)?;
    }
    Ok(())
}

fn set_in_flight(records: &Records, head: u16, on: bool) -> Checked {
    Ok(records.area.write_from(records.entry(head), &[on.into()])?)
}

/// As a predecessor's, into the used ring of a fresh split ring: this request, the `nth`, was returned.
fn returned(session: &mut Session, nth: u16, head: u16) -> Checked {
    let sample = session.sample()?;
    let len: u32 = sample.writable.iter().sum();
    let ring = session.sample_ring()?;
    let used = usize::try_from(ring.queue.layout().device)?;
    let element = [u32::from(head).to_le_bytes(), len.to_le_bytes()].concat();
    ring.memory.write_from(used + 4 + 8 * usize::from(nth), &element)?;
    ring.memory.write_from(used + 2, &(nth + 1).to_le_bytes())?;
    Ok(())
}

fn resubmit(cx: &mut Cx) -> Checked {
    needed(cx)?;
    cx.each_format(|cx, format| {
        // In the order in which they were made, and the other way round.
        for order in [|nth: u16| u64::from(nth) + 5, |nth: u16| 100 - u64::from(nth)] {
            let (mut session, records) = with_records(cx, format)?;
            let at = session.last();
            let mut out = Out::new(cx)?;
            out.add(&mut session, 3)?;
            session.ring(at)?.queue.publish();
            took(&records, &mut session, 3, order)?;
            // Not taken by anybody yet.
            out.add(&mut session, 1)?;
            session.ring(at)?.queue.publish();
            records.give(&mut session)?;
            session.start(at)?;
            out.finish_once(cx, &mut session)?;
            out.add(&mut session, 5)?;
            session.ring(at)?.publish()?;
            out.finish_once(cx, &mut session)?;
            let cleared = cx.eventually(|| Ok(records.in_flight(16)? == 0))?;
            ensure!(cleared, "{} records say that something is in flight", records.in_flight(16)?);
        }
        Ok(())
    })
}

fn descriptors(cx: &Cx) -> Checked<u16> {
    let sample = cx.sample()?;
    Ok(u16::try_from(sample.readable.len() + sample.writable.len())?)
}

fn out_of_order(cx: &mut Cx) -> Checked {
    needed(cx)?;
    let each = descriptors(cx)?;
    let (mut session, records) = with_records(cx, Format::Split)?;
    let at = session.last();
    let mut out = Out::new(cx)?;
    out.add(&mut session, 4)?;
    session.ring(at)?.queue.publish();
    took(&records, &mut session, 4, u64::from)?;
    // The second one was returned first.
    returned(&mut session, 0, each)?;
    set_in_flight(&records, each, false)?;
    records.write16(14, 1)?;
    out.forget_returned(&mut session)?;
    records.give(&mut session)?;
    session.start_at(at, Base::split(1))?;
    out.finish_once(cx, &mut session)?;
    out.add(&mut session, 5)?;
    session.ring(at)?.publish()?;
    out.finish_once(cx, &mut session)
}

fn last_batch(cx: &mut Cx) -> Checked {
    needed(cx)?;
    let each = descriptors(cx)?;
    let (mut session, records) = with_records(cx, Format::Split)?;
    let at = session.last();
    let mut out = Out::new(cx)?;
    out.add(&mut session, 4)?;
    session.ring(at)?.queue.publish();
    took(&records, &mut session, 4, u64::from)?;
    // The first and the third were returned in one batch: the ring shows it, the records do not yet.
    returned(&mut session, 0, 0)?;
    returned(&mut session, 1, 2 * each)?;
    records.write16(records.entry(2 * each) + 6, 0)?;
    records.write16(12, 2 * each)?;
    out.forget_returned(&mut session)?;
    records.give(&mut session)?;
    session.start_at(at, Base::split(2))?;
    out.finish_once(cx, &mut session)?;
    out.add(&mut session, 5)?;
    session.ring(at)?.publish()?;
    out.finish_once(cx, &mut session)
}

fn unused_records(cx: &mut Cx) -> Checked {
    needed(cx)?;
    cx.each_format(|cx, format| {
        let (mut session, records) = with_records(cx, format)?;
        let mut out = Out::new(cx)?;
        out.add(&mut session, 4)?;
        session.sample_ring()?.queue.publish();
        records.give(&mut session)?;
        session.start(session.last())?;
        out.finish_once(cx, &mut session)
    })
}

fn kill(cx: &mut Cx) -> Checked {
    const ROUNDS: u64 = 6;
    cx.needs_command()?;
    needed(cx)?;
    cx.each_format(|cx, format| {
        let (mut session, records) = with_records(cx, format)?;
        records.give(&mut session)?;
        let at = session.last();
        session.start(at)?;
        session.request()?;
        let mut out = Out::new(cx)?;
        for round in 0..ROUNDS {
            for _ in 0..50 {
                out.add(&mut session, usize::MAX)?;
                session.ring(at)?.publish()?;
                out.collect(&mut session)?;
            }
            out.add(&mut session, usize::MAX)?;
            session.ring(at)?.publish()?;
            std::thread::sleep(Duration::from_micros(round * 40));
            let back_end = cx.target.take_back_end();
            back_end.ok_or_else(|| Stop::fail("the back end ended by itself"))?.kill()?;
            session.reconnect(cx)?;
            records.give(&mut session)?;
            let queue = &mut session.ring(at)?.queue;
            queue.restarted();
            let base = queue.base_for_restart();
            session.start_at(at, base)?;
            out.finish_once(cx, &mut session).map_err(|stop| stop.when(format_args!("kill {round}")))?;
        }
        Ok(())
    })
}
