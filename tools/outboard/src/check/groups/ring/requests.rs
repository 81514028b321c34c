//! Requests are served: one, many, all at once, in order, on each ring for itself.

use std::time::{Duration, Instant};

use outboard_virtio_defs::features::VIRTIO_F_IN_ORDER;

use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::signal;
use crate::check::sample::Kind;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "ring.sample",
        title: "a request is served, and answered as its device type has it",
        spec: "VIRTIO 1.3, 2.7 and 2.8",
        run: sample,
    },
    Check {
        id: "ring.long-run",
        title: "70000 requests are served: indexes of 16 bits and wrap counters go round",
        spec: "VIRTIO 1.3, 2.7.13 and 2.8.1",
        run: long_run,
    },
    Check {
        id: "ring.full",
        title: "a ring that is full is served, again and again",
        spec: "VIRTIO 1.3, 2.7.13",
        run: full,
    },
    Check {
        id: "ring.one-kick-for-many",
        title: "one kick is enough for all requests that were made available before it",
        spec: "VIRTIO 1.3, 2.7.13.3; in use: all drivers",
        run: one_kick_for_many,
    },
    Check {
        id: "ring.spurious-kicks",
        title: "kicks for nothing change nothing",
        spec: "VIRTIO 1.3, 2.7.10.2",
        run: spurious_kicks,
    },
    Check {
        id: "ring.used-length",
        title: "the length returned is no more than what was written",
        spec: "VIRTIO 1.3, 2.7.8.2",
        run: used_length,
    },
    Check {
        id: "ring.in-order",
        title: "with IN_ORDER, requests are returned in the order in which they were made available",
        spec: "VIRTIO 1.3, 2.7.9 and 2.8.8",
        run: in_order,
    },
    Check {
        id: "ring.two-rings",
        title: "two rings are served, each for itself",
        spec: "vhost-user: Multiple queue support",
        run: two_rings,
    },
];

/// How long the long run may take before it is given up.
const LONG: Duration = Duration::from_secs(60);

fn sample(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        for _ in 0..3 {
            session.request()?;
        }
        Ok(())
    })
}

fn long_run(cx: &mut Cx) -> Checked {
    const COUNT: u64 = 70_000;
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup { size: 128, ..Setup::new(format) })?;
        let done = session.rounds_until(&sample, COUNT, 64, Some(Instant::now() + LONG))?;
        if done < COUNT {
            return Err(Stop::Skip(format!("only {done} requests were served in {LONG:?}")));
        }
        Ok(())
    })
}

fn full(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        for _ in 0..20 {
            session.rounds(&sample, 16, usize::MAX)?;
        }
        Ok(())
    })
}

fn one_kick_for_many(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup { size: 64, ..Setup::new(format) })?;
        session.request()?;
        let patience = session.patience;
        for round in 0..10 {
            let Session { memory, rings, .. } = &mut session;
            let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
            let mut placed = Vec::new();
            for token in 0..8 {
                placed.push(Some(ring.place(memory, &sample, token)?));
                // Shown one by one, or all at once.
                if round % 2 == 0 {
                    ring.queue.publish();
                }
            }
            ring.queue.publish();
            signal(&ring.kick)?;
            for _ in 0..8 {
                let (token, len) = ring.returned(patience)?;
                let placed = placed.get_mut(usize::try_from(token)?).and_then(Option::take);
                let placed = placed.ok_or_else(|| Stop::fail("a request was returned twice"))?;
                ring.verify(memory, &sample, placed, len)?;
            }
        }
        Ok(())
    })
}

fn spurious_kicks(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        for _ in 0..50 {
            signal(&session.sample_ring()?.kick)?;
            std::thread::sleep(Duration::from_micros(200));
        }
        let returned = session.sample_ring()?.queue.poll_used()?;
        ensure!(returned.is_none(), "something was returned that was never made available");
        session.request().map(drop)
    })
}

/// The buffers are filled with another byte each time: what is still in place every time was not written.
fn used_length(cx: &mut Cx) -> Checked {
    const FILLS: [u8; 4] = [0x11, 0x5a, 0xc3, 0xee];
    let sample = cx.sample()?;
    let room: u32 = sample.writable.iter().sum();
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let patience = session.patience;
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let mut unwritten: Option<Vec<bool>> = None;
        for fill in FILLS {
            let placed = ring.place(memory, &sample, 1)?;
            placed.writable.iter().for_each(|segment| segment.fill(fill));
            ring.publish()?;
            let (_, len) = ring.returned(patience)?;
            ensure!(len <= room, "length {len} for {room} bytes to write");
            let written = ring.verify(memory, &sample, placed, len)?;
            let here = written.iter().take(usize::try_from(len)?).map(|&byte| byte == fill);
            unwritten = Some(match unwritten {
                None => here.collect(),
                Some(before) => before.iter().zip(here).map(|(before, here)| *before && here).collect(),
            });
        }
        let first = unwritten.unwrap_or_default().iter().position(|&unwritten| unwritten);
        match first {
            None => Ok(()),
            Some(at) => Err(Stop::fail(format!("byte {at} counts as written, and never is"))),
        }
    })
}

fn in_order(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_IN_ORDER, "IN_ORDER")?;
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        // The driver's half holds the order against what was made available.
        let setup = Setup { in_order: true, size: 64, ..Setup::new(format) };
        Session::ready(cx, &setup)?.rounds(&sample, 2000, 21)
    })
}

fn two_rings(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    if cx.kind != Kind::Blk {
        return Err(Stop::NotApplicable("the device has one queue for such requests".to_owned()));
    }
    if cx.offer.queues.is_none_or(|queues| queues < 2) {
        return Err(Stop::lacks("a second queue"));
    }
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let second = session.add_ring(1)?;
        session.start(second)?;
        session.rounds(&sample, 20, 4)?;
        // The rings change places: the last one takes the requests.
        session.rings.swap(0, 1);
        session.rounds(&sample, 20, 4)?;
        session.stop(session.last())?;
        session.rings.swap(0, 1);
        session.rounds(&sample, 20, 4).map_err(|stop| stop.when("while the other is stopped"))
    })
}
