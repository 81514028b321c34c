//! The frames that a network is loaded with, and how to know them again.

use outboard_virtio_defs::net::{HDR_F_NEEDS_CSUM, HDR_GSO_TCPV4, Header};

/// Addresses that nobody was assigned, and the EtherType for experiments on one's own network (IEEE 802, 10.8).
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
/// Bytes of all headers of TCP over IPv4.
const TCP: usize = 54;
/// Bytes of a tag.
pub(super) const TAG_LEN: usize = 10;
/// Bytes up to the end of any tag.
pub(super) const HEAD: usize = TCP + TAG_LEN;
/// Where the checksum of TCP is in its header.
const CHECKSUM: u16 = 16;

/// What all frames of a measurement look like, but for their tags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Bytes of a frame, at least [`HEAD`].
    pub(super) len: usize,
    /// TCP over IPv4, of which the device is to make segments of so many bytes.
    pub(super) segments: Option<u16>,
}

impl Shape {
    /// Where in a frame it says which one it is.
    pub(super) fn tag(self) -> usize {
        if self.segments.is_some() { TCP } else { ETHERNET.len() }
    }

    /// What stands before each frame.
    pub(super) fn header(self) -> Header {
        let Some(size) = self.segments else { return Header::default() };
        Header {
            flags: HDR_F_NEEDS_CSUM,
            gso_type: HDR_GSO_TCPV4,
            hdr_len: (TCP as u16).into(),
            gso_size: size.into(),
            csum_start: 34.into(),
            csum_offset: CHECKSUM.into(),
            ..Header::default()
        }
    }

    /// A frame with a tag of zeroes.
    pub(super) fn frame(self) -> Vec<u8> {
        let mut frame = ETHERNET.to_vec();
        if self.segments.is_some() {
            frame.truncate(12);
            frame.extend([8, 0]);
            frame.extend(tcp((self.len - ETHERNET.len()) as u16));
        }
        frame.extend([0; TAG_LEN]);
        let body = (frame.len()..self.len).map(|at| at as u8);
        frame.extend(body);
        frame
    }

    /// A frame the other way, so that a switch learns where frames are to go.
    pub(super) fn greeting() -> Vec<u8> {
        let mut frame = Self { len: HEAD, segments: None }.frame();
        let [to, from] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        frame.splice(..12, to.into_iter().chain(from));
        frame
    }

    /// Whether a frame that begins so is one of these.
    pub(super) fn is_ours(self, head: &[u8]) -> bool {
        let kind: &[u8] = if self.segments.is_some() { &[8, 0] } else { &[0x88, 0xb5] };
        head.get(..12) == ETHERNET.get(..12) && head.get(12..14) == Some(kind)
    }
}

/// The headers of IPv4 and TCP, the checksum of the latter only begun (VIRTIO 1.3, 5.1.6.2.1).
fn tcp(len: u16) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend(len.to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
    let checksum = !sum(&ip);
    ip.splice(10..12, checksum.to_be_bytes());
    let mut pseudo = vec![192, 0, 2, 1, 192, 0, 2, 2, 0, 6];
    pseudo.extend((len - 20).to_be_bytes());
    let mut tcp = vec![0x30, 0x39, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0x20, 0];
    tcp.extend(sum(&pseudo).to_be_bytes());
    tcp.extend([0, 0]);
    [ip, tcp].concat()
}

/// The sum of RFC 1071, of an even number of bytes.
fn sum(bytes: &[u8]) -> u16 {
    bytes.as_chunks::<2>().0.iter().fold(0, |sum: u16, &pair| {
        let (sum, carried) = sum.overflowing_add(u16::from_be_bytes(pair));
        sum + u16::from(carried)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_has_its_size_and_is_known_again() {
        for (len, segments) in [(64, None), (1514, None), (65_000, None), (64, Some(8)), (65_000, Some(1400))]
        {
            let shape = Shape { len, segments };
            let frame = shape.frame();
            assert_eq!((frame.len(), shape.is_ours(&frame)), (len, true));
            assert_eq!(frame[shape.tag()..shape.tag() + TAG_LEN], [0; TAG_LEN]);
            assert!(!shape.is_ours(&Shape::greeting()));
        }
        assert_eq!(sum(&Shape { len: 100, segments: Some(10) }.frame()[14..34]), 0xffff);
    }
}
