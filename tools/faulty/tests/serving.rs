//! Without a fault it is a back end like any other: our own front end drives it in every way that there is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::collections::BTreeSet;
use std::slice;

use outboard_frontend::drivers::{Blk, BlkOptions, Rng};
use outboard_frontend::{Error, Waiting, Wishes};
use outboard_vhost_user::Request;
use rig::{FORMATS, LONG, Program, options, pattern};

/// Each way to agree on rings.
fn all_wishes() -> Vec<Wishes> {
    let mut all = Vec::new();
    for format in FORMATS {
        for bits in 0..8_u8 {
            let has = |bit: u8| bits & (1_u8 << bit) != 0;
            let (event_idx, indirect, in_order) = (has(0), has(1), has(2));
            all.push(Wishes { format, event_idx, indirect, in_order, ..Wishes::default() });
        }
    }
    all
}

#[test]
fn disk_written_in_every_ring_format_reads_back() {
    let program = Program::start(&["--size=8M", "--serial=outboard-1"]);
    for (seed, wishes) in all_wishes().into_iter().enumerate() {
        let wishes = Wishes { device_features: BlkOptions::FEATURES, ..wishes };
        let options = BlkOptions { wishes, queues: 2, ..BlkOptions::default() };
        let mut blk = Blk::open(program.frontend(), &options).unwrap();
        assert_eq!(blk.capacity(), 16384);
        let data = pattern(seed as u64, 1 << 20);
        blk.write_at(100, &data).unwrap();
        blk.flush().unwrap();
        let mut back = vec![0; data.len()];
        blk.read_at(100, &mut back).unwrap();
        assert!(back == data, "{wishes:?}");
        blk.write_zeroes(100, 8, false).unwrap();
        blk.discard(108, 8).unwrap();
        blk.read_at(100, &mut back).unwrap();
        assert!(back[..8192].iter().all(|&byte| byte == 0) && back[8192..] == data[8192..]);
        assert_eq!(blk.serial().unwrap(), "outboard-1");
        assert!(blk.read_at(16384, &mut [0; 512]).is_err());
    }
}

#[test]
fn disk_that_is_read_only_refuses_writes() {
    let program = Program::start(&["--size=1M", "--read-only"]);
    let mut blk = Blk::open(program.frontend(), &options(FORMATS[0])).unwrap();
    assert!(blk.write_at(0, &[1; 512]).is_err());
    let mut back = [1; 512];
    blk.read_at(0, &mut back).unwrap();
    assert_eq!(back, [0; 512]);
}

#[test]
fn entropy_of_every_ring_format_differs() {
    let program = Program::start(&["--device=rng"]);
    for wishes in all_wishes() {
        let mut rng = Rng::open(program.frontend(), &wishes).unwrap();
        let mut bytes = vec![0; 300_001];
        rng.fill(&mut bytes).unwrap();
        let zeroes = bytes.iter().filter(|&&byte| byte == 0).count();
        assert!((900..1500).contains(&zeroes), "{wishes:?}: {zeroes} zeroes");
    }
}

#[test]
fn disk_killed_while_writing_loses_nothing_and_repeats_nothing() {
    for format in FORMATS {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let file = format!("--blk-file={}", path.display());
        // Each request takes a while, so that a kill finds many of them taken and not done.
        let mut program = Program::start(&[&file, "--delay-ms=5"]);
        let mut blk =
            Blk::open(program.frontend(), &BlkOptions { recoverable: true, ..options(format) }).unwrap();
        assert!(blk.frontend().has_inflight());
        let buffers: Vec<_> = (0..16).map(|_| blk.frontend().allocate(4096).unwrap()).collect();
        let mut recovered = 0;
        for round in 0..20_u64 {
            let queue = &mut blk.queues()[0];
            for (nth, buffer) in (0..).zip(&buffers) {
                // All to the same place: what is there at the end is what was asked for last.
                buffer.write_from(0, &pattern(round * 100 + nth, 4096)).unwrap();
                queue.write(8, slice::from_ref(buffer), nth).unwrap();
            }
            queue.publish().unwrap();
            std::thread::sleep(std::time::Duration::from_millis(round % 8));
            program.kill();
            let mut done = Vec::new();
            while let Some(completion) = queue.poll().unwrap() {
                done.push(completion.token);
            }
            recovered += queue.outstanding();
            program.restart();
            blk.reconnect().unwrap();
            let queue = &mut blk.queues()[0];
            while queue.outstanding() > 0 {
                assert!(queue.wait(Waiting::Interrupt, LONG).unwrap(), "a request was lost");
                while let Some(completion) = queue.poll().unwrap() {
                    assert_eq!(completion.result, Ok(()));
                    done.push(completion.token);
                }
            }
            assert_eq!(done, (0..16).collect::<Vec<_>>(), "once each, in order");
            let mut back = [0; 4096];
            blk.read_at(8, &mut back).unwrap();
            assert!(back[..] == pattern(round * 100 + 15, 4096), "{format:?}, round {round}");
        }
        assert!(recovered > 16, "{recovered} requests met a kill");
    }
}

#[test]
fn page_that_was_written_is_logged() {
    let program = Program::start(&["--size=1M"]);
    for format in FORMATS {
        let mut blk = Blk::open(program.frontend(), &options(format)).unwrap();
        let buffer = blk.frontend().allocate(3 * 4096).unwrap();
        let used = blk.queues()[0].queue().addresses().device;
        blk.frontend().start_logging().unwrap();
        let mut dirty = BTreeSet::new();
        blk.frontend().take_dirty(|_| {});
        let queue = &mut blk.queues()[0];
        queue.read(0, slice::from_ref(&buffer), 0).unwrap();
        queue.publish().unwrap();
        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
        assert_eq!(queue.poll().unwrap().unwrap().result, Ok(()));
        // The answer comes when the ring is at rest.
        blk.frontend().ask(Request::GetFeatures).unwrap();
        blk.frontend().take_dirty(|gpa| dirty.extend([gpa / 4096]));
        let written = (0..3).map(|nth| buffer.gpa() / 4096 + nth).chain([used / 4096]);
        assert!(written.clone().all(|page| dirty.contains(&page)), "{format:?}: {dirty:?}");
    }
}

#[test]
fn request_refused_by_the_messages_leaves_the_connection() {
    let program = Program::start(&["--size=1M"]);
    let mut frontend = program.frontend();
    for num in [0, 32769, u32::MAX] {
        let error = frontend.ask(Request::SetVringNum { index: 0, num }).unwrap_err();
        assert!(matches!(error, Error::Refused(_)), "{num}: {error}");
    }
    Blk::open(frontend, &options(FORMATS[0])).unwrap().write_at(0, &[1; 512]).unwrap();
}
