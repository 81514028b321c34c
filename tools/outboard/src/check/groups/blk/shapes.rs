//! Requests that no driver should make, or that look odd, and what their answers claim.

use outboard_virtio_defs::blk::{
    ID_BYTES, RequestHeader, S_IOERR, S_OK, S_UNSUPP, T_FLUSH, T_GET_ID, T_IN, T_OUT,
};
use zerocopy::IntoBytes;

use super::{Came, cut, each, header, pattern};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::FILL;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "blk.failed-length",
        title: "a request that fails does not count data that it did not write",
        spec: "VIRTIO 1.3, 2.7.8.2 (at least so many bytes were written)",
        run: failed_length,
    },
    Check {
        id: "blk.reserved-ignored",
        title: "what is in the reserved field of a request changes nothing",
        spec: "VIRTIO 1.3, 5.2.6.3 (once a priority); in use: Linux puts one there",
        run: reserved_ignored,
    },
    Check {
        id: "blk.header-with-data",
        title: "the header of a write may share buffers with its data",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: header_with_data,
    },
    Check {
        id: "blk.empty",
        title: "reads and writes of no data are answered, and change nothing",
        spec: "VIRTIO 1.3, 5.2.6 (no multiple of 512 is excluded)",
        run: empty,
    },
    Check {
        id: "blk.wrong-side",
        title: "a read with data to read, and a write with data to write, are answered",
        spec: "VIRTIO 1.3, 5.2.6 (a driver has no reason to; a guest can)",
        run: wrong_side,
    },
    Check {
        id: "blk.write-odd-length",
        title: "a write that is no multiple of 512 changes nothing behind its data",
        spec: "VIRTIO 1.3, 5.2.6.1 (a driver must not; a guest can)",
        run: write_odd_length,
    },
    Check {
        id: "blk.get-id-short",
        title: "a serial is as long as there is room for, and never longer than 20 bytes",
        spec: "VIRTIO 1.3, 5.2.6 and 2.7.8.2",
        run: get_id_short,
    },
];

/// The length counts the status alone, as everybody has it, or data that is there.
fn claims_what_it_wrote(came: &Came) -> Checked {
    let claimed = usize::try_from(came.len)?.min(came.data.len());
    let written = came.data.iter().take(claimed).any(|&byte| byte != FILL);
    let len = came.len;
    ensure!(len <= 1 || written, "status {}, length {len}, but nothing was written", came.status);
    Ok(())
}

fn failed_length(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        let (capacity, block) = (disk.capacity(), u32::try_from(disk.block())?);
        let failing = [
            ("a read behind the end", T_IN, capacity, vec![block]),
            ("a read across the end", T_IN, capacity - disk.block_sectors(), vec![block, block]),
            ("a read of half a sector", T_IN, 0, vec![256]),
            ("an unknown request", 0x4711, 0, vec![block]),
        ];
        for (what, kind, sector, writable) in failing {
            let came = disk.ask(kind, sector, &[], &writable)?;
            if came.status != S_OK {
                claims_what_it_wrote(&came).map_err(|stop| stop.when(what))?;
            }
        }
        Ok(())
    })
}

fn reserved_ignored(cx: &mut Cx) -> Checked {
    each(cx, |_, disk| {
        let block = disk.block();
        let at = disk.block_sectors();
        let expected = disk.read(at, block)?;
        for reserved in [1, 0x7fff_ffff, u32::MAX] {
            let header = RequestHeader { kind: T_IN.into(), reserved: reserved.into(), sector: at.into() };
            let came = disk.ask_in(vec![header.as_bytes().to_vec()], vec![u32::try_from(block)?, 1])?;
            ensure!(came.status == S_OK, "with {reserved:#x} a read has status {}", came.status);
            ensure!(came.data == expected, "with {reserved:#x} a read gives other data");
        }
        Ok(())
    })
}

fn header_with_data(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        let bytes = 2 * disk.block();
        disk.with_blocks(0, 2, |disk| {
            for (seed, cuts) in (1..).zip([&[][..], &[7], &[7, 100], &[16, 100], &[15, 17]]) {
                let data = pattern(seed, bytes);
                let request = [header(T_OUT, 0), data.clone()].concat();
                let came = disk.ask_in(cut(request, cuts), vec![1])?;
                ensure!(came.status == S_OK, "cut at {cuts:?}: status {}", came.status);
                ensure!(disk.read(0, bytes)? == data, "cut at {cuts:?}: other data was written");
            }
            Ok(())
        })
    })
}

fn empty(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        let before = disk.read(0, disk.block())?;
        let sectors = [0, 1, disk.capacity() - 1, disk.capacity()];
        // Were it taken for all of the disk, a write of nothing would cost what is there.
        let kinds: &[u32] = if disk.may_write(cx).is_ok() { &[T_IN, T_OUT] } else { &[T_IN] };
        for (&kind, sector) in kinds.iter().flat_map(|kind| sectors.map(|sector| (kind, sector))) {
            let came = disk.ask(kind, sector, &[], &[])?;
            let known = [S_OK, S_IOERR, S_UNSUPP].contains(&came.status);
            ensure!(known, "request {kind} of nothing at sector {sector} has status {}", came.status);
        }
        ensure!(disk.read(0, disk.block())? == before, "the first block has changed");
        Ok(())
    })
}

fn wrong_side(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        let block = disk.block();
        let room = u32::try_from(block)?;
        let before = disk.read(0, block)?;
        let came = disk.ask_in(vec![header(T_IN, 0), vec![0x77; block]], vec![room, 1])?;
        let right = came.status != S_OK || came.data == before;
        ensure!(right, "a read with data to read gives other data");
        if disk.may_write(cx).is_ok() {
            // Its own contents.
            disk.ask_in(vec![header(T_OUT, 0), before.clone()], vec![room, 1])?;
            disk.ask_in(vec![header(T_OUT, 0)], vec![room, 1])?;
        }
        disk.ask_in(vec![header(T_FLUSH, 0), vec![0x77; block]], vec![room, 1])?;
        ensure!(disk.read(0, block)? == before, "the first block has changed");
        Ok(())
    })
}

fn write_odd_length(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        disk.may_write(cx)?;
        let bytes = 2 * disk.block();
        disk.with_blocks(0, 2, |disk| {
            for length in [1, 100, 511, 513, 1023] {
                let before = pattern(1, bytes);
                disk.write(0, &before)?;
                let data = pattern(2, length);
                let came = disk.ask(T_OUT, 0, &data, &[])?;
                if came.status == S_OK {
                    cx.note(format!("a write of {length} bytes succeeds"));
                }
                let now = disk.read(0, bytes)?;
                let wrong = now.iter().zip(&before).skip(length).position(|(is, was)| is != was);
                if let Some(byte) = wrong {
                    let what = format!("a write of {length} bytes changes byte {}", length + byte);
                    return Err(Stop::Fail(what));
                }
            }
            Ok(())
        })
    })
}

fn get_id_short(cx: &mut Cx) -> Checked {
    each(cx, |cx, disk| {
        let whole = disk.ask(T_GET_ID, 0, &[], &[u32::try_from(ID_BYTES)?])?;
        if whole.status == S_UNSUPP {
            cx.note("there is no serial");
            return Ok(());
        }
        for room in [1, 7, 19] {
            let came = disk.ask(T_GET_ID, 0, &[], &[room])?;
            let right = came.status != S_OK || whole.data.starts_with(&came.data);
            ensure!(right, "with room for {room} bytes: {:?}", came.data);
        }
        for room in [21, 64] {
            let came = disk.ask(T_GET_ID, 0, &[], &[room])?;
            if came.status != S_OK {
                continue;
            }
            let (serial, rest) = came.data.split_at(ID_BYTES);
            ensure!(serial == whole.data, "with room for {room} bytes: {serial:?}");
            let left = rest.iter().all(|&byte| byte == FILL || byte == 0);
            ensure!(left, "with room for {room} bytes something is behind the serial: {rest:?}");
        }
        Ok(())
    })
}
