//! The block device (VIRTIO 1.3, 5.2). Where the back end is somebody else's, and so may be what is on the disk,
//! nothing is written to it.

use outboard_vhost_user::payload::ConfigHeader;
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::blk::{
    self, Config, F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_LIFETIME, F_MQ, F_RO, F_SECURE_ERASE,
    F_SEG_MAX, F_SIZE_MAX, F_WRITE_ZEROES, F_ZONED, RequestHeader, S_OK, Z_HM,
};
use outboard_virtio_defs::features::{VIRTIO_F_EVENT_IDX, VIRTIO_F_INDIRECT_DESC};
use outboard_virtqueue::Format;
use zerocopy::{FromBytes, IntoBytes};

use crate::check::cx::Cx;
use crate::check::ring::FILL;
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

pub(super) mod config;
pub(super) mod data;
pub(super) mod offers;
pub(super) mod queues;
pub(super) mod ranges;
pub(super) mod read_only;
pub(super) mod requests;
pub(super) mod segments;
pub(super) mod shapes;
pub(super) mod stable;
pub(super) mod zones;

/// Features that the checks of this group agree on.
const FEATURES: u64 = F_BLK_SIZE
    | F_CONFIG_WCE
    | F_DISCARD
    | F_FLUSH
    | F_LIFETIME
    | F_MQ
    | F_RO
    | F_SECURE_ERASE
    | F_SEG_MAX
    | F_SIZE_MAX
    | F_WRITE_ZEROES;

/// Bytes in a sector.
const SECTOR: usize = 512;

/// A disk with one running queue.
struct Disk {
    session: Session,
    config: Config,
}

/// What came of a request.
struct Came {
    status: u8,
    len: u32,
    /// What the device wrote, or left as it was, before the status.
    data: Vec<u8>,
}

/// A block device, or not applicable.
fn is_blk(cx: &Cx) -> Checked {
    if cx.kind == Kind::Blk {
        return Ok(());
    }
    Err(Stop::NotApplicable(format!("a device of type {}", cx.kind.name())))
}

/// The configuration, with zeroes for what the device does not have.
fn config_of(session: &mut Session) -> Checked<Config> {
    let size = u32::try_from(size_of::<Config>())?;
    // As front ends of old ask: to the end of write-zeroes.
    for size in [size, 60] {
        let header = ConfigHeader { offset: 0, size, flags: 0 };
        let body = [header.as_bytes(), &vec![0; usize::try_from(size)?]].concat();
        let frame = session.wire.ask(Code::GET_CONFIG, &body, &[])?;
        let Some(data) = frame.body.get(size_of::<ConfigHeader>()..).filter(|data| !data.is_empty()) else {
            continue;
        };
        let mut bytes = data.to_vec();
        bytes.resize(size_of::<Config>(), 0);
        let config = Config::read_from_bytes(&bytes);
        return config.map_err(|_| Stop::fail("a configuration of another length than was asked for"));
    }
    Err(Stop::fail("GET_CONFIG of 60 bytes was refused"))
}

impl Disk {
    /// As all that is on offer has it.
    fn open(cx: &mut Cx, format: Format) -> Checked<Self> {
        Self::with(cx, &setup(format))
    }

    fn with(cx: &mut Cx, setup: &Setup) -> Checked<Self> {
        let this = Self::any(cx, setup)?;
        if this.offers(F_ZONED) && this.config.zoned.model == Z_HM {
            return Err(Stop::NotApplicable("its zones are written in sequence".to_owned()));
        }
        Ok(this)
    }

    /// Of whatever model.
    fn any(cx: &mut Cx, setup: &Setup) -> Checked<Self> {
        is_blk(cx)?;
        cx.needs(ProtocolFeatures::CONFIG)?;
        let mut session = Session::ready(cx, setup)?;
        let config = config_of(&mut session)?;
        Ok(Self { session, config })
    }

    /// Starts more queues, up to `most` of them altogether. Returns how many there are.
    fn start_queues(&mut self, most: u64) -> Checked<usize> {
        let offered = self.session.offered_queues().unwrap_or(1);
        for index in 1..u16::try_from(offered.min(most))? {
            let at = self.session.add_ring(index)?;
            self.session.start(at)?;
        }
        Ok(self.session.rings.len())
    }

    fn offers(&self, feature: u64) -> bool {
        self.session.features & feature != 0
    }

    /// Sectors.
    fn capacity(&self) -> u64 {
        self.config.capacity.get()
    }

    /// The logical block in bytes: what requests are multiples of.
    fn block(&self) -> usize {
        let told = if self.offers(F_BLK_SIZE) { self.config.blk_size.get() } else { 0 };
        usize::try_from(told).unwrap_or(SECTOR).max(SECTOR)
    }

    /// The logical block in sectors.
    fn block_sectors(&self) -> u64 {
        (self.block() / SECTOR) as u64
    }

    /// Makes a request: a header, data to read, and buffers to write, of which the status is the last byte.
    fn ask(&mut self, kind: u32, sector: u64, data: &[u8], writable: &[u32]) -> Checked<Came> {
        let header = header(kind, sector);
        let readable = [header, data.to_vec()].into_iter().filter(|bytes| !bytes.is_empty()).collect();
        self.ask_in(readable, writable.iter().copied().chain([1]).collect())
    }

    /// Makes a request of any shape; its last writable byte is the status.
    fn ask_in(&mut self, readable: Vec<Vec<u8>>, writable: Vec<u32>) -> Checked<Came> {
        self.ask_on(self.session.last(), readable, writable)
    }

    /// The same on this queue.
    fn ask_on(&mut self, queue: usize, readable: Vec<Vec<u8>>, writable: Vec<u32>) -> Checked<Came> {
        let sample = Sample { queue: 0, readable, writable, verify: |_, _| Ok(()) };
        let patience = self.session.patience;
        let Session { memory, rings, .. } = &mut self.session;
        let ring = rings.get_mut(queue).ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = ring.place(memory, &sample, 0)?;
        ring.publish()?;
        let (_, len) = ring.returned(patience)?;
        let mut data = ring.verify(memory, &sample, placed, len)?;
        let room = data.len();
        ensure!(usize::try_from(len)? <= room, "length {len} for {room} bytes to write");
        let status = data.pop().ok_or_else(|| Stop::Skip("our own side: no status".to_owned()))?;
        ensure!(status != FILL, "the status was not written");
        Ok(Came { status, len, data })
    }

    /// Reads whole blocks; that has to work.
    fn read(&mut self, sector: u64, bytes: usize) -> Checked<Vec<u8>> {
        self.read_on(self.session.last(), sector, bytes)
    }

    /// The same on this queue.
    fn read_on(&mut self, queue: usize, sector: u64, bytes: usize) -> Checked<Vec<u8>> {
        let mut writable = Vec::new();
        let mut left = u32::try_from(bytes)?;
        while left > 0 {
            writable.push(left.min(self.longest()));
            left -= left.min(self.longest());
        }
        writable.push(1);
        let came = self.ask_on(queue, vec![header(blk::T_IN, sector)], writable)?;
        ensure!(came.status == S_OK, "a read of sector {sector} has status {}", came.status);
        Ok(came.data)
    }

    /// Writes whole blocks; that has to work.
    fn write(&mut self, sector: u64, data: &[u8]) -> Checked {
        self.write_on(self.session.last(), sector, data)
    }

    /// The same on this queue.
    fn write_on(&mut self, queue: usize, sector: u64, data: &[u8]) -> Checked {
        let pieces = data.chunks(usize::try_from(self.longest())?).map(<[u8]>::to_vec);
        let readable = std::iter::once(header(blk::T_OUT, sector)).chain(pieces).collect();
        let came = self.ask_on(queue, readable, vec![1])?;
        ensure!(came.status == S_OK, "a write to sector {sector} has status {}", came.status);
        Ok(())
    }

    /// Flushes; that has to work.
    fn flush(&mut self) -> Checked {
        let came = self.ask_on(0, vec![header(blk::T_FLUSH, 0)], vec![1])?;
        ensure!(came.status == S_OK, "a flush has status {}", came.status);
        Ok(())
    }

    /// Does something to the blocks from sector `at` on, and puts their contents back.
    fn with_blocks(&mut self, at: u64, blocks: usize, body: impl FnOnce(&mut Self) -> Checked) -> Checked {
        let before = self.read(at, blocks * self.block())?;
        let came = body(self);
        let back = self.write(at, &before);
        came.and(back)
    }

    /// The longest segment of data, in bytes. One of nothing is judged by `blk.config`.
    fn longest(&self) -> u32 {
        let told = if self.offers(F_SIZE_MAX) { self.config.size_max.get() } else { 0 };
        if told == 0 { u32::MAX } else { told }
    }

    /// Fails as skipped unless what is on the disk is ours to change.
    fn may_write(&self, cx: &Cx) -> Checked {
        cx.needs_command()?;
        if self.offers(F_RO) {
            return Err(Stop::NotApplicable("the disk is read-only".to_owned()));
        }
        if self.capacity() < 64 * self.block_sectors() {
            return Err(Stop::Skip(format!("the disk has {} sectors only", self.capacity())));
        }
        Ok(())
    }
}

/// A request's readable part in several buffers, each beginning at one of `cuts`, the first at 0.
fn cut(mut request: Vec<u8>, cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut buffers: Vec<_> = cuts.iter().rev().map(|at| request.split_off(*at)).collect();
    buffers.push(request);
    buffers.reverse();
    buffers
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    RequestHeader { kind: kind.into(), reserved: 0.into(), sector: sector.into() }.as_bytes().to_vec()
}

/// Bytes that are different for each seed, and for each sector.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(len).collect()
}

/// All that is on offer.
fn setup(format: Format) -> Setup {
    Setup { size: 64, device_features: FEATURES, ..Setup::new(format) }
}

/// With a disk for each ring format, in which the driver does the least, and in which it uses all there is.
fn each(cx: &mut Cx, mut body: impl FnMut(&mut Cx, &mut Disk) -> Checked) -> Checked {
    is_blk(cx)?;
    let extras = cx.offer.features & (VIRTIO_F_EVENT_IDX | VIRTIO_F_INDIRECT_DESC) != 0;
    cx.each_format(|cx, format| {
        let mut disk = Disk::open(cx, format)?;
        body(cx, &mut disk)?;
        // Only now the next: some serve one front end at a time.
        drop(disk);
        if !extras {
            return Ok(());
        }
        let setup = Setup { indirect: true, event_idx: true, ..setup(format) };
        let came = Disk::with(cx, &setup).and_then(|mut disk| body(cx, &mut disk));
        came.map_err(|stop| stop.when("with indirect descriptors and event indices"))
    })
}
