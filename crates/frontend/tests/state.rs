//! State on its way from and to back ends: good ones of each kind, and those that do not do what they should.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use outboard_frontend::{Error, Frontend, Wishes};
use outboard_vhost_user::back_channel::{self, Message};
use outboard_vhost_user::payload::{Inflight, ShmemMapping, device_state};
use outboard_vhost_user::transport::Transport;
use outboard_vhost_user::{ProtocolFeatures, Refusal, Reply, Request};

mod rig;

use rig::{FEATURES, Fake, LONG, Own, Says, before_one_with, options, patient};

/// More than a pipe holds, and not whole chunks.
const LEN: usize = 300_007;

/// For what never comes; anything else has long come by then.
const LIMIT: Duration = Duration::from_secs(1);

fn state() -> Vec<u8> {
    (0..LEN).map(|at| (at * 31 + at / 255) as u8).collect()
}

fn reply(value: u64, fd: Option<OwnedFd>) -> Result<Result<Reply, Refusal>, Request> {
    Ok(Ok(Reply::DeviceState { value, fd }))
}

/// A back end that does with the descriptor what `own` does, given the direction.
fn with(
    options: outboard_frontend::Options,
    mut own: impl FnMut(&mut Fake, u32, OwnedFd) -> Result<Result<Reply, Refusal>, Request> + Send + 'static,
) -> (Frontend, JoinHandle<()>) {
    let own: Own = Box::new(move |fake, request| match request {
        Request::SetDeviceStateFd { direction, phase, fd } => {
            assert_eq!(phase, device_state::STOPPED);
            own(fake, direction, fd)
        }
        other => Err(other),
    });
    before_one_with(options, Says::new(FEATURES), own)
}

fn save(frontend: &mut Frontend) -> Result<Vec<u8>, Error> {
    let mut saved = Vec::new();
    let len = frontend.save_state(&mut saved)?;
    assert_eq!(len, saved.len() as u64);
    Ok(saved)
}

/// The connection is as good as before.
fn goes_on(frontend: &mut Frontend) {
    assert_eq!(frontend.device_status().unwrap(), 0);
}

#[test]
fn state_written_after_the_answer_is_saved_whole() {
    let (mut frontend, back_end) = with(patient(), |_, direction, fd| {
        assert_eq!(direction, device_state::SAVE);
        thread::spawn(move || File::from(fd).write_all(&state()).unwrap());
        reply(device_state::NO_FD, None)
    });
    for _ in 0..3 {
        assert!(save(&mut frontend).unwrap() == state());
    }
    drop(frontend);
    back_end.join().unwrap();
}

#[test]
fn state_written_before_the_answer_is_saved_whole() {
    let (mut frontend, _) = with(patient(), |_, _, fd| {
        File::from(fd).write_all(&state()).unwrap();
        reply(device_state::NO_FD, None)
    });
    assert!(save(&mut frontend).unwrap() == state());
    goes_on(&mut frontend);
}

#[test]
fn state_through_the_back_ends_own_descriptor_is_saved_and_loaded() {
    let loaded = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&loaded);
    let (mut frontend, _) = with(patient(), move |_, direction, fd| {
        let (reader, writer) = io::pipe().unwrap();
        if direction == device_state::SAVE {
            // The end of the front end's own pipe comes before the answer.
            drop(fd);
            thread::sleep(Duration::from_millis(100));
            thread::spawn(move || File::from(OwnedFd::from(writer)).write_all(&state()).unwrap());
            return reply(0, Some(reader.into()));
        }
        let taken = Arc::clone(&taken);
        let mut reader = File::from(OwnedFd::from(reader));
        thread::spawn(move || reader.read_to_end(&mut taken.lock().unwrap()).unwrap());
        reply(0, Some(writer.into()))
    });
    let saved = save(&mut frontend).unwrap();
    assert!(saved == state());
    assert_eq!(frontend.load_state(&mut saved.as_slice()).unwrap(), LEN as u64);
    goes_on(&mut frontend);
    // The thread has all of it once the lock is free.
    rig::eventually(|| loaded.try_lock().is_ok_and(|loaded| *loaded == saved));
}

#[test]
fn state_that_is_empty_is_a_state() {
    let (mut frontend, _) = with(patient(), |_, _, _| reply(device_state::NO_FD, None));
    assert!(save(&mut frontend).unwrap().is_empty());
    assert_eq!(frontend.load_state(&mut io::empty()).unwrap(), 0);
}

#[test]
fn state_is_loaded_to_its_end() {
    let (tell, told) = std::sync::mpsc::channel();
    let (mut frontend, _) = with(patient(), move |_, direction, fd| {
        assert_eq!(direction, device_state::LOAD);
        let tell = tell.clone();
        thread::spawn(move || {
            let mut taken = Vec::new();
            File::from(fd).read_to_end(&mut taken).unwrap();
            tell.send(taken).unwrap();
        });
        reply(device_state::NO_FD, None)
    });
    for _ in 0..3 {
        assert_eq!(frontend.load_state(&mut state().as_slice()).unwrap(), LEN as u64);
        assert!(told.recv_timeout(LONG).unwrap() == state());
    }
}

#[test]
fn transfer_that_is_refused_is_an_error_and_the_connection_goes_on() {
    for (value, fd) in [(device_state::REFUSED, false), (7, false), (1, true)] {
        let (mut frontend, _) = with(patient(), move |_, _, theirs| reply(value, fd.then_some(theirs)));
        let error = save(&mut frontend).unwrap_err();
        assert!(matches!(error, Error::StateRefused(code) if u64::from(code) == value & 0xff), "{error}");
        let error = frontend.load_state(&mut state().as_slice()).unwrap_err();
        assert!(matches!(error, Error::StateRefused(_)), "{error}");
        goes_on(&mut frontend);
    }
}

#[test]
fn answer_without_the_descriptor_that_it_announces_is_refused() {
    let (mut frontend, _) = with(patient(), |_, _, _| reply(0, None));
    assert!(matches!(save(&mut frontend), Err(Error::WrongReply(_))));
    // A descriptor of its own after it has used ours.
    let (mut frontend, _) = with(patient(), |_, _, fd| {
        File::from(fd).write_all(&state()).unwrap();
        reply(0, Some(io::pipe().unwrap().0.into()))
    });
    assert!(matches!(save(&mut frontend), Err(Error::WrongReply(_))));
}

#[test]
fn verdict_that_something_went_wrong_is_an_error() {
    let own: Own = Box::new(|_, request| match request {
        Request::SetDeviceStateFd { fd, .. } => {
            thread::spawn(move || File::from(fd).write_all(b"half of it"));
            reply(device_state::NO_FD, None)
        }
        Request::CheckDeviceState => Ok(Ok(Reply::U64(1))),
        other => Err(other),
    });
    let (mut frontend, _) = before_one_with(patient(), Says::new(FEATURES), own);
    assert!(save(&mut frontend).unwrap_err().is_nack());
    goes_on(&mut frontend);
}

#[test]
fn transfer_that_never_ends_is_given_up_in_time() {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let keep = Arc::clone(&kept);
    let (mut frontend, _) = with(options(LIMIT), move |_, _, fd| {
        keep.lock().unwrap().push(fd);
        reply(device_state::NO_FD, None)
    });
    assert!(matches!(save(&mut frontend), Err(Error::Timeout { .. })));
    // Nobody reads: the pipe is full at some time.
    assert!(matches!(frontend.load_state(&mut io::repeat(7)), Err(Error::Timeout { .. })));
    goes_on(&mut frontend);
    drop(kept);
}

#[test]
fn answer_that_never_comes_is_given_up_in_time() {
    let (given_up, wait) = std::sync::mpsc::channel::<()>();
    let (mut frontend, _) = with(options(LIMIT), move |_, _, _| {
        assert!(wait.recv().is_err());
        reply(device_state::NO_FD, None)
    });
    assert!(matches!(save(&mut frontend), Err(Error::Timeout { .. })));
    drop(given_up);
}

#[test]
fn back_end_that_dies_in_a_transfer_is_a_disconnect() {
    let own = || -> Own {
        Box::new(|fake, request| match request {
            Request::SetDeviceStateFd { fd, .. } => {
                let _ = hang_up(fake);
                drop(fd);
                reply(device_state::NO_FD, None)
            }
            other => Err(other),
        })
    };
    for loads in [false, true] {
        let (mut frontend, _) = before_one_with(patient(), Says::new(FEATURES), own());
        let error = if loads {
            frontend.load_state(&mut io::repeat(1)).unwrap_err()
        } else {
            save(&mut frontend).unwrap_err()
        };
        assert!(error.is_disconnect(), "{error}");
    }
}

fn hang_up(fake: &Fake) -> Result<(), rustix::io::Errno> {
    rustix::net::shutdown(fake.as_fd(), rustix::net::Shutdown::Both)
}

#[test]
fn state_that_is_not_taken_to_its_end_is_an_error() {
    let (mut frontend, _) = with(patient(), |_, _, fd| {
        thread::spawn(move || File::from(fd).read_exact(&mut [0; 1000]).unwrap());
        reply(device_state::NO_FD, None)
    });
    let error = frontend.load_state(&mut io::repeat(7)).unwrap_err();
    assert!(matches!(error, Error::StateCut(taken) if taken >= 1000), "{error}");
    goes_on(&mut frontend);
}

/// Fails after so many bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn state_that_there_is_no_room_for_is_an_error_and_the_connection_goes_on() {
    for early in [false, true] {
        let (mut frontend, _) = with(patient(), move |_, _, fd| {
            let write = move || drop(File::from(fd).write_all(&state()));
            if early {
                write();
            } else {
                thread::spawn(write);
            }
            reply(device_state::NO_FD, None)
        });
        let error = frontend.save_state(&mut Full(100_000)).unwrap_err();
        assert!(
            matches!(&error, Error::Host(error) if error.kind() == io::ErrorKind::StorageFull),
            "{error}"
        );
        goes_on(&mut frontend);
    }
}

#[test]
fn back_channel_is_served_during_a_transfer() {
    let (mut frontend, _) = with(patient(), |fake, _, fd| {
        // Waits for its answers before it gives its own, and before it ends the state.
        fake.change_config();
        reply(device_state::NO_FD, None).inspect(|_| drop(fd))
    });
    save(&mut frontend).unwrap();
    assert_eq!(frontend.heard().config_changes, 2);
}

#[test]
fn state_of_a_running_device_is_refused() {
    let (mut frontend, _) = with(patient(), |_, _, _| reply(device_state::NO_FD, None));
    frontend.agree(&Wishes::default()).unwrap();
    let mut queue = frontend.start(1, 16).unwrap();
    assert!(matches!(save(&mut frontend), Err(Error::QueueState { index: 1, .. })));
    assert!(matches!(frontend.load_state(&mut io::empty()), Err(Error::QueueState { index: 1, .. })));
    frontend.stop(&mut queue).unwrap();
    save(&mut frontend).unwrap();
}

#[test]
fn things_that_are_not_agreed_on_are_refused_by_name() {
    let says = Says { protocol: ProtocolFeatures::EMPTY, ..Says::new(FEATURES) };
    let (mut frontend, _) = before_one_with(patient(), says, Box::new(|_, request| Err(request)));
    let missing = |result: Result<(), Error>| match result {
        Err(Error::ProtocolMissing(features)) => features,
        other => panic!("{other:?}"),
    };
    assert_eq!(missing(save(&mut frontend).map(drop)), ProtocolFeatures::DEVICE_STATE);
    assert_eq!(missing(frontend.load_state(&mut io::empty()).map(drop)), ProtocolFeatures::DEVICE_STATE);
    let record = Inflight::new(64, 0, 1, 16);
    let loaded = frontend.load_inflight(record, &mut io::empty());
    assert_eq!(missing(loaded), ProtocolFeatures::INFLIGHT_SHMFD);
    frontend.agree(&Wishes::default()).unwrap();
    let mut queue = frontend.start(0, 16).unwrap();
    let stopped = frontend.stop_undrained(&mut queue).map(drop);
    assert_eq!(missing(stopped), ProtocolFeatures::GET_VRING_BASE_SKIP_DRAIN);
    assert!(frontend.shared_regions().is_empty());
}

/// A back end that makes records of requests in flight, remembers those it is given, and stops without draining.
fn recorder(given: &Arc<Mutex<Vec<(Inflight, OwnedFd)>>>) -> Own {
    let given = Arc::clone(given);
    Box::new(move |_, request| match request {
        Request::GetInflightFd(asked) => {
            let fd = outboard_guest_memory::memfd("record", 8192).unwrap();
            rustix::io::pwrite(&fd, &[0x5a; 4096], 4096).unwrap();
            let record = Inflight::new(4096, 4096, asked.num_queues, asked.queue_size);
            Ok(Ok(Reply::Inflight(record, Some(fd))))
        }
        Request::SetInflightFd(record, fd) => {
            given.lock().unwrap().push((record, fd));
            Ok(Ok(Reply::Ack))
        }
        Request::GetVringBaseSkipDrain { index } => Ok(Ok(Reply::VringState { index, num: 17 })),
        other => Err(other),
    })
}

#[test]
fn record_of_requests_in_flight_moves_to_another_front_end() {
    let given = Arc::default();
    let (mut frontend, _) = before_one_with(patient(), Says::new(FEATURES), recorder(&given));
    assert!(matches!(frontend.save_inflight(&mut io::sink()), Err(Error::Invalid(_))));
    frontend.agree(&Wishes { inflight: Some((2, 16)), ..Wishes::default() }).unwrap();
    let mut queue = frontend.start(0, 16).unwrap();
    assert_eq!(frontend.stop_undrained(&mut queue).unwrap().0, 17);
    let mut saved = Vec::new();
    assert_eq!(frontend.save_inflight(&mut saved).unwrap(), 4096);
    assert_eq!(saved, [0x5a; 4096]);
    let description = frontend.inflight_description().unwrap();
    drop(frontend);

    let given = Arc::default();
    let (mut frontend, _) = before_one_with(patient(), Says::new(FEATURES), recorder(&given));
    frontend.agree(&Wishes::default()).unwrap();
    let short = frontend.load_inflight(description, &mut &saved[1..]);
    assert!(matches!(short, Err(Error::Host(_))));
    assert!(!frontend.has_inflight());
    frontend.load_inflight(description, &mut saved.as_slice()).unwrap();
    let (record, fd) = given.lock().unwrap().pop().unwrap();
    assert_eq!(record, Inflight::new(4096, 0, 2, 16));
    let mut seen = [0; 4096];
    rustix::io::pread(&fd, &mut seen, 0).unwrap();
    assert_eq!(seen, [0x5a; 4096]);
}

#[test]
fn record_that_is_shorter_than_told_is_an_error() {
    let own: Own = Box::new(|_, request| match request {
        Request::GetInflightFd(_) => {
            let fd = outboard_guest_memory::memfd("record", 100).unwrap();
            Ok(Ok(Reply::Inflight(Inflight::new(1 << 40, 0, 1, 16), Some(fd))))
        }
        other => Err(other),
    });
    let (mut frontend, _) = before_one_with(patient(), Says::new(FEATURES), own);
    frontend.agree(&Wishes { inflight: Some((1, 16)), ..Wishes::default() }).unwrap();
    assert!(matches!(frontend.save_inflight(&mut io::sink()), Err(Error::Invalid(_))));
}

#[test]
fn mappings_of_shared_memory_are_kept_and_go_with_a_reset() {
    let own: Own = Box::new(|fake, request| match request {
        Request::GetConfig { .. } => {
            let mapping = |shm_offset| ShmemMapping {
                shmid: 1,
                padding: [0; 7],
                fd_offset: 0,
                shm_offset,
                len: 0x1000,
                flags: ShmemMapping::WRITABLE,
            };
            let file = || outboard_guest_memory::memfd("mapping", 0x1000).unwrap();
            let channel = fake.back_channel.as_mut().unwrap();
            for (message, verdict) in [
                (Message::ShmemMap(mapping(0x1000), file()), 0),
                (Message::ShmemMap(mapping(0x1000), file()), 1),
                (Message::ShmemMap(mapping(0x4000), file()), 1),
                (Message::ShmemMap(mapping(0x3000), file()), 0),
                (Message::ShmemUnmap(mapping(0x3000)), 0),
                (Message::ShmemUnmap(mapping(0x3000)), 1),
            ] {
                channel.send(back_channel::write_message(message, true).unwrap()).unwrap();
                let answer = channel.receive().unwrap().unwrap();
                assert_eq!(answer.body, u64::to_ne_bytes(verdict).to_vec());
            }
            Ok(Ok(Reply::ConfigRefused))
        }
        other => Err(other),
    });
    let (mut frontend, back_end) = before_one_with(patient(), Says::new(FEATURES), own);
    assert_eq!(frontend.shared_regions(), [(1, 0x4000)]);
    assert!(matches!(frontend.read_config(0, &mut [0]), Err(Error::ConfigRefused { .. })));
    let [mapping] = frontend.shared_mappings() else { panic!("not one mapping") };
    assert_eq!((mapping.region, mapping.offset, mapping.len, mapping.writable), (1, 0x1000, 0x1000, true));
    assert_eq!(frontend.heard().refused, 3);
    frontend.reset([]).unwrap();
    assert!(frontend.shared_mappings().is_empty());
    drop(frontend);
    back_end.join().unwrap();
}
