//! Chains that no driver may make.

use outboard_virtio_defs::features::VIRTIO_F_RING_PACKED;
use outboard_virtqueue::{Descriptor, Format};

use super::{NEXT, NOWHERE, WRITE, descriptor, each_survives, raw, recovers, settle, survives};
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::{Placed, Ring, signal, take};
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "hostile.head-out-of-range",
        title: "a head behind the descriptor table does no harm",
        spec: "VIRTIO 1.3, 2.7.6 (below the queue size)",
        run: head_out_of_range,
    },
    Check {
        id: "hostile.link-out-of-range",
        title: "a link behind the descriptor table does no harm",
        spec: "VIRTIO 1.3, 2.7.5",
        run: link_out_of_range,
    },
    Check {
        id: "hostile.chain-loop",
        title: "a chain that bites its tail does no harm",
        spec: "VIRTIO 1.3, 2.7.5.2",
        run: chain_loop,
    },
    Check {
        id: "hostile.chain-endless",
        title: "a packed chain without an end does no harm",
        spec: "VIRTIO 1.3, 2.8.6",
        run: chain_endless,
    },
    Check {
        id: "hostile.packed-flags",
        title: "packed descriptors with flags that make no sense do no harm",
        spec: "VIRTIO 1.3, 2.8.1 and 2.8.13",
        run: packed_flags,
    },
    Check {
        id: "hostile.packed-id",
        title: "a packed buffer id that is larger than the ring does no harm",
        spec: "VIRTIO 1.3, 2.8.6",
        run: packed_id,
    },
    Check {
        id: "hostile.avail-jump",
        title: "an available index that is more than a ring ahead does no harm",
        spec: "VIRTIO 1.3, 2.7.6",
        run: avail_jump,
    },
    Check {
        id: "hostile.avail-backwards",
        title: "an available index that goes back does no harm",
        spec: "VIRTIO 1.3, 2.7.6.1",
        run: avail_backwards,
    },
    Check {
        id: "hostile.readable-after-writable",
        title: "a readable buffer behind a writable one does no harm",
        spec: "VIRTIO 1.3, 2.7.4.2",
        run: readable_after_writable,
    },
    Check {
        id: "hostile.buffer-unmapped",
        title: "a buffer outside of guest memory does no harm",
        spec: "VIRTIO 1.3, 2.7.5; vhost-user: Memory access",
        run: buffer_unmapped,
    },
    Check {
        id: "hostile.buffer-overflow",
        title: "a buffer that reaches beyond the end of all addresses does no harm",
        spec: "VIRTIO 1.3, 2.7.5",
        run: buffer_overflow,
    },
    Check {
        id: "hostile.buffer-straddles-end",
        title: "a buffer that begins in guest memory and ends behind it does no harm",
        spec: "VIRTIO 1.3, 2.7.5",
        run: buffer_straddles_end,
    },
    Check {
        id: "hostile.buffer-null",
        title: "a buffer at address 0, where nothing is, does no harm",
        spec: "VIRTIO 1.3, 2.7.5",
        run: buffer_null,
    },
    Check {
        id: "hostile.length-max",
        title: "buffers of 4 GiB, and chains of more, do no harm",
        spec: "VIRTIO 1.3, 2.7.5.2",
        run: length_max,
    },
    Check {
        id: "hostile.empty-buffers",
        title: "buffers of length 0 do no harm, and do not change the answer if there is one",
        spec: "VIRTIO 1.3, 2.7.5",
        run: empty_buffers,
    },
    Check {
        id: "hostile.short-request",
        title: "a request that lacks parts, its status or its header, does no harm",
        spec: "VIRTIO 1.3, 5 (each device's requests)",
        run: short_request,
    },
    Check {
        id: "hostile.error-told",
        title: "a ring that stands still after a malformed request says so on its error descriptor",
        spec: "vhost-user: SET_VRING_ERR",
        run: error_told,
    },
    Check {
        id: "hostile.neighbour",
        title: "a malformed request on one ring does not stop another in silence",
        spec: "vhost-user: SET_VRING_ERR (a ring's own)",
        run: neighbour,
    },
];

fn split(cx: &mut Cx, attack: super::Attack<'_>) -> Checked {
    survives(cx, &Setup::new(Format::Split), attack)
}

fn packed(cx: &mut Cx, attack: super::Attack<'_>) -> Checked {
    cx.needs_feature(VIRTIO_F_RING_PACKED, "RING_PACKED")?;
    survives(cx, &Setup::new(Format::Packed), attack)
}

fn head_out_of_range(cx: &mut Cx) -> Checked {
    for head in [16, 17, 0x7fff, 0x8000, u16::MAX] {
        split(cx, &|ring, page| {
            ring.queue.add_raw(&[descriptor(page.gpa(), 16, 0, 0)], 0)?;
            (0..16).for_each(|slot| ring.queue.write_avail(slot, head));
            ring.publish()
        })
        .map_err(|stop| stop.when(format_args!("head {head}")))?;
    }
    Ok(())
}

fn link_out_of_range(cx: &mut Cx) -> Checked {
    for link in [16, 0x8000, u16::MAX] {
        split(cx, &|ring, page| raw(ring, &[descriptor(page.gpa(), 16, NEXT, link)]))
            .map_err(|stop| stop.when(format_args!("link {link}")))?;
    }
    Ok(())
}

fn chain_loop(cx: &mut Cx) -> Checked {
    split(cx, &|ring, page| raw(ring, &[descriptor(page.gpa(), 16, NEXT, 0)]))
        .map_err(|stop| stop.when("a descriptor that links to itself"))?;
    split(cx, &|ring, page| {
        let forth = descriptor(page.gpa(), 16, NEXT, 1);
        let back = descriptor(page.gpa(), 16, NEXT, 0);
        raw(ring, &[forth, back])
    })
    .map_err(|stop| stop.when("two descriptors"))?;
    split(cx, &|ring, page| {
        let chain = (1..17).map(|link| descriptor(page.gpa(), 64, NEXT | WRITE, link % 16));
        raw(ring, &chain.collect::<Vec<_>>())
    })
    .map_err(|stop| stop.when("all descriptors"))
}

fn chain_endless(cx: &mut Cx) -> Checked {
    for flags in [NEXT, NEXT | WRITE] {
        packed(cx, &|ring, page| raw(ring, &vec![descriptor(page.gpa(), 16, flags, 0); 16]))?;
    }
    Ok(())
}

fn packed_flags(cx: &mut Cx) -> Checked {
    const BOTH: u16 = Descriptor::AVAIL | Descriptor::USED;
    for flags in [BOTH, Descriptor::USED, 0, BOTH | 0x7f78, Descriptor::AVAIL | 0x7f78] {
        packed(cx, &|ring, page| {
            ring.queue.add_raw(&[descriptor(page.gpa(), 16, 0, 0)], 0)?;
            ring.queue.publish();
            for index in 0..16 {
                ring.queue.write_descriptor(index, descriptor(page.gpa(), 16, flags, index));
            }
            ring.publish()
        })
        .map_err(|stop| stop.when(format_args!("flags {flags:#x}")))?;
    }
    Ok(())
}

fn packed_id(cx: &mut Cx) -> Checked {
    for id in [16, 0x8000, u16::MAX] {
        packed(cx, &|ring, page| {
            ring.queue.write_descriptor(0, descriptor(page.gpa(), 16, Descriptor::AVAIL, id));
            ring.publish()
        })
        .map_err(|stop| stop.when(format_args!("id {id}")))?;
    }
    Ok(())
}

fn avail_jump(cx: &mut Cx) -> Checked {
    for index in [17, 1000, 0x8000] {
        split(cx, &|ring, page| {
            for place in 0..16 {
                ring.queue.write_descriptor(place, descriptor(page.gpa(), 16, 0, 0));
            }
            ring.queue.write_avail_index(index);
            signal(&ring.kick)
        })
        .map_err(|stop| stop.when(format_args!("{index} ahead of a ring of 16")))?;
    }
    Ok(())
}

fn avail_backwards(cx: &mut Cx) -> Checked {
    let setup = Setup::new(Format::Split);
    for back in [1, 5] {
        let mut session = Session::ready(cx, &setup)?;
        for _ in 0..5 {
            session.request()?;
        }
        let ring = session.sample_ring()?;
        ring.queue.write_avail_index(5 - back);
        signal(&ring.kick)?;
        settle(&mut session)?;
        recovers(cx, session).map_err(|stop| stop.when(format_args!("back by {back}")))?;
    }
    Ok(())
}

fn readable_after_writable(cx: &mut Cx) -> Checked {
    each_survives(cx, &|ring, page| {
        let chain = [
            descriptor(page.gpa(), 16, NEXT, 1),
            descriptor(page.gpa() + 1024, 512, WRITE | NEXT, 2),
            descriptor(page.gpa(), 16, NEXT, 3),
            descriptor(page.gpa() + 2048, 1, WRITE, 0),
        ];
        raw(ring, &chain)
    })
}

/// A request of which the buffer to read, or the one to write, is at `addr`.
fn bad_buffer(cx: &mut Cx, addr: impl Fn(u64) -> u64, len: u32) -> Checked {
    for (flags, good) in [(0, 0), (WRITE, 0), (WRITE, NEXT), (NEXT, 0)] {
        each_survives(cx, &|ring, page| {
            let bad = descriptor(addr(page.gpa()), len, flags, 1);
            let chain = match (flags, good) {
                (NEXT, _) => vec![bad, descriptor(page.gpa() + 64, 64, WRITE, 0)],
                (_, 0) => vec![bad],
                _ => vec![descriptor(page.gpa(), 16, NEXT, 1), descriptor(bad.addr, len, WRITE, 0)],
            };
            raw(ring, &chain)
        })?;
    }
    Ok(())
}

fn buffer_unmapped(cx: &mut Cx) -> Checked {
    bad_buffer(cx, |_| NOWHERE, 512)
}

fn buffer_overflow(cx: &mut Cx) -> Checked {
    bad_buffer(cx, |_| u64::MAX - 7, 512)
}

fn buffer_straddles_end(cx: &mut Cx) -> Checked {
    // The memory of the usual set-up is one region.
    let layout = Setup::new(Format::Split).layout;
    let end = layout.regions.iter().map(|region| region.gpa + region.size).max().unwrap_or(0);
    bad_buffer(cx, |_| end - 256, 512)
}

fn buffer_null(cx: &mut Cx) -> Checked {
    bad_buffer(cx, |_| 0, 512)
}

fn length_max(cx: &mut Cx) -> Checked {
    bad_buffer(cx, |good| good, u32::MAX)?;
    bad_buffer(cx, |good| good, 1 << 31)?;
    each_survives(cx, &|ring, page| {
        let chain = (1..17)
            .map(|link| descriptor(page.gpa(), 0x4000_0000, WRITE | if link < 16 { NEXT } else { 0 }, link));
        raw(ring, &chain.collect::<Vec<_>>())
    })
}

fn empty_buffers(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        // One before each of the request's own.
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = Placed::new(memory, &sample)?;
        let mut chain = Vec::new();
        for own in placed.descriptors() {
            chain.push(descriptor(own.addr, 0, own.flags & WRITE | NEXT, chain.len() as u16 + 1));
            chain.push(Descriptor { link: chain.len() as u16 + 1, ..own });
        }
        raw(ring, &chain)?;
        match ring.returned_within(LULL * 3)? {
            Some((_, len)) => drop(ring.verify(memory, &sample, placed, len)?),
            None => cx.note(format!("{format:?}: a chain with empty buffers is not served")),
        }
        recovers(cx, session)?;
        // And a request of nothing else.
        survives(cx, &Setup::new(format), &|ring, page| raw(ring, &[descriptor(page.gpa(), 0, WRITE, 0)]))?;
        survives(cx, &Setup::new(format), &|ring, page| raw(ring, &[descriptor(page.gpa(), 0, 0, 0)]))
    })
}

fn short_request(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    let part = |readable: &[Vec<u8>], writable: &[u32]| Sample {
        queue: sample.queue,
        readable: readable.to_vec(),
        writable: writable.to_vec(),
        verify: |_, _| Ok(()),
    };
    let head: Vec<Vec<u8>> =
        sample.readable.first().map(|bytes| bytes.iter().take(8).copied().collect()).into_iter().collect();
    let zeroes = vec![vec![0; 16]];
    let shapes = [
        part(&sample.readable, &[]),
        part(&[], &sample.writable),
        part(&head, &sample.writable),
        part(&sample.readable, &[1]),
        part(&zeroes, &[]),
        part(&[vec![0]], &[1]),
    ];
    cx.each_format(|cx, format| {
        for (nth, shape) in shapes.iter().enumerate() {
            if shape.readable.is_empty() && shape.writable.is_empty() {
                continue;
            }
            let mut session = Session::ready(cx, &Setup::new(format))?;
            let Session { memory, rings, .. } = &mut session;
            let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
            ring.place(memory, shape, 0)?;
            ring.publish()?;
            settle(&mut session)?;
            recovers(cx, session).map_err(|stop| stop.when(format_args!("request {nth}")))?;
        }
        Ok(())
    })
}

/// A buffer that is not in guest memory: what no back end can serve.
fn unservable(ring: &mut Ring) -> Checked {
    raw(ring, &[descriptor(NOWHERE, 16, NEXT, 1), descriptor(NOWHERE, 64, WRITE, 0)])
}

/// Whether a plain request brings anything back: it, or what was there before it.
fn goes_on(session: &mut Session) -> Checked<bool> {
    let sample = session.sample()?;
    let Session { memory, rings, patience, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    ring.place(memory, &sample, 1)?;
    ring.publish()?;
    while let Some((token, _)) = ring.returned_within(*patience)? {
        if token == 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn error_told(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        session.request()?;
        take(&session.sample_ring()?.err)?;
        unservable(session.sample_ring()?)?;
        let told = cx.eventually(|| {
            let ring = session.sample_ring()?;
            // Told by the error, by an answer, or by the end of the connection.
            Ok(take(&ring.err)? > 0 || ring.queue.has_used() || !session.wire.is_open()?)
        })?;
        if !told {
            // A device may pass such a request over, if it goes on.
            ensure!(
                goes_on(&mut session)?,
                "the ring stands still, and its error descriptor was not signalled"
            );
        }
        Ok(())
    })
}

fn neighbour(cx: &mut Cx) -> Checked {
    if cx.kind != Kind::Blk || cx.offer.queues.is_none_or(|queues| queues < 2) {
        return Err(Stop::NotApplicable("the device has one queue for such requests".to_owned()));
    }
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let second = session.add_ring(1)?;
        session.start(second)?;
        session.request()?;
        unservable(session.ring(0)?)?;
        session.rings.swap(0, 1);
        settle(&mut session)?;
        session.rings.swap(0, 1);
        for _ in 0..20 {
            let Err(stop) = session.request() else { continue };
            let open = session.wire.is_open()?;
            if open && take(&session.sample_ring()?.err)? == 0 {
                return Err(stop.when("the other ring"));
            }
            cx.note(format!("{format:?}: the whole device stops, and says so"));
            return Ok(());
        }
        Ok(())
    })
}
