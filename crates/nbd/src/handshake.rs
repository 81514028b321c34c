//! From the server's greeting to an export: fixed newstyle negotiation.
//!
//! The caller reads exactly as many bytes as [`Handshake::wanted`] says and hands them over; so nothing that was sent
//! before encryption can be taken for what comes after it (the protocol's downgrade by injection). What is asked, in
//! this order, one at a time: TLS if the URI wants it, structured replies, and the export with `NBD_OPT_GO`; servers
//! that do not know that one get `NBD_OPT_EXPORT_NAME`, which is older and has no way to say no.

use crate::Error;
use crate::wire::{
    CAN_MULTI_CONN, FIXED_NEWSTYLE, HAS_FLAGS, INFO_BLOCK_SIZE, INFO_EXPORT, MAGIC, MAX_STRING, NO_ZEROES,
    OLD_MAGIC, OPT_EXPORT_NAME, OPT_GO, OPT_STARTTLS, OPT_STRUCTURED_REPLY, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    READ_ONLY, REP_ACK, REP_ERR_BLOCK_SIZE_REQD, REP_ERR_POLICY, REP_ERR_SHUTDOWN, REP_ERR_TLS_REQD,
    REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_ERROR, REP_INFO, SEND_FLUSH, SEND_FUA, SEND_TRIM, SEND_WRITE_ZEROES,
    Take,
};

/// The longest payload of an option's reply that is read, in bytes.
const MAX_PAYLOAD: usize = 16 << 10;
/// How many pieces of information a server may give of an export.
const MAX_INFOS: usize = 64;
const GREETING: usize = 18;
const REPLY_HEADER: usize = 20;
/// What follows `NBD_OPT_EXPORT_NAME`: size, flags, and zeroes if the server insists.
const EXPORT: usize = 10;
const ZEROES: usize = 124;

/// What a connection is to be.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The export's name.
    pub export: String,
    /// Encrypt, or fail.
    pub tls: bool,
}

/// What a server serves under a name, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Export {
    /// In bytes; less than 2^63.
    pub size: u64,
    /// Positions and lengths are multiples of this power of two, at most 64 KiB.
    pub minimum_block: u32,
    /// What requests had better be multiples of; a power of two.
    pub preferred_block: u32,
    /// The most data in a request, in bytes: a multiple of `minimum_block`.
    pub maximum_payload: u32,
    /// Reads are answered in chunks.
    pub structured: bool,
    flags: u16,
}

impl Export {
    const fn has(&self, flag: u16) -> bool {
        // Without HAS_FLAGS, the others mean nothing.
        self.flags & HAS_FLAGS != 0 && self.flags & flag != 0
    }

    /// Writes are refused.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.has(READ_ONLY)
    }

    /// The server knows [`crate::Command::Flush`].
    #[must_use]
    pub const fn can_flush(&self) -> bool {
        self.has(SEND_FLUSH)
    }

    /// The server knows [`crate::FLAG_FUA`].
    #[must_use]
    pub const fn can_fua(&self) -> bool {
        self.has(SEND_FUA)
    }

    /// The server knows [`crate::Command::Trim`].
    #[must_use]
    pub const fn can_trim(&self) -> bool {
        self.has(SEND_TRIM)
    }

    /// The server knows [`crate::Command::WriteZeroes`].
    #[must_use]
    pub const fn can_zero(&self) -> bool {
        self.has(SEND_WRITE_ZEROES)
    }

    /// Several connections see each other's writes, and one's flush covers all of them.
    #[must_use]
    pub const fn can_share(&self) -> bool {
        self.has(CAN_MULTI_CONN)
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Send this (it may be nothing), then go on reading.
    Send(Vec<u8>),
    /// Encrypt the connection, then call [`Handshake::encrypted`].
    Encrypt,
    /// The export is there: requests may be sent.
    Ready(Export),
}

/// A negotiation under way.
#[derive(Debug)]
pub struct Handshake {
    terms: Terms,
    state: State,
    structured: bool,
    zeroes: bool,
    export: Option<(u64, u16)>,
    blocks: Option<(u32, u32, u32)>,
    infos: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    /// Waits for the header of a reply to this option.
    Header(u32),
    /// Waits for so many bytes of a reply's payload: option, type of reply, length.
    Payload(u32, u32, usize),
    /// Waits for what follows `NBD_OPT_EXPORT_NAME`.
    Plain,
    Over,
}

impl Handshake {
    /// One that waits for the server's greeting.
    #[must_use]
    pub const fn new(terms: Terms) -> Self {
        Self {
            terms,
            state: State::Greeting,
            structured: false,
            zeroes: true,
            export: None,
            blocks: None,
            infos: 0,
        }
    }

    /// How many bytes [`Handshake::receive`] wants next: more than none, and at most 16 KiB.
    #[must_use]
    pub const fn wanted(&self) -> usize {
        match self.state {
            State::Greeting => GREETING,
            State::Header(_) => REPLY_HEADER,
            State::Payload(_, _, len) => len,
            State::Plain if self.zeroes => EXPORT + ZEROES,
            State::Plain => EXPORT,
            State::Over => 1,
        }
    }

    /// Takes exactly the bytes that were wanted.
    ///
    /// # Errors
    /// The server breaks the protocol, or refuses.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Step, Error> {
        if bytes.len() != self.wanted() {
            return Err(Error::Protocol("it is not what was waited for"));
        }
        match self.state {
            State::Greeting => self.greeting(bytes),
            State::Header(option) => self.header(option, bytes),
            State::Payload(option, kind, _) => self.reply(option, kind, bytes),
            State::Plain => self.plain(bytes),
            State::Over => Err(Error::Protocol("it goes on after the negotiation")),
        }
    }

    /// The connection is encrypted now: returns what to send.
    pub fn encrypted(&mut self) -> Vec<u8> {
        self.ask(OPT_STRUCTURED_REPLY, &[])
    }

    fn greeting(&mut self, mut bytes: &[u8]) -> Result<Step, Error> {
        if bytes.u64() != Some(MAGIC) {
            return Err(Error::Protocol("it does not begin with NBDMAGIC"));
        }
        match bytes.u64() {
            Some(OPTION_MAGIC) => {}
            Some(OLD_MAGIC) => return Err(Error::Refused("the server is too old (oldstyle)".into())),
            _ => return Err(Error::Protocol("its greeting has no IHAVEOPT")),
        }
        let flags = bytes.u16().unwrap_or(0);
        if flags & FIXED_NEWSTYLE == 0 {
            return Err(Error::Refused("the server is too old (no fixed newstyle)".into()));
        }
        self.zeroes = flags & NO_ZEROES == 0;
        let mut out = u32::from(flags & (FIXED_NEWSTYLE | NO_ZEROES)).to_be_bytes().to_vec();
        out.extend(self.ask(if self.terms.tls { OPT_STARTTLS } else { OPT_STRUCTURED_REPLY }, &[]));
        Ok(Step::Send(out))
    }

    fn header(&mut self, option: u32, mut bytes: &[u8]) -> Result<Step, Error> {
        if bytes.u64() != Some(OPTION_REPLY_MAGIC) {
            return Err(Error::Protocol("a reply to an option has no magic"));
        }
        if bytes.u32() != Some(option) {
            return Err(Error::Protocol("it replies to an option that was not asked for"));
        }
        let (kind, len) = (bytes.u32().unwrap_or(0), bytes.u32().unwrap_or(u32::MAX));
        match usize::try_from(len) {
            Ok(0) => self.reply(option, kind, &[]),
            Ok(len @ 1..=MAX_PAYLOAD) => {
                self.state = State::Payload(option, kind, len);
                Ok(Step::Send(Vec::new()))
            }
            _ => Err(Error::Protocol("a reply to an option is absurdly long")),
        }
    }

    fn reply(&mut self, option: u32, kind: u32, payload: &[u8]) -> Result<Step, Error> {
        self.state = State::Header(option);
        if kind & REP_ERROR != 0 {
            return self.refusal(option, kind, payload);
        }
        match (option, kind) {
            (OPT_GO, REP_INFO) => {
                self.infos += 1;
                if self.infos > MAX_INFOS {
                    return Err(Error::Protocol("it tells of an export without end"));
                }
                self.info(payload)?;
                Ok(Step::Send(Vec::new()))
            }
            (OPT_GO, REP_ACK) => self.ready(),
            (_, REP_ACK) if !payload.is_empty() => Err(Error::Protocol("an acknowledgement has a payload")),
            (OPT_STARTTLS, REP_ACK) => Ok(Step::Encrypt),
            (OPT_STRUCTURED_REPLY, REP_ACK) => {
                self.structured = true;
                Ok(Step::Send(self.go()))
            }
            _ => Err(Error::Protocol("a reply to an option is of a wrong type")),
        }
    }

    fn refusal(&mut self, option: u32, kind: u32, message: &[u8]) -> Result<Step, Error> {
        let export = &self.terms.export;
        let what = match (option, kind) {
            (OPT_STRUCTURED_REPLY, kind) if kind != REP_ERR_TLS_REQD => return Ok(Step::Send(self.go())),
            (OPT_GO, REP_ERR_UNSUP) => return Ok(Step::Send(self.export_name())),
            (OPT_STARTTLS, REP_ERR_UNSUP | REP_ERR_POLICY) => "the server has no TLS".to_owned(),
            (OPT_STARTTLS, _) => "the server refuses TLS".to_owned(),
            (_, REP_ERR_TLS_REQD) => "the server wants TLS (nbds://)".to_owned(),
            (_, REP_ERR_UNKNOWN) => format!("the server has no export {export:?}"),
            (_, REP_ERR_SHUTDOWN) => "the server is shutting down".to_owned(),
            (_, REP_ERR_BLOCK_SIZE_REQD) => "the server wants block sizes that cannot be had".to_owned(),
            (_, REP_ERR_POLICY) => format!("the server does not let this client have the export {export:?}"),
            _ => format!("the server refuses the export {export:?} (error {})", kind - REP_ERROR),
        };
        // Its words are for the log: bounded, and without control characters.
        let message = message.get(..message.len().min(MAX_STRING)).unwrap_or_default();
        let message = String::from_utf8_lossy(message);
        Err(Error::Refused(match message.trim() {
            "" => what,
            said => format!("{what}: {}", said.escape_debug()),
        }))
    }

    fn info(&mut self, mut payload: &[u8]) -> Result<(), Error> {
        match (payload.u16(), payload.len()) {
            (Some(INFO_EXPORT), 10) => self.export = payload.u64().zip(payload.u16()),
            (Some(INFO_BLOCK_SIZE), 12) => {
                self.blocks = match (payload.u32(), payload.u32(), payload.u32()) {
                    (Some(minimum), Some(preferred), Some(maximum)) => Some((minimum, preferred, maximum)),
                    _ => None,
                };
            }
            (None | Some(INFO_EXPORT | INFO_BLOCK_SIZE), _) => {
                return Err(Error::Protocol("what it tells of an export has a wrong length"));
            }
            // A name, a description, or what was invented later.
            (Some(_), _) => {}
        }
        Ok(())
    }

    fn plain(&mut self, mut bytes: &[u8]) -> Result<Step, Error> {
        self.export = bytes.u64().zip(bytes.u16());
        self.ready()
    }

    fn ready(&mut self) -> Result<Step, Error> {
        self.state = State::Over;
        let (size, flags) = self.export.ok_or(Error::Protocol("it does not tell the size of the export"))?;
        if i64::try_from(size).is_err() {
            return Err(Error::Protocol("the size of the export is absurd"));
        }
        // What proto.md assumes where nothing is said: requests of sectors, of up to 32 MiB.
        let (minimum, preferred, maximum) = self.blocks.unwrap_or((512, 4096, 32 << 20));
        let powers = minimum.is_power_of_two() && preferred.is_power_of_two();
        let maximum = maximum.min(32 << 20);
        let sane = minimum <= 64 << 10 && preferred >= minimum && maximum >= minimum;
        if !powers || !sane {
            return Err(Error::Protocol("the block sizes of the export make no sense"));
        }
        Ok(Step::Ready(Export {
            size,
            minimum_block: minimum,
            preferred_block: preferred,
            maximum_payload: maximum - maximum % minimum,
            structured: self.structured,
            flags,
        }))
    }

    fn go(&mut self) -> Vec<u8> {
        let name = self.terms.export.as_bytes();
        // Its length fits: a URI has no longer one.
        let mut data = (name.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(name);
        data.extend_from_slice(&1_u16.to_be_bytes());
        data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
        self.ask(OPT_GO, &data)
    }

    fn export_name(&mut self) -> Vec<u8> {
        let asked = self.ask(OPT_EXPORT_NAME, self.terms.export.clone().as_bytes());
        self.state = State::Plain;
        asked
    }

    fn ask(&mut self, option: u32, data: &[u8]) -> Vec<u8> {
        self.state = State::Header(option);
        let mut out = OPTION_MAGIC.to_be_bytes().to_vec();
        out.extend_from_slice(&option.to_be_bytes());
        out.extend_from_slice(&(data.len() as u32).to_be_bytes());
        out.extend_from_slice(data);
        out
    }
}

#[cfg(test)]
mod tests;
