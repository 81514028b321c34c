//! The program itself: options, start, end (vhost-user: Back-end program conventions). Only where we start it, and
//! only where its socket is told in the conventions' form, `--socket-path`.
//!
//! One process at a time: what a command line names may be there but once, such as an image that is locked, or a driving socket.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Instant;

use outboard_vhost_user::FrontendRequest as Code;
use outboard_virtqueue::Format;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::back_end::listens;
use crate::check::catalogue::Check;
use crate::check::cx::{Cx, LULL};
use crate::check::session::{Session, Setup};
use crate::check::verdict::{Checked, Stop, ensure};
use crate::check::wire::Wire;
use crate::lifeline;
use crate::socket_dir::SocketDir;

/// The checks of this group.
pub(super) const CHECKS: &[Check] = &[
    Check {
        id: "program.print-capabilities",
        title: "--print-capabilities prints one JSON object with the type and the features, and ends with status 0",
        spec: "vhost-user: Back-end program conventions",
        run: print_capabilities,
    },
    Check {
        id: "program.print-capabilities-alone",
        title: "--print-capabilities needs no other option",
        spec: "vhost-user: Back-end program conventions (other options and arguments should be ignored)",
        run: print_capabilities_alone,
    },
    Check {
        id: "program.print-capabilities-ignores-rest",
        title: "--print-capabilities ignores other options, whatever they are",
        spec: "vhost-user: Back-end program conventions (other options and arguments should be ignored)",
        run: print_capabilities_ignores_rest,
    },
    Check {
        id: "program.print-capabilities-only",
        title: "--print-capabilities makes no socket",
        spec: "vhost-user: Back-end program conventions (does not start)",
        run: print_capabilities_only,
    },
    Check {
        id: "program.fd",
        title: "--fd takes a socket, connected or listening, and serves it",
        spec: "vhost-user: Back-end program conventions",
        run: fd,
    },
    Check {
        id: "program.fd-ends",
        title: "with --fd the program ends when the front end does",
        spec: "vhost-user: Back-end program conventions; in use: managers that start one for each front end",
        run: fd_ends,
    },
    Check {
        id: "program.no-socket",
        title: "without a socket the program ends early, says so on standard error, and has a status other than 0",
        spec: "vhost-user: Back-end program conventions",
        run: no_socket,
    },
    Check {
        id: "program.socket-and-fd",
        title: "--socket-path and --fd together are refused",
        spec: "vhost-user: Back-end program conventions (incompatible)",
        run: socket_and_fd,
    },
    Check {
        id: "program.unknown-option",
        title: "an option that there is not ends the program early, with a status other than 0",
        spec: "vhost-user: Back-end program conventions (fail early)",
        run: unknown_option,
    },
    Check {
        id: "program.bad-socket-path",
        title: "a socket that cannot be made ends the program early, with a status other than 0",
        spec: "vhost-user: Back-end program conventions (fail early)",
        run: bad_socket_path,
    },
    Check {
        id: "program.stale-socket",
        title: "a socket that a killed process left behind does not keep the next from starting",
        spec: "in use: whatever restarts a back end that crashed",
        run: stale_socket,
    },
    Check {
        id: "program.file-in-the-way",
        title: "a file that is no socket at the socket's path is left alone, and the program ends early",
        spec: "vhost-user: Back-end program conventions (fail early); a mistyped path costs no data",
        run: file_in_the_way,
    },
    Check {
        id: "program.foreground",
        title: "the program stays in the foreground",
        spec: "vhost-user: Back-end program conventions (must not daemonize)",
        run: foreground,
    },
    Check {
        id: "program.sigterm",
        title: "SIGTERM ends an idle program, with status 0",
        spec: "vhost-user: Back-end program conventions",
        run: sigterm,
    },
    Check {
        id: "program.sigterm-connected",
        title: "SIGTERM ends a program that serves a front end, with status 0",
        spec: "vhost-user: Back-end program conventions",
        run: sigterm_connected,
    },
    Check {
        id: "program.quiet-stdout",
        title: "serving prints nothing on standard output",
        spec: "vhost-user: Back-end program conventions (logs go to standard error)",
        run: quiet_stdout,
    },
];

/// Ends the back end that runs. Who needs it next starts it again.
fn alone(cx: &mut Cx) -> Checked {
    cx.needs_command()?;
    if let Some(back_end) = cx.target.take_back_end() {
        back_end.kill()?;
    }
    Ok(())
}

/// The program with its options but without its socket, for the checks to go on with. The socket's option has to be
/// that of the conventions, `--socket-path`, in either form. Nobody else runs it.
fn program(cx: &mut Cx) -> Checked<Command> {
    const SOCKET: &str = "a-socket-of-no-use";
    alone(cx)?;
    let made = cx.target.command(Path::new(SOCKET));
    let made = made.ok_or_else(|| Stop::Skip("the command is empty".to_owned()))?;
    let words: Vec<&OsStr> = made.get_args().collect();
    let whole = format!("--socket-path={SOCKET}");
    let at = words.iter().position(|word| *word == whole.as_str()).map(|at| (at, 1));
    let pair = || words.windows(2).position(|pair| pair == ["--socket-path", SOCKET]).map(|at| (at, 2));
    let (at, count) = at.or_else(pair).ok_or_else(unconventional)?;
    let (before, after) = (words.iter().take(at), words.iter().skip(at + count));
    let mut command = Command::new(made.get_program());
    command.args(before.chain(after)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

fn unconventional() -> Stop {
    Stop::NotApplicable("the command has no --socket-path: its program has conventions of its own".to_owned())
}

/// Starts a program, which does not outlive us.
fn started(command: &mut Command) -> Checked<Child> {
    Ok(lifeline::tie(command, Signal::KILL).spawn()?)
}

/// The program at a socket, whose last words are kept.
fn at_socket(cx: &Cx, socket: &Path, stdout: Stdio) -> Checked<Child> {
    let Some(mut command) = cx.target.command(socket) else { return Err(unconventional()) };
    let words = File::create(socket.with_extension("stderr"))?;
    started(command.stdin(Stdio::null()).stdout(stdout).stderr(words))
}

/// The last words of the program at a socket, to be put behind what it did.
fn last_words(socket: &Path) -> String {
    let words = std::fs::read(socket.with_extension("stderr")).unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    words.trim().lines().last().map_or_else(String::new, |line| format!(": {line}"))
}

/// Runs a command that has to end by itself.
fn ended(cx: &Cx, mut command: Command) -> Checked<Output> {
    let mut child = started(&mut command)?;
    let deadline = Instant::now() + cx.patience;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Err(Stop::fail("the program does not end"));
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(child.wait_with_output()?)
}

/// Has ended with a status of its own choice, other than 0, and said why.
fn refused(output: &Output) -> Checked {
    let status = output.status;
    ensure!(status.code().is_some(), "it ended with {status}");
    ensure!(!status.success(), "it ended with status 0");
    ensure!(!output.stderr.is_empty(), "it said nothing on standard error");
    Ok(())
}

/// What --print-capabilities printed.
fn capabilities(cx: &Cx, command: Command) -> Checked<Value> {
    let output = ended(cx, command)?;
    let status = output.status;
    ensure!(status.success(), "it ended with {status}");
    serde_json::from_slice(&output.stdout)
        .map_err(|error| Stop::fail(format!("what it printed is not JSON: {error}")))
}

fn print_capabilities(cx: &mut Cx) -> Checked {
    let mut command = program(cx)?;
    command.arg("--print-capabilities");
    let printed = capabilities(cx, command)?;
    ensure!(printed.get("type").is_some_and(Value::is_string), "it has no type: {printed}");
    let features = printed.get("features");
    let named = features.and_then(Value::as_array).is_some_and(|list| list.iter().all(Value::is_string));
    ensure!(features.is_none() || named, "its features are no list of names: {printed}");
    Ok(())
}

fn print_capabilities_alone(cx: &mut Cx) -> Checked {
    let whole = program(cx)?;
    let mut command = Command::new(whole.get_program());
    // Where the program is told apart by words (`outboard run blk`), they belong to its name.
    command.args(whole.get_args().take_while(|word| !word.as_encoded_bytes().starts_with(b"-")));
    command.arg("--print-capabilities");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    capabilities(cx, command).map(drop)
}

fn print_capabilities_ignores_rest(cx: &mut Cx) -> Checked {
    let mut command = program(cx)?;
    command.arg("--print-capabilities").arg("--no-program-has-this-option");
    capabilities(cx, command).map(drop)
}

fn print_capabilities_only(cx: &mut Cx) -> Checked {
    let mut command = program(cx)?;
    let dir = SocketDir::new()?;
    let socket = dir.path().join("socket");
    command.arg("--print-capabilities").arg("--socket-path").arg(&socket);
    capabilities(cx, command)?;
    ensure!(!socket.exists(), "it made the socket");
    Ok(())
}

/// A socket that the next process inherits.
fn inherited(fd: OwnedFd) -> Checked<OwnedFd> {
    fcntl_setfd(&fd, FdFlags::empty())?;
    Ok(fd)
}

/// What the descriptor of --fd is. The conventions say no more than "the vhost-user socket".
#[derive(Clone, Copy, Debug)]
enum Handed {
    Connected,
    Listening,
}

/// The program with --fd, served over a connection; the end of the wait for an answer, where it does not serve.
fn with_fd(cx: &mut Cx, handed: Handed) -> Checked<(Child, Wire, Checked)> {
    let mut command = program(cx)?;
    let dir = SocketDir::new()?;
    let (ours, theirs) = match handed {
        Handed::Connected => {
            let (ours, theirs) = UnixStream::pair()?;
            (ours, OwnedFd::from(theirs))
        }
        Handed::Listening => {
            let path = dir.path().join("socket0");
            let listener = UnixListener::bind(&path)?;
            (UnixStream::connect(&path)?, OwnedFd::from(listener))
        }
    };
    let theirs = inherited(theirs)?;
    command.arg(format!("--fd={}", theirs.as_raw_fd())).stdout(Stdio::null()).stderr(Stdio::null());
    let child = started(&mut command)?;
    // Else the connection would not end with the program.
    drop(theirs);
    let mut wire = Wire::new(ours, cx.patience)?;
    let served = wire.ask_u64(Code::GET_FEATURES).map(drop);
    Ok((child, wire, served))
}

/// The same, with whichever of the two the program takes.
fn with_either_fd(cx: &mut Cx) -> Checked<(Child, Wire)> {
    let mut refused = Ok(());
    for handed in [Handed::Connected, Handed::Listening] {
        let (mut child, wire, served) = with_fd(cx, handed)?;
        if served.is_ok() {
            cx.note(format!("--fd takes a socket that is {handed:?}"));
            return Ok((child, wire));
        }
        child.kill()?;
        child.wait()?;
        refused = refused.and(served);
    }
    Err(refused.err().unwrap_or_else(|| Stop::fail("it serves neither")))
}

fn fd(cx: &mut Cx) -> Checked {
    let (mut child, _wire) = with_either_fd(cx)?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn fd_ends(cx: &mut Cx) -> Checked {
    let (mut child, wire) = with_either_fd(cx)?;
    wire.close()?;
    let ended = cx.eventually(|| Ok(child.try_wait()?.is_some()))?;
    child.kill()?;
    let status = child.wait()?;
    ensure!(ended, "the front end is gone, the program stays");
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn no_socket(cx: &mut Cx) -> Checked {
    let command = program(cx)?;
    refused(&ended(cx, command)?)
}

fn socket_and_fd(cx: &mut Cx) -> Checked {
    let mut command = program(cx)?;
    let dir = SocketDir::new()?;
    let (_ours, theirs) = UnixStream::pair()?;
    let theirs = inherited(theirs.into())?;
    command.arg(format!("--fd={}", theirs.as_raw_fd()));
    command.arg("--socket-path").arg(dir.path().join("socket"));
    refused(&ended(cx, command)?)
}

fn unknown_option(cx: &mut Cx) -> Checked {
    let mut command = program(cx)?;
    let dir = SocketDir::new()?;
    command.arg("--socket-path").arg(dir.path().join("socket")).arg("--no-program-has-this-option");
    refused(&ended(cx, command)?)
}

fn bad_socket_path(cx: &mut Cx) -> Checked {
    let mut command = program(cx)?;
    let dir = SocketDir::new()?;
    command.arg("--socket-path").arg(dir.path().join("there/is/no/such/directory"));
    refused(&ended(cx, command)?)
}

fn stale_socket(cx: &mut Cx) -> Checked {
    program(cx)?;
    let dir = SocketDir::new()?;
    let socket = dir.path().join("socket");
    for round in ["the first", "the second"] {
        let mut child = at_socket(cx, &socket, Stdio::null())?;
        let up = cx.eventually(|| Ok(listens(&socket) || child.try_wait()?.is_some()))?;
        let alive = child.try_wait()?.is_none();
        child.kill()?;
        child.wait()?;
        ensure!(up && alive, "{round} process does not listen{}", last_words(&socket));
    }
    Ok(())
}

fn file_in_the_way(cx: &mut Cx) -> Checked {
    let mut command = program(cx)?;
    let dir = SocketDir::new()?;
    let file = dir.path().join("a-letter-to-my-mother");
    std::fs::write(&file, "Dear mother")?;
    command.arg("--socket-path").arg(&file);
    let output = ended(cx, command);
    let left = std::fs::read(&file).unwrap_or_default();
    ensure!(left == b"Dear mother", "the file is gone");
    refused(&output?)
}

fn foreground(cx: &mut Cx) -> Checked {
    alone(cx)?;
    let dir = SocketDir::new()?;
    let socket = dir.path().join("socket0");
    let mut child = at_socket(cx, &socket, Stdio::null())?;
    let up = cx.eventually(|| Ok(listens(&socket) || child.try_wait()?.is_some()))?;
    std::thread::sleep(LULL);
    let gone = child.try_wait()?;
    // A servant that is not ours to end may end with its front end.
    let served = UnixStream::connect(&socket).is_ok();
    child.kill()?;
    child.wait()?;
    ensure!(up && served, "it does not listen{}", last_words(&socket));
    ensure!(gone.is_none(), "the socket is served, but the process that was started is gone");
    Ok(())
}

/// Ends the back end by SIGTERM, and says how it ended.
fn terminate(cx: &mut Cx) -> Checked<ExitStatus> {
    let Some(mut back_end) = cx.target.take_back_end() else {
        return Err(Stop::Skip("there is no process".to_owned()));
    };
    kill_process(back_end.pid(), Signal::TERM)?;
    let mut status = None;
    cx.eventually(|| {
        status = back_end.ended()?;
        Ok(status.is_some())
    })?;
    status.ok_or_else(|| Stop::fail(format!("it still runs {:?} after SIGTERM", cx.patience)))
}

fn sigterm(cx: &mut Cx) -> Checked {
    cx.needs_command()?;
    cx.wire()?.barrier()?;
    // One that ended with this connection is started again.
    cx.target.start()?;
    let status = terminate(cx)?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn sigterm_connected(cx: &mut Cx) -> Checked {
    cx.needs_command()?;
    let mut session = Session::open(cx, &Setup::new(Format::Split))?;
    let at = session.add_ring(0)?;
    session.start(at)?;
    session.wire.barrier()?;
    let status = terminate(cx)?;
    ensure!(status.success(), "it ended with {status}");
    Ok(())
}

fn quiet_stdout(cx: &mut Cx) -> Checked {
    program(cx)?;
    let dir = SocketDir::new()?;
    let socket = dir.path().join("socket");
    let mut child = at_socket(cx, &socket, Stdio::piped())?;
    let up = cx.eventually(|| Ok(listens(&socket) || child.try_wait()?.is_some()))?;
    let served = UnixStream::connect(&socket)
        .map_err(Stop::from)
        .and_then(|stream| Wire::new(stream, cx.patience))
        .and_then(|mut wire| wire.ask_u64(Code::GET_FEATURES));
    child.kill()?;
    child.wait()?;
    let mut printed = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut printed)?;
    }
    ensure!(up && served.is_ok(), "it does not serve{}", last_words(&socket));
    ensure!(printed.is_empty(), "it printed {printed:?}");
    Ok(())
}
