//! Writes the seeds of the fuzz target `session`: one file per front-end message, each a short dialogue that
//! negotiates everything and ends in that message.
//!
//! `cargo run -p outboard-vhost-user --example seeds -- fuzz/seeds/session`

use std::{error::Error, fs, os::fd::OwnedFd, path::PathBuf};

use outboard_vhost_user::{
    Frame, FrontendRequest, Request,
    codec::write_request,
    payload::{Inflight, Iotlb, MemRegion, VringAddr},
};

/// All features, all protocol features on offer.
const EVERYTHING: u8 = 3;

fn fd() -> Result<OwnedFd, std::io::Error> {
    Ok(fs::File::open("/dev/null")?.into())
}

fn example(code: FrontendRequest) -> Result<Request, Box<dyn Error>> {
    use FrontendRequest as Code;
    let region = MemRegion { guest_addr: 0, size: 0x20_0000, user_addr: 0x7f00_0000_0000, mmap_offset: 0 };
    let inflight = Inflight { mmap_size: 4096, num_queues: 2, queue_size: 64, ..Inflight::default() };
    Ok(match code {
        Code::GET_FEATURES => Request::GetFeatures,
        Code::SET_FEATURES => Request::SetFeatures(1 << 32 | 1 << 30),
        Code::SET_OWNER => Request::SetOwner,
        Code::RESET_OWNER => Request::ResetOwner,
        Code::SET_MEM_TABLE => Request::SetMemTable(vec![
            (region, fd()?),
            (MemRegion { guest_addr: 0x1_0000_0000, user_addr: 0x7f10_0000_0000, ..region }, fd()?),
        ]),
        Code::SET_LOG_BASE => Request::SetLogBase { size: 4096, offset: 0, fd: Some(fd()?) },
        Code::SET_LOG_FD => Request::SetLogFd(fd()?),
        Code::SET_VRING_NUM => Request::SetVringNum { index: 0, num: 128 },
        Code::SET_VRING_ADDR => Request::SetVringAddr(VringAddr {
            descriptor: region.user_addr,
            available: region.user_addr + 0x1000,
            used: region.user_addr + 0x2000,
            ..VringAddr::default()
        }),
        Code::SET_VRING_BASE => Request::SetVringBase { index: 1, num: 3 },
        Code::GET_VRING_BASE => Request::GetVringBase { index: 1 },
        Code::SET_VRING_KICK => Request::SetVringKick { index: 2, fd: Some(fd()?) },
        Code::SET_VRING_CALL => Request::SetVringCall { index: 2, fd: Some(fd()?) },
        Code::SET_VRING_ERR => Request::SetVringErr { index: 2, fd: None },
        Code::GET_PROTOCOL_FEATURES => Request::GetProtocolFeatures,
        Code::SET_PROTOCOL_FEATURES => Request::SetProtocolFeatures((1 << 24) - 1),
        Code::GET_QUEUE_NUM => Request::GetQueueNum,
        Code::SET_VRING_ENABLE => Request::SetVringEnable { index: 3, enable: true },
        Code::SEND_RARP => Request::SendRarp([0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        Code::NET_SET_MTU => Request::NetSetMtu(1500),
        Code::SET_BACKEND_REQ_FD => Request::SetBackendReqFd(fd()?),
        Code::IOTLB_MSG => {
            Request::IotlbMsg(Iotlb { size: 4096, permission: 3, kind: 2, ..Iotlb::default() })
        }
        Code::SET_VRING_ENDIAN => Request::SetVringEndian { index: 0, big: true },
        Code::GET_CONFIG => Request::GetConfig { offset: 0, size: 60, flags: 0 },
        Code::SET_CONFIG => Request::SetConfig { offset: 32, flags: 0, data: vec![1] },
        Code::CREATE_CRYPTO_SESSION => Request::CreateCryptoSession(vec![0; 1072]),
        Code::CLOSE_CRYPTO_SESSION => Request::CloseCryptoSession(1),
        Code::POSTCOPY_ADVISE => Request::PostcopyAdvise,
        Code::POSTCOPY_LISTEN => Request::PostcopyListen,
        Code::POSTCOPY_END => Request::PostcopyEnd,
        Code::GET_INFLIGHT_FD => Request::GetInflightFd(inflight),
        Code::SET_INFLIGHT_FD => Request::SetInflightFd(inflight, fd()?),
        Code::GPU_SET_SOCKET => Request::GpuSetSocket(fd()?),
        Code::RESET_DEVICE => Request::ResetDevice,
        Code::VRING_KICK => Request::VringKick { index: 0 },
        Code::GET_MAX_MEM_SLOTS => Request::GetMaxMemSlots,
        Code::ADD_MEM_REG => Request::AddMemReg(region, fd()?),
        Code::REM_MEM_REG => Request::RemMemReg(region),
        Code::SET_STATUS => Request::SetStatus(15),
        Code::GET_STATUS => Request::GetStatus,
        Code::GET_SHARED_OBJECT => Request::GetSharedObject([7; 16]),
        Code::SET_DEVICE_STATE_FD => Request::SetDeviceStateFd { direction: 0, phase: 0, fd: fd()? },
        Code::CHECK_DEVICE_STATE => Request::CheckDeviceState,
        Code::GET_SHMEM_CONFIG => Request::GetShmemConfig,
        Code::GET_VRING_BASE_SKIP_DRAIN => Request::GetVringBaseSkipDrain { index: 0 },
        other => return Err(format!("no example of {other}").into()),
    })
}

/// A message as the fuzz target reads it: how many descriptors, header, payload.
fn append(seed: &mut Vec<u8>, frame: &Frame) {
    seed.push(u8::try_from(frame.fds.len()).unwrap_or(u8::MAX));
    seed.extend(frame.to_bytes());
}

fn main() -> Result<(), Box<dyn Error>> {
    let dir = PathBuf::from(std::env::args_os().nth(1).ok_or("usage: seeds DIRECTORY")?);
    fs::create_dir_all(&dir)?;
    let opening = [
        Request::GetFeatures,
        Request::GetProtocolFeatures,
        Request::SetProtocolFeatures((1 << 24) - 1),
        Request::SetFeatures(1 << 30 | 1 << 32 | 1 << 33),
    ];
    let mut prologue = vec![EVERYTHING];
    for request in opening {
        append(&mut prologue, &write_request(request, true)?);
    }
    for code in FrontendRequest::ALL {
        let mut seed = prologue.clone();
        append(&mut seed, &write_request(example(*code)?, true)?);
        let name = code.name().ok_or("a code without a name")?.to_lowercase();
        fs::write(dir.join(name), seed)?;
    }
    Ok(())
}
