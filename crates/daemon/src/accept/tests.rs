use super::*;
use std::io::{Read, Write};
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Serves by a closure.
struct By<'a, F>(&'a Stop, F);

impl<F: FnMut(UnixStream)> Service for By<'_, F> {
    fn serve(&mut self, stream: UnixStream) {
        (self.1)(stream);
    }

    fn wait(&mut self, listener: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(self.0, PollFlags::IN)];
        fds.extend(listener.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let limit = limit.map(|limit| Timespec::try_from(limit).unwrap());
        poll(&mut fds, limit.as_ref())?;
        Ok(fds.get(1).is_some_and(|listener| !listener.revents().is_empty()))
    }
}

fn listener() -> (tempfile::TempDir, UnixListener) {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("s")).unwrap();
    (directory, listener)
}

#[test]
fn accept_two_waiting_connections_are_served_in_order() {
    let (directory, listener) = listener();
    let clients: Vec<_> =
        (0..2_u8).map(|_| UnixStream::connect(directory.path().join("s")).unwrap()).collect();
    for (i, mut client) in clients.iter().enumerate() {
        client.write_all(&[u8::try_from(i).unwrap()]).unwrap();
    }
    let stop = Stop::new().unwrap();
    let mut seen = Vec::new();
    let serve = |mut stream: UnixStream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
        if seen.len() == 2 {
            stop.trigger();
        }
    };
    accept_each(&listener, &stop, &mut By(&stop, serve)).unwrap();
    assert_eq!(seen, [0, 1]);
}

#[test]
fn accept_stop_while_waiting_returns() {
    let (_directory, listener) = listener();
    let stop = Stop::new().unwrap();
    let trigger = stop.clone();
    let thread = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        trigger.trigger();
    });
    accept_each(&listener, &stop, &mut By(&stop, |_| panic!("nobody connects"))).unwrap();
    thread.join().unwrap();
}

#[test]
fn accept_stop_before_the_start_serves_nobody() {
    let (directory, listener) = listener();
    let _client = UnixStream::connect(directory.path().join("s")).unwrap();
    let stop = Stop::new().unwrap();
    stop.trigger();
    accept_each(&listener, &stop, &mut By(&stop, |_| panic!("stopped"))).unwrap();
}

/// Notes pauses instead of making them, and stops after some.
struct Noting<'a> {
    stop: &'a Stop,
    pauses: Vec<Duration>,
}

impl Service for Noting<'_> {
    fn serve(&mut self, _: UnixStream) {
        panic!("nobody connects");
    }

    fn wait(&mut self, listener: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> io::Result<bool> {
        self.pauses.extend(limit);
        if self.pauses.len() == 9 {
            self.stop.trigger();
        }
        Ok(listener.is_some())
    }
}

#[test]
fn accept_error_that_stays_is_retried_with_longer_and_longer_pauses() {
    let (_directory, listener) = listener();
    // A listener that was shut down refuses every accept while it polls as ready.
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
    let stop = Stop::new().unwrap();
    let mut service = Noting { stop: &stop, pauses: Vec::new() };
    accept_each(&listener, &stop, &mut service).unwrap();
    let expected = [10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(Duration::from_millis);
    assert_eq!(service.pauses, expected);
}
