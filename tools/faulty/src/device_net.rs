//! The network interface (VIRTIO 1.3, 5.1). What is sent on a pair of queues comes back on it; what there is no buffer
//! for, or what the driver would have to have cut, is dropped.

use std::collections::VecDeque;

use outboard_virtio_defs::net::{
    Config, F_CSUM, F_CTRL_GUEST_OFFLOADS, F_CTRL_MAC_ADDR, F_CTRL_RX, F_CTRL_RX_EXTRA, F_CTRL_VLAN,
    F_CTRL_VQ, F_GUEST_ANNOUNCE, F_GUEST_CSUM, F_GUEST_ECN, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_UFO,
    F_GUEST_USO4, F_GUEST_USO6, F_HASH_REPORT, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO,
    F_MAC, F_MQ, F_MRG_RXBUF, F_MTU, F_NOTF_COAL, F_RSS, F_SPEED_DUPLEX, F_STATUS, F_VQ_NOTF_COAL,
    HASH_HEADER_LEN, HASH_TYPE_UDPV4, HEADER_LEN, Header, S_LINK_UP,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::chain::Chain;
use crate::device::Device;
use crate::device_net_filter::Filter;
use crate::device_net_frame::{LONGEST, Packet};
use crate::device_net_spread::Spread;
use crate::faults::{Fault, Faults, die};
use crate::memory::Bad;

/// Pairs of queues.
pub(crate) const PAIRS: u16 = 2;
/// Features that are offloads on the driver's side.
const TAKEN: u64 =
    F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN | F_GUEST_UFO | F_GUEST_USO4 | F_GUEST_USO6;
/// All that a driver can leave to the device.
const DONE: u64 = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_UFO | F_HOST_USO;
/// How long a frame a fault takes, in bytes.
const SHORT: usize = 1000;
/// How many buffers a fault takes.
const FEW: usize = 20;
/// What the interface says that it takes, in bytes.
const MTU: u16 = 9000;

pub(crate) struct Net {
    pub(crate) faults: Faults,
    pub(crate) config: Config,
    pub(crate) agreed: u64,
    /// Offloads of the driver in force.
    pub(crate) takes: u64,
    /// Pairs in use.
    pub(crate) pairs: u16,
    /// What is received, and on which pair.
    pub(crate) filter: Filter,
    pub(crate) spread: Option<Spread>,
    /// How calls of each queue are coalesced: as long as the driver asks for it, it is called all the same.
    pub(crate) calls: [[u8; 8]; 2 * PAIRS as usize],
    /// What is there for the driver, by pair.
    there: [VecDeque<Packet>; PAIRS as usize],
}

impl Net {
    pub(crate) fn new(faults: Faults) -> Self {
        let has = |fault| faults.has(fault);
        let config = Config {
            mac: [if has(Fault::NetMacMulticast) { 3 } else { 2 }, 0, 0, 0, 0, 7],
            status: if has(Fault::NetStatusOdd) { 0x8001 } else { S_LINK_UP }.into(),
            max_virtqueue_pairs: if has(Fault::NetPairsZero) { 0 } else { PAIRS }.into(),
            mtu: if has(Fault::NetMtuZero) { 0 } else { MTU }.into(),
            speed: 10_000.into(),
            rss_max_key_size: if has(Fault::NetKeyShort) { 16 } else { 40 },
            duplex: if has(Fault::NetDuplexOdd) { 7 } else { 1 },
            rss_max_indirection_table_length: 128.into(),
            supported_hash_types: HASH_TYPE_UDPV4.into(),
            ..Config::default()
        };
        let there = [VecDeque::new(), VecDeque::new()];
        let (filter, spread, calls) = (Filter::new(config.mac), None, [[0; 8]; 2 * PAIRS as usize]);
        Self { faults, config, agreed: 0, takes: 0, pairs: PAIRS, filter, spread, calls, there }
    }

    /// VIRTIO 1.3, 5.1.2: behind all pairs that there can be.
    fn control(&self) -> Option<u16> {
        let many = self.agreed & (F_MQ | F_RSS) != 0 || self.faults.has(Fault::NetControlQueueFixed);
        (self.agreed & F_CTRL_VQ != 0).then_some(if many { 2 * PAIRS } else { 2 })
    }

    fn header_len(&self) -> usize {
        if self.agreed & F_HASH_REPORT == 0 { HEADER_LEN } else { HASH_HEADER_LEN }
    }

    /// Takes what the driver sends on a pair.
    fn send(&mut self, pair: usize, chain: &mut Chain) -> u32 {
        let has = |fault| self.faults.has(fault);
        let len = chain.readable_len() as usize;
        if chain.writable_len() > 0 && has(Fault::NetSendWrites) {
            chain.write(0, b"written");
        }
        if len < HEADER_LEN && has(Fault::NetShortCrashes)
            || len > HEADER_LEN + LONGEST && has(Fault::NetLongCrashes)
            || len == HEADER_LEN && has(Fault::NetEmptyCrashes)
        {
            die();
        }
        let counted = if has(Fault::NetSendCounted) { len as u32 } else { 0 };
        let first = chain.lengths().next().unwrap_or(0);
        let (buffers, alone) = (chain.lengths().count(), first == HEADER_LEN);
        let passed_over = alone && has(Fault::NetHeaderMustBeMerged)
            || !alone && has(Fault::NetHeaderMustBeAlone)
            || first < HEADER_LEN && has(Fault::NetHeaderMustBeWhole)
            || buffers > FEW && has(Fault::NetManyBuffersDropped)
            || len > SHORT && has(Fault::NetLongDropped)
            || pair > 0 && has(Fault::NetSecondPairLost);
        let mut header = [0; HEADER_LEN];
        if passed_over || len > self.header_len() + LONGEST || !chain.read(0, &mut header) {
            return counted;
        }
        let mut frame = vec![0; len.saturating_sub(self.header_len())];
        chain.read(self.header_len() as u64, &mut frame);
        // What a pair has that is not in use is another one's.
        let to = if pair < usize::from(self.pairs) { pair } else { 0 };
        let to = self.spread.as_ref().map_or(to, |spread| spread.pair(&frame, self.faults));
        if !self.filter.passes(&frame, self.agreed, self.faults) {
            return counted;
        }
        let packet = Header::read_from_bytes(&header).ok().and_then(|asked| self.answer(asked, frame));
        if let Some(there) = self.there.get_mut(to) {
            there.extend(packet);
        }
        counted
    }

    /// What comes back of a frame with this header.
    fn answer(&self, asked: Header, frame: Vec<u8>) -> Option<Packet> {
        let has = |fault| self.faults.has(fault);
        if has(Fault::NetHeaderUnchecked) {
            return Some(Packet { header: asked, frame });
        }
        let done = if has(Fault::NetUnagreedDone) { DONE } else { self.agreed };
        let judged = Packet::judge(&asked, frame, done);
        if judged.is_none() && asked.gso_type != 0 && has(Fault::NetBadSegmentsCrash) {
            die();
        }
        judged?.suit(if has(Fault::NetOffloadsUnagreed) { TAKEN } else { self.takes })
    }
}

impl Device for Net {
    fn features(&self) -> u64 {
        let checksums = if self.faults.has(Fault::NetSegmentsWithoutChecksum) { 0 } else { F_CSUM };
        let control = if self.faults.has(Fault::NetManyWithoutControl) { 0 } else { F_CTRL_VQ };
        let sent = DONE & !F_CSUM;
        let controlled = F_CTRL_RX
            | F_CTRL_RX_EXTRA
            | F_CTRL_VLAN
            | F_CTRL_MAC_ADDR
            | F_CTRL_GUEST_OFFLOADS
            | F_GUEST_ANNOUNCE;
        let told = F_MAC | F_STATUS | F_MTU | F_SPEED_DUPLEX;
        let called = F_NOTF_COAL | F_VQ_NOTF_COAL;
        let spread = F_MQ | F_RSS | F_HASH_REPORT;
        checksums | control | sent | controlled | told | called | TAKEN | spread | F_MRG_RXBUF
    }

    fn queues(&self) -> u16 {
        2 * PAIRS + 1
    }

    fn config(&self) -> Vec<u8> {
        self.config.as_bytes().to_vec()
    }

    fn set_config(&mut self, offset: u32, _: &[u8]) -> Result<(), Bad> {
        Err(format!("nothing can be written at {offset}"))
    }

    fn serve(&mut self, queue: u16, chain: &mut Chain) -> u32 {
        if self.control() == Some(queue) {
            return self.command(chain);
        }
        self.send(usize::from(queue / 2), chain)
    }

    fn fills(&self, queue: u16) -> bool {
        queue.is_multiple_of(2) && queue < 2 * PAIRS && self.control() != Some(queue)
    }

    fn fill(&mut self, queue: u16, waiting: &mut [&mut Chain]) -> Option<Vec<(usize, u32)>> {
        let Packet { mut header, mut frame } = self.there.get_mut(usize::from(queue / 2))?.pop_front()?;
        let has = |fault| self.faults.has(fault);
        let merges = self.agreed & F_MRG_RXBUF != 0 || has(Fault::NetMergesAlways);
        let front = if has(Fault::NetHashHeaderShort) { HEADER_LEN } else { self.header_len() };
        let len = front + frame.len();
        let most = if merges { waiting.len() } else { 1 };
        let small = |chain: &Chain| chain.writable_len() < 256 && has(Fault::NetSmallBuffersUnused);
        let half = has(Fault::NetBuffersHalfFilled);
        let mut room = Vec::new();
        for chain in waiting.iter().take(most) {
            if room.iter().sum::<u64>() < len as u64 && !small(chain) {
                let all = chain.writable_len();
                room.push(if half && all > 256 { all / 2 } else { all });
            }
        }
        if room.iter().sum::<u64>() < len as u64 || room.is_empty() {
            if has(Fault::NetNoBufferCrashes) {
                die();
            }
            return Some(Vec::new());
        }
        header.num_buffers = if has(Fault::NetBuffersNotCounted) { 0 } else { room.len() as u16 }.into();
        if has(Fault::NetFramesChanged) {
            frame.last_mut().into_iter().for_each(|byte| *byte ^= 1);
        }
        let mut bytes = header.as_bytes().to_vec();
        bytes.resize(front, 0);
        bytes.extend(frame);
        let mut rest = bytes.as_slice();
        let mut lens = Vec::new();
        for (chain, room) in waiting.iter_mut().zip(room) {
            let (now, later) = rest.split_at(rest.len().min(room as usize));
            chain.write(0, now);
            rest = later;
            if rest.is_empty() && has(Fault::NetWritesOn) {
                chain.write(now.len() as u64, &[0; 16]);
            }
            let counted = if lens.is_empty() && has(Fault::NetHeaderNotCounted) { HEADER_LEN } else { 0 };
            lens.push((now.len() - counted) as u32);
        }
        Some(lens.into_iter().enumerate().collect())
    }

    fn holds_calls(&self, queue: u16) -> bool {
        let coalesced = self.calls.get(usize::from(queue)).is_some_and(|calls| *calls != [0; 8]);
        coalesced && self.faults.has(Fault::NetCallsForgotten)
    }

    fn agree(&mut self, features: u64) {
        (self.agreed, self.takes) = (features, features & TAKEN);
        (self.filter, self.spread) = (Filter::new(self.config.mac), None);
        self.calls.fill([0; 8]);
        // Should the control queue stay with the front end, nobody says how many are in use: those whose rings run.
        self.pairs = PAIRS;
    }

    fn reset(&mut self) {
        self.there.iter_mut().for_each(VecDeque::clear);
        self.agree(0);
    }

    fn refresh(&mut self) -> bool {
        false
    }

    fn is_network(&self) -> bool {
        true
    }

    fn set_mtu(&mut self, mtu: u64) -> Result<(), Bad> {
        let fits = u16::try_from(mtu).ok().filter(|mtu| *mtu >= 68);
        if self.faults.has(Fault::NetMtuUnchecked) {
            return Ok(());
        }
        self.config.mtu = fits.ok_or_else(|| format!("an MTU of {mtu}"))?.into();
        Ok(())
    }

    fn save(&self) -> Vec<u8> {
        self.config.mac.to_vec()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), Bad> {
        self.config.mac = state.try_into().map_err(|_| "not the state of an interface".to_owned())?;
        Ok(())
    }
}
