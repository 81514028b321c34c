//! Front ends that listen: the program connects to one after the other.
//!
//! Whoever listens is not trusted: nobody, somebody who closes at once, or one who never accepts makes the loop wait, for
//! longer from time to time, and neither end nor spin.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use outboard_backend::Stop;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::accept::{Service, wait};
use crate::listen::connect;

/// How long nothing is tried after an end; twice as long after each that followed at once, and no longer than the other.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A connection that has lasted for so long was one.
const LASTING: Duration = Duration::from_secs(1);

/// Serves connections to `path` until `stop`. The next one is tried when the last has been served.
pub(crate) fn connect_each(path: &Path, stop: &Stop, service: &mut impl Service) {
    let mut pause = PAUSE_MIN;
    let mut failed = false;
    while !stop.is_set() {
        let start = Instant::now();
        match connect(path) {
            Ok(stream) => {
                failed = false;
                service.serve(stream);
            }
            // The first of a series is news.
            Err(error) if failed => tracing::debug!("cannot connect to {}: {error}", path.display()),
            Err(error) => {
                failed = true;
                tracing::warn!(
                    "cannot connect to {}, will go on trying: {}",
                    path.display(),
                    io::Error::from(error)
                );
            }
        }
        if start.elapsed() >= LASTING {
            pause = PAUSE_MIN;
        }
        sleep(spread(pause), stop, service);
        pause = PAUSE_MAX.min(pause * 2);
    }
}

/// Not all programs of a host at the same moment: a fifth more or less.
fn spread(pause: Duration) -> Duration {
    let mut byte = [128];
    // Without it, they all come at once.
    let _ = getrandom(&mut byte, GetRandomFlags::NONBLOCK);
    pause * (80 + 40 * u32::from(byte[0]) / 255) / 100
}

/// Answers what others ask meanwhile.
fn sleep(pause: Duration, stop: &Stop, service: &mut impl Service) {
    let end = Instant::now() + pause;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || wait(service, None, Some(left), stop).is_none() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::BorrowedFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    /// Reads a byte of each connection, and waits by sleeping a little of what it may.
    struct Reader<'a>(&'a Stop, Vec<u8>, usize);

    impl Service for Reader<'_> {
        fn serve(&mut self, mut stream: UnixStream) {
            stream.set_nonblocking(false).unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            self.1.push(byte[0]);
            if self.1.len() == 3 {
                self.0.trigger();
            }
        }

        fn wait(&mut self, _: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> io::Result<bool> {
            self.2 += 1;
            std::thread::sleep(limit.unwrap().min(Duration::from_millis(10)));
            Ok(false)
        }
    }

    #[test]
    fn client_connects_when_somebody_listens_and_again_after_each_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let stop = Stop::new().unwrap();
        let listens = path.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            let listener = UnixListener::bind(listens).unwrap();
            for byte in 0..3_u8 {
                io::Write::write_all(&mut listener.accept().unwrap().0, &[byte]).unwrap();
            }
        });
        let mut reader = Reader(&stop, Vec::new(), 0);
        connect_each(&path, &stop, &mut reader);
        assert_eq!(reader.1, [0, 1, 2]);
        assert!(reader.2 >= 3, "others are heard meanwhile");
        thread.join().unwrap();
    }

    #[test]
    fn pause_is_spread_by_a_fifth() {
        for _ in 0..100 {
            let pause = spread(PAUSE_MAX);
            assert!((Duration::from_secs(4)..=Duration::from_secs(6)).contains(&pause), "{pause:?}");
        }
    }
}
