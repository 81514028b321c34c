//! Several pairs of queues, and queues that rest and stop.

use outboard_vhost_user::ProtocolFeatures;
use outboard_virtio_defs::features::VHOST_USER_F_PROTOCOL_FEATURES;
use outboard_virtio_defs::net::{Config, F_CTRL_VQ, F_MQ, F_MRG_RXBUF, HEADER_LEN};
use outboard_virtqueue::Format;
use zerocopy::FromBytes;

use super::{Nic, needs_loop, setup};
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::groups::ring::stops::whole;
use crate::check::session::Setup;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.disabled",
        title: "nothing is received on a ring that is disabled; once it is enabled, packets come again",
        spec: "vhost-user: Ring states; in use: QEMU, Cloud Hypervisor",
        run: disabled,
    },
    Check {
        id: "net.stop",
        title: "buffers that hold no packet when the ring stops are used when it goes on",
        spec: "vhost-user: GET_VRING_BASE; in use: guests that are stopped and go on",
        run: stop,
    },
    Check {
        id: "net.pairs",
        title: "each pair of queues sends, and receives, whether the control queue is passed on or not",
        spec: "VIRTIO 1.3, 5.1.2; in use: QEMU",
        run: pairs,
    },
];

fn disabled(cx: &mut Cx) -> Checked {
    needs_loop(cx)?;
    cx.needs_feature(VHOST_USER_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES")?;
    cx.each_format(|cx, format| {
        let mut nic = Nic::open(cx, &setup(format))?;
        for _ in 0..3 {
            nic.post(4, 2048)?;
            nic.session.enable(0, false)?;
            let lost = nic.tagged(100);
            // Some send on no ring of a pair of which one rests.
            let sent = nic.send(&lost);
            let came = nic.receive_within(LULL)?;
            ensure!(came.is_none(), "a packet was received on a ring that is disabled");
            nic.session.enable(0, true)?;
            sent.map_err(|stop| stop.when("while the ring to receive on is disabled"))?;
            comes_back(&mut nic, 1, 0)?;
        }
        Ok(())
    })
}

/// Sends on one ring until it is received on another: what was sent before may come first.
fn comes_back(nic: &mut Nic, sent_on: usize, received_on: usize) -> Checked {
    let frame = nic.tagged(60);
    nic.send_on(sent_on, vec![vec![0; HEADER_LEN], frame.clone()], Vec::new())?;
    let patience = nic.session.patience;
    while let Some(came) = nic.receive_on(received_on, patience)? {
        if came.frame == frame {
            return Ok(());
        }
    }
    Err(Stop::fail(format!("what was sent on queue {sent_on} did not come back on queue {received_on}")))
}

fn stop(cx: &mut Cx) -> Checked {
    const BUFFERS: usize = 16;
    needs_loop(cx)?;
    cx.each_format(|cx, format| {
        let mut nic = Nic::open(cx, &setup(format))?;
        nic.post(BUFFERS, 2048)?;
        for round in 0..3 {
            for _ in 0..4 {
                comes_back(&mut nic, 1, 0)?;
            }
            // Both, as VMMs do.
            let bases = [nic.session.stop(0)?, nic.session.stop(1)?];
            for (at, base) in bases.into_iter().enumerate() {
                nic.session.start_at(at, whole(format, base))?;
            }
            comes_back(&mut nic, 1, 0).map_err(|stop| stop.when(format_args!("after stop {}", round + 1)))?;
        }
        ensure!(nic.posted.len() == BUFFERS - 15, "{} buffers are left of {BUFFERS}", nic.posted.len());
        comes_back(&mut nic, 1, 0).map_err(|stop| stop.when("the last buffer"))
    })
}

/// How many pairs of queues the device has. What GET_QUEUE_NUM counts is not agreed.
fn count(cx: &Cx, nic: &mut Nic) -> Checked<u64> {
    cx.needs(ProtocolFeatures::CONFIG)?;
    let data = nic.session.wire.config(0, u32::try_from(size_of::<Config>())?, 0)?;
    let config = Config::read_from_bytes(&data).map_err(|_| Stop::lacks("a configuration"))?;
    Ok(config.max_virtqueue_pairs.get().into())
}

fn pairs(cx: &mut Cx) -> Checked {
    needs_loop(cx)?;
    cx.needs_feature(F_MQ, "MQ")?;
    for control in [0, F_CTRL_VQ] {
        if cx.offer.features & control != control {
            continue;
        }
        cx.each_format(|cx, format| all_pairs(cx, format, F_MRG_RXBUF | F_MQ | control))?;
    }
    Ok(())
}

fn all_pairs(cx: &mut Cx, format: Format, device_features: u64) -> Checked {
    let mut nic = Nic::open(cx, &Setup { size: 16, device_features, ..setup(format) })?;
    let pairs = count(cx, &mut nic)?.min(8);
    if pairs < 2 {
        return Err(Stop::NotApplicable("there is one pair".to_owned()));
    }
    for index in 2..u16::try_from(2 * pairs)? {
        let at = nic.session.add_ring(index)?;
        nic.session.start(at)?;
    }
    for queue in (0..2 * usize::try_from(pairs)?).step_by(2) {
        nic.post_on(queue, 4, 2048)?;
    }
    for tx in (1..2 * usize::try_from(pairs)?).step_by(2) {
        let frame = nic.tagged(60);
        nic.send_on(tx, vec![vec![0; HEADER_LEN], frame.clone()], Vec::new())?;
        // On any that is enabled: which one is the device's to choose.
        let mut found = false;
        let patience = nic.session.patience;
        let deadline = std::time::Instant::now() + patience;
        while !found {
            for rx in (0..2 * usize::try_from(pairs)?).step_by(2) {
                let came = nic.receive_on(rx, std::time::Duration::from_millis(1))?;
                found |= came.is_some_and(|came| came.frame == frame);
            }
            let late = std::time::Instant::now() >= deadline;
            ensure!(found || !late, "what was sent on queue {tx} did not come back on any");
        }
    }
    Ok(())
}
