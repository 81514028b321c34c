//! Connections: credit, data, and how they end.

use outboard_virtio_defs::vsock::{
    Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN,
    SEQ_EOM, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_SEQPACKET,
};
use zerocopy::IntoBytes;

use super::{BUFFER, Guest, each_with_echo, each_with_messages, text};
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::verdict::{Checked, Stop, ensure};

/// What both sides say of credit.
const CREDIT: &str = "VIRTIO 1.3, 5.10.6.3";
/// What no driver does.
const WRONG: &str = "VIRTIO 1.3, 5.10.6.3 (a driver must not; a guest can)";

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = checks! {
    "vsock.response-credit", "who accepts says how much room there is", CREDIT, response;
    "vsock.echo-every-byte", "all bytes come back as they were sent", "VIRTIO 1.3, 5.10.6", echo;
    "vsock.large-packet", "a packet of 64 KiB in many buffers is taken", "VIRTIO 1.3, 2.7.4.1", large;
    "vsock.rx-small-buffers", "data come in buffers that hold little", "VIRTIO 1.3, 2.7.4.1", small;
    "vsock.credit-kept", "no more comes than there is room for", CREDIT, kept;
    "vsock.credit-zero-waits", "nothing comes where there is no room, and all of it when there is", CREDIT, zero;
    "vsock.credit-request", "who asks how much room there is gets an answer", CREDIT, asked;
    "vsock.credit-update-comes", "what was taken is room again", CREDIT, update;
    "vsock.credit-broken-rst", "a guest that sends more than there is room for loses the connection", WRONG, broken;
    "vsock.length-beyond", "a packet that is shorter than it says is refused", WRONG, beyond;
    "vsock.shutdown-half", "the end of one way is not the end of the other", "VIRTIO 1.3, 5.10.6.5", half;
    "vsock.shutdown-answered", "who ends both ways gets an RST", "VIRTIO 1.3, 5.10.6.5", both;
    "vsock.ports-again", "ports can be used again when their connection is over", "VIRTIO 1.3, 5.10.6.5", again;
    "vsock.many-flows", "connections do not get each other's data", "VIRTIO 1.3, 5.10.6.2", many;
    "vsock.seqpacket-bounds", "messages come back as messages", "VIRTIO 1.3, 5.10.6.6.2", bounds;
};

fn response(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        let flow = guest.connect(request)?;
        ensure!(flow.alloc > 0, "the host has room for {} bytes", flow.alloc);
        ensure!(flow.forwarded == 0, "{} bytes of nothing are done away with", flow.forwarded);
        Ok(())
    })
}

/// Sends bytes that have to come back.
fn exchange(guest: &mut Guest, port: u32, len: usize) -> Checked {
    let request = guest.packet(port, OP_REQUEST);
    let mut flow = guest.connect(request)?;
    let sent = text(len);
    let came = guest.give(&mut flow, &sent)?;
    let came = guest.take(&mut flow, len, came)?;
    ensure!(came == sent, "other bytes came back than were sent");
    guest.tell(&mut flow, OP_RST, 0, &[])
}

fn echo(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| exchange(guest, port, 40_000))
}

fn large(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        let mut flow = guest.connect(request)?;
        let len = (64 << 10).min(usize::try_from(flow.alloc)?);
        let sent = text(len);
        let said = u32::try_from(len)?;
        let header = Header { op: OP_RW.into(), len: said.into(), ..flow.header };
        let pieces = sent.chunks(len.div_ceil(16)).map(<[u8]>::to_vec);
        guest.send_in([header.as_bytes().to_vec()].into_iter().chain(pieces).collect())?;
        flow.sent = said;
        let came = guest.take(&mut flow, len, Vec::new())?;
        ensure!(came == sent, "other bytes came back than were sent");
        Ok(())
    })
}

fn small(cx: &mut Cx) -> Checked {
    super::is_vsock(cx)?;
    each_with_echo(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        let mut flow = guest.connect(request)?;
        // The large ones go first, with a packet each.
        let sent = text(100 * 20);
        let mut came = Vec::<u8>::new();
        for part in sent.chunks(100) {
            guest.tell(&mut flow, OP_RW, 0, part)?;
            let before = came.len();
            while came.len() < before + part.len() {
                let packet = guest.next()?;
                ensure!(packet.op() == OP_RW || packet.op() == OP_CREDIT_UPDATE, "operation {}", packet.op());
                came.extend(&packet.data);
                guest.post(1, 64)?;
            }
        }
        ensure!(came == sent, "other bytes came back than were sent");
        Ok(())
    })
}

/// A connection for which the guest has so much room, with more than that on its way back.
fn tight(guest: &mut Guest, port: u32, room: u32) -> Checked<(super::Flow, Vec<u8>)> {
    let request = guest.packet(port, OP_REQUEST);
    let mut flow = guest.connect(Header { buf_alloc: room.into(), ..request })?;
    let sent = text(3000);
    guest.tell(&mut flow, OP_RW, 0, &sent)?;
    Ok((flow, sent))
}

/// All data of a connection that come without more room.
fn all_there_is(guest: &mut Guest) -> Checked<Vec<u8>> {
    let mut came = Vec::new();
    while let Some(packet) = guest.next_within(LULL)? {
        ensure!(packet.op() != OP_RST, "the connection was reset");
        came.extend(packet.data);
        guest.post(1, BUFFER)?;
    }
    Ok(came)
}

fn kept(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let (_, sent) = tight(guest, port, 1000)?;
        let came = all_there_is(guest)?;
        ensure!(came.len() <= 1000, "{} bytes came, and there was room for 1000", came.len());
        ensure!(sent.starts_with(&came) && !came.is_empty(), "{} bytes came, and others", came.len());
        Ok(())
    })
}

fn zero(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let (mut flow, sent) = tight(guest, port, 0)?;
        let came = all_there_is(guest)?;
        ensure!(came.is_empty(), "{} bytes came, and there was no room", came.len());
        flow.header.buf_alloc = super::PLENTY.into();
        guest.tell(&mut flow, OP_CREDIT_UPDATE, 0, &[])?;
        let came = guest.take(&mut flow, sent.len(), came)?;
        ensure!(came == sent, "other bytes came back than were sent");
        Ok(())
    })
}

fn asked(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        let mut flow = guest.connect(request)?;
        guest.tell(&mut flow, OP_CREDIT_REQUEST, 0, &[])?;
        let came = guest.next()?;
        ensure!(came.op() == OP_CREDIT_UPDATE, "operation {}, not CREDIT_UPDATE", came.op());
        Ok(())
    })
}

fn update(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        let flow = guest.connect(request)?;
        // As much as there is room for, four times over.
        let len = usize::try_from(flow.alloc)?.min(1 << 20) * 4;
        let mut flow = flow;
        let sent = text(len);
        let mut came = Vec::new();
        for part in sent.chunks(8 << 10) {
            let first = guest.give(&mut flow, part)?;
            came.extend(first);
            let most = came.len().max(flow.sent.try_into().unwrap_or(usize::MAX));
            came = guest.take(&mut flow, most, came)?;
        }
        ensure!(came == sent, "other bytes came back than were sent");
        Ok(())
    })
}

fn broken(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        // Without room here, nothing is done away with there.
        let mut flow = guest.connect(Header { buf_alloc: 0.into(), ..request })?;
        let mut left = u64::from(flow.alloc) * 8 + (1 << 20);
        let piece = text(32 << 10);
        while left > 0 {
            guest.tell(&mut flow, OP_RW, 0, &piece)?;
            left = left.saturating_sub(32 << 10);
            while let Some(packet) = guest.next_within(std::time::Duration::ZERO)? {
                guest.post(1, BUFFER)?;
                if packet.op() == OP_RST {
                    return Ok(());
                }
            }
        }
        while let Some(packet) = guest.next_within(LULL)? {
            if packet.op() == OP_RST {
                return Ok(());
            }
        }
        Err(Stop::fail("eight times what there is room for was sent, and no RST came"))
    })
}

fn beyond(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        let flow = guest.connect(request)?;
        let header = Header { op: OP_RW.into(), len: 1000.into(), ..flow.header };
        guest.send(&header, &text(10))?;
        guest.refused(&header)?;
        guest.works()
    })
}

fn half(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let (mut flow, sent) = tight(guest, port, 1000)?;
        guest.tell(&mut flow, OP_SHUTDOWN, SHUTDOWN_SEND, &[])?;
        flow.header.buf_alloc = super::PLENTY.into();
        let mut came = Vec::new();
        guest.tell(&mut flow, OP_CREDIT_UPDATE, 0, &[])?;
        loop {
            let packet = guest.next()?;
            if packet.op() == OP_SHUTDOWN {
                break;
            }
            let data = guest.heed(&mut flow, packet)?;
            came.extend(data);
        }
        ensure!(came == sent, "{} bytes of {} came back before the end", came.len(), sent.len());
        Ok(())
    })
}

fn both(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        let mut flow = guest.connect(request)?;
        guest.tell(&mut flow, OP_SHUTDOWN, SHUTDOWN_RECEIVE | SHUTDOWN_SEND, &[])?;
        guest.refused(&request)
    })
}

fn again(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        for _ in 0..5 {
            let mut flow = guest.connect(request)?;
            guest.tell(&mut flow, OP_SHUTDOWN, SHUTDOWN_RECEIVE | SHUTDOWN_SEND, &[])?;
            guest.refused(&request)?;
        }
        Ok(())
    })
}

fn many(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let mut flows = Vec::new();
        for _ in 0..8 {
            let request = guest.packet(port, OP_REQUEST);
            flows.push(guest.connect(request)?);
        }
        for flow in &mut flows {
            let own = flow.header.src_port.get().to_le_bytes();
            guest.tell(flow, OP_RW, 0, &own)?;
        }
        for _ in &flows {
            let packet = guest.next()?;
            ensure!(packet.op() == OP_RW, "operation {}, not RW", packet.op());
            let port = packet.header.dst_port.get();
            ensure!(packet.data == port.to_le_bytes(), "port {port} got {:?}", packet.data);
            guest.post(1, BUFFER)?;
        }
        Ok(())
    })
}

fn bounds(cx: &mut Cx) -> Checked {
    each_with_messages(cx, |guest, port| {
        let request = guest.packet(port, OP_REQUEST);
        let request = Header { kind: TYPE_SEQPACKET.into(), ..request };
        guest.send(&request, &[])?;
        let answer = guest.next()?;
        ensure!(answer.op() == OP_RESPONSE, "operation {}, not RESPONSE", answer.op());
        guest.post(1, BUFFER)?;
        let mut received = 0_u32;
        for len in [1, 100, 5000, 2] {
            let sent = text(len);
            let said = u32::try_from(len)?;
            let header = Header { op: OP_RW.into(), flags: SEQ_EOM.into(), len: said.into(), ..request };
            guest.send(&Header { fwd_cnt: received.into(), ..header }, &sent)?;
            let mut came = Vec::<u8>::new();
            loop {
                let packet = guest.next()?;
                guest.post(1, BUFFER)?;
                if packet.op() != OP_RW {
                    ensure!(packet.op() == OP_CREDIT_UPDATE, "operation {}, not RW", packet.op());
                    continue;
                }
                came.extend(&packet.data);
                if packet.header.flags.get() & SEQ_EOM != 0 {
                    break;
                }
                ensure!(came.len() < len, "{len} bytes came of a message, and it does not end");
            }
            received = received.wrapping_add(said);
            ensure!(came == sent, "a message of {len} bytes came back with {}", came.len());
        }
        Ok(())
    })
}
