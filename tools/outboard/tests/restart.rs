//! One connection, several drivers one after the other: firmware, then a kernel, then another. Each resets the
//! device and sets up rings of its own kind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use outboard_frontend::drivers::{Blk, BlkOptions, Rng};
use outboard_frontend::{Error, Format, Options, PROTOCOL_FEATURES, Waiting, Wishes};
use outboard_vhost_user::{ProtocolFeatures, Request};
use rig::{Daemon, FORMATS, LONG, blk_options, patient, pattern, wishes};

/// Unlike each other in everything that a driver chooses.
fn drivers() -> Vec<BlkOptions> {
    let plain = |format, queues, size| {
        let options = blk_options(format, queues, size);
        let wishes = Wishes { event_idx: false, indirect: false, ..options.wishes };
        BlkOptions { wishes, recoverable: false, ..options }
    };
    vec![
        plain(Format::Split, 1, 4),
        blk_options(Format::Split, 4, 256),
        blk_options(Format::Packed, 2, 100),
        plain(Format::Packed, 1, 5),
        blk_options(Format::Packed, 3, 1024),
        plain(Format::Split, 2, 1024),
        blk_options(Format::Split, 1, 8),
    ]
}

fn cycles(options: Options) {
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let mut frontend = daemon.connect(options);
    for round in 0..3 {
        for (nth, options) in drivers().into_iter().enumerate() {
            let mut blk = Blk::open(frontend, &options).unwrap();
            let data = pattern(round * 100 + nth as u64, 64 << 10);
            blk.write_at(8, &data).unwrap();
            // Every queue, around the ring more than once.
            let into = blk.frontend().allocate(512).unwrap();
            for queue in blk.queues() {
                for token in 0..2100 {
                    queue.read(8, std::slice::from_ref(&into), token).unwrap();
                    queue.publish().unwrap();
                    while queue.outstanding() > 0 {
                        assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
                        let Some(completion) = queue.poll().unwrap() else { continue };
                        assert_eq!((completion.token, completion.result), (token, Ok(())));
                    }
                }
            }
            blk.frontend().memory().free(into);
            let mut back = vec![0; data.len()];
            blk.read_at(8, &mut back).unwrap();
            assert!(back == data);
            frontend = blk.close().unwrap();
        }
    }
}

#[test]
fn blk_reset_by_status_serves_the_next_driver() {
    cycles(patient());
}

#[test]
fn blk_reset_by_reset_device_serves_the_next_driver() {
    let protocol = PROTOCOL_FEATURES - ProtocolFeatures::STATUS;
    cycles(Options { protocol, ..patient() });
}

#[test]
fn blk_only_stopped_serves_the_next_driver() {
    let protocol = PROTOCOL_FEATURES - ProtocolFeatures::STATUS - ProtocolFeatures::RESET_DEVICE;
    cycles(Options { protocol, ..patient() });
}

#[test]
fn ring_stopped_and_resumed_goes_on_where_it_was() {
    let daemon = Daemon::spawn("rng", &[]);
    for format in FORMATS {
        let mut rng = Rng::open(daemon.frontend(), &wishes(format)).unwrap();
        for _ in 0..50 {
            rng.fill(&mut [0; 30_000]).unwrap();
            let (frontend, queue) = rng.parts();
            let base = frontend.stop(queue).unwrap();
            assert!(matches!(frontend.stop(queue), Err(Error::QueueState { .. })));
            frontend.resume(queue, base).unwrap();
        }
    }
}

#[test]
fn ring_disabled_serves_nothing_until_it_is_enabled() {
    let daemon = Daemon::spawn("rng", &[]);
    for format in FORMATS {
        let mut frontend = daemon.frontend();
        frontend.agree(&wishes(format)).unwrap();
        let mut queue = frontend.start(0, 8).unwrap();
        let buffer = frontend.allocate(64).unwrap();
        for token in 0..20 {
            frontend.enable(0, false).unwrap();
            queue.add::<(u64, u32), _>(&[], &[&buffer], token).unwrap();
            queue.kick().unwrap();
            queue.publish().unwrap();
            // The answer comes after whatever the kick may have set off.
            frontend.ask(Request::GetFeatures).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
            assert!(!queue.has_used());
            frontend.enable(0, true).unwrap();
            assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
            assert_eq!(queue.poll().unwrap(), Some((token, 64)));
        }
    }
}

#[test]
fn ring_of_every_size_works() {
    let daemon = Daemon::spawn("rng", &[]);
    let mut frontend = daemon.frontend();
    for (format, sizes) in
        [(Format::Split, [1, 2, 4, 128, 1024, 32768]), (Format::Packed, [1, 2, 3, 77, 1000, 32768])]
    {
        for size in sizes {
            frontend.agree(&wishes(format)).unwrap();
            let mut queue = frontend.start(0, size).unwrap();
            let buffer = frontend.allocate(16).unwrap();
            for token in 0..u64::from(size) * 2 + 3 {
                queue.add::<(u64, u32), _>(&[], &[&buffer], token).unwrap();
                queue.publish().unwrap();
                assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
                assert_eq!(queue.poll().unwrap(), Some((token, 16)), "{format:?} {size}");
            }
            frontend.memory().free(buffer);
            frontend.reset([queue]).unwrap();
        }
    }
}

#[test]
fn ring_of_a_size_that_cannot_be_is_refused_and_the_connection_lives() {
    let daemon = Daemon::spawn("rng", &[]);
    let mut frontend = daemon.frontend();
    frontend.agree(&wishes(Format::Split)).unwrap();
    for num in [0, 32769, 0x1_0000, u32::MAX] {
        let error = frontend.ask(Request::SetVringNum { index: 0, num }).unwrap_err();
        assert!(error.is_nack(), "{num}: {error}");
    }
    assert!(matches!(frontend.start(1, 8), Err(Error::NoSuchQueue { index: 1, queues: 1 })));
    frontend.start(0, 8).unwrap();
}
