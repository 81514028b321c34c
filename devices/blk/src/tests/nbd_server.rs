//! An NBD server for tests: it serves memory on a UNIX socket, and lies as it is told. Written from the protocol's
//! description, on its own: nothing of the client's is used.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use outboard_nbd::Uri;

/// What a server does with a request, instead of what it should.
#[derive(Clone, Debug)]
pub(super) enum Trick {
    /// Nothing wrong.
    Honest,
    /// Closes the connection without having done it.
    HangUp,
    /// Never answers it, nor anything else on this connection.
    Silence,
    /// Answers with this error.
    Errno(u32),
    /// Answers with these bytes, in which the cookie has taken the place of `COOKIE`.
    Say(Vec<u8>),
    /// Closes the connection in the middle of the answer.
    Half,
    /// Says no more in the middle of the answer, nor anything else on this connection.
    Stall,
}

pub(super) const COOKIE: [u8; 8] = *b"\xffCOOKIE\xff";

/// What is served, and how.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) bytes: Vec<u8>,
    /// Size that is told; that of `bytes` if `None`.
    pub(super) size: Option<u64>,
    pub(super) flags: u16,
    pub(super) structured: bool,
    pub(super) blocks: Option<[u32; 3]>,
    pub(super) tricks: VecDeque<Trick>,
    /// Connections are closed before the greeting, so many times.
    pub(super) refusals: usize,
    /// What was asked for: command, flags, offset, length.
    pub(super) log: Vec<(u16, u16, u64, u32)>,
    pub(super) connections: usize,
}

impl Offer {
    /// Everything that the client can use, in memory.
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            size: None,
            flags: 1 | 4 | 8 | 32 | 64,
            structured: true,
            blocks: None,
            tricks: VecDeque::new(),
            refusals: 0,
            log: Vec::new(),
            connections: 0,
        }
    }
}

pub(super) struct Server {
    directory: tempfile::TempDir,
    offer: Arc<Mutex<Offer>>,
}

impl Server {
    pub(super) fn start(offer: Offer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("nbd")).unwrap();
        let offer = Arc::new(Mutex::new(offer));
        let shared = Arc::clone(&offer);
        // It ends with the process of the test.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let offer = Arc::clone(&shared);
                thread::spawn(move || serve(&mut stream.unwrap(), &offer));
            }
        });
        Self { directory, offer }
    }

    pub(super) fn uri(&self) -> Uri {
        let path: PathBuf = self.directory.path().join("nbd");
        Uri::parse(&format!("nbd+unix:///disk?socket={}", path.display())).unwrap()
    }

    pub(super) fn offer(&self) -> MutexGuard<'_, Offer> {
        self.offer.lock().unwrap()
    }
}

fn serve(stream: &mut UnixStream, offer: &Mutex<Offer>) -> Option<()> {
    {
        let mut offer = offer.lock().unwrap();
        offer.connections += 1;
        if offer.refusals > 0 {
            offer.refusals -= 1;
            return None;
        }
    }
    stream.write_all(b"NBDMAGICIHAVEOPT\0\x03").ok()?;
    assert_eq!(u32::from_be_bytes(bytes(stream)?), 3);
    let mut structured = false;
    loop {
        assert_eq!(&bytes::<8>(stream)?, b"IHAVEOPT");
        let option = u32::from_be_bytes(bytes(stream)?);
        let mut data = vec![0; u32::from_be_bytes(bytes(stream)?) as usize];
        stream.read_exact(&mut data).ok()?;
        let say = |stream: &mut UnixStream, kind: u32, payload: &[u8]| {
            let mut out = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            out.extend(option.to_be_bytes());
            out.extend(kind.to_be_bytes());
            out.extend((payload.len() as u32).to_be_bytes());
            out.extend(payload);
            stream.write_all(&out).ok()
        };
        let offer = offer.lock().unwrap().clone();
        match option {
            8 if offer.structured => {
                structured = true;
                say(stream, 1, &[])?;
            }
            7 => {
                assert_eq!(data, b"\0\0\0\x04disk\0\x01\0\x03");
                let size = offer.size.unwrap_or(offer.bytes.len() as u64);
                say(stream, 3, &[&[0, 0][..], &size.to_be_bytes(), &offer.flags.to_be_bytes()].concat())?;
                if let Some(blocks) = offer.blocks {
                    let sizes = blocks.map(u32::to_be_bytes).concat();
                    say(stream, 3, &[&[0, 3][..], &sizes].concat())?;
                }
                say(stream, 1, &[])?;
                break;
            }
            _ => say(stream, (1 << 31) + 1, b"no")?,
        }
    }
    while request(stream, offer, structured).is_some() {}
    None
}

fn request(stream: &mut UnixStream, offer: &Mutex<Offer>, structured: bool) -> Option<()> {
    assert_eq!(u32::from_be_bytes(bytes(stream)?), 0x2560_9513);
    let (flags, command) = (u16::from_be_bytes(bytes(stream)?), u16::from_be_bytes(bytes(stream)?));
    let cookie: [u8; 8] = bytes(stream)?;
    let (offset, len) = (u64::from_be_bytes(bytes(stream)?), u32::from_be_bytes(bytes(stream)?));
    let mut data = vec![0; if command == 1 { len as usize } else { 0 }];
    stream.read_exact(&mut data).ok()?;
    let mut offer = offer.lock().unwrap();
    offer.log.push((command, flags, offset, len));
    if command == 2 {
        return None;
    }
    let trick = offer.tricks.pop_front().unwrap_or(Trick::Honest);
    let simple = |error: u32| [&0x6744_6698_u32.to_be_bytes()[..], &error.to_be_bytes(), &cookie].concat();
    let range = offset as usize..offset as usize + len as usize;
    let mut out = match (&trick, command) {
        (Trick::HangUp, _) => return None,
        (Trick::Silence, _) => {
            drop(offer);
            return say_nothing(stream);
        }
        (Trick::Errno(error), 0) if structured => {
            chunk(1, (1 << 15) + 1, cookie, &[&error.to_be_bytes()[..], b"\0\x02no"].concat())
        }
        (Trick::Errno(error), _) => simple(*error),
        (Trick::Say(bytes), _) => replaced(bytes, cookie),
        (_, 0) if structured => {
            let mut payload = offset.to_be_bytes().to_vec();
            payload.extend(&offer.bytes[range]);
            chunk(1, 1, cookie, &payload)
        }
        (_, 0) => [&simple(0), &offer.bytes[range]].concat(),
        (_, 1) => {
            offer.bytes[range].copy_from_slice(&data);
            simple(0)
        }
        (_, 6) => {
            offer.bytes[range].fill(0);
            simple(0)
        }
        (_, 3 | 4) => simple(0),
        (_, other) => panic!("command {other}"),
    };
    drop(offer);
    if matches!(trick, Trick::Half | Trick::Stall) {
        out.truncate(out.len() / 2);
    }
    stream.write_all(&out).ok()?;
    match trick {
        Trick::Half => None,
        Trick::Stall => say_nothing(stream),
        _ => Some(()),
    }
}

/// Until the client hangs up.
fn say_nothing(stream: &mut UnixStream) -> Option<()> {
    while stream.read(&mut [0; 4096]).ok()? > 0 {}
    None
}

/// A chunk of a structured reply.
pub(super) fn chunk(flags: u16, kind: u16, cookie: [u8; 8], payload: &[u8]) -> Vec<u8> {
    let mut out = 0x668e_33ef_u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie);
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

fn replaced(bytes: &[u8], cookie: [u8; 8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    while let Some(at) = out.windows(8).position(|window| window == COOKIE) {
        out[at..at + 8].copy_from_slice(&cookie);
    }
    out
}

fn bytes<const N: usize>(stream: &mut UnixStream) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}
