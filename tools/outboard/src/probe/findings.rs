//! What a probe finds: the shape of `--json`, whose names are stable.

use outboard_vhost_user::ProtocolFeatures;
use outboard_virtio_defs::DeviceId;
use outboard_virtio_defs::features::feature_names;
use serde::Serialize;

/// All that was found; `None` where it was not asked for, or the back end did not tell.
#[derive(Debug, Default, Serialize)]
pub(super) struct Findings {
    /// The socket or command.
    pub(super) target: String,
    /// The process that listens.
    pub(super) program: Option<Program>,
    pub(super) device: Option<Device>,
    pub(super) features: Option<Bits>,
    pub(super) protocol_features: Option<Bits>,
    pub(super) queues: Queues,
    /// Memory regions that fit at once.
    pub(super) memory_slots: Option<u64>,
    pub(super) config: Option<Config>,
    pub(super) shared_memory: Option<Vec<SharedMemory>>,
    pub(super) inflight: Option<Inflight>,
    /// The socket on which the back end asks was taken.
    pub(super) back_channel: Option<bool>,
    /// The virtio device status, of a back end that keeps it.
    pub(super) status: Option<u64>,
    pub(super) migration: Option<Migration>,
    /// What follows for front ends, by what is known of them.
    pub(super) front_ends: Vec<FrontEnd>,
    /// What is wrong or remarkable, in sentences.
    pub(super) notes: Vec<String>,
    /// Why the rest is missing.
    pub(super) error: Option<String>,
}

/// The process behind the socket, as the kernel tells.
#[derive(Debug, Serialize)]
pub(super) struct Program {
    pub(super) pid: i32,
    /// The program's file.
    pub(super) executable: Option<String>,
    pub(super) command: Vec<String>,
}

/// What kind of device it is.
#[derive(Debug, Serialize)]
pub(super) struct Device {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) id: u16,
    pub(super) confidence: Confidence,
    /// What speaks for it.
    #[serde(rename = "for")]
    pub(super) pro: Vec<String>,
    /// What speaks against it.
    #[serde(rename = "against")]
    pub(super) contra: Vec<String>,
    /// What else it could be, the likeliest first.
    pub(super) alternatives: Vec<String>,
}

/// How sure the type is. vhost-user does not tell it, so it is never certain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Confidence {
    /// The user said so.
    Asked,
    /// Much speaks for it, and nothing comes near.
    Likely,
    /// It fits best, others fit too.
    Possible,
    /// Hardly anything speaks for it.
    Unknown,
}

/// A set of bits.
#[derive(Debug, Serialize)]
pub(super) struct Bits {
    /// All of them, in hexadecimal.
    pub(super) value: String,
    pub(super) bits: Vec<Bit>,
}

/// A set bit.
#[derive(Debug, Serialize)]
pub(super) struct Bit {
    pub(super) bit: u32,
    pub(super) name: Option<&'static str>,
}

/// The queues.
#[derive(Debug, Default, Serialize)]
pub(super) struct Queues {
    pub(super) count: Option<u64>,
    /// How the number is known: `told` or `tried`.
    pub(super) known: Option<&'static str>,
    /// The longest ring that each queue takes.
    pub(super) longest: Vec<Longest>,
}

/// The longest ring that a queue takes.
#[derive(Debug, Serialize)]
pub(super) struct Longest {
    pub(super) queue: u32,
    pub(super) entries: u32,
}

/// The configuration space.
#[derive(Debug, Serialize)]
pub(super) struct Config {
    /// Bytes that can be read.
    pub(super) length: usize,
    /// More is refused. Otherwise what follows the configuration reads as zeroes, and its length is not known.
    pub(super) exact: bool,
    pub(super) fields: Vec<Value>,
    /// In hexadecimal; without the zeroes at the end where the length is not known.
    #[serde(serialize_with = "hex")]
    pub(super) bytes: Vec<u8>,
}

/// A field of the configuration space.
#[derive(Debug, Serialize)]
pub(super) struct Value {
    pub(super) name: &'static str,
    pub(super) offset: usize,
    /// A number, or a text.
    pub(super) value: serde_json::Value,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) unit: &'static str,
    /// Its feature is on offer; otherwise it does not count.
    pub(super) counts: bool,
    /// In words, where that says more: `64 MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) words: Option<String>,
}

/// A region of memory that device and driver share.
#[derive(Debug, Serialize)]
pub(super) struct SharedMemory {
    pub(super) id: usize,
    pub(super) bytes: u64,
}

/// The buffer that records requests in flight.
#[derive(Debug, Serialize)]
pub(super) struct Inflight {
    /// For so many queues,
    pub(super) queues: u16,
    /// of this length,
    pub(super) queue_size: u16,
    /// it has so many bytes; 0 where the back end makes none.
    pub(super) bytes: u64,
}

/// What the back end does for the migration of a guest, by the features that it offers.
#[derive(Debug, Serialize)]
pub(super) struct Migration {
    /// It logs what it writes into guest memory.
    pub(super) dirty_log: bool,
    /// Its record of requests in flight may move.
    pub(super) inflight: bool,
    /// It saves and loads its own state.
    pub(super) device_state: bool,
    /// It can do with memory that comes later.
    pub(super) postcopy: bool,
}

/// What a front end would make of the back end, derived from what is known of the front end; not tried.
#[derive(Debug, Serialize)]
pub(super) struct FrontEnd {
    pub(super) name: &'static str,
    pub(super) verdict: Verdict,
    pub(super) reasons: Vec<String>,
}

/// See [`FrontEnd`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Works,
    /// With what the reasons say.
    Limited,
    Refuses,
    /// It has no such device.
    NoDevice,
}

impl Bits {
    /// Virtio features, as a device of this type means them.
    pub(super) fn of_virtio(device: Option<DeviceId>, value: u64) -> Self {
        // Of a type that is not known only the bits that all share have names.
        let device = device.unwrap_or(DeviceId(0));
        let bits = feature_names(device, value).map(|(bit, name)| Bit { bit, name }).collect();
        Self { value: format!("{value:#x}"), bits }
    }

    /// Protocol features.
    pub(super) fn of_protocol(set: ProtocolFeatures) -> Self {
        let name = |bit| {
            let named = ProtocolFeatures::NAMED.iter().find(|(named, _)| named.0 == 1_u64 << bit);
            named.map(|(_, name)| *name)
        };
        let set_bits = (0..u64::BITS).filter(|bit| set.0 & 1 << bit != 0);
        let bits = set_bits.map(|bit| Bit { bit, name: name(bit) }).collect();
        Self { value: format!("{:#x}", set.0), bits }
    }
}

fn hex<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    serializer.serialize_str(&text)
}
