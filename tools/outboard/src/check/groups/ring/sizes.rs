//! Sizes of rings.

use std::os::fd::AsFd;
use std::time::Duration;

use outboard_vhost_user::FrontendRequest as Code;
use outboard_vhost_user::ProtocolFeatures;
use outboard_vhost_user::payload::VringState;
use outboard_virtio_defs::features::{VIRTIO_F_INDIRECT_DESC, VIRTIO_F_RING_PACKED};
use outboard_virtqueue::Format;
use zerocopy::IntoBytes;

use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::signal;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::Answer;

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "ring.sizes",
        title: "rings of 1, 2, 256 and 1024 entries work, as far as they are accepted",
        spec: "VIRTIO 1.3, 2.7",
        run: sizes,
    },
    Check {
        id: "ring.largest",
        title: "the largest ring that is accepted works, filled to the last entry",
        spec: "VIRTIO 1.3, 2.7",
        run: largest,
    },
    Check {
        id: "ring.odd-sizes",
        title: "the size of a packed ring need not be a power of 2",
        spec: "VIRTIO 1.3, 2.8.10.1",
        run: odd_sizes,
    },
    Check {
        id: "ring.bad-sizes",
        title: "rings of 0 or 65536 entries are refused",
        spec: "VIRTIO 1.3, 2.7 and 2.8 (at most 32768); vhost-user: REPLY_ACK",
        run: bad_sizes,
    },
];

/// How long the first of a ring full of requests may take.
const LONG: Duration = Duration::from_secs(30);

/// A ring of this size, if the back end takes it.
fn of_size(cx: &mut Cx, format: Format, size: u16) -> Checked<Option<Session>> {
    // A request of several buffers fits into a single entry by a table.
    let indirect = size == 1 && cx.offer.features & VIRTIO_F_INDIRECT_DESC != 0;
    let setup = Setup { indirect, ..Setup::new(format) };
    let mut session = Session::prepared(cx, &setup)?;
    session.setup.size = size;
    let index = session.rings.pop().map_or(0, |ring| ring.index);
    let at = session.add_ring(index)?;
    let state = VringState { index: index.into(), num: size.into() };
    if session.wire.try_set(Code::SET_VRING_NUM, state.as_bytes(), &[])? != Answer::Ack {
        return Ok(None);
    }
    session.start(at)?;
    Ok(Some(session))
}

fn sizes(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?.merged();
    cx.each_format(|cx, format| {
        for size in [1, 2, 256, 1024] {
            let Some(mut session) = of_size(cx, format, size)? else {
                cx.note(format!("{format:?}: a ring of {size} is refused"));
                continue;
            };
            if !session.sample_ring()?.has_room(&sample) {
                cx.note(format!("{format:?}: no request fits into a ring of {size}"));
                continue;
            }
            session
                .rounds(&sample, u64::from(size) + 40, usize::MAX)
                .map_err(|stop| stop.when(format_args!("{size} entries")))?;
        }
        Ok(())
    })
}

fn largest(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        for size in (4..=15).rev().map(|bits| 1 << bits) {
            let Some(mut session) = of_size(cx, format, size)? else { continue };
            cx.note(format!("{format:?}: the largest ring has {size} entries"));
            // All of them at once take a while.
            session.patience = session.patience.max(LONG);
            return session
                .rounds(&sample, u64::from(size), usize::MAX)
                .map_err(|stop| stop.when(format_args!("{size} entries")));
        }
        Err(Stop::fail("no size is accepted"))
    })
}

fn odd_sizes(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_RING_PACKED, "RING_PACKED")?;
    let sample = cx.sample()?;
    for size in [3, 5, 7, 100] {
        let session = of_size(cx, Format::Packed, size)?;
        let mut session = session.ok_or_else(|| Stop::fail(format!("a ring of {size} is refused")))?;
        session.rounds(&sample, 200, 4).map_err(|stop| stop.when(format_args!("{size} entries")))?;
    }
    Ok(())
}

/// Whether a ring of this size is taken, message by message, up to its start.
fn taken(cx: &mut Cx, format: Format, size: u32) -> Checked<bool> {
    let mut session = Session::prepared(cx, &Setup::new(format))?;
    let at = session.last();
    let index = u32::from(session.ring(at)?.index);
    let state = |num| VringState { index, num };
    let Session { wire, memory, rings, .. } = &mut session;
    let ring = rings.get(at).ok_or_else(|| Stop::lacks("a ring"))?;
    let addr = ring.addr(memory, 0)?;
    let base = ring.queue.fresh_base().0;
    let steps = [
        (Code::SET_VRING_NUM, state(size).as_bytes().to_vec(), false),
        (Code::SET_VRING_BASE, state(base).as_bytes().to_vec(), false),
        (Code::SET_VRING_ADDR, addr.as_bytes().to_vec(), false),
        (Code::SET_VRING_KICK, u64::from(index).as_bytes().to_vec(), true),
        (Code::SET_VRING_ENABLE, state(1).as_bytes().to_vec(), false),
    ];
    for (code, body, has_fd) in steps {
        let fds = [ring.kick.as_fd()];
        if wire.try_set(code, &body, if has_fd { &fds } else { &[] })? != Answer::Ack {
            return Ok(false);
        }
    }
    signal(&ring.kick)?;
    wire.is_open()
}

fn bad_sizes(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    cx.each_format(|cx, format| {
        for size in [0, 65_536] {
            ensure!(!taken(cx, format, size)?, "a ring of {size} entries is accepted");
        }
        if format == Format::Split && taken(cx, format, 3)? {
            cx.note("a split ring of 3 entries is accepted");
        }
        // None of that harms the rings that come later.
        Session::ready(cx, &Setup::new(format))?.request().map(drop)
    })
}
