//! What the threads of a device share: whether there is a link, what was counted, and the settings that the control half
//! and the driver's commands change.
//!
//! Theory of operation. Settings are never changed: a change makes new ones, with a new version, and rings who serves a
//! pair. A pair looks at the version once a pass, takes the new settings, and notes the version in its seat in the pass
//! after that: what it did by the old ones has been shown to the driver by then. So a command is in force when each pair
//! that has a thread has noted its version, and not before is it completed (VIRTIO 1.3, 5.1.6.5.5.1).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use outboard_device::{QueueId, Waker};

use crate::coalescing::Coalescing;
use crate::counters::PairCounters;
use crate::filter::Filter;
use crate::limits::Limits;
use crate::steer::{Crossings, Hashing, Spread};

/// What handlers look at with each packet or pass.
#[derive(Debug)]
pub(crate) struct Shared {
    link: AtomicBool,
    /// Of each pair.
    counters: Vec<Arc<PairCounters>>,
    /// Of the settings. Written under their lock.
    version: AtomicU64,
    settings: Mutex<Arc<Settings>>,
    /// Of each pair.
    seats: Vec<Seat>,
    /// What wakes who carries out the driver's commands.
    control: Mutex<Option<Waker>>,
    pub(crate) crossings: Crossings,
}

/// Who serves a pair, if anybody does.
#[derive(Debug, Default)]
struct Seat {
    waker: Mutex<Option<Waker>>,
    /// The guest receives on the pair.
    receives: AtomicBool,
    /// Which of its queues run.
    enabled: [AtomicBool; 2],
    /// The version that packets are treated by.
    noted: AtomicU64,
}

/// What the front end and the driver have set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The longest packet, its Ethernet header aside, in bytes.
    pub(crate) mtu: Option<u16>,
    /// How much passes at most.
    pub(crate) limits: Limits,
    /// The driver's commands come here, and not to its VMM.
    pub(crate) passed_on: bool,
    /// How many pairs the driver uses; `None`: those that the front end has enabled.
    pub(crate) pairs: Option<u16>,
    /// The work on packets that the driver takes over, as feature bits; `None`: what was agreed.
    pub(crate) offloads: Option<u64>,
    /// What the driver receives; `None`: everything.
    pub(crate) filter: Option<Filter>,
    /// How packets are hashed, to tell the driver or to spread them.
    pub(crate) hashing: Option<Hashing>,
    /// Which pair gets a packet; `None`: the one that what is behind the interface gives it to.
    pub(crate) spread: Option<Spread>,
    /// The address of the interface, if it is known.
    pub(crate) mac: Option<[u8; 6]>,
    /// The driver is to announce itself, and has not said that it did.
    pub(crate) announcing: bool,
    /// When the driver is called.
    pub(crate) coalescing: Coalescing,
}

impl Shared {
    pub(crate) fn new(pairs: u16, settings: Settings) -> Self {
        Self {
            link: AtomicBool::new(true),
            counters: (0..pairs).map(|_| Arc::default()).collect(),
            version: AtomicU64::new(1),
            settings: Mutex::new(Arc::new(settings)),
            seats: (0..pairs).map(|_| Seat::default()).collect(),
            control: Mutex::new(None),
            crossings: Crossings::new(pairs),
        }
    }

    /// Whether packets go through. It orders nothing else.
    pub(crate) fn has_link(&self) -> bool {
        self.link.load(Ordering::Relaxed)
    }

    /// Whether packets go through from now on. True if that was different before.
    pub(crate) fn set_link(&self, up: bool) -> bool {
        self.link.swap(up, Ordering::Relaxed) != up
    }

    /// Where a pair counts.
    pub(crate) fn counters(&self, pair: u16) -> Arc<PairCounters> {
        self.counters.get(usize::from(pair)).map(Arc::clone).unwrap_or_default()
    }

    /// What each pair has counted.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = &PairCounters> + Clone {
        self.counters.iter().map(Arc::as_ref)
    }

    /// The settings as they are now.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&lock(&self.settings))
    }

    /// Changes the settings, and lets the pairs know. The version that they have then.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Settings)) -> u64 {
        let mut settings = lock(&self.settings);
        change(Arc::make_mut(&mut settings));
        let version = self.version.fetch_add(1, Ordering::Release) + 1;
        drop(settings);
        for seat in &self.seats {
            if let Some(waker) = &*lock(&seat.waker) {
                waker.ring();
            }
        }
        version
    }

    /// Whether all that is served is served by the settings of this version, or later ones.
    pub(crate) fn is_in_force(&self, version: u64) -> bool {
        self.seats
            .iter()
            .all(|seat| seat.noted.load(Ordering::Acquire) >= version || lock(&seat.waker).is_none())
    }

    /// Whether a queue runs that packets go through.
    pub(crate) fn is_enabled(&self, QueueId(queue): QueueId) -> bool {
        let seat = self.seats.get(usize::from(queue / 2));
        seat.and_then(|seat| seat.enabled.get(usize::from(queue % 2)))
            .is_some_and(|enabled| enabled.load(Ordering::Acquire))
    }

    /// On how many pairs the guest receives.
    pub(crate) fn receiving(&self) -> usize {
        self.seats.iter().filter(|seat| seat.receives.load(Ordering::Relaxed)).count()
    }

    /// Who is to know when settings come into force; `None`: nobody.
    pub(crate) fn set_control(&self, waker: Option<Waker>) {
        *lock(&self.control) = waker;
    }

    fn ring_control(&self) {
        if let Some(waker) = &*lock(&self.control) {
            waker.ring();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The settings as one pair knows them. It leaves its seat when it is dropped.
pub(crate) struct View {
    shared: Arc<Shared>,
    pair: usize,
    version: u64,
    /// The version is still to be noted.
    unnoted: bool,
    /// Which queues of the pair have run, and do not.
    stopped: [bool; 2],
}

impl View {
    /// Knows of no settings yet.
    pub(crate) fn new(shared: &Arc<Shared>, pair: u16) -> Self {
        Self {
            shared: Arc::clone(shared),
            pair: pair.into(),
            version: 0,
            unnoted: false,
            stopped: [false; 2],
        }
    }

    /// Takes the pair's seat: settings come into force when it has taken them over.
    pub(crate) fn sit(&self, waker: Waker) {
        if let Some(seat) = self.seat() {
            seat.noted.store(0, Ordering::Release);
            *lock(&seat.waker) = Some(waker);
        }
    }

    fn seat(&self) -> Option<&Seat> {
        self.shared.seats.get(self.pair)
    }

    /// The guest receives on the pair, or does not.
    pub(crate) fn set_receives(&self, receives: bool) {
        if let Some(seat) = self.seat() {
            seat.receives.store(receives, Ordering::Relaxed);
        }
    }

    /// A queue of the pair runs from now on, or does not. What the driver has set for it alone is over when it runs again
    /// (VIRTIO 1.3, 5.1.6.5.9), unless the pair was gone meanwhile: that was a pause.
    pub(crate) fn set_enabled(&mut self, queue: QueueId, on: bool) {
        let at = usize::from(queue.0 % 2);
        if let Some(enabled) = self.seat().and_then(|seat| seat.enabled.get(at)) {
            enabled.store(on, Ordering::Release);
        }
        let stopped = self.stopped.get_mut(at).is_some_and(|stopped| std::mem::replace(stopped, !on));
        if on && stopped && self.shared.settings().coalescing.has_own(queue) {
            self.shared.change(|settings| settings.coalescing.forget(queue));
        }
    }

    /// Whether there is something to do for [`View::renew`].
    pub(crate) fn is_old(&self) -> bool {
        self.unnoted || self.shared.version.load(Ordering::Acquire) != self.version
    }

    /// The settings, if they are others than before. To be called once a pass, before there is any packet.
    pub(crate) fn renew(&mut self) -> Option<Arc<Settings>> {
        if std::mem::take(&mut self.unnoted)
            && let Some(seat) = self.seat()
        {
            seat.noted.store(self.version, Ordering::Release);
            self.shared.ring_control();
        }
        if !self.is_old() {
            return None;
        }
        let settings = lock(&self.shared.settings);
        self.version = self.shared.version.load(Ordering::Acquire);
        self.unnoted = true;
        Some(Arc::clone(&settings))
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.set_receives(false);
        if let Some(seat) = self.seat() {
            seat.enabled.iter().for_each(|enabled| enabled.store(false, Ordering::Release));
            *lock(&seat.waker) = None;
        }
        self.shared.ring_control();
    }
}
