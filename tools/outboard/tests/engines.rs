//! The engines as a process meets them: io_uring where it is forbidden, and both under load when the end comes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![allow(unsafe_code, reason = "a system call filter for the child")]

mod rig;

use std::{
    io::Read,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    slice, thread,
    time::{Duration, Instant},
};

use outboard_frontend::{Format, Frontend, Waiting};
use rig::{Daemon, LONG};

/// Lets this process and its children make every system call but `io_uring_setup`, which fails with EPERM as it does
/// in containers.
fn forbid_io_uring() -> std::io::Result<()> {
    const ALLOW: u32 = 0x7fff_0000;
    const FAIL: u32 = 0x0005_0000;
    let setup = u32::try_from(libc::SYS_io_uring_setup).map_err(std::io::Error::other)?;
    let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    // The number of the system call is the first word of what the filter sees.
    let mut filter = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, setup, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, FAIL | libc::EPERM.cast_unsigned(), 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: 4, filter: filter.as_mut_ptr() };
    // SAFETY: plain numbers, and a program that outlives the call, which copies it.
    let failed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) != 0
    };
    if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn io_uring_forbidden_epoll_serves_with_a_line_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboard"));
    command.args(["run", "blk", "--log-level=warn", "--engine=io_uring", "--socket-path"]).arg(&socket);
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    // SAFETY: the hook makes system calls only; it allocates nothing.
    unsafe { command.pre_exec(forbid_io_uring) };
    let mut child = command.spawn().unwrap();
    let frontend = Frontend::connect(&socket, rig::patient()).unwrap();
    let options = rig::blk_options(Format::Split, 1, 64);
    let mut disk = outboard_frontend::drivers::Blk::open(frontend, &options).unwrap();
    disk.write_at(8, &[0x5a; 4096]).unwrap();
    let mut back = [0; 4096];
    disk.read_at(8, &mut back).unwrap();
    assert_eq!(back, [0x5a; 4096]);
    drop(disk);
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .unwrap();
    let status = child.wait().unwrap();
    assert!(rig::exited_with(status, 0), "{status}");
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(log.matches("io_uring cannot be used here, epoll serves instead").count(), 1, "{log}");
}

/// Keeps a queue busy until the back end is gone.
fn hammer(daemon: &Daemon, format: Format) -> thread::JoinHandle<u64> {
    let mut disk = daemon.blk(format, 2, 128);
    let buffer = disk.frontend().allocate(4096).unwrap();
    thread::spawn(move || {
        let mut done = 0;
        let (_, queues) = disk.parts();
        loop {
            for queue in queues.iter_mut() {
                while queue.outstanding() < 32 && queue.read(0, slice::from_ref(&buffer), 0).is_ok() {}
                if queue.publish().is_err() {
                    return done;
                }
                match queue.wait(Waiting::Interrupt, Duration::from_millis(200)) {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return done,
                }
                while let Ok(Some(_)) = queue.poll() {
                    done += 1;
                }
            }
        }
    })
}

#[test]
fn sigterm_under_load_ends_the_program_and_removes_its_socket() {
    for engine in ["--engine=epoll", "--engine=io_uring"] {
        for polling in ["--poll=off", "--poll=always"] {
            let mut daemon = Daemon::spawn("blk", &["--ram=16M", engine, polling]);
            let load = hammer(&daemon, Format::Split);
            thread::sleep(Duration::from_millis(100));
            let asked = Instant::now();
            let status = daemon.terminate();
            let took = asked.elapsed();
            assert!(rig::exited_with(status, 0), "{engine} {polling}: {status}");
            assert!(took < LONG, "{took:?}");
            assert!(!daemon.socket().exists(), "{engine} {polling}: the socket is still there");
            assert!(load.join().unwrap() > 0, "{engine} {polling}: there was no load");
            println!("{engine} {polling}: ended {took:?} after SIGTERM");
        }
    }
}

/// Writes a block of its own number to every block, many at a time, and reads all of them back.
fn write_and_verify(daemon: &Daemon, format: Format) {
    const BLOCKS: u64 = 1024;
    const DEPTH: u64 = 64;
    let mut disk = daemon.blk(format, 1, 256);
    let buffers: Vec<_> = (0..DEPTH).map(|_| disk.frontend().allocate(4096).unwrap()).collect();
    let queue = &mut disk.queues()[0];
    for write in [true, false] {
        for start in (0..BLOCKS).step_by(DEPTH as usize) {
            for token in 0..DEPTH {
                let (block, buffer) = (start + token, &buffers[token as usize]);
                buffer.fill(if write { (block * 7 + 1) as u8 } else { 0 });
                let data = slice::from_ref(buffer);
                if write { queue.write(block * 8, data, token) } else { queue.read(block * 8, data, token) }
                    .unwrap();
            }
            queue.publish().unwrap();
            while queue.outstanding() > 0 {
                assert!(queue.wait(Waiting::Interrupt, LONG).unwrap(), "no answer");
                while let Some(completion) = queue.poll().unwrap() {
                    completion.result.unwrap();
                    let mut back = [0; 4096];
                    buffers[completion.token as usize].read_into(0, &mut back).unwrap();
                    assert_eq!(back, [((start + completion.token) * 7 + 1) as u8; 4096]);
                }
            }
        }
    }
    disk.flush().unwrap();
}

#[test]
fn disk_with_every_engine_option_keeps_its_data() {
    let options: &[&[&str]] = &[
        &["--engine=epoll"],
        &["--engine=io_uring"],
        &["--io-uring-sqpoll"],
        &["--io-uring-register-memory"],
        &["--io-uring-sqpoll", "--io-uring-register-memory", "--poll=off"],
        &["--io-uring-iopoll", "--direct"],
        &["--poll=always"],
        &["--writeback=off"],
    ];
    for args in options {
        for format in rig::FORMATS {
            let file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(4 << 20).unwrap();
            let path = format!("--blk-file={}", file.path().display());
            let mut daemon = Daemon::spawn("blk", &[args, &[path.as_str()][..]].concat());
            write_and_verify(&daemon, format);
            assert!(rig::exited_with(daemon.terminate(), 0), "{args:?}");
            let image = std::fs::read(file.path()).unwrap();
            let good = image.chunks(4096).enumerate().all(|(at, block)| block == [(at * 7 + 1) as u8; 4096]);
            assert!(good, "{args:?}, {format:?}: the image");
        }
    }
}
