//! Guests that break the rules of the block device, or of the ring below it.

use outboard_device::QueueId;
use outboard_device::defs::blk::{S_IOERR, T_FLUSH, T_IN, T_OUT};
use outboard_device::testing::{Descriptor, UNTOUCHED};

use super::*;

#[test]
fn request_without_room_for_a_status_returns_with_length_zero() {
    Disk::each(|disk| {
        assert_eq!(disk.bench.request(&[&header(T_OUT, 0), &[0; 512]], &[]), (vec![], 0));
        assert_eq!(disk.bench.request(&[&header(T_IN, 0)], &[]), (vec![], 0));
        assert_eq!(disk.read(0, 512), pattern(0, 512));
    });
}

#[test]
fn header_missing_or_cut_short_fails() {
    Disk::each(|disk| {
        assert_eq!(disk.bench.request(&[], &[1]), (vec![vec![S_IOERR]], 1));
        assert_eq!(disk.bench.request(&[], &[512, 1]), (vec![vec![UNTOUCHED; 512], vec![S_IOERR]], 1));
        for len in 1..16 {
            assert_eq!(disk.bench.request(&[&header(T_FLUSH, 0)[..len]], &[1]), (vec![vec![S_IOERR]], 1));
        }
    });
}

#[test]
fn data_on_the_wrong_side_is_ignored() {
    Disk::each(|disk| {
        let (outputs, len) = disk.bench.request(&[&header(T_IN, 0), &[1; 700]], &[512, 1]);
        assert_eq!((outputs[0].clone(), len), (pattern(0, 512), 513));
        let (outputs, len) = disk.bench.request(&[&header(T_OUT, 0), &[1; 512]], &[700, 1]);
        assert_eq!((outputs[0].clone(), outputs[1].clone(), len), (vec![UNTOUCHED; 700], vec![0], 1));
    });
}

#[test]
fn request_of_nearly_four_gibibytes_moves_nothing() {
    for format in FORMATS {
        let mut disk = Disk::ram(format);
        let head = disk.bench.place(&header(T_IN, 0));
        let room = disk.bench.place(&[0; 4096]);
        let mut descriptors = vec![Descriptor { addr: head.gpa, len: head.len, flags: 1, link: 1 }];
        descriptors.extend((0..16).map(|at| Descriptor {
            addr: room.gpa,
            len: 4096,
            flags: 1 | 2,
            link: at + 2,
        }));
        descriptors.push(Descriptor { addr: room.gpa, len: 1, flags: 2, link: 0 });
        disk.bench.send_raw(QueueId(0), &descriptors);
        disk.bench.run();
        assert_eq!(disk.bench.receive(QueueId(0)).unwrap().len as usize, SIZE + 1, "one page over and over");

        let huge = Descriptor { addr: room.gpa, len: u32::MAX, flags: 2, link: 0 };
        let head = Descriptor { addr: head.gpa, len: 16, flags: 1, link: 1 };
        disk.bench.send_raw(QueueId(0), &[head, huge]);
        disk.bench.run();
        assert!(disk.bench.fault(QueueId(0)).is_some(), "memory that is not there stops the ring");
    }
}

#[test]
fn ring_that_faults_while_requests_are_out_lets_them_finish() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        disk.bench.send(QueueId(0), &[&header(T_IN, 0)], &[512, 1]);
        disk.bench.send_raw(QueueId(0), &[Descriptor { addr: 1 << 60, len: 16, flags: 0, link: 0 }]);
        disk.bench.run();
        assert!(disk.bench.fault(QueueId(0)).is_some());
        assert_eq!(disk.bench.receive(QueueId(0)).unwrap().outputs[0], pattern(0, 512));
    }
}
