//! Where an export is: the NBD URI specification (`doc/uri.md`), and RFC 3986 under it. Trusted: it comes from whoever
//! starts the program; what it does not make sense of is an error all the same.

use std::fmt;
use std::path::PathBuf;

/// The port that IANA gave to NBD.
const PORT: u16 = 10809;

/// An export of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// Where the server listens.
    pub place: Place,
    /// What it calls the export; empty for its default one.
    pub export: String,
    /// All is encrypted, or there is no connection (`nbds`, `nbds+unix`).
    pub tls: bool,
    /// Directory with `ca-cert.pem`, and `client-cert.pem` with `client-key.pem` (`tls-certificates`, as libnbd has it).
    pub tls_certificates: Option<PathBuf>,
    /// What the server's certificate must be for (`tls-hostname`), if it is not the host of the URI.
    pub tls_hostname: Option<String>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A host, by name or address, and a port.
    Tcp(String, u16),
    /// A UNIX socket; one whose name begins with NUL has no file.
    Unix(PathBuf),
}

/// What is wrong with a URI, for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UriError(String);

impl Uri {
    /// Reads a URI.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        let fail = |what: &str| Err(UriError(what.to_owned()));
        let Some((scheme, rest)) = text.split_once(':') else { return fail("nbd://HOST/EXPORT is expected") };
        let (tls, unix) = match scheme.to_ascii_lowercase().as_str() {
            "nbd" => (false, false),
            "nbds" => (true, false),
            "nbd+unix" => (false, true),
            "nbds+unix" => (true, true),
            _ => return fail("the scheme is none of nbd, nbds, nbd+unix and nbds+unix"),
        };
        let Some(rest) = rest.strip_prefix("//") else { return fail("the scheme is not followed by //") };
        if rest.contains('#') {
            return fail("an NBD URI has no fragment (# is written as %23)");
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let mut uri = Self {
            place: Place::Unix(PathBuf::new()),
            export: decode(path)?,
            tls,
            tls_certificates: None,
            tls_hostname: None,
        };
        if uri.export.len() > crate::wire::MAX_STRING || uri.export.contains('\0') {
            return fail("no export has such a name");
        }
        let mut socket = None;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value)?;
            match key {
                "socket" => socket = Some(value),
                "tls-certificates" if tls => uri.tls_certificates = Some(value.into()),
                "tls-hostname" if tls => uri.tls_hostname = Some(value),
                "tls-type" if tls && value == "x509" => {}
                "tls-type" if tls => return fail("of the TLS types, x509 only can be done"),
                "tls-verify-peer" if tls && value == "1" => {}
                "tls-verify-peer" if tls => return fail("servers are verified always"),
                _ => return Err(UriError(format!("the parameter {key:?} is not known for {scheme}"))),
            }
        }
        match (unix, socket) {
            (true, Some(socket)) if !socket.is_empty() && authority.is_empty() => {
                uri.place = Place::Unix(socket.into());
            }
            (true, _) if !authority.is_empty() => {
                return fail("a UNIX socket has no host: nbd+unix:///EXPORT?socket=PATH");
            }
            (true, _) => return fail("the parameter socket=PATH is missing"),
            (false, Some(_)) => return fail("a socket has no host: nbd+unix:///EXPORT?socket=PATH"),
            (false, None) => uri.place = tcp(authority)?,
        }
        Ok(uri)
    }

    /// The URI for other programs, without what only a client needs to be let in: the parameters of TLS.
    #[must_use]
    pub fn name(&self) -> String {
        let (scheme, export) = (if self.tls { "nbds" } else { "nbd" }, encode(&self.export));
        match &self.place {
            Place::Unix(path) => {
                format!("{scheme}+unix:///{export}?socket={}", encode(&path.to_string_lossy()))
            }
            Place::Tcp(host, port) => {
                let host = if host.contains(':') { format!("[{host}]") } else { encode(host) };
                let port = if *port == PORT { String::new() } else { format!(":{port}") };
                format!("{scheme}://{host}{port}/{export}")
            }
        }
    }

    /// Whether both mean the same export of the same server, however it is reached.
    #[must_use]
    pub fn is_export_of(&self, other: &Self) -> bool {
        (&self.place, &self.export) == (&other.place, &other.export)
    }

    /// The name that the server's certificate must be for. On a UNIX socket it is `localhost` unless the URI says
    /// otherwise.
    #[must_use]
    pub fn server_name(&self) -> &str {
        match (&self.tls_hostname, &self.place) {
            (Some(name), _) => name,
            (None, Place::Tcp(host, _)) => host,
            (None, Place::Unix(_)) => "localhost",
        }
    }
}

impl fmt::Display for Uri {
    /// For messages: without parameters.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "nbds" } else { "nbd" };
        match &self.place {
            Place::Tcp(host, port) if host.contains(':') => write!(out, "{scheme}://[{host}]:{port}")?,
            Place::Tcp(host, port) => write!(out, "{scheme}://{host}:{port}")?,
            Place::Unix(path) => write!(out, "{scheme}+unix:{}", path.display().to_string().escape_debug())?,
        }
        write!(out, "/{}", self.export.escape_debug())
    }
}

/// Reads `[userinfo@]host[:port]`.
fn tcp(authority: &str) -> Result<Place, UriError> {
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, rest)| rest);
    let (host, port) = match host_port.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) =
                rest.split_once(']').ok_or_else(|| UriError("the IPv6 address has no ]".into()))?;
            (host, rest)
        }
        None => host_port.split_at(host_port.find(':').unwrap_or(host_port.len())),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => PORT,
        Some("") => PORT,
        Some(digits) => digits.parse().map_err(|_| UriError(format!("{digits:?} is no port")))?,
        None => return Err(UriError(format!("{port:?} is no port"))),
    };
    let host = decode(host)?;
    if host.is_empty() {
        return Err(UriError("there is no host: nbd://HOST/EXPORT".into()));
    }
    Ok(Place::Tcp(host, port))
}

/// Takes the percent signs out (RFC 3986, 2.1).
fn decode(text: &str) -> Result<String, UriError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(UriError("% is followed by two hexadecimal digits".into())),
        }
    }
    String::from_utf8(bytes).map_err(|_| UriError("it is not UTF-8".into()))
}

/// Puts percent signs in, but for what never needs them.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                out.push(byte.into());
            }
            _ => {
                let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
                out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Uri::parse(text).unwrap().place
    }

    #[test]
    fn uri_names_its_server() {
        assert_eq!(place("nbd://example.com/disk"), Place::Tcp("example.com".into(), 10809));
        assert_eq!(place("NBD://user@10.0.0.1:99"), Place::Tcp("10.0.0.1".into(), 99));
        assert_eq!(place("nbds://[fe80::1]:/"), Place::Tcp("fe80::1".into(), 10809));
        assert_eq!(place("nbd://[::1]:7/x"), Place::Tcp("::1".into(), 7));
        assert_eq!(place("nbd+unix:///?socket=a%20b"), Place::Unix("a b".into()));
        assert_eq!(place("nbd+unix:///?socket=%00abstract"), Place::Unix("\0abstract".into()));
    }

    #[test]
    fn uri_names_its_export() {
        let cases = [
            ("nbd://h/disk", "disk"),
            ("nbd+unix:///disk?socket=s", "disk"),
            ("nbd://h/", ""),
            ("nbd://h", ""),
            ("nbd://h//disk", "/disk"),
            ("nbd://h/hello%20world", "hello world"),
            ("nbd://h/%c3%a4", "ä"),
        ];
        for (text, export) in cases {
            assert_eq!(Uri::parse(text).unwrap().export, export, "{text}");
        }
    }

    #[test]
    fn uri_has_a_name_that_means_the_same() {
        for (text, name) in [
            ("nbd://user@h:10809/disk", "nbd://h/disk"),
            ("nbd://[::1]:7/a b", "nbd://[::1]:7/a%20b"),
            ("nbds://h/?tls-certificates=/etc/pki", "nbds://h/"),
            ("nbd+unix:///%c3%a4?socket=/run/a%26b", "nbd+unix:///%c3%a4?socket=/run/a%26b"),
            ("nbds+unix:///?socket=%00x&tls-hostname=h", "nbds+unix:///?socket=%00x"),
        ] {
            let uri = Uri::parse(text).unwrap();
            assert_eq!(uri.name(), name);
            assert!(Uri::parse(name).unwrap().is_export_of(&uri));
        }
        let uri = |text: &str| Uri::parse(text).unwrap();
        assert!(uri("nbd://h/x").is_export_of(&uri("nbds://h/x")));
        assert!(!uri("nbd://h/x").is_export_of(&uri("nbd://h/y")));
        assert!(!uri("nbd://h/x").is_export_of(&uri("nbd://h:1/x")));
    }

    #[test]
    fn uri_with_tls_has_its_parameters() {
        let uri =
            Uri::parse("nbds+unix:///x?socket=s&tls-certificates=/etc/pki&tls-hostname=h&tls-type=x509");
        let uri = uri.unwrap();
        assert!(uri.tls);
        assert_eq!((uri.server_name(), uri.tls_certificates.as_deref()), ("h", Some("/etc/pki".as_ref())));
        assert_eq!(Uri::parse("nbds://server/").unwrap().server_name(), "server");
        assert_eq!(Uri::parse("nbds+unix:///?socket=s").unwrap().server_name(), "localhost");
    }

    #[test]
    fn uri_that_makes_no_sense_is_refused_with_the_reason() {
        let cases = [
            ("disk.img", "expected"),
            ("http://h/", "scheme"),
            ("nbd:h", "//"),
            ("nbd:///", "no host"),
            ("nbd://h:port/", "no port"),
            ("nbd://h:65536/", "no port"),
            ("nbd://[::1/", "]"),
            ("nbd://[::1]x/", "no port"),
            ("nbd://h/%zz", "hexadecimal"),
            ("nbd://h/%ff", "UTF-8"),
            ("nbd://h/%00", "such a name"),
            ("nbd://h/a#b", "fragment"),
            ("nbd://h/?socket=s", "nbd+unix"),
            ("nbd+unix:///x", "socket=PATH"),
            ("nbd+unix:///x?socket=", "socket=PATH"),
            ("nbd+unix://h/x?socket=s", "no host"),
            ("nbd://h/?tls-hostname=x", "tls-hostname"),
            ("nbds://h/?tls-type=psk", "x509"),
            ("nbds://h/?tls-verify-peer=0", "verified"),
            ("nbds://h/?magic=1", "magic"),
        ];
        for (text, reason) in cases {
            let error = Uri::parse(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(Uri::parse(&format!("nbd://h/{}", "x".repeat(4097))).is_err());
    }
}
