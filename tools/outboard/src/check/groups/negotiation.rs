//! What is agreed on: features, protocol features, queues, the back channel.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::features::{
    VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1,
};
use outboard_virtqueue::Format;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::IntoBytes;

use super::framing::with_acks;
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::{Heard, Wire};

/// The checks of this group.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "negotiation.features-constant",
        title: "the features on offer are the same each time, and on each connection",
        spec: "vhost-user: GET_FEATURES; in use: QEMU asks again and again",
        run: features_constant,
    },
    Check {
        id: "negotiation.features-any-time",
        title: "GET_FEATURES is answered with the same number at any time",
        spec: "vhost-user: GET_FEATURES; in use: QEMU's barrier",
        run: features_any_time,
    },
    Check {
        id: "negotiation.protocol-constant",
        title: "the protocol features on offer are the same before and after they are agreed on",
        spec: "vhost-user: GET_PROTOCOL_FEATURES; in use: QEMU's net device asks again for each queue pair",
        run: protocol_constant,
    },
    Check {
        id: "negotiation.version-1",
        title: "VIRTIO_F_VERSION_1 is on offer",
        spec: "VIRTIO 1.3, 6.2; in use: QEMU passes the offer on, else the guest sees a legacy device",
        run: version_1,
    },
    Check {
        id: "negotiation.owner-first",
        title: "SET_OWNER may come first",
        spec: "vhost-user: SET_OWNER; in use: Cloud Hypervisor, crosvm, Firecracker, libblkio",
        run: owner_first,
    },
    Check {
        id: "negotiation.owner-late",
        title: "SET_OWNER may come after the protocol features",
        spec: "in use: QEMU, OpenVMM",
        run: owner_late,
    },
    Check {
        id: "negotiation.owner-twice",
        title: "SET_OWNER may come again",
        spec: "in use: DPDK, libkrun",
        run: owner_twice,
    },
    Check {
        id: "negotiation.reset-owner",
        title: "RESET_OWNER, deprecated as it is, leaves the connection of use",
        spec: "vhost-user: RESET_OWNER; in use: older DPDK",
        run: reset_owner,
    },
    Check {
        id: "negotiation.protocol-before-features",
        title: "protocol features can be agreed on before SET_FEATURES",
        spec: "vhost-user: GET_PROTOCOL_FEATURES",
        run: protocol_before_features,
    },
    Check {
        id: "negotiation.features-before-protocol",
        title: "SET_FEATURES may come before the protocol features",
        spec: "in use: SPDK, libblkio",
        run: features_before_protocol,
    },
    Check {
        id: "negotiation.features-again",
        title: "SET_FEATURES may come again, with other features",
        spec: "vhost-user: SET_FEATURES; in use: firmware, then the system",
        run: features_again,
    },
    Check {
        id: "negotiation.protocol-again",
        title: "SET_PROTOCOL_FEATURES may come again",
        spec: "in use: QEMU's net device, once for each queue pair",
        run: protocol_again,
    },
    Check {
        id: "negotiation.unoffered-feature",
        title: "a feature that is not on offer is not said to be set",
        spec: "vhost-user: REPLY_ACK; VIRTIO 1.3, 2.2",
        run: unoffered_feature,
    },
    Check {
        id: "negotiation.unoffered-protocol-feature",
        title: "a protocol feature that is not on offer is not said to be set",
        spec: "vhost-user: REPLY_ACK, SET_PROTOCOL_FEATURES",
        run: unoffered_protocol_feature,
    },
    Check {
        id: "negotiation.dependencies",
        title: "no protocol feature is on offer without those that it needs",
        spec: "vhost-user: Protocol features",
        run: dependencies,
    },
    Check {
        id: "negotiation.iommu-needs-back-channel",
        title: "VIRTIO_F_ACCESS_PLATFORM is on offer only together with the back channel and acknowledgements",
        spec: "vhost-user: IOMMU support; in use: QEMU refuses the device otherwise",
        run: iommu_needs_back_channel,
    },
    Check {
        id: "negotiation.queue-num",
        title: "GET_QUEUE_NUM tells a number that can be, the same each time",
        spec: "vhost-user: GET_QUEUE_NUM",
        run: queue_num,
    },
    Check {
        id: "negotiation.queue-num-unagreed",
        title: "GET_QUEUE_NUM is answered though MQ was not agreed on",
        spec: "vhost-user: GET_QUEUE_NUM (when MQ is on offer); in use: SPDK asks so",
        run: queue_num_unagreed,
    },
    Check {
        id: "negotiation.per-connection",
        title: "what was agreed on ends with its connection",
        spec: "vhost-user: Communication, Reconnection",
        run: per_connection,
    },
    Check {
        id: "negotiation.back-channel",
        title: "a back channel is taken, and nothing comes on it while all rings are stopped",
        spec: "vhost-user: Back-end communication, Suspended device state",
        run: back_channel,
    },
    Check {
        id: "negotiation.back-channel-again",
        title: "a second back channel takes the place of the first, which is closed",
        spec: "vhost-user: SET_BACKEND_REQ_FD; in use: Cloud Hypervisor sends one at each activation",
        run: back_channel_again,
    },
    Check {
        id: "negotiation.back-channel-without-fd",
        title: "a SET_BACKEND_REQ_FD without a descriptor is refused",
        spec: "vhost-user: SET_BACKEND_REQ_FD",
        run: back_channel_without_fd,
    },
];

/// A plain connection; fails as not applicable without protocol features.
fn with_protocol(cx: &mut Cx) -> Checked<Wire> {
    cx.needs_feature(VHOST_USER_F_PROTOCOL_FEATURES, "VHOST_USER_F_PROTOCOL_FEATURES")?;
    cx.wire()
}

/// The features that any front end sets.
fn usual(cx: &Cx) -> u64 {
    Setup::new(Format::Split).features(cx.offer.features)
}

/// The protocol features that any front end agrees on, as far as they are on offer.
fn usual_protocol(cx: &Cx) -> u64 {
    cx.offer.protocol & (ProtocolFeatures::REPLY_ACK | ProtocolFeatures::MQ | ProtocolFeatures::CONFIG).0
}

fn same_features(cx: &Cx, wire: &mut Wire) -> Checked {
    let (now, first) = (wire.ask_u64(Code::GET_FEATURES)?, cx.offer.features);
    ensure!(now == first, "the offer was {first:#x} at first, and is {now:#x} now");
    Ok(())
}

fn features_constant(cx: &mut Cx) -> Checked {
    for _ in 0..2 {
        let mut wire = cx.wire()?;
        same_features(cx, &mut wire)?;
        same_features(cx, &mut wire)?;
    }
    Ok(())
}

fn features_any_time(cx: &mut Cx) -> Checked {
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    same_features(cx, &mut session.wire)?;
    session.owner()?;
    session.set_protocol()?;
    same_features(cx, &mut session.wire)?;
    session.set_features()?;
    same_features(cx, &mut session.wire)?;
    session.share()?;
    let at = session.add_ring(0)?;
    session.start(at)?;
    same_features(cx, &mut session.wire)?;
    session.stop(at)?;
    same_features(cx, &mut session.wire)
}

fn protocol_constant(cx: &mut Cx) -> Checked {
    let mut wire = with_protocol(cx)?;
    let first = wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?;
    wire.set(Code::SET_OWNER, &[], &[])?;
    wire.set(Code::SET_PROTOCOL_FEATURES, usual_protocol(cx).as_bytes(), &[])?;
    wire.acks = cx.offer.has(ProtocolFeatures::REPLY_ACK);
    wire.set(Code::SET_FEATURES, usual(cx).as_bytes(), &[])?;
    let now = wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?;
    ensure!(now == first, "the offer was {first:#x} at first, and is {now:#x} now");
    Ok(())
}

fn version_1(cx: &mut Cx) -> Checked {
    let offered = cx.offer.features;
    ensure!(offered & VIRTIO_F_VERSION_1 != 0, "the offer {offered:#x} is without it");
    Ok(())
}

fn owner_first(cx: &mut Cx) -> Checked {
    let mut wire = cx.wire()?;
    wire.set(Code::SET_OWNER, &[], &[])?;
    wire.set(Code::SET_FEATURES, usual(cx).as_bytes(), &[])
}

fn owner_late(cx: &mut Cx) -> Checked {
    let mut wire = with_protocol(cx)?;
    wire.ask_u64(Code::GET_FEATURES)?;
    wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?;
    wire.set(Code::SET_PROTOCOL_FEATURES, usual_protocol(cx).as_bytes(), &[])?;
    wire.acks = cx.offer.has(ProtocolFeatures::REPLY_ACK);
    wire.set(Code::SET_OWNER, &[], &[])?;
    wire.set(Code::SET_FEATURES, usual(cx).as_bytes(), &[])
}

fn owner_twice(cx: &mut Cx) -> Checked {
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.negotiate()?;
    session.owner()?;
    session.share()?;
    session.owner()?;
    session.wire.barrier()
}

fn reset_owner(cx: &mut Cx) -> Checked {
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    // May be done, ignored, or refused.
    session.wire.acks = false;
    session.wire.set(Code::RESET_OWNER, &[], &[])?;
    session.wire.set(Code::SET_OWNER, &[], &[])
}

fn protocol_before_features(cx: &mut Cx) -> Checked {
    let mut wire = with_protocol(cx)?;
    wire.send(Code::SET_OWNER, &[], &[])?;
    let offered = wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?;
    let first = cx.offer.protocol;
    ensure!(offered == first, "the offer was {first:#x} at first, and is {offered:#x} now");
    wire.set(Code::SET_PROTOCOL_FEATURES, usual_protocol(cx).as_bytes(), &[])?;
    wire.set(Code::SET_FEATURES, usual(cx).as_bytes(), &[])
}

fn features_before_protocol(cx: &mut Cx) -> Checked {
    let mut wire = with_protocol(cx)?;
    wire.send(Code::SET_OWNER, &[], &[])?;
    wire.ask_u64(Code::GET_FEATURES)?;
    wire.set(Code::SET_FEATURES, usual(cx).as_bytes(), &[])?;
    wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?;
    wire.set(Code::SET_PROTOCOL_FEATURES, usual_protocol(cx).as_bytes(), &[])?;
    wire.acks = cx.offer.has(ProtocolFeatures::REPLY_ACK);
    wire.set(Code::SET_FEATURES, usual(cx).as_bytes(), &[])
}

fn features_again(cx: &mut Cx) -> Checked {
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    let all =
        Setup { event_idx: true, indirect: true, ..Setup::new(Format::Split) }.features(cx.offer.features);
    for features in [usual(cx), all, usual(cx)] {
        session.wire.set(Code::SET_FEATURES, features.as_bytes(), &[])?;
    }
    same_features(cx, &mut session.wire)
}

fn protocol_again(cx: &mut Cx) -> Checked {
    let mut wire = with_protocol(cx)?;
    wire.send(Code::SET_OWNER, &[], &[])?;
    let agreed = usual_protocol(cx);
    for _ in 0..3 {
        wire.set(Code::SET_PROTOCOL_FEATURES, agreed.as_bytes(), &[])?;
        wire.acks = cx.offer.has(ProtocolFeatures::REPLY_ACK);
        wire.set(Code::SET_FEATURES, usual(cx).as_bytes(), &[])?;
    }
    Ok(())
}

fn unoffered_feature(cx: &mut Cx) -> Checked {
    let offered = cx.offer.features;
    // Of the device type's bits: those of the transport are for others to judge.
    let absent = (0..24).map(|bit| 1u64 << bit).rfind(|bit| offered & bit == 0);
    let absent = absent.ok_or_else(|| Stop::Skip("every feature is on offer".to_owned()))?;
    let mut wire = with_acks(cx)?;
    wire.refused(Code::SET_FEATURES, (usual(cx) | absent).as_bytes(), &[])
        .map_err(|stop| stop.when(format_args!("with {absent:#x}, which is not on offer")))
        .map(drop)
}

fn unoffered_protocol_feature(cx: &mut Cx) -> Checked {
    let mut wire = with_acks(cx)?;
    let absent = 1u64 << 63;
    let agreed = (cx.offer.protocol & ProtocolFeatures::REPLY_ACK.0) | absent;
    wire.refused(Code::SET_PROTOCOL_FEATURES, agreed.as_bytes(), &[])
        .map_err(|stop| stop.when("with bit 63, which is not on offer"))
        .map(drop)
}

fn dependencies(cx: &mut Cx) -> Checked {
    with_protocol(cx)?;
    let offered = ProtocolFeatures(cx.offer.protocol);
    let of_no_use = offered - offered.effective();
    ensure!(of_no_use.is_empty(), "{of_no_use} is on offer without what it needs");
    Ok(())
}

fn iommu_needs_back_channel(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_ACCESS_PLATFORM, "VIRTIO_F_ACCESS_PLATFORM")?;
    let missing =
        (ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::REPLY_ACK) - ProtocolFeatures(cx.offer.protocol);
    ensure!(missing.is_empty(), "{missing} is missing");
    Ok(())
}

fn queue_num(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::MQ)?;
    let mut wire = with_protocol(cx)?;
    wire.send(Code::SET_OWNER, &[], &[])?;
    wire.set(Code::SET_PROTOCOL_FEATURES, ProtocolFeatures::MQ.0.as_bytes(), &[])?;
    let first = wire.ask_u64(Code::GET_QUEUE_NUM)?;
    ensure!((1..=0x8000).contains(&first), "{first} queues");
    let again = wire.ask_u64(Code::GET_QUEUE_NUM)?;
    ensure!(again == first, "{first} queues at first, then {again}");
    Ok(())
}

fn queue_num_unagreed(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::MQ)?;
    let mut wire = with_protocol(cx)?;
    wire.send(Code::SET_OWNER, &[], &[])?;
    wire.ask_u64(Code::GET_FEATURES)?;
    wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?;
    wire.ask_u64(Code::GET_QUEUE_NUM).map(drop)
}

fn per_connection(cx: &mut Cx) -> Checked {
    // A process that has not seen any front end yet, where there can be one.
    if let Some(back_end) = cx.target.take_back_end() {
        back_end.kill()?;
    }
    if owner_is_acknowledged(cx)? {
        let why = "it acknowledges without any agreement: see framing.no-ack-before-agreement";
        return Err(Stop::Skip(why.to_owned()));
    }
    with_acks(cx)?.close()?;
    ensure!(!owner_is_acknowledged(cx)?, "a new connection inherits REPLY_ACK");
    Ok(())
}

/// Whether a new connection, on which nothing was agreed on, acknowledges.
fn owner_is_acknowledged(cx: &mut Cx) -> Checked<bool> {
    let mut wire = cx.wire()?;
    wire.send_flags(Code::SET_OWNER, flags::VERSION | flags::NEED_REPLY, &[], &[])?;
    wire.send(Code::GET_FEATURES, &[], &[])?;
    match wire.hear()? {
        Heard::Frame(frame) => Ok(Code(frame.request) == Code::SET_OWNER),
        Heard::Silence => Err(Stop::fail("no reply to GET_FEATURES")),
        Heard::Closed => Err(Stop::fail("closed the connection on SET_OWNER with NEED_REPLY")),
    }
}

/// A session with a back channel, and our end of it.
fn with_back_channel(cx: &mut Cx) -> Checked<(Session, UnixStream)> {
    cx.needs(ProtocolFeatures::BACKEND_REQ)?;
    let mut setup = Setup::new(Format::Split);
    setup.protocol |= ProtocolFeatures::BACKEND_REQ;
    let mut session = Session::open(cx, &setup)?;
    let ours = give_back_channel(&mut session)?;
    Ok((session, ours))
}

fn give_back_channel(session: &mut Session) -> Checked<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let theirs = OwnedFd::from(theirs);
    session.wire.set(Code::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()])?;
    Ok(ours)
}

fn back_channel(cx: &mut Cx) -> Checked {
    let (mut session, ours) = with_back_channel(cx)?;
    session.wire.barrier()?;
    let came = ring::wait(&ours, LULL)?;
    ensure!(!came, "something came on the back channel, or it was closed, while no ring had been started");
    Ok(())
}

fn back_channel_again(cx: &mut Cx) -> Checked {
    let (mut session, first) = with_back_channel(cx)?;
    let _second = give_back_channel(&mut session)?;
    session.wire.barrier()?;
    let timeout = Timespec::try_from(cx.patience)?;
    let ended = poll(&mut [PollFd::new(&first, PollFlags::RDHUP)], Some(&timeout))?;
    ensure!(ended != 0, "the first back channel stays open");
    Ok(())
}

fn back_channel_without_fd(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::BACKEND_REQ | ProtocolFeatures::REPLY_ACK)?;
    let mut setup = Setup::new(Format::Split);
    setup.protocol |= ProtocolFeatures::BACKEND_REQ;
    let mut session = Session::open(cx, &setup)?;
    session.wire.refused(Code::SET_BACKEND_REQ_FD, &[], &[])?;
    match session.wire.send(Code::GET_FEATURES, &[], &[]).and_then(|()| session.wire.hear()) {
        Ok(Heard::Silence) => Err(Stop::fail("it answers no more")),
        _ => Ok(()),
    }
}
