//! What the halves of a device share: the agent, what stands behind its view, and what the agent is to be told. Locks are
//! around them, because whoever drives the simulation comes from a thread of his own, and what is the host's is read on
//! another one. Nobody waits for the host while he has one of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outboard_daemon::Teller;
use outboard_device::serde_json::{Value, json};
use outboard_device::{Counter, Hotline};
use outboard_scmi_protocols::{Agent, Notice, Point};

use crate::backlog::Backlog;
use crate::description::Description;
use crate::host::{Asked, Host, Seen};

/// How many notices wait for the guest at most; later ones are dropped.
const MOST_NOTICES: usize = 256;

/// What the halves share.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    notices: Mutex<VecDeque<Notice>>,
    /// When sensors are to be looked at.
    next: Mutex<Option<Instant>>,
    /// The thread for slow things is to look at them.
    looking: AtomicBool,
    /// It is to ask the host for somebody on the host's side.
    reading: AtomicBool,
    /// Commands that wait for that thread.
    pub(crate) backlog: Backlog,
    /// Whoever has notices rings the handler.
    pub(crate) bell: Hotline<()>,
    /// Whoever drives the simulation hears of what the guest sets.
    pub(crate) teller: Teller,
    /// What people call the points.
    pub(crate) names: BTreeMap<String, Point>,
    pub(crate) counters: Counters,
}

/// The agent, and what it talks to.
pub(crate) struct Inner {
    pub(crate) agent: Agent,
    pub(crate) host: Host,
    pub(crate) notices: Vec<Notice>,
}

/// What was done since the program started.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) commands: Counter,
    /// Commands that were answered with anything but success.
    pub(crate) refused: Counter,
    pub(crate) told: Counter,
    pub(crate) merged: Counter,
    pub(crate) dropped: Counter,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(description: Description, teller: Teller) -> Self {
        let Description { view, host, names } = description;
        Self {
            inner: Mutex::new(Inner { agent: Agent::new(view), host, notices: Vec::new() }),
            notices: Mutex::default(),
            next: Mutex::default(),
            looking: AtomicBool::new(false),
            reading: AtomicBool::new(false),
            backlog: Backlog::default(),
            bell: Hotline::new(1),
            teller,
            names,
            counters: Counters::default(),
        }
    }

    /// The agent. Nobody keeps it for longer than a moment.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    /// The driver starts anew: nothing that was asked for before counts.
    pub(crate) fn forget(&self) {
        self.lock().agent.forget();
        lock(&self.notices).clear();
    }

    /// Carries out a command; `answer` becomes what is answered, at most `room` bytes.
    pub(crate) fn carry_out(&self, command: &[u8], room: usize, answer: &mut Vec<u8>) {
        let mut asked = Asked::default();
        loop {
            let mut inner = self.lock();
            let Inner { agent, host, notices } = &mut *inner;
            let now = host.now();
            let mut seen = Seen::new(host, &mut asked, now);
            agent.command(command, room, &mut seen, (answer, notices));
            let set = seen.set;
            if !asked.is_open() {
                self.carried_out(&mut inner, answer, &set);
                return;
            }
            notices.clear();
            drop(inner);
            asked.ask();
        }
    }

    fn carried_out(&self, inner: &mut Inner, answer: &[u8], set: &[(Point, i64)]) {
        self.counters.commands.add(1);
        if answer.get(4..8).is_some_and(|status| status != [0; 4]) {
            self.counters.refused.add(1);
        }
        for (point, value) in set {
            let name = self.names.iter().find_map(|(name, known)| (known == point).then_some(name));
            self.teller.tell(|| json!({ "event": "set", "point": name, "value": value }));
        }
        let now = inner.host.now();
        let due = inner.agent.due(now);
        if due.iter().any(|&point| inner.host.distant(point).is_some()) {
            // Whoever has sent the command need not wait for that.
            *lock(&self.next) = Some(Instant::now());
            self.post(&mut inner.notices);
        } else {
            self.look_in(inner, &mut Asked::default(), now);
        }
    }

    /// Looks at the sensors whose time has come.
    pub(crate) fn look(&self) {
        let mut inner = self.lock();
        let (now, mut asked) = (inner.host.now(), Asked::default());
        let due = inner.agent.due(now);
        let distant: Vec<_> =
            due.iter().filter_map(|&point| Some((point, inner.host.distant(point)?))).collect();
        if !distant.is_empty() {
            drop(inner);
            for (point, distant) in distant {
                asked.read(point, &distant);
            }
            inner = self.lock();
        }
        self.look_in(&mut inner, &mut asked, now);
    }

    fn look_in(&self, inner: &mut Inner, asked: &mut Asked, now: Duration) {
        let Inner { agent, host, notices } = inner;
        let next = agent.look(&mut Seen::new(host, asked, now), notices);
        *lock(&self.next) = next.map(|next| Instant::now() + next.saturating_sub(host.now()));
        self.post(notices);
    }

    /// How long it is until sensors are to be looked at, if any are, and nobody does already.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        let next = lock(&self.next).filter(|_| !self.looking.load(Ordering::Acquire));
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// The thread for slow things is to look at the sensors. False if it was told so before, and has not.
    pub(crate) fn begin_look(&self) -> bool {
        !self.looking.swap(true, Ordering::AcqRel)
    }

    /// It has: the handler plans the next time.
    pub(crate) fn end_look(&self) {
        self.looking.store(false, Ordering::Release);
        let _ = self.bell.tell(());
    }

    /// The thread for slow things is to [read](Self::read). False if it was told so before, and has not.
    pub(crate) fn begin_read(&self) -> bool {
        !self.reading.swap(true, Ordering::AcqRel)
    }

    /// Asks the host what points are.
    pub(crate) fn read(&self, points: &[Point]) {
        for &point in points {
            let distant = self.lock().host.distant(point);
            if let Some(distant) = distant {
                // What it says is kept there.
                let _ = distant.read();
            }
        }
        self.reading.store(false, Ordering::Release);
    }

    /// Has the agent told of all of `notices`, when it has room for them. Of those that say how things are, the last of each
    /// kind is enough.
    pub(crate) fn post(&self, notices: &mut Vec<Notice>) {
        if notices.is_empty() {
            return;
        }
        let mut waiting = lock(&self.notices);
        for notice in notices.drain(..) {
            if let Some(old) = waiting.iter_mut().find(|old| old.is_outdated_by(&notice)) {
                *old = notice;
                self.counters.merged.add(1);
            } else if waiting.len() < MOST_NOTICES {
                waiting.push_back(notice);
            } else {
                self.counters.dropped.add(1);
            }
        }
        drop(waiting);
        // It is rung already, or there is nobody: the next one looks when it starts.
        let _ = self.bell.tell(());
    }

    /// Gives away the notice that has waited longest. False if there is none, or it is not taken.
    pub(crate) fn give_notice(&self, take: impl FnOnce(&Notice) -> bool) -> bool {
        let mut waiting = lock(&self.notices);
        let given = waiting.front().is_some_and(take);
        if given {
            waiting.pop_front();
            self.counters.told.add(1);
        }
        given
    }

    pub(crate) fn status(&self) -> Value {
        let Counters { commands, refused, told, merged, dropped } = &self.counters;
        json!({
            "commands": commands.value(),
            "refused": refused.value(),
            "notifications": {
                "sent": told.value(),
                "merged": merged.value(),
                "dropped": dropped.value(),
                "waiting": lock(&self.notices).len(),
            },
        })
    }
}
