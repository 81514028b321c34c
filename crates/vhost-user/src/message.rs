//! Request codes, header, flags and limits (vhost-user: Message Specification).
//!
//! Codes are open: any `u32` can arrive, so a code is a newtype with constants, not a Rust enum.

use std::fmt;
use std::os::fd::OwnedFd;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Defines a newtype of `u32` with a constant per known code, `ALL`, and `name`.
macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $code:ident = $value:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            $($(#[$doc])* pub const $code: Self = Self($value);)*

            /// Every code that the specification names, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            /// The specification's name without its prefix; `None` for a code that it does not name.
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$code => Some(stringify!($code)),)*
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "request {}", self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}({})", self.0)
            }
        }
    };
}

codes! {
    /// A message of the front end on the main channel (vhost-user: Front-end message types).
    FrontendRequest {
        /// Asks for the virtio feature bits on offer.
        GET_FEATURES = 1;
        /// Sets the agreed virtio feature bits.
        SET_FEATURES = 2;
        /// Marks the start of a connection.
        SET_OWNER = 3;
        /// Deprecated: disables all rings.
        RESET_OWNER = 4;
        /// Replaces the whole memory table.
        SET_MEM_TABLE = 5;
        /// Replaces the dirty log.
        SET_LOG_BASE = 6;
        /// Hands over the "log updated" eventfd.
        SET_LOG_FD = 7;
        /// Sets the size of a ring.
        SET_VRING_NUM = 8;
        /// Sets the addresses of a ring.
        SET_VRING_ADDR = 9;
        /// Sets the index at which a ring continues.
        SET_VRING_BASE = 10;
        /// Stops a ring and asks for the index at which it continues.
        GET_VRING_BASE = 11;
        /// Starts a ring, with the eventfd the driver kicks.
        SET_VRING_KICK = 12;
        /// Sets the eventfd with which the device calls the driver.
        SET_VRING_CALL = 13;
        /// Sets the eventfd that reports a ring's fault.
        SET_VRING_ERR = 14;
        /// Asks for the protocol feature bits on offer.
        GET_PROTOCOL_FEATURES = 15;
        /// Sets the agreed protocol feature bits.
        SET_PROTOCOL_FEATURES = 16;
        /// Asks how many rings there are.
        GET_QUEUE_NUM = 17;
        /// Enables or disables a ring.
        SET_VRING_ENABLE = 18;
        /// Asks for a RARP broadcast after migration.
        SEND_RARP = 19;
        /// Sets the network MTU.
        NET_SET_MTU = 20;
        /// Hands over the socket of the back channel.
        SET_BACKEND_REQ_FD = 21;
        /// Updates or invalidates an IOTLB entry.
        IOTLB_MSG = 22;
        /// Sets the byte order of a legacy ring.
        SET_VRING_ENDIAN = 23;
        /// Reads the device's configuration space.
        GET_CONFIG = 24;
        /// Writes the device's configuration space.
        SET_CONFIG = 25;
        /// Opens a crypto session.
        CREATE_CRYPTO_SESSION = 26;
        /// Closes a crypto session.
        CLOSE_CRYPTO_SESSION = 27;
        /// Announces postcopy migration and asks for a userfaultfd.
        POSTCOPY_ADVISE = 28;
        /// Starts listening for page faults.
        POSTCOPY_LISTEN = 29;
        /// Ends postcopy migration.
        POSTCOPY_END = 30;
        /// Asks for a shared buffer that records requests in flight.
        GET_INFLIGHT_FD = 31;
        /// Hands over the shared buffer that records requests in flight.
        SET_INFLIGHT_FD = 32;
        /// Hands over the socket of the GPU channel.
        GPU_SET_SOCKET = 33;
        /// Resets the device.
        RESET_DEVICE = 34;
        /// Kicks a ring in band.
        VRING_KICK = 35;
        /// Asks how many memory regions fit.
        GET_MAX_MEM_SLOTS = 36;
        /// Adds a memory region.
        ADD_MEM_REG = 37;
        /// Removes a memory region.
        REM_MEM_REG = 38;
        /// Sets the virtio device status.
        SET_STATUS = 39;
        /// Asks for the virtio device status.
        GET_STATUS = 40;
        /// Asks for the dma-buf behind a UUID.
        GET_SHARED_OBJECT = 41;
        /// Starts the transfer of the device's state.
        SET_DEVICE_STATE_FD = 42;
        /// Asks how the transfer of the device's state went.
        CHECK_DEVICE_STATE = 43;
        /// Asks for the device's shared memory regions.
        GET_SHMEM_CONFIG = 44;
        /// Like GET_VRING_BASE, without waiting for requests in flight.
        GET_VRING_BASE_SKIP_DRAIN = 45;
    }
}

codes! {
    /// A message of the back end on the back channel (vhost-user: Back-end message types).
    BackendRequest {
        /// Reports an IOTLB miss or a failed access.
        IOTLB_MSG = 1;
        /// Says that the configuration space has changed.
        CONFIG_CHANGE_MSG = 2;
        /// Sets or removes the doorbell page of a ring.
        VRING_HOST_NOTIFIER_MSG = 3;
        /// Calls the driver in band.
        VRING_CALL = 4;
        /// Reports a ring's fault in band.
        VRING_ERR = 5;
        /// Announces a shared object.
        SHARED_OBJECT_ADD = 6;
        /// Withdraws a shared object.
        SHARED_OBJECT_REMOVE = 7;
        /// Asks for another device's shared object.
        SHARED_OBJECT_LOOKUP = 8;
        /// Maps a file into a shared memory region.
        SHMEM_MAP = 9;
        /// Removes a mapping from a shared memory region.
        SHMEM_UNMAP = 10;
    }
}

/// A request code together with the channel it belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageId {
    /// A message of the front end on the main channel.
    Frontend(FrontendRequest),
    /// A message of the back end on the back channel.
    Backend(BackendRequest),
}

impl From<FrontendRequest> for MessageId {
    fn from(code: FrontendRequest) -> Self {
        Self::Frontend(code)
    }
}

impl From<BackendRequest> for MessageId {
    fn from(code: BackendRequest) -> Self {
        Self::Backend(code)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend(code) => fmt::Display::fmt(code, f),
            Self::Backend(code) => write!(f, "back channel {code}"),
        }
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frontend(code) => fmt::Debug::fmt(code, f),
            Self::Backend(code) => write!(f, "back channel {code:?}"),
        }
    }
}

/// Header flags (vhost-user: Header).
pub mod flags {
    /// Bits 0 and 1: the protocol version.
    pub const VERSION_MASK: u32 = 0x3;
    /// The only protocol version there is.
    pub const VERSION: u32 = 0x1;
    /// Bit 2: this message is a reply.
    pub const REPLY: u32 = 0x4;
    /// Bit 3: the sender wants an answer even where none is defined.
    pub const NEED_REPLY: u32 = 0x8;
    /// The flags of every reply, exactly: front ends compare for equality.
    pub const OF_REPLY: u32 = VERSION | REPLY;
}

/// Bits of the payload of SET_VRING_KICK, _CALL and _ERR (vhost-user: A vring descriptor index).
pub mod vring_fd {
    /// Bits 0 to 7: the ring.
    pub const INDEX_MASK: u64 = 0xff;
    /// Bit 8: no descriptor comes with the message.
    pub const NO_FD: u64 = 0x100;
    /// The highest ring that these messages can name.
    pub const MAX_INDEX: u32 = 0xff;
}

/// How many descriptors the kernel passes in one control message (Linux: SCM_MAX_FD).
pub const MAX_FDS: usize = 253;

/// How many regions one SET_MEM_TABLE can carry: each needs its descriptor.
pub const MAX_TABLE_REGIONS: usize = MAX_FDS;

/// The end of the window that GET_CONFIG and SET_CONFIG can address, in bytes.
pub const MAX_CONFIG_END: u32 = 0x1000;

/// The most configuration bytes in one message: with their header they fill the window.
pub const MAX_CONFIG_DATA: u32 = MAX_CONFIG_END - 12;

/// The longest ring (VIRTIO 1.3, 2.7 and 2.8).
pub const MAX_RING_SIZE: u32 = 0x8000;

/// The longest payload that is accepted, in bytes: a full memory table, the longest message of all.
pub const MAX_BODY: u32 = 8 + 32 * MAX_TABLE_REGIONS as u32;

/// The twelve bytes before every payload, in native byte order (vhost-user: Header).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// The request code.
    pub request: u32,
    /// See [`flags`].
    pub flags: u32,
    /// How many payload bytes follow.
    pub size: u32,
}

impl Header {
    /// The length of a header, in bytes.
    pub const LEN: usize = size_of::<Self>();
}

/// One message as it travels: header fields, payload, and the descriptors that came along.
///
/// The header's size field is the length of `body`. Dropping a frame closes its descriptors.
#[derive(Debug, Default)]
pub struct Frame {
    /// The request code; which channel's codes it belongs to, the channel says.
    pub request: u32,
    /// See [`flags`].
    pub flags: u32,
    /// The payload.
    pub body: Vec<u8>,
    /// The descriptors, in the order of the control message.
    pub fds: Vec<OwnedFd>,
}

impl Frame {
    /// The header that goes before the payload.
    pub fn header(&self) -> Header {
        let size = u32::try_from(self.body.len()).unwrap_or(u32::MAX);
        Header { request: self.request, flags: self.flags, size }
    }

    /// Header and payload as bytes; the descriptors stay behind.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Header::LEN + self.body.len());
        bytes.extend_from_slice(self.header().as_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Is the REPLY flag set?
    pub fn is_reply(&self) -> bool {
        self.flags & flags::REPLY != 0
    }

    /// Is the NEED_REPLY flag set?
    pub fn needs_reply(&self) -> bool {
        self.flags & flags::NEED_REPLY != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_specification_are_complete_and_in_order() {
        let front: Vec<u32> = FrontendRequest::ALL.iter().map(|code| code.0).collect();
        assert_eq!(front, (1..=45).collect::<Vec<_>>());
        let back: Vec<u32> = BackendRequest::ALL.iter().map(|code| code.0).collect();
        assert_eq!(back, (1..=10).collect::<Vec<_>>());
    }

    #[test]
    fn code_unknown_displays_its_number() {
        assert_eq!(FrontendRequest(46).to_string(), "request 46");
        assert_eq!(FrontendRequest(46).name(), None);
        assert_eq!(MessageId::from(BackendRequest::SHMEM_MAP).to_string(), "back channel SHMEM_MAP");
    }

    #[test]
    fn frame_to_bytes_puts_the_body_length_into_the_header() {
        let frame = Frame { request: 3, flags: 1, body: vec![7; 5], fds: Vec::new() };
        let bytes = frame.to_bytes();
        assert_eq!(bytes.len(), 17);
        let header = Header::read_from_bytes(&bytes[..12]).unwrap();
        assert_eq!(header, Header { request: 3, flags: 1, size: 5 });
    }
}
