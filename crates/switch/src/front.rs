//! What a switch looks at: the addresses and the tag at the front of a frame (IEEE 802.3, 3; 802.1Q, 9). It is the
//! sender's, and hostile.

use std::fmt;

use crate::Vlan;

/// The addresses in front of a frame, in bytes.
const ADDRESSES: usize = 12;
/// The front of a frame without a tag, in bytes: addresses and type.
pub const UNTAGGED: usize = ADDRESSES + 2;
/// A tag, in bytes.
const TAG: usize = 4;
/// The type of a tag (IEEE 802.1Q, 9.5.1: C-TAG). Tags of providers are not looked at: they are payload here.
const TAG_TYPE: [u8; 2] = [0x81, 0x00];
/// Types of what others may take for a tag: those of customers, of providers (S-TAG), and an old one of the latter.
const TAG_TYPES: [[u8; 2]; 3] = [TAG_TYPE, [0x88, 0xa8], [0x91, 0x00]];
/// Where the VLAN is in a tag's control information; the rest is priority.
const VLAN_ID: u16 = 0x0fff;
/// Addresses that bridges keep to themselves, the last four bits aside (IEEE 802.1Q, 8.6.3).
const RESERVED: [u8; 6] = [0x01, 0x80, 0xc2, 0, 0, 0];

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it is that of several, or of all.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether frames to it end at the next bridge.
    #[must_use]
    pub fn is_reserved(self) -> bool {
        let [front @ .., last] = self.0;
        let [reserved @ .., zero] = RESERVED;
        front == reserved && last & 0xf0 == zero
    }

    /// Whether one sender can have it.
    #[must_use]
    pub fn is_sender(self) -> bool {
        !self.is_group() && self.0 != [0; 6]
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The front of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    /// Where it is to go.
    pub to: Mac,
    /// Who it says has sent it.
    pub from: Mac,
    /// The control information of its tag.
    pub tag: Option<u16>,
    /// Behind its tag is another one.
    pub is_stacked: bool,
}

impl Front {
    /// How many bytes of a frame are looked at.
    pub const LEN: usize = ADDRESSES + TAG + 2;

    /// Reads the front of a frame, [`Front::LEN`] bytes of it or more, or all if it is shorter. `None` if it is no frame.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let (to, rest) = head.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let (kind, rest) = rest.split_first_chunk()?;
        let (tag, is_stacked) = match *kind {
            TAG_TYPE => {
                let (control, rest) = rest.split_first_chunk()?;
                let behind = rest.first_chunk()?;
                (Some(u16::from_be_bytes(*control)), TAG_TYPES.contains(behind))
            }
            _ => (None, false),
        };
        Some(Self { to: Mac(*to), from: Mac(*from), tag, is_stacked })
    }

    /// Whether a frame that begins so has no tag: then nothing but this is looked at.
    #[must_use]
    pub const fn is_untagged(front: &[u8; UNTAGGED]) -> bool {
        matches!(front, [.., high, low] if !(*high == TAG_TYPE[0] && *low == TAG_TYPE[1]))
    }

    /// The VLAN that its tag says; 0 if the tag is for a priority only.
    #[must_use]
    pub fn vlan(&self) -> Option<u16> {
        self.tag.map(|tag| tag & VLAN_ID)
    }

    /// What is to be done for it to go out in `vlan`, with or without a tag. Its priority is kept where there is a tag.
    /// `None`: it does not go out, since the tag behind its own would come to light, and with it a VLAN that the sender
    /// may not be in.
    #[must_use]
    pub fn retag(&self, vlan: Vlan, tagged: bool) -> Option<Retag> {
        Some(match (self.tag, tagged) {
            (None, false) => Retag::Keep,
            (None, true) => Retag::Push(vlan.id()),
            (Some(_), false) if self.is_stacked => return None,
            (Some(_), false) => Retag::Pop,
            (Some(tag), true) if tag & VLAN_ID == vlan.id() => Retag::Keep,
            (Some(tag), true) => Retag::Set(tag & !VLAN_ID | vlan.id()),
        })
    }
}

/// How the tag of a frame changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retag {
    /// Not at all.
    Keep,
    /// There was none, and now is one with this control information.
    Push(u16),
    /// The tag goes.
    Pop,
    /// The tag has this control information from now on.
    Set(u16),
}

impl Retag {
    /// Writes `head`, the front of a frame as [`Front::parse`] takes it, behind `out`, with the tag as it is to be.
    pub fn write(self, head: &[u8], out: &mut Vec<u8>) {
        let (addresses, rest) = head.split_at_checked(ADDRESSES).unwrap_or((head, &[]));
        out.extend_from_slice(addresses);
        if let Self::Push(tag) | Self::Set(tag) = self {
            out.extend_from_slice(&TAG_TYPE);
            out.extend_from_slice(&tag.to_be_bytes());
        }
        let old = if matches!(self, Self::Pop | Self::Set(_)) { TAG } else { 0 };
        out.extend_from_slice(rest.get(old..).unwrap_or_default());
    }

    /// By how many bytes the frame grows.
    #[must_use]
    pub const fn growth(self) -> i16 {
        match self {
            Self::Keep | Self::Set(_) => 0,
            Self::Push(_) => TAG as i16,
            Self::Pop => -(TAG as i16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 8, 0, 0x45, 0];

    fn tagged(tag: u16) -> Vec<u8> {
        let [high, low] = tag.to_be_bytes();
        [&PLAIN[..12], &[0x81, 0, high, low], &PLAIN[12..]].concat()
    }

    #[test]
    fn front_is_addresses_and_tag() {
        let (to, from) = (Mac([1, 2, 3, 4, 5, 6]), Mac([7, 8, 9, 10, 11, 12]));
        assert_eq!(Front::parse(&PLAIN), Some(Front { to, from, tag: None, is_stacked: false }));
        let front = Front::parse(&tagged(0x6005)).unwrap();
        let expected = Front { to, from, tag: Some(0x6005), is_stacked: false };
        assert_eq!((front, front.vlan()), (expected, Some(5)));
        let mut provider = tagged(0x6005);
        provider[12..14].copy_from_slice(&[0x88, 0xa8]);
        assert_eq!(Front::parse(&provider).unwrap().tag, None);
        for frame in [&PLAIN[..], &tagged(5), &provider] {
            let untagged = Front::parse(frame).unwrap().tag.is_none();
            assert_eq!(Front::is_untagged(frame.first_chunk().unwrap()), untagged);
        }
    }

    #[test]
    fn front_cut_short_is_none() {
        assert!((0..14).all(|len| Front::parse(&PLAIN[..len]).is_none()));
        assert!(Front::parse(&PLAIN[..14]).is_some());
        let tagged = tagged(5);
        assert!((0..18).all(|len| Front::parse(&tagged[..len]).is_none()));
        assert!(Front::parse(&tagged[..Front::LEN]).is_some());
    }

    #[test]
    fn tag_that_changes_leaves_the_rest_as_it_was() {
        let write = |retag: Retag, head: &[u8]| {
            let mut out = vec![9];
            retag.write(head, &mut out);
            assert_eq!(out.len() as i16, head.len() as i16 + 1 + retag.growth());
            out.split_off(1)
        };
        assert_eq!(write(Retag::Keep, &PLAIN), PLAIN);
        assert_eq!(write(Retag::Push(0x6005), &PLAIN), tagged(0x6005));
        assert_eq!(write(Retag::Pop, &tagged(0x6005)), PLAIN);
        assert_eq!(write(Retag::Set(0x6007), &tagged(0x6005)), tagged(0x6007));
        assert_eq!(write(Retag::Keep, &tagged(0x6005)), tagged(0x6005));
    }

    #[test]
    fn retag_keeps_the_priority() {
        let vlan = Vlan::new(7).unwrap();
        let front = |tag| Front { to: Mac([0; 6]), from: Mac([0; 6]), tag, is_stacked: false };
        for (tag, wants, retag) in [
            (None, false, Retag::Keep),
            (None, true, Retag::Push(7)),
            (Some(0x6007), false, Retag::Pop),
            (Some(0x6007), true, Retag::Keep),
            (Some(0x6000), true, Retag::Set(0x6007)),
        ] {
            assert_eq!(front(tag).retag(vlan, wants), Some(retag));
        }
    }

    #[test]
    fn tag_behind_the_tag_does_not_come_to_light() {
        let vlan = Vlan::new(7).unwrap();
        for (inner, is_stacked) in
            [([0x81, 0], true), ([0x88, 0xa8], true), ([0x91, 0], true), ([0x08, 0], false)]
        {
            let mut frame = tagged(7);
            frame[16..18].copy_from_slice(&inner);
            let front = Front::parse(&frame).unwrap();
            assert_eq!(front.retag(vlan, false).is_none(), is_stacked, "{inner:x?}");
            assert_eq!(front.retag(vlan, true), Some(Retag::Keep));
        }
    }

    #[test]
    fn addresses_are_told_apart() {
        assert!(Mac([0xff; 6]).is_group() && Mac([1, 0, 0, 0, 0, 0]).is_group() && !Mac([2; 6]).is_group());
        assert!(
            Mac([1, 0x80, 0xc2, 0, 0, 0xf]).is_reserved() && !Mac([1, 0x80, 0xc2, 0, 0, 0x10]).is_reserved()
        );
        assert!(Mac([2; 6]).is_sender() && !Mac([0; 6]).is_sender() && !Mac([0xff; 6]).is_sender());
    }
}
