//! Tables of memory as front ends make them: any number of regions anywhere, of one file or of several.

use outboard_frontend::{Layout, Memory, RegionSpec};
use outboard_vhost_user::FrontendRequest;
use outboard_vhost_user::payload::VringState;
use outboard_virtqueue::Format;
use zerocopy::IntoBytes;

use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::places::Pieces;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop};
use crate::check::wire::Answer;

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "memory.eight-regions",
        title: "a table of eight regions works, with rings and buffers in any of them",
        spec: "vhost-user: Multiple memory regions description (region 0 to 7)",
        run: eight_regions,
    },
    Check {
        id: "memory.one-file",
        title: "several regions may be parts of one file, each with its offset and its own front-end address",
        spec: "vhost-user: Memory access; in use: QEMU (RAM below and above 4 GiB)",
        run: one_file,
    },
    Check {
        id: "memory.buffer-across-regions",
        title: "a buffer that lies across the border of two regions is read and written whole",
        spec: "vhost-user: Memory access (a guest address maps to the region that has it)",
        run: buffer_across_regions,
    },
    Check {
        id: "memory.ring-parts-apart",
        title: "the parts of a ring may lie in different regions",
        spec: "vhost-user: Memory access (a user address maps to the region that has it)",
        run: ring_parts_apart,
    },
    Check {
        id: "memory.mmap-offset",
        title: "a region starts in its file where the table says",
        spec: "vhost-user: Memory region description (mmap offset)",
        run: mmap_offset,
    },
    Check {
        id: "memory.mmap-offset-unaligned",
        title: "an offset that is not one of a page is refused, or honoured to the byte",
        spec: "vhost-user: Memory region description (mmap offset)",
        run: mmap_offset_unaligned,
    },
    Check {
        id: "memory.size-unaligned",
        title: "a region may end anywhere within a page, and is used to its last byte",
        spec: "vhost-user: Memory region description (size); in use: libblkio",
        run: size_unaligned,
    },
    Check {
        id: "memory.guest-address-zero",
        title: "memory may start at guest address 0, and a buffer may lie there",
        spec: "in use: QEMU, crosvm, Cloud Hypervisor (RAM starts at 0)",
        run: guest_address_zero,
    },
    Check {
        id: "memory.high-addresses",
        title: "guest addresses may be above 2^47, and front-end addresses as far apart from them as may be",
        spec: "in use: OpenVMM (front-end address = guest address + 2^52)",
        run: high_addresses,
    },
    Check {
        id: "memory.identity",
        title: "guest address and front-end address may be the same",
        spec: "in use: DPDK virtio-user, SPDK, libblkio (guest address = virtual address)",
        run: identity,
    },
    Check {
        id: "memory.table-replaced",
        title: "a new table takes the place of the whole old one, whatever addresses they share",
        spec: "vhost-user: SET_MEM_TABLE",
        run: table_replaced,
    },
    Check {
        id: "memory.table-while-running",
        title: "rings go on through changes of the table: what comes is usable, what stays stays",
        spec: "vhost-user: Ring states (configuration may change on the fly); in use: DPDK virtio-user (hotplug)",
        run: table_while_running,
    },
    Check {
        id: "memory.survives-stop",
        title: "the table outlives GET_VRING_BASE: rings start again without a new one",
        spec: "in use: QEMU (it tells memory slots only once)",
        run: survives_stop,
    },
];

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Runs rings in this layout, and a request, twice.
fn works(cx: &mut Cx, format: Format, regions: &[RegionSpec]) -> Checked {
    let setup = Setup { layout: Layout { regions: regions.to_vec() }, ..Setup::new(format) };
    let mut session = Session::ready(cx, &setup)?;
    session.request()?;
    session.request()?;
    session.stop_all()
}

fn eight_regions(cx: &mut Cx) -> Checked {
    // No neighbours, each of another size; ascending for the guest only.
    let region = |at: u64| RegionSpec {
        user_addr: 0x6000_0000_0000 - at * 0x1_0000_0000,
        ..RegionSpec::new(0x1000_0000 * (1 + at), (1 + at) * MIB)
    };
    let regions: Vec<RegionSpec> = (0..8).map(region).collect();
    cx.each_format(|cx, format| {
        let setup = Setup { layout: Layout { regions: regions.clone() }, ..Setup::new(format) };
        let mut session = Session::open(cx, &setup)?;
        // All but the last are set aside: the rings lie there.
        for region in regions.iter().take(7) {
            session.memory.allocate(usize::try_from(region.size)?, PAGE)?;
        }
        session.add_rings()?;
        session.start_all()?;
        for region in regions.iter().take(7) {
            session.request_at(|number, _| region.gpa + region.size - (number + 1) * PAGE)?;
        }
        session.request()?;
        session.stop_all()
    })
}

/// Features are agreed on, memory is made and told in pieces, and its rings run in them. The page borders are those
/// of `area`, which is set aside and where no ring lies.
fn in_pieces(session: &mut Session, borders: &[u64]) -> Checked<Pieces> {
    let pieces = Pieces::cut(&session.memory, borders)?;
    session.share_pieces(&pieces)?;
    session.start_in(&pieces)?;
    Ok(pieces)
}

fn one_file(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::silent(cx, &Setup::new(format))?;
        session.negotiate()?;
        session.add_rings()?;
        let rest = session.memory.allocate(usize::try_from(48 * MIB)?, MIB)?;
        let pieces = in_pieces(&mut session, &[16 * MIB, 32 * MIB, 40 * MIB])?;
        // The first piece has the rings, too.
        for region in pieces.regions.iter().skip(1) {
            let within = region.guest_addr.max(rest.gpa());
            session.request_at(|number, _| within + number * PAGE)?;
        }
        session.stop_all()
    })
}

fn buffer_across_regions(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::silent(cx, &Setup::new(format))?;
        session.negotiate()?;
        session.add_rings()?;
        let area = session.memory.allocate(usize::try_from(8 * PAGE)?, PAGE)?;
        let start = session.memory.table()?.first().map_or(0, |(region, _)| region.guest_addr);
        let borders: Vec<u64> = (1..=5).map(|page| area.gpa() + page * PAGE - start).collect();
        in_pieces(&mut session, &borders)?;
        // Half of each buffer before its border, half behind it; then all but the first byte, all but the last.
        let befores: [fn(u64) -> u64; 3] = [|len| len / 2, |_| 1, |len| len - 1];
        for before in befores {
            session.request_at(|number, len| area.gpa() + (number + 1) * PAGE - before(len))?;
        }
        session.stop_all()
    })
}

/// Whether rings of such a size are taken.
fn takes_rings_of(cx: &mut Cx, setup: &Setup) -> Checked<bool> {
    let mut session = Session::open(cx, setup)?;
    let state = VringState { index: 0, num: setup.size.into() };
    Ok(session.wire.try_set(FrontendRequest::SET_VRING_NUM, state.as_bytes(), &[])? == Answer::Ack)
}

fn ring_parts_apart(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        // The descriptors of 256 entries are a page; what follows them is in the next.
        let setup = Setup { size: 256, ..Setup::new(format) };
        if !takes_rings_of(cx, &setup)? {
            return Err(Stop::NotApplicable(format!("rings of {} entries are refused", setup.size)));
        }
        let mut session = Session::silent(cx, &setup)?;
        session.negotiate()?;
        session.add_rings()?;
        let pages = session.rings.len() as u64 * 2;
        in_pieces(&mut session, &(1..=pages).map(|page| page * PAGE).collect::<Vec<_>>())?;
        for _ in 0..3 {
            session.request()?;
        }
        session.stop_all()
    })
}

fn mmap_offset(cx: &mut Cx) -> Checked {
    let region = [RegionSpec { offset: 3 * MIB, ..RegionSpec::new(0x4000_0000, 4 * MIB) }];
    cx.each_format(|cx, format| works(cx, format, &region))
}

fn mmap_offset_unaligned(cx: &mut Cx) -> Checked {
    use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};

    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.negotiate()?;
    session.add_rings()?;
    // Rings stay aligned for the device: their addresses are told, and mapped, with the same shift.
    let area = session.memory.allocate(usize::try_from(4 * PAGE)?, PAGE)?;
    let start = session.memory.table()?.first().map_or(0, |(region, _)| region.guest_addr);
    let pieces = Pieces::cut(&session.memory, &[area.gpa() - start + 512])?;
    let (body, fds) = pieces.table()?;
    let fds = crate::check::session::borrowed(&fds);
    match session.wire.tried(Code::SET_MEM_TABLE, &body, &fds)? {
        Answer::Ack => {
            session.start_in(&pieces)?;
            session.request_at(|number, _| area.gpa() + PAGE + number * PAGE)?;
            session.stop_all()
        }
        Answer::Nack | Answer::Closed => {
            cx.note("a region at an offset of 512 bytes in its file is refused");
            Ok(())
        }
    }
}

fn size_unaligned(cx: &mut Cx) -> Checked {
    let size = 4 * MIB + 1234;
    cx.each_format(|cx, format| {
        let regions = vec![RegionSpec::new(0x4000_0000, size)];
        let setup = Setup { layout: Layout { regions }, ..Setup::new(format) };
        let mut session = Session::ready(cx, &setup)?;
        // The last buffer ends with the region, the others lie before it.
        let mut lengths = Vec::new();
        session.request_at(|_, len| {
            lengths.push(len);
            0x4000_0000 + 2 * MIB + lengths.len() as u64 * PAGE
        })?;
        let behind = |number: u64| lengths.iter().skip(usize::try_from(number).unwrap_or(0)).sum::<u64>();
        session.request_at(|number, _| 0x4000_0000 + size - behind(number))?;
        session.stop_all()
    })
}

fn guest_address_zero(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let regions = vec![RegionSpec::new(0, 4 * MIB)];
        let mut session = Session::open(cx, &Setup { layout: Layout { regions }, ..Setup::new(format) })?;
        session.memory.allocate(usize::try_from(4 * PAGE)?, PAGE)?;
        session.add_rings()?;
        session.start_all()?;
        session.request_at(|number, _| number * PAGE)?;
        session.stop_all()
    })
}

fn high_addresses(cx: &mut Cx) -> Checked {
    let places = [
        (0x1_0000_0000, 0x1_0000_0000 + (1 << 52)),
        (1 << 47, 0x7f00_0000_0000),
        ((1 << 52) - 4 * MIB, 0x1000),
    ];
    for (gpa, user_addr) in places {
        let when = format!("guest address {gpa:#x}, front-end address {user_addr:#x}");
        let place = [RegionSpec { user_addr, ..RegionSpec::new(gpa, 4 * MIB) }];
        cx.each_format(|cx, format| works(cx, format, &place).map_err(|stop| stop.when(&when)))?;
    }
    Ok(())
}

fn identity(cx: &mut Cx) -> Checked {
    let at = 0x7f31_2345_6000;
    let region = [RegionSpec { user_addr: at, ..RegionSpec::new(at, 4 * MIB) }];
    cx.each_format(|cx, format| works(cx, format, &region))
}

fn table_replaced(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let setup = Setup::new(format);
        let mut session = Session::ready(cx, &setup)?;
        session.request()?;
        session.stop_all()?;
        // Other files, and one region more; what was at these addresses is elsewhere now.
        let mut layout = setup.layout.clone();
        layout.regions.insert(0, RegionSpec::new(0x1000_0000, 2 * MIB));
        session.rings.clear();
        session.memory = Memory::new(&layout)?;
        let aside = usize::try_from(2 * MIB)?;
        session.memory.allocate(aside, PAGE)?;
        let (body, fds) = session.table()?;
        let fds = crate::check::session::borrowed(&fds);
        session.wire.set(FrontendRequest::SET_MEM_TABLE, &body, &fds)?;
        session.add_rings()?;
        session.start_all()?;
        session.request()?;
        session.request_at(|number, _| 0x1000_0000 + number * PAGE)?;
        session.stop_all()
    })
}

fn table_while_running(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::silent(cx, &Setup::new(format))?;
        session.negotiate()?;
        session.add_rings()?;
        let rest = session.memory.allocate(usize::try_from(32 * MIB)?, MIB)?;
        // The pieces behind the first come and go; that one has the rings.
        let mut pieces = Pieces::cut(&session.memory, &[rest.gpa() - 0x4000_0000 + MIB, 40 * MIB])?;
        let all = pieces.regions.clone();
        session.share_pieces(&pieces)?;
        session.start_in(&pieces)?;
        session.request()?;
        for kept in [1, 3, 2, 3] {
            pieces.regions = all.iter().copied().take(kept).collect();
            session.share_pieces(&pieces)?;
            for region in
                pieces.regions.iter().skip(1).filter(|region| region.guest_addr < rest.gpa() + 30 * MIB)
            {
                session.request_at(|number, _| region.guest_addr + number * PAGE)?;
            }
            session.request()?;
        }
        session.stop_all()
    })
}

fn survives_stop(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        session.request()?;
        session.stop_all()?;
        session.rings.clear();
        session.add_rings()?;
        session.start_all()?;
        session.request()?;
        session.stop_all()
    })
}
