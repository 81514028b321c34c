//! Descriptors that a handler watches.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test of its own")]

mod rig;

use std::{
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use outboard_backend::{Backend, Options, Polling};
use outboard_device::{Flow, SourceId};
use outboard_frontend::Wishes;
use outboard_guest_memory::Segment;
use rig::{LONG, Script, Scripted, Server, engines, eventually};
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

/// Whether a thread of this process sleeps.
fn is_asleep(name: &str) -> bool {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let stat = threads.map(|thread| thread.unwrap().path()).find_map(|thread| {
        // It may have ended meanwhile.
        let comm = std::fs::read_to_string(thread.join("comm")).ok()?;
        (comm.trim() == name).then(|| std::fs::read_to_string(thread.join("stat")).ok())?
    });
    stat.unwrap().rsplit_once(')').unwrap().1.trim_start().starts_with('S')
}

#[test]
fn worker_that_waits_for_its_last_request_sleeps_whatever_is_readable() {
    for options in engines() {
        let event = Arc::new(eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap());
        let (give, tickets) = mpsc::channel();
        let device = Scripted::new(1, move |_, _| {
            let (give, watched) = (give.clone(), Arc::clone(&event));
            let mut script = Script::new(move |chain, cx| {
                give.send(cx.defer(chain, ())).unwrap();
                Flow::Next
            });
            script.start = Box::new(move |cx| cx.watch(watched.as_fd(), SOURCE).unwrap());
            script
        });
        let options = Options { name: Some("deaf".to_owned()), ..options };
        let (server, mut frontend) = Server::with_frontend(Backend::new(device, options).unwrap());
        frontend.agree(&Wishes::default()).unwrap();
        let mut queue = frontend.start(0, 16).unwrap();
        let buffer = frontend.allocate(16).unwrap();
        queue.add::<&Segment, _>(&[], &[&buffer], 0).unwrap();
        queue.publish().unwrap();
        let ticket = tickets.recv_timeout(LONG).unwrap();
        drop((queue, frontend));
        eventually("the worker sleeps", || {
            (0..20).all(|_| {
                thread::sleep(Duration::from_millis(5));
                is_asleep("deaf-0")
            })
        });
        ticket.finish(Ok(0));
        server.end().1.unwrap();
    }
}
