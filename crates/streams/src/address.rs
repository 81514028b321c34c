//! Where an end of a stream is: what command lines say.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address of any family that is of use to a guest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A UNIX socket.
    Unix(PathBuf),
    /// A UNIX socket for messages (SOCK_SEQPACKET).
    UnixMessages(PathBuf),
    /// TCP.
    Tcp(SocketAddr),
    /// AF_VSOCK of the host; `u32::MAX` as `cid` is any.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError(String);

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(text) = self;
        write!(f, "{text:?} is none of unix:PATH, seq:PATH, tcp:ADDRESS:PORT and vsock:CID:PORT")
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let address = text.split_once(':').and_then(|(family, rest)| match family {
            "unix" if !rest.is_empty() => Some(Self::Unix(rest.into())),
            "seq" if !rest.is_empty() => Some(Self::UnixMessages(rest.into())),
            "tcp" => rest.parse().ok().map(Self::Tcp),
            "vsock" => {
                let (cid, port) = rest.split_once(':')?;
                let cid = if cid == "any" { u32::MAX } else { number(cid)? };
                Some(Self::Vsock { cid, port: number(port)? })
            }
            _ => None,
        });
        address.ok_or_else(|| AddressError(text.to_owned()))
    }
}

/// A number in decimal digits and nothing else.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::UnixMessages(path) => write!(f, "seq:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Vsock { cid: u32::MAX, port } => write!(f, "vsock:any:{port}"),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_every_family_is_read_and_shown_alike() {
        for text in [
            "unix:/run/a b:c",
            "seq:x",
            "tcp:127.0.0.1:22",
            "tcp:[::1]:22",
            "vsock:2:4294967294",
            "vsock:any:1",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn text_that_is_no_address_is_refused_with_what_there_is() {
        for text in [
            "",
            "unix:",
            "seq:",
            "udp:1:2",
            "tcp:localhost:1",
            "tcp:1.2.3.4",
            "vsock:2",
            "vsock:x:1",
            "vsock:+2:1",
            "vsock:2:4294967296",
            "/run/x",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains("unix:PATH"), "{error}");
        }
    }
}
