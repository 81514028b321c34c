//! The device's state: saved, loaded into another process, and refused where it is not one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod rig;

use std::io::{Read, Write};
use std::os::fd::AsFd;

use outboard_frontend::Frontend;
use outboard_frontend::drivers::{Blk, Rng};
use outboard_vhost_user::payload::device_state::{LOAD, NO_FD, REFUSED, SAVE, STOPPED};
use outboard_vhost_user::{Reply, Request};
use rig::{FORMATS, Program, options};

/// Offset of the write cache's switch in a disk's configuration.
const WRITEBACK: u32 = 32;

fn writeback(frontend: &mut Frontend) -> u8 {
    let mut byte = [9];
    frontend.read_config(WRITEBACK, &mut byte).unwrap();
    byte[0]
}

fn transfer(
    frontend: &mut Frontend,
    direction: u32,
    phase: u32,
) -> (u64, std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let theirs = if direction == SAVE { writer.as_fd() } else { reader.as_fd() };
    let fd = theirs.try_clone_to_owned().unwrap();
    match frontend.ask(Request::SetDeviceStateFd { direction, phase, fd }).unwrap() {
        Reply::DeviceState { value, fd: None } => (value, reader, writer),
        other => panic!("{other:?}"),
    }
}

fn saved(frontend: &mut Frontend) -> Vec<u8> {
    let (value, mut reader, writer) = transfer(frontend, SAVE, STOPPED);
    drop(writer);
    assert_eq!(value, NO_FD);
    let mut state = Vec::new();
    reader.read_to_end(&mut state).unwrap();
    assert!(check(frontend));
    state
}

fn loaded(frontend: &mut Frontend, state: &[u8]) -> bool {
    let (value, reader, mut writer) = transfer(frontend, LOAD, STOPPED);
    drop(reader);
    assert_eq!(value, NO_FD);
    // What is too long is refused before it is written to the end.
    let _ = writer.write_all(state);
    drop(writer);
    check(frontend)
}

fn check(frontend: &mut Frontend) -> bool {
    matches!(frontend.ask(Request::CheckDeviceState), Ok(Reply::Ack | Reply::U64(0)))
}

#[test]
fn state_of_a_disk_moves_to_another_process() {
    let (from, to) = (Program::start(&["--serial=here"]), Program::start(&["--serial=there"]));
    let mut old = from.frontend();
    old.write_config(WRITEBACK, &[0]).unwrap();
    let state = saved(&mut old);
    let mut new = to.frontend();
    assert_eq!(writeback(&mut new), 1);
    assert!(loaded(&mut new, &state));
    assert_eq!(writeback(&mut new), 0);
    let mut blk = Blk::open(new, &options(FORMATS[0])).unwrap();
    assert_eq!(blk.serial().unwrap(), "here");
}

#[test]
fn state_of_an_entropy_device_counts_what_it_gave() {
    let program = Program::start(&["--device=rng"]);
    let fresh = saved(&mut program.frontend());
    let mut rng = Rng::open(program.frontend(), &outboard_frontend::Wishes::default()).unwrap();
    rng.fill(&mut [0; 1000]).unwrap();
    let mut frontend = rng.close().unwrap();
    let used = saved(&mut frontend);
    assert_ne!(fresh, used);
    assert!(loaded(&mut frontend, &fresh));
    assert_eq!(saved(&mut frontend), fresh);
}

#[test]
fn state_that_is_none_is_refused_and_changes_nothing() {
    let program = Program::start(&[]);
    let mut frontend = program.frontend();
    frontend.write_config(WRITEBACK, &[0]).unwrap();
    let state = saved(&mut frontend);
    frontend.write_config(WRITEBACK, &[1]).unwrap();
    let other = saved(&mut Program::start(&["--device=rng"]).frontend());
    let mut wrong = vec![Vec::new(), state[..state.len() - 1].to_vec(), other, vec![0; 100_000]];
    wrong.extend((0..state.len()).map(|at| {
        let mut spoiled = state.clone();
        spoiled[at] ^= 0x10;
        spoiled
    }));
    for state in wrong {
        assert!(!loaded(&mut frontend, &state), "{state:?}");
        assert_eq!(writeback(&mut frontend), 1);
    }
    assert!(loaded(&mut frontend, &state));
    assert_eq!(writeback(&mut frontend), 0);
}

#[test]
fn transfer_that_makes_no_sense_is_refused() {
    let program = Program::start(&[]);
    let mut frontend = program.frontend();
    for (direction, phase) in [(2, STOPPED), (SAVE, 1), (u32::MAX, u32::MAX)] {
        assert_eq!(transfer(&mut frontend, direction, phase).0, REFUSED);
    }
    let mut blk = Blk::open(frontend, &options(FORMATS[0])).unwrap();
    assert_eq!(transfer(blk.frontend(), SAVE, STOPPED).0, REFUSED, "a ring runs");
    blk.write_at(0, &[1; 512]).unwrap();
}
