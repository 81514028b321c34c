//! QEMU's orders.

use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::{Base, Format};

use super::{ALL_BUT_STRANGE, agree, notifier};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::{any_called, signal, take};
use crate::check::sample::Kind;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, ensure};
use crate::check::wire::Manner;

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "setup.qemu",
        title: "a device starts, works and stops in QEMU's order",
        spec: "in use: QEMU (vhost_dev_init, vhost_dev_start, vhost_dev_stop)",
        run: start_and_stop,
    },
    Check {
        id: "setup.qemu-restart",
        title: "it starts again in QEMU's order, with other features and sizes, without being told of memory again",
        spec: "in use: QEMU (drivers are reloaded; memory slots are told only once)",
        run: restart,
    },
    Check {
        id: "setup.qemu-pause",
        title: "where rings stood is still known after the status was set to 0, and they go on from there",
        spec: "in use: QEMU 7.2 and 8.0 (a machine that pauses, a link that is down: SET_STATUS 0, then GET_VRING_BASE)",
        run: pause,
    },
    Check {
        id: "setup.qemu-per-pair",
        title: "features are agreed on again for each pair of rings, while others run",
        spec: "in use: QEMU (a network card has a vhost device for each pair)",
        run: per_pair,
    },
    Check {
        id: "setup.qemu-mask",
        title: "calls go to another descriptor when interrupts are masked and unmasked, and none gets lost",
        spec: "in use: QEMU (MSI-X masking swaps call descriptors)",
        run: mask,
    },
    Check {
        id: "setup.firmware-then-kernel",
        title: "firmware and kernels take turns on one connection, each with its own features, sizes and addresses",
        spec: "in use: QEMU (firmware, boot loader, kernel)",
        run: firmware_then_kernel,
    },
];

/// ACKNOWLEDGE, DRIVER, FEATURES_OK (VIRTIO 1.3, 2.1).
const FEATURES_OK: u64 = 0xb;
/// As [`FEATURES_OK`], and DRIVER_OK.
const DRIVER_OK: u64 = 0xf;

/// vhost_user_backend_init, vhost_dev_init.
fn init(cx: &mut Cx, setup: &Setup) -> Checked<Session> {
    let mut session = Session::silent(cx, setup)?;
    session.wire.manner = Manner::Hasty;
    session.wire.ask_u64(Code::GET_FEATURES)?;
    agree(&mut session, ALL_BUT_STRANGE)?;
    if session.protocol.contains(ProtocolFeatures::MQ) {
        session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
    }
    if session.protocol.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
        session.wire.ask_u64(Code::GET_MAX_MEM_SLOTS)?;
    }
    session.channel = session.open_channel()?;
    session.owner()?;
    session.wire.ask_u64(Code::GET_FEATURES)?;
    session.features = session.setup.features(session.offered_features());
    session.add_rings()?;
    masked_calls(&mut session)?;
    if cx.kind.config_len() != 0 && session.protocol.contains(ProtocolFeatures::CONFIG) {
        session.wire.config(0, 57, 0)?;
    }
    Ok(session)
}

/// A call descriptor for each ring that nobody looks at, and an error descriptor.
fn masked_calls(session: &mut Session) -> Checked {
    for at in 0..session.rings.len() {
        let masked = notifier()?;
        session.give(Code::SET_VRING_CALL, at as u64, &masked)?;
        session.err(at)?;
    }
    Ok(())
}

/// vhost_dev_start, and the interrupts unmasked afterwards.
fn start(session: &mut Session, kind: Kind, first: bool) -> Checked {
    if matches!(kind, Kind::Blk | Kind::Scsi) {
        session.set_features()?;
        session.exchange_inflight()?;
        masked_calls(session)?;
    }
    session.set_features()?;
    session.wire.barrier()?;
    if session.protocol.contains(ProtocolFeatures::STATUS) {
        session.wire.ask_u64(Code::GET_STATUS)?;
        session.status(FEATURES_OK)?;
        session.wire.ask_u64(Code::GET_STATUS)?;
    }
    if first || !session.protocol.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
        session.setup.slots = true;
        session.share()?;
    }
    let fresh: Vec<Base> = session.rings.iter().map(|ring| ring.queue.fresh_base()).collect();
    start_rings(session, &fresh)
}

/// The rest of vhost_dev_start: rings go on from `bases`.
fn start_rings(session: &mut Session, bases: &[Base]) -> Checked {
    for (at, &base) in bases.iter().enumerate() {
        session.num(at)?;
        session.base_of(at, base)?;
        session.addr(at)?;
        session.kick(at)?;
        let masked = notifier()?;
        session.give(Code::SET_VRING_CALL, at as u64, &masked)?;
    }
    session.wire.manner = Manner::Asking;
    session.enable_all(true)?;
    session.wire.manner = Manner::Hasty;
    session.status(DRIVER_OK)?;
    for at in 0..session.rings.len() {
        session.call(at)?;
        signal(&session.ring(at)?.kick)?;
    }
    Ok(())
}

/// vhost_dev_stop.
fn stop(session: &mut Session) -> Checked {
    session.enable_all(false)?;
    session.stop_all()?;
    session.status(0)?;
    session.wire.barrier()
}

fn start_and_stop(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = init(cx, &Setup::new(format))?;
        start(&mut session, cx.kind, true)?;
        session.requests()?;
        stop(&mut session)
    })
}

fn restart(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = init(cx, &Setup { event_idx: true, indirect: true, ..Setup::new(format) })?;
        start(&mut session, cx.kind, true)?;
        session.requests()?;
        stop(&mut session)?;
        session.setup = Setup { protocol: session.setup.protocol, slots: true, ..Setup::new(format) };
        session.features = session.setup.features(session.offered_features());
        session.renew_rings(64)?;
        start(&mut session, cx.kind, false)?;
        session.requests()?;
        stop(&mut session)
    })
}

fn pause(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = init(cx, &Setup::new(format))?;
        start(&mut session, cx.kind, true)?;
        for _ in 0..2 {
            session.requests()?;
            session.status(0)?;
            let stood: Checked<Vec<Base>> = (0..session.rings.len()).map(|at| session.stop(at)).collect();
            session.set_features()?;
            start_rings(&mut session, &stood?)?;
        }
        session.requests()?;
        stop(&mut session)
    })
}

fn per_pair(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = init(cx, &Setup::new(format))?;
        for _ in 0..2 {
            // Another vhost device on the same connection.
            session.wire.ask_u64(Code::GET_FEATURES)?;
            agree(&mut session, ALL_BUT_STRANGE)?;
            session.wire.ask_u64(Code::GET_FEATURES)?;
            masked_calls(&mut session)?;
        }
        // Pairs are enabled before they are started.
        session.set_features()?;
        session.enable_all(true)?;
        for at in 0..session.rings.len() {
            session.set_features()?;
            session.wire.barrier()?;
            if at == 0 {
                session.setup.slots = true;
                session.share()?;
            }
            session.num(at)?;
            session.base(at)?;
            session.addr(at)?;
            session.kick(at)?;
            session.call(at)?;
            signal(&session.ring(at)?.kick)?;
        }
        session.status(DRIVER_OK)?;
        session.requests()?;
        // The next pair comes: features are set while this one runs.
        session.wire.ask_u64(Code::GET_FEATURES)?;
        session.set_features()?;
        session.enable_all(true)?;
        session.requests()?;
        session.enable_all(false)?;
        session.stop_all()
    })
}

fn mask(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = init(cx, &Setup::new(format))?;
        start(&mut session, cx.kind, true)?;
        let at = session.rings.len() - 1;
        for round in 0..20 {
            // A kick may overtake a message: the descriptor of the round before is to be known by now.
            session.wire.barrier()?;
            // A request is made, and its interrupt is masked and unmasked meanwhile.
            let sample = session.sample()?;
            let patience = session.patience();
            let Session { memory, rings, .. } = &mut session;
            let ring = rings.last_mut().ok_or_else(super::no_rings)?;
            take(&ring.call)?;
            ring.queue.arm_calls();
            let placed = ring.place(memory, &sample, 1)?;
            ring.publish()?;
            let old = std::mem::replace(&mut ring.call, notifier()?);
            let masked = notifier()?;
            session.give(Code::SET_VRING_CALL, at as u64, &masked)?;
            session.call(at)?;
            let ring = session.sample_ring()?;
            let (_, len) = ring.returned_uncalled(patience)?;
            // QEMU looks at the masked descriptor when it unmasks, and sends what it finds there.
            let fds = [&old, &masked, &ring.call];
            let called = any_called(&fds, patience)?;
            ensure!(called, "in round {round} neither the old nor the new call descriptor was signalled");
            let Session { memory, rings, .. } = &mut session;
            let ring = rings.last().ok_or_else(super::no_rings)?;
            ring.verify(memory, &sample, placed, len)?;
        }
        stop(&mut session)
    })
}

fn firmware_then_kernel(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let plain = Setup::new(Format::Split);
        let full = Setup { event_idx: true, indirect: true, in_order: false, ..Setup::new(format) };
        let mut session = init(cx, &plain)?;
        let turns = [(plain.clone(), 8), (full.clone(), 128), (plain, 32), (full, 16)];
        for (turn, (setup, size)) in turns.into_iter().enumerate() {
            session.setup = Setup { protocol: session.setup.protocol, slots: true, ..setup };
            session.features = session.setup.features(session.offered_features());
            // Somewhere else in memory each time: what was before is not handed out again.
            session.renew_rings(size)?;
            start(&mut session, cx.kind, turn == 0).map_err(|stop| stop.when(format_args!("turn {turn}")))?;
            session.requests().map_err(|stop| stop.when(format_args!("turn {turn}")))?;
            stop(&mut session)?;
        }
        Ok(())
    })
}
