//! Tables that cannot be, and memory that is not there.

use std::os::fd::OwnedFd;

use outboard_frontend::{Layout, RegionSpec};
use outboard_vhost_user::payload::{MemRegion, MemTableHeader, SingleMemRegion};
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::Format;
use outboard_virtqueue::driver::Buffer;
use zerocopy::IntoBytes;

use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::signal;
use crate::check::session::{Session, Setup, borrowed, table_body};
use crate::check::verdict::{Checked, Stop};
use crate::check::wire::Answer;

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "memory.too-few-descriptors",
        title: "a table with fewer descriptors than regions is refused, and the old one stays in force",
        spec: "vhost-user: SET_MEM_TABLE (the number of descriptors matches that of regions)",
        run: too_few_descriptors,
    },
    Check {
        id: "memory.too-many-descriptors",
        title: "a table with more descriptors than regions is refused, and the old one stays in force",
        spec: "vhost-user: SET_MEM_TABLE (the number of descriptors matches that of regions)",
        run: too_many_descriptors,
    },
    Check {
        id: "memory.empty-region",
        title: "a region of size 0 is refused, and the old table stays in force",
        spec: "vhost-user: Memory region description; REPLY_ACK",
        run: empty_region,
    },
    Check {
        id: "memory.address-overflow",
        title: "a region whose addresses or offset pass 2^64 is refused, and the old table stays in force",
        spec: "vhost-user: Memory region description; REPLY_ACK",
        run: address_overflow,
    },
    Check {
        id: "memory.overlap",
        title: "regions that overlap for guest or front end are refused, and the old table stays in force",
        spec: "vhost-user: Memory access (an address maps to the region that has it); REPLY_ACK",
        run: overlap,
    },
    Check {
        id: "memory.overlapping-slot",
        title: "a region that overlaps one that is there is not added, and what is there stays",
        spec: "vhost-user: ADD_MEM_REG; REPLY_ACK",
        run: overlapping_slot,
    },
    Check {
        id: "memory.truncated-table",
        title: "a table that is shorter than its count says is refused",
        spec: "vhost-user: Multiple memory regions description",
        run: truncated_table,
    },
    Check {
        id: "memory.count-beyond-payload",
        title: "a table whose count is larger than its payload is refused",
        spec: "vhost-user: Multiple memory regions description",
        run: count_beyond_payload,
    },
    Check {
        id: "memory.unmappable-descriptor",
        title: "a region whose descriptor cannot be mapped is refused, and the old table stays in force",
        spec: "vhost-user: SET_MEM_TABLE; REPLY_ACK",
        run: unmappable_descriptor,
    },
    Check {
        id: "memory.beyond-file",
        title: "a region that is longer than its file is refused, or does not kill when it is used",
        spec: "robustness: the front end is not trusted (SIGBUS)",
        run: beyond_file,
    },
    Check {
        id: "memory.file-truncated",
        title: "memory whose file is cut short behind the back end's back does not kill it",
        spec: "robustness: the front end is not trusted (SIGBUS); in use: guests whose memory shrinks",
        run: file_truncated,
    },
];

const MIB: u64 = 1 << 20;

/// Regions of nothing but their size, with nothing wrong.
fn sound(at: u64, count: u64) -> Vec<MemRegion> {
    let region = |number: u64| MemRegion {
        guest_addr: at + number * 2 * MIB,
        size: MIB,
        user_addr: 0x7a00_0000_0000 + number * 2 * MIB,
        mmap_offset: 0,
    };
    (0..count).map(region).collect()
}

fn files(count: usize) -> Checked<Vec<OwnedFd>> {
    (0..count).map(|_| Ok(outboard_guest_memory::memfd("outboard-check", MIB)?)).collect()
}

/// What a check may take for an answer to something wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    /// Only a NACK: the message can be read.
    Nack,
    /// The end of the connection, too: where this message ends, nobody can tell.
    Either,
}

/// Rings run; something wrong about memory comes; it is refused, and the rings run on.
fn refuses(cx: &mut Cx, what: &str, code: Code, body: &[u8], fds: &[OwnedFd], how: How) -> Checked {
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    let mut session = Session::ready(cx, &Setup::new(Format::Split))?;
    session.request()?;
    let answer = session.wire.tried(code, body, &borrowed(fds)).map_err(|stop| stop.when(what))?;
    match (answer, how) {
        (Answer::Ack, _) => Err(Stop::fail(format!("{what}: {code} was accepted"))),
        (Answer::Closed, How::Nack) => Err(Stop::fail(format!("{what}: closed the connection on {code}"))),
        (Answer::Closed, How::Either) => Ok(()),
        // A NACK, and then the end.
        (Answer::Nack, How::Either) if session.wire.barrier().is_err() => Ok(()),
        (Answer::Nack, _) => {
            let after = |stop: Stop| stop.when(format_args!("after {code} was refused ({what})"));
            session.wire.barrier().map_err(after)?;
            session.request().map_err(after)?;
            session.stop_all()
        }
    }
}

/// A table that can be read, and must be refused.
fn refuses_table(cx: &mut Cx, what: &str, regions: &[MemRegion], fds: &[OwnedFd]) -> Checked {
    refuses(cx, what, Code::SET_MEM_TABLE, &table_body(regions), fds, How::Nack)
}

fn too_few_descriptors(cx: &mut Cx) -> Checked {
    refuses_table(cx, "two regions, one descriptor", &sound(0x9000_0000, 2), &files(1)?)?;
    refuses_table(cx, "one region, no descriptor", &sound(0x9000_0000, 1), &[])
}

fn too_many_descriptors(cx: &mut Cx) -> Checked {
    refuses_table(cx, "one region, two descriptors", &sound(0x9000_0000, 1), &files(2)?)
}

fn empty_region(cx: &mut Cx) -> Checked {
    let mut regions = sound(0x9000_0000, 2);
    regions.iter_mut().skip(1).for_each(|region| region.size = 0);
    refuses_table(cx, "a region of size 0", &regions, &files(2)?)
}

fn address_overflow(cx: &mut Cx) -> Checked {
    let sound = MemRegion { guest_addr: 0x9000_0000, size: MIB, user_addr: 0x7a00_0000_0000, mmap_offset: 0 };
    let last = u64::MAX - 4095;
    let wrong = [
        ("guest addresses", MemRegion { guest_addr: last, ..sound }),
        ("front-end addresses", MemRegion { user_addr: last, ..sound }),
        ("the offset", MemRegion { mmap_offset: last, ..sound }),
        ("the size", MemRegion { size: last, ..sound }),
    ];
    for (what, region) in wrong {
        refuses_table(cx, &format!("{what} up to 2^64 and beyond"), &[region], &files(1)?)?;
    }
    Ok(())
}

fn overlap(cx: &mut Cx) -> Checked {
    let regions = sound(0x9000_0000, 2);
    let second = |change: fn(&mut MemRegion)| {
        let mut regions = regions.clone();
        regions.iter_mut().skip(1).for_each(change);
        regions
    };
    let guest = second(|region| region.guest_addr -= 2 * MIB - 4096);
    refuses_table(cx, "guest addresses overlap", &guest, &files(2)?)?;
    let user = second(|region| region.user_addr -= 2 * MIB - 4096);
    refuses_table(cx, "front-end addresses overlap", &user, &files(2)?)?;
    let same = second(|region| {
        region.guest_addr -= 2 * MIB;
        region.user_addr -= 2 * MIB;
    });
    refuses_table(cx, "twice the same region", &same, &files(2)?)
}

fn overlapping_slot(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::CONFIGURE_MEM_SLOTS)?;
    // The last page of what is there, and one page before it and behind it.
    let there = Layout::default().regions.into_iter().next().unwrap_or(RegionSpec::new(0, 0));
    let RegionSpec { gpa, size, user_addr, .. } = there;
    let elsewhere = RegionSpec::new(0x9000_0000, MIB);
    for (what, guest_addr, user_addr) in [
        ("guest addresses overlap", gpa + size - 4096, elsewhere.user_addr),
        ("front-end addresses overlap", elsewhere.gpa, user_addr + size - 4096),
        ("within another region", gpa + MIB, user_addr + MIB),
    ] {
        let region = MemRegion { guest_addr, size: MIB, user_addr, mmap_offset: 0 };
        let body = SingleMemRegion { padding: 0, region };
        refuses(cx, what, Code::ADD_MEM_REG, body.as_bytes(), &files(1)?, How::Nack)?;
    }
    Ok(())
}

fn truncated_table(cx: &mut Cx) -> Checked {
    let body = table_body(&sound(0x9000_0000, 2));
    for (what, len) in
        [("half of the last region is missing", body.len() - 16), ("half of the count is missing", 4)]
    {
        let part = body.get(..len).unwrap_or_default();
        refuses(cx, what, Code::SET_MEM_TABLE, part, &files(2)?, How::Either)?;
    }
    Ok(())
}

fn count_beyond_payload(cx: &mut Cx) -> Checked {
    for count in [9, 0x0800_0001, u32::MAX] {
        let header = MemTableHeader { count, padding: 0 };
        let body = [header.as_bytes(), sound(0x9000_0000, 1).as_bytes()].concat();
        let what = format!("a count of {count} before one region");
        refuses(cx, &what, Code::SET_MEM_TABLE, &body, &files(1)?, How::Either)?;
    }
    Ok(())
}

fn unmappable_descriptor(cx: &mut Cx) -> Checked {
    let (pipe, _other) = rustix::pipe::pipe()?;
    let mut fds = files(1)?;
    fds.push(pipe);
    refuses_table(cx, "the second descriptor is a pipe", &sound(0x9000_0000, 2), &fds)
}

/// A request with the buffers that the device writes at `gpa`, where we must not look. It may be returned or not.
fn request_blindly(session: &mut Session, gpa: u64) -> Checked {
    let sample = session.sample()?;
    let mut readable = Vec::new();
    for bytes in &sample.readable {
        let segment = session.memory.allocate(bytes.len(), 16)?;
        segment.write_from(0, bytes)?;
        // Where a device only reads, it reads there.
        let at = if sample.writable.is_empty() { gpa } else { segment.gpa() };
        readable.push(Buffer { gpa: at, len: u32::try_from(bytes.len())? });
    }
    let writable: Vec<Buffer> = sample.writable.iter().map(|&len| Buffer { gpa, len }).collect();
    let ring = session.sample_ring()?;
    ring.queue.add(&readable, &writable, 1)?;
    ring.publish()?;
    // What comes back, if anything does, is the back end's own affair.
    let _ = ring.returned_within(LULL)?;
    session.wire.barrier()
}

fn beyond_file(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::REPLY_ACK)?;
    let mut session = Session::ready(cx, &Setup::new(Format::Split))?;
    session.request()?;
    let mut table: Vec<(MemRegion, OwnedFd)> = session.memory.table()?;
    let [long] = *sound(0x9000_0000, 1) else { return Ok(()) };
    table.extend(files(1)?.into_iter().map(|fd| (MemRegion { size: 64 * MIB, ..long }, fd)));
    let (regions, fds): (Vec<MemRegion>, Vec<OwnedFd>) = table.into_iter().unzip();
    match session.wire.tried(Code::SET_MEM_TABLE, &table_body(&regions), &borrowed(&fds))? {
        Answer::Closed => Err(Stop::fail("closed the connection on SET_MEM_TABLE")),
        Answer::Nack => {
            session.request().map_err(|stop| stop.when("after the table was refused"))?;
            session.stop_all()
        }
        Answer::Ack => {
            cx.note("a region that is longer than its file is accepted");
            request_blindly(&mut session, long.guest_addr + 32 * MIB)
        }
    }
}

fn file_truncated(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        // The buffers' memory only, then that of the rings, too. Ours is not touched afterwards.
        for rest in [32 * MIB, 0] {
            let mut session = Session::ready(cx, &Setup::new(format))?;
            session.request()?;
            for (_, fd) in session.memory.table()? {
                rustix::fs::ftruncate(&fd, rest)?;
            }
            if rest == 0 {
                signal(&session.sample_ring()?.kick)?;
                session.wire.barrier()?;
                std::thread::sleep(LULL);
            } else {
                request_blindly(&mut session, 0x4000_0000 + 48 * MIB)?;
            }
            session.wire.barrier()?;
        }
        Ok(())
    })
}
