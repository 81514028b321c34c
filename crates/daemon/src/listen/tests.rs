use super::*;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("dev.sock");
    (directory, path)
}

fn error(path: &Path) -> String {
    crate::logging::one_line(&SocketFile::listen(path).unwrap_err())
}

#[test]
fn listen_on_a_free_path_accepts_and_the_end_removes_the_path() {
    let (_directory, path) = place();
    let socket = SocketFile::listen(&path).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    socket.listener().accept().unwrap();
    drop(socket);
    assert!(fs::symlink_metadata(&path).is_err());
}

#[test]
fn listen_on_a_stale_socket_replaces_it() {
    let (_directory, path) = place();
    drop(UnixListener::bind(&path).unwrap());
    let socket = SocketFile::listen(&path).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    socket.listener().accept().unwrap();
}

#[test]
fn listen_on_a_live_socket_is_refused_and_leaves_it() {
    let (_directory, path) = place();
    let other = UnixListener::bind(&path).unwrap();
    assert!(error(&path).ends_with("already in use"));
    let _client = UnixStream::connect(&path).unwrap();
    other.accept().unwrap();
}

#[test]
fn listen_on_a_socket_with_a_full_backlog_is_refused() {
    let (_directory, path) = place();
    let address = SocketAddrUnix::new(&path).unwrap();
    let other = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&other, &address).unwrap();
    rustix::net::listen(&other, 0).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    assert!(error(&path).ends_with("already in use"));
}

#[test]
fn listen_on_a_live_datagram_socket_is_refused() {
    let (_directory, path) = place();
    let _other = UnixDatagram::bind(&path).unwrap();
    assert!(error(&path).ends_with("already in use"));
}

#[test]
fn listen_on_what_is_not_a_socket_is_refused_and_leaves_it() {
    let (directory, path) = place();
    fs::write(&path, "precious").unwrap();
    assert!(error(&path).contains("a regular file is in the way"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let file = path;
    let path = directory.path().join("link");
    symlink(&file, &path).unwrap();
    assert!(error(&path).contains("a symbolic link is in the way"));
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    let path = directory.path().join("dangling");
    symlink(directory.path().join("nothing"), &path).unwrap();
    assert!(error(&path).contains("a symbolic link is in the way"));

    let path = directory.path().join("stale-link");
    drop(UnixListener::bind(directory.path().join("stale")).unwrap());
    symlink(directory.path().join("stale"), &path).unwrap();
    assert!(error(&path).contains("a symbolic link is in the way"));
    assert!(fs::symlink_metadata(directory.path().join("stale")).unwrap().file_type().is_socket());

    let path = directory.path().join("directory");
    fs::create_dir(&path).unwrap();
    assert!(error(&path).contains("a directory is in the way"));
}

#[test]
fn listen_on_a_path_that_no_address_holds_is_refused() {
    let (directory, _) = place();
    let longest = PATH_MAX - directory.path().as_os_str().len() - 1;
    let fitting = directory.path().join("s".repeat(longest));
    SocketFile::listen(&fitting).unwrap();
    let error = error(&directory.path().join("s".repeat(longest + 1)));
    assert!(error.contains("108 bytes long, 107 are possible"), "{error}");
}

#[test]
fn listen_in_a_directory_that_is_not_there_names_path_and_reason() {
    let (directory, _) = place();
    let path = directory.path().join("no/dev.sock");
    assert_eq!(error(&path), format!("cannot listen on {}: No such file or directory", path.display()));
}

#[test]
fn listen_on_a_path_without_a_name_is_refused() {
    for path in ["/", "..", "/tmp/..", "/tmp/dev.sock/", "/tmp/dev.sock/."] {
        assert!(error(Path::new(path)).starts_with("socket path names no file"), "{path}");
    }
}

#[test]
fn end_with_another_file_at_the_path_leaves_it() {
    let (_directory, path) = place();
    let socket = SocketFile::listen(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(socket);
    UnixStream::connect(&path).unwrap();
}

#[test]
fn listen_in_a_directory_locked_by_others_goes_on_after_a_moment() {
    let (directory, path) = place();
    let others = open_directory(directory.path()).unwrap();
    rustix::fs::flock(&others, FlockOperation::LockExclusive).unwrap();
    let start = Instant::now();
    let _socket = SocketFile::listen(&path).unwrap();
    assert!(start.elapsed() >= LOCK_PATIENCE && start.elapsed() < Duration::from_secs(10));
}

#[test]
fn listen_many_at_once_over_a_stale_socket_exactly_one_wins_and_is_reachable() {
    for _ in 0..50 {
        let (_directory, path) = place();
        drop(UnixListener::bind(&path).unwrap());
        let barrier = Barrier::new(8);
        let winners: Vec<SocketFile> = thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        SocketFile::listen(&path).ok()
                    })
                })
                .collect();
            starts.into_iter().filter_map(|start| start.join().unwrap()).collect()
        });
        assert_eq!(winners.len(), 1);
        // The losers' probes come first in the backlog; ours is the one that answers.
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"?").unwrap();
        let reached = std::iter::repeat_with(|| winners[0].listener().accept().unwrap().0)
            .any(|mut stream| stream.read(&mut [0]).unwrap() == 1);
        assert!(reached);
    }
}
