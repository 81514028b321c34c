//! What is sent, in all forms that a driver may choose, and in some that it must not.

use outboard_virtio_defs::net::{HEADER_LEN, Header};
use outboard_virtqueue::Format;
use zerocopy::IntoBytes;

use super::{LARGE, LONGEST, Nic, is_net, loops, setup};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::Setup;
use crate::check::verdict::{Checked, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.tx-length",
        title: "what is sent is returned with length 0: nothing was written to it",
        spec: "VIRTIO 1.3, 2.7.8.2 and 5.1.6.2",
        run: length,
    },
    Check {
        id: "net.tx-header-split",
        title: "a packet's header may be in a buffer of its own, or in several",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: header_split,
    },
    Check {
        id: "net.tx-header-merged",
        title: "a packet's header may be in one buffer with the packet",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: header_merged,
    },
    Check {
        id: "net.tx-many-buffers",
        title: "a packet may lie in as many buffers as the ring has entries",
        spec: "VIRTIO 1.3, 2.7.4.1 and 5.1.6.2",
        run: many_buffers,
    },
    Check {
        id: "net.tx-longest",
        title: "frames of all lengths up to 1514 bytes are taken",
        spec: "VIRTIO 1.3, 5.1.6.2 (Ethernet)",
        run: longest,
    },
    Check {
        id: "net.tx-short",
        title: "what is shorter than a header, or has next to nothing behind it, is returned and harms nobody",
        spec: "VIRTIO 1.3, 5.1.6.2.1 (a driver must not; a guest can)",
        run: short,
    },
    Check {
        id: "net.tx-too-long",
        title: "a frame that is longer than any is returned, and never passed on in part",
        spec: "VIRTIO 1.3, 5.1.6.2.1 (a driver must not; a guest can)",
        run: too_long,
    },
    Check {
        id: "net.tx-writable",
        title: "buffers to write, which have no business there, stay as they are",
        spec: "VIRTIO 1.3, 2.7.5.1 and 5.1.6.2 (a driver must not; a guest can)",
        run: writable,
    },
    Check {
        id: "net.tx-all-returned",
        title: "all that is sent is returned once, good and bad together",
        spec: "VIRTIO 1.3, 2.7.13",
        run: all_returned,
    },
];

/// With an interface for each ring format, and whether it loops.
fn each(cx: &mut Cx, mut body: impl FnMut(&mut Nic, bool) -> Checked) -> Checked {
    let loops = is_net(cx).and_then(|()| loops(cx))?;
    cx.each_format(|cx, format| {
        let setup = Setup { indirect: format == Format::Packed, ..setup(format) };
        body(&mut Nic::open(cx, &setup)?, loops)
    })
}

/// Sends a frame in these buffers, header and all, and looks that it comes back.
fn sent(nic: &mut Nic, loops: bool, frame: &[u8], buffers: Vec<Vec<u8>>) -> Checked {
    if loops {
        nic.post(1, LARGE)?;
    }
    nic.send_in(buffers, Vec::new())?;
    if loops {
        let came = nic.receive()?;
        ensure!(came.frame == frame, "a frame of {} bytes came back otherwise", frame.len());
    }
    Ok(())
}

/// The header that asks for nothing, and the frame behind it.
fn framed(frame: &[u8]) -> Vec<u8> {
    [Header::default().as_bytes(), frame].concat()
}

fn length(cx: &mut Cx) -> Checked {
    each(cx, |nic, _| {
        for len in [60, 61, 1000, 1514] {
            let buffers = vec![Header::default().as_bytes().to_vec(), nic.tagged(len)];
            let returned = nic.send_in(buffers, Vec::new())?;
            ensure!(returned == 0, "a frame of {len} bytes has length {returned}");
        }
        Ok(())
    })
}

fn header_split(cx: &mut Cx) -> Checked {
    each(cx, |nic, loops| {
        for cuts in [&[HEADER_LEN][..], &[4, 12], &[10, 12], &[1, 2, 3], &[10], &[11, 30]] {
            let frame = nic.tagged(100);
            let (mut rest, mut buffers) = (framed(&frame), Vec::new());
            for &cut in cuts.iter().rev() {
                buffers.push(rest.split_off(cut));
            }
            buffers.push(rest);
            buffers.reverse();
            sent(nic, loops, &frame, buffers).map_err(|stop| stop.when(format_args!("cut at {cuts:?}")))?;
        }
        Ok(())
    })
}

fn header_merged(cx: &mut Cx) -> Checked {
    each(cx, |nic, loops| {
        for len in [60, 1514] {
            let frame = nic.tagged(len);
            sent(nic, loops, &frame, vec![framed(&frame)])?;
        }
        Ok(())
    })
}

fn many_buffers(cx: &mut Cx) -> Checked {
    each(cx, |nic, loops| {
        for count in [17, 30, 60] {
            let frame = nic.tagged(1200);
            let whole = framed(&frame);
            let buffers: Vec<_> = whole.chunks(whole.len().div_ceil(count)).map(<[u8]>::to_vec).collect();
            let count = buffers.len();
            sent(nic, loops, &frame, buffers).map_err(|stop| stop.when(format_args!("{count} buffers")))?;
        }
        Ok(())
    })
}

fn longest(cx: &mut Cx) -> Checked {
    each(cx, |nic, loops| {
        for len in [60, 64, 1000, 1001, 1500, 1513, 1514] {
            let frame = nic.tagged(len);
            sent(nic, loops, &frame, vec![Header::default().as_bytes().to_vec(), frame.clone()])?;
        }
        Ok(())
    })
}

fn short(cx: &mut Cx) -> Checked {
    each(cx, |nic, loops| {
        if loops {
            nic.post(8, 2048)?;
        }
        let frame = nic.tagged(60);
        for len in [1, 10, 11, 12, 13, 25] {
            let bytes = framed(&frame).get(..len).unwrap_or_default().to_vec();
            nic.send_in(vec![bytes], Vec::new()).map_err(|stop| stop.when(format_args!("{len} bytes")))?;
        }
        // A frame of a few bytes is one that some networks pass on.
        until_last(nic, loops, |came| {
            ensure!(frame.starts_with(came), "{} bytes that were not sent came back", came.len());
            Ok(())
        })
    })
}

fn too_long(cx: &mut Cx) -> Checked {
    each(cx, |nic, loops| {
        if loops {
            nic.post(4, LARGE)?;
        }
        let mut sent = Vec::new();
        for len in [LONGEST + 1, 2 * LONGEST, 4 << 20] {
            let frame = nic.tagged(len);
            let pieces = frame.chunks(1 << 20).map(<[u8]>::to_vec);
            let buffers = std::iter::once(Header::default().as_bytes().to_vec()).chain(pieces).collect();
            nic.send_in(buffers, Vec::new()).map_err(|stop| stop.when(format_args!("{len} bytes")))?;
            sent.push(frame);
        }
        // What there is room for may be passed on, if it is the whole.
        until_last(nic, loops, |came| {
            ensure!(sent.iter().any(|frame| frame == came), "{} bytes came back, not the whole", came.len());
            Ok(())
        })
    })
}

/// Sends a good frame, which comes back if the device loops. Has `judge` look at what came before it.
fn until_last(nic: &mut Nic, loops: bool, judge: impl Fn(&[u8]) -> Checked) -> Checked {
    let last = nic.tagged(60);
    nic.send(&last)?;
    if !loops {
        return Ok(());
    }
    loop {
        let came = nic.receive()?;
        if came.frame == last {
            return Ok(());
        }
        judge(&came.frame)?;
    }
}

fn writable(cx: &mut Cx) -> Checked {
    each(cx, |nic, loops| {
        if loops {
            nic.post(8, 2048)?;
        }
        for writable in [vec![1], vec![4096], vec![64, 64, 64]] {
            let frame = nic.tagged(60);
            // Whether it is sent is the device's to decide.
            nic.send_in(vec![framed(&frame)], writable)?;
        }
        nic.send_in(Vec::new(), vec![100])?;
        let last = nic.tagged(60);
        nic.send(&last)?;
        while loops && nic.receive()?.frame != last {}
        Ok(())
    })
}

fn all_returned(cx: &mut Cx) -> Checked {
    each(cx, |nic, _| {
        for round in 0..50_u8 {
            let frame = nic.tagged(60 + usize::from(round));
            nic.send(&frame)?;
            nic.send_in(
                vec![framed(&frame).get(..round.into()).unwrap_or_default().to_vec(), vec![0]],
                Vec::new(),
            )?;
            // Flags, kind of segments, and places of all values.
            let header = [round, round.wrapping_mul(37), 0, round, 0, round, round, 0, 0xff, round, 0, 0];
            nic.send_in(vec![header.to_vec(), frame], Vec::new())?;
        }
        nic.works()
    })
}
