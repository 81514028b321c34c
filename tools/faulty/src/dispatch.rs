//! What each message does (vhost-user: Front-end message types).

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use outboard_guest_memory::DirtyLog;
use outboard_vhost_user::ProtocolFeatures as P;
use outboard_vhost_user::message::{Frame, FrontendRequest as Code, MAX_RING_SIZE};
use outboard_vhost_user::payload::{Inflight, Log, MemRegion, MemTableHeader, SingleMemRegion, VringState};
use outboard_virtio_defs::features as bits;
use zerocopy::{FromBytes, IntoBytes};

use crate::config;
use crate::connection::{Connection, LAST_PROTOCOL};
use crate::faults::{Fault, die};
use crate::inflight::Buffer;
use crate::memory::MAX_SLOTS;
use crate::messages::{Answer, Kind, Refused};

/// The protocol features on offer.
const PROTOCOL: P = P(P::MQ.0
    | P::LOG_SHMFD.0
    | P::REPLY_ACK.0
    | P::BACKEND_REQ.0
    | P::CONFIG.0
    | P::BACKEND_SEND_FD.0
    | P::INFLIGHT_SHMFD.0
    | P::RESET_DEVICE.0
    | P::CONFIGURE_MEM_SLOTS.0
    | P::STATUS.0
    | P::DEVICE_STATE.0
    | P::GET_VRING_BASE_INFLIGHT.0);

/// The virtio features on offer, whatever the device.
const RING_FEATURES: u64 = bits::VIRTIO_F_VERSION_1
    | bits::VIRTIO_F_RING_PACKED
    | bits::VIRTIO_F_EVENT_IDX
    | bits::VIRTIO_F_INDIRECT_DESC
    | bits::VIRTIO_F_IN_ORDER
    | bits::VHOST_F_LOG_ALL
    | bits::VHOST_USER_F_PROTOCOL_FEATURES;

/// What comes of a message.
pub(crate) type Outcome = Result<Answer, Refused>;

fn fatal(why: &str) -> Refused {
    Refused::new(Kind::Fatal, why)
}

pub(crate) fn wrong(why: impl Into<String>) -> Refused {
    Refused::new(Kind::Wrong, why)
}

impl Connection<'_> {
    pub(crate) fn dispatch(&mut self, code: Code, frame: Frame) -> Outcome {
        let Frame { body, mut fds, .. } = frame;
        let outcome = self.carry_out(code, &body, &mut fds);
        // What nobody wanted is closed here.
        if self.faults.has(Fault::FdsLeaked) {
            std::mem::forget(fds);
        }
        outcome
    }

    fn carry_out(&mut self, code: Code, body: &[u8], fds: &mut Vec<OwnedFd>) -> Outcome {
        match code {
            Code::SET_VRING_CALL if self.features.is_none() && self.faults.has(Fault::CallNeedsFeatures) => {
                Err(fatal("there are no features yet"))
            }
            Code::GET_FEATURES => self.empty(body).map(|()| Answer::number(self.offered())),
            Code::SET_FEATURES => self.set_features(self.exact(body)?),
            Code::SET_OWNER => self.set_owner(body),
            Code::SET_LOG_FD if self.faults.has(Fault::LogFdCrashes) => die(),
            Code::SET_LOG_FD => one(fds).map(|_| Answer::Ack),
            Code::RESET_OWNER => self.reset_owner(),
            Code::GET_PROTOCOL_FEATURES => {
                self.empty(body).map(|()| Answer::number(self.protocol_offered().0))
            }
            Code::SET_PROTOCOL_FEATURES => self.set_protocol(P(self.exact(body)?)),
            Code::GET_QUEUE_NUM => {
                self.empty(body)?;
                Ok(Answer::number(self.queue_count()))
            }
            Code::SET_MEM_TABLE => self.set_mem_table(body, fds),
            Code::ADD_MEM_REG => {
                let region = self.exact::<SingleMemRegion>(body)?.region;
                let fd = self.exactly_one(fds)?;
                self.mem.add(region, fd)?;
                self.remap();
                Ok(Answer::Ack)
            }
            Code::REM_MEM_REG => {
                if !fds.is_empty() && self.faults.has(Fault::RemovalRefusesFd) {
                    return Err(wrong("a descriptor that does not belong there"));
                }
                let region = self.exact::<SingleMemRegion>(body)?.region;
                self.mem.remove(&region)?;
                self.remap();
                Ok(Answer::Ack)
            }
            Code::GET_MAX_MEM_SLOTS => {
                self.empty(body)?;
                Ok(Answer::number(if self.faults.has(Fault::SlotsTooFew) { 4 } else { MAX_SLOTS as u64 }))
            }
            Code::SET_LOG_BASE => self.set_log_base(body, fds),
            Code::SET_VRING_NUM => self.set_vring_num(self.exact(body)?),
            Code::SET_VRING_ADDR => self.set_vring_addr(self.exact(body)?),
            Code::SET_VRING_BASE => {
                let VringState { index, num } = self.exact(body)?;
                if self.ring(index)?.addr.is_some() && self.faults.has(Fault::BaseNeedsEarly) {
                    return Err(fatal("the ring has addresses"));
                }
                let kept = self.faults.has(Fault::OldBaseKept);
                self.reconfigure(index, |ring| ring.base = ring.base.filter(|_| kept).or(Some(num)))
            }
            Code::GET_VRING_BASE => self.get_vring_base(self.exact::<VringState>(body)?.index),
            Code::SET_VRING_KICK => self.set_vring_kick(self.exact(body)?, fds),
            Code::SET_VRING_CALL => self.set_vring_call(self.exact(body)?, fds),
            Code::SET_VRING_ERR => {
                let (index, fd) = self.vring_fd(self.exact(body)?, fds)?;
                if self.ring(index)?.running.is_some() && self.faults.has(Fault::ErrorNeedsEarly) {
                    return Err(fatal("the ring runs"));
                }
                self.ring(index)?.error = fd;
                Ok(Answer::Ack)
            }
            Code::SET_VRING_ENABLE => self.set_vring_enable(self.exact(body)?),
            Code::SET_BACKEND_REQ_FD => {
                self.empty(body)?;
                if self.back.is_some() && self.faults.has(Fault::ChannelOnlyOnce) {
                    return Err(fatal("there is a channel"));
                }
                self.set_back_channel(one(fds)?);
                Ok(Answer::Ack)
            }
            Code::GET_CONFIG => config::read(self, body),
            Code::SET_CONFIG => config::write(self, body),
            Code::GET_INFLIGHT_FD => self.get_inflight(inflight(body)?),
            Code::SET_INFLIGHT_FD => {
                let packed = self.has(bits::VIRTIO_F_RING_PACKED);
                let fd = self.exactly_one(fds)?;
                let taken = Buffer::take(inflight(body)?, fd, packed, self.faults);
                if taken.is_err() && self.faults.has(Fault::InflightRefusalCrashes) {
                    die();
                }
                self.inflight = Some(taken?);
                Ok(Answer::Ack)
            }
            Code::RESET_DEVICE => {
                self.empty(body)?;
                self.reset_device();
                Ok(Answer::Ack)
            }
            Code::SET_STATUS => {
                self.status = self.exact(body)?;
                if self.status == 0 && !self.faults.has(Fault::StatusZeroKeepsRings) {
                    self.reset_device();
                }
                Ok(Answer::Ack)
            }
            Code::GET_STATUS => {
                self.empty(body)?;
                Ok(Answer::number(if self.faults.has(Fault::StatusForgotten) { 0 } else { self.status }))
            }
            Code::NET_SET_MTU if self.device.is_network() => {
                let mtu = self.exact(body)?;
                if self.faults.has(Fault::NetMtuRefused) {
                    return Err(wrong("no MTU will do"));
                }
                self.device.set_mtu(mtu)?;
                Ok(Answer::Ack)
            }
            Code::SEND_RARP if self.device.is_network() => {
                let _: u64 = self.exact(body)?;
                match self.faults.has(Fault::NetRarpRefused) {
                    true => Err(wrong("nothing is said to the network")),
                    false => Ok(Answer::Ack),
                }
            }
            Code::SET_DEVICE_STATE_FD => self.set_device_state(self.exact(body)?, fds),
            Code::CHECK_DEVICE_STATE => self.check_device_state(body),
            _ => Err(Refused::new(Kind::Unknown, "no such message here")),
        }
    }

    /// A payload of exactly this layout.
    fn exact<T: FromBytes>(&self, body: &[u8]) -> Result<T, Refused> {
        if body.len() < size_of::<T>() && self.faults.has(Fault::ShortPayloadCrashes) {
            die();
        }
        if body.len() > size_of::<T>() && self.faults.has(Fault::LongPayloadAccepted) {
            return T::read_from_prefix(body).map(|(value, _)| value).map_err(|_| wrong("too short"));
        }
        match T::read_from_bytes(body) {
            Err(_) if self.faults.has(Fault::ShortPayloadAccepted) => Ok(T::new_zeroed()),
            value => value.map_err(|_| wrong(format!("a payload of {} bytes", body.len()))),
        }
    }

    pub(crate) fn empty(&self, body: &[u8]) -> Result<(), Refused> {
        match body {
            [] => Ok(()),
            _ if self.faults.has(Fault::LongPayloadAccepted) => Ok(()),
            _ => Err(wrong("a payload where there is none")),
        }
    }

    fn exactly_one(&self, fds: &mut Vec<OwnedFd>) -> Result<OwnedFd, Refused> {
        if fds.len() > 1 && !self.faults.has(Fault::FdCountIgnored) {
            return Err(wrong(format!("{} descriptors", fds.len())));
        }
        one(fds)
    }

    fn queue_count(&self) -> u64 {
        let count = self.rings.len() as u64;
        let has = |fault| self.faults.has(fault);
        match count {
            _ if has(Fault::QueueCountZero) => 0,
            _ if has(Fault::QueueCountGrows) => count + u64::from(self.messages),
            _ if has(Fault::QueueCountWrong) => count + 1,
            _ => count,
        }
    }

    fn offered(&self) -> u64 {
        let mut offered = RING_FEATURES | self.device.features();
        if self.faults.has(Fault::OfferWithoutVersion1) {
            offered &= !bits::VIRTIO_F_VERSION_1;
        }
        if self.faults.has(Fault::OfferChangesWithConnection) && self.nth % 2 == 1 {
            offered &= !bits::VIRTIO_F_INDIRECT_DESC;
        }
        if self.faults.has(Fault::OfferChanges) && self.messages > 4 {
            offered &= !bits::VIRTIO_F_INDIRECT_DESC;
        }
        if self.faults.has(Fault::OfferWithoutProtocol) {
            offered &= !bits::VHOST_USER_F_PROTOCOL_FEATURES;
        }
        if self.faults.has(Fault::OfferUnimplemented) || self.faults.has(Fault::OfferIommuAlone) {
            offered |= bits::VIRTIO_F_ACCESS_PLATFORM;
        }
        offered
    }

    fn protocol_offered(&self) -> P {
        let mut offered = PROTOCOL;
        if self.device.is_network() {
            offered |= P::MTU | P::RARP;
        }
        if self.faults.has(Fault::OfferInband) {
            offered |= P::INBAND_NOTIFICATIONS;
        }
        if self.faults.has(Fault::OfferIommuAlone) {
            offered = offered - P::BACKEND_REQ - P::BACKEND_SEND_FD;
        }
        if self.faults.has(Fault::OfferSendFdAlone) {
            offered = offered - P::BACKEND_REQ;
        }
        if self.faults.has(Fault::ProtocolOfferChanges) && self.messages > 4 {
            offered = offered - P::STATUS;
        }
        offered
    }

    /// Without bit 30 all rings are enabled at once; with it, nothing changes for them. May come again at run time
    /// to switch logging; other changes restart the rings.
    fn set_features(&mut self, wanted: u64) -> Outcome {
        let extra = wanted & !self.offered();
        if extra != 0 && !self.faults.has(Fault::UnofferedAccepted) {
            return Err(wrong(format!("bits {extra:#x} were not offered")));
        }
        if self.protocol.is_empty() && self.faults.has(Fault::FeaturesNeedProtocol) {
            return Err(Refused::new(Kind::Fatal, "no protocol features are agreed on"));
        }
        if self.features.is_some() && self.faults.has(Fault::FeaturesOnlyOnce) {
            return Ok(Answer::Ack);
        }
        let changed = (self.features.unwrap_or(0) ^ wanted) & !bits::VHOST_F_LOG_ALL != 0;
        if changed || self.faults.has(Fault::FeaturesRestartRings) {
            (0..self.rings.len()).for_each(|index| self.stop(index));
        }
        if changed || self.features.is_none() {
            self.device.agree(wanted);
        }
        self.features = Some(wanted);
        let with_enable = wanted & bits::VHOST_USER_F_PROTOCOL_FEATURES != 0;
        let enables = match with_enable {
            true => self.faults.has(Fault::FeaturesEnable),
            false => !self.faults.has(Fault::NoBit30StaysDisabled),
        };
        for ring in &mut self.rings {
            ring.enabled |= enables;
            ring.enabled &= !(with_enable && self.faults.has(Fault::FeaturesDisable));
        }
        self.remap();
        Ok(Answer::Ack)
    }

    fn set_owner(&mut self, body: &[u8]) -> Outcome {
        self.empty(body)?;
        if self.protocol.is_empty() && self.faults.has(Fault::OwnerNeedsProtocol) {
            return Err(Refused::new(Kind::Fatal, "no protocol features are agreed on"));
        }
        let twice = std::mem::replace(&mut self.owned, true);
        match twice && self.faults.has(Fault::OwnerOnlyOnce) {
            true => Err(Refused::new(Kind::Fatal, "there is an owner")),
            false => Ok(Answer::Ack),
        }
    }

    fn set_protocol(&mut self, wanted: P) -> Outcome {
        let extra = wanted - self.protocol_offered();
        if !extra.is_empty() && !self.faults.has(Fault::UnofferedProtocolAccepted) {
            return Err(wrong(format!("bits {:#x} were not offered", extra.0)));
        }
        if self.features.is_none() && self.faults.has(Fault::ProtocolNeedsFeatures) {
            return Err(wrong("there are no features yet"));
        }
        if !self.protocol.is_empty() && self.faults.has(Fault::ProtocolOnlyOnce) {
            return Err(wrong("protocol features are agreed on"));
        }
        let needs = P::BACKEND_REQ | P::REPLY_ACK;
        if wanted.contains(P::INBAND_NOTIFICATIONS) && !wanted.contains(needs) {
            return Err(Refused::new(Kind::Fatal, "INBAND_NOTIFICATIONS without BACKEND_REQ and REPLY_ACK"));
        }
        self.protocol = wanted;
        LAST_PROTOCOL.store(wanted.0, Ordering::Relaxed);
        Ok(Answer::Ack)
    }

    fn set_mem_table(&mut self, body: &[u8], fds: &mut Vec<OwnedFd>) -> Outcome {
        let (header, rest) = MemTableHeader::read_from_prefix(body).map_err(|_| wrong("too short"))?;
        if self.faults.has(Fault::TableRefusedWithSlots) && self.protocol.contains(P::CONFIGURE_MEM_SLOTS) {
            return Err(wrong("regions come one by one"));
        }
        let mut count = usize::try_from(header.count).unwrap_or(usize::MAX);
        let whole = rest.len() / size_of::<MemRegion>();
        if self.faults.has(Fault::TableCountUnchecked) {
            count = whole;
        } else if self.faults.has(Fault::TruncatedTableAccepted) && header.count > 1 {
            count = count.min(whole);
        } else if count.checked_mul(size_of::<MemRegion>()) != Some(rest.len()) {
            return Err(wrong(format!("{count} regions in {} bytes", rest.len())));
        }
        if self.faults.has(Fault::TruncatedTableAccepted) {
            fds.truncate(count);
        }
        let excused = match fds.len() > count {
            true => self.faults.has(Fault::FdCountIgnored),
            false => self.faults.has(Fault::TableWithoutFdsAccepted),
        };
        if fds.len() != count && !excused {
            return Err(wrong(format!("{count} regions with {} descriptors", fds.len())));
        }
        let regions = rest.chunks_exact(size_of::<MemRegion>());
        let regions = regions.filter_map(|bytes| MemRegion::read_from_bytes(bytes).ok());
        let table = regions.zip(fds.drain(..)).collect();
        let replaced = self.mem.replace(table);
        if self.faults.has(Fault::TableStopsRings) {
            self.rings.iter_mut().filter(|ring| ring.running.is_some()).for_each(|ring| ring.latched = true);
        }
        self.remap();
        replaced?;
        Ok(Answer::Ack)
    }

    /// With LOG_SHMFD there is a descriptor, and an answer that repeats the payload; without, nothing to log to.
    fn set_log_base(&mut self, body: &[u8], fds: &mut Vec<OwnedFd>) -> Outcome {
        if !self.protocol.contains(P::LOG_SHMFD) {
            return if matches!(body.len(), 8 | 16) {
                Ok(match self.faults.has(Fault::LogAnsweredAlways) {
                    true => Answer::Data(body.to_vec(), Vec::new()),
                    false => Answer::Ack,
                })
            } else {
                Err(wrong("of another size"))
            };
        }
        let log: Log = self.exact(body)?;
        let offset = if self.faults.has(Fault::LogOffsetIgnored) { 0 } else { log.offset };
        let mapped = match DirtyLog::map(self.exactly_one(fds)?, log.size, offset) {
            Err(_) if self.faults.has(Fault::LogBadCrashes) => die(),
            mapped => mapped.map_err(|error| error.to_string())?,
        };
        if self.log.is_none() || !self.faults.has(Fault::LogNeverReplaced) {
            self.log = Some(mapped);
        }
        Ok(match self.faults.has(Fault::LogAnswerMissing) {
            true => Answer::Ack,
            false => Answer::Data(log.as_bytes().to_vec(), Vec::new()),
        })
    }

    fn get_inflight(&mut self, wanted: Inflight) -> Outcome {
        let fits = (1..=self.rings.len()).contains(&usize::from(wanted.num_queues));
        if self.features.is_none() && self.faults.has(Fault::InflightNeedsFeatures) {
            return Err(wrong("there are no features yet"));
        }
        let odd = !fits || wanted.queue_size == 0;
        if odd && self.faults.has(Fault::InflightOddCrashes) {
            die();
        }
        if odd || u32::from(wanted.queue_size) > MAX_RING_SIZE {
            return Err(wrong(format!("{} rings of {}", wanted.num_queues, wanted.queue_size)));
        }
        let packed = self.features.is_none() || self.has(bits::VIRTIO_F_RING_PACKED);
        let (buffer, fd) = Buffer::create(wanted, packed, self.faults)?;
        let mut described = buffer.described();
        self.inflight = Some(buffer);
        if self.faults.has(Fault::InflightShapeForgotten) {
            (described.num_queues, described.queue_size) = (0, 0);
        }
        let mut body = described.as_bytes().to_vec();
        if self.faults.has(Fault::InflightAnswerShort) {
            body.truncate(Inflight::SHORT_LEN);
        }
        let fds = if self.faults.has(Fault::InflightWithoutFd) { Vec::new() } else { vec![fd] };
        Ok(Answer::Data(body, fds))
    }
}

/// The first descriptor; others are closed.
pub(crate) fn one(fds: &mut Vec<OwnedFd>) -> Result<OwnedFd, Refused> {
    match fds.is_empty() {
        true => Err(wrong("no descriptor")),
        false => Ok(fds.remove(0)),
    }
}

/// 24 bytes, or 20 without the padding at the end.
fn inflight(body: &[u8]) -> Result<Inflight, Refused> {
    let mut padded = body.to_vec();
    if body.len() == Inflight::SHORT_LEN {
        padded.resize(size_of::<Inflight>(), 0);
    }
    Inflight::read_from_bytes(&padded).map_err(|_| wrong("neither 20 nor 24 bytes"))
}
