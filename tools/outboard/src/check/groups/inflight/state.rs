//! What the records say while requests come and go.

use outboard_virtqueue::Format;

use super::{Records, SIZE_AT, VERSION, VERSION_AT, needed, with_records};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::Session;
use crate::check::verdict::{Checked, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "inflight.header",
        title: "the records of a ring that runs have version 1 and as many entries as the ring",
        spec: "vhost-user: Inflight I/O tracking",
        run: header,
    },
    Check {
        id: "inflight.cleared",
        title: "nothing is in flight once all requests are returned",
        spec: "vhost-user: Inflight I/O tracking",
        run: cleared,
    },
    Check {
        id: "inflight.used-index",
        title: "the used index of the records follows that of the ring",
        spec: "vhost-user: Inflight I/O tracking",
        run: used_index,
    },
    Check {
        id: "inflight.restart",
        title: "a ring that stops and starts again goes on with its records",
        spec: "vhost-user: Inflight I/O tracking, Ring states",
        run: restart,
    },
];

/// A ring with records that runs, and has served some requests.
fn running(cx: &mut Cx, format: Format) -> Checked<(Session, Records)> {
    let sample = cx.sample()?;
    let (mut session, records) = with_records(cx, format)?;
    records.give(&mut session)?;
    session.start(session.last())?;
    session.rounds(&sample, 21, 4)?;
    Ok((session, records))
}

fn header(cx: &mut Cx) -> Checked {
    needed(cx)?;
    cx.each_format(|cx, format| {
        let (_session, records) = running(cx, format)?;
        let mut features = [0xff; 8];
        records.area.read_into(0, &mut features)?;
        ensure!(features == [0; 8], "features {features:?}");
        let version = records.read16(VERSION_AT)?;
        ensure!(version == VERSION, "version {version}");
        let entries = records.read16(SIZE_AT)?;
        ensure!(entries == 16, "{entries} entries for a ring of 16");
        Ok(())
    })
}

fn cleared(cx: &mut Cx) -> Checked {
    needed(cx)?;
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let (mut session, records) = running(cx, format)?;
        for _ in 0..5 {
            session.rounds(&sample, 9, 3)?;
            let cleared = cx.eventually(|| Ok(records.in_flight(16)? == 0))?;
            ensure!(cleared, "{} records say that something is in flight", records.in_flight(16)?);
        }
        session.stop(session.last())?;
        ensure!(records.in_flight(16)? == 0, "something is in flight after the ring was stopped");
        Ok(())
    })
}

fn used_index(cx: &mut Cx) -> Checked {
    needed(cx)?;
    let sample = cx.sample()?;
    let descriptors = u16::try_from(sample.readable.len() + sample.writable.len())?;
    cx.each_format(|cx, format| {
        let (mut session, records) = running(cx, format)?;
        for round in 0..5 {
            let requests = 21 + round * 5;
            let expected = match format {
                Format::Split => requests,
                Format::Packed => {
                    let on = requests * descriptors;
                    (on % 16) | if (on / 16).is_multiple_of(2) { 0x8000 } else { 0 }
                }
            };
            let followed = cx.eventually(|| Ok(records.used_index()? == expected))?;
            ensure!(
                followed,
                "{requests} requests on, the recorded used index is {:#x}, not {expected:#x}",
                records.used_index()?
            );
            session.rounds(&sample, 5, 2)?;
        }
        Ok(())
    })
}

fn restart(cx: &mut Cx) -> Checked {
    needed(cx)?;
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let (mut session, _records) = running(cx, format)?;
        let at = session.last();
        for _ in 0..5 {
            let base = session.stop(at)?;
            session.start_at(at, base)?;
            session.rounds(&sample, 7, 2)?;
        }
        Ok(())
    })
}
