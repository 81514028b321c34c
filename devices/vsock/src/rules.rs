//! Who may talk to whom, and where the ports of the host lead. Pure but for paths. Trusted: the command line and the control
//! socket set them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use outboard_daemon::Ranges;
use outboard_device::DeviceError;
use outboard_streams::{Address, Form};

use crate::counters::Refused;

/// What answers within the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Service {
    /// Gives back what it gets.
    Echo,
    /// Takes everything and says nothing.
    Discard,
    /// Says something without end, and takes everything.
    Chargen,
}

/// Where a port of the host leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Service(Service),
    /// To an address; if nobody has ever been there, to the other.
    Dial(Address, Option<Address>),
}

/// What is let through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    /// If there are any, all others are refused.
    pub(crate) allow: Option<Ranges>,
    pub(crate) deny: Option<Ranges>,
    /// What was said since, of ports that are let through or not: the last word on a port counts.
    pub(crate) since: Vec<(Ranges, bool)>,
}

/// What may be said since, at most.
const MOST_SAID: usize = 1000;

impl Gate {
    fn admits(&self, port: u32) -> bool {
        if let Some((_, allowed)) = self.since.iter().rev().find(|(ports, _)| ports.contains(port)) {
            return *allowed;
        }
        !self.deny.as_ref().is_some_and(|ports| ports.contains(port))
            && self.allow.as_ref().is_none_or(|ports| ports.contains(port))
    }

    /// Lets these through, or not, whatever was said of them before.
    ///
    /// # Errors
    /// Too much was said.
    pub(crate) fn set(&mut self, ports: Ranges, allowed: bool) -> Result<(), DeviceError> {
        self.since.retain(|(said, _)| *said != ports);
        if self.since.len() >= MOST_SAID {
            return Err(DeviceError::Invalid(format!("{MOST_SAID} commands about ports are in force")));
        }
        self.since.push((ports, allowed));
        Ok(())
    }
}

/// The rules of one guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// By port of the host.
    pub(crate) out: Gate,
    /// By port of the guest.
    pub(crate) into: Gate,
    pub(crate) services: BTreeMap<u32, Service>,
    pub(crate) forwards: BTreeMap<u32, Address>,
    /// Ports of the host are at this path, `_` and the number behind it.
    pub(crate) path: Option<PathBuf>,
    /// Ports of the host are those of this context id of the host's own AF_VSOCK.
    pub(crate) cid: Option<u32>,
}

impl Rules {
    /// Where the guest gets that connects to a port of the host.
    pub(crate) fn route(&self, port: u32, form: Form) -> Result<Route, Refused> {
        if !self.out.admits(port) {
            return Err(Refused::Rules);
        }
        if let Some(service) = self.services.get(&port) {
            return Ok(Route::Service(*service));
        }
        if let Some(address) = self.forwards.get(&port) {
            return Ok(Route::Dial(address.clone(), None));
        }
        let path = self.path.as_deref().map(|path| at_path(path, port, form));
        let cid = self.cid.map(|cid| Address::Vsock { cid, port });
        match (path, cid) {
            (Some(path), cid) => Ok(Route::Dial(path, cid)),
            (None, Some(cid)) => Ok(Route::Dial(cid, None)),
            (None, None) => Err(Refused::Nobody),
        }
    }

    /// Whether somebody else may connect to a port of the guest.
    pub(crate) fn admits(&self, guest_port: u32) -> bool {
        guest_port != u32::MAX && self.into.admits(guest_port)
    }
}

fn at_path(path: &Path, port: u32, form: Form) -> Address {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("_{port}"));
    match form {
        Form::Bytes => Address::Unix(name.into()),
        Form::Messages => Address::UnixMessages(name.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Option<Ranges> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn rules_are_asked_in_their_order() {
        let mut rules = Rules {
            services: [(7, Service::Echo)].into(),
            forwards: [(8, "tcp:127.0.0.1:22".parse().unwrap())].into(),
            ..Rules::default()
        };
        let route = |rules: &Rules, port| rules.route(port, Form::Bytes);
        assert_eq!(route(&rules, 7), Ok(Route::Service(Service::Echo)));
        assert!(matches!(route(&rules, 8), Ok(Route::Dial(Address::Tcp(_), None))));
        assert_eq!(route(&rules, 9), Err(Refused::Nobody));
        rules.cid = Some(1);
        let cid = Address::Vsock { cid: 1, port: 9 };
        assert_eq!(route(&rules, 9), Ok(Route::Dial(cid.clone(), None)));
        rules.path = Some("/run/vm".into());
        assert_eq!(route(&rules, 9), Ok(Route::Dial(Address::Unix("/run/vm_9".into()), Some(cid))));
        assert!(matches!(rules.route(9, Form::Messages), Ok(Route::Dial(Address::UnixMessages(_), Some(_)))));
        rules.out.deny = ports("7");
        assert_eq!(route(&rules, 7), Err(Refused::Rules));
        rules.out.allow = ports("7-8");
        assert_eq!((route(&rules, 7), route(&rules, 9)), (Err(Refused::Rules), Err(Refused::Rules)));
        assert!(route(&rules, 8).is_ok());
    }

    #[test]
    fn ports_allowed_later_are_denied_no_more() {
        let (allow, deny) = (ports("1-100"), ports("10-20"));
        let mut gate = Gate { allow, deny, ..Gate::default() };
        gate.set(ports("12-13,200").unwrap(), true).unwrap();
        let admitted: Vec<u32> = (0..300).filter(|port| gate.admits(*port)).collect();
        let expected: Vec<u32> = (1..10).chain(12..=13).chain(21..=100).chain([200]).collect();
        assert_eq!(admitted, expected);
        gate.set(ports("0-400").unwrap(), false).unwrap();
        assert!((0..400).all(|port| !gate.admits(port)));
        for _ in 0..3000 {
            gate.set(ports("7").unwrap(), true).unwrap();
        }
        assert_eq!(gate.since.len(), 3, "what is said again takes no more room");
    }
}
