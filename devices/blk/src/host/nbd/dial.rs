//! From a URI to a connection that takes requests: look up, connect, encrypt, negotiate. It waits, and is called where
//! nobody minds.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use outboard_nbd::{Export, Handshake, Place, Step, Terms, Uri};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::patient::Patient;

/// Where distributions keep the authorities that the machine trusts.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];
/// How long a silent server is believed in while nothing is asked of it.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What may wait to be encrypted and sent, in bytes.
const TLS_BUFFER: usize = 256 << 10;

/// How to reach an export.
pub(super) struct Dialer {
    uri: Uri,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// A connection that takes requests.
pub(super) struct Dialed {
    pub(super) stream: Stream,
    pub(super) export: Export,
}

/// A connected socket, which does not block, and its encryption.
pub(super) struct Stream {
    pub(super) socket: Arc<OwnedFd>,
    pub(super) tls: Option<Box<ClientConnection>>,
}

impl Dialer {
    /// Reads what is needed for TLS, if it is.
    pub(super) fn new(uri: Uri) -> Result<Self, String> {
        let tls = match uri.tls {
            false => None,
            true => {
                let name = ServerName::try_from(uri.server_name().to_owned())
                    .map_err(|_| format!("{:?} is no name of a server (tls-hostname)", uri.server_name()))?;
                Some((tls_config(uri.tls_certificates.as_deref())?, name))
            }
        };
        Ok(Self { uri, tls })
    }

    pub(super) const fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Makes a connection within `time`; only the look-up of a name may take longer.
    pub(super) fn dial(&self, time: Duration) -> Result<Dialed, String> {
        let deadline = Instant::now() + time;
        let socket = match &self.uri.place {
            Place::Unix(path) => unix(path, deadline).map_err(|error| error.to_string())?,
            Place::Tcp(host, port) => {
                let addresses =
                    (host.as_str(), *port).to_socket_addrs().map_err(|error| error.to_string())?;
                tcp(&addresses.collect::<Vec<_>>(), deadline)?
            }
        };
        let mut patient = Patient { socket: Arc::new(socket), deadline };
        let terms = Terms { export: self.uri.export.clone(), tls: self.uri.tls };
        let mut handshake = Handshake::new(terms);
        let mut tls: Option<Box<ClientConnection>> = None;
        let export = loop {
            let step = match &mut tls {
                None => converse(&mut handshake, &mut patient)?,
                Some(tls) => converse(&mut handshake, &mut rustls::Stream::new(&mut **tls, &mut patient))?,
            };
            match (step, &self.tls) {
                (Step::Ready(export), _) => break export,
                (Step::Encrypt, Some((config, name))) => {
                    let mut connection = ClientConnection::new(Arc::clone(config), name.clone())
                        .map_err(|error| format!("TLS: {error}"))?;
                    let hello = handshake.encrypted();
                    rustls::Stream::new(&mut connection, &mut patient)
                        .write_all(&hello)
                        .map_err(|error| format!("TLS: {error}"))?;
                    tls = Some(Box::new(connection));
                }
                (Step::Encrypt | Step::Send(_), _) => {}
            }
        };
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(Some(TLS_BUFFER));
        }
        Ok(Dialed { stream: Stream { socket: patient.socket, tls }, export })
    }
}

/// Goes on with the handshake until it is over, or the connection is to be encrypted.
fn converse(handshake: &mut Handshake, stream: &mut (impl Read + Write)) -> Result<Step, String> {
    loop {
        let mut bytes = vec![0; handshake.wanted()];
        stream.read_exact(&mut bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => "the server hangs up".to_owned(),
            io::ErrorKind::TimedOut => "the server does not answer".to_owned(),
            _ => error.to_string(),
        })?;
        match handshake.receive(&bytes).map_err(|error| error.to_string())? {
            Step::Send(bytes) => stream.write_all(&bytes).map_err(|error| error.to_string())?,
            step => return Ok(step),
        }
    }
}

/// Connects to the first of the addresses that answers. None has more than its share of the time: one that swallows
/// packets must not keep the next from being tried.
fn tcp(addresses: &[SocketAddr], deadline: Instant) -> Result<OwnedFd, String> {
    let mut failure = "the name has no address".to_owned();
    for (left, &address) in (1..=addresses.len() as u32).rev().zip(addresses) {
        let now = Instant::now();
        let until = now + deadline.saturating_duration_since(now) / left;
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        match open(family, &address.into(), until).and_then(|socket| {
            sockopt::set_tcp_nodelay(&socket, true)?;
            sockopt::set_socket_keepalive(&socket, true)?;
            sockopt::set_tcp_keepidle(&socket, KEEPALIVE)?;
            sockopt::set_tcp_keepintvl(&socket, KEEPALIVE / 3)?;
            Ok(socket)
        }) {
            Ok(socket) => return Ok(socket),
            Err(error) => failure = error.to_string(),
        }
    }
    Err(failure)
}

fn unix(path: &Path, deadline: Instant) -> io::Result<OwnedFd> {
    let name = path.as_os_str().as_encoded_bytes();
    let address = match name.strip_prefix(b"\0") {
        Some(name) => SocketAddrUnix::new_abstract_name(name)?,
        None => SocketAddrUnix::new(path)?,
    };
    open(AddressFamily::UNIX, &address.into(), deadline)
}

fn open(family: AddressFamily, address: &SocketAddrAny, deadline: Instant) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let patient = Patient { socket: socket_with(family, SocketType::STREAM, flags, None)?, deadline };
    loop {
        match connect(&patient.socket, address) {
            Ok(()) => break,
            Err(Errno::INPROGRESS) => {
                patient.wait(PollFlags::OUT)?;
                sockopt::socket_error(&patient.socket)??;
                break;
            }
            // A UNIX socket whose server is behind with accepting: there is nothing to wait on.
            Err(Errno::AGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(patient.socket)
}

/// What servers are verified by, and this client is known by.
fn tls_config(directory: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    let authorities = match directory {
        Some(directory) => directory.join("ca-cert.pem"),
        None => SYSTEM_AUTHORITIES
            .iter()
            .map(PathBuf::from)
            .find(|path| path.exists())
            .ok_or("this machine trusts no authority (tls-certificates=DIRECTORY)")?,
    };
    for certificate in certificates(&authorities)? {
        // Of those that the machine trusts, some may be of a kind that is not understood.
        match roots.add(certificate) {
            Err(error) if directory.is_some() => return Err(format!("{}: {error}", authorities.display())),
            _ => {}
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots);
    let own =
        directory.map(|directory| (directory.join("client-cert.pem"), directory.join("client-key.pem")));
    let config = match own.filter(|(certificate, _)| certificate.exists()) {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let secret = PrivateKeyDer::from_pem_slice(&read(&key)?)
                .map_err(|error| format!("{}: {error}", key.display()))?;
            config
                .with_client_auth_cert(certificates(&certificate)?, secret)
                .map_err(|error| format!("{}: {error}", certificate.display()))?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{}: {error}", path.display()))
        .and_then(
            |all| if all.is_empty() { Err(format!("{}: no certificate", path.display())) } else { Ok(all) },
        )
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The descriptor to wait on.
impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn address_that_swallows_packets_leaves_time_for_the_next() {
        let [deaf, server] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [&deaf, &server].map(|listener| listener.local_addr().unwrap());
        // With one connection that nobody accepts its queue is full, and the kernel drops what comes.
        rustix::net::listen(&deaf, 0).unwrap();
        let _first = TcpStream::connect(addresses[0]).unwrap();
        let soon = || Instant::now() + Duration::from_millis(600);
        tcp(&addresses[..1], soon()).unwrap_err();
        let stream = TcpStream::from(tcp(&addresses, soon()).unwrap());
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
    }
}
