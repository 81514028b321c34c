//! The bytes of messages (DEN0056, 4.1.1, 4.1.2; VIRTIO 1.3, 5.17.6): little-endian words after a header of one word.

use crate::Status;

/// What kind of message it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A command, or its answer.
    Command = 0,
    /// The late outcome of a command that was answered before.
    Delayed = 2,
    /// An event that the agent has asked to hear of.
    Notification = 3,
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header(pub u32);

impl Header {
    /// A header of these parts. The token has 10 bits.
    #[must_use]
    pub const fn new(protocol: u8, message: u8, kind: Kind, token: u16) -> Self {
        Self(message as u32 | (kind as u32) << 8 | (protocol as u32) << 10 | (token as u32 & 0x3ff) << 18)
    }

    /// Which message of its protocol it is.
    #[must_use]
    pub const fn message(self) -> u8 {
        self.0 as u8
    }

    /// Which protocol it is of.
    #[must_use]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 10) as u8
    }

    /// What the agent knows its command by.
    #[must_use]
    pub const fn token(self) -> u16 {
        (self.0 >> 18) as u16 & 0x3ff
    }

    /// Whether it says of itself that it is a command.
    #[must_use]
    pub const fn is_command(self) -> bool {
        self.0 >> 8 & 3 == Kind::Command as u32
    }
}

/// The parameters of a command.
#[derive(Clone, Copy)]
pub(crate) struct Params<'a>(&'a [u8]);

impl<'a> Params<'a> {
    /// The parameters, which are to be so many words.
    pub(crate) fn of(bytes: &'a [u8], words: u8) -> Result<Self, Status> {
        if bytes.len() == usize::from(words) * 4 { Ok(Self(bytes)) } else { Err(Status::ProtocolError) }
    }

    /// The next word.
    pub(crate) fn word(&mut self) -> Result<u32, Status> {
        let (word, rest) = self.0.split_first_chunk().ok_or(Status::ProtocolError)?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*word))
    }

    /// The next two words, the lower first, as a number of 64 bits.
    pub(crate) fn long(&mut self) -> Result<u64, Status> {
        Ok(u64::from(self.word()?) | u64::from(self.word()?) << 32)
    }
}

/// An answer in the making, after its header and status.
pub(crate) struct Reply<'a> {
    bytes: &'a mut Vec<u8>,
    /// The most that `bytes` may hold.
    room: usize,
}

impl<'a> Reply<'a> {
    /// An answer behind what `bytes` holds, which is at most `room` bytes in all.
    pub(crate) fn new(bytes: &'a mut Vec<u8>, room: usize) -> Self {
        Self { bytes, room }
    }

    /// Whether there is room for so many bytes more.
    pub(crate) fn fits(&self, bytes: usize) -> bool {
        self.room.saturating_sub(self.bytes.len()) >= bytes
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Status> {
        if !self.fits(bytes.len()) {
            return Err(Status::ProtocolError);
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn word(&mut self, word: u32) -> Result<(), Status> {
        self.raw(&word.to_le_bytes())
    }

    pub(crate) fn words(&mut self, words: &[u32]) -> Result<(), Status> {
        words.iter().try_for_each(|&word| self.word(word))
    }

    /// Two words, the lower first.
    pub(crate) fn long(&mut self, long: u64) -> Result<(), Status> {
        self.raw(&long.to_le_bytes())
    }

    /// A name in a field of so many bytes, of which the last is 0 in any case.
    pub(crate) fn name(&mut self, name: &str, field: usize) -> Result<(), Status> {
        let fits = name.len().min(field - 1);
        let cut = (0..=fits).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
        let shown = name.as_bytes().get(..cut).unwrap_or_default();
        self.raw(shown)?;
        (cut..field).try_for_each(|_| self.raw(&[0]))
    }

    /// As many of `items` from `first` on as there is room for, `size` bytes each, behind a word that `flags` makes of how
    /// many are there and how many remain: the form of all answers in parts.
    pub(crate) fn parts<T>(
        &mut self,
        (items, first, most): (&[T], u32, usize),
        size: impl Fn(&T) -> usize,
        flags: impl Fn(u32, u32) -> u32,
        put: impl Fn(&mut Self, usize, &T) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let skip = first as usize;
        let left = items.get(skip..).ok_or(Status::OutOfRange)?;
        let at = self.bytes.len();
        self.word(0)?;
        let mut count = 0;
        for (index, item) in left.iter().enumerate().take(most) {
            if !self.fits(size(item)) {
                break;
            }
            put(self, skip + index, item)?;
            count += 1;
        }
        if count == 0 && !left.is_empty() {
            return Err(Status::ProtocolError);
        }
        let word = flags(count as u32, (left.len() - count) as u32);
        if let Some(field) = self.bytes.get_mut(at..at + 4) {
            field.copy_from_slice(&word.to_le_bytes());
        }
        Ok(())
    }
}
