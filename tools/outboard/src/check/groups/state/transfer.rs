//! The state on its way to another host (vhost-user: Migrating back-end state).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use outboard_vhost_user::payload::{TransferState, device_state};
use outboard_vhost_user::{FrontendRequest as Code, ProtocolFeatures};
use outboard_virtqueue::Format;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zerocopy::IntoBytes;

use crate::check::catalogue::Check;
use crate::check::cx::Cx;
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::{Heard, parse};

/// The checks of this part.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "state.save",
        title: "a state is saved: it comes to its end, and CHECK_DEVICE_STATE says that it is whole",
        spec: "vhost-user: SET_DEVICE_STATE_FD, CHECK_DEVICE_STATE",
        run: save,
    },
    Check {
        id: "state.load",
        title: "a state that was saved is loaded, and the device works",
        spec: "vhost-user: Migrating back-end state",
        run: load,
    },
    Check {
        id: "state.save-again",
        title: "a device whose state was saved goes on, and is saved again, with the same bytes",
        spec: "vhost-user: Migrating back-end state (if migration fails the source resumes)",
        run: save_again,
    },
    Check {
        id: "state.load-corrupt",
        title: "a state that is cut off or of other bytes is refused by CHECK_DEVICE_STATE, and the device works",
        spec: "vhost-user: CHECK_DEVICE_STATE (non-zero is an error)",
        run: load_corrupt,
    },
    Check {
        id: "state.wrong-direction",
        title: "a transfer in a direction or phase that does not exist is refused",
        spec: "vhost-user: SET_DEVICE_STATE_FD (bits 0-7 are non-zero on error)",
        run: wrong_direction,
    },
    Check {
        id: "state.abandoned",
        title: "a transfer whose other end goes away does no harm, and the next one works",
        spec: "robustness: the front end is not trusted (SIGPIPE)",
        run: abandoned,
    },
    Check {
        id: "state.check-alone",
        title: "CHECK_DEVICE_STATE without a transfer is answered",
        spec: "vhost-user: CHECK_DEVICE_STATE",
        run: check_alone,
    },
];

/// No device of ours to know has more.
const LONGEST: usize = 64 << 20;

fn open(cx: &mut Cx) -> Checked<Session> {
    cx.needs(ProtocolFeatures::DEVICE_STATE)?;
    let protocol = Setup::new(Format::Split).protocol | ProtocolFeatures::DEVICE_STATE;
    Session::open(cx, &Setup { protocol, ..Setup::new(Format::Split) })
}

/// SET_DEVICE_STATE_FD: the answer, and the descriptor of the back end's own, if there is one.
fn begin(session: &mut Session, direction: u32, phase: u32, fd: OwnedFd) -> Checked<(u64, Option<OwnedFd>)> {
    let body = TransferState { direction, phase };
    let mut frame = session.wire.ask(Code::SET_DEVICE_STATE_FD, body.as_bytes(), &[fd.as_fd()])?;
    drop(fd);
    let answer: u64 = parse(Code::SET_DEVICE_STATE_FD, &frame)?;
    let theirs = frame.fds.pop();
    ensure!(
        theirs.is_some() != (answer & device_state::NO_FD != 0),
        "SET_DEVICE_STATE_FD is answered by {answer:#x}, which {} a descriptor, and there is {}",
        if answer & device_state::NO_FD == 0 { "announces" } else { "denies" },
        if theirs.is_some() { "one" } else { "none" }
    );
    ensure!(
        theirs.is_none() || answer & device_state::ERROR_MASK == 0,
        "an error ({answer:#x}) came with a descriptor"
    );
    Ok((answer, theirs))
}

/// As [`begin`], for what must be accepted: the end of the channel that is ours to use.
fn begin_well(session: &mut Session, direction: u32, ours: OwnedFd, theirs: OwnedFd) -> Checked<OwnedFd> {
    let (answer, own) = begin(session, direction, device_state::STOPPED, theirs)?;
    let error = answer & device_state::ERROR_MASK;
    ensure!(error == 0, "SET_DEVICE_STATE_FD (direction {direction}) was refused ({answer:#x})");
    Ok(own.unwrap_or(ours))
}

/// Reads to the end.
fn read_all(fd: OwnedFd, patience: Duration) -> Checked<Vec<u8>> {
    let deadline = Instant::now() + patience;
    let mut bytes = Vec::new();
    let mut block = vec![0; 65536];
    let mut file = File::from(fd);
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
        let ready = poll(&mut [PollFd::new(&file, PollFlags::IN)], Some(&left))?;
        ensure!(ready != 0, "after {} bytes of state neither more nor its end came", bytes.len());
        let count = file.read(&mut block)?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(block.get(..count).unwrap_or_default());
        ensure!(bytes.len() <= LONGEST, "the state has no end");
    }
}

fn check(session: &mut Session) -> Checked<u64> {
    session.wire.ask_u64(Code::CHECK_DEVICE_STATE)
}

fn save_state(cx: &Cx, session: &mut Session) -> Checked<Vec<u8>> {
    let (ours, theirs) = rustix::pipe::pipe()?;
    let channel = begin_well(session, device_state::SAVE, ours, theirs)?;
    let state = read_all(channel, cx.patience)?;
    let came = check(session)?;
    ensure!(came == 0, "CHECK_DEVICE_STATE of a state that was saved says {came:#x}");
    Ok(state)
}

/// Loads these bytes; what CHECK_DEVICE_STATE says.
fn load_state(session: &mut Session, state: &[u8]) -> Checked<u64> {
    let (theirs, ours) = rustix::pipe::pipe()?;
    let channel = begin_well(session, device_state::LOAD, ours, theirs)?;
    // One that has read enough may close its end: the check tells.
    let _ = File::from(channel).write_all(state);
    check(session)
}

fn works(session: &mut Session) -> Checked {
    session.rings.clear();
    session.add_rings()?;
    session.start_all()?;
    session.request()?;
    session.stop_all()
}

fn save(cx: &mut Cx) -> Checked {
    let mut session = open(cx)?;
    works(&mut session)?;
    save_state(cx, &mut session)?;
    works(&mut session)
}

fn save_again(cx: &mut Cx) -> Checked {
    let mut session = open(cx)?;
    works(&mut session)?;
    let first = save_state(cx, &mut session)?;
    let second = save_state(cx, &mut session)?;
    if first != second {
        cx.note("a state that is saved twice is not the same");
    }
    works(&mut session)?;
    save_state(cx, &mut session)?;
    works(&mut session)
}

fn load(cx: &mut Cx) -> Checked {
    let mut session = open(cx)?;
    works(&mut session)?;
    let state = save_state(cx, &mut session)?;
    drop(session);
    let mut session = open(cx)?;
    let came = load_state(&mut session, &state)?;
    ensure!(came == 0, "CHECK_DEVICE_STATE of {} bytes that were saved before says {came:#x}", state.len());
    works(&mut session)
}

fn load_corrupt(cx: &mut Cx) -> Checked {
    let mut session = open(cx)?;
    let state = save_state(cx, &mut session)?;
    let half = state.get(..state.len() / 2).unwrap_or_default().to_vec();
    let wrong = [("bytes that no state can be", vec![0xa5; 1000]), ("half of a state", half)];
    for (what, bytes) in wrong {
        if bytes.is_empty() {
            continue;
        }
        let came = load_state(&mut session, &bytes)?;
        ensure!(came != 0, "CHECK_DEVICE_STATE says that {what} is a state");
    }
    let came = load_state(&mut session, &state)?;
    ensure!(came == 0, "after a state was refused, one that was saved is, too ({came:#x})");
    works(&mut session)
}

fn wrong_direction(cx: &mut Cx) -> Checked {
    let mut session = open(cx)?;
    for (direction, phase) in [(2, 0), (u32::MAX, 0), (0, 1), (1, 7)] {
        let (_ours, theirs) = rustix::pipe::pipe()?;
        let body = TransferState { direction, phase };
        session.wire.send(Code::SET_DEVICE_STATE_FD, body.as_bytes(), &[theirs.as_fd()])?;
        let answer: u64 = match session.wire.hear()? {
            Heard::Frame(frame) => parse(Code::SET_DEVICE_STATE_FD, &frame)?,
            Heard::Silence => return Err(Stop::fail("no answer to SET_DEVICE_STATE_FD")),
            Heard::Closed => {
                cx.note(format!("closes the connection on direction {direction}, phase {phase}"));
                session = open(cx)?;
                continue;
            }
        };
        ensure!(
            answer & device_state::ERROR_MASK != 0,
            "a transfer in direction {direction}, phase {phase} is accepted ({answer:#x})"
        );
        session.wire.barrier()?;
    }
    save_state(cx, &mut session)?;
    works(&mut session)
}

fn abandoned(cx: &mut Cx) -> Checked {
    let mut session = open(cx)?;
    let state = save_state(cx, &mut session)?;
    // Nobody reads. It may say so, or find out later.
    let (ours, theirs) = rustix::pipe::pipe()?;
    drop(ours);
    begin(&mut session, device_state::SAVE, device_state::STOPPED, theirs)?;
    check(&mut session)?;
    // Nobody writes.
    load_state(&mut session, &[])?;
    // The next transfer takes the place of one that has not ended.
    let (theirs, ours) = rustix::pipe::pipe()?;
    let _held = begin_well(&mut session, device_state::LOAD, ours, theirs)?;
    let again = save_state(cx, &mut session)?;
    if again.len() != state.len() {
        cx.note("a state that is saved later has another length");
    }
    let came = load_state(&mut session, &state)?;
    ensure!(came == 0, "after transfers that came to nothing a state is refused ({came:#x})");
    works(&mut session)
}

fn check_alone(cx: &mut Cx) -> Checked {
    let mut session = open(cx)?;
    check(&mut session)?;
    session.wire.barrier()?;
    if cx.sample().is_err() {
        return Err(Stop::Skip(
            "answered; no request is known that shows whether the device works".to_owned(),
        ));
    }
    works(&mut session)
}
