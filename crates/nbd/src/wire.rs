//! The numbers of the protocol, as `doc/proto.md` has them. All are big-endian on the wire.

pub(crate) const MAGIC: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
pub(crate) const OLD_MAGIC: u64 = 0x0000_4202_8186_1253;
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flags, of the server and of the client alike.
pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
pub(crate) const NO_ZEROES: u16 = 1 << 1;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_STARTTLS: u32 = 5;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_ERROR: u32 = 1 << 31;
pub(crate) const REP_ERR_UNSUP: u32 = REP_ERROR + 1;
pub(crate) const REP_ERR_POLICY: u32 = REP_ERROR + 2;
pub(crate) const REP_ERR_TLS_REQD: u32 = REP_ERROR + 5;
pub(crate) const REP_ERR_UNKNOWN: u32 = REP_ERROR + 6;
pub(crate) const REP_ERR_SHUTDOWN: u32 = REP_ERROR + 7;
pub(crate) const REP_ERR_BLOCK_SIZE_REQD: u32 = REP_ERROR + 8;

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags.
pub(crate) const HAS_FLAGS: u16 = 1 << 0;
pub(crate) const READ_ONLY: u16 = 1 << 1;
pub(crate) const SEND_FLUSH: u16 = 1 << 2;
pub(crate) const SEND_FUA: u16 = 1 << 3;
pub(crate) const SEND_TRIM: u16 = 1 << 5;
pub(crate) const SEND_WRITE_ZEROES: u16 = 1 << 6;
pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;

pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const SIMPLE_MAGIC: u32 = 0x6744_6698;
pub(crate) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// The flag of a request's last chunk.
pub(crate) const CHUNK_DONE: u16 = 1 << 0;
pub(crate) const CHUNK_NONE: u16 = 0;
pub(crate) const CHUNK_DATA: u16 = 1;
pub(crate) const CHUNK_HOLE: u16 = 2;
pub(crate) const CHUNK_ERROR: u16 = (1 << 15) + 1;
pub(crate) const CHUNK_ERROR_OFFSET: u16 = (1 << 15) + 2;
/// Types of chunks that report errors, known or not.
pub(crate) const CHUNK_IS_ERROR: u16 = 1 << 15;

/// The longest string, in bytes.
pub(crate) const MAX_STRING: usize = 4096;

/// Takes a big-endian number off the front.
pub(crate) trait Take {
    fn u16(&mut self) -> Option<u16>;
    fn u32(&mut self) -> Option<u32>;
    fn u64(&mut self) -> Option<u64>;
}

impl Take for &[u8] {
    fn u16(&mut self) -> Option<u16> {
        self.split_off(..2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.split_off(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.split_off(..8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes)
    }
}
