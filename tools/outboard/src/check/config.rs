//! The configuration space of a device, as front ends read and write it.

use outboard_vhost_user::payload::ConfigHeader;
use outboard_vhost_user::{Frame, FrontendRequest as Code};
use zerocopy::{FromBytes, IntoBytes};

use super::sample::Kind;
use super::verdict::{Checked, Stop, ensure};
use super::wire::{Answer, Wire};

/// `flags` of front ends that call it "writable", and of all during migration.
pub(crate) const FLAG: u32 = 1;

/// The payload of GET_CONFIG and SET_CONFIG.
pub(crate) fn config_body(offset: u32, flags: u32, data: &[u8]) -> Vec<u8> {
    let header = ConfigHeader { offset, size: u32::try_from(data.len()).unwrap_or(u32::MAX), flags };
    [header.as_bytes(), data].concat()
}

/// Did the device refuse to show it: nothing, or a window of no bytes?
pub(crate) fn is_refusal(frame: &Frame) -> bool {
    match ConfigHeader::read_from_prefix(&frame.body) {
        Ok((header, rest)) => header.size == 0 && rest.is_empty(),
        Err(_) => frame.body.is_empty(),
    }
}

impl Wire {
    /// GET_CONFIG of a window, whatever comes.
    pub(crate) fn ask_config(&mut self, offset: u32, size: u32, flags: u32) -> Checked<Frame> {
        let body = config_body(offset, flags, &vec![0; usize::try_from(size)?]);
        self.ask(Code::GET_CONFIG, &body, &[])
    }

    /// GET_CONFIG of a window, which has to come whole.
    pub(crate) fn config(&mut self, offset: u32, size: u32, flags: u32) -> Checked<Vec<u8>> {
        let frame = self.ask_config(offset, size, flags)?;
        let asked = format!("GET_CONFIG of {size} bytes at {offset} (flags {flags})");
        ensure!(!is_refusal(&frame), "{asked} was refused");
        let (header, data) = ConfigHeader::read_from_prefix(&frame.body)
            .map_err(|_| Stop::fail(format!("{asked} has a reply of {} bytes", frame.body.len())))?;
        ensure!(
            header.offset == offset && header.size == size && data.len() as u64 == u64::from(size),
            "{asked} has a reply of {} bytes at {}, in {} bytes",
            header.size,
            header.offset,
            data.len()
        );
        Ok(data.to_vec())
    }

    /// SET_CONFIG, which may be accepted or not.
    pub(crate) fn try_config(&mut self, offset: u32, flags: u32, data: &[u8]) -> Checked<Answer> {
        self.tried(Code::SET_CONFIG, &config_body(offset, flags, data), &[])
    }
}

impl Kind {
    /// How many bytes of configuration space front ends read at least, as far as back ends have them to show.
    pub(crate) fn config_len(self) -> u32 {
        match self {
            Self::Blk => 60,
            _ => 0,
        }
    }
}
