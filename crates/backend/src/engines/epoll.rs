//! The engine of last resort: epoll for events, host operations executed on the spot.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use outboard_device::{Chain, FileId, HostOp, QueueId, SourceId, Watching, host_io};
use outboard_guest_memory::MemoryMap;
use rustix::event::{Timespec, epoll};

use super::{Completion, Engine, Host, Sleep, fds::drain};
use crate::{Notice, counters::Counters};

/// What an epoll event stands for, packed into its 64 bits of data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    Wake,
    Kick(QueueId),
    Source(SourceId),
}

impl Token {
    fn data(self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Self::Wake => 0,
            Self::Kick(QueueId(queue)) => 1 << 32 | u64::from(queue),
            Self::Source(SourceId(source)) => 2 << 32 | u64::from(source),
        })
    }
}

struct Watch {
    token: Token,
    fd: OwnedFd,
    watching: Watching,
    /// The kernel looks at it.
    armed: bool,
    /// Of the ring that is kicked.
    counters: Option<Arc<Counters>>,
}

pub(crate) struct EpollEngine<Op> {
    epoll: OwnedFd,
    wake: Notice,
    files: Vec<OwnedFd>,
    watched: Vec<Watch>,
    done: VecDeque<Completion<Op>>,
    readable: VecDeque<SourceId>,
    events: Vec<epoll::Event>,
}

impl Watch {
    fn flags(&self) -> epoll::EventFlags {
        match self.watching {
            Watching::Always => epoll::EventFlags::IN,
            Watching::Once => epoll::EventFlags::IN | epoll::EventFlags::ONESHOT,
        }
    }
}

impl<Op> EpollEngine<Op> {
    pub(crate) fn new(wake: Notice) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &wake, Token::Wake.data(), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            wake,
            files: Vec::new(),
            watched: Vec::new(),
            done: VecDeque::new(),
            readable: VecDeque::new(),
            events: Vec::with_capacity(64),
        })
    }

    fn add(&mut self, watch: Watch) -> io::Result<()> {
        self.remove(watch.token);
        epoll::add(&self.epoll, &watch.fd, watch.token.data(), watch.flags())?;
        self.watched.push(watch);
        Ok(())
    }

    fn remove(&mut self, token: Token) {
        if let Some(at) = self.watched.iter().position(|watch| watch.token == token) {
            let watch = self.watched.swap_remove(at);
            let _ = epoll::delete(&self.epoll, &watch.fd);
        }
    }

    /// Whether the kernel looks at something that only it can see.
    fn watches_sources(&self) -> bool {
        self.watched.iter().any(|watch| watch.armed && matches!(watch.token, Token::Source(_)))
    }

    fn collect(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        while let Some(event) = self.events.pop() {
            let data = event.data;
            if data == Token::Wake.data() {
                // Its flag may have been taken before its event came: left there, the event would wake for ever.
                self.wake.quiet();
            }
            let Some(watch) = self.watched.iter_mut().find(|watch| watch.token.data() == data) else {
                continue;
            };
            watch.armed = watch.watching == Watching::Always;
            if let Some(counters) = &watch.counters {
                counters.kicks.add(1);
            }
            match watch.token {
                // A kick that is at its end stays ready for ever and says nothing more.
                token @ Token::Kick(_) if !drain(watch.fd.as_fd()) || event_is_over(event.flags) => {
                    self.remove(token);
                }
                Token::Source(source) => self.readable.push_back(source),
                Token::Kick(_) | Token::Wake => {}
            }
        }
        Ok(())
    }
}

fn event_is_over(flags: epoll::EventFlags) -> bool {
    flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR)
}

impl<Op> Host<Op> for EpollEngine<Op> {
    fn submit(&mut self, host: HostOp, chain: Chain, op: Op) {
        let result = self.at_once(&host, &chain).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        self.done.push_back(Completion { chain, op, result });
    }

    fn at_once(&self, host: &HostOp, chain: &Chain) -> Option<io::Result<u32>> {
        let file = self.files.get(usize::from(host.file().0))?;
        Some(host_io::execute(host, file.as_fd(), chain))
    }

    fn adopt(&mut self, file: OwnedFd) -> io::Result<FileId> {
        let id = u16::try_from(self.files.len()).map_err(|_| io::Error::from(rustix::io::Errno::MFILE))?;
        self.files.push(file);
        Ok(FileId(id))
    }

    fn watch(&mut self, fd: OwnedFd, source: SourceId, watching: Watching) -> io::Result<()> {
        self.add(Watch { token: Token::Source(source), fd, watching, armed: true, counters: None })
    }

    fn rearm(&mut self, source: SourceId) {
        let token = Token::Source(source);
        let Some(watch) = self.watched.iter_mut().find(|watch| watch.token == token && !watch.armed) else {
            return;
        };
        match epoll::modify(&self.epoll, &watch.fd, token.data(), watch.flags()) {
            Ok(()) => watch.armed = true,
            // The kernel has no memory. Nobody may sleep on what it does not look at.
            Err(_) => self.readable.push_back(source),
        }
    }

    fn unwatch(&mut self, source: SourceId) {
        self.remove(Token::Source(source));
        self.readable.retain(|other| *other != source);
    }
}

impl<Op> Engine<Op> for EpollEngine<Op> {
    fn watch_kick(&mut self, queue: QueueId, fd: OwnedFd, counters: Arc<Counters>) -> io::Result<()> {
        let (token, watching) = (Token::Kick(queue), Watching::Always);
        self.add(Watch { token, fd, watching, armed: true, counters: Some(counters) })
    }

    fn unwatch_kick(&mut self, queue: QueueId) {
        self.remove(Token::Kick(queue));
    }

    fn unwatch_all(&mut self) {
        let tokens: Vec<_> = self.watched.iter().map(|watch| watch.token).collect();
        for token in tokens.into_iter().filter(|token| matches!(token, Token::Source(_))) {
            self.remove(token);
        }
        self.readable.clear();
    }

    fn prepared(&mut self) {}

    fn memory(&mut self, _: &MemoryMap) {}

    fn turn(&mut self, sleep: Sleep) -> io::Result<()> {
        if !self.done.is_empty() || !self.readable.is_empty() {
            return Ok(());
        }
        match sleep {
            Sleep::No if !self.watches_sources() => Ok(()),
            sleep => self.collect(sleep.limit()),
        }
    }

    fn completion(&mut self) -> Option<Completion<Op>> {
        self.done.pop_front()
    }

    fn readable(&mut self) -> Option<SourceId> {
        self.readable.pop_front()
    }

    fn must_look(&self) -> bool {
        false
    }

    fn ready(&mut self) -> bool {
        !self.done.is_empty() || !self.readable.is_empty() || self.wake.is_given()
    }

    fn look(&mut self) -> bool {
        // What goes wrong with it goes wrong again in the next turn, which says so.
        (self.watches_sources() && self.collect(Some(Duration::ZERO)).is_err()) || self.ready()
    }

    fn bell(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn hear(&mut self) -> io::Result<()> {
        self.collect(Some(Duration::ZERO))
    }

    fn pending(&self) -> usize {
        self.done.len()
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, time::Instant};

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    const NAP: Duration = Duration::from_millis(30);

    fn engine() -> (EpollEngine<()>, Notice) {
        let wake = Notice::new().unwrap();
        (EpollEngine::new(wake.clone()).unwrap(), wake)
    }

    /// Whether the engine sleeps when it is told to: nothing wakes it.
    fn sleeps(engine: &mut EpollEngine<()>) -> bool {
        let start = Instant::now();
        engine.turn(Sleep::For(NAP)).unwrap();
        start.elapsed() >= NAP
    }

    #[test]
    fn kick_whose_other_side_will_say_nothing_more_does_not_keep_the_engine_awake() {
        let (mut engine, _) = engine();
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        engine.watch_kick(QueueId(0), ours.into(), Arc::default()).unwrap();
        assert!(!sleeps(&mut engine), "the end is an event");
        assert!(sleeps(&mut engine));
    }

    #[test]
    fn kick_that_cannot_be_read_does_not_keep_the_engine_awake() {
        let (mut engine, _) = engine();
        // An epoll instance is readable for as long as something in it is ready, and cannot be read.
        let ready = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        let inner = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&inner, &ready, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
        engine.watch_kick(QueueId(0), inner, Arc::default()).unwrap();
        assert!(!sleeps(&mut engine));
        assert!(sleeps(&mut engine));
    }

    #[test]
    fn kick_taken_by_somebody_else_is_watched_on() {
        let (mut engine, _) = engine();
        let kick = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        engine.watch_kick(QueueId(0), kick.try_clone().unwrap(), Arc::default()).unwrap();
        assert!(!sleeps(&mut engine));
        assert!(sleeps(&mut engine));
        rustix::io::write(&kick, &1_u64.to_ne_bytes()).unwrap();
        assert!(!sleeps(&mut engine));
    }

    #[test]
    fn wake_whose_flag_was_taken_before_its_event_wakes_once() {
        let (mut engine, wake) = engine();
        // Between the flag and the event the giver was interrupted, and the worker took the flag.
        rustix::io::write(&wake, &1_u64.to_ne_bytes()).unwrap();
        assert!(!wake.take());
        assert!(!sleeps(&mut engine));
        assert!(sleeps(&mut engine));
        wake.give();
        assert!(!sleeps(&mut engine));
        assert!(wake.take());
    }

    #[test]
    fn source_no_longer_watched_is_not_reported() {
        let (mut engine, _) = engine();
        let ready = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        engine.watch(ready, SourceId(1), Watching::Always).unwrap();
        engine.turn(Sleep::No).unwrap();
        engine.unwatch(SourceId(1));
        assert_eq!(engine.readable(), None);
    }
}
