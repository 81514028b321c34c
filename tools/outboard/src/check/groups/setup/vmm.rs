//! The orders of virtual machine monitors in Rust.

use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::{Base, Format};

use super::{ALL_BUT_STRANGE, agree, no_rings, notifier};
use crate::check::catalogue::Check;
use crate::check::config::FLAG;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::signal;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, ensure};
use crate::check::wire::Manner;

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "setup.cloud-hypervisor",
        title: "a device starts, works, is set up again and works in Cloud Hypervisor's order",
        spec: "in use: Cloud Hypervisor (ADDR before BASE, the channel last, a table although slots are agreed on)",
        run: cloud_hypervisor,
    },
    Check {
        id: "setup.cloud-hypervisor-pause",
        title: "what is queued while rings are disabled is done when they are enabled, without another kick",
        spec: "vhost-user: Ring states; in use: Cloud Hypervisor (pause and resume)",
        run: cloud_hypervisor_pause,
    },
    Check {
        id: "setup.crosvm",
        title: "a device starts, works, sleeps, wakes up and stops in crosvm's order",
        spec: "in use: crosvm (no acknowledgements; every ring enabled by itself)",
        run: crosvm,
    },
    Check {
        id: "setup.alioth",
        title: "a device starts, works, is reset and starts again in alioth's order",
        spec: "in use: alioth (all kicks first; NEED_REPLY everywhere; rings are only disabled, never stopped)",
        run: alioth,
    },
    Check {
        id: "setup.libkrun",
        title: "a device starts, works and starts again in libkrun's order",
        spec: "in use: libkrun (SET_OWNER again at each start; one call descriptor for all rings)",
        run: libkrun,
    },
    Check {
        id: "setup.firecracker",
        title: "a device starts and works in Firecracker's order, with the configuration as its only feature",
        spec: "in use: Firecracker (only CONFIG is agreed on, so nothing is acknowledged)",
        run: firecracker,
    },
    Check {
        id: "setup.openvmm",
        title: "a device starts, works, is reset and starts again in OpenVMM's order",
        spec: "in use: OpenVMM (all features are set first; memory is told once, before the driver's features)",
        run: openvmm,
    },
    Check {
        id: "setup.rust-vmm",
        title: "a device starts, works and stops in the order of rust-vmm's front end",
        spec: "in use: rust-vmm vhost (Frontend): features before protocol features, NEED_REPLY on all",
        run: rust_vmm,
    },
];

fn ring_steps(session: &mut Session, steps: impl Fn(&mut Session, usize) -> Checked) -> Checked {
    (0..session.rings.len()).try_for_each(|at| steps(session, at))
}

fn kick_all(session: &mut Session) -> Checked {
    session.rings.iter().try_for_each(|ring| signal(&ring.kick))
}

fn cloud_hypervisor_init(cx: &mut Cx, format: Format) -> Checked<Session> {
    let mut session = Session::silent(cx, &Setup::new(format))?;
    session.wire.manner = Manner::Hasty;
    session.owner()?;
    session.wire.ask_u64(Code::GET_FEATURES)?;
    let unused = ProtocolFeatures::RESET_DEVICE | ProtocolFeatures::STATUS;
    agree(&mut session, ALL_BUT_STRANGE - unused)?;
    // Set once for all messages.
    session.wire.manner = if session.wire.acks { Manner::Demanding } else { Manner::Hasty };
    if session.protocol.contains(ProtocolFeatures::MQ) {
        session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
    }
    if cx.kind.config_len() != 0 && session.protocol.contains(ProtocolFeatures::CONFIG) {
        session.wire.config(0, cx.kind.config_len(), FLAG)?;
    }
    Ok(session)
}

/// setup_vhost_user.
fn cloud_hypervisor_start(session: &mut Session) -> Checked {
    session.set_features()?;
    session.share_table()?;
    ring_steps(session, Session::num)?;
    session.exchange_inflight()?;
    ring_steps(session, |session, at| {
        session.addr(at)?;
        session.base(at)?;
        session.call(at)?;
        session.kick(at)
    })?;
    session.enable_all(true)?;
    session.channel = session.open_channel()?;
    kick_all(session)
}

fn cloud_hypervisor(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = cloud_hypervisor_init(cx, format)?;
        session.features = session.setup.features(session.offered_features());
        session.add_rings()?;
        cloud_hypervisor_start(&mut session)?;
        session.requests()?;
        // reset_vhost_user: that is all. Then another driver comes.
        session.enable_all(false)?;
        session.renew_rings(32)?;
        cloud_hypervisor_start(&mut session)?;
        session.requests()?;
        session.enable_all(false)?;
        session.stop_all()
    })
}

fn cloud_hypervisor_pause(cx: &mut Cx) -> Checked {
    cx.needs_feature(outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES")?;
    cx.each_format(|cx, format| {
        let mut session = cloud_hypervisor_init(cx, format)?;
        session.features = session.setup.features(session.offered_features());
        session.add_rings()?;
        cloud_hypervisor_start(&mut session)?;
        session.requests()?;
        for _ in 0..3 {
            session.enable_all(false)?;
            session.wire.barrier()?;
            let sample = session.sample()?;
            let patience = session.patience();
            let Session { memory, rings, .. } = &mut session;
            let ring = rings.last_mut().ok_or_else(no_rings)?;
            let placed = ring.place(memory, &sample, 1)?;
            // The kick was on its way when the rings were disabled.
            ring.publish()?;
            // What a device may do in this state is for another check to judge.
            let early = ring.returned_within(LULL)?;
            if early.is_some() {
                cx.note("requests are carried out while their ring is disabled");
            }
            session.enable_all(true)?;
            let Session { memory, rings, .. } = &mut session;
            let ring = rings.last_mut().ok_or_else(no_rings)?;
            let (_, len) = match early {
                Some(done) => done,
                None => ring.returned(patience).map_err(|stop| stop.when("enabled again"))?,
            };
            ring.verify(memory, &sample, placed, len)?;
        }
        session.requests()?;
        session.enable_all(false)?;
        session.stop_all()
    })
}

fn crosvm(cx: &mut Cx) -> Checked {
    let activate = |session: &mut Session| {
        session.share_table()?;
        ring_steps(session, |session, at| {
            session.num(at)?;
            session.addr(at)?;
            session.base(at)?;
            session.call(at)?;
            session.kick(at)?;
            session.enable(at, true)
        })?;
        kick_all(session)
    };
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.wire.manner = Manner::Hasty;
    session.owner()?;
    session.wire.ask_u64(Code::GET_FEATURES)?;
    let wanted = ProtocolFeatures::CONFIG
        | ProtocolFeatures::MQ
        | ProtocolFeatures::BACKEND_REQ
        | ProtocolFeatures::DEVICE_STATE
        | ProtocolFeatures::REPLY_ACK;
    agree(&mut session, wanted)?;
    session.channel = session.open_channel()?;
    if session.protocol.contains(ProtocolFeatures::MQ) {
        session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
    }
    if cx.kind.config_len() != 0 && session.protocol.contains(ProtocolFeatures::CONFIG) {
        for at in 0..cx.kind.config_len() / 4 {
            session.wire.config(4 * at, 4, 0)?;
        }
    }
    session.set_features()?;
    session.add_rings()?;
    activate(&mut session)?;
    session.requests()?;
    // It sleeps, and wakes up where it was: the rings are the same.
    let mut bases = Vec::new();
    for at in 0..session.rings.len() {
        session.enable(at, false)?;
        let base = session.stop(at)?;
        ensure!(base.0 <= 0xffff, "the base of a split ring is {:#x}", base.0);
        bases.push(base);
    }
    session.share_table()?;
    for (at, base) in bases.into_iter().enumerate() {
        session.num(at)?;
        session.addr(at)?;
        session.base_of(at, base)?;
        session.call(at)?;
        session.kick(at)?;
        session.enable(at, true)?;
    }
    session.requests()?;
    ring_steps(&mut session, |session, at| {
        session.enable(at, false)?;
        session.stop(at).map(drop)
    })
}

fn alioth(cx: &mut Cx) -> Checked {
    let needs = ProtocolFeatures::MQ | ProtocolFeatures::REPLY_ACK | ProtocolFeatures::CONFIGURE_MEM_SLOTS;
    cx.needs(needs)?;
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.wire.manner = Manner::Demanding;
    let offered = session.wire.ask_u64(Code::GET_FEATURES)?;
    let offered_protocol = ProtocolFeatures(session.wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?);
    let optional = ProtocolFeatures::CONFIG | ProtocolFeatures::STATUS;
    session.protocol = offered_protocol & (needs | optional);
    // The message that agrees on acknowledgements is acknowledged itself.
    session.wire.acks = true;
    let agreed = session.protocol.0.to_ne_bytes();
    session.wire.set(Code::SET_PROTOCOL_FEATURES, &agreed, &[])?;
    let queues = session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
    for index in 0..queues {
        session.give(Code::SET_VRING_ERR, index, &notifier()?)?;
    }
    session.owner()?;
    session.setup.slots = true;
    session.share()?;
    session.features = session.setup.features(offered);
    for size in [16, 64] {
        session.renew_rings(size)?;
        session.set_features()?;
        // Of all queues, also of those that the driver does not use.
        for at in 0..session.rings.len() {
            session.kick(at)?;
        }
        for index in session.rings.len() as u64..queues {
            session.give(Code::SET_VRING_KICK, index, &notifier()?)?;
        }
        ring_steps(&mut session, |session, at| {
            session.call(at)?;
            session.num(at)?;
            session.base_of(at, Base(0))?;
            session.addr(at)?;
            session.enable(at, true)
        })?;
        session.status(0xf)?;
        kick_all(&mut session)?;
        session.requests().map_err(|stop| stop.when(format_args!("rings of {size}")))?;
        // Its reset: GET_VRING_BASE is never sent.
        for index in 0..queues {
            session.enable_index(index, false)?;
        }
        session.status(0)?;
    }
    Ok(())
}

fn libkrun(cx: &mut Cx) -> Checked {
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.wire.manner = Manner::Hasty;
    let offered = session.wire.ask_u64(Code::GET_FEATURES)?;
    agree(&mut session, ProtocolFeatures::CONFIG | ProtocolFeatures::MQ)?;
    if session.protocol.contains(ProtocolFeatures::MQ) {
        session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
    }
    if cx.kind.config_len() != 0 && session.protocol.contains(ProtocolFeatures::CONFIG) {
        for at in 0..8 {
            session.wire.config(at, 1, FLAG)?;
        }
    }
    session.features = session.setup.features(offered);
    for size in [64, 16] {
        session.renew_rings(size)?;
        session.owner()?;
        session.share_table()?;
        session.set_features()?;
        let call = notifier()?;
        for at in 0..session.rings.len() {
            session.num(at)?;
            session.base_of(at, Base(0))?;
            session.addr(at)?;
            session.kick(at)?;
            session.give(Code::SET_VRING_CALL, at as u64, &call)?;
            session.enable(at, true)?;
        }
        kick_all(&mut session)?;
        session.requests().map_err(|stop| stop.when(format_args!("rings of {size}")))?;
        session.enable_all(false)?;
    }
    session.wire.barrier()
}

fn firecracker(cx: &mut Cx) -> Checked {
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.wire.manner = Manner::Hasty;
    session.owner()?;
    let offered = session.wire.ask_u64(Code::GET_FEATURES)?;
    agree(&mut session, ProtocolFeatures::CONFIG)?;
    let has_config = cx.kind.config_len() != 0 && session.protocol.contains(ProtocolFeatures::CONFIG);
    if has_config {
        session.wire.config(0, cx.kind.config_len(), FLAG)?;
    }
    session.setup.event_idx = true;
    session.features = session.setup.features(offered);
    session.add_rings()?;
    session.set_features()?;
    session.share_table()?;
    ring_steps(&mut session, Session::num)?;
    ring_steps(&mut session, |session, at| {
        session.addr(at)?;
        session.base(at)?;
        session.call(at)?;
        session.kick(at)?;
        session.enable(at, true)
    })?;
    kick_all(&mut session)?;
    session.requests()?;
    if has_config {
        // The disk may have another size: asked by request of the user.
        session.wire.config(0, cx.kind.config_len(), FLAG)?;
        session.requests()?;
    }
    session.stop_all()
}

fn openvmm(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::silent(cx, &Setup::new(format))?;
        session.wire.manner = Manner::Hasty;
        let offered = session.wire.ask_u64(Code::GET_FEATURES)?;
        let protocol = outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;
        session.wire.set(Code::SET_FEATURES, &(offered | protocol).to_ne_bytes(), &[])?;
        let wanted = ProtocolFeatures::MQ
            | ProtocolFeatures::REPLY_ACK
            | ProtocolFeatures::CONFIG
            | ProtocolFeatures::RESET_DEVICE;
        agree(&mut session, wanted)?;
        session.owner()?;
        session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
        if session.protocol.contains(ProtocolFeatures::CONFIG) {
            session.wire.ask_config(0, 256, 0)?;
        }
        session.wire.manner = Manner::Asking;
        session.features = session.setup.features(offered);
        for (turn, size) in [16, 64, 32].into_iter().enumerate() {
            session.renew_rings(size)?;
            if turn == 0 {
                session.share_table()?;
            }
            session.set_features()?;
            ring_steps(&mut session, |session, at| {
                session.num(at)?;
                session.addr(at)?;
                session.base(at)?;
                session.kick(at)?;
                session.call(at)?;
                session.enable(at, true)
            })?;
            kick_all(&mut session)?;
            session.requests().map_err(|stop| stop.when(format_args!("turn {turn}")))?;
            ring_steps(&mut session, |session, at| {
                session.enable(at, false)?;
                session.stop(at).map(drop)
            })?;
            if session.protocol.contains(ProtocolFeatures::RESET_DEVICE) {
                session.wire.set(Code::RESET_DEVICE, &[], &[])?;
            }
        }
        Ok(())
    })
}

fn rust_vmm(cx: &mut Cx) -> Checked {
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.wire.manner = Manner::Hasty;
    session.owner()?;
    session.wire.ask_u64(Code::GET_FEATURES)?;
    session.set_features()?;
    // It does not know of the status.
    agree(&mut session, ALL_BUT_STRANGE - ProtocolFeatures::STATUS)?;
    session.wire.manner = if session.wire.acks { Manner::Demanding } else { Manner::Hasty };
    if session.protocol.contains(ProtocolFeatures::MQ) {
        let queues = session.wire.ask_u64(Code::GET_QUEUE_NUM)?;
        ensure!((1..=0x8000).contains(&queues), "there are {queues} queues");
    }
    if session.protocol.contains(ProtocolFeatures::CONFIGURE_MEM_SLOTS) {
        session.wire.ask_u64(Code::GET_MAX_MEM_SLOTS)?;
    }
    session.share_table()?;
    session.add_rings()?;
    session.exchange_inflight()?;
    ring_steps(&mut session, |session, at| {
        session.num(at)?;
        session.addr(at)?;
        session.base(at)?;
        session.call(at)?;
        session.kick(at)?;
        session.err(at)?;
        session.enable(at, true)
    })?;
    kick_all(&mut session)?;
    session.requests()?;
    session.enable_all(false)?;
    session.stop_all()
}
