//! Frees threads that a front end holds up by a descriptor of its own, where others suffer from it.
//!
//! Theory of operation. A call is written to an eventfd that the front end can fill, and make blocking, between our look
//! and our write ([`Signal`](crate::engines::Signal)). A thread that serves that front end alone is freed by the control
//! thread that waits for it; one that serves others, or holds requests of others, has nobody who would know. So one thread
//! of the process looks a few times a second whether somebody is in a write to a full one, and if so empties it, has it
//! written to no more, and ends the connection that it came by: the next one would be no better, nor one that holds up for
//! shorter and more often. No honest front end lets 2^64 calls wait. The thread is started when there is a use for it, and
//! sleeps for good while there are no descriptors.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, Weak},
    thread,
    time::Duration,
};

use crate::{Notice, engines::Wire};

/// How often it is looked.
const EVERY: Duration = Duration::from_millis(250);

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
static MORE: Condvar = Condvar::new();

struct Watched {
    wire: Weak<Wire>,
    /// Ends the connection.
    held_up: Notice,
}

fn watched() -> MutexGuard<'static, Vec<Watched>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on somebody looks.
pub(crate) fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        if let Err(error) = thread::Builder::new().name("watchdog".to_owned()).spawn(look_for_ever) {
            tracing::warn!("nobody watches whether front ends hold up others: {error}");
        }
    });
}

/// Has this one looked at, too, as long as it is in use. `held_up` is given if somebody had to be freed from it.
pub(crate) fn watch(wire: &Arc<Wire>, held_up: Notice) {
    let mut watched = watched();
    watched.retain(|watched| watched.wire.strong_count() > 0);
    watched.push(Watched { wire: Arc::downgrade(wire), held_up });
    MORE.notify_one();
}

fn look_for_ever() {
    loop {
        let mut found = Vec::new();
        let mut watched = watched();
        while watched.is_empty() {
            watched = MORE.wait(watched).unwrap_or_else(PoisonError::into_inner);
        }
        watched.retain(|watched| {
            let Some(wire) = watched.wire.upgrade() else { return false };
            if wire.holds_up() {
                found.push((wire, watched.held_up.clone()));
            }
            true
        });
        drop(watched);
        for (wire, held_up) in found {
            wire.cut();
            held_up.give();
        }
        thread::sleep(EVERY);
    }
}
