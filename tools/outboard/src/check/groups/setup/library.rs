//! The orders of front ends without a virtual machine: libraries that take a disk or a network from a back end.

use std::os::fd::AsFd;

use outboard_vhost_user::payload::SingleMemRegion;
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::{Base, Format};
use zerocopy::IntoBytes;

use super::{agree, blocking_notifier};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::signal;
use crate::check::session::{Session, Setup, borrowed};
use crate::check::verdict::Checked;
use crate::check::wire::Manner;

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "setup.dpdk",
        title: "a device starts, works, gets more memory and stops in the order of DPDK's virtio-user",
        spec: "in use: DPDK virtio-user (two SET_OWNER; calls first; ENABLE 0, SET_MEM_TABLE, ENABLE 1)",
        run: dpdk,
    },
    Check {
        id: "setup.dpdk-reset-owner",
        title: "a device that was stopped by RESET_OWNER starts again on the same connection",
        spec: "vhost-user: RESET_OWNER (ignored, or rings are disabled); in use: DPDK virtio-user before 20.11",
        run: dpdk_reset_owner,
    },
    Check {
        id: "setup.spdk",
        title: "a device starts, works, stops and starts again in the order of SPDK's initiator",
        spec: "in use: SPDK virtio (ENABLE before all else; GET_QUEUE_NUM; no acknowledgements)",
        run: spdk,
    },
    Check {
        id: "setup.libblkio",
        title: "a device starts, works and stops in libblkio's order, with descriptors that block",
        spec: "in use: libblkio (features before protocol features; slots; REM_MEM_REG with a descriptor)",
        run: libblkio,
    },
];

fn create_queues(session: &mut Session) -> Checked {
    (0..session.rings.len()).try_for_each(|at| session.call(at))
}

/// virtio_user_kick_queue, without SPDK's or with DPDK's idea of where a packed ring starts.
fn kick_queues(session: &mut Session, base: Base) -> Checked {
    for at in 0..session.rings.len() {
        session.num(at)?;
        session.base_of(at, base)?;
        session.addr(at)?;
        session.kick(at)?;
    }
    Ok(())
}

fn kick_all(session: &mut Session) -> Checked {
    session.rings.iter().try_for_each(|ring| signal(&ring.kick))
}

fn dpdk_init(cx: &mut Cx, format: Format) -> Checked<Session> {
    let mut session = Session::silent(cx, &Setup::new(format))?;
    session.wire.manner = Manner::Hasty;
    session.wire.empty_lists = true;
    session.owner()?;
    let offered = session.wire.ask_u64(Code::GET_FEATURES)?;
    agree(&mut session, ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK | ProtocolFeatures::STATUS)?;
    if session.protocol.contains(ProtocolFeatures::MQ) {
        session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
    }
    session.features = session.setup.features(offered);
    session.add_rings()?;
    Ok(session)
}

/// virtio_user_dev_set_features, virtio_user_start_device.
fn dpdk_start(session: &mut Session) -> Checked {
    session.owner()?;
    create_queues(session)?;
    session.set_features()?;
    share_asking(session)?;
    // Of a packed ring, only the half that says where the driver is.
    let base = if session.setup.format == Format::Packed { Base(0x8000) } else { Base(0) };
    kick_queues(session, base)?;
    session.enable_all(true)?;
    kick_all(session)
}

/// SET_MEM_TABLE, the one thing that it asks an acknowledgement for, where it can.
fn share_asking(session: &mut Session) -> Checked {
    let (body, fds) = session.table()?;
    session.wire.ensure_set(Code::SET_MEM_TABLE, &body, &borrowed(&fds))
}

fn dpdk(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = dpdk_init(cx, format)?;
        session.status_asking(0x3)?;
        dpdk_start(&mut session)?;
        session.status_asking(0xf)?;
        session.requests()?;
        for _ in 0..3 {
            // virtio_user_mem_event_cb.
            session.enable_all(false)?;
            share_asking(&mut session)?;
            session.enable_all(true)?;
            session.requests()?;
        }
        session.enable_all(false)?;
        session.stop_all()?;
        session.status_asking(0)?;
        session.renew_rings(64)?;
        dpdk_start(&mut session)?;
        session.requests()?;
        session.enable_all(false)?;
        session.stop_all()
    })
}

fn dpdk_reset_owner(cx: &mut Cx) -> Checked {
    let mut session = dpdk_init(cx, Format::Split)?;
    for size in [16, 64, 32] {
        session.renew_rings(size)?;
        dpdk_start(&mut session)?;
        session.requests().map_err(|stop| stop.when(format_args!("rings of {size}")))?;
        session.enable_all(false)?;
        session.wire.set(Code::RESET_OWNER, &[], &[])?;
    }
    session.wire.barrier()
}

fn spdk(cx: &mut Cx) -> Checked {
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.wire.manner = Manner::Hasty;
    session.owner()?;
    let offered = session.wire.ask_u64(Code::GET_FEATURES)?;
    session.features = session.setup.features(offered);
    for size in [16, 64] {
        session.set_features()?;
        agree(&mut session, ProtocolFeatures::MQ | ProtocolFeatures::CONFIG)?;
        if cx.kind.config_len() != 0 && session.protocol.contains(ProtocolFeatures::CONFIG) {
            session.wire.config(0, 256, 0)?;
        }
        session.renew_rings(size)?;
        session.enable_all(true)?;
        // DRIVER_OK. It asks for the number of queues whether MQ is agreed on or not.
        if session.protocol.contains(ProtocolFeatures::MQ) {
            session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
        }
        create_queues(&mut session)?;
        session.share_table()?;
        session.wire.barrier()?;
        kick_queues(&mut session, Base(0))?;
        kick_all(&mut session)?;
        session.requests().map_err(|stop| stop.when(format_args!("rings of {size}")))?;
        session.stop_all()?;
        // Its memory goes by the same way as it came.
        session.share_table()?;
        session.wire.barrier()?;
    }
    Ok(())
}

fn libblkio(cx: &mut Cx) -> Checked {
    let needs = ProtocolFeatures::REPLY_ACK | ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    cx.needs(needs)?;
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.wire.manner = Manner::Hasty;
    session.owner()?;
    session.wire.ask_u64(Code::GET_FEATURES)?;
    session.set_features()?;
    agree(&mut session, needs | ProtocolFeatures::MQ | ProtocolFeatures::CONFIG)?;
    session.wire.manner = Manner::Demanding;
    if session.protocol.contains(ProtocolFeatures::MQ) {
        session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
    }
    session.wire.ask_u64(Code::GET_MAX_MEM_SLOTS)?;
    if cx.kind.config_len() != 0 && session.protocol.contains(ProtocolFeatures::CONFIG) {
        session.wire.config(0, cx.kind.config_len(), 0)?;
    }
    session.setup.slots = true;
    session.share()?;
    session.add_rings()?;
    for at in 0..session.rings.len() {
        let ring = session.ring(at)?;
        ring.kick = blocking_notifier()?;
        session.num(at)?;
        session.base_of(at, Base(0))?;
        session.addr(at)?;
        session.give(Code::SET_VRING_CALL, at as u64, &blocking_notifier()?)?;
        session.kick(at)?;
        session.enable(at, true)?;
    }
    kick_all(&mut session)?;
    for _ in 0..20 {
        session.request()?;
    }
    session.stop_all()?;
    for (region, fd) in session.memory.table()? {
        let body = SingleMemRegion { padding: 0, region };
        session.wire.set(Code::REM_MEM_REG, body.as_bytes(), &[fd.as_fd()])?;
    }
    session.wire.barrier()
}
