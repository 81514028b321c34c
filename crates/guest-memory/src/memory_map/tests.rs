//! Tables of every shape, and translation against a byte-by-byte model.

use proptest::prelude::*;

use super::*;
use crate::memfd;

const MIB: u64 = 1 << 20;

/// A file whose bytes tell where they are.
fn file(size: u64) -> OwnedFd {
    let fd = memfd("map-test", size).unwrap();
    let bytes: Vec<u8> = (0..size).map(byte_at).collect();
    rustix::io::pwrite(&fd, &bytes, 0).unwrap();
    fd
}

fn byte_at(offset: u64) -> u8 {
    (offset % 251) as u8
}

fn region(gpa: u64, size: u64, mmap_offset: u64) -> Region {
    // As OpenVMM does it: another address space, far away.
    Region { gpa, size, user_addr: gpa.wrapping_add(1 << 52), mmap_offset }
}

fn table(regions: &[Region]) -> Result<MemoryMap, MemoryError> {
    let end = regions.iter().map(|region| region.mmap_offset.saturating_add(region.size)).max().unwrap_or(0);
    let fd = file(end.min(MIB));
    MemoryMap::from_table(regions.iter().map(|region| (*region, fd.try_clone().unwrap())).collect())
}

fn pieces(map: &MemoryMap, gpa: u64, len: u64) -> Result<Vec<(u64, usize)>, MemoryError> {
    let mut pieces = Vec::new();
    map.pieces(gpa, len, |piece| pieces.push((piece.gpa(), piece.len())))?;
    Ok(pieces)
}

#[test]
fn empty_map_translates_nothing() {
    let map = MemoryMap::empty();
    assert!(map.is_empty() && map.log().is_none());
    assert_eq!(pieces(&map, 0, 1), Err(MemoryError::Unmapped { gpa: 0, len: 1 }));
    assert_eq!(map.segment(0, 0).unwrap_err(), MemoryError::Unmapped { gpa: 0, len: 0 });
    assert_eq!(map.host_of_user(0, 1).unwrap_err(), MemoryError::UserUnmapped { addr: 0, len: 1 });
    assert!(MemoryMap::from_table(Vec::new()).unwrap().is_empty());
}

#[test]
fn table_in_any_order_is_sorted_and_sees_its_file() {
    let regions = [region(0x9000, 0x1000, 0x3000), region(0, 0x2001, 17), region(1 << 50, 99, 0x3000)];
    let map = table(&regions).unwrap();
    assert_eq!(map.regions().collect::<Vec<_>>(), [regions[1], regions[0], regions[2]]);
    for region in regions {
        let mut got = vec![0; region.size as usize];
        map.read_into(region.gpa, &mut got).unwrap();
        let expected: Vec<u8> = (0..region.size).map(|at| byte_at(region.mmap_offset + at)).collect();
        assert_eq!(got, expected);
        let user = map.host_of_user(region.user_addr, region.size).unwrap();
        assert_eq!(user.piece(), map.piece(region.gpa, region.size).unwrap());
    }
}

#[test]
fn identity_and_high_addresses_map() {
    let high = 0x7fff_1234_5000;
    let identity = Region { gpa: high, size: 0x1000, user_addr: high, mmap_offset: 0 };
    let top = Region { gpa: u64::MAX - 0xfff, size: 0x1000, user_addr: u64::MAX - 0xfff, mmap_offset: 0 };
    let map = table(&[top, identity]).unwrap();
    assert_eq!(pieces(&map, high + 1, 0xfff), Ok(vec![(high + 1, 0xfff)]));
    assert_eq!(pieces(&map, u64::MAX, 1), Ok(vec![(u64::MAX, 1)]));
    assert_eq!(map.piece(top.gpa, 0x1000).unwrap(), map.host_of_user(top.gpa, 0x1000).unwrap().piece());
}

#[test]
fn table_of_overlapping_guest_addresses_is_refused() {
    let second = |gpa, size| Region { gpa, size, user_addr: 1 << 40, mmap_offset: 0 };
    for (gpa, size) in [(0x1000, 0x1000), (0x1fff, 1), (0xfff, 2), (0, 0x4000), (0x1800, 0x10)] {
        for order in [[0, 1], [1, 0]] {
            let regions = order.map(|index| [region(0x1000, 0x1000, 0), second(gpa, size)][index]);
            let refused = table(&regions).unwrap_err();
            assert!(matches!(refused, MemoryError::GuestOverlap { .. }), "{gpa:#x} {size:#x}: {refused:?}");
        }
    }
    assert!(table(&[region(0x1000, 0x1000, 0), second(0x2000, 1)]).is_ok());
    assert!(table(&[region(0x1000, 0x1000, 0), second(0xfff, 1)]).is_ok());
}

#[test]
fn table_of_overlapping_front_end_addresses_is_refused() {
    let at = |gpa, user_addr| Region { gpa, size: 0x1000, user_addr, mmap_offset: 0 };
    let refused = table(&[at(0, 0x5000), at(0x1000, 0x5fff)]).unwrap_err();
    assert_eq!(refused, MemoryError::UserOverlap { user_addr: 0x5fff, size: 0x1000 });
    assert!(table(&[at(0, 0x5000), at(0x1000, 0x6000)]).is_ok());
}

#[test]
fn table_with_overflow_in_any_space_is_refused() {
    let fine = Region { gpa: 0, size: 0x1000, user_addr: 0, mmap_offset: 0 };
    let start = u64::MAX - 0xffe;
    let overflow = MemoryError::Overflow { start, len: 0x1000 };
    assert_eq!(table(&[Region { gpa: start, ..fine }]).unwrap_err(), overflow);
    assert_eq!(table(&[Region { user_addr: start, ..fine }]).unwrap_err(), overflow);
    assert_eq!(table(&[Region { mmap_offset: start, ..fine }]).unwrap_err(), overflow);
    let all = Region { size: u64::MAX, ..fine };
    assert!(matches!(table(&[all]).unwrap_err(), MemoryError::ShortFile { .. }));
    assert_eq!(table(&[Region { size: 0, ..fine }]).unwrap_err(), MemoryError::Empty);
}

#[test]
fn table_over_short_file_is_refused() {
    let regions = vec![(region(0, 4096, 0), file(4096)), (region(4096, 4096, 1), file(4096))];
    let refused = MemoryMap::from_table(regions).unwrap_err();
    assert_eq!(refused, MemoryError::ShortFile { offset: 1, size: 4096, actual: 4096 });
}

#[test]
fn table_of_all_slots_maps_and_one_more_is_refused() {
    let regions: Vec<Region> =
        (0..MAX_SLOTS as u64).map(|i| region(i * 0x2000, 0x1000, (i % 16) * 0x1000)).collect();
    let map = table(&regions).unwrap();
    assert_eq!(map.len(), 509);
    for region in &regions {
        assert_eq!(pieces(&map, region.gpa, 0x1000), Ok(vec![(region.gpa, 0x1000)]));
        assert!(pieces(&map, region.gpa, 0x1001).is_err());
    }
    let more = region(1 << 40, 0x1000, 0);
    let refused = MemoryError::TooManyRegions { count: 510, limit: 509 };
    assert_eq!(map.with_region(more, file(0x1000)).unwrap_err(), refused);
    assert_eq!(table(&[&regions[..], &[more]].concat()).unwrap_err(), refused);
    assert!(map.without_region(&regions[7]).unwrap().with_region(more, file(0x1000)).is_ok());
}

#[test]
fn refused_change_leaves_the_old_map_in_force() {
    let first = region(0x1000, 0x1000, 0);
    let map = table(&[first]).unwrap();
    let clone = map.clone();
    assert!(map.with_region(first, file(0x1000)).is_err());
    assert!(map.with_region(region(0x2000, 0x1001, 0), file(0x1000)).is_err());
    assert!(map.without_region(&region(0x2000, 0x1000, 0)).is_err());
    assert!(map.same_as(&clone));
    assert_eq!(map.regions().collect::<Vec<_>>(), [first]);
    assert_eq!(pieces(&map, 0x1000, 0x1000), Ok(vec![(0x1000, 0x1000)]));
}

#[test]
fn added_region_joins_and_shares_the_rest() {
    let map = table(&[region(0x1000, 0x1000, 0)]).unwrap();
    let more = map.with_region(region(0, 0x1000, 0), file(0x1000)).unwrap();
    assert!(!more.same_as(&map));
    assert_eq!(pieces(&more, 0xff0, 0x20), Ok(vec![(0xff0, 0x10), (0x1000, 0x10)]));
    assert!(pieces(&map, 0xff0, 0x20).is_err());
    let at = |map: &MemoryMap| map.segment(0x1000, 1).unwrap().as_ptr();
    assert_eq!(at(&map), at(&more));
}

#[test]
fn removed_region_is_gone_only_in_the_new_map() {
    let regions = [region(0, 0x1000, 0), region(0x1000, 0x1000, 0x1000)];
    let map = table(&regions).unwrap();
    // The offset is not part of the match (vhost-user: REM_MEM_REG).
    let less = map.without_region(&Region { mmap_offset: 99, ..regions[0] }).unwrap();
    assert_eq!(less.regions().collect::<Vec<_>>(), regions[1..]);
    assert!(less.host_of_user(regions[0].user_addr, 1).is_err());
    let mut byte = [0];
    map.read_into(1, &mut byte).unwrap();
    assert_eq!(byte[0], byte_at(1));
    assert!(less.without_region(&regions[1]).unwrap().is_empty());
}

#[test]
fn removal_of_unknown_region_is_refused() {
    let known = region(0x1000, 0x1000, 0);
    let map = table(&[known]).unwrap();
    for unknown in [
        Region { gpa: 0, ..known },
        Region { size: 0xfff, ..known },
        Region { user_addr: known.user_addr + 1, ..known },
    ] {
        let Region { gpa, size, user_addr, .. } = unknown;
        let refused = map.without_region(&unknown).unwrap_err();
        assert_eq!(refused, MemoryError::UnknownRegion { gpa, user_addr, size });
    }
}

#[test]
fn log_set_is_in_the_new_map_only_and_survives_changes_of_the_table() {
    let map = table(&[region(0, 0x1000, 0)]).unwrap();
    let (log, _fd) = DirtyLog::create(8).unwrap();
    let logged = map.with_log(Some(log));
    assert!(map.log().is_none() && logged.log().is_some());
    assert!(!logged.same_as(&map));
    let more = logged.with_region(region(0x1000, 0x1000, 0), file(0x1000)).unwrap();
    assert!(more.log().is_some());
    assert!(more.without_region(&region(0, 0x1000, 0)).unwrap().log().is_some());
    assert!(more.with_log(None).log().is_none());
    assert_eq!(logged.piece(0, 1), map.piece(0, 1));
}

#[test]
fn range_of_length_zero_is_nothing_anywhere() {
    let map = table(&[region(0x1000, 0x1000, 0)]).unwrap();
    for gpa in [0, 0xfff, 0x1000, 0x1800, 0x2000, 0x9000, u64::MAX] {
        assert_eq!(pieces(&map, gpa, 0), Ok(vec![]));
    }
    assert!(map.segment(0x1800, 0).unwrap().is_empty());
}

#[test]
fn range_into_a_hole_or_past_the_end_of_addresses_is_refused() {
    let map = table(&[region(0x1000, 0x1000, 0), region(0x3000, 0x1000, 0)]).unwrap();
    for (gpa, len) in [(0, 1), (0xfff, 2), (0x1fff, 2), (0x1000, 0x3000), (0x2fff, 2), (0x3fff, 2)] {
        assert_eq!(pieces(&map, gpa, len), Err(MemoryError::Unmapped { gpa, len }));
        assert_eq!(map.segment(gpa, len).unwrap_err(), MemoryError::Unmapped { gpa, len });
    }
    for (start, len) in [(0x1000, u64::MAX), (u64::MAX, 2), (u64::MAX - 1, u64::MAX)] {
        assert_eq!(pieces(&map, start, len), Err(MemoryError::Overflow { start, len }));
    }
}

#[test]
fn range_over_adjacent_regions_splits_but_is_no_one_segment() {
    let map = table(&[region(0, 0x10, 0), region(0x10, 0x10, 0x100), region(0x20, 0x10, 0x50)]).unwrap();
    assert_eq!(pieces(&map, 8, 0x20), Ok(vec![(8, 8), (0x10, 0x10), (0x20, 8)]));
    assert_eq!(map.segment(8, 9).unwrap_err(), MemoryError::NotContiguous { gpa: 8, len: 9 });
    assert_eq!(map.segment(8, 8).unwrap().len(), 8);
    map.write_from(0xe, b"abcd").unwrap();
    let mut got = [0; 6];
    map.read_into(0xd, &mut got).unwrap();
    assert_eq!(got, [byte_at(0xd), b'a', b'b', b'c', b'd', byte_at(0x102)]);
}

#[test]
fn front_end_range_over_two_regions_is_refused() {
    let map = table(&[region(0, 0x10, 0), region(0x10, 0x10, 0x10)]).unwrap();
    let addr = 1 << 52;
    assert_eq!(map.host_of_user(addr, 0x10).unwrap().gpa(), 0);
    for (addr, len) in [(addr, 0x11), (addr - 1, 2), (addr + 0x1f, 2), (addr + 1, u64::MAX), (u64::MAX, 1)] {
        assert_eq!(map.host_of_user(addr, len).unwrap_err(), MemoryError::UserUnmapped { addr, len });
    }
}

#[test]
fn region_around_an_address_translates_all_of_it_and_nothing_else() {
    let map = table(&[region(0x100, 0x10, 0), region(0x110, 0x10, 0x10)]).unwrap();
    assert!(map.region_around(0xff).is_none() && map.region_around(0x120).is_none());
    assert!(MemoryMap::empty().region_around(0).is_none());
    let first = map.region_around(0x10f).unwrap();
    assert_eq!((first.gpa(), first.len()), (0x100, 0x10));
    for (gpa, len) in [(0x100, 0x10), (0x10f, 1), (0x105, 0), (0x110, 0)] {
        let piece = first.at(gpa, len).unwrap();
        assert_eq!((piece.gpa(), piece.len() as u64), (gpa, len));
        assert_eq!(piece.as_ptr().addr() - first.as_ptr().addr(), (gpa - 0x100) as usize);
    }
    for (gpa, len) in [(0xff, 1), (0x100, 0x11), (0x10f, 2), (0x110, 1), (0x105, u64::MAX), (u64::MAX, 2)] {
        assert!(first.at(gpa, len).is_none(), "{gpa:#x} + {len:#x}");
    }
}

#[test]
fn guest_address_is_the_way_back_from_every_byte() {
    let map = table(&[region(0x100, 0x10, 0), region(0x200, 0x10, 0)]).unwrap();
    for gpa in [0x100, 0x10f, 0x200, 0x20f] {
        assert_eq!(map.guest_address(map.piece(gpa, 1).unwrap().as_ptr()), Some(gpa));
    }
    let end = map.piece(0x10f, 1).unwrap().as_ptr().wrapping_add(1);
    assert_eq!(map.guest_address(end), None);
    assert_eq!(map.guest_address(std::ptr::null()), None);
}

/// Regions as gaps and sizes, so that most neighbours are adjacent or nearly so; in a shuffled order.
fn tables() -> impl Strategy<Value = Vec<Region>> {
    prop::collection::vec((0..4_u64, 1..40_u64, 0..9000_u64), 0..6)
        .prop_map(|shapes| {
            let mut next = 100;
            let place = |(gap, size, offset): (u64, u64, u64)| {
                let gpa = next + gap.saturating_sub(1) * 7;
                next = gpa + size;
                region(gpa, size, offset)
            };
            shapes.into_iter().map(place).collect::<Vec<_>>()
        })
        .prop_shuffle()
}

proptest! {
    #[test]
    fn pieces_agree_with_byte_by_byte_model(
        regions in tables(), asked in prop::collection::vec((80..400_u64, 0..120_u64), 1..20),
    ) {
        let map = table(&regions).unwrap();
        for (gpa, len) in asked {
            let file_offset = |gpa: u64| {
                let inside = |region: &&Region| region.gpa <= gpa && gpa - region.gpa < region.size;
                regions.iter().find(inside).map(|region| gpa - region.gpa + region.mmap_offset)
            };
            let model: Option<Vec<u8>> = (gpa..gpa + len).map(|at| file_offset(at).map(byte_at)).collect();

            let mut got = Vec::new();
            let mut at = gpa;
            let mut borders = Vec::new();
            let result = map.pieces(gpa, len, |piece| {
                assert_eq!(piece.gpa(), at);
                assert!(!piece.is_empty());
                borders.push(at);
                at += piece.len() as u64;
                let mut bytes = vec![0; piece.len()];
                map.segment(piece.gpa(), piece.len() as u64).unwrap().read_into(0, &mut bytes).unwrap();
                got.extend(bytes);
            });
            prop_assert_eq!(result.is_ok().then_some(&got), model.as_ref());
            prop_assert!(result.is_ok() || got.is_empty());
            // Splits where regions begin, nowhere else.
            prop_assert!(borders.iter().skip(1).all(|at| regions.iter().any(|region| region.gpa == *at)));
            let one = map.segment(gpa, len).ok().filter(|_| len > 0).map(|segment| segment.len() as u64);
            prop_assert_eq!(one, (borders.len() == 1).then_some(len));
        }
    }

    #[test]
    fn hostile_tables_and_addresses_never_panic(
        regions in prop::collection::vec(
            (any::<u64>(), prop_oneof![any::<u64>(), 0..10_000_u64], any::<u64>(), 0..10_000_u64), 0..5,
        ),
        gpa in any::<u64>(), len in any::<u64>(),
    ) {
        let region = |(gpa, size, user_addr, mmap_offset)| Region { gpa, size, user_addr, mmap_offset };
        let map = table(&regions.into_iter().map(region).collect::<Vec<_>>()).unwrap_or(MemoryMap::empty());
        let mut total = 0;
        if map.pieces(gpa, len, |piece| total += piece.len() as u64).is_ok() {
            prop_assert_eq!(total, len);
        }
        let _ = (map.segment(gpa, len), map.host_of_user(gpa, len));
    }
}
