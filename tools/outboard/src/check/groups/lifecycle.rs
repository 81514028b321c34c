//! Connections come and go, well or badly; what one of them leaves behind must not reach the next.

use std::os::unix::net::UnixStream;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::{Frame, FrontendRequest as Code};
use outboard_virtqueue::Format;
use rustix::net::{Shutdown, shutdown};

use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL, Leaves};
use crate::check::proc::{self, Held};
use crate::check::ring;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::{Heard, Wire};

/// The checks of this group.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "lifecycle.next-front-end",
        title: "when a front end is gone, the next one is served; or the program ends, well",
        spec: "vhost-user: Reconnection; in use: QEMU's reconnect",
        run: next_front_end,
    },
    Check {
        id: "lifecycle.quick-connects",
        title: "connections that say nothing and go cost nothing",
        spec: "vhost-user: Communication; in use: managers that look whether somebody listens",
        run: quick_connects,
    },
    Check {
        id: "lifecycle.half-close",
        title: "when the front end has said its last the connection is ended from the other side, too",
        spec: "vhost-user: Communication",
        run: half_close,
    },
    Check {
        id: "lifecycle.gone-at-each-step",
        title: "a front end that goes after any step of the set-up is survived",
        spec: "vhost-user: Communication, Reconnection",
        run: gone_at_each_step,
    },
    Check {
        id: "lifecycle.gone-within-messages",
        title: "a front end that goes within any message of the set-up is survived",
        spec: "vhost-user: Communication, Reconnection",
        run: gone_within_messages,
    },
    Check {
        id: "lifecycle.gone-with-requests",
        title: "a front end that goes with requests in flight is survived, and the next one is served",
        spec: "vhost-user: Reconnection",
        run: gone_with_requests,
    },
    Check {
        id: "lifecycle.gone-unheard",
        title: "a front end that goes without taking its answer is survived",
        spec: "vhost-user: Communication (SIGPIPE)",
        run: gone_unheard,
    },
    Check {
        id: "lifecycle.descriptors",
        title: "a connection leaves no descriptor behind",
        spec: "vhost-user: Communication; in use: back ends that live for weeks",
        run: descriptors,
    },
    Check {
        id: "lifecycle.mappings",
        title: "a connection leaves no guest memory mapped",
        spec: "vhost-user: SET_MEM_TABLE",
        run: mappings,
    },
    Check {
        id: "lifecycle.threads",
        title: "a connection leaves no thread behind",
        spec: "in use: back ends that live for weeks",
        run: threads,
    },
    Check {
        id: "lifecycle.replaced-fds",
        title: "a ring's descriptors that are replaced are closed",
        spec: "vhost-user: SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR; in use: QEMU swaps them at each interrupt mask",
        run: replaced_fds,
    },
    Check {
        id: "lifecycle.second-front-end",
        title: "a second front end that connects does not disturb the first",
        spec: "vhost-user: Communication (one connection is one device)",
        run: second_front_end,
    },
    Check {
        id: "lifecycle.rings-start-fresh",
        title: "a new connection finds every ring stopped and disabled",
        spec: "vhost-user: Ring states",
        run: rings_start_fresh,
    },
];

fn usual() -> Setup {
    Setup::new(Format::Split)
}

fn next_front_end(cx: &mut Cx) -> Checked {
    for _ in 0..10 {
        // A process that has ended badly is found by whoever starts it.
        if let Some(back_end) = cx.target.back_end()
            && let Some(status) = back_end.ended()?
        {
            ensure!(status.success(), "it ended with {status}");
            cx.note("ends when its front end is gone");
        }
        let mut session = Session::open(cx, &usual())?;
        let at = session.add_ring(0)?;
        session.start(at)?;
        session.wire.barrier()?;
        session.wire.close()?;
    }
    Ok(())
}

fn quick_connects(cx: &mut Cx) -> Checked {
    const TIMES: usize = 100;
    if cx.leaves() == Leaves::Ends {
        return Err(Stop::NotApplicable("the process ends with its connection".to_owned()));
    }
    for _ in 0..TIMES {
        drop(cx.stream_at_once()?);
    }
    let next = cx.stream_at_once()?;
    let came = Wire::new(next, cx.patience).and_then(|mut wire| wire.barrier());
    came.map_err(|stop| stop.when(format_args!("the front end right after {TIMES} others")))
}

fn half_close(cx: &mut Cx) -> Checked {
    let mut wire = cx.wire()?;
    wire.barrier()?;
    shutdown(wire.socket(), Shutdown::Write)?;
    match wire.hear()? {
        Heard::Closed => Ok(()),
        Heard::Silence => Err(Stop::fail("it holds on to the connection")),
        Heard::Frame(frame) => Err(Stop::fail(format!("it sends {}", Code(frame.request)))),
    }
}

/// The steps of a set-up, one by one.
const STEPS: &[fn(&mut Session) -> Checked] = &[
    Session::owner,
    Session::set_protocol,
    Session::set_features,
    Session::share,
    |session| session.add_ring(0).map(drop),
    |session| session.num(0),
    |session| session.base(0),
    |session| session.addr(0),
    |session| session.err(0),
    |session| session.call(0),
    |session| session.kick(0),
    |session| session.enable(0, true),
    |session| session.stop(0).map(drop),
];

fn gone_at_each_step(cx: &mut Cx) -> Checked {
    for steps in 0..=STEPS.len() {
        let mut session = Session::silent(cx, &usual()).map_err(|stop| gone_after(stop, steps))?;
        for step in STEPS.iter().take(steps) {
            step(&mut session).map_err(|stop| gone_after(stop, steps))?;
        }
    }
    Ok(())
}

fn gone_after(stop: Stop, steps: usize) -> Stop {
    stop.when(format_args!("after front ends that went within the first {steps} steps"))
}

fn gone_within_messages(cx: &mut Cx) -> Checked {
    for (code, len) in [
        (Code::SET_FEATURES, 8),
        (Code::SET_MEM_TABLE, 40),
        (Code::SET_VRING_NUM, 8),
        (Code::SET_VRING_ADDR, 40),
        (Code::SET_VRING_KICK, 8),
        (Code::GET_VRING_BASE, 8),
        (Code::GET_CONFIG, 72),
    ] {
        let mut session = Session::silent(cx, &usual())?;
        session.negotiate()?;
        let frame = Frame { request: code.0, flags: flags::VERSION, body: vec![0; len], fds: Vec::new() };
        let bytes = frame.to_bytes();
        session.wire.send_bytes(bytes.get(..bytes.len() / 2).unwrap_or_default(), &[])?;
        session.wire.close()?;
    }
    Ok(())
}

fn gone_with_requests(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    for format in cx.formats() {
        let mut session = Session::ready(cx, &Setup { size: 64, ..Setup::new(format) })?;
        let Session { memory, rings, .. } = &mut session;
        let Some(ring) = rings.last_mut() else { continue };
        let mut token = 0;
        while ring.place(memory, &sample, token).is_ok() {
            token += 1;
        }
        ring.publish()?;
        session.wire.close()?;
    }
    let mut session = Session::ready(cx, &usual())?;
    session.request().map_err(|stop| stop.when("the next front end's request")).map(drop)
}

fn gone_unheard(cx: &mut Cx) -> Checked {
    let frame = Frame { request: Code::GET_FEATURES.0, flags: flags::VERSION, ..Frame::default() };
    for _ in 0..10 {
        let wire = cx.wire()?;
        wire.send_bytes(&frame.to_bytes().repeat(64), &[])?;
        wire.close()?;
    }
    Ok(())
}

/// What the process holds after so many whole connections; skipped where it ends with its connection.
fn held_after(cx: &mut Cx, connections: usize) -> Checked<Held> {
    for _ in 0..connections {
        let mut session = Session::open(cx, &usual())?;
        let at = session.add_ring(0)?;
        session.start(at)?;
        session.stop(at)?;
        session.wire.close()?;
    }
    // Whoever answers a new connection has done with the old ones, or is about to.
    cx.wire()?.barrier()?;
    proc::held(cx.process()?)
}

/// How many more it holds of what `of` looks at after 32 connections.
fn left_behind(cx: &mut Cx, of: fn(&Held) -> usize) -> Checked<usize> {
    let pid = cx.process()?;
    let before = held_after(cx, 4)?;
    if cx.process()? != pid {
        return Err(Stop::NotApplicable("the process ends with its connection".to_owned()));
    }
    let mut after = held_after(cx, 32)?;
    cx.eventually(|| {
        after = proc::held(pid)?;
        Ok(of(&after) <= of(&before))
    })?;
    Ok(of(&after).saturating_sub(of(&before)))
}

fn descriptors(cx: &mut Cx) -> Checked {
    let more = left_behind(cx, |held| held.fds)?;
    ensure!(more < 16, "{more} descriptors more after 32 connections");
    Ok(())
}

fn mappings(cx: &mut Cx) -> Checked {
    let more = left_behind(cx, |held| held.shared)?;
    ensure!(more < 16, "{more} mappings of shared files more after 32 connections");
    Ok(())
}

fn threads(cx: &mut Cx) -> Checked {
    let more = left_behind(cx, |held| held.threads)?;
    ensure!(more < 16, "{more} threads more after 32 connections");
    Ok(())
}

fn replaced_fds(cx: &mut Cx) -> Checked {
    let pid = cx.process()?;
    let mut session = Session::open(cx, &usual())?;
    let at = session.add_ring(0)?;
    session.start(at)?;
    let before = proc::held(pid)?.fds;
    for _ in 0..32 {
        session.call(at)?;
        session.err(at)?;
    }
    session.wire.barrier()?;
    let mut after = 0;
    cx.eventually(|| {
        after = proc::held(pid)?.fds;
        Ok(after <= before)
    })?;
    let more = after.saturating_sub(before);
    ensure!(more < 16, "of 64 descriptors that were replaced {more} stayed open");
    Ok(())
}

fn second_front_end(cx: &mut Cx) -> Checked {
    let mut first = Session::ready(cx, &usual())?;
    first.request()?;
    // Who does not listen while it serves a front end refuses the second one, which is as well.
    let second = match UnixStream::connect(cx.target.socket()) {
        Ok(stream) => Some(Wire::new(stream, cx.patience)?),
        Err(_) => None,
    };
    if let Some(second) = &second {
        second.send(Code::GET_FEATURES, &[], &[])?;
    }
    first.request().map_err(|stop| stop.when("with a second front end connected"))?;
    if let Some(second) = second {
        second.close()?;
    }
    // If the second was taken and its end ends the first, that takes a moment.
    let ended = ring::wait(first.wire.socket(), LULL)?;
    ensure!(!ended, "the first connection ended with the second");
    first.wire.barrier()?;
    first.request().map_err(|stop| stop.when("after a second front end came and went")).map(drop)
}

fn rings_start_fresh(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    let mut session = Session::ready(cx, &usual())?;
    session.request()?;
    if serves_disabled(&mut session)? {
        return Err(Stop::Skip("it serves rings that are disabled: see ring.disabled".to_owned()));
    }
    // Enabled when the connection ends.
    session.enable(usize::from(sample.queue), true)?;
    session.wire.close()?;
    let mut session = Session::open(cx, &usual())?;
    if session.features & outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES == 0 {
        return Err(Stop::lacks("VHOST_USER_F_PROTOCOL_FEATURES"));
    }
    for index in 0..=sample.queue {
        let at = session.add_ring(index)?;
        session.num(at)?;
        session.base(at)?;
        session.addr(at)?;
        session.call(at)?;
        session.kick(at)?;
    }
    let Session { memory, rings, .. } = &mut session;
    let Some(ring) = rings.last_mut() else { return Ok(()) };
    ring.place(memory, &sample, 1)?;
    ring.publish()?;
    let early = ring.returned_within(LULL)?;
    ensure!(early.is_none(), "a request was served on a ring that was not enabled on this connection");
    for at in 0..session.rings.len() {
        session.enable(at, true)?;
    }
    let patience = cx.patience;
    session.sample_ring()?.returned(patience).map_err(|stop| stop.when("once enabled")).map(drop)
}

/// Whether a request on the sample's ring is served though the ring was disabled.
fn serves_disabled(session: &mut Session) -> Checked<bool> {
    let sample = session.sample()?;
    session.enable(usize::from(sample.queue), false)?;
    let Session { memory, rings, .. } = session;
    let Some(ring) = rings.last_mut() else { return Ok(false) };
    ring.place(memory, &sample, 1)?;
    ring.publish()?;
    Ok(ring.returned_within(LULL)?.is_some())
}
