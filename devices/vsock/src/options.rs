//! The command line of the socket device. Trusted: it comes from whoever starts the program.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use outboard_daemon::Ranges;
use outboard_streams::Address;

use crate::rules::Service;

/// What the device is and what stands behind it.
#[derive(Args, Clone, Debug)]
pub struct VsockOptions {
    /// The guest's context id, 3 to 4294967294
    #[arg(long, value_name = "CID", value_parser = clap::value_parser!(u32).range(3..=0xffff_fffe))]
    pub guest_cid: u32,

    /// Listen at this path for programs of the host, which say CONNECT PORT; and connect the guest to PATH_PORT
    #[arg(long, value_name = "PATH")]
    pub uds_path: Option<PathBuf>,

    /// Connect the guest to the same port of this context id of the host's own AF_VSOCK
    #[arg(long, value_name = "CID")]
    pub forward_cid: Option<u32>,

    /// Listen at these ports of the host's own AF_VSOCK, for the same ports of the guest (22,1024-1100)
    #[arg(long, value_name = "PORTS")]
    pub forward_listen: Option<Ranges>,

    /// The same for messages (SEQPACKET): a port of AF_VSOCK has one type at a time
    #[arg(long, value_name = "PORTS")]
    pub forward_listen_messages: Option<Ranges>,

    /// Connect the guest's connections to this port of the host to unix:PATH, seq:PATH, tcp:ADDRESS:PORT or
    /// vsock:CID:PORT; may be repeated
    #[arg(long, value_name = "PORT=ADDRESS")]
    pub forward: Vec<Forward>,

    /// Listen at this address of the host for this port of the guest; may be repeated. TCP that others can reach needs
    /// a token: whoever connects says it in his first line
    #[arg(long, value_name = "ADDRESS=PORT[,token-file=FILE]")]
    pub listen: Vec<Listen>,

    /// Answer at this port within this program: echo, discard or chargen; may be repeated
    #[arg(long, value_name = "PORT=SERVICE")]
    pub service: Vec<Serve>,

    /// Let the guest connect to these ports of the host alone
    #[arg(long, value_name = "PORTS")]
    pub allow: Option<Ranges>,

    /// Do not let the guest connect to these ports of the host
    #[arg(long, value_name = "PORTS")]
    pub deny: Option<Ranges>,

    /// Let others connect to these ports of the guest alone
    #[arg(long, value_name = "PORTS")]
    pub allow_in: Option<Ranges>,

    /// Do not let others connect to these ports of the guest
    #[arg(long, value_name = "PORTS")]
    pub deny_in: Option<Ranges>,

    /// A group: guests of this process that have one in common may connect to each other; may be repeated
    #[arg(long, value_name = "NAME")]
    pub group: Vec<String>,

    /// The most connections at a time, 1 to 65536
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_connections: u32,

    /// What of a connection's data may be on its way to the host, at first, in KiB, 4 to 65536
    #[arg(long, value_name = "KIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(4..=65536))]
    pub buffer: u32,

    /// The same, at most, for one that uses it
    #[arg(long, value_name = "KIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(4..=65536))]
    pub buffer_max: u32,

    /// The same, of all connections together, in MiB, 1 to 65536
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub memory: u32,

    /// Largest ring that is served, in descriptors, 2 to 32768
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(2..=32768))]
    pub queue_size: u16,
}

/// A port of the host, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The port.
    pub port: u32,
    /// Where it leads.
    pub address: Address,
}

/// A port of the host, and what answers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serve {
    /// The port.
    pub port: u32,
    /// What answers.
    pub service: Service,
}

/// An address of the host, and the port of the guest that it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: Address,
    /// The port of the guest.
    pub port: u32,
    /// Where the token is that whoever connects has to know.
    pub token_file: Option<PathBuf>,
}

fn port(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|port| *port < u32::MAX && !text.starts_with('+'));
    number.ok_or_else(|| format!("{text:?} is no port"))
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, address) = text.split_once('=').ok_or("PORT=ADDRESS is needed")?;
        let address = address.parse().map_err(|error: outboard_streams::AddressError| error.to_string())?;
        Ok(Self { port: port(number)?, address })
    }
}

impl FromStr for Serve {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, service) = text.split_once('=').ok_or("PORT=SERVICE is needed")?;
        let service = <Service as clap::ValueEnum>::from_str(service, false)
            .map_err(|_| format!("{service:?} is none of echo, discard and chargen"))?;
        Ok(Self { port: port(number)?, service })
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, token_file) = match text.split_once(",token-file=") {
            Some((text, file)) => (text, Some(file.into())),
            None => (text, None),
        };
        let (address, number) = text.rsplit_once('=').ok_or("ADDRESS=PORT is needed")?;
        let address = address.parse().map_err(|error: outboard_streams::AddressError| error.to_string())?;
        match (&address, &token_file) {
            (Address::Tcp(tcp), None) if !tcp.ip().is_loopback() => {
                Err(format!("{address} can be reached by others: a token-file is needed"))
            }
            (Address::Tcp(_), _) | (_, None) => Ok(Self { address, port: port(number)?, token_file }),
            (_, Some(_)) => Err("a token-file goes with tcp: alone".to_owned()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};

    fn parse(args: &[&str]) -> Result<VsockOptions, String> {
        let command = VsockOptions::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(args).map_err(|error| error.to_string())?;
        VsockOptions::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn options_few_are_the_documented_defaults() {
        let options = parse(&["--guest-cid=3"]).unwrap();
        assert_eq!((options.buffer, options.buffer_max, options.memory), (256, 1024, 64));
        assert_eq!((options.max_connections, options.queue_size), (1024, 1024));
        assert!(options.uds_path.is_none() && options.group.is_empty());
    }

    #[test]
    fn options_repeated_are_all_kept() {
        let options = parse(&[
            "--guest-cid=3",
            "--forward=1=unix:/a=b",
            "--forward=2=tcp:[::1]:3",
            "--listen=unix:/x=y=7",
            "--listen=tcp:0.0.0.0:1=8,token-file=/t",
            "--service=7=echo",
            "--service=9=discard",
        ])
        .unwrap();
        assert_eq!(options.forward[0].address, Address::Unix("/a=b".into()));
        assert_eq!((&options.listen[0].address, options.listen[0].port), (&Address::Unix("/x=y".into()), 7));
        assert_eq!(options.listen[1].token_file, Some("/t".into()));
        assert_eq!(options.service[1], Serve { port: 9, service: Service::Discard });
    }

    #[test]
    fn options_wrong_are_refused_with_the_reason() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "--guest-cid"),
            (&["--guest-cid=2"], "2 is not in"),
            (&["--guest-cid=4294967295"], "not in"),
            (&["--guest-cid=3", "--forward=x=unix:/a"], "no port"),
            (&["--guest-cid=3", "--forward=1"], "PORT=ADDRESS"),
            (&["--guest-cid=3", "--forward=1=file:/a"], "unix:PATH"),
            (&["--guest-cid=3", "--service=1=shout"], "echo, discard"),
            (&["--guest-cid=3", "--listen=tcp:0.0.0.0:1=2"], "token-file is needed"),
            (&["--guest-cid=3", "--listen=unix:/x=2,token-file=/t"], "tcp: alone"),
            (&["--guest-cid=3", "--allow=5-4"], "--allow"),
            (&["--guest-cid=3", "--buffer=3"], "4..=65536"),
            (&["--guest-cid=3", "--queue-size=1"], "2..=32768"),
        ];
        for (args, reason) in cases {
            let error = parse(args).unwrap_err();
            assert!(error.contains(reason), "{args:?}: {error}");
        }
    }
}
