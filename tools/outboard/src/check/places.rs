//! Where rings and buffers lie, for checks that choose it: buffers at given addresses, and one file of memory that is
//! told to the back end in pieces.

use std::os::fd::{AsFd, OwnedFd};

use outboard_frontend::Memory;
use outboard_guest_memory::Segment;
use outboard_vhost_user::FrontendRequest as Code;
use outboard_vhost_user::payload::{MemRegion, SingleMemRegion, VringAddr};
use zerocopy::IntoBytes;

use super::ring::{Placed, Ring, signal};
use super::sample::Sample;
use super::session::{Session, borrowed, table_body};
use super::verdict::{Checked, Stop, ensure};
use super::wire::Answer;

/// Memory of one file, told to the back end as regions that are neighbours for the guest only: each has a front-end
/// address of its own, and its place in the file.
#[derive(Debug)]
pub(crate) struct Pieces {
    pub(crate) regions: Vec<MemRegion>,
    fd: OwnedFd,
}

impl Pieces {
    /// Cuts the one region of `memory` at these distances from its start, ascending, in bytes.
    pub(crate) fn cut(memory: &Memory, borders: &[u64]) -> Checked<Self> {
        let (whole, fd) = memory.table()?.into_iter().next().ok_or_else(|| ours("no memory"))?;
        let starts = [0].into_iter().chain(borders.iter().copied());
        let ends = borders.iter().copied().chain([whole.size]);
        let piece = |(at, (start, end)): (u64, (u64, u64))| MemRegion {
            guest_addr: whole.guest_addr + start,
            size: end - start,
            // In another order than the guest has them.
            user_addr: 0x5f00_0000_0000 - (at << 36),
            mmap_offset: whole.mmap_offset + start,
        };
        Ok(Self { regions: (0..).zip(starts.zip(ends)).map(piece).collect(), fd })
    }

    /// The payload of SET_MEM_TABLE, and its descriptors: the same file again and again.
    pub(crate) fn table(&self) -> Checked<(Vec<u8>, Vec<OwnedFd>)> {
        let fds = self.regions.iter().map(|_| self.fd.try_clone()).collect::<Result<_, _>>()?;
        Ok((table_body(&self.regions), fds))
    }

    /// Where the parts of a ring lie, as SET_VRING_ADDR tells it.
    pub(crate) fn addr(&self, ring: &Ring) -> Checked<VringAddr> {
        let (at, layout) = (ring.queue.at(), ring.queue.layout());
        Ok(VringAddr {
            index: ring.index.into(),
            flags: 0,
            descriptor: self.user_addr(at + layout.desc)?,
            available: self.user_addr(at + layout.driver)?,
            used: self.user_addr(at + layout.device)?,
            log: at + layout.device,
        })
    }

    fn user_addr(&self, gpa: u64) -> Checked<u64> {
        let offset = |region: &MemRegion| gpa.checked_sub(region.guest_addr).filter(|at| *at < region.size);
        let found = self.regions.iter().find_map(|region| Some(region.user_addr + offset(region)?));
        found.ok_or_else(|| ours("an address in no piece"))
    }
}

impl Session {
    /// The rings that the sample's device needs, made but not told.
    pub(crate) fn add_rings(&mut self) -> Checked {
        for index in 0..=self.sample()?.queue {
            self.add_ring(index)?;
        }
        Ok(())
    }

    /// Starts all rings.
    pub(crate) fn start_all(&mut self) -> Checked {
        (0..self.rings.len()).try_for_each(|at| self.start(at))
    }

    /// Stops all rings, which end where they are with all requests returned.
    pub(crate) fn stop_all(&mut self) -> Checked {
        (0..self.rings.len()).try_for_each(|at| self.stop(at).map(drop))
    }

    /// Shares memory in pieces.
    pub(crate) fn share_pieces(&mut self, pieces: &Pieces) -> Checked {
        let (body, fds) = pieces.table()?;
        self.wire.set(Code::SET_MEM_TABLE, &body, &borrowed(&fds))
    }

    /// ADD_MEM_REG of one piece.
    pub(crate) fn add_piece(&mut self, pieces: &Pieces, region: MemRegion) -> Checked {
        self.add_region(region, &pieces.fd)
    }

    /// ADD_MEM_REG of one piece, which may be accepted or not.
    pub(crate) fn try_piece(&mut self, pieces: &Pieces, region: MemRegion) -> Checked<Answer> {
        let body = SingleMemRegion { padding: 0, region };
        self.wire.tried(Code::ADD_MEM_REG, body.as_bytes(), &[pieces.fd.as_fd()])
    }

    /// REM_MEM_REG.
    pub(crate) fn remove_region(&mut self, region: MemRegion) -> Checked {
        let body = SingleMemRegion { padding: 0, region };
        self.wire.set(Code::REM_MEM_REG, body.as_bytes(), &[])
    }

    /// Starts all rings, which lie in pieces.
    pub(crate) fn start_in(&mut self, pieces: &Pieces) -> Checked {
        for at in 0..self.rings.len() {
            self.num(at)?;
            self.base(at)?;
            let addr = pieces.addr(self.ring(at)?)?;
            self.wire.set(Code::SET_VRING_ADDR, addr.as_bytes(), &[])?;
            self.err(at)?;
            self.call(at)?;
            self.kick(at)?;
            self.enable(at, true)?;
            signal(&self.ring(at)?.kick)?;
        }
        Ok(())
    }

    /// Makes the sample request with its buffers at guest addresses: `place` gives the address of the buffer with
    /// this number and length. The memory there has to be set aside before.
    pub(crate) fn request_at(&mut self, mut place: impl FnMut(u64, u64) -> u64) -> Checked<Vec<u8>> {
        let sample = self.sample()?;
        let readable = sample.readable.iter().map(|bytes| bytes.len() as u64);
        let lengths: Vec<u64> = readable.chain(sample.writable.iter().map(|&len| len.into())).collect();
        let map = self.memory.map();
        let mut segments = Vec::new();
        for (number, len) in (0..).zip(lengths) {
            segments.push(Spot { gpa: place(number, len), len });
        }
        let border = sample.readable.len();
        let (readable, writable) = segments.split_at_checked(border).ok_or_else(|| ours("buffers"))?;
        let find = |spots: &[Spot]| {
            spots.iter().map(|spot| map.segment(spot.gpa, spot.len)).collect::<Result<Vec<Segment>, _>>()
        };
        let placed = Placed { readable: find(readable)?, writable: find(writable)? };
        self.request_placed(&sample, placed)
    }

    fn request_placed(&mut self, sample: &Sample, placed: Placed) -> Checked<Vec<u8>> {
        let patience = self.patience();
        let Self { memory, rings, .. } = self;
        let ring = rings.last_mut().ok_or_else(|| ours("no ring"))?;
        let placed = ring.place_in(sample, placed, 1)?;
        ring.publish()?;
        let (token, len) = ring.returned(patience)?;
        ensure!(token == 1, "a request that was not made was returned ({token})");
        ring.verify(memory, sample, placed, len)
    }
}

struct Spot {
    gpa: u64,
    len: u64,
}

fn ours(what: &str) -> Stop {
    Stop::Skip(format!("our own side: {what}"))
}
