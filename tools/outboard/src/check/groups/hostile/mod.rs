//! Drivers and front ends that break the rules, by mistake or on purpose. Nothing says what becomes of their
//! requests: a ring may stop, a request may fail, the connection may end. But the process lives, it answers, and a
//! ring that is stopped and started afresh works.

use std::os::fd::AsFd;

use outboard_guest_memory::Segment;
use outboard_virtqueue::Descriptor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::check::cx::{Cx, LULL};
use crate::check::ring::{Ring, take};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop};

pub(super) mod chains;
pub(super) mod indirect;
pub(super) mod messages;
pub(super) mod notifiers;
pub(super) mod rings;

const NEXT: u16 = Descriptor::NEXT;
const WRITE: u16 = Descriptor::WRITE;
const INDIRECT: u16 = Descriptor::INDIRECT;

/// Where there is no guest memory.
const NOWHERE: u64 = 1 << 60;

/// What a hostile driver does to a fresh ring. It may use the page, which is zeroed: whatever is taken for the header
/// of a request must be harmless.
type Attack<'a> = &'a dyn Fn(&mut Ring, &Segment) -> Checked;

fn descriptor(addr: u64, len: u32, flags: u16, link: u16) -> Descriptor {
    Descriptor { addr, len, flags, link }
}

/// Makes a chain of descriptors available as they are.
fn raw(ring: &mut Ring, chain: &[Descriptor]) -> Checked {
    ring.queue.add_raw(chain, 0)?;
    ring.publish()
}

/// A ring on which something was done, time for the back end to see it, and what must be so afterwards.
fn survives(cx: &mut Cx, setup: &Setup, attack: Attack<'_>) -> Checked {
    let mut session = Session::ready(cx, setup)?;
    let page = session.memory.allocate(4096, 4096)?;
    page.fill(0);
    attack(session.sample_ring()?, &page)?;
    settle(&mut session)?;
    recovers(cx, session)
}

/// As [`survives`], with each ring format on offer.
fn each_survives(cx: &mut Cx, attack: Attack<'_>) -> Checked {
    cx.each_format(|cx, format| survives(cx, &Setup::new(format), attack))
}

/// Lets the back end look at the ring, until it says something about it.
fn settle(session: &mut Session) -> Checked {
    let ring = session.sample_ring()?;
    let mut fds = [PollFd::new(&ring.call, PollFlags::IN), PollFd::new(&ring.err, PollFlags::IN)];
    match poll(&mut fds, Some(&Timespec::try_from(LULL)?)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What must be so after an attack.
fn recovers(cx: &mut Cx, mut session: Session) -> Checked {
    let setup = session.setup.clone();
    match afresh(cx, &mut session) {
        Ok(()) => {}
        // The whole device may fail, if it says so.
        Err(Stop::Fail(_)) if matches!(session.wire.is_open(), Ok(false)) => {
            cx.note("the connection was closed");
        }
        Err(stop) => return Err(stop),
    }
    drop(session);
    let mut session = Session::ready(cx, &setup)?;
    session.request().map_err(|stop| stop.when("on a new connection")).map(drop)
}

/// The ring is stopped and started afresh, and works.
fn afresh(cx: &mut Cx, session: &mut Session) -> Checked {
    session.wire.barrier()?;
    let errors = take(session.sample_ring()?.err.as_fd())?;
    if errors > 1 {
        cx.note(format!("the error descriptor was signalled {errors} times"));
    }
    let at = session.last();
    session.stop(at).map_err(|stop| stop.when("stopping the ring"))?;
    let index = session.ring(at)?.index;
    let at = session.add_ring(index)?;
    session.start(at)?;
    session.request().map_err(|stop| stop.when("the ring, stopped and started afresh")).map(drop)
}
