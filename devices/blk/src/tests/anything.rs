//! Guests that ask for anything: requests of every kind, with positions and lengths at every edge, cut anywhere.
//! Whatever comes, it is answered, in the terms of the specification, and the disk stays what it says it is.

use outboard_device::defs::blk::{
    F_DISCARD, F_SECURE_ERASE, F_WRITE_ZEROES, F_ZONED, S_OK, S_UNSUPP, S_ZONE_ACTIVE_RESOURCE, T_IN,
    T_ZONE_REPORT, ZS_CLOSED, ZS_EMPTY, ZS_EOPEN, ZS_FULL, ZS_IOPEN, ZS_NOT_WP, ZoneDescriptor,
};
use outboard_device::testing::UNTOUCHED;
use proptest::prelude::*;
use zerocopy::FromBytes;

use super::*;

/// Sectors of a zone, what can be written of it, and how many there are; the first one is conventional.
const ZONE: u64 = 32;
const CAPACITY: u64 = 24;
const ZONES: u64 = 4;
const MAX_OPEN: usize = 2;
const ALL: Features = Features(AGREED.0 | F_DISCARD | F_WRITE_ZEROES | F_SECURE_ERASE | F_ZONED);
const SECTORS: u64 = ZONE * ZONES;

/// A request, and how it is cut into buffers.
#[derive(Clone, Debug)]
struct Anything {
    kind: u32,
    sector: u64,
    data: Vec<u8>,
    /// How much of header and data there is.
    readable: usize,
    room: usize,
    cuts: Vec<usize>,
}

fn sector() -> impl Strategy<Value = u64> {
    let edges = [0, 1, CAPACITY, SECTORS - 1, SECTORS, SECTORS + 1, 1 << 55, (1 << 55) - 1, u64::MAX];
    prop_oneof![
        4 => (0..ZONES).prop_map(|zone| zone * ZONE),
        3 => 0..SECTORS + 2,
        2 => prop::sample::select(edges.to_vec()),
        1 => any::<u64>(),
    ]
}

/// Ranges, as far as they are any.
fn segments() -> impl Strategy<Value = Vec<u8>> {
    let count = prop::sample::select(vec![0, 1, 2, 8, SECTORS as u32, SECTORS as u32 + 1, 1 << 22, u32::MAX]);
    let flags = prop::sample::select(vec![0, 0, 0, 1, 2, 1 << 31]);
    prop::collection::vec((sector(), count, flags), 0..18).prop_map(|list| ranges(&list))
}

fn anything() -> impl Strategy<Value = Anything> {
    let kind = prop_oneof![9 => 0_u32..30, 1 => any::<u32>()];
    let length = prop::sample::select(vec![0, 1, 8, 511, 512, 513, 1024, 4096, 12288, 16384]);
    let bytes = (length, any::<u8>()).prop_map(|(len, byte)| vec![byte | 1; len]);
    let data = prop_oneof![2 => bytes, 1 => segments()];
    let readable = prop_oneof![8 => Just(usize::MAX), 1 => 0_usize..40];
    let room = prop::sample::select(vec![0, 1, 6, 7, 8, 9, 20, 63, 64, 65, 128, 320, 512, 513, 1024, 16384]);
    let cuts = prop::collection::vec(any::<usize>(), 0..5);
    (kind, sector(), data, readable, room, cuts).prop_map(|(kind, sector, data, readable, room, cuts)| {
        Anything { kind, sector, data, readable, room, cuts }
    })
}

/// Pieces of these bytes, none of them empty.
fn pieces<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut % bytes.len().max(1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.dedup();
    places.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn ask(disk: &mut Disk, asked: &Anything, has_zones: bool) {
    let input = [header(asked.kind, asked.sector), asked.data.clone()].concat();
    let input = &input[..input.len().min(asked.readable)];
    let room = vec![0; asked.room + 1];
    let writable: Vec<usize> = pieces(&room, &asked.cuts).iter().map(|piece| piece.len()).collect();
    let (outputs, len) = disk.bench.request(&pieces(input, &asked.cuts), &writable);
    let mut written = outputs.concat();
    let status = written.pop().unwrap();
    let len = len as usize;
    assert!(status <= if has_zones { S_ZONE_ACTIVE_RESOURCE } else { S_UNSUPP }, "status {status}");
    assert!((1..=asked.room + 1).contains(&len), "length {len} of {}", asked.room + 1);
    if status != S_OK {
        assert_eq!(len, 1, "status {status}");
        assert!(written.iter().all(|&byte| byte == UNTOUCHED), "status {status}");
    }
}

/// What the zones are, which is what it may be; behind the write pointers nothing can be read.
fn check_zones(disk: &mut Disk) {
    let (report, status, _) = disk.request(T_ZONE_REPORT, 0, &[], 64 + 64 * ZONES as usize);
    assert_eq!(status, S_OK);
    let zones = report[64..].chunks_exact(64).map(|zone| ZoneDescriptor::read_from_bytes(zone).unwrap());
    let zones: Vec<ZoneDescriptor> = zones.collect();
    let count = |states: &[u8]| zones.iter().filter(|zone| states.contains(&zone.state)).count();
    assert!(count(&[ZS_IOPEN, ZS_EOPEN]) <= MAX_OPEN, "{zones:?}");
    assert!(count(&[ZS_IOPEN, ZS_EOPEN, ZS_CLOSED]) <= MAX_OPEN, "{zones:?}");
    for (nth, zone) in (0..).zip(&zones) {
        let (start, pointer) = (zone.start.get(), zone.write_pointer.get());
        assert_eq!(start, nth * ZONE);
        let from = match zone.state {
            ZS_NOT_WP => {
                assert_eq!(nth, 0);
                continue;
            }
            ZS_FULL => start + CAPACITY,
            ZS_EMPTY => {
                assert_eq!(pointer, start);
                start
            }
            ZS_IOPEN | ZS_EOPEN | ZS_CLOSED => pointer,
            other => panic!("zone {nth} is in state {other}"),
        };
        assert!((start..=start + CAPACITY).contains(&from), "zone {nth}: {pointer}");
        let bytes = ((start + ZONE - from) * 512) as usize;
        let (rest, status, _) = disk.request(T_IN, from, &[], bytes);
        assert_eq!(status, S_OK);
        assert!(rest.iter().all(|&byte| byte == 0), "zone {nth} has data behind its pointer at {pointer}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn disk_asked_for_anything_answers_and_goes_on(
        asked in prop::collection::vec(anything(), 1..60),
        in_file in any::<bool>(),
        packed in any::<bool>(),
    ) {
        let format = if packed { Format::Packed } else { Format::Split };
        let mut disk = if in_file {
            Disk::file_agreed(format, BlkOptions::default(), ALL)
        } else {
            Disk::open(&BlkOptions { ram: Some(SIZE as u64), ..BlkOptions::default() }, None, format, ALL)
        };
        for asked in &asked {
            ask(&mut disk, asked, false);
        }
        let (_, status, len) = disk.request(T_IN, 0, &[], SIZE);
        prop_assert_eq!((status, len as usize), (S_OK, SIZE + 1));
        if disk.image.is_some() {
            prop_assert_eq!(disk.image().metadata().unwrap().len(), SIZE as u64);
        }
    }

    #[test]
    fn zones_asked_for_anything_stay_what_zones_may_be(
        asked in prop::collection::vec(anything(), 1..60),
        packed in any::<bool>(),
    ) {
        let options = BlkOptions {
            ram: Some(SECTORS * 512),
            zoned: Some(ZONE * 512),
            zone_capacity: Some(CAPACITY * 512),
            zone_conventional: 1,
            zone_max_open: MAX_OPEN as u32,
            zone_max_active: MAX_OPEN as u32,
            ..BlkOptions::default()
        };
        let format = if packed { Format::Packed } else { Format::Split };
        let mut disk = Disk::open(&options, None, format, ALL);
        for asked in &asked {
            ask(&mut disk, asked, true);
            check_zones(&mut disk);
        }
    }
}
