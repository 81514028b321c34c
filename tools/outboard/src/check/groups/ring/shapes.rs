//! Requests of every shape: a device works on bytes, not on descriptors.

use outboard_virtio_defs::features::{VIRTIO_F_INDIRECT_DESC, VIRTIO_F_VERSION_1};
use outboard_virtqueue::driver::Layout;
use outboard_virtqueue::{Descriptor, Format};

use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::{Placed, Ring};
use crate::check::sample::Sample;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "ring.small-pieces",
        title: "a request whose buffers are cut into many small ones is served as any other",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: small_pieces,
    },
    Check {
        id: "ring.merged",
        title: "a request of one buffer to read and one to write is served as any other",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: merged,
    },
    Check {
        id: "ring.full-chain",
        title: "a chain of as many descriptors as the ring has is served",
        spec: "VIRTIO 1.3, 2.7.5",
        run: full_chain,
    },
    Check {
        id: "ring.any-order",
        title: "the descriptors of a chain may stand anywhere in the table",
        spec: "VIRTIO 1.3, 2.7.5",
        run: any_order,
    },
    Check {
        id: "ring.indirect",
        title: "requests in indirect tables are served, between others",
        spec: "VIRTIO 1.3, 2.7.5.3 and 2.8.7",
        run: indirect,
    },
    Check {
        id: "ring.indirect-longer-than-ring",
        title: "an indirect table may have more entries than the ring",
        spec: "in use: Linux guests with small rings, on QEMU",
        run: indirect_longer_than_ring,
    },
    Check {
        id: "ring.indirect-behind-direct",
        title: "a chain may begin with descriptors of the ring and end with an indirect table",
        spec: "VIRTIO 1.3, 2.7.5.3.2",
        run: indirect_behind_direct,
    },
    Check {
        id: "ring.indirect-write-flag",
        title: "the write flag of a descriptor that refers to an indirect table means nothing",
        spec: "VIRTIO 1.3, 2.7.5.3.2",
        run: indirect_write_flag,
    },
    Check {
        id: "ring.tight",
        title: "the parts of a ring may lie as close together as their alignment allows",
        spec: "VIRTIO 1.3, 2.7 and 2.8; in use: DPDK",
        run: tight,
    },
];

/// Makes one request of this shape on each ring format, several times.
fn in_shape(cx: &mut Cx, size: u16, shape: impl Fn(&Sample) -> Option<Sample>) -> Checked {
    cx.needs_feature(VIRTIO_F_VERSION_1, "VERSION_1, without which layouts are fixed,")?;
    let sample = shape(&cx.sample()?);
    let sample = sample.ok_or_else(|| Stop::NotApplicable("the request is too short for that".to_owned()))?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup { size, ..Setup::new(format) })?;
        session.rounds(&sample, 20, 2)
    })
}

fn small_pieces(cx: &mut Cx) -> Checked {
    for lengths in [[1, 7, 3, 5], [13, 3, 1, 15], [33, 31, 2, 64]] {
        // Not all devices take large rings.
        let pieces = cx.sample()?.cut(&lengths);
        let count = u16::try_from(pieces.readable.len() + pieces.writable.len())?;
        in_shape(cx, count.next_power_of_two(), |sample| Some(sample.cut(&lengths)))
            .map_err(|stop| stop.when(format_args!("in pieces of {lengths:?} bytes")))?;
    }
    Ok(())
}

fn merged(cx: &mut Cx) -> Checked {
    in_shape(cx, 16, |sample| Some(sample.merged()))
}

fn full_chain(cx: &mut Cx) -> Checked {
    in_shape(cx, 16, |sample| sample.of_buffers(16))
}

fn any_order(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_VERSION_1, "VERSION_1")?;
    let sample = cx.sample()?.of_buffers(6);
    let sample = sample.ok_or_else(|| Stop::NotApplicable("the request is too short for that".to_owned()))?;
    // Where the second and later ones stand.
    const PLACES: [u16; 6] = [0, 4, 2, 5, 1, 3];
    let mut session = Session::ready(cx, &Setup { size: 8, ..Setup::new(Format::Split) })?;
    let patience = session.patience;
    let Session { memory, rings, .. } = &mut session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    let placed = Placed::new(memory, &sample)?;
    let chain = placed.descriptors();
    ring.queue.add_raw(&chain, 1)?;
    for (nth, (descriptor, place)) in chain.iter().zip(PLACES).enumerate() {
        let link = PLACES.get(nth + 1).copied().unwrap_or(0);
        ring.queue.write_descriptor(place, Descriptor { link, ..*descriptor });
    }
    ring.publish()?;
    let (_, len) = ring.returned(patience)?;
    ring.verify(memory, &sample, placed, len).map(drop)
}

fn indirect(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC")?;
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let setup = Setup { indirect: true, size: 32, ..Setup::new(format) };
        with_table(cx, &setup, &sample, 0, 0)?;
        // The driver's half puts what has several buffers into tables: some at once, their entries used again. In
        // between, a chain without one.
        let mut session = Session::ready(cx, &setup)?;
        for _ in 0..10 {
            session.rounds(&sample, 9, 3)?;
            direct(&mut session, &sample)?;
        }
        Ok(())
    })
}

/// Makes a request as a chain in the ring.
fn direct(session: &mut Session, sample: &Sample) -> Checked {
    let patience = session.patience;
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    let placed = Placed::new(memory, sample)?;
    ring.queue.add_raw(&placed.descriptors(), 0)?;
    ring.publish()?;
    let (_, len) = ring.returned(patience)?;
    ring.verify(memory, sample, placed, len).map(drop)
}

/// Makes a request whose last descriptors stand in a table: those from `direct` on.
fn with_table(cx: &mut Cx, setup: &Setup, sample: &Sample, direct: usize, more_flags: u16) -> Checked {
    let mut session = Session::ready(cx, setup)?;
    let patience = session.patience;
    let Session { memory, rings, .. } = &mut session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    for _ in 0..5 {
        let placed = Placed::new(memory, sample)?;
        let chain = placed.descriptors();
        let (before, inside) = chain.split_at_checked(direct).unwrap_or((&chain, &[]));
        let mut table = Vec::new();
        for (nth, descriptor) in (1..).zip(inside) {
            let link = if descriptor.flags & Descriptor::NEXT == 0 { 0 } else { nth };
            table.extend(bytes_of(setup.format, Descriptor { link, ..*descriptor }));
        }
        let segment = memory.allocate(table.len(), 16)?;
        segment.write_from(0, &table)?;
        let len = u32::try_from(table.len())?;
        let flags = Descriptor::INDIRECT | more_flags;
        let mut raw = before.to_vec();
        raw.push(Descriptor { addr: segment.gpa(), len, flags, link: 0 });
        ring.queue.add_raw(&raw, 1)?;
        ring.publish()?;
        let (_, len) = ring.returned(patience)?;
        ring.verify(memory, sample, placed, len)?;
        memory.free(segment);
    }
    Ok(())
}

/// A descriptor of an indirect table, as it stands in memory.
pub(in crate::check::groups) fn bytes_of(format: Format, descriptor: Descriptor) -> [u8; 16] {
    let Descriptor { addr, len, flags, link } = descriptor;
    let (third, fourth) = match format {
        Format::Split => (flags, link),
        // Entries of a packed table have no links (VIRTIO 1.3, 2.8.7).
        Format::Packed => (0, flags & !Descriptor::NEXT),
    };
    let whole =
        u128::from(addr) | u128::from(len) << 64 | u128::from(third) << 96 | u128::from(fourth) << 112;
    whole.to_le_bytes()
}

fn indirect_longer_than_ring(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC")?;
    cx.needs_feature(VIRTIO_F_VERSION_1, "VERSION_1")?;
    let sample = cx.sample()?.of_buffers(16);
    let sample = sample.ok_or_else(|| Stop::NotApplicable("the request is too short for that".to_owned()))?;
    cx.each_format(|cx, format| {
        let setup = Setup { indirect: true, size: 4, ..Setup::new(format) };
        with_table(cx, &setup, &sample, 0, 0)
    })
}

fn indirect_behind_direct(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC")?;
    cx.needs_feature(VIRTIO_F_VERSION_1, "VERSION_1")?;
    let sample = cx.sample()?.of_buffers(6);
    let sample = sample.ok_or_else(|| Stop::NotApplicable("the request is too short for that".to_owned()))?;
    // Of split rings only: in a packed one an indirect descriptor stands alone (VIRTIO 1.3, 2.8.7).
    let setup = Setup { indirect: true, ..Setup::new(Format::Split) };
    with_table(cx, &setup, &sample, 2, 0)
}

fn indirect_write_flag(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC")?;
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let setup = Setup { indirect: true, ..Setup::new(format) };
        with_table(cx, &setup, &sample, 0, Descriptor::WRITE)
    })
}

fn tight(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        for (size, shift) in [(16, 16), (16, 48), (2, 16), (4, 2032)] {
            let mut session = Session::prepared(cx, &Setup { size, ..Setup::new(format) })?;
            let layout = Layout::tight(format, size, 0);
            let len = usize::try_from(layout.len)?;
            let segment = session.memory.allocate(shift + len, 4096)?.slice(shift, len);
            let segment = segment.ok_or_else(|| Stop::lacks("memory"))?;
            let last = session.rings.pop().map_or(0, |ring| ring.index);
            let (memory, features) = (&session.memory, session.features);
            let ring = Ring::with_layout(memory, segment, layout, last, size, features, 0)?;
            session.rings.push(ring);
            session.start(session.last())?;
            let sample = if size == 2 { sample.merged() } else { sample.clone() };
            session
                .rounds(&sample, 20, 2)
                .map_err(|stop| stop.when(format_args!("{size} entries, {shift} bytes into a page")))?;
        }
        Ok(())
    })
}
