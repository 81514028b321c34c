//! Who the host asks about names: an address that was given, or the first that `/etc/resolv.conf` has at the time. Laptops
//! change networks.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::{Duration, Instant};

const NAMES: u16 = 53;
/// How long what the file says is believed.
const BELIEVED: Duration = Duration::from_secs(5);
/// No more of the file is read.
const MAX_LEN: u64 = 64 << 10;

/// `--dns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dns {
    /// Whoever the host asks.
    #[default]
    Auto,
    /// This one.
    At(SocketAddr),
}

impl FromStr for Dns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, NAMES)));
        address.map(Self::At).map_err(|_| format!("{text} is neither auto nor the address of a resolver"))
    }
}

/// Who answers questions about names.
pub(super) struct Resolver {
    dns: Dns,
    file: PathBuf,
    known: Option<(Option<SocketAddr>, Instant)>,
}

impl Resolver {
    pub(super) fn new(dns: Dns) -> Self {
        Self { dns, file: "/etc/resolv.conf".into(), known: None }
    }

    /// Its address; `None` if the host has nobody.
    pub(super) fn address(&mut self) -> Option<SocketAddr> {
        if let Dns::At(address) = self.dns {
            return Some(address);
        }
        if let Some((known, since)) = self.known.filter(|(_, since)| since.elapsed() < BELIEVED) {
            self.known = Some((known, since));
            return known;
        }
        let mut text = String::new();
        // A file that cannot be read names nobody.
        let read = File::open(&self.file).and_then(|file| file.take(MAX_LEN).read_to_string(&mut text));
        let address = read.ok().and_then(|_| first(&text));
        self.known = Some((address, Instant::now()));
        address
    }
}

/// The first that resolv.conf(5) names, of those that are no address of a link.
fn first(text: &str) -> Option<SocketAddr> {
    let servers = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver"));
    let mut addresses = servers.filter_map(|rest| rest.split_whitespace().next()?.parse::<IpAddr>().ok());
    addresses.next().map(|address| SocketAddr::new(address, NAMES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_is_the_first_that_the_file_names() {
        let text = "# nameserver 192.0.2.9\nsearch example\nnameserver fe80::1%eth0\n nameserver\t192.0.2.1 # x\nnameserver ::1\n";
        assert_eq!(first(text), Some("192.0.2.1:53".parse().unwrap()));
        assert_eq!(first("nameserver ::1"), Some("[::1]:53".parse().unwrap()));
        assert_eq!(first("options edns0\nnameserver\n"), None);
    }

    #[test]
    fn dns_is_read_as_written() {
        assert_eq!("auto".parse(), Ok(Dns::Auto));
        assert_eq!("192.0.2.1".parse(), Ok(Dns::At("192.0.2.1:53".parse().unwrap())));
        assert_eq!("[::1]:5353".parse(), Ok(Dns::At("[::1]:5353".parse().unwrap())));
        assert!("no".parse::<Dns>().unwrap_err().contains("neither auto nor"));
    }
}
