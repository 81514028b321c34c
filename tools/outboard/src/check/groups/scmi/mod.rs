//! The SCMI device (VIRTIO 1.3, 5.17), and as much of Arm's protocol (DEN0056) as all platforms have.

use outboard_virtio_defs::scmi::VIRTIO_SCMI_F_P2A_CHANNELS;
use outboard_virtqueue::Format;

use crate::check::cx::Cx;
use crate::check::ring::FILL;
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

pub(super) mod messages;
pub(super) mod queues;

const BASE: u8 = 0x10;
const SENSOR: u8 = 0x15;
/// Statuses (4.1.4).
const NOT_SUPPORTED: i32 = -1;
const INVALID_PARAMETERS: i32 = -2;
const NOT_FOUND: i32 = -4;
/// Room for an answer, as Linux has it.
const ROOM: u32 = 132;

/// A device whose commands are answered.
struct Platform {
    session: Session,
    token: u32,
}

/// What came back.
struct Answer {
    /// The length that the device gives.
    len: usize,
    /// All of the room, filled with [`FILL`] before.
    room: Vec<u8>,
}

impl Answer {
    fn word(&self, index: usize) -> Checked<u32> {
        let bytes = self.room.get(..self.len).and_then(|bytes| bytes.get(index * 4..)?.first_chunk());
        bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or_else(|| {
            Stop::fail(format!("the answer has {} bytes, and word {index} is missing", self.len))
        })
    }

    fn status(&self) -> Checked<i32> {
        Ok(self.word(1)?.cast_signed())
    }
}

impl Platform {
    fn open(cx: &mut Cx, format: Format, features: u64) -> Checked<Self> {
        if cx.kind != Kind::Scmi {
            return Err(Stop::NotApplicable(format!("a device of type {}", cx.kind.name())));
        }
        let setup = Setup { device_features: features, size: 64, ..Setup::new(format) };
        Ok(Self { session: Session::ready(cx, &setup)?, token: 0 })
    }

    /// A command with a token of its own.
    fn command(&mut self, protocol: u8, message: u8, params: &[u32]) -> Vec<u8> {
        self.token = (self.token + 1) & 0x3ff;
        let header = u32::from(message) | u32::from(protocol) << 10 | self.token << 18;
        std::iter::once(&header).chain(params).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Sends buffers as they are.
    fn raw(&mut self, readable: Vec<Vec<u8>>, writable: Vec<u32>) -> Checked<Answer> {
        let sample = Sample { queue: 0, readable, writable, verify: |_, _| Ok(()) };
        let patience = self.session.patience;
        let Session { memory, rings, .. } = &mut self.session;
        let ring = rings.first_mut().ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = ring.place(memory, &sample, 0)?;
        ring.publish()?;
        let (_, len) = ring.returned(patience)?;
        let room = ring.verify(memory, &sample, placed, len)?;
        let len = usize::try_from(len)?;
        ensure!(len <= room.len(), "length {len} for room of {} bytes", room.len());
        Ok(Answer { len, room })
    }

    /// Sends a command; what comes back has its header and a status, and nothing is written behind.
    fn ask(&mut self, protocol: u8, message: u8, params: &[u32]) -> Checked<Answer> {
        let command = self.command(protocol, message, params);
        let answer = self.raw(vec![command], vec![ROOM])?;
        answer.status()?;
        Ok(answer)
    }

    /// The words behind the status, which has to be success.
    fn words(&mut self, protocol: u8, message: u8, params: &[u32]) -> Checked<Vec<u32>> {
        let answer = self.ask(protocol, message, params)?;
        let status = answer.status()?;
        ensure!(status == 0, "message {message:#x} of protocol {protocol:#x} has status {status}");
        let (words, _) = answer.room.get(8..answer.len).unwrap_or_default().as_chunks::<4>();
        Ok(words.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    fn status(&mut self, protocol: u8, message: u8, params: &[u32]) -> Checked<i32> {
        self.ask(protocol, message, params)?.status()
    }

    /// The protocols that it says it has.
    fn protocols(&mut self) -> Checked<Vec<u8>> {
        let mut list = Vec::new();
        loop {
            let words = self.words(BASE, 6, &[u32::try_from(list.len())?])?;
            let (count, numbers) = words.split_first().ok_or_else(|| Stop::fail("a list without a count"))?;
            let numbers: Vec<u8> = numbers.iter().flat_map(|word| word.to_le_bytes()).collect();
            let numbers = numbers.get(..usize::try_from(*count)?);
            list.extend(numbers.ok_or_else(|| Stop::fail("a list that is shorter than its count"))?);
            ensure!(list.len() <= 255, "a list of protocols without end");
            if *count == 0 {
                return Ok(list);
            }
        }
    }

    /// Skips what is about sensors where there are none.
    fn needs_sensors(&mut self) -> Checked<u32> {
        if !self.protocols()?.contains(&SENSOR) {
            return Err(Stop::NotApplicable("a platform without sensors".to_owned()));
        }
        let count = self.words(SENSOR, 1, &[])?.first().copied().unwrap_or_default() & 0xffff;
        if count == 0 { Err(Stop::NotApplicable("a platform without sensors".to_owned())) } else { Ok(count) }
    }

    /// Still answers.
    fn works(&mut self) -> Checked {
        self.words(BASE, 0, &[]).map(drop)
    }
}

/// On each format, without events.
fn each(cx: &mut Cx, mut body: impl FnMut(&mut Platform) -> Checked) -> Checked {
    cx.each_format(|cx, format| body(&mut Platform::open(cx, format, 0)?))
}

/// On each format, with events; the ring for them is there too.
fn each_with_events(cx: &mut Cx, mut body: impl FnMut(&mut Platform) -> Checked) -> Checked {
    if cx.kind == Kind::Scmi {
        cx.needs_feature(VIRTIO_SCMI_F_P2A_CHANNELS, "P2A_CHANNELS")?;
    }
    cx.each_format(|cx, format| {
        let mut platform = Platform::open(cx, format, VIRTIO_SCMI_F_P2A_CHANNELS)?;
        let events = platform.session.add_ring(1)?;
        platform.session.start(events)?;
        body(&mut platform)
    })
}

/// A field of text that ends within itself.
fn terminated(words: &[u32]) -> Checked {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    ensure!(bytes.contains(&0), "a name without an end: {:?}", String::from_utf8_lossy(&bytes));
    Ok(())
}

/// Nothing was written behind the length.
fn untouched(answer: &Answer) -> Checked {
    let rest = answer.room.get(answer.len..).unwrap_or_default();
    ensure!(rest.iter().all(|&byte| byte == FILL), "bytes were written behind the length, {}", answer.len);
    Ok(())
}
