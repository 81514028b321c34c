//! What the halves of a device share: the agent, what stands behind its view, and what the agent is to be told. Locks are
//! around them, because whoever drives the simulation comes from a thread of his own, and what is the host's is read on
//! another one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outboard_daemon::Teller;
use outboard_device::serde_json::{Value, json};
use outboard_device::{Counter, Hotline};
use outboard_scmi_protocols::{Agent, Notice, Platform, Point};

use crate::description::Description;
use crate::host::Host;

/// How many notices wait for the guest at most; later ones are dropped.
const MOST_NOTICES: usize = 256;

/// What the halves share.
pub(crate) struct Shared {
    inner: Mutex<Inner>,
    notices: Mutex<VecDeque<Notice>>,
    /// When sensors are to be looked at.
    next: Mutex<Option<Instant>>,
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
            bell: Hotline::new(1),
            teller,
            names,
            counters: Counters::default(),
        }
    }

    /// The agent. Nobody keeps it for longer than a command takes.
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
        let mut inner = self.lock();
        let Inner { agent, host, notices } = &mut *inner;
        agent.command(command, room, host, (answer, notices));
        self.counters.commands.add(1);
        if answer.get(4..8).is_some_and(|status| status != [0; 4]) {
            self.counters.refused.add(1);
        }
        for (point, value) in host.take_set() {
            let name = self.names.iter().find_map(|(name, &known)| (known == point).then_some(name));
            self.teller.tell(|| json!({ "event": "set", "point": name, "value": value }));
        }
        self.look_in(&mut inner);
    }

    /// Looks at the sensors whose time has come.
    pub(crate) fn look(&self) {
        self.look_in(&mut self.lock());
    }

    fn look_in(&self, inner: &mut Inner) {
        let Inner { agent, host, notices } = inner;
        let next = agent.look(host, notices);
        *lock(&self.next) = next.map(|next| Instant::now() + next.saturating_sub(host.now()));
        self.post(notices);
    }

    /// How long it is until sensors are to be looked at, if any are.
    pub(crate) fn next_look(&self) -> Option<Duration> {
        lock(&self.next).map(|next| next.saturating_duration_since(Instant::now()))
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
