use super::*;
use proptest::prelude::*;

fn simple(error: u32, cookie: u64) -> Vec<u8> {
    [&SIMPLE_MAGIC.to_be_bytes()[..], &error.to_be_bytes(), &cookie.to_be_bytes()].concat()
}

fn chunk(flags: u16, kind: u16, cookie: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = CHUNK_MAGIC.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

fn decoded(bytes: &[u8]) -> (Reply, usize) {
    Reply::decode(bytes, true).unwrap().unwrap()
}

#[test]
fn request_is_laid_out_as_the_protocol_says() {
    let request = Request {
        command: Command::WriteZeroes,
        flags: FLAG_FUA | FLAG_NO_HOLE,
        cookie: 0x0102_0304_0506_0708,
        offset: 0x1112_1314_1516_1718,
        len: 0x2122_2324,
    };
    let expected = [
        0x25, 0x60, 0x95, 0x13, 0, 3, 0, 6, 1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
        0x18, 0x21, 0x22, 0x23, 0x24,
    ];
    assert_eq!(request.encode(), expected);
}

#[test]
fn replies_of_each_kind_are_understood_up_to_their_data() {
    let at = 0x1000_u64.to_be_bytes();
    let data = [&at[..], b"12345"].concat();
    assert_eq!(decoded(&simple(0, 7)), (Reply::Simple { cookie: 7, error: 0 }, 16));
    assert_eq!(decoded(&simple(28, 7)), (Reply::Simple { cookie: 7, error: 28 }, 16));
    assert_eq!(decoded(&chunk(1, CHUNK_NONE, 7, &[])), (Reply::End { cookie: 7 }, 20));
    let expected = Reply::Data { cookie: 7, offset: 0x1000, len: 5, last: false };
    assert_eq!(decoded(&chunk(0, CHUNK_DATA, 7, &data)), (expected, 28));
    let hole = [&at[..], &512_u32.to_be_bytes()].concat();
    let expected = Reply::Hole { cookie: 7, offset: 0x1000, len: 512, last: true };
    assert_eq!(decoded(&chunk(1, CHUNK_HOLE, 7, &hole)), (expected, 32));
    let failed = [&5_u32.to_be_bytes()[..], &3_u16.to_be_bytes(), b"why"].concat();
    let expected = Reply::Failed { cookie: 7, error: 5, last: true };
    assert_eq!(decoded(&chunk(1, CHUNK_ERROR, 7, &failed)), (expected, 29));
    let failed_at = [&failed[..], &at].concat();
    assert_eq!(decoded(&chunk(1, CHUNK_ERROR_OFFSET, 7, &failed_at)), (expected, 37));
    assert_eq!(decoded(&chunk(1, CHUNK_ERROR + 100, 7, &failed_at)), (expected, 37));
}

#[test]
fn reply_that_has_not_come_as_a_whole_waits() {
    let failed = [&5_u32.to_be_bytes()[..], &3_u16.to_be_bytes(), b"why"].concat();
    for whole in
        [simple(0, 7), chunk(1, CHUNK_DATA, 7, &[0; 9])[..28].to_vec(), chunk(1, CHUNK_ERROR, 7, &failed)]
    {
        for len in 0..whole.len() {
            assert_eq!(Reply::decode(&whole[..len], true), Ok(None), "{len} of {whole:?}");
        }
    }
}

#[test]
fn reply_that_breaks_the_protocol_is_an_error() {
    let unfit = [&5_u32.to_be_bytes()[..], &4_u16.to_be_bytes(), b"why"].concat();
    let none = [&0_u32.to_be_bytes()[..], &0_u16.to_be_bytes()].concat();
    for bad in [
        vec![0; 16],
        chunk(0, CHUNK_NONE, 7, &[]),
        chunk(1, CHUNK_NONE, 7, &[1]),
        chunk(1, CHUNK_DATA, 7, &[0; 8]),
        chunk(1, CHUNK_HOLE, 7, &[0; 11]),
        chunk(1, CHUNK_HOLE, 7, &[0; 12]),
        chunk(1, 5, 7, &[0; 12]),
        chunk(1, CHUNK_ERROR, 7, &unfit),
        chunk(1, CHUNK_ERROR, 7, &none),
        chunk(1, CHUNK_ERROR, 7, &[0; 5000]),
    ] {
        assert!(Reply::decode(&bad, true).is_err(), "{bad:?}");
    }
    assert!(Reply::decode(&chunk(1, CHUNK_NONE, 7, &[]), false).is_err(), "chunks were not agreed on");
}

#[test]
fn data_outside_a_read_or_twice_is_an_error() {
    let mut gaps = Gaps::default();
    gaps.reset(4096);
    for (offset, len) in
        [(8192 - 1, 1), (8192, 4097), (8192 + 4096, 1), (0, 1), (u64::MAX, 1), (8192 + 4095, 2)]
    {
        assert!(gaps.fill(8192, offset, len).is_err(), "{offset} {len}");
    }
    assert_eq!(gaps.fill(8192, 8192 + 1024, 512), Ok(1024));
    for (offset, len) in [(8192 + 1024, 512), (8192 + 1535, 1), (8192, 1025), (8192 + 1023, 2)] {
        assert!(gaps.fill(8192, offset, len).is_err(), "{offset} {len}");
    }
    assert!(!gaps.is_filled());
}

#[test]
fn read_scattered_without_end_is_an_error() {
    let mut gaps = Gaps::default();
    gaps.reset(1 << 20);
    let filled = (0..4096).take_while(|at| gaps.fill(0, at * 2 + 1, 1).is_ok()).count();
    assert_eq!(filled, MAX_GAPS - 1);
}

proptest! {
    #[test]
    fn gaps_filled_in_any_order_are_filled_once(order in Just((0..32_u64).collect::<Vec<_>>()).prop_shuffle()) {
        let mut gaps = Gaps::default();
        gaps.reset(32 * 512);
        for (nth, piece) in order.iter().enumerate() {
            prop_assert!(!gaps.is_filled(), "after {nth}");
            prop_assert_eq!(gaps.fill(99, 99 + piece * 512, 512), Ok(*piece as u32 * 512));
            prop_assert!(gaps.fill(99, 99 + piece * 512, 1).is_err());
        }
        prop_assert!(gaps.is_filled());
    }

    #[test]
    fn bytes_of_any_kind_make_a_reply_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..64), magic in 0..3) {
        let mut bytes = bytes;
        if magic > 0 {
            let magic = if magic == 1 { SIMPLE_MAGIC } else { CHUNK_MAGIC };
            bytes.splice(0..0, magic.to_be_bytes());
        }
        if let Ok(Some((_, len))) = Reply::decode(&bytes, true) {
            prop_assert!(len <= bytes.len());
        }
    }
}
