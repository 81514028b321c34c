//! The network interface (VIRTIO 1.3, 5.1). What is sent is for nobody. Whether it comes back, as from a device that
//! loops, is found out; with others less can be seen.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use outboard_guest_memory::Segment;
use outboard_virtio_defs::net::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO, F_GUEST_USO4, F_GUEST_USO6,
    F_HASH_REPORT, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO, F_MRG_RXBUF, F_RSC_EXT,
    HASH_HEADER_LEN, HDR_F_DATA_VALID, HDR_F_NEEDS_CSUM, HDR_F_RSC_INFO, HDR_GSO_ECN, HDR_GSO_NONE,
    HDR_GSO_TCPV4, HDR_GSO_TCPV6, HDR_GSO_UDP, HDR_GSO_UDP_L4, HEADER_LEN, Header,
};
use outboard_virtqueue::Format;
use outboard_virtqueue::driver::Buffer;
use zerocopy::{FromBytes, IntoBytes};

use crate::check::cx::Cx;
use crate::check::ring::{FILL, Ring, signal};
use crate::check::sample::{Kind, Sample};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};

pub(super) mod calls;
pub(super) mod config;
pub(super) mod control;
pub(super) mod filter;
mod frame;
pub(super) mod headers;
pub(super) mod messages;
pub(super) mod queues;
pub(super) mod rx;
pub(super) mod spread;
pub(super) mod tx;

/// What the device does for the driver.
const SENT: u64 = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_UFO | F_HOST_USO;
/// What the driver does for the device.
const RECEIVED: u64 =
    F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6;
/// A buffer for any packet.
const LARGE: usize = 68 << 10;
/// The longest packet: an Ethernet header, and an IPv6 packet of all it can be.
const LONGEST: usize = 14 + 40 + 65535;
/// How long a device that has only begun to work may take to send the first frame back.
const LOOPING: Duration = Duration::from_secs(1);

/// A network interface, or not applicable.
fn is_net(cx: &Cx) -> Checked {
    if cx.kind == Kind::Net {
        return Ok(());
    }
    Err(Stop::NotApplicable(format!("a device of type {}", cx.kind.name())))
}

/// Only with a device that sends back what it is sent.
fn needs_loop(cx: &mut Cx) -> Checked {
    is_net(cx)?;
    match loops(cx)? {
        true => Ok(()),
        false => Err(Stop::Skip("what is sent does not come back".to_owned())),
    }
}

/// Whether what is sent comes back. Found out once.
fn loops(cx: &mut Cx) -> Checked<bool> {
    if let Some(loops) = cx.loops {
        return Ok(loops);
    }
    let mut nic = Nic::open(cx, &setup(Format::Split))?;
    nic.post(16, 2048)?;
    let deadline = Instant::now() + LOOPING;
    let mut found = false;
    while !found && Instant::now() < deadline {
        let frame = nic.tagged(60);
        // In both forms, and as far as it can be told from others: what is wrong is for the checks to find.
        nic.send(&frame)?;
        nic.send_in(vec![[Header::default().as_bytes(), &frame].concat()], Vec::new())?;
        while let Some(came) = nic.receive_within(Duration::from_millis(50))? {
            found |= frame.get(..24).is_some_and(|front| came.frame.starts_with(front));
            nic.post(came.lens.len(), 2048)?;
        }
    }
    cx.loops = Some(found);
    Ok(found)
}

/// Rings of 64 entries, and packets in several buffers if there are such; no offloads.
fn setup(format: Format) -> Setup {
    Setup { size: 64, device_features: F_MRG_RXBUF, ..Setup::new(format) }
}

/// With all offloads.
fn with_offloads(format: Format) -> Setup {
    Setup { device_features: F_MRG_RXBUF | SENT | RECEIVED, ..setup(format) }
}

/// An interface with one running pair of queues, or more.
struct Nic {
    session: Session,
    /// Buffers that the device has, by their tokens.
    posted: HashMap<u64, Segment>,
    tokens: u64,
    tags: u32,
}

/// A packet that came.
#[derive(Debug)]
struct Came {
    header: Header,
    frame: Vec<u8>,
    /// How many bytes of each buffer were written, and how many could have been.
    lens: Vec<(usize, usize)>,
    /// Bytes were written behind those.
    further: bool,
}

impl Nic {
    fn open(cx: &mut Cx, setup: &Setup) -> Checked<Self> {
        is_net(cx)?;
        let session = Session::ready(cx, setup)?;
        Ok(Self { session, posted: HashMap::new(), tokens: 0, tags: 0 })
    }

    fn has(&self, feature: u64) -> bool {
        self.session.features & feature != 0
    }

    fn header_len(&self) -> usize {
        if self.has(F_HASH_REPORT) { HASH_HEADER_LEN } else { HEADER_LEN }
    }

    /// A frame that is like no other.
    fn tagged(&mut self, len: usize) -> Vec<u8> {
        self.tags += 1;
        frame::tagged(self.tags, len)
    }

    fn ring(&mut self, queue: usize) -> Checked<&mut Ring> {
        self.session.ring(queue)
    }

    /// Gives the device so many buffers to receive into, on the first pair.
    fn post(&mut self, count: usize, len: usize) -> Checked {
        self.post_on(0, count, len)
    }

    /// The same on any queue.
    fn post_on(&mut self, queue: usize, count: usize, len: usize) -> Checked {
        self.add_on(queue, count, len)?;
        self.ring(queue)?.publish()
    }

    /// Puts buffers into a ring. The device does not see them yet.
    fn add_on(&mut self, queue: usize, count: usize, len: usize) -> Checked {
        for _ in 0..count {
            let segment = self.session.memory.allocate(len, 16)?;
            segment.fill(FILL);
            let token = self.tokens;
            self.tokens += 1;
            self.ring(queue)?.queue.add::<Buffer, _>(&[], &[Buffer::from(&segment)], token)?;
            self.posted.insert(token, segment);
        }
        Ok(())
    }

    /// The same, with a kick only if the device asks for one.
    fn post_as_asked(&mut self, count: usize, len: usize) -> Checked {
        self.add_on(0, count, len)?;
        let ring = self.ring(0)?;
        if ring.queue.publish() { signal(&ring.kick) } else { Ok(()) }
    }

    /// Sends a frame that needs nothing done.
    fn send(&mut self, frame: &[u8]) -> Checked {
        self.send_with(&Header::default(), frame)
    }

    /// Sends a frame with this header.
    fn send_with(&mut self, header: &Header, frame: &[u8]) -> Checked {
        let mut header = header.as_bytes().to_vec();
        header.resize(self.header_len(), 0);
        self.send_in(vec![header, frame.to_vec()], Vec::new()).map(drop)
    }

    /// Sends a good frame, which has to be taken.
    fn works(&mut self) -> Checked {
        let frame = self.tagged(60);
        self.send(&frame)
    }

    /// Sends buffers as they are; they have to come back. Returns the length that the device gives.
    fn send_in(&mut self, readable: Vec<Vec<u8>>, writable: Vec<u32>) -> Checked<u32> {
        self.send_on(1, readable, writable)
    }

    /// The same on any queue.
    fn send_on(&mut self, queue: usize, mut readable: Vec<Vec<u8>>, writable: Vec<u32>) -> Checked<u32> {
        readable.retain(|bytes| !bytes.is_empty());
        let sample = Sample { queue: 0, readable, writable, verify: |_, _| Ok(()) };
        let patience = self.session.patience;
        let Session { memory, rings, .. } = &mut self.session;
        let ring = rings.get_mut(queue).ok_or_else(|| Stop::lacks("a ring"))?;
        let placed = ring.place(memory, &sample, 0)?;
        ring.publish()?;
        let (_, len) = ring.returned(patience)?;
        let written = ring.verify(memory, &sample, placed, len)?;
        ensure!(written.iter().all(|&byte| byte == FILL), "the device wrote into what was sent");
        Ok(len)
    }

    /// The next packet on the first pair; it has to come.
    fn receive(&mut self) -> Checked<Came> {
        let patience = self.session.patience;
        let came = self.receive_within(patience)?;
        came.ok_or_else(|| Stop::fail(format!("what was sent did not come back within {patience:?}")))
    }

    fn receive_within(&mut self, patience: Duration) -> Checked<Option<Came>> {
        self.receive_on(0, patience)
    }

    /// The next packet on any queue.
    fn receive_on(&mut self, queue: usize, patience: Duration) -> Checked<Option<Came>> {
        let mut came =
            Came { header: Header::default(), frame: Vec::new(), lens: Vec::new(), further: false };
        let mut buffers = 1;
        while came.lens.len() < buffers {
            let first = came.lens.is_empty();
            let patience = if first { patience } else { self.session.patience };
            let Some((token, len)) = self.ring(queue)?.returned_within(patience)? else {
                ensure!(first, "a packet of {buffers} buffers, of which {} came", came.lens.len());
                return Ok(None);
            };
            let segment = self.posted.remove(&token);
            let segment = segment.ok_or_else(|| Stop::fail("a buffer was returned twice"))?;
            let (len, room) = (usize::try_from(len)?, segment.len());
            ensure!(len <= room, "length {len} for a buffer of {room} bytes");
            let mut bytes = vec![0; room];
            segment.read_into(0, &mut bytes)?;
            self.session.memory.free(segment);
            let (written, rest) = bytes.split_at(len);
            came.further |= rest.iter().any(|&byte| byte != FILL);
            came.lens.push((len, room));
            if !first {
                came.frame.extend_from_slice(written);
                continue;
            }
            let header_len = self.header_len();
            let parts = written.split_at_checked(header_len);
            let parts =
                parts.and_then(|(front, frame)| Some((Header::read_from_prefix(front).ok()?.0, frame)));
            let (header, frame) = parts.ok_or_else(|| {
                Stop::fail(format!("length {len} for a packet, which has a header of {header_len} bytes"))
            })?;
            (came.header, came.frame) = (header, frame.to_vec());
            if self.has(F_MRG_RXBUF) {
                buffers = header.num_buffers.get().into();
                ensure!(buffers != 0, "a packet in 0 buffers (num_buffers)");
            }
        }
        Ok(Some(came))
    }

    /// Sends what a driver must not, and then a frame that is as it should be. Returns what came of the first, if the
    /// device loops, and has judged it.
    fn forwarded(&mut self, loops: bool, header: &Header, frame: &[u8]) -> Checked<Vec<Came>> {
        if !loops {
            self.send_with(header, frame)?;
            self.works()?;
            return Ok(Vec::new());
        }
        let missing = 8_usize.saturating_sub(self.posted.len());
        self.post(missing, LARGE)?;
        self.send_with(header, frame)?;
        let last = self.tagged(60);
        self.send(&last)?;
        let mut before = Vec::new();
        loop {
            let came = self.receive().map_err(|stop| stop.when("afterwards a good frame"))?;
            if came.frame == last {
                return Ok(before);
            }
            self.judge(&came)?;
            before.push(came);
            self.post(1, LARGE)?;
        }
    }

    /// Whether a driver that agreed to these features can do with what came (VIRTIO 1.3, 5.1.6.4.1).
    fn judge(&self, came: &Came) -> Checked {
        let Header { flags, gso_type, .. } = came.header;
        let len = came.frame.len();
        ensure!(len <= LONGEST, "a frame of {len} bytes");
        if !self.has(F_GUEST_CSUM) {
            ensure!(flags == 0, "flags {flags:#x} for a driver that takes no packet without a checksum");
        }
        let rsc = if self.has(F_RSC_EXT) { HDR_F_RSC_INFO } else { 0 };
        let odd = flags & !(HDR_F_NEEDS_CSUM | HDR_F_DATA_VALID | rsc);
        ensure!(odd == 0, "flags {flags:#x}, of which {odd:#x} stand for nothing");
        if flags & HDR_F_NEEDS_CSUM != 0 {
            let (start, offset) = (came.header.csum_start.get(), came.header.csum_offset.get());
            let end = usize::from(start) + usize::from(offset) + 2;
            ensure!(end <= len, "a checksum at {start} + {offset} in a frame of {len} bytes");
        }
        if gso_type == HDR_GSO_NONE {
            return Ok(());
        }
        let protocols = (came.frame.get(12..14), came.frame.get(23), came.frame.get(20));
        let (feature, fits) = match gso_type & !HDR_GSO_ECN {
            HDR_GSO_TCPV4 => (F_GUEST_TSO4, matches!(protocols, (Some([8, 0]), Some(6), _))),
            HDR_GSO_TCPV6 => (F_GUEST_TSO6, matches!(protocols, (Some([0x86, 0xdd]), _, Some(6)))),
            HDR_GSO_UDP => (F_GUEST_UFO, matches!(protocols, (Some([8, 0]), Some(17), _))),
            HDR_GSO_UDP_L4 if matches!(protocols, (Some([8, 0]), Some(17), _)) => (F_GUEST_USO4, true),
            HDR_GSO_UDP_L4 => (F_GUEST_USO6, matches!(protocols, (Some([0x86, 0xdd]), _, Some(17)))),
            _ => return Err(Stop::fail(format!("gso_type {gso_type:#x}, which stands for nothing"))),
        };
        ensure!(self.has(feature), "gso_type {gso_type:#x}, which was not agreed");
        let ecn = gso_type & HDR_GSO_ECN == 0 || self.has(F_GUEST_ECN);
        ensure!(ecn, "gso_type {gso_type:#x}: congestion, which was not agreed");
        ensure!(fits, "gso_type {gso_type:#x} for a frame that is not of that kind");
        ensure!(flags & HDR_F_NEEDS_CSUM != 0, "gso_type {gso_type:#x} without a checksum to complete");
        let (size, hdr_len) = (came.header.gso_size.get(), came.header.hdr_len.get());
        ensure!(size != 0, "segments of 0 bytes");
        ensure!(usize::from(hdr_len) <= len, "headers of {hdr_len} bytes in a frame of {len}");
        Ok(())
    }
}
