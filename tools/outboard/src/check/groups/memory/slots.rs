//! Memory that comes and goes region by region.

use std::os::fd::AsFd;

use outboard_frontend::Memory;
use outboard_vhost_user::payload::{MemRegion, SingleMemRegion};
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::Format;
use zerocopy::IntoBytes;

use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::places::Pieces;
use crate::check::ring::wait_closed;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "memory.slots-enough",
        title: "there are at least as many memory slots as a table may have regions, and always as many",
        spec: "vhost-user: GET_MAX_MEM_SLOTS; in use: QEMU (a machine has several regions, and more when hot-plugged)",
        run: slots_enough,
    },
    Check {
        id: "memory.slots-while-running",
        title: "regions come and go while rings run; a region that comes again may be another file",
        spec: "vhost-user: ADD_MEM_REG, REM_MEM_REG; in use: QEMU (memory hotplug)",
        run: slots_while_running,
    },
    Check {
        id: "memory.slots-split-and-merge",
        title: "a region may be removed and come back as its parts, and these as the whole, while rings run elsewhere",
        spec: "in use: QEMU (holes that open and close at boot)",
        run: slots_split_and_merge,
    },
    Check {
        id: "memory.slots-under-ring",
        title: "the region of a running ring may be removed and come back in parts: the ring goes on",
        spec: "in use: QEMU (it sends the differences of two memory maps, removals first)",
        run: slots_under_ring,
    },
    Check {
        id: "memory.slots-removal-by-address",
        title: "a region is removed by its addresses and size: its offset in the file does not count",
        spec: "vhost-user: REM_MEM_REG",
        run: removal_by_address,
    },
    Check {
        id: "memory.slots-stray-descriptor",
        title: "a descriptor that comes with REM_MEM_REG is closed, and does not harm",
        spec: "vhost-user: REM_MEM_REG; in use: libblkio",
        run: stray_descriptor,
    },
    Check {
        id: "memory.slots-and-table",
        title: "a table is taken although memory slots are agreed on, and regions are added to it",
        spec: "in use: Cloud Hypervisor, crosvm",
        run: slots_and_table,
    },
    Check {
        id: "memory.slots-survive-reset",
        title: "memory outlives RESET_DEVICE: it is not told again",
        spec: "vhost-user: RESET_DEVICE (the back end stays owner); in use: QEMU, OpenVMM",
        run: survives_reset,
    },
    Check {
        id: "memory.slots-full",
        title: "as many regions can be added as there are slots, and one more does not harm",
        spec: "vhost-user: GET_MAX_MEM_SLOTS",
        run: slots_full,
    },
    Check {
        id: "memory.slots-unknown-removal",
        title: "the removal of a region that is not there is refused, and what is there stays",
        spec: "vhost-user: REM_MEM_REG; REPLY_ACK",
        run: unknown_removal,
    },
];

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Where the memory of a [`Setup`] starts.
const START: u64 = 0x4000_0000;
/// Beyond so many slots a host's other limits may come first.
const FAIR: u64 = 32;

fn slots_enough(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::CONFIGURE_MEM_SLOTS)?;
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    let slots = session.wire.ask_u64(Code::GET_MAX_MEM_SLOTS)?;
    ensure!(slots >= 8, "there are {slots} memory slots, fewer than a table has regions (8)");
    ensure!(
        cx.offer.slots == Some(slots),
        "{slots} memory slots, {:?} on another connection",
        cx.offer.slots
    );
    Ok(())
}

/// Rings run in the first of these pieces, the only one that was added.
fn first_piece(cx: &mut Cx, format: Format, borders: &[u64]) -> Checked<(Session, Pieces)> {
    cx.needs(ProtocolFeatures::CONFIGURE_MEM_SLOTS)?;
    let mut session = Session::silent(cx, &Setup::new(format))?;
    session.negotiate()?;
    session.add_rings()?;
    let pieces = Pieces::cut(&session.memory, borders)?;
    let first = piece(&pieces, 0)?;
    session.add_piece(&pieces, first)?;
    session.start_in(&pieces)?;
    session.request()?;
    Ok((session, pieces))
}

fn piece(pieces: &Pieces, at: usize) -> Checked<MemRegion> {
    pieces.regions.get(at).copied().ok_or_else(|| Stop::Skip("our own side: no such piece".to_owned()))
}

/// A request with its buffers in this region, at a page of it.
fn request_in(session: &mut Session, region: MemRegion, page: u64) -> Checked {
    session.request_at(|number, _| region.guest_addr + (page + number) * PAGE).map(drop)
}

fn slots_while_running(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let (mut session, pieces) = first_piece(cx, format, &[32 * MIB, 48 * MIB])?;
        let (one, other) = (piece(&pieces, 1)?, piece(&pieces, 2)?);
        session.add_piece(&pieces, one)?;
        request_in(&mut session, one, 0)?;
        session.add_piece(&pieces, other)?;
        request_in(&mut session, other, 0)?;
        session.remove_region(one)?;
        request_in(&mut session, other, 8)?;
        session.request()?;
        // At the same addresses, another file. The rings stay in the old one.
        let fresh = Memory::new(&session.setup.layout)?;
        let elsewhere = Pieces::cut(&fresh, &[32 * MIB, 48 * MIB])?;
        session.add_piece(&elsewhere, one)?;
        let old = std::mem::replace(&mut session.memory, fresh);
        request_in(&mut session, one, 0)?;
        session.memory = old;
        session.remove_region(other)?;
        session.request()?;
        session.stop_all()
    })
}

/// A region as two, as they are when memory in the midst of it goes and comes.
fn halves(region: MemRegion) -> [MemRegion; 2] {
    let size = region.size / 2;
    let MemRegion { guest_addr, user_addr, mmap_offset, .. } = region;
    let second = MemRegion {
        guest_addr: guest_addr + size,
        size: region.size - size,
        user_addr: user_addr + size,
        mmap_offset: mmap_offset + size,
    };
    [MemRegion { size, ..region }, second]
}

/// Removes a region and adds it again as its halves, then the other way round, several times.
fn split_and_merge(session: &mut Session, pieces: &Pieces, whole: MemRegion) -> Checked {
    for round in 0..3 {
        session.remove_region(whole)?;
        for half in halves(whole) {
            session.add_piece(pieces, half)?;
        }
        for half in halves(whole) {
            request_in(session, half, 256 + 8 * round)?;
        }
        for half in halves(whole) {
            session.remove_region(half)?;
        }
        session.add_piece(pieces, whole)?;
        request_in(session, whole, 256 + 8 * round)?;
    }
    session.stop_all()
}

fn slots_split_and_merge(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let (mut session, pieces) = first_piece(cx, format, &[32 * MIB])?;
        let second = piece(&pieces, 1)?;
        session.add_piece(&pieces, second)?;
        split_and_merge(&mut session, &pieces, second)
    })
}

fn slots_under_ring(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let (mut session, pieces) = first_piece(cx, format, &[32 * MIB])?;
        let first = piece(&pieces, 0)?;
        split_and_merge(&mut session, &pieces, first)
    })
}

fn removal_by_address(cx: &mut Cx) -> Checked {
    let (mut session, pieces) = first_piece(cx, Format::Split, &[32 * MIB, 48 * MIB])?;
    let one = piece(&pieces, 1)?;
    session.add_piece(&pieces, one)?;
    request_in(&mut session, one, 0)?;
    session.remove_region(MemRegion { mmap_offset: one.mmap_offset + PAGE, ..one })?;
    session.request()?;
    // It is really gone: the same again does not overlap.
    session.add_piece(&pieces, one)?;
    request_in(&mut session, one, 0)?;
    session.stop_all()
}

fn stray_descriptor(cx: &mut Cx) -> Checked {
    let (mut session, pieces) = first_piece(cx, Format::Split, &[32 * MIB])?;
    let one = piece(&pieces, 1)?;
    session.add_piece(&pieces, one)?;
    let (ours, theirs) = rustix::pipe::pipe()?;
    let body = SingleMemRegion { padding: 0, region: one };
    session.wire.set(Code::REM_MEM_REG, body.as_bytes(), &[theirs.as_fd()])?;
    drop(theirs);
    ensure!(wait_closed(&ours, cx.patience)?, "a descriptor that came with REM_MEM_REG was never closed");
    session.request()?;
    session.stop_all()
}

fn slots_and_table(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::CONFIGURE_MEM_SLOTS)?;
    cx.each_format(|cx, format| {
        let mut session = Session::silent(cx, &Setup::new(format))?;
        session.negotiate()?;
        session.add_rings()?;
        let mut pieces = Pieces::cut(&session.memory, &[16 * MIB, 48 * MIB])?;
        let third = piece(&pieces, 2)?;
        pieces.regions.truncate(2);
        session.share_pieces(&pieces)?;
        session.start_in(&pieces)?;
        session.request()?;
        request_in(&mut session, piece(&pieces, 1)?, 0)?;
        session.add_piece(&pieces, third)?;
        request_in(&mut session, third, 0)?;
        session.remove_region(third)?;
        session.request()?;
        session.stop_all()
    })
}

fn survives_reset(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::RESET_DEVICE)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup { slots: true, ..Setup::new(format) })?;
        session.request()?;
        session.stop_all()?;
        session.wire.set(Code::RESET_DEVICE, &[], &[])?;
        session.set_features()?;
        session.rings.clear();
        session.add_rings()?;
        session.start_all()?;
        session.request()?;
        session.stop_all()
    })
}

fn slots_full(cx: &mut Cx) -> Checked {
    use crate::check::wire::Answer;

    cx.needs(ProtocolFeatures::CONFIGURE_MEM_SLOTS | ProtocolFeatures::REPLY_ACK)?;
    let (mut session, pieces) = first_piece(cx, Format::Split, &[32 * MIB])?;
    let slots = session.wire.ask_u64(Code::GET_MAX_MEM_SLOTS)?.min(600);
    let rest = piece(&pieces, 1)?;
    let page = |number: u64| MemRegion {
        guest_addr: rest.guest_addr + number * PAGE,
        size: PAGE,
        user_addr: rest.user_addr + number * PAGE,
        mmap_offset: rest.mmap_offset + number * PAGE,
    };
    for number in 1..=slots {
        match session.try_piece(&pieces, page(number))? {
            Answer::Ack if number == slots => {
                cx.note(format!("takes more regions than it has slots ({slots}), or has more than 600"));
            }
            Answer::Ack => {}
            Answer::Nack if number == slots => {}
            Answer::Nack if number >= FAIR.min(slots) => {
                cx.note(format!("takes {number} regions, although it has {slots} slots"));
                break;
            }
            Answer::Nack => {
                return Err(Stop::fail(format!("takes {number} regions, although it has {slots} slots")));
            }
            Answer::Closed => {
                return Err(Stop::fail(format!("closed the connection at region {}", number + 1)));
            }
        }
    }
    session.request()?;
    session.remove_region(page(1))?;
    session.add_piece(&pieces, page(1))?;
    session.stop_all()
}

fn unknown_removal(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::CONFIGURE_MEM_SLOTS | ProtocolFeatures::REPLY_ACK)?;
    let (mut session, pieces) = first_piece(cx, Format::Split, &[32 * MIB])?;
    let (first, never) = (piece(&pieces, 0)?, piece(&pieces, 1)?);
    let unknown = [
        never,
        MemRegion { guest_addr: START + PAGE, ..first },
        MemRegion { user_addr: first.user_addr + PAGE, ..first },
        MemRegion { size: first.size - PAGE, ..first },
    ];
    for region in unknown {
        let body = SingleMemRegion { padding: 0, region };
        session.wire.nacked(Code::REM_MEM_REG, body.as_bytes(), &[])?;
        session.request()?;
    }
    session.stop_all()
}
