//! Protocol feature bits and what each of them needs (vhost-user: Protocol features).

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Sub};

/// A set of protocol feature bits.
///
/// May contain bits without a name: a peer can send any.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ProtocolFeatures(pub u64);

macro_rules! bits {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl ProtocolFeatures {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            /// Every bit that the specification names, ascending, with its name.
            pub const NAMED: &'static [(Self, &'static str)] = &[$((Self::$name, stringify!($name))),*];
        }
    };
}

bits! {
    /// GET_QUEUE_NUM tells how many rings there are.
    MQ = 0;
    /// The dirty log comes as a descriptor.
    LOG_SHMFD = 1;
    /// SEND_RARP is understood.
    RARP = 2;
    /// NEED_REPLY is honoured on messages without a reply of their own.
    REPLY_ACK = 3;
    /// NET_SET_MTU is understood.
    MTU = 4;
    /// There is a back channel.
    BACKEND_REQ = 5;
    /// SET_VRING_ENDIAN is understood.
    CROSS_ENDIAN = 6;
    /// Crypto sessions are understood.
    CRYPTO_SESSION = 7;
    /// Postcopy migration is understood.
    PAGEFAULT = 8;
    /// GET_CONFIG and SET_CONFIG are understood.
    CONFIG = 9;
    /// Descriptors may travel on the back channel.
    BACKEND_SEND_FD = 10;
    /// Doorbell pages may be set on the back channel.
    HOST_NOTIFIER = 11;
    /// Requests in flight are recorded in a shared buffer.
    INFLIGHT_SHMFD = 12;
    /// RESET_DEVICE is understood.
    RESET_DEVICE = 13;
    /// Kicks and calls may travel as messages.
    INBAND_NOTIFICATIONS = 14;
    /// Memory regions may be added and removed one by one.
    CONFIGURE_MEM_SLOTS = 15;
    /// The virtio device status is passed on.
    STATUS = 16;
    /// Memory regions carry Xen's flags.
    XEN_MMAP = 17;
    /// dma-bufs are shared by UUID.
    SHARED_OBJECT = 18;
    /// The device's state can be transferred.
    DEVICE_STATE = 19;
    /// After GET_VRING_BASE the in-flight buffer is consistent and may migrate.
    GET_VRING_BASE_INFLIGHT = 20;
    /// Ring addresses are guest-physical.
    GPA_ADDRESSES = 21;
    /// The device has shared memory regions.
    SHMEM = 22;
    /// GET_VRING_BASE_SKIP_DRAIN is understood.
    GET_VRING_BASE_SKIP_DRAIN = 23;
}

impl ProtocolFeatures {
    /// No bit.
    pub const EMPTY: Self = Self(0);

    /// What our back ends offer, whatever the device: all that the framework does.
    pub const DEFAULT_OFFER: Self = Self(
        Self::MQ.0
            | Self::LOG_SHMFD.0
            | Self::REPLY_ACK.0
            | Self::BACKEND_REQ.0
            | Self::BACKEND_SEND_FD.0
            | Self::CONFIG.0
            | Self::INFLIGHT_SHMFD.0
            | Self::RESET_DEVICE.0
            | Self::CONFIGURE_MEM_SLOTS.0
            | Self::STATUS.0
            | Self::GET_VRING_BASE_INFLIGHT.0,
    );

    /// What a bit means nothing without.
    const NEEDS: [(Self, Self); 6] = [
        (Self::BACKEND_SEND_FD, Self::BACKEND_REQ),
        (Self::HOST_NOTIFIER, Self(Self::BACKEND_REQ.0 | Self::BACKEND_SEND_FD.0)),
        (Self::INBAND_NOTIFICATIONS, Self(Self::BACKEND_REQ.0 | Self::REPLY_ACK.0)),
        (Self::GET_VRING_BASE_INFLIGHT, Self::INFLIGHT_SHMFD),
        (Self::SHMEM, Self(Self::BACKEND_REQ.0 | Self::BACKEND_SEND_FD.0)),
        (Self::GET_VRING_BASE_SKIP_DRAIN, Self(Self::INFLIGHT_SHMFD.0 | Self::GET_VRING_BASE_INFLIGHT.0)),
    ];

    /// Are all bits of `other` in this set?
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Is there no bit in this set?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The bits in force: without those whose own needs are not in the set.
    pub fn effective(self) -> Self {
        let mut set = self;
        // Ordered so that a bit comes after the bits it needs: one pass is enough.
        for (bit, needs) in Self::NEEDS {
            if set.contains(bit) && !set.contains(needs) {
                set = set - bit;
            }
        }
        set
    }

    /// The bits whose own needs are not all in the set, each with what it lacks.
    pub fn unmet(self) -> impl Iterator<Item = (Self, Self)> {
        let lacking = move |(bit, needs): (Self, Self)| {
            let missing = needs - self;
            (self.contains(bit) && !missing.is_empty()).then_some((bit, missing))
        };
        Self::NEEDS.into_iter().filter_map(lacking)
    }

    /// The named bits in this set, ascending.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMED.iter().filter(move |(bit, _)| self.contains(*bit)).map(|(_, name)| *name)
    }

    /// The bits in this set that the specification does not name.
    pub fn unnamed(self) -> Self {
        Self::NAMED.iter().fold(self, |rest, (bit, _)| rest - *bit)
    }
}

impl BitOr for ProtocolFeatures {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for ProtocolFeatures {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl BitAnd for ProtocolFeatures {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// The bits of the first set that are not in the second.
impl Sub for ProtocolFeatures {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for ProtocolFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for name in self.names() {
            write!(f, "{separator}{name}")?;
            separator = " ";
        }
        match self.unnamed() {
            rest if !rest.is_empty() => write!(f, "{separator}{:#x}", rest.0),
            _ if self.is_empty() => f.write_str("none"),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for ProtocolFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProtocolFeatures({self})")
    }
}

#[cfg(test)]
mod tests {

    use super::ProtocolFeatures as P;

    #[test]
    fn named_bits_are_0_to_23_in_order() {
        let bits: Vec<u64> = P::NAMED.iter().map(|(bit, _)| bit.0).collect();
        assert_eq!(bits, (0..24).map(|bit| 1 << bit).collect::<Vec<u64>>());
    }

    #[test]
    fn effective_bit_without_its_need_is_dropped() {
        assert_eq!(P::BACKEND_SEND_FD.effective(), P::EMPTY);
        assert_eq!((P::SHMEM | P::BACKEND_SEND_FD).effective(), P::EMPTY);
        assert_eq!((P::GET_VRING_BASE_SKIP_DRAIN | P::GET_VRING_BASE_INFLIGHT).effective(), P::EMPTY);
        assert_eq!((P::INBAND_NOTIFICATIONS | P::BACKEND_REQ).effective(), P::BACKEND_REQ);
    }

    #[test]
    fn unmet_names_each_bit_with_what_it_lacks() {
        let set = P::INBAND_NOTIFICATIONS | P::BACKEND_REQ | P::BACKEND_SEND_FD;
        assert_eq!(set.unmet().collect::<Vec<_>>(), [(P::INBAND_NOTIFICATIONS, P::REPLY_ACK)]);
        assert_eq!(P::DEFAULT_OFFER.unmet().count(), 0);
    }

    #[test]
    fn effective_default_offer_is_itself() {
        assert_eq!(P::DEFAULT_OFFER.effective(), P::DEFAULT_OFFER);
    }

    #[test]
    fn display_names_bits_and_shows_the_rest_in_hex() {
        assert_eq!((P::MQ | P::CONFIG | P(1 << 40)).to_string(), "MQ CONFIG 0x10000000000");
        assert_eq!(P::EMPTY.to_string(), "none");
    }
}
