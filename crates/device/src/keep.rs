//! What a device keeps from one handler to the next: what its guest has set (docs/decisions/008).
//!
//! Theory of operation. The thing lies in a drawer between its users. A handler takes it along and owns it: no lock while
//! it works. At its end it goes back by itself, unless the handler panicked: then nobody knows what state it is in, it is
//! gone, and the next to ask gets a new one. The two sides trust each other.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::DeviceError;

/// Where the thing is kept.
pub struct Keep<T> {
    drawer: Arc<Mutex<Drawer<T>>>,
    make: Box<dyn Fn() -> Result<T, DeviceError> + Send + Sync>,
}

enum Drawer<T> {
    There(T),
    Taken,
    Gone,
}

fn open<T>(drawer: &Mutex<Drawer<T>>) -> MutexGuard<'_, Drawer<T>> {
    drawer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Send> Keep<T> {
    /// Makes the thing.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn new(
        make: impl Fn() -> Result<T, DeviceError> + Send + Sync + 'static,
    ) -> Result<Self, DeviceError> {
        let drawer = Arc::new(Mutex::new(Drawer::There(make()?)));
        Ok(Self { drawer, make: Box::new(make) })
    }

    /// Takes it, for a handler.
    ///
    /// # Errors
    /// The last handler still has it, or it went with that one and cannot be made anew.
    pub fn take(&self) -> Result<Taken<T>, DeviceError> {
        let mut drawer = open(&self.drawer);
        let thing = match std::mem::replace(&mut *drawer, Drawer::Taken) {
            Drawer::There(thing) => thing,
            Drawer::Taken => {
                return Err(DeviceError::Invalid("the queues that ran before have not ended yet".to_owned()));
            }
            Drawer::Gone => (self.make)().inspect_err(|_| *drawer = Drawer::Gone)?,
        };
        Ok(Taken { thing: Some(thing), drawer: Arc::clone(&self.drawer) })
    }

    /// Looks at it between two handlers. `None` while one has it.
    pub fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        match &mut *open(&self.drawer) {
            Drawer::There(thing) => Some(look(thing)),
            Drawer::Taken | Drawer::Gone => None,
        }
    }
}

impl<T> fmt::Debug for Keep<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keep").finish_non_exhaustive()
    }
}

/// The thing in the hands of a handler. Dropped, it goes back.
pub struct Taken<T> {
    /// `None` never, before it is dropped.
    thing: Option<T>,
    drawer: Arc<Mutex<Drawer<T>>>,
}

#[expect(clippy::expect_used, reason = "it is there until it is dropped")]
impl<T> Deref for Taken<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("it is there")
    }
}

#[expect(clippy::expect_used, reason = "it is there until it is dropped")]
impl<T> DerefMut for Taken<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("it is there")
    }
}

impl<T> Drop for Taken<T> {
    fn drop(&mut self) {
        let thing = self.thing.take().filter(|_| !thread::panicking());
        *open(&self.drawer) = thing.map_or(Drawer::Gone, Drawer::There);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn numbered() -> Keep<u32> {
        let made = AtomicU32::new(0);
        Keep::new(move || match made.fetch_add(1, Ordering::Relaxed) {
            2 => Err(DeviceError::Invalid("no more".to_owned())),
            number => Ok(number * 100),
        })
        .unwrap()
    }

    #[test]
    fn thing_has_one_user_at_a_time_and_is_the_same_for_the_next() {
        let keep = numbered();
        let mut taken = keep.take().unwrap();
        *taken += 7;
        assert!(keep.take().is_err());
        assert_eq!(keep.with(|thing| *thing), None);
        drop(taken);
        assert_eq!(keep.with(|thing| std::mem::replace(thing, 8)), Some(7));
        assert_eq!(*keep.take().unwrap(), 8);
    }

    #[test]
    fn thing_of_a_user_that_panicked_is_made_anew() {
        let keep = numbered();
        let panic = |taken: Taken<u32>| {
            let user = thread::spawn(move || {
                let _taken = taken;
                panic!("as a handler with a fault");
            });
            user.join().unwrap_err();
        };
        panic(keep.take().unwrap());
        assert_eq!(keep.with(|thing| *thing), None);
        assert_eq!(*keep.take().unwrap(), 100);
        panic(keep.take().unwrap());
        assert!(keep.take().is_err(), "it cannot be made");
        assert_eq!(*keep.take().unwrap(), 300);
    }
}
