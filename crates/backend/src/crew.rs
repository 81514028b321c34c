//! A crew: a few threads that serve the workers of many devices, so that those which pass requests on to each other do
//! so on one core. The workers are trusted to return; what their front ends and guests do is not.
//!
//! Theory of operation. A worker is grown on the thread that serves it and stays there. The thread has each of its
//! workers take a step in turn. When none had anything to do it spins, by one account for all, and then has each say that
//! it sleeps and look for the last time, and sleeps on the bells of all of them: an epoll instance that holds those of
//! their engines, and its own for workers that are to come.
//!
//! A worker that panics is over, as a thread of its own would be: its connection ends, the others go on. Its chains are
//! lost. A worker that a front end holds up holds up all: the watchdog frees it.

use std::{
    fmt, io,
    num::NonZeroU16,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::event::{Timespec, epoll};
use tracing::Span;

use crate::{
    Notice, Placement, Polling,
    engines::{Sleep, Spin},
    group::{Farewell, WorkerError},
    rings::thread_name,
    watchdog,
};

/// What the thread's own bell is called among those of its workers.
const OWN: u64 = 0;

/// What came of a worker's step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There was nothing to do.
    Idle,
    /// There was something to do.
    Busy,
    /// It has ended, and takes no more steps.
    Over,
}

/// A worker, as the thread that serves it sees it.
pub(crate) trait Hand {
    /// Serves on this thread alone, until the end.
    fn run(self: Box<Self>);
    /// What to sleep on after all [lay down](Hand::lie_down): readable if it has something to do.
    fn bell(&self) -> BorrowedFd<'_>;
    /// Does what there is to do.
    fn step(&mut self) -> Step;
    /// Whether it may not sleep, if those that poll do so for ever (`endless`) or for a while.
    fn must_look(&mut self, endless: bool) -> bool;
    /// Has what it waits for watched, so that [`Hand::look`] sees it. False if there is something already.
    fn expect(&mut self) -> bool;
    /// Whether there is something to do. Cheap: it is asked again and again.
    fn look(&mut self) -> bool;
    /// Asks to be woken, and says how long it may sleep; `None`: there is something to do.
    fn lie_down(&mut self) -> Option<Sleep>;
    /// The thread is awake again.
    fn get_up(&mut self);
    /// Its bell rang: makes it quiet.
    fn hear(&mut self);
}

/// Makes a worker, on the thread that is to serve it; `None` if it cannot start, which was reported.
pub(crate) type Grow = Box<dyn FnOnce() -> Option<Box<dyn Hand>> + Send>;

/// A few threads that serve the workers of many devices, each worker on one of them. Clones are the same crew; its
/// threads end when the last clone is dropped and the last worker has ended.
#[derive(Clone)]
pub struct Crew(Arc<[Thread]>);

/// A thread of a crew, as others see it.
struct Thread {
    recruits: Option<Sender<Recruit>>,
    wake: Notice,
    /// How many workers it has, or is to get.
    members: Arc<AtomicUsize>,
}

/// A worker that is to be.
struct Recruit {
    grow: Grow,
    farewell: Farewell,
    device: Span,
    place: Place,
}

/// A worker's place on a thread.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Crew {
    /// Starts `threads` threads, which wait for work as `polling` says and run where `placement` says.
    ///
    /// # Errors
    /// The process may have no more threads or descriptors.
    pub fn new(name: &str, threads: NonZeroU16, polling: Polling, placement: &Placement) -> io::Result<Self> {
        watchdog::start();
        let start = |nth| {
            let (recruits, inbox) = mpsc::channel();
            let wake = Notice::new()?;
            let bells = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            epoll::add(&bells, &wake, epoll::EventData::new_u64(OWN), epoll::EventFlags::IN)?;
            let (own_wake, placement) = (wake.clone(), placement.clone());
            thread::Builder::new().name(thread_name(name, nth)).spawn(move || {
                placement.settle(nth);
                let watch = Watch {
                    recruits: inbox,
                    wake: own_wake,
                    members: Vec::new(),
                    next: OWN + 1,
                    bells,
                    events: Vec::with_capacity(64),
                    spin: Spin::new(polling, Instant::now()),
                };
                watch.keep();
            })?;
            Ok(Thread { recruits: Some(recruits), wake, members: Arc::default() })
        };
        (0..usize::from(threads.get())).map(start).collect::<io::Result<_>>().map(Self)
    }

    /// Has the thread with the fewest workers grow one more and serve it.
    pub(crate) fn take_on(&self, grow: Grow, farewell: Farewell, device: Span) -> Result<(), WorkerError> {
        let fewest = |thread: &&Thread| thread.members.load(Ordering::Relaxed);
        let thread = self.0.iter().min_by_key(fewest).ok_or(WorkerError::Gone)?;
        thread.members.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&thread.members));
        let recruits = thread.recruits.as_ref().ok_or(WorkerError::Gone)?;
        recruits.send(Recruit { grow, farewell, device, place }).map_err(|_| WorkerError::Gone)?;
        thread.wake.give();
        Ok(())
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.0.iter().map(|thread| thread.members.load(Ordering::Relaxed));
        f.debug_tuple("Crew").field(&members.collect::<Vec<_>>()).finish()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.recruits = None;
        self.wake.give();
    }
}

/// A worker on its thread. What it leaves behind is left when it is gone.
struct Member {
    hand: Option<Box<dyn Hand>>,
    /// Its bell.
    number: u64,
    device: Span,
    farewell: Farewell,
    _place: Place,
}

impl Member {
    /// Has it do something; `None` if it is no more, or is no more now.
    fn ask<T>(&mut self, act: impl FnOnce(&mut dyn Hand) -> T) -> Option<T> {
        let hand = self.hand.as_deref_mut()?;
        let entered = self.device.enter();
        // Whatever state it is in: nobody looks at it again, but to drop it.
        let outcome = catch_unwind(AssertUnwindSafe(|| act(hand)));
        drop(entered);
        if outcome.is_err() {
            self.farewell.died.give();
            self.leave();
        }
        outcome.ok()
    }

    fn leave(&mut self) {
        let hand = self.hand.take();
        let _entered = self.device.enter();
        if catch_unwind(AssertUnwindSafe(|| drop(hand))).is_err() {
            self.farewell.died.give();
        }
    }
}

/// A thread of a crew, as it sees itself.
struct Watch {
    recruits: Receiver<Recruit>,
    wake: Notice,
    members: Vec<Member>,
    /// The number of the next one.
    next: u64,
    bells: OwnedFd,
    events: Vec<epoll::Event>,
    spin: Spin,
}

impl Watch {
    /// Serves until there is nobody left to serve, nor to come.
    fn keep(mut self) {
        let mut closed = false;
        loop {
            closed |= self.wake.take() && !self.admit();
            if self.step() {
                continue;
            }
            if closed && self.members.is_empty() {
                return;
            }
            if self.spin_for_work() {
                continue;
            }
            if let Some(longest) = self.lie_down() {
                self.sleep(longest);
            }
            for member in &mut self.members {
                member.ask(|hand| hand.get_up());
            }
        }
    }

    /// Takes on who is waiting. False if nobody comes any more.
    fn admit(&mut self) -> bool {
        loop {
            match self.recruits.try_recv() {
                Ok(recruit) => self.take_on(recruit),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn take_on(&mut self, Recruit { grow, farewell, device, place }: Recruit) {
        let entered = device.enter();
        let Ok(hand) = catch_unwind(AssertUnwindSafe(grow)) else {
            return farewell.died.give();
        };
        drop(entered);
        let mut member = Member { hand, number: self.next, device, farewell, _place: place };
        self.next += 1;
        let (bells, token) = (self.bells.as_fd(), epoll::EventData::new_u64(member.number));
        let heard = member.ask(|hand| {
            epoll::add(bells, hand.bell(), token, epoll::EventFlags::IN).map_err(io::Error::from)
        });
        if let Some(Err(error)) = heard {
            tracing::error!("a worker cannot be waited for: {error}");
            member.farewell.died.give();
            member.leave();
        }
        self.members.push(member);
    }

    /// A step of each. True if one of them had something to do.
    fn step(&mut self) -> bool {
        let mut busy = false;
        self.members.retain_mut(|member| {
            match member.ask(|hand| hand.step()) {
                Some(Step::Idle) => {}
                Some(Step::Busy) => busy = true,
                Some(Step::Over) => member.leave(),
                None => {}
            }
            member.hand.is_some()
        });
        busy
    }

    /// Waits for work without sleeping. True if there is some, or if it is not known.
    fn spin_for_work(&mut self) -> bool {
        let endless = self.spin.is_endless();
        let mut must = false;
        for member in &mut self.members {
            must |= member.ask(|hand| hand.must_look(endless)) == Some(true);
        }
        if must {
            return true;
        }
        let start = Instant::now();
        let allowance = self.spin.allowance(start);
        if allowance.is_zero() || self.members.is_empty() {
            return false;
        }
        for member in &mut self.members {
            if member.ask(|hand| hand.expect()) != Some(true) {
                return true;
            }
        }
        loop {
            let found = self.wake.is_given()
                || self.members.iter_mut().any(|member| member.ask(|hand| hand.look()) != Some(false));
            let now = Instant::now();
            if found || now.duration_since(start) >= allowance {
                self.spin.spun(start, now, found);
                return found;
            }
        }
    }

    /// Has all of them ask to be woken. How long the thread may sleep; `None` if somebody has something to do.
    fn lie_down(&mut self) -> Option<Sleep> {
        let mut longest = Sleep::Forever;
        for member in &mut self.members {
            longest = longest.shorter(member.ask(|hand| hand.lie_down())??);
        }
        (!self.wake.is_given()).then_some(longest)
    }

    fn sleep(&mut self, longest: Sleep) {
        let timeout = longest.limit().and_then(|longest| Timespec::try_from(longest).ok());
        self.spin.sleeps(Instant::now());
        self.events.clear();
        match epoll::wait(&self.bells, rustix::buffer::spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!("the crew cannot sleep: {error}");
                // Do not turn a broken thread into a busy one.
                thread::sleep(Duration::from_millis(10));
            }
        }
        self.spin.woken(Instant::now());
        while let Some(event) = self.events.pop() {
            let number = event.data.u64();
            if number == OWN {
                self.wake.quiet();
            } else if let Some(member) = self.members.iter_mut().find(|member| member.number == number) {
                member.ask(|hand| hand.hear());
            }
        }
    }
}
