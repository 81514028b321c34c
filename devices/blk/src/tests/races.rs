//! The size of the disk changes while several queues use it.

use std::sync::atomic::{AtomicBool, Ordering};

use outboard_device::defs::blk::{Config, S_IOERR, S_OK, T_IN, T_OUT, T_WRITE_ZEROES};
use outboard_device::serde_json::json;
use zerocopy::FromBytes;

use super::*;

/// The two sizes, in sectors.
const SMALL: u64 = 64;
const LARGE: u64 = 192;
const QUEUES: u16 = 3;
const ROUNDS: usize = 400;

/// Requests around both ends of the disk: within the small one they succeed, beyond the large one they fail, and in
/// between it is one of the two.
fn use_disk(bench: &mut Bench<BlkHandler>, seed: u64, is_over: &AtomicBool) {
    let mut state = seed;
    while !is_over.load(Ordering::Relaxed) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let sector = (state >> 33) % (LARGE + 16);
        let sectors = (state >> 25) % 16 + 1;
        let bytes = sectors as usize * 512;
        let range = ranges(&[(sector, sectors as u32, 0)]);
        let (kind, data, room) = match state >> 61 {
            0..4 => (T_IN, vec![], bytes),
            4..7 => (T_OUT, vec![1; bytes], 0),
            _ => (T_WRITE_ZEROES, range, 0),
        };
        let (mut outputs, _) = bench.request(&[&header(kind, sector), &data], &[room, 1]);
        let status = outputs.pop().unwrap()[0];
        match sector + sectors {
            end if end <= SMALL => assert_eq!(status, S_OK, "{kind} {sector}+{sectors}"),
            end if end > LARGE => assert_eq!(status, S_IOERR, "{kind} {sector}+{sectors}"),
            _ => assert!(status == S_OK || status == S_IOERR),
        }
    }
}

#[test]
fn disk_that_changes_its_size_under_several_queues_is_of_one_size_or_the_other() {
    for format in FORMATS {
        let mut disk = Disk::file(format);
        disk.image().set_len(LARGE * 512).unwrap();
        disk.device.refresh().unwrap();
        let setup = Setup { indirect: true, ..Setup::new(format) };
        let handlers: Vec<_> =
            (0..QUEUES).map(|at| disk.device.handler(Group(at), AGREED).unwrap()).collect();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (handler, seed) in handlers.into_iter().zip(1..) {
                let is_over = &is_over;
                scope.spawn(move || use_disk(&mut Bench::with(handler, &setup), seed, is_over));
            }
            for round in 0..ROUNDS {
                let sectors = if round % 2 == 0 { SMALL } else { LARGE };
                let arguments = json!({ "size": sectors * 512, "shrink": true });
                disk.device.control("resize", &arguments).unwrap();
                let shown = Config::read_from_bytes(disk.device.config()).unwrap().capacity.get();
                // A write that was admitted before may bring cut-off sectors back; never more than there were.
                assert!((sectors..=LARGE).contains(&shown), "{shown}");
                assert!(disk.image().metadata().unwrap().len() <= LARGE * 512);
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}
