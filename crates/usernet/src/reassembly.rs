//! Fragments of the guest, put together (RFC 791, 3.2; RFC 8200, 4.5).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::emit::Way;
use crate::parse::Fragment;

/// The most packets that are put together at a time. The oldest goes if there are more.
const MOST: usize = 16;
/// The longest of them, in bytes.
const LONGEST: usize = u16::MAX as usize;
/// How long a packet's fragments are waited for.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Default)]
pub(crate) struct Reassembly {
    parts: VecDeque<Parts>,
}

/// What there is of a packet.
struct Parts {
    way: Way,
    protocol: u8,
    identification: u32,
    since: Instant,
    /// So many bytes are there, from the first on: fragments out of order are lost.
    bytes: Vec<u8>,
}

impl Reassembly {
    /// Takes a fragment. What the packet carried, once all of it is there.
    ///
    /// Fragments come in order, as one link cannot do otherwise.
    pub(crate) fn take(
        &mut self,
        (way, protocol): (Way, u8),
        fragment: Fragment,
        payload: &[u8],
        now: Instant,
    ) -> Option<Vec<u8>> {
        self.parts.retain(|parts| now.duration_since(parts.since) < PATIENCE);
        let same = |parts: &Parts| {
            (parts.way, parts.protocol, parts.identification) == (way, protocol, fragment.identification)
        };
        let known = self.parts.iter().position(same).and_then(|at| self.parts.remove(at));
        let mut parts = match known {
            Some(parts) if fragment.at > 0 => parts,
            _ if fragment.at == 0 => {
                let identification = fragment.identification;
                Parts { way, protocol, identification, since: now, bytes: Vec::new() }
            }
            _ => return None,
        };
        // RFC 5722: what overlaps is thrown away with all that belongs to it.
        if parts.bytes.len() != fragment.at || fragment.at + payload.len() > LONGEST {
            return None;
        }
        parts.bytes.extend_from_slice(payload);
        if fragment.is_last {
            return Some(parts.bytes);
        }
        if self.parts.len() == MOST {
            self.parts.pop_front();
        }
        self.parts.push_back(parts);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const WAY: Way = Way {
        from: std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 2, 15)),
        to: std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)),
    };

    fn fragment(identification: u32, at: usize, is_last: bool) -> Fragment {
        Fragment { identification, at, is_last }
    }

    #[test]
    fn fragments_of_several_packets_are_told_apart() {
        let (mut all, now) = (Reassembly::default(), Instant::now());
        assert_eq!(all.take((WAY, 17), fragment(1, 0, false), b"one of 8", now), None);
        assert_eq!(all.take((WAY, 17), fragment(2, 0, false), b"two of 8", now), None);
        let whole = all.take((WAY, 17), fragment(1, 8, true), b", rest", now);
        assert_eq!(whole.unwrap(), b"one of 8, rest");
        let whole = all.take((WAY, 17), fragment(2, 8, true), b", more", now);
        assert_eq!(whole.unwrap(), b"two of 8, more");
    }

    #[test]
    fn fragments_that_overlap_are_late_or_have_no_beginning_are_dropped() {
        let (mut all, now) = (Reassembly::default(), Instant::now());
        assert_eq!(all.take((WAY, 17), fragment(1, 8, true), b"end", now), None);
        assert_eq!(all.take((WAY, 17), fragment(1, 0, false), b"12345678", now), None);
        assert_eq!(all.take((WAY, 17), fragment(1, 0, true), b"12345678", now).unwrap(), b"12345678");
        assert_eq!(all.take((WAY, 17), fragment(1, 0, false), b"1234567890123456", now), None);
        assert_eq!(all.take((WAY, 17), fragment(1, 8, true), b"overlap", now), None);
        assert_eq!(all.take((WAY, 17), fragment(1, 16, true), b"end", now), None);
        assert_eq!(all.take((WAY, 17), fragment(1, 0, false), b"12345678", now), None);
        let late = now + Duration::from_secs(15);
        assert_eq!(all.take((WAY, 17), fragment(1, 8, true), b"end", late), None);
        for identification in 0..100 {
            assert_eq!(all.take((WAY, 17), fragment(identification, 0, false), &[0; 8], now), None);
        }
        assert_eq!(all.parts.len(), MOST);
        let end = 65_536 - 8;
        let mut at = 0;
        while at < end {
            assert_eq!(all.take((WAY, 17), fragment(1000, at, false), &[1; 1024], now), None);
            at += 1024;
        }
        assert_eq!(all.take((WAY, 17), fragment(1000, at, true), &[1; 8], now), None, "too long");
    }
}
