//! The command line of the network device. Trusted: it comes from whoever starts the program.

use std::fmt;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::host::{NullOptions, PcapOptions, TapOptions, UserOptions, XdpOptions};
use crate::limits::LimitOptions;
use crate::switch::SwitchOptions;

/// The shortest packet that `--mtu` can allow, in bytes (VIRTIO 1.3, 5.1.4.1).
pub(crate) const MIN_MTU: u16 = 68;
/// The most pairs of queues: more than anybody has processors for.
const MAX_PAIRS: i64 = 128;

/// What the device is and what stands behind it.
#[derive(Args, Clone, Debug)]
pub struct NetOptions {
    /// What is behind the interface
    #[arg(long, value_enum, value_name = "KIND")]
    pub backend: BackendKind,

    /// What is behind it, if that is a tap interface
    #[command(flatten)]
    pub tap: TapOptions,

    /// What is behind it, if that is nothing
    #[command(flatten)]
    pub null: NullOptions,

    /// What is behind it, if that is a switch
    #[command(flatten)]
    pub switch: SwitchOptions,

    /// What is behind it, if that is a network of sockets
    #[command(flatten)]
    pub user: UserOptions,

    /// What is behind it, if that is capture files
    #[command(flatten)]
    pub pcap: PcapOptions,

    /// What is behind it, if that is AF_XDP sockets
    #[command(flatten)]
    pub xdp: XdpOptions,

    /// MAC address [default: the guest, or its VMM, chooses]
    #[arg(long, value_name = "ADDRESS")]
    pub mac: Option<Mac>,

    /// The longest packet in bytes, its Ethernet header aside: told to the guest, and enforced [default: no limit]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(i64::from(MIN_MTU)..))]
    pub mtu: Option<u16>,

    /// The speed of the interface that the guest is told, in Mbit/s, for both ways at once; it is not kept to
    #[arg(long, value_name = "MBITS", value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub speed: Option<u32>,

    /// Work on packets that the guest may leave to the device, and take over from it
    #[arg(long, value_enum, value_name = "WHICH", default_value_t = Offloads::All)]
    pub offload: Offloads,

    /// Pairs of queues, 1 to 128: each is served by a thread of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_PAIRS))]
    pub pairs: u16,

    /// Let the driver spread received packets over pairs by a hash of their addresses, and hear of that hash (RSS and hash
    /// reports)
    #[arg(long)]
    pub rss: bool,

    /// Largest ring that is served, in descriptors, 4 to 32768
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(4..=32768))]
    pub queue_size: u16,

    /// How much passes at most
    #[command(flatten)]
    pub limits: LimitOptions,
}

/// What is behind the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendKind {
    /// Nothing: packets are taken and discarded.
    Null,
    /// The interface itself: the guest receives what it sends.
    Loop,
    /// A tap interface of the host.
    Tap,
    /// A switch among the devices of the process.
    Switch,
    /// Sockets of this program: a network of the guest's own.
    User,
    /// Capture files.
    Pcap,
    /// Queues of an interface of the host, by AF_XDP sockets.
    #[value(name = "af_xdp", hide = !cfg!(feature = "af-xdp"))]
    AfXdp,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// Which offloads are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Offloads {
    /// None: packets are as on a wire.
    None,
    /// Checksums are left out.
    Csum,
    /// Checksums are left out, and packets are cut into segments late.
    #[default]
    All,
}

/// A MAC address of one interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'));
            let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            *byte = value.ok_or("a MAC address has six bytes, as in 52:54:00:12:34:56")?;
        }
        if parts.next().is_some() {
            return Err("a MAC address has six bytes, as in 52:54:00:12:34:56".to_owned());
        }
        if mac[0] & 1 != 0 {
            return Err("an address of many, not of one interface".to_owned());
        }
        if mac == [0; 6] {
            return Err("the address of none".to_owned());
        }
        Ok(Self(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};

    fn parse(args: &[&str]) -> Result<NetOptions, String> {
        let command = NetOptions::augment_args(Command::new("test").no_binary_name(true));
        let matches = command.try_get_matches_from(args).map_err(|error| error.to_string())?;
        NetOptions::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn options_few_are_the_documented_defaults() {
        let options = parse(&["--backend=null"]).unwrap();
        assert_eq!((options.mac, options.mtu, options.null.generate), (None, None, None));
        assert_eq!((options.offload, options.queue_size), (Offloads::All, 1024));
        assert_eq!((options.pairs, options.rss), (1, false));
    }

    #[test]
    fn options_all_given_are_kept() {
        let options = parse(&[
            "--backend=loop",
            "--mac=52:54:00:AB:cd:ef",
            "--mtu=65535",
            "--offload=csum",
            "--queue-size=4",
            "--pairs=128",
        ])
        .unwrap();
        assert_eq!(options.backend, BackendKind::Loop);
        assert_eq!(options.mac.unwrap().to_string(), "52:54:00:ab:cd:ef");
        assert_eq!((options.mtu, options.offload), (Some(u16::MAX), Offloads::Csum));
        assert_eq!((options.queue_size, options.pairs), (4, 128));
    }

    #[test]
    fn options_wrong_are_refused_with_the_reason() {
        let cases: &[(&[&str], &str)] = &[
            (&[], "--backend"),
            (&["--backend=bridge"], "--backend"),
            (&["--backend=tap", "--tap=sixteen-bytes-it"], "1 to 15"),
            (&["--backend=tap", "--tap="], "1 to 15"),
            (&["--backend=tap", "--tap-fd=2"], "2 is not in"),
            (&["--backend=tap", "--tap-fd=3", "--tap=tap0"], "cannot be used with"),
            (&["--backend=tap", "--tap=tap%d"], "1 to 15"),
            (&["--backend=null", "--generate=13"], "14..=9018"),
            (&["--backend=null", "--mtu=67"], "68..=65535"),
            (&["--backend=null", "--mtu=65536"], "68..=65535"),
            (&["--backend=null", "--queue-size=3"], "4..=32768"),
            (&["--backend=null", "--pairs=0"], "1..=128"),
            (&["--backend=null", "--speed=0"], "1..=2147483647"),
            (&["--backend=null", "--speed=2147483648"], "1..=2147483647"),
            (&["--backend=null", "--pairs=129"], "1..=128"),
            (&["--backend=null", "--offload=some"], "--offload"),
            (&["--backend=null", "--mac=52:54:00:12:34"], "six bytes"),
            (&["--backend=null", "--mac=52:54:00:12:34:56:78"], "six bytes"),
            (&["--backend=null", "--mac=5254:00:12:34:56"], "six bytes"),
            (&["--backend=null", "--mac=52:54:00:12:34:+6"], "six bytes"),
            (&["--backend=null", "--mac=53:54:00:12:34:56"], "of many"),
            (&["--backend=null", "--mac=00:00:00:00:00:00"], "of none"),
        ];
        for (args, reason) in cases {
            let error = parse(args).unwrap_err();
            assert!(error.contains(reason), "{args:?}: {error}");
        }
    }
}
