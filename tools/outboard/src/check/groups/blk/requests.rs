//! Requests and their answers: status and length, whatever is asked, in buffers of whatever shape.

use outboard_virtio_defs::blk::{F_FLUSH, ID_BYTES, S_IOERR, S_OK, S_UNSUPP, T_FLUSH, T_GET_ID, T_IN, T_OUT};

use super::{each, header, is_blk};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::verdict::{Checked, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.status-and-length",
        title: "a read returns its data and status, in that order and counted",
        spec: "VIRTIO 1.3, 5.2.6 and 2.7.8.2",
        run: status_and_length,
    },
    Check {
        id: "blk.status-place",
        title: "the status is the last writable byte, in a buffer of its own or not",
        spec: "VIRTIO 1.3, 5.2.6 and 2.7.4.1",
        run: status_place,
    },
    Check {
        id: "blk.header-split",
        title: "the header may come in several buffers, or share one with what follows",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: header_split,
    },
    Check {
        id: "blk.odd-segments",
        title: "data may come in segments of any length",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: odd_segments,
    },
    Check {
        id: "blk.unsupported",
        title: "an unknown request has status UNSUPP, with or without data",
        spec: "VIRTIO 1.3, 5.2.6",
        run: unsupported,
    },
    Check {
        id: "blk.beyond-capacity",
        title: "a read beyond the end, or across it, fails as an I/O error",
        spec: "VIRTIO 1.3, 5.2.6.1",
        run: beyond_capacity,
    },
    Check {
        id: "blk.write-beyond-capacity",
        title: "a write beyond the end, or across it, fails as an I/O error",
        spec: "VIRTIO 1.3, 5.2.6.1",
        run: write_beyond_capacity,
    },
    Check {
        id: "blk.sector-overflow",
        title: "sectors whose position in bytes needs more than 64 bits fail as an I/O error",
        spec: "VIRTIO 1.3, 5.2.6",
        run: sector_overflow,
    },
    Check {
        id: "blk.odd-length",
        title: "a length that is no multiple of 512 is answered",
        spec: "VIRTIO 1.3, 5.2.6.1 (a driver must not; a guest can)",
        run: odd_length,
    },
    Check {
        id: "blk.get-id",
        title: "the serial is 20 bytes, the same each time",
        spec: "VIRTIO 1.3, 5.2.6",
        run: get_id,
    },
    Check {
        id: "blk.flush",
        title: "a flush succeeds, and writes nothing but its status",
        spec: "VIRTIO 1.3, 5.2.6.2",
        run: flush,
    },
];

fn status_and_length(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        for blocks in [1, 2, 8] {
            let bytes = blocks * disk.block();
            let came = disk.ask(T_IN, 0, &[], &[u32::try_from(bytes)?])?;
            ensure!(came.status == S_OK, "a read of {bytes} bytes has status {}", came.status);
            let wanted = u32::try_from(bytes)? + 1;
            ensure!(came.len == wanted, "a read of {bytes} bytes has length {}, not {wanted}", came.len);
        }
        Ok(())
    })
}

fn status_place(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        let block = u32::try_from(disk.block())?;
        let expected = disk.read(0, disk.block())?;
        for writable in [vec![block, 1], vec![block + 1], vec![block - 1, 2], vec![1, block - 1, 1]] {
            let came = disk.ask_in(vec![header(T_IN, 0)], writable.clone())?;
            ensure!(came.status == S_OK, "buffers of {writable:?}: status {}", came.status);
            ensure!(came.data == expected, "buffers of {writable:?}: other data");
        }
        Ok(())
    })
}

fn header_split(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        let block = u32::try_from(disk.block())?;
        let at = disk.block_sectors() * 3;
        let expected = disk.read(at, disk.block())?;
        for cut in [1, 4, 8, 15] {
            let whole = header(T_IN, at);
            let (head, tail) = whole.split_at(cut);
            let came = disk.ask_in(vec![head.to_vec(), tail.to_vec()], vec![block, 1])?;
            ensure!(came.status == S_OK, "a header cut at {cut}: status {}", came.status);
            ensure!(came.data == expected, "a header cut at {cut}: other data");
        }
        let bytes = header(T_IN, at).into_iter().map(|byte| vec![byte]).collect();
        let came = disk.ask_in(bytes, vec![block, 1])?;
        ensure!(
            came.status == S_OK && came.data == expected,
            "a header byte by byte: status {}",
            came.status
        );
        Ok(())
    })
}

fn odd_segments(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        let bytes = disk.block() * 4;
        let expected = disk.read(0, bytes)?;
        for first in [1, 3, 511, 513, 1000] {
            let mut writable = vec![];
            let mut left = u32::try_from(bytes)?;
            let mut piece = first;
            while left > 0 && writable.len() < 20 {
                writable.push(piece.min(left));
                left -= piece.min(left);
                piece = piece * 5 % 997 + 1;
            }
            writable.extend([left].into_iter().filter(|&left| left > 0));
            writable.push(1);
            let came = disk.ask_in(vec![header(T_IN, 0)], writable.clone())?;
            ensure!(came.status == S_OK, "segments of {writable:?}: status {}", came.status);
            ensure!(came.data == expected, "segments of {writable:?}: other data");
        }
        Ok(())
    })
}

fn unsupported(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        // Without the topmost bit: once it stood for a barrier, and is passed over by some.
        for kind in [0x4711, 99, 0x0bad_cafe] {
            for writable in [vec![], vec![512]] {
                let came = disk.ask(kind, 0, &[], &writable)?;
                ensure!(
                    came.status == S_UNSUPP,
                    "request {kind:#x} with {writable:?} bytes to write has status {}, not {S_UNSUPP}",
                    came.status
                );
            }
            let came = disk.ask(kind, 0, &[0; 512], &[])?;
            ensure!(came.status == S_UNSUPP, "request {kind:#x} with data has status {}", came.status);
        }
        disk.session.request().map(drop)
    })
}

fn beyond_capacity(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        let (capacity, block) = (disk.capacity(), disk.block());
        let last = capacity.saturating_sub(disk.block_sectors());
        for (sector, bytes) in
            [(capacity, block), (last, 2 * block), (capacity + 1000, block), (capacity * 2, block)]
        {
            let came = disk.ask(T_IN, sector, &[], &[u32::try_from(bytes)?])?;
            ensure!(
                came.status == S_IOERR,
                "a read of {bytes} bytes at sector {sector} of {capacity} has status {}",
                came.status
            );
        }
        disk.session.request().map(drop)
    })
}

fn write_beyond_capacity(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        let (capacity, block) = (disk.capacity(), disk.block());
        let last = capacity.saturating_sub(disk.block_sectors());
        for (sector, bytes) in [(capacity, block), (last, 2 * block), (u64::MAX / 512 + 1, block)] {
            let came = disk.ask(T_OUT, sector, &vec![0x77; bytes], &[])?;
            ensure!(
                came.status == S_IOERR,
                "a write of {bytes} bytes at sector {sector} of {capacity} has status {}",
                came.status
            );
        }
        disk.session.request().map(drop)
    })
}

fn sector_overflow(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        let block = u32::try_from(disk.block())?;
        // The position in bytes of the second is 0 in 64 bits.
        for sector in [u64::MAX, 1 << 55, u64::MAX / 512, (1 << 63) - 1, (1 << 55) - disk.block_sectors()] {
            let came = disk.ask(T_IN, sector, &[], &[block])?;
            ensure!(came.status == S_IOERR, "a read at sector {sector:#x} has status {}", came.status);
        }
        disk.session.request().map(drop)
    })
}

fn odd_length(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        for bytes in [1, 100, 511, 513, 1023] {
            let came = disk.ask(T_IN, 0, &[], &[bytes])?;
            if came.status == S_OK {
                cx.note(format!("a read of {bytes} bytes succeeds"));
            }
        }
        disk.session.request().map(drop)
    })
}

fn get_id(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        let room = u32::try_from(ID_BYTES)?;
        let first = disk.ask(T_GET_ID, 0, &[], &[room])?;
        if first.status == S_UNSUPP {
            cx.note("there is no serial");
            return Ok(());
        }
        ensure!(first.status == S_OK, "status {}", first.status);
        ensure!(first.len == room + 1, "length {}, not {}", first.len, room + 1);
        let text = first.data.split(|&byte| byte == 0).next().unwrap_or_default();
        let is_text = text.iter().all(|byte| (0x20..0x7f).contains(byte));
        ensure!(is_text, "the serial is {:?}", first.data);
        let again = disk.ask(T_GET_ID, 0, &[], &[7, room - 7])?;
        let same = again.status == S_OK && again.data.starts_with(text);
        ensure!(same, "the serial was {:?}, and then is {:?}", first.data, again.data);
        Ok(())
    })
}

fn flush(cx: &mut Cx) -> Checked {
    is_blk(cx)?;
    cx.needs_feature(F_FLUSH, "FLUSH")?;
    each(cx, |_, disk| {
        for _ in 0..3 {
            let came = disk.ask(T_FLUSH, 0, &[], &[])?;
            ensure!(came.status == S_OK, "status {}", came.status);
            ensure!(came.len == 1, "length {}, not 1", came.len);
        }
        Ok(())
    })
}
