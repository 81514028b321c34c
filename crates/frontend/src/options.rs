//! How a front end behaves. The defaults are those of a front end that every back end accepts; the rest is there to
//! deviate from it.

use std::time::{Duration, Instant};

use outboard_vhost_user::ProtocolFeatures;
use outboard_virtio_defs::features as bits;
use outboard_virtqueue::Format;

use crate::memory::Layout;

/// What this front end implements of the protocol, and so may agree to.
pub const PROTOCOL_FEATURES: ProtocolFeatures = ProtocolFeatures(
    ProtocolFeatures::MQ.0
        | ProtocolFeatures::LOG_SHMFD.0
        | ProtocolFeatures::REPLY_ACK.0
        | ProtocolFeatures::BACKEND_REQ.0
        | ProtocolFeatures::BACKEND_SEND_FD.0
        | ProtocolFeatures::CONFIG.0
        | ProtocolFeatures::INFLIGHT_SHMFD.0
        | ProtocolFeatures::RESET_DEVICE.0
        | ProtocolFeatures::CONFIGURE_MEM_SLOTS.0
        | ProtocolFeatures::STATUS.0
        | ProtocolFeatures::DEVICE_STATE.0
        | ProtocolFeatures::GET_VRING_BASE_INFLIGHT.0
        | ProtocolFeatures::SHMEM.0
        | ProtocolFeatures::GET_VRING_BASE_SKIP_DRAIN.0,
);

/// When `timeout` will be over. One that no clock can hold is as good as a century.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86400);
    Instant::now() + timeout.min(CENTURY)
}

/// How to connect and what to say on the connection.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long the back end may take for an answer, or for reading a message.
    pub timeout: Duration,
    /// How long to try while nobody listens at the path yet.
    pub connect_timeout: Duration,
    /// The protocol features to agree to, as far as they are offered. Bits outside [`PROTOCOL_FEATURES`] are agreed
    /// to as well, but nothing here does what they ask for.
    pub protocol: ProtocolFeatures,
    /// Ask for acknowledgements where REPLY_ACK is agreed. Without them a refused message shows only later, if at
    /// all.
    pub acks: bool,
    /// How guest memory reaches the back end.
    pub sharing: Sharing,
    /// The guest memory to make.
    pub memory: Layout,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            protocol: PROTOCOL_FEATURES,
            acks: true,
            sharing: Sharing::Slots,
            memory: Layout::default(),
        }
    }
}

/// How guest memory reaches the back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Region by region (ADD_MEM_REG) where CONFIGURE_MEM_SLOTS is agreed, else as a table.
    Slots,
    /// As a table (SET_MEM_TABLE), whatever is agreed.
    Table,
}

/// What the driver wants of the device: features and rings.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// The bits of the device type to accept, as far as they are offered; a mask.
    pub device_features: u64,
    /// The ring format. [`Format::Packed`] is required if asked for.
    pub format: Format,
    /// Suppress notifications by index where the back end can (VIRTIO_F_EVENT_IDX).
    pub event_idx: bool,
    /// Put long requests into tables of their own where the back end can (VIRTIO_F_INDIRECT_DESC).
    pub indirect: bool,
    /// Have requests used in order where the back end can (VIRTIO_F_IN_ORDER).
    pub in_order: bool,
    /// Have the back end record requests in flight where it can, so that they survive its death. For how many
    /// queues, and of which size at most; `None`: no record.
    pub inflight: Option<(u16, u16)>,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            device_features: 0,
            format: Format::Split,
            event_idx: true,
            indirect: true,
            in_order: false,
            inflight: None,
        }
    }
}

impl Wishes {
    /// The feature bits to set when `offered` are, without those of vhost-user.
    pub(crate) fn features(&self, offered: u64) -> u64 {
        let generic = [
            (bits::VIRTIO_F_RING_PACKED, self.format == Format::Packed),
            (bits::VIRTIO_F_EVENT_IDX, self.event_idx),
            (bits::VIRTIO_F_INDIRECT_DESC, self.indirect),
            (bits::VIRTIO_F_IN_ORDER, self.in_order),
        ];
        let wanted = generic.iter().filter(|(_, wanted)| *wanted).fold(0, |mask, (bit, _)| mask | bit);
        (wanted | bits::VIRTIO_F_VERSION_1 | self.device_features & DEVICE_BITS) & offered
    }

    /// The feature bits without which nothing works as wished.
    pub(crate) fn required(&self) -> u64 {
        let packed = if self.format == Format::Packed { bits::VIRTIO_F_RING_PACKED } else { 0 };
        bits::VIRTIO_F_VERSION_1 | packed
    }
}

/// The bits that belong to the device type (VIRTIO 1.3, 2.2), as far as 64 go.
const DEVICE_BITS: u64 = 0x00ff_ffff | !0 << 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_both_wanted_and_offered() {
        let wishes = Wishes { device_features: 0b110, event_idx: false, ..Wishes::default() };
        let features = wishes.features(!0);
        assert_eq!(features, bits::VIRTIO_F_VERSION_1 | bits::VIRTIO_F_INDIRECT_DESC | 0b110);
        assert_eq!(wishes.features(0b010), 0b010);
    }

    #[test]
    fn features_of_vhost_user_cannot_be_wished_for() {
        let wishes = Wishes { device_features: !0, ..Wishes::default() };
        let vhost = bits::VHOST_F_LOG_ALL | bits::VHOST_USER_F_PROTOCOL_FEATURES;
        assert_eq!(wishes.features(!0) & vhost, 0);
    }
}
