//! GET_CONFIG.

use outboard_vhost_user::payload::ConfigHeader;
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::Format;
use zerocopy::{FromBytes, IntoBytes};

use super::{known_len, open, same};
use crate::check::catalogue::Check;
use crate::check::config::{FLAG, config_body, is_refusal};
use crate::check::cx::Cx;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::Heard;

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "config.sizes",
        title: "the configuration is shown in the sizes that front ends read, always the same bytes",
        spec: "vhost-user: GET_CONFIG (the payload's size must match); in use: QEMU (36, 48, 57), Firecracker (60)",
        run: sizes,
    },
    Check {
        id: "config.windows",
        title: "windows of 1, 2, 4 and 8 bytes show the same as the whole",
        spec: "vhost-user: GET_CONFIG (offset); in use: crosvm, alioth, libkrun, OpenVMM",
        run: windows,
    },
    Check {
        id: "config.beyond-end",
        title: "a window that is longer than the configuration is answered in full size, filled up with zeroes",
        spec: "in use: SPDK, OpenVMM (256 bytes, whatever the device)",
        run: beyond_end,
    },
    Check {
        id: "config.behind-end",
        title: "a window that lies behind the configuration is answered or refused, and all goes on",
        spec: "vhost-user: GET_CONFIG; in use: alioth, OpenVMM (4 bytes at a time, up to 256)",
        run: behind_end,
    },
    Check {
        id: "config.flags",
        title: "a request with flags is answered like one without, and the flags come back",
        spec: "in use: Cloud Hypervisor, Firecracker (rust-vmm: flags are 1, and compared with those of the answer)",
        run: with_flags,
    },
    Check {
        id: "config.stable",
        title: "the same bytes come however often they are read",
        spec: "vhost-user: GET_CONFIG; in use: QEMU (each access of the guest)",
        run: stable,
    },
    Check {
        id: "config.before-features",
        title: "the configuration is shown before SET_FEATURES, and is the same afterwards",
        spec: "in use: QEMU, Cloud Hypervisor, crosvm (it is read before there is a driver)",
        run: before_features,
    },
    Check {
        id: "config.while-running",
        title: "the configuration is shown while rings run and when they have stopped, and is the same",
        spec: "in use: QEMU (a guest may read it at any time)",
        run: while_running,
    },
    Check {
        id: "config.while-busy",
        title: "the configuration is shown while requests are under way, and they come to their end",
        spec: "in use: QEMU (the guest's processor waits for the answer)",
        run: while_busy,
    },
    Check {
        id: "config.overflow",
        title: "offsets and sizes beyond all bounds are refused by an answer without bytes, and all goes on",
        spec: "vhost-user: GET_CONFIG (zero length of payload indicates an error)",
        run: overflow,
    },
    Check {
        id: "config.size-beyond-payload",
        title: "a request that announces more bytes than it has does no harm",
        spec: "vhost-user: Virtio device config space",
        run: size_beyond_payload,
    },
];

fn sizes(cx: &mut Cx) -> Checked {
    let (mut session, len) = open(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    for size in [1, 4, 8, 36, 48, 57, 60].into_iter().filter(|size| *size <= len) {
        same(&whole, 0, &session.wire.config(0, size, 0)?)?;
    }
    Ok(())
}

fn windows(cx: &mut Cx) -> Checked {
    let (mut session, len) = open(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    for size in [1, 2, 4, 8] {
        for offset in (0..=len - size).step_by(usize::try_from(size)?) {
            same(&whole, offset, &session.wire.config(offset, size, 0)?)?;
        }
    }
    // Neither aligned nor of a usual size.
    same(&whole, 3, &session.wire.config(3, len - 3, 0)?)
}

fn beyond_end(cx: &mut Cx) -> Checked {
    let (mut session, len) = open(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    for size in [96, 256] {
        let window = session.wire.config(0, size, 0)?;
        same(&window, 0, &whole)?;
        // No disk has more; of other devices nothing is known.
        let end = if cx.kind.config_len() != 0 { 128 } else { 256 };
        let behind = window.get(end..).unwrap_or_default();
        ensure!(
            behind.iter().all(|&byte| byte == 0),
            "what lies behind the configuration is not zero: {behind:02x?}"
        );
    }
    Ok(())
}

fn behind_end(cx: &mut Cx) -> Checked {
    let (mut session, len) = open(cx)?;
    for (offset, size) in [(len, 4), (128, 4), (252, 4), (255, 1), (len - 4, 8), (4096, 4)] {
        let frame = session.wire.ask_config(offset, size, 0)?;
        if is_refusal(&frame) {
            cx.note(format!("{size} bytes at {offset} are refused"));
            continue;
        }
        let got = frame.body.len();
        let wanted = ConfigHeader::LEN + usize::try_from(size)?;
        ensure!(got == wanted, "GET_CONFIG of {size} bytes at {offset} has an answer of {got}, not {wanted}");
    }
    session.wire.config(0, len, 0).map(drop)
}

fn with_flags(cx: &mut Cx) -> Checked {
    let (mut session, len) = open(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    same(&whole, 0, &session.wire.config(0, len, FLAG)?)?;
    for flags in [0, FLAG] {
        let frame = session.wire.ask_config(4, 4, flags)?;
        let header = ConfigHeader::read_from_prefix(&frame.body);
        let came = header.map_or(u32::MAX, |(header, _)| header.flags);
        ensure!(came == flags, "the answer to GET_CONFIG with flags {flags} has flags {came:#x}");
    }
    Ok(())
}

fn stable(cx: &mut Cx) -> Checked {
    let (mut session, len) = open(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    for _ in 0..200 {
        same(&whole, 0, &session.wire.config(0, len, 0)?)?;
    }
    Ok(())
}

fn before_features(cx: &mut Cx) -> Checked {
    cx.needs(ProtocolFeatures::CONFIG)?;
    let mut session = Session::silent(cx, &Setup::new(Format::Split))?;
    session.wire.ask_u64(Code::GET_FEATURES)?;
    session.set_protocol()?;
    let len = known_len(cx, &mut session)?;
    let whole = session.wire.config(0, len, 0)?;
    session.owner()?;
    session.set_features()?;
    same(&whole, 0, &session.wire.config(0, len, 0)?)?;
    session.share()?;
    same(&whole, 0, &session.wire.config(0, len, 0)?)
}

fn while_running(cx: &mut Cx) -> Checked {
    let (mut session, len) = open(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    session.add_rings()?;
    session.start_all()?;
    for _ in 0..5 {
        session.request()?;
        same(&whole, 0, &session.wire.config(0, len, 0)?)?;
    }
    session.stop_all()?;
    same(&whole, 0, &session.wire.config(0, len, 0)?)
}

fn while_busy(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let (mut session, len) = super::open_with(cx, &Setup { size: 128, ..Setup::new(format) })?;
        let whole = session.wire.config(0, len, 0)?;
        session.add_rings()?;
        session.start_all()?;
        let sample = session.sample()?;
        let patience = session.patience();
        let count = 128 / u64::try_from(sample.readable.len() + sample.writable.len())?.max(1);
        for _ in 0..5 {
            let mut placed = Vec::new();
            for token in 0..count {
                let Session { memory, rings, .. } = &mut session;
                let ring = rings.last_mut().ok_or_else(no_ring)?;
                placed.push(Some(ring.place(memory, &sample, token)?));
            }
            session.sample_ring()?.publish()?;
            for _ in 0..20 {
                same(&whole, 0, &session.wire.config(0, len, 0)?)?;
            }
            for _ in 0..count {
                let Session { memory, rings, .. } = &mut session;
                let ring = rings.last_mut().ok_or_else(no_ring)?;
                let (token, len) = ring.returned(patience)?;
                let out = placed.get_mut(usize::try_from(token)?).and_then(Option::take);
                let Some(out) = out else {
                    return Err(Stop::fail(format!("request {token} was returned twice")));
                };
                ring.verify(memory, &sample, out, len)?;
            }
        }
        session.stop_all()
    })
}

fn no_ring() -> Stop {
    Stop::Skip("our own side: no ring".to_owned())
}

fn overflow(cx: &mut Cx) -> Checked {
    let (mut session, len) = open(cx)?;
    let whole = session.wire.config(0, len, 0)?;
    for offset in [u32::MAX, u32::MAX - 3, 0x8000_0000, 0x7fff_fffc, 0x0001_0000] {
        let frame = session.wire.ask_config(offset, 4, 0)?;
        if is_refusal(&frame) {
            continue;
        }
        // There is nothing at such an offset; a window of it may still be shown, as long as it is one.
        let shown = ConfigHeader::LEN + 4;
        ensure!(
            frame.body.len() == shown && u64::from(offset) + 4 <= 1 << 32,
            "GET_CONFIG of 4 bytes at {offset:#x} has an answer of {} bytes",
            frame.body.len()
        );
    }
    same(&whole, 0, &session.wire.config(0, len, 0)?)
}

fn size_beyond_payload(cx: &mut Cx) -> Checked {
    let (mut session, len) = open(cx)?;
    for size in [len + 64, 0x0001_0000, u32::MAX] {
        let mut body = config_body(0, 0, &[0; 8]);
        let header = ConfigHeader { offset: 0, size, flags: 0 };
        body.splice(..ConfigHeader::LEN, header.as_bytes().iter().copied());
        session.wire.send(Code::GET_CONFIG, &body, &[])?;
        match session.wire.hear()? {
            // It cannot know what to make of it.
            Heard::Closed => {
                session = Session::open(cx, &Setup::new(Format::Split))?;
                continue;
            }
            Heard::Silence => return Err(Stop::fail("no answer to GET_CONFIG with too large a size")),
            Heard::Frame(frame) => {
                ensure!(frame.request == Code::GET_CONFIG.0, "{} came for GET_CONFIG", Code(frame.request));
            }
        }
        session.wire.barrier()?;
    }
    session.wire.config(0, len, 0).map(drop)
}
