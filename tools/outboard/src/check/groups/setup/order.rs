//! Single steps out of the usual order, each of which some front end does.

use outboard_vhost_user::FrontendRequest as Code;
use outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;

use super::{no_rings, notifier};
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::{any_called, signal, take, wait};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, ensure};

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "setup.kick-first",
        title: "a ring that gets its kick descriptor before all else starts when the rest has come",
        spec: "vhost-user: Ring states; in use: alioth (kick descriptors first)",
        run: kick_first,
    },
    Check {
        id: "setup.base-after-address",
        title: "the base of a ring may come before its addresses or after them",
        spec: "in use: QEMU (before), Cloud Hypervisor, crosvm, OpenVMM (after)",
        run: base_after_address,
    },
    Check {
        id: "setup.enable-first",
        title: "a ring may be enabled before it is set up",
        spec: "vhost-user: Ring states (enabled and started are apart); in use: QEMU (network), SPDK",
        run: enable_first,
    },
    Check {
        id: "setup.enable-unconfigured",
        title: "rings that are enabled and never set up do no harm",
        spec: "in use: QEMU (it enables all rings, also those that the driver does not use)",
        run: enable_unconfigured,
    },
    Check {
        id: "setup.enable-remembered",
        title: "a ring that was stopped and starts again is still enabled",
        spec: "vhost-user: Ring states (GET_VRING_BASE stops a ring); in use: QEMU (ring reset: no new ENABLE)",
        run: enable_remembered,
    },
    Check {
        id: "setup.without-protocol-features",
        title: "without PROTOCOL_FEATURES rings are enabled at once",
        spec: "vhost-user: Ring states (the ring starts directly in the enabled state)",
        run: without_protocol_features,
    },
    Check {
        id: "setup.call-first",
        title: "call and error descriptors may come before anything else",
        spec: "in use: QEMU, DPDK, SPDK (calls before features and memory), alioth (errors before SET_OWNER)",
        run: call_first,
    },
    Check {
        id: "setup.call-replaced",
        title: "after its call descriptor was replaced a ring signals the new one only",
        spec: "vhost-user: SET_VRING_CALL; in use: QEMU (a masked descriptor comes first)",
        run: call_replaced,
    },
    Check {
        id: "setup.error-late",
        title: "the error descriptor may come, and be replaced, while a ring runs",
        spec: "vhost-user: SET_VRING_ERR",
        run: error_late,
    },
];

fn without_rings(cx: &mut Cx, setup: &Setup) -> Checked<Session> {
    let mut session = Session::open(cx, setup)?;
    session.add_rings()?;
    Ok(session)
}

fn kick_all(session: &mut Session) -> Checked {
    session.rings.iter().try_for_each(|ring| signal(&ring.kick))
}

fn kick_first(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = without_rings(cx, &Setup::new(format))?;
        for at in 0..session.rings.len() {
            session.kick(at)?;
        }
        // The driver may be ahead of all this.
        kick_all(&mut session)?;
        for at in 0..session.rings.len() {
            session.call(at)?;
            session.enable(at, true)?;
            session.num(at)?;
            session.base(at)?;
            session.addr(at)?;
        }
        session.requests()?;
        session.stop_all()
    })
}

fn base_after_address(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        for addr_first in [true, false] {
            let mut session = without_rings(cx, &Setup::new(format))?;
            for at in 0..session.rings.len() {
                session.num(at)?;
                if addr_first {
                    session.addr(at)?;
                    session.base(at)?;
                } else {
                    session.base(at)?;
                    session.addr(at)?;
                }
                session.kick(at)?;
                session.call(at)?;
                session.enable(at, true)?;
            }
            kick_all(&mut session)?;
            let when = if addr_first { "addresses first" } else { "the base first" };
            session.requests().map_err(|stop| stop.when(when))?;
            session.stop_all()?;
        }
        Ok(())
    })
}

fn enable_first(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = without_rings(cx, &Setup::new(format))?;
        session.enable_all(true)?;
        for at in 0..session.rings.len() {
            session.num(at)?;
            session.base(at)?;
            session.addr(at)?;
            session.call(at)?;
            session.kick(at)?;
        }
        kick_all(&mut session)?;
        session.requests()?;
        session.stop_all()
    })
}

fn enable_unconfigured(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = without_rings(cx, &Setup::new(format))?;
        for index in 0..session.ring_count() {
            session.enable_index(index, true)?;
        }
        session.start_all()?;
        session.requests()?;
        for index in 0..session.ring_count() {
            session.enable_index(index, false)?;
            session.enable_index(index, true)?;
        }
        session.requests()?;
        session.stop_all()?;
        for index in 0..session.ring_count() {
            session.enable_index(index, false)?;
        }
        session.wire.barrier()
    })
}

fn enable_remembered(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        session.requests()?;
        for _ in 0..3 {
            for at in 0..session.rings.len() {
                let base = session.stop(at)?;
                session.num(at)?;
                session.base_of(at, base)?;
                session.addr(at)?;
                session.kick(at)?;
                session.call(at)?;
            }
            kick_all(&mut session)?;
            session.requests().map_err(|stop| stop.when("started again without a new ENABLE"))?;
        }
        session.stop_all()
    })
}

fn without_protocol_features(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::silent(cx, &Setup::new(format))?;
        session.owner()?;
        let offered = session.wire.ask_u64(Code::GET_FEATURES)?;
        session.features =
            (session.setup.features(offered) | cx.kind.needed(offered)) & !VHOST_USER_F_PROTOCOL_FEATURES;
        session.wire.set(Code::SET_FEATURES, &session.features.to_ne_bytes(), &[])?;
        session.share_table()?;
        session.add_rings()?;
        // `enable` sends nothing now.
        session.start_all()?;
        session.requests()?;
        session.stop_all()
    })
}

fn call_first(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::silent(cx, &Setup::new(format))?;
        let needed = session.sample()?.queue;
        let mut calls = Vec::new();
        for index in 0..=u64::from(needed) {
            let (call, error) = (notifier()?, notifier()?);
            session.give(Code::SET_VRING_CALL, index, &call)?;
            session.give(Code::SET_VRING_ERR, index, &error)?;
            calls.push(call);
        }
        session.negotiate()?;
        session.share()?;
        session.add_rings()?;
        for at in 0..session.rings.len() {
            session.num(at)?;
            session.base(at)?;
            session.addr(at)?;
            session.kick(at)?;
            session.enable(at, true)?;
        }
        for (ring, call) in session.rings.iter_mut().zip(calls) {
            ring.call = call;
        }
        kick_all(&mut session)?;
        request_called(&mut session)?;
        session.stop_all()
    })
}

/// A request whose return has to be signalled on the ring's call descriptor.
fn request_called(session: &mut Session) -> Checked {
    let sample = session.sample()?;
    let patience = session.patience();
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(no_rings)?;
    take(&ring.call)?;
    ring.queue.arm_calls();
    let placed = ring.place(memory, &sample, 1)?;
    ring.publish()?;
    let (_, len) = ring.returned_uncalled(patience)?;
    let called = any_called(&[&ring.call], patience)?;
    ensure!(called, "a request was returned, but its ring's call descriptor was not signalled");
    ring.verify(memory, &sample, placed, len).map(drop)
}

fn call_replaced(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let at = session.rings.len() - 1;
        request_called(&mut session)?;
        for _ in 0..3 {
            let fresh = notifier()?;
            let old = std::mem::replace(&mut session.sample_ring()?.call, fresh);
            session.call(at)?;
            // What came before the message was answered may still be there.
            session.wire.barrier()?;
            take(&old)?;
            request_called(&mut session)?;
            ensure!(!wait(&old, LULL / 5)?, "the call descriptor that was replaced was signalled, too");
        }
        session.stop_all()
    })
}

fn error_late(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let at = session.rings.len() - 1;
        for _ in 0..3 {
            session.requests()?;
            session.sample_ring()?.err = notifier()?;
            session.err(at)?;
        }
        session.without_fd(Code::SET_VRING_ERR, at)?;
        session.requests()?;
        session.stop_all()
    })
}
