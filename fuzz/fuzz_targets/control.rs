//! Lines of a hostile client of the control socket against a program with two disks: each line that is not blank gets one
//! answer, in its turn, however it is cut into pieces; one that is too long gets an error and is the last; and the next
//! client is served.
//!
//! Input: a byte that says in which pieces it is sent and whether blanks stand before it, then what the client says.
#![no_main]

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use outboard_device::serde_json::{Map, Value, from_slice};

/// The longest line, its end included, in bytes.
const LINE_MAX: usize = 64 << 10;
/// What stands before some inputs: they end near the longest line.
const BLANKS: usize = LINE_MAX - 64;

/// Where clients connect: nothing of it is left behind.
static CONTROL: LazyLock<(PathBuf, OwnedFd)> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("outboard-fuzz-{}", std::process::id()));
    std::fs::create_dir(&directory).expect("a directory of its own");
    let path = directory.join("control");
    undisturbed(|| start(&directory.display().to_string(), &path));
    let socket = File::options().read(true).custom_flags(libc::O_PATH).open(&path).expect("the socket");
    std::fs::remove_dir_all(&directory).expect("the directory goes");
    (format!("/proc/self/fd/{}", socket.as_raw_fd()).into(), socket.into())
});

/// Starts the program, and waits until it serves.
fn start(directory: &str, control: &PathBuf) {
    let image = outboard_guest_memory::memfd("disk", 64 << 10).expect("a file in memory");
    let disks = [format!("blk-file=/proc/self/fd/{}", image.as_raw_fd()), "ram=64K".to_owned()];
    let devices = disks.into_iter().zip(["a", "b"]);
    let devices =
        devices.map(|(disk, name)| format!("--device=name={name},socket-path={directory}/{name},{disk}"));
    let mut arguments: Vec<OsString> = vec!["vhost-user-blk".into(), "--log-level=error".into()];
    arguments.extend(devices.map(OsString::from));
    arguments.extend(["--control".into(), control.into()]);
    std::thread::spawn(move || {
        let status = outboard_daemon::run_with::<outboard_blk::VhostUserBlk>(arguments);
        panic!("it has ended: {status:?}");
    });
    // It has opened the image when it listens.
    while UnixStream::connect(control).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the program does to the process is undone: the fuzzer wants the signals itself, and its panics to be ends.
fn undisturbed(start: impl FnOnce()) {
    let signals = [libc::SIGALRM, libc::SIGINT, libc::SIGTERM, libc::SIGXFSZ].map(|signal| {
        // SAFETY: all zeroes is an action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: it has room for the one in force, and none is set.
        unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        (signal, action)
    });
    start();
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        std::process::abort();
    }));
    for (signal, action) in signals {
        // SAFETY: the action was in force before.
        unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let piece = if choice & 0x3f == 0 { data.len() } else { usize::from(choice & 0x3f) * 8 };
    let blanks = if choice & 0x40 == 0 { Vec::new() } else { vec![b' '; BLANKS] };
    let mut client = UnixStream::connect(&CONTROL.0).expect("it listens");
    // It may hang up on what is too long.
    let _ = client.write_all(&blanks);
    for piece in data.chunks(piece.max(1)) {
        let _ = client.write_all(piece);
    }
    let _ = client.shutdown(Shutdown::Write);
    let mut answers = Vec::new();
    let whole = client.read_to_end(&mut answers).is_ok();

    let said = [&blanks, data].concat();
    let lines = || said.split(|&byte| byte == b'\n');
    let short = lines().all(|line| line.len() < LINE_MAX);
    let expected = lines().filter(|line| !line.trim_ascii().is_empty()).count();
    assert!(answers.is_empty() || answers.ends_with(b"\n"));
    let answers: Vec<Map<String, Value>> = answers
        .split_inclusive(|&byte| byte == b'\n')
        .map(|line| from_slice(line).expect("an object in each line"))
        .collect();
    assert!(answers.iter().all(|answer| {
        answer.len() == 1 && (answer.contains_key("return") || answer["error"].is_string())
    }));
    if short {
        assert!(whole && answers.len() == expected, "{} answers to {expected} lines", answers.len());
    } else {
        assert!(answers.len() <= expected + 1);
        let last = answers.last().and_then(|answer| answer["error"].as_str());
        assert!(last.is_some_and(|last| last.contains("a line has at most")), "{last:?}");
    }
});
