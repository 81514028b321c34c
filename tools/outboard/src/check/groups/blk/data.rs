//! What was written is there. Only where the back end is ours, and with the old contents put back.

use outboard_virtio_defs::blk::{S_OK, T_IN, T_OUT};

use super::{each, header, pattern};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::{Placed, Ring};
use crate::check::sample::Sample;
use crate::check::session::Session;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.write-read",
        title: "what is written is read back, and its neighbours are as before",
        spec: "VIRTIO 1.3, 5.2.6",
        run: write_read,
    },
    Check {
        id: "blk.write-odd-segments",
        title: "what is written in segments of any length is read back",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: write_odd_segments,
    },
    Check {
        id: "blk.write-length",
        title: "a write returns its status and no more, and leaves its data as it is",
        spec: "VIRTIO 1.3, 5.2.6 and 2.7.8.2",
        run: write_length,
    },
    Check {
        id: "blk.large-read",
        title: "a read of 1 MiB gives what reads of single blocks give",
        spec: "VIRTIO 1.3, 5.2.6",
        run: large_read,
    },
    Check {
        id: "blk.many-at-once",
        title: "reads that are out together each get their own sector",
        spec: "VIRTIO 1.3, 5.2.6",
        run: many_at_once,
    },
];

fn write_read(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        let (block, sectors) = (disk.block(), disk.block_sectors());
        let last = disk.capacity() / sectors * sectors - 8 * sectors;
        for at in [0, 8 * sectors, last] {
            disk.with_blocks(at, 8, |disk| {
                disk.write(at, &pattern(at + 1, 8 * block))?;
                let middle = pattern(at + 2, 3 * block);
                disk.write(at + 2 * sectors, &middle)?;
                let mut expected = pattern(at + 1, 8 * block);
                let part = expected.iter_mut().skip(2 * block);
                part.zip(&middle).for_each(|(byte, new)| *byte = *new);
                let wrong = (disk.read(at, 8 * block)?.iter().zip(&expected)).position(|(is, was)| is != was);
                match wrong {
                    None => Ok(()),
                    Some(byte) => {
                        Err(Stop::fail(format!("byte {byte} from sector {at} is not what was written")))
                    }
                }
            })?;
        }
        Ok(())
    })
}

fn write_odd_segments(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        let bytes = 4 * disk.block();
        disk.with_blocks(0, 4, |disk| {
            for first in [1, 3, 511, 700] {
                let data = pattern(first, bytes);
                let mut readable = vec![header(T_OUT, 0)];
                let (mut rest, mut piece) = (data.as_slice(), usize::try_from(first)?);
                while !rest.is_empty() {
                    let last = readable.len() > 20;
                    let (head, tail) = rest.split_at(if last { rest.len() } else { piece.min(rest.len()) });
                    readable.push(head.to_vec());
                    rest = tail;
                    piece = piece * 5 % 997 + 1;
                }
                let came = disk.ask_in(readable, vec![1])?;
                ensure!(came.status == S_OK, "a first segment of {first} bytes: status {}", came.status);
                ensure!(disk.read(0, bytes)? == data, "a first segment of {first} bytes: other data");
            }
            Ok(())
        })
    })
}

fn write_length(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        let before = disk.read(0, disk.block())?;
        // Its own contents: nothing changes. That the data is left alone is looked at with each request.
        let came = disk.ask(T_OUT, 0, &before, &[])?;
        ensure!(came.status == S_OK, "status {}", came.status);
        ensure!(came.len == 1, "length {}, not 1", came.len);
        Ok(())
    })
}

fn large_read(cx: &mut Cx) -> Checked {
    const LARGE: usize = 1 << 20;
    each(cx, |_, disk| {
        let (block, sectors) = (disk.block(), disk.block_sectors());
        let whole = usize::try_from(disk.capacity() / sectors)?.saturating_mul(block).min(LARGE);
        let all = disk.read(0, whole)?;
        for nth in [0, 1, whole / block / 2, whole / block - 1] {
            let one = disk.read(nth as u64 * sectors, block)?;
            let same = all.get(nth * block..(nth + 1) * block) == Some(&one);
            ensure!(same, "block {nth} is another one when it is read alone");
        }
        Ok(())
    })
}

fn many_at_once(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        let (block, sectors) = (disk.block(), disk.block_sectors());
        let blocks = (disk.capacity() / sectors).min(16);
        let mut expected = Vec::new();
        for nth in 0..blocks {
            expected.push(disk.read(nth * sectors, block)?);
        }
        let patience = disk.session.patience;
        let sample = |nth: u64| -> Checked<Sample> {
            Ok(Sample {
                queue: 0,
                readable: vec![header(T_IN, nth * sectors)],
                writable: vec![u32::try_from(block)?, 1],
                verify: |_, written| match written.last() {
                    Some(&S_OK) => Ok(()),
                    status => Err(format!("status {status:?}")),
                },
            })
        };
        let Session { memory, rings, .. } = &mut disk.session;
        let ring: &mut Ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        for _ in 0..5 {
            let mut out: Vec<Option<Placed>> = Vec::new();
            for nth in 0..blocks {
                out.push(Some(ring.place(memory, &sample(nth)?, nth)?));
            }
            ring.publish()?;
            for _ in 0..blocks {
                let (token, len) = ring.returned(patience)?;
                let at = usize::try_from(token)?;
                let placed = out.get_mut(at).and_then(Option::take);
                let placed = placed.ok_or_else(|| Stop::fail("a request was returned twice"))?;
                let mut data = ring.verify(memory, &sample(token)?, placed, len)?;
                data.pop();
                ensure!(expected.get(at) == Some(&data), "block {token} is another one among others");
            }
        }
        Ok(())
    })
}
