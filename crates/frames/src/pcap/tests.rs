use proptest::prelude::*;

use super::*;

/// A frame as it comes out of a reader: when, what, of how many bytes.
type Frame = (Option<Duration>, Vec<u8>, u32);

/// All frames of a file, and how it ended.
fn read(mut file: &[u8]) -> (Vec<Frame>, Result<(), Malformed>) {
    let (mut reader, mut frames) = (Reader::new(), Vec::new());
    loop {
        if file.is_empty() && reader.is_between() {
            return (frames, Ok(()));
        }
        assert!(reader.wanted() <= MAX_WANTED);
        let Some(bytes) = file.split_off(..reader.wanted()) else {
            return (frames, Err(Malformed::Length));
        };
        match reader.take(bytes) {
            Ok(Some(frame)) => frames.push((frame.at, frame.bytes.to_vec(), frame.len)),
            Ok(None) => {}
            Err(error) => return (frames, Err(error)),
        }
    }
}

fn written(frames: &[(Duration, &[u8], u32)]) -> Vec<u8> {
    let mut file = file_header().to_vec();
    for (at, bytes, len) in frames {
        file.extend(frame_header(*at, bytes.len() as u32, *len));
        file.extend_from_slice(bytes);
    }
    file
}

/// Numbers of a file in one byte order.
#[derive(Clone, Copy)]
struct Put(bool);

impl Put {
    fn word(self, number: u32) -> [u8; 4] {
        if self.0 { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    fn half(self, number: u16) -> [u8; 2] {
        if self.0 { number.to_be_bytes() } else { number.to_le_bytes() }
    }

    fn words<const N: usize>(self, numbers: [u32; N]) -> Vec<u8> {
        numbers.into_iter().flat_map(|number| self.word(number)).collect()
    }

    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let body_len = body.len().next_multiple_of(4);
        let len = self.word(body_len as u32 + 12);
        let filled = body.iter().copied().chain([0; 4]).take(body_len);
        self.word(kind).into_iter().chain(len).chain(filled).chain(len).collect()
    }

    fn section(self) -> Vec<u8> {
        let body: Vec<u8> = [
            self.word(BYTE_ORDER).to_vec(),
            self.half(1).to_vec(),
            self.half(0).to_vec(),
            vec![0xff; 8],
            // The name of a program.
            self.half(4).to_vec(),
            self.half(5).to_vec(),
            b"tests\0\0\0".to_vec(),
            vec![0; 4],
        ]
        .concat();
        self.block(SECTION, &body)
    }

    fn interface(self, link: u16, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = [self.half(link), self.half(0)].concat();
        body.extend(self.word(65535));
        for (option, value) in options {
            body.extend([self.half(*option), self.half(value.len() as u16)].concat());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        self.block(INTERFACE, &body)
    }

    fn packet(self, interface: u32, ticks: u64, bytes: &[u8], len: u32) -> Vec<u8> {
        let fields = [interface, (ticks >> 32) as u32, ticks as u32, bytes.len() as u32, len];
        self.block(PACKET, &[self.words(fields), bytes.to_vec()].concat())
    }
}

const AT: Duration = Duration::new(1_700_000_000, 123_456_789);

#[test]
fn file_that_was_written_is_read_again() {
    let frames: [(Duration, &[u8], u32); 3] =
        [(AT, b"a frame, all of it", 18), (AT, b"cut", 1514), (AT + Duration::from_secs(1), b"", 0)];
    let (read, end) = read(&written(&frames));
    assert_eq!(end, Ok(()));
    let expected: Vec<_> = frames.iter().map(|(at, bytes, len)| (Some(*at), bytes.to_vec(), *len)).collect();
    assert_eq!(read, expected);
}

#[test]
fn pcap_of_either_order_and_unit_is_read() {
    for (put, magic, fraction, nanos) in [
        (Put(false), MAGIC_MICROS, 123_456, 123_456_000),
        (Put(true), MAGIC_MICROS, 123_456, 123_456_000),
        (Put(false), MAGIC_NANOS, 123_456_789, 123_456_789),
        (Put(true), MAGIC_NANOS, 123_456_789, 123_456_789),
    ] {
        let file = [
            put.word(magic).to_vec(),
            [put.half(2), put.half(4)].concat(),
            // With flags for checksums above the link type.
            put.words([0, 0, 65535, 0x2400_0001]),
            put.words([1_700_000_000, fraction, 5, 5]),
            b"frame".to_vec(),
        ]
        .concat();
        let (frames, end) = read(&file);
        assert_eq!(end, Ok(()));
        assert_eq!(frames, [(Some(Duration::new(1_700_000_000, nanos)), b"frame".to_vec(), 5)]);
    }
}

#[test]
fn pcapng_of_either_order_is_read() {
    for put in [Put(false), Put(true)] {
        let offset = if put.0 { 100_i64.to_be_bytes() } else { 100_i64.to_le_bytes() };
        let file = [
            put.section(),
            put.interface(1, &[]),
            put.interface(1, &[(2, b"eth0"), (OPTION_UNIT, &[9]), (OPTION_OFFSET, &offset), (0, b"")]),
            put.interface(1, &[(OPTION_UNIT, &[0x80 | 10])]),
            // A name resolution, of no interest.
            put.block(4, &[7; 40]),
            put.packet(0, 1_700_000_000_123_456, b"micro", 5),
            put.packet(1, 1_700_000_000_123_456_789, b"nanos, cut", 100),
            put.packet(2, 3 * 1024 + 512, b"binary", 6),
            put.block(SIMPLE_PACKET, &[put.word(6).as_slice(), b"simple"].concat()),
            // The other order, and no interfaces any more.
            Put(!put.0).section(),
            Put(!put.0).interface(1, &[]),
            Put(!put.0).packet(0, 1_000_000, b"again", 5),
        ]
        .concat();
        let (frames, end) = read(&file);
        assert_eq!(end, Ok(()));
        assert_eq!(
            frames,
            [
                (Some(Duration::new(1_700_000_000, 123_456_000)), b"micro".to_vec(), 5),
                (Some(Duration::new(1_700_000_100, 123_456_789)), b"nanos, cut".to_vec(), 100),
                (Some(Duration::from_millis(3500)), b"binary".to_vec(), 6),
                (None, b"simple".to_vec(), 6),
                (Some(Duration::from_secs(1)), b"again".to_vec(), 5),
            ]
        );
    }
}

#[test]
fn file_malformed_is_refused_with_the_reason() {
    let put = Put(false);
    let header = |link: u32| {
        [put.word(MAGIC_MICROS).to_vec(), [put.half(2), put.half(4)].concat(), put.words([0, 0, 65535, link])]
            .concat()
    };
    let ng = |blocks: &[Vec<u8>]| [put.section(), blocks.concat()].concat();
    for (file, reason) in [
        (b"\x7fELF".to_vec(), Malformed::Magic),
        (b"\xa1\xb2".to_vec(), Malformed::Length),
        ([put.word(MAGIC_MICROS).to_vec(), vec![9; 20]].concat(), Malformed::Magic),
        (header(105), Malformed::LinkType(105)),
        // Cut off, too long, longer than it was.
        ([header(1), put.words([0, 0, 10, 10]), vec![0; 9]].concat(), Malformed::Length),
        ([header(1), put.words([0, 0, MAX_CAPTURED + 1, u32::MAX])].concat(), Malformed::Length),
        ([header(1), put.words([0, 0, 10, 9]), vec![0; 10]].concat(), Malformed::Length),
        ([put.words([SECTION, 28]), vec![1; 4]].concat(), Malformed::Magic),
        (put.words([SECTION, 24, BYTE_ORDER, 0, 0, 0, 0]), Malformed::Length),
        (ng(&[put.packet(0, 0, b"x", 1)]), Malformed::Interface),
        (ng(&[put.block(SIMPLE_PACKET, &[0; 8])]), Malformed::Interface),
        (ng(&[put.interface(113, &[]), put.packet(0, 0, b"x", 1)]), Malformed::LinkType(113)),
        (ng(&[put.interface(1, &[(OPTION_UNIT, &[99])])]), Malformed::Length),
        (ng(&[put.interface(1, &[(OPTION_OFFSET, &[0; 4])])]), Malformed::Length),
        (ng(&[put.block(INTERFACE, &[1, 0, 0, 0])]), Malformed::Length),
        (ng(&[put.interface(1, &[]), put.packet(0, 0, b"longer than it was", 3)]), Malformed::Length),
        (ng(&[put.words([PACKET, 11])]), Malformed::Length),
        (ng(&[put.words([4, 8])]), Malformed::Length),
        (ng(&[put.words([PACKET, u32::MAX - 3])]), Malformed::Length),
        // A block of no interest may be of any length, but must be there.
        (ng(&[put.words([4, u32::MAX - 3])]), Malformed::Length),
    ] {
        assert_eq!(read(&file).1, Err(reason), "{file:x?}");
    }
}

proptest! {
    /// Whatever is in a file.
    #[test]
    fn file_of_any_bytes_ends(
        start in prop::sample::select(vec![
            Vec::new(),
            file_header().to_vec(),
            [Put(true).section(), Put(true).interface(1, &[])].concat(),
        ]),
        kind in prop::sample::select(vec![0, INTERFACE, SIMPLE_PACKET, PACKET, SECTION]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let file = [start, Put(true).word(kind).to_vec(), bytes].concat();
        let (frames, _) = read(&file);
        prop_assert!(frames.iter().all(|(_, bytes, len)| bytes.len() <= *len as usize));
    }
}
