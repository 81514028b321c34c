//! Packets by themselves: the configuration, and who is refused.

use outboard_virtio_defs::vsock::{CID_FIRST, CID_LAST, F_STREAM, OP_REQUEST, OP_RST, OP_RW, TYPE_SEQPACKET};
use zerocopy::IntoBytes;

use super::{BUFFER, Guest, NOBODY, each, each_with_echo, is_vsock, text};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, ensure};

/// What a driver does.
const OPERATION: &str = "VIRTIO 1.3, 5.10.6";
/// What no driver does.
const WRONG: &str = "VIRTIO 1.3, 5.10.6 (a driver must not; a guest can)";

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = checks! {
    "vsock.config-cid", "the guest has a context id that guests may have", "VIRTIO 1.3, 5.10.4", config_cid;
    "vsock.rst-closed-port", "who asks for a port where nobody is hears it", "VIRTIO 1.3, 5.10.6.4", closed_port;
    "vsock.rst-unknown-type", "a type that there is not is refused, as that type", "VIRTIO 1.3, 5.10.6.4.1", unknown_type;
    "vsock.rst-unknown-flow", "data of no connection are refused", OPERATION, unknown_flow;
    "vsock.no-rst-for-rst", "nobody answers an RST", OPERATION, rst;
    "vsock.wrong-source-no-harm", "a packet in another guest's name is not served", WRONG, wrong_source;
    "vsock.short-header", "a packet that is shorter than its header does no harm", WRONG, short;
    "vsock.header-split", "a header may lie in buffers of any length", "VIRTIO 1.3, 2.7.4.1", split;
    "vsock.rx-none-tx-goes-on", "what the guest sends is taken while it has no buffers to receive", "VIRTIO 1.3, 5.10.6.1", no_buffers;
    "vsock.seqpacket-not-agreed", "messages that were not agreed to are refused", "VIRTIO 1.3, 5.10.3", messages;
};

fn config_cid(cx: &mut Cx) -> Checked {
    each(cx, |guest| {
        let cid = guest.cid;
        ensure!((CID_FIRST..=CID_LAST).contains(&cid), "context id {cid:#x}");
        Ok(())
    })
}

fn closed_port(cx: &mut Cx) -> Checked {
    each(cx, Guest::works)
}

fn unknown_type(cx: &mut Cx) -> Checked {
    each(cx, |guest| {
        for kind in [0, 3, 0xffff] {
            let mut request = guest.packet(NOBODY, OP_REQUEST);
            request.kind = kind.into();
            guest.send(&request, &[])?;
            guest.refused(&request)?;
        }
        guest.works()
    })
}

fn unknown_flow(cx: &mut Cx) -> Checked {
    each(cx, |guest| {
        let mut packet = guest.packet(NOBODY, OP_RW);
        packet.len = 5.into();
        guest.send(&packet, b"hello")?;
        guest.refused(&packet)?;
        guest.works()
    })
}

fn rst(cx: &mut Cx) -> Checked {
    each(cx, |guest| {
        let packet = guest.packet(NOBODY, OP_RST);
        guest.send(&packet, &[])?;
        // What comes next is the answer to this.
        guest.works()
    })
}

fn wrong_source(cx: &mut Cx) -> Checked {
    each(cx, |guest| {
        let other = guest.cid ^ 1 << 20;
        for cid in [other, guest.cid | 1 << 40, 2] {
            let mut request = guest.packet(NOBODY, OP_REQUEST);
            request.src_cid = cid.into();
            guest.send(&request, &[])?;
        }
        guest.works()
    })
}

fn short(cx: &mut Cx) -> Checked {
    each(cx, |guest| {
        let request = guest.packet(NOBODY, OP_REQUEST);
        for len in [1, 43] {
            guest.send_in(vec![request.as_bytes().iter().copied().take(len).collect()])?;
        }
        guest.works()
    })
}

fn split(cx: &mut Cx) -> Checked {
    each(cx, |guest| {
        for at in [1, 20, 43] {
            let request = guest.packet(NOBODY, OP_REQUEST);
            let (front, back) = request.as_bytes().split_at(at);
            guest.send_in(vec![front.to_vec(), back.to_vec()])?;
            guest.refused(&request)?;
        }
        Ok(())
    })
}

fn no_buffers(cx: &mut Cx) -> Checked {
    is_vsock(cx)?;
    cx.each_format(|cx, format| {
        let mut guest = Guest::open(cx, format, F_STREAM)?;
        // More than the ring has entries.
        for _ in 0..80 {
            let request = guest.packet(NOBODY, OP_REQUEST);
            guest.send(&request, &[]).map_err(|stop| stop.when("there are no buffers to receive"))?;
        }
        guest.post(32, BUFFER)?;
        let came = guest.next()?;
        ensure!(came.op() == OP_RST, "operation {}, not RST", came.op());
        Ok(())
    })
}

fn messages(cx: &mut Cx) -> Checked {
    each_with_echo(cx, |guest, port| {
        let mut request = guest.packet(port, OP_REQUEST);
        request.kind = TYPE_SEQPACKET.into();
        guest.send(&request, &[])?;
        guest.refused(&request)?;
        // What is agreed to is served.
        let request = guest.packet(port, OP_REQUEST);
        let mut flow = guest.connect(request)?;
        let sent = text(100);
        let came = guest.give(&mut flow, &sent)?;
        ensure!(guest.take(&mut flow, 100, came)? == sent, "other bytes came back than were sent");
        Ok(())
    })
}
