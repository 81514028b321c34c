//! Payloads taken apart into fields. Syntax only, and without descriptors: those are somewhere else by now.

use std::borrow::Cow;

use outboard_virtio_defs::DeviceId;

use super::fields::{Field, Value};
use crate::codec::{empty, exact, prefix};
use crate::message::{BackendRequest, FrontendRequest, MessageId, vring_fd};
use crate::payload::{
    ConfigHeader, Inflight, Iotlb, Log, MemRegion, MemTableHeader, ShmemConfig, ShmemMapping,
    SingleMemRegion, TransferState, VringAddr, VringArea, VringState, device_state,
};
use crate::refusal::Refusal;
use crate::reply::ReplyKind;

type Fields = Result<Vec<Field>, Refusal>;

fn number(name: &'static str, value: impl Into<u64>) -> Field {
    Field { name, value: Value::Number(value.into()) }
}

fn hex(name: &'static str, value: impl Into<u64>) -> Field {
    Field { name, value: Value::Hex(value.into()) }
}

fn word(name: &'static str, value: impl Into<Cow<'static, str>>) -> Field {
    Field { name, value: Value::Word(value.into()) }
}

/// The fields of a message of the front end.
pub(super) fn of_request(code: FrontendRequest, body: &[u8], device: Option<DeviceId>) -> Fields {
    use FrontendRequest as Code;
    let id = MessageId::from(code);
    let u64_as = |name, value: fn(u64) -> Value| {
        exact::<u64>(id, body).map(|bits| vec![Field { name, value: value(bits) }])
    };
    match code {
        Code::GET_FEATURES
        | Code::SET_OWNER
        | Code::RESET_OWNER
        | Code::GET_PROTOCOL_FEATURES
        | Code::GET_QUEUE_NUM
        | Code::SET_BACKEND_REQ_FD
        | Code::POSTCOPY_ADVISE
        | Code::POSTCOPY_LISTEN
        | Code::POSTCOPY_END
        | Code::GPU_SET_SOCKET
        | Code::RESET_DEVICE
        | Code::GET_MAX_MEM_SLOTS
        | Code::GET_STATUS
        | Code::CHECK_DEVICE_STATE
        | Code::GET_SHMEM_CONFIG => empty(id, body).map(|()| Vec::new()),
        Code::SET_FEATURES => {
            Ok(vec![Field { name: "features", value: Value::features(exact(id, body)?, device) }])
        }
        Code::SET_PROTOCOL_FEATURES => u64_as("features", Value::protocol),
        Code::SET_STATUS => u64_as("status", Value::status),
        Code::NET_SET_MTU => u64_as("mtu", Value::Number),
        Code::CLOSE_CRYPTO_SESSION => u64_as("session", Value::Number),
        Code::SET_MEM_TABLE => table(id, body),
        Code::SET_LOG_BASE => log_base(id, body),
        Code::SET_LOG_FD => log_fd(id, body),
        Code::SET_VRING_NUM | Code::SET_VRING_BASE => ring(id, body, Some("num")),
        Code::SET_VRING_ENABLE => ring(id, body, Some("enable")),
        Code::SET_VRING_ENDIAN => ring(id, body, Some("big-endian")),
        Code::GET_VRING_BASE | Code::GET_VRING_BASE_SKIP_DRAIN | Code::VRING_KICK => ring(id, body, None),
        Code::SET_VRING_ADDR => Ok(addresses(exact(id, body)?)),
        Code::SET_VRING_KICK | Code::SET_VRING_CALL | Code::SET_VRING_ERR => ring_fd(exact(id, body)?),
        Code::SEND_RARP => rarp(exact(id, body)?),
        Code::IOTLB_MSG => Ok(iotlb(exact(id, body)?)),
        Code::GET_CONFIG | Code::SET_CONFIG => config(id, body, code == Code::SET_CONFIG),
        Code::CREATE_CRYPTO_SESSION => {
            Ok(vec![Field { name: "session", value: Value::Bytes(body.to_vec()) }])
        }
        Code::GET_INFLIGHT_FD | Code::SET_INFLIGHT_FD => inflight(id, body),
        Code::ADD_MEM_REG | Code::REM_MEM_REG => Ok(region(exact::<SingleMemRegion>(id, body)?.region)),
        Code::GET_SHARED_OBJECT if body.is_empty() => Ok(Vec::new()),
        Code::GET_SHARED_OBJECT => Ok(vec![uuid(exact(id, body)?)]),
        Code::SET_DEVICE_STATE_FD => transfer(exact(id, body)?),
        _ => Err(Refusal::UnknownRequest { id }),
    }
}

/// The fields of an answer of the back end that is to have the form `kind`.
pub(super) fn of_reply(
    code: FrontendRequest,
    kind: ReplyKind,
    body: &[u8],
    device: Option<DeviceId>,
) -> Fields {
    let id = MessageId::from(code);
    match kind {
        ReplyKind::Ack | ReplyKind::Verdict => exact(id, body).map(outcome),
        ReplyKind::U64 => exact(id, body).map(|value| vec![answer(code, value, device)]),
        ReplyKind::VringState => ring(id, body, Some("num")),
        ReplyKind::LogBase => match body.len() {
            0 => Ok(Vec::new()),
            8 => exact(id, body).map(outcome),
            _ => log_base(id, body),
        },
        ReplyKind::Config if body.is_empty() => Ok(vec![word("result", "refused")]),
        ReplyKind::Config => config(id, body, true),
        ReplyKind::Inflight => inflight(id, body),
        ReplyKind::DeviceState => exact::<u64>(id, body).map(|value| {
            let own = value & device_state::NO_FD == 0;
            vec![number("error", value & device_state::ERROR_MASK), number("own-descriptor", u64::from(own))]
        }),
        ReplyKind::SharedObject | ReplyKind::Uffd => empty(id, body).map(|()| Vec::new()),
        ReplyKind::Shmem => exact(id, body).map(|config: ShmemConfig| shmem(&config)),
        ReplyKind::CryptoSession => Ok(vec![Field { name: "session", value: Value::Bytes(body.to_vec()) }]),
    }
}

/// The fields of a message of the back end.
pub(super) fn of_back_request(code: BackendRequest, body: &[u8]) -> Fields {
    use BackendRequest as Code;
    let id = MessageId::from(code);
    match code {
        Code::IOTLB_MSG => Ok(iotlb(exact(id, body)?)),
        Code::CONFIG_CHANGE_MSG => empty(id, body).map(|()| Vec::new()),
        Code::VRING_HOST_NOTIFIER_MSG => {
            let VringArea { index, size, offset } = exact(id, body)?;
            let mut fields = ring_fd(index)?;
            fields.extend([number("size", size), hex("offset", offset)]);
            Ok(fields)
        }
        Code::VRING_CALL | Code::VRING_ERR => ring(id, body, None),
        Code::SHARED_OBJECT_ADD | Code::SHARED_OBJECT_REMOVE | Code::SHARED_OBJECT_LOOKUP => {
            Ok(vec![uuid(exact(id, body)?)])
        }
        Code::SHMEM_MAP | Code::SHMEM_UNMAP => {
            let ShmemMapping { shmid, fd_offset, shm_offset, len, flags, .. } = exact(id, body)?;
            Ok(vec![
                number("region", shmid),
                hex("file-offset", fd_offset),
                hex("offset", shm_offset),
                number("size", len),
                hex("flags", flags),
            ])
        }
        _ => Err(Refusal::UnknownRequest { id }),
    }
}

/// The fields of an answer of the front end.
pub(super) fn of_back_reply(code: BackendRequest, body: &[u8]) -> Fields {
    exact(MessageId::from(code), body).map(outcome)
}

/// How many descriptors belong to a request: at least, at most.
pub(super) fn descriptors(id: MessageId, body: &[u8]) -> (usize, usize) {
    let by_flag = || match exact::<[u64; 1]>(id, body.get(..8).unwrap_or_default()) {
        Ok([value]) if value & vring_fd::NO_FD == 0 => (1, 1),
        _ => (0, 0),
    };
    match id {
        MessageId::Frontend(code) => match code {
            FrontendRequest::SET_MEM_TABLE => {
                let count = prefix::<MemTableHeader>(id, body).map_or(0, |(table, _)| table.count);
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                (count, count)
            }
            FrontendRequest::SET_VRING_KICK
            | FrontendRequest::SET_VRING_CALL
            | FrontendRequest::SET_VRING_ERR => by_flag(),
            FrontendRequest::SET_LOG_FD
            | FrontendRequest::SET_BACKEND_REQ_FD
            | FrontendRequest::SET_INFLIGHT_FD
            | FrontendRequest::GPU_SET_SOCKET
            | FrontendRequest::ADD_MEM_REG
            | FrontendRequest::SET_DEVICE_STATE_FD => (1, 1),
            // libblkio sends one with REM_MEM_REG.
            FrontendRequest::SET_LOG_BASE | FrontendRequest::REM_MEM_REG => (0, 1),
            _ => (0, 0),
        },
        MessageId::Backend(BackendRequest::VRING_HOST_NOTIFIER_MSG) => by_flag(),
        MessageId::Backend(BackendRequest::SHMEM_MAP) => (1, 1),
        MessageId::Backend(_) => (0, 0),
    }
}

/// How many descriptors an answer of this form can carry.
pub(super) fn descriptors_of_reply(id: MessageId, kind: ReplyKind) -> usize {
    match (id, kind) {
        (MessageId::Backend(BackendRequest::SHARED_OBJECT_LOOKUP), _) => 1,
        (_, ReplyKind::Inflight | ReplyKind::DeviceState | ReplyKind::SharedObject | ReplyKind::Uffd) => 1,
        _ => 0,
    }
}

fn table(id: MessageId, body: &[u8]) -> Fields {
    let (MemTableHeader { count, .. }, rest) = prefix::<MemTableHeader>(id, body)?;
    let wanted = usize::try_from(count).unwrap_or(usize::MAX).checked_mul(size_of::<MemRegion>());
    if wanted != Some(rest.len()) {
        return Err(Refusal::Malformed { id, reason: "the number of regions does not fit the payload" });
    }
    let regions = rest.chunks_exact(size_of::<MemRegion>()).map(|bytes| exact(id, bytes).map(region));
    Ok(vec![Field { name: "regions", value: Value::List(regions.collect::<Result<_, _>>()?) }])
}

fn region(region: MemRegion) -> Vec<Field> {
    vec![
        hex("guest", region.guest_addr),
        hex("size", region.size),
        hex("user", region.user_addr),
        hex("offset", region.mmap_offset),
    ]
}

fn log_base(id: MessageId, body: &[u8]) -> Fields {
    if body.len() == size_of::<u64>() {
        return Ok(vec![hex("address", exact::<u64>(id, body)?)]);
    }
    let Log { size, offset } = exact(id, body)?;
    Ok(vec![number("size", size), hex("offset", offset)])
}

fn log_fd(id: MessageId, body: &[u8]) -> Fields {
    if body.len() == size_of::<u64>() {
        return Ok(vec![hex("value", exact::<u64>(id, body)?)]);
    }
    empty(id, body).map(|()| Vec::new())
}

fn ring(id: MessageId, body: &[u8], what: Option<&'static str>) -> Fields {
    let VringState { index, num } = exact(id, body)?;
    Ok(std::iter::once(number("index", index)).chain(what.map(|name| number(name, num))).collect())
}

fn addresses(addr: VringAddr) -> Vec<Field> {
    let mut fields = vec![
        number("index", addr.index),
        hex("descriptors", addr.descriptor),
        hex("used", addr.used),
        hex("available", addr.available),
    ];
    if addr.flags != 0 || addr.log != 0 {
        fields.extend([hex("flags", addr.flags), hex("log", addr.log)]);
    }
    fields
}

fn ring_fd(value: u64) -> Fields {
    let mut fields = vec![number("index", value & vring_fd::INDEX_MASK)];
    if value & vring_fd::NO_FD != 0 {
        fields.push(word("descriptor", "none"));
    }
    let rest = value & !(vring_fd::INDEX_MASK | vring_fd::NO_FD);
    if rest != 0 {
        fields.push(hex("reserved", rest));
    }
    Ok(fields)
}

fn rarp([a, b, c, d, e, f, _, _]: [u8; 8]) -> Fields {
    Ok(vec![word("mac", format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))])
}

fn iotlb(message: Iotlb) -> Vec<Field> {
    let kind = match message.kind {
        Iotlb::MISS => "miss".into(),
        Iotlb::UPDATE => "update".into(),
        Iotlb::INVALIDATE => "invalidate".into(),
        Iotlb::ACCESS_FAIL => "access-fail".into(),
        other => Cow::Owned(other.to_string()),
    };
    vec![
        word("type", kind),
        hex("iova", message.iova),
        hex("size", message.size),
        hex("user", message.user_addr),
        number("permission", message.permission),
    ]
}

fn config(id: MessageId, body: &[u8], with_data: bool) -> Fields {
    let (ConfigHeader { offset, size, flags }, data) = prefix::<ConfigHeader>(id, body)?;
    let mut fields = vec![number("offset", offset), number("size", size), hex("flags", flags)];
    if with_data {
        fields.push(Field { name: "data", value: Value::Bytes(data.to_vec()) });
    }
    Ok(fields)
}

fn inflight(id: MessageId, body: &[u8]) -> Fields {
    let mut padded = [0; size_of::<Inflight>()];
    match padded.get_mut(..body.len()) {
        Some(bytes) if body.len() >= Inflight::SHORT_LEN => bytes.copy_from_slice(body),
        _ => return Err(Refusal::Malformed { id, reason: "neither 20 nor 24 bytes" }),
    }
    let Inflight { mmap_size, mmap_offset, num_queues, queue_size, .. } = exact(id, &padded)?;
    Ok(vec![
        number("size", mmap_size),
        hex("offset", mmap_offset),
        number("queues", num_queues),
        number("queue-size", queue_size),
    ])
}

fn uuid(bytes: [u8; 16]) -> Field {
    let digits = bytes.map(|byte| format!("{byte:02x}")).concat();
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32];
    word("uuid", groups.map(|group| digits.get(group).unwrap_or_default()).join("-"))
}

fn transfer(TransferState { direction, phase }: TransferState) -> Fields {
    let direction = match direction {
        device_state::SAVE => "save".into(),
        device_state::LOAD => "load".into(),
        other => Cow::Owned(other.to_string()),
    };
    Ok(vec![word("direction", direction), number("phase", phase)])
}

fn shmem(config: &ShmemConfig) -> Vec<Field> {
    let regions = config.sizes.iter().enumerate().filter(|(_, size)| **size != 0);
    let regions =
        regions.map(|(id, &size)| vec![number("region", id as u64), number("size", size)]).collect();
    vec![number("count", config.count), Field { name: "regions", value: Value::List(regions) }]
}

fn answer(code: FrontendRequest, value: u64, device: Option<DeviceId>) -> Field {
    match code {
        FrontendRequest::GET_FEATURES => Field { name: "features", value: Value::features(value, device) },
        FrontendRequest::GET_PROTOCOL_FEATURES => Field { name: "features", value: Value::protocol(value) },
        FrontendRequest::GET_STATUS => Field { name: "status", value: Value::status(value) },
        FrontendRequest::GET_QUEUE_NUM => number("queues", value),
        FrontendRequest::GET_MAX_MEM_SLOTS => number("slots", value),
        _ => hex("value", value),
    }
}

fn outcome(value: u64) -> Vec<Field> {
    match value {
        0 => vec![word("result", "ok")],
        value => vec![word("result", "refused"), hex("value", value)],
    }
}
