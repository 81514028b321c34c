//! Frames, made and read the plain way, as a second opinion.

use outboard_virtio_defs::net::{
    F_HOST_TSO4, F_HOST_TSO6, F_HOST_USO, HDR_F_NEEDS_CSUM, HDR_GSO_TCPV4, HDR_GSO_TCPV6, HDR_GSO_UDP_L4,
    Header,
};

/// Addresses that nobody was assigned, and the EtherType for experiments on one's own network.
const ETHERNET: [u8; 14] = [2, 0, 0, 0, 0, 0xfe, 2, 0, 0, 0, 0, 0xfd, 0x88, 0xb5];

/// A frame of `len` bytes, at least 18, that says which it is.
pub(super) fn tagged(tag: u32, len: usize) -> Vec<u8> {
    let pattern = (0..).map(|at: u32| (at.wrapping_mul(7).wrapping_add(tag).wrapping_add(at / 251)) as u8);
    ETHERNET.into_iter().chain(tag.to_be_bytes()).chain(pattern).take(len).collect()
}

/// A protocol over another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

impl Inside {
    pub(super) const ALL: [Self; 4] = [Self::Tcp4, Self::Tcp6, Self::Udp4, Self::Udp6];

    fn is_v6(self) -> bool {
        matches!(self, Self::Tcp6 | Self::Udp6)
    }

    pub(super) fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Tcp6)
    }

    fn protocol(self) -> u8 {
        if self.is_tcp() { 6 } else { 17 }
    }

    /// By which the device cuts it.
    pub(super) fn feature(self) -> u64 {
        match self {
            Self::Tcp4 => F_HOST_TSO4,
            Self::Tcp6 => F_HOST_TSO6,
            Self::Udp4 | Self::Udp6 => F_HOST_USO,
        }
    }

    /// Where TCP or UDP begins.
    pub(super) fn start(self) -> usize {
        if self.is_v6() { 54 } else { 34 }
    }

    /// Where its checksum is, from there.
    pub(super) fn offset(self) -> usize {
        if self.is_tcp() { 16 } else { 6 }
    }

    /// Where the payload begins.
    pub(super) fn payload(self) -> usize {
        self.start() + if self.is_tcp() { 20 } else { 8 }
    }

    /// A frame with this payload, of which the checksum of TCP or UDP is begun only (VIRTIO 1.3, 5.1.6.2.1).
    pub(super) fn frame(self, payload: &[u8]) -> Vec<u8> {
        let len = (self.payload() - self.start() + payload.len()) as u16;
        let mut frame = ETHERNET.to_vec();
        frame.truncate(12);
        if self.is_v6() {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(len.to_be_bytes());
            frame.extend([self.protocol(), 64]);
            // Of the prefix for examples (RFC 3849).
            for host in [1, 2] {
                frame.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]);
            }
        } else {
            frame.extend([8, 0]);
            let mut ip = vec![0x45, 0];
            ip.extend(len.wrapping_add(20).to_be_bytes());
            ip.extend([0, 1, 0, 0, 64, self.protocol(), 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
            let checksum = !sum(&ip);
            frame.extend(ip);
            put(&mut frame, 24, checksum);
        }
        frame.extend([0x30, 0x39, 0, 9]);
        if self.is_tcp() {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0x20, 0, 0, 0, 0, 0]);
        } else {
            frame.extend(len.to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend(payload);
        let begun = self.pseudo(&frame, usize::from(len));
        put(&mut frame, self.start() + self.offset(), begun);
        frame
    }

    /// The header that leaves the checksum of [`frame`](Self::frame) to the device.
    pub(super) fn checksum(self) -> Header {
        Header {
            flags: HDR_F_NEEDS_CSUM,
            csum_start: (self.start() as u16).into(),
            csum_offset: (self.offset() as u16).into(),
            ..Header::default()
        }
    }

    /// The header that leaves it to the device to cut the payload into pieces of `size` bytes.
    pub(super) fn segments(self, size: u16) -> Header {
        let gso_type = match self {
            Self::Tcp4 => HDR_GSO_TCPV4,
            Self::Tcp6 => HDR_GSO_TCPV6,
            Self::Udp4 | Self::Udp6 => HDR_GSO_UDP_L4,
        };
        let hdr_len = (self.payload() as u16).into();
        Header { gso_type, hdr_len, gso_size: size.into(), ..self.checksum() }
    }

    /// The sum over the addresses, the protocol and the length.
    fn pseudo(self, frame: &[u8], len: usize) -> u16 {
        let addresses = if self.is_v6() { 22..54 } else { 26..34 };
        let addresses = frame.get(addresses).unwrap_or_default();
        let len = (len as u32).to_be_bytes();
        sum(&[addresses, &len, &[0, self.protocol()]].concat())
    }

    /// The payload of a frame that came, if it is one of these, and all lengths and checksums in it are right.
    pub(super) fn read(self, frame: &[u8]) -> Result<&[u8], String> {
        let kind = if self.is_v6() { [0x86, 0xdd] } else { [8, 0] };
        if frame.get(12..14) != Some(&kind) || frame.len() < self.payload() {
            return Err(format!("{} bytes that are no {self:?}", frame.len()));
        }
        let behind = frame.get(self.start()..).unwrap_or_default();
        let number = |at: usize| usize::from(word(frame, at));
        let told = if self.is_v6() { number(18) } else { number(16).wrapping_sub(20) };
        if told != behind.len() {
            return Err(format!("the IP header tells of {told} bytes, there are {}", behind.len()));
        }
        if !self.is_v6() && sum(frame.get(14..34).unwrap_or_default()) != 0xffff {
            return Err("the checksum of the IP header is wrong".to_owned());
        }
        if !self.is_tcp() && number(self.start() + 4) != behind.len() {
            return Err("the UDP header tells another length".to_owned());
        }
        let pseudo = self.pseudo(frame, behind.len()).to_be_bytes();
        if sum(&[&pseudo[..], behind].concat()) != 0xffff {
            return Err("the checksum is wrong".to_owned());
        }
        Ok(frame.get(self.payload()..).unwrap_or_default())
    }
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    if let Some(place) = frame.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

fn word(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|two| two.try_into().ok()).map_or(0, u16::from_be_bytes)
}

/// The sum of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum: u16, pair| {
        let mut word = [0; 2];
        word.iter_mut().zip(pair).for_each(|(to, from)| *to = *from);
        let (sum, carried) = sum.overflowing_add(u16::from_be_bytes(word));
        sum + u16::from(carried)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_whose_checksum_is_completed_reads_as_it_was_made() {
        for inside in Inside::ALL {
            let mut frame = inside.frame(b"odd");
            assert!(inside.read(&frame).is_err());
            let checksum = !sum(&frame[inside.start()..]);
            put(&mut frame, inside.start() + inside.offset(), checksum);
            assert_eq!(inside.read(&frame), Ok(&b"odd"[..]));
            frame.pop();
            assert!(inside.read(&frame).is_err());
        }
    }

    #[test]
    fn tagged_frames_differ_and_have_their_length() {
        assert_eq!(tagged(1, 60).len(), 60);
        assert_ne!(tagged(1, 60), tagged(2, 60));
    }
}
