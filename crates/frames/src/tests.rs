//! Headers against frames, and what becomes of them: tables of what is refused, and properties of what is not. Frames are
//! made and read by code of the tests' own.

use outboard_virtio_defs::net::{
    F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_HOST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_UFO, F_HOST_USO,
    HDR_F_DATA_VALID, HDR_F_NEEDS_CSUM, HDR_F_RSC_INFO, HDR_GSO_ECN, HDR_GSO_NONE, HDR_GSO_TCPV4,
    HDR_GSO_TCPV6, HDR_GSO_UDP, HDR_GSO_UDP_L4, Header,
};
use proptest::prelude::*;
use zerocopy::FromBytes;

use crate::testing::sum;
use crate::{Limits, MAX_HEADERS, MAX_LEN, Offload, Refused, Takes, check, plain};

const ALL: u64 = F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_HOST_UFO | F_HOST_USO;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Net {
    V4,
    V6,
}

/// A frame with TCP or UDP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) net: Net,
    pub(crate) is_tcp: bool,
    /// VLAN tags.
    pub(crate) tags: usize,
    /// Bytes between the IP header and TCP or UDP: options, or extension headers of 8 bytes.
    pub(crate) between: usize,
    /// Bytes of TCP options.
    pub(crate) options: usize,
}

impl Frame {
    pub(crate) const fn tcp(net: Net) -> Self {
        Self { net, is_tcp: true, tags: 0, between: 0, options: 0 }
    }

    pub(crate) const fn udp(net: Net) -> Self {
        Self { is_tcp: false, ..Self::tcp(net) }
    }

    const fn l3_at(&self) -> usize {
        14 + 4 * self.tags
    }

    const fn l4_at(&self) -> usize {
        let ip = match self.net {
            Net::V4 => 20,
            Net::V6 => 40,
        };
        self.l3_at() + ip + self.between
    }

    const fn end(&self) -> usize {
        self.l4_at() + if self.is_tcp { 20 + self.options } else { 8 }
    }

    const fn checksum_offset(&self) -> usize {
        if self.is_tcp { 16 } else { 6 }
    }

    /// The frame as a driver hands it over that leaves the checksum to the device.
    pub(crate) fn bytes(&self, payload: &[u8]) -> Vec<u8> {
        let l4 = self.end() - self.l4_at() + payload.len();
        let protocol = if self.is_tcp { 6 } else { 17 };
        let mut out = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for _ in 0..self.tags {
            out.extend([0x81, 0, 0, 7]);
        }
        let addresses: Vec<u8> = match self.net {
            Net::V4 => {
                out.extend([8, 0, 0x45 + (self.between / 4) as u8, 0]);
                out.extend((self.between as u16 + 20).wrapping_add(l4 as u16).to_be_bytes());
                out.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
                vec![192, 0, 2, 1, 192, 0, 2, 2]
            }
            Net::V6 => {
                out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                out.extend((self.between as u16).wrapping_add(l4 as u16).to_be_bytes());
                out.extend([if self.between > 0 { 60 } else { protocol }, 64]);
                (0..32).map(|at| [0x20, 0x01, 0x0d, 0xb8, at][at.min(4) as usize]).collect()
            }
        };
        out.extend(&addresses);
        match self.net {
            Net::V4 => out.resize(self.l4_at(), 1),
            Net::V6 => {
                for left in (0..self.between / 8).rev() {
                    out.extend([if left > 0 { 60 } else { protocol }, 0, 1, 4, 0, 0, 0, 0]);
                }
            }
        }
        out.extend([0x30, 0x39, 0, 80]);
        if self.is_tcp {
            out.extend([0xff, 0xff, 0xf0, 0, 0, 0, 0, 9, 0x50 + (self.options * 4) as u8]);
            out.extend([0x99, 0x10, 0, 0, 0, 0, 0]);
            out.resize(self.end(), 1);
        } else {
            out.extend([(l4 >> 8) as u8, l4 as u8, 0, 0]);
        }
        let pseudo = sum(&[&addresses[..], &(l4 as u32).to_be_bytes(), &[0, protocol]].concat());
        let place = self.l4_at() + self.checksum_offset();
        out[place..place + 2].copy_from_slice(&pseudo.to_be_bytes());
        out.extend(payload);
        out
    }

    /// The header that goes with it.
    fn header(&self, gso_type: u8, gso_size: u16) -> Header {
        Header {
            flags: HDR_F_NEEDS_CSUM,
            gso_type,
            hdr_len: (self.end() as u16).into(),
            gso_size: gso_size.into(),
            csum_start: (self.l4_at() as u16).into(),
            csum_offset: (self.checksum_offset() as u16).into(),
            num_buffers: 0.into(),
        }
    }

    /// How it is cut, unless into fragments.
    const fn gso_type(&self) -> u8 {
        match (self.is_tcp, self.net) {
            (true, Net::V4) => HDR_GSO_TCPV4,
            (true, Net::V6) => HDR_GSO_TCPV6,
            (false, _) => HDR_GSO_UDP_L4,
        }
    }
}

fn number(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// Checks what a receiver would check of a frame made from `frame`: lengths and checksums. Returns its payload.
fn receive<'a>(frame: &Frame, bytes: &'a [u8]) -> &'a [u8] {
    let (ip, l4) = (&bytes[frame.l3_at()..], &bytes[frame.l4_at()..]);
    let addresses = match frame.net {
        Net::V4 => {
            assert_eq!(number(ip, 2), ip.len(), "total length");
            assert_eq!(sum(&ip[..20 + frame.between]), 0xffff, "checksum of the IP header");
            &ip[12..20]
        }
        Net::V6 => {
            assert_eq!(number(ip, 4), ip.len() - 40, "payload length");
            &ip[8..40]
        }
    };
    assert_transport(frame, addresses, l4);
    &bytes[frame.end()..]
}

fn assert_transport(frame: &Frame, addresses: &[u8], l4: &[u8]) {
    let protocol = if frame.is_tcp { 6 } else { 17 };
    let pseudo = [addresses, &(l4.len() as u32).to_be_bytes(), &[0, protocol], l4].concat();
    assert_eq!(sum(&pseudo), 0xffff, "checksum");
    if !frame.is_tcp {
        assert_eq!(number(l4, 4), l4.len(), "length of the datagram");
        assert_ne!(number(l4, 6), 0, "a checksum");
    }
}

fn limits(features: u64) -> Limits {
    Limits { takes: Takes::by_device(features), mtu: 1500 }
}

fn judge(header: &Header, frame: &[u8], features: u64) -> Result<Offload, Refused> {
    let head = &frame[..frame.len().min(MAX_HEADERS)];
    check(header, frame.len() as u32, head, &limits(features))
}

fn frames_of(offload: &Offload, mut bytes: Vec<u8>) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    plain(offload, &mut bytes, |frame| out.push(frame.to_vec()));
    out
}

#[test]
fn header_that_asks_for_nothing_is_passed_whatever_else_it_says() {
    let frame = Frame::tcp(Net::V4).bytes(b"payload");
    for flags in [0, HDR_F_DATA_VALID, HDR_F_RSC_INFO, 0xfe] {
        let header = Header {
            flags,
            gso_type: HDR_GSO_NONE,
            hdr_len: 9999.into(),
            gso_size: 1.into(),
            csum_start: 0xffff.into(),
            csum_offset: 0xffff.into(),
            num_buffers: 77.into(),
        };
        let offload = judge(&header, &frame, 0).unwrap();
        assert_eq!(offload, Offload::None);
        assert_eq!(offload.header(), Header::default(), "nothing of it is passed on");
        assert_eq!(frames_of(&offload, frame.clone()), [&frame[..]]);
    }
}

#[test]
fn frame_too_short_or_too_long_is_refused() {
    let header = Header::default();
    for (len, answer) in [
        (0, Err(Refused::TooShort)),
        (13, Err(Refused::TooShort)),
        (14, Ok(Offload::None)),
        (1514, Ok(Offload::None)),
        (1515, Err(Refused::TooLong)),
        (u32::MAX, Err(Refused::TooLong)),
    ] {
        assert_eq!(check(&header, len, &[], &limits(ALL)), answer, "{len}");
    }
    let frame = Frame::tcp(Net::V6);
    let cut = |len: u32| {
        check(&frame.header(HDR_GSO_TCPV6, 1400), len, &frame.bytes(&[0; 100]), &limits(ALL)).map(|_| ())
    };
    assert_eq!(cut(MAX_LEN), Ok(()));
    assert_eq!(cut(MAX_LEN + 1), Err(Refused::TooLong));
}

#[test]
fn vlan_tags_are_no_part_of_what_the_mtu_limits() {
    for (tags, ethernet) in [(0, 14), (1, 18), (2, 22), (3, 22)] {
        let frame = Frame { tags, ..Frame::udp(Net::V4) };
        for (len, fits) in [(ethernet + 1500, true), (ethernet + 1501, false)] {
            let bytes = frame.bytes(&pattern(len - frame.end()));
            for header in [Header::default(), frame.header(HDR_GSO_NONE, 0)] {
                let looked_at = limits(ALL).looked_at(&header, len as u32);
                let answer = check(&header, len as u32, &bytes[..looked_at], &limits(ALL));
                assert_eq!(answer.is_ok(), fits, "{tags} {len}");
                assert_eq!(Offload::None.fits(1500, len as u32, &bytes[..22]), fits);
            }
        }
        if tags < 3 {
            let header = |size| frame.header(HDR_GSO_UDP_L4, size);
            let bytes = frame.bytes(&pattern(4000));
            let offload = judge(&header(1472), &bytes, ALL).unwrap();
            assert_eq!(judge(&header(1473), &bytes, ALL), Err(Refused::GsoSize));
            assert_eq!([1499, 1500].map(|mtu| offload.fits(mtu, 0, &[])), [false, true]);
        }
    }
    assert_eq!(limits(ALL).looked_at(&Header::default(), 1514), 0, "the length alone says it");
}

#[test]
fn header_that_asks_for_what_was_not_agreed_is_refused() {
    let long = [0; 3000];
    for (frame, gso_type, without, why) in [
        (Frame::tcp(Net::V4), HDR_GSO_NONE, F_CSUM, Refused::CsumNotAgreed),
        (Frame::tcp(Net::V4), HDR_GSO_TCPV4, F_CSUM, Refused::CsumNotAgreed),
        (Frame::tcp(Net::V4), HDR_GSO_TCPV4, F_HOST_TSO4, Refused::GsoNotAgreed),
        (Frame::tcp(Net::V6), HDR_GSO_TCPV6, F_HOST_TSO6, Refused::GsoNotAgreed),
        (Frame::tcp(Net::V6), HDR_GSO_TCPV6 | HDR_GSO_ECN, F_HOST_ECN, Refused::GsoNotAgreed),
        (Frame::udp(Net::V4), HDR_GSO_UDP, F_HOST_UFO, Refused::GsoNotAgreed),
        (Frame::udp(Net::V4), HDR_GSO_UDP_L4, F_HOST_USO, Refused::GsoNotAgreed),
        (Frame::udp(Net::V6), HDR_GSO_UDP_L4, F_HOST_USO, Refused::GsoNotAgreed),
    ] {
        let payload = if gso_type == HDR_GSO_NONE { &long[..100] } else { &long };
        let (header, bytes) = (frame.header(gso_type, 1000), frame.bytes(payload));
        assert!(judge(&header, &bytes, ALL).is_ok(), "{frame:?} {gso_type}");
        assert_eq!(judge(&header, &bytes, ALL & !without), Err(why), "{frame:?} {gso_type}");
    }
}

#[test]
fn checksum_out_of_its_place_is_refused() {
    let frame = Frame::udp(Net::V6);
    let bytes = frame.bytes(b"payload");
    let len = bytes.len() as u16;
    let asked = |start: u16, offset: u16| {
        let header =
            Header { csum_start: start.into(), csum_offset: offset.into(), ..frame.header(HDR_GSO_NONE, 0) };
        judge(&header, &bytes, ALL).map(|_| ())
    };
    for (start, offset) in [(54, 6), (54, len - 56), (len - 2, 0), (60, 0)] {
        assert_eq!(asked(start, offset), Ok(()), "{start} {offset}");
    }
    for (start, offset) in
        [(len - 1, 0), (54, len - 55), (0xffff, 0xffff), (0xffff, 0), (0, 6), (13, 6), (14, 6), (53, 6)]
    {
        assert_eq!(asked(start, offset), Err(Refused::CsumRange), "{start} {offset}");
    }
    let unknown = [0x88; 60];
    let header = Header { csum_start: 14.into(), ..frame.header(HDR_GSO_NONE, 0) };
    assert!(judge(&header, &unknown, ALL).is_ok(), "of a protocol that is not known here");
    let header = Header { csum_start: 13.into(), ..header };
    assert_eq!(judge(&header, &unknown, ALL), Err(Refused::CsumRange));
}

#[test]
fn segments_of_no_kind_are_refused() {
    let (tcp, udp) = (Frame::tcp(Net::V4), Frame::udp(Net::V4));
    let long = [0; 3000];
    for gso_type in [2, 6, 0x7f, HDR_GSO_ECN, HDR_GSO_ECN | 2] {
        let answer = judge(&tcp.header(gso_type, 1000), &tcp.bytes(&long), ALL);
        assert_eq!(answer, Err(Refused::GsoType), "{gso_type}");
    }
    for gso_type in [HDR_GSO_UDP, HDR_GSO_UDP_L4] {
        let answer = judge(&udp.header(gso_type | HDR_GSO_ECN, 1000), &udp.bytes(&long), ALL);
        assert_eq!(answer, Err(Refused::GsoType), "{gso_type}");
    }
    let no_checksum = Header { flags: 0, ..tcp.header(HDR_GSO_TCPV4, 1000) };
    assert_eq!(judge(&no_checksum, &tcp.bytes(&long), ALL), Err(Refused::GsoType));
}

#[test]
fn segments_too_small_or_too_many_are_refused() {
    let frame = Frame::tcp(Net::V4);
    let sized = |size, payload: usize| {
        judge(&frame.header(HDR_GSO_TCPV4, size), &frame.bytes(&vec![0; payload]), ALL).map(|offload| {
            let Offload::Segments(_) = offload else { panic!("{offload:?}") };
        })
    };
    for size in [0, 1, 7] {
        assert_eq!(sized(size, 1000), Err(Refused::GsoSize), "{size}");
    }
    assert_eq!(sized(8, 8 * 256), Ok(()));
    assert_eq!(sized(8, 8 * 256 + 1), Err(Refused::GsoSize), "one more than are cut");
    assert_eq!(sized(1460, 10_000), Ok(()));
    assert_eq!(sized(1461, 10_000), Err(Refused::GsoSize), "longer than the MTU");
}

#[test]
fn segments_that_do_not_fit_the_frame_are_refused() {
    let long = [0; 3000];
    let (tcp4, tcp6) = (Frame::tcp(Net::V4), Frame::tcp(Net::V6));
    let (udp4, udp6) = (Frame::udp(Net::V4), Frame::udp(Net::V6));
    for (frame, gso_type) in [
        (tcp4, HDR_GSO_TCPV6),
        (tcp6, HDR_GSO_TCPV4),
        (tcp4, HDR_GSO_UDP_L4),
        (tcp6, HDR_GSO_UDP_L4),
        (tcp4, HDR_GSO_UDP),
        (udp4, HDR_GSO_TCPV4),
        (udp6, HDR_GSO_TCPV6),
        (udp6, HDR_GSO_UDP),
    ] {
        let answer = judge(&frame.header(gso_type, 1000), &frame.bytes(&long), ALL);
        assert_eq!(answer, Err(Refused::Layers), "{frame:?} {gso_type}");
    }
    let header = tcp4.header(HDR_GSO_TCPV4, 1000);
    for moved in [Header { csum_start: 35.into(), ..header }, Header { csum_offset: 6.into(), ..header }] {
        assert_eq!(judge(&moved, &tcp4.bytes(&long), ALL), Err(Refused::Layers));
    }
    for (at, value, what) in [
        (14, 0x44, "four words of IP header"),
        (46, 0x40, "four words of TCP header"),
        (20, 0x20, "a fragment"),
        (12, 0x88, "no IP"),
    ] {
        let mut bytes = tcp4.bytes(&long);
        bytes[at] = value;
        assert_eq!(judge(&header, &bytes, ALL), Err(Refused::Layers), "{what}");
    }
    let deep = Frame { between: 64, options: 40, tags: 2, ..tcp6 };
    assert!(judge(&deep.header(HDR_GSO_TCPV6, 1000), &deep.bytes(&long), ALL).is_ok());
    let bytes = deep.bytes(&long);
    let answer = check(&deep.header(HDR_GSO_TCPV6, 1000), bytes.len() as u32, &bytes[..180], &limits(ALL));
    assert_eq!(answer, Err(Refused::Layers), "headers beyond what was shown");
}

#[test]
fn frame_of_one_segment_is_one_without_its_checksum() {
    for frame in [Frame::tcp(Net::V4), Frame::udp(Net::V6)] {
        let bytes = frame.bytes(&[7; 1000]);
        let offload = judge(&frame.header(frame.gso_type(), 1000), &bytes, ALL).unwrap();
        assert!(matches!(offload, Offload::Checksum(_)), "{offload:?}");
        let long = frame.bytes(&[7; 2000]);
        assert_eq!(judge(&frame.header(frame.gso_type(), 2000), &long, ALL), Err(Refused::TooLong));
    }
}

#[test]
fn header_emitted_says_what_was_checked_and_no_more() {
    let frame = Frame { options: 12, ..Frame::tcp(Net::V4) };
    let asked = frame.header(HDR_GSO_TCPV4 | HDR_GSO_ECN, 1000);
    let lying = Header { flags: 0xff, hdr_len: 3.into(), num_buffers: 9.into(), ..asked };
    let offload = judge(&lying, &frame.bytes(&[0; 5000]), ALL).unwrap();
    assert_eq!(offload.header(), asked);
}

#[test]
fn offload_is_taken_by_whoever_agreed_to_it() {
    let frame = Frame::tcp(Net::V4);
    let offload =
        |gso_type, len| judge(&frame.header(gso_type, 1000), &frame.bytes(&vec![0; len]), ALL).unwrap();
    let (none, checksum, segments) = (Offload::None, offload(HDR_GSO_NONE, 9), offload(HDR_GSO_TCPV4, 5000));
    let ecn = offload(HDR_GSO_TCPV4 | HDR_GSO_ECN, 5000);
    for (features, taken) in [
        (0, [true, false, false, false]),
        (F_GUEST_CSUM, [true, true, false, false]),
        (F_GUEST_TSO4, [true, false, false, false]),
        (F_GUEST_CSUM | F_GUEST_TSO4, [true, true, true, false]),
        (ALL, [true, false, false, false]),
    ] {
        let takes = Takes::by_driver(features);
        assert_eq!([none, checksum, segments, ecn].map(|offload| takes.has(&offload)), taken, "{features:x}");
    }
    assert!(Takes::by_driver(F_GUEST_TSO4).cuts_any() && !Takes::by_driver(F_GUEST_CSUM).cuts_any());
}

#[test]
fn tcp_flags_that_are_said_once_are_said_once() {
    let frame = Frame::tcp(Net::V4);
    let mut bytes = frame.bytes(&[1; 3000]);
    bytes[47] = 0xff;
    let offload = judge(&frame.header(HDR_GSO_TCPV4, 1000), &bytes, ALL).unwrap();
    let flags: Vec<u8> = frames_of(&offload, bytes).iter().map(|segment| segment[47]).collect();
    assert_eq!(flags, [0xf6, 0x76, 0x7f], "CWR first; FIN and PSH last");
}

#[test]
fn frame_other_than_the_one_checked_gives_nothing_wrong() {
    for frame in [Frame::tcp(Net::V4), Frame::udp(Net::V6)] {
        let bytes = frame.bytes(&[1; 3000]);
        let offload = judge(&frame.header(frame.gso_type(), 1000), &bytes, ALL).unwrap();
        for len in 0..frame.end() {
            plain(&offload, &mut bytes[..len].to_vec(), |_| panic!("a frame of {len} bytes"));
        }
    }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    (any::<bool>(), any::<bool>(), 0..=2_usize, 0..=5_usize, 0..=10_usize).prop_map(
        |(v6, is_tcp, tags, between, options)| Frame {
            net: if v6 { Net::V6 } else { Net::V4 },
            is_tcp,
            tags,
            between: 8 * between,
            options: if is_tcp { 4 * options } else { 0 },
        },
    )
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 251) as u8).collect()
}

proptest! {
    #[test]
    fn segments_put_together_are_the_frame(frame in any_frame(), len in 1..20_000_usize, size in 80..1300_u16) {
        let payload = pattern(len);
        let bytes = frame.bytes(&payload);
        let offload = judge(&frame.header(frame.gso_type(), size), &bytes, ALL).unwrap();
        let segments = frames_of(&offload, bytes.clone());
        prop_assert_eq!(segments.len(), len.div_ceil(size.into()));
        prop_assert_eq!(segments.len() as u64, offload.frames(bytes.len()));
        let mut together = Vec::new();
        for (number, segment) in segments.iter().enumerate() {
            prop_assert_eq!(&segment[..frame.l3_at()], &bytes[..frame.l3_at()]);
            let part = receive_completed(&frame, segment, matches!(offload, Offload::Segments(_)));
            prop_assert_eq!(part.len(), usize::from(size).min(len - together.len()));
            if frame.is_tcp {
                let at = frame.l4_at() + 4;
                let sequence = u32::from_be_bytes(segment[at..at + 4].try_into().unwrap());
                prop_assert_eq!(sequence, 0xffff_f000_u32.wrapping_add(together.len() as u32));
            }
            if frame.net == Net::V4 {
                prop_assert_eq!(number, number_of(&frame, segment));
            }
            together.extend_from_slice(part);
        }
        prop_assert_eq!(together, payload);
    }

    #[test]
    fn fragments_put_together_are_the_datagram(
        tags in 0..=2_usize,
        between in 0..=5_usize,
        len in 2000..20_000_usize,
        size in 80..1400_u16,
    ) {
        let frame = Frame { tags, between: 8 * between, ..Frame::udp(Net::V4) };
        let payload = pattern(len);
        let offload = judge(&frame.header(HDR_GSO_UDP, size), &frame.bytes(&payload), ALL).unwrap();
        let fragments = frames_of(&offload, frame.bytes(&payload));
        prop_assert_eq!(fragments.len() as u64, offload.frames(frame.bytes(&payload).len()));
        let mut datagram = Vec::new();
        for (at, fragment) in fragments.iter().enumerate() {
            let ip = &fragment[frame.l3_at()..];
            prop_assert_eq!(number(ip, 2), ip.len());
            prop_assert_eq!(sum(&ip[..20 + frame.between]), 0xffff);
            let more = if at + 1 == fragments.len() { 0 } else { 0x2000 };
            prop_assert_eq!(number(ip, 6), more | (datagram.len() / 8));
            prop_assert_eq!(number(ip, 4), 0x1234, "all of one datagram");
            datagram.extend_from_slice(&fragment[frame.l4_at()..]);
        }
        assert_transport(&frame, &[192, 0, 2, 1, 192, 0, 2, 2], &datagram);
        prop_assert_eq!(&datagram[8..], &payload);
    }

    #[test]
    fn checksum_completed_is_right(frame in any_frame(), len in 0..1200_usize) {
        let bytes = frame.bytes(&pattern(len));
        let offload = judge(&frame.header(HDR_GSO_NONE, 0), &bytes, ALL).unwrap();
        let done = frames_of(&offload, bytes);
        prop_assert_eq!(done.len(), 1);
        prop_assert_eq!(receive_completed(&frame, &done[0], false), pattern(len));
    }

    /// Whatever is asked of whatever bytes.
    #[test]
    fn anything_that_passes_is_said_again_and_comes_out_whole(
        asked in prop::array::uniform12(any::<u8>()),
        kind in prop::sample::select(vec![0, 1, 3, 4, 5, 0x81, 0x84]),
        base in any_frame(),
        keep in any::<bool>(),
        spoilt in prop::collection::vec((0..100_usize, any::<u8>()), 0..4),
        len in 0..4000_usize,
        features in any::<u64>(),
    ) {
        let mut bytes = base.bytes(&pattern(len));
        for (at, value) in spoilt {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let wild = Header::read_from_bytes(&asked).unwrap();
        let header = if keep { base.header(kind, wild.gso_size.get() % 2000) } else { wild };
        if let Ok(offload) = judge(&header, &bytes, features) {
            prop_assert_eq!(judge(&offload.header(), &bytes, features), Ok(offload));
            let len = bytes.len();
            let out = frames_of(&offload, bytes);
            prop_assert!(!out.is_empty());
            prop_assert_eq!(out.len() as u64, offload.frames(len));
            prop_assert!(out.len() == 1 || out.iter().all(|frame| frame.len() <= 1522));
            prop_assert!(out.iter().map(Vec::len).sum::<usize>() >= len);
        }
    }
}

/// As [`receive`]; what was not cut has the IP header that the driver gave it, whose checksum it left out.
fn receive_completed<'a>(frame: &Frame, bytes: &'a [u8], cut: bool) -> &'a [u8] {
    if cut {
        return receive(frame, bytes);
    }
    let addresses = match frame.net {
        Net::V4 => &bytes[frame.l3_at() + 12..][..8],
        Net::V6 => &bytes[frame.l3_at() + 8..][..32],
    };
    assert_transport(frame, addresses, &bytes[frame.l4_at()..]);
    &bytes[frame.end()..]
}

/// Which segment it is, by the identification of its IPv4 header.
fn number_of(frame: &Frame, bytes: &[u8]) -> usize {
    number(bytes, frame.l3_at() + 4) - 0x1234
}
