//! The back end's eyes: a frame of the front end becomes a [`Request`].

use std::os::fd::OwnedFd;

use super::{Fds, empty, exact, prefix};
use crate::message::{
    Frame, FrontendRequest, MAX_CONFIG_DATA, MAX_RING_SIZE, MAX_TABLE_REGIONS, MessageId, vring_fd,
};
use crate::payload::{
    ConfigHeader, Inflight, Log, MemRegion, MemTableHeader, SingleMemRegion, TransferState, VringAddr,
    VringState,
};
use crate::refusal::Refusal;
use crate::request::Request;

/// Parses a message of the front end. Payload, descriptor count and value ranges are checked; ring indexes against
/// the device, and negotiation, are not.
pub fn read_request(frame: Frame) -> Result<Request, Refusal> {
    use FrontendRequest as Code;
    let code = Code(frame.request);
    let id = MessageId::from(code);
    let body = frame.body.as_slice();
    let fds = Fds::new(id, frame.fds);

    let without_payload = |request| empty(id, body).map(|()| request);
    let number = || exact::<u64>(id, body);
    let state = || exact::<VringState>(id, body);
    let index = || state().map(|state| state.index);

    Ok(match code {
        Code::GET_FEATURES => without_payload(Request::GetFeatures)?,
        Code::SET_FEATURES => Request::SetFeatures(number()?),
        Code::SET_OWNER => without_payload(Request::SetOwner)?,
        Code::RESET_OWNER => without_payload(Request::ResetOwner)?,
        Code::SET_MEM_TABLE => Request::SetMemTable(table(id, body, fds)?),
        Code::SET_LOG_BASE => log_base(id, body, fds)?,
        Code::SET_LOG_FD => log_fd(id, body, fds)?,
        Code::SET_VRING_NUM => ring_size(id, state()?)?,
        Code::SET_VRING_ADDR => Request::SetVringAddr(exact::<VringAddr>(id, body)?),
        Code::SET_VRING_BASE => {
            let VringState { index, num } = state()?;
            Request::SetVringBase { index, num }
        }
        Code::GET_VRING_BASE => Request::GetVringBase { index: index()? },
        Code::SET_VRING_KICK => {
            let (index, fd) = ring_fd(id, number()?, fds)?;
            Request::SetVringKick { index, fd }
        }
        Code::SET_VRING_CALL => {
            let (index, fd) = ring_fd(id, number()?, fds)?;
            Request::SetVringCall { index, fd }
        }
        Code::SET_VRING_ERR => {
            let (index, fd) = ring_fd(id, number()?, fds)?;
            Request::SetVringErr { index, fd }
        }
        Code::GET_PROTOCOL_FEATURES => without_payload(Request::GetProtocolFeatures)?,
        Code::SET_PROTOCOL_FEATURES => Request::SetProtocolFeatures(number()?),
        Code::GET_QUEUE_NUM => without_payload(Request::GetQueueNum)?,
        Code::SET_VRING_ENABLE => {
            let (index, enable) = ring_switch(id, "enable", state()?)?;
            Request::SetVringEnable { index, enable }
        }
        Code::SEND_RARP => Request::SendRarp(mac(id, body)?),
        Code::NET_SET_MTU => Request::NetSetMtu(number()?),
        Code::SET_BACKEND_REQ_FD => {
            empty(id, body)?;
            Request::SetBackendReqFd(fds.required()?)
        }
        Code::IOTLB_MSG => Request::IotlbMsg(exact(id, body)?),
        Code::SET_VRING_ENDIAN => {
            let (index, big) = ring_switch(id, "byte order", state()?)?;
            Request::SetVringEndian { index, big }
        }
        Code::GET_CONFIG => {
            let (ConfigHeader { offset, size, flags }, _) = config(id, body)?;
            Request::GetConfig { offset, size, flags }
        }
        Code::SET_CONFIG => set_config(id, body)?,
        Code::CREATE_CRYPTO_SESSION => Request::CreateCryptoSession(crypto_session(id, body)?),
        Code::CLOSE_CRYPTO_SESSION => Request::CloseCryptoSession(number()?),
        Code::POSTCOPY_ADVISE => without_payload(Request::PostcopyAdvise)?,
        Code::POSTCOPY_LISTEN => without_payload(Request::PostcopyListen)?,
        Code::POSTCOPY_END => without_payload(Request::PostcopyEnd)?,
        Code::GET_INFLIGHT_FD => Request::GetInflightFd(inflight(id, body)?),
        Code::SET_INFLIGHT_FD => Request::SetInflightFd(inflight(id, body)?, fds.only()?),
        Code::GPU_SET_SOCKET => {
            empty(id, body)?;
            Request::GpuSetSocket(fds.required()?)
        }
        Code::RESET_DEVICE => without_payload(Request::ResetDevice)?,
        Code::VRING_KICK => Request::VringKick { index: index()? },
        Code::GET_MAX_MEM_SLOTS => without_payload(Request::GetMaxMemSlots)?,
        Code::ADD_MEM_REG => Request::AddMemReg(exact::<SingleMemRegion>(id, body)?.region, fds.only()?),
        Code::REM_MEM_REG => Request::RemMemReg(exact::<SingleMemRegion>(id, body)?.region),
        Code::SET_STATUS => Request::SetStatus(number()?),
        Code::GET_STATUS => without_payload(Request::GetStatus)?,
        Code::GET_SHARED_OBJECT => Request::GetSharedObject(uuid(id, body)?),
        Code::SET_DEVICE_STATE_FD => {
            let TransferState { direction, phase } = exact(id, body)?;
            Request::SetDeviceStateFd { direction, phase, fd: fds.required()? }
        }
        Code::CHECK_DEVICE_STATE => without_payload(Request::CheckDeviceState)?,
        Code::GET_SHMEM_CONFIG => without_payload(Request::GetShmemConfig)?,
        Code::GET_VRING_BASE_SKIP_DRAIN => Request::GetVringBaseSkipDrain { index: index()? },
        _ => return Err(Refusal::UnknownRequest { id }),
    })
}

fn table(id: MessageId, body: &[u8], fds: Fds) -> Result<Vec<(MemRegion, OwnedFd)>, Refusal> {
    let (MemTableHeader { count, .. }, rest) = prefix::<MemTableHeader>(id, body)?;
    let wanted = usize::try_from(count).unwrap_or(usize::MAX);
    if wanted > MAX_TABLE_REGIONS {
        return Err(Refusal::Oversized { id, size: count.into(), max: MAX_TABLE_REGIONS as u64 });
    }
    if rest.len() != wanted * size_of::<MemRegion>() {
        return Err(Refusal::Malformed { id, reason: "the number of regions does not fit the payload" });
    }
    let fds = fds.exactly(wanted)?;
    rest.chunks_exact(size_of::<MemRegion>())
        .zip(fds)
        .map(|(bytes, fd)| Ok((exact(id, bytes)?, fd)))
        .collect()
}

/// With LOG_SHMFD: 16 bytes and a descriptor. Without: 16 bytes, or 8 that are an address of the front end's.
fn log_base(id: MessageId, body: &[u8], fds: Fds) -> Result<Request, Refusal> {
    let fd = fds.at_most_one()?;
    if body.len() == size_of::<u64>() {
        return Ok(Request::SetLogBase { size: 0, offset: 0, fd: None });
    }
    let Log { size, offset } = exact(id, body)?;
    Ok(Request::SetLogBase { size, offset, fd })
}

/// The payload is empty, or a number without meaning.
fn log_fd(id: MessageId, body: &[u8], fds: Fds) -> Result<Request, Refusal> {
    if body.len() != size_of::<u64>() {
        empty(id, body)?;
    }
    Ok(Request::SetLogFd(fds.required()?))
}

/// VIRTIO 1.3, 2.7 and 2.8: 1 to 32768. That split rings are powers of two shows when the format is known.
fn ring_size(id: MessageId, VringState { index, num }: VringState) -> Result<Request, Refusal> {
    if num == 0 || num > MAX_RING_SIZE {
        return Err(Refusal::BadValue { id, what: "ring size", value: num.into() });
    }
    Ok(Request::SetVringNum { index, num })
}

/// Bits 9 to 63 mean nothing. A front end that sets them addresses a ring which these messages cannot name.
fn ring_fd(id: MessageId, value: u64, fds: Fds) -> Result<(u32, Option<OwnedFd>), Refusal> {
    if value & !(vring_fd::INDEX_MASK | vring_fd::NO_FD) != 0 {
        return Err(Refusal::BadValue { id, what: "ring", value });
    }
    let index = u32::try_from(value & vring_fd::INDEX_MASK).unwrap_or(u32::MAX);
    let fd = if value & vring_fd::NO_FD != 0 { None } else { Some(fds.required()?) };
    Ok((index, fd))
}

fn ring_switch(
    id: MessageId,
    what: &'static str,
    VringState { index, num }: VringState,
) -> Result<(u32, bool), Refusal> {
    match num {
        0 => Ok((index, false)),
        1 => Ok((index, true)),
        _ => Err(Refusal::BadValue { id, what, value: num.into() }),
    }
}

/// Six bytes of address in memory order, two of padding.
fn mac(id: MessageId, body: &[u8]) -> Result<[u8; 6], Refusal> {
    let [a, b, c, d, e, f, _, _] = exact::<[u8; 8]>(id, body)?;
    Ok([a, b, c, d, e, f])
}

fn config(id: MessageId, body: &[u8]) -> Result<(ConfigHeader, &[u8]), Refusal> {
    let (header, data) = prefix::<ConfigHeader>(id, body)?;
    if header.size > MAX_CONFIG_DATA {
        return Err(Refusal::Oversized { id, size: header.size.into(), max: MAX_CONFIG_DATA.into() });
    }
    Ok((header, data))
}

/// Bytes beyond the announced size are ignored: SPDK sends its whole buffer.
fn set_config(id: MessageId, body: &[u8]) -> Result<Request, Refusal> {
    let (ConfigHeader { offset, size, flags }, data) = config(id, body)?;
    let data = usize::try_from(size)
        .ok()
        .and_then(|size| data.get(..size))
        .ok_or(Refusal::Malformed { id, reason: "less configuration than announced" })?;
    Ok(Request::SetConfig { offset, flags, data: data.to_vec() })
}

/// The layout in between is the host ABI's; operation code and session id frame it.
fn crypto_session(id: MessageId, body: &[u8]) -> Result<Vec<u8>, Refusal> {
    if body.len() < 16 {
        return Err(Refusal::Malformed { id, reason: "the payload is too short" });
    }
    Ok(body.to_vec())
}

/// 24 bytes, or 20 from structs without trailing padding.
fn inflight(id: MessageId, body: &[u8]) -> Result<Inflight, Refusal> {
    let mut padded = [0; size_of::<Inflight>()];
    match padded.get_mut(..body.len()) {
        Some(bytes) if body.len() >= Inflight::SHORT_LEN => bytes.copy_from_slice(body),
        _ => return Err(Refusal::Malformed { id, reason: "neither 20 nor 24 bytes" }),
    }
    let mut inflight: Inflight = exact(id, &padded)?;
    inflight.padding = [0; 4];
    Ok(inflight)
}

/// QEMU 11 sends no payload by mistake: then nothing is asked for, and nothing will be found.
fn uuid(id: MessageId, body: &[u8]) -> Result<[u8; 16], Refusal> {
    if body.is_empty() { Ok([0; 16]) } else { exact(id, body) }
}
