//! Messages that go over a bus together: one start, a repeated start before each further message, one stop.

use crate::address::Address;
use crate::request::Wish;

/// Most messages of a transaction: the kernel's limit for I2C_RDWR.
pub(crate) const MOST_MESSAGES: usize = 42;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) address: Address,
    pub(crate) read: bool,
    /// What is written, or room for what is read.
    pub(crate) data: Vec<u8>,
}

/// See the module. Its memory stays for the next.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    room: Vec<Message>,
    used: usize,
}

impl Transaction {
    /// Begins anew.
    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// Adds a message with zeroes for data.
    pub(crate) fn push(&mut self, wish: Wish) -> Option<&mut Message> {
        let Wish { address, read, len } = wish;
        if self.room.len() == self.used {
            self.room.push(Message { address, read, data: Vec::new() });
        }
        let message = self.room.get_mut(self.used)?;
        self.used += 1;
        (message.address, message.read) = (address, read);
        message.data.clear();
        message.data.resize(len, 0);
        Some(message)
    }

    /// Leaves the last message out.
    pub(crate) fn pop(&mut self) {
        self.used = self.used.saturating_sub(1);
    }

    /// The messages.
    pub(crate) fn messages(&mut self) -> &mut [Message] {
        self.room.get_mut(..self.used).unwrap_or_default()
    }
}
