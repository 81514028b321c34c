//! The plain use of both devices, in every ring format, with and without each ring feature.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use outboard_frontend::drivers::{Blk, BlkOptions, Rng};
use outboard_frontend::{Frontend, Sharing, Waiting, Wishes};
use rig::{Daemon, FORMATS, patient, pattern, wishes};

/// Each way to agree on rings.
fn all_wishes() -> Vec<Wishes> {
    let mut all = Vec::new();
    for format in FORMATS {
        for bits in 0..8_u8 {
            let has = |bit: u8| bits & (1_u8 << bit) != 0;
            all.push(Wishes { event_idx: has(0), indirect: has(1), in_order: has(2), ..wishes(format) });
        }
    }
    all
}

#[test]
fn rng_filled_in_every_ring_format_gives_bytes_that_differ() {
    let daemon = Daemon::spawn("rng", &[]);
    for wishes in all_wishes() {
        for waiting in [Waiting::Interrupt, Waiting::Polling] {
            let mut rng = Rng::open(daemon.frontend(), &wishes).unwrap();
            rng.set_waiting(waiting);
            let mut bytes = vec![0; 300_001];
            rng.fill(&mut bytes).unwrap();
            let zeroes = bytes.iter().filter(|&&byte| byte == 0).count();
            assert!((900..1500).contains(&zeroes), "{wishes:?}: {zeroes} zeroes");
        }
    }
}

#[test]
fn blk_written_in_every_ring_format_reads_back() {
    let daemon = Daemon::spawn("blk", &["--ram=8M", "--serial=outboard-1"]);
    for (seed, wishes) in all_wishes().into_iter().enumerate() {
        let wishes = Wishes { device_features: BlkOptions::FEATURES, ..wishes };
        let options = BlkOptions { wishes, ..BlkOptions::default() };
        let mut blk = Blk::open(daemon.frontend(), &options).unwrap();
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
fn blk_with_memory_as_table_and_no_acks_works_the_same() {
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let options = outboard_frontend::Options { sharing: Sharing::Table, acks: false, ..patient() };
    let frontend = Frontend::connect(daemon.socket(), options).unwrap();
    let mut blk = Blk::open(frontend, &BlkOptions::default()).unwrap();
    let data = pattern(1, 4096);
    blk.write_at(0, &data).unwrap();
    let mut back = vec![0; 4096];
    blk.read_at(0, &mut back).unwrap();
    assert!(back == data);
}

#[test]
fn rng_without_protocol_features_works_without_config() {
    let daemon = Daemon::spawn("rng", &[]);
    let protocol = outboard_vhost_user::ProtocolFeatures::EMPTY;
    let options = outboard_frontend::Options { protocol, ..patient() };
    let mut rng = Rng::open(daemon.connect(options), &Wishes::default()).unwrap();
    rng.fill(&mut [0; 100]).unwrap();
    assert!(rng.frontend().read_config(0, &mut [0; 4]).is_err());
}

#[test]
fn blk_config_read_in_every_size_that_front_ends_use_has_the_same_bytes() {
    let daemon = Daemon::spawn("blk", &["--ram=1M"]);
    let mut frontend = daemon.frontend();
    let mut whole = [0xff; 256];
    frontend.read_config(0, &mut whole).unwrap();
    assert_eq!(whole[..8], 2048_u64.to_le_bytes(), "sectors of 1 MiB");
    assert_eq!(whole[96..], [0; 160], "zeroes behind the end");
    // QEMU 36, 48 and 57; Cloud Hypervisor and Firecracker 60; newer ones 96; SPDK 256.
    for size in [1, 2, 36, 48, 57, 60, 96, 256] {
        let mut part = vec![0xff; size];
        frontend.read_config(0, &mut part).unwrap();
        assert_eq!(part, whole[..size]);
    }
    // OpenVMM and alioth, by windows.
    for at in (0..256_u32).step_by(4) {
        let mut window = [0xff; 4];
        frontend.read_config(at, &mut window).unwrap();
        assert_eq!(window, whole[at as usize..][..4]);
    }
}
