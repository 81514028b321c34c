//! The entropy device (VIRTIO 1.3, 5.4).

use std::collections::HashSet;

use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::ring::FILL;
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this group.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "rng.length",
        title: "a request of any length gets at least 1 byte, and no more than it asked for",
        spec: "VIRTIO 1.3, 5.4.6.2",
        run: length,
    },
    Check {
        id: "rng.fresh",
        title: "no two requests get the same bytes, nor does any get one byte only, over and over",
        spec: "VIRTIO 1.3, 5.4.6",
        run: fresh,
    },
    Check {
        id: "rng.all-written",
        title: "all bytes of the length returned are random, to the last",
        spec: "VIRTIO 1.3, 2.7.8.2 and 5.4.6",
        run: all_written,
    },
    Check {
        id: "rng.several-buffers",
        title: "the buffers of a request are filled one after another",
        spec: "VIRTIO 1.3, 2.7.4.1 and 5.4.6",
        run: several_buffers,
    },
    Check {
        id: "rng.many-at-once",
        title: "requests that are out together get different bytes",
        spec: "VIRTIO 1.3, 5.4.6",
        run: many_at_once,
    },
    Check {
        id: "rng.readable",
        title: "a buffer that the device may only read stays as it is, and does no harm",
        spec: "VIRTIO 1.3, 2.7.5.1 and 5.4.6.1",
        run: readable,
    },
];

fn is_rng(cx: &Cx) -> Checked {
    if cx.kind == Kind::Rng {
        return Ok(());
    }
    Err(Stop::NotApplicable(format!("a device of type {}", cx.kind.name())))
}

/// Asks for so many bytes in each of these buffers.
fn ask(lengths: &[u32]) -> Sample {
    Sample {
        queue: 0,
        readable: Vec::new(),
        writable: lengths.to_vec(),
        verify: |len, written| match usize::try_from(len) {
            Ok(0) => Err("length 0".to_owned()),
            Ok(len) if len <= written.len() => Ok(()),
            _ => Err(format!("length {len} for {} bytes asked for", written.len())),
        },
    }
}

/// Makes a request; gives what was written, as far as the length says.
fn entropy(session: &mut Session, sample: &Sample) -> Checked<Vec<u8>> {
    let patience = session.patience;
    let Session { memory, rings, .. } = session;
    let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
    let placed = ring.place(memory, sample, 0)?;
    ring.publish()?;
    let (_, len) = ring.returned(patience)?;
    let mut written = ring.verify(memory, sample, placed, len)?;
    written.truncate(usize::try_from(len)?);
    Ok(written)
}

fn length(cx: &mut Cx) -> Checked {
    is_rng(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        for len in [1, 2, 3, 7, 64, 511, 4096, 65_537, 1 << 20] {
            let came = entropy(&mut session, &ask(&[len]));
            let came = came.map_err(|stop| stop.when(format_args!("{len} bytes asked for")))?;
            if came.len() < usize::try_from(len)? {
                cx.note(format!("{} of {len} bytes came", came.len()));
            }
        }
        Ok(())
    })
}

/// Until there are so many bytes: the device may give fewer than were asked for.
fn at_least(session: &mut Session, count: usize) -> Checked<Vec<u8>> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        bytes.extend(entropy(session, &ask(&[64]))?);
    }
    bytes.truncate(count);
    Ok(bytes)
}

fn fresh(cx: &mut Cx) -> Checked {
    is_rng(cx)?;
    cx.each_format(|cx, format| {
        let mut seen = HashSet::new();
        // On two connections, too.
        for _ in 0..2 {
            let mut session = Session::ready(cx, &Setup::new(format))?;
            for _ in 0..20 {
                let bytes = at_least(&mut session, 32)?;
                let first = bytes.first().copied();
                ensure!(bytes.iter().any(|&byte| Some(byte) != first), "32 bytes of {first:?}");
                ensure!(seen.insert(bytes), "the same 32 bytes came twice");
            }
        }
        Ok(())
    })
}

/// Whether the buffer's last bytes still are what they were filled with: by chance, once in 2^64.
fn all_written(cx: &mut Cx) -> Checked {
    is_rng(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        for len in [64, 4096, 100_000] {
            let bytes = entropy(&mut session, &ask(&[len]))?;
            let unwritten = bytes.iter().rev().take_while(|&&byte| byte == FILL).count();
            ensure!(unwritten < 8, "{} bytes count as written, the last {unwritten} never were", bytes.len());
        }
        Ok(())
    })
}

fn several_buffers(cx: &mut Cx) -> Checked {
    is_rng(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        for lengths in [[1, 64, 3, 100], [16, 16, 16, 16], [4096, 1, 4096, 1]] {
            let bytes = entropy(&mut session, &ask(&lengths))?;
            let unwritten = bytes.iter().rev().take_while(|&&byte| byte == FILL).count();
            ensure!(
                unwritten < 8,
                "of buffers of {lengths:?}, {} bytes count as written, the last {unwritten} never were",
                bytes.len()
            );
        }
        Ok(())
    })
}

fn many_at_once(cx: &mut Cx) -> Checked {
    is_rng(cx)?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let patience = session.patience;
        let sample = ask(&[32]);
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let mut out = Vec::new();
        for token in 0..16 {
            out.push(Some(ring.place(memory, &sample, token)?));
        }
        ring.publish()?;
        let mut seen = HashSet::new();
        for _ in 0..16 {
            let (token, len) = ring.returned(patience)?;
            let placed = out.get_mut(usize::try_from(token)?).and_then(Option::take);
            let placed = placed.ok_or_else(|| Stop::fail("a request was returned twice"))?;
            let bytes = ring.verify(memory, &sample, placed, len)?;
            ensure!(len < 8 || seen.insert(bytes), "two requests got the same bytes");
        }
        Ok(())
    })
}

/// A driver must not put readable buffers into its requests. Ignored or refused, they must stay as they are.
fn readable(cx: &mut Cx) -> Checked {
    is_rng(cx)?;
    let sample = Sample { readable: vec![vec![0x5a; 48]], verify: |_, _| Ok(()), ..ask(&[64]) };
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = ring.place(memory, &sample, 0)?;
        ring.publish()?;
        match ring.returned_within(LULL * 2)? {
            // Holds the readable buffer against what it was.
            Some((_, len)) => drop(ring.verify(memory, &sample, placed, len)?),
            None => cx.note(format!("{format:?}: a request with a readable buffer is not served")),
        }
        session.wire.barrier()?;
        drop(session);
        Session::ready(cx, &Setup::new(format))?.request().map(drop)
    })
}
