//! The block device (VIRTIO 1.3, 5.2). Where the back end is somebody else's, and so may be what is on the disk,
//! nothing is written to it.

use outboard_vhost_user::payload::ConfigHeader;
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtio_defs::blk::{
    self, Config, F_BLK_SIZE, F_CONFIG_WCE, F_DISCARD, F_FLUSH, F_MQ, F_RO, F_SEG_MAX, F_WRITE_ZEROES,
    RequestHeader, S_OK,
};
use outboard_virtqueue::Format;
use zerocopy::{FromBytes, IntoBytes};

use crate::check::cx::Cx;
use crate::check::ring::FILL;
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

pub(super) mod config;
pub(super) mod data;
pub(super) mod ranges;
pub(super) mod requests;

/// Features that the checks of this group agree on.
const FEATURES: u64 =
    F_BLK_SIZE | F_CONFIG_WCE | F_DISCARD | F_FLUSH | F_MQ | F_RO | F_SEG_MAX | F_WRITE_ZEROES;

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
    fn open(cx: &mut Cx, format: Format) -> Checked<Self> {
        is_blk(cx)?;
        cx.needs(ProtocolFeatures::CONFIG)?;
        let offered = cx.offer.features & FEATURES;
        let setup = Setup { size: 64, device_features: offered, ..Setup::new(format) };
        let mut session = Session::ready(cx, &setup)?;
        let config = config_of(&mut session)?;
        Ok(Self { session, config })
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
        let sample = Sample { queue: 0, readable, writable, verify: |_, _| Ok(()) };
        let patience = self.session.patience;
        let Session { memory, rings, .. } = &mut self.session;
        let ring = rings.last_mut().ok_or_else(|| Stop::lacks("a ring"))?;
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
        let came = self.ask(blk::T_IN, sector, &[], &[u32::try_from(bytes)?])?;
        ensure!(came.status == S_OK, "a read of sector {sector} has status {}", came.status);
        Ok(came.data)
    }

    /// Writes whole blocks; that has to work.
    fn write(&mut self, sector: u64, data: &[u8]) -> Checked {
        let came = self.ask(blk::T_OUT, sector, data, &[])?;
        ensure!(came.status == S_OK, "a write to sector {sector} has status {}", came.status);
        Ok(())
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

/// With a disk for each ring format.
fn each(cx: &mut Cx, mut body: impl FnMut(&mut Cx, &mut Disk) -> Checked) -> Checked {
    is_blk(cx)?;
    cx.each_format(|cx, format| {
        let mut disk = Disk::open(cx, format)?;
        body(cx, &mut disk)
    })
}
