//! What a packet of the guest says, and packets to the guest (VIRTIO 1.3, 5.10.6). Pure. The guest is not trusted: what
//! is judged is a copy of its header.

use outboard_device::defs::vsock::{
    Header, OP_CREDIT_REQUEST, OP_CREDIT_UPDATE, OP_REQUEST, OP_RESPONSE, OP_RST, OP_RW, OP_SHUTDOWN,
    PORT_ANY, SEQ_EOM, SEQ_EOR, TYPE_SEQPACKET, TYPE_STREAM,
};
use outboard_streams::Form;

use crate::counters::Refused;

/// What a connection of the guest is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) form: Form,
    /// Context id of the other end.
    pub(crate) cid: u32,
    /// Port of the other end.
    pub(crate) port: u32,
    /// Port of the guest.
    pub(crate) guest_port: u32,
}

/// What the guest wants with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Request,
    Response,
    Rst,
    /// With the flags.
    Shutdown(u32),
    Data(Data),
    CreditUpdate,
    CreditRequest,
    /// Nothing that there is: its connection ends.
    Wrong(Refused),
}

/// What is behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Data {
    pub(crate) len: u32,
    /// It ends a message.
    pub(crate) ends_message: bool,
    /// The message ends a record.
    pub(crate) ends_record: bool,
}

/// A packet of the guest, for a connection that there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) key: Key,
    pub(crate) op: Op,
    /// What the guest has room for.
    pub(crate) alloc: u32,
    /// What the guest has done away with.
    pub(crate) forwarded: u32,
}

/// A packet that belongs to no connection that there could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stray {
    pub(crate) why: Refused,
    /// What it is to be answered with.
    pub(crate) answer: Option<Header>,
}

/// Judges the header of a packet with `readable` bytes behind it, of a guest `cid` that may send `messages`.
pub(crate) fn judge(header: &Header, readable: usize, cid: u32, messages: bool) -> Result<Packet, Stray> {
    if header.src_cid.get() != u64::from(cid) {
        // Whoever it is, an answer would not find him.
        return Err(Stray { why: Refused::Source, answer: None });
    }
    let stray = |why| Err(Stray { why, answer: answer(header) });
    let form = match header.kind.get() {
        TYPE_STREAM => Form::Bytes,
        TYPE_SEQPACKET if messages => Form::Messages,
        // VIRTIO 1.3, 5.10.6.1.
        _ => return stray(Refused::Type),
    };
    let Ok(other) = u32::try_from(header.dst_cid.get()) else { return stray(Refused::Destination) };
    let (port, guest_port) = (header.dst_port.get(), header.src_port.get());
    if port == PORT_ANY || guest_port == PORT_ANY {
        return stray(Refused::Port);
    }
    let len = header.len.get();
    let flags = header.flags.get();
    let op = match header.op.get() {
        OP_RST => Op::Rst,
        _ if len as usize > readable => Op::Wrong(Refused::Length),
        OP_REQUEST => Op::Request,
        OP_RESPONSE => Op::Response,
        OP_SHUTDOWN => Op::Shutdown(flags),
        OP_RW => {
            Op::Data(Data { len, ends_message: flags & SEQ_EOM != 0, ends_record: flags & SEQ_EOR != 0 })
        }
        OP_CREDIT_UPDATE => Op::CreditUpdate,
        OP_CREDIT_REQUEST => Op::CreditRequest,
        _ => Op::Wrong(Refused::Op),
    };
    Ok(Packet {
        key: Key { form, cid: other, port, guest_port },
        op,
        alloc: header.buf_alloc.get(),
        forwarded: header.fwd_cnt.get(),
    })
}

/// The RST that answers a packet; none answers an RST.
fn answer(header: &Header) -> Option<Header> {
    (header.op.get() != OP_RST).then(|| Header {
        src_cid: header.dst_cid,
        dst_cid: header.src_cid,
        src_port: header.dst_port,
        dst_port: header.src_port,
        kind: header.kind,
        op: OP_RST.into(),
        ..Header::default()
    })
}

impl Key {
    /// As the other end knows it, if that is a guest: one of the guest `cid`.
    pub(crate) fn of_other(&self, cid: u32) -> Self {
        Self { form: self.form, cid, port: self.guest_port, guest_port: self.port }
    }

    /// A packet to the guest `cid`, without data and credit.
    pub(crate) fn header(&self, cid: u32, op: u16) -> Header {
        let kind = match self.form {
            Form::Bytes => TYPE_STREAM,
            Form::Messages => TYPE_SEQPACKET,
        };
        Header {
            src_cid: u64::from(self.cid).into(),
            dst_cid: u64::from(cid).into(),
            src_port: self.port.into(),
            dst_port: self.guest_port.into(),
            kind: kind.into(),
            op: op.into(),
            ..Header::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outboard_device::defs::vsock::{SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

    const KEY: Key = Key { form: Form::Bytes, cid: 2, port: 80, guest_port: 1024 };

    /// A packet of guest 5.
    fn packet(op: u16) -> Header {
        Header {
            src_cid: 5.into(),
            dst_cid: 2.into(),
            src_port: 1024.into(),
            dst_port: 80.into(),
            kind: TYPE_STREAM.into(),
            op: op.into(),
            buf_alloc: 7.into(),
            fwd_cnt: 9.into(),
            ..Header::default()
        }
    }

    fn op_of(header: Header) -> Op {
        judge(&header, 100, 5, true).unwrap().op
    }

    #[test]
    fn every_operation_is_known_and_no_other() {
        let with = |op, flags: u32, len: u32| Header { flags: flags.into(), len: len.into(), ..packet(op) };
        assert_eq!(op_of(packet(OP_REQUEST)), Op::Request);
        assert_eq!(op_of(packet(OP_RESPONSE)), Op::Response);
        assert_eq!(op_of(packet(OP_RST)), Op::Rst);
        assert_eq!(op_of(with(OP_SHUTDOWN, 3, 0)), Op::Shutdown(SHUTDOWN_RECEIVE | SHUTDOWN_SEND));
        let data = Data { len: 100, ends_message: true, ends_record: false };
        assert_eq!(op_of(with(OP_RW, SEQ_EOM, 100)), Op::Data(data));
        assert_eq!(op_of(with(OP_RW, SEQ_EOM, 101)), Op::Wrong(Refused::Length));
        assert_eq!(op_of(packet(OP_CREDIT_UPDATE)), Op::CreditUpdate);
        assert_eq!(op_of(packet(OP_CREDIT_REQUEST)), Op::CreditRequest);
        for op in [0, 8, u16::MAX] {
            assert_eq!(op_of(packet(op)), Op::Wrong(Refused::Op));
        }
    }

    #[test]
    fn packet_of_a_connection_names_it_and_carries_credit() {
        let packet = judge(&packet(OP_REQUEST), 0, 5, false).unwrap();
        assert_eq!(packet, Packet { key: KEY, op: Op::Request, alloc: 7, forwarded: 9 });
    }

    #[test]
    fn packet_that_can_belong_to_nothing_is_answered_unless_it_is_an_rst_or_from_elsewhere() {
        let cases = [
            (Header { kind: 0.into(), ..packet(1) }, Refused::Type),
            (Header { kind: 3.into(), ..packet(5) }, Refused::Type),
            (Header { kind: TYPE_SEQPACKET.into(), ..packet(1) }, Refused::Type),
            (Header { dst_cid: (1 << 32 | 2).into(), ..packet(1) }, Refused::Destination),
            (Header { dst_port: PORT_ANY.into(), ..packet(1) }, Refused::Port),
            (Header { src_port: PORT_ANY.into(), ..packet(1) }, Refused::Port),
        ];
        for (header, why) in cases {
            let stray = judge(&header, 0, 5, false).unwrap_err();
            let answer = stray.answer.unwrap();
            assert_eq!((stray.why, answer.op.get(), answer.kind), (why, OP_RST, header.kind));
            assert_eq!((answer.src_cid, answer.dst_cid), (header.dst_cid, header.src_cid));
            assert_eq!((answer.src_port, answer.dst_port), (header.dst_port, header.src_port));
            let rst = Header { op: OP_RST.into(), ..header };
            assert_eq!(judge(&rst, 0, 5, false).unwrap_err().answer, None);
        }
        for cid in [4, 1 << 32 | 5] {
            let stray = judge(&Header { src_cid: cid.into(), ..packet(1) }, 0, 5, true).unwrap_err();
            assert_eq!(stray, Stray { why: Refused::Source, answer: None });
        }
    }
}
