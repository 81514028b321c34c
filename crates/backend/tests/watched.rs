//! Descriptors that a handler watches.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use outboard_backend::{Backend, Options, Polling};
use outboard_device::SourceId;
use outboard_frontend::Wishes;
use rig::{Script, Scripted, Server, engines, eventually};
use rustix::event::{EventfdFlags, eventfd};

const SOURCE: SourceId = SourceId(3);

#[test]
fn descriptor_rearmed_when_there_is_nothing_to_do_is_reported_again_however_the_worker_waits() {
    for options in engines() {
        for polling in [Polling::Off, Polling::default(), Polling::Always] {
            let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
            let heard = Arc::new(AtomicU64::new(0));
            let (watched, hears) = (Arc::clone(&event), Arc::clone(&heard));
            let device = Scripted::new(1, move |_, _| {
                let (watched, read, hears) = (Arc::clone(&watched), Arc::clone(&watched), Arc::clone(&hears));
                let mut script = Script::new(|chain, cx| cx.done(chain));
                script.start = Box::new(move |cx| cx.watch_once(watched.as_fd(), SOURCE).unwrap());
                script.event = Box::new(move |source, _| {
                    assert_eq!(source, SOURCE);
                    let mut count = [0; 8];
                    if rustix::io::read(&*read, &mut count).is_ok() {
                        hears.fetch_add(u64::from_ne_bytes(count), Ordering::SeqCst);
                    }
                });
                script.rest = Box::new(|cx| {
                    cx.rearm(SOURCE);
                    true
                });
                script
            });
            let backend = Backend::new(device, Options { polling, ..options.clone() }).unwrap();
            let (server, mut frontend) = Server::with_frontend(backend);
            frontend.agree(&Wishes::default()).unwrap();
            let queue = frontend.start(0, 16).unwrap();
            for count in 1..=20 {
                rustix::io::write(&*event, &1_u64.to_ne_bytes()).unwrap();
                eventually("it is heard of", || heard.load(Ordering::SeqCst) == count);
            }
            drop((queue, frontend));
            server.end().1.unwrap();
        }
    }
}
