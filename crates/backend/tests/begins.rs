//! Drivers that begin, and drivers that go on (docs/decisions/008).
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use outboard_backend::Backend;
use outboard_device::{Device, DeviceError, Features, Group, Profile};
use outboard_frontend::{Format, Frontend, Queue, Waiting, Wishes};
use outboard_guest_memory::Segment;
use outboard_vhost_user::Request;
use rig::{LONG, Script, Scripted, Server, engines};

/// Counts what it hears of.
struct Forgetful {
    device: Scripted,
    forgot: Arc<AtomicU32>,
    ends: Arc<AtomicU32>,
}

impl Forgetful {
    fn new() -> (Self, Arc<AtomicU32>, Arc<AtomicU32>) {
        let ends = Arc::new(AtomicU32::new(0));
        let forgot = Arc::new(AtomicU32::new(0));
        let device = Scripted::new(2, |_, _| Script::new(|chain, cx| cx.done(chain)));
        (Self { device, forgot: Arc::clone(&forgot), ends: Arc::clone(&ends) }, forgot, ends)
    }
}

impl Device for Forgetful {
    type Handler = Script;

    fn profile(&self) -> &Profile {
        self.device.profile()
    }

    fn forget(&mut self, group: Group) {
        assert_eq!(group, Group(0));
        self.forgot.fetch_add(1, Ordering::SeqCst);
    }

    fn handler(&mut self, group: Group, agreed: Features) -> Result<Script, DeviceError> {
        assert!(self.forgot.load(Ordering::SeqCst) > 0, "a handler before the driver was known to begin");
        self.device.handler(group, agreed)
    }

    fn disconnected(&mut self) {
        self.ends.fetch_add(1, Ordering::SeqCst);
    }
}

fn request(frontend: &mut Frontend, queue: &mut Queue) {
    let buffer = frontend.allocate(16).unwrap();
    queue.add::<&Segment, _>(&[], &[&buffer], 0).unwrap();
    queue.publish().unwrap();
    assert!(queue.wait(Waiting::Interrupt, LONG).unwrap());
    queue.poll().unwrap().unwrap();
}

#[test]
fn driver_that_goes_on_is_not_announced_even_if_its_first_queue_is_untouched() {
    for options in engines() {
        for format in [Format::Split, Format::Packed] {
            let (device, forgot, ends) = Forgetful::new();
            let (server, mut frontend) =
                Server::with_frontend(Backend::new(device, options.clone()).unwrap());
            frontend.agree(&Wishes { format, ..Wishes::default() }).unwrap();
            let mut queues = [frontend.start(0, 16).unwrap(), frontend.start(1, 16).unwrap()];
            assert_eq!(forgot.load(Ordering::SeqCst), 1);
            for _ in 0..3 {
                request(&mut frontend, &mut queues[1]);
                let bases = queues.each_mut().map(|queue| frontend.stop(queue).unwrap());
                // All positions before the first ring is enabled, as most front ends do it.
                frontend.ask(Request::SetVringBase { index: 1, num: bases[1].0 }).unwrap();
                for (queue, base) in queues.iter_mut().zip(bases) {
                    frontend.resume(queue, base).unwrap();
                }
            }
            assert_eq!(forgot.load(Ordering::SeqCst), 1);
            drop((queues, frontend));
            server.end().1.unwrap();
            assert_eq!(ends.load(Ordering::SeqCst), 1);
        }
    }
}

#[test]
fn driver_that_begins_anew_is_announced_after_a_stop_and_after_a_reset() {
    for options in engines() {
        for format in [Format::Split, Format::Packed] {
            let (device, forgot, ends) = Forgetful::new();
            let (server, mut frontend) =
                Server::with_frontend(Backend::new(device, options.clone()).unwrap());
            frontend.agree(&Wishes { format, ..Wishes::default() }).unwrap();
            for round in 1..=3 {
                let mut queues = [frontend.start(0, 16).unwrap(), frontend.start(1, 16).unwrap()];
                request(&mut frontend, &mut queues[1]);
                assert_eq!(forgot.load(Ordering::SeqCst), round);
                if round == 1 {
                    queues.into_iter().for_each(|mut queue| {
                        frontend.stop(&mut queue).unwrap();
                        frontend.release(queue);
                    });
                } else {
                    frontend.reset(queues).unwrap();
                    frontend.agree(&Wishes { format, ..Wishes::default() }).unwrap();
                }
            }
            assert_eq!(ends.load(Ordering::SeqCst), 0);
            drop(frontend);
            server.end().1.unwrap();
        }
    }
}
