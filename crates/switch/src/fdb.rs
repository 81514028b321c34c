//! Where MAC addresses were seen last (IEEE 802.1Q, 8.8: the filtering database). All ports' threads share it.
//!
//! Senders are hostile: a port holds so many entries and no more, takes over few addresses a second that are another's,
//! and never makes room at the cost of others. Where entries lie depends on a secret, so nobody can crowd out the
//! addresses of his choice.
//!
//! Theory of operation. An address can be in one of two buckets of four slots. Who looks takes no lock: he reads key,
//! value and key again. Who writes holds the lock; before a slot changes hands, its key is cleared. So a value that was
//! read between two equal keys is that key's, except that a slot may have gone to another key and back meanwhile: a
//! frame then goes to where its address has just been, at worst, and [`crate::decide()`] asks the port there whether it
//! may. That an address is still in use is written down without the lock, once a second, if nothing has changed.

use std::sync::PoisonError;

#[cfg(loom)]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
#[cfg(not(loom))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

use crate::{Mac, PortId, Vlan};

/// Slots that an address can be in, in each of two places: one cache line.
const WAYS: usize = 4;
/// How often an address may change its port, per second.
const MOVES: u8 = 10;
/// A slot that is in use, in its key.
const IN_USE: u64 = 1 << 63;

/// How much is learned.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries in all: there is room for twice as many, so that few meet in a bucket.
    pub entries: u32,
    /// Entries of one port, unless it is given another share.
    pub per_port: u32,
    /// How long an address is remembered that is not seen any more, in seconds.
    pub age: u32,
}

/// What has become of an address that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was known there.
    Known,
    /// It was not known.
    New,
    /// It was known at another port.
    Moved,
    /// It was not learned: the port has as many as it may have, or there is no room.
    Refused,
    /// It stays with its port: it has moved too often within a second.
    Pinned,
}

/// An address and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// In which VLAN it was seen.
    pub vlan: Vlan,
    /// The address.
    pub mac: Mac,
    /// Where it was seen last.
    pub port: PortId,
    /// When, in seconds.
    pub seen: u32,
}

/// Where MAC addresses were seen last.
#[derive(Debug)]
pub struct Fdb {
    buckets: Box<[Bucket]>,
    secret: [u64; 2],
    limits: Limits,
    /// How many entries each port has. Written under the lock.
    held: Box<[AtomicU32]>,
    /// How many it may have.
    shares: Box<[AtomicU32]>,
    /// When the old ones were last thrown out, in seconds. Written under the lock.
    swept: AtomicU32,
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([Slot; WAYS]);

#[derive(Debug, Default)]
struct Slot {
    key: AtomicU64,
    value: AtomicU64,
}

/// Where and when: the port, how often it has moved in that second, and the second.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Value(u64);

impl Value {
    fn new(PortId(port): PortId, moves: u8, seen: u32) -> Self {
        Self(u64::from(port) << 48 | u64::from(moves) << 32 | u64::from(seen))
    }

    const fn port(self) -> PortId {
        PortId((self.0 >> 48) as u16)
    }

    const fn moves(self) -> u8 {
        (self.0 >> 32) as u8
    }

    const fn seen(self) -> u32 {
        self.0 as u32
    }
}

impl Slot {
    /// Its value, if it is this key's.
    fn read(&self, key: u64) -> Option<Value> {
        if self.key.load(Ordering::Acquire) != key {
            return None;
        }
        let value = self.value.load(Ordering::Acquire);
        (self.key.load(Ordering::Relaxed) == key).then_some(Value(value))
    }

    /// Writes down that the address is in use, unless its value has changed.
    fn touch(&self, value: Value, now: u32) {
        let fresh = Value::new(value.port(), 0, now);
        let _ = self.value.compare_exchange(value.0, fresh.0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Under the lock.
    fn write(&self, key: u64, value: Value) {
        self.clear();
        self.value.store(value.0, Ordering::Release);
        self.key.store(key, Ordering::Release);
    }

    /// Under the lock.
    fn clear(&self) {
        self.key.store(0, Ordering::Relaxed);
    }

    /// What is in it. Under the lock.
    fn held(&self) -> Option<(u64, Value)> {
        let key = self.key.load(Ordering::Relaxed);
        (key != 0).then(|| (key, Value(self.value.load(Ordering::Relaxed))))
    }
}

fn key(vlan: Vlan, Mac([a, b, c, d, e, f]): Mac) -> u64 {
    IN_USE | u64::from(vlan.id()) << 48 | u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

impl Fdb {
    /// An empty one for so many ports. `secret` is random.
    #[must_use]
    pub fn new(limits: Limits, ports: u16, secret: [u64; 2]) -> Self {
        let buckets = (2 * limits.entries as usize).div_ceil(WAYS).next_power_of_two();
        Self {
            buckets: (0..buckets).map(|_| Bucket::default()).collect(),
            secret,
            limits,
            held: (0..ports).map(|_| AtomicU32::new(0)).collect(),
            shares: (0..ports).map(|_| AtomicU32::new(limits.per_port)).collect(),
            swept: AtomicU32::new(0),
            writing: Mutex::new(()),
        }
    }

    /// How many entries a port may have from now on.
    pub fn set_share(&self, port: PortId, entries: u32) {
        if let Some(share) = self.shares.get(usize::from(port.0)) {
            share.store(entries, Ordering::Relaxed);
        }
    }

    /// Where an address is, if that was seen lately.
    #[must_use]
    pub fn find(&self, vlan: Vlan, mac: Mac, now: u32) -> Option<PortId> {
        let (_, value) = self.look(key(vlan, mac))?;
        (!self.is_old(value, now)).then_some(value.port())
    }

    /// An address was seen at a port: takes no lock if it is known there, or cannot be learned.
    pub fn learn(&self, vlan: Vlan, mac: Mac, port: PortId, now: u32) -> Learned {
        let key = key(vlan, mac);
        match self.look(key) {
            Some((slot, value)) if value.port() == port => {
                if value.seen() < now {
                    slot.touch(value, now);
                }
                Learned::Known
            }
            Some((_, value)) if self.is_pinned(value, now) => Learned::Pinned,
            _ if self.is_full(port) && self.swept.load(Ordering::Relaxed) >= now => Learned::Refused,
            _ => self.write(key, port, now),
        }
    }

    /// Forgets all of a port's: it is gone, or is another now.
    pub fn forget(&self, port: PortId) {
        let _writing = self.lock();
        self.clear_all(|value| value.port() == port);
    }

    /// Forgets everything.
    pub fn flush(&self) {
        let _writing = self.lock();
        self.clear_all(|_| true);
    }

    /// All that is known and not old, in no order.
    #[must_use]
    pub fn entries(&self, now: u32) -> Vec<Entry> {
        let _writing = self.lock();
        let slots = self.slots().filter_map(Slot::held).filter(|&(_, value)| !self.is_old(value, now));
        let entries = slots.filter_map(|(key, value)| {
            let [_, _, mac @ ..] = key.to_be_bytes();
            let vlan = Vlan::new((key >> 48) as u16 & 0xfff)?;
            Some(Entry { vlan, mac: Mac(mac), port: value.port(), seen: value.seen() })
        });
        entries.collect()
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.buckets.iter().flat_map(|bucket| &bucket.0)
    }

    /// The slots that a key can be in.
    fn places(&self, key: u64) -> impl Iterator<Item = &Slot> {
        let [first, second] = self.secret;
        let hash = (key ^ first).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = (hash ^ hash >> 32 ^ second).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mask = self.buckets.len() - 1;
        let places = [hash >> 32, hash & 0xffff_ffff].map(|at| at as usize & mask);
        let two = if places[0] == places[1] { 1 } else { 2 };
        places.into_iter().take(two).filter_map(|at| self.buckets.get(at)).flat_map(|bucket| &bucket.0)
    }

    fn look(&self, key: u64) -> Option<(&Slot, Value)> {
        self.places(key).find_map(|slot| slot.read(key).map(|value| (slot, value)))
    }

    fn is_old(&self, value: Value, now: u32) -> bool {
        now.saturating_sub(value.seen()) > self.limits.age
    }

    fn is_pinned(&self, value: Value, now: u32) -> bool {
        value.seen() >= now && value.moves() >= MOVES && !self.is_old(value, now)
    }

    fn is_full(&self, port: PortId) -> bool {
        let at = usize::from(port.0);
        let both = self.held.get(at).zip(self.shares.get(at));
        both.is_none_or(|(held, share)| held.load(Ordering::Relaxed) >= share.load(Ordering::Relaxed))
    }

    fn count(&self, port: PortId, by: i32) {
        if let Some(held) = self.held.get(usize::from(port.0)) {
            held.store(held.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Relaxed);
        }
    }

    fn write(&self, key: u64, port: PortId, now: u32) -> Learned {
        let _writing = self.lock();
        if self.is_full(port) && self.swept.load(Ordering::Relaxed) < now {
            self.sweep(now);
        }
        // Others were here meanwhile.
        let known = self.look(key);
        match known {
            Some((_, value)) if value.port() == port => return Learned::Known,
            Some((_, value)) if self.is_pinned(value, now) => return Learned::Pinned,
            _ if self.is_full(port) => return Learned::Refused,
            _ => {}
        }
        if let Some((slot, value)) = known {
            let moves = if value.seen() >= now { value.moves() + 1 } else { 1 };
            slot.value.store(Value::new(port, moves, now).0, Ordering::Release);
            self.count(value.port(), -1);
            self.count(port, 1);
            return if self.is_old(value, now) { Learned::New } else { Learned::Moved };
        }
        let free = self.places(key).find(|slot| slot.held().is_none_or(|(_, value)| self.is_old(value, now)));
        // Of this port's own, the one that was not seen for longest.
        let free = free.or_else(|| {
            let own = self.places(key).filter_map(|slot| Some((slot, slot.held()?.1)));
            let own = own.filter(|(_, value)| value.port() == port);
            own.min_by_key(|(_, value)| value.seen()).map(|(slot, _)| slot)
        });
        let Some(slot) = free else { return Learned::Refused };
        if let Some((_, value)) = slot.held() {
            self.count(value.port(), -1);
        }
        slot.write(key, Value::new(port, 0, now));
        self.count(port, 1);
        Learned::New
    }

    fn sweep(&self, now: u32) {
        self.swept.store(now, Ordering::Relaxed);
        self.clear_all(|value| self.is_old(value, now));
    }

    fn clear_all(&self, unwanted: impl Fn(Value) -> bool) {
        for slot in self.slots() {
            if let Some((_, value)) = slot.held()
                && unwanted(value)
            {
                slot.clear();
                self.count(value.port(), -1);
            }
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use loom::sync::Arc;
    use loom::thread;

    use super::*;

    const NOW: u32 = 7;

    fn value(port: u16) -> Value {
        Value::new(PortId(port), 0, NOW)
    }

    #[test]
    fn value_that_is_read_is_the_keys() {
        loom::model(|| {
            let slot = Arc::new(Slot::default());
            slot.write(1, value(1));
            let written = Arc::clone(&slot);
            let writes = thread::spawn(move || written.write(2, value(2)));
            for key in [1, 2] {
                assert!(slot.read(key).is_none_or(|read| read == value(key as u16)));
            }
            writes.join().unwrap();
        });
    }
}
