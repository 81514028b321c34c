//! Recordings of what went by between a front end and a back end. Whoever made one is not trusted.
//!
//! A recording is little-endian throughout, whatever the machine; the messages in it have the byte order of the
//! machine where they were made, which the head names.
//!
//! ```text
//! head     "vu-recrd", u16 version, u8 byte order of the messages (1 little, 2 big), 5 zero bytes
//! message  u32 connection, u16 channel, u8 sender (0 front end, 1 back end), u8 number of descriptors,
//!          u64 time in nanoseconds, u64 length on the wire, u32 length kept,
//!          per descriptor: u8 kind, u64 size, u8 length of its name, the name in UTF-8,
//!          header and payload, as many bytes as were kept
//! ```

use std::io::{self, Read, Write};
use std::time::Duration;

use crate::message::{Header, MAX_FDS};
use crate::observe::{CAPTURE, Channel, Descriptor, DescriptorKind, Seen, Side};

const MAGIC: [u8; 8] = *b"vu-recrd";
const VERSION: u16 = 1;
const BYTE_ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };
/// The most bytes that are kept of one message.
const MOST: usize = Header::LEN + CAPTURE;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// It is something else.
    #[error("not a recording")]
    NotOne,
    /// A newer program made it.
    #[error("a recording of version {0}, {VERSION} is known")]
    Version(u16),
    /// A machine of the other byte order made it: its messages mean nothing here.
    #[error("a recording from a machine of another byte order")]
    ByteOrder,
    /// It ends within a message.
    #[error("the recording ends within message {0}")]
    Truncated(u64),
    /// Its bytes contradict each other.
    #[error("message {0} of the recording is malformed: {1}")]
    Malformed(u64, &'static str),
    /// It could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Writes a recording.
#[derive(Debug)]
pub struct Recorder<W>(W);

impl<W: Write> Recorder<W> {
    /// A new recording, without a message.
    ///
    /// # Errors
    /// `sink` does not take it.
    pub fn new(mut sink: W) -> io::Result<Self> {
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&[BYTE_ORDER, 0, 0, 0, 0, 0]);
        sink.write_all(&head)?;
        Ok(Self(sink))
    }

    /// Adds a message, with one write.
    ///
    /// # Errors
    /// The sink does not take it. Nothing that follows can be read then.
    pub fn add(&mut self, seen: &Seen) -> io::Result<()> {
        let fds = seen.fds.get(..seen.fds.len().min(MAX_FDS)).unwrap_or_default();
        let bytes = seen.bytes.get(..seen.bytes.len().min(MOST)).unwrap_or_default();
        let mut record = Vec::with_capacity(64 + bytes.len());
        record.extend_from_slice(&seen.connection.to_le_bytes());
        record.extend_from_slice(&seen.channel.0.to_le_bytes());
        record.push(u8::from(seen.from == Side::BackEnd));
        record.push(u8::try_from(fds.len()).unwrap_or(u8::MAX));
        let nanoseconds = u64::try_from(seen.time.as_nanos()).unwrap_or(u64::MAX);
        record.extend_from_slice(&nanoseconds.to_le_bytes());
        record.extend_from_slice(&seen.len.to_le_bytes());
        record.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        for fd in fds {
            let end = (0..=fd.name.len().min(255)).rev().find(|&end| fd.name.is_char_boundary(end));
            let name = fd.name.get(..end.unwrap_or(0)).unwrap_or_default();
            record.push(code_of(fd.kind));
            record.extend_from_slice(&fd.size.to_le_bytes());
            record.push(u8::try_from(name.len()).unwrap_or(0));
            record.extend_from_slice(name.as_bytes());
        }
        record.extend_from_slice(bytes);
        self.0.write_all(&record)
    }
}

/// Reads a recording.
#[derive(Debug)]
pub struct Recording<R> {
    source: R,
    read: u64,
}

impl<R: Read> Recording<R> {
    /// A recording up to its first message.
    ///
    /// # Errors
    /// It is none, or none that this machine can read.
    pub fn open(mut source: R) -> Result<Self, RecordingError> {
        let mut head = [0; 16];
        source.read_exact(&mut head).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => RecordingError::NotOne,
            _ => error.into(),
        })?;
        let [magic @ .., low, high, order, _, _, _, _, _] = head;
        if magic != MAGIC {
            return Err(RecordingError::NotOne);
        }
        match u16::from_le_bytes([low, high]) {
            VERSION => {}
            version => return Err(RecordingError::Version(version)),
        }
        if order != BYTE_ORDER {
            return Err(RecordingError::ByteOrder);
        }
        Ok(Self { source, read: 0 })
    }

    /// The next message; `None` at the end.
    ///
    /// # Errors
    /// The recording is damaged, or cannot be read.
    pub fn next_message(&mut self) -> Result<Option<Seen>, RecordingError> {
        let mut first = [0];
        loop {
            match self.source.read(&mut first) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.read += 1;
        let number = self.read;
        let malformed = |reason| RecordingError::Malformed(number, reason);
        let [a] = first;
        let [b, c, d] = self.bytes()?;
        let connection = u32::from_le_bytes([a, b, c, d]);
        let channel = Channel(u16::from_le_bytes(self.bytes()?));
        let [from, count] = self.bytes()?;
        let from = match from {
            0 => Side::FrontEnd,
            1 => Side::BackEnd,
            _ => return Err(malformed("a sender that there is not")),
        };
        if usize::from(count) > MAX_FDS {
            return Err(malformed("too many descriptors"));
        }
        let time = Duration::from_nanos(u64::from_le_bytes(self.bytes()?));
        let len = u64::from_le_bytes(self.bytes()?);
        let kept = u64::from(u32::from_le_bytes(self.bytes()?));
        if kept > len || kept > MOST as u64 {
            return Err(malformed("more bytes than can have been kept"));
        }
        let mut fds = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let [kind] = self.bytes()?;
            let kind = kind_of(kind).ok_or_else(|| malformed("a kind of descriptor that is not known"))?;
            let size = u64::from_le_bytes(self.bytes()?);
            let [length] = self.bytes()?;
            let name = String::from_utf8(self.vec(usize::from(length))?)
                .map_err(|_| malformed("a name that is not UTF-8"))?;
            fds.push(Descriptor { kind, size, name });
        }
        let bytes = self.vec(usize::try_from(kept).unwrap_or(MOST))?;
        Ok(Some(Seen { connection, channel, from, time, bytes, len, fds }))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], RecordingError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn vec(&mut self, len: usize) -> Result<Vec<u8>, RecordingError> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), RecordingError> {
        self.source.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => RecordingError::Truncated(self.read),
            _ => error.into(),
        })
    }
}

fn code_of(kind: DescriptorKind) -> u8 {
    match kind {
        DescriptorKind::Other => 0,
        DescriptorKind::File => 1,
        DescriptorKind::Event => 2,
        DescriptorKind::Socket => 3,
        DescriptorKind::PipeRead => 4,
        DescriptorKind::PipeWrite => 5,
    }
}

fn kind_of(code: u8) -> Option<DescriptorKind> {
    Some(match code {
        0 => DescriptorKind::Other,
        1 => DescriptorKind::File,
        2 => DescriptorKind::Event,
        3 => DescriptorKind::Socket,
        4 => DescriptorKind::PipeRead,
        5 => DescriptorKind::PipeWrite,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Seen {
        Seen {
            connection: 7,
            channel: Channel(1),
            from: Side::BackEnd,
            time: Duration::from_nanos(123_456_789),
            bytes: vec![5; 20],
            len: 1 << 33,
            fds: vec![
                Descriptor { kind: DescriptorKind::File, size: 1 << 40, name: "memfd:ram".to_owned() },
                Descriptor { kind: DescriptorKind::PipeWrite, size: 0, name: "ü".repeat(200) },
            ],
        }
    }

    fn recorded(messages: &[Seen]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes).unwrap();
        for message in messages {
            recorder.add(message).unwrap();
        }
        bytes
    }

    #[test]
    fn recording_reads_back_what_was_added() {
        let bytes = recorded(&[message(), Seen { bytes: Vec::new(), fds: Vec::new(), ..message() }]);
        let mut recording = Recording::open(bytes.as_slice()).unwrap();
        let first = recording.next_message().unwrap().unwrap();
        assert_eq!(first.fds[1].name, "ü".repeat(127), "a name is cut between two characters");
        assert_eq!(Seen { fds: message().fds, ..first.clone() }, message());
        assert_eq!(first.fds[0], message().fds[0]);
        assert_eq!(recording.next_message().unwrap().unwrap().bytes, []);
        assert_eq!(recording.next_message().unwrap(), None);
    }

    #[test]
    fn recording_cut_anywhere_says_so() {
        let bytes = recorded(&[message()]);
        for end in 0..bytes.len() {
            let result = Recording::open(&bytes[..end]).and_then(|mut recording| recording.next_message());
            match result {
                Err(RecordingError::NotOne) => assert!(end < 16),
                Err(RecordingError::Truncated(1)) => assert!(end > 16),
                Ok(None) => assert_eq!(end, 16),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn recording_of_another_version_or_machine_is_refused() {
        let bytes = recorded(&[]);
        let with = |at: usize, byte: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            Recording::open(bytes.as_slice()).unwrap_err()
        };
        assert!(matches!(with(0, b'x'), RecordingError::NotOne));
        assert!(matches!(with(8, 2), RecordingError::Version(2)));
        assert!(matches!(with(10, 3 - BYTE_ORDER), RecordingError::ByteOrder));
    }

    #[test]
    fn recording_with_bytes_that_make_no_sense_is_refused() {
        let bytes = recorded(&[message()]);
        // Sender, number of descriptors, length kept, kind, name.
        for (at, byte) in [(22, 2), (23, 254), (43, 1), (44, 9), (54, 0xff)] {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            let error = Recording::open(bytes.as_slice()).unwrap().next_message().unwrap_err();
            assert!(matches!(error, RecordingError::Malformed(1, _)), "{at}: {error}");
        }
    }
}
