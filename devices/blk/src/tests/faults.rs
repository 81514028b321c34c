//! A host that fails, is slow to finish, or is not what it was.

use outboard_device::HostOp;
use outboard_device::defs::blk::{S_IOERR, S_OK, S_UNSUPP, T_DISCARD, T_FLUSH, T_IN, T_OUT, T_WRITE_ZEROES};
use outboard_device::testing::Fault;

use super::*;

#[test]
fn transfer_cut_short_goes_on_where_it_stopped() {
    for format in FORMATS {
        for cut in [1, 511, 512, 700, 4095] {
            let mut disk = Disk::file(format);
            disk.bench.inject(0, Fault::Short(cut));
            disk.bench.inject(1, Fault::Short(3));
            assert_eq!(disk.read(5, 4096), pattern(5 * 512, 4096));
            disk.bench.inject(0, Fault::Short(cut));
            assert_eq!(disk.write(5, &[0x3c; 4096]), S_OK);
            assert_eq!(disk.read(5, 4096), [0x3c; 4096]);
            assert_eq!(disk.bench.operations().len(), if cut == 4095 { 5 } else { 6 });
        }
    }
}

#[test]
fn operation_that_fails_is_an_error_for_the_guest() {
    for format in FORMATS {
        let requests: [(u32, Vec<u8>, usize); 5] = [
            (T_IN, vec![], 512),
            (T_OUT, vec![1; 512], 0),
            (T_FLUSH, vec![], 0),
            (T_DISCARD, ranges(&[(0, 1, 0)]), 0),
            (T_WRITE_ZEROES, ranges(&[(0, 1, 0)]), 0),
        ];
        for (kind, data, room) in requests {
            for errno in [libc::EIO, libc::ENOSPC, libc::ENOMEDIUM] {
                let mut disk = Disk::file(format);
                disk.bench.inject(0, Fault::Errno(errno));
                let (_, status, len) = disk.request(kind, 0, &data, room);
                assert_eq!((status, len), (S_IOERR, 1), "{kind} {errno}");
                assert_eq!(disk.read(1, 512), pattern(512, 512), "the queue goes on");
            }
        }
    }
}

#[test]
fn flush_that_failed_once_fails_from_then_on() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_OK);
        disk.bench.inject(0, Fault::Errno(libc::EIO));
        assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_IOERR);
        let operations = disk.bench.operations().len();
        assert_eq!(disk.request(T_FLUSH, 0, &[], 0).1, S_IOERR, "the host would say that all is well");
        assert_eq!(disk.bench.operations().len(), operations, "it is not asked");
        assert_eq!(disk.write(5, &[0x3c; 512]), S_OK, "to the cache");
        assert_eq!(disk.read(5, 512), [0x3c; 512]);
    }
}

#[test]
fn flush_that_overlaps_one_that_failed_fails_too() {
    let queue = outboard_device::QueueId(0);
    for format in FORMATS {
        for reversed in [true, false] {
            let mut disk = Disk::file(format);
            disk.bench.reverse(reversed);
            // The host tells only one of them.
            disk.bench.inject(0, Fault::Errno(libc::EIO));
            for _ in 0..3 {
                disk.bench.send(queue, &[&header(T_FLUSH, 0)], &[1]);
            }
            disk.bench.run();
            for _ in 0..3 {
                assert_eq!(disk.bench.receive(queue).unwrap().outputs, [[S_IOERR]]);
            }
        }
    }
}

#[test]
fn flushes_that_overlap_and_go_well_succeed() {
    let queue = outboard_device::QueueId(0);
    for format in FORMATS {
        let mut disk = Disk::file(format);
        for _ in 0..8 {
            disk.bench.send(queue, &[&header(T_FLUSH, 0)], &[1]);
        }
        disk.bench.run();
        for _ in 0..8 {
            assert_eq!(disk.bench.receive(queue).unwrap().outputs, [[S_OK]]);
        }
    }
}

#[test]
fn flush_waits_for_those_of_other_queues_and_fails_with_them() {
    for errno in [None, Some(libc::EIO)] {
        let mut disk = Disk::file(Format::Split);
        let other = disk.device.handler(Group(1), AGREED).unwrap();
        let mut other = Bench::new(other, Format::Split);
        if let Some(errno) = errno {
            other.inject(0, Fault::Errno(errno));
        }
        let queue = outboard_device::QueueId(0);
        other.send(queue, &[&header(T_FLUSH, 0)], &[1]);
        other.begin();
        disk.bench.send(queue, &[&header(T_FLUSH, 0)], &[1]);
        let bench = &mut disk.bench;
        std::thread::scope(|scope| {
            scope.spawn(|| bench.run());
            // For one that does not wait to answer by then.
            std::thread::sleep(std::time::Duration::from_millis(20));
            other.run();
        });
        let expected = if errno.is_some() { S_IOERR } else { S_OK };
        for bench in [&mut disk.bench, &mut other] {
            assert_eq!(bench.receive(queue).unwrap().outputs, [[expected]]);
        }
    }
}

#[test]
fn synchronous_write_that_ends_after_another_lost_data_fails() {
    let queue = outboard_device::QueueId(0);
    for format in FORMATS {
        let mut disk = Disk::file(format);
        disk.switch_cache(0).unwrap();
        disk.bench.inject(0, Fault::Errno(libc::EIO));
        for sector in [0, 8] {
            disk.bench.send(queue, &[&header(T_OUT, sector), &[1; 512]], &[1]);
        }
        disk.bench.run();
        for _ in 0..2 {
            assert_eq!(disk.bench.receive(queue).unwrap().outputs, [[S_IOERR]]);
        }
    }
}

#[test]
fn error_after_a_part_was_read_counts_that_part() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        disk.bench.inject(0, Fault::Short(1024));
        disk.bench.inject(1, Fault::Errno(libc::EIO));
        let (data, status, len) = disk.request(T_IN, 0, &[], 4096);
        assert_eq!((status, len), (S_IOERR, 1025));
        assert_eq!(data[..1024], pattern(0, 1024));
    }
}

#[test]
fn file_that_shrank_fails_reads_behind_its_end() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        disk.image().set_len(4096).unwrap();
        assert_eq!(disk.request(T_IN, 8, &[], 512).1, S_IOERR);
        assert_eq!(disk.request(T_IN, 7, &[], 1024).1, S_IOERR, "also when it begins before the end");
        assert_eq!(disk.read(7, 512), pattern(7 * 512, 512));
    }
}

#[test]
fn zeroes_are_made_by_the_next_best_way_where_the_host_lacks_one() {
    for format in FORMATS {
        for unmap in [0, 1] {
            let mut disk = Disk::file(format);
            for nth in 0..=unmap as usize {
                disk.bench.inject(nth, Fault::Errno(libc::EOPNOTSUPP));
            }
            disk.bench.inject(unmap as usize + 1, Fault::Short(100));
            assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(2, 4, unmap)]), 0).1, S_OK);
            let mut expected = pattern(0, SIZE);
            expected[1024..3072].fill(0);
            assert_eq!(disk.read(0, SIZE), expected);
            let written =
                disk.bench.operations().iter().filter(|op| matches!(op, HostOp::WriteZeroes { .. }));
            assert_eq!(written.count(), 2, "the rest is written after a short write");

            let before = disk.bench.operations().len();
            assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(9, 1, unmap)]), 0).1, S_OK);
            assert!(
                matches!(disk.bench.operations()[before..], [HostOp::WriteZeroes { .. }]),
                "it is remembered"
            );
        }
    }
}

#[test]
fn zeroes_that_no_way_makes_fail() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        disk.bench.inject(0, Fault::Errno(libc::EINVAL));
        disk.bench.inject(1, Fault::Errno(libc::EOPNOTSUPP));
        assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(2, 4, 0)]), 0).1, S_IOERR);
        disk.bench.inject(0, Fault::Errno(libc::ENOSYS));
        disk.bench.inject(1, Fault::Short(0));
        assert_eq!(disk.request(T_WRITE_ZEROES, 0, &ranges(&[(2, 4, 0)]), 0).1, S_IOERR);
    }
}

#[test]
fn discard_the_host_turns_out_not_to_know_is_unsupported() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        disk.bench.inject(0, Fault::Errno(libc::EOPNOTSUPP));
        assert_eq!(disk.request(T_DISCARD, 0, &ranges(&[(0, 8, 0)]), 0).1, S_UNSUPP);
    }
}

#[test]
fn write_under_way_when_the_cache_is_switched_off_is_made_stable() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        let queue = outboard_device::QueueId(0);
        disk.bench.inject(0, Fault::Short(512));
        disk.bench.send(queue, &[&header(T_OUT, 0), &[1; 512]], &[1]);
        disk.bench.begin();
        disk.switch_cache(0).unwrap();
        disk.bench.run();
        assert_eq!(disk.bench.receive(queue).unwrap().outputs, [[S_OK]]);
        assert!(matches!(disk.bench.operations(), [HostOp::WriteAt { .. }, HostOp::Sync { .. }]));
    }
}
