//! Records of requests in flight: what the back end keeps in a buffer that outlives it, so that another one can go on.
//! The buffer's layout is the specification's; of several rings only the first is looked at, since where the others
//! begin is not specified.

use std::os::fd::{AsFd, OwnedFd};

use outboard_guest_memory::{Segment, SharedRegion};
use outboard_vhost_user::payload::Inflight;
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::Format;
use zerocopy::{FromBytes, IntoBytes};

use crate::check::cx::Cx;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::Answer;

pub(super) mod resume;
pub(super) mod shape;
pub(super) mod state;
pub(super) mod wrong;

/// The only version of the layouts.
const VERSION: u16 = 1;
const VERSION_AT: usize = 8;
const SIZE_AT: usize = 10;

/// A buffer with records.
struct Records {
    fd: OwnedFd,
    told: Inflight,
    format: Format,
    /// From the first ring's records on.
    area: Segment,
}

/// Bytes of header and of each entry.
fn layout(format: Format) -> (usize, usize) {
    if format == Format::Split { (16, 16) } else { (32, 32) }
}

/// The least that records take.
fn least(format: Format, queues: u16, size: u16) -> u64 {
    let (header, entry) = layout(format);
    u64::from(queues) * (header + entry * usize::from(size)) as u64
}

impl Records {
    /// GET_INFLIGHT_FD for this ring format.
    fn ask(session: &mut Session, queues: u16, size: u16) -> Checked<Self> {
        let asked = Inflight { num_queues: queues, queue_size: size, ..Inflight::default() };
        let mut frame = session.wire.ask(Code::GET_INFLIGHT_FD, asked.as_bytes(), &[])?;
        let (len, fds) = (frame.body.len(), frame.fds.len());
        let told = Inflight::read_from_bytes(&frame.body);
        let told = told.map_err(|_| Stop::fail(format!("the answer has {len} bytes, not 24")))?;
        if told.mmap_size == 0 {
            return Err(Stop::NotApplicable("there is no buffer for such rings".to_owned()));
        }
        ensure!(fds == 1, "{fds} descriptors came with the answer");
        let fd = frame.fds.pop().ok_or_else(|| Stop::fail("no descriptor came with the answer"))?;
        let format = session.setup.format;
        let needed = least(format, queues, size);
        ensure!(
            told.mmap_size >= needed,
            "a buffer of {} bytes, where {queues} rings of {size} need {needed}",
            told.mmap_size
        );
        let shared = SharedRegion::map(fd.try_clone()?, told.mmap_size, told.mmap_offset);
        let shared = shared.map_err(|error| Stop::fail(format!("the buffer cannot be mapped: {error}")))?;
        Ok(Self { fd, told, format, area: shared.segment() })
    }

    /// SET_INFLIGHT_FD.
    fn give(&self, session: &mut Session) -> Checked {
        session.wire.set(Code::SET_INFLIGHT_FD, self.told.as_bytes(), &[self.fd.as_fd()])
    }

    /// SET_INFLIGHT_FD, for a buffer that may be refused.
    fn try_give(&self, session: &mut Session) -> Checked<bool> {
        let body = self.told.as_bytes();
        Ok(session.wire.try_set(Code::SET_INFLIGHT_FD, body, &[self.fd.as_fd()])? == Answer::Ack)
    }

    fn read16(&self, at: usize) -> Checked<u16> {
        let mut bytes = [0; 2];
        self.area.read_into(at, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn write16(&self, at: usize, value: u16) -> Checked {
        Ok(self.area.write_from(at, &value.to_le_bytes())?)
    }

    fn entry(&self, index: u16) -> usize {
        let (header, entry) = layout(self.format);
        header + entry * usize::from(index)
    }

    /// How many of the first `size` entries say that something is in flight.
    fn in_flight(&self, size: u16) -> Checked<usize> {
        let mut count = 0;
        for index in 0..size {
            let mut flag = [0];
            self.area.read_into(self.entry(index), &mut flag)?;
            count += usize::from(flag != [0]);
        }
        Ok(count)
    }

    /// The used index as recorded; packed: with its wrap counter on top.
    fn used_index(&self) -> Checked<u16> {
        match self.format {
            Format::Split => self.read16(14),
            Format::Packed => {
                let mut wrap = [0];
                self.area.read_into(20, &mut wrap)?;
                Ok(self.read16(16)? | u16::from(wrap[0] != 0) << 15)
            }
        }
    }

    /// The header of records in use; nothing is in flight.
    fn begin(&self, size: u16) -> Checked {
        self.area.fill(0);
        self.write16(VERSION_AT, VERSION)?;
        self.write16(SIZE_AT, size)?;
        if self.format == Format::Packed {
            // Both used wrap counters; each entry leads to the next free one.
            self.area.write_from(20, &[1, 1])?;
            for index in 0..size {
                self.write16(self.entry(index) + 2, index + 1)?;
            }
        }
        Ok(())
    }
}

/// Such records are on offer, and of the ring that takes the sample requests.
fn needed(cx: &Cx) -> Checked {
    cx.needs(ProtocolFeatures::INFLIGHT_SHMFD)?;
    if cx.sample()?.queue == 0 {
        return Ok(());
    }
    Err(Stop::Skip("where the records of a second ring begin is not specified".to_owned()))
}

/// How many queues the device has, as far as it tells.
fn queues(cx: &Cx) -> Checked<u16> {
    Ok(u16::try_from(cx.offer.queues.unwrap_or(1).min(64))?.max(1))
}

/// A session with records for rings of 16 entries, and none set up.
fn with_records(cx: &mut Cx, format: Format) -> Checked<(Session, Records)> {
    let queues = queues(cx)?;
    let mut session = Session::prepared(cx, &Setup::new(format))?;
    let size = session.setup.size;
    let records = Records::ask(&mut session, queues, size)?;
    Ok((session, records))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn least_counts_header_and_entries_of_each_ring() {
        assert_eq!(least(Format::Split, 2, 16), 2 * (16 + 256));
        assert_eq!(least(Format::Packed, 1, 16), 32 + 512);
    }
}
