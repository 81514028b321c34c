//! Capture files: pcap, written and read (draft-ietf-opsawg-pcap), and pcapng, read (draft-ietf-opsawg-pcapng).
//!
//! Without I/O: what a file is made of is given as bytes, and a [`Reader`] says how many bytes it wants next.
//! Files that are read come from anybody: what is wanted is bounded by [`MAX_WANTED`], and whatever is wrong with them is a
//! value. Only frames of Ethernet are of use here.

use std::time::Duration;

/// The most bytes that a [`Reader`] wants at a time: the longest frame of any capture, and what stands around it.
pub const MAX_WANTED: usize = MAX_CAPTURED as usize + (4 << 10);
/// The longest piece of a frame that a capture has, in bytes: as tools have it.
const MAX_CAPTURED: u32 = 256 << 10;

/// Of a pcap file, with times in microseconds, or in nanoseconds.
const MAGIC_MICROS: u32 = 0xa1b2_c3d4;
const MAGIC_NANOS: u32 = 0xa1b2_3c4d;
/// The header's version: 2.4.
const VERSION: [u16; 2] = [2, 4];
/// A link type: Ethernet.
const ETHERNET: u16 = 1;

/// Blocks of a pcapng file.
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const SIMPLE_PACKET: u32 = 3;
const PACKET: u32 = 6;
/// Says which byte order a section has.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// Options of an interface: the unit of its times, and what is to be added to them in seconds.
const OPTION_UNIT: u16 = 9;
const OPTION_OFFSET: u16 = 14;
/// The most interfaces of a section.
const MAX_INTERFACES: usize = 1024;

/// What a pcap file begins with: times are in nanoseconds, numbers little-endian.
#[must_use]
pub fn file_header() -> [u8; 24] {
    let version = u32::from(VERSION[0]) | u32::from(VERSION[1]) << 16;
    // In between, the zone and the precision of times: nobody has a use for them.
    words([MAGIC_NANOS, version, 0, 0, MAX_CAPTURED, ETHERNET.into()])
}

/// What stands before `captured` bytes of a frame that is `len` bytes long, seen at a time since 1970. No capture has more
/// than 262144 bytes of a frame.
#[must_use]
pub fn frame_header(at: Duration, captured: u32, len: u32) -> [u8; 16] {
    // Until 2106.
    words([at.as_secs() as u32, at.subsec_nanos(), captured, len])
}

fn words<const WORDS: usize, const BYTES: usize>(words: [u32; WORDS]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes.as_chunks_mut().0.iter_mut().zip(words).for_each(|(to, word)| *to = word.to_le_bytes());
    bytes
}

/// What is wrong with a capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither pcap nor pcapng, or of another version.
    #[error("this is no capture file (pcap, pcapng)")]
    Magic,
    /// It has no frames of Ethernet, but of something else.
    #[error("its frames are of link type {0}, not of Ethernet")]
    LinkType(u16),
    /// A length that cannot be.
    #[error("it has a length that cannot be")]
    Length,
    /// A packet of an interface that was never described.
    #[error("it has a packet of an unknown interface")]
    Interface,
}

/// A frame of a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// When it was seen, since 1970; `None` if the file does not say.
    pub at: Option<Duration>,
    /// What there is of it.
    pub bytes: &'a [u8],
    /// How long it was.
    pub len: u32,
}

impl Captured<'_> {
    /// Whether all of it was captured.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bytes.len() == self.len as usize
    }
}

/// Reads a capture file: `wanted` bytes at a time.
#[derive(Debug)]
pub struct Reader {
    next: Next,
    order: Order,
    /// Of pcap: times are in nanoseconds.
    nanos: bool,
    /// Of pcapng: the interfaces of the section.
    interfaces: Vec<Interface>,
}

/// What comes next in the file.
#[derive(Clone, Copy, Debug)]
enum Next {
    Magic,
    /// Of pcap.
    Header,
    Record,
    Frame {
        at: Duration,
        captured: u32,
        len: u32,
    },
    /// Of pcapng: the type of a block.
    Kind,
    /// Its length.
    Length {
        kind: u32,
    },
    /// The length of a section's header, and its byte order.
    Section,
    /// The rest of a block, of so many bytes.
    Body {
        kind: u32,
        rest: usize,
    },
    /// So many bytes that are of no interest.
    Skip(usize),
}

/// In which order the bytes of a number are.
#[derive(Clone, Copy, Debug)]
enum Order {
    Little,
    Big,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: u16,
    /// Units of time in a second.
    units: u64,
    offset: i64,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// At the beginning of a file.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: Next::Magic, order: Order::Little, nanos: false, interfaces: Vec::new() }
    }

    /// How many bytes [`Self::take`] is to be given next, at most [`MAX_WANTED`].
    #[must_use]
    pub fn wanted(&self) -> usize {
        match self.next {
            Next::Magic | Next::Kind | Next::Length { .. } => 4,
            Next::Header => 20,
            Next::Record => 16,
            Next::Frame { captured, .. } => captured as usize,
            Next::Section => 8,
            Next::Body { rest, .. } => rest,
            Next::Skip(rest) => rest.min(MAX_WANTED),
        }
    }

    /// Whether the file may end here.
    #[must_use]
    pub const fn is_between(&self) -> bool {
        matches!(self.next, Next::Record | Next::Kind)
    }

    /// Takes the bytes that were wanted. `None` if they are no frame.
    ///
    /// # Errors
    /// The file is malformed, and of no more use; or `bytes` are not as many as were wanted.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Captured<'a>>, Malformed> {
        if bytes.len() != self.wanted() {
            return Err(Malformed::Length);
        }
        let mut fields = Fields { bytes, order: self.order };
        self.next = match self.next {
            Next::Magic => self.magic(fields.word()?)?,
            Next::Header => header(&mut fields)?,
            Next::Record => self.record(&mut fields)?,
            Next::Frame { at, len, .. } => {
                self.next = Next::Record;
                return Ok(Some(Captured { at: Some(at), bytes, len }));
            }
            Next::Kind => match fields.word()? {
                SECTION => Next::Section,
                kind => Next::Length { kind },
            },
            Next::Length { kind } => {
                // Two lengths and a type stand around the body, which is made up to a multiple of 4.
                let rest = (fields.word()? as usize).checked_sub(8).ok_or(Malformed::Length)?;
                let is_known = matches!(kind, INTERFACE | SIMPLE_PACKET | PACKET);
                match (rest >= 4 && rest.is_multiple_of(4), is_known) {
                    (false, _) => return Err(Malformed::Length),
                    (true, true) if rest > MAX_WANTED => return Err(Malformed::Length),
                    (true, true) => Next::Body { kind, rest },
                    (true, false) => Next::Skip(rest),
                }
            }
            Next::Section => self.section(fields)?,
            Next::Body { kind, .. } => {
                self.next = Next::Kind;
                return self.body(kind, fields);
            }
            Next::Skip(rest) if rest > bytes.len() => Next::Skip(rest - bytes.len()),
            Next::Skip(_) => Next::Kind,
        };
        Ok(None)
    }

    /// Tells what kind of file it is.
    fn magic(&mut self, magic: u32) -> Result<Next, Malformed> {
        let is = |known: u32| magic == known || magic.swap_bytes() == known;
        if is(SECTION) {
            return Ok(Next::Section);
        }
        if !is(MAGIC_MICROS) && !is(MAGIC_NANOS) {
            return Err(Malformed::Magic);
        }
        self.nanos = is(MAGIC_NANOS);
        // It was read as a little-endian number.
        let little = magic == MAGIC_MICROS || magic == MAGIC_NANOS;
        self.order = if little { Order::Little } else { Order::Big };
        Ok(Next::Header)
    }

    /// Of a frame in pcap.
    fn record(&self, fields: &mut Fields<'_>) -> Result<Next, Malformed> {
        let (secs, fraction) = (fields.word()?, u64::from(fields.word()?));
        let (captured, len) = (fields.word()?, fields.word()?);
        if captured > MAX_CAPTURED || captured > len {
            return Err(Malformed::Length);
        }
        let nanos = if self.nanos { fraction } else { fraction * 1000 };
        Ok(Next::Frame { at: Duration::from_secs(secs.into()) + Duration::from_nanos(nanos), captured, len })
    }

    /// A section begins: in its own byte order, and with its own interfaces.
    fn section(&mut self, mut fields: Fields<'_>) -> Result<Next, Malformed> {
        let (len, order) = (fields.raw()?, fields.raw()?);
        self.order = match (u32::from_le_bytes(order), u32::from_be_bytes(order)) {
            (BYTE_ORDER, _) => Order::Little,
            (_, BYTE_ORDER) => Order::Big,
            _ => return Err(Malformed::Magic),
        };
        self.interfaces.clear();
        // Behind type, length and byte order: version, length of the section, options, length.
        let rest = (self.order.number(len) as usize).checked_sub(12).ok_or(Malformed::Length)?;
        if rest < 16 || !rest.is_multiple_of(4) {
            return Err(Malformed::Length);
        }
        Ok(Next::Skip(rest))
    }

    /// A block of pcapng that is of interest.
    fn body<'a>(&mut self, kind: u32, mut fields: Fields<'a>) -> Result<Option<Captured<'a>>, Malformed> {
        // The length once more, for those who read backwards.
        fields.bytes = fields.bytes.split_last_chunk::<4>().ok_or(Malformed::Length)?.0;
        match kind {
            INTERFACE => {
                let interface = Interface::read(fields)?;
                if self.interfaces.len() == MAX_INTERFACES {
                    return Err(Malformed::Interface);
                }
                self.interfaces.push(interface);
                Ok(None)
            }
            SIMPLE_PACKET => {
                self.interfaces.first().ok_or(Malformed::Interface)?.check()?;
                let len = fields.word()?;
                // All of it, or what the block has: the interface has a limit.
                let captured = fields.bytes.len().min(len as usize).min(MAX_CAPTURED as usize);
                Ok(Some(Captured { at: None, bytes: fields.take(captured)?, len }))
            }
            _ => {
                let interface = *self.interfaces.get(fields.word()? as usize).ok_or(Malformed::Interface)?;
                interface.check()?;
                let ticks = u64::from(fields.word()?) << 32 | u64::from(fields.word()?);
                let (captured, len) = (fields.word()?, fields.word()?);
                if captured > MAX_CAPTURED || captured > len {
                    return Err(Malformed::Length);
                }
                let bytes = fields.take(captured as usize)?;
                Ok(Some(Captured { at: interface.time(ticks), bytes, len }))
            }
        }
    }
}

/// The rest of a pcap file's header.
fn header(fields: &mut Fields<'_>) -> Result<Next, Malformed> {
    if fields.half()? != VERSION[0] {
        return Err(Malformed::Magic);
    }
    fields.take(14)?;
    // Above it stand flags about checksums at the ends of frames.
    match (fields.word()? & 0xffff) as u16 {
        ETHERNET => Ok(Next::Record),
        other => Err(Malformed::LinkType(other)),
    }
}

impl Interface {
    /// From its block.
    fn read(mut fields: Fields<'_>) -> Result<Self, Malformed> {
        let link = fields.half()?;
        // Reserved, and the most that was captured of a frame.
        fields.take(6)?;
        let mut interface = Self { link, units: 1_000_000, offset: 0 };
        while !fields.bytes.is_empty() {
            let (option, len) = (fields.half()?, usize::from(fields.half()?));
            if option == 0 {
                break;
            }
            let value = fields.take(len)?;
            fields.take(len.next_multiple_of(4) - len)?;
            match (option, value) {
                (OPTION_UNIT, &[exponent]) => {
                    let base = if exponent & 0x80 == 0 { 10_u64 } else { 2 };
                    let units = base.checked_pow(u32::from(exponent & 0x7f));
                    interface.units = units.ok_or(Malformed::Length)?;
                }
                (OPTION_OFFSET, _) => {
                    let value = value.try_into().map_err(|_| Malformed::Length)?;
                    interface.offset = match fields.order {
                        Order::Little => i64::from_le_bytes(value),
                        Order::Big => i64::from_be_bytes(value),
                    };
                }
                _ => {}
            }
        }
        Ok(interface)
    }

    const fn check(&self) -> Result<(), Malformed> {
        if self.link == ETHERNET { Ok(()) } else { Err(Malformed::LinkType(self.link)) }
    }

    /// `None` if it is before 1970, or beyond all times.
    fn time(&self, ticks: u64) -> Option<Duration> {
        let secs = (ticks / self.units).checked_add_signed(self.offset)?;
        let nanos = u128::from(ticks % self.units) * 1_000_000_000 / u128::from(self.units);
        // Less than a second.
        Some(Duration::new(secs, nanos as u32))
    }
}

impl Order {
    const fn number(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// Bytes that fields are taken from, in order.
struct Fields<'a> {
    bytes: &'a [u8],
    order: Order,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        self.bytes.split_off(..len).ok_or(Malformed::Length)
    }

    fn raw(&mut self) -> Result<[u8; 4], Malformed> {
        let (raw, rest) = self.bytes.split_first_chunk().ok_or(Malformed::Length)?;
        self.bytes = rest;
        Ok(*raw)
    }

    fn word(&mut self) -> Result<u32, Malformed> {
        Ok(self.order.number(self.raw()?))
    }

    fn half(&mut self) -> Result<u16, Malformed> {
        let (&half, rest) = self.bytes.split_first_chunk().ok_or(Malformed::Length)?;
        self.bytes = rest;
        Ok(match self.order {
            Order::Little => u16::from_le_bytes(half),
            Order::Big => u16::from_be_bytes(half),
        })
    }
}

#[cfg(test)]
mod tests;
