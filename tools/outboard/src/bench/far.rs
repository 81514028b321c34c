//! Somebody at the far end of a port while it is measured: a client of its UNIX socket who sends, takes, or sends back. The
//! device is not trusted with when it takes him in.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::peer;

/// What he says first: once it has come, he is there.
pub(super) const GREETING: u8 = b'!';
/// What he sends.
const BYTE: u8 = b'.';
/// Bytes that are moved at a time.
const PIECE: usize = 64 << 10;

/// What he does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habit {
    Sends,
    Takes,
    SendsBack,
}

/// The client. Gone when dropped.
pub(super) struct Far {
    stream: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Far {
    /// Connects, and greets.
    ///
    /// # Errors
    /// Nobody listens there, or does not take him.
    pub(super) fn connect(path: &Path, timeout: Duration) -> Result<Self> {
        let connected = peer::connect(path, timeout).and_then(|mut stream| {
            stream.write_all(&[GREETING])?;
            Ok(stream)
        });
        let stream = connected.with_context(|| format!("cannot connect to {}", path.display()))?;
        Ok(Self { stream, thread: None })
    }

    /// Begins with what he does, in a thread.
    ///
    /// # Errors
    /// The host refuses.
    pub(super) fn start(&mut self, habit: Habit) -> Result<()> {
        let mut stream = self.stream.try_clone()?;
        self.thread = Some(thread::spawn(move || {
            let mut bytes = vec![BYTE; PIECE];
            loop {
                let len = match habit {
                    Habit::Sends => bytes.len(),
                    Habit::Takes | Habit::SendsBack => match stream.read(&mut bytes) {
                        Ok(len) if len > 0 => len,
                        _ => return,
                    },
                };
                let back = bytes.get(..len).filter(|_| habit != Habit::Takes).unwrap_or_default();
                if stream.write_all(back).is_err() {
                    return;
                }
            }
        }));
        Ok(())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Whatever he waits for ends with that.
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn far_end_does_what_it_is_for_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("far");
        let listener = UnixListener::bind(&path).unwrap();
        for habit in [Habit::Sends, Habit::Takes, Habit::SendsBack] {
            let mut far = Far::connect(&path, Duration::from_secs(10)).unwrap();
            let (mut port, _) = listener.accept().unwrap();
            let mut bytes = [0; 1000];
            port.read_exact(&mut bytes[..1]).unwrap();
            assert_eq!(bytes[0], GREETING);
            far.start(habit).unwrap();
            if habit != Habit::Sends {
                port.write_all(&[b'x'; 1000]).unwrap();
            }
            if habit != Habit::Takes {
                port.read_exact(&mut bytes).unwrap();
                assert_eq!(bytes, [if habit == Habit::Sends { BYTE } else { b'x' }; 1000]);
            }
            drop(far);
        }
    }

    #[test]
    fn far_end_at_which_nobody_listens_is_named() {
        let error = Far::connect(Path::new("/there/is/none"), Duration::from_millis(1)).err().unwrap();
        assert!(format!("{error:#}").contains("/there/is/none"), "{error:#}");
    }
}
