//! How messages travel: headers, replies, pieces, descriptors.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::{Frame, FrontendRequest as Code, Header, ProtocolFeatures};
use outboard_virtqueue::Format;
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{RecvFlags, recv};
use zerocopy::IntoBytes;

use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::proc;
use crate::check::ring;
use crate::check::session::{Session, Setup, borrowed};
use crate::check::verdict::{Checked, ensure};
use crate::check::wire::{Heard, Wire, parse};

/// No request of any version so far.
const UNKNOWN: Code = Code(4711);

/// The checks of this group.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "framing.reply-header",
        title: "a reply has the id of its request, version 1 and the reply flag, and nothing else",
        spec: "vhost-user: Header",
        run: reply_header,
    },
    Check {
        id: "framing.reply-whole",
        title: "a reply comes in one piece",
        spec: "in use: DPDK, SPDK and alioth read a reply with one recv",
        run: reply_whole,
    },
    Check {
        id: "framing.dribbled",
        title: "a message that comes byte by byte is understood",
        spec: "vhost-user: Communication (a stream has no borders)",
        run: dribbled,
    },
    Check {
        id: "framing.dribbled-payload",
        title: "a message with payload and descriptors that comes in pieces is understood",
        spec: "vhost-user: Communication (a stream has no borders)",
        run: dribbled_payload,
    },
    Check {
        id: "framing.coalesced",
        title: "messages that come in one piece are answered one by one",
        spec: "vhost-user: Communication (a stream has no borders)",
        run: coalesced,
    },
    Check {
        id: "framing.pipelined",
        title: "messages that are sent before the answers to those before are answered in order",
        spec: "vhost-user: Communication",
        run: pipelined,
    },
    Check {
        id: "framing.ack-form",
        title: "an acknowledgement is a number of 8 bytes, 0 for what was done",
        spec: "vhost-user: REPLY_ACK",
        run: ack_form,
    },
    Check {
        id: "framing.ack-of-agreement",
        title: "the SET_PROTOCOL_FEATURES that agrees on REPLY_ACK is itself acknowledged where that is asked for",
        spec: "vhost-user: REPLY_ACK; in use: alioth waits for it",
        run: ack_of_agreement,
    },
    Check {
        id: "framing.no-ack-before-agreement",
        title: "before REPLY_ACK is agreed on nothing is acknowledged",
        spec: "vhost-user: REPLY_ACK",
        run: no_ack_before_agreement,
    },
    Check {
        id: "framing.no-ack-unasked",
        title: "what did not ask for an acknowledgement gets none",
        spec: "vhost-user: REPLY_ACK",
        run: no_ack_unasked,
    },
    Check {
        id: "framing.one-reply",
        title: "NEED_REPLY on a request that has a reply of its own makes no second one",
        spec: "vhost-user: REPLY_ACK; in use: Cloud Hypervisor, libblkio, alioth set it always",
        run: one_reply,
    },
    Check {
        id: "framing.unknown-nack",
        title: "an unknown request gets a NACK where an answer is asked for, and the connection goes on",
        spec: "vhost-user: REPLY_ACK",
        run: unknown_nack,
    },
    Check {
        id: "framing.unknown-silent",
        title: "an unknown request that asks for no answer gets none",
        spec: "vhost-user: REPLY_ACK",
        run: unknown_silent,
    },
    Check {
        id: "framing.request-zero",
        title: "a request with the number 0, which there is not, ends nobody",
        spec: "vhost-user: Message types",
        run: request_zero,
    },
    Check {
        id: "framing.short-payload",
        title: "a message that is shorter than its layout is refused",
        spec: "vhost-user: Message Specification",
        run: short_payload,
    },
    Check {
        id: "framing.oversized",
        title: "the length in a header is not believed: nothing is allocated for it",
        spec: "vhost-user: Header",
        run: oversized,
    },
    Check {
        id: "framing.cut-header",
        title: "a connection that ends within a header ends nothing else",
        spec: "vhost-user: Communication",
        run: cut_header,
    },
    Check {
        id: "framing.cut-payload",
        title: "a connection that ends within a payload ends nothing else",
        spec: "vhost-user: Communication",
        run: cut_payload,
    },
    Check {
        id: "framing.stray-fds",
        title: "descriptors that a message has no use for are closed",
        spec: "vhost-user: Communication (ancillary data); in use: libblkio, QEMU send some",
        run: stray_fds,
    },
    Check {
        id: "framing.many-fds",
        title: "as many descriptors as the kernel passes at once are closed or refused",
        spec: "vhost-user: Communication (ancillary data)",
        run: many_fds,
    },
];

fn get_features() -> Frame {
    Frame { request: Code::GET_FEATURES.0, flags: flags::VERSION, ..Frame::default() }
}

fn reply_header(cx: &mut Cx) -> Checked {
    // `ask` holds id and flags against the rules.
    let mut wire = cx.wire()?;
    for _ in 0..3 {
        wire.ask_u64(Code::GET_FEATURES)?;
    }
    Ok(())
}

fn reply_whole(cx: &mut Cx) -> Checked {
    let wire = cx.wire()?;
    // Two pieces can happen to be read at once, but never one piece as two.
    for _ in 0..200 {
        wire.send_bytes(&get_features().to_bytes(), &[])?;
        ensure!(ring::wait(wire.socket(), cx.patience)?, "no reply to GET_FEATURES");
        let mut buffer = [0u8; 64];
        let (_, read) = recv(wire.socket(), &mut buffer, RecvFlags::empty())?;
        let wanted = Header::LEN + 8;
        ensure!(read == wanted, "a reply of {wanted} bytes comes in pieces, the first of {read} bytes");
    }
    Ok(())
}

fn dribbled(cx: &mut Cx) -> Checked {
    let mut wire = cx.wire()?;
    for byte in get_features().to_bytes() {
        wire.send_bytes(&[byte], &[])?;
        std::thread::sleep(Duration::from_millis(1));
    }
    wire.reply(Code::GET_FEATURES).map(drop)
}

fn dribbled_payload(cx: &mut Cx) -> Checked {
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.negotiate()?;
    let (body, fds) = session.table()?;
    let asked = if session.wire.acks { flags::NEED_REPLY } else { 0 };
    let frame =
        Frame { request: Code::SET_MEM_TABLE.0, flags: flags::VERSION | asked, body, fds: Vec::new() };
    let mut fds = borrowed(&fds);
    for piece in frame.to_bytes().chunks(7) {
        // The descriptors ride on the first byte, as with a sender that the kernel gave no more room.
        session.wire.send_bytes(piece, &fds)?;
        fds.clear();
        std::thread::sleep(Duration::from_millis(1));
    }
    if session.wire.acks {
        let answer: u64 = parse(Code::SET_MEM_TABLE, &session.wire.reply(Code::SET_MEM_TABLE)?)?;
        ensure!(answer == 0, "a SET_MEM_TABLE in pieces was refused");
    }
    session.wire.barrier()
}

fn coalesced(cx: &mut Cx) -> Checked {
    let mut wire = cx.wire()?;
    wire.send_bytes(&get_features().to_bytes().repeat(3), &[])?;
    for _ in 0..3 {
        wire.reply(Code::GET_FEATURES)?;
    }
    Ok(())
}

fn pipelined(cx: &mut Cx) -> Checked {
    cx.needs_feature(
        outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES,
        "VHOST_USER_F_PROTOCOL_FEATURES",
    )?;
    let mut wire = cx.wire()?;
    for code in [Code::SET_OWNER, Code::GET_FEATURES, Code::GET_PROTOCOL_FEATURES, Code::GET_FEATURES] {
        wire.send(code, &[], &[])?;
    }
    for code in [Code::GET_FEATURES, Code::GET_PROTOCOL_FEATURES, Code::GET_FEATURES] {
        wire.reply(code)?;
    }
    Ok(())
}

fn ack_form(cx: &mut Cx) -> Checked {
    let mut wire = with_acks(cx)?;
    let features = Setup::new(Format::Split).features(cx.offer.features);
    // `set` holds the answer against the rules.
    for _ in 0..2 {
        wire.set(Code::SET_FEATURES, features.as_bytes(), &[])?;
    }
    wire.barrier()
}

fn ack_of_agreement(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    let mut wire = cx.wire()?;
    wire.send(Code::SET_OWNER, &[], &[])?;
    // Who has not asked for the offer does not know it.
    wire.ask_u64(Code::GET_FEATURES)?;
    wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?;
    let agreed = ProtocolFeatures::REPLY_ACK.0;
    let code = Code::SET_PROTOCOL_FEATURES;
    wire.send_flags(code, flags::VERSION | flags::NEED_REPLY, agreed.as_bytes(), &[])?;
    let answer: u64 = parse(code, &wire.reply(code)?)?;
    ensure!(answer == 0, "SET_PROTOCOL_FEATURES was refused ({answer:#x})");
    wire.barrier()
}

fn no_ack_before_agreement(cx: &mut Cx) -> Checked {
    let mut wire = cx.wire()?;
    wire.send_flags(Code::SET_OWNER, flags::VERSION | flags::NEED_REPLY, &[], &[])?;
    wire.barrier().map_err(|stop| stop.when("after SET_OWNER with NEED_REPLY"))
}

fn no_ack_unasked(cx: &mut Cx) -> Checked {
    let mut wire = with_acks(cx)?;
    let features = Setup::new(Format::Split).features(cx.offer.features);
    wire.send(Code::SET_FEATURES, features.as_bytes(), &[])?;
    wire.barrier().map_err(|stop| stop.when("after SET_FEATURES without NEED_REPLY"))
}

fn one_reply(cx: &mut Cx) -> Checked {
    let mut wire = with_acks(cx)?;
    for code in [Code::GET_FEATURES, Code::GET_PROTOCOL_FEATURES, Code::GET_FEATURES] {
        wire.send_flags(code, flags::VERSION | flags::NEED_REPLY, &[], &[])?;
        wire.reply(code)?;
    }
    wire.barrier()
}

fn unknown_nack(cx: &mut Cx) -> Checked {
    with_acks(cx)?.nacked(UNKNOWN, &[], &[])
}

fn unknown_silent(cx: &mut Cx) -> Checked {
    let wire = if cx.offer.has(ProtocolFeatures::REPLY_ACK) { with_acks(cx)? } else { cx.wire()? };
    unanswered(wire, UNKNOWN)
}

fn request_zero(cx: &mut Cx) -> Checked {
    unanswered(cx.wire()?, Code(0))
}

/// A request without NEED_REPLY: the connection ends, or goes on as if nothing had been.
fn unanswered(mut wire: Wire, code: Code) -> Checked {
    wire.send(code, &[], &[])?;
    // Fails if the connection is closed by now, which is allowed.
    if wire.send(Code::GET_FEATURES, &[], &[]).is_err() {
        return Ok(());
    }
    match wire.hear()? {
        Heard::Closed => Ok(()),
        Heard::Silence => Err(crate::check::verdict::Stop::fail(format!("after {code} it answers no more"))),
        Heard::Frame(frame) => {
            let got = Code(frame.request);
            ensure!(
                got == Code::GET_FEATURES,
                "an answer with the id of {got} came to {code}, which asks for none"
            );
            Ok(())
        }
    }
}

fn short_payload(cx: &mut Cx) -> Checked {
    for (code, len) in [(Code::SET_FEATURES, 4), (Code::SET_VRING_NUM, 7), (Code::SET_VRING_ADDR, 39)] {
        let mut wire = with_acks(cx)?;
        wire.refused(code, &vec![0; len], &[])
            .map_err(|stop| stop.when(format_args!("{code} with {len} bytes")))?;
    }
    Ok(())
}

fn oversized(cx: &mut Cx) -> Checked {
    const CLAIMED: u32 = 1 << 30;
    let pid = cx.process()?;
    let before = proc::peak(pid)?;
    let mut wire = cx.wire()?;
    let header = Header { request: Code::SET_MEM_TABLE.0, flags: flags::VERSION, size: CLAIMED };
    wire.send_bytes(header.as_bytes(), &[])?;
    // Fails if the connection is closed by now, which is well.
    let _ = wire.send_bytes(&[0; 64], &[]);
    // It may close the connection, or wait for the rest; either way it has looked at the header when it is
    // answering others again.
    if ring::wait(wire.socket(), crate::check::cx::LULL)? {
        let heard = wire.hear();
        ensure!(!matches!(heard, Ok(Heard::Frame(_))), "it answered what it has not read");
    }
    let after = proc::peak(pid)?;
    ensure!(
        after < before + u64::from(CLAIMED) / 2,
        "a header that claims {CLAIMED} bytes made it take {} bytes of address space",
        after - before
    );
    Ok(())
}

fn cut_header(cx: &mut Cx) -> Checked {
    for len in [1, 5, 11] {
        let wire = cx.wire()?;
        wire.send_bytes(get_features().to_bytes().get(..len).unwrap_or_default(), &[])?;
        wire.close()?;
    }
    Ok(())
}

fn cut_payload(cx: &mut Cx) -> Checked {
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.negotiate()?;
    let (body, fds) = session.table()?;
    let frame = Frame { request: Code::SET_MEM_TABLE.0, flags: flags::VERSION, body, fds: Vec::new() };
    let bytes = frame.to_bytes();
    session.wire.send_bytes(bytes.get(..bytes.len() - 3).unwrap_or_default(), &borrowed(&fds))?;
    session.wire.close()
}

fn stray_fds(cx: &mut Cx) -> Checked {
    let pid = cx.process()?;
    let mut wire = cx.wire()?;
    wire.barrier()?;
    let before = proc::held(pid)?.fds;
    let fd = eventfd(0, EventfdFlags::CLOEXEC)?;
    for _ in 0..8 {
        wire.send(Code::GET_FEATURES, &[], &[fd.as_fd(), fd.as_fd()])?;
        wire.reply(Code::GET_FEATURES)?;
    }
    let after = proc::held(pid)?.fds;
    ensure!(after <= before, "16 descriptors came with GET_FEATURES, {} stayed open", after - before);
    Ok(())
}

fn many_fds(cx: &mut Cx) -> Checked {
    let pid = cx.process()?;
    cx.wire()?.barrier()?;
    let fd = eventfd(0, EventfdFlags::CLOEXEC)?;
    let fds: Vec<BorrowedFd<'_>> = vec![fd.as_fd(); outboard_vhost_user::message::MAX_FDS];
    let before = proc::held(pid)?.fds;
    let mut wire = cx.wire()?;
    wire.send(Code::GET_FEATURES, &[], &fds)?;
    // Answered or closed: both will do.
    let heard = wire.hear()?;
    ensure!(!matches!(heard, Heard::Silence), "neither an answer nor an end");
    wire.close()?;
    let gone = cx.eventually(|| Ok(proc::held(pid)?.fds <= before + 1))?;
    ensure!(gone, "of {} descriptors that came with one message some stayed open", fds.len());
    Ok(())
}

/// A connection on which REPLY_ACK is agreed on.
pub(super) fn with_acks(cx: &mut Cx) -> Checked<Wire> {
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    let mut wire = cx.wire()?;
    wire.send(Code::SET_OWNER, &[], &[])?;
    wire.ask_u64(Code::GET_FEATURES)?;
    wire.ask_u64(Code::GET_PROTOCOL_FEATURES)?;
    wire.send(Code::SET_PROTOCOL_FEATURES, ProtocolFeatures::REPLY_ACK.0.as_bytes(), &[])?;
    wire.acks = true;
    Ok(wire)
}
