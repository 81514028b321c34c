//! The control queue, of a back end that is passed it on.

use outboard_vhost_user::ProtocolFeatures;
use outboard_virtio_defs::net::{
    Config, F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_VLAN, F_CTRL_VQ, F_MQ, F_MRG_RXBUF,
};
use outboard_virtio_defs::net_control::{Command, ERR, OK};
use outboard_virtqueue::Format;
use zerocopy::{FromBytes, IntoBytes};

use super::frame::Inside;
use super::{LARGE, Nic, RECEIVED, SENT, is_net, needs_loop, setup};
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::FILL;
use crate::check::sample::Sample;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.control-ack",
        title: "a command is acknowledged, and the length counts the acknowledgement alone",
        spec: "VIRTIO 1.3, 5.1.6.5 and 2.7.8.2; in use: crosvm",
        run: ack,
    },
    Check {
        id: "net.control-place",
        title: "without MQ the control queue is queue 2",
        spec: "VIRTIO 1.3, 5.1.2",
        run: place,
    },
    Check {
        id: "net.control-buffers",
        title: "a command may lie in buffers of any length",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: buffers,
    },
    Check {
        id: "net.control-unknown",
        title: "a command that there is not is refused",
        spec: "VIRTIO 1.3, 5.1.6.5",
        run: unknown,
    },
    Check {
        id: "net.control-short",
        title: "what is no whole command is refused, or returned; the next one is carried out",
        spec: "VIRTIO 1.3, 5.1.6.5 (a driver must not; a guest can)",
        run: short,
    },
    Check {
        id: "net.control-values",
        title: "commands with values that cannot be are refused",
        spec: "VIRTIO 1.3, 5.1.6.5 (a driver must not; a guest can)",
        run: values,
    },
    Check {
        id: "net.control-pairs-wrong",
        title: "no number of pairs can be set that there is not",
        spec: "VIRTIO 1.3, 5.1.6.5.5",
        run: pairs_wrong,
    },
    Check {
        id: "net.control-pairs",
        title: "nothing is received on a pair that is not in use, once the command is acknowledged",
        spec: "VIRTIO 1.3, 5.1.6.5.5",
        run: pairs,
    },
    Check {
        id: "net.control-offloads",
        title: "offloads that the driver switches off are not left to it, once the command is acknowledged",
        spec: "VIRTIO 1.3, 5.1.6.5.8",
        run: offloads,
    },
];

/// What goes by the control queue.
const CONTROLLED: u64 = F_CTRL_VQ | F_CTRL_RX | F_CTRL_VLAN | F_CTRL_MAC_ADDR | F_CTRL_GUEST_OFFLOADS;

/// An interface whose control queue runs.
pub(super) struct Controlled {
    pub(super) nic: Nic,
    /// The place of the control queue among the session's rings.
    at: usize,
    /// How many pairs there can be.
    pub(super) pairs: u16,
}

impl Controlled {
    /// With these features besides.
    fn open(cx: &mut Cx, format: Format, features: u64) -> Checked<Self> {
        is_net(cx)?;
        cx.needs(ProtocolFeatures::CONFIG)?;
        cx.needs_feature(F_CTRL_VQ, "CTRL_VQ")?;
        let device_features = F_MRG_RXBUF | CONTROLLED | features;
        let mut nic = Nic::open(cx, &Setup { device_features, ..setup(format) })?;
        let data = nic.session.wire.config(0, u32::try_from(size_of::<Config>())?, 0)?;
        let config = Config::read_from_bytes(&data).map_err(|_| Stop::lacks("a configuration"))?;
        let pairs = config.max_virtqueue_pairs.get().clamp(1, 128);
        let index = if nic.has(F_MQ) { 2 * pairs } else { 2 };
        // Of a back end that counts pairs, or that leaves it to the front end, it is no queue.
        if cx.offer.queues.is_none_or(|queues| queues <= u64::from(2 * pairs)) {
            return Err(Stop::NotApplicable("the control queue stays with the front end".to_owned()));
        }
        let at = nic.session.add_ring(index)?;
        nic.session.start(at)?;
        Ok(Self { nic, at, pairs })
    }

    /// Sends buffers as they are. Returns the length, and what was written.
    pub(super) fn raw(&mut self, readable: Vec<Vec<u8>>, writable: Vec<u32>) -> Checked<(u32, Vec<u8>)> {
        let sample = Sample { queue: 0, readable, writable, verify: |_, _| Ok(()) };
        let patience = self.nic.session.patience;
        let Session { memory, rings, .. } = &mut self.nic.session;
        let ring = rings.get_mut(self.at).ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = ring.place(memory, &sample, 0)?;
        ring.publish()?;
        let (_, len) = ring.returned(patience)?;
        let written = ring.verify(memory, &sample, placed, len)?;
        Ok((len, written))
    }

    /// Gives a command. Returns its acknowledgement.
    fn tell(&mut self, command: Command, data: &[u8]) -> Checked<u8> {
        let whole = [command.as_bytes(), data].concat();
        let (len, written) = self.raw(vec![whole], vec![1])?;
        let ack = written.first().copied().unwrap_or(FILL);
        ensure!(len == 1, "{command:?}: length {len}, not 1");
        ensure!(matches!(ack, OK | ERR), "{command:?}: {ack:#x} for an acknowledgement");
        Ok(ack)
    }

    /// Gives a command that has to be carried out.
    pub(super) fn done(&mut self, command: Command, data: &[u8]) -> Checked {
        let ack = self.tell(command, data)?;
        ensure!(ack == OK, "{command:?} with {data:02x?} is refused");
        Ok(())
    }

    /// Gives a command that must not be carried out.
    pub(super) fn refused(&mut self, command: Command, data: &[u8]) -> Checked {
        let ack = self.tell(command, data)?;
        ensure!(ack == ERR, "{command:?} with {data:02x?} is acknowledged as carried out");
        Ok(())
    }
}

/// With an interface for each ring format.
pub(super) fn each(cx: &mut Cx, features: u64, mut body: impl FnMut(&mut Controlled) -> Checked) -> Checked {
    is_net(cx)?;
    cx.each_format(|cx, format| body(&mut Controlled::open(cx, format, features)?))
}

/// What every device does that has a control queue, as the device offers it.
fn harmless(device: &Controlled) -> Checked<(Command, Vec<u8>)> {
    match device.nic.has(F_CTRL_RX) {
        true => Ok((Command::RX_PROMISC, vec![1])),
        false if device.nic.has(F_MQ) => Ok((Command::MQ_VQ_PAIRS_SET, vec![1, 0])),
        false => Err(Stop::Skip("no command is known for what it offers".to_owned())),
    }
}

fn ack(cx: &mut Cx) -> Checked {
    each(cx, F_MQ, |device| {
        let (command, data) = harmless(device)?;
        device.done(command, &data)?;
        device.done(command, &data)
    })
}

fn place(cx: &mut Cx) -> Checked {
    each(cx, 0, |device| {
        let (command, data) = harmless(device)?;
        device.done(command, &data)
    })
}

fn buffers(cx: &mut Cx) -> Checked {
    each(cx, F_MQ, |device| {
        let (command, data) = harmless(device)?;
        let whole = [command.as_bytes(), &data].concat();
        let (front, rest) = whole.split_at(2);
        for readable in [
            vec![whole.clone()],
            vec![front.to_vec(), rest.to_vec()],
            whole.iter().map(|byte| vec![*byte]).collect(),
        ] {
            let count = readable.len();
            let (len, written) = device.raw(readable, vec![1])?;
            ensure!((len, written.as_slice()) == (1, &[OK]), "{count} buffers: length {len}, {written:02x?}");
        }
        // Room that is not needed.
        let (_, written) = device.raw(vec![whole], vec![1, 16])?;
        ensure!(written.first() == Some(&OK), "room for more: {written:02x?}");
        Ok(())
    })
}

fn unknown(cx: &mut Cx) -> Checked {
    each(cx, F_MQ, |device| {
        for command in [(0x7f, 0), (0xff, 0xff), (0, 0x7f), (1, 9), (2, 2), (4, 77), (5, 1)] {
            device.refused(Command::new(command.0, command.1), &[1, 0])?;
        }
        let (command, data) = harmless(device)?;
        device.done(command, &data)
    })
}

fn short(cx: &mut Cx) -> Checked {
    each(cx, F_MQ, |device| {
        let (command, data) = harmless(device)?;
        for readable in [vec![], vec![vec![command.class]], vec![command.as_bytes().to_vec()]] {
            let len = readable.concat().len();
            let (_, written) = device.raw(readable, vec![1])?;
            ensure!(written.first() != Some(&OK), "a command of {len} bytes is acknowledged as carried out");
        }
        // Nowhere to put the acknowledgement.
        device.raw(vec![[command.as_bytes(), &data].concat()], Vec::new())?;
        device.done(command, &data)
    })
}

fn values(cx: &mut Cx) -> Checked {
    each(cx, F_MQ | RECEIVED, |device| {
        let features = device.nic.session.features;
        let mut tried = false;
        let table = |count: u32, rest: usize| [&count.to_le_bytes()[..], &vec![2; rest]].concat();
        for (feature, command, data) in [
            (F_CTRL_VLAN, Command::VLAN_ADD, vec![0, 0x10]),
            (F_CTRL_VLAN, Command::VLAN_ADD, vec![0xff, 0xff]),
            (F_CTRL_VLAN, Command::VLAN_DEL, vec![1]),
            (F_CTRL_RX, Command::MAC_TABLE_SET, table(u32::MAX, 12)),
            (F_CTRL_RX, Command::MAC_TABLE_SET, table(2, 12)),
            (F_CTRL_RX, Command::MAC_TABLE_SET, table(1000, 6)),
            (F_CTRL_MAC_ADDR, Command::MAC_ADDR_SET, vec![2; 5]),
            (F_CTRL_GUEST_OFFLOADS, Command::GUEST_OFFLOADS_SET, vec![0xff; 8]),
            (F_CTRL_GUEST_OFFLOADS, Command::GUEST_OFFLOADS_SET, vec![0; 7]),
        ] {
            if features & feature != 0 {
                tried = true;
                device.refused(command, &data)?;
            }
        }
        if tried { Ok(()) } else { Err(Stop::lacks("any command that is known")) }
    })
}

fn pairs_wrong(cx: &mut Cx) -> Checked {
    is_net(cx)?;
    cx.needs_feature(F_MQ, "MQ")?;
    each(cx, F_MQ, |device| {
        let most = device.pairs;
        for pairs in [0, most + 1, 0x8001, u16::MAX] {
            device.refused(Command::MQ_VQ_PAIRS_SET, &pairs.to_le_bytes())?;
        }
        device.done(Command::MQ_VQ_PAIRS_SET, &most.to_le_bytes())
    })
}

fn pairs(cx: &mut Cx) -> Checked {
    needs_loop(cx)?;
    cx.needs_feature(F_MQ, "MQ")?;
    each(cx, F_MQ, |device| {
        if device.pairs < 2 {
            return Err(Stop::NotApplicable("there is one pair".to_owned()));
        }
        let nic = &mut device.nic;
        let (rx, tx) = (nic.session.add_ring(2)?, nic.session.add_ring(3)?);
        nic.session.start(rx)?;
        nic.session.start(tx)?;
        nic.post(8, 2048)?;
        nic.post_on(rx, 8, 2048)?;
        for pairs in [2_u16, 1, 2, 1] {
            device.done(Command::MQ_VQ_PAIRS_SET, &pairs.to_le_bytes())?;
            let frame = device.nic.tagged(60);
            device.nic.send_on(tx, vec![vec![0; 12], frame], Vec::new())?;
            let patience = if pairs == 1 { LULL } else { device.nic.session.patience };
            let mut found = false;
            let deadline = std::time::Instant::now() + patience;
            while std::time::Instant::now() < deadline && !found {
                let soon = std::time::Duration::from_millis(1);
                let second = device.nic.receive_on(rx, soon)?;
                ensure!(
                    pairs > 1 || second.is_none(),
                    "a packet came on the second pair, which is not in use"
                );
                found = second.is_some() || device.nic.receive_on(0, soon)?.is_some();
            }
            ensure!(found || pairs == 1, "what is sent on the second pair does not come back, though in use");
        }
        Ok(())
    })
}

fn offloads(cx: &mut Cx) -> Checked {
    needs_loop(cx)?;
    cx.needs_feature(F_CTRL_GUEST_OFFLOADS, "CTRL_GUEST_OFFLOADS")?;
    each(cx, F_MQ | SENT | RECEIVED, |device| {
        device.nic.post(8, LARGE)?;
        let inside = Inside::Tcp4;
        let frame = inside.frame(&[0x5a; 3000]);
        let all = device.nic.session.features & RECEIVED;
        for offloads in [all, 0, all, 0] {
            device.done(Command::GUEST_OFFLOADS_SET, &offloads.to_le_bytes())?;
            for header in [inside.checksum(), inside.segments(1000)] {
                let came = device.nic.forwarded(true, &header, &frame)?;
                let left = came.iter().any(|came| came.header.flags != 0 || came.header.gso_type != 0);
                ensure!(offloads != 0 || !left, "what the driver takes no more is left to it");
            }
        }
        Ok(())
    })
}
