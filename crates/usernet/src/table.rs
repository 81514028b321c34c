//! Flows by number, by what they are known as, and by when they are due.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use crate::SocketId;

/// What a flow is known as: a protocol, the guest's end, and the other as the guest knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) protocol: u8,
    pub(crate) guest: SocketAddr,
    pub(crate) far: SocketAddr,
}

/// Flows.
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize>,
    by_socket: HashMap<SocketId, usize>,
    /// Slots that have something to do.
    ready: VecDeque<usize>,
    /// Slots by when they are looked at, which may be for nothing.
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
}

struct Slot<T> {
    flow: Option<(Key, T)>,
    is_ready: bool,
    /// In the timers, once at most.
    armed: Option<Instant>,
    due: Option<Instant>,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            by_socket: HashMap::new(),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Puts a flow in, which is none of those that are there, and says its number.
    pub(crate) fn insert(&mut self, key: Key, socket: Option<SocketId>, flow: T) -> usize {
        let at = self.free.pop().unwrap_or(self.slots.len());
        if at == self.slots.len() {
            self.slots.push(Slot { flow: None, is_ready: false, armed: None, due: None });
        }
        if let Some(slot) = self.slots.get_mut(at) {
            slot.flow = Some((key, flow));
            slot.due = None;
        }
        self.by_key.insert(key, at);
        if let Some(socket) = socket {
            self.by_socket.insert(socket, at);
        }
        at
    }

    /// Takes a flow out.
    pub(crate) fn remove(&mut self, at: usize, socket: Option<SocketId>) -> Option<(Key, T)> {
        let (key, flow) = self.slots.get_mut(at)?.flow.take()?;
        self.by_key.remove(&key);
        if let Some(socket) = socket {
            self.by_socket.remove(&socket);
        }
        self.free.push(at);
        Some((key, flow))
    }

    pub(crate) fn find(&self, key: &Key) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn find_socket(&self, socket: SocketId) -> Option<usize> {
        self.by_socket.get(&socket).copied()
    }

    pub(crate) fn flow(&mut self, at: usize) -> Option<(Key, &mut T)> {
        self.slots.get_mut(at)?.flow.as_mut().map(|(key, flow)| (*key, flow))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| Some((at, &slot.flow.as_ref()?.1)))
    }

    /// The flow has something to do.
    pub(crate) fn set_ready(&mut self, at: usize) {
        if let Some(slot) = self.slots.get_mut(at)
            && !std::mem::replace(&mut slot.is_ready, true)
        {
            self.ready.push_back(at);
        }
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many have something to do.
    pub(crate) fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The next that has something to do.
    pub(crate) fn next_ready(&mut self) -> Option<usize> {
        let at = self.ready.pop_front()?;
        if let Some(slot) = self.slots.get_mut(at) {
            slot.is_ready = false;
        }
        Some(at)
    }

    /// The flow has something to do at this time, and not at another.
    pub(crate) fn set_due(&mut self, at: usize, due: Option<Instant>) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        slot.due = due;
        if let Some(due) = due
            && slot.armed.is_none_or(|armed| due < armed)
        {
            slot.armed = Some(due);
            self.timers.push(Reverse((due, at)));
            // Those that were replaced are left in there; not for ever.
            if self.timers.len() > 4 * self.slots.len() + 64 {
                let armed = self.slots.iter().enumerate();
                self.timers = armed.filter_map(|(at, slot)| Some(Reverse((slot.armed?, at)))).collect();
            }
        }
    }

    /// Makes those ready that are due.
    pub(crate) fn wake(&mut self, now: Instant) {
        while let Some(&Reverse((when, at))) = self.timers.peek()
            && when <= now
        {
            self.timers.pop();
            let Some(slot) = self.slots.get_mut(at).filter(|slot| slot.armed == Some(when)) else { continue };
            slot.armed = None;
            let due = slot.due.filter(|_| slot.flow.is_some());
            if due.is_some_and(|due| due <= now) {
                self.set_ready(at);
            } else {
                self.set_due(at, due);
            }
        }
    }

    /// When somebody is due, or is to be looked at for nothing.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((when, _))| *when)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(port: u16) -> Key {
        Key { protocol: 6, guest: ([10, 0, 2, 15], port).into(), far: ([192, 0, 2, 9], 80).into() }
    }

    #[test]
    fn flow_is_found_until_it_is_removed() {
        let mut table = Table::new();
        let first = table.insert(key(1), Some(SocketId(7)), "first");
        let second = table.insert(key(2), None, "second");
        assert_eq!((table.find(&key(1)), table.find_socket(SocketId(7))), (Some(first), Some(first)));
        assert_eq!(table.remove(first, Some(SocketId(7))), Some((key(1), "first")));
        assert_eq!((table.find(&key(1)), table.find_socket(SocketId(7))), (None, None));
        assert_eq!(table.insert(key(3), None, "third"), first, "its place is used again");
        assert_eq!(table.flow(second).unwrap().1, &"second");
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn flow_is_ready_once_however_often_it_is_said() {
        let mut table = Table::new();
        let at = table.insert(key(1), None, ());
        (0..3).for_each(|_| table.set_ready(at));
        assert_eq!((table.ready_len(), table.next_ready(), table.next_ready()), (1, Some(at), None));
    }

    #[test]
    fn flow_is_woken_when_it_is_due_and_not_before() {
        let (mut table, start) = (Table::new(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let flow = table.insert(key(1), None, ());
        table.set_due(flow, Some(at(5)));
        table.set_due(flow, Some(at(9)));
        table.wake(at(6));
        assert!(!table.has_ready(), "it was put off");
        table.set_due(flow, Some(at(7)));
        table.wake(at(7));
        assert_eq!(table.next_ready(), Some(flow));
        table.wake(at(20));
        // Looked at for nothing, as it is due no more after it was.
        table.set_due(flow, None);
        table.wake(at(30));
        assert_eq!(table.due(), None);
    }

    #[test]
    fn timers_do_not_pile_up() {
        let (mut table, start) = (Table::new(), Instant::now());
        for round in 0..10_000_u64 {
            let flow = table.insert(key(1), None, ());
            table.set_due(flow, Some(start + Duration::from_secs(20_000 - round)));
            table.remove(flow, None);
        }
        assert!(table.timers.len() <= 68);
    }
}
