//! What other threads hand to a handler, by the batch.
//!
//! Theory of operation: a vector under a lock, with its length in front. Who posts appends a batch, who takes swaps the
//! whole vector for an empty one: one lock per batch and side, none per item, and no allocation once both vectors have
//! grown. Whether there is something is seen without the lock. Both ends trust each other to be alive: an inbox that
//! is dropped closes, and its outlets learn of it at the next post.

use std::sync::PoisonError;

use crate::Waker;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard};

/// Both ends of a way to the worker that `waker` wakes, for at most `room` items at a time.
#[must_use]
pub fn inbox<T: Send>(room: usize, waker: Waker) -> (Inbox<T>, Outlet<T>) {
    let shared =
        Arc::new(Shared { items: Mutex::new(Some(Vec::new())), count: AtomicUsize::new(0), room, waker });
    (Inbox(Arc::clone(&shared)), Outlet(shared))
}

/// The handler's end. Dropped, it closes, and drops what was posted.
#[derive(Debug)]
pub struct Inbox<T>(Arc<Shared<T>>);

/// The end of those who have something for the handler. Clones lead to the same.
#[derive(Debug)]
pub struct Outlet<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    /// `None`: closed.
    items: Mutex<Option<Vec<T>>>,
    /// How many there are. Written under the lock.
    count: AtomicUsize,
    room: usize,
    waker: Waker,
}

impl<T> Shared<T> {
    fn items(&self) -> MutexGuard<'_, Option<Vec<T>>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send> Inbox<T> {
    /// Moves all that was posted to the end of `into`, oldest first.
    pub fn take(&mut self, into: &mut Vec<T>) {
        if !self.is_ready() {
            return;
        }
        let mut items = self.0.items();
        if let Some(items) = &mut *items {
            if into.is_empty() {
                std::mem::swap(items, into);
            } else {
                into.append(items);
            }
        }
        self.0.count.store(0, Ordering::Relaxed);
    }

    /// Whether there is something: for [`crate::Handler::is_ready`]. No lock.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }
}

impl<T> Inbox<T> {
    /// Takes nothing more. What was posted and not taken.
    pub fn close(&mut self) -> Vec<T> {
        self.0.count.store(0, Ordering::Relaxed);
        self.0.items().take().unwrap_or_default()
    }
}

impl<T> Drop for Inbox<T> {
    fn drop(&mut self) {
        // Dropped without the lock: an item may post when it goes.
        drop(self.close());
    }
}

impl<T: Send> Outlet<T> {
    /// Posts all of `items`, or as many of the first as there is room for, and wakes the worker. Says how many; the
    /// others stay.
    pub fn post(&self, items: &mut Vec<T>) -> usize {
        self.put(|posted, room| {
            let count = room.min(items.len());
            posted.extend(items.drain(..count));
        })
    }

    /// Posts one item, or gives it back.
    pub(crate) fn post_one(&self, item: T) -> Result<(), T> {
        let mut item = Some(item);
        self.put(|posted, room| posted.extend(item.take_if(|_| room > 0)));
        item.map_or(Ok(()), Err)
    }

    /// Adds what `add` adds to what is posted, which has room for so many more. Says how many those were.
    fn put(&self, add: impl FnOnce(&mut Vec<T>, usize)) -> usize {
        let mut items = self.0.items();
        let Some(posted) = &mut *items else { return 0 };
        let before = posted.len();
        add(posted, self.0.room.saturating_sub(before));
        let count = posted.len() - before;
        self.0.count.store(posted.len(), Ordering::Relaxed);
        drop(items);
        if count > 0 {
            self.0.waker.ring();
        }
        count
    }

    /// Whether nobody takes any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.items().is_none()
    }
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[cfg(all(test, loom))]
mod model {
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    use super::*;

    /// A waker, and whether it has woken.
    fn rung() -> (Waker, Arc<AtomicBool>) {
        let woken = Arc::new(AtomicBool::new(false));
        let bell = Arc::clone(&woken);
        (Waker::new(move || bell.store(true, Ordering::Relaxed)), woken)
    }

    #[test]
    fn items_posted_while_the_worker_lies_down_are_seen_or_wake_it() {
        loom::model(|| {
            let (waker, woken) = rung();
            let (mut inbox, outlet) = inbox(9, waker.clone());
            let post = thread::spawn(move || outlet.post(&mut vec![1, 2]));
            let mut taken = Vec::new();
            inbox.take(&mut taken);
            waker.sleep();
            let seen = inbox.is_ready() || !taken.is_empty();
            assert_eq!(post.join().unwrap(), 2);
            assert!(seen || woken.load(Ordering::Relaxed), "it sleeps for ever");
            waker.awake();
            inbox.take(&mut taken);
            assert_eq!(taken, [1, 2]);
        });
    }

    #[test]
    fn items_of_two_who_post_are_all_taken() {
        loom::model(|| {
            let (waker, _) = rung();
            let (mut inbox, outlet) = inbox(9, waker);
            let posts = [1, 2].map(|item| {
                let outlet = outlet.clone();
                thread::spawn(move || assert_eq!(outlet.post(&mut vec![item]), 1))
            });
            let mut taken = Vec::new();
            inbox.take(&mut taken);
            posts.into_iter().for_each(|post| post.join().unwrap());
            assert_eq!(inbox.is_ready(), taken.len() < 2);
            inbox.take(&mut taken);
            taken.sort_unstable();
            assert_eq!(taken, [1, 2]);
        });
    }

    #[test]
    fn items_posted_while_the_inbox_closes_are_taken_or_kept() {
        loom::model(|| {
            let (waker, _bell) = rung();
            let (mut inbox, outlet) = inbox(9, waker);
            let posts = thread::spawn(move || {
                let mut items = vec![1];
                outlet.post(&mut items);
                items.len()
            });
            let closed = inbox.close().len();
            assert_eq!(closed + posts.join().unwrap(), 1);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    fn counted(room: usize) -> (Inbox<u32>, Outlet<u32>, Waker, Arc<AtomicU32>) {
        let woken = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&woken);
        let waker = Waker::new(move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        let (inbox, outlet) = inbox(room, waker.clone());
        (inbox, outlet, waker, woken)
    }

    #[test]
    fn items_come_in_order_and_wake_a_worker_that_sleeps() {
        let (mut inbox, outlet, waker, woken) = counted(100);
        let mut taken = Vec::new();
        assert!(!inbox.is_ready());
        outlet.post(&mut vec![1, 2]);
        waker.sleep();
        assert!(inbox.is_ready());
        outlet.clone().post(&mut vec![3]);
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        inbox.take(&mut taken);
        assert!(!inbox.is_ready());
        outlet.post(&mut vec![4]);
        inbox.take(&mut taken);
        assert_eq!(taken, [1, 2, 3, 4]);
    }

    #[test]
    fn items_beyond_the_room_stay_with_who_has_them() {
        let (mut inbox, outlet, waker, woken) = counted(3);
        waker.sleep();
        let mut items = (0..5).collect::<Vec<_>>();
        assert_eq!((outlet.post(&mut items), outlet.post(&mut items)), (3, 0));
        assert_eq!(items, [3, 4]);
        assert_eq!(woken.load(Ordering::Relaxed), 1, "nothing new, nobody is woken");
        inbox.take(&mut Vec::new());
        assert_eq!(outlet.post(&mut items), 2);
        assert!(items.is_empty());
    }

    #[test]
    fn inbox_that_is_gone_takes_nothing() {
        let (inbox, outlet, ..) = counted(3);
        outlet.post(&mut vec![1]);
        assert!(!outlet.is_closed());
        drop(inbox);
        assert!(outlet.is_closed());
        let mut items = vec![2];
        assert_eq!(outlet.post(&mut items), 0);
        assert_eq!(items, [2]);
    }
}
