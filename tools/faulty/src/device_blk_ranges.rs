//! Requests of the disk that carry ranges: discard, write-zeroes, secure erase (VIRTIO 1.3, 5.2.6). All of them
//! zero.

use outboard_virtio_defs::blk::{
    RANGE_UNMAP, RangeSegment, S_IOERR, S_OK, S_UNSUPP, SECTOR_SIZE, T_DISCARD, T_SECURE_ERASE,
    T_WRITE_ZEROES,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::chain::Chain;
use crate::device_blk::Blk;
use crate::faults::{Fault, die};

/// The most ranges in a discard, and in the others.
pub(crate) const MAX_DISCARD_RANGES: u64 = 16;
pub(crate) const MAX_ZEROES_RANGES: u64 = 4;
/// The longest range, in sectors.
pub(crate) const MAX_RANGE_SECTORS: u32 = 1 << 11;

/// What a fault takes ranges to be aligned to, in bytes.
const COARSE: u64 = 4096;
/// How much of a range a fault does, in bytes.
const CUT: u64 = 256 << 10;

/// What holds of a kind of request.
struct Rules {
    most: u64,
    flags: u32,
}

impl Blk {
    /// Carries such a request out; `data` bytes of ranges begin at `at`. All are looked at before the first is
    /// zeroed.
    pub(crate) fn ranges(&self, kind: u32, chain: &Chain, at: u64, data: u64) -> Result<u64, u8> {
        let faults = self.faults;
        let rules = match kind {
            T_DISCARD => Rules { most: MAX_DISCARD_RANGES, flags: 0 },
            T_WRITE_ZEROES => Rules { most: MAX_ZEROES_RANGES, flags: RANGE_UNMAP },
            _ => Rules { most: MAX_ZEROES_RANGES, flags: 0 },
        };
        let size = size_of::<RangeSegment>() as u64;
        let count = data / size;
        if count > rules.most && faults.has(Fault::BlkManyRangesCrash) {
            die();
        }
        if !data.is_multiple_of(size) && faults.has(Fault::BlkRangeLengthIgnored) {
            return Ok(0);
        }
        if !data.is_multiple_of(size) || !(1..=rules.most).contains(&count) {
            return Err(S_IOERR);
        }
        let mut spans = Vec::new();
        for nth in 0..count {
            let mut range = RangeSegment::new_zeroed();
            chain.read(at + nth * size, range.as_mut_bytes());
            let looks = !faults.has(Fault::BlkRangeFlagsIgnored)
                && (nth == 0 || !faults.has(Fault::BlkRangeFlagsOfFirst));
            if range.flags.get() & !rules.flags != 0 && looks {
                return Err(S_UNSUPP);
            }
            if range.num_sectors.get() > MAX_RANGE_SECTORS {
                return Err(S_IOERR);
            }
            spans.push(self.range(range.sector.get(), range.num_sectors.get().into())?);
        }
        if faults.has(Fault::BlkFirstRangeOnly) {
            spans.truncate(1);
        }
        let left = faults.has(Fault::BlkZeroesIgnored)
            || (kind == T_SECURE_ERASE && faults.has(Fault::BlkEraseIgnored));
        for (offset, len) in spans.into_iter().filter(|_| !left) {
            self.disk.slice(offset, len).ok_or(S_IOERR)?.fill(0);
        }
        Ok(0)
    }

    /// Where a range is in bytes, and how long.
    fn range(&self, sector: u64, sectors: u64) -> Result<(u64, u64), u8> {
        let faults = self.faults;
        if sectors == 0 && faults.has(Fault::BlkEmptyRangeWhole) {
            return Ok((0, self.disk.len()));
        }
        let more = u64::from(faults.has(Fault::BlkRangesTooLong));
        let len = (sectors + more) * SECTOR_SIZE;
        let Some(offset) = self.position(sector, len)? else { return Err(S_OK) };
        if faults.has(Fault::BlkRangesRounded) {
            let (start, end) = (offset - offset % COARSE, (offset + len).next_multiple_of(COARSE));
            return Ok((start, end.min(self.disk.len()) - start));
        }
        Ok((offset, if faults.has(Fault::BlkLongRangesCut) { len.min(CUT) } else { len }))
    }
}
