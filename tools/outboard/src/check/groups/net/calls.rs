//! Calls that wait for each other (VIRTIO 1.3, 5.1.6.5.9). A device may call more often than it was told to, or less; what
//! it must not do is forget a call.

use std::time::Duration;

use outboard_virtio_defs::net::{F_NOTF_COAL, F_VQ_NOTF_COAL};
use outboard_virtio_defs::net_control::{Coalescing, Command, ERR, OK, QueueCoalescing};
use zerocopy::{FromBytes, IntoBytes};

use super::control::{Controlled, each};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::{take, wait};
use crate::check::sample::Sample;
use crate::check::session::Session;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.coalescing-last",
        title: "a call is made with the last of so many packets, or when its time is over",
        spec: "VIRTIO 1.3, 5.1.6.5.9.1",
        run: last,
    },
    Check {
        id: "net.coalescing-told",
        title: "a queue's coalescing is told as it was set last",
        spec: "VIRTIO 1.3, 5.1.6.5.9",
        run: told,
    },
    Check {
        id: "net.coalescing-queue",
        title: "coalescing of what is no enabled queue of packets is refused",
        spec: "VIRTIO 1.3, 5.1.6.5.9.3",
        run: queue,
    },
];

const HOUR: u32 = 3_600_000_000;

fn coalescing(max_packets: u32, max_usecs: u32) -> Coalescing {
    Coalescing { max_packets: max_packets.into(), max_usecs: max_usecs.into() }
}

impl Controlled {
    /// Sends packets, each of which is returned before the next one. Takes no call.
    fn send_uncalled(&mut self, count: usize) -> Checked {
        let patience = self.nic.session.patience;
        for _ in 0..count {
            let packet = [vec![0; self.nic.header_len()], self.nic.tagged(60)].concat();
            let sample =
                Sample { queue: 0, readable: vec![packet], writable: Vec::new(), verify: |_, _| Ok(()) };
            let Session { memory, rings, .. } = &mut self.nic.session;
            let ring = rings.get_mut(1).ok_or_else(|| Stop::lacks("a ring"))?;
            let placed = ring.place(memory, &sample, 0)?;
            ring.queue.arm_calls();
            ring.publish()?;
            let (_, len) = ring.returned_uncalled(patience)?;
            ring.verify(memory, &sample, placed, len)?;
        }
        Ok(())
    }

    /// Forgets calls so far; those of before this command are over.
    fn forget_calls(&mut self, coalescing: Coalescing) -> Checked {
        self.done(Command::NOTF_COAL_TX_SET, coalescing.as_bytes())?;
        let call = &self.nic.session.ring(1)?.call;
        // One may still be under way.
        wait(call, Duration::from_millis(20))?;
        take(call).map(drop)
    }

    /// How calls of a queue are coalesced; `None`: that is refused.
    fn coalescing_of(&mut self, queue: u16) -> Checked<Option<Coalescing>> {
        let mut command = Command::NOTF_COAL_VQ_GET.as_bytes().to_vec();
        command.extend(u32::from(queue).to_le_bytes());
        let (len, written) = self.raw(vec![command], vec![1, 8])?;
        match written.split_first() {
            Some((&ERR, _)) => Ok(None),
            Some((&OK, rest)) => {
                ensure!(len == 9, "length {len} for an acknowledgement and what was asked for");
                Ok(Coalescing::read_from_bytes(rest).ok())
            }
            _ => Err(Stop::fail(format!("{written:02x?} for an answer"))),
        }
    }

    /// It has to be told, and to be this.
    fn is_told(&mut self, queue: u16, wanted: Coalescing) -> Checked {
        let told = self.coalescing_of(queue)?;
        ensure!(told == Some(wanted), "of queue {queue}, {told:?} is told, not {wanted:?}");
        Ok(())
    }
}

fn of_queue(queue: u16, coalescing: Coalescing) -> QueueCoalescing {
    QueueCoalescing { queue: queue.into(), coalescing, ..QueueCoalescing::default() }
}

fn last(cx: &mut Cx) -> Checked {
    cx.needs_feature(F_NOTF_COAL, "NOTF_COAL")?;
    each(cx, F_NOTF_COAL, |device| {
        let patience = device.nic.session.patience;
        for (coalescing, packets, why) in [
            (coalescing(8, 20_000), 1, "20 ms after the last packet"),
            (coalescing(4, HOUR), 4, "after 4 packets of 4"),
            (coalescing(0, HOUR), 1, "after one packet, for 0"),
        ] {
            device.forget_calls(coalescing)?;
            device.send_uncalled(packets)?;
            let called = wait(&device.nic.session.ring(1)?.call, patience)?;
            ensure!(called, "{why} the driver was not called within {patience:?}");
        }
        // What waits when that is over does not wait any more.
        device.forget_calls(coalescing(4, HOUR))?;
        device.send_uncalled(1)?;
        device.done(Command::NOTF_COAL_TX_SET, coalescing(0, 0).as_bytes())?;
        let called = wait(&device.nic.session.ring(1)?.call, patience)?;
        ensure!(called, "the call that waited when coalescing was over did not come within {patience:?}");
        Ok(())
    })
}

fn told(cx: &mut Cx) -> Checked {
    cx.needs_feature(F_NOTF_COAL | F_VQ_NOTF_COAL, "NOTF_COAL and VQ_NOTF_COAL")?;
    each(cx, F_NOTF_COAL | F_VQ_NOTF_COAL, |device| {
        let (few, many) = (coalescing(3, 1000), coalescing(9, 2000));
        for queue in [0, 1] {
            device.is_told(queue, coalescing(0, 0))?;
        }
        device.done(Command::NOTF_COAL_TX_SET, few.as_bytes())?;
        device.is_told(1, few)?;
        device.is_told(0, coalescing(0, 0))?;
        device.done(Command::NOTF_COAL_VQ_SET, of_queue(1, many).as_bytes())?;
        device.is_told(1, many)?;
        device.done(Command::NOTF_COAL_RX_SET, many.as_bytes())?;
        device.is_told(0, many)?;
        device.is_told(1, many)?;
        device.done(Command::NOTF_COAL_TX_SET, few.as_bytes())?;
        device.is_told(1, few)
    })
}

fn queue(cx: &mut Cx) -> Checked {
    cx.needs_feature(F_VQ_NOTF_COAL, "VQ_NOTF_COAL")?;
    each(cx, F_VQ_NOTF_COAL, |device| {
        // The control queue, one that does not run, and none.
        for queue in [2 * device.pairs, 2, 0x7fff] {
            let told = device.coalescing_of(queue)?;
            ensure!(told.is_none(), "of queue {queue}, {told:?} is told");
            device.refused(Command::NOTF_COAL_VQ_SET, of_queue(queue, coalescing(2, 2)).as_bytes())?;
        }
        device.done(Command::NOTF_COAL_VQ_SET, of_queue(1, coalescing(2, 2)).as_bytes())
    })
}
