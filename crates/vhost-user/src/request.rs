//! What a front end can ask, as values.

use std::os::fd::OwnedFd;

use crate::message::FrontendRequest;
use crate::payload::{Inflight, Iotlb, MemRegion, VringAddr};

/// A message of the front end: payload parsed, descriptors owned.
///
/// Nothing in here has been checked against the device; a session has checked what the protocol alone can tell.
#[derive(Debug)]
#[allow(missing_docs, reason = "fields are those of the payloads, described in `payload`")]
pub enum Request {
    /// Asks for the virtio feature bits on offer.
    GetFeatures,
    /// Sets the agreed virtio feature bits.
    SetFeatures(u64),
    /// Marks the start of a connection.
    SetOwner,
    /// Deprecated: disables all rings.
    ResetOwner,
    /// Replaces the whole memory table.
    SetMemTable(Vec<(MemRegion, OwnedFd)>),
    /// Replaces the dirty log. Without a descriptor there is nothing to map: it is ignored.
    SetLogBase { size: u64, offset: u64, fd: Option<OwnedFd> },
    /// Hands over the "log updated" eventfd.
    SetLogFd(OwnedFd),
    /// Sets the size of a ring; between 1 and 32768.
    SetVringNum { index: u32, num: u32 },
    /// Sets the addresses of a ring.
    SetVringAddr(VringAddr),
    /// Sets the index at which a ring continues.
    SetVringBase { index: u32, num: u32 },
    /// Stops a ring and asks for the index at which it continues.
    GetVringBase { index: u32 },
    /// Starts a ring. Without an eventfd the back end polls.
    SetVringKick { index: u32, fd: Option<OwnedFd> },
    /// Sets the eventfd with which the device calls the driver. Without one the driver polls.
    SetVringCall { index: u32, fd: Option<OwnedFd> },
    /// Sets the eventfd that reports a ring's fault.
    SetVringErr { index: u32, fd: Option<OwnedFd> },
    /// Asks for the protocol feature bits on offer.
    GetProtocolFeatures,
    /// Sets the agreed protocol feature bits.
    SetProtocolFeatures(u64),
    /// Asks how many rings there are.
    GetQueueNum,
    /// Enables or disables a ring.
    SetVringEnable { index: u32, enable: bool },
    /// Asks for a RARP broadcast with this MAC address.
    SendRarp([u8; 6]),
    /// Sets the network MTU.
    NetSetMtu(u64),
    /// Hands over the socket of the back channel.
    SetBackendReqFd(OwnedFd),
    /// Updates or invalidates an IOTLB entry.
    IotlbMsg(Iotlb),
    /// Sets the byte order of a legacy ring.
    SetVringEndian { index: u32, big: bool },
    /// Reads the device's configuration space.
    GetConfig { offset: u32, size: u32, flags: u32 },
    /// Writes the device's configuration space.
    SetConfig { offset: u32, flags: u32, data: Vec<u8> },
    /// Opens a crypto session; the layout depends on the host's ABI.
    CreateCryptoSession(Vec<u8>),
    /// Closes a crypto session.
    CloseCryptoSession(u64),
    /// Announces postcopy migration.
    PostcopyAdvise,
    /// Starts listening for page faults.
    PostcopyListen,
    /// Ends postcopy migration.
    PostcopyEnd,
    /// Asks for a buffer that records requests in flight.
    GetInflightFd(Inflight),
    /// Hands over the buffer that records requests in flight.
    SetInflightFd(Inflight, OwnedFd),
    /// Hands over the socket of the GPU channel.
    GpuSetSocket(OwnedFd),
    /// Resets the device.
    ResetDevice,
    /// Kicks a ring in band.
    VringKick { index: u32 },
    /// Asks how many memory regions fit.
    GetMaxMemSlots,
    /// Adds a memory region.
    AddMemReg(MemRegion, OwnedFd),
    /// Removes a memory region.
    RemMemReg(MemRegion),
    /// Sets the virtio device status.
    SetStatus(u64),
    /// Asks for the virtio device status.
    GetStatus,
    /// Asks for the dma-buf behind a UUID; all zeroes when the front end sent none.
    GetSharedObject([u8; 16]),
    /// Starts the transfer of the device's state.
    SetDeviceStateFd { direction: u32, phase: u32, fd: OwnedFd },
    /// Asks how the transfer of the device's state went.
    CheckDeviceState,
    /// Asks for the device's shared memory regions.
    GetShmemConfig,
    /// Like `GetVringBase`, without waiting for requests in flight.
    GetVringBaseSkipDrain { index: u32 },
}

impl Request {
    /// The code under which it travels.
    pub fn code(&self) -> FrontendRequest {
        use FrontendRequest as Code;
        match self {
            Self::GetFeatures => Code::GET_FEATURES,
            Self::SetFeatures(_) => Code::SET_FEATURES,
            Self::SetOwner => Code::SET_OWNER,
            Self::ResetOwner => Code::RESET_OWNER,
            Self::SetMemTable(_) => Code::SET_MEM_TABLE,
            Self::SetLogBase { .. } => Code::SET_LOG_BASE,
            Self::SetLogFd(_) => Code::SET_LOG_FD,
            Self::SetVringNum { .. } => Code::SET_VRING_NUM,
            Self::SetVringAddr(_) => Code::SET_VRING_ADDR,
            Self::SetVringBase { .. } => Code::SET_VRING_BASE,
            Self::GetVringBase { .. } => Code::GET_VRING_BASE,
            Self::SetVringKick { .. } => Code::SET_VRING_KICK,
            Self::SetVringCall { .. } => Code::SET_VRING_CALL,
            Self::SetVringErr { .. } => Code::SET_VRING_ERR,
            Self::GetProtocolFeatures => Code::GET_PROTOCOL_FEATURES,
            Self::SetProtocolFeatures(_) => Code::SET_PROTOCOL_FEATURES,
            Self::GetQueueNum => Code::GET_QUEUE_NUM,
            Self::SetVringEnable { .. } => Code::SET_VRING_ENABLE,
            Self::SendRarp(_) => Code::SEND_RARP,
            Self::NetSetMtu(_) => Code::NET_SET_MTU,
            Self::SetBackendReqFd(_) => Code::SET_BACKEND_REQ_FD,
            Self::IotlbMsg(_) => Code::IOTLB_MSG,
            Self::SetVringEndian { .. } => Code::SET_VRING_ENDIAN,
            Self::GetConfig { .. } => Code::GET_CONFIG,
            Self::SetConfig { .. } => Code::SET_CONFIG,
            Self::CreateCryptoSession(_) => Code::CREATE_CRYPTO_SESSION,
            Self::CloseCryptoSession(_) => Code::CLOSE_CRYPTO_SESSION,
            Self::PostcopyAdvise => Code::POSTCOPY_ADVISE,
            Self::PostcopyListen => Code::POSTCOPY_LISTEN,
            Self::PostcopyEnd => Code::POSTCOPY_END,
            Self::GetInflightFd(_) => Code::GET_INFLIGHT_FD,
            Self::SetInflightFd(..) => Code::SET_INFLIGHT_FD,
            Self::GpuSetSocket(_) => Code::GPU_SET_SOCKET,
            Self::ResetDevice => Code::RESET_DEVICE,
            Self::VringKick { .. } => Code::VRING_KICK,
            Self::GetMaxMemSlots => Code::GET_MAX_MEM_SLOTS,
            Self::AddMemReg(..) => Code::ADD_MEM_REG,
            Self::RemMemReg(_) => Code::REM_MEM_REG,
            Self::SetStatus(_) => Code::SET_STATUS,
            Self::GetStatus => Code::GET_STATUS,
            Self::GetSharedObject(_) => Code::GET_SHARED_OBJECT,
            Self::SetDeviceStateFd { .. } => Code::SET_DEVICE_STATE_FD,
            Self::CheckDeviceState => Code::CHECK_DEVICE_STATE,
            Self::GetShmemConfig => Code::GET_SHMEM_CONFIG,
            Self::GetVringBaseSkipDrain { .. } => Code::GET_VRING_BASE_SKIP_DRAIN,
        }
    }

    /// The ring it is about, if it is about one.
    pub fn ring(&self) -> Option<u32> {
        match self {
            Self::SetVringNum { index, .. }
            | Self::SetVringBase { index, .. }
            | Self::GetVringBase { index }
            | Self::GetVringBaseSkipDrain { index }
            | Self::SetVringKick { index, .. }
            | Self::SetVringCall { index, .. }
            | Self::SetVringErr { index, .. }
            | Self::SetVringEnable { index, .. }
            | Self::SetVringEndian { index, .. }
            | Self::VringKick { index } => Some(*index),
            Self::SetVringAddr(addr) => Some(addr.index),
            _ => None,
        }
    }
}
