//! What the ports of a switch share. Every port's own threads come here, and nobody else.
//!
//! Theory of operation. A [`Plan`] is never changed: a change makes a new one, with a new generation, and a thread that
//! finds its own to be old takes the new one at its next packet or pass. The generation is written after the plan; who
//! reads a new generation and still finds the plan before takes it again. What a thread does by an old plan ends at
//! inboxes that are closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use outboard_device::{DeviceError, Outlet, SharedBucket};
use outboard_switch::{Fdb, Limits, PortId, PortSettings, Ports};

use super::HouseOptions;
use super::delivery::Delivery;
use super::uplink::Wire;
use crate::backlog::Backlog;

/// The most ports of a switch.
const MAX_PORTS: u16 = 1024;
/// The most MAC addresses of a port.
const PER_PORT: u32 = 256;

/// A switch.
#[derive(Debug)]
pub(super) struct Switch {
    name: String,
    pub(super) fdb: Fdb,
    pub(super) flood_pps: u32,
    /// As many as may be learned, more or less.
    entries: u32,
    started: Instant,
    generation: AtomicU64,
    plan: Mutex<Arc<Plan>>,
    /// Held by who makes another one.
    changing: Mutex<()>,
}

/// Who is there, and how to reach them.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    pub(super) ports: Ports,
    /// Of each port, by its number. Plans share those that have not changed.
    ends: Vec<Arc<End>>,
}

/// Where a port's packets go.
#[derive(Clone, Debug, Default)]
struct End {
    /// The number is in use, be it by a thread of a port that has left.
    taken: bool,
    name: String,
    /// It leads out of the process, and has no pairs.
    wire: Option<Arc<Wire>>,
    /// Of each pair that receives, by its number.
    pairs: Vec<(u16, Entrance)>,
}

/// The way to a pair that receives.
#[derive(Clone, Debug)]
pub(super) struct Entrance {
    pub(super) outlet: Outlet<Delivery>,
    /// Frames that wait there.
    pub(super) frames: Backlog,
}

impl Plan {
    /// Where packets for a port go that come from pair `from` of another; `None`: it receives nothing.
    pub(super) fn entrance(&self, PortId(port): PortId, from: u16) -> Option<&Entrance> {
        let pairs = &self.ends.get(usize::from(port))?.pairs;
        // Those of one pair go to one pair: they stay in order.
        pairs.get(usize::from(from).checked_rem(pairs.len())?).map(|(_, entrance)| entrance)
    }

    /// The way out, if the port is one.
    pub(super) fn wire(&self, PortId(port): PortId) -> Option<&Wire> {
        self.ends.get(usize::from(port))?.wire.as_deref()
    }

    /// All ways out.
    pub(super) fn wires(&self) -> impl Iterator<Item = &Wire> {
        self.ends.iter().filter_map(|end| end.wire.as_deref())
    }

    /// What a port is called.
    pub(super) fn name(&self, PortId(port): PortId) -> &str {
        self.ends.get(usize::from(port)).map_or("", |end| &end.name)
    }
}

impl Switch {
    pub(super) fn new(name: &str, options: &HouseOptions) -> Self {
        let limits = Limits { entries: options.fdb_size, per_port: PER_PORT, age: options.fdb_age };
        let mut secret = [[0; 8]; 2];
        // Without, addresses could be chosen to meet in a bucket: they would be flooded, not lost.
        let _ = rustix::rand::getrandom(secret.as_flattened_mut(), rustix::rand::GetRandomFlags::empty());
        Self {
            name: name.to_owned(),
            fdb: Fdb::new(limits, MAX_PORTS, secret.map(u64::from_ne_bytes)),
            flood_pps: options.flood_pps,
            entries: options.fdb_size,
            started: Instant::now(),
            generation: AtomicU64::new(0),
            plan: Mutex::default(),
            changing: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The time by which addresses are remembered, in seconds.
    pub(super) fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.started).as_secs()).unwrap_or(u32::MAX)
    }

    /// Adds a port.
    ///
    /// # Errors
    /// There is no place left.
    pub(super) fn join(
        self: &Arc<Self>,
        name: &str,
        settings: PortSettings,
        wire: Option<Arc<Wire>>,
    ) -> Result<Arc<Seat>, DeviceError> {
        let port = self.change(|plan| {
            let taken = |port: &PortId| plan.ends.get(usize::from(port.0)).is_some_and(|end| end.taken);
            let free = (0..MAX_PORTS).map(PortId).find(|port| !taken(port));
            let port = free.ok_or_else(|| {
                DeviceError::Invalid(format!("the switch {} has {MAX_PORTS} ports already", self.name))
            })?;
            plan.ports.set(port, Some(settings));
            let at = usize::from(port.0);
            if plan.ends.len() <= at {
                plan.ends.resize_with(at + 1, Arc::default);
            }
            if let Some(end) = plan.ends.get_mut(at) {
                // Behind a way out there may be a whole network.
                self.fdb.set_share(port, if wire.is_some() { self.entries / 2 } else { PER_PORT });
                *end = Arc::new(End { taken: true, name: name.to_owned(), wire, pairs: Vec::new() });
            }
            Ok(port)
        })?;
        Ok(Arc::new(Seat { switch: Arc::clone(self), port }))
    }

    /// Removes a port. A thread of it may still run, and has the number to itself ([`Seat`]).
    pub(super) fn leave(&self, port: PortId) {
        self.put_away(port, End { taken: true, ..End::default() });
    }

    fn put_away(&self, port: PortId, left: End) {
        self.change(|plan| {
            plan.ports.set(port, None);
            if let Some(end) = plan.ends.get_mut(usize::from(port.0)) {
                *end = Arc::new(left);
            }
        });
        self.fdb.forget(port);
    }

    /// A port is another from now on: what was learned of it is forgotten.
    pub(super) fn set(&self, port: PortId, settings: PortSettings) {
        self.change(|plan| plan.ports.set(port, Some(settings)));
        self.fdb.forget(port);
    }

    /// A pair of a port receives from now on.
    pub(super) fn attach(&self, port: PortId, pair: u16, outlet: Outlet<Delivery>) {
        let entrance = Entrance { outlet, frames: Backlog::default() };
        self.change(|plan| {
            if plan.ports.find(port).is_some()
                && let Some(end) = plan.ends.get_mut(usize::from(port.0)).map(Arc::make_mut)
            {
                end.pairs.retain(|(other, _)| *other != pair);
                end.pairs.push((pair, entrance));
                end.pairs.sort_by_key(|(pair, _)| *pair);
            }
        });
    }

    /// A pair of a port receives no more.
    pub(super) fn detach(&self, port: PortId, pair: u16) {
        self.change(|plan| {
            if let Some(end) = plan.ends.get_mut(usize::from(port.0)).map(Arc::make_mut) {
                end.pairs.retain(|(other, _)| *other != pair);
            }
        });
    }

    /// How it is now.
    pub(super) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.lock())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Plan) -> T) -> T {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        // Those who look it up meanwhile are not kept waiting.
        let mut plan = Plan::clone(&self.plan());
        let answer = change(&mut plan);
        let old = std::mem::replace(&mut *self.lock(), Arc::new(plan));
        self.generation.fetch_add(1, Ordering::Release);
        drop(old);
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Plan>> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to a port's number: all who use it hold it, and who is last gives it back.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) switch: Arc<Switch>,
    pub(super) port: PortId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.switch.put_away(self.port, End::default());
    }
}

/// Packets of a port that go to everybody: so many a second, over all its pairs, and a tenth of that at once.
#[derive(Debug)]
pub(super) struct Floods(SharedBucket);

impl Floods {
    pub(super) fn new(per_second: u32) -> Self {
        Self(SharedBucket::new(per_second.into(), (per_second / 10).into()))
    }

    /// Whether so many more may go: all of them, or none. More than there may be at once have their turn when that many may
    /// go, and those behind them wait for it.
    pub(super) fn admit(&self, frames: u64, now: Instant) -> bool {
        let admitted = self.0.reserve(frames, now).is_zero();
        if !admitted {
            self.0.give_back(frames);
        }
        admitted
    }
}

/// The switch as one thread sees it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) switch: Arc<Switch>,
    generation: u64,
    pub(super) plan: Arc<Plan>,
}

impl View {
    pub(super) fn new(switch: &Arc<Switch>) -> Self {
        let generation = switch.generation.load(Ordering::Acquire);
        Self { generation, plan: switch.plan(), switch: Arc::clone(switch) }
    }

    /// Follows what has changed. No lock if nothing has.
    pub(super) fn renew(&mut self) {
        let generation = self.switch.generation.load(Ordering::Acquire);
        if generation != self.generation {
            self.generation = generation;
            self.plan = self.switch.plan();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floods_of_many_frames_are_paid_for_frame_by_frame() {
        let floods = Floods::new(1000);
        let start = Instant::now();
        let at = |ms| start + std::time::Duration::from_millis(ms);
        assert!(floods.admit(60, at(0)));
        assert!(!floods.admit(60, at(0)), "of a tenth of a second's there are 40 left");
        assert!(floods.admit(40, at(0)));
        assert!(!floods.admit(1, at(0)));
        assert!(!floods.admit(256, at(99)));
        assert!(floods.admit(256, at(100)), "more than there ever are at once");
        assert!(!floods.admit(1, at(250)));
        assert!(floods.admit(1, at(257)));
    }

    #[test]
    fn plans_share_the_ports_that_have_not_changed() {
        let switch = Arc::new(Switch::new("s", &HouseOptions::default()));
        let join = |name| switch.join(name, PortSettings::default(), None).unwrap();
        let [a, b] = ["a", "b"].map(join);
        let before = switch.plan();
        switch.set(b.port, PortSettings { isolated: true, ..PortSettings::default() });
        switch.detach(b.port, 0);
        let after = switch.plan();
        let at = |plan: &Plan, port: PortId| Arc::as_ptr(&plan.ends[usize::from(port.0)]);
        assert_eq!(at(&before, a.port), at(&after, a.port));
        assert_ne!(at(&before, b.port), at(&after, b.port));
        let settings = |plan: &Plan, port| std::ptr::from_ref(plan.ports.find(port).unwrap());
        assert_eq!(settings(&before, a.port), settings(&after, a.port));
        assert_ne!(settings(&before, b.port), settings(&after, b.port));
    }
}
