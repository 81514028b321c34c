//! What can be at the far end of a port, and what records what passes. Whoever is there is not trusted: nothing here waits for
//! him, and what is kept for him is bounded.

mod file;
mod memory;
mod pty;
mod record;
mod socket;
mod stdio;
mod syslog;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use outboard_device::DeviceError;
use outboard_streams::{Address, Poller};

use crate::Size;

pub(crate) use memory::Ring;
pub(crate) use record::Recorder;

/// Bytes of a ring without a size.
const RING: usize = 64 << 10;
/// What may be at a far end, for messages.
pub(crate) const FARS: &str = "ring[:BYTES], unix:PATH, unix-connect:PATH, tcp:ADDRESS:PORT, pty[:LINK], stdio, file:PATH, \
                               syslog[:TAG], echo and null";
/// Bytes of a tag in the system's log.
const TAG: usize = 48;
/// The smallest ring, and the smallest file that is followed by another, in bytes.
const SMALLEST: u64 = 4096;
/// The largest ring, in bytes.
const LARGEST: usize = 64 << 20;

/// The far end of a port.
pub(crate) trait Far: Send {
    /// Looks who is there: after news, or because it is [polled](Self::is_polled). True: to be looked at again.
    fn look(&mut self, now: Instant) -> bool {
        let _ = now;
        false
    }

    /// Whether somebody is there.
    fn is_open(&self) -> bool {
        true
    }

    /// Whether it has to be looked at again and again, without news.
    fn is_polled(&self) -> bool {
        false
    }

    /// Whether it is known to have something without news.
    fn has_input(&self) -> bool {
        false
    }

    /// Reads what it has. 0, or an error that is not [`io::ErrorKind::WouldBlock`]: whoever was there is gone.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Writes as much as it takes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Sends whoever is there away.
    fn hang_up(&mut self) {}

    /// Another driver begins. True: what waits here, or to come here, was the one's before it.
    fn forget(&mut self) -> bool {
        false
    }

    /// The size that it has, if it has one.
    fn size(&self) -> Option<Size> {
        None
    }

    /// Where it is, if that is not what options say.
    fn address(&self) -> Option<String> {
        None
    }

    /// The ring, if it is one.
    fn ring(&mut self) -> Option<&mut Ring> {
        None
    }
}

/// By what the news of a port's far end comes.
#[derive(Clone)]
pub(crate) struct Watch {
    poller: Arc<Poller>,
    port: u64,
}

impl Watch {
    pub(crate) fn new(poller: &Arc<Poller>, port: usize) -> Self {
        Self { poller: Arc::clone(poller), port: port as u64 }
    }

    /// Tells of `fd` until it is closed.
    fn add(&self, fd: impl AsFd, writes: bool) -> io::Result<()> {
        self.poller.add(fd, self.port, writes)
    }
}

/// What is to be at a far end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Ring(usize),
    Echo,
    Null,
    Unix(PathBuf),
    UnixConnect(PathBuf),
    Tcp { address: SocketAddr, token: PathBuf },
    Pty(Option<PathBuf>),
    Stdio,
    File { path: PathBuf, rotation: Option<Rotation> },
    Syslog { tag: String, socket: PathBuf },
}

/// When a file is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// When it has so many bytes.
    max: u64,
    /// So many are kept beside it.
    keep: u16,
}

impl To {
    /// Whether a text begins as one.
    pub(crate) fn is_one(text: &str) -> bool {
        let kind = text.split_once(':').map_or(text, |(kind, _)| kind);
        let kinds = ["ring", "echo", "null", "unix", "unix-connect", "tcp", "pty", "stdio", "file", "syslog"];
        kinds.contains(&kind)
    }

    /// Reads what options say; what belongs to it is taken by its key.
    pub(crate) fn parse(text: &str, take: &mut impl FnMut(&str) -> Option<String>) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        let number = |key: &str, text: &str| -> Result<u64, String> {
            text.parse().map_err(|_| format!("{key}: {text:?} is no number"))
        };
        match (kind, rest.filter(|rest| !rest.is_empty())) {
            ("ring", None) => Ok(Self::Ring(RING)),
            ("ring", Some(size)) => {
                let size = usize::try_from(number("ring", size)?).unwrap_or(usize::MAX);
                let fits = (SMALLEST as usize..=LARGEST).contains(&size);
                fits.then_some(Self::Ring(size)).ok_or(format!("a ring has {SMALLEST} to {LARGEST} bytes"))
            }
            ("echo", None) => Ok(Self::Echo),
            ("null", None) => Ok(Self::Null),
            ("stdio", None) => Ok(Self::Stdio),
            ("pty", link) => Ok(Self::Pty(link.map(PathBuf::from))),
            ("unix", Some(path)) => Ok(Self::Unix(path.into())),
            ("unix-connect", Some(path)) => Ok(Self::UnixConnect(path.into())),
            ("tcp", Some(address)) => {
                let address: SocketAddr =
                    address.parse().map_err(|_| format!("{address:?} is no ADDRESS:PORT"))?;
                if !address.ip().is_loopback() {
                    return Err(format!("{address} is no loopback address: others could reach it"));
                }
                let token = take("token-file").ok_or("tcp needs token-file=FILE")?;
                Ok(Self::Tcp { address, token: token.into() })
            }
            ("file", Some(path)) => {
                let max = take("max").map(|max| number("max", &max)).transpose()?;
                let keep = take("keep").map(|keep| number("keep", &keep)).transpose()?;
                let rotation = match (max, keep.unwrap_or(1)) {
                    (None, _) if keep.is_some() => return Err("keep goes with max".to_owned()),
                    (None, _) => None,
                    (Some(max), keep @ 0..=999) if max >= SMALLEST => {
                        Some(Rotation { max, keep: keep as u16 })
                    }
                    (Some(_), _) => return Err(format!("max is {SMALLEST} at least, and keep 999 at most")),
                };
                Ok(Self::File { path: path.into(), rotation })
            }
            ("syslog", tag) => {
                let tag = tag.unwrap_or("vhost-user-console").to_owned();
                if tag.len() > TAG || !tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
                    return Err(format!("a tag has up to {TAG} letters and no colon"));
                }
                let socket = take("socket").map_or(syslog::LOG.into(), PathBuf::from);
                Ok(Self::Syslog { tag, socket })
            }
            _ => Err(format!("{text:?} is none of {FARS}")),
        }
    }

    pub(crate) fn open(&self, watch: Watch) -> Result<Box<dyn Far>, DeviceError> {
        Ok(match self {
            Self::Ring(size) => Box::new(Ring::new(*size)),
            Self::Echo => Box::new(memory::Echo::default()),
            Self::Null => Box::new(memory::Null),
            Self::Unix(path) => Box::new(socket::Socket::listen(&Address::Unix(path.clone()), None, watch)?),
            Self::UnixConnect(path) => Box::new(socket::Socket::dial(Address::Unix(path.clone()), watch)),
            Self::Tcp { address, token } => {
                Box::new(socket::Socket::listen(&Address::Tcp(*address), Some(token), watch)?)
            }
            Self::Pty(link) => Box::new(pty::Pty::open(link.as_deref(), &watch)?),
            Self::Stdio => Box::new(stdio::Stdio::open(&watch)?),
            Self::File { path, rotation } => Box::new(file::Log::open(path, *rotation)?),
            Self::Syslog { tag, socket } => Box::new(syslog::Syslog::new(socket.clone(), tag.clone(), watch)),
        })
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(size) => write!(f, "ring:{size}"),
            Self::Echo => f.write_str("echo"),
            Self::Null => f.write_str("null"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::UnixConnect(path) => write!(f, "unix-connect:{}", path.display()),
            Self::Tcp { address, .. } => write!(f, "tcp:{address}"),
            Self::Pty(None) => f.write_str("pty"),
            Self::Pty(Some(link)) => write!(f, "pty:{}", link.display()),
            Self::Stdio => f.write_str("stdio"),
            Self::File { path, .. } => write!(f, "file:{}", path.display()),
            Self::Syslog { tag, .. } => write!(f, "syslog:{tag}"),
        }
    }
}
