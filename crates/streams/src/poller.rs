//! Many descriptors behind one that a handler watches.
//!
//! Theory of operation: an epoll instance is itself readable while one of its entries has news. Entries are
//! edge-triggered: each piece of news is told once, so whoever is told that something is readable reads until there is
//! nothing. An entry costs a system call when it comes and when its room to write is of interest, and none per
//! transfer. Room to write is not asked for at first: a UNIX socket tells of it each time that its reader takes
//! something.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Entries that are asked about at a time.
const AT_ONCE: usize = 64;

/// A set of descriptors.
#[derive(Debug)]
pub struct Poller(OwnedFd);

/// The news of a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// There is something to read, the end included.
    pub readable: bool,
    /// There is room to write.
    pub writable: bool,
    /// The other end writes no more.
    pub ended: bool,
    /// Both ways are closed, or broken.
    pub gone: bool,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// Too many descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Tells of `fd` as `id` from now on, also of what it has already; of room to write only if `writes`.
    ///
    /// # Errors
    /// The descriptor cannot be watched, or is in the set.
    pub fn add(&self, fd: impl AsFd, id: u64, writes: bool) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, epoll::EventData::new_u64(id), interest(writes))?)
    }

    /// Whether room to write is of interest from now on. What there is already is told again.
    ///
    /// # Errors
    /// The descriptor is not in the set.
    pub fn change(&self, fd: impl AsFd, id: u64, writes: bool) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, epoll::EventData::new_u64(id), interest(writes))?)
    }

    /// Tells no more of `fd`. A descriptor that is closed, and was never duplicated, need not be removed.
    pub fn remove(&self, fd: impl AsFd) {
        // It is not in it: so much the better.
        let _ = epoll::delete(&self.0, fd);
    }

    /// Tells `each` what news there is, of some dozens of entries. False if there was none.
    ///
    /// # Errors
    /// The host refuses to say.
    pub fn collect(&self, mut each: impl FnMut(u64, Readiness)) -> io::Result<bool> {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut events = [const { MaybeUninit::uninit() }; AT_ONCE];
        let events = match epoll::wait(&self.0, &mut events, Some(&NOW)) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        for event in &*events {
            let flags = event.flags;
            each(
                event.data.u64(),
                Readiness {
                    readable: flags.contains(epoll::EventFlags::IN),
                    writable: flags.contains(epoll::EventFlags::OUT),
                    ended: flags.contains(epoll::EventFlags::RDHUP),
                    gone: flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR),
                },
            );
        }
        Ok(!events.is_empty())
    }
}

fn interest(writes: bool) -> epoll::EventFlags {
    let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    if writes { flags | epoll::EventFlags::OUT } else { flags }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn news(poller: &Poller) -> Vec<(u64, Readiness)> {
        let mut all = Vec::new();
        poller.collect(|id, readiness| all.push((id, readiness))).unwrap();
        all
    }

    const READABLE: Readiness = Readiness { readable: true, writable: false, ended: false, gone: false };

    #[test]
    fn news_is_told_once_and_by_its_id() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&near, 7 << 32, false).unwrap();
        assert_eq!(news(&poller), []);
        far.write_all(b"x").unwrap();
        assert_eq!(news(&poller), [(7 << 32, READABLE)]);
        assert_eq!(news(&poller), [], "nothing new");
        far.write_all(b"y").unwrap();
        assert_eq!(news(&poller), [(7 << 32, READABLE)]);
        poller.remove(&near);
        far.write_all(b"z").unwrap();
        assert_eq!(news(&poller), []);
    }

    #[test]
    fn room_to_write_is_told_only_while_it_is_of_interest() {
        let (mut far, mut near) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&near, 1, false).unwrap();
        near.write_all(b"xx").unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(news(&poller), []);
        poller.change(&near, 1, true).unwrap();
        assert!(matches!(news(&poller)[..], [(1, Readiness { writable: true, readable: false, .. })]));
        poller.change(&near, 1, false).unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(news(&poller), []);
    }

    #[test]
    fn ends_of_one_way_and_of_both_are_told_apart() {
        let (far, near) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        poller.add(&near, 1, false).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(news(&poller), [(1, Readiness { ended: true, ..READABLE })]);
        drop(far);
        assert_eq!(news(&poller), [(1, Readiness { ended: true, gone: true, ..READABLE })]);
    }
}
