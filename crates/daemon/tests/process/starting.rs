//! What keeps a program from starting, and what a started program looks like.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use rustix::process::{Resource, Rlimit, Signal};

use crate::program::{FrontEnd, Start};

#[test]
fn start_with_a_wrong_command_line_explains_usage_with_status_2() {
    for args in [
        [].as_slice(),
        &["--fd=3", "--socket-path=/tmp/never"],
        &["--no-such-option"],
        &["--socket-path"],
        &["--socket-path="],
        &["--fd=zero"],
        &["--fd=2"],
        &["--fd=3", "--log-level=loud"],
        &["--fd=3", "--poll=off", "--poll-us=20"],
        &["--fd=3", "stray"],
    ] {
        let (code, out, err) = Start::with(args).run();
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}");
        assert!(err.starts_with("error: "), "{args:?}: {err}");
    }
}

#[test]
fn start_with_a_device_that_does_not_open_says_why_in_one_line_and_makes_no_socket() {
    let start = Start::with(&["--open", "/nonexistent/disk.img", "--log-level=error"]).socket();
    let path = start.path("socket");
    let mut running = start.spawn();
    assert_eq!(running.end().code(), Some(1));
    let reason = "test-device: cannot open /nonexistent/disk.img: No such file or directory\n";
    assert_eq!((running.stderr().as_str(), running.stdout().as_str()), (reason, ""));
    assert!(!path.exists());
}

#[test]
fn start_failure_with_json_log_is_a_json_object() {
    let (code, out, err) =
        Start::with(&["--open=/nonexistent/disk.img", "--log-format=json", "--log-level=error"])
            .socket()
            .run();
    assert_eq!((code, out.as_str()), (Some(1), ""));
    let line: serde_json::Value = serde_json::from_str(err.trim_end()).unwrap();
    assert_eq!(line["level"], "ERROR");
    assert_eq!(line["fields"]["message"], "cannot open /nonexistent/disk.img: No such file or directory");
}

#[test]
fn start_on_a_regular_file_is_refused_and_leaves_it() {
    let start = Start::new().socket();
    let path = start.path("socket");
    fs::write(&path, "precious").unwrap();
    let mut running = start.spawn();
    assert_eq!(running.end().code(), Some(1));
    let expected =
        format!("test-device: cannot listen on {}: a regular file is in the way\n", path.display());
    assert!(running.stderr().ends_with(&expected), "{}", running.stderr());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn start_on_the_socket_of_a_killed_program_takes_it_over() {
    let mut first = Start::new().listen();
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let path = first.socket_path();
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    let mut second = Start::new();
    second.command.arg("--socket-path").arg(&path);
    let mut second = second.spawn();
    FrontEnd::at(&path).ask_features();
    assert_eq!(second.stop(Signal::TERM).0, Some(0));
    assert!(!path.exists());
}

#[test]
fn start_on_the_socket_of_a_running_program_is_refused_and_disturbs_nobody() {
    let mut first = Start::new().listen();
    let mut front_end = first.connect();
    front_end.ask_features();
    let mut second = Start::new();
    second.command.arg("--socket-path").arg(first.socket_path());
    let (code, _, err) = second.run();
    assert_eq!(code, Some(1));
    assert!(err.ends_with(": already in use\n"), "{err}");
    front_end.ask_features();
    drop(front_end);
    first.connect().ask_features();
    assert_eq!(first.stop(Signal::TERM).0, Some(0));
}

#[test]
fn start_with_any_umask_makes_a_socket_of_that_mode() {
    for (umask, mode) in [(0o077, 0o700), (0o002, 0o775), (0, 0o777)] {
        let running = Start::new()
            .before_exec(move || {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            })
            .listen();
        assert_eq!(fs::metadata(running.socket_path()).unwrap().permissions().mode() & 0o777, mode);
    }
}

#[test]
fn start_with_standard_descriptors_closed_puts_them_on_dev_null() {
    let running = Start::new().close(&[0, 1, 2]).listen();
    running.connect().ask_features();
    for number in 0..3 {
        assert_eq!(fs::read_link(running.proc(&format!("fd/{number}"))).unwrap().to_str(), Some("/dev/null"));
    }
}

#[test]
fn start_raises_the_descriptor_limit_and_ignores_sigpipe() {
    let running = Start::new()
        .before_exec(|| {
            rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(1000) })
                .unwrap();
        })
        .listen();
    let limits = fs::read_to_string(running.proc("limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), ["1000", "1000"]);
    assert_ne!(running.signal_set("SigIgn") & 1 << (libc::SIGPIPE - 1), 0);
}

#[test]
fn start_with_a_relative_path_makes_the_socket_there_and_removes_it() {
    let mut start = Start::with(&["--socket-path", "here"]);
    let directory = start.path("");
    start.command.current_dir(&directory);
    let mut running = start.spawn();
    FrontEnd::at(&directory.join("here")).ask_features();
    assert_eq!(running.stop(Signal::TERM).0, Some(0));
    assert!(!directory.join("here").exists());
}

#[test]
fn start_many_at_once_over_a_stale_socket_exactly_one_serves() {
    for _ in 0..5 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let mut programs: Vec<_> = (0..6)
            .map(|_| {
                let mut start = Start::new();
                start.command.arg("--socket-path").arg(&path);
                start.spawn()
            })
            .collect();
        crate::program::wait_until("five losers", || {
            programs.iter_mut().filter_map(|program| program.child.try_wait().unwrap()).count() >= 5
        });
        FrontEnd::at(&path).ask_features();
        programs.retain_mut(|program| program.child.try_wait().unwrap().is_none());
        assert_eq!(programs.len(), 1);
        assert_eq!(programs[0].stop(Signal::TERM).0, Some(0));
        assert!(!path.exists());
    }
}
