//! What each request does, on every host and ring format.

use outboard_device::testing::UNTOUCHED;
use outboard_device::{Durability, HostOp};

use super::*;
use outboard_device::defs::blk::{
    S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT, T_WRITE_ZEROES,
};

#[test]
fn read_gives_what_the_disk_holds() {
    Disk::each(|disk| {
        assert_eq!(disk.read(0, 512), pattern(0, 512));
        assert_eq!(disk.read(7, 4096), pattern(7 * 512, 4096));
        assert_eq!(disk.read(0, SIZE), pattern(0, SIZE));
        assert_eq!(disk.read(127, 512), pattern(127 * 512, 512));
    });
}

#[test]
fn write_is_read_back_and_touches_nothing_else() {
    Disk::each(|disk| {
        assert_eq!(disk.write(3, &[0xee; 1024]), S_OK);
        let mut expected = pattern(0, SIZE);
        expected[3 * 512..5 * 512].fill(0xee);
        assert_eq!(disk.read(0, SIZE), expected);
    });
}

#[test]
fn transfer_of_nothing_succeeds() {
    Disk::each(|disk| {
        assert!(disk.read(0, 0).is_empty());
        assert!(disk.read(128, 0).is_empty(), "behind the last sector");
        assert_eq!(disk.write(128, &[]), S_OK);
        assert_eq!(disk.request(T_IN, 129, &[], 0).1, S_IOERR);
    });
}

#[test]
fn buffers_of_any_cut_make_the_same_request() {
    Disk::each(|disk| {
        let bytes = [header(T_OUT, 2), vec![0x77; 1024]].concat();
        let cuts: Vec<&[u8]> = vec![&bytes[..1], &bytes[1..9], &bytes[9..17], &bytes[17..530], &bytes[530..]];
        assert_eq!(disk.bench.request(&cuts, &[1]), (vec![vec![S_OK]], 1));
        let bytes = header(T_IN, 2);
        let cuts: Vec<&[u8]> = bytes.chunks(3).collect();
        let (outputs, len) = disk.bench.request(&cuts, &[1, 510, 2, 511, 1]);
        assert_eq!(len, 1025);
        let mut data = outputs.concat();
        assert_eq!(data.pop(), Some(S_OK), "the status is the last byte, wherever it is");
        assert_eq!(data, vec![0x77; 1024]);
    });
}

#[test]
fn status_within_the_data_buffer_is_its_last_byte() {
    Disk::each(|disk| {
        let (outputs, len) = disk.bench.request(&[&header(T_IN, 0)], &[513]);
        assert_eq!(len, 513);
        assert_eq!(outputs[0], [pattern(0, 512), vec![S_OK]].concat());
    });
}

#[test]
fn get_id_gives_twenty_bytes_or_what_there_is_room_for() {
    for format in FORMATS {
        let options = BlkOptions { serial: Some("SN-0042".into()), ..BlkOptions::default() };
        let mut disk = Disk::file_with(format, options);
        let padded = [b"SN-0042".to_vec(), vec![0; 13]].concat();
        assert_eq!(disk.request(T_GET_ID, 0, &[], 20), (padded.clone(), S_OK, 21));
        assert_eq!(disk.request(T_GET_ID, 0, &[], 3), (b"SN-".to_vec(), S_OK, 4));
        let (data, status, len) = disk.request(T_GET_ID, 0, &[], 32);
        assert_eq!((&data[..20], status, len), (padded.as_slice(), S_OK, 21));
    }
    let mut disk = Disk::ram(Format::Split);
    assert_eq!(disk.request(T_GET_ID, 0, &[], 20), (vec![0; 20], S_OK, 21));
}

#[test]
fn flush_syncs_a_file_and_costs_a_ram_disk_nothing() {
    for format in FORMATS {
        let mut file = Disk::file(format);
        assert_eq!(file.request(T_FLUSH, 0, &[], 0).1, S_OK);
        assert!(matches!(file.bench.operations(), [HostOp::Sync { .. }]));
        let mut ram = Disk::ram(format);
        assert_eq!(ram.request(T_FLUSH, 0, &[], 0).1, S_OK);
        assert_eq!(ram.read(0, SIZE), vec![0; SIZE]);
        assert!(ram.bench.operations().is_empty());
    }
}

#[test]
fn write_zeroes_zeroes_exactly_its_range_with_and_without_unmap() {
    Disk::each(|disk| {
        let mut expected = pattern(0, SIZE);
        for (sector, sectors, flags) in [(1, 3, 0), (40, 17, 1), (127, 1, 0), (0, 0, 0), (9, 0, 1)] {
            let (_, status, len) = disk.request(T_WRITE_ZEROES, 0, &ranges(&[(sector, sectors, flags)]), 0);
            assert_eq!((status, len), (S_OK, 1));
            let start = sector as usize * 512;
            expected[start..start + sectors as usize * 512].fill(0);
            assert!(disk.read(0, SIZE) == expected, "{sector} {sectors} {flags}");
        }
    });
}

#[test]
fn write_zeroes_of_several_ranges_zeroes_all_of_them_and_nothing_else() {
    Disk::each(|disk| {
        let data = ranges(&[(1, 3, 0), (8, 8, 1), (20, 0, 0), (40, 17, 0), (127, 1, 1)]);
        assert_eq!(disk.request(T_WRITE_ZEROES, 0, &data, 0), (vec![], S_OK, 1));
        let mut expected = pattern(0, SIZE);
        for (sector, sectors) in [(1, 3), (8, 8), (40, 17), (127, 1)] {
            expected[sector * 512..(sector + sectors) * 512].fill(0);
        }
        assert!(disk.read(0, SIZE) == expected);
    });
}

#[test]
fn write_zeroes_with_a_bad_range_among_good_ones_fails_and_touches_only_those_before() {
    Disk::each(|disk| {
        let data = ranges(&[(0, 8, 0), (128, 1, 0), (16, 8, 0)]);
        assert_eq!(disk.request(T_WRITE_ZEROES, 0, &data, 0).1, S_IOERR);
        assert!(disk.read(8, SIZE - 8 * 512) == pattern(8 * 512, SIZE - 8 * 512));
    });
}

#[test]
fn long_ranges_are_given_to_the_host_in_pieces() {
    for format in FORMATS {
        let large = BlkOptions { ram: Some(256 << 20), ..BlkOptions::default() };
        let mut disk = Disk::open(&large, None, format, AGREED);
        let sectors = 160 << 11;
        assert_eq!(disk.write(sectors - 8, &[7; 8192]), S_OK);
        assert_eq!(disk.request(T_DISCARD, 0, &ranges(&[(0, sectors as u32, 0)]), 0).1, S_OK);
        let pieces: Vec<_> = disk
            .bench
            .operations()
            .iter()
            .map(|op| match *op {
                HostOp::Allocate { offset, len, .. } => (offset >> 20, len >> 20),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(pieces, [(0, 64), (64, 64), (128, 32)]);
        assert_eq!(disk.read(sectors - 8, 8192), [[0; 4096], [7; 4096]].concat());
        assert_eq!(disk.write(sectors - 8, &[7; 8192]), S_OK);
        let zeroes = ranges(&[(sectors - 4096, 4096, 0), (0, 8, 0)]);
        assert_eq!(disk.request(T_WRITE_ZEROES, 0, &zeroes, 0).1, S_OK);
        assert_eq!(disk.read(sectors - 8, 8192), [[0; 4096], [7; 4096]].concat());
        assert_eq!(disk.bench.operations().len(), 3 + 32, "2 MiB in pieces, a page on the spot");
    }
}

#[test]
fn discard_of_several_ranges_leaves_the_rest_alone() {
    Disk::each(|disk| {
        let data = ranges(&[(0, 8, 0), (16, 0, 0), (64, 16, 0), (120, 8, 0)]);
        assert_eq!(disk.request(T_DISCARD, 0, &data, 0).1, S_OK);
        let left = disk.read(0, SIZE);
        let expected = pattern(0, SIZE);
        for kept in [8 * 512..64 * 512, 80 * 512..120 * 512] {
            assert_eq!(left[kept.clone()], expected[kept]);
        }
        assert!(left[64 * 512..80 * 512].iter().all(|&byte| byte == 0), "both hosts make holes");
    });
}

#[test]
fn requests_that_cannot_be_end_with_the_status_the_specification_asks_for() {
    type Case = (&'static str, u32, u64, Vec<u8>, usize, u8);
    let cases: &[Case] = &[
        ("read behind the end", T_IN, 127, vec![], 1024, S_IOERR),
        ("read far behind the end", T_IN, u64::MAX, vec![], 512, S_IOERR),
        ("read whose end overflows", T_IN, u64::MAX / 512, vec![], 512, S_IOERR),
        ("read of half a sector", T_IN, 0, vec![], 256, S_IOERR),
        ("write behind the end", T_OUT, 128, vec![1; 512], 0, S_IOERR),
        ("write of a sector and a half", T_OUT, 0, vec![1; 768], 0, S_IOERR),
        ("unknown kind", 3, 0, vec![], 0, S_UNSUPP),
        ("lifetime", 10, 0, vec![], 512, S_UNSUPP),
        ("zone report", 16, 0, vec![], 512, S_UNSUPP),
        ("barrier of old", 0x8000_0000, 0, vec![], 0, S_UNSUPP),
        ("discard without range", T_DISCARD, 0, vec![], 0, S_IOERR),
        ("discard of a range cut short", T_DISCARD, 0, ranges(&[(0, 1, 0)])[..15].to_vec(), 0, S_IOERR),
        ("discard with unmap", T_DISCARD, 0, ranges(&[(0, 1, 1)]), 0, S_UNSUPP),
        ("discard with unknown flag", T_DISCARD, 0, ranges(&[(0, 1, 0x8000_0000)]), 0, S_UNSUPP),
        ("discard behind the end", T_DISCARD, 0, ranges(&[(128, 1, 0)]), 0, S_IOERR),
        ("discard of too much", T_DISCARD, 0, ranges(&[(0, u32::MAX, 0)]), 0, S_IOERR),
        ("discard of too many ranges", T_DISCARD, 0, ranges(&[(0, 1, 0); 17]), 0, S_IOERR),
        ("zeroes with unknown flag", T_WRITE_ZEROES, 0, ranges(&[(0, 1, 2)]), 0, S_UNSUPP),
        ("zeroes behind the end", T_WRITE_ZEROES, 0, ranges(&[(127, 2, 0)]), 0, S_IOERR),
        ("zeroes whose end overflows", T_WRITE_ZEROES, 0, ranges(&[(u64::MAX, 1, 0)]), 0, S_IOERR),
        ("zeroes in too many ranges", T_WRITE_ZEROES, 0, ranges(&[(0, 1, 0); 17]), 0, S_IOERR),
    ];
    Disk::each(|disk| {
        for (what, kind, sector, data, room, expected) in cases {
            let (left, status, len) = disk.request(*kind, *sector, data, *room);
            assert_eq!((status, len), (*expected, 1), "{what}");
            assert!(left.iter().all(|&byte| byte == UNTOUCHED), "{what}");
        }
        assert!(disk.read(0, SIZE) == pattern(0, SIZE));
    });
}

#[test]
fn read_only_disk_refuses_every_change() {
    for format in FORMATS {
        let options = BlkOptions { read_only: true, ..BlkOptions::default() };
        let mut disk = Disk::file_with(format, options);
        assert_eq!(disk.write(0, &[0; 512]), S_IOERR);
        for kind in [T_DISCARD, T_WRITE_ZEROES] {
            assert_eq!(disk.request(kind, 0, &ranges(&[(0, 1, 0)]), 0).1, S_IOERR);
        }
        assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_OK);
        assert_eq!(disk.read(0, SIZE), pattern(0, SIZE));
        assert_eq!(disk.bench.operations().len(), 2);
    }
}

#[test]
fn writes_are_as_durable_as_the_cache_mode_promises() {
    let durability = |disk: &mut Disk| {
        assert_eq!(disk.write(0, &[1; 512]), S_OK);
        match disk.bench.operations().last() {
            Some(HostOp::WriteAt { durability, .. }) => *durability,
            other => panic!("{other:?}"),
        }
    };
    for format in FORMATS {
        let mut disk = Disk::file(format);
        assert_eq!(durability(&mut disk), Durability::Cached);
        disk.switch_cache(0).unwrap();
        assert_eq!(durability(&mut disk), Durability::Synchronous);
        let zeroes = ranges(&[(0, 1, 0)]);
        assert_eq!(disk.request(T_WRITE_ZEROES, 0, &zeroes, 0).1, S_OK);
        assert!(matches!(disk.bench.operations().last(), Some(HostOp::Sync { .. })), "zeroes are data");
        disk.switch_cache(1).unwrap();
        assert_eq!(durability(&mut disk), Durability::Cached);

        let options = BlkOptions { writeback: false, ..BlkOptions::default() };
        assert_eq!(durability(&mut Disk::file_with(format, options)), Durability::Synchronous);

        let mut old = Disk::file_agreed(format, BlkOptions::default(), Features(0));
        assert_eq!(durability(&mut old), Durability::Synchronous, "a driver that cannot flush");
    }
}

#[test]
fn direct_disk_bypasses_the_cache_for_what_is_aligned_only() {
    for format in FORMATS {
        let image = NamedTempFile::new_in("/var/tmp").unwrap();
        image.as_file().write_all_at(&pattern(0, SIZE), 0).unwrap();
        let options =
            BlkOptions { blk_file: Some(image.path().into()), direct: true, ..BlkOptions::default() };
        let mut disk = Disk::open(&options, Some(image), format, AGREED);
        let file_of = |disk: &Disk| disk.bench.operations().last().map(HostOp::file);
        disk.bench.align(1);
        assert_eq!(disk.read(8, 4096), pattern(4096, 4096));
        let buffered = file_of(&disk);
        assert_eq!(disk.write(8, &[9; 4096]), S_OK);
        assert_eq!(file_of(&disk), buffered);
        disk.bench.align(4096);
        assert_eq!(disk.read(8, 4096), [9; 4096], "what went through the cache is seen past it");
        assert_ne!(file_of(&disk), buffered);
        assert_eq!(disk.write(8, &[7; 8192]), S_OK);
        assert_ne!(file_of(&disk), buffered);
        disk.bench.align(1);
        assert_eq!(disk.read(8, 8192), [7; 8192], "and the other way round");
        assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_OK);
    }
}

#[test]
fn requests_in_flight_together_may_finish_in_any_order() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        disk.bench.reverse(true);
        let queue = outboard_device::QueueId(0);
        let tokens: Vec<u64> =
            (0..8).map(|sector| disk.bench.send(queue, &[&header(T_IN, sector)], &[512, 1])).collect();
        disk.bench.run();
        for sector in (0..8).rev() {
            let answer = disk.bench.receive(queue).unwrap();
            assert_eq!(answer.token, tokens[sector]);
            assert_eq!(answer.outputs, [pattern(sector * 512, 512), vec![S_OK]]);
        }
    }
}
