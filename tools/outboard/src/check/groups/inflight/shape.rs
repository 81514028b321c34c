//! The buffer as it is asked for.

use std::os::fd::AsFd;

use outboard_vhost_user::payload::Inflight;
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::Format;
use zerocopy::IntoBytes;

use super::{Records, least, queues, with_records};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::Heard;

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "inflight.buffer",
        title: "the buffer asked for is described in 24 bytes, comes with its descriptor, and is large enough",
        spec: "vhost-user: GET_INFLIGHT_FD, Inflight description; in use: QEMU",
        run: buffer,
    },
    Check {
        id: "inflight.zeroed",
        title: "the buffer asked for is of zeroes: no ring's records are in use",
        spec: "vhost-user: Inflight I/O tracking (version 0: uninitialised)",
        run: zeroed,
    },
    Check {
        id: "inflight.early",
        title: "the buffer may be asked for before features are set and memory is shared",
        spec: "vhost-user: GET_INFLIGHT_FD; in use: SPDK, Cloud Hypervisor",
        run: early,
    },
    Check {
        id: "inflight.odd-requests",
        title: "a buffer for no rings, for rings of no entries, for more rings than there are: answered or refused",
        spec: "vhost-user: GET_INFLIGHT_FD",
        run: odd_requests,
    },
];

fn buffer(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::INFLIGHT_SHMFD)?;
    let queues = queues(cx)?;
    cx.each_format(|cx, format| {
        for size in [1, 16, 128, 1024] {
            let mut session = Session::open(cx, &Setup::new(format))?;
            let records = Records::ask(&mut session, queues, size)
                .map_err(|stop| stop.when(format_args!("rings of {size}")))?;
            let told = records.told;
            let end = told.mmap_offset.saturating_add(told.mmap_size);
            let file = u64::try_from(rustix::fs::fstat(records.fd.as_fd())?.st_size)?;
            ensure!(file >= end, "a buffer that ends at {end}, in a file of {file} bytes");
            if (told.num_queues, told.queue_size) != (queues, size) {
                cx.note(format!("{:?} for {queues} rings of {size}", told));
            }
        }
        Ok(())
    })
}

fn zeroed(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::INFLIGHT_SHMFD)?;
    let queues = queues(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::open(cx, &Setup::new(format))?;
        for _ in 0..2 {
            let records = Records::ask(&mut session, queues, 128)?;
            let mut bytes = vec![0xff; usize::try_from(least(format, queues, 128))?];
            records.area.read_into(0, &mut bytes)?;
            let at = bytes.iter().position(|&byte| byte != 0);
            ensure!(at.is_none(), "byte {at:?} of the buffer is not 0");
            // The next one is another one.
            records.area.fill(0xa5);
        }
        Ok(())
    })
}

fn early(cx: &mut Cx) -> Checked {
    super::needed(cx)?;
    let queues = queues(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::silent(cx, &Setup::new(format))?;
        session.owner()?;
        session.set_protocol()?;
        let records = match Records::ask(&mut session, queues, 16) {
            // None at all, or none yet?
            Err(Stop::NotApplicable(none)) => {
                drop(session);
                with_records(cx, format)?;
                return Err(Stop::fail(format!("{none} before SET_FEATURES")));
            }
            records => records?,
        };
        session.set_features()?;
        records.give(&mut session)?;
        session.share()?;
        let at = session.add_ring(0)?;
        session.start(at)?;
        session.request().map(drop)
    })
}

fn odd_requests(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::INFLIGHT_SHMFD)?;
    let whole = |num_queues, queue_size| {
        let asked = Inflight { num_queues, queue_size, ..Inflight::default() };
        asked.as_bytes().to_vec()
    };
    // The last one has the 20 bytes that the fields sum up to.
    let short = whole(1, 16).into_iter().take(20).collect();
    for body in [whole(0, 16), whole(1, 0), whole(0, 0), whole(1, u16::MAX), whole(300, 256), short] {
        let mut session = Session::open(cx, &Setup::new(Format::Split))?;
        session.wire.send(Code::GET_INFLIGHT_FD, &body, &[])?;
        match session.wire.hear()? {
            Heard::Closed => cx.note(format!("closed the connection on {body:?}")),
            Heard::Silence => return Err(Stop::fail(format!("no answer to {body:?}"))),
            Heard::Frame(frame) => {
                let answer = Code(frame.request);
                ensure!(answer == Code::GET_INFLIGHT_FD, "{answer} came for GET_INFLIGHT_FD");
                ensure!(session.wire.is_open()?, "the connection was closed after the answer to {body:?}");
            }
        }
    }
    if super::needed(cx).is_err() {
        return Ok(());
    }
    let (mut session, records) = with_records(cx, Format::Split)?;
    records.give(&mut session)?;
    session.start(session.last())?;
    session.request().map(drop)
}
