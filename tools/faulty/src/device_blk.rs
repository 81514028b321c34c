//! The disk (VIRTIO 1.3, 5.2), in memory or in a file that is mapped. The driver's numbers are not trusted.

use std::fs::File;
use std::path::Path;

use outboard_guest_memory::{Segment, SharedRegion, memfd};
use outboard_virtio_defs::blk::{
    Config, F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_WRITE_ZEROES, ID_BYTES,
    RANGE_UNMAP, RangeSegment, RequestHeader, S_IOERR, S_OK, S_UNSUPP, SECTOR_SIZE, T_DISCARD, T_FLUSH,
    T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES, WRITEBACK_OFFSET,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::chain::Chain;
use crate::device::Device;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

/// The most ranges in a discard, and in a write-zeroes request.
const MAX_DISCARD_RANGES: u64 = 16;
const MAX_ZEROES_RANGES: u64 = 1;
/// The longest range, in sectors.
const MAX_RANGE_SECTORS: u32 = 1 << 17;
/// By how much SIGHUP makes a disk in memory grow.
const GROWTH: u64 = 1 << 20;

pub(crate) struct Blk {
    faults: Faults,
    queues: u16,
    read_only: bool,
    /// The disk's file, of memory or not.
    file: File,
    is_memory: bool,
    disk: Segment,
    serial: [u8; ID_BYTES],
    writeback: bool,
}

impl Blk {
    /// A disk in memory, of `size` bytes, or in the file at `path`.
    pub(crate) fn open(
        path: Option<&Path>,
        size: u64,
        queues: u16,
        read_only: bool,
        serial: &str,
        faults: Faults,
    ) -> Result<Self, Bad> {
        let file = match path {
            None => memfd("disk", size).map(File::from).map_err(|error| error.to_string())?,
            Some(path) => File::options()
                .read(true)
                .write(true)
                .open(path)
                .map_err(|error| format!("cannot open {}: {error}", path.display()))?,
        };
        let mut id = [0; ID_BYTES];
        id.iter_mut().zip(serial.bytes()).for_each(|(place, byte)| *place = byte);
        let disk = map(&file)?;
        Ok(Self {
            faults,
            queues,
            // The fault is of a disk that is.
            read_only: read_only || faults.has(Fault::BlkReadOnlyOk),
            file,
            is_memory: path.is_none(),
            disk,
            serial: id,
            writeback: true,
        })
    }

    fn sectors(&self) -> u64 {
        self.disk.len() as u64 / SECTOR_SIZE
    }

    /// The part of the disk, if it is whole sectors within it.
    fn span(&self, sector: u64, bytes: u64) -> Result<Segment, u8> {
        if !bytes.is_multiple_of(SECTOR_SIZE) && self.faults.has(Fault::BlkOddLengthCrashes) {
            die();
        }
        let wraps = self.faults.has(Fault::BlkSectorWraps).then(|| sector.wrapping_mul(SECTOR_SIZE));
        let offset = wraps.or_else(|| sector.checked_mul(SECTOR_SIZE)).ok_or(S_IOERR)?;
        let within = offset.checked_add(bytes).is_some_and(|end| end <= self.sectors() * SECTOR_SIZE);
        if !bytes.is_multiple_of(SECTOR_SIZE) || !within {
            if self.faults.has(Fault::BlkOutOfRangeCrashes) {
                die();
            }
            return Err(if self.faults.has(Fault::BlkOutOfRangeOk) { S_OK } else { S_IOERR });
        }
        self.disk.slice(offset as usize, bytes as usize).ok_or(S_IOERR)
    }

    /// What the request's header asks for. Data begins behind the header; the status byte is not counted.
    fn execute(&mut self, chain: &mut Chain, room: u64) -> Result<u64, u8> {
        let mut header = RequestHeader::new_zeroed();
        if !chain.read(0, header.as_mut_bytes()) {
            if self.faults.has(Fault::ShortRequestCrashes) {
                die();
            }
            return Err(S_IOERR);
        }
        let header_len = size_of::<RequestHeader>() as u64;
        let data = chain.readable_len() - header_len;
        let (kind, sector) = (header.kind.get(), header.sector.get());
        match kind {
            T_IN => {
                let from = self.span(sector, room)?;
                let most = if self.faults.has(Fault::BlkReadsOf64K) { 64 << 10 } else { from.len() };
                let from = from.slice(0, from.len().min(most)).ok_or(S_IOERR)?;
                copy(&[from], &chain.writable(0, room));
                Ok(room)
            }
            T_OUT | T_DISCARD | T_WRITE_ZEROES if self.read_only => {
                Err(if self.faults.has(Fault::BlkReadOnlyOk) { S_OK } else { S_IOERR })
            }
            T_OUT => {
                let to = self.span(sector, data)?;
                if !self.faults.has(Fault::BlkWritesDropped) {
                    copy(&chain.readable(header_len, data), &[to]);
                }
                if !self.writeback {
                    self.sync()?;
                }
                Ok(0)
            }
            T_FLUSH if self.faults.has(Fault::BlkFlushFails) => Err(S_IOERR),
            T_FLUSH => self.sync().map(|()| 0),
            T_GET_ID => {
                let len = room.min(ID_BYTES as u64);
                let id = if self.faults.has(Fault::BlkIdWrong) { [0xff; ID_BYTES] } else { self.serial };
                chain.write(0, id.get(..len as usize).unwrap_or_default());
                Ok(len)
            }
            T_DISCARD => self.zero(chain, data, MAX_DISCARD_RANGES, 0),
            T_WRITE_ZEROES => self.zero(chain, data, MAX_ZEROES_RANGES, RANGE_UNMAP),
            _ if self.faults.has(Fault::BlkUnknownCrashes) => die(),
            _ if self.faults.has(Fault::BlkUnknownOk) => Err(S_OK),
            _ if self.faults.has(Fault::BlkUnknownFails) => Err(S_IOERR),
            _ => Err(S_UNSUPP),
        }
    }

    /// Both discards and write-zeroes zero. All ranges are looked at before the first is.
    fn zero(&self, chain: &Chain, data: u64, most: u64, flags: u32) -> Result<u64, u8> {
        let size = size_of::<RangeSegment>() as u64;
        let count = data / size;
        if count > most && self.faults.has(Fault::BlkManyRangesCrash) {
            die();
        }
        if !data.is_multiple_of(size) && self.faults.has(Fault::BlkRangeLengthIgnored) {
            return Ok(0);
        }
        if !data.is_multiple_of(size) || !(1..=most).contains(&count) {
            return Err(S_IOERR);
        }
        let mut spans = Vec::new();
        for nth in 0..count {
            let mut range = RangeSegment::new_zeroed();
            chain.read(size_of::<RequestHeader>() as u64 + nth * size, range.as_mut_bytes());
            if range.flags.get() & !flags != 0 && !self.faults.has(Fault::BlkRangeFlagsIgnored) {
                return Err(S_UNSUPP);
            }
            if range.num_sectors.get() > MAX_RANGE_SECTORS {
                return Err(S_IOERR);
            }
            let more = u64::from(self.faults.has(Fault::BlkRangesTooLong));
            let sectors = u64::from(range.num_sectors.get()) + more;
            spans.push(self.span(range.sector.get(), sectors * SECTOR_SIZE)?);
        }
        if !self.faults.has(Fault::BlkZeroesIgnored) {
            spans.iter().for_each(|span| span.fill(0));
        }
        Ok(0)
    }

    fn sync(&self) -> Result<(), u8> {
        if self.is_memory {
            return Ok(());
        }
        self.file.sync_data().map_err(|_| S_IOERR)
    }
}

impl Device for Blk {
    fn features(&self) -> u64 {
        let changes = if self.read_only { F_RO } else { F_DISCARD | F_WRITE_ZEROES };
        F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_CONFIG_WCE | F_MQ | changes
    }

    fn queues(&self) -> u16 {
        self.queues
    }

    fn config(&self) -> Vec<u8> {
        let mut config = Config {
            capacity: self.sectors().into(),
            seg_max: 126.into(),
            blk_size: (SECTOR_SIZE as u32).into(),
            writeback: self.writeback.into(),
            num_queues: self.queues.into(),
            ..Config::default()
        };
        if !self.read_only {
            config.max_discard_sectors = MAX_RANGE_SECTORS.into();
            config.max_discard_seg = (MAX_DISCARD_RANGES as u32).into();
            config.discard_sector_alignment = 1.into();
            config.max_write_zeroes_sectors = MAX_RANGE_SECTORS.into();
            config.max_write_zeroes_seg = (MAX_ZEROES_RANGES as u32).into();
            config.write_zeroes_may_unmap = 1;
        }
        if self.faults.has(Fault::BlkCapacityInBytes) {
            config.capacity = (self.disk.len() as u64).into();
        }
        if self.faults.has(Fault::BlkQueuesZero) {
            config.num_queues = 0.into();
        }
        config.as_bytes().to_vec()
    }

    fn set_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Bad> {
        match (offset, data) {
            (WRITEBACK_OFFSET, [value @ (0 | 1)]) => {
                self.writeback = *value == 1;
                self.sync().map_err(|_| "the host cannot sync".to_owned())
            }
            _ => Err(format!("{} bytes at {offset} are not for the driver to write", data.len())),
        }
    }

    fn serve(&mut self, chain: &mut Chain) -> u32 {
        let Some(room) = chain.writable_len().checked_sub(1) else { return 0 };
        let at = if self.faults.has(Fault::BlkStatusFirst) { 0 } else { room };
        let (written, status) = match self.execute(chain, room) {
            Ok(written) => (written, S_OK),
            Err(status) => (0, status),
        };
        let status = if self.faults.has(Fault::BlkStatusWrong) { 3 } else { status };
        if !self.faults.has(Fault::BlkStatusMissing) {
            chain.write(at, &[status]);
        }
        // Bytes written, the status included, as everybody in the field counts.
        written as u32 + u32::from(!self.faults.has(Fault::BlkStatusNotCounted))
    }

    fn reset(&mut self) {
        self.writeback = true;
    }

    /// A disk in memory grows; a file may have.
    fn refresh(&mut self) -> bool {
        let old = self.disk.len();
        if self.is_memory && self.file.set_len(old as u64 + GROWTH).is_err() {
            return false;
        }
        match map(&self.file) {
            Ok(disk) => self.disk = disk,
            Err(_) => return false,
        }
        self.disk.len() != old
    }

    fn save(&self) -> Vec<u8> {
        let mut state = vec![u8::from(self.writeback)];
        state.extend(self.serial);
        state
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        match state {
            [writeback @ (0 | 1), serial @ ..] if serial.len() == ID_BYTES => {
                self.writeback = *writeback == 1;
                self.serial.copy_from_slice(serial);
                Ok(())
            }
            _ => Err("not the state of a disk".to_owned()),
        }
    }
}

fn map(file: &File) -> Result<Segment, Bad> {
    let size = file.metadata().map_err(|error| error.to_string())?.len();
    let fd = file.try_clone().map_err(|error| error.to_string())?;
    let shared =
        SharedRegion::map(fd.into(), size, 0).map_err(|error| format!("cannot map the disk: {error}"))?;
    Ok(shared.segment())
}

/// Copies pieces to pieces, as many bytes as both have.
fn copy(from: &[Segment], to: &[Segment]) {
    let mut sources = from.iter().cloned();
    let mut source = sources.next();
    for piece in to {
        let mut place = Some(piece.clone());
        while let (Some(from), Some(to)) = (&source, &place) {
            if from.is_empty() {
                source = sources.next();
                continue;
            }
            let count = from.copy_to(to);
            let rest = |segment: &Segment| segment.slice(count, segment.len() - count);
            (source, place) = (rest(from), rest(to).filter(|to| !to.is_empty()));
        }
    }
}
