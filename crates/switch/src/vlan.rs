//! VLANs, and which of them a port is in (IEEE 802.1Q, 8.8). Texts come from the command line, and are trusted.

use std::fmt;
use std::str::FromStr;

/// A VLAN: 1 to 4094 (IEEE 802.1Q, 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Vlan(u16);

impl Vlan {
    /// The one that ports are in unless they are told otherwise.
    pub const DEFAULT: Self = Self(1);
    /// The last one.
    const MAX: u16 = 4094;

    /// A VLAN by its number.
    #[must_use]
    pub const fn new(id: u16) -> Option<Self> {
        if id == 0 || id > Self::MAX { None } else { Some(Self(id)) }
    }

    /// Its number.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Vlan {
    type Err = InvalidVlans;

    fn from_str(text: &str) -> Result<Self, InvalidVlans> {
        let id = text.parse().ok().and_then(Self::new);
        id.ok_or_else(|| InvalidVlans::Number(text.to_owned()))
    }
}

/// Some VLANs.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// None of them.
    #[must_use]
    pub fn none() -> Self {
        Self(Box::new([0; 64]))
    }

    /// Adds one.
    pub fn insert(&mut self, Vlan(id): Vlan) {
        if let Some(word) = self.0.get_mut(usize::from(id / 64)) {
            *word |= 1 << (id % 64);
        }
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn contains(&self, Vlan(id): Vlan) -> bool {
        self.0.get(usize::from(id / 64)).is_some_and(|word| word >> (id % 64) & 1 != 0)
    }

    /// All of them, by their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Vlan> {
        (1..=Vlan::MAX).map(Vlan).filter(|&vlan| self.contains(vlan))
    }
}

impl fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Vlan::id)).finish()
    }
}

/// Which VLANs a port is in, and which of its frames have a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// One, without tags: who is behind the port knows nothing of VLANs.
    Access(Vlan),
    /// Some, with tags.
    Trunk {
        /// The tagged ones.
        tagged: VlanSet,
        /// That of frames without a tag; `None`: there are none.
        native: Option<Vlan>,
    },
}

impl Membership {
    /// The VLAN of a frame that comes in with this tag, if it may; 0 is the tag of a frame that has only a priority.
    #[must_use]
    pub fn ingress(&self, tag: Option<u16>) -> Option<Vlan> {
        match (self, tag) {
            (&Self::Access(vlan), None | Some(0)) => Some(vlan),
            (Self::Access(_), Some(_)) => None,
            (&Self::Trunk { native, .. }, None | Some(0)) => native,
            (Self::Trunk { tagged, .. }, Some(id)) => Vlan::new(id).filter(|&vlan| tagged.contains(vlan)),
        }
    }

    /// Whether frames of a VLAN go out with a tag; `None`: they do not go out.
    #[must_use]
    pub fn egress(&self, vlan: Vlan) -> Option<bool> {
        match self {
            Self::Access(own) => (*own == vlan).then_some(false),
            Self::Trunk { native, .. } if *native == Some(vlan) => Some(false),
            Self::Trunk { tagged, .. } => tagged.contains(vlan).then_some(true),
        }
    }
}

impl Default for Membership {
    fn default() -> Self {
        Self::Access(Vlan::DEFAULT)
    }
}

impl FromStr for Membership {
    type Err = InvalidVlans;

    /// A trunk: `10,20-29,native=1`, or `all`.
    fn from_str(text: &str) -> Result<Self, InvalidVlans> {
        let (mut tagged, mut native) = (VlanSet::none(), None);
        for part in text.split(',') {
            if let Some(id) = part.strip_prefix("native=") {
                if native.replace(id.parse()?).is_some() {
                    return Err(InvalidVlans::TwoNative);
                }
                continue;
            }
            let (first, last) = match part {
                "all" => (Vlan(1), Vlan(Vlan::MAX)),
                _ => match part.split_once('-') {
                    Some((first, last)) => (first.parse()?, last.parse()?),
                    None => (part.parse()?, part.parse()?),
                },
            };
            if first > last {
                return Err(InvalidVlans::Number(part.to_owned()));
            }
            (first.0..=last.0).for_each(|id| tagged.insert(Vlan(id)));
        }
        Ok(Self::Trunk { tagged, native })
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tagged, native) = match self {
            Self::Access(vlan) => return vlan.fmt(f),
            Self::Trunk { tagged, native } => (tagged, native),
        };
        let mut parts = Vec::new();
        let mut vlans = tagged.iter().peekable();
        while let Some(first) = vlans.next() {
            let mut last = first;
            while let Some(next) = vlans.next_if(|next| next.0 == last.0 + 1) {
                last = next;
            }
            parts.push(if first == last { first.to_string() } else { format!("{first}-{last}") });
        }
        parts.extend(native.map(|vlan| format!("native={vlan}")));
        f.write_str(&parts.join(","))
    }
}

/// A text names no VLANs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidVlans {
    /// It is no number of a VLAN, or no range.
    #[error("{0:?} is no VLAN: 1 to 4094, or a range such as 10-19")]
    Number(String),
    /// Frames without a tag are of one VLAN.
    #[error("there is one native VLAN")]
    TwoNative,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trunk_is_read_as_it_is_shown() {
        for (text, shown) in [
            ("10", "10"),
            ("10,11,12,20", "10-12,20"),
            ("1-4094,native=7", "1-4094,native=7"),
            ("all", "1-4094"),
            ("native=1,5", "5,native=1"),
            ("native=1", "native=1"),
        ] {
            let trunk: Membership = text.parse().unwrap();
            assert_eq!(trunk.to_string(), shown);
            assert_eq!(shown.parse(), Ok(trunk));
        }
        assert_eq!(Membership::default().to_string(), "1");
    }

    #[test]
    fn trunk_of_what_is_no_vlan_is_refused() {
        for text in ["", "0", "4095", "65537", "-1", "5-", "9-5", "10,", "x", "native=", "native=0", "10;11"]
        {
            assert!(text.parse::<Membership>().is_err(), "{text}");
        }
        assert_eq!("native=1,native=2".parse::<Membership>(), Err(InvalidVlans::TwoNative));
    }

    #[test]
    fn frames_go_in_and_out_as_the_membership_says() {
        let vlan = |id| Vlan::new(id).unwrap();
        let access = Membership::Access(vlan(5));
        assert_eq!(
            [None, Some(0), Some(5), Some(4095)].map(|tag| access.ingress(tag)),
            [Some(vlan(5)), Some(vlan(5)), None, None,]
        );
        assert_eq!([access.egress(vlan(5)), access.egress(vlan(6))], [Some(false), None]);

        let trunk: Membership = "10,20,native=20".parse().unwrap();
        assert_eq!(
            [None, Some(0), Some(10), Some(20), Some(30)].map(|tag| trunk.ingress(tag)),
            [Some(vlan(20)), Some(vlan(20)), Some(vlan(10)), Some(vlan(20)), None,]
        );
        assert_eq!([10, 20, 30].map(|id| trunk.egress(vlan(id))), [Some(true), Some(false), None]);
        let tagged: Membership = "10".parse().unwrap();
        assert_eq!([None, Some(0), Some(10)].map(|tag| tagged.ingress(tag)), [None, None, Some(vlan(10))]);
    }
}
