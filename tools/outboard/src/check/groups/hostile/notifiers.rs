//! Descriptors for kicks, calls and errors that are not what they should be.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use outboard_vhost_user::FrontendRequest as Code;
use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::{PipeFlags, pipe_with};
use zerocopy::IntoBytes;

use super::{NOWHERE, descriptor, raw, recovers, settle};
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::signal;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop};
use crate::check::wire::Answer;

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "hostile.no-error-fd",
        title: "a malformed request does no harm on a ring without an error descriptor",
        spec: "vhost-user: SET_VRING_ERR",
        run: no_error_fd,
    },
    Check {
        id: "hostile.call-closed-pipe",
        title: "calls into a pipe that nobody reads from any more do no harm",
        spec: "vhost-user: SET_VRING_CALL",
        run: call_closed_pipe,
    },
    Check {
        id: "hostile.call-full",
        title: "calls on an eventfd that is full do no harm",
        spec: "vhost-user: SET_VRING_CALL; eventfd(2)",
        run: call_full,
    },
    Check {
        id: "hostile.call-full-blocking",
        title: "calls on an eventfd that is full and blocks do not hold up the back end",
        spec: "vhost-user: SET_VRING_CALL; eventfd(2)",
        run: call_full_blocking,
    },
    Check {
        id: "hostile.kick-pipe",
        title: "kicks by a pipe do no harm, nor does its end",
        spec: "vhost-user: SET_VRING_KICK",
        run: kick_pipe,
    },
    Check {
        id: "hostile.kick-file",
        title: "a regular file for a kick descriptor does no harm",
        spec: "vhost-user: SET_VRING_KICK; epoll_ctl(2)",
        run: kick_file,
    },
];

/// One more than the largest value that an eventfd counts to.
const FULL: u64 = u64::MAX - 1;

fn no_error_fd(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let at = session.last();
        session.without_fd(Code::SET_VRING_ERR, at)?;
        raw(session.sample_ring()?, &[descriptor(NOWHERE, 64, 0, 0)])?;
        settle(&mut session)?;
        recovers(cx, session)
    })
}

/// Gives the sample's ring another descriptor; whether it was taken.
fn replace(session: &mut Session, code: Code, fd: BorrowedFd<'_>) -> Checked<bool> {
    let index = u64::from(session.sample_ring()?.index);
    Ok(session.wire.try_set(code, index.as_bytes(), &[fd])? == Answer::Ack)
}

/// Requests are made on a ring that calls through `fd`. What is returned does not matter.
fn called_through(cx: &mut Cx, session: &mut Session, fd: &OwnedFd) -> Checked {
    if !replace(session, Code::SET_VRING_CALL, fd.as_fd())? {
        cx.note("such a descriptor is refused");
        return Ok(());
    }
    let sample = session.sample()?;
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    for token in 0..3 {
        ring.queue.arm_calls();
        ring.place(memory, &sample, token)?;
        ring.publish()?;
        ring.returned_within(LULL)?;
    }
    Ok(())
}

fn call_closed_pipe(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        drop(reader);
        called_through(cx, &mut session, &writer)?;
        recovers(cx, session)
    })
}

/// An eventfd that counts no further.
fn full(flags: EventfdFlags) -> Checked<OwnedFd> {
    let fd = eventfd(0, EventfdFlags::CLOEXEC | flags)?;
    rustix::io::write(&fd, &FULL.to_ne_bytes())?;
    Ok(fd)
}

fn call_full(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        called_through(cx, &mut session, &full(EventfdFlags::NONBLOCK)?)?;
        recovers(cx, session)
    })
}

fn call_full_blocking(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let fd = full(EventfdFlags::empty())?;
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let came = called_through(cx, &mut session, &fd).and_then(|()| recovers(cx, session));
        // Whoever is stuck in it is let go, for the checks to come.
        rustix::io::read(&fd, &mut [0; 8])?;
        came
    })
}

/// A ring is started with this kick descriptor.
fn kicked_through(cx: &mut Cx, session: &mut Session, fd: BorrowedFd<'_>) -> Checked<bool> {
    let at = session.last();
    session.num(at)?;
    session.base(at)?;
    session.addr(at)?;
    session.err(at)?;
    session.call(at)?;
    if !replace(session, Code::SET_VRING_KICK, fd)? {
        cx.note("such a descriptor is refused");
        return Ok(false);
    }
    let state = [u32::from(session.ring(at)?.index), 1];
    session.wire.try_set(Code::SET_VRING_ENABLE, state.as_bytes(), &[])?;
    let sample = session.sample()?;
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    ring.place(memory, &sample, 0)?;
    ring.queue.publish();
    Ok(true)
}

fn kick_pipe(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::prepared(cx, &Setup::new(format))?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        if kicked_through(cx, &mut session, reader.as_fd())? {
            signal(&writer)?;
            session.sample_ring()?.returned_within(LULL)?;
            // Less than a count, and then the end, which can be read for ever.
            rustix::io::write(&writer, &[1])?;
            drop(writer);
            std::thread::sleep(LULL);
        }
        recovers(cx, session)
    })
}

fn kick_file(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::prepared(cx, &Setup::new(format))?;
        let file = tempfile::tempfile()?;
        if kicked_through(cx, &mut session, file.as_fd())? {
            session.sample_ring()?.returned_within(LULL)?;
        }
        recovers(cx, session)
    })
}
