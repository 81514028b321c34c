//! Frees threads that a front end holds up by a descriptor of its own, where others suffer from it.
//!
//! Theory of operation. A call is written to an eventfd that the front end can fill, and make blocking, between our look
//! and our write ([`Signal`](crate::engines::Signal)). A thread that serves that front end alone is freed by the control
//! thread that waits for it; one that serves others, or holds requests of others, has nobody who would know. So one thread
//! of the process looks a few times a second whether somebody has been in the same write since its last look, and if so
//! empties the descriptor and has it written to no more. It is started when there is a use for it, and sleeps for good
//! while there are no descriptors.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, Weak},
    thread,
    time::Duration,
};

use crate::engines::Wire;

/// How long a write may take, at least and at most twice that.
const PATIENCE: Duration = Duration::from_millis(250);

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());
static MORE: Condvar = Condvar::new();

struct Watched {
    wire: Weak<Wire>,
    /// The write that was under way at the last look.
    seen: Option<u32>,
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

/// Has this one looked at, too, as long as it is in use.
pub(crate) fn watch(wire: &Arc<Wire>) {
    let mut watched = watched();
    watched.retain(|watched| watched.wire.strong_count() > 0);
    watched.push(Watched { wire: Arc::downgrade(wire), seen: None });
    MORE.notify_one();
}

fn look_for_ever() {
    loop {
        let mut held_up = Vec::new();
        let mut watched = watched();
        while watched.is_empty() {
            watched = MORE.wait(watched).unwrap_or_else(PoisonError::into_inner);
        }
        watched.retain_mut(|watched| {
            let Some(wire) = watched.wire.upgrade() else { return false };
            let under_way = wire.write_under_way();
            if under_way.is_some() && under_way == watched.seen {
                held_up.push(wire);
            }
            watched.seen = under_way;
            true
        });
        drop(watched);
        for wire in held_up {
            tracing::warn!(
                "a front end holds up a thread by a call that it does not take: it gets no more of them"
            );
            wire.cut();
        }
        thread::sleep(PATIENCE);
    }
}
