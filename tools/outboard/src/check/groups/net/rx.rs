//! What is received, from a device that sends back what it is sent.

use outboard_virtio_defs::net::{F_CSUM, F_HASH_REPORT, F_MRG_RXBUF, HASH_HEADER_LEN, HEADER_LEN};

use super::frame::Inside;
use super::{LARGE, Nic, SENT, needs_loop, setup};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::Setup;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "net.rx-length",
        title: "the length of what is received counts header and frame, and no more; both are whole",
        spec: "VIRTIO 1.3, 2.7.8.2 and 5.1.6.4",
        run: length,
    },
    Check {
        id: "net.rx-num-buffers",
        title: "the header says in how many buffers a packet lies; 1 where it cannot be more",
        spec: "VIRTIO 1.3, 5.1.6.4.1",
        run: num_buffers,
    },
    Check {
        id: "net.rx-merged",
        title: "of the buffers of a packet all but the last are filled to the end",
        spec: "VIRTIO 1.3, 5.1.6.4.1",
        run: merged,
    },
    Check {
        id: "net.rx-small-buffers",
        title: "a packet is received in as many small buffers as it takes",
        spec: "VIRTIO 1.3, 5.1.6.3.1 and 5.1.6.4.1",
        run: small_buffers,
    },
    Check {
        id: "net.rx-no-merge-without-feature",
        title: "without MRG_RXBUF a packet lies in one buffer, or is dropped",
        spec: "VIRTIO 1.3, 5.1.6.4.1",
        run: no_merge,
    },
    Check {
        id: "net.rx-no-buffers",
        title: "packets without buffers to receive them harm nobody, and later ones come",
        spec: "VIRTIO 1.3, 5.1.6.4",
        run: no_buffers,
    },
    Check {
        id: "net.rx-refilled",
        title: "a driver that kicks only where it is asked to gets its packets after each refill",
        spec: "VIRTIO 1.3, 2.7.10 and 2.8.13",
        run: refilled,
    },
    Check {
        id: "net.rx-checksum",
        title: "a driver that takes no packet without a checksum gets it completed",
        spec: "VIRTIO 1.3, 5.1.6.4.1",
        run: checksum,
    },
    Check {
        id: "net.rx-segments",
        title: "a driver that takes no segments gets frames of the wire, right in all lengths and checksums, or none",
        spec: "VIRTIO 1.3, 5.1.6.4.1",
        run: segments,
    },
    Check {
        id: "net.rx-written-no-further",
        title: "nothing is written behind what the length counts",
        spec: "VIRTIO 1.3, 2.7.8.2",
        run: written_no_further,
    },
    Check {
        id: "net.rx-hash",
        title: "with HASH_REPORT the header has 20 bytes, both ways",
        spec: "VIRTIO 1.3, 5.1.6",
        run: hash,
    },
];

/// With a looping interface for each ring format, set up by `change`.
fn each(
    cx: &mut Cx,
    change: impl Fn(Setup) -> Setup,
    mut body: impl FnMut(&mut Nic, &mut Cx) -> Checked,
) -> Checked {
    needs_loop(cx)?;
    cx.each_format(|cx, format| {
        let setup = change(setup(format));
        let mut nic = Nic::open(cx, &setup)?;
        body(&mut nic, cx)
    })
}

/// As the driver that knows least.
fn least(setup: Setup) -> Setup {
    Setup { device_features: 0, ..setup }
}

/// The same on a device that has this.
fn needs_merging(cx: &Cx) -> Checked {
    cx.needs_feature(F_MRG_RXBUF, "MRG_RXBUF")
}

fn length(cx: &mut Cx) -> Checked {
    for features in [0, F_MRG_RXBUF] {
        each(
            cx,
            |setup| Setup { device_features: features, ..setup },
            |nic, _| {
                for len in [60, 61, 100, 999, 1514] {
                    nic.post(1, 2048)?;
                    let frame = nic.tagged(len);
                    nic.send(&frame)?;
                    let came = nic.receive()?;
                    ensure!(
                        came.frame.len() == len,
                        "a frame of {len} bytes came back with {}",
                        came.frame.len()
                    );
                    ensure!(came.frame == frame, "a frame of {len} bytes came back otherwise");
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn num_buffers(cx: &mut Cx) -> Checked {
    each(cx, least, |nic, _| {
        nic.post(1, 2048)?;
        let frame = nic.tagged(60);
        nic.send(&frame)?;
        let told = nic.receive()?.header.num_buffers.get();
        ensure!(told == 1, "num_buffers is {told} without MRG_RXBUF");
        Ok(())
    })?;
    if needs_merging(cx).is_err() {
        return Ok(());
    }
    each(
        cx,
        |setup| setup,
        |nic, _| {
            for len in [60, 1514] {
                nic.post(4, 600)?;
                let frame = nic.tagged(len);
                nic.send(&frame)?;
                // That they come is looked at with each packet.
                let came = nic.receive()?;
                ensure!(came.frame == frame, "a frame of {len} bytes came back otherwise");
            }
            Ok(())
        },
    )
}

fn merged(cx: &mut Cx) -> Checked {
    needs_loop(cx)?;
    needs_merging(cx)?;
    each(
        cx,
        |setup| setup,
        |nic, _| {
            for size in [512, 1024, 1500] {
                for len in [60, size - HEADER_LEN, size - HEADER_LEN + 1, 1514] {
                    // The buffers of the packet before may be left.
                    nic.post(4, size)?;
                    let frame = nic.tagged(len);
                    nic.send(&frame)?;
                    let came = nic.receive()?;
                    ensure!(came.frame == frame, "a frame of {len} bytes came back otherwise");
                    let filled = came.lens.iter().rev().skip(1).all(|(len, room)| len == room);
                    ensure!(filled, "a frame of {len} bytes in buffers (length, size) {:?}", came.lens);
                }
            }
            Ok(())
        },
    )
}

fn small_buffers(cx: &mut Cx) -> Checked {
    needs_loop(cx)?;
    needs_merging(cx)?;
    each(
        cx,
        |setup| setup,
        |nic, _| {
            for size in [200, 100, 64] {
                let frame = nic.tagged(1514);
                nic.post((frame.len() + HEADER_LEN).div_ceil(size), size)?;
                nic.send(&frame)?;
                let came =
                    nic.receive().map_err(|stop| stop.when(format_args!("buffers of {size} bytes")))?;
                ensure!(came.frame == frame, "buffers of {size} bytes: a frame came back otherwise");
            }
            Ok(())
        },
    )
}

fn no_merge(cx: &mut Cx) -> Checked {
    each(cx, least, |nic, _| {
        nic.post(4, 600)?;
        let (long, short) = (nic.tagged(1514), nic.tagged(60));
        nic.send(&long)?;
        nic.send(&short)?;
        let came = nic.receive()?;
        ensure!(came.frame == short, "of a frame that does not fit {} bytes came", came.frame.len());
        Ok(())
    })
}

fn no_buffers(cx: &mut Cx) -> Checked {
    each(
        cx,
        |setup| setup,
        |nic, _| {
            // More than any device keeps for a driver that has no buffers.
            for len in (60..1500).cycle().take(300) {
                let frame = nic.tagged(len);
                nic.send(&frame)?;
            }
            nic.post(32, 2048)?;
            let last = nic.tagged(60);
            nic.send(&last)?;
            while nic.receive()?.frame != last {
                nic.post(1, 2048)?;
            }
            Ok(())
        },
    )
}

fn refilled(cx: &mut Cx) -> Checked {
    for event_idx in [false, true] {
        each(
            cx,
            |setup| Setup { event_idx, ..setup },
            |nic, _| {
                for _ in 0..20 {
                    nic.post_as_asked(2, 2048)?;
                    for _ in 0..2 {
                        let frame = nic.tagged(60);
                        nic.send(&frame)?;
                        let came = nic.receive()?;
                        ensure!(came.frame == frame, "a frame came back otherwise");
                    }
                }
                Ok(())
            },
        )?;
    }
    Ok(())
}

fn checksum(cx: &mut Cx) -> Checked {
    needs_loop(cx)?;
    cx.needs_feature(F_CSUM, "CSUM")?;
    each(
        cx,
        |setup| Setup { device_features: F_MRG_RXBUF | SENT, ..setup },
        |nic, cx| {
            for inside in Inside::ALL {
                let payload = [0x5a; 777];
                let frame = inside.frame(&payload);
                nic.post(2, 2048)?;
                let came = nic.forwarded(true, &inside.checksum(), &frame)?;
                let Some(one) = came.first() else {
                    cx.note(format!("{inside:?}: what asks for a checksum does not come back"));
                    continue;
                };
                let read = inside.read(&one.frame).map_err(|why| Stop::fail(format!("{inside:?}: {why}")))?;
                ensure!(read == payload, "{inside:?}: another payload");
            }
            Ok(())
        },
    )
}

fn segments(cx: &mut Cx) -> Checked {
    needs_loop(cx)?;
    let agreed: Vec<Inside> =
        Inside::ALL.into_iter().filter(|inside| cx.offer.features & inside.feature() != 0).collect();
    if agreed.is_empty() {
        return Err(Stop::lacks("HOST_TSO4, HOST_TSO6 or HOST_USO"));
    }
    each(
        cx,
        |setup| Setup { device_features: F_MRG_RXBUF | SENT, ..setup },
        |nic, cx| {
            for &inside in &agreed {
                let payload: Vec<u8> = (0..5000_u32).map(|at| (at * 7 + at / 251) as u8).collect();
                let header = inside.segments(1400);
                nic.post(8, LARGE)?;
                let came = nic.forwarded(true, &header, &inside.frame(&payload))?;
                let mut whole = Vec::new();
                for one in &came {
                    let read =
                        inside.read(&one.frame).map_err(|why| Stop::fail(format!("{inside:?}: {why}")))?;
                    ensure!(read.len() <= 1400, "{inside:?}: a segment of {} bytes", read.len());
                    whole.extend_from_slice(read);
                }
                ensure!(whole.is_empty() || whole == payload, "{inside:?}: the segments are not the whole");
                if whole.is_empty() {
                    cx.note(format!("{inside:?}: what asks for segments does not come back"));
                }
            }
            Ok(())
        },
    )
}

fn written_no_further(cx: &mut Cx) -> Checked {
    each(
        cx,
        |setup| setup,
        |nic, _| {
            for len in [60, 777, 1514] {
                nic.post(1, 4096)?;
                let frame = nic.tagged(len);
                nic.send(&frame)?;
                ensure!(!nic.receive()?.further, "a frame of {len} bytes: bytes behind it were written");
            }
            Ok(())
        },
    )
}

fn hash(cx: &mut Cx) -> Checked {
    needs_loop(cx)?;
    cx.needs_feature(F_HASH_REPORT, "HASH_REPORT")?;
    each(
        cx,
        |setup| Setup { device_features: F_MRG_RXBUF | F_HASH_REPORT, ..setup },
        |nic, _| {
            for len in [60, 1514] {
                nic.post(1, 2048)?;
                let frame = nic.tagged(len);
                nic.send(&frame)?;
                let came = nic.receive()?;
                let lens = came.lens.first().map_or(0, |(len, _)| *len);
                ensure!(
                    lens == HASH_HEADER_LEN + len && came.frame == frame,
                    "a frame of {len} bytes came back in {lens}, its header of {HASH_HEADER_LEN} bytes counted"
                );
            }
            Ok(())
        },
    )
}
