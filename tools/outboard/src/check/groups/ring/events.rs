//! Who wakes whom, and when: kicks and calls, wanted and not.

use outboard_vhost_user::FrontendRequest as Code;
use outboard_vhost_user::message::vring_fd;
use outboard_virtio_defs::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED};
use outboard_virtqueue::{Base, Format};
use zerocopy::IntoBytes;

use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::{Placed, Ring, signal, take, wait};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::Answer;

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "ring.calls-when-wanted",
        title: "whoever asks for a call and sleeps is called",
        spec: "VIRTIO 1.3, 2.7.7.2 and 2.8.9",
        run: calls_when_wanted,
    },
    Check {
        id: "ring.calls-when-wanted-event-idx",
        title: "whoever asks for a call by EVENT_IDX and sleeps is called",
        spec: "VIRTIO 1.3, 2.7.7.2 and 2.8.9",
        run: calls_when_wanted_event_idx,
    },
    Check {
        id: "ring.call-suppressed",
        title: "who asks for no calls is not called for every request",
        spec: "VIRTIO 1.3, 2.7.7.2 and 2.8.9.2",
        run: call_suppressed,
    },
    Check {
        id: "ring.call-at-event",
        title: "with EVENT_IDX, a call comes at the request that it was asked for, not at each before",
        spec: "VIRTIO 1.3, 2.7.7.2 and 2.8.10",
        run: call_at_event,
    },
    Check {
        id: "ring.kicks-when-wanted",
        title: "who asks for no kick looks at the ring without one",
        spec: "VIRTIO 1.3, 2.7.10 and 2.8.14",
        run: kicks_when_wanted,
    },
    Check {
        id: "ring.kicks-when-wanted-event-idx",
        title: "who asks for no kick by EVENT_IDX looks at the ring without one",
        spec: "VIRTIO 1.3, 2.7.10 and 2.8.14",
        run: kicks_when_wanted_event_idx,
    },
    Check {
        id: "ring.device-event-area",
        title: "the device event area of a packed ring has only values that mean something",
        spec: "VIRTIO 1.3, 2.8.14",
        run: device_event_area,
    },
    Check {
        id: "ring.without-call-fd",
        title: "a ring without a descriptor for calls is served",
        spec: "vhost-user: SET_VRING_CALL",
        run: without_call_fd,
    },
    Check {
        id: "ring.without-kick-fd",
        title: "a ring without a descriptor for kicks is polled, or refused",
        spec: "vhost-user: SET_VRING_KICK",
        run: without_kick_fd,
    },
];

fn calls_when_wanted(cx: &mut Cx) -> Checked {
    calls(cx, false)
}

fn calls_when_wanted_event_idx(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_EVENT_IDX, "EVENT_IDX")?;
    calls(cx, true)
}

/// Asks for a call before each request, and looks at the ring after a call only.
fn calls(cx: &mut Cx, event_idx: bool) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup { event_idx, ..Setup::new(format) })?;
        let patience = session.patience;
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        for nth in 0..100 {
            ring.queue.arm_calls();
            let placed = ring.place(memory, &sample, nth)?;
            ring.publish()?;
            let len = loop {
                if !wait(&ring.call, patience)? {
                    let returned =
                        if ring.queue.has_used() { "returned without a call" } else { "not returned" };
                    return Err(Stop::fail(format!("request {nth} was {returned}")));
                }
                take(&ring.call)?;
                // A call for nothing may come at any time.
                if let Some((_, len)) = ring.queue.poll_used()? {
                    break len;
                }
            };
            ring.verify(memory, &sample, placed, len)?;
        }
        Ok(())
    })
}

/// Makes one request and waits for it by looking; what is asked for in the way of calls stays as it is.
fn quietly(session: &mut Session) -> Checked {
    let sample = session.sample()?;
    let deadline = std::time::Instant::now() + session.patience;
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    let placed = ring.place(memory, &sample, 0)?;
    ring.publish()?;
    loop {
        if let Some((_, len)) = ring.queue.poll_used()? {
            return ring.verify(memory, &sample, placed, len).map(drop);
        }
        ensure!(std::time::Instant::now() < deadline, "the request was not returned");
        std::thread::yield_now();
    }
}

fn call_suppressed(cx: &mut Cx) -> Checked {
    const ROUNDS: u64 = 64;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        session.sample_ring()?.queue.suppress_calls();
        quietly(&mut session)?;
        std::thread::sleep(LULL);
        take(&session.sample_ring()?.call)?;
        for _ in 0..ROUNDS {
            quietly(&mut session)?;
        }
        std::thread::sleep(LULL);
        let calls = take(&session.sample_ring()?.call)?;
        if calls > 0 {
            cx.note(format!("{format:?}: {calls} calls for {ROUNDS} requests, where none was wanted"));
        }
        // One more may always come, but not one for each.
        ensure!(calls < ROUNDS / 2, "{calls} calls for {ROUNDS} requests, where none was wanted");
        Ok(())
    })
}

/// Asks for a call when the request behind the `ahead` next ones was returned.
fn ask_for_call(ring: &Ring, used: u16, ahead: u16, descriptors: u16) -> Checked {
    let at = usize::try_from(ring.queue.layout().driver)?;
    let size = ring.queue.size();
    match ring.format {
        Format::Split => {
            let event = used.wrapping_add(ahead);
            ring.memory.write_from(at + 4 + 2 * usize::from(size), &event.to_le_bytes())?;
        }
        Format::Packed => {
            // `used` is the position of the next used descriptor, with its wrap counter on top.
            let (mut index, mut wrap) = (used & 0x7fff, used & 0x8000);
            index += ahead * descriptors;
            while index >= size {
                index -= size;
                wrap ^= 0x8000;
            }
            let area = u32::from(index | wrap) | 2 << 16;
            ring.memory.write_from(at, &area.to_le_bytes())?;
        }
    }
    Ok(())
}

fn call_at_event(cx: &mut Cx) -> Checked {
    const BEFORE: u16 = 7;
    cx.needs_feature(VIRTIO_F_EVENT_IDX, "EVENT_IDX")?;
    let sample = cx.sample()?;
    let descriptors = u16::try_from(sample.readable.len() + sample.writable.len())?;
    cx.each_format(|cx, format| {
        // Once from the beginning, once around the end of the indexes.
        for start in [0, 1] {
            let setup = Setup { event_idx: true, size: 64, ..Setup::new(format) };
            let mut session = Session::prepared(cx, &setup)?;
            let (base, next) = match (format, start) {
                (Format::Split, 0) => (Base::split(0), 1),
                (Format::Split, _) => (Base::split(65_530), 65_531),
                (Format::Packed, 0) => (Base::FRESH_PACKED, descriptors | 0x8000),
                (Format::Packed, _) => (Base::packed(56, false, 56, false), 56 + descriptors),
            };
            let at = session.last();
            session.ring(at)?.queue.begin_at(base, base.avail_index());
            session.start_at(at, base)?;
            // The first may be told in any case.
            ask_for_call(session.sample_ring()?, next, BEFORE, descriptors)?;
            quietly(&mut session)?;
            std::thread::sleep(LULL);
            take(&session.sample_ring()?.call)?;
            for _ in 0..BEFORE {
                quietly(&mut session)?;
            }
            std::thread::sleep(LULL);
            let early = take(&session.sample_ring()?.call)?;
            ensure!(early < u64::from(BEFORE), "{early} calls before the one that was asked for");
            if early > 0 {
                cx.note(format!("{format:?}: {early} calls before the one that was asked for"));
            }
            quietly(&mut session)?;
            let patience = session.patience;
            let came = wait(&session.sample_ring()?.call, patience)?;
            ensure!(came, "no call for the request that one was asked for at (base {base:?})");
        }
        Ok(())
    })
}

fn kicks_when_wanted(cx: &mut Cx) -> Checked {
    kicks(cx, false)
}

fn kicks_when_wanted_event_idx(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_EVENT_IDX, "EVENT_IDX")?;
    kicks(cx, true)
}

/// Kicks only when asked to.
fn kicks(cx: &mut Cx, event_idx: bool) -> Checked {
    const COUNT: u64 = 3000;
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup { event_idx, size: 64, ..Setup::new(format) })?;
        let patience = session.patience;
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let mut out: Vec<Option<Placed>> = vec![];
        let mut kicks = 0;
        for nth in 0..COUNT {
            out.push(Some(ring.place(memory, &sample, nth)?));
            let wanted = ring.queue.publish();
            if wanted {
                signal(&ring.kick)?;
                kicks += 1;
            }
            // Now one at a time, now a few at once: it falls asleep between some.
            let target = if nth % 7 < 4 { 0 } else { 3 };
            while ring.queue.outstanding() > target {
                let returned = ring.returned_within(patience)?;
                let (token, len) = returned.ok_or_else(|| {
                    let kick = if wanted { "with" } else { "without" };
                    Stop::fail(format!(
                        "request {nth}, made available {kick} the kick asked for, was not served"
                    ))
                })?;
                let placed = out.get_mut(usize::try_from(token)?).and_then(Option::take);
                let placed = placed.ok_or_else(|| Stop::fail("a request was returned twice"))?;
                ring.verify(memory, &sample, placed, len)?;
            }
        }
        cx.note(format!("{format:?}: {kicks} kicks asked for by {COUNT} requests"));
        Ok(())
    })
}

fn device_event_area(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_RING_PACKED, "RING_PACKED")?;
    for event_idx in [false, true] {
        if event_idx && cx.offer.features & VIRTIO_F_EVENT_IDX == 0 {
            break;
        }
        let mut session = Session::ready(cx, &Setup { event_idx, ..Setup::new(Format::Packed) })?;
        for nth in 0..50 {
            session.request()?;
            let ring = session.sample_ring()?;
            let mut area = [0; 4];
            ring.memory.read_into(usize::try_from(ring.queue.layout().device)?, &mut area)?;
            let area = u32::from_le_bytes(area);
            let (position, flags) = (area & 0x7fff, area >> 16);
            let size = u32::from(ring.queue.size());
            match flags {
                0 | 1 => {}
                2 if event_idx => {
                    ensure!(position < size, "position {position} in a ring of {size}, after request {nth}");
                }
                2 => return Err(Stop::fail("one descriptor is asked for, without EVENT_IDX")),
                _ => return Err(Stop::fail(format!("flags {flags:#x}, after request {nth}"))),
            }
        }
    }
    Ok(())
}

fn without_call_fd(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let at = session.last();
        session.without_fd(Code::SET_VRING_CALL, at)?;
        session.rounds(&sample, 50, 3)?;
        // And a new one while it runs.
        session.call(at)?;
        session.rounds(&sample, 5, 1)
    })
}

fn without_kick_fd(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::prepared(cx, &Setup::new(format))?;
        let at = session.last();
        session.num(at)?;
        session.base(at)?;
        session.addr(at)?;
        session.call(at)?;
        let word = u64::from(session.ring(at)?.index) | vring_fd::NO_FD;
        if session.wire.try_set(Code::SET_VRING_KICK, word.as_bytes(), &[])? != Answer::Ack {
            cx.note(format!("{format:?}: polling is refused"));
            return Ok(());
        }
        session.enable(at, true)?;
        let polled = session.rounds(&sample, 20, 3);
        polled.map_err(|stop| stop.when("polling was accepted"))
    })
}
