//! The dirty log: the pages that the device writes during migration.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use outboard_guest_memory::{DirtyLog, memfd};
use outboard_vhost_user::payload::{Log, VringAddr};
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::features::{VHOST_F_LOG_ALL, VIRTIO_F_EVENT_IDX};
use outboard_virtqueue::Format;
use rustix::event::{EventfdFlags, eventfd};
use zerocopy::IntoBytes;

use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::sample::Kind;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::{Heard, Manner};

/// The checks of this group.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "log.answered",
        title: "SET_LOG_BASE is answered, whether an acknowledgement is asked for or not",
        spec: "vhost-user: Communication (messages with replies: SET_LOG_BASE with LOG_SHMFD)",
        run: answered,
    },
    Check {
        id: "log.data",
        title: "every page of every buffer that the device writes is marked",
        spec: "vhost-user: Migration (all modifications to memory pointed by descriptors)",
        run: data,
    },
    Check {
        id: "log.while-running",
        title: "logging starts and ends while rings run, and they go on where they are",
        spec: "vhost-user: Migration; in use: QEMU (SET_FEATURES and SET_VRING_ADDR on running rings)",
        run: while_running,
    },
    Check {
        id: "log.used-ring",
        title: "writes to a used ring are marked from the address on that SET_VRING_ADDR gives for them",
        spec: "vhost-user: Migration (VHOST_VRING_F_LOG, log_guest_addr)",
        run: used_ring,
    },
    Check {
        id: "log.event-index",
        title: "the device's event index is part of the used ring, and marked with it",
        spec: "vhost-user: Migration (modifications to the used ring); VIRTIO 1.3, 2.7.8 (avail_event)",
        run: event_index,
    },
    Check {
        id: "log.replaced",
        title: "once a new log is answered the old one is not touched any more",
        spec: "vhost-user: SET_LOG_BASE; in use: Cloud Hypervisor (a new log at each pass)",
        run: replaced,
    },
    Check {
        id: "log.offset",
        title: "the log begins in its file where the message says",
        spec: "vhost-user: Log description (log offset)",
        run: offset,
    },
    Check {
        id: "log.size-unaligned",
        title: "a log ends anywhere within a page, and is used to its last bit",
        spec: "vhost-user: Log description (log size); in use: Cloud Hypervisor",
        run: size_unaligned,
    },
    Check {
        id: "log.too-short",
        title: "pages that a short log has no bits for do no harm, within the log's file or behind its end",
        spec: "robustness: the front end is not trusted",
        run: too_short,
    },
    Check {
        id: "log.wrong",
        title: "a log that cannot be mapped does no harm",
        spec: "robustness: the front end is not trusted",
        run: wrong,
    },
    Check {
        id: "log.without-descriptors",
        title: "without LOG_SHMFD SET_LOG_BASE has no answer",
        spec: "vhost-user: SET_LOG_BASE; in use: QEMU, rust-vmm",
        run: without_descriptors,
    },
    Check {
        id: "log.notifier",
        title: "SET_LOG_FD does no harm",
        spec: "vhost-user: SET_LOG_FD (optional, and no front end is known to send it)",
        run: notifier,
    },
];

const PAGE: u64 = 4096;
/// The guest addresses of a session's memory: behind it there is none.
const START: u64 = 0x4000_0000;
const END: u64 = 0x4400_0000;
/// A bit for each page up to there.
const SIZE: u64 = END / PAGE / 8;
/// Where requests have their buffers: with the memory in between, far from the rings.
const BUFFERS: u64 = 0x4200_0000;
/// Where used rings are logged; they lie elsewhere.
const RING_PAGE: u64 = 0x4380_0000;

fn needs(cx: &Cx) -> Checked {
    cx.needs(ProtocolFeatures::LOG_SHMFD)?;
    cx.needs_feature(VHOST_F_LOG_ALL, "LOG_ALL")
}

/// SET_LOG_BASE, which has an answer of its own.
fn set_log(session: &mut Session, size: u64, offset: u64, fd: &OwnedFd) -> Checked {
    let body = Log { size, offset };
    session.wire.ask(Code::SET_LOG_BASE, body.as_bytes(), &[fd.as_fd()]).map(drop)
}

/// A fresh log, given to the back end.
fn new_log(session: &mut Session) -> Checked<DirtyLog> {
    let (log, fd) = DirtyLog::create(SIZE)?;
    set_log(session, SIZE, 0, &fd)?;
    Ok(log)
}

/// The pages that are marked, and their marks taken off.
fn marked(log: &DirtyLog) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    log.take(|gpa| {
        pages.insert(gpa);
    });
    pages
}

/// SET_VRING_ADDR of the last ring on the go: its used ring is logged from `log` on, or not.
fn log_used(session: &mut Session, log: Option<u64>) -> Checked {
    let Session { memory, rings, .. } = &*session;
    let ring = rings.last().ok_or_else(|| Stop::Skip("our own side: no ring".to_owned()))?;
    let flags = if log.is_some() { VringAddr::LOG } else { 0 };
    let mut addr = ring.addr(memory, flags)?;
    addr.log = log.unwrap_or(addr.log);
    session.wire.set(Code::SET_VRING_ADDR, addr.as_bytes(), &[])
}

/// Rings run, and what the device writes into buffers is logged.
fn logging(cx: &mut Cx, setup: &Setup) -> Checked<(Session, DirtyLog)> {
    needs(cx)?;
    let mut session = Session::ready(cx, setup)?;
    if session.sample()?.writable.is_empty() {
        return Err(Stop::NotApplicable("the device writes nothing in the request that is known".to_owned()));
    }
    session.memory.allocate(usize::try_from(BUFFERS - START)?, 1 << 20).or_else(|_| rest(&mut session))?;
    session.request_at(|number, _| place(number))?;
    let log = new_log(&mut session)?;
    session.set_log_all(true)?;
    Ok((session, log))
}

/// All memory up to where the buffers are, whatever the rings took.
fn rest(session: &mut Session) -> Checked<outboard_guest_memory::Segment> {
    Ok(session.memory.allocate(16 << 20, PAGE)?)
}

/// The middle of a buffer is on the border of two pages, and each buffer has pages of its own.
fn place(number: u64) -> u64 {
    BUFFERS + (4 * number + 2) * PAGE - 1
}

/// The pages that the device has to write for the sample, with its buffers at [`place`].
fn written(cx: &Cx, session: &Session) -> Checked<BTreeSet<u64>> {
    let sample = session.sample()?;
    let first = u64::try_from(sample.readable.len())?;
    let mut pages = BTreeSet::new();
    for (number, &len) in (first..).zip(&sample.writable) {
        let at = place(number);
        pages.insert(at / PAGE * PAGE);
        // How much of a buffer is written is the device's affair, but for disks.
        if len > 1 && cx.kind == Kind::Blk {
            pages.insert((at + u64::from(len) - 1) / PAGE * PAGE);
        }
    }
    Ok(pages)
}

/// A request with its buffers at [`place`], after which the pages of `log` are as they must be.
fn request_logged(cx: &Cx, session: &mut Session, log: &DirtyLog) -> Checked {
    session.request_at(|number, _| place(number))?;
    let wanted = written(cx, session)?;
    let mut seen = BTreeSet::new();
    // A device may mark right after it has returned a request.
    let complete = cx.eventually(|| {
        seen.append(&mut marked(log));
        Ok(seen.is_superset(&wanted))
    })?;
    let missing: Vec<_> = wanted.difference(&seen).map(|page| format!("{page:#x}")).collect();
    ensure!(complete, "pages that the device wrote are not marked: {}", missing.join(", "));
    Ok(())
}

fn answered(cx: &mut Cx) -> Checked {
    needs(cx)?;
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    let (_log, fd) = DirtyLog::create(SIZE)?;
    let body = Log { size: SIZE, offset: 0 };
    for manner in [Manner::Asking, Manner::Demanding] {
        session.wire.manner = manner;
        let frame = session.wire.ask(Code::SET_LOG_BASE, body.as_bytes(), &[fd.as_fd()])?;
        if frame.body.len() != size_of::<Log>() {
            cx.note(format!("{} bytes answer SET_LOG_BASE; rust-vmm needs 16", frame.body.len()));
        }
        session.wire.barrier()?;
    }
    Ok(())
}

fn data(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let (mut session, log) = logging(cx, &Setup::new(format))?;
        for _ in 0..3 {
            request_logged(cx, &mut session, &log)?;
        }
        session.stop_all()
    })
}

fn while_running(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let (mut session, log) = logging(cx, &Setup::new(format))?;
        for _ in 0..3 {
            let ring = session.sample_ring()?;
            let used = ring.queue.at() + ring.queue.layout().device;
            log_used(&mut session, Some(used))?;
            request_logged(cx, &mut session, &log)?;
            log_used(&mut session, None)?;
            session.set_log_all(false)?;
            session.requests_at_places()?;
            session.set_log_all(true)?;
            marked(&log);
        }
        session.stop_all()
    })
}

/// Two requests, after which these pages have to be marked.
fn requests_logged(cx: &Cx, session: &mut Session, log: &DirtyLog, pages: &[u64], what: &str) -> Checked {
    session.requests_at_places()?;
    let mut seen = BTreeSet::new();
    let complete = cx.eventually(|| {
        seen.append(&mut marked(log));
        Ok(pages.iter().all(|page| seen.contains(page)))
    })?;
    let missing: Vec<_> = pages.iter().filter(|page| !seen.contains(page)).collect();
    ensure!(complete, "{what}: not marked is {missing:x?}");
    Ok(())
}

fn used_ring(cx: &mut Cx) -> Checked {
    // With event indexes the flags need not be written, without them there is nothing behind the elements.
    for event_idx in [false, true] {
        let (mut session, log) = logging(cx, &Setup { event_idx, ..Setup::new(Format::Split) })?;
        // The used ring's flags and index are at the end of one page, its elements in the next.
        log_used(&mut session, Some(RING_PAGE + PAGE - 4))?;
        let pages = [RING_PAGE, RING_PAGE + PAGE];
        let what = "used index in the first page, elements in the second";
        requests_logged(cx, &mut session, &log, &pages, what)?;
        session.stop_all()?;
    }
    Ok(())
}

fn event_index(cx: &mut Cx) -> Checked {
    cx.needs_feature(VIRTIO_F_EVENT_IDX, "EVENT_IDX")?;
    let (mut session, log) = logging(cx, &Setup { event_idx: true, ..Setup::new(Format::Split) })?;
    let ring = session.sample_ring()?;
    // It is behind flags, index and elements (VIRTIO 1.3, 2.7.8).
    let offset = 4 + 8 * u64::from(ring.queue.size());
    log_used(&mut session, Some(RING_PAGE + PAGE - offset))?;
    let before = session.avail_event(offset)?;
    session.requests_at_places()?;
    // It is moved when the device is about to sleep.
    let deadline = Instant::now() + LULL;
    while session.avail_event(offset)? == before {
        if Instant::now() >= deadline {
            return Err(Stop::Skip("the device does not move its event index".to_owned()));
        }
        std::thread::sleep(LULL / 20);
    }
    let pages = [RING_PAGE + PAGE];
    requests_logged(cx, &mut session, &log, &pages, "the page with the device's event index")?;
    session.stop_all()
}

fn replaced(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let (mut session, mut log) = logging(cx, &Setup::new(format))?;
        for _ in 0..3 {
            request_logged(cx, &mut session, &log)?;
            // Nothing is under way: whatever is marked in the old log from now on is marked too late.
            let next = new_log(&mut session)?;
            marked(&log);
            request_logged(cx, &mut session, &next)?;
            let late = marked(&log);
            ensure!(late.is_empty(), "pages were marked in a log that had been replaced: {late:x?}");
            log = next;
        }
        session.stop_all()
    })
}

fn offset(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let (mut session, _) = logging(cx, &Setup::new(format))?;
        for offset in [PAGE, 5 * PAGE] {
            let fd = memfd("outboard-check-log", offset + SIZE)?;
            set_log(&mut session, SIZE, offset, &fd)?;
            let log = DirtyLog::map(fd.try_clone()?, SIZE, offset)?;
            let before = DirtyLog::map(fd, offset, 0)?;
            request_logged(cx, &mut session, &log)?;
            let early = marked(&before);
            ensure!(early.is_empty(), "the file was marked before the log begins in it");
        }
        session.stop_all()
    })
}

fn size_unaligned(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        // It covers all memory, and not a page more; the buffers are in the last pages that there are.
        let (mut session, log) = logging(cx, &Setup::new(format))?;
        let shift = END - 16 * PAGE - BUFFERS;
        session.request_at(|number, _| place(number) + shift)?;
        let wanted: Vec<u64> = written(cx, &session)?.into_iter().map(|page| page + shift).collect();
        let mut seen = BTreeSet::new();
        let complete = cx.eventually(|| {
            seen.append(&mut marked(&log));
            Ok(wanted.iter().all(|page| seen.contains(page)))
        })?;
        ensure!(complete, "of the last pages {wanted:x?} are marked {seen:x?}");
        session.stop_all()
    })
}

/// SET_LOG_BASE with a log that is wrong: whether the connection goes on. There is no word for "no" in the answer:
/// any answer will do, and so will the end of the connection.
fn survives(session: &mut Session, what: &str, log: Log, fd: &OwnedFd) -> Checked<bool> {
    session.wire.send(Code::SET_LOG_BASE, log.as_bytes(), &[fd.as_fd()])?;
    match session.wire.hear()? {
        Heard::Closed => Ok(false),
        Heard::Silence => Err(Stop::fail(format!("a log {what} is not answered"))),
        Heard::Frame(frame) => {
            ensure!(frame.request == Code::SET_LOG_BASE.0, "{} came for it", Code(frame.request));
            Ok(session.wire.barrier().is_ok())
        }
    }
}

fn too_short(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let used = 0xffff_ffff_f000;
        for size in [PAGE, 8] {
            let (mut session, _) = logging(cx, &Setup::new(format))?;
            let fd = memfd("outboard-check-log", 2 * PAGE)?;
            if !survives(&mut session, "that is too short", Log { size, offset: 0 }, &fd)? {
                cx.note("closes the connection on a log that is too short");
                continue;
            }
            let behind = DirtyLog::map(fd.try_clone()?, 2 * PAGE - size, size)?;
            log_used(&mut session, Some(used))?;
            session.requests_at_places()?;
            let wild = marked(&behind);
            ensure!(wild.is_empty(), "the file was marked behind the end of the log");
        }
        Ok(())
    })
}

fn wrong(cx: &mut Cx) -> Checked {
    needs(cx)?;
    let (pipe, _other) = rustix::pipe::pipe()?;
    let short = memfd("outboard-check-log", PAGE)?;
    let logs = [
        ("of a pipe", SIZE, 0, &pipe),
        ("of size 0", 0, 0, &short),
        ("at an offset near 2^64", SIZE, u64::MAX - 7, &short),
        ("of a size near 2^64", u64::MAX - 7, 0, &short),
    ];
    for (what, size, offset, fd) in logs {
        let mut session = Session::ready(cx, &Setup::new(Format::Split))?;
        session.request()?;
        if !survives(&mut session, what, Log { size, offset }, fd)? {
            continue;
        }
        session.set_log_all(true)?;
        session.request().map_err(|stop| stop.when(format_args!("with a log {what}")))?;
        session.stop_all()?;
    }
    Ok(())
}

fn without_descriptors(cx: &mut Cx) -> Checked {
    let protocol = Setup::new(Format::Split).protocol - ProtocolFeatures::LOG_SHMFD;
    let mut session = Session::open(cx, &Setup { protocol, ..Setup::new(Format::Split) })?;
    for body in [0u64.as_bytes(), Log { size: SIZE, offset: 0 }.as_bytes()] {
        session.wire.send(Code::SET_LOG_BASE, body, &[])?;
        // An answer that nobody waits for would come before that to GET_FEATURES.
        match session.wire.is_open().map_err(|stop| stop.when("after SET_LOG_BASE without LOG_SHMFD"))? {
            true => {}
            false => {
                cx.note("closes the connection on SET_LOG_BASE without LOG_SHMFD");
                return Ok(());
            }
        }
    }
    Ok(())
}

fn notifier(cx: &mut Cx) -> Checked {
    needs(cx)?;
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    for _ in 0..3 {
        session.wire.send(Code::SET_LOG_FD, &[], &[fd.as_fd()])?;
        if !session.wire.is_open()? {
            cx.note("closes the connection on SET_LOG_FD");
            return Ok(());
        }
    }
    Ok(())
}

impl Session {
    /// What the device wants to be kicked for (split, EVENT_IDX): so far behind the start of the used ring.
    fn avail_event(&mut self, offset: u64) -> Checked<u16> {
        let ring = self.sample_ring()?;
        let mut event = [0; 2];
        let at = usize::try_from(ring.queue.layout().device + offset)?;
        ring.memory.read_into(at, &mut event)?;
        Ok(u16::from_le_bytes(event))
    }

    /// Two requests with their buffers at [`place`].
    fn requests_at_places(&mut self) -> Checked {
        self.request_at(|number, _| place(number))?;
        self.request_at(|number, _| place(number)).map(drop)
    }
}
