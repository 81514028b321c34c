//! The device on both ring formats, with each kind of source.

use std::io::Write;

use clap::{Command, FromArgMatches};
use outboard_daemon::Program;
use outboard_device::testing::{Bench, Format, UNTOUCHED};
use outboard_device::{Device, Features, Group, QueueId};
use tempfile::NamedTempFile;

use super::*;

const QUEUE: QueueId = QueueId(0);

fn parse(args: &[&str]) -> Result<RngOptions, clap::Error> {
    let command = <RngOptions as clap::Args>::augment_args(Command::new("rng").no_binary_name(true));
    RngOptions::from_arg_matches(&command.try_get_matches_from(args)?)
}

/// A device opened with these options, on a ring of either format.
fn each(args: &[&str], test: impl Fn(&mut Bench<Rng>)) {
    for format in [Format::Split, Format::Packed] {
        let mut device = VhostUserRng::open(parse(args).unwrap()).unwrap();
        test(&mut Bench::new(device.handler(Group(0), Features(0)).unwrap(), format));
    }
}

fn with_file(bytes: &[u8], args: &[&str], test: impl Fn(&mut Bench<Rng>)) {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    each(&[&["--source", file.path().to_str().unwrap()], args].concat(), test);
}

#[test]
fn request_is_filled_from_the_kernel_and_no_two_alike() {
    each(&[], |bench| {
        let (first, len) = bench.request(&[], &[600, 5000]);
        assert_eq!(len, 5600);
        let (second, _) = bench.request(&[], &[600, 5000]);
        assert_ne!(first, second);
        let zeroes = first.concat().iter().filter(|&&byte| byte == 0).count();
        assert!(zeroes < 200, "{zeroes} zeroes in 5600 bytes");
    });
}

#[test]
fn request_of_more_than_the_bound_gets_the_bound() {
    each(&[], |bench| {
        let (outputs, len) = bench.request(&[], &[100_000]);
        assert_eq!(len as usize, MAX_REQUEST);
        assert!(outputs[0][MAX_REQUEST..].iter().all(|&byte| byte == UNTOUCHED));
    });
}

#[test]
fn request_without_room_is_answered_with_nothing() {
    each(&[], |bench| assert_eq!(bench.request(&[b"what?"], &[]), (vec![], 0)));
    with_file(b"", &[], |bench| assert_eq!(bench.request(&[b"what?"], &[]), (vec![], 0)));
}

#[test]
fn file_is_read_over_and_over() {
    with_file(b"0123456789", &[], |bench| {
        assert_eq!(bench.request(&[], &[4]), (vec![b"0123".to_vec()], 4));
        assert_eq!(bench.request(&[], &[9]).1, 6, "what is left of it");
        bench.send(QUEUE, &[], &[3]);
        bench.run();
        assert_eq!(bench.receive(QUEUE), None, "never nothing");
        bench.pass(PAUSE);
        assert_eq!(bench.receive(QUEUE).unwrap().outputs, [b"012"]);
    });
}

#[test]
fn source_without_data_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
    each(&["--source", path.to_str().unwrap()], |bench| {
        bench.send(QUEUE, &[], &[8]);
        bench.run();
        bench.pass(PAUSE * 3);
        assert_eq!(bench.receive(QUEUE), None, "nobody writes");
        let mut writer = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        bench.pass(PAUSE);
        assert_eq!(bench.receive(QUEUE), None, "somebody may");
        writer.write_all(b"entropy").unwrap();
        bench.pass(PAUSE);
        assert_eq!(bench.receive(QUEUE).unwrap().len, 7);
    });
    with_file(b"", &[], |bench| {
        bench.send(QUEUE, &[], &[8]);
        bench.run();
        bench.pass(PAUSE * 1000);
        assert_eq!(bench.outstanding(QUEUE), 1, "an empty file ends nothing and hangs nothing");
    });
}

#[test]
fn limit_holds_from_the_first_byte_and_in_every_period() {
    each(&["--max-bytes=100", "--period=1000"], |bench| {
        bench.send(QUEUE, &[], &[10]);
        bench.run();
        bench.pass(Duration::from_millis(99));
        assert_eq!(bench.receive(QUEUE), None);
        bench.pass(Duration::from_millis(1));
        assert_eq!(bench.receive(QUEUE).unwrap().len, 10);
        bench.send(QUEUE, &[], &[4096]);
        bench.run();
        bench.pass(Duration::from_millis(999));
        assert_eq!(bench.receive(QUEUE), None);
        bench.pass(Duration::from_millis(1));
        assert_eq!(bench.receive(QUEUE).unwrap().len, 100, "as much as a period has");
        bench.pass(Duration::from_secs(3600));
        let mut total = 0;
        for _ in 0..50 {
            bench.send(QUEUE, &[], &[10]);
            bench.run();
            total += bench.receive(QUEUE).map_or(0, |answer| answer.len);
        }
        assert_eq!(total, 100, "an idle hour saves no more than a period");
    });
}

#[test]
fn options_wrong_and_sources_missing_are_refused() {
    for args in [["--max-bytes=0"], ["--period=0"], ["--max-bytes=-1"], ["--period=x"]] {
        assert!(parse(&args).is_err(), "{args:?}");
    }
    let error = VhostUserRng::open(parse(&["--source=/nowhere"]).unwrap()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("cannot open the entropy source: No such file"), "{error}");
}
