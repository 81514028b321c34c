//! Headers that no driver must write, but any guest can: the device is to be none the worse for it, and nobody who
//! receives what comes of it.

use outboard_virtio_defs::net::{
    HDR_F_NEEDS_CSUM, HDR_GSO_ECN, HDR_GSO_TCPV4, HDR_GSO_TCPV6, HDR_GSO_UDP, HDR_GSO_UDP_L4, Header,
};

use super::frame::Inside;
use super::{Nic, is_net, loops, setup, with_offloads};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::Setup;
use crate::check::verdict::{Checked, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.header-flags",
        title: "flags that a device does not know are ignored, and go no further",
        spec: "VIRTIO 1.3, 5.1.6.2.2",
        run: flags,
    },
    Check {
        id: "net.header-csum-range",
        title: "a checksum outside of the frame harms nobody, and is asked of nobody",
        spec: "VIRTIO 1.3, 5.1.6.2.1 and 5.1.6.4.1 (a driver must not; a guest can)",
        run: csum_range,
    },
    Check {
        id: "net.header-not-agreed",
        title: "checksums and segments that were not agreed are not done, nor asked of anybody",
        spec: "VIRTIO 1.3, 5.1.6.2.1 (a driver must not; a guest can)",
        run: not_agreed,
    },
    Check {
        id: "net.header-gso-unknown",
        title: "kinds of segments that there are not harm nobody, and go no further",
        spec: "VIRTIO 1.3, 5.1.6.2.1 (a driver must not; a guest can)",
        run: gso_unknown,
    },
    Check {
        id: "net.header-gso-size",
        title: "segments of any size, 0 too, harm nobody",
        spec: "VIRTIO 1.3, 5.1.6.2.1 (a driver must not; a guest can)",
        run: gso_size,
    },
    Check {
        id: "net.header-gso-disagrees",
        title: "a kind of segments that is not the frame's harms nobody, and goes no further",
        spec: "VIRTIO 1.3, 5.1.6.2.1 and 5.1.6.4.1 (a driver must not; a guest can)",
        run: gso_disagrees,
    },
    Check {
        id: "net.header-hdr-len",
        title: "a length of the headers that is a lie harms nobody, and is told to nobody",
        spec: "VIRTIO 1.3, 5.1.6.2.2 (a hint only)",
        run: hdr_len,
    },
];

/// With an interface for each ring format, as set up, and whether it loops.
fn each(
    cx: &mut Cx,
    setup: fn(outboard_virtqueue::Format) -> Setup,
    mut body: impl FnMut(&mut Nic, bool) -> Checked,
) -> Checked {
    let loops = is_net(cx).and_then(|()| loops(cx))?;
    cx.each_format(|cx, format| body(&mut Nic::open(cx, &setup(format))?, loops))
}

/// Sends these, and looks at what comes of each.
fn survives(nic: &mut Nic, loops: bool, headers: &[Header], frame: &[u8]) -> Checked {
    for header in headers {
        nic.forwarded(loops, header, frame).map_err(|stop| stop.when(format_args!("{header:?}")))?;
    }
    Ok(())
}

fn flags(cx: &mut Cx) -> Checked {
    each(cx, with_offloads, |nic, loops| {
        for flags in [0x80, 0xfe & !HDR_F_NEEDS_CSUM, 0x40, 8] {
            let frame = nic.tagged(60);
            let came = nic.forwarded(loops, &Header { flags, ..Header::default() }, &frame)?;
            ensure!(
                !loops || came.iter().any(|came| came.frame == frame),
                "a frame with flags {flags:#x} is not sent"
            );
        }
        Ok(())
    })
}

fn csum_range(cx: &mut Cx) -> Checked {
    each(cx, with_offloads, |nic, loops| {
        let frame = Inside::Udp4.frame(&[0x5a; 100]);
        let len = frame.len() as u16;
        let places = [
            (len - 1, 0),
            (len, 0),
            (34, len - 35),
            (34, u16::MAX),
            (u16::MAX, 0),
            (u16::MAX, u16::MAX),
            (u16::MAX - 1, 2),
            (0, 0),
            (0, u16::MAX),
        ];
        let headers = places.map(|(start, offset)| Header {
            flags: HDR_F_NEEDS_CSUM,
            csum_start: start.into(),
            csum_offset: offset.into(),
            ..Header::default()
        });
        survives(nic, loops, &headers, &frame)
    })
}

fn not_agreed(cx: &mut Cx) -> Checked {
    each(cx, setup, |nic, loops| {
        for inside in Inside::ALL {
            let frame = inside.frame(&[0x5a; 3000]);
            for header in [inside.checksum(), inside.segments(1000)] {
                let came = nic.forwarded(loops, &header, &frame)?;
                // What is passed on nevertheless is passed on as it is.
                let done = came.iter().any(|came| came.frame != frame);
                ensure!(!done, "{inside:?}: what was not agreed was done");
            }
        }
        Ok(())
    })
}

fn gso_unknown(cx: &mut Cx) -> Checked {
    each(cx, with_offloads, |nic, loops| {
        let frame = Inside::Tcp4.frame(&[0x5a; 3000]);
        let kinds = [2, 6, 7, 0x10, 0x7f, HDR_GSO_ECN, HDR_GSO_ECN | HDR_GSO_UDP_L4, 0xff];
        let headers = kinds.map(|gso_type| Header { gso_type, ..Inside::Tcp4.segments(1000) });
        survives(nic, loops, &headers, &frame)?;
        // Nor any without the checksum that belongs to it.
        let without = Header { flags: 0, ..Inside::Tcp4.segments(1000) };
        survives(nic, loops, &[without], &frame)
    })
}

fn gso_size(cx: &mut Cx) -> Checked {
    each(cx, with_offloads, |nic, loops| {
        for inside in Inside::ALL {
            let frame = inside.frame(&[0x5a; 3000]);
            survives(nic, loops, &[0, 1, 7, 2999, 3000, u16::MAX].map(|size| inside.segments(size)), &frame)?;
            // Nothing to cut.
            survives(nic, loops, &[inside.segments(0), inside.segments(1)], &inside.frame(&[]))?;
        }
        let long = Inside::Tcp4.frame(&[0x5a; 65_000]);
        survives(nic, loops, &[Inside::Tcp4.segments(1), Inside::Tcp4.segments(0)], &long)
    })
}

fn gso_disagrees(cx: &mut Cx) -> Checked {
    each(cx, with_offloads, |nic, loops| {
        let kinds = [HDR_GSO_TCPV4, HDR_GSO_TCPV6, HDR_GSO_UDP, HDR_GSO_UDP_L4, HDR_GSO_TCPV4 | HDR_GSO_ECN];
        let unknown = nic.tagged(3000);
        for inside in Inside::ALL {
            let headers = kinds.map(|gso_type| Header { gso_type, ..inside.segments(1000) });
            for other in Inside::ALL {
                survives(nic, loops, &headers, &other.frame(&[0x5a; 3000]))?;
            }
            survives(nic, loops, &headers, &unknown)?;
            // Cut off within the headers.
            let mut short = inside.frame(&[]);
            for len in [14, 15, 33, 35, inside.payload() - 1] {
                short.truncate(inside.payload());
                survives(nic, loops, &headers, short.get(..len).unwrap_or(&short))?;
            }
        }
        // Headers of the wrong length, in the frame itself.
        let mut odd = Inside::Tcp4.frame(&[0x5a; 3000]);
        for (at, value) in [(14, 0x40), (14, 0x4f), (46, 0), (46, 0x40), (46, 0xf0)] {
            if let Some(byte) = odd.get_mut(at) {
                let before = std::mem::replace(byte, value);
                survives(nic, loops, &[Inside::Tcp4.segments(1000)], &odd)?;
                odd.get_mut(at).into_iter().for_each(|byte| *byte = before);
            }
        }
        Ok(())
    })
}

fn hdr_len(cx: &mut Cx) -> Checked {
    each(cx, with_offloads, |nic, loops| {
        let inside = Inside::Tcp4;
        let frame = inside.frame(&[0x5a; 3000]);
        let headers =
            [0, 1, 13, 3000, u16::MAX].map(|len| Header { hdr_len: len.into(), ..inside.segments(1000) });
        survives(nic, loops, &headers, &frame)
    })
}
