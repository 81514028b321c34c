//! Rings where none can be, with garbage in them, and memory that goes away or changes under them.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use outboard_frontend::{Layout, Memory, RegionSpec};
use outboard_vhost_user::FrontendRequest as Code;
use outboard_vhost_user::payload::VringAddr;
use outboard_virtqueue::Format;
use zerocopy::IntoBytes;

use super::{NOWHERE, recovers, settle};
use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::ring::signal;
use crate::check::session::{Session, Setup, borrowed, table_body};
use crate::check::verdict::{Checked, Stop};
use crate::check::wire::Answer;

/// The checks of this part.
pub(in crate::check::groups) const CHECKS: &[Check] = &[
    Check {
        id: "hostile.ring-unmapped",
        title: "a ring outside of guest memory, or with its end there, does no harm",
        spec: "vhost-user: SET_VRING_ADDR, Memory access",
        run: unmapped,
    },
    Check {
        id: "hostile.ring-misaligned",
        title: "a ring at odd addresses does no harm",
        spec: "VIRTIO 1.3, 2.7 and 2.8.10.1 (alignment)",
        run: misaligned,
    },
    Check {
        id: "hostile.ring-overlapping",
        title: "a ring whose parts lie on one another does no harm",
        spec: "VIRTIO 1.3, 2.7",
        run: overlapping,
    },
    Check {
        id: "hostile.ring-garbage",
        title: "a ring that is full of garbage does no harm",
        spec: "in use: guests that crash",
        run: garbage,
    },
    Check {
        id: "hostile.ring-changing",
        title: "a ring whose descriptors change while they are looked at does no harm",
        spec: "VIRTIO 1.3, 2.7 (a driver must not; a guest can)",
        run: changing,
    },
    Check {
        id: "hostile.memory-removed",
        title: "guest memory that is removed under a running ring does no harm",
        spec: "vhost-user: SET_MEM_TABLE",
        run: memory_removed,
    },
    Check {
        id: "hostile.kick-before-setup",
        title: "a ring that is kicked and enabled before it has a size or an address does no harm",
        spec: "vhost-user: Ring states; in use: alioth, QEMU",
        run: kick_before_setup,
    },
];

/// Sets the sample's ring up at changed addresses, and kicks it.
fn placed_at(cx: &mut Cx, change: impl Fn(&mut VringAddr)) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::prepared(cx, &Setup::new(format))?;
        let at = session.last();
        session.num(at)?;
        session.base(at)?;
        session.err(at)?;
        session.call(at)?;
        let Session { wire, memory, rings, .. } = &mut session;
        let ring = rings.last().ok_or_else(|| Stop::lacks("a ring"))?;
        let mut addr = ring.addr(memory, 0)?;
        change(&mut addr);
        if wire.try_set(Code::SET_VRING_ADDR, addr.as_bytes(), &[])? == Answer::Ack {
            let index = u64::from(ring.index);
            let state = [u32::from(ring.index), 1];
            let start =
                [(Code::SET_VRING_KICK, index.as_bytes()), (Code::SET_VRING_ENABLE, state.as_bytes())];
            for (code, body) in start {
                let fds = [ring.kick.as_fd()];
                let fds: &[_] = if code == Code::SET_VRING_KICK { &fds } else { &[] };
                if wire.try_set(code, body, fds)? != Answer::Ack {
                    break;
                }
            }
            signal(&ring.kick)?;
            settle(&mut session)?;
        }
        recovers(cx, session)
    })
}

/// Picks a part of a ring.
type Part = fn(&mut VringAddr) -> &mut u64;

/// One part of a ring after the other.
const PARTS: [(&str, Part); 3] = [
    ("descriptors", |addr| &mut addr.descriptor),
    ("available ring", |addr| &mut addr.available),
    ("used ring", |addr| &mut addr.used),
];

fn unmapped(cx: &mut Cx) -> Checked {
    let layout = Setup::new(Format::Split).layout;
    let end = layout.regions.iter().map(|region| region.user_addr + region.size).max().unwrap_or(0);
    for (name, part) in PARTS {
        // The last one begins in memory: with 16 bytes where there must be more, with 2 where 4 are enough.
        for place in [0, NOWHERE, u64::MAX - 15, end - if name == "descriptors" { 16 } else { 2 }] {
            placed_at(cx, |addr| *part(addr) = place)
                .map_err(|stop| stop.when(format_args!("{name} at {place:#x}")))?;
        }
    }
    Ok(())
}

fn misaligned(cx: &mut Cx) -> Checked {
    for (name, part) in PARTS {
        for shift in [1, 3] {
            placed_at(cx, |addr| *part(addr) += shift)
                .map_err(|stop| stop.when(format_args!("{name} {shift} bytes further")))?;
        }
    }
    Ok(())
}

fn overlapping(cx: &mut Cx) -> Checked {
    placed_at(cx, |addr| addr.used = addr.descriptor)?;
    placed_at(cx, |addr| addr.used = addr.available)?;
    placed_at(cx, |addr| (addr.available, addr.used) = (addr.descriptor, addr.descriptor))
}

/// Numbers without rhyme, the same each time.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn bytes(&mut self, count: usize) -> Vec<u8> {
        std::iter::repeat_with(|| self.roll().to_le_bytes()).flatten().take(count).collect()
    }
}

fn garbage(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        for seed in 0..8 {
            let mut dice = Dice::new(seed);
            let mut session = Session::prepared(cx, &Setup::new(format))?;
            let page = session.memory.allocate(4096, 4096)?;
            page.fill(0);
            let ring = session.sample_ring()?;
            let mut bytes = dice.bytes(ring.memory.len());
            if seed % 2 == 1 {
                // Half of the addresses are good ones, and the lengths moderate.
                let table = usize::try_from(ring.queue.layout().driver)?;
                for entry in bytes.iter_mut().take(table).collect::<Vec<_>>().chunks_exact_mut(32) {
                    let good = page.gpa().to_le_bytes().into_iter().chain([0, 2, 0, 0]);
                    entry.iter_mut().zip(good).for_each(|(byte, value)| **byte = value);
                }
            }
            ring.memory.write_from(0, &bytes)?;
            // A device may look at it, and end the connection, before all of the start is said.
            if let Err(stop) = session.start(session.last())
                && session.wire.is_open()?
            {
                return Err(stop);
            }
            settle(&mut session)?;
            recovers(cx, session).map_err(|stop| stop.when(format_args!("garbage {seed}")))?;
        }
        Ok(())
    })
}

/// While requests are made, another thread writes to the descriptors. Only to their lengths, flags and links, and to
/// addresses of good memory or none: what may be taken for a request must be harmless.
fn changing(cx: &mut Cx) -> Checked {
    const LONG: Duration = Duration::from_millis(400);
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        let page = session.memory.allocate(4096, 4096)?;
        page.fill(0);
        let Session { memory, rings, .. } = &mut session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let table = ring.memory.slice(0, usize::try_from(ring.queue.layout().driver)?);
        let table = table.ok_or_else(|| Stop::lacks("a table"))?;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| -> Checked {
            scope.spawn(|| {
                let mut dice = Dice::new(7);
                while !over.load(Ordering::Relaxed) {
                    let roll = dice.roll();
                    let at = usize::try_from(roll % 16).unwrap_or(0) * 16;
                    let word = (roll >> 8).to_le_bytes();
                    // Fails only outside of the table.
                    let _ = match roll >> 60 {
                        0..4 => table.write_from(at, &page.gpa().to_le_bytes()),
                        4 => table.write_from(at, &NOWHERE.to_le_bytes()),
                        5..8 => table.write_from(at + 8, word.get(..4).unwrap_or_default()),
                        _ => table.write_from(at + 12, word.get(..4).unwrap_or_default()),
                    };
                }
            });
            let deadline = Instant::now() + LONG;
            let came = (|| {
                while Instant::now() < deadline {
                    if ring.has_room(&sample) {
                        ring.place(memory, &sample, 0)?;
                    }
                    ring.publish()?;
                    // What is returned may be anything.
                    if ring.queue.poll_used().is_err() {
                        break;
                    }
                }
                Ok(())
            })();
            over.store(true, Ordering::Relaxed);
            came
        })?;
        settle(&mut session)?;
        recovers(cx, session)
    })
}

fn memory_removed(cx: &mut Cx) -> Checked {
    let sample = cx.sample()?;
    cx.each_format(|cx, format| {
        let mut session = Session::ready(cx, &Setup::new(format))?;
        session.request()?;
        let other = Memory::new(&Layout { regions: vec![RegionSpec::new(0x9000_0000, 1 << 20)] })?;
        let (regions, fds): (Vec<_>, Vec<_>) = other.table()?.into_iter().unzip();
        let answer = session.wire.try_set(Code::SET_MEM_TABLE, &table_body(&regions), &borrowed(&fds))?;
        if answer == Answer::Ack {
            let Session { memory, rings, .. } = &mut session;
            let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
            for token in 0..3 {
                ring.place(memory, &sample, token)?;
                ring.publish()?;
            }
            settle(&mut session)?;
            if session.wire.is_open()? {
                session.share()?;
                // The memory of the rings before it was gone, too.
                for at in 0..session.last() {
                    let base = session.stop(at)?;
                    session.start_at(at, base)?;
                }
            }
        } else {
            cx.note(format!("{format:?}: a table without the running ring is refused"));
        }
        recovers(cx, session)
    })
}

fn kick_before_setup(cx: &mut Cx) -> Checked {
    cx.each_format(|cx, format| {
        let mut session = Session::prepared(cx, &Setup::new(format))?;
        let Session { wire, rings, .. } = &mut session;
        let ring = rings.last().ok_or_else(|| Stop::lacks("a ring"))?;
        let index = u64::from(ring.index);
        let state = [u32::from(ring.index), 1];
        signal(&ring.kick)?;
        if wire.try_set(Code::SET_VRING_KICK, index.as_bytes(), &[ring.kick.as_fd()])? == Answer::Ack {
            wire.try_set(Code::SET_VRING_ENABLE, state.as_bytes(), &[])?;
            signal(&ring.kick)?;
            settle(&mut session)?;
        }
        recovers(cx, session)
    })
}
