//! The front end's hand: a [`Request`] becomes a frame.

use std::os::fd::OwnedFd;

use zerocopy::{Immutable, IntoBytes};

use crate::message::{Frame, MAX_CONFIG_DATA, MAX_TABLE_REGIONS, MessageId, flags, vring_fd};
use crate::payload::{
    ConfigHeader, Log, MemRegion, MemTableHeader, SingleMemRegion, TransferState, VringState,
};
use crate::refusal::Refusal;
use crate::request::Request;

/// Builds the message that carries `request`, with NEED_REPLY or without.
///
/// Refused is only what the format cannot hold: a ring above 255 with a descriptor, too many regions, too much
/// configuration.
pub fn write_request(request: Request, need_reply: bool) -> Result<Frame, Refusal> {
    let code = request.code();
    let id = MessageId::from(code);
    let (body, fds) = payload(id, request)?;
    let need_reply = if need_reply { flags::NEED_REPLY } else { 0 };
    Ok(Frame { request: code.0, flags: flags::VERSION | need_reply, body, fds })
}

type Payload = (Vec<u8>, Vec<OwnedFd>);

fn payload(id: MessageId, request: Request) -> Result<Payload, Refusal> {
    Ok(match request {
        Request::GetFeatures
        | Request::SetOwner
        | Request::ResetOwner
        | Request::GetProtocolFeatures
        | Request::GetQueueNum
        | Request::PostcopyAdvise
        | Request::PostcopyListen
        | Request::PostcopyEnd
        | Request::ResetDevice
        | Request::GetMaxMemSlots
        | Request::GetStatus
        | Request::CheckDeviceState
        | Request::GetShmemConfig => (Vec::new(), Vec::new()),
        Request::SetFeatures(value)
        | Request::SetProtocolFeatures(value)
        | Request::NetSetMtu(value)
        | Request::CloseCryptoSession(value)
        | Request::SetStatus(value) => bytes(&value),
        Request::SetMemTable(regions) => table(id, regions)?,
        Request::SetLogBase { size, offset, fd } => with(&Log { size, offset }, fd),
        Request::SetLogFd(fd) | Request::SetBackendReqFd(fd) | Request::GpuSetSocket(fd) => {
            (Vec::new(), vec![fd])
        }
        Request::SetVringNum { index, num } | Request::SetVringBase { index, num } => state(index, num),
        Request::SetVringAddr(addr) => bytes(&addr),
        Request::GetVringBase { index }
        | Request::GetVringBaseSkipDrain { index }
        | Request::VringKick { index } => state(index, 0),
        Request::SetVringKick { index, fd }
        | Request::SetVringCall { index, fd }
        | Request::SetVringErr { index, fd } => ring_fd(id, index, fd)?,
        Request::SetVringEnable { index, enable } => state(index, enable.into()),
        Request::SendRarp([a, b, c, d, e, f]) => bytes(&[a, b, c, d, e, f, 0, 0]),
        Request::IotlbMsg(iotlb) => bytes(&iotlb),
        Request::SetVringEndian { index, big } => state(index, big.into()),
        Request::GetConfig { offset, size, flags } => {
            // The bytes after the header mean nothing, but the specification has them sent.
            let len = usize::try_from(size).unwrap_or(usize::MAX);
            config(id, offset, flags, len, |body| body.resize(body.len() + len, 0))?
        }
        Request::SetConfig { offset, flags, data } => {
            config(id, offset, flags, data.len(), |body| body.extend_from_slice(&data))?
        }
        Request::CreateCryptoSession(session) => (session, Vec::new()),
        Request::GetInflightFd(inflight) => bytes(&inflight),
        Request::SetInflightFd(inflight, fd) => with(&inflight, Some(fd)),
        Request::AddMemReg(region, fd) => with(&SingleMemRegion { padding: 0, region }, Some(fd)),
        Request::RemMemReg(region) => bytes(&SingleMemRegion { padding: 0, region }),
        Request::GetSharedObject(uuid) => bytes(&uuid),
        Request::SetDeviceStateFd { direction, phase, fd } => {
            with(&TransferState { direction, phase }, Some(fd))
        }
    })
}

fn bytes<T: IntoBytes + Immutable>(value: &T) -> Payload {
    with(value, None)
}

fn with<T: IntoBytes + Immutable>(value: &T, fd: Option<OwnedFd>) -> Payload {
    (value.as_bytes().to_vec(), fd.into_iter().collect())
}

fn state(index: u32, num: u32) -> Payload {
    bytes(&VringState { index, num })
}

fn table(id: MessageId, regions: Vec<(MemRegion, OwnedFd)>) -> Result<Payload, Refusal> {
    let count = match u32::try_from(regions.len()) {
        Ok(count) if regions.len() <= MAX_TABLE_REGIONS => count,
        _ => {
            return Err(Refusal::Oversized { id, size: regions.len() as u64, max: MAX_TABLE_REGIONS as u64 });
        }
    };
    let mut body = MemTableHeader { count, padding: 0 }.as_bytes().to_vec();
    let mut fds = Vec::with_capacity(regions.len());
    for (region, fd) in regions {
        body.extend_from_slice(region.as_bytes());
        fds.push(fd);
    }
    Ok((body, fds))
}

fn ring_fd(id: MessageId, index: u32, fd: Option<OwnedFd>) -> Result<Payload, Refusal> {
    if index > vring_fd::MAX_INDEX {
        return Err(Refusal::BadIndex { id, index, queues: vring_fd::MAX_INDEX + 1 });
    }
    let no_fd = if fd.is_none() { vring_fd::NO_FD } else { 0 };
    Ok(with(&(u64::from(index) | no_fd), fd))
}

fn config(
    id: MessageId,
    offset: u32,
    flags: u32,
    len: usize,
    fill: impl FnOnce(&mut Vec<u8>),
) -> Result<Payload, Refusal> {
    let size = match u32::try_from(len) {
        Ok(size) if size <= MAX_CONFIG_DATA => size,
        _ => return Err(Refusal::Oversized { id, size: len as u64, max: MAX_CONFIG_DATA.into() }),
    };
    let mut body = ConfigHeader { offset, size, flags }.as_bytes().to_vec();
    fill(&mut body);
    Ok((body, Vec::new()))
}
