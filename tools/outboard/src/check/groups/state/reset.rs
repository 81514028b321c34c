//! Status and reset.

use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;
use outboard_virtqueue::Format;

use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::signal;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "state.status",
        title: "GET_STATUS gives what SET_STATUS set, and 0 at first and after a reset",
        spec: "vhost-user: SET_STATUS, GET_STATUS; VIRTIO 1.3, 2.1",
        run: status,
    },
    Check {
        id: "state.status-late",
        title: "what was queued before DRIVER_OK is done when it is set, if not before",
        spec: "VIRTIO 1.3, 3.1 (no buffers before DRIVER_OK); in use: QEMU (rings start, then it sets the status)",
        run: status_late,
    },
    Check {
        id: "state.status-zero",
        title: "a device whose status was set to 0 is set up anew, with other features, and works",
        spec: "VIRTIO 1.3, 2.1 (writing 0 resets the device); in use: QEMU, alioth",
        run: status_zero,
    },
    Check {
        id: "state.reset-stops",
        title: "after RESET_DEVICE a ring is not served any more",
        spec: "vhost-user: RESET_DEVICE (disable all rings)",
        run: reset_stops,
    },
    Check {
        id: "state.reset-disables",
        title: "after RESET_DEVICE a ring that is set up again is served when it is enabled, and not before",
        spec: "vhost-user: RESET_DEVICE (disable all rings, ready to be reinitialized)",
        run: reset_disables,
    },
    Check {
        id: "state.reset-keeps-agreement",
        title: "after RESET_DEVICE the protocol features still count",
        spec: "vhost-user: RESET_DEVICE (the back end retains ownership of the device)",
        run: reset_keeps_agreement,
    },
    Check {
        id: "state.reset-again",
        title: "a device can be reset at any time and again and again",
        spec: "vhost-user: RESET_DEVICE",
        run: reset_again,
    },
];

/// With the status, where there is such a thing.
fn with_status(format: Format) -> Setup {
    let protocol = Setup::new(format).protocol | ProtocolFeatures::STATUS;
    Setup { protocol, ..Setup::new(format) }
}

fn set_status(session: &mut Session, status: u64) -> Checked {
    session.wire.set(Code::SET_STATUS, &status.to_ne_bytes(), &[])
}

fn status(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::STATUS)?;
    let mut session = Session::open(cx, &with_status(Format::Split))?;
    for status in [0, 1, 3, 0xb, 0xf, 0, 1, 0] {
        if status != 0 || session.wire.ask_u64(Code::GET_STATUS)? != 0 {
            set_status(&mut session, status)?;
        }
        let came = session.wire.ask_u64(Code::GET_STATUS)?;
        ensure!(came == status, "status {status:#x} was set, {came:#x} came back");
    }
    Ok(())
}

fn status_late(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::STATUS)?;
    cx.each_format(|cx, format| {
        let mut session = Session::open(cx, &with_status(format))?;
        set_status(&mut session, 0xb)?;
        session.add_rings()?;
        session.start_all()?;
        let sample = session.sample()?;
        let patience = session.patience();
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::Skip("our own side: no ring".to_owned()))?;
        let placed = ring.place(memory, &sample, 1)?;
        ring.publish()?;
        let early = ring.returned_within(LULL)?;
        set_status(&mut session, 0xf)?;
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::Skip("our own side: no ring".to_owned()))?;
        let (_, len) = match early {
            Some(done) => done,
            None => ring.returned(patience).map_err(|stop| stop.when("DRIVER_OK is set"))?,
        };
        ring.verify(memory, &sample, placed, len)?;
        session.request()?;
        session.stop_all()
    })
}

/// A driver as after a reset: other rings, other features.
fn next_driver(session: &mut Session) -> Checked {
    session.setup.event_idx = !session.setup.event_idx;
    session.set_features()?;
    session.rings.clear();
    session.add_rings()?;
    session.start_all()?;
    session.request()?;
    session.request().map(drop)
}

fn status_zero(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::STATUS)?;
    cx.each_format(|cx, format| {
        let mut session = Session::open(cx, &with_status(format))?;
        set_status(&mut session, 0xf)?;
        for turn in 0..3 {
            next_driver(&mut session).map_err(|stop| stop.when(format_args!("turn {turn}")))?;
            // No ring is stopped before: the reset does that.
            set_status(&mut session, 0)?;
            set_status(&mut session, 0xf)?;
        }
        Ok(())
    })
}

/// A request that must not be served: made, shown and kicked.
fn is_served(session: &mut Session) -> Checked<bool> {
    let sample = session.sample()?;
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::Skip("our own side: no ring".to_owned()))?;
    ring.place(memory, &sample, 7)?;
    ring.publish()?;
    Ok(ring.returned_within(LULL)?.is_some())
}

fn reset_stops(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::RESET_DEVICE)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        session.request()?;
        session.wire.set(Code::RESET_DEVICE, &[], &[])?;
        ensure!(!is_served(&mut session)?, "a request was served after RESET_DEVICE");
        next_driver(&mut session)?;
        session.stop_all()
    })
}

fn reset_disables(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::RESET_DEVICE)?;
    cx.needs_feature(VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES")?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        session.request()?;
        session.wire.set(Code::RESET_DEVICE, &[], &[])?;
        session.set_features()?;
        session.rings.clear();
        session.add_rings()?;
        for at in 0..session.rings.len() {
            session.num(at)?;
            session.base(at)?;
            session.addr(at)?;
            session.call(at)?;
            session.kick(at)?;
        }
        let sample = session.sample()?;
        let patience = session.patience();
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::Skip("our own side: no ring".to_owned()))?;
        let placed = ring.place(memory, &sample, 1)?;
        ring.publish()?;
        let early = ring.returned_within(LULL)?;
        // A network card may drop what it is to send on a disabled ring.
        ensure!(
            early.is_none() || sample.writable.is_empty(),
            "a request was served after RESET_DEVICE on a ring that was not enabled again"
        );
        for at in 0..session.rings.len() {
            session.enable(at, true)?;
            signal(&session.ring(at)?.kick)?;
        }
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::Skip("our own side: no ring".to_owned()))?;
        let (_, len) = match early {
            Some(done) => done,
            None => ring.returned(patience)?,
        };
        ring.verify(memory, &sample, placed, len)?;
        session.request()?;
        session.stop_all()
    })
}

fn reset_keeps_agreement(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::RESET_DEVICE | ProtocolFeatures::REPLY_ACK)?;
    let mut session = Session::ready(cx, &Setup::new(Format::Split))?;
    session.request()?;
    session.stop_all()?;
    session.wire.set(Code::RESET_DEVICE, &[], &[])?;
    // Acknowledged, or our own side waits in vain; and so is what other features are needed for.
    session.set_features()?;
    if session.protocol.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
        session.wire.ask_u64(Code::GET_MAX_MEM_SLOTS)?;
    }
    session.wire.set(Code::RESET_DEVICE, &[], &[])?;
    next_driver(&mut session)?;
    session.stop_all()
}

fn reset_again(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::RESET_DEVICE)?;
    cx.each_format(|cx, format| {
        let mut session = Session::silent(cx, &Setup::new(format))?;
        session.negotiate()?;
        // Before there is memory, between set-up and start, and while rings run.
        session.wire.set(Code::RESET_DEVICE, &[], &[])?;
        session.set_features()?;
        session.share()?;
        for turn in 0..10 {
            session.wire.set(Code::RESET_DEVICE, &[], &[])?;
            session.wire.set(Code::RESET_DEVICE, &[], &[])?;
            next_driver(&mut session).map_err(|stop| stop.when(format_args!("turn {turn}")))?;
        }
        session.stop_all()
    })
}
