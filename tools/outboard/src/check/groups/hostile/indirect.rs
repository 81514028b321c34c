//! Indirect tables that no driver may make.

use outboard_guest_memory::Segment;
use outboard_virtio_defs::features::VIRTIO_F_INDIRECT_DESC;
use outboard_virtqueue::{Descriptor, Format};

use super::{INDIRECT, NEXT, NOWHERE, WRITE, descriptor, each_survives, raw, survives};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::groups::ring::shapes::bytes_of;
use crate::check::ring::Ring;
use crate::check::session::Setup;
use crate::check::verdict::Checked;

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "hostile.indirect-unagreed",
        title: "an indirect table without INDIRECT_DESC does no harm",
        spec: "VIRTIO 1.3, 2.7.5.3.1",
        run: unagreed,
    },
    Check {
        id: "hostile.indirect-nested",
        title: "an indirect table in an indirect table does no harm",
        spec: "VIRTIO 1.3, 2.7.5.3.1",
        run: nested,
    },
    Check {
        id: "hostile.indirect-next",
        title: "an indirect descriptor with a next one does no harm",
        spec: "VIRTIO 1.3, 2.7.5.3.1",
        run: next,
    },
    Check {
        id: "hostile.indirect-length",
        title: "an indirect table of no length, of an odd one, or of 4 GiB does no harm",
        spec: "VIRTIO 1.3, 2.7.5.3",
        run: length,
    },
    Check {
        id: "hostile.indirect-unmapped",
        title: "an indirect table outside of guest memory does no harm",
        spec: "VIRTIO 1.3, 2.7.5.3",
        run: unmapped,
    },
    Check {
        id: "hostile.indirect-loop",
        title: "an indirect table with a loop, or with links that lead out of it, does no harm",
        spec: "VIRTIO 1.3, 2.7.5.3.1",
        run: looped,
    },
    Check {
        id: "hostile.indirect-bad-entry",
        title: "an indirect table with a buffer outside of guest memory does no harm",
        spec: "VIRTIO 1.3, 2.7.5.3",
        run: bad_entry,
    },
];

fn setup(format: Format) -> Setup {
    Setup { indirect: true, ..Setup::new(format) }
}

/// A table of these entries, `len` long as its descriptor says.
fn table(ring: &mut Ring, page: &Segment, entries: &[Descriptor], len: u32, flags: u16) -> Checked {
    let bytes: Vec<u8> = entries.iter().flat_map(|&entry| bytes_of(ring.format, entry)).collect();
    page.write_from(1024, &bytes)?;
    let mut chain = vec![descriptor(page.gpa() + 1024, len, INDIRECT | flags, 1)];
    if flags & NEXT != 0 {
        chain.push(descriptor(page.gpa() + 2048, 64, WRITE, 0));
    }
    raw(ring, &chain)
}

/// Each format that is on offer survives a table of what `entries` makes.
fn each_table(cx: &mut Cx, len: u32, flags: u16, entries: impl Fn(&Segment) -> Vec<Descriptor>) -> Checked {
    cx.needs_feature(VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC")?;
    cx.each_format(|cx, format| {
        survives(cx, &setup(format), &|ring, page| table(ring, page, &entries(page), len, flags))
    })
}

/// A harmless request: an empty header, and room for an answer.
fn harmless(page: &Segment) -> Vec<Descriptor> {
    vec![descriptor(page.gpa(), 16, NEXT, 1), descriptor(page.gpa() + 2048, 513, WRITE, 0)]
}

fn unagreed(cx: &mut Cx) -> Checked {
    each_survives(cx, &|ring, page| table(ring, page, &harmless(page), 32, 0))
}

fn nested(cx: &mut Cx) -> Checked {
    // Into another, and into itself.
    for inner in [3072, 1024] {
        each_table(cx, 16, 0, |page| vec![descriptor(page.gpa() + inner, 16, INDIRECT, 0)])?;
        each_table(cx, 32, 0, |page| {
            vec![descriptor(page.gpa(), 16, NEXT, 1), descriptor(page.gpa() + inner, 32, INDIRECT, 0)]
        })?;
    }
    Ok(())
}

fn next(cx: &mut Cx) -> Checked {
    each_table(cx, 32, NEXT, harmless)
}

fn length(cx: &mut Cx) -> Checked {
    for len in [0, 1, 15, 17, 33, 0xffff_fff0, u32::MAX] {
        each_table(cx, len, 0, harmless).map_err(|stop| stop.when(format_args!("{len} bytes")))?;
    }
    Ok(())
}

fn unmapped(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC")?;
    for addr in [NOWHERE, 0, u64::MAX - 15] {
        cx.each_format(|cx, format| {
            survives(cx, &setup(format), &|ring, _| raw(ring, &[descriptor(addr, 64, INDIRECT, 0)]))
        })
        .map_err(|stop| stop.when(format_args!("at {addr:#x}")))?;
    }
    Ok(())
}

fn looped(cx: &mut Cx) -> Checked {
    for link in [0, 1, 2, 0x7fff, u16::MAX] {
        each_table(cx, 32, 0, |page| {
            vec![descriptor(page.gpa(), 16, NEXT, 1), descriptor(page.gpa() + 2048, 64, NEXT | WRITE, link)]
        })
        .map_err(|stop| stop.when(format_args!("link {link} in a table of 2")))?;
    }
    Ok(())
}

fn bad_entry(cx: &mut Cx) -> Checked {
    for addr in [NOWHERE, 0, u64::MAX - 15] {
        each_table(cx, 32, 0, |page| {
            vec![descriptor(page.gpa(), 16, NEXT, 1), descriptor(addr, 64, WRITE, 0)]
        })?;
    }
    Ok(())
}
