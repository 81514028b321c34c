//! What a driver's request asks for, and what of it is wrong. Nothing of it is believed.

use outboard_device::Chain;
use outboard_device::defs::i2c::{FAIL_NEXT, M_RD, OutHdr};

use crate::address::Address;

/// Most bytes of a message: the kernel's limit for I2C_RDWR.
pub(crate) const MOST_BYTES: usize = 8192;

/// The header of a request, taken once; `None` if it was too short for one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request(Option<OutHdr>);

/// What a request wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) address: Address,
    pub(crate) read: bool,
    /// Bytes of data.
    pub(crate) len: usize,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error("it is shorter than a header")]
    Short,
    #[error("it has no room for a status")]
    NoStatus,
    #[error("{0:#06x} is no address")]
    Address(u16),
    #[error("it has unknown flags: {0:#x}")]
    Flags(u32),
    #[error("it has data to write and room to read")]
    Directions,
    #[error("it has {0} bytes of data, and {MOST_BYTES} are the most")]
    Length(usize),
}

impl Request {
    /// Takes the header off.
    pub(crate) fn take(chain: &mut Chain) -> Self {
        Self(chain.read_obj().ok())
    }

    /// Whether it stands and falls with the one behind it.
    pub(crate) fn is_tied(self) -> bool {
        self.0.is_some_and(|header| header.flags.get() & FAIL_NEXT != 0)
    }

    /// What is wanted, by a request with so many bytes to read behind the header, and so many to write.
    pub(crate) fn judge(self, readable: usize, writable: usize) -> Result<Wish, Wrong> {
        let header = self.0.ok_or(Wrong::Short)?;
        let room = writable.checked_sub(1).ok_or(Wrong::NoStatus)?;
        let (addr, flags) = (header.addr.get(), header.flags.get());
        if flags & !(FAIL_NEXT | M_RD) != 0 {
            return Err(Wrong::Flags(flags));
        }
        let read = flags & M_RD != 0;
        let (len, other) = if read { (room, readable) } else { (readable, room) };
        if other > 0 {
            return Err(Wrong::Directions);
        }
        if len > MOST_BYTES {
            return Err(Wrong::Length(len));
        }
        let address = Address::of_request(addr).ok_or(Wrong::Address(addr))?;
        Ok(Wish { address, read, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_judged_by_header_and_lengths() {
        let request = |addr: u16, flags: u32| {
            Request(Some(OutHdr { addr: addr.into(), padding: 7.into(), flags: flags.into() }))
        };
        let wish = |read, len| Ok(Wish { address: Address::seven(0x50), read, len });
        let table = [
            (request(0xa0, 0), 3, 1, wish(false, 3)),
            (request(0xa0, 0), 0, 1, wish(false, 0)),
            (request(0xa0, M_RD), 0, 3, wish(true, 2)),
            (request(0xa0, M_RD | FAIL_NEXT), 0, 1, wish(true, 0)),
            (request(0xa0, 0), MOST_BYTES, 1, wish(false, MOST_BYTES)),
            (request(0xa0, M_RD), 0, MOST_BYTES + 1, wish(true, MOST_BYTES)),
            (request(0xa0, 0), MOST_BYTES + 1, 1, Err(Wrong::Length(MOST_BYTES + 1))),
            (request(0xa0, M_RD), 0, usize::MAX, Err(Wrong::Length(usize::MAX - 1))),
            (request(0xa0, 0), 3, 0, Err(Wrong::NoStatus)),
            (request(0xa0, 0), 3, 2, Err(Wrong::Directions)),
            (request(0xa0, M_RD), 1, 2, Err(Wrong::Directions)),
            (request(0xa0, 4), 3, 1, Err(Wrong::Flags(4))),
            (request(0xa0, 1 << 31 | M_RD), 0, 2, Err(Wrong::Flags(1 << 31 | M_RD))),
            (request(0xa1, 0), 3, 1, Err(Wrong::Address(0xa1))),
            (request(0x1a0, 0), 3, 1, Err(Wrong::Address(0x1a0))),
            (Request(None), 3, 1, Err(Wrong::Short)),
        ];
        for (request, readable, writable, verdict) in table {
            assert_eq!(request.judge(readable, writable), verdict, "{request:?} {readable} {writable}");
        }
    }
}
