//! What becomes of a frame: one look at it, at where it came in, and at what was learned.

use std::sync::Arc;

use crate::{Fdb, Front, Mac, Membership, PortId, Retag, Vlan};

/// What a port is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSettings {
    /// Its VLANs.
    pub membership: Membership,
    /// It talks to uplinks and to ports that are not isolated, and not to other isolated ones.
    pub isolated: bool,
    /// It leads to the rest of the network.
    pub uplink: bool,
}

impl PortSettings {
    /// Whether frames of the other one may go out here.
    const fn hears(&self, other: &Self) -> bool {
        !(self.isolated && other.isolated) || self.uplink || other.uplink
    }
}

/// The ports that there are. Clones share their settings.
#[derive(Clone, Debug, Default)]
pub struct Ports(Vec<Option<Arc<PortSettings>>>);

impl Ports {
    /// Sets, or removes, a port.
    pub fn set(&mut self, PortId(port): PortId, settings: Option<PortSettings>) {
        let at = usize::from(port);
        if self.0.len() <= at {
            self.0.resize(at + 1, None);
        }
        if let Some(slot) = self.0.get_mut(at) {
            *slot = settings.map(Arc::new);
        }
    }

    /// A port.
    #[must_use]
    pub fn find(&self, PortId(port): PortId) -> Option<&PortSettings> {
        self.0.get(usize::from(port))?.as_deref()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &PortSettings)> {
        let numbered = (0..=u16::MAX).map(PortId).zip(&self.0);
        numbered.filter_map(|(id, port)| Some((id, port.as_deref()?)))
    }

    /// Where a frame goes out that came in at `from` and goes to everybody in `vlan`.
    pub fn flood(&self, from: PortId, front: Front, vlan: Vlan) -> impl Iterator<Item = Egress> {
        let source = self.find(from);
        self.iter().filter_map(move |(port, settings)| {
            let tagged = settings.membership.egress(vlan)?;
            let goes = port != from && source.is_some_and(|source| settings.hears(source));
            let retag = front.retag(vlan, tagged).filter(|_| goes)?;
            Some(Egress { port, retag })
        })
    }
}

/// Where a frame goes out, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Where.
    pub port: PortId,
    /// What becomes of its tag.
    pub retag: Retag,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Drop(Why),
    /// It goes to one port.
    Unicast(Egress),
    /// It goes to everybody in the VLAN ([`Ports::flood`]).
    Flood(Vlan),
}

/// Why a frame goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It says that nobody, or several, have sent it.
    Sender,
    /// It is for the next bridge, and we have nothing to say to that.
    Reserved,
    /// It came in with a tag, or without one, that the port has not; or would go out with one.
    Vlan,
    /// It is for somebody at the port that it came from.
    Home,
    /// It came from an isolated port and is for another one.
    Isolated,
}

impl Why {
    /// All of them, by their names.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Sender, "sender"),
        (Self::Reserved, "reserved"),
        (Self::Vlan, "vlan"),
        (Self::Home, "home"),
        (Self::Isolated, "isolated"),
    ];
}

/// Decides about a frame that came in at `from`, and learns who sent it. A frame of a port that there is not goes
/// nowhere.
pub fn decide(ports: &Ports, fdb: &Fdb, from: PortId, front: &Front, now: u32) -> Decision {
    if !front.from.is_sender() {
        return Decision::Drop(Why::Sender);
    }
    if front.to.is_reserved() {
        return Decision::Drop(Why::Reserved);
    }
    let source = ports.find(from);
    let Some(vlan) = source.and_then(|port| port.membership.ingress(front.vlan())) else {
        return Decision::Drop(Why::Vlan);
    };
    fdb.learn(vlan, front.from, from, now);
    match known(fdb, vlan, front.to, now) {
        Some(to) if to == from => Decision::Drop(Why::Home),
        Some(to) => {
            // Nobody is there any more, or in another VLAN: the address may turn up anywhere.
            let egress = ports.find(to).and_then(|port| Some((port, port.membership.egress(vlan)?)));
            match (egress, source) {
                (Some((port, tagged)), Some(source)) if port.hears(source) => {
                    let retag = front.retag(vlan, tagged);
                    retag.map_or(Decision::Drop(Why::Vlan), |retag| {
                        Decision::Unicast(Egress { port: to, retag })
                    })
                }
                (Some(_), _) => Decision::Drop(Why::Isolated),
                (None, _) => Decision::Flood(vlan),
            }
        }
        None => Decision::Flood(vlan),
    }
}

fn known(fdb: &Fdb, vlan: Vlan, mac: Mac, now: u32) -> Option<PortId> {
    if mac.is_group() { None } else { fdb.find(vlan, mac, now) }
}
