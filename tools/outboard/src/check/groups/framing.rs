//! How messages travel: headers, replies, pieces, descriptors.

use std::time::Duration;

use outboard_vhost_user::message::flags;
use outboard_vhost_user::{Frame, FrontendRequest as Code, ProtocolFeatures};

use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::{Session, Setup};
use crate::check::verdict::Checked;
use outboard_virtqueue::Format;

/// The checks of this group.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "framing.reply-header",
        title: "a reply has the id of its request, version 1 and the reply flag, and nothing else",
        spec: "vhost-user: Header",
        run: reply_header,
    },
    Check {
        id: "framing.dribbled",
        title: "a message that comes byte by byte is understood",
        spec: "vhost-user: Communication (a stream has no borders)",
        run: dribbled,
    },
    Check {
        id: "framing.coalesced",
        title: "messages that come in one piece are answered one by one",
        spec: "vhost-user: Communication (a stream has no borders)",
        run: coalesced,
    },
    Check {
        id: "framing.unknown-nack",
        title: "an unknown request gets a NACK where an answer is asked for, and the connection goes on",
        spec: "vhost-user: REPLY_ACK",
        run: unknown_nack,
    },
];

fn reply_header(cx: &mut Cx) -> Checked {
    // `ask` holds id and flags against the rules.
    let mut wire = cx.wire()?;
    wire.ask_u64(Code::GET_FEATURES)?;
    wire.ask_u64(Code::GET_FEATURES).map(drop)
}

fn dribbled(cx: &mut Cx) -> Checked {
    let mut wire = cx.wire()?;
    let frame = Frame { request: Code::GET_FEATURES.0, flags: flags::VERSION, ..Frame::default() };
    for byte in frame.to_bytes() {
        wire.send_bytes(&[byte], &[])?;
        std::thread::sleep(Duration::from_millis(1));
    }
    wire.reply(Code::GET_FEATURES).map(drop)
}

fn coalesced(cx: &mut Cx) -> Checked {
    let mut wire = cx.wire()?;
    let frame = Frame { request: Code::GET_FEATURES.0, flags: flags::VERSION, ..Frame::default() };
    wire.send_bytes(&frame.to_bytes().repeat(3), &[])?;
    for _ in 0..3 {
        wire.reply(Code::GET_FEATURES)?;
    }
    Ok(())
}

fn unknown_nack(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    session.wire.nacked(Code(4711), &[], &[])
}
