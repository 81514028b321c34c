//! Kicks and calls between two threads that sleep whenever they may: no wake-up is lost, and most are saved.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::{Dice, Rig, Setup, both, serve};
use crate::{Format, Virtqueue};

const REQUESTS: u64 = 60_000;
const HANDSHAKES: u64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(20);

both! { sleepers_are_always_woken sleepers_are_always_woken_with_event_idx one_of_both_sees_the_other kick_is_wanted_once_after_arming
suppressed_kicks_are_not_wanted chains_put_back_are_no_more_than_there_was first_publish_always_signals calls_follow_the_drivers_wish completed_is_what_the_driver_gets_next }

/// An eventfd without the descriptor: a counter to wait for.
#[derive(Default)]
struct Event {
    raised: Mutex<u64>,
    changed: Condvar,
}

impl Event {
    fn raise(&self) {
        *self.raised.lock().unwrap() += 1;
        self.changed.notify_one();
    }

    fn wait(&self, who: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut raised = self.raised.lock().unwrap();
        while *raised == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{who} was never woken");
            raised = self.changed.wait_timeout(raised, left).unwrap().0;
        }
        *raised = 0;
    }
}

fn back_end(mut queue: Virtqueue, kick: &Event, call: &Event, seed: u64) -> u64 {
    let mut dice = Dice::new(seed);
    let (mut done, mut calls) = (0, 0);
    while done < REQUESTS {
        queue.suppress_kicks();
        loop {
            for _ in 0..1 + dice.roll(5) {
                let Some(mut chain) = queue.pop().unwrap() else { break };
                serve(&mut chain);
                queue.complete(chain);
                done += 1;
            }
            if !queue.publish() {
                break;
            }
            if queue.call_needed() {
                calls += 1;
                call.raise();
            }
        }
        if queue.arm_kicks() && done < REQUESTS {
            kick.wait("the device");
        }
    }
    calls
}

fn run(setup: Setup) {
    let mut rig = Rig::new(setup);
    let queue = rig.start();
    let (kick, call) = (Arc::new(Event::default()), Arc::new(Event::default()));
    let device = std::thread::spawn({
        let (kick, call) = (kick.clone(), call.clone());
        move || back_end(queue, &kick, &call, 3)
    });
    let mut dice = Dice::new(7);
    let (mut added, mut returned) = (0, 0);
    while returned < REQUESTS {
        rig.driver.suppress_calls();
        for _ in 0..1 + dice.roll(6) {
            if added < REQUESTS && rig.driver.free() >= 2 {
                rig.add_simple(added);
                added += 1;
            }
        }
        if rig.driver.publish() {
            kick.raise();
        }
        while let Some((token, len)) = rig.driver.poll_used().unwrap() {
            assert_eq!((token, len), (returned, 8));
            returned += 1;
        }
        if (rig.driver.free() < 2 || added == REQUESTS || dice.roll(3) == 0)
            && rig.driver.outstanding() > 0
            && rig.driver.arm_calls()
        {
            call.wait("the driver");
        }
    }
    let calls = device.join().unwrap();
    assert!(calls <= REQUESTS);
}

fn sleepers_are_always_woken(format: Format) {
    run(Setup::new(format, 16));
}

fn sleepers_are_always_woken_with_event_idx(format: Format) {
    run(Setup { event_idx: true, ..Setup::new(format, 16) });
    run(Setup { event_idx: true, ..Setup::new(format, 2) });
}

fn kick_is_wanted_once_after_arming(format: Format) {
    let mut rig = Rig::new(Setup { event_idx: true, ..Setup::new(format, 16) });
    let mut queue = rig.start();
    rig.add_simple(0);
    assert!(rig.driver.publish(), "the first time always");
    assert!(!queue.arm_kicks(), "there is one");
    let chain = queue.pop().unwrap().unwrap();
    queue.complete(chain);
    assert!(queue.arm_kicks());
    rig.add_simple(1);
    assert!(rig.driver.publish());
    rig.add_simple(2);
    assert!(!rig.driver.publish(), "it was kicked for the one before");
}

fn suppressed_kicks_are_not_wanted(format: Format) {
    for event_idx in [false, true] {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::new(format, 16) });
        let mut queue = rig.start();
        rig.add_simple(0);
        rig.driver.publish();
        queue.arm_kicks();
        let chain = queue.pop().unwrap().unwrap();
        queue.complete(chain);
        queue.suppress_kicks();
        rig.add_simple(1);
        rig.driver.publish();
        rig.add_simple(2);
        assert!(!rig.driver.publish());
        assert!(queue.has_available());
    }
}

fn chains_put_back_are_no_more_than_there_was(format: Format) {
    for event_idx in [false, true] {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::new(format, 16) });
        let mut queue = rig.start();
        rig.add_simple(0);
        rig.driver.publish();
        assert!(queue.has_more() && !queue.arm_kicks_for_more());
        let chain = queue.pop().unwrap().unwrap();
        queue.put_back(chain);
        assert!(queue.has_available() && !queue.arm_kicks());
        assert!(!queue.has_more() && queue.arm_kicks_for_more());
        rig.add_simple(1);
        assert!(rig.driver.publish(), "the next one is kicked for");
        assert!(queue.has_more() && !queue.arm_kicks_for_more());
        for token in [0, 1] {
            let mut chain = queue.pop().unwrap().unwrap();
            assert_eq!(serve(&mut chain), token);
            queue.complete(chain);
        }
    }
}

fn first_publish_always_signals(format: Format) {
    let mut rig = Rig::new(Setup::new(format, 16));
    rig.driver.suppress_calls();
    (0..2).for_each(|token| rig.add_simple(token));
    rig.driver.publish();
    let mut queue = rig.start();
    assert!(!queue.call_needed(), "nothing was published");
    for first in [true, false] {
        let chain = queue.pop().unwrap().unwrap();
        queue.complete(chain);
        assert!(queue.publish());
        assert_eq!(queue.call_needed(), first);
        assert!(!queue.call_needed(), "decided already");
    }
    assert!(!queue.publish());
}

fn completed_is_what_the_driver_gets_next(format: Format) {
    for in_order in [false, true] {
        let mut rig = Rig::new(Setup { in_order, ..Setup::new(format, 16) });
        (0..4).for_each(|token| rig.add_simple(token));
        rig.driver.publish();
        let mut queue = rig.start();
        let mut chains: Vec<_> = (0..4).map(|_| queue.pop().unwrap().unwrap()).collect();
        assert_eq!(queue.completed(), 0);
        queue.put_back(chains.pop().unwrap());
        queue.complete(chains.pop().unwrap());
        assert_eq!(queue.completed(), u64::from(!in_order), "in order, it waits for those before it");
        for completed in if in_order { [1, 3] } else { [2, 3] } {
            queue.complete(chains.remove(0));
            assert_eq!(queue.completed(), completed);
        }
        queue.pop().unwrap().unwrap().abandon();
    }
}

fn calls_follow_the_drivers_wish(format: Format) {
    for event_idx in [false, true] {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::new(format, 16) });
        let mut queue = rig.start();
        let mut round = |arm: bool| {
            rig.driver.suppress_calls();
            if arm {
                assert!(rig.driver.arm_calls());
            }
            rig.add_simple(0);
            rig.driver.publish();
            let chain = queue.pop().unwrap().unwrap();
            queue.complete(chain);
            queue.publish();
            assert!(rig.driver.poll_used().unwrap().is_some());
            queue.call_needed()
        };
        assert!(round(true), "the first time always");
        for arm in [true, false, false, true, true, false, true] {
            assert_eq!(round(arm), arm, "event_idx {event_idx}");
        }
    }
}

/// Where two threads wait for each other, so closely that their next steps overlap.
#[derive(Default)]
struct Gate(AtomicU32);

impl Gate {
    fn pass(&self, turn: &mut u32) {
        *turn += 2;
        self.0.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0_u32;
        while self.0.load(Ordering::SeqCst) < *turn {
            spins += 1;
            if spins.is_multiple_of(256) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// One side publishes while the other arms and looks: either the first wants to signal, or the second sees it. That
/// needs the full fences on both sides: with any one of them weakened, 12 to 1600 of 40000 rounds failed on x86.
fn one_of_both_sees_the_other(format: Format) {
    for event_idx in [false, true] {
        let mut rig = Rig::new(Setup { event_idx, ..Setup::new(format, 4) });
        let mut queue = rig.start();
        let gate = Gate::default();
        let (device_sleeps, called) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut turn = 0;
                for _ in 0..HANDSHAKES {
                    queue.suppress_kicks();
                    gate.pass(&mut turn);
                    device_sleeps.store(queue.arm_kicks(), Ordering::SeqCst);
                    gate.pass(&mut turn);
                    let mut chain = queue.pop().unwrap().unwrap();
                    serve(&mut chain);
                    queue.complete(chain);
                    gate.pass(&mut turn);
                    queue.publish();
                    called.store(queue.call_needed(), Ordering::SeqCst);
                    gate.pass(&mut turn);
                }
            });
            let mut turn = 0;
            let mut lost = 0;
            for round in 0..HANDSHAKES {
                rig.driver.suppress_calls();
                rig.add_simple(round);
                gate.pass(&mut turn);
                let kicked = rig.driver.publish();
                gate.pass(&mut turn);
                lost += u32::from(device_sleeps.load(Ordering::SeqCst) && !kicked);
                gate.pass(&mut turn);
                let driver_sleeps = rig.driver.arm_calls();
                gate.pass(&mut turn);
                lost += u32::from(driver_sleeps && !called.load(Ordering::SeqCst));
                assert_eq!(rig.driver.poll_used().unwrap(), Some((round, 8)));
            }
            assert_eq!(lost, 0, "wake-ups lost, event_idx {event_idx}");
        });
    }
}
