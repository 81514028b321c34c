//! The disk (VIRTIO 1.3, 5.2). The driver's numbers are not trusted.

use std::path::Path;

use outboard_guest_memory::Segment;
use outboard_virtio_defs::blk::{
    Config, F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_LIFETIME, F_MQ, F_RO, F_SECURE_ERASE, F_SEG_MAX,
    F_SIZE_MAX, F_WRITE_ZEROES, F_ZONED, ID_BYTES, RequestHeader, S_IOERR, S_OK, S_UNSUPP, SECTOR_SIZE,
    T_DISCARD, T_FLUSH, T_GET_ID, T_GET_LIFETIME, T_IN, T_OUT, T_SECURE_ERASE, T_WRITE_ZEROES, T_ZONE_APPEND,
    T_ZONE_CLOSE, T_ZONE_FINISH, T_ZONE_OPEN, T_ZONE_REPORT, T_ZONE_RESET, T_ZONE_RESET_ALL,
    WRITEBACK_OFFSET,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::chain::Chain;
use crate::device::Device;
use crate::device_blk_disk::Disk;
use crate::device_blk_ranges::{MAX_DISCARD_RANGES, MAX_RANGE_SECTORS, MAX_ZEROES_RANGES};
use crate::device_blk_zones::Zones;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

/// The most data segments in a request, and how long each may be, in bytes.
const SEG_MAX: u32 = 126;
const SIZE_MAX: u32 = 1 << 20;
/// How many pieces a fault can take, and how long ones.
const FEW: usize = 100;
const SHORT: usize = 64 << 10;

pub(crate) struct Blk {
    pub(crate) faults: Faults,
    queues: u16,
    read_only: bool,
    pub(crate) disk: Disk,
    /// The sectors there were when it was opened, for a fault that sees no others.
    first_sectors: u64,
    serial: [u8; ID_BYTES],
    writeback: bool,
    /// What the driver is told of it.
    shown_writeback: u8,
    /// What the driver agreed on.
    agreed: u64,
    zones: Option<Zones>,
}

/// What a disk is like.
pub(crate) struct Shape<'a> {
    /// A file instead of memory.
    pub(crate) path: Option<&'a Path>,
    /// In memory, in bytes.
    pub(crate) size: u64,
    pub(crate) queues: u16,
    pub(crate) read_only: bool,
    pub(crate) zoned: bool,
    pub(crate) serial: &'a str,
}

/// Faults of disks that are read-only, and of disks with zones.
const OF_READ_ONLY: &[Fault] = &[Fault::BlkReadOnlyOk, Fault::BlkReadOnlyWritten, Fault::BlkReadOnlyRanges];
const OF_ZONED: &[Fault] = &[
    Fault::BlkZoneAppendSectorWrong,
    Fault::BlkZoneConventionalOk,
    Fault::BlkZoneFinishIgnored,
    Fault::BlkZoneGranularityZero,
    Fault::BlkZoneLimitsIgnored,
    Fault::BlkZoneNeverFull,
    Fault::BlkZoneReadsCross,
    Fault::BlkZoneReportCountsAll,
    Fault::BlkZoneReportFromStart,
    Fault::BlkZoneResetAllOne,
    Fault::BlkZoneSectorRounded,
    Fault::BlkZoneWriteAnywhere,
];

impl Blk {
    /// A disk; one that a fault is of, whatever else is asked for.
    pub(crate) fn open(shape: &Shape<'_>, faults: Faults) -> Result<Self, Bad> {
        let mut id = [0; ID_BYTES];
        id.iter_mut().zip(shape.serial.bytes()).for_each(|(place, byte)| *place = byte);
        let disk = Disk::open(shape.path, shape.size, faults)?;
        let is_of = |list: &[Fault]| list.iter().any(|fault| faults.has(*fault));
        let sectors = disk.len() / SECTOR_SIZE;
        Ok(Self {
            faults,
            queues: shape.queues,
            read_only: shape.read_only || is_of(OF_READ_ONLY),
            first_sectors: sectors,
            disk,
            serial: id,
            writeback: true,
            shown_writeback: 1,
            agreed: 0,
            zones: (shape.zoned || is_of(OF_ZONED)).then(|| Zones::new(sectors, faults)),
        })
    }

    fn sectors(&self) -> u64 {
        self.disk.len() / SECTOR_SIZE
    }

    /// Where so many bytes from `sector` on begin, in bytes, if they are whole sectors of the disk; `None` if they
    /// are not, and that is no error.
    pub(crate) fn position(&self, sector: u64, bytes: u64) -> Result<Option<u64>, u8> {
        let faults = self.faults;
        if !bytes.is_multiple_of(SECTOR_SIZE) && faults.has(Fault::BlkOddLengthCrashes) {
            die();
        }
        let wraps = faults.has(Fault::BlkSectorWraps).then(|| sector.wrapping_mul(SECTOR_SIZE));
        let offset = wraps.or_else(|| sector.checked_mul(SECTOR_SIZE)).ok_or(S_IOERR)?;
        let sectors = if faults.has(Fault::BlkGrowthUnserved) { self.first_sectors } else { self.sectors() };
        let within = offset.checked_add(bytes).is_some_and(|end| end <= sectors * SECTOR_SIZE);
        if bytes.is_multiple_of(SECTOR_SIZE) && within {
            return Ok(Some(offset));
        }
        if faults.has(Fault::BlkOutOfRangeCrashes) {
            die();
        }
        if faults.has(Fault::BlkOutOfRangeOk) { Ok(None) } else { Err(S_IOERR) }
    }

    /// That part of the disk.
    fn span(&self, sector: u64, bytes: u64) -> Result<Segment, u8> {
        let offset = self.position(sector, bytes)?.ok_or(S_OK)?;
        self.disk.slice(offset, bytes).ok_or(S_IOERR)
    }

    /// What the request's header asks for. The status byte is not counted.
    fn execute(&mut self, chain: &mut Chain, room: u64) -> Result<u64, u8> {
        let faults = self.faults;
        let mut header = RequestHeader::new_zeroed();
        if !chain.read(0, header.as_mut_bytes()) {
            if faults.has(Fault::ShortRequestCrashes) {
                die();
            }
            return Err(S_IOERR);
        }
        let header_len = size_of::<RequestHeader>() as u64;
        let first = chain.lengths().next().unwrap_or(0) as u64;
        let at = if faults.has(Fault::BlkHeaderIsFirstBuffer) { first.max(header_len) } else { header_len };
        let data = chain.readable_len() - at;
        let (kind, sector) = (header.kind.get(), header.sector.get());
        let many = chain.lengths().count() > FEW && faults.has(Fault::BlkManySegmentsFail);
        let long = chain.lengths().any(|len| len > SHORT) && faults.has(Fault::BlkLongSegmentsFail);
        let reserved = header.reserved.get() != 0 && faults.has(Fault::BlkReservedRefused);
        if many || long || reserved {
            return Err(S_IOERR);
        }
        match kind {
            T_IN => {
                self.look(room, data);
                let from = self.span(sector, room)?;
                if let Some(zones) = &self.zones {
                    zones.read(sector, room / SECTOR_SIZE)?;
                }
                let most = if faults.has(Fault::BlkReadsOf64K) { 64 << 10 } else { from.len() };
                let from = from.slice(0, from.len().min(most)).ok_or(S_IOERR)?;
                copy(&[from], &chain.writable(0, room));
                Ok(room)
            }
            T_OUT => {
                self.look(data, room);
                self.write(chain, sector, at, data)
            }
            T_FLUSH if faults.has(Fault::BlkFlushFails) => Err(S_IOERR),
            T_FLUSH => self.sync().map(|()| 0),
            T_GET_ID => {
                let len = room.min(ID_BYTES as u64);
                let id = if faults.has(Fault::BlkIdWrong) { [0xff; ID_BYTES] } else { self.serial };
                chain.write(0, id.get(..len as usize).unwrap_or_default());
                Ok(if faults.has(Fault::BlkIdLengthConstant) { ID_BYTES as u64 } else { len })
            }
            T_GET_LIFETIME if self.features() & F_LIFETIME != 0 => {
                let first = if faults.has(Fault::BlkLifetimeReserved) { 12 } else { 1 };
                let lifetime = [1, 0, first, 0, 1, 0];
                let len = room.min(lifetime.len() as u64);
                chain.write(0, lifetime.get(..len as usize).unwrap_or_default());
                Ok(len)
            }
            T_DISCARD | T_WRITE_ZEROES | T_SECURE_ERASE if self.takes_ranges(kind) => {
                self.ranges(kind, chain, at, data)
            }
            T_ZONE_APPEND if self.has_zones() => self.append(chain, sector, at, data, room),
            T_ZONE_REPORT if self.has_zones() => {
                self.zones.as_ref().ok_or(S_UNSUPP)?.report(sector, chain, room)
            }
            T_ZONE_OPEN | T_ZONE_CLOSE | T_ZONE_FINISH | T_ZONE_RESET | T_ZONE_RESET_ALL
                if self.has_zones() && !self.read_only =>
            {
                self.zones.as_mut().ok_or(S_UNSUPP)?.command(kind, sector)
            }
            T_DISCARD
            | T_WRITE_ZEROES
            | T_SECURE_ERASE
            | T_GET_LIFETIME
            | T_ZONE_APPEND..=T_ZONE_RESET_ALL
                if faults.has(Fault::BlkUnofferedOk) =>
            {
                Err(S_OK)
            }
            _ if faults.has(Fault::BlkUnknownCrashes) => die(),
            _ if faults.has(Fault::BlkUnknownOk) => Err(S_OK),
            _ if faults.has(Fault::BlkUnknownFails) => Err(S_IOERR),
            _ => Err(S_UNSUPP),
        }
    }

    /// Where faults fall over a transfer of `bytes`, with so many bytes for the other direction.
    fn look(&self, bytes: u64, other: u64) {
        if (bytes == 0 && self.faults.has(Fault::BlkEmptyCrashes))
            || (other != 0 && self.faults.has(Fault::BlkWrongSideCrashes))
        {
            die();
        }
    }

    /// Writes `data` bytes, which begin at `at`.
    fn write(&mut self, chain: &Chain, sector: u64, at: u64, data: u64) -> Result<u64, u8> {
        let faults = self.faults;
        if self.read_only && !faults.has(Fault::BlkReadOnlyWritten) {
            return Err(if faults.has(Fault::BlkReadOnlyOk) { S_OK } else { S_IOERR });
        }
        let rounds = faults.has(Fault::BlkOddWritesRounded);
        let to = self.span(sector, if rounds { data.next_multiple_of(SECTOR_SIZE) } else { data })?;
        if let Some(zones) = &mut self.zones {
            zones.write(sector, data / SECTOR_SIZE, false)?;
        }
        if rounds && !data.is_multiple_of(SECTOR_SIZE) {
            to.fill(0);
        }
        if !faults.has(Fault::BlkWritesDropped) {
            copy(&chain.readable(at, data), &[to]);
        }
        if self.read_only {
            return Err(S_IOERR);
        }
        if self.is_synchronous() {
            self.sync()?;
        }
        Ok(0)
    }

    /// Appends `data` bytes, which begin at `at`, to the zone at `sector`, and says where they went.
    fn append(&mut self, chain: &mut Chain, sector: u64, at: u64, data: u64, room: u64) -> Result<u64, u8> {
        let answer = size_of::<u64>() as u64;
        if self.read_only || !data.is_multiple_of(SECTOR_SIZE) || room != answer {
            return Err(S_IOERR);
        }
        let zones = self.zones.as_mut().ok_or(S_UNSUPP)?;
        let place = zones.write(sector, data / SECTOR_SIZE, true)?;
        copy(&chain.readable(at, data), &[self.span(place, data)?]);
        let told = if self.faults.has(Fault::BlkZoneAppendSectorWrong) { sector } else { place };
        chain.write(0, &told.to_le_bytes());
        Ok(answer)
    }

    /// There are zones, and the driver knows them.
    fn has_zones(&self) -> bool {
        self.zones.is_some() && self.agreed & F_ZONED != 0
    }

    /// Whether a write must be stable when it completes (VIRTIO 1.3, 5.2.6.2).
    fn is_synchronous(&self) -> bool {
        match self.agreed & (F_CONFIG_WCE | F_FLUSH) {
            0 => !self.faults.has(Fault::BlkUnflushedVolatile),
            F_FLUSH => false,
            _ => !self.writeback && !self.faults.has(Fault::BlkWriteThroughIgnored),
        }
    }

    fn takes_ranges(&self, kind: u32) -> bool {
        let feature = match kind {
            T_DISCARD => F_DISCARD,
            T_WRITE_ZEROES => F_WRITE_ZEROES,
            _ => F_SECURE_ERASE,
        };
        self.features() & feature != 0 || self.faults.has(Fault::BlkReadOnlyRanges)
    }

    fn set_writeback(&mut self, on: bool) {
        self.writeback = on;
        self.shown_writeback = on.into();
    }

    fn sync(&self) -> Result<(), u8> {
        self.disk.sync().map_err(|_| S_IOERR)
    }
}

impl Device for Blk {
    fn features(&self) -> u64 {
        let always = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_CONFIG_WCE | F_MQ | F_LIFETIME;
        let zoned = if self.zones.is_some() { F_ZONED } else { 0 };
        always
            | zoned
            | match (self.read_only, &self.zones) {
                (true, _) => F_RO,
                (false, Some(_)) => 0,
                (false, None) => F_DISCARD | F_WRITE_ZEROES | F_SECURE_ERASE,
            }
    }

    fn queues(&self) -> u16 {
        self.queues
    }

    fn config(&self) -> Vec<u8> {
        let mut config = Config {
            capacity: self.sectors().into(),
            size_max: SIZE_MAX.into(),
            seg_max: SEG_MAX.into(),
            blk_size: (SECTOR_SIZE as u32).into(),
            writeback: self.shown_writeback,
            num_queues: self.queues.into(),
            ..Config::default()
        };
        if !self.read_only && self.zones.is_none() {
            config.max_discard_sectors = MAX_RANGE_SECTORS.into();
            config.max_discard_seg = (MAX_DISCARD_RANGES as u32).into();
            config.discard_sector_alignment = 1.into();
            config.max_write_zeroes_sectors = MAX_RANGE_SECTORS.into();
            config.max_write_zeroes_seg = (MAX_ZEROES_RANGES as u32).into();
            config.write_zeroes_may_unmap = 1;
            config.max_secure_erase_sectors = MAX_RANGE_SECTORS.into();
            config.max_secure_erase_seg = (MAX_ZEROES_RANGES as u32).into();
            config.secure_erase_sector_alignment = 1.into();
        }
        config.zoned = self.zones.as_ref().map(Zones::characteristics).unwrap_or_default();
        config.unused0 = self.faults.has(Fault::BlkPaddingOnes).into();
        if self.faults.has(Fault::BlkCapacityInBytes) {
            config.capacity = self.disk.len().into();
        }
        if self.faults.has(Fault::BlkQueuesZero) {
            config.num_queues = 0.into();
        }
        config.as_bytes().to_vec()
    }

    fn set_config(&mut self, offset: u32, data: &[u8]) -> Result<(), Bad> {
        match (offset, data) {
            (WRITEBACK_OFFSET, [value]) if *value <= 1 || self.faults.has(Fault::BlkWritebackAny) => {
                self.shown_writeback = *value;
                self.writeback = *value == 1;
                self.sync().map_err(|_| "the host cannot sync".to_owned())
            }
            _ => Err(format!("{} bytes at {offset} are not for the driver to write", data.len())),
        }
    }

    fn serve(&mut self, _: u16, chain: &mut Chain) -> u32 {
        let Some(room) = chain.writable_len().checked_sub(1) else { return 0 };
        let at = if self.faults.has(Fault::BlkStatusFirst) { 0 } else { room };
        let (written, status) = match self.execute(chain, room) {
            Ok(written) => (written, S_OK),
            Err(_) if self.faults.has(Fault::BlkFailuresCountRoom) => (room, S_IOERR),
            Err(status) => (0, status),
        };
        let status = if self.faults.has(Fault::BlkStatusWrong) { 3 } else { status };
        if !self.faults.has(Fault::BlkStatusMissing) {
            chain.write(at, &[status]);
        }
        // Bytes written, the status included, as everybody in the field counts.
        written as u32 + u32::from(!self.faults.has(Fault::BlkStatusNotCounted))
    }

    fn agree(&mut self, features: u64) {
        self.agreed = features;
        // VIRTIO 1.3, 5.2.5.2: nobody would flush the cache.
        let unflushed = features & (F_CONFIG_WCE | F_FLUSH) == F_CONFIG_WCE;
        self.set_writeback(!unflushed || self.faults.has(Fault::BlkWritebackUnflushed));
    }

    fn reset(&mut self) {
        self.agreed = 0;
        self.set_writeback(true);
        if self.faults.has(Fault::BlkConnectionForgets)
            && let Some(all) = self.disk.slice(0, self.disk.len())
        {
            all.fill(0);
        }
    }

    fn refresh(&mut self) -> bool {
        self.disk.refresh()
    }

    fn save(&self) -> Vec<u8> {
        let mut state = vec![u8::from(self.writeback)];
        state.extend(self.serial);
        state
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        match state {
            [writeback @ (0 | 1), serial @ ..] if serial.len() == ID_BYTES => {
                self.set_writeback(*writeback == 1);
                self.serial.copy_from_slice(serial);
                Ok(())
            }
            _ => Err("not the state of a disk".to_owned()),
        }
    }
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
