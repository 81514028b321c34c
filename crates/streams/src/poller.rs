//! Many descriptors behind one that a handler watches.
//!
//! Theory of operation: an epoll instance is itself readable while one of its entries has news. Entries are
//! edge-triggered: each piece of news is told once, so whoever is told that something is readable reads until there is
//! nothing. An entry costs a system call when it comes and when its room to write is of interest, and none per
//! transfer. Room to write is not asked for at first: a UNIX socket tells of it each time that its reader takes
//! something.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

/// Entries that are asked about at a time.
const AT_ONCE: usize = 64;

/// A set of descriptors.
pub struct Poller {
    set: OwnedFd,
    events: Vec<epoll::Event>,
}

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
        Ok(Self { set: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(AT_ONCE) })
    }

    /// Tells of `fd` as `id` from now on, also of what it has already; of room to write only if `writes`.
    ///
    /// # Errors
    /// The descriptor cannot be watched, or is in the set.
    pub fn add(&self, fd: impl AsFd, id: u64, writes: bool) -> io::Result<()> {
        Ok(epoll::add(&self.set, fd, epoll::EventData::new_u64(id), interest(writes))?)
    }

    /// Whether room to write is of interest from now on. What there is already is told again.
    ///
    /// # Errors
    /// The descriptor is not in the set.
    pub fn change(&self, fd: impl AsFd, id: u64, writes: bool) -> io::Result<()> {
        Ok(epoll::modify(&self.set, fd, epoll::EventData::new_u64(id), interest(writes))?)
    }

    /// Tells no more of `fd`. A descriptor that is closed, and was never duplicated, need not be removed.
    pub fn remove(&self, fd: impl AsFd) {
        // It is not in it: so much the better.
        let _ = epoll::delete(&self.set, fd);
    }

    /// Tells `each` what news there is, of some dozens of entries. False if there was none.
    ///
    /// # Errors
    /// The host refuses to say.
    pub fn collect(&mut self, mut each: impl FnMut(u64, Readiness)) -> io::Result<bool> {
        const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.events.clear();
        match epoll::wait(&self.set, spare_capacity(&mut self.events), Some(&NOW)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
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
        Ok(!self.events.is_empty())
    }
}

fn interest(writes: bool) -> epoll::EventFlags {
    let flags = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    if writes { flags | epoll::EventFlags::OUT } else { flags }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn news(poller: &mut Poller) -> Vec<(u64, Readiness)> {
        let mut all = Vec::new();
        poller.collect(|id, readiness| all.push((id, readiness))).unwrap();
        all
    }

    const READABLE: Readiness = Readiness { readable: true, writable: false, ended: false, gone: false };

    #[test]
    fn news_is_told_once_and_by_its_id() {
        let (mut far, near) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(&near, 7 << 32, false).unwrap();
        assert_eq!(news(&mut poller), []);
        far.write_all(b"x").unwrap();
        assert_eq!(news(&mut poller), [(7 << 32, READABLE)]);
        assert_eq!(news(&mut poller), [], "nothing new");
        far.write_all(b"y").unwrap();
        assert_eq!(news(&mut poller), [(7 << 32, READABLE)]);
        poller.remove(&near);
        far.write_all(b"z").unwrap();
        assert_eq!(news(&mut poller), []);
    }

    #[test]
    fn room_to_write_is_told_only_while_it_is_of_interest() {
        let (mut far, mut near) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(&near, 1, false).unwrap();
        near.write_all(b"xx").unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(news(&mut poller), []);
        poller.change(&near, 1, true).unwrap();
        assert!(matches!(news(&mut poller)[..], [(1, Readiness { writable: true, readable: false, .. })]));
        poller.change(&near, 1, false).unwrap();
        far.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(news(&mut poller), []);
    }

    #[test]
    fn ends_of_one_way_and_of_both_are_told_apart() {
        let (far, near) = UnixStream::pair().unwrap();
        let mut poller = Poller::new().unwrap();
        poller.add(&near, 1, false).unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        assert_eq!(news(&mut poller), [(1, Readiness { ended: true, ..READABLE })]);
        drop(far);
        assert_eq!(news(&mut poller), [(1, Readiness { ended: true, gone: true, ..READABLE })]);
    }
}
