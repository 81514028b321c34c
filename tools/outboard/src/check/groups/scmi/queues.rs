//! How messages lie in buffers.

use super::{BASE, Platform, ROOM, each, untouched};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::sample::Sample;
use crate::check::session::Session;
use crate::check::verdict::{Checked, Stop, ensure};

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "scmi.token-kept",
        title: "an answer has the header of its command, token included",
        spec: "DEN0056, 4.1.2; VIRTIO 1.3, 5.17.6.1",
        run: tokens,
    },
    Check {
        id: "scmi.error-is-status-alone",
        title: "behind a status that is not success there is nothing",
        spec: "VIRTIO 1.3, 5.17.6.1.1",
        run: errors,
    },
    Check {
        id: "scmi.response-length",
        title: "the length is that of the answer, and nothing is written behind it",
        spec: "VIRTIO 1.3, 2.7.8.2 and 5.17.6.1",
        run: lengths,
    },
    Check {
        id: "scmi.short",
        title: "what is shorter than a header, or than its parameters, is returned, and does no harm",
        spec: "VIRTIO 1.3, 5.17.6.1 (a driver must not; a guest can)",
        run: short,
    },
    Check {
        id: "scmi.room-small",
        title: "an answer that does not fit is not written beyond its room",
        spec: "VIRTIO 1.3, 2.7.5.1",
        run: small,
    },
    Check {
        id: "scmi.split-anywhere",
        title: "command and answer may lie in buffers of any length",
        spec: "VIRTIO 1.3, 2.7.4.1",
        run: split,
    },
    Check {
        id: "scmi.many-at-once",
        title: "commands that are out together are all answered",
        spec: "VIRTIO 1.3, 5.17.6.1.1",
        run: many,
    },
];

fn tokens(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        for token in [0, 1, 0x155, 0x3ff] {
            platform.token = token;
            let command = platform.command(BASE, 0, &[]);
            let answer = platform.raw(vec![command.clone()], vec![ROOM])?;
            let header = answer.word(0)?.to_le_bytes();
            ensure!(command == header, "header {header:x?} in the answer to {command:x?}");
        }
        Ok(())
    })
}

fn errors(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        for (protocol, message, params) in [(0x7f, 0, &[][..]), (BASE, 0xee, &[]), (BASE, 2, &[0xee])] {
            let answer = platform.ask(protocol, message, params)?;
            ensure!(answer.len == 8, "{} bytes with status {}", answer.len, answer.status()?);
        }
        Ok(())
    })
}

fn lengths(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        for (message, len) in [(0, 12), (1, 12), (3, 24), (5, 12)] {
            let answer = platform.ask(BASE, message, &[])?;
            ensure!(
                answer.len == len,
                "message {message} of the base protocol: {} bytes, not {len}",
                answer.len
            );
            untouched(&answer)?;
        }
        Ok(())
    })
}

fn short(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        for len in 1..4 {
            platform.raw(vec![vec![0; len]], vec![ROOM])?;
        }
        // The message needs a parameter.
        let command = platform.command(BASE, 2, &[]);
        for len in 4..8 {
            let mut cut = command.clone();
            cut.resize(len, 0);
            let answer = platform.raw(vec![cut], vec![ROOM])?;
            ensure!(answer.len < 8 || answer.status()? != 0, "a command of {len} bytes succeeded");
        }
        platform.raw(vec![vec![0xff; 4096]], vec![ROOM])?;
        platform.works()
    })
}

fn small(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        for room in [1, 4, 7, 8, 11, 12, 23] {
            let command = platform.command(BASE, 3, &[]);
            untouched(&platform.raw(vec![command], vec![room])?)?;
        }
        let command = platform.command(BASE, 3, &[]);
        platform.raw(vec![command], Vec::new())?;
        platform.works()
    })
}

fn split(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let command = platform.command(BASE, 2, &[0]);
        for at in 1..command.len() {
            let (front, back) = command.split_at(at);
            let room = u32::try_from(at)?;
            let answer = platform.raw(vec![front.to_vec(), back.to_vec()], vec![room, ROOM - room])?;
            let status = answer.status()?;
            ensure!(answer.len == 12 && status == 0, "cut at {at}: {} bytes, status {status}", answer.len);
        }
        Ok(())
    })
}

fn many(cx: &mut Cx) -> Checked {
    each(cx, |platform| {
        let commands: Vec<_> = (0..16).map(|_| platform.command(BASE, 0, &[])).collect();
        let Platform { session, .. } = platform;
        let patience = session.patience;
        let Session { memory, rings, .. } = session;
        let ring = rings.first_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let mut out = Vec::new();
        for (token, command) in commands.into_iter().enumerate() {
            let sample =
                Sample { queue: 0, readable: vec![command], writable: vec![ROOM], verify: |_, _| Ok(()) };
            let placed = ring.place(memory, &sample, token as u64)?;
            out.push(Some((sample, placed)));
        }
        ring.publish()?;
        for _ in 0..out.len() {
            let (token, len) = ring.returned(patience)?;
            let placed = out.get_mut(usize::try_from(token)?).and_then(Option::take);
            let (sample, placed) = placed.ok_or_else(|| Stop::fail("a command was returned twice"))?;
            let written = ring.verify(memory, &sample, placed, len)?;
            let command = sample.readable.first().map(Vec::as_slice).unwrap_or_default();
            ensure!(len == 12 && written.starts_with(command), "command {token} has another one's answer");
        }
        Ok(())
    })
}
